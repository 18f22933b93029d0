//! What a drop waits for is seen: by whoever waits for its outcome, by whoever asks, in the log.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::lab::terminal::{errors_on_terminal, steady};
use crate::lab::world::{Daemon, Ended, Needs, World, manifest, output, test, text, until};
use crate::seen::{NOTHING_ENDS, TARGET, json, settled, wait_for_state, waiting};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "submit that waits shows what for, and ends with the reason",
            &[],
            submit_shows_what_it_waits_for,
        ),
        test(
            "submit shows what it waits for in one line of a terminal",
            &[],
            submit_on_a_terminal,
        ),
        test(
            "the bar of verify ends at its end, and damage stands on lines of its own",
            &[],
            verify_ends_at_its_end,
        ),
        test(
            "submit says that no daemon runs",
            &[],
            submit_without_a_daemon,
        ),
        test(
            "how far a large image was copied is seen",
            &[Needs::Failpoints],
            || seen_at("stage-record", 70 << 20, "working", "copying 99 %"),
        ),
        test(
            "that a drop is checked is seen",
            &[Needs::Failpoints],
            || seen_at("claim", 5, "checked", "checking"),
        ),
        test(
            "that there is no room for a drop is seen",
            &[],
            no_room_is_seen,
        ),
        test(
            "whoever asks and doesn't read holds up nobody",
            &[],
            nobody_is_held_up,
        ),
        test(
            "the log tells of a swap that waits, and of a generation that goes",
            &[],
            the_log_tells,
        ),
    ]
}

/// `submit` of an image with this kernel, which waits so long.
fn submit(world: &World, kernel: &str, wait: &str) -> Command {
    let image = world.root.join("image");
    fs::create_dir_all(&image).unwrap();
    fs::write(image.join("linux"), kernel).unwrap();
    let target: Vec<_> = TARGET.split('/').collect();
    let mut command = world.command(&["submit", "--arch", target[0], "--release", target[2]]);
    command.args(["--purpose", target[3], wait]).arg(image);
    command
}

/// The only drop that waits.
fn waiting_drop(world: &World) -> String {
    let status = json(world, &["status", "--json"]);
    let drops = status["waiting"].as_array().unwrap();
    assert_eq!(drops.len(), 1, "{status:#}");
    drops[0]["drop"].as_str().unwrap().to_string()
}

fn submit_shows_what_it_waits_for() {
    let (world, _) = settled(NOTHING_ENDS);
    let daemon = world.daemon();
    let output = output(&mut submit(&world, "new", "--wait=3s"));
    let drop = waiting_drop(&world);
    let said = steady(&String::from_utf8(output.stderr.clone()).unwrap());
    let expected = format!(
        "netboot-publisher: {drop} waits: quiet period, at most AGE\n\
         netboot-publisher: {drop} has no outcome yet: quiet period, at most AGE\n"
    );
    assert_eq!((output.status.code(), said), (Some(4), expected));
    assert!(output.stdout.is_empty(), "{}", text(&output));

    // The first one has its outcome, and the second no longer waits for it.
    let mut second = submit(&world, "newer", "--wait=100");
    let child = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Ended(child.unwrap());
    let both = || {
        json(&world, &["status", "--json"])["waiting"]
            .as_array()
            .unwrap()
            .len()
            == 2
    };
    until("the second drop to be seen", both);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let said = lines.next().unwrap();
    assert!(said.ends_with(&format!(" waits: behind {drop}")), "{said}");
    let settings = fs::read_to_string(&world.config).unwrap();
    let quiet = "quiet_period = \"1d\"\nmax_delay = \"2d\"";
    assert!(settings.contains(quiet), "{settings}");
    fs::write(
        &world.config,
        settings.replace(quiet, "quiet_period = \"0s\""),
    )
    .unwrap();
    daemon.stop();
    let daemon = world.daemon();
    let mut published = String::new();
    BufReader::new(child.0.stdout.take().unwrap())
        .read_line(&mut published)
        .unwrap();
    assert!(
        published.starts_with(&format!("published {TARGET} ")),
        "{published}"
    );
    daemon.stop();
}

fn submit_on_a_terminal() {
    let (world, _) = settled(NOTHING_ENDS);
    let daemon = world.daemon();
    for columns in [160, 80] {
        let mut command = submit(&world, "new", "--wait=3");
        let (output, shown) = errors_on_terminal(&mut command, columns);
        assert_eq!(output.status.code(), Some(4), "{shown}");
        // The line was there, and has gone before the last one came.
        let shown = steady(&shown);
        let (changing, last) = shown.rsplit_once("netboot-publisher: ").unwrap();
        assert!(changing.contains(" waits: "), "{shown:?}");
        assert!(!changing.contains("has no outcome"), "{shown:?}");
        assert_eq!(last.matches('\n').count(), 1, "{shown:?}");
        assert!(last.contains(" has no outcome yet: "), "{shown:?}");
    }
    daemon.stop();
}

