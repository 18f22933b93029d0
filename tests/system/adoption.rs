//! Folders that somebody else made at a target, and files that were given to somebody else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::world::{Needs, World, assert_same_content, names, snapshot, test, text, walk};

const TARGET: &str = "amd64/generic/noble/install";
const KEEP_ALL: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a folder with the same files is left alone as long as machines can read it",
            &[],
            readable,
        ),
        test(
            "a folder with the same files that machines can't read is adopted",
            &[],
            unreadable,
        ),
        test(
            "a crash at any step while a folder with the same files is adopted costs nothing",
            &[Needs::Failpoints],
            crashes_while_adopting,
        ),
        test(
            "an adopted folder is whole with an admin's modes, and can be rolled back to",
            &[],
            adopted,
        ),
        test(
            "an adopted folder of another user is whole and can be rolled back to",
            &[Needs::Root],
            adopted_of_another,
        ),
        test(
            "an adopted folder whose bytes changed is damaged and not rolled back to",
            &[],
            adopted_and_changed,
        ),
        test(
            "generations from before a change of the owner are whole and can be rolled back to",
            &[Needs::Root],
            another_owner,
        ),
        test(
            "a daemon whose group was changed publishes with that one",
            &[Needs::Root],
            another_group,
        ),
        test(
            "the same image is published anew when the owner was changed",
            &[Needs::Root],
            another_owner_again,
        ),
    ]
}

