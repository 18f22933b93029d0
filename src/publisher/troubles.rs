//! What can't be done at the moment: said once, tried again, further and further apart.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;
use crate::log::MessageId;
use crate::text::quoted;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The troubles of drops that wait.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Who is in trouble.
    who: HashSet<String>,
    /// What was said already. Many drops have the same trouble when a disk is full.
    said: HashSet<String>,
    /// Tries since the last trouble began.
    tries: u32,
    /// When it is time to try again.
    pub(super) next: Option<Instant>,
    /// Who has something old that can't be removed.
    leftovers: HashSet<String>,
}

impl Troubles {
    /// Whose trouble it is when `incoming/` can't be read.
    pub(super) const SPOOL: &str = "the spool";

    /// Notes that `who` could not go on, and says so when nobody had this trouble before.
    pub(crate) fn meet(&mut self, who: &str, fault: &Fault) {
        let what = match fault {
            // Told apart without the path: that is another for each drop.
            Fault::Retry(failure) => format!("{} {}", failure.doing, failure.cause),
            Fault::NoSpace(_) => "no space".to_string(),
            Fault::Reject(_) | Fault::Owner(_) | Fault::Interrupted => return,
        };
        let delay = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.who.insert(who.to_string());
        if self.said.insert(what) {
            let (message_id, who) = (MessageId::Waiting, quoted(who));
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
    pub(crate) fn is_over(&mut self, who: &str) {
        if self.who.remove(who) && self.who.is_empty() {
            tracing::info!(message_id = %MessageId::GoesOn, "what had to wait could go on");
            self.said.clear();
            self.tries = 0;
            self.next = None;
        }
    }

    /// Whether it is time to try again.
    pub(crate) fn is_time(&mut self) -> bool {
        let is_time = self.next.take_if(|next| *next <= Instant::now()).is_some();
        if is_time {
            self.tries += 1;
            if self.tries > 1 && self.tries.is_power_of_two() {
                let (message_id, who, tries) = (MessageId::Waiting, self.who.len(), self.tries);
                tracing::warn!(%message_id, "{who} still have to wait, tried {tries} times");
            }
        }
        is_time
    }

    /// How many could not go on.
    pub(crate) fn count(&self) -> usize {
        self.who.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Failure;

    fn full() -> Fault {
        Failure::new("writing", "x", std::io::Error::from_raw_os_error(28)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_come_further_and_further_apart_and_start_anew_after_success() {
        let mut troubles = Troubles::default();
        let mut delays = Vec::new();
        for _ in 0..9 {
            troubles.meet("a", &full());
            let next = troubles.next.unwrap();
            delays.push((next - Instant::now()).as_secs());
            assert!(!troubles.is_time());
            tokio::time::sleep_until(next).await;
            assert!(troubles.is_time());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        troubles.meet("b", &full());
        troubles.is_over("a");
        assert!(troubles.next.is_some(), "b still waits");
        troubles.is_over("b");
        assert_eq!(troubles.next, None);
        troubles.meet("a", &full());
        assert_eq!((troubles.next.unwrap() - Instant::now()).as_secs(), 1);
    }
}
