//! Drops that mean harm.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use libtest_mimic::Trial;
use netboot_publisher::Digest;
use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, RenameFlags};
use serde_json::Value;

use crate::boot_configs::wait_for_catalog;
use crate::world::{self, Daemon, Needs, World, manifest, snapshot, test, until};

/// The target of every hostile drop.
const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// What no importer may bring to light. A line of a manifest would be shown where it is refused.
const SECRET: &str = "root-secret-3e1f = [";

/// Who owns the drops of an importer that is not root.
const IMPORTER: u32 = 65_534;

const LIMITS: &str = "[limits]\nmin_free_space = \"0B\"\nmax_files = 1000\nmax_depth = 16\n\
                      max_image_size = \"8GiB\"\n[retention]\nmin_age = \"0s\"\nkeep = 1000\n";

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
    refusals.chain(inputs()).chain(races()).collect()
}

/// What a drop is, and where it goes.
fn inputs() -> Vec<Trial> {
    vec![
        test(
            "a manifest that is no good is refused with the place and what was expected",
            &[],
            bad_manifests,
        ),
        test(
            "a manifest of endless length or depth is refused and holds up nobody",
            &[],
            endless_manifests,
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
            "nothing of a manifest that is a hard link to a secret comes to light",
            &[Needs::Root],
            manifest_of_another,
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
    ]
}

/// What happens to a drop, and beside it, while it is handled.
fn races() -> Vec<Trial> {
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
            "an importer that goes on filling its drop does not keep others from being published",
            &[],
            endless_filling,
        ),
        test(
            "a manifest that becomes a folder after the claim does not keep the drop from being removed",
            &[Needs::Failpoints],
            manifest_becomes_folder,
        ),
        test(
            "an importer that leases its file can not keep its target taken",
            &[Needs::Root, Needs::Program("python3")],
            leased_file,
        ),
        test(
            "a file system mounted in a drop is refused and not crossed",
            &[Needs::Root],
            mount_in_drop,
        ),
        test(
            "a file mounted over one of a drop is refused and not read",
            &[Needs::Root],
            mounted_file,
        ),
        test(
            "a drop that can not be looked into or moved is told of and holds up nobody",
            &[Needs::Root],
            mounted_drop,
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
            "without enough inotify watches the daemon warns and rescans",
            &[Needs::Root, Needs::Program("unshare")],
            without_watches,
        ),
        test(
            "an importer that makes events without end holds up nobody",
            &[],
            flood_of_events,
        ),
        test(
            "an incoming folder that is replaced ends the daemon and is served by the next",
            &[],
            incoming_replaced,
        ),
        test(
            "no hostile text reaches the log or an outcome unescaped",
            &[],
            no_injection,
        ),
    ]
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
        said: &[
            "`initrd` belongs to user 0",
            "expected it to belong to 65534",
        ],
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
        sentence: "more folders within folders than allowed are refused",
        needs: &[],
        make: |drop| fs::create_dir_all(drop.join("image").join(["d"; 18].join("/"))).unwrap(),
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
        said: &["more than 8.0 GiB", "`huge`"],
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
        said: &["more than 8.0 GiB"],
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
];

/// A world with a running daemon, a place outside that no drop may reach, and good drops that come
/// after each bad one.
struct Siege {
    world: World,
    daemon: Daemon,
    outside: PathBuf,
    before: String,
    good: u32,
}

impl Siege {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(settings: &str) -> Self {
        Self::of(settings, |world| world.command(&["run"]))
    }

