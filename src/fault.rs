//! What went wrong, and what becomes of the drop: an error says its fate where it arises.

use std::path::PathBuf;

use crate::sys::Failure;
use crate::words::Reason;

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
