//! What goes: drops that have their outcome, generations that retention doesn't keep, outcomes and
//! rejected drops that were kept long enough. Nobody waits for any of this.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::pipeline::Pipeline;
use super::queue::Queue;
use super::troubles::Troubles;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Leaving, Spool};
use crate::sys::{Failure, OpenFiles, map};
use crate::tree::{Spared, Vacuum};
use crate::words::{Moment, Target};

/// Drops whose removal is put off at most while there is other work, and their bytes.
const MAX_PUT_OFF: usize = 512;
const MAX_PUT_OFF_BYTES: u64 = 256 << 20;

/// So many drops one thread puts away.
const FEW: usize = 16;

/// What is to go, and when.
#[derive(Debug)]
pub(super) struct Cleanup {
    /// Drops to be put away.
    leaving: Vec<Leaving>,
    /// Drops that could not be put away.
    stuck: Vec<Leaving>,
    /// Away while it works, with the pointers.
    vacuum: Vacuum,
    /// When vacuum has something to do for which target.
    pub(super) due: Schedule,
    /// When outcomes and rejected drops are looked at next; `None` while they are.
    next_expiry: Option<Moment>,
}

/// A vacuum's work that has ended: for each target, when there is something to do again.
pub(super) type Vacuumed = Vec<(Target, Result<Option<Moment>, Fault>)>;

impl Cleanup {
    pub(super) fn new(leaving: Vec<Leaving>, vacuum: Vacuum, due: Schedule) -> Self {
        Self {
            leaving,
            stuck: Vec::new(),
            vacuum,
            due,
            next_expiry: Some(Moment::now()),
        }
    }

    /// A drop has its outcome.
    pub(super) fn take_settled(&mut self, drop: Leaving) {
        self.leaving.push(drop);
    }

    /// A generation of `target` has stopped being current.
    pub(super) fn take_replaced(&mut self, target: Target, settings: &Settings) {
        let first_look = Vacuum::first_look(&settings.retention);
        self.due.add(Moment::now().later(first_look), target);
    }

    /// All that was timed by other settings is timed anew; `targets` are those that retention keeps
    /// generations of.
    pub(super) fn begin_anew(&mut self, targets: impl IntoIterator<Item = Target>) {
        let now = Moment::now();
        for target in targets {
            self.due.add(now, target);
        }
        self.next_expiry = self.next_expiry.map(|_| now);
    }

    /// The drops that are to be put away now. Nothing waits for them but drops of the same name.
    ///
    /// While there is work it is put off, within bounds: ext4, for one, searches long for free
    /// inodes among many that were freed a moment ago.
    pub(super) fn next_to_put_away(&mut self, is_busy: bool) -> Vec<Leaving> {
        let bytes: u64 = self.leaving.iter().map(|drop| drop.bytes).sum();
        let is_much = self.leaving.len() >= MAX_PUT_OFF || bytes > MAX_PUT_OFF_BYTES;
        if is_busy && !is_much {
            return Vec::new();
        }
        std::mem::take(&mut self.leaving)
    }

    /// Removes drops, or keeps them where rejected ones are kept.
    pub(super) fn put_away(
        drops: Vec<Leaving>,
        spool: &Spool,
    ) -> Vec<(Leaving, Result<(), Failure>)> {
        map(drops, FEW, |drop| {
            let result = spool.put_away(&drop);
            (drop, result)
        })
    }

    /// A drop could not be put away.
    pub(super) fn take_stuck(&mut self, drop: Leaving) {
        self.stuck.push(drop);
    }

    /// Drops that could not be put away are tried again.
    pub(super) fn retry_stuck(&mut self) {
        self.leaving.append(&mut self.stuck);
    }

    pub(super) fn stuck(&self) -> usize {
        self.stuck.len()
    }

    pub(super) fn is_vacuum_due(&self, now: Moment) -> bool {
        self.due.next().is_some_and(|at| at <= now)
    }

