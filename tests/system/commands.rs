//! What the commands print, and how they exit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use libtest_mimic::Trial;
use notify::Watcher as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::world::{
    Daemon, Needs, PATIENCE, PROGRAM, World, output, test, text, wait_for_names,
};
use crate::rules::NO_RULES;

const TARGET: &str = "amd64/generic/noble/install";
const SUBMIT: &[&str] = &[
    "submit",
    "--arch",
    "amd64",
    "--release",
    "noble",
    "--purpose",
    "install",
];

pub fn tests() -> Vec<Trial> {
    let mut tests = of_texts();
    tests.extend(of_submit());
    tests.extend(of_run());
    tests
}

fn of_texts() -> Vec<Trial> {
    vec![
        test(
            "check-config says all that is wrong with a configuration, at once",
            &[],
            a_bad_configuration_is_explained,
        ),
        test(
            "check-config says that a good configuration is good",
            &[],
            a_good_configuration_is_good,
        ),
        test(
            "check-config says that there is no configuration at the usual place",
            &[],
            no_configuration,
        ),
        test(
            "a configuration that can't be read is one message and exit code 78",
            &[Needs::Root],
            unreadable_configurations,
        ),
        test(
            "every command refuses a bad configuration",
            &[],
            every_command_refuses_a_bad_configuration,
        ),
        test(
            "a bad manifest is explained in the outcome, in the log and by submit",
            &[],
            a_bad_manifest_is_explained,
        ),
        test(
            "wrong usage exits 2 and says what was expected",
            &[],
            wrong_usage,
        ),
    ]
}

fn of_submit() -> Vec<Trial> {
    vec![
        test(
            "submit refuses a bad image before anything is in the spool",
            &[],
            submit_refuses_a_bad_image,
        ),
        test(
            "submit tells by its exit code what became of the drop",
            &[],
            submit_tells_by_its_exit_code,
        ),
        test(
            "submit takes targets of every length and ending",
            &[],
            submit_takes_every_target,
        ),
        test(
            "submit leaves nothing behind when SIGINT ends it in the middle",
            &[],
            || submit_is_interrupted(Signal::INT),
        ),
        test(
            "submit leaves nothing behind when SIGTERM ends it in the middle",
            &[],
            || submit_is_interrupted(Signal::TERM),
        ),
        test(
            "submit that waits for an outcome ends on SIGINT",
            &[],
            submit_is_interrupted_while_it_waits,
        ),
    ]
}

fn of_run() -> Vec<Trial> {
    vec![
        test(
            "nobody who stops reading makes a command panic",
            &[],
            closed_pipes,
        ),
        test(
            "a daemon whose log nobody reads any more goes on publishing",
            &[],
            a_daemon_without_readers_goes_on,
        ),
        test(
            "a spool or tree that is not there is one message and exit code 1",
            &[],
            missing_directories,
        ),
        test(
            "a second daemon on the same spool says so and ends",
            &[],
            || {
                a_second_daemon_ends(true);
            },
        ),
        test(
            "a second daemon on the same tree says so and ends",
            &[],
            || {
                a_second_daemon_ends(false);
            },
        ),
        test(
            "an owner that the machine doesn't know keeps the daemon from starting",
            &[],
            an_unknown_owner,
        ),
    ]
}

/// Exit code, standard output and standard error.
#[track_caller]
fn assert_said(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let said = (output.status.code(), of(&output.stdout), of(&output.stderr));
    assert_eq!(said, (Some(code), stdout.to_string(), stderr.to_string()));
}

/// One message, no panic, and this exit code.
#[track_caller]
fn assert_one_message(output: &Output, code: i32) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    assert_eq!(said.matches("netboot-publisher:").count(), 1, "{said}");
    for word in ["panicked", "backtrace", ".rs:"] {
        assert!(!said.contains(word), "{said}");
    }
}

fn program(arguments: &[&str], directory: &Path) -> Output {
    output(Command::new(PROGRAM).args(arguments).current_dir(directory))
}

