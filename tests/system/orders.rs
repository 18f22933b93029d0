//! The order of drops, incomplete drops, time-outs.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use netboot_publisher::Digest;
use rustix::process::Signal;

use crate::lab::world::{Daemon, Needs, World, manifest, output, own, snapshot, test, until};
use crate::unprivileged::{self, NOBODY, Unprivileged};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// No look at the spool but for an event, in the time that a test has.
const EVENTS_ONLY: &str = "#spool rescan_interval = \"1h\"\n";
const EVERY_SECOND: &str = "#spool rescan_interval = \"1s\"\n";
const REST: &str =
    "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 1000\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "drops for one target are published in the order of their renames",
            &[],
            renames_in_order,
        ),
        test(
            "drops that were made while the daemon was down are published in order",
            &[],
            down_in_order,
        ),
        test(
            "a drop of which nobody knows who writes to it is not taken for a renamed one",
            &unprivileged::NEEDS,
            unknown_writers,
        ),
        test(
            "a drop that may have been renamed in the tick of its last change comes before later ones",
            &[],
            untold_rename,
        ),
        test(
            "manifests that are closed one after the other are published in that order",
            &[],
            manifests_in_order,
        ),
        test(
            "a small drop does not overtake a huge one for its target",
            &[],
            huge_first,
        ),
        test(
            "a drop in place waits for its manifest and is published at once with it",
            &[],
            in_place,
        ),
        test(
            "a drop whose manifest is renamed into place is published at once",
            &[],
            manifest_renamed,
        ),
        test(
            "a manifest that is still written is not taken",
            &[],
            manifest_held,
        ),
        test(
            "a manifest that was closed before anybody watched is taken all the same",
            &[],
            manifest_unwatched,
        ),
        test(
            "a drop waits for the files that its manifest lists",
            &[],
            missing_file,
        ),
        test(
            "a drop that stays incomplete is rejected and kept",
            &[],
            incomplete_timeout,
        ),
        test(
            "a drop that starts with a dot is never touched",
            &[],
            hidden,
        ),
        test(
            "a second drop of a name is handled after the first",
            &[],
            same_name,
        ),
        test(
            "rejected drops of one name are all kept",
            &[],
            same_name_rejected,
        ),
        test(
            "without events the spool is looked at again and again",
            &[],
            poll,
        ),
        test("outcomes and rejected drops expire", &[], expiry),
        test(
            "an old outcome of its name does not make a claimed drop look handled",
            &[Needs::Failpoints],
            reused_name,
        ),
    ]
}

fn world(settings: &str) -> World {
    World::with(&format!("{settings}{REST}"))
}

/// Ends the daemon when it has nothing to do: nothing is left then.
fn rest(daemon: Daemon, world: &World) {
    until("the drops to be put away", || {
        world.names("processing").is_empty()
    });
    daemon.stop();
    world.assert_at_rest();
}

/// A drop under a hidden name, with an image of its own; returns the hidden name.
fn build(world: &World, name: &str, target: &str) -> String {
    let hidden = format!(".{name}");
    world.drop_image(&hidden, target, &[("linux", name.as_bytes())]);
    hidden
}

/// Names without any order, the same every time for a seed.
fn shuffled(seed: u32, count: u32) -> Vec<String> {
    (0..count)
        .map(|number| Digest::of(format!("{seed}-{number}").as_bytes()).short())
        .collect()
}

/// The published drops in the order in which the log has them, until the `last`.
fn published(daemon: &mut Daemon, last: &str) -> Vec<String> {
    daemon.wait_for_drop(last);
    let lines = daemon
        .log
        .iter()
        .filter(|line| line.contains(" published "));
    let name = |line: &String| {
        line.split("drop=\"")
            .nth(1)?
            .split('"')
            .next()
            .map(String::from)
    };
    lines.filter_map(name).collect()
}

