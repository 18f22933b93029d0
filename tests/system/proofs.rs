//! `verify --signatures`: whether what somebody has signed says the same as record and files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use netboot_publisher::{Digest, FileMark, Listing, MessageId, Record};
use serde_json::{Value, json};

use crate::lab::keys::{FOR_US, Keys, sign};
use crate::lab::world::{World, manifest, names, test, text};
use crate::trust::{GAMES, MAN, NEEDS, build, hand_over, listing};

const KEEP_ALL: &str = "min_age = \"1h\"";
const KEEP_NONE: &str = "min_age = \"0s\"\nkeep = 0";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a signed tree is proven, also after a rollback, a restore and what retention removes",
            NEEDS,
            proven,
        ),
        test(
            "whatever was changed so that it fits is found by the signature, and is named",
            NEEDS,
            every_change,
        ),
        test(
            "an old key proves what is there, and a key that no rule has proves nothing",
            NEEDS,
            keys_of_rules,
        ),
        test(
            "a signed drop repairs what proved the same image, and leaves it alone where that is whole",
            NEEDS,
            repaired,
        ),
        test(
            "a signed drop repairs what proved the same image as long as its serial is the last one",
            NEEDS,
            repaired_by_serial,
        ),
        test(
            "what was signed is followed by what is signed only, after anybody's rollback too",
            NEEDS,
            followed,
        ),
        test(
            "every generation is proven beside a daemon that swaps and removes signed ones",
            NEEDS,
            beside_a_daemon,
        ),
    ]
}

fn target(name: &str) -> String {
    format!("amd64/generic/noble/{name}")
}

/// With one rule that asks for this key, and this for retention.
fn world(keys: &Keys, retention: &str) -> World {
    World::with(&format!(
        "[limits]\nmin_free_space = \"0B\"\n[retention]\n{retention}\n[[importer]]\nname = \"team\"\n\
         users = [\"games\"]\nkeys = [{:?}]\npublish = [\"*/*/*/*\"]\n",
        keys.public("ed25519")
    ))
}

/// Changes the configuration.
fn configure(world: &World, from: &str, to: &str) {
    let text = fs::read_to_string(&world.config).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(&world.config, text.replace(from, to)).unwrap();
}

/// Drops a signed image of files, a link and an empty folder, as a user may.
fn bring(world: &World, keys: &Keys, kind: &str, (name, target, bytes): (&str, &str, &str)) {
    let files = [("linux", bytes), ("boot/initrd.gz", "initrd")];
    let more = "\"menu\" = { link = \"boot/initrd.gz\" }\n\"empty\" = { folder = true }\n";
    let text = listing(target, "version = \"1\"\n", &files) + more;
    let drop = build(world, name, &text, &files);
    symlink("boot/initrd.gz", drop.join("image/menu")).unwrap();
    fs::create_dir(drop.join("image/empty")).unwrap();
    sign(&drop, &keys.path(kind), FOR_US);
    hand_over(world, name, GAMES);
}

/// Publishes such an image, and returns its generation.
fn publish(world: &World, keys: &Keys, name: &str, target: &str, bytes: &str) -> PathBuf {
    bring(world, keys, "ed25519", (name, target, bytes));
    world.run_once();
    world.assert_outcome(name, "published");
    world.published(target).canonicalize().unwrap()
}

/// The file beside a generation with this at the end of its name.
fn beside(generation: &Path, ending: &str) -> PathBuf {
    let name = generation.file_name().unwrap().to_str().unwrap();
    generation.with_file_name(format!("{name}{ending}"))
}

