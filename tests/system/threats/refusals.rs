//! What a hostile drop is and holds: links, devices, names, modes. What is refused for that, what
//! is made of the rest, and what can't be removed afterwards.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use netboot_publisher::Digest;
use rustix::fs::{CWD, Dev, FileType, Mode, OFlags};

use super::{EXPIRES, IMPORTER, LIMITS, Siege, TARGET, own, replace, shape};
use crate::lab::world::{self, Needs, World, manifest, snapshot, test, until};

pub fn tests() -> Vec<Trial> {
    let refusals = REFUSALS.iter().map(|refusal| {
        let body = || {
            let mut siege = Siege::new();
            siege.put_in("hostile", &manifest(TARGET), refusal.make);
            siege.assert_refused("hostile", refusal.reason, refusal.said);
            siege.end();
        };
        test(refusal.sentence, refusal.needs, body)
    });
    let others = vec![
        test(
            "a drop that was moved into a waiting one is refused and kept with it",
            &[],
            moved_into,
        ),
        test(
            "a hundred hidden files beside the image are litter that counts for nothing",
            &[],
            litter,
        ),
        test(
            "a drop whose name is no good is refused and kept under a name that is",
            &[],
            bad_names,
        ),
        test(
            "a drop that is no folder is refused whatever else it is",
            &[Needs::Root],
            drops_that_are_no_folder,
        ),
        test(
            "modes owners and hard links of an importer do not survive",
            &[Needs::Root],
            modes_and_owners,
        ),
        test(
            "the longest names are published and no path of input is too long to be refused",
            &[],
            longest_names,
        ),
        test(
            "a file of another size than listed is refused though its checksum is right",
            &[],
            another_size,
        ),
        test(
            "a link in the place of a folder above the pointer is not followed",
            &[],
            link_above_the_pointer,
        ),
        test(
            "a folder named like one that removal makes does not keep a drop from being removed",
            &[],
            lifted_by_name,
        ),
        test(
            "a rejected drop that can not be removed keeps no other from being removed",
            &[Needs::Root, Needs::Program("chattr")],
            unremovable_rejected,
        ),
        test(
            "a published drop that can not be removed is removed when it can and holds up nobody",
            &[Needs::Root, Needs::Program("chattr")],
            unremovable_published,
        ),
    ];
    refusals.chain(others).collect()
}

