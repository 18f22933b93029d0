//! The file systems that spools and trees stand on.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use crate::boot_configs::wait_for_catalog;
use crate::lab::world::{
    Daemon, Needs, PROGRAM, World, assert_same_content, manifest, names, snapshot, test, text,
    wait_for_names, walk,
};

const TARGET: &str = "amd64/generic/bookworm/install";

/// All that was published stays, so that nothing is removed behind a test's back.
const SETTINGS: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nkeep = 20\nmin_age = \"0s\"\n";

/// What `mkfs` and the loop device ask for.
const LOOPED: [Needs; 5] = [
    Needs::Root,
    Needs::Path("/dev/loop-control"),
    Needs::Program("mkfs.ext4"),
    Needs::Program("mkfs.xfs"),
    Needs::Program("mkfs.btrfs"),
];

pub fn tests() -> Vec<Trial> {
    let pairs = [
        ("ext4", "ext4"),
        ("xfs", "xfs"),
        ("btrfs", "btrfs"),
        ("tmpfs", "tmpfs"),
        ("overlay", "overlay"),
        ("ext4", "xfs"),
        ("xfs", "btrfs"),
        ("btrfs", "tmpfs"),
        ("tmpfs", "overlay"),
        ("overlay", "ext4"),
    ];
    let mut tests: Vec<_> = pairs
        .into_iter()
        .map(|(spool, tree)| {
            let sentence = if spool == tree {
                format!("every way of a drop is gone on {spool}")
            } else {
                format!("every way of a drop is gone from {spool} to {tree}")
            };
            test(&sentence, &LOOPED, move || on_file_systems(spool, tree))
        })
        .collect();
    tests.extend(["ext4", "xfs", "btrfs", "tmpfs", "overlay"].map(|kind| {
        let sentence = format!("holes stay holes on {kind}");
        test(&sentence, &LOOPED, move || keeps_holes(kind))
    }));
    tests.extend([
        test(
            "every way of a drop is gone between two bind mounts of one file system",
            &LOOPED,
            between_bind_mounts,
        ),
        test(
            "a published file on btrfs takes no room beside the dropped one",
            &LOOPED,
            || shares_extents("btrfs"),
        ),
        test(
            "a published file on xfs takes no room beside the dropped one",
            &LOOPED,
            || shares_extents("xfs"),
        ),
        test(
            "an ext4 that keeps no nanoseconds tells an edited file and shares the others",
            &LOOPED,
            keeps_seconds_only,
        ),
        test(
            "what is published has its own modes below a set group id bit and a default ACL",
            &[Needs::Root, Needs::Program("setfacl")],
            has_its_own_modes,
        ),
        test(
            "an unchanged drop leaves no access time in the tree",
            &LOOPED,
            leaves_no_access_time,
        ),
    ]);
    tests
}

/// A file system of its own; goes, with all that is mounted in it, when it is dropped.
pub struct FileSystem {
    mounts: Vec<PathBuf>,
    pub root: PathBuf,
    // Dropped after the unmounting: the loop device's file is in this directory.
    _dir: tempfile::TempDir,
}

impl FileSystem {
    /// With room for some hundred MiB.
    pub fn new(kind: &str) -> Self {
        match kind {
            "tmpfs" => Self::tmpfs("512m"),
            "overlay" => Self::overlay(),
            kind => Self::looped(kind, 512 << 20, "relatime"),
        }
    }

    /// An ext4 with inodes of 128 bytes, which have room for whole seconds only.
    fn of_seconds() -> Self {
        Self::made(&["mkfs.ext4", "-I", "128"], "ext4", 512 << 20, "relatime")
    }

