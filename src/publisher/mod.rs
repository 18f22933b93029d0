//! The one task that owns the tree: it looks at the spool, hands out work, and lets what comes
//! back into the pipeline.
//!
//! Work that can run side by side (looking, checking, comparing, staging) does; the steps of the
//! [`Pipeline`], in which pointers are swapped, are made one after the other. While one runs, the
//! next batch gathers: the more there is to do, the more drops share what a step costs.
//!
//! A drop that replaces what machines may be using is held until none does, and looked at now and
//! then; the others go on.

mod activity;
mod decide;
mod news;
mod pipeline;
mod queue;
pub(crate) mod recovery;
mod schedule;
mod troubles;

pub(crate) use activity::Activity;
pub(crate) use decide::Workshop;
pub(crate) use news::{Listeners, News};

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decide::{Checked, Decided, Postponed, Start};
use self::pipeline::{Batch, Held, Pipeline, Settled, Stepped};
use self::queue::{MAX_LISTED, Queue};
use self::recovery::Recovered;
use self::schedule::Schedule;
use self::troubles::Troubles;
use crate::fault::Fault;
use crate::log::events;
use crate::settings::{Retention, Settings, SpoolSettings, SwapSettings};
use crate::spool::{Leaving, Outcome, Peeked, Ready, Scan, Seen, Watch};
use crate::sys::{Failure, OpenFiles, Watchdog, failpoint, parallel};
use crate::tree::{Lookout, Spared, Vacuum, vacuum};
use crate::words::{Moment, Target, Verdict};

/// A heavier drop is worked on in a lane of its own, so that it holds up no light one.
const HEAVY: u64 = 64 << 20;

/// Drops whose removal is put off at most while there is other work, and their bytes.
const MAX_PUT_OFF: usize = 512;
const MAX_PUT_OFF_BYTES: u64 = 256 << 20;

/// How long a light lane may hold on to the drops that it took at a time.
const MAX_HOLD: Duration = Duration::from_millis(20);

/// Whose trouble it is when `incoming/` can't be read.
const SPOOL: &str = "the spool";

/// A step waits so long for more drops while more are being worked on: what it costs is shared.
const GATHER: Duration = Duration::from_millis(50);

/// So many go without waiting for more.
const BATCH: usize = 256;

/// Drops that may wait for a step; each holds a few hundred bytes, and no open file.
const MAX_BATCH: usize = 512;

/// Looks at the spool, hands out work, lets drops into the pipeline.
pub(crate) struct Publisher {
    shop: Arc<Workshop>,
    /// `None` while a step of it or a vacuum is under way.
    pipeline: Option<Pipeline>,
    watch: Watch,
    listeners: Listeners,
    /// Settings that an admin has changed.
    changes: watch::Receiver<Arc<Settings>>,
    settings: SpoolSettings,
    retention: Retention,
    swap: SwapSettings,
    work: JoinSet<Work>,

    queue: Queue,
    decided: Vec<Decided>,
    /// When the next step is made, whatever else is being worked on.
    gathering: Option<Instant>,
    leaving: Vec<Leaving>,
    /// Those that could not be put away.
    stuck: Vec<Leaving>,
    troubles: Troubles,
    /// Drops that wait until no machine uses what they replace.
    held: Vec<Held>,
    lookout: Arc<Lookout>,
    /// When those are looked at again.
    next_look: Instant,
    /// Away while it works, with the pointers.
    vacuum: Vacuum,
    /// When vacuum has something to do for which target.
    vacuums: Schedule,

    running: Running,
    wants_scan: bool,
    next_scan: Instant,
    /// When drops that may be complete will be taken for complete.
    settles: Option<Moment>,
    next_expiry: Moment,

    /// Targets that have a current generation.
    targets: HashSet<Target>,
    once: bool,
    doing: Activity,
    shown: watch::Sender<Activity>,
    watchdog: Option<Watchdog>,
}

/// What runs at the moment.
#[derive(Default)]
struct Running {
    scan: bool,
    peek: bool,
    expiry: bool,
    light: usize,
}

type Started = (Seen, Option<Target>, Result<Start, Postponed>);

