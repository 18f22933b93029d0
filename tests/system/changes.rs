//! Rollback, withdrawal, compare-and-set, history.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::world::{
    Ended, Needs, World, manifest, names, output, snapshot, test, text, until,
};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

const KEEP_ALL: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a rollback makes the generation that was replaced current, as it is",
            &[],
            roll_back,
        ),
        test(
            "a rollback after an older image came back goes to what was published before that",
            &[],
            roll_back_from_an_older_one,
        ),
        test(
            "a rollback goes to the generation that is named, and to no other",
            &[],
            roll_back_to,
        ),
        test(
            "a damaged generation is not gone back to",
            &[],
            roll_back_to_damage,
        ),
        test(
            "a withdrawal takes the target out of the tree, and pinned paths go on",
            &[],
            withdraw,
        ),
        test(
            "a withdrawal removes a damaged generation by its name, and never the current one",
            &[],
            withdraw_a_generation,
        ),
        test(
            "a generation that a crash kept from being withdrawn goes later, and is told of once",
            &[Needs::Failpoints],
            withdrawal_of_a_generation_cut_short,
        ),
        test(
            "vacuum removes all of a withdrawn target in time",
            &[],
            withdrawn_for_good,
        ),
        test(
            "a rollback of a pointer that was changed by hand goes to what came before what it names",
            &[],
            pointer_changed_by_hand,
        ),
        test(
            "a pointer that was removed by hand costs no generation",
            &[],
            pointer_removed_by_hand,
        ),
        test(
            "what can't be rolled back or withdrawn is rejected with a reason",
            &[],
            rejected,
        ),
        test(
            "rollbacks and withdrawals stand in line with publications",
            &[],
            in_line,
        ),
        test(
            "a rollback names the image that it means, whatever is published meanwhile",
            &[],
            roll_back_by_digest,
        ),
        test(
            "a rollback to another version of the same image goes to that",
            &[],
            roll_back_a_version,
        ),
        test(
            "of two importers that replace the same generation one is published",
            &[],
            compare_and_set,
        ),
        test(
            "a drop that replaces something else is a conflict",
            &[],
            conflicts,
        ),
        test("the history tells what happened when", &[], history),
        test(
            "no generation goes while a file of it is open",
            &[],
            open_files_stay,
        ),
    ]
}

/// Publishes an image of this text.
fn publish(world: &World, text: &str) -> String {
    world.drop_image(text, TARGET, &[("linux", text.as_bytes())]);
    world.run_once();
    let outcome = world.assert_outcome(text, "published");
    outcome["generation"].as_str().unwrap().to_string()
}

/// What machines read by the stable path, if anything.
fn shown(world: &World) -> Option<String> {
    fs::read_to_string(world.published(TARGET).join("linux")).ok()
}

fn generation(world: &World, name: &str) -> PathBuf {
    world.published(&format!("{TARGET}@")).join(name)
}

/// Hands in a drop by one of the commands, and lets a daemon see to it.
fn command(world: &World, arguments: &[&str]) -> Output {
    let daemon = world.daemon();
    let output = world.run(&[arguments, &["--wait=100"]].concat());
    daemon.stop();
    output
}

fn assert_exit(output: &Output, code: i32, world: &World) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{world}",
        text(output)
    );
}

fn roll_back() {
    let world = World::with(KEEP_ALL);
    let generations = ["one", "two", "three"].map(|text| publish(&world, text));
    for (text, name) in [("two", &generations[1]), ("three", &generations[2])] {
        let linux = generation(&world, name).join("linux");
        let before = fs::metadata(&linux).unwrap();
        let output = command(&world, &["rollback", TARGET]);
        assert_exit(&output, 0, &world);
        let said = String::from_utf8_lossy(&output.stdout).to_string();
        assert_eq!(said, format!("rolled-back {TARGET} {name}\n"));
        assert_eq!(shown(&world).as_deref(), Some(text), "{world}");
        let after = fs::metadata(&linux).unwrap();
        assert_eq!(
            (before.ino(), before.mtime_nsec(), before.ctime_nsec()),
            (after.ino(), after.mtime_nsec(), after.ctime_nsec()),
            "nothing was copied\n{world}"
        );
    }
    world.assert_at_rest();
}

