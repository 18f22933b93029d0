//! An image is copied and hashed: the very bytes that are written are the ones that are hashed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use super::listing::{FileMark, Listing};
use super::{Content, DIR_MODE, Image, Ownership, changed};
use crate::fault::Fault;
use crate::sys::{Dir, Failure, Progress, dir, failpoint, parallel};
use crate::words::{Digest, Hasher};

/// Read, hashed and written at a time, in bytes.
const BLOCK: usize = 256 << 10;

/// A larger file is hashed in a thread of its own, with so many blocks on their way.
const LARGE: u64 = 8 << 20;
const BUFFERS: usize = 8;

/// After so many bytes of a file the kernel is told to begin writing them to the disk.
const WRITE_BEHIND: u64 = 16 << 20;

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

/// Copies `image` into the empty directory `into`. A file that `base` already has becomes a hard
/// link to it: both are immutable.
///
/// # Errors
/// What is wrong with a file of the image, or [`Fault::Retry`] when it can't be written.
pub(crate) fn copy(
    image: &Image,
    into: &Dir,
    base: Option<&Base<'_>>,
    owner: Option<Ownership>,
    progress: &Progress,
) -> Result<Listing, Fault> {
    let own = |path: &str| match owner {
        Some(Ownership { uid, gid }) => into.set_owner(path, uid, gid),
        None => Ok(()),
    };
    // Sorted by path, so a folder comes before what is in it.
    for entry in image.entries() {
        match &entry.content {
            Content::Folder => {
                into.make_dir(&entry.path, DIR_MODE)?;
                own(&entry.path)?;
            }
            Content::Link(target) => {
                into.make_link(&entry.path, target)?;
                own(&entry.path)?;
            }
            Content::File(_) | Content::Foreign => {}
        }
    }
    own(".")?;
    let is_shared = |path| base.is_some_and(|base| base.same_files.contains(path));
    let copied = image.files().filter(|(path, _)| !is_shared(*path));
    progress.expect(copied.map(|(_, size)| size).sum());
    let can_clone = AtomicBool::new(true);
    each_file(image, |path, size| {
        if let Some(mark) = base.and_then(|base| share_file(base, path, size, into)) {
            return Ok(mark);
        }
        failpoint::at("copy-file").map_err(|e| Failure::new("creating", path, e))?;
        let from = image.open(path, size)?;
        let to = into.create(path)?;
        own(path)?;
        // Blocks that are shared are never written again by the importer: what is hashed is ours.
        if can_clone.load(Ordering::Relaxed) && size > 0 {
            if dir::reflink(&from, &to) {
                return read_file(
                    image,
                    path,
                    size,
                    &into.existing_file(path)?,
                    None,
                    progress,
                );
            }
            can_clone.store(false, Ordering::Relaxed);
        }
        let written = Written {
            file: &to,
            into,
            path,
        };
        read_file(image, path, size, &from, Some(&written), progress)
    })
}

/// Hashes every file of `image`.
///
/// # Errors
/// What is wrong with one of them.
pub(crate) fn hash(image: &Image, progress: &Progress) -> Result<Listing, Fault> {
    progress.expect(image.bytes());
    each_file(image, |path, size| {
        read_file(image, path, size, &image.open(path, size)?, None, progress)
    })
}