/// A drop that is refused for what is in it.
struct Refusal {
    sentence: &'static str,
    needs: &'static [Needs],
    /// Changes a drop that is good otherwise: a manifest, and `image/linux`.
    make: fn(&Path),
    reason: &'static str,
    /// What and where, in the detail.
    said: &'static [&'static str],
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        sentence: "an absolute link is refused",
        needs: &[],
        make: |drop| symlink("/etc/passwd", drop.join("image/passwd")).unwrap(),
        reason: "unsafe-file",
        said: &["`passwd` -> `/etc/passwd`", "expected a relative link"],
    },
    Refusal {
        sentence: "a link to the outside is refused",
        needs: &[],
        make: |drop| {
            fs::create_dir(drop.join("image/deep")).unwrap();
            symlink("../../manifest.toml", drop.join("image/deep/out")).unwrap();
        },
        reason: "unsafe-file",
        said: &["`deep/out` -> `../../manifest.toml`"],
    },
    Refusal {
        sentence: "a link that leaves the image and comes back is refused",
        needs: &[],
        make: |drop| symlink("../image/linux", drop.join("image/back")).unwrap(),
        reason: "unsafe-file",
        said: &["`back` -> `../image/linux`"],
    },
    Refusal {
        sentence: "a dangling link is refused",
        needs: &[],
        make: |drop| symlink("nothing", drop.join("image/dangling")).unwrap(),
        reason: "unsafe-file",
        said: &["`dangling` -> `nothing`"],
    },
    Refusal {
        sentence: "links in a loop are refused",
        needs: &[],
        make: |drop| {
            symlink("b", drop.join("image/a")).unwrap();
            symlink("a", drop.join("image/b")).unwrap();
        },
        reason: "unsafe-file",
        said: &["`a` -> `b`"],
    },
    Refusal {
        sentence: "a folder that holds a link to itself through links is refused",
        needs: &[],
        make: |drop| {
            fs::create_dir(drop.join("image/d")).unwrap();
            symlink("../e/d", drop.join("image/d/d")).unwrap();
            symlink("d", drop.join("image/e")).unwrap();
        },
        reason: "unsafe-file",
        said: &["`d/d` -> `../e/d`"],
    },
    Refusal {
        sentence: "a chain of links without end in sight is refused",
        needs: &[],
        make: |drop| {
            for link in 0..900 {
                let text = format!("l{:03}", link + 1);
                symlink(text, drop.join(format!("image/l{link:03}"))).unwrap();
            }
            symlink("linux", drop.join("image/l900")).unwrap();
        },
        reason: "unsafe-file",
        said: &["`l000` -> `l001`"],
    },
    Refusal {
        sentence: "a link with an escape in it is refused",
        needs: &[],
        make: |drop| symlink("linux\x1b[2J", drop.join("image/x")).unwrap(),
        reason: "unsafe-file",
        said: &["`x` is no regular file, folder or link"],
    },
    Refusal {
        sentence: "a FIFO is refused and does not hang the daemon",
        needs: &[],
        make: |drop| node(&drop.join("image/fifo"), FileType::Fifo, 0),
        reason: "unsafe-file",
        said: &["`fifo` is no regular file, folder or link"],
    },
    Refusal {
        sentence: "a socket is refused",
        needs: &[],
        make: |drop| drop_socket(&drop.join("image/socket")),
        reason: "unsafe-file",
        said: &["`socket` is no regular file, folder or link"],
    },
    Refusal {
        sentence: "a character device is refused",
        needs: &[Needs::Root],
        make: |drop| {
            node(
                &drop.join("image/zero"),
                FileType::CharacterDevice,
                rustix::fs::makedev(1, 5),
            )
        },
        reason: "unsafe-file",
        said: &["`zero` is no regular file, folder or link"],
    },
    Refusal {
        sentence: "a block device is refused",
        needs: &[Needs::Root],
        make: |drop| {
            node(
                &drop.join("image/disk"),
                FileType::BlockDevice,
                rustix::fs::makedev(7, 0),
            )
        },
        reason: "unsafe-file",
        said: &["`disk` is no regular file, folder or link"],
    },
    Refusal {
        sentence: "a hard link to another user's file is refused",
        needs: &[Needs::Root],
        make: |drop| {
            fs::hard_link(outside(drop).join("secret"), drop.join("image/initrd")).unwrap();
            own(drop, IMPORTER);
            chown(drop.join("image/initrd"), Some(0), Some(0)).unwrap();
        },
        reason: "unsafe-file",
        said: &["`initrd` belongs to root", "and the drop to nobody"],
    },
    Refusal {
        sentence: "a file name with a line end is refused",
        needs: &[],
        make: |drop| fs::write(drop.join("image/a\nFORGED"), "x").unwrap(),
        reason: "unsafe-name",
        said: &["`a\\nFORGED` in the image's root"],
    },
    Refusal {
        sentence: "a file name with a terminal escape is refused",
        needs: &[],
        make: |drop| {
            fs::create_dir(drop.join("image/sub")).unwrap();
            fs::write(drop.join("image/sub/a\x1b[2J"), "x").unwrap();
        },
        reason: "unsafe-name",
        said: &["`a\\u{1b}[2J` in `sub`"],
    },
    Refusal {
        sentence: "a file name with a control character of eight bits is refused",
        needs: &[],
        make: |drop| fs::write(drop.join("image/a\u{9b}2J"), "x").unwrap(),
        reason: "unsafe-name",
        said: &["`a\\u{9b}2J`"],
    },
    Refusal {
        sentence: "a folder name that is not UTF-8 is refused",
        needs: &[],
        make: |drop| {
            fs::create_dir(drop.join("image").join(OsStr::from_bytes(b"\xff\xfe"))).unwrap()
        },
        reason: "unsafe-name",
        said: &["expected names in UTF-8"],
    },
    Refusal {
        sentence: "a path of more than three thousand bytes is refused",
        needs: &[],
        make: |drop| {
            let folders = vec!["d".repeat(250); 13].join("/");
            fs::create_dir_all(drop.join("image").join(folders)).unwrap();
        },
        reason: "unsafe-name",
        said: &["in paths of at most 3072 bytes"],
    },
    Refusal {
        sentence: "one folder within folders more than allowed is refused",
        needs: &[],
        make: |drop| fs::create_dir_all(drop.join("image").join(["d"; 17].join("/"))).unwrap(),
        reason: "too-deep",
        said: &["`d/d/d/", "more than 16 folders deep"],
    },
    Refusal {
        sentence: "a sparse file of 16 TiB is refused without being read",
        needs: &[],
        make: |drop| {
            let size = (16 << 40) - 4_096;
            File::create(drop.join("image/huge"))
                .unwrap()
                .set_len(size)
                .unwrap();
        },
        reason: "too-large",
        said: &["larger than 8.0 GiB", "`huge`"],
    },
    Refusal {
        sentence: "sparse files that are too large together are refused",
        needs: &[],
        make: |drop| {
            for name in ["a", "b", "c"] {
                File::create(drop.join("image").join(name))
                    .unwrap()
                    .set_len(3 << 30)
                    .unwrap();
            }
        },
        reason: "too-large",
        said: &["larger than 8.0 GiB"],
    },
    Refusal {
        sentence: "an image that is a link to a folder outside is refused",
        needs: &[],
        make: |drop| {
            replace(&drop.join("image"), |path| {
                symlink(outside(drop), path).unwrap()
            })
        },
        reason: "unsafe-file",
        said: &["expected image to be a folder of the drop"],
    },
    Refusal {
        sentence: "an image that is a FIFO is refused",
        needs: &[],
        make: |drop| replace(&drop.join("image"), |path| node(path, FileType::Fifo, 0)),
        reason: "unsafe-file",
        said: &["expected image to be a folder of the drop"],
    },
    Refusal {
        sentence: "an image that is a file is refused",
        needs: &[],
        make: |drop| replace(&drop.join("image"), |path| fs::write(path, "x").unwrap()),
        reason: "unsafe-file",
        said: &["expected image to be a folder of the drop"],
    },
    Refusal {
        sentence: "a drop without an image is refused",
        needs: &[],
        make: |drop| replace(&drop.join("image"), |_| {}),
        reason: "empty-image",
        said: &["no image/"],
    },
    Refusal {
        sentence: "an image of nothing but folders is refused",
        needs: &[],
        make: |drop| {
            replace(&drop.join("image/linux"), |path| {
                fs::create_dir(path).unwrap()
            })
        },
        reason: "empty-image",
        said: &["no regular file"],
    },
    Refusal {
        sentence: "a manifest that is a link is refused",
        needs: &[],
        make: |drop| {
            replace(&drop.join("manifest.toml"), |path| {
                symlink(outside(drop).join("secret"), path).unwrap();
            });
        },
        reason: "unsafe-file",
        said: &["manifest.toml is a link"],
    },
    Refusal {
        sentence: "a manifest that is a FIFO is refused and does not hang the daemon",
        needs: &[],
        make: |drop| {
            replace(&drop.join("manifest.toml"), |path| {
                node(path, FileType::Fifo, 0)
            })
        },
        reason: "unsafe-file",
        said: &["manifest.toml: expected a regular file"],
    },
    Refusal {
        sentence: "a manifest that is a folder is refused",
        needs: &[],
        make: |drop| {
            replace(&drop.join("manifest.toml"), |path| {
                fs::create_dir(path).unwrap()
            })
        },
        reason: "unsafe-file",
        said: &["manifest.toml: expected a regular file"],
    },
    Refusal {
        sentence: "a manifest that is a socket is refused",
        needs: &[],
        make: |drop| replace(&drop.join("manifest.toml"), drop_socket),
        reason: "unreadable",
        said: &["manifest.toml"],
    },
    Refusal {
        sentence: "a manifest that is an endless device is refused",
        needs: &[Needs::Root],
        make: |drop| {
            let zero = rustix::fs::makedev(1, 5);
            replace(&drop.join("manifest.toml"), |path| {
                node(path, FileType::CharacterDevice, zero)
            });
        },
        reason: "unsafe-file",
        said: &["manifest.toml: expected a regular file"],
    },
    Refusal {
        sentence: "something beside the manifest and the image is refused",
        needs: &[],
        make: |drop| fs::write(drop.join("run.sh"), "x").unwrap(),
        reason: "unexpected-file",
        said: &["`run.sh`", "expected nothing but manifest.toml and image/"],
    },
    Refusal {
        sentence: "hidden names without end beside the image are refused",
        needs: &[],
        make: |drop| {
            for number in 0..2_000 {
                fs::write(drop.join(format!(".{number}")), "").unwrap();
            }
        },
        reason: "unexpected-file",
        said: &["expected nothing but manifest.toml and image/"],
    },
    Refusal {
        sentence: "a hidden link beside the image is refused",
        needs: &[],
        make: |drop| symlink("image", drop.join(".link")).unwrap(),
        reason: "unexpected-file",
        said: &["`.link`", "expected nothing but manifest.toml and image/"],
    },
];

