//! The spool: where drops come in, and where what became of them is written down.
//!
//! ```text
//! incoming/<drop>/               importers write here
//! processing/<claim>.<drop>/     claimed
//! rejected/<drop>/               whole, beside its outcome
//! outcomes/<drop>.json           one for a drop
//! ```
//! A drop comes in as [`Seen`], is looked into until it is whole (`peek`), and goes on as [`Ready`],
//! [`Claimed`] and [`Leaving`] (`drop`). The room owns these folders, and what stands in them for
//! others to read: manifest and outcome. It uses `words`, `text`, `sys`, `settings`, `fault`, `log`
//! and `image`, and knows nothing of the tree. Start with [`Spool`].

mod checksums;
mod clock;
mod drop;
mod manifest;
mod names;
mod new_drop;
mod outcome;
mod peek;
mod scan;
mod stillness;
mod view;
mod watch;

pub(crate) use drop::{Claimed, Leaving, Peeked, Ready, Seen};
pub use manifest::Manifest;
pub(crate) use manifest::{Action, Replaces};
pub(crate) use new_drop::NewDrop;
pub use outcome::Outcome;
pub(crate) use outcome::Published;
pub(crate) use scan::Scan;
pub(crate) use view::{SpoolView, Waiting};
pub(crate) use watch::Watch;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::clock::{Clock, Reading};
use self::drop::{Checkable, NOBODY, Stays};
use self::manifest::MANIFEST;
use self::names::{claim_name_of, parse_place, place_of};
use self::peek::{IMAGE, Looker, is_mounted, unreadable};
use self::stillness::is_being_written;
use crate::fault::{Fault, Rejection, StartError, reject};
use crate::settings::{Settings, SpoolSettings};
use crate::sys::{Dir, Failure, Kind, Stat, failpoint, random};
use crate::text::quoted;
use crate::words::{ClaimId, Moment, Reason, Verdict};

/// The folders of a spool.
const INCOMING: &str = "incoming";
const PROCESSING: &str = "processing";
const REJECTED: &str = "rejected";
const OUTCOMES: &str = "outcomes";

/// Ends the names of files that are being written.
const TEMPORARY: &str = ".tmp";

/// Begins the name in `processing/` of a drop that is being removed; no drop's name begins so.
const REMOVED: &str = ".";

/// Files whose names begin with a dot that a drop may have beside its image.
const MAX_HIDDEN: usize = 100;

/// The open spool; locked against other daemons.
#[derive(Debug)]
pub(crate) struct Spool {
    root: Dir,
    incoming: Dir,
    processing: Dir,
    rejected: Dir,
    outcomes: Dir,
    next_temporary: AtomicU64,
    next_claim: AtomicU64,
    clock: Clock,
    /// Whether the kernel tells here who has a file open for writing.
    knows_writers: bool,
}

