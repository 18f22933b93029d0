//! How an image boots: from the manifest to the menus.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::boot_configs::{SHIPPED, assert_catalog_current, shipped, world};
use crate::lab::world::{Needs, World, manifest, test, text};

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
            "show and diff say how an image boots",
            &[],
            shown_by_commands,
        ),
        test(
            "submit says in the manifest how an image boots",
            &[],
            submit_says_how,
        ),
        test(
            "the shipped menus have an entry of its own kind for every upstream's image",
            &[],
            entries_of_upstreams,
        ),
        test(
            "a hostile title or command line is text in every menu, or not in that menu",
            &[Needs::Program("grub-script-check")],
            hostile_texts,
        ),
        test(
            "an image that needs a URL is left out where there is none",
            &[],
            no_url,
        ),
        test(
            "each architecture has its own output, and an empty one when its last image has gone",
            &[],
            for_each_architecture,
        ),
        test(
            "an architecture's empty output stays the daemon's, and what somebody else has put there is theirs",
            &[],
            whose_outputs_of_architectures,
        ),
        test(
            "a target in the way of any architecture's output is refused",
            &[],
            outputs_of_architectures_are_no_targets,
        ),
        test(
            "a text that no filter can write ends no rendering, whatever the template does before",
            &[],
            a_bad_text_is_nobody_elses,
        ),
    ]
}

const TARGET: &str = "amd64/generic/bookworm/install";

pub fn catalog(world: &World) -> Vec<Value> {
    let text = fs::read(world.tree.join("catalog.json")).unwrap();
    let catalog: Value = serde_json::from_slice(&text).unwrap();
    catalog["images"].as_array().unwrap().clone()
}

