//! Whether a machine uses what is to go: what a swap would replace, or vacuum remove.
//!
//! Events of the kernel tell of every file that is opened, read or closed after a watch began
//! (inotify(7)): a transfer that was under way before shows by its reading. Events are taken in
//! when somebody asks, so nothing runs while nothing is watched. What no event tells of, a file
//! that was opened earlier and lies idle, shows by its lock (in.tftpd locks what it sends), or among
//! the open files.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::image::Image;
use crate::sys::{Dir, Failure, FileExt as _, Kind};

/// So many bytes hold some hundred events.
const BUFFER: usize = 16 << 10;

/// What the kernel's queue holds. More are not taken in at a time: whoever makes events faster than
/// they are read could go on for ever.
const QUEUED: usize = 16_384;

/// So many files can be opened without filling the kernel's queue.
const SLICE: usize = 1_000;

/// Everything that is watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookout(Arc<Mutex<Watches>>);

/// A directory that is watched until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    lookout: Lookout,
    number: u64,
    quiet_period: Duration,
}

#[derive(Debug, Default)]
struct Watches {
    /// `None` while nothing is watched.
    inotify: Option<OwnedFd>,
    next: u64,
    /// By the kernel's number for a folder.
    folders: HashMap<i32, u64>,
    uses: HashMap<u64, Use>,
    /// Why something could not be watched; to be told once.
    trouble: Option<Failure>,
    /// Whether a trouble was told.
    has_told: bool,
}

/// How machines use a directory.
#[derive(Clone, Copy, Debug)]
struct Use {
    last: Instant,
    /// How many events there were. They don't tell how many files are open: of two files that are
    /// closed one right after the other the kernel makes one event.
    events: usize,
}

impl Lookout {
    /// Watches all files in `dir` from now on.
    ///
    /// Where the kernel has no watches left, nothing is seen but locks and open files, and
    /// [`Lookout::trouble`] tells of it.
    pub(crate) fn watch(&self, dir: &Dir, quiet_period: Duration) -> Watched {
        let mut watches = self.lock();
        let number = watches.next;
        watches.next += 1;
        let last = Instant::now();
        watches.uses.insert(number, Use { last, events: 0 });
        if let Err(failure) = watches.add(dir, number)
            && !watches.has_told
        {
            watches.trouble = Some(failure);
        }
        Watched {
            lookout: self.clone(),
            number,
            quiet_period,
        }
    }

    /// Takes in what has happened until now.
    pub(crate) fn look(&self) {
        self.lock().take_events();
    }

    /// The last look before what is `watched` is replaced: whether it is quiet, and whether a file
    /// of it `is_open`, which is only asked where events tell of no use.
    pub(crate) fn look_closely(
        &self,
        watched: &Watched,
        is_open: impl FnOnce() -> bool,
    ) -> (bool, bool) {
        self.look();
        let is_open = watched.is_quiet() && is_open();
        // To look for open files takes a while: machines may have come back meanwhile.
        self.look();
        (watched.is_quiet() && !is_open, is_open)
    }

    /// Whether another process has locked a file in `dir`, which is what is `watched`.
    pub(crate) fn is_locked(&self, watched: &Watched, dir: Dir) -> bool {
        self.locked_by(watched, dir).is_some()
    }

    /// Which process has locked a file in `dir`, which is what is `watched`; 0 where the kernel knows
    /// none. Takes in what has happened until then.
    ///
    /// Each file is opened to ask for its lock. The events of these openings are forgotten, unless
    /// there are others among them.
    pub(crate) fn locked_by(&self, watched: &Watched, dir: Dir) -> Option<u32> {
        let mut watches = self.lock();
        watches.take_events();
        let before = watches.uses.get(&watched.number).copied()?;
        let image = Image::read(dir, None).ok()?;
        let mut opened = 0;
        let locked_by = image.files().find_map(|(path, _)| {
            // What has gone, or can't be opened, is in no transfer that this could tell of.
            let file = image.dir().file(path).ok()??;
            let locked_by = file.locked_by();
            drop(file);
            opened += 1;
            if opened % SLICE == 0 {
                watches.take_events();
            }
            locked_by
        });
        watches.take_events();
        if let Some(used) = watches.uses.get_mut(&watched.number)
            && used.events == before.events + 2 * opened
        {
            *used = before;
        }
        locked_by
    }