/// The drops whose generations a target has, by the time that their records say.
fn recorded(world: &World, target: &str) -> Vec<String> {
    let folder = world.tree.join(format!("{target}@"));
    let records = fs::read_dir(folder).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let text = path
            .extension()
            .is_some_and(|end| end == "toml")
            .then(|| fs::read_to_string(path).unwrap())?;
        let record = netboot_publisher::Record::parse(&text).unwrap();
        Some((record.head.published_at, record.head.from.unwrap().drop))
    });
    let mut records: Vec<_> = records.collect();
    records.sort();
    records.into_iter().map(|(_, drop)| drop).collect()
}

fn renames_in_order() {
    for seed in 0..3 {
        let world = world(EVENTS_ONLY);
        let mut daemon = world.daemon();
        let names = shuffled(seed, 100);
        for name in &names {
            build(&world, name, TARGET);
        }
        for name in &names {
            fs::rename(world.incoming(&format!(".{name}")), world.incoming(name)).unwrap();
        }
        assert_eq!(
            published(&mut daemon, names.last().unwrap()),
            names,
            "seed {seed}"
        );
        assert_eq!(recorded(&world, TARGET), names, "seed {seed}");
        rest(daemon, &world);
    }
}

fn down_in_order() {
    let world = world("");
    // Drops of one tick of the clock are told apart by nothing but their names.
    let names: Vec<_> = (100..200).map(|number| format!("d{number}")).collect();
    for name in &names {
        build(&world, name, TARGET);
    }
    for name in &names {
        fs::rename(world.incoming(&format!(".{name}")), world.incoming(name)).unwrap();
    }
    // The name alone does not decide: `a-last` is first by name, and last by a later tick.
    let last = build(&world, "a-last", TARGET);
    let changed = |name: &str| {
        let stat = world.incoming(name).metadata().unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    until("a later tick of the clock", || {
        fs::write(world.incoming(&last).join("image/tick"), "").unwrap();
        let tick = world.incoming(&last).join("image/tick").metadata().unwrap();
        (tick.ctime(), tick.ctime_nsec()) > changed("d199")
    });
    fs::rename(world.incoming(&last), world.incoming("a-last")).unwrap();
    let mut daemon = world.daemon();
    let expected: Vec<_> = names.into_iter().chain(["a-last".to_string()]).collect();
    assert_eq!(published(&mut daemon, "a-last"), expected);
    assert_eq!(recorded(&world, TARGET), expected);
    rest(daemon, &world);
}

fn unknown_writers() {
    let nobody = Unprivileged::new(&format!("#spool settle = \"1h\"\n{REST}"));
    let world = &nobody.world;
    own(&world.spool, NOBODY);
    // Another user's: a daemon without privileges is not told who writes to that.
    let hidden = world.incoming(&build(world, "root-s", TARGET));
    fs::set_permissions(&hidden, Permissions::from_mode(0o777)).unwrap();
    let built = hidden.metadata().unwrap();
    let is_told = |stat: &fs::Metadata| {
        (stat.ctime(), stat.ctime_nsec()) > (built.ctime(), built.ctime_nsec())
    };
    until("a later tick of the clock", || {
        let probe = world.incoming(".probe");
        fs::write(&probe, "").unwrap();
        is_told(&probe.metadata().unwrap())
    });
    fs::rename(&hidden, world.incoming("root-s")).unwrap();
    let renamed = SystemTime::now();
    until("no event of it to be expected any more", || {
        renamed
            .elapsed()
            .is_ok_and(|age| age > Duration::from_millis(300))
    });
    let mut daemon = nobody.daemon();
    for name in ["one", "two"] {
        nobody.drop_image(name, OTHER, name.as_bytes());
        daemon.wait_for_drop(name);
    }
    assert!(world.incoming("root-s").exists(), "{world}");
    assert_eq!(world.outcome("root-s"), None, "{world}");
    daemon.stop();
}

fn untold_rename() {
    let world = world("#spool settle = \"1s\"\n");
    let last = build(&world, "last", TARGET);
    let first = build(&world, "first", TARGET);
    fs::rename(world.incoming(&first), world.incoming("first")).unwrap();
    // Its folder has changed by this as well: nothing tells of the rename.
    fs::write(world.incoming("first/.tick"), "").unwrap();
    let ticks = || world.incoming("first/.tick").metadata().unwrap();
    let is_later = |path: &Path| {
        let (other, stat) = (ticks(), path.metadata().unwrap());
        (stat.ctime(), stat.ctime_nsec()) > (other.ctime(), other.ctime_nsec())
    };
    let probe = world.incoming(&last).join("image/tick");
    until("a later tick of the clock", || {
        fs::write(&probe, "").unwrap();
        is_later(&probe)
    });
    let built = probe.metadata().unwrap();
    until("a rename in a later tick", || {
        fs::rename(world.incoming(&last), world.incoming("last")).unwrap();
        let stat = world.incoming("last").metadata().unwrap();
        let is_told = (stat.ctime(), stat.ctime_nsec()) > (built.ctime(), built.ctime_nsec());
        if !is_told {
            fs::rename(world.incoming("last"), world.incoming(&last)).unwrap();
        }
        is_told
    });
    world.run_once();
    assert_eq!(recorded(&world, TARGET), ["first", "last"]);
    world.assert_at_rest();
}

fn manifests_in_order() {
    for seed in 0..3 {
        let world = world(EVENTS_ONLY);
        let mut daemon = world.daemon();
        let names = shuffled(seed, 40);
        for name in &names {
            fs::create_dir_all(world.incoming(name).join("image")).unwrap();
            fs::write(world.incoming(name).join("image/linux"), name).unwrap();
        }
        // Once `first` is done, the daemon has seen the other drops, and looks inside.
        world.drop_image("first", OTHER, &[("linux", b"first")]);
        daemon.wait_for_drop("first");
        let changed = |path: &Path| {
            let stat = fs::metadata(path).unwrap();
            (stat.ctime(), stat.ctime_nsec())
        };
        for name in &names {
            let path = world.incoming(name).join("manifest.toml");
            fs::write(&path, manifest(TARGET)).unwrap();
            // What changes in one tick of the file system's clock is told apart by nobody.
            until("the next tick", || {
                fs::write(world.incoming(".tick"), "").unwrap();
                changed(&world.incoming(".tick")) > changed(&path)
            });
        }
        fs::remove_file(world.incoming(".tick")).unwrap();
        let mut found = published(&mut daemon, names.last().unwrap());
        found.retain(|name| name != "first");
        assert_eq!(found, names, "seed {seed}");
        rest(daemon, &world);
    }
}

/// Puts in a drop that takes longer than anybody waits, until the file that is returned is cut off.
fn endless(world: &World, name: &str, target: &str) -> File {
    let mut held = None;
    world.drop_with(name, &manifest(target), |image| {
        let file = File::create(image.join("disk")).unwrap();
        file.set_len(15 << 30).unwrap();
        held = Some(file);
    });
    let staging = world.tree.join(".netboot-publisher/staging");
    until("its copy to begin", || {
        fs::read_dir(&staging).unwrap().count() > 0
    });
    held.unwrap()
}

fn huge_first() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    let held = endless(&world, "huge", TARGET);
    world.drop_image("small", TARGET, &[("linux", b"small")]);
    world.drop_image("other", OTHER, &[("linux", b"other")]);
    daemon.wait_for_drop("other");
    world.drop_image("another", OTHER, &[("linux", b"another")]);
    daemon.wait_for_drop("another");
    assert_eq!(world.outcome("small"), None, "it overtook\n{world}");
    held.set_len(1).unwrap();
    daemon.wait_for_drop("huge");
    world.assert_outcome("huge", "rejected changed");
    daemon.wait_for_drop("small");
    world.assert_outcome("small", "published");
    rest(daemon, &world);
}

