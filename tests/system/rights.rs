//! What is the daemon's alone: its capabilities, and its log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use libtest_mimic::Trial;

use crate::lab::container::{self, Container, UNIT};
use crate::lab::world::{Daemon, World, own, test, until};
use crate::rules::NO_RULES;
use crate::unprivileged::{self, NOBODY, Unprivileged};

const TARGET: &str = "amd64/generic/noble/install";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a hook under the unit has no capability, and the daemon has its own",
            &container::NEEDS,
            hook_has_no_rights,
        ),
        test(
            "a tree that is replaced or mounted over beside the unit is served after a restart",
            &container::NEEDS,
            unit_serves_what_is_there,
        ),
        test(
            "no line of a library reaches the log at any level and in any format",
            &[],
            own_lines,
        ),
        test(
            "no line of a library reaches the journal",
            &container::NEEDS,
            own_entries,
        ),
        test(
            "an unprivileged daemon removes a drop with folders that nobody may write to or open",
            &unprivileged::NEEDS,
            removes_shut_folders,
        ),
    ]
}

/// The capabilities in a `/proc/PID/status`: inheritable, permitted, effective, ambient.
fn capabilities(status: &str) -> [u64; 4] {
    ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(":"));
        u64::from_str_radix(value.expect(name).trim(), 16).unwrap()
    })
}

