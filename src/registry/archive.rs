//! The tar of an image: its small files, its links and its empty folders.

use std::fs::File;
use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::artifact::Layout;
use crate::image::FileMark;
use crate::sys::{Dir, Failure};
use crate::words::Hasher;

/// Why a tar can't be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// A file isn't what is known of it.
    #[error("`{0}` isn't what its record says")]
    Damaged(String),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("writing a tar: {0}")]
    Io(#[from] io::Error),
}

/// Writes the tar of the image in `dir`: the same image makes the same bytes.
pub(super) fn write(layout: &Layout<'_>, dir: &Dir, to: impl Write) -> Result<(), ArchiveError> {
    enum Content<'l> {
        File(FileMark),
        Link(&'l str),
        Folder,
    }
    let listing = layout.listing;
    let files = layout.small.iter();
    let files = files.map(|path| (*path, Content::File(listing.files[*path])));
    let links = listing.links.iter();
    let links = links.map(|(path, to)| (path.as_str(), Content::Link(to)));
    let folders = layout.empty_folders().into_iter();
    let folders = folders.map(|path| (path, Content::Folder));
    let mut entries: Vec<_> = files.chain(links).chain(folders).collect();
    entries.sort_unstable_by_key(|(path, _)| *path);

    let mut tar = Builder::new(to);
    for (path, content) in entries {
        match content {
            Content::File(mark) => {
                let mut file = Hashed::open(dir, path, mark)?;
                let mut header = header(EntryType::Regular, 0o644, mark.size);
                tar.append_data(&mut header, path, &mut file)?;
                if !file.is_right() {
                    return Err(ArchiveError::Damaged(path.to_string()));
                }
            }
            Content::Link(to) => {
                tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?;
            }
            Content::Folder => {
                let mut header = header(EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
        }
    }
    Ok(tar.into_inner()?.flush()?)
}

/// Nothing in it tells of a machine, or of a time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A published file that is hashed while it is read.
pub(super) struct Hashed {
    file: File,
    mark: FileMark,
    hasher: Hasher,
    read: u64,
}

impl Hashed {
    /// # Errors
    /// When it isn't there, or has another size.
    pub(super) fn open(dir: &Dir, path: &str, mark: FileMark) -> Result<Self, ArchiveError> {
        use crate::sys::FileExt as _;
        let damaged = || ArchiveError::Damaged(path.to_string());
        let file = dir.file(path)?.ok_or_else(damaged)?;
        let is_right = file.stat()?.size == mark.size;
        is_right.then_some(()).ok_or_else(damaged)?;
        Ok(Self {
            file,
            mark,
            hasher: Hasher::default(),
            read: 0,
        })
    }

    /// Whether all that was read is what the file has to be.
    pub(super) fn is_right(&mut self) -> bool {
        let hasher = std::mem::take(&mut self.hasher);
        self.read == self.mark.size && hasher.finish() == self.mark.sha256
    }

    /// Whether all that the file is to have was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.read == self.mark.size
    }
}

impl Read for Hashed {
    /// No more than the file is to have: what has grown meanwhile is damaged, and is found out.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.mark.size - self.read).unwrap_or(usize::MAX);
        let length = into.len().min(rest);
        let count = self.file.read(&mut into[..length])?;
        self.hasher.update(&into[..count]);
        self.read += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Listing;
    use crate::words::Digest;

    fn image(long: &str) -> (tempfile::TempDir, Listing) {
        let folder = tempfile::tempdir().unwrap();
        let files = [("a/menu", "x"), ("b", ""), (long, "deep")];
        let mut listing = Listing {
            links: [("c".to_string(), "a/menu".to_string())].into(),
            folders: ["a", "d"].map(String::from).into(),
            ..Listing::default()
        };
        for (path, text) in files {
            let mark = FileMark {
                sha256: Digest::of(text.as_bytes()),
                size: text.len() as u64,
            };
            listing.files.insert(path.to_string(), mark);
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (folder, listing)
    }

    fn tar(folder: &tempfile::TempDir, listing: &Listing) -> Result<Vec<u8>, ArchiveError> {
        let (dir, mut bytes) = (Dir::open(folder.path()).unwrap(), Vec::new());
        write(&Layout::of(listing), &dir, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn the_same_image_makes_the_same_tar_wherever_and_whenever_it_is() {
        let long = format!("{}/x", "long".repeat(40));
        let (one, listing) = image(&long);
        let (other, _) = image(&long);
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
        let file = File::options().write(true).open(other.path().join("b"));
        file.unwrap().set_modified(old).unwrap();
        let bytes = tar(&one, &listing).unwrap();
        assert_eq!(tar(&other, &listing).unwrap(), bytes);
        let mut archive = tar::Archive::new(&bytes[..]);
        let found = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let (path, header) = (entry.path().unwrap().into_owned(), entry.header());
            let whose = (header.uid().unwrap(), header.gid().unwrap());
            assert_eq!((whose, header.mtime().unwrap()), ((0, 0), 0));
            format!("{} {:o}", path.display(), header.mode().unwrap())
        });
        let expected = [
            "a/menu 644",
            "b 644",
            "c 777",
            "d/ 755",
            &format!("{long} 644"),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_file_that_is_not_what_was_published_is_in_no_tar() {
        for text in ["y", "", "xx"] {
            let (folder, listing) = image("x");
            std::fs::write(folder.path().join("a/menu"), text).unwrap();
            let error = tar(&folder, &listing).unwrap_err().to_string();
            assert_eq!(error, "`a/menu` isn't what its record says", "{text:?}");
        }
        let (folder, listing) = image("x");
        std::fs::remove_file(folder.path().join("b")).unwrap();
        let error = tar(&folder, &listing).unwrap_err().to_string();
        assert_eq!(error, "`b` isn't what its record says");
    }
}