fn in_place() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    fs::create_dir_all(world.incoming("slow/image/sub")).unwrap();
    fs::write(world.incoming("slow/image/sub/linux"), "slow").unwrap();
    for number in 0..5 {
        let name = format!("other-{number}");
        world.drop_image(&name, OTHER, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(&name);
        assert!(
            world.incoming("slow/image/sub/linux").exists(),
            "taken without a manifest\n{world}"
        );
    }
    fs::write(world.incoming("slow/manifest.toml"), manifest(TARGET)).unwrap();
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    rest(daemon, &world);
}

fn manifest_renamed() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    fs::create_dir_all(world.incoming("slow/image")).unwrap();
    fs::write(world.incoming("slow/image/linux"), "slow").unwrap();
    fs::write(world.incoming("slow/.manifest.toml.part"), manifest(TARGET)).unwrap();
    world.drop_image("other", OTHER, &[("linux", b"other")]);
    daemon.wait_for_drop("other");
    assert!(
        world.incoming("slow/image").exists(),
        "taken without a manifest\n{world}"
    );
    fs::rename(
        world.incoming("slow/.manifest.toml.part"),
        world.incoming("slow/manifest.toml"),
    )
    .unwrap();
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    rest(daemon, &world);
}

fn manifest_held() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    fs::create_dir_all(world.incoming("slow/image")).unwrap();
    fs::write(world.incoming("slow/image/linux"), "slow").unwrap();
    world.drop_image("first", OTHER, &[("linux", b"first")]);
    daemon.wait_for_drop("first");

    let text = manifest(TARGET);
    let path = world.incoming("slow/manifest.toml");
    let mut file = File::create(&path).unwrap();
    file.write_all(&text.as_bytes()[..20]).unwrap();
    let mut number = 0;
    until("the manifest to be old", || {
        number += 1;
        let name = format!("other-{number}");
        world.drop_image(&name, OTHER, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(&name);
        assert!(
            path.exists(),
            "taken after {number} others, still open\n{world}"
        );
        age(&path) > Duration::from_secs(3)
    });
    file.write_all(&text.as_bytes()[20..]).unwrap();
    drop(file);
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    rest(daemon, &world);
}