fn roll_back_from_an_older_one() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one");
    publish(&world, "two");
    world.drop_image("again", TARGET, &[("linux", b"one")]);
    world.run_once();
    world.assert_outcome("again", "published");
    assert_exit(&command(&world, &["rollback", TARGET]), 0, &world);
    assert_eq!(shown(&world).as_deref(), Some("two"), "{world}");
}

fn roll_back_to() {
    let world = World::with(KEEP_ALL);
    let [one, _, three] = ["one", "two", "three"].map(|text| publish(&world, text));
    assert_exit(
        &command(&world, &["rollback", TARGET, "--to", &one]),
        0,
        &world,
    );
    assert_eq!(shown(&world).as_deref(), Some("one"), "{world}");
    // Forward again is a rollback as well.
    assert_exit(
        &command(&world, &["rollback", TARGET, "--to", &three]),
        0,
        &world,
    );
    assert_eq!(shown(&world).as_deref(), Some("three"), "{world}");

    let before = snapshot(&world.tree);
    let output = command(&world, &["rollback", TARGET, "--to", &three]);
    assert_exit(&output, 0, &world);
    let said = String::from_utf8_lossy(&output.stdout).to_string();
    assert_eq!(said, format!("unchanged {TARGET} {three}\n"));
    assert_eq!(snapshot(&world.tree), before);

    let gone = "20200101T000000Z-000000000000";
    let output = command(&world, &["rollback", TARGET, "--to", gone]);
    assert_exit(&output, 3, &world);
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    let expected = format!(
        "rejected {TARGET} unknown-generation: {TARGET} keeps no generation {gone}; expected one \
         that is kept\n"
    );
    assert_eq!(said, expected);
    assert_eq!(snapshot(&world.tree), before);
}

fn roll_back_to_damage() {
    let world = World::with(KEEP_ALL);
    let one = publish(&world, "one");
    publish(&world, "two");
    let linux = generation(&world, &one).join("linux");
    let refused = || {
        assert_exit(&command(&world, &["rollback", TARGET]), 3, &world);
        assert_eq!(shown(&world).as_deref(), Some("two"), "{world}");
    };
    fs::set_permissions(&linux, Permissions::from_mode(0o600)).unwrap();
    refused();
    fs::set_permissions(&linux, Permissions::from_mode(0o644)).unwrap();
    fs::write(&linux, "0ne").unwrap();
    refused();
}

fn withdraw() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one");
    let two = publish(&world, "two");
    let output = command(&world, &["withdraw", TARGET]);
    assert_exit(&output, 0, &world);
    let said = String::from_utf8_lossy(&output.stdout).to_string();
    assert_eq!(said, format!("withdrawn {TARGET} {two}\n"));
    assert!(!world.published(TARGET).is_symlink(), "{world}");
    let status: Value = serde_json::from_slice(&world.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["targets"], serde_json::json!([]));
    let pinned = fs::read(generation(&world, &two).join("linux")).unwrap();
    assert_eq!(pinned, b"two", "a machine may be booting it");

    // A second time there is nothing to withdraw; and the withdrawn image can come back.
    assert_exit(&command(&world, &["withdraw", TARGET]), 3, &world);
    assert_exit(&command(&world, &["rollback", TARGET]), 0, &world);
    assert_eq!(shown(&world).as_deref(), Some("two"), "{world}");
    assert_exit(&command(&world, &["withdraw", TARGET]), 0, &world);
    publish(&world, "three");
    assert_eq!(shown(&world).as_deref(), Some("three"), "{world}");
    world.assert_at_rest();
}

