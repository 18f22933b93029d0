//! What systemd and Prometheus are told, and what SIGHUP does; without a systemd.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::lab::world::{Daemon, Ends, Needs, PATIENCE, World, names, output, test, text, until};

const TARGET: &str = "amd64/generic/noble/install";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a signal that tells of a broken lease does not end the daemon",
            &[],
            broken_lease,
        ),
        test(
            "systemd is told when the daemon is ready, what it does, and that it stops",
            &[],
            told,
        ),
        test(
            "the watchdog is fed by a publisher that has nothing else to do",
            &[],
            fed,
        ),
        test(
            "SIGHUP takes up a good configuration and refuses a bad one",
            &[],
            reload,
        ),
        test(
            "settings that need a restart are named by a reload and stay",
            &[],
            reload_later,
        ),
        test(
            "a reload changes the hooks and the boot configurations",
            &[],
            reload_the_rest,
        ),
        test(
            "the metrics are what happened, and promtool has nothing to say against them",
            &[Needs::Program("promtool")],
            metrics,
        ),
        test(
            "the metrics tell of free space, reloads and renderings that failed",
            &[],
            figures_of_trouble,
        ),
        test(
            "the level of the log is that of the command line, else that of the last reload",
            &[],
            reload_level,
        ),
        test(
            "a reload changes the retention and the quiet period",
            &[],
            reload_times,
        ),
        test(
            "a drop that comes after a reload has ended is judged by the new settings",
            &[],
            reload_under_load,
        ),
        test(
            "the metrics tell what is held, in trouble, and still written",
            &[],
            gauges,
        ),
        test(
            "the log of a daemon is JSON where that is wanted, with all fields",
            &[],
            json_log,
        ),
    ]
}

/// What systemd would hear.
pub struct Ear(UnixDatagram);

impl Ear {
    fn next(&self) -> String {
        let mut message = [0; 4_096];
        let length = self.0.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next message that has this line; and those before it.
    pub fn wait_for(&self, line: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next());
            let has = |message: &String| message.lines().any(|it| it.starts_with(line));
            if heard.last().is_some_and(has) {
                return heard;
            }
        }
    }
}

pub fn start(world: &World, variables: &[(&str, &str)]) -> (Daemon, Ear) {
    start_with(world, &[], variables)
}

fn start_with(world: &World, more: &[&str], variables: &[(&str, &str)]) -> (Daemon, Ear) {
    let path = world.root.join("notify");
    // An earlier daemon of this world had another.
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = world.command(&["run"]);
    command.args(more).env("NOTIFY_SOCKET", &path);
    command.envs(variables.iter().copied());
    (Daemon::start_unready(&mut command), Ear(socket))
}

