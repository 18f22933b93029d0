//! Work on drops side by side, shared out among importers in turn.
//!
//! A drop is worked on in a lane of its weight, so that none waits behind one that takes much longer;
//! and of the lanes of a weight the last free one is for an importer who has none. What one importer's
//! light or heavy drops take of the processors is bounded, too, while another's are worked on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::spool::{Ready, Seen};
use crate::sys::processors;
use crate::words::Target;

/// Drops that one light lane takes at a time.
const MAX_SHARE: usize = 16;

/// Manifests of one importer that are read ahead of the work, about.
const AHEAD: usize = 128;

/// Files that the manifests in memory may list, about: some list a hundred thousand. An importer of
/// whom none is read may have one in any case.
pub(super) const MAX_LISTED: usize = 100_000;
const MAX_SHARE_LISTED: usize = 10_000;

/// Lanes for drops that are not light. Of those for middle ones an importer may have two, so that one
/// endless drop holds up no other of its importer's; of those for heavy ones, which keep a processor
/// busy for minutes, one.
pub(super) const LANES: usize = 3;

/// A drop of more is no light one, and one of more than the second is heavy; in bytes. An ordinary
/// initrd waits for no disk image.
const MIDDLE: u64 = 64 << 20;
const HEAVY: u64 = 1 << 30;

/// For so long after work on a middle drop has begun, and while that goes on, nothing is done for others:
/// an ordinary image has the processors and the disk for itself, mostly. Not more than half of the time
/// goes so.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long work on a drop takes, about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Light,
    Middle,
    Heavy,
}

impl Weight {
    pub(super) fn of(bytes: u64) -> Self {
        match bytes {
            ..MIDDLE => Self::Light,
            MIDDLE..HEAVY => Self::Middle,
            HEAVY.. => Self::Heavy,
        }
    }
}

/// Light drops are worked on in so many threads: more than there are processors, because they wait
/// for the disk.
pub(super) fn light_lanes() -> usize {
    (2 * processors()).clamp(4, 16)
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Drops whose manifest was read.
    ready: Turns<Ready>,
    /// Heads of a line, which wait for their lane.
    middle: Turns<(Seen, Target)>,
    heavy: Turns<(Seen, Target)>,
    ahead: HeadStart,
}

/// Who has a head start.
#[derive(Debug, Default)]
struct HeadStart {
    /// The importer, and until when.
    now: Option<(u32, Instant)>,
    /// No other is given before.
    next: Option<Instant>,
}

impl HeadStart {
    fn give(&mut self, owner: u32) {
        let now = Instant::now();
        if self.next.is_none_or(|next| next <= now) {
            self.now = Some((owner, now + HEAD_START));
            self.next = Some(now + 2 * HEAD_START);
        }
    }

    fn now(&self) -> Option<(u32, Instant)> {
        self.now.filter(|(_, until)| *until > Instant::now())
    }

    /// Whether another importer has one.
    fn is_of_other(&self, owner: u32) -> bool {
        self.now().is_some_and(|(other, _)| other != owner)
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            ready: Turns::new(light_lanes(), light_lanes() - 1),
            middle: Turns::new(LANES, LANES - 1),
            heavy: Turns::new(LANES, 1),
            ahead: HeadStart::default(),
        }
    }
}

impl Lanes {
    /// Whether manifests of more of an importer's drops may be read: there is room for them, and nobody
    /// else has a head start.
    pub(super) fn may_read(&self, owner: u32) -> bool {
        if self.ahead.is_of_other(owner) {
            return false;
        }
        let own = self.ready.waiting.get(&owner).map_or(0, VecDeque::len);
        let listed = || self.ready.all().map(Ready::listed).sum::<usize>();
        own == 0 || (own < AHEAD && listed() < MAX_LISTED)
    }

    pub(super) fn add(&mut self, ready: Ready) {
        self.ready.add(ready.seen.owner, ready);
    }

