//! Promotion: what is current at one target becomes current at another, without a copy.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use libtest_mimic::Trial;
use netboot_publisher::{Digest, Record};
use serde_json::{Value, json};

use crate::lab::keys::{FOR_US, Keys, sign};
use crate::lab::world::{
    Daemon, Needs, World, manifest, names, output, snapshot, test, text, until, walk,
};
use crate::trust::{GAMES, MAN, NEEDS, build, hand_over, listing};

const CANDIDATE: &str = "amd64/generic/noble-candidate/install";
const STABLE: &str = "amd64/generic/noble/install";
const THIRD: &str = "amd64/generic/noble-old/install";

const KEEP_ALL: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\nkeep = 9\n";
const KEEP_NONE: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 0\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a promotion makes the very image current at another target, without a copy",
            &[],
            promoted,
        ),
        test(
            "both histories tell of a promotion, and so do the commands",
            &[],
            told,
        ),
        test(
            "pinned paths of both targets go on after a promotion, and each keeps its own retention",
            &[],
            pinned,
        ),
        test(
            "what is promoted and current already is unchanged, and a damaged copy is repaired",
            &[],
            unchanged,
        ),
        test(
            "a promotion that can't be is rejected, with the reason, and changes nothing",
            &[],
            refused,
        ),
        test(
            "promotions stand in line with what else comes to their target",
            &[],
            in_line,
        ),
        test(
            "a promotion is compare-and-set where it says what it replaces",
            &[],
            compare_and_set,
        ),
        test(
            "what comes to FROM while an order waits is not promoted, though its files are the same",
            &[],
            same_files_meanwhile,
        ),
        test(
            "a promotion to a folder that somebody made by hand adopts that",
            &[],
            adopted,
        ),
        test(
            "files that would have another owner today are copied by a promotion",
            &[Needs::Root],
            given_away,
        ),
        test(
            "a rollback of a promoted image, and to one, keeps where it has come from",
            &[],
            rolled_back,
        ),
        test(
            "the other history is told of a promotion though the daemon was killed after the swap",
            &[Needs::Failpoints],
            told_after_a_crash,
        ),
        test(
            "promotions in a circle of targets that are published to are all told of at both",
            &[],
            in_a_circle,
        ),
        test(
            "of what is replaced and removed while it is promoted nothing half comes into being",
            &[Needs::Failpoints],
            replaced_meanwhile,
        ),
        test(
            "a promotion needs the right to publish at its target, and none where it comes from",
            NEEDS,
            rights,
        ),
        test(
            "a signed image that a signed order promotes is proven, also by several orders",
            NEEDS,
            proven,
        ),
        test(
            "what was promoted without a signature of order or image is not proven",
            NEEDS,
            unproven,
        ),
        test(
            "whatever was changed of what proves a promotion is found, and is named",
            NEEDS,
            every_change,
        ),
        test(
            "a signed order names its image, is good once with a serial, and repairs the proof",
            NEEDS,
            signed_orders,
        ),
    ]
}

/// Publishes an image of two files, a link and an empty folder.
fn publish(world: &World, name: &str, target: &str) -> PathBuf {
    let text = format!("{}version = \"v-{name}\"\n", manifest(target));
    world.drop_with(name, &text, |image| fill(image, name));
    world.run_once();
    world.assert_outcome(name, "published");
    current(world, target)
}

fn fill(image: &Path, name: &str) {
    fs::create_dir_all(image.join("boot/empty")).unwrap();
    fs::write(image.join("linux"), name).unwrap();
    fs::write(image.join("boot/initrd.gz"), "initrd").unwrap();
    symlink("boot/initrd.gz", image.join("menu")).unwrap();
}

/// The generation that is current.
fn current(world: &World, target: &str) -> PathBuf {
    world.published(target).canonicalize().unwrap()
}

/// The order to promote, and what else it says.
fn order(from: &str, target: &str, more: &str) -> String {
    format!(
        "{}action = \"promote\"\nfrom = {from:?}\n{more}",
        manifest(target)
    )
}

/// Hands in an order without a command.
fn hand_in(world: &World, name: &str, text: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    fs::rename(hidden, world.incoming(name)).unwrap();
}

/// The same, and has the daemon see to it.
fn ask(world: &World, name: &str, text: &str, expected: &str) -> Value {
    hand_in(world, name, text);
    world.run_once();
    world.assert_outcome(name, expected)
}

/// Runs a command that hands in an order, beside a daemon.
fn command(world: &World, arguments: &[&str]) -> Output {
    let daemon = world.daemon();
    let output = world.run(&[arguments, &["--wait=100"]].concat());
    daemon.stop();
    output
}

fn name_of(generation: &Path) -> &str {
    generation.file_name().unwrap().to_str().unwrap()
}

/// The file beside a generation with this at the end of its name.
fn beside(generation: &Path, ending: &str) -> PathBuf {
    generation.with_file_name(format!("{}{ending}", name_of(generation)))
}

fn record(generation: &Path) -> Record {
    Record::parse(&fs::read_to_string(beside(generation, ".toml")).unwrap()).unwrap()
}

/// The inodes of an image's files, and how many names they have.
fn files(generation: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let look = |path: PathBuf| {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(generation).unwrap().to_path_buf();
        stat.is_file().then(|| (name, (stat.ino(), stat.nlink())))
    };
    walk(generation).into_iter().filter_map(look).collect()
}

