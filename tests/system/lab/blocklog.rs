//! Power cuts by record and replay.
//!
//! A [`Recording`] mounts a file system on a disk whose every write and flush
//! is kept, in order, in a log. A [`BlockLog`] then builds the disk as a power
//! cut would have left it: whatever was flushed is there, and of the writes
//! since the last flush any may be missing, for a drive is free to keep them in
//! its cache and to write them back in the order it likes. Mounting such a
//! [`CutDisk`] recovers the journal and shows what a host finds when it is
//! switched on again.
//!
//! ```no_run
//! let recording = Recording::start(FileSystem::Ext4, "", 512 << 20, dir);
//! work(recording.mount());
//! let done = recording.position(); // after the outcome was reported
//! let mut log = recording.finish();
//! for position in done..=log.len() {
//!     for unflushed in [Unflushed::Lost, Unflushed::Kept, Unflushed::Mixed(position)] {
//!         let disk = log.cut(position, unflushed);
//!         disk.mount(|path| assert!(path.join("image").exists(), "{disk}"));
//!     }
//! }
//! ```
//!
//! The recorder is the `blklogwrites` filter of `qemu-storage-daemon`. Its FUSE
//! export turns the logged disk into a regular file, which a loop device turns
//! into a block device; the loop device passes a flush on as an fsync, and the
//! filter logs it. The loop device does not offer forced unit access, so the
//! kernel turns such a write into a write and a flush. All this needs root,
//! `/dev/fuse` and free loop devices.
//!
//! Whatever fails here panics, for a test that goes on without its power cut
//! proves nothing.

pub mod trials;

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};

/// The unit of the numbers in the log.
const SECTOR: u64 = 512;

/// The longest stretch a drive is taken to write as a whole: the physical
/// sector of the drives of today. A longer write may be torn at any multiple.
const PHYSICAL_SECTOR: u64 = 4096;

/// How long to wait for what should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

// The format of the log is that of the kernel's dm-log-writes.
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1 << 0;
const FLAG_FUA: u64 = 1 << 1;
const FLAG_DISCARD: u64 = 1 << 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    /// Needs a disk of 300 MiB or more.
    Xfs,
    /// Needs a disk of 110 MiB or more.
    Btrfs,
}

