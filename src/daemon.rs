//! The daemon: everything opened, the tasks started, and an orderly end.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listeners::{BootConfigs, boot_configs, hooks, metrics};
use crate::log::{Log, events};
use crate::publisher::{Activity, Listeners, Publisher, Workshop, recovery};
use crate::settings::{self, Settings};
use crate::spool::{Spool, Watch};
use crate::sys::{Progress, systemd};
use crate::tree::Staging;

/// Work that runs side by side, and a few more.
const MAX_THREADS: usize = 8;

/// Runs the daemon until SIGTERM or SIGINT; with `once` until the spool is drained. On SIGHUP it
/// takes up what `reread` returns.
///
/// # Errors
/// What keeps it from going on.
pub(crate) fn run(
    settings: Settings,
    once: bool,
    log: &Log,
    reread: impl Fn() -> anyhow::Result<Settings>,
) -> anyhow::Result<()> {
    // What is published has the modes that it is made with, whatever the caller's mask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_THREADS)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("handling SIGHUP")?;
        let shutdown = CancellationToken::new();
        let (change, changes) = watch::channel(Arc::new(settings));
        let (is_ready, mut ready) = oneshot::channel();
        let publish = publish(changes, once, is_ready, shutdown.clone());
        let mut publishing = tokio::spawn(publish);
        let mut has_started = false;
        let signal = loop {
            tokio::select! {
                biased;
                ended = &mut publishing => return ended.context("the publisher broke off")?,
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                Ok(()) = &mut ready, if !has_started => has_started = true,
                // One that comes earlier counts as soon as the daemon is ready.
                Some(()) = hangup.recv(), if has_started => reload(&change, log, &reread),
            }
        };
        tracing::info!(message_id = events::STOPPING, "stopping on {signal}");
        systemd::stopping();
        shutdown.cancel();
        publishing.await.context("the publisher broke off")?
    })
}

/// Reads the configuration again. A bad one changes nothing.
fn reload(
    change: &watch::Sender<Arc<Settings>>,
    log: &Log,
    reread: impl Fn() -> anyhow::Result<Settings>,
) {
    systemd::reloading();
    match reread() {
        Ok(settings) => {
            let (settings, later) = settings.beside(&change.borrow());
            log.set_level(settings.log.level);
            for key in later {
                tracing::warn!("`{key}` takes effect after a restart");
            }
            // The publisher may be about to end: it needs no settings any more.
            let _ = change.send(Arc::new(settings));
            tracing::info!(message_id = events::RELOADED, "configuration read again");
        }
        Err(error) => {
            let message_id = events::RELOAD_REFUSED;
            tracing::error!(message_id, "the old configuration stays: {error:#}");
        }
    }
    systemd::ready();
}

async fn publish(
    changes: watch::Receiver<Arc<Settings>>,
    once: bool,
    is_ready: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Arc::clone(&changes.borrow());
    let mut listeners = Listeners::default();
    let (of_metrics, of_hooks, of_rendering) = (listeners.add(), listeners.add(), listeners.add());
    let (show, activity) = watch::channel(Activity::default());
    let progress = Arc::new(Progress::default());

    let (opening, of_publisher) = (Arc::clone(&settings), changes.clone());
    let of_work = Arc::clone(&progress);
    let recover = move || -> anyhow::Result<(Publisher, BootConfigs)> {
        let Settings {
            spool,
            tree,
            limits,
            tftp,
            boot_configs,
            ..
        } = Settings::clone(&opening);
        let opened = Spool::open(&spool).context("opening the spool")?;
        let (staging, pointers) = Staging::open(&tree).context("opening the tree")?;
        let watch = match spool.watch {
            settings::Watch::Auto if !once => Watch::new(opened.incoming()),
            // Once, nobody waits for what comes later.
            settings::Watch::Auto | settings::Watch::Poll => Watch::blind(),
        };
        let boot_configs = BootConfigs::new(Arc::clone(&staging), tftp.root, boot_configs);
        let recovered = recovery::recover(&opened, pointers, &opening, once)?;
        let shop = Arc::new(Workshop {
            spool: Arc::new(opened),
            staging,
            limits,
            progress: of_work,
        });
        let publisher = Publisher::new(shop, recovered, watch, listeners, of_publisher, show, once);
        Ok((publisher, boot_configs))
    };
    let (publisher, boot_configs) = systemd::starting(tokio::task::spawn_blocking(recover))
        .await
        .context("recovery broke off")??;
    let (spool, tree) = (settings.spool.path.display(), settings.tree.path.display());
    tracing::info!(message_id = events::READY, %spool, %tree, "ready");
    systemd::ready();
    // Nobody waits for it where the daemon is ending already.
    let _ = is_ready.send(());

    let status = tokio::spawn(systemd::tell_status(activity.clone(), progress));
    let mut others = JoinSet::new();
    others.spawn(boot_configs::run(
        boot_configs,
        of_rendering,
        changes.clone(),
    ));
    others.spawn(metrics::run(of_metrics, activity, changes.clone()));
    let tree = settings.tree.path.clone();
    others.spawn(hooks::run(changes, tree, of_hooks, shutdown.clone()));
    tokio::select! {
        ended = publisher.run(shutdown) => ended?,
        Some(ended) = others.join_next() => {
            ended.context("a task broke off")??;
            anyhow::bail!("a task ended before the publisher");
        }
    }
    // With the publisher go the news, and what it shows: the others do what is left to do, and end.
    status.abort();
    while let Some(ended) = others.join_next().await {
        let result = ended.context("a task broke off")?;
        // A daemon tries again after its next start; this one may have none.
        if once {
            result?;
        }
    }
    Ok(())
}
