//! What one importer drops, however large, many or broken, is its own trouble.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::filesystems::FileSystem;
use crate::lab::world::{
    Daemon, Needs, PROGRAM, World, manifest, names, output, own, test, text, until,
};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// The importer with the trouble; the other one is root.
const IMPORTER: u32 = 4_711;

/// Files that each of the many long manifests lists.
const LISTED: usize = 10_000;

const SETTINGS: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "long manifests of one importer hold up no drop of another",
            &[Needs::Root],
            many_listed,
        ),
        test(
            "large drops of one importer hold up no large drop of another, and holes stay holes",
            &[Needs::Root],
            sparse,
        ),
        test(
            "two thousand good drops of one importer hold up no drop of another",
            &[Needs::Root],
            many_good,
        ),
        test(
            "gigabytes of three importers hold up no ordinary initrd of another",
            &[Needs::Root],
            gigabytes,
        ),
        test(
            "thousands of empty folders of one importer hold up no drop of another",
            &[Needs::Root],
            many_empty,
        ),
        test(
            "of an importer no more drops are read than may wait, and the others after those",
            &[Needs::Root],
            max_waiting,
        ),
        test(
            "room that one drop needs is given to no other meanwhile",
            &[Needs::Root, Needs::Failpoints],
            room_is_reserved,
        ),
        test(
            "a drop without room lets another importer's pass, and ends as no-space",
            &[Needs::Root],
            no_room,
        ),
        test(
            "a drop that was passed has its outcome before what has passed it is swapped in",
            &[Needs::Root, Needs::Failpoints],
            passed_has_its_outcome_first,
        ),
        test(
            "of several drops without room at a target each is tried again",
            &[Needs::Root],
            each_is_tried_again,
        ),
        test(
            "a drop that finds no room in time ends as no-space",
            &[Needs::Root],
            no_room_in_time,
        ),
        test(
            "very many rejections of one importer are few lines in the log, and an outcome each",
            &[Needs::Root],
            flood_of_rejections,
        ),
    ]
}

/// Drops what `make` makes, as [`IMPORTER`].
fn drop_as_importer(world: &World, name: &str, manifest: &str, make: impl FnOnce(&Path)) {
    build_as_importer(world, name, manifest, make);
    hand_over(world, name);
}

/// Makes a drop of [`IMPORTER`]'s that keeps a hidden name.
fn build_as_importer(world: &World, name: &str, manifest: &str, make: impl FnOnce(&Path)) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir_all(hidden.join("image")).unwrap();
    make(&hidden.join("image"));
    fs::write(hidden.join("manifest.toml"), manifest).unwrap();
    own(&hidden, IMPORTER);
}

/// A spool, and a tree on a disk of its own that has so much room; what is returned beside it goes with it.
fn on_disk(size: &str, settings: &str) -> (World, FileSystem, tempfile::TempDir) {
    let disk = FileSystem::tmpfs(size);
    let root = tempfile::tempdir().unwrap();
    let (spool, tree) = (root.path().join("spool"), disk.root.join("tree"));
    let world = World::at(root.path(), &spool, &tree, settings);
    (world, disk, root)
}

fn hand_over(world: &World, name: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::rename(hidden, world.incoming(name)).unwrap();
}

/// How many drops with names that begin so have their outcome.
fn ended(world: &World, prefix: &str) -> usize {
    let names = world.outcomes().into_iter();
    names.filter(|name| name.starts_with(prefix)).count()
}

fn many_listed() {
    const DROPS: usize = 12;
    let world = World::with(SETTINGS);
    let sha256 = "0".repeat(64);
    let lines = (0..LISTED).map(|number| format!("\"f/{number}\" = {{ sha256 = \"{sha256}\" }}\n"));
    let long = manifest(TARGET) + "[files]\n" + &lines.collect::<String>();
    // All but the last are there: that is found out last.
    let stock = world.root.join("stock");
    fs::create_dir(&stock).unwrap();
    for number in 0..LISTED - 1 {
        let file = stock.join(number.to_string());
        fs::write(&file, "").unwrap();
        chown(file, Some(IMPORTER), None).unwrap();
    }
    for drop in 0..DROPS {
        build_as_importer(&world, &format!("long-{drop}"), &long, |image| {
            fs::create_dir(image.join("f")).unwrap();
            for number in 0..LISTED - 1 {
                let name = number.to_string();
                fs::hard_link(stock.join(&name), image.join("f").join(name)).unwrap();
            }
        });
    }
    let mut daemon = world.daemon();
    (0..DROPS).for_each(|drop| hand_over(&world, &format!("long-{drop}")));
    until("the first of them to end", || ended(&world, "long-") > 0);
    world.drop_image("small", OTHER, &[("linux", b"2B")]);
    daemon.wait_for_drop("small");
    let before = ended(&world, "long-");
    assert!(
        before < DROPS / 2,
        "{before} long ones came before it\n{world}"
    );
    until("the others to end", || ended(&world, "long-") == DROPS);
    for drop in 0..DROPS {
        world.assert_outcome(&format!("long-{drop}"), "rejected incomplete");
    }
    daemon.stop();
}