fn age(path: &Path) -> Duration {
    let modified = path.metadata().unwrap().modified().unwrap();
    SystemTime::now()
        .duration_since(modified)
        .unwrap_or_default()
}

fn manifest_unwatched() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    // While the daemon stands still, it begins to watch nothing.
    daemon.signal(Signal::STOP);
    fs::create_dir_all(world.incoming("slow/image")).unwrap();
    fs::write(world.incoming("slow/image/linux"), "slow").unwrap();
    fs::write(world.incoming("slow/manifest.toml"), manifest(TARGET)).unwrap();
    daemon.signal(Signal::CONT);
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    rest(daemon, &world);
}

fn listing(target: &str, path: &str, contents: &[u8]) -> String {
    format!(
        "{}[files]\n\"{path}\" = {{ sha256 = \"{}\" }}\n",
        manifest(target),
        Digest::of(contents)
    )
}

fn missing_file() {
    let world = world(EVERY_SECOND);
    let mut daemon = world.daemon();
    fs::create_dir_all(world.incoming("slow/image/sub")).unwrap();
    fs::write(
        world.incoming("slow/manifest.toml"),
        listing(TARGET, "sub/linux", b"late"),
    )
    .unwrap();
    // Beside these drops the daemon looks at `slow`, more than once.
    for number in 0..3 {
        let name = format!("other-{number}");
        world.drop_image(&name, OTHER, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(&name);
    }
    assert!(
        world.incoming("slow").exists(),
        "taken without a file\n{world}"
    );
    fs::write(world.incoming("slow/image/.part"), "late").unwrap();
    fs::rename(
        world.incoming("slow/image/.part"),
        world.incoming("slow/image/sub/linux"),
    )
    .unwrap();
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    rest(daemon, &world);
}

fn incomplete_timeout() {
    let world = world(&format!(
        "{EVERY_SECOND}#spool incomplete_timeout = \"2s\"\n"
    ));
    let mut daemon = world.daemon();
    fs::create_dir_all(world.incoming("bare/image")).unwrap();
    fs::write(world.incoming("bare/image/linux"), "bare").unwrap();
    fs::create_dir(world.incoming("empty")).unwrap();
    fs::create_dir_all(world.incoming("lacking/image")).unwrap();
    fs::write(
        world.incoming("lacking/manifest.toml"),
        listing(TARGET, "linux", b"late"),
    )
    .unwrap();
    world.drop_image("good", TARGET, &[("linux", b"good")]);
    daemon.wait_for_drop("good");
    for (name, said) in [
        ("bare", "no manifest.toml; expected it to be put in last"),
        ("empty", "no manifest.toml; expected it to be put in last"),
        ("lacking", "`linux` is not there; the manifest lists it"),
    ] {
        until("its outcome", || world.outcome(name).is_some());
        let outcome = world.assert_outcome(name, "rejected incomplete");
        assert_eq!(outcome["detail"], said);
        until("the drop to be kept", || {
            world.spool.join("rejected").join(name).is_dir()
        });
    }
    assert_eq!(
        fs::read(world.spool.join("rejected/bare/image/linux")).unwrap(),
        b"bare"
    );
    world.drop_image("next", TARGET, &[("linux", b"next")]);
    daemon.wait_for_drop("next");
    rest(daemon, &world);
}

fn hidden() {
    let world = world("#spool incomplete_timeout = \"0s\"\n");
    build(&world, "complete", TARGET);
    fs::create_dir(world.incoming(".empty")).unwrap();
    fs::write(world.incoming(".file"), "x").unwrap();
    let look = || [".complete", ".empty"].map(|name| snapshot(&world.incoming(name)));
    let before = look();
    let mut daemon = world.daemon();
    world.drop_image("other", OTHER, &[("linux", b"other")]);
    daemon.wait_for_drop("other");
    daemon.stop();
    world.run_once();
    assert_eq!(look(), before);
    assert_eq!(world.names("incoming"), [".complete", ".empty", ".file"]);
    assert_eq!(world.outcomes(), ["other.json"]);
    fs::rename(world.incoming(".complete"), world.incoming("complete")).unwrap();
    world.run_once();
    world.assert_outcome("complete", "published");
    world.assert_at_rest();
}

fn same_name() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    let held = endless(&world, "twice", TARGET);
    world.drop_image("twice", TARGET, &[("linux", b"second")]);
    world.drop_image("other", OTHER, &[("linux", b"other")]);
    daemon.wait_for_drop("other");
    assert!(world.incoming("twice/image/linux").exists(), "{world}");
    held.set_len(1).unwrap();
    let line = daemon.wait_for_drop("twice");
    assert!(line.contains("reason=changed"), "{line}");
    let line = daemon.wait_for_drop("twice");
    assert!(line.contains(" published "), "{line}");
    world.assert_outcome("twice", "published");
    assert!(
        world.spool.join("rejected/twice/image/disk").exists(),
        "{world}"
    );
    assert_eq!(
        fs::read(world.published(TARGET).join("linux")).unwrap(),
        b"second"
    );
    rest(daemon, &world);
}