/// What the JSON of a command says.
fn told_by(world: &World, arguments: &[&str]) -> Value {
    let output = world.run(&[arguments, &["--json"]].concat());
    let told = serde_json::from_slice(&output.stdout);
    told.unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

fn events(world: &World, target: &str) -> Vec<Value> {
    let history = told_by(world, &["history", target]);
    history["events"].as_array().unwrap().clone()
}

fn assert_verified(world: &World) {
    let output = world.run(&["verify"]);
    assert!(output.status.success(), "{}", text(&output));
}

fn promoted() {
    let world = World::with(KEEP_ALL);
    let source = publish(&world, "one", CANDIDATE);
    let before = snapshot(&source);
    let output = command(&world, &["promote", CANDIDATE, STABLE]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let promoted = current(&world, STABLE);
    let said = String::from_utf8_lossy(&output.stdout);
    let name = name_of(&promoted);
    assert_eq!(said, format!("promoted {STABLE} {name}\n"));
    assert_eq!(
        promoted.parent().unwrap(),
        world.tree.join(format!("{STABLE}@"))
    );

    // One inode has two names, and nothing else of the source was touched.
    let shared = files(&promoted);
    assert_eq!(shared, files(&source));
    assert!(shared.values().all(|(_, names)| *names == 2), "{shared:?}");
    assert_eq!(shared.len(), 2);
    let is_folder_of_its_own = |path: &str| {
        let inode = |of: &Path| of.join(path).metadata().unwrap().ino();
        inode(&promoted) != inode(&source)
    };
    assert!(is_folder_of_its_own("") && is_folder_of_its_own("boot/empty"));
    let links = fs::read_link(promoted.join("menu")).unwrap();
    assert_eq!(links, Path::new("boot/initrd.gz"));
    assert_eq!(snapshot(&source).len(), before.len());
    assert_eq!(current(&world, CANDIDATE), source);

    let (ours, theirs) = (record(&promoted), record(&source));
    assert_eq!(ours.head.digest, theirs.head.digest);
    assert_eq!(ours.listing, theirs.listing);
    assert_eq!(ours.head.version.as_deref(), Some("v-one"));
    let stored = fs::read_to_string(beside(&promoted, ".toml")).unwrap();
    let of_it = format!(
        "[from.promoted]\nfrom = {CANDIDATE:?}\ngeneration = {:?}\n",
        name_of(&source)
    );
    assert!(stored.contains(&of_it), "{stored}");
    let catalog = fs::read_to_string(world.tree.join("catalog.json")).unwrap();
    assert_eq!(
        catalog.matches("\"version\":\"v-one\"").count(),
        2,
        "{catalog}"
    );
    assert_verified(&world);
    world.assert_at_rest();
}

fn told() {
    let world = World::with(KEEP_ALL);
    let old = publish(&world, "old", STABLE);
    let source = publish(&world, "one", CANDIDATE);
    let log = {
        hand_in(&world, "order", &order(CANDIDATE, STABLE, ""));
        text(&world.run(&["run", "--once"]))
    };
    assert!(
        log.contains(" promoted target=amd64/generic/noble/install "),
        "{log}"
    );
    let outcome = world.assert_outcome("order", "promoted");
    let promoted = current(&world, STABLE);
    assert_eq!(outcome["generation"], name_of(&promoted));
    assert_eq!(outcome["digest"], record(&source).head.digest.to_string());
    assert_eq!(outcome["files"], 2);

    let here = events(&world, STABLE).pop().unwrap();
    let there = events(&world, CANDIDATE).pop().unwrap();
    let image = |promoted: Value| {
        json!({
            "digest": outcome["digest"],
            "files": 2,
            "bytes": 9,
            "promoted": promoted,
        })
    };
    let place = |target: &str, of: &Path| json!({"target": target, "generation": name_of(of)});
    assert_eq!(here["event"], "promoted", "{here:#}");
    assert_eq!(here["from"], name_of(&old), "{here:#}");
    assert_eq!(here["to"], name_of(&promoted), "{here:#}");
    assert_eq!(
        here["image"],
        image(json!({"from": place(CANDIDATE, &source)}))
    );
    assert_eq!(there["event"], "promoted", "{there:#}");
    assert_eq!(there["from"], Value::Null, "{there:#}");
    assert_eq!(there["to"], name_of(&source), "{there:#}");
    assert_eq!(
        there["image"],
        image(json!({"to": place(STABLE, &promoted)}))
    );
    for key in ["at", "boot", "boottime", "drop", "importer", "claim"] {
        assert_eq!(here[key], there[key], "{key}");
        assert!(!here[key].is_null(), "{key}");
    }
    let shown = |arguments: &[&str]| text(&world.run(arguments));
    let said = shown(&["history", STABLE]);
    assert!(
        said.contains(&format!(", drop order, from {CANDIDATE}\n")),
        "{said}"
    );
    let said = shown(&["history", CANDIDATE]);
    assert!(
        said.contains(&format!(", drop order, to {STABLE}\n")),
        "{said}"
    );
    let said = shown(&["diff", STABLE]);
    assert!(
        said.contains(&format!(", version v-one, promoted from {CANDIDATE}\n")),
        "{said}"
    );
    let said = shown(&["status", STABLE]);
    assert!(
        said.contains(&format!("{STABLE} was promoted from {CANDIDATE}\n")),
        "{said}"
    );
    let status = told_by(&world, &["status"]);
    let from = |at: usize| status["targets"][at]["promoted_from"].clone();
    assert_eq!([from(0), from(1)], [CANDIDATE.into(), Value::Null]);
    let said = shown(&["show", "order"]);
    assert!(
        said.contains(&format!("Promoted: from {CANDIDATE}\n")),
        "{said}"
    );
    let told = &told_by(&world, &["show", "order"])["outcomes"][0];
    assert_eq!(told["promoted_from"], CANDIDATE, "{told:#}");
    assert_eq!(told["outcome"], "promoted", "{told:#}");
    fs::remove_file(world.outcome_file("order")).unwrap();
    let said = shown(&["show", "order"]);
    assert!(
        said.contains(&format!("History: promoted from {CANDIDATE} ")),
        "{said}"
    );
    assert!(
        said.contains(&format!("History: promoted to {STABLE} ")),
        "{said}"
    );
    // What was promoted is superseded by nothing, and goes on being current.
    let history = told_by(&world, &["history", CANDIDATE]);
    assert_eq!(history["generations"][0]["is_current"], true, "{history:#}");
    let drop = world.run(&["rollback", CANDIDATE]).stdout;
    world.run_once();
    let drop = String::from_utf8(drop).unwrap();
    let outcome = world.assert_outcome(drop.trim_end(), "rejected unknown-generation");
    let said = outcome["detail"].as_str().unwrap();
    assert!(said.contains("nothing was current at"), "{said}");
}

fn pinned() {
    let world = World::with(KEEP_NONE);
    let source = publish(&world, "one", CANDIDATE);
    ask(&world, "order", &order(CANDIDATE, STABLE, ""), "promoted");
    let promoted = current(&world, STABLE);
    let inode = promoted.join("linux").metadata().unwrap().ino();
    // The source goes, with all that is beside it; its image stays where it was promoted to.
    publish(&world, "two", CANDIDATE);
    world.run_once();
    assert!(!source.exists(), "{world}");
    let linux = promoted.join("linux").metadata().unwrap();
    assert_eq!((linux.ino(), linux.nlink()), (inode, 1));
    assert_eq!(current(&world, STABLE), promoted);
    assert_verified(&world);
    // And the other way round.
    let source = current(&world, CANDIDATE);
    ask(&world, "again", &order(CANDIDATE, STABLE, ""), "promoted");
    world.run_once();
    assert!(!promoted.exists(), "{world}");
    publish(&world, "three", STABLE);
    world.run_once();
    assert_eq!(names(&world.tree.join(format!("{STABLE}@"))).len(), 2);
    assert_eq!(current(&world, CANDIDATE), source);
    assert_eq!(fs::read(source.join("linux")).unwrap(), b"two");
    assert_eq!(source.join("linux").metadata().unwrap().nlink(), 1);

    // While they are kept the paths of both go on.
    let text = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        text.replace("\"0s\"\nkeep = 0", "\"1h\"\nkeep = 0"),
    )
    .unwrap();
    ask(
        &world,
        "once-more",
        &order(CANDIDATE, STABLE, ""),
        "promoted",
    );
    let promoted = current(&world, STABLE);
    publish(&world, "four", CANDIDATE);
    publish(&world, "five", STABLE);
    for pinned in [&source, &promoted] {
        assert_eq!(fs::read(pinned.join("linux")).unwrap(), b"two", "{world}");
        assert_eq!(fs::read(pinned.join("menu")).unwrap(), b"initrd", "{world}");
    }
    assert_verified(&world);
    world.assert_at_rest();
}

fn unchanged() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", CANDIDATE);
    // Published there by itself, of one version and of another.
    let other = format!("{}version = \"v-other\"\n", manifest(STABLE));
    world.drop_with("other", &other, |image| fill(image, "one"));
    world.run_once();
    ask(&world, "first", &order(CANDIDATE, STABLE, ""), "promoted");
    let text = format!("{}version = \"v-one\"\n", manifest(THIRD));
    world.drop_with("third", &text, |image| fill(image, "one"));
    world.run_once();
    for (name, target) in [("second", STABLE), ("by-itself", THIRD)] {
        let before = snapshot(&world.tree);
        let outcome = ask(&world, name, &order(CANDIDATE, target, ""), "unchanged");
        let generation = current(&world, target);
        assert_eq!(outcome["generation"], name_of(&generation), "{outcome:#}");
        assert_eq!(snapshot(&world.tree), before, "{name}");
    }
    // Nor does the image come anew that is dropped there.
    let text = format!("{}version = \"v-one\"\n", manifest(STABLE));
    world.drop_with("dropped", &text, |image| fill(image, "one"));
    world.run_once();
    world.assert_outcome("dropped", "unchanged");

    let before = current(&world, THIRD);
    fs::set_permissions(before.join("linux"), Permissions::from_mode(0o600)).unwrap();
    ask(&world, "repaired", &order(CANDIDATE, THIRD, ""), "promoted");
    let after = current(&world, THIRD);
    assert_ne!(after, before);
    assert_eq!(files(&after), files(&current(&world, CANDIDATE)));
}

