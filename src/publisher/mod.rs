//! The one task that owns the tree: it looks at the spool, hands out work, and lets what comes
//! back into the pipeline.
//!
//! ```text
//! incoming/x ── Seen ── Ready ── Claimed ──┐ decide: claim, check, compare, stage
//!                                          │ (several drops side by side)
//!                  Decided ◄──── Staged ───┘
//!                     │
//!                     └─ pipeline: sync ▸ place ▸ sync ▸ (hold) ▸ swap ▸ sync ▸ outcome ▸ sync
//!                        (one step at a time, for all drops in it: it has the Pointers)
//! ```
//! Work that can run side by side (looking, checking, comparing, staging) does; the steps of the
//! pipeline, in which pointers are swapped, are made one after the other. While one runs, the next
//! batch gathers: the more there is to do, the more drops share what a step costs.
//!
//! The room uses all below it but `commands`' neighbours; it is where spool and tree meet. Start with
//! [`Publisher::run`]: the loop hands out what each part has to do, and takes back what was done.

mod cleanup;
mod decide;
mod decision;
mod orders;
mod pipeline;
mod publication;
mod queue;
mod quiet;
mod recovery;
mod report;
mod scanner;
mod steps;
mod troubles;

pub(crate) use report::{Activity, News, Report};

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cleanup::{Cleanup, Vacuumed};
use self::decide::{Begun, Checked, Workshop};
use self::decision::{Decided, Postponed};
use self::pipeline::{Pipeline, Stepped, Written};
use self::queue::{Next, Queue};
use self::recovery::recover;
use self::scanner::Scanner;
use self::steps::Steps;
use self::troubles::{Troubles, instant};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Leaving, Peeked, Scan, Seen, Spool};
use crate::sys::{Failure, Progress, Watchdog, failpoint};
use crate::tree::{Pointers, Vacuum};
use crate::words::{Moment, Target};

/// The loop over all parts of the publisher.
pub(crate) struct Publisher {
    shop: Arc<Workshop>,
    /// The newest settings are in force at once; what is being worked on goes on with those it
    /// began with.
    settings: watch::Receiver<Arc<Settings>>,
    work: JoinSet<Done>,
    scanner: Scanner,
    queue: Queue,
    steps: Steps,
    cleanup: Cleanup,
    troubles: Troubles,
    report: Report,
    /// It ends when nothing is left to do.
    once: bool,
}

