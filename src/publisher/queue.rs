//! Drops on their way from the scan to the work.
//!
//! Drops for one target stand in a line: only its head is claimed and worked on, so that two are
//! never reordered. What waits is little more than a name: a manifest is read a while before the
//! work, and an image is opened when the work begins.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::spool::{Leaving, Ready, Seen};
use crate::sys::processors;
use crate::words::{Moment, Target};

/// Heavy drops at a time. A second, so that one endless drop holds up no other either.
const HEAVY_LANES: usize = 2;

/// Manifests read ahead of the work.
const AHEAD: usize = 128;

/// Files that the manifests in memory may list, about: some list a hundred thousand.
pub(super) const MAX_LISTED: usize = 100_000;
const MAX_SHARE_LISTED: usize = 10_000;

/// Drops that one light lane takes at a time.
const MAX_SHARE: usize = 16;

/// Drops that are complete and were not put away yet, but for those that the scan will bring later.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Every drop that is on its way, by its claim name.
    on_their_way: HashMap<Arc<str>, OnItsWay>,
    /// How many of them have their outcome.
    settled: usize,
    /// Those whose manifest was not read yet, in order.
    seen: VecDeque<Seen>,
    /// Heads of a line that may go on.
    recalled: VecDeque<(Seen, Target)>,
    /// For each target that is being worked on, the drops that come after.
    lines: HashMap<Target, VecDeque<Seen>>,
    ready: VecDeque<Ready>,
    /// Heads of a line that are heavy, and wait for their lane.
    heavy: VecDeque<(Seen, Target)>,
    is_peeking: bool,
    busy_light_lanes: usize,
    busy_heavy_lanes: usize,
    /// Drops that have to wait for better times.
    postponed: Vec<Next>,
}

/// How far a drop has come.
#[derive(Debug)]
struct OnItsWay {
    /// When the drop became complete.
    since: Moment,
    /// The drop is in `processing/`, or about to be.
    is_claimed: bool,
    /// The drop has its outcome, and has to be put away.
    is_settled: bool,
    /// A new drop of this name has to wait until this one is gone from `processing/`.
    another_waits: bool,
}

/// A drop whose manifest is to be read; with its target where it is the head of that line already.
pub(super) type Next = (Seen, Option<Target>);

impl Queue {
    /// With what a daemon that ended had claimed.
    pub(super) fn new(claimed: Vec<Seen>, leaving: &[Leaving]) -> Self {
        let mut queue = Self::default();
        for seen in &claimed {
            queue.set_out(seen.claim_name(), seen.completed, true);
        }
        for drop in leaving {
            queue.set_out(&drop.claim_name, Moment::now(), true);
            queue.settle(&drop.claim_name, None);
        }
        queue.seen = claimed.into();
        queue
    }

    fn set_out(&mut self, claim_name: &Arc<str>, since: Moment, is_claimed: bool) {
        let drop = OnItsWay {
            since,
            is_claimed,
            is_settled: false,
            another_waits: false,
        };
        self.on_their_way.insert(Arc::clone(claim_name), drop);
    }

    /// Every drop that is on its way, by its claim name.
    pub(super) fn known(&self) -> HashSet<Arc<str>> {
        self.on_their_way.keys().cloned().collect()
    }

    /// Behind a backlog that is known, another look can wait: what is new comes after it.
    pub(super) fn is_long(&self) -> bool {
        self.seen.len() >= AHEAD
    }

    /// Whether a drop for `target` is on its way.
    pub(super) fn has_line(&self, target: &Target) -> bool {
        self.lines.contains_key(target)
    }

    /// How many drops are known that have no outcome yet.
    pub(super) fn waiting(&self) -> usize {
        self.on_their_way.len() - self.settled
    }

    /// Since when the first of those is complete.
    pub(super) fn oldest(&self) -> Option<Moment> {
        let waiting = self.on_their_way.values().filter(|drop| !drop.is_settled);
        waiting.map(|drop| drop.since).min()
    }

    /// Drops that wait for better times.
    pub(super) fn postponed(&self) -> usize {
        self.postponed.len()
    }

    /// Takes up what a scan has found; `known` are names that it has met again.
    pub(super) fn take_found(&mut self, found: Vec<Seen>, known: &[Arc<str>]) {
        for claim_name in known {
            if let Some(drop) = self.on_their_way.get_mut(claim_name) {
                drop.another_waits = drop.is_claimed;
            }
        }
        // One that was claimed while the scan was under way is in hand already.
        for seen in found {
            if !self.on_their_way.contains_key(seen.claim_name()) {
                self.set_out(seen.claim_name(), seen.completed, false);
                self.seen.push_back(seen);
            }
        }
    }

    /// The next drops whose manifest is to be read, unless others are being read. What is read is to
    /// be given to [`Queue::take_ready`], and its end told by [`Queue::end_peeking`].
    pub(super) fn next_to_peek(&mut self) -> Option<Vec<Next>> {
        let listed = || self.ready.iter().map(Ready::listed).sum::<usize>();
        if self.is_peeking || self.ready.len() >= AHEAD || listed() >= MAX_LISTED {
            return None;
        }
        let recalled = self.recalled.drain(..);
        let mut drops: Vec<_> = recalled.map(|(seen, line)| (seen, Some(line))).collect();
        let others = self.seen.len().min(AHEAD);
        drops.extend(self.seen.drain(..others).map(|seen| (seen, None)));
        self.is_peeking = !drops.is_empty();
        self.is_peeking.then_some(drops)
    }

