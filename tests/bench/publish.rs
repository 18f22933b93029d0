//! Speed and memory beside what people would do by hand: `cargo bench`.
//!
//! `cargo bench -- backlog idle` runs the cases whose names hold one of these words, `--quick` runs
//! two rounds of each. Everything happens below `$NETBOOT_BENCH_DIR`, or in cargo's target
//! directory: on a real disk, please.
//!
//! Both sides of a row do the same work in the same run, taking turns, with a warm cache and a
//! clean disk before. A figure is `median [min..max]`; a ratio is ours by the control's of the same
//! round, and beside it that of all processor time. Nothing is asserted about time.

#![allow(
    unreachable_pub,
    reason = "what the benchmarks have in common is for nobody else"
)]

mod control;
mod measure;
mod neighbours;
mod trust;
#[path = "../system/lab/world.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod world;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use notify::Watcher as _;

use netboot_publisher::{BootConfigs, Changes, Pointers, Settings};

use measure::{Cost, Sides, Unit, context_switches, cpu_time, process_status, settle};
use world::{Daemon, World};

/// Three files of 1 GiB together: kernel, initrd and root file system.
const LARGE: [(&str, usize); 3] = [
    ("linux", 16 << 20),
    ("initrd.gz", 208 << 20),
    ("root.squashfs", 800 << 20),
];

const TARGET: &str = "amd64/generic/noble/install";

/// A drop that is written in place is still for so long.
const SETTLE: Duration = Duration::from_secs(1);

/// What a drop of a backlog holds.
const SMALL: [&str; 2] = ["linux", "initrd.gz"];

struct Bench {
    dir: PathBuf,
    rounds: usize,
    is_quick: bool,
}

type Case = fn(&Bench);

fn main() {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    // Cargo itself passes `--bench`.
    arguments.retain(|argument| !argument.starts_with('-'));
    let dir = std::env::var_os("NETBOOT_BENCH_DIR");
    let bench = Bench {
        dir: dir.map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from),
        rounds: if is_quick { 2 } else { 7 },
        is_quick,
    };
    println!("below {}", bench.dir.display());
    println!("case | ours | control | ours / control | goal");
    let cases: [(&str, Case); 11] = [
        ("unchanged", unchanged),
        ("changed-first-block", changed_first),
        ("changed-last-block", changed_last),
        ("backlog", backlog),
        ("latency", latency),
        ("idle", idle),
        ("rendering", rendering),
        ("status-and-memory", status_and_memory),
        ("verify", verify),
        ("neighbours", neighbours::neighbours),
        ("trust", trust::trust),
    ];
    for (name, case) in cases {
        if arguments.is_empty() || arguments.iter().any(|word| name.contains(word.as_str())) {
            case(&bench);
        }
    }
}

impl Bench {
    /// A world that goes with what is returned beside it.
    fn world(&self) -> (World, tempfile::TempDir) {
        self.world_with("")
    }

    /// As [`Bench::world`], with more settings.
    fn world_with(&self, more: &str) -> (World, tempfile::TempDir) {
        let dir = tempfile::tempdir_in(&self.dir).expect("a temporary directory");
        let (spool, tree) = (dir.path().join("spool"), dir.path().join("tree"));
        let settings =
            format!("#spool settle = \"{SETTLE:?}\"\n[limits]\nmin_free_space = \"0B\"\n{more}");
        (World::at(dir.path(), &spool, &tree, &settings), dir)
    }
}

fn unchanged(bench: &Bench) {
    for is_linked in [false, true] {
        let (world, _dir) = bench.world();
        let master = large_image(&world);
        world.drop_directory("first", TARGET, &master);
        world.run_once();
        let mut sides = Sides::default();
        let mut floor = Vec::new();
        for round in 0..bench.rounds {
            let drop = format!("u{round}");
            let option = if is_linked { "-rlT" } else { "-rT" };
            world.drop_with(&drop, &world::manifest(TARGET), |image| {
                run(Command::new("cp").arg(option).arg(&master).arg(image));
            });
            rename_anew(&world, [drop.clone()]);
            let image = world.incoming(&drop).join("image");
            let published = world.published(TARGET);
            let pairs = LARGE.map(|(name, _)| (image.join(name), published.join(name)));
            floor.push(Cost::of(|| control::read_all(&pairs)));
            let cmp = || {
                for (ours, theirs) in &pairs {
                    run(Command::new("cmp").arg(ours).arg(theirs));
                }
            };
            // The drop is gone when ours has ended.
            sides.control.push(Cost::of(cmp));
            sides.ours.push(Cost::of(|| run_once(&world)));
            world.assert_outcome(&drop, "unchanged");
        }
        let kind = if is_linked {
            "hard-linked drop"
        } else {
            "drop is a copy"
        };
        let case = format!("unchanged 1 GiB, 3 files, {kind}, run --once");
        sides.print(&case, "cmp", Unit::Seconds, "0.50, aim 0.35");
        println!(
            "{:54} | {}",
            "  reading both on two threads",
            Unit::Seconds.show(&floor)
        );
    }
}

