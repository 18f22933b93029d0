//! What a manifest lists of an image, held against the image.

use std::collections::BTreeSet;

use super::manifest::{Listed, Manifest};
use crate::fault::{Fault, reject};
use crate::image::{Content, Image, Listing};
use crate::text::quoted;
use crate::words::{Digest, Reason};

impl Manifest {
    /// Rejects an image with files that aren't listed or have another size. None of them is read.
    pub(crate) fn check_sizes(&self, image: &Image) -> Result<(), Fault> {
        let Some(listed) = &self.files else {
            return Ok(());
        };
        for (path, is) in image.files() {
            let size = match listed.get(path) {
                None => return Err(unlisted(path)),
                Some(Listed::File { size, .. }) => size,
                Some(other) => return Err(mismatch(path, "is a regular file", other)),
            };
            if let Some(expected) = size.filter(|expected| *expected != is) {
                return Err(mismatch(path, &format!("has {is} bytes"), &expected));
            }
        }
        Ok(())
    }

    /// Makes sure that a signed manifest says all of the image: what it doesn't list, nobody has
    /// signed.
    pub(crate) fn check_says_all(&self, image: &Image) -> Result<(), Fault> {
        let unsigned = |detail: String| Err(reject(Reason::UnsignedFiles, detail));
        let Some(listed) = &self.files else {
            let detail = "the manifest is signed and has no `[files]`; expected it to list all";
            return unsigned(detail.to_string());
        };
        let entries = image.entries().iter();
        let parents = entries.filter_map(|entry| entry.path.rsplit_once('/'));
        let full: BTreeSet<_> = parents.map(|(folder, _)| folder).collect();
        for entry in image.entries() {
            let path = entry.path.as_str();
            let what = match entry.content {
                Content::Link(_) => "link",
                Content::Folder if !full.contains(path) => "empty folder",
                _ => continue,
            };
            if !listed.contains_key(path) {
                let path = quoted(path);
                return unsigned(format!(
                    "the {what} {path} is not in the manifest, which is signed; expected it to list all"
                ));
            }
        }
        Ok(())
    }

    /// Whether the manifest lists this checksum for a file, or no files at all.
    pub(crate) fn allows(&self, path: &str, is: &Digest) -> bool {
        let is_it = |it: &Listed| matches!(it, Listed::File { sha256, .. } if sha256 == is);
        let listed = self.files.as_ref();
        listed.is_none_or(|files| files.get(path).is_some_and(is_it))
    }

    /// Rejects an image whose files, as they were read, are others than the manifest lists.
    pub(crate) fn check_checksums(&self, listing: &Listing) -> Result<(), Fault> {
        let Some(listed) = &self.files else {
            return Ok(());
        };
        let mut paths = listing.files.keys();
        if let Some(path) = paths.find(|path| !listed.contains_key(*path)) {
            return Err(unlisted(path));
        }
        for (path, listed) in listed {
            match listed {
                Listed::File { sha256, .. } => {
                    let expected = format!("sha256 {sha256}");
                    match listing.files.get(path) {
                        None => return Err(mismatch(path, "is no regular file", &expected)),
                        Some(mark) if mark.sha256 != *sha256 => {
                            let what = format!("has sha256 {}", mark.sha256);
                            return Err(mismatch(path, &what, &expected));
                        }
                        Some(_) => {}
                    }
                }
                Listed::Link(to) if listing.links.get(path) == Some(to) => {}
                Listed::Link(_) => return Err(mismatch(path, "is no such link", listed)),
                Listed::Folder if listing.folders.contains(path) => {}
                Listed::Folder => return Err(mismatch(path, "is no folder", listed)),
            }
        }
        Ok(())
    }
}

fn mismatch(path: &str, what: &str, expected: &dyn std::fmt::Display) -> Fault {
    let detail = format!("{} {what}; the manifest says {expected}", quoted(path));
    reject(Reason::ChecksumMismatch, detail)
}

fn unlisted(path: &str) -> Fault {
    let detail = format!("{} is not in the manifest, which lists files", quoted(path));
    reject(Reason::UnlistedFile, detail)
}
