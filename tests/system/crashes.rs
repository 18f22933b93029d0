//! Killed at every step, and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::scene::{Scene, drops};
use crate::world::{Needs, test, text};

/// Every place that the program can be ended at from within.
const PLACES: &[&str] = &[
    "claim",
    "copy-file",
    "outcome",
    "place-adopted",
    "place-generation",
    "place-record",
    "reject",
    "reject-drop",
    "remove",
    "remove-image",
    "spool-sync",
    "stage",
    "stage-record",
    "swap",
    "tree-sync",
    "vacuum",
];

/// With what the tests tell the program where to end.
const FAILPOINT: &str = "NETBOOT_PUBLISHER_FAILPOINT";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "every failpoint of the program is tried",
            &[],
            every_place_is_tried,
        ),
        test(
            "a daemon killed at any failpoint is finished by the next one",
            &[Needs::Failpoints],
            || killed_at_every_failpoint(1),
        ),
        test(
            "a daemon killed at any failpoint while nothing old is kept is finished by the next one",
            &[Needs::Failpoints],
            || killed_at_every_failpoint(0),
        ),
    ]
}

fn every_place_is_tried() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for file in fs::read_dir(sources).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        // Some files have a shorter name for `failpoint::at`.
        let calls = text.match_indices("at(\"").filter(|(at, _)| {
            let before = text[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
        });
        for (at, call) in calls {
            let name = text[at + call.len()..].split('"').next().unwrap();
            found.insert(name.to_string());
        }
    }
    let tried: BTreeSet<_> = PLACES.iter().map(|name| (*name).to_string()).collect();
    assert_eq!(found, tried, "in src/, and in this list");
}

/// At every place, each time that it is reached.
fn killed_at_every_failpoint(keep: usize) {
    let scene = Scene::in_memory(keep);
    let mut kills = BTreeMap::new();
    for place in PLACES {
        for nth in 1.. {
            scene.begin();
            let first = run_to(&scene, &format!("{place}:{nth}:kill"));
            if first.status.success() {
                scene.assert_finished(&scene.world);
                break;
            }
            assert_killed(&first);
            *kills.entry(*place).or_insert(0) += 1;
            let told = format!("{place}:{nth}\n{}", text(&first));
            checked(&told, || {
                scene.assert_between(&scene.world);
                let second = scene.recover();
                scene.assert_finished(&scene.world);
                assert_told_once(&[&first, &second]);
            });
        }
    }
    let untried: Vec<_> = PLACES
        .iter()
        .filter(|place| !kills.contains_key(*place))
        .collect();
    assert!(untried.is_empty(), "never reached: {untried:?}");
    let total: u32 = kills.values().sum();
    println!(
        "keep = {keep}: {total} kills at {} failpoints: {kills:?}",
        kills.len()
    );
}

impl Scene {
    /// Set, and all drops handed over.
    fn begin(&self) {
        self.set();
        self.hand_over();
    }

    /// The next start, which has to end well.
    fn recover(&self) -> Output {
        let output = self.world.run(&["run", "--once"]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.world);
        output
    }
}

/// A run that ends at a failpoint.
fn run_to(scene: &Scene, failpoint: &str) -> Output {
    let mut command = scene.world.command(&["run", "--once"]);
    command.env(FAILPOINT, failpoint).output().unwrap()
}

fn assert_killed(output: &Output) {
    assert_eq!(output.status.signal(), Some(9), "{}", text(output));
}

/// Says where the program was ended when an assertion fails.
fn checked(what: &str, check: impl FnOnce()) {
    let check = std::panic::AssertUnwindSafe(check);
    if let Err(panic) = std::panic::catch_unwind(check) {
        eprintln!("after a kill at {what}");
        std::panic::resume_unwind(panic);
    }
}

/// No drop was reported twice.
fn assert_told_once(runs: &[&Output]) {
    let logs: String = runs.iter().map(|run| text(run)).collect();
    for drop in drops() {
        let told = logs.matches(&format!("drop=\"{drop}\"")).count();
        assert!(told <= 1, "{drop} was reported {told} times:\n{logs}");
    }
}
