//! One image directory: what is in it, and whether a drop may hold it.
//!
//! This room knows nothing of spool and tree: an image of either is walked, checked, compared, copied
//! and hashed alike. Uses `words`, `text`, `sys`, `settings` (limits) and `fault`. Start with
//! [`Image`].

mod compare;
mod copy;
mod entry;
mod header;
mod listing;
mod notes;
mod reading;
mod usual;

pub(crate) use copy::Base;
pub(crate) use entry::Content;
pub use listing::{FileMark, Listing};
pub(crate) use reading::hash_file;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;

use bytesize::ByteSize;
use rustix::io::Errno;

use self::entry::{Entry, check_links};
use crate::fault::{Fault, reject};
use crate::settings::Limits;
use crate::sys::{Dir, Failure, Importer, Kind, Ownership, Stat};
use crate::text::quoted;
use crate::words::Reason;

/// An image directory that has been walked, sorted by path.
#[derive(Debug)]
pub(crate) struct Image {
    dir: Dir,
    entries: Vec<Entry>,
    is_root_altered: bool,
    /// The user whose every file has to be; `None` where that doesn't matter.
    owner: Option<u32>,
}

/// Permission bits of published files.
const FILE_MODE: u32 = 0o644;
/// Permission bits of published directories.
pub(crate) const DIR_MODE: u32 = 0o755;

impl Image {
    /// Walks the image of a drop whose owner is `uid`, and refuses what no image may hold. The
    /// walk ends at the first limit that is passed.
    ///
    /// # Errors
    /// [`Fault::Reject`] with what is wrong and where.
    pub(crate) fn check(dir: Dir, uid: u32, limits: &Limits) -> Result<Self, Fault> {
        let owner = (uid != 0).then_some(uid);
        let mut bytes = 0;
        let image = Self::walk(dir, limits, owner, |stat, entry| {
            match entry.content {
                Content::Foreign => {
                    let path = quoted(&entry.path);
                    let detail = format!("{path} is no regular file, folder or link");
                    return Err(reject(Reason::UnsafeFile, detail));
                }
                Content::File(size) => {
                    check_owner(&entry.path, stat.owner.uid, owner)?;
                    bytes += size;
                }
                Content::Folder | Content::Link(_) => {}
            }
            if bytes > limits.max_image_size {
                let (max, path) = (ByteSize(limits.max_image_size), quoted(&entry.path));
                let key = limits.shown("max_image_size");
                let detail = format!("larger than {max} ({key}), reached at {path}");
                return Err(reject(Reason::TooLarge, detail));
            }
            Ok(false)
        })
        .map_err(of_importer)?;
        check_links(&image.entries)?;
        if image.files().next().is_none() {
            let detail = "image/ holds no regular file";
            return Err(reject(Reason::EmptyImage, detail));
        }
        Ok(image)
    }

    /// Walks an image in the tree. `published` is what the daemon gives to files; `None` where modes
    /// and owners don't matter.
    pub(crate) fn read(dir: Dir, published: Option<Ownership>) -> Result<Self, Fault> {
        Self::read_as(dir, |stat| {
            let mode = match stat.kind {
                Kind::Dir => DIR_MODE,
                Kind::Link => stat.mode,
                Kind::File | Kind::Other => FILE_MODE,
            };
            published.is_some_and(|owner| stat.owner != owner || stat.mode != mode)
        })
    }

    /// Walks a directory that somebody else made. What machines can't get at counts as altered: their
    /// server runs as a user of its own.
    pub(crate) fn read_plain(dir: Dir) -> Result<Self, Fault> {
        Self::read_as(dir, |stat| match stat.kind {
            Kind::Dir => stat.mode & 0o001 == 0,
            Kind::File => stat.mode & 0o004 == 0,
            Kind::Link | Kind::Other => false,
        })
    }

    fn read_as(dir: Dir, is_altered: impl Fn(&Stat) -> bool) -> Result<Self, Fault> {
        let is_root_altered = is_altered(&dir.stat_self()?);
        let image = Self::walk(dir, &UNLIMITED, None, |stat, _| {
            Ok(is_root_altered || is_altered(stat))
        })?;
        Ok(Self {
            is_root_altered,
            ..image
        })
    }

