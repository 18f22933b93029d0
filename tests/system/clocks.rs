//! Clocks that are set: what is published, and in which order, doesn't depend on them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use libtest_mimic::Trial;

use crate::filesystems::{FileSystem, expect};
use crate::lab::clock::{self, OwnClock, at_another_time};
use crate::lab::world::{Daemon, Needs, World, manifest, output, test, until};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

const DAY: u64 = 24 * 60 * 60;

const SETTINGS: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a drop from before the clock was set back comes first, and waits for nothing",
            &[Needs::Root, Needs::Program("debugfs")],
            set_back_before,
        ),
        test(
            "a clock that is set while the daemon runs is spoken of, and drops are published on",
            &[clock::NEEDS],
            set_meanwhile,
        ),
    ]
}

/// Stamps on a disk as a clock made them that was a day ahead: a renamed drop, one that was written
/// in place, and an incomplete one.
fn set_back_before() {
    let mut disk = FileSystem::looped("ext4", 256 << 20, "relatime");
    let root = tempfile::tempdir().unwrap();
    let settings = format!("#spool settle = \"1h\"\n{SETTINGS}");
    let (spool, tree) = (disk.root.join("spool"), disk.root.join("tree"));
    let world = World::at(root.path(), &spool, &tree, &settings);
    let build = |name: &str, target: &str| {
        fs::create_dir_all(world.incoming(name).join("image")).unwrap();
        fs::write(world.incoming(name).join("image/linux"), name).unwrap();
        fs::write(world.incoming(name).join("manifest.toml"), manifest(target)).unwrap();
    };
    build("renamed", TARGET);
    build("in-place", OTHER);
    build("incomplete", OTHER);
    fs::remove_file(world.incoming("incomplete/manifest.toml")).unwrap();

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ahead = now.unwrap().as_secs() + DAY;
    let mut edits = String::new();
    for drop in ["renamed", "in-place", "incomplete"] {
        for path in ["", "/image", "/image/linux", "/manifest.toml"] {
            if world
                .incoming(drop)
                .join(path.trim_start_matches('/'))
                .exists()
            {
                // A rename changes the folder once more.
                let changed = ahead + u64::from(drop == "renamed" && path.is_empty());
                let path = format!("/spool/incoming/{drop}{path}");
                edits += &format!("sif {path} mtime @{ahead}\nsif {path} ctime @{changed}\n");
            }
        }
    }
    let script = root.path().join("edits");
    fs::write(&script, edits).unwrap();
    disk.unmounted(|image| {
        let mut debugfs = Command::new("debugfs");
        expect(debugfs.arg("-w").arg("-f").arg(&script).arg(image));
    });
    // Of today: it is for the same target as the renamed one, and comes after it.
    build(".today", TARGET);
    fs::write(world.incoming(".today/image/linux"), "today").unwrap();
    let changed = |path: &str| {
        let stat = fs::metadata(world.incoming(path)).unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    // Not every file of a drop is of the same tick: kernels since 6.13 count finer where somebody has looked.
    let newest = [".today", ".today/image/linux", ".today/manifest.toml"].map(changed);
    let newest = newest.into_iter().max().unwrap();
    until("the next tick of the file system's clock", || {
        fs::write(world.incoming(".tick"), "").unwrap();
        changed(".tick") > newest
    });
    fs::rename(world.incoming(".today"), world.incoming("today")).unwrap();
    world.run_once();
    for drop in ["renamed", "in-place", "today"] {
        world.assert_outcome(drop, "published");
    }
    let shown = fs::read_to_string(world.published(TARGET).join("linux")).unwrap();
    assert_eq!(shown, "today", "{world}");
    assert_eq!(world.names("incoming"), [".tick", "incomplete"], "{world}");
}

/// Only the daemon's wall clock is set here: the file system goes by the kernel's.
fn set_meanwhile() {
    let keep = "#spool keep_outcomes = \"1h\"\n";
    let world = World::with(&format!(
        "#spool rescan_interval = \"1s\"\n{keep}{SETTINGS}"
    ));
    let clock = OwnClock::new(&world.root);
    let mut command = world.command(&["run"]);
    clock.give_to(&mut command);
    let mut daemon = Daemon::start(command);
    let steps = [
        ("-1h", "back by 1h"),
        ("+1d", "ahead by 1day 1h"),
        ("+0", "back by 1day"),
    ];
    for (number, (offset, said)) in steps.into_iter().enumerate() {
        clock.set(offset);
        let line = daemon.wait_for("the clock was set");
        assert!(line.contains(said) && line.contains("WARN"), "{line}");
        let (renamed, in_place) = (format!("renamed-{number}"), format!("in-place-{number}"));
        world.drop_image(&renamed, TARGET, &[("linux", renamed.as_bytes())]);
        daemon.wait_for_drop(&renamed);
        let drop = world.incoming(&in_place);
        fs::create_dir_all(drop.join("image")).unwrap();
        fs::write(drop.join("manifest.toml"), manifest(TARGET)).unwrap();
        fs::write(drop.join("image/linux"), &in_place).unwrap();
        daemon.wait_for_drop(&in_place);
        let shown = fs::read_to_string(world.published(TARGET).join("linux")).unwrap();
        assert_eq!(shown, in_place, "{world}");
    }
    daemon.stop();
    // What is kept for an hour is kept, though this daemon's clock is a day ahead.
    let kept = world.outcomes();
    let mut command = world.command(&["run", "--once"]);
    at_another_time(&mut command, "+1d");
    assert!(output(&mut command).status.success(), "{world}");
    assert_eq!(world.outcomes(), kept, "{world}");
}
