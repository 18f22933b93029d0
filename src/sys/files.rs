//! What can be asked of the kernel about an open file, and done with it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use rustix::{fs, process, rand};

use super::dir::Stat;

/// Calls on an open file.
pub(crate) trait FileExt {
    fn stat(&self) -> io::Result<Stat>;

    /// Whether another process has locked some of the file (`F_SETLK`, fcntl(2)). Where that can't be
    /// found out, nobody has.
    fn is_locked(&self) -> bool;

    /// Makes `to` share the blocks of this file; `false` where the file system can't do that.
    fn reflink(&self, to: &File) -> bool;

    /// Lets the kernel begin to write these bytes to the disk, and waits for nothing:
    /// `POSIX_FADV_DONTNEED` starts the write-back of dirty pages (and leaves them in memory).
    fn start_writing(&self, offset: u64, length: u64);
}

impl FileExt for File {
    fn stat(&self) -> io::Result<Stat> {
        Ok(fs::fstat(self)?.into())
    }

    fn is_locked(&self) -> bool {
        let lock = process::Flock::from(process::FlockType::WriteLock);
        matches!(process::fcntl_getlk(self, &lock), Ok(Some(_)))
    }

    fn reflink(&self, to: &File) -> bool {
        fs::ioctl_ficlone(to, self).is_ok()
    }

    fn start_writing(&self, offset: u64, length: u64) {
        let advice = fs::Advice::DontNeed;
        let _ = fs::fadvise(self, offset, NonZeroU64::new(length), advice);
    }
}

/// A file in memory, of no name and with what `write` puts into it, that nobody can change any more.
pub(crate) fn sealed(write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let flags = fs::MemfdFlags::CLOEXEC | fs::MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(fs::memfd_create("sealed", flags)?);
    write(&mut file)?;
    let seals = fs::SealFlags::SHRINK | fs::SealFlags::GROW | fs::SealFlags::WRITE;
    fs::fcntl_add_seals(&file, seals | fs::SealFlags::SEAL)?;
    Ok(file)
}

/// A number that nobody can guess, and nobody else has.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let got = rand::getrandom(&mut bytes, rand::GetRandomFlags::empty());
    // So few bytes come whole, or the kernel has no such call (before Linux 3.17).
    assert_eq!(got, Ok(bytes.len()), "getrandom(2)");
    u64::from_ne_bytes(bytes)
}
