//! Open directories: the only file that makes system calls on names.
//!
//! A name is looked up from an open directory and never leaves it: `openat2(2)` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, so that no link, no `..` and no mount
//! that somebody puts on the way leads elsewhere. No call asks a file system that is mounted at a name:
//! its server may be anybody's, and never answer. The absence of a name is a value, not an error;
//! nothing is looked for first and used later.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    self, Access, AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, RawDir, RenameFlags,
    ResolveFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::accounts::Ownership;
use super::acl;
use super::failure::{Failure, Result};
use crate::words::Moment;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

const OPEN_DIR: OFlags = OFlags::RDONLY
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

/// The magic numbers of file systems that have no server (statfs(2)): ext2 to ext4, XFS, Btrfs, tmpfs,
/// overlayfs, F2FS, ZFS.
const LOCAL: [i64; 7] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
];

/// An open directory, and the path that messages show for it.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    keep_atime: bool,
    /// Whether it is on a file system of this machine: what the kernel knows of it is true.
    is_local: bool,
    /// Whether it was listed: the next listing begins with a rewind then.
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
    pub owner: Ownership,
    /// Device and inode: no other file has both while this one is there.
    pub id: (u64, u64),
    pub modified: Moment,
    /// The nanoseconds of `modified`, which itself is to the microsecond.
    pub nanoseconds: u32,
    /// Bytes that it takes on the disk: a hole takes none.
    pub allocated: u64,
    /// Whether it has more names than one.
    pub has_other_names: bool,
    /// When the inode changed last: a time that nobody can forge.
    pub changed: Moment,
}

impl Stat {
    /// Whether both are of one file, and nothing was done to it in between but that it was given more
    /// names.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        let other = Self {
            changed: self.changed,
            allocated: self.allocated,
            has_other_names: self.has_other_names,
            ..*other
        };
        *self == other
    }

    /// Whether there is room on the disk for less than the size: some of it is a hole, in most cases.
    pub(crate) fn is_sparse(&self) -> bool {
        self.allocated < self.size
    }
}

