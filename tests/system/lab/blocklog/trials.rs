//! What the recorder of power cuts itself is held to.

use std::fs;
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::Trial;

use super::*;
use crate::lab::world::{Needs, test};

/// What a recording can't do without.
pub const NEEDS: &[Needs] = &[
    Needs::Root,
    Needs::Path("/dev/fuse"),
    Needs::Path("/dev/loop-control"),
    Needs::Program("qemu-storage-daemon"),
    Needs::Program("mkfs.ext4"),
    Needs::Program("mkfs.xfs"),
    Needs::Program("mkfs.btrfs"),
];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "an fsync is a flush in the log",
            NEEDS,
            an_fsync_is_a_flush_in_the_log,
        ),
        test(
            "the whole log makes the recorded disk",
            NEEDS,
            the_whole_log_makes_the_recorded_disk,
        ),
        test(
            "a seed always gives the same disk",
            NEEDS,
            a_seed_always_gives_the_same_disk,
        ),
        test(
            "a forgetful publisher is found out",
            NEEDS,
            a_forgetful_publisher_is_found_out,
        ),
        test(
            "a file system that does not flush is found out",
            NEEDS,
            a_file_system_that_does_not_flush_is_found_out,
        ),
        test(
            "a panic leaves no mount behind",
            NEEDS,
            a_panic_leaves_no_mount_behind,
        ),
    ]
}

const SIZE: u64 = 512 << 20;
const VERSIONS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Publisher {
    Careful,
    /// Leaves out every fsync.
    Forgetful,
}

impl Publisher {
    fn publish(self, dir: &Path, version: usize) {
        let new = dir.join("image.new");
        fs::write(&new, image(version)).expect("write the image");
        self.sync(&new);
        fs::rename(&new, dir.join("image")).expect("rename the image");
        self.sync(dir);
    }

    fn sync(self, path: &Path) {
        if self == Self::Careful {
            sync(path);
        }
    }
}

fn image(version: usize) -> Vec<u8> {
    let mut image = Vec::new();
    for line in 0..20_000 + version {
        writeln!(image, "version {version}, line {line}").expect("write to memory");
    }
    image
}

fn sync(path: &Path) {
    File::open(path)
        .and_then(|file| file.sync_all())
        .expect("sync");
}

/// A recorded publisher.
struct Published {
    log: BlockLog,
    /// The position at which each version was reported as published.
    reported: Vec<u64>,
}

impl Published {
    /// Between the versions another program makes a file of its own
    /// durable, which takes the rename into the journal but, with delayed
    /// allocation, not the data of the image.
    fn record(publisher: Publisher, fs: FileSystem, options: &str, dir: &Path) -> Self {
        let recording = Recording::start(fs, options, SIZE, dir);
        let mut reported = Vec::new();
        for version in 0..VERSIONS {
            publisher.publish(recording.mount(), version);
            reported.push(recording.position());
            let other = recording.mount().join(format!("other.{version}"));
            fs::write(&other, "other").expect("write another file");
            sync(&other);
        }
        Self {
            log: recording.finish(),
            reported,
        }
    }

    /// What is wrong with the image after a cut, if anything.
    fn fault(&mut self, position: u64, unflushed: Unflushed) -> Option<String> {
        let due = self
            .reported
            .iter()
            .filter(|reported| **reported <= position)
            .count();
        let disk = self.log.cut(position, unflushed);
        let found = disk.mount(|path| fs::read(path.join("image")));
        let fault = match found {
            Err(error) if due == 0 && error.kind() == ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(found) => match (0..VERSIONS).find(|version| found == image(*version)) {
                Some(version) if version + 1 >= due => return None,
                Some(version) => format!("version {version} in place of {}", due - 1),
                None => format!("torn, with {} bytes", found.len()),
            },
        };
        Some(format!("{disk}: {fault}"))
    }

    fn faults(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        for position in 0..=self.log.len() {
            faults.extend(self.fault(position, Unflushed::Lost));
            faults.extend(self.fault(position, Unflushed::Mixed(position)));
        }
        faults
    }
}

