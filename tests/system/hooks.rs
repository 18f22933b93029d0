//! Hooks: the admin's programs, run after an outcome.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::lab::world::{Needs, World, manifest, names, test, until};

const TARGET: &str = "amd64/generic/noble/install";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a hook gets what happened in its environment and on its standard input",
            &[],
            told,
        ),
        test(
            "a hook runs after the outcomes that it is for, in order, one at a time",
            &[],
            in_order,
        ),
        test(
            "a hook for changes hears of all that changed the tree, and of nothing else",
            &[],
            changes,
        ),
        test(
            "a hook that hangs is ended with all that it has started, and delays no swap",
            &[],
            hangs,
        ),
        test(
            "a hook whose time is over may end by itself before it is ended",
            &[],
            is_asked,
        ),
        test(
            "what a hook says is logged line by line, and nothing of it unescaped",
            &[],
            says,
        ),
        test(
            "a hook that fails, or can't be started, is a warning",
            &[],
            fails,
        ),
        test(
            "what a hook leaves running is ended, and the log says how to start it",
            &[],
            leaves_something_running,
        ),
        test(
            "a hook whose time is over is ended with all its children however they hide",
            &[Needs::Program("setsid")],
            children_hide,
        ),
        test(
            "a hook that runs away from process to process is ended",
            &[Needs::Program("setsid")],
            runs_away,
        ),
        test(
            "a hook is ended with all its children when the daemon is killed",
            &[Needs::Program("setsid")],
            daemon_is_killed,
        ),
        test(
            "a hook of a daemon that runs as root has no capability and gets none back",
            &[Needs::Root],
            root_has_no_capability,
        ),
        test(
            "a hook that fails again and again is said less and less often",
            &[],
            fails_again_and_again,
        ),
        test("run --once runs all hooks before it ends", &[], once),
        test(
            "at the daemon's end a hook that hangs is ended, and the rest is given up",
            &[],
            given_up,
        ),
    ]
}

/// A world with one hook, a shell script.
struct Hooked {
    world: World,
    /// Where the script may write.
    out: PathBuf,
}

fn hooked(on: &str, timeout: &str, script: &str) -> Hooked {
    let dir = tempfile::tempdir().unwrap().keep();
    let program = dir.join("hook");
    let out = dir.join("out");
    fs::write(
        &program,
        format!("#!/bin/sh\nOUT={}\n{script}\n", out.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::with(&format!(
        "[limits]\nmin_free_space = \"0B\"\n\
         [[hook]]\non = [{on}]\ncommand = [{program:?}, \"argument\"]\ntimeout = {timeout:?}\n"
    ));
    Hooked { world, out }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.out.parent().unwrap());
    }
}

impl Hooked {
    fn drop_text(&self, text: &str) {
        self.world
            .drop_image(text, TARGET, &[("linux", text.as_bytes())]);
    }

    fn written(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }
}

