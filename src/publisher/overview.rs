//! Which drops are on their way, and what each waits for: put together when somebody asks, of what
//! the parts of the publisher know at the moment.

use std::collections::HashMap;

use crate::spool::{DropKey, Seen, WaitState, Waiting};
use crate::sys::Importer;
use crate::words::{Moment, Target};

/// Drops without an outcome, by their claim names.
#[derive(Debug, Default)]
pub(super) struct Overview(HashMap<DropKey, Waiting>);

impl Overview {
    /// A drop of the user `owner` is on its way. Unless more is told, others are before it, or it is
    /// being checked.
    pub(super) fn add(&mut self, key: &DropKey, owner: u32, since: Moment, is_checked: bool) {
        let (state, why) = if is_checked {
            (WaitState::Checked, "checking")
        } else {
            (WaitState::Queued, "its turn")
        };
        let drop = Waiting {
            drop: key.claim_name.to_string(),
            target: None,
            // To look the name up may take long: whoever asks does that.
            importer: Importer {
                uid: owner,
                name: String::new(),
            },
            since,
            state,
            why: why.to_string(),
        };
        self.0.insert(key.clone(), drop);
    }

    /// An importer has more drops than may wait, which nobody has looked at.
    pub(super) fn more(&mut self, owner: u32, max_waiting: &str) {
        // No drop is called by this.
        let claim_name = "/".into();
        let key = DropKey { owner, claim_name };
        self.add(&key, owner, Moment::now(), false);
        if let Some(more) = self.0.get_mut(&key) {
            more.drop = "(more)".to_string();
            more.why = format!("unread in incoming/: {max_waiting}");
        }
    }

    /// What a drop is for.
    pub(super) fn aim(&mut self, key: &DropKey, target: &Target) {
        if let Some(drop) = self.0.get_mut(key) {
            drop.target = Some(target.clone());
        }
    }

    /// What a drop waits for.
    pub(super) fn tell(&mut self, key: &DropKey, state: WaitState, why: impl Into<String>) {
        if let Some(drop) = self.0.get_mut(key) {
            (drop.state, drop.why) = (state, why.into());
        }
    }

    /// What a drop waits for that is not whole.
    pub(super) fn tell_of(&mut self, seen: &Seen) {
        if let Some((state, why)) = seen.why() {
            self.tell(seen.key(), state, why);
            if let Some(drop) = self.0.get_mut(seen.key()) {
                drop.since = seen.last_change();
                drop.target = seen.aim().cloned();
            }
        }
    }

    /// All of them, those that have waited longest first.
    pub(super) fn all(self) -> Vec<Waiting> {
        let mut all: Vec<_> = self.0.into_values().collect();
        all.sort_unstable_by(|a, b| (a.since, &a.drop).cmp(&(b.since, &b.drop)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Queue;
    use super::super::report::Report;
    use super::super::troubles::Troubles;
    use super::*;
    use std::sync::Arc;

    use crate::spool::{Action, Leaving, Manifest, Ready, Scan};
    use crate::sys::{Failure, Progress};

    /// A queue in which the first drop is worked on, and each other waits for something else.
    #[test]
    fn each_drop_is_told_of_with_what_it_waits_for() {
        let target: Target = "amd64/generic/noble/install".parse().unwrap();
        let names = ["1", "2", "3", "4"];
        let at = |number: usize| Moment::from_stat(number.try_into().unwrap(), 0);
        let seen = |number: usize| Seen::for_test(names[number], 7, at(number));
        let first = seen(0).key().clone();
        let mut queue = Queue::new(Vec::new(), &Vec::<Leaving>::new());
        queue.take_found(Scan::for_test((0..4).map(seen).collect(), Vec::new()));
        let (owner, drops) = queue.next_to_peek().unwrap();
        queue.end_peeking(owner, Vec::new());
        let mut drops = drops.into_iter();
        for _ in 0..2 {
            let manifest = Manifest::new(target.clone(), Action::Publish);
            let (seen, line) = drops.next().unwrap();
            queue.take_ready(Ready::for_test(seen, Ok(manifest)), line);
        }
        assert_eq!(queue.next_light().unwrap().1.len(), 1);
        let (seen, _) = drops.next().unwrap();
        let mut troubles = Troubles::default();
        let error = std::io::Error::other("too slow");
        let fault = Failure::new("reading", "x", error).into();
        troubles.meet(Some(seen.key()), &fault);
        queue.postpone(seen, None);
        let (seen, _) = drops.next().unwrap();
        queue.take_waiting(seen.waiting_for_test(), None);

        let mut report = Report::default();
        let told = |queue: &Queue, report: &Report| {
            let all = queue.overview(&troubles, report).all().into_iter();
            all.map(|it| {
                (
                    it.drop,
                    it.state,
                    it.why,
                    it.target.is_some(),
                    it.importer.uid,
                )
            })
            .collect::<Vec<_>>()
        };
        let expected = |state, why: &str, name: &str, is_aimed| {
            (name.to_string(), state, why.to_string(), is_aimed, 7)
        };
        let mut all = vec![
            expected(WaitState::Checked, "checking", "1", true),
            expected(WaitState::Behind, "behind 1", "2", true),
            expected(WaitState::Trouble, "reading \"x\": too slow", "3", false),
            expected(WaitState::Settling, "still: whole in 0s", "4", false),
        ];
        assert_eq!(told(&queue, &report), all);
        let progress = Arc::new(Progress::default());
        let part = report.begin(&target, &progress);
        all[0] = expected(WaitState::Working, "comparing", "1", true);
        assert_eq!(told(&queue, &report), all);
        part.expect(100);
        part.advance(43);
        all[0] = expected(WaitState::Working, "copying 43 %", "1", true);
        assert_eq!(told(&queue, &report), all);
        report.end(&target);
        // What has its outcome waits no longer.
        queue.settle(&first, Some(target));
        assert_eq!(told(&queue, &report).len(), 3);
    }
}
