//! What is swept out of the spool: what was kept long enough, and rejected drops for which there is no
//! room. Nobody waits for it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::troubles::Troubles;
use super::workshop::Workshop;
use crate::log::MessageId;
use crate::settings::SpoolSettings;
use crate::sys::{Failure, Importer};

/// So much of what one sweep has removed is told one by one.
const MAX_TOLD: usize = 20;

/// What a sweep has come to.
#[derive(Debug)]
pub(super) struct Swept {
    /// Whose, what was removed, and why.
    removed: Vec<(Importer, String)>,
    /// Of one that looked at everything: after how long the next thing will have to go, and what
    /// owners keep from being removed.
    whole: Option<(Option<Duration>, Vec<Failure>)>,
    /// What to say where too little room is free all the same.
    shortage: Option<String>,
}

/// When the spool is swept.
#[derive(Debug)]
pub(super) struct Sweeping {
    /// When everything is looked at.
    next: Instant,
    sweep: Sweep,
    /// There may be too little room.
    pub(super) is_wanted: bool,
    /// There is too little room, and that was said.
    is_short: bool,
    /// What owners keep from being removed, and that was said.
    told: HashSet<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    None,
    Runs,
    /// The settings have changed since it began.
    IsOutdated,
}

impl Sweeping {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now(),
            sweep: Sweep::None,
            is_wanted: false,
            is_short: false,
            told: HashSet::new(),
        }
    }

    /// The settings have changed: all is looked at by the new ones.
    pub(super) fn begin_anew(&mut self) {
        self.next = Instant::now();
        if self.sweep == Sweep::Runs {
            self.sweep = Sweep::IsOutdated;
        }
    }

    /// So many bytes are free on the spool's file system.
    pub(super) fn look_at(&mut self, free: u64, settings: &SpoolSettings) {
        self.is_wanted |= free < settings.min_free_space || self.is_short;
    }

    /// A sweep, if it is time for one. [`Sweeping::take`] ends it.
    pub(super) fn begin(
        &mut self,
    ) -> Option<impl FnOnce(&Workshop) -> Result<Swept, Failure> + use<>> {
        let is_whole = self.next <= Instant::now();
        if self.sweep != Sweep::None || !(is_whole || self.is_wanted) {
            return None;
        }
        (self.sweep, self.is_wanted) = (Sweep::Runs, false);
        Some(move |shop: &Workshop| {
            let (spool, settings) = (&shop.spool, &shop.settings.spool);
            let (mut removed, mut whole) = (Vec::new(), None);
            if is_whole {
                let (next, kept, drafts) = spool.sweep(settings)?;
                (removed, whole) = (drafts, Some((next, kept)));
            }
            let (rejected, shortage) = spool.make_room(settings)?;
            removed.extend(rejected);
            Ok(Swept {
                removed,
                whole,
                shortage,
            })
        })
    }

    pub(super) fn take(
        &mut self,
        swept: Result<Swept, Failure>,
        settings: &SpoolSettings,
        troubles: &mut Troubles,
    ) {
        let is_outdated = std::mem::replace(&mut self.sweep, Sweep::None) == Sweep::IsOutdated;
        let soonest = Instant::now() + settings.rescan_interval;
        let swept = match swept {
            Ok(swept) => swept,
            Err(failure) => {
                troubles.meet_leftover(Troubles::SPOOL, &failure.into());
                self.next = soonest;
                return;
            }
        };
        troubles.is_cleared(Troubles::SPOOL);
        for (importer, what) in swept.removed.iter().take(MAX_TOLD) {
            tracing::info!(importer = importer.name, "{what}");
        }
        if let more @ 1.. = swept.removed.len().saturating_sub(MAX_TOLD) {
            tracing::info!("removed {more} more of these");
        }
        self.tell_of_room(swept.shortage.as_deref());
        if let Some((next, kept)) = swept.whole {
            // What comes later than now goes later than this, and may go before what is there.
            let keep = settings.keep_outcomes.min(settings.keep_rejected);
            let newest = keep.min(settings.keep_drafts);
            let next = next.map_or(newest, |next| newest.min(next));
            if !is_outdated {
                self.next = soonest.max(Instant::now() + next);
            }
            self.tell_of_kept(&kept);
        }
    }

    fn tell_of_room(&mut self, shortage: Option<&str>) {
        match shortage {
            Some(shortage) if !self.is_short => {
                tracing::warn!(message_id = %MessageId::Waiting, "{shortage}");
            }
            None if self.is_short => {
                tracing::info!(message_id = %MessageId::GoesOn, "the spool has room again");
            }
            _ => {}
        }
        self.is_short = shortage.is_some();
    }

    fn tell_of_kept(&mut self, kept: &[Failure]) {
        for failure in kept {
            if !self.told.contains(&failure.path) {
                let message_id = MessageId::Waiting;
                tracing::warn!(%message_id, "removing a rejected drop: {failure}; trying again later");
            }
        }
        self.told = kept.iter().map(|failure| failure.path.clone()).collect();
    }

    /// When there is something to be done.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        (self.sweep == Sweep::None).then_some(self.next)
    }
}
