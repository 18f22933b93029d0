//! The clock of the boot: nobody sets it, and it goes on while the machine sleeps.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time of one boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootTime {
    /// The kernel's id of the boot (random(4)); empty where it can't be read, and then of no boot that
    /// is known.
    pub boot: String,
    /// By `CLOCK_BOOTTIME` (`clock_gettime(2)`), to the microsecond.
    pub since: Duration,
}

impl BootTime {
    pub(crate) fn now() -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = BOOT.get_or_init(|| read().unwrap_or_default().trim().to_string());
        let time = clock_gettime(ClockId::Boottime);
        let since = Duration::try_from(time).unwrap_or_default();
        Self {
            boot: boot.clone(),
            since: Duration::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_the_boot_goes_on_and_knows_its_boot() {
        let (one, two) = (BootTime::now(), BootTime::now());
        assert!(one.since > Duration::ZERO && one.since <= two.since);
        assert_eq!(one.boot, two.boot);
        assert_eq!(one.boot.len(), 36, "{one:?}");
    }
}
