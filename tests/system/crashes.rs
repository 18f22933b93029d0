//! Killed at every step, and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netboot_publisher::Head;
use rustix::process::{Signal, WaitOptions, waitpid};

use crate::aliases;
use crate::lab::scene::{self, Scene, drops, drops_unsigned, drops_without_rollback};
use crate::lab::world::{
    self, Daemon, Needs, PATIENCE, PROGRAM, World, manifest, test, text, walk,
};
use crate::lab::{failpoints, failpoints_in};
use crate::sites;

/// Every place that the program can be ended at from within.
const PLACES: &[&str] = &[
    "catalog",
    "claim",
    "copy-file",
    "history",
    "outcome",
    "place-adopted",
    "place-generation",
    "place-proof",
    "place-record",
    "reject",
    "reject-drop",
    "remove",
    "remove-image",
    "spool-sync",
    "stage",
    "stage-record",
    "swap",
    "tree-sync",
    "vacuum",
];

/// The variable that tells the program at which failpoint to end.
const FAILPOINT: &str = "NETBOOT_PUBLISHER_FAILPOINT";

/// The tracer runs in a namespace of its own.
const TRACED: &[Needs] = &[Needs::Root, Needs::Program("strace")];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "every failpoint of the program is tried",
            &[],
            every_place_is_tried,
        ),
        test(
            "a daemon killed at any failpoint is finished by the next one",
            &[scene::NEEDS, Needs::Failpoints],
            || killed_at_every_failpoint(1),
        ),
        test(
            "a daemon killed at any failpoint while nothing old is kept is finished by the next one",
            &[scene::NEEDS, Needs::Failpoints],
            || killed_at_every_failpoint(0),
        ),
        test(
            "a daemon killed at any call that changes a file system is finished by the next one",
            TRACED,
            || {
                // Few at a time: each kill costs a run with all of them.
                for drops in drops_unsigned().chunks(5) {
                    killed_at_every_change(1, drops);
                }
            },
        ),
        test(
            "a daemon killed at any such call while nothing old is kept is finished by the next one",
            TRACED,
            || killed_at_every_change(0, &["adopted", "bad"]),
        ),
        test(
            "a daemon killed twice, also in its recovery, is finished by the next one",
            &[scene::NEEDS, Needs::Failpoints],
            killed_twice,
        ),
        test(
            "a recovery killed at any call that removes or renames is finished by the next one",
            &[Needs::Root, Needs::Failpoints, Needs::Program("strace")],
            || {
                let drops = ["adopted", "back", "changed", "late", "promoted"];
                recovery_killed_at_every_change(
                    &drops,
                    &["swap:2", "place-record:2", "remove-image:1"],
                );
            },
        ),
        test(
            "a recovery of what was signed is finished, killed at any call that removes or renames",
            // Who root is takes no thread to find out.
            &[
                scene::NEEDS,
                Needs::Root,
                Needs::Failpoints,
                Needs::Program("strace"),
            ],
            || {
                let places = [
                    "place-proof:1",
                    "place-proof:2",
                    "place-proof:6",
                    "place-record:1",
                    "swap:1",
                    "history:3",
                ];
                recovery_killed_at_every_change(&["signed", "promoted-signed"], &places);
            },
        ),
        test(
            "a step that fails anywhere is done by the next daemon",
            &[scene::NEEDS, Needs::Failpoints],
            failed_at_every_failpoint,
        ),
        test(
            "under load no kill loses a drop or changes the order",
            &[],
            killed_under_load,
        ),
        test(
            "SIGTERM in the middle of a copy ends the daemon, and the next one makes the copy",
            &[Needs::Failpoints],
            || stopped_in_a_copy(Signal::TERM),
        ),
        test(
            "SIGINT in the middle of a copy ends the daemon, and the next one makes the copy",
            &[Needs::Failpoints],
            || stopped_in_a_copy(Signal::INT),
        ),
    ]
}

