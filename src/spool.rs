//! The spool: where drops come in, and where what became of them is written down.
//!
//! ```text
//! incoming/<drop>/        importers write here
//! processing/<drop>/      claimed
//! rejected/<drop>/        whole, beside its outcome
//! outcomes/<drop>.json    one for a drop
//! ```
//! A drop comes in as [`Seen`], and goes on as [`Ready`] and [`Claimed`]; that one is settled or
//! rejected. Each is made of the one before.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::account::Importer;
use crate::digest::Digest;
use crate::dir::{self, Dir, Kind, Stat};
use crate::excerpt::quoted;
use crate::failpoint;
use crate::fault::{Failure, Fault, Reason, StartError};
use crate::manifest::{self, Manifest};
use crate::moment::Moment;
use crate::outcome::{Outcome, Verdict};
use crate::settings::SpoolSettings;

/// The folder of a drop that holds the image.
pub const IMAGE: &str = "image";

/// The folders of a spool.
pub const INCOMING: &str = "incoming";
pub const PROCESSING: &str = "processing";
pub const REJECTED: &str = "rejected";
pub const OUTCOMES: &str = "outcomes";

/// Room for the endings that are put to a drop's name.
const MAX_NAME: usize = 200;

/// A manifest that was written in place is complete once it was closed. Where no event told of
/// that, it is taken for complete when nothing changed it for this long.
const SETTLED: Duration = Duration::from_secs(1);

/// The open spool; locked against other daemons.
#[derive(Debug)]
pub struct Spool {
    settings: SpoolSettings,
    root: Dir,
    incoming: Dir,
    processing: Dir,
    rejected: Dir,
    outcomes: Dir,
    next: AtomicU64,
}

/// Drops of which an event said that they are complete, each with its place in their order.
pub type Arrivals = HashMap<OsString, u64>;

/// A name in `incoming/` or `processing/` that is to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: OsString,
    /// Its name in `processing/`.
    entry: String,
    /// When it became complete: what drops are ordered by.
    pub completed: Moment,
    /// Breaks ties: the clock of a file system is coarse.
    arrival: u64,
    place: Place,
    /// It was incomplete for too long.
    is_overdue: bool,
}

/// Begins the name in `processing/` of a drop that is being removed; no drop's name begins so.
const REMOVED: &str = ".";

/// Begins the name in `processing/` and `rejected/` of a drop whose own name is not fit for one.
const BAD_NAME: &str = "bad-name-";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Claimed before the daemon started: older than whatever is incoming.
    Processing,
    Incoming,
}

/// What a look at `incoming/` has shown.
#[derive(Debug, Default)]
pub struct Scan {
    /// In the order in which they became complete.
    pub complete: Vec<Seen>,
    /// Drops that somebody is still writing.
    pub incomplete: Vec<OsString>,
    /// When the first of those that may be complete already will be taken for complete.
    pub settles: Option<Moment>,
    /// When the first of the others will have been incomplete for too long.
    pub overdue: Option<Moment>,
}

/// What a drop holds, as far as its manifest says.
#[derive(Debug)]
pub enum Peeked {
    Ready(Ready),
    /// Not every file that the manifest lists is there: it waits.
    Incomplete,
    /// Its importer has taken it away.
    Gone,
}

/// A drop whose manifest was read, or can't be.
#[derive(Debug)]
pub struct Ready {
    pub seen: Seen,
    /// `None` when it is no directory.
    id: Option<(u64, u64)>,
    pub manifest: Result<Manifest, (Reason, String)>,
}

/// A drop that is the daemon's.
#[derive(Debug)]
pub struct Claimed {
    /// As outcomes and logs show it.
    pub name: String,
    /// Where it is in `processing/`, which is another name only when `name` is none for a file.
    entry: String,
    pub importer: Importer,
    pub received_at: Moment,
    /// When it became the daemon's; a generation made of it is younger.
    pub claimed_at: Moment,
    pub manifest: Result<Manifest, (Reason, String)>,
}

impl Spool {
    /// Opens the spool, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock.
    pub fn open(settings: &SpoolSettings) -> Result<Self, StartError> {
        let root = Dir::open_or_make(&settings.path)?;
        let processing = root.dir_or_make(PROCESSING, 0o700)?;
        if !processing.lock()? {
            return Err(StartError::InUse(settings.path.clone()));
        }
        Ok(Self {
            settings: settings.clone(),
            incoming: root.dir_or_make(INCOMING, 0o755)?,
            rejected: root.dir_or_make(REJECTED, 0o755)?,
            outcomes: root.dir_or_make(OUTCOMES, 0o755)?,
            next: AtomicU64::new(0),
            root,
            processing,
        })
    }