    /// The next drops for a light lane, all of the importer that they come with; `None` while no lane
    /// is free for one that is ready. Small drops go several at a time: to hand one over costs about
    /// as much as to stage it.
    pub(super) fn next_light(&mut self) -> Option<(u32, Vec<Ready>)> {
        let others = |owner| {
            let mut busy = self.middle.busy.iter().chain(&self.heavy.busy);
            busy.any(|other| *other != owner)
        };
        let is_behind = |owner| self.ahead.is_of_other(owner);
        // Processors and disk are another's as well.
        let may_go_on = |owner, own| !is_behind(owner) && (own == 0 || !others(owner));
        self.ready.next(may_go_on, |ready| {
            let share = (ready.len() / light_lanes()).clamp(1, MAX_SHARE);
            let (mut batch, mut listed) = (Vec::with_capacity(share), 0);
            while batch.len() < share
                && listed < MAX_SHARE_LISTED
                && let Some(ready) = ready.pop_front()
            {
                listed += ready.listed();
                batch.push(ready);
            }
            batch
        })
    }

    /// A light lane is free again; these drops were not begun for want of time.
    pub(super) fn leave_light(&mut self, owner: u32, rest: Vec<Ready>) {
        self.ready.leave(owner);
        for ready in rest.into_iter().rev() {
            self.ready.add_first(owner, ready);
        }
    }

    /// Whether drops are in a light lane, or will soon be.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.busy.is_empty() || !self.ready.waiting.is_empty()
    }

    /// Whether a drop that is not light may be worked on at once. If not, it waits for its lane, and
    /// what was opened of it is to be closed: many may wait.
    pub(super) fn enter(&mut self, weight: Weight, seen: Seen, target: &Target) -> bool {
        let (owner, turns) = (seen.owner, self.of(weight));
        let is_free = !turns.waiting.contains_key(&owner) && turns.is_free_for(owner);
        if is_free {
            turns.busy.push(owner);
            if weight == Weight::Middle {
                self.ahead.give(owner);
            }
        } else {
            turns.add(owner, (seen, target.clone()));
        }
        is_free
    }

    /// The importer who has a head start, and until when: what is done for others waits so long.
    pub(super) fn head_start(&self) -> Option<(u32, Instant)> {
        self.ahead.now()
    }

    /// The next drop that waited for its lane, if that is free now.
    pub(super) fn next(&mut self) -> Option<(Weight, Seen, Target)> {
        let next = [Weight::Middle, Weight::Heavy]
            .into_iter()
            .find_map(|weight| {
                let (_, next) = self.of(weight).next(|_, _| true, VecDeque::pop_front)?;
                next.map(|(seen, target)| (weight, seen, target))
            });
        if let Some((Weight::Middle, seen, _)) = &next {
            self.ahead.give(seen.owner);
        }
        next
    }

    /// Heads of a line that wait for their lane.
    pub(super) fn held_back(&self) -> impl Iterator<Item = &Seen> {
        self.middle
            .all()
            .chain(self.heavy.all())
            .map(|(seen, _)| seen)
    }

    /// A lane, which a drop of this importer had, is free again.
    pub(super) fn leave(&mut self, weight: Weight, owner: u32) {
        self.of(weight).leave(owner);
        let is_over = |(other, _): &mut _| weight == Weight::Middle && *other == owner;
        self.ahead.now.take_if(is_over);
    }

    fn of(&mut self, weight: Weight) -> &mut Turns<(Seen, Target)> {
        match weight {
            Weight::Heavy => &mut self.heavy,
            Weight::Light | Weight::Middle => &mut self.middle,
        }
    }
}

/// The importer whose turn it is, of those who have something waiting and may go on: the next one after
/// the last.
pub(super) fn whose_turn<T>(
    waiting: &BTreeMap<u32, T>,
    last: u32,
    may_go_on: impl Fn(u32) -> bool,
) -> Option<u32> {
    let after = waiting.range(last.saturating_add(1)..);
    let mut all = after.chain(waiting).map(|(owner, _)| *owner);
    all.find(|owner| may_go_on(*owner))
}

/// What waits for a lane, of each importer in turn.
#[derive(Debug)]
struct Turns<T> {
    /// In the order of each importer; none is empty.
    waiting: BTreeMap<u32, VecDeque<T>>,
    /// The importer whose turn was last.
    last: u32,
    /// The importers whose drops are being worked on.
    busy: Vec<u32>,
    lanes: usize,
    /// So many lanes one importer may have.
    own: usize,
}

