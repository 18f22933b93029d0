//! What a manifest lists of an image, held against the image.

use std::collections::BTreeSet;

use super::manifest::{Listed, Manifest};
use crate::fault::{Fault, reject};
use crate::image::{Content, FileMark, Image, Listing};
use crate::text::quoted;
use crate::words::{Digest, Reason};

impl Manifest {
    /// Lists all that is in an image, as a signed manifest has to.
    pub(crate) fn list(&mut self, image: Listing) {
        let paths = image.files.keys().chain(image.links.keys());
        let full = parents(paths.chain(&image.folders).map(String::as_str));
        let is_empty = |folder: &&String| !full.contains(folder.as_str());
        let empty: Vec<_> = image.folders.iter().filter(is_empty).cloned().collect();
        let files = image.files.into_iter().map(|(path, mark)| {
            let FileMark { sha256, size } = mark;
            let size = Some(size);
            (path, Listed::File { sha256, size })
        });
        let links = image.links.into_iter();
        let links = links.map(|(path, to)| (path, Listed::Link(to)));
        let empty = empty.into_iter().map(|path| (path, Listed::Folder));
        self.files = Some(files.chain(links).chain(empty).collect());
    }

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

    /// Rejects an image without a file that `[boot]` names.
    pub(crate) fn check_boot(&self, image: &Image) -> Result<(), Fault> {
        let is_there = |path| Content::is_file_at(path, image.entries());
        let missing = self.boot.paths().filter(|(_, path)| !is_there(path));
        let missing = missing.map(|(key, path)| {
            let path = quoted(path);
            format!("`boot.{key}` names {path}, which is no file of the image, nor a link to one")
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(reject(Reason::BadManifest, missing.join("; ")))
    }

    /// Makes sure that a signed manifest says all of the image: what it doesn't list, nobody has
    /// signed.
    pub(crate) fn check_says_all(&self, image: &Image) -> Result<(), Fault> {
        let paths = |is_meant: fn(&Content) -> bool| {
            let entries = image.entries().iter();
            let meant = entries.filter(move |entry| is_meant(&entry.content));
            meant.map(|entry| entry.path.as_str())
        };
        let links = paths(|content| matches!(content, Content::Link(_)));
        let folders = paths(|content| *content == Content::Folder);
        self.check_lists(paths(|_| true), links, folders)
    }

    /// Makes sure that a signed manifest is that of the image with this listing, and says all of it.
    pub(crate) fn check_is_of(&self, listing: &Listing) -> Result<(), Fault> {
        let (files, links) = (listing.files.keys(), listing.links.keys());
        let all = files.chain(links.clone()).chain(&listing.folders);
        self.check_lists(
            all.map(String::as_str),
            links.map(String::as_str),
            listing.folders.iter().map(String::as_str),
        )?;
        self.check_checksums(listing)
    }

    /// Makes sure that a signed manifest lists these links, and which of the folders are empty: `all`
    /// are the paths of the image.
    fn check_lists<'p>(
        &self,
        all: impl Iterator<Item = &'p str>,
        links: impl Iterator<Item = &'p str>,
        folders: impl Iterator<Item = &'p str>,
    ) -> Result<(), Fault> {
        let unsigned = |detail: String| Err(reject(Reason::UnsignedFiles, detail));
        let Some(listed) = &self.files else {
            let detail = "the manifest is signed and has no `[files]`; expected it to list all";
            return unsigned(detail.to_string());
        };
        let full = parents(all);
        let empty = folders.filter(|path| !full.contains(path));
        let links = links.map(|path| (path, "link"));
        for (path, what) in links.chain(empty.map(|path| (path, "empty folder"))) {
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

/// The folders that something is in.
fn parents<'p>(paths: impl Iterator<Item = &'p str>) -> BTreeSet<&'p str> {
    let parted = paths.filter_map(|path| path.rsplit_once('/'));
    parted.map(|(folder, _)| folder).collect()
}

fn mismatch(path: &str, what: &str, expected: &dyn std::fmt::Display) -> Fault {
    let detail = format!("{} {what}; the manifest says {expected}", quoted(path));
    reject(Reason::ChecksumMismatch, detail)
}

fn unlisted(path: &str) -> Fault {
    let detail = format!("{} is not in the manifest, which lists files", quoted(path));
    reject(Reason::UnlistedFile, detail)
}