/// The folder outside that [`Siege`] has made, from within a hidden drop.
fn outside(drop: &Path) -> PathBuf {
    drop.ancestors().nth(3).unwrap().join("outside")
}

fn node(path: &Path, kind: FileType, device: Dev) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
}

/// A socket that nobody listens on any more.
fn drop_socket(path: &Path) {
    // The path of a socket is short.
    let short = tempfile::tempdir_in(path.ancestors().nth(4).unwrap()).unwrap();
    let made = short.path().join("s");
    drop(UnixListener::bind(&made).unwrap());
    fs::rename(made, path).unwrap();
}

fn bad_names() {
    let mut siege = Siege::new();
    let long = "n".repeat(255);
    let names: [&[u8]; 8] = [
        b"a\nFORGED",
        b"a\x1b[2J",
        "a\u{9b}2J".as_bytes(),
        b"not-\xff-utf8",
        &long.as_bytes()[..201],
        long.as_bytes(),
        b"published.json",
        b"bad-name-000000000000",
    ];
    for bytes in names {
        let name = OsString::from_vec(bytes.to_vec());
        let before = siege.put_in(&name, &manifest(TARGET), |_| {});
        let shown: String = name.to_string_lossy().escape_debug().collect();
        siege
            .daemon
            .wait_for_drop(&shown.escape_debug().to_string());
        let entry = format!("bad-name-{}", Digest::of(bytes).short());
        let outcome = siege.world.assert_outcome(&entry, "rejected bad-name");
        let start: String = name.to_string_lossy().escape_debug().take(50).collect();
        siege.assert_kept(
            &entry,
            &shown,
            &outcome,
            &[&start, "expected at most 200 bytes of UTF-8"],
        );
        assert_eq!(
            shape(&siege.world.spool.join("rejected").join(&entry)),
            before
        );
    }
    siege.end();
}