fn verify_ends_at_its_end() {
    let world = World::new();
    world.drop_image(
        "one",
        TARGET,
        &[("linux", &[1; 5_000]), ("initrd.gz", b"x")],
    );
    world.run_once();
    fs::write(world.published(TARGET).join("initrd.gz"), "damaged").unwrap();
    let (output, shown) = errors_on_terminal(&mut world.command(&["verify"]), 120);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let last = shown.trim_end().rsplit(['\r', '\n']).next().unwrap();
    assert!(last.contains("100 %"), "{shown:?}");
    assert!(shown.ends_with('\n'), "{shown:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("damaged: "), "{said}");
}

fn submit_without_a_daemon() {
    let world = World::new();
    world.run_once();
    let output = output(&mut submit(&world, "kernel", "--wait=3"));
    let drop = waiting_drop(&world);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let note = "the daemon isn't running: drops wait until it is";
    let expected = format!(
        "netboot-publisher: {drop} waits: {note}\n\
         netboot-publisher: {drop} has no outcome yet: {note}\n"
    );
    assert_eq!((output.status.code(), said), (Some(4), expected));
}

fn seen_at(place: &str, size: u64, state: &str, why: &str) {
    let world = World::new();
    let mut command = world.command(&["run"]);
    command.env("NETBOOT_PUBLISHER_FAILPOINT", format!("{place}:1:hang"));
    let daemon = Daemon::start(command);
    world.drop_with("large", &manifest(TARGET), |image| {
        fs::File::create(image.join("linux"))
            .unwrap()
            .set_len(size)
            .unwrap();
    });
    let drop = wait_for_state(&world, "large", state);
    until("it to come as far as that", || {
        waiting(&world, "large")["why"] == why
    });
    assert_eq!(drop["target"], TARGET, "{drop:#}");
    daemon.kill();
}

fn no_room_is_seen() {
    let world = World::with("[limits]\nmin_free_space = \"1000000GiB\"\n");
    let daemon = world.daemon();
    world.drop_image("large", TARGET, &[("linux", b"kernel")]);
    let drop = wait_for_state(&world, "large", "no-space");
    let why = drop["why"].as_str().unwrap();
    assert!(why.starts_with("no space: needs 6 B plus "), "{drop:#}");
    daemon.stop();
}

fn nobody_is_held_up() {
    let world = World::new();
    let mut daemon = world.daemon();
    let socket = world.spool.join("status.socket");
    let connect = || UnixStream::connect(&socket).unwrap();
    let silent: Vec<_> = (0..20).map(|_| connect()).collect();
    world.drop_image("a", TARGET, &[("linux", b"kernel")]);
    daemon.wait_for_drop("a");
    world.assert_outcome("a", "published");
    // Those that ask for nothing are left at last, and whoever asks is answered.
    for stream in silent {
        let mut answer = Vec::new();
        (&stream).read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty(), "{answer:?}");
    }
    for (question, is_answered) in [
        ("\n".to_string(), true),
        (format!("{}\n", "x".repeat(2_000)), false),
    ] {
        let mut stream = connect();
        let _ = stream.write_all(question.as_bytes());
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let has_answer = read.is_ok() && !answer.is_empty();
        assert_eq!(has_answer, is_answered, "{answer}");
        let expected = "{\"others\":0,\"waiting\":[]}\n";
        assert!(!is_answered || answer == expected, "{answer}");
    }
    daemon.stop();
}

fn the_log_tells() {
    let settings = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 0\n\
                    [swap]\nquiet_period = \"300ms\"\nmax_delay = \"10m\"\n";
    let world = World::with(settings);
    let mut daemon = world.daemon();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    daemon.wait_for_drop("one");
    let one = world.assert_outcome("one", "published")["generation"].clone();
    world.drop_image("two", TARGET, &[("linux", b"two")]);
    let held = daemon.wait_for("swap held");
    let text = "INFO swap held until the current generation is not used for 300ms, at the latest in \
                10m target=";
    assert!(
        held.contains(text) && held.contains(" drop=\"two\" "),
        "{held}"
    );
    let published = daemon.wait_for(" INFO published ");
    assert!(published.contains("drop=\"two\""), "{published}");
    let removed = daemon.wait_for("removed, no longer kept");
    assert!(removed.contains(one.as_str().unwrap()), "{removed}");
    let log = daemon.log.join("\n");
    assert_eq!(log.matches("swap held").count(), 1, "{log}");
    daemon.stop();
}