    pub fn tmpfs(size: &str) -> Self {
        let mut made = Self::nothing();
        made.mount(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "none",
            &path(&made.root),
        ]);
        made
    }

    /// In memory, without ACLs.
    pub fn without_acls() -> Self {
        let mut made = Self::nothing();
        made.mount(&["-t", "ramfs", "none", &path(&made.root)]);
        made
    }

    /// On a loop device over a sparse file.
    pub fn looped(kind: &str, size: u64, options: &str) -> Self {
        Self::made(&[&format!("mkfs.{kind}")], kind, size, options)
    }

    fn made(mkfs: &[&str], kind: &str, size: u64, options: &str) -> Self {
        let mut made = Self::nothing();
        let image = made._dir.path().join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(size).unwrap();
        let mut command = Command::new(mkfs[0]);
        expect(command.args(&mkfs[1..]).arg("-q").arg(&image));
        // The kernel takes such a loop device away with the mount.
        let options = format!("loop,{options}");
        made.mount(&["-t", kind, "-o", &options, &path(&image), &path(&made.root)]);
        made
    }

    /// The upper layer on tmpfs, and a lower one that holds something.
    fn overlay() -> Self {
        let mut made = Self::nothing();
        let layers = made._dir.path().join("layers");
        fs::create_dir(&layers).unwrap();
        made.mount(&["-t", "tmpfs", "none", &path(&layers)]);
        for layer in ["lower/amd64/generic", "upper", "work"] {
            fs::create_dir_all(layers.join(layer)).unwrap();
        }
        let of = |layer| path(&layers.join(layer));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            of("lower"),
            of("upper"),
            of("work")
        );
        made.mount(&["-t", "overlay", "-o", &options, "none", &path(&made.root)]);
        made
    }

    fn nothing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        Self {
            mounts: Vec::new(),
            root,
            _dir: dir,
        }
    }

    /// Mounts something; the last of the arguments is where.
    fn mount(&mut self, arguments: &[&str]) {
        expect(Command::new("mount").args(arguments));
        self.mounts.push(arguments.last().unwrap().into());
    }

    /// Mounts a folder of this file system a second time, elsewhere below its temporary directory.
    fn bind(&mut self, folder: &str) -> PathBuf {
        let at = self._dir.path().join(folder);
        fs::create_dir(&at).unwrap();
        fs::create_dir_all(self.root.join(folder)).unwrap();
        self.mount(&["--bind", &path(&self.root.join(folder)), &path(&at)]);
        at
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        expect(Command::new("mount").args(["-o", &options]).arg(&self.root));
    }

    /// Does something to the image of a loop device while it isn't mounted.
    pub fn unmounted(&mut self, edit: impl FnOnce(&Path)) {
        let image = self._dir.path().join("image");
        expect(Command::new("umount").arg(&self.root));
        edit(&image);
        expect(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &self.root]),
        );
    }

    /// Bytes in use, when all is written.
    fn used(&self) -> u64 {
        expect(Command::new("sync").arg("-f").arg(&self.root));
        let stat = rustix::fs::statvfs(&self.root).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let is_gone = |arguments: &[&str]| {
                let status = Command::new("umount").args(arguments).arg(mount).status();
                status.is_ok_and(|status| status.success())
            };
            // A process that still has a file open must not leave the mount behind.
            if !is_gone(&[]) && !is_gone(&["--lazy"]) {
                eprintln!("{mount:?} stays mounted");
            }
        }
    }
}

fn on_file_systems(spool: &str, tree: &str) {
    let first = FileSystem::new(spool);
    let second = (spool != tree).then(|| FileSystem::new(tree));
    let tree = second.as_ref().map_or(&first.root, |second| &second.root);
    goes_every_way(&first.root.join("spool"), &tree.join("tree"));
}

fn between_bind_mounts() {
    let mut mounted = FileSystem::new("ext4");
    let (spool, tree) = (mounted.bind("spool"), mounted.bind("tree"));
    fs::write(spool.join("probe"), "").unwrap();
    let error = fs::rename(spool.join("probe"), tree.join("probe")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices);
    fs::remove_file(spool.join("probe")).unwrap();
    goes_every_way(&spool, &tree);
}

