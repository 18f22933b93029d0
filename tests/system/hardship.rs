//! A machine that can't do what is asked of it, for a while.
//!
//! In each of these troubles the daemon says so once, waits without haste, ends when it is told to,
//! and does what it could not do as soon as it can.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use notify::{RecursiveMode, Watcher as _};

use crate::aliases;
use crate::filesystems::{FileSystem, expect};
use crate::lab::failpoints;
use crate::lab::world::{
    Daemon, Needs, PATIENCE, PROGRAM, World, manifest, names, output, own, test, text, until,
};
use crate::unprivileged::{self, NOBODY, Unprivileged};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

const SETTINGS: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n";

const OFTEN: &str = "#spool rescan_interval = \"1s\"\n";

/// What a file system on a loop device needs.
const LOOPED: [Needs; 3] = [
    Needs::Root,
    Needs::Path("/dev/loop-control"),
    Needs::Program("mkfs.ext4"),
];

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test(
            "a drop that fills the disk waits for room, and others go on",
            &[Needs::Root],
            disk_is_full,
        ),
        test(
            "what a drop shares with the current generation takes no room",
            &[Needs::Root],
            shared_takes_no_room,
        ),
        test(
            "a drop that would leave too little room waits for it",
            &[Needs::Root],
            room_is_kept_free,
        ),
        test(
            "an outcome that does not fit the spool's disk is written when it does",
            &[Needs::Root],
            spool_is_full,
        ),
        test(
            "a tree that is mounted read-only is written to when it can be",
            &LOOPED,
            tree_is_read_only,
        ),
        test(
            "work that hangs on a frozen tree is said, and goes on when the tree answers",
            &[
                &LOOPED[..],
                &[Needs::Failpoints, Needs::Program("fsfreeze")],
            ]
            .concat(),
            tree_is_frozen,
        ),
        test(
            "a target whose folder the daemon may not write to waits until it may",
            &unprivileged::NEEDS,
            target_is_forbidden,
        ),
        test(
            "drops that can't be claimed are claimed when they can be",
            &unprivileged::NEEDS,
            incoming_is_forbidden,
        ),
        test(
            "an outcome that may not be written is written when it may be",
            &unprivileged::NEEDS,
            outcomes_is_forbidden,
        ),
        test(
            "a rejected drop that can't be put away is put away when it can be",
            &unprivileged::NEEDS,
            rejected_is_forbidden,
        ),
        test(
            "a drop that can't be removed is published once and removed when it can be",
            &LOOPED,
            drop_is_immutable,
        ),
        test(
            "a drop with a folder that the daemon may not empty is published once",
            &unprivileged::NEEDS,
            drop_is_forbidden,
        ),
        test(
            "a drop that the daemon may not move is rejected where it is, and new once it may",
            &unprivileged::NEEDS,
            drop_can_not_be_moved,
        ),
    ];
    tests.push(test(
        "a daemon that has no file descriptor left rejects nothing",
        &[Needs::Program("prlimit")],
        no_descriptor_is_left,
    ));
    tests.extend([
        test(
            "old generations that can't be removed are spoken of once and removed when they can be",
            &LOOPED,
            old_generations_stay,
        ),
        test(
            "an old outcome that can't be removed is spoken of once and keeps no other",
            &LOOPED,
            old_outcomes_stay,
        ),
        test(
            "what a crash left in the staging and can't be removed is in nobody's way",
            &LOOPED,
            staging_stays,
        ),
        test(
            "drops are claimed where a rename can't refuse to replace",
            &[Needs::Program("strace")],
            renames_as_on_nfs,
        ),
        test(
            "an adoption that fails half-way leaves nothing behind",
            &[Needs::Program("strace")],
            adoption_fails,
        ),
    ]);
    tests.extend(failing_steps().into_iter().map(|(name, nth)| {
        test(
            &format!("every drop is finished after an I/O error at {name} {nth}"),
            &[Needs::Failpoints],
            move || step_fails(&name, nth),
        )
    }));
    tests
}