fn changed_first(bench: &Bench) {
    changed(bench, "first", |_| 0);
}

fn changed_last(bench: &Bench) {
    changed(bench, "last", |size| size - 8);
}

/// Every file of a large image differs from the published one, at `place`.
fn changed(bench: &Bench, which: &str, place: fn(usize) -> usize) {
    let (world, _dir) = bench.world();
    let master = large_image(&world);
    world.drop_directory("first", TARGET, &master);
    world.run_once();
    let mut sides = Sides::default();
    for round in 0..bench.rounds {
        for (name, size) in LARGE {
            stamp(&master.join(name), place(size), round);
        }
        let drop = format!("c{round}");
        world.drop_directory(&drop, TARGET, &master);
        rename_anew(&world, [drop.clone()]);
        sides.round(
            || Cost::of(|| run_once(&world)),
            || copy_and_sync(&world, &master),
        );
        world.assert_outcome(&drop, "published");
    }
    let case = format!("changed 1 GiB, 3 files, in the {which} block, run --once");
    sides.print(&case, "cp -r, sync -f", Unit::Seconds, "1.50");
}

fn backlog(bench: &Bench) {
    const DROPS: usize = 2_000;
    for (file_size, what) in [(32 << 10, "64 KiB a drop"), (64 << 10, "64 KiB a file")] {
        let phases = [("first", 0), ("changed", 1), ("unchanged", 1)];
        let mut sides = phases.map(|_| Sides::default());
        let mut floors = phases.map(|_| Sides::default());
        for round in 0..bench.rounds {
            let (ours, _dir) = bench.world();
            let (theirs, _dir) = bench.world();
            let (bare, _dir) = bench.world();
            for (number, (phase, stamp)) in phases.iter().enumerate() {
                for world in [&ours, &theirs, &bare] {
                    drop_many(world, phase, DROPS, file_size, round * 2 + stamp);
                }
                let (sides, floors) = (&mut sides[number], &mut floors[number]);
                sides.round(
                    || Cost::of(|| run_once(&ours)),
                    || Cost::of(|| control::compare_and_rename(&theirs, phase, DROPS, target)),
                );
                floors.ours.extend(sides.ours.last());
                let cost = Cost::of(|| control::publish_bare(&bare, phase, DROPS, target));
                floors.control.push(cost);
                let expected = if *phase == "unchanged" {
                    "unchanged"
                } else {
                    "published"
                };
                ours.assert_outcome(&format!("{phase}-{}", DROPS - 1), expected);
            }
        }
        for (number, (phase, _)) in phases.iter().enumerate() {
            let case = format!("backlog of {DROPS}, {what}, {phase}, run --once");
            sides[number].print(&case, "loop, two renames", Unit::Rate(DROPS), "below 1");
            floors[number].print("", "bare steps, synced", Unit::Rate(DROPS), "");
        }
    }
}

/// How a drop comes into the spool.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Renamed,
    InPlace,
}

fn latency(bench: &Bench) {
    for way in [Way::Renamed, Way::InPlace] {
        latency_of(bench, way);
    }
}

