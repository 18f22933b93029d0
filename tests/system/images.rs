//! Real images, served by real TFTP servers; and what happens to what was published.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::SystemTime;

use libtest_mimic::Trial;
use notify::Watcher as _;

use crate::boot_configs::wait_for_catalog;
use crate::lab::tftp::{Client, Server};
use crate::lab::world::{
    Needs, PATIENCE, World, assert_same_content, names, output, snapshot, test, text, walk,
};

/// Where the packages `debian-installer-12-netboot-*` put their images.
const IMAGES: &str = "/usr/lib/debian-installer/images/12";
const AMD64: Needs = Needs::Path("/usr/lib/debian-installer/images/12/amd64");
const ARM64: Needs = Needs::Path("/usr/lib/debian-installer/images/12/arm64");

const TARGET: &str = "amd64/generic/bookworm/install";

pub fn tests() -> Vec<Trial> {
    let served = [
        Needs::Root,
        AMD64,
        Needs::Program("curl"),
        Needs::Program("tftp"),
        Needs::Program("unshare"),
        Needs::Program("nsenter"),
        Needs::Program("ip"),
    ];
    let by = |server| [&served[..], &[Needs::Program(server)]].concat();
    let mut tests = vec![
        test(
            "Debian's images are published as they are when they are submitted",
            &[AMD64, ARM64],
            || debian_images_are_published(submit),
        ),
        test(
            "Debian's images are published as they are when they are dropped by hand",
            &[AMD64, ARM64],
            || debian_images_are_published(drop_by_hand),
        ),
        test(
            "in.tftpd in its chroot serves both paths and what links lead to",
            &by("in.tftpd"),
            || machines_can_fetch(Server::tftpd),
        ),
        test(
            "dnsmasq serves both paths and what links lead to",
            &by("dnsmasq"),
            || machines_can_fetch(Server::dnsmasq),
        ),
        test(
            "dnsmasq in secure mode serves only what the configured owner owns",
            &by("dnsmasq"),
            dnsmasq_serves_its_own_users_files,
        ),
        test(
            "published files have one mode and owner, whatever the importer's were",
            &[Needs::Root],
            modes_and_owners_are_the_daemons,
        ),
        test(
            "what is published can be read by others whatever the mask that the daemon is started with",
            &[],
            a_mask,
        ),
        test(
            "submit makes a drop that others can read whatever the caller's mask",
            &[],
            submit_with_a_mask,
        ),
        test(
            "an unchanged file is a hard link to the one of the generation before",
            &[],
            unchanged_files_are_not_stored_twice,
        ),
        test(
            "an older image that comes back uses its kept generation again",
            &[],
            an_older_image_comes_back,
        ),
        test(
            "an older generation that was damaged is not used again",
            &[],
            a_damaged_older_generation_stays_out,
        ),
        test(
            "retention keeps so many generations besides the current one",
            &[],
            retention_keeps_a_number,
        ),
        test(
            "no generation goes before it is old enough",
            &[],
            retention_keeps_for_an_age,
        ),
        test(
            "a running daemon removes a generation when its time has come",
            &[],
            a_running_daemon_removes_in_time,
        ),
    ];
    for (sentence, needs, damage) in DAMAGES {
        let sentence = format!("{sentence} is repaired by the same image dropped again");
        tests.push(test(&sentence, needs, || damage_is_repaired(*damage)));
    }
    tests
}

/// The four images with their targets.
fn submit_with_a_mask() {
    let world = World::new();
    let image = world.root.join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("linux"), "kernel").unwrap();
    let mut submit = world.command(&["submit", "--arch=amd64", "--release=noble"]);
    submit.arg("--purpose=install").arg(&image);
    let submitted = output(&mut masked(&submit));
    assert!(submitted.status.success(), "{}", text(&submitted));
    let drop = world.incoming(&world.names("incoming").pop().unwrap());
    let modes = ["", "image", "image/linux", "manifest.toml"].map(|path| mode(drop.join(path)));
    assert_eq!(modes, [0o755, 0o755, 0o644, 0o644]);
}