    /// No manifests are being read any more; these drops were left over.
    pub(super) fn end_peeking(&mut self, rest: Vec<Next>) {
        self.is_peeking = false;
        self.take_back(rest);
    }

    /// Drops whose manifest is to be read again come before all others, in their order.
    fn take_back(&mut self, drops: Vec<Next>) {
        // From the last to the first, each to the front: the first is first again.
        for (seen, line) in drops.into_iter().rev() {
            match line {
                Some(target) => self.recalled.push_front((seen, target)),
                None => self.seen.push_front(seen),
            }
        }
    }

    /// Puts a drop whose manifest was read into the line of its target. `line`: the drop is the head
    /// of that one already.
    pub(super) fn take_ready(&mut self, ready: Ready, line: Option<Target>) {
        let target = ready.target();
        if line.is_some() && line.as_ref() == target {
            self.ready.push_back(ready);
            return;
        }
        if let Some(others) = target.and_then(|target| self.lines.get_mut(target)) {
            others.push_back(ready.seen);
        } else {
            let line = target.map(|target| (target.clone(), VecDeque::new()));
            self.lines.extend(line);
            self.ready.push_back(ready);
        }
        self.advance(line);
    }

    /// The next drops for a light lane; `None` while all lanes are busy, or no drop is ready. Small
    /// drops go several at a time: to hand one over costs about as much as to stage it.
    pub(super) fn next_light(&mut self) -> Option<Vec<Ready>> {
        let lanes = light_lanes();
        if self.busy_light_lanes >= lanes || self.ready.is_empty() {
            return None;
        }
        self.busy_light_lanes += 1;
        let share = (self.ready.len() / lanes).clamp(1, MAX_SHARE);
        let mut batch = Vec::with_capacity(share);
        let mut listed = 0;
        while batch.len() < share
            && listed < MAX_SHARE_LISTED
            && let Some(ready) = self.ready.pop_front()
        {
            listed += ready.listed();
            if let Some(drop) = self.on_their_way.get_mut(ready.seen.claim_name()) {
                drop.is_claimed = true;
            }
            batch.push(ready);
        }
        Some(batch)
    }

    /// A light lane is free again.
    pub(super) fn leave_light_lane(&mut self) {
        self.busy_light_lanes -= 1;
    }

    /// Whether drops are in a light lane, or will soon be.
    pub(super) fn is_busy(&self) -> bool {
        self.busy_light_lanes > 0 || !self.ready.is_empty()
    }

    /// Whether a heavy drop may be worked on at once. If not, it waits for its lane, and what was
    /// opened of it is to be closed: many may wait.
    pub(super) fn enter_heavy_lane(&mut self, seen: Seen, target: &Target) -> bool {
        let is_free = self.busy_heavy_lanes < HEAVY_LANES && self.heavy.is_empty();
        if is_free {
            self.busy_heavy_lanes += 1;
        } else {
            self.heavy.push_back((seen, target.clone()));
        }
        is_free
    }

    /// The next heavy drop that waited for its lane, if that is free now.
    pub(super) fn next_heavy(&mut self) -> Option<(Seen, Target)> {
        if self.busy_heavy_lanes >= HEAVY_LANES {
            return None;
        }
        let next = self.heavy.pop_front()?;
        self.busy_heavy_lanes += 1;
        Some(next)
    }

    /// A heavy lane is free again.
    pub(super) fn leave_heavy_lane(&mut self) {
        self.busy_heavy_lanes -= 1;
    }

    /// The target of a line is free: the next drop in its line may go on.
    pub(super) fn advance(&mut self, line: Option<Target>) {
        let Some(target) = line else { return };
        match self.lines.get_mut(&target).map(VecDeque::pop_front) {
            Some(Some(next)) => self.recalled.push_back((next, target)),
            Some(None) => drop(self.lines.remove(&target)),
            None => {}
        }
    }

    /// A drop has its outcome, and is on its way until it was put away. The next one in its line may
    /// go on.
    pub(super) fn settle(&mut self, claim_name: &str, line: Option<Target>) {
        if let Some(drop) = self.on_their_way.get_mut(claim_name) {
            self.settled += usize::from(!drop.is_settled);
            drop.is_settled = true;
        }
        self.advance(line);
    }

    /// A drop is not on its way any more: it was put away, or has gone from `incoming/`.
    ///
    /// Returns whether another of its name waits in `incoming/`.
    pub(super) fn let_go(&mut self, claim_name: &str) -> bool {
        let gone = self.on_their_way.remove(claim_name);
        gone.is_some_and(|drop| {
            self.settled -= usize::from(drop.is_settled);
            drop.another_waits
        })
    }

    /// A drop has to wait. Its target stays taken: a later drop for it must not overtake.
    pub(super) fn postpone(&mut self, seen: Seen, line: Option<Target>) {
        self.postponed.push((seen, line));
    }

    /// Those that had to wait are tried again.
    pub(super) fn retry_postponed(&mut self) {
        let postponed = std::mem::take(&mut self.postponed);
        self.take_back(postponed);
    }
}

/// Light drops are worked on in so many threads: more than there are processors, because they wait
/// for the disk.
fn light_lanes() -> usize {
    2 * processors()
}