fn told() {
    let hooked = hooked(
        "\"published\"",
        "1m",
        "env | grep -e ^NETBOOT_ -e ^SECRET | sort > $OUT.new; echo $1 >> $OUT.new; pwd >> $OUT.new\n\
         cat > $OUT.json; mv $OUT.new $OUT",
    );
    let world = &hooked.world;
    hooked.drop_text("one");
    world
        .command(&["run", "--once"])
        .env("SECRET", "of the daemon")
        .output()
        .unwrap();
    let outcome = world.assert_outcome("one", "published");
    let word = |key: &str| outcome[key].as_str().unwrap();
    let expected = format!(
        "NETBOOT_ARCH=amd64\nNETBOOT_DIGEST={}\nNETBOOT_DROP=one\nNETBOOT_GENERATION={}\n\
         NETBOOT_IMPORTER={}\nNETBOOT_OUTCOME=published\nNETBOOT_PURPOSE=install\nNETBOOT_REASON=\n\
         NETBOOT_RELEASE=noble\nNETBOOT_RULE=\nNETBOOT_SIGNER=\nNETBOOT_SUBARCH=generic\nNETBOOT_TARGET={TARGET}\n\
         NETBOOT_TREE={}\nargument\n/\n",
        word("digest"),
        word("generation"),
        outcome["importer"]["name"].as_str().unwrap(),
        world.tree.display(),
    );
    assert_eq!(hooked.written(), expected, "{world}");
    let json = fs::read(hooked.out.with_extension("json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), outcome);
}

fn in_order() {
    // A second hook that runs at the same time would find the lock.
    let hooked = hooked(
        "\"published\", \"rejected\"",
        "1m",
        "mkdir $OUT.lock || echo together >> $OUT\n\
         echo $NETBOOT_DROP $NETBOOT_OUTCOME$NETBOOT_REASON >> $OUT\nrmdir $OUT.lock",
    );
    let world = &hooked.world;
    let mut daemon = world.daemon();
    let mut expected = String::new();
    for number in 0..20 {
        let name = format!("drop-{number}");
        if number % 5 == 4 {
            world.drop_with(&name, "format = 0\n", |_| {});
            expected.push_str(&format!("{name} rejectedbad-manifest\n"));
        } else {
            hooked.drop_text(&name);
            expected.push_str(&format!("{name} published\n"));
        }
        daemon.wait_for_drop(&name);
        // An unchanged image is nothing for this hook.
        let again = format!("again-{number}");
        if number % 5 != 4 {
            world.drop_image(&again, TARGET, &[("linux", name.as_bytes())]);
            daemon.wait_for_drop(&again);
            world.assert_outcome(&again, "unchanged");
        }
    }
    until("all hooks", || {
        hooked.written().lines().count() >= expected.lines().count()
    });
    daemon.stop();
    assert_eq!(hooked.written(), expected);
}

fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A process that has ended and that nobody has waited for yet runs no more.
    !stat.is_empty() && !stat.contains(") Z ")
}

fn changes() {
    let hooked = hooked(
        "\"changed\"",
        "1m",
        "echo $NETBOOT_OUTCOME $NETBOOT_DROP >> $OUT",
    );
    let world = &hooked.world;
    let order = |name: &str, action: &str| {
        let hidden = world.incoming(&format!(".{name}"));
        fs::create_dir(&hidden).unwrap();
        let text = format!("{}action = \"{action}\"\n", manifest(TARGET));
        fs::write(hidden.join("manifest.toml"), text).unwrap();
        fs::rename(hidden, world.incoming(name)).unwrap();
        world.run_once();
    };
    for name in ["one", "two"] {
        hooked.drop_text(name);
        world.run_once();
    }
    world.drop_image("same", TARGET, &[("linux", b"two")]);
    world.run_once();
    world.assert_outcome("same", "unchanged");
    order("back", "rollback");
    order("nonsense", "remove");
    world.drop_image(
        "candidate",
        "amd64/generic/candidate/install",
        &[("linux", b"new")],
    );
    world.run_once();
    order("on", "promote\"\nfrom = \"amd64/generic/candidate/install");
    order("gone", "withdraw");
    assert_eq!(
        hooked.written(),
        "published one\npublished two\nrolled-back back\npublished candidate\npromoted on\n\
         withdrawn gone\n"
    );
}

fn hangs() {
    let hooked = hooked(
        "\"published\"",
        "1s",
        "trap '' TERM\nsleep 1000 & echo $! > $OUT.new; mv $OUT.new $OUT; wait; sleep 1000",
    );
    let world = &hooked.world;
    let mut daemon = world.daemon();
    hooked.drop_text("one");
    until("the hook to hang", || !hooked.written().is_empty());
    let grandchild = hooked.written();
    hooked.drop_text("two");
    daemon.wait_for_drop("two");
    world.assert_outcome("two", "published");
    let line = daemon.wait_for("hook failed");
    assert!(
        line.contains("timed out after 1s, ended") && line.contains("drop=\"one\""),
        "{line}"
    );
    until("the hook's own child to end", || !is_running(&grandchild));
    // The hook runs for the next drop, and hangs again.
    daemon.wait_for("hook failed");
    daemon.stop();
}

fn is_asked() {
    let hooked = hooked(
        "\"published\"",
        "1s",
        "trap 'echo asked > $OUT; exit 1' TERM\nsleep 1000 & wait",
    );
    hooked.drop_text("one");
    let output = hooked.world.run(&["run", "--once"]);
    assert!(
        output.status.success(),
        "{}",
        crate::lab::world::text(&output)
    );
    assert_eq!(hooked.written(), "asked\n");
}

fn says() {
    let hooked = hooked(
        "\"published\"",
        "1m",
        "echo hello; printf 'a\\033[2Jb\\342\\200\\256c\\n' >&2; head -c 5000 /dev/zero | tr '\\0' x; echo; \
         seq 3000; echo the end >&2",
    );
    let world = &hooked.world;
    hooked.drop_text("one");
    let output = world.run(&["run", "--once"]);
    let log = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(log.contains("says: hello"), "{log}");
    assert!(log.contains("says: a\\u{1b}[2Jb\\u{202e}c"), "{log}");
    assert!(!log.contains(['\x1b', '\u{202e}']), "{log}");
    assert!(
        log.contains(&format!("says: {}", "x".repeat(2_000))),
        "{log}"
    );
    assert!(
        log.contains("says: 900\n") || log.contains("says: 900 "),
        "{log}"
    );
    assert!(!log.contains("says: 2999"), "{log}");
    assert!(log.contains("says 2004 more lines"), "{log}");
    assert!(log.contains("says: the end"), "{log}");

    // JSON has escapes of its own: a program that reads it gets the same text.
    hooked.drop_text("two");
    let output = world.run(&["run", "--once", "--log-format", "json"]);
    let lines = output
        .stderr
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let said: Vec<_> = lines
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["message"].clone())
        .collect();
    let expected = "says: a\\u{1b}[2Jb\\u{202e}c";
    assert!(said.iter().any(|message| message == expected), "{said:?}");
}

