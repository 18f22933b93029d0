//! What is happening in a drop, at any depth: what was changed last, and whether somebody writes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clock::Reading;
use super::papers::{is_paper, is_paper_of_image};
use crate::sys::{Dir, Failure, FileExt as _, Kind, Stat};
use crate::words::Moment;

/// What a walk through a drop has shown.
#[derive(Debug)]
pub(super) struct Motion {
    /// By what clock ages are told, if any.
    clock: Option<Reading>,
    /// For so long, or longer, nothing in the drop has changed, at any depth; zero without a clock.
    pub(super) age: Duration,
    /// The latest time that anything has.
    pub(super) newest: Moment,
    /// The latest time of what is in the drop's folder, without that itself.
    pub(super) newest_below: Option<Moment>,
    /// Something has gone while the walk was under way: that is a change.
    pub(super) is_going_on: bool,
    /// A file that somebody has open for writing, from the drop's folder on.
    pub(super) written: Option<PathBuf>,
    /// Of some file the kernel doesn't tell whether anybody has it open for writing.
    pub(super) is_unsure: bool,
}

/// Whether the kernel is asked for writers of each file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writers {
    Asked,
    /// But not of the papers: what a signature proves has been written to its end.
    AskedOfTheRest,
    NotAsked,
}

impl Motion {
    /// Walks through a drop, `max` names at most: one with more is rejected anyway. The walk ends
    /// at the first file that somebody writes.
    ///
    /// # Errors
    /// When the drop's folder can't be listed. What can't be looked at below is left out.
    pub(super) fn of(
        drop: &Dir,
        max: usize,
        writers: Writers,
        clock: Option<Reading>,
    ) -> Result<Self, Failure> {
        let folder = drop.stat_self()?;
        let mut motion = Self {
            clock,
            age: Duration::MAX,
            newest: folder.changed,
            newest_below: None,
            is_going_on: false,
            written: None,
            is_unsure: false,
        };
        motion.take(folder.changed);
        let (mut count, mut folders) = (0, VecDeque::from([PathBuf::new()]));
        while let Some(folder) = folders.pop_front() {
            let opened;
            let here = if folder.as_os_str().is_empty() {
                drop
            } else {
                let Ok(found) = drop.dir(&folder) else {
                    continue;
                };
                let Some(dir) = found else {
                    motion.is_going_on = true;
                    continue;
                };
                opened = dir;
                &opened
            };
            let listed = here.each(|name, kind| {
                count += 1;
                let path = folder.join(name);
                motion.look_at(here, (Path::new(name), kind), &path, writers);
                if kind == Kind::Dir {
                    folders.push_back(path);
                }
                if count < max && motion.written.is_none() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            if folder.as_os_str().is_empty() {
                listed?;
            }
            if count >= max || motion.written.is_some() {
                break;
            }
        }
        if motion.is_going_on {
            motion.age = Duration::ZERO;
        }
        Ok(motion)
    }

    fn look_at(&mut self, here: &Dir, (name, kind): (&Path, Kind), path: &Path, writers: Writers) {
        // The writer first: one that ends after this leaves a younger time.
        let is_asked = match writers {
            Writers::Asked => true,
            Writers::AskedOfTheRest => {
                !is_paper(path.as_os_str()) && !is_paper_of_image(path.as_os_str())
            }
            Writers::NotAsked => false,
        };
        if is_asked && kind == Kind::File {
            self.ask(here, name, path);
        }
        match here.stat(name) {
            Ok(Some(Stat { changed, .. })) => {
                self.take(changed);
                self.newest_below = self.newest_below.max(Some(changed));
            }
            Ok(None) => self.is_going_on = true,
            Err(_) => {}
        }
    }

    /// Takes for the latest change that a file was closed, if it is.
    pub(super) fn with_closed(mut self, closed: Option<Moment>) -> Self {
        if let Some(closed) = closed {
            self.take(closed);
        }
        self
    }

    fn take(&mut self, changed: Moment) {
        let age = self.clock.map(|clock| clock.age(changed));
        self.age = self.age.min(age.unwrap_or_default());
        self.newest = self.newest.max(changed);
    }

    /// Whether the latest change was made before the clock was set back.
    pub(super) fn is_from_future(&self) -> bool {
        self.clock.is_some_and(|clock| clock.is_ahead(self.newest))
    }

    fn ask(&mut self, here: &Dir, name: &Path, path: &Path) {
        match is_being_written(here, name) {
            Some(false) => {}
            Some(true) => self.written = Some(path.to_path_buf()),
            None => self.is_unsure = true,
        }
    }
}

/// Whether somebody has the file `path` beneath `dir` open for writing; `None` where nobody knows.
pub(super) fn is_being_written(dir: &Dir, path: &Path) -> Option<bool> {
    match dir.file(path) {
        Ok(file) => file?.is_being_written(),
        // Somebody holds a lease on it (open(2)), and so decides who opens it when.
        Err(failure) if failure.is(std::io::ErrorKind::WouldBlock) => Some(true),
        Err(_) => None,
    }
}
