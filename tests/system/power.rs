//! Power cuts: what is on the disk is all that is left.
//!
//! The daemon works on a recorded disk. Afterwards the disk is built as power cuts would have left
//! it: at every flush, right after it and in between, with the writes that were not flushed lost,
//! kept or mixed. Each is mounted and looked at, and then the daemon is started on it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::lab::blocklog::{BlockLog, CutDisk, FileSystem, Recording, Unflushed, trials::NEEDS};
use crate::lab::scene::{self, Scene, drops, memory};
use crate::lab::world::{World, test};

const SIZE: u64 = 512 << 20;

/// What has an alias: targets that come, change, are promoted to, and go.
const ALIASES: &[&str] = &["first", "changed", "promoted", "gone"];

/// Power cuts in each test.
const CUTS: usize = 120;

pub fn tests() -> Vec<Trial> {
    let needs = [NEEDS, &[scene::NEEDS]].concat();
    let mut tests = Vec::new();
    for fs in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
        tests.push(test(
            &format!("no power cut between drops on {fs} leaves half an image or loses a drop"),
            &needs,
            move || cut_one_by_one(fs),
        ));
        tests.push(test(
            &format!("no power cut while many drops are published on {fs} loses one"),
            &needs,
            move || cut_together(fs),
        ));
    }
    tests.push(test(
        "no power cut loses a drop where spool and tree are on two disks",
        &needs,
        cut_two_disks,
    ));
    tests
}

/// When a drop was there for good, and when its outcome was seen.
struct Mark {
    drop: &'static str,
    named: u64,
    reported: u64,
}

/// A recorded run, and what it has promised.
struct Recorded {
    scene: Scene,
    log: BlockLog,
    begin: u64,
    marks: Vec<Mark>,
    // Dropped last: the log is in this directory.
    _dir: TempDir,
}

