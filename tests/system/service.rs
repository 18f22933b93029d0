//! The installed service: package, unit, users and journal, on a real systemd.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::container::{self, ADDRESS, Container, UNIT};
use crate::lab::tftp::silent_machine;
use crate::lab::world::{self, Needs, assert_same_content, manifest, snapshot, test, text, until};

/// Debian's own netboot image.
const DEBIAN: &str = "/usr/lib/debian-installer/images/12/amd64/text";

pub const TREE: &str = "/srv/tftp/netboot";
const SPOOL: &str = "/var/spool/netboot-publisher";

/// A publication of this size can be met in its middle.
const LARGE: u64 = 2 << 30;

pub fn tests() -> Vec<Trial> {
    let needs = |more: &[Needs]| [&container::NEEDS, more].concat();
    vec![
        test(
            "the installed service publishes an importer's Debian and says so in the journal",
            &needs(&[Needs::Program("curl"), Needs::Path(DEBIAN)]),
            publishes_debian,
        ),
        test(
            "the service waits with a swap for a transfer that has fallen silent",
            &needs(&[]),
            waits_for_a_transfer,
        ),
        test(
            "an importer of the installed service reaches nothing but own drops and outcomes",
            &needs(&[]),
            importers_are_kept_apart,
        ),
        test(
            "a publication that a restart or a kill of the service cuts short is finished after it",
            &needs(&[]),
            finishes_after_restart,
        ),
        test(
            "a copy that takes longer than the watchdog waits does not bring it up",
            &needs(&[]),
            copies_longer_than_the_watchdog,
        ),
        test(
            "a publisher that hangs is started again by the watchdog",
            &needs(&[Needs::Failpoints]),
            hangs,
        ),
        test(
            "work that hangs lets the watchdog start the service again",
            &needs(&[Needs::Failpoints]),
            work_hangs,
        ),
        test(
            "a start that fails again and again is tried until it goes well",
            &needs(&[]),
            starts_at_last,
        ),
        test(
            "the service sees and changes nothing but what is its own",
            &needs(&[]),
            is_confined,
        ),
        test(
            "the weekly scrub fails when what is published is damaged and says what",
            &needs(&[]),
            scrub_finds_damage,
        ),
        test(
            "the journal has each of a thousand outcomes once",
            &needs(&[]),
            journal_is_complete,
        ),
        test(
            "upgrade removal and purge of the package lose nothing",
            &needs(&[]),
            package_loses_nothing,
        ),
        test(
            "lintian finds no fault with the package",
            &[
                Needs::Root,
                Needs::Program("cargo-deb"),
                Needs::Program("lintian"),
            ],
            package_is_clean,
        ),
        test(
            "the example importer publishes Debian for two architectures",
            &[
                Needs::Root,
                Needs::Program("apt-get"),
                Needs::Path("/etc/debian_version"),
            ],
            example_importer_works,
        ),
    ]
}