/// A try takes less than this of a processor's time more than twice the one before, with which the daemon
/// started, on whatever machine; one that asks again and again for a second or more, until the next try is
/// due, takes more.
const FOR_A_TRY: Duration = Duration::from_millis(200);

/// What a try, and what happens beside it, wakes the daemon's task for at most. One that asks again
/// and again is woken a thousand times a second.
const WAKE_UPS: u64 = 100;

/// A trouble, and what the daemon does in it.
struct Trouble<'w> {
    world: &'w World,
    /// What the warning says.
    cause: &'static str,
    start: &'w dyn Fn() -> Daemon,
    /// All that was logged, by every daemon.
    log: Vec<String>,
}

impl<'w> Trouble<'w> {
    fn new(world: &'w World, cause: &'static str, start: &'w dyn Fn() -> Daemon) -> Self {
        Self {
            world,
            cause,
            start,
            log: Vec::new(),
        }
    }

    /// A daemon meets the trouble, says so, waits quietly, and ends well.
    fn is_waited_out(&mut self) {
        let mut daemon = (self.start)();
        let warning = daemon.wait_for(" has to wait: ");
        assert!(warning.contains(self.cause), "{warning}\n{}", self.world);
        let before = (processor_time(&daemon), wake_ups(&daemon));
        daemon.wait_for("still have to wait, tried 2 times");
        let used = processor_time(&daemon) - before.0;
        let woken = wake_ups(&daemon) - before.1;
        assert!(
            used < before.0 * 2 + FOR_A_TRY && woken < WAKE_UPS,
            "{used:?} used, {woken} times woken for waiting and one more try"
        );
        let log = daemon.stop();
        let warnings: Vec<_> = log.iter().filter(|line| line.contains(" WARN ")).collect();
        assert!(warnings.len() <= 4, "{warnings:#?}");
        self.log.extend(log);
    }

    /// Another daemon meets the trouble, and once that is over (`end`), finishes these drops.
    fn is_overcome(&mut self, end: impl FnOnce(&mut Daemon), drops: &[(&str, &str)]) {
        let mut daemon = (self.start)();
        see(&mut daemon, " has to wait: ");
        end(&mut daemon);
        daemon.wait_for("what had to wait could go on");
        for (drop, _) in drops {
            if !self.log.iter().any(|line| is_about(line, drop)) {
                see(&mut daemon, &format!("drop=\"{drop}\""));
            }
        }
        self.log.extend(daemon.stop());
        for (drop, expected) in drops {
            self.world.assert_outcome(drop, expected);
            let lines = self.log.iter().filter(|line| is_about(line, drop)).count();
            assert_eq!(lines, 1, "{drop}: {:#?}", self.log);
        }
        let outcomes: BTreeSet<_> = self.world.outcomes().into_iter().collect();
        let expected = drops.iter().map(|(drop, _)| format!("{drop}.json"));
        assert_eq!(outcomes, expected.collect(), "{}", self.world);
        self.world.assert_at_rest();
    }
}

fn is_about(line: &str, drop: &str) -> bool {
    line.contains(&format!("drop=\"{drop}\""))
}

/// Waits for a line, which may have been read before.
fn see(daemon: &mut Daemon, text: &str) {
    if !daemon.log.iter().any(|line| line.contains(text)) {
        daemon.wait_for(text);
    }
}

