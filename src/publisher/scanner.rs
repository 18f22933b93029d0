//! When the spool is looked at: at the start, when an event says so, and now and then in any case.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::Queue;
use super::workshop::Workshop;
use crate::settings::{SpoolSettings, WatchMode};
use crate::spool::{Scan, Spool, Watch};
use crate::sys::{Failure, tell_systemd};

/// Looks at the spool take one in so many parts of the time at most: many names may be there.
const SHARE: u32 = 10;

/// Looks at the spool.
pub(super) struct Scanner {
    watch: Watch,
    /// Rings when an event is a reason to look.
    bell: Arc<Notify>,
    /// When the look began that is under way.
    began: Option<Instant>,
    /// There is a reason to look.
    pub(super) is_wanted: bool,
    /// There are drops that the last look has left out.
    has_more: bool,
    /// When a look is made in any case, and before when none is.
    next: Instant,
    not_before: Instant,
    /// When new drops are taken up that the last look has put off.
    settles: Option<Instant>,
}

impl Scanner {
    /// With `once` nobody waits for what comes later.
    pub(super) fn new(spool: &Spool, settings: &SpoolSettings, once: bool) -> Self {
        let bell = Arc::new(Notify::new());
        let rings = Arc::clone(&bell);
        let watch = match settings.watch {
            WatchMode::Auto if !once => Watch::new(spool.incoming(), move || rings.notify_one()),
            WatchMode::Auto | WatchMode::Poll => Watch::blind(),
        };
        Self {
            watch,
            bell,
            began: None,
            is_wanted: true,
            has_more: false,
            next: Instant::now(),
            not_before: Instant::now(),
            settles: None,
        }
    }

    /// Comes back when an event is a reason to look. Reasons that arise before it is called count.
    pub(super) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Whether more is to be found out before it is known that nothing is left to do.
    pub(super) fn is_pending(&self) -> bool {
        self.is_wanted || self.has_more || self.settles.is_some()
    }

    /// A look at the spool that leaves out what the queue knows, if it is time for one;
    /// [`Scanner::take`] ends it.
    pub(super) fn begin(
        &mut self,
        queue: &Queue,
        settings: &SpoolSettings,
    ) -> Option<impl FnOnce(&Workshop) -> Result<Scan, Failure> + use<>> {
        let now = Instant::now();
        self.wake_up(queue).filter(|at| *at <= now)?;
        self.is_wanted = false;
        self.began = Some(now);
        self.next = now + settings.rescan_interval;
        let (arrivals, known) = (self.watch.arrivals(), queue.known());
        Some(move |shop: &Workshop| {
            shop.check_places()?;
            shop.spool.scan(&arrivals, &known)
        })
    }

    /// The settings have changed: all is looked at again. Whatever is found from now on is judged by
    /// the new ones, and so systemd is told that they are in force.
    pub(super) fn begin_anew(&mut self) {
        self.is_wanted = true;
        tell_systemd(&[NotifyState::Ready]);
    }

    /// What a look has shown.
    pub(super) fn take(&mut self, scan: Result<Scan, Failure>) -> Result<Scan, Failure> {
        let (now, began) = (Instant::now(), self.began.take());
        let took = began.map(|began| now - began).unwrap_or_default();
        self.not_before = now + took * SHARE;
        let scan = scan?;
        self.has_more = scan.has_more;
        self.settles = scan.settles.map(|settles| now + settles);
        Ok(scan)
    }

    /// When there is a reason to look even if nothing happens.
    pub(super) fn wake_up(&self, queue: &Queue) -> Option<Instant> {
        if self.began.is_some() {
            return None;
        }
        let has_reason = self.is_wanted || (self.has_more && !queue.is_long());
        let wanted = has_reason.then_some(self.not_before);
        let next = [Some(self.next), self.settles, wanted]
            .into_iter()
            .flatten()
            .min();
        next.map(|at| at.max(self.not_before))
    }
}