/// First, unchanged, changed, repaired, back to an older generation, adopted, rejected.
fn goes_every_way(spool: &Path, tree: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path(), spool, tree, SETTINGS);
    let adopted = "amd64/generic/bookworm/adopted";
    let images = tempfile::tempdir().unwrap();
    let (old, new) = (images.path().join("old"), images.path().join("new"));
    make_image(&old, b"old");
    make_image(&new, b"new");
    make_image(&world.published(adopted), b"old");

    let mut daemon = world.daemon();
    let mut drop_as = |name: &str, target: &str, image: &Path, expected: &str| {
        world.drop_directory(name, target, image);
        daemon.wait_for_drop(name);
        world.assert_outcome(name, expected);
        if expected == "published" {
            assert_same_content(&world.published(target), image);
        }
    };
    drop_as("first", TARGET, &old, "published");
    let first = fs::canonicalize(world.published(TARGET)).unwrap();
    wait_for_catalog(&world);
    let before = snapshot(tree);
    drop_as("again", TARGET, &old, "unchanged");
    drop_as("like-adopted", adopted, &old, "unchanged");
    assert_eq!(before, snapshot(tree), "{world}");

    drop_as("changed", TARGET, &new, "published");
    let changed = fs::canonicalize(world.published(TARGET)).unwrap();
    let inode = |generation: &Path, file| fs::metadata(generation.join(file)).unwrap().ino();
    let kernel = "debian-installer/amd64/linux";
    assert_eq!(inode(&first, kernel), inode(&changed, kernel), "{world}");
    assert_ne!(inode(&first, "version"), inode(&changed, "version"));

    fs::write(changed.join("version"), "bad").unwrap();
    drop_as("repair", TARGET, &new, "published");
    let repaired = fs::canonicalize(world.published(TARGET)).unwrap();
    assert_ne!(repaired, changed);

    drop_as("back", TARGET, &old, "published");
    let back = fs::canonicalize(world.published(TARGET)).unwrap();
    assert_eq!(back, first, "an older generation is used again\n{world}");

    drop_as("adoption", adopted, &new, "published");
    let generations = names(&world.published("amd64/generic/bookworm/adopted@"));
    let folders = generations.iter().filter(|name| !name.ends_with(".toml"));
    let previous = folders
        .map(|name| tree.join("amd64/generic/bookworm/adopted@").join(name))
        .find(|folder| *folder != fs::canonicalize(world.published(adopted)).unwrap());
    assert_same_content(&previous.expect("the adopted folder is kept"), &old);

    let lies = format!(
        "{}[files]\n\"a\" = {{ sha256 = \"{}\" }}\n",
        manifest(TARGET),
        "0".repeat(64)
    );
    let before = snapshot(&tree.join("amd64"));
    world.drop_with("lies", &lies, |image| {
        fs::write(image.join("a"), "a").unwrap();
    });
    daemon.wait_for_drop("lies");
    world.assert_outcome("lies", "rejected checksum-mismatch");
    wait_for_names(&spool.join("processing"), &[]);
    assert!(spool.join("rejected/lies/image/a").is_file(), "{world}");
    assert_eq!(before, snapshot(&tree.join("amd64")), "{world}");
    daemon.stop();

    // A drop that waits for the start is unchanged as well.
    world.drop_directory("after", TARGET, &old);
    world.run_once();
    world.assert_outcome("after", "unchanged");
    assert_eq!(before, snapshot(&tree.join("amd64")), "{world}");
    // `changed` was damaged on purpose above, and kept: it is made whole for the last look.
    fs::write(changed.join("version"), "new").unwrap();
    world.assert_at_rest();
}

/// As Debian's: nested, with links, and an empty file.
fn make_image(at: &Path, version: &[u8]) {
    let folder = at.join("debian-installer/amd64/pxelinux.cfg");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.with_file_name("linux"), vec![7; 300_000]).unwrap();
    fs::write(folder.join("default"), "boot\n").unwrap();
    fs::write(at.join("empty"), "").unwrap();
    fs::write(at.join("version"), version).unwrap();
    symlink(
        "debian-installer/amd64/pxelinux.cfg",
        at.join("pxelinux.cfg"),
    )
    .unwrap();
}

fn shares_extents(kind: &str) {
    const SIZE: usize = 64 << 20;
    let mounted = FileSystem::new(kind);
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (mounted.root.join("spool"), mounted.root.join("tree"));
    let world = World::at(dir.path(), &spool, &tree, SETTINGS);
    let dropped = mounted.root.join("linux");
    fs::write(&dropped, vec![b'x'; SIZE]).unwrap();
    let clone_to = |to: &Path| {
        let mut cp = Command::new("cp");
        expect(cp.arg("--reflink=always").arg(&dropped).arg(to));
    };
    world.drop_with("a", &manifest(TARGET), |image| {
        clone_to(&image.join("linux"))
    });
    let before = mounted.used();
    world.run_once();
    world.assert_outcome("a", "published");

    let published = world.published(TARGET).join("linux");
    assert_eq!(extents(&published), extents(&dropped), "{world}");
    let grown = mounted.used().saturating_sub(before);
    assert!(grown < SIZE as u64 / 8, "{grown} bytes more are in use");
    // It is the published bytes that count, not the importer's: a change on one side stays there.
    fs::write(&dropped, "changed").unwrap();
    assert_eq!(fs::read(&published).unwrap(), vec![b'x'; SIZE]);
}

/// Where on the disk a file's bytes are.
fn extents(file: &Path) -> Vec<(String, String)> {
    let output = Command::new("filefrag")
        .args(["-s", "-v"])
        .arg(file)
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let extents: Vec<_> = output
        .lines()
        .filter_map(|line| {
            // `ext: logical_offset: physical_offset: length: expected: flags`
            let mut fields = line.split(':');
            fields.next()?.trim().parse::<u32>().ok()?;
            let (logical, physical) = (fields.next()?.trim(), fields.next()?.trim());
            Some((logical.to_string(), physical.to_string()))
        })
        .collect();
    assert!(!extents.is_empty(), "{output}");
    extents
}

