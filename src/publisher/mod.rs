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

mod carried;
mod cleanup;
mod decide;
mod decision;
mod flood;
mod lanes;
mod lines;
mod looks;
mod notes;
mod orders;
mod overview;
mod parts;
mod permits;
mod pipeline;
mod promotion;
mod publication;
mod queue;
mod quiet;
mod recovery;
mod report;
mod room;
mod running;
mod scanner;
mod shares;
mod steps;
mod sweeping;
mod troubles;
mod workshop;

pub(crate) use report::{Activity, News, Report};

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cleanup::{PutAway, Vacuumed};
use self::decide::{Begun, BegunDrop, BegunDrops, Heavy, PeekedDrops};
use self::decision::Postponed;
use self::lanes::Weight;
use self::parts::{InLane, Parts};
use self::pipeline::{Pipeline, Stepped};
use self::recovery::recover;
use self::running::{About, Running};
use self::scanner::Scanner;
use self::steps::Steps;
use self::sweeping::Swept;
use self::workshop::Workshop;
use crate::settings::Settings;
use crate::spool::{Ready, Scan, Spool};
use crate::sys::{Failure, Progress, Watchdog, failpoint};
use crate::text::counted;
use crate::tree::Pointers;
use crate::words::Target;

/// A panic in a thread of the publisher's.
const BROKE_OFF: &str = "a piece of work broke off";

