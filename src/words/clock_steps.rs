//! Whether a clock was set: it goes on by another time than the monotonic clock does.

use std::fmt;
use std::time::{Duration, Instant};

use super::moment::Moment;

/// What a clock may differ from the monotonic one without having been set: the clocks of files are
/// coarse, and that of a file server goes by a quartz of its own. (What NTP slews it slews in both.)
const TOLERANCE: Duration = Duration::from_secs(1);
const TOLERANCE_SHARE: u32 = 1_000;

/// A clock that is looked at now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockSteps {
    last: Option<(Moment, Instant)>,
}

/// By how much a clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Ahead(Duration),
    Back(Duration),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, by) = match self {
            Self::Ahead(by) => ("ahead", by),
            Self::Back(by) => ("back", by),
        };
        // What passes between two looks is no part of it.
        let by = Duration::from_secs((*by + Duration::from_millis(500)).as_secs());
        write!(f, "{word} by {}", humantime::format_duration(by))
    }
}

impl ClockSteps {
    /// Takes what the clock shows at an instant. Returns how it was set since the last time, if so.
    pub(crate) fn take(&mut self, shown: Moment, at: Instant) -> Option<Step> {
        let (last, then) = self.last.replace((shown, at))?;
        let passed = at.saturating_duration_since(then);
        let expected = last.later(passed);
        let tolerance = TOLERANCE + passed / TOLERANCE_SHARE;
        let (ahead, back) = (shown.since(expected), expected.since(shown));
        if ahead > tolerance {
            Some(Step::Ahead(ahead))
        } else if back > tolerance {
            Some(Step::Back(back))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_step_is_noticed_and_a_slewed_clock_makes_none(
            passed in 0_u64..1_000_000_000,
            drift in 0_u64..1_000,
            set in prop_oneof![Just(0_u64), 1_001_u64..1_000_000_000],
            is_ahead: bool,
        ) {
            let (start, then) = (Moment::from_stat(1_795_364_100, 0), Instant::now());
            let mut steps = ClockSteps::default();
            prop_assert_eq!(steps.take(start, then), None);
            // In milliseconds. A drift stays below 1 in 1,000, a step is larger than any.
            let off = if set == 0 { passed * drift / 1_000_000 } else { passed / 1_000 + set };
            let (passed, off) = (Duration::from_millis(passed), Duration::from_millis(off));
            let right = start.later(passed);
            let shown = if is_ahead { right.later(off) } else { right.earlier(off) };
            let step = if is_ahead { Step::Ahead(off) } else { Step::Back(off) };
            let expected = (set > 0).then_some(step);
            prop_assert_eq!(steps.take(shown, then + passed), expected);
        }
    }
}