/// The listing of `image`, with the mark of each file as `mark` finds it; several side by side.
fn each_file(
    image: &Image,
    mark: impl Fn(&str, u64) -> Result<FileMark, Fault> + Sync,
) -> Result<Listing, Fault> {
    let mut files: Vec<_> = image.files().collect();
    // The largest first: at the end no thread is left alone with a long one.
    files.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let is_worth_it = image.bytes() > MANY_BYTES || files.len() > MANY_FILES;
    let marks = Mutex::new(BTreeMap::new());
    parallel::share(files.len(), is_worth_it, |number| {
        let (path, size) = files[number];
        let mark = mark(path, size)?;
        marks
            .lock()
            .expect("no thread panics here")
            .insert(path.to_string(), mark);
        Ok::<_, Fault>(())
    })?;

    let mut listing = Listing {
        files: marks.into_inner().expect("no thread panics here"),
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

/// Links the file that `base` has already. `None` when it has to be copied: it is another, or it
/// can't be linked (too many links, an owner whose files we may not link).
fn share_file(base: &Base<'_>, path: &str, size: u64, into: &Dir) -> Option<FileMark> {
    let mark = base
        .listing
        .files
        .get(path)
        .filter(|mark| mark.size == size)?;
    let is_same = base.same_files.contains(path);
    (is_same && base.dir.hard_link(path, into, path).is_ok()).then_some(*mark)
}

/// A file that takes what is read.
struct Written<'a> {
    file: &'a File,
    into: &'a Dir,
    path: &'a str,
}

impl Written<'_> {
    /// Appends a block that ends at byte `end`.
    fn append(&self, block: &[u8], end: u64) -> Result<(), Failure> {
        let mut file = self.file;
        file.write_all(block)
            .map_err(|error| Failure::new("writing", self.into.path().join(self.path), error))?;
        let behind = end % WRITE_BEHIND;
        if end >= WRITE_BEHIND && behind < block.len() as u64 {
            dir::start_writing(file, end - behind - WRITE_BEHIND, WRITE_BEHIND);
        }
        Ok(())
    }
}

/// Reads the file `path` of `image` to its end, hashes it, and passes on what is read.
fn read_file(
    image: &Image,
    path: &str,
    size: u64,
    from: &File,
    to: Option<&Written<'_>>,
    progress: &Progress,
) -> Result<FileMark, Fault> {
    let mut reading = Reading {
        image,
        path,
        size,
        from,
        to,
        progress,
        done: 0,
    };
    let sha256 = if size > LARGE {
        hash_beside(&mut reading)?
    } else {
        hash_in_turn(&mut reading)?
    };
    Ok(FileMark { sha256, size })
}

fn hash_in_turn(reading: &mut Reading<'_>) -> Result<Digest, Fault> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // One byte more than there should be: a file that grows is found out.
    let needed = usize::try_from(reading.size).map_or(BLOCK, |size| BLOCK.min(size + 1));
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        let mut hasher = Hasher::default();
        while let Some(length) = reading.next(buffer)? {
            hasher.update(&buffer[..length]);
        }
        Ok(hasher.finish())
    })
}

/// Hashes in a thread of its own, so that a single large file keeps two processors busy.
fn hash_beside(reading: &mut Reading<'_>) -> Result<Digest, Fault> {
    std::thread::scope(|scope| {
        let (full, blocks) = mpsc::channel::<(Vec<u8>, usize)>();
        let (hashed, buffers) = mpsc::channel();
        for _ in 0..BUFFERS {
            hashed.send(vec![0; BLOCK]).expect("the other end is here");
        }
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::default();
            for (block, length) in blocks {
                hasher.update(&block[..length]);
                // At the end nobody wants it back.
                let _ = hashed.send(block);
            }
            hasher.finish()
        });
        let mut buffer: Vec<u8> = buffers.recv().expect("one was sent");
        while let Some(length) = reading.next(&mut buffer)? {
            full.send((buffer, length))
                .expect("the hashing goes on until this end is closed");
            buffer = buffers
                .recv()
                .expect("the hashing goes on until that end is closed");
        }
        drop(full);
        Ok(hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A file on its way, block by block.
struct Reading<'a> {
    image: &'a Image,
    path: &'a str,
    size: u64,
    from: &'a File,
    to: Option<&'a Written<'a>>,
    progress: &'a Progress,
    done: u64,
}

impl Reading<'_> {
    /// Reads the next block, and writes it. Returns its length; `None` at the file's end, which has
    /// to come where the file's size says.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
        if self.progress.is_stop_requested() {
            return Err(Fault::Interrupted);
        }
        let mut from = self.from;
        let length = loop {
            match from.read(buffer) {
                Ok(length) => break length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.image.failure("reading", self.path, error)),
            }
        };
        self.done += length as u64;
        if self.done > self.size || (length == 0 && self.done < self.size) {
            return Err(changed(self.path));
        }
        if length == 0 {
            return Ok(None);
        }
        if let Some(to) = self.to {
            to.append(&buffer[..length], self.done)?;
        }
        self.progress.advance(length as u64);
        Ok(Some(length))
    }
}
