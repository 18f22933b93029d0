//! What is on the disk before others may rely on it: the order of the system calls that a power cut
//! would show only where it falls between two of them.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::boot_configs;
use crate::lab::trace::{assert_in_order, traced};
use crate::lab::world::{Needs, World, test, text};

const TARGET: &str = "amd64/generic/noble/install";

/// Calls that make something durable, and that make it seen.
const CALLS: &str = "fsync,syncfs,rename,renameat,renameat2";

pub fn tests() -> Vec<Trial> {
    let strace = Needs::Program("strace");
    vec![
        test(
            "catalog and boot configurations are on the disk before anybody sees them",
            &[strace],
            boot_configurations,
        ),
        test(
            "an alias is on the list on the disk before it is made and until it has gone from there",
            &[strace],
            aliases,
        ),
        test(
            "a drop of submit is on the disk before it has its name",
            &[strace],
            submitted,
        ),
        test(
            "an outcome that is written late is on the disk before its rejected drop moves",
            &[strace, Needs::Failpoints],
            late_rejection,
        ),
    ]
}

fn boot_configurations() {
    let world = boot_configs::world(&[(Path::new("menu.j2"), "menu")], "");
    fs::write(world.root.join("menu.j2"), "{{ images | length }}\n").unwrap();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    let (output, calls) = traced(
        &format!("{CALLS},openat2"),
        &world.command(&["run", "--once"]),
    );
    assert!(output.status.success(), "{}", text(&output));
    for (temporary, name) in [("catalog.json.new", "catalog.json"), (".menu.new", "menu")] {
        let (temporary, name) = (format!("/{temporary}>"), format!("\"{name}\""));
        let quoted = temporary.replace(['/', '>'], "\"");
        let steps: [(&str, &[&str]); 3] = [
            ("openat2", &[&quoted, "O_CREAT"]),
            ("fsync", &[&temporary]),
            ("rename", &[&quoted, &name]),
        ];
        assert_in_order(&calls, &steps);
    }
}

fn aliases() {
    let alias = |path: &str| format!("[[alias]]\npath = {path:?}\ntarget = {TARGET:?}\n");
    let world = boot_configs::world(&[], &alias("old"));
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    world.run_once();
    let settings = fs::read_to_string(&world.config).unwrap();
    fs::write(&world.config, settings.replace("\"old\"", "\"new\"")).unwrap();
    let (output, calls) = traced(
        &format!("{CALLS},unlinkat,symlinkat"),
        &world.command(&["run", "--once"]),
    );
    assert!(output.status.success(), "{}", text(&output));
    let private = world.tree.join(".netboot-publisher");
    let (private, root) = (private.display(), world.root.join("tftp"));
    let (root, list) = (
        format!("<{}>", root.display()),
        format!("<{private}/links.new>"),
    );
    let steps: [(&str, &[&str]); 6] = [
        ("unlinkat", &[&root, "\"old\""]),
        ("fsync", &[&root]),
        ("fsync", &[&list]),
        ("rename", &["\"links.new\"", "\"links\""]),
        ("fsync", &[&format!("<{private}>")]),
        ("symlinkat", &[&root, "\"new\""]),
    ];
    assert_in_order(&calls, &steps);
}

fn submitted() {
    let world = World::new();
    let image = world.root.join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("linux"), "linux").unwrap();
    let mut submit = world.command(&["submit", "--arch=amd64", "--release=noble"]);
    submit.arg("--purpose=install").arg(&image);
    let (output, calls) = traced(&format!("{CALLS},openat2"), &submit);
    assert!(output.status.success(), "{}", text(&output));
    let drop = String::from_utf8(output.stdout).unwrap();
    let (hidden, name) = (
        format!("\".{}\"", drop.trim()),
        format!("\"{}\"", drop.trim()),
    );
    let incoming = format!("{}/", world.incoming("").display());
    let steps: [(&str, &[&str]); 5] = [
        ("openat2", &["\"linux\"", "O_CREAT"]),
        ("openat2", &["\"manifest.toml\"", "O_CREAT"]),
        ("syncfs", &[incoming.trim_end_matches('/')]),
        ("rename", &[&hidden, &name]),
        ("syncfs", &[incoming.trim_end_matches('/')]),
    ];
    assert_in_order(&calls, &steps);
}

fn late_rejection() {
    let world = World::new();
    world.drop_with("bad", "bad", |_| {});
    let mut run = world.command(&["run", "--once"]);
    // At first the outcome can't be written where the drop will be kept.
    run.env("NETBOOT_PUBLISHER_FAILPOINT", "reject:1:fail");
    let (output, calls) = traced(CALLS, &run);
    assert!(output.status.success(), "{}", text(&output));
    world.assert_outcome("bad", "rejected bad-manifest");
    let spool = format!("<{}>", world.spool.display());
    let steps: [(&str, &[&str]); 3] = [
        ("rename", &["/rejected>", "\"bad.json\""]),
        ("syncfs", &[&spool]),
        (
            "rename",
            &["/processing>, \"", ".bad\"", "/rejected>, \"bad\""],
        ),
    ];
    assert_in_order(&calls, &steps);
}