    /// Drops that were claimed by a daemon that did not finish them, in the order in which it
    /// claimed them. Finishes the removal of those that were done with.
    pub fn claimed_before(&self) -> Result<Vec<Seen>, Failure> {
        let mut seen = Vec::new();
        for (name, _) in self.processing.names()? {
            if name.as_bytes().starts_with(REMOVED.as_bytes()) {
                // What can't be removed still is no reason not to start.
                let _ = self.processing.remove_tree(&name);
                continue;
            }
            let Some(stat) = self.processing.stat(&name)? else {
                continue;
            };
            let (place, completed) = (Place::Processing, stat.changed);
            let entry = name.to_string_lossy().to_string();
            seen.push(Seen {
                name,
                entry,
                completed,
                arrival: u64::MAX,
                place,
                is_overdue: false,
            });
        }
        seen.sort_by(in_order);
        Ok(seen)
    }

    /// Looks at everything in `incoming/`.
    ///
    /// # Errors
    /// Also when `incoming/` is not the folder any more that it was at the start: what is dropped
    /// there would never be seen.
    pub fn scan(&self, arrivals: &Arrivals) -> Result<Scan, Failure> {
        let now = Moment::now();
        let mut scan = Scan::default();
        let mut first_unsettled = None;
        let is_itself = self.root.stat(INCOMING)?.map(|stat| stat.id);
        if is_itself != Some(self.incoming.stat_self()?.id) {
            return Err(Failure::new(
                "looking for drops in",
                self.incoming.path(),
                Errno::STALE,
            ));
        }
        for (name, kind) in self.incoming.names()? {
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let arrival = arrivals.get(&name).copied();
            let mut seen = |completed, is_overdue| {
                let arrival = arrival.unwrap_or(u64::MAX);
                let (name, entry, place) = (name.clone(), entry_for(&name), Place::Incoming);
                scan.complete.push(Seen {
                    name,
                    entry,
                    completed,
                    arrival,
                    place,
                    is_overdue,
                });
            };
            if kind != Kind::Dir {
                seen(now, false);
                continue;
            }
            match self.completion(&name, arrival.is_some()) {
                Completion::At(moment) => seen(moment, false),
                Completion::Settles { since } => {
                    first_unsettled = earliest(first_unsettled, since);
                    scan.incomplete.push(name);
                }
                Completion::Since(moment) => {
                    let overdue = moment.later(self.settings.incomplete_timeout);
                    if overdue <= now {
                        seen(now, true);
                    } else {
                        scan.overdue = earliest(scan.overdue, overdue);
                        scan.incomplete.push(name);
                    }
                }
                Completion::Gone => {}
            }
        }
        if let Some(since) = first_unsettled {
            // It may be complete already, and for the same target: what came later waits with it.
            scan.settles = Some(since.later(SETTLED));
            scan.complete.retain(|seen| seen.completed < since);
        }
        scan.complete.sort_by(in_order);
        Ok(scan)
    }