fn publishes_debian() {
    let container = Container::with_service();
    let copied = container.path("/opt/debian");
    let status = Command::new("cp")
        .args(["-r", DEBIAN])
        .arg(&copied)
        .status();
    assert!(status.unwrap().success());

    let submit = "netboot-publisher submit --arch amd64 --release bookworm --purpose install \
                  --wait=120 /opt/debian";
    let submitted = container.run_as("ci", submit);
    assert!(submitted.status.success(), "{}", text(&submitted));
    let target = "amd64/generic/bookworm/install";
    let published = container.path(&format!("{TREE}/{target}"));
    assert_same_content(&published, Path::new(DEBIAN));

    // The image is fetched as a machine fetches it.
    let kernel = "debian-installer/amd64/linux";
    container.serve();
    for path in [kernel, "debian-installer/amd64/initrd.gz", "pxelinux.0"] {
        let fetched = container
            .enter_network("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--tftp-blksize",
                "8192",
                "--retry",
                "5",
            ])
            .arg(format!("tftp://{ADDRESS}/netboot/{target}/{path}"))
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{path}: {}", text(&fetched));
        assert!(
            fetched.stdout == fs::read(Path::new(DEBIAN).join(path)).unwrap(),
            "{path}"
        );
    }

    // The same image, dropped by nothing but mkdir, cp and mv, is no change.
    let importer = shell_importer()
        .replace("IMAGE", "/opt/debian")
        .replace("NAME", "by-hand");
    let dropped = container.run_as("ci", &importer);
    assert!(dropped.status.success(), "{importer}{}", text(&dropped));
    container.wait_for_outcome("by-hand", "unchanged");

    // An outcome is there a moment before its entry in the journal.
    let both = || container.journal(&format!("--unit {UNIT} TARGET={target}"));
    until("both entries", || both().len() >= 2);
    let entries = both();
    let of = |key: &str| -> Vec<Value> { entries.iter().map(|entry| entry[key].clone()).collect() };
    assert_eq!(of("OUTCOME"), ["published", "unchanged"], "{entries:#?}");
    assert_eq!(of("IMPORTER"), ["ci", "ci"]);
    assert_eq!(of("DROP")[1], "by-hand");
    let outcome = container.outcome("by-hand").unwrap();
    for (field, key) in [("GENERATION", "generation"), ("DIGEST", "digest")] {
        assert_eq!(entries[1][field], outcome[key], "{entries:#?}");
    }
    assert_eq!(entries[1]["BYTES"], outcome["bytes"].to_string().as_str());
    let duration = entries[0]["DURATION_USEC"].as_str().expect("a field");
    assert!(duration.parse::<u64>().unwrap() > 0, "{duration}");

    let explained = container.ok(&format!("journalctl --catalog --unit {UNIT} DROP=by-hand"));
    assert!(explained.contains(" Subject: "), "{explained}");
    assert!(explained.contains("by-hand"), "{explained}");
    assert!(
        !explained.contains('@'),
        "a field that isn't there: {explained}"
    );
    let status = container.ok(&format!("systemctl status {UNIT}"));
    assert!(status.contains("Status: \""), "{status}");
    // The status follows what happens at some distance.
    until("the status of the service", || {
        container.property("StatusText").contains("1 target")
    });
}

/// The importer that the README shows.
fn shell_importer() -> String {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme
        .split_once("### An importer of ten lines\n")
        .expect("a section");
    let (_, block) = rest.split_once("```\n").expect("a block");
    block.split("```").next().unwrap().to_string()
}

/// The server runs as another user, and the sandbox hides the server.
fn waits_for_a_transfer() {
    let container = Container::with_service();
    container.serve();
    container.configure("[swap]\nquiet_period = \"300ms\"\nmax_delay = \"1d\"\n");
    container.ok(&format!("systemctl reload {UNIT}"));
    let publish = |name: &str, target: &str| {
        drop_as_ci(&container, name, target, |image| {
            fs::write(image.join("linux"), name.repeat(10_000)).unwrap();
        });
    };
    let (target, other) = ("amd64/generic/noble/install", "arm64/generic/noble/install");
    for (name, target) in [("old", target), ("other", other)] {
        publish(name, target);
        container.wait_for_outcome(name, "published");
    }
    let _machine = silent_machine(&container.network(), &format!("netboot/{target}/linux"));
    publish("new", target);
    // The wait has been long enough: later drops for another target are swapped meanwhile.
    for name in ["other-1", "other-2"] {
        publish(name, other);
        container.wait_for_outcome(name, "published");
    }
    assert_eq!(container.outcome("new"), None);
    let linux = container.path(&format!("{TREE}/{target}/linux"));
    assert!(fs::read_to_string(linux).unwrap().starts_with("old"));
    container.ok("systemctl stop tftpd-hpa");
    container.wait_for_outcome("new", "published");
}