/// File-system calls that change nothing: what is seen after them is what was seen before.
const READING: &[&str] = &[
    "access",
    "close",
    "fcntl",
    "fgetxattr",
    "flock",
    "fstat",
    "fstatfs",
    "getdents64",
    "ioctl",
    "lseek",
    "newfstatat",
    "pread64",
    "read",
    "readlink",
    "readlinkat",
    "statfs",
    "statx",
    "fadvise64",
];

/// Calls on descriptors that have nothing to do with files.
const OTHER: &[&str] = &[
    "clone3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "eventfd2",
    "execve",
    "inotify_add_watch",
    "inotify_init1",
    "inotify_rm_watch",
    "mmap",
    "poll",
    "socketpair",
];

fn every_place_is_tried() {
    let found = failpoints();
    let list = |names: &[&str]| -> BTreeSet<_> { names.iter().map(|it| it.to_string()).collect() };
    let tried = &list(PLACES) | &list(aliases::PLACES);
    assert_eq!(found, tried, "in src/, and in these lists");
    assert_eq!(failpoints_in("src/registry"), list(sites::PLACES));
}

/// Kills at every failpoint, each time that it is reached.
fn killed_at_every_failpoint(keep: usize) {
    let drops = match keep {
        0 => drops_without_rollback(),
        _ => drops(),
    };
    let scene = Scene::in_memory(keep, &drops);
    let mut kills = BTreeMap::new();
    for place in PLACES {
        for nth in 1.. {
            scene.begin();
            let first = run_to(&scene, &format!("{place}:{nth}:kill"));
            if first.status.success() {
                scene.assert_finished(&scene.world);
                break;
            }
            assert_killed(&first);
            *kills.entry(*place).or_insert(0) += 1;
            scene.assert_recovers(&first, &format!("{place}:{nth}"));
        }
    }
    let untried: Vec<_> = PLACES
        .iter()
        .filter(|place| !kills.contains_key(*place))
        .collect();
    assert!(untried.is_empty(), "never reached: {untried:?}");
    let total: u32 = kills.values().sum();
    println!(
        "keep = {keep}: {total} kills at {} failpoints: {kills:?}",
        kills.len()
    );
}

/// Kills from the outside: at every call that changes a file system.
fn killed_at_every_change(keep: usize, drops: &[&str]) {
    let scene = Scene::in_memory(keep, drops);
    let calls: Vec<_> = traced(&scene)
        .into_iter()
        .filter(Call::changes_a_file_system)
        .collect();
    let mut hit = BTreeSet::new();
    let mut kills = 0;
    for Call { name, nth, .. } in &calls {
        scene.begin();
        let (first, trace) = killed_at(&scene, name, *nth);
        if first.status.success() {
            scene.assert_finished(&scene.world);
            continue;
        }
        assert_killed(&first);
        kills += 1;
        let last = trace.into_iter().rfind(|call| call.name == *name);
        scene.assert_recovers(&first, &format!("the {nth}th {name}, {last:?}"));
        hit.extend(last.map(|call| (call.name, call.arguments)));
    }
    let missed: Vec<_> = calls
        .iter()
        .filter(|call| !hit.contains(&(call.name.clone(), call.arguments.clone())))
        .collect();
    println!(
        "{kills} kills, at {} of {} calls that change something",
        calls.len() - missed.len(),
        calls.len()
    );
    // Which drops are in one commit, and so the order of calls, differs a little from run to run.
    assert!(missed.len() * 4 < calls.len(), "missed: {missed:#?}");
}

/// A run that ends before its `nth` call of this name.
fn killed_at(scene: &Scene, name: &str, nth: usize) -> (Output, Vec<Call>) {
    // Of each call that it shows the tracer asks for more, so it shows no others.
    let shown = format!("--trace={name},clone3");
    let inject = format!("--inject={name}:signal=KILL:when={nth}");
    strace(scene, &[&shown, &inject])
}

/// A call as the tracer shows it.
#[derive(Debug)]
struct Call {
    name: String,
    /// Which one of this name it is in its run, from 1 on.
    nth: usize,
    /// Without what differs from run to run.
    arguments: String,
}

