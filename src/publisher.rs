//! The one task that owns the tree: it looks at the spool, hands out work, and commits what comes
//! back.
//!
//! Work that can run side by side (looking, checking, comparing, staging) does; the commits, in
//! which pointers are swapped, are made one after the other, because the [`Pointers`] are handed to
//! one commit at a time. While one runs, the next batch gathers: the more there is to do, the more
//! drops share what a commit costs.
//!
//! Drops for one target stand in a line (`Lines`): only its head is claimed and worked on.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::crew;
use crate::fault::{Failure, Fault};
use crate::moment::Moment;
use crate::news::{Listeners, News};
use crate::outcome::Outcome;
use crate::publish::{self, Checked, Committed, Decided, Postponed, Settled, Start, Workshop};
use crate::settings::{Retention, SpoolSettings};
use crate::spool::{Leaving, Left, Peeked, Ready, Scan, Seen};
use crate::staging::Pointers;
use crate::target::Target;
use crate::troubles::Troubles;
use crate::vacuum;
use crate::watch::Watch;

/// A heavier drop is worked on in a lane of its own, so that it holds up no light one.
const HEAVY: u64 = 64 << 20;

/// Heavy drops at a time. A second, so that one endless drop holds up no other either.
const HEAVY_LANE: usize = 2;

/// Manifests read ahead of the work.
const AHEAD: usize = 128;

/// Files that the manifests in memory may list, about: some list a hundred thousand.
const MAX_LISTED: usize = 100_000;
const MAX_SHARE_LISTED: usize = 10_000;

/// Drops whose removal is put off at most while there is other work, and their bytes.
const MAX_PUT_OFF: usize = 4_096;
const MAX_PUT_OFF_BYTES: u64 = 256 << 20;

/// Drops that one light lane takes at a time, and how long it may hold on to them.
const MAX_SHARE: usize = 16;
const MAX_HOLD: Duration = Duration::from_millis(20);

/// Whose trouble it is when `incoming/` can't be read.
const SPOOL: &str = "the spool";

/// From so many drops on, putting them away is worth several threads.
const MANY: usize = 16;

/// A commit waits so long for more drops while more are being worked on: what it costs is shared.
const GATHER: Duration = Duration::from_millis(50);

/// Drops that may wait for a commit; each holds a few hundred bytes, and no open file.
const MAX_BATCH: usize = 512;

/// Looks at the spool, hands out work, commits.
pub struct Publisher {
    shop: Arc<Workshop>,
    /// `None` while a commit or a vacuum has them.
    pointers: Option<Pointers>,
    watch: Watch,
    listeners: Listeners,
    settings: SpoolSettings,
    retention: Retention,
    work: JoinSet<Work>,

    /// Every drop that is on its way, by its name in `processing/`.
    hands: HashMap<String, Hand>,
    /// Complete drops whose manifest was not read yet, in order.
    seen: VecDeque<Seen>,
    /// Heads of a line that may go on.
    recalled: VecDeque<(Seen, Target)>,
    lines: Lines,
    ready: VecDeque<Ready>,
    /// Heavy drops that wait for their lane.
    heavy: VecDeque<(Seen, Target)>,
    /// Heavy drops that were let into their lane before they are checked again.
    admitted: HashSet<String>,
    decided: Vec<Decided>,
    /// When those will be committed, whatever else is being worked on.
    gathering: Option<Instant>,
    leaving: Vec<Leaving>,
    /// Those that could not be put away.
    stuck: Vec<Leaving>,
    troubles: Troubles,
    postponed: Vec<(Seen, Option<Target>)>,
    /// When vacuum has something to do for which target.
    vacuums: BTreeMap<Moment, Vec<Target>>,

    running: Running,
    wants_scan: bool,
    next_scan: Instant,
    /// When drops that may be complete will be taken for complete.
    settles: Option<Moment>,
    next_expiry: Moment,
}

