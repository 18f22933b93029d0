//! Importer rules of a running daemon: what is told of them, how many drops of each may wait, and what
//! a reload changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::keys::{FOR_US, Keys, sign};
use crate::lab::terminal::steady;
use crate::lab::world::{
    Daemon, Needs, PROGRAM, World, manifest, names, output, own, test, text, until,
};
use crate::seen::{assert_shown, by_importer, json, shown, wait_for_state};
use crate::supervision::{change, figure, measured, reread, start};
use crate::trust::{GAMES, MAN, NEEDS, NEWS, build, hand_over, listing};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// A user that nobody knows.
const STRANGER: u32 = 4_711;

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "log and hooks tell by which rule an outcome came and who has signed, where there is one",
            NEEDS,
            told,
        ),
        test(
            "history, show and status tell by which rule and whose key, and fit the terminal",
            NEEDS,
            seen,
        ),
        test(
            "a drop that a crash has left without its outcome has one with its rule and its signer",
            &[NEEDS[0], NEEDS[1], Needs::Failpoints],
            told_after_a_crash,
        ),
        test(
            "outcomes are counted by importer rule, as far as the configuration has the rules",
            &[Needs::Root],
            counted,
        ),
        test(
            "of an importer as many drops may wait as the most generous of the rules says",
            &[Needs::Root],
            max_waiting,
        ),
        test(
            "a rule names users and groups by their numbers as well",
            &[Needs::Root],
            numbers,
        ),
        test(
            "an order has to have what its rule requires, and is good once then",
            &[Needs::Root],
            orders_require,
        ),
        test(
            "what was withdrawn is brought back by whoever may make it, and follow who withdrew it",
            &[Needs::Root],
            brought_back,
        ),
        test(
            "a signature with a key that no rule has counts for nothing, and that is said",
            NEEDS,
            unknown_signer,
        ),
        test(
            "a drop is judged by the rules of the last reload that was good",
            &[Needs::Root],
            reloaded,
        ),
        test(
            "a drop that waits for its signature is taken when a reload asks for none",
            NEEDS,
            reload_ends_a_wait,
        ),
        test(
            "a start without importer rules says so in one line",
            &[],
            start_says,
        ),
    ]
}

/// What an admin is told where there are none.
pub const NO_RULES: &str = "no importer rules: whoever may write into incoming/ may do everything";

/// One rule for what a key of kind `ed25519` has signed, and one without keys.
fn two_rules(keys: &Keys) -> String {
    format!(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        keys = [{:?}]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        [[importer]]
        name = "lab"
        users = ["news"]
        publish = ["lab/*/*/*"]
        "#,
        keys.public("ed25519")
    )
}

/// Makes a signed drop of a user's, and hands it over.
fn bring_signed(world: &World, keys: &Keys, name: &str, text: &str, files: &[(&str, &str)]) {
    let drop = build(world, name, text, files);
    if files.is_empty() {
        fs::remove_dir(drop.join("image")).unwrap();
    }
    sign(&drop, &keys.path("ed25519"), FOR_US);
    hand_over(world, name, GAMES);
}