fn a_bad_configuration_is_explained() {
    let world = World::new();
    let bad = "\
[spool]
watch = \"sometimes\"
incomplete_timeout = \"soon\"

[tree]
pth = \"/srv\"
owner = 0

[limits]
max_image_size = 16
max_depth = 9999

[retention]
keep = -1
[logs]
";
    fs::write(world.root.join("bad.toml"), bad).unwrap();
    let expected = "\
netboot-publisher: bad configuration
error: invalid `spool.watch`
 --> bad.toml:2:9
  |
2 | watch = \"sometimes\"
  |         ^^^^^^^^^^^ expected \"auto\" or \"poll\"

error: invalid `spool.incomplete_timeout`
 --> bad.toml:3:22
  |
3 | incomplete_timeout = \"soon\"
  |                      ^^^^^^ expected a duration such as \"10m\" or \"7d\", at most 100 years

error: unknown key `tree.pth`
 --> bad.toml:6:1
  |
6 | pth = \"/srv\"
  | ^^^ expected one of `path`, `owner`, `group`

error: invalid `tree.owner`
 --> bad.toml:7:9
  |
7 | owner = 0
  |         ^ expected a name, or \"\" for the daemon's own

error: invalid `limits.max_image_size`
  --> bad.toml:10:18
   |
10 | max_image_size = 16
   |                  ^^ expected a size such as \"512MiB\" or \"4GiB\"

error: invalid `limits.max_depth`
  --> bad.toml:11:13
   |
11 | max_depth = 9999
   |             ^^^^ expected a whole number, at most 1000

error: invalid `retention.keep`
  --> bad.toml:14:8
   |
14 | keep = -1
   |        ^^ expected a whole number, at most 1000000

error: unknown key `logs`
  --> bad.toml:15:2
   |
15 | [logs]
   |  ^^^^ expected one of `spool`, `tree`, `limits`, `retention`, `swap`, `tftp`, `boot_config`, `alias`, `hook`, `importer`, `checks`, `metrics`, `log`
";
    let output = program(&["check-config", "--config", "bad.toml"], &world.root);
    assert_said(&output, 78, "", expected);

    let syntax = "[spool\npath = \"/s\"\n[tree]\npath = \"/t\"\n";
    fs::write(world.root.join("bad.toml"), syntax).unwrap();
    let expected = "\
netboot-publisher: bad configuration
error: unclosed table, expected `]`
 --> bad.toml:1:7
  |
1 | [spool
  |       ^
";
    let output = program(&["check-config", "--config", "bad.toml"], &world.root);
    assert_said(&output, 78, "", expected);
}

fn a_good_configuration_is_good() {
    let world = World::new();
    let output = program(&["check-config", "--config", "config.toml"], &world.root);
    assert_said(&output, 0, &format!("config.toml: good\n{NO_RULES}\n"), "");
    for shipped in ["config/netboot-publisher.toml", "config/local.toml"] {
        let output = program(
            &["check-config", "--config", shipped],
            Path::new(env!("CARGO_MANIFEST_DIR")),
        );
        assert_said(&output, 0, &format!("{shipped}: good\n{NO_RULES}\n"), "");
    }
}

fn unreadable_configurations() {
    let world = World::new();
    fs::write(world.root.join("latin1.toml"), b"# caf\xe9\n").unwrap();
    for (path, why) in [
        ("missing.toml", "No such file or directory"),
        (".", "Is a directory"),
        ("latin1.toml", "stream did not contain valid UTF-8"),
    ] {
        for command in ["check-config", "status", "run"] {
            let output = program(&[command, "--config", path], &world.root);
            let said = format!("netboot-publisher: reading the configuration {path:?}: {why}\n");
            assert_said(&output, 78, "", &said);
        }
    }
    fs::set_permissions(&world.config, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    // The build's folder may be closed to others.
    let copy = world.root.join("program");
    fs::copy(PROGRAM, &copy).unwrap();
    let output = Command::new(copy)
        .args(["check-config", "--config", "config.toml"])
        .current_dir(&world.root)
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let said = "netboot-publisher: reading the configuration \"config.toml\": Permission denied\n";
    assert_said(&output, 78, "", said);
}

fn every_command_refuses_a_bad_configuration() {
    let world = World::new();
    fs::write(&world.config, "[spool]\npth = 1\n").unwrap();
    let submit = [SUBMIT, &["."]].concat();
    for command in [
        &["run"][..],
        &["run", "--once"],
        &["status"],
        &submit,
        &["check-config"],
    ] {
        let output = world.run(command);
        assert_one_message(&output, 78);
        assert!(
            text(&output).contains("unknown key `spool.pth`"),
            "{}",
            text(&output)
        );
    }
}

fn a_bad_manifest_is_explained() {
    let world = World::new();
    let bad = "format = 1\narch = \"amd64\"\nrelease = \"no/ble\"\n[files]\n\"linux\" = {}\n";
    let expected = "\
error: missing key `purpose`
 --> manifest.toml:1:1
  |
1 | format = 1
  | ^

error: invalid `release`
 --> manifest.toml:3:11
  |
3 | release = \"no/ble\"
  |           ^^^^^^^^ expected 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit

error: missing key `files.linux.sha256`
 --> manifest.toml:5:1
  |
5 | \"linux\" = {}
  | ^^^^^^^";
    let mut daemon = world.daemon();
    world.drop_with("bad", bad, |image| {
        fs::write(image.join("linux"), "x").unwrap()
    });
    daemon.wait_for("WARN rejected:");
    let log = daemon.wait_for_drop("bad");
    let outcome = world.assert_outcome("bad", "rejected bad-manifest");
    assert_eq!(outcome["detail"], expected, "{outcome:#}");
    assert!(log.contains("reason=bad-manifest"), "{log}");
    let logged = daemon.log.join("\n");
    assert!(logged.contains(expected), "{logged}");
    wait_for_names(&world.spool.join("rejected"), &["bad", "bad.json"]);
    assert_eq!(world.names("rejected"), ["bad", "bad.json"], "{world}");
    let kept = fs::read_to_string(world.spool.join("rejected/bad/manifest.toml")).unwrap();
    assert_eq!(kept, bad);
    daemon.stop();
    world.assert_at_rest();
}

fn wrong_usage() {
    let world = World::new();
    let rule = "1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit";
    let with = |more: &[&'static str]| [SUBMIT, more].concat();
    for (arguments, said) in [
        (vec!["publish"], "error: unrecognized subcommand 'publish'\n".to_string()),
        (
            vec!["status", "amd64/noble"],
            format!(
                "error: invalid value 'amd64/noble' for '[TARGET]': expected \
                 arch/subarch/release/purpose, each {rule}; `*` stands for any part of one\n"
            ),
        ),
        (
            with(&["--subarch", "../x", "."]),
            format!("error: invalid value '../x' for '--subarch <SUBARCH>': expected {rule}\n"),
        ),
        (
            with(&["--version", "a\nb", "."]),
            "error: invalid value 'a\nb' for '--version <VERSION>': expected a text of at most 128 \
             bytes without control characters\n"
                .to_string(),
        ),
        (
            with(&["--wait=soon", "."]),
            "error: invalid value 'soon' for '--wait[=<TIME>]': expected a time such as \"10m\", or \
             seconds\n"
                .to_string(),
        ),
        (
            with(&[]),
            "error: the following required arguments were not provided:\n  <IMAGE>\n".to_string(),
        ),
    ] {
        let output = world.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(&said), "{stderr}\ninstead of\n{said}");
    }
}

fn submit(world: &World, more: &[&str]) -> Output {
    let arguments = [SUBMIT, more].concat();
    output(world.command(&arguments).current_dir(&world.root))
}

fn image(world: &World) {
    fs::create_dir(world.root.join("image")).unwrap();
    fs::write(world.root.join("image/linux"), "kernel").unwrap();
}

fn no_configuration() {
    let usual = "/etc/netboot-publisher/config.toml";
    let checked = output(Command::new(PROGRAM).arg("check-config"));
    // A machine may have the package installed.
    let said = if Path::new(usual).exists() {
        format!("{usual}: good\n{NO_RULES}\n")
    } else {
        format!("{usual}: not there, the built-in defaults apply\n{NO_RULES}\n")
    };
    assert_said(&checked, 0, &said, "");
}

/// Fills an image.
type Make = fn(&Path);

fn submit_refuses_a_bad_image() {
    let world = World::with("[limits]\nmax_image_size = \"1KiB\"\nmin_free_space = \"0B\"\n");
    let path = world.root.join("image");
    let bad: &[(Make, &str)] = &[
        (|_| {}, "empty-image: image/ holds no regular file"),
        (
            |image| fs::write(image.join("linux"), [0; 1_025]).unwrap(),
            "too-large: larger than 1.0 KiB (limits.max_image_size), reached at `linux`",
        ),
        (
            |image| std::os::unix::fs::symlink("/etc/passwd", image.join("linux")).unwrap(),
            "unsafe-file: `linux` -> `/etc/passwd`; expected a relative link to a file or folder \
             of the image",
        ),
        (
            |image| drop(std::os::unix::net::UnixListener::bind(image.join("socket")).unwrap()),
            "unsafe-file: `socket` is no regular file, folder or link",
        ),
        (
            |image| fs::write(image.join("a\nb"), "x").unwrap(),
            "unsafe-name: `a\\nb` in the image's root; expected names in UTF-8 without control \
             characters, in paths of at most 3072 bytes",
        ),
    ];
    for (make, why) in bad {
        fs::create_dir(&path).unwrap();
        make(&path);
        let output = submit(&world, &["--wait=100", "image"]);
        let said = format!("netboot-publisher: submitting \"image\": {why}\n");
        assert_said(&output, 1, "", &said);
        assert_eq!(world.names("incoming"), Vec::<String>::new(), "{world}");
        fs::remove_dir_all(&path).unwrap();
    }
    let output = submit(&world, &["image"]);
    let said = "netboot-publisher: submitting \"image\": opening directory \"image\": No such file \
                or directory\n";
    assert_said(&output, 1, "", said);
    assert_eq!(world.names("incoming"), Vec::<String>::new(), "{world}");
}

fn submit_tells_by_its_exit_code() {
    let world = World::new();
    image(&world);
    let output = submit(&world, &["--wait=0", "image"]);
    let drop = world.names("incoming").pop().expect("a drop");
    let said = format!("netboot-publisher: {drop} has no outcome yet\n");
    assert_said(&output, 4, "", &said);

    let mut daemon = world.daemon();
    daemon.wait_for_drop(&drop);
    let outcome = world.assert_outcome(&drop, "published");
    let generation = outcome["generation"].as_str().unwrap();
    let output = submit(&world, &["--wait=100", "image"]);
    assert_said(
        &output,
        0,
        &format!("unchanged {TARGET} {generation}\n"),
        "",
    );

    fs::write(world.root.join("image/linux"), "kernel 2").unwrap();
    let output = submit(&world, &["--wait", "--version", "2 (ü)", "image"]);
    let link = fs::read_link(world.published(TARGET)).unwrap();
    let generation = link.file_name().unwrap().to_str().unwrap();
    assert_said(
        &output,
        0,
        &format!("published {TARGET} {generation}\n"),
        "",
    );

    // Without --wait, `submit` says how its drop is called.
    let output = submit(&world, &["--version", "2 (ü)", "image"]);
    let drop = String::from_utf8(output.stdout.clone()).unwrap();
    assert_said(&output, 0, &drop, "");
    daemon.wait_for_drop(drop.trim_end());
    world.assert_outcome(drop.trim_end(), "unchanged");

    // The daemon has stricter limits than whoever submits.
    daemon.stop();
    let lax = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        lax.replace("[limits]", "[limits]\nmax_image_size = \"4B\""),
    )
    .unwrap();
    let daemon = world.daemon();
    fs::write(&world.config, lax).unwrap();
    let output = submit(&world, &["--wait=100", "image"]);
    let said = format!(
        "rejected {TARGET} too-large: larger than 4 B (limits.max_image_size), reached at \
         `linux`\n"
    );
    assert_said(&output, 3, "", &said);
    daemon.stop();
}

fn submit_takes_every_target() {
    let world = World::new();
    image(&world);
    let mut daemon = world.daemon();
    let long = [
        "a".repeat(64),
        "b".repeat(64),
        "c".repeat(64),
        "d".repeat(64),
    ];
    let ending = ["bad-name-", "generic", "noble", "menu.json"].map(String::from);
    for [arch, subarch, release, purpose] in [long, ending] {
        let output = world.run(&[
            "submit",
            "--wait=100",
            "--arch",
            &arch,
            "--subarch",
            &subarch,
            "--release",
            &release,
            "--purpose",
            &purpose,
            world.root.join("image").to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output));
        let target = format!("{arch}/{subarch}/{release}/{purpose}");
        daemon.wait_for(&format!("target={target}"));
        let published = fs::read(world.published(&target).join("linux")).unwrap();
        assert_eq!(published, b"kernel", "{world}");
    }
    daemon.stop();
    world.assert_at_rest();
}

/// Starts `submit` with an image that takes long to copy, and ends it when its drop is begun.
fn submit_is_interrupted(signal: Signal) {
    let world = World::with("[limits]\nmin_free_space = \"0B\"\n");
    fs::create_dir(world.root.join("image")).unwrap();
    let endless = fs::File::create(world.root.join("image/linux")).unwrap();
    endless.set_len(8 << 30).unwrap();
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        let _ = sender.send(event);
    })
    .unwrap();
    let incoming = world.spool.join("incoming");
    watcher
        .watch(&incoming, notify::RecursiveMode::NonRecursive)
        .unwrap();
    let arguments = [SUBMIT, &["--wait=60", "image"]].concat();
    let child = world
        .command(&arguments)
        .current_dir(&world.root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    events
        .recv_timeout(PATIENCE)
        .expect("a drop is begun")
        .unwrap();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = "netboot-publisher: interrupted, nothing is left in the spool\n";
    assert_said(&output, 130, "", said);
    assert_eq!(world.names("incoming"), Vec::<String>::new(), "{world}");
}

