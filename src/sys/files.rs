//! What can be asked of the kernel about an open file, and done with it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use rustix::io::Errno;
use rustix::{fs, process, rand};

use super::dir::Stat;
use super::lease;

/// Calls on an open file.
pub(crate) trait FileExt {
    /// A file in memory, of no name and with what `write` puts into it, that nobody can change any
    /// more.
    fn frozen(write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File>;

    fn stat(&self) -> io::Result<Stat>;

    /// The process that has locked some of the file (`F_SETLK`, fcntl(2)), if another one has; 0
    /// where the kernel knows none (an open file's own lock). Where that can't be found out, nobody has.
    fn locked_by(&self) -> Option<u32>;

    /// Whether anybody has the file open for writing; `None` where the kernel doesn't tell. What
    /// asks takes and drops a read lease: the process has to handle SIGIO.
    fn is_being_written(&self) -> Option<bool>;

    /// Makes `to` share the blocks of this file; `false` where the file system can't do that.
    fn reflink(&self, to: &File) -> bool;

    /// Lets the kernel begin to write these bytes to the disk, and waits for nothing:
    /// `POSIX_FADV_DONTNEED` starts the write-back of dirty pages (and leaves them in memory).
    fn start_writing(&self, offset: u64, length: u64);

    /// The next bytes from `at` on that are no hole; none, at `size`, where a hole is all that is left
    /// of the file's `size` bytes. Where the file system tells of no holes, everything is data. Moves
    /// the file's offset.
    fn next_data(&self, at: u64, size: u64) -> Range<u64>;

    /// Changes the nanoseconds of the time of last modification, and leaves its seconds.
    fn set_nanoseconds(&self, nanoseconds: u32) -> io::Result<()>;
}

impl FileExt for File {
    fn frozen(write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
        let flags = fs::MemfdFlags::CLOEXEC | fs::MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(fs::memfd_create("frozen", flags)?);
        write(&mut file)?;
        let seals = fs::SealFlags::SHRINK | fs::SealFlags::GROW | fs::SealFlags::WRITE;
        fs::fcntl_add_seals(&file, seals | fs::SealFlags::SEAL)?;
        Ok(file)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(fs::fstat(self)?.into())
    }

    fn locked_by(&self) -> Option<u32> {
        let lock = process::Flock::from(process::FlockType::WriteLock);
        let locked = process::fcntl_getlk(self, &lock).ok()??;
        let pid = locked.pid.map_or(0, process::Pid::as_raw_pid);
        Some(u32::try_from(pid).unwrap_or(0))
    }

    fn is_being_written(&self) -> Option<bool> {
        lease::is_being_written(self)
    }

    fn reflink(&self, to: &File) -> bool {
        fs::ioctl_ficlone(to, self).is_ok()
    }

    fn start_writing(&self, offset: u64, length: u64) {
        let advice = fs::Advice::DontNeed;
        let _ = fs::fadvise(self, offset, NonZeroU64::new(length), advice);
    }

    fn next_data(&self, at: u64, size: u64) -> Range<u64> {
        let start = match fs::seek(self, fs::SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => size,
            Err(_) => return at..size,
        };
        let end = fs::seek(self, fs::SeekFrom::Hole(start));
        // A file that changes meanwhile may have a hole right here.
        let end = end.ok().filter(|end| *end > start);
        start..end.map_or(size, |end| end.min(size))
    }

    fn set_nanoseconds(&self, nanoseconds: u32) -> io::Result<()> {
        let times = fs::Timestamps {
            last_access: fs::Timespec {
                tv_sec: 0,
                tv_nsec: fs::UTIME_OMIT,
            },
            last_modification: fs::Timespec {
                tv_sec: fs::fstat(self)?.st_mtime,
                tv_nsec: nanoseconds.into(),
            },
        };
        Ok(fs::futimens(self, &times)?)
    }
}

/// A number that nobody can guess, and nobody else has.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let got = rand::getrandom(&mut bytes, rand::GetRandomFlags::empty());
    // So few bytes come whole, or the kernel has no such call (before Linux 3.17).
    assert_eq!(got, Ok(bytes.len()), "getrandom(2)");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_next_in_a_file_are_its_bytes_without_its_holes() {
        let file = tempfile::tempfile().unwrap();
        let size = 5 << 20;
        file.set_len(size).unwrap();
        assert_eq!(file.next_data(0, size), size..size);
        file.write_all_at(&vec![1; 1 << 20], 2 << 20).unwrap();
        assert_eq!(file.next_data(0, size), 2 << 20..3 << 20);
        assert_eq!(file.next_data(5 << 19, size), 5 << 19..3 << 20);
        assert_eq!(file.next_data(3 << 20, size), size..size);
        // Whoever asks for a part gets no more than that.
        assert_eq!(file.next_data(0, 1 << 20), 1 << 20..1 << 20);
        assert_eq!(file.next_data(0, 5 << 19), 2 << 20..5 << 19);
    }

    #[test]
    fn where_holes_are_unknown_all_is_data() {
        let file = File::open("/proc/self/maps").unwrap();
        assert_eq!(file.next_data(3, 100), 3..100);
    }

    #[test]
    fn nanoseconds_change_and_seconds_stay() {
        let file = tempfile::tempfile().unwrap();
        let at = |nanoseconds| {
            std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, nanoseconds)
        };
        file.set_modified(at(500_000_000)).unwrap();
        file.set_nanoseconds(7).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), at(7));
        let stat = file.stat().unwrap();
        assert_eq!((stat.nanoseconds, stat.modified), (7, at(0).into()));
    }
}