impl From<fs::Stat> for Stat {
    #[expect(clippy::cast_possible_truncation, reason = "below 10^9")]
    fn from(stat: fs::Stat) -> Self {
        let size = stat.st_size.unsigned_abs();
        let allocated = stat.st_blocks.unsigned_abs() * 512;
        Self {
            kind: fs::FileType::from_raw_mode(stat.st_mode).into(),
            size,
            mode: stat.st_mode & 0o7777,
            owner: Ownership {
                uid: stat.st_uid,
                gid: stat.st_gid,
            },
            id: (stat.st_dev, stat.st_ino),
            modified: Moment::from_stat(stat.st_mtime, stat.st_mtime_nsec as u32),
            nanoseconds: stat.st_mtime_nsec as u32,
            allocated,
            has_other_names: stat.st_nlink > 1,
            changed: Moment::from_stat(stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }
}

impl From<fs::Statx> for Stat {
    fn from(stat: fs::Statx) -> Self {
        let (modified, changed) = (stat.stx_mtime, stat.stx_ctime);
        Self {
            kind: fs::FileType::from_raw_mode(stat.stx_mode.into()).into(),
            size: stat.stx_size,
            mode: u32::from(stat.stx_mode) & 0o7777,
            owner: Ownership {
                uid: stat.stx_uid,
                gid: stat.stx_gid,
            },
            id: (
                fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
                stat.stx_ino,
            ),
            modified: Moment::from_stat(modified.tv_sec, modified.tv_nsec),
            nanoseconds: modified.tv_nsec,
            allocated: stat.stx_blocks * 512,
            has_other_names: stat.stx_nlink > 1,
            changed: Moment::from_stat(changed.tv_sec, changed.tv_nsec),
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

    /// As [`Dir::open`], for a directory that this user may not list: names in it can be used all
    /// the same. It can't be listed, locked or synced.
    pub(crate) fn enter(path: &Path) -> Result<Self> {
        Self::open_as(path, OFlags::PATH)
    }

    fn open_as(path: &Path, flags: OFlags) -> Result<Self> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = fs::openat(CWD, path, flags, Mode::empty());
        let fd = opened.map_err(|errno| Failure::new("opening directory", path, errno))?;
        let is_local = fs::fstatfs(&fd).is_ok_and(|stat| LOCAL.contains(&stat.f_type));
        Ok(Self {
            fd,
            path: path.to_path_buf(),
            keep_atime: false,
            is_local,
            is_listed: AtomicBool::new(false),
        })
    }

    /// As [`Dir::open`]; makes the directory, with those above it, when it is not there.
    pub(crate) fn open_or_make(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|error| Failure::new("making directory", path, error))?;
        Self::open(path)
    }

    /// Whether this process could write into the directory at `path`, or make it where it is not there.
    /// Nothing is changed.
    ///
    /// # Errors
    /// Why it could not.
    pub(crate) fn try_writing(path: &Path) -> Result<()> {
        for path in path.ancestors() {
            let is_here = path == Path::new("");
            match Self::enter(if is_here { Path::new(".") } else { path }) {
                Err(failure) if failure.is(io::ErrorKind::NotFound) => {}
                opened => return opened?.check_writable(),
            }
        }
        Ok(())
    }

    /// Makes sure that this process may make and remove names in this directory. Nothing is changed.
    pub(crate) fn check_writable(&self) -> Result<()> {
        // access(2) alone asks what the real user could do without the capabilities of the process.
        let (wanted, flags) = (Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
        self.explain_self("writing into", fs::accessat(&self.fd, ".", wanted, flags))
    }

    /// The path without links; as it is where it leads nowhere.
    pub(crate) fn without_links(path: &Path) -> PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
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

    /// The directory `path` beneath this one; `None` when nothing has that name.
    pub(crate) fn dir(&self, path: impl AsRef<Path>) -> Result<Option<Self>> {
        let opened = self.open_dir(path.as_ref());
        self.explain("opening directory", path, found(opened))
    }

    /// As [`Dir::dir`], for a directory that this user may not list, as [`Dir::enter`] opens it.
    pub(crate) fn dir_to_enter(&self, path: impl AsRef<Path>) -> Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self.open_beneath(path.as_ref(), flags).map(|fd| Self {
            fd,
            path: self.path.join(path.as_ref()),
            keep_atime: self.keep_atime,
            is_listed: AtomicBool::new(false),
            is_local: self.is_local,
        });
        self.explain("opening directory", path, found(opened))
    }

    /// As [`Dir::dir`], for a directory that has to be there.
    pub(crate) fn existing_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let opened = self.open_dir(path.as_ref());
        self.explain("opening directory", path, opened)
    }

    /// The directory `name` in this one, made with `mode` when it is not there.
    pub(crate) fn dir_or_make(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self> {
        if let Some(dir) = self.dir(&name)? {
            return Ok(dir);
        }
        self.make_dir(&name, mode)?;
        self.existing_dir(name)
    }

    /// Opens the file `path` beneath this directory for reading; `None` when nothing has that name.
    /// What was opened may still be something else than a regular file.
    pub(crate) fn file(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        let opened = self.open_beneath(path.as_ref(), OPEN_FILE);
        self.explain("opening", path, found(opened.map(File::from)))
    }

    /// As [`Dir::file`], for a file that has to be there.
    pub(crate) fn existing_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let opened = self.open_beneath(path.as_ref(), OPEN_FILE);
        self.explain("opening", path, opened.map(File::from))
    }

    /// Opens the file `path` beneath this directory to read it and to write at its end; `None` when
    /// nothing has that name.
    pub(crate) fn file_to_append(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        let flags = OPEN_FILE | OFlags::RDWR | OFlags::APPEND;
        let opened = fs::openat2(&self.fd, path.as_ref(), flags, Mode::empty(), BENEATH);
        self.explain("opening", path, found(opened.map(File::from)))
    }

    /// A whole small file; `None` when nothing has that name.
    ///
    /// # Errors
    /// `EFBIG` when it is longer than `max` bytes, `EINVAL` when it is no regular file.
    pub(crate) fn read(&self, path: impl AsRef<Path>, max: u64) -> Result<Option<Vec<u8>>> {
        let file = self.file(&path)?;
        let bytes = file.map(|file| read_whole(&file, max)).transpose();
        self.explain("reading", path, bytes)
    }

    /// A whole small file that the admin named: links on the way are the admin's.
    ///
    /// # Errors
    /// As [`Dir::read`], and when nothing has that name.
    pub(crate) fn read_named(path: &Path, max: u64) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = fs::openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from);
        let read = opened.and_then(|fd| read_whole(&fd.into(), max));
        read.map_err(|error| Failure::new("reading", path, error))
    }

    /// Makes the new file `path` beneath this directory, for writing.
    pub(crate) fn create(&self, path: impl AsRef<Path>) -> Result<File> {
        let mode = Mode::from_raw_mode(0o644);
        let created = fs::openat2(&self.fd, path.as_ref(), CREATE_FILE, mode, BENEATH);
        self.explain("creating", path, created.map(File::from))
    }

    /// Makes the new file `path` with these contents.
    pub(crate) fn write_new(&self, path: impl AsRef<Path>, contents: &[u8]) -> Result<()> {
        let mut file = self.create(&path)?;
        self.explain("writing", path, file.write_all(contents))
    }

    /// Writes over as many bytes of the file `path`, from `offset` on.
    pub(crate) fn overwrite(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let flags = OPEN_FILE | OFlags::WRONLY;
        let opened = fs::openat2(&self.fd, path.as_ref(), flags, Mode::empty(), BENEATH);
        let file = self.explain("opening", &path, opened.map(File::from))?;
        self.explain("writing", path, file.write_all_at(bytes, offset))
    }

    /// Puts a file with these contents at `name`, in place of what was there. `temporary` is a name
    /// in this directory that is free; after an error nothing is left of it.
    pub(crate) fn replace(&self, name: &str, temporary: &str, contents: &[u8]) -> Result<()> {
        self.write_new(temporary, contents)
            .and_then(|()| self.rename(temporary, self, name))
            .inspect_err(|_| drop(self.remove_file(temporary)))
    }

    /// As [`Dir::replace`], with a file that belongs to `owner` and is whole on the disk before
    /// anybody can see it. An earlier file that is called `temporary` goes.
    pub(crate) fn replace_durably(
        &self,
        name: impl AsRef<Path>,
        temporary: &str,
        contents: &[u8],
        owner: Option<Ownership>,
    ) -> Result<()> {
        let mut replacement = self.begin_replacement(temporary)?;
        self.explain("writing", temporary, replacement.write_all(contents))?;
        replacement.finish(owner, self, name)
    }

    /// Begins a file that will be put in the place of another; `temporary` as for
    /// [`Dir::replace_durably`].
    pub(crate) fn begin_replacement<'d>(&'d self, temporary: &'d str) -> Result<Replacement<'d>> {
        // A crash may have left a file of that name.
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
        let made = fs::mkdirat(&self.fd, name.as_ref(), Mode::from_raw_mode(mode));
        self.explain("making directory", name, done(made, Errno::EXIST))
    }

    /// What `path` beneath this directory stands for, a link for itself; `None` when nothing has that
    /// name.
    ///
    /// # Errors
    /// `EXDEV` where another file system is mounted: that one is not asked.
    pub(crate) fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let stat = self.stat_at_once(path.as_ref()).unwrap_or_else(|| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = fs::openat2(&self.fd, path.as_ref(), flags, Mode::empty(), BENEATH);
            opened.and_then(fs::fstat).map(Stat::from)
        });
        let found = match stat {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            stat => stat.map(Some),
        };
        self.explain("looking at", path, found)
    }

    /// What `name` in this directory stands for, by one call instead of three: 1.1 µs instead of 2.6,
    /// for each file of an image. `None` where this is not the way to find out.
    ///
    /// statx(2) enters what is mounted at the name, and says so (Linux 5.8). `AT_STATX_DONT_SYNC`:
    /// yet no server is asked.
    fn stat_at_once(&self, name: &Path) -> Option<rustix::io::Result<Stat>> {
        let is_name = !name.as_os_str().as_bytes().contains(&b'/');
        if !(self.is_local && is_name) {
            return None;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        match fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat)
                if !stat
                    .stx_attributes_mask
                    .contains(StatxAttributes::MOUNT_ROOT) =>
            {
                None
            }
            Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                Some(Err(Errno::XDEV))
            }
            Ok(stat) => Some(Ok(stat.into())),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Some(Err(errno)),
            // What another user has mounted by FUSE refuses others, or fails as its server likes.
            Err(_) => None,
        }
    }

    /// What this directory is, whatever its name is by now.
    pub(crate) fn stat_self(&self) -> Result<Stat> {
        self.explain_self("looking at", fs::fstat(&self.fd).map(Stat::from))
    }

    /// Makes sure that the path of this directory still leads to it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StaleNetworkFileHandle`] when it was moved, removed, replaced or mounted
    /// over: who goes by the path meets something else.
    pub(crate) fn check_place(&self) -> Result<()> {
        let what = match fs::stat(&self.path).map(Stat::from) {
            Ok(there) if there.id == self.stat_self()?.id => return Ok(()),
            Ok(_) => "it is another folder than at the start: it was replaced or mounted over",
            Err(Errno::NOENT | Errno::NOTDIR) => "the folder is gone: it was moved or removed",
            Err(errno) => return self.explain_self("looking at", Err(errno)),
        };
        let error = io::Error::new(io::ErrorKind::StaleNetworkFileHandle, what);
        Err(Failure::new("looking at", &self.path, error))
    }

    /// When this directory was made; `None` where the file system doesn't keep that.
    pub(crate) fn born(&self) -> Option<Moment> {
        let stat = fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
        let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = Moment::from_stat(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        is_known.then_some(born)
    }

    /// The time that this directory's file system gives to what changes now.
    pub(crate) fn now(&self) -> Result<Moment> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        self.explain_self("asking for the time of", fs::futimens(&self.fd, &times))?;
        Ok(self.stat_self()?.changed)
    }

    /// What the link `name` holds; `None` when no link has that name.
    pub(crate) fn link(&self, name: impl AsRef<Path>) -> Result<Option<OsString>> {
        match fs::readlinkat(&self.fd, name.as_ref(), Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => self.explain("reading link", name, Err(errno)),
        }
    }

    /// Makes the new link `name` that holds `target`.
    pub(crate) fn make_link(&self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let made = fs::symlinkat(target.as_ref(), &self.fd, name.as_ref());
        self.explain("making link", name, made)
    }

    /// Renames atomically; a file or link that is called `new` is replaced.
    pub(crate) fn rename(
        &self,
        name: impl AsRef<Path>,
        to: &Self,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        let renamed = fs::renameat(&self.fd, name.as_ref(), &to.fd, new.as_ref());
        self.explain("renaming", name, renamed)
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
        let (name, new) = (name.as_ref(), new.as_ref());
        let renamed = fs::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE);
        match renamed {
            Err(Errno::INVAL) if to.stat(new)?.is_some() => Ok(false),
            Err(Errno::INVAL) => self.rename(name, to, new).map(|()| true),
            renamed => self.explain("renaming", name, done(renamed, Errno::EXIST)),
        }
    }

    /// Two names change places in one atomic step.
    pub(crate) fn exchange(&self, name: &str, to: &Self, other: &str) -> Result<()> {
        let exchanged = fs::renameat_with(&self.fd, name, &to.fd, other, RenameFlags::EXCHANGE);
        self.explain("exchanging", name, exchanged)
    }

    /// Gives the file `name` in this directory a second name: the same in `to`. `linkat(2)` can't be
    /// told to stay beneath a directory, so a path of several names has no place here.
    pub(crate) fn hard_link(&self, name: &str, to: &Self) -> Result<()> {
        debug_assert!(!name.contains('/'), "{name}");
        let linked = fs::linkat(&self.fd, name, &to.fd, name, AtFlags::empty());
        self.explain("linking", name, linked)
    }

    /// Removes a name that is no directory; `false` when there was none.
    pub(crate) fn remove_file(&self, name: impl AsRef<Path>) -> Result<bool> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes an empty directory; `false` when there was none.
    pub(crate) fn remove_dir(&self, name: impl AsRef<Path>) -> Result<bool> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, name: impl AsRef<Path>, flags: AtFlags) -> Result<bool> {
        let removed = fs::unlinkat(&self.fd, name.as_ref(), flags);
        self.explain("removing", name, done(removed, Errno::NOENT))
    }

    /// Calls `see` with every name in this directory but `.` and `..`, in no order.
    pub(crate) fn each(&self, mut see: impl FnMut(&OsStr, Kind) -> ControlFlow<()>) -> Result<()> {
        // What an open directory was listed up to is one place for all threads: whoever lists it again
        // opens it anew.
        let again;
        let listed = if self.is_listed.swap(true, Ordering::Relaxed) {
            again = self.explain_self("listing", self.open_beneath(Path::new("."), OPEN_DIR))?;
            &again
        } else {
            &self.fd
        };
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut names = RawDir::new(listed, &mut buffer);
        while let Some(entry) = names.next() {
            let entry = self.explain_self("listing", entry)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems don't say what a name is.
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

    /// Gives `name`, a link for itself, to a user and a group; `None` leaves it whose it is.
    pub(crate) fn set_owner(&self, name: impl AsRef<Path>, to: Option<Ownership>) -> Result<()> {
        let Some(to) = to else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let given = fs::chownat(&self.fd, name.as_ref(), Some(uid), Some(gid), flags);
        self.explain("changing the owner of", name, given)
    }

    /// Sets the time of last modification of `name`, of a link for itself.
    pub(crate) fn set_modified(&self, name: impl AsRef<Path>, moment: Moment) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: fs::UTIME_OMIT,
            },
            last_modification: Timespec::try_from(moment.since_1970())
                .expect("a system time is an i64 of seconds"),
        };
        let set = fs::utimensat(&self.fd, name.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW);
        self.explain("changing the time of", name, set)
    }

    /// Sets this directory's permission bits, and takes away what it inherited and would pass on:
    /// the set-group-id bit and ACLs.
    pub(crate) fn make_plain(&self, mode: u32) -> Result<()> {
        for acl in [acl::ACCESS, acl::DEFAULT] {
            // Only what is there is removed: a read-only file system is no reason to fail then.
            let removed = fs::fgetxattr(&self.fd, acl, &mut [0_u8; 0])
                .and_then(|_| fs::fremovexattr(&self.fd, acl));
            if !matches!(removed, Err(Errno::NODATA | Errno::OPNOTSUPP)) {
                self.explain_self("removing an ACL of", removed)?;
            }
        }
        if self.stat_self()?.mode == mode {
            return Ok(());
        }
        let changed = fs::fchmod(&self.fd, Mode::from_raw_mode(mode));
        self.explain_self("changing the mode of", changed)
    }

    /// Lets one user list and enter this directory, and nobody else besides its own. `false` where the
    /// file system keeps no ACLs, or doesn't take this one.
    pub(crate) fn let_read(&self, uid: u32) -> Result<bool> {
        let list = acl::read_by(uid);
        let set = fs::fsetxattr(&self.fd, acl::ACCESS, &list, XattrFlags::empty());
        match set {
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => Ok(false),
            set => self.explain_self("setting the ACL of", set).map(|()| true),
        }
    }

    /// Makes the directory `name`, no link, readable and writable for its own user. That works on one
    /// that can't be opened.
    pub(crate) fn unlock(&self, name: impl AsRef<Path>) -> Result<()> {
        let flags = OFlags::PATH | OPEN_DIR;
        let opened = fs::openat2(&self.fd, name.as_ref(), flags, Mode::empty(), BENEATH);
        let changed = opened.and_then(|fd| {
            // fchmod(2) takes no descriptor of that kind; by this path it is the very same folder.
            fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::RWXU)
        });
        self.explain("changing the mode of", name, changed)
    }

    /// Whether this process may take names out of this directory that belong to other users.
    pub(crate) fn lets_move(&self) -> bool {
        const STICKY: u32 = 0o1000;
        let user = rustix::process::geteuid();
        let is_sticky = |stat: Stat| stat.mode & STICKY != 0 && stat.owner.uid != user.as_raw();
        self.check_writable().is_ok() && (user.is_root() || !self.stat_self().is_ok_and(is_sticky))
    }

    /// Locks this directory against other processes until it is closed; `false` when another
    /// holds it.
    pub(crate) fn lock(&self) -> Result<bool> {
        let locked = fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive);
        self.explain_self("locking", done(locked, Errno::WOULDBLOCK))
    }

    /// Makes durable everything on this directory's file system.
    ///
    /// One `syncfs(2)` does for many drops what an `fsync(2)` for each file and folder would do one
    /// by one. It reports what could not be written since the directory was opened (Linux 5.8).
    pub(crate) fn sync_file_system(&self) -> Result<()> {
        self.explain_self("syncing", fs::syncfs(&self.fd))
    }

    /// Makes durable which names are in this directory.
    pub(crate) fn sync(&self) -> Result<()> {
        self.explain_self("syncing", fs::fsync(&self.fd))
    }

    /// Bytes that an unprivileged user can still write on this directory's file system.
    pub(crate) fn free_space(&self) -> Result<(u64, Option<u64>)> {
        let stat = self.explain_self("asking for the free space of", fs::fstatvfs(&self.fd))?;
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        // Where inodes are made as they are needed (btrfs) there are none in all.
        Ok((bytes, (stat.f_files > 0).then_some(stat.f_favail)))
    }

    fn open_dir(&self, path: &Path) -> rustix::io::Result<Self> {
        Ok(Self {
            fd: self.open_beneath(path, OPEN_DIR)?,
            path: self.path.join(path),
            keep_atime: self.keep_atime,
            is_local: self.is_local,
            is_listed: AtomicBool::new(false),
        })
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
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

    /// What a call on `name` returned; an error says what the call was `doing` to which path.
    fn explain<T>(
        &self,
        doing: &'static str,
        name: impl AsRef<Path>,
        returned: std::result::Result<T, impl Into<io::Error>>,
    ) -> Result<T> {
        returned.map_err(|error| Failure::new(doing, self.path.join(name), error))
    }

    /// As [`Dir::explain`], of a call on this directory itself.
    fn explain_self<T>(&self, doing: &'static str, returned: rustix::io::Result<T>) -> Result<T> {
        returned.map_err(|errno| Failure::new(doing, &self.path, errno))
    }
}

