//! What an error leads to is said where it arises: the drop is rejected, or tried again, or the daemon
//! can't begin. Uses `words` and `sys`.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::sys::{Failure, Importer, Ownership, UnknownAccount};
use crate::words::{Reason, Target};

/// What ended the work on a drop before it was published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The drop will never be good.
    #[error(transparent)]
    Reject(#[from] Rejection),
    /// The machine's trouble, not the drop's: the drop is tried again later.
    #[error(transparent)]
    Retry(#[from] Failure),
    /// The trouble is one that the drop's owner makes, with a mount or a mode: the drop waits, holds
    /// up nobody meanwhile, and is no trouble of the daemon's.
    #[error(transparent)]
    Owner(Failure),
    /// There is not enough room, and how much is missing: the drop is tried again later.
    #[error("{0}")]
    NoSpace(String),
    /// The daemon is stopping: the drop waits for the next start.
    #[error("interrupted by the daemon's end")]
    Interrupted,
}

impl Fault {
    /// What the drop is rejected for if it goes on like this: it lets others pass meanwhile. `None`
    /// where they would meet the same.
    pub(crate) fn steps_aside(&self) -> Option<Reason> {
        let is_full = match self {
            Self::NoSpace(_) => true,
            Self::Retry(failure) => {
                matches!(
                    failure.errno(),
                    Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG)
                )
            }
            Self::Owner(_) | Self::Reject(_) | Self::Interrupted => false,
        };
        is_full.then_some(Reason::NoSpace)
    }
}

/// Why a drop is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub(crate) struct Rejection {
    pub(crate) reason: Reason,
    /// For people: what is wrong, and what was expected.
    pub(crate) detail: String,
    /// What the manifest says that the drop is for, to be shown: nobody has vouched for it.
    pub(crate) target: Option<Box<Target>>,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            target: None,
        }
    }

    /// The same, of a drop whose manifest says that it is for this.
    pub(crate) fn of(self, target: Target) -> Self {
        let target = Some(Box::new(target));
        Self { target, ..self }
    }
}

/// The drop is rejected.
pub(crate) fn reject(reason: Reason, detail: impl Into<String>) -> Fault {
    Fault::Reject(Rejection::new(reason, detail))
}

/// Why the daemon can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("{0:?} is in use by another netboot-publisher")]
    InUse(PathBuf),
    #[error(transparent)]
    UnknownAccount(#[from] UnknownAccount),
}

/// A folder that the daemon can't write into, though it has to.
#[derive(Debug, thiserror::Error)]
#[error("{failure}; {}", advice(failure))]
pub struct Unwritable {
    // The display names it: it is no source.
    failure: Failure,
}

impl From<Failure> for Unwritable {
    fn from(failure: Failure) -> Self {
        Self { failure }
    }
}

impl Unwritable {
    /// Whether another user might be allowed to.
    pub(crate) fn is_of_user(&self) -> bool {
        self.failure.errno() == Some(Errno::ACCESS)
    }
}

/// What to do about a folder that can't be written.
fn advice(failure: &Failure) -> String {
    match failure.errno() {
        Some(Errno::ROFS) => "mount it for writing, or name it in `ReadWritePaths=` of the unit \
            (systemctl edit netboot-publisher)"
            .to_string(),
        Some(Errno::ACCESS) => {
            let user = Importer::of(Ownership::of_process().uid).name;
            format!("let the user {user:?} write there")
        }
        _ => "expected a folder that can be written".to_string(),
    }
}