fn hook_has_no_rights() {
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_LEASE.
    const OWN: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 28;
    let container = Container::with_service();
    let hook = container.path("/usr/local/bin/hook");
    let seen = "/var/spool/netboot-publisher/seen";
    let script = format!(
        "#!/bin/sh\nsetsid sleep 1000 &\ncat /proc/self/status > {seen}.new; mv -T {seen}.new {seen}\n"
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    container.configure("[[hook]]\non = [\"published\"]\ncommand = [\"/usr/local/bin/hook\"]\n");
    container.ok(&format!("systemctl restart {UNIT}"));
    submit(&container);
    until("the hook", || container.path(seen).exists());
    let of_hook = fs::read_to_string(container.path(seen)).unwrap();
    assert_eq!(capabilities(&of_hook), [0; 4], "{of_hook}");
    assert!(of_hook.contains("NoNewPrivs:\t1\n"), "{of_hook}");
    let status = format!("cat /proc/$(systemctl show --property=MainPID --value {UNIT})/status");
    let of_daemon = container.ok(&status);
    let [_, permitted, effective, _] = capabilities(&of_daemon);
    assert_eq!([permitted, effective], [OWN; 2], "{of_daemon}");
    // What the hook has left running is ended, though the sandbox hides processes.
    let left = || container.journal(&format!("--unit {UNIT} --priority warning"));
    let is_said = |entry: &serde_json::Value| {
        let message = entry["MESSAGE"].as_str().unwrap_or_default();
        message.starts_with("hook left 1 process running, ended")
    };
    until("the end of what it has left", || left().iter().any(is_said));
    let group = format!("cat /sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs");
    let daemon = container.property("MainPID");
    until("the keeper's own end", || {
        container.ok(&group).trim() == daemon
    });
}

/// An importer, which is another user than the daemon, has an image published.
fn submit(container: &Container) {
    let submitted = container.run_as(
        "ci",
        "mkdir /tmp/image; echo linux > /tmp/image/linux; chmod 0700 /tmp/image
         netboot-publisher submit --arch amd64 --release noble --purpose install --wait /tmp/image",
    );
    assert!(submitted.status.success(), "{submitted:?}");
}

/// A drop that is written in place is watched; it goes while it is.
fn half(world: &World) {
    let half = world.incoming("half");
    fs::create_dir_all(half.join("image/boot")).unwrap();
    fs::write(half.join("image/boot/linux"), "half").unwrap();
}

/// The unit has mounts of its own: what is done outside has to be noticed all the same.
fn unit_serves_what_is_there() {
    const TREE: &str = "/srv/tftp/netboot";
    let container = Container::with_service();
    submit(&container);
    let replace = format!("mv -T {TREE} {TREE}.old; mkdir {TREE}");
    let mount = format!("mkdir /other; mount --bind /other {TREE}");
    for (number, replaced) in [replace, mount].iter().enumerate() {
        container.ok(&format!(
            "{replaced}; chown netboot-publisher: {TREE}; rm -r /tmp/image"
        ));
        submit(&container);
        let published = format!("cat {TREE}/{TARGET}/linux");
        assert_eq!(container.ok(&published), "linux\n", "{replaced}");
        let restarts = container.ok(&format!(
            "systemctl show --property=NRestarts --value {UNIT}"
        ));
        assert_eq!(restarts.trim(), (number + 1).to_string(), "{replaced}");
    }
}

fn own_lines() {
    for format in ["text", "json"] {
        for level in ["info", "debug", "trace"] {
            let world = World::new();
            let arguments = ["run", "--log-level", level, "--log-format", format];
            let mut daemon = Daemon::start_unready(&mut world.command(&arguments));
            daemon.wait_for("ready");
            half(&world);
            world.drop_image("one", TARGET, &[("linux", b"one")]);
            daemon.wait_for("one");
            fs::remove_dir_all(world.incoming("half")).unwrap();
            world.drop_image("other", TARGET, &[("linux", b"other")]);
            daemon.wait_for("other");
            let log = daemon.stop();
            let said = messages(log.iter().map(String::as_str));
            let expected = [
                "ready",
                NO_RULES,
                "published",
                "published",
                "stopping on SIGTERM",
            ];
            assert_eq!(said, expected, "{format} {level}");
        }
    }
}

/// What the lines of a log say, without time, level and fields. How often something is rendered has
/// to do with how fast that goes.
fn messages<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<String> {
    let message = |line: &str| {
        if let Ok(event) = serde_json::from_str::<serde_json::Value>(line) {
            return event["message"].as_str().unwrap().to_string();
        }
        let words = line.split_whitespace();
        let words = words.take_while(|word| !word.contains('='));
        let is_said = |word: &&str| !word.ends_with('Z') && word.to_lowercase() == *word;
        let words: Vec<_> = words
            .filter(|word| is_said(word) || *word == "SIGTERM")
            .collect();
        words.join(" ")
    };
    lines
        .map(message)
        .filter(|text| text != "rendered")
        .collect()
}

fn own_entries() {
    let container = Container::with_service();
    container.configure("[log]\nlevel = \"trace\"\n");
    container.ok(&format!("systemctl restart {UNIT}"));
    let incoming = "/var/spool/netboot-publisher/incoming";
    let made = container.run_as("ci", &format!("mkdir -p {incoming}/half/image/boot"));
    assert!(made.status.success(), "{made:?}");
    submit(&container);
    container.ok(&format!("rm -rf {incoming}/half; systemctl stop {UNIT}"));
    let entries = container.journal(&format!("_SYSTEMD_UNIT={UNIT}"));
    let said = messages(entries.iter().filter_map(|entry| entry["MESSAGE"].as_str()));
    let run = ["ready", NO_RULES, "stopping on SIGTERM"];
    let last = ["ready", NO_RULES, "published", "stopping on SIGTERM"];
    assert_eq!(said, [&run[..], &last].concat());
}

fn removes_shut_folders() {
    let unprivileged = Unprivileged::new(
        "#spool keep_rejected = \"0s\"\n#spool rescan_interval = \"1s\"\n[limits]\nmin_free_space = \"0B\"\n",
    );
    let world = &unprivileged.world;
    let mut daemon = unprivileged.daemon();
    // What can be read is published, what can't is rejected; both go.
    for (name, mode, outcome) in [
        ("closed", 0o555, "published"),
        ("shut", 0o000, "rejected unreadable"),
        ("blind", 0o111, "rejected unreadable"),
    ] {
        let hidden = format!(".{name}");
        world.drop_with(&hidden, &crate::lab::world::manifest(TARGET), |image| {
            fs::create_dir_all(image.join("boot/deep")).unwrap();
            for file in ["linux", "boot/grub", "boot/deep/font"] {
                fs::write(image.join(file), name).unwrap();
            }
        });
        own(&world.incoming(&hidden), NOBODY);
        // The drop itself as well, which root had to rename.
        for folder in ["image/boot/deep", "image/boot", ""] {
            let folder = world.incoming(&hidden).join(folder);
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::rename(world.incoming(&hidden), world.incoming(name)).unwrap();
        daemon.wait_for_drop(name);
        world.assert_outcome(name, outcome);
        let rejected = world.spool.join("rejected").join(name);
        until("the drop to go", || {
            !rejected.exists() && world.names("processing").is_empty()
        });
    }
    daemon.stop();
    world.assert_at_rest();
}