fn latency_of(bench: &Bench, way: Way) {
    const FILES: usize = 300;
    const SIZE: usize = (50 << 20) / FILES;
    let (world, _dir) = bench.world();
    let master = world.root.join("master");
    let paths: Vec<_> = (0..FILES)
        .map(|n| master.join(format!("folder{}/file{n}", n % 20)))
        .collect();
    for path in &paths {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(SIZE)).unwrap();
    }
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).expect("a watcher");
    let outcomes = world.outcomes_of(rustix::process::geteuid().as_raw());
    fs::create_dir(&outcomes).expect("a folder for outcomes");
    watcher
        .watch(&outcomes, notify::RecursiveMode::NonRecursive)
        .expect("watching the outcomes");
    let mut daemon = world.daemon();
    let pid = daemon.child.id().to_string();

    let mut sides = Sides::default();
    // The first rounds warm both up.
    for round in 0..=(2 * bench.rounds) {
        for path in &paths {
            stamp(path, 0, round);
        }
        let drop = format!("l{round}");
        let hidden = world.incoming(&format!(".{drop}"));
        world.drop_directory(&format!(".{drop}"), TARGET, &master);
        let outcome = outcomes.join(format!("{drop}.json"));
        let ours = || {
            settle();
            if way == Way::InPlace {
                run(Command::new("cp")
                    .arg("-r")
                    .args([&hidden, &world.incoming(&drop)]));
            }
            let (started, cpu) = (Instant::now(), cpu_time(&pid));
            let settled = match way {
                Way::Renamed => {
                    fs::rename(&hidden, world.incoming(&drop)).unwrap();
                    Duration::ZERO
                }
                Way::InPlace => SETTLE,
            };
            let is_there = |event: notify::Event| event.paths.contains(&outcome);
            while !is_there(events.recv().unwrap().expect("an event")) {}
            let wall = started.elapsed().saturating_sub(settled);
            daemon.wait_for_drop(&drop);
            let cpu = cpu_time(&pid).checked_sub(cpu).unwrap();
            Cost { wall, cpu }
        };
        sides.round(ours, || copy_and_sync(&world, &master));
        world.assert_outcome(&drop, "published");
        if way == Way::InPlace {
            fs::remove_dir_all(&hidden).unwrap();
        }
    }
    let case = match way {
        Way::Renamed => "50 MiB, 300 files, all changed: drop to outcome",
        Way::InPlace => "the same, written in place: beyond spool.settle",
    };
    sides.print(case, "cp -r, sync -f", Unit::Seconds, "1.50");
    daemon.stop();
}

fn idle(bench: &Bench) {
    const DROPS: usize = 2_000;
    let (world, _dir) = bench.world();
    drop_many(&world, "first", DROPS, 32 << 10, 0);
    let mut daemon = world.daemon();
    for _ in 0..DROPS {
        daemon.wait_for(" published ");
    }
    show_idle(bench, "after having published them", &daemon);
    daemon.stop();
    let daemon = world.daemon();
    show_idle(bench, "after a fresh start", &daemon);
    daemon.stop();
}

fn show_idle(bench: &Bench, when: &str, daemon: &Daemon) {
    let pid = daemon.child.id();
    let resident = || {
        let of = |key| process_status(&pid.to_string(), key);
        format!(
            "{} (of that anonymous {})",
            mib(of("VmRSS")),
            mib(of("RssAnon"))
        )
    };
    let at_once = resident();
    // Threads that have nothing to do end after 10 s.
    std::thread::sleep(Duration::from_secs(15));
    let (switches, cpu) = (context_switches(pid), cpu_time(&pid.to_string()));
    let seconds = if bench.is_quick { 10 } else { 65 };
    std::thread::sleep(Duration::from_secs(seconds));
    let switches = context_switches(pid).saturating_sub(switches);
    let cpu = cpu_time(&pid.to_string()).checked_sub(cpu).unwrap();
    println!(
        "{:54} | resident at once {at_once}, later {} | goal 16 MiB, aim 8",
        format!("idle beside 2,000 targets {when}"),
        resident()
    );
    println!(
        "{:54} | {switches} context switches and {cpu:?} of processor time in {seconds} s",
        ""
    );
}