fn importers_are_kept_apart() {
    let container = Container::with_service();
    // A drop that is still written, and one that was rejected.
    let begin = format!(
        "mkdir {SPOOL}/incoming/.mine; mkdir {SPOOL}/incoming/.mine/image
         echo secret > {SPOOL}/incoming/.mine/image/linux"
    );
    let begun = container.run_as("ci", &begin);
    assert!(begun.status.success(), "{}", text(&begun));
    container.ok(&format!(
        "runuser -u ci -- mkdir -p {SPOOL}/incoming/bad/other
        runuser -u ci -- touch {SPOOL}/incoming/bad/manifest.toml"
    ));
    container.wait_for_outcome("bad", "rejected");
    let of_ci = format!("{SPOOL}/outcomes/$(id -u ci)");

    let denied = [
        ("nightly", format!("cat {SPOOL}/incoming/.mine/image/linux")),
        (
            "nightly",
            format!("echo > {SPOOL}/incoming/.mine/image/linux"),
        ),
        (
            "nightly",
            format!("touch {SPOOL}/incoming/.mine/manifest.toml"),
        ),
        (
            "nightly",
            format!("mv {SPOOL}/incoming/.mine {SPOOL}/incoming/.stolen"),
        ),
        ("nightly", format!("rm -r {SPOOL}/incoming/.mine")),
        ("nightly", format!("ls {SPOOL}/incoming")),
        ("nightly", format!("mv {SPOOL}/incoming {SPOOL}/gone")),
        ("nightly", format!("ls {SPOOL}/processing")),
        ("nightly", format!("touch {SPOOL}/processing/x")),
        ("nightly", format!("ls {SPOOL}/rejected")),
        ("ci", format!("ls {SPOOL}/rejected/bad")),
        ("nightly", format!("touch {SPOOL}/outcomes/x.json")),
        ("nightly", format!("mkdir {SPOOL}/outcomes/4711")),
        ("nightly", format!("ls {of_ci}")),
        ("nightly", format!("cat {of_ci}/bad.json")),
        ("nightly", format!("touch {of_ci}/bad.json")),
        ("ci", format!("rm {of_ci}/bad.json")),
        ("ci", format!("touch {of_ci}/x.json")),
        ("ci", format!("chmod 755 {of_ci}")),
        ("ci", format!("touch {SPOOL}/x")),
        ("ci", format!("touch {TREE}/x")),
        ("ci", format!("ls {TREE}/.netboot-publisher")),
        ("stranger", format!("mkdir {SPOOL}/incoming/mine")),
        ("stranger", format!("cat {of_ci}/bad.json")),
        (
            "stranger",
            format!("cat {SPOOL}/incoming/.mine/image/linux"),
        ),
        ("stranger", format!("touch {SPOOL}/x")),
        ("stranger", format!("touch {TREE}/x")),
    ];
    for (user, command) in denied {
        let output = container.run_as(user, &command);
        assert!(!output.status.success(), "{user} may: {command}");
        assert!(
            text(&output).contains("Permission denied") || text(&output).contains("not permitted"),
            "{user}: {command}: {}",
            text(&output)
        );
    }
    let allowed = [
        (
            "ci",
            format!("cat {of_ci}/bad.json {SPOOL}/incoming/.mine/image/linux"),
        ),
        ("ci", format!("rm -r {SPOOL}/incoming/.mine")),
        ("ci", format!("ls {of_ci}")),
        ("stranger", "netboot-publisher status".to_string()),
    ];
    for (user, command) in allowed {
        let output = container.run_as(user, &command);
        assert!(
            output.status.success(),
            "{user}: {command}: {}",
            text(&output)
        );
    }
    // A drop that only its owner may read, with a folder whose entries only their owner may remove.
    let awkward = format!("umask 077; cd {SPOOL}/incoming; mkdir -p .private/image/sticky
        echo kernel > .private/image/linux; echo module > .private/image/sticky/module
        chmod 1777 .private/image/sticky
        printf 'format = 1\\narch = \"a\"\\nrelease = \"r\"\\npurpose = \"p\"\\n' > .private/manifest.toml
        mv -T .private private");
    let dropped = container.run_as("ci", &awkward);
    assert!(dropped.status.success(), "{}", text(&dropped));
    container.wait_for_outcome("private", "published");
    world::wait_for_names(&container.path(&format!("{SPOOL}/processing")), &[]);
    let kernel = container.path(&format!("{TREE}/a/generic/r/p/linux"));
    assert_eq!(
        fs::metadata(kernel).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

fn finishes_after_restart() {
    let container = Container::with_service();
    for (number, end) in [
        format!("systemctl restart {UNIT}"),
        format!("systemctl kill --kill-whom=main --signal=KILL {UNIT}"),
    ]
    .iter()
    .enumerate()
    {
        let (drop, target) = (format!("large-{number}"), format!("a/b/c/large-{number}"));
        let first = container.property("MainPID");
        drop_large(&container, &drop, &target);
        wait_for_copying(&container);
        freeze(&container);
        container.ok(end);
        assert!(container.outcome(&drop).is_none(), "it was done already");
        until("the service's next start", || {
            container.property("ActiveState") == "active" && container.property("MainPID") != first
        });
        // The service is up again long before the drop is done.
        assert!(
            container.outcome(&drop).is_none(),
            "the start waited for the drop"
        );
        container.wait_for_outcome(&drop, "published");
        assert_large(&container, &target);
        let entries = container.journal(&format!("--unit {UNIT} DROP={drop}"));
        let published: Vec<_> = entries
            .iter()
            .filter(|entry| entry["OUTCOME"] == "published")
            .collect();
        assert_eq!(published.len(), 1, "{entries:#?}");
        assert_eq!(published[0]["_PID"], container.property("MainPID").as_str());
    }
    world::wait_for_names(&container.path(&format!("{SPOOL}/processing")), &[]);
    assert_eq!(
        world::names(&container.path(&format!("{TREE}/.netboot-publisher/staging"))),
        [""; 0]
    );
}

/// Keeps the daemon in the middle of what it does until somebody ends it: `systemd.kill(5)` sends
/// SIGCONT behind SIGTERM.
fn freeze(container: &Container) {
    let process = container.property("MainPID");
    container.ok(&format!("kill -STOP {process}"));
}

fn copies_longer_than_the_watchdog() {
    let container = Container::with_service();
    container.drop_in("watchdog", "WatchdogSec=1s");
    container.ok(&format!("systemctl restart {UNIT}"));
    let process = container.property("MainPID");
    drop_large(&container, "large", "a/b/c/large");
    container.wait_for_outcome("large", "published");
    let entries = container.journal(&format!("--unit {UNIT} DROP=large OUTCOME=published"));
    let took: u64 = entries[0]["DURATION_USEC"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        took > 1_000_000,
        "the copy took {took} µs only: it proves nothing"
    );
    assert_eq!(container.property("MainPID"), process);
    assert_eq!(container.property("NRestarts"), "0");
}

fn hangs() {
    let container = Container::with_service();
    let said = hangs_once(&container, "NETBOOT_PUBLISHER_FAILPOINT=publisher:3:hang\n");
    assert!(said.contains("Watchdog timeout"), "{said}");
}

/// The loop of the publisher goes on, and a thread of it doesn't.
fn work_hangs() {
    let container = Container::with_service();
    let said = hangs_once(
        &container,
        "NETBOOT_PUBLISHER_FAILPOINT=copy-file:1:hang\nNETBOOT_PUBLISHER_SHORT=hangs:1000\n",
    );
    assert!(said.contains("publishing hangs: no sign of life"), "{said}");
    assert!(said.contains("Watchdog timeout"), "{said}");
    let entries = container.journal(&format!("--unit {UNIT} --priority err"));
    let of_target = entries.iter().any(|entry| entry["TARGET"] == "a/b/c/d");
    assert!(of_target, "{entries:#?}");
}

/// Lets the service hang, in its first start with these variables only; returns its log once it was
/// started again and has published what it hung on.
fn hangs_once(container: &Container, variables: &str) -> String {
    let folder = container.path("/var/lib/hang");
    fs::create_dir(&folder).unwrap();
    container.drop_in(
        "watchdog",
        "WatchdogSec=2s\nEnvironmentFile=-/var/lib/hang/environment",
    );
    fs::write(folder.join("environment"), variables).unwrap();
    container.ok(&format!("systemctl restart {UNIT}"));
    let process = container.property("MainPID");
    fs::remove_file(folder.join("environment")).unwrap();
    drop_as_ci(container, "drop", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
    });
    container.wait_for_outcome("drop", "published");
    until("another start", || container.property("MainPID") != process);
    container.ok(&format!(
        "journalctl --sync; journalctl --unit {UNIT} --output cat"
    ))
}

fn starts_at_last() {
    let container = Container::with_service();
    container.drop_in("soon", "RestartSec=100ms");
    let away = [
        (
            "tree",
            format!("mv {TREE} {TREE}.away; touch {TREE}"),
            format!("rm {TREE}; mv {TREE}.away {TREE}"),
        ),
        (
            "user",
            "printf '[tree]\\nowner = \"later\"\\n' > /etc/netboot-publisher/config.toml"
                .to_string(),
            "useradd later".to_string(),
        ),
    ];
    for (name, take_away, bring_back) in away {
        container.ok(&format!("{take_away}; systemctl restart --no-block {UNIT}"));
        // systemd itself gives up after five.
        until("eight starts that fail", || {
            container.property("NRestarts").parse::<u32>().unwrap() >= 8
        });
        container.ok(&bring_back);
        drop_as_ci(&container, name, "a/b/c/d", |image| {
            fs::write(image.join("linux"), name).unwrap();
        });
        container.wait_for_outcome(name, "published");
        assert_eq!(container.property("ActiveState"), "active");
    }
}

/// Looks, from where the service stands, at what it may not do, and at what it has to.
const PROBE: &str = r#"#!/bin/bash
exec > /var/spool/netboot-publisher/probe 2>&1
try() { if "$@" 2> /dev/null; then echo "can: $*"; else echo "can't: $*"; fi; }
try touch /etc/probe
try touch /usr/bin/probe
try touch /var/lib/probe
try touch /run/probe
try touch /dev/probe
try ls /home/ci
try ls /root/.profile
try test -s /etc/shadow
try bash -c ': < /dev/tcp/127.0.0.1/22'
try bash -c ': < /dev/udp/127.0.0.1/69'
try cat /proc/1/status
try cat /proc/sys/kernel/ostype
try mount -t tmpfs none /tmp
try unshare --user true
try mknod /var/spool/netboot-publisher/null c 1 3
try chroot / true
try sh -c 'renice -n -5 -p $$ > /dev/null'
echo "interfaces:" $(ls /sys/class/net)
grep -E '^(Uid|NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status | tr -s '\t' ' '
try touch /var/spool/netboot-publisher/incoming/.probe /srv/tftp/netboot/.probe
try cat /etc/netboot-publisher/config.toml > /dev/null
systemd-notify --ready
exec sleep infinity
"#;

fn is_confined() {
    let container = Container::with_service();
    let security = |unit| {
        container.run(&format!(
            "systemd-analyze security --no-pager --threshold=15 {unit}"
        ))
    };
    for unit in [UNIT, "netboot-publisher-verify.service"] {
        let output = security(unit);
        assert!(output.status.success(), "{}", text(&output));
    }
    let verified = container.run(
        "systemd-analyze verify --man=no netboot-publisher.service \
         netboot-publisher-verify.service netboot-publisher-verify.timer 2>&1",
    );
    assert_eq!(
        (verified.status.code(), &*verified.stdout),
        (Some(0), &b""[..]),
        "{}",
        text(&verified)
    );

    let probe = container.path("/usr/local/bin/probe");
    fs::write(&probe, PROBE).unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755)).unwrap();
    container.ok("mkdir -p /home/ci");
    container.drop_in(
        "probe",
        "ExecStart=\nExecStart=/usr/local/bin/probe\nNotifyAccess=all\nWatchdogSec=0",
    );
    container.ok(&format!("systemctl restart {UNIT}"));
    let found = fs::read_to_string(container.path(&format!("{SPOOL}/probe"))).unwrap();
    let uid = container.ok("id -u netboot-publisher");
    let uid = uid.trim();
    let expected = format!(
        "can't: touch /etc/probe\n\
         can't: touch /usr/bin/probe\n\
         can't: touch /var/lib/probe\n\
         can't: touch /run/probe\n\
         can't: touch /dev/probe\n\
         can't: ls /home/ci\n\
         can't: ls /root/.profile\n\
         can't: test -s /etc/shadow\n\
         can't: bash -c : < /dev/tcp/127.0.0.1/22\n\
         can't: bash -c : < /dev/udp/127.0.0.1/69\n\
         can't: cat /proc/1/status\n\
         can't: cat /proc/sys/kernel/ostype\n\
         can't: mount -t tmpfs none /tmp\n\
         can't: unshare --user true\n\
         can't: mknod /var/spool/netboot-publisher/null c 1 3\n\
         can't: chroot / true\n\
         can't: sh -c renice -n -5 -p $$ > /dev/null\n\
         interfaces: lo\n\
         Uid: {uid} {uid} {uid} {uid}\n\
         CapEff: 000000001000000b\n\
         CapBnd: 000000001000000b\n\
         NoNewPrivs: 1\n\
         Seccomp: 2\n\
         can: touch /var/spool/netboot-publisher/incoming/.probe /srv/tftp/netboot/.probe\n"
    );
    assert_eq!(found, expected);
}

