//! Tight readers, while images are swapped beneath them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use libtest_mimic::Trial;
use netboot_publisher::Record;

use crate::lab::world::{Ends, World, names, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "readers see no gap and no mixture while images are swapped",
            &[],
            swaps_can_not_be_seen,
        ),
        test(
            "readers see no gap while plain directories are adopted",
            &[],
            adoptions_can_not_be_seen,
        ),
    ]
}

/// Bytes of each file: more than one read, and more than one page.
const SIZE: usize = 24 << 10;

/// Targets that are swapped side by side.
const TARGETS: usize = 16;

/// Images for each of these targets.
const VERSIONS: u64 = 130;

/// Plain directories that are adopted.
const PLAIN: usize = 150;

/// A control that shows no trouble in so many tries can't show any.
const TRIES: u64 = 1_000_000;

/// A file with the same number all over: a mixture of two versions shows.
fn contents(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(SIZE / 8)
}

/// The version of a file that holds one and no other.
fn version(bytes: &[u8]) -> Option<u64> {
    let first = bytes.get(..8)?;
    let is_whole = bytes.len() == SIZE && bytes.chunks(8).all(|number| number == first);
    is_whole.then(|| u64::from_le_bytes(first.try_into().unwrap()))
}

/// What a reader has come across.
#[derive(Debug, Default)]
struct Seen {
    reads: u64,
    versions: BTreeSet<u64>,
    /// The path led nowhere.
    gaps: u64,
    /// One file was of two versions.
    mixed: u64,
    /// Two files of one generation were of two versions.
    mismatched: u64,
}

impl Seen {
    /// Opens a file and reads all of it.
    fn read(&mut self, path: &Path) -> Option<u64> {
        self.reads += 1;
        let Ok(bytes) = fs::read(path) else {
            self.gaps += 1;
            return None;
        };
        match version(&bytes) {
            Some(version) => {
                self.versions.insert(version);
                Some(version)
            }
            None => {
                self.mixed += 1;
                None
            }
        }
    }

    /// Opens a file and no more: the shortest gap shows.
    fn look(&mut self, path: &Path) {
        self.reads += 1;
        self.gaps += u64::from(File::open(path).is_err());
    }

    /// Reads both files by the stable path.
    fn read_stable(&mut self, target: &Path) {
        self.read(&target.join("linux"));
        self.read(&target.join("initrd.gz"));
    }

    /// Asks once where the pointer leads, and reads both files there.
    fn read_pinned(&mut self, target: &Path) {
        let Ok(link) = fs::read_link(target) else {
            self.gaps += 1;
            return;
        };
        let generation = target.with_file_name(link);
        let linux = self.read(&generation.join("linux"));
        let initrd = self.read(&generation.join("initrd.gz"));
        if linux != initrd {
            self.mismatched += 1;
        }
    }

    fn add(mut self, other: Self) -> Self {
        self.reads += other.reads;
        self.gaps += other.gaps;
        self.mixed += other.mixed;
        self.mismatched += other.mismatched;
        self.versions.extend(other.versions);
        self
    }

    fn troubles(&self) -> u64 {
        self.gaps + self.mixed + self.mismatched
    }
}

/// What several readers see while `change` runs. Each calls `read` again and again.
fn watched(readers: &[&(dyn Fn(&mut Seen) + Sync)], change: impl FnOnce(&dyn Fn() -> u64)) -> Seen {
    let (is_over, ready) = (AtomicBool::new(false), AtomicUsize::new(0));
    let troubles = AtomicU64::new(0);
    let reader = |read: &(dyn Fn(&mut Seen) + Sync)| {
        let mut seen = Seen::default();
        read(&mut seen);
        ready.fetch_add(1, Ordering::Relaxed);
        while !is_over.load(Ordering::Relaxed) {
            let before = seen.troubles();
            read(&mut seen);
            troubles.fetch_add(seen.troubles() - before, Ordering::Relaxed);
        }
        seen
    };
    std::thread::scope(|scope| {
        let reader = &reader;
        let start = |read| scope.spawn(move || reader(read));
        let readers: Vec<_> = readers.iter().copied().map(start).collect();
        let end = Ends(&is_over);
        while ready.load(Ordering::Relaxed) < readers.len() {
            std::thread::yield_now();
        }
        change(&|| troubles.load(Ordering::Relaxed));
        drop(end);
        let join = |reader: std::thread::ScopedJoinHandle<'_, Seen>| reader.join().unwrap();
        readers
            .into_iter()
            .map(join)
            .fold(Seen::default(), Seen::add)
    })
}