    fn of(settings: &str, command: impl FnOnce(&World) -> Command) -> Self {
        let world = World::with(settings);
        let outside = world.root.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), secret(64)).unwrap();
        fs::write(outside.join("linux"), secret(64)).unwrap();
        fs::set_permissions(outside.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        let before = untouched(&outside);
        let daemon = Daemon::start(command(&world));
        Self {
            world,
            daemon,
            outside,
            before,
            good: 0,
        }
    }

    /// Drops an image that `make` has spoilt. Returns what it was like.
    fn put_in(
        &self,
        name: impl AsRef<OsStr>,
        manifest: &str,
        make: impl FnOnce(&Path),
    ) -> Vec<String> {
        let drop = self.build(name.as_ref(), manifest, make);
        let shape = shape(&drop);
        fs::rename(&drop, self.world.spool.join("incoming").join(name.as_ref())).unwrap();
        shape
    }

    /// A drop under a hidden name, still.
    fn build(&self, name: &OsStr, manifest: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let hidden = self
            .world
            .incoming(&format!(".{}", Digest::of(name.as_bytes()).short()));
        fs::create_dir_all(hidden.join("image")).unwrap();
        fs::write(hidden.join("image/linux"), "hostile").unwrap();
        fs::write(hidden.join("manifest.toml"), manifest).unwrap();
        make(&hidden);
        hidden
    }

    /// A drop is rejected, with its reason; what was wrong is said, and the next good drops are
    /// published.
    fn assert_refused(&mut self, drop: &str, reason: &str, said: &[&str]) -> Value {
        let line = self.daemon.wait_for_drop(drop);
        assert!(
            line.contains(&format!("reason={reason} ")),
            "{line}\n{}",
            self.world
        );
        let outcome = self
            .world
            .assert_outcome(drop, &format!("rejected {reason}"));
        self.assert_kept(drop, drop, &outcome, said);
        outcome
    }

    fn assert_kept(&mut self, entry: &str, name: &str, outcome: &Value, said: &[&str]) {
        let detail = outcome["detail"].as_str().unwrap_or_default();
        for part in said {
            assert!(detail.contains(part), "no {part:?} in {detail:?}");
        }
        assert_eq!(outcome["drop"], name, "{outcome:#}");
        assert_printable(&outcome.to_string().replace("\\n", ""));
        let world = &self.world;
        let kept = world.spool.join("rejected").join(entry);
        until("the drop to be kept", || kept.symlink_metadata().is_ok());
        let beside = world.spool.join("rejected").join(format!("{entry}.json"));
        let written = world.spool.join("outcomes").join(format!("{entry}.json"));
        assert_eq!(
            fs::read(beside).unwrap(),
            fs::read(written).unwrap(),
            "{world}"
        );
        self.assert_goes_on();
    }

    /// The next good drops are published, for another target and for the same one.
    fn assert_goes_on(&mut self) {
        for target in [OTHER, TARGET] {
            self.good += 1;
            let (name, text) = (format!("good-{}", self.good), format!("good {}", self.good));
            self.world
                .drop_image(&name, target, &[("linux", text.as_bytes())]);
            self.daemon.wait_for_drop(&name);
            self.world.assert_outcome(&name, "published");
            let published = fs::read_to_string(self.world.published(target).join("linux")).unwrap();
            assert_eq!(published, text, "{}", self.world);
        }
    }

    /// Ends the daemon: nothing is left, nothing outside was touched, nothing came to light.
    fn end(self) -> Vec<String> {
        let Self {
            world,
            daemon,
            outside,
            before,
            ..
        } = self;
        until("the drops to be put away", || {
            world.names("processing").is_empty()
        });
        let log = daemon.stop();
        world.assert_at_rest();
        assert_clean(&log);
        assert_eq!(untouched(&outside), before, "{world}");
        assert_no_secret(&world);
        log
    }
}

/// The folder outside that [`Siege`] has made, from within a hidden drop.
fn outside(drop: &Path) -> PathBuf {
    drop.ancestors().nth(3).unwrap().join("outside")
}

/// Something that must not come to light, of so many bytes.
fn secret(length: usize) -> String {
    SECRET.repeat(length / SECRET.len() + 1)[..length].to_string()
}

/// Nothing that a hard link or a reading changes: what only a writer could have changed.
fn untouched(outside: &Path) -> String {
    let mut seen = String::new();
    for path in world::walk(outside) {
        let stat = path.symlink_metadata().unwrap();
        let bytes = if stat.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let (mode, uid, mtime) = (stat.mode(), stat.uid(), (stat.mtime(), stat.mtime_nsec()));
        let _ = writeln!(
            seen,
            "{path:?} {mode:o} {uid} {mtime:?} {}",
            Digest::of(&bytes)
        );
    }
    seen
}