fn scrub_finds_damage() {
    const SCRUB: &str = "netboot-publisher-verify.service";
    let container = Container::with_service();
    container.ok("systemctl is-active netboot-publisher-verify.timer");
    container.configure("[swap]\nquiet_period = \"0s\"\n[retention]\nkeep = 0\nmin_age = \"0s\"\n");
    container.ok(&format!("systemctl restart {UNIT}"));
    drop_as_ci(&container, "drop", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
    });
    container.wait_for_outcome("drop", "published");
    container.ok(&format!("systemctl start {SCRUB}"));

    let published = container.path(&format!("{TREE}/a/b/c/d/linux"));
    fs::write(published, "Kernel").unwrap();
    let damaged = container.run(&format!("systemctl start {SCRUB}"));
    assert!(!damaged.status.success(), "{}", text(&damaged));
    let said = container.ok(&format!(
        "journalctl --sync; journalctl --unit {SCRUB} --output cat"
    ));
    assert!(said.contains("a/b/c/d") && said.contains("linux"), "{said}");

    // The same image, dropped again, repairs the target.
    drop_as_ci(&container, "again", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
    });
    container.wait_for_outcome("again", "published");
    let generations = container.path(&format!("{TREE}/a/b/c/d@"));
    until("the damaged generation to go", || {
        world::names(&generations).len() == 2
    });
    container.ok(&format!("systemctl start {SCRUB}"));
}

