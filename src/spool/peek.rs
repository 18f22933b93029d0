//! A look into a drop that stays where it is: its manifest, whether what that lists is there, and
//! whether the drop is whole.
//!
//! A drop that was renamed into `incoming/` says that it is finished. One that is written there in
//! place is whole when it is still: when nothing in it, at any depth, has changed for `spool.settle`,
//! and nobody has a file of it open for writing. What is wrong with a drop counts from then on as
//! well: until then somebody is writing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::clock::Reading;
use super::drop::{Checkable, Peeked, Probe, Ready, SHORTEST_WAIT, Seen, Waits};
use super::manifest::{Listed, MANIFEST, Manifest};
use super::names::check_name;
use super::papers::{self, Found, IMAGE, Papers, unreadable};
use super::stillness::{Motion, Writers, is_being_written};
use crate::fault::{Fault, Rejection, reject};
use crate::settings::Settings;
use crate::sys::{Dir, Failure, Kind, Stat};
use crate::text::quoted;
use crate::words::{Moment, Reason};

/// A writer is asked for more often than every `spool.settle`: that begins when the file is closed.
const LONGEST_WAIT_FOR_WRITER: Duration = Duration::from_secs(1);

/// Looking at a drop takes one in so many parts of the time at most.
const SHARE: u32 = 20;

/// No drop waits for longer than this because a look took long: the process may have been stopped meanwhile.
const LONGEST_SHARE: Duration = Duration::from_secs(30);

/// The mode's bit of a folder that everybody may write into.
const WRITTEN_BY_OTHERS: u32 = 0o002;

/// Names that may be in a drop beside its image, about.
const BESIDE: usize = 200;

/// What looks into drops go by.
pub(super) struct Looker<'a> {
    pub(super) settings: &'a Settings,
    /// Reads the clock of the spool's file system.
    pub(super) clock: &'a dyn Fn() -> Result<Reading, Failure>,
    /// Whether the kernel tells there who writes.
    pub(super) knows_writers: bool,
}

/// What was found in a drop.
enum Inside {
    /// A manifest and all that it lists, or why the drop will never be good.
    Complete(Checkable),
    Lacking(Lack),
}

/// What a drop lacks.
struct Lack {
    /// Why the drop is rejected when it has waited too long.
    rejection: Rejection,
    /// What changes when it comes.
    probe: Probe,
    /// A drop that says that it is finished is not waited for.
    is_final: bool,
}

impl Inside {
    /// Which files may be being written still.
    fn writers(&self) -> Writers {
        match self {
            Self::Complete(Ok(papers)) if papers.are_signed() => Writers::AskedOfTheRest,
            _ => Writers::Asked,
        }
    }
}

/// A drop that is being looked at.
struct Open<'a> {
    dir: &'a Dir,
    stat: Stat,
    began: Instant,
    /// Which of its files may be being written still, where the kernel is asked.
    writers: Writers,
}

/// Whether a drop that is written in place is whole.
enum Stage {
    Whole,
    Waiting,
    /// The drop has waited too long.
    Late(Rejection),
}

