//! Points in time: as outcomes and records write them, and as a generation's name does.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A point in UTC, to the microsecond; written as RFC 3339 (`2026-11-22T16:15:00.250000Z`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, DeserializeFromStr, SerializeDisplay,
)]
pub struct Moment(SystemTime);

impl Moment {
    /// The clock that gives inodes their times may be so far behind (the kernel's `jiffies`, at 100 Hz).
    pub(crate) const TICK: Duration = Duration::from_millis(10);

    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }

    /// From a file's time stamp: seconds and nanoseconds since 1970. One from before 1970 counts as
    /// 1970.
    pub(crate) fn from_stat(seconds: i64, nanoseconds: u32) -> Self {
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
        (UNIX_EPOCH + since).into()
    }

    /// The form in a generation's name: `20261122T161500Z`.
    pub(crate) fn compact(&self) -> String {
        self.to_seconds().replace(['-', ':'], "")
    }

    /// For people: `2026-11-22T16:15:00Z`.
    pub(crate) fn to_seconds(self) -> String {
        humantime::format_rfc3339_seconds(self.0).to_string()
    }

    /// The time since this moment; zero when the moment lies ahead.
    pub(crate) fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.0).unwrap_or_default()
    }

    /// The time from an `earlier` moment to this one; zero when that is later.
    pub(crate) fn since(&self, earlier: Self) -> Duration {
        self.0.duration_since(earlier.0).unwrap_or_default()
    }

    pub(crate) fn later(&self, by: Duration) -> Self {
        Self(self.0 + by)
    }

    /// No earlier than 1970.
    pub(crate) fn earlier(&self, by: Duration) -> Self {
        let earlier = self.0.checked_sub(by);
        Self(earlier.map_or(UNIX_EPOCH, |time| time.max(UNIX_EPOCH)))
    }

    pub(crate) fn since_1970(&self) -> Duration {
        self.0.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl From<SystemTime> for Moment {
    /// Drops what is finer than a microsecond, so that a moment survives being written and read.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_micros() * 1_000))
    }
}

impl FromStr for Moment {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Self::from)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_both_forms_and_read_back() {
        let moment = Moment::from_stat(1_795_364_100, 250_000_999);
        assert_eq!(moment.to_string(), "2026-11-22T16:15:00.250000Z");
        assert_eq!(moment.compact(), "20261122T161500Z");
        assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
    }

    #[test]
    fn no_moment_comes_before_1970() {
        let moment = Moment::from_stat(100, 0);
        let earlier = |seconds| moment.earlier(Duration::from_secs(seconds)).to_string();
        assert_eq!(earlier(60), "1970-01-01T00:00:40.000000Z");
        assert_eq!(earlier(101), "1970-01-01T00:00:00.000000Z");
        assert_eq!(earlier(u64::MAX), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_time_stamp_before_1970_is_no_panic() {
        assert_eq!(Moment::from_stat(-5, 0).compact(), "19700101T000000Z");
    }
}