fn assert_no_secret(world: &World) {
    let secret = SECRET.as_bytes();
    let outcomes = [world.spool.join("outcomes"), world.tree.clone()];
    for path in outcomes.iter().flat_map(|folder| world::walk(folder)) {
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let shows = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!shows, "{path:?} shows the secret\n{world}");
        }
    }
}

/// The log holds no control character, no line that a drop made up, and nothing of the secret.
fn assert_clean(log: &[String]) {
    for line in log {
        assert_printable(line);
        assert!(
            !line.starts_with("FORGED"),
            "a line of the drop's own in:\n{}",
            log.join("\n")
        );
        assert!(!line.contains(SECRET), "the secret in:\n{}", log.join("\n"));
    }
}

fn assert_printable(text: &str) {
    let is_bad =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
    assert!(!text.contains(is_bad), "{text:?} can move a cursor");
}

/// What a drop is like: every name with its inode, mode, owner and size. It follows nothing.
fn shape(path: &Path) -> Vec<String> {
    let stat = path.symlink_metadata().unwrap();
    let mut seen = Vec::new();
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let name = entry.unwrap().file_name();
            let below = shape(&path.join(&name));
            seen.extend(below.into_iter().map(|line| format!("{name:?}/{line}")));
        }
        seen.sort();
    }
    seen.push(format!(
        "{} {:o} {}:{} {}",
        stat.ino(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.len()
    ));
    seen
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

fn replace(path: &Path, make: impl FnOnce(&Path)) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    make(path);
}

/// Gives a drop and all in it to a user.
fn own(path: &Path, uid: u32) {
    for below in world::walk(path).iter().map(PathBuf::as_path).chain([path]) {
        lchown(below, Some(uid), Some(uid)).unwrap();
    }
}

/// Calls `disturb` again and again in a thread of its own until `body` is done.
fn while_disturbed<T>(mut disturb: impl FnMut() + Send, body: impl FnOnce() -> T) -> T {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                disturb();
            }
        });
        body()
    })
}

fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
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

/// What was expected of a name, and of a path, in a manifest.
const NAME: &str = "expected 1 to 64 of `A-Z a-z 0-9 . _ + -`";
const PATH: &str = "expected a path below `image`, without `.`, `..` and control characters";

fn bad_manifests() {
    let good = manifest(TARGET);
    let with = |key: &str, value: &str| {
        let other = good
            .lines()
            .filter(|line| !line.starts_with(&format!("{key} =")));
        let other: Vec<_> = other.collect();
        format!("{}\n{key} = {value}\n", other.join("\n")).into_bytes()
    };
    let files = |path: &str| {
        format!(
            "{good}[files]\n{path} = {{ sha256 = \"{}\" }}\n",
            "0".repeat(64)
        )
        .into_bytes()
    };
    let long = "a".repeat(64 << 10);
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (with("purpose", "\"..\""), &["manifest.toml:5:11", NAME]),
        (
            with("arch", "\"../../../etc\""),
            &["manifest.toml:5:8", NAME],
        ),
        (with("release", "\"a/b\""), &["manifest.toml:5:11", NAME]),
        (with("release", "\"/\""), &["manifest.toml:5:11", NAME]),
        (
            with("subarch", "\"\\u0000\""),
            &["manifest.toml:5:11", NAME],
        ),
        (with("subarch", "\"a\\nb\""), &["manifest.toml:5:11", NAME]),
        (with("arch", "\"\""), &["manifest.toml:5:8", NAME]),
        (
            with("arch", "\".netboot-publisher\""),
            &["manifest.toml:5:8", NAME],
        ),
        (
            with("purpose", "\"install@\""),
            &["manifest.toml:5:11", NAME],
        ),
        (
            with("arch", &format!("\"{long}\"")),
            &["manifest.toml:5:8", NAME],
        ),
        (with("arch", "\"catalog.json\""), &["would collide"]),
        (
            with("version", "\"\\u001b[2J\""),
            &["manifest.toml:6:11", "without control characters"],
        ),
        (
            with("version", &format!("\"{long}\"")),
            &["manifest.toml:6:11", "at most 128 bytes"],
        ),
        (
            with(&long, "1"),
            &["manifest.toml:6:1", "unknown key `aaaaaaaa", "…"],
        ),
        (
            with("\"x\\u001b[2J\\u009b\"", "1"),
            &["manifest.toml:6:1", "unknown key `x\\u{1b}[2J\\u{9b}`"],
        ),
        (files("\"../secret\""), &["manifest.toml:7:1", PATH]),
        (files("\"/etc/passwd\""), &["manifest.toml:7:1", PATH]),
        (files("\"a//b\""), &["manifest.toml:7:1", PATH]),
        (files("\"a\\u0000b\""), &["manifest.toml:7:1", PATH]),
        (files("\"a\\nFORGED\""), &["manifest.toml:7:1", PATH]),
        (b"\x00".to_vec(), &["manifest.toml:1:1"]),
        (
            b"\x7fELF\xff\xff".to_vec(),
            &["manifest.toml: expected UTF-8, not so at byte 4"],
        ),
        (
            b"\xfe\xff\x00f".to_vec(),
            &["expected UTF-8, not so at byte 0"],
        ),
        (
            Vec::new(),
            &[
                "missing key `format`",
                "missing key `arch`",
                "missing key `release`",
                "missing key `purpose`",
            ],
        ),
    ];
    let mut siege = Siege::new();
    for (number, (text, said)) in cases.into_iter().enumerate() {
        let name = format!("case-{number}");
        siege.put_in(&name, "", |drop| {
            fs::write(drop.join("manifest.toml"), &text).unwrap()
        });
        let outcome = siege.assert_refused(&name, "bad-manifest", said);
        assert!(outcome["target"].is_null(), "{outcome:#}");
        assert!(
            outcome.to_string().len() < 4_096,
            "a detail without end: {outcome:#}"
        );
    }
    siege.end();
}

