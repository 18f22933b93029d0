//! Drops that mean harm, and the daemon that goes on beside them.

mod floods;
mod fuse;
mod manifests;
mod mounts;
mod races;
mod refusals;
mod users;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use libtest_mimic::Trial;
use netboot_publisher::Digest;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::lab::world::{self, Daemon, Ends, World, own, until};

/// The target of every hostile drop.
const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// What no importer may bring to light. It looks like a line of a manifest that is no good: such a
/// line would be shown in the detail of the refusal.
const SECRET: &str = "root-secret-3e1f = [";

/// Who owns the drops of an importer that is not root.
const IMPORTER: u32 = 65_534;

const LIMITS: &str = "[limits]\nmin_free_space = \"0B\"\nmax_files = 1000\nmax_depth = 16\n\
                      max_image_size = \"8GiB\"\n[retention]\nmin_age = \"0s\"\nkeep = 1000\n";

/// With these settings a rejected drop goes at once: the daemon looks every second.
const EXPIRES: &str = "#spool keep_rejected = \"0s\"\n#spool rescan_interval = \"1s\"\n";

pub fn tests() -> Vec<Trial> {
    let tests = [
        refusals::tests(),
        manifests::tests(),
        races::tests(),
        floods::tests(),
        mounts::tests(),
        fuse::tests(),
        users::tests(),
    ];
    tests.into_iter().flatten().collect()
}

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

    /// Drops an image that `make` has spoilt. Returns the drop's [`shape`].
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

    /// Builds a drop, which keeps a hidden name for now.
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
        // The log has no line of its own for each of many rejections.
        until("the outcome", || self.world.outcome(drop).is_some());
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
        let written = world.outcome_file(entry);
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

/// Something that must not come to light, of so many bytes.
fn secret(length: usize) -> String {
    SECRET.repeat(length / SECRET.len() + 1)[..length].to_string()
}

/// What only a writer could have changed, and no hard link or reading.
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

/// What a drop is like: every name with its inode, mode, owner and size. Follows no link.
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

fn replace(path: &Path, make: impl FnOnce(&Path)) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    make(path);
}

/// Calls `disturb` again and again in a thread of its own until `body` is done.
fn while_disturbed<T>(mut disturb: impl FnMut() + Send, body: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Ends(&is_over);
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