/// The same command for a caller whose files nobody else can read.
fn masked(command: &Command) -> Command {
    let mut masked = Command::new("sh");
    masked.args(["-c", "umask 077; exec \"$0\" \"$@\""]);
    masked.arg(command.get_program()).args(command.get_args());
    masked
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn a_mask() {
    let world = World::new();
    world.drop_image("one", TARGET, &[("boot/linux", b"linux")]);
    let run = world.command(&["run", "--once"]);
    let output = output(&mut masked(&run));
    assert!(output.status.success(), "{}", text(&output));
    let generation = world.published(TARGET).canonicalize().unwrap();
    for folder in [
        world.tree.join("amd64"),
        generation.clone(),
        generation.join("boot"),
    ] {
        assert_eq!(mode(folder), 0o755, "{world}");
    }
    let record = PathBuf::from(format!("{}.toml", generation.display()));
    let catalog = world.tree.join("catalog.json");
    for file in [generation.join("boot/linux"), record, catalog] {
        assert_eq!(mode(file), 0o644, "{world}");
    }
}

fn debian() -> impl Iterator<Item = (PathBuf, String)> {
    let all = [
        ("amd64", "text"),
        ("amd64", "gtk"),
        ("arm64", "text"),
        ("arm64", "gtk"),
    ];
    all.into_iter().map(|(arch, flavour)| {
        let image = Path::new(IMAGES).join(arch).join(flavour);
        (image, format!("{arch}/generic/bookworm/{flavour}"))
    })
}

/// Puts an image into the spool of a running daemon; returns the words of its outcome.
type Put = fn(&World, &mut crate::lab::world::Daemon, &Path, &str) -> String;

fn submit(world: &World, _: &mut crate::lab::world::Daemon, image: &Path, target: &str) -> String {
    let names: Vec<_> = target.split('/').collect();
    let output = world.run(&[
        "submit",
        "--wait=100",
        "--arch",
        names[0],
        "--subarch",
        names[1],
        "--release",
        names[2],
        "--purpose",
        names[3],
        image.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}\n{world}", text(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    told.split(' ').next().unwrap().to_string()
}

fn drop_by_hand(
    world: &World,
    daemon: &mut crate::lab::world::Daemon,
    image: &Path,
    target: &str,
) -> String {
    let name = target.replace('/', "-");
    world.drop_directory(&name, target, image);
    daemon.wait_for_drop(&name);
    let outcome = world.outcome(&name).expect("an outcome that was logged");
    outcome["outcome"].as_str().unwrap().to_string()
}

fn debian_images_are_published(put: Put) {
    let world = World::new();
    let mut daemon = world.daemon();
    for (image, target) in debian() {
        let verdict = put(&world, &mut daemon, &image, &target);
        assert_eq!(verdict, "published", "{target}\n{world}");
        let published = world.published(&target);
        assert_same_content(&published, &image);
        let link = fs::read_link(&published).unwrap();
        assert!(link.is_relative(), "{link:?}\n{world}");
        assert_plain(&published.canonicalize().unwrap(), (0o644, 0o755));
    }
    wait_for_catalog(&world);
    let before = snapshot(&world.tree);
    for (image, target) in debian() {
        let verdict = put(&world, &mut daemon, &image, &target);
        assert_eq!(verdict, "unchanged", "{target}\n{world}");
    }
    daemon.stop();
    assert_eq!(snapshot(&world.tree), before, "the tree was touched");
    world.assert_at_rest();
}

/// Every file and folder has these permission bits.
fn assert_plain(generation: &Path, (file, folder): (u32, u32)) {
    for path in walk(generation).iter().chain([&generation.to_path_buf()]) {
        let stat = fs::symlink_metadata(path).unwrap();
        let expected = if stat.is_dir() { folder } else { file };
        if !stat.is_symlink() {
            assert_eq!(stat.mode() & 0o7777, expected, "{path:?}");
        }
    }
}

fn machines_can_fetch(serve: fn(&Path, &[&str]) -> Server) {
    let world = World::new();
    // The server runs as another user.
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    let image = Path::new(IMAGES).join("amd64/text");
    world.drop_directory("a", TARGET, &image);
    world.run_once();
    let stable = format!("tree/{TARGET}");
    let pinned = fs::read_link(world.published(TARGET)).unwrap();
    let pinned = format!("tree/amd64/generic/bookworm/{}", pinned.display());

    // The tree is a folder below the server's root.
    let server = serve(&world.root, &[]);
    for path in [&stable, &pinned] {
        for (client, file) in [
            // A link to a file, one to a folder, and one whose target looks for another beside it.
            (Client::Tftp, "pxelinux.0"),
            (Client::Tftp, "pxelinux.cfg/default"),
            (Client::Curl, "ldlinux.c32"),
            (Client::Tftp, "debian-installer/amd64/linux"),
            (Client::Curl, "debian-installer/amd64/initrd.gz"),
            (Client::Curl, "debian-installer/amd64/grubx64.efi"),
        ] {
            let fetched = server.fetch(client, &format!("{path}/{file}"), &world.root);
            let fetched = fetched.unwrap_or_else(|error| panic!("{error}\n{world}"));
            let expected = fs::read(image.join(file)).unwrap();
            assert!(
                fetched == expected,
                "{path}/{file} has {} bytes\n{world}",
                fetched.len()
            );
        }
    }
    let nothing = server.fetch(Client::Tftp, &format!("{stable}/nothing"), &world.root);
    assert!(nothing.is_err(), "a file that is not there was served");
}

fn dnsmasq_serves_its_own_users_files() {
    for (settings, is_served) in [("", false), ("#tree owner = \"nobody\"\n", true)] {
        let world = World::with(settings);
        fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
        world.drop_image("a", TARGET, &[("linux", b"kernel")]);
        world.run_once();
        let server = Server::dnsmasq(&world.tree, &["--tftp-secure"]);
        let fetched = server.fetch(Client::Tftp, &format!("{TARGET}/linux"), &world.root);
        assert_eq!(
            fetched.ok().as_deref(),
            is_served.then_some(&b"kernel"[..]),
            "{world}"
        );
    }
}

fn modes_and_owners_are_the_daemons() {
    let world = World::with("#tree owner = \"nobody\"\n#tree group = \"daemon\"\n");
    let theirs = fs::metadata("/").unwrap().uid();
    world.drop_with("a", &crate::lab::world::manifest(TARGET), |image| {
        fs::create_dir(image.join("folder")).unwrap();
        fs::write(image.join("folder/linux"), "kernel").unwrap();
        fs::write(image.join("tool"), "#!").unwrap();
        fs::hard_link(image.join("tool"), image.join("second")).unwrap();
        symlink("folder/linux", image.join("vmlinuz")).unwrap();
        for (name, mode) in [
            ("folder", 0o2777),
            ("folder/linux", 0o600),
            ("tool", 0o6755),
        ] {
            fs::set_permissions(image.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        chown(image.join("folder/linux"), Some(12_345), Some(12_345)).unwrap();
    });
    world.run_once();
    world.assert_outcome("a", "published");
    let generation = world.published(TARGET).canonicalize().unwrap();
    assert_plain(&generation, (0o644, 0o755));
    let expected = (account("passwd", "nobody"), account("group", "daemon"));
    assert_ne!(expected.0, theirs, "the test would show nothing");
    for path in walk(&generation).iter().chain([&generation]) {
        let stat = fs::symlink_metadata(path).unwrap();
        assert_eq!((stat.uid(), stat.gid()), expected, "{path:?}\n{world}");
        let links = if stat.is_dir() { stat.nlink() } else { 1 };
        assert_eq!(stat.nlink(), links, "{path:?} shares its inode\n{world}");
    }
    world.drop_directory("b", TARGET, &generation);
    world.run_once();
    world.assert_outcome("b", "unchanged");
}

/// The number of a user or group.
fn account(kind: &str, name: &str) -> u32 {
    let all = fs::read_to_string(Path::new("/etc").join(kind)).unwrap();
    let line = all
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")));
    let line = line.unwrap_or_else(|| panic!("no {name} in /etc/{kind}"));
    line.split(':').nth(2).unwrap().parse().unwrap()
}

const BASE: &[(&str, &[u8])] = &[
    ("linux", b"kernel 1"),
    ("boot/initrd.gz", b"initrd 1"),
    ("boot/grub/grub.cfg", b"menu"),
];

fn changed(linux: &'static [u8]) -> Vec<(&'static str, &'static [u8])> {
    let mut files = BASE.to_vec();
    files[0].1 = linux;
    files
}

fn unchanged_files_are_not_stored_twice() {
    let world = World::new();
    let drop = |name, files: &[(&str, &[u8])]| {
        world.drop_image(name, TARGET, files);
        world.run_once();
        world.assert_outcome(name, "published");
        let generation = world.published(TARGET).canonicalize().unwrap();
        let inode = |file: &str| fs::metadata(generation.join(file)).unwrap().ino();
        ["linux", "boot/initrd.gz", "boot/grub/grub.cfg"].map(inode)
    };
    let [linux, initrd, menu] = drop("a", BASE);
    let second = drop("b", &changed(b"kernel 2"));
    assert_eq!(second[1..], [initrd, menu], "{world}");
    assert_ne!(
        second[0], linux,
        "a changed file was written in place\n{world}"
    );
    world.assert_at_rest();
}

/// Publishes A, B, and whatever `between` does; then A again. Returns the generations of each.
fn back_to_a(world: &World, between: impl FnOnce(&Path)) -> [PathBuf; 3] {
    let publish = |name, files: &[(&str, &[u8])]| {
        world.drop_image(name, TARGET, files);
        world.run_once();
        world.assert_outcome(name, "published");
        world.published(TARGET).canonicalize().unwrap()
    };
    let a = publish("a", BASE);
    let b = publish("b", &changed(b"kernel 2"));
    between(&a);
    [a, b, publish("c", BASE)]
}

fn an_older_image_comes_back() {
    let world = World::new();
    // The link count is left out: a file is shared with whatever else holds the same bytes.
    let contents = |generation: &Path| -> Vec<_> {
        let seen = |path: PathBuf| {
            let stat = fs::symlink_metadata(&path).unwrap();
            (stat.ino(), stat.modified().unwrap(), fs::read(&path).ok())
        };
        walk(generation).into_iter().map(seen).collect()
    };
    let mut kept = Vec::new();
    let [a, b, again] = back_to_a(&world, |a| kept = contents(a));
    assert_eq!(again, a, "{world}");
    assert_eq!(
        contents(&a),
        kept,
        "the kept generation was written\n{world}"
    );
    assert_eq!(generations(&world), sorted([&a, &b]), "{world}");
    world.assert_at_rest();
}

fn a_damaged_older_generation_stays_out() {
    let world = World::new();
    let [a, b, again] = back_to_a(&world, |a| flip_byte(&a.join("linux")));
    assert_ne!(again, a, "{world}");
    assert_eq!(
        fs::read(again.join("linux")).unwrap(),
        b"kernel 1",
        "{world}"
    );
    assert_eq!(generations(&world), sorted([&a, &b, &again]), "{world}");
}

/// The names of the target's generations.
fn generations(world: &World) -> Vec<String> {
    let mut names = names(&world.tree.join(format!("{TARGET}@")));
    names.retain(|name| !name.ends_with(".toml"));
    names
}

fn sorted<const N: usize>(generations: [&PathBuf; N]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().to_string();
    let mut names: Vec<_> = generations.into_iter().map(name).collect();
    names.sort();
    names
}

/// Publishes so many images, one after the other; returns their generations.
fn publish_many(world: &World, count: usize) -> Vec<String> {
    let publish = |number: usize| {
        let (name, linux) = (format!("drop{number}"), format!("kernel {number}"));
        world.drop_image(&name, TARGET, &[("linux", linux.as_bytes())]);
        world.run_once();
        let outcome = world.assert_outcome(&name, "published");
        outcome["generation"].as_str().unwrap().to_string()
    };
    (0..count).map(publish).collect()
}

fn retention_keeps_a_number() {
    for keep in [0, 1, 3] {
        let world = World::with(&format!("[retention]\nkeep = {keep}\nmin_age = \"0s\"\n"));
        let published = publish_many(&world, 5);
        // Generations of one second are told apart by their digest only, so sets are compared.
        let mut expected = published[4 - keep..].to_vec();
        expected.sort();
        assert_eq!(generations(&world), expected, "keep = {keep}\n{world}");
        world.assert_at_rest();
    }
}

fn retention_keeps_for_an_age() {
    // Shorter than any machine takes from its boot to this test.
    let world = World::with("[retention]\nkeep = 0\nmin_age = \"2m\"\n");
    let mut published = publish_many(&world, 4);
    assert_eq!(generations(&world).len(), 4, "{world}");
    // They stopped being current in an earlier boot.
    let history = world.tree.join(format!(".history/{TARGET}.jsonl"));
    let lines = fs::read_to_string(&history).unwrap();
    let lines = lines.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if published[..2].iter().any(|old| line["from"] == **old) {
            line["at"] = "2001-01-01T00:00:00Z".into();
            line["boot"] = "another".into();
        }
        format!("{line}\n")
    });
    let lines: String = lines.collect();
    fs::write(&history, lines).unwrap();
    world.run_once();
    let mut expected = published.split_off(2);
    expected.sort();
    assert_eq!(
        generations(&world),
        expected,
        "the current one and the young one\n{world}"
    );
    world.assert_at_rest();
}

fn a_running_daemon_removes_in_time() {
    let world = World::with("[retention]\nkeep = 0\nmin_age = \"1s\"\n");
    let mut daemon = world.daemon();
    world.drop_image("a", TARGET, BASE);
    daemon.wait_for_drop("a");
    let old = generations(&world);
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        let _ = sender.send(event);
    })
    .unwrap();
    let folder = world.tree.join(format!("{TARGET}@"));
    watcher
        .watch(&folder, notify::RecursiveMode::NonRecursive)
        .unwrap();
    world.drop_image("b", TARGET, &changed(b"kernel 2"));
    daemon.wait_for_drop("b");
    while generations(&world).contains(&old[0]) {
        if let Err(error) = events.recv_timeout(PATIENCE) {
            panic!("{error}, and {old:?} is still there\n{world}");
        }
    }
    assert_eq!(generations(&world).len(), 1, "{world}");
    daemon.stop();
    world.assert_at_rest();
}

