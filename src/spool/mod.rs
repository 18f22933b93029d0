//! The spool: where drops come in, and where what became of them is written down.
//!
//! ```text
//! incoming/<drop>/               importers write here
//! processing/<claim>.<drop>/     claimed
//! rejected/<drop>/               whole, beside its outcome
//! outcomes/<uid>/<drop>.json     one for a drop, for its importer
//! status.socket                  the daemon tells what waits, and why
//! ```
//! A drop comes in as [`Seen`], is looked into until it is whole (`peek`), and goes on as [`Ready`],
//! [`Claimed`] and [`Leaving`] (`drop`). The room owns these folders, and what stands in them for
//! others to read: manifest and outcome. It uses `words`, `text`, `sys`, `settings`, `fault`, `log`
//! and `image`, and knows nothing of the tree. Start with [`Spool`].

mod checksums;
mod clock;
mod drafts;
mod drop;
mod manifest;
mod names;
mod new_drop;
mod outcome;
mod outcomes;
mod papers;
mod peek;
mod processing;
mod rejected;
mod scan;
mod stillness;
mod sweep;
mod view;
mod waiting;
mod watch;

pub(crate) use drop::{Claimed, Leaving, Peeked, Ready, Seen};
#[cfg(feature = "import")]
pub(crate) use manifest::Listed;
pub use manifest::Manifest;
pub(crate) use manifest::{Action, Replaces};
pub(crate) use names::DropKey;
pub(crate) use new_drop::NewDrop;
pub use outcome::Outcome;
pub(crate) use outcome::Published;
pub(crate) use papers::{Papers, account};
pub(crate) use scan::Scan;
pub(crate) use view::SpoolView;
pub(crate) use waiting::{WaitState, Waiting};
pub(crate) use watch::Watch;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use bytesize::ByteSize;

use self::clock::Clock;
use self::drop::Checkable;
use self::names::place_of;
use self::outcomes::{Outcomes, sweep_temporary};
use self::peek::{Looker, is_mounted};
use self::processing::Processing;
use self::rejected::Rejected;
use self::stillness::is_being_written;
use crate::fault::{Fault, Rejection, StartError};
use crate::settings::{Settings, SpoolSettings};
use crate::sys::{Dir, Failure, Stat, failpoint};
use crate::words::{ClaimId, Reason, Verdict};

/// The folders of a spool.
const INCOMING: &str = "incoming";
const PROCESSING: &str = "processing";
const REJECTED: &str = "rejected";
const OUTCOMES: &str = "outcomes";

/// Where the daemon answers what waits, and why.
const SOCKET: &str = "status.socket";

/// A drop that is the daemon's, with what it asks for, or why it is rejected.
type ClaimedDrop = (Claimed, Result<Papers, Rejection>);

/// The open spool; locked against other daemons.
#[derive(Debug)]
pub(crate) struct Spool {
    root: Dir,
    incoming: Dir,
    processing: Processing,
    rejected: Rejected,
    outcomes: Outcomes,
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
        // What is wrong with an image is its importer's to know.
        let rejected = root.dir_or_make(REJECTED, 0o700)?;
        sweep_temporary(&rejected)?;
        let outcomes = Outcomes::open(root.dir_or_make(OUTCOMES, 0o755)?)?;
        if matches!(outcomes.lets_importers_read(), Ok(false)) {
            tracing::warn!(
                "{:?} is on a file system without ACLs: importers can't read their outcomes",
                outcomes.dir.path()
            );
        }
        // Where that can't be found out, stillness alone decides.
        let knows_writers = knows_writers(&outcomes.dir).unwrap_or(false);
        Ok(Self {
            knows_writers,
            incoming: root.dir_or_make(INCOMING, 0o755)?,
            rejected: Rejected::new(rejected),
            outcomes,
            clock: Clock::default(),
            root,
            processing: Processing::new(processing),
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
            &self.processing.dir,
            &self.rejected.dir,
            &self.outcomes.dir,
        ];
        self.root.check_place()?;
        inside.into_iter().try_for_each(Dir::check_place)
    }