/// How often the thread of the daemon's task has gone to sleep until now.
fn wake_ups(daemon: &Daemon) -> u64 {
    let pid = daemon.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// What the daemon has used of the processors until now.
fn processor_time(daemon: &Daemon) -> Duration {
    let pid = daemon.pid().as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the name ends field 2.
    let fields = stat[stat.rfind(')').unwrap() + 2..].split(' ').skip(11);
    let ticks: u64 = fields
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    // USER_HZ: a hundredth of a second wherever Linux runs today.
    Duration::from_millis(ticks * 10)
}

fn generations(world: &World, target: &str) -> usize {
    let names = names(&world.tree.join(format!("{target}@")));
    names.iter().filter(|name| !name.ends_with(".toml")).count()
}

/// Waits for something that no line tells of: looks again whenever something changes in `folder`.
fn wait_until(folder: &Path, holds: impl Fn() -> bool) {
    let (sender, events) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).unwrap();
    watcher.watch(folder, RecursiveMode::NonRecursive).unwrap();
    while !holds() {
        let event = events.recv_timeout(PATIENCE);
        event.expect("a change in time").expect("no lost event");
    }
}

/// The drop `big` waits while another is published, until there is more room on the disk.
fn waits_for_room(world: &World, disk: &FileSystem, message: &'static str) {
    let start = || world.daemon();
    let mut trouble = Trouble::new(world, message, &start);
    trouble.is_waited_out();
    trouble.is_overcome(
        |daemon| {
            world.drop_image("small", OTHER, &[("linux", b"1")]);
            see(daemon, "drop=\"small\"");
            until("only the other to wait", || world.claimed() == ["big"]);
            disk.remount("size=64m");
        },
        &[("big", "published"), ("small", "published")],
    );
}

fn disk_is_full() {
    // Files of one byte each take a page each: their sizes alone would fit.
    const FILES: usize = 3_000;
    let disk = FileSystem::tmpfs("8m");
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path(), &dir.path().join("spool"), &disk.root, SETTINGS);
    world.drop_with("big", &manifest(TARGET), |image| {
        for number in 0..FILES {
            fs::write(image.join(number.to_string()), "x").unwrap();
        }
    });
    waits_for_room(&world, &disk, "No space left on device");
    assert_eq!(names(&world.published(TARGET)).len(), FILES);
}

fn shared_takes_no_room() {
    let disk = FileSystem::tmpfs("8m");
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path(), &dir.path().join("spool"), &disk.root, SETTINGS);
    for (drop, menu) in [("one", "1"), ("two", "2")] {
        let files = [("linux", &[7; 5 << 20][..]), ("menu", menu.as_bytes())];
        world.drop_image(drop, TARGET, &files);
        world.run_once();
        world.assert_outcome(drop, "published");
    }
}

fn room_is_kept_free() {
    let disk = FileSystem::tmpfs("8m");
    let dir = tempfile::tempdir().unwrap();
    let settings = SETTINGS.replace("\"0B\"", "\"4MiB\"");
    let world = World::at(dir.path(), &dir.path().join("spool"), &disk.root, &settings);
    world.drop_image("big", TARGET, &[("linux", &[7; 5 << 20])]);
    waits_for_room(&world, &disk, "limits.min_free_space");
}

