//! What an image holds, name by name, and where its links lead.

use std::ffi::OsStr;

use crate::fault::{Fault, reject};
use crate::sys::{Dir, Kind, Stat};
use crate::text::quoted;
use crate::words::Reason;

/// The longest path in an image, in bytes: the kernel's own limit, less room for the tree above it.
const MAX_PATH: usize = 3_072;

/// The most parts of a path that following one link may take.
const MAX_LINK_STEPS: usize = 64;

/// A name in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path from the image's root.
    pub path: String,
    pub content: Content,
    /// Whether the entry was published with another mode or owner than it has now.
    pub is_altered: bool,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A regular file, of this many bytes.
    File(u64),
    Folder,
    /// A link, and what it holds.
    Link(String),
    /// What no image may hold: found only where somebody else has put it into the tree.
    Foreign,
}

impl Entry {
    /// Looks at `name` in `dir`, which is the `folder` of the image.
    pub(super) fn look(dir: &Dir, folder: &str, name: &OsStr) -> Result<(Self, Stat), Fault> {
        let name = entry_name(name, folder)?;
        let path = if folder.is_empty() {
            name.to_string()
        } else {
            format!("{folder}/{name}")
        };
        let stat = dir.stat(name)?.ok_or_else(|| changed(&path))?;
        let content = match stat.kind {
            Kind::File => Content::File(stat.size),
            Kind::Dir => Content::Folder,
            Kind::Link => {
                let holds = dir.link(name)?.and_then(|target| target.into_string().ok());
                let holds = holds.filter(|target| !target.contains(char::is_control));
                holds.map_or(Content::Foreign, Content::Link)
            }
            Kind::Other => Content::Foreign,
        };
        let entry = Self {
            path,
            content,
            is_altered: false,
        };
        Ok((entry, stat))
    }
}

/// The text of a name in the `folder` of an image.
///
/// # Errors
/// [`Reason::UnsafeName`] for a name that nobody could be shown, or that no path has room for.
fn entry_name<'n>(name: &'n OsStr, folder: &str) -> Result<&'n str, Fault> {
    let is_printable = |text: &&str| !text.contains(char::is_control);
    let text = name.to_str().filter(is_printable);
    let fits = folder.len() + name.len() < MAX_PATH;
    text.filter(|_| fits).ok_or_else(|| {
        let place = match folder {
            "" => "the image's root".to_string(),
            folder => quoted(folder),
        };
        let detail = format!(
            "{} in {place}; expected names in UTF-8 without control characters, in paths of at \
             most {MAX_PATH} bytes",
            quoted(&name.to_string_lossy()),
        );
        reject(Reason::UnsafeName, detail)
    })
}

/// The rejection of a drop whose file `path` changed while it was read.
pub(super) fn changed(path: &str) -> Fault {
    let path = quoted(path);
    let detail = format!("{path} changed while it was read; drop it again when it is finished");
    reject(Reason::Changed, detail)
}

/// Makes sure that each link ends inside the image.
pub(super) fn check_links(entries: &[Entry]) -> Result<(), Fault> {
    for entry in entries {
        if let Content::Link(target) = &entry.content
            && end_of(entries, &entry.path, target).is_none()
        {
            let (from, to) = (quoted(&entry.path), quoted(target));
            let detail = format!(
                "{from} -> {to}; expected a relative link to a file or folder of the image"
            );
            return Err(reject(Reason::UnsafeFile, detail));
        }
    }
    Ok(())
}

/// The entry `path` of `entries`, which are sorted.
pub(super) fn find<'a>(entries: &'a [Entry], path: &str) -> Option<&'a Entry> {
    let found = entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
    found.ok().map(|index| &entries[index])
}

impl Content {
    /// Whether there is a regular file at a path of `entries`, which are sorted, or a link that ends at one.
    pub(crate) fn is_file_at(path: &str, entries: &[Entry]) -> bool {
        file_at(path, entries).is_some()
    }
}

/// The regular file at a path of `entries`, which are sorted, or the one that a link there ends at: its own
/// path, and its size in bytes.
pub(super) fn file_at<'e>(path: &str, entries: &'e [Entry]) -> Option<(&'e str, u64)> {
    let entry = find(entries, path)?;
    match &entry.content {
        Content::File(size) => Some((&entry.path, *size)),
        Content::Link(target) => match end_of(entries, path, target)? {
            End::File(path, size) => Some((path, size)),
            End::Folder => None,
        },
        Content::Folder | Content::Foreign => None,
    }
}

/// Where a link ends: at a file of this path and size, or at a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'e> {
    File(&'e str, u64),
    Folder,
}

/// Where the link `path` that holds `target` ends; `None` when it leaves the image on the way, or leads
/// to no name that is there. Follows it as the kernel does (`path_resolution(7)`): part by part, links on
/// the way as well.
fn end_of<'e>(entries: &'e [Entry], path: &str, target: &str) -> Option<End<'e>> {
    if target.starts_with('/') {
        return None;
    }
    let mut at = path[..path.rfind('/').unwrap_or(0)].to_string();
    let mut parts: Vec<&str> = target.rsplit('/').collect();
    let mut end = End::Folder;
    for _ in 0..MAX_LINK_STEPS {
        let Some(part) = parts.pop() else {
            return Some(end);
        };
        match part {
            "" | "." => {}
            ".." if at.is_empty() => return None,
            ".." => at.truncate(at.rfind('/').unwrap_or(0)),
            name => {
                let length = at.len();
                if !at.is_empty() {
                    at.push('/');
                }
                at.push_str(name);
                let entry = find(entries, &at)?;
                match &entry.content {
                    Content::Folder => {}
                    Content::File(size) if parts.is_empty() => end = End::File(&entry.path, *size),
                    Content::Link(target) if !target.starts_with('/') => {
                        at.truncate(length);
                        parts.extend(target.rsplit('/'));
                    }
                    _ => return None,
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with a few files, and these links.
    fn image(links: &[(&str, &str)]) -> Vec<Entry> {
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
        entries
    }

    fn ends(links: &[(&str, &str)]) -> bool {
        check_links(&image(links)).is_ok()
    }

    #[test]
    fn a_link_to_a_file_is_one_and_a_link_to_a_folder_is_none() {
        let image = image(&[
            ("x", "linux"),
            ("y", "a/../x"),
            ("z", "a/b"),
            ("out", "../linux"),
        ]);
        for (path, expected) in [
            ("linux", true),
            ("a/b/file", true),
            ("x", true),
            ("y", true),
            ("a", false),
            ("z", false),
            ("z/file", false),
            ("out", false),
            ("nothing", false),
        ] {
            assert_eq!(Content::is_file_at(path, &image), expected, "{path}");
        }
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