impl<T> Turns<T> {
    fn new(lanes: usize, own: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            last: 0,
            busy: Vec::new(),
            lanes,
            own,
        }
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().flatten()
    }

    fn add(&mut self, owner: u32, thing: T) {
        self.waiting.entry(owner).or_default().push_back(thing);
    }

    fn add_first(&mut self, owner: u32, thing: T) {
        self.waiting.entry(owner).or_default().push_front(thing);
    }

    /// The lanes that this importer has.
    fn own(&self, owner: u32) -> usize {
        self.busy.iter().filter(|other| **other == owner).count()
    }

    /// Whether there is a lane for this importer.
    fn is_free_for(&self, owner: u32) -> bool {
        let (free, own) = (self.lanes - self.busy.len(), self.own(owner));
        own < self.own && (free > 1 || (free == 1 && own == 0))
    }

    /// Takes a lane for the importer whose turn it is, of those who `may_go_on` with as many as they
    /// have, and of what the importer has waiting as much as `take` does.
    fn next<R>(
        &mut self,
        may_go_on: impl Fn(u32, usize) -> bool,
        take: impl FnOnce(&mut VecDeque<T>) -> R,
    ) -> Option<(u32, R)> {
        let owner = whose_turn(&self.waiting, self.last, |owner| {
            self.is_free_for(owner) && may_go_on(owner, self.own(owner))
        })?;
        let waiting = self.waiting.get_mut(&owner)?;
        let taken = take(waiting);
        if waiting.is_empty() {
            self.waiting.remove(&owner);
        }
        self.last = owner;
        self.busy.push(owner);
        Some((owner, taken))
    }

    fn leave(&mut self, owner: u32) {
        let lane = self.busy.iter().position(|other| *other == owner);
        if let Some(lane) = lane {
            self.busy.swap_remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Moment;

    impl Lanes {
        /// Forgets what says nothing about drops.
        pub(crate) fn forget_times(&mut self) {
            self.ahead = HeadStart::default();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn light_drops_wait_while_a_middle_one_of_another_has_a_head_start_half_of_the_time() {
        let target: Target = "a/b/c/d".parse().unwrap();
        let seen = |owner| Seen::for_test("drop", owner, Moment::now());
        let manifest =
            || crate::spool::Manifest::new(target.clone(), crate::spool::Action::default());
        let mut lanes = Lanes::default();
        for _ in 0..100 {
            lanes.add(Ready::for_test(seen(1), Ok(manifest())));
        }
        assert!(lanes.enter(Weight::Middle, seen(2), &target));
        assert!(lanes.next_light().is_none());
        // The other's own are not behind.
        lanes.add(Ready::for_test(seen(2), Ok(manifest())));
        assert_eq!(lanes.next_light().map(|(owner, _)| owner), Some(2));
        assert!(!lanes.may_read(3) && lanes.may_read(2));
        assert_eq!(lanes.head_start(), Some((2, Instant::now() + HEAD_START)));
        tokio::time::advance(HEAD_START).await;
        assert_eq!(lanes.head_start(), None);
        assert!(lanes.may_read(3));
        assert_eq!(lanes.next_light().map(|(owner, _)| owner), Some(1));
        assert!(
            lanes.next_light().is_none(),
            "one lane beside another's drop"
        );
        // Whoever comes then has no head start of its own.
        assert!(lanes.enter(Weight::Middle, seen(3), &target));
        lanes.leave_light(1, Vec::new());
        assert!(lanes.next_light().is_some());
        lanes.leave_light(1, Vec::new());
        tokio::time::advance(HEAD_START).await;
        lanes.leave(Weight::Middle, 3);
        assert!(lanes.enter(Weight::Middle, seen(3), &target));
        assert!(lanes.next_light().is_none());
        lanes.leave(Weight::Middle, 3);
        assert!(lanes.next_light().is_some(), "it is over with the drop");
    }

    #[test]
    fn of_heavy_lanes_one_importer_has_one() {
        let target: Target = "a/b/c/d".parse().unwrap();
        let seen = |owner| Seen::for_test("drop", owner, Moment::now());
        let mut lanes = Lanes::default();
        for (owner, weight, is_free) in [
            (1, Weight::Heavy, true),
            (1, Weight::Heavy, false),
            (2, Weight::Heavy, true),
            (3, Weight::Heavy, true),
            (1, Weight::Middle, true),
            (1, Weight::Middle, true),
            (1, Weight::Middle, false),
            (2, Weight::Middle, true),
        ] {
            assert_eq!(
                lanes.enter(weight, seen(owner), &target),
                is_free,
                "{owner} {weight:?}"
            );
        }
    }
}
