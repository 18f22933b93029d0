//! File systems of an importer's own, whose server may never answer: mounted at any moment on a drop,
//! in it or on a file of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::mounts::{Mount, unmount_below};
use super::{IMPORTER, LIMITS, OTHER, Siege, TARGET, own};
use crate::lab::world::{Daemon, Needs, World, bindfs_of, manifest, names, test, text, until};

/// A FUSE server in user space takes these.
const NEEDS: [Needs; 3] = [
    Needs::Root,
    Needs::Path("/dev/fuse"),
    Needs::Program("bindfs"),
];

const FAILPOINTS: [Needs; 4] = [NEEDS[0], NEEDS[1], NEEDS[2], Needs::Failpoints];

/// The daemon looks every second, and waits long for what is not whole.
const OFTEN: &str = "#spool rescan_interval = \"1s\"\n";

/// As [`OFTEN`], and what is not whole is soon given up.
const SOON: &str = "#spool rescan_interval = \"1s\"\n#spool incomplete_timeout = \"1s\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a file system that never answers holds up nobody wherever in a drop it is mounted",
            &NEEDS,
            hanging_in_drop,
        ),
        test(
            "a drop that a file system which never answers is mounted on holds up nobody and no command",
            &NEEDS,
            hanging_on_drop,
        ),
        test(
            "a drop that its owner's file system hides is rejected in time where it is, and new without it",
            &NEEDS,
            hidden_drop,
        ),
        test(
            "a drop that is mounted on while it is claimed leaves its target's line until it is free",
            &FAILPOINTS,
            mounted_while_claimed,
        ),
        test(
            "a file system that is mounted in a drop after its publication stays, and all else of it goes",
            &FAILPOINTS,
            mounted_before_removal,
        ),
        test(
            "a claimed drop that is mounted on keeps no start from going on, and is rejected",
            &FAILPOINTS,
            mounted_before_start,
        ),
        test(
            "a mount in a drop that is to be rejected goes with it, and keeps no other from expiring",
            &NEEDS,
            mounted_in_rejected,
        ),
        test(
            "a draft that something is mounted in stays and keeps no other from going",
            &NEEDS,
            mounted_in_draft,
        ),
    ]
}

/// A mounted FUSE file system that shows another folder; goes with the test, also when its server
/// stands still, and wherever its drop is by then.
struct Fuse {
    server: Child,
    root: PathBuf,
}

impl Fuse {
    /// Of root's, and open to all.
    fn of_all(world: &World, what: &Path, at: &Path) -> Self {
        Self::start(world, Command::new("bindfs"), what, at)
    }

    /// An importer's own, which is open to nobody else, not even to root.
    fn of_importer(world: &World, what: &Path, at: &Path) -> Self {
        fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
        Self::start(world, bindfs_of(IMPORTER), what, at)
    }

    fn start(world: &World, mut command: Command, what: &Path, at: &Path) -> Self {
        command.args(["-f", "-o", "nonempty"]).arg(what).arg(at);
        command.stdout(Stdio::null());
        let fuse = Self {
            server: command.spawn().unwrap(),
            root: world.root.clone(),
        };
        until("the mount", || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
            places.any(|place| Path::new(place) == at)
        });
        fuse
    }

    /// From now on the server answers nobody.
    fn hang(&self) {
        let pid = Pid::from_child(&self.server);
        kill_process(pid, Signal::STOP).unwrap();
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    }

    /// Takes the mount away.
    fn end(self) {}
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Whoever waits for an answer gets an error then.
        let _ = self.server.kill();
        let _ = self.server.wait();
        unmount_below(&self.root);
    }
}

/// Where in a drop of [`drop_of_importer`] something can be mounted, and why that is rejected.
const PLACES: [(&str, &str); 4] = [
    ("image", "unsafe-file"),
    ("image/sub", "unsafe-file"),
    ("image/linux", "unsafe-file"),
    ("manifest.toml", "unreadable"),
];

/// Builds an importer's drop with a folder in its image; it keeps a hidden name.
fn build(world: &World, name: &str) -> PathBuf {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir_all(hidden.join("image/sub")).unwrap();
    for file in ["image/linux", "image/sub/initrd.gz"] {
        fs::write(hidden.join(file), name).unwrap();
    }
    fs::write(hidden.join("manifest.toml"), manifest(TARGET)).unwrap();
    own(&hidden, IMPORTER);
    hidden
}

fn hand_over(world: &World, name: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::rename(hidden, world.incoming(name)).unwrap();
}

