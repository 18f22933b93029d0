//! What was decided is done: drops become durable, pointers are swapped, outcomes written.
//!
//! ```text
//! Decided --place--> --swap--> --outcome--> Written
//!            └─▸ (Held) --announce--┘
//! ```
//! A swap stands in the history before it is made: one that waits for nothing since it was placed.
//! The owner of the tree makes these steps, one after the other. Before each step what was done in
//! the one before has to be durable. One sync does that for many drops, wherever each of them stands:
//! with each sync every drop goes on by one step.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::decision::{Decided, Decision, Postponed};
use super::quiet::{Held, Look, waits};
use super::workshop::Workshop;
use crate::fault::{Fault, Rejection};
use crate::spool::{Claimed, Outcome, Spool};
use crate::sys::{Failure, map};
use crate::tree::{Lookout, Placed, Pointers, Staged};
use crate::words::{Moment, Target};

/// So many drops one thread takes on by one step: each costs a few system calls.
const FEW: usize = 16;

/// Drops on their way from the decision to the outcome. Who has this owns the tree.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) pointers: Pointers,
    /// Drops whose generation stands in its place, and is to be swapped in; of some that was done
    /// before a crash. Those that have to wait are not announced.
    placed: Vec<(Decided, Option<Placed>)>,
    /// Drops that have waited, and are announced now.
    announced: Vec<Held>,
    /// Drops whose swap is to be told of in the history of another target.
    promoted: Vec<Decided>,
    /// Drops whose outcome is due.
    swapped: Vec<Decided>,
    /// Drops whose outcome is to become durable.
    written: Vec<Written>,
}

/// A drop whose outcome was written. What was decided is forgotten: many wait for the next sync.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) claimed: Claimed,
    /// As that of [`Decided`]: the one of the outcome may be nothing but shown.
    pub(super) target: Option<Target>,
    pub(super) outcome: Outcome,
    /// When the pointer was swapped, if it was.
    pub(super) swapped_at: Option<Moment>,
    /// Whether vacuum may have to do with the target now.
    pub(super) has_replaced: bool,
    /// When the drop became the daemon's.
    pub(super) started: Instant,
    /// What keeps the drop from being put away, for now.
    pub(super) trouble: Option<Failure>,
}

/// What one step of all drops has come to.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    /// Drops that have their outcome.
    pub(super) settled: Vec<Written>,
    /// With the target that each is for.
    pub(super) postponed: Vec<(Option<Target>, Postponed)>,
    /// Rejected drops whose outcome could not be written, and why.
    pub(super) unwritten: Vec<(Decided, Failure)>,
    /// Drops that wait until no machine uses what they replace.
    pub(super) held: Vec<Held>,
    /// Targets that were swapped although machines used them.
    pub(super) overdue: Vec<Target>,
    /// Spool or tree is another folder by now: nothing was swapped, and no outcome written.
    pub(super) misplaced: Option<Failure>,
}

/// What is done for a drop between two syncs; all swaps together are one.
enum Work {
    Swap(Vec<(Decided, Option<Placed>)>),
    Write(Decided),
    Place(Decided),
    Announce(Held),
}

enum Done {
    Swapped(Vec<(Decided, Result<(), Failure>)>),
    Written(Decided, Result<(Outcome, Option<Failure>), Failure>),
    Placed(Decided, Result<Option<Placed>, Failure>),
    Announced(Held, Result<(), Failure>),
}

