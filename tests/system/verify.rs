//! `verify`: whether everything that was published still is what its records say.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use netboot_publisher::Record;
use serde_json::{Value, json};

use crate::lab::world::{Needs, World, snapshot, test, text};
use crate::proofs::digest;

const KEEP_ALL: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "verify finds nothing where nothing is damaged, and touches nothing",
            &[],
            nothing,
        ),
        test(
            "verify finds every kind of damage in one run and names it",
            &[],
            every_damage,
        ),
        test("verify finds another owner", &[Needs::Root], another_owner),
        test(
            "verify reads a file once that several generations share",
            &[],
            shared,
        ),
        test(
            "verify looks at one target when it is named, and knows no other",
            &[],
            one_target,
        ),
        test(
            "verify finds no damage in what a daemon swaps and removes meanwhile",
            &[],
            beside_a_daemon,
        ),
    ]
}

fn target(name: &str) -> String {
    format!("amd64/generic/noble/{name}")
}

/// Publishes an image of several files, folders and links.
fn publish(world: &World, name: &str, version: &str) -> PathBuf {
    let drop = format!("{name}-{version}");
    world.drop_with(
        &drop,
        &crate::lab::world::manifest(&target(name)),
        |image| {
            fs::create_dir(image.join("boot")).unwrap();
            fs::write(image.join("linux"), format!("kernel {version}")).unwrap();
            fs::write(image.join("boot/initrd.gz"), vec![7; 1 << 20]).unwrap();
            fs::write(image.join("boot/menu"), "menu").unwrap();
            symlink("boot/menu", image.join("menu")).unwrap();
        },
    );
    world.run_once();
    world.assert_outcome(&drop, "published");
    world.published(&target(name)).canonicalize().unwrap()
}

fn verify(world: &World, arguments: &[&str]) -> (i32, Value) {
    let output = world.run(&[&["verify", "--json"], arguments].concat());
    let code = output.status.code().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (
        code,
        report.unwrap_or_else(|error| panic!("{error}: {}", text(&output))),
    )
}

fn nothing() {
    let world = World::with(KEEP_ALL);
    for version in ["one", "two"] {
        publish(&world, "a", version);
    }
    publish(&world, "b", "one");
    let before = snapshot(&world.tree);
    let (code, report) = verify(&world, &[]);
    assert_eq!(code, 0, "{report:#}");
    let bytes = 3 * ((1 << 20) + 4 + "kernel one".len());
    let expected = json!({
        "targets": 2, "generations": 3, "files": 9, "bytes": bytes, "damages": [],
    });
    assert_eq!(report, expected);
    let shown = text(&world.run(&["verify"]));
    assert!(
        shown.contains("2 targets, 3 generations, 9 files, 3.0 MiB in ")
            && shown.contains(": all as published\n"),
        "{shown}"
    );
    assert_eq!(snapshot(&world.tree), before);
}

/// What is damaged of a target: where, and how.
fn damages(report: &Value, name: &str) -> Vec<(String, String)> {
    let all = report["damages"].as_array().unwrap();
    let of_it = all.iter().filter(|damage| damage["target"] == target(name));
    let word = |value: &Value| value.as_str().unwrap_or("-").to_string();
    let mut found: Vec<_> = of_it
        .map(|damage| (word(&damage["path"]), word(&damage["damage"])))
        .collect();
    found.sort();
    found
}

/// One way to damage a generation, and what is found then.
type Damage = (
    &'static str,
    fn(&Path),
    &'static [(&'static str, &'static str)],
);

const DAMAGES: &[Damage] = &[
    (
        "bit",
        |dir| {
            let file = fs::File::options()
                .write(true)
                .open(dir.join("boot/initrd.gz"));
            file.unwrap().write_all_at(&[6], 700_000).unwrap();
        },
        &[("boot/initrd.gz", "content")],
    ),
    (
        "missing",
        |dir| fs::remove_file(dir.join("boot/initrd.gz")).unwrap(),
        &[("boot/initrd.gz", "missing")],
    ),
    (
        "additional",
        |dir| fs::write(dir.join("boot/new"), "").unwrap(),
        &[("boot/new", "additional")],
    ),
    (
        "truncated",
        |dir| {
            let file = fs::File::options()
                .write(true)
                .open(dir.join("boot/initrd.gz"));
            file.unwrap().set_len(100).unwrap();
        },
        &[("boot/initrd.gz", "size")],
    ),
    (
        "mode",
        |dir| fs::set_permissions(dir.join("linux"), fs::Permissions::from_mode(0o600)).unwrap(),
        &[("linux", "mode")],
    ),
    (
        "folder-mode",
        |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap(),
        &[("-", "mode")],
    ),
    (
        "link",
        |dir| {
            fs::remove_file(dir.join("menu")).unwrap();
            symlink("linux", dir.join("menu")).unwrap();
        },
        &[("menu", "other")],
    ),
    (
        "kind",
        |dir| {
            fs::remove_file(dir.join("linux")).unwrap();
            fs::create_dir(dir.join("linux")).unwrap();
        },
        &[("linux", "other")],
    ),
    (
        "record",
        |dir| fs::remove_file(record(dir)).unwrap(),
        &[("-", "record")],
    ),
    (
        "forged-record",
        |dir| {
            let text = fs::read_to_string(record(dir)).unwrap();
            fs::write(record(dir), text.replace("boot/menu", "boot/manu")).unwrap();
        },
        &[("-", "record")],
    ),
    (
        "torn-record",
        |dir| fs::write(record(dir), "format = 1\n\n[files]\n").unwrap(),
        &[("-", "record")],
    ),
    (
        "other-record",
        |dir| fs::write(record(dir), b"\xff").unwrap(),
        &[("-", "record")],
    ),
    (
        "pointer",
        |dir| fs::rename(dir, dir.with_file_name("elsewhere")).unwrap(),
        &[("-", "pointer")],
    ),
    (
        "two",
        |dir| {
            fs::write(dir.join("linux"), "KERNEL one").unwrap();
            fs::write(dir.join("boot/menu"), "menus").unwrap();
        },
        &[("boot/menu", "size"), ("linux", "content")],
    ),
];

