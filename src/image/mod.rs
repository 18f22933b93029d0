//! One image directory: what is in it, and whether a drop may hold it.

mod compare;
mod copy;
mod listing;

pub(crate) use compare::compare;
pub(crate) use copy::{Base, copy, hash};
pub use listing::{FileMark, Listing};

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use bytesize::ByteSize;
use rustix::io::Errno;

use crate::fault::Fault;
use crate::settings::Limits;
use crate::sys::{Dir, Failure, Kind, Stat, dir};
use crate::text::quoted;
use crate::words::Reason;

/// The longest path in an image, in bytes: the kernel's own limit, less room for the tree above it.
const MAX_PATH: usize = 3_072;

/// The most parts of a path that following one link may take.
const MAX_LINK_STEPS: usize = 64;

/// An image directory that has been walked, sorted by path.
#[derive(Debug)]
pub(crate) struct Image {
    dir: Dir,
    entries: Vec<Entry>,
    bytes: u64,
    is_root_altered: bool,
    /// Whose every file has to be; `None` where that doesn't matter.
    owner: Option<u32>,
}

/// A name in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// From the image's root.
    pub path: String,
    pub content: Content,
    /// Published with another mode or owner than it has now.
    pub is_altered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Of this many bytes.
    File(u64),
    Folder,
    /// Holding this.
    Link(String),
    /// What no image may hold. Only in what somebody else put into the tree.
    Foreign,
}

/// User and group of what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
}

/// Permission bits of published files.
pub(crate) const FILE_MODE: u32 = 0o644;
/// Permission bits of published directories.
pub(crate) const DIR_MODE: u32 = 0o755;

impl Image {
    /// Walks the image of a drop whose owner is `uid`, and refuses what no image may hold. Ends
    /// at the first limit that is passed.
    ///
    /// # Errors
    /// [`Fault::Reject`] with what is wrong and where.
    pub(crate) fn check(dir: Dir, uid: u32, limits: &Limits) -> Result<Self, Fault> {
        let owner = (uid != 0).then_some(uid);
        let mut bytes = 0;
        let mut entries = walk(&dir, limits, |path, stat, link| {
            let content = match (stat.kind, link) {
                (Kind::File, _) => Content::File(stat.size),
                (Kind::Dir, _) => Content::Folder,
                (Kind::Link, Some(target)) => Content::Link(target),
                _ => {
                    let detail = format!(
                        "{} is no regular file, folder or link; expected nothing else",
                        quoted(&path)
                    );
                    return Err(Fault::Reject(Reason::UnsafeFile, detail));
                }
            };
            if let Content::File(size) = content {
                check_owner(&path, stat.uid, owner)?;
                bytes += size;
                if bytes > limits.max_image_size {
                    let detail = format!(
                        "more than {}, which `limits.max_image_size` allows, at {}",
                        ByteSize(limits.max_image_size),
                        quoted(&path)
                    );
                    return Err(Fault::Reject(Reason::TooLarge, detail));
                }
            }
            Ok(Entry {
                path,
                content,
                is_altered: false,
            })
        })
        .map_err(of_importer)?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        check_links(&entries)?;
        if !entries
            .iter()
            .any(|entry| matches!(entry.content, Content::File(_)))
        {
            let detail = "the image holds no regular file; expected at least one".to_string();
            return Err(Fault::Reject(Reason::EmptyImage, detail));
        }
        Ok(Self {
            dir,
            entries,
            bytes,
            is_root_altered: false,
            owner,
        })
    }