fn journal_is_complete() {
    const DROPS: usize = 1_000;
    let container = Container::with_service();
    // Each target twice: one is published, the other is unchanged; and some are rejected.
    let script = format!(
        "cd {SPOOL}/incoming
         for number in $(seq {DROPS}); do
             mkdir .d$number .d$number/image
             echo kernel > .d$number/image/linux
             arch=a$((number / 2)); [ $((number % 10)) != 0 ] || arch=/
             printf 'format = 1\\narch = \"%s\"\\nrelease = \"r\"\\npurpose = \"p\"\\n' $arch > .d$number/manifest.toml
             mv -T .d$number d$number
         done"
    );
    let dropped = container.run_as("ci", &script);
    assert!(dropped.status.success(), "{}", text(&dropped));
    let spool = container.path(SPOOL);
    until("a thousand outcomes", || {
        world::outcomes(&spool).len() == DROPS
    });
    container.ok(&format!("systemctl stop {UNIT}"));
    let entries = container.journal(&format!(
        "--unit {UNIT} OUTCOME=published OUTCOME=unchanged"
    ));
    let told = |entry: &Value| -> (String, String) {
        let of = |key: &str| entry[key].as_str().expect("a field").to_string();
        (of("DROP"), of("OUTCOME"))
    };
    let mut in_journal: Vec<_> = entries.iter().map(told).collect();
    in_journal.sort();
    let written = |number| {
        let drop = format!("d{number}");
        let outcome = container.outcome(&drop).expect("an outcome");
        (drop, outcome["outcome"].as_str().unwrap().to_string())
    };
    let written = (1..=DROPS).map(written);
    let (rejected, mut expected): (Vec<_>, Vec<_>) =
        written.partition(|(_, outcome)| outcome == "rejected");
    expected.sort();
    assert_eq!(in_journal, expected);
    // Of many rejections most are summed.
    assert_eq!(rejected.len(), DROPS / 10);
    let entries = container.journal(&format!("--unit {UNIT} OUTCOME=rejected"));
    let (singly, sums): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|entry| entry["REASON"] == "bad-manifest");
    let summed = sums.iter().map(|entry| {
        assert_eq!(entry["IMPORTER"], "ci");
        let mut words = entry["MESSAGE"].as_str().unwrap().split(' ');
        words.nth(1).unwrap().parse::<usize>().unwrap()
    });
    assert_eq!(singly.len() + summed.sum::<usize>(), DROPS / 10);
    assert!(singly.len() < DROPS / 10 && !sums.is_empty());
}

