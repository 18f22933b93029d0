//! File systems mounted in or over a drop, and another folder in the place of `incoming`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use super::{OTHER, Siege, TARGET};
use crate::lab::world::{Needs, manifest, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a file system mounted in a drop is refused and not crossed",
            &[Needs::Root],
            mount_in_drop,
        ),
        test(
            "a file mounted over one of a drop is refused and not read",
            &[Needs::Root],
            mounted_file,
        ),
        test(
            "a drop that can not be looked into or moved is told of and holds up nobody",
            &[Needs::Root],
            mounted_drop,
        ),
        test(
            "an incoming folder that is replaced ends the daemon and is served by the next",
            &[],
            incoming_replaced,
        ),
    ]
}

/// What is mounted below a world's root: goes with the test, wherever its drop is by then.
struct Mount(PathBuf);

impl Mount {
    fn bind(root: &Path, what: &Path, at: &Path) -> Self {
        let mount = Self(root.into());
        let mut command = Command::new("mount");
        let mounted = command.arg("--bind").arg(what).arg(at).status().unwrap();
        assert!(mounted.success());
        mount
    }

    /// Takes the mount away.
    fn end(self) {}
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&self.0)) {
            let _ = Command::new("umount").arg(place).status();
        }
    }
}

/// A drop with something of the outside mounted at `at` is refused, and what is mounted stays.
fn refuses_mount(what: &str, at: &str) {
    let mut siege = Siege::new();
    let mut mount = None;
    let outside = siege.outside.join(what);
    siege.put_in("mounted", &manifest(TARGET), |drop| {
        if outside.is_dir() {
            fs::create_dir(drop.join(at)).unwrap();
        }
        mount = Some(Mount::bind(&siege.world.root, &outside, &drop.join(at)));
    });
    let name = at.strip_prefix("image/").unwrap();
    siege.assert_refused(
        "mounted",
        "unsafe-file",
        &["another file system is mounted there", name],
    );
    mount.unwrap().end();
    siege.end();
}

fn mount_in_drop() {
    refuses_mount("", "image/sub");
}

fn mounted_file() {
    refuses_mount("secret", "image/linux");
}

fn mounted_drop() {
    let mut siege = Siege::new();
    let drop = siege.world.incoming("mounted");
    fs::create_dir(&drop).unwrap();
    let mount = Mount::bind(&siege.world.root, &siege.outside, &drop);
    // An event for another drop makes the daemon look at all drops.
    siege
        .world
        .drop_image("other", OTHER, &[("linux", b"other")]);
    siege.daemon.wait_for("`mounted` has to wait: renaming ");
    siege.assert_goes_on();
    mount.end();
    fs::remove_dir(&drop).unwrap();
    siege.assert_goes_on();
    siege.end();
}

fn incoming_replaced() {
    let siege = Siege::new();
    let Siege {
        world, mut daemon, ..
    } = siege;
    fs::rename(world.spool.join("incoming"), world.spool.join("old")).unwrap();
    fs::create_dir(world.spool.join("incoming")).unwrap();
    world.drop_image("new", TARGET, &[("linux", b"new")]);
    // An event of the folder that the daemon has open makes it look.
    fs::create_dir(world.spool.join("old/anything")).unwrap();
    let status = daemon.wait();
    let log = daemon.log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("it is another folder than at the start"),
        "{log}"
    );
    let mut next = world.daemon();
    next.wait_for_drop("new");
    world.assert_outcome("new", "published");
    next.stop();
    world.assert_at_rest();
}
