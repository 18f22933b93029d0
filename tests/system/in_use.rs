//! What machines use stays, also for a daemon that may not look into the servers' processes: what
//! they have open shows by events and by locks.

use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::lab::tftp::Server;
use crate::lab::world::{Daemon, Needs, test, until};
use crate::unprivileged::{NEEDS, Unprivileged};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// The size of a file that takes many blocks to send.
const SIZE: usize = 64 << 10;

/// in.tftpd waits so long for an answer before it sends again, in microseconds.
const PATIENT: [&str; 2] = ["--retransmit", "60000000"];

pub fn tests() -> Vec<Trial> {
    let needs = |more: &[Needs]| [&NEEDS, more].concat();
    let tftpd = needs(&[
        Needs::Program("unshare"),
        Needs::Program("ip"),
        Needs::Program("in.tftpd"),
    ]);
    vec![
        test(
            "a swap waits for a transfer from in.tftpd that has fallen silent",
            &tftpd,
            swap_waits,
        ),
        test(
            "vacuum waits for a transfer from in.tftpd that has fallen silent",
            &tftpd,
            vacuum_waits_for_a_lock,
        ),
        test(
            "vacuum waits for whoever reads",
            &needs(&[]),
            vacuum_waits_for_a_reader,
        ),
        test(
            "a lock that is never released keeps a generation no longer than a bound",
            &needs(&[Needs::Failpoints]),
            lock_is_bounded,
        ),
        test(
            "a file that is read for ever keeps a generation no longer than a bound",
            &needs(&[Needs::Failpoints]),
            reading_is_bounded,
        ),
    ]
}

fn world(settings: &str) -> Unprivileged {
    Unprivileged::new(&format!("[limits]\nmin_free_space = \"0B\"\n{settings}"))
}

fn publish(poor: &Unprivileged, daemon: &mut Daemon, target: &str, name: &str) {
    poor.drop_image(name, target, name.repeat(SIZE / name.len()).as_bytes());
    daemon.wait_for_drop(name);
    poor.world.assert_outcome(name, "published");
}

fn is_shown(poor: &Unprivileged, name: &str) -> bool {
    let shown = fs::read_to_string(poor.world.published(TARGET).join("linux"));
    shown.unwrap().starts_with(name)
}

fn swap_waits() {
    let poor = world("[swap]\nquiet_period = \"300ms\"\nmax_delay = \"1d\"\n");
    let server = Server::tftpd(&poor.world.tree, &PATIENT);
    let mut daemon = poor.daemon();
    publish(&poor, &mut daemon, TARGET, "old");
    publish(&poor, &mut daemon, OTHER, "other");
    let _machine = server.silent_machine(&format!("{TARGET}/linux"));
    poor.drop_image("new", TARGET, b"new");
    // The wait has been long enough: later drops for another target are swapped meanwhile.
    for name in ["other-1", "other-2", "other-3"] {
        publish(&poor, &mut daemon, OTHER, name);
    }
    assert!(is_shown(&poor, "old"), "{}", poor.world);
    drop(server);
    daemon.wait_for_drop("new");
    assert!(is_shown(&poor, "new"), "{}", poor.world);
    daemon.stop();
    poor.world.assert_at_rest();
}

/// Publishes two generations of each target in a world where what is superseded goes soon; `use_it`
/// uses the older one of `TARGET`. Returns once the older one of the other target has gone, though
/// it was superseded later.
fn supersede<U>(
    poor: &Unprivileged,
    daemon: &mut Daemon,
    use_it: impl FnOnce(&str) -> U,
) -> (std::path::PathBuf, U) {
    publish(poor, daemon, TARGET, "old");
    publish(poor, daemon, OTHER, "other-old");
    let pinned = |drop| {
        let outcome = poor.world.outcome(drop).unwrap();
        let [target, generation] = ["target", "generation"].map(|key| outcome[key].as_str());
        format!("{}@/{}", target.unwrap(), generation.unwrap())
    };
    let used = use_it(&format!("{}/linux", pinned("old")));
    publish(poor, daemon, TARGET, "new");
    publish(poor, daemon, OTHER, "other-new");
    let other = poor.world.tree.join(pinned("other-old"));
    until("vacuum", || !other.exists());
    (poor.world.tree.join(pinned("old")), used)
}

const GOES_SOON: &str = "[swap]\nquiet_period = \"0s\"\n[retention]\nkeep = 0\nmin_age = \"1s\"\n";

fn vacuum_waits_for_a_lock() {
    let poor = world(GOES_SOON);
    let server = Server::tftpd(&poor.world.tree, &PATIENT);
    let mut daemon = poor.daemon();
    let (old, _machine) = supersede(&poor, &mut daemon, |path| server.silent_machine(path));
    assert!(old.join("linux").exists(), "{}", poor.world);
    drop(server);
    until("vacuum", || !old.exists());
    daemon.stop();
    poor.world.assert_at_rest();
}

fn vacuum_waits_for_a_reader() {
    let poor = world(GOES_SOON);
    let mut daemon = poor.daemon();
    let is_over = Arc::new(AtomicBool::new(false));
    let (old, reader) = supersede(&poor, &mut daemon, |path| {
        let mut file = fs::File::open(poor.world.tree.join(path)).unwrap();
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                file.read_exact(&mut [0]).unwrap();
                // As slowly as a machine with a bad line, and with no pause as long as a watch.
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    });
    assert!(old.join("linux").exists(), "{}", poor.world);
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    until("vacuum", || !old.exists());
    daemon.stop();
    poor.world.assert_at_rest();
}

/// What stands for a day.
const SOON_OVER: [(&str, &str); 1] = [("NETBOOT_PUBLISHER_SHORT", "in-use:3000")];

/// Waits until the generation goes in spite of its use, which the log tells in these words.
fn until_it_goes(daemon: &mut Daemon, old: &std::path::Path, how: &str) {
    let line = daemon.wait_for("removed, no longer kept, though in use for");
    assert!(line.contains("WARN") && line.contains(TARGET), "{line}");
    assert!(line.contains(how), "{line}");
    until("the removal", || !old.exists());
}

fn lock_is_bounded() {
    let poor = world(GOES_SOON);
    let mut daemon = poor.daemon_with(&SOON_OVER);
    let (old, mut file) = supersede(&poor, &mut daemon, |path| {
        let file = fs::File::open(poor.world.tree.join(path)).unwrap();
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
        file
    });
    let how = format!("after its time: locked by process {}", std::process::id());
    until_it_goes(&mut daemon, &old, &how);
    // Whoever has it open reads it to its end.
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old".repeat(SIZE / 3));
    daemon.stop();
    poor.world.assert_at_rest();
}

fn reading_is_bounded() {
    let poor = world(GOES_SOON);
    let mut daemon = poor.daemon_with(&SOON_OVER);
    let is_over = Arc::new(AtomicBool::new(false));
    let (old, reader) = supersede(&poor, &mut daemon, |path| {
        let path = poor.world.tree.join(path);
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            // Until the file has gone.
            while !is_over.load(Ordering::Relaxed) && fs::read(&path).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    });
    until_it_goes(&mut daemon, &old, "after its time: read again and again");
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    daemon.stop();
    poor.world.assert_at_rest();
}
