//! Drops that are to be looked into: of each importer in turn, and those that wait when it is time.
//!
//! Looks of one importer are made one after the other, in the order of the drops: so two of them are
//! never reordered, and however many they are, or however long they take, another importer's drop
//! waits for none of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::lanes::whose_turn;
use super::overview::Overview;
use crate::spool::{DropKey, Seen};
use crate::words::{Moment, Target};

/// A drop that is to be looked into; with its target where it is the head of that line already.
pub(super) type Next = (Seen, Option<Target>);

/// Importers whose drops are looked into at a time.
const LANES: usize = 2;

/// Drops of one importer that are looked into before it is another's turn, at most.
const TOGETHER: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Looks {
    /// What is to be looked into now, by the user who dropped it; the next one first. None is empty.
    due: BTreeMap<u32, VecDeque<Next>>,
    /// The importers whose drops are being looked into.
    busy: BTreeSet<u32>,
    /// Importers whose next drop is to be looked into at this time, and none before.
    held_up: HashMap<u32, Instant>,
    /// When the drops of an importer that wait were taken up last, all at once.
    taken_up: HashMap<u32, Instant>,
    /// The importer whose turn was last.
    last: u32,
    /// Drops that wait, by their claim name.
    waiting: HashMap<DropKey, Seen>,
    /// When each of those is due.
    times: BTreeSet<(Instant, DropKey)>,
}

impl Looks {
    /// A drop that is new, or may be whole by now: of its importer's others, those that wait may have
    /// become whole before.
    pub(super) fn add_new(&mut self, seen: Seen) {
        self.take_up_before(&seen);
        self.add(seen);
    }

    /// A drop that is to be looked into comes after those of its importer that became whole before.
    fn add(&mut self, seen: Seen) {
        let due = self.due.entry(seen.owner).or_default();
        let is_later = |(other, line): &Next| line.is_none() && seen.in_order(other).is_lt();
        let after = due.iter().rposition(|next| !is_later(next));
        due.insert(after.map_or(0, |at| at + 1), (seen, None));
    }

    /// Drops that are to be looked into once more; the head of a line comes before all others.
    pub(super) fn take_back(&mut self, drops: Vec<Next>) {
        for (seen, line) in drops {
            if line.is_some() {
                let due = self.due.entry(seen.owner).or_default();
                due.push_front((seen, line));
            } else {
                self.add(seen);
            }
        }
    }

    /// A drop that a look has shown to be not whole.
    pub(super) fn wait(&mut self, seen: Seen) {
        if seen.holds_up() {
            self.held_up.insert(seen.owner, due_at(&seen));
            return self.add_new(seen);
        }
        let key = seen.key().clone();
        self.times.insert((due_at(&seen), key.clone()));
        self.waiting.insert(key, seen);
    }

    /// An event tells of a rename to the name of a drop that may wait.
    pub(super) fn hear_of_rename(&mut self, key: &DropKey, arrival: u64) {
        let Some(mut seen) = self.waiting.remove(key) else {
            return;
        };
        let before = (due_at(&seen), key.clone());
        if seen.hear_of_rename(arrival) {
            self.times.remove(&before);
            self.add_new(seen);
        } else {
            self.waiting.insert(before.1, seen);
        }
    }

    /// Takes up all that waits: something else may be waited for now.
    pub(super) fn take_up_all(&mut self) {
        self.times.clear();
        self.held_up.clear();
        for mut seen in std::mem::take(&mut self.waiting).into_values() {
            seen.waits = None;
            self.add(seen);
        }
    }

    /// Takes up what of an importer may have become whole before this drop. What lacks something is
    /// asked no more often than once in a tick of the clock that gives drops their order.
    fn take_up_before(&mut self, seen: &Seen) {
        let now = Instant::now();
        let last = self.taken_up.get(&seen.owner);
        let is_asked = last.is_some_and(|last| now - *last < Moment::TICK);
        if !is_asked {
            self.taken_up.insert(seen.owner, now);
        }
        let is_meant = |other: &Seen| {
            let is_earlier = other.waits_for_time() && other.in_order(seen).is_lt();
            other.owner == seen.owner && (is_earlier || !(is_asked || other.waits_for_time()))
        };
        let waiting = self.waiting.extract_if(|_, other| is_meant(other));
        for (_, other) in waiting.collect::<Vec<_>>() {
            let key = other.key().clone();
            self.times.remove(&(due_at(&other), key));
            self.add(other);
        }
    }

