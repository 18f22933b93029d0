//! What was decided is done: drops become durable, pointers are swapped, outcomes written.
//!
//! ```text
//! Decided --place--> (Held) --swap--> --outcome--> Settled
//! ```
//! It is the owner's, in order. Before each of these steps what was done in the one before has to be
//! durable. That is done once for many drops, and for those at all steps together: a drop goes on by
//! one step with each sync.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::decide::{Decided, Postponed};
use crate::settings::SwapSettings;
use crate::spool::{Outcome, Spool};
use crate::sys::{Failure, OpenFiles, parallel};
use crate::tree::{Lookout, Placed, Pointers, Tree, Watched};
use crate::words::{Moment, Target};

/// Where a file of the current generation was open all the same, it is looked at again after this.
const OPEN_STILL: Duration = Duration::from_secs(1);

/// Drops on their way from the decision to the outcome. Who has this owns the tree.
#[derive(Debug)]
pub(super) struct Pipeline {
    pointers: Pointers,
    /// They stand in their place, and will be swapped in. Some, which a crash has cut short, were.
    placed: Vec<(Decided, Option<Placed>)>,
    /// Their outcome is due.
    swapped: Vec<Decided>,
    /// Their outcome was written.
    written: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    decided: Decided,
    outcome: Outcome,
    trouble: Option<Failure>,
}

/// What comes into the pipeline.
#[derive(Debug)]
pub(super) struct Batch {
    pub decided: Vec<Decided>,
    /// Drops that were held until now, and may be swapped in if it still is quiet.
    pub released: Vec<Held>,
    pub swap: SwapSettings,
}

/// A drop whose generation stands in its place, and that waits until no machine uses the current
/// one.
#[derive(Debug)]
pub(super) struct Held {
    decided: Decided,
    placed: Placed,
    /// Tells whether a machine uses the current generation.
    watched: Watched,
    /// Then it is swapped in, whoever uses what.
    deadline: Moment,
    /// Earlier than this a look is in vain.
    not_before: Instant,
}

/// A drop whose outcome is written, and that is to be put away.
#[derive(Debug)]
pub(super) struct Settled {
    /// A generation stopped being current: vacuum will have to do with its target.
    pub has_replaced: bool,
    /// Its name in `processing/`.
    pub entry: Arc<str>,
    pub outcome: Outcome,
    /// What keeps it from being put away, for now.
    pub trouble: Option<Failure>,
}

/// What one step of all drops has come to.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    /// With the time that each took.
    pub settled: Vec<(Settled, Duration)>,
    /// With the target that each is for.
    pub postponed: Vec<(Option<Target>, Postponed)>,
    /// They wait until no machine uses what they replace.
    pub held: Vec<Held>,
    /// Targets that were swapped although machines used them.
    pub overdue: Vec<Target>,
}

impl Held {
    /// The target it is for.
    pub(super) fn target(&self) -> &Target {
        self.placed.target()
    }

    /// Whether it may be swapped in, as far as events tell.
    pub(super) fn is_due(&self) -> bool {
        self.is_overdue() || (self.not_before <= Instant::now() && self.watched.is_quiet())
    }

    fn is_overdue(&self) -> bool {
        self.deadline <= Moment::now()
    }
}

impl Pipeline {
    /// An empty one.
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

    /// The tree's pointers.
    pub(super) fn pointers(&mut self) -> &mut Pointers {
        &mut self.pointers
    }

    /// Lets a batch in, and every drop go on by one step. A crash at any moment leaves every pointer
    /// on a whole generation, and every drop in the spool or with its outcome.
    ///
    /// A drop that fails on the way is postponed, and the others go on.
    pub(super) fn step(&mut self, batch: Batch, spool: &Spool, lookout: &Lookout) -> Stepped {
        let mut stepped = Stepped::default();
        let Batch {
            decided,
            released,
            swap,
        } = batch;
        let (staged, others): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(Decided::touches_tree);
        let staged = self.make_durable(staged, spool, &mut stepped);

        for written in self.written.drain(..) {
            stepped.settle(written);
        }
        let placed = std::mem::take(&mut self.placed);
        let mut ready = if swap.quiet_period.is_zero() {
            placed
        } else {
            hold(placed, &swap, &self.pointers, lookout, &mut stepped)
        };
        for held in released {
            ready.extend(look_again(held, &self.pointers, lookout, &mut stepped));
        }
        let mut due = std::mem::take(&mut self.swapped);
        due.extend(others);
        self.go_on(staged, ready, due, spool, &mut stepped);
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
        let placed = self.placed.drain(..).map(|(decided, _)| decided);
        let changes: Vec<_> = staged.into_iter().chain(placed).collect();
        for decided in changes.into_iter().chain(self.swapped.drain(..)) {
            postpone_staged(&decided, failure.again(), &mut self.pointers, stepped);
        }
        for written in self.written.drain(..) {
            stepped.postpone(&written.decided, failure.again());
        }
        Vec::new()
    }