/// The loop over all parts of the publisher.
pub(crate) struct Publisher {
    /// With the settings in force.
    shop: Arc<Workshop>,
    changes: watch::Receiver<Arc<Settings>>,
    work: Running<Done>,
    parts: Parts,
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
            work: Running::new(),
            parts: Parts {
                scanner,
                queue,
                steps: Steps::new(pointers),
                cleanup,
                troubles,
                report,
            },
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
            self.parts.report.look_at_clock();
            let fed_until = self.work.watch(watchdog.as_mut());
            self.hand_out();
            self.parts.show();
            if self.once && self.work.is_empty() && self.parts.is_idle() {
                return all_finished(self.parts.left());
            }
            let wake_up = self.wake_up(fed_until);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                // Before any work is taken back, and more is handed out.
                Ok(()) = self.changes.changed() => self.take_settings(),
                Some(ended) = self.work.ended() => {
                    self.take(ended)?;
                    // What else has ended by now is taken along: fewer, larger batches.
                    while let Some(ended) = self.work.ended_already() {
                        self.take(ended)?;
                    }
                }
                () = self.parts.scanner.changed() => self.parts.scanner.hear(),
                // After the work: who asks again and again is served in between, and may have gone.
                Some(reply) = self.parts.report.asked() => drop(reply.send(self.parts.overview())),
                () = tokio::time::sleep_until(wake_up) => {}
            }
        }
    }

    /// Long work ends at the next block it reads; what is in the pipeline is finished, and so are
    /// the drops that have their outcome. The rest stays where it is, for the next start.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.progress.request_stop();
        loop {
            self.parts.steps.close();
            self.begin_step(false);
            let Some(ended) = self.work.ended().await else {
                break;
            };
            let done = ended.context(BROKE_OFF)?;
            if matches!(done, Done::Stepped(_) | Done::PutAway(_)) {
                self.take(Ok(done))?;
            }
        }
        self.begin_to_put_away(false);
        let ended = self.work.ended().await;
        ended.map_or(Ok(()), |ended| self.take(ended))
    }

    /// Work that begins from now on goes on with the new settings, and so does every drop that comes
    /// after systemd was told.
    fn take_settings(&mut self) {
        let settings = Arc::clone(&self.changes.borrow_and_update());
        let is_other = settings.retention != self.shop.settings.retention;
        let targets = self.parts.report.targets.iter().filter(|_| is_other);
        self.parts.cleanup.begin_anew(targets.cloned());
        Arc::make_mut(&mut self.shop).settings = settings;
        self.parts.queue.begin_anew();
        self.parts.scanner.begin_anew(&self.shop.settings);
    }

    /// Begins whatever can be begun.
    fn hand_out(&mut self) {
        if self.parts.troubles.is_time() {
            self.parts.scanner.is_wanted = true;
            self.parts.steps.retry();
            let timeout = self.shop.settings.spool.incomplete_timeout;
            self.parts
                .steps
                .add_all(self.parts.queue.retry_postponed(timeout));
            self.parts
                .cleanup
                .leaving
                .append(&mut self.parts.cleanup.stuck);
        }
        let scan = self
            .parts
            .scanner
            .begin(&self.parts.queue, &self.shop.settings.spool);
        self.work
            .begin(&self.shop, "looking at the spool", scan, Done::Scanned);
        while let Some((weight, seen, target)) = self.parts.queue.next_in_lane() {
            let owner = seen.owner;
            self.begin_heavy((Heavy::Seen(seen), target, weight, owner));
        }
        // So that the targets of the next drops are known.
        while let Some((owner, drops)) = self.parts.queue.next_to_peek() {
            let peek = move |shop: &Workshop| (shop.peek(drops), owner);
            self.work
                .begin(&self.shop, "looking into drops", Some(peek), Done::Peeked);
        }
        self.parts.steps.ahead = self.parts.queue.head_start();
        // A step makes room for what comes next.
        if !self.begin_step(self.parts.queue.is_busy()) {
            let vacuum = self
                .parts
                .cleanup
                .begin_vacuum(&mut self.parts.steps, &self.parts.queue);
            self.work
                .begin(&self.shop, "removing generations", vacuum, Done::Vacuumed);
        }
        while !self.parts.steps.is_full()
            && let Some(drops) = self.parts.queue.next_light()
        {
            let about = About::new("publishing", drops.1.iter().filter_map(Ready::target));
            let work = |shop: &Workshop| shop.begin(drops);
            self.work.begin(&self.shop, about, Some(work), Done::Begun);
        }
        if self.parts.steps.ahead.is_none() {
            let is_busy = self.parts.queue.is_busy() || !self.parts.steps.decided.is_empty();
            self.begin_to_put_away(is_busy);
        }
        let sweep = self.parts.cleanup.begin_sweep();
        self.work.begin(
            &self.shop,
            About::unhurried("removing what is old"),
            sweep,
            Done::Swept,
        );
    }

    /// Hands a drop of the user `owner` for `target` to a lane of its weight, which the queue counts as
    /// taken already.
    fn begin_heavy(&mut self, (heavy, target, weight, owner): InLane) {
        let progress = self.parts.report.begin(&target, &self.shop.progress);
        let (shop, about) = (
            self.shop.telling(progress),
            About::new("publishing", [&target]),
        );
        let work = move |shop: &Workshop| (shop.begin_heavy(heavy, &target), target, weight, owner);
        self.work.begin(&shop, about, Some(work), Done::BegunHeavy);
    }

    /// Lets what was decided into the pipeline, and all that is in it go on, if it is time to.
    /// Returns whether it is.
    fn begin_step(&mut self, is_more_to_come: bool) -> bool {
        self.parts.steps.is_shared = self.parts.queue.waiting_of().len() > 1;
        let about = About::new("making durable and swapping", self.parts.steps.targets());
        let step = self
            .parts
            .steps
            .begin(is_more_to_come, &self.shop.settings.swap);
        self.work.begin(&self.shop, about, step, Done::Stepped)
    }

    fn begin_to_put_away(&mut self, is_busy: bool) {
        let put_away = self.parts.cleanup.begin_to_put_away(is_busy);
        self.work.begin(
            &self.shop,
            About::unhurried("removing drops"),
            put_away,
            Done::PutAway,
        );
    }

    /// Takes back a piece of work.
    fn take(&mut self, ended: Result<Done, JoinError>) -> anyhow::Result<()> {
        let settings = Arc::clone(&self.shop.settings);
        let (cleanup, troubles) = (&mut self.parts.cleanup, &mut self.parts.troubles);
        match ended.context(BROKE_OFF)? {
            Done::Scanned(scan) => self.parts.take_scan(scan, &settings)?,
            Done::Peeked(((drops, rest), owner)) => {
                self.parts.queue.end_peeking(owner, rest);
                for (next, peeked) in drops {
                    self.parts.take_peeked(next, peeked, &settings.spool);
                }
            }
            Done::Begun((owner, drops, rest)) => {
                self.parts.queue.leave_light_lane(owner, rest);
                for drop in drops {
                    self.take_begun(drop);
                }
            }
            Done::BegunHeavy((begun, target, weight, owner)) => {
                self.parts.queue.leave_lane(weight, owner);
                self.parts.report.end(&target);
                self.take_begun((Some(target), begun));
            }
            Done::Stepped((pipeline, stepped)) => {
                self.parts.take_stepped(pipeline, stepped, &settings)?;
            }
            Done::Vacuumed((pipeline, vacuum, cleaned)) => {
                self.parts.steps.pipeline = Some(pipeline);
                cleanup.take_vacuumed(vacuum, cleaned, &settings, troubles);
            }
            Done::Swept(swept) => cleanup.take_swept(swept, &settings.spool, troubles),
            Done::PutAway(drops) => {
                for gone in cleanup.take_put_away(drops, &settings.spool, troubles) {
                    self.parts.let_go(&gone);
                }
            }
        }
        Ok(())
    }

    fn take_begun(&mut self, drop: BegunDrop) {
        if let Some(heavy) = self.parts.take_begun(drop, &self.shop.settings.spool) {
            self.begin_heavy(heavy);
        }
    }

    fn wake_up(&self, fed_until: Option<Instant>) -> Instant {
        let far = Instant::now() + self.shop.settings.spool.rescan_interval;
        let all = [fed_until, self.parts.wake_up(), self.work.next_look()];
        all.into_iter().flatten().fold(far, Instant::min)
    }
}

