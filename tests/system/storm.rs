//! The storm: machines that boot and boot again while their image changes, from real TFTP servers.
//!
//! Each reads its boot configuration, then the kernel and then the initrd that it names. Beside it,
//! in the same run, the control: the same two files at a fixed path, replaced by two renames.
//!
//! By paths that are always the same, machines boot in bursts: a loader that fetches the next one, by an
//! alias, and then kernel and initrd.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::boot_configs::shipped;
use crate::lab::tftp::{ADDRESS, Server};
use crate::lab::world::{Needs, PATIENCE, World, test, until};

/// So many boots of so many images is each server stormed with; and until a boot of the control has got two.
const BOOTS: usize = 600;
const VERSIONS: usize = 20;

const MACHINES: usize = 8;

const TARGET: &str = "amd64/generic/noble/install";
const CONTROL: &str = "control/install";

/// Two files that have to fit each other.
#[derive(Clone, Copy)]
struct Pair {
    target: &'static str,
    /// By which machines ask for the image.
    path: &'static str,
    files: [&'static str; 2],
}

const SYSTEM: Pair = Pair {
    target: TARGET,
    path: TARGET,
    files: ["linux", "initrd.gz"],
};

const LOADER: Pair = Pair {
    target: "amd64/generic/grub/loader",
    path: "efi-x64",
    files: ["shimx64.efi", "grubx64.efi"],
};

/// What a machine boots by paths that are always the same, in this order.
const PAIRS: [Pair; 2] = [LOADER, SYSTEM];

impl Pair {
    /// The paths of both files where the image is at this path.
    fn at(&self, path: &str) -> [String; 2] {
        self.files.map(|file| format!("{path}/{file}"))
    }
}

/// The bytes of the files of a pair.
const SIZES: [usize; 2] = [32 << 10, 128 << 10];

pub fn tests() -> Vec<Trial> {
    let needs = [Needs::Root, Needs::Program("unshare"), Needs::Program("ip")];
    let by = |server| [&needs[..], &[Needs::Program(server)]].concat();
    vec![
        test(
            "in a storm of boots from in.tftpd none is of two images",
            &by("in.tftpd"),
            || storm("in.tftpd --secure", Server::tftpd),
        ),
        test(
            "in a storm of boots from dnsmasq none is of two images",
            &by("dnsmasq"),
            || storm("dnsmasq", Server::dnsmasq),
        ),
        test(
            "no burst of boots from in.tftpd gets two images by the stable path, or two loaders by an alias",
            &by("in.tftpd"),
            || bursts("in.tftpd --secure", Server::tftpd),
        ),
        test(
            "no burst of boots from dnsmasq gets two images by the stable path, or two loaders by an alias",
            &by("dnsmasq"),
            || bursts("dnsmasq", Server::dnsmasq),
        ),
        test(
            "boots from in.tftpd that never pause get no two loaders or images before max_delay is over",
            &by("in.tftpd"),
            || never_a_pause("in.tftpd --secure", Server::tftpd),
        ),
        test(
            "boots from dnsmasq that never pause get no two loaders or images before max_delay is over",
            &by("dnsmasq"),
            || never_a_pause("dnsmasq", Server::dnsmasq),
        ),
    ]
}

/// What became of boots.
#[derive(Debug, Default)]
struct Boots {
    good: usize,
    mixed: usize,
    failed: Vec<String>,
    versions: BTreeSet<u64>,
}

impl Boots {
    fn count(&self) -> usize {
        self.good + self.mixed + self.failed.len()
    }

