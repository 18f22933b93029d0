//! An image is copied and hashed: the very bytes that are written are the ones that are hashed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::entry::Content;
use super::listing::{FileMark, Listing};
use super::reading::{OpenFile, put};
use super::{DIR_MODE, Image};
use crate::fault::Fault;
use crate::sys::{Dir, Failure, FileExt as _, Ownership, Progress, Stat, failpoint, try_map};

/// From this many bytes or files on, several threads are worth their start.
const MANY_BYTES: u64 = 4 << 20;
const MANY_FILES: usize = 32;

/// The published image that a copy may share files with.
pub(crate) struct Base<'a> {
    pub dir: &'a Dir,
    pub listing: &'a Listing,
    /// The files that are the same in both, by path, as they were seen when they were compared.
    pub same_files: &'a HashMap<String, Stat>,
}

impl Image {
    /// Copies the image into the empty directory `into`. Holes stay holes.
    ///
    /// # Errors
    /// What is wrong with a file of the image, or [`Fault::Retry`] when it can't be written.
    pub(crate) fn copy_into(&self, into: &Dir, progress: &Progress) -> Result<Listing, Fault> {
        make_folders(self, into, None)?;
        let can_clone = AtomicBool::new(true);
        progress.expect(self.bytes());
        each_file(self, |path, size| {
            let (_, mark) = self.copy_file((path, size), into, &can_clone, progress)?;
            Ok(mark)
        })
    }

    /// As [`Image::copy_into`], for a copy that will be published, and that is given to `owner`. A
    /// file that `base` has already becomes a hard link to that one: both are immutable. Any other
    /// gets its seal.
    pub(crate) fn publish_into(
        &self,
        into: &Dir,
        base: Option<&Base<'_>>,
        owner: Option<Ownership>,
        progress: &Progress,
    ) -> Result<Listing, Fault> {
        make_folders(self, into, owner)?;
        let shared = base.map_or(Ok(HashMap::new()), |base| base.share(into))?;
        let copied = self.files().filter(|(path, _)| !shared.contains_key(path));
        progress.expect(copied.map(|(_, size)| size).sum());
        let can_clone = AtomicBool::new(true);
        each_file(self, |path, size| {
            if let Some(mark) = shared.get(path) {
                return Ok(*mark);
            }
            let (copy, mark) = self.copy_file((path, size), into, &can_clone, progress)?;
            // A file without its seal is as good, but has to be hashed where it is compared.
            let _ = copy.set_nanoseconds(mark.seal());
            into.set_owner(path, owner)?;
            Ok(mark)
        })
    }

    /// Copies a file. The copy is open for writing.
    fn copy_file(
        &self,
        (path, size): (&str, u64),
        into: &Dir,
        can_clone: &AtomicBool,
        progress: &Progress,
    ) -> Result<(File, FileMark), Fault> {
        failpoint("copy-file", "creating", path)?;
        let failed = |error| Failure::new("writing", into.path().join(path), error);
        let from = self.open(path, size)?;
        let to = into.create(path)?;
        let is_clone = can_clone.load(Ordering::Relaxed) && size > 0 && from.file.reflink(&to);
        let mark = if is_clone {
            // The importer can't write to blocks that are shared any more: the copy is what is hashed.
            let file = into.existing_file(path)?;
            OpenFile { file, ..from }.hash(progress, |_, _| Ok(()))?
        } else {
            can_clone.fetch_and(size == 0, Ordering::Relaxed);
            from.hash(progress, |block, at| put(&to, block, at).map_err(failed))?
        };
        // A hole at the end was not written.
        if to.stat().map_err(failed)?.size < size {
            to.set_len(size).map_err(failed)?;
        }
        Ok((to, mark))
    }

    /// Hashes every file.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(crate) fn hash(&self, progress: &Progress) -> Result<Listing, Fault> {
        progress.expect(self.bytes());
        each_file(self, |path, size| {
            self.open(path, size)?.hash(progress, |_, _| Ok(()))
        })
    }
}