/// One of ten thousand images has changed: the catalog and a boot configuration after that.
fn rendering(bench: &Bench) {
    const MANY: usize = 10_000;
    let (world, _dir) = bench.world();
    drop_many(&world, "first", MANY, 16, 0);
    run_once(&world);
    let before = fs::read(world.tree.join("catalog.json")).expect("a catalog");
    drop_many(&world, "changed", 1, 16, 1);
    run_once(&world);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let templates = ["pxelinux.cfg.j2", "grub.cfg.j2", "menu.ipxe.j2"];
    let one = Changes::Of([target(0).parse().expect("a target")].into());
    let catalog = ("catalog alone", vec![], &one);
    let start = ("catalog alone, at a start", vec![], &Changes::All);
    let each = templates.map(|template| (template, vec![template], &one));
    let all = ("all three templates", templates.to_vec(), &one);
    let cases = [start, catalog].into_iter().chain(each).chain([all]);
    for (number, (what, templates, changes)) in cases.enumerate() {
        let mut costs = Vec::new();
        let mut bytes = 0;
        for round in 0..bench.rounds {
            fs::write(world.tree.join("catalog.json"), &before).expect("writing the catalog");
            let mut text = format!("[tree]\npath = {:?}\n", world.tree);
            for template in &templates {
                let output = format!("menus{number}-{round}/{template}");
                let template = config.join(template);
                let table =
                    format!("[[boot_config]]\ntemplate = {template:?}\noutput = {output:?}\n");
                text.push_str(&table);
            }
            let settings = Settings::parse("bench.toml", &text).expect("settings");
            let pointers = Pointers::open(&settings).expect("opening the tree");
            let boot_configs = BootConfigs::new(Arc::clone(pointers.staging()), &settings);
            costs.push(Cost::of(|| {
                let rendered = boot_configs.render(changes);
                assert_eq!(rendered.images, MANY);
                assert_eq!(rendered.replaced, 1 + templates.len(), "{rendered:?}");
            }));
            let outputs = templates
                .iter()
                .map(|t| world.tree.join(format!("menus{number}-{round}/{t}")));
            let size = |path: PathBuf| fs::metadata(path).expect("an output").len();
            bytes = before.len() as u64 + outputs.map(size).sum::<u64>();
        }
        println!(
            "{:54} | {}, {} written | goal 0.1 s",
            format!("one of 10,000 images changed: {what}"),
            Unit::Seconds.show(&costs),
            mib(bytes >> 10),
        );
    }
}

fn status_and_memory(bench: &Bench) {
    const MANY: usize = 10_000;
    let peak_of = |drops: usize| {
        let (world, dir) = bench.world();
        drop_many(&world, "first", drops, 32 << 10, 0);
        (peak_memory(&world), world, dir)
    };
    let (peak, world, _dir) = peak_of(1);
    show_peak("one drop of 64 KiB", peak);
    drop_many(&world, "again", 1, 32 << 10, 0);
    show_peak("one drop of 64 KiB, unchanged", peak_memory(&world));

    let (world, _dir) = bench.world();
    let master = large_image(&world);
    for drop in ["first 1 GiB", "unchanged 1 GiB"] {
        world.drop_directory(drop, TARGET, &master);
        show_peak(drop, peak_memory(&world));
    }
    for (name, size) in LARGE {
        stamp(&master.join(name), size - 8, 1);
    }
    world.drop_directory("changed 1 GiB", TARGET, &master);
    show_peak("changed 1 GiB", peak_memory(&world));

    let (peak, world, _dir) = peak_of(MANY);
    show_peak("10,000 drops, first", peak);
    let mut sides = Sides::default();
    for json in [None, Some("--json")] {
        for _ in 0..bench.rounds {
            let arguments: Vec<_> = ["status"].into_iter().chain(json).collect();
            sides.round(
                || Cost::of(|| run(world.command(&arguments).stdout(Stdio::null()))),
                || Cost::of(|| run(Command::new("find").arg(&world.tree).stdout(Stdio::null()))),
            );
        }
        let case = format!("status {} over 10,000 targets", json.unwrap_or_default());
        sides.print(&case, "find", Unit::Seconds, "0.5 s");
    }
    drop_many(&world, "again", MANY, 32 << 10, 0);
    show_peak("10,000 drops, unchanged", peak_memory(&world));
}

fn show_peak(what: &str, peak: u64) {
    println!(
        "{:54} | {}",
        format!("peak memory, {what}, run --once"),
        mib(peak)
    );
}

fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// Peak of resident memory of `run --once`, in KiB. Asked for every millisecond: who has ended
/// can't be asked any more.
fn peak_memory(world: &World) -> u64 {
    let mut child = once(world).spawn().expect("starting the program");
    let pid = child.id().to_string();
    let mut peak = 0;
    loop {
        peak = peak.max(process_status(&pid, "VmHWM"));
        if let Some(status) = child.try_wait().expect("waiting for the program") {
            assert!(status.success(), "run --once: {status}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `cp -r` of a directory to the file system of the tree, and all of it made durable.
fn copy_and_sync(world: &World, directory: &Path) -> Cost {
    let copy = world.root.join("copy");
    let cost = Cost::of(|| {
        run(Command::new("cp").arg("-r").arg(directory).arg(&copy));
        run(Command::new("sync").arg("-f").arg(&copy));
    });
    fs::remove_dir_all(&copy).expect("removing the copy");
    cost
}

fn verify(bench: &Bench) {
    const FILES: usize = 16;
    const SIZE: usize = 256 << 20;
    let (world, _dir) = bench.world();
    let master = world.root.join("master");
    fs::create_dir(&master).unwrap();
    let block = noise(SIZE);
    for number in 0..FILES {
        let path = master.join(format!("file{number}"));
        fs::write(&path, &block).unwrap();
        stamp(&path, 0, number);
    }
    world.drop_directory("large", TARGET, &master);
    world.run_once();
    fs::remove_dir_all(&master).unwrap();
    let published = world.published(TARGET);
    let half = |first| {
        let files = (first..FILES).step_by(2);
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256"]).stdout(Stdio::null());
        command.args(files.map(|number| published.join(format!("file{number}"))));
        command
    };
    let mut sides = Sides::default();
    // The first round reads from the disk what the page cache has lost.
    for _ in 0..=bench.rounds {
        let control = || {
            let mut others = [half(0), half(1)].map(|mut half| half.spawn().expect("openssl"));
            for other in &mut others {
                assert!(other.wait().expect("openssl").success());
            }
        };
        let ours = || run(world.command(&["verify"]).stdout(Stdio::null()));
        sides.round(|| Cost::of(ours), || Cost::of(control));
    }
    let case = "verify of 4 GiB in 16 files";
    sides.print(case, "two of openssl dgst -sha256", Unit::Seconds, "1.20");
}

fn run_once(world: &World) {
    run(&mut once(world));
}

/// It logs to a file, as cheap a place as the journal.
fn once(world: &World) -> Command {
    let log = File::create(world.root.join("log")).expect("making the log");
    let mut command = world.command(&["run", "--once"]);
    command.stderr(log);
    command
}

fn run(command: &mut Command) {
    let status = command.status().expect("starting a program");
    assert!(status.success(), "{command:?}: {status}");
}

/// Makes the large image in the world.
fn large_image(world: &World) -> PathBuf {
    let master = world.root.join("master");
    fs::create_dir(&master).unwrap();
    let block = noise(1 << 20);
    for (name, size) in LARGE {
        let mut file = File::create(master.join(name)).unwrap();
        for at in (0..size).step_by(block.len()) {
            file.write_all(&block).unwrap();
            file.write_all_at(&at.to_le_bytes(), at as u64).unwrap();
        }
    }
    master
}

/// Makes so many drops, each with an image of two files, for as many targets.
fn drop_many(world: &World, prefix: &str, drops: usize, file_size: usize, round: usize) {
    let mut bytes = noise(file_size);
    for drop in 0..drops {
        bytes[..8].copy_from_slice(&round.to_le_bytes());
        bytes[8..16].copy_from_slice(&drop.to_le_bytes());
        let files = SMALL.map(|name| (name, &bytes[..]));
        world.drop_image(&format!("{prefix}-{drop}"), &target(drop), &files);
    }
    rename_anew(world, (0..drops).map(|drop| format!("{prefix}-{drop}")));
}

/// Renames drops once more, when the clock that gives them their times has gone on: no importer builds
/// a drop in one tick of it, and after a rename in the tick of its last change a drop that no event told
/// of is waited for.
fn rename_anew(world: &World, drops: impl IntoIterator<Item = String>) {
    std::thread::sleep(Duration::from_millis(20));
    for drop in drops {
        let (place, hidden) = (world.incoming(&drop), world.incoming(&format!(".{drop}")));
        fs::rename(&place, &hidden).unwrap();
        fs::rename(&hidden, &place).unwrap();
    }
}

/// Targets as people have them: few architectures, more releases, five purposes each.
fn target(number: usize) -> String {
    let (arch, subarch, purpose) = (number % 4, number / 4 % 5, number / 20 % 5);
    format!(
        "arch{arch}/sub{subarch}/release{}/purpose{purpose}",
        number / 100
    )
}

fn stamp(path: &Path, place: usize, round: usize) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&(round + 1).to_le_bytes(), place as u64)
        .unwrap();
}

/// Bytes that don't compress (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..=(length / 8))
        .flat_map(|_| next().to_le_bytes())
        .take(length)
        .collect()
}