fn drops_that_are_no_folder() {
    let mut siege = Siege::new();
    let victim = siege.build(OsStr::new("victim"), &manifest(TARGET), |_| {});
    type Make<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Make<'_>)> = vec![
        ("file", Box::new(|path| fs::write(path, "x").unwrap())),
        ("fifo", Box::new(|path| node(path, FileType::Fifo, 0))),
        ("socket", Box::new(drop_socket_beside)),
        (
            "device",
            Box::new(|path| node(path, FileType::CharacterDevice, rustix::fs::makedev(1, 5))),
        ),
        ("root", Box::new(|path| symlink("/", path).unwrap())),
        (
            "dangling",
            Box::new(|path| symlink("nothing", path).unwrap()),
        ),
        ("loop", Box::new(|path| symlink("loop", path).unwrap())),
        ("anothers", Box::new(|path| symlink(&victim, path).unwrap())),
    ];
    for (name, make) in cases {
        let hidden = siege.world.incoming(".made");
        make(&hidden);
        let before = shape(&hidden);
        fs::rename(&hidden, siege.world.incoming(name)).unwrap();
        siege.assert_refused(
            name,
            "not-a-directory",
            &["expected a folder that holds manifest.toml and image/"],
        );
        assert_eq!(
            shape(&siege.world.spool.join("rejected").join(name)),
            before,
            "{name}"
        );
    }
    assert!(
        victim.join("image/linux").exists(),
        "another's drop was touched\n{}",
        siege.world
    );
    siege.end();
}

