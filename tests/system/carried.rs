//! Orders that carry the image which they name: a tree that never had the image isn't stuck.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use netboot_publisher::{Digest, Record};
use serde_json::{Value, json};

use crate::lab::keys::{FOR_US, Keys, sign, sign_file};
use crate::lab::world::{
    World, listing as listing_of, manifest, names, snapshot, test, text, until,
};
use crate::proofs::digest;
use crate::trust::{GAMES, MAN, NEEDS, NEWS, build, hand_over, listing};

const TARGET: &str = "amd64/generic/noble/install";
const CANDIDATE: &str = "amd64/generic/noble-candidate/install";
const THIRD: &str = "amd64/generic/noble-old/install";

const KEEP_ALL: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\nkeep = 9\n";

/// The files of an image.
type Files<'f> = &'f [(&'f str, &'f str)];

const OLD: Files<'static> = &[("linux", "old"), ("initrd.gz", "the same")];
const NEW: Files<'static> = &[("linux", "new"), ("initrd.gz", "the same")];
const OLDER: Files<'static> = &[("linux", "older"), ("initrd.gz", "the same")];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "an order makes the image current that it carries, where the tree never had it",
            &[],
            never_had,
        ),
        test(
            "a carried image is not looked at where the tree has it, and current already is unchanged",
            &[],
            had,
        ),
        test(
            "a damaged generation is repaired by an order that carries its image",
            &[],
            damaged,
        ),
        test(
            "a carried image that is not what the order says is refused, and changes nothing",
            &[],
            lies,
        ),
        test(
            "an order that is written in place waits for the image that it carries",
            &[],
            in_place,
        ),
        test(
            "a carried image makes a target, replaces what was made by hand, and meets limits and notes",
            &[],
            as_publications_do,
        ),
        test(
            "the time and the serial of a carried image count for nothing, those of the order count",
            NEEDS,
            serials,
        ),
        test(
            "what a signed order carries is signed by a key of the rules, an old one too",
            NEEDS,
            signers,
        ),
        test(
            "a signed order and the signed image that it carries prove the tree, whatever comes later",
            NEEDS,
            proven,
        ),
        test(
            "the history keeps signed orders that no generation keeps, to the byte",
            NEEDS,
            kept_orders,
        ),
    ]
}

/// The order to go back to an image, or with `from` to promote it from there, and what else it says.
fn order(target: &str, from: Option<&str>, of: Files<'_>, more: &str) -> String {
    let action = match from {
        Some(from) => format!("action = \"promote\"\nfrom = {from:?}\n"),
        None => "action = \"rollback\"\n".to_string(),
    };
    let digest = digest_of(of);
    format!("{}{action}digest = \"{digest}\"\n{more}", manifest(target))
}

fn digest_of(files: Files<'_>) -> Digest {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        fs::write(folder.path().join(path), bytes).unwrap();
    }
    digest(&listing_of(folder.path()))
}

/// Makes a drop of an order that carries these files with this manifest of theirs, under a hidden name.
fn carry(world: &World, name: &str, order: &str, image: &str, files: Files<'_>) -> PathBuf {
    let drop = build(world, name, order, files);
    fs::write(drop.join("image.toml"), image).unwrap();
    drop
}

/// Hands over what was made, and has the daemon see to it.
#[track_caller]
fn settle(world: &World, name: &str, expected: &str) -> Value {
    let owner = fs::metadata(world.incoming(&format!(".{name}")))
        .unwrap()
        .uid();
    hand_over(world, name, owner);
    world.run_once();
    world.assert_outcome(name, expected)
}

#[track_caller]
fn publish(world: &World, name: &str, target: &str, files: Files<'_>) -> PathBuf {
    build(world, name, &listing(target, "", files), files);
    settle(world, name, "published");
    current(world, target)
}

fn current(world: &World, target: &str) -> PathBuf {
    world.published(target).canonicalize().unwrap()
}

fn beside(generation: &Path, ending: &str) -> PathBuf {
    let name = generation.file_name().unwrap().to_str().unwrap();
    generation.with_file_name(format!("{name}{ending}"))
}

fn record(generation: &Path) -> Record {
    Record::parse(&fs::read_to_string(beside(generation, ".toml")).unwrap()).unwrap()
}

