//! When the spool is looked at: at the start, when an event says so, when a drop may have become
//! complete, and now and then in any case.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::Queue;
use super::troubles::instant;
use super::workshop::Workshop;
use crate::settings::{SpoolSettings, WatchMode};
use crate::spool::{Scan, Spool, Watch};
use crate::sys::Failure;
use crate::words::Moment;

/// Looks at the spool.
pub(super) struct Scanner {
    watch: Watch,
    /// Rings when an event is a reason to look.
    bell: Arc<Notify>,
    is_scanning: bool,
    /// There is a reason to look.
    pub(super) is_wanted: bool,
    next: Instant,
    /// When drops that may be complete will be taken for complete.
    settles: Option<Moment>,
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
            is_scanning: false,
            is_wanted: true,
            next: Instant::now(),
            settles: None,
        }
    }

    /// Comes back when an event is a reason to look. Reasons that arise before it is called count.
    pub(super) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Whether more is to be found out before it is known that nothing is left to do.
    pub(super) fn is_pending(&self) -> bool {
        self.is_wanted || self.settles.is_some()
    }

    /// A look at the spool that leaves out what the queue knows, if it is time for one;
    /// [`Scanner::take`] ends it.
    pub(super) fn begin(
        &mut self,
        queue: &Queue,
        settings: &SpoolSettings,
    ) -> Option<impl FnOnce(&Workshop) -> Result<Scan, Failure> + use<>> {
        let has_settled = self.settles.is_some_and(|at| at <= Moment::now());
        let is_due = self.is_wanted || has_settled || self.next <= Instant::now();
        if self.is_scanning || !is_due || queue.is_long() {
            return None;
        }
        self.is_wanted = false;
        self.is_scanning = true;
        self.next = Instant::now() + settings.rescan_interval;
        let (arrivals, known) = (self.watch.arrivals(), queue.known());
        Some(move |shop: &Workshop| {
            shop.check_places()?;
            shop.spool.scan(&arrivals, &known, &shop.settings.spool)
        })
    }

    /// What a look has shown.
    pub(super) fn take(&mut self, scan: Result<Scan, Failure>) -> Result<Scan, Failure> {
        self.is_scanning = false;
        let scan = scan?;
        self.settles = scan.settles;
        if let Some(overdue) = scan.overdue {
            self.next = self.next.min(instant(overdue));
        }
        self.watch.follow(&scan);
        self.is_wanted |= scan.has_more;
        Ok(scan)
    }

    /// When there is a reason to look even if nothing happens.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        let settles = self.settles.map(instant);
        let next = [Some(self.next), settles].into_iter().flatten().min();
        next.filter(|_| !self.is_scanning)
    }
}
