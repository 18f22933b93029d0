//! The history of a target, and what goes by it: the time of a swap, the way back, the age of
//! generations, which drop has done what; whatever the clocks say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use rustix::process::{Signal, WaitOptions, waitpid};
use serde_json::{Value, json};

use crate::lab::clock;
use crate::lab::world::{
    Daemon, Ended, Needs, PROGRAM, World, manifest, names, snapshot, test, text, until,
};

const TARGET: &str = "amd64/generic/noble/install";
const SIBLING: &str = "amd64/generic/noble/rescue";

const REST: &str = "[limits]\nmin_free_space = \"0B\"\n";
const KEEP_ALL: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";
/// A changed image waits, and quiet comes soon.
const QUIET: &str = "[swap]\nquiet_period = \"300ms\"\nmax_delay = \"1d\"\n";

/// The variable that tells the program at which failpoint to end.
const FAILPOINT: &str = "NETBOOT_PUBLISHER_FAILPOINT";

const FAKETIME: &[Needs] = &[clock::NEEDS];
const FAKETIME_AND_FAILPOINTS: &[Needs] = &[clock::NEEDS, Needs::Failpoints];
const TIME_NAMESPACE: &[Needs] = &[Needs::Root, Needs::Program("unshare")];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "the time of a swap with a folder that somebody else made is the same everywhere",
            &[],
            adopted_time,
        ),
        test(
            "the time of a swap is the same everywhere, and a restart doesn't change it",
            &[],
            || one_time(KEEP_ALL),
        ),
        test(
            "the time of a swap that was held is that of the swap",
            &[],
            || one_time(&format!("{KEEP_ALL}{QUIET}")),
        ),
        test(
            "the history outlives withdrawal and retention, and the folders don't",
            &[],
            outlives,
        ),
        test(
            "folders go only with all that is in them",
            &[],
            folders_in_use_stay,
        ),
        test(
            "a rollback goes to what was replaced though the clock was a day ahead",
            FAKETIME,
            clock_ahead,
        ),
        test(
            "what was superseded in 1970 is as old as that was long ago",
            FAKETIME,
            || superseded_at("-14000d"),
        ),
        test(
            "what was superseded with the clock a day ahead goes in time",
            FAKETIME,
            || superseded_at("+1d"),
        ),
        test(
            "after a boot the age of a generation is that by the wall clock",
            TIME_NAMESPACE,
            after_boot,
        ),
        test(
            "a generation that was current for long stays for min_age after its swap",
            FAKETIME,
            current_for_long,
        ),
        test(
            "without a history a generation is as old as its record",
            &[],
            without_history,
        ),
        test(
            "a drop that was not removed is not done again though the clocks differ",
            FAKETIME_AND_FAILPOINTS,
            two_clocks,
        ),
        test(
            "a drop whose outcome was never written is not done again over a later one",
            &[Needs::Failpoints],
            without_outcome,
        ),
        test(
            "a drop that was swapped in before a crash is known by its claim",
            FAKETIME_AND_FAILPOINTS,
            known_by_its_claim,
        ),
        test(
            "a removal that a crash kept from happening is told once",
            &[Needs::Failpoints],
            removal_cut_short,
        ),
        test(
            "a swap that a crash kept from happening is not in the history",
            &[Needs::Failpoints],
            || no_untrue_line("", &["history", "swap", "tree-sync", "place-record"]),
        ),
        test(
            "a held swap that a crash kept from happening is not in the history",
            &[Needs::Failpoints],
            || no_untrue_line(QUIET, &["history", "swap", "tree-sync", "place-record"]),
        ),
        test(
            "a swap that failed is taken back from the history and made later",
            &[Needs::Failpoints],
            failed,
        ),
        test(
            "a held drop is not swapped in sooner after a restart beyond max_delay",
            &[Needs::Failpoints],
            restarted_beyond_max_delay,
        ),
        test(
            "a machine that comes back while a swap is announced is waited for",
            &[Needs::Failpoints],
            comes_back,
        ),
        test(
            "a generation is found by the beginning of its name and by its digest",
            &[],
            found_by_prefix,
        ),
        test(
            "a rollback to what retention has removed says what that was",
            &[],
            previous_has_gone,
        ),
    ]
}