    /// Reads the manifest of a drop, which stays where it is.
    pub fn peek(&self, seen: Seen) -> Result<Peeked, Failure> {
        let ready = |seen, id, manifest| Ok(Peeked::Ready(Ready { seen, id, manifest }));
        let reject = |seen, id, reason, detail| ready(seen, id, Err((reason, detail)));
        let place = self.place(seen.place);
        let Some(stat) = place.stat(&seen.name)? else {
            return Ok(Peeked::Gone);
        };
        if stat.kind != Kind::Dir {
            let detail = format!(
                "expected a folder that holds {} and {IMAGE}/",
                manifest::FILE
            );
            return reject(seen, None, Reason::NotADirectory, detail);
        }
        let id = Some(stat.id);
        if let Err(detail) = plain_name(&seen.name) {
            return reject(seen, id, Reason::BadName, detail);
        }
        let dir = match place.dir(&seen.name) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(Peeked::Gone),
            Err(failure) => return reject(seen, id, Reason::Unreadable, failure.to_string()),
        };
        let manifest = match read_manifest(&dir, stat.uid) {
            Ok(Some(manifest)) => manifest,
            Ok(None) if seen.is_incoming() && !seen.is_overdue => return Ok(Peeked::Incomplete),
            Ok(None) => {
                let detail = format!("no {}; expected it to be put in last", manifest::FILE);
                return reject(seen, id, Reason::Incomplete, detail);
            }
            Err(refused) => return ready(seen, id, Err(refused)),
        };
        if let Some(missing) = first_missing(&dir, &manifest) {
            if seen.is_incoming() && !self.is_overdue(&stat) {
                return Ok(Peeked::Incomplete);
            }
            let detail = format!("{} is not there; the manifest lists it", quoted(missing));
            return reject(seen, id, Reason::Incomplete, detail);
        }
        ready(seen, id, Ok(manifest))
    }

    /// Makes a drop the daemon's, by a rename. `None` when its importer has taken it away.
    pub fn claim(&self, ready: Ready) -> Result<Option<Claimed>, Failure> {
        let Ready {
            seen,
            id,
            mut manifest,
        } = ready;
        failpoint::at("claim").map_err(|e| Failure::new("claiming", &seen.name, e))?;
        let is_incoming = seen.is_incoming();
        let Seen {
            name,
            entry,
            completed,
            ..
        } = seen;
        if is_incoming {
            match self.incoming.rename_new(&name, &self.processing, &entry) {
                Ok(true) => {}
                Ok(false) => {
                    let path = self.processing.path().join(&entry);
                    return Err(Failure::new("claiming a drop to", path, Errno::EXIST));
                }
                Err(failure) if failure.source.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            }
        }
        let Some(stat) = self.processing.stat(&entry)? else {
            return Ok(None);
        };
        if id.is_some_and(|id| id != stat.id) {
            let detail = "the drop was replaced while it was claimed".to_string();
            manifest = Err((Reason::Changed, detail));
        }
        Ok(Some(Claimed {
            name: name.to_string_lossy().escape_debug().collect(),
            entry,
            importer: Importer::of(stat.uid),
            received_at: completed,
            claimed_at: stat.changed,
            manifest,
        }))
    }

    /// Opens the image of a claimed drop.
    ///
    /// # Errors
    /// [`Fault::Reject`] when there is none, or something else is in the drop.
    pub fn image(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let drop = self.processing.existing_dir(&claimed.entry)?;
        for (name, _) in drop.names()? {
            // A name with a dot is an editor's or an NFS server's.
            let is_expected =
                name == manifest::FILE || name == IMAGE || name.as_bytes().starts_with(b".");
            if !is_expected {
                let detail = format!(
                    "{}; expected nothing but {} and {IMAGE}/ in a drop",
                    quoted(&name.to_string_lossy()),
                    manifest::FILE
                );
                return Err(Fault::Reject(Reason::UnexpectedFile, detail));
            }
        }
        let missing = || {
            let detail =
                format!("no {IMAGE}/; expected a folder that holds what is to be published");
            Fault::Reject(Reason::EmptyImage, detail)
        };
        match drop.dir(IMAGE) {
            Ok(dir) => dir.ok_or_else(missing),
            Err(failure) => match Errno::from_io_error(&failure.source) {
                Some(Errno::ACCESS) => Err(Fault::Reject(Reason::Unreadable, failure.to_string())),
                Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                    let detail = format!("{failure}; expected {IMAGE} to be a folder of the drop");
                    Err(Fault::Reject(Reason::UnsafeFile, detail))
                }
                _ => Err(Fault::Retry(failure)),
            },
        }
    }

    /// Writes the outcome of a drop, in place of one of an earlier drop of this name; also where a
    /// rejected one will be kept.
    pub fn write_outcome(&self, claimed: &Claimed, outcome: &Outcome) -> Result<(), Failure> {
        failpoint::at("outcome").map_err(|e| Failure::new("writing", self.outcomes.path(), e))?;
        let name = format!("{}.json", claimed.entry);
        let text = outcome.to_json();
        self.outcomes
            .replace(&name, &self.temporary(), text.as_bytes())?;
        if outcome.outcome == Verdict::Rejected {
            failpoint::at("reject")
                .map_err(|e| Failure::new("rejecting", self.rejected.path(), e))?;
            self.make_room(&claimed.entry, &name)?;
            self.rejected
                .replace(&name, &self.temporary(), text.as_bytes())?;
        }
        Ok(())
    }

    /// Makes the outcomes, and before that all that happened in the spool, durable.
    pub fn sync(&self) -> Result<(), Failure> {
        failpoint::at("spool-sync").map_err(|e| Failure::new("syncing", self.root.path(), e))?;
        self.root.sync_file_system()
    }

    /// Whether drops are on the same file system as what `stat` is of.
    pub fn is_on(&self, stat: &Stat) -> bool {
        self.processing
            .stat_self()
            .is_ok_and(|spool| spool.id.0 == stat.id.0)
    }

    /// Lets go of a drop that has its outcome: in one step it is no drop any more. One that stayed
    /// would be published again at the next start, over what had come after it.
    pub fn release(&self, claimed: &Claimed) -> Result<(), Failure> {
        failpoint::at("remove").map_err(|e| Failure::new("removing", self.processing.path(), e))?;
        let removed = format!("{REMOVED}{}", claimed.entry);
        self.processing
            .rename(&claimed.entry, &self.processing, removed)
    }

    /// Removes what is left of a drop that was let go of.
    pub fn remove(&self, claimed: &Claimed) -> Result<(), Failure> {
        failpoint::at("remove-image")
            .map_err(|e| Failure::new("removing", self.processing.path(), e))?;
        self.processing
            .remove_tree(format!("{REMOVED}{}", claimed.entry))
    }

    /// Keeps a rejected drop, whole, beside its outcome, which has to be durable there.
    pub fn keep_rejected(&self, claimed: &Claimed) -> Result<(), Failure> {
        failpoint::at("reject-drop")
            .map_err(|e| Failure::new("rejecting", self.rejected.path(), e))?;
        self.processing
            .rename(&claimed.entry, &self.rejected, &claimed.entry)
    }

    /// Renames a drop of this name that was rejected before, and its outcome.
    fn make_room(&self, entry: &str, json: &str) -> Result<(), Failure> {
        if self.rejected.stat(entry)?.is_some() {
            let mut number = 1;
            while self.rejected.stat(format!("{entry}~{number}"))?.is_some() {
                number += 1;
            }
            // The outcome first: once the drop has gone, another outcome takes its place.
            if self.rejected.stat(json)?.is_some() {
                self.rejected
                    .rename(json, &self.rejected, format!("{entry}~{number}.json"))?;
            }
            self.rejected
                .rename_new(entry, &self.rejected, format!("{entry}~{number}"))?;
        }
        Ok(())
    }

    /// Removes outcomes and rejected drops that were kept long enough.
    ///
    /// Returns when the next one will have to go.
    pub fn expire(&self) -> Result<Option<Moment>, Failure> {
        let SpoolSettings {
            keep_outcomes,
            keep_rejected,
            ..
        } = self.settings;
        let mut next = None;
        for (dir, keep) in [
            (&self.outcomes, keep_outcomes),
            (&self.rejected, keep_rejected),
        ] {
            for (name, _) in dir.names()? {
                // The time of the last rename: the importer has no hand in it.
                let Some(stat) = dir.stat(&name)? else {
                    continue;
                };
                if stat.changed.age() >= keep {
                    dir.remove_tree(&name)?;
                } else {
                    next = earliest(next, stat.changed.later(keep));
                }
            }
        }
        Ok(next)
    }

    /// The folder that importers put drops into.
    pub fn incoming(&self) -> &std::path::Path {
        self.incoming.path()
    }

    fn place(&self, place: Place) -> &Dir {
        match place {
            Place::Processing => &self.processing,
            Place::Incoming => &self.incoming,
        }
    }

    fn temporary(&self) -> String {
        format!(".{}.tmp", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn is_overdue(&self, drop: &Stat) -> bool {
        drop.changed.age() >= self.settings.incomplete_timeout
    }

    fn completion(&self, name: &OsStr, has_arrived: bool) -> Completion {
        // What can't be looked into is taken for complete: to claim it says what is wrong with it.
        let unknown = Completion::At(Moment::now());
        let dir = match self.incoming.dir(name) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Completion::Gone,
            Err(_) => return unknown,
        };
        let (Ok(drop), Ok(manifest)) = (dir.stat_self(), dir.stat(manifest::FILE)) else {
            return unknown;
        };
        let Some(manifest) = manifest else {
            return Completion::Since(drop.changed);
        };
        let completed = drop.changed.max(manifest.changed);
        // Renaming a directory changes its inode, yet not what it holds: it was renamed after its
        // manifest was written.
        let was_renamed = drop.changed > manifest.changed && drop.changed > drop.modified;
        if has_arrived || was_renamed || manifest.changed.age() >= SETTLED {
            Completion::At(completed)
        } else {
            Completion::Settles {
                since: manifest.changed,
            }
        }
    }
}