/// What the history of a target tells, the oldest first.
fn events(world: &World, target: &str) -> Vec<Value> {
    let output = world.run(&["history", "--json", target]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told["events"].as_array().unwrap().clone()
}

fn assert_has(generation: &Path, files: Files<'_>) {
    let found = listing_of(generation);
    assert_eq!(digest(&found), digest_of(files), "{found:?}");
}

#[track_caller]
fn assert_verified(world: &World, more: &[&str]) {
    let output = world.run(&[&["verify"], more].concat());
    assert!(output.status.success(), "{}", text(&output));
}

const BOOT: &str = "version = \"v1\"\n[boot]\nkernel = \"linux\"\ncmdline = \"quiet\"\n";

fn never_had() {
    let world = World::with(KEEP_ALL);
    let old = publish(&world, "one", TARGET, OLD);
    let image = listing(TARGET, BOOT, NEW);
    carry(&world, "back", &order(TARGET, None, NEW, ""), &image, NEW);
    let outcome = settle(&world, "back", "rolled-back");
    let back = current(&world, TARGET);
    assert_has(&back, NEW);
    let inode = |of: &Path| of.join("initrd.gz").metadata().unwrap().ino();
    assert_eq!(inode(&back), inode(&old), "what is the same is one file");
    let name = |of: &Path| of.file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!(outcome["generation"], name(&back));
    assert_eq!(outcome["digest"], digest_of(NEW).to_string());
    let head = record(&back).head;
    assert_eq!(head.version.as_deref(), Some("v1"));
    assert_eq!(head.from.unwrap().drop, "back");
    let stored = fs::read_to_string(beside(&back, ".toml")).unwrap();
    assert!(stored.contains("\ncmdline = \"quiet\"\n"), "{stored}");
    let told = events(&world, TARGET).pop().unwrap();
    assert_eq!(told["event"], "rolled-back", "{told:#}");
    assert_eq!([&told["from"], &told["to"]], [&name(&old), &name(&back)]);
    // The rollback before it is undone by another, which goes back to what was there.
    let drop = world.run(&["rollback", TARGET]).stdout;
    world.run_once();
    let drop = String::from_utf8(drop).unwrap();
    world.assert_outcome(drop.trim_end(), "rolled-back");
    assert_eq!(current(&world, TARGET), old);

    let promotion = order(TARGET, Some(CANDIDATE), &[("linux", "third")], "");
    let files: Files<'_> = &[("linux", "third")];
    let image = listing(CANDIDATE, "version = \"v3\"\n", files);
    carry(&world, "promote", &promotion, &image, files);
    let outcome = settle(&world, "promote", "promoted");
    let promoted = current(&world, TARGET);
    assert_has(&promoted, files);
    assert_eq!(outcome["generation"], name(&promoted));
    let stored = fs::read_to_string(beside(&promoted, ".toml")).unwrap();
    let of_it = format!("[from.promoted]\nfrom = {CANDIDATE:?}\n\n");
    assert!(stored.contains(&of_it), "{stored}");
    let told = events(&world, TARGET).pop().unwrap();
    assert_eq!(told["event"], "promoted", "{told:#}");
    let from = json!({"from": {"target": CANDIDATE}});
    assert_eq!(told["image"]["promoted"], from, "{told:#}");
    // Nothing is known of where it was promoted from.
    assert!(
        !world
            .tree
            .join(".history")
            .join(format!("{CANDIDATE}.jsonl"))
            .exists()
    );
    let shown = text(&world.run(&["status", TARGET]));
    let from = format!("{TARGET} was promoted from {CANDIDATE}\n");
    assert!(shown.contains(&from), "{shown}");
    let shown = text(&world.run(&["show", "promote"]));
    assert!(
        shown.contains(&format!("Promoted: from {CANDIDATE}\n")),
        "{shown}"
    );
    assert_verified(&world, &[]);
    world.assert_at_rest();
}

fn had() {
    let world = World::with(KEEP_ALL);
    let old = publish(&world, "one", TARGET, OLD);
    let new = publish(&world, "two", TARGET, NEW);
    // Nobody looks at what isn't needed.
    let garbage: Files<'_> = &[("linux", "garbage")];
    let image = listing(TARGET, "", garbage);
    let far = "to = \"20200101T000000Z-0123456789ab\"\n";
    for (name, of, more, expected, then) in [
        ("same", NEW, "", "unchanged", &new),
        ("back", OLD, "", "rolled-back", &old),
        ("again", OLD, "", "unchanged", &old),
        ("far", NEW, far, "rolled-back", &new),
    ] {
        carry(
            &world,
            name,
            &order(TARGET, None, of, more),
            &image,
            garbage,
        );
        settle(&world, name, expected);
        assert_eq!(current(&world, TARGET), *then, "{name}");
    }
    let from = publish(&world, "three", CANDIDATE, OLD);
    let promotion = order(THIRD, Some(CANDIDATE), OLD, "");
    carry(&world, "promote", &promotion, &image, garbage);
    settle(&world, "promote", "promoted");
    let promoted = current(&world, THIRD);
    let inode = |of: &Path| of.join("linux").metadata().unwrap().ino();
    assert_eq!(inode(&promoted), inode(&from));
    // What is current here came from there, and something else is current there by now.
    publish(&world, "four", CANDIDATE, NEW);
    carry(
        &world,
        "other",
        &promotion,
        &listing(CANDIDATE, "", OLD),
        OLD,
    );
    settle(&world, "other", "unchanged");
    let before = snapshot(&world.tree);
    carry(
        &world,
        "other",
        &promotion,
        &listing(CANDIDATE, "", OLD),
        OLD,
    );
    settle(&world, "other", "unchanged");
    assert_eq!(snapshot(&world.tree), before);
    assert_verified(&world, &[]);
}

fn damaged() {
    let world = World::with(KEEP_ALL);
    let old = publish(&world, "one", TARGET, OLD);
    publish(&world, "two", TARGET, NEW);
    let image = listing(TARGET, "", OLD);
    let text = order(TARGET, None, OLD, "");
    let damage = |generation: &Path| {
        fs::remove_file(generation.join("linux")).unwrap();
        fs::write(generation.join("linux"), "OLD").unwrap();
    };
    // One that is kept, and the current one.
    damage(&old);
    let mut last = old;
    for name in ["kept", "current"] {
        carry(&world, name, &text, &image, OLD);
        settle(&world, name, "rolled-back");
        let back = current(&world, TARGET);
        assert_ne!(back, last);
        assert_has(&back, OLD);
        damage(&back);
        last = back;
    }
    // Of what is current where it is promoted from.
    let from = publish(&world, "three", CANDIDATE, OLD);
    damage(&from);
    let promotion = order(THIRD, Some(CANDIDATE), OLD, "");
    carry(
        &world,
        "promote",
        &promotion,
        &listing(CANDIDATE, "", OLD),
        OLD,
    );
    settle(&world, "promote", "promoted");
    assert_has(&current(&world, THIRD), OLD);
    // Without the image that is refused, as ever.
    let drop = carry(&world, "without", &text, "", &[]);
    fs::remove_file(drop.join("image.toml")).unwrap();
    fs::remove_dir(drop.join("image")).unwrap();
    publish(&world, "other", TARGET, NEW);
    settle(&world, "without", "rejected unknown-generation");
}

fn lies() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", TARGET, OLD);
    let good = listing(TARGET, "", NEW);
    let (is, means) = (digest_of(OLD), digest_of(NEW));
    let back = order(TARGET, None, NEW, "");
    let promotion = order(TARGET, Some(CANDIDATE), NEW, "");
    let unnamed = back.replace(&format!("digest = \"{means}\"\n"), "");
    let withdrawal = format!("{}action = \"withdraw\"\n", manifest(TARGET));
    let of_order = format!("{withdrawal}\n");
    let bytes = Digest::of(b"new");
    let checksum = format!(
        "rejected checksum-mismatch: image.toml: `linux` has sha256 {bytes}; the manifest says sha256 {}",
        Digest::of(b"old")
    );
    let digest =
        format!("rejected checksum-mismatch: the image has digest {is}; the order means {means}");
    let cases: &[(&str, &str, &str, Files<'_>, &str)] = &[
        ("bytes", &back, &listing(TARGET, "", OLD), NEW, &checksum),
        ("image", &back, &listing(TARGET, "", OLD), OLD, &digest),
        ("unlisted", &back, &manifest(TARGET), OLD, &digest),
        (
            "promoted",
            &promotion,
            &listing(CANDIDATE, "", OLD),
            OLD,
            &digest,
        ),
        (
            "no-image",
            &back,
            &of_order,
            NEW,
            "rejected bad-manifest: image.toml asks for something else than to publish an image; expected \
             the manifest by which the image was published",
        ),
        (
            "unnamed",
            &unnamed,
            &good,
            NEW,
            "rejected bad-manifest: manifest.toml names no image, and image.toml is beside it; expected the \
             `digest` of the image that the order carries",
        ),
        (
            "syntax",
            &back,
            "format = 3\n",
            NEW,
            "rejected bad-manifest: error: missing key `arch`\n --> image.toml:1:1",
        ),
        (
            "missing",
            &back,
            &good,
            &NEW[..1],
            "rejected incomplete: `initrd.gz` is not there; image.toml lists it",
        ),
        (
            "more",
            &back,
            &listing(TARGET, "", &NEW[..1]),
            NEW,
            "rejected unlisted-file: image.toml: `initrd.gz` is not in the manifest",
        ),
        (
            "boot",
            &back,
            &format!("{}[boot]\nkernel = \"vmlinux\"\n", manifest(TARGET)),
            NEW,
            "rejected bad-manifest: image.toml: `boot.kernel` names `vmlinux`, which is no file of the \
             image, nor a link to one",
        ),
        (
            "withdrawal",
            &withdrawal,
            &good,
            NEW,
            "rejected unexpected-file: ",
        ),
        (
            "publication",
            &good,
            &good,
            NEW,
            "rejected unexpected-file: `image.toml`; expected nothing but manifest.toml and image/ in a drop: \
             it comes with an order to roll back or to promote, and with the image that the order \
             names",
        ),
    ];
    // Room for a copy was taken, and given back.
    let seen = || {
        let names = names(&world.published(&format!("{TARGET}@")));
        (current(&world, TARGET), names, events(&world, TARGET))
    };
    let before = seen();
    for (name, order, image, files, expected) in cases {
        carry(&world, name, order, image, files);
        assert_said(&world, name, expected);
    }
    // Other things that don't belong there.
    let drop = carry(&world, "file", &back, &good, NEW);
    fs::write(drop.join("run.sh"), "").unwrap();
    let said = "rejected unexpected-file: `run.sh`; expected nothing but manifest.toml, image.toml and \
                image/ in an order that carries an image";
    assert_said(&world, "file", said);
    let drop = carry(&world, "folder", &back, &good, NEW);
    fs::remove_dir_all(drop.join("image")).unwrap();
    let said = "rejected incomplete: `initrd.gz` is not there; image.toml lists it";
    assert_said(&world, "folder", said);
    let drop = carry(&world, "unsafe", &back, &manifest(TARGET), NEW);
    symlink("/etc/passwd", drop.join("image/menu")).unwrap();
    assert_said(&world, "unsafe", "rejected unsafe-file: ");
    let drop = carry(&world, "link", &back, &good, NEW);
    fs::rename(drop.join("image.toml"), world.root.join("image.toml")).unwrap();
    symlink(world.root.join("image.toml"), drop.join("image.toml")).unwrap();
    let said = "rejected unsafe-file: image.toml is a link";
    assert_said(&world, "link", said);
    let stale = format!("{back}replaces = \"{means}\"\n");
    carry(&world, "replaces", &stale, &good, NEW);
    assert_said(&world, "replaces", "rejected conflict: ");
    assert_eq!(seen(), before);
    assert_has(&before.0, OLD);
    world.assert_at_rest();
}

/// Hands over a drop, which is rejected; what is said begins so.
#[track_caller]
fn assert_said(world: &World, name: &str, expected: &str) {
    let (rejected, said) = expected.split_once(": ").unwrap();
    let outcome = settle(world, name, rejected);
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.starts_with(said), "{name}: {detail}");
    assert_eq!(outcome["target"], TARGET, "{outcome:#}");
}