fn withdraw_a_generation() {
    let world = World::with(KEEP_ALL);
    let [one, two, three, four] = ["one", "two", "three", "four"].map(|text| publish(&world, text));
    fs::write(generation(&world, &one).join("linux"), "damaged").unwrap();
    fs::remove_file(generation(&world, &two).with_extension("toml")).unwrap();
    assert_eq!(world.run(&["verify"]).status.code(), Some(1), "{world}");
    let mut daemon = world.daemon();
    let withdraw =
        |name: &str| world.run(&["withdraw", TARGET, "--generation", name, "--wait=100"]);
    for name in [&one, &three] {
        let done = withdraw(name);
        assert_exit(&done, 0, &world);
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(said, format!("withdrawn {TARGET} {name}\n"));
        daemon.wait_for(&format!("generation={name}"));
        assert!(!generation(&world, name).exists(), "{world}");
    }
    // What the current one is stays, and the daemon says what to do.
    let refused = withdraw(&four);
    assert_exit(&refused, 3, &world);
    let said = String::from_utf8(refused.stderr).unwrap();
    let expected =
        format!("rejected {TARGET} conflict: {four} is current; expected an older generation");
    assert!(said.contains(&expected), "{said}");
    assert_exit(&withdraw(&one), 3, &world);
    assert_eq!(shown(&world).as_deref(), Some("four"), "{world}");
    assert_exit(
        &world.run(&["withdraw", OTHER, "--generation", &one, "--wait=100"]),
        1,
        &world,
    );
    // Of the last one nobody knew what it was.
    let status = serde_json::from_slice::<Value>(&world.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["targets"][0]["generation"], *four, "{status:#}");
    daemon.stop();
    let output = world.run(&["history", TARGET, "--json"]);
    let history: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = history["events"].as_array().unwrap();
    let removed = events.iter().filter(|event| event["event"] == "removed");
    let removed: Vec<_> = removed
        .map(|event| (&event["from"], event["drop"].is_string()))
        .collect();
    assert_eq!(
        removed,
        [(&one.clone().into(), true), (&three.clone().into(), true)],
        "{history:#}"
    );
    let kept = history["generations"].as_array().unwrap().iter();
    let kept: Vec<_> = kept
        .map(|kept| kept["generation"].as_str().unwrap())
        .collect();
    assert_eq!(
        kept,
        [&four],
        "a start sweeps what has no record\n{history:#}"
    );
    let verified = world.run(&["verify"]);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}\n{world}",
        text(&verified)
    );
    world.assert_at_rest();
}

fn withdrawal_of_a_generation_cut_short() {
    for place in [
        "stage",
        "history",
        "swap",
        "vacuum",
        "tree-sync",
        "outcome",
        "spool-sync",
    ] {
        let world = World::with(KEEP_ALL);
        let [one, two] = ["one", "two"].map(|text| publish(&world, text));
        let order = format!("action = \"withdraw\"\ngeneration = {one:?}\n");
        world.drop_with("gone", &(manifest(TARGET) + &order), |image| {
            fs::remove_dir(image).unwrap();
        });
        for number in 1..3 {
            let mut command = world.command(&["run", "--once"]);
            command.env(
                "NETBOOT_PUBLISHER_FAILPOINT",
                format!("{place}:{number}:kill"),
            );
            let _ = output(&mut command);
            world.assert_pointers_whole();
        }
        world.run_once();
        world.assert_outcome("gone", "withdrawn");
        assert!(!generation(&world, &one).exists(), "{place}\n{world}");
        assert_eq!(shown(&world).as_deref(), Some("two"), "{place}\n{world}");
        let file = world.tree.join(format!(".history/{TARGET}.jsonl"));
        let lines = fs::read_to_string(file).unwrap();
        assert_eq!(lines.matches("\"removed\"").count(), 1, "{place}\n{lines}");
        assert!(generation(&world, &two).is_dir(), "{place}\n{world}");
        world.assert_at_rest();
    }
}

fn withdrawn_for_good() {
    let world =
        World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 5\n");
    for text in ["one", "two"] {
        publish(&world, text);
    }
    let daemon = world.daemon();
    assert_exit(&world.run(&["withdraw", TARGET, "--wait=100"]), 0, &world);
    let folder = world.published("amd64/generic/noble");
    until("the generations to go", || names(&folder).is_empty());
    daemon.stop();
    world.assert_at_rest();
}

fn pointer_changed_by_hand() {
    let world = World::with(KEEP_ALL);
    let generations = ["one", "two", "three", "four"].map(|text| publish(&world, text));
    let pointer = world.published(TARGET);
    fs::remove_file(&pointer).unwrap();
    symlink(format!("install@/{}", generations[1]), &pointer).unwrap();
    assert_exit(&command(&world, &["rollback", TARGET]), 0, &world);
    assert_eq!(shown(&world).as_deref(), Some("one"), "{world}");
}

fn pointer_removed_by_hand() {
    let world =
        World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 2\n");
    let generations = ["one", "two"].map(|text| publish(&world, text));
    fs::remove_file(world.published(TARGET)).unwrap();
    world.run_once();
    for name in &generations {
        assert!(generation(&world, name).is_dir(), "{world}");
    }
}