fn told() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let script = format!(
        "echo $NETBOOT_DROP:$NETBOOT_RULE:$NETBOOT_SIGNER >> {}",
        said.display()
    );
    let world = World::with(&format!(
        "{}[[hook]]\non = [\"changed\", \"unchanged\", \"rejected\"]\n\
         command = [\"/bin/sh\", \"-c\", {script:?}]\n",
        two_rules(&keys)
    ));
    let key = keys.fingerprint("ed25519");
    let order = |action: &str| format!("{}action = {action:?}\n", manifest(TARGET));
    let (one, two) = ([("linux", "one")], [("linux", "two")]);
    let listed = |files: &[(&str, &str)]| listing(TARGET, "", files);
    // `team`: signed by the user of that rule.
    let cases: [(_, _, _, &[_], _); 9] = [
        ("one", "team", listed(&one), &one, "published"),
        ("again", "team", listed(&one), &one, "unchanged"),
        ("two", "team", listed(&two), &two, "published"),
        ("back", "team", order("rollback"), &[], "rolled-back"),
        ("gone", "team", order("withdraw"), &[], "withdrawn"),
        ("lab", "lab", manifest("lab/x/y/z"), &one, "published"),
        (
            "not-lab",
            "lab",
            manifest(OTHER),
            &one,
            "rejected not-allowed",
        ),
        (
            "stranger",
            "",
            manifest(OTHER),
            &one,
            "rejected not-allowed",
        ),
        ("root", "root", manifest(OTHER), &one, "published"),
    ];
    let mut expected = String::new();
    for (name, who, mut text_of, files, became) in cases {
        if name == "back" {
            let digest = &world.outcome("one").unwrap()["digest"];
            text_of += &format!("digest = {digest}\n");
        }
        if who == "team" {
            bring_signed(&world, &keys, name, &text_of, files);
        } else {
            build(&world, name, &text_of, files);
            let uid = match who {
                "lab" => NEWS,
                "root" => 0,
                _ => STRANGER,
            };
            hand_over(&world, name, uid);
        }
        let run = world.run(&["run", "--once", "--log-format", "json"]);
        assert!(run.status.success(), "{}", text(&run));
        let outcome = world.assert_outcome(name, became);
        let log = String::from_utf8(run.stderr).unwrap();
        let mut lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let line = lines.find(|line: &Value| line["drop"] == name && !line["outcome"].is_null());
        let line = line.unwrap_or_else(|| panic!("no line of {name}: {log}"));
        let rule = Some(who).filter(|who| ["team", "lab"].contains(who));
        let signer = Some(&key).filter(|_| who == "team");
        for told in [&outcome, &line] {
            let found = ["rule", "signer"].map(|it| told.get(it).cloned());
            let wanted = [rule.map(Value::from), signer.cloned().map(Value::from)];
            assert_eq!(found, wanted, "{name}: {told:#}");
        }
        let [rule, signer] = [rule, signer.map(String::as_str)].map(Option::unwrap_or_default);
        expected.push_str(&format!("{name}:{rule}:{signer}\n"));
    }
    assert_eq!(fs::read_to_string(said).unwrap(), expected);
    // People read it too.
    bring_signed(&world, &keys, "last", &listed(&one), &one);
    let log = text(&world.run(&["run", "--once"]));
    let who = format!(" importer=\"games\" rule=\"team\" signer=\"{key}\" files=1 ");
    assert!(log.contains(&who), "{log}");
}

