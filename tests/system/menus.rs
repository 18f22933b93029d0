//! How an image boots: from the manifest to the menus.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::boot_configs::{assert_catalog_current, world};
use crate::lab::world::{World, manifest, test, text};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "the catalog says how an image boots, as its manifest or its files' names do",
            &[],
            the_catalog_says_how,
        ),
        test(
            "a manifest that names a kernel which is no file of the image is refused",
            &[],
            no_such_kernel,
        ),
        test(
            "the same image booted in another way is a generation of hard links, and of the kept ones the right one comes back",
            &[],
            another_way_is_another_generation,
        ),
        test(
            "submit says in the manifest how an image boots",
            &[],
            submit_says_how,
        ),
    ]
}

const TARGET: &str = "amd64/generic/bookworm/install";

fn catalog(world: &World) -> Vec<Value> {
    let text = fs::read(world.tree.join("catalog.json")).unwrap();
    let catalog: Value = serde_json::from_slice(&text).unwrap();
    catalog["images"].as_array().unwrap().clone()
}

/// A drop with these empty files, and this behind its manifest.
fn put(world: &World, name: &str, target: &str, more: &str, files: &[&str]) {
    world.drop_with(name, &format!("{}{more}", manifest(target)), |image| {
        for file in files {
            let path = image.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    });
}

fn the_catalog_says_how() {
    let world = world(&[], "");
    let said = "[boot]\nkernel = \"a/k\"\ninitrd = [\"i 1\", \"linux\"]\ncmdline = \"ip=dhcp {url} {path}\"\ntitle = \"T\"\n";
    put(
        &world,
        "1",
        "amd64/g/a/said",
        said,
        &["a/k", "i 1", "linux"],
    );
    put(
        &world,
        "2",
        "amd64/g/b/found",
        "",
        &["d/linux", "d/initrd.gz"],
    );
    put(
        &world,
        "3",
        "amd64/g/c/efi",
        "boot.efi = \"x.efi\"\n",
        &["x.efi", "linux"],
    );
    put(&world, "4", "amd64/g/d/none", "", &["x"]);
    world.run_once();
    let boot = |number: usize| catalog(&world)[number]["boot"].clone();
    let wanted = [
        json!({ "kernel": "a/k", "initrd": ["i 1", "linux"], "cmdline": "ip=dhcp {url} {path}", "title": "T", "efi": null }),
        json!({ "kernel": "d/linux", "initrd": ["d/initrd.gz"], "cmdline": null, "title": null, "efi": null }),
        json!({ "kernel": null, "initrd": [], "cmdline": null, "title": null, "efi": "x.efi" }),
        json!({ "kernel": null, "initrd": [], "cmdline": null, "title": null, "efi": null }),
    ];
    for (number, wanted) in wanted.iter().enumerate() {
        assert_eq!(boot(number), *wanted);
    }
    // A catalog of an older version, and one that somebody has changed, is made anew.
    let path = world.tree.join("catalog.json");
    let good = fs::read_to_string(&path).unwrap();
    let begin = good.find("\"boot\":").unwrap();
    let end = begin + good[begin..].find("\"files\"").unwrap();
    let without = [&good[..begin], &good[end..]].concat();
    for other in [
        without,
        good.replace("ip=dhcp", "init=/bin/sh"),
        good.replace("\"kernel\":\"d/linux\"", "\"kernel\":\"d/initrd.gz\""),
    ] {
        assert_ne!(other, good);
        fs::write(&path, other).unwrap();
        world.run_once();
        assert_eq!(fs::read_to_string(&path).unwrap(), good);
    }
    assert_catalog_current(&world);
}

fn no_such_kernel() {
    let world = world(&[], "");
    let cases = [
        (
            "kernel = \"linus\"",
            "`boot.kernel` names `linus`, which is no file of the image, nor a link to one",
        ),
        (
            "initrd = [\"linux\", \"d\"]",
            "`boot.initrd` names `d`, which",
        ),
        ("efi = \"to-folder\"", "`boot.efi` names `to-folder`, which"),
        (
            "kernel = \"to-folder/x\"",
            "`boot.kernel` names `to-folder/x`, which",
        ),
        ("kernel = \"../linux\"", "invalid `boot.kernel`"),
        ("kernle = \"linux\"", "unknown key `boot.kernle`"),
    ];
    let make = |image: &Path| {
        fs::create_dir(image.join("d")).unwrap();
        for file in ["linux", "d/x"] {
            fs::write(image.join(file), file).unwrap();
        }
        symlink("d", image.join("to-folder")).unwrap();
        symlink("../linux", image.join("d/to-file")).unwrap();
    };
    for (number, (key, expected)) in cases.iter().enumerate() {
        let name = format!("bad{number}");
        world.drop_with(&name, &format!("{}[boot]\n{key}\n", manifest(TARGET)), make);
        world.run_once();
        let outcome = world.assert_outcome(&name, "rejected bad-manifest");
        let detail = outcome["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{detail}");
    }
    let good = format!("{}boot.kernel = \"d/to-file\"\n", manifest(TARGET));
    world.drop_with("good", &good, make);
    world.run_once();
    world.assert_outcome("good", "published");
    assert_eq!(catalog(&world)[0]["boot"]["kernel"], "d/to-file");
}

fn another_way_is_another_generation() {
    let world = world(&[], "");
    let drop = |name: &str, more: &str| {
        put(&world, name, TARGET, more, &["linux", "initrd.gz"]);
        world.run_once();
        let outcome = world.outcome(name).unwrap();
        let word = |key: &str| outcome[key].as_str().unwrap().to_string();
        (word("outcome"), word("generation"), word("digest"))
    };
    let inode = || {
        fs::metadata(world.published(TARGET).join("linux"))
            .unwrap()
            .ino()
    };
    let (outcome, first, digest) = drop("1", "");
    assert_eq!(outcome, "published");
    // What an older version has written has no word of it.
    let record = world
        .published(TARGET)
        .with_file_name(format!("install@/{first}.toml"));
    assert!(!fs::read_to_string(&record).unwrap().contains("boot"));
    let file = inode();
    assert_eq!(drop("2", "").0, "unchanged");
    let titled = "[boot]\ntitle = \"T\"\n";
    let (outcome, second, same) = drop("3", titled);
    assert_eq!((&*outcome, &same, inode()), ("published", &digest, file));
    assert_ne!(second, first);
    assert_eq!(
        drop("4", titled),
        ("unchanged".to_string(), second.clone(), digest.clone())
    );
    assert_eq!(
        drop("5", "[boot]\n"),
        ("published".to_string(), first, digest.clone())
    );
    assert_eq!(drop("6", titled), ("published".to_string(), second, digest));
    let third = drop("7", "[boot]\ntitle = \"T\"\ncmdline = \"quiet\"\n");
    assert_eq!((&*third.0, inode()), ("published", file));
    let rolled = world.run(&["rollback", TARGET]);
    assert!(rolled.status.success(), "{}", text(&rolled));
    world.run_once();
    assert_eq!(catalog(&world)[0]["boot"]["cmdline"], Value::Null);
    assert_eq!(catalog(&world)[0]["boot"]["title"], "T");
    assert_catalog_current(&world);
}

fn submit_says_how() {
    let world = world(&[], "");
    let image = world.root.join("made");
    fs::create_dir(&image).unwrap();
    for file in ["k", "i", "j", "x.efi"] {
        fs::write(image.join(file), file).unwrap();
    }
    let image = image.to_str().unwrap();
    let target = ["--arch", "amd64", "--release", "r", "--purpose", "p"];
    let submit = |more: &[&str]| world.run(&[&["submit"], &target[..], more, &[image]].concat());
    for (bad, expected) in [
        (
            &["--kernel", "linux"][..],
            "`boot.kernel` names `linux`, which is no file of the image",
        ),
        (&["--efi", "x.efi", "--initrd", "i"], "cannot be used with"),
        (&["--title", " x"], "expected a text of 1 to 128 bytes"),
        (&["--cmdline", "a\nb"], "expected one line"),
    ] {
        let said = submit(bad);
        assert!(!said.status.success(), "{}", text(&said));
        assert!(text(&said).contains(expected), "{}", text(&said));
    }
    assert_eq!(world.names("incoming"), [""; 0]);
    let good = [
        "--kernel",
        "k",
        "--initrd",
        "i",
        "--initrd",
        "j",
        "--cmdline",
        "-x {url}",
        "--title",
        "T",
    ];
    let said = submit(&good);
    assert!(said.status.success(), "{}", text(&said));
    world.run_once();
    let wanted = json!({ "kernel": "k", "initrd": ["i", "j"], "cmdline": "-x {url}", "title": "T", "efi": null });
    assert_eq!(catalog(&world)[0]["boot"], wanted);
    assert!(submit(&["--efi", "x.efi"]).status.success());
    world.run_once();
    assert_eq!(catalog(&world)[0]["boot"]["efi"], "x.efi");
}
