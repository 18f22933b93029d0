//! Events of the kernel, boiled down to "look again", and the order in which drops arrived.
//!
//! An event is a hint, the directory is the truth: whatever is lost here is found by the next scan.
//!
//! Importers can make events faster than they are read, for as long as they like. The thread that
//! reads them does nothing else then, and whoever asks it to watch one more folder waits for it.
//! That is why a thread of its own asks: whoever scans never waits.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::manifest::MANIFEST;
use super::scan::{Arrivals, Scan};
use crate::log::MessageId;
use crate::words::Moment;

/// Drops that are still written are watched one by one, up to this many. Others wait for the next
/// scan: nobody can use up the machine's watches.
const MAX_INSIDE: usize = 512;

/// More names that left are as good as lost events: the daemon's own claims are among them.
const MAX_GONE: usize = 4_096;

/// Watches `incoming/` and the drops in it that are still written.
pub(crate) struct Watch {
    /// Drops that were watched before they had a manifest.
    awaited: HashSet<OsString>,
    hints: Arc<Hints>,
    /// Tells that other drops are to be watched. `None` where nothing is.
    bell: Option<SyncSender<()>>,
}

struct Hints {
    /// Called when there is reason to look again.
    look: Box<dyn Fn() + Send + Sync>,
    known: Mutex<Known>,
}

/// What events have told, and what is watched for them.
#[derive(Default)]
struct Known {
    next: u64,
    /// Of what is in `incoming/`.
    drops: HashMap<OsString, u64>,
    /// Names that left `incoming/`, and with them the watch on their inside.
    gone: HashSet<OsString>,
    has_lost_events: bool,
    /// None was lost since then.
    since: Option<Moment>,
    /// Drops whose inside is to be watched.
    wanted: HashSet<OsString>,
    /// Those whose inside is watched for certain.
    inside: HashSet<OsString>,
    /// The one that is about to be, if it did not leave meanwhile.
    next_inside: Option<OsString>,
}

impl Watch {
    /// A watch that sees nothing: the spool is only scanned.
    pub(crate) fn blind() -> Self {
        Self::with(|| {})
    }

    /// A watch that calls `look` whenever there is reason to look again. It sees nothing, and says
    /// so in the log, when the machine has no watches left, for example.
    pub(crate) fn new(incoming: &Path, look: impl Fn() + Send + Sync + 'static) -> Self {
        Self::seeing(incoming, look).unwrap_or_else(|error| {
            warn_blind(&error);
            Self::blind()
        })
    }

    fn with(look: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            awaited: HashSet::new(),
            hints: Arc::new(Hints::new(look)),
            bell: None,
        }
    }

    fn seeing(incoming: &Path, look: impl Fn() + Send + Sync + 'static) -> notify::Result<Self> {
        // Events name absolute paths.
        let incoming = std::path::absolute(incoming)?;
        let mut watch = Self::with(look);
        let (hints, folder) = (Arc::clone(&watch.hints), incoming.clone());
        let mut watcher = notify::recommended_watcher(move |event| hints.take(&folder, event))?;
        watcher.watch(&incoming, RecursiveMode::NonRecursive)?;
        watch.hints.known().since = Some(Moment::now());
        let (bell, rings) = sync_channel(1);
        watch.bell = Some(bell);
        let insides = Insides {
            incoming,
            watcher,
            hints: Arc::clone(&watch.hints),
            watched: HashSet::new(),
            has_warned: false,
        };
        thread::Builder::new()
            .name("insides".to_string())
            .spawn(move || insides.follow(&rings))?;
        Ok(watch)
    }

    /// What events have said of the drops that are in `incoming/`.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let known = self.hints.known();
        let mut arrivals = Arrivals {
            complete: known.drops.clone(),
            watched: known.inside.clone(),
            since: known.since,
            ..Arrivals::default()
        };
        if !known.has_lost_events {
            arrivals.awaited.clone_from(&self.awaited);
        }
        arrivals
    }

    /// Takes up what a scan has shown: the inside of the incomplete drops, and of no others, will be
    /// watched for their manifest, and then they are looked at again.
    pub(crate) fn follow(&mut self, scan: &Scan) {
        let complete = scan.complete.iter().map(|seen| &seen.name);
        let there: HashSet<_> = complete.chain(&scan.incomplete).collect();
        let incomplete = scan.incomplete.iter().take(MAX_INSIDE);
        let (gone, has_lost_events) = {
            let mut known = self.hints.known();
            known.wanted = incomplete.cloned().collect();
            let gone = std::mem::take(&mut known.gone);
            (gone, std::mem::take(&mut known.has_lost_events))
        };
        if has_lost_events {
            self.awaited.clear();
        } else {
            self.awaited.extend(scan.awaited.iter().cloned());
            self.awaited
                .retain(|name| there.contains(name) && !gone.contains(name));
        }
        if let Some(bell) = &self.bell {
            // It has been rung already, or nothing can be watched any more.
            let _ = bell.try_send(());
        }
    }
}

fn warn_blind(error: &notify::Error) {
    tracing::warn!(
        message_id = %MessageId::NoEvents,
        "watching the spool: {error}, going on with rescans only"
    );
}

/// Watches the inside of drops, one after the other.
struct Insides {
    incoming: PathBuf,
    watcher: RecommendedWatcher,
    hints: Arc<Hints>,
    /// Those whose watch was not ended here: also of such that left without an event's telling.
    watched: HashSet<OsString>,
    has_warned: bool,
}

