//! Events of the kernel, boiled down to "look again", and the order in which drops arrived.
//!
//! An event is a hint, the directory is the truth: whatever is lost here is found by the next scan.
//!
//! Importers can make events faster than they are read, for as long as they like. The thread that
//! reads them does nothing else then, and whoever asks it to watch one more folder waits for it.
//! That is why a thread of its own asks ([`Insides`]): whoever scans never waits.

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

/// Watches `incoming/` and the drops in it that are still written: what events tell, and the bell
/// that makes [`Insides`] watch other drops.
pub(crate) struct Watch(Option<(Arc<Hints>, SyncSender<()>)>);

/// What events tell, for the threads that share it.
struct Hints {
    /// The absolute path of the folder: events name such.
    incoming: PathBuf,
    /// Called when there is reason to look again.
    look: Box<dyn Fn() + Send + Sync>,
    known: Mutex<Known>,
}

/// What events have told, and what is watched for them.
#[derive(Default)]
struct Known {
    /// The drops in `incoming/` that are complete, each with its place in their order.
    complete: HashMap<OsString, u64>,
    /// The place of the next one.
    next: u64,
    /// No event was lost since then.
    since: Option<Moment>,
    /// Drops whose inside is to be watched.
    wanted: HashSet<OsString>,
    /// Drops whose inside is watched, or is about to be.
    inside: HashMap<OsString, Inside>,
}

/// How far the watch on the inside of one drop has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// The kernel is being asked for it.
    Asked,
    Watched,
    /// A scan has begun since the inside is watched.
    Scanned,
    /// That scan has found no manifest: the event of its closing can't be missed.
    Awaited,
    /// The drop has left, or may have, and another come under its name: the watch has to be ended.
    Left,
}

impl Watch {
    /// A watch that sees nothing: the spool is only scanned.
    pub(crate) fn blind() -> Self {
        Self(None)
    }

    /// A watch that calls `look` whenever there is reason to look again. It sees nothing, and says
    /// so in the log, when the machine has no watches left, for example.
    pub(crate) fn new(incoming: &Path, look: impl Fn() + Send + Sync + 'static) -> Self {
        let begun = std::path::absolute(incoming).map_err(notify::Error::from);
        let begun = begun.and_then(|incoming| Insides::begin(Hints::new(incoming, look)));
        Self(begun.inspect_err(warn_blind).ok())
    }

    /// What events have said of the drops that are in `incoming/`: what a scan begins with.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let Some((hints, _)) = &self.0 else {
            return Arrivals::default();
        };
        let known = &mut *hints.known();
        let mut awaited = HashSet::new();
        for (name, state) in &mut known.inside {
            match state {
                Inside::Watched => *state = Inside::Scanned,
                Inside::Awaited => drop(awaited.insert(name.clone())),
                _ => {}
            }
        }
        Arrivals {
            complete: known.complete.clone(),
            awaited,
            since: known.since,
        }
    }

    /// Takes up what a scan has shown: the inside of the incomplete drops, and of no others, will be
    /// watched for their manifest, and then they are looked at again.
    pub(crate) fn follow(&self, scan: &Scan) {
        let Some((hints, bell)) = &self.0 else {
            return;
        };
        let incomplete = scan.incomplete.iter().take(MAX_INSIDE);
        let wanted = incomplete.clone().map(|(name, _)| name.clone()).collect();
        let known = &mut *hints.known();
        known.wanted = wanted;
        for (name, _) in incomplete.filter(|(_, has_manifest)| !has_manifest) {
            if let Some(state @ Inside::Scanned) = known.inside.get_mut(name) {
                *state = Inside::Awaited;
            }
        }
        // It has been rung already, or nothing can be watched any more.
        let _ = bell.try_send(());
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
    watcher: RecommendedWatcher,
    hints: Arc<Hints>,
    has_warned: bool,
}