fn package_loses_nothing() {
    let container = Container::with_service();
    container.configure("# The admin's own.\n");
    drop_as_ci(&container, "bad", "a/b/c/d", |_| ());
    container.wait_for_outcome("bad", "rejected");
    drop_as_ci(&container, "good", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "k").unwrap()
    });
    container.wait_for_outcome("good", "published");
    let newer = container::newer_package();
    drop_large(&container, "large", "a/b/c/large");
    wait_for_copying(&container);
    let first = container.property("MainPID");
    freeze(&container);
    container.install(newer);
    assert_ne!(
        container.property("MainPID"),
        first,
        "the old program still runs"
    );
    assert!(
        container.outcome("large").is_none(),
        "it was done before the upgrade"
    );
    container.wait_for_outcome("large", "published");
    assert_large(&container, "a/b/c/large");
    world::wait_for_names(&container.path(&format!("{SPOOL}/processing")), &[]);
    let configuration = fs::read_to_string(container.path("/etc/netboot-publisher/config.toml"));
    assert_eq!(configuration.unwrap(), "# The admin's own.\n");
    container.ok(
        "systemctl is-enabled netboot-publisher.service netboot-publisher-verify.timer
        systemctl is-active netboot-publisher.service netboot-publisher-verify.timer",
    );

    // A drop that waits when the package goes is there when the package comes back.
    container.ok(&format!("systemctl stop {UNIT}"));
    drop_as_ci(&container, "waits", "a/b/c/waits", |image| {
        fs::write(image.join("linux"), "k").unwrap()
    });
    let everything = || {
        (
            snapshot(&container.path(TREE)),
            snapshot(&container.path(SPOOL)),
        )
    };
    let before = everything();
    container.ok("dpkg --remove netboot-publisher 2>&1");
    assert_eq!(everything(), before);
    let gone = container.run(&format!("systemctl is-active {UNIT}"));
    assert!(!gone.status.success(), "{}", text(&gone));
    container.ok("dpkg --purge netboot-publisher 2>&1");
    assert_eq!(everything(), before);
    for left in [
        "/etc/netboot-publisher",
        "/etc/systemd/system/multi-user.target.wants/netboot-publisher.service",
        "/lib/systemd/system/netboot-publisher.service",
    ] {
        assert!(
            fs::symlink_metadata(container.path(left)).is_err(),
            "{left} is left"
        );
    }
    container.install(container::package());
    container.wait_for_outcome("waits", "published");
}