    /// Takes up what has waited until now.
    fn wake_up(&mut self) {
        let now = Instant::now();
        let is_due = |first: Option<&(Instant, _)>| first.is_some_and(|(at, _)| *at <= now);
        while is_due(self.times.first())
            && let Some((_, key)) = self.times.pop_first()
        {
            match self.waiting.remove(&key) {
                Some(seen) if seen.waits_for_time() => self.add_new(seen),
                Some(seen) => self.add(seen),
                None => {}
            }
        }
        self.held_up.retain(|_, at| *at > now);
        self.taken_up.retain(|_, at| now - *at < Moment::TICK);
    }

    /// The next drops to be looked into, all of one importer who may go on, whose others wait until
    /// [`Looks::end`]. `None` while there are none, or enough are being looked into.
    pub(super) fn next(&mut self, may_go_on: impl Fn(u32) -> bool) -> Option<(u32, Vec<Next>)> {
        self.wake_up();
        if self.busy.len() >= LANES {
            return None;
        }
        let owner = whose_turn(&self.due, self.last, |owner| {
            let is_held_up = self.busy.contains(&owner) || self.held_up.contains_key(&owner);
            !is_held_up && may_go_on(owner)
        })?;
        let due = self.due.get_mut(&owner)?;
        let drops = due.drain(..due.len().min(TOGETHER)).collect();
        if due.is_empty() {
            self.due.remove(&owner);
        }
        self.last = owner;
        self.busy.insert(owner);
        Some((owner, drops))
    }

    /// A look at drops of this importer has ended; these were left over.
    pub(super) fn end(&mut self, owner: u32, rest: Vec<Next>) {
        self.busy.remove(&owner);
        self.take_back(rest);
    }

    /// When the first of the drops that wait is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let times = self.times.first().map(|(at, _)| *at);
        times
            .into_iter()
            .chain(self.held_up.values().copied())
            .min()
    }

    /// Whether the drop of this claim name waits.
    pub(super) fn is_waiting(&self, key: &DropKey) -> bool {
        self.waiting.contains_key(key)
    }

    /// How many drops wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many drops of an importer wait.
    pub(super) fn waiting_of(&self, owner: u32) -> usize {
        let waiting = self.waiting.values();
        waiting.filter(|seen| seen.owner == owner).count()
    }

    /// What the drops lack that are not whole.
    pub(super) fn tell(&self, overview: &mut Overview) {
        for seen in self.waiting.values() {
            overview.tell_of(seen);
        }
    }

    /// Whether a drop waits for nothing but that it was not changed for a while.
    pub(super) fn is_settling(&self) -> bool {
        !self.held_up.is_empty() || self.waiting.values().any(Seen::is_settling)
    }
}

fn due_at(seen: &Seen) -> Instant {
    let next = seen.waits.as_ref().map(|waits| waits.next);
    next.map_or_else(Instant::now, Instant::from_std)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Looks {
        /// Forgets what says nothing about drops.
        pub(crate) fn forget_times(&mut self) {
            self.taken_up.clear();
        }
    }

    fn seen(owner: u32, number: usize) -> Seen {
        Seen::for_test(&format!("{owner}-{number}"), owner, Moment::now())
    }

    #[test]
    fn importers_are_looked_at_in_turn_however_many_drops_one_has() {
        let mut looks = Looks::default();
        for owner in 1..=3 {
            for number in 0..3 * TOGETHER {
                looks.add(seen(owner, number));
            }
        }
        let turns: Vec<_> = std::iter::from_fn(|| {
            let (owner, _) = looks.next(|_| true)?;
            looks.end(owner, Vec::new());
            Some(owner)
        })
        .collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn by_new_settings_whatever_waits_is_looked_into_anew() {
        let mut looks = Looks::default();
        looks.wait(seen(1, 0).waiting_for_test());
        looks.take_up_all();
        let (_, drops) = looks.next(|_| true).unwrap();
        assert!(drops[0].0.waits.is_none(), "{drops:?}");
    }

    #[test]
    fn a_rename_ends_the_wait_of_a_drop() {
        let mut looks = Looks::default();
        let waiting = seen(1, 0).waiting_for_test();
        let key = waiting.key().clone();
        looks.wait(waiting);
        looks.hear_of_rename(&key, 7);
        assert_eq!(looks.waiting(), 0);
        let (_, drops) = looks.next(|_| true).unwrap();
        assert!(drops[0].0.waits.is_none(), "{drops:?}");
    }
}