fn an_fsync_is_a_flush_in_the_log() {
    for fs in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
        let dir = tempfile::tempdir().expect("make a directory");
        let recording = Recording::start(fs, "", SIZE, dir.path());
        let path = recording.mount().join("file");
        let start = recording.position();
        fs::write(&path, "text").expect("write a file");
        let written = recording.position();
        sync(&path);
        let synced = recording.position();
        let flushes = recording.finish().flushes();
        let between = |from, to| flushes.iter().any(|flush| (from..to).contains(flush));
        assert!(
            !between(start, written),
            "{fs}: a flush that nobody asked for"
        );
        assert!(
            between(written, synced),
            "{fs}: no flush among {written}..{synced}"
        );
    }
}

fn the_whole_log_makes_the_recorded_disk() {
    for fs in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
        let dir = tempfile::tempdir().expect("make a directory");
        let recording = Recording::start(fs, "", SIZE, dir.path());
        thread::scope(|scope| {
            for writer in 0..4 {
                let dir = recording.mount().join(format!("writer.{writer}"));
                scope.spawn(move || {
                    fs::create_dir(&dir).expect("make a directory");
                    (0..VERSIONS).for_each(|v| Publisher::Careful.publish(&dir, v));
                });
            }
        });
        run(Command::new("fstrim").arg(recording.mount()));
        let mut log = recording.finish();
        assert!(
            log.entries.iter().any(|entry| entry.discard),
            "{fs}: no discard"
        );
        let cut = log.cut(log.len(), Unflushed::Kept);
        run(Command::new("cmp")
            .arg(log.dir.path().join("disk"))
            .arg(cut.image()));
    }
}

fn a_seed_always_gives_the_same_disk() {
    let dir = tempfile::tempdir().expect("make a directory");
    let published = Published::record(Publisher::Careful, FileSystem::Ext4, "", dir.path());
    let mut log = published.log;
    let flush = log.flushes()[log.flushes().len() / 2];
    let first = log.cut(flush, Unflushed::Mixed(1));
    // Going back and coming again takes the other way to the same disk.
    log.cut(0, Unflushed::Lost);
    let second = log.cut(flush, Unflushed::Mixed(1));
    run(Command::new("cmp").arg(first.image()).arg(second.image()));
}

fn a_forgetful_publisher_is_found_out() {
    for (fs, options) in [(FileSystem::Ext4, "noauto_da_alloc"), (FileSystem::Xfs, "")] {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut published = Published::record(Publisher::Forgetful, fs, options, dir.path());
        let faults = published.faults();
        assert!(
            faults.iter().any(|fault| fault.contains("torn")),
            "{fs}: {faults:?}"
        );
    }
}

fn a_file_system_that_does_not_flush_is_found_out() {
    let dir = tempfile::tempdir().expect("make a directory");
    let careful = Publisher::Careful;
    let mut published = Published::record(careful, FileSystem::Ext4, "barrier=0", dir.path());
    let reported = published.reported[0];
    assert!(published.fault(reported, Unflushed::Lost).is_some());
}

fn a_panic_leaves_no_mount_behind() {
    let dir = tempfile::tempdir().expect("make a directory");
    let mut open = None;
    let recorded = catch_unwind(AssertUnwindSafe(|| {
        let recording = Recording::start(FileSystem::Ext4, "", SIZE, dir.path());
        // An open file must not keep the guards from their work.
        open = Some(File::create(recording.mount().join("file")));
        panic!("on purpose, in a recording");
    }));
    assert!(recorded.is_err() && open.is_some());
    drop(open);

    let recording = Recording::start(FileSystem::Ext4, "", SIZE, dir.path());
    let mut log = recording.finish();
    let looked = catch_unwind(AssertUnwindSafe(|| {
        log.cut(log.len(), Unflushed::Lost)
            .mount(|_| panic!("on purpose, in a cut"));
    }));
    assert!(looked.is_err());
    drop(log);

    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    assert!(
        !mounts.contains(dir.path().to_str().expect("a path in UTF-8")),
        "{mounts}"
    );
    assert_eq!(
        fs::read_dir(dir.path())
            .expect("list the directory")
            .count(),
        0
    );
}