fn refused() {
    let world = World::with(KEEP_ALL);
    let source = publish(&world, "one", CANDIDATE);
    let digest = record(&source).head.digest;
    publish(&world, "two", STABLE);
    publish(&world, "gone", THIRD);
    ask(
        &world,
        "withdrawn",
        &format!("{}action = \"withdraw\"\n", manifest(THIRD)),
        "withdrawn",
    );
    let by_hand = "amd64/generic/by-hand/install";
    fs::create_dir_all(world.published(by_hand)).unwrap();
    fs::write(world.published(by_hand).join("linux"), "by hand").unwrap();
    let damaged = "amd64/generic/damaged/install";
    let victim = publish(&world, "victim", damaged);
    fs::write(victim.join("linux"), "changed").unwrap();
    let lost = "amd64/generic/lost/install";
    let record_of_lost = beside(&publish(&world, "lost", lost), ".toml");
    fs::remove_file(record_of_lost).unwrap();
    let seen = || ["amd64", ".history"].map(|it| snapshot(&world.tree.join(it)));
    let before = seen();
    let other = Digest::of(b"");
    let name = name_of(&source);
    let cases = [
        (
            "unknown",
            order("amd64/generic/none/install", STABLE, ""),
            "unknown-target",
            "amd64/generic/none/install is not in the tree; expected one that is".to_string(),
        ),
        (
            "nothing",
            order(THIRD, STABLE, ""),
            "unknown-generation",
            format!("nothing is current at {THIRD}; expected a generation"),
        ),
        (
            "by-hand",
            order(by_hand, STABLE, ""),
            // The tree has nothing of a folder that was not adopted.
            "unknown-target",
            format!("{by_hand} is not in the tree; expected one that is"),
        ),
        (
            "damaged",
            order(damaged, STABLE, ""),
            "unknown-generation",
            format!(
                "{} of {damaged} is not what was published any more; expected it undamaged",
                name_of(&victim)
            ),
        ),
        (
            "lost",
            order(lost, STABLE, ""),
            "unknown-generation",
            "is damaged".to_string(),
        ),
        (
            "digest",
            order(CANDIDATE, STABLE, &format!("digest = \"{other}\"\n")),
            "conflict",
            format!(
                "{name} with digest {digest} is current at {CANDIDATE}; the order means {other}"
            ),
        ),
        (
            "replaces",
            order(CANDIDATE, STABLE, "replaces = \"none\"\n"),
            "conflict",
            "; the drop replaces none".to_string(),
        ),
        (
            "itself",
            order(STABLE, STABLE, ""),
            "bad-manifest",
            format!("error: `from` is {STABLE}, which is the drop's own target\n"),
        ),
        (
            "from-nowhere",
            format!("{}action = \"promote\"\n", manifest(STABLE)),
            "bad-manifest",
            "error: missing key `from`\n".to_string(),
        ),
        (
            "with-version",
            order(CANDIDATE, STABLE, "version = \"1\"\n"),
            "bad-manifest",
            "error: unknown key `version`\n".to_string(),
        ),
    ];
    for (name, text, reason, detail) in cases {
        let outcome = ask(&world, name, &text, &format!("rejected {reason}"));
        let said = outcome["detail"].as_str().unwrap();
        assert!(said.contains(&detail), "{name}: {said}");
    }
    let with_image = order(CANDIDATE, STABLE, "");
    world.drop_with("image", &with_image, |image| fill(image, "new"));
    world.run_once();
    world.assert_outcome("image", "rejected unexpected-file");
    assert_eq!(seen(), before);

    // What the command can tell by itself it says at once.
    for (arguments, says) in [
        (
            &["promote", "a/b/c/d", STABLE][..],
            "finding the image that is to be promoted (`--digest` names it as well): no such target: \
             a/b/c/d",
        ),
        (&["promote", THIRD, STABLE], "nothing is current at"),
        (&["promote", lost, STABLE], "is damaged"),
        (
            &["promote", STABLE, STABLE],
            "is both FROM and TARGET; expected two targets",
        ),
    ] {
        let output = world.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let said = text(&output);
        assert!(said.contains(says), "{says}: {said}");
        assert_eq!(world.names("incoming"), Vec::<String>::new());
    }
    // The image is that of the moment when the order was given.
    let output = world.run(&["promote", CANDIDATE, STABLE]);
    let drop = String::from_utf8(output.stdout).unwrap();
    let order = fs::read_to_string(world.incoming(drop.trim_end()).join("manifest.toml")).unwrap();
    assert!(
        order.contains(&format!("digest = \"{digest}\"\n")),
        "{order}"
    );
    world.drop_with("new", &manifest(CANDIDATE), |image| fill(image, "new"));
    let output = world.run(&["run", "--once"]);
    assert!(output.status.success(), "{}", text(&output));
    let word = world.outcome(drop.trim_end()).unwrap()["outcome"].clone();
    let is_current = fs::read(world.published(STABLE).join("linux")).unwrap();
    // Between two targets there is no order: it is this image, or none.
    assert_eq!(is_current == b"one", word == "promoted", "{world}");
    assert!(is_current == b"one" || is_current == b"two", "{world}");
}

fn in_line() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", CANDIDATE);
    let drop = |name: &str, text: &[u8]| world.drop_image(name, STABLE, &[("linux", text)]);
    // All come while no daemon runs; those of one tick of the clock are in the order of their names.
    drop("a", b"a");
    hand_in(&world, "b", &order(CANDIDATE, STABLE, ""));
    drop("c", b"c");
    hand_in(&world, "d", &order(CANDIDATE, STABLE, ""));
    hand_in(
        &world,
        "e",
        &format!("{}action = \"rollback\"\n", manifest(STABLE)),
    );
    hand_in(&world, "f", &order(CANDIDATE, STABLE, ""));
    hand_in(&world, "g", &order(CANDIDATE, STABLE, ""));
    hand_in(
        &world,
        "h",
        &format!("{}action = \"withdraw\"\n", manifest(STABLE)),
    );
    hand_in(
        &world,
        "i",
        &order(CANDIDATE, STABLE, "replaces = \"none\"\n"),
    );
    world.run_once();
    for (name, became) in [
        ("a", "published"),
        ("b", "promoted"),
        ("c", "published"),
        ("d", "promoted"),
        ("e", "rolled-back"),
        ("f", "promoted"),
        ("g", "unchanged"),
        ("h", "withdrawn"),
        ("i", "promoted"),
    ] {
        world.assert_outcome(name, became);
    }
    let happened = events(&world, STABLE);
    let drops: Vec<_> = happened
        .iter()
        .map(|it| it["drop"].as_str().unwrap())
        .collect();
    assert_eq!(drops, ["a", "b", "c", "d", "e", "f", "h", "i"]);
    let there = events(&world, CANDIDATE);
    let drops: Vec<_> = there
        .iter()
        .map(|it| it["drop"].as_str().unwrap())
        .collect();
    assert_eq!(drops, ["one", "b", "d", "f", "i"]);
    assert_eq!(
        fs::read(world.published(STABLE).join("linux")).unwrap(),
        b"one"
    );
    assert_verified(&world);
    world.assert_at_rest();
}