/// Publishes an image of this text.
fn publish(world: &World, text: &str) -> String {
    world.drop_image(text, TARGET, &[("linux", text.as_bytes())]);
    world.run_once();
    published(world, text)
}

/// As [`publish`], by a daemon under a wall clock that is so much ahead.
fn publish_at(world: &World, offset: &str, text: &str) -> String {
    let mut daemon = Daemon::start(at_another_time(world, offset, &["run"]));
    world.drop_image(text, TARGET, &[("linux", text.as_bytes())]);
    daemon.wait_for_drop(text);
    daemon.stop();
    published(world, text)
}

fn published(world: &World, drop: &str) -> String {
    let outcome = world.assert_outcome(drop, "published");
    outcome["generation"].as_str().unwrap().to_string()
}

/// An order, handed in and seen to.
fn order(world: &World, name: &str, action: &str, expected: &str) -> Value {
    hand_in(world, name, action);
    world.run_once();
    world.assert_outcome(name, expected)
}

fn hand_in(world: &World, name: &str, action: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir(&hidden).unwrap();
    let text = format!("{}{action}", manifest(TARGET));
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    fs::rename(hidden, world.incoming(name)).unwrap();
}

const ROLLBACK: &str = "action = \"rollback\"\n";
const WITHDRAW: &str = "action = \"withdraw\"\n";

/// What machines read by the stable path, if anything.
fn shown(world: &World) -> Option<String> {
    fs::read_to_string(world.published(TARGET).join("linux")).ok()
}

/// The generations of the target that are there.
fn generations(world: &World) -> BTreeSet<String> {
    let names = names(&world.published(&format!("{TARGET}@")));
    let is_generation = |name: &String| !name.ends_with(".toml");
    names.into_iter().filter(is_generation).collect()
}

fn file(world: &World) -> PathBuf {
    world.tree.join(format!(".history/{TARGET}.jsonl"))
}