fn in_place() {
    let world = World::with(KEEP_ALL);
    publish(&world, "one", TARGET, OLD);
    let daemon = world.daemon();
    let drop = world.incoming("slow");
    let waits = |what: &str| {
        until(&format!("{what} to be waited for"), || {
            text(&world.run(&["status"])).contains(what)
        });
    };
    fs::create_dir_all(drop.join("image")).unwrap();
    let put = |name: &str, text: &str| fs::write(drop.join(name), text).unwrap();
    put("image.toml", &listing(TARGET, "", NEW));
    waits("incomplete: no manifest.toml");
    put("manifest.toml", &order(TARGET, None, NEW, ""));
    waits("incomplete: `initrd.gz` is not there; image.toml lists it");
    put("image/initrd.gz", "the same");
    waits("incomplete: `linux` is not there; image.toml lists it");
    put("image/linux", "new");
    until("the order to be done", || world.outcome("slow").is_some());
    daemon.stop();
    world.assert_outcome("slow", "rolled-back");
    assert_has(&current(&world, TARGET), NEW);
}

fn as_publications_do() {
    let world = World::with(&format!(
        "{}[checks]\nrefuse = [\"empty-file\"]\n",
        KEEP_ALL.replace("\"0B\"\n", "\"0B\"\nmax_image_size = \"20B\"\n")
    ));
    carry(
        &world,
        "new",
        &order(TARGET, None, NEW, ""),
        &listing(TARGET, "", NEW),
        NEW,
    );
    settle(&world, "new", "rolled-back");
    assert_has(&current(&world, TARGET), NEW);
    // What was made by hand becomes a generation.
    let by_hand = world.published(THIRD);
    fs::create_dir_all(&by_hand).unwrap();
    fs::write(by_hand.join("linux"), "by hand").unwrap();
    carry(
        &world,
        "over",
        &order(THIRD, Some(CANDIDATE), NEW, ""),
        &listing(CANDIDATE, "", NEW),
        NEW,
    );
    settle(&world, "over", "promoted");
    assert_has(&current(&world, THIRD), NEW);
    let told = events(&world, THIRD);
    assert_eq!(
        [&told[0]["event"], &told[1]["event"]],
        ["adopted", "promoted"]
    );

    let large: Files<'_> = &[("linux", "more than twenty bytes")];
    let back = order(TARGET, None, large, "");
    carry(&world, "large", &back, &listing(TARGET, "", large), large);
    let said = "rejected too-large: larger than 20 B (limits.max_image_size), reached at `linux`";
    assert_said(&world, "large", said);
    let empty: Files<'_> = &[("linux", "")];
    let back = order(TARGET, None, empty, "");
    let boot = "[boot]\nkernel = \"linux\"\n";
    carry(&world, "empty", &back, &listing(TARGET, boot, empty), empty);
    assert_said(&world, "empty", "rejected refused-note: ");
    // What is only noted is told by the outcome.
    let noted: Files<'_> = &[("linux", "1"), (".DS_Store", "2")];
    let back = order(TARGET, None, noted, "");
    carry(&world, "noted", &back, &listing(TARGET, "", noted), noted);
    let outcome = settle(&world, "noted", "rolled-back");
    assert_eq!(outcome["notes"][0]["note"], "litter", "{outcome:#}");
    let stored = fs::read_to_string(beside(&current(&world, TARGET), ".toml")).unwrap();
    assert!(
        stored.contains("[[from.notes]]\nnote = \"litter\"\n"),
        "{stored}"
    );
}

