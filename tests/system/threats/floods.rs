//! Too much of something: files, levels, bytes, events; and too few inotify watches for them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use libtest_mimic::Trial;
use rustix::fs::{FileType, Mode, OFlags};

use super::{EXPIRES, LIMITS, OTHER, Siege, TARGET, open_dir, while_disturbed};
use crate::lab::world::{self, Needs, World, manifest, test, until};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "no file is read of a drop with too many",
            &[Needs::Program("strace")],
            too_many_files,
        ),
        test(
            "ten thousand levels of folders are refused kept and later removed",
            &[],
            ten_thousand_levels,
        ),
        test(
            "an importer that goes on filling its drop does not keep others from being published",
            &[],
            endless_filling,
        ),
        test(
            "huge drops are overtaken by small ones",
            &[],
            huge_is_overtaken,
        ),
        test(
            "without inotify instances the daemon warns and rescans",
            &[Needs::Root, Needs::Program("unshare")],
            without_instances,
        ),
        test(
            "without inotify watches the daemon warns and rescans",
            &[Needs::Root, Needs::Program("unshare")],
            || with_watches(0),
        ),
        test(
            "one inotify watch is enough for any number of drops that are written in place",
            &[Needs::Root, Needs::Program("unshare")],
            || with_watches(1),
        ),
        test(
            "an importer that makes events without end holds up nobody",
            &[],
            flood_of_events,
        ),
    ]
}

fn too_many_files() {
    const FILES: usize = 200_000;
    let world = World::with(LIMITS);
    world.drop_with("many", &manifest(TARGET), |image| {
        let first = image.join("0");
        fs::write(&first, "").unwrap();
        let mut from = first;
        for number in 1..FILES {
            let path = image.join(number.to_string());
            // An inode has no more than 65,000 names on ext4.
            if number % 60_000 == 0 {
                fs::write(&path, "").unwrap();
                from.clone_from(&path);
            } else {
                fs::hard_link(&from, &path).unwrap();
            }
        }
    });
    world.drop_image("small", OTHER, &[("linux", b"small")]);
    let trace = world.root.join("trace");
    let program = world.command(&["run", "--once"]);
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-e",
            "trace=openat2,newfstatat,statx,getdents64,read,renameat",
            "-o",
        ])
        .arg(&trace);
    strace.arg(program.get_program()).args(program.get_args());
    let output = world::output(&mut strace);
    assert!(output.status.success(), "{}\n{world}", world::text(&output));
    let outcome = world.assert_outcome("many", "rejected too-many-files");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(
        detail.contains("more than 1000 files, folders and links (limits.max_files)"),
        "{detail}"
    );
    world.assert_outcome("small", "published");
    // What is kept is measured afterwards, when nobody waits.
    let trace = fs::read_to_string(&trace).unwrap();
    let is_outcome = |line: &&str| line.contains("renameat") && line.contains("\"many.json\"");
    let calls = trace.lines().position(|line| is_outcome(&line)).unwrap();
    assert!(
        calls < 10_000,
        "{calls} system calls for {FILES} files of which 1000 are allowed"
    );
    assert_eq!(
        fs::read_dir(world.spool.join("rejected/many/image"))
            .unwrap()
            .count(),
        FILES
    );
    world.assert_at_rest();
}

/// Makes `levels` folders within folders in the directory `top`; returns the last.
fn dig(top: &Path, levels: u32) -> OwnedFd {
    (0..levels).fold(open_dir(top), |dir, _| {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    })
}

fn ten_thousand_levels() {
    let world = World::with(LIMITS);
    world.drop_with("deep", &manifest(TARGET), |image| drop(dig(image, 10_000)));
    world.drop_image("good", TARGET, &[("linux", b"good")]);
    let mut daemon = world.daemon();
    daemon.wait_for_drop("good");
    // If the drop is not refused, nothing but the daemon's own way of removing gets rid of it.
    let outcome = world.assert_outcome("deep", "rejected too-deep");
    assert!(
        outcome["detail"]
            .as_str()
            .unwrap()
            .contains("more than 16 folders deep")
    );
    let mut depth = 0;
    let mut dir = open_dir(&world.spool.join("rejected/deep/image"));
    while let Ok(below) =
        rustix::fs::openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    {
        (dir, depth) = (below, depth + 1);
    }
    assert_eq!(depth, 10_000, "the drop was not kept whole");
    daemon.stop();
    let expiring = World::at(
        &world.root,
        &world.spool,
        &world.tree,
        &format!("{EXPIRES}{LIMITS}"),
    );
    let daemon = expiring.daemon();
    until("the drop to go", || {
        !expiring.spool.join("rejected/deep").exists()
    });
    daemon.stop();
    expiring.assert_at_rest();
}