fn rejected() {
    let world = World::with(KEEP_ALL);
    let ask = |name: &str, target: &str, more: &str| {
        let hidden = world.incoming(&format!(".{name}"));
        fs::create_dir(&hidden).unwrap();
        let text = format!("{}{more}", manifest(target));
        fs::write(hidden.join("manifest.toml"), text).unwrap();
        fs::rename(hidden, world.incoming(name)).unwrap();
    };
    publish(&world, "one");
    fs::create_dir_all(world.published(OTHER)).unwrap();
    fs::write(world.published(OTHER).join("linux"), "by hand").unwrap();
    let unknown = "amd64/generic/noble/other";
    ask("withdraw-unknown", unknown, "action = \"withdraw\"\n");
    ask("rollback-unknown", unknown, "action = \"rollback\"\n");
    ask("rollback-first", TARGET, "action = \"rollback\"\n");
    ask("withdraw-plain", OTHER, "action = \"withdraw\"\n");
    ask("nonsense", TARGET, "action = \"remove\"\n");
    ask(
        "files",
        TARGET,
        "action = \"rollback\"\n[files]\nlinux = { sha256 = \"00\" }\n",
    );
    let with_image = format!("{}action = \"rollback\"\n", manifest(TARGET));
    world.drop_with("image", &with_image, |image| {
        fs::write(image.join("linux"), "new").unwrap();
    });
    let before = snapshot(&world.tree);
    world.run_once();
    world.assert_outcome("withdraw-unknown", "rejected unknown-target");
    world.assert_outcome("rollback-unknown", "rejected unknown-target");
    world.assert_outcome("rollback-first", "rejected unknown-generation");
    world.assert_outcome("withdraw-plain", "rejected target-occupied");
    world.assert_outcome("nonsense", "rejected bad-manifest");
    world.assert_outcome("files", "rejected bad-manifest");
    let outcome = world.assert_outcome("image", "rejected unexpected-file");
    assert_eq!(
        outcome["detail"],
        "`image`; expected nothing but manifest.toml in a drop that asks for something else than an \
         image, or the image's own manifest with it, image.toml"
    );
    assert_eq!(snapshot(&world.tree), before);
    publish(&world, "two");
    world.assert_at_rest();
}