/// Rules for an account that brings what the `team` has signed; `more` stands in the first one.
fn world(keys: &Keys, more: &str) -> World {
    World::with(&format!(
        "{KEEP_ALL}[[importer]]\nname = \"team\"\nusers = [\"games\"]\nkeys = [{:?}]\n\
         old_keys = [{:?}]\npublish = [\"amd64/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n{more}\
         [[importer]]\nname = \"open\"\nusers = [\"man\"]\npublish = [\"*/*/*/*\"]\n\
         [[importer]]\nname = \"others\"\nusers = [\"news\"]\nkeys = [{:?}]\npublish = [\"arm64/*/*/*\"]\n\
         rollback = [\"*/*/*/*\"]\ncreate = [\"*/*/*/*\"]\n",
        keys.public("ed25519"),
        keys.public("ecdsa"),
        keys.public("ed25519")
    ))
}

/// Signs order and image of a drop, and gives it to a user.
fn sign_both(drop: &Path, [order, image]: [Option<&Path>; 2], uid: u32) {
    if let Some(key) = order {
        sign(drop, key, FOR_US);
    }
    if let Some(key) = image {
        sign_file(&drop.join("image.toml"), key, FOR_US);
    }
    crate::lab::world::own(drop, uid);
}

fn serials() {
    let keys = Keys::new();
    let world = world(&keys, "require = [\"serial\", \"files\"]\n");
    let key = keys.path("ed25519");
    let both = [Some(&*key); 2];
    let image = listing(
        TARGET,
        "serial = 700\nexpires = \"2020-01-01T00:00:00Z\"\n",
        NEW,
    );
    let carried = |name: &str, of: &str, more: &str| {
        let order = order(TARGET, None, NEW, more);
        sign_both(&carry(&world, name, &order, of, NEW), both, GAMES);
    };
    carried("ordered", &image, "serial = 5\n");
    settle(&world, "ordered", "rolled-back");
    let told = events(&world, TARGET).pop().unwrap();
    assert_eq!(told["serial"], 5, "{told:#}");
    assert_verified(&world, &["--signatures"]);
    // The order is judged as ever.
    carried("without", &image, "");
    assert_said(
        &world,
        "without",
        "rejected not-allowed: rule `team` requires `serial` in the manifest, as `rollback --serial \
         $(date +%s)` writes it",
    );
    carried(
        "late",
        &image,
        "serial = 6\nexpires = \"2020-01-01T00:00:00Z\"\n",
    );
    let said = "rejected expired: the manifest's `expires` is 2020-01-01T00:00:00Z, which is over";
    assert_said(&world, "late", said);
    carried("stale", &image, "serial = 4\n");
    let said = "rejected stale: the manifest's `serial` is 4; amd64/generic/noble/install has had 5: \
                expected a higher `serial`";
    assert_said(&world, "stale", said);
    // Nor does the image make later what comes with its serial: that is one of a publication.
    let drop = build(
        &world,
        "published",
        &listing(TARGET, "serial = 6\n", OLD),
        OLD,
    );
    sign_both(&drop, [Some(&key), None], GAMES);
    settle(&world, "published", "published");
    carried("unlisted", &manifest(TARGET), "serial = 7\n");
    // The tree has it, and so nobody looks at what the order carries; elsewhere it is looked at.
    settle(&world, "unlisted", "rolled-back");
    assert_has(&current(&world, TARGET), NEW);
    let text = order(THIRD, None, NEW, "serial = 1\n");
    let drop = carry(&world, "elsewhere", &text, &manifest(THIRD), NEW);
    sign_both(&drop, both, GAMES);
    let outcome = settle(&world, "elsewhere", "rejected not-allowed");
    let said = "rule `team` requires `files` in image.toml, as `submit` writes it";
    assert_eq!(outcome["detail"], said);
}