fn compare_and_set() {
    let world = World::with(KEEP_ALL);
    let digest = |of: &Path| record(of).head.digest.to_string();
    publish(&world, "one", CANDIDATE);
    let two = digest(&publish(&world, "two", STABLE));
    let one = digest(&current(&world, CANDIDATE));
    let promote = |replaces: &str| {
        command(
            &world,
            &["promote", CANDIDATE, STABLE, "--replaces", replaces],
        )
    };
    let output = promote(&one[..12]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(" conflict: "), "{}", text(&output));
    assert_eq!(promote(&two[..12]).status.code(), Some(0), "{world}");
    assert_eq!(digest(&current(&world, STABLE)), one);
    // The second one that replaces the same comes too late.
    assert_eq!(promote(&two[..12]).status.code(), Some(3), "{world}");
    let meant = ["promote", CANDIDATE, STABLE, "--digest", &two];
    assert_eq!(command(&world, &meant).status.code(), Some(3), "{world}");
    // The tree of another spool isn't known.
    let spool = world.spool.to_str().unwrap();
    let output = world.run(&["promote", CANDIDATE, THIRD, "--spool", spool]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let meant = [
        "promote", CANDIDATE, THIRD, "--spool", spool, "--digest", &one,
    ];
    assert_eq!(command(&world, &meant).status.code(), Some(0), "{world}");
    assert_eq!(digest(&current(&world, THIRD)), one);
}

fn same_files_meanwhile() {
    let world = World::with(KEEP_ALL);
    let publish = |name: &str, cmdline: &str| {
        let text = format!(
            "{}[boot]\nkernel = \"linux\"\ncmdline = {cmdline:?}\n",
            manifest(CANDIDATE)
        );
        world.drop_with(name, &text, |image| fill(image, "one"));
        world.run_once();
        world.assert_outcome(name, "published");
        current(&world, CANDIDATE)
    };
    let give = |more: &[&str]| {
        let output = world.run(&[&["promote", CANDIDATE, STABLE], more].concat());
        assert!(output.status.success(), "{}", text(&output));
        let drop = String::from_utf8(output.stdout).unwrap();
        let drop = drop.trim_end().to_string();
        // It waits, since no daemon runs, and not in the spool that this one looks at.
        let waiting = world.root.join(&drop);
        fs::rename(world.incoming(&drop), &waiting).unwrap();
        let text = fs::read_to_string(waiting.join("manifest.toml")).unwrap();
        (drop, waiting, text)
    };
    let take_up = |drop: &str, waiting: &Path, expected: &str| {
        fs::rename(waiting, world.incoming(drop)).unwrap();
        world.run_once();
        world.assert_outcome(drop, expected)
    };
    let seen = publish("seen", "ip=dhcp");
    let digest = record(&seen).head.digest.to_string();
    let orders = [give(&[]), give(&["--digest", &digest])];
    let other = publish("other", "ip=dhcp debug");
    assert_eq!(record(&other).head.digest.to_string(), digest);
    let (meant, is) = (name_of(&seen), name_of(&other));
    for (drop, waiting, order) in &orders {
        assert!(
            order.contains(&format!("generation = {meant:?}\n")),
            "{order}"
        );
        let outcome = take_up(drop, waiting, "rejected conflict");
        let expected = format!("{is} is current at {CANDIDATE}; the order means {meant}");
        assert_eq!(outcome["detail"], expected);
    }
    assert!(!world.published(STABLE).exists(), "{world}");
    // An order that says nothing of the generation takes any of the image.
    let more = format!("digest = \"{digest}\"\n");
    ask(&world, "any", &order(CANDIDATE, STABLE, &more), "promoted");
    let (drop, waiting, _) = give(&[]);
    take_up(&drop, &waiting, "unchanged");
    // Of another tree, where the image has another name, so does one that has the digest.
    let elsewhere = format!("generation = \"20010909T014640Z-{}\"\n", &digest[..12]);
    let both = format!("{more}{elsewhere}");
    let known = order(CANDIDATE, STABLE, &both);
    ask(&world, "elsewhere", &known, "unchanged");
    let unknown = order(CANDIDATE, STABLE, &elsewhere);
    ask(&world, "unknown", &unknown, "rejected conflict");
    let stored = record(&current(&world, STABLE));
    assert_eq!(stored.head.boot, record(&other).head.boot);
    assert_verified(&world);
}

fn adopted() {
    let world = World::with(KEEP_ALL);
    let source = publish(&world, "one", CANDIDATE);
    let place = world.published(STABLE);
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("linux"), "by hand").unwrap();
    ask(&world, "order", &order(CANDIDATE, STABLE, ""), "promoted");
    assert_eq!(files(&current(&world, STABLE)), files(&source));
    let happened = events(&world, STABLE);
    let words: Vec<_> = happened
        .iter()
        .map(|it| it["event"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["adopted", "promoted"]);
    assert!(happened[0]["image"]["promoted"].is_null(), "{happened:#?}");
    ask(
        &world,
        "back",
        &format!("{}action = \"rollback\"\n", manifest(STABLE)),
        "rolled-back",
    );
    assert_eq!(fs::read(place.join("linux")).unwrap(), b"by hand");
    // An adopted image is promoted as well, and gets modes and owner of what is published.
    fs::set_permissions(place.join("linux"), Permissions::from_mode(0o640)).unwrap();
    ask(&world, "on", &order(STABLE, THIRD, ""), "promoted");
    let third = current(&world, THIRD);
    assert_eq!(
        third.join("linux").metadata().unwrap().mode() & 0o777,
        0o644
    );
    assert!(files(&third).values().all(|(_, names)| *names == 1));
    assert_verified(&world);
    // One with the very same files is left alone.
    let same = "amd64/generic/same/install";
    fs::create_dir_all(world.published(same)).unwrap();
    fs::write(world.published(same).join("linux"), "by hand").unwrap();
    let outcome = ask(&world, "same", &order(THIRD, same, ""), "unchanged");
    assert!(outcome["generation"].is_null(), "{outcome:#}");
    assert!(!world.published(same).is_symlink());
    world.assert_at_rest();
}

fn given_away() {
    let world = World::with(KEEP_ALL);
    let source = publish(&world, "one", CANDIDATE);
    let settings = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        settings.replace("[tree]\n", "[tree]\nowner = \"games\"\n"),
    )
    .unwrap();
    ask(&world, "order", &order(CANDIDATE, STABLE, ""), "promoted");
    let promoted = current(&world, STABLE);
    assert_eq!(record(&promoted).head.digest, record(&source).head.digest);
    for path in walk(&promoted).into_iter().chain([promoted.clone()]) {
        assert_eq!(
            fs::symlink_metadata(&path).unwrap().uid(),
            GAMES,
            "{path:?}"
        );
    }
    assert_eq!(source.join("linux").metadata().unwrap().uid(), 0);
    assert!(files(&promoted).values().all(|(_, names)| *names == 1));
    // What was given to them already is shared.
    ask(&world, "on", &order(STABLE, THIRD, ""), "promoted");
    assert_eq!(files(&current(&world, THIRD)), files(&promoted));
    assert_verified(&world);
    chown(promoted.join("linux"), Some(0), None).unwrap();
    let fourth = "amd64/generic/fourth/install";
    ask(
        &world,
        "damaged",
        &order(STABLE, fourth, ""),
        "rejected unknown-generation",
    );
}

