//! Drops on their way from the scan to the work.
//!
//! Drops for one target stand in a line: only its head is claimed and worked on, so that two are
//! never reordered. What waits is little more than a name: a manifest is read a while before the
//! work, and an image is opened when the work begins.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::decision::Decided;
use super::lanes::{Lanes, Weight};
use super::lines::Lines;
use super::looks::{Looks, Next};
use super::overview::Overview;
use super::report::Report;
use super::shares::Shares;
use super::troubles::Troubles;
use crate::fault::{Fault, Rejection};
use crate::settings::SpoolSettings;
use crate::spool::{Claimed, DropKey, Leaving, Ready, Scan, Seen, WaitState};
use crate::words::{Moment, Reason, Target};

/// Drops that are complete and were not put away yet, but for those that the scan will bring later.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Every drop that is on its way.
    on_their_way: HashMap<DropKey, OnItsWay>,
    /// How many of them have their outcome.
    settled: usize,
    /// Drops that are to be looked into, and those that are not whole.
    looks: Looks,
    lines: Lines,
    lanes: Lanes,
    /// How many drops of an importer wait: none of them has its outcome.
    waiting_of: Shares,
    /// Drops that could not be worked on, and wait for the next try.
    postponed: Vec<Next>,
}

/// How far a drop has come.
#[derive(Debug)]
struct OnItsWay {
    /// The user whose drop it is.
    owner: u32,
    /// When the drop became complete.
    since: Moment,
    /// The drop is in `processing/`, or about to be.
    is_claimed: bool,
    /// The drop has its outcome, and has to be put away.
    is_settled: bool,
    /// A new drop of this importer and name has to wait until this one is gone from `processing/`.
    another_waits: bool,
}

impl Queue {
    /// A queue of what a daemon that ended had claimed: drops to be worked on, and to be put away.
    pub(super) fn new(claimed: Vec<Seen>, leaving: &[Leaving]) -> Self {
        let mut queue = Self::default();
        for seen in &claimed {
            queue.set_out(seen.key(), seen.owner, seen.completed, true);
        }
        for drop in leaving {
            queue.set_out(&drop.key, drop.key.owner, Moment::now(), true);
            queue.settle(&drop.key, None);
        }
        for seen in claimed {
            queue.looks.add_new(seen);
        }
        queue
    }

    /// Notes that a drop is on its way.
    fn set_out(&mut self, key: &DropKey, owner: u32, since: Moment, is_claimed: bool) {
        self.waiting_of.add(owner);
        let drop = OnItsWay {
            owner,
            since,
            is_claimed,
            is_settled: false,
            another_waits: false,
        };
        self.on_their_way.insert(key.clone(), drop);
    }

    /// Every drop that has no outcome yet, and what it waits for, as far as that shows here.
    pub(super) fn overview(&self, troubles: &Troubles, report: &Report) -> Overview {
        let mut overview = Overview::default();
        let on_their_way = self.on_their_way.iter();
        for (key, drop) in on_their_way.filter(|(_, drop)| !drop.is_settled) {
            overview.add(key, drop.owner, drop.since, drop.is_claimed);
        }
        self.lines.tell(&mut overview);
        for seen in self.lanes.held_back() {
            let why = "its turn among large images";
            overview.tell(seen.key(), WaitState::Queued, why);
        }
        for (seen, _) in &self.postponed {
            let why = troubles.of(seen.key()).unwrap_or("the next try");
            overview.tell(seen.key(), WaitState::Trouble, why);
        }
        self.looks.tell(&mut overview);
        report.tell_works(&mut overview, |target| self.lines.head(target));
        overview
    }

    /// Every drop that is on its way, and whether it is claimed.
    pub(super) fn known(&self) -> impl Iterator<Item = (DropKey, bool)> {
        let drops = self.on_their_way.iter();
        drops.map(|(key, drop)| (key.clone(), drop.is_claimed))
    }

    /// Whether it is worth the while to look for more drops of an importer: half of those that may wait
    /// have gone, or no other can go on.
    pub(super) fn has_room(&self, owner: u32, max_waiting: usize) -> bool {
        let waiting = self.waiting_of.of(owner);
        let is_stuck = || waiting < max_waiting && waiting == self.looks.waiting_of(owner);
        waiting <= max_waiting / 2 || is_stuck()
    }

    /// How many drops of each importer wait.
    pub(super) fn waiting_of(&self) -> &HashMap<u32, usize> {
        self.waiting_of.all()
    }

    /// Whether no drop for `target` is worked on: some may wait for room that others take.
    pub(super) fn is_free(&self, target: &Target) -> bool {
        self.lines.is_idle(target)
    }

