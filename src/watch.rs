//! Events of the kernel, boiled down to "look again", and the order in which drops arrived.
//!
//! An event is a hint, the directory is the truth: whatever is lost here is found by the next scan.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::incoming::{Arrivals, Scan};
use crate::manifest;
use crate::moment::Moment;

/// Drops that are still written are watched one by one, up to this many. Others wait for the next
/// scan: nobody can use up the machine's watches.
const MAX_INSIDE: usize = 512;

/// More names that left are as good as lost events: the daemon's own claims are among them.
const MAX_GONE: usize = 4_096;

/// Watches `incoming/` and the drops in it that are still written.
pub struct Watch {
    incoming: PathBuf,
    watcher: Option<RecommendedWatcher>,
    inside: HashSet<OsString>,
    /// Drops that were watched before they had a manifest.
    awaited: HashSet<OsString>,
    hints: Arc<Hints>,
}

#[derive(Default)]
struct Hints {
    look: Notify,
    arrivals: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    next: u64,
    /// Of what is in `incoming/`.
    drops: HashMap<OsString, u64>,
    /// Names that left `incoming/`, and with them the watch on their inside.
    gone: HashSet<OsString>,
    has_lost_events: bool,
    /// None was lost since then.
    since: Option<Moment>,
}

impl Watch {
    /// A watch that sees nothing: the spool is only scanned.
    pub fn blind(incoming: &Path) -> Self {
        Self {
            // Events name absolute paths.
            incoming: std::path::absolute(incoming).unwrap_or_else(|_| incoming.to_path_buf()),
            watcher: None,
            inside: HashSet::new(),
            awaited: HashSet::new(),
            hints: Arc::default(),
        }
    }

    /// # Errors
    /// When the machine has no watches left, for example.
    pub fn new(incoming: &Path) -> notify::Result<Self> {
        let mut watch = Self::blind(incoming);
        let hints = Arc::clone(&watch.hints);
        let folder = watch.incoming.clone();
        let mut watcher = notify::recommended_watcher(move |event| hints.take(&folder, event))?;
        watcher.watch(&watch.incoming, RecursiveMode::NonRecursive)?;
        watch.watcher = Some(watcher);
        watch.hints.numbered().since = Some(Moment::now());
        Ok(watch)
    }

    /// Comes back when there is reason to look again. Reasons that arise before it is called count.
    pub async fn changed(&self) {
        self.hints.look.notified().await;
    }

    /// What events have said of the drops that are in `incoming/`.
    pub fn arrivals(&self) -> Arrivals {
        let hints = self.hints.numbered();
        let mut arrivals = Arrivals {
            complete: hints.drops.clone(),
            since: hints.since,
            ..Arrivals::default()
        };
        if !hints.has_lost_events {
            arrivals.awaited.clone_from(&self.awaited);
        }
        arrivals
    }

    /// Takes up what a scan has shown: watches the inside of the incomplete drops, and of no others,
    /// for their manifest.
    ///
    /// Returns whether one was added: what happened in it until now was not seen.
    ///
    /// # Errors
    /// As those of [`Watch::new`].
    pub fn follow(&mut self, scan: &Scan) -> notify::Result<bool> {
        let complete = scan.complete.iter().map(|seen| &seen.name);
        let there: HashSet<_> = complete.chain(&scan.incomplete).collect();
        let (gone, has_lost_events) = {
            let mut hints = self.hints.numbered();
            let gone = std::mem::take(&mut hints.gone);
            (gone, std::mem::take(&mut hints.has_lost_events))
        };
        self.inside.retain(|name| !gone.contains(name));
        // Watched already when they had no manifest: its closing can't be missed.
        let stays = |name: &OsString| there.contains(name) && !gone.contains(name);
        self.awaited.retain(|name| stays(name) && !has_lost_events);
        let absent = scan.without_manifest.iter();
        let watched = absent.filter(|name| self.inside.contains(*name));
        self.awaited.extend(watched.cloned());
        self.look_inside(&scan.incomplete)
    }