fn endless_manifests() {
    const LONGEST: usize = 16 << 20;
    let head = manifest(TARGET);
    let endless = |start: &str, more: &str| {
        let times = (LONGEST - head.len() - start.len()) / more.len();
        format!("{head}{start}{}", more.repeat(times))
    };
    let mut siege = Siege::new();
    for (name, text) in [
        ("too-long", " ".repeat(LONGEST + 1)),
        ("nested", endless("x = ", "[")),
        ("tables", endless("x = ", "{a=")),
        ("dotted", endless("x", ".x")),
        ("errors", endless("", "]\n")),
        ("keys", endless("", "[x]\n")),
        ("one-value", endless("version = \"", "x")),
        ("nothing", endless("x", "\n")),
    ] {
        siege.put_in(name, &text, |_| {});
        let outcome = siege.assert_refused(name, "bad-manifest", &["manifest.toml"]);
        assert!(
            outcome.to_string().len() < 16_384,
            "a detail without end: {name}"
        );
    }
    siege.end();
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

fn manifest_of_another() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    siege.put_in("peek", "", |drop| {
        replace(&drop.join("manifest.toml"), |path| {
            fs::hard_link(&secret, path).unwrap()
        });
        own(drop, IMPORTER);
        chown(drop.join("manifest.toml"), Some(0), Some(0)).unwrap();
    });
    let outcome = siege.assert_refused(
        "peek",
        "unsafe-file",
        &["a regular file that belongs to user 65534"],
    );
    assert_eq!(outcome["importer"]["uid"], IMPORTER);
    siege.end();
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
            "trace=openat2,newfstatat,statx,getdents64,read",
            "-o",
        ])
        .arg(&trace);
    strace.arg(program.get_program()).args(program.get_args());
    let output = strace.output().unwrap();
    assert!(output.status.success(), "{}\n{world}", world::text(&output));
    let outcome = world.assert_outcome("many", "rejected too-many-files");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(
        detail.contains("more than 1000, which `limits.max_files` allows"),
        "{detail}"
    );
    world.assert_outcome("small", "published");
    let calls = fs::read_to_string(&trace).unwrap().lines().count();
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

/// What a rejected drop goes with: at once, by a daemon that looks every second.
const EXPIRES: &str = "#spool keep_rejected = \"0s\"\n#spool rescan_interval = \"1s\"\n";

