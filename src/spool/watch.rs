//! What events tell: that something came into `incoming/`, and which drops were renamed there, in
//! which order.
//!
//! An event is a hint, the directory is the truth: whatever is lost here is found by the next scan.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::scan::{Arrivals, Asked};
use crate::log::MessageId;

/// Watches `incoming/`.
pub(crate) struct Watch(Option<(Arc<Hints>, RecommendedWatcher)>);

/// What events tell, for the threads that share it.
struct Hints {
    /// The absolute path of the folder: events name such.
    incoming: PathBuf,
    /// Called when there is reason to look again.
    look: Box<dyn Fn() + Send + Sync>,
    come: Mutex<Come>,
}

/// How the drops in `incoming/` came there.
#[derive(Default)]
struct Come {
    /// Those that were renamed, each with its place in their order.
    renamed: HashMap<OsString, u64>,
    /// The place of the next one.
    next: u64,
    /// Those that were made there.
    made: HashSet<OsString>,
    /// The names of those that came since the last look.
    news: Vec<OsString>,
    /// Nobody knows what else came since then: events were lost, or there were too many.
    is_lost: bool,
}

/// More names since the last look are as good as lost.
const MAX_NEWS: usize = 4_096;

/// Of more names at a time nothing is kept: they are found, and ordered, by what the folder shows.
const MAX_KNOWN: usize = 65_536;

impl Come {
    /// Nothing is known of what came, but the place of the next one.
    fn lost(next: u64) -> Self {
        Self {
            next,
            is_lost: true,
            ..Self::default()
        }
    }

    fn add_news(&mut self, name: &OsStr) {
        if self.renamed.len() + self.made.len() > MAX_KNOWN {
            *self = Self::lost(self.next);
        }
        self.is_lost |= self.news.len() >= MAX_NEWS;
        if !self.is_lost {
            self.news.push(name.to_os_string());
        }
    }

    fn ask(&mut self, is_of_all: bool) -> Option<Asked> {
        let news = std::mem::take(&mut self.news);
        let is_lost = std::mem::take(&mut self.is_lost);
        let (names, renamed, made) = if is_of_all {
            (None, self.renamed.clone(), self.made.clone())
        } else if is_lost {
            return None;
        } else {
            let renamed = news
                .iter()
                .filter_map(|name| self.renamed.get_key_value(name));
            let renamed = renamed
                .map(|(name, place)| (name.clone(), *place))
                .collect();
            let made = news.iter().filter_map(|name| self.made.get(name));
            let made = made.cloned().collect();
            (Some(news), renamed, made)
        };
        Some(Asked {
            names,
            arrivals: Arrivals {
                renamed,
                made,
                is_watching: true,
            },
            ..Asked::default()
        })
    }

    fn forget(&mut self, name: &OsStr) {
        self.renamed.remove(name);
        self.made.remove(name);
    }
}

impl Watch {
    /// A watch that sees nothing: the spool is only scanned.
    pub(crate) fn blind() -> Self {
        Self(None)
    }

    /// A watch that calls `look` whenever there is reason to look again. It sees nothing, and says
    /// so in the log, when the machine has no watches left, for example.
    pub(crate) fn new(incoming: &Path, look: impl Fn() + Send + Sync + 'static) -> Self {
        let begin = || {
            let incoming = std::path::absolute(incoming)?;
            let hints = Arc::new(Hints::new(incoming, look));
            let told = Arc::clone(&hints);
            let mut watcher = notify::recommended_watcher(move |event| told.take(event))?;
            watcher.watch(&hints.incoming, RecursiveMode::NonRecursive)?;
            Ok((hints, watcher))
        };
        let warn = |error: &notify::Error| {
            tracing::warn!(
                message_id = %MessageId::NoEvents,
                "watching the spool: {error}, going on with rescans only"
            );
        };
        Self(begin().inspect_err(warn).ok())
    }

    /// What a scan is to look for, as far as events tell: of all that is there, or of what came since
    /// this was asked last. `None` where nobody knows what that is.
    pub(crate) fn ask(&self, is_of_all: bool) -> Option<Asked> {
        let Some((hints, _)) = &self.0 else {
            return is_of_all.then(Asked::default);
        };
        hints.come().ask(is_of_all)
    }
}