impl Pipeline {
    /// A pipeline without drops.
    pub(super) fn new(pointers: Pointers) -> Self {
        Self {
            pointers,
            placed: Vec::new(),
            announced: Vec::new(),
            promoted: Vec::new(),
            swapped: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Whether no drop is on its way.
    pub(super) fn is_empty(&self) -> bool {
        let is_none_placed = self.placed.is_empty() && self.announced.is_empty();
        is_none_placed && self.has_none_swapped() && self.written.is_empty()
    }

    fn has_none_swapped(&self) -> bool {
        self.promoted.is_empty() && self.swapped.is_empty()
    }

    /// The targets of the drops that are to be swapped in, or were.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        let placed = self.placed.iter().map(|(decided, _)| decided);
        let announced = self.announced.iter().map(|held| &held.decided);
        let swapped = self.promoted.iter().chain(&self.swapped);
        let all = placed.chain(announced).chain(swapped);
        all.filter_map(|decided| decided.target.as_ref())
    }

    /// The importers whose drops are on their way, each as often as there are drops.
    pub(super) fn owners(&self) -> impl Iterator<Item = u32> {
        let placed = self.placed.iter().map(|(decided, _)| decided);
        let swapped = self.promoted.iter().chain(&self.swapped);
        placed.chain(swapped).map(Decided::owner)
    }

    /// Lets in what was `decided`, and what was held until now and is `released`, and every drop go
    /// on by one step; of those that nobody waits for only those of the importer `only`, if one is
    /// named. A crash at any moment leaves every pointer on a whole generation, and every drop in the
    /// spool or with its outcome.
    ///
    /// A drop that fails on the way is postponed, and the others go on. Where spool or tree was
    /// replaced, all of them stay where they are for the next start.
    pub(super) fn step(
        &mut self,
        (decided, only): (Vec<Decided>, Option<u32>),
        released: Vec<Held>,
        shop: &Workshop,
        lookout: &Lookout,
    ) -> Stepped {
        let is_meant = |it: &Decided| only.is_none_or(|only| it.owner() == only);
        let mut stepped = Stepped::default();
        let (staged, others): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(Decided::touches_tree);
        let staged = self.make_durable(staged, &shop.spool, &mut stepped);
        shop.progress.show_life();
        stepped.settled.append(&mut self.written);

        let (mut ready, mut due) = (self.take_announced(lookout, &mut stepped), released);
        let tree = self.pointers.tree();
        let placed = self.placed.extract_if(.., |(it, _)| is_meant(it));
        for (decided, placed) in placed.collect::<Vec<_>>() {
            match placed {
                Some(placed) if placed.swapped_at.is_none() => {
                    let swap = &shop.settings.swap;
                    let held = Held::new(decided, placed, swap, tree, lookout);
                    let waits = if held.is_due() {
                        &mut due
                    } else {
                        &mut stepped.held
                    };
                    waits.push(held);
                }
                placed => ready.push((decided, placed)),
            }
        }
        let mut announced = Vec::new();
        for held in due {
            match held.look_again(tree, lookout) {
                Look::Quiet(held) | Look::Overdue(held) => announced.push(held),
                Look::InUse(held) => stepped.held.push(held),
            }
        }

        // The last look before swaps, and before outcomes tell of those of the step before.
        stepped.misplaced = shop.check_places().err();
        if stepped.misplaced.is_some() {
            return stepped;
        }
        let few = FEW.saturating_sub(ready.len());
        let swapped = self.swapped.extract_if(.., |it| is_meant(it));
        let swapped = swapped.collect::<Vec<_>>().into_iter();
        let work = std::iter::once(Work::Swap(ready))
            .chain(swapped.chain(others).map(Work::Write))
            .chain(announced.into_iter().map(Work::Announce))
            .chain(staged.into_iter().map(Work::Place));
        self.go_on(work.collect(), few, shop, &mut stepped);
        self.note_promotions(&mut stepped);
        stepped
    }

    /// Takes out the drops whose announcement is durable by now, if machines have not come back
    /// meanwhile: then it is taken back.
    fn take_announced(
        &mut self,
        lookout: &Lookout,
        stepped: &mut Stepped,
    ) -> Vec<(Decided, Option<Placed>)> {
        let mut ready = Vec::new();
        for held in std::mem::take(&mut self.announced) {
            let Held {
                decided, placed, ..
            } = match held.look_again(self.pointers.tree(), lookout) {
                Look::Quiet(held) => held,
                Look::Overdue(held) => {
                    stepped.overdue.push(held.placed.target.clone());
                    held
                }
                Look::InUse(mut held) => {
                    match self.pointers.take_back(&mut held.placed) {
                        Ok(()) => stepped.held.push(held),
                        Err(failure) => self.discard(&held.decided, failure, stepped),
                    }
                    continue;
                }
            };
            ready.push((decided, Some(placed)));
        }
        ready
    }

    /// Makes all that was done until now durable. Returns what was staged.
    ///
    /// What is not durable is postponed: after a failed sync nobody knows what has reached the disk.
    fn make_durable(
        &mut self,
        staged: Vec<Decided>,
        spool: &Spool,
        stepped: &mut Stepped,
    ) -> Vec<Decided> {
        let is_none_placed = self.placed.is_empty() && self.announced.is_empty();
        let is_for_tree = !(staged.is_empty() && is_none_placed && self.has_none_swapped());
        let tree = self.pointers.tree().root().stat_self();
        let is_one_disk = tree.is_ok_and(|tree| spool.is_on_file_system_of(&tree));
        // On two disks the spool has to be ahead: a drop whose claim, or whose removal, went with
        // the power would not be known again as one that was published.
        let is_for_spool = if is_one_disk {
            !self.written.is_empty() && !is_for_tree
        } else {
            !self.written.is_empty() || !staged.is_empty()
        };
        let sync = || {
            if is_for_spool {
                spool.sync()?;
            }
            if is_for_tree {
                self.pointers.staging().sync()?;
            }
            Ok(())
        };
        let Err::<(), Failure>(failure) = sync() else {
            return staged;
        };
        let placed = std::mem::take(&mut self.placed).into_iter();
        let announced = std::mem::take(&mut self.announced).into_iter();
        let changes = staged
            .into_iter()
            .chain(placed.map(|(decided, _)| decided))
            .chain(announced.map(|held| held.decided));
        let promoted = std::mem::take(&mut self.promoted).into_iter();
        let swapped = promoted.chain(std::mem::take(&mut self.swapped));
        for decided in changes.chain(swapped) {
            self.discard(&decided, failure.clone(), stepped);
        }
        for written in self.written.drain(..) {
            let target = written.target;
            let (reason, detail) = (written.outcome.reason, written.outcome.detail);
            if let Some(reason) = reason {
                let rejection = Rejection::new(reason, detail.unwrap_or_default());
                let again = Decided::reject(written.claimed, target, rejection);
                stepped.unwritten.push((again, failure.clone()));
            } else {
                let postponed = Postponed::new(written.claimed.again(), failure.clone());
                stepped.postponed.push((target, postponed));
            }
        }
        Vec::new()
    }

    /// Places, swaps, and writes outcomes, in no order: all drops are of different targets. Yet
    /// whatever machines see is done by one thread.
    fn go_on(&mut self, work: Vec<Work>, few: usize, shop: &Workshop, stepped: &mut Stepped) {
        let staging = Arc::clone(self.pointers.staging());
        let pointers = Mutex::new(&mut self.pointers);
        let done = map(work, few, |work| match work {
            Work::Swap(ready) => {
                let mut pointers = pointers.lock().expect("no thread panics here");
                let swap = |(mut decided, placed): (Decided, Option<Placed>)| {
                    let Some(placed) = placed else {
                        return (decided, Ok(()));
                    };
                    let is_swap = decided.staged().is_some_and(Staged::is_swap);
                    decided.swapped_at = placed.swapped_at.filter(|_| is_swap);
                    let result = pointers.swap(&placed);
                    (decided, result)
                };
                Done::Swapped(ready.into_iter().map(swap).collect())
            }
            Work::Write(mut decided) => {
                let (mut outcome, settings) = (decided.outcome(), &shop.settings.spool);
                let claimed = &mut decided.claimed;
                let result = shop.spool.write_outcome(claimed, &mut outcome, settings);
                Done::Written(decided, result.map(|trouble| (outcome, trouble)))
            }
            Work::Place(decided) => {
                let waits = waits(&decided, &shop.settings.swap);
                let placed = decided.staged().map(|staged| staging.place(staged, waits));
                Done::Placed(decided, placed.transpose())
            }
            Work::Announce(mut held) => {
                let staged = held.decided.staged();
                let announced =
                    staged.map_or(Ok(()), |staged| staging.announce(staged, &mut held.placed));
                Done::Announced(held, announced)
            }
        });
        for done in done {
            self.take_done(done, stepped);
        }
    }

    fn take_done(&mut self, done: Done, stepped: &mut Stepped) {
        match done {
            Done::Swapped(swapped) => {
                for (decided, result) in swapped {
                    match result {
                        Ok(()) if decided.is_promotion() => self.promoted.push(decided),
                        Ok(()) => self.swapped.push(decided),
                        Err(failure) => self.discard(&decided, failure, stepped),
                    }
                }
            }
            Done::Written(decided, Ok((outcome, trouble))) => self.written.push(Written {
                outcome,
                swapped_at: decided.swapped_at,
                has_replaced: decided.has_replaced(),
                started: decided.started,
                claimed: decided.claimed,
                target: decided.target,
                trouble,
            }),
            Done::Written(decided, Err(failure)) => match &decided.decision {
                Decision::Reject(_) => stepped.unwritten.push((decided, failure)),
                _ => stepped.postpone(&decided, failure),
            },
            Done::Placed(decided, Ok(placed)) => self.placed.push((decided, placed)),
            Done::Announced(held, Ok(())) => self.announced.push(held),
            Done::Placed(decided, Err(failure))
            | Done::Announced(Held { decided, .. }, Err(failure)) => {
                self.discard(&decided, failure, stepped);
            }
        }
    }

    /// Tells of each promotion that was made in the history of the target that it came from. Of that one
    /// the last line may be of a swap that comes by the next step: then so does the note.
    fn note_promotions(&mut self, stepped: &mut Stepped) {
        for decided in std::mem::take(&mut self.promoted) {
            let placed = self.placed.iter().filter_map(|(_, placed)| placed.as_ref());
            let announced = self.announced.iter().map(|held| &held.placed);
            let mut lines = placed.chain(announced);
            let is_announced = |target: &Target| {
                lines.any(|placed| placed.swapped_at.is_some() && placed.target == *target)
            };
            let is_again = matches!(decided.decision, Decision::Again(..));
            let claim = (decided.claimed.claim, is_again);
            let target = decided.target.as_ref();
            let noted = target.map(|it| self.pointers.note_promotion(it, claim, is_announced));
            match noted {
                Some(Ok(false)) => self.promoted.push(decided),
                Some(Err(Fault::Retry(failure))) => stepped.postpone(&decided, failure),
                // There is no such target any more.
                Some(Ok(true) | Err(_)) | None => self.swapped.push(decided),
            }
        }
    }

    /// Postpones a drop, and removes what was staged for it.
    fn discard(&mut self, decided: &Decided, failure: Failure, stepped: &mut Stepped) {
        if let Some(staged) = decided.staged() {
            // What can't be removed now is a leftover that the next start sweeps.
            let _ = self.pointers.discard(staged);
        }
        stepped.postpone(decided, failure);
    }
}

impl Stepped {
    fn postpone(&mut self, decided: &Decided, failure: Failure) {
        let postponed = Postponed::new(decided.claimed.again(), failure);
        self.postponed.push((decided.target.clone(), postponed));
    }
}