/// The lines of the history, the oldest first.
fn lines(world: &World) -> Vec<Value> {
    let text = fs::read_to_string(file(world)).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// What each line tells of: event, from, to.
fn events(world: &World) -> Vec<[String; 3]> {
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_string();
    let event = |line: Value| ["event", "from", "to"].map(|key| word(&line, key));
    lines(world).into_iter().map(event).collect()
}

/// Changes the lines of the history.
fn edit(world: &World, change: impl Fn(&mut Value)) {
    let mut lines = lines(world);
    lines.iter_mut().for_each(change);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(file(world), text).unwrap();
}

fn json_of(world: &World, arguments: &[&str]) -> Value {
    let output = world.run(arguments);
    assert!(output.status.success(), "{}\n{world}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The program under a wall clock that is so much ahead.
fn at_another_time(world: &World, offset: &str, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    clock::at_another_time(&mut command, offset);
    command
}

/// The time that an RFC 3339 text tells, in microseconds since 1970.
fn micros(text: &Value) -> i64 {
    let output = Command::new("date")
        .args(["--utc", "+%s%6N", "--date", text.as_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap()
}

fn micros_of(path: &Path) -> i64 {
    let stat = fs::symlink_metadata(path).unwrap();
    stat.mtime() * 1_000_000 + stat.mtime_nsec() / 1_000
}

/// Asserts that the last swap has the same time wherever it is told; returns that.
fn assert_one_time(world: &World) -> i64 {
    let history = json_of(world, &["history", TARGET, "--json"]);
    let status = json_of(world, &["status", "--json"]);
    let catalog = fs::read(world.tree.join("catalog.json")).unwrap();
    let catalog: Value = serde_json::from_slice(&catalog).unwrap();
    let told = &history["events"].as_array().unwrap().last().unwrap()["at"];
    let mut current = history["generations"].as_array().unwrap().iter();
    let current = current.find(|it| it["is_current"] == true).unwrap();
    let others = [
        &current["published_at"],
        &status["targets"][0]["published_at"],
        &catalog["images"][0]["published_at"],
    ];
    assert_eq!(others, [told; 3], "{history:#}\n{world}");
    let at = micros(told);
    assert_eq!(micros_of(&world.published(TARGET)), at, "{world}");
    at
}

fn removal_cut_short() {
    let world = World::with(&format!("{REST}[retention]\nkeep = 0\nmin_age = \"0s\"\n"));
    let one = publish(&world, "one");
    world.drop_image("two", TARGET, &[("linux", b"two")]);
    let mut killed = world.command(&["run", "--once"]);
    let killed = killed.env(FAILPOINT, "vacuum:1:kill").status().unwrap();
    assert_eq!(killed.signal(), Some(9));
    assert!(generations(&world).contains(&one), "{world}");
    world.run_once();
    assert!(!generations(&world).contains(&one), "{world}");
    let told = lines(&world);
    let removed = told.iter().filter(|line| line["event"] == "removed");
    assert_eq!(removed.count(), 1, "{told:#?}");
}

fn adopted_time() {
    let world = World::with(KEEP_ALL);
    fs::create_dir_all(world.published(TARGET)).unwrap();
    fs::write(world.published(TARGET).join("linux"), "by hand").unwrap();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    world.run_once();
    assert_one_time(&world);
}

fn one_time(settings: &str) {
    let figures = tempfile::tempdir().unwrap();
    let textfile = figures.path().join("publisher.prom");
    let world = World::with(&format!("{settings}[metrics]\ntextfile = {textfile:?}\n"));
    let figure = || {
        let text = fs::read_to_string(&textfile).unwrap_or_default();
        let name = "netboot_publisher_last_published_timestamp_seconds ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|seconds| seconds.parse::<f64>().unwrap())
    };
    let has_figure = |at: i64| {
        let seconds = at as f64 / 1e6;
        figure().is_some_and(|figure| (figure - seconds).abs() < 1e-5)
    };
    let mut daemon = world.daemon();
    let mut last = 0;
    for (number, drop) in ["one", "two", "back"].iter().enumerate() {
        let held = (number == 1).then(|| {
            let open = fs::File::open(world.published(TARGET).join("linux")).unwrap();
            let reader = Command::new("sleep").arg("infinity").stdin(open).spawn();
            Ended(reader.unwrap())
        });
        if *drop == "back" {
            hand_in(&world, drop, ROLLBACK);
        } else {
            world.drop_image(drop, TARGET, &[("linux", drop.as_bytes())]);
        }
        let is_held = held.is_some() && settings.contains("[swap]");
        if is_held {
            until("the new generation to be placed", || {
                generations(&world).len() == 2
            });
        }
        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        drop_it(held);
        daemon.wait_for_drop(drop);
        let line = daemon.log.last().unwrap().clone();
        until("the catalog", || {
            let catalog = fs::read_to_string(world.tree.join("catalog.json")).unwrap_or_default();
            let pointer = fs::read_link(world.published(TARGET)).unwrap();
            let shown = pointer.file_name().unwrap().to_str().unwrap().to_string();
            let told = lines(&world).last().unwrap()["at"].to_string();
            catalog.contains(&shown) && catalog.contains(&told)
        });
        let at = assert_one_time(&world);
        assert!(at > last, "{line}");
        let word = if *drop == "back" {
            "rolled-back"
        } else {
            "published"
        };
        assert!(line.contains(&format!(" {word} target=")), "{line}");
        let count = if *drop == "two" { 2 } else { 1 };
        let figure = format!("outcomes_total{{outcome=\"{word}\",reason=\"\"}} {count}\n");
        until("the outcome in the figures", || {
            fs::read_to_string(&textfile).is_ok_and(|text| text.contains(&figure))
        });
        if is_held {
            let before = i64::try_from(before.unwrap().as_micros()).unwrap();
            assert!(at >= before, "the swap was made later: {line}");
        }
        until("the figure", || has_figure(at));
        last = at;
    }
    daemon.stop();
    fs::remove_file(&textfile).unwrap();
    let daemon = world.daemon();
    until("the figure after a restart", || has_figure(last));
    daemon.stop();
    assert_eq!(assert_one_time(&world), last);
}

fn drop_it<T>(it: T) {
    drop(it);
}

fn outlives() {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"0s\"\nkeep = 0\n"));
    let [one, two] = ["one", "two"].map(|text| publish(&world, text));
    order(&world, "gone", WITHDRAW, "withdrawn");
    until("all of the target to go", || {
        world.run_once();
        !world.tree.join("amd64").exists()
    });
    let event = |event: &str, from: &str, to: &str| [event, from, to].map(String::from);
    let expected = [
        event("published", "-", &one),
        event("published", &one, &two),
        event("removed", &one, "-"),
        event("withdrawn", &two, "-"),
        event("removed", &two, "-"),
    ];
    assert_eq!(events(&world), expected, "{world}");
    let mode = fs::metadata(file(&world)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o644);
    let history = json_of(&world, &["history", TARGET, "--json"]);
    assert_eq!(history["generations"], json!([]));
    assert_eq!(history["events"], Value::from(lines(&world)));
    let of_drop = &history["events"][3];
    assert_eq!(of_drop["drop"], "gone");
    assert_eq!(of_drop["image"]["bytes"], 3);
    assert_eq!(of_drop["claim"], world.outcome("gone").unwrap()["claim"]);
    let shown = text(&world.run(&["history", TARGET]));
    for word in ["withdrawn", "removed", &one, "drop gone"] {
        assert!(shown.contains(word), "{shown}");
    }
    order(&world, "late", ROLLBACK, "rejected unknown-target");
    assert!(!world.tree.join("amd64").exists(), "{world}");
    // It goes on where it was.
    let three = publish(&world, "three");
    let expected = [&expected[..], &[event("published", "-", &three)]].concat();
    assert_eq!(events(&world), expected);
}

fn folders_in_use_stay() {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"0s\"\nkeep = 0\n"));
    let withdraw = |name: &str| {
        publish(&world, name);
        order(&world, &format!("{name}-gone"), WITHDRAW, "withdrawn");
        world.run_once();
    };
    world.drop_image("rescue", SIBLING, &[("linux", b"rescue")]);
    withdraw("one");
    let release = world.published("amd64/generic/noble");
    assert_eq!(names(&release), ["rescue", "rescue@"], "{world}");
    // Somebody else's file, beside the generations, and further up.
    for (number, place) in [format!("{TARGET}@"), "amd64/generic".into()]
        .iter()
        .enumerate()
    {
        let note = world.published(place).join("note");
        fs::create_dir_all(note.parent().unwrap()).unwrap();
        fs::write(&note, "mine").unwrap();
        withdraw(&format!("again-{number}"));
        assert_eq!(fs::read(&note).unwrap(), b"mine", "{world}");
        fs::remove_file(&note).unwrap();
    }
    // A drop that could not be swapped in leaves nothing of its folders either.
    fs::remove_dir_all(world.published(&format!("{TARGET}@"))).unwrap_or_default();
    assert_eq!(names(&release), ["rescue", "rescue@"], "{world}");
}

fn clock_ahead() {
    let world = World::with(KEEP_ALL);
    let one = publish(&world, "one");
    let two = publish_at(&world, "+1d", "two");
    let three = publish(&world, "three");
    assert!(two > three, "the clock was ahead: {two}, {three}");
    let outcome = order(&world, "back", ROLLBACK, "rolled-back");
    assert_eq!(outcome["generation"], *two, "{world}");
    assert_eq!(shown(&world).as_deref(), Some("two"));
    order(&world, "gone", WITHDRAW, "withdrawn");
    let outcome = order(&world, "again", ROLLBACK, "rolled-back");
    assert_eq!(outcome["generation"], *two, "{world}");
    let to_one = format!("{ROLLBACK}to = {one:?}\n");
    order(&world, "to-one", &to_one, "rolled-back");
    let outcome = order(&world, "forth", ROLLBACK, "rolled-back");
    assert_eq!(outcome["generation"], *two, "{world}");
    world.assert_at_rest();
}

/// A generation is superseded while the wall clock is far off; then the clock is right again.
fn superseded_at(offset: &str) {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"24h\"\nkeep = 0\n"));
    let one = publish(&world, "one");
    let two = publish_at(&world, offset, "two");
    world.run_once();
    let both = BTreeSet::from([one.clone(), two.clone()]);
    assert_eq!(generations(&world), both, "kept\n{world}");
    // A day passes.
    edit(&world, |line| {
        let passed = 86_400_000_000_i64;
        line["boottime"] = (line["boottime"].as_i64().unwrap() - passed).max(0).into();
    });
    let begin = lines(&world).last().unwrap()["boottime"].as_u64().unwrap();
    let is_day_old = begin > 0 || uptime() > Duration::from_secs(86_400);
    world.run_once();
    assert_eq!(generations(&world).contains(&one), !is_day_old, "{world}");
}