fn submit_is_interrupted_while_it_waits() {
    let world = World::new();
    image(&world);
    let arguments = [SUBMIT, &["--wait=60", "image"]].concat();
    let mut command = world.command(&arguments);
    command
        .current_dir(&world.root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // `submit` waits once it watches the outcomes.
    let begun = Instant::now();
    while !watches(child.id()) {
        assert!(begun.elapsed() < PATIENCE, "submit does not wait\n{world}");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let drop = world
        .names("incoming")
        .pop()
        .expect("what was handed over stays");
    let said = format!("netboot-publisher: interrupted, {drop} has no outcome yet\n");
    assert_said(&output, 130, "", &said);
    world.run_once();
    world.assert_outcome(&drop, "published");
}

/// Whether a process has a watch of inotify(7).
fn watches(pid: u32) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let info = fs::read_to_string(descriptor.path());
        info.is_ok_and(|info| info.contains("inotify wd:"))
    })
}

/// Two targets published, a drop that waits for its manifest, one that is rejected.
fn eventful() -> World {
    let world = World::new();
    world.drop_image("a", TARGET, &[("linux", b"kernel")]);
    world.drop_image("b", "arm64/rpi4/trixie/install", &[("linux", b"kernel")]);
    world.drop_image("c", "arm64/rpi4/trixie/rescue", &[]);
    world.run_once();
    fs::create_dir_all(world.incoming("d\u{1b}/image")).unwrap();
    fs::create_dir_all(world.incoming(".hidden/image")).unwrap();
    world
}