impl Looker<'_> {
    /// Looks into a drop in `place`.
    ///
    /// # Errors
    /// The machine's own troubles; what is wrong with the drop is in its [`Ready`].
    pub(super) fn peek(&self, place: &Dir, mut seen: Seen) -> Result<Peeked, Fault> {
        let began = Instant::now();
        let stat = match place.stat(seen.place()) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(Peeked::Gone),
            Err(failure) if is_mounted(&failure) => return Ok(self.wait_for_owner(seen, &failure)),
            Err(failure) => return Err(failure.into()),
        };
        // Somebody may have given it to another user since it was seen.
        seen.owner = stat.owner.uid;
        let papers = match self.look(place, &mut seen, stat, began) {
            Ok(Some(papers)) => papers,
            Ok(None) => return Ok(Peeked::Waits(seen)),
            Err(Fault::Reject(rejection)) => Err(rejection),
            Err(Fault::Owner(failure)) => return Ok(self.wait_for_owner(seen, &failure)),
            Err(fault) => return Err(fault),
        };
        let id = (stat.kind == Kind::Dir).then_some(stat.id);
        Ok(Peeked::Ready(Ready { seen, id, papers }))
    }

    /// The drop's owner keeps it from being looked into: it waits, or has waited too long. One that
    /// is claimed waits for nothing any more.
    fn wait_for_owner(&self, mut seen: Seen, failure: &Failure) -> Peeked {
        let settings = &self.settings.spool;
        if seen.is_incoming() && !seen.is_kept_too_long(settings) {
            seen.wait_for_owner(settings);
            return Peeked::Waits(seen);
        }
        let papers = Err(Rejection::new(Reason::Unreadable, failure.to_string()));
        Peeked::Ready(Ready {
            seen,
            id: None,
            papers,
        })
    }

    /// `None` when the drop has to wait; `seen` says for what, then.
    ///
    /// # Errors
    /// Also what can't become better by waiting: a plain file is no drop and never becomes one.
    fn look(
        &self,
        place: &Dir,
        seen: &mut Seen,
        stat: Stat,
        began: Instant,
    ) -> Result<Option<Checkable>, Fault> {
        if stat.kind != Kind::Dir {
            let detail = format!("expected a folder that holds {MANIFEST} and {IMAGE}/");
            return Err(reject(Reason::NotADirectory, detail));
        }
        check_name(&seen.name)?;
        let dir = &place.existing_dir(seen.place()).map_err(|failure| {
            // What is mounted there may go again. A drop that was renamed says that it is finished.
            let may_change = is_mounted(&failure) || !seen.is_finished();
            if failure.is_by_owner() && may_change {
                return Fault::Owner(failure);
            }
            unreadable(failure)
        })?;
        if let Some(waits) = &mut seen.waits {
            if !waits.is_over(dir, began) {
                waits.next = began + self.pause(&waits.probe);
                return Ok(None);
            }
            // A pause between two files begins when the first one is closed.
            if matches!(waits.probe, Probe::Writer(_)) {
                seen.closed = Some((self.clock)()?.now());
            }
        }
        let inside = inside(dir, &stat, self.settings)?;
        let open = Open {
            dir,
            stat,
            began,
            writers: inside.writers(),
        };
        match inside {
            Inside::Complete(papers) if seen.is_finished() => Ok(Some(papers)),
            Inside::Complete(papers) => Ok(match self.settle(seen, &open)? {
                Stage::Whole => Some(papers),
                Stage::Waiting => {
                    let target = papers.ok().map(|papers| papers.manifest.target);
                    seen.waits
                        .iter_mut()
                        .for_each(|waits| waits.target.clone_from(&target));
                    None
                }
                Stage::Late(rejection) => Some(Err(rejection)),
            }),
            Inside::Lacking(lack) => {
                let is_late = !seen.is_incoming()
                    || (lack.is_final && (seen.is_renamed || self.was_renamed(seen, &open)?));
                if is_late {
                    return Ok(Some(Err(lack.rejection)));
                }
                Ok(self.wait_for(lack, seen, &open)?.map(Err))
            }
        }
    }

    /// How far a drop has come that has all that it is to have, and that nobody says is finished.
    fn settle(&self, seen: &mut Seen, open: &Open<'_>) -> Result<Stage, Fault> {
        let settle = self.settings.spool.settle;
        if settle.is_zero() {
            return self.close(seen, open);
        }
        if self.was_renamed(seen, open)? {
            return Ok(Stage::Whole);
        }
        let mut writers = Writers::NotAsked;
        loop {
            let motion = self.motion(open, writers)?.with_closed(seen.closed);
            if let Some(path) = motion.written {
                return self.wait_for_writer(path, seen, open);
            }
            // A rename in the tick of the last change leaves no trace.
            let may_be_renamed = !seen.is_made && motion.newest_below <= Some(open.stat.changed);
            let completed = if may_be_renamed {
                open.stat.changed
            } else {
                motion.newest.later(settle)
            };
            if motion.age < settle {
                // Somebody who is seen to go on is not waited for by a daemon that runs once.
                let is_settling = seen.was_settling(completed);
                let pause = settle.saturating_sub(motion.age) + Moment::TICK;
                open.wait(seen, Probe::Time, pause, is_settling);
                seen.completed = completed;
                if let Some(waits) = &mut seen.waits {
                    waits.holds_up = may_be_renamed;
                    waits.changed = open.began.checked_sub(motion.age);
                }
                return Ok(Stage::Waiting);
            }
            if writers != Writers::NotAsked || !self.knows_writers {
                seen.is_from_future = motion.is_from_future();
                return Ok(open.whole_since(seen, completed));
            }
            writers = open.writers;
        }
    }

    /// As [`Looker::settle`], where a manifest that was closed says that the drop is finished.
    fn close(&self, seen: &mut Seen, open: &Open<'_>) -> Result<Stage, Fault> {
        let writer = is_being_written(open.dir, Path::new(MANIFEST)).filter(|_| self.knows_writers);
        if writer == Some(true) {
            return self.wait_for_writer(MANIFEST.into(), seen, open);
        }
        let manifest = open.dir.stat(MANIFEST)?.map(|stat| stat.changed);
        let changed = manifest
            .max(Some(open.stat.changed))
            .unwrap_or(open.stat.changed);
        if writer.is_none() && (self.clock)()?.age(changed) < SHORTEST_WAIT {
            let is_settling = seen.was_settling(changed);
            open.wait(seen, Probe::Time, SHORTEST_WAIT, is_settling);
            seen.completed = changed;
            return Ok(Stage::Waiting);
        }
        Ok(open.whole_since(seen, changed))
    }

    fn wait_for_writer(
        &self,
        path: PathBuf,
        seen: &mut Seen,
        open: &Open<'_>,
    ) -> Result<Stage, Fault> {
        let shown = quoted(&path.to_string_lossy());
        let detail = format!("{shown} is open for writing; expected it to be closed");
        let lack = Lack {
            rejection: Rejection::new(Reason::Incomplete, detail),
            probe: Probe::Writer(path),
            is_final: false,
        };
        let late = self.wait_for(lack, seen, open)?;
        Ok(late.map_or(Stage::Waiting, Stage::Late))
    }

    /// Lets a drop wait for what it lacks. Returns why it is rejected when nothing in it has changed
    /// for too long.
    fn wait_for(
        &self,
        lack: Lack,
        seen: &mut Seen,
        open: &Open<'_>,
    ) -> Result<Option<Rejection>, Fault> {
        let timeout = self.settings.spool.incomplete_timeout;
        let before = seen.waits.as_ref().and_then(|waits| waits.overdue);
        let overdue = |age| {
            // Of what was changed before the clock was set back nobody knows the age.
            let known = (age < Duration::MAX).then(|| open.began + timeout.saturating_sub(age));
            known.or(before).unwrap_or(open.began + timeout)
        };
        let reading = (self.clock)()?;
        let mut until = overdue(reading.age(open.stat.changed));
        // What is in the folder may have changed later, but a walk is worth its while only when the
        // folder itself hasn't changed for so long.
        if until <= open.began {
            let motion = self.motion(open, Writers::NotAsked)?;
            until = overdue(motion.age);
            if until <= open.began {
                seen.completed = motion.newest.later(timeout);
                return Ok(Some(lack.rejection));
            }
        }
        let pause = self.pause(&lack.probe);
        open.wait(seen, lack.probe, pause, false);
        if let Some(waits) = &mut seen.waits {
            let mut lacks = lack.rejection.detail.split("; expected");
            waits.target = lack.rejection.target.map(|target| *target);
            waits.lacks = lacks.next().unwrap_or_default().into();
            waits.next = waits.next.min(until);
            waits.overdue = Some(until);
        }
        Ok(None)
    }

    /// How often a drop is looked at that lacks something.
    fn pause(&self, probe: &Probe) -> Duration {
        let settle = self.settings.spool.settle.max(SHORTEST_WAIT);
        match probe {
            Probe::Writer(_) => settle.min(LONGEST_WAIT_FOR_WRITER),
            Probe::Time | Probe::Changed(..) | Probe::Owner => settle,
        }
    }

    fn motion(&self, open: &Open<'_>, writers: Writers) -> Result<Motion, Fault> {
        self.motion_by(Some((self.clock)()?), open, writers)
    }

    fn motion_by(
        &self,
        clock: Option<Reading>,
        open: &Open<'_>,
        writers: Writers,
    ) -> Result<Motion, Fault> {
        let max = self.settings.limits.max_files.saturating_add(BESIDE);
        Motion::of(open.dir, max, writers, clock).map_err(unreadable)
    }

    /// Whether a drop of which no event told was renamed into `incoming/`.
    ///
    /// A rename changes a folder's inode, yet not what the folder holds, nor what is in that. Tools
    /// that restore times leave the same pattern, but times from before the folder was made.
    fn was_renamed(&self, seen: &Seen, open: &Open<'_>) -> Result<bool, Fault> {
        let Stat {
            changed, modified, ..
        } = open.stat;
        let is_likely = !seen.is_made && self.knows_writers && changed > modified;
        if !is_likely || open.dir.born().is_none_or(|born| modified < born) {
            return Ok(false);
        }
        // To read the clock changes something on the disk, and no age is asked for.
        let motion = self.motion_by(None, open, open.writers)?;
        let is_written = motion.written.is_some() || motion.is_unsure || motion.is_going_on;
        Ok(!is_written && motion.newest_below < Some(changed))
    }
}

