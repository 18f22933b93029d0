//! An image is copied and hashed: the very bytes that are written are the ones that are hashed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::entry::Content;
use super::listing::{FileMark, Listing};
use super::reading::append;
use super::{DIR_MODE, Image};
use crate::fault::Fault;
use crate::sys::{Dir, Failure, FileExt as _, Ownership, Progress, failpoint, try_map};

/// From this many bytes or files on, several threads are worth their start.
const MANY_BYTES: u64 = 4 << 20;
const MANY_FILES: usize = 32;

/// The published image that a copy may share files with.
pub(crate) struct Base<'a> {
    pub dir: &'a Dir,
    pub listing: &'a Listing,
    /// Paths of the files that are the same in both.
    pub same_files: &'a HashSet<String>,
}

impl Image {
    /// Copies the image into the empty directory `into`, and gives what is there to `owner`. A file
    /// that `base` has already becomes a hard link to that one: both are immutable.
    ///
    /// # Errors
    /// What is wrong with a file of the image, or [`Fault::Retry`] when it can't be written.
    pub(crate) fn copy_into(
        &self,
        into: &Dir,
        base: Option<&Base<'_>>,
        owner: Option<Ownership>,
        progress: &Progress,
    ) -> Result<Listing, Fault> {
        let own = |path: &str| into.set_owner(path, owner);
        // Sorted by path, so a folder comes before what is in it.
        for entry in self.entries() {
            match &entry.content {
                Content::Folder => drop(into.make_dir(&entry.path, DIR_MODE)?),
                Content::Link(target) => into.make_link(&entry.path, target)?,
                Content::File(_) | Content::Foreign => continue,
            }
            own(&entry.path)?;
        }
        own(".")?;
        let is_shared = |path| base.is_some_and(|base| base.same_files.contains(path));
        let copied = self.files().filter(|(path, _)| !is_shared(*path));
        progress.expect(copied.map(|(_, size)| size).sum());
        let can_clone = AtomicBool::new(true);
        each_file(self, |path, size| {
            if let Some(mark) = base.and_then(|base| share_file(base, path, size, into)) {
                return Ok(mark);
            }
            failpoint("copy-file", "creating", path)?;
            let from = self.open(path, size)?;
            let to = into.create(path)?;
            own(path)?;
            // The importer can't write to blocks that are shared any more: the copy is what is hashed.
            if can_clone.load(Ordering::Relaxed) && size > 0 {
                if from.reflink(&to) {
                    let copy = into.existing_file(path)?;
                    return self.hash_open((path, size), &copy, progress, |_, _| Ok(()));
                }
                can_clone.store(false, Ordering::Relaxed);
            }
            self.hash_open((path, size), &from, progress, |block, end| {
                append(&to, block, end)
                    .map_err(|error| Failure::new("writing", into.path().join(path), error))
            })
        })
    }

    /// Hashes every file.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(crate) fn hash(&self, progress: &Progress) -> Result<Listing, Fault> {
        progress.expect(self.bytes());
        each_file(self, |path, size| {
            let file = self.open(path, size)?;
            self.hash_open((path, size), &file, progress, |_, _| Ok(()))
        })
    }
}

/// The listing of `image`, with the mark of each file as `mark` finds it; several side by side.
fn each_file(
    image: &Image,
    mark: impl Fn(&str, u64) -> Result<FileMark, Fault> + Sync,
) -> Result<Listing, Fault> {
    let mut files: Vec<_> = image.files().collect();
    // The largest first: at the end no thread is left alone with a long one.
    files.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let bytes = image.bytes();
    let few = if bytes > MANY_BYTES { 1 } else { MANY_FILES };
    let marks = try_map(files, few, |(path, size)| {
        Ok::<_, Fault>((path.to_string(), mark(path, size)?))
    })?;

    let mut listing = Listing {
        files: marks.into_iter().collect(),
        ..Listing::default()
    };
    for entry in image.entries() {
        match &entry.content {
            Content::Folder => drop(listing.folders.insert(entry.path.clone())),
            Content::Link(target) => drop(listing.links.insert(entry.path.clone(), target.clone())),
            Content::File(_) | Content::Foreign => {}
        }
    }
    Ok(listing)
}

/// Links the file that `base` has already. `None` when the file has to be copied: it is another, or
/// can't be linked (too many links, an owner whose files the daemon may not link).
fn share_file(base: &Base<'_>, path: &str, size: u64, into: &Dir) -> Option<FileMark> {
    let mark = base.listing.files.get(path)?;
    let is_same = mark.size == size && base.same_files.contains(path);
    (is_same && base.dir.hard_link(path, into).is_ok()).then_some(*mark)
}
