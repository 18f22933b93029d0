//! What admins and importers see of drops, targets and generations: whole texts, on terminals of two
//! widths and where there is none.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::terminal::{errors_on_terminal, on_terminal, steady};
use crate::lab::world::{
    Daemon, Needs, PROGRAM, World, manifest, names, output, test, text, until,
};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/rpi4/trixie/rescue";

/// A user that is neither root nor the daemon's.
const IMPORTER: u32 = 4_711;

/// Nothing that replaces something is swapped in, and nothing that is written in place is whole.
const NOTHING_ENDS: &str = "#spool settle = \"1d\"\n#spool incomplete_timeout = \"2d\"\n[limits]\n\
    min_free_space = \"0B\"\n[swap]\nquiet_period = \"1d\"\nmax_delay = \"2d\"\n";

pub fn tests() -> Vec<Trial> {
    let mut tests = of_status();
    tests.extend(of_one());
    tests.extend(of_waiting());
    tests
}

fn of_status() -> Vec<Trial> {
    vec![
        test(
            "status shows what is published, waits and was rejected, and fits the terminal",
            &[Needs::Root],
            status_shows_everything,
        ),
        test(
            "status shows what is in the spool where no daemon runs or answers",
            &[Needs::Root],
            status_without_a_daemon,
        ),
        test(
            "status shows what is meant by a target or a pattern, with its use of the disk",
            &[Needs::Root],
            status_of_some,
        ),
        test(
            "status tells programs all that it knows",
            &[Needs::Root],
            status_for_programs,
        ),
        test(
            "status shows an importer its own drops and how many others there are",
            &[Needs::Root],
            status_of_an_importer,
        ),
        test(
            "status counts rejected drops that it doesn't show",
            &[],
            many_are_rejected,
        ),
    ]
}

fn of_one() -> Vec<Trial> {
    vec![
        test(
            "show tells all that is known of a drop, wherever it is",
            &[Needs::Root],
            show_tells_all,
        ),
        test(
            "diff shows what differs between two generations",
            &[],
            diff_shows_what_differs,
        ),
        test(
            "history fits the terminal",
            &[Needs::Root],
            history_fits,
        ),
    ]
}

fn of_waiting() -> Vec<Trial> {
    vec![
        test(
            "submit that waits shows what for, and ends with the reason",
            &[],
            submit_shows_what_it_waits_for,
        ),
        test(
            "submit shows what it waits for in one line of a terminal",
            &[],
            submit_on_a_terminal,
        ),
        test(
            "submit says that no daemon runs",
            &[],
            submit_without_a_daemon,
        ),
        test(
            "how far a large image was copied is seen",
            &[Needs::Failpoints],
            || seen_at("stage-record", 70 << 20, "working", "copying 99 %"),
        ),
        test(
            "that a drop is checked is seen",
            &[Needs::Failpoints],
            || seen_at("claim", 5, "checked", "checking"),
        ),
        test(
            "that there is no room for a drop is seen",
            &[],
            no_room_is_seen,
        ),
        test(
            "whoever asks and doesn't read holds up nobody",
            &[],
            nobody_is_held_up,
        ),
        test(
            "the log tells of a swap that waits, and of a generation that goes",
            &[],
            the_log_tells,
        ),
    ]
}

/// The text that a command shows on a terminal of so many columns; in a pipe without any.
#[track_caller]
fn shown(world: &World, columns: Option<u16>, arguments: &[&str]) -> String {
    let mut command = world.command(arguments);
    let (output, shown) = match columns {
        Some(columns) => on_terminal(&mut command, columns),
        None => {
            let output = output(&mut command);
            let shown = String::from_utf8(output.stdout.clone()).unwrap();
            (output, shown)
        }
    };
    assert!(output.status.success(), "{}{shown}", text(&output));
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert!(widest <= columns.map(usize::from).or(widest), "{shown}");
    steady(&shown)
}

