//! `incoming/`: which drops are complete, and in which order they became so.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::drop::{Place, Seen};
use super::manifest::MANIFEST;
use super::peek::{BAD_NAME, check_name};
use crate::sys::{Dir, Failure, Kind};
use crate::words::{Digest, Moment};

/// The name of the folder in the spool.
pub(super) const INCOMING: &str = "incoming";

/// A manifest that was written in place is complete once it was closed. Where no event can tell of
/// that, it is taken for complete when nothing changed it for this long.
const SETTLED: Duration = Duration::from_millis(200);

/// The clock that gives inodes their times may be so far behind (the kernel's `jiffies`, at 100 Hz).
const TICK: Duration = Duration::from_millis(10);

/// Drops that one scan brings at most: memory does not grow with a backlog.
const MAX_SEEN: usize = 2_048;

/// No event takes this long; if it does, it is lost.
const AWAITED: Duration = Duration::from_secs(60);

/// The folder that importers put drops into.
#[derive(Debug)]
pub(super) struct Incoming {
    dir: Dir,
    spool: Dir,
}

/// What events have said of drops.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Those that are complete, each with its place in their order.
    pub complete: HashMap<OsString, u64>,
    /// Those of which an event will say so: they are watched since before they had a manifest.
    pub awaited: HashSet<OsString>,
    /// Those whose inside is watched.
    pub watched: HashSet<OsString>,
    /// An event tells of every drop that became complete later; `None` when there are no events.
    pub since: Option<Moment>,
}

impl Arrivals {
    /// When a drop that became complete at that `moment`, and of which no event has told, has its
    /// place among the others.
    fn settles(&self, moment: Moment) -> Moment {
        match self.since {
            Some(since) if moment > since => moment.later(SETTLED),
            _ => moment.later(TICK),
        }
    }
}

/// What a look at `incoming/` has shown.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In the order in which they became complete, the first ones if there are very many.
    pub complete: Vec<Seen>,
    /// There are more that are complete.
    pub has_more: bool,
    /// Names that are known already.
    pub known: Vec<Arc<str>>,
    /// Drops that somebody is still writing.
    pub incomplete: Vec<OsString>,
    /// Those of them that have no manifest yet, and are watched: its closing can't be missed.
    pub awaited: HashSet<OsString>,
    /// Since when the first of those that may be complete already would be complete.
    pub unsettled: Option<Moment>,
    /// When the first of those that may be complete already will be taken for complete.
    pub settles: Option<Moment>,
    /// When the first of the others will have been incomplete for too long.
    pub overdue: Option<Moment>,
}

/// What a look at `incoming/` goes by.
struct Look<'a> {
    now: Moment,
    arrivals: &'a Arrivals,
    incomplete_timeout: Duration,
}