/// Commands that show something do so, whatever is mounted in the spool.
fn assert_shown(world: &World, drop: &str) {
    for command in [&["status"][..], &["verify"], &["history", TARGET]] {
        let shown = world.run(command);
        assert!(shown.status.success(), "{command:?}: {}", text(&shown));
    }
    // What the daemon has said a moment ago is said again.
    until("it to be told of", || {
        text(&world.run(&["status"])).contains(drop)
    });
}

/// What waits for its end is not told of by a log: these drops have gone through before.
fn assert_stops(siege: Siege, mount: Fuse) -> World {
    let Siege { world, daemon, .. } = siege;
    daemon.stop();
    mount.end();
    world.assert_at_rest();
    world
}

fn hanging_in_drop() {
    for (place, reason) in PLACES {
        for is_of_all in [true, false] {
            let mut siege = Siege::with(&format!("{OFTEN}{LIMITS}"));
            let world = &siege.world;
            let at = build(world, "hung").join(place);
            let (mount, bound);
            if at.is_dir() {
                let start = if is_of_all {
                    Fuse::of_all
                } else {
                    Fuse::of_importer
                };
                mount = start(world, &siege.outside, &at);
                bound = None;
            } else {
                // A file of such a file system.
                let shown = world.root.join("shown");
                fs::create_dir(&shown).unwrap();
                mount = Fuse::of_all(world, &siege.outside, &shown);
                bound = Some(Mount::bind(&world.root, &shown.join("linux"), &at));
            }
            mount.hang();
            hand_over(world, "hung");
            let said = ["another file system is mounted there", place];
            siege.assert_refused("hung", reason, &said);
            assert_shown(&siege.world, "hung");
            assert_stops(siege, mount);
            drop(bound);
        }
    }
}

fn hanging_on_drop() {
    for is_of_all in [true, false] {
        let mut siege = Siege::with(&format!("{OFTEN}{LIMITS}"));
        let world = &siege.world;
        let drop = world.incoming("hung");
        fs::create_dir(&drop).unwrap();
        own(&drop, IMPORTER);
        let start = if is_of_all {
            Fuse::of_all
        } else {
            Fuse::of_importer
        };
        let mount = start(world, &siege.outside, &drop);
        mount.hang();
        siege.assert_goes_on();
        assert_eq!(siege.world.outcome("hung"), None);
        assert_shown(&siege.world, "hung");
        // Another daemon sees it so from its start on.
        let Siege { world, daemon, .. } = siege;
        daemon.stop();
        let mut daemon = world.daemon();
        world.drop_image("other", OTHER, &[("linux", b"other")]);
        daemon.wait_for_drop("other");
        daemon.stop();
        mount.end();
        world.assert_at_rest();
    }
}