/// A piece of work that has ended.
enum Work {
    Scanned(Result<Scan, Failure>),
    /// With those that there was no room for.
    Peeked(
        Vec<(Seen, Option<Target>, Result<Peeked, Failure>)>,
        VecDeque<(Seen, Option<Target>)>,
    ),
    /// With the drops that were given back.
    Started(Vec<Started>, Vec<Ready>),
    Decided(Target, Result<Decided, Postponed>),
    Stepped(Pipeline, Stepped),
    Vacuumed(
        Pipeline,
        Vacuum,
        Vec<(Target, Result<Option<Moment>, Fault>)>,
    ),
    Expired(Result<Option<Moment>, Failure>),
    PutAway(Vec<(Leaving, Result<(), Failure>)>),
}

impl Publisher {
    /// Goes on with what a start has found. With `once` it will end when nothing is left to do.
    pub(crate) fn new(
        shop: Arc<Workshop>,
        recovered: Recovered,
        watch: Watch,
        listeners: Listeners,
        mut changes: watch::Receiver<Arc<Settings>>,
        shown: watch::Sender<Activity>,
        once: bool,
    ) -> Self {
        let Settings {
            spool: settings,
            retention,
            swap,
            ..
        } = Settings::clone(&changes.borrow_and_update());
        let Recovered {
            pointers,
            queue,
            leaving,
            vacuum,
            vacuums,
            troubles,
            targets,
            last_published,
        } = recovered;
        let doing = Activity {
            last_published,
            ..Activity::default()
        };
        Self {
            queue,
            shop,
            pipeline: Some(Pipeline::new(pointers)),
            watch,
            listeners,
            changes,
            settings,
            retention,
            swap,
            work: JoinSet::new(),
            decided: Vec::new(),
            gathering: None,
            leaving,
            stuck: Vec::new(),
            troubles,
            held: Vec::new(),
            lookout: Arc::default(),
            next_look: Instant::now(),
            vacuum,
            vacuums,
            running: Running::default(),
            wants_scan: true,
            next_scan: Instant::now(),
            settles: None,
            next_expiry: Moment::now(),
            targets,
            once,
            doing,
            shown,
            watchdog: Watchdog::of_this_process(),
        }
    }

