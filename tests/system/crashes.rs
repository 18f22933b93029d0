//! Killed at every step, and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::scene::{Scene, drops};
use crate::world::{Needs, test, text};

/// Every place that the program can be ended at from within.
const PLACES: &[&str] = &[
    "claim",
    "copy-file",
    "outcome",
    "place-adopted",
    "place-generation",
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

/// With what the tests tell the program where to end.
const FAILPOINT: &str = "NETBOOT_PUBLISHER_FAILPOINT";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "every failpoint of the program is tried",
            &[],
            every_place_is_tried,
        ),
        test(
            "a daemon killed at any failpoint is finished by the next one",
            &[Needs::Failpoints],
            || killed_at_every_failpoint(1),
        ),
        test(
            "a daemon killed at any failpoint while nothing old is kept is finished by the next one",
            &[Needs::Failpoints],
            || killed_at_every_failpoint(0),
        ),
        test(
            "a daemon killed at any call that changes a file system is finished by the next one",
            &[Needs::Program("strace")],
            killed_at_every_change,
        ),
        test(
            "a daemon killed at any call to a file system is finished by the next one",
            &[Needs::Program("strace")],
            killed_at_every_call,
        ),
    ]
}

/// File-system calls that change nothing: what is seen after them is what was seen before.
const READING: &[&str] = &[
    "access",
    "close",
    "fcntl",
    "flock",
    "fstat",
    "fstatfs",
    "getdents64",
    "ioctl",
    "lseek",
    "newfstatat",
    "openat",
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
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for file in fs::read_dir(sources).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        // Some files have a shorter name for `failpoint::at`.
        let calls = text.match_indices("at(\"").filter(|(at, _)| {
            let before = text[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
        });
        for (at, call) in calls {
            let name = text[at + call.len()..].split('"').next().unwrap();
            found.insert(name.to_string());
        }
    }
    let tried: BTreeSet<_> = PLACES.iter().map(|name| (*name).to_string()).collect();
    assert_eq!(found, tried, "in src/, and in this list");
}

/// At every place, each time that it is reached.
fn killed_at_every_failpoint(keep: usize) {
    let scene = Scene::in_memory(keep, &drops());
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
            let told = format!("{place}:{nth}\n{}", text(&first));
            checked(&told, || {
                scene.assert_between(&scene.world);
                let second = scene.recover();
                scene.assert_finished(&scene.world);
                assert_told_once(&[&first, &second]);
            });
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

/// From the outside: at every call that changes a file system, with drops of all kinds.
fn killed_at_every_change() {
    let scene = Scene::in_memory(1, &drops());
    let calls = traced(&scene);
    // A call that makes a file opens it; hundreds of others do nothing but that.
    let is_wanted = |call: &&Call| !READING.contains(&&*call.name) && call.name != "openat2";
    let calls: BTreeSet<_> = calls.iter().filter(is_wanted).collect();
    let (kills, hit) = killed_at_each(&scene, &names_of(calls.iter().copied()));
    let missed: Vec<_> = calls.iter().filter(|call| !hit.contains(**call)).collect();
    println!(
        "{kills} kills at {} of {} calls that change something",
        calls.len() - missed.len(),
        calls.len()
    );
    assert!(kills > 100, "{kills} kills");
    // What is in one commit, and so the order, differs a little from run to run.
    assert!(missed.len() * 4 < calls.len(), "missed: {missed:#?}");
}

/// From the outside: at every call to a file system, with few drops.
fn killed_at_every_call() {
    let scene = Scene::in_memory(0, &["adopted", "bad"]);
    let calls = traced(&scene);
    let names = names_of(calls.iter());
    let (kills, _) = killed_at_each(&scene, &names);
    println!("{kills} kills at {} kinds of calls: {names:?}", names.len());
    assert!(kills > 100, "{kills} kills");
}

fn names_of<'c>(calls: impl Iterator<Item = &'c Call>) -> BTreeSet<&'c str> {
    calls.map(|call| call.name.as_str()).collect()
}