impl Insides {
    /// Begins to watch `incoming/`, and a thread that watches the drops in it. It ends with the
    /// bell.
    fn begin(hints: Hints) -> notify::Result<(Arc<Hints>, SyncSender<()>)> {
        let hints = Arc::new(hints);
        let told = Arc::clone(&hints);
        let mut watcher = notify::recommended_watcher(move |event| told.take(event))?;
        watcher.watch(&hints.incoming, RecursiveMode::NonRecursive)?;
        hints.known().since = Some(Moment::now());
        let (bell, rings) = sync_channel(1);
        let insides = Self {
            watcher,
            hints: Arc::clone(&hints),
            has_warned: false,
        };
        let thread = thread::Builder::new().name("insides".to_string());
        thread.spawn(move || insides.follow(&rings))?;
        Ok((hints, bell))
    }

    /// Changes what is watched at each ring, until nobody will ring any more.
    fn follow(mut self, rings: &Receiver<()>) {
        while rings.recv().is_ok() {
            self.end_others();
            if self.watch_wanted() {
                // What happened in them until now was not seen.
                (self.hints.look)();
            }
        }
    }

    /// Ends the watch on drops that nobody waits for any more, or that have left; the kernel may have
    /// ended it before.
    fn end_others(&mut self) {
        let others: Vec<_> = {
            let Known { wanted, inside, .. } = &mut *self.hints.known();
            let is_over = |name: &_, state: Inside| state == Inside::Left || !wanted.contains(name);
            let others = inside.extract_if(|name, state| is_over(name, *state));
            others.map(|(name, _)| name).collect()
        };
        for name in others {
            let _ = self.watcher.unwatch(&self.hints.incoming.join(name));
        }
    }

    /// Begins the watch on drops that have none. Returns whether one was added.
    fn watch_wanted(&mut self) -> bool {
        let new: Vec<_> = {
            let Known { wanted, inside, .. } = &*self.hints.known();
            let new = wanted.iter().filter(|name| !inside.contains_key(*name));
            new.cloned().collect()
        };
        let (hints, mut is_one_added) = (&self.hints, false);
        for name in new {
            hints.known().inside.insert(name.clone(), Inside::Asked);
            let path = hints.incoming.join(&name);
            if let Err(error) = self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                hints.known().inside.remove(&name);
                if matches!(error.kind, notify::ErrorKind::PathNotFound) {
                    continue;
                }
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn_blind(&error);
                }
                break;
            }
            // In any other state the drop has left meanwhile.
            if let Some(state @ Inside::Asked) = hints.known().inside.get_mut(&name) {
                *state = Inside::Watched;
                is_one_added = true;
            }
        }
        is_one_added
    }
}

impl Hints {
    fn new(incoming: PathBuf, look: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            incoming,
            look: Box::new(look),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no thread panics here")
    }

    /// Called in the watcher's own thread. An error, and an overflow of the kernel's queue (which
    /// comes as an event without a path), are reasons to look as well.
    fn take(&self, event: notify::Result<Event>) {
        let is_lost = event.as_ref().map_or(true, Event::need_rescan);
        if is_lost {
            self.known().lose_events();
        }
        let has_arrived = event.is_ok_and(|event| self.take_event(&event));
        if is_lost || has_arrived {
            (self.look)();
        }
    }

    /// Returns whether something came or was closed.
    fn take_event(&self, event: &Event) -> bool {
        let is_move = match event.kind {
            EventKind::Create(_) => return true,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => true,
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.known().take_gone(&self.incoming, &event.paths);
                return false;
            }
            _ => return false,
        };
        for path in &event.paths {
            if let Some(drop) = completed(&self.incoming, path, is_move) {
                let known = &mut *self.known();
                known.complete.insert(drop, known.next);
                known.next += 1;
            }
        }
        true
    }
}

impl Known {
    /// Some drops may have left, and others have come under their names.
    fn lose_events(&mut self) {
        self.since = Some(Moment::now());
        self.complete.clear();
        for state in self.inside.values_mut() {
            *state = Inside::Left;
        }
    }