    /// How many directories are watched.
    pub(crate) fn count(&self) -> usize {
        self.lock().uses.len()
    }

    /// Why something could not be watched, once.
    pub(crate) fn trouble(&self) -> Option<Failure> {
        let mut watches = self.lock();
        let trouble = watches.trouble.take();
        watches.has_told |= trouble.is_some();
        trouble
    }

    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.0.lock().expect("no thread panics here")
    }
}

impl Watched {
    /// Whether no file of the directory was in use for the quiet period, as far as events were taken
    /// in.
    pub(crate) fn is_quiet(&self) -> bool {
        let watches = self.lookout.lock();
        let used = watches.uses.get(&self.number);
        used.is_none_or(|used| used.last.elapsed() >= self.quiet_period)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.lookout.lock().remove(self.number);
    }
}

impl Watches {
    fn add(&mut self, root: &Dir, number: u64) -> Result<(), Failure> {
        let failure = |dir: &Dir, errno| Failure::new("watching", dir.path(), errno);
        let inotify = match &mut self.inotify {
            Some(inotify) => inotify,
            none => {
                let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
                none.insert(inotify::init(flags).map_err(|errno| failure(root, errno))?)
            }
        };
        let flags = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CLOSE | WatchFlags::ONLYDIR;
        let mut folders = VecDeque::from([String::new()]);
        while let Some(folder) = folders.pop_front() {
            let opened;
            let dir = if folder.is_empty() {
                root
            } else {
                opened = root.existing_dir(&folder)?;
                &opened
            };
            let watch = inotify::add_watch(&*inotify, dir.path_of_descriptor(), flags);
            let watch = watch.map_err(|errno| failure(dir, errno))?;
            self.folders.insert(watch, number);
            dir.each(|name, kind| {
                if let (Kind::Dir, Some(name)) = (kind, name.to_str()) {
                    let slash = if folder.is_empty() { "" } else { "/" };
                    folders.push_back(format!("{folder}{slash}{name}"));
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) {
        self.uses.remove(&number);
        if self.uses.is_empty() {
            // All the kernel's watches end with the descriptor.
            *self = Self {
                next: self.next,
                has_told: self.has_told,
                ..Self::default()
            };
            return;
        }
        let Some(inotify) = &self.inotify else { return };
        for (watch, _) in self.folders.extract_if(|_, of| *of == number) {
            // The folder may have gone, and its watch with it.
            let _ = inotify::remove_watch(inotify, watch);
        }
    }

    fn take_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(inotify, &mut buffer);
        let now = Instant::now();
        let note = |used: &mut Use| {
            used.last = now;
            used.events += 1;
        };
        for taken in 0.. {
            if taken > QUEUED && events.is_buffer_empty() {
                return;
            }
            // An error is that there are no more.
            let Ok(event) = events.next() else { return };
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Nobody knows whose events were lost.
                self.uses.values_mut().for_each(note);
                continue;
            }
            if what.intersects(ReadFlags::ISDIR | ReadFlags::IGNORED) {
                continue;
            }
            let number = self.folders.get(&event.wd());
            if let Some(used) = number.and_then(|number| self.uses.get_mut(number)) {
                note(used);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const NEVER: Duration = Duration::from_secs(3_600);

    struct Case {
        lookout: Lookout,
        file: std::path::PathBuf,
        dir: Dir,
        _folder: tempfile::TempDir,
    }

    fn case() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("boot/linux");
        std::fs::create_dir(folder.path().join("boot")).unwrap();
        std::fs::write(&file, "kernel").unwrap();
        Case {
            lookout: Lookout::default(),
            dir: Dir::open(folder.path()).unwrap(),
            file,
            _folder: folder,
        }
    }

    /// When it was used last, as far as is known.
    fn last_use(case: &Case, watched: &Watched) -> Instant {
        case.lookout.look();
        let watches = watched.lookout.lock();
        watches.uses[&watched.number].last
    }

    #[test]
    fn what_nobody_uses_is_quiet_after_the_quiet_period_and_not_before() {
        let case = case();
        let at_once = case.lookout.watch(&case.dir, Duration::ZERO);
        let never = case.lookout.watch(&case.dir, NEVER);
        case.lookout.look();
        assert!(at_once.is_quiet());
        assert!(!never.is_quiet());
    }

    #[test]
    fn to_open_to_read_and_to_close_a_file_is_to_use_it() {
        let case = case();
        let watched = case.lookout.watch(&case.dir, NEVER);
        let begun = last_use(&case, &watched);
        let mut file = std::fs::File::open(&case.file).unwrap();
        let opened = last_use(&case, &watched);
        assert!(opened > begun, "the opening was not seen");
        file.read_exact(&mut [0; 3]).unwrap();
        let read = last_use(&case, &watched);
        assert!(read > opened, "the reading was not seen");
        drop(file);
        let closed = last_use(&case, &watched);
        assert!(closed > read, "the closing was not seen");
        assert_eq!(last_use(&case, &watched), closed);
    }

    #[test]
    fn a_machine_that_comes_while_open_files_are_looked_for_is_seen() {
        const MINUTE: Duration = Duration::from_secs(60);
        let case = case();
        let watched = case.lookout.watch(&case.dir, MINUTE);
        let used = |last| {
            case.lookout
                .lock()
                .uses
                .get_mut(&watched.number)
                .unwrap()
                .last = last
        };
        let read = || drop(std::fs::read(&case.file).unwrap());
        let look = |is_open: &dyn Fn() -> bool| case.lookout.look_closely(&watched, is_open);
        let long_ago = Instant::now().checked_sub(MINUTE).unwrap();

        used(long_ago);
        assert_eq!(look(&|| false), (true, false), "nobody comes");
        assert_eq!(look(&|| true), (false, true), "a file is open");
        let reads = || {
            read();
            false
        };
        assert_eq!(look(&reads), (false, false), "a machine comes");
        assert_eq!(look(&|| panic!("nobody has to ask")), (false, false));
        used(long_ago);
        read();
        assert_eq!(look(&|| panic!("nobody has to ask")), (false, false));
    }

    #[test]
    fn what_is_closed_at_once_by_several_is_quiet_afterwards() {
        let case = case();
        let watched = case.lookout.watch(&case.dir, Duration::ZERO);
        let files = [(); 8].map(|()| {
            let file = std::fs::File::open(&case.file).unwrap();
            case.lookout.look();
            file
        });
        drop(files);
        case.lookout.look();
        assert!(watched.is_quiet());
    }

    #[test]
    fn a_transfer_that_was_under_way_shows_by_its_reading() {
        let case = case();
        let mut file = std::fs::File::open(&case.file).unwrap();
        let watched = case.lookout.watch(&case.dir, Duration::ZERO);
        let begun = last_use(&case, &watched);
        file.read_exact(&mut [0; 3]).unwrap();
        assert!(last_use(&case, &watched) > begun);
    }

    #[test]
    fn to_ask_for_locks_is_no_use_by_a_machine() {
        let case = case();
        let watched = case.lookout.watch(&case.dir, NEVER);
        let begun = last_use(&case, &watched);
        let dir = || case.dir.existing_dir("boot").unwrap();
        assert!(!case.lookout.is_locked(&watched, dir()));
        assert_eq!(last_use(&case, &watched), begun);
        // What a machine did before counts.
        drop(std::fs::File::open(&case.file).unwrap());
        case.lookout.is_locked(&watched, dir());
        assert!(last_use(&case, &watched) > begun);
    }

    #[test]
    fn when_the_kernel_has_lost_events_everything_may_be_in_use() {
        let case = case();
        let watched = case.lookout.watch(&case.dir, Duration::ZERO);
        let other = case.dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let unused = case.lookout.watch(&Dir::open(&other).unwrap(), NEVER);
        let begun = last_use(&case, &unused);
        // More than the kernel's queue holds, and no two in a row are the same.
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        for _ in 0..limit.trim().parse::<u32>().unwrap() {
            drop(std::fs::File::open(&case.file).unwrap());
        }
        assert!(last_use(&case, &unused) > begun);
        drop(watched);
    }

    #[test]
    fn when_nothing_is_watched_nothing_is_left() {
        let case = case();
        let first = case.lookout.watch(&case.dir, NEVER);
        drop(first);
        let watches = case.lookout.lock();
        assert!(watches.inotify.is_none() && watches.folders.is_empty());
    }
}
