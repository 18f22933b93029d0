//! What systemd is told of the daemon: `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` nobody is told anything. That nobody listens is no trouble of the
//! daemon's.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Tells systemd the state of this process.
pub(crate) fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("telling systemd: {error}");
    }
}

/// Feeds systemd's watchdog. The publisher's task owns it, so that a task that hangs feeds nothing.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Duration,
    next: Instant,
}

impl Watchdog {
    /// The watchdog that systemd has set up for this process, if any (`WATCHDOG_USEC`).
    pub(crate) fn of_this_process() -> Option<Self> {
        let limit = sd_notify::watchdog_enabled()?;
        Some(Self {
            interval: (limit / 2).max(Duration::from_millis(1)),
            next: Instant::now(),
        })
    }

    /// Feeds the watchdog if it is time to. Returns when to do so next.
    pub(crate) fn feed(&mut self) -> Instant {
        let now = Instant::now();
        if self.next <= now {
            tell_systemd(&[NotifyState::Watchdog]);
            self.next = now + self.interval;
        }
        self.next
    }
}