    /// Counts one more boot, with the version of each file that the machine got.
    fn add(&mut self, files: Result<[u64; 2], String>) {
        match files {
            Ok([linux, initrd]) if linux == initrd => {
                self.good += 1;
                self.versions.insert(linux);
            }
            Ok(_) => self.mixed += 1,
            Err(why) => self.failed.push(why),
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.good += other.good;
        self.mixed += other.mixed;
        self.failed.extend(other.failed);
        self.versions.extend(other.versions);
        self
    }
}

fn storm(name: &str, serve: fn(&Path, &[&str]) -> Server) {
    let world = shipped();
    let root = world.root.join("tftp");
    let daemon = world.daemon();
    publish(&world, &[SYSTEM], 0);
    replace_control(&root, 0);
    until("the first rendering", || {
        fs::read_to_string(root.join("pxelinux.cfg/default"))
            .is_ok_and(|text| text.contains(TARGET))
    });
    let server = serve(&root, &[]);
    let begin = Instant::now();
    let booted = Mutex::new(<[Boots; 2]>::default());
    let is_over = || {
        let [pinned, control] = &*booted.lock().unwrap();
        let is_enough = pinned.good >= BOOTS && pinned.versions.len() >= VERSIONS;
        is_enough && control.mixed > 0 || begin.elapsed() > PATIENCE
    };
    let changes = std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut version = 0;
            while !is_over() {
                version += 1;
                publish(&world, &[SYSTEM], version);
                replace_control(&root, version);
            }
            version
        });
        for number in 0..MACHINES {
            let (server, booted, is_over) = (&server, &booted, &is_over);
            scope.spawn(move || {
                server.enter();
                let machine = Machine {
                    // Many ROMs ask for the size, break off, and ask again.
                    asks_twice: number.is_multiple_of(2),
                };
                while !is_over() {
                    let boots = [machine.boot(), machine.fetch_both(SYSTEM.at(CONTROL))];
                    let mut booted = booted.lock().unwrap();
                    for (all, files) in booted.iter_mut().zip(boots) {
                        all.add(files);
                    }
                }
            });
        }
        changing.join().unwrap()
    });
    let [pinned, control] = booted.into_inner().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    drop(server);
    daemon.stop();
    println!(
        "{name}: {changes} changes in {seconds:.0} s ({:.1} a second); by pinned paths {} boots of {} \
         versions, {} mixed, {} failed; the control, two renames at a fixed path: {} boots, {} mixed, {} \
         failed",
        changes as f64 / seconds,
        pinned.count(),
        pinned.versions.len(),
        pinned.mixed,
        pinned.failed.len(),
        control.count(),
        control.mixed,
        control.failed.len()
    );
    assert!(pinned.failed.is_empty(), "{:?}\n{world}", pinned.failed);
    assert_eq!(pinned.mixed, 0, "{world}");
    assert!(
        pinned.good >= BOOTS && pinned.versions.len() >= VERSIONS,
        "no storm"
    );
    assert!(control.mixed > 0, "the control shows nothing");
}

/// A world whose tree is what the server calls `/`, with an alias of the loader.
fn stable(swap: &str) -> World {
    let Pair { target, path, .. } = LOADER;
    World::with(&format!(
        "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n[swap]\n{swap}\
         [[alias]]\npath = {path:?}\ntarget = {target:?}\n"
    ))
}

fn join(boots: [Boots; 2], others: [Boots; 2]) -> [Boots; 2] {
    let ([a, b], [c, d]) = (boots, others);
    [a.join(c), b.join(d)]
}

/// All machines boot for so long, once at least.
fn burst(server: &Server, lasts: Duration) -> [Boots; 2] {
    std::thread::scope(|scope| {
        let machine = |number: usize| {
            scope.spawn(move || {
                server.enter();
                let machine = Machine {
                    asks_twice: number.is_multiple_of(2),
                };
                let mut boots = <[Boots; 2]>::default();
                let end = Instant::now() + lasts;
                loop {
                    for (boots, pair) in boots.iter_mut().zip(PAIRS) {
                        boots.add(machine.fetch_both(pair.at(pair.path)));
                    }
                    if Instant::now() >= end {
                        return boots;
                    }
                }
            })
        };
        let machines: Vec<_> = (0..MACHINES).map(machine).collect();
        let booted = machines.into_iter().map(|machine| machine.join().unwrap());
        booted.fold(Default::default(), join)
    })
}

/// Bursts of boots, images that change in the middle of each, and a pause after it. Then the same
/// without a quiet period, as the control.
fn bursts(name: &str, serve: fn(&Path, &[&str]) -> Server) {
    const ROUNDS: u64 = 2;
    // Longer than the quiet period: only that machines use them keeps the old images.
    const BURST: Duration = Duration::from_secs(3);
    let world = stable("quiet_period = \"2s\"\nmax_delay = \"1d\"\n");
    let daemon = world.daemon();
    publish(&world, &PAIRS, 0);
    let server = serve(&world.tree, &[]);
    let mut quiet = <[Boots; 2]>::default();
    for version in 1..=ROUNDS {
        let boots = std::thread::scope(|scope| {
            let boots = scope.spawn(|| burst(&server, BURST));
            // The new images come in the pause after the burst; only then `publish` returns.
            publish(&world, &PAIRS, version);
            boots.join().unwrap()
        });
        for (boots, Pair { path, .. }) in boots.iter().zip(PAIRS) {
            let versions = &boots.versions;
            assert_eq!(*versions, [version - 1].into(), "{path} swapped amid boots");
        }
        quiet = join(quiet, boots);
    }
    // Without this burst nobody would boot the last version.
    quiet = join(quiet, burst(&server, Duration::ZERO));
    daemon.stop();

    fs::write(
        &world.config,
        fs::read_to_string(&world.config)
            .unwrap()
            .replace("\"2s\"", "\"0s\""),
    )
    .unwrap();
    let daemon = world.daemon();
    let mut control = <[Boots; 2]>::default();
    let mut version = ROUNDS;
    while control.iter().any(|it| it.mixed == 0) && version < 1_000 {
        let is_over = AtomicBool::new(false);
        let boots = std::thread::scope(|scope| {
            let boots = scope.spawn(|| {
                let boots = burst(&server, BURST / 8);
                is_over.store(true, Ordering::Relaxed);
                boots
            });
            while !is_over.load(Ordering::Relaxed) {
                version += 1;
                publish(&world, &PAIRS, version);
            }
            boots.join().unwrap()
        });
        control = join(control, boots);
    }
    daemon.stop();
    drop(server);
    for (pair, (quiet, control)) in PAIRS.iter().zip(quiet.iter().zip(&control)) {
        println!(
            "{name}, {}: {} boots in {ROUNDS} bursts, the image changed in each: {} mixed, {} failed; \
             without a quiet period {} boots, {} mixed, {} failed",
            pair.path,
            quiet.count(),
            quiet.mixed,
            quiet.failed.len(),
            control.count(),
            control.mixed,
            control.failed.len()
        );
        assert!(quiet.failed.is_empty(), "{:?}\n{world}", quiet.failed);
        assert_eq!(quiet.mixed, 0, "{world}");
        assert_eq!(quiet.versions, (0..=ROUNDS).collect(), "{world}");
        assert!(control.mixed > 0, "the control shows nothing");
    }
}