fn in_line() {
    let world = World::with(KEEP_ALL);
    let hand_in = |arguments: &[&str]| {
        let output = world.run(arguments);
        assert_exit(&output, 0, &world);
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    publish(&world, "one");
    publish(&world, "two");
    // All drops come at once, while no daemon runs. Those of one tick of the clock are in the order
    // of their names.
    let back = hand_in(&["rollback", TARGET]);
    let three = format!("{back}-three");
    world.drop_image(&three, TARGET, &[("linux", b"three")]);
    let gone = hand_in(&["withdraw", TARGET]);
    let in_vain = hand_in(&["withdraw", TARGET]);
    let four = format!("{in_vain}-four");
    world.drop_image(&four, TARGET, &[("linux", b"four")]);
    world.run_once();
    world.assert_outcome(&back, "rolled-back");
    world.assert_outcome(&three, "published");
    let withdrawn = world.assert_outcome(&gone, "withdrawn");
    world.assert_outcome(&in_vain, "rejected unknown-target");
    world.assert_outcome(&four, "published");
    for order in ["rollback", "withdraw"] {
        let output = world.run(&[order, "no/such/target/yet"]);
        assert_exit(&output, 1, &world);
        assert_eq!(world.names("incoming"), Vec::<String>::new());
    }
    assert_eq!(
        withdrawn["generation"],
        world.outcome(&three).unwrap()["generation"]
    );
    assert_eq!(shown(&world).as_deref(), Some("four"), "{world}");
    world.assert_at_rest();
}

/// Hands in a rollback, and returns its name and its manifest.
fn ordered(world: &World, more: &[&str]) -> (String, String) {
    let output = world.run(&[&["rollback", TARGET], more].concat());
    assert_exit(&output, 0, world);
    let name = String::from_utf8(output.stdout).unwrap();
    let manifest = world.incoming(name.trim_end()).join("manifest.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    (name.trim_end().to_string(), manifest)
}

fn roll_back_by_digest() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one");
    let digest = world.outcome("one").unwrap()["digest"].to_string();
    publish(&world, "two");
    world.drop_image("0", TARGET, &[("linux", b"three")]);
    for (more, names_it) in [
        (&[][..], true),
        (&["--to", &digest[1..13]], true),
        // The daemon of another spool may have another tree.
        (&["--spool", world.spool.to_str().unwrap()], false),
    ] {
        let (name, manifest) = ordered(&world, more);
        let line = format!("digest = {digest}\n");
        assert_eq!(manifest.contains(&line), names_it, "{manifest}");
        assert!(!manifest.contains("\nto = "), "{manifest}");
        if !names_it {
            fs::remove_dir_all(world.incoming(&name)).unwrap();
        }
    }
    world.run_once();
    world.assert_outcome("0", "published");
    assert_eq!(shown(&world).as_deref(), Some("one"), "{world}");
    world.assert_at_rest();
}

fn roll_back_a_version() {
    let world = World::with(KEEP_ALL);
    let versions = ["1", "2", "3"].map(|version| {
        let text = format!("{}version = {version:?}\n", manifest(TARGET));
        world.drop_with(version, &text, |image| {
            fs::write(image.join("linux"), "the same").unwrap();
        });
        world.run_once();
        let outcome = world.assert_outcome(version, "published");
        outcome["generation"].as_str().unwrap().to_string()
    });
    let [one, two, three] = &versions;
    for (more, expected) in [(&[][..], two), (&[], three), (&["--to", one], one)] {
        let (name, _) = ordered(&world, more);
        world.run_once();
        let outcome = world.assert_outcome(&name, "rolled-back");
        assert_eq!(outcome["generation"], **expected, "{outcome:#}");
    }
    world.assert_at_rest();
}

fn replacing(world: &World, name: &str, text: &str, replaces: &str) {
    let manifest = format!("{}replaces = {replaces:?}\n", manifest(TARGET));
    world.drop_with(name, &manifest, |image| {
        fs::write(image.join("linux"), text).unwrap();
    });
}

fn compare_and_set() {
    const ROUNDS: usize = 40;
    let world = World::with(KEEP_ALL);
    let mut daemon = world.daemon();
    let mut digest = "none".to_string();
    for round in 0..ROUNDS {
        let drops = ["a", "b"].map(|importer| format!("{importer}-{round}"));
        std::thread::scope(|scope| {
            for drop in &drops {
                let (world, digest) = (&world, &digest);
                scope.spawn(move || replacing(world, drop, drop, digest));
            }
        });
        let outcomes = drops.each_ref().map(|drop| {
            until("an outcome", || world.outcome(drop).is_some());
            world.outcome(drop).unwrap()
        });
        let (won, lost): (Vec<_>, Vec<_>) = outcomes
            .iter()
            .partition(|outcome| outcome["outcome"] == "published");
        assert_eq!((won.len(), lost.len()), (1, 1), "{outcomes:?}\n{world}");
        assert_eq!(lost[0]["reason"], "conflict", "{outcomes:?}\n{world}");
        assert_eq!(shown(&world).as_deref(), won[0]["drop"].as_str());
        digest = won[0]["digest"].as_str().unwrap()[..12 + round].to_string();
    }
    daemon.log.clear();
    daemon.stop();
    world.assert_at_rest();
}

fn conflicts() {
    let world = World::with(KEEP_ALL);
    replacing(&world, "missing", "x", "9f3c2ab1d4e5");
    world.run_once();
    let outcome = world.assert_outcome("missing", "rejected conflict");
    assert_eq!(
        outcome["detail"],
        "nothing is current; the drop replaces 9f3c2ab1d4e5"
    );
    replacing(&world, "new", "x", "none");
    world.run_once();
    let outcome = world.assert_outcome("new", "published");
    let digest = outcome["digest"].as_str().unwrap();
    // The very same image, by somebody who doesn't know that it is published.
    replacing(&world, "newer", "x", "none");
    world.run_once();
    let rejected = world.assert_outcome("newer", "rejected conflict");
    assert_eq!(
        rejected["detail"],
        format!(
            "{} with digest {digest} is current; the drop replaces none",
            outcome["generation"].as_str().unwrap()
        )
    );
    // A folder made by hand: its digest is known only once it was read.
    let plain = world.published("amd64/generic/noble/plain");
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("linux"), "x").unwrap();
    for (name, replaces, expected) in [
        ("plain-none", "none", "rejected conflict"),
        ("plain-other", "9f3c2ab1d4e5", "rejected conflict"),
        ("plain", digest, "published"),
    ] {
        let text = format!(
            "{}replaces = {replaces:?}\n",
            manifest("amd64/generic/noble/plain")
        );
        world.drop_with(name, &text, |image| {
            fs::write(image.join("linux"), "y").unwrap();
        });
        world.run_once();
        world.assert_outcome(name, expected);
    }
    let output = command(
        &world,
        &[
            "submit",
            "--arch",
            "amd64",
            "--release",
            "noble",
            "--purpose",
            "install",
            "--replaces",
            "000000000000",
            plain.to_str().unwrap(),
        ],
    );
    assert_exit(&output, 3, &world);
    assert!(text(&output).contains("conflict"), "{}", text(&output));
    world.assert_at_rest();
}

