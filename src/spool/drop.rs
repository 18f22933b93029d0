//! A drop on its way: seen, ready, claimed, leaving. Each is made of the one before.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::manifest::Manifest;
use super::outcome::Outcome;
use crate::fault::Rejection;
use crate::sys::Importer;
use crate::words::{Moment, Target, Verdict};

/// A name in `incoming/` or `processing/` that is to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(super) name: OsString,
    pub(super) claim_name: Arc<str>,
    /// When the drop became complete: what drops are ordered by.
    pub completed: Moment,
    /// Breaks ties: the clock of a file system is coarse.
    pub(super) arrival: u64,
    /// The drop is not claimed yet. One that was claimed before the daemon started is older than
    /// whatever is incoming.
    pub(super) is_incoming: bool,
    /// The drop was incomplete for too long.
    pub(super) is_overdue: bool,
}

impl Seen {
    /// A drop in `processing/` that became complete then.
    pub(super) fn claimed(name: OsString, claim_name: Arc<str>, completed: Moment) -> Self {
        Self {
            name,
            claim_name,
            completed,
            arrival: u64::MAX,
            is_incoming: false,
            is_overdue: false,
        }
    }

    /// The name that the drop has, or will have, in `processing/`.
    pub(crate) fn claim_name(&self) -> &Arc<str> {
        &self.claim_name
    }

    /// By the time of completion; of one tick of the clock, by the order of events, and without any
    /// by name.
    pub(super) fn in_order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |seen: &Self| (seen.is_incoming, seen.completed, seen.arrival);
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
    /// The drop's name in `processing/`: another than `name` only where that is not fit for a file.
    pub(super) claim_name: Arc<str>,
    pub importer: Importer,
    pub received_at: Moment,
    /// When the drop became the daemon's; a generation made of it is younger.
    pub since: Moment,
}

impl Claimed {
    /// The drop as it is found again where it is now, in `processing/`.
    pub(crate) fn again(&self) -> Seen {
        let name = OsStr::new(&*self.claim_name).to_os_string();
        Seen::claimed(name, Arc::clone(&self.claim_name), self.received_at)
    }
}

/// A drop that has its outcome, and is to be put away.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// The drop's name in `processing/`.
    pub claim_name: Arc<str>,
    /// The outcome of a rejected drop, which is kept beside it; any other is removed.
    pub(super) rejected: Option<Outcome>,
    /// Of the drop's image.
    pub bytes: u64,
}

impl Leaving {
    /// The drop in `processing/` whose outcome this is.
    pub(crate) fn new(claim_name: Arc<str>, outcome: Outcome) -> Self {
        let bytes = outcome.image.as_ref().map_or(0, |image| image.bytes);
        let rejected = (outcome.verdict == Verdict::Rejected).then_some(outcome);
        Self {
            claim_name,
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
            let seen = Self::claimed(name.into(), name.into(), completed);
            Self {
                is_incoming: true,
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