/// The time since the boot.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// Drains the spool as if the machine had been booted so long ago.
fn booted(world: &World, ago: Duration) -> Output {
    let offset = i64::try_from(ago.as_secs()).unwrap() - i64::try_from(uptime().as_secs()).unwrap();
    let output = Command::new("unshare")
        .args([
            "--time",
            "--boottime",
            &offset.to_string(),
            "--fork",
            PROGRAM,
        ])
        .args(["run", "--once", "--config"])
        .arg(&world.config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{world}", text(&output));
    output
}

fn after_boot() {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"1h\"\nkeep = 0\n"));
    let one = publish(&world, "one");
    let two = publish(&world, "two");
    let superseded = |at: &str, boot: Option<&str>| {
        edit(&world, |line| {
            line["at"] = at.into();
            line["boot"] = boot.map_or(line["boot"].clone(), Value::from);
        });
    };
    let has = |name: &str| generations(&world).contains(name);
    let (minute, hours) = (Duration::from_secs(60), Duration::from_secs(7_200));
    let other = Some("0d5e1c6b-7a35-4b2e-9c55-3c2f5a3f1e77");
    superseded("2001-01-01T00:00:00Z", None);
    booted(&world, hours);
    assert!(
        has(&one),
        "in this boot the wall clock counts for nothing\n{world}"
    );
    superseded("2001-01-01T00:00:00Z", other);
    booted(&world, minute);
    assert!(has(&one), "the wall clock may not have been set\n{world}");
    let log = text(&booted(&world, hours));
    assert!(!has(&one) && has(&two), "{world}");
    let told = log
        .lines()
        .find(|line| line.contains("removed, no longer kept"));
    let told = told.unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains(TARGET) && told.contains(&one), "{log}");

    // What lies in the future is as old as the boot, at least.
    publish(&world, "three");
    superseded("2999-01-01T00:00:00Z", other);
    booted(&world, minute * 50);
    assert!(has(&two), "{world}");
    booted(&world, hours);
    assert!(!has(&two), "{world}");
    world.assert_at_rest();
}

