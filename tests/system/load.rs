//! Many drops, many events, large images.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::lab::world::{Daemon, Needs, PROGRAM, World, manifest, test, wait_for_names};

/// Drops for each target.
const ROUNDS: usize = 20;
const TARGETS: usize = 500;
const DROPS: usize = ROUNDS * TARGETS;

/// What a daemon may use more for 10,000 drops than for 500: their names and places in the order,
/// some hundred bytes each, until they are worked on; and a full batch for one commit. Kept open or
/// in memory, the images and manifests would need more than this.
const ROOM_FOR_NAMES: u64 = 24 << 20;

/// All generations stay: each is looked at in the end.
const SETTINGS: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nkeep = 100\nmin_age = \"0s\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "10,000 drops at once are all handled, per target in order, in little memory",
            &[],
            many_drops,
        ),
        test(
            "30,000 events of a stopped daemon overflow the queue and lose no drop",
            &[Needs::Path("/proc/sys/fs/inotify/max_queued_events")],
            queue_overflows,
        ),
        test(
            "a large image needs no more memory than a small one",
            &[],
            large_image,
        ),
        test(
            "an idle daemon wakes up for nothing but its rescan",
            &[Needs::Program("strace")],
            idles,
        ),
    ]
}

/// A daemon as a shell with `ulimit -n 256` starts it.
fn daemon_with_few_descriptors(world: &World) -> Daemon {
    let mut shell = Command::new("sh");
    let script = "ulimit -n 256 && exec \"$@\"";
    shell.args(["-c", script, "sh", PROGRAM, "run", "--config"]);
    shell.arg(&world.config);
    Daemon::start(shell)
}

/// The most memory that the daemon has had at a time, in bytes.
fn peak_memory(daemon: &Daemon) -> u64 {
    let pid = daemon.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() << 10
}

fn target(number: usize) -> String {
    format!("amd64/generic/noble/target-{number}")
}

/// A drop's name: sorted by name, the rounds come in the opposite of their order.
fn name(round: usize, target: usize) -> String {
    format!("{:02}-{target}", ROUNDS - round)
}

/// What is published in a round: every fifth is that of the round before.
fn content(round: usize, target: usize) -> String {
    format!("{target} {}", round - usize::from(round % 5 == 4))
}

/// Drops `rounds` images for each of the targets, as importers do. Those of a round are complete
/// at another time than those of the next, by the clock of the file system.
fn drop_rounds(world: &World, rounds: usize) {
    let manifests: Vec<_> = (0..TARGETS)
        .map(|number| manifest(&target(number)))
        .collect();
    for round in 0..rounds {
        for (number, manifest) in manifests.iter().enumerate() {
            world.drop_with(&name(round, number), manifest, |image| {
                fs::write(image.join("linux"), content(round, number)).unwrap();
            });
        }
        let last = changed(&world.incoming(&name(round, TARGETS - 1)), world);
        let probe = world.root.join("probe");
        while {
            fs::write(&probe, "").unwrap();
            changed(&probe, world) <= last
        } {}
    }
}

/// When a path changed last; a drop may be in `processing/` or done with by now.
fn changed(path: &Path, _: &World) -> (i64, i64) {
    fs::symlink_metadata(path).map_or((0, 0), |stat| (stat.ctime(), stat.ctime_nsec()))
}

