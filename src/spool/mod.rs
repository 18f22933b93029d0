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

mod checksums;
pub(crate) mod manifest;
pub(crate) mod outcome;
mod scan;
mod watch;

pub(crate) use checksums::{check_claims, check_sizes};
pub use manifest::Manifest;
pub(crate) use manifest::{Action, FileClaim, Replaces};
pub use outcome::Outcome;
pub(crate) use outcome::Published;
pub(crate) use scan::{INCOMING, Scan, Seen};
pub(crate) use watch::Watch;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustix::io::Errno;

use self::scan::{Arrivals, Incoming, in_order, note_earliest, plain_name};
use crate::fault::{Fault, StartError};
use crate::settings::SpoolSettings;
use crate::sys::{Dir, Failure, Importer, Kind, Stat, dir, failpoint};
use crate::text::quoted;
use crate::words::{Moment, Reason, Target, Verdict};

/// The folder of a drop that holds the image.
pub(crate) const IMAGE: &str = "image";

/// The folders of a spool.
pub(crate) const PROCESSING: &str = "processing";
pub(crate) const REJECTED: &str = "rejected";
pub(crate) const OUTCOMES: &str = "outcomes";

/// Ends the names of files that are being written.
const TEMPORARY: &str = ".tmp";

/// The files of a larger image are removed several at a time, in bytes.
const LARGE: u64 = 64 << 20;

/// Names with a dot that a drop may have beside its image.
const MAX_HIDDEN: usize = 100;

/// The open spool; locked against other daemons.
#[derive(Debug)]
pub(crate) struct Spool {
    /// They may change while it is open, all but the path.
    settings: RwLock<SpoolSettings>,
    root: Dir,
    incoming: Incoming,
    processing: Dir,
    rejected: Dir,
    outcomes: Dir,
    next: AtomicU64,
}

/// Begins the name in `processing/` of a drop that is being removed; no drop's name begins so.
const REMOVED: &str = ".";

/// What a daemon that ended left in `processing/`.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// To be taken up again, in the order in which they were claimed.
    pub claimed: Vec<Seen>,
    /// To be put away.
    pub leaving: Vec<Leaving>,
}

/// A drop that has its outcome, and is to be put away.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// Its name in `processing/`.
    pub entry: Arc<str>,
    /// The outcome of a rejected one, which is kept beside it; any other is removed.
    pub rejected: Option<Outcome>,
    /// Of its image.
    pub bytes: u64,
}

impl Leaving {
    /// The drop `entry` whose outcome this is.
    pub(crate) fn new(entry: Arc<str>, outcome: Outcome) -> Self {
        let bytes = outcome.image.as_ref().map_or(0, |image| image.bytes);
        let rejected = (outcome.outcome == Verdict::Rejected).then_some(outcome);
        Self {
            entry,
            rejected,
            bytes,
        }
    }
}

/// What a drop holds, as far as its manifest says.
#[derive(Debug)]
pub(crate) enum Peeked {
    Ready(Ready),
    /// Not every file that the manifest lists is there: it waits.
    Incomplete,
    /// Its importer has taken it away, or it was removed.
    Gone,
}

/// A manifest, or why the drop is rejected without a look at its image.
pub(crate) type Checkable = Result<Manifest, (Reason, String)>;

/// A drop whose manifest was read, or can't be.
#[derive(Debug)]
pub(crate) struct Ready {
    pub seen: Seen,
    /// `None` when it is no directory.
    id: Option<(u64, u64)>,
    pub manifest: Checkable,
}

/// A drop that is the daemon's.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// As outcomes and logs show it.
    pub name: String,
    /// Where it is in `processing/`, which is another name only when `name` is none for a file.
    entry: Arc<str>,
    pub importer: Importer,
    pub received_at: Moment,
    /// When it became the daemon's; a generation made of it is younger.
    pub claimed_at: Moment,
}

