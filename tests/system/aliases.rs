//! Aliases: links beside the tree, and whose they are.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::boot_configs::world;
use crate::crashes::checked;
use crate::lab::scene::memory;
use crate::lab::tftp::{Client, Server};
use crate::lab::world::{Needs, PROGRAM, World, manifest, names, output, test, text, until, walk};

const LOADER: &str = "amd64/generic/grub/loader";
const OTHER: &str = "arm64/generic/grub/loader";

/// Every place in what keeps aliases that the program can be ended at from within.
pub const PLACES: &[&str] = &["alias", "alias-remove", "alias-swap", "links"];

/// Places beside those at which machines may see something of an alias, or of its target.
const OTHER_PLACES: &[&str] = &[
    "catalog",
    "history",
    "outcome",
    "remove",
    "swap",
    "tree-sync",
];

pub fn tests() -> Vec<Trial> {
    let by = |server| {
        let all = [Needs::Root, Needs::Program("unshare"), Needs::Program("ip")];
        [&all[..], &[Needs::Program(server)]].concat()
    };
    vec![
        test(
            "an alias is there from before the outcome until the target is withdrawn",
            &[],
            there_with_its_target,
        ),
        test(
            "an alias leads to its target wherever the tree is below the root",
            &[],
            at_every_depth,
        ),
        test(
            "a reload makes and removes aliases and leads them elsewhere",
            &[],
            reloaded,
        ),
        test(
            "a reload takes effect also where something is in the way of an alias",
            &[],
            reloaded_in_the_way,
        ),
        test(
            "an alias is not put over what somebody else has made and comes when that has gone",
            &[],
            not_over_others,
        ),
        test(
            "a link that somebody has replaced stays whatever becomes of the alias",
            &[],
            replaced_by_hand,
        ),
        test("a target below an alias is refused", &[], no_target_below),
        test(
            "an alias in a folder that can't be written is said and keeps nobody",
            &[Needs::Program("chattr"), Needs::Root],
            a_folder_that_is_shut,
        ),
        test(
            "a daemon killed at any failpoint leaves no alias that leads nowhere or is nobody's",
            &[Needs::Failpoints],
            killed_at_every_failpoint,
        ),
        test(
            "a daemon killed at any call that makes or removes names leaves no such alias",
            &[Needs::Program("strace")],
            killed_at_every_change,
        ),
        test(
            "a step of an alias that fails fails no publication and is made up for",
            &[Needs::Failpoints],
            failed_at_every_failpoint,
        ),
        test(
            "in.tftpd in its chroot serves what aliases lead to",
            &by("in.tftpd"),
            || machines_can_fetch(Server::tftpd),
        ),
        test(
            "dnsmasq serves what aliases lead to",
            &by("dnsmasq"),
            || machines_can_fetch(Server::dnsmasq),
        ),
        test(
            "a swap waits for a transfer from in.tftpd that began through an alias",
            &by("in.tftpd"),
            // It waits so long for an answer before it sends again.
            || swap_waits(Server::tftpd, &["--retransmit", "60000000"]),
        ),
        test(
            "a swap waits for a transfer from dnsmasq that began through an alias",
            &by("dnsmasq"),
            || swap_waits(Server::dnsmasq, &[]),
        ),
    ]
}

fn alias(path: &str, target: &str) -> String {
    format!("[[alias]]\npath = {path:?}\ntarget = {target:?}\n")
}

/// With the tree in `tftp/netboot`, and these aliases below `tftp`: path and target.
fn with_aliases(aliases: &[[&str; 2]]) -> World {
    world(&[], &settings(aliases))
}

fn settings(aliases: &[[&str; 2]]) -> String {
    let aliases = aliases.iter().map(|[path, target]| alias(path, target));
    "#spool rescan_interval = \"1s\"\n".to_string() + &aliases.collect::<String>()
}

/// Puts other aliases into the configuration.
fn configure(world: &World, aliases: &[[&str; 2]]) {
    let text = fs::read_to_string(&world.config).unwrap();
    let mut blocks = text.split("[[alias]]\n");
    let mut text = blocks.next().unwrap().to_string();
    for block in blocks {
        let mut lines = block.split_inclusive('\n').skip(2);
        text.extend(lines.by_ref());
    }
    text.extend(aliases.iter().map(|[path, target]| alias(path, target)));
    fs::write(&world.config, text).unwrap();
}