pub fn pinned(world: &World, target: &str) -> String {
    let pointer = fs::read_link(world.published(target)).unwrap();
    let (folder, _) = target.rsplit_once('/').unwrap();
    format!("netboot/{folder}/{}", pointer.to_str().unwrap())
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

fn menu(world: &World, output: &str) -> String {
    fs::read_to_string(world.root.join("tftp").join(output)).unwrap()
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

fn shown_by_commands() {
    let world = world(&[], "");
    let boot = "kernel = \"linux\"\ninitrd = [\"ucode.img\", \"initrd.gz\"]\ntitle = \"T\"\n";
    let efi = "efi = \"linux\"\n";
    for (name, more) in [("1", ""), ("2", boot), ("3", efi)] {
        let more = format!("[boot]\n{more}");
        put(
            &world,
            name,
            TARGET,
            &more,
            &["linux", "initrd.gz", "ucode.img"],
        );
        world.run_once();
    }
    let generation = |name: &str| {
        let outcome = world.assert_outcome(name, "published");
        outcome["generation"].as_str().unwrap().to_string()
    };
    let [one, two, three] = ["1", "2", "3"].map(generation);
    let indented = |text: &str, blanks: usize| {
        let lines = text.lines().map(|line| " ".repeat(blanks) + line + "\n");
        lines.collect::<String>()
    };
    let boots = |from: &str, to: &str| {
        let output = world.run(&["diff", TARGET, from, to]);
        let shown = String::from_utf8(output.stdout).unwrap();
        let lines = shown.lines().filter(|line| line.starts_with("     "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let [nothing, boot_lines, efi_lines] =
        ["", boot, efi].map(|it| indented(&format!("[boot]\n{it}"), 5));
    assert_eq!(boots(&one, &two), nothing + &boot_lines);
    assert_eq!(boots(&two, &three), boot_lines + &efi_lines);
    assert_eq!(boots(&two, &two), "");
    let found = "kernel = \"linux\"\ninitrd = [\"initrd.gz\"]\n";
    put(&world, "4", TARGET, "[boot]\ntitle = \"T\"\n", &["data"]);
    world.run_once();
    let nothing = "title = \"T\"\nnothing: no file has the usual name of a kernel\n";
    let all = [("1", found), ("2", boot), ("3", efi), ("4", nothing)];
    for (name, boot) in all {
        let output = world.run(&["show", name]);
        let shown = String::from_utf8(output.stdout).unwrap();
        let expected = indented(boot, 12).replacen("            ", "      Boot: ", 1);
        assert!(shown.contains(&expected), "{shown}");
    }
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

/// Of an image: its name, what stands behind its manifest, its files; and of each menu the lines of its
/// entry that load something, with `{}` for the pinned path.
pub type Upstream = (
    &'static str,
    &'static str,
    &'static [&'static str],
    [&'static [&'static str]; 3],
);

pub const ARGUMENTS: &str = "console=ttyS0,115200n8 console=tty0";

#[rustfmt::skip] // Each menu's lines on a line.
pub const UPSTREAMS: &[Upstream] = &[
    ("debian", "", &["debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz", "version.info"], [
        &["LINUX ::/{}/debian-installer/amd64/linux", "INITRD ::/{}/debian-installer/amd64/initrd.gz", "APPEND ARGUMENTS"],
        &["linux '/{}/debian-installer/amd64/linux' ARGUMENTS", "initrd '/{}/debian-installer/amd64/initrd.gz'"],
        &["kernel --name kernel /{}/debian-installer/amd64/linux initrd=initrd.magic ARGUMENTS  || goto failed",
          "initrd --name initrd.magic /{}/debian-installer/amd64/initrd.gz || goto failed"],
    ]),
    ("ubuntu", "[boot]\ntitle = \"Ubuntu 24.04's installer\"\ncmdline = \"ip=dhcp url={url}/x.iso autoinstall ds=nocloud;s=http://x/\"\n",
     &["casper/vmlinuz", "casper/initrd", "x.iso"], [
        &["LINUX ::/{}/casper/vmlinuz", "INITRD ::/{}/casper/initrd",
          "APPEND ARGUMENTS ip=dhcp url=http://boot.example/{}/x.iso autoinstall ds=nocloud;s=http://x/"],
        &["linux '/{}/casper/vmlinuz' ARGUMENTS ip=dhcp url=http://boot.example/{}/x.iso autoinstall 'ds=nocloud;s=http://x/'",
          "initrd '/{}/casper/initrd'"],
        &["kernel --name kernel /{}/casper/vmlinuz initrd=initrd.magic ARGUMENTS ip=dhcp url=http://boot.example/{}/x.iso autoinstall ds=nocloud;s=http://x/ || goto failed",
          "initrd --name initrd.magic /{}/casper/initrd || goto failed"],
    ]),
    ("fedora", "[boot]\ncmdline = \"inst.stage2={url} quiet\"\n", &["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/install.img"], [
        &["LINUX ::/{}/images/pxeboot/vmlinuz", "INITRD ::/{}/images/pxeboot/initrd.img",
          "APPEND ARGUMENTS inst.stage2=http://boot.example/{} quiet"],
        &["linux '/{}/images/pxeboot/vmlinuz' ARGUMENTS inst.stage2=http://boot.example/{} quiet", "initrd '/{}/images/pxeboot/initrd.img'"],
        &["kernel --name kernel /{}/images/pxeboot/vmlinuz initrd=initrd.magic ARGUMENTS inst.stage2=http://boot.example/{} quiet || goto failed",
          "initrd --name initrd.magic /{}/images/pxeboot/initrd.img || goto failed"],
    ]),
    ("rocky", "", &["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"], [
        &["LINUX ::/{}/images/pxeboot/vmlinuz", "INITRD ::/{}/images/pxeboot/initrd.img", "APPEND ARGUMENTS"],
        &["linux '/{}/images/pxeboot/vmlinuz' ARGUMENTS", "initrd '/{}/images/pxeboot/initrd.img'"],
        &["kernel --name kernel /{}/images/pxeboot/vmlinuz initrd=initrd.magic ARGUMENTS  || goto failed",
          "initrd --name initrd.magic /{}/images/pxeboot/initrd.img || goto failed"],
    ]),
    ("opensuse", "", &["boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"], [
        &["LINUX ::/{}/boot/x86_64/loader/linux", "INITRD ::/{}/boot/x86_64/loader/initrd", "APPEND ARGUMENTS"],
        &["linux '/{}/boot/x86_64/loader/linux' ARGUMENTS", "initrd '/{}/boot/x86_64/loader/initrd'"],
        &["kernel --name kernel /{}/boot/x86_64/loader/linux initrd=initrd.magic ARGUMENTS  || goto failed",
          "initrd --name initrd.magic /{}/boot/x86_64/loader/initrd || goto failed"],
    ]),
    ("alpine", "[boot]\ncmdline = \"alpine_repo={url}/apks modloop={url}/boot/modloop-lts\"\n",
     &["boot/vmlinuz-lts", "boot/initramfs-lts", "boot/modloop-lts"], [
        &["LINUX ::/{}/boot/vmlinuz-lts", "INITRD ::/{}/boot/initramfs-lts",
          "APPEND ARGUMENTS alpine_repo=http://boot.example/{}/apks modloop=http://boot.example/{}/boot/modloop-lts"],
        &["linux '/{}/boot/vmlinuz-lts' ARGUMENTS alpine_repo=http://boot.example/{}/apks modloop=http://boot.example/{}/boot/modloop-lts",
          "initrd '/{}/boot/initramfs-lts'"],
        &["kernel --name kernel /{}/boot/vmlinuz-lts initrd=initrd.magic ARGUMENTS alpine_repo=http://boot.example/{}/apks modloop=http://boot.example/{}/boot/modloop-lts || goto failed",
          "initrd --name initrd.magic /{}/boot/initramfs-lts || goto failed"],
    ]),
    ("arch", "[boot]\nkernel = \"arch/boot/x86_64/vmlinuz-linux\"\ninitrd = [\"arch/boot/amd-ucode.img\", \"arch/boot/x86_64/initramfs-linux.img\"]\n\
              cmdline = \"archiso_http_srv={url}/ initrd=x\"\n",
     &["arch/boot/amd-ucode.img", "arch/boot/x86_64/initramfs-linux.img", "arch/boot/x86_64/vmlinuz-linux"], [
        &["LINUX ::/{}/arch/boot/x86_64/vmlinuz-linux", "INITRD ::/{}/arch/boot/amd-ucode.img,::/{}/arch/boot/x86_64/initramfs-linux.img",
          "APPEND ARGUMENTS archiso_http_srv=http://boot.example/{}/ initrd=x"],
        &["linux '/{}/arch/boot/x86_64/vmlinuz-linux' ARGUMENTS archiso_http_srv=http://boot.example/{}/ initrd=x",
          "initrd '/{}/arch/boot/amd-ucode.img' '/{}/arch/boot/x86_64/initramfs-linux.img'"],
        &["kernel --name kernel /{}/arch/boot/x86_64/vmlinuz-linux initrd=initrd1 initrd=initrd2 ARGUMENTS archiso_http_srv=http://boot.example/{}/ initrd=x || goto failed",
          "initrd --name initrd1 /{}/arch/boot/amd-ucode.img || goto failed",
          "initrd --name initrd2 /{}/arch/boot/x86_64/initramfs-linux.img || goto failed"],
    ]),
    ("nixos", "[boot]\ncmdline = \"init=/nix/store/x-nixos/init loglevel=4\"\n", &["bzImage", "initrd"], [
        &["LINUX ::/{}/bzImage", "INITRD ::/{}/initrd", "APPEND ARGUMENTS init=/nix/store/x-nixos/init loglevel=4"],
        &["linux '/{}/bzImage' ARGUMENTS init=/nix/store/x-nixos/init loglevel=4", "initrd '/{}/initrd'"],
        &["kernel --name kernel /{}/bzImage initrd=initrd.magic ARGUMENTS init=/nix/store/x-nixos/init loglevel=4 || goto failed",
          "initrd --name initrd.magic /{}/initrd || goto failed"],
    ]),
    ("talos", "[boot]\ncmdline = \"talos.platform=metal slab_nomerge\"\n", &["vmlinuz-amd64", "initramfs-amd64.xz"], [
        &["LINUX ::/{}/vmlinuz-amd64", "INITRD ::/{}/initramfs-amd64.xz", "APPEND ARGUMENTS talos.platform=metal slab_nomerge"],
        &["linux '/{}/vmlinuz-amd64' ARGUMENTS talos.platform=metal slab_nomerge", "initrd '/{}/initramfs-amd64.xz'"],
        &["kernel --name kernel /{}/vmlinuz-amd64 initrd=initrd.magic ARGUMENTS talos.platform=metal slab_nomerge || goto failed",
          "initrd --name initrd.magic /{}/initramfs-amd64.xz || goto failed"],
    ]),
    ("flatcar", "", &["flatcar_production_pxe.vmlinuz", "flatcar_production_pxe_image.cpio.gz", "flatcar_production_pxe.vmlinuz.sig"], [
        &["LINUX ::/{}/flatcar_production_pxe.vmlinuz", "INITRD ::/{}/flatcar_production_pxe_image.cpio.gz", "APPEND ARGUMENTS"],
        &["linux '/{}/flatcar_production_pxe.vmlinuz' ARGUMENTS", "initrd '/{}/flatcar_production_pxe_image.cpio.gz'"],
        &["kernel --name kernel /{}/flatcar_production_pxe.vmlinuz initrd=initrd.magic ARGUMENTS  || goto failed",
          "initrd --name initrd.magic /{}/flatcar_production_pxe_image.cpio.gz || goto failed"],
    ]),
    ("winpe", "[boot]\ntitle = \"Windows PE\"\n", &["wimboot", "bootmgr", "Boot/BCD", "Boot/boot.sdi", "sources/boot.wim"], [
        &[],
        &[],
        &["kernel --name kernel /{}/wimboot  || goto failed",
          "initrd --name bootmgr /{}/bootmgr bootmgr || goto failed",
          "initrd --name BCD /{}/Boot/BCD BCD || goto failed",
          "initrd --name boot.sdi /{}/Boot/boot.sdi boot.sdi || goto failed",
          "initrd --name boot.wim /{}/sources/boot.wim boot.wim || goto failed"],
    ]),
    ("memtest", "", &["memtest86+x64.efi", "memtest86+x64.bin"], [
        &["LINUX ::/{}/memtest86+x64.efi", "APPEND ARGUMENTS"],
        &["linux '/{}/memtest86+x64.efi' ARGUMENTS"],
        &["kernel --name kernel /{}/memtest86+x64.efi ARGUMENTS  || goto failed"],
    ]),
    ("uki", "[boot]\nefi = \"a b.efi\"\ncmdline = \"quiet x=$y\"\ntitle = \"A unified kernel image\"\n", &["a b.efi"], [
        &[],
        &["chainloader '/{}/a b.efi' 'quiet x=$y'"],
        &["kernel --name program /{}/a%20b.efi quiet x=$y || goto failed"],
    ]),
];

/// The lines of a menu that belong to an image's entry, without those that check a checksum.
fn entry(text: &str, pinned: &str, target: &str) -> Vec<String> {
    let begins = [
        format!("LABEL {target}"),
        format!("--id '{target}' {{"),
        format!(":{target}"),
    ];
    let mut lines = text.lines();
    let found = lines.any(|line| {
        begins
            .iter()
            .any(|begin| line == begin || line.ends_with(&**begin))
    });
    let lines = lines.take_while(|line| !line.is_empty() && *line != "}" && found);
    let words = [
        "LINUX",
        "INITRD",
        "APPEND",
        "linux",
        "initrd",
        "chainloader",
        "kernel",
    ];
    let loads = |line: &&str| words.contains(&line.split(' ').next().unwrap());
    let lines = lines.map(str::trim_start).filter(loads);
    lines.map(|line| line.replace(pinned, "{}")).collect()
}

fn entries_of_upstreams() {
    let world = with_url(shipped());
    let target = |name: &str| format!("amd64/generic/{name}/install");
    for (name, more, files, _) in UPSTREAMS {
        put(&world, name, &target(name), more, files);
    }
    world.run_once();
    for (number, (_, output)) in SHIPPED.iter().enumerate() {
        let text = menu(&world, output);
        for (name, _, files, expected) in UPSTREAMS {
            let pinned = pinned(&world, &target(name));
            let found = entry(&text, &pinned, &target(name));
            let wanted: Vec<_> = expected[number]
                .iter()
                .map(|line| line.replace("ARGUMENTS", ARGUMENTS))
                .collect();
            assert_eq!(found, wanted, "{output} {name}\n{text}");
            // What iPXE loads it compares.
            for file in *files {
                let path = format!("/{{}}/{}", file.replace(' ', "%20"));
                let loads = |line: &String| line.split(' ').nth(3) == Some(&path);
                let checked = format!("iseq ${{sum:hexraw}} {} || goto failed", sha256(file));
                let is_ipxe = output.ends_with("ipxe");
                assert_eq!(
                    text.contains(&checked),
                    is_ipxe && found.iter().any(loads),
                    "{name} {file}\n{text}"
                );
            }
        }
    }
    let pxelinux = menu(&world, SHIPPED[0].1);
    assert!(
        pxelinux.contains("\n  MENU LABEL Ubuntu 24.04's installer\n"),
        "{pxelinux}"
    );
    let grub = menu(&world, SHIPPED[1].1);
    let titled = "menuentry 'Ubuntu 24.04'\\''s installer' --id 'amd64/generic/ubuntu/install' {";
    assert!(grub.contains(titled), "{grub}");
    let efi = "if [ \"$grub_cpu\" = 'x86_64' -a \"$grub_platform\" = 'efi' ]; then\nmenuentry 'A unified kernel image'";
    assert!(grub.contains(efi), "{grub}");
    let ipxe = menu(&world, SHIPPED[2].1);
    let efi = "iseq ${cpu} x86_64 && iseq ${platform} efi && item amd64/generic/uki/install A unified kernel image ||";
    assert!(ipxe.contains(efi), "{ipxe}");
}

fn sha256(text: &str) -> String {
    netboot_publisher::Digest::of(text.as_bytes()).to_string()
}

/// The same world, with a web server for its root.
pub fn with_url(world: World) -> World {
    let settings = fs::read_to_string(&world.config).unwrap();
    let settings = settings.replace("[tftp]\n", "[tftp]\nurl = \"http://boot.example\"\n");
    fs::write(&world.config, settings).unwrap();
    world
}

/// A title, a command line, and whether each of the three menus has them.
pub const HOSTILE: &[(&str, &str, [bool; 3])] = &[
    ("it's \"x\" $y; { } \\ü", "quiet", [true, true, true]),
    ("a; reboot", "a;reboot 'b", [true, false, true]),
    ("x ; reboot", "quiet", [true, true, false]),
    ("${boot}", "quiet", [true, true, false]),
    ("a || reboot", "quiet", [true, true, false]),
    ("a^b", "quiet", [false, true, true]),
    (
        "plain",
        "x=\"a b\" y=$(reboot) {z} `reboot`",
        [true, true, true],
    ),
    ("plain", "&& reboot", [true, true, false]),
    ("plain", "#reboot", [true, true, false]),
    ("plain", "a ${net0/mac} b", [true, true, false]),
    ("plain", "back\\slash", [true, false, true]),
    ("plain", "-", [false, true, true]),
    ("a -- --gap -x %d", "-- --name x ü=%s", [true, true, true]),
];

fn hostile_texts() {
    let world = shipped();
    let target = |number: usize| format!("amd64/generic/r{number}/install");
    for (number, (title, cmdline, _)) in HOSTILE.iter().enumerate() {
        let more = format!(
            "[boot]\ntitle = {}\ncmdline = {}\n",
            toml(title),
            toml(cmdline)
        );
        put(
            &world,
            &number.to_string(),
            &target(number),
            &more,
            &["linux", "initrd.gz"],
        );
    }
    let said = world.run(&["run", "--once"]);
    assert!(said.status.success(), "{}", text(&said));
    for (menu_number, (_, name)) in SHIPPED.iter().enumerate() {
        let text = menu(&world, name);
        for (number, case) in HOSTILE.iter().enumerate() {
            world.assert_outcome(&number.to_string(), "published");
            let is_there =
                !entry(&text, &pinned(&world, &target(number)), &target(number)).is_empty();
            assert_eq!(is_there, case.2[menu_number], "{name} {case:?}\n{text}");
        }
    }
    let told = text(&said);
    let left_out = "rendering \"grub/grub.cfg\": left out: amd64/generic/r1/install (GRUB can't have `'` or \
                    `\\` in a command line, as in `a;reboot \\'b`), amd64/generic/r10/install (";
    assert!(told.contains(left_out), "{told}");
    assert!(
        told.contains("iPXE can't have `${`, as in `${boot}`"),
        "{told}"
    );
    let mut check = Command::new("grub-script-check");
    let checked = crate::lab::world::output(
        check
            .arg("--verbose")
            .arg(world.root.join("tftp/grub/grub.cfg")),
    );
    assert!(checked.status.success(), "{}", self::text(&checked));
    let grub = menu(&world, "grub/grub.cfg");
    let line = format!(" {ARGUMENTS} 'x=a b' 'y=$(reboot)' '{{z}}' '`reboot`'\n");
    assert!(grub.contains(&line), "{grub}");
    assert!(
        grub.contains("menuentry 'it'\\''s \"x\" $y; { } \\ü' --id"),
        "{grub}"
    );
}

pub fn toml(text: &str) -> String {
    format!("{:?}", text).replace("\\'", "'")
}

fn no_url() {
    let world = shipped();
    let cmdline = "[boot]\ncmdline = \"root={url}/x\"\n";
    put(&world, "1", TARGET, cmdline, &["linux"]);
    let other = "amd64/generic/other/install";
    let path = "[boot]\ncmdline = \"root=/{path}/x\"\n";
    put(&world, "2", other, path, &["linux"]);
    let said = text(&world.run(&["run", "--once"]));
    for (_, output) in SHIPPED {
        let expected = format!("rendering {output:?}: left out: {TARGET} (");
        assert!(said.contains(&expected), "{said}");
        let text = menu(&world, output);
        assert!(!text.contains(TARGET), "{text}");
        let placed = format!("root=/{}/x", pinned(&world, other));
        assert!(text.contains(&placed), "{text}");
    }
    assert!(
        said.contains("can't have `{url}` without `tftp.url` (no-url), as in `root={url}/x`"),
        "{said}"
    );
    let world = with_url(world);
    let said = text(&world.run(&["run", "--once"]));
    assert!(!said.contains("left out"), "{said}");
    for (_, output) in SHIPPED {
        let text = menu(&world, output);
        let placed = format!("root=http://boot.example/{}/x", pinned(&world, TARGET));
        assert!(text.contains(&placed), "{text}");
    }
}

const OF_ARCH: &str =
    "{{ arch }}{% for image in images %} {{ image.target }}{% endfor %} {{ url }}\n";

const EACH: &[(&str, &str)] = &[("menu.j2", "d-i/{arch}/menu\"\nfor_each = \"arch")];

/// The output of an architecture.
fn of_arch(world: &World, arch: &str) -> PathBuf {
    world.root.join(format!("tftp/d-i/{arch}/menu"))
}

fn shown(world: &World, arch: &str) -> String {
    fs::read_to_string(of_arch(world, arch)).unwrap()
}

fn withdraw(world: &World, target: &str) {
    let withdrawn = world.run(&["withdraw", target]);
    assert!(withdrawn.status.success(), "{}", text(&withdrawn));
    world.run(&["run", "--once"]);
    assert!(!world.published(target).exists());
}

fn for_each_architecture() {
    let world = world_for_each(EACH);
    fs::write(world.root.join("menu.j2"), OF_ARCH).unwrap();
    let said = text(&world.run(&["check-config"]));
    assert!(said.contains(": good"), "{said}");
    // The time will come when there is no image any more.
    let first = "{{ arch }} {{ images[0].target }}";
    fs::write(world.root.join("menu.j2"), first).unwrap();
    let said = text(&world.run(&["check-config"]));
    assert!(said.contains("undefined value"), "{said}");
    fs::write(world.root.join("menu.j2"), OF_ARCH).unwrap();
    for (name, target) in [
        ("1", "amd64/g/a/x"),
        ("2", "amd64/g/b/x"),
        ("3", "arm64/g/a/x"),
    ] {
        put(&world, name, target, "", &["linux"]);
    }
    world.run_once();
    let amd64 = "amd64 amd64/g/a/x amd64/g/b/x None\n";
    assert_eq!(shown(&world, "amd64"), amd64);
    assert_eq!(shown(&world, "arm64"), "arm64 arm64/g/a/x None\n");
    // The last image goes while the template is no good: the next start makes good for it.
    fs::write(world.root.join("menu.j2"), "{{ x").unwrap();
    withdraw(&world, "arm64/g/a/x");
    assert_eq!(shown(&world, "arm64"), "arm64 arm64/g/a/x None\n");
    fs::write(world.root.join("menu.j2"), OF_ARCH).unwrap();
    world.run_once();
    assert_eq!(shown(&world, "arm64"), "arm64 None\n");
    // That was once.
    fs::remove_file(of_arch(&world, "arm64")).unwrap();
    world.run_once();
    assert!(!of_arch(&world, "arm64").exists());
    put(&world, "4", "arm64/g/a/x", "", &["linux"]);
    world.run_once();
    assert_eq!(shown(&world, "arm64"), "arm64 arm64/g/a/x None\n");
    // Elsewhere there is no `arch`.
    let settings = fs::read_to_string(&world.config).unwrap();
    let settings = settings
        .replace("d-i/{arch}/menu", "menu")
        .replace("for_each = \"arch\"", "");
    fs::write(&world.config, settings).unwrap();
    let said = text(&world.run(&["check-config"]));
    assert!(
        said.contains("undefined value: `arch` is undefined"),
        "{said}"
    );
}

fn whose_outputs_of_architectures() {
    let world = world_for_each(EACH);
    // No text says that it is generated.
    fs::write(world.root.join("menu.j2"), OF_ARCH).unwrap();
    let list = || fs::read_to_string(world.tree.join(".netboot-publisher/links")).unwrap();
    fs::create_dir_all(of_arch(&world, "mine").parent().unwrap()).unwrap();
    fs::write(of_arch(&world, "mine"), "mine").unwrap();
    put(&world, "1", "amd64/g/a/x", "", &["linux"]);
    put(&world, "2", "arm64/g/a/x", "", &["linux"]);
    world.run_once();
    let both = "format = 1\noutputs = [\"../d-i/amd64/menu\", \"../d-i/arm64/menu\"]\n";
    assert_eq!(list(), both);
    put(&world, "3", "mine/g/a/x", "", &["linux"]);
    let once = text(&world.run(&["run", "--once"]));
    let expected = "menu\" is a file that the daemon did not make";
    assert!(once.contains(expected), "{once}");
    withdraw(&world, "mine/g/a/x");
    assert_eq!(shown(&world, "mine"), "mine");
    assert_eq!(list(), both);

    withdraw(&world, "arm64/g/a/x");
    let one = "format = 1\noutputs = [\"../d-i/amd64/menu\"]\nempty = [\"../d-i/arm64/menu\"]\n";
    assert_eq!(list(), one);
    put(&world, "4", "arm64/g/a/x", "", &["linux"]);
    world.run_once();
    assert_eq!(shown(&world, "arm64"), "arm64 arm64/g/a/x None\n");
    assert_eq!(list(), both);
    // An empty menu is in nobody's way.
    withdraw(&world, "amd64/g/a/x");
    withdraw(&world, "arm64/g/a/x");
    assert_eq!(shown(&world, "amd64"), "amd64 None\n");
    let said = text(&world.run(&["check-config"]));
    assert!(said.contains(": good"), "{said}");

    put(&world, "5", "amd64/g/a/x", "", &["linux"]);
    world.run_once();
    assert_eq!(list(), one);
    let settings = fs::read_to_string(&world.config).unwrap();
    let (settings, _) = settings.split_once("[[boot_config]]").unwrap();
    fs::write(&world.config, settings).unwrap();
    let once = text(&world.run(&["run", "--once"]));
    let given_up = once.matches("no boot configuration has the output").count();
    assert_eq!(given_up, 2, "{once}");
    assert_eq!(list(), "format = 1\noutputs = []\n");
    assert_eq!(shown(&world, "amd64"), "amd64 amd64/g/a/x None\n");
}

/// As [`world`], which writes outputs as they are.
fn world_for_each(configs: &[(&str, &str)]) -> World {
    let plain: Vec<_> = configs
        .iter()
        .map(|(template, _)| (Path::new(*template), "OUTPUT"))
        .collect();
    let world = world(&plain, "");
    let mut settings = fs::read_to_string(&world.config).unwrap();
    for (_, output) in configs {
        settings = settings.replacen("OUTPUT", output, 1);
    }
    fs::write(&world.config, settings).unwrap();
    world
}

fn outputs_of_architectures_are_no_targets() {
    let each = |output: &str| format!("{output}\"\nfor_each = \"arch");
    let outputs = [
        each("netboot/{arch}/grub.cfg"),
        each("netboot/menus/x-{arch}"),
    ];
    let configs = outputs.each_ref().map(|output| ("menu.j2", &**output));
    let world = world_for_each(&configs);
    fs::write(world.root.join("menu.j2"), OF_ARCH).unwrap();
    let cases = [
        ("amd64/grub.cfg/r/p", true),
        // An architecture that nobody has an image of yet.
        ("other/grub.cfg/r/p", true),
        ("menus/x-any/r/p", true),
        ("menus/y-any/r/p", false),
        ("amd64/generic/r/p", false),
    ];
    for (number, (target, is_refused)) in cases.into_iter().enumerate() {
        let name = number.to_string();
        put(&world, &name, target, "", &["linux"]);
        world.run_once();
        if !is_refused {
            world.assert_outcome(&name, "published");
            continue;
        }
        let outcome = world.assert_outcome(&name, "rejected target-occupied");
        let detail = outcome["detail"].as_str().unwrap();
        assert!(
            detail.contains("which the daemon writes (`boot_config.output`)"),
            "{detail}"
        );
    }
    let shown = fs::read_to_string(world.tree.join("amd64/grub.cfg")).unwrap();
    assert_eq!(shown, "amd64 amd64/generic/r/p None\n");
}

fn a_bad_text_is_nobody_elses() {
    let templates = [
        "{% for image in images %}{{ image.target }} {{ image.boot.title | ipxe }}\n{% endfor %}",
        // Seen in another order, and put together.
        "{% for image in images | sort(attribute='release') %}{{ image.target }} {{ ('<' ~ image.boot.title ~ '>') | ipxe }}\n{% endfor %}",
        "{% for image in images if image.boot.title %}{{ image.target }} {{ image.boot.title | ipxe }}\n{% endfor %}",
        "{% for image in images %}{{ image.target }} {{ (image.pinned_path ~ ' ' ~ image.boot.title) | ipxe }}\n{% endfor %}",
    ];
    let world = world(&[(Path::new("menu.j2"), "menu")], "");
    let titles: BTreeMap<_, _> = [
        ("a/g/z/p", "good"),
        ("b/g/y/p", "${bad}"),
        ("c/g/x/p", "a ; bad"),
        ("d/g/w/p", "good too"),
    ]
    .into();
    for (target, title) in &titles {
        let more = format!("[boot]\ntitle = \"{title}\"\n");
        put(&world, &target[..1], target, &more, &["linux"]);
    }
    for template in templates {
        fs::write(world.root.join("menu.j2"), template).unwrap();
        let output = world.run(&["run", "--once"]);
        assert!(output.status.success(), "{}", text(&output));
        let shown = menu(&world, "menu");
        for (target, title) in &titles {
            assert_eq!(
                shown.contains(*target),
                title.starts_with("good"),
                "{template}\n{shown}"
            );
        }
    }
    // What a template makes of them by itself is its own error, and says where.
    let upper =
        "one\n{% for image in images %}\n{{ image.boot.title | upper | ipxe }}\n{% endfor %}";
    fs::write(world.root.join("menu.j2"), upper).unwrap();
    let said = text(&world.run(&["run", "--once"]));
    assert!(
        said.contains("iPXE can't have `${`, as in `${BAD}`"),
        "{said}"
    );
    assert!(said.contains("menu.j2:3:"), "{said}");
}