fn seen() {
    let keys = Keys::new();
    let world = World::with(&two_rules(&keys).replace("\"team\"", "\"image-team\""));
    let key = keys.fingerprint("ed25519");
    let files = [("linux", "kernel")];
    bring_signed(&world, &keys, "first", &listing(TARGET, "", &files), &files);
    world.run_once();
    let [a, digest] = ["generation", "digest"].map(|word| {
        let outcome = world.assert_outcome("first", "published");
        outcome[word].as_str().unwrap().to_string()
    });
    let below = |columns, arguments: &[&str]| {
        let shown = shown(&world, columns, arguments);
        shown.split_once("\n\n").unwrap().1.to_string()
    };
    let note = "the daemon isn't running: drops wait until it is\n";
    let status = format!(
        "\
CURRENT                      RULE        SIGNER
amd64/generic/noble/install  image-team  {key}

{note}"
    );
    assert_eq!(below(None, &["status", TARGET]), status);
    assert_eq!(below(Some(160), &["status", TARGET]), status);
    let narrow = status.replace(&key, &format!("{}…", &key[..38]));
    assert_eq!(below(Some(80), &["status", "amd64/*/*/*"]), narrow);
    let vouched = serde_json::json!({"rule": "image-team", "signer": key});
    let told = json(&world, &["status", TARGET, "--json"]);
    assert_eq!(told["targets"][0]["vouched"], vouched, "{told:#}");
    let history = json(&world, &["history", TARGET, "--json"]);
    assert_eq!(history["events"][0]["vouched"], vouched, "{history:#}");
    let by_team = format!("      Rule: image-team\n    Signer: {key}\n");
    let times = "  Received: 0000-00-00T00:00:00Z (AGE ago)\n  \
                 Finished: 0000-00-00T00:00:00Z (AGE ago)\n";
    let boot = "      Boot: kernel = \"linux\"\n";
    let of_team = format!(
        "   Outcome: published\n    Target: {TARGET}\nGeneration: {a}\n    Digest: {digest}\n  \
         Importer: games\n{by_team}{times}{boot}"
    );
    assert_shown(
        &world,
        None,
        &["show", "first"],
        &format!("first\n{of_team}"),
    );

    // Another's drop of this name: root needs no rule.
    world.drop_image("first", OTHER, &[("linux", b"kernel")]);
    world.run_once();
    let b = world.assert_outcome("first", "published")["generation"].clone();
    let b = b.as_str().unwrap();
    let of_root = format!(
        "   Outcome: published\n    Target: {OTHER}\nGeneration: {b}\n    Digest: {digest}\n  \
         Importer: root\n{times}{boot}"
    );
    let both = format!("first\n{of_root}\n{of_team}");
    assert_shown(&world, None, &["show", "first"], &both);
    seen_by_others(&world, &[&a, b], &by_team);
    seen_in_history(&world, &a, &key);
}

/// What became of a drop is not for others to read, and not gone.
fn seen_by_others(world: &World, [a, b]: &[&str; 2], by_team: &str) {
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    let program = world.root.join("program");
    fs::copy(PROGRAM, &program).unwrap();
    let shows = || {
        let shown = by_importer(world, &program, &["show", "first"]);
        assert!(shown.status.success(), "{}", text(&shown));
        steady(&String::from_utf8(shown.stdout).unwrap())
    };
    let when = "      When: 0000-00-00T00:00:00Z (AGE ago)\n";
    let histories = format!(
        "    Target: {TARGET}\n   History: published {a}\n  Importer: games\n{by_team}{when}\n    \
         Target: {OTHER}\n   History: published {b}\n  Importer: root\n{when}"
    );
    let hidden = format!("first\n   Outcome: not for this user to read\n{histories}");
    assert_eq!(shows(), hidden);
    // Nobody keeps it for longer than that.
    let settings = fs::read_to_string(&world.config).unwrap();
    let brief = settings.replace("[spool]\n", "[spool]\nkeep_outcomes = \"1ms\"\n");
    fs::write(&world.config, brief).unwrap();
    assert_eq!(
        shows(),
        hidden.replace("not for this user to read", "not kept any more")
    );
    fs::write(&world.config, settings).unwrap();
}

