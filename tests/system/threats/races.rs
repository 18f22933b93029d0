//! What an importer does to its drop, or to another, while the daemon handles them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use libtest_mimic::Trial;
use rustix::fs::{CWD, RenameFlags};

use super::{
    IMPORTER, LIMITS, OTHER, Siege, TARGET, assert_clean, open_dir, own, replace, while_disturbed,
};
use crate::boot_configs::wait_for_catalog;
use crate::lab::world::{self, Needs, PATIENCE, World, manifest, snapshot, test, until};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "files that are swapped for links during the work never lead outside",
            &[],
            file_becomes_link,
        ),
        test(
            "folders that are swapped for links during the work never lead outside",
            &[],
            folder_becomes_link,
        ),
        test(
            "files that are swapped for the hard link of a secret during the work are not published",
            &[Needs::Root],
            file_becomes_hard_link,
        ),
        test(
            "what is published is what is recorded however much a file changes while it is read",
            &[],
            file_changes,
        ),
        test(
            "an importer that writes into its files after the outcome changes nothing",
            &[],
            writes_after_outcome,
        ),
        test(
            "drops that are renamed while they are handled end once",
            &[],
            drops_renamed,
        ),
        test(
            "drops that are taken away while they are handled are either away or handled",
            &[],
            drops_taken_away,
        ),
        test(
            "drops that change places while they are handled are all published or kept",
            &[],
            drops_exchanged,
        ),
        test(
            "a drop that changes places between the look and the claim is published nowhere else",
            &[Needs::Failpoints],
            exchanged_before_the_claim,
        ),
        test(
            "a drop that is taken away before its claim leaves the outcome of the last one of its name",
            &[Needs::Failpoints],
            taken_away_before_the_claim,
        ),
        test(
            "a manifest that becomes a folder after the claim does not keep the drop from being removed",
            &[Needs::Failpoints],
            manifest_becomes_folder,
        ),
        test(
            "a folder of the tree that is exchanged for a link before its files are shared leads nowhere",
            &[Needs::Root, Needs::Failpoints],
            || tree_folder_exchanged(|folder, outside| symlink(outside, folder).unwrap()),
        ),
        test(
            "a folder of the tree that is exchanged for another before its files are shared is not shared",
            &[Needs::Root, Needs::Failpoints],
            || tree_folder_exchanged(|folder, outside| fs::rename(outside, folder).unwrap()),
        ),
        test(
            "a drop in place is waited for while somebody has a lease on a file of it",
            &[Needs::Root, Needs::Program("python3")],
            leased_in_place,
        ),
        test(
            "an importer that leases its file can not keep its target taken",
            &[Needs::Root, Needs::Program("python3")],
            leased_file,
        ),
    ]
}

/// Random numbers that are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Runs a race so many times, and then until it was met once: `race` is given the round, and says
/// whether the daemon came across what was done to it.
pub(super) fn until_met(what: &str, rounds: u64, mut race: impl FnMut(u64) -> bool) {
    let begin = Instant::now();
    let mut is_met = false;
    for round in 0.. {
        if round >= rounds && is_met {
            break;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "no {what} was met in {round} rounds"
        );
        is_met |= race(round);
    }
}

/// Puts in drops whose files `disturb` swaps all the time, and makes sure that each is published as
/// it was or refused, and that not all are published.
fn swapped(siege: &mut Siege, uid: u32, make: impl Fn(&Path), disturb: impl Fn(&OwnedFd) + Sync) {
    until_met("swap", 12, |round| {
        let name = format!("swapped-{round}");
        let drop = siege.build(OsStr::new(&name), &manifest(TARGET), |drop| {
            let image = drop.join("image");
            fs::create_dir(image.join("sub")).unwrap();
            fs::create_dir(image.join("filler")).unwrap();
            for path in ["linux", "sub/linux", "sub/secret"] {
                fs::write(image.join(path), "h".repeat(64)).unwrap();
            }
            for number in 0..100 {
                fs::write(image.join(format!("filler/{number}-{round}")), "filler").unwrap();
            }
            own(drop, uid);
            make(drop);
        });
        let open = open_dir(&drop);
        while_disturbed(
            || disturb(&open),
            || {
                fs::rename(&drop, siege.world.incoming(&name)).unwrap();
                siege.daemon.wait_for_drop(&name);
            },
        );
        let outcome = siege.world.outcome(&name).unwrap();
        let reason = outcome["reason"].as_str().unwrap_or("published");
        assert!(
            ["published", "changed", "unsafe-file"].contains(&reason),
            "{outcome:#}"
        );
        reason != "published"
    });
    for path in ["linux", "sub/linux", "sub/secret"] {
        let published = fs::read_to_string(siege.world.published(TARGET).join(path));
        assert!(published.is_err() || published.unwrap() == "h".repeat(64));
    }
    siege.assert_goes_on();
}