/// All calls to file systems of a run that nobody disturbs.
fn traced(scene: &Scene) -> Vec<Call> {
    scene.begin();
    let (output, calls) = strace(scene, &["--trace=%file,%desc,clone3"]);
    assert!(output.status.success(), "{}", text(&output));
    scene.assert_finished(&scene.world);
    calls
}

/// Runs the program under `strace`. Of its pool of threads there is only one, for the tracer counts
/// the calls of each thread for itself; and the program logs warnings only, for how it logs is the
/// business of another test.
fn strace(scene: &Scene, arguments: &[&str]) -> (Output, Vec<Call>) {
    let trace = scene.world.root.join("trace");
    // In a namespace of its own: who writes into a drop it asks each process that there is.
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "strace"])
        .args(["--follow-forks", "--decode-fds=path", "--string-limit=200"])
        .arg("--output")
        .arg(&trace)
        .args(arguments)
        .arg("--inject=clone3:error=EAGAIN:when=2+")
        .arg(PROGRAM)
        .args(["run", "--once", "--config"])
        .arg(&scene.world.config)
        .env("RUST_LOG", "warn")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&fs::read(&trace).unwrap()).to_string();
    let mut calls = Vec::<Call>::new();
    let mut nths = BTreeMap::new();
    for (name, arguments) in text.lines().filter_map(parts_of_call) {
        let nth = nths.entry(name).or_insert(0);
        *nth += 1;
        calls.push(Call {
            name: name.to_string(),
            nth: *nth,
            arguments: of_any_run(arguments, scene),
        });
    }
    (output, calls)
}

impl Call {
    fn changes_a_file_system(&self) -> bool {
        let (name, arguments) = (&*self.name, &self.arguments);
        let is_elsewhere = ["<pipe:", "<anon_inode:", "<socket:"]
            .iter()
            .any(|kind| arguments.contains(kind));
        let only_opens = ["openat", "openat2"].contains(&name) && !arguments.contains("O_CREAT");
        !(is_elsewhere || only_opens || READING.contains(&name) || OTHER.contains(&name))
    }
}

/// The name and the arguments of a call, as a line of the trace has them:
/// `4711 renameat(9</spool/incoming>, "x", 10</spool/processing>, "7-9f3c2ab1d4e5f607.x") = 0`.
fn parts_of_call(line: &str) -> Option<(&str, &str)> {
    let (_, call) = line.split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let arguments = rest.split(" = ").next()?.split(" <unfinished").next()?;
    is_name.then(|| (name, arguments.trim_end().trim_end_matches(')')))
}

/// Arguments without what differs from run to run.
fn of_any_run(arguments: &str, scene: &Scene) -> String {
    let root = scene.world.root.to_str().unwrap();
    let arguments = without_claims(&arguments.replace(root, ""));
    arguments.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The same without the random parts of claim ids, of which each run makes others: a number, `-`, and 16 hex
/// digits.
fn without_claims(arguments: &str) -> String {
    let parts = arguments.split('-').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 16 { &part[16..] } else { part }
    });
    parts.collect::<Vec<_>>().join("-")
}