fn seen_in_history(world: &World, a: &str, key: &str) {
    let long = "20261122T161500.250000Z-amd64-generic-noble-install-0123456789";
    world.drop_image(long, TARGET, &[("linux", b"newer")]);
    world.run_once();
    let c = world.assert_outcome(long, "published")["generation"].clone();
    let c = c.as_str().unwrap();
    let below = |columns| {
        let shown = shown(world, columns, &["history", TARGET]);
        shown.split_once("\n\n").unwrap().1.to_string()
    };
    let none = "-";
    let whole = format!(
        "\
WHEN                  WHAT       FROM                           TO                             RULE        {:50}  BY
0000-00-00T00:00:00Z  published  {none:29}  {a}  image-team  {key}  games, drop first
0000-00-00T00:00:00Z  published  {a}  {c}  -           {none:50}  root, drop {long}
",
        "SIGNER"
    );
    assert_eq!(below(None), whole);
    let wide = format!(
        "\
WHEN                  WHAT       FROM                           TO                             RULE        {:29}  BY
0000-00-00T00:00:00Z  published  {none:29}  {a}  image-team  {}…  games, drop first
0000-00-00T00:00:00Z  published  {a}  {c}  -           {none:29}  root, drop 20261122T1…
",
        "SIGNER",
        &key[..28]
    );
    assert_eq!(below(Some(160)), wide);
    let [from, to] = [a, c].map(|name| format!("{}…", &name[..18]));
    let narrower = format!(
        "\
WHEN                  WHAT       FROM                 TO                   RULE        {:19}  BY
0000-00-00T00:00:00Z  published  {none:19}  {from}  image-team  {}…  games, drop…
0000-00-00T00:00:00Z  published  {from}  {to}  -           {none:19}  root, drop …
",
        "SIGNER",
        &key[..18]
    );
    assert_eq!(below(Some(120)), narrower);
    let [from, to] = [a, c].map(|name| format!("{}…", &name[..11]));
    let narrow = format!(
        "\
WHEN                  WHAT       FROM          TO            RULE        BY
0000-00-00T00:00:00Z  published  -             {from}  image-team  games,…
0000-00-00T00:00:00Z  published  {from}  {to}  -           root, …
"
    );
    assert_eq!(below(Some(80)), narrow);
}

fn told_after_a_crash() {
    let keys = Keys::new();
    let world = World::with(&two_rules(&keys));
    let files = [("linux", "one")];
    let orders = [
        ("one", listing(TARGET, "", &files), "published"),
        (
            "gone",
            manifest(TARGET) + "action = \"withdraw\"\n",
            "withdrawn",
        ),
    ];
    for (name, text_of, became) in orders {
        let files = if name == "one" { &files[..] } else { &[] };
        bring_signed(&world, &keys, name, &text_of, files);
        let mut run = world.command(&["run", "--once"]);
        let killed = output(run.env("NETBOOT_PUBLISHER_FAILPOINT", "outcome:1:kill"));
        assert!(!killed.status.success(), "{}", text(&killed));
        assert_eq!(world.outcome(name), None, "{world}");
        assert_eq!(world.published(TARGET).exists(), name == "one", "{world}");
        world.run_once();
        let outcome = world.assert_outcome(name, became);
        let expected = [Value::from("team"), keys.fingerprint("ed25519").into()];
        assert_eq!([&outcome["rule"], &outcome["signer"]], expected.each_ref());
    }
}

/// Makes a drop of one file, and hands it over.
fn bring(world: &World, name: &str, uid: u32, target: &str) {
    build(world, name, &manifest(target), &[("linux", "kernel")]);
    hand_over(world, name, uid);
}

fn counted() {
    let (world, file) = measured(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        publish = ["amd64/*/*/*"]
        [[importer]]
        name = "lab"
        users = ["news"]
        publish = ["lab/*/*/*"]
        "#,
    );
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let wait_for = |rule: &str, expected: [Option<&str>; 3]| {
        let name =
            |outcome| format!("rule_outcomes_total{{outcome=\"{outcome}\",rule=\"{rule}\"}}");
        let names = ["published", "unchanged", "rejected"].map(name);
        until(&format!("{rule:?} to have {expected:?}"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let found = names.each_ref().map(|name| figure(&text, name));
            found.each_ref().map(Option::as_deref) == expected
        });
    };
    for rule in ["team", "lab", ""] {
        wait_for(rule, [Some("0"); 3]);
    }
    for (name, uid, target, expected) in [
        ("one", GAMES, TARGET, "published"),
        ("same", GAMES, TARGET, "unchanged"),
        ("of-the-lab", NEWS, TARGET, "rejected not-allowed"),
        ("of-nobody", STRANGER, TARGET, "rejected not-allowed"),
        ("of-root", 0, OTHER, "published"),
    ] {
        bring(&world, name, uid, target);
        daemon.wait_for_drop(name);
        world.assert_outcome(name, expected);
    }
    wait_for("", [Some("1"), Some("0"), Some("1")]);
    wait_for("team", [Some("1"), Some("1"), Some("0")]);
    wait_for("lab", [Some("0"), Some("0"), Some("1")]);
    // All together they are all.
    let text_of = fs::read_to_string(&file).unwrap();
    let sum = |begin: &str| -> u64 {
        let lines = text_of.lines().filter(|line| line.starts_with(begin));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    };
    let [of_rules, all] = ["rule_outcomes_total{", "outcomes_total{"]
        .map(|name| sum(&format!("netboot_publisher_{name}")));
    assert_eq!((of_rules, all), (5, 5), "{text_of}");

    change(&world, &daemon, &ear, "\"lab\"", "\"more\"");
    wait_for("more", [Some("0"); 3]);
    wait_for("lab", [None; 3]);
    wait_for("team", [Some("1"), Some("1"), Some("0")]);
    daemon.stop();
}