fn spool_is_full() {
    let disk = FileSystem::tmpfs("8m");
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(
        dir.path(),
        &disk.root.join("spool"),
        &dir.path().join("tree"),
        SETTINGS,
    );
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    let filler = disk.root.join("filler");
    let error = fs::write(&filler, vec![0; 16 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let start = || world.daemon();
    let mut trouble = Trouble::new(&world, "No space left on device", &start);
    trouble.is_waited_out();
    trouble.is_overcome(|_| fs::remove_file(&filler).unwrap(), &[("a", "published")]);
    assert_eq!(generations(&world, TARGET), 1, "published once\n{world}");
}

fn tree_is_read_only() {
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let tree = disk.root.join("tree");
    let world = World::at(dir.path(), &dir.path().join("spool"), &tree, SETTINGS);
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    world.run_once();
    let mut daemon = world.daemon();
    disk.remount("ro");
    world.drop_image("b", TARGET, &[("linux", b"2")]);
    world.drop_image("same", OTHER, &[("linux", b"1")]);
    let warning = daemon.wait_for(" has to wait: ");
    assert!(warning.contains("Read-only file system"), "{warning}");
    wait_for_tries(&mut daemon);
    disk.remount("rw");
    daemon.wait_for("what had to wait could go on");
    for drop in ["b", "same"] {
        see(&mut daemon, &format!("drop=\"{drop}\""));
        world.assert_outcome(drop, "published");
    }
    daemon.stop();
    world.assert_at_rest();

    // A start does not wait: nobody would see why nothing is published.
    disk.remount("ro");
    let started = world.run(&["run"]);
    assert_eq!(started.status.code(), Some(1), "{}", text(&started));
    let said = format!(
        "netboot-publisher: opening the tree: writing into {tree:?}: Read-only file system; mount it \
         for writing, or name it in `ReadWritePaths=` of the unit (systemctl edit netboot-publisher)\n"
    );
    assert_eq!(String::from_utf8_lossy(&started.stderr), said);
    disk.remount("rw");
    world.run_once();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn target_is_forbidden() {
    let poor = Unprivileged::new(SETTINGS);
    let folder = poor.world.tree.join("amd64/generic/noble");
    fs::create_dir_all(&folder).unwrap();
    set_mode(&folder, 0o555);
    poor.drop_image("a", TARGET, b"1");
    let start = || poor.daemon();
    let mut trouble = Trouble::new(&poor.world, "Permission denied", &start);
    trouble.is_waited_out();
    trouble.is_overcome(
        |daemon| {
            poor.drop_image("other", OTHER, b"1");
            see(daemon, "drop=\"other\"");
            set_mode(&folder, 0o777);
        },
        &[("a", "published"), ("other", "published")],
    );
}

fn incoming_is_forbidden() {
    let poor = Unprivileged::new(SETTINGS);
    let incoming = poor.world.spool.join("incoming");
    poor.drop_image("a", TARGET, b"1");
    poor.drop_image("b", TARGET, b"2");
    set_mode(&incoming, 0o555);
    let start = || poor.daemon();
    let mut trouble = Trouble::new(&poor.world, "Permission denied", &start);
    trouble.is_waited_out();
    trouble.is_overcome(
        |_| set_mode(&incoming, 0o755),
        &[("a", "published"), ("b", "published")],
    );
    let current = fs::read(poor.world.published(TARGET).join("linux")).unwrap();
    assert_eq!(current, b"2", "in order\n{}", poor.world);
}

fn outcomes_is_forbidden() {
    let poor = Unprivileged::new(SETTINGS);
    let outcomes = poor.world.spool.join("outcomes");
    poor.drop_image("a", TARGET, b"1");
    set_mode(&outcomes, 0o555);
    let start = || poor.daemon();
    let mut trouble = Trouble::new(&poor.world, "Permission denied", &start);
    trouble.is_waited_out();
    trouble.is_overcome(|_| set_mode(&outcomes, 0o755), &[("a", "published")]);
    assert_eq!(generations(&poor.world, TARGET), 1, "{}", poor.world);
}

fn rejected_is_forbidden() {
    let poor = Unprivileged::new(SETTINGS);
    let rejected = poor.world.spool.join("rejected");
    poor.drop_image("a", TARGET, b"1");
    fs::write(poor.world.incoming("a").join("manifest.toml"), "format = 7").unwrap();
    set_mode(&rejected, 0o555);
    let start = || poor.daemon();
    let mut trouble = Trouble::new(&poor.world, "Permission denied", &start);
    trouble.is_waited_out();
    poor.world.assert_outcome("a", "rejected bad-manifest");
    trouble.is_overcome(
        |_| set_mode(&rejected, 0o755),
        &[("a", "rejected bad-manifest")],
    );
    assert_eq!(poor.world.names("rejected"), ["a", "a.json"]);
}

fn drop_is_immutable() {
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(
        dir.path(),
        &disk.root.join("spool"),
        &dir.path().join("tree"),
        &format!("{OFTEN}{SETTINGS}"),
    );
    let file = "image/linux";
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    expect(
        Command::new("chattr")
            .arg("+i")
            .arg(world.incoming("a").join(file)),
    );
    let mut daemon = world.daemon();
    is_kept(&mut daemon, "Operation not permitted");
    // The drop that can't be removed is in nobody's way, not even in that of a later drop for its
    // target.
    world.drop_image("b", TARGET, &[("linux", b"2")]);
    daemon.wait_for_drop("b");
    let stuck = world.place("a").unwrap().join(file);
    expect(Command::new("chattr").arg("-i").arg(stuck));
    is_put_away(&world, daemon);
    assert_eq!(generations(&world, TARGET), 2, "each once\n{world}");
}

/// The drop `a` was published, and its owner keeps it from being put away.
fn is_kept(daemon: &mut Daemon, cause: &str) {
    daemon.wait_for_drop("a");
    let line = daemon.wait_for("`a` has its outcome and can't be put away: ");
    assert!(line.contains(cause), "{line}");
}

/// What was left of a drop goes now that it can; that it could not was said once.
fn is_put_away(world: &World, daemon: Daemon) {
    wait_until(&world.spool.join("processing"), || {
        world.names("processing").is_empty()
    });
    let log = daemon.stop();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), 1, "{log:#?}");
    world.assert_outcome("a", "published");
    world.assert_at_rest();
}

fn drop_is_forbidden() {
    let poor = Unprivileged::new(&format!("{OFTEN}{SETTINGS}"));
    poor.drop_image("a", TARGET, b"1");
    let foreign = poor.world.incoming("a").join("image/sub");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("initrd.gz"), "1").unwrap();
    chown(foreign.join("initrd.gz"), Some(NOBODY), None).unwrap();
    let mut daemon = poor.daemon();
    is_kept(&mut daemon, "Permission denied");
    own(&poor.world.place("a").unwrap(), NOBODY);
    is_put_away(&poor.world, daemon);
    assert_eq!(generations(&poor.world, TARGET), 1, "{}", poor.world);
}