fn same_name_rejected() {
    let world = world(EVENTS_ONLY);
    let mut daemon = world.daemon();
    // `bad~1` is the name of a drop, and also the one that a `bad` gets when it makes room.
    for name in ["bad", "bad~1", "bad", "bad", "bad~1"] {
        let number = world.names("rejected").len().to_string();
        world.drop_with(name, &format!("number = {number}"), |image| {
            fs::write(image.join("linux"), &number).unwrap();
        });
        daemon.wait_for_drop(name);
        until("it to be kept", || world.names("processing").is_empty());
    }
    daemon.stop();
    let rejected = world.names("rejected");
    let drops: Vec<_> = rejected
        .iter()
        .filter(|name| !name.ends_with(".json"))
        .collect();
    assert_eq!(
        drops,
        ["bad", "bad~1", "bad~1~1", "bad~2", "bad~3"],
        "{world}"
    );
    let mut numbers = Vec::new();
    for drop in drops {
        let number =
            fs::read_to_string(world.spool.join("rejected").join(drop).join("image/linux"))
                .unwrap();
        let outcome =
            fs::read_to_string(world.spool.join("rejected").join(format!("{drop}.json"))).unwrap();
        assert!(
            outcome.contains(&format!("number = {number}")),
            "{drop} has another's outcome\n{outcome}"
        );
        numbers.push(number);
    }
    numbers.sort();
    assert_eq!(numbers, ["0", "2", "4", "6", "8"], "{world}");
    world.assert_at_rest();
}

