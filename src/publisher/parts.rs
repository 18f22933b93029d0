//! The parts of the publisher, and what goes from one to the other when a piece of work has ended.

use tokio::time::Instant;

use super::cleanup::Cleanup;
use super::decide::{Begun, BegunDrop, Heavy};
use super::decision::Postponed;
use super::lanes::Weight;
use super::looks::Next;
use super::pipeline::{Pipeline, Stepped, Written};
use super::queue::Queue;
use super::report::Report;
use super::scanner::Scanner;
use super::steps::Steps;
use super::troubles::Troubles;
use crate::fault::Fault;
use crate::settings::{Settings, SpoolSettings};
use crate::spool::{DropKey, Peeked, Scan, Waiting};
use crate::sys::Failure;
use crate::words::Target;

pub(super) struct Parts {
    pub(super) scanner: Scanner,
    pub(super) queue: Queue,
    pub(super) steps: Steps,
    pub(super) cleanup: Cleanup,
    pub(super) troubles: Troubles,
    pub(super) report: Report,
}

/// A drop that is not light, with its target, its weight, and the user whose it is.
pub(super) type InLane = (Heavy, Target, Weight, u32);

impl Parts {
    /// # Errors
    /// When spool or tree was replaced.
    pub(super) fn take_scan(
        &mut self,
        scan: Result<Scan, Failure>,
        settings: &Settings,
    ) -> anyhow::Result<()> {
        match self.scanner.take(scan, &settings.spool) {
            Ok(scan) => {
                self.troubles.is_over(None);
                self.cleanup.look_at_room(scan.free, settings);
                let looks_again = self.queue.take_found(scan);
                self.scanner.is_wanted |= looks_again;
                self.report.doing.take_scan(self.queue.oldest());
            }
            Err(failure) if failure.is(std::io::ErrorKind::StaleNetworkFileHandle) => {
                return Err(failure.into());
            }
            Err(failure) => self.troubles.meet(None, &failure.into()),
        }
        Ok(())
    }

    pub(super) fn take_peeked(
        &mut self,
        (seen, line): Next,
        peeked: Result<Peeked, Fault>,
        settings: &SpoolSettings,
    ) {
        match peeked {
            Ok(Peeked::Ready(ready)) => self.queue.take_ready(ready, line),
            Ok(Peeked::Waits(seen)) => self.queue.take_waiting(seen, line),
            Ok(Peeked::Gone) => self.take_gone(seen.key(), line),
            Err(fault) => self.postpone(Postponed { seen, fault }, line, settings),
        }
    }

    /// Takes back a drop that was begun; `line` is the line that the drop is the head of. Returns a drop
    /// that is to be worked on in a lane of its weight, which the queue counts as taken already.
    pub(super) fn take_begun(
        &mut self,
        (line, begun): BegunDrop,
        settings: &SpoolSettings,
    ) -> Option<InLane> {
        match begun {
            Ok(Begun::Checked(checked)) => {
                let (target, weight) = (checked.target().clone(), checked.weight());
                let (seen, owner) = (checked.claimed.again(), checked.claimed.importer.uid);
                if self.queue.enter_lane(weight, seen, &target) {
                    return Some((Heavy::Checked(checked), target, weight, owner));
                }
            }
            Ok(Begun::Aside(claimed, target, (fault, reason))) => {
                self.troubles.meet(Some(claimed.key()), &fault);
                self.queue.step_aside(target, claimed, reason, &fault);
            }
            Ok(Begun::Decided(decided)) => {
                let passed = self.queue.passed(&decided);
                // A drop that was replaced while it was claimed is for no target any more: the line
                // of what was there before goes on.
                if decided.target.is_none() {
                    self.queue.advance(line);
                }
                self.steps.add_behind(passed, decided);
            }
            Ok(Begun::Gone(key)) => self.take_gone(&key, line),
            Err(postponed) => self.postpone(postponed, line, settings),
        }
        None
    }