/// A folder of another user's that an unprivileged daemon can read, and not move elsewhere.
fn drop_can_not_be_moved() {
    let settings = format!("#spool incomplete_timeout = \"1s\"\n{OFTEN}{SETTINGS}");
    let poor = Unprivileged::new(&settings);
    let world = &poor.world;
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    let mut daemon = poor.daemon();
    poor.drop_image("b", TARGET, b"2");
    let mut others = ["a", "b"].map(|_| daemon.wait_for("drop="));
    others.sort();
    let rejected = others.iter().find(|line| is_about(line, "a")).unwrap();
    for said in ["renaming", "Permission denied", "it stays where it is"] {
        assert!(rejected.contains(said), "{rejected}");
    }
    world.assert_outcome("a", "rejected unreadable");
    world.assert_outcome("b", "published");
    assert!(world.incoming("a").exists(), "{world}");
    // As it is now, it is a new drop.
    own(&world.incoming("a"), NOBODY);
    daemon.wait_for_drop("a");
    world.assert_outcome("a", "published");
    daemon.stop();
    world.assert_at_rest();
}

fn no_descriptor_is_left() {
    // Descriptors enough to open a drop, and not its manifest; then not even the drop.
    for spare in [1, 0] {
        let world = World::new();
        let limit = |daemon: &Daemon, number: usize| {
            let pid = daemon.pid().as_raw_nonzero();
            let mut prlimit = Command::new("prlimit");
            expect(prlimit.args([format!("--pid={pid}"), format!("--nofile={number}:")]));
        };
        let start = || {
            let daemon = world.daemon();
            // What the daemon opens for its start is closed once the catalog is there.
            until("the catalog", || world.tree.join("catalog.json").exists());
            let pid = daemon.pid().as_raw_nonzero();
            let first_free = || {
                let open = names(Path::new(&format!("/proc/{pid}/fd")));
                let is_free = |number: &usize| !open.contains(&number.to_string());
                (0..).find(is_free).unwrap()
            };
            // The first scan may be under way, and have something open that it closes again.
            let first_free = (0..100).map(|_| first_free()).min().unwrap();
            limit(&daemon, first_free + spare);
            world.drop_image("a", TARGET, &[("linux", b"1")]);
            daemon
        };
        let mut trouble = Trouble::new(&world, "Too many open files", &start);
        trouble.is_waited_out();
        fs::rename(world.incoming("a"), world.incoming(".was-a")).unwrap();
        trouble.is_overcome(|daemon| limit(daemon, 256), &[("a", "published")]);
    }
}