fn current_for_long() {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"1h\"\nkeep = 0\n"));
    let one = publish_at(&world, "-30d", "one");
    let record = world
        .published(&format!("{TARGET}@"))
        .join(format!("{one}.toml"));
    let month_ago = SystemTime::now() - Duration::from_secs(30 * 86_400);
    let record = fs::File::open(record).unwrap();
    record.set_modified(month_ago).unwrap();
    let two = publish(&world, "two");
    world.run_once();
    let both = BTreeSet::from([one, two]);
    assert_eq!(generations(&world), both, "{world}");
}

fn without_history() {
    // Shorter than any machine takes from its boot to this test.
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"2m\"\nkeep = 1\n"));
    let all = ["one", "two", "three"].map(|text| publish(&world, text));
    fs::remove_file(file(&world)).unwrap();
    let set_back = |name: &str, hours: u64| {
        let record = world
            .published(&format!("{TARGET}@"))
            .join(format!("{name}.toml"));
        let at = SystemTime::now() - Duration::from_secs(hours * 3_600);
        fs::File::open(record).unwrap().set_modified(at).unwrap();
    };
    world.run_once();
    assert_eq!(generations(&world).len(), 3, "all are young\n{world}");
    set_back(&all[0], 2);
    set_back(&all[1], 3);
    world.run_once();
    let expected = BTreeSet::from([all[0].clone(), all[2].clone()]);
    assert_eq!(
        generations(&world),
        expected,
        "the oldest record goes\n{world}"
    );
    let outcome = order(&world, "back", ROLLBACK, "rejected unknown-generation");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.contains("expected a generation"), "{detail}");
}

/// Runs the daemon under another clock, and hands in drops, until a failpoint kills it.
fn killed_at(world: &World, offset: &str, failpoint: &str, hand_in: impl FnOnce()) {
    let mut command = at_another_time(world, offset, &["run"]);
    command.env(FAILPOINT, failpoint);
    let mut daemon = Daemon::start(command);
    hand_in();
    assert_eq!(daemon.wait().signal(), Some(9), "{:?}", daemon.log);
}