impl Spool {
    /// Opens the spool, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock.
    pub(crate) fn open(settings: &SpoolSettings) -> Result<Self, StartError> {
        let root = Dir::open_or_make(&settings.path)?;
        let processing = root.dir_or_make(PROCESSING, 0o700)?;
        if !processing.lock()? {
            return Err(StartError::InUse(settings.path.clone()));
        }
        let rejected = root.dir_or_make(REJECTED, 0o755)?;
        let outcomes = root.dir_or_make(OUTCOMES, 0o755)?;
        for dir in [&rejected, &outcomes] {
            sweep(dir)?;
        }
        Ok(Self {
            settings: RwLock::new(settings.clone()),
            incoming: Incoming::open(&settings.path)?,
            rejected,
            outcomes,
            next: AtomicU64::new(0),
            root,
            processing,
        })
    }

    /// How long what stays is to stay, from now on.
    pub(crate) fn adopt(&self, settings: SpoolSettings) {
        *self.settings.write().expect("no thread panics here") = settings;
    }

    fn settings(&self) -> SpoolSettings {
        self.settings.read().expect("no thread panics here").clone()
    }

    /// What a daemon that ended has left in `processing/`.
    pub(crate) fn left_behind(&self) -> Result<Left, Failure> {
        let mut left = Left::default();
        for (name, _) in self.processing.names()? {
            let Some(stat) = self.processing.stat(&name)? else {
                continue;
            };
            let entry = name.to_string_lossy().to_string();
            if let Some(entry) = entry.strip_prefix(REMOVED) {
                left.leaving.push(Leaving {
                    entry: entry.into(),
                    rejected: None,
                    bytes: 0,
                });
                continue;
            }
            if let Some(outcome) = self.own_outcome(&entry, &stat)? {
                left.leaving.push(Leaving::new(entry.into(), outcome));
                continue;
            }
            let seen = Seen::claimed(name, entry.into(), stat.changed);
            left.claimed.push(seen);
        }
        left.claimed.sort_by(in_order);
        Ok(left)
    }

    /// The outcome of the very drop that is `entry` in `processing/`, if it was written.
    ///
    /// It must not be handled a second time: a later drop for its target may have been published
    /// since. One of an earlier drop of this name is older than the claim.
    fn own_outcome(&self, entry: &str, drop: &Stat) -> Result<Option<Outcome>, Failure> {
        let file = format!("{entry}.json");
        let Some(bytes) = self.outcomes.read(file, outcome::MAX_SIZE)? else {
            return Ok(None);
        };
        let Ok(outcome) = serde_json::from_slice::<Outcome>(&bytes) else {
            return Ok(None);
        };
        Ok((outcome.finished_at >= drop.changed).then_some(outcome))
    }

    /// As [`Incoming::scan`].
    pub(crate) fn scan(
        &self,
        arrivals: &Arrivals,
        known: &HashSet<Arc<str>>,
    ) -> Result<Scan, Failure> {
        let timeout = self.settings().incomplete_timeout;
        self.incoming.scan(arrivals, known, timeout)
    }