fn closed_pipes() {
    let world = eventful();
    image(&world);
    let submit = [SUBMIT, &["image"]].concat();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check-config"],
        &["--help"],
        &["--version"],
        &submit,
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command(arguments);
        let output = command
            .current_dir(&world.root)
            .stdout(writer)
            .output()
            .unwrap();
        assert_said(&output, 0, "", "");
    }
    // With a closed standard error, the exit code still tells of an error.
    for (arguments, code) in [(&["status", "--bogus"][..], 2), (&["submit"], 2)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = world.command(arguments).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    fs::write(&world.config, "x").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = world.command(&["run"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(78));
}

fn a_daemon_without_readers_goes_on() {
    let world = World::new();
    world.drop_image("a", TARGET, &[("linux", b"kernel")]);
    world.drop_image("b", TARGET, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = world.command(&["run", "--once"]);
    let status = command.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(0), "{world}");
    world.assert_outcome("a", "published");
    world.assert_outcome("b", "rejected empty-image");
    world.assert_at_rest();
}

fn missing_directories() {
    let world = World::new();
    image(&world);
    fs::create_dir(&world.tree).unwrap();
    fs::remove_dir_all(&world.spool).unwrap();
    let missing = |path: &Path| format!("opening directory {path:?}: No such file or directory\n");
    let output = world.run(&["status"]);
    assert_said(
        &output,
        1,
        "",
        &format!("netboot-publisher: {}", missing(&world.spool)),
    );
    let incoming = world.spool.join("incoming");
    let said = format!(
        "netboot-publisher: opening the spool: {}",
        missing(&incoming)
    );
    assert_said(&submit(&world, &["image"]), 1, "", &said);
    fs::create_dir_all(&incoming).unwrap();
    fs::remove_dir(&world.tree).unwrap();
    let output = world.run(&["status"]);
    assert_said(
        &output,
        1,
        "",
        &format!("netboot-publisher: {}", missing(&world.tree)),
    );

    // The daemon makes the spool and the tree, but no directory out of a file.
    fs::write(&world.tree, "a file").unwrap();
    let output = world.run(&["run", "--once"]);
    let said = format!(
        "netboot-publisher: opening the tree: opening directory {:?}: Not a directory; expected a \
         folder that can be written\n",
        world.tree
    );
    assert_said(&output, 1, "", &said);
    fs::remove_file(&world.tree).unwrap();
    world.run_once();
    assert!(world.tree.is_dir(), "{world}");
}

fn a_second_daemon_ends(shares_the_spool: bool) {
    let world = World::new();
    let mut first = world.daemon();
    let second = tempfile::tempdir().unwrap();
    let own = second.path().join("own");
    let (spool, tree) = if shares_the_spool {
        (&world.spool, &own)
    } else {
        (&own, &world.tree)
    };
    let rival = World::at(
        second.path(),
        spool,
        tree,
        "[limits]\nmin_free_space = \"0B\"\n",
    );
    let doing = if shares_the_spool { "spool" } else { "tree" };
    let shared = if shares_the_spool { spool } else { tree };
    for arguments in [&["run"][..], &["run", "--once"]] {
        let output = rival.run(arguments);
        let said = format!(
            "netboot-publisher: opening the {doing}: {shared:?} is in use by another \
             netboot-publisher\n"
        );
        assert_said(&output, 1, "", &said);
    }
    // The first daemon is not disturbed, and its end lets its rival in.
    world.drop_image("a", TARGET, &[("linux", b"kernel")]);
    first.wait_for_drop("a");
    world.assert_outcome("a", "published");
    first.kill();
    rival.run_once();
}

fn an_unknown_owner() {
    for (key, kind) in [("owner", "user"), ("group", "group")] {
        let world = World::with(&format!("#tree {key} = \"no-such-account\"\n"));
        let mut daemon = Daemon::start_unready(&mut world.command(&["run"]));
        let status = daemon.wait();
        assert_eq!(status.code(), Some(1), "{:?}", daemon.log);
        let said = format!(
            "netboot-publisher: opening the tree: no such {kind}: \"no-such-account\", as \
             `tree.{key}` says"
        );
        assert_eq!(daemon.log, [said]);
    }
}
