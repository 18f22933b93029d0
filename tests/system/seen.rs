//! What admins and importers see of drops, targets and generations: whole texts, on terminals of two
//! widths and where there is none.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::terminal::{on_terminal, steady};
use crate::lab::world::{Daemon, Needs, PROGRAM, World, manifest, output, own, test, text, until};

pub const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/rpi4/trixie/rescue";

/// A user that is neither root nor the daemon's.
const IMPORTER: u32 = 4_711;

/// A drop as `submit` calls it.
const LONG: &str = "20261122T161500.250000Z-amd64-generic-noble-install-0123456789";

/// Nothing that replaces something is swapped in, and nothing that is written in place is whole.
pub const NOTHING_ENDS: &str = "#spool incomplete_timeout = \"2d\"\n[limits]\n\
    min_free_space = \"0B\"\n[swap]\nquiet_period = \"1d\"\nmax_delay = \"2d\"\n";

pub fn tests() -> Vec<Trial> {
    let mut tests = of_status();
    tests.extend(of_one());
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
            "bash completes targets, generations and drops",
            &[Needs::Program("bash"), Needs::Program("awk")],
            bash_completes,
        ),
        test("history fits the terminal", &[Needs::Root], history_fits),
    ]
}

/// The text that a command shows on a terminal of so many columns; in a pipe without any.
#[track_caller]
pub fn shown(world: &World, columns: Option<u16>, arguments: &[&str]) -> String {
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
pub fn assert_shown(world: &World, columns: Option<u16>, arguments: &[&str], expected: &str) {
    let shown = shown(world, columns, arguments);
    assert_eq!(
        shown, expected,
        "at {columns:?}:\n{shown}instead of\n{expected}"
    );
}

pub fn json(world: &World, arguments: &[&str]) -> Value {
    let output = world.run(arguments);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What waits and has this name.
pub fn waiting(world: &World, drop: &str) -> Value {
    let status = json(world, &["status", "--json"]);
    let drops = status["waiting"].as_array().unwrap();
    let found = drops.iter().find(|it| it["drop"] == drop);
    found.cloned().unwrap_or_default()
}

pub fn wait_for_state(world: &World, drop: &str, state: &str) -> Value {
    until(&format!("{drop} to be {state}"), || {
        waiting(world, drop)["state"] == state
    });
    waiting(world, drop)
}

/// Five and a half days ago.
fn long_ago() -> String {
    let ago = SystemTime::now() - Duration::from_secs(5 * 86_400 + 43_200);
    let seconds = ago
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
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
    let text = format!(
        "{before}{key}{gap}{}{}",
        long_ago(),
        &rest["26-11-22T16:15:00.250000Z".len()..]
    );
    fs::write(file, text).unwrap();
}

/// Two targets published long ago, one drop rejected then.
pub fn settled(settings: &str) -> (World, [String; 2]) {
    let world = World::with(settings);
    let versioned = format!("{}version = \"2026-11-22 (GA)\"\n", manifest(TARGET));
    world.drop_with("first", &versioned, |image| {
        fs::write(image.join("linux"), [1; 2_047]).unwrap();
        fs::write(image.join("initrd.gz"), b"\x1f\x8b").unwrap();
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
    let settings = fs::read_to_string(&world.config).unwrap();
    let settings = settings.replace("settle = \"300ms\"", "settle = \"1d\"");
    fs::write(&world.config, settings).unwrap();
    let daemon = world.daemon();
    world.drop_image("held", TARGET, &[("linux", b"new")]);
    wait_for_state(&world, "held", "held");
    world.drop_image(LONG, TARGET, &[("linux", b"newer")]);
    wait_for_state(&world, LONG, "behind");
    fs::create_dir(world.incoming("begun")).unwrap();
    wait_for_state(&world, "begun", "incomplete");
    fs::create_dir(world.incoming(".draft")).unwrap();
    (world, daemon, generations)
}

fn status_shows_everything() {
    let (world, daemon, [a, b]) = eventful();
    let history = shown(&world, None, &["history", TARGET]);
    assert_eq!(history.matches("not yet in").count(), 1, "{history}");
    let wide = format!(
        "\
TARGET                       GENERATION                     VERSION          AGE    SIZE
amd64/generic/noble/install  {a}  2026-11-22 (GA)  AGE    2.0 KiB
arm64/rpi4/trixie/rescue     {b}  -                AGE    6 B

WAITING                                                         TARGET                       IMPORTER  SINCE  WHY
held                                                            amd64/generic/noble/install  root      AGE    quiet period, at most AGE
{LONG}  amd64/generic/noble/install  root      AGE    behind held
begun                                                           -                            root      AGE    incomplete: no manifest.toml, rejected in AGE

REJECTED  TARGET                    IMPORTER  AGE    REASON
empty     arm64/rpi4/trixie/rescue  root      AGE    empty-image: image/ holds no regular file

NOT HANDED OVER  IMPORTER  AGE
.draft           root      AGE
"
    );
    assert_shown(&world, None, &["status"], &wide);
    assert_shown(&world, Some(160), &["status"], &wide);
    let narrow = format!(
        "\
TARGET                      GENERATION              VERSION       AGE    SIZE
amd64/generic/noble/insta…  {}…  2026-11-22 …  AGE    2.0 KiB
arm64/rpi4/trixie/rescue    {}…  -             AGE    6 B

WAITING          TARGET          IMPORTER  SINCE  WHY
held             amd64/generic…  root      AGE    quiet period, at most AGE
20261122T16150…  amd64/generic…  root      AGE    behind held
begun            -               root      AGE    incomplete: no manifest.toml,…

REJECTED  TARGET              IMPORTER  AGE    REASON
empty     arm64/rpi4/trixie…  root      AGE    empty-image: image/ holds no reg…

NOT HANDED OVER  IMPORTER  AGE
.draft           root      AGE
",
        &a[..21],
        &b[..21]
    );
    assert_shown(&world, Some(80), &["status"], &narrow);
    daemon.stop();
}

fn status_without_a_daemon() {
    let (world, daemon, _) = eventful();
    let expected = |note: &str| {
        format!(
            "\
WAITING                                                         TARGET  IMPORTER  SINCE  WHY
held                                                            -       root      AGE    claimed
{LONG}  -       root      AGE    incoming
begun                                                           -       root      AGE    incoming

REJECTED  TARGET                    IMPORTER  AGE    REASON
empty     arm64/rpi4/trixie/rescue  root      AGE    empty-image: image/ holds no regular file

NOT HANDED OVER  IMPORTER  AGE
.draft           root      AGE

{note}
"
        )
    };
    let below = || {
        let shown = shown(&world, None, &["status"]);
        shown.split_once("\n\n").unwrap().1.to_string()
    };
    daemon.signal(Signal::STOP);
    let note = "the daemon doesn't answer: why drops wait isn't known";
    assert_eq!(below(), expected(note));
    daemon.signal(Signal::CONT);
    daemon.stop();
    let note = "the daemon isn't running: drops wait until it is";
    assert_eq!(below(), expected(note));
    // A daemon that was killed leaves its socket.
    world.daemon().kill();
    assert_eq!(below(), expected(note));
}

fn status_of_some() {
    let (world, daemon, [a, _]) = eventful();
    let disk = || {
        let generations = world.published(&format!("{TARGET}@"));
        let output = output(
            Command::new("du")
                .args(["--summarize", "--block-size=1"])
                .arg(generations),
        );
        let bytes = String::from_utf8(output.stdout).unwrap();
        bytes
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let status = json(&world, &["status", "--json", TARGET]);
    let used = &status["targets"][0]["disk"];
    let bytes = |key: &str| used[key].as_u64().unwrap();
    assert_eq!(
        bytes("own") + bytes("shared"),
        disk(),
        "{status:#}\n{world}"
    );
    assert_eq!(bytes("shared"), 0, "{status:#}");
    let own = format!("{:.1} KiB", bytes("own") as f64 / 1_024.0);
    let wide = format!(
        "\
TARGET                       GENERATION                     VERSION          AGE    SIZE     {:own_width$}  SHARED
amd64/generic/noble/install  {a}  2026-11-22 (GA)  AGE    2.0 KiB  {own}  0 B

WAITING                                                         TARGET                       IMPORTER  SINCE  WHY
held                                                            amd64/generic/noble/install  root      AGE    quiet period, at most AGE
{LONG}  amd64/generic/noble/install  root      AGE    behind held
",
        "OWN",
        own_width = own.len()
    );
    assert_shown(&world, Some(160), &["status", "amd*/*/noble/*"], &wide);
    let narrow = shown(&world, Some(80), &["status", TARGET]);
    assert!(narrow.lines().next().unwrap().contains(" OWN "), "{narrow}");
    daemon.stop();

    // A file that two generations share counts once.
    let world = World::new();
    let large = vec![1; 100_000];
    world.drop_image("one", TARGET, &[("linux", b"1"), ("initrd.gz", &large)]);
    world.run_once();
    world.drop_image("two", TARGET, &[("linux", b"2"), ("initrd.gz", &large)]);
    world.run_once();
    let initrd = fs::metadata(world.published(TARGET).join("initrd.gz")).unwrap();
    let status = json(&world, &["status", "--json", "*/*/*/*"]);
    let shared = &status["targets"][0]["disk"]["shared"];
    assert_eq!(*shared, initrd.blocks() * 512, "{status:#}");
    // What nobody has heard of is an error.
    for (meant, said) in [
        (OTHER, format!("no such target: {OTHER}")),
        ("*/*/*/rescue", "no target matches */*/*/rescue".to_string()),
    ] {
        for command in ["status", "verify"] {
            let output = world.run(&[command, meant]);
            let stderr = String::from_utf8(output.stderr).unwrap();
            let found = (output.status.code(), stderr);
            assert_eq!(found, (Some(1), format!("netboot-publisher: {said}\n")));
        }
    }
    let verified = json(&world, &["verify", "--json", "amd64/*/*/*"]);
    assert_eq!(verified["targets"], 1, "{verified:#}");
}

fn status_for_programs() {
    let (world, daemon, [a, b]) = eventful();
    let status = json(&world, &["status", "--json"]);
    assert_eq!(status["daemon"], "running", "{status:#}");
    let targets = &status["targets"];
    for (number, (target, generation, bytes)) in
        [(TARGET, a, 2_049), (OTHER, b, 6)].into_iter().enumerate()
    {
        let shown = &targets[number];
        assert_eq!(shown["target"], target, "{status:#}");
        assert_eq!(shown["generation"], generation, "{status:#}");
        assert_eq!(shown["bytes"], bytes, "{status:#}");
        assert!(shown.get("disk").is_none(), "{status:#}");
    }
    let root = serde_json::json!({"uid": 0, "name": "root"});
    let of = |list: &str, keys: [&str; 4]| -> Vec<Vec<Value>> {
        let all = status[list].as_array().unwrap().iter();
        all.map(|it| keys.map(|key| it[key].clone()).to_vec())
            .collect()
    };
    let expected = serde_json::json!([
        ["held", TARGET, root, "held"],
        [LONG, TARGET, root, "behind"],
        ["begun", null, root, "incomplete"],
    ]);
    let waiting = of("waiting", ["drop", "target", "importer", "state"]);
    assert_eq!(serde_json::json!(waiting), expected, "{status:#}");
    let drafts = of("drafts", ["drop", "target", "importer", "state"]);
    assert_eq!(
        serde_json::json!(drafts),
        serde_json::json!([[".draft", null, root, "draft"]])
    );
    let rejected = of("rejected", ["drop", "target", "importer", "reason"]);
    let expected = serde_json::json!([["empty", OTHER, root, "empty-image"]]);
    assert_eq!(serde_json::json!(rejected), expected, "{status:#}");
    let counts = [&status["rejected_count"], &status["others_waiting"]];
    assert_eq!(counts, [1, 0], "{status:#}");
    // A damaged record is shown as such.
    let record = world.published(OTHER).canonicalize().unwrap();
    fs::write(format!("{}.toml", record.display()), "x").unwrap();
    let shown = shown(&world, None, &["status", OTHER]);
    assert!(shown.contains("  ?        ?    ?     "), "{shown}");
    daemon.stop();
}

/// The program, run by somebody else: the build's folder may be closed to others.
pub fn by_importer(world: &World, program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).arg("--config").arg(&world.config);
    output(command.uid(IMPORTER).gid(IMPORTER))
}

fn status_of_an_importer() {
    let (world, daemon, _) = eventful();
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = world.root.join("program");
    fs::copy(PROGRAM, &copy).unwrap();
    // As the package makes the spool.
    for (folder, mode) in [
        ("incoming", 0o1733),
        ("processing", 0o700),
        ("rejected", 0o700),
    ] {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(world.spool.join(folder), mode).unwrap();
    }
    world.drop_with("theirs", &manifest("no/such/target/yet"), |_| {});
    let hidden = world.incoming(".own");
    fs::create_dir(&hidden).unwrap();
    chown(&hidden, Some(IMPORTER), Some(IMPORTER)).unwrap();
    fs::rename(&hidden, world.incoming("own")).unwrap();
    let state = |drop: &str| waiting(&world, drop)["state"].clone();
    until("the importer's drop to be seen", || {
        state("own") == "incomplete"
    });
    until("the other drop to be rejected", || {
        world.outcome("theirs").is_some()
    });
    let bad = world.incoming(".bad");
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("manifest.toml"), "x").unwrap();
    own(&bad, IMPORTER);
    fs::rename(&bad, world.incoming("bad")).unwrap();
    until("the bad drop to be rejected", || {
        world.outcome("bad").is_some()
    });

    // What was rejected is still told of for a moment.
    until("nothing else to wait", || {
        let status = json(&world, &["status", "--json"]);
        status["waiting"].as_array().unwrap().len() == 4
    });
    let output = by_importer(&world, &copy, &["status"]);
    assert!(output.status.success(), "{}", text(&output));
    let shown = steady(&String::from_utf8(output.stdout).unwrap());
    let expected = "\
WAITING  TARGET  IMPORTER  SINCE  WHY
own      -       4711      AGE    incomplete: no manifest.toml, rejected in AGE

3 drops of other importers on the way

REJECTED  TARGET  IMPORTER  AGE  REASON
bad       -       4711      AGE  bad-manifest: key with no value, expected `=`

not for this user to read: incoming, processing, rejected; of drops only its own are shown
";
    let (_, below) = shown.split_once("\n\n").unwrap();
    assert_eq!(below.replace("AGE   bad", "AGE  bad"), expected);
    // One's own drop is found by its whole name.
    let shows = |drop: &str| {
        let output = by_importer(&world, &copy, &["show", drop]);
        (
            output.status.code(),
            steady(&String::from_utf8(output.stdout).unwrap()),
        )
    };
    let own = "\
own
     Place: incoming/own
    Target: not known yet
  Importer: 4711
     Since: 0000-00-00T00:00:00Z (AGE ago)
       Why: incomplete: no manifest.toml, rejected in AGE
";
    assert_eq!(shows("own"), (Some(0), own.to_string()));
    assert_eq!(shows("nobody's").0, Some(1));
    daemon.stop();
}

fn many_are_rejected() {
    let world = World::new();
    for number in 0..13 {
        world.drop_image(&format!("bad-{number:02}"), TARGET, &[]);
    }
    world.run_once();
    let shown = shown(&world, None, &["status"]);
    let rows: Vec<_> = shown
        .lines()
        .filter(|line| line.starts_with("bad-"))
        .collect();
    assert_eq!(rows.len(), 10, "{shown}");
    assert!(
        rows[0].starts_with("bad-12 ") && rows[9].starts_with("bad-03 "),
        "{shown}"
    );
    let more = "\nand 3 more; `status --json` has all, `show DROP` tells of one\n";
    assert!(shown.contains(more), "{shown}");
    let status = json(&world, &["status", "--json"]);
    assert_eq!(
        status["rejected"].as_array().unwrap().len(),
        13,
        "{status:#}"
    );
}

const MANIFEST: &str = "
manifest.toml:
    format = 1
    arch = \"amd64\"
    subarch = \"generic\"
    release = \"noble\"
    purpose = \"install\"
";

fn show_tells_all() {
    let (world, daemon, [a, _]) = eventful();
    // Where nothing settles within a day the daemon doesn't look often at what it has seen half written.
    daemon.signal(Signal::STOP);
    fs::create_dir_all(world.incoming("written/image")).unwrap();
    fs::write(world.incoming("written/image/linux"), "x").unwrap();
    fs::write(world.incoming("written/manifest.toml"), manifest(TARGET)).unwrap();
    daemon.signal(Signal::CONT);
    wait_for_state(&world, "written", "settling");
    let claimed = world.place("held").unwrap();
    let claimed = claimed.strip_prefix(&world.spool).unwrap().display();
    let waits = |place: &str, why: &str| {
        format!(
            "     Place: {place}\n    Target: {TARGET}\n  Importer: root\n     \
             Since: 0000-00-00T00:00:00Z (AGE ago)\n       Why: {why}\n"
        )
    };
    let ended = "  Importer: root\n  Received: 0000-00-00T00:00:00Z (AGE ago)\n  \
                 Finished: 0000-00-00T00:00:00Z (AGE ago)\n";
    let digest = world.outcome("first").unwrap()["digest"]
        .as_str()
        .unwrap()
        .to_string();
    let other = MANIFEST
        .replace("amd64", "arm64")
        .replace("generic", "rpi4");
    let other = other
        .replace("noble", "trixie")
        .replace("install", "rescue");
    for (drop, name, expected) in [
        (
            "held",
            "held",
            waits(&claimed.to_string(), "quiet period, at most AGE") + MANIFEST,
        ),
        (
            "2026",
            LONG,
            waits(&format!("incoming/{LONG}"), "behind held") + MANIFEST,
        ),
        (
            "begun",
            "begun",
            waits(
                "incoming/begun",
                "incomplete: no manifest.toml, rejected in AGE",
            )
            .replace(TARGET, "not known yet"),
        ),
        (
            "writ",
            "written",
            waits("incoming/written", "still: changed AGE ago, whole in AGE") + MANIFEST,
        ),
        (
            "empty",
            "empty",
            format!(
                "     Place: rejected/empty\n   Outcome: rejected, empty-image\n    Detail: image/ \
                 holds no regular file\n    Target: {OTHER}\n{ended}{other}"
            ),
        ),
        (
            "first",
            "first",
            format!(
                "   Outcome: published\n    Target: {TARGET}\nGeneration: {a}\n    Digest: {digest}\n{ended}\
                 \x20     Boot: kernel = \"linux\"\n            initrd = [\"initrd.gz\"]\n"
            ),
        ),
    ] {
        assert_shown(
            &world,
            None,
            &["show", drop],
            &format!("{name}\n{expected}"),
        );
    }
    let shown = json(&world, &["show", "held", "--json"]);
    assert_eq!(shown["waiting"][0]["state"], "held", "{shown:#}");

    // An outcome goes before what the history tells of its drop.
    fs::remove_file(world.outcome_file("first")).unwrap();
    let expected = format!(
        "first\n   Outcome: not kept any more\n    Target: {TARGET}\n   History: published {a}\n  \
         Importer: root\n      When: 0000-00-00T00:00:00Z (AGE ago)\n"
    );
    assert_shown(&world, None, &["show", "first"], &expected);
    daemon.stop();
    let expected = waits(&claimed.to_string(), "claimed").replace("  Why:", "State:");
    let note = "    Daemon: the daemon isn't running: drops wait until it is\n";
    let expected = format!("held\n{expected}{note}{MANIFEST}");
    assert_shown(&world, None, &["show", "held"], &expected);
    for (drop, said) in [
        ("x", "no such drop: x; outcomes are kept for 7d"),
        ("../x", "no such drop: ../x; outcomes are kept for 7d"),
        ("", "`` may be any of"),
    ] {
        let output = world.run(&["show", drop]);
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(stderr.contains(said), "{stderr}");
    }
}

fn diff_shows_what_differs() {
    const MODULE: &str = "a-rather-long-name-of-a-module-for-a-card-that-nobody-has.ko";
    let world = World::new();
    let generation = |drop: &str| {
        let outcome = world.assert_outcome(drop, "published");
        outcome["generation"].as_str().unwrap().to_string()
    };
    let files: &[(&str, &[u8])] = &[
        ("linux", b"kernel"),
        ("initrd.gz", b"initrd"),
        ("boot/menu", b"menu"),
    ];
    world.drop_image("one", TARGET, files);
    world.run_once();
    let one = generation("one");
    assert_eq!(
        world.run(&["diff", TARGET]).status.code(),
        Some(1),
        "there is one only"
    );
    world.drop_with(
        "two",
        &format!("{}version = \"2\"\n", manifest(TARGET)),
        |image| {
            fs::write(image.join("linux"), [7; 3_000]).unwrap();
            fs::write(image.join("initrd.gz"), "initrd").unwrap();
            fs::write(image.join(MODULE), "x").unwrap();
            std::os::unix::fs::symlink("linux", image.join("vmlinuz")).unwrap();
        },
    );
    world.run_once();
    let two = generation("two");
    let expected = |path: &str| {
        let gap = path.chars().count();
        format!(
            "\
from {one}: 3 files, 16 B
to   {two}: 3 files, 2.9 KiB, version 2

         {:gap$}  FROM    TO
added    {path}  -       1 B
removed  {:gap$}  folder  -
removed  {:gap$}  4 B     -
changed  {:gap$}  6 B     2.9 KiB
added    {:gap$}  -       -> linux

2 added, 1 changed, 2 removed, 1 unchanged; 2.9 KiB more
",
            "PATH", "boot", "boot/menu", "linux", "vmlinuz"
        )
    };
    assert_shown(&world, None, &["diff", TARGET], &expected(MODULE));
    assert_shown(&world, Some(160), &["diff", TARGET], &expected(MODULE));
    let cut = format!("{}…", &MODULE[..52]);
    assert_shown(&world, Some(80), &["diff", TARGET], &expected(&cut));
    // By digest, by the beginning of the name, the other way round, and with itself.
    let same = shown(&world, None, &["diff", TARGET, &two[17..], &two]);
    assert!(
        same.ends_with("\n\n0 added, 0 changed, 0 removed, 4 unchanged\n"),
        "{same}"
    );
    let back = json(&world, &["diff", TARGET, &two, &one[..20], "--json"]);
    let ends = [&back["from"]["generation"], &back["to"]["generation"]];
    assert_eq!(ends, [&two, &one], "{back:#}");
    let changes = back["changes"].as_array().unwrap();
    let linux = changes
        .iter()
        .find(|change| change["path"] == "linux")
        .unwrap();
    assert_eq!(linux["change"], "changed", "{back:#}");
    assert_eq!(linux["from"]["file"]["size"], 3_000, "{back:#}");
    let unknown = world.run(&["diff", OTHER]);
    let said = format!("netboot-publisher: no such target: {OTHER}\n");
    assert_eq!(String::from_utf8(unknown.stderr).unwrap(), said);
}

fn history_fits() {
    let (world, [a, _]) = settled("[limits]\nmin_free_space = \"0B\"\n");
    // Of two generations of one second the one with this digest comes last.
    world.drop_image(LONG, TARGET, &[("linux", b"kernel")]);
    world.run_once();
    let outcome = world.assert_outcome(LONG, "published");
    let b = outcome["generation"].as_str().unwrap();
    let wide = format!(
        "{:3}\
GENERATION                     VERSION          SUPERSEDED  FILES  SIZE
   {a}  2026-11-22 (GA)  AGE ago     2      2.0 KiB
*  {b}  -                -           1      6 B

WHEN                  WHAT       FROM                           TO                             BY
0000-00-00T00:00:00Z  published  -                              {a}  root, drop first
0000-00-00T00:00:00Z  published  {a}  {b}  root, drop {LONG}
",
        ""
    );
    assert_shown(&world, None, &["history", TARGET], &wide);
    let narrow = format!(
        "{:3}\
GENERATION                     VERSION          SUPERSEDED  FILES  SIZE
   {a}  2026-11-22 (GA)  AGE ago     2      2.0 KiB
*  {b}  -                -           1      6 B

WHEN                  WHAT       FROM              TO               BY
0000-00-00T00:00:00Z  published  -                 {}…  root, drop …
0000-00-00T00:00:00Z  published  {}…  {}…  root, drop …
",
        "",
        &a[..14],
        &a[..15],
        &b[..14]
    );
    assert_shown(&world, Some(80), &["history", TARGET], &narrow);
}

fn bash_completes() {
    let (world, [a, _]) = settled("[limits]\nmin_free_space = \"0B\"\n");
    let script = format!(
        "#!/bin/sh\nexec {PROGRAM} \"$@\" --config {:?}\n",
        world.config
    );
    let program = world.root.join("netboot-publisher");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/completions");
    let complete = |before: &[&str], last: &str| {
        let script = format!(
            "source {folder:?}/netboot-publisher.bash; PATH={:?}:$PATH; \
             COMP_WORDS=(netboot-publisher {} '{last}'); COMP_CWORD={}; \
             _netboot_publisher_names netboot-publisher '{last}' {}; echo \"${{COMPREPLY[@]}}\"",
            world.root,
            before.join(" "),
            before.len() + 1,
            before.last().unwrap_or(&"netboot-publisher")
        );
        let output = output(Command::new("bash").args(["-c", &script]));
        assert!(output.stderr.is_empty(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    assert_eq!(complete(&["status"], "am"), TARGET);
    assert_eq!(complete(&["verify"], ""), format!("{TARGET} {OTHER}"));
    assert_eq!(complete(&["rollback", TARGET, "--to"], "20"), a);
    assert_eq!(complete(&["promote", TARGET], "ar"), OTHER);
    assert_eq!(complete(&["withdraw", TARGET, "--generation"], ""), a);
    assert_eq!(complete(&["diff", TARGET], "2"), a);
    assert_eq!(complete(&["show"], "em"), "empty");
    assert_eq!(complete(&[], "with"), "withdraw");
    assert_eq!(complete(&["status"], "--j"), "--json");
}