fn endless_filling() {
    let mut siege = Siege::with(&format!("{EXPIRES}{LIMITS}"));
    let mut image = None;
    let drop = siege.build(OsStr::new("filled"), &manifest(TARGET), |drop| {
        fs::create_dir(drop.join(".tmp")).unwrap();
        image = Some(open_dir(&drop.join(".tmp")));
    });
    let (image, count) = (image.unwrap(), AtomicU64::new(0));
    let fill = || {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        let _ = rustix::fs::mknodat(&image, name, FileType::RegularFile, Mode::empty(), 0);
    };
    while_disturbed(fill, || {
        fs::rename(&drop, siege.world.incoming("filled")).unwrap();
        siege.daemon.wait_for_drop("filled");
        siege.assert_goes_on();
    });
    until("the drop to be removed", || {
        !siege.world.spool.join("rejected/filled").exists()
    });
    siege.end();
}

fn huge_is_overtaken() {
    let mut siege = Siege::new();
    let mut held = Vec::new();
    // One more than there are lanes for heavy drops.
    for number in 0..3 {
        let target = format!("amd64/generic/huge/t{number}");
        siege.put_in(format!("huge-{number}"), &manifest(&target), |drop| {
            let file = File::create(drop.join("image/disk")).unwrap();
            file.set_len(7 << 30).unwrap();
            held.push(file);
        });
    }
    let claimed = |siege: &Siege| siege.world.place("huge-1").is_some();
    until("the huge ones to be claimed", || claimed(&siege));
    siege.assert_goes_on();
    for number in 0..3 {
        assert_eq!(
            siege.world.outcome(&format!("huge-{number}")),
            None,
            "{}",
            siege.world
        );
    }
    // Nobody has the patience to wait until the huge drops are done.
    for file in &held {
        file.set_len(1).unwrap();
    }
    for number in 0..3 {
        let name = format!("huge-{number}");
        until("its outcome", || siege.world.outcome(&name).is_some());
    }
    siege.assert_goes_on();
    siege.end();
}

/// The daemon with a limit of its user namespace.
fn limited(world: &World, limit: &str) -> Command {
    let daemon = world.command(&["run"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg(format!("echo {limit} && exec \"$0\" \"$@\""));
    command.arg(daemon.get_program()).args(daemon.get_args());
    command
}

fn without_instances() {
    let settings = format!("#spool rescan_interval = \"1s\"\n{LIMITS}");
    let mut siege = Siege::of(&settings, |world| {
        limited(world, "0 >/proc/sys/user/max_inotify_instances")
    });
    siege.assert_goes_on();
    let log = siege.end();
    let warned = log
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("going on with rescans only"));
    assert_eq!(warned.count(), 1, "{}", log.join("\n"));
}

fn with_watches(count: usize) {
    let interval = if count == 0 { "1s" } else { "1h" };
    let settings = format!("#spool rescan_interval = {interval:?}\n{LIMITS}");
    let mut siege = Siege::of(&settings, |world| {
        limited(
            world,
            &format!("{count} >/proc/sys/user/max_inotify_watches"),
        )
    });
    for number in 0..10 {
        fs::create_dir_all(siege.world.incoming(&format!("slow-{number}/image"))).unwrap();
        fs::write(
            siege.world.incoming(&format!("slow-{number}/image/linux")),
            number.to_string(),
        )
        .unwrap();
    }
    siege.assert_goes_on();
    for number in 0..10 {
        let name = format!("slow-{number}");
        let text = manifest(&format!("amd64/generic/slow/t{number}"));
        fs::write(siege.world.incoming(&name).join("manifest.toml"), text).unwrap();
    }
    for number in 0..10 {
        let name = format!("slow-{number}");
        until("its outcome", || siege.world.outcome(&name).is_some());
        siege.world.assert_outcome(&name, "published");
    }
    let log = siege.end();
    let warned = log
        .iter()
        .filter(|line| line.contains("going on with rescans only"));
    assert_eq!(
        warned.count(),
        usize::from(count == 0),
        "{}",
        log.join("\n")
    );
}

/// Renames in two threads leave the daemon no moment in which it has read all events.
fn flood_of_events() {
    let mut siege = Siege::new();
    let incoming = siege.world.spool.join("incoming");
    let rename = |thread: &str| {
        let [one, other] = ["a", "b"].map(|end| incoming.join(format!(".{thread}{end}")));
        let _ = fs::write(&one, "");
        for _ in 0..1_000 {
            fs::rename(&one, &other).unwrap();
            fs::rename(&other, &one).unwrap();
        }
    };
    while_disturbed(
        || rename("first"),
        || {
            while_disturbed(
                || rename("second"),
                || {
                    for number in 0..5 {
                        let name = format!("slow-{number}");
                        let image = siege.world.incoming(&name).join("image");
                        fs::create_dir_all(&image).unwrap();
                        fs::write(image.join("linux"), &name).unwrap();
                        siege.assert_goes_on();
                        let text = manifest(&format!("amd64/generic/slow/t{number}"));
                        fs::write(siege.world.incoming(&name).join("manifest.toml"), text).unwrap();
                        siege.daemon.wait_for_drop(&name);
                        siege.world.assert_outcome(&name, "published");
                    }
                },
            );
        },
    );
    siege.end();
}
