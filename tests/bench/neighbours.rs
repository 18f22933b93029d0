//! What one importer's trouble costs another: a drop of two bytes, and an ordinary image, beside each
//! trouble and on the same daemon while it is idle.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::measure::{process_status, settle};
use crate::world::{Daemon, World, bindfs_of, manifest, own};
use crate::{Bench, mib, noise};

/// The importer with the trouble; the other one is root.
const IMPORTER: u32 = 4_711;

/// An ordinary kernel and initrd.
const IMAGE: usize = 70 << 20;

const TARGET: &str = "arm64/generic/noble/install";

/// What puts a trouble into the spool, as [`IMPORTER`].
#[derive(Clone, Copy)]
enum Trouble {
    Drops(fn(&World)),
    /// `None` where the machine hasn't got what it takes.
    Mounts(fn(&World) -> Option<Mounts>),
}

/// File systems of an importer's own that never answer; they go with this.
struct Mounts {
    servers: Vec<Child>,
    /// They are below this folder.
    root: PathBuf,
}

pub fn neighbours(bench: &Bench) {
    if !rustix::process::geteuid().is_root() {
        println!("neighbours: not measured, drops of another user take root");
        return;
    }
    let troubles: [(&str, Trouble); 6] = [
        (
            "300 manifests of 100,000 files, none there",
            Trouble::Drops(many_listed),
        ),
        ("60,000 empty folders", Trouble::Drops(many_empty)),
        ("six holes of 4 GiB", Trouble::Drops(holes)),
        ("2,000 good drops", Trouble::Drops(many_good)),
        (
            "one that needs more than the disk, same target",
            Trouble::Drops(too_large),
        ),
        (
            "12 mounts on drops, by FUSE, that never answer",
            Trouble::Mounts(never_answering),
        ),
    ];
    for (what, trouble) in troubles {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        let mut memory = 0;
        for round in 0..bench.rounds.min(3) {
            let dir = tempfile::tempdir_in(&bench.dir).expect("a temporary directory");
            let (spool, tree) = (dir.path().join("spool"), dir.path().join("tree"));
            let settings = "[limits]\nmin_free_space = \"0B\"\nmax_image_size = \"1024GiB\"\n";
            let world = World::at(dir.path(), &spool, &tree, settings);
            let mut command = world.command(&["run"]);
            command.envs(environment_of_the_unit());
            let daemon = Daemon::start(command);
            let times = |when: &str| {
                [("small", 2), ("large", IMAGE)].map(|(name, size)| {
                    let name = format!("{name}-{when}");
                    time_of(&world, &name, size, round)
                })
            };
            let idle = times("idle");
            let _mounts = match trouble {
                Trouble::Drops(put) => {
                    put(&world);
                    None
                }
                Trouble::Mounts(mount) => {
                    let mounts = mount(&world);
                    if mounts.is_none() {
                        break;
                    }
                    mounts
                }
            };
            let beside = times("beside");
            small.push((idle[0], beside[0]));
            large.push((idle[1], beside[1]));
            memory = memory.max(peak(&daemon));
            // What is left of the trouble ends with it.
            daemon.kill();
        }
        let ratio =
            |(idle, beside): &(Duration, Duration)| beside.as_secs_f64() / idle.as_secs_f64();
        let Some(slowest) = small.iter().map(|(_, beside)| beside).max() else {
            println!(
                "beside {what:47} | not measured: it takes /dev/fuse, bindfs and leave to mount"
            );
            continue;
        };
        let mut ratios: Vec<_> = large.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let (median, largest) = (ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
        let mut idle: Vec<_> = large.iter().map(|(idle, _)| idle.as_secs_f64()).collect();
        idle.sort_by(f64::total_cmp);
        println!(
            "beside {what:47} | 2 bytes: {:.3} s | 70 MiB: {median:.2} [..{largest:.2}] of {:.3} s \
             idle | peak {} | goal 1 s, 3, 64 MiB",
            slowest.as_secs_f64(),
            idle[idle.len() / 2],
            mib(memory)
        );
    }
}

/// What the allocator of the installed service is told.
fn environment_of_the_unit() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../systemd/netboot-publisher.service").lines();
    let lines = unit.filter_map(|line| line.strip_prefix("Environment="));
    lines
        .flat_map(str::split_whitespace)
        .filter_map(|pair| pair.split_once('='))
}

/// From the rename of a drop to its outcome.
fn time_of(world: &World, name: &str, size: usize, round: usize) -> Duration {
    let mut bytes = noise(size.max(8));
    bytes[0] ^= u8::try_from(round % 256).unwrap();
    bytes.truncate(size);
    let hidden = format!(".{name}");
    world.drop_image(&hidden, TARGET, &[("initrd.gz", &bytes)]);
    settle();
    let outcome = world.outcomes_of(0).join(format!("{name}.json"));
    let began = Instant::now();
    fs::rename(world.incoming(&hidden), world.incoming(name)).unwrap();
    while !outcome.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    world.assert_outcome(name, "published");
    took
}

fn peak(daemon: &Daemon) -> u64 {
    process_status(&daemon.child.id().to_string(), "VmHWM")
}