/// Boots without a pause, and images that change. Only the boots at the moment of a swap may get both.
fn never_a_pause(name: &str, serve: fn(&Path, &[&str]) -> Server) {
    let world = stable("quiet_period = \"2s\"\nmax_delay = \"4s\"\n");
    let mut daemon = world.daemon();
    publish(&world, &PAIRS, 0);
    let server = serve(&world.tree, &[]);
    let is_over = AtomicBool::new(false);
    let current = || PAIRS.map(|pair| fs::read_link(world.published(pair.target)).unwrap());
    let old = current();
    let (until_swapped, at_swap) = std::thread::scope(|scope| {
        let boots = scope.spawn(|| {
            let (mut until_swapped, mut at_swap) = <([Boots; 2], [Boots; 2])>::default();
            while !is_over.load(Ordering::Relaxed) {
                let mut boots = burst(&server, Duration::ZERO).map(Some);
                for (number, now) in current().iter().enumerate() {
                    let all = match *now == old[number] {
                        true => &mut until_swapped,
                        false => &mut at_swap,
                    };
                    let so_far = std::mem::take(&mut all[number]);
                    all[number] = so_far.join(boots[number].take().unwrap());
                }
            }
            (until_swapped, at_swap)
        });
        publish(&world, &PAIRS, 1);
        let text = "though machines use what is replaced";
        let lines = PAIRS.map(|_| daemon.wait_for(text));
        is_over.store(true, Ordering::Relaxed);
        for Pair { target, .. } in PAIRS {
            let is_said = |line: &String| line.contains(target) && line.contains("WARN");
            assert!(lines.iter().any(is_said), "{lines:?}");
        }
        boots.join().unwrap()
    });
    daemon.stop();
    for (pair, (before, at)) in PAIRS.iter().zip(until_swapped.iter().zip(&at_swap)) {
        println!(
            "{name}, {}: {} boots without a pause until the swap at max_delay, {} mixed; {} mixed at the swap",
            pair.path,
            before.count(),
            before.mixed,
            at.mixed
        );
        for boots in [before, at] {
            assert!(boots.failed.is_empty(), "{:?}\n{world}", boots.failed);
        }
        assert_eq!((before.mixed, &before.versions), (0, &[0].into()));
        // Each machine boots once in the burst in which the swap comes.
        assert!(at.mixed <= MACHINES, "{} mixed", at.mixed);
    }
}

/// A file with the same number all over: a mixture of two versions shows.
fn contents(version: u64, size: usize) -> Vec<u8> {
    version.to_le_bytes().repeat(size / 8)
}

/// Drops these images, and waits until each is published.
fn publish(world: &World, pairs: &[Pair], version: u64) {
    let name = |pair: &Pair| format!("{}-{version}", pair.files[0]);
    for pair in pairs {
        let contents = SIZES.map(|size| contents(version, size));
        let files = [0, 1].map(|number| (pair.files[number], &*contents[number]));
        world.drop_image(&name(pair), pair.target, &files);
    }
    for pair in pairs {
        until("the outcome", || world.outcome(&name(pair)).is_some());
        world.assert_outcome(&name(pair), "published");
    }
}