/// Everything beneath the tree, but for what listeners write once an outcome is known.
fn images(world: &World) -> BTreeMap<PathBuf, String> {
    let mut tree = snapshot(&world.tree);
    let is_image = |path: &Path| {
        let below = path.strip_prefix(&world.tree).unwrap();
        below.starts_with("amd64") || below.starts_with(".history")
    };
    tree.retain(|path, _| is_image(path));
    assert!(tree.len() > 10, "{world}");
    tree
}

fn two_clocks() {
    for offset in ["-30s", "+30s", "-1d", "+1d"] {
        let world = World::with(KEEP_ALL);
        let drops = ["older", "newer"];
        let mut command = at_another_time(&world, offset, &["run"]);
        command.env(FAILPOINT, "remove:1:hang");
        let mut daemon = Daemon::start(command);
        for name in drops {
            world.drop_image(name, TARGET, &[("linux", name.as_bytes())]);
            daemon.wait_for_drop(name);
        }
        daemon.kill();
        assert_eq!(shown(&world).as_deref(), Some("newer"), "{offset}\n{world}");
        let left = world.names("processing").concat();
        assert!(left.contains("older"), "{world}");
        let before = images(&world);
        let outcomes = drops.map(|name| world.outcome(name));
        world.run_once();
        assert_eq!(images(&world), before, "{offset}");
        assert_eq!(drops.map(|name| world.outcome(name)), outcomes);
        world.assert_at_rest();
    }
}

/// There was no room for an outcome, and later drops came after all the same.
fn without_outcome() {
    let world = World::with(KEEP_ALL);
    let mut command = world.command(&["run"]);
    command.env(FAILPOINT, "remove:1:hang");
    let mut daemon = Daemon::start(command);
    world.drop_image("older", TARGET, &[("linux", b"older")]);
    let expected = daemon.wait_for_drop("older");
    hand_in(&world, "newer", WITHDRAW);
    daemon.wait_for_drop("newer");
    daemon.kill();
    let written = world.outcome("older").unwrap();
    fs::remove_file(world.outcome_file("older")).unwrap();
    let before = images(&world);
    world.run_once();
    assert_eq!(images(&world), before, "{expected:?}");
    let outcome = world.assert_outcome("older", "published");
    for key in ["claim", "generation", "digest"] {
        assert_eq!(outcome[key], written[key]);
    }
    world.assert_at_rest();
}

fn known_by_its_claim() {
    let actions = [
        ("", "published"),
        (ROLLBACK, "rolled-back"),
        (WITHDRAW, "withdrawn"),
    ];
    for (action, word) in actions {
        for (offset, again) in [
            ("+1d", "+0d"),
            ("-1d", "+0d"),
            ("+0d", "-1d"),
            ("+0d", "+1d"),
        ] {
            let world = World::with(KEEP_ALL);
            let [one, two] = ["one", "two"].map(|text| publish(&world, text));
            killed_at(&world, offset, "outcome:1:kill", || {
                if action.is_empty() {
                    world.drop_image("drop", TARGET, &[("linux", b"three")]);
                } else {
                    hand_in(&world, "drop", action);
                }
            });
            assert_eq!(world.outcome("drop"), None, "{world}");
            let (before, told) = (images(&world), lines(&world));
            let swap = told.last().unwrap();
            let output = at_another_time(&world, again, &["run", "--once"]).output();
            assert!(output.unwrap().status.success(), "{world}");
            let outcome = world.assert_outcome("drop", word);
            assert_eq!(outcome["claim"], swap["claim"]);
            assert_eq!(outcome["digest"], swap["image"]["digest"]);
            let expected = match word {
                "published" => swap["to"].as_str().unwrap(),
                "rolled-back" => &one,
                _ => &two,
            };
            assert_eq!(outcome["generation"], expected, "{offset} {again}");
            assert_eq!(lines(&world), told, "{world}");
            assert_eq!(images(&world), before, "{offset} {again} {word}");
            world.assert_at_rest();
        }
    }
}

