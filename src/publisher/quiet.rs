//! The quiet swap: a drop that replaces what machines may be using is held until none does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decision::Decided;
use super::overview::Overview;
use crate::log::MessageId;
use crate::settings::SwapSettings;
use crate::spool::{Claimed, WaitState};
use crate::sys::OpenFiles;
use crate::text::short_until;
use crate::tree::{Lookout, Placed, Staged, Tree, Watched};

/// A held drop is looked at again after this where a file of the current generation was open.
const OPEN_STILL: Duration = Duration::from_secs(1);

/// Held drops are looked at at least, and at most, so often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// The kernel's queue has room for what a thousand clients read in that time.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);

/// A drop whose generation stands in its place, and that waits until no machine uses the current
/// one.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) decided: Decided,
    pub(super) placed: Placed,
    /// Tells whether a machine uses the current generation; `None` where nothing leads anywhere, and
    /// so nobody can be using it.
    watched: Option<Watched>,
    /// Then the swap is made, whoever uses what.
    deadline: Instant,
    /// Earlier than this a look is in vain.
    not_before: Instant,
    /// A look has shown that machines use the current generation.
    is_in_use: bool,
    /// The log tells of the wait.
    is_said: bool,
}

/// What a look has shown.
pub(super) enum Look {
    Quiet(Held),
    /// Machines use what is replaced, and it can't wait any longer.
    Overdue(Held),
    InUse(Held),
}

/// Whether a drop that replaces something has to wait at all.
pub(super) fn waits(decided: &Decided, swap: &SwapSettings) -> bool {
    decided.staged().is_some_and(Staged::has_previous) && !swap.quiet_period.is_zero()
}

impl Held {
    /// Holds a drop back, which replaces something that machines may be using.
    pub(super) fn new(
        decided: Decided,
        placed: Placed,
        swap: &SwapSettings,
        tree: &Tree,
        lookout: &Lookout,
    ) -> Self {
        let in_use = tree.in_use(&placed.target).ok().flatten();
        let watched = in_use.map(|(dir, _)| lookout.watch(&dir, swap.quiet_period));
        // A drop that was claimed by a daemon that ended has waited already; yet whoever boots now
        // is to end.
        let waited = decided.claimed.since.elapsed();
        let left = swap.max_delay.saturating_sub(waited);
        let least = swap.quiet_period.min(swap.max_delay);
        let now = Instant::now();
        Self {
            not_before: now
                + watched
                    .as_ref()
                    .map_or(Duration::ZERO, |_| swap.quiet_period),
            watched,
            decided,
            placed,
            deadline: now + left.max(least),
            is_in_use: false,
            is_said: false,
        }
    }

    /// Whether the swap may be made, as far as events tell.
    pub(super) fn is_due(&self) -> bool {
        self.is_overdue() || (self.not_before <= Instant::now() && self.is_quiet())
    }

    fn is_overdue(&self) -> bool {
        self.deadline <= Instant::now()
    }

    fn is_quiet(&self) -> bool {
        self.watched.as_ref().is_none_or(Watched::is_quiet)
    }

    /// The last look before a swap, as close to it as can be: machines may have come back.
    pub(super) fn look_again(mut self, tree: &Tree, lookout: &Lookout) -> Look {
        let (is_quiet, is_open) = match &self.watched {
            Some(watched) => lookout.look_closely(watched, || self.is_open(tree, lookout)),
            None => (true, false),
        };
        if is_quiet {
            Look::Quiet(self)
        } else if self.is_overdue() {
            Look::Overdue(self)
        } else {
            self.is_in_use = true;
            if is_open {
                self.not_before = Instant::now() + OPEN_STILL;
            }
            Look::InUse(self)
        }
    }

    /// Says once that the drop waits, and how long it may.
    fn say(&mut self, swap: &SwapSettings) {
        if std::mem::replace(&mut self.is_said, true) {
            return;
        }
        let (message_id, target, period) =
            (MessageId::SwapHeld, &self.placed.target, swap.quiet_period);
        let generation = self
            .decided
            .staged()
            .map(|it| tracing::field::display(&it.head.generation));
        let Claimed { name, importer, .. } = &self.decided.claimed;
        let (drop, importer) = (name, &importer.name);
        let period = humantime::format_duration(period);
        let left = short_until(self.deadline.into_std());
        tracing::info!(
            %message_id, %target, generation, drop, importer,
            "swap held until the current generation is not used for {period}, at the latest in {left}"
        );
    }

    /// What the drop waits for.
    fn tell(&self, overview: &mut Overview) {
        let left = short_until(self.deadline.into_std());
        let what = if self.is_in_use {
            "machines use what it replaces"
        } else {
            "quiet period"
        };
        let why = format!("{what}, at most {left}");
        overview.tell(self.decided.claimed.key(), WaitState::Held, why);
    }

    /// Whether a file of the current generation is open, as far as this process may know.
    fn is_open(&self, tree: &Tree, lookout: &Lookout) -> bool {
        let in_use = tree.in_use(&self.placed.target).ok().flatten();
        let (Some(watched), Some((dir, path))) = (&self.watched, in_use) else {
            return false;
        };
        lookout.is_locked(watched, dir) || OpenFiles::now().has(&path)
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
        let is_due = |held: &mut Held| held.is_due();
        self.held.extract_if(.., is_due).collect()
    }

    /// Holds what a step has held back.
    pub(super) fn hold(&mut self, held: &mut Vec<Held>, swap: &SwapSettings) {
        for held in held.iter_mut() {
            held.say(swap);
        }
        self.held.append(held);
    }

    /// What those that are held wait for.
    pub(super) fn tell(&self, overview: &mut Overview) {
        for held in &self.held {
            held.tell(overview);
        }
    }

    /// When those that are held are to be looked at.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        (!self.held.is_empty()).then_some(self.next_look)
    }
}
