//! When the spool is looked at: at the start, when an event says so, and now and then in any case.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::Queue;
use super::workshop::Workshop;
use crate::settings::{Settings, SpoolSettings, WatchMode};
use crate::spool::{Scan, Spool, Watch};
use crate::sys::{Failure, tell_systemd};
use crate::trust::MaxWaiting;

/// Looks at all that is in the spool take one in so many parts of the time at most: many names may be
/// there. No pause is longer than the time between two looks: one may have taken long because the
/// process was stopped meanwhile.
const SHARE: u32 = 10;

/// More drops may wait of an importer whom the user database knows; where it has not answered yet, it
/// may have by then.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Looks at the spool.
pub(super) struct Scanner {
    watch: Watch,
    /// Rings when an event is a reason to look.
    bell: Arc<Notify>,
    /// When the look began that is under way.
    began: Option<Instant>,
    /// There is a reason to look at all that is there.
    pub(super) is_wanted: bool,
    /// Events have told of something.
    has_news: bool,
    /// The last look has failed: what it was to look for is known to nobody.
    has_failed: bool,
    /// Importers of whom looks have left drops out.
    left_out: HashSet<u32>,
    /// Importers of whom the last look at all has put drops off: what came later comes after them.
    put_off: HashSet<u32>,
    pub(super) max_waiting: MaxWaiting,
    /// When all is looked at in any case, and before when it is not.
    next: Instant,
    not_before: Instant,
    /// When new drops are taken up that the last look has put off.
    settles: Option<Instant>,
}

impl Scanner {
    /// With `once` nobody waits for what comes later.
    pub(super) fn new(spool: &Spool, settings: &Arc<Settings>, once: bool) -> Self {
        let bell = Arc::new(Notify::new());
        let rings = Arc::clone(&bell);
        let watch = match settings.spool.watch {
            WatchMode::Auto if !once => Watch::new(spool.incoming(), move || rings.notify_one()),
            WatchMode::Auto | WatchMode::Poll => Watch::blind(),
        };
        Self {
            watch,
            bell,
            began: None,
            is_wanted: true,
            has_news: false,
            has_failed: false,
            left_out: HashSet::new(),
            put_off: HashSet::new(),
            max_waiting: MaxWaiting::new(settings, once),
            next: Instant::now(),
            not_before: Instant::now(),
            settles: None,
        }
    }

    /// Comes back when an event is a reason to look. Reasons that arise before it is called count.
    pub(super) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// An event is a reason to look.
    pub(super) fn hear(&mut self) {
        self.has_news = true;
    }

    /// Whether more is to be found out before it is known that nothing is left to do.
    pub(super) fn is_pending(&self, queue: &Queue) -> bool {
        let is_wanted = self.is_wanted || self.has_news || self.settles.is_some();
        is_wanted || self.may_go_on(queue)
    }

    /// Importers of whom drops were left out.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &u32> {
        self.left_out.iter()
    }

    /// Whether more of an importer's drops may wait, of whom some were left out.
    fn may_go_on(&self, queue: &Queue) -> bool {
        let mut left_out = self.left_out.iter();
        left_out.any(|owner| queue.has_room(*owner, self.max_waiting.of(*owner)))
    }

    /// A look at the spool that leaves out what the queue knows, if it is time for one;
    /// [`Scanner::take`] ends it. Where events have told all names that came, and there is no other
    /// reason, only those are looked at: however many others wait.
    pub(super) fn begin(
        &mut self,
        queue: &Queue,
        settings: &SpoolSettings,
    ) -> Option<impl FnOnce(&Workshop) -> Result<Scan, Failure> + use<>> {
        let now = Instant::now();
        if self.began.is_some() {
            return None;
        }
        let is_due = self.has_failed || self.next_of_all(queue) <= now;
        if !self.has_news && self.next_of_all(queue) > now {
            return None;
        }
        self.has_news = false;
        let Some(mut asked) = self.watch.ask(is_due) else {
            // All is looked at, when it is time to.
            self.is_wanted = true;
            return None;
        };
        self.began = Some(now);
        if is_due {
            self.is_wanted = false;
            self.settles = None;
            self.left_out.clear();
            self.next = now + settings.rescan_interval;
        }
        asked.known = queue.known().collect();
        asked.waiting.clone_from(queue.waiting_of());
        asked.max_waiting = self.max_waiting.clone();
        asked.left_out = self.left_out.union(&self.put_off).copied().collect();
        Some(move |shop: &Workshop| {
            shop.check_places()?;
            shop.spool.scan(&asked)
        })
    }

    /// The settings have changed: all is looked at again. Whatever is found from now on is judged by
    /// the new ones, and so systemd is told that they are in force.
    pub(super) fn begin_anew(&mut self, settings: &Arc<Settings>) {
        self.max_waiting.take(settings);
        self.is_wanted = true;
        tell_systemd(&[NotifyState::Ready]);
    }

    /// What a look has shown.
    pub(super) fn take(
        &mut self,
        scan: Result<Scan, Failure>,
        settings: &SpoolSettings,
    ) -> Result<Scan, Failure> {
        let (now, began) = (Instant::now(), self.began.take());
        let scan = scan.inspect_err(|_| self.has_failed = true)?;
        if scan.is_of_all {
            let took = began.map(|began| now - began).unwrap_or_default();
            self.not_before = now + (took * SHARE).min(settings.rescan_interval);
            self.put_off = scan.put_off.keys().copied().collect();
            self.has_failed = false;
        }
        self.left_out
            .extend(scan.left_out.difference(&self.put_off));
        let settles = scan.settles.map(|settles| now + settles);
        self.settles = [self.settles, settles].into_iter().flatten().min();
        Ok(scan)
    }

    /// When there is a reason to look even if nothing happens.
    pub(super) fn wake_up(&self, queue: &Queue) -> Option<Instant> {
        let next = self.next_of_all(queue);
        let mut left_out = self.left_out.iter();
        let is_known = left_out.all(|owner| self.max_waiting.is_known(*owner));
        let again = (!is_known).then(|| Instant::now() + ASK_AGAIN);
        let next = again.map_or(next, |again| again.min(next));
        self.began.is_none().then_some(next)
    }

    /// When all that is there is looked at next.
    fn next_of_all(&self, queue: &Queue) -> Instant {
        let is_wanted = self.is_wanted || self.may_go_on(queue);
        let wanted = is_wanted.then_some(self.not_before);
        let all = [self.settles, wanted].into_iter().flatten();
        all.fold(self.next, Instant::min).max(self.not_before)
    }
}