impl Spool {
    /// Opens the spool, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let root = Dir::open_or_make(path)?;
        let processing = root.dir_or_make(PROCESSING, 0o700)?;
        if !processing.lock()? {
            return Err(StartError::InUse(path.to_path_buf()));
        }
        let rejected = root.dir_or_make(REJECTED, 0o755)?;
        let outcomes = root.dir_or_make(OUTCOMES, 0o755)?;
        for dir in [&rejected, &outcomes] {
            sweep(dir)?;
        }
        // Where that can't be found out, stillness alone decides.
        let knows_writers = knows_writers(&outcomes).unwrap_or(false);
        Ok(Self {
            knows_writers,
            incoming: root.dir_or_make(INCOMING, 0o755)?,
            rejected,
            outcomes,
            next_temporary: AtomicU64::new(0),
            next_claim: AtomicU64::new(1),
            clock: Clock::default(),

            root,
            processing,
        })
    }

    /// Makes sure that the spool's folders are still the ones that they were at the start: what is
    /// dropped into others would never be seen, and an outcome in others is nobody's.
    ///
    /// # Errors
    /// As [`Dir::check_place`].
    pub(crate) fn check_places(&self) -> Result<(), Failure> {
        let inside = [
            &self.incoming,
            &self.processing,
            &self.rejected,
            &self.outcomes,
        ];
        self.root.check_place()?;
        inside.into_iter().try_for_each(Dir::check_place)
    }

    /// What a daemon that ended has left in `processing/`: drops to be taken up again, in the order
    /// in which they were claimed, and drops to be put away.
    pub(crate) fn left_behind(&self) -> Result<(Vec<Seen>, Vec<Leaving>), Failure> {
        let (mut claimed, mut leaving) = (Vec::new(), Vec::new());
        let mut strays = Vec::<(OsString, Stat)>::new();
        for (name, _) in self.processing.names()? {
            let stat = match self.processing.stat(&name) {
                Ok(Some(stat)) => Some(stat),
                Ok(None) => continue,
                // Whose drop it is can't be found out: that keeps no start from going on.
                Err(failure) if is_mounted(&failure) => None,
                Err(failure) => return Err(failure),
            };
            let bytes = name.as_bytes();
            if let Some(place) = bytes.strip_prefix(REMOVED.as_bytes()) {
                let place = OsStr::from_bytes(place);
                let shown = || place.to_string_lossy();
                leaving.push(Leaving {
                    // What somebody else has put there has a name of its own as well.
                    claim_name: parse_place(place).map_or_else(|| shown().into(), |it| it.1),
                    place: shown().into(),
                    rejected: None,
                    bytes: 0,
                    stays: None,
                    is_told: false,
                });
                continue;
            }
            let Some((claim, claim_name)) = parse_place(&name) else {
                strays.extend(stat.map(|stat| (name, stat)));
                continue;
            };
            self.next_claim
                .fetch_max(claim.number() + 1, Ordering::Relaxed);
            if let Some(outcome) = self.own_outcome(claim, &claim_name)? {
                leaving.push(Leaving::new(claim_name, outcome));
            } else {
                let owner = stat.map_or(NOBODY, |stat| stat.owner.uid);
                let changed = stat.map_or(Moment::from_stat(0, 0), |stat| stat.changed);
                claimed.push(Seen::claimed(claim, claim_name, owner, changed));
            }
        }
        for (name, stat) in strays {
            claimed.push(self.name_stray(&name, &stat)?);
        }
        claimed.sort_by(Seen::in_order);
        Ok((claimed, leaving))
    }

    /// Gives a claim to a drop that somebody else has put into `processing/`.
    fn name_stray(&self, name: &OsStr, stat: &Stat) -> Result<Seen, Failure> {
        let (claim, claim_name) = (self.new_claim(), claim_name_of(name));
        let place = place_of(claim, &claim_name);
        self.processing.rename(name, &self.processing, place)?;
        let owner = stat.owner.uid;
        Ok(Seen::claimed(claim, claim_name.into(), owner, stat.changed))
    }

    fn new_claim(&self) -> ClaimId {
        let number = self.next_claim.fetch_add(1, Ordering::Relaxed);
        ClaimId::new(number, random())
    }

    /// The outcome of the very drop that is in `processing/`, if it was written: that of another
    /// drop of this name has another claim.
    ///
    /// A drop with an outcome must not be handled a second time: a later one for its target may have
    /// been published since.
    fn own_outcome(&self, claim: ClaimId, claim_name: &str) -> Result<Option<Outcome>, Failure> {
        let outcome = Outcome::read(&self.outcomes, file_of(claim_name))?;
        Ok(outcome.filter(|outcome| outcome.claim == claim))
    }

    /// As [`Looker::peek`].
    pub(crate) fn peek(&self, seen: Seen, settings: &Settings) -> Result<Peeked, Fault> {
        let place = if seen.is_incoming() {
            &self.incoming
        } else {
            &self.processing
        };
        let looker = Looker {
            settings,
            clock: &|| self.clock.read(&self.processing),
            knows_writers: self.knows_writers,
        };
        looker.peek(place, seen)
    }

    /// Claims a drop: a rename makes it the daemon's. `None` when its importer has taken it away.
    ///
    /// # Errors
    /// [`Fault::Owner`] when its owner keeps it from being renamed. A drop that is to be rejected, now
    /// or because that has gone on for too long, is claimed where it is.
    pub(crate) fn claim(
        &self,
        ready: Ready,
        settings: &SpoolSettings,
    ) -> Result<Option<(Claimed, Checkable)>, Fault> {
        let Ready {
            seen,
            id,
            mut manifest,
        } = ready;
        let processing = &self.processing;
        failpoint("claim", "claiming", &seen.name)?;
        let claim = seen.claim.unwrap_or_else(|| self.new_claim());
        let place = place_of(claim, &seen.claim_name);
        if seen.is_incoming() {
            // Whoever waits for the outcome of this drop is not to read that of an earlier one.
            let _ = self.outcomes.remove_file(file_of(&seen.claim_name));
            match self.take_in(&seen, &place) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Fault::Owner(failure)) => {
                    let is_rejected = manifest.is_err() || seen.is_kept_too_long(settings);
                    if !is_rejected {
                        return Err(Fault::Owner(failure));
                    }
                    return Ok(Some(self.claim_in_place(seen, claim, manifest, &failure)));
                }
                Err(fault) => return Err(fault),
            }
        }
        let stat = match processing.stat(&place) {
            Ok(Some(stat)) => Some(stat),
            Ok(None) => return Ok(None),
            // What is in the drop can't be looked at either, which says what is wrong.
            Err(failure) if is_mounted(&failure) => None,
            Err(failure) => return Err(failure.into()),
        };
        if stat.is_some_and(|stat| id.is_some_and(|id| id != stat.id)) {
            let detail = "the drop was replaced while it was claimed";
            manifest = Err(Rejection::new(Reason::Changed, detail));
        }
        let owner = stat.map_or(seen.owner, |stat| stat.owner.uid);
        let is_new = seen.is_incoming();
        let mut claimed = Claimed::new(seen, claim, owner);
        // Of what was claimed before the clock was set back nobody knows when.
        if let Some(stat) = stat.filter(|_| !is_new) {
            let age = self.clock.read(processing)?.age(stat.changed);
            claimed.since = Instant::now().checked_sub(age).unwrap_or(claimed.since);
        }
        Ok(Some((claimed, manifest)))
    }

    /// Renames a drop into `processing/`; `false` when its importer has taken it away.
    ///
    /// # Errors
    /// [`Fault::Owner`] when it is this very drop that can't be renamed, because of its owner.
    fn take_in(&self, seen: &Seen, place: &str) -> Result<bool, Fault> {
        let (incoming, processing) = (&self.incoming, &self.processing);
        let rename = || incoming.rename(&seen.name, processing, place);
        let renamed = rename().or_else(|failure| {
            // A folder that its own user may not write can't be moved elsewhere.
            let stat = incoming.stat(&seen.name).ok().flatten();
            let is_shut = stat.is_some_and(|stat| stat.mode & 0o200 == 0);
            if is_shut && incoming.unlock(&seen.name).is_ok() {
                return rename();
            }
            Err(failure)
        });
        match renamed {
            Ok(()) => Ok(true),
            Err(failure) if failure.is(ErrorKind::NotFound) => Ok(false),
            // Two mounts are in the way of all drops.
            Err(failure) if is_mounted(&failure) => Err(failure.into()),
            Err(failure) if failure.is_by_owner() && incoming.lets_move() => {
                Err(Fault::Owner(failure))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// A drop that is to be rejected, and that its owner keeps from being moved.
    fn claim_in_place(
        &self,
        seen: Seen,
        claim: ClaimId,
        manifest: Checkable,
        failure: &Failure,
    ) -> (Claimed, Checkable) {
        let mut rejection = match manifest {
            Err(rejection) => rejection,
            Ok(_) => Rejection::new(Reason::Unreadable, failure.to_string()),
        };
        rejection.detail += "; it stays where it is, since it can't be moved";
        let stat = self.incoming.stat(&seen.name).ok().flatten();
        let mut claimed = Claimed::new(seen.clone(), claim, seen.owner);
        let mark = stat.map(|stat| (stat.id, stat.changed));
        claimed.stays = Some(Box::new(Stays { seen, mark }));
        (claimed, Err(rejection))
    }

    /// Opens the image of a claimed drop.
    ///
    /// # Errors
    /// [`Fault::Reject`] when there is none, or something else is in the drop.
    pub(crate) fn image(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let drop = self.open_claimed(claimed)?;
        check_names(&drop, true)?;
        let image = drop.dir(IMAGE).map_err(|failure| match failure.errno() {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                let detail = format!("{failure}; expected {IMAGE} to be a folder of the drop");
                reject(Reason::UnsafeFile, detail)
            }
            _ => unreadable(failure),
        })?;
        let missing =
            || format!("no {IMAGE}/; expected a folder that holds what is to be published");
        image.ok_or_else(|| reject(Reason::EmptyImage, missing()))
    }

    /// Makes sure that a claimed drop, whose manifest asks for something else, brings no image.
    ///
    /// # Errors
    /// [`Fault::Reject`] when something besides the manifest is in it.
    pub(crate) fn check_no_image(&self, claimed: &Claimed) -> Result<(), Fault> {
        check_names(&self.open_claimed(claimed)?, false)
    }

    fn open_claimed(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let opened = self.processing.existing_dir(claimed.place());
        opened.map_err(unreadable)
    }

    /// Writes the outcome of a drop, in place of one of an earlier drop of this name; the outcome of
    /// a rejected drop also where the drop will be kept.
    ///
    /// Returns why the latter was not possible: putting the drop away tries it again.
    pub(crate) fn write_outcome(
        &self,
        claimed: &Claimed,
        outcome: &Outcome,
    ) -> Result<Option<Failure>, Failure> {
        failpoint("outcome", "writing", self.outcomes.path())?;
        let text = outcome.to_json();
        self.write(&self.outcomes, &claimed.claim_name, &text)?;
        if outcome.verdict != Verdict::Rejected {
            return Ok(None);
        }
        Ok(self.write_rejected(&claimed.claim_name, &text).err())
    }

    /// Writes the outcome of a rejected drop where the drop will be kept.
    fn write_rejected(&self, claim_name: &str, text: &str) -> Result<(), Failure> {
        failpoint("reject", "rejecting", self.rejected.path())?;
        make_room(&self.rejected, claim_name)?;
        self.write(&self.rejected, claim_name, text)
    }

    fn write(&self, dir: &Dir, claim_name: &str, text: &str) -> Result<(), Failure> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".{number}{TEMPORARY}");
        dir.replace(&file_of(claim_name), &temporary, text.as_bytes())
    }

    /// Makes the outcomes, and before that all that happened in the spool, durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        failpoint("spool-sync", "syncing", self.root.path())?;
        self.root.sync_file_system()
    }

    /// Whether drops are on the file system of `stat`.
    pub(crate) fn is_on_file_system_of(&self, stat: &Stat) -> bool {
        let own = self.processing.stat_self();
        own.is_ok_and(|own| own.id.0 == stat.id.0)
    }

    /// Takes a drop that has its outcome out of `processing/`: a rejected drop is kept beside its
    /// outcome, any other is removed. One that can't be moved stays where it is until it is another.
    ///
    /// # Errors
    /// [`Fault::Owner`] when the drop's owner keeps it from being put away.
    pub(crate) fn put_away(&self, drop: &Leaving) -> Result<(), Fault> {
        let put_away = match (&drop.stays, &drop.rejected) {
            (Some(stays), _) => return self.check_stays(stays),
            (None, Some(outcome)) => self.keep_rejected(drop, outcome),
            (None, None) => self.remove(&drop.place, drop.bytes),
        };
        put_away.map_err(|failure| {
            let is_in_drop = failure.path.strip_prefix(self.processing.path());
            let is_in_drop = is_in_drop.is_ok_and(|path| !path.as_os_str().is_empty());
            let can_move = || self.processing.lets_move() && self.rejected.lets_move();
            if is_in_drop && failure.is_by_owner() && can_move() {
                return Fault::Owner(failure);
            }
            failure.into()
        })
    }

    /// Whether a drop that stays in `incoming/` has gone from there, or is another by now: that one
    /// will be found by a scan.
    ///
    /// # Errors
    /// [`Fault::Owner`] when it is there still, as it was.
    fn check_stays(&self, stays: &Stays) -> Result<(), Fault> {
        let is_same = match self.incoming.stat(&stays.seen.name) {
            Ok(Some(stat)) => stays.mark == Some((stat.id, stat.changed)),
            Ok(None) => false,
            Err(failure) if is_mounted(&failure) => stays.mark.is_none(),
            Err(failure) => return Err(failure.into()),
        };
        if !is_same {
            // What tells `status` of it.
            self.rejected.remove_file(file_of(&stays.seen.claim_name))?;
            return Ok(());
        }
        let path = self.incoming.path().join(&stays.seen.name);
        Err(Fault::Owner(Failure::new("moving", path, Errno::BUSY)))
    }

    fn remove(&self, place: &str, bytes: u64) -> Result<(), Failure> {
        let processing = &self.processing;
        failpoint("remove", "removing", processing.path())?;
        // From this step on nobody takes it for a drop, however far the removal comes.
        let removed = format!("{REMOVED}{place}");
        match processing.rename(place, processing, &removed) {
            // An earlier removal came no further.
            Err(failure) if failure.is(ErrorKind::NotFound) => {}
            renamed => renamed?,
        }
        failpoint("remove-image", "removing", processing.path())?;
        processing.remove_tree(removed, bytes)
    }

    fn keep_rejected(&self, drop: &Leaving, outcome: &Outcome) -> Result<(), Failure> {
        let claim_name = &*drop.claim_name;
        let text = outcome.to_json();
        let written = self.rejected.read(file_of(claim_name), outcome::MAX_SIZE)?;
        // Where it is another, it could not be written before, or a power cut has torn it.
        if written.as_deref() != Some(text.as_bytes()) {
            self.write_rejected(claim_name, &text)?;
            self.sync()?;
        }
        failpoint("reject-drop", "rejecting", self.rejected.path())?;
        self.processing
            .rename(&drop.place, &self.rejected, claim_name)
    }

    /// Removes outcomes and rejected drops that were kept long enough. Returns after how long the
    /// next one will have to go.
    ///
    /// # Errors
    /// Says why one could not be removed; the others are gone all the same.
    pub(crate) fn expire(&self, settings: &SpoolSettings) -> Result<Option<Duration>, Failure> {
        let clock = self.clock.read(&self.processing)?;
        let outcomes = expire(&self.outcomes, settings.keep_outcomes, clock);
        let rejected = expire(&self.rejected, settings.keep_rejected, clock);
        Ok([outcomes?, rejected?].into_iter().flatten().min())
    }

    /// The folder that importers put drops into.
    pub(crate) fn incoming(&self) -> &Path {
        self.incoming.path()
    }
}