fn at(world: &World, path: &str) -> PathBuf {
    world.root.join("tftp").join(path)
}

fn linux(world: &World, path: &str) -> Option<String> {
    fs::read_to_string(at(world, path).join("linux")).ok()
}

fn is_there(world: &World, path: &str) -> bool {
    fs::symlink_metadata(at(world, path)).is_ok()
}

fn list(world: &World) -> String {
    fs::read_to_string(world.tree.join(".netboot-publisher/links")).unwrap_or_default()
}

fn drop_text(world: &World, target: &str, text: &str) {
    world.drop_image(text, target, &[("linux", text.as_bytes())]);
}

fn there_with_its_target() {
    let world = with_aliases(&[["efi-x64", LOADER], ["debian-installer/amd64", LOADER]]);
    let mut daemon = world.daemon();
    drop_text(&world, OTHER, "other");
    daemon.wait_for_drop("other");
    assert!(!is_there(&world, "efi-x64"), "{world}");
    drop_text(&world, LOADER, "one");
    // It is there with the outcome; whoever renders boot configurations is not waited for.
    daemon.wait_for_drop("one");
    let link = fs::read_link(at(&world, "efi-x64")).unwrap();
    assert_eq!(link.to_str(), Some("netboot/amd64/generic/grub/loader"));
    let link = fs::read_link(at(&world, "debian-installer/amd64")).unwrap();
    assert_eq!(link.to_str(), Some("../netboot/amd64/generic/grub/loader"));
    let folder = fs::metadata(at(&world, "debian-installer")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o7777, 0o755);
    assert_eq!(linux(&world, "efi-x64").as_deref(), Some("one"));

    // Another image, and an older one: the link is the same.
    let stat = |path| {
        let stat = fs::symlink_metadata(at(&world, path)).unwrap();
        (stat.ino(), stat.ctime(), stat.ctime_nsec())
    };
    let before = stat("efi-x64");
    drop_text(&world, LOADER, "two");
    daemon.wait_for_drop("two");
    assert_eq!(linux(&world, "efi-x64").as_deref(), Some("two"));
    let run = |arguments: &[&str]| {
        let output = world.run(arguments);
        assert!(output.status.success(), "{}", text(&output));
    };
    run(&["rollback", LOADER, "--wait=60"]);
    assert_eq!(linux(&world, "efi-x64").as_deref(), Some("one"));
    assert_eq!(stat("efi-x64"), before);

    run(&["withdraw", LOADER, "--wait=60"]);
    for path in ["efi-x64", "debian-installer/amd64"] {
        assert!(!is_there(&world, path), "{path}\n{world}");
    }
    run(&["rollback", LOADER, "--wait=60"]);
    assert!(linux(&world, "debian-installer/amd64").is_some(), "{world}");
    daemon.stop();

    // What has come and gone while no daemon was there.
    fs::remove_file(at(&world, "efi-x64")).unwrap();
    fs::remove_file(world.published(OTHER)).unwrap();
    configure(&world, &[["efi-x64", LOADER], ["arm", OTHER]]);
    world.run_once();
    assert!(linux(&world, "efi-x64").is_some(), "{world}");
    assert!(!is_there(&world, "debian-installer/amd64"), "{world}");
    assert!(!is_there(&world, "arm"), "{world}");
    world.assert_at_rest();
}

