//! What stays in the spool for a while, and goes: drafts that were left behind, and rejected drops that
//! hold too much.

use std::fs;

use libtest_mimic::Trial;

use crate::filesystems::FileSystem;
use crate::lab::world::{Daemon, Needs, World, own, test, until};

const TARGET: &str = "amd64/generic/noble/install";

/// The importer who leaves most; the other one is root.
const IMPORTER: u32 = 4_711;

const SETTINGS: &str = "#spool rescan_interval = \"1s\"\n[limits]\nmin_free_space = \"0B\"\n";

const MIB: usize = 1 << 20;

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "drafts that were left behind go whole, whoever owns them, and the log says so",
            &[Needs::Root],
            drafts_go,
        ),
        test(
            "beyond what may be kept the oldest rejected drops of whoever holds most go, and outcomes stay",
            &[Needs::Root],
            too_much_is_rejected,
        ),
        test(
            "when the spool's disk is nearly full rejected drops go, and without any one is not kept",
            &[Needs::Root],
            spool_has_little_room,
        ),
    ]
}

fn drafts_go() {
    let world = World::with(&format!("#spool keep_drafts = \"1s\"\n{SETTINGS}"));
    let deep = world.incoming(".left/image/boot");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("grub"), "x").unwrap();
    own(&world.incoming(".left"), IMPORTER);
    fs::write(world.incoming(".file.swp"), "x").unwrap();
    // What is no draft waits on.
    fs::create_dir(world.incoming("visible")).unwrap();
    let mut daemon = world.daemon();
    let mut said = [0, 1].map(|_| daemon.wait_for("removed draft "));
    said.sort_by_key(|line| line.contains(".left"));
    for (line, draft, importer) in [
        (&said[0], "`.file.swp`", "root"),
        (&said[1], "`.left`", "4711"),
    ] {
        let what = format!("removed draft {draft}, which nobody has changed for ");
        assert!(line.contains(&what), "{line}");
        assert!(line.contains(&format!("importer=\"{importer}\"")), "{line}");
    }
    assert_eq!(world.names("incoming"), ["visible"]);
    daemon.stop();
    world.assert_at_rest();

    // By the settings as they are built in nothing of that age goes.
    let world = World::with(SETTINGS);
    fs::create_dir_all(world.incoming(".young/image")).unwrap();
    let mut daemon = world.daemon();
    world.drop_image("one", TARGET, &[("linux", b"1")]);
    daemon.wait_for_drop("one");
    daemon.stop();
    assert_eq!(world.names("incoming"), [".young"]);
}

/// A drop of so many MiB that is rejected, and the log's line of that.
fn reject(
    world: &World,
    daemon: &mut Daemon,
    name: &str,
    mib: usize,
    is_importers: bool,
) -> String {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir_all(hidden.join("image")).unwrap();
    fs::write(hidden.join("image/linux"), vec![7; mib * MIB]).unwrap();
    fs::write(hidden.join("manifest.toml"), "format = 7").unwrap();
    if is_importers {
        own(&hidden, IMPORTER);
    }
    fs::rename(&hidden, world.incoming(name)).unwrap();
    daemon.wait_for_drop(name)
}

/// A line of the log that may have been read before.
fn see(daemon: &mut Daemon, text: &str) -> String {
    let seen = daemon.log.iter().find(|line| line.contains(text)).cloned();
    seen.unwrap_or_else(|| daemon.wait_for(text))
}

/// The names of the drops that are kept.
fn kept(world: &World) -> Vec<String> {
    let names = world.names("rejected").into_iter();
    names.filter(|name| !name.ends_with(".json")).collect()
}

fn too_much_is_rejected() {
    let world = World::with(&format!("#spool max_rejected = \"5MiB\"\n{SETTINGS}"));
    let mut daemon = world.daemon();
    reject(&world, &mut daemon, "root-1", 1, false);
    for name in ["ci-1", "ci-2", "ci-3"] {
        reject(&world, &mut daemon, name, 1, true);
        until("it to be kept", || kept(&world).contains(&name.to_string()));
    }
    assert_eq!(kept(&world), ["ci-1", "ci-2", "ci-3", "root-1"]);
    reject(&world, &mut daemon, "root-2", 1, false);
    let line = see(&mut daemon, "removed rejected drop ");
    for said in [
        "`ci-1`",
        "1.0 MiB",
        "spool.max_rejected",
        "importer=\"4711\"",
    ] {
        assert!(line.contains(said), "{said}: {line}");
    }
    assert_eq!(kept(&world), ["ci-2", "ci-3", "root-1", "root-2"]);
    world.assert_outcome("ci-1", "rejected bad-manifest");
    assert!(world.spool.join("rejected/ci-1.json").exists());
    daemon.stop();

    // Another daemon measures what it finds.
    let mut daemon = world.daemon();
    reject(&world, &mut daemon, "ci-4", 1, true);
    let line = see(&mut daemon, "removed rejected drop ");
    assert!(line.contains("`ci-2`"), "{line}");
    daemon.stop();
    assert_eq!(kept(&world), ["ci-3", "ci-4", "root-1", "root-2"]);
    world.assert_at_rest();
}

fn spool_has_little_room() {
    let disk = FileSystem::tmpfs("16m");
    let root = tempfile::tempdir().unwrap();
    let (spool, tree) = (disk.root.join("spool"), root.path().join("tree"));
    let settings = format!("#spool min_free_space = \"8MiB\"\n{SETTINGS}");
    let world = World::at(root.path(), &spool, &tree, &settings);
    let mut daemon = world.daemon();
    for name in ["a", "b"] {
        reject(&world, &mut daemon, name, 3, true);
        until("it to be kept", || kept(&world).contains(&name.to_string()));
    }
    reject(&world, &mut daemon, "c", 3, false);
    let line = see(&mut daemon, "removed rejected drop ");
    for said in ["`a`", "3.0 MiB", "spool.min_free_space"] {
        assert!(line.contains(said), "{said}: {line}");
    }
    until("the others to be kept", || kept(&world) == ["b", "c"]);

    // Somebody else fills the disk: nothing is left to go.
    let draft = world.incoming(".filler");
    fs::write(&draft, vec![7; 9 * MIB]).unwrap();
    own(&draft, IMPORTER);
    let line = see(&mut daemon, "the spool has ");
    for said in [
        "no rejected drop is left",
        "publishing goes on",
        "`.filler` of 4711",
    ] {
        assert!(line.contains(said), "{said}: {line}");
    }
    assert_eq!(kept(&world), Vec::<String>::new());
    reject(&world, &mut daemon, "d", 1, false);
    let outcome = world.assert_outcome("d", "rejected bad-manifest");
    assert!(outcome["detail"].as_str().unwrap().contains("not kept"));
    world.drop_image("good", TARGET, &[("linux", b"1")]);
    daemon.wait_for_drop("good");
    world.assert_outcome("good", "published");
    assert_eq!(kept(&world), Vec::<String>::new());
    until("the drops to go", || world.names("processing").is_empty());

    fs::remove_file(&draft).unwrap();
    daemon.wait_for("the spool has room again");
    reject(&world, &mut daemon, "e", 1, false);
    until("it to be kept", || kept(&world) == ["e"]);
    let log = daemon.stop();
    let shortages = log
        .iter()
        .filter(|line| line.contains("no rejected drop is left"));
    assert_eq!(shortages.count(), 1, "said once: {log:#?}");
    assert_eq!(world.outcomes().len(), 6);
}
