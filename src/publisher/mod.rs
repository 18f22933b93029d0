//! The one task that owns the tree: the task looks at the spool, hands out work, and lets what
//! comes back into the pipeline.
//!
//! ```text
//! incoming/x ── Seen ── Ready ── Claimed ──┐ decide: claim, check, compare, stage
//!                                          │ (several drops side by side)
//!                  Decided ◄──── Staged ───┘
//!                     │
//!                     └─ pipeline: sync ▸ place ▸ sync ▸ swap ▸ sync ▸ outcome ▸ sync
//!                        (one step at a time, for all drops: the pipeline has the Pointers)
//! ```
//! What may not be swapped yet is held after it was placed; its swap is announced, and synced, later.
//! Work that can run side by side (looking, checking, comparing, staging) does; the steps of the
//! pipeline, in which pointers are swapped, are made one after the other. While one runs, the next
//! batch gathers: the more there is to do, the more drops share what a step costs.
//!
//! The room uses all rooms that stand lower in the map; here spool and tree meet. Start with
//! [`Publisher::run`]: the loop hands out what each part has to do, and takes back what was done.

mod cleanup;
mod decide;
mod decision;
mod lanes;
mod lines;
mod looks;
mod orders;
mod pipeline;
mod publication;
mod queue;
mod quiet;
mod recovery;
mod report;
mod room;
mod scanner;
mod steps;
mod sweeping;
mod troubles;
mod workshop;

pub(crate) use report::{Activity, News, Report};

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cleanup::{Cleanup, PutAway, Vacuumed};
use self::decide::{Begun, BegunDrop, BegunDrops, Heavy, PeekedDrops};
use self::decision::Postponed;
use self::lanes::Weight;
use self::looks::Next;
use self::pipeline::{Pipeline, Stepped, Written};
use self::queue::Queue;
use self::recovery::recover;
use self::scanner::Scanner;
use self::steps::Steps;
use self::sweeping::Swept;
use self::troubles::Troubles;
use self::workshop::Workshop;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Peeked, Scan, Spool};
use crate::sys::{Failure, Progress, Watchdog, failpoint};
use crate::tree::Pointers;
use crate::words::Target;

/// A panic in a thread of the publisher's.
const BROKE_OFF: &str = "a piece of work broke off";

/// The loop over all parts of the publisher.
pub(crate) struct Publisher {
    /// With the settings in force.
    shop: Arc<Workshop>,
    changes: watch::Receiver<Arc<Settings>>,
    work: JoinSet<Done>,
    scanner: Scanner,
    queue: Queue,
    steps: Steps,
    cleanup: Cleanup,
    troubles: Troubles,
    report: Report,
    /// The publisher ends when nothing is left to do.
    once: bool,
}

/// A piece of work that has ended.
enum Done {
    Scanned(Result<Scan, Failure>),
    /// For an importer.
    Peeked((PeekedDrops, u32)),
    /// In a light lane, for an importer.
    Begun(BegunDrops),
    /// In a lane for what is not light.
    BegunHeavy((Result<Begun, Postponed>, Target, Weight, u32)),
    Stepped((Pipeline, Stepped)),
    Vacuumed(Vacuumed),
    Swept(Result<Swept, Failure>),
    PutAway(Vec<PutAway>),
}

impl Publisher {
    /// Takes up what was left in spool and tree. With `once` the publisher will end when nothing is
    /// left to do. Blocks.
    ///
    /// # Errors
    /// When spool or tree can't be read.
    pub(crate) fn new(
        spool: Spool,
        pointers: Pointers,
        mut report: Report,
        progress: Arc<Progress>,
        mut changes: watch::Receiver<Arc<Settings>>,
        once: bool,
    ) -> anyhow::Result<Self> {
        let settings = Arc::clone(&changes.borrow_and_update());
        let staging = Arc::clone(pointers.staging());
        let (pointers, queue, cleanup, troubles) =
            recover(&spool, pointers, &mut report, &settings, once)?;
        let scanner = Scanner::new(&spool, &settings, once);
        Ok(Self {
            shop: Arc::new(Workshop {
                settings,
                spool: Arc::new(spool),
                staging,
                progress,
                room: Arc::default(),
            }),
            changes,
            work: JoinSet::new(),
            scanner,
            queue,
            steps: Steps::new(pointers),
            cleanup,
            troubles,
            report,
            once,
        })
    }