fn history() {
    let world = World::with(KEEP_ALL);
    let [one, two] = ["one", "two"].map(|text| publish(&world, text));
    assert_exit(&command(&world, &["rollback", TARGET]), 0, &world);
    let output = world.run(&["history", TARGET, "--json"]);
    let history: Value = serde_json::from_slice(&output.stdout).unwrap();
    for kept in history["generations"].as_array().unwrap() {
        let is_current = kept["generation"] == *one;
        assert_eq!(kept["is_current"], is_current, "{history:#}");
        assert_eq!(kept["superseded_at"].is_null(), is_current, "{history:#}");
    }
    assert_exit(&command(&world, &["withdraw", TARGET]), 0, &world);
    let output = world.run(&["history", TARGET, "--json"]);
    assert_exit(&output, 0, &world);
    let history: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events: Vec<_> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let word = |key: &str| event[key].as_str().map(String::from);
            (word("event").unwrap(), word("from"), word("to"))
        })
        .collect();
    let [one_, two_] = [&one, &two].map(|name| Some(name.clone()));
    let expected = [
        ("published", None, one_.clone()),
        ("published", one_.clone(), two_.clone()),
        ("rolled-back", two_, one_.clone()),
        ("withdrawn", one_, None),
    ]
    .map(|(event, from, to)| (event.to_string(), from, to));
    assert_eq!(events, expected, "{history:#}");
    let kept = history["generations"].as_array().unwrap();
    assert_eq!(kept.len(), 2, "{history:#}");
    assert!(
        kept.iter().all(|kept| kept["is_current"] == false),
        "{history:#}"
    );

    // As where a crash came between the line of a removal and the removal.
    let file = world.tree.join(format!(".history/{TARGET}.jsonl"));
    let lines = fs::read_to_string(&file).unwrap();
    let mut removed: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    (removed["event"], removed["from"]) = ("removed".into(), two.clone().into());
    removed.as_object_mut().unwrap().remove("to");
    fs::write(&file, format!("{lines}{removed}\n")).unwrap();
    let output = world.run(&["history", TARGET, "--json"]);
    let history: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rolled_back = &history["events"][2]["at"];
    let superseded = &history["generations"][1]["superseded_at"];
    assert_eq!(superseded, rolled_back, "{history:#}");

    let shown = text(&world.run(&["history", TARGET]));
    for word in [&*one, &*two, "rolled-back", "withdrawn", "drop one"] {
        assert!(shown.contains(word), "{shown}");
    }
    let unknown = world.run(&["history", OTHER]);
    assert_exit(&unknown, 1, &world);
    let said = String::from_utf8_lossy(&unknown.stderr).to_string();
    assert_eq!(
        said,
        format!("netboot-publisher: no such target: {OTHER}\n")
    );
}

fn open_files_stay() {
    let world =
        World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 0\n");
    let one = publish(&world, "one");
    let linux = fs::File::open(generation(&world, &one).join("linux")).unwrap();
    let reader = std::process::Command::new("sleep")
        .arg("infinity")
        .stdin(Stdio::from(linux))
        .spawn()
        .unwrap();
    let reader = Ended(reader);
    publish(&world, "two");
    world.run_once();
    assert!(generation(&world, &one).is_dir(), "{world}");
    drop(reader);
    world.run_once();
    assert!(!generation(&world, &one).exists(), "{world}");
    world.assert_at_rest();
}