fn signers() {
    let keys = Keys::new();
    let world = world(&keys, "");
    let key = keys.path("ed25519");
    let old = keys.path("ecdsa");
    let foreign = keys.locked("ed25519", "");
    let image = listing(TARGET, "", NEW);
    let fingerprint = |key: &Path| {
        let mut keygen = std::process::Command::new("ssh-keygen");
        let shown = crate::lab::world::output(keygen.arg("-lf").arg(key)).stdout;
        let shown = String::from_utf8(shown).unwrap();
        shown.split(' ').nth(1).unwrap().to_string()
    };
    let unknown = format!(
        "rejected unknown-key: image.toml is signed with {}, which none of the rules for games has (team); \
         expected a key that is in `keys` or `old_keys`",
        fingerprint(&foreign)
    );
    let not_there = format!(
        "rejected not-allowed: image.toml is signed with {}, and no rule with this key lets news publish \
         amd64/generic/noble/install (others)",
        fingerprint(&key)
    );
    let (key, old, foreign) = (Some(&*key), Some(&*old), Some(&*foreign));
    let back = order(TARGET, None, NEW, "");
    let cases = [
        (
            "unsigned",
            GAMES,
            [key, None],
            "rejected unsigned: no image.toml.sig; expected one: the rules for \
          games ask for a signature (team): ssh-keygen -Y sign -n netboot-publisher",
        ),
        ("unknown", GAMES, [key, foreign], &unknown),
        ("news", NEWS, [key, key], &*not_there),
        (
            "old-order",
            GAMES,
            [old, key],
            "rejected unknown-key: signed with ",
        ),
        (
            "man",
            MAN,
            [key, None],
            "rejected unsigned: image.toml is not signed, and the order that carries \
          the image is; expected image.toml.sig beside it",
        ),
    ];
    for (name, uid, signed, expected) in cases {
        sign_both(&carry(&world, name, &back, &image, NEW), signed, uid);
        assert_said(&world, name, expected);
    }
    // To go back to what had been promoted takes the right to promote it.
    let elsewhere = listing(CANDIDATE, "", NEW);
    let drop = carry(&world, "elsewhere", &back, &elsewhere, NEW);
    sign_both(&drop, [key, key], NEWS);
    assert_said(
        &world,
        "elsewhere",
        "rejected not-allowed: image.toml is for amd64/generic/noble-candidate/install, and rule `others` does \
         not let its importers publish to amd64/generic/noble/install, as a promotion would have to; expected an \
         image that was published there",
    );
    let drop = carry(&world, "bad", &back, &image, NEW);
    sign_both(&drop, [key, key], GAMES);
    fs::write(
        drop.join("image.toml"),
        listing(TARGET, "version = \"2\"\n", NEW),
    )
    .unwrap();
    crate::lab::world::own(&drop, GAMES);
    assert_said(
        &world,
        "bad",
        "rejected bad-signature: image.toml.sig: not of these bytes",
    );
    let drop = carry(&world, "lists", &back, &image, NEW);
    fs::create_dir(drop.join("image/empty")).unwrap();
    sign_both(&drop, [key, key], GAMES);
    assert_said(
        &world,
        "lists",
        "rejected unsigned-files: image.toml: the empty folder `empty` is not in the manifest, which is \
         signed; expected it to list all",
    );
    assert!(!world.published(TARGET).exists(), "{world}");
    // An order that nobody has signed may carry what nobody has signed, where no rule asks for more.
    let arm = "arm64/generic/noble/install";
    let text = order(arm, None, OLD, "");
    sign_both(
        &carry(&world, "open", &text, &listing(arm, "", OLD), OLD),
        [None; 2],
        MAN,
    );
    settle(&world, "open", "rolled-back");
    sign_both(&carry(&world, "old", &back, &image, NEW), [key, old], GAMES);
    let outcome = settle(&world, "old", "rolled-back");
    assert_eq!(outcome["signer"], keys.fingerprint("ed25519"));
    assert_verified(&world, &["--signatures", TARGET]);
    // What was signed is followed by what is signed.
    let other: Files<'_> = &[("linux", "other")];
    let text = order(TARGET, None, other, "");
    let drop = carry(&world, "after", &text, &listing(TARGET, "", other), other);
    sign_both(&drop, [None, key], MAN);
    let outcome = settle(&world, "after", "rejected unsigned");
    let said = outcome["detail"].as_str().unwrap();
    assert!(said.contains(&keys.fingerprint("ecdsa")), "{said}");
}