/// Makes a drop under a hidden name, and gives it to [`IMPORTER`].
fn build(world: &World, name: &str, text: &str, make: impl FnOnce(&Path)) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir_all(hidden.join("image")).unwrap();
    make(&hidden.join("image"));
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    own(&hidden, IMPORTER);
}

fn hand_over(world: &World, names: impl Iterator<Item = String>) {
    for name in names {
        let hidden = world.incoming(&format!(".{name}"));
        fs::rename(hidden, world.incoming(&name)).unwrap();
    }
}

fn target(number: usize) -> String {
    format!("amd64/generic/noble/p{number}")
}

fn many_listed(world: &World) {
    let sha256 = "0".repeat(64);
    let lines =
        (0..100_000).map(|number| format!("\"f/{number}\" = {{ sha256 = \"{sha256}\" }}\n"));
    let text = manifest(&target(0)) + "[files]\n" + &lines.collect::<String>();
    let stock = world.root.join("long.toml");
    fs::write(&stock, text).unwrap();
    chown(&stock, Some(IMPORTER), None).unwrap();
    let names = || (0..300).map(|number| format!("long-{number}"));
    for name in names() {
        build(world, &name, "", |_| {});
        let place = world.incoming(&format!(".{name}")).join("manifest.toml");
        fs::remove_file(&place).unwrap();
        fs::hard_link(&stock, place).unwrap();
    }
    hand_over(world, names());
}

fn many_empty(world: &World) {
    let names = || (0..60_000).map(|number| format!("empty-{number}"));
    for name in names() {
        let folder = world.incoming(&format!(".{name}"));
        fs::create_dir(&folder).unwrap();
        chown(folder, Some(IMPORTER), None).unwrap();
    }
    hand_over(world, names());
}

fn holes(world: &World) {
    let names = || (0..6).map(|number| format!("hole-{number}"));
    for (number, name) in names().enumerate() {
        build(world, &name, &manifest(&target(number)), |image| {
            let hole = File::create(image.join("disk")).unwrap();
            hole.set_len(4 << 30).unwrap();
        });
    }
    hand_over(world, names());
}

fn many_good(world: &World) {
    let names = || (0..2_000).map(|number| format!("good-{number}"));
    for (number, name) in names().enumerate() {
        build(world, &name, &manifest(&target(number)), |image| {
            fs::write(image.join("linux"), vec![7; 64 << 10]).unwrap();
        });
    }
    hand_over(world, names());
}

fn too_large(world: &World) {
    build(world, "too-large", &manifest(TARGET), |image| {
        let hole = File::create(image.join("disk")).unwrap();
        hole.set_len(free_space(&world.root) + (1 << 30)).unwrap();
    });
    hand_over(world, ["too-large".to_string()].into_iter());
}

/// In drops that are handed over then, on drops that wait, and in drops that the daemon has in hand.
fn never_answering(world: &World) -> Option<Mounts> {
    let shown = world.root.join("shown");
    fs::create_dir(&shown).unwrap();
    fs::set_permissions(&world.root, Permissions::from_mode(0o755)).unwrap();
    let mut mounts = Mounts {
        servers: Vec::new(),
        root: fs::canonicalize(&world.root).unwrap(),
    };
    let build = |name: &str, number, size| {
        build(world, name, &manifest(&target(number)), |image| {
            fs::write(image.join("disk"), vec![7; size]).unwrap();
        });
        (world.incoming(&format!(".{name}")), world.incoming(name))
    };
    for number in 0..4 {
        let (hidden, place) = build(&format!("before-{number}"), number, 1 << 20);
        if !mounts.add(&shown, &hidden.join("image")) {
            return None;
        }
        fs::rename(hidden, place).unwrap();

        let waiting = world.incoming(&format!("waiting-{number}"));
        fs::create_dir(&waiting).unwrap();
        own(&waiting, IMPORTER);
        mounts.add(&shown, &waiting);

        let name = format!("begun-{number}");
        let (hidden, place) = build(&name, 100 + number, 64 << 20);
        fs::rename(hidden, &place).unwrap();
        while place.exists() {}
        if let Some(claimed) = world.place(&name) {
            // It may be done by then.
            mounts.add(&shown, &claimed.join("image"));
        }
    }
    Some(mounts)
}

impl Mounts {
    /// Mounts one that shows the folder `what` until it stands still, at once. Returns whether it came
    /// to that.
    fn add(&mut self, what: &Path, at: &Path) -> bool {
        let mut command = bindfs_of(IMPORTER);
        command.args(["-f", "-o", "nonempty"]);
        command.args([what, at]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let before = self.places().len();
        let Ok(mut server) = command.spawn() else {
            return false;
        };
        while self.places().len() == before {
            if server.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&server), Signal::STOP).unwrap();
        self.servers.push(server);
        true
    }

    /// Where something is mounted by now: a drop takes its mounts with it.
    fn places(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let places = places.filter(|place| Path::new(place).starts_with(&self.root));
        places.map(PathBuf::from).collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // Whoever waits for an answer gets an error then.
            let _ = server.kill();
            let _ = server.wait();
        }
        if !self.servers.is_empty() {
            let places = self.places();
            let _ = Command::new("umount").arg("--lazy").args(places).status();
        }
    }
}

fn free_space(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}
