//! The quiet swap: a changed image waits until no machine uses the current one.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::lab::world::{Daemon, Ended, World, names, test, until};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

const REST: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";

/// Quiet comes soon, and nothing but quiet ends the wait.
const SOON: &str = "[swap]\nquiet_period = \"300ms\"\nmax_delay = \"1d\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a first image and an unchanged one wait for nothing",
            &[],
            no_wait,
        ),
        test(
            "a changed image waits for an open file and holds up no other target",
            &[],
            waits_for_an_open_file,
        ),
        test(
            "a folder that somebody else made is adopted when it is quiet",
            &[],
            adoption_waits,
        ),
        test(
            "a rollback, a promotion and a withdrawal wait as well",
            &[],
            rollback_waits,
        ),
        test(
            "no generation goes that a rollback waits to make current",
            &[],
            rollback_keeps,
        ),
        test(
            "after max_delay a changed image is swapped whoever uses what",
            &[],
            overdue,
        ),
        test("a wait survives SIGTERM", &[], || survives(Signal::TERM)),
        test("a wait survives SIGKILL", &[], || survives(Signal::KILL)),
        test("run --once waits until it is quiet", &[], once_waits),
    ]
}

fn world(swap: &str) -> World {
    World::with(&format!("{REST}{swap}"))
}

/// A machine in the middle of a boot: it has opened the file, and reads nothing for now.
fn machine(world: &World, target: &str) -> Ended {
    let file = File::open(world.published(target).join("linux")).unwrap();
    let reader = Command::new("sleep")
        .arg("infinity")
        .stdin(Stdio::from(file))
        .spawn();
    Ended(reader.unwrap())
}

fn drop_text(world: &World, target: &str, text: &str) {
    world.drop_image(text, target, &[("linux", text.as_bytes())]);
}

fn shown(world: &World, target: &str) -> String {
    fs::read_to_string(world.published(target).join("linux")).unwrap_or_default()
}

/// Waits until the new generation stands beside the current one: all but the swap is done.
fn wait_until_placed(world: &World, target: &str, generations: usize) {
    let folder = world.published(&format!("{target}@"));
    let is_there = || {
        let records = names(&folder);
        records
            .iter()
            .filter(|name| name.ends_with(".toml"))
            .count()
            == generations
    };
    until("the new generation to be placed", is_there);
}

/// Swaps another target meanwhile: the time was long enough for a swap.
fn other_is_swapped(world: &World, daemon: &mut Daemon, text: &str) {
    drop_text(world, OTHER, text);
    daemon.wait_for_drop(text);
    world.assert_outcome(text, "published");
    assert_eq!(shown(world, OTHER), text, "{world}");
}

fn no_wait() {
    let world = world("[swap]\nquiet_period = \"1d\"\nmax_delay = \"2d\"\n");
    let mut daemon = world.daemon();
    drop_text(&world, TARGET, "first");
    daemon.wait_for_drop("first");
    world.assert_outcome("first", "published");
    let _machine = machine(&world, TARGET);
    world.drop_image("same", TARGET, &[("linux", b"first")]);
    daemon.wait_for_drop("same");
    world.assert_outcome("same", "unchanged");
    daemon.stop();
}

fn waits_for_an_open_file() {
    let world = world(SOON);
    let mut daemon = world.daemon();
    for target in [TARGET, OTHER] {
        let text = format!("old-{}", &target[..5]);
        drop_text(&world, target, &text);
        daemon.wait_for_drop(&text);
    }
    let booting = machine(&world, TARGET);
    drop_text(&world, TARGET, "new");
    wait_until_placed(&world, TARGET, 2);
    other_is_swapped(&world, &mut daemon, "other-1");
    other_is_swapped(&world, &mut daemon, "other-2");
    assert_eq!(shown(&world, TARGET), "old-amd64", "{world}");
    assert_eq!(world.outcome("new"), None, "{world}");
    // A later drop for the target waits behind `new`.
    drop_text(&world, TARGET, "newer");
    other_is_swapped(&world, &mut daemon, "other-3");
    drop(booting);
    daemon.wait_for_drop("new");
    daemon.wait_for_drop("newer");
    assert_eq!(shown(&world, TARGET), "newer", "{world}");
    daemon.stop();
    world.assert_at_rest();
}

fn adoption_waits() {
    let world = world(SOON);
    let plain = world.published(TARGET);
    fs::create_dir_all(&plain).unwrap();
    fs::write(plain.join("linux"), "by hand").unwrap();
    let mut daemon = world.daemon();
    drop_text(&world, OTHER, "other");
    daemon.wait_for_drop("other");
    let booting = machine(&world, TARGET);
    drop_text(&world, TARGET, "new");
    wait_until_placed(&world, TARGET, 2);
    other_is_swapped(&world, &mut daemon, "other-1");
    other_is_swapped(&world, &mut daemon, "other-2");
    assert_eq!(shown(&world, TARGET), "by hand", "{world}");
    drop(booting);
    daemon.wait_for_drop("new");
    assert_eq!(shown(&world, TARGET), "new", "{world}");
    daemon.stop();
    world.assert_at_rest();
}

