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
#[error("{doing} {path:?}: {}", in_words(cause))]
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
}