impl Open<'_> {
    /// The drop is whole, since that moment. If that was not known, some of its importer's others may
    /// have become so before: it is looked at once more, when it is its turn.
    fn whole_since(&self, seen: &mut Seen, completed: Moment) -> Stage {
        if seen.completed == completed {
            return Stage::Whole;
        }
        seen.completed = completed;
        self.wait(seen, Probe::Time, Duration::ZERO, true);
        if let Some(waits) = &mut seen.waits {
            (waits.next, waits.holds_up) = (self.began, true);
        }
        Stage::Waiting
    }

    /// Lets the drop wait; it is looked at again after `pause`, or later where looks take long.
    fn wait(&self, seen: &mut Seen, probe: Probe, pause: Duration, is_settling: bool) {
        seen.is_renamed = false;
        seen.waits = Some(Waits {
            next: self.began + pause.max((self.began.elapsed() * SHARE).min(LONGEST_SHARE)),
            overdue: None,
            probe,
            is_settling,
            holds_up: false,
            lacks: "".into(),
            changed: None,
            target: None,
        });
    }
}

impl Waits {
    /// Whether there is a reason to look into the drop again.
    fn is_over(&self, drop: &Dir, now: Instant) -> bool {
        let is_overdue = self.overdue.is_some_and(|overdue| overdue <= now);
        is_overdue
            || match &self.probe {
                Probe::Time | Probe::Owner => true,
                Probe::Changed(path, mark) => Probe::mark(drop, path) != *mark,
                Probe::Writer(path) => is_being_written(drop, path) != Some(true),
            }
    }
}

