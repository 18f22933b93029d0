//! What is noted of images that may not boot: told wherever one looks, and refused where that is wanted.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::lab::world::{Needs, World, manifest, output, test, text};

/// Debian's own images of its installer.
const IMAGES: &str = "/usr/lib/debian-installer/images/12";
const AMD64: &str = "/usr/lib/debian-installer/images/12/amd64";
const ARM64: &str = "/usr/lib/debian-installer/images/12/arm64";

const TARGET: &str = "amd64/generic/bookworm/install";
const CANDIDATE: &str = "amd64/generic/bookworm/candidate";

const ROOM: &str = "[limits]\nmin_free_space = \"0B\"\n";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "nothing is noted of Debian's own images, loaders and kernels but where they are for other machines",
            &[Needs::Path(AMD64), Needs::Path(ARM64)],
            of_debian,
        ),
        test(
            "a note is in outcome, log and status, and in what show and submit say",
            &[],
            told,
        ),
        test(
            "status has the notes of what is current, whatever made it so",
            &[],
            of_what_is_current,
        ),
        test(
            "that an image needs a URL is noted as long as none is configured",
            &[],
            no_url,
        ),
        test(
            "what the configuration refuses to be noted is rejected, also where it is published already",
            &[],
            refused,
        ),
        test(
            "what is promoted is noted, and refused, for the machines of the target that it goes to",
            &[Needs::Path(AMD64)],
            promoted,
        ),
        test(
            "an outcome that is written after a crash has the notes",
            &[Needs::Failpoints],
            after_a_crash,
        ),
    ]
}

/// Files of which two kinds of notes are made, and some of which none are.
const BAD: [(&str, &[u8]); 6] = [
    ("initrd.gz", b"\x1f\x8b"),
    ("linux", b""),
    ("a/.DS_Store", b"x"),
    ("a/._x", b"x"),
    ("a/Thumbs.db", b"x"),
    ("a/desktop.ini", b"x"),
];
const GOOD: [(&str, &[u8]); 2] = [("initrd.gz", b"\x1f\x8b"), ("linux", b"a kernel")];

/// The words and paths of what is noted.
fn words(notes: &Value) -> Vec<String> {
    let notes = notes.as_array().into_iter().flatten();
    let path = |note: &Value| note["path"].as_str().unwrap_or_default().to_string();
    let words = notes.map(|note| format!("{} {}", note["note"].as_str().unwrap(), path(note)));
    words.map(|it| it.trim_end().to_string()).collect()
}

/// What is noted in the outcome of a drop, which came to this.
fn noted(world: &World, drop: &str, outcome: &str) -> Vec<String> {
    words(&world.assert_outcome(drop, outcome)["notes"])
}

/// The name of an order that waits.
fn order(world: &World, arguments: &[&str]) -> String {
    let ordered = world.run(arguments);
    assert!(ordered.status.success(), "{}", text(&ordered));
    let drop = String::from_utf8(ordered.stdout).unwrap();
    drop.trim_end().to_string()
}