fn sparse() {
    const DROPS: usize = 6;
    const HOLE: u64 = 2 << 30;
    let world = World::with(SETTINGS);
    let target = |drop: usize| format!("amd64/generic/noble/hole-{drop}");
    for drop in 0..DROPS {
        let manifest = manifest(&target(drop));
        drop_as_importer(&world, &format!("hole-{drop}"), &manifest, |image| {
            File::create(image.join("disk"))
                .unwrap()
                .set_len(HOLE)
                .unwrap();
        });
    }
    let large = vec![7; 70 << 20];
    world.drop_image(".large", OTHER, &[("initrd.gz", &large)]);
    let mut daemon = world.daemon();
    until("two to be worked on", || {
        world.names("../tree/.netboot-publisher/staging").len() >= 2
    });
    fs::rename(world.incoming(".large"), world.incoming("large")).unwrap();
    daemon.wait_for_drop("large");
    let before = ended(&world, "hole-");
    assert!(before < DROPS - 1, "{before} holes came before it\n{world}");
    until("the holes to end", || ended(&world, "hole-") == DROPS);
    for drop in 0..DROPS {
        world.assert_outcome(&format!("hole-{drop}"), "published");
        let disk = fs::metadata(world.published(&target(drop)).join("disk")).unwrap();
        assert_eq!(disk.len(), HOLE);
        assert!(disk.blocks() < 100, "{} blocks of 512 bytes", disk.blocks());
    }
    daemon.stop();
}

fn many_good() {
    const DROPS: usize = 2_000;
    let world = World::with(SETTINGS);
    for drop in 0..DROPS {
        let target = format!("amd64/generic/noble/good-{drop}");
        drop_as_importer(
            &world,
            &format!("good-{drop}"),
            &manifest(&target),
            |image| {
                fs::write(image.join("linux"), vec![7; 64 << 10]).unwrap();
            },
        );
    }
    let mut daemon = world.daemon();
    until("the first of them to end", || ended(&world, "good-") > 0);
    world.drop_image("small", OTHER, &[("linux", b"2B")]);
    daemon.wait_for_drop("small");
    let before = ended(&world, "good-");
    println!("{before} of {DROPS} came before it");
    assert!(before < DROPS / 2, "{before} came before it");
    until("the others to end", || ended(&world, "good-") == DROPS);
    daemon.stop();
    world.assert_at_rest();
}

fn gigabytes() {
    // To read so many zeros takes minutes, whatever else the machine has to do.
    const HOLE: u64 = 200 << 30;
    const IMPORTERS: u32 = 3;
    // Room for all that is listed, though holes take none.
    let settings = SETTINGS.replace("[limits]", "[limits]\nmax_image_size = \"1024GiB\"");
    // A sync of the machine's disk waits for all that others have written there.
    let disk = FileSystem::tmpfs("1024g");
    let (spool, tree) = (disk.root.join("spool"), disk.root.join("tree"));
    let world = World::at(&disk.root, &spool, &tree, &settings);
    for number in 0..IMPORTERS {
        let name = format!("hole-{number}");
        let manifest = manifest(&format!("amd64/generic/noble/{name}"));
        build_as_importer(&world, &name, &manifest, |image| {
            let disk = File::create(image.join("disk")).unwrap();
            disk.set_len(HOLE).unwrap();
        });
        own(&world.incoming(&format!(".{name}")), IMPORTER + number);
    }
    let large = vec![7; 70 << 20];
    world.drop_image(".large", OTHER, &[("initrd.gz", &large)]);
    let mut daemon = world.daemon();
    (0..IMPORTERS).for_each(|number| hand_over(&world, &format!("hole-{number}")));
    until("all lanes for gigabytes to be taken", || {
        names(&world.tree.join(".netboot-publisher/staging")).len() == IMPORTERS as usize
    });
    fs::rename(world.incoming(".large"), world.incoming("large")).unwrap();
    daemon.wait_for_drop("large");
    assert_eq!(ended(&world, "hole-"), 0, "{world}");
    daemon.stop();
}

