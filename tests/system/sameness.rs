//! What is compared is what was published: an edited file is noticed, and a file that did not change is
//! stored once.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::world::{World, assert_same_content, manifest, names, snapshot, test, text, walk};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "amd64/generic/noble/other";

/// More than one share of a comparison, and than is hashed by the thread that reads.
const LARGE: usize = 9 << 20;
/// Neither a whole number of blocks.
const MIDDLE: usize = 400_003;

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test(
            "files that did not change between two submitted images are stored once",
            &[],
            submitted_twice,
        ),
        test(
            "a manifest that lists another checksum for an unchanged file is refused",
            &[],
            lying_manifest,
        ),
        test(
            "the last byte of a file counts, in the drop and in the tree",
            &[],
            last_byte,
        ),
        test(
            "an edit that left no time behind is published when its checksum is listed",
            &[],
            hidden_edit,
        ),
        test(
            "an edited file is not shared with the next generation",
            &[],
            edited_is_not_shared,
        ),
        test(
            "a tree whose files have lost their exact times is left as it is",
            &[],
            restored,
        ),
        test(
            "another version of the same image is a generation of its own that stores nothing twice",
            &[],
            another_version,
        ),
        test(
            "a kept generation that machines can't read is not used again",
            &[],
            kept_with_another_mode,
        ),
    ];
    for (sentence, edit) in EDITS {
        let sentence = format!("{sentence} is published when it is dropped as well");
        tests.push(test(&sentence, &[], || edited(*edit)));
    }
    tests
}

fn another_version() {
    let world = World::new();
    let drop = |name: &str, version: &str, expected: &str| {
        let manifest = format!("{}version = {version:?}\n", manifest(TARGET));
        world.drop_with(name, &manifest, make_image);
        world.run_once();
        let outcome = world.assert_outcome(name, expected);
        outcome["generation"].as_str().unwrap().to_string()
    };
    let shown = || {
        let status = text(&world.run(&["status"]));
        let line = status.lines().find(|line| line.contains(TARGET));
        line.unwrap().split_whitespace().nth(2).unwrap().to_string()
    };
    let first = drop("first", "1.0", "published");
    assert_eq!(drop("same", "1.0", "unchanged"), first);
    assert_eq!(shown(), "1.0");
    let inode = |generation: &str| {
        let generations = world.published(&format!("{TARGET}@"));
        let stat = fs::metadata(generations.join(generation).join("linux")).unwrap();
        stat.ino()
    };
    let second = drop("second", "2.0", "published");
    assert_ne!(second, first);
    assert_eq!(shown(), "2.0");
    assert_eq!(inode(&second), inode(&first), "stored twice\n{world}");
    // The kept generation is used again, not that of the other version.
    assert_eq!(drop("third", "1.0", "published"), first);
    assert_eq!(shown(), "1.0");
    assert_eq!(drop("fourth", "2.0", "published"), second);
    world.assert_at_rest();
}

/// Writes an image with files of every size, nested, and with a link.
fn make_image(at: &Path) {
    fs::create_dir_all(at.join("boot/grub")).unwrap();
    fs::write(at.join("linux"), vec![1; LARGE]).unwrap();
    fs::write(at.join("boot/initrd.gz"), vec![2; MIDDLE]).unwrap();
    fs::write(at.join("boot/grub/grub.cfg"), "menu").unwrap();
    fs::write(at.join("boot/grub/unicode.pf2"), "font").unwrap();
    fs::write(at.join("empty"), "").unwrap();
    fs::write(at.join("version"), "1").unwrap();
    symlink("boot/grub", at.join("grub")).unwrap();
}

/// A world with the image, which is published, and in a folder of its own.
fn published() -> (World, PathBuf, Value) {
    let world =
        World::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nkeep = 9\nmin_age = \"0s\"\n");
    let image = world.root.join("image");
    make_image(&image);
    let outcome = drop_image(&world, "first", TARGET, &image, "published");
    (world, image, outcome)
}

fn drop_image(world: &World, name: &str, target: &str, image: &Path, expected: &str) -> Value {
    world.drop_directory(name, target, image);
    world.run_once();
    world.assert_outcome(name, expected)
}