    /// Reads the manifest of a drop, which stays where it is.
    pub(crate) fn peek(&self, seen: Seen) -> Result<Peeked, Failure> {
        let ready = |seen, id, manifest| Ok(Peeked::Ready(Ready { seen, id, manifest }));
        let reject = |seen, id, reason, detail| ready(seen, id, Err((reason, detail)));
        let place = self.place(&seen);
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
            Err(failure) => {
                return unreadable(failure).and_then(|(reason, why)| reject(seen, id, reason, why));
            }
        };
        let manifest = match read_manifest(&dir, stat.uid)? {
            Ok(Some(manifest)) => manifest,
            Ok(None) if seen.is_incoming() && !seen.is_overdue() => return Ok(Peeked::Incomplete),
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
    pub(crate) fn claim(&self, ready: Ready) -> Result<Option<(Claimed, Checkable)>, Failure> {
        let Ready {
            seen,
            id,
            mut manifest,
        } = ready;
        failpoint::at("claim").map_err(|e| Failure::new("claiming", &seen.name, e))?;
        let is_incoming = seen.is_incoming();
        let entry = Arc::clone(seen.entry());
        let Seen {
            name, completed, ..
        } = seen;
        if is_incoming {
            // From here on an outcome of this name is this drop's. One of an earlier drop that can't
            // be removed is told apart by its time.
            let _ = self.outcomes.remove_file(format!("{entry}.json"));
            match self
                .incoming
                .dir()
                .rename_new(&name, &self.processing, &*entry)
            {
                Ok(true) => {}
                Ok(false) => {
                    let path = self.processing.path().join(&*entry);
                    return Err(Failure::new("claiming a drop to", path, Errno::EXIST));
                }
                Err(failure) if failure.source.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            }
        }
        let Some(stat) = self.processing.stat(&*entry)? else {
            return Ok(None);
        };
        if id.is_some_and(|id| id != stat.id) {
            let detail = "the drop was replaced while it was claimed".to_string();
            manifest = Err((Reason::Changed, detail));
        }
        let claimed = Claimed {
            name: match plain_name(&name) {
                Ok(()) => name.to_string_lossy().to_string(),
                Err(_) => name.to_string_lossy().escape_debug().collect(),
            },
            entry,
            importer: Importer::of(stat.uid),
            received_at: completed,
            claimed_at: stat.changed,
        };
        Ok(Some((claimed, manifest)))
    }

    /// Opens the image of a claimed drop.
    ///
    /// # Errors
    /// [`Fault::Reject`] when there is none, or something else is in the drop.
    pub(crate) fn image(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let drop = self.processing.existing_dir(&*claimed.entry)?;
        check_names(&drop, true)?;
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

    /// Makes sure that a claimed drop, whose manifest asks for something else, brings no image.
    ///
    /// # Errors
    /// [`Fault::Reject`] when something besides the manifest is in it.
    pub(crate) fn check_no_image(&self, claimed: &Claimed) -> Result<(), Fault> {
        let drop = self.processing.existing_dir(&*claimed.entry)?;
        check_names(&drop, false)
    }

    /// Writes the outcome of a drop, in place of one of an earlier drop of this name; that of a
    /// rejected one also where the drop will be kept.
    ///
    /// Returns why the latter was not possible: putting the drop away tries it again.
    pub(crate) fn write_outcome(
        &self,
        claimed: &Claimed,
        outcome: &Outcome,
    ) -> Result<Option<Failure>, Failure> {
        failpoint::at("outcome").map_err(|e| Failure::new("writing", self.outcomes.path(), e))?;
        let (name, text) = (format!("{}.json", claimed.entry), outcome.to_json());
        self.outcomes
            .replace(&name, &self.temporary(), text.as_bytes())?;
        if outcome.outcome != Verdict::Rejected {
            return Ok(None);
        }
        Ok(self.write_rejected(&claimed.entry, &text).err())
    }

    /// Writes the outcome of a rejected drop where the drop will be kept.
    fn write_rejected(&self, entry: &str, text: &str) -> Result<(), Failure> {
        let (name, path) = (format!("{entry}.json"), self.rejected.path());
        failpoint::at("reject").map_err(|e| Failure::new("rejecting", path, e))?;
        self.make_room(entry, &name)?;
        self.rejected
            .replace(&name, &self.temporary(), text.as_bytes())
    }

    /// Makes the outcomes, and before that all that happened in the spool, durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        failpoint::at("spool-sync").map_err(|e| Failure::new("syncing", self.root.path(), e))?;
        self.root.sync_file_system()
    }

    /// Whether drops are on the file system of `stat`.
    pub(crate) fn is_on_file_system_of(&self, stat: &Stat) -> bool {
        let own = self.processing.stat_self();
        own.is_ok_and(|own| own.id.0 == stat.id.0)
    }

    /// Removes a drop that has its outcome; one that was rejected is kept beside it.
    pub(crate) fn put_away(&self, drop: &Leaving) -> Result<(), Failure> {
        match &drop.rejected {
            Some(outcome) => self.keep_rejected(&drop.entry, outcome),
            None => self.remove(&drop.entry, drop.bytes),
        }
    }

    fn remove(&self, entry: &str, bytes: u64) -> Result<(), Failure> {
        let processing = &self.processing;
        let failure = |error| Failure::new("removing", processing.path(), error);
        failpoint::at("remove").map_err(failure)?;
        // In one step it is no drop any more, however far the removal comes.
        let removed = format!("{REMOVED}{entry}");
        match processing.rename(entry, processing, &removed) {
            // It is another try.
            Err(failure) if failure.source.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        failpoint::at("remove-image").map_err(failure)?;
        if bytes > LARGE {
            processing.remove_large_tree(removed)
        } else {
            processing.remove_tree(removed)
        }
    }

    fn keep_rejected(&self, entry: &str, outcome: &Outcome) -> Result<(), Failure> {
        let text = outcome.to_json();
        let written = self
            .rejected
            .read(format!("{entry}.json"), outcome::MAX_SIZE)?;
        // It could not be written before, or a power cut has torn it.
        if written.as_deref() != Some(text.as_bytes()) {
            self.write_rejected(entry, &text)?;
            self.sync()?;
        }
        let path = self.rejected.path();
        failpoint::at("reject-drop").map_err(|e| Failure::new("rejecting", path, e))?;
        self.processing.rename(entry, &self.rejected, entry)
    }

    /// Renames a drop of this name that was rejected before, and its outcome.
    fn make_room(&self, entry: &str, json: &str) -> Result<(), Failure> {
        let rejected = &self.rejected;
        if rejected.stat(entry)?.is_none() {
            return Ok(());
        }
        let mut number = 1;
        while rejected.stat(format!("{entry}~{number}"))?.is_some() {
            number += 1;
        }
        // The outcome first: once the drop has gone, another outcome takes its place.
        if rejected.stat(json)?.is_some() {
            rejected.rename(json, rejected, format!("{entry}~{number}.json"))?;
        }
        rejected.rename_new(entry, rejected, format!("{entry}~{number}"))?;
        Ok(())
    }

    /// Removes outcomes and rejected drops that were kept long enough.
    ///
    /// Returns when the next one will have to go.
    ///
    /// # Errors
    /// One that could not be removed; the others are gone all the same.
    pub(crate) fn expire(&self) -> Result<Option<Moment>, Failure> {
        let SpoolSettings {
            keep_outcomes,
            keep_rejected,
            ..
        } = self.settings();
        let mut next = None;
        let mut failure = None;
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
                    failure = dir.remove_tree(&name).err().or(failure);
                } else {
                    note_earliest(&mut next, stat.changed.later(keep));
                }
            }
        }
        failure.map_or(Ok(next), Err)
    }

    /// The folder that importers put drops into.
    pub(crate) fn incoming(&self) -> &std::path::Path {
        self.incoming.dir().path()
    }

    /// The folder that a drop is in.
    fn place(&self, seen: &Seen) -> &Dir {
        if seen.is_incoming() {
            self.incoming.dir()
        } else {
            &self.processing
        }
    }

    fn temporary(&self) -> String {
        format!(".{}{TEMPORARY}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn is_overdue(&self, drop: &Stat) -> bool {
        drop.changed.age() >= self.settings().incomplete_timeout
    }
}

