//! What can't be done at the moment: said once, tried again, further and further apart.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;
use crate::log::MessageId;
use crate::spool::DropKey;
use crate::sys::Failure;
use crate::text::{counted, quoted};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// A trouble that comes and goes is said so often at once, and once more each time that this has
/// passed: an importer can bring one about, and end it, again and again.
const AT_ONCE: u32 = 10;
const ONCE_MORE: Duration = Duration::from_secs(60);

/// The troubles of drops that wait.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Who is in trouble, and in what.
    who: HashMap<Option<DropKey>, String>,
    /// What was said already. Many drops have the same trouble when a disk is full.
    said: HashMap<String, Said>,
    /// Something was said since nobody was in trouble.
    has_said: bool,
    /// Tries since the last trouble began.
    tries: u32,
    /// When it is time to try again.
    pub(super) next: Option<Instant>,
    /// Who has something old that can't be removed.
    leftovers: HashSet<String>,
}

/// Says why a lookout can't watch something.
pub(super) fn tell_of_lookout(trouble: Option<Failure>) {
    if let Some(failure) = trouble {
        tracing::warn!("{failure}, going on by looking at locks and open files only");
    }
}

/// What was said of a trouble.
#[derive(Debug)]
struct Said {
    /// Since it began it was said, or was said too often before.
    is_known: bool,
    /// It may be said so often, as of then.
    left: u32,
    at: Instant,
}

impl Said {
    fn nothing() -> Self {
        Self {
            is_known: false,
            left: AT_ONCE,
            at: Instant::now(),
        }
    }

    /// Whether it is to be said now that somebody has met it.
    fn meet(&mut self) -> bool {
        if std::mem::replace(&mut self.is_known, true) {
            return false;
        }
        while self.left < AT_ONCE && self.at.elapsed() >= ONCE_MORE {
            self.left += 1;
            self.at += ONCE_MORE;
        }
        if self.left == AT_ONCE {
            self.at = Instant::now();
        }
        let is_due = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }
}

impl Troubles {
    /// Whose trouble it is when `incoming/` can't be read.
    pub(super) const SPOOL: &str = "the spool";

    /// Notes that `who` could not go on, and says so when nobody had this trouble before.
    pub(crate) fn meet(&mut self, who: Option<&DropKey>, fault: &Fault) {
        let what = match fault {
            // Told apart without the path: that is another for each drop.
            Fault::Retry(failure) => format!("{} {}", failure.doing, failure.cause),
            Fault::NoSpace(_) => "no space".to_string(),
            Fault::Reject(_) | Fault::Owner(_) | Fault::Interrupted => return,
        };
        let delay = self.delay();
        self.who.insert(who.cloned(), fault.to_string());
        if self.said.entry(what).or_insert_with(Said::nothing).meet() {
            self.has_said = true;
            let name = who.map_or(Self::SPOOL, |drop| &drop.claim_name);
            let (message_id, who) = (MessageId::Waiting, quoted(name));
            let delay = humantime::format_duration(delay);
            tracing::warn!(
                %message_id,
                "{who} has to wait: {fault}; trying again in {delay} and then less often"
            );
        }
        self.next.get_or_insert_with(|| Instant::now() + delay);
    }

    /// Something old of `who` can't be removed: said once for all who have this trouble.
    pub(crate) fn meet_leftover(&mut self, who: &str, fault: &Fault) {
        if self.leftovers.is_empty() {
            let message_id = MessageId::Waiting;
            tracing::warn!(%message_id, "removing what is old of {who}: {fault}, trying again later");
        }
        self.leftovers.insert(who.to_string());
    }

    /// Nothing old is left of `who`.
    pub(crate) fn is_cleared(&mut self, who: &str) {
        if self.leftovers.remove(who) && self.leftovers.is_empty() {
            tracing::info!(message_id = %MessageId::GoesOn, "what was old could be removed");
        }
    }

    /// `who` could go on.
    pub(crate) fn is_over(&mut self, who: Option<&DropKey>) {
        if self.who.remove(&who.cloned()).is_some() && self.who.is_empty() {
            if std::mem::take(&mut self.has_said) {
                tracing::info!(message_id = %MessageId::GoesOn, "what had to wait could go on");
            }
            self.said
                .values_mut()
                .for_each(|said| said.is_known = false);
            self.tries = 0;
            self.next = None;
        }
    }

    fn delay(&self) -> Duration {
        FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST)
    }

    /// Whether it is time to try again.
    pub(crate) fn is_time(&mut self) -> bool {
        let is_time = self.next.take_if(|next| *next <= Instant::now()).is_some();
        if is_time {
            self.tries += 1;
            // Others may be waiting that are not tried this time.
            self.next = Some(Instant::now() + self.delay()).filter(|_| !self.who.is_empty());
            if self.tries > 1 && self.tries.is_power_of_two() {
                let (message_id, tries) = (MessageId::Waiting, self.tries);
                let who = counted(self.who.len(), "drop");
                tracing::warn!(%message_id, "{who} still have to wait, tried {tries} times");
            }
        }
        is_time
    }

    /// The trouble that `who` is in.
    pub(super) fn of(&self, drop: &DropKey) -> Option<&str> {
        self.who.get(&Some(drop.clone())).map(String::as_str)
    }

    /// How many could not go on.
    pub(crate) fn count(&self) -> usize {
        self.who.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::DropKey;
    use crate::sys::Failure;

    fn key(name: &str) -> DropKey {
        DropKey {
            owner: 7,
            claim_name: name.into(),
        }
    }

    fn full() -> Fault {
        Failure::new("writing", "x", std::io::Error::from_raw_os_error(28)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_come_further_and_further_apart_and_start_anew_after_success() {
        let mut troubles = Troubles::default();
        let mut delays = Vec::new();
        for _ in 0..9 {
            troubles.meet(Some(&key("a")), &full());
            let next = troubles.next.unwrap();
            delays.push((next - Instant::now()).as_secs());
            assert!(!troubles.is_time());
            tokio::time::sleep_until(next).await;
            assert!(troubles.is_time());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        troubles.meet(Some(&key("b")), &full());
        troubles.is_over(Some(&key("a")));
        assert!(troubles.next.is_some(), "b still waits");
        troubles.is_over(Some(&key("b")));
        assert_eq!(troubles.next, None);
        troubles.meet(Some(&key("a")), &full());
        assert_eq!((troubles.next.unwrap() - Instant::now()).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_comes_and_goes_is_said_now_and_then() {
        let mut troubles = Troubles::default();
        let mut said = 0;
        let mut come_and_go = |times| {
            for _ in 0..times {
                troubles.meet(Some(&key("a")), &full());
                said += u32::from(troubles.has_said);
                troubles.is_over(Some(&key("a")));
            }
            std::mem::take(&mut said)
        };
        assert_eq!(come_and_go(1_000), AT_ONCE);
        tokio::time::advance(ONCE_MORE * 2).await;
        assert_eq!(come_and_go(1_000), 2);
        tokio::time::advance(ONCE_MORE * 1_000).await;
        assert_eq!(come_and_go(1_000), AT_ONCE);
    }
}