/// What runs at the moment.
#[derive(Default)]
struct Running {
    scan: bool,
    peek: bool,
    expiry: bool,
    light: usize,
    heavy: usize,
}

/// How far a drop that is on its way has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hand {
    Queued,
    /// In `processing/`. A new drop of this name has to wait until it is gone from there.
    Claimed {
        another_waits: bool,
    },
}

/// For each target that is being worked on, the drops that come after.
type Lines = HashMap<Target, VecDeque<Seen>>;

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
    Committed(Pointers, Committed),
    Vacuumed(Pointers, Vec<(Target, Result<Option<Moment>, Fault>)>),
    Expired(Result<Option<Moment>, Failure>),
    PutAway(Vec<(Leaving, Result<(), Failure>)>),
}

impl Publisher {
    /// Finishes what a crash left behind in the tree, and takes up the drops that were claimed.
    ///
    /// Blocks: it reads the whole tree's folders.
    ///
    /// # Errors
    /// When the tree or the spool can't be read.
    pub fn recover(
        shop: Arc<Workshop>,
        mut pointers: Pointers,
        watch: Watch,
        listeners: Listeners,
        settings: SpoolSettings,
        retention: Retention,
    ) -> anyhow::Result<Self> {
        if let Err(failure) = pointers.empty_staging() {
            tracing::warn!("sweeping the staging: {failure}, going on without");
        }
        let mut vacuums = BTreeMap::<_, Vec<_>>::new();
        let mut troubles = Troubles::default();
        let mut leftovers = 0;
        let targets = pointers
            .tree()
            .targets()
            .context("looking for targets in the tree")?;
        for target in targets {
            let swept = vacuum::sweep(&mut pointers, &target)
                .and_then(|n| Ok((n, vacuum::vacuum(&mut pointers, &target, &retention)?)));
            match swept {
                Ok((n, next)) => {
                    leftovers += n;
                    if let Some(next) = next {
                        vacuums.entry(next).or_default().push(target);
                    }
                }
                Err(fault) => {
                    troubles.meet_leftover(&target.to_string(), &fault);
                    let later = Moment::now().later(settings.rescan_interval);
                    vacuums.entry(later).or_default().push(target);
                }
            }
        }
        let left = shop.spool.left_behind();
        let Left { claimed, leaving } = left.context("looking for claimed drops")?;
        let count = claimed.len() + leaving.len();
        if leftovers > 0 || count > 0 {
            tracing::info!("recovered: swept {leftovers} leftovers, taking up {count} drops");
        }
        let hand = Hand::Claimed {
            another_waits: false,
        };
        let leaving_names = leaving.iter().map(|drop| drop.entry.as_str());
        let names = claimed.iter().map(Seen::entry).chain(leaving_names);
        let hands = names.map(|entry| (entry.to_string(), hand)).collect();
        Ok(Self {
            hands,
            seen: claimed.into(),
            shop,
            pointers: Some(pointers),
            watch,
            listeners,
            settings,
            retention,
            work: JoinSet::new(),
            recalled: VecDeque::new(),
            lines: HashMap::new(),
            ready: VecDeque::new(),
            heavy: VecDeque::new(),
            admitted: HashSet::new(),
            decided: Vec::new(),
            gathering: None,
            leaving,
            stuck: Vec::new(),
            troubles,
            postponed: Vec::new(),
            vacuums,
            running: Running::default(),
            wants_scan: true,
            next_scan: Instant::now(),
            settles: None,
            next_expiry: Moment::now(),
        })
    }

