//! What was decided is done: drops become durable, pointers are swapped, outcomes written.
//!
//! ```text
//! Decided --place--> (Held) --swap--> Settled
//! ```
//! It is the owner's, in order, and takes many drops at once: what makes them durable is done once
//! for all of them.

use std::time::{Duration, Instant};

use crate::crew;
use crate::fault::Failure;
use crate::image::Image;
use crate::lookout::{Lookout, Watched};
use crate::moment::Moment;
use crate::open_files::OpenFiles;
use crate::outcome::Outcome;
use crate::settings::SwapSettings;
use crate::spool::Spool;
use crate::staging::{Placed, Pointers};
use crate::target::Target;
use crate::tree::Tree;
use crate::workshop::{Decided, Postponed};

/// From so many drops on, the steps of a commit that have no order are worth several threads.
const MANY: usize = 16;

/// Where a file of the current generation was open all the same, it is looked at again after this.
const OPEN_STILL: Duration = Duration::from_secs(1);

/// What is to be committed.
#[derive(Debug)]
pub struct Batch {
    pub decided: Vec<Decided>,
    /// Drops that were held until now, and may be swapped in if it still is quiet.
    pub released: Vec<Held>,
    pub swap: SwapSettings,
}

/// A drop whose generation stands in its place, and that waits until no machine uses the current
/// one.
#[derive(Debug)]
pub struct Held {
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
pub struct Settled {
    /// A generation stopped being current: vacuum will have to do with its target.
    pub has_replaced: bool,
    /// Its name in `processing/`.
    pub entry: String,
    pub outcome: Outcome,
    /// What keeps it from being put away, for now.
    pub trouble: Option<Failure>,
}

/// What a commit has done.
#[derive(Debug, Default)]
pub struct Committed {
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
    pub fn target(&self) -> &Target {
        self.placed.target()
    }

    /// Whether it may be swapped in, as far as events tell.
    pub fn is_due(&self) -> bool {
        self.is_overdue() || (self.not_before <= Instant::now() && self.watched.is_quiet())
    }

