//! A drop on its way: seen, ready, claimed, leaving. Each is made of the one before.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::manifest::Manifest;
use super::names::{check_name, place_of};
use super::outcome::Outcome;
use crate::fault::Rejection;
use crate::sys::Importer;
use crate::words::{ClaimId, Moment, Target, Verdict};

/// A name in `incoming/` or `processing/` that is to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The drop's own name; of a claimed drop, its claim name.
    pub(super) name: OsString,
    pub(super) claim_name: Arc<str>,
    /// The claim by which the drop is in `processing/`; `None` while it is in `incoming/`. One that
    /// was claimed before the daemon started is older than whatever is incoming.
    pub(super) claim: Option<ClaimId>,
    /// When the drop became complete: what drops are ordered by.
    pub completed: Moment,
    /// Breaks ties: the clock of a file system is coarse.
    pub(super) arrival: u64,
    /// The drop was incomplete for too long.
    pub(super) is_overdue: bool,
}

impl Seen {
    /// A drop in `processing/` that became complete then.
    pub(super) fn claimed(claim: ClaimId, claim_name: Arc<str>, completed: Moment) -> Self {
        Self {
            name: OsStr::new(&*claim_name).to_os_string(),
            claim_name,
            claim: Some(claim),
            completed,
            arrival: u64::MAX,
            is_overdue: false,
        }
    }

    pub(super) fn is_incoming(&self) -> bool {
        self.claim.is_none()
    }

    /// The drop's name in the folder that it is in.
    pub(super) fn place(&self) -> Cow<'_, OsStr> {
        match self.claim {
            Some(claim) => OsString::from(place_of(claim, &self.claim_name)).into(),
            None => self.name.as_os_str().into(),
        }
    }

    /// The drop's name as outcomes and logs show it.
    pub(crate) fn shown_name(&self) -> String {
        let name = self.name.to_string_lossy();
        match check_name(&self.name) {
            Ok(()) => name.to_string(),
            Err(_) => name.escape_debug().collect(),
        }
    }

    /// The drop's name where that is fit for a file, and what stands for it elsewhere: its outcome
    /// is called so, and a part of its name in `processing/`.
    pub(crate) fn claim_name(&self) -> &Arc<str> {
        &self.claim_name
    }

    /// By the time of completion; of one tick of the clock, by the order of events, and without any
    /// by name.
    pub(super) fn in_order(&self, other: &Self) -> std::cmp::Ordering {
        let number = |seen: &Self| seen.claim.map(|claim| claim.number());
        let key = |seen: &Self| {
            let is_incoming = seen.is_incoming();
            (is_incoming, number(seen), seen.completed, seen.arrival)
        };
        let by_name = || self.name.cmp(&other.name);
        key(self).cmp(&key(other)).then_with(by_name)
    }
}

/// What a look into a drop has shown.
#[derive(Debug)]
pub(crate) enum Peeked {
    Ready(Ready),
    /// Not every file that the manifest lists is there: the drop waits.
    Incomplete,
    /// The drop's importer has taken it away, or it was removed.
    Gone,
}

/// A manifest, or why the drop is rejected without a look at its image.
pub(crate) type Checkable = Result<Manifest, Rejection>;

/// A drop whose manifest was read, or can't be.
#[derive(Debug)]
pub(crate) struct Ready {
    pub seen: Seen,
    /// Device and inode; `None` when the drop is no directory.
    pub(super) id: Option<(u64, u64)>,
    pub(super) manifest: Checkable,
}

impl Ready {
    /// How many files the manifest lists: what the drop costs in memory.
    pub(crate) fn listed(&self) -> usize {
        let manifest = self.manifest.as_ref().ok();
        let files = manifest.and_then(|manifest| manifest.files.as_ref());
        files.map_or(0, BTreeMap::len)
    }

    /// What the drop is for; `None` when its manifest can't be read.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.manifest.as_ref().ok().map(|manifest| &manifest.target)
    }
}

/// A drop that is the daemon's.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// As outcomes and logs show it.
    pub name: String,
    /// Another than `name` only where that is not fit for a file.
    pub(super) claim_name: Arc<str>,
    pub claim: ClaimId,
    pub importer: Importer,
    pub received_at: Moment,
    /// When the drop became the daemon's; a generation made of it is younger.
    pub since: Moment,
}

impl Claimed {
    /// The drop as it is found again where it is now, in `processing/`.
    pub(crate) fn again(&self) -> Seen {
        Seen::claimed(self.claim, Arc::clone(&self.claim_name), self.received_at)
    }

    /// The drop's name in `processing/`.
    pub(super) fn place(&self) -> String {
        place_of(self.claim, &self.claim_name)
    }
}

/// A drop that has its outcome, and is to be put away.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub claim_name: Arc<str>,
    /// The drop's name in `processing/`.
    pub(super) place: String,
    /// The outcome of a rejected drop, which is kept beside it; any other is removed.
    pub(super) rejected: Option<Outcome>,
    /// Of the drop's image.
    pub bytes: u64,
}

impl Leaving {
    /// The drop in `processing/` whose outcome this is.
    pub(crate) fn new(claim_name: Arc<str>, outcome: Outcome) -> Self {
        let place = place_of(outcome.claim, &claim_name);
        let bytes = outcome.image.as_ref().map_or(0, |image| image.bytes);
        let rejected = (outcome.verdict == Verdict::Rejected).then_some(outcome);
        Self {
            claim_name,
            place,
            rejected,
            bytes,
        }
    }
}

/// Drops without a spool, for tests of what orders them.
#[cfg(test)]
mod tests {
    use super::*;

    impl Seen {
        pub(crate) fn for_test(name: &str, completed: Moment) -> Self {
            let claim = ClaimId::new(0, 0);
            let seen = Self::claimed(claim, name.into(), completed);
            Self {
                claim: None,
                ..seen
            }
        }
    }

    impl Ready {
        pub(crate) fn for_test(seen: Seen, manifest: Checkable) -> Self {
            let id = None;
            Self { seen, id, manifest }
        }
    }
}