fn poll() {
    let world = world(&format!("{EVERY_SECOND}#spool watch = \"poll\"\n"));
    let mut daemon = world.daemon();
    for number in 0..3 {
        let name = format!("drop-{number}");
        world.drop_image(&name, TARGET, &[("linux", name.as_bytes())]);
        daemon.wait_for_drop(&name);
        world.assert_outcome(&name, "published");
    }
    fs::create_dir_all(world.incoming("slow/image")).unwrap();
    fs::write(world.incoming("slow/image/linux"), "slow").unwrap();
    fs::write(world.incoming("slow/manifest.toml"), manifest(TARGET)).unwrap();
    daemon.wait_for_drop("slow");
    world.assert_outcome("slow", "published");
    let watches = format!("/proc/{}/fd", daemon.child.id());
    let links = fs::read_dir(watches)
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let watches = links.filter(|link| link.to_string_lossy().contains("inotify"));
    assert_eq!(watches.count(), 0, "it waits for events");
    rest(daemon, &world);
}

fn expiry() {
    const OUTCOMES: [&str; 4] = ["bad-0.json", "bad-1.json", "good-0.json", "good-1.json"];
    const REJECTED: [&str; 4] = ["bad-0", "bad-0.json", "bad-1", "bad-1.json"];
    const DAY: Duration = Duration::from_secs(86_400);
    // Which of the two goes soon; the other is kept for days.
    let ways: [&[&str]; 4] = [&[], &["outcomes"], &["rejected"], &["outcomes", "rejected"]];
    for goes in ways {
        let settings = goes.iter().map(|it| format!("#spool keep_{it} = \"1s\"\n"));
        let world = world(&(EVERY_SECOND.to_string() + &settings.collect::<String>()));
        // The daemon starts with nothing that could expire.
        let mut daemon = world.daemon();
        for round in 0..2 {
            let (good, bad) = (format!("good-{round}"), format!("bad-{round}"));
            // The importer's own stamps don't count.
            let hidden = world.incoming(&format!(".{bad}"));
            world.drop_with(&format!(".{bad}"), "bad", |_| {});
            let drop = File::open(&hidden).unwrap();
            drop.set_modified(SystemTime::now() + DAY).unwrap();
            fs::rename(hidden, world.incoming(&bad)).unwrap();
            daemon.wait_for_drop(&bad);
            world.drop_image(&good, TARGET, &[("linux", good.as_bytes())]);
            daemon.wait_for_drop(&good);
            for folder in goes {
                until("them to go", || kept_in(&world, folder).is_empty());
            }
        }
        for (folder, all) in [("outcomes", &OUTCOMES), ("rejected", &REJECTED)] {
            let kept: &[&str] = if goes.contains(&folder) { &[] } else { all };
            assert_eq!(kept_in(&world, folder), kept, "{goes:?} go\n{world}");
        }
        rest(daemon, &world);
    }
}

/// What stands in `rejected/`, or, of all importers, in `outcomes/`.
fn kept_in(world: &World, folder: &str) -> Vec<String> {
    match folder {
        "outcomes" => world.outcomes(),
        folder => world.names(folder),
    }
}

fn reused_name() {
    let world = world("#spool incomplete_timeout = \"0s\"\n");
    world.drop_image("daily", TARGET, &[("linux", b"yesterday")]);
    world.run_once();
    world.assert_outcome("daily", "published");
    let outcome = world.outcome_file("daily");
    let yesterday = fs::read(&outcome).unwrap();
    fs::create_dir_all(world.incoming("daily/image")).unwrap();
    fs::write(world.incoming("daily/image/linux"), "today").unwrap();
    let mut killed = world.command(&["run", "--once"]);
    killed.env("NETBOOT_PUBLISHER_FAILPOINT", "outcome:1:kill");
    assert!(!output(&mut killed).status.success());
    assert_eq!(world.claimed(), ["daily"], "{world}");
    assert!(!outcome.exists(), "it is that of another drop: {world}");
    // As where the old outcome could not be removed when the new drop was claimed.
    fs::write(&outcome, yesterday).unwrap();
    world.run_once();
    world.assert_outcome("daily", "rejected incomplete");
    assert_eq!(
        fs::read(world.spool.join("rejected/daily/image/linux")).unwrap(),
        b"today"
    );
    world.assert_at_rest();
}