/// # Errors
/// When drops are left, so many, that could not be finished.
fn all_finished(left: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        left == 0,
        "{} could not be finished and {} in the spool",
        counted(left, "drop"),
        if left == 1 { "stays" } else { "stay" }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::decision::Decided;
    use super::*;
    use crate::fault::Rejection;
    use crate::spool::{Claimed, Seen};
    use crate::words::{Moment, Reason};

    #[tokio::test]
    async fn an_end_puts_away_all_that_has_its_outcome() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join("spool").join(name);
        for name in ["incoming", "processing", "rejected", "outcomes"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let mut settings = Settings::default();
        settings.tree.path = folder.path().join("tree");
        let pointers = Pointers::open(&settings).unwrap();
        let spool = Spool::open(&folder.path().join("spool")).unwrap();
        let (_change, changes) = watch::channel(Arc::new(settings));
        let (report, progress) = (Report::default(), Arc::default());
        let new = Publisher::new(spool, pointers, report, progress, changes, false);
        let mut publisher = new.unwrap();
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let seen = Seen::for_test(name, 1, Moment::now());
            let claimed = Claimed::for_test(&seen, number);
            let place = format!("processing/{}.{name}", claimed.claim);
            std::fs::create_dir_all(at(&place).join("image")).unwrap();
            let rejection = Rejection::new(Reason::BadName, "");
            let decided = Decided::reject(claimed, None, rejection);
            let leaving = decided.claimed.leaving(decided.outcome());
            publisher.parts.cleanup.leaving.push(leaving);
            // While as much of this is under way as may be, the others gather.
            publisher.begin_to_put_away(false);
        }
        publisher.finish().await.unwrap();
        let left = std::fs::read_dir(at("processing")).unwrap();
        assert_eq!(
            left.map(|it| it.unwrap().path()).collect::<Vec<_>>(),
            Vec::<std::path::PathBuf>::new()
        );
        assert_eq!(
            std::fs::read_dir(at("rejected")).unwrap().count(),
            8,
            "each with its outcome"
        );
    }
}