/// Makes a link where the round before may have left another file, or a folder.
fn put_link(at: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) {
    let _ = fs::remove_file(at);
    let _ = fs::remove_dir_all(at);
    make(at).unwrap();
}

fn exchange(dir: &OwnedFd, one: &Path, other: &str) {
    let _ = rustix::fs::renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE);
}

fn file_becomes_link() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    let own_uid = rustix::process::geteuid().as_raw();
    let link = siege.world.root.join("link");
    let make = |_: &Path| put_link(&link, |link| symlink(&secret, link));
    swapped(&mut siege, own_uid, make, |drop| {
        exchange(drop, &link, "image/linux")
    });
    siege.end();
}

fn folder_becomes_link() {
    let mut siege = Siege::new();
    let outside = siege.outside.clone();
    let own_uid = rustix::process::geteuid().as_raw();
    let link = siege.world.root.join("link");
    let make = |_: &Path| put_link(&link, |link| symlink(&outside, link));
    swapped(&mut siege, own_uid, make, |drop| {
        exchange(drop, &link, "image/sub")
    });
    siege.end();
}

fn file_becomes_hard_link() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    let link = siege.world.root.join("link");
    let make = |_: &Path| put_link(&link, |link| fs::hard_link(&secret, link));
    swapped(&mut siege, IMPORTER, make, |drop| {
        exchange(drop, &link, "image/linux")
    });
    siege.end();
}

fn file_changes() {
    const SIZE: u64 = 2 << 20;
    let ways: [fn(&File, u64); 3] = [
        |file, count| {
            file.write_all_at(&count.to_le_bytes().repeat(4_096), count % 60 * 32_768)
                .unwrap()
        },
        |file, count| file.set_len(SIZE + count % 2 * 4_096).unwrap(),
        |mut file, _| {
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"more").unwrap();
        },
    ];
    let mut siege = Siege::new();
    for (way, change) in ways.into_iter().enumerate() {
        until_met("change", 6, |round| {
            let name = format!("changing-{way}-{round}");
            let mut held = None;
            let drop = siege.build(OsStr::new(&name), &manifest(TARGET), |drop| {
                let path = drop.join("image/linux");
                fs::write(&path, vec![b'a'; usize::try_from(SIZE).unwrap()]).unwrap();
                held = Some(File::options().read(true).write(true).open(path).unwrap());
            });
            let (file, mut count) = (held.unwrap(), 0);
            let disturb = || {
                count += 1;
                change(&file, count);
            };
            while_disturbed(disturb, || {
                fs::rename(&drop, siege.world.incoming(&name)).unwrap();
                siege.daemon.wait_for_drop(&name);
            });
            let outcome = siege.world.outcome(&name).unwrap();
            let end = outcome["reason"]
                .as_str()
                .unwrap_or(outcome["outcome"].as_str().unwrap());
            assert!(
                ["published", "unchanged", "changed"].contains(&end),
                "{outcome:#}"
            );
            siege.world.assert_whole();
            // What is written over leaves the size as it is: the copy is what counts then.
            let published = fs::read(siege.world.published(TARGET).join("linux"));
            let is_written = published.is_ok_and(|bytes| bytes.iter().any(|byte| *byte != b'a'));
            end == "changed" || (way == 0 && is_written)
        });
    }
    siege.assert_goes_on();
    siege.end();
}

fn writes_after_outcome() {
    let mut siege = Siege::new();
    let mut held = None;
    siege.put_in("held", &manifest(TARGET), |drop| {
        held = Some(
            File::options()
                .read(true)
                .write(true)
                .open(drop.join("image/linux"))
                .unwrap(),
        );
    });
    let held = held.unwrap();
    siege.daemon.wait_for_drop("held");
    siege.world.assert_outcome("held", "published");
    wait_for_catalog(&siege.world);
    let before = snapshot(&siege.world.tree);
    held.write_all_at(b"HOSTILE and longer than before", 0)
        .unwrap();
    held.sync_all().unwrap();
    assert_eq!(snapshot(&siege.world.tree), before);
    siege.world.assert_whole();
    siege.assert_goes_on();
    siege.end();
}