fn many_empty() {
    const FOLDERS: usize = 20_000;
    let world = World::with(SETTINGS);
    let mut daemon = world.daemon();
    for number in 0..FOLDERS {
        let folder = world.incoming(&format!("empty-{number}"));
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(IMPORTER), None).unwrap();
        if number % (FOLDERS / 4) == FOLDERS / 8 {
            let small = format!("small-{number}");
            world.drop_image(&small, OTHER, &[("linux", small.as_bytes())]);
        }
    }
    let small = |part: usize| format!("small-{}", FOLDERS / 4 * part + FOLDERS / 8);
    for part in 0..4 {
        until("a small one", || world.outcome(&small(part)).is_some());
        world.assert_outcome(&small(part), "published");
    }
    world.drop_image("last", TARGET, &[("linux", b"last")]);
    daemon.wait_for_drop("last");
    assert_eq!(ended(&world, "empty-"), 0);
    daemon.stop();
}

/// Runs the program as the importer, who may write into the spool.
fn by_importer(world: &World, arguments: impl FnOnce(&mut Command)) -> Output {
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let incoming = world.spool.join("incoming");
    for (path, mode) in [
        (&world.root, 0o755),
        (&world.spool, 0o755),
        (&incoming, 0o1777),
    ] {
        open(path, mode);
    }
    // The build's folder may be closed to others.
    let program = world.root.join("program");
    fs::copy(PROGRAM, &program).unwrap();
    fs::create_dir(world.root.join("image")).unwrap();
    fs::write(world.root.join("image/linux"), "kernel").unwrap();
    let mut command = Command::new(program);
    arguments(&mut command);
    command.arg("--config").arg(&world.config);
    output(command.uid(IMPORTER).gid(IMPORTER))
}

fn max_waiting() {
    const MAX: usize = 5;
    let world = World::with(&format!(
        "[limits]\nmax_waiting = {MAX}\nmin_free_space = \"0B\"\n"
    ));
    let mut daemon = world.daemon();
    // None has a manifest, and so each waits.
    for number in 0..MAX {
        let name = format!("incomplete-{number}");
        build_as_importer(&world, &name, "", |_| {});
        fs::remove_file(world.incoming(&format!(".{name}")).join("manifest.toml")).unwrap();
        hand_over(&world, &name);
    }
    drop_as_importer(&world, "more-1", &manifest(TARGET), |image| {
        fs::write(image.join("linux"), "one").unwrap();
    });
    drop_as_importer(&world, "more-2", &manifest(TARGET), |image| {
        fs::write(image.join("linux"), "two").unwrap();
    });
    world.drop_image("of-another", OTHER, &[("linux", b"2B")]);
    daemon.wait_for_drop("of-another");
    assert_eq!(ended(&world, "more-"), 0, "{world}");
    let waits = by_importer(&world, |command| {
        command.args(["submit", "--wait=2s", "--arch", "a", "--release", "b"]);
        command
            .args(["--purpose", "c"])
            .arg(world.root.join("image"));
    });
    assert_eq!(waits.status.code(), Some(4), "{}", text(&waits));
    let waits = text(&waits);
    assert!(waits.contains("not read yet"), "{waits}");
    for number in 0..MAX {
        let manifest = manifest(OTHER).replace("arch", "arhc");
        let place = world.incoming(&format!("incomplete-{number}"));
        fs::write(place.join("manifest.new"), manifest).unwrap();
        chown(place.join("manifest.new"), Some(IMPORTER), None).unwrap();
        fs::rename(place.join("manifest.new"), place.join("manifest.toml")).unwrap();
    }
    daemon.wait_for_drop("more-2");
    until("what was submitted to be published", || {
        world.published("a/generic/b/c").exists()
    });
    world.assert_outcome("more-1", "published");
    world.assert_outcome("more-2", "published");
    let linux = world.published(TARGET).join("linux");
    assert_eq!(fs::read_to_string(linux).unwrap(), "two", "{world}");
    daemon.stop();
    world.assert_at_rest();
}