/// A piece of work that has ended.
enum Done {
    Scanned(Result<Scan, Failure>),
    /// With those that there was no room for.
    Peeked(Vec<(Next, Result<Peeked, Fault>)>, Vec<Next>),
    /// In a light lane.
    Begun(Vec<(Seen, Option<Target>, Result<Begun, Postponed>)>),
    /// In a heavy lane; `None` when the drop has gone.
    Decided(Seen, Target, Result<Option<Decided>, Postponed>),
    Stepped(Pipeline, Stepped),
    Vacuumed(Pipeline, Vacuum, Vacuumed),
    Expired(Result<Option<Moment>, Failure>),
    PutAway(Vec<(Leaving, Result<(), Failure>)>),
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
        settings: watch::Receiver<Arc<Settings>>,
        once: bool,
    ) -> anyhow::Result<Self> {
        let staging = Arc::clone(pointers.staging());
        let recovered = recover(&spool, pointers, &settings.borrow(), once)?;
        report.targets = recovered.targets;
        report.doing.last_published = recovered.last_published;
        let scanner = Scanner::new(&spool, &settings.borrow().spool, once);
        let shop = Arc::new(Workshop {
            spool: Arc::new(spool),
            staging,
            progress,
        });
        Ok(Self {
            shop,
            settings,
            work: JoinSet::new(),
            scanner,
            queue: recovered.queue,
            steps: Steps::new(recovered.pointers),
            cleanup: recovered.cleanup,
            troubles: recovered.troubles,
            report,
            once,
        })
    }

    /// Publishes until `shutdown`; once, until nothing is left to do.
    ///
    /// # Errors
    /// When a piece of work panicked; once, also when drops could not be finished.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut watchdog = Watchdog::of_this_process();
        let mut in_force = Arc::clone(&self.settings.borrow_and_update());
        loop {
            failpoint("publisher", "publishing from", "the spool")?;
            let fed_until = watchdog.as_mut().map(|it| Instant::from_std(it.feed()));
            self.hand_out();
            self.show();
            if self.once && self.is_idle() {
                return self.all_finished();
            }
            let wake_up = self.wake_up();
            let wake_up = fed_until.map_or(wake_up, |until| wake_up.min(until));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Before any work is taken back, and more is handed out.
                Ok(()) = self.settings.changed() => in_force = self.take_settings(&in_force),
                Some(ended) = self.work.join_next() => {
                    self.take(ended.context("a piece of work broke off")?)?;
                    // What else has ended by now is taken along: fewer, larger batches.
                    while let Some(ended) = self.work.try_join_next() {
                        self.take(ended.context("a piece of work broke off")?)?;
                    }
                }
                () = self.scanner.changed() => self.scanner.want(),
                () = tokio::time::sleep_until(wake_up) => {}
            }
        }
        self.finish().await
    }

    /// Long work ends at the next block it reads; what is in the pipeline is finished, and so are
    /// the drops that have their outcome. The rest stays where it is, for the next start.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.progress.request_stop();
        self.steps.close();
        self.begin_step(false);
        while let Some(ended) = self.work.join_next().await {
            let ended = ended.context("a piece of work broke off")?;
            if let Done::Stepped(pipeline, stepped) = ended {
                self.take_stepped(pipeline, stepped);
                self.steps.close();
                self.begin_step(false);
            }
        }
        self.begin_to_put_away(false);
        match self.work.join_next().await {
            Some(ended) => self.take(ended.context("a piece of work broke off")?),
            None => Ok(()),
        }
    }

    /// Takes changed settings. Returns them.
    fn take_settings(&mut self, before: &Settings) -> Arc<Settings> {
        let settings = Arc::clone(&self.settings.borrow_and_update());
        let is_other = settings.retention != before.retention;
        let targets = self.report.targets.iter().filter(|_| is_other);
        self.cleanup.begin_anew(targets.cloned());
        self.scanner.want();
        settings
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Shows what it is doing to whoever wants to see it.
    fn show(&mut self) {
        let doing = &mut self.report.doing;
        doing.waiting = self.queue.waiting();
        doing.held = self.steps.held();
        doing.in_trouble = self.troubles.count();
        self.report.show();
    }

    fn spawn(&mut self, work: impl FnOnce() -> Done + Send + 'static) {
        self.work.spawn_blocking(work);
    }

    /// Begins whatever can be begun.
    fn hand_out(&mut self) {
        let (settings, now) = (self.settings(), Moment::now());
        if self.troubles.is_time() {
            self.scanner.want();
            self.queue.retry_postponed();
            self.cleanup.retry_stuck();
        }
        if let Some(scan) = self.scanner.begin(&self.queue, &settings, &self.shop.spool) {
            self.spawn(move || Done::Scanned(scan()));
        }
        while let Some((seen, target)) = self.queue.next_heavy() {
            self.begin_heavy(seen, target, &settings);
        }
        self.begin_to_peek(&settings);
        // A step makes room for what comes next.
        if !self.begin_step(self.queue.is_busy()) && self.cleanup.is_vacuum_due(now) {
            self.begin_vacuum(now, &settings);
        }
        while !self.steps.is_full() && self.begin_light(&settings) {}
        self.begin_to_put_away(self.queue.is_busy() || !self.steps.is_empty());
        if self.cleanup.begins_expiry(now) {
            let shop = Arc::clone(&self.shop);
            self.spawn(move || Done::Expired(shop.spool.expire(&settings.spool)));
        }
    }

    /// Reads manifests, so that the targets of the next drops are known.
    fn begin_to_peek(&mut self, settings: &Arc<Settings>) {
        let drops = self.queue.next_to_peek();
        if drops.is_empty() {
            return;
        }
        let (shop, settings) = (Arc::clone(&self.shop), Arc::clone(settings));
        self.spawn(move || {
            let peek = |seen: &Seen| shop.spool.peek(seen.clone(), &settings.spool);
            let (peeked, rest) = Queue::peek_all(drops, peek);
            Done::Peeked(peeked, rest)
        });
    }

    /// Hands drops to one of the light lanes. Returns whether there were any.
    fn begin_light(&mut self, settings: &Arc<Settings>) -> bool {
        let Some(drops) = self.queue.next_to_begin() else {
            return false;
        };
        let (shop, settings) = (Arc::clone(&self.shop), Arc::clone(settings));
        self.spawn(move || {
            let begin = |ready: crate::spool::Ready| {
                let (seen, target) = (ready.seen.clone(), ready.target().cloned());
                (seen, target, shop.begin(ready, &settings.limits))
            };
            Done::Begun(drops.into_iter().map(begin).collect())
        });
        true
    }

    /// Works on a heavy drop that has waited for its lane.
    fn begin_heavy(&mut self, seen: Seen, target: Target, settings: &Arc<Settings>) {
        let (shop, settings) = (Arc::clone(&self.shop), Arc::clone(settings));
        self.report.doing.begin(target.clone(), &shop.progress);
        self.spawn(move || {
            let decided = shop.begin_heavy(seen.clone(), &target, &settings);
            Done::Decided(seen, target, decided)
        });
    }

    /// Lets what was decided into the pipeline, and all that is in it go on, if it is time to.
    /// Returns whether it is.
    fn begin_step(&mut self, is_more_to_come: bool) -> bool {
        let (settings, spool) = (self.settings(), &self.shop.spool);
        let step = self.steps.begin(is_more_to_come, &settings, spool);
        let Some(step) = step else { return false };
        self.spawn(move || {
            let (pipeline, stepped) = step();
            Done::Stepped(pipeline, stepped)
        });
        true
    }

    fn begin_vacuum(&mut self, now: Moment, settings: &Arc<Settings>) {
        let Some(mut pipeline) = self.steps.lend() else {
            return;
        };
        let (mut vacuum, targets) = self.cleanup.next_to_vacuum(now, &self.queue);
        let (settings, drops) = (Arc::clone(settings), self.queue.known());
        self.spawn(move || {
            let done = Cleanup::vacuum(&mut vacuum, &mut pipeline, targets, &settings, drops);
            Done::Vacuumed(pipeline, vacuum, done)
        });
    }

    fn begin_to_put_away(&mut self, is_busy: bool) {
        let drops = self.cleanup.next_to_put_away(is_busy);
        if !drops.is_empty() {
            let shop = Arc::clone(&self.shop);
            self.spawn(move || Done::PutAway(Cleanup::put_away(drops, &shop.spool)));
        }
    }

    fn take(&mut self, done: Done) -> anyhow::Result<()> {
        match done {
            Done::Scanned(scan) => self.take_scan(scan)?,
            Done::Peeked(drops, rest) => {
                self.queue.end_peeking(rest);
                for (next, peeked) in drops {
                    self.take_peeked(next, peeked);
                }
            }
            Done::Begun(drops) => {
                self.queue.leave_light_lane();
                for (seen, target, begun) in drops {
                    self.take_begun(&seen, target, begun);
                }
            }
            Done::Decided(seen, target, decided) => {
                self.report.doing.end(&target);
                self.queue.leave_heavy_lane();
                let begun = decided.map(|decided| decided.map_or(Begun::Gone, Begun::Decided));
                self.take_begun(&seen, Some(target), begun);
            }
            Done::Stepped(pipeline, stepped) => self.take_stepped(pipeline, stepped),
            Done::Vacuumed(pipeline, vacuum, vacuumed) => {
                self.steps.give_back(pipeline);
                let settings = self.settings();
                self.cleanup
                    .take_vacuumed(vacuum, vacuumed, &settings, &mut self.troubles);
            }
            Done::Expired(next) => {
                let settings = self.settings();
                self.cleanup
                    .take_expired(next, &settings, &mut self.troubles);
            }
            Done::PutAway(drops) => {
                for (drop, result) in drops {
                    match result {
                        Ok(()) => self.let_go(&drop.claim_name),
                        Err(failure) => {
                            self.troubles.meet(&drop.claim_name, &failure.into());
                            self.cleanup.take_stuck(drop);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn take_scan(&mut self, scan: Result<Scan, Failure>) -> anyhow::Result<()> {
        match self.scanner.take(scan) {
            Ok(scan) => {
                self.troubles.is_over(Troubles::SPOOL);
                self.queue.take_found(scan.complete, &scan.known);
                let doing = &mut self.report.doing;
                doing.scans += 1;
                doing.incomplete = scan.incomplete.len();
                doing.oldest = self.queue.oldest();
            }
            Err(failure) if failure.is(std::io::ErrorKind::StaleNetworkFileHandle) => {
                anyhow::bail!("{failure}: it is another folder than at the start");
            }
            Err(failure) => self.troubles.meet(Troubles::SPOOL, &failure.into()),
        }
        Ok(())
    }

    fn take_peeked(&mut self, next: Next, peeked: Result<Peeked, Fault>) {
        match peeked {
            Ok(peeked) => {
                if !matches!(peeked, Peeked::Ready(_)) {
                    self.troubles.is_over(next.0.claim_name());
                }
                if self.queue.take_peeked(next, peeked) {
                    self.scanner.want();
                }
            }
            Err(fault) => {
                let (seen, line) = next;
                self.postpone(line, Postponed { seen, fault });
            }
        }
    }

    fn take_begun(&mut self, seen: &Seen, target: Option<Target>, begun: Result<Begun, Postponed>) {
        match begun {
            Ok(Begun::Checked(checked)) => {
                let target = checked.target().clone();
                if self
                    .queue
                    .enter_heavy_lane(checked.claimed.again(), &target)
                {
                    self.decide_heavy(seen.clone(), target, checked);
                }
            }
            Ok(Begun::Decided(decided)) => {
                // One that was replaced while it was claimed is for nothing any more: the line of
                // the drop before goes on.
                if decided.target.is_none() {
                    self.queue.advance(target);
                }
                self.steps.add(decided);
            }
            Ok(Begun::Gone) => {
                self.let_go(seen.claim_name());
                self.queue.advance(target);
            }
            Err(postponed) => self.postpone(target, postponed),
        }
    }

    /// Goes on with a heavy drop that has found its lane free.
    fn decide_heavy(&mut self, seen: Seen, target: Target, checked: Box<Checked>) {
        let (shop, settings) = (Arc::clone(&self.shop), self.settings());
        self.report.doing.begin(target.clone(), &shop.progress);
        self.spawn(move || {
            let decided = shop.decide(*checked, &settings.limits);
            Done::Decided(seen, target, decided.map(Some))
        });
    }

    fn take_stepped(&mut self, pipeline: Pipeline, mut stepped: Stepped) {
        let settings = self.settings();
        self.steps.take(pipeline, &mut stepped, &settings);
        for (target, postponed) in stepped.postponed {
            self.postpone(target, postponed);
        }
        for written in stepped.settled {
            self.settle(written);
        }
    }

    /// A drop has its outcome.
    fn settle(&mut self, written: Written) {
        let Written {
            decided,
            outcome,
            trouble,
        } = written;
        self.report.tell(outcome.clone(), decided.elapsed());
        let (claim_name, target) = (decided.claimed.claim_name(), &decided.target);
        if let (true, Some(target)) = (decided.has_replaced(), target) {
            let settings = self.settings();
            self.cleanup.take_replaced(target.clone(), &settings);
        }
        if let Some(failure) = trouble {
            self.troubles.meet(claim_name, &failure.into());
        }
        self.queue.settle(claim_name, target.clone());
        let leaving = Leaving::new(Arc::clone(claim_name), outcome);
        self.cleanup.take_settled(leaving);
    }

    /// A drop is not on its way any more.
    fn let_go(&mut self, claim_name: &str) {
        self.troubles.is_over(claim_name);
        if self.queue.let_go(claim_name) {
            self.scanner.want();
        }
    }

    fn postpone(&mut self, target: Option<Target>, postponed: Postponed) {
        let Postponed { seen, fault } = postponed;
        self.troubles.meet(seen.claim_name(), &fault);
        self.queue.postpone(seen, target);
    }

    /// When there will be something to begin even if nothing happens. What can't be begun yet has
    /// no say in it: it would wake the task again and again.
    fn wake_up(&self) -> Instant {
        let far = Instant::now() + self.settings.borrow().spool.rescan_interval;
        let scan = self.scanner.wake_up().filter(|_| !self.queue.is_long());
        let cleanup = self.cleanup.wake_up(self.steps.has_pointers());
        let (step, retry) = (self.steps.wake_up(), self.troubles.next_try());
        let all = [scan, step, cleanup.map(instant), retry];
        all.into_iter().flatten().fold(far, Instant::min)
    }

    /// Nothing runs, and nothing could be begun before somebody drops something.
    fn is_idle(&self) -> bool {
        let waits = self.scanner.is_pending() || self.steps.held() > 0;
        self.work.is_empty() && self.steps.is_idle() && !waits
    }

    fn all_finished(&self) -> anyhow::Result<()> {
        let left = self.queue.postponed() + self.cleanup.stuck();
        anyhow::ensure!(
            left == 0,
            "{left} drops could not be finished; they stay in the spool"
        );
        Ok(())
    }
}
