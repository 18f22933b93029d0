//! What went wrong, and what becomes of the drop: an error says its fate where it arises.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What became of a drop, in a word. The words are part of the outcome's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What it asked for is current now.
    Published,
    /// It was current already.
    Unchanged,
    /// The target was taken out of the tree.
    Withdrawn,
    Rejected,
}

impl Verdict {
    pub const ALL: [Self; 4] = [
        Self::Published,
        Self::Unchanged,
        Self::Withdrawn,
        Self::Rejected,
    ];

    /// The word that stands in an outcome and in a log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::Withdrawn => "withdrawn",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a drop is rejected. The words are part of the outcome's format: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The drop's name is no text, has control characters or is too long.
    BadName,
    /// What lies in `incoming/` is no directory.
    NotADirectory,
    BadManifest,
    /// No manifest, or not every file that it lists, within `spool.incomplete_timeout`.
    Incomplete,
    /// Something in the drop that is neither the manifest nor the image.
    UnexpectedFile,
    /// A file that the manifest doesn't list.
    UnlistedFile,
    ChecksumMismatch,
    /// No regular file, directory, or relative link that ends inside the image; or not the
    /// importer's own.
    UnsafeFile,
    /// A file's name is no text, or has control characters.
    UnsafeName,
    /// The daemon may not read it.
    Unreadable,
    /// It changed while it was read.
    Changed,
    EmptyImage,
    TooLarge,
    TooManyFiles,
    TooDeep,
    /// Something that the daemon did not publish stands where the pointer belongs.
    TargetOccupied,
    /// The current generation is not the one that the drop replaces.
    Conflict,
    /// There is nothing to roll back or to withdraw.
    UnknownTarget,
    /// The generation to go back to is not kept any more.
    UnknownGeneration,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What ended the work on a drop before it was published.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The drop will never be good: it is rejected. The text is for people.
    #[error("{0}: {1}")]
    Reject(Reason, String),
    /// The machine's trouble, not the drop's: it is tried again later.
    #[error(transparent)]
    Retry(#[from] Failure),
    /// There is not enough room: it is tried again later.
    #[error("{wanted} needed beside `limits.min_free_space`, {free} free")]
    NoSpace {
        wanted: bytesize::ByteSize,
        free: bytesize::ByteSize,
    },
    /// The daemon is stopping: the drop waits for the next start.
    #[error("interrupted by the daemon's end")]
    Interrupted,
}

/// Why the daemon can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("{0:?} is used by another daemon; expected to be its only one")]
    InUse(PathBuf),
    #[error("there is no {kind} {name:?}, which `tree.owner` or `tree.group` names")]
    NoAccount { kind: &'static str, name: String },
}

/// A system call that failed: "doing what to 'which path': why".
#[derive(Debug)]
pub struct Failure {
    pub doing: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl std::error::Error for Failure {
    // The display names the cause already: in a chain it would stand there twice.
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path can hold anything: its debug form escapes what could move a cursor.
        write!(f, "{} {:?}: {}", self.doing, self.path, self.source)
    }
}

impl Failure {
    pub fn new(
        doing: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self {
            doing,
            path: path.into(),
            source: source.into(),
        }
    }

    /// The same failure for another drop that it concerns.
    pub fn again(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        Self {
            doing: self.doing,
            path: self.path.clone(),
            source,
        }
    }
}

use serde::Serialize as _;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_same_word_in_a_log_and_in_an_outcome() {
        assert_eq!(Reason::ChecksumMismatch.to_string(), "checksum-mismatch");
        assert_eq!(
            serde_json::to_string(&Reason::TooLarge).unwrap(),
            "\"too-large\""
        );
    }

    #[test]
    fn a_failure_says_what_was_done_to_which_path_and_escapes_it() {
        let failure = Failure::new("opening", "a\x1b[2J", io::Error::from_raw_os_error(13));
        assert_eq!(
            failure.to_string(),
            "opening \"a\\u{1b}[2J\": Permission denied (os error 13)"
        );
    }
}