/// Drops that the races are run with: with an image of its own each, for one of a few targets.
fn crowd(world: &World, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|number| format!("d{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let target = format!("amd64/generic/race/t{}", number % 4);
        world.drop_image(name, &target, &[("linux", format!("<{name}>").as_bytes())]);
    }
    names
}

/// The seed of a race's round.
fn seed(round: u64) -> u64 {
    (round + 1).wrapping_mul(0x9e37_79b9)
}

/// Runs a race: what `disturb` does to the drops while the daemon handles them. Returns the world
/// at rest.
fn race(seed: u64, disturb: impl Fn(&World, &mut Dice) + Sync) -> World {
    const DROPS: usize = 60;
    let mut siege = Siege::new();
    let mut dice = Dice(seed);
    let disturbed = World::at(
        &siege.world.root,
        &siege.world.spool,
        &siege.world.tree,
        LIMITS,
    );
    while_disturbed(
        || disturb(&disturbed, &mut dice),
        || {
            crowd(&siege.world, DROPS);
            siege.assert_goes_on();
        },
    );
    // The daemon may not have seen the last rename yet; a drop that comes later is seen later.
    let waits = |world: &World| {
        world
            .names("incoming")
            .iter()
            .any(|name| !name.starts_with('.'))
    };
    until("the spool to be empty", || {
        !waits(&siege.world) && siege.world.names("processing").is_empty()
    });
    siege.assert_goes_on();
    let Siege { world, daemon, .. } = siege;
    assert_clean(&daemon.stop());
    world.assert_at_rest();
    world
}

/// How often the image of a drop of [`crowd`] is there now: in the tree, at its own target, or with
/// the rejected drops.
fn whereabouts(world: &World, name: &str) -> usize {
    let number: usize = name[1..].parse().unwrap();
    let own = world.published(&format!("amd64/generic/race/t{}@", number % 4));
    let text = format!("<{name}>");
    let holds = |path: &PathBuf| {
        path.ends_with("linux") && fs::read_to_string(path).is_ok_and(|found| found == text)
    };
    let pointers = |path: &PathBuf| {
        path.components()
            .any(|part| part.as_os_str().as_bytes().ends_with(b"@"))
    };
    let published = world::walk(&world.tree)
        .into_iter()
        .filter(pointers)
        .filter(holds)
        .inspect(|path| assert!(path.starts_with(&own), "{path:?} is {name}'s\n{world}"))
        .count();
    let kept = world::walk(&world.spool.join("rejected"))
        .iter()
        .filter(|path| holds(path))
        .count();
    published + kept
}

fn drops_renamed() {
    until_met("rename", 3, |round| {
        let seed = seed(round);
        let mut renamed = 0;
        let world = race(seed, |world, dice| {
            let number = dice.below(60);
            let _ = fs::rename(
                world.incoming(&format!("d{number}")),
                world.incoming(&format!("r{number}")),
            );
        });
        for number in 0..60 {
            let names = [format!("d{number}"), format!("r{number}")];
            let outcomes: Vec<_> = names
                .iter()
                .filter_map(|name| world.outcome(name))
                .collect();
            assert_eq!(
                outcomes.len(),
                1,
                "seed {seed}: d{number} has {outcomes:#?}\n{world}"
            );
            assert_eq!(
                whereabouts(&world, &names[0]),
                1,
                "seed {seed}: d{number}\n{world}"
            );
            renamed += usize::from(world.outcome(&names[1]).is_some());
        }
        (1..60).contains(&renamed)
    });
}

fn drops_taken_away() {
    until_met(
        "drop that was taken away in time, beside one that was not,",
        3,
        |round| {
            let seed = seed(round);
            let mut away = 0;
            let world = race(seed, |world, dice| {
                let number = dice.below(60);
                let _ = fs::rename(
                    world.incoming(&format!("d{number}")),
                    world.incoming(&format!(".d{number}")),
                );
            });
            for number in 0..60 {
                let is_away = world
                    .incoming(&format!(".d{number}"))
                    .join("image/linux")
                    .exists();
                let outcome = world.outcome(&format!("d{number}"));
                assert_eq!(
                    is_away,
                    outcome.is_none(),
                    "seed {seed}: d{number}\n{world}"
                );
                let found = whereabouts(&world, &format!("d{number}"));
                assert_eq!(
                    found,
                    usize::from(!is_away),
                    "seed {seed}: d{number}\n{world}"
                );
                away += usize::from(is_away);
            }
            (1..60).contains(&away)
        },
    );
}

