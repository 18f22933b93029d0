//! How old something in the spool is: by the clock of the spool's own file system, and where that
//! was set meanwhile, by the monotonic clock. Never by the daemon's wall clock.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys::{Dir, Failure};
use crate::words::{ClockSteps, Moment};

/// What is stamped while a drop is looked at may be younger than the reading by so much, and by the
/// time that the look takes.
const SLACK: Duration = Duration::from_secs(1);

/// The clock that stamps what is in the spool.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    steps: ClockSteps,
    /// What the clock showed when it was first seen to have been set, and when that was.
    set: Option<(Moment, Instant)>,
}

/// What the clock shows at an instant: stamps can be judged by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    now: Moment,
    at: Instant,
    /// Earlier stamps, and those from the future, are of the clock before it was set.
    set: Option<(Moment, Instant)>,
}

impl Clock {
    /// Reads the clock by changing a folder of the daemon's own.
    pub(super) fn read(&self, own: &Dir) -> Result<Reading, Failure> {
        let now = own.now()?;
        let mut state = self.0.lock().expect("no thread panics here");
        Ok(state.take(now, Instant::now()))
    }
}

impl State {
    fn take(&mut self, now: Moment, at: Instant) -> Reading {
        if self.steps.take(now, at).is_some() {
            self.set = Some((now, at));
        }
        let set = self.set;
        Reading { now, at, set }
    }
}

impl Reading {
    /// So long ago, or longer, the file system gave the time `stamp` to something.
    ///
    /// A stamp from the future was given before the clock was set back: where the daemon has seen
    /// that happen, the time since then counts. Of what was stamped before the start nobody knows
    /// more than that it is old.
    pub(super) fn age(&self, stamp: Moment) -> Duration {
        let by_stamp = self.now.since(stamp);
        match self.set {
            Some((since, at)) if stamp < since || self.is_ahead(stamp) => {
                self.at.saturating_duration_since(at)
            }
            None if self.is_ahead(stamp) => Duration::MAX,
            _ => by_stamp,
        }
    }

    /// The stamp of what is changed now.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Whether a stamp lies in the future: it was given before the clock was set back.
    pub(super) fn is_ahead(&self, stamp: Moment) -> bool {
        stamp.since(self.now) > self.at.elapsed() + SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Reading {
        /// What the clock shows that was never set.
        pub(in crate::spool) fn for_test(now: Moment) -> Self {
            State::default().take(now, Instant::now())
        }
    }

    const YEAR: u64 = 365 * 24 * 3600;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    proptest! {
        /// Something is stamped, the clock is set, and read a while before and after that.
        #[test]
        fn nothing_seems_older_than_it_is_however_the_clock_is_set_while_it_is_watched(
            before in 0_u64..100_000,
            stamped in 0_u64..100_000,
            after in 0_u64..100_000,
            set in 200..YEAR,
            is_ahead: bool,
        ) {
            let start = Moment::from_stat(1_795_364_100, 0);
            let begin = Instant::now();
            let mut state = State::default();
            state.take(start, begin);
            // Read, stamped, set, read, read: with these times between them.
            let stamp = start.later(seconds(before + stamped));
            state.take(start.later(seconds(before)), begin + seconds(before));
            let right = stamp.later(seconds(1));
            let shown = if is_ahead { right.later(seconds(set)) } else { right.earlier(seconds(set)) };
            let noticed = begin + seconds(before + stamped + 1);
            let reading = state.take(shown, noticed);
            prop_assert!(reading.age(stamp) <= seconds(1));
            let reading = state.take(shown.later(seconds(after)), noticed + seconds(after));
            prop_assert!(reading.age(stamp) <= seconds(1 + after));
            // What is stamped now, and later, has its own age, whatever was before.
            let fresh = shown.later(seconds(after));
            let reading = state.take(fresh.later(seconds(7)), noticed + seconds(after + 7));
            prop_assert_eq!(reading.age(fresh), seconds(7));
            prop_assert!(!reading.is_ahead(fresh));
        }
    }

    #[test]
    fn what_lies_in_the_future_at_the_start_is_old() {
        let start = Moment::from_stat(1_795_364_100, 0);
        let reading = State::default().take(start, Instant::now());
        assert_eq!(reading.age(start.later(seconds(YEAR))), Duration::MAX);
        assert_eq!(reading.age(start), Duration::ZERO);
        assert_eq!(reading.age(start.earlier(seconds(9))), seconds(9));
    }

    #[test]
    fn what_was_stamped_between_two_settings_of_the_clock_is_no_older_than_the_second() {
        let (begin, mut state) = (Instant::now(), State::default());
        let start = Moment::from_stat(1_795_364_100, 0);
        state.take(start, begin);
        let set = start.later(seconds(YEAR));
        state.take(set, begin + seconds(10));
        let stamp = set.later(seconds(5));
        let set_again = set.later(seconds(YEAR));
        state.take(set_again, begin + seconds(20));
        let reading = state.take(set_again.later(seconds(3)), begin + seconds(23));
        assert_eq!(reading.age(stamp), seconds(3));
    }
}
