//! Trying again: how often, and after how long.

#[cfg(test)]
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::trouble::{Fate, Trouble};
use crate::sys::random;
use crate::text::short;

/// So often in a row something is tried that brings nothing.
const MOST: u32 = 5;

/// Longer than this nobody waits for a host.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
pub(super) type Noted = Arc<Mutex<Vec<Duration>>>;

/// What waits between two tries.
#[derive(Clone, Debug, Default)]
pub(super) enum Waits {
    #[default]
    Clock,
    /// Nothing: how long it would be, at least, is noted.
    #[cfg(test)]
    Noted(Noted),
}

impl Waits {
    async fn wait(&self, time: Duration) {
        match self {
            Self::Clock => tokio::time::sleep(time + some_of(time)).await,
            #[cfg(test)]
            Self::Noted(noted) => noted.lock().unwrap().push(time),
        }
    }
}

/// The tries in a row that have brought nothing.
#[derive(Debug)]
pub(super) struct Tries<'w> {
    waits: &'w Waits,
    count: u32,
    /// What went wrong last.
    last: String,
    /// Whether that went wrong each time.
    is_one: bool,
}

impl<'w> Tries<'w> {
    pub(super) fn new(waits: &'w Waits) -> Self {
        Self {
            waits,
            count: 0,
            last: String::new(),
            is_one: true,
        }
    }

    /// Something came: the next trouble is the first one again.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.waits);
    }

    /// Waits until it is time for the next try.
    ///
    /// # Errors
    /// What went wrong, when there is none.
    pub(super) async fn wait_after(&mut self, trouble: Trouble) -> Result<(), String> {
        let Trouble { text, fate } = trouble;
        let Fate::Passing(asked) = fate else {
            return Err(text);
        };
        if asked > MAX_WAIT {
            let asked = short(asked);
            return Err(format!(
                "{text}; the host wants to be asked again in {asked}"
            ));
        }
        self.is_one = self.count == 0 || (self.is_one && self.last == text);
        self.count += 1;
        if self.count == MOST {
            return Err(if self.is_one {
                format!("{text}, {MOST} times")
            } else {
                format!("{text}, the last of {MOST} tries")
            });
        }
        self.last = text;
        let pause = Duration::from_secs(1 << (self.count - 1));
        self.waits.wait(pause.max(asked)).await;
        Ok(())
    }
}

/// Up to a quarter of this time: not all who were cut off come back at once.
fn some_of(time: Duration) -> Duration {
    let fourth = u64::try_from(time.as_millis() / 4).unwrap_or(u64::MAX);
    Duration::from_millis(random() % fourth.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_to_a_wait_is_less_than_a_quarter_and_not_always_the_same() {
        let seconds = Duration::from_secs(8);
        let added: Vec<_> = (0..100).map(|_| some_of(seconds)).collect();
        assert!(
            added.iter().all(|it| *it < Duration::from_secs(2)),
            "{added:?}"
        );
        assert!(added.iter().any(|it| *it != added[0]), "{added:?}");
        assert_eq!(some_of(Duration::ZERO), Duration::ZERO);
    }
}