impl Insides {
    /// Until nobody will ring any more.
    fn follow(mut self, rings: &Receiver<()>) {
        while rings.recv().is_ok() {
            self.end_others();
            if self.begin() {
                // What happened in them until now was not seen.
                (self.hints.look)();
            }
        }
    }

    /// Ends the watch on drops that were claimed or taken away; the kernel may have ended it before.
    fn end_others(&mut self) {
        let others: Vec<_> = {
            let Known { wanted, inside, .. } = &mut *self.hints.known();
            inside.retain(|name| wanted.contains(name));
            let others = self.watched.extract_if(|name| !inside.contains(name));
            others.collect()
        };
        for name in others {
            let _ = self.watcher.unwatch(&self.incoming.join(name));
        }
    }

    /// Returns whether one was added.
    fn begin(&mut self) -> bool {
        let new: Vec<_> = {
            let known = self.hints.known();
            known.wanted.difference(&self.watched).cloned().collect()
        };
        let mut is_one_added = false;
        for name in new {
            self.hints.known().next_inside = Some(name.clone());
            let path = self.incoming.join(&name);
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(name.clone());
                    let known = &mut *self.hints.known();
                    if known.next_inside.take().is_some() {
                        is_one_added |= known.inside.insert(name);
                    }
                }
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.has_warned, true) {
                        warn_blind(&error);
                    }
                    break;
                }
            }
        }
        is_one_added
    }
}

impl Hints {
    fn new(look: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            look: Box::new(look),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no thread panics here")
    }

    /// Called in the watcher's own thread. An error, and an overflow of the kernel's queue (which
    /// comes as an event without a path), are reasons to look as well.
    fn take(&self, incoming: &Path, event: notify::Result<Event>) {
        let is_lost = event.as_ref().map_or(true, Event::need_rescan);
        if is_lost {
            self.known().lose_events();
        }
        let mut has_arrived = false;
        if let Ok(event) = event {
            match event.kind {
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                    self.known().take_gone(incoming, &event.paths);
                }
                EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                    self.known().take_arrived(incoming, &event.paths, true);
                    has_arrived = true;
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.known().take_arrived(incoming, &event.paths, false);
                    has_arrived = true;
                }
                EventKind::Create(_) => has_arrived = true,
                _ => {}
            }
        }
        if is_lost || has_arrived {
            (self.look)();
        }
    }
}

impl Known {
    fn lose_events(&mut self) {
        self.has_lost_events = true;
        self.since = Some(Moment::now());
        // Some drops may have left, and others have come under their names.
        self.drops.clear();
        self.inside.clear();
        self.next_inside = None;
    }

    fn take_gone(&mut self, incoming: &Path, paths: &[PathBuf]) {
        let of_drops = paths.iter().filter(|path| path.parent() == Some(incoming));
        for name in of_drops.filter_map(|path| path.file_name()) {
            // Only now: a scan may put off what it has seen.
            self.drops.remove(name);
            self.inside.remove(name);
            self.next_inside.take_if(|next| next == name);
            self.gone.insert(name.to_os_string());
        }
        if self.gone.len() > MAX_GONE {
            self.gone.clear();
            self.has_lost_events = true;
        }
    }

    fn take_arrived(&mut self, incoming: &Path, paths: &[PathBuf], is_move: bool) {
        for path in paths {
            if let Some(drop) = completed(incoming, path, is_move) {
                self.drops.insert(drop, self.next);
                self.next += 1;
            }
        }
    }
}

/// The drop that is complete now: it was renamed into `incoming/`, or its manifest was closed or
/// renamed into place.
fn completed(incoming: &Path, path: &Path, is_move: bool) -> Option<OsString> {
    let below = path.strip_prefix(incoming).ok()?;
    let mut names = below.iter();
    match (names.next(), names.next(), names.next()) {
        (Some(drop), None, None) if is_move => Some(drop.to_os_string()),
        (Some(drop), Some(file), None) if file == MANIFEST => Some(drop.to_os_string()),
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

    fn overflow() -> Event {
        Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)
    }

    #[test]
    fn a_drop_that_left_while_events_were_lost_is_not_watched_on() {
        let folder = tempfile::tempdir().unwrap();
        let drop = folder.path().join("drop");
        std::fs::create_dir(&drop).unwrap();
        let hints = Arc::new(Hints::new(|| {}));
        let mut insides = Insides {
            incoming: folder.path().to_path_buf(),
            watcher: notify::recommended_watcher(|_| {}).unwrap(),
            hints: Arc::clone(&hints),
            watched: HashSet::new(),
            has_warned: false,
        };
        hints.known().wanted.insert("drop".into());
        assert!(insides.begin());
        hints.take(folder.path(), Ok(overflow()));
        hints.known().wanted.clear();
        insides.end_others();
        let ended = insides.watcher.unwatch(&drop).unwrap_err();
        assert!(matches!(ended.kind, notify::ErrorKind::WatchNotFound));
    }

    #[test]
    fn an_overflow_of_the_queue_is_a_reason_to_look() {
        let (looked, has_looked) = std::sync::mpsc::channel();
        let hints = Hints::new(move || looked.send(()).unwrap());
        hints.take(Path::new("/in"), Ok(overflow()));
        assert_eq!(has_looked.try_recv(), Ok(()));
    }
}