/// A file system to which every write hangs, until this is dropped.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(mount: &'a Path) -> Self {
        expect(Command::new("fsfreeze").arg("--freeze").arg(mount));
        Self(mount)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        expect(Command::new("fsfreeze").arg("--unfreeze").arg(self.0));
    }
}

fn tree_is_frozen() {
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (dir.path().join("spool"), disk.root.join("tree"));
    let world = World::at(dir.path(), &spool, &tree, SETTINGS);
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_SHORT", "hangs:500");
    let mut daemon = Daemon::start(command);
    world.drop_image("old", TARGET, &[("linux", b"old")]);
    daemon.wait_for_drop("old");
    let frozen = Frozen::new(&disk.root);
    world.drop_image("new", TARGET, &[("linux", b"new")]);
    let line = daemon.wait_for("publishing hangs: no sign of life for");
    let is_whole = line.contains(" ERROR ") && line.contains(&format!("target={TARGET}"));
    assert!(is_whole && line.contains(", since 20"), "{line}");
    drop(frozen);
    daemon.wait_for(&format!("publishing goes on target={TARGET}"));
    daemon.wait_for_drop("new");
    world.assert_outcome("new", "published");
    daemon.stop();
    world.assert_at_rest();
}

/// Lets several tries go by: those of a drop that has to wait for something else.
fn wait_for_tries(daemon: &mut Daemon) {
    see(daemon, "still have to wait, tried 2 times");
}