    /// Walks an image in the tree. `published` is what the daemon gave it; `None` for a directory
    /// that somebody else made, whose modes and owners are nobody's business.
    pub(crate) fn read(dir: Dir, published: Option<Ownership>) -> Result<Self, Fault> {
        let is_altered = |stat: &Stat| {
            let mode = if stat.kind == Kind::Dir {
                DIR_MODE
            } else {
                FILE_MODE
            };
            published.is_some_and(|owner| {
                (stat.uid, stat.gid) != (owner.uid, owner.gid)
                    || (stat.kind != Kind::Link && stat.mode != mode)
            })
        };
        let is_root_altered = is_altered(&dir.stat_self()?);
        let mut bytes = 0;
        let mut entries = walk(&dir, &UNLIMITED, |path, stat, link| {
            let content = match (stat.kind, link) {
                (Kind::File, _) => Content::File(stat.size),
                (Kind::Dir, _) => Content::Folder,
                (Kind::Link, Some(target)) => Content::Link(target),
                _ => Content::Foreign,
            };
            if let Content::File(size) = content {
                bytes += size;
            }
            Ok(Entry {
                path,
                content,
                is_altered: is_root_altered || is_altered(&stat),
            })
        })?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            dir,
            entries,
            bytes,
            is_root_altered,
            owner: None,
        })
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every regular file, with its size in bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().filter_map(|entry| match entry.content {
            Content::File(size) => Some((entry.path.as_str(), size)),
            _ => None,
        })
    }

    /// Whether it holds nothing but what an image may hold, as it was published.
    pub(crate) fn is_sound(&self) -> bool {
        let is_sound = |entry: &Entry| !entry.is_altered && entry.content != Content::Foreign;
        self.entries.iter().all(is_sound)
    }

    /// Whether the image's own folder has another mode or owner than it was published with; then
    /// all that is in it counts as altered.
    pub(crate) fn is_root_altered(&self) -> bool {
        self.is_root_altered
    }

    /// All files' bytes together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens one of the files, and makes sure that it still is what was walked: another may have
    /// been put in its place.
    pub(crate) fn open(&self, path: &str, size: u64) -> Result<File, Fault> {
        let file = self
            .dir
            .existing_file(path)
            .map_err(|failure| of_importer(failure.into()))?;
        let stat =
            dir::stat_file(&file).map_err(|error| self.failure("looking at", path, error))?;
        if stat.kind != Kind::File || stat.size != size {
            return Err(changed(path));
        }
        check_owner(path, stat.uid, self.owner)?;
        Ok(file)
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
    min_free_space: 0,
};

/// A file of the importer's changed while it was read.
pub(crate) fn changed(path: &str) -> Fault {
    let detail = format!(
        "{} changed while it was read; expected it to stay",
        quoted(path)
    );
    Fault::Reject(Reason::Changed, detail)
}

/// What a failed system call on an importer's file means: where the file is the cause, the drop is
/// rejected; where the machine is, it is tried again.
fn of_importer(fault: Fault) -> Fault {
    let Fault::Retry(failure) = fault else {
        return fault;
    };
    let errno = Errno::from_io_error(&failure.source);
    match errno {
        // EAGAIN: somebody holds a lease on it (fcntl(2)), and could do so again and again.
        Some(Errno::ACCESS | Errno::PERM | Errno::AGAIN) => {
            Fault::Reject(Reason::Unreadable, failure.to_string())
        }
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV) => {
            let detail = format!("it changed while it was read: {failure}");
            Fault::Reject(Reason::Changed, detail)
        }
        Some(Errno::XDEV) => {
            let detail = format!("another file system is mounted there: {failure}");
            Fault::Reject(Reason::UnsafeFile, detail)
        }
        _ => Fault::Retry(failure),
    }
}

/// A hard link can bring in a file that its importer may not even read: what the daemon publishes
/// has to be the importer's own.
fn check_owner(path: &str, uid: u32, owner: Option<u32>) -> Result<(), Fault> {
    match owner {
        Some(owner) if owner != uid => {
            let detail = format!(
                "{} belongs to user {uid}; expected it to belong to {owner}, as the drop does",
                quoted(path)
            );
            Err(Fault::Reject(Reason::UnsafeFile, detail))
        }
        _ => Ok(()),
    }
}