fn target(number: usize) -> String {
    format!("amd64/generic/release{number}/install")
}

fn drop_version(world: &World, name: &str, target: &str, version: u64) {
    let bytes = contents(version);
    world.drop_image(name, target, &[("linux", &bytes), ("initrd.gz", &bytes)]);
}

fn swaps_can_not_be_seen() {
    // As machines are booting: what was current a moment ago stays.
    let world = World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"10s\"\n");
    let mut daemon = world.daemon();
    for number in 0..TARGETS {
        drop_version(&world, &format!("first{number}"), &target(number), 0);
    }
    for number in 0..TARGETS {
        wait_for_outcome(&world, &mut daemon, &format!("first{number}"));
    }
    let targets: Vec<_> = (0..TARGETS)
        .map(|number| world.published(&target(number)))
        .collect();
    let stable = |seen: &mut Seen| seen.read_stable(&targets[next(seen) % TARGETS]);
    let pinned = |seen: &mut Seen| seen.read_pinned(&targets[next(seen) % TARGETS]);
    let seen = watched(&[&stable, &stable, &pinned], |_| {
        for version in 1..=VERSIONS {
            for number in 0..TARGETS {
                let name = format!("v{version}-{number}");
                drop_version(&world, &name, &target(number), version);
            }
            // No backlog: the readers are to meet each version.
            for number in 0..TARGETS {
                wait_for_outcome(&world, &mut daemon, &format!("v{version}-{number}"));
            }
        }
    });
    let published = world.outcomes();
    let published = published.iter().map(|name| name.trim_end_matches(".json"));
    let swaps = published
        .filter(|drop| world.outcome(drop).unwrap()["outcome"] == "published")
        .count();
    println!(
        "{swaps} swaps, {} reads, {} versions seen",
        seen.reads,
        seen.versions.len()
    );
    assert_eq!(
        swaps,
        TARGETS * (usize::try_from(VERSIONS).unwrap() + 1),
        "{world}"
    );
    assert_eq!(
        (seen.gaps, seen.mixed, seen.mismatched),
        (0, 0, 0),
        "{world}"
    );
    assert!(
        seen.versions.len() > 10,
        "the readers were asleep: {:?}",
        seen.versions
    );
    daemon.stop();
    world.assert_at_rest();

    the_readers_can_see_trouble(&world.root.join("control"));
}

/// Which target a reader comes to.
fn next(seen: &Seen) -> usize {
    usize::try_from(seen.reads / 2).unwrap()
}

/// Outcomes come in another order than the drops.
fn wait_for_outcome(world: &World, daemon: &mut crate::lab::world::Daemon, drop: &str) {
    let word = format!("drop=\"{drop}\"");
    if !daemon.log.iter().any(|line| line.contains(&word)) {
        daemon.wait_for_drop(drop);
    }
    if daemon.log.len() > 1_000 {
        daemon.log.drain(..900);
    }
    world.assert_outcome(drop, "published");
}