fn drops_exchanged() {
    until_met("exchange", 3, |round| {
        let seed = seed(round);
        let mut exchanged = 0;
        let world = race(seed, |world, dice| {
            let [one, other] =
                [dice.below(60), dice.below(60)].map(|n| world.incoming(&format!("d{n}")));
            let _ = rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
        });
        for number in 0..60 {
            let name = format!("d{number}");
            let outcome = world.outcome(&name);
            let reason = outcome
                .as_ref()
                .and_then(|outcome| outcome["reason"].as_str());
            assert!(
                outcome.is_some(),
                "seed {seed}: {name} has no outcome\n{world}"
            );
            assert!(
                matches!(reason, None | Some("changed")),
                "seed {seed}: {outcome:#?}"
            );
            assert_eq!(
                whereabouts(&world, &name),
                1,
                "seed {seed}: {name}\n{world}"
            );
            let own = format!("amd64/generic/race/t{}", number % 4);
            let target = outcome.unwrap()["target"].clone();
            exchanged += usize::from(target.is_string() && target != own);
        }
        exchanged > 0
    });
}

/// The daemon has looked into a drop, and stops right before it claims it: then another stands in
/// its place.
fn exchanged_before_the_claim() {
    let mut siege = Siege::of(LIMITS, |world| {
        let mut command = world.command(&["run"]);
        command.env("NETBOOT_PUBLISHER_FAILPOINT", "claim:1:stop");
        command
    });
    let incoming = open_dir(&siege.world.incoming(""));
    let drops = [("one", TARGET), ("other", OTHER)];
    let put_in = |(name, target): (&str, &str)| {
        siege
            .world
            .drop_image(name, target, &[("linux", name.as_bytes())]);
    };
    put_in(drops[0]);
    until("the daemon to stop", || has_stopped(&siege.daemon));
    put_in(drops[1]);
    rustix::fs::renameat_with(&incoming, "one", &incoming, "other", RenameFlags::EXCHANGE).unwrap();
    siege.daemon.signal(rustix::process::Signal::CONT);
    for (name, _) in drops {
        until("the outcomes", || siege.world.outcome(name).is_some());
    }
    until("the drops to be put away", || {
        siege.world.names("processing").is_empty()
    });
    for (text, target) in drops {
        let holds = |path: &PathBuf| {
            path.ends_with("linux") && fs::read_to_string(path).is_ok_and(|found| found == text)
        };
        let all = [
            world::walk(&siege.world.tree),
            world::walk(&siege.world.spool),
        ]
        .concat();
        let found: Vec<_> = all.iter().filter(|path| holds(path)).collect();
        let own = siege.world.published(&format!("{target}@"));
        let kept = siege.world.spool.join("rejected");
        let is_good = |path: &&PathBuf| path.starts_with(&own) || path.starts_with(&kept);
        assert!(
            found.len() == 1 && is_good(&found[0]),
            "{text}: {found:?}\n{}",
            siege.world
        );
    }
    siege.assert_goes_on();
    siege.end();
}

/// As before a claim in [`exchanged_before_the_claim`], where nothing stands in its place then.
fn taken_away_before_the_claim() {
    let world = World::new();
    world.drop_image("daily", TARGET, &[("linux", b"one")]);
    world.run_once();
    let outcome = world.outcome("daily").unwrap();
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", "claim:1:stop");
    let mut daemon = world::Daemon::start(command);
    world.drop_image("daily", TARGET, &[("linux", b"two")]);
    until("the daemon to stop", || has_stopped(&daemon));
    fs::rename(world.incoming("daily"), world.incoming(".daily")).unwrap();
    daemon.signal(rustix::process::Signal::CONT);
    world.drop_image("next", TARGET, &[("linux", b"three")]);
    daemon.wait_for_drop("next");
    daemon.stop();
    assert_eq!(world.outcome("daily"), Some(outcome), "{world}");
    let file = world.outcome_file("daily");
    let left = world::names(file.parent().unwrap());
    assert_eq!(left, ["daily.json", "next.json"], "nothing is left aside");
}

fn has_stopped(daemon: &world::Daemon) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id()));
    stat.unwrap().contains(") T ")
}