/// Makes the folders and links of a copy of `image`.
fn make_folders(image: &Image, into: &Dir, owner: Option<Ownership>) -> Result<(), Failure> {
    // Sorted by path, so a folder comes before what is in it.
    for entry in image.entries() {
        match &entry.content {
            Content::Folder => drop(into.make_dir(&entry.path, DIR_MODE)?),
            Content::Link(target) => into.make_link(&entry.path, target)?,
            Content::File(_) | Content::Foreign => continue,
        }
        into.set_owner(&entry.path, owner)?;
    }
    into.set_owner(".", owner)
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

impl Base<'_> {
    /// Reads a published image that is to be one: its listing, and as what its files were seen.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(crate) fn read(
        image: &Image,
        progress: &Progress,
    ) -> Result<(Listing, HashMap<String, Stat>), Fault> {
        progress.expect(image.bytes());
        let seen = Mutex::new(HashMap::new());
        let listing = each_file(image, |path, size| {
            let file = image.open(path, size)?;
            let stat = file.stat;
            let mark = file.hash(progress, |_, _| Ok(()))?;
            let mut seen = seen.lock().expect("no thread panics here");
            seen.insert(path.to_string(), stat);
            Ok(mark)
        })?;
        Ok((listing, seen.into_inner().expect("no thread panics here")))
    }

    /// Links the files that are here already, and tells which. What is not among them has to be
    /// copied: it can't be linked (too many links, an owner whose files the daemon may not link), or
    /// isn't what it was any more.
    fn share(&self, into: &Dir) -> Result<HashMap<&str, FileMark>, Fault> {
        let mut folders = BTreeMap::<&str, Vec<(&str, &Stat)>>::new();
        for (path, stat) in self.same_files {
            let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
            folders.entry(folder).or_default().push((path, stat));
        }
        let has_many = self.same_files.len() > MANY_FILES;
        let few = if has_many { 1 } else { usize::MAX };
        let shared = try_map(folders.into_iter().collect(), few, |(folder, files)| {
            self.share_folder(folder, files, into)
        })?;
        Ok(shared.into_iter().flatten().collect())
    }

    /// Links these files of a folder. Both of its directories are opened once, however many files are
    /// in it.
    fn share_folder<'f>(
        &self,
        folder: &str,
        files: Vec<(&'f str, &Stat)>,
        into: &Dir,
    ) -> Result<Vec<(&'f str, FileMark)>, Fault> {
        let mut shared = Vec::new();
        // The tree may belong to somebody who puts a link in the folder's place: that is refused here.
        let Ok(from) = self.dir.existing_dir(folder) else {
            return Ok(shared);
        };
        let to = into.existing_dir(folder)?;
        for (path, stat) in files {
            let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
            let Some(mark) = self.listing.files.get(path) else {
                continue;
            };
            if from.hard_link(name, &to).is_err() {
                continue;
            }
            // Another file may have been put in the place of the one that was compared.
            if to
                .stat(name)?
                .is_some_and(|linked| linked.is_same_file(stat))
            {
                shared.push((path, *mark));
            } else {
                to.remove_file(name)?;
            }
        }
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// An image of two files in a folder, and an empty directory.
    fn scene() -> (tempfile::TempDir, Image, Dir) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["image/boot", "copy"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["linux", "initrd"] {
            std::fs::write(folder.path().join("image/boot").join(name), name).unwrap();
        }
        let open = |name| Dir::open(&folder.path().join(name)).unwrap();
        let (image, copy) = (open("image"), open("copy"));
        let image = Image::read(image, None).unwrap();
        (folder, image, copy)
    }

    #[test]
    fn every_published_file_carries_the_seal_of_its_bytes() {
        let (folder, image, copy) = scene();
        let listing = image.publish_into(&copy, None, None, &Progress::default());
        let listing = listing.unwrap();
        for (path, mark) in &listing.files {
            let stat = std::fs::metadata(folder.path().join("copy").join(path)).unwrap();
            assert_eq!(stat.mtime_nsec(), i64::from(mark.seal()));
        }
        assert_eq!(listing.files.len(), 2);
    }

    /// The times in a drop tell when it was made.
    #[test]
    fn a_copy_that_is_no_published_one_keeps_its_times() {
        let (folder, image, copy) = scene();
        let listing = image.copy_into(&copy, &Progress::default()).unwrap();
        for (path, mark) in &listing.files {
            let stat = std::fs::metadata(folder.path().join("copy").join(path)).unwrap();
            assert_ne!(stat.mtime_nsec(), i64::from(mark.seal()));
        }
        assert_eq!(listing, image.hash(&Progress::default()).unwrap());
    }

    #[test]
    fn only_a_file_that_is_the_one_that_was_compared_is_shared() {
        let (folder, image, copy) = scene();
        let progress = Progress::default();
        let listing = image.hash(&progress).unwrap();
        let seen = |path: &str| image.open(path, path.len() as u64 - 5).unwrap().stat;
        let mut same_files =
            HashMap::from(["boot/linux", "boot/initrd"].map(|path| (path.to_string(), seen(path))));
        same_files.get_mut("boot/linux").unwrap().nanoseconds ^= 1;
        let base = Base {
            dir: image.dir(),
            listing: &listing,
            same_files: &same_files,
        };
        let copied = image
            .publish_into(&copy, Some(&base), None, &progress)
            .unwrap();
        assert_eq!(copied, listing);
        let inode = |of: &str, name: &str| {
            let path = folder.path().join(of).join("boot").join(name);
            std::fs::metadata(path).unwrap().ino()
        };
        assert_ne!(inode("copy", "linux"), inode("image", "linux"));
        assert_eq!(inode("copy", "initrd"), inode("image", "initrd"));
        // What is copied counts, not what is shared.
        assert_eq!(progress.expected(), listing.bytes() + 5);
        assert_eq!(progress.bytes(), listing.bytes() + 5);
    }
}