    /// Places, swaps, and writes outcomes. All drops are of different targets, so that has no order;
    /// yet whatever machines see is done by one thread.
    fn go_on(
        &mut self,
        staged: Vec<Decided>,
        ready: Vec<(Decided, Option<Placed>)>,
        due: Vec<Decided>,
        spool: &Spool,
        stepped: &mut Stepped,
    ) {
        enum Work {
            Swap(Vec<(Decided, Option<Placed>)>),
            Write(Decided),
            Place(Decided),
        }
        enum Done {
            Swapped(Vec<(Decided, Result<(), Failure>)>),
            Written(Decided, Outcome, Result<Option<Failure>, Failure>),
            Placed(Decided, Result<Option<Placed>, Failure>),
        }

        let is_worth_it = staged.len() + ready.len() + due.len() > parallel::MANY;
        let work: Vec<_> = std::iter::once(Work::Swap(ready))
            .chain(due.into_iter().map(Work::Write))
            .chain(staged.into_iter().map(Work::Place))
            .collect();
        let staging = Arc::clone(self.pointers.staging());
        let pointers = Mutex::new(&mut self.pointers);
        let work_on = |work: Work| match work {
            Work::Swap(ready) => {
                let mut pointers = pointers.lock().expect("no thread panics here");
                let swap = |(decided, placed): (Decided, Option<Placed>)| {
                    let result = placed.map_or(Ok(()), |placed| pointers.swap(&placed));
                    (decided, result)
                };
                Done::Swapped(ready.into_iter().map(swap).collect())
            }
            Work::Write(decided) => {
                let outcome = decided.outcome();
                let result = spool.write_outcome(decided.claimed(), &outcome);
                Done::Written(decided, outcome, result)
            }
            Work::Place(decided) => {
                let placed = decided.staged().map(|staged| staging.place(staged));
                let placed = placed.transpose();
                Done::Placed(decided, placed)
            }
        };
        for done in parallel::map(work, is_worth_it, work_on) {
            match done {
                Done::Swapped(swapped) => {
                    for (decided, result) in swapped {
                        match result {
                            Ok(()) => self.swapped.push(decided),
                            Err(failure) => {
                                postpone_staged(&decided, failure, &mut self.pointers, stepped);
                            }
                        }
                    }
                }
                Done::Written(decided, outcome, Ok(trouble)) => self.written.push(Written {
                    decided,
                    outcome,
                    trouble,
                }),
                Done::Written(decided, _, Err(failure)) => stepped.postpone(&decided, failure),
                Done::Placed(decided, Ok(placed)) => self.placed.push((decided, placed)),
                Done::Placed(decided, Err(failure)) => {
                    postpone_staged(&decided, failure, &mut self.pointers, stepped);
                }
            }
        }
    }
}

/// Holds back what replaces something that machines may be using. Returns the rest.
fn hold(
    placed: Vec<(Decided, Option<Placed>)>,
    swap: &SwapSettings,
    pointers: &Pointers,
    lookout: &Lookout,
    stepped: &mut Stepped,
) -> Vec<(Decided, Option<Placed>)> {
    let mut free = Vec::new();
    for (decided, place) in placed {
        let staged = decided.staged().filter(|staged| staged.has_previous());
        let (Some(_), Some(placed)) = (staged, &place) else {
            free.push((decided, place));
            continue;
        };
        let target = placed.target();
        // Where nothing leads anywhere, nobody can be using it.
        let Some((dir, _)) = pointers.tree().in_use(target).ok().flatten() else {
            free.push((decided, place));
            continue;
        };
        let watched = lookout.watch(&dir, swap.quiet_period);
        // A drop that was claimed by a daemon that ended has waited already; yet whoever boots now
        // is to end.
        let deadline = decided.claimed().claimed_at.later(swap.max_delay);
        let deadline = deadline.max(Moment::now().later(swap.quiet_period.min(swap.max_delay)));
        let Some(placed) = place else { continue };
        stepped.held.push(Held {
            decided,
            placed,
            watched,
            deadline,
            not_before: Instant::now() + swap.quiet_period,
        });
    }
    free
}

/// The last look before a swap, as close to it as can be. `None` when machines have come back.
fn look_again(
    mut held: Held,
    pointers: &Pointers,
    lookout: &Lookout,
    stepped: &mut Stepped,
) -> Option<(Decided, Option<Placed>)> {
    lookout.look();
    let is_open = held.watched.is_quiet() && is_open(&held, pointers.tree(), lookout);
    // To look for open files takes a while.
    lookout.look();
    if held.watched.is_quiet() && !is_open {
        return Some((held.decided, Some(held.placed)));
    }
    if held.is_overdue() {
        stepped.overdue.push(held.target().clone());
        return Some((held.decided, Some(held.placed)));
    }
    if is_open {
        held.not_before = Instant::now() + OPEN_STILL;
    }
    stepped.held.push(held);
    None
}

/// Whether a file of the current generation is open, as far as this process may know.
fn is_open(held: &Held, tree: &Tree, lookout: &Lookout) -> bool {
    let Some((dir, path)) = tree.in_use(held.target()).ok().flatten() else {
        return false;
    };
    lookout.is_locked(&held.watched, dir) || OpenFiles::now().has(&path)
}

fn postpone_staged(
    decided: &Decided,
    failure: Failure,
    pointers: &mut Pointers,
    stepped: &mut Stepped,
) {
    if let Some(staged) = decided.staged() {
        // What can't be removed now is a leftover that the next start sweeps.
        let _ = pointers.discard(staged);
    }
    stepped.postpone(decided, failure);
}

impl Stepped {
    fn settle(&mut self, written: Written) {
        let Written {
            decided,
            outcome,
            trouble,
        } = written;
        let settled = Settled {
            has_replaced: decided.has_replaced(),
            entry: Arc::clone(decided.claimed().entry()),
            outcome,
            trouble,
        };
        self.settled.push((settled, decided.elapsed()));
    }

    fn postpone(&mut self, decided: &Decided, failure: Failure) {
        let postponed = Postponed {
            seen: decided.claimed().again(),
            fault: failure.into(),
        };
        self.postponed.push((decided.target().cloned(), postponed));
    }
}