fn max_waiting() {
    const DROPS: usize = 6;
    let world = World::with(
        r#"
#spool watch = "poll"
#spool rescan_interval = "1h"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "few"
        users = ["games"]
        publish = ["*/*/*/*"]
        max_waiting = 4
        [[importer]]
        name = "fewer"
        users = ["games"]
        publish = ["*/*/*/*"]
        max_waiting = 2
        [[importer]]
        name = "many"
        users = ["news"]
        publish = ["*/*/*/*"]
        "#,
    );
    // None has a manifest, and so each waits. One look finds them all, before anybody has asked whose
    // they are.
    let name = |user, number| format!("of-{user}-{number}");
    for user in [GAMES, NEWS] {
        for number in 0..DROPS {
            let hidden = world.incoming(&format!(".{}", name(user, number)));
            fs::create_dir(&hidden).unwrap();
            own(&hidden, user);
            fs::rename(&hidden, world.incoming(&name(user, number))).unwrap();
        }
    }
    let daemon = world.daemon();
    let waiting = |user: u32| {
        let status = json(&world, &["status", "--json"]);
        let drops = status["waiting"].as_array().unwrap();
        let mut of_user: Vec<_> = drops
            .iter()
            .filter(|it| it["importer"]["uid"] == user)
            .collect();
        let word = |it: &Value, key: &str| it[key].as_str().unwrap().to_string();
        of_user.sort_by_key(|it| word(it, "drop"));
        let told = |it: &Value| (word(it, "drop"), word(it, "state"), word(it, "why"));
        of_user.into_iter().map(told).collect::<Vec<_>>()
    };
    let read = |user: u32| {
        let is_read = |(_, state, _): &(String, String, String)| state == "incomplete";
        let read = waiting(user).into_iter().filter(is_read);
        read.map(|(drop, ..)| drop).collect::<Vec<_>>()
    };
    let first = |user, count| (0..count).map(|it| name(user, it)).collect::<Vec<_>>();
    until("all of the one to be read", || {
        read(NEWS) == first(NEWS, DROPS)
    });
    until("some of the other to be read", || {
        read(GAMES) == first(GAMES, 4)
    });
    let more = waiting(GAMES).remove(0);
    let expected = [
        "(more)",
        "queued",
        "unread in incoming/: rule `few`'s max_waiting = 4",
    ];
    assert_eq!([&*more.0, &*more.1, &*more.2], expected);
    // The others come after those.
    for number in 0..DROPS {
        let drop = world.incoming(&name(GAMES, number));
        fs::write(drop.join(".new"), "format = 0\n").unwrap();
        own(&drop, GAMES);
        fs::rename(drop.join(".new"), drop.join("manifest.toml")).unwrap();
    }
    until("them to end", || {
        (0..DROPS).all(|number| world.outcome(&name(GAMES, number)).is_some())
    });
    for number in 0..DROPS {
        world.assert_outcome(&name(GAMES, number), "rejected bad-manifest");
    }
    assert_eq!(read(NEWS), first(NEWS, DROPS));
    daemon.stop();
}