/// The second kill is at a failpoint as well; the third start finishes.
fn killed_twice() {
    let scene = Scene::in_memory(1, &drops());
    let mut kills = 0;
    for place in PLACES {
        // Where a failpoint is reached twice, the second time counts: something was done by then.
        let nth = [2, 1].into_iter().find(|nth| {
            scene.begin();
            !run_to(&scene, &format!("{place}:{nth}:kill"))
                .status
                .success()
        });
        let nth = nth.unwrap_or_else(|| panic!("{place} is never reached"));
        for again in PLACES {
            // How many drops share a step, and so how many steps there are, is another in each run.
            let mut runs = (0..20).map(|_| {
                scene.begin();
                run_to(&scene, &format!("{place}:{nth}:kill"))
            });
            let first = runs.find(|run| !run.status.success());
            let first = first.unwrap_or_else(|| panic!("{place} {nth} is reached no more"));
            assert_killed(&first);
            let second = run_to(&scene, &format!("{again}:1:kill"));
            let told = format!("{place}, then {again}\n{}{}", text(&first), text(&second));
            checked(&told, || {
                scene.assert_between(&scene.world);
                if second.status.success() {
                    return scene.assert_finished(&scene.world);
                }
                assert_killed(&second);
                kills += 1;
                let third = scene.recover();
                scene.assert_finished(&scene.world);
                assert_told_once(&[&first, &second, &third]);
            });
        }
    }
    println!("{kills} recoveries killed at failpoints");
    assert!(kills > 100, "{kills} kills");
}

/// The second kill is from the outside: what a recovery sweeps, it sweeps without failpoints.
fn recovery_killed_at_every_change(drops: &[&str], places: &[&str]) {
    let scene = Scene::in_memory(1, drops);
    let mut kills = 0;
    for place in places {
        for name in ["renameat", "renameat2", "unlinkat"] {
            for nth in 1.. {
                scene.begin();
                let first = run_to(&scene, &format!("{place}:kill"));
                assert_killed(&first);
                let (second, _) = killed_at(&scene, name, nth);
                let told = format!("{place}, then the {nth}th {name}\n{}", text(&second));
                let is_killed = !second.status.success();
                checked(&told, || {
                    scene.assert_between(&scene.world);
                    if is_killed {
                        assert_killed(&second);
                        scene.recover();
                    }
                    scene.assert_finished(&scene.world);
                });
                if !is_killed {
                    break;
                }
                kills += 1;
            }
        }
    }
    println!("{kills} recoveries killed from the outside");
    assert!(kills > 50, "{kills} kills");
}

/// The daemon lives on, and gives up what it could not do.
fn failed_at_every_failpoint() {
    let scene = Scene::in_memory(1, &drops());
    let mut failures = 0;
    for place in PLACES {
        for nth in 1.. {
            scene.begin();
            let first = run_to(&scene, &format!("{place}:{nth}:fail"));
            let told = format!("{place}:{nth}\n{}", text(&first));
            checked(&told, || {
                assert_eq!(first.status.signal(), None, "it broke down");
                scene.assert_between(&scene.world);
                scene.recover();
                scene.assert_finished(&scene.world);
            });
            // The exit code doesn't tell: what can't be vacuumed is no drop that was not finished.
            let was_reached = text(&first).contains("Input/output error");
            if !was_reached {
                assert!(nth > 1, "{place} was never reached");
                break;
            }
            failures += 1;
        }
    }
    println!("{failures} failures at {} failpoints", PLACES.len());
}

/// Importers that go on dropping, whatever happens to the daemon.
struct Load {
    world: World,
    is_over: AtomicBool,
}

const TARGETS: usize = 4;
const KILLS: usize = 30;

/// What the n-th drop for a target is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    New,
    /// The image of the drop before.
    Same,
    Bad,
}

impl Kind {
    fn of(number: usize) -> Self {
        match number % 5 {
            3 => Self::Same,
            4 => Self::Bad,
            _ => Self::New,
        }
    }

    fn outcome(self) -> &'static str {
        match self {
            Self::New => "published",
            Self::Same => "unchanged",
            Self::Bad => "rejected bad-manifest",
        }
    }
}

impl Load {
    fn name(target: usize, number: usize) -> String {
        format!("t{target}-{number:05}")
    }