fn drop_files(world: &World, name: &str, count: usize) {
    let names: Vec<_> = (0..count).map(|number| format!("file{number}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|file| (file.as_str(), name.as_bytes()))
        .collect();
    world.drop_image(name, TARGET, &files);
}

fn told() {
    let world = World::new();
    let (mut daemon, ear) = start(&world, &[]);
    let before = ear.wait_for("READY=1");
    assert!(
        before.iter().all(|message| !message.contains("WATCHDOG=1")),
        "nobody asked for it: {before:?}"
    );
    daemon.wait_for(" ready ");
    ear.wait_for("STATUS=watching, 0 targets");
    drop_files(&world, "one", 1);
    daemon.wait_for_drop("one");
    ear.wait_for("STATUS=watching, 1 target");
    daemon.signal(Signal::TERM);
    ear.wait_for("STOPPING=1");
    daemon.stop();
}

fn fed() {
    let world = World::with("#spool rescan_interval = \"1h\"\n[limits]\nmin_free_space = \"0B\"\n");
    let (daemon, ear) = start(&world, &[("WATCHDOG_USEC", "100000")]);
    ear.wait_for("READY=1");
    for _ in 0..20 {
        ear.wait_for("WATCHDOG=1");
    }
    daemon.stop();
}

fn reload() {
    let world = World::new();
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    drop_files(&world, "two-files", 2);
    daemon.wait_for_drop("two-files");
    world.assert_outcome("two-files", "published");

    let good = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        good.replace("[limits]", "[limits]\nmax_files = 1"),
    )
    .unwrap();
    daemon.signal(Signal::HUP);
    let heard = ear.wait_for("RELOADING=1").pop().unwrap();
    assert!(heard.contains("MONOTONIC_USEC="), "{heard}");
    ear.wait_for("READY=1");
    daemon.wait_for("configuration read again");
    drop_files(&world, "two-again", 2);
    daemon.wait_for_drop("two-again");
    world.assert_outcome("two-again", "rejected too-many-files");

    fs::write(&world.config, "[limits]\nmax_files = -1\n[retenion]\n").unwrap();
    daemon.signal(Signal::HUP);
    ear.wait_for("RELOADING=1");
    ear.wait_for("READY=1");
    daemon.wait_for("keeping the old configuration");
    daemon.wait_for("invalid `limits.max_files`");
    daemon.wait_for("unknown key `retenion`");
    drop_files(&world, "two-still", 2);
    daemon.wait_for_drop("two-still");
    world.assert_outcome("two-still", "rejected too-many-files");
    drop_files(&world, "one-file", 1);
    daemon.wait_for_drop("one-file");
    world.assert_outcome("one-file", "published");
    daemon.stop();
}

fn reload_later() {
    let world = World::new();
    let mut daemon = world.daemon();
    let text = fs::read_to_string(&world.config).unwrap();
    let moved = text.replace("/spool\"", "/elsewhere\"");
    assert_ne!(moved, text);
    fs::write(&world.config, moved).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("`spool.path` takes effect after a restart");
    daemon.wait_for("configuration read again");
    drop_files(&world, "one", 1);
    daemon.wait_for_drop("one");
    daemon.stop();
}

fn reload_the_rest() {
    let world = World::new();
    let mut daemon = world.daemon();
    drop_files(&world, "one", 1);
    daemon.wait_for_drop("one");
    let template = world.root.join("menu.j2");
    fs::write(&template, "{{ images | length }} images\n").unwrap();
    let said = world.root.join("said");
    let text = fs::read_to_string(&world.config).unwrap();
    let script = format!("echo $NETBOOT_DROP >> {}", said.display());
    let more = format!(
        "[[boot_config]]\ntemplate = {template:?}\noutput = \"menu\"\n\
         [[hook]]\non = [\"published\"]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n"
    );
    fs::write(&world.config, text + &more).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("configuration read again");
    let menu = world.tree.join("menu");
    until("the menu", || menu.exists());
    assert_eq!(fs::read_to_string(menu).unwrap(), "1 images\n");
    drop_files(&world, "two", 1);
    daemon.wait_for_drop("two");
    daemon.stop();
    assert_eq!(fs::read_to_string(said).unwrap(), "two\n");
}

/// Changes the configuration, and waits until the reload has ended.
pub fn change(world: &World, daemon: &Daemon, ear: &Ear, from: &str, to: &str) {
    let text = fs::read_to_string(&world.config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&world.config, text.replace(from, to)).unwrap();
    reread(daemon, ear);
}

/// Has the configuration read again, and waits until that has ended, well or not.
pub fn reread(daemon: &Daemon, ear: &Ear) {
    daemon.signal(Signal::HUP);
    ear.wait_for("RELOADING=1");
    ear.wait_for("READY=1");
}

fn reload_level() {
    let world = World::with("[limits]\nmin_free_space = \"0B\"\n[log]\nlevel = \"warn\"\n");
    let given: [(&[&str], _); 2] = [(&[], true), (&["--log-level=warn"], false)];
    for (given, is_said) in given {
        let (daemon, ear) = start_with(&world, given, &[]);
        ear.wait_for("READY=1");
        let (quiet, loud) = ("level = \"warn\"", "level = \"info\"");
        change(&world, &daemon, &ear, quiet, loud);
        let drop = format!("said-{is_said}");
        drop_files(&world, &drop, 1);
        until("its outcome", || world.outcome(&drop).is_some());
        let log = daemon.stop().join("\n");
        let word = format!("drop=\"{drop}\"");
        assert_eq!(log.contains(&word), is_said, "{log}");
        assert!(!log.contains(" ready "), "{log}");
        let text = fs::read_to_string(&world.config).unwrap();
        fs::write(&world.config, text.replace(loud, quiet)).unwrap();
    }
    // `RUST_LOG` goes before both.
    for (level, is_said) in [("error", false), ("debug", true)] {
        drop_files(&world, level, 1);
        let mut run = world.command(&["run", "--once", "--log-level=warn"]);
        let output = output(run.env("RUST_LOG", level));
        assert!(output.status.success(), "{}", text(&output));
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(log.contains(&format!("drop=\"{level}\"")), is_said, "{log}");
    }
}

fn reload_times() {
    let world = World::with(
        "[limits]\nmin_free_space = \"0B\"\n[retention]\nkeep = 0\nmin_age = \"1d\"\n\
         [swap]\nquiet_period = \"0s\"\nmax_delay = \"1d\"\n",
    );
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let records = || {
        let names = names(&world.published(&format!("{TARGET}@")));
        names.iter().filter(|name| name.ends_with(".toml")).count()
    };
    for drop in ["one", "two"] {
        drop_files(&world, drop, 1);
        daemon.wait_for_drop(drop);
    }
    assert_eq!(records(), 2, "the old one is too young\n{world}");
    change(
        &world,
        &daemon,
        &ear,
        "min_age = \"1d\"",
        "min_age = \"0s\"",
    );
    until("the old generation to go", || records() == 1);

    change(
        &world,
        &daemon,
        &ear,
        "quiet_period = \"0s\"",
        "quiet_period = \"1h\"",
    );
    drop_files(&world, "three", 1);
    until("the next generation to be placed", || records() == 2);
    // Another target's drop passes, which takes as long as the swap would.
    world.drop_image(
        "other",
        "arm64/generic/noble/install",
        &[("linux", b"other")],
    );
    daemon.wait_for_drop("other");
    assert_eq!(world.outcome("three"), None, "it waits for quiet\n{world}");
    daemon.stop();
}

/// The daemon has work and events all the time, and looks at the spool without a pause.
fn reload_under_load() {
    const ROUNDS: usize = 60;
    const STRICT: &str = "incomplete_timeout = \"0s\"";
    const LAX: &str = "incomplete_timeout = \"1d\"";
    let world = World::with(&format!(
        "#spool {LAX}\n[limits]\nmin_free_space = \"0B\"\nmax_files = 1000\n"
    ));
    let (daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = Ends(&is_over);
        for noise in [".noise-1", ".noise-2"].map(|name| world.incoming(name)) {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    fs::write(&noise, "").unwrap();
                    fs::remove_file(&noise).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            let two = format!("two-{round}");
            if round % 2 == 0 {
                change(&world, &daemon, &ear, "max_files = 1000", "max_files = 1");
                drop_files(&world, &two, 2);
                until("its outcome", || world.outcome(&two).is_some());
                world.assert_outcome(&two, "rejected too-many-files");
                change(&world, &daemon, &ear, LAX, STRICT);
            } else {
                change(
                    &world,
                    &daemon,
                    &ear,
                    "max_files = 1\n",
                    "max_files = 1000\n",
                );
                drop_files(&world, &two, 2);
                until("its outcome", || world.outcome(&two).is_some());
                world.assert_outcome(&two, "published");

                change(&world, &daemon, &ear, STRICT, LAX);
                let slow = format!("slow-{round}");
                fs::create_dir_all(world.incoming(&slow).join("image")).unwrap();
                // What comes later is seen later.
                let later = format!("later-{round}");
                drop_files(&world, &later, 1);
                until("a later one's outcome", || world.outcome(&later).is_some());
                assert_eq!(world.outcome(&slow), None, "it is waited for\n{world}");
                fs::remove_dir_all(world.incoming(&slow)).unwrap();
            }
        }
        drop(end);
    });
    daemon.stop();
}