fn set_modified(path: &Path, moment: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(moment))
        .unwrap();
}

/// Changes a byte and nothing else that can be seen without reading it.
fn flip_byte(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
    set_modified(path, modified);
}

/// What happens to a published generation: the path is its folder.
type Damage = fn(&Path);

const DAMAGES: &[(&str, &[Needs], Damage)] = &[
    ("a flipped byte", &[], |g| {
        flip_byte(&g.join("boot/initrd.gz"))
    }),
    ("a truncated file", &[], |g| {
        let file = File::options().write(true).open(g.join("linux")).unwrap();
        file.set_len(3).unwrap();
    }),
    ("a removed file", &[], |g| {
        fs::remove_file(g.join("linux")).unwrap()
    }),
    ("a removed folder", &[], |g| {
        fs::remove_dir_all(g.join("boot")).unwrap()
    }),
    ("an added file", &[], |g| {
        fs::write(g.join("boot/more"), "x").unwrap()
    }),
    ("an added folder", &[], |g| {
        fs::create_dir(g.join("more")).unwrap()
    }),
    ("a changed mode of a file", &[], |g| {
        fs::set_permissions(g.join("linux"), fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("a changed mode of a folder", &[], |g| {
        fs::set_permissions(g.join("boot"), fs::Permissions::from_mode(0o700)).unwrap();
    }),
    ("a changed mode of the generation", &[], |g| {
        fs::set_permissions(g, fs::Permissions::from_mode(0o700)).unwrap();
    }),
    ("a changed owner", &[Needs::Root], |g| {
        chown(g.join("linux"), Some(12_345), None).unwrap();
    }),
    ("a file in a link's place", &[], |g| {
        fs::remove_file(g.join("vmlinuz")).unwrap();
        fs::write(g.join("vmlinuz"), "kernel 1").unwrap();
    }),
    ("a link that leads elsewhere", &[], |g| {
        fs::remove_file(g.join("vmlinuz")).unwrap();
        symlink("boot/initrd.gz", g.join("vmlinuz")).unwrap();
    }),
    ("a removed record", &[], |g| {
        fs::remove_file(format!("{}.toml", g.display())).unwrap();
    }),
    ("a damaged record", &[], |g| {
        fs::write(format!("{}.toml", g.display()), "format = ").unwrap();
    }),
    ("a removed generation", &[], |g| {
        fs::remove_dir_all(g).unwrap()
    }),
    ("a removed pointer", &[], |g| {
        let folder = g.parent().unwrap().to_str().unwrap();
        fs::remove_file(folder.trim_end_matches('@')).unwrap();
    }),
];

fn damage_is_repaired(damage: Damage) {
    let world = World::new();
    let drop = |name, expected| {
        world.drop_with(name, &crate::lab::world::manifest(TARGET), |image| {
            for (path, bytes) in BASE {
                fs::create_dir_all(image.join(path).parent().unwrap()).unwrap();
                fs::write(image.join(path), bytes).unwrap();
            }
            symlink("linux", image.join("vmlinuz")).unwrap();
        });
        world.run_once();
        world.assert_outcome(name, expected)
    };
    drop("a", "published");
    let good = world.published(TARGET).canonicalize().unwrap();
    let copy = world.root.join("copy");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(&good)
        .arg(&copy)
        .status();
    assert!(status.unwrap().success());
    damage(&good);
    drop("b", "published");
    let repaired = world.published(TARGET).canonicalize().unwrap();
    assert_same_content(&repaired, &copy);
    assert_plain(&repaired, (0o644, 0o755));
    let stat = |path: &Path| fs::metadata(path.join("linux")).unwrap();
    assert_eq!(stat(&repaired).uid(), stat(&copy).uid(), "{world}");
    // What was damaged beyond use is a leftover, which goes at the next start.
    world.run_once();
    let before = snapshot(&world.tree);
    drop("c", "unchanged");
    assert_eq!(snapshot(&world.tree), before, "the tree was touched");
}
