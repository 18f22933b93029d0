//! Drops on their way from the scan to the work.
//!
//! Drops for one target stand in a line: only its head is claimed and worked on, so that two are
//! never reordered. What waits is little more than a name: a manifest is read a while before the
//! work, and an image is opened when the work begins.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::decide::Checked;
use crate::spool::{Leaving, Peeked, Ready, Seen};
use crate::words::{Moment, Target};

/// Heavy drops at a time. A second, so that one endless drop holds up no other either.
const HEAVY_LANE: usize = 2;

/// Manifests read ahead of the work.
const AHEAD: usize = 128;

/// Files that the manifests in memory may list, about: some list a hundred thousand.
pub(super) const MAX_LISTED: usize = 100_000;
const MAX_SHARE_LISTED: usize = 10_000;

/// Drops that one light lane takes at a time.
const MAX_SHARE: usize = 16;

/// Drops that are complete and have no outcome yet, but for those that the scan will bring later.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Every drop that is on its way, by its name in `processing/`, and when it became complete.
    hands: HashMap<Arc<str>, (Hand, Moment)>,
    /// Those of them that have their outcome, and have to be put away.
    settled: HashSet<Arc<str>>,
    /// Those whose manifest was not read yet, in order.
    seen: VecDeque<Seen>,
    /// Heads of a line that may go on.
    recalled: VecDeque<(Seen, Target)>,
    lines: Lines,
    ready: VecDeque<Ready>,
    /// Heavy drops that wait for their lane.
    heavy: VecDeque<(Seen, Target)>,
    /// Heavy drops that were let into their lane before they are checked again.
    admitted: HashSet<Arc<str>>,
    /// Heavy drops in their lane.
    in_lane: usize,
    postponed: Vec<(Seen, Option<Target>)>,
}

/// How far a drop that is on its way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    Queued,
    /// In `processing/`. A new drop of this name has to wait until it is gone from there.
    Claimed {
        another_waits: bool,
    },
}

impl Hand {
    const CLAIMED: Self = Self::Claimed {
        another_waits: false,
    };
}

/// For each target that is being worked on, the drops that come after.
type Lines = HashMap<Target, VecDeque<Seen>>;

impl Queue {
    /// With what a daemon that ended had claimed.
    pub(crate) fn new(claimed: Vec<Seen>, leaving: &[Leaving]) -> Self {
        let settled: HashSet<_> = leaving.iter().map(|drop| drop.entry.clone()).collect();
        let now = Moment::now();
        let entries = claimed.iter().map(|seen| (seen.entry(), seen.completed));
        let all = entries.chain(settled.iter().map(|entry| (entry, now)));
        let hands = all.map(|(entry, since)| (Arc::clone(entry), (Hand::CLAIMED, since)));
        Self {
            hands: hands.collect(),
            settled,
            seen: claimed.into(),
            ..Self::default()
        }
    }

    /// Every drop that is on its way, by its name in `processing/`.
    pub(crate) fn known(&self) -> HashSet<Arc<str>> {
        self.hands.keys().cloned().collect()
    }

    /// Behind a backlog that is known, another look can wait: what is new comes after it.
    pub(crate) fn is_long(&self) -> bool {
        self.seen.len() >= AHEAD
    }

    /// Whether drops are waiting to be claimed.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a drop for `target` is on its way.
    pub(crate) fn is_busy(&self, target: &Target) -> bool {
        self.lines.contains_key(target)
    }

    /// How many drops are known that have no outcome yet.
    pub(crate) fn waiting(&self) -> usize {
        self.hands.len() - self.settled.len()
    }

    /// Since when the first of them is complete.
    pub(crate) fn oldest(&self) -> Option<Moment> {
        let waiting = self.hands.iter();
        let waiting = waiting.filter(|(entry, _)| !self.settled.contains(*entry));
        waiting.map(|(_, (_, since))| *since).min()
    }

    /// Drops that wait for better times.
    pub(crate) fn postponed(&self) -> usize {
        self.postponed.len()
    }

    /// Takes up what a scan has found; `known` are names that it has met again.
    pub(crate) fn take_found(&mut self, found: Vec<Seen>, known: &[Arc<str>]) {
        for entry in known {
            if let Some((Hand::Claimed { another_waits }, _)) = self.hands.get_mut(entry) {
                *another_waits = true;
            }
        }
        // One that was claimed while the scan was under way is in hand already.
        for seen in found {
            if !self.hands.contains_key(seen.entry()) {
                let queued = (Hand::Queued, seen.completed);
                self.hands.insert(Arc::clone(seen.entry()), queued);
                self.seen.push_back(seen);
            }
        }
    }

    /// The next drops whose manifest is to be read; with its target where a drop is the head of that
    /// line already.
    pub(crate) fn next_to_peek(&mut self) -> Vec<(Seen, Option<Target>)> {
        let listed = || self.ready.iter().map(Ready::listed).sum::<usize>();
        if self.ready.len() >= AHEAD || listed() >= MAX_LISTED {
            return Vec::new();
        }
        let recalled = self.recalled.drain(..);
        let mut drops: Vec<_> = recalled.map(|(seen, line)| (seen, Some(line))).collect();
        let others = self.seen.len().min(AHEAD);
        drops.extend(self.seen.drain(..others).map(|seen| (seen, None)));
        drops
    }