fn old_generations_stay() {
    const TARGETS: usize = 5;
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (dir.path().join("spool"), disk.root.join("tree"));
    let world = |min_age: &str| {
        let settings = format!(
            "#spool rescan_interval = \"1s\"\n[limits]\nmin_free_space = \"0B\"\n\
             [retention]\nkeep = 0\nmin_age = \"{min_age}\"\n"
        );
        World::at(dir.path(), &spool, &tree, &settings)
    };
    let target = |number: usize| format!("amd64/generic/noble/target-{number}");
    let keeping = world("1h");
    for content in ["1", "2"] {
        for number in 0..TARGETS {
            let name = format!("{content}-{number}");
            keeping.drop_image(&name, &target(number), &[("linux", content.as_bytes())]);
        }
        keeping.run_once();
    }
    // Nobody may move the old one of any away.
    let current = |number: usize| fs::read_link(keeping.published(&target(number))).unwrap();
    let stuck: Vec<_> = (0..TARGETS)
        .map(|number| {
            let folder = tree.join(format!("{}@", target(number)));
            let is_old =
                |name: &String| !name.ends_with(".toml") && !current(number).ends_with(name);
            let old = names(&folder).into_iter().find(is_old).unwrap();
            folder.join(old)
        })
        .collect();
    expect(Command::new("chattr").arg("+i").args(&stuck));
    let world = world("0s");
    let mut daemon = world.daemon();
    see(&mut daemon, "removing what is old");
    for name in ["a", "b", "c"] {
        world.drop_image(name, OTHER, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(name);
    }
    let warnings = daemon.log.iter().filter(|line| line.contains(" WARN "));
    assert_eq!(warnings.count(), 1, "{:#?}", daemon.log);
    expect(Command::new("chattr").arg("-i").args(&stuck));
    see(&mut daemon, "what was old could be removed");
    for number in 0..TARGETS {
        assert_eq!(generations(&world, &target(number)), 1, "{world}");
    }
    daemon.stop();
    world.assert_at_rest();
}

fn old_outcomes_stay() {
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let settings = format!(
        "#spool rescan_interval = \"1s\"\n#spool keep_outcomes = \"0s\"\n{}",
        SETTINGS.replace("\"0B\"", "\"1EiB\"")
    );
    let spool = disk.root.join("spool");
    let world = World::at(dir.path(), &spool, &dir.path().join("tree"), &settings);
    let outcomes = world.outcomes_of(0);
    fs::create_dir(&outcomes).unwrap();
    let stuck = outcomes.join("a.json");
    for name in ["a.json", "b.json", "c.json"] {
        fs::write(outcomes.join(name), "{}").unwrap();
    }
    expect(Command::new("chattr").arg("+i").arg(&stuck));
    world.drop_image("waiting", TARGET, &[("linux", b"1")]);
    let mut daemon = world.daemon();
    wait_for_tries(&mut daemon);
    let warnings = daemon.log.iter().filter(|line| line.contains(" WARN "));
    let count = warnings.count();
    let left = world.outcomes();
    expect(Command::new("chattr").arg("-i").arg(&stuck));
    assert!(count <= 4, "{:#?}", daemon.log);
    assert_eq!(left, ["a.json"]);
    see(&mut daemon, "what was old could be removed");
    assert_eq!(world.outcomes(), Vec::<String>::new());
    daemon.stop();
}

fn staging_stays() {
    let disk = FileSystem::looped("ext4", 64 << 20, "relatime");
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path(), &dir.path().join("spool"), &disk.root, SETTINGS);
    let staging = disk.root.join(".netboot-publisher/staging");
    for number in ["0", "1", "2"] {
        fs::create_dir_all(staging.join(number)).unwrap();
        fs::write(staging.join(number).join("initrd.gz"), "of the crash").unwrap();
    }
    let stuck = staging.join("1/initrd.gz");
    expect(Command::new("chattr").arg("+i").arg(&stuck));
    let drops = [("a", TARGET), ("b", OTHER)];
    for (name, target) in drops {
        world.drop_image(name, target, &[("linux", b"1")]);
    }
    let mut daemon = world.daemon();
    for (name, _) in drops {
        see(&mut daemon, &format!("drop=\"{name}\""));
    }
    daemon.stop();
    let left = names(&staging);
    expect(Command::new("chattr").arg("-i").arg(&stuck));
    assert_eq!(left, ["1"]);
    for (_, target) in drops {
        assert_eq!(names(&world.published(target)), ["linux"]);
    }
    world.run_once();
    world.assert_at_rest();
}

/// Drains the spool while the kernel refuses some calls.
fn run_once_with(world: &World, injected: &str) -> std::process::Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", injected]);
    strace.args([PROGRAM, "run", "--once", "--config"]);
    output(strace.arg(&world.config))
}

fn renames_as_on_nfs() {
    // renameat2 is the call with flags; rename and renameat go on.
    let refusal = "inject=renameat2:error=EINVAL";
    let world = World::new();
    for content in ["1", "2"] {
        world.drop_image("a", TARGET, &[("linux", content.as_bytes())]);
        let output = run_once_with(&world, refusal);
        assert!(output.status.success(), "{}\n{world}", text(&output));
        world.assert_outcome("a", "published");
    }
    // Two drops that are rejected under one name are both kept.
    for _ in 0..2 {
        world.drop_with("bad", "format = 7\n", |_| {});
        let output = run_once_with(&world, refusal);
        assert!(output.status.success(), "{}\n{world}", text(&output));
    }
    assert_eq!(
        world.names("rejected"),
        ["bad", "bad.json", "bad~1", "bad~1.json"]
    );
    world.assert_at_rest();
}