enum Completion {
    At(Moment),
    /// It may still be written; if nothing happens it has been complete since then.
    Settles {
        since: Moment,
    },
    /// It has had no manifest since then.
    Since(Moment),
    Gone,
}

impl Claimed {
    /// Its name in `processing/`.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The drop as it is found again where it is now, in `processing/`.
    pub fn again(&self) -> Seen {
        Seen {
            name: self.entry.clone().into(),
            entry: self.entry.clone(),
            completed: self.received_at,
            arrival: u64::MAX,
            place: Place::Processing,
            is_overdue: false,
        }
    }
}

impl Seen {
    pub fn is_incoming(&self) -> bool {
        self.place == Place::Incoming
    }

    /// Its name in `processing/`.
    pub fn entry(&self) -> &str {
        &self.entry
    }
}

fn earliest(known: Option<Moment>, moment: Moment) -> Option<Moment> {
    Some(known.map_or(moment, |known| known.min(moment)))
}

/// By the time of completion; of one tick of the clock, by the order of events, and without any by
/// name.
fn in_order(a: &Seen, b: &Seen) -> std::cmp::Ordering {
    let key = |seen: &Seen| (seen.place, seen.completed, seen.arrival);
    key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
}

/// The name in `processing/` for a drop of this name.
fn entry_for(name: &OsStr) -> String {
    match plain_name(name) {
        Ok(()) => name.to_string_lossy().to_string(),
        // Such a name is good for no file that the daemon writes.
        Err(_) => format!("{BAD_NAME}{}", Digest::of(name.as_bytes()).short()),
    }
}