fn record(generation: &Path) -> PathBuf {
    let name = generation.file_name().unwrap().to_str().unwrap();
    generation.with_file_name(format!("{name}.toml"))
}

fn every_damage() {
    let world = World::with(KEEP_ALL);
    let mut forged = PathBuf::new();
    for (name, damage, _) in DAMAGES {
        let generation = publish(&world, name, "one");
        damage(&generation);
        if *name == "forged-record" {
            forged = generation;
        }
    }
    publish(&world, "whole", "one");
    // A generation that is not current is looked at as well.
    let old = publish(&world, "old", "one");
    publish(&world, "old", "two");
    fs::write(old.join("linux"), "kernel 0ne").unwrap();

    let (code, report) = verify(&world, &[]);
    assert_eq!(code, 1, "{report:#}");
    for (name, _, expected) in DAMAGES {
        let expected: Vec<_> = expected
            .iter()
            .map(|(path, damage)| ((*path).to_string(), (*damage).to_string()))
            .collect();
        assert_eq!(damages(&report, name), expected, "{name}: {report:#}");
    }
    assert_eq!(damages(&report, "whole"), []);
    assert_eq!(
        damages(&report, "old"),
        [("linux".to_string(), "content".to_string())]
    );
    let shown = text(&world.run(&["verify"]));
    let count = 1 + DAMAGES
        .iter()
        .map(|(_, _, found)| found.len())
        .sum::<usize>();
    assert!(shown.contains(&format!(": {count} damaged\n")), "{shown}");
    let generation = old.file_name().unwrap().to_str().unwrap();
    let line = format!(
        "damaged: {} {generation} `linux`: has sha256 ",
        target("old")
    );
    assert!(shown.contains(&line), "{shown}");
    // What is the case with a record.
    let of_record = |name: &str| {
        let begin = format!("damaged: {} ", target(name));
        let line = shown.lines().find_map(|line| line.strip_prefix(&begin));
        let (generation, said) = line.unwrap().split_once(' ').unwrap();
        said.replace(generation, "GENERATION")
    };
    for (name, expected) in [
        (
            "record",
            "record: missing; expected GENERATION.toml".to_string(),
        ),
        (
            "torn-record",
            "record: not readable: missing field `target`".to_string(),
        ),
        ("other-record", "record: not readable: no UTF-8".to_string()),
        ("forged-record", {
            let text = fs::read_to_string(record(&forged)).unwrap();
            let forged = Record::parse(&text).unwrap();
            let (said, is) = (forged.head.digest, digest(&forged.listing));
            format!("record: says digest {said}; what it lists has digest {is}")
        }),
    ] {
        assert_eq!(of_record(name), expected, "{shown}");
    }
}

fn another_owner() {
    let world = World::with(KEEP_ALL);
    let generation = publish(&world, "a", "one");
    chown(generation.join("boot/menu"), Some(1), None).unwrap();
    let (code, report) = verify(&world, &[]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(
        damages(&report, "a"),
        [("boot/menu".to_string(), "mode".to_string())],
        "{report:#}"
    );
}

fn shared() {
    let world = World::with(KEEP_ALL);
    publish(&world, "a", "one");
    let current = publish(&world, "a", "two");
    // Both generations hold this file, and it is one inode.
    let file = fs::File::options()
        .write(true)
        .open(current.join("boot/initrd.gz"));
    file.unwrap().write_all_at(&[6], 700_000).unwrap();
    let (_, report) = verify(&world, &[]);
    let expected = ("boot/initrd.gz".to_string(), "content".to_string());
    assert_eq!(
        damages(&report, "a"),
        [expected.clone(), expected],
        "{report:#}"
    );
}

fn one_target() {
    let world = World::with(KEEP_ALL);
    let damaged = publish(&world, "damaged", "one");
    fs::remove_file(damaged.join("linux")).unwrap();
    publish(&world, "whole", "one");
    assert_eq!(verify(&world, &[&target("whole")]).0, 0);
    assert_eq!(verify(&world, &[&target("damaged")]).0, 1);
    let output = world.run(&["verify", &target("other")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("netboot-publisher: no such target: {}\n", target("other"))
    );
}

fn beside_a_daemon() {
    let world =
        World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 0\n");
    publish(&world, "a", "first");
    let mut daemon = world.daemon();
    let mut removed = 0;
    for number in 0..60 {
        let name = format!("v{number}");
        let bytes = vec![number; 1 << 20];
        world.drop_image(
            &name,
            &target("a"),
            &[("linux", &bytes), ("initrd.gz", &bytes)],
        );
        let (code, report) = verify(&world, &[]);
        assert_eq!(code, 0, "{report:#}\n{world}");
        daemon.wait_for_drop(&name);
        removed += 1;
    }
    assert_eq!(removed, 60);
    daemon.stop();
}