fn adoption_fails() {
    let world = World::new();
    fs::create_dir_all(world.published(TARGET)).unwrap();
    fs::write(world.published(TARGET).join("linux"), "0").unwrap();
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    // The call that fails makes the link that is to be exchanged with the folder.
    let output = run_once_with(&world, "inject=symlinkat:error=ENOSPC:when=1");
    assert!(!output.status.success(), "{}", text(&output));
    assert_eq!(
        fs::read(world.published(TARGET).join("linux")).unwrap(),
        b"0"
    );
    assert_eq!(
        names(&world.tree.join(format!("{TARGET}@"))),
        Vec::<String>::new()
    );
    world.run_once();
    world.assert_outcome("a", "published");
    world.assert_at_rest();
}

/// Every failpoint of the program, and which ways through it are worth failing.
fn failing_steps() -> Vec<(String, u32)> {
    let times = |name: String| {
        let last = match name.as_str() {
            // None of these drops is signed; one that is fails in `crashes`.
            "place-proof" => 0,
            // No alias is configured; what fails with one is in `aliases`.
            alias if aliases::PLACES.contains(&alias) => 0,
            "place-adopted" => 1,
            "tree-sync" | "spool-sync" => 6,
            _ => 2,
        };
        (1..=last).map(move |nth| (name.clone(), nth))
    };
    failpoints().into_iter().flat_map(times).collect()
}

/// Drops that go every way, with one step that fails.
fn step_fails(name: &str, nth: u32) {
    let settings = "#spool rescan_interval = \"1s\"\n[limits]\nmin_free_space = \"0B\"\n\
                    [retention]\nkeep = 0\nmin_age = \"0s\"\n";
    let world = World::with(settings);
    let plain = "amd64/generic/noble/plain";
    fs::create_dir_all(world.published(plain)).unwrap();
    fs::write(world.published(plain).join("linux"), "0").unwrap();
    let mut command = world.command(&["run"]);
    let failpoint = format!("{name}:{nth}:fail");
    command.env("NETBOOT_PUBLISHER_FAILPOINT", failpoint);
    let mut daemon = Daemon::start(command);

    let drops = [
        ("first", TARGET, "1", "published"),
        ("changed", TARGET, "2", "published"),
        ("same", TARGET, "2", "unchanged"),
        ("adopting", plain, "1", "published"),
        ("bad", "", "", "rejected bad-manifest"),
        ("worse", "", "", "rejected bad-manifest"),
    ];
    for (drop, target, content, expected) in drops {
        match target {
            "" => world.drop_with(drop, "format = 7\n", |_| {}),
            target => world.drop_image(drop, target, &[("linux", content.as_bytes())]),
        }
        see(&mut daemon, &format!("drop=\"{drop}\""));
        world.assert_outcome(drop, expected);
    }
    // What retention does not keep is removed while the drops are handled.
    for target in [TARGET, plain] {
        wait_until(&world.tree.join(format!("{target}@")), || {
            generations(&world, target) == 1
        });
    }
    wait_until(&world.spool.join("processing"), || {
        world.names("processing").is_empty()
    });
    let log = daemon.stop();
    assert!(
        log.iter().any(|line| line.contains("Input/output error")),
        "{name} was not reached {nth} times: {log:#?}"
    );
    for (drop, ..) in drops {
        let lines = log.iter().filter(|line| is_about(line, drop)).count();
        assert_eq!(lines, 1, "{drop}: {log:#?}");
    }
    for (target, content) in [(TARGET, "2"), (plain, "1")] {
        assert_eq!(names(&world.published(target)), ["linux"]);
        let current = fs::read_to_string(world.published(target).join("linux")).unwrap();
        assert_eq!(current, content, "{world}");
    }
    world.assert_at_rest();
}