    /// Publishes until `shutdown`; once, until nothing is left to do.
    ///
    /// # Errors
    /// When a piece of work panicked, or spool or tree was replaced; once, also when drops could not
    /// be finished.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut watchdog = Watchdog::of_this_process();
        loop {
            failpoint("publisher", "publishing from", "the spool")?;
            self.report.look_at_clock();
            let fed_until = watchdog.as_mut().map(|it| Instant::from_std(it.feed()));
            self.hand_out();
            let (waiting, held) = (self.queue.waiting(), self.steps.held());
            self.report.doing.incomplete = self.queue.incomplete();
            self.report.show(waiting, held, self.troubles.count());
            if self.once && self.is_idle() {
                return all_finished(self.queue.postponed() + self.cleanup.stuck.len());
            }
            let wake_up = self.wake_up(fed_until);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                // Before any work is taken back, and more is handed out.
                Ok(()) = self.changes.changed() => self.take_settings(),
                Some(ended) = self.work.join_next() => {
                    self.take(ended)?;
                    // What else has ended by now is taken along: fewer, larger batches.
                    while let Some(ended) = self.work.try_join_next() {
                        self.take(ended)?;
                    }
                }
                () = self.scanner.changed() => self.scanner.hear(),
                () = tokio::time::sleep_until(wake_up) => {}
            }
        }
    }

    /// Long work ends at the next block it reads; what is in the pipeline is finished, and so are
    /// the drops that have their outcome. The rest stays where it is, for the next start.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.progress.request_stop();
        loop {
            self.steps.close();
            self.begin_step(false);
            let Some(ended) = self.work.join_next().await else {
                break;
            };
            if let Done::Stepped((pipeline, stepped)) = ended.context(BROKE_OFF)? {
                self.take_stepped(pipeline, stepped)?;
            }
        }
        self.begin_to_put_away(false);
        let ended = self.work.join_next().await;
        ended.map_or(Ok(()), |ended| self.take(ended))
    }

    /// Work that begins from now on goes on with the new settings, and so does every drop that comes
    /// after systemd was told.
    fn take_settings(&mut self) {
        let settings = Arc::clone(&self.changes.borrow_and_update());
        let is_other = settings.retention != self.shop.settings.retention;
        let targets = self.report.targets.iter().filter(|_| is_other);
        self.cleanup.begin_anew(targets.cloned());
        Arc::make_mut(&mut self.shop).settings = settings;
        self.queue.begin_anew();
        self.scanner.begin_anew(&self.shop.settings);
    }

    /// Begins whatever can be begun.
    fn hand_out(&mut self) {
        if self.troubles.is_time() {
            self.scanner.is_wanted = true;
            let timeout = self.shop.settings.spool.incomplete_timeout;
            self.steps.add_all(self.queue.retry_postponed(timeout));
            self.cleanup.leaving.append(&mut self.cleanup.stuck);
        }
        let scan = self.scanner.begin(&self.queue, &self.shop.settings.spool);
        self.begin(scan, Done::Scanned);
        while let Some((weight, seen, target)) = self.queue.next_in_lane() {
            let owner = seen.owner;
            self.begin_heavy(Heavy::Seen(seen), target, weight, owner);
        }
        // So that the targets of the next drops are known.
        while let Some((owner, drops)) = self.queue.next_to_peek() {
            let peek = move |shop: &Workshop| (shop.peek(drops), owner);
            self.begin(Some(peek), Done::Peeked);
        }
        // A step makes room for what comes next.
        if !self.begin_step(self.queue.is_busy()) {
            let vacuum = self.cleanup.begin_vacuum(&mut self.steps, &self.queue);
            self.begin(vacuum, Done::Vacuumed);
        }
        while !self.steps.is_full()
            && let Some(drops) = self.queue.next_light()
        {
            self.begin(Some(|shop: &Workshop| shop.begin(drops)), Done::Begun);
        }
        self.begin_to_put_away(self.queue.is_busy() || !self.steps.decided.is_empty());
        let sweep = self.cleanup.begin_sweep();
        self.begin(sweep, Done::Swept);
    }

    /// Begins a piece of work, if there is one. Returns whether there is.
    fn begin<T: 'static>(
        &mut self,
        work: Option<impl FnOnce(&Workshop) -> T + Send + 'static>,
        done: fn(T) -> Done,
    ) -> bool {
        let Some(work) = work else { return false };
        let shop = Arc::clone(&self.shop);
        self.work.spawn_blocking(move || done(work(&shop)));
        true
    }

    /// Hands a drop of the user `owner` for `target` to a lane of its weight, which the queue counts as
    /// taken already.
    fn begin_heavy(&mut self, heavy: Heavy, target: Target, weight: Weight, owner: u32) {
        self.report.doing.begin(&target, &self.shop.progress);
        let work = move |shop: &Workshop| (shop.begin_heavy(heavy, &target), target, weight, owner);
        self.begin(Some(work), Done::BegunHeavy);
    }

    /// Lets what was decided into the pipeline, and all that is in it go on, if it is time to.
    /// Returns whether it is.
    fn begin_step(&mut self, is_more_to_come: bool) -> bool {
        let step = self.steps.begin(is_more_to_come, &self.shop.settings.swap);
        self.begin(step, Done::Stepped)
    }

    fn begin_to_put_away(&mut self, is_busy: bool) {
        let put_away = self.cleanup.begin_to_put_away(is_busy);
        self.begin(put_away, Done::PutAway);
    }

    /// Takes back a piece of work.
    fn take(&mut self, ended: Result<Done, JoinError>) -> anyhow::Result<()> {
        let settings = Arc::clone(&self.shop.settings);
        let (cleanup, troubles) = (&mut self.cleanup, &mut self.troubles);
        match ended.context(BROKE_OFF)? {
            Done::Scanned(scan) => self.take_scan(scan)?,
            Done::Peeked(((drops, rest), owner)) => {
                self.queue.end_peeking(owner, rest);
                for (next, peeked) in drops {
                    self.take_peeked(next, peeked);
                }
            }
            Done::Begun((owner, drops, rest)) => {
                self.queue.leave_light_lane(owner, rest);
                for drop in drops {
                    self.take_begun(drop);
                }
            }
            Done::BegunHeavy((begun, target, weight, owner)) => {
                self.queue.leave_lane(weight, owner);
                self.report.doing.end(&target);
                self.take_begun((Some(target), begun));
            }
            Done::Stepped((pipeline, stepped)) => self.take_stepped(pipeline, stepped)?,
            Done::Vacuumed((pipeline, vacuum, cleaned)) => {
                self.steps.pipeline = Some(pipeline);
                cleanup.take_vacuumed(vacuum, cleaned, &settings, troubles);
            }
            Done::Swept(swept) => cleanup.take_swept(swept, &settings.spool, troubles),
            Done::PutAway(drops) => {
                for gone in cleanup.take_put_away(drops, &settings.spool, troubles) {
                    self.let_go(&gone);
                }
            }
        }
        Ok(())
    }

    fn take_scan(&mut self, scan: Result<Scan, Failure>) -> anyhow::Result<()> {
        match self.scanner.take(scan) {
            Ok(scan) => {
                self.troubles.is_over(Troubles::SPOOL);
                self.cleanup.look_at_room(scan.free, &self.shop.settings);
                let looks_again = self.queue.take_found(scan.found, &scan.known);
                self.scanner.is_wanted |= looks_again;
                self.report.doing.take_scan(self.queue.oldest());
            }
            Err(failure) if failure.is(std::io::ErrorKind::StaleNetworkFileHandle) => {
                return Err(failure.into());
            }
            Err(failure) => self.troubles.meet(Troubles::SPOOL, &failure.into()),
        }
        Ok(())
    }

    fn take_peeked(&mut self, (seen, line): Next, peeked: Result<Peeked, Fault>) {
        match peeked {
            Ok(Peeked::Ready(ready)) => self.queue.take_ready(ready, line),
            Ok(Peeked::Waits(seen)) => self.queue.take_waiting(seen, line),
            Ok(Peeked::Gone) => self.take_gone(seen.claim_name(), line),
            Err(fault) => self.postpone(Postponed { seen, fault }, line),
        }
    }

    /// Takes back a drop that was begun; `line` is the line that the drop is the head of.
    fn take_begun(&mut self, (line, begun): BegunDrop) {
        match begun {
            Ok(Begun::Checked(checked)) => {
                let (target, weight) = (checked.target().clone(), checked.weight());
                let (seen, owner) = (checked.claimed.again(), checked.claimed.importer.uid);
                if self.queue.enter_lane(weight, seen, &target) {
                    self.begin_heavy(Heavy::Checked(checked), target, weight, owner);
                }
            }
            Ok(Begun::Aside(claimed, target, (fault, reason))) => {
                self.troubles.meet(&claimed.name, &fault);
                self.queue.step_aside(target, claimed, reason, &fault);
            }
            Ok(Begun::Decided(decided)) => {
                // They have their outcome before this one is swapped in: a step later.
                self.steps.add_all(self.queue.passed(&decided));
                // A drop that was replaced while it was claimed is for no target any more: the line
                // of what was there before goes on.
                if decided.target.is_none() {
                    self.queue.advance(line);
                }
                self.steps.add(decided);
            }
            Ok(Begun::Gone(claim_name)) => self.take_gone(&claim_name, line),
            Err(postponed) => self.postpone(postponed, line),
        }
    }

    /// # Errors
    /// When spool or tree was replaced.
    fn take_stepped(&mut self, pipeline: Pipeline, mut stepped: Stepped) -> anyhow::Result<()> {
        self.steps
            .take(pipeline, &mut stepped, &self.shop.settings.swap);
        for (line, postponed) in stepped.postponed {
            self.postpone(postponed, line);
        }
        for written in stepped.settled {
            self.settle(written);
        }
        stepped.misplaced.map_or(Ok(()), |it| Err(it.into()))
    }

    /// Takes a drop that has its outcome: tells of it, and has the drop put away.
    fn settle(&mut self, written: Written) {
        let (claim_name, outcome) = (Arc::clone(written.claimed.claim_name()), written.outcome);
        let target = outcome.target.clone();
        let took = written.started.elapsed();
        self.report.tell(outcome.clone(), written.swapped_at, took);
        let replaced = target.clone().filter(|_| written.has_replaced);
        self.cleanup.take_replaced(replaced, &self.shop.settings);
        if let Some(failure) = written.trouble {
            self.troubles.meet(&claim_name, &failure.into());
        }
        self.queue.settle(&claim_name, target);
        self.cleanup.leaving.push(written.claimed.leaving(outcome));
    }

    /// A drop has gone before it was decided. The next one in the line may go on.
    fn take_gone(&mut self, claim_name: &str, line: Option<Target>) {
        self.let_go(claim_name);
        self.queue.advance(line);
    }

    /// Forgets a drop that was put away or has gone, and looks for another of its name.
    fn let_go(&mut self, claim_name: &str) {
        self.troubles.is_over(claim_name);
        self.scanner.is_wanted |= self.queue.let_go(claim_name);
    }

    /// Keeps a drop that can't be worked on now, until [`Troubles::is_time`].
    /// One that its owner keeps from being claimed is as one that is not whole: it holds up nobody.
    fn postpone(&mut self, postponed: Postponed, line: Option<Target>) {
        let (Postponed { seen, fault }, settings) = (postponed, &self.shop.settings.spool);
        if matches!(fault, Fault::Owner(_)) {
            return self.queue.wait_for_owner(seen, line, settings);
        }
        self.troubles.meet(seen.claim_name(), &fault);
        self.queue.postpone(seen, line);
    }

    /// When there will be something to begin even if nothing happens. What can't be begun yet has
    /// no say in it: it would wake the task again and again.
    fn wake_up(&self, fed_until: Option<Instant>) -> Instant {
        let far = Instant::now() + self.shop.settings.spool.rescan_interval;
        let scan = self.scanner.wake_up(&self.queue);
        let cleanup = self.cleanup.wake_up(self.steps.pipeline.is_some());
        let (look, step) = (self.queue.next_look(), self.steps.wake_up());
        let all = [fed_until, scan, look, step, cleanup, self.troubles.next];
        all.into_iter().flatten().fold(far, Instant::min)
    }

    /// Nothing runs, and nothing could be begun before somebody drops something.
    fn is_idle(&self) -> bool {
        let is_pending = self.scanner.is_pending(&self.queue) || self.queue.is_settling();
        let waits = is_pending || self.steps.held() > 0;
        self.work.is_empty() && self.steps.is_idle() && !waits
    }
}

/// # Errors
/// When drops are left, so many, that could not be finished.
fn all_finished(left: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        left == 0,
        "{left} drops could not be finished; they stay in the spool"
    );
    Ok(())
}