fn ten_thousand_levels() {
    let world = World::with(LIMITS);
    world.drop_with("deep", &manifest(TARGET), |image| drop(dig(image, 10_000)));
    world.drop_image("good", TARGET, &[("linux", b"good")]);
    let mut daemon = world.daemon();
    daemon.wait_for_drop("good");
    // Where this fails nothing but the daemon's own way of removing gets rid of it.
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

fn lifted_by_name() {
    let mut siege = Siege::with(&format!("{EXPIRES}{LIMITS}"));
    siege.put_in("trap", &manifest(TARGET), |drop| {
        let mut dir = drop.join("image");
        for _ in 0..40 {
            dir.push("d");
            fs::create_dir(&dir).unwrap();
            let stat = dir.metadata().unwrap();
            let trap = drop.join(format!(".lifted-{}-{}", stat.dev(), stat.ino()));
            fs::create_dir(&trap).unwrap();
            fs::write(trap.join("x"), "").unwrap();
            let trap = trap.with_file_name(format!("lifted-{}-{}", stat.dev(), stat.ino()));
            fs::create_dir(&trap).unwrap();
            fs::write(trap.join("x"), "").unwrap();
        }
    });
    let line = siege.daemon.wait_for_drop("trap");
    assert!(line.contains("reason=unexpected-file"), "{line}");
    until("the drop to go", || {
        !siege.world.spool.join("rejected/trap").exists()
    });
    siege.assert_goes_on();
    siege.end();
}

/// A file that even root can't remove, until this is dropped.
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
    let mut siege = Siege::new();
    let mut stuck = None;
    siege.put_in("stuck", &manifest(TARGET), |drop| {
        stuck = Some(Immutable::new(&drop.join("image/linux")))
    });
    siege.daemon.wait_for_drop("stuck");
    siege.world.assert_outcome("stuck", "published");
    siege.daemon.wait_for("`stuck` has to wait: removing ");
    siege.assert_goes_on();
    // Another of this name is not lost in the one that can't go.
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

/// Puts in drops whose files `disturb` swaps all the time, and makes sure that each is published as
/// it was or refused. Returns how each ended.
fn swapped(
    siege: &mut Siege,
    uid: u32,
    make: impl Fn(&Path),
    disturb: impl Fn(&OwnedFd) + Sync,
) -> Vec<String> {
    let mut ends = Vec::new();
    let swaps = AtomicU64::new(0);
    for round in 0..12 {
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
        let disturb = || {
            disturb(&open);
            swaps.fetch_add(1, Ordering::Relaxed);
        };
        while_disturbed(disturb, || {
            fs::rename(&drop, siege.world.incoming(&name)).unwrap();
            siege.daemon.wait_for_drop(&name);
        });
        let outcome = siege.world.outcome(&name).unwrap();
        let reason = outcome["reason"].as_str().unwrap_or("published");
        assert!(
            ["published", "changed", "unsafe-file"].contains(&reason),
            "{outcome:#}"
        );
        ends.push(reason.to_string());
    }
    assert!(
        swaps.load(Ordering::Relaxed) > 1_000,
        "hardly anything was swapped"
    );
    for path in ["linux", "sub/linux", "sub/secret"] {
        let published = fs::read_to_string(siege.world.published(TARGET).join(path));
        assert!(published.is_err() || published.unwrap() == "h".repeat(64));
    }
    siege.assert_goes_on();
    ends
}

fn exchange(dir: &OwnedFd, one: &str, other: &str) {
    let _ = rustix::fs::renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE);
}

fn file_becomes_link() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    let own_uid = rustix::process::geteuid().as_raw();
    let make = |drop: &Path| symlink(&secret, drop.join(".link")).unwrap();
    let ends = swapped(&mut siege, own_uid, make, |drop| {
        exchange(drop, ".link", "image/linux")
    });
    assert!(
        ends.iter().any(|end| end != "published"),
        "no swap was met: {ends:?}"
    );
    siege.end();
}

fn folder_becomes_link() {
    let mut siege = Siege::new();
    let outside = siege.outside.clone();
    let own_uid = rustix::process::geteuid().as_raw();
    let make = |drop: &Path| symlink(&outside, drop.join(".link")).unwrap();
    let ends = swapped(&mut siege, own_uid, make, |drop| {
        exchange(drop, ".link", "image/sub")
    });
    assert!(
        ends.iter().any(|end| end != "published"),
        "no swap was met: {ends:?}"
    );
    siege.end();
}