/// What a call on a name `returned`; `None` when nothing has that name.
fn found<T>(returned: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match returned {
        Err(Errno::NOENT) => Ok(None),
        returned => returned.map(Some),
    }
}

/// Whether a call did what it is for: `false` where it `returned` this `refusal`.
fn done(returned: rustix::io::Result<()>, refusal: Errno) -> rustix::io::Result<bool> {
    match returned {
        Err(errno) if errno == refusal => Ok(false),
        returned => returned.map(|()| true),
    }
}

/// A file that is being written, and will be put in the place of another. It is removed when it is
/// dropped before it is finished.
#[derive(Debug)]
pub(crate) struct Replacement<'d> {
    file: File,
    dir: &'d Dir,
    temporary: &'d str,
    is_finished: bool,
}

impl Replacement<'_> {
    /// Puts what was written at `new` in `to`, as [`Dir::replace_durably`] does.
    pub(crate) fn finish(
        mut self,
        owner: Option<Ownership>,
        to: &Dir,
        new: impl AsRef<Path>,
    ) -> Result<()> {
        let Self { dir, temporary, .. } = self;
        dir.explain("writing", temporary, self.file.sync_all())?;
        dir.set_owner(temporary, owner)?;
        dir.rename(temporary, to, new)?;
        self.is_finished = true;
        Ok(())
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
            // What can't be removed goes when the next replacement begins.
            let _ = self.dir.remove_file(self.temporary);
        }
    }
}