impl Hints {
    fn new(incoming: PathBuf, look: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            incoming,
            look: Box::new(look),
            come: Mutex::default(),
        }
    }

    fn come(&self) -> MutexGuard<'_, Come> {
        self.come.lock().expect("no thread panics here")
    }

    /// Called in the watcher's own thread. An error, and an overflow of the kernel's queue (which
    /// comes as an event without a path), are reasons to look as well.
    fn take(&self, event: notify::Result<Event>) {
        let is_lost = event.as_ref().map_or(true, Event::need_rescan);
        if is_lost {
            // Some drops may have left, and others have come under their names.
            let come = &mut *self.come();
            *come = Come::lost(come.next);
        }
        let has_arrived = event.is_ok_and(|event| self.take_event(&event));
        if is_lost || has_arrived {
            (self.look)();
        }
    }

    /// Returns whether something came.
    fn take_event(&self, event: &Event) -> bool {
        let names = event.paths.iter();
        let names = names.filter(|path| path.parent() == Some(&self.incoming));
        let names = names.filter_map(|path| path.file_name());
        let names = names.filter(|name| !name.as_bytes().starts_with(b"."));
        let come = &mut *self.come();
        match event.kind {
            EventKind::Create(_) => {
                for name in names {
                    come.forget(name);
                    come.made.insert(name.to_os_string());
                    come.add_news(name);
                }
                true
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                for name in names {
                    come.forget(name);
                    come.renamed.insert(name.to_os_string(), come.next);
                    come.add_news(name);
                    come.next += 1;
                }
                true
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                // Not before: a scan may put off what it has seen.
                names.for_each(|name| come.forget(name));
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints() -> (Hints, std::sync::mpsc::Receiver<()>) {
        let (looked, has_looked) = std::sync::mpsc::channel();
        let hints = Hints::new("/in".into(), move || looked.send(()).unwrap());
        (hints, has_looked)
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    fn rename(mode: RenameMode, path: &str) -> Event {
        event(EventKind::Modify(ModifyKind::Name(mode)), path)
    }

    fn places(hints: &Hints) -> Vec<(String, u64)> {
        let come = hints.come();
        let places = come.renamed.iter();
        let mut places: Vec<_> = places
            .map(|(name, place)| (name.to_str().unwrap().to_string(), *place))
            .collect();
        places.sort();
        places
    }

    #[test]
    fn renames_into_the_folder_are_known_by_their_order_until_the_drop_leaves() {
        let (hints, has_looked) = hints();
        for name in ["/in/b", "/in/a", "/elsewhere/c", "/in/a/manifest.toml"] {
            hints.take(Ok(rename(RenameMode::To, name)));
        }
        assert_eq!(places(&hints), [("a".into(), 1), ("b".into(), 0)]);
        assert_eq!(has_looked.try_iter().count(), 4);
        hints.take(Ok(rename(RenameMode::From, "/in/a")));
        let removed = EventKind::Remove(notify::event::RemoveKind::Folder);
        hints.take(Ok(event(removed, "/in/b")));
        assert_eq!(places(&hints), []);
        assert_eq!(has_looked.try_iter().count(), 0, "nothing has come");
        hints.take(Ok(rename(RenameMode::To, "/in/a")));
        assert_eq!(places(&hints), [("a".into(), 2)], "another of its name");
    }

    #[test]
    fn what_is_made_in_place_is_a_reason_to_look_and_was_not_renamed() {
        let (hints, has_looked) = hints();
        let made = EventKind::Create(notify::event::CreateKind::Folder);
        hints.take(Ok(event(made, "/in/a")));
        assert_eq!(has_looked.try_iter().count(), 1);
        assert_eq!(places(&hints), []);
        let is_made = |hints: &Hints| hints.come().made.contains(OsStr::new("a"));
        assert!(is_made(&hints));
        hints.take(Ok(rename(RenameMode::To, "/in/a")));
        assert!(!is_made(&hints), "another was renamed over it");
    }

    #[test]
    fn whatever_came_since_the_last_look_is_named_but_what_is_hidden_or_too_much() {
        let (hints, _has_looked) = hints();
        for name in ["/in/.hidden", "/in/b", "/in/a"] {
            hints.take(Ok(rename(RenameMode::To, name)));
        }
        let news = || hints.come().ask(false).map(|asked| asked.names.unwrap());
        assert_eq!(news(), Some(vec!["b".into(), "a".into()]));
        assert_eq!(news(), Some(Vec::new()));
        for number in 0..=MAX_NEWS {
            hints.take(Ok(rename(RenameMode::To, &format!("/in/{number}"))));
        }
        assert_eq!(news(), None);
        assert_eq!(news(), Some(Vec::new()));
        assert_eq!(hints.come().ask(true).unwrap().names, None);
    }

    #[test]
    fn after_an_overflow_of_the_queue_nothing_is_known_and_it_is_a_reason_to_look() {
        let (hints, has_looked) = hints();
        hints.take(Ok(rename(RenameMode::To, "/in/a")));
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        hints.take(Ok(overflow));
        assert_eq!(places(&hints), []);
        assert!(hints.come().ask(false).is_none());
        assert_eq!(has_looked.try_iter().count(), 2);
    }
}
