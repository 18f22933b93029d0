//! A file is read to its end, block by block: hashed, and written elsewhere.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;

use super::entry::changed;
use super::listing::FileMark;
use super::{Image, check_owner, of_importer};
use crate::fault::Fault;
use crate::sys::{Failure, FileExt as _, Kind, Progress, Stat};
use crate::words::{Digest, Hasher};

/// Read, hashed and written at a time, in bytes.
const BLOCK: usize = 256 << 10;

/// A larger file is hashed in a thread of its own, with so many blocks on their way.
const LARGE: u64 = 8 << 20;
const BUFFERS: usize = 8;

/// After so many bytes of a file the kernel is told to begin writing them to the disk.
const WRITE_BEHIND: u64 = 16 << 20;

/// What a hole reads as.
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// The digest of an open file, whatever is in it. `failed` makes a fault of an error.
///
/// # Errors
/// [`Fault::Interrupted`] when the work is to stop.
pub(crate) fn hash_file(
    file: &File,
    progress: &Progress,
    failed: impl Fn(io::Error) -> Fault,
) -> Result<Digest, Fault> {
    let stat = file.stat().map_err(&failed)?;
    let mut reader = Reader::new(file, &stat);
    hash_in_turn(BLOCK, |buffer| {
        let block = reader.next(buffer, progress, &failed)?;
        progress.advance(block.length() as u64);
        Ok(block)
    })
}

/// What is next in a file.
#[derive(Clone, Copy)]
enum Block {
    /// So many bytes, which are in the buffer.
    Data(usize),
    /// So many bytes of a hole. The buffer is as it was.
    Hole(usize),
    End,
}

impl Block {
    fn length(self) -> usize {
        match self {
            Self::Data(length) | Self::Hole(length) => length,
            Self::End => 0,
        }
    }

    fn hash(self, buffer: &[u8], hasher: &mut Hasher) {
        match self {
            Self::Data(length) => hasher.update(&buffer[..length]),
            Self::Hole(mut rest) => {
                while rest > 0 {
                    let length = rest.min(ZEROS.len());
                    hasher.update(&ZEROS[..length]);
                    rest -= length;
                }
            }
            Self::End => {}
        }
    }
}

/// A file on its way from its start to its end.
struct Reader<'f> {
    file: &'f File,
    at: u64,
    /// The file's size, where it has holes: it is known to be data up to the end of `data` only.
    sparse: Option<u64>,
    data: Range<u64>,
}

impl<'f> Reader<'f> {
    fn new(file: &'f File, stat: &Stat) -> Self {
        Self {
            file,
            at: 0,
            sparse: stat.is_sparse().then_some(stat.size),
            data: 0..0,
        }
    }

