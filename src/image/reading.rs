//! A file is read to its end, block by block: hashed, and written elsewhere.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc;

use super::Image;
use super::entry::changed;
use super::listing::FileMark;
use crate::fault::Fault;
use crate::sys::{Failure, FileExt as _, Progress};
use crate::words::{Digest, Hasher};

/// Read, hashed and written at a time, in bytes.
const BLOCK: usize = 256 << 10;

/// A larger file is hashed in a thread of its own, with so many blocks on their way.
const LARGE: u64 = 8 << 20;
const BUFFERS: usize = 8;

/// After so many bytes of a file the kernel is told to begin writing them to the disk.
const WRITE_BEHIND: u64 = 16 << 20;

/// The digest of an open file, whatever is in it. `failed` makes a fault of an error.
///
/// # Errors
/// [`Fault::Interrupted`] when the work is to stop.
pub(crate) fn hash_file(
    file: &File,
    progress: &Progress,
    failed: impl Fn(io::Error) -> Fault,
) -> Result<Digest, Fault> {
    hash_in_turn(BLOCK, |buffer| {
        let length = read_block(file, buffer, progress, &failed)?;
        progress.advance(length as u64);
        Ok(length)
    })
}

/// Reads the next block. Returns its length, 0 at the end of the file.
fn read_block(
    mut file: &File,
    buffer: &mut [u8],
    progress: &Progress,
    failed: impl Fn(io::Error) -> Fault,
) -> Result<usize, Fault> {
    loop {
        if progress.is_stop_requested() {
            return Err(Fault::Interrupted);
        }
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(failed),
        }
    }
}

impl Image {
    /// Reads the file `path` of this image, which has `size` bytes and is open as `from`, to its
    /// end; hashes each block, and hands it to `write` with the offset at which it ends.
    ///
    /// # Errors
    /// Also when the end doesn't come where the file's size says.
    pub(super) fn hash_open(
        &self,
        (path, size): (&str, u64),
        from: &File,
        progress: &Progress,
        write: impl Fn(&[u8], u64) -> Result<(), Failure>,
    ) -> Result<FileMark, Fault> {
        let mut done = 0;
        let next = |buffer: &mut [u8]| {
            let failed = |error| self.failure("reading", path, error);
            let length = read_block(from, buffer, progress, failed)?;
            done += length as u64;
            if done > size || (length == 0 && done < size) {
                return Err(changed(path));
            }
            write(&buffer[..length], done)?;
            progress.advance(length as u64);
            Ok(length)
        };
        let sha256 = if size > LARGE {
            hash_beside(next)?
        } else {
            // One byte more than there should be: a file that grows is found out.
            let needed = usize::try_from(size).map_or(BLOCK, |size| BLOCK.min(size + 1));
            hash_in_turn(needed, next)?
        };
        Ok(FileMark { sha256, size })
    }
}

/// Appends a block that ends at the offset `end` to a file.
pub(super) fn append(mut file: &File, block: &[u8], end: u64) -> io::Result<()> {
    file.write_all(block)?;
    let behind = end % WRITE_BEHIND;
    if end >= WRITE_BEHIND && behind < block.len() as u64 {
        file.start_writing(end - behind - WRITE_BEHIND, WRITE_BEHIND);
    }
    Ok(())
}

/// Hashes blocks of at most `size` bytes until `next` has filled none.
fn hash_in_turn(
    size: usize,
    mut next: impl FnMut(&mut [u8]) -> Result<usize, Fault>,
) -> Result<Digest, Fault> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let mut hasher = Hasher::default();
        loop {
            let length = next(buffer)?;
            if length == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..length]);
        }
    })
}

/// Hashes in a thread of its own, so that a single large file keeps two processors busy: without that
/// a changed image of 1 GiB takes a quarter longer.
fn hash_beside(mut next: impl FnMut(&mut [u8]) -> Result<usize, Fault>) -> Result<Digest, Fault> {
    std::thread::scope(|scope| {
        let (full, blocks) = mpsc::channel::<(Vec<u8>, usize)>();
        let (hashed, buffers) = mpsc::channel();
        for _ in 0..BUFFERS {
            hashed.send(vec![0; BLOCK]).expect("its receiver is here");
        }
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::default();
            for (block, length) in blocks {
                hasher.update(&block[..length]);
                // After the last block nobody takes buffers back.
                let _ = hashed.send(block);
            }
            hasher.finish()
        });
        for mut buffer in buffers {
            let length = next(&mut buffer)?;
            if length == 0 {
                break;
            }
            full.send((buffer, length))
                .expect("the hashing goes on until this end is closed");
        }
        drop(full);
        Ok(hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