fn file_becomes_hard_link() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    let make = |drop: &Path| fs::hard_link(&secret, drop.join(".link")).unwrap();
    let ends = swapped(&mut siege, IMPORTER, make, |drop| {
        exchange(drop, ".link", "image/linux")
    });
    assert!(
        ends.iter().any(|end| end != "published"),
        "no swap was met: {ends:?}"
    );
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
        for round in 0..6 {
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
        }
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

/// The seeds of the races.
const SEEDS: [u64; 3] = [1, 0x9e37_79b9, 0xdead_beef];

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
    // What was renamed last is still to be seen; a drop that comes after it is seen after it.
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

/// Where the image of a drop of [`crowd`] is now: in the tree, or with the rejected drops.
fn whereabouts(world: &World, name: &str) -> usize {
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
        .count();
    let kept = world::walk(&world.spool.join("rejected"))
        .iter()
        .filter(|path| holds(path))
        .count();
    published + kept
}

fn drops_renamed() {
    for seed in SEEDS {
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
        }
    }
}

fn drops_taken_away() {
    for seed in SEEDS {
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
        }
    }
}

fn drops_exchanged() {
    for seed in SEEDS {
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
        }
    }
}

fn endless_filling() {
    let mut siege = Siege::new();
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
        siege.world.names("processing").is_empty()
    });
    siege.end();
}

fn manifest_becomes_folder() {
    let mut siege = Siege::of(LIMITS, |world| {
        let mut command = world.command(&["run"]);
        command.env("NETBOOT_PUBLISHER_FAILPOINT", "stage:1:stop");
        command
    });
    siege.put_in("turned", &manifest(TARGET), |_| {});
    let claimed = siege.world.spool.join("processing/turned");
    let stat = format!("/proc/{}/stat", siege.daemon.child.id());
    until("the daemon to stop", || {
        fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    replace(&claimed.join("manifest.toml"), |path| {
        fs::create_dir_all(path.join("x")).unwrap()
    });
    siege.daemon.signal(rustix::process::Signal::CONT);
    siege.daemon.wait_for_drop("turned");
    siege.world.assert_outcome("turned", "published");
    siege.assert_goes_on();
    siege.end();
}

/// Takes a write lease on a file and gives it back only when the kernel breaks it by force.
const LEASE: &str = "import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('leased', flush=True)
sys.stdin.read()
";

fn leased_file() {
    use std::io::{BufRead as _, BufReader};
    let mut siege = Siege::new();
    let drop = siege.build(OsStr::new("leased"), &manifest(TARGET), |_| {});
    let mut python = Command::new("python3");
    python.args(["-c", LEASE]).arg(drop.join("image/linux"));
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
    fs::rename(&drop, siege.world.incoming("leased")).unwrap();
    siege.assert_refused("leased", "unreadable", &["image/linux"]);
    siege.end();
}

/// What is mounted below a world's root: goes with the test, wherever its drop is by then.
struct Mount(PathBuf);

impl Mount {
    fn bind(root: &Path, what: &Path, at: &Path) -> Self {
        let mount = Self(root.into());
        let mut command = Command::new("mount");
        let mounted = command.arg("--bind").arg(what).arg(at).status().unwrap();
        assert!(mounted.success());
        mount
    }

    /// Takes it away.
    fn end(self) {}
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&self.0)) {
            let _ = Command::new("umount").arg(place).status();
        }
    }
}

/// A drop with something of the outside mounted at `at` is refused, and what is mounted stays.
fn refuses_mount(what: &str, at: &str) {
    let mut siege = Siege::new();
    let mut mount = None;
    let outside = siege.outside.join(what);
    siege.put_in("mounted", &manifest(TARGET), |drop| {
        if outside.is_dir() {
            fs::create_dir(drop.join(at)).unwrap();
        }
        mount = Some(Mount::bind(&siege.world.root, &outside, &drop.join(at)));
    });
    let name = at.strip_prefix("image/").unwrap();
    siege.assert_refused(
        "mounted",
        "unsafe-file",
        &["another file system is mounted there", name],
    );
    mount.unwrap().end();
    siege.end();
}

