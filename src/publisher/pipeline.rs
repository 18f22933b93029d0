//! What was decided is done: drops become durable, pointers are swapped, outcomes written.
//!
//! ```text
//! Decided --place--> (Held) --swap--> --outcome--> Written
//! ```
//! The owner of the tree makes these steps, one after the other. Before each step what was done in
//! the one before has to be durable. One sync does that for many drops, wherever each of them stands:
//! with each sync every drop goes on by one step.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::decision::{Decided, Postponed};
use super::quiet::{Held, Look, Ready};
use super::workshop::Workshop;
use crate::spool::{Outcome, Seen, Spool};
use crate::sys::{Failure, map};
use crate::tree::{Lookout, Placed, Pointers};
use crate::words::Target;

/// So many drops one thread takes on by one step: each costs a few system calls.
const FEW: usize = 16;

/// Drops on their way from the decision to the outcome. Who has this owns the tree.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) pointers: Pointers,
    /// Drops whose generation stands in its place, and is to be swapped in; of some that was done
    /// before a crash.
    placed: Vec<Ready>,
    /// Drops whose outcome is due.
    swapped: Vec<Decided>,
    /// Drops whose outcome is to become durable.
    written: Vec<Written>,
}

/// A drop whose outcome was written. What was decided is forgotten: many wait for the next sync.
#[derive(Debug)]
pub(super) struct Written {
    seen: Seen,
    pub(super) outcome: Outcome,
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
    /// Drops that wait until no machine uses what they replace.
    pub(super) held: Vec<Held>,
    /// Targets that were swapped although machines used them.
    pub(super) overdue: Vec<Target>,
    /// Spool or tree is another folder by now: nothing was swapped, and no outcome written.
    pub(super) misplaced: Option<Failure>,
}

/// What is done for a drop between two syncs; all swaps together are one.
enum Work {
    Swap(Vec<Ready>),
    Write(Decided),
    Place(Decided),
}

enum Done {
    Swapped(Vec<(Decided, Result<(), Failure>)>),
    Written(Decided, Result<(Outcome, Option<Failure>), Failure>),
    Placed(Decided, Result<Option<Placed>, Failure>),
}

impl Written {
    pub(super) fn claim_name(&self) -> &Arc<str> {
        self.seen.claim_name()
    }
}

impl Pipeline {
    /// A pipeline without drops.
    pub(super) fn new(pointers: Pointers) -> Self {
        Self {
            pointers,
            placed: Vec::new(),
            swapped: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Whether no drop is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.swapped.is_empty() && self.written.is_empty()
    }

    /// Lets in what was `decided`, and what was held until now and is `released`, and every drop go
    /// on by one step. A crash at any moment leaves every pointer on a whole generation, and every
    /// drop in the spool or with its outcome.
    ///
    /// A drop that fails on the way is postponed, and the others go on. Where spool or tree was
    /// replaced, all of them stay where they are for the next start.
    pub(super) fn step(
        &mut self,
        decided: Vec<Decided>,
        released: Vec<Held>,
        shop: &Workshop,
        lookout: &Lookout,
    ) -> Stepped {
        let mut stepped = Stepped::default();
        let (staged, others): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(Decided::touches_tree);
        let staged = self.make_durable(staged, &shop.spool, &mut stepped);
        stepped.settled.append(&mut self.written);

        let (tree, swap) = (self.pointers.tree(), &shop.settings.swap);
        let placed = std::mem::take(&mut self.placed).into_iter();
        let looks = placed.map(|placed| Held::hold(placed, swap, tree, lookout));
        let others_looks = released
            .into_iter()
            .map(|held| held.look_again(tree, lookout));
        let looks = looks.chain(others_looks);
        let ready: Vec<_> = looks.filter_map(|look| stepped.take_look(look)).collect();

        // The last look before swaps, and before outcomes tell of those of the step before.
        stepped.misplaced = shop.check_places().err();
        if stepped.misplaced.is_some() {
            return stepped;
        }
        let few = FEW.saturating_sub(ready.len());
        let due = std::mem::take(&mut self.swapped).into_iter().chain(others);
        let work = std::iter::once(Work::Swap(ready))
            .chain(due.map(Work::Write))
            .chain(staged.into_iter().map(Work::Place));
        self.go_on(work.collect(), few, &shop.spool, &mut stepped);
        stepped
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
        let is_for_tree = !(staged.is_empty() && self.placed.is_empty() && self.swapped.is_empty());
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
        let changes = staged.into_iter().chain(placed.map(|(decided, _)| decided));
        for decided in changes.chain(std::mem::take(&mut self.swapped)) {
            self.discard(&decided, failure.clone(), stepped);
        }
        for Written { seen, outcome, .. } in self.written.drain(..) {
            let postponed = Postponed::new(seen, failure.clone());
            stepped.postponed.push((outcome.target, postponed));
        }
        Vec::new()
    }

    /// Places, swaps, and writes outcomes, in no order: all drops are of different targets. Yet
    /// whatever machines see is done by one thread.
    fn go_on(&mut self, work: Vec<Work>, few: usize, spool: &Spool, stepped: &mut Stepped) {
        let staging = Arc::clone(self.pointers.staging());
        let pointers = Mutex::new(&mut self.pointers);
        let done = map(work, few, |work| match work {
            Work::Swap(ready) => {
                let mut pointers = pointers.lock().expect("no thread panics here");
                let swap = |(decided, placed): Ready| {
                    let result = placed.map_or(Ok(()), |placed| pointers.swap(&placed));
                    (decided, result)
                };
                Done::Swapped(ready.into_iter().map(swap).collect())
            }
            Work::Write(decided) => {
                let outcome = decided.outcome();
                let result = spool.write_outcome(&decided.claimed, &outcome);
                Done::Written(decided, result.map(|trouble| (outcome, trouble)))
            }
            Work::Place(decided) => {
                let placed = decided.staged().map(|staged| staging.place(staged));
                Done::Placed(decided, placed.transpose())
            }
        });
        for done in done {
            match done {
                Done::Swapped(swapped) => {
                    for (decided, result) in swapped {
                        match result {
                            Ok(()) => self.swapped.push(decided),
                            Err(failure) => self.discard(&decided, failure, stepped),
                        }
                    }
                }
                Done::Written(decided, Ok((outcome, trouble))) => self.written.push(Written {
                    seen: decided.claimed.again(),
                    outcome,
                    has_replaced: decided.has_replaced(),
                    started: decided.started,
                    trouble,
                }),
                Done::Written(decided, Err(failure)) => stepped.postpone(&decided, failure),
                Done::Placed(decided, Ok(placed)) => self.placed.push((decided, placed)),
                Done::Placed(decided, Err(failure)) => self.discard(&decided, failure, stepped),
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
    /// Returns the drop if its swap may be made.
    fn take_look(&mut self, look: Look) -> Option<Ready> {
        match look {
            Look::Quiet(ready) => Some(ready),
            Look::Overdue(ready) => {
                self.overdue.extend(ready.0.target.clone());
                Some(ready)
            }
            Look::InUse(held) => {
                self.held.push(held);
                None
            }
        }
    }

    fn postpone(&mut self, decided: &Decided, failure: Failure) {
        let postponed = Postponed::new(decided.claimed.again(), failure);
        self.postponed.push((decided.target.clone(), postponed));
    }
}