    fn look_inside(&mut self, drops: &[OsString]) -> notify::Result<bool> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(false);
        };
        let wanted: HashSet<_> = drops.iter().take(MAX_INSIDE).collect();
        self.inside.retain(|name| {
            let stays = wanted.contains(name);
            if !stays {
                // It was claimed or taken away; the kernel may have ended the watch before us.
                let _ = watcher.unwatch(&self.incoming.join(name));
            }
            stays
        });
        let mut is_new = false;
        for name in wanted {
            if self.inside.contains(name) {
                continue;
            }
            match watcher.watch(&self.incoming.join(name), RecursiveMode::NonRecursive) {
                Ok(()) => is_new |= self.inside.insert(name.clone()),
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_new)
    }
}

impl Hints {
    fn numbered(&self) -> MutexGuard<'_, Numbered> {
        self.arrivals.lock().expect("no thread panics here")
    }

    /// Called in the watcher's own thread. An error, and an overflow of the kernel's queue (which
    /// comes as an event without a path), are reasons to look as well.
    fn take(&self, incoming: &Path, event: notify::Result<Event>) {
        if event.as_ref().map_or(true, Event::need_rescan) {
            let hints = &mut *self.numbered();
            hints.has_lost_events = true;
            hints.since = Some(Moment::now());
            // Some of them may have left, and others have come under their names.
            hints.drops.clear();
        }
        if let Ok(event) = event {
            let is_move = matches!(
                event.kind,
                EventKind::Modify(ModifyKind::Name(RenameMode::To))
            );
            let is_close = matches!(
                event.kind,
                EventKind::Access(AccessKind::Close(AccessMode::Write))
            );
            let is_new = matches!(event.kind, EventKind::Create(_));
            let is_end = matches!(
                event.kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
            );
            if is_end {
                let names = event
                    .paths
                    .iter()
                    .filter(|path| path.parent() == Some(incoming));
                let names = names.filter_map(|path| path.file_name());
                let hints = &mut *self.numbered();
                for name in names {
                    // Only now: a scan may put off what it has seen.
                    hints.drops.remove(name);
                    hints.gone.insert(name.to_os_string());
                }
                if hints.gone.len() > MAX_GONE {
                    hints.gone.clear();
                    hints.has_lost_events = true;
                }
            }
            if !(is_move || is_close || is_new || event.need_rescan()) {
                return;
            }
            for path in event.paths.iter().filter(|_| is_move || is_close) {
                if let Some(drop) = completed(incoming, path, is_move) {
                    let arrivals = &mut *self.numbered();
                    arrivals.drops.insert(drop, arrivals.next);
                    arrivals.next += 1;
                }
            }
        }
        self.look.notify_one();
    }
}

/// The drop that is complete now: it was renamed into `incoming/`, or its manifest was closed or
/// renamed into place.
fn completed(incoming: &Path, path: &Path, is_move: bool) -> Option<OsString> {
    let below = path.strip_prefix(incoming).ok()?;
    let mut names = below.iter();
    match (names.next(), names.next(), names.next()) {
        (Some(drop), None, None) if is_move => Some(drop.to_os_string()),
        (Some(drop), Some(file), None) if file == manifest::FILE => Some(drop.to_os_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_arrives_by_its_rename_or_by_its_manifest() {
        let arrived = |path: &str, is_move| {
            completed(Path::new("/in"), Path::new(path), is_move).map(|n| n.into_string().unwrap())
        };
        assert_eq!(arrived("/in/a", true).as_deref(), Some("a"));
        assert_eq!(arrived("/in/a/manifest.toml", false).as_deref(), Some("a"));
        assert_eq!(arrived("/in/a/manifest.toml", true).as_deref(), Some("a"));
        assert_eq!(arrived("/in/a", false), None, "a file was closed");
        assert_eq!(arrived("/in/a/image", true), None);
        assert_eq!(arrived("/in/a/image/manifest.toml", false), None);
        assert_eq!(arrived("/elsewhere/a", true), None);
    }

    #[test]
    fn an_overflow_of_the_queue_is_a_reason_to_look() {
        let hints = Hints::default();
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        hints.take(Path::new("/in"), Ok(overflow));
        let look = std::pin::pin!(hints.look.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(look.poll(&mut context).is_ready());
    }

    use std::future::Future as _;
}