    /// The targets that vacuum has to do with now. One that a drop is on its way for has to wait: the
    /// drop may be about to use an older generation again.
    pub(super) fn next_to_vacuum(&mut self, now: Moment, queue: &Queue) -> (Vacuum, Vec<Target>) {
        let due = self.due.take_due(now);
        let (busy, free): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|target| queue.has_line(target));
        for target in busy {
            self.due.add(now.later(Duration::from_secs(1)), target);
        }
        (std::mem::take(&mut self.vacuum), free)
    }

    /// Removes what retention doesn't keep of these targets, and spares what may be in use.
    pub(super) fn vacuum(
        vacuum: &mut Vacuum,
        pipeline: &mut Pipeline,
        targets: Vec<Target>,
        settings: &Settings,
        drops: std::collections::HashSet<std::sync::Arc<str>>,
    ) -> Vacuumed {
        let spared = Spared {
            retention: &settings.retention,
            open: OpenFiles::now(),
            drops,
        };
        let clean = |target: Target| {
            let next = vacuum.clean(pipeline.pointers(), &target, &spared);
            (target, next)
        };
        targets.into_iter().map(clean).collect()
    }

    pub(super) fn take_vacuumed(
        &mut self,
        vacuum: Vacuum,
        vacuumed: Vacuumed,
        settings: &Settings,
        troubles: &mut Troubles,
    ) {
        if let Some(failure) = vacuum.trouble() {
            tracing::warn!("{failure}, going on by looking at locks and open files only");
        }
        self.vacuum = vacuum;
        for (target, next) in vacuumed {
            match next {
                Ok(next) => {
                    troubles.is_cleared(&target.to_string());
                    if let Some(next) = next {
                        self.due.add(next, target);
                    }
                }
                Err(fault) => {
                    troubles.meet_leftover(&target.to_string(), &fault);
                    let later = Moment::now().later(settings.spool.rescan_interval);
                    self.due.add(later, target);
                }
            }
        }
    }

    /// Whether outcomes and rejected drops are to be looked at now; [`Cleanup::take_expired`] ends
    /// that.
    pub(super) fn begins_expiry(&mut self, now: Moment) -> bool {
        self.next_expiry.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn take_expired(
        &mut self,
        next: Result<Option<Moment>, Failure>,
        settings: &Settings,
        troubles: &mut Troubles,
    ) {
        let now = Moment::now();
        let soonest = now.later(settings.spool.rescan_interval);
        // What comes later than now goes later than this.
        let (outcomes, rejected) = (settings.spool.keep_outcomes, settings.spool.keep_rejected);
        let kept = outcomes.min(rejected);
        self.next_expiry = Some(match next {
            Ok(next) => {
                troubles.is_cleared(Troubles::SPOOL);
                next.unwrap_or_else(|| now.later(kept)).max(soonest)
            }
            Err(failure) => {
                troubles.meet_leftover(Troubles::SPOOL, &failure.into());
                soonest
            }
        });
    }

    /// When there is something to be done; vacuum can't do it without the pointers.
    pub(super) fn wake_up(&self, has_pointers: bool) -> Option<Moment> {
        let vacuum = self.due.next().filter(|_| has_pointers);
        [vacuum, self.next_expiry].into_iter().flatten().min()
    }
}

/// When there is something to do for which target: the earliest moment of each, once. Grows with the
/// targets, not with how often something is to be done for them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    moments: HashMap<Target, Moment>,
    /// The same, in order.
    order: BTreeSet<(Moment, Target)>,
}

impl Schedule {
    /// Whatever there will be to do for `target` is done at that moment, or earlier: whoever does it
    /// asks for the next.
    pub(super) fn add(&mut self, at: Moment, target: Target) {
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
    pub(super) fn next(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out those whose moment has come.
    pub(super) fn take_due(&mut self, now: Moment) -> Vec<Target> {
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
        let start = Moment::now();
        let at = |seconds| start.later(Duration::from_secs(seconds));
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