/// That what proves the current generation of a promotion, or of a rollback to one, is this: the image's
/// manifest and its signature, and those of the order.
#[track_caller]
fn assert_keeps(world: &World, target: &str, papers: &[Vec<u8>; 4]) {
    let generation = current(world, target);
    let parts = [".manifest.toml", ".sig", ".order.toml", ".order.sig"];
    let kept = parts.map(|ending| fs::read(beside(&generation, ending)).unwrap());
    assert_eq!(kept, *papers);
}

fn proven() {
    let keys = Keys::new();
    let world = world(&keys, "");
    let key = keys.path("ed25519");
    let both = [Some(&*key); 2];
    let bring = |name: &str, order: &str, image: &str, files: Files<'_>, expected: &str| {
        let drop = carry(&world, name, order, image, files);
        sign_both(&drop, both, GAMES);
        let bytes = |name: &str| fs::read(drop.join(name)).unwrap();
        let papers = [
            "image.toml",
            "image.toml.sig",
            "manifest.toml",
            "manifest.toml.sig",
        ];
        let papers = papers.map(bytes);
        settle(&world, name, expected);
        papers
    };
    let back = order(TARGET, None, NEW, "");
    let image = listing(TARGET, BOOT, NEW);
    let papers = bring("back", &back, &image, NEW, "rolled-back");
    let generation = current(&world, TARGET);
    let kept = |ending: &str| fs::read(beside(&generation, ending)).unwrap();
    assert_eq!([kept(".manifest.toml"), kept(".sig")], papers[..2]);
    assert!(!beside(&generation, ".order.toml").exists());
    assert_verified(&world, &["--signatures"]);
    // To be current already is no change, and neither is a publication by the very manifest.
    let before = snapshot(&world.tree);
    bring("again", &back, &image, NEW, "unchanged");
    let drop = build(&world, "published", &image, NEW);
    sign_both(&drop, [Some(&key), None], GAMES);
    settle(&world, "published", "unchanged");
    assert_eq!(snapshot(&world.tree), before);

    // At the other tree the image had come to this target by a promotion, and was gone back to later.
    let image = listing(CANDIDATE, BOOT, OLDER);
    let back = order(TARGET, None, OLDER, "");
    let papers = bring("back-to-promoted", &back, &image, OLDER, "rolled-back");
    assert_keeps(&world, TARGET, &papers);
    assert_verified(&world, &["--signatures"]);
    bring("back-again", &back, &image, OLDER, "unchanged");
    let told = world.run(&["diff", TARGET]);
    assert!(!text(&told).contains("promoted from"), "{}", text(&told));
    // And on from there.
    let fifth = "amd64/generic/fifth/install";
    let drop = build(&world, "fifth", &order(fifth, Some(TARGET), OLDER, ""), &[]);
    fs::remove_dir(drop.join("image")).unwrap();
    sign_both(&drop, [Some(&key), None], GAMES);
    settle(&world, "fifth", "promoted");
    assert_verified(&world, &["--signatures"]);

    // At the other tree the image had come to where it was promoted from by a promotion.
    let promotion = order(THIRD, Some(CANDIDATE), OLD, "");
    let image = listing("amd64/generic/noble-daily/install", "", OLD);
    let papers = bring("promote", &promotion, &image, OLD, "promoted");
    assert_keeps(&world, THIRD, &papers);
    assert_verified(&world, &["--signatures"]);
    bring("promote-again", &promotion, &image, OLD, "unchanged");
    // On from there.
    let fourth = "amd64/generic/fourth/install";
    let drop = build(&world, "on", &order(fourth, Some(THIRD), OLD, ""), &[]);
    fs::remove_dir(drop.join("image")).unwrap();
    sign_both(&drop, [Some(&key), None], GAMES);
    settle(&world, "on", "promoted");
    assert_verified(&world, &["--signatures"]);
    // Who may write to the tree may not say of a record that it is of another image.
    let record = beside(&current(&world, fourth), ".toml");
    let stored = fs::read_to_string(&record).unwrap();
    let daily = "image_for = \"amd64/generic/noble-daily/install\"\n";
    assert!(stored.contains(daily), "{stored}");
    fs::write(&record, stored.replace(daily, "")).unwrap();
    let output = world.run(&["verify", "--signatures", fourth]);
    let said = text(&output);
    let expected = format!("is for amd64/generic/noble-daily/install; expected {CANDIDATE}");
    assert!(said.contains(&expected), "{said}");
}