    /// Lists everything beneath `dir`. `is_altered` says of each entry whether it has another mode or
    /// owner than it was published with.
    fn walk(
        dir: Dir,
        limits: &Limits,
        owner: Option<u32>,
        mut is_altered: impl FnMut(&Stat, &Entry) -> Result<bool, Fault>,
    ) -> Result<Self, Fault> {
        let mut entries = Vec::new();
        let mut folders = VecDeque::from([(String::new(), 0)]);
        while let Some((folder, depth)) = folders.pop_front() {
            if depth > limits.max_depth {
                let (folder, max) = (quoted(&folder), limits.max_depth);
                let detail = format!("{folder} is more than {max} folders deep (limits.max_depth)");
                return Err(reject(Reason::TooDeep, detail));
            }
            let opened = (!folder.is_empty()).then(|| dir.existing_dir(&folder));
            let opened = opened.transpose()?;
            let here = opened.as_ref().unwrap_or(&dir);
            let mut see = |name: &OsStr, kind| {
                if entries.len() >= limits.max_files {
                    let (max, key) = (limits.max_files, limits.shown("max_files"));
                    let detail = format!("more than {max} files, folders and links ({key})");
                    return Err(reject(Reason::TooManyFiles, detail));
                }
                let (mut entry, stat) = Entry::look(here, &folder, name)?;
                entry.is_altered = is_altered(&stat, &entry)?;
                if kind == Kind::Dir {
                    folders.push_back((entry.path.clone(), depth + 1));
                }
                entries.push(entry);
                Ok(())
            };
            let mut seen = Ok(());
            here.each(|name, kind| {
                seen = see(name, kind);
                match seen {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
            seen?;
        }
        entries.sort_unstable_by(|a: &Entry, b| a.path.cmp(&b.path));
        Ok(Self {
            dir,
            entries,
            is_root_altered: false,
            owner,
        })
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every regular file, with its size in bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64)> + Clone {
        self.entries.iter().filter_map(|entry| match entry.content {
            Content::File(size) => Some((entry.path.as_str(), size)),
            _ => None,
        })
    }

    /// Whether the image holds nothing but what an image may hold, with the modes and owners that it
    /// was published with.
    pub(crate) fn is_sound(&self) -> bool {
        !self.has_foreign() && self.entries.iter().all(|entry| !entry.is_altered)
    }

    /// Whether something is in it that no image may hold.
    pub(crate) fn has_foreign(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.content == Content::Foreign)
    }

    /// Whether the image's own folder has another mode or owner than it was published with; then
    /// all that is in it counts as altered.
    pub(crate) fn is_root_altered(&self) -> bool {
        self.is_root_altered
    }

    /// All files' bytes together.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().map(|(_, size)| size).sum()
    }

    /// A failed system call on one of the files, for messages.
    pub(crate) fn failure(&self, doing: &'static str, path: &str, error: io::Error) -> Fault {
        of_importer(Failure::new(doing, self.dir.path().join(path), error).into())
    }
}

const UNLIMITED: Limits = Limits {
    max_image_size: u64::MAX,
    max_files: usize::MAX,
    max_depth: usize::MAX,
    max_waiting: usize::MAX,
    min_free_space: 0,
    by_rule: None,
};

/// What a failed system call on an importer's file means: where the file is the cause, the drop is
/// rejected; where the machine is, it is tried again.
fn of_importer(fault: Fault) -> Fault {
    let Fault::Retry(failure) = fault else {
        return fault;
    };
    let (reason, what) = match failure.errno() {
        // EAGAIN: somebody holds a lease on the file (fcntl(2)), and could do so again and again.
        Some(Errno::AGAIN) => (Reason::Unreadable, ""),
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV) => {
            (Reason::Changed, "it changed while it was read: ")
        }
        Some(Errno::XDEV) => (Reason::UnsafeFile, ""),
        _ if failure.is_by_owner() => (Reason::Unreadable, ""),
        _ => return Fault::Retry(failure),
    };
    reject(reason, format!("{what}{failure}"))
}

/// Makes sure that a file, which belongs to the user `uid`, is the drop's `owner`'s own: a hard link
/// can bring in a file that the importer may not even read.
fn check_owner(path: &str, uid: u32, owner: Option<u32>) -> Result<(), Fault> {
    let Some(owner) = owner.filter(|owner| *owner != uid) else {
        return Ok(());
    };
    let path = quoted(path);
    let [user, owner] = [uid, owner].map(|uid| Importer::of(uid).shown());
    let detail = format!("{path} belongs to {user}, and the drop to {owner}");
    Err(reject(Reason::UnsafeFile, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_importer_keeps_from_being_read_ends_its_drop_and_the_machines_trouble_does_not() {
        let fate = |errno| of_importer(Failure::new("opening", "linux", errno).into());
        for (errno, expected) in [
            (Errno::ACCESS, Reason::Unreadable),
            (Errno::PERM, Reason::Unreadable),
            (Errno::AGAIN, Reason::Unreadable),
            // A file of a folder that is encrypted by fscrypt, and locked.
            (Errno::NOKEY, Reason::Unreadable),
            (Errno::KEYREVOKED, Reason::Unreadable),
            (Errno::XDEV, Reason::UnsafeFile),
            (Errno::LOOP, Reason::Changed),
        ] {
            let Fault::Reject(rejection) = fate(errno) else {
                panic!("{errno:?}");
            };
            assert_eq!(rejection.reason, expected, "{errno:?}");
        }
        for errno in [Errno::IO, Errno::MFILE, Errno::NOMEM] {
            assert!(matches!(fate(errno), Fault::Retry(_)), "{errno:?}");
        }
    }
}