fn rolled_back() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", CANDIDATE);
    let old = publish(&world, "old", STABLE);
    ask(&world, "order", &order(CANDIDATE, STABLE, ""), "promoted");
    let promoted = current(&world, STABLE);
    let back = format!("{}action = \"rollback\"\n", manifest(STABLE));
    ask(&world, "back", &back, "rolled-back");
    assert_eq!(current(&world, STABLE), old);
    ask(&world, "forth", &back, "rolled-back");
    assert_eq!(current(&world, STABLE), promoted);
    let stored = fs::read_to_string(beside(&promoted, ".toml")).unwrap();
    assert!(stored.contains("drop = \"forth\""), "{stored}");
    assert!(
        stored.contains(&format!("[from.promoted]\nfrom = {CANDIDATE:?}\n")),
        "{stored}"
    );
    let last = events(&world, STABLE).pop().unwrap();
    assert_eq!(last["event"], "rolled-back");
    assert!(last["image"]["promoted"].is_null(), "{last:#}");
    // A rollback where the image came from goes to what its own swaps have replaced.
    publish(&world, "two", CANDIDATE);
    ask(&world, "again", &order(CANDIDATE, STABLE, ""), "promoted");
    let back = format!("{}action = \"rollback\"\n", manifest(CANDIDATE));
    ask(&world, "candidate-back", &back, "rolled-back");
    assert_eq!(
        fs::read(world.published(CANDIDATE).join("linux")).unwrap(),
        b"one"
    );
    assert_eq!(
        fs::read(world.published(STABLE).join("linux")).unwrap(),
        b"two"
    );
}

fn told_after_a_crash() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", CANDIDATE);
    // The second line of a history that the run writes is that of the other target.
    for (name, place) in [("before", "history:2:kill"), ("after", "outcome:1:kill")] {
        publish(&world, &format!("{name}-stable"), STABLE);
        hand_in(&world, name, &order(CANDIDATE, STABLE, ""));
        let mut run = world.command(&["run", "--once"]);
        let killed = output(run.env("NETBOOT_PUBLISHER_FAILPOINT", place));
        assert!(!killed.status.success(), "{}", text(&killed));
        assert_eq!(world.outcome(name), None, "{world}");
        assert_eq!(
            fs::read(world.published(STABLE).join("linux")).unwrap(),
            b"one"
        );
        let is_of_it = |line: &&Value| line["drop"] == name;
        let notes = || events(&world, CANDIDATE).iter().filter(is_of_it).count();
        assert_eq!(notes(), usize::from(name == "after"), "{world}");
        // The source goes on meanwhile, and its history with it.
        world.run_once();
        world.assert_outcome(name, "promoted");
        assert_eq!(notes(), 1, "{world}");
        assert_eq!(
            events(&world, STABLE).iter().filter(is_of_it).count(),
            1,
            "{world}"
        );
    }
    // A note that can't be written fails no promotion: it is tried again.
    publish(&world, "last-stable", STABLE);
    hand_in(&world, "last", &order(CANDIDATE, STABLE, ""));
    let mut run = world.command(&["run", "--once"]);
    let failed = output(run.env("NETBOOT_PUBLISHER_FAILPOINT", "history:2:fail"));
    assert!(!failed.status.success(), "{}", text(&failed));
    world.run_once();
    world.assert_outcome("last", "promoted");
    let there = events(&world, CANDIDATE);
    assert_eq!(
        there.iter().filter(|line| line["drop"] == "last").count(),
        1
    );
    assert_verified(&world);
    world.assert_at_rest();
}

fn in_a_circle() {
    let world = World::with(KEEP_ALL);
    // In a circle: whatever is promoted from is published to, and promoted to, at the same time.
    let targets: Vec<_> = (0..12)
        .map(|it| format!("amd64/generic/t{it}/install"))
        .collect();
    for target in &targets {
        world.drop_image(
            &target.replace('/', "-"),
            target,
            &[("linux", target.as_bytes())],
        );
    }
    world.run_once();
    let mut daemon = world.daemon();
    let mut drops = Vec::new();
    for round in 0..20 {
        for (at, from) in targets.iter().enumerate() {
            let name = format!("{round}-{at}");
            hand_in(
                &world,
                &name,
                &order(from, &targets[(at + 1) % targets.len()], ""),
            );
            drops.push(name);
            let name = format!("{round}-{at}-new");
            world.drop_image(&name, from, &[("linux", name.as_bytes())]);
            drops.push(name);
        }
    }
    for name in &drops {
        if world.outcome(name).is_none() {
            daemon.wait_for_drop(name);
        }
    }
    daemon.stop();
    let mut notes = 0;
    for target in &targets {
        let happened = events(&world, target);
        // Each swap follows on the one before, and whoever was promoted is told of at both.
        let is_note = |line: &&Value| !line["image"]["promoted"]["to"].is_null();
        let swaps: Vec<_> = happened.iter().filter(|line| !is_note(line)).collect();
        for pair in swaps.windows(2) {
            assert_eq!(pair[0]["to"], pair[1]["from"], "{target}: {pair:#?}");
        }
        let last = swaps.last().unwrap();
        assert_eq!(last["to"], name_of(&current(&world, target)), "{last:#}");
        notes += happened.iter().filter(is_note).count();
    }
    let word = |name: &String| world.outcome(name).unwrap()["outcome"].clone();
    let promoted = drops.iter().filter(|name| word(name) == "promoted").count();
    assert_eq!(notes, promoted, "{world}");
    assert!(promoted > 0, "{world}");
    let bad = |name: &&String| word(name) == "rejected";
    assert_eq!(drops.iter().filter(bad).collect::<Vec<_>>(), [""; 0]);
    assert_verified(&world);
    world.assert_at_rest();
}