fn manifest_becomes_folder() {
    let mut siege = Siege::of(LIMITS, |world| {
        let mut command = world.command(&["run"]);
        command.env("NETBOOT_PUBLISHER_FAILPOINT", "stage:1:stop");
        command
    });
    siege.put_in("turned", &manifest(TARGET), |_| {});
    until("the daemon to stop", || has_stopped(&siege.daemon));
    let claimed = siege.world.place("turned").unwrap();
    replace(&claimed.join("manifest.toml"), |path| {
        fs::create_dir_all(path.join("x")).unwrap()
    });
    siege.daemon.signal(rustix::process::Signal::CONT);
    siege.daemon.wait_for_drop("turned");
    siege.world.assert_outcome("turned", "published");
    siege.assert_goes_on();
    siege.end();
}

/// Between comparing and sharing, the tree's owner puts something else in the place of a folder of the
/// current generation: a folder that only root may enter is `outside`, with a file of the same name and
/// size in it.
fn tree_folder_exchanged(exchange: fn(&Path, &Path)) {
    let world = World::with(LIMITS);
    let bytes = "h".repeat(64);
    let put = |name: &str, linux: &str| {
        let files = [
            ("linux", linux),
            ("sub/secret", &bytes),
            ("sub/deep/initrd", &bytes),
        ];
        world.drop_image(
            name,
            TARGET,
            &files.map(|(path, text)| (path, text.as_bytes())),
        );
    };
    put("first", "1");
    world.run_once();
    let old = world.published(TARGET).canonicalize().unwrap();
    let outside = world.root.join("outside");
    for path in ["secret", "deep/initrd"] {
        let path = outside.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, super::secret(64)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", "stage:1:stop");
    let mut daemon = world::Daemon::start(command);
    put("second", "2");
    let stat = format!("/proc/{}/stat", daemon.child.id());
    until("the daemon to stop", || {
        fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    fs::rename(old.join("sub"), world.root.join("moved")).unwrap();
    exchange(&old.join("sub"), &outside);
    daemon.signal(rustix::process::Signal::CONT);
    daemon.wait_for_drop("second");
    world.assert_outcome("second", "published");
    daemon.stop();

    let new = world.published(TARGET).canonicalize().unwrap();
    assert_ne!(new, old, "{world}");
    for path in ["sub/secret", "sub/deep/initrd"] {
        let stat = fs::metadata(new.join(path)).unwrap();
        assert_eq!((stat.nlink(), stat.mode() & 0o7777), (1, 0o644), "{world}");
        assert_eq!(
            fs::read_to_string(new.join(path)).unwrap(),
            bytes,
            "{world}"
        );
    }
}

/// Takes a write lease on a file and gives it back only when the kernel breaks it by force.
const LEASE: &str = "import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('leased', flush=True)
sys.stdin.read()
";

/// Somebody who has a lease on this file, and who decides so who opens it when.
fn lease(file: &Path) -> world::Ended {
    use std::io::{BufRead as _, BufReader};
    let mut python = Command::new("python3");
    python.args(["-c", LEASE]).arg(file);
    let mut holder = world::Ended(
        python
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(holder.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "leased\n");
    holder
}

fn leased_in_place() {
    let world = World::with("#spool settle = \"500ms\"\n[limits]\nmin_free_space = \"0B\"\n");
    let mut daemon = world.daemon();
    let make = |name: &str| {
        fs::create_dir_all(world.incoming(name).join("image")).unwrap();
        fs::write(world.incoming(name).join("image/linux"), name).unwrap();
    };
    make("leased");
    let holder = lease(&world.incoming("leased/image/linux"));
    let finish = |name: &str, target: &str| {
        fs::write(world.incoming(name).join("manifest.toml"), manifest(target)).unwrap();
    };
    finish("leased", TARGET);
    // Another is still a while later.
    make("other");
    finish("other", OTHER);
    daemon.wait_for_drop("other");
    assert_eq!(world.outcome("leased"), None, "{world}");
    drop(holder);
    daemon.wait_for_drop("leased");
    world.assert_outcome("leased", "published");
    daemon.stop();
}

fn leased_file() {
    let mut siege = Siege::new();
    let drop = siege.build(OsStr::new("leased"), &manifest(TARGET), |_| {});
    let _holder = lease(&drop.join("image/linux"));
    fs::rename(&drop, siege.world.incoming("leased")).unwrap();
    siege.assert_refused("leased", "unreadable", &["image/linux"]);
    siege.end();
}