fn read_whole(file: &File, max: u64) -> io::Result<Vec<u8>> {
    let stat = Stat::from(fs::fstat(file)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/file"), "12345").unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_file_that_is_longer_than_it_may_be_is_an_error() {
        let (_folder, dir) = folder();
        assert_eq!(
            dir.read("d/file", 5).unwrap().as_deref(),
            Some(&b"12345"[..])
        );
        let failure = dir.read("d/file", 4).unwrap_err();
        assert_eq!(failure.errno(), Some(Errno::FBIG));
        assert!(dir.read("d/other", 5).unwrap().is_none());
        assert_eq!(dir.read("d", 5).unwrap_err().errno(), Some(Errno::INVAL));
    }

    #[test]
    fn two_that_list_a_directory_at_a_time_see_every_name_each() {
        const NAMES: usize = 2_000;
        let (folder, _) = folder();
        for number in 0..NAMES {
            std::fs::write(folder.path().join("d").join(number.to_string()), "").unwrap();
        }
        let dir = Dir::open(&folder.path().join("d")).unwrap();
        for _ in 0..2 {
            let (mut seen, mut meanwhile) = (0, 0);
            let see = |_: &OsStr, _| {
                if seen == 0 {
                    meanwhile = dir.names().unwrap().len();
                }
                seen += 1;
                ControlFlow::Continue(())
            };
            dir.each(see).unwrap();
            assert_eq!((seen, meanwhile), (NAMES + 1, NAMES + 1));
        }
    }

    #[test]
    fn one_call_tells_of_a_name_what_three_do() {
        let (_folder, dir) = folder();
        assert!(dir.is_local);
        let here = dir.existing_dir("d").unwrap();
        for (name, path) in [("d", "./d"), (".", "./.")] {
            assert_eq!(dir.stat(name).unwrap(), dir.stat(path).unwrap());
        }
        let at_once = here.stat_at_once(Path::new("file")).unwrap().unwrap();
        let file = here.existing_file("file").unwrap();
        assert_eq!(at_once, fs::fstat(file).unwrap().into());
    }

    #[test]
    fn a_name_is_there_whatever_it_stands_for_and_below_a_file_is_none() {
        let (folder, dir) = folder();
        std::os::unix::fs::symlink("nowhere", folder.path().join("d/link")).unwrap();
        let names = ["d", "d/file", "d/link", "x", "d/x", "x/y", "d/file/x"];
        let found = names.map(|name| dir.stat(name).unwrap().is_some());
        assert_eq!(found, [true, true, true, false, false, false, false]);
    }

    #[test]
    fn writing_into_a_directory_that_is_not_there_is_tried_where_it_would_be_made() {
        let (folder, _dir) = folder();
        let tried = |path: &str| {
            let tried = Dir::try_writing(&folder.path().join(path));
            tried.map_err(|failure| failure.errno().unwrap())
        };
        assert_eq!(["", "d", "d/new", "d/new/er"].map(tried), [Ok(()); 4]);
        assert_eq!(["d/file", "d/file/x"].map(tried), [Err(Errno::NOTDIR); 2]);
        assert!(!folder.path().join("d/new").exists());
    }
}