fn at_every_depth() {
    for (tree, root, paths) in [
        ("tftp", "tftp", ["efi-x64", "amd64/efi", "a/b/c"]),
        (
            "tftp/netboot",
            "tftp",
            ["efi-x64", "netboot/amd64/efi", "a/b/c/d/e"],
        ),
        ("tftp/a/netboot", "tftp", ["efi-x64", "a/efi", "a/b/efi"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tftp = dir.path().join(root);
        let mut settings = format!("[limits]\nmin_free_space = \"0B\"\n[tftp]\nroot = {tftp:?}\n");
        settings.extend(paths.map(|path| alias(path, LOADER)));
        let world = World::within(dir, tree, &settings);
        drop_text(&world, LOADER, "one");
        world.run_once();
        for path in paths {
            assert_eq!(
                linux(&world, path).as_deref(),
                Some("one"),
                "{path}\n{world}"
            );
            let link = fs::read_link(at(&world, path)).unwrap();
            assert!(link.is_relative(), "{link:?}");
        }
        world.assert_whole();
        let withdrawn = manifest(LOADER) + "action = \"withdraw\"\n";
        put_order(&world, "withdraw", &withdrawn);
        world.run_once();
        world.assert_outcome("withdraw", "withdrawn");
        for path in paths {
            assert!(!is_there(&world, path), "{path}\n{world}");
        }
    }
}

fn put_order(world: &World, name: &str, text: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    fs::rename(hidden, world.incoming(name)).unwrap();
}

fn reloaded() {
    let world = with_aliases(&[["efi", LOADER], ["old", LOADER]]);
    let mut daemon = world.daemon();
    drop_text(&world, LOADER, "one");
    daemon.wait_for_drop("one");
    drop_text(&world, OTHER, "other");
    daemon.wait_for_drop("other");
    configure(&world, &[["efi", OTHER], ["new/er", LOADER]]);
    daemon.signal(Signal::HUP);
    until("the aliases", || {
        let shown = ["efi", "new/er"].map(|path| linux(&world, path));
        shown == ["other", "one"].map(|it| Some(it.to_string())) && !is_there(&world, "old")
    });
    // By its new target it goes, and not by the old one.
    for (target, is_left) in [(LOADER, true), (OTHER, false)] {
        let withdrawn = world.run(&["withdraw", target, "--wait=60"]);
        assert!(withdrawn.status.success(), "{}", text(&withdrawn));
        assert_eq!(is_there(&world, "efi"), is_left, "{target}\n{world}");
    }
    configure(&world, &[]);
    daemon.signal(Signal::HUP);
    until("the list to be empty", || !list(&world).contains("alias"));
    let log = daemon.stop();
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
}

fn reloaded_in_the_way() {
    let world = with_aliases(&[["one", LOADER]]);
    let mut daemon = world.daemon();
    drop_text(&world, LOADER, "one");
    daemon.wait_for_drop("one");
    // What stands in the way is no fault of the configuration's: that takes effect in all else. An alias of
    // before is in nobody's way.
    fs::create_dir(at(&world, "theirs")).unwrap();
    configure(&world, &[["theirs", LOADER], ["one/efi", LOADER]]);
    daemon.signal(Signal::HUP);
    daemon.wait_for("configuration read again");
    daemon.wait_for("is a folder; expected the daemon's own link, or nothing yet");
    until("the other alias", || {
        linux(&world, "one/efi").as_deref() == Some("one")
    });
    fs::remove_dir(at(&world, "theirs")).unwrap();
    drop_text(&world, LOADER, "two");
    daemon.wait_for_drop("two");
    until("the alias", || {
        linux(&world, "theirs").as_deref() == Some("two")
    });
    daemon.stop();
}

fn not_over_others() {
    let paths = ["file", "folder", "link", "same", "way/efi"];
    let world = with_aliases(&paths.map(|path| [path, LOADER]));
    let tftp = at(&world, "");
    fs::create_dir_all(tftp.join("folder")).unwrap();
    fs::write(tftp.join("file"), "theirs").unwrap();
    fs::write(tftp.join("way"), "theirs").unwrap();
    symlink("nowhere", tftp.join("link")).unwrap();
    symlink(format!("netboot/{LOADER}"), tftp.join("same")).unwrap();
    let of = |path: &str, what: &str, expected: &str| {
        format!(
            "{:?} is {what}; expected {expected}, or nothing yet",
            tftp.join(path)
        )
    };
    let own = "the daemon's own link";
    let expected = [
        ("file", of("file", "a file", own)),
        ("folder", of("folder", "a folder", own)),
        (
            "link",
            of("link", "a link that the daemon did not make", own),
        ),
        ("way/efi", of("way", "a file", "a folder")),
    ];
    let assert_theirs = || {
        assert_eq!(fs::read(tftp.join("file")).unwrap(), b"theirs", "{world}");
        assert_eq!(names(&tftp.join("folder")), [""; 0], "{world}");
        assert_eq!(
            fs::read_link(tftp.join("link")).unwrap(),
            Path::new("nowhere")
        );
        assert!(fs::read_link(tftp.join("same")).is_ok(), "{world}");
    };
    let checked = world.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(78), "{}", text(&checked));
    let wrong = expected.each_ref();
    let wrong = wrong.map(|(path, why)| format!("error: alias, {path:?}: {why}\n"));
    let said = String::from_utf8_lossy(&checked.stderr).to_string();
    assert_eq!(
        said,
        format!("netboot-publisher: bad configuration\n{}", wrong.concat())
    );
    assert!(
        !world.tree.exists(),
        "check-config has made something\n{world}"
    );

    drop_text(&world, LOADER, "one");
    let mut daemon = world.daemon();
    for (path, why) in &expected {
        let line = daemon.wait_for(&format!("alias {path:?}: "));
        assert!(line.contains("WARN") && line.contains(why), "{line}");
    }
    daemon.wait_for_drop("one");
    world.assert_outcome("one", "published");
    let withdrawn = world.run(&["withdraw", LOADER, "--wait=60"]);
    assert!(withdrawn.status.success(), "{}", text(&withdrawn));
    assert_theirs();
    drop_text(&world, LOADER, "two");
    daemon.wait_for_drop("two");
    fs::remove_file(tftp.join("file")).unwrap();
    daemon.wait_for("alias \"file\": good again");
    assert_eq!(linux(&world, "file").as_deref(), Some("two"));
    let log = daemon.stop();
    // Nobody wants to read it at each look.
    for (path, _) in &expected {
        let said = log
            .iter()
            .filter(|line| line.contains(&format!("alias {path:?}: ")));
        assert!(said.count() <= 2, "{log:#?}");
    }
    // No daemon tries again, so the exit code tells.
    let once = world.run(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(1), "{}", text(&once));
    assert!(
        text(&once).contains("3 aliases could not be kept"),
        "{}",
        text(&once)
    );
    fs::write(tftp.join("file.txt"), "").unwrap();
    configure(&world, &[]);
    fs::remove_file(tftp.join("way")).unwrap();
    world.run_once();
    assert!(!is_there(&world, "file"), "{world}");
    assert!(
        is_there(&world, "same") && is_there(&world, "link"),
        "{world}"
    );
}

fn replaced_by_hand() {
    for is_link in [false, true] {
        let world = with_aliases(&[["one", LOADER], ["two", LOADER]]);
        let mut daemon = world.daemon();
        drop_text(&world, LOADER, "one");
        daemon.wait_for_drop("one");
        let replace = |path: &str| {
            let path = at(&world, path);
            fs::remove_file(&path).unwrap();
            match is_link {
                false => fs::write(&path, "theirs").unwrap(),
                true => symlink("theirs", &path).unwrap(),
            }
        };
        replace("one");
        let withdrawn = world.run(&["withdraw", LOADER, "--wait=60"]);
        assert!(withdrawn.status.success(), "{}", text(&withdrawn));
        assert!(
            is_there(&world, "one") && !is_there(&world, "two"),
            "{world}"
        );
        daemon.wait_for("alias \"one\": ");
        drop_text(&world, LOADER, "two");
        daemon.wait_for_drop("two");
        // This one, nobody has seen before the alias goes.
        replace("two");
        configure(&world, &[]);
        daemon.signal(Signal::HUP);
        until("the list to be empty", || !list(&world).contains("alias"));
        daemon.stop();
        for path in ["one", "two"] {
            let path = at(&world, path);
            let is_theirs = match is_link {
                false => fs::read(&path).is_ok_and(|text| text == b"theirs"),
                true => fs::read_link(&path).is_ok_and(|link| link == Path::new("theirs")),
            };
            assert!(is_theirs, "{path:?}\n{world}");
        }
    }
}

fn no_target_below() {
    let world = with_aliases(&[["netboot/efi", LOADER], ["efi", LOADER]]);
    for (drop, target, expected) in [
        ("1", "efi/generic/noble/install", "rejected target-occupied"),
        ("2", "efi-x64/generic/noble/install", "published"),
        ("3", LOADER, "published"),
    ] {
        world.drop_image(drop, target, &[("linux", b"1")]);
        world.run_once();
        let outcome = world.assert_outcome(drop, expected);
        if let Some(detail) = outcome["detail"].as_str() {
            let said = format!(
                "{target} is in the way of {:?}, which the daemon writes (`alias.path`)",
                at(&world, "netboot/efi")
            );
            assert!(detail.starts_with(&said), "{detail}");
        }
    }
    assert_eq!(linux(&world, "netboot/efi").as_deref(), Some("1"));
}

/// A folder that not even root can write into.
struct Shut(PathBuf);

impl Shut {
    fn new(path: PathBuf) -> Self {
        Self::change("+i", &path);
        Self(path)
    }

    fn change(mode: &str, path: &Path) {
        let changed = output(Command::new("chattr").arg(mode).arg(path));
        assert!(changed.status.success(), "{}", text(&changed));
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        Self::change("-i", &self.0);
    }
}

fn a_folder_that_is_shut() {
    let world = with_aliases(&[["shut/efi", LOADER], ["efi", LOADER]]);
    fs::create_dir_all(at(&world, "shut")).unwrap();
    let shut = Shut::new(at(&world, "shut"));
    let mut daemon = world.daemon();
    drop_text(&world, LOADER, "one");
    daemon.wait_for_drop("one");
    let line = daemon.wait_for("alias \"shut/efi\": ");
    assert!(line.contains("Operation not permitted"), "{line}");
    assert_eq!(linux(&world, "efi").as_deref(), Some("one"));
    drop(shut);
    daemon.wait_for("alias \"shut/efi\": good again");
    assert_eq!(linux(&world, "shut/efi").as_deref(), Some("one"));
    // A withdrawal is not held up by a link that can't be removed.
    let shut = Shut::new(at(&world, "shut"));
    let withdrawn = world.run(&["withdraw", LOADER, "--wait=60"]);
    assert!(withdrawn.status.success(), "{}", text(&withdrawn));
    daemon.wait_for("alias \"shut/efi\": ");
    drop(shut);
    daemon.wait_for("good again");
    assert!(!is_there(&world, "shut/efi"), "{world}");
    daemon.stop();
}

/// Aliases in the middle of their life, and drops that make them come and go.
struct Life {
    world: World,
    dir: tempfile::TempDir,
}

const TARGETS: [&str; 4] = [
    "amd64/generic/grub/changed",
    "amd64/generic/grub/kept",
    "amd64/generic/grub/gone",
    "amd64/generic/grub/new",
];

impl Life {
    const BEFORE: [[&str; 2]; 4] = [
        ["left", TARGETS[0]],
        ["moved", TARGETS[0]],
        ["gone", TARGETS[2]],
        ["deep/er/gone", TARGETS[2]],
    ];
    const AFTER: [[&str; 2]; 6] = [
        ["moved", TARGETS[1]],
        ["gone", TARGETS[2]],
        ["deep/er/gone", TARGETS[2]],
        ["fresh", TARGETS[1]],
        ["new", TARGETS[3]],
        ["theirs", TARGETS[1]],
    ];

    /// In memory: what a killed process leaves does not depend on the disk.
    fn new() -> Self {
        let dir = memory();
        let template = dir.path().join("template");
        fs::create_dir(&template).unwrap();
        let (spool, tree) = (template.join("spool"), template.join("tftp/netboot"));
        let rest = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n";
        let text = |root: &Path, aliases: &[[&str; 2]]| {
            let root = root.join("tftp");
            format!("{rest}[tftp]\nroot = {root:?}\n{}", settings(aliases))
        };
        let before = World::at(&template, &spool, &tree, &text(&template, &Self::BEFORE));
        for target in &TARGETS[..3] {
            let name = target.rsplit('/').next().unwrap();
            before.drop_image(name, target, &[("linux", name.as_bytes())]);
        }
        before.run_once();
        fs::write(template.join("tftp/theirs"), "theirs").unwrap();

        let root = dir.path().join("life");
        fs::create_dir(&root).unwrap();
        let (spool, tree) = (root.join("spool"), root.join("tftp/netboot"));
        let world = World::at(&root, &spool, &tree, &text(&root, &Self::AFTER));
        Self { world, dir }
    }

    fn begin(&self) {
        for name in ["spool", "tftp"] {
            let to = self.world.root.join(name);
            let _ = fs::remove_dir_all(&to);
            let from = self.dir.path().join("template").join(name);
            let copied = output(Command::new("cp").arg("-a").arg(from).arg(to));
            assert!(copied.status.success(), "{}", text(&copied));
        }
        let drop_image = |name: &str, target: &str| {
            self.world
                .drop_image(name, target, &[("linux", name.as_bytes())]);
        };
        drop_image("changed-2", TARGETS[0]);
        drop_image("new-1", TARGETS[3]);
        let withdraw = manifest(TARGETS[2]) + "action = \"withdraw\"\n";
        put_order(&self.world, "withdraw", &withdraw);
    }

    /// Every link leads somewhere, and is on the list with what it holds; what is somebody else's is as
    /// it was.
    fn assert_between(&self) {
        let world = &self.world;
        world.assert_pointers_whole();
        let tftp = at(world, "");
        let list: toml::Table = list(world).parse().unwrap();
        let listed = list["alias"].as_array().unwrap();
        for path in walk(&tftp) {
            if path.starts_with(&world.tree) || !path.is_symlink() {
                continue;
            }
            assert!(path.is_dir(), "{path:?} leads nowhere\n{world}");
            let name = path.strip_prefix(&tftp).unwrap().to_str().unwrap();
            // A link that is to take the place of another is hidden.
            let name = name.trim_start_matches('.').trim_end_matches(".new");
            let held = fs::read_link(&path).unwrap();
            let is_listed = listed.iter().any(|it| {
                let [path, link] = ["path", "holds"].map(|key| it[key].as_str().unwrap());
                path == format!("../{name}") && link == held.to_str().unwrap()
            });
            assert!(is_listed, "{path:?} is nobody's: {list}\n{world}");
        }
        assert_eq!(fs::read(tftp.join("theirs")).unwrap(), b"theirs", "{world}");
    }

    fn assert_finished(&self) {
        let world = &self.world;
        self.assert_between();
        world.assert_at_rest();
        let shown = [
            ("moved", Some("kept")),
            ("fresh", Some("kept")),
            ("new", Some("new-1")),
            ("gone", None),
            ("deep/er/gone", None),
            ("left", None),
            (".moved.new", None),
        ];
        for (path, expected) in shown {
            assert_eq!(linux(world, path).as_deref(), expected, "{path}\n{world}");
            assert_eq!(is_there(world, path), expected.is_some(), "{path}\n{world}");
        }
        let list = list(world);
        assert_eq!(list.matches("[[alias]]").count(), 5, "{list}");
        assert!(!list.contains("left") && !list.contains("theirs"), "{list}");
        for (drop, expected) in [
            ("changed-2", "published"),
            ("new-1", "published"),
            ("withdraw", "withdrawn"),
        ] {
            world.assert_outcome(drop, expected);
        }
    }

    /// A run that ends well but for the alias in whose place there is something.
    fn assert_run(output: &Output) {
        let said = text(output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("1 alias could not be kept"), "{said}");
        assert!(!said.contains("ERROR"), "{said}");
    }

    /// Runs what is killed, and then what finishes. Returns whether it was killed.
    fn killed(&self, told: &str, command: &mut Command) -> bool {
        self.begin();
        let first = output(command);
        let said = format!("{told}\n{}", text(&first));
        // `strace` ends by the signal that has ended what it traces.
        let is_killed = first.status.signal() == Some(9);
        checked(&said, || {
            if is_killed {
                self.assert_between();
                Self::assert_run(&self.world.run(&["run", "--once"]));
            } else {
                Self::assert_run(&first);
            }
            self.assert_finished();
        });
        is_killed
    }
}

const FAILPOINT: &str = "NETBOOT_PUBLISHER_FAILPOINT";

fn killed_at_every_failpoint() {
    let life = Life::new();
    let mut kills = 0;
    for place in PLACES.iter().chain(OTHER_PLACES) {
        for nth in 1.. {
            let failpoint = format!("{place}:{nth}:kill");
            let mut command = life.world.command(&["run", "--once"]);
            if !life.killed(&failpoint, command.env(FAILPOINT, &failpoint)) {
                assert!(nth > 1, "{place} was never reached");
                break;
            }
            kills += 1;
        }
    }
    println!("{kills} kills");
}

fn killed_at_every_change() {
    let life = Life::new();
    let mut kills = 0;
    for name in [
        "unlinkat",
        "symlinkat",
        "renameat",
        "renameat2",
        "fsync",
        "mkdirat",
    ] {
        for nth in 1.. {
            let mut command = Command::new("strace");
            // With one thread of its pool only: calls are counted for each thread.
            command
                .args(["--follow-forks", "--output=/dev/null"])
                .arg(format!("--trace={name},clone3"))
                .arg("--inject=clone3:error=EAGAIN:when=2+")
                .arg(format!("--inject={name}:signal=KILL:when={nth}"))
                .arg(PROGRAM)
                .args(["run", "--once", "--config"])
                .arg(&life.world.config);
            if !life.killed(&format!("the {nth}th {name}"), &mut command) {
                assert!(nth > 1, "no {name}");
                break;
            }
            kills += 1;
        }
    }
    println!("{kills} kills");
    assert!(kills > 40, "{kills} kills");
}

fn failed_at_every_failpoint() {
    let life = Life::new();
    for place in PLACES {
        let mut failures = 0;
        for nth in 1..=12 {
            life.begin();
            let mut command = life.world.command(&["run", "--once"]);
            let failpoint = format!("{place}:{nth}:fail");
            let first = output(command.env(FAILPOINT, &failpoint));
            let said = text(&first);
            checked(&format!("{failpoint}\n{said}"), || {
                assert_eq!(first.status.code(), Some(1));
                life.assert_between();
                for (drop, expected) in [("changed-2", "published"), ("withdraw", "withdrawn")] {
                    life.world.assert_outcome(drop, expected);
                }
                Life::assert_run(&life.world.run(&["run", "--once"]));
                life.assert_finished();
            });
            failures += usize::from(said.contains("Input/output error"));
        }
        assert!(failures > 0, "{place} has never failed");
    }
}

fn machines_can_fetch(serve: fn(&Path, &[&str]) -> Server) {
    let paths = ["efi-x64", "debian-installer/amd64", "netboot/efi"];
    let world = with_aliases(&paths.map(|path| [path, LOADER]));
    // dnsmasq is another user.
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    let image = |text: &str| {
        let of = |name: &str| format!("{name} {text}").repeat(5_000).into_bytes();
        [
            ("shimx64.efi", of("shim")),
            ("grub/grubx64.efi", of("grub")),
        ]
    };
    let server = std::cell::OnceCell::new();
    for version in ["one", "two"] {
        let files = image(version);
        world.drop_with(version, &manifest(LOADER), |folder| {
            fs::create_dir(folder.join("grub")).unwrap();
            for (path, bytes) in &files {
                fs::write(folder.join(path), bytes).unwrap();
            }
            symlink("grub/grubx64.efi", folder.join("grubx64.efi")).unwrap();
        });
        world.run_once();
        let server = server.get_or_init(|| serve(&at(&world, ""), &[]));
        for client in [Client::Tftp, Client::Curl] {
            for path in paths {
                for (file, [shim, grub]) in [
                    ("shimx64.efi", [true, false]),
                    ("grub/grubx64.efi", [false, true]),
                    ("grubx64.efi", [false, true]),
                ] {
                    let fetched = server
                        .fetch(client, &format!("{path}/{file}"), &world.root)
                        .unwrap_or_else(|error| panic!("{error}\n{world}"));
                    assert_eq!(fetched == files[0].1, shim, "{path}/{file}\n{world}");
                    assert_eq!(fetched == files[1].1, grub, "{path}/{file}\n{world}");
                }
            }
        }
    }
    put_order(
        &world,
        "gone",
        &(manifest(LOADER) + "action = \"withdraw\"\n"),
    );
    world.run_once();
    let server = server.get().unwrap();
    let nothing = server.fetch(Client::Tftp, "efi-x64/shimx64.efi", &world.root);
    assert!(nothing.is_err(), "a file that is not there was served");
}

fn swap_waits(serve: fn(&Path, &[&str]) -> Server, arguments: &[&str]) {
    let swap = "[swap]\nquiet_period = \"300ms\"\nmax_delay = \"1d\"\n";
    let world = world(&[], &(swap.to_string() + &settings(&[["efi-x64", LOADER]])));
    let mut daemon = world.daemon();
    let files = |text: &str| text.repeat((64 << 10) / text.len()).into_bytes();
    let publish = |daemon: &mut crate::lab::world::Daemon, name: &str, target: &str| {
        world.drop_image(name, target, &[("linux", &files(name))]);
        daemon.wait_for_drop(name);
        world.assert_outcome(name, "published");
    };
    publish(&mut daemon, "old", LOADER);
    publish(&mut daemon, "other", OTHER);
    // dnsmasq is another user.
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    let server = serve(&at(&world, ""), arguments);
    let _machine = server.silent_machine("efi-x64/linux");
    world.drop_image("new", LOADER, &[("linux", b"new")]);
    // The wait has been long enough: later drops for another target are swapped meanwhile.
    for name in ["other-1", "other-2", "other-3"] {
        publish(&mut daemon, name, OTHER);
    }
    let shown = |text: &str| linux(&world, "efi-x64").unwrap().starts_with(text);
    assert!(shown("old"), "{world}");
    drop(server);
    daemon.wait_for_drop("new");
    assert!(shown("new"), "{world}");
    daemon.stop();
}