/// Calls `see` with every name beneath `root`: its path, what it is, and what it holds if it is a
/// link with a text in it.
fn walk(
    root: &Dir,
    limits: &Limits,
    mut see: impl FnMut(String, Stat, Option<String>) -> Result<Entry, Fault>,
) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new();
    let mut folders = VecDeque::from([(String::new(), 0)]);
    while let Some((folder, depth)) = folders.pop_front() {
        if depth > limits.max_depth {
            let detail = format!(
                "{} is more than {} folders deep, which `limits.max_depth` allows",
                quoted(&folder),
                limits.max_depth
            );
            return Err(Fault::Reject(Reason::TooDeep, detail));
        }
        let opened;
        let dir = if folder.is_empty() {
            root
        } else {
            opened = root.existing_dir(&folder)?;
            &opened
        };
        let mut result = Ok(());
        dir.each(|name, kind| {
            result = (|| {
                if entries.len() >= limits.max_files {
                    let detail = format!(
                        "more than {}, which `limits.max_files` allows",
                        limits.max_files
                    );
                    return Err(Fault::Reject(Reason::TooManyFiles, detail));
                }
                let name = plain_name(name, &folder)?;
                let path = if folder.is_empty() {
                    name
                } else {
                    format!("{folder}/{name}")
                };
                let leaf = &path[path.rfind('/').map_or(0, |slash| slash + 1)..];
                let stat = dir.stat(leaf)?.ok_or_else(|| changed(&path))?;
                let link = if stat.kind == Kind::Link {
                    link_text(dir, leaf)?
                } else {
                    None
                };
                if kind == Kind::Dir {
                    folders.push_back((path.clone(), depth + 1));
                }
                entries.push(see(path, stat, link)?);
                Ok(())
            })();
            if result.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        result?;
    }
    Ok(entries)
}

fn plain_name(name: &std::ffi::OsStr, folder: &str) -> Result<String, Fault> {
    let unsafe_name = || {
        let detail = format!(
            "{} in {}; expected names in UTF-8 without control characters, in paths of at most \
             {MAX_PATH} bytes",
            quoted(&name.to_string_lossy()),
            if folder.is_empty() {
                "the image's root".to_string()
            } else {
                quoted(folder)
            },
        );
        Fault::Reject(Reason::UnsafeName, detail)
    };
    let text = name
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    let fits = folder.len() + name.len() < MAX_PATH;
    text.filter(|_| fits)
        .map(str::to_string)
        .ok_or_else(unsafe_name)
}

fn link_text(dir: &Dir, name: &str) -> Result<Option<String>, Failure> {
    let text = dir.link(name)?.and_then(|target| target.into_string().ok());
    Ok(text.filter(|text| !text.contains(char::is_control)))
}

fn check_links(entries: &[Entry]) -> Result<(), Fault> {
    for entry in entries {
        let Content::Link(target) = &entry.content else {
            continue;
        };
        if !ends_inside(entries, &entry.path, target) {
            let detail = format!(
                "{} -> {}; expected a relative link to a file or folder of the image",
                quoted(&entry.path),
                quoted(target)
            );
            return Err(Fault::Reject(Reason::UnsafeFile, detail));
        }
    }
    Ok(())
}

/// Whether following the link `path` that holds `target` never leaves the image and ends at a name
/// that is there. Follows it as the kernel does (`path_resolution(7)`): part by part, links on the
/// way as well.
fn ends_inside(entries: &[Entry], path: &str, target: &str) -> bool {
    let find = |path: &str| {
        entries
            .binary_search_by(|entry| entry.path.as_str().cmp(path))
            .map(|index| &entries[index].content)
    };
    let parent = path.rfind('/').map_or("", |slash| &path[..slash]);
    let mut at = parent.to_string();
    let mut parts: Vec<&str> = target.rsplit('/').collect();
    if target.starts_with('/') {
        return false;
    }
    for _ in 0..MAX_LINK_STEPS {
        let Some(part) = parts.pop() else { return true };
        match part {
            "" | "." => {}
            ".." if at.is_empty() => return false,
            ".." => at.truncate(at.rfind('/').unwrap_or(0)),
            name => {
                let length = at.len();
                if !at.is_empty() {
                    at.push('/');
                }
                at.push_str(name);
                match find(&at) {
                    Ok(Content::Folder) => {}
                    Ok(Content::File(_)) if parts.is_empty() => {}
                    Ok(Content::Link(target)) if !target.starts_with('/') => {
                        at.truncate(length);
                        parts.extend(target.rsplit('/'));
                    }
                    _ => return false,
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(links: &[(&str, &str)]) -> bool {
        let entry = |path: &str, content| Entry {
            path: path.into(),
            content,
            is_altered: false,
        };
        let mut entries = vec![
            entry("a", Content::Folder),
            entry("a/b", Content::Folder),
            entry("a/b/file", Content::File(1)),
            entry("linux", Content::File(1)),
        ];
        entries.extend(
            links
                .iter()
                .map(|(path, to)| entry(path, Content::Link((*to).into()))),
        );
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        check_links(&entries).is_ok()
    }

    #[test]
    fn a_link_that_ends_inside_the_image_is_kept() {
        assert!(ends(&[("x", "linux")]));
        assert!(ends(&[("a/x", "../linux")]));
        assert!(ends(&[("a/b/x", "../../a/./b//file")]));
        assert!(ends(&[("x", "a/b/"), ("y", "x/file"), ("z", "y")]));
        assert!(ends(&[("x", ".")]));
    }

    #[test]
    fn a_link_to_the_outside_to_nothing_or_in_a_loop_is_refused() {
        for target in [
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "nothing",
            "linux/",
            "linux/x",
            "x",
            "a/b/../../../etc",
        ] {
            assert!(!ends(&[("x", target)]), "{target}");
        }
        assert!(!ends(&[("x", "y"), ("y", "x")]));
        assert!(
            !ends(&[("a/up", ".."), ("x", "a/up/..")]),
            "`..` after a link leads out"
        );
        assert!(!ends(&[("out", "/"), ("x", "out/etc")]));
    }
}