    /// Publishes until `shutdown`; once, until nothing is left to do.
    ///
    /// # Errors
    /// When a piece of work panicked; once, also when drops could not be finished.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            failpoint::publisher();
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.feed();
            }
            self.hand_out();
            self.show();
            if self.once && self.is_idle() {
                return self.all_finished();
            }
            let wake_up = self.wake_up();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.work.join_next() => {
                    self.take(ended.context("a piece of work broke off")?)?;
                    // What else has ended by now is taken along: fewer, larger batches.
                    while let Some(ended) = self.work.try_join_next() {
                        self.take(ended.context("a piece of work broke off")?)?;
                    }
                }
                () = self.watch.changed() => self.wants_scan = true,
                Ok(()) = self.changes.changed() => self.adopt(),
                () = tokio::time::sleep_until(wake_up) => {}
            }
        }
        self.finish().await
    }

    /// Long work ends at the next block it reads; what is in the pipeline is finished, and so are
    /// the drops that have their outcome. The rest stays where it is, for the next start.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.progress.request_stop();
        self.decided.clear();
        if let Some(pipeline) = self.pipeline.take().filter(|it| !it.is_empty()) {
            self.step(pipeline, Vec::new());
        }
        while let Some(ended) = self.work.join_next().await {
            let Work::Stepped(pipeline, stepped) = ended.context("a piece of work broke off")?
            else {
                continue;
            };
            for (settled, took) in stepped.settled {
                self.report(&settled.outcome, took);
                self.leaving
                    .push(Leaving::new(settled.entry, settled.outcome));
            }
            if !pipeline.is_empty() {
                self.step(pipeline, Vec::new());
            }
        }
        self.begin_to_put_away();
        match self.work.join_next().await {
            Some(ended) => self.take(ended.context("a piece of work broke off")?),
            None => Ok(()),
        }
    }

    /// Takes up changed settings. What is being worked on goes on with those it began with.
    fn adopt(&mut self) {
        let Settings {
            spool,
            limits,
            retention,
            swap,
            ..
        } = Settings::clone(&self.changes.borrow_and_update());
        self.shop.spool.adopt(spool.clone());
        self.shop = Arc::new(Workshop {
            limits,
            ..Workshop::clone(&self.shop)
        });
        let now = Moment::now();
        if self.retention != retention {
            for target in &self.targets {
                self.vacuums.add(now, target.clone());
            }
        }
        self.settings = spool;
        self.retention = retention;
        self.swap = swap;
        // All that was timed by the old ones is timed anew.
        self.wants_scan = true;
        self.next_expiry = now;
    }

    /// Shows what it is doing to whoever wants to see it.
    fn show(&mut self) {
        let doing = &mut self.doing;
        doing.targets = self.targets.len();
        doing.waiting = self.queue.waiting();
        if doing.waiting == 0 {
            doing.oldest = None;
        }
        doing.held = self.held.len();
        doing.in_trouble = self.troubles.count();
        self.shown.send_if_modified(|shown| {
            let is_new = *shown != *doing;
            if is_new {
                shown.clone_from(doing);
            }
            is_new
        });
    }

    /// Begins whatever can be begun.
    fn hand_out(&mut self) {
        let now = Moment::now();
        self.retry_postponed();
        if self.can_scan() {
            let has_settled = self.settles.is_some_and(|at| at <= now);
            if self.wants_scan || has_settled || self.next_scan <= Instant::now() {
                self.scan();
            }
        }
        self.queue.admit();
        if !self.running.peek {
            self.peek();
        }
        // A step makes room for what comes next.
        self.step_or_vacuum(now);
        while self.running.light < light_lanes()
            && self.decided.len() < MAX_BATCH
            && self.queue.has_ready()
        {
            self.start();
        }
        self.put_away();
        if self.next_expiry <= now && !self.running.expiry {
            self.running.expiry = true;
            let shop = Arc::clone(&self.shop);
            self.work
                .spawn_blocking(move || Work::Expired(shop.spool.expire()));
        }
    }

    fn scan(&mut self) {
        self.wants_scan = false;
        self.running.scan = true;
        self.next_scan = Instant::now() + self.settings.rescan_interval;
        let shop = Arc::clone(&self.shop);
        let arrivals = self.watch.arrivals();
        let known = self.queue.known();
        self.work
            .spawn_blocking(move || Work::Scanned(shop.spool.scan(&arrivals, &known)));
    }

    /// Reads manifests, so that the targets of the next drops are known.
    fn peek(&mut self) {
        let drops = self.queue.next_to_peek();
        if drops.is_empty() {
            return;
        }
        self.running.peek = true;
        let shop = Arc::clone(&self.shop);
        self.work.spawn_blocking(move || {
            let mut rest = VecDeque::from(drops);
            let mut peeked = Vec::new();
            let mut listed = 0;
            while listed < MAX_LISTED
                && let Some((seen, line)) = rest.pop_front()
            {
                let peek = shop.spool.peek(seen.clone());
                if let Ok(Peeked::Ready(ready)) = &peek {
                    listed += ready.listed();
                }
                peeked.push((seen, line, peek));
            }
            Work::Peeked(peeked, rest)
        });
    }

    /// Hands drops to one of the light lanes.
    fn start(&mut self) {
        let batch = self.queue.share(light_lanes());
        self.running.light += 1;
        let shop = Arc::clone(&self.shop);
        self.work.spawn_blocking(move || {
            let began = std::time::Instant::now();
            let mut rest = batch.into_iter();
            let mut started = Vec::new();
            // The others of a drop that takes long are given back.
            while began.elapsed() < MAX_HOLD {
                let Some(ready) = rest.next() else { break };
                let seen = ready.seen.clone();
                let target = ready.target().cloned();
                let start = match shop.start(ready) {
                    Ok(Start::Checked(checked)) if checked.weight() < HEAVY => {
                        shop.decide(*checked).map(Start::Decided)
                    }
                    start => start,
                };
                started.push((seen, target, start));
            }
            Work::Started(started, rest.collect())
        });
    }

    fn decide_heavy(&mut self, checked: Box<Checked>) {
        let shop = Arc::clone(&self.shop);
        let target = checked.target().clone();
        self.doing.begin(target.clone(), &shop.progress);
        self.work
            .spawn_blocking(move || Work::Decided(target, shop.decide(*checked)));
    }

    fn step_or_vacuum(&mut self, now: Moment) {
        let is_due = self.vacuums.next().is_some_and(|at| at <= now);
        let is_step_due = self.is_step_due();
        let released = self.release_held();
        if !is_step_due && released.is_empty() && !is_due {
            return;
        }
        let Some(mut pipeline) = self.pipeline.take() else {
            self.held.extend(released);
            return;
        };
        if is_step_due || !released.is_empty() {
            self.step(pipeline, released);
            return;
        }
        let due = self.vacuums.take_due(now);
        // A drop that is being staged may be about to use an older generation again.
        let (busy, free): (Vec<_>, Vec<_>) = due
            .into_iter()
            .partition(|target| self.queue.is_busy(target));
        for target in busy {
            self.vacuums.add(now.later(Duration::from_secs(1)), target);
        }
        let (retention, drops) = (self.retention.clone(), self.queue.known());
        let mut vacuum = std::mem::take(&mut self.vacuum);
        self.work.spawn_blocking(move || {
            let spared = Spared {
                open: OpenFiles::now(),
                drops,
            };
            let clean = |target: Target| {
                let next = vacuum.clean(pipeline.pointers(), &target, &retention, &spared);
                (target, next)
            };
            let done = free.into_iter().map(clean).collect();
            Work::Vacuumed(pipeline, vacuum, done)
        });
    }

    /// Lets what was decided into the pipeline, and all that is in it go on.
    fn step(&mut self, mut pipeline: Pipeline, released: Vec<Held>) {
        self.gathering = None;
        let batch = Batch {
            decided: std::mem::take(&mut self.decided),
            released,
            swap: self.swap.clone(),
        };
        let (shop, lookout) = (Arc::clone(&self.shop), Arc::clone(&self.lookout));
        self.work.spawn_blocking(move || {
            let stepped = pipeline.step(batch, &shop.spool, &lookout);
            Work::Stepped(pipeline, stepped)
        });
    }

    /// Whether drops wait for a step, and none that will be decided soon is worth waiting for.
    fn is_step_due(&self) -> bool {
        let is_more_to_come = self.running.light > 0 || self.queue.has_ready();
        (!self.decided.is_empty() || self.is_under_way())
            && (!is_more_to_come
                || self.decided.len() >= BATCH
                || self.gathering.is_some_and(|until| until <= Instant::now()))
    }

    /// Whether drops in the pipeline wait for its next step.
    fn is_under_way(&self) -> bool {
        self.pipeline.as_ref().is_some_and(|it| !it.is_empty())
    }

    /// The held drops that may be swapped in now. One that is looked at again in vain comes back.
    fn release_held(&mut self) -> Vec<Held> {
        if self.held.is_empty() || self.next_look > Instant::now() || self.pipeline.is_none() {
            return Vec::new();
        }
        self.next_look = Instant::now() + look_interval(&self.swap);
        self.lookout.look();
        let held = std::mem::take(&mut self.held);
        let (due, held) = held.into_iter().partition(Held::is_due);
        self.held = held;
        due
    }

    fn take(&mut self, work: Work) -> anyhow::Result<()> {
        match work {
            Work::Scanned(scan) => self.take_scan(scan)?,
            Work::Peeked(drops, rest) => {
                self.running.peek = false;
                self.queue.take_back(rest);
                for (seen, line, peeked) in drops {
                    self.take_peeked(seen, line, peeked);
                }
            }
            Work::Started(started, rest) => {
                self.running.light -= 1;
                self.queue.take_unbegun(rest);
                for (seen, target, start) in started {
                    self.take_started(&seen, target, start);
                }
            }
            Work::Decided(target, decided) => {
                self.doing.end(&target);
                self.queue.leave_lane();
                match decided {
                    Ok(decided) => self.gather(decided),
                    Err(postponed) => self.postpone(Some(target), postponed),
                }
            }
            Work::Stepped(pipeline, stepped) => {
                if !pipeline.is_empty() {
                    self.gather_more();
                }
                self.pipeline = Some(pipeline);
                self.take_stepped(stepped);
            }
            Work::Vacuumed(pipeline, vacuum, done) => {
                self.pipeline = Some(pipeline);
                if let Some(failure) = vacuum.trouble() {
                    tracing::warn!("{failure}, going on by looking at locks and open files only");
                }
                self.vacuum = vacuum;
                for (target, next) in done {
                    match next {
                        Ok(next) => {
                            self.troubles.is_cleared(&target.to_string());
                            if let Some(next) = next {
                                self.vacuums.add(next, target);
                            }
                        }
                        Err(fault) => {
                            self.troubles.meet_leftover(&target.to_string(), &fault);
                            let later = Moment::now().later(self.settings.rescan_interval);
                            self.vacuums.add(later, target);
                        }
                    }
                }
            }
            Work::Expired(next) => {
                self.running.expiry = false;
                let soonest = Moment::now().later(self.settings.rescan_interval);
                // What comes later than now goes later than this.
                let kept = self.settings.keep_outcomes.min(self.settings.keep_rejected);
                self.next_expiry = match next {
                    Ok(next) => {
                        self.troubles.is_cleared(SPOOL);
                        next.unwrap_or_else(|| Moment::now().later(kept))
                            .max(soonest)
                    }
                    Err(failure) => {
                        self.troubles.meet_leftover(SPOOL, &failure.into());
                        soonest
                    }
                };
            }
            Work::PutAway(drops) => {
                for (drop, result) in drops {
                    match result {
                        Ok(()) => self.let_go(&drop.entry),
                        Err(failure) => {
                            self.troubles.meet(&drop.entry, &failure.into());
                            self.stuck.push(drop);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn take_scan(&mut self, scan: Result<Scan, Failure>) -> anyhow::Result<()> {
        self.running.scan = false;
        let scan = match scan {
            Ok(scan) => scan,
            Err(failure) if failure.source.kind() == std::io::ErrorKind::StaleNetworkFileHandle => {
                anyhow::bail!("{failure}: it is another folder than at the start");
            }
            Err(failure) => {
                self.troubles.meet(SPOOL, &failure.into());
                return Ok(());
            }
        };
        self.troubles.is_over(SPOOL);
        self.settles = scan.settles;
        if let Some(overdue) = scan.overdue {
            self.next_scan = self.next_scan.min(instant(overdue));
        }
        self.watch.follow(&scan);
        self.queue.take_found(scan.complete, &scan.known);
        self.doing.scans += 1;
        self.doing.incomplete = scan.incomplete.len();
        self.doing.oldest = self.queue.oldest();
        self.wants_scan |= scan.has_more;
        Ok(())
    }

    fn take_peeked(&mut self, seen: Seen, line: Option<Target>, peeked: Result<Peeked, Failure>) {
        match peeked {
            Ok(peeked) => {
                if !matches!(peeked, Peeked::Ready(_)) {
                    self.troubles.is_over(seen.entry());
                }
                self.wants_scan |= self.queue.take_peeked(seen, line, peeked);
            }
            Err(failure) => {
                let fault = failure.into();
                self.postpone(line, Postponed { seen, fault });
            }
        }
    }

    fn take_started(
        &mut self,
        seen: &Seen,
        target: Option<Target>,
        started: Result<Start, Postponed>,
    ) {
        match started {
            Ok(Start::Checked(checked)) => {
                if let Some(checked) = self.queue.take_heavy(checked) {
                    self.decide_heavy(checked);
                }
                return;
            }
            Ok(Start::Decided(decided)) => {
                // One that was replaced while it was claimed is for nothing any more: the line of
                // the one before goes on.
                if decided.target().is_none() {
                    self.queue.advance(target);
                }
                self.gather(decided);
            }
            Ok(Start::Gone) => {
                self.let_go(seen.entry());
                self.queue.advance(target);
            }
            Err(postponed) => self.postpone(target, postponed),
        }
        self.queue.release(seen.entry());
    }

    fn gather(&mut self, decided: Decided) {
        self.decided.push(decided);
        self.gather_more();
    }

    fn gather_more(&mut self) {
        self.gathering
            .get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn take_stepped(&mut self, stepped: Stepped) {
        for (target, postponed) in stepped.postponed {
            self.postpone(target, postponed);
        }
        if let Some(failure) = self.lookout.trouble() {
            tracing::warn!("{failure}, going on by looking at locks and open files only");
        }
        for target in stepped.overdue {
            let delay = humantime::format_duration(self.swap.max_delay);
            let message_id = events::SWAP_DELAYED;
            tracing::warn!(message_id, %target, "swapping after {delay} though machines use what is replaced");
        }
        self.held.extend(stepped.held);
        for (settled, took) in stepped.settled {
            self.report(&settled.outcome, took);
            let target = settled.outcome.target.clone();
            if let (true, Some(target)) = (settled.has_replaced, &target) {
                let due = Moment::now().later(vacuum::first_look(&self.retention));
                self.vacuums.add(due, target.clone());
            }
            let Settled {
                entry,
                outcome,
                trouble,
                ..
            } = settled;
            if let Some(failure) = trouble {
                self.troubles.meet(&entry, &failure.into());
            }
            self.queue.settle(&entry);
            self.leaving.push(Leaving::new(entry, outcome));
            self.queue.advance(target);
        }
    }

    fn report(&mut self, outcome: &Outcome, took: Duration) {
        match (outcome.outcome, &outcome.target) {
            (Verdict::Published, Some(target)) => {
                self.targets.insert(target.clone());
                self.doing.last_published = Some(outcome.finished_at);
            }
            (Verdict::Withdrawn, Some(target)) => drop(self.targets.remove(target)),
            _ => {}
        }
        let news = News {
            outcome: outcome.clone(),
            took,
        };
        news.log();
        self.listeners.tell(news);
    }

    /// A drop is not on its way any more.
    fn let_go(&mut self, entry: &str) {
        self.troubles.is_over(entry);
        self.wants_scan |= self.queue.let_go(entry);
    }

    fn postpone(&mut self, target: Option<Target>, postponed: Postponed) {
        let Postponed { seen, fault } = postponed;
        self.troubles.meet(seen.entry(), &fault);
        self.queue.postpone(seen, target);
    }

    /// Removes drops that have their outcome, or keeps them where rejected ones are kept. Nothing
    /// waits for that but drops of the same name.
    ///
    /// While there is work it is put off, within bounds: ext4, for one, searches long for free
    /// inodes among many that were freed a moment ago.
    fn put_away(&mut self) {
        let is_busy = self.running.light > 0 || self.queue.has_ready() || !self.decided.is_empty();
        let bytes = || self.leaving.iter().map(|drop| drop.bytes).sum::<u64>();
        let is_much = || self.leaving.len() >= MAX_PUT_OFF || bytes() > MAX_PUT_OFF_BYTES;
        if self.leaving.is_empty() || is_busy && !is_much() {
            return;
        }
        self.begin_to_put_away();
    }

    fn begin_to_put_away(&mut self) {
        let batch = std::mem::take(&mut self.leaving);
        let shop = Arc::clone(&self.shop);
        self.work.spawn_blocking(move || {
            let put_away = |drop: Leaving| {
                let result = shop.spool.put_away(&drop);
                (drop, result)
            };
            let is_worth_it = batch.len() > parallel::MANY;
            Work::PutAway(parallel::map(batch, is_worth_it, put_away))
        });
    }

    fn retry_postponed(&mut self) {
        if !self.troubles.is_time() {
            return;
        }
        self.wants_scan = true;
        self.queue.retry_postponed();
        self.leaving.append(&mut self.stuck);
    }

    fn can_scan(&self) -> bool {
        !self.running.scan && !self.queue.is_long()
    }

    /// When there will be something to begin even if nothing happens. What can't be begun yet has
    /// no say in it: it would wake the task again and again.
    fn wake_up(&self) -> Instant {
        let far = Instant::now() + self.settings.rescan_interval;
        let vacuum = self.vacuums.next().filter(|_| self.pipeline.is_some());
        let expiry = (!self.running.expiry).then_some(self.next_expiry);
        let settles = self.settles.filter(|_| self.can_scan());
        let scan = self.can_scan().then_some(self.next_scan);
        let moments = [vacuum, expiry, settles].into_iter().flatten().map(instant);
        let gathering = self.gathering.filter(|_| self.pipeline.is_some());
        let may_look = !self.held.is_empty() && self.pipeline.is_some();
        moments
            .chain(may_look.then_some(self.next_look))
            .chain(gathering)
            .chain(scan)
            .chain(self.troubles.next_try())
            .chain(self.watchdog.as_ref().map(Watchdog::next))
            .fold(far, Instant::min)
    }

    /// Nothing runs, and nothing could be begun before somebody drops something.
    fn is_idle(&self) -> bool {
        let waits = self.settles.is_some() || !self.held.is_empty();
        self.work.is_empty() && !self.wants_scan && !waits && !self.is_under_way()
    }

    fn all_finished(&self) -> anyhow::Result<()> {
        let left = self.queue.postponed() + self.stuck.len();
        anyhow::ensure!(
            left == 0,
            "{left} drops could not be finished; they stay in the spool"
        );
        Ok(())
    }
}

/// Light drops are worked on in so many threads: more than there are processors, because they wait
/// for the disk.
fn light_lanes() -> usize {
    2 * parallel::processors()
}

/// Held drops are looked at so often.
fn look_interval(swap: &SwapSettings) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(10);
    // The kernel's queue has room for what a thousand clients read in that time.
    const LONGEST: Duration = Duration::from_millis(250);
    (swap.quiet_period / 8).clamp(SHORTEST, LONGEST)
}

fn instant(moment: Moment) -> Instant {
    Instant::now() + moment.ahead()
}
