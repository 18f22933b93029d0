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
        sd_notify::watchdog_enabled().map(Self::within)
    }

    /// A watchdog that is to be fed within `limit`: it is fed twice as often (`sd_watchdog_enabled(3)`).
    fn within(limit: Duration) -> Self {
        Self {
            interval: (limit / 2).max(Duration::from_millis(1)),
            next: Instant::now(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_at_once_and_then_twice_as_often_as_it_has_to_be() {
        let limit = Duration::from_secs(3_600);
        let mut watchdog = Watchdog::within(limit);
        let before = Instant::now();
        let next = watchdog.feed();
        assert!(next >= before + limit / 2 && next <= Instant::now() + limit / 2);
        assert_eq!(watchdog.feed(), next, "it is fed already");
        assert!(Watchdog::within(Duration::ZERO).interval > Duration::ZERO);
    }
}