    /// Drops for one target, a few ahead of the daemon. Returns how many.
    fn import(&self, target: usize) -> usize {
        const AHEAD: usize = 6;
        let path = format!("amd64/generic/noble/t{target}");
        for number in 0.. {
            if number >= AHEAD {
                self.wait_for_outcome(&Self::name(target, number - AHEAD));
            }
            if self.is_over.load(Ordering::Relaxed) {
                for number in number.saturating_sub(AHEAD)..number {
                    self.wait_for_outcome(&Self::name(target, number));
                }
                return number;
            }
            let kind = Kind::of(number);
            let image = if kind == Kind::Same {
                number - 1
            } else {
                number
            };
            let text = if kind == Kind::Bad {
                "format = 0\n".into()
            } else {
                manifest(&path)
            };
            self.world
                .drop_with(&Self::name(target, number), &text, |dir| {
                    fs::write(dir.join("linux"), image.to_string()).unwrap();
                    fs::write(dir.join("initrd.gz"), image.to_string()).unwrap();
                });
        }
        unreachable!("numbers have no end")
    }

    fn wait_for_outcome(&self, drop: &str) {
        let begin = Instant::now();
        while self.world.outcome(drop).is_none() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{drop}: no outcome\n{}",
                self.world
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What machines see all the while: whole images, and never an older one than before. Returns
    /// how often they looked.
    fn watch(&self) -> usize {
        let mut last = [None::<usize>; TARGETS];
        let mut looks = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            for (target, last) in last.iter_mut().enumerate() {
                let pointer = self
                    .world
                    .published(&format!("amd64/generic/noble/t{target}"));
                let Ok(to) = fs::read_link(&pointer) else {
                    assert_eq!(*last, None, "{pointer:?} is missing");
                    continue;
                };
                let read =
                    |name| fs::read_to_string(pointer.with_file_name(&to).join(name)).unwrap();
                let seen: usize = read("linux").parse().unwrap();
                assert_eq!(read("initrd.gz"), seen.to_string(), "{pointer:?} is mixed");
                assert!(
                    last.is_none_or(|last| last <= seen),
                    "{pointer:?}: {seen} after {last:?}"
                );
                *last = Some(seen);
                looks += 1;
            }
            // The daemon and its importers need the processor as well.
            std::thread::sleep(Duration::from_micros(200));
        }
        looks
    }

    /// Kills the daemon again and again, while it works or while it starts.
    fn kill(&self) {
        let mut random = Random(7);
        for _ in 0..KILLS {
            let mut command = self.world.command(&["run"]);
            let mut daemon = Daemon::start_unready(&mut command);
            if random.below(3) > 0 {
                for _ in 0..=random.below(20) {
                    daemon.wait_for(" drop=");
                }
            }
            // The kill comes at any moment, not right after a line.
            std::thread::sleep(Duration::from_micros(random.below(8_000)));
            daemon.kill();
        }
    }

    /// Every drop has the outcome it has to have, and what was published came in order.
    fn assert_in_order(&self, target: usize, count: usize) {
        let path = format!("amd64/generic/noble/t{target}");
        for number in 0..count {
            let name = Self::name(target, number);
            self.world.assert_outcome(&name, Kind::of(number).outcome());
        }
        let mut published: Vec<_> = walk(&self.world.published(&format!("{path}@")))
            .into_iter()
            .filter(|file| file.extension() == Some("toml".as_ref()))
            .map(|file| Head::parse(&fs::read_to_string(file).unwrap()).unwrap())
            .map(|head| (head.published_at, head.from.unwrap().drop))
            .collect();
        published.sort();
        let found: Vec<_> = published.into_iter().map(|(_, drop)| drop).collect();
        let expected: Vec<_> = (0..count)
            .filter(|number| Kind::of(*number) == Kind::New)
            .map(|number| Self::name(target, number))
            .collect();
        assert_eq!(found, expected, "{}", self.world);
    }
}