fn mount_in_drop() {
    refuses_mount("", "image/sub");
}

fn mounted_file() {
    refuses_mount("secret", "image/linux");
}

fn mounted_drop() {
    let mut siege = Siege::new();
    let drop = siege.world.incoming("mounted");
    fs::create_dir(&drop).unwrap();
    let mount = Mount::bind(&siege.world.root, &siege.outside, &drop);
    // An event for something else makes it look at all of them.
    siege
        .world
        .drop_image("other", OTHER, &[("linux", b"other")]);
    siege.daemon.wait_for("`mounted` has to wait: renaming ");
    siege.assert_goes_on();
    mount.end();
    fs::remove_dir(&drop).unwrap();
    siege.assert_goes_on();
    siege.end();
}

fn huge_is_overtaken() {
    let mut siege = Siege::new();
    let mut held = Vec::new();
    // One more than there are lanes for heavy ones.
    for number in 0..3 {
        let target = format!("amd64/generic/huge/t{number}");
        siege.put_in(format!("huge-{number}"), &manifest(&target), |drop| {
            let file = File::create(drop.join("image/disk")).unwrap();
            file.set_len(7 << 30).unwrap();
            held.push(file);
        });
    }
    let claimed = |siege: &Siege| siege.world.spool.join("processing/huge-1").exists();
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
    // Nobody has the patience to wait for their end.
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

fn without_watches() {
    let settings = format!("#spool rescan_interval = \"1s\"\n{LIMITS}");
    let mut siege = Siege::of(&settings, |world| {
        limited(world, "2 >/proc/sys/user/max_inotify_watches")
    });
    for number in 0..10 {
        fs::create_dir_all(siege.world.incoming(&format!("slow-{number}/image"))).unwrap();
        fs::write(
            siege.world.incoming(&format!("slow-{number}/image/linux")),
            number.to_string(),
        )
        .unwrap();
    }
    siege.daemon.wait_for("going on with rescans only");
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
    assert_eq!(warned.count(), 1, "{}", log.join("\n"));
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
                        // Its inside is to be watched, until it has its manifest.
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

fn incoming_replaced() {
    let siege = Siege::new();
    let Siege {
        world, mut daemon, ..
    } = siege;
    fs::rename(world.spool.join("incoming"), world.spool.join("old")).unwrap();
    fs::create_dir(world.spool.join("incoming")).unwrap();
    world.drop_image("new", TARGET, &[("linux", b"new")]);
    // An event of the folder that it has open makes it look.
    fs::create_dir(world.spool.join("old/anything")).unwrap();
    let status = daemon.wait();
    let log = daemon.log.join("\n");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("it is another folder than at the start"),
        "{log}"
    );
    let mut next = world.daemon();
    next.wait_for_drop("new");
    world.assert_outcome("new", "published");
    next.stop();
    world.assert_at_rest();
}

fn no_injection() {
    let mut siege = Siege::new();
    let evil = "\u{9b}2J\u{85}FORGED\u{2028}FORGED \u{202e}\u{2066}";
    let head = manifest(TARGET);
    let cases = [
        ("comment", format!("{head}version = 3 # {evil}\n")),
        ("value", format!("{head}version = [\"{evil}\"]\n")),
        ("key", format!("{head}\"{evil}\" = 1\n")),
        (
            "escaped-key",
            format!("{head}\"\\nFORGED\\u001b[2J\" = 1\n"),
        ),
        (
            "lines",
            format!("{head}version = [\"\"\"\nFORGED 2026-11-23 INFO published\n\"\"\"]\n"),
        ),
        (
            "path",
            format!("{head}[files]\n\"{evil}\" = {{ sha256 = \"x\" }}\n"),
        ),
        ("return", format!("{head}version = 3 # a\rFORGED\n")),
    ];
    for (name, text) in cases {
        siege.put_in(name, &text, |_| {});
        siege.assert_refused(name, "bad-manifest", &["manifest.toml"]);
    }
    let name = "x\u{2028}FORGED \u{202e}\" INFO published";
    siege.put_in(name, &manifest(TARGET), |_| {});
    siege.assert_goes_on();
    assert_eq!(siege.world.outcome(name).unwrap()["outcome"], "published");
    siege.end();
}