fn package_is_clean() {
    // The one tag that is suppressed is about Debian's own list of bugs.
    let output = Command::new("lintian")
        .args([
            "--allow-root",
            "--fail-on",
            "error,warning",
            "--suppress-tags",
        ])
        .arg("initial-upload-closes-no-bugs")
        .arg(container::package())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let list = Command::new("dpkg-deb")
        .arg("--contents")
        .arg(container::package())
        .output()
        .unwrap();
    let list = text(&list);
    for name in [
        "./usr/bin/netboot-publisher\n",
        "./usr/lib/systemd/system/netboot-publisher.service\n",
        "./usr/lib/systemd/system/netboot-publisher-verify.service\n",
        "./usr/lib/systemd/system/netboot-publisher-verify.timer\n",
        "./usr/lib/systemd/catalog/netboot-publisher.catalog\n",
        "./usr/lib/sysusers.d/netboot-publisher.conf\n",
        "./usr/lib/tmpfiles.d/netboot-publisher.conf\n",
        "./etc/netboot-publisher/config.toml\n",
        "./usr/share/man/man1/netboot-publisher.1.gz\n",
        "./usr/share/man/man5/netboot-publisher.toml.5.gz\n",
        "./usr/share/man/man5/netboot-publisher-manifest.5.gz\n",
        "./usr/share/man/man5/netboot-publisher-outcome.5.gz\n",
        "./usr/share/man/man5/netboot-publisher-templates.5.gz\n",
        "./usr/share/bash-completion/completions/netboot-publisher\n",
        "./usr/share/zsh/vendor-completions/_netboot-publisher\n",
        "./usr/share/fish/vendor_completions.d/netboot-publisher.fish\n",
    ] {
        assert!(list.contains(name), "no {name:?} in {list}");
    }
}