fn status(world: &World, arguments: &[&str]) -> String {
    let output = world.run(&[&["status"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What `status` says in JSON that is noted of a target.
fn noted_of(world: &World, target: &str) -> Vec<String> {
    let status: Value = serde_json::from_str(&status(world, &[target, "--json"])).unwrap();
    words(&status["targets"][0]["notes"])
}

fn of_debian() {
    let world = World::with(ROOM);
    let mut expected = Vec::new();
    for (arch, other, efi) in [("amd64", "arm64", "x64"), ("arm64", "amd64", "aa64")] {
        for kind in ["text", "gtk"] {
            let (drop, image) = (format!("{arch}-{kind}"), Path::new(IMAGES).join(arch));
            let target = format!("{arch}/generic/bookworm/{kind}");
            world.drop_directory(&drop, &target, &image.join(kind));
            expected.push((drop, Vec::new()));
        }
        let from = Path::new(IMAGES).join(arch).join("text/debian-installer");
        let [shim, grub] = ["bootnet", "grub"].map(|it| format!("{it}{efi}.efi"));
        for (key, file) in [("kernel", "linux"), ("efi", &*shim), ("efi", &*grub)] {
            for at in [arch, other] {
                let drop = format!("{file}-of-{arch}-at-{at}");
                let manifest = manifest(&format!("{at}/generic/{arch}/{file}"));
                let manifest = format!("{manifest}[boot]\n{key} = {file:?}\n");
                world.drop_with(&drop, &manifest, |image| {
                    fs::copy(from.join(arch).join(file), image.join(file)).unwrap();
                });
                let wrong = (at == other).then(|| format!("wrong-architecture {file}"));
                expected.push((drop, wrong.into_iter().collect()));
            }
        }
    }
    world.run_once();
    assert_eq!(expected.len(), 16);
    for (drop, expected) in expected {
        assert_eq!(noted(&world, &drop, "published"), expected, "{drop}");
    }
}

fn told() {
    let world = World::with(ROOM);
    world.drop_image("bad", TARGET, &BAD);
    let run = text(&world.run(&["run", "--once"]));
    let first = "empty-file: the kernel `linux` is empty";
    let second = "litter: `a/.DS_Store` is left behind by macOS";
    let third = "litter: `a/._x` is left behind by macOS";
    let line = format!("notes=\"{first}; {second}; {third}; and 2 more\"");
    assert!(run.contains(&line), "{run}");

    let outcome = world.assert_outcome("bad", "published");
    let note =
        json!({"note": "empty-file", "path": "linux", "text": "the kernel `linux` is empty"});
    assert_eq!(outcome["notes"][0], note);
    let expected = [
        "empty-file linux",
        "litter a/.DS_Store",
        "litter a/._x",
        "litter a/Thumbs.db",
        "litter a/desktop.ini",
    ];
    assert_eq!(words(&outcome["notes"]), expected);
    assert_eq!(noted_of(&world, TARGET), expected);

    let all = status(&world, &[]);
    let (_, table) = all.split_once("\n\nNOTED").expect(&all);
    let row = table.lines().nth(1).unwrap();
    let row: Vec<_> = row.split_whitespace().collect();
    assert_eq!(row, [TARGET, "empty-file,", "litter"]);
    let one = status(&world, &[TARGET]);
    let lines = one.lines().filter(|line| line.contains("litter: "));
    assert_eq!(lines.count(), 4, "{one}");
    let shown = text(&world.run(&["show", "bad"]));
    let lines = format!("     Notes: {first}\n            {second}\n");
    assert!(shown.contains(&lines), "{shown}");

    // The same image again, and one without.
    world.drop_image("again", TARGET, &BAD);
    world.run_once();
    assert_eq!(noted(&world, "again", "unchanged"), expected);
    world.drop_image("good", TARGET, &GOOD);
    let run = text(&world.run(&["run", "--once"]));
    assert!(!run.contains("notes"), "{run}");
    let outcome = world.assert_outcome("good", "published");
    assert_eq!(outcome.get("notes"), None);
    assert!(!status(&world, &[]).contains("NOTED"));

    let image = world.root.join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("linux.part"), "x").unwrap();
    let daemon = world.daemon();
    let to = ["--arch", "amd64", "--release", "a", "--purpose", "b"];
    let image = [image.to_str().unwrap(), "--wait"];
    let submit = world.run(&[&["submit"], &to[..], &image].concat());
    let said = "netboot-publisher: noted partial-upload: `linux.part` is named like what";
    assert!(text(&submit).contains(said), "{}", text(&submit));
    daemon.stop();
}

fn of_what_is_current() {
    let world = World::with(&format!("{ROOM}[retention]\nkeep = 2\n"));
    for (drop, files) in [("bad", &BAD[..2]), ("good", &GOOD[..])] {
        world.drop_image(drop, TARGET, files);
        world.run_once();
        world.assert_outcome(drop, "published");
    }
    let expected = ["empty-file linux"];
    assert_eq!(noted_of(&world, TARGET), [""; 0]);
    let rollback = order(&world, &["rollback", TARGET]);
    world.run_once();
    assert_eq!(noted(&world, &rollback, "rolled-back"), [""; 0]);
    assert_eq!(noted_of(&world, TARGET), expected);
    let promotion = order(&world, &["promote", TARGET, CANDIDATE]);
    world.run_once();
    assert_eq!(noted(&world, &promotion, "promoted"), expected);
    assert_eq!(noted_of(&world, CANDIDATE), expected);
    // A kept generation that a drop brings again.
    for (drop, files, expected) in [("3", &GOOD[..], &[][..]), ("4", &BAD[..2], &expected[..])] {
        world.drop_image(drop, TARGET, files);
        world.run_once();
        assert_eq!(noted(&world, drop, "published"), expected);
        assert_eq!(noted_of(&world, TARGET), expected);
    }
}

fn no_url() {
    let world = World::with(ROOM);
    let boot = "[boot]\nkernel = \"linux\"\ncmdline = \"iso={url}/x.iso\"\n";
    let put = |drop: &str, outcome: &str| {
        let manifest = manifest(TARGET) + boot;
        world.drop_with(drop, &manifest, |image| {
            fs::write(image.join("linux"), "a kernel").unwrap();
        });
        world.run_once();
        noted(&world, drop, outcome)
    };
    assert_eq!(put("first", "published"), ["no-url"]);
    assert_eq!(noted_of(&world, TARGET), ["no-url"]);
    let config = fs::File::options().append(true).open(&world.config);
    let url = b"[tftp]\nurl = \"http://boot.example/\"\n";
    config.unwrap().write_all(url).unwrap();
    assert_eq!(noted_of(&world, TARGET), [""; 0]);
    assert_eq!(put("second", "unchanged"), [""; 0]);
}

fn refused() {
    let world = World::with(ROOM);
    world.drop_image("before", TARGET, &BAD);
    world.run_once();
    world.assert_outcome("before", "published");
    let before = fs::read_link(world.published(TARGET)).unwrap();
    let mut config = fs::File::options()
        .append(true)
        .open(&world.config)
        .unwrap();
    let checks = "[checks]\nrefuse = [\"empty-file\", \"unknown-format\"]\n";
    config.write_all(checks.as_bytes()).unwrap();

    let no_initrd = ("initrd.gz", &b"<html>"[..]);
    world.drop_image("same", TARGET, &BAD);
    world.drop_image("both", CANDIDATE, &[no_initrd, BAD[1]]);
    world.drop_image(
        "litter",
        "amd64/g/a/litter",
        &[&BAD[2..], &GOOD[..]].concat(),
    );
    world.run_once();
    let outcome = world.assert_outcome("both", "rejected refused-note");
    let detail = "empty-file: the kernel `linux` is empty; unknown-format: the initrd `initrd.gz` is \
                  neither cpio, gzip, xz, zstd, lz4, lzo, lzma, bzip2 nor squashfs; expected an image \
                  without (checks.refuse)";
    assert_eq!(outcome["detail"], detail);
    world.assert_outcome("same", "rejected refused-note");
    assert_eq!(fs::read_link(world.published(TARGET)).unwrap(), before);
    assert!(!world.published(CANDIDATE).exists());
    assert_eq!(noted(&world, "litter", "published").len(), 4);
    // A rollback brings nothing that is new to the target.
    world.drop_image("good", TARGET, &GOOD);
    world.run_once();
    world.assert_outcome("good", "published");
    let rollback = order(&world, &["rollback", TARGET]);
    world.run_once();
    world.assert_outcome(&rollback, "rolled-back");
    assert_eq!(fs::read_link(world.published(TARGET)).unwrap(), before);

    fs::write(
        &world.config,
        "[checks]\nrefuse = [\"litter\", \"liter\"]\n",
    )
    .unwrap();
    let checked = world.run(&["check-config"]);
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(78), "{said}");
    assert!(
        said.contains("expected one of \"empty-file\", \"case-twins\""),
        "{said}"
    );
}

fn promoted() {
    let world = World::with(ROOM);
    let kernel = Path::new(AMD64).join("text/debian-installer/amd64/linux");
    let publish = |drop: &str, target: &str| {
        let manifest = manifest(target) + "[boot]\nkernel = \"k\"\ncmdline = \"iso={url}\"\n";
        world.drop_with(drop, &manifest, |image| {
            fs::copy(&kernel, image.join("k")).unwrap();
        });
        world.run_once();
        noted(&world, drop, "published")
    };
    let [other, at_arm, third] = ["arm64/g/a/other", "arm64/g/a/at-arm", "arm64/g/a/third"];
    assert_eq!(publish("right", TARGET), ["no-url"]);
    assert_eq!(publish("wrong", at_arm), ["wrong-architecture k", "no-url"]);

    for (from, to, expected) in [
        (TARGET, other, &["wrong-architecture k", "no-url"][..]),
        (at_arm, CANDIDATE, &["no-url"]),
    ] {
        let is_wrong = expected.len() == 2;
        for outcome in ["promoted", "unchanged"] {
            let promotion = order(&world, &["promote", from, to]);
            let run = text(&world.run(&["run", "--once"]));
            assert_eq!(noted(&world, &promotion, outcome), expected, "{to}");
            assert_eq!(noted_of(&world, to), expected, "{to}");
            let line = "the kernel `k` is for amd64, and the target for arm64";
            assert_eq!(run.contains(line), is_wrong, "{run}");
            assert_eq!(status(&world, &[to]).contains(line), is_wrong, "{to}");
        }
    }

    let config = fs::File::options().append(true).open(&world.config);
    let checks = b"[checks]\nrefuse = [\"wrong-architecture\"]\n";
    config.unwrap().write_all(checks).unwrap();
    let before = fs::read_link(world.published(other)).unwrap();
    for (from, to) in [(TARGET, third), (TARGET, other), (at_arm, third)] {
        let promotion = order(&world, &["promote", from, to]);
        world.run_once();
        let outcome = world.assert_outcome(&promotion, "rejected refused-note");
        let detail = "wrong-architecture: the kernel `k` is for amd64, and the target for arm64; \
                      expected an image without (checks.refuse)";
        assert_eq!(outcome["detail"], detail);
    }
    assert!(!world.published(third).exists());
    assert_eq!(fs::read_link(world.published(other)).unwrap(), before);
    // What is noted where the image comes from doesn't count.
    let promotion = order(&world, &["promote", at_arm, "amd64/g/a/again"]);
    world.run_once();
    assert_eq!(noted(&world, &promotion, "promoted"), ["no-url"]);
}

fn after_a_crash() {
    let world = World::with(ROOM);
    let boot = "[boot]\ncmdline = \"iso={url}/x.iso\"\n";
    world.drop_with("a", &(manifest(TARGET) + boot), |image| {
        for (path, bytes) in &BAD[..2] {
            fs::write(image.join(path), bytes).unwrap();
        }
    });
    let crash = |drop: &str, target: &str, outcome: &str| {
        let killed = output(
            world
                .command(&["run", "--once"])
                .env("NETBOOT_PUBLISHER_FAILPOINT", "outcome:1:kill"),
        );
        assert!(!killed.status.success());
        assert_eq!(world.outcome(drop), None);
        assert!(world.published(target).is_dir());
        world.run_once();
        let expected = ["empty-file linux", "no-url"];
        assert_eq!(noted(&world, drop, outcome), expected);
        assert_eq!(world.names("processing"), [""; 0]);
    };
    crash("a", TARGET, "published");
    let promotion = order(&world, &["promote", TARGET, CANDIDATE]);
    crash(&promotion, CANDIDATE, "promoted");
}