impl Incoming {
    /// That of a spool; made where it is not there.
    pub(super) fn open(spool: &Path) -> Result<Self, Failure> {
        let spool = Dir::open(spool)?;
        Ok(Self {
            dir: spool.dir_or_make(INCOMING, 0o755)?,
            spool,
        })
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Looks at everything in `incoming/` but the drops that are `known` by the name that they will
    /// have in `processing/`. One without a manifest is taken for complete after
    /// `incomplete_timeout`.
    ///
    /// # Errors
    /// Also when `incoming/` is not the folder any more that it was at the start: what is dropped
    /// there would never be seen.
    pub(super) fn scan(
        &self,
        arrivals: &Arrivals,
        known: &HashSet<Arc<str>>,
        incomplete_timeout: Duration,
    ) -> Result<Scan, Failure> {
        let look = Look {
            now: Moment::now(),
            arrivals,
            incomplete_timeout,
        };
        let is_itself = self.spool.stat(INCOMING)?.map(|stat| stat.id);
        if is_itself != Some(self.dir.stat_self()?.id) {
            let path = self.dir.path();
            return Err(Failure::new("looking for drops in", path, Errno::STALE));
        }
        let mut scan = Scan::default();
        self.dir.each(|name, kind| {
            if name.as_bytes().starts_with(b".") {
                return ControlFlow::Continue(());
            }
            let claim_name = claim_name_of(name);
            match known.get(&*claim_name) {
                Some(known) => scan.known.push(Arc::clone(known)),
                None => self.scan_drop(name, &claim_name, kind, &look, &mut scan),
            }
            ControlFlow::Continue(())
        })?;
        scan.keep_first(MAX_SEEN);
        if let Some(since) = scan.unsettled {
            // It may be complete already, and for the same target: what came later waits with it.
            // Not for long: a manifest that is written again and again counts from then on.
            scan.complete.retain(|seen| seen.completed < since);
        }
        Ok(scan)
    }

    fn scan_drop(
        &self,
        name: &OsStr,
        claim_name: &str,
        kind: Kind,
        look: &Look<'_>,
        scan: &mut Scan,
    ) {
        let arrivals = look.arrivals;
        let arrival = arrivals.complete.get(name).copied();
        let completion = match kind {
            Kind::Dir => self.completion(name, arrivals),
            // It is none, and never will be.
            _ => self.as_it_is(name),
        };
        let (completed, is_overdue) = match completion {
            // It may have come while this scan was under way, and one that came before it may have
            // been missed. The next scan sees both. And where its event is still to come, nobody
            // knows its place among others of its tick.
            Completion::At(moment) if arrival.is_none() && arrivals.settles(moment) > look.now => {
                Moment::note_earliest(&mut scan.settles, arrivals.settles(moment));
                return;
            }
            Completion::At(moment) => (moment, false),
            Completion::Settles { since, until } => {
                Moment::note_earliest(&mut scan.settles, until);
                Moment::note_earliest(&mut scan.unsettled, since);
                return scan.incomplete.push(name.to_os_string());
            }
            Completion::Since(moment) => {
                let overdue = moment.later(look.incomplete_timeout);
                if overdue > look.now {
                    Moment::note_earliest(&mut scan.overdue, overdue);
                    if arrivals.watched.contains(name) {
                        scan.awaited.insert(name.to_os_string());
                    }
                    return scan.incomplete.push(name.to_os_string());
                }
                (moment, true)
            }
            Completion::Awaited => return scan.incomplete.push(name.to_os_string()),
            Completion::Gone => return,
        };
        scan.complete.push(Seen {
            name: name.to_os_string(),
            claim_name: claim_name.into(),
            completed,
            arrival: arrival.unwrap_or(u64::MAX),
            place: Place::Incoming,
            is_overdue,
        });
        if scan.complete.len() >= 2 * MAX_SEEN {
            scan.keep_first(MAX_SEEN);
        }
    }

    /// For a name that nobody has to be waited for: complete since it changed last.
    fn as_it_is(&self, name: &OsStr) -> Completion {
        match self.dir.stat(name) {
            Ok(Some(stat)) => Completion::At(stat.changed),
            _ => Completion::Gone,
        }
    }

    fn completion(&self, name: &OsStr, arrivals: &Arrivals) -> Completion {
        // What can't be looked into is taken for complete: to claim it says what is wrong with it.
        let dir = match self.dir.dir(name) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Completion::Gone,
            Err(_) => return self.as_it_is(name),
        };
        let (Ok(drop), Ok(manifest)) = (dir.stat_self(), dir.stat(MANIFEST)) else {
            return self.as_it_is(name);
        };
        let Some(manifest) = manifest else {
            return Completion::Since(drop.changed);
        };
        let completed = drop.changed.max(manifest.changed);
        // Renaming a directory changes its inode, yet not what it holds: it was renamed after its
        // manifest was written.
        let was_renamed = drop.changed > manifest.changed && drop.changed > drop.modified;
        if was_renamed || arrivals.complete.contains_key(name) {
            Completion::At(completed)
        } else if arrivals.awaited.contains(name) && manifest.changed.age() < AWAITED {
            Completion::Awaited
        } else if manifest.changed.age() >= SETTLED {
            Completion::At(completed)
        } else {
            Completion::Settles {
                since: completed,
                until: manifest.changed.later(SETTLED),
            }
        }
    }
}

enum Completion {
    At(Moment),
    /// It may still be written, or be complete since then. If nothing happens, it is.
    Settles {
        since: Moment,
        until: Moment,
    },
    /// An event will say when.
    Awaited,
    /// It has had no manifest since then.
    Since(Moment),
    Gone,
}

impl Scan {
    fn keep_first(&mut self, count: usize) {
        self.complete.sort_unstable_by(Seen::in_order);
        self.has_more |= self.complete.len() > count;
        self.complete.truncate(count);
    }
}

/// The name in `processing/` for a drop of this name.
fn claim_name_of(name: &OsStr) -> Cow<'_, str> {
    match check_name(name) {
        Ok(()) => name.to_string_lossy(),
        // Such a name is good for no file that the daemon writes.
        Err(_) => format!("{BAD_NAME}{}", Digest::of(name.as_bytes()).short()).into(),
    }
}