/// Kills at the n-th call of each of these names, for every n there is. Returns how often, and at
/// which calls.
fn killed_at_each(scene: &Scene, names: &BTreeSet<&str>) -> (usize, BTreeSet<Call>) {
    let mut kills = 0;
    let mut hit = BTreeSet::new();
    for name in names {
        for nth in 1.. {
            scene.begin();
            let (first, trace) = killed_at(scene, name, nth);
            if first.status.success() {
                scene.assert_finished(&scene.world);
                assert!(nth > 1, "no {name} was met");
                break;
            }
            assert_killed(&first);
            kills += 1;
            let last = trace.into_iter().rfind(|call| call.name == *name);
            let told = format!("the {nth}th {name}, {last:?}\n{}", text(&first));
            hit.extend(last);
            checked(&told, || {
                scene.assert_between(&scene.world);
                let second = scene.recover();
                scene.assert_finished(&scene.world);
                assert_told_once(&[&first, &second]);
            });
        }
    }
    (kills, hit)
}

/// A run that ends before its `nth` call of this name.
fn killed_at(scene: &Scene, name: &str, nth: usize) -> (Output, Vec<Call>) {
    strace(scene, &[&format!("--inject={name}:signal=KILL:when={nth}")])
}

/// A call as the tracer shows it, without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    name: String,
    arguments: String,
}

/// All calls to file systems of a run that nobody disturbs.
fn traced(scene: &Scene) -> Vec<Call> {
    scene.begin();
    let (output, calls) = strace(scene, &[]);
    assert!(output.status.success(), "{}", text(&output));
    scene.assert_finished(&scene.world);
    calls
}

/// Runs the program under `strace`. Of its pool of threads there is only one, for the tracer counts
/// the calls of each thread for itself; and it does not log, which is the business of another.
fn strace(scene: &Scene, arguments: &[&str]) -> (Output, Vec<Call>) {
    let trace = scene.world.root.join("trace");
    let output = Command::new("strace")
        .args(["--follow-forks", "--decode-fds=path", "--string-limit=200"])
        .arg("--output")
        .arg(&trace)
        .args([
            "--trace=%file,%desc,clone3",
            "--inject=clone3:error=EAGAIN:when=2+",
        ])
        .args(arguments)
        .arg(crate::world::PROGRAM)
        .args(["run", "--once", "--config"])
        .arg(&scene.world.config)
        .env("RUST_LOG", "warn")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&fs::read(&trace).unwrap()).to_string();
    (
        output,
        text.lines()
            .filter_map(|line| Call::parse(line, scene))
            .collect(),
    )
}

impl Call {
    fn parse(line: &str, scene: &Scene) -> Option<Self> {
        // 4711 renameat(9</spool/incoming>, "x", 10</spool/processing>, "x") = 0
        let (_, call) = line.split_once(' ')?;
        let (name, rest) = call.trim_start().split_once('(')?;
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name || OTHER.contains(&name) || rest.contains("<pipe:") {
            return None;
        }
        let arguments = rest.split(" = ").next()?.split(" <unfinished").next()?;
        let root = scene.world.root.to_str().unwrap();
        let arguments = arguments.trim_end().trim_end_matches(')').replace(root, "");
        let digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect();
        Some(Self {
            name: name.to_string(),
            arguments: digits(&arguments),
        })
    }
}

impl Scene {
    /// Set, and all drops handed over.
    fn begin(&self) {
        self.set();
        self.hand_over();
    }

    /// The next start, which has to end well.
    fn recover(&self) -> Output {
        let output = self.world.run(&["run", "--once"]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.world);
        output
    }
}

/// A run that ends at a failpoint.
fn run_to(scene: &Scene, failpoint: &str) -> Output {
    let mut command = scene.world.command(&["run", "--once"]);
    command.env(FAILPOINT, failpoint).output().unwrap()
}

fn assert_killed(output: &Output) {
    assert_eq!(output.status.signal(), Some(9), "{}", text(output));
}

/// Says where the program was ended when an assertion fails.
fn checked(what: &str, check: impl FnOnce()) {
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
