//! What systemd is told of the daemon: `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` nobody is told anything. That nobody listens is no trouble of the
//! daemon's.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

pub(crate) fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("telling systemd: {error}");
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

    /// Feeds it if it is time to. Returns when it is to be fed next.
    pub(crate) fn feed(&mut self) -> Instant {
        let now = Instant::now();
        if self.next <= now {
            tell_systemd(&[NotifyState::Watchdog]);
            self.next = now + self.interval;
        }
        self.next
    }
}