/// A sparse file with data of 64 KiB at these offsets, and a hole up to its size.
fn make_sparse(path: &Path, size: u64, data: &[u64]) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for offset in data {
        file.write_all_at(&[5; 64 << 10], *offset).unwrap();
    }
}

/// Disk images are sparse: holes at the start, in the middle, at the end, and nothing else.
const SPARSE: &[(&str, u64, &[u64])] = &[
    ("start", 3 << 20, &[2 << 20]),
    ("middle", (64 << 20) + 1, &[0, 32 << 20, 63 << 20]),
    ("end", 40 << 20, &[0]),
    ("nothing", 100 << 20, &[]),
];

fn keeps_holes(kind: &str) {
    let mounted = FileSystem::new(kind);
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (mounted.root.join("spool"), mounted.root.join("tree"));
    let world = World::at(dir.path(), &spool, &tree, SETTINGS);
    // Clones keep holes anyhow: this one comes from elsewhere.
    let image = dir.path().join("image");
    fs::create_dir(&image).unwrap();
    for (name, size, data) in SPARSE {
        make_sparse(&image.join(name), *size, data);
    }
    let submitted = world.run(&[
        "submit",
        "--arch",
        "amd64",
        "--release",
        "bookworm",
        "--purpose",
        "install",
        &path(&image),
    ]);
    assert!(submitted.status.success(), "{}", text(&submitted));
    let submitted = spool
        .join("incoming")
        .join(&names(&spool.join("incoming"))[0]);
    assert_holes(&submitted.join("image"), &image);
    world.run_once();
    assert_holes(&world.published(TARGET), &image);
    assert_same_content(&world.published(TARGET), &image);
    world.assert_at_rest();

    // A byte in what was a hole is noticed.
    let file = fs::File::options().write(true).open(image.join("nothing"));
    file.unwrap().write_all_at(&[1], (100 << 20) - 1).unwrap();
    world.drop_directory("again", TARGET, &image);
    world.run_once();
    world.assert_outcome("again", "published");
    assert_same_content(&world.published(TARGET), &image);
    world.drop_directory("same", TARGET, &image);
    world.run_once();
    world.assert_outcome("same", "unchanged");
}

/// Every file has its size, and takes about as much as the original: a file system may round up.
fn assert_holes(ours: &Path, theirs: &Path) {
    for (name, size, data) in SPARSE {
        let [ours, theirs] = [ours, theirs].map(|it| fs::metadata(it.join(name)).unwrap());
        let most = theirs.blocks() * 512 + (64 << 10) * (data.len() as u64 + 1);
        assert!(
            theirs.blocks() * 512 < size / 10,
            "{name}: the test shows nothing"
        );
        assert_eq!(ours.len(), *size, "{name}");
        let used = ours.blocks() * 512;
        assert!(used <= most, "{name} takes {used} bytes, {most} at most");
    }
}

fn keeps_seconds_only() {
    let mounted = FileSystem::of_seconds();
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (mounted.root.join("spool"), mounted.root.join("tree"));
    let world = World::at(dir.path(), &spool, &tree, SETTINGS);
    let image = dir.path().join("image");
    make_image(&image, b"1");
    let publish = |name: &str, expected: &str| {
        world.drop_directory(name, TARGET, &image);
        world.run_once();
        let outcome = world.assert_outcome(name, expected);
        let generation = fs::canonicalize(world.published(TARGET)).unwrap();
        (outcome["digest"].to_string(), generation)
    };
    let (digest, first) = publish("a", "published");
    let nanoseconds = fs::metadata(first.join("version")).unwrap().mtime_nsec();
    assert_eq!(nanoseconds, 0, "the test would show nothing");
    let before = snapshot(&tree.join("amd64"));
    assert_eq!(publish("b", "unchanged"), (digest.clone(), first.clone()));
    assert_eq!(snapshot(&tree.join("amd64")), before, "{world}");

    for folder in [&image, &first] {
        fs::write(folder.join("version"), "2").unwrap();
    }
    let (edited, second) = publish("c", "published");
    assert_ne!(edited, digest, "{world}");
    let inode = |generation: &Path, file| fs::metadata(generation.join(file)).unwrap().ino();
    assert_ne!(inode(&first, "version"), inode(&second, "version"));
    let kernel = "debian-installer/amd64/linux";
    assert_eq!(inode(&first, kernel), inode(&second, kernel), "{world}");
}