/// As [`Spool::expire`], of one folder.
fn expire(dir: &Dir, keep: Duration, clock: Reading) -> Result<Option<Duration>, Failure> {
    let (mut next, mut failure) = (None::<Duration>, None);
    for (name, _) in dir.names()? {
        // `changed` is the time of the last rename: the importer has no hand in it.
        let Some(stat) = dir.stat(&name)? else {
            continue;
        };
        // What was kept before the clock was set back is kept on: nobody knows how old it is.
        let age = Some(clock.age(stat.changed)).filter(|age| *age < Duration::MAX);
        let left = keep.saturating_sub(age.unwrap_or_default());
        if left.is_zero() {
            failure = dir.remove_tree(&name, 0).err().or(failure);
        } else {
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    failure.map_or(Ok(next), Err)
}

/// The name of a drop's outcome.
fn file_of(claim_name: &str) -> String {
    format!("{claim_name}.json")
}

/// Renames a drop of this name that was rejected before, and its outcome.
fn make_room(rejected: &Dir, claim_name: &str) -> Result<(), Failure> {
    if rejected.stat(claim_name)?.is_none() {
        return Ok(());
    }
    let mut number = 1;
    while rejected.stat(format!("{claim_name}~{number}"))?.is_some() {
        number += 1;
    }
    let free = format!("{claim_name}~{number}");
    // The outcome first: once the drop has gone, another outcome takes its place.
    if rejected.stat(file_of(claim_name))?.is_some() {
        rejected.rename(file_of(claim_name), rejected, file_of(&free))?;
    }
    rejected.rename_new(claim_name, rejected, free).map(|_| ())
}

/// Whether the kernel tells who has a file open for writing on the file system of `own`, a folder of
/// the daemon's: NFS 4 says of every file that somebody has.
fn knows_writers(own: &Dir) -> Result<bool, Failure> {
    const PROBE: &str = ".writers.tmp";
    own.remove_file(PROBE)?;
    own.write_new(PROBE, b"")?;
    let knows = is_being_written(own, Path::new(PROBE)) == Some(false);
    own.remove_file(PROBE)?;
    Ok(knows)
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
    drop.each(|name, kind| {
        // A hidden file is litter of an upload tool, an editor or an NFS server, and there are few.
        let is_hidden = name.as_bytes().starts_with(b".");
        let is_litter = is_hidden && kind == Kind::File && hidden < MAX_HIDDEN;
        hidden += usize::from(is_litter);
        if is_litter || name == MANIFEST || (name == IMAGE && may_have_image) {
            return ControlFlow::Continue(());
        }
        let is_draft = is_hidden && kind == Kind::Dir;
        unexpected = Some((quoted(&name.to_string_lossy()), is_draft));
        ControlFlow::Break(())
    })?;
    let Some((name, is_draft)) = unexpected else {
        return Ok(());
    };
    let what = if may_have_image {
        format!("and {IMAGE}/ in a drop")
    } else {
        "in a drop that asks for something else than an image".to_string()
    };
    let mut detail = format!("{name}; expected nothing but {MANIFEST} {what}");
    if is_draft {
        detail += ": perhaps another drop that `mv` has moved into this one; use `mv -T`";
    }
    Err(reject(Reason::UnexpectedFile, detail))
}
