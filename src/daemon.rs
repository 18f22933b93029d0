//! The daemon: everything opened, the tasks started, and an orderly end.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::boot_config::BootConfigs;
use crate::crew::Progress;
use crate::hooks;
use crate::news::Listeners;
use crate::publisher::Publisher;
use crate::rendering;
use crate::settings::{self, Settings};
use crate::spool::Spool;
use crate::staging::Staging;
use crate::watch::Watch;
use crate::workshop::Workshop;

/// Work that runs side by side, and a few more.
const MAX_THREADS: usize = 12;

/// Runs the daemon until SIGTERM or SIGINT; with `once` until the spool is drained.
///
/// # Errors
/// What keeps it from going on.
pub fn run(settings: &Settings, once: bool) -> anyhow::Result<()> {
    // What is published has the modes that it is made with, whatever the caller's mask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_THREADS)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let publishing = tokio::spawn(publish(settings.clone(), once, shutdown.clone()));
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let mut publishing = publishing;
        let signal = tokio::select! {
            ended = &mut publishing => return ended.context("the publisher broke off")?,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("stopping on {signal}");
        shutdown.cancel();
        publishing.await.context("the publisher broke off")?
    })
}

async fn publish(
    settings: Settings,
    once: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Settings {
        spool,
        tree,
        limits,
        retention,
        swap,
        tftp,
        boot_configs,
        hooks,
        ..
    } = settings;
    let mut listeners = Listeners::default();
    let (_hooks, hooks) = watch::channel(hooks);
    let hooks = hooks::run(hooks, tree.path.clone(), listeners.add(), shutdown.clone());
    let changes = listeners.add();
    let retry_interval = spool.rescan_interval;
    let (watching, spool_path, tree_path) = (spool.watch, spool.path.clone(), tree.path.clone());
    let recover = move || -> anyhow::Result<(Publisher, BootConfigs)> {
        let opened = Spool::open(&spool).context("opening the spool")?;
        let (staging, pointers) = Staging::open(&tree).context("opening the tree")?;
        let watch = match watching {
            // Nobody waits for what comes later.
            _ if once => Watch::blind(opened.incoming()),
            settings::Watch::Poll => Watch::blind(opened.incoming()),
            settings::Watch::Auto => Watch::new(opened.incoming()).unwrap_or_else(|error| {
                tracing::warn!("watching the spool: {error}, going on with rescans only");
                Watch::blind(opened.incoming())
            }),
        };
        let boot_configs = BootConfigs::new(Arc::clone(&staging), tftp.root, boot_configs);
        let shop = Workshop {
            spool: Arc::new(opened),
            staging,
            limits,
            progress: Progress::default(),
        };
        let shop = Arc::new(shop);
        let publisher =
            Publisher::recover(shop, pointers, watch, listeners, spool, retention, swap)?;
        Ok((publisher, boot_configs))
    };
    let (publisher, boot_configs) = tokio::task::spawn_blocking(recover)
        .await
        .context("recovery broke off")??;
    tracing::info!(spool = ?spool_path, tree = ?tree_path, "ready");
    let hooks = tokio::spawn(hooks);
    let mut rendering = tokio::spawn(rendering::run(boot_configs, changes, retry_interval));
    tokio::select! {
        ended = publisher.run(shutdown, once) => ended?,
        ended = &mut rendering => {
            ended.context("the rendering broke off")??;
            anyhow::bail!("the rendering ended before the publisher");
        }
    }
    // With the publisher go the news: it renders the last state, and ends.
    let is_whole = rendering.await.context("the rendering broke off")??;
    // A daemon tries again after its next start; this one may have none.
    anyhow::ensure!(
        is_whole || !once,
        "not all boot configurations could be rendered"
    );
    hooks.await.context("the hooks broke off")
}