fn drop_socket_beside(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

fn modes_and_owners() {
    let mut siege = Siege::new();
    siege.put_in("odd", &manifest(TARGET), |drop| {
        let image = drop.join("image");
        fs::create_dir(image.join("sub")).unwrap();
        fs::write(image.join("sub/shell"), "set-uid").unwrap();
        fs::hard_link(image.join("sub/shell"), image.join("twin")).unwrap();
        symlink("twin", image.join("link")).unwrap();
        own(drop, IMPORTER);
        for (path, mode) in [
            ("sub/shell", 0o6777),
            ("linux", 0o000),
            ("sub", 0o3777),
            ("", 0o2700),
        ] {
            fs::set_permissions(image.join(path), PermissionsExt::from_mode(mode)).unwrap();
        }
    });
    siege.daemon.wait_for_drop("odd");
    let outcome = siege.world.assert_outcome("odd", "published");
    assert_eq!(outcome["importer"]["uid"], IMPORTER);
    let published = siege.world.published(TARGET);
    for path in world::walk(&published.canonicalize().unwrap()) {
        let stat = path.symlink_metadata().unwrap();
        let mode = match stat.file_type() {
            kind if kind.is_symlink() => 0o777,
            kind if kind.is_dir() => 0o755,
            _ => 0o644,
        };
        assert_eq!(stat.mode() & 0o7777, mode, "{path:?}\n{}", siege.world);
        assert_eq!((stat.uid(), stat.gid()), (0, 0), "{path:?}");
        assert!(
            stat.is_dir() || stat.nlink() == 1,
            "{path:?} is linked to another"
        );
    }
    assert_eq!(
        fs::read_to_string(published.join("sub/shell")).unwrap(),
        "set-uid"
    );
    siege.assert_goes_on();
    siege.end();
}

fn another_size() {
    let mut siege = Siege::new();
    let listed = format!(
        "{}[files]\nlinux = {{ sha256 = \"{}\", size = 6 }}\n",
        manifest(TARGET),
        Digest::of(b"hostile")
    );
    siege.put_in("another-size", &listed, |_| {});
    siege.assert_refused(
        "another-size",
        "checksum-mismatch",
        &["`linux` has 7 bytes", "says 6"],
    );
    siege.end();
}

/// It leads to a folder of the tree: nothing but the link itself keeps the daemon from going there.
fn link_above_the_pointer() {
    let mut siege = Siege::new();
    for (linked, rest) in [
        ("linked", "generic/noble"),
        ("amd64/linked", "noble"),
        ("amd64/generic/linked", ""),
    ] {
        let folder = siege.world.tree.join("elsewhere").join(linked);
        let purpose = folder.join(rest).join("install");
        fs::create_dir_all(&purpose).unwrap();
        fs::write(purpose.join("linux"), "an admin's").unwrap();
        let link = siege.world.tree.join(linked);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(linked.matches('/').count());
        symlink(format!("{up}elsewhere/{linked}"), &link).unwrap();
        assert!(link.join(rest).join("install/linux").is_file());
        let before = snapshot(&folder);
        let target = Path::new(linked).join(rest).join("install");
        let drop = linked.replace('/', "-");
        siege.put_in(&drop, &manifest(target.to_str().unwrap()), |_| {});
        siege.assert_refused(&drop, "target-occupied", &["to be a folder"]);
        assert_eq!(snapshot(&folder), before, "{}", siege.world);
    }
    siege.end();
}

fn longest_names() {
    let mut siege = Siege::new();
    let drop = "n".repeat(200);
    let names = [
        "f".repeat(255),
        "ü".repeat(127),
        ".netboot-publisher".into(),
        "x@".into(),
        "a.toml".into(),
        "'\"\\$(reboot)`".into(),
        "\u{202e}bidi".into(),
    ];
    siege.put_in(&drop, &manifest(TARGET), |drop| {
        for name in &names {
            fs::write(drop.join("image").join(name), name).unwrap();
        }
        let deep = drop.join("image").join(["d"; 16].join("/"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("leaf"), "leaf").unwrap();
    });
    siege.daemon.wait_for_drop(&drop);
    siege.world.assert_outcome(&drop, "published");
    for name in &names {
        let published = fs::read_to_string(siege.world.published(TARGET).join(name)).unwrap();
        assert_eq!(&published, name);
    }
    let longest = format!(
        "{}[files]\n\"{}\" = {{ sha256 = \"{}\" }}\n",
        manifest(TARGET),
        "x/".repeat(32 << 10) + "x",
        "0".repeat(64)
    );
    siege.put_in("long-path", &longest, |_| {});
    siege.assert_refused(
        "long-path",
        "unlisted-file",
        &["`linux` is not in the manifest"],
    );
    siege.end();
}

fn lifted_by_name() {
    let mut siege = Siege::with(&format!("{EXPIRES}{LIMITS}"));
    siege.put_in("trap", &manifest(TARGET), |drop| {
        // Whether folders go in the order in which they came, the other way round or in none: some
        // go before their traps.
        for chain in 0..16 {
            let mut dir = drop.join(format!("chain-{chain}"));
            fs::create_dir(&dir).unwrap();
            for _ in 0..40 {
                dir.push("d");
                fs::create_dir(&dir).unwrap();
                let stat = dir.metadata().unwrap();
                // As `src/sys/removal.rs` names what it lifts.
                for number in 0..2 {
                    let trap = format!("lifted-{}-{}-{number}", stat.dev(), stat.ino());
                    fs::create_dir(drop.join(&trap)).unwrap();
                    fs::write(drop.join(trap).join("x"), "").unwrap();
                }
            }
        }
        for chain in 0..8 {
            let last = drop.join(format!("last-{chain}"));
            fs::rename(drop.join(format!("chain-{chain}")), last).unwrap();
        }
    });
    let line = siege.daemon.wait_for_drop("trap");
    assert!(line.contains("reason=unexpected-file"), "{line}");
    until("the drop to go", || {
        !siege.world.spool.join("rejected/trap").exists()
    });
    siege.assert_goes_on();
    let log = siege.end().join("\n");
    assert!(
        !log.contains("removing what is old"),
        "it went at once:\n{log}"
    );
}

/// A file that even root can't remove, until the value is dropped.
struct Immutable(OwnedFd, PathBuf);

impl Immutable {
    fn new(path: &Path) -> Self {
        let fd = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        let immutable = Self(fd, path.into());
        immutable.set(true);
        immutable
    }

    fn set(&self, is_on: bool) {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let mut flags = ioctl_getflags(&self.0).expect("a file system with attributes");
        flags.set(IFlags::IMMUTABLE, is_on);
        ioctl_setflags(&self.0, flags).unwrap_or_else(|error| panic!("{:?}: {error}", self.1));
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.set(false);
    }
}

fn unremovable_rejected() {
    let mut siege = Siege::with(&format!("{EXPIRES}{LIMITS}"));
    let mut stuck = None;
    siege.put_in("a-stuck", "", |drop| {
        stuck = Some(Immutable::new(&drop.join("image/linux")))
    });
    siege.daemon.wait_for_drop("a-stuck");
    siege.put_in("b-free", "", |_| {});
    siege.daemon.wait_for_drop("b-free");
    siege.daemon.wait_for("Operation not permitted");
    until("the other to go", || {
        !siege.world.spool.join("rejected/b-free").exists()
    });
    assert!(siege.world.spool.join("rejected/a-stuck").exists());
    siege.assert_goes_on();
    drop(stuck);
    until("it to go as well", || {
        !siege.world.spool.join("rejected/a-stuck").exists()
    });
    siege.end();
}

fn unremovable_published() {
    let mut siege = Siege::with(&format!("#spool rescan_interval = \"1s\"\n{LIMITS}"));
    let mut stuck = None;
    siege.put_in("stuck", &manifest(TARGET), |drop| {
        stuck = Some(Immutable::new(&drop.join("image/linux")))
    });
    siege.daemon.wait_for_drop("stuck");
    siege.world.assert_outcome("stuck", "published");
    siege
        .daemon
        .wait_for("`stuck` has its outcome and can't be put away: removing ");
    siege.assert_goes_on();
    // A second drop of this name is not lost in the first, which can't go.
    siege
        .world
        .drop_image("stuck", TARGET, &[("linux", b"second")]);
    siege.assert_goes_on();
    drop(stuck);
    siege.daemon.wait_for_drop("stuck");
    siege.world.assert_outcome("stuck", "published");
    assert_eq!(
        fs::read(siege.world.published(TARGET).join("linux")).unwrap(),
        b"second"
    );
    siege.assert_goes_on();
    siege.end();
}

/// Two drops of one name, by a recipe with a plain `mv`, while no daemon runs.
fn moved_into() {
    let world = World::with(LIMITS);
    let mv = |arguments: &[&str]| {
        let mut command = Command::new("mv");
        command
            .args(arguments)
            .current_dir(world.spool.join("incoming"));
        command.output().unwrap().status.success()
    };
    for content in [&b"first"[..], b"second"] {
        world.drop_image(".x", TARGET, &[("linux", content)]);
        assert!(mv(&[".x", "x"]), "{world}");
    }
    world.drop_image(".x", TARGET, &[("linux", b"third")]);
    assert!(!mv(&["-T", ".x", "x"]), "{world}");
    fs::remove_dir_all(world.incoming(".x")).unwrap();
    world.run_once();
    let outcome = world.assert_outcome("x", "rejected unexpected-file");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(
        detail.contains("`.x`") && detail.contains("use `mv -T`"),
        "{detail}"
    );
    let kept = world.spool.join("rejected/x");
    assert_eq!(fs::read(kept.join("image/linux")).unwrap(), b"first");
    assert_eq!(fs::read(kept.join(".x/image/linux")).unwrap(), b"second");
    assert!(!world.published(TARGET).exists(), "{world}");
}

fn litter() {
    let world = World::with(LIMITS);
    world.drop_with("littered", &manifest(TARGET), |image| {
        fs::write(image.join("linux"), "good").unwrap();
        for number in 0..100 {
            let name = format!(".nfs{number}");
            fs::write(image.with_file_name(name), "litter").unwrap();
        }
    });
    world.run_once();
    world.assert_outcome("littered", "published");
    assert_eq!(world::names(&world.published(TARGET)), ["linux"]);
    world.assert_at_rest();
}
