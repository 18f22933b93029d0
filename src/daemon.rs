//! The daemon: everything opened, the tasks started, and an orderly end. Uses every room but
//! `commands`; start with [`run`].

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listeners::{BootConfigs, Listeners};
use crate::log::{Log, MessageId};
use crate::publisher::{Publisher, Report};
use crate::settings::Settings;
use crate::spool::Spool;
use crate::sys::{Progress, tell_systemd};
use crate::tree::Pointers;
use crate::trust::oddities;

/// Threads for blocking work, made as they are needed: one for each lane of the publisher's, and ten
/// for looks, steps, what is removed, and listeners.
const MAX_THREADS: usize = 32;

/// While the start takes long, systemd is asked for so much more time, in microseconds, so often,
/// and so many times: a start that takes longer hangs.
const MORE_TIME: u32 = 60_000_000;
const ASK_INTERVAL: Duration = Duration::from_secs(20);
const MAX_ASKS: usize = 360;

/// So long the start waits for what is said of the importer rules: before "ready", where all is well.
const MAX_WAIT_FOR_USERS: Duration = Duration::from_secs(1);

/// Reads the configuration again, and tries what it says. Blocks.
pub(crate) type Reread = Arc<dyn Fn() -> anyhow::Result<Settings> + Send + Sync>;

/// Runs the daemon until SIGTERM or SIGINT; with `once` until the spool is drained. On SIGHUP it
/// takes up what `reread` returns.
///
/// # Errors
/// When something keeps the daemon from going on.
pub(crate) fn run(
    settings: Settings,
    once: bool,
    log: &Log,
    reread: &Reread,
) -> anyhow::Result<()> {
    // Published files keep the modes that they are made with, whatever the caller's mask.
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
        // The kernel sends it when somebody opens a file that a read lease is held on: it ends a
        // process that doesn't handle it.
        let _lease_is_broken = signal(SignalKind::io()).context("handling SIGIO")?;
        let shutdown = CancellationToken::new();
        let (change, changes) = watch::channel(Arc::new(settings));
        let (count, reloads) = watch::channel((0, 0));
        let (is_ready, mut ready) = oneshot::channel();
        let publish = publish(changes, reloads, once, is_ready, shutdown.clone());
        let mut publishing = tokio::spawn(publish);
        let mut has_started = false;
        let mut reading = JoinSet::new();
        let signal = loop {
            tokio::select! {
                biased;
                ended = &mut publishing => return ended.context("the publisher broke off")?,
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                Ok(()) = &mut ready, if !has_started => has_started = true,
                // A signal that comes earlier counts as soon as the daemon is ready.
                Some(()) = hangup.recv(), if has_started && reading.is_empty() => {
                    // systemd wants the time of the reload's begin; READY=1 ends it (sd_notify(3)),
                    // and comes when the new settings are in force.
                    let now = NotifyState::monotonic_usec_now();
                    let now = now.unwrap_or(NotifyState::MonotonicUsec(0));
                    tell_systemd(&[NotifyState::Reloading, now]);
                    let reread = Arc::clone(reread);
                    reading.spawn_blocking(move || reread());
                }
                Some(read) = reading.join_next() => {
                    let is_good = reload(&change, log, read.context("a reload broke off")?);
                    count.send_modify(|(good, refused)| *if is_good { good } else { refused } += 1);
                }
            }
        };
        tracing::info!(message_id = %MessageId::Stopping, "stopping on {signal}");
        tell_systemd(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        shutdown.cancel();
        publishing.await.context("the publisher broke off")?
    })
}

/// Lets the configuration that was read again take effect. A bad one changes nothing. Returns
/// whether it is good.
fn reload(
    change: &watch::Sender<Arc<Settings>>,
    log: &Log,
    read: anyhow::Result<Settings>,
) -> bool {
    let settings = match read {
        Ok(settings) => settings,
        Err(error) => {
            let message_id = MessageId::ReloadRefused;
            tracing::error!(
                %message_id, "reload refused, keeping the old configuration: {error:#}"
            );
            tell_systemd(&[NotifyState::Ready]);
            return false;
        }
    };
    let (settings, later) = settings.beside(&change.borrow());
    log.set_level(settings.log.level);
    for key in later {
        tracing::warn!("`{key}` takes effect after a restart of the daemon; the old value stays");
    }
    // The publisher tells systemd when it judges by them. One that is about to end needs no settings
    // any more.
    let settings = Arc::new(settings);
    let _ = change.send(Arc::clone(&settings));
    tracing::info!(message_id = %MessageId::Reloaded, "configuration read again");
    drop(warn_of_rules(settings));
    true
}