impl Recorded {
    /// Runs the daemon for each of these groups of drops, one after the other.
    fn new(fs: FileSystem, groups: &[Vec<&'static str>]) -> Self {
        let dir = memory();
        let recording = Recording::start(fs, "", SIZE, dir.path());
        let (spool, tree) = (
            recording.mount().join("spool"),
            recording.mount().join("tree"),
        );
        let scene = Scene::at(memory(), &spool, &tree, 1, &drops()).with_aliases(ALIASES);
        scene.set();
        sync(&scene.world);
        let begin = recording.position();
        let mut marks = Vec::new();
        for group in groups {
            for drop in group {
                scene.hand_over(drop);
            }
            sync(&scene.world);
            let named = recording.position();
            scene.world.run_once();
            let reported = recording.position();
            marks.extend(group.iter().map(|drop| Mark {
                drop,
                named,
                reported,
            }));
        }
        scene.assert_finished(&scene.world);
        let log = recording.finish();
        Self {
            scene,
            log,
            begin,
            marks,
            _dir: dir,
        }
    }

    /// Where the power is cut, and what becomes of what was not flushed.
    fn cuts(&self) -> Vec<(u64, Unflushed)> {
        let mut cuts = Vec::new();
        for flush in self.log.flushes() {
            cuts.extend([
                (flush, Unflushed::Lost),
                (flush, Unflushed::Mixed(2 * flush)),
                (flush, Unflushed::Mixed(2 * flush + 1)),
                (flush + 1, Unflushed::Lost),
            ]);
        }
        for position in self.begin..=self.log.len() {
            cuts.push((position, Unflushed::Mixed(2 * position + 1)));
        }
        cuts.push((self.log.len(), Unflushed::Kept));
        cuts.retain(|(position, _)| *position >= self.begin);
        // In ascending order a cut costs least.
        cuts.sort_by_key(|(position, _)| *position);
        cuts
    }

    fn cut(&mut self, position: u64, unflushed: Unflushed) {
        let disk = self.log.cut(position, unflushed);
        let (scene, marks) = (&self.scene, &self.marks);
        disk.mount(|path| {
            let world = scene.seen_at(&path.join("spool"), &path.join("tree"));
            told(&disk, || {
                look(scene, &world, |drop| {
                    let mark = marks.iter().find(|mark| mark.drop == drop).unwrap();
                    Promise {
                        is_named: mark.named <= position,
                        is_reported: mark.reported <= position,
                    }
                })
            });
        });
    }
}

/// What held when the power was cut.
#[derive(Clone, Copy)]
struct Promise {
    is_named: bool,
    is_reported: bool,
}

/// What has to hold after a cut, and after the next start.
fn look(scene: &Scene, world: &World, promise: impl Fn(&str) -> Promise) {
    scene.assert_between(world);
    for drop in drops() {
        let is_there = scene.has_outcome(world, drop);
        assert!(
            is_there || !promise(drop).is_reported,
            "{drop}: its outcome is lost\n{world}"
        );
        if promise(drop).is_reported {
            scene.assert_shown(world, drop);
        }
    }
    world.run_once();
    world.assert_at_rest();
    scene.assert_between(world);
    for drop in drops() {
        let is_there = scene.has_outcome(world, drop);
        assert!(
            is_there || !promise(drop).is_named,
            "{drop} is lost\n{world}"
        );
        // A drop that its importer has not handed over yet comes now.
        if !is_there {
            scene.hand_over_at(world, drop);
        }
    }
    world.run_once();
    scene.assert_finished(world);
}

fn cut_one_by_one(fs: FileSystem) {
    let each: Vec<_> = drops().into_iter().map(|drop| vec![drop]).collect();
    cut_everywhere(Recorded::new(fs, &each));
}

fn cut_together(fs: FileSystem) {
    cut_everywhere(Recorded::new(fs, &[drops()]));
}

fn cut_everywhere(mut recorded: Recorded) {
    let cuts = thinned(&recorded.cuts());
    for (position, unflushed) in &cuts {
        recorded.cut(*position, *unflushed);
    }
    println!(
        "{} power cuts, {} flushes among {} requests",
        cuts.len(),
        recorded.log.flushes().len(),
        recorded.log.len()
    );
}

/// As many of the cuts as there is time for, spread evenly.
fn thinned<T: Copy>(all: &[T]) -> Vec<T> {
    assert!(all.len() >= CUTS, "no more than {} cuts", all.len());
    (0..CUTS).map(|n| all[n * all.len() / CUTS]).collect()
}

/// Makes durable what importers did.
fn sync(world: &World) {
    for path in [&world.spool, &world.tree] {
        let synced = Command::new("sync").arg("--file-system").arg(path).status();
        assert!(synced.unwrap().success());
    }
}

/// Says which cut it was when an assertion fails.
fn told(disk: &CutDisk, check: impl FnOnce()) {
    let check = std::panic::AssertUnwindSafe(check);
    if let Err(panic) = std::panic::catch_unwind(check) {
        eprintln!("after a power cut: {disk}");
        std::panic::resume_unwind(panic);
    }
}

/// Two disks are cut at one moment: pairs of positions that were seen at the same time.
fn cut_two_disks() {
    let dir = memory();
    let spools = Recording::start(FileSystem::Ext4, "", SIZE, dir.path());
    let trees = Recording::start(FileSystem::Xfs, "", SIZE, dir.path());
    let (spool, tree) = (spools.mount().join("spool"), trees.mount().join("tree"));
    let scene = Scene::at(memory(), &spool, &tree, 1, &drops()).with_aliases(ALIASES);
    scene.set();
    sync(&scene.world);
    let mut moments = Vec::new();
    for (count, drop) in drops().into_iter().enumerate() {
        scene.hand_over(drop);
        sync(&scene.world);
        let is_done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watching = scope.spawn(|| pairs(&spools, &trees, &is_done));
            scene.world.run_once();
            is_done.store(true, Ordering::Relaxed);
            watching.join().unwrap()
        });
        moments.extend(seen.into_iter().map(|pair| (pair, count + 1, count)));
        moments.push(((spools.position(), trees.position()), count + 1, count + 1));
    }
    scene.assert_finished(&scene.world);
    let (mut spools, mut trees) = (spools.finish(), trees.finish());
    for n in 0..CUTS {
        let ((at_spool, at_tree), named, reported) = &moments[n * moments.len() / CUTS];
        let (at_spool, at_tree) = (*at_spool, *at_tree);
        let unflushed = match n % 2 {
            0 => Unflushed::Lost,
            _ => Unflushed::Mixed(n as u64 / 2),
        };
        let disks = (
            spools.cut(at_spool, unflushed),
            trees.cut(at_tree, unflushed),
        );
        disks.0.mount(|spool| {
            disks.1.mount(|tree| {
                let world = scene.seen_at(&spool.join("spool"), &tree.join("tree"));
                let place = |drop: &str| drops().iter().position(|it| *it == drop).unwrap();
                let promise = |drop: &str| Promise {
                    is_named: place(drop) < *named,
                    is_reported: place(drop) < *reported,
                };
                told(&disks.0, || {
                    told(&disks.1, || look(&scene, &world, promise))
                });
            });
        });
    }
    let count = moments.len();
    println!("{CUTS} power cuts of two disks, at {count} moments");
}

/// Positions of two recordings that were held at the same time, until `is_done`.
fn pairs(one: &Recording, other: &Recording, is_done: &AtomicBool) -> Vec<(u64, u64)> {
    let mut pairs = Vec::new();
    while !is_done.load(Ordering::Relaxed) {
        let pair = (one.position(), other.position());
        if one.position() == pair.0 && pairs.last() != Some(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}