fn replaced_meanwhile() {
    // As the vacuum removes a generation: the record first.
    let gone = |generation: &Path| {
        fs::remove_file(beside(generation, ".toml")).unwrap();
        fs::remove_dir_all(generation).unwrap();
    };
    let going = |generation: &Path| fs::remove_file(beside(generation, ".toml")).unwrap();
    type Remove<'r> = &'r dyn Fn(&Path);
    let cases: [(&str, Remove<'_>, &str, bool, &str); 5] = [
        ("gone", &gone, "", true, "promoted"),
        ("going", &going, "", true, "promoted"),
        ("meant", &gone, "digest", true, "rejected conflict"),
        ("named", &gone, "generation", true, "rejected conflict"),
        ("damaged", &gone, "", false, "rejected unknown-generation"),
    ];
    for (name, remove, says, has_another, expected) in cases {
        let world = World::with(KEEP_ALL);
        let older = publish(&world, "older", CANDIDATE);
        let source = publish(&world, "newer", CANDIDATE);
        publish(&world, "stable", STABLE);
        let more = match says {
            "digest" => format!("digest = \"{}\"\n", record(&source).head.digest),
            "generation" => format!("generation = {:?}\n", name_of(&source)),
            _ => String::new(),
        };
        let mut command = world.command(&["run"]);
        command.env("NETBOOT_PUBLISHER_FAILPOINT", "stage:1:stop");
        let mut daemon = Daemon::start(command);
        hand_in(&world, name, &order(CANDIDATE, STABLE, &more));
        let stat = format!("/proc/{}/stat", daemon.child.id());
        until("the daemon to stop", || {
            fs::read_to_string(&stat).unwrap().contains(") T ")
        });
        if has_another {
            let pointer = world.published(CANDIDATE);
            fs::remove_file(&pointer).unwrap();
            symlink(format!("install@/{}", name_of(&older)), pointer).unwrap();
        }
        remove(&source);
        daemon.signal(rustix::process::Signal::CONT);
        daemon.wait_for_drop(name);
        world.assert_outcome(name, expected);
        daemon.stop();
        let linux = fs::read_to_string(world.published(STABLE).join("linux")).unwrap();
        let shown = if expected == "promoted" {
            "older"
        } else {
            "stable"
        };
        assert_eq!(linux, shown, "{name}\n{world}");
        if expected == "promoted" {
            assert_eq!(files(&current(&world, STABLE)), files(&older), "{name}");
        }
        let staging = world.tree.join(".netboot-publisher/staging");
        assert_eq!(names(&staging), Vec::<String>::new(), "{name}");
    }
}

/// A user's order, signed or not.
fn bring_order(world: &World, name: &str, text: &str, (uid, key): (u32, Option<&Path>)) -> Value {
    let drop = build(world, name, text, &[]);
    fs::remove_dir(drop.join("image")).unwrap();
    if let Some(key) = key {
        sign(&drop, key, FOR_US);
    }
    hand_over(world, name, uid);
    world.run_once();
    world.outcome(name).unwrap_or_else(|| panic!("{world}"))
}

#[track_caller]
fn assert_became(outcome: &Value, expected: &str) {
    let (word, reason) = expected.split_once(' ').unwrap_or((expected, ""));
    assert_eq!(outcome["outcome"], word, "{outcome:#}");
    assert_eq!(
        outcome["reason"].as_str().unwrap_or_default(),
        reason,
        "{outcome:#}"
    );
}

fn rights() {
    let keys = Keys::new();
    let world = World::with(&format!(
        "{KEEP_ALL}[[importer]]\nname = \"release\"\nusers = [\"games\"]\n\
         publish = [\"*/*/noble/*\", \"*/*/noble-old/*\"]\ncreate = [\"*/*/noble/*\"]\n\
         follow_others = false\nrequire = [\"files\", \"serial\"]\n\
         [[importer]]\nname = \"others\"\nusers = [\"man\"]\npublish = [\"*/*/noble-candidate/*\"]\n\
         rollback = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n"
    ));
    let source = publish(&world, "one", CANDIDATE);
    let digest = format!("digest = \"{}\"\n", record(&source).head.digest);
    let all = format!("{digest}serial = 1\n");
    let mut number = 0;
    let mut assert = |uid: u32, from: &str, target: &str, more: &str, expected: &str| {
        number += 1;
        let outcome = bring_order(
            &world,
            &format!("order-{number}"),
            &order(from, target, more),
            (uid, None),
        );
        let said = outcome["detail"].as_str().unwrap_or_default().to_string();
        if let Some((_, expected)) = expected.split_once(": ") {
            assert!(said.contains(expected), "{expected}: {outcome:#}");
        }
        assert_became(&outcome, expected.split(": ").next().unwrap());
    };
    let no_right = "rejected not-allowed: rule `others` does not let man promote to \
                    amd64/generic/noble/install; its `publish` allows */*/noble-candidate/*";
    assert(MAN, CANDIDATE, STABLE, &all, no_right);
    let lacking = "rejected not-allowed: rule `release` requires `digest`, `serial` in the manifest, as \
                   `promote --serial $(date +%s)` writes it";
    assert(GAMES, CANDIDATE, STABLE, "", lacking);
    let new = "rejected not-allowed: rule `release` does not let games make \
               amd64/generic/noble-old/install, which isn't there; its `create` allows */*/noble/*";
    assert(GAMES, CANDIDATE, THIRD, &all, new);
    assert(GAMES, CANDIDATE, STABLE, &all, "promoted");
    let of_root = "amd64/generic/noble/of-root";
    publish(&world, "two", of_root);
    let others = "rejected not-allowed: what is there was made current by no rule; its `follow_others` is false";
    assert(GAMES, CANDIDATE, of_root, &all, others);
    // Who may do what is asked for beforehand.
    for (user, target, says) in [
        ("games", of_root, "no, "),
        ("man", STABLE, "no, "),
        (
            "games",
            "amd64/generic/noble/new",
            "yes, by rule `release`, with `digest`, `serial` in the manifest",
        ),
        ("root", STABLE, "yes, no rule is needed"),
    ] {
        let said = text(&world.run(&["may", user, "promote", target]));
        assert!(said.contains(says), "{user} {target}: {said}");
    }
    drop(keys);
}

/// A rule that asks for a signature with one of these keys, by whoever brings it; `more` rules follow.
fn signed_world(keys: &Keys, more: &str) -> World {
    World::with(&format!(
        "{KEEP_ALL}[[importer]]\nname = \"team\"\nkeys = [{:?}]\npublish = [\"*/*/*/*\"]\n{more}",
        keys.public("ed25519")
    ))
}

const UNSIGNED_TOO: &str = "[[importer]]\nname = \"others\"\npublish = [\"*/*/*/*\"]\n";

/// Publishes a signed image.
fn publish_signed(world: &World, keys: &Keys, name: &str, target: &str) -> PathBuf {
    let files = [("linux", name), ("boot/initrd.gz", "initrd")];
    let more = "\"menu\" = { link = \"boot/initrd.gz\" }\n\"empty\" = { folder = true }\n";
    let drop = build(
        world,
        name,
        &(listing(target, "version = \"1\"\n", &files) + more),
        &files,
    );
    symlink("boot/initrd.gz", drop.join("image/menu")).unwrap();
    fs::create_dir(drop.join("image/empty")).unwrap();
    sign(&drop, &keys.path("ed25519"), FOR_US);
    hand_over(world, name, GAMES);
    world.run_once();
    world.assert_outcome(name, "published");
    current(world, target)
}

/// Promotes by a signed order that names the image.
fn promote_signed(world: &World, keys: &Keys, name: &str, from: &str, target: &str) -> PathBuf {
    let digest = record(&current(world, from)).head.digest;
    let text = order(from, target, &format!("digest = \"{digest}\"\n"));
    let key = keys.path("ed25519");
    let outcome = bring_order(world, name, &text, (GAMES, Some(&key)));
    assert_became(&outcome, "promoted");
    assert_eq!(outcome["signer"], keys.fingerprint("ed25519"));
    current(world, target)
}

const PROOF: [&str; 5] = [
    ".manifest.toml",
    ".order.sig",
    ".order.toml",
    ".orders.json",
    ".sig",
];

/// Which parts of a proof stand beside a generation.
fn parts(generation: &Path) -> Vec<&'static str> {
    let is_there = |ending: &&str| beside(generation, ending).exists();
    PROOF.into_iter().filter(is_there).collect()
}

/// What `verify --signatures` finds: the kinds and details of one target, or of all.
fn found(world: &World, target: &str) -> Vec<[String; 2]> {
    let report = told_by(world, &["verify", "--signatures", target]);
    let word = |damage: &Value, key: &str| damage[key].as_str().unwrap().to_string();
    let damages = report["damages"].as_array().unwrap().iter();
    damages
        .map(|it| [word(it, "damage"), word(it, "detail")])
        .collect()
}

fn proven() {
    let keys = Keys::new();
    let world = signed_world(&keys, "");
    let source = publish_signed(&world, &keys, "one", CANDIDATE);
    let promoted = promote_signed(&world, &keys, "order", CANDIDATE, STABLE);
    assert_eq!(files(&promoted), files(&source));
    assert_eq!(
        parts(&promoted),
        [".manifest.toml", ".order.sig", ".order.toml", ".sig"]
    );
    for ending in [".manifest.toml", ".sig"] {
        let bytes = |of: &Path| fs::read(beside(of, ending)).unwrap();
        assert_eq!(bytes(&promoted), bytes(&source));
    }
    let kept = fs::read_to_string(beside(&promoted, ".order.toml")).unwrap();
    let digest = record(&source).head.digest;
    assert_eq!(
        kept,
        order(CANDIDATE, STABLE, &format!("digest = \"{digest}\"\n"))
    );
    let nothing = Vec::<[String; 2]>::new();
    assert_eq!(found(&world, "*/*/*/*"), nothing);
    // On, by a second order, whatever becomes of the place between.
    let third = promote_signed(&world, &keys, "on", STABLE, THIRD);
    assert_eq!(parts(&third), PROOF);
    let fourth = "amd64/generic/fourth/install";
    promote_signed(&world, &keys, "further", THIRD, fourth);
    publish_signed(&world, &keys, "two", CANDIDATE);
    promote_signed(&world, &keys, "again", CANDIDATE, STABLE);
    let back = order("", STABLE, "").replace("promote\"\nfrom = \"\"", "rollback\"");
    let back = format!("{back}digest = \"{digest}\"\n");
    let key = keys.path("ed25519");
    assert_became(
        &bring_order(&world, "back", &back, (GAMES, Some(&key))),
        "rolled-back",
    );
    assert_eq!(current(&world, STABLE), promoted);
    assert_eq!(found(&world, "*/*/*/*"), nothing);
    let report = told_by(&world, &["verify", "--signatures"]);
    assert_eq!(report["generations"], 6, "{report:#}");
    // The command signs as well.
    let arguments = ["promote", CANDIDATE, THIRD, "--sign", key.to_str().unwrap()];
    let output = command(&world, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let by_root = current(&world, THIRD);
    assert_eq!(
        parts(&by_root),
        [".manifest.toml", ".order.sig", ".order.toml", ".sig"]
    );
    assert_eq!(found(&world, "*/*/*/*"), nothing);
    // Nothing of the proof stays behind what is removed.
    let rules = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        rules.replace("\"1h\"\nkeep = 9", "\"0s\"\nkeep = 0"),
    )
    .unwrap();
    publish_signed(&world, &keys, "three", THIRD);
    world.run_once();
    let left = names(&world.tree.join(format!("{THIRD}@")));
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(found(&world, "*/*/*/*"), nothing);
    world.assert_at_rest();
}