/// A world with these settings whose daemon writes its metrics to this file.
pub fn measured(settings: &str) -> (World, PathBuf) {
    let world = World::with(settings);
    let file = world.root.join("netboot.prom");
    let text = fs::read_to_string(&world.config).unwrap();
    let text = format!("{text}[metrics]\ntextfile = {file:?}\n");
    fs::write(&world.config, text).unwrap();
    (world, file)
}

/// A figure among the metrics, by its name with all labels.
pub fn figure(metrics: &str, name: &str) -> Option<String> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| {
        line.strip_prefix("netboot_publisher_")?
            .strip_prefix(name)?
            .strip_prefix(' ')
    })?;
    Some(value.to_string())
}

fn gauges() {
    let (world, file) = measured(
        "[limits]\nmin_free_space = \"1EiB\"\n\
         [swap]\nquiet_period = \"1h\"\nmax_delay = \"1d\"\n",
    );
    let (mut daemon, ear) = start(&world, &[]);
    ear.wait_for("READY=1");
    let wait_for = |expected: [&str; 5], has_oldest: bool| {
        let reasons = ["queued", "incomplete", "held", "no-space"];
        let names = reasons
            .iter()
            .map(|it| format!("drops_waiting{{reason=\"{it}\"}}"));
        let names: Vec<_> = names.chain(["targets".into()]).collect();
        until(&format!("{names:?} to be {expected:?}"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let figures = names
                .iter()
                .map(|name| figure(&text, name).unwrap_or_default());
            let oldest = figure(&text, "oldest_drop_timestamp_seconds");
            figures.collect::<Vec<_>>() == expected && oldest.is_some() == has_oldest
        });
    };
    drop_files(&world, "old", 1);
    wait_for(["0", "0", "0", "1", "0"], true);
    change(
        &world,
        &daemon,
        &ear,
        "min_free_space = \"1EiB\"",
        "min_free_space = \"0B\"",
    );
    daemon.wait_for_drop("old");
    wait_for(["0", "0", "0", "0", "1"], false);
    drop_files(&world, "new", 2);
    wait_for(["0", "0", "1", "0", "1"], true);
    fs::create_dir_all(world.incoming("written/image")).unwrap();
    wait_for(["0", "1", "1", "0", "1"], true);
    daemon.stop();
}

