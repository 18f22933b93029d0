//! What systemd is told of the daemon: `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` nobody is told anything. That nobody listens is no trouble of the
//! daemon's.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Instant;

use super::parallel::Progress;
use crate::publisher::Activity;

/// A status changes no more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// So much more time is asked for while the start takes long, so often, and so many times: one that
/// takes longer hangs.
const MORE_TIME: u32 = 60_000_000;
const ASK_INTERVAL: Duration = Duration::from_secs(20);
const MAX_ASKS: usize = 360;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("telling systemd: {error}");
    }
}

/// Waits for the start, which may take longer than systemd thinks.
pub(crate) async fn starting<T>(start: impl Future<Output = T>) -> T {
    let mut start = std::pin::pin!(start);
    let mut ask = tokio::time::interval(ASK_INTERVAL);
    let mut asked = 0;
    loop {
        tokio::select! {
            biased;
            started = &mut start => return started,
            _ = ask.tick(), if asked < MAX_ASKS => {
                asked += 1;
                let status = NotifyState::Status("looking at the tree and the spool");
                tell(&[status, NotifyState::ExtendTimeoutUsec(MORE_TIME)]);
            }
        }
    }
}

/// The spool is watched, and what was left behind is taken up.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub(crate) fn reloading() {
    let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
    tell(&[NotifyState::Reloading, now]);
}

pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Tells what the publisher is doing, until it ends.
pub(crate) async fn tell_status(mut activity: watch::Receiver<Activity>, progress: Arc<Progress>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut said = String::new();
    loop {
        let now = activity.borrow_and_update().clone();
        let status = now.describe(&progress);
        let is_new = status != said;
        if is_new {
            tell(&[NotifyState::Status(&status)]);
            said = status;
        }
        // Nothing but a copy goes on without the publisher's doing anything.
        let goes_on = !now.large.is_empty();
        if is_new || goes_on {
            tokio::time::sleep(STATUS_INTERVAL).await;
        }
        let has_ended = if goes_on {
            activity.has_changed().is_err()
        } else {
            activity.changed().await.is_err()
        };
        if has_ended {
            return;
        }
    }
}

/// Feeds systemd's watchdog. It belongs to the publisher's task: one that hangs doesn't feed it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Duration,
    next: Instant,
}

impl Watchdog {
    /// The one that systemd has set up for this process, if any (`WATCHDOG_USEC`).
    pub(crate) fn of_this_process() -> Option<Self> {
        let limit = sd_notify::watchdog_enabled()?;
        Some(Self {
            interval: (limit / 2).max(Duration::from_millis(1)),
            next: Instant::now(),
        })
    }

    /// Feeds it if it is time to.
    pub(crate) fn feed(&mut self) {
        let now = Instant::now();
        if self.next <= now {
            tell(&[NotifyState::Watchdog]);
            self.next = now + self.interval;
        }
    }

    /// When it is to be fed next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }
}