#[track_caller]
fn assert_shown(world: &World, columns: Option<u16>, arguments: &[&str], expected: &str) {
    let shown = shown(world, columns, arguments);
    assert_eq!(shown, expected, "at {columns:?}:\n{shown}instead of\n{expected}");
}

fn json(world: &World, arguments: &[&str]) -> Value {
    let output = world.run(arguments);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What waits and has this name.
fn waiting(world: &World, drop: &str) -> Value {
    let status = json(world, &["status", "--json"]);
    let drops = status["waiting"].as_array().unwrap();
    let found = drops.iter().find(|it| it["drop"] == drop);
    found.cloned().unwrap_or_default()
}

fn wait_for_state(world: &World, drop: &str, state: &str) -> Value {
    until(&format!("{drop} to be {state}"), || {
        waiting(world, drop)["state"] == state
    });
    waiting(world, drop)
}

/// Five and a half days ago.
fn long_ago() -> String {
    let ago = SystemTime::now() - Duration::from_secs(5 * 86_400 + 43_200);
    let seconds = ago.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let text = Command::new("date")
        .args(["--utc", "--date", &format!("@{seconds}")])
        .arg("+%Y-%m-%dT%H:%M:%S.000000Z")
        .output()
        .unwrap();
    String::from_utf8(text.stdout).unwrap().trim().to_string()
}

/// Puts another time in the place of all that stand behind `key` in a file.
fn set_time(file: &Path, key: &str) {
    let old = fs::read_to_string(file).unwrap();
    let (before, rest) = old.split_once(key).unwrap();
    let (gap, rest) = rest.split_once("20").unwrap();
    let text = format!("{before}{key}{gap}{}{}", long_ago(), &rest["26-11-22T16:15:00.250000Z".len()..]);
    fs::write(file, text).unwrap();
}

/// Two targets published long ago, one drop rejected then.
fn settled(settings: &str) -> (World, [String; 2]) {
    let world = World::with(settings);
    let versioned = format!("{}version = \"2026-11-22 (GA)\"\n", manifest(TARGET));
    world.drop_with("first", &versioned, |image| {
        fs::write(image.join("linux"), [1; 2_048]).unwrap();
        fs::write(image.join("initrd.gz"), "x").unwrap();
    });
    world.drop_image("second", OTHER, &[("linux", b"kernel")]);
    world.drop_image("empty", OTHER, &[]);
    world.run_once();
    let generations = ["first", "second"].map(|drop| {
        let outcome = world.assert_outcome(drop, "published");
        outcome["generation"].as_str().unwrap().to_string()
    });
    for (target, generation) in [TARGET, OTHER].iter().zip(&generations) {
        let record = world.published(&format!("{target}@/{generation}.toml"));
        set_time(&record, "\npublished_at");
    }
    set_time(&world.spool.join("rejected/empty.json"), "finished_at");
    (world, generations)
}

/// As [`settled`], with a daemon and a drop in each state that lasts.
fn eventful() -> (World, Daemon, [String; 2]) {
    let (world, generations) = settled(NOTHING_ENDS);
    let daemon = world.daemon();
    world.drop_image("held", TARGET, &[("linux", b"new")]);
    wait_for_state(&world, "held", "held");
    world.drop_image("next", TARGET, &[("linux", b"newer")]);
    wait_for_state(&world, "next", "behind");
    fs::create_dir(world.incoming("begun")).unwrap();
    wait_for_state(&world, "begun", "incomplete");
    fs::create_dir_all(world.incoming("written/image")).unwrap();
    fs::write(world.incoming("written/image/linux"), "x").unwrap();
    fs::write(world.incoming("written/manifest.toml"), manifest(OTHER)).unwrap();
    wait_for_state(&world, "written", "settling");
    fs::create_dir(world.incoming(".draft")).unwrap();
    (world, daemon, generations)
}

fn status_shows_everything() {
    let (world, daemon, [a, b]) = eventful();
    for columns in [None, Some(160), Some(80)] {
        println!("{columns:?}\n{}", shown(&world, columns, &["status"]));
    }
    let _ = (a, b);
    daemon.stop();
    panic!();
}

fn status_without_a_daemon() {
    let (world, daemon, _) = eventful();
    daemon.signal(Signal::STOP);
    println!("{}", shown(&world, None, &["status"]));
    daemon.signal(Signal::CONT);
    daemon.stop();
    println!("{}", shown(&world, None, &["status"]));
    println!("{}", shown(&world, Some(80), &["show", "held"]));
    panic!();
}

fn status_of_some() {
    let (world, daemon, _) = eventful();
    for columns in [None, Some(160), Some(80)] {
        println!("{columns:?}\n{}", shown(&world, columns, &["status", "*/*/noble/*"]));
    }
    daemon.stop();
    panic!();
}

fn status_for_programs() {
    let (world, daemon, _) = eventful();
    println!("{:#}", json(&world, &["status", "--json", TARGET]));
    println!("{:#}", json(&world, &["status", "--json"]));
    daemon.stop();
    panic!();
}

fn status_of_an_importer() {
    panic!();
}

fn many_are_rejected() {
    panic!();
}

fn show_tells_all() {
    let (world, daemon, _) = eventful();
    for drop in ["held", "next", "begun", "written", "empty", "first"] {
        println!("{}", shown(&world, Some(80), &["show", drop]));
    }
    daemon.stop();
    panic!();
}

fn diff_shows_what_differs() {
    let world = World::new();
    world.drop_image("one", TARGET, &[("linux", b"kernel"), ("initrd.gz", b"initrd"), ("boot/menu", b"menu")]);
    world.run_once();
    world.drop_with("two", &format!("{}version = \"2\"\n", manifest(TARGET)), |image| {
        fs::write(image.join("linux"), [7; 3_000]).unwrap();
        fs::write(image.join("initrd.gz"), "initrd").unwrap();
        fs::write(image.join("a-rather-long-name-of-a-module-for-a-card-that-nobody-has.ko"), "x").unwrap();
        std::os::unix::fs::symlink("linux", image.join("vmlinuz")).unwrap();
    });
    world.run_once();
    for columns in [None, Some(160), Some(80)] {
        println!("{columns:?}\n{}", shown(&world, columns, &["diff", TARGET]));
    }
    panic!();
}

fn history_fits() {
    let (world, _) = settled(NOTHING_ENDS);
    for columns in [None, Some(160), Some(80)] {
        println!("{columns:?}\n{}", shown(&world, columns, &["history", TARGET]));
    }
    panic!();
}

fn submit_shows_what_it_waits_for() {
    panic!();
}

fn submit_on_a_terminal() {
    panic!();
}

fn submit_without_a_daemon() {
    panic!();
}

fn seen_at(place: &str, size: u64, state: &str, why: &str) {
    let world = World::new();
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", format!("{place}:1:hang"));
    let daemon = Daemon::start(command);
    world.drop_with("large", &manifest(TARGET), |image| {
        fs::File::create(image.join("linux")).unwrap().set_len(size).unwrap();
    });
    let drop = wait_for_state(&world, "large", state);
    until("it to come as far as that", || waiting(&world, "large")["why"] == why);
    assert_eq!(drop["target"], TARGET, "{drop:#}");
    daemon.kill();
}

fn no_room_is_seen() {
    panic!();
}

fn nobody_is_held_up() {
    panic!();
}

fn the_log_tells() {
    panic!();
}

fn _unused(_: Child, _: Output, _: UnixStream, _: fs::Metadata) {
    let _ = (PROGRAM, IMPORTER, Stdio::null(), names(Path::new("")), errors_on_terminal);
    let _ = fs::metadata("").unwrap().mode();
    let _ = fs::metadata("").unwrap().permissions().mode();
    let _ = chown("", None, None);
    let _ = Command::new("").uid(0);
    let _ = std::io::stderr().write(b"");
}