fn has_its_own_modes() {
    for settings in ["", "#tree group = \"daemon\"\n"] {
        modes_below_a_set_group_id_bit(settings);
    }
}

fn modes_below_a_set_group_id_bit(settings: &str) {
    let world = World::with(&format!("{settings}{SETTINGS}"));
    fs::create_dir(&world.tree).unwrap();
    let mut acl = Command::new("setfacl");
    acl.args(["-d", "-m", "u:daemon:rwx,g::rwx,o::---,m::rwx"]);
    expect(acl.arg(&world.tree));
    expect(Command::new("chmod").arg("2775").arg(&world.tree));
    expect(Command::new("chgrp").arg("games").arg(&world.tree));

    // From a shell with a narrow mask, as some admins have it.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "umask 077 && exec \"$@\"",
        "sh",
        PROGRAM,
        "run",
        "--config",
    ]);
    shell.arg(&world.config);
    let mut daemon = Daemon::start(shell);
    let image = world.root.join("image");
    make_image(&image, b"1");
    for (drop, expected) in [("a", "published"), ("b", "unchanged")] {
        world.drop_directory(drop, TARGET, &image);
        daemon.wait_for_drop(drop);
        world.assert_outcome(drop, expected);
    }
    daemon.stop();
    world.assert_at_rest();

    let verified = world.run(&["verify"]);
    assert!(verified.status.success(), "{}\n{world}", text(&verified));
    // What the daemon gave its files is known still.
    let victim = world.published(TARGET).join("version");
    for (mode, code) in [(0o600, 1), (0o644, 0)] {
        fs::set_permissions(&victim, fs::Permissions::from_mode(mode)).unwrap();
        let verified = world.run(&["verify"]);
        assert_eq!(verified.status.code(), Some(code), "{}", text(&verified));
    }
    let group = if settings.is_empty() {
        "root"
    } else {
        "daemon"
    };
    let generation = fs::canonicalize(world.published(TARGET)).unwrap();
    for path in walk(&generation).iter().chain([&generation]) {
        let mut stat = Command::new("stat");
        let output = stat.args(["--format", "%U:%G"]).arg(path).output();
        let owner = String::from_utf8(output.unwrap().stdout).unwrap();
        assert_eq!(
            owner.trim_end(),
            format!("root:{group}"),
            "{path:?}\n{world}"
        );
    }
    let mut seen = 0;
    for path in walk(&world.tree.join("amd64")) {
        let stat = fs::symlink_metadata(&path).unwrap();
        let expected = match (stat.is_symlink(), stat.is_dir()) {
            (true, _) => continue,
            (_, true) => 0o755,
            _ => 0o644,
        };
        assert_eq!(stat.mode() & 0o7777, expected, "{path:?}\n{world}");
        let output = Command::new("getfacl")
            .args(["-c", "-s"])
            .arg(&path)
            .output();
        let acl = text(&output.unwrap());
        assert!(!acl.contains("user:"), "{path:?} has an ACL: {acl}");
        seen += 1;
    }
    assert!(seen > 8, "{world}");
}

fn leaves_no_access_time() {
    // The strictest rule there is: every access is noted that does not ask not to be.
    let mounted = FileSystem::looped("ext4", 256 << 20, "strictatime");
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (mounted.root.join("spool"), mounted.root.join("tree"));
    let world = World::at(dir.path(), &spool, &tree, SETTINGS);
    let image = dir.path().join("image");
    make_image(&image, b"1");
    let mut daemon = world.daemon();
    world.drop_directory("a", TARGET, &image);
    daemon.wait_for_drop("a");

    let paths: Vec<_> = walk(&tree.join("amd64"));
    let access = || -> Vec<_> {
        let times = paths.iter().map(|path| {
            let stat = fs::symlink_metadata(path).unwrap();
            (path.clone(), stat.atime(), stat.atime_nsec())
        });
        times.filter(|(path, ..)| !path.is_symlink()).collect()
    };
    let before = access();
    world.drop_directory("b", TARGET, &image);
    daemon.wait_for_drop("b");
    world.assert_outcome("b", "unchanged");
    assert_eq!(before, access());
    // The mount does note what is read without asking.
    fs::read(world.published(TARGET).join("version")).unwrap();
    assert_ne!(before, access());
    daemon.stop();
}

fn path(path: &Path) -> String {
    path.to_str().expect("a temporary path is text").to_string()
}

/// Runs a program that has to go well.
pub fn expect(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}
