//! The spool as anybody may see it who can read its folders: no lock is taken, nothing is changed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::drafts;
use super::names::{file_of, parse_place};
use super::outcome::Outcome;
use super::{INCOMING, OUTCOMES, PROCESSING, REJECTED};
use crate::sys::{Dir, Failure, Kind};
use crate::words::Moment;

/// A spool, to be looked at.
#[derive(Debug)]
pub(crate) struct SpoolView {
    root: Dir,
}

/// A drop that has no outcome yet.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting {
    pub drop: String,
    pub is_claimed: bool,
    /// Missing where something is mounted on it.
    pub since: Option<Moment>,
}

impl SpoolView {
    /// # Errors
    /// When the spool is not there, or can't be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        // The spool's folders have to be readable, not the spool itself.
        Dir::enter(path).map(|root| Self { root })
    }

    /// Drops that were claimed, then those that are complete or still written.
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>, Failure> {
        let mut waiting = Vec::new();
        for folder in [PROCESSING, INCOMING] {
            let Some(dir) = self.readable(folder)? else {
                continue;
            };
            for (name, _) in dir.names()? {
                let is_claimed = folder == PROCESSING;
                let drop = name.to_string_lossy();
                let parsed = parse_place(&name).filter(|_| is_claimed);
                let since = match dir.stat(&name) {
                    _ if drop.starts_with('.') => continue,
                    Ok(None) => continue,
                    Ok(Some(stat)) => Some(stat.changed),
                    Err(failure) if failure.is_by_owner() => None,
                    Err(failure) => return Err(failure),
                };
                waiting.push(Waiting {
                    drop: parsed.map_or_else(|| drop.to_string(), |(_, name)| name.to_string()),
                    is_claimed,
                    since,
                });
            }
        }
        Ok(waiting)
    }

    /// Names that importers are still writing to, or have left behind: each with the user whose it is,
    /// and when it was changed last, without what is in it.
    pub(crate) fn drafts(&self) -> Result<Vec<(String, u32, Moment)>, Failure> {
        let incoming = self.readable(INCOMING)?;
        incoming.map_or(Ok(Vec::new()), |incoming| drafts::list(&incoming))
    }

    /// The outcomes of rejected drops that are kept, the oldest first.
    pub(crate) fn rejected(&self) -> Result<Vec<Outcome>, Failure> {
        let Some(dir) = self.readable(REJECTED)? else {
            return Ok(Vec::new());
        };
        let mut rejected = Vec::new();
        for (name, kind) in dir.names()? {
            if kind == Kind::File && name.to_string_lossy().ends_with(".json") {
                rejected.extend(Outcome::read(&dir, &name)?);
            }
        }
        rejected.sort_by_key(|outcome| outcome.finished_at);
        Ok(rejected)
    }

    /// The file that the outcome of a drop is written to.
    pub(crate) fn outcome_file(&self, drop: &str) -> PathBuf {
        self.root.path().join(OUTCOMES).join(file_of(drop))
    }

    /// The outcome of a drop; `None` while there is none.
    pub(crate) fn outcome(&self, drop: &str) -> Result<Option<Outcome>, Failure> {
        let outcomes = self.root.existing_dir(OUTCOMES)?;
        Outcome::read(&outcomes, file_of(drop))
    }

    /// A folder of the spool; `None` also for one that this user may not read.
    fn readable(&self, folder: &str) -> Result<Option<Dir>, Failure> {
        match self.root.dir(folder) {
            Err(failure) if failure.is(ErrorKind::PermissionDenied) => Ok(None),
            dir => dir,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Reason, Verdict};

    #[test]
    fn the_drop_that_was_rejected_first_comes_first_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(REJECTED)).unwrap();
        for (drop, seconds) in [("a", 2), ("b", 1), ("c", 3)] {
            let at = Moment::from_stat(seconds, 0);
            let outcome = Outcome {
                format: Outcome::FORMAT,
                drop: drop.to_string(),
                claim: ClaimId::new(1, 2),
                target: None,
                verdict: Verdict::Rejected,
                reason: Some(Reason::Incomplete),
                detail: None,
                image: None,
                importer: Importer::of(0),
                received_at: at,
                finished_at: at,
            };
            let file = folder.path().join(REJECTED).join(file_of(drop));
            std::fs::write(file, outcome.to_json()).unwrap();
        }
        let rejected = SpoolView::open(folder.path()).unwrap().rejected().unwrap();
        let drops: Vec<_> = rejected.into_iter().map(|outcome| outcome.drop).collect();
        assert_eq!(drops, ["b", "a", "c"]);
    }
}