impl FileSystem {
    fn make(self, disk: &Path) {
        let mut mkfs = Command::new(format!("mkfs.{self}"));
        match self {
            // Inode tables left to the kernel would be zeroed in the
            // background, in the midst of the recording.
            Self::Ext4 => mkfs.args(["-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs | Self::Btrfs => mkfs.arg("-f"),
        };
        run(mkfs.arg("-q").arg(disk));
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

/// A mounted file system whose disk is being recorded.
///
/// The fields are dropped in their order, which is the order in which a
/// recording has to be taken down.
pub struct Recording {
    mount: Mount,
    storage: Storage,
    log: PathBuf,
    pristine: PathBuf,
    dir: TempDir,
    fs: FileSystem,
}

impl Recording {
    /// Makes a file system of `size` bytes under `dir`, mounts it with
    /// `options` (a list with commas, or nothing) and records its disk.
    pub fn start(fs: FileSystem, options: &str, size: u64, dir: &Path) -> Self {
        let dir = TempDir::with_prefix_in("blocklog.", dir).expect("make a directory");
        let disk = dir.path().join("disk");
        File::create(&disk)
            .and_then(|file| file.set_len(size))
            .expect("make the disk");
        fs.make(&disk);
        // The replay starts from here, so the making of the file system need
        // not be in the log.
        let pristine = dir.path().join("pristine");
        let copy = File::create(&pristine).expect("create the pristine disk");
        copy_sparse(&File::open(&disk).expect("open the disk"), &copy);

        let log = dir.path().join("log");
        File::create(&log).expect("create the log");
        let export = dir.path().join("export");
        let storage = Storage::start(&disk, &log, &export, dir.path());
        let mount = Mount::new(fs, &export, options, dir.path());
        Self {
            mount,
            storage,
            log,
            pristine,
            dir,
            fs,
        }
    }

    /// Where the recorded file system is mounted.
    pub fn mount(&self) -> &Path {
        self.mount.path()
    }

    /// The number of log entries at this moment.
    ///
    /// Every request whose completion the file system has seen is before this
    /// position, so what was reported as done must survive a cut here or later.
    /// Asking puts nothing into the log: a mark that flushed the disk would
    /// hide a flush that the workload has forgotten.
    pub fn position(&self) -> u64 {
        let log = File::open(&self.log).expect("open the log");
        read_entries(&log).len() as u64
    }

    /// Unmounts the file system, which is still recorded, and ends the
    /// recording.
    pub fn finish(self) -> BlockLog {
        self.mount.unmount();
        self.storage.stop();
        let log = File::open(&self.log).expect("open the log");
        let entries = read_entries(&log);
        check_superblock(&log, entries.len() as u64);
        let durable = File::create_new(self.dir.path().join("durable")).expect("create a disk");
        let pristine = File::open(&self.pristine).expect("open the pristine disk");
        copy_sparse(&pristine, &durable);
        BlockLog {
            fs: self.fs,
            log,
            entries,
            pristine,
            durable,
            durable_to: 0,
            dir: self.dir,
        }
    }
}

/// The daemon that exports the logged disk as the file `export`.
struct Storage {
    daemon: Child,
    export: PathBuf,
}

impl Storage {
    fn start(disk: &Path, log: &Path, export: &Path, dir: &Path) -> Self {
        File::create(export).expect("create the mount point of the export");
        let ready = dir.join("ready");
        // Flushes are to be logged; that the host should carry them out too
        // would only cost time. Without `unmap` the daemon would claim to have
        // discarded what it had left alone, and not log it either.
        let file = |name: &str, path: &Path| {
            let path = escaped(path);
            let options = "cache.no-flush=on,discard=unmap";
            format!("driver=file,node-name={name},filename={path},{options}")
        };
        let logged = "driver=blklogwrites,node-name=logged,file=disk,log=log,discard=unmap";
        let mountpoint = escaped(export);
        let daemon = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &file("disk", disk)])
            .args(["--blockdev", &file("log", log)])
            .args(["--blockdev", logged])
            .arg("--export")
            .arg(format!(
                "type=fuse,id=disk,node-name=logged,mountpoint={mountpoint},writable=on"
            ))
            .arg("--pidfile")
            .arg(&ready)
            .stdin(Stdio::null())
            .spawn()
            .expect("start qemu-storage-daemon");
        let mut storage = Self {
            daemon,
            export: export.to_owned(),
        };
        // The file with the process id is written when the export is there.
        wait_until("the storage daemon is ready", || {
            let ended = storage
                .daemon
                .try_wait()
                .expect("wait for the storage daemon");
            assert!(ended.is_none(), "the storage daemon ended: {ended:?}");
            ready.exists()
        });
        storage
    }

    fn stop(mut self) {
        let ended_well = self.terminate();
        assert!(
            ended_well,
            "the storage daemon failed, so its log may be incomplete"
        );
    }

    /// Ends the daemon in good order, for it then takes the export down too.
    /// Says whether it reported success; one that was already waited for has.
    fn terminate(&mut self) -> bool {
        let pid = Pid::from_child(&self.daemon);
        if let Ok(None) = self.daemon.try_wait() {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.daemon.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if !self.terminate() {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(&self.export)
                .status();
        }
    }
}

/// A file mounted through a loop device, which goes away with the mount.
struct Mount {
    at: Option<TempDir>,
}

impl Mount {
    fn new(fs: FileSystem, file: &Path, options: &str, dir: &Path) -> Self {
        let at = TempDir::with_prefix_in("mount.", dir).expect("make a mount point");
        let mut all = String::from("loop");
        if !options.is_empty() {
            all = format!("{all},{options}");
        }
        run(Command::new("mount")
            .args(["-t", &fs.to_string(), "-o", &all])
            .arg(file)
            .arg(at.path()));
        Self { at: Some(at) }
    }

    fn path(&self) -> &Path {
        self.at
            .as_ref()
            .expect("a mount until it is unmounted")
            .path()
    }

    /// A process that another test has just forked has our files open until it runs its program:
    /// for so long the mount may be busy.
    fn unmount(mut self) {
        let at = self.path().to_owned();
        wait_until("the file system is unmounted", || {
            let unmounted = Command::new("umount").arg("--quiet").arg(&at).output();
            unmounted.expect("run umount").status.success()
        });
        self.at = None;
    }
}

impl Drop for Mount {
    /// The way out of a panic: a mount that is still in use is at least taken
    /// out of the tree, so that the removal of the directory cannot reach into
    /// it.
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            let _ = Command::new("umount").arg("--lazy").arg(at.path()).status();
        }
    }
}

/// What becomes of the writes since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unflushed {
    Kept,
    Lost,
    /// An arbitrary part of them, the same for the same seed. Seeds differ in
    /// how much is kept; odd ones tear writes at physical sectors, even ones
    /// keep or lose each as a whole.
    Mixed(u64),
}

