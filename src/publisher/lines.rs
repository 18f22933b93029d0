//! Drops for one target stand in a line: only its head is worked on, so that two are never reordered.
//!
//! A drop without room steps aside, and lets those of other importers pass; its own importer's wait
//! behind it. Before one that came later is swapped in, those that it has passed are rejected: nothing
//! older is ever put over something newer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::decision::Decided;
use super::overview::Overview;
use crate::fault::Rejection;
use crate::spool::{Claimed, DropKey, Seen, WaitState};
use crate::words::{ClaimId, Target};

#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<Target, Line>);

/// The drops for a target.
#[derive(Debug, Default)]
struct Line {
    /// The drop that is worked on.
    head: Option<DropKey>,
    others: VecDeque<Seen>,
    /// Drops that can't go on, in the order of their claims.
    aside: Vec<Aside>,
    /// The claim that was tried last of those.
    tried: u64,
}

/// A claimed drop that can't go on.
#[derive(Debug)]
struct Aside {
    claimed: Claimed,
    rejection: Rejection,
}

impl Lines {
    /// Puts a drop into the line of its target. Returns the drop if it is the head.
    pub(super) fn enter(&mut self, target: &Target, seen: &Seen) -> bool {
        let line = self.0.entry(target.clone()).or_default();
        let is_head = line.head.is_none() && line.may_pass(seen);
        if is_head {
            line.head = Some(seen.key().clone());
        } else {
            line.others.push_back(seen.clone());
        }
        is_head
    }

    /// The head of a line is through. Returns the next one.
    pub(super) fn advance(&mut self, target: &Target) -> Option<Seen> {
        let line = self.0.get_mut(target)?;
        line.head = None;
        let next = line.others.iter().position(|seen| line.may_pass(seen));
        let next = next.and_then(|next| line.others.remove(next));
        line.head = next.as_ref().map(|seen| seen.key().clone());
        if line.head.is_none() && line.others.is_empty() && line.aside.is_empty() {
            self.0.remove(target);
        }
        next
    }

    /// Whether nothing for `target` is worked on.
    pub(super) fn is_idle(&self, target: &Target) -> bool {
        self.0.get(target).is_none_or(|line| line.head.is_none())
    }

    /// The drop that is worked on.
    pub(super) fn head(&self, target: &Target) -> Option<&DropKey> {
        self.0.get(target)?.head.as_ref()
    }

    /// Whether a drop is the head of its line.
    pub(super) fn is_head(&self, target: &Target, key: &DropKey) -> bool {
        let line = self.0.get(target);
        line.is_some_and(|line| line.head.as_ref() == Some(key))
    }

    /// The head of a line steps aside: it will be rejected if another passes, or nothing gets better.
    /// The line is to be advanced then.
    pub(super) fn step_aside(
        &mut self,
        target: &Target,
        mut claimed: Claimed,
        rejection: Rejection,
    ) {
        let Some(line) = self.0.get_mut(target) else {
            return;
        };
        claimed.aside_since.get_or_insert_with(Instant::now);
        line.aside.push(Aside { claimed, rejection });
        line.aside.sort_by_key(|aside| aside.claimed.claim.number());
    }

    /// The drops aside that this claim, which is about to be swapped in, has passed: each is rejected.
    pub(super) fn passed(&mut self, target: &Target, by: ClaimId) -> Vec<Decided> {
        let is_earlier = |aside: &mut Aside| aside.claimed.claim.number() < by.number();
        let line = self.0.get_mut(target);
        let passed = line.map(|line| line.aside.extract_if(.., is_earlier).collect());
        let passed: Vec<Aside> = passed.unwrap_or_default();
        let reject = |aside: Aside| aside.reject(target);
        passed.into_iter().map(reject).collect()
    }

    /// Those aside are tried once more, each when nothing for its target is worked on. Returns them,
    /// and those that could not go on for `timeout`: they are rejected.
    pub(super) fn retry(&mut self, timeout: Duration) -> (Vec<(Seen, Target)>, Vec<Decided>) {
        let (mut again, mut late) = (Vec::new(), Vec::new());
        for (target, line) in &mut self.0 {
            let is_late = |aside: &mut Aside| {
                let since = aside.claimed.aside_since;
                since.is_some_and(|since| since.elapsed() >= timeout)
            };
            let all = line.aside.extract_if(.., is_late);
            late.extend(all.map(|aside| aside.reject(target)));
            if line.head.is_none()
                && let Some(next) = line.next_to_try()
            {
                let next = line.aside.remove(next).claimed;
                line.tried = next.claim.number();
                let next = next.again();
                line.head = Some(next.key().clone());
                again.push((next, target.clone()));
            }
        }
        (again, late)
    }

    /// What drops are for, and which wait for another of their target, or for room.
    pub(super) fn tell(&self, overview: &mut Overview) {
        for (target, line) in &self.0 {
            let aside = line.aside.iter();
            let first = line.head.as_ref();
            let first = first.or_else(|| line.aside.first().map(|it| it.claimed.key()));
            if let Some(head) = &line.head {
                overview.aim(head, target);
            }
            for Aside { claimed, rejection } in aside {
                overview.aim(claimed.key(), target);
                let why = format!("no space: {}", rejection.detail);
                overview.tell(claimed.key(), WaitState::NoSpace, why);
            }
            for seen in &line.others {
                overview.aim(seen.key(), target);
                if let Some(first) = first {
                    let why = format!("behind {}", first.claim_name);
                    overview.tell(seen.key(), WaitState::Behind, why);
                }
            }
        }
    }

    /// How many drops can't go on.
    pub(super) fn aside(&self) -> usize {
        self.0.values().map(|line| line.aside.len()).sum()
    }
}

impl Aside {
    fn reject(self, target: &Target) -> Decided {
        Decided::reject(self.claimed, Some(target.clone()), self.rejection)
    }
}

impl Line {
    /// Which of those aside is tried next: of each importer the first one, in turn.
    fn next_to_try(&self) -> Option<usize> {
        let uid = |at: usize| self.aside[at].claimed.importer.uid;
        let is_first = |at: &usize| (0..*at).all(|before| uid(before) != uid(*at));
        let mut firsts = (0..self.aside.len()).filter(is_first);
        let is_later = |at: &usize| self.aside[*at].claimed.claim.number() > self.tried;
        firsts.clone().find(is_later).or_else(|| firsts.next())
    }

    /// Whether a drop has none of its own importer's to wait for that stepped aside.
    fn may_pass(&self, seen: &Seen) -> bool {
        let mut aside = self.aside.iter();
        aside.all(|aside| aside.claimed.importer.uid != seen.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Moment, Reason};

    #[test]
    fn the_time_without_room_goes_on_from_try_to_try() {
        let mut lines = Lines::default();
        let target: Target = "amd64/generic/noble/install".parse().unwrap();
        let seen = Seen::for_test("drop", 1, Moment::now());
        assert!(lines.enter(&target, &seen));
        let mut claimed = Claimed::for_test(&seen, 1);
        let mut begins = Vec::new();
        for _ in 0..3 {
            lines.step_aside(&target, claimed, Rejection::new(Reason::NoSpace, ""));
            assert!(lines.advance(&target).is_none());
            let (again, late) = lines.retry(Duration::MAX);
            assert!(late.is_empty());
            claimed = Claimed::for_test(&again[0].0, 1);
            begins.push(claimed.aside_since.unwrap());
        }
        assert_eq!(begins, [begins[0]; 3]);
    }
}