impl Probe {
    /// Changes when something comes to the name `path` in a drop, or to the last folder on the way
    /// there that there is.
    fn below(drop: &Dir, path: &Path) -> Self {
        let mut ways = path.ancestors();
        let is_there = |way: &&Path| Self::mark(drop, way).is_some();
        let way = ways.find(is_there).unwrap_or(Path::new(""));
        Self::Changed(way.to_path_buf(), Self::mark(drop, way))
    }

    fn mark(drop: &Dir, path: &Path) -> Option<((u64, u64), Moment)> {
        let stat = if path.as_os_str().is_empty() {
            drop.stat_self().ok()
        } else {
            drop.stat(path).ok().flatten()
        };
        stat.map(|stat| (stat.id, stat.changed))
    }
}

/// What is in a drop whose folder is `stat`.
fn inside(dir: &Dir, stat: &Stat, settings: &Settings) -> Result<Inside, Fault> {
    let uid = stat.owner.uid;
    let papers = match papers::read(dir, uid, settings) {
        Ok(Found::All(papers)) => papers,
        Ok(Found::Lacking(name, rejection)) => {
            return Ok(Inside::Lacking(Lack {
                rejection,
                probe: Probe::below(dir, Path::new(name)),
                is_final: name != MANIFEST,
            }));
        }
        Err(Fault::Reject(rejection)) => return Ok(Inside::Complete(Err(rejection))),
        Err(fault) => return Err(fault),
    };
    if let Some(lack) = lacking(dir, &papers) {
        return Ok(Inside::Lacking(lack));
    }
    // A tool may give the folder its mode at last.
    if stat.mode & WRITTEN_BY_OTHERS != 0 {
        let detail =
            "everybody may write into the drop's folder; expected only its owner: chmod o-w";
        let rejection = Rejection::new(Reason::UnsafeFile, detail);
        let rejection = rejection.of(papers.manifest.target);
        return Ok(Inside::Complete(Err(rejection)));
    }
    Ok(Inside::Complete(Ok(papers)))
}

