//! A system call that failed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

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
    pub(crate) fn new(
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

    /// The number of the error, where the kernel gave one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }

    pub(crate) fn is(&self, kind: io::ErrorKind) -> bool {
        self.source.kind() == kind
    }

    /// The same failure for another drop that it concerns.
    pub(crate) fn again(&self) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_done_to_which_path_and_escapes_it() {
        let failure = Failure::new("opening", "a\x1b[2J", io::Error::from_raw_os_error(13));
        assert_eq!(
            failure.to_string(),
            "opening \"a\\u{1b}[2J\": Permission denied (os error 13)"
        );
    }
}
