//! What is removed: drops that have their outcome, and generations that retention doesn't keep. Nobody
//! waits for any of this.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::pipeline::Pipeline;
use super::queue::Queue;
use super::steps::Steps;
use super::sweeping::{Sweeping, Swept};
use super::troubles::{Troubles, tell_of_lookout};
use super::workshop::Workshop;
use crate::fault::Fault;
use crate::log::MessageId;
use crate::settings::{Settings, SpoolSettings};
use crate::spool::{DropKey, Leaving};
use crate::sys::{Failure, OpenFiles, map};
use crate::text::quoted;
use crate::tree::Vacuum;
use crate::words::Target;

/// Drops whose removal is put off at most while there is other work, and their bytes.
const MAX_PUT_OFF: usize = 512;
const MAX_PUT_OFF_BYTES: u64 = 256 << 20;

/// Pieces of work that put drops away side by side: one of them may take long.
const MAX_PUTTING_AWAY: usize = 2;

/// So many drops one thread puts away.
const FEW: usize = 16;

/// What is to go, and when.
#[derive(Debug)]
pub(super) struct Cleanup {
    /// Drops that have their outcome, and are to be put away.
    pub(super) leaving: Vec<Leaving>,
    /// Drops that could not be put away.
    pub(super) stuck: Vec<Leaving>,
    /// Drops that their owners keep from being put away, and when that is tried again.
    kept: Vec<Leaving>,
    next_kept: Option<Instant>,
    /// While the vacuum works, with the pointers, an empty one stands here.
    vacuum: Vacuum,
    /// When vacuum has something to do for which target.
    due: Schedule,
    sweeping: Sweeping,
    /// Pieces of work that put drops away.
    putting_away: usize,
}

/// A target that retention was kept for, and after what time there is something to do again.
type Cleaned = (Target, Result<Option<Duration>, Fault>);

/// A vacuum's work that has ended, with the pointers that it had.
pub(super) type Vacuumed = (Pipeline, Vacuum, Vec<Cleaned>);

/// What putting a drop away has come to.
pub(super) type PutAway = (Result<(), Fault>, Leaving);

impl Cleanup {
    pub(super) fn new(leaving: Vec<Leaving>) -> Self {
        Self {
            leaving,
            stuck: Vec::new(),
            kept: Vec::new(),
            next_kept: None,
            vacuum: Vacuum::default(),
            due: Schedule::default(),
            sweeping: Sweeping::new(),
            putting_away: 0,
        }
    }

    /// A generation of `target`, if that is one, has stopped being current: vacuum will have to look at
    /// the target.
    pub(super) fn take_replaced(&mut self, target: Option<Target>, settings: &Settings) {
        let Some(target) = target else { return };
        let first_look = Vacuum::first_look(&settings.retention);
        self.due.add(Instant::now() + first_look, target);
    }

    /// All that was timed by other settings is timed anew; `targets` are those that retention keeps
    /// generations of.
    pub(super) fn begin_anew(&mut self, targets: impl IntoIterator<Item = Target>) {
        let now = Instant::now();
        for target in targets {
            self.due.add(now, target);
        }
        self.sweeping.begin_anew();
    }

    /// Removes the drops that are to go now, or keeps them where rejected ones are kept. Nothing
    /// waits for them but drops of the same name.
    ///
    /// While there is other work the removal is put off, within bounds: ext4, for one, searches long
    /// for free inodes among many that were freed a moment ago.
    pub(super) fn begin_to_put_away(
        &mut self,
        is_busy: bool,
    ) -> Option<impl FnOnce(&Workshop) -> Vec<PutAway> + use<>> {
        self.retry_kept();
        let bytes: u64 = self.leaving.iter().map(|drop| drop.bytes).sum();
        let is_much = self.leaving.len() >= MAX_PUT_OFF || bytes > MAX_PUT_OFF_BYTES;
        let is_full = self.putting_away >= MAX_PUTTING_AWAY;
        if is_full || self.leaving.is_empty() || (is_busy && !is_much) {
            return None;
        }
        self.putting_away += 1;
        let drops = std::mem::take(&mut self.leaving);
        Some(|shop: &Workshop| {
            map(drops, FEW, |drop| {
                shop.progress.show_life();
                (shop.spool.put_away(&drop), drop)
            })
        })
    }

    /// Drops that were put away; what could not be is tried again. Returns those that are gone.
    pub(super) fn take_put_away(
        &mut self,
        drops: Vec<PutAway>,
        settings: &SpoolSettings,
        troubles: &mut Troubles,
    ) -> Vec<DropKey> {
        self.putting_away -= 1;
        let mut gone = Vec::new();
        for (put_away, drop) in drops {
            match put_away {
                Ok(()) => {
                    self.sweeping.is_wanted |= drop.is_rejected();
                    gone.push(drop.key);
                }
                Err(Fault::Owner(failure)) => self.keep(drop, &failure, settings),
                Err(fault) => {
                    troubles.meet(Some(&drop.key), &fault);
                    self.stuck.push(drop);
                }
            }
        }
        gone
    }

    /// A drop has its outcome, and its owner keeps it from being put away: said once, and tried again
    /// now and then. Nobody else has to do with it.
    fn keep(&mut self, mut drop: Leaving, failure: &Failure, settings: &SpoolSettings) {
        if !drop.is_told {
            let (message_id, who) = (MessageId::Waiting, quoted(&drop.key.claim_name));
            let pause = humantime::format_duration(settings.rescan_interval);
            tracing::warn!(
                %message_id,
                "{who} has its outcome and can't be put away: {failure}; trying again each {pause}"
            );
        }
        drop.is_told = true;
        self.kept.push(drop);
        let next = Instant::now() + settings.rescan_interval;
        self.next_kept.get_or_insert(next);
    }