fn kept_orders() {
    let keys = Keys::new();
    let world = world(&keys, "");
    let key = keys.path("ed25519");
    let bring = |name: &str, text: &str, expected: &str| {
        let drop = build(&world, name, text, &[]);
        fs::remove_dir(drop.join("image")).unwrap();
        sign_both(&drop, [Some(&key), None], GAMES);
        let signature = fs::read_to_string(drop.join("manifest.toml.sig")).unwrap();
        settle(&world, name, expected);
        json!({"manifest": text, "signature": signature})
    };
    for (name, files) in [("one", OLD), ("two", NEW)] {
        let drop = build(&world, name, &listing(TARGET, "", files), files);
        sign_both(&drop, [Some(&key), None], GAMES);
        settle(&world, name, "published");
    }
    let last = |world: &World| events(world, TARGET).pop().unwrap();
    assert_eq!(last(&world)["vouched"]["order"], Value::Null);
    let back = bring(
        "back",
        &order(TARGET, None, OLD, "# a remark: \"ü\"\n"),
        "rolled-back",
    );
    assert_eq!(last(&world)["vouched"]["order"], back);
    let history = world.tree.join(".history").join(format!("{TARGET}.jsonl"));
    let mode = history.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    // One that wouldn't fit into a line is done all the same.
    let long = format!(
        "{}# {}\n",
        order(TARGET, None, NEW, ""),
        "x".repeat(64 << 10)
    );
    bring("long", &long, "rolled-back");
    let told = last(&world);
    assert_eq!(
        (&told["event"], &told["vouched"]["order"]),
        (&json!("rolled-back"), &Value::Null)
    );
    assert_eq!(told["vouched"]["signer"], keys.fingerprint("ed25519"));
    let carried: Files<'_> = &[("linux", "third")];
    let text = order(TARGET, None, carried, "");
    let drop = carry(
        &world,
        "third",
        &text,
        &listing(TARGET, "", carried),
        carried,
    );
    sign_both(&drop, [Some(&key); 2], GAMES);
    settle(&world, "third", "rolled-back");
    assert_eq!(last(&world)["vouched"]["order"]["manifest"], text);
    let gone = format!("{}action = \"withdraw\"\n", manifest(TARGET));
    let gone = bring("gone", &gone, "withdrawn");
    assert_eq!(last(&world)["vouched"]["order"], gone);
    let shown = crate::lab::world::text(&world.run(&["history", TARGET]));
    assert!(!shown.contains("BEGIN SSH"), "{shown}");
    // What nobody has signed leaves no order.
    build(&world, "unsigned", &listing(TARGET, "", OLD), OLD);
    settle(&world, "unsigned", "published");
    let drop = build(
        &world,
        "root",
        &format!("{}action = \"withdraw\"\n", manifest(TARGET)),
        &[],
    );
    fs::remove_dir(drop.join("image")).unwrap();
    settle(&world, "root", "withdrawn");
    assert_eq!(last(&world)["vouched"], Value::Null);
}