impl Unflushed {
    /// Whether the physical sector `sector` of the entry `number` is there.
    fn keeps(self, number: u64, sector: u64) -> bool {
        match self {
            Self::Kept => true,
            Self::Lost => false,
            Self::Mixed(seed) => {
                let odds = 1 + scramble(seed) % 15;
                let sector = if seed % 2 == 1 { sector } else { 0 };
                scramble(scramble(scramble(seed) ^ number) ^ sector) % 16 < odds
            }
        }
    }
}

/// A finished recording.
pub struct BlockLog {
    fs: FileSystem,
    log: File,
    entries: Vec<Entry>,
    pristine: File,
    /// The disk with the entries before `durable_to`. It is only ever moved
    /// on, so cuts in ascending order cost little each.
    durable: File,
    durable_to: usize,
    dir: TempDir,
}

impl BlockLog {
    /// The number of entries, and the last position that can be cut.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The positions right before each flush. A cut there can lose all that
    /// the flush was to save; a cut one further on can lose nothing.
    pub fn flushes(&self) -> Vec<u64> {
        let numbered = (0..).zip(&self.entries);
        numbered
            .filter(|(_, entry)| entry.flush)
            .map(|(number, _)| number)
            .collect()
    }

    /// The disk after a power cut at `position`: the entries before it had
    /// been sent to the drive, the later ones had not.
    pub fn cut(&mut self, position: u64, unflushed: Unflushed) -> CutDisk {
        let sent = usize::try_from(position).expect("a position");
        assert!(
            sent <= self.entries.len(),
            "a cut at {position}, after the end of the log"
        );
        let flushed = self.entries[..sent]
            .iter()
            .rposition(|entry| entry.flush)
            .unwrap_or(0);
        self.move_durable_to(flushed);

        let disk = NamedTempFile::with_prefix_in("cut.", self.dir.path()).expect("create a disk");
        copy_sparse(&self.durable, disk.as_file());
        for (number, entry) in (flushed as u64..).zip(&self.entries[flushed..sent]) {
            entry.apply(&self.log, disk.as_file(), |sector| {
                entry.fua || unflushed.keeps(number, sector)
            });
        }
        CutDisk {
            fs: self.fs,
            disk,
            position,
            unflushed,
        }
    }

    fn move_durable_to(&mut self, flushed: usize) {
        if flushed < self.durable_to {
            copy_sparse(&self.pristine, &self.durable);
            self.durable_to = 0;
        }
        for entry in &self.entries[self.durable_to..flushed] {
            entry.apply(&self.log, &self.durable, |_| true);
        }
        self.durable_to = flushed;
    }
}

/// A disk as a power cut has left it.
pub struct CutDisk {
    fs: FileSystem,
    disk: NamedTempFile,
    position: u64,
    unflushed: Unflushed,
}

impl CutDisk {
    /// The disk image, for a check by the tools of the file system.
    pub fn image(&self) -> &Path {
        self.disk.path()
    }

    /// Mounts the disk, by which the file system recovers, and shows it to
    /// `look`. A panic of `look` goes on after the disk has been unmounted.
    pub fn mount<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        // XFS would not mount two cuts of one recording at the same time.
        let options = if self.fs == FileSystem::Xfs {
            "nouuid"
        } else {
            ""
        };
        let dir = self.image().parent().expect("an image in a directory");
        let mount = Mount::new(self.fs, self.image(), options, dir);
        let seen = look(mount.path());
        mount.unmount();
        seen
    }
}

impl fmt::Display for CutDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cut at {}, unflushed writes {:?}",
            self.fs, self.position, self.unflushed
        )
    }
}

/// A request to the disk, with offsets and lengths in bytes.
struct Entry {
    flush: bool,
    fua: bool,
    discard: bool,
    offset: u64,
    length: u64,
    /// Where in the log the data are.
    data: u64,
}