fn killed_under_load() {
    let load = Load {
        world: World::with(
            "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 100000\n",
        ),
        is_over: AtomicBool::new(false),
    };
    let (counts, looks) = std::thread::scope(|scope| {
        let importers: Vec<_> = (0..TARGETS)
            .map(|target| {
                scope.spawn({
                    let load = &load;
                    move || load.import(target)
                })
            })
            .collect();
        let watcher = scope.spawn(|| load.watch());
        let killing = std::panic::AssertUnwindSafe(|| load.kill());
        let killed = std::panic::catch_unwind(killing);
        load.is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
        let daemon = load.world.daemon();
        let counts: Vec<_> = importers.into_iter().map(|it| it.join().unwrap()).collect();
        daemon.stop();
        (counts, watcher.join().unwrap())
    });
    load.world.run_once();
    load.world.assert_at_rest();
    assert_eq!(load.world.names("incoming"), [""; 0], "{}", load.world);
    for (target, count) in counts.iter().enumerate() {
        load.assert_in_order(target, *count);
    }
    println!(
        "{KILLS} kills under load, {} drops, {looks} looks",
        counts.iter().sum::<usize>()
    );
    assert!(looks > 0);
}

fn stopped_in_a_copy(signal: Signal) {
    let world = World::new();
    let size = 1 << 29;
    let manifest = manifest("amd64/generic/noble/install");
    world.drop_with("huge", &manifest, |image| {
        let file = fs::File::create(image.join("initrd.gz")).unwrap();
        file.set_len(size).unwrap();
    });
    let mut command = world.command(&["run"]);
    command.env(FAILPOINT, "copy-file:1:stop");
    let mut daemon = Daemon::start_unready(&mut command);
    // The daemon stops itself when it is about to copy, so its end comes in the middle.
    let stopped = waitpid(Some(daemon.pid()), WaitOptions::UNTRACED).unwrap();
    assert!(
        stopped.is_some_and(|(_, status)| status.stopped()),
        "{stopped:?}"
    );
    daemon.signal(signal);
    daemon.signal(Signal::CONT);
    let status = daemon.wait();
    assert!(status.success(), "{status}:\n{}", daemon.log.join("\n"));
    assert_eq!(world.outcome("huge"), None, "{world}");
    assert_eq!(world.claimed(), ["huge"], "{world}");
    assert!(!world.published("amd64").exists(), "{world}");

    world.run_once();
    world.assert_at_rest();
    let outcome = world.assert_outcome("huge", "published");
    assert_eq!(outcome["bytes"], size, "{outcome}");
}

/// Numbers that look random, the same for the same seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 31)) % end
    }
}

impl Scene {
    /// Puts the scene in place and hands over all its drops.
    fn begin(&self) {
        self.set();
        self.hand_over_all();
    }

    /// What the `first` run has left, which was killed at this place, is whole, and the next one finishes it.
    fn assert_recovers(&self, first: &Output, place: &str) {
        checked(&format!("{place}\n{}", text(first)), || {
            self.assert_between(&self.world);
            let second = self.recover();
            self.assert_finished(&self.world);
            assert_told_once(&[first, &second]);
        });
    }

    /// Starts the program again, which has to end well.
    fn recover(&self) -> Output {
        let output = self.world.run(&["run", "--once"]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.world);
        output
    }
}

/// A run that ends at a failpoint.
fn run_to(scene: &Scene, failpoint: &str) -> Output {
    let mut command = scene.world.command(&["run", "--once"]);
    world::output(command.env(FAILPOINT, failpoint))
}

fn assert_killed(output: &Output) {
    let status = output.status;
    // The first process of a namespace can't end by a signal as its child did: it says 128 and the number.
    let is_killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
    assert!(is_killed, "{status}\n{}", text(output));
}

/// Says where the program was ended when an assertion fails.
pub fn checked(what: &str, check: impl FnOnce()) {
    let check = std::panic::AssertUnwindSafe(check);
    if let Err(panic) = std::panic::catch_unwind(check) {
        eprintln!("after a kill at {what}");
        std::panic::resume_unwind(panic);
    }
}

/// No drop was reported twice.
fn assert_told_once(runs: &[&Output]) {
    let logs: String = runs.iter().map(|run| text(run)).collect();
    for drop in drops() {
        let told = logs.matches(&format!("drop=\"{drop}\"")).count();
        assert!(told <= 1, "{drop} was reported {told} times:\n{logs}");
    }
}