/// The first drop stands still when its room is spoken for, and nothing was written.
fn room_is_reserved() {
    let (world, disk, _root) = on_disk("64m", SETTINGS);
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", "copy-file:1:hang");
    let mut daemon = Daemon::start(command);
    let bytes = vec![7; 40 << 20];
    world.drop_image("first", TARGET, &[("linux", &bytes)]);
    until("the first one to be staged", || {
        !names(&world.tree.join(".netboot-publisher/staging")).is_empty()
    });
    drop_as_importer(&world, "second", &manifest(OTHER), |image| {
        fs::write(image.join("linux"), &bytes).unwrap();
    });
    let line = daemon.wait_for("`second` has to wait");
    assert!(line.contains("40.0 MiB of that for other drops"), "{line}");
    // What hangs is given up with the daemon; then there is room for one after the other only.
    daemon.kill();
    disk.remount("size=128m");
    world.run_once();
    world.assert_outcome("first", "published");
    world.assert_outcome("second", "published");
}

fn no_room() {
    let (world, _disk, _root) = on_disk("64m", SETTINGS);
    let mut daemon = world.daemon();
    drop_as_importer(&world, "huge", &manifest(TARGET), |image| {
        File::create(image.join("disk"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
    });
    let line = daemon.wait_for("`huge` has to wait");
    assert!(line.contains("needs 1.0 GiB plus 0 B reserve"), "{line}");
    // Its importer's next one comes after it, whoever passes.
    drop_as_importer(&world, "next", &manifest(TARGET), |image| {
        fs::write(image.join("linux"), "next").unwrap();
    });
    world.drop_image("beside", OTHER, &[("linux", b"beside")]);
    daemon.wait_for_drop("beside");
    assert_eq!(world.outcome("huge"), None, "{world}");
    assert_eq!(world.outcome("next"), None, "{world}");

    world.drop_image("small", TARGET, &[("linux", b"small")]);
    daemon.wait_for_drop("small");
    daemon.wait_for_drop("next");
    world.assert_outcome("small", "published");
    world.assert_outcome("next", "published");
    let outcome = world.assert_outcome("huge", "rejected no-space");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.contains("limits.min_free_space"), "{detail}");
    assert_eq!(outcome["target"], TARGET);
    let linux = world.published(TARGET).join("linux");
    assert_eq!(fs::read_to_string(linux).unwrap(), "next", "{world}");
    until("the huge one to be kept", || {
        world.spool.join("rejected/huge/image/disk").exists()
    });
    daemon.stop();
    world.assert_at_rest();
}

/// Makes a spool, and a tree on a disk that is too small for the drop `huge` of an importer's, which
/// waits in a daemon that was started with this failpoint.
fn with_huge(failpoint: Option<&str>) -> (World, Daemon, FileSystem, tempfile::TempDir) {
    let (world, disk, root) = on_disk("64m", SETTINGS);
    let mut command = world.command(&["run"]);
    command.envs(failpoint.map(|it| ("NETBOOT_PUBLISHER_FAILPOINT", it)));
    let mut daemon = Daemon::start(command);
    drop_as_importer(&world, "huge", &manifest(TARGET), |image| {
        let disk = File::create(image.join("disk")).unwrap();
        disk.set_len(1 << 30).unwrap();
    });
    daemon.wait_for("`huge` has to wait");
    (world, daemon, disk, root)
}

fn passed_has_its_outcome_first() {
    let (world, mut daemon, _disk, _root) = with_huge(Some("outcome:1:fail"));
    world.drop_image("small", TARGET, &[("linux", b"small")]);
    daemon.wait_for_drop("small");
    world.assert_outcome("small", "published");
    world.assert_outcome("huge", "rejected no-space");
    let place = |drop: &str| {
        let name = format!("drop=\"{drop}\"");
        daemon.log.iter().position(|line| line.contains(&name))
    };
    assert!(
        place("huge").unwrap() < place("small").unwrap(),
        "{:?}",
        daemon.log
    );
    let linux = world.published(TARGET).join("linux");
    assert_eq!(fs::read_to_string(linux).unwrap(), "small", "{world}");
    daemon.stop();
    world.assert_at_rest();
}

fn each_is_tried_again() {
    let (world, mut daemon, disk, _root) = with_huge(None);
    let filler = disk.root.join("filler");
    fs::write(&filler, vec![7; 40 << 20]).unwrap();
    world.drop_image("large", TARGET, &[("linux", &[7; 30 << 20])]);
    until("both to be claimed", || {
        world.claimed() == ["huge", "large"]
    });
    fs::remove_file(filler).unwrap();
    daemon.wait_for_drop("large");
    world.assert_outcome("large", "published");
    world.assert_outcome("huge", "rejected no-space");
    daemon.stop();
    world.assert_at_rest();
}

fn no_room_in_time() {
    let settings = format!("#spool incomplete_timeout = \"1s\"\n{SETTINGS}");
    let (world, _disk, _root) = on_disk("64m", &settings);
    let mut daemon = world.daemon();
    world.drop_with("huge", &manifest(TARGET), |image| {
        File::create(image.join("disk"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
    });
    daemon.wait_for_drop("huge");
    world.assert_outcome("huge", "rejected no-space");
    world.drop_image("small", TARGET, &[("linux", b"small")]);
    daemon.wait_for_drop("small");
    world.assert_outcome("small", "published");
    daemon.stop();
    world.assert_at_rest();
}

fn flood_of_rejections() {
    const DROPS: usize = 1_000;
    let world = World::with(&format!("{SETTINGS}#spool rescan_interval = \"1h\"\n"));
    let file = world.root.join("netboot.prom");
    let settings = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        format!("{settings}[metrics]\ntextfile = {file:?}\n"),
    )
    .unwrap();
    for number in 0..DROPS {
        let manifest = if number % 4 == 0 {
            "format = 0\n".to_string()
        } else {
            manifest(TARGET)
        };
        drop_as_importer(&world, &format!("bad-{number}"), &manifest, |_| {});
    }
    for number in 0..3 {
        world.drop_with(&format!("own-{number}"), "format = 0\n", |_| {});
    }
    world.drop_image("good", OTHER, &[("linux", b"good")]);
    let output = world.run(&["run", "--once"]);
    assert!(
        output.status.success(),
        "{}",
        crate::lab::world::text(&output)
    );
    let log = String::from_utf8(output.stderr).unwrap();
    let lines_of = |importer: &str| {
        let field = format!("importer=\"{importer}\"");
        let is_meant = move |line: &&str| line.contains(&field) || line.starts_with(' ');
        log.lines().filter(is_meant)
    };
    let mut summed = 0;
    let mut singly = 0;
    for line in lines_of(&IMPORTER.to_string()) {
        let after = |text: &str| line.split_once(text).map(|(_, rest)| rest);
        match after("rejected ").filter(|rest| rest.contains(" more drops within ")) {
            Some(rest) => {
                let count = rest.split(' ').next().unwrap();
                summed += count.parse::<usize>().unwrap();
                assert!(
                    rest.contains(": empty-image "),
                    "the commonest comes first: {line}"
                );
                assert!(rest.contains(", bad-manifest "), "{line}");
            }
            None => singly += usize::from(line.contains("drop=\"bad-")),
        }
    }
    assert_eq!(singly + summed, DROPS, "{log}");
    // Twenty at once and five a minute: more would take more than an hour.
    assert!((20..=320).contains(&singly), "{singly} lines: {log}");
    let own = log.matches("drop=\"own-").count();
    assert_eq!((own, ended(&world, "own-")), (3, 3), "{log}");
    assert_eq!(log.matches("drop=\"good\"").count(), 1, "{log}");
    assert_eq!(ended(&world, "bad-"), DROPS);
    let status = text(&world.run(&["status"]));
    for name in ["own-0", "own-1", "own-2", "bad-"] {
        assert!(status.contains(&format!("\n{name}")), "{name} in {status}");
    }
    let metrics = fs::read_to_string(&file).unwrap();
    for (reason, count) in [
        ("bad-manifest", DROPS / 4 + 3),
        ("empty-image", DROPS * 3 / 4),
    ] {
        let line = format!("outcome=\"rejected\",reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