/// What a drop lacks of what its papers list.
fn lacking(dir: &Dir, papers: &Papers) -> Option<Lack> {
    let listed = papers
        .manifests()
        .flat_map(|(paper, Manifest { files, .. })| {
            let files = files.iter().flatten();
            files.map(move |(path, listed)| (paper, path, listed))
        });
    for (paper, path, listed) in listed {
        let in_drop = Path::new(IMAGE).join(path);
        // What can't be looked at is taken to be there: to open it says what is wrong with it.
        let Ok(found) = dir.stat(&in_drop) else {
            continue;
        };
        let detail = match (found, listed) {
            (None, _) => format!("{} is not there; {paper} lists it", quoted(path)),
            (
                Some(stat),
                Listed::File {
                    size: Some(size), ..
                },
            ) if stat.kind == Kind::File && stat.size < *size => {
                let (path, is) = (quoted(path), stat.size);
                format!("{path} has {is} bytes; {paper} lists {size}")
            }
            _ => continue,
        };
        let rejection = Rejection::new(Reason::Incomplete, detail);
        return Some(Lack {
            probe: Probe::below(dir, &in_drop),
            rejection: rejection.of(papers.manifest.target.clone()),
            is_final: true,
        });
    }
    None
}

/// Whether another file system is mounted at what was looked at.
pub(super) fn is_mounted(failure: &Failure) -> bool {
    failure.errno() == Some(Errno::XDEV)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::spool::names::DropKey;
    use crate::words::ClaimId;

    const TARGET: &str = "format = 1\narch = \"a\"\nrelease = \"r\"\npurpose = \"p\"\n";
    const SETTLE: Duration = Duration::from_secs(100);
    const TIMEOUT: Duration = Duration::from_secs(1_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// A folder with drops in it.
    struct World {
        folder: tempfile::TempDir,
        incoming: Dir,
        settings: Settings,
        knows_writers: bool,
    }

    /// What a look has come to.
    #[derive(Debug, PartialEq, Eq)]
    enum Shown {
        Whole,
        Rejected(String),
        /// For about so many seconds: to ten, however long the test itself takes.
        Waits(u64),
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = Settings::default();
            settings.spool.settle = SETTLE;
            settings.spool.incomplete_timeout = TIMEOUT;
            Self {
                incoming: Dir::open(folder.path()).unwrap(),
                folder,
                settings,
                knows_writers: true,
            }
        }

        /// A drop with this manifest that is written in place.
        fn with(manifest: &str) -> Self {
            let world = Self::new();
            fs::create_dir_all(world.at("image/sub")).unwrap();
            fs::write(world.at("manifest.toml"), manifest).unwrap();
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join("drop").join(path)
        }

        fn seen(&self, arrival: Option<u64>) -> Seen {
            let stat = self.incoming.stat("drop").unwrap().unwrap();
            let key = DropKey {
                owner: stat.owner.uid,
                claim_name: "drop".into(),
            };
            Seen::incoming("drop".as_ref(), key, &stat, arrival)
        }

        /// A look, so long after now by the clock of the file system.
        fn peek(&self, seen: Seen, after: Duration) -> Peeked {
            let own = self.folder.path().join(".own");
            let _ = fs::create_dir(&own);
            let own = Dir::open(&own).unwrap();
            let looker = Looker {
                settings: &self.settings,
                clock: &|| Ok(Reading::for_test(own.now()?.later(after))),
                knows_writers: self.knows_writers,
            };
            looker.peek(&self.incoming, seen).unwrap()
        }

        fn look(&self, seen: Seen, after: Duration) -> Shown {
            let mut shown = self.peek(seen, after);
            if let Peeked::Waits(seen) = &shown
                && seen.waits.as_ref().unwrap().next <= Instant::now()
            {
                // It has found its place among others, and is looked at once more.
                assert!(seen.holds_up());
                shown = self.peek(seen.clone(), after);
            }
            match shown {
                Peeked::Ready(ready) => match ready.papers {
                    Ok(_) => Shown::Whole,
                    Err(rejection) => Shown::Rejected(rejection.to_string()),
                },
                Peeked::Waits(seen) => {
                    let next = seen.waits.unwrap().next - Instant::now();
                    Shown::Waits((next.as_secs() + 5) / 10 * 10)
                }
                Peeked::Gone => panic!("the drop is there"),
            }
        }

        /// A look at a drop that was made in place.
        fn in_place(&self, after: Duration) -> Shown {
            let mut seen = self.seen(None);
            seen.is_made = true;
            self.look(seen, after)
        }

        fn renamed(&self) -> Shown {
            self.look(self.seen(Some(7)), Duration::ZERO)
        }
    }

    fn listing(size: &str) -> String {
        let sha256 = "0".repeat(64);
        format!("{TARGET}[files]\n\"sub/linux\" = {{ sha256 = \"{sha256}\"{size} }}\n")
    }

    #[test]
    fn a_renamed_drop_is_whole_at_once_and_one_in_place_when_it_is_still() {
        let world = World::with(TARGET);
        assert_eq!(world.renamed(), Shown::Whole);
        assert_eq!(world.in_place(Duration::ZERO), Shown::Waits(100));
        assert_eq!(world.in_place(SECOND * 90), Shown::Waits(10));
        assert_eq!(world.in_place(SETTLE), Shown::Whole);
    }

    #[test]
    fn a_drop_settles_until_somebody_is_seen_to_go_on_with_it_however_often_it_is_looked_at() {
        for settle in [SETTLE, Duration::ZERO] {
            let mut world = World::with(TARGET);
            world.knows_writers = false;
            world.settings.spool.settle = settle;
            let look = |seen: Seen| match world.peek(seen, Duration::ZERO) {
                Peeked::Waits(seen) => seen,
                peeked => panic!("{peeked:?}"),
            };
            let mut seen = world.seen(None);
            seen.is_made = true;
            let again = look(look(seen));
            assert!(again.is_settling());
            let before = world.incoming.now().unwrap();
            while world.incoming.now().unwrap() <= before.later(Moment::TICK) {}
            fs::write(world.at("manifest.toml"), TARGET).unwrap();
            assert!(!look(again).is_settling());
        }
    }

    #[test]
    fn a_change_at_any_depth_counts_and_a_file_that_is_open_for_writing() {
        let world = World::with(TARGET);
        let file = File::create(world.at("image/sub/linux")).unwrap();
        assert_eq!(world.in_place(SETTLE), Shown::Waits(0), "open for writing");
        assert_eq!(
            world.renamed(),
            Shown::Whole,
            "its importer says that it is finished"
        );
        let late = "incomplete: `image/sub/linux` is open for writing; expected it to be closed";
        assert_eq!(world.in_place(TIMEOUT), Shown::Rejected(late.to_string()));
        drop(file);
        assert_eq!(world.in_place(SETTLE), Shown::Whole);
        let reader = File::open(world.at("image/sub/linux")).unwrap();
        assert_eq!(world.in_place(SETTLE), Shown::Whole, "it is only read");
        drop(reader);

        for path in [
            "image/sub/linux",
            "image/sub/new",
            "manifest.toml",
            ".litter",
        ] {
            let before = world.incoming.now().unwrap();
            fs::write(world.at(path), "x").unwrap();
            let drop = world.incoming.existing_dir("drop").unwrap();
            let clock = Reading::for_test(before.later(SETTLE));
            let motion = Motion::of(&drop, usize::MAX, Writers::NotAsked, Some(clock)).unwrap();
            assert!(motion.newest >= before, "{path}");
            assert!(motion.age <= SETTLE, "{path}");
        }
    }

    #[test]
    fn a_drop_is_still_from_when_a_file_was_closed_that_was_open_for_long() {
        let world = World::with(TARGET);
        let file = File::create(world.at("image/sub/linux")).unwrap();
        let mut seen = world.seen(None);
        seen.is_made = true;
        let Peeked::Waits(seen) = world.peek(seen, SETTLE) else {
            panic!("it is open for writing");
        };
        drop(file);
        // As long after the last change as after the close.
        let mut later = seen.clone();
        later.closed = Some(world.incoming.now().unwrap().later(SETTLE));
        later.waits.as_mut().unwrap().probe = Probe::Time;
        assert_eq!(world.look(seen, SETTLE), Shown::Waits(100));
        assert_eq!(
            world.look(later.clone(), SETTLE + SETTLE / 2),
            Shown::Waits(50)
        );
        assert_eq!(world.look(later, 2 * SETTLE), Shown::Whole);
    }

    #[test]
    fn where_nobody_can_be_asked_stillness_alone_decides() {
        let mut world = World::with(TARGET);
        world.knows_writers = false;
        let _file = File::create(world.at("image/linux")).unwrap();
        assert_eq!(world.in_place(SECOND * 90), Shown::Waits(10));
        assert_eq!(world.in_place(SETTLE), Shown::Whole);
    }

    #[test]
    fn with_no_settling_a_closed_manifest_makes_a_drop_whole() {
        let mut world = World::with(TARGET);
        world.settings.spool.settle = Duration::ZERO;
        let _image = File::create(world.at("image/linux")).unwrap();
        assert_eq!(world.in_place(Duration::ZERO), Shown::Whole);
        let manifest = File::options().append(true).open(world.at("manifest.toml"));
        assert_eq!(world.in_place(Duration::ZERO), Shown::Waits(0));
        world.knows_writers = false;
        assert_eq!(world.in_place(SECOND), Shown::Whole);
        assert_eq!(world.in_place(Duration::ZERO), Shown::Waits(0));
        drop(manifest);
    }

    #[test]
    fn what_is_lacking_is_waited_for_unless_somebody_says_that_the_drop_is_finished() {
        for (manifest, bytes, said) in [
            (
                listing(""),
                None,
                "`sub/linux` is not there; the manifest lists it",
            ),
            (
                listing(", size = 5"),
                Some("four"),
                "`sub/linux` has 4 bytes; the manifest lists 5",
            ),
        ] {
            let world = World::with(&manifest);
            if let Some(bytes) = bytes {
                fs::write(world.at("image/sub/linux"), bytes).unwrap();
            }
            let late = || Shown::Rejected(format!("incomplete: {said}"));
            assert_eq!(world.renamed(), late());
            assert_eq!(world.in_place(SETTLE), Shown::Waits(100));
            assert_eq!(world.in_place(SECOND * 999), Shown::Waits(0));
            assert_eq!(world.in_place(TIMEOUT), late());
            fs::write(world.at("image/sub/linux"), "fives").unwrap();
            assert_eq!(world.renamed(), Shown::Whole);
            assert_eq!(world.in_place(SETTLE), Shown::Whole);
        }
    }

    #[test]
    fn a_manifest_is_waited_for_in_any_drop_that_is_not_claimed() {
        let world = World::with(TARGET);
        fs::remove_file(world.at("manifest.toml")).unwrap();
        let said = "incomplete: no manifest.toml; expected it to be put in last";
        assert_eq!(world.renamed(), Shown::Waits(100));
        assert_eq!(world.in_place(SETTLE), Shown::Waits(100));
        assert_eq!(world.in_place(TIMEOUT), Shown::Rejected(said.to_string()));

        let claim = ClaimId::new(1, 2);
        let drop = world.folder.path().join("drop");
        fs::rename(drop, world.folder.path().join(format!("{claim}.drop"))).unwrap();
        let seen = Seen::claimed(claim, "drop".into(), 0, world.incoming.now().unwrap());
        let shown = world.look(seen, Duration::ZERO);
        assert_eq!(shown, Shown::Rejected(said.to_string()));
    }

    #[test]
    fn what_is_wrong_with_a_drop_that_is_still_written_may_become_right() {
        let world = World::with("format = ");
        assert!(matches!(world.renamed(), Shown::Rejected(_)));
        assert_eq!(world.in_place(SECOND), Shown::Waits(100));
        assert!(matches!(world.in_place(SETTLE), Shown::Rejected(_)));
    }

    #[test]
    fn a_drop_that_waits_is_looked_into_again_when_what_it_waits_for_has_come() {
        let world = World::with(&listing(", size = 4"));
        let wait = |seen| match world.peek(seen, Duration::ZERO) {
            Peeked::Waits(seen) => seen,
            other => panic!("{other:?}"),
        };
        let probe = |seen: &Seen| seen.waits.clone().unwrap().probe;
        let first = wait(world.seen(None));
        assert!(matches!(probe(&first), Probe::Changed(path, _) if path == Path::new("image/sub")));
        // Something else has come: nobody looks.
        fs::write(world.at("image/other"), "x").unwrap();
        let same = wait(first.clone());
        assert_eq!(probe(&same), probe(&first));
        fs::write(world.at("image/sub/linux"), "fo").unwrap();
        let short = wait(same);
        let path = Path::new("image/sub/linux");
        assert!(matches!(probe(&short), Probe::Changed(at, _) if at == path));
        fs::write(world.at("image/sub/linux"), "four").unwrap();
        assert_eq!(probe(&wait(short)), Probe::Time, "it has all that it lists");
    }

    #[test]
    fn a_folder_whose_mode_changes_while_it_is_written_was_not_renamed() {
        let world = World::with(TARGET);
        let made = world.incoming.now().unwrap();
        while world.incoming.now().unwrap() <= made.later(Moment::TICK) {}
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o770);
        fs::set_permissions(world.at(""), mode).unwrap();
        assert_eq!(world.in_place(Duration::ZERO), Shown::Waits(100));
        let without_event = world.look(world.seen(None), Duration::ZERO);
        assert_eq!(without_event, Shown::Whole, "nobody can tell");
    }

    #[test]
    fn a_rename_without_an_event_shows_by_the_times_that_it_leaves() {
        let world = World::new();
        let build = |name: &str| {
            fs::create_dir_all(world.folder.path().join(name).join("image")).unwrap();
            fs::write(world.folder.path().join(name).join("manifest.toml"), TARGET).unwrap();
        };
        let look = || world.look(world.seen(None), Duration::ZERO);
        let tick =
            |since: Moment| while world.incoming.now().unwrap() <= since.later(Moment::TICK) {};
        let again = |change: &dyn Fn()| {
            let _ = fs::remove_dir_all(world.at(""));
            build(".new");
            tick(world.incoming.now().unwrap());
            fs::rename(world.folder.path().join(".new"), world.at("")).unwrap();
            change();
        };
        again(&|| {});
        assert_eq!(look(), Shown::Whole);
        let manifest = File::options().append(true).open(world.at("manifest.toml"));
        assert_eq!(look(), Shown::Waits(100), "it is open for writing");
        drop(manifest);
        again(&|| {
            tick(world.incoming.now().unwrap());
            symlink("x", world.at("image/link")).unwrap();
        });
        assert_eq!(look(), Shown::Waits(100), "written since");
        // As tools leave it that restore the time of a folder, before they write into it.
        again(&|| {});
        let long_ago = std::time::SystemTime::UNIX_EPOCH + SECOND;
        File::open(world.at(""))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        assert_eq!(look(), Shown::Waits(100), "older than the folder is");
    }

    #[test]
    fn a_drop_waits_in_vain_only_when_nothing_in_it_has_changed_for_so_long() {
        let world = World::with(TARGET);
        fs::remove_file(world.at("manifest.toml")).unwrap();
        let changed = world.incoming.stat("drop").unwrap().unwrap().changed;
        while world.incoming.now().unwrap() <= changed.later(Moment::TICK) {}
        fs::write(world.at("image/sub/linux"), "x").unwrap();
        let look = |now: Moment, seen| {
            let looker = Looker {
                settings: &world.settings,
                clock: &|| Ok(Reading::for_test(now)),
                knows_writers: true,
            };
            looker.peek(&world.incoming, seen).unwrap()
        };
        let peeked = look(changed.later(TIMEOUT), world.seen(None));
        assert!(matches!(peeked, Peeked::Waits(_)), "{peeked:?}");
        let late = world.incoming.now().unwrap().later(TIMEOUT);
        let peeked = look(late, world.seen(None));
        assert!(matches!(peeked, Peeked::Ready(_)), "{peeked:?}");

        // Of what lies in the future nobody knows the age: the first look counts.
        let past = Moment::from_stat(1, 0);
        let Peeked::Waits(mut seen) = look(past, world.seen(None)) else {
            panic!("it has just been seen");
        };
        seen.waits.as_mut().unwrap().overdue = Some(Instant::now());
        let peeked = look(past, seen);
        assert!(matches!(peeked, Peeked::Ready(_)), "{peeked:?}");
    }

    #[test]
    fn a_change_in_the_tick_of_what_may_be_a_rename_is_no_sign_of_one() {
        let world = World::with(TARGET);
        let modified = world.incoming.stat("drop").unwrap().unwrap().modified;
        while world.incoming.now().unwrap() <= modified.later(Moment::TICK) {}
        fs::write(world.at("image/sub/linux"), "x").unwrap();
        let dir = &world.incoming.existing_dir("drop").unwrap();
        let newest = dir.stat("image/sub/linux").unwrap().unwrap();
        let looker = Looker {
            settings: &world.settings,
            clock: &|| Ok(Reading::for_test(world.incoming.now()?)),
            knows_writers: true,
        };
        let was_renamed = |changed: Moment| {
            let stat = Stat {
                changed,
                ..dir.stat_self().unwrap()
            };
            let began = Instant::now();
            let open = Open {
                dir,
                stat,
                began,
                writers: Writers::Asked,
            };
            looker.was_renamed(&world.seen(None), &open).unwrap()
        };
        assert!(!was_renamed(newest.changed));
        assert!(was_renamed(newest.changed.later(Duration::from_micros(1))));
    }
}