fn unproven() {
    let keys = Keys::new();
    let world = signed_world(&keys, UNSIGNED_TOO);
    let source = publish_signed(&world, &keys, "signed", CANDIDATE);
    let digest = format!("digest = \"{}\"\n", record(&source).head.digest);
    // By an order that nobody has signed: it may make a new target, and nobody has signed the image for it.
    let outcome = bring_order(
        &world,
        "bare",
        &order(CANDIDATE, STABLE, &digest),
        (MAN, None),
    );
    assert_became(&outcome, "promoted");
    assert_eq!(outcome["signer"], Value::Null, "{outcome:#}");
    let promoted = current(&world, STABLE);
    assert_eq!(parts(&promoted), [".manifest.toml", ".sig"]);
    let unsigned = |what: &str| {
        let detail = "unsigned; expected a manifest and its signature beside the record";
        [["unsigned".to_string(), format!("{what}{detail}")]]
    };
    assert_eq!(found(&world, STABLE), unsigned("the order: "));
    // What was signed is followed by what is signed only.
    publish_signed(&world, &keys, "next", CANDIDATE);
    let outcome = bring_order(&world, "after", &order(CANDIDATE, STABLE, ""), (MAN, None));
    assert_became(&outcome, "rejected unsigned");
    let said = outcome["detail"].as_str().unwrap();
    let signer = keys.fingerprint("ed25519");
    assert!(
        said.contains(&format!(
            "what is current at {STABLE} was signed with {signer}"
        )),
        "{said}"
    );
    promote_signed(&world, &keys, "after-signed", CANDIDATE, STABLE);
    // An image that nobody has signed is told of as well, whoever has signed the order.
    let plain = "amd64/generic/plain/install";
    build(&world, "plain", &manifest(plain), &[("linux", "plain")]);
    hand_over(&world, "plain", MAN);
    world.run_once();
    world.assert_outcome("plain", "published");
    promote_signed(&world, &keys, "of-plain", plain, THIRD);
    assert_eq!(
        parts(&current(&world, THIRD)),
        [".order.sig", ".order.toml"]
    );
    assert_eq!(found(&world, THIRD), unsigned(""));
    let outcome = bring_order(&world, "over-it", &order(plain, THIRD, ""), (MAN, None));
    assert_became(&outcome, "rejected unsigned");
}

/// Puts another text into a file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Changes the order that is kept, signs it again, and has the record name it.
fn forge_order(it: &Path, keys: &Keys, kind: &str, change: impl FnOnce(String) -> String) {
    let kept = beside(it, ".order.toml");
    let before = fs::read_to_string(&kept).unwrap();
    let after = change(before.clone());
    fs::write(&kept, &after).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("manifest.toml"), &after).unwrap();
    sign(folder.path(), &keys.path(kind), FOR_US);
    fs::copy(
        folder.path().join("manifest.toml.sig"),
        beside(it, ".order.sig"),
    )
    .unwrap();
    let [before, after] = [before, after].map(|text| Digest::of(text.as_bytes()).to_string());
    if before != after {
        edit(&beside(it, ".toml"), &before, &after);
    }
}

/// Takes parts of the proof of another generation.
fn take(it: &Path, other: &Path, endings: &[&str]) {
    for ending in endings {
        fs::copy(beside(other, ending), beside(it, ending)).unwrap();
    }
}

/// One way to change what stands in the tree, given another promoted generation and the keys; and what
/// is found then.
type Change = (
    &'static str,
    fn(&Path, &Path, &Keys),
    &'static str,
    &'static str,
);

const CHANGES: &[Change] = &[
    (
        "order-byte",
        |it, _, _| edit(&beside(it, ".order.toml"), "format = 1", "format  = 1"),
        "signature",
        "the order: not of these bytes",
    ),
    (
        "order-target",
        |it, _, keys| {
            forge_order(it, keys, "ed25519", |text| {
                text.replace("purpose = \"order-target\"", "purpose = \"other\"")
            })
        },
        "manifest",
        "the order: is for amd64/generic/noble/other; expected amd64/generic/noble/order-target",
    ),
    (
        "order-from",
        |it, _, keys| {
            forge_order(it, keys, "ed25519", |text| {
                text.replace("noble-candidate", "elsewhere")
            })
        },
        "manifest",
        "the order: is to promote from amd64/generic/elsewhere/install; the record names ",
    ),
    (
        "order-digest",
        |it, _, keys| {
            let digest = record(it).head.digest.to_string();
            let other = Digest::of(b"").to_string();
            forge_order(it, keys, "ed25519", |text| text.replace(&digest, &other))
        },
        "manifest",
        "the order: is of the image e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855; \
         the record is of ",
    ),
    (
        "order-without-digest",
        |it, _, keys| {
            forge_order(it, keys, "ed25519", |text| {
                text.split("digest =").next().unwrap().to_string()
            })
        },
        "manifest",
        "the order: is of the image none; the record is of ",
    ),
    (
        "order-action",
        |it, _, keys| {
            forge_order(it, keys, "ed25519", |text| {
                text.split("action =").next().unwrap().to_string()
            })
        },
        "manifest",
        "the order: is no promotion",
    ),
    (
        "order-serial",
        |it, _, keys| forge_order(it, keys, "ed25519", |text| text + "serial = 7\n"),
        "manifest",
        "the order: says serial 7; the record says none",
    ),
    (
        "order-stranger",
        |it, _, keys| forge_order(it, keys, "ecdsa", |text| text),
        "unknown-key",
        "the order: signed with ",
    ),
    (
        "order-record",
        |it, _, _| {
            let kept = fs::read(beside(it, ".order.toml")).unwrap();
            let (is, other) = (Digest::of(&kept).to_string(), Digest::of(b"").to_string());
            edit(&beside(it, ".toml"), &is, &other);
        },
        "manifest",
        "the order: has sha256 ",
    ),
    (
        "another-order",
        |it, other, _| take(it, other, &[".order.toml", ".order.sig"]),
        "manifest",
        "the order: has sha256 ",
    ),
    (
        "no-order",
        |it, _, _| {
            fs::remove_file(beside(it, ".order.toml")).unwrap();
            fs::remove_file(beside(it, ".order.sig")).unwrap();
        },
        "manifest",
        "the order: missing; expected 20",
    ),
    (
        "no-order-signature",
        |it, _, _| fs::remove_file(beside(it, ".order.sig")).unwrap(),
        "signature",
        "the order: missing; expected 20",
    ),
    (
        "record-from",
        |it, _, _| {
            let other = "from = \"amd64/generic/elsewhere/install\"";
            edit(
                &beside(it, ".toml"),
                "from = \"amd64/generic/noble-candidate/install\"",
                other,
            );
        },
        "manifest",
        "the order: is to promote from amd64/generic/noble-candidate/install; the record names \
         amd64/generic/elsewhere/install",
    ),
    (
        "record-unpromoted",
        |it, _, _| {
            let path = beside(it, ".toml");
            let text = fs::read_to_string(&path).unwrap();
            let (head, rest) = text.split_once("[from.promoted]\n").unwrap();
            let (_, rest) = rest.split_once("\n\n").unwrap();
            fs::write(path, format!("{head}{rest}")).unwrap();
        },
        "manifest",
        "is for amd64/generic/noble-candidate/install; expected amd64/generic/noble/record-unpromoted",
    ),
    (
        "image-byte",
        |it, _, _| {
            edit(
                &beside(it, ".manifest.toml"),
                "version = \"1\"",
                "version = \"2\"",
            )
        },
        "signature",
        "not of these bytes",
    ),
    (
        "image-version",
        |it, _, _| edit(&beside(it, ".toml"), "version = \"1\"", "version = \"2\""),
        "manifest",
        "says version `1` and serial none; the record says version `2` and serial none",
    ),
    (
        "another-image",
        |it, other, _| {
            let digest = |of: &Path| {
                Digest::of(&fs::read(beside(of, ".manifest.toml")).unwrap()).to_string()
            };
            let before = digest(it);
            take(it, other, &[".manifest.toml", ".sig"]);
            edit(&beside(it, ".toml"), &before, &digest(it));
        },
        "manifest",
        "is for amd64/generic/other-candidate/install; expected amd64/generic/noble-candidate/install",
    ),
    (
        "no-image",
        |it, _, _| {
            fs::remove_file(beside(it, ".manifest.toml")).unwrap();
            fs::remove_file(beside(it, ".sig")).unwrap();
        },
        "manifest",
        "missing; expected 20",
    ),
];