fn fails() {
    let hooked = hooked("\"published\"", "1m", "exit 7");
    let world = &hooked.world;
    hooked.drop_text("one");
    let output = world.run(&["run", "--once"]);
    let log = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("hook failed: exit status: 7"), "{log}");
    fs::remove_file(hooked.out.with_file_name("hook")).unwrap();
    hooked.drop_text("two");
    let output = world.run(&["run", "--once"]);
    let log = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains("hook failed: can't be started: No such file or directory"),
        "{log}"
    );
    world.assert_outcome("two", "published");
}

/// The processes that a hook has started, and those of the daemon's around them: who has the hook's
/// environment.
fn processes(world: &World) -> Vec<String> {
    let variable = format!("NETBOOT_TREE={}", world.tree.display());
    let has_it = |pid: &String| {
        // One that has ended, and that nobody has waited for yet, has no environment.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|it| it == variable.as_bytes())
    };
    let names = names(Path::new("/proc"));
    names.into_iter().filter(has_it).collect()
}

fn until_nobody_is_left(world: &World) {
    until("everything that the hook has started to end", || {
        processes(world).is_empty()
    });
}

fn leaves_something_running() {
    let hooked = hooked(
        "\"published\"",
        "1h",
        "sleep 1000 & setsid sleep 1000 & echo $! >> $OUT",
    );
    let world = &hooked.world;
    let mut daemon = world.daemon();
    for text in ["one", "two"] {
        hooked.drop_text(text);
        daemon.wait_for_drop(text);
    }
    for text in ["one", "two"] {
        let line = daemon.wait_for("hook left 2 processes running, ended");
        assert!(
            line.contains("systemd-run") && line.contains(text),
            "{line}"
        );
    }
    until_nobody_is_left(world);
    assert_eq!(hooked.written().lines().count(), 2);
    let log = daemon.stop().join("\n");
    assert!(!log.contains("hook failed"), "{log}");
}