    /// Reads the next block.
    fn next(
        &mut self,
        buffer: &mut [u8],
        progress: &Progress,
        failed: impl Fn(io::Error) -> Fault,
    ) -> Result<Block, Fault> {
        let mut most = buffer.len();
        if let Some(size) = self.sparse.filter(|size| self.at < *size) {
            if self.at >= self.data.end {
                self.data = self.file.next_data(self.at, size);
            }
            let is_hole = self.at < self.data.start;
            let end = if is_hole {
                self.data.start
            } else {
                self.data.end
            };
            most = usize::try_from(end - self.at).map_or(most, |left| left.min(most));
            if is_hole {
                check_stop(progress)?;
                self.at += most as u64;
                return Ok(Block::Hole(most));
            }
        }
        loop {
            check_stop(progress)?;
            match self.file.read_at(&mut buffer[..most], self.at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Ok(Block::End),
                Ok(length) => {
                    self.at += length as u64;
                    return Ok(Block::Data(length));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn check_stop(progress: &Progress) -> Result<(), Fault> {
    if progress.is_stop_requested() {
        return Err(Fault::Interrupted);
    }
    Ok(())
}

/// A file of an image that was opened, as it was seen then.
pub(super) struct OpenFile<'i> {
    pub image: &'i Image,
    pub path: &'i str,
    pub file: File,
    pub stat: Stat,
}

impl Image {
    /// Opens the file `path`, and makes sure that it still has the `size` and the owner that it was
    /// walked with: another may have been put in its place.
    pub(super) fn open<'i>(&'i self, path: &'i str, size: u64) -> Result<OpenFile<'i>, Fault> {
        let file = self.dir.existing_file(path);
        let file = file.map_err(|failure| of_importer(failure.into()))?;
        let failed = |error| self.failure("looking at", path, error);
        let stat = file.stat().map_err(failed)?;
        if stat.kind != Kind::File || stat.size != size {
            return Err(changed(path));
        }
        check_owner(path, stat.owner.uid, self.owner)?;
        Ok(OpenFile {
            image: self,
            path,
            file,
            stat,
        })
    }
}

impl OpenFile<'_> {
    /// What it means that the file can't be read.
    pub(super) fn failure(&self, error: io::Error) -> Fault {
        self.image.failure("reading", self.path, error)
    }

    /// Reads the file to its end, hashes each block, and hands it to `write` with the offsets that it
    /// has in the file: no bytes at all where that is a hole.
    ///
    /// # Errors
    /// Also when the end doesn't come where the file's size says.
    pub(super) fn hash(
        &self,
        progress: &Progress,
        write: impl Fn(&[u8], Range<u64>) -> Result<(), Failure>,
    ) -> Result<FileMark, Fault> {
        let size = self.stat.size;
        let mut reader = Reader::new(&self.file, &self.stat);
        let next = |buffer: &mut [u8]| {
            let start = reader.at;
            let block = reader.next(buffer, progress, |error| self.failure(error))?;
            let is_end = matches!(block, Block::End);
            if reader.at > size || (is_end && !self.ends_at(reader.at)?) {
                return Err(changed(self.path));
            }
            match block {
                Block::Data(length) => write(&buffer[..length], start..reader.at)?,
                Block::Hole(_) => write(&[], start..reader.at)?,
                Block::End => {}
            }
            progress.advance(block.length() as u64);
            Ok(block)
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

    /// Whether the file has its size still when nothing more was found to read at `end`.
    pub(super) fn ends_at(&self, end: u64) -> Result<bool, Fault> {
        // What was cut off looks like a hole.
        let has_its_size = |stat: Stat| stat.size == self.stat.size;
        let is_cut = self.stat.is_sparse()
            && !self
                .file
                .stat()
                .map(has_its_size)
                .map_err(|error| self.failure(error))?;
        Ok(end == self.stat.size && !is_cut)
    }
}

/// Writes what belongs at these offsets of a new file, which may be a hole: then nothing. What lies
/// before is written already.
pub(super) fn put(file: &File, block: &[u8], at: Range<u64>) -> io::Result<()> {
    file.write_all_at(block, at.start)?;
    let passed = at.end / WRITE_BEHIND;
    if passed > at.start / WRITE_BEHIND {
        file.start_writing((passed - 1) * WRITE_BEHIND, WRITE_BEHIND);
    }
    Ok(())
}

/// Hashes blocks of at most `size` bytes until `next` has come to the end.
fn hash_in_turn(
    size: usize,
    mut next: impl FnMut(&mut [u8]) -> Result<Block, Fault>,
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
            match next(buffer)? {
                Block::End => return Ok(hasher.finish()),
                block => block.hash(buffer, &mut hasher),
            }
        }
    })
}

/// Hashes in a thread of its own, so that a single large file keeps two processors busy: without that
/// a changed image of 1 GiB takes a quarter longer.
fn hash_beside(mut next: impl FnMut(&mut [u8]) -> Result<Block, Fault>) -> Result<Digest, Fault> {
    std::thread::scope(|scope| {
        let (full, blocks) = mpsc::channel::<(Vec<u8>, Block)>();
        let (hashed, buffers) = mpsc::channel();
        for _ in 0..BUFFERS {
            hashed.send(vec![0; BLOCK]).expect("its receiver is here");
        }
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::default();
            for (buffer, block) in blocks {
                block.hash(&buffer, &mut hasher);
                // After the last block nobody takes buffers back.
                let _ = hashed.send(buffer);
            }
            hasher.finish()
        });
        for mut buffer in buffers {
            let block = next(&mut buffer)?;
            if matches!(block, Block::End) {
                break;
            }
            full.send((buffer, block))
                .expect("the hashing goes on until this end is closed");
        }
        drop(full);
        Ok(hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dir;

    /// Files that are read by one thread and by two; one of each is sparse.
    const SIZES: [(u64, bool); 4] = [
        (400_000, false),
        (400_000, true),
        (9 << 20, false),
        (9 << 20, true),
    ];

    /// What hashing a file comes to that `change` changed after it was opened.
    fn hashed(size: u64, is_sparse: bool, change: impl Fn(&File)) -> Result<FileMark, Fault> {
        let folder = tempfile::tempdir().unwrap();
        let written = if is_sparse {
            4_096
        } else {
            usize::try_from(size).unwrap()
        };
        std::fs::write(folder.path().join("file"), vec![7; written]).unwrap();
        let options = File::options().write(true).open(folder.path().join("file"));
        let file = options.unwrap();
        file.set_len(size).unwrap();
        let image = Image::read(Dir::open(folder.path()).unwrap(), None).unwrap();
        let open = image.open("file", size).unwrap();
        assert_eq!(open.stat.is_sparse(), is_sparse);
        change(&file);
        let progress = Progress::default();
        let mark = open.hash(&progress, |_, _| Ok(()))?;
        assert_eq!(progress.bytes(), size, "holes are progress as well");
        Ok(mark)
    }

    #[test]
    fn the_digest_is_that_of_all_bytes_also_of_holes() {
        for (size, is_sparse) in SIZES {
            let mut bytes = vec![7; usize::try_from(size).unwrap()];
            if is_sparse {
                bytes[4_096..].fill(0);
            }
            let sha256 = Digest::of(&bytes);
            let mark = hashed(size, is_sparse, |_| ()).unwrap();
            assert_eq!(mark, FileMark { sha256, size }, "{size} {is_sparse}");
        }
    }

    #[test]
    fn a_file_that_is_cut_or_grows_while_it_is_read_is_refused() {
        for (size, is_sparse) in SIZES {
            for now in [0, 4_096, size - 1, size + 1, 2 * size] {
                let hashed = hashed(size, is_sparse, |file| file.set_len(now).unwrap());
                let Err(Fault::Reject(rejection)) = hashed else {
                    panic!("{size} {is_sparse} {now}: {hashed:?}");
                };
                assert_eq!(rejection.reason, crate::words::Reason::Changed);
            }
        }
    }
}