/// Kills a daemon at each of these places, each time that it is reached; what the history tells
/// afterwards is what has happened.
fn no_untrue_line(swap: &str, places: &[&str]) {
    for place in places {
        let mut kills = 0;
        for nth in 1.. {
            let world = World::with(&format!("{KEEP_ALL}{swap}"));
            let [one, two] = ["one", "two"].map(|text| publish(&world, text));
            let adopted = "amd64/generic/noble/adopted";
            fs::create_dir_all(world.published(adopted)).unwrap();
            fs::write(world.published(adopted).join("linux"), "by hand").unwrap();
            world.drop_image("adopt", adopted, &[("linux", b"adopt")]);
            world.drop_image("three", TARGET, &[("linux", b"three")]);
            let mut command = world.command(&["run", "--once"]);
            let failpoint = format!("{place}:{nth}:kill");
            let output = command.env(FAILPOINT, &failpoint).output().unwrap();
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{}", text(&output));
            kills += 1;
            // A start that can't go on with the drops shows what a start alone makes of the history.
            let twice = [0, 1].map(|_| {
                let mut command = world.command(&["run", "--once"]);
                let output = command.env(FAILPOINT, "publisher:1:kill").output().unwrap();
                assert_eq!(output.status.signal(), Some(9), "{}", text(&output));
                let last = events(&world).pop().unwrap();
                let pointer = fs::read_link(world.published(TARGET)).unwrap();
                assert!(pointer.ends_with(&last[2]), "{last:?} {pointer:?}\n{world}");
                let of_adopted = world.tree.join(format!(".history/{adopted}.jsonl"));
                let text = fs::read_to_string(of_adopted).unwrap_or_default();
                let is_adopted = world.published(adopted).is_symlink();
                assert_eq!(
                    text.lines().count(),
                    if is_adopted { 2 } else { 0 },
                    "{text}\n{world}"
                );
                (events(&world), text)
            });
            assert_eq!(twice[0], twice[1], "{failpoint}: two starts");
            world.run_once();
            let three = world.assert_outcome("three", "published");
            let three = three["generation"].as_str().unwrap();
            let expected = [["published", "-", &one], ["published", &one, &two]];
            let expected = [&expected[..], &[["published", &two, three]]].concat();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|it| it.map(String::from))
                .collect();
            assert_eq!(events(&world), expected, "{failpoint}\n{world}");
            assert_eq!(
                micros_of(&world.published(TARGET)),
                micros(&lines(&world)[2]["at"])
            );
            world.assert_outcome("adopt", "published");
            world.assert_at_rest();
        }
        assert!(kills > 0, "{place} was never reached");
    }
}

fn failed() {
    for place in ["swap", "history"] {
        let world = World::with(KEEP_ALL);
        let one = publish(&world, "one");
        let mut command = world.command(&["run"]);
        command.env(FAILPOINT, format!("{place}:1:fail"));
        let mut daemon = Daemon::start(command);
        world.drop_image("two", TARGET, &[("linux", b"two")]);
        daemon.wait_for("Input/output error");
        daemon.wait_for_drop("two");
        let two = world.assert_outcome("two", "published");
        let two = two["generation"].as_str().unwrap();
        let expected = [["published", "-", &one], ["published", &one, two]];
        let expected: Vec<_> = expected.map(|it| it.map(String::from)).into();
        assert_eq!(events(&world), expected, "{place}\n{world}");
        daemon.stop();
        world.assert_at_rest();
    }
}

fn restarted_beyond_max_delay() {
    let swap = "[swap]\nquiet_period = \"500ms\"\nmax_delay = \"1s\"\n";
    let world = World::with(&format!("{KEEP_ALL}{swap}"));
    publish(&world, "one");
    let mut command = world.command(&["run"]);
    // The swap is announced there.
    command.env(FAILPOINT, "history:1:hang");
    let daemon = Daemon::start(command);
    world.drop_image("two", TARGET, &[("linux", b"two")]);
    until("the new generation to be placed", || {
        generations(&world).len() == 2
    });
    daemon.kill();
    assert_eq!(shown(&world).as_deref(), Some("one"), "{world}");
    let processing = world.spool.join("processing");
    let claimed = processing.join(&names(&processing)[0]);
    until("max_delay to be over", || {
        let changed = fs::metadata(&claimed).unwrap().ctime();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed.unsigned_abs());
        changed
            .elapsed()
            .is_ok_and(|age| age > Duration::from_secs(4))
    });
    let mut daemon = world.daemon();
    daemon.wait_for_drop("two");
    world.assert_outcome("two", "published");
    let log = daemon.stop().join("\n");
    assert!(
        !log.contains("though machines use"),
        "no machine does:\n{log}"
    );
}

