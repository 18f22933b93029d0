//! Open directories: the only file that makes system calls on names.
//!
//! A name is looked up from an open directory and never leaves it: `openat2(2)` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, so that no link, no `..` and no mount
//! that somebody puts on the way leads elsewhere. That something is not there is a value, not an
//! error; nothing is looked for first and used later.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    self, AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags,
    Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::accounts::Ownership;
use super::failure::Failure;

use crate::words::Moment;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(super) const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// `O_NONBLOCK`: a FIFO that was put in a file's place must not hang the reader.
const OPEN_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const CREATE_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

type Result<T> = std::result::Result<T, Failure>;

/// An open directory, and the path that messages show for it.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    keep_atime: bool,
    /// It was listed: the next listing has to begin with a rewind.
    is_listed: AtomicBool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Link,
    /// FIFO, socket or device.
    Other,
}

/// What the file system knows about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// The permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device and inode: what makes it itself.
    pub id: (u64, u64),
    pub modified: Moment,
    /// When the inode changed last; nobody can forge it.
    pub changed: Moment,
}

impl From<fs::Stat> for Stat {
    #[expect(clippy::cast_sign_loss, reason = "no file has a negative size")]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "nanoseconds are below 10^9"
    )]
    fn from(stat: fs::Stat) -> Self {
        Self {
            kind: fs::FileType::from_raw_mode(stat.st_mode).into(),
            size: stat.st_size as u64,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            id: (stat.st_dev, stat.st_ino),
            modified: Moment::from_stat(stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: Moment::from_stat(stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }
}

impl Stat {
    /// User and group that the file belongs to.
    pub(crate) fn ownership(&self) -> Ownership {
        Ownership {
            uid: self.uid,
            gid: self.gid,
        }
    }
}

impl From<fs::FileType> for Kind {
    fn from(kind: fs::FileType) -> Self {
        match kind {
            fs::FileType::RegularFile => Self::File,
            fs::FileType::Directory => Self::Dir,
            fs::FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

impl Dir {
    /// Opens a directory that the admin named: links on the way are the admin's.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, OFlags::RDONLY)
    }

    /// As [`Dir::open`], for one that this user may not list: names in it can be used all the same.
    /// It can't be listed, locked or synced.
    pub(crate) fn enter(path: &Path) -> Result<Self> {
        Self::open_as(path, OFlags::PATH)
    }

    fn open_as(path: &Path, flags: OFlags) -> Result<Self> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Failure::new("opening directory", path, errno))?;
        Ok(Self {
            fd,
            path: path.to_path_buf(),
            keep_atime: false,
            is_listed: AtomicBool::new(false),
        })
    }

    /// As [`Dir::open`]; makes it, with the folders above it, when it is not there.
    pub(crate) fn open_or_make(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|error| Failure::new("making directory", path, error))?;
        Self::open(path)
    }

    /// From here down, reading leaves no access time behind, where the system allows that.
    pub(crate) fn keep_atime(mut self) -> Self {
        self.keep_atime = true;
        self
    }

    /// The path that messages show.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to this very directory, whatever its name is by now.
    pub(crate) fn path_of_descriptor(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// The directory `path` beneath this one; `None` when there is none of that name.
    pub(crate) fn dir(&self, path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        match self.open_beneath(path, OPEN_DIR) {
            Ok(fd) => Ok(Some(self.beneath(fd, path))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure("opening directory", path, errno)),
        }
    }

    /// The directory `name` in this one, made with `mode` when it is not there.
    pub(crate) fn dir_or_make(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let name = name.as_ref();
        if let Some(dir) = self.dir(name)? {
            return Ok(dir);
        }
        self.make_dir(name, mode)?;
        self.existing_dir(name)
    }

    /// As [`Dir::dir`], for one that has to be there.
    pub(crate) fn existing_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        self.dir(path)?
            .ok_or_else(|| self.failure("opening directory", path, Errno::NOENT))
    }

    /// Opens the file `path` beneath this directory for reading; `None` when there is none of that
    /// name. What was opened may still be something else than a regular file.
    pub(crate) fn file(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        let path = path.as_ref();
        match self.open_beneath(path, OPEN_FILE) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure("opening", path, errno)),
        }
    }

    /// As [`Dir::file`], for one that has to be there.
    pub(crate) fn existing_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        self.file(path)?
            .ok_or_else(|| self.failure("opening", path, Errno::NOENT))
    }

    /// Whether anything of the name `path` is beneath this directory. What can't be looked at is
    /// taken to be there: to open it says what is wrong with it.
    pub(crate) fn has(&self, path: impl AsRef<Path>) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat2(&self.fd, path.as_ref(), flags, Mode::empty(), BENEATH);
        !matches!(opened, Err(Errno::NOENT | Errno::NOTDIR))
    }

    /// A whole small file; `None` when there is none of that name.
    ///
    /// # Errors
    /// `EFBIG` when it is longer than `max` bytes, `EINVAL` when it is no regular file.
    pub(crate) fn read(&self, path: impl AsRef<Path>, max: u64) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(mut file) = self.file(path)? else {
            return Ok(None);
        };
        read_whole(&mut file, max)
            .map(Some)
            .map_err(|error| self.failure("reading", path, error))
    }

    /// A whole small file that the admin named: links on the way are the admin's.
    ///
    /// # Errors
    /// As [`Dir::read`], and when there is none of that name.
    pub(crate) fn read_named(path: &Path, max: u64) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = fs::openat(CWD, path, flags, Mode::empty());
        let read = opened.map_err(io::Error::from);
        let read = read.and_then(|fd| read_whole(&mut fd.into(), max));
        read.map_err(|error| Failure::new("reading", path, error))
    }

    /// Makes the new file `path` beneath this directory, for writing.
    pub(crate) fn create(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let mode = Mode::from_raw_mode(0o644);
        fs::openat2(&self.fd, path, CREATE_FILE, mode, BENEATH)
            .map(File::from)
            .map_err(|errno| self.failure("creating", path, errno))
    }

    /// Makes the new file `path` with these contents.
    pub(crate) fn write_new(&self, path: impl AsRef<Path>, contents: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let mut file = self.create(path)?;
        file.write_all(contents)
            .map_err(|error| self.failure("writing", path, error))
    }

    /// Puts a file with these contents at `name`, in place of what was there. `temporary` is a name
    /// in this directory that is free; after an error nothing is left of it.
    pub(crate) fn replace(&self, name: &str, temporary: &str, contents: &[u8]) -> Result<()> {
        self.write_new(temporary, contents)
            .and_then(|()| self.rename(temporary, self, name))
            .inspect_err(|_| drop(self.remove_file(temporary)))
    }

    /// Puts a file with these contents at `new` in `to`, in place of what was there, and gives it
    /// to `owner`. It is whole on the disk before anybody can see it.
    /// `temporary` is a name in this directory that nobody else uses; after an error nothing is left
    /// of it.
    pub(crate) fn replace_durably(
        &self,
        temporary: &str,
        owner: Option<Ownership>,
        contents: &[u8],
        to: &Self,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        let mut replacement = self.begin_replacement(temporary)?;
        replacement
            .write_all(contents)
            .map_err(|error| replacement.failure(error))?;
        replacement.finish(owner, to, new)
    }

    /// Begins a file that will be put in the place of another; `temporary` as for
    /// [`Dir::replace_durably`].
    pub(crate) fn begin_replacement<'d>(&'d self, temporary: &'d str) -> Result<Replacement<'d>> {
        // A crash may have left one.
        self.remove_file(temporary)?;
        Ok(Replacement {
            file: self.create(temporary)?,
            dir: self,
            temporary,
            is_finished: false,
        })
    }

    /// Makes a directory; `false` when the name is taken.
    pub(crate) fn make_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<bool> {
        let name = name.as_ref();
        match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.failure("making directory", name, errno)),
        }
    }

    /// What `name` stands for, a link for itself; `None` when there is none of that name.
    pub(crate) fn stat(&self, name: impl AsRef<Path>) -> Result<Option<Stat>> {
        let name = name.as_ref();
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure("looking at", name, errno)),
        }
    }

    /// What this directory is, whatever its name is by now.
    pub(crate) fn stat_self(&self) -> Result<Stat> {
        fs::fstat(&self.fd)
            .map(Stat::from)
            .map_err(|errno| Failure::new("looking at", &self.path, errno))
    }

    /// What the link `name` holds; `None` when there is no link of that name.
    pub(crate) fn link(&self, name: impl AsRef<Path>) -> Result<Option<OsString>> {
        let name = name.as_ref();
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.failure("reading link", name, errno)),
        }
    }

    /// Makes the new link `name` that holds `target`.
    pub(crate) fn make_link(&self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let name = name.as_ref();
        fs::symlinkat(target.as_ref(), &self.fd, name)
            .map_err(|errno| self.failure("making link", name, errno))
    }

    /// Renames atomically; a file or link that is called `new` is replaced.
    pub(crate) fn rename(
        &self,
        name: impl AsRef<Path>,
        to: &Self,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        let name = name.as_ref();
        fs::renameat(&self.fd, name, &to.fd, new.as_ref())
            .map_err(|errno| self.failure("renaming", name, errno))
    }

    /// Renames atomically to a name that is free; `false` when it is taken.
    ///
    /// NFS and others know no `RENAME_NOREPLACE`. There the name is looked at first. Nobody but the
    /// daemon makes names in its own folders; in `incoming/`, a drop that is there already can't be
    /// replaced by a rename anyway, because it isn't empty.
    pub(crate) fn rename_new(
        &self,
        name: impl AsRef<Path>,
        to: &Self,
        new: impl AsRef<Path>,
    ) -> Result<bool> {
        let name = name.as_ref();
        let flags = RenameFlags::NOREPLACE;
        match fs::renameat_with(&self.fd, name, &to.fd, new.as_ref(), flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL) if to.stat(&new)?.is_some() => Ok(false),
            Err(Errno::INVAL) => self.rename(name, to, new).map(|()| true),
            Err(errno) => Err(self.failure("renaming", name, errno)),
        }
    }

    /// Two names change places in one atomic step.
    pub(crate) fn exchange(
        &self,
        name: impl AsRef<Path>,
        to: &Self,
        other: impl AsRef<Path>,
    ) -> Result<()> {
        let name = name.as_ref();
        let flags = RenameFlags::EXCHANGE;
        fs::renameat_with(&self.fd, name, &to.fd, other.as_ref(), flags)
            .map_err(|errno| self.failure("exchanging", name, errno))
    }

    /// Gives the file `path` a second name.
    pub(crate) fn hard_link(
        &self,
        path: impl AsRef<Path>,
        to: &Self,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        let path = path.as_ref();
        fs::linkat(&self.fd, path, &to.fd, new.as_ref(), AtFlags::empty())
            .map_err(|errno| self.failure("linking", path, errno))
    }

    /// Removes a name that is no directory; `false` when there was none.
    pub(crate) fn remove_file(&self, name: impl AsRef<Path>) -> Result<bool> {
        self.unlink(name.as_ref(), AtFlags::empty())
    }

    /// Removes an empty directory; `false` when there was none.
    pub(crate) fn remove_dir(&self, name: impl AsRef<Path>) -> Result<bool> {
        self.unlink(name.as_ref(), AtFlags::REMOVEDIR)
    }

    /// Calls `see` with every name in this directory but `.` and `..`, in no order.
    pub(crate) fn each(&self, mut see: impl FnMut(&OsStr, Kind) -> ControlFlow<()>) -> Result<()> {
        let failed = |errno| Failure::new("listing", &self.path, errno);
        if self.is_listed.swap(true, Ordering::Relaxed) {
            fs::seek(&self.fd, fs::SeekFrom::Start(0)).map_err(failed)?;
        }
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut names = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = names.next() {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems don't say.
                fs::FileType::Unknown => match self.stat(name)? {
                    Some(stat) => stat.kind,
                    None => continue,
                },
                kind => kind.into(),
            };
            if see(name, kind).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// All names in this directory, sorted.
    pub(crate) fn names(&self) -> Result<Vec<(OsString, Kind)>> {
        let mut names = Vec::new();
        self.each(|name, kind| {
            names.push((name.to_os_string(), kind));
            ControlFlow::Continue(())
        })?;
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Gives `name`, a link for itself, to a user and a group.
    pub(crate) fn set_owner(&self, name: impl AsRef<Path>, owner: Ownership) -> Result<()> {
        let name = name.as_ref();
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fs::chownat(
            &self.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.failure("changing the owner of", name, errno))
    }

    /// Sets the time of last modification of `name`.
    pub(crate) fn set_modified(&self, name: impl AsRef<Path>, moment: Moment) -> Result<()> {
        let name = name.as_ref();
        let since = moment.since_1970();
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: fs::UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
        };
        fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failure("changing the time of", name, errno))
    }

    /// Sets this directory's permission bits, and takes away what it inherited and would pass on:
    /// the set-group-id bit and ACLs.
    pub(crate) fn make_plain(&self, mode: u32) -> Result<()> {
        for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
            // Only what is there is removed: a read-only file system is no reason to fail then.
            let removed = fs::fgetxattr(&self.fd, acl, &mut [0_u8; 0])
                .and_then(|_| fs::fremovexattr(&self.fd, acl));
            match removed {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(Failure::new("removing an ACL of", &self.path, errno));
                }
            }
        }
        if self.stat_self()?.mode != mode {
            fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
                .map_err(|errno| Failure::new("changing the mode of", &self.path, errno))?;
        }
        Ok(())
    }

    /// Locks this directory against other processes until it is closed; `false` when another
    /// holds it.
    pub(crate) fn lock(&self) -> Result<bool> {
        match fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(Failure::new("locking", &self.path, errno)),
        }
    }

    /// Makes durable everything on this directory's file system.
    ///
    /// One `syncfs(2)` does for many drops what an `fsync(2)` for each file and folder would do one
    /// by one. It reports what could not be written since the directory was opened (Linux 5.8).
    pub(crate) fn sync_file_system(&self) -> Result<()> {
        fs::syncfs(&self.fd).map_err(|errno| Failure::new("syncing", &self.path, errno))
    }

    /// Bytes that an unprivileged user can still write on this directory's file system.
    pub(crate) fn free_space(&self) -> Result<u64> {
        let stat = fs::fstatvfs(&self.fd)
            .map_err(|errno| Failure::new("asking for the free space of", &self.path, errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn open_beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if self.keep_atime {
            let quiet = flags | OFlags::NOATIME;
            match fs::openat2(&self.fd, path, quiet, Mode::empty(), BENEATH) {
                // Only the owner may leave the access time as it is (open(2)).
                Err(Errno::PERM) => {}
                opened => return opened,
            }
        }
        fs::openat2(&self.fd, path, flags, Mode::empty(), BENEATH)
    }

    pub(super) fn beneath(&self, fd: OwnedFd, path: &Path) -> Self {
        Self {
            fd,
            path: self.path.join(path),
            keep_atime: self.keep_atime,
            is_listed: AtomicBool::new(false),
        }
    }

    fn unlink(&self, name: &Path, flags: AtFlags) -> Result<bool> {
        match fs::unlinkat(&self.fd, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failure("removing", name, errno)),
        }
    }

    pub(super) fn failure(
        &self,
        doing: &'static str,
        name: &Path,
        error: impl Into<io::Error>,
    ) -> Failure {
        Failure::new(doing, self.path.join(name), error)
    }
}

/// A file that is being written, and will be put in the place of another. Goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Replacement<'d> {
    file: File,
    dir: &'d Dir,
    temporary: &'d str,
    is_finished: bool,
}

impl Replacement<'_> {
    /// As [`Dir::replace_durably`], with what was written.
    pub(crate) fn finish(
        mut self,
        owner: Option<Ownership>,
        to: &Dir,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failure(error))?;
        if let Some(owner) = owner {
            self.dir.set_owner(self.temporary, owner)?;
        }
        self.dir.rename(self.temporary, to, new)?;
        self.is_finished = true;
        Ok(())
    }

    fn failure(&self, error: io::Error) -> Failure {
        self.dir
            .failure("writing", Path::new(self.temporary), error)
    }
}

impl Write for Replacement<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays behind goes with the next one.
            let _ = self.dir.remove_file(self.temporary);
        }
    }
}

fn read_whole(file: &mut File, max: u64) -> io::Result<Vec<u8>> {
    let stat = Stat::from(fs::fstat(&*file)?);
    if stat.kind != Kind::File {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.size.min(max)).unwrap_or(0) + 1);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(Errno::FBIG.into());
    }
    Ok(bytes)
}