fn numbers() {
    // `man` is in the group 12 of the same name.
    let world = World::with(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "by-uid"
        users = ["5", "4711"]
        publish = ["amd64/*/*/*"]
        [[importer]]
        name = "by-gid"
        groups = ["12"]
        publish = ["amd64/*/*/*"]
        "#,
    );
    for (name, uid, expected, rule) in [
        ("a", GAMES, "published", Some("by-uid")),
        ("b", STRANGER, "unchanged", Some("by-uid")),
        ("c", MAN, "unchanged", Some("by-gid")),
        ("d", NEWS, "rejected not-allowed", None),
    ] {
        bring(&world, name, uid, TARGET);
        world.run_once();
        let outcome = world.assert_outcome(name, expected);
        assert_eq!(outcome["rule"].as_str(), rule, "{outcome:#}");
    }
    for (user, code) in [("games", 0), ("12345", 1), ("4711", 0)] {
        let said = world.run(&["may", user, "publish", TARGET]);
        assert_eq!(said.status.code(), Some(code), "{user}: {}", text(&said));
    }
    let checked = text(&world.run(&["check-config"]));
    assert!(!checked.contains("warning"), "{checked}");
}

/// Brings an order of a user's, and asserts what becomes of it, and why.
fn order(world: &World, (name, uid): (&str, u32), text_of: &str, expected: [&str; 2]) {
    let hidden = build(world, name, &(manifest(TARGET) + text_of), &[]);
    fs::remove_dir(hidden.join("image")).unwrap();
    hand_over(world, name, uid);
    world.run_once();
    let outcome = world.assert_outcome(name, expected[0]);
    let detail = outcome["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, expected[1], "{outcome:#}");
}

fn orders_require() {
    let world = World::with(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        require = ["files", "serial"]
        "#,
    );
    for (name, serial) in [("one", 1), ("two", 2)] {
        let files = [("linux", name)];
        let text_of = listing(TARGET, &format!("serial = {serial}\n"), &files);
        build(&world, name, &text_of, &files);
        hand_over(&world, name, GAMES);
        world.run_once();
        world.assert_outcome(name, "published");
    }
    let lacks = |command: &str| {
        format!(
            "rule `team` requires `serial` in the manifest, as `{command} --serial $(date +%s)` writes it"
        )
    };
    let bring = |name: &str, text_of: &str, expected: [&str; 2]| {
        order(&world, (name, GAMES), text_of, expected);
    };
    let refused = "rejected not-allowed";
    let (back, gone) = ("action = \"rollback\"\n", "action = \"withdraw\"\n");
    bring("bare-back", back, [refused, &lacks("rollback")]);
    bring("bare-gone", gone, [refused, &lacks("withdraw")]);
    let back = format!("{back}serial = 3\n");
    bring("back", &back, ["rolled-back", ""]);
    let stale = |last: u32| {
        format!("the manifest's `serial` is 3; {TARGET} has had {last}: expected a higher `serial`")
    };
    bring("back-again", &back, ["rejected stale", &stale(3)]);
    let gone = format!("{gone}serial = 4\n");
    bring("gone", &gone, ["withdrawn", ""]);
    bring("back-again-later", &back, ["rejected stale", &stale(4)]);
    for (action, expected) in [
        ("publish", "`files`, `serial`"),
        ("rollback", "`serial`"),
        ("withdraw", "`serial`"),
    ] {
        let said = world.run(&["may", "games", action, TARGET]);
        let expected = format!("yes, by rule `team`, with {expected} in the manifest\n");
        assert_eq!(String::from_utf8(said.stdout).unwrap(), expected);
    }
    // Root needs no rule.
    order(
        &world,
        ("of-root", 0),
        "action = \"rollback\"\n",
        ["rolled-back", ""],
    );
}

fn brought_back() {
    let world = World::with(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        [[importer]]
        name = "lab"
        users = ["news"]
        publish = ["lab/*/*/*"]
        rollback = ["*/*/*/*"]
        [[importer]]
        name = "own"
        users = ["man"]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        follow_others = false
        "#,
    );
    bring(&world, "one", GAMES, TARGET);
    world.run_once();
    world.assert_outcome("one", "published");
    let bring = |name: &str, uid: u32, action: &str, expected: [&str; 2]| {
        order(
            &world,
            (name, uid),
            &format!("action = {action:?}\n"),
            expected,
        );
    };
    let refused = "rejected not-allowed";
    bring("gone", GAMES, "withdraw", ["withdrawn", ""]);
    let not_made = format!(
        "rule `lab` does not let news make {TARGET}, which isn't there; its `create` allows lab/*/*/*"
    );
    bring("of-lab", NEWS, "rollback", [refused, &not_made]);
    let of_others = format!(
        "rule `own` does not let man roll back {TARGET}: it was withdrawn by rule `team`; its \
         `follow_others` is false"
    );
    bring("of-own", MAN, "rollback", [refused, &of_others]);
    for (user, detail) in [("news", not_made), ("man", of_others)] {
        let said = world.run(&["may", user, "rollback", TARGET]);
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said, format!("no, not-allowed: {detail}\n"));
    }
    bring("back", GAMES, "rollback", ["rolled-back", ""]);
    world.run(&["withdraw", TARGET]);
    world.run_once();
    let back = "action = \"rollback\"\n";
    order(&world, ("by-root", 0), back, ["rolled-back", ""]);
    let of_root = format!(
        "rule `own` does not let man withdraw {TARGET}: what is there was made current by no rule; its \
         `follow_others` is false"
    );
    bring("not-gone", MAN, "withdraw", [refused, &of_root]);
}

fn unknown_signer() {
    let keys = Keys::new();
    let world = World::with(&format!(
        "{}\n[[importer]]\nname = \"rest\"\npublish = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n",
        two_rules(&keys)
    ));
    let bring = |name: &str, kind: &str, uid: u32, target: &str| {
        let files = [("linux", name)];
        let drop = build(&world, name, &listing(target, "", &files), &files);
        sign(&drop, &keys.path(kind), FOR_US);
        hand_over(&world, name, uid);
        text(&world.run(&["run", "--once"]))
    };
    let (known, unknown) = (keys.fingerprint("ed25519"), keys.fingerprint("ecdsa"));
    // The rule without keys lets it in, as it would without the signature.
    let log = bring("open", "ecdsa", MAN, OTHER);
    let outcome = world.assert_outcome("open", "published");
    let detail = format!("signed with {unknown}, which no rule has: taken as not signed");
    assert_eq!(outcome["detail"], *detail, "{outcome:#}");
    assert_eq!(outcome.get("signer"), None, "{outcome:#}");
    assert!(log.contains(&format!("published: {detail}")), "{log}");
    bring("signed", "ed25519", GAMES, TARGET);
    let outcome = world.assert_outcome("signed", "published");
    assert_eq!(outcome.get("detail"), None, "{outcome:#}");
    // It is no signed drop, as one has to be to follow that.
    bring("follows", "ecdsa", MAN, TARGET);
    let outcome = world.assert_outcome("follows", "rejected unknown-key");
    let detail = format!(
        "signed with {unknown}, which no rule has; what is current at {TARGET} was signed with {known}, \
         and only a drop may follow it that is signed with a key of some rule"
    );
    assert_eq!(outcome["detail"], *detail, "{outcome:#}");
    assert_eq!(outcome.get("signer"), None, "{outcome:#}");
}

/// Brings a drop of one file to [`TARGET`], and asserts what becomes of it, and by which rule.
fn judge(
    (world, daemon): (&World, &mut Daemon),
    (name, uid): (&str, u32),
    expected: &str,
    rule: Option<&str>,
) {
    bring(world, name, uid, TARGET);
    daemon.wait_for_drop(name);
    let outcome = world.assert_outcome(name, expected);
    assert_eq!(outcome["rule"].as_str(), rule, "{outcome:#}");
}

fn reloaded() {
    let world = World::with(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        publish = ["amd64/*/*/*"]
        "#,
    );
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let refused = "rejected not-allowed";
    let (team, news) = ("published", Some("news"));
    judge((&world, &mut daemon), ("a", NEWS), refused, None);
    judge((&world, &mut daemon), ("b", GAMES), team, Some("team"));
    // A bad rule beside a good one for somebody else: neither is in force.
    let good = fs::read_to_string(&world.config).unwrap();
    let more = "[[importer]]\nname = \"news\"\nusers = [\"news\"]\npublish = [\"*/*/*/*\"]\n";
    let bad = "[[importer]]\nname = \"team\"\nusers = [\"games\"]\npublish = [\"amd64\"]\n";
    fs::write(&world.config, format!("{good}{more}{bad}")).unwrap();
    reread(&daemon, &ear);
    daemon.wait_for("reload refused, keeping the old configuration: bad configuration");
    daemon.wait_for("expected a name of its own: there is a rule `team` already");
    daemon.wait_for("expected arch/subarch/release/purpose");
    judge((&world, &mut daemon), ("c", NEWS), refused, None);
    judge(
        (&world, &mut daemon),
        ("d", GAMES),
        "unchanged",
        Some("team"),
    );
    // A good one; then without the first one.
    fs::write(&world.config, format!("{good}{more}")).unwrap();
    reread(&daemon, &ear);
    judge((&world, &mut daemon), ("e", NEWS), "unchanged", news);
    change(
        &world,
        &daemon,
        &ear,
        "users = [\"games\"]",
        "users = [\"man\"]",
    );
    judge((&world, &mut daemon), ("f", GAMES), refused, None);
    judge((&world, &mut daemon), ("g", NEWS), "unchanged", news);
    daemon.stop();
}

fn reload_ends_a_wait() {
    let keys = Keys::new();
    let world = World::with(&two_rules(&keys));
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let hidden = build(&world, "waits", &manifest(TARGET), &[("linux", "kernel")]);
    own(&hidden, GAMES);
    // In place: whatever comes to the name comes bit by bit.
    let drop = world.incoming("waits");
    fs::create_dir(&drop).unwrap();
    own(&drop, GAMES);
    for part in names(&hidden) {
        fs::rename(hidden.join(&part), drop.join(&part)).unwrap();
    }
    until("it to wait for the signature", || {
        let waiting = wait_for_state(&world, "waits", "incomplete");
        let why = waiting["why"].as_str().unwrap();
        why.contains("no manifest.toml.sig")
    });
    let more =
        "[[importer]]\nname = \"open\"\npublish = [\"*/*/*/*\"]\n[[importer]]\nname = \"lab\"";
    change(
        &world,
        &daemon,
        &ear,
        "[[importer]]\n        name = \"lab\"",
        more,
    );
    daemon.wait_for_drop("waits");
    let outcome = world.assert_outcome("waits", "published");
    assert_eq!(outcome["rule"], "open", "{outcome:#}");
    assert_eq!(outcome.get("signer"), None, "{outcome:#}");
    daemon.stop();
}

fn start_says() {
    let rule = "[[importer]]\nname = \"team\"\npublish = [\"*/*/*/*\"]\n";
    for (rules, times) in [("", 1), (rule, 0)] {
        let world = World::with(&format!("[limits]\nmin_free_space = \"0B\"\n{rules}"));
        let log = world.daemon().stop().join("\n");
        let line = NO_RULES;
        assert_eq!(log.matches(line).count(), times, "{log}");
        assert_eq!(log.matches("importer rule").count(), times, "{log}");
    }
}