fn every_change() {
    let keys = Keys::new();
    let world = signed_world(&keys, "");
    let other_candidate = "amd64/generic/other-candidate/install";
    publish_signed(&world, &keys, "one", CANDIDATE);
    publish_signed(&world, &keys, "two", other_candidate);
    let target = |name: &str| format!("amd64/generic/noble/{name}");
    let whole = promote_signed(&world, &keys, "whole", other_candidate, &target("whole"));
    for (name, change, ..) in CHANGES {
        let it = promote_signed(&world, &keys, name, CANDIDATE, &target(name));
        change(&it, &whole, &keys);
    }
    // Of several orders each counts.
    let chain = |name: &str| promote_signed(&world, &keys, name, &target("whole"), &target(name));
    let changed = chain("chain-changed");
    edit(
        &beside(&changed, ".orders.json"),
        "format = 1",
        "format  = 1",
    );
    let missing = chain("chain-missing");
    fs::remove_file(beside(&missing, ".orders.json")).unwrap();
    let shorter = chain("chain-shorter");
    fs::write(beside(&shorter, ".orders.json"), "[]").unwrap();

    // Records and files fit each other: who trusts the records sees nothing.
    assert_verified(&world);
    let is_for = format!("is for {other_candidate}; expected {}", target("whole"));
    let chains = [
        (
            "chain-changed",
            "signature",
            "an earlier order: not of these bytes",
        ),
        ("chain-missing", "manifest", &*is_for),
        ("chain-shorter", "manifest", &*is_for),
    ];
    let changes = CHANGES
        .iter()
        .map(|(name, _, kind, detail)| (*name, *kind, *detail));
    for (name, kind, detail) in changes.chain(chains) {
        let found = found(&world, &target(name));
        let [[is, said]] = &found[..] else {
            panic!("{name}: {found:?}")
        };
        assert_eq!(is, kind, "{name}: {said}");
        assert!(said.contains(detail), "{name}: {said}");
    }
    assert_eq!(found(&world, &target("whole")), Vec::<[String; 2]>::new());
    assert_eq!(found(&world, "*/*/*/*").len(), CHANGES.len() + 3);
}

fn signed_orders() {
    let keys = Keys::new();
    let world = signed_world(&keys, UNSIGNED_TOO);
    let source = publish_signed(&world, &keys, "one", CANDIDATE);
    let digest = format!("digest = \"{}\"\n", record(&source).head.digest);
    let key = keys.path("ed25519");
    let signed = |name: &str, more: &str, expected: &str| {
        let text = order(CANDIDATE, STABLE, more);
        let outcome = bring_order(&world, name, &text, (GAMES, Some(&key)));
        assert_became(&outcome, expected);
        outcome
    };
    // Whoever brings it again later would choose the image.
    let outcome = signed("bare", "", "rejected unsigned-files");
    let expected = "the order is signed and names no image; expected the image's `digest`";
    assert_eq!(outcome["detail"], expected);
    let stranger = keys.path("ecdsa");
    let text = order(CANDIDATE, STABLE, &digest);
    let outcome = bring_order(&world, "stranger", &text, (GAMES, Some(&stranger)));
    // A rule without keys lets it in; yet nobody has signed that a rule knows.
    assert_became(&outcome, "promoted");
    assert_eq!(found(&world, STABLE).len(), 1, "{world}");
    // What nobody knows to be signed is followed by what is.
    signed("first", &digest, "promoted");
    assert_eq!(parts(&current(&world, STABLE)).len(), 4);
    signed("same", &digest, "unchanged");
    let with = |serial: u64| format!("{digest}serial = {serial}\n");
    signed("serial", &with(2), "promoted");
    let kept = current(&world, STABLE);
    signed("serial-again", &with(2), "unchanged");
    signed("older", &with(1), "rejected stale");
    signed(
        "late",
        &format!("{digest}expires = \"2020-01-01T00:00:00Z\"\n"),
        "rejected expired",
    );
    // The serial is the target's, and not that of the image.
    let last = events(&world, STABLE).pop().unwrap();
    assert_eq!(last["serial"], 2, "{last:#}");
    assert!(
        events(&world, CANDIDATE)
            .iter()
            .all(|line| line["serial"].is_null())
    );
    assert_eq!(found(&world, "*/*/*/*").len(), 1, "that of the stranger");
    // An image for the target itself needs a higher one, as ever.
    let files = [("linux", "direct")];
    let drop = build(
        &world,
        "direct",
        &listing(STABLE, "serial = 2\n", &files),
        &files,
    );
    sign(&drop, &key, FOR_US);
    hand_over(&world, "direct", GAMES);
    world.run_once();
    world.assert_outcome("direct", "rejected stale");

    // A proof that is damaged comes back with the order.
    fs::remove_file(beside(&kept, ".order.sig")).unwrap();
    signed("repaired", &with(3), "promoted");
    fs::remove_file(beside(&current(&world, STABLE), ".sig")).unwrap();
    signed("repaired-again", &digest, "promoted");
    let again = current(&world, STABLE);
    assert_eq!(parts(&again).len(), 4);
    // Yet nothing is promoted that isn't what was signed.
    edit(
        &beside(&source, ".manifest.toml"),
        "version = \"1\"",
        "version = \"2\"",
    );
    let text = order(CANDIDATE, THIRD, &digest);
    let outcome = bring_order(&world, "damaged", &text, (GAMES, Some(&key)));
    assert_became(&outcome, "rejected unknown-generation");
    let said = outcome["detail"].as_str().unwrap();
    assert!(
        said.contains("is not what was signed; expected it undamaged"),
        "{said}"
    );
}