    fn take_gone(&mut self, incoming: &Path, paths: &[PathBuf]) {
        let of_drops = paths.iter().filter(|path| path.parent() == Some(incoming));
        for name in of_drops.filter_map(|path| path.file_name()) {
            // Not before: a scan may put off what it has seen.
            self.complete.remove(name);
            if let Some(state) = self.inside.get_mut(name) {
                *state = Inside::Left;
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
    use std::ffi::OsStr;
    use std::time::Duration;

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

    /// A watch on the drop `drop` in `folder`, of which nobody is told.
    fn watching(folder: &Path) -> (Arc<Hints>, Insides) {
        std::fs::create_dir(folder.join("drop")).unwrap();
        let hints = Arc::new(Hints::new(folder.to_path_buf(), || {}));
        let mut insides = Insides {
            watcher: notify::recommended_watcher(|_| {}).unwrap(),
            hints: Arc::clone(&hints),
            has_warned: false,
        };
        hints.known().wanted.insert("drop".into());
        assert!(insides.watch_wanted());
        (hints, insides)
    }

    #[test]
    fn a_drop_that_left_is_watched_anew_when_another_comes_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (hints, mut insides) = watching(folder.path());
        assert!(!insides.watch_wanted(), "watched twice");
        hints.take(Ok(overflow()));
        insides.end_others();
        assert!(insides.watch_wanted());
    }

    #[test]
    fn a_drop_that_left_while_events_were_lost_is_not_watched_on() {
        let folder = tempfile::tempdir().unwrap();
        let drop = folder.path().join("drop");
        let (hints, mut insides) = watching(folder.path());
        hints.take(Ok(overflow()));
        hints.known().wanted.clear();
        insides.end_others();
        let ended = insides.watcher.unwatch(&drop).unwrap_err();
        assert!(matches!(ended.kind, notify::ErrorKind::WatchNotFound));
    }

    #[test]
    fn a_drop_is_awaited_when_a_scan_that_began_after_its_watch_found_no_manifest() {
        let hints = Arc::new(Hints::new("/in".into(), || {}));
        let watch = Watch(Some((Arc::clone(&hints), sync_channel(1).0)));
        let set = |state| hints.known().inside.insert("drop".into(), state);
        let mut scan = Scan::default();
        scan.incomplete.push(("drop".into(), false));
        let is_awaited = || watch.arrivals().awaited.contains(OsStr::new("drop"));

        set(Inside::Watched);
        watch.follow(&scan);
        assert!(!is_awaited(), "the scan began before the drop was watched");
        set(Inside::Watched);
        watch.follow(&scan);
        assert!(
            !is_awaited(),
            "it left, and another of its name was watched"
        );
        assert!(
            !is_awaited(),
            "the scan that found no manifest has not ended"
        );
        watch.follow(&scan);
        assert!(is_awaited());
        let gone = Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        hints.take(Ok(gone.add_path("/in/drop".into())));
        watch.follow(&scan);
        assert!(!is_awaited(), "it has left");
    }

    #[test]
    fn what_arrived_before_an_overflow_may_have_left_with_it() {
        let hints = Arc::new(Hints::new("/in".into(), || {}));
        let watch = Watch(Some((Arc::clone(&hints), sync_channel(1).0)));
        let before = Moment::now();
        hints.known().since = Some(before.earlier(Duration::from_secs(1)));
        let moved = Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::To)));
        hints.take(Ok(moved.add_path("/in/drop".into())));
        assert!(watch.arrivals().complete.contains_key(OsStr::new("drop")));
        hints.take(Ok(overflow()));
        let arrivals = watch.arrivals();
        assert!(arrivals.complete.is_empty(), "another may have its name");
        assert!(arrivals.since >= Some(before), "{:?}", arrivals.since);
    }

    #[test]
    fn an_overflow_of_the_queue_is_a_reason_to_look() {
        let (looked, has_looked) = std::sync::mpsc::channel();
        let hints = Hints::new("/in".into(), move || looked.send(()).unwrap());
        hints.take(Ok(overflow()));
        assert_eq!(has_looked.try_recv(), Ok(()));
    }
}