fn hidden_drop() {
    let world = World::with(&format!("{SOON}{LIMITS}"));
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    world.drop_image("hidden", TARGET, &[("linux", b"hidden")]);
    let mount = Fuse::of_all(&world, &other, &world.incoming("hidden"));
    mount.hang();
    let mut daemon = world.daemon();
    let line = daemon.wait_for_drop("hidden");
    assert!(
        line.contains("another file system is mounted there"),
        "{line}"
    );
    assert!(line.contains("it stays where it is"), "{line}");
    for name in ["one", "two", "three"] {
        world.drop_image(name, TARGET, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(name);
    }
    assert_shown(&world, "hidden");
    let lines = daemon.log.iter().filter(|line| line.contains("hidden"));
    assert_eq!(lines.count(), 1, "{:#?}", daemon.log);
    assert_eq!(world.names("rejected"), ["hidden.json"]);
    mount.end();
    world.assert_outcome("hidden", "rejected unreadable");

    daemon.wait_for_drop("hidden");
    world.assert_outcome("hidden", "published");
    assert_eq!(world.names("rejected"), Vec::<String>::new());
    daemon.stop();
    world.assert_at_rest();
}

/// A daemon that stands still at a place before a step.
fn stopped_at(world: &World, place: &str, bring: impl FnOnce()) -> Daemon {
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", format!("{place}:1:stop"));
    let daemon = Daemon::start(command);
    bring();
    let stopped = waitpid(Some(daemon.pid()), WaitOptions::UNTRACED).unwrap();
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    daemon
}

fn mounted_while_claimed() {
    let world = World::with(&format!("{OFTEN}{LIMITS}"));
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    let mut daemon = stopped_at(&world, "claim", || {
        world.drop_image("a", TARGET, &[("linux", b"a")]);
    });
    let mount = Fuse::of_all(&world, &other, &world.incoming("a"));
    mount.hang();
    daemon.signal(Signal::CONT);
    for name in ["b", "c"] {
        world.drop_image(name, TARGET, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(name);
        world.assert_outcome(name, "published");
    }
    assert_eq!(world.outcome("a"), None);
    mount.end();
    daemon.wait_for_drop("a");
    world.assert_outcome("a", "published");
    let log = daemon.stop();
    assert!(
        !log.iter().any(|line| line.contains("has to wait")),
        "{log:#?}"
    );
    world.assert_at_rest();
}

fn mounted_before_removal() {
    let world = World::with(&format!("{OFTEN}{LIMITS}"));
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    let mut daemon = stopped_at(&world, "remove", || {
        let hidden = build(&world, "a");
        for number in 0..20 {
            let folder = hidden.join(format!("image/beside-{number}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("grub.cfg"), "x").unwrap();
        }
        own(&hidden, IMPORTER);
        hand_over(&world, "a");
    });
    let place = world.place("a").unwrap();
    let mount = Fuse::of_all(&world, &other, &place.join("image/sub"));
    mount.hang();
    daemon.signal(Signal::CONT);
    let line = daemon.wait_for("can't be put away");
    assert!(
        line.contains("another file system is mounted there"),
        "{line}"
    );
    let left = world.place("a").unwrap();
    assert_eq!(names(&left), ["image"]);
    assert_eq!(names(&left.join("image")), ["sub"]);
    for name in ["b", "c"] {
        world.drop_image(name, TARGET, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(name);
    }
    mount.end();
    until("the rest to go", || world.names("processing").is_empty());
    let log = daemon.stop();
    let lines = log.iter().filter(|line| line.contains("can't be put away"));
    assert_eq!(lines.count(), 1, "{log:#?}");
    world.assert_at_rest();
}

fn mounted_before_start() {
    let world = World::with(&format!("{OFTEN}{LIMITS}"));
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    let daemon = stopped_at(&world, "copy-file", || {
        world.drop_image("a", TARGET, &[("linux", b"a")]);
    });
    daemon.kill();
    let mount = Fuse::of_all(&world, &other, &world.place("a").unwrap());
    mount.hang();
    let mut daemon = world.daemon();
    world.drop_image("b", TARGET, &[("linux", b"b")]);
    daemon.wait_for("can't be put away");
    until("b to be published", || world.outcome("b").is_some());
    assert_shown(&world, "a");
    mount.end();
    world.assert_outcome("a", "rejected unreadable");
    world.assert_outcome("b", "published");
    until("a to be kept", || world.names("rejected").len() == 2);
    assert_eq!(world.names("rejected"), ["a", "a.json"]);
    daemon.stop();
    world.assert_at_rest();
}

fn mounted_in_rejected() {
    let settings = format!("{OFTEN}#spool keep_rejected = \"1s\"\n{LIMITS}");
    let mut siege = Siege::with(&settings);
    let at = build(&siege.world, "hung").join("image/sub");
    let mount = Fuse::of_importer(&siege.world, &siege.outside, &at);
    mount.hang();
    hand_over(&siege.world, "hung");
    siege.daemon.wait_for_drop("hung");
    siege.world.drop_with("bad", "format = 7", |_| {});
    siege.daemon.wait_for_drop("bad");
    let rejected = siege.world.spool.join("rejected");
    until("the other to expire", || names(&rejected) == ["hung"]);
    until("what can go of it to go", || {
        names(&rejected.join("hung")) == ["image"]
    });
    siege.assert_goes_on();
    let Siege { world, daemon, .. } = siege;
    mount.end();
    until("the rest to expire", || names(&rejected).is_empty());
    let log = daemon.stop();
    let is_told = |line: &&String| line.contains("is mounted there") && !line.contains("drop=");
    assert_eq!(log.iter().filter(is_told).count(), 1, "{log:#?}");
    world.assert_at_rest();
}

fn mounted_in_draft() {
    let settings = format!("{OFTEN}#spool keep_drafts = \"1s\"\n{LIMITS}");
    let world = World::with(&settings);
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    let at = build(&world, "hung").join("image/sub");
    let mount = Fuse::of_importer(&world, &other, &at);
    mount.hang();
    build(&world, "left");
    let mut daemon = world.daemon();
    daemon.wait_for("removed draft `.left`");
    let kept = world.incoming(".hung");
    assert_eq!(world.names("incoming"), [".hung"]);
    assert_eq!(names(&kept.join("image")), ["linux", "sub"]);
    mount.end();
    daemon.wait_for("removed draft `.hung`");
    daemon.stop();
    world.assert_at_rest();
}
