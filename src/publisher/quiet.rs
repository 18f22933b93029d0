//! The quiet swap: a drop that replaces what machines may be using is held until none does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decision::Decided;
use crate::settings::SwapSettings;
use crate::sys::OpenFiles;
use crate::tree::{Lookout, Placed, Staged, Tree, Watched};
use crate::words::Moment;

/// A held drop is looked at again after this where a file of the current generation was open.
const OPEN_STILL: Duration = Duration::from_secs(1);

/// Held drops are looked at at least, and at most, so often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// The kernel's queue has room for what a thousand clients read in that time.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);

/// A drop whose generation stands in its place; its swap, where there is one to be made, is due.
pub(super) type Ready = (Decided, Option<Placed>);

/// A drop whose generation stands in its place, and that waits until no machine uses the current
/// one.
#[derive(Debug)]
pub(super) struct Held {
    decided: Decided,
    placed: Placed,
    /// Tells whether a machine uses the current generation.
    watched: Watched,
    /// Then the swap is made, whoever uses what.
    deadline: Moment,
    /// Earlier than this a look is in vain.
    not_before: Instant,
}

/// What a look has shown.
pub(super) enum Look {
    Quiet(Ready),
    /// Machines use what is replaced, and it can't wait any longer.
    Overdue(Ready),
    InUse(Held),
}

impl Held {
    /// Holds a drop back where it replaces something that machines may be using.
    pub(super) fn hold(
        (decided, placed): Ready,
        swap: &SwapSettings,
        tree: &Tree,
        lookout: &Lookout,
    ) -> Look {
        let has_previous = decided.staged().is_some_and(Staged::has_previous);
        let waits = has_previous && !swap.quiet_period.is_zero();
        let place = placed.as_ref().filter(|_| waits);
        // Where nothing leads anywhere, nobody can be using it.
        let in_use = place.and_then(|placed| tree.in_use(&placed.target).ok().flatten());
        let (placed, dir) = match (placed, in_use) {
            (Some(placed), Some((dir, _))) => (placed, dir),
            (placed, _) => return Look::Quiet((decided, placed)),
        };
        // A drop that was claimed by a daemon that ended has waited already; yet whoever boots now
        // is to end.
        let deadline = decided.claimed.since.later(swap.max_delay);
        let deadline = deadline.max(Moment::now().later(swap.quiet_period.min(swap.max_delay)));
        Look::InUse(Self {
            watched: lookout.watch(&dir, swap.quiet_period),
            decided,
            placed,
            deadline,
            not_before: Instant::now() + swap.quiet_period,
        })
    }

    /// Whether the swap may be made, as far as events tell.
    fn is_due(&self) -> bool {
        self.is_overdue() || (self.not_before <= Instant::now() && self.watched.is_quiet())
    }

    fn is_overdue(&self) -> bool {
        self.deadline <= Moment::now()
    }

    /// The last look before a swap, as close to it as can be: machines may have come back.
    pub(super) fn look_again(mut self, tree: &Tree, lookout: &Lookout) -> Look {
        let (is_quiet, is_open) =
            lookout.look_closely(&self.watched, || self.is_open(tree, lookout));
        if !is_quiet && !self.is_overdue() {
            if is_open {
                self.not_before = Instant::now() + OPEN_STILL;
            }
            return Look::InUse(self);
        }
        let ready = (self.decided, Some(self.placed));
        if is_quiet {
            Look::Quiet(ready)
        } else {
            Look::Overdue(ready)
        }
    }

    /// Whether a file of the current generation is open, as far as this process may know.
    fn is_open(&self, tree: &Tree, lookout: &Lookout) -> bool {
        let Some((dir, path)) = tree.in_use(&self.placed.target).ok().flatten() else {
            return false;
        };
        lookout.is_locked(&self.watched, dir) || OpenFiles::now().has(&path)
    }
}

/// The drops that are held.
pub(super) struct Quiet {
    pub(super) held: Vec<Held>,
    pub(super) lookout: Arc<Lookout>,
    next_look: Instant,
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self {
            held: Vec::new(),
            lookout: Arc::default(),
            next_look: Instant::now(),
        }
    }

    /// The held drops that may be swapped in now, as far as events tell, if it is time to look. A
    /// drop that a last look shows to be in use after all is to be held again.
    pub(super) fn release(&mut self, swap: &SwapSettings) -> Vec<Held> {
        if self.held.is_empty() || Instant::now() < self.next_look {
            return Vec::new();
        }
        let interval = swap.quiet_period / 8;
        self.next_look = Instant::now() + interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        self.lookout.look();
        self.held.extract_if(.., |held| held.is_due()).collect()
    }

    /// When those that are held are to be looked at.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        (!self.held.is_empty()).then_some(self.next_look)
    }
}