fn metrics() {
    let (world, file) = measured("[limits]\nmin_free_space = \"0B\"\n");
    let (before, began) = (SystemTime::now(), Instant::now());
    let mut daemon = world.daemon();
    drop_files(&world, "first", 2);
    daemon.wait_for_drop("first");
    world.drop_image("same", TARGET, &[("file0", b"first"), ("file1", b"first")]);
    daemon.wait_for_drop("same");
    world.drop_with("bad", "format = 0\n", |_| {});
    daemon.wait_for_drop("bad");
    daemon.stop();

    let text_of = fs::read_to_string(&file).unwrap();
    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("outcomes_total{outcome=\"published\",reason=\"\"}", "1"),
        ("outcomes_total{outcome=\"unchanged\",reason=\"\"}", "1"),
        ("outcomes_total{outcome=\"withdrawn\",reason=\"\"}", "0"),
        (
            "outcomes_total{outcome=\"rejected\",reason=\"bad-manifest\"}",
            "1",
        ),
        ("published_bytes_total", "10"),
        ("drop_duration_seconds_count{outcome=\"published\"}", "1"),
        ("targets", "1"),
        ("drops_waiting{reason=\"queued\"}", "0"),
        ("drops_waiting{reason=\"incomplete\"}", "0"),
        ("drops_waiting{reason=\"held\"}", "0"),
        ("drops_waiting{reason=\"no-space\"}", "0"),
        ("drops_waiting{reason=\"trouble\"}", "0"),
        ("reloads_total{result=\"good\"}", "0"),
        ("reloads_total{result=\"refused\"}", "0"),
        ("failed_renderings_total", "0"),
        ("outputs_failing", "0"),
        (&version, "1"),
    ] {
        let found = figure(&text_of, name);
        assert_eq!(found.as_deref(), Some(value), "{name} in\n{text_of}");
    }
    assert_eq!(
        figure(&text_of, "oldest_drop_timestamp_seconds"),
        None,
        "nothing waits"
    );
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let time = |name| figure(&text_of, name).unwrap().parse::<f64>().unwrap();
    let took = time("drop_duration_seconds_sum{outcome=\"published\"}");
    assert!(
        took > 0.0 && took < began.elapsed().as_secs_f64(),
        "{took} s"
    );
    // Files have the time of the kernel's last tick.
    let times = [
        since_1970(before) - 0.1,
        time("start_time_seconds"),
        time("last_published_timestamp_seconds") + 0.1,
        since_1970(SystemTime::now()) + 0.1,
    ];
    assert!(times.is_sorted(), "{times:?}");
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}\n{text_of}", text(&checked));
    assert_eq!(
        (&*checked.stdout, &*checked.stderr),
        (&b""[..], &b""[..]),
        "{}\n{text_of}",
        text(&checked)
    );
}