    /// Drops whose manifest is to be read again come before all others, in their order.
    pub(crate) fn take_back(
        &mut self,
        drops: impl IntoIterator<IntoIter: DoubleEndedIterator<Item = (Seen, Option<Target>)>>,
    ) {
        // From the last to the first, each to the front: the first is first again.
        for (seen, line) in drops.into_iter().rev() {
            match line {
                Some(target) => self.recalled.push_front((seen, target)),
                None => self.seen.push_front(seen),
            }
        }
    }

    /// Puts a drop whose manifest was read into the line of its target. `line`: it is the head of
    /// that one already.
    ///
    /// Returns whether `incoming/` is to be looked at again.
    pub(crate) fn take_peeked(&mut self, seen: Seen, line: Option<Target>, peeked: Peeked) -> bool {
        let Peeked::Ready(ready) = peeked else {
            self.release(seen.entry());
            self.advance(line);
            return self.let_go(seen.entry());
        };
        let target = ready.target();
        if line.is_some() && line.as_ref() != target {
            self.release(seen.entry());
            self.advance(line);
        } else if line.is_some() {
            self.ready.push_back(ready);
            return false;
        }
        match target.cloned() {
            None => self.ready.push_back(ready),
            Some(target) => match self.lines.get_mut(&target) {
                Some(line) => line.push_back(seen),
                None => {
                    self.lines.insert(target, VecDeque::new());
                    self.ready.push_back(ready);
                }
            },
        }
        false
    }

    /// The next drops for one of so many `lanes`. Small ones go several at a time: to hand one over
    /// costs about as much as to stage it.
    pub(crate) fn share(&mut self, lanes: usize) -> Vec<Ready> {
        let share = (self.ready.len() / lanes).clamp(1, MAX_SHARE);
        let mut batch = Vec::with_capacity(share);
        let mut listed = 0;
        while batch.len() < share
            && listed < MAX_SHARE_LISTED
            && let Some(ready) = self.ready.pop_front()
        {
            listed += ready.listed();
            if let Some((hand, _)) = self.hands.get_mut(ready.seen.entry()) {
                *hand = Hand::CLAIMED;
            }
            batch.push(ready);
        }
        batch
    }

    /// Takes back drops of a share that were not begun.
    pub(crate) fn take_unbegun(&mut self, drops: Vec<Ready>) {
        for ready in drops.into_iter().rev() {
            self.ready.push_front(ready);
        }
    }

    /// Lets the next heavy drop into its lane, if there is room: it is checked once more.
    ///
    /// Returns whether there was one.
    pub(crate) fn admit(&mut self) -> bool {
        if self.in_lane >= HEAVY_LANE {
            return false;
        }
        let Some((seen, target)) = self.heavy.pop_front() else {
            return false;
        };
        self.in_lane += 1;
        self.admitted.insert(Arc::clone(seen.entry()));
        self.recalled.push_back((seen, target));
        true
    }

    /// Whether a heavy drop may be worked on at once. If not, it waits for its lane, and what it has
    /// opened is closed: many may wait.
    pub(crate) fn take_heavy(&mut self, checked: Box<Checked>) -> Option<Box<Checked>> {
        let seen = checked.again();
        if self.admitted.remove(seen.entry()) {
            return Some(checked);
        }
        if self.in_lane < HEAVY_LANE && self.heavy.is_empty() {
            self.in_lane += 1;
            return Some(checked);
        }
        self.heavy.push_back((seen, checked.target().clone()));
        None
    }

    /// The work on a heavy drop has ended.
    pub(crate) fn leave_lane(&mut self) {
        self.in_lane -= 1;
    }

    /// A heavy drop that was let into its lane does not come.
    pub(crate) fn release(&mut self, entry: &str) {
        if self.admitted.remove(entry) {
            self.in_lane -= 1;
        }
    }

    /// A target is free: the next drop in its line may go on.
    pub(crate) fn advance(&mut self, target: Option<Target>) {
        let Some(target) = target else { return };
        match self.lines.get_mut(&target).map(VecDeque::pop_front) {
            Some(Some(next)) => self.recalled.push_back((next, target)),
            Some(None) => drop(self.lines.remove(&target)),
            None => {}
        }
    }

    /// A drop has its outcome. It is on its way until it was put away.
    pub(crate) fn settle(&mut self, entry: &Arc<str>) {
        self.settled.insert(Arc::clone(entry));
    }

    /// A drop is not on its way any more.
    ///
    /// Returns whether another of its name waits in `incoming/`.
    pub(crate) fn let_go(&mut self, entry: &str) -> bool {
        let another = Hand::Claimed {
            another_waits: true,
        };
        self.settled.remove(entry);
        let hand = self.hands.remove(entry);
        hand.is_some_and(|(hand, _)| hand == another)
    }

    /// A drop has to wait. Its target stays taken: a later drop for it must not overtake.
    pub(crate) fn postpone(&mut self, seen: Seen, target: Option<Target>) {
        self.release(seen.entry());
        self.postponed.push((seen, target));
    }

    /// Those that had to wait are tried again.
    pub(crate) fn retry_postponed(&mut self) {
        let postponed = std::mem::take(&mut self.postponed);
        self.take_back(postponed);
    }
}