/// What a script does: the old one away, the new one into its place.
fn replace_control(root: &Path, version: u64) {
    let [old, new, place] = ["control/old", "control/new", CONTROL].map(|path| root.join(path));
    fs::create_dir_all(&new).unwrap();
    for (name, size) in SYSTEM.files.iter().zip(SIZES) {
        fs::write(new.join(name), contents(version, size)).unwrap();
    }
    if place.exists() {
        fs::rename(&place, &old).unwrap();
    }
    fs::rename(&new, &place).unwrap();
    let _ = fs::remove_dir_all(&old);
}

/// A machine that boots over TFTP (RFC 1350, with the options of RFC 2347 to 2349).
struct Machine {
    asks_twice: bool,
}

const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

const BLOCK: usize = 1_408;

impl Machine {
    /// Fetches the configuration and what it says to load. Returns the versions of both files.
    fn boot(&self) -> Result<[u64; 2], String> {
        let config = String::from_utf8(self.fetch("pxelinux.cfg/default")?).unwrap();
        let label = format!("LABEL {TARGET}\n");
        let (_, entry) = config.split_once(&label).ok_or("no image in the menu")?;
        let path = |key: &str| {
            let line = entry.lines().find_map(|line| line.trim().strip_prefix(key));
            line.map(|path| path.trim().replace("::", ""))
                .ok_or(key.to_string())
        };
        self.fetch_both([path("LINUX")?, path("INITRD")?])
    }

    fn fetch_both(&self, paths: [String; 2]) -> Result<[u64; 2], String> {
        let mut versions = [0; 2];
        for ((path, version), size) in paths.iter().zip(&mut versions).zip(SIZES) {
            let bytes = self.fetch(path)?;
            *version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            if bytes != contents(*version, size) {
                return Err(format!("{path} is of two versions in itself"));
            }
        }
        Ok(versions)
    }

    fn fetch(&self, path: &str) -> Result<Vec<u8>, String> {
        if self.asks_twice {
            self.ask(path, true)?;
        }
        self.ask(path, false)
    }

    /// Asks for a file; with `breaks_off` only for its size.
    fn ask(&self, path: &str, breaks_off: bool) -> Result<Vec<u8>, String> {
        let failed = |what: &str| format!("{path}: {what}");
        let io = |error: std::io::Error| format!("{path}: {error}");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(io)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .map_err(io)?;
        let server: Ipv4Addr = ADDRESS.parse().unwrap();
        let mut peer = SocketAddr::from((server, 69));
        let mut last = format!("\0\x01{path}\0octet\0tsize\x000\0blksize\0{BLOCK}\0").into_bytes();
        let (mut bytes, mut size, mut block) = (Vec::new(), None, 0_u16);
        let mut packet = vec![0; BLOCK + 4];
        let mut tries = 0;
        socket.send_to(&last, peer).map_err(io)?;
        loop {
            let (length, from) = match socket.recv_from(&mut packet) {
                Ok(received) => received,
                Err(_) if tries < 5 => {
                    tries += 1;
                    socket.send_to(&last, peer).map_err(io)?;
                    continue;
                }
                Err(error) => return Err(io(error)),
            };
            let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
            // The server answers from a port of its own, which is the transfer's from then on.
            if peer.port() == 69 {
                peer = from;
            } else if peer != from {
                continue;
            }
            match number(0) {
                OACK => {
                    let options: Vec<_> = packet[2..length].split(|byte| *byte == 0).collect();
                    let of = |key: &str| {
                        let at = options.iter().position(|word| *word == key.as_bytes());
                        let value = at.and_then(|at| std::str::from_utf8(options[at + 1]).ok());
                        value.and_then(|value| value.parse::<usize>().ok())
                    };
                    if of("blksize") != Some(BLOCK) {
                        return Err(failed("another size of blocks"));
                    }
                    size = of("tsize");
                    if breaks_off {
                        let abort = [&[0, 5, 0, 0][..], b"TFTP Aborted\0"].concat();
                        socket.send_to(&abort, peer).map_err(io)?;
                        return Ok(Vec::new());
                    }
                    last = acknowledge(0);
                }
                DATA => {
                    if number(2) == block.wrapping_add(1) {
                        block = number(2);
                        bytes.extend_from_slice(&packet[4..length]);
                        last = acknowledge(block);
                        if length - 4 < BLOCK {
                            socket.send_to(&last, peer).map_err(io)?;
                            if size != Some(bytes.len()) {
                                return Err(failed("not as long as was announced"));
                            }
                            return Ok(bytes);
                        }
                    }
                }
                ERROR => {
                    let text = String::from_utf8_lossy(&packet[4..length]).to_string();
                    return Err(failed(&text));
                }
                other => return Err(failed(&format!("a packet of kind {other}"))),
            }
            socket.send_to(&last, peer).map_err(io)?;
        }
    }
}

fn acknowledge(block: u16) -> Vec<u8> {
    [ACK.to_be_bytes(), block.to_be_bytes()].concat()
}