/// A shell script that starts children which ignore SIGTERM, each in another way to be found by
/// nobody, and says so when all are there.
const HIDES: &str = "\
stay='trap \"\" TERM HUP; echo $0 >> $OUT.there; while sleep 1000 & wait; do :; done'
export OUT
setsid sh -c \"$stay\" session &
(sh -c \"$stay\" orphan &)
(setsid sh -c '(setsid sh -c \"$0\" both &)' \"$stay\" &)
env -i OUT=$OUT NETBOOT_TREE=$NETBOOT_TREE PATH=$PATH nohup sh -c \"$stay\" nohup > /dev/null 2>&1 &
until [ \"$(wc -l < $OUT.there)\" = 4 ]; do sleep 0.1; done
mv $OUT.there $OUT
trap '' TERM
sleep 1000 & wait; sleep 1000
";

fn children_hide() {
    let hooked = hooked("\"published\"", "5s", HIDES);
    let mut daemon = hooked.world.daemon();
    hooked.drop_text("one");
    until("the children", || hooked.out.exists());
    assert!(processes(&hooked.world).len() > 8, "{}", hooked.written());
    daemon.wait_for("timed out after 5s, ended");
    assert_eq!(processes(&hooked.world), Vec::<String>::new());
    daemon.stop();
}

fn runs_away() {
    // Each process starts the next one and ends, until it is to be caught, or the script has gone.
    let hooked = hooked(
        "\"published\"",
        "2s",
        "[ ! -e $OUT.caught ] || exec sleep 60\n\
         if [ $1 = run ]; then setsid $0 run & exit; fi\n\
         for one in 1 2 3 4; do $0 run & done; echo > $OUT; sleep 1000",
    );
    let mut daemon = hooked.world.daemon();
    hooked.drop_text("one");
    daemon.wait_for("timed out after 2s, ended");
    assert!(hooked.out.exists(), "it did not run");
    fs::write(hooked.out.with_extension("caught"), "").unwrap();
    // One look can miss who is starting the next one.
    for _ in 0..100 {
        assert_eq!(processes(&hooked.world), Vec::<String>::new());
    }
    daemon.stop();
}

fn daemon_is_killed() {
    let hooked = hooked("\"published\"", "1h", HIDES);
    let daemon = hooked.world.daemon();
    hooked.drop_text("one");
    until("the children", || hooked.out.exists());
    daemon.kill();
    until_nobody_is_left(&hooked.world);
}

fn root_has_no_capability() {
    let hooked = hooked("\"published\"", "1m", "cat /proc/self/status > $OUT");
    hooked.drop_text("one");
    hooked.world.run_once();
    let status = hooked.written();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim_start_matches(':').trim().to_string()
    };
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(of(name), "0000000000000000", "{name} in {status}");
    }
    assert_eq!(of("NoNewPrivs"), "1", "{status}");
    assert!(of("Uid").starts_with("0\t0"), "{status}");
}

fn fails_again_and_again() {
    let hooked = hooked("\"rejected\"", "1m", "exit 7");
    for number in 0..40 {
        let name = format!("bad-{number}");
        hooked.world.drop_with(&name, "format = 0\n", |_| {});
    }
    let output = hooked.world.run(&["run", "--once"]);
    let log = String::from_utf8_lossy(&output.stderr).to_string();
    let said = |text: &str| log.matches(text).count();
    assert_eq!(said("hook failed: exit status: 7"), 16, "{log}");
    assert_eq!(
        said("hook failed 32 times in a row: exit status: 7"),
        1,
        "{log}"
    );
    assert_eq!(said("hook failed"), 17, "{log}");
}

fn once() {
    let hooked = hooked("\"published\"", "1m", "echo $NETBOOT_DROP >> $OUT");
    for number in 0..10 {
        hooked.drop_text(&format!("drop-{number}"));
    }
    hooked.world.run_once();
    let expected: String = (0..10).map(|number| format!("drop-{number}\n")).collect();
    assert_eq!(hooked.written(), expected);
}

fn given_up() {
    let hooked = hooked(
        "\"published\"",
        "1h",
        "trap '' TERM; setsid sleep 1000 & echo $NETBOOT_DROP >> $OUT; exec sleep 1000",
    );
    let world = &hooked.world;
    let mut daemon = world.daemon();
    for text in ["one", "two", "three"] {
        hooked.drop_text(text);
        daemon.wait_for_drop(text);
    }
    until("the first hook to hang", || !hooked.written().is_empty());
    let log = daemon.stop().join("\n");
    assert!(log.contains("hook failed: ended with the daemon"), "{log}");
    assert!(
        log.contains("not run for 2 outcomes: the daemon ends"),
        "{log}"
    );
    assert_eq!(hooked.written(), "one\n");
    assert_eq!(processes(world), Vec::<String>::new());
}