/// Waits until all drops of `rounds` have their outcome, and asserts that it is the right one and
/// that each target's came in order.
fn assert_handled(world: &World, daemon: &mut Daemon, rounds: usize) {
    let mut order: HashMap<usize, Vec<String>> = HashMap::new();
    for _ in 0..rounds * TARGETS {
        let line = daemon.wait_for("drop=\"");
        let drop = line
            .split("drop=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let number = drop.split_once('-').unwrap().1.parse().unwrap();
        order.entry(number).or_default().push(drop.to_string());
    }
    for number in 0..TARGETS {
        let expected: Vec<_> = (0..rounds).map(|round| name(round, number)).collect();
        assert_eq!(order[&number], expected, "target {number}");
    }
    for round in 0..rounds {
        let expected = if round % 5 == 4 {
            "unchanged"
        } else {
            "published"
        };
        for number in 0..TARGETS {
            let outcome = world.outcome(&name(round, number));
            let word = outcome
                .as_ref()
                .and_then(|outcome| outcome["outcome"].as_str());
            assert_eq!(word, Some(expected), "round {round}, target {number}");
        }
    }
    for number in 0..TARGETS {
        let current = fs::read_to_string(world.published(&target(number)).join("linux"));
        assert_eq!(current.unwrap(), content(rounds - 1, number));
    }
    assert_eq!(world.names("incoming"), Vec::<String>::new());
    let outcomes = world.outcomes();
    let of_rounds = outcomes.iter().filter(|name| name.contains('-'));
    assert_eq!(of_rounds.count(), rounds * TARGETS);
}

fn many_drops() {
    let few = World::with(SETTINGS);
    drop_rounds(&few, 1);
    let mut daemon = daemon_with_few_descriptors(&few);
    assert_handled(&few, &mut daemon, 1);
    let for_few = peak_memory(&daemon);
    daemon.stop();

    let many = World::with(SETTINGS);
    drop_rounds(&many, ROUNDS);
    let mut daemon = daemon_with_few_descriptors(&many);
    assert_handled(&many, &mut daemon, ROUNDS);
    let for_many = peak_memory(&daemon);
    daemon.stop();
    many.assert_at_rest();
    println!("{for_few} bytes for {TARGETS} drops, {for_many} for {DROPS}");
    assert!(
        for_many < for_few + ROOM_FOR_NAMES,
        "{for_few} bytes for {TARGETS} drops, {for_many} for {DROPS}"
    );
}

fn queue_overflows() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    // Each drop is made, renamed from and renamed to.
    assert!(3 * DROPS > limit.trim().parse().unwrap(), "no overflow");
    let world = World::with(SETTINGS);
    let mut daemon = world.daemon();
    // No look is under way when it is stopped: it would seem to take as long as that lasts.
    world.drop_image("first", "amd64/generic/noble/first", &[("linux", b"first")]);
    daemon.wait_for_drop("first");
    wait_for_names(&world.spool.join("processing"), &[]);
    daemon.signal(Signal::STOP);
    drop_rounds(&world, ROUNDS);
    daemon.signal(Signal::CONT);
    assert_handled(&world, &mut daemon, ROUNDS);
    println!("{} bytes at the most", peak_memory(&daemon));
    // After the overflow the daemon goes by events again.
    world.drop_image("99-0", &target(0), &[("linux", b"last")]);
    daemon.wait_for_drop("99-0");
    daemon.stop();
    world.assert_at_rest();
}

fn large_image() {
    let peak = |size: u64| {
        let world = World::with(SETTINGS);
        let mut daemon = world.daemon();
        for (drop, expected) in [("first", "published"), ("again", "unchanged")] {
            world.drop_with(drop, &manifest(&target(0)), |image| {
                let file = fs::File::create(image.join("initrd.gz")).unwrap();
                // A sparse file takes no room in the spool, and is read and hashed like any other.
                file.set_len(size).unwrap();
                fs::write(image.join("linux"), "linux").unwrap();
            });
            daemon.wait_for_drop(drop);
            world.assert_outcome(drop, expected);
        }
        let peak = peak_memory(&daemon);
        daemon.stop();
        peak
    };
    let (small, large) = (peak(64 << 20), peak(1 << 30));
    println!("{small} bytes for 64 MiB, {large} for 1 GiB");
    assert!(
        large < small + (4 << 20),
        "{small} for 64 MiB, {large} for 1 GiB"
    );
    assert!(large < 64 << 20, "{large} bytes for 1 GiB");
}

/// A strace of a running daemon. Ends by SIGKILL when it is dropped.
struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn idles() {
    const RESCANS: usize = 4;
    let world = World::with(&format!("#spool rescan_interval = \"1s\"\n{SETTINGS}"));
    for number in 0..20 {
        world.drop_image(&number.to_string(), &target(number), &[("linux", b"1")]);
    }
    let mut daemon = world.daemon();
    for _ in 0..20 {
        daemon.wait_for("drop=\"");
    }
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-p", &pid]).stderr(Stdio::piped());
    let mut traced = Traced(strace.spawn().unwrap());
    let lines = BufReader::new(traced.0.stderr.take().unwrap()).lines();

    // A rescan looks at the name `incoming`; the calls before the first are no whole rescan.
    let mut calls: Vec<BTreeMap<String, usize>> = Vec::new();
    for line in lines.map_while(Result::ok) {
        if line.contains("/incoming\"") {
            calls.push(BTreeMap::new());
            if calls.len() > RESCANS + 1 {
                break;
            }
        }
        let call = line.split_once('(').map(|(call, _)| call);
        let name = call.and_then(|call| call.rsplit(' ').next());
        if let (Some(name), Some(calls)) = (name, calls.last_mut()) {
            *calls.entry(name.to_string()).or_default() += 1;
        }
    }
    drop(traced);
    daemon.stop();
    println!("between rescans: {calls:?}");
    for calls in &calls[1..=RESCANS] {
        // The scan itself, in a thread of its own, and the way to it and back.
        let waits: usize = calls.get("epoll_wait").copied().unwrap_or_default();
        assert!(waits <= 10, "{calls:?}");
        assert!(calls.values().sum::<usize>() <= 40, "{calls:?}");
    }
}