fn verify(world: &World, arguments: &[&str]) -> (i32, Value) {
    let output = world.run(&[&["verify", "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (output.status.code().unwrap(), report)
}

fn assert_proven(world: &World, generations: usize) {
    let (code, report) = verify(world, &["--signatures"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["damages"], json!([]));
    assert_eq!(report["generations"], generations, "{report:#}");
}

fn proven() {
    let keys = Keys::new();
    let world = world(&keys, KEEP_ALL);
    publish(&world, &keys, "one", &target("a"), "one");
    publish(&world, &keys, "two", &target("a"), "two");
    publish(&world, &keys, "other", &target("b"), "two");
    assert_proven(&world, 3);
    let shown = text(&world.run(&["verify", "--signatures"]));
    assert!(shown.contains(": all as published and signed\n"), "{shown}");
    // Root needs no signature, and the one of the image stays.
    let order = world.run(&["rollback", &target("a")]);
    assert!(order.status.success(), "{}", text(&order));
    world.run_once();
    let linux = world.published(&target("a")).join("linux");
    assert_eq!(fs::read(linux).unwrap(), b"one");
    assert_proven(&world, 3);
    // A restore elsewhere.
    let restored = world.root.join("restored");
    fs::create_dir(&restored).unwrap();
    let mut tar = Command::new("sh");
    tar.args(["-c", "tar -C \"$0\" -c . | tar -C \"$1\" -xp"]);
    assert!(
        tar.args([&world.tree, &restored])
            .status()
            .unwrap()
            .success()
    );
    fs::remove_dir_all(&world.tree).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").args([&restored, &world.tree]);
    assert!(copy.status().unwrap().success());
    assert_proven(&world, 3);
    // Nothing of what retention removes is left to be proven.
    configure(&world, KEEP_ALL, KEEP_NONE);
    world.run_once();
    assert_proven(&world, 2);
    let kept = names(&world.published(&format!("{}@", target("a"))));
    assert_eq!(kept.len(), 4, "{kept:?}");
}

/// The image digest, as its canonical form is written down.
pub fn digest(listing: &Listing) -> Digest {
    let mut lines = Vec::new();
    for (path, FileMark { sha256, size }) in &listing.files {
        lines.push((path, format!("f {size} {sha256} {path}\0")));
    }
    for path in &listing.folders {
        lines.push((path, format!("d {path}\0")));
    }
    for (path, to) in &listing.links {
        lines.push((path, format!("l {path}\0{to}\0")));
    }
    lines.sort();
    let lines: String = lines.into_iter().map(|(_, line)| line).collect();
    Digest::of(lines.as_bytes())
}

/// Changes a record so that it contradicts neither itself nor what `change` does to the files.
fn forge(generation: &Path, change: impl FnOnce(&mut Record)) {
    let path = beside(generation, ".toml");
    let mut record = Record::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut record);
    record.head.digest = digest(&record.listing);
    record.head.file_count = record.listing.files.len();
    fs::write(path, record.to_toml()).unwrap();
}

/// Puts another kernel into a generation, and into its record.
fn replace_kernel(generation: &Path) {
    const EVIL: &[u8] = b"evil";
    fs::write(generation.join("linux"), EVIL).unwrap();
    forge(generation, |record| {
        let mark = FileMark {
            sha256: Digest::of(EVIL),
            size: EVIL.len() as u64,
        };
        record.listing.files.insert("linux".to_string(), mark);
    });
}

/// Puts another text into a record's head.
fn edit(generation: &Path, from: &str, to: &str) {
    let path = beside(generation, ".toml");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Puts the manifest or the signature of another generation beside one.
fn take(generation: &Path, other: &Path, ending: &str) {
    fs::copy(beside(other, ending), beside(generation, ending)).unwrap();
}

/// Signs what is kept once more.
fn sign_again(generation: &Path, key: &Path, options: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let signed = folder.path().join("manifest.toml");
    fs::copy(beside(generation, ".manifest.toml"), &signed).unwrap();
    sign(folder.path(), key, options);
    let signature = folder.path().join("manifest.toml.sig");
    fs::copy(signature, beside(generation, ".sig")).unwrap();
}

/// One way to change what stands in the tree, given another generation and the keys; and what is
/// found then.
type Change = (
    &'static str,
    fn(&Path, &Path, &Keys),
    &'static str,
    &'static str,
);

const SIGNATURE: &str = ".sig";
const MANIFEST: &str = ".manifest.toml";

const CHANGES: &[Change] = &[
    (
        "byte",
        |it, _, _| {
            let path = beside(it, MANIFEST);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("version = \"1\"", "version = \"2\"")).unwrap();
        },
        "signature",
        "not of these bytes; expected the manifest as it was when it was signed",
    ),
    (
        "kernel",
        |it, _, _| replace_kernel(it),
        "manifest",
        "is of another image: `linux` has sha256 \
         b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73; the manifest says sha256 ",
    ),
    (
        "link",
        |it, _, _| {
            fs::remove_file(it.join("menu")).unwrap();
            symlink("linux", it.join("menu")).unwrap();
            forge(it, |record| {
                let links = &mut record.listing.links;
                links.insert("menu".to_string(), "linux".to_string());
            });
        },
        "manifest",
        "is of another image: `menu` is no such link; the manifest says link = \"boot/initrd.gz\"",
    ),
    (
        "more-links",
        |it, _, _| {
            symlink("linux", it.join("more")).unwrap();
            forge(it, |record| {
                let links = &mut record.listing.links;
                links.insert("more".to_string(), "linux".to_string());
            });
        },
        "manifest",
        "is of another image: the link `more` is not in the manifest, which is signed",
    ),
    (
        "more-files",
        |it, _, _| {
            fs::write(it.join("more"), "").unwrap();
            forge(it, |record| {
                let (sha256, size) = (Digest::of(b""), 0);
                let files = &mut record.listing.files;
                files.insert("more".to_string(), FileMark { sha256, size });
            });
        },
        "manifest",
        "is of another image: `more` is not in the manifest",
    ),
    (
        "more-folders",
        |it, _, _| {
            fs::create_dir(it.join("more")).unwrap();
            forge(it, |record| {
                record.listing.folders.insert("more".to_string());
            });
        },
        "manifest",
        "is of another image: the empty folder `more` is not in the manifest",
    ),
    (
        "fewer-files",
        |it, _, _| {
            fs::remove_file(it.join("linux")).unwrap();
            forge(it, |record| {
                assert!(record.listing.files.remove("linux").is_some())
            });
        },
        "manifest",
        "is of another image: `linux` is no regular file; the manifest says sha256 ",
    ),
    (
        "fewer-folders",
        |it, _, _| {
            fs::remove_dir(it.join("empty")).unwrap();
            forge(it, |record| assert!(record.listing.folders.remove("empty")));
        },
        "manifest",
        "is of another image: `empty` is no folder; the manifest says folder = true",
    ),
    (
        "version",
        |it, _, _| edit(it, "version = \"1\"", "version = \"2\""),
        "manifest",
        "says version `1` and serial none; the record says version `2` and serial none",
    ),
    (
        "serial",
        |it, _, _| edit(it, "version = \"1\"", "version = \"1\"\nserial = 7"),
        "manifest",
        "says version `1` and serial none; the record says version `1` and serial 7",
    ),
    (
        "record",
        |it, _, _| {
            let is = Digest::of(&fs::read(beside(it, MANIFEST)).unwrap()).to_string();
            edit(it, &is, &Digest::of(b"").to_string());
        },
        "manifest",
        "; the record names e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ),
    (
        "no-signature",
        |it, _, _| fs::remove_file(beside(it, SIGNATURE)).unwrap(),
        "signature",
        "missing; expected 20",
    ),
    (
        "no-manifest",
        |it, _, _| fs::remove_file(beside(it, MANIFEST)).unwrap(),
        "manifest",
        "missing; expected 20",
    ),
    (
        "no-proof",
        |it, _, _| {
            for ending in [MANIFEST, SIGNATURE] {
                fs::remove_file(beside(it, ending)).unwrap();
            }
        },
        "manifest",
        "missing; expected 20",
    ),
    (
        "folder-for-it",
        |it, _, _| {
            fs::remove_file(beside(it, SIGNATURE)).unwrap();
            fs::create_dir(beside(it, SIGNATURE)).unwrap();
        },
        "signature",
        "reading ",
    ),
    (
        "another-signature",
        |it, other, _| take(it, other, SIGNATURE),
        "signature",
        "not of these bytes",
    ),
    (
        "another-proof",
        |it, other, _| {
            take(it, other, SIGNATURE);
            take(it, other, MANIFEST);
        },
        "manifest",
        "has sha256 ",
    ),
    (
        "another-target",
        |it, other, _| {
            let old = Digest::of(&fs::read(beside(it, MANIFEST)).unwrap()).to_string();
            take(it, other, SIGNATURE);
            take(it, other, MANIFEST);
            let new = Digest::of(&fs::read(beside(it, MANIFEST)).unwrap()).to_string();
            edit(it, &old, &new);
        },
        "manifest",
        "is for amd64/generic/noble/whole; expected amd64/generic/noble/another-target",
    ),
    (
        "namespace",
        |it, _, keys| sign_again(it, &keys.path("ed25519"), &["-n", "file"]),
        "signature",
        "made for the namespace `file`; expected `netboot-publisher`",
    ),
    (
        "stranger",
        |it, _, keys| sign_again(it, &keys.path("ecdsa"), FOR_US),
        "unknown-key",
        "which no rule has; expected a key of `keys` or `old_keys`",
    ),
    (
        "pointer",
        |it, _, _| {
            let pointer = it.parent().unwrap().with_file_name("pointer");
            fs::remove_file(&pointer).unwrap();
            fs::create_dir(pointer).unwrap();
        },
        "unsigned",
        "something that the daemon did not make, and nobody has signed; expected its own link",
    ),
];

fn every_change() {
    let keys = Keys::new();
    let world = world(&keys, KEEP_ALL);
    let whole = publish(&world, &keys, "whole", &target("whole"), "kernel");
    for (name, change, ..) in CHANGES {
        let generation = publish(&world, &keys, name, &target(name), "kernel");
        change(&generation, &whole, &keys);
    }
    world.drop_image("unsigned", &target("unsigned"), &[("linux", b"kernel")]);
    world.run_once();
    world.assert_outcome("unsigned", "published");
    // One that isn't current counts as well.
    let old = publish(&world, &keys, "old-1", &target("old"), "one");
    publish(&world, &keys, "old-2", &target("old"), "two");
    replace_kernel(&old);

    // Records and files fit each other: who trusts the records sees nothing.
    let (code, report) = verify(&world, &[]);
    assert_eq!(code, 0, "{report:#}");
    let (code, report) = verify(&world, &["--signatures"]);
    assert_eq!(code, 1, "{report:#}");
    let found = report["damages"].as_array().unwrap();
    let changes = CHANGES
        .iter()
        .map(|(name, _, kind, detail)| (*name, *kind, *detail));
    let others = [
        (
            "unsigned",
            "unsigned",
            "unsigned; expected a manifest and its signature beside the record",
        ),
        ("old", "manifest", "is of another image: `linux` has sha256"),
    ];
    for (name, kind, detail) in changes.chain(others) {
        let of_it: Vec<_> = found
            .iter()
            .filter(|it| it["target"] == target(name))
            .collect();
        let [damage] = &of_it[..] else {
            panic!("{name}: {report:#}")
        };
        assert_eq!(damage["damage"], kind, "{name}: {damage:#}");
        let said = damage["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{name}: {said}");
        let expected = match name {
            "pointer" => Value::Null,
            "old" => old.file_name().unwrap().to_str().unwrap().into(),
            name => {
                let current = world.published(&target(name)).canonicalize().unwrap();
                current.file_name().unwrap().to_str().unwrap().into()
            }
        };
        assert_eq!(damage["generation"], expected, "{name}");
    }
    assert_eq!(found.len(), CHANGES.len() + 2, "{report:#}");

    // One that is damaged and one that isn't proven are told apart.
    fs::write(whole.join("linux"), "KERNEL").unwrap();
    let shown = text(&world.run(&["verify", "--signatures"]));
    let verdict = format!(": 1 damaged, {} unproven\n", CHANGES.len() + 2);
    assert!(shown.contains(&verdict), "{shown}");
    let generation = old.file_name().unwrap().to_str().unwrap();
    let line = format!("unproven: {} {generation} manifest: is of", target("old"));
    assert!(shown.contains(&line), "{shown}");
    let output = world.run(&["verify", "--signatures", &target("unsigned")]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(": 1 unproven\n"), "{shown}");
    // What isn't looked at needs no proof.
    let (code, _) = verify(&world, &["--signatures", "*/*/*/stranger"]);
    assert_eq!(code, 1);
    configure(&world, &keys.public("ed25519"), &keys.public("ecdsa"));
    let (code, report) = verify(&world, &["--signatures", "*/*/*/stranger"]);
    assert_eq!(code, 0, "{report:#}");
}

fn keys_of_rules() {
    let keys = Keys::new();
    let world = world(&keys, KEEP_ALL);
    publish(&world, &keys, "drop", &target("a"), "kernel");
    let rule = format!("keys = [{:?}]", keys.public("ed25519"));
    let other = format!("keys = [{:?}]", keys.public("ecdsa"));
    configure(&world, &rule, &format!("{other}\nold_{rule}"));
    assert_proven(&world, 1);
    configure(&world, &format!("\nold_{rule}"), "");
    let (code, report) = verify(&world, &["--signatures"]);
    assert_eq!(code, 1, "{report:#}");
    let damage = &report["damages"][0];
    assert_eq!(damage["damage"], "unknown-key", "{report:#}");
    let said = damage["detail"].as_str().unwrap();
    let expected = format!(
        "signed with {}, which no rule has; ",
        keys.fingerprint("ed25519")
    );
    assert!(said.starts_with(&expected), "{said}");
    // A log for programs has an entry of its own kind.
    configure(&world, "[limits]", "[log]\nformat = \"json\"\n[limits]");
    let output = world.run(&["verify", "--signatures"]);
    let entry: Value = serde_json::from_slice(&output.stderr).unwrap();
    let kind = MessageId::Unproven.to_string();
    assert_eq!(entry["message_id"], kind, "{entry:#}");
    assert_eq!(entry["target"], target("a"), "{entry:#}");
    configure(&world, &other, "");
    let output = world.run(&["verify", "--signatures"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "netboot-publisher: no importer rule has `keys` or `old_keys`; expected at least one, to prove \
         signatures by\n"
    );
    assert_eq!(verify(&world, &[]).0, 0);
}

fn repaired() {
    let keys = Keys::new();
    let world = world(&keys, "min_age = \"1h\"\nkeep = 9");
    let again = |name: &str, bytes: &str, expected: &str| {
        bring(&world, &keys, "ed25519", (name, &target("a"), bytes));
        world.run_once();
        world.assert_outcome(name, expected);
        world.published(&target("a")).canonicalize().unwrap()
    };
    let first = again("first", "one", "published");
    assert_eq!(again("same", "one", "unchanged"), first);
    fs::remove_file(beside(&first, SIGNATURE)).unwrap();
    let second = again("second", "one", "published");
    assert_ne!(second, first);
    let (_, report) = verify(&world, &["--signatures"]);
    let unproven = report["damages"].as_array().unwrap();
    assert_eq!(unproven.len(), 1, "{report:#}");
    let name = first.file_name().unwrap().to_str().unwrap();
    assert_eq!(unproven[0]["generation"], name, "{report:#}");
    // One that is kept comes back with its proof, or not at all.
    again("third", "two", "published");
    assert_eq!(again("back", "one", "published"), second);
    fs::write(beside(&second, MANIFEST), manifest(&target("a"))).unwrap();
    again("fourth", "two", "published");
    let third = again("anew", "one", "published");
    assert!(![&first, &second].contains(&&third));
    // Another kernel, with a record to match, is found by the manifest.
    replace_kernel(&third);
    let fourth = again("clean", "one", "published");
    assert_ne!(fourth, third);
    fs::write(beside(&fourth, SIGNATURE), "no signature").unwrap();
    assert_ne!(again("signed", "one", "published"), fourth);
    configure(&world, "min_age = \"1h\"\nkeep = 9", KEEP_NONE);
    world.run_once();
    assert_proven(&world, 1);
    // No two signatures of such a key are the same; each proves as much.
    configure(&world, &keys.public("ed25519"), &keys.public("ecdsa"));
    for (name, expected) in [("random", "published"), ("anew-random", "unchanged")] {
        bring(&world, &keys, "ecdsa", (name, &target("b"), "one"));
        world.run_once();
        world.assert_outcome(name, expected);
    }
}

fn repaired_by_serial() {
    let keys = Keys::new();
    let world = world(&keys, "min_age = \"1h\"\nkeep = 9");
    let target = target("a");
    let bring = |name: &str, serial: u32, bytes: &str| {
        let files = [("linux", bytes)];
        let text = listing(&target, &format!("serial = {serial}\n"), &files);
        sign(
            &build(&world, name, &text, &files),
            &keys.path("ed25519"),
            FOR_US,
        );
        hand_over(&world, name, GAMES);
        world.run_once();
        world.published(&target).canonicalize().unwrap()
    };
    let unproven = || {
        let (_, report) = verify(&world, &["--signatures"]);
        let damages = report["damages"].as_array().unwrap().iter();
        let of = |damage: &Value| damage["generation"].as_str().unwrap().to_string();
        damages.map(of).collect::<Vec<_>>()
    };
    let name = |generation: &Path| {
        generation
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_string()
    };
    let one = bring("one", 7, "one");
    let two = bring("two", 9, "two");
    world.assert_outcome("two", "published");
    fs::remove_file(beside(&two, SIGNATURE)).unwrap();
    assert_eq!(unproven(), [name(&two)]);
    let again = bring("two-again", 9, "two");
    world.assert_outcome("two-again", "published");
    assert!(![&one, &two].contains(&&again));
    assert_eq!(unproven(), [name(&two)], "what is current is proven");

    // Where the record has gone nobody knows what the serial was of.
    let record = fs::read(beside(&again, ".toml")).unwrap();
    fs::remove_file(beside(&again, ".toml")).unwrap();
    bring("without-record", 9, "two");
    world.assert_outcome("without-record", "rejected stale");
    fs::write(beside(&again, ".toml"), record).unwrap();

    let order = world.run(&["rollback", &target, "--to", &name(&one)]);
    assert!(order.status.success(), "{}", text(&order));
    world.run_once();
    assert_eq!(world.published(&target).canonicalize().unwrap(), one);
    fs::remove_file(beside(&one, SIGNATURE)).unwrap();
    bring("one-again", 7, "one");
    world.assert_outcome("one-again", "rejected stale");
    let anew = bring("one-anew", 10, "one");
    world.assert_outcome("one-anew", "published");
    let unproven = unproven();
    assert!(!unproven.contains(&name(&anew)), "{unproven:?}");
}

fn beside_a_daemon() {
    let keys = Keys::new();
    let world = world(&keys, KEEP_NONE);
    publish(&world, &keys, "first", &target("a"), "first");
    let mut daemon = world.daemon();
    for number in 0..30 {
        let name = format!("v{number}");
        bring(&world, &keys, "ed25519", (&name, &target("a"), &name));
        let (code, report) = verify(&world, &["--signatures"]);
        assert_eq!(code, 0, "{report:#}\n{world}");
        daemon.wait_for_drop(&name);
        world.assert_outcome(&name, "published");
    }
    daemon.stop();
}

fn followed() {
    let keys = Keys::new();
    let world = world(&keys, KEEP_ALL);
    let rules = fs::read_to_string(&world.config).unwrap();
    let other = "\n[[importer]]\nname = \"other\"\nusers = [\"man\"]\npublish = [\"*/*/*/*\"]\n";
    fs::write(&world.config, rules + other).unwrap();
    let target = target("a");
    publish(&world, &keys, "one", &target, "one");
    publish(&world, &keys, "two", &target, "two");
    let unsigned = |name: &str| {
        build(&world, name, &manifest(&target), &[("linux", name)]);
        hand_over(&world, name, MAN);
        world.run_once();
        let outcome = world.assert_outcome(name, "rejected unsigned");
        assert_eq!(outcome["rule"], "other", "{outcome:#}");
    };
    unsigned("before");
    let order = world.run(&["rollback", &target]);
    assert!(order.status.success(), "{}", text(&order));
    world.run_once();
    unsigned("after");
    let history = world.run(&["history", &target, "--json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    let last = history["events"]
        .as_array()
        .and_then(|all| all.last())
        .unwrap();
    assert_eq!(last["event"], "rolled-back", "{history:#}");
    assert_eq!(last["vouched"], Value::Null, "nobody has signed the order");
    assert_proven(&world, 2);
    // A withdrawal ends that: what comes then is new.
    let order = world.run(&["withdraw", &target]);
    assert!(order.status.success(), "{}", text(&order));
    world.run_once();
    build(&world, "new", &manifest(&target), &[("linux", "new")]);
    hand_over(&world, "new", MAN);
    world.run_once();
    let outcome = world.assert_outcome("new", "published");
    assert_eq!(outcome["rule"], "other", "{outcome:#}");
}