    /// As [`Processing::left_behind`].
    pub(crate) fn left_behind(&self) -> Result<(Vec<Seen>, Vec<Leaving>), Failure> {
        self.processing.left_behind(&self.outcomes)
    }

    /// The drops that are claimed.
    pub(crate) fn processing(&self) -> &Processing {
        &self.processing
    }

    /// As [`Looker::peek`].
    pub(crate) fn peek(&self, seen: Seen, settings: &Settings) -> Result<Peeked, Fault> {
        let place = if seen.is_incoming() {
            &self.incoming
        } else {
            &self.processing.dir
        };
        let looker = Looker {
            settings,
            clock: &|| self.clock.read(&self.processing.dir),
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
    ) -> Result<Option<ClaimedDrop>, Fault> {
        let Ready {
            seen,
            id,
            mut papers,
        } = ready;
        let processing = &self.processing.dir;
        failpoint("claim", "claiming", &seen.name)?;
        let claim = seen.claim.unwrap_or_else(|| self.processing.new_claim());
        let place = place_of(claim, &seen.key.claim_name);
        if seen.is_incoming() {
            match self.take_in(&seen, claim, &place) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Fault::Owner(failure)) => {
                    let is_rejected = papers.is_err() || seen.is_kept_too_long(settings);
                    if !is_rejected {
                        return Err(Fault::Owner(failure));
                    }
                    let mark = self.incoming.stat(&seen.name).ok().flatten();
                    let claimed = Claimed::in_place(seen, claim, mark);
                    return Ok(Some((claimed, Err(staying(papers, &failure)))));
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
            papers = Err(Rejection::new(Reason::Changed, detail));
        }
        let owner = stat.map_or(seen.owner, |stat| stat.owner.uid);
        let is_new = seen.is_incoming();
        let mut claimed = Claimed::new(seen, claim, owner);
        // Of what was claimed before the clock was set back nobody knows when.
        if let Some(stat) = stat.filter(|_| !is_new) {
            let age = self.clock.read(processing)?.age(stat.changed);
            claimed.since = Instant::now().checked_sub(age).unwrap_or(claimed.since);
        }
        if let Ok(papers) = &mut papers {
            claimed.credentials.manifest = papers.digest;
            claimed.credentials.signature = papers.signature.take();
        }
        Ok(Some((claimed, papers)))
    }

    /// Renames a drop into `processing/`, where no earlier outcome of its name is read for its own then;
    /// `false` when its importer has taken it away.
    ///
    /// # Errors
    /// As [`Spool::move_in`].
    fn take_in(&self, seen: &Seen, claim: ClaimId, place: &str) -> Result<bool, Fault> {
        let (owner, drop) = (seen.owner, (claim, &*seen.key.claim_name));
        let is_aside = self.outcomes.put_aside(owner, drop).unwrap_or(false);
        let taken = self.move_in(seen, place);
        if is_aside {
            let is_claimed = matches!(taken, Ok(true));
            let _ = self.outcomes.end_aside(owner, drop, is_claimed);
        }
        taken
    }

    /// Renames a drop into `processing/`; `false` when it isn't there any more.
    ///
    /// # Errors
    /// [`Fault::Owner`] when it is this very drop that can't be renamed, because of its owner.
    fn move_in(&self, seen: &Seen, place: &str) -> Result<bool, Fault> {
        let (incoming, processing) = (&self.incoming, &self.processing.dir);
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

    /// Writes the outcome of a drop, in place of one of an earlier drop of this name; the outcome of
    /// a rejected drop also where the drop will be kept.
    ///
    /// Returns why the latter was not possible: putting the drop away tries it again.
    pub(crate) fn write_outcome(
        &self,
        claimed: &mut Claimed,
        outcome: &mut Outcome,
        settings: &SpoolSettings,
    ) -> Result<Option<Failure>, Failure> {
        failpoint("outcome", "writing", self.outcomes.dir.path())?;
        let is_rejected = outcome.verdict == Verdict::Rejected;
        claimed.goes = is_rejected && claimed.stays.is_none() && self.has_no_room_for(settings);
        if claimed.goes {
            let min = ByteSize(settings.min_free_space);
            let detail = outcome.detail.take().unwrap_or_default();
            let detail = format!("{detail}; not kept: the spool has less than {min} free");
            outcome.detail = Some(detail);
        }
        let text = outcome.to_json();
        let drop = (claimed.claim, &*claimed.key.claim_name);
        self.outcomes.write(claimed.importer.uid, drop, &text)?;
        if !is_rejected || claimed.goes {
            return Ok(None);
        }
        Ok(self.rejected.write_outcome(drop, &text).err())
    }

    /// Whether there is too little room to keep a rejected drop, and no other that could go instead.
    fn has_no_room_for(&self, settings: &SpoolSettings) -> bool {
        let free = self.root.free_space();
        free.is_ok_and(|(free, _)| free < settings.min_free_space) && !self.rejected.has_any()
    }

    /// Makes the outcomes, and before that all that happened in the spool, durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        failpoint("spool-sync", "syncing", self.root.path())?;
        self.root.sync_file_system()
    }

    /// Whether drops are on the file system of `stat`.
    pub(crate) fn is_on_file_system_of(&self, stat: &Stat) -> bool {
        let own = self.processing.dir.stat_self();
        own.is_ok_and(|own| own.id.0 == stat.id.0)
    }

    /// Takes a drop that has its outcome out of `processing/`: a rejected drop is kept beside its
    /// outcome, any other is removed. One that can't be moved stays where it is until it is another.
    ///
    /// # Errors
    /// [`Fault::Owner`] when the drop's owner keeps it from being put away.
    pub(crate) fn put_away(&self, drop: &Leaving) -> Result<(), Fault> {
        let put_away = match (&drop.stays, &drop.rejected) {
            (Some(stays), _) => return self.rejected.check_stays(&self.incoming, stays),
            (None, Some(outcome)) => self.keep_rejected(drop, outcome),
            (None, None) => self.processing.remove(&drop.place, drop.bytes),
        };
        put_away.map_err(|failure| {
            let is_in_drop = failure.path.strip_prefix(self.processing.dir.path());
            let is_in_drop = is_in_drop.is_ok_and(|path| !path.as_os_str().is_empty());
            let can_move = || self.processing.dir.lets_move() && self.rejected.dir.lets_move();
            if is_in_drop && failure.is_by_owner() && can_move() {
                return Fault::Owner(failure);
            }
            failure.into()
        })
    }

    fn keep_rejected(&self, drop: &Leaving, outcome: &Outcome) -> Result<(), Failure> {
        let (rejected, text) = (&self.rejected, outcome.to_json());
        let kept = (outcome.claim, &*drop.key.claim_name);
        // Where it is another, it could not be written before, or a power cut has torn it.
        if !rejected.has_outcome(kept, &text)? {
            rejected.write_outcome(kept, &text)?;
            self.sync()?;
        }
        rejected.take(&self.processing.dir, &drop.place, kept)
    }

    /// Listens for whoever asks what waits, as [`SpoolView::ask`] does.
    pub(crate) fn listen(&self) -> Result<OwnedFd, Failure> {
        self.root.listen(SOCKET)
    }

    /// The folder that importers put drops into.
    pub(crate) fn incoming(&self) -> &Path {
        self.incoming.path()
    }
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

/// Why a drop is rejected that its owner keeps from being moved.
fn staying(papers: Checkable, failure: &Failure) -> Rejection {
    let mut rejection = match papers {
        Err(rejection) => rejection,
        Ok(_) => Rejection::new(Reason::Unreadable, failure.to_string()),
    };
    rejection.detail += "; it stays where it is, since it can't be moved";
    rejection
}
