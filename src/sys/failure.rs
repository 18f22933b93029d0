//! A system call that failed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// A system call that failed: "doing what to 'which path': why".
///
/// The display names the `cause`: as the source of this error it would stand in a chain twice. The
/// path is shown in its debug form, which escapes what could move a cursor.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing} {path:?}: {}", said(cause))]
pub struct Failure {
    pub doing: &'static str,
    pub path: PathBuf,
    pub cause: Arc<io::Error>,
}

impl Failure {
    pub(crate) fn new(
        doing: &'static str,
        path: impl Into<PathBuf>,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self {
            doing,
            path: path.into(),
            cause: Arc::new(cause.into()),
        }
    }

    /// The number of the error, where the kernel gave it.
    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.cause)
    }

    pub(crate) fn is(&self, kind: io::ErrorKind) -> bool {
        self.cause.kind() == kind
    }

    /// Whether the cause lies in what the call was made on, as its owner has left that: something is
    /// mounted there, it is shut, or its key is not there.
    pub(crate) fn is_by_owner(&self) -> bool {
        let errno = self.errno();
        let is_shut = matches!(errno, Some(Errno::ACCESS | Errno::PERM));
        let is_mounted = matches!(errno, Some(Errno::XDEV | Errno::BUSY));
        is_shut || is_mounted || is_locked(errno)
    }
}

/// Whether a file is encrypted, and the kernel doesn't have its key (fscrypt).
fn is_locked(errno: Option<Errno>) -> bool {
    matches!(
        errno,
        Some(Errno::NOKEY | Errno::KEYEXPIRED | Errno::KEYREVOKED | Errno::KEYREJECTED)
    )
}

/// The cause in words that say more than the kernel's.
fn said(cause: &io::Error) -> String {
    match Errno::from_io_error(cause) {
        Some(Errno::XDEV) => "another file system is mounted there".to_string(),
        Some(Errno::BUSY) => "busy, as where something is mounted".to_string(),
        errno if is_locked(errno) => "encrypted, and its key is not there".to_string(),
        _ => in_words(cause),
    }
}

/// What the kernel says, without the number that the standard library puts after it.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|it| format!(" (os error {it})"));
    let words = number.and_then(|number| text.strip_suffix(&*number).map(String::from));
    words.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_done_to_which_path_and_escapes_it() {
        let failure = Failure::new("opening", "a\x1b[2J", io::Error::from_raw_os_error(13));
        assert_eq!(
            failure.to_string(),
            "opening \"a\\u{1b}[2J\": Permission denied"
        );
    }

    #[test]
    fn what_an_owner_keeps_from_the_daemon_is_told_from_what_the_machine_can_not_do() {
        let failure = |errno: Errno| Failure::new("opening", "linux", errno);
        for (errno, said) in [
            (Errno::XDEV, "another file system is mounted there"),
            (Errno::BUSY, "busy, as where something is mounted"),
            (Errno::NOKEY, "encrypted, and its key is not there"),
            (Errno::ACCESS, "Permission denied"),
            (Errno::PERM, "Operation not permitted"),
        ] {
            let failure = failure(errno);
            assert!(failure.is_by_owner(), "{failure}");
            assert_eq!(failure.to_string(), format!("opening \"linux\": {said}"));
        }
        for errno in [
            Errno::IO,
            Errno::NOSPC,
            Errno::MFILE,
            Errno::NOENT,
            Errno::ROFS,
        ] {
            assert!(!failure(errno).is_by_owner(), "{errno:?}");
        }
    }
}