    /// Publishes until `shutdown`; with `once` until nothing is left to do.
    ///
    /// # Errors
    /// When a piece of work panicked; with `once` also when drops could not be finished.
    pub async fn run(mut self, shutdown: CancellationToken, once: bool) -> anyhow::Result<()> {
        loop {
            self.hand_out();
            if once && self.is_idle() {
                return self.all_finished();
            }
            let wake_up = self.wake_up();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.work.join_next() => {
                    self.take(ended.context("a piece of work broke off")?)?;
                    // What else has ended by now is taken along: fewer, larger commits.
                    while let Some(ended) = self.work.try_join_next() {
                        self.take(ended.context("a piece of work broke off")?)?;
                    }
                }
                () = self.watch.changed() => self.wants_scan = true,
                () = tokio::time::sleep_until(wake_up) => {}
            }
        }
        self.finish().await
    }

    /// Long work ends at the next block it reads; a commit that has begun is finished, and so are
    /// the drops that have their outcome. The rest stays where it is, for the next start.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.progress.request_stop();
        while let Some(ended) = self.work.join_next().await {
            if let Work::Committed(_, committed) = ended.context("a piece of work broke off")? {
                for (settled, took) in committed.settled {
                    self.report(&settled.outcome, took);
                    self.leaving
                        .push(Leaving::new(settled.entry, settled.outcome));
                }
            }
        }
        self.begin_to_put_away();
        match self.work.join_next().await {
            Some(ended) => self.take(ended.context("a piece of work broke off")?),
            None => Ok(()),
        }
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
        if !self.running.peek && !self.is_well_ahead() {
            self.peek();
        }
        while self.running.light < light_lanes()
            && self.decided.len() < MAX_BATCH
            && !self.ready.is_empty()
        {
            self.start();
        }
        if self.running.heavy < HEAVY_LANE
            && let Some((seen, target)) = self.heavy.pop_front()
        {
            self.running.heavy += 1;
            self.admitted.insert(seen.entry().to_string());
            self.recalled.push_back((seen, target));
            return self.hand_out();
        }
        self.commit_or_vacuum(now);
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
        let known = self.hands.keys().cloned().collect();
        self.work
            .spawn_blocking(move || Work::Scanned(shop.spool.scan(&arrivals, &known)));
    }

    /// Reads manifests, so that the targets of the next drops are known.
    fn peek(&mut self) {
        let recalled = self.recalled.drain(..);
        let mut drops: Vec<_> = recalled.map(|(seen, line)| (seen, Some(line))).collect();
        let others = self.seen.len().min(AHEAD);
        drops.extend(self.seen.drain(..others).map(|seen| (seen, None)));
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

    /// Whether enough manifests are in memory.
    fn is_well_ahead(&self) -> bool {
        let listed = || self.ready.iter().map(Ready::listed).sum::<usize>();
        self.ready.len() >= AHEAD || listed() >= MAX_LISTED
    }

    /// Hands drops to one of the light lanes. Small ones go several at a time: to hand one over
    /// costs about as much as to stage it.
    fn start(&mut self) {
        let share = (self.ready.len() / light_lanes()).clamp(1, MAX_SHARE);
        let mut batch = Vec::with_capacity(share);
        let mut listed = 0;
        while batch.len() < share
            && listed < MAX_SHARE_LISTED
            && let Some(ready) = self.ready.pop_front()
        {
            listed += ready.listed();
            let claimed = Hand::Claimed {
                another_waits: false,
            };
            self.hands.insert(ready.seen.entry().to_string(), claimed);
            batch.push(ready);
        }
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

    fn decide_heavy(&mut self, checked: Checked) {
        let shop = Arc::clone(&self.shop);
        let target = checked.target().clone();
        self.work
            .spawn_blocking(move || Work::Decided(target, shop.decide(checked)));
    }

    fn commit_or_vacuum(&mut self, now: Moment) {
        let is_due = self
            .vacuums
            .first_key_value()
            .is_some_and(|(at, _)| *at <= now);
        if !self.is_commit_due() && !is_due {
            return;
        }
        let Some(mut pointers) = self.pointers.take() else {
            return;
        };
        if self.is_commit_due() {
            self.gathering = None;
            let batch = std::mem::take(&mut self.decided);
            let shop = Arc::clone(&self.shop);
            self.work.spawn_blocking(move || {
                let committed = publish::commit(batch, &mut pointers, &shop.spool);
                Work::Committed(pointers, committed)
            });
            return;
        }
        let later = self.vacuums.split_off(&now);
        let due = std::mem::replace(&mut self.vacuums, later);
        let targets: HashSet<_> = due.into_values().flatten().collect();
        // A drop that is being staged may be about to use an older generation again.
        let (busy, free): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(|target| self.lines.contains_key(target));
        if !busy.is_empty() {
            let later = now.later(Duration::from_secs(1));
            self.vacuums.entry(later).or_default().extend(busy);
        }
        let retention = self.retention.clone();
        self.work.spawn_blocking(move || {
            let vacuum = |target: Target| {
                let next = vacuum::vacuum(&mut pointers, &target, &retention);
                (target, next)
            };
            let done = free.into_iter().map(vacuum).collect();
            Work::Vacuumed(pointers, done)
        });
    }

    /// Whether drops wait for a commit, and none that will be decided soon is worth waiting for.
    fn is_commit_due(&self) -> bool {
        let is_more_to_come = self.running.light > 0 || !self.ready.is_empty();
        !self.decided.is_empty()
            && (!is_more_to_come
                || self.decided.len() >= MAX_BATCH / 2
                || self.gathering.is_some_and(|until| until <= Instant::now()))
    }

    fn vacuum_at(&mut self, at: Moment, target: Target) {
        self.vacuums.entry(at).or_default().push(target);
    }

    fn take(&mut self, work: Work) -> anyhow::Result<()> {
        match work {
            Work::Scanned(scan) => self.take_scan(scan)?,
            Work::Peeked(drops, rest) => {
                self.running.peek = false;
                self.take_back(rest);
                for (seen, line, peeked) in drops {
                    self.take_peeked(seen, line, peeked);
                }
            }
            Work::Started(started, rest) => {
                self.running.light -= 1;
                for ready in rest.into_iter().rev() {
                    self.ready.push_front(ready);
                }
                for (seen, target, start) in started {
                    self.take_started(&seen, target, start);
                }
            }
            Work::Decided(target, decided) => {
                self.running.heavy -= 1;
                match decided {
                    Ok(decided) => self.gather(decided),
                    Err(postponed) => self.postpone(Some(target), postponed),
                }
            }
            Work::Committed(pointers, committed) => {
                self.pointers = Some(pointers);
                self.take_committed(committed);
            }
            Work::Vacuumed(pointers, done) => {
                self.pointers = Some(pointers);
                for (target, next) in done {
                    match next {
                        Ok(next) => {
                            self.troubles.is_cleared(&target.to_string());
                            if let Some(next) = next {
                                self.vacuum_at(next, target);
                            }
                        }
                        Err(fault) => {
                            self.troubles.meet_leftover(&target.to_string(), &fault);
                            self.vacuum_at(
                                Moment::now().later(self.settings.rescan_interval),
                                target,
                            );
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
        match self.watch.follow(&scan) {
            Ok(is_new) => self.wants_scan |= is_new,
            Err(error) => self.troubles.meet_watch(&error),
        }
        for entry in &scan.known {
            if let Some(Hand::Claimed { another_waits }) = self.hands.get_mut(entry) {
                *another_waits = true;
            }
        }
        // One that was claimed while the scan was under way is in hand already.
        for seen in scan.complete {
            if !self.hands.contains_key(seen.entry()) {
                self.hands.insert(seen.entry().to_string(), Hand::Queued);
                self.seen.push_back(seen);
            }
        }
        self.wants_scan |= scan.has_more;
        Ok(())
    }

    /// `line`: the drop is the head of that target's line already.
    fn take_peeked(&mut self, seen: Seen, line: Option<Target>, peeked: Result<Peeked, Failure>) {
        let ready = match peeked {
            Ok(Peeked::Ready(ready)) => ready,
            Ok(Peeked::Gone | Peeked::Incomplete) => {
                self.release(seen.entry());
                self.let_go(seen.entry());
                return self.advance(line);
            }
            Err(failure) => {
                let postponed = Postponed {
                    seen,
                    fault: failure.into(),
                };
                return self.postpone(line, postponed);
            }
        };
        let target = ready.target();
        if line.is_some() && line.as_ref() != target {
            self.release(seen.entry());
            self.advance(line);
        } else if line.is_some() {
            return self.ready.push_back(ready);
        }
        match target.cloned() {
            None => self.ready.push_back(ready),
            Some(target) => match self.lines.get_mut(&target) {
                Some(line) => line.push_back(seen),
                None => {
                    self.lines.insert(target, VecDeque::new());
                    self.ready.push_back(ready);
                }
            },
        }
    }

    fn take_started(
        &mut self,
        seen: &Seen,
        target: Option<Target>,
        started: Result<Start, Postponed>,
    ) {
        let is_admitted = self.admitted.remove(seen.entry());
        match started {
            Ok(Start::Checked(checked)) if is_admitted => return self.decide_heavy(*checked),
            Ok(Start::Checked(checked)) => {
                if self.running.heavy < HEAVY_LANE && self.heavy.is_empty() {
                    self.running.heavy += 1;
                    return self.decide_heavy(*checked);
                }
                // What it has opened is closed: many may wait.
                return self
                    .heavy
                    .push_back((checked.again(), checked.target().clone()));
            }
            Ok(Start::Decided(decided)) => {
                // One that was replaced while it was claimed is for nothing any more: the line of
                // the one before goes on.
                if decided.target().is_none() {
                    self.advance(target);
                }
                self.gather(decided);
            }
            Ok(Start::Gone) => {
                self.let_go(seen.entry());
                self.advance(target);
            }
            Err(postponed) => self.postpone(target, postponed),
        }
        if is_admitted {
            self.running.heavy -= 1;
        }
    }

    fn gather(&mut self, decided: Decided) {
        self.decided.push(decided);
        self.gathering
            .get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn take_committed(&mut self, committed: Committed) {
        for (target, postponed) in committed.postponed {
            self.postpone(target, postponed);
        }
        for (settled, took) in committed.settled {
            self.report(&settled.outcome, took);
            let target = settled.outcome.target.clone();
            if let (true, Some(target)) = (settled.has_replaced, &target) {
                let due = Moment::now().later(self.retention.min_age);
                self.vacuum_at(due, target.clone());
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
            self.leaving.push(Leaving::new(entry, outcome));
            self.advance(target);
        }
    }

    fn report(&self, outcome: &Outcome, took: Duration) {
        log(outcome, took);
        self.listeners.tell(News {
            outcome: outcome.clone(),
            took,
        });
    }

    /// A target is free: the next drop in its line may go on.
    fn advance(&mut self, target: Option<Target>) {
        let Some(target) = target else { return };
        match self.lines.get_mut(&target).map(VecDeque::pop_front) {
            Some(Some(next)) => self.recalled.push_back((next, target)),
            Some(None) => drop(self.lines.remove(&target)),
            None => {}
        }
    }

    /// A drop is not on its way any more.
    fn let_go(&mut self, entry: &str) {
        self.troubles.is_over(entry);
        if let Some(Hand::Claimed {
            another_waits: true,
        }) = self.hands.remove(entry)
        {
            self.wants_scan = true;
        }
    }

    /// A heavy drop that was let into its lane does not come.
    fn release(&mut self, entry: &str) {
        if self.admitted.remove(entry) {
            self.running.heavy -= 1;
        }
    }

    /// The target stays taken: a later drop for it must not overtake.
    fn postpone(&mut self, target: Option<Target>, postponed: Postponed) {
        let Postponed { seen, fault } = postponed;
        self.release(seen.entry());
        self.troubles.meet(seen.entry(), &fault);
        self.postponed.push((seen, target));
    }

    /// Removes drops that have their outcome, or keeps them where rejected ones are kept. Nothing
    /// waits for that but drops of the same name.
    ///
    /// While there is work it is put off, within bounds: ext4, for one, searches long for free
    /// inodes among many that were freed a moment ago.
    fn put_away(&mut self) {
        let is_busy = self.running.light > 0 || !self.ready.is_empty() || !self.decided.is_empty();
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
            let is_worth_it = batch.len() > MANY;
            Work::PutAway(crew::map(batch, is_worth_it, put_away))
        });
    }

    fn retry_postponed(&mut self) {
        if !self.troubles.is_time() {
            return;
        }
        self.wants_scan = true;
        let postponed = std::mem::take(&mut self.postponed);
        self.take_back(postponed);
        self.leaving.append(&mut self.stuck);
    }

    /// Drops whose manifest is to be read again come before all others, in their order.
    fn take_back(
        &mut self,
        drops: impl IntoIterator<IntoIter: DoubleEndedIterator<Item = (Seen, Option<Target>)>>,
    ) {
        // From the last to the first, each to the front: the first is first again.
        for (seen, line) in drops.into_iter().rev() {
            match line {
                Some(target) => self.recalled.push_front((seen, target)),
                None => self.seen.push_front(seen),
            }
        }
    }

    /// Behind a backlog that is known, another look can wait: what is new comes after it.
    fn can_scan(&self) -> bool {
        !self.running.scan && self.seen.len() < AHEAD
    }

    /// When there will be something to begin even if nothing happens. What can't be begun yet has
    /// no say in it: it would wake the task again and again.
    fn wake_up(&self) -> Instant {
        let far = Instant::now() + self.settings.rescan_interval;
        let vacuum = self
            .vacuums
            .keys()
            .next()
            .filter(|_| self.pointers.is_some());
        let expiry = (!self.running.expiry).then_some(self.next_expiry);
        let settles = self.settles.filter(|_| self.can_scan());
        let scan = self.can_scan().then_some(self.next_scan);
        let moments = [vacuum.copied(), expiry, settles]
            .into_iter()
            .flatten()
            .map(instant);
        let gathering = self.gathering.filter(|_| self.pointers.is_some());
        moments
            .chain(gathering)
            .chain(scan)
            .chain(self.troubles.next_try())
            .fold(far, Instant::min)
    }

    /// Nothing runs, and nothing could be begun before somebody drops something.
    fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.wants_scan && self.settles.is_none()
    }

    fn all_finished(&self) -> anyhow::Result<()> {
        let left = self.postponed.len() + self.stuck.len();
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
    2 * crew::processors()
}

fn instant(moment: Moment) -> Instant {
    Instant::now() + moment.ahead()
}

/// The one line about an outcome.
fn log(outcome: &Outcome, took: Duration) {
    let Outcome {
        drop,
        target,
        importer,
        ..
    } = outcome;
    let target = target.as_ref().map(tracing::field::display);
    let importer = &importer.name;
    match (&outcome.image, outcome.outcome) {
        (Some(image), verdict) => {
            let generation = image.generation.as_ref().map(tracing::field::display);
            let bytes = bytesize::ByteSize(image.bytes);
            let (files, took) = (image.files, humantime::format_duration(round(took)));
            tracing::info!(target, generation, drop, importer, files, %bytes, %took, "{verdict}");
        }
        (None, _) => {
            let reason = outcome.reason.map(tracing::field::display);
            let detail = outcome.detail.as_deref().unwrap_or_default();
            // An excerpt of a manifest has lines of its own.
            let gap = if detail.contains('\n') { "\n" } else { " " };
            tracing::warn!(target, reason, drop, importer, "rejected:{gap}{detail}");
        }
    }
}

fn round(duration: Duration) -> Duration {
    let micros = duration.as_micros();
    let unit = if micros < 10_000 { 1 } else { 1_000 };
    Duration::from_micros(u64::try_from(micros / unit * unit).unwrap_or(u64::MAX))
}