/// Logs what is odd about the importer rules. The user database, which is asked, may never answer: a
/// thread of its own waits for that. The end of the channel is that of the thread.
fn warn_of_rules(settings: Arc<Settings>) -> mpsc::Receiver<()> {
    let (ends, ended) = mpsc::channel();
    let _ = thread::Builder::new().spawn(move || {
        for oddity in oddities(&settings.importers) {
            tracing::warn!("importer {oddity}");
        }
        drop(ends);
    });
    ended
}

/// Opens what there is to open, and runs the publisher and its listeners until the publisher ends.
/// `reloads` counts those that were good, and those that were refused.
async fn publish(
    changes: watch::Receiver<Arc<Settings>>,
    reloads: watch::Receiver<(u64, u64)>,
    once: bool,
    is_ready: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Arc::clone(&changes.borrow());
    let mut report = Report::default();
    // From here on it counts, also while the daemon starts.
    report.look_at_clock();
    let listeners = Listeners::of(&mut report);
    let progress = Arc::new(Progress::default());
    let (of_publisher, of_work) = (changes.clone(), Arc::clone(&progress));
    let start = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let settings = Arc::clone(&of_publisher.borrow());
        let spool = Spool::open(&settings.spool.path).context("opening the spool")?;
        let pointers = Pointers::open(&settings).context("opening the tree")?;
        // Before the start takes up what a crash left: whoever asks meanwhile waits for the answer.
        let socket = spool.listen().inspect_err(|failure| {
            tracing::warn!("{failure}, going on without: commands can't say why drops wait");
        });
        let boot_configs = BootConfigs::new(Arc::clone(pointers.staging()), &settings);
        let publisher = Publisher::new(spool, pointers, report, of_work, of_publisher, once)?;
        let _ = warn_of_rules(settings).recv_timeout(MAX_WAIT_FOR_USERS);
        Ok((publisher, boot_configs, socket.ok()))
    });
    let (publisher, boot_configs, socket) =
        starting(start).await.context("recovery broke off")??;
    let (spool, tree) = (settings.spool.path.display(), settings.tree.path.display());
    tracing::info!(message_id = %MessageId::Ready, %spool, %tree, "ready");
    if let Some(note) = settings.importers.note() {
        tracing::info!("{note}");
    }
    tell_systemd(&[NotifyState::Ready]);
    // A daemon that is ending already does not wait for this.
    let _ = is_ready.send(());

    let work = Arc::clone(&progress);
    let (changes, stop) = ((changes, reloads), shutdown.clone());
    let (mut others, status) = listeners.start(boot_configs, socket, changes, progress, stop);
    tokio::select! {
        // The process waits for work that is still under way: after an error none of it is of use.
        ended = publisher.run(shutdown) => ended.inspect_err(|_| work.request_stop())?,
        Some(ended) = others.join_next() => {
            ended.context("a task broke off")??;
            anyhow::bail!("a task ended before the publisher");
        }
    }
    // The publisher's news end with it: the listeners do what is left to do, and end.
    status.abort();
    while let Some(ended) = others.join_next().await {
        let result = ended.context("a task broke off")?;
        // A daemon tries again after its next start; `once` may be the only run.
        if once {
            result?;
        }
    }
    Ok(())
}

/// Waits for the start, and asks systemd for more time while it takes long.
async fn starting<T>(start: impl Future<Output = T>) -> T {
    let ask = async {
        for _ in 0..MAX_ASKS {
            let status = NotifyState::Status("looking at the tree and the spool");
            tell_systemd(&[status, NotifyState::ExtendTimeoutUsec(MORE_TIME)]);
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        started = start => started,
        never = ask => never,
    }
}