impl Entry {
    /// Reads the entry at `at`. An entry of nothing but zeros is none: it has
    /// been given its place, but has not been written yet.
    fn read(log: &File, at: u64) -> Option<Self> {
        let [sector, sectors, flags] = read_words(log, at);
        if [sector, sectors, flags] == [0; 3] {
            return None;
        }
        let known = FLAG_FLUSH | FLAG_FUA | FLAG_DISCARD;
        assert!(
            flags & !known == 0,
            "unknown flags {flags:#x} in the log at {at}"
        );
        Some(Self {
            flush: flags & FLAG_FLUSH != 0,
            fua: flags & FLAG_FUA != 0,
            discard: flags & FLAG_DISCARD != 0,
            offset: sector * SECTOR,
            length: sectors * SECTOR,
            data: at + SECTOR,
        })
    }

    /// Where in the log the next entry is. A discard has no data.
    fn end(&self) -> u64 {
        if self.discard {
            self.data
        } else {
            self.data + self.length
        }
    }

    /// Carries the entry out on those physical sectors that `keeps` names.
    fn apply(&self, log: &File, disk: &File, keeps: impl Fn(u64) -> bool) {
        let end = self.offset + self.length;
        let mut from = self.offset;
        while from < end {
            let kept = keeps(from / PHYSICAL_SECTOR);
            // The stretch that shares this fate; not too long for a buffer.
            let mut to = from;
            while to < end && to - from < 1 << 20 && keeps(to / PHYSICAL_SECTOR) == kept {
                to = end.min((to / PHYSICAL_SECTOR + 1) * PHYSICAL_SECTOR);
            }
            if kept {
                self.apply_stretch(log, disk, from, to - from);
            }
            from = to;
        }
    }

    fn apply_stretch(&self, log: &File, disk: &File, offset: u64, length: u64) {
        if self.discard {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(disk, punch, offset, length).expect("discard a stretch of the disk");
            return;
        }
        let mut data = vec![0; usize::try_from(length).expect("a short stretch")];
        let at = self.data + (offset - self.offset);
        log.read_exact_at(&mut data, at)
            .expect("read the data of a write");
        disk.write_all_at(&data, offset).expect("write to the disk");
    }
}

/// The entries whose place is within the present length of the log.
///
/// The count in the superblock is of no use while the recording goes on, for
/// it is brought up to date at flushes only. But the log only grows, and an
/// entry is appended before its request is completed.
fn read_entries(log: &File) -> Vec<Entry> {
    let length = log.metadata().expect("look at the log").len();
    let mut entries = Vec::new();
    let mut at = SECTOR;
    while at < length {
        // Of two requests in flight the later may be logged first.
        let mut entry = None;
        wait_until("the entry is written", || {
            entry = Entry::read(log, at);
            entry.is_some()
        });
        let entry = entry.expect("an entry");
        at = entry.end();
        entries.push(entry);
    }
    entries
}

/// Checks that the log is of the kind that is understood here, and whole.
fn check_superblock(log: &File, entries: u64) {
    let [magic, version, flushed, sector] = read_words(log, 0);
    assert_eq!((magic, version), (LOG_MAGIC, 1), "a log of another kind");
    assert_eq!(sector & 0xffff_ffff, SECTOR, "a log with other sectors");
    assert!(
        flushed <= entries,
        "the log has {entries} entries of at least {flushed}"
    );
}

fn read_words<const N: usize>(file: &File, at: u64) -> [u64; N] {
    let mut word = [0; 8];
    std::array::from_fn(|n| {
        file.read_exact_at(&mut word, at + 8 * n as u64)
            .expect("read the log");
        u64::from_le_bytes(word)
    })
}

/// Makes `to` equal to `from`, holes included.
fn copy_sparse(from: &File, to: &File) {
    let length = from.metadata().expect("look at a disk").len();
    to.set_len(0)
        .and_then(|()| to.set_len(length))
        .expect("size a disk");
    let mut at = 0;
    loop {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return,
            Err(error) => panic!("find the data of a disk: {error}"),
        };
        let end = seek(from, SeekFrom::Hole(at)).expect("find a hole of a disk");
        let mut into = at;
        while at < end {
            let left = usize::try_from(end - at).expect("a length");
            let copied = copy_file_range(from, Some(&mut at), to, Some(&mut into), left)
                .expect("copy a disk");
            assert_ne!(copied, 0, "a disk ended while it was copied");
        }
    }
}

/// Spreads a number over all values (the finaliser of `SplitMix64`).
fn scramble(number: u64) -> u64 {
    let mut n = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A path as part of a list of options with commas.
fn escaped(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").replace(',', ",,")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {message}",
        output.status
    );
}