impl Ready {
    /// How many files its manifest lists: what it costs in memory.
    pub(crate) fn listed(&self) -> usize {
        let manifest = self.manifest.as_ref().ok();
        let files = manifest.and_then(|manifest| manifest.files.as_ref());
        files.map_or(0, std::collections::BTreeMap::len)
    }

    /// What it is for; `None` when its manifest can't be read.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.manifest.as_ref().ok().map(|manifest| &manifest.target)
    }
}

impl Claimed {
    /// Its name in `processing/`.
    pub(crate) fn entry(&self) -> &Arc<str> {
        &self.entry
    }

    /// The drop as it is found again where it is now, in `processing/`.
    pub(crate) fn again(&self) -> Seen {
        let name = OsStr::new(&*self.entry).to_os_string();
        Seen::claimed(name, Arc::clone(&self.entry), self.received_at)
    }
}

/// Removes outcomes that a crash left half written.
fn sweep(dir: &Dir) -> Result<(), Failure> {
    for (name, _) in dir.names()? {
        let name = name.as_bytes();
        if name.starts_with(b".") && name.ends_with(TEMPORARY.as_bytes()) {
            dir.remove_file(OsStr::from_bytes(name))?;
        }
    }
    Ok(())
}

/// Makes sure that a drop holds nothing but its manifest and, where it may have one, its image.
fn check_names(drop: &Dir, may_have_image: bool) -> Result<(), Fault> {
    let (mut hidden, mut unexpected) = (0, None);
    drop.each(|name, _| {
        // A name with a dot is an editor's or an NFS server's, and there are few.
        let is_hidden = name.as_bytes().starts_with(b".");
        hidden += usize::from(is_hidden);
        let is_expected = name == manifest::FILE || (name == IMAGE && may_have_image);
        if is_expected || (is_hidden && hidden <= MAX_HIDDEN) {
            return ControlFlow::Continue(());
        }
        unexpected = Some(quoted(&name.to_string_lossy()));
        ControlFlow::Break(())
    })?;
    let Some(name) = unexpected else {
        return Ok(());
    };
    let image = if may_have_image {
        format!(" and {IMAGE}/ in a drop")
    } else {
        " in a drop that asks for something else than an image".to_string()
    };
    let detail = format!("{name}; expected nothing but {}{image}", manifest::FILE);
    Err(Fault::Reject(Reason::UnexpectedFile, detail))
}