    /// How many drops are known that have no outcome yet, without those that are not whole.
    pub(super) fn waiting(&self) -> usize {
        self.on_their_way.len() - self.settled - self.looks.waiting()
    }

    /// How many drops let others pass.
    pub(super) fn aside(&self) -> usize {
        self.lines.aside()
    }

    /// How many drops are not whole.
    pub(super) fn incomplete(&self) -> usize {
        self.looks.waiting()
    }

    /// Whether a drop waits for nothing but that nobody changes it for a while.
    pub(super) fn is_settling(&self) -> bool {
        self.looks.is_settling()
    }

    /// The settings have changed: drops that are not whole are looked into by the new ones.
    pub(super) fn begin_anew(&mut self) {
        self.looks.take_up_all();
    }

    /// When a drop that waits is to be looked into, or may be worked on.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        let head_start = self.head_start().map(|(_, until)| until);
        let times = [self.looks.next_due(), head_start];
        times.into_iter().flatten().min()
    }

    /// As [`Lanes::head_start`].
    pub(super) fn head_start(&self) -> Option<(u32, Instant)> {
        self.lanes.head_start()
    }

    /// Since when the first of those is complete.
    pub(super) fn oldest(&self) -> Option<Moment> {
        let waits = |key: &DropKey, drop: &OnItsWay| drop.is_settled || self.looks.is_waiting(key);
        let waiting = self.on_their_way.iter();
        let waiting = waiting.filter(|(key, drop)| !waits(key, drop));
        waiting.map(|(_, drop)| drop.since).min()
    }

    /// How many drops wait for the next try.
    pub(super) fn postponed(&self) -> usize {
        self.postponed.len() + self.lines.aside()
    }

    /// Takes up what a scan has found. Returns whether it is to look again: a known drop that it has met
    /// has gone since it began, or was claimed, and what it has met is another's.
    pub(super) fn take_found(&mut self, scan: Scan) -> bool {
        let mut is_one_missed = false;
        for met in &scan.met {
            if let Some(arrival) = met.arrival {
                self.looks.hear_of_rename(&met.key, arrival);
            }
            match self.on_their_way.get_mut(&met.key) {
                Some(drop) if drop.is_claimed && met.was_incoming => is_one_missed = true,
                Some(drop) => drop.another_waits = drop.is_claimed,
                None => is_one_missed = true,
            }
        }
        // Two names may have one claim name: the second drop has to wait until the first is gone.
        for seen in scan.found {
            if !self.on_their_way.contains_key(seen.key()) {
                self.set_out(seen.key(), seen.owner, seen.completed, false);
                self.looks.add_new(seen);
            }
        }
        is_one_missed
    }

    /// The next drops that are to be looked into, all of the importer that they come with, unless
    /// enough was. What was found is to be given to [`Queue::take_ready`] or [`Queue::take_waiting`],
    /// and the end told by [`Queue::end_peeking`].
    pub(super) fn next_to_peek(&mut self) -> Option<(u32, Vec<Next>)> {
        self.looks.next(|owner| self.lanes.may_read(owner))
    }

    /// No drops of this importer are being looked into any more; these were left over.
    pub(super) fn end_peeking(&mut self, owner: u32, rest: Vec<Next>) {
        self.looks.end(owner, rest);
    }

    /// A drop is not whole, and waits. `line`: the drop was the head of that one.
    pub(super) fn take_waiting(&mut self, seen: Seen, line: Option<Target>) {
        self.belongs_to(&seen);
        self.looks.wait(seen);
        self.advance(line);
    }

    /// A drop is kept by its owner from being claimed, and waits.
    pub(super) fn wait_for_owner(
        &mut self,
        mut seen: Seen,
        line: Option<Target>,
        settings: &SpoolSettings,
    ) {
        seen.wait_for_owner(settings);
        self.take_waiting(seen, line);
    }

    /// Puts a drop whose manifest was read into the line of its target. `line`: the drop is the head
    /// of that one already.
    pub(super) fn take_ready(&mut self, ready: Ready, line: Option<Target>) {
        self.belongs_to(&ready.seen);
        let target = ready.target();
        if line.is_some() && line.as_ref() == target {
            self.lanes.add(ready);
            return;
        }
        if target.is_none_or(|target| self.lines.enter(target, &ready.seen)) {
            self.lanes.add(ready);
        }
        self.advance(line);
    }

    /// As [`Lanes::next_light`].
    pub(super) fn next_light(&mut self) -> Option<(u32, Vec<Ready>)> {
        let (owner, batch) = self.lanes.next_light()?;
        self.set_claimed(&batch, true);
        Some((owner, batch))
    }

    /// As [`Lanes::leave_light`].
    pub(super) fn leave_light_lane(&mut self, owner: u32, rest: Vec<Ready>) {
        self.set_claimed(&rest, false);
        self.lanes.leave_light(owner, rest);
    }

    fn set_claimed(&mut self, drops: &[Ready], is_claimed: bool) {
        for ready in drops {
            let is_incoming = ready.seen.is_incoming();
            if let Some(drop) = self.on_their_way.get_mut(ready.seen.key()) {
                drop.is_claimed = is_claimed || !is_incoming;
            }
        }
    }

    /// Whether drops are in a light lane, or will soon be.
    pub(super) fn is_busy(&self) -> bool {
        self.lanes.is_busy()
    }

    /// As [`Lanes::enter`].
    pub(super) fn enter_lane(&mut self, weight: Weight, seen: Seen, target: &Target) -> bool {
        self.lanes.enter(weight, seen, target)
    }

    /// As [`Lanes::next`].
    pub(super) fn next_in_lane(&mut self) -> Option<(Weight, Seen, Target)> {
        self.lanes.next()
    }

    /// As [`Lanes::leave`].
    pub(super) fn leave_lane(&mut self, weight: Weight, owner: u32) {
        self.lanes.leave(weight, owner);
    }

    /// The target of a line is free: the next drop in its line may go on.
    pub(super) fn advance(&mut self, line: Option<Target>) {
        if let Some(target) = line
            && let Some(next) = self.lines.advance(&target)
        {
            self.looks.take_back(vec![(next, Some(target))]);
        }
    }

    /// A drop is the head of a line, and can't go on: others may pass.
    pub(super) fn step_aside(
        &mut self,
        target: Target,
        claimed: Claimed,
        reason: Reason,
        fault: &Fault,
    ) {
        let rejection = Rejection::new(reason, fault.to_string());
        self.lines.step_aside(&target, claimed, rejection);
        self.advance(Some(target));
    }

    /// The drops that stepped aside and that this one is to be swapped in before: they are rejected.
    pub(super) fn passed(&mut self, by: &Decided) -> Vec<Decided> {
        let target = by.target.as_ref().filter(|_| by.staged().is_some());
        target.map_or_else(Vec::new, |target| {
            self.lines.passed(target, by.claimed.claim)
        })
    }

    /// A drop has its outcome, and stays known until it was put away. The next one in the line may
    /// go on.
    pub(super) fn settle(&mut self, key: &DropKey, line: Option<Target>) {
        if let Some(drop) = self.on_their_way.get_mut(key)
            && !std::mem::replace(&mut drop.is_settled, true)
        {
            self.settled += 1;
            let owner = drop.owner;
            self.waiting_of.remove(owner);
        }
        self.advance(line.filter(|target| self.lines.is_head(target, key)));
    }

    /// Forgets a drop that was put away, or has gone from the spool.
    ///
    /// Returns whether another of its importer and name waits in `incoming/`.
    pub(super) fn let_go(&mut self, key: &DropKey) -> bool {
        let Some(gone) = self.on_their_way.remove(key) else {
            return false;
        };
        if gone.is_settled {
            self.settled -= 1;
        } else {
            self.waiting_of.remove(gone.owner);
        }
        gone.another_waits
    }

    /// A look has shown whose drop it is.
    fn belongs_to(&mut self, seen: &Seen) {
        if let Some(drop) = self.on_their_way.get_mut(seen.key()) {
            let before = std::mem::replace(&mut drop.owner, seen.owner);
            self.waiting_of.add(seen.owner);
            self.waiting_of.remove(before);
        }
    }

    /// A drop has to wait for the next try. The drop stays the head of its line: a later one for the
    /// target must not overtake.
    pub(super) fn postpone(&mut self, seen: Seen, line: Option<Target>) {
        self.postponed.push((seen, line));
    }

    /// Drops that had to wait are tried again. Returns those that there was no room for in time.
    pub(super) fn retry_postponed(&mut self, timeout: Duration) -> Vec<Decided> {
        let postponed = std::mem::take(&mut self.postponed);
        self.looks.take_back(postponed);
        let (again, late) = self.lines.retry(timeout);
        let again = again.into_iter().map(|(seen, line)| (seen, Some(line)));
        self.looks.take_back(again.collect());
        for target in late.iter().filter_map(|late| late.target.as_ref()) {
            if self.lines.is_idle(target) {
                self.advance(Some(target.clone()));
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{LANES, light_lanes};
    use super::*;
    use std::collections::HashSet;

    use crate::spool::{Action, Manifest};
    use crate::words::ClaimId;
    use proptest::prelude::*;

    const NAMES: usize = 8;
    const TARGETS: usize = 4;
    const IMPORTERS: usize = 3;

    /// What the publisher does with its queue, and what happens outside.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Event {
        Arrival,
        BeginScan,
        EndScan,
        BeginPeek,
        EndPeek,
        BeginLight,
        EndLight,
        BeginHeavy,
        EndHeavy,
        Settle,
        PutAway,
        Retry,
    }

    const EVENTS: [Event; 12] = [
        Event::Arrival,
        Event::BeginScan,
        Event::EndScan,
        Event::BeginPeek,
        Event::EndPeek,
        Event::BeginLight,
        Event::EndLight,
        Event::BeginHeavy,
        Event::EndHeavy,
        Event::Settle,
        Event::PutAway,
        Event::Retry,
    ];

    /// What becomes of a drop that is being worked on.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        GoesOn,
        /// The drop has to wait for better times.
        Waits,
        /// Somebody has removed the drop.
        IsGone,
        /// The drop's importer has put something else in its place.
        IsReplaced,
        /// The drop is not whole.
        IsIncomplete,
        /// There is no room for the drop.
        HasNoRoom,
    }

    #[derive(Debug)]
    struct Drop {
        seen: Seen,
        /// `None` when the manifest is bad.
        target: Option<Target>,
        weight: Weight,
        /// The drop's place among those that scans have found.
        found: usize,
        /// The drop's place among those that were put in line.
        lined_up: usize,
        /// The number of the drop's claim; 0 for none.
        claim: usize,
        /// The drop was postponed before it was put in line: others may be read before it.
        is_late: bool,
        /// The drop was settled, or has gone.
        is_through: bool,
    }

    /// A publisher around a queue, with the drops that are in its hands. Every law is checked as
    /// soon as it can be broken.
    #[derive(Debug, Default)]
    struct World {
        queue: Queue,
        /// By their number: the order in which they arrived.
        drops: Vec<Drop>,
        /// The drops in `incoming/`.
        incoming: Vec<usize>,
        scan: Option<(Vec<usize>, HashMap<DropKey, bool>)>,
        /// Looks at an importer's drops, each with the count when it began.
        peeks: Vec<(u32, Vec<Next>, usize)>,
        light: Vec<(u32, Vec<Ready>)>,
        heavy: Vec<(usize, Target)>,
        decided: Vec<(usize, Option<Target>)>,
        leaving: Vec<usize>,
        /// Claimed drops, and those of them of whose name and importer a scan has met another.
        claimed: HashSet<DropKey>,
        met: HashSet<DropKey>,
        /// How many were found, and put in line.
        count: usize,
        /// The drop that each target is taken by.
        on_the_way: HashMap<Target, usize>,
        /// Drops that there was no room for: others may pass.
        aside: HashSet<usize>,
    }

    fn target(number: usize) -> Target {
        format!("amd64/generic/noble/{number}").parse().unwrap()
    }

    /// One of several drops' fates for this `pick`; all go on for 0.
    fn fate(pick: usize, number: usize) -> Fate {
        match (pick >> (number % 8)) % 16 {
            13 => Fate::Waits,
            14 => Fate::IsGone,
            15 => Fate::IsReplaced,
            12 => Fate::IsIncomplete,
            11 => Fate::HasNoRoom,
            _ => Fate::GoesOn,
        }
    }

    fn take_one<T>(from: &mut Vec<T>, pick: usize) -> Option<T> {
        (!from.is_empty()).then(|| from.remove(pick % from.len()))
    }

    impl World {
        fn key(&self, number: usize) -> DropKey {
            self.drops[number].seen.key().clone()
        }

        fn number(&self, seen: &Seen) -> usize {
            let is_it = |drop: &Drop| drop.seen.completed == seen.completed;
            self.drops.iter().position(is_it).unwrap()
        }

        fn count(&mut self) -> usize {
            self.count += 1;
            self.count
        }

        fn happen(&mut self, event: Event, pick: usize) {
            match event {
                Event::Arrival => self.arrive(pick),
                Event::BeginScan => {
                    let scan = || (self.incoming.clone(), self.queue.known().collect());
                    self.scan = self.scan.take().or_else(|| Some(scan()));
                }
                Event::EndScan => self.end_scan(),
                Event::BeginPeek => {
                    if let Some((owner, drops)) = self.queue.next_to_peek() {
                        assert!(!drops.is_empty(), "nothing is read");
                        let mut others = self.peeks.iter();
                        let is_alone = others.all(|(other, ..)| *other != owner);
                        assert!(is_alone, "two looks at drops of one importer");
                        assert!(drops.iter().all(|(seen, _)| seen.owner == owner));
                        let count = self.count();
                        self.peeks.push((owner, drops, count));
                    }
                }
                Event::EndPeek => self.end_peek(pick),
                Event::BeginLight => {
                    if let Some((owner, drops)) = self.queue.next_light() {
                        assert!(drops.iter().all(|ready| ready.seen.owner == owner));
                        for ready in &drops {
                            self.begin(self.number(&ready.seen), ready.target());
                        }
                        self.light.push((owner, drops));
                    }
                    assert!(self.light.len() <= light_lanes());
                    let same = |(owner, _): &&(u32, _)| *owner == self.light[0].0;
                    let alone = self.light.iter().filter(same).count() == light_lanes();
                    assert!(!alone, "no lane is left for another importer");
                }
                Event::EndLight => {
                    if let Some((owner, mut drops)) = take_one(&mut self.light, pick) {
                        let begun = drops.len().div_ceil(1 + pick % 3);
                        let rest = drops.split_off(begun);
                        for ready in &rest {
                            self.give_back(self.number(&ready.seen), ready.target());
                        }
                        self.queue.leave_light_lane(owner, rest);
                        for ready in drops {
                            self.end(self.number(&ready.seen), ready.target(), pick, false);
                        }
                    }
                }
                Event::BeginHeavy => {
                    if let Some((weight, seen, target)) = self.queue.next_in_lane() {
                        let number = self.number(&seen);
                        assert_eq!(weight, self.drops[number].weight);
                        self.begin_heavy(number, target);
                    }
                }
                Event::EndHeavy => {
                    if let Some((number, target)) = take_one(&mut self.heavy, pick) {
                        let drop = &self.drops[number];
                        self.queue.leave_lane(drop.weight, drop.seen.owner);
                        self.end(number, Some(&target), pick, true);
                    }
                }
                Event::Settle => self.settle(pick),
                Event::PutAway => {
                    if let Some(number) = take_one(&mut self.leaving, pick) {
                        self.let_go(&self.key(number));
                    }
                }
                Event::Retry => self.retry(pick),
            }
        }

        fn arrive(&mut self, pick: usize) {
            let name = format!("drop-{}", pick % NAMES);
            let number = self.drops.len();
            let completed = Moment::from_stat(1_795_364_100 + i64::try_from(number).unwrap(), 0);
            let of = pick / NAMES % (TARGETS + 1);
            let owner = u32::try_from(pick % IMPORTERS).unwrap();
            self.drops.push(Drop {
                seen: Seen::for_test(&name, owner, completed),
                target: (of < TARGETS).then(|| target(of)),
                weight: [Weight::Light, Weight::Middle, Weight::Light, Weight::Heavy]
                    [pick / 64 % 4],
                found: 0,
                lined_up: 0,
                claim: 0,
                is_late: false,
                is_through: false,
            });
            self.incoming.push(number);
        }

        fn end_scan(&mut self) {
            let Some((incoming, known)) = self.scan.take() else {
                return;
            };
            let (mut met, mut found) = (Vec::new(), Vec::new());
            for number in incoming {
                let mut key = self.key(number);
                // What is in `incoming/` is known by its name.
                let mut named = known.iter();
                let waits =
                    named.find(|(it, claimed)| !**claimed && it.claim_name == key.claim_name);
                if let Some((waits, _)) = waits {
                    key.owner = waits.owner;
                }
                if waits.is_some() || known.contains_key(&key) {
                    met.push((key, waits.is_some()));
                } else {
                    found.push(number);
                }
            }
            let mut is_one_missed = false;
            for (key, was_incoming) in &met {
                let is_claimed = self.claimed.contains(key);
                let has_gone = !self.queue.on_their_way.contains_key(key);
                is_one_missed |= has_gone || (is_claimed && *was_incoming);
                if is_claimed && !was_incoming {
                    self.met.insert(key.clone());
                }
            }
            let mut new = HashSet::new();
            for number in &found {
                let key = self.key(*number);
                if !self.queue.on_their_way.contains_key(&key) && new.insert(key) {
                    self.drops[*number].found = self.count();
                }
            }
            let seen = found.iter().map(|number| self.drops[*number].seen.clone());
            let scan = Scan::for_test(seen.collect(), met);
            let looks_again = self.queue.take_found(scan);
            assert_eq!(looks_again, is_one_missed, "another's, or gone since");
        }

        fn end_peek(&mut self, pick: usize) {
            let Some((owner, mut drops, began)) = take_one(&mut self.peeks, pick) else {
                return;
            };
            let read = if pick == 0 {
                drops.len()
            } else {
                pick % (drops.len() + 1)
            };
            let rest = drops.split_off(read);
            self.queue.end_peeking(owner, rest);
            for (seen, line) in drops {
                let number = self.number(&seen);
                let is_incoming = self.incoming.contains(&number);
                match fate(pick, number) {
                    Fate::Waits => self.postpone(number, line),
                    Fate::IsIncomplete if is_incoming => {
                        self.free(number, line.as_ref());
                        self.drops[number].is_late = true;
                        self.drops[number].lined_up = 0;
                        self.queue.take_waiting(seen.waiting_for_test(), line);
                    }
                    Fate::IsGone => {
                        self.incoming.retain(|other| *other != number);
                        self.go(number, line);
                    }
                    fate => {
                        if fate == Fate::IsReplaced && is_incoming {
                            self.drops[number].target = Some(target(pick % TARGETS));
                        }
                        self.check_order(number, line.is_some(), began);
                        self.line_up(number, line);
                    }
                }
            }
        }

        /// Of an importer's drops the one that became whole first is read first.
        fn check_order(&self, number: usize, is_head: bool, began: usize) {
            let this = &self.drops[number];
            let is_before = |other: &Drop| {
                let is_known = 0 < other.found && other.found < began;
                let is_read = other.lined_up > 0 || other.is_late || other.is_through;
                let is_own = other.seen.owner == this.seen.owner;
                is_own && is_known && !is_read && other.seen.completed < this.seen.completed
            };
            let before = self.drops.iter().find(|other| is_before(other));
            let is_free = is_head || this.is_late;
            assert!(
                is_free || before.is_none(),
                "{before:?} comes before {this:?}"
            );
        }

        fn line_up(&mut self, number: usize, line: Option<Target>) {
            let place = self.count();
            let drop = &mut self.drops[number];
            if line.is_none() || line != drop.target {
                drop.lined_up = place;
                self.free(number, line.as_ref());
            }
            let bad = || Rejection::new(Reason::BadManifest, "");
            let target = self.drops[number].target.clone().ok_or_else(bad);
            let manifest = target.map(|target| Manifest::new(target, Action::Withdraw(None)));
            let ready = Ready::for_test(self.drops[number].seen.clone(), manifest);
            self.queue.take_ready(ready, line);
        }

        /// The work on a drop begins. It takes its target, which has to be free.
        fn begin(&mut self, number: usize, target: Option<&Target>) {
            self.incoming.retain(|other| *other != number);
            self.claimed.insert(self.key(number));
            if self.drops[number].claim == 0 {
                self.drops[number].claim = self.count();
            }
            let Some(target) = target else { return };
            let before = self.on_the_way.insert(target.clone(), number);
            let is_free = before.is_none_or(|before| before == number);
            assert!(
                is_free,
                "{before:?} and {number} of one target are on their way"
            );
            let this = &self.drops[number];
            let is_decided = |other: &Drop| {
                let mut decided = self.decided.iter();
                decided
                    .any(|(number, _)| self.drops[*number].seen.completed == other.seen.completed)
            };
            let is_before = |other: &Drop| {
                let is_waiting = other.lined_up > 0 && !other.is_through && !is_decided(other);
                let is_own = other.seen.owner == this.seen.owner;
                // Its own importer's earlier one stepped aside, or it did itself.
                let is_held_back = self.aside.iter().any(|aside| {
                    let aside = &self.drops[*aside];
                    aside.seen.owner == other.seen.owner && aside.target == other.target
                });
                let may_be_passed = is_held_back && !is_own;
                let is_same = other.target.as_ref() == Some(target);
                is_same && is_waiting && !may_be_passed && other.lined_up < this.lined_up
            };
            let before = self.drops.iter().find(|other| is_before(other));
            assert!(before.is_none(), "{number} has overtaken {before:?}");
        }

        fn begin_heavy(&mut self, number: usize, target: Target) {
            assert_eq!(self.on_the_way.get(&target), Some(&number));
            self.heavy.push((number, target));
            let this = &self.drops[number];
            let beside = self.heavy.iter().map(|(other, _)| &self.drops[*other]);
            let beside = beside.filter(|other| other.weight == this.weight);
            let own = beside
                .clone()
                .filter(|other| other.seen.owner == this.seen.owner);
            assert!(beside.count() <= LANES, "too many of one weight");
            assert!(own.count() < LANES, "no lane is left for another importer");
        }

        /// A drop was not begun, for want of time.
        fn give_back(&mut self, number: usize, target: Option<&Target>) {
            self.free(number, target);
            if self.drops[number].seen.is_incoming() && !self.aside.contains(&number) {
                self.incoming.push(number);
                self.claimed.remove(&self.key(number));
            }
        }

        /// The work on a drop, which is the head of `line`, has ended.
        fn end(&mut self, number: usize, line: Option<&Target>, pick: usize, was_heavy: bool) {
            let line = line.cloned();
            match (fate(pick, number), &line) {
                (Fate::GoesOn, Some(target)) if self.is_heavy(number) && !was_heavy => {
                    let drop = &self.drops[number];
                    let (weight, seen) = (drop.weight, drop.seen.clone());
                    if self.queue.enter_lane(weight, seen, target) {
                        self.begin_heavy(number, target.clone());
                    }
                }
                (Fate::HasNoRoom, Some(target)) => {
                    self.free(number, Some(target));
                    self.aside.insert(number);
                    let drop = &self.drops[number];
                    let claimed = Claimed::for_test(&drop.seen, drop.claim);
                    self.queue.step_aside(
                        target.clone(),
                        claimed,
                        Reason::NoSpace,
                        &Fault::Interrupted,
                    );
                }
                (Fate::GoesOn | Fate::IsIncomplete | Fate::HasNoRoom, _) => {
                    self.pass(number, line.as_ref());
                    self.decided.push((number, line));
                }
                (Fate::Waits, _) => self.postpone(number, line),
                (Fate::IsGone, _) => self.go(number, line),
                (Fate::IsReplaced, _) => {
                    self.drops[number].is_late = true;
                    self.drops[number].lined_up = 0;
                    self.aside.remove(&number);
                    self.free(number, line.as_ref());
                    self.queue.advance(line);
                    self.decided.push((number, None));
                }
            }
        }

        fn is_heavy(&self, number: usize) -> bool {
            self.drops[number].weight != Weight::Light
        }

        /// A drop is about to be swapped in: those that it has passed are rejected.
        fn pass(&mut self, number: usize, line: Option<&Target>) {
            let Some(target) = line else { return };
            let claim = ClaimId::new(self.drops[number].claim as u64, 0);
            for passed in self.queue.lines.passed(target, claim) {
                let passed = self.by_claim(&passed.claimed);
                assert!(self.aside.contains(&passed), "{passed} was not aside");
                self.decided.push((passed, Some(target.clone())));
            }
            let is_older = |(older, drop): (usize, &Drop)| {
                let is_same = drop.target.as_ref() == Some(target);
                let is_decided = || self.decided.iter().any(|(other, _)| *other == older);
                let is_aside = self.aside.contains(&older) && !drop.is_through;
                let is_older = drop.claim < self.drops[number].claim;
                is_same && is_aside && is_older && !is_decided()
            };
            let older = self.drops.iter().enumerate().find(|it| is_older(*it));
            assert!(older.is_none(), "{older:?} could go over {number}");
        }

        fn by_claim(&self, claimed: &Claimed) -> usize {
            let is_it = |drop: &Drop| drop.claim as u64 == claimed.claim.number();
            self.drops.iter().position(is_it).unwrap()
        }

        fn retry(&mut self, pick: usize) {
            let timeout = if pick % 8 == 7 {
                Duration::ZERO
            } else {
                Duration::MAX
            };
            for late in self.queue.retry_postponed(timeout) {
                let number = self.by_claim(&late.claimed);
                self.decided.push((number, late.target));
            }
        }

        fn settle(&mut self, pick: usize) {
            let Some((number, target)) = take_one(&mut self.decided, pick) else {
                return;
            };
            let is_head = target.as_ref().and_then(|of| self.on_the_way.get(of)) == Some(&number);
            if fate(pick, number) == Fate::Waits && (is_head || target.is_none()) {
                return self.postpone(number, target);
            }
            self.free(number, target.as_ref().filter(|_| is_head));
            let is_new = !std::mem::replace(&mut self.drops[number].is_through, true);
            assert!(is_new, "{number} was settled twice");
            self.queue.settle(&self.key(number), target);
            self.leaving.push(number);
        }

        fn postpone(&mut self, number: usize, line: Option<Target>) {
            self.drops[number].is_late |= line.is_none();
            // Its target stays taken.
            if let Some(target) = &line {
                self.on_the_way.insert(target.clone(), number);
            }
            self.queue.postpone(self.drops[number].seen.clone(), line);
        }

        fn go(&mut self, number: usize, line: Option<Target>) {
            self.free(number, line.as_ref());
            self.drops[number].is_through = true;
            self.let_go(&self.key(number));
            self.queue.advance(line);
        }

        fn free(&mut self, number: usize, line: Option<&Target>) {
            let before = line.and_then(|target| self.on_the_way.remove(target));
            assert!(before.is_none_or(|before| before == number));
        }

        fn let_go(&mut self, key: &DropKey) {
            self.claimed.remove(key);
            let is_met = self.met.remove(key);
            assert_eq!(self.queue.let_go(key), is_met, "another {key:?} waits");
        }

        /// Does everything that can be done, and lets nothing go wrong any more.
        fn finish(&mut self) {
            for _ in 0..10 + 3 * self.drops.len() {
                for event in EVENTS {
                    if event != Event::Arrival {
                        self.happen(event, 0);
                    }
                }
            }
            let left: Vec<_> = self.drops.iter().filter(|drop| !drop.is_through).collect();
            assert!(left.is_empty(), "not settled: {left:?}");
            // Whose turn was last stays known.
            self.queue.looks.forget_times();
            self.queue.lanes.forget_times();
            let mut left = format!("{:?}", self.queue);
            for owner in 0..IMPORTERS {
                left = left.replace(&format!("last: {owner}"), "last: 0");
            }
            assert_eq!(left, format!("{:?}", Queue::default()), "left in the queue");
        }
    }

    #[test]
    fn a_drop_that_was_given_to_another_user_counts_as_that_one_s() {
        let mut queue = Queue::default();
        let seen = Seen::for_test("drop", 1, Moment::now());
        queue.take_found(Scan::for_test(vec![seen], Vec::new()));
        assert!(!queue.has_room(1, 1) && queue.has_room(2, 1));
        let (owner, mut peeked) = queue.next_to_peek().unwrap();
        queue.end_peeking(owner, Vec::new());
        let (mut seen, line) = peeked.remove(0);
        seen.owner = 2;
        queue.take_waiting(seen.waiting_for_test(), line);
        assert!(queue.has_room(1, 1));
        assert_eq!(queue.waiting_of(), &[(2, 1)].into());
    }

    /// Puts the drops that were found in line for one target, whose first one is begun.
    fn begin_one(queue: &mut Queue) {
        let (owner, peeked) = queue.next_to_peek().unwrap();
        queue.end_peeking(owner, Vec::new());
        for (seen, line) in peeked {
            let manifest = Manifest::new(target(0), Action::Withdraw(None));
            queue.take_ready(Ready::for_test(seen, Ok(manifest)), line);
        }
        assert_eq!(queue.next_light().unwrap().1.len(), 1);
    }

    #[test]
    fn drops_of_one_name_of_two_importers_are_on_their_way_at_one_time_once_the_first_is_claimed() {
        let mut queue = Queue::default();
        let [first, second] = [1, 2].map(|owner| Seen::for_test("daily", owner, Moment::now()));
        queue.take_found(Scan::for_test(vec![first.clone()], Vec::new()));
        assert!(queue.known().eq([(first.key().clone(), false)]));
        begin_one(&mut queue);
        // A scan that began before has met the second one's drop, and took it for the first one's.
        let scan =
            |found, was_incoming| Scan::for_test(found, vec![(first.key().clone(), was_incoming)]);
        assert!(queue.take_found(scan(Vec::new(), true)), "looked for again");
        assert!(queue.known().eq([(first.key().clone(), true)]));
        assert!(!queue.take_found(scan(vec![second.clone()], false)));
        assert_eq!(queue.waiting(), 2);
        queue.settle(first.key(), Some(target(0)));
        assert!(queue.let_go(first.key()), "another of the first one's");
        assert!(queue.known().eq([(second.key().clone(), false)]));
    }

    #[test]
    fn what_waited_behind_a_drop_that_found_no_room_in_time_goes_on() {
        let mut queue = Queue::default();
        let drops = ["first", "second"].map(|name| Seen::for_test(name, 1, Moment::now()));
        queue.take_found(Scan::for_test(drops.to_vec(), Vec::new()));
        begin_one(&mut queue);
        let claimed = Claimed::for_test(&drops[0], 1);
        queue.step_aside(target(0), claimed, Reason::NoSpace, &Fault::Interrupted);
        assert!(queue.next_to_peek().is_none(), "it would overtake");
        assert_eq!(queue.retry_postponed(Duration::ZERO).len(), 1);
        let (_, next) = queue.next_to_peek().unwrap();
        assert_eq!(next[0].0.key(), drops[1].key());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn drops_of_one_target_are_begun_in_their_order_one_at_a_time_and_none_is_forgotten(
            events in proptest::collection::vec((0..EVENTS.len() + 4, 0_usize..1 << 12), 0..300),
        ) {
            let mut world = World::default();
            for (event, pick) in events {
                // Arrivals are five of sixteen: the queue has to be long at times.
                world.happen(*EVENTS.get(event).unwrap_or(&Event::Arrival), pick);
            }
            world.finish();
        }
    }
}