fn comes_back() {
    let world = World::with(&format!("{KEEP_ALL}{QUIET}"));
    let one = publish(&world, "one");
    world.drop_image("rescue", SIBLING, &[("linux", b"rescue")]);
    world.run_once();
    let mut command = world.command(&["run"]);
    command.env(FAILPOINT, "history:1:stop");
    let mut daemon = Daemon::start(command);
    world.drop_image("two", TARGET, &[("linux", b"two")]);
    // The daemon stops itself when it is about to announce the swap.
    let stopped = waitpid(Some(daemon.pid()), WaitOptions::UNTRACED).unwrap();
    assert!(
        stopped.is_some_and(|(_, status)| status.stopped()),
        "{stopped:?}"
    );
    let linux = fs::File::open(world.published(TARGET).join("linux")).unwrap();
    let reader = Command::new("sleep").arg("infinity").stdin(linux).spawn();
    let reader = Ended(reader.unwrap());
    daemon.signal(Signal::CONT);
    // Others are swapped meanwhile, after a wait as long.
    for name in ["rescue-1", "rescue-2"] {
        world.drop_image(name, SIBLING, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(name);
    }
    assert_eq!(shown(&world).as_deref(), Some("one"), "{world}");
    assert_eq!(
        events(&world).len(),
        1,
        "the announcement is taken back\n{world}"
    );
    drop(reader);
    daemon.wait_for_drop("two");
    let two = published(&world, "two");
    let expected = [["published", "-", &one], ["published", &one, &two]];
    assert_eq!(events(&world), expected.map(|it| it.map(String::from)));
    let log = daemon.stop().join("\n");
    assert!(!log.contains("though machines use"), "{log}");
    world.assert_at_rest();
}

fn found_by_prefix() {
    let world = World::with(KEEP_ALL);
    let [one, _, three] = ["one", "two", "three"].map(|text| publish(&world, text));
    let digest = world.outcome("one").unwrap()["digest"]
        .as_str()
        .unwrap()
        .to_string();
    let to = |name: &str, to: &str, expected: &str| {
        order(&world, name, &format!("{ROLLBACK}to = {to:?}\n"), expected)
    };
    assert_eq!(to("name", &one, "rolled-back")["generation"], *one);
    assert_eq!(
        to("part", &three[..24], "rolled-back")["generation"],
        *three
    );
    assert_eq!(
        to("digits", &digest[..12], "rolled-back")["generation"],
        *one
    );
    assert_eq!(to("digest", &digest, "unchanged")["generation"], *one);
    let other = format!("{}{}", &digest[..12], "0".repeat(20));
    let outcome = to("other", &other, "rejected unknown-generation");
    let expected = format!("{TARGET} keeps no generation {other}; expected one that is kept");
    assert_eq!(outcome["detail"], expected);
    let outcome = to("any", "2", "rejected unknown-generation");
    let expected = format!("2 may be any of 3 generations of {TARGET}; expected more of its name");
    assert_eq!(outcome["detail"], expected);
    let outcome = to("bad", &digest[..11], "rejected bad-manifest");
    assert!(
        outcome["detail"].as_str().unwrap().contains("`to`"),
        "{outcome}"
    );
    let daemon = world.daemon();
    let output = world.run(&["rollback", TARGET, "--to", &three[..24], "--wait=100"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    daemon.stop();
    assert_eq!(shown(&world).as_deref(), Some("three"), "{world}");
}

fn previous_has_gone() {
    let world = World::with(&format!("{REST}[retention]\nmin_age = \"0s\"\nkeep = 0\n"));
    let [one, _] = ["one", "two"].map(|text| publish(&world, text));
    world.run_once();
    assert_eq!(generations(&world).len(), 1, "{world}");
    let outcome = order(&world, "back", ROLLBACK, "rejected unknown-generation");
    let expected = format!(
        "{TARGET} keeps no generation {one}, which was current before; expected one that is kept"
    );
    assert_eq!(outcome["detail"], expected);
}