    /// # Errors
    /// When spool or tree was replaced.
    pub(super) fn take_stepped(
        &mut self,
        pipeline: Pipeline,
        mut stepped: Stepped,
        settings: &Settings,
    ) -> anyhow::Result<()> {
        self.steps.take(pipeline, &mut stepped, &settings.swap);
        for (decided, failure) in stepped.unwritten {
            self.troubles
                .meet(Some(decided.claimed.key()), &failure.into());
            self.steps.unwritten.push(decided);
        }
        for (line, postponed) in stepped.postponed {
            self.postpone(postponed, line, &settings.spool);
        }
        for written in stepped.settled {
            self.settle(written, settings);
        }
        stepped.misplaced.map_or(Ok(()), |it| Err(it.into()))
    }

    /// Takes a drop that has its outcome: tells of it, and has the drop put away.
    fn settle(&mut self, written: Written, settings: &Settings) {
        let (key, outcome) = (written.claimed.key().clone(), written.outcome);
        let target = written.target;
        let took = written.started.elapsed();
        self.report.tell(outcome.clone(), written.swapped_at, took);
        let replaced = target.clone().filter(|_| written.has_replaced);
        self.cleanup.take_replaced(replaced, settings);
        if let Some(failure) = written.trouble {
            self.troubles.meet(Some(&key), &failure.into());
        }
        self.queue.settle(&key, target);
        self.steps.has_settled(&key);
        self.cleanup.leaving.push(written.claimed.leaving(outcome));
    }

    /// A drop has gone before it was decided. The next one in the line may go on.
    fn take_gone(&mut self, key: &DropKey, line: Option<Target>) {
        self.let_go(key);
        self.queue.advance(line);
    }

    /// Forgets a drop that was put away or has gone, and looks for another of its name.
    pub(super) fn let_go(&mut self, key: &DropKey) {
        self.troubles.is_over(Some(key));
        self.scanner.is_wanted |= self.queue.let_go(key);
    }

    /// Keeps a drop that can't be worked on now, until [`Troubles::is_time`]. One that its owner keeps
    /// from being claimed is as one that is not whole: it holds up nobody.
    fn postpone(&mut self, postponed: Postponed, line: Option<Target>, settings: &SpoolSettings) {
        let Postponed { seen, fault } = postponed;
        if matches!(fault, Fault::Owner(_)) {
            return self.queue.wait_for_owner(seen, line, settings);
        }
        self.troubles.meet(Some(seen.key()), &fault);
        self.queue.postpone(seen, line);
    }

    /// When there will be something to begin even if nothing happens. What can't be begun yet has
    /// no say in it: it would wake the task again and again.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        let scan = self.scanner.wake_up(&self.queue);
        let cleanup = self.cleanup.wake_up(self.steps.pipeline.is_some());
        let (look, step) = (self.queue.wake_up(), self.steps.wake_up());
        let (flood, retry) = (self.report.floods.next(), self.troubles.next);
        let all = [scan, look, step, cleanup, flood, retry];
        all.into_iter().flatten().min()
    }

    /// Nothing could be begun before somebody drops something.
    pub(super) fn is_idle(&self) -> bool {
        let is_pending = self.scanner.is_pending(&self.queue) || self.queue.is_settling();
        let waits = is_pending || self.steps.held() > 0;
        self.steps.is_idle() && !waits
    }

    /// Shows what the publisher is doing.
    pub(super) fn show(&mut self) {
        let (waiting, held) = (self.queue.waiting(), self.steps.held());
        self.report.doing.incomplete = self.queue.incomplete();
        self.report.doing.no_space = self.queue.aside();
        self.report.show(waiting, held, self.troubles.count());
    }

    /// What waits, and for what.
    pub(super) fn overview(&self) -> Vec<Waiting> {
        let mut overview = self.queue.overview(&self.troubles, &self.report);
        self.steps.tell(&mut overview);
        for owner in self.scanner.left_out() {
            overview.more(*owner, &self.scanner.max_waiting.shown(*owner));
        }
        overview.all()
    }

    /// How many drops could not be finished.
    pub(super) fn left(&self) -> usize {
        self.queue.postponed() + self.cleanup.stuck.len() + self.steps.left()
    }
}
