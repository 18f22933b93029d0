//! The way to a path beneath a folder that the admin named, and what is in the way.

use std::io;
use std::path::{Path, PathBuf};

use crate::fault::Unwritable;
use crate::sys::{Dir, Failure, Kind};

/// What keeps the daemon from making something beneath the root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Blocked {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("{0:?} is {1}; expected {2}, or nothing yet")]
    InTheWay(PathBuf, &'static str, &'static str),
    #[error("{0:?} is damaged, taking all that is there for somebody else's")]
    Damaged(PathBuf),
}

impl Blocked {
    /// Whether another user might be allowed to.
    pub(crate) fn is_of_user(&self) -> bool {
        match self {
            Self::Failure(failure) => failure.errno() == Some(rustix::io::Errno::ACCESS),
            Self::Unwritable(trouble) => trouble.is_of_user(),
            Self::InTheWay(..) | Self::Damaged(_) => false,
        }
    }

    /// Whether the root isn't there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Failure(failure) if failure.is(io::ErrorKind::NotFound))
    }
}

/// What stands at a path beneath a folder.
#[derive(Debug)]
pub(super) struct Found<'p> {
    /// The last folder on the way that is there.
    pub(super) folder: Dir,
    /// What is missing below that, at least the name at the path's end, which may be there.
    pub(super) missing: &'p Path,
    /// What has that name; `None` where nothing has.
    pub(super) kind: Option<Kind>,
}

/// The way to `path` beneath `root`. No link is followed.
///
/// # Errors
/// When something on the way is no folder.
pub(super) fn find<'p>(root: &Path, path: &'p Path) -> Result<Found<'p>, Blocked> {
    let (mut folder, mut parts) = (Dir::open(root)?, path.iter());
    loop {
        let missing = parts.as_path();
        let part = parts.next().unwrap_or_default();
        let is_last = parts.as_path() == Path::new("");
        match folder.stat(part)?.map(|stat| stat.kind) {
            Some(Kind::Dir) if !is_last => folder = folder.existing_dir(part)?,
            Some(kind) if !is_last => {
                let path = folder.path().join(part);
                return Err(Blocked::InTheWay(path, kind_in_words(kind), "a folder"));
            }
            kind => {
                return Ok(Found {
                    folder,
                    missing,
                    kind,
                });
            }
        }
    }
}

impl Found<'_> {
    /// The name at the path's end.
    pub(super) fn name(&self) -> &str {
        // A path of the settings is a text.
        let name = self.missing.file_name();
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether the folder is the one that has, or will have, the name at the path's end.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.iter().count() == 1
    }

    /// Something stands there, and `expected` could be there instead.
    pub(super) fn in_the_way(&self, what: &'static str, expected: &'static str) -> Blocked {
        Blocked::InTheWay(self.folder.path().join(self.missing), what, expected)
    }

    /// What the link of this name in the folder holds; `None` where there is none.
    pub(super) fn held(&self, name: &str) -> Result<Option<String>, Failure> {
        let held = self.folder.link(name)?;
        Ok(held.map(|held| held.to_string_lossy().into_owned()))
    }

    pub(super) fn check_writable(&self) -> Result<(), Blocked> {
        Ok(self.folder.check_writable().map_err(Unwritable::from)?)
    }
}

pub(super) fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "a folder",
        Kind::Link => "a link",
        Kind::File => "a file",
        Kind::Other => "a device or a pipe",
    }
}