/// The same readers, beside what scripts do: an image renamed away and a new one renamed to its
/// place, and a file written in place.
fn the_readers_can_see_trouble(folder: &Path) {
    let image = folder.join("install");
    fs::create_dir_all(&image).unwrap();
    for file in ["linux", "initrd.gz"] {
        fs::write(image.join(file), contents(0)).unwrap();
    }
    let stable = |seen: &mut Seen| seen.read_stable(&image);
    let away = folder.join("away");
    let renamed = watched(&[&stable], |troubles| {
        for _ in 0..TRIES {
            fs::rename(&image, &away).unwrap();
            fs::rename(&away, &image).unwrap();
            if troubles() > 0 {
                break;
            }
        }
    });
    assert!(
        renamed.gaps > 0,
        "no gap seen in {TRIES} renames: {renamed:?}"
    );

    let file = File::options()
        .write(true)
        .open(image.join("linux"))
        .unwrap();
    let rewritten = watched(&[&stable], |troubles| {
        for version in 0..TRIES {
            file.write_all_at(&contents(version), 0).unwrap();
            if troubles() > 0 {
                break;
            }
        }
    });
    assert!(
        rewritten.mixed > 0,
        "no mixture seen in {TRIES} writes: {rewritten:?}"
    );
}

fn adoptions_can_not_be_seen() {
    let world = World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n");
    let make = |number| -> u64 {
        let folder = world.published(&target(number));
        fs::create_dir_all(&folder).unwrap();
        for file in ["linux", "initrd.gz"] {
            fs::write(folder.join(file), contents(0)).unwrap();
        }
        fs::metadata(&folder).unwrap().ino()
    };
    let inodes: Vec<_> = (0..PLAIN).map(make).collect();
    let mut daemon = world.daemon();
    let at = AtomicUsize::new(0);
    let plain = |number| world.published(&target(number)).join("linux");
    let paths: Vec<_> = (0..PLAIN).map(plain).collect();
    let stable = |seen: &mut Seen| {
        seen.read(&paths[at.load(Ordering::Relaxed)]);
    };
    let look = |seen: &mut Seen| seen.look(&paths[at.load(Ordering::Relaxed)]);
    let seen = watched(&[&stable, &look], |_| {
        for number in 0..PLAIN {
            at.store(number, Ordering::Relaxed);
            let drop = format!("a{number}");
            drop_version(&world, &drop, &target(number), 1 + number as u64);
            wait_for_outcome(&world, &mut daemon, &drop);
        }
    });
    daemon.stop();
    println!(
        "{PLAIN} adoptions, {} reads, {} versions seen",
        seen.reads,
        seen.versions.len()
    );
    assert_eq!((seen.gaps, seen.mixed), (0, 0), "{world}");
    assert!(
        seen.versions.len() > 10,
        "the readers were asleep: {:?}",
        seen.versions
    );
    world.assert_at_rest();
    for (number, inode) in inodes.into_iter().enumerate() {
        assert_adopted(&world, &target(number), inode);
    }
}

/// The directory of this inode is the generation before the current one, and has a record.
fn assert_adopted(world: &World, target: &str, inode: u64) {
    let current = world.published(target).canonicalize().unwrap();
    let folder = current.parent().unwrap();
    let generations: Vec<_> = names(folder)
        .into_iter()
        .filter(|name| !name.ends_with(".toml"))
        .map(|name| folder.join(name))
        .collect();
    let [adopted] = &generations
        .iter()
        .filter(|path| **path != current)
        .collect::<Vec<_>>()[..]
    else {
        panic!("expected two generations: {generations:?}\n{world}")
    };
    assert_eq!(
        fs::metadata(adopted).unwrap().ino(),
        inode,
        "{adopted:?}\n{world}"
    );
    assert_eq!(
        version(&fs::read(adopted.join("linux")).unwrap()),
        Some(0),
        "{world}"
    );
    let record = fs::read_to_string(format!("{}.toml", adopted.display())).unwrap();
    let record = Record::parse(&record).unwrap();
    assert_eq!(record.head.target.to_string(), target);
    assert_eq!(record.head.from, None, "it came from no drop");
}