/// Writes an image of this version; its folders and files have these modes.
fn make_image(at: &Path, version: &str, (folder, file): (u32, u32)) {
    fs::create_dir_all(at.join("boot")).unwrap();
    fs::write(at.join("linux"), format!("kernel {version}")).unwrap();
    fs::write(at.join("boot/initrd.gz"), vec![7; 300_000]).unwrap();
    for path in walk(at).iter().chain([&at.to_path_buf()]).rev() {
        let mode = if path.is_dir() { folder } else { file };
        set_mode(path, mode);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Drops an image of this version.
fn drop_version(world: &World, version: &str, name: &str, expected: &str) -> Value {
    let manifest = crate::lab::world::manifest(TARGET);
    world.drop_with(name, &manifest, |image| {
        make_image(image, version, (0o755, 0o644))
    });
    world.run_once();
    world.assert_outcome(name, expected)
}

fn current(world: &World) -> PathBuf {
    world.published(TARGET).canonicalize().unwrap()
}

/// The generations that are there, but for the current one.
fn others(world: &World) -> Vec<PathBuf> {
    let folder = world
        .tree
        .canonicalize()
        .unwrap()
        .join(format!("{TARGET}@"));
    let kept = names(&folder)
        .into_iter()
        .filter(|name| !name.ends_with(".toml"));
    let kept = kept.map(|name| folder.join(name));
    kept.filter(|path| *path != current(world)).collect()
}

/// What `verify` finds: nothing, or the kinds of damage.
fn verify(world: &World) -> Vec<String> {
    let output = world.run(&["verify", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damages = report["damages"].as_array().unwrap();
    assert_eq!(output.status.success(), damages.is_empty(), "{report:#}");
    let word = |damage: &Value| damage["damage"].as_str().unwrap().to_string();
    damages.iter().map(word).collect()
}

/// Asks for a rollback, and says how that ends.
fn roll_back(world: &World) -> String {
    let daemon = world.daemon();
    let output = world.run(&["rollback", TARGET, "--wait=100"]);
    daemon.stop();
    text(&output)
}

fn readable() {
    let world = World::with(KEEP_ALL);
    // An admin's group may write; a folder needs no more than to be entered.
    for (number, modes) in [(0o755, 0o644), (0o2775, 0o664), (0o711, 0o604)]
        .into_iter()
        .enumerate()
    {
        let plain = world.published(TARGET);
        let _ = fs::remove_dir_all(&plain);
        make_image(&plain, "1", modes);
        let before = snapshot(&plain);
        drop_version(&world, "1", &format!("drop-{number}"), "unchanged");
        assert_eq!(snapshot(&plain), before, "{world}");
        assert!(!plain.is_symlink(), "{world}");
    }
}

fn unreadable() {
    for (path, bad) in [("", 0o700), ("boot", 0o750), ("boot/initrd.gz", 0o640)] {
        let world = World::with(KEEP_ALL);
        let plain = world.published(TARGET);
        make_image(&plain, "1", (0o755, 0o644));
        set_mode(&plain.join(path), bad);
        let inode = fs::metadata(&plain).unwrap().ino();
        let outcome = drop_version(&world, "1", "drop", "published");

        assert!(plain.is_symlink(), "{world}");
        let current = current(&world);
        assert!(
            current.ends_with(outcome["generation"].as_str().unwrap()),
            "{world}"
        );
        assert_eq!(fs::read(current.join("linux")).unwrap(), b"kernel 1");
        for (path, expected) in [("", 0o755), ("boot", 0o755), ("boot/initrd.gz", 0o644)] {
            assert_eq!(mode(&current.join(path)), expected, "{path:?}\n{world}");
        }
        let [adopted] = &others(&world)[..] else {
            panic!("the folder is not kept\n{world}")
        };
        assert_eq!(fs::metadata(adopted).unwrap().ino(), inode, "{world}");
        assert_eq!(mode(&adopted.join(path)), bad, "{world}");
        assert_eq!(verify(&world), [""; 0], "{world}");
        world.assert_at_rest();
        drop_version(&world, "1", "again", "unchanged");
    }
}

fn crashes_while_adopting() {
    for step in [
        "tree-sync",
        "place-generation",
        "place-record",
        "place-adopted",
        "swap",
        "outcome",
    ] {
        let world = World::with(KEEP_ALL);
        make_image(&world.published(TARGET), "1", (0o750, 0o640));
        let manifest = crate::lab::world::manifest(TARGET);
        world.drop_with("drop", &manifest, |image| {
            make_image(image, "1", (0o755, 0o644))
        });
        let mut first = world.command(&["run", "--once"]);
        first.env("NETBOOT_PUBLISHER_FAILPOINT", format!("{step}:1:kill"));
        let output = first.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}: {}", text(&output));
        let linux = fs::read(world.published(TARGET).join("linux"));
        assert_eq!(linux.unwrap(), b"kernel 1", "{step}\n{world}");

        world.run_once();
        world.assert_outcome("drop", "published");
        assert_eq!(
            mode(&current(&world).join("linux")),
            0o644,
            "{step}\n{world}"
        );
        let [adopted] = &others(&world)[..] else {
            panic!("{step}: not one generation besides the current one\n{world}")
        };
        assert_eq!(mode(&adopted.join("linux")), 0o640, "{step}\n{world}");
        assert_eq!(verify(&world), [""; 0], "{step}\n{world}");
        world.assert_at_rest();
    }
}

fn adopted() {
    let world = World::with(KEEP_ALL);
    make_image(&world.published(TARGET), "1", (0o775, 0o664));
    is_whole_and_returns(&world);
}

fn adopted_of_another() {
    let world = World::with(KEEP_ALL);
    let plain = world.published(TARGET);
    make_image(&plain, "1", (0o2775, 0o664));
    for path in walk(&plain).iter().chain([&plain]) {
        chown(path, Some(12_345), Some(54_321)).unwrap();
    }
    set_mode(&plain, 0o2775);
    is_whole_and_returns(&world);
}

/// The plain folder with version 1 is adopted, rolled back to as it is, and then published over.
fn is_whole_and_returns(world: &World) {
    let before = fs::metadata(world.published(TARGET).join("linux")).unwrap();
    drop_version(world, "2", "drop", "published");
    assert_eq!(verify(world), [""; 0], "{world}");
    let said = roll_back(world);
    assert!(
        said.contains(&format!("rolled-back {TARGET} ")),
        "{said}\n{world}"
    );
    let after = fs::metadata(current(world).join("linux")).unwrap();
    let seen = |stat: &fs::Metadata| (stat.ino(), stat.mode(), stat.uid(), stat.gid());
    assert_eq!(seen(&after), seen(&before), "{world}");
    assert_eq!(verify(world), [""; 0], "{world}");
    // A drop brings the daemon's own modes.
    drop_version(world, "1", "again", "published");
    assert_eq!(mode(&current(world).join("linux")), 0o644, "{world}");
    assert_eq!(fs::read(current(world).join("linux")).unwrap(), b"kernel 1");
    assert_eq!(verify(world), [""; 0], "{world}");
    world.assert_at_rest();
}

fn adopted_and_changed() {
    let world = World::with(KEEP_ALL);
    make_image(&world.published(TARGET), "1", (0o775, 0o664));
    drop_version(&world, "2", "drop", "published");
    let adopted = others(&world).remove(0);
    fs::write(adopted.join("linux"), "kernel X").unwrap();
    assert_eq!(verify(&world), ["content"], "{world}");
    let said = roll_back(&world);
    assert!(said.contains("unknown-generation"), "{said}\n{world}");
    assert_eq!(
        fs::read(current(&world).join("linux")).unwrap(),
        b"kernel 2"
    );
}

/// The same world with another owner of what is published.
fn owned_by(world: &World, settings: &str) -> World {
    let settings = format!("{settings}{KEEP_ALL}");
    World::at(&world.root, &world.spool, &world.tree, &settings)
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn another_owner() {
    let before = World::with(KEEP_ALL);
    drop_version(&before, "1", "first", "published");
    drop_version(&before, "2", "second", "published");
    let old = current(&before);
    let own = owner(&old);
    let world = owned_by(
        &before,
        "#tree owner = \"nobody\"\n#tree group = \"daemon\"\n",
    );
    assert_eq!(verify(&world), [""; 0], "{world}");
    drop_version(&world, "3", "third", "published");
    let new = owner(&current(&world));
    assert!(
        new.0 != own.0 && new.1 != own.1,
        "the test would show nothing"
    );
    let said = roll_back(&world);
    assert!(
        said.contains(&format!("rolled-back {TARGET} ")),
        "{said}\n{world}"
    );
    assert_eq!(current(&world), old, "{world}");
    assert_eq!(owner(&old), own, "{world}");
    assert_eq!(verify(&world), [""; 0], "{world}");
    // An admin may give them to the owner of now.
    let first = others(&world).into_iter().find(|path| owner(path) == own);
    chown(first.unwrap().join("linux"), Some(new.0), Some(new.1)).unwrap();
    assert_eq!(verify(&world), [""; 0], "{world}");
    // What has the owner of now has to keep it.
    let latest = others(&world).into_iter().find(|path| owner(path) == new);
    chown(latest.unwrap().join("linux"), Some(own.0), Some(own.1)).unwrap();
    assert_eq!(verify(&world), ["mode"], "{world}");
}

fn another_owner_again() {
    let before = World::with(KEEP_ALL);
    drop_version(&before, "1", "kept", "published");
    drop_version(&before, "2", "first", "published");
    let old = others(&before).remove(0);
    let world = owned_by(&before, "#tree owner = \"nobody\"\n");
    let expected = (65_534, owner(&old).1);
    for (version, name) in [("2", "second"), ("1", "third")] {
        drop_version(&world, version, name, "published");
        let current = current(&world);
        for path in walk(&current).iter().chain([&current]) {
            assert_eq!(owner(path), expected, "{path:?}\n{world}");
        }
        drop_version(&world, version, &format!("{name}-again"), "unchanged");
    }
    let kept = [
        ("boot/initrd.gz", vec![7; 300_000]),
        ("linux", b"kernel 1".to_vec()),
    ];
    for (path, bytes) in kept {
        assert_eq!(fs::read(old.join(path)).unwrap(), bytes, "{world}");
    }
    assert_same_content(&old, &current(&world));
    assert_eq!(verify(&world), [""; 0], "{world}");
}

fn another_group() {
    let world = World::with(KEEP_ALL);
    drop_version(&world, "1", "first", "published");
    let manifest = crate::lab::world::manifest(TARGET);
    for (name, expected) in [("second", "published"), ("third", "unchanged")] {
        world.drop_with(name, &manifest, |image| {
            make_image(image, "1", (0o755, 0o644))
        });
        let output = world.command(&["run", "--once"]).gid(1).output().unwrap();
        assert!(output.status.success(), "{}\n{world}", text(&output));
        world.assert_outcome(name, expected);
        assert_eq!(owner(&current(&world).join("linux")), (0, 1), "{world}");
        assert_eq!(verify(&world), [""; 0], "{world}");
        world.assert_at_rest();
    }
    // `verify` knows whose the files are.
    chown(current(&world).join("linux"), None, Some(0)).unwrap();
    assert_eq!(verify(&world), ["mode"], "{world}");
}