    fn is_overdue(&self) -> bool {
        self.deadline <= Moment::now()
    }
}

/// Makes drops durable, swaps, and writes the outcomes; each step for all of them before the next. A
/// crash between any two leaves every pointer on a whole generation, and every drop in the spool or
/// with its outcome.
///
/// A drop that fails on the way is postponed, and the others go on.
pub fn commit(
    batch: Batch,
    pointers: &mut Pointers,
    spool: &Spool,
    lookout: &Lookout,
) -> Committed {
    let mut committed = Committed::default();
    let batch = publish(batch, pointers, spool, lookout, &mut committed);

    let write = |decided: Decided| {
        let outcome = decided.outcome();
        let result = spool.write_outcome(decided.claimed(), &outcome);
        (decided, outcome, result)
    };
    let is_worth_it = batch.len() > MANY;
    let mut written = Vec::new();
    for (decided, outcome, result) in crew::map(batch, is_worth_it, write) {
        match result {
            Ok(trouble) => written.push((decided, outcome, trouble)),
            Err(failure) => committed.postpone(&decided, failure),
        }
    }
    // Before a drop goes, its outcome has to be durable.
    if let Some(Err(failure)) = (!written.is_empty()).then(|| spool.sync()) {
        for (decided, ..) in written.drain(..) {
            committed.postpone(&decided, failure.again());
        }
    }
    for (decided, outcome, trouble) in written {
        let settled = Settled {
            has_replaced: decided.has_replaced(),
            entry: decided.claimed().entry().to_string(),
            outcome,
            trouble,
        };
        committed.settled.push((settled, decided.elapsed()));
    }
    committed
}

/// The part of the commit that machines see. Returns the drops whose outcome is due.
fn publish(
    batch: Batch,
    pointers: &mut Pointers,
    spool: &Spool,
    lookout: &Lookout,
    committed: &mut Committed,
) -> Vec<Decided> {
    let Batch {
        decided,
        released,
        swap,
    } = batch;
    let (due, others): (Vec<_>, Vec<_>) = decided.into_iter().partition(Decided::touches_tree);
    let placed = place(due, pointers, spool, committed);
    let mut ready = if swap.quiet_period.is_zero() {
        placed
    } else {
        hold(placed, &swap, pointers, lookout, committed)
    };
    for held in released {
        ready.extend(look_again(held, pointers, lookout, committed));
    }

    let mut swapped = Vec::new();
    for (decided, place) in ready {
        match place.map_or(Ok(()), |place| pointers.swap(&place)) {
            Ok(()) => swapped.push(decided),
            Err(failure) => postpone_staged(&decided, failure, pointers, committed),
        }
    }
    if swapped.is_empty() {
        return others;
    }
    // The swap has to be durable before an outcome tells of it, and before the drop goes.
    let mut due = all_or_none(swapped, pointers.staging().sync(), pointers, committed);
    due.extend(others);
    due
}

/// Puts what was staged into its place, durably.
fn place(
    mut due: Vec<Decided>,
    pointers: &mut Pointers,
    spool: &Spool,
    committed: &mut Committed,
) -> Vec<(Decided, Option<Placed>)> {
    if due.is_empty() {
        return Vec::new();
    }
    // On two disks the spool has to be ahead: a drop whose claim, or whose removal, went with the
    // power would not be known again as one that was published.
    let tree = pointers.tree().root().stat_self();
    if !tree.is_ok_and(|tree| spool.is_on_file_system_of(&tree)) {
        due = all_or_none(due, spool.sync(), pointers, committed);
    }
    // What was staged has to be durable before it is given a name that the record vouches for.
    due = all_or_none(due, pointers.staging().sync(), pointers, committed);

    let place = |decided: Decided| match decided.staged() {
        Some(staged) => {
            let place = pointers.staging().place(staged).map(Some);
            (decided, place)
        }
        None => (decided, Ok(None)),
    };
    let is_worth_it = due.len() > MANY;
    let mut placed = Vec::new();
    for (decided, place) in crew::map(due, is_worth_it, place) {
        match place {
            Ok(place) => placed.push((decided, place)),
            Err(failure) => postpone_staged(&decided, failure, pointers, committed),
        }
    }
    // The generation and its record have to be durable before the pointer names them.
    let (due, places): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
    let due = all_or_none(due, pointers.staging().sync(), pointers, committed);
    due.into_iter().zip(places).collect()
}

/// Holds back what replaces something that machines may be using. Returns the rest.
fn hold(
    placed: Vec<(Decided, Option<Placed>)>,
    swap: &SwapSettings,
    pointers: &Pointers,
    lookout: &Lookout,
    committed: &mut Committed,
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
        committed.held.push(Held {
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
    committed: &mut Committed,
) -> Option<(Decided, Option<Placed>)> {
    lookout.look();
    let is_open = held.watched.is_quiet() && is_open(&held, pointers.tree(), lookout);
    // To look for open files takes a while.
    lookout.look();
    if held.watched.is_quiet() && !is_open {
        return Some((held.decided, Some(held.placed)));
    }
    if held.is_overdue() {
        committed.overdue.push(held.target().clone());
        return Some((held.decided, Some(held.placed)));
    }
    if is_open {
        held.not_before = Instant::now() + OPEN_STILL;
    }
    committed.held.push(held);
    None
}

/// Whether a file of the current generation is open, as far as this process may know.
fn is_open(held: &Held, tree: &Tree, lookout: &Lookout) -> bool {
    let Some((dir, path)) = tree.in_use(held.target()).ok().flatten() else {
        return false;
    };
    let is_locked =
        |image: Image| lookout.is_locked(&held.watched, &image) || OpenFiles::now().has(&path);
    Image::read(dir, None).is_ok_and(is_locked)
}

/// The drops themselves when a step for all of them went well; all postponed when not.
fn all_or_none(
    drops: Vec<Decided>,
    step: Result<(), Failure>,
    pointers: &mut Pointers,
    committed: &mut Committed,
) -> Vec<Decided> {
    let Err(failure) = step else { return drops };
    for decided in drops {
        postpone_staged(&decided, failure.again(), pointers, committed);
    }
    Vec::new()
}

fn postpone_staged(
    decided: &Decided,
    failure: Failure,
    pointers: &mut Pointers,
    committed: &mut Committed,
) {
    if let Some(staged) = decided.staged() {
        // What can't be removed now is a leftover that the next start sweeps.
        let _ = pointers.discard(staged);
    }
    committed.postpone(decided, failure);
}

impl Committed {
    fn postpone(&mut self, decided: &Decided, failure: Failure) {
        let postponed = Postponed {
            seen: decided.claimed().again(),
            fault: failure.into(),
        };
        self.postponed.push((decided.target().cloned(), postponed));
    }
}