    /// Drops that their owners have kept are to be put away once more, if it is time to try.
    fn retry_kept(&mut self) {
        if self.next_kept.take_if(|at| *at <= Instant::now()).is_some() {
            self.leaving.append(&mut self.kept);
        }
    }

    /// Removes what retention doesn't keep, and spares what may be in use, of the targets that are
    /// due. A target has to wait while a drop for it is on its way, which may be about to use an
    /// older generation again. [`Cleanup::take_vacuumed`] ends this.
    pub(super) fn begin_vacuum(
        &mut self,
        steps: &mut Steps,
        queue: &Queue,
    ) -> Option<impl FnOnce(&Workshop) -> Vacuumed + use<>> {
        let now = Instant::now();
        self.due.next().filter(|at| *at <= now)?;
        steps.pipeline.as_ref()?;
        let due = self.due.take_due(now).into_iter();
        let (free, busy): (Vec<_>, Vec<_>) = due.partition(|target| queue.is_free(target));
        for target in busy {
            self.due.add(now + Duration::from_secs(1), target);
        }
        if free.is_empty() {
            return None;
        }
        let mut pipeline = steps.pipeline.take()?;
        let mut vacuum = std::mem::take(&mut self.vacuum);
        Some(move |shop: &Workshop| {
            let (retention, open) = (&shop.settings.retention, OpenFiles::now());
            let clean = |target| {
                shop.progress.show_life();
                let next = vacuum.clean(&mut pipeline.pointers, &target, retention, &open);
                (target, next)
            };
            let next = free.into_iter().map(clean).collect();
            (pipeline, vacuum, next)
        })
    }

    /// The vacuum's work has ended.
    pub(super) fn take_vacuumed(
        &mut self,
        mut vacuum: Vacuum,
        cleaned: Vec<Cleaned>,
        settings: &Settings,
        troubles: &mut Troubles,
    ) {
        tell_of_lookout(vacuum.trouble());
        for removed in vacuum.removed() {
            let (target, generation) = (&removed.target, &removed.generation);
            if let Some((how, lasts)) = removed.in_use {
                let message_id = MessageId::RemovedInUse;
                let lasts = humantime::format_duration(Duration::from_secs(lasts.as_secs()));
                tracing::warn!(
                    %message_id, %target, %generation,
                    "removed, no longer kept, though in use for {lasts} after its time: {how}"
                );
            } else {
                let message_id = MessageId::GenerationRemoved;
                tracing::info!(%message_id, %target, %generation, "removed, no longer kept");
            }
        }
        self.vacuum = vacuum;
        for (target, next) in cleaned {
            let who = target.to_string();
            let next = match next {
                Ok(next) => {
                    troubles.is_cleared(&who);
                    next
                }
                Err(fault) => {
                    troubles.meet_leftover(&who, &fault);
                    Some(settings.spool.rescan_interval)
                }
            };
            if let Some(next) = next {
                self.due.add(Instant::now() + next, target);
            }
        }
    }

    /// As [`Sweeping::look_at`].
    pub(super) fn look_at_room(&mut self, free: u64, settings: &Settings) {
        self.sweeping.look_at(free, &settings.spool);
    }

    /// As [`Sweeping::begin`].
    pub(super) fn begin_sweep(
        &mut self,
    ) -> Option<impl FnOnce(&Workshop) -> Result<Swept, Failure> + use<>> {
        self.sweeping.begin()
    }

    /// As [`Sweeping::take`].
    pub(super) fn take_swept(
        &mut self,
        swept: Result<Swept, Failure>,
        settings: &SpoolSettings,
        troubles: &mut Troubles,
    ) {
        self.sweeping.take(swept, settings, troubles);
    }

    /// When there is something to be done; vacuum can't do it without the pointers.
    pub(super) fn wake_up(&self, has_pointers: bool) -> Option<Instant> {
        let vacuum = self.due.next().filter(|_| has_pointers);
        [vacuum, self.sweeping.wake_up(), self.next_kept]
            .into_iter()
            .flatten()
            .min()
    }
}

/// When there is something to do for which target: the earliest moment of each, once. Grows with the
/// targets, not with how often something is to be done for them.
#[derive(Debug, Default)]
struct Schedule {
    moments: HashMap<Target, Instant>,
    /// The same, in order.
    order: BTreeSet<(Instant, Target)>,
}

impl Schedule {
    /// Whatever there will be to do for `target` is done at that moment, or earlier: whoever does it
    /// asks for the next.
    fn add(&mut self, at: Instant, target: Target) {
        if let Some(known) = self.moments.get(&target) {
            if *known <= at {
                return;
            }
            self.order.remove(&(*known, target.clone()));
        }
        self.moments.insert(target.clone(), at);
        self.order.insert((at, target));
    }

    /// The first moment.
    fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out those whose moment has come.
    fn take_due(&mut self, now: Instant) -> Vec<Target> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now)
            && let Some((_, target)) = self.order.pop_first()
        {
            self.moments.remove(&target);
            due.push(target);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_target_is_due_once_at_its_earliest_moment() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [one, other] = ["a/b/c/d", "a/b/c/e"].map(|text| text.parse::<Target>().unwrap());
        let mut schedule = Schedule::default();
        schedule.add(at(3), one.clone());
        schedule.add(at(2), other.clone());
        schedule.add(at(1), one.clone());
        schedule.add(at(9), one.clone());
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.take_due(at(0)), []);
        assert_eq!(schedule.take_due(at(1)), std::slice::from_ref(&one));
        assert_eq!(schedule.take_due(at(9)), [other]);
        assert_eq!(schedule.next(), None);
        schedule.add(at(4), one.clone());
        assert_eq!(schedule.take_due(at(4)), [one], "it may come again");
    }
}