fn generation(world: &World) -> PathBuf {
    world.published(TARGET).canonicalize().unwrap()
}

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// The generations in which `verify` finds something damaged.
fn damaged(world: &World) -> Vec<String> {
    let output = world.run(&["verify", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damages = report["damages"].as_array().unwrap().iter();
    let mut found: Vec<_> = damages
        .map(|damage| damage["generation"].as_str().unwrap().to_string())
        .collect();
    found.dedup();
    found
}

fn submit(world: &World, image: &Path) {
    let arguments = "submit --arch amd64 --release noble --purpose install";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let output = world.run(&[&arguments[..], &[image.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}\n{world}", text(&output));
    world.run_once();
}

fn submitted_twice() {
    let (world, image, _) = published();
    fs::write(image.join("version"), "2").unwrap();
    submit(&world, &image);
    let first = generation(&world);
    fs::write(image.join("version"), "3").unwrap();
    submit(&world, &image);
    let second = generation(&world);
    assert_ne!(first, second, "{world}");
    assert_same_content(&second, &image);
    for path in walk(&second).iter().filter(|path| path.is_file()) {
        let name = path.strip_prefix(&second).unwrap();
        let is_shared = inode(path) == inode(first.join(name));
        assert_eq!(is_shared, name != Path::new("version"), "{name:?}\n{world}");
    }
    world.assert_at_rest();
}

fn lying_manifest() {
    let (world, image, _) = published();
    let sums = walk(&image)
        .into_iter()
        .filter(|path| path.is_file() && !path.is_symlink());
    let sums = sums.map(|path| {
        let name = path.strip_prefix(&image).unwrap().display().to_string();
        let bytes = if name == "linux" {
            vec![0; LARGE]
        } else {
            fs::read(&path).unwrap()
        };
        format!(
            "{name:?} = {{ sha256 = \"{}\" }}\n",
            netboot_publisher::Digest::of(&bytes)
        )
    });
    let text = format!("{}[files]\n{}", manifest(TARGET), sums.collect::<String>());
    let before = generation(&world);
    world.drop_with("lies", &text, make_image);
    world.run_once();
    let outcome = world.assert_outcome("lies", "rejected checksum-mismatch");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.starts_with("`linux` has sha256 "), "{detail}");
    assert_eq!(generation(&world), before, "{world}");
    // All files are right, and a link is listed as one.
    let right = netboot_publisher::Digest::of(&vec![1; LARGE]);
    let wrong = netboot_publisher::Digest::of(&vec![0; LARGE]);
    let text = text.replace(&wrong.to_string(), &right.to_string());
    let text = format!("{text}\"grub\" = {{ sha256 = \"{right}\" }}\n");
    world.drop_with("a-link", &text, make_image);
    world.run_once();
    world.assert_outcome("a-link", "rejected checksum-mismatch");
    assert_eq!(generation(&world), before, "{world}");
    let generations = names(&world.tree.join(format!("{TARGET}@")));
    assert_eq!(generations.len(), 2, "one and its record: {generations:?}");
    world.assert_at_rest();
}

/// Changes the last byte, and no time.
fn flip_last(path: &Path) {
    let stat = fs::metadata(path).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, stat.len() - 1).unwrap();
    file.write_all_at(&[byte[0] ^ 1], stat.len() - 1).unwrap();
    let times = FileTimes::new().set_modified(stat.modified().unwrap());
    file.set_times(times).unwrap();
}

fn last_byte() {
    for name in ["boot/initrd.gz", "linux"] {
        let (world, image, _) = published();
        flip_last(&image.join(name));
        drop_image(&world, "dropped", TARGET, &image, "published");
        assert_same_content(&world.published(TARGET), &image);
        drop_image(&world, "again", TARGET, &image, "unchanged");
        // As a failing disk does.
        flip_last(&generation(&world).join(name));
        drop_image(&world, "repair", TARGET, &image, "published");
        assert_same_content(&world.published(TARGET), &image);
    }
}

fn hidden_edit() {
    let (world, image, first) = published();
    let old = generation(&world);
    for name in ["linux", "boot/initrd.gz"] {
        flip_last(&old.join(name));
        flip_last(&image.join(name));
    }
    submit(&world, &image);
    assert_ne!(generation(&world), old, "{world}");
    assert_same_content(&world.published(TARGET), &image);
    assert_eq!(damaged(&world), [first["generation"].as_str().unwrap()]);
}

fn edited_is_not_shared() {
    let (world, image, first) = published();
    let old = generation(&world);
    for image in [&old, &image] {
        fs::write(image.join("boot/initrd.gz"), vec![3; MIDDLE]).unwrap();
    }
    fs::write(image.join("version"), "2").unwrap();
    drop_image(&world, "second", TARGET, &image, "published");
    let new = generation(&world);
    assert_same_content(&new, &image);
    let is_shared = |name| inode(new.join(name)) == inode(old.join(name));
    assert!(!is_shared("boot/initrd.gz"), "{world}");
    assert!(is_shared("linux") && is_shared("empty"), "{world}");
    assert_eq!(damaged(&world), [first["generation"].as_str().unwrap()]);
}

fn restored() {
    let (world, image, first) = published();
    for path in walk(&generation(&world)).iter().filter(|it| it.is_file()) {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let file = File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    }
    let before = snapshot(&world.tree);
    let again = drop_image(&world, "again", TARGET, &image, "unchanged");
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(snapshot(&world.tree), before, "the tree was touched");
    let old = generation(&world);
    fs::write(image.join("version"), "2").unwrap();
    drop_image(&world, "second", TARGET, &image, "published");
    assert_eq!(
        inode(old.join("linux")),
        inode(generation(&world).join("linux"))
    );
    assert_eq!(damaged(&world), [""; 0]);
}

fn kept_with_another_mode() {
    let (world, image, _) = published();
    let old = generation(&world);
    fs::write(image.join("version"), "2").unwrap();
    drop_image(&world, "second", TARGET, &image, "published");
    fs::set_permissions(old.join("linux"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(image.join("version"), "1").unwrap();
    drop_image(&world, "third", TARGET, &image, "published");
    assert_ne!(generation(&world), old, "{world}");
    assert_same_content(&world.published(TARGET), &image);
    let mode = fs::metadata(generation(&world).join("linux"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o644, "{world}");
}

/// What somebody does to a published image, and then to what they drop.
type Edit = fn(&Path);

const EDITS: &[(&str, Edit)] = &[
    ("a small file that was edited in place", |image| {
        fs::write(image.join("boot/grub/grub.cfg"), "MENU").unwrap();
    }),
    ("a large file that was edited in place", |image| {
        let file = File::options().write(true).open(image.join("linux"));
        file.unwrap().write_all_at(&[9], 5_000_000).unwrap();
    }),
    (
        "a file that was edited by a tool which keeps its seconds",
        |image| {
            let path = image.join("boot/initrd.gz");
            let seconds = fs::metadata(&path).unwrap().mtime().unsigned_abs();
            fs::write(&path, vec![4; MIDDLE]).unwrap();
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let file = File::options().write(true).open(path).unwrap();
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        },
    ),
    (
        "a file that has taken another's place with its own time",
        |image| {
            // As by `cp -p` and `mv`: the bytes and the time are those of a published file, but of another.
            fs::copy(image.join("boot/grub/unicode.pf2"), image.join("x")).unwrap();
            let modified = fs::metadata(image.join("boot/grub/unicode.pf2")).unwrap();
            let file = File::options().write(true).open(image.join("x")).unwrap();
            let times = FileTimes::new().set_modified(modified.modified().unwrap());
            file.set_times(times).unwrap();
            fs::rename(image.join("x"), image.join("boot/grub/grub.cfg")).unwrap();
        },
    ),
    ("a file that was added", |image| {
        fs::write(image.join("boot/more"), "more").unwrap();
    }),
    ("a file that was removed", |image| {
        fs::remove_file(image.join("version")).unwrap();
    }),
    ("a folder that was added", |image| {
        fs::create_dir(image.join("boot/more")).unwrap();
    }),
    ("a link that was led elsewhere", |image| {
        fs::remove_file(image.join("grub")).unwrap();
        symlink("boot", image.join("grub")).unwrap();
    }),
];

fn edited(edit: Edit) {
    let (world, image, first) = published();
    let old = generation(&world);
    edit(&old);
    edit(&image);
    let second = drop_image(&world, "second", TARGET, &image, "published");
    assert_same_content(&world.published(TARGET), &image);
    // The digest is that of these bytes, wherever they are published.
    let other = drop_image(&world, "other", OTHER, &image, "published");
    assert_eq!(second["digest"], other["digest"]);
    assert_ne!(second["digest"], first["digest"]);
    assert_eq!(damaged(&world), [first["generation"].as_str().unwrap()]);

    let before = snapshot(&world.tree);
    let third = drop_image(&world, "third", TARGET, &image, "unchanged");
    assert_eq!(third["digest"], second["digest"]);
    assert_eq!(third["generation"], second["generation"]);
    assert_eq!(snapshot(&world.tree), before, "the tree was touched");
}