fn example_importer_works() {
    let world = world::World::new();
    let daemon = world.daemon();
    let lists = Command::new("apt-get")
        .args(["--quiet", "update"])
        .output()
        .unwrap();
    assert!(lists.status.success(), "{}", text(&lists));
    let program = Path::new(world::PROGRAM).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let import = |arches: &[&str]| {
        let output = Command::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/config/examples/import-debian-netboot"
        ))
        .args(arches)
        .env("PATH", &path)
        .env(
            "SUBMIT_OPTIONS",
            format!("--spool {}", world.spool.display()),
        )
        .output()
        .unwrap();
        assert!(output.status.success(), "{}\n{world}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = import(&["amd64", "arm64"]);
    assert_eq!(said.matches("published ").count(), 2, "{said}");
    for arch in ["amd64", "arm64"] {
        let kernel = format!("debian-installer/{arch}/linux");
        let published = walk_to(&world.tree.join(arch), &kernel);
        assert!(
            fs::metadata(&published).unwrap().size() > 1_000_000,
            "{published:?}"
        );
    }
    let again = import(&["arm64"]);
    assert_eq!(again.matches("unchanged ").count(), 1, "{again}");
    daemon.stop();
}

/// The only path beneath a directory that ends with `end`.
fn walk_to(directory: &Path, end: &str) -> std::path::PathBuf {
    let paths = world::walk(directory);
    let mut found = paths.into_iter().filter(|path| path.ends_with(end));
    found
        .next()
        .unwrap_or_else(|| panic!("no {end} in {directory:?}"))
}

/// Makes a drop of the user `ci`, from the outside.
pub fn drop_as_ci(container: &Container, name: &str, target: &str, make: impl FnOnce(&Path)) {
    let incoming = container.path(&format!("{SPOOL}/incoming"));
    let hidden = incoming.join(format!(".{name}"));
    fs::create_dir_all(hidden.join("image")).unwrap();
    make(&hidden.join("image"));
    fs::write(hidden.join("manifest.toml"), manifest(target)).unwrap();
    container.ok(&format!(
        "cd {SPOOL}/incoming; chown -R ci: .{name}; mv -T .{name} {name}"
    ));
}

/// A file of 2 GiB that takes little room here, and all of it in the tree.
fn drop_large(container: &Container, name: &str, target: &str) {
    drop_as_ci(container, name, target, |image| {
        let file = fs::File::create(image.join("initrd")).unwrap();
        file.set_len(LARGE).unwrap();
        for at in (0..LARGE).step_by(1 << 20) {
            file.write_all_at(&(at + 1).to_le_bytes(), at).unwrap();
        }
    });
}

fn assert_large(container: &Container, target: &str) {
    let file = fs::File::open(container.path(&format!("{TREE}/{target}/initrd"))).unwrap();
    assert_eq!(file.metadata().unwrap().size(), LARGE);
    for at in (0..LARGE).step_by(1 << 20) {
        let mut found = [0; 8];
        file.read_exact_at(&mut found, at).unwrap();
        assert_eq!(u64::from_le_bytes(found), at + 1);
    }
}

/// Waits until the daemon is in the middle of a large file.
fn wait_for_copying(container: &Container) {
    let staging = container.path(&format!("{TREE}/.netboot-publisher/staging"));
    until("the copy", || {
        world::walk(&staging).iter().any(|path| {
            fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file() && stat.size() > LARGE / 64)
        })
    });
}
