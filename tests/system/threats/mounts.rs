//! File systems mounted in or over a drop, and other folders in the place of spool or tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Signal, WaitOptions, waitpid};

use super::{Siege, TARGET};
use crate::lab::world::{Daemon, Needs, World, manifest, names, test, until, walk};

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
            "a drop that something is mounted on waits and holds up nobody",
            &[Needs::Root],
            mounted_drop,
        ),
        test(
            "a folder of the spool or a tree that is replaced ends the daemon before anything is published",
            &[],
            replaced,
        ),
        test(
            "a folder of the spool or a tree that is moved away ends the daemon before anything is published",
            &[],
            moved,
        ),
        test(
            "a folder of the spool or a tree that is mounted over ends the daemon before anything is published",
            &[Needs::Root],
            mounted_over,
        ),
        test(
            "a drop that was held when the tree was replaced is published into the new one",
            &[],
            replaced_before_swap,
        ),
        test(
            "a swap into a tree that was replaced has no outcome and is made again in the new one",
            &[Needs::Failpoints],
            replaced_before_outcome,
        ),
    ]
}

/// What is mounted below a world's root: goes with the test, wherever its drop is by then.
pub struct Mount(PathBuf);

impl Mount {
    pub fn bind(root: &Path, what: &Path, at: &Path) -> Self {
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
        unmount_below(&self.0);
    }
}

/// Takes away what is mounted below a world's root, also where something uses it.
pub fn unmount_below(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(root)) {
        let _ = Command::new("umount").arg("--lazy").arg(place).status();
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
    siege.assert_goes_on();
    assert_eq!(siege.world.outcome("mounted"), None, "{}", siege.world);
    mount.end();
    fs::remove_dir(&drop).unwrap();
    siege.assert_goes_on();
    siege.end();
}

/// What the daemon serves, by its path in a world.
const SERVED: [&str; 6] = [
    "spool",
    "spool/incoming",
    "spool/processing",
    "spool/rejected",
    "spool/outcomes",
    "tree",
];

/// The daemon looks every second, whether events arrive or not.
const OFTEN: &str = "#spool rescan_interval = \"1s\"\n[limits]\nmin_free_space = \"0B\"\n";

/// Another folder stands at each of the daemon's paths, in turn: the daemon ends, says where and
/// why, and has published nothing; the next one serves what is there now.
fn ends_when_replaced(said: &str, replace: impl Fn(&World, &Path) -> Option<Mount>) {
    for part in SERVED {
        let world = World::with(OFTEN);
        let mut daemon = world.daemon();
        let served = world.root.join(part);
        let mount = replace(&world, &served);
        // Where the folder has gone, no importer drops anything before somebody makes it again.
        let is_there = served.exists();
        let drop_new = || world.drop_image("new", TARGET, &[("linux", b"new")]);
        is_there.then(drop_new);
        let status = daemon.wait();
        let log = daemon.log.join("\n");
        assert_eq!(status.code(), Some(1), "{part}: {log}");
        assert!(
            log.contains(&format!("{served:?}: {said}")),
            "{part}: {log}"
        );
        (!is_there).then(drop_new);
        assert_nothing_done(&world, "new");
        drop(mount);
        // What was dropped into another file system went with it.
        let is_kept = world.incoming("new").exists() || world.place("new").is_some();
        (!is_kept).then(drop_new);
        let mut next = world.daemon();
        next.wait_for_drop("new");
        world.assert_outcome("new", "published");
        assert_eq!(
            fs::read(world.published(TARGET).join("linux")).unwrap(),
            b"new"
        );
        next.stop();
        world.assert_at_rest();
    }
}

/// Nowhere in a world is an outcome, or a pointer; the drop is in the spool still.
fn assert_nothing_done(world: &World, drop: &str) {
    let paths = walk(&world.root);
    let done = |path: &&PathBuf| path.is_symlink() || path.ends_with(format!("{drop}.json"));
    let done: Vec<_> = paths.iter().filter(done).collect();
    assert!(done.is_empty(), "{done:?}\n{world}");
    // In `processing/` there is a claim in front of the name.
    let image = format!("{drop}/image/linux");
    let kept = |path: &PathBuf| path.to_str().unwrap().ends_with(&image);
    assert!(paths.iter().any(kept), "{drop} is lost\n{world}");
}

fn replaced() {
    ends_when_replaced("it is another folder than at the start", |_, served| {
        let other = served.with_extension("old");
        fs::create_dir(&other).unwrap();
        // In one step: without a moment in which the folder is gone.
        renameat_with(CWD, served, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        None
    });
}

fn moved() {
    ends_when_replaced("the folder is gone", |_, served| {
        fs::rename(served, served.with_extension("old")).unwrap();
        None
    });
}

fn mounted_over() {
    ends_when_replaced("it is another folder than at the start", |world, served| {
        let other = world.root.join("other");
        fs::create_dir(&other).unwrap();
        Some(Mount::bind(&world.root, &other, served))
    });
}

/// The drop `new` has no outcome, until a daemon starts on the tree that is there now.
fn next_publishes(world: &World) {
    assert_eq!(world.outcome("new"), None, "{world}");
    let mut next = world.daemon();
    next.wait_for_drop("new");
    world.assert_outcome("new", "published");
    let shown = fs::read(world.published(TARGET).join("linux"));
    assert_eq!(shown.unwrap(), b"new");
    next.stop();
}

/// A drop that is held when the tree is replaced: nothing but the step that would swap it in looks.
fn replaced_before_swap() {
    let settings = "#spool rescan_interval = \"1h\"\n[limits]\nmin_free_space = \"0B\"\n\
                    [swap]\nquiet_period = \"10ms\"\nmax_delay = \"1h\"\n";
    let world = World::with(settings);
    let mut daemon = world.daemon();
    world.drop_image("old", TARGET, &[("linux", b"old")]);
    daemon.wait_for_drop("old");
    let pointer = fs::read_link(world.published(TARGET)).unwrap();
    let in_use = fs::File::open(world.published(TARGET).join("linux")).unwrap();
    world.drop_image("new", TARGET, &[("linux", b"new")]);
    let generations = world.tree.join(format!("{TARGET}@"));
    until("the new generation", || names(&generations).len() == 4);
    let old = world.root.join("tree.old");
    fs::rename(&world.tree, &old).unwrap();
    fs::create_dir(&world.tree).unwrap();
    drop(in_use);
    assert_eq!(daemon.wait().code(), Some(1));
    assert_eq!(fs::read_link(old.join(TARGET)).unwrap(), pointer, "{world}");
    next_publishes(&world);
}

/// The daemon stands still between its last look and the swap: the outcome of a swap that nobody sees
/// is not written.
fn replaced_before_outcome() {
    let world = World::with(OFTEN);
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", "swap:1:stop");
    let mut daemon = Daemon::start(command);
    world.drop_image("new", TARGET, &[("linux", b"new")]);
    let stopped = waitpid(Some(daemon.pid()), WaitOptions::UNTRACED).unwrap();
    assert!(
        stopped.is_some_and(|(_, status)| status.stopped()),
        "{stopped:?}"
    );
    let old = world.root.join("tree.old");
    fs::rename(&world.tree, &old).unwrap();
    fs::create_dir(&world.tree).unwrap();
    daemon.signal(Signal::CONT);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(old.join(TARGET).is_symlink(), "not swapped\n{world}");
    next_publishes(&world);
}