fn figures_of_trouble() {
    let (world, file) = measured("[limits]\nmin_free_space = \"0B\"\n");
    let template = world.root.join("menu.j2");
    fs::write(&template, "good").unwrap();
    let good = fs::read_to_string(&world.config).unwrap();
    let with = |template: &std::path::Path| {
        format!("{good}[[boot_config]]\ntemplate = {template:?}\noutput = \"menu\"\n")
    };
    fs::write(&world.config, with(&template)).unwrap();
    let mut daemon = world.daemon();
    let wait_for = |name: &str, expected: &str| {
        until(&format!("{name} to be {expected}"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            figure(&text, name).as_deref() == Some(expected)
        });
    };
    wait_for("outputs_failing", "0");
    // Space on other file systems than these changes meanwhile.
    for of in ["spool", "tree"] {
        let text = fs::read_to_string(&file).unwrap();
        let free = figure(&text, &format!("free_bytes{{of=\"{of}\"}}")).unwrap();
        assert!(free.parse::<u64>().unwrap() > 0, "{free}");
    }
    // A reload finds out what is wrong before the old configuration goes.
    fs::write(&world.config, with(&world.root.join("none.j2"))).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("reload refused, keeping the old configuration: bad configuration");
    daemon.wait_for("none.j2\": No such file or directory");
    wait_for("reloads_total{result=\"refused\"}", "1");
    fs::write(&world.config, &good).unwrap();
    daemon.signal(Signal::HUP);
    wait_for("reloads_total{result=\"good\"}", "1");
    fs::write(&world.config, with(&template)).unwrap();
    daemon.signal(Signal::HUP);
    wait_for("reloads_total{result=\"good\"}", "2");
    until("the menu", || world.tree.join("menu").exists());

    fs::write(&template, "{{ oops }}").unwrap();
    drop_files(&world, "one", 1);
    daemon.wait_for_drop("one");
    wait_for("outputs_failing", "1");
    fs::write(&template, "good").unwrap();
    drop_files(&world, "two", 2);
    daemon.wait_for_drop("two");
    wait_for("outputs_failing", "0");
    let text = fs::read_to_string(&file).unwrap();
    let failed = figure(&text, "failed_renderings_total").unwrap();
    assert!(failed.parse::<u64>().unwrap() >= 1, "{text}");
    daemon.stop();
}

fn json_log() {
    let world = World::new();
    drop_files(&world, "evil\u{202e}", 1);
    let output = world.run(&["run", "--once", "--log-format", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |key: &str| {
        let line = lines.iter().find(|line| line["outcome"] == "published");
        line.unwrap_or_else(|| panic!("{log}"))[key].clone()
    };
    assert_eq!(of("target"), TARGET);
    assert_eq!(of("drop"), "evil\u{202e}");
    assert_eq!(of("files"), 1);
    assert_eq!(of("message_id").as_str().map(str::len), Some(32));
    assert!(of("duration_usec").as_u64() < Some(u64::try_from(PATIENCE.as_micros()).unwrap()));
    assert!(of("generation").is_string() && of("digest").is_string() && of("bytes").is_u64());
}

fn broken_lease() {
    let world = World::new();
    let mut daemon = world.daemon();
    daemon.signal(Signal::IO);
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    let line = daemon.wait_for_drop("one");
    assert!(line.contains(" published "), "{line}");
    daemon.stop();
}