/// What a drop is rejected for: the reason, and a text for people.
type Refusal = (Reason, String);

/// That something of a drop can't be read is its own fault, but where the machine is to blame.
///
/// # Errors
/// The failure itself, when it is the machine's: it is tried again.
fn unreadable(failure: Failure) -> Result<Refusal, Failure> {
    match Errno::from_io_error(&failure.source) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::STALE) => Err(failure),
        _ => Ok((Reason::Unreadable, failure.to_string())),
    }
}

/// The manifest of a drop whose owner is `uid`; `None` when there is none yet.
fn read_manifest(dir: &Dir, uid: u32) -> Result<Result<Option<Manifest>, Refusal>, Failure> {
    let failure = |doing, error| Failure::new(doing, dir.path().join(manifest::FILE), error);
    let file = match dir.file(manifest::FILE) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Ok(None)),
        Err(failure) if Errno::from_io_error(&failure.source) == Some(Errno::LOOP) => {
            let refusal = (Reason::UnsafeFile, format!("{} is a link", manifest::FILE));
            return Ok(Err(refusal));
        }
        Err(failure) => return unreadable(failure).map(Err),
    };
    let stat = dir::stat_file(&file).map_err(|error| failure("looking at", error))?;
    // Errors quote the manifest: a hard link must not let an importer read another's file that way.
    if stat.kind != Kind::File || (stat.uid != uid && uid != 0) {
        let detail = format!(
            "{}: expected a regular file that belongs to user {uid}",
            manifest::FILE
        );
        return Ok(Err((Reason::UnsafeFile, detail)));
    }
    let text = match read_text(&file, manifest::MAX_SIZE) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Err((Reason::BadManifest, error.to_string())));
        }
        Err(error) => return unreadable(failure("reading", error)).map(Err),
    };
    let manifest = Manifest::parse(&text)
        .map(Some)
        .map_err(|error| (Reason::BadManifest, error.to_string()));
    Ok(manifest)
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