fn rollback_waits() {
    let world = world(SOON);
    let mut daemon = world.daemon();
    for (target, text) in [(TARGET, "one"), (TARGET, "two"), (OTHER, "other")] {
        drop_text(&world, target, text);
        daemon.wait_for_drop(text);
    }
    for command in ["rollback", "promote", "withdraw"] {
        // The other target goes on: what is meant is what was current there when that was ordered.
        let (expected, arguments) = match command {
            "rollback" => ("one".to_string(), vec![command, TARGET]),
            "promote" => (shown(&world, OTHER), vec![command, OTHER, TARGET]),
            _ => (String::new(), vec![command, TARGET]),
        };
        let before = shown(&world, TARGET);
        let booting = machine(&world, TARGET);
        let output = world.run(&arguments);
        let drop_name = String::from_utf8_lossy(&output.stdout).trim().to_string();
        until("the drop to be claimed", || {
            world.claimed().contains(&drop_name)
        });
        other_is_swapped(&world, &mut daemon, &format!("{command}-1"));
        other_is_swapped(&world, &mut daemon, &format!("{command}-2"));
        assert_eq!(shown(&world, TARGET), before, "{command}\n{world}");
        drop(booting);
        daemon.wait_for_drop(&drop_name);
        assert_eq!(shown(&world, TARGET), expected, "{command}\n{world}");
    }
    daemon.stop();
    world.assert_at_rest();
}

fn rollback_keeps() {
    let world = world(SOON);
    let mut daemon = world.daemon();
    for (target, text) in [(TARGET, "one"), (TARGET, "two"), (OTHER, "1"), (OTHER, "2")] {
        drop_text(&world, target, text);
        daemon.wait_for_drop(text);
    }
    let booting = machine(&world, TARGET);
    let output = world.run(&["rollback", TARGET]);
    let drop_name = String::from_utf8_lossy(&output.stdout).trim().to_string();
    until("the drop to be claimed", || {
        world.claimed().contains(&drop_name)
    });
    // From now on retention keeps nothing.
    let settings = fs::read_to_string(&world.config).unwrap();
    let settings = settings.replace("min_age = \"1h\"", "min_age = \"0s\"\nkeep = 0");
    fs::write(&world.config, settings).unwrap();
    daemon.signal(Signal::HUP);
    let kept = |target: &str| {
        let folder = names(&world.published(&format!("{target}@")));
        folder
            .iter()
            .filter(|name| !name.ends_with(".toml"))
            .count()
    };
    until("the other target's generation to go", || kept(OTHER) == 1);
    assert_eq!(kept(TARGET), 2, "{world}");
    drop(booting);
    daemon.wait_for_drop(&drop_name);
    assert_eq!(shown(&world, TARGET), "one", "{world}");
    daemon.stop();
}

fn overdue() {
    let world = world("[swap]\nquiet_period = \"1s\"\nmax_delay = \"2s\"\n");
    let mut daemon = world.daemon();
    drop_text(&world, TARGET, "old");
    daemon.wait_for_drop("old");
    let _booting = machine(&world, TARGET);
    drop_text(&world, TARGET, "new");
    let line = daemon.wait_for("though machines use what is replaced");
    assert!(line.contains(TARGET) && line.contains("WARN"), "{line}");
    daemon.wait_for_drop("new");
    assert_eq!(shown(&world, TARGET), "new", "{world}");
    daemon.stop();
    world.assert_at_rest();
}

fn survives(signal: Signal) {
    let world = world(SOON);
    let mut daemon = world.daemon();
    drop_text(&world, TARGET, "old");
    daemon.wait_for_drop("old");
    let booting = machine(&world, TARGET);
    drop_text(&world, TARGET, "new");
    wait_until_placed(&world, TARGET, 2);
    if signal == Signal::KILL {
        daemon.kill();
    } else {
        daemon.stop();
    }
    assert_eq!(shown(&world, TARGET), "old", "{world}");
    assert_eq!(world.claimed(), ["new"], "{world}");
    world.assert_pointers_whole();

    let mut daemon = world.daemon();
    drop_text(&world, OTHER, "other");
    daemon.wait_for_drop("other");
    other_is_swapped(&world, &mut daemon, "other-1");
    other_is_swapped(&world, &mut daemon, "other-2");
    assert_eq!(shown(&world, TARGET), "old", "it waits again\n{world}");
    drop(booting);
    daemon.wait_for_drop("new");
    assert_eq!(shown(&world, TARGET), "new", "{world}");
    daemon.stop();
    world.assert_at_rest();
    let folder = world.published(&format!("{TARGET}@"));
    assert_eq!(
        names(Path::new(&folder)).len(),
        4,
        "two generations\n{world}"
    );
}

fn once_waits() {
    let world = world(SOON);
    drop_text(&world, TARGET, "old");
    world.run_once();
    drop_text(&world, TARGET, "new");
    world.run_once();
    world.assert_outcome("new", "published");
    assert_eq!(shown(&world, TARGET), "new", "{world}");
    world.assert_at_rest();
}