/// # Errors
/// What was expected of the name of a drop.
fn plain_name(name: &OsStr) -> Result<(), String> {
    let is_plain = name.to_str().is_some_and(|name| {
        name.len() <= MAX_NAME
            && !name.contains(char::is_control)
            && !name.ends_with(".json")
            && !name.starts_with(BAD_NAME)
    });
    let rule = || {
        format!(
            "the name {}; expected at most {MAX_NAME} bytes of UTF-8 without control characters, \
             not ending in .json or beginning with {BAD_NAME}",
            quoted(&name.to_string_lossy())
        )
    };
    if is_plain { Ok(()) } else { Err(rule()) }
}

/// The manifest of a drop whose owner is `uid`; `None` when there is none yet.
fn read_manifest(dir: &Dir, uid: u32) -> Result<Option<Manifest>, (Reason, String)> {
    let unreadable = |failure: Failure| (Reason::Unreadable, failure.to_string());
    let file = match dir.file(manifest::FILE) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(failure) if Errno::from_io_error(&failure.source) == Some(Errno::LOOP) => {
            return Err((Reason::UnsafeFile, format!("{} is a link", manifest::FILE)));
        }
        Err(failure) => return Err(unreadable(failure)),
    };
    let stat = dir::stat_file(&file).map_err(|error| {
        unreadable(Failure::new(
            "looking at",
            dir.path().join(manifest::FILE),
            error,
        ))
    })?;
    // Errors quote the manifest: a hard link must not let an importer read another's file that way.
    if stat.kind != Kind::File || (stat.uid != uid && uid != 0) {
        let detail = format!(
            "{}: expected a regular file that belongs to user {uid}",
            manifest::FILE
        );
        return Err((Reason::UnsafeFile, detail));
    }
    let text = read_text(&file, manifest::MAX_SIZE).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => (Reason::BadManifest, error.to_string()),
        _ => unreadable(Failure::new(
            "reading",
            dir.path().join(manifest::FILE),
            error,
        )),
    })?;
    Manifest::parse(&text)
        .map(Some)
        .map_err(|error| (Reason::BadManifest, error.to_string()))
}

fn read_text(file: &File, max: u64) -> std::io::Result<String> {
    let invalid = |what| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(invalid(format!(
            "{}: expected at most {max} bytes",
            manifest::FILE
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        invalid(format!(
            "{}: expected UTF-8, not so at byte {at}",
            manifest::FILE
        ))
    })
}

/// The first file that the manifest lists and that is not there.
fn first_missing<'m>(dir: &Dir, manifest: &'m Manifest) -> Option<&'m str> {
    let mut paths = manifest.files.iter().flat_map(|files| files.keys());
    paths
        .find(|path| !dir.has(format!("{IMAGE}/{path}")))
        .map(String::as_str)
}
