//! What other users of the machine try: to read or take what is another importer's, and to do more than
//! the rules let them. Each attack is made by a process of that user.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use libtest_mimic::Trial;
use serde_json::Value;

use super::races::until_met;
use super::{OTHER, TARGET};
use crate::filesystems::FileSystem;
use crate::lab::world::{Needs, PROGRAM, World, manifest, names, output, own, test, text, until};
use crate::seen::{NOTHING_ENDS, wait_for_state};

/// Two importers, and somebody who is none: users that every Debian has.
const ALICE: u32 = 5;
const BOB: u32 = 6;
const EVE: u32 = 9;

/// What each of them may do.
const RULES: &str = r#"
[limits]
min_free_space = "0B"
[[importer]]
name = "alice"
users = ["games"]
publish = ["amd64/*/*/*"]
[[importer]]
name = "bob"
users = ["man"]
publish = ["lab/*/*/*"]
"#;

/// Exchanges a drop's manifest for another all the time, wherever the drop is: this is its folder.
const EXCHANGE: &str = r#"
    $| = 1;
    my @files = @ARGV;
    for (my $count = 0; ; $count++) {
        link($files[$count % 2], ".new") and rename(".new", "manifest.toml");
        print "." if $count == 0;
    }
"#;

/// Has two drops change places for a while: one that does so for ever is never claimed.
const CHANGE_PLACES: &str = r#"
    $| = 1;
    for (my $count = 0; $count < 20_000; $count++) {
        rename("a", ".aside"); rename("b", "a"); rename(".aside", "b");
        print "." if $count == 0;
    }
"#;

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "nobody reads, replaces or removes what became of another's drops",
            &[Needs::Root],
            outcomes_of_another,
        ),
        test(
            "where the file system has no ACLs only the daemon reads outcomes, and the start says so",
            &[Needs::Root],
            without_acls,
        ),
        test(
            "nobody takes the name of a drop that was claimed",
            &[Needs::Root],
            name_of_another,
        ),
        test(
            "drops of one name that are rejected at one time are all kept",
            &[Needs::Root],
            rejected_by_one_name,
        ),
        test(
            "a manifest that is exchanged all the time publishes nothing that its importer may not",
            &[Needs::Root, Needs::Program("perl")],
            manifest_exchanged,
        ),
        test(
            "drops that change places publish nothing that their importer may not",
            &[Needs::Root, Needs::Program("perl")],
            places_changed,
        ),
        test(
            "nobody withdraws or rolls back without the right, by command or by hand",
            &[Needs::Root],
            orders_without_the_right,
        ),
        test(
            "a manifest of another's in one's own drop publishes nothing",
            &[Needs::Root],
            manifest_of_another,
        ),
    ]
}

/// A world with the spool's modes as the package makes them.
fn shared(settings: &str) -> World {
    let world = World::with(settings);
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&world.root, 0o755);
    for (folder, mode) in [
        ("incoming", 0o1733),
        ("processing", 0o700),
        ("rejected", 0o700),
    ] {
        set(&world.spool.join(folder), mode);
    }
    world
}

/// What a user's shell says to this, in `incoming/`.
fn shell(world: &World, user: u32, script: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]);
    shell.current_dir(world.spool.join("incoming"));
    output(shell.uid(user).gid(user))
}

/// Makes a drop as a user does.
fn drop_as(world: &World, user: u32, name: &str, manifest: &str) {
    let script = format!(
        "umask 022; mkdir -p .{name}/image; echo {name} > .{name}/image/linux
         printf '%s' '{manifest}' > .{name}/manifest.toml; mv -T .{name} {name}"
    );
    let made = shell(world, user, &script);
    assert!(made.status.success(), "{}", text(&made));
}

/// The outcome of a user's drop, as that user reads it.
fn outcome_for(world: &World, user: u32, name: &str) -> Option<Value> {
    let file = world.outcomes_of(user).join(format!("{name}.json"));
    let read = shell(world, user, &format!("cat {}", file.display()));
    let is_read = read.status.success();
    is_read.then(|| serde_json::from_slice(&read.stdout).expect("an outcome is JSON"))
}

fn word(outcome: &Value) -> String {
    let of = |key: &str| outcome[key].as_str().unwrap_or_default();
    format!("{} {}", of("outcome"), of("reason"))
        .trim_end()
        .to_string()
}

/// A program of a user's that goes on until it is dropped.
struct Attack(Child);

impl Attack {
    /// Begins, and waits until the program says that it is at it.
    fn begin(user: u32, folder: &Path, program: &str, arguments: &[&Path]) -> Self {
        let mut perl = Command::new("perl");
        perl.args(["-e", program])
            .args(arguments)
            .current_dir(folder);
        let mut child = perl
            .uid(user)
            .gid(user)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0];
        let out = child.stdout.as_mut().unwrap();
        out.read_exact(&mut said).expect("the attack begins");
        Self(child)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn outcomes_of_another() {
    let world = shared("");
    drop_as(&world, ALICE, "daily", &manifest(TARGET));
    drop_as(&world, ALICE, "bad", "bad");
    world.run_once();
    let (of_alice, outcomes) = (world.outcomes_of(ALICE), world.spool.join("outcomes"));
    let (of_alice, outcomes) = (of_alice.display(), outcomes.display());
    let rejected = world.spool.join("rejected");
    let before = fs::read(world.outcome_file("daily")).unwrap();
    for script in [
        format!("ls {of_alice}"),
        format!("cat {of_alice}/daily.json"),
        format!("cd {of_alice}"),
        format!("touch {of_alice}/daily.json"),
        format!("rm -f {of_alice}/daily.json"),
        format!("mv {of_alice} {outcomes}/x"),
        format!("ln {of_alice}/daily.json mine"),
        format!("mkdir {outcomes}/{EVE}"),
        format!("touch {outcomes}/daily.json"),
        format!("cat {}/bad.json", rejected.display()),
    ] {
        for user in [BOB, EVE] {
            let tried = shell(&world, user, &script);
            assert!(!tried.status.success(), "{user} may: {script}");
        }
    }
    // Not even its own importer writes there.
    for script in [
        format!("touch {of_alice}/more.json"),
        format!("rm -f {of_alice}/daily.json"),
        format!("chmod 777 {of_alice}"),
    ] {
        let tried = shell(&world, ALICE, &script);
        assert!(!tried.status.success(), "the importer may: {script}");
    }
    let read = outcome_for(&world, ALICE, "daily").expect("her own");
    assert_eq!(word(&read), "published");
    let bad = outcome_for(&world, ALICE, "bad").expect("her own");
    assert_eq!(word(&bad), "rejected bad-manifest");
    assert_eq!(fs::read(world.outcome_file("daily")).unwrap(), before);
}

fn without_acls() {
    let disk = FileSystem::without_acls();
    let dir = tempfile::tempdir().unwrap();
    let (spool, tree) = (disk.root.join("spool"), dir.path().join("tree"));
    let world = World::at(dir.path(), &spool, &tree, "");
    let said = "is on a file system without ACLs: importers can't read their outcomes";
    let run = world.run(&["run", "--once"]);
    assert_eq!(text(&run).matches(said).count(), 1, "{}", text(&run));
    world.drop_image("mine", TARGET, &[("linux", b"1")]);
    own(&world.incoming("mine"), ALICE);
    world.run_once();
    world.assert_outcome("mine", "published");
    let folder = fs::metadata(world.outcomes_of(ALICE)).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700, "nobody else's");
    // Its importer learns why the outcome is not to be had.
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(dir.path(), 0o755);
    open(&disk.root, 0o755);
    open(&world.incoming(""), 0o1733);
    let image = dir.path().join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("linux"), "2").unwrap();
    // The build's folder may be closed to others.
    let program = dir.path().join("program");
    fs::copy(PROGRAM, &program).unwrap();
    let daemon = world.daemon();
    let mut submit = Command::new(program);
    submit.args([
        "submit",
        "--arch=amd64",
        "--release=noble",
        "--purpose=install",
    ]);
    submit
        .arg("--wait=1h")
        .arg(image)
        .arg("--config")
        .arg(&world.config);
    let waited = output(submit.uid(ALICE).gid(ALICE));
    assert_eq!(waited.status.code(), Some(1), "{}", text(&waited));
    let stderr = String::from_utf8(waited.stderr).unwrap();
    let last = stderr.lines().last().unwrap();
    let drop = last.split(' ').nth(1).unwrap();
    let folder = world.outcomes_of(ALICE);
    assert_eq!(
        last,
        format!(
            "netboot-publisher: {drop} is in the spool, and its outcome is not for this user to read \
             (opening directory {folder:?}: Permission denied): `--wait` needs root, or a spool on a \
             file system with ACLs; ask the admin what became of the drop"
        )
    );
    until("the drop to be published", || world.outcome(drop).is_some());
    world.assert_outcome(drop, "published");
    daemon.stop();
    let other = shared("");
    assert!(!text(&other.run(&["run", "--once"])).contains(said));
}

fn name_of_another() {
    let world = shared(NOTHING_ENDS);
    drop_as(&world, ALICE, "first", &manifest(TARGET));
    world.run_once();
    let daemon = world.daemon();
    drop_as(&world, ALICE, "daily", &manifest(TARGET));
    wait_for_state(&world, "daily", "held");
    // Hers is claimed, and waits: his has the name, and is his.
    drop_as(&world, BOB, "daily", &manifest(OTHER));
    until("his outcome", || {
        outcome_for(&world, BOB, "daily").is_some()
    });
    let his = outcome_for(&world, BOB, "daily").unwrap();
    assert_eq!(
        (word(&his).as_str(), &his["target"]),
        ("published", &OTHER.into())
    );
    assert_eq!(outcome_for(&world, ALICE, "daily"), None);
    assert_eq!(world.claimed(), ["daily"], "hers is held\n{world}");
    daemon.stop();
    let settings = fs::read_to_string(&world.config).unwrap();
    let settings = settings.replace("quiet_period = \"1d\"", "quiet_period = \"0s\"");
    fs::write(&world.config, settings).unwrap();
    world.run_once();
    let hers = outcome_for(&world, ALICE, "daily").unwrap();
    assert_eq!(
        (word(&hers).as_str(), &hers["target"]),
        ("published", &TARGET.into())
    );
    assert_eq!(outcome_for(&world, BOB, "daily"), Some(his));
    world.assert_at_rest();
}

fn rejected_by_one_name() {
    let world = shared("");
    let users = [ALICE, BOB, EVE];
    // As a daemon leaves them that was killed: claimed, and without an outcome.
    for user in users {
        drop_as(&world, user, "daily", "bad");
        let place = format!("processing/{user}-00000000000000a1.daily");
        fs::rename(world.incoming("daily"), world.spool.join(place)).unwrap();
    }
    world.run_once();
    for user in users {
        let outcome = outcome_for(&world, user, "daily").expect("an outcome of one's own");
        assert_eq!(word(&outcome), "rejected bad-manifest");
        assert_eq!(outcome["importer"]["uid"], user);
        let kept = world.spool.join("rejected");
        let is_own = |name: &String| !name.ends_with(".json") && owner_of(&kept.join(name)) == user;
        let own: Vec<_> = names(&kept).into_iter().filter(is_own).collect();
        assert_eq!(own.len(), 1, "{world}");
        let beside = fs::read(kept.join(format!("{}.json", own[0]))).unwrap();
        let written = fs::read(world.outcomes_of(user).join("daily.json")).unwrap();
        assert_eq!(beside, written, "{world}");
    }
    world.assert_at_rest();
}

fn owner_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

/// Nothing stands in the tree but what Bob may publish.
fn assert_only_the_lab(world: &World) {
    let top = names(&world.tree).into_iter();
    let top: Vec<_> = top.filter(|name| !name.starts_with('.')).collect();
    assert!(
        top.iter()
            .all(|name| name == "lab" || name == "catalog.json"),
        "{top:?}\n{world}"
    );
}

/// Two manifests of Bob's: what he may publish, and what he may not.
fn both_manifests(world: &World) -> [PathBuf; 2] {
    let folder = world.root.join("bob");
    fs::create_dir(&folder).unwrap();
    let files = [("good", "lab/generic/noble/install"), ("evil", TARGET)].map(|(name, target)| {
        let path = folder.join(name);
        fs::write(&path, manifest(target)).unwrap();
        path
    });
    own(&folder, BOB);
    files
}

fn manifest_exchanged() {
    let world = shared(RULES);
    let files = both_manifests(&world);
    let daemon = world.daemon();
    let mut words = BTreeSet::new();
    until_met("exchange", 30, |round| {
        let (hidden, name) = (format!(".race-{round}"), format!("race-{round}"));
        let made = shell(
            &world,
            BOB,
            &format!("mkdir -p {hidden}/image; echo {round} > {hidden}/image/linux"),
        );
        assert!(made.status.success(), "{}", text(&made));
        let folder = world.incoming(&hidden);
        let attack = Attack::begin(BOB, &folder, EXCHANGE, &[&files[0], &files[1]]);
        let handed = shell(&world, BOB, &format!("mv -T {hidden} {name}"));
        assert!(handed.status.success(), "{}", text(&handed));
        until("the outcome", || world.outcome(&name).is_some());
        drop(attack);
        let word = word(&world.outcome(&name).unwrap());
        assert_only_the_lab(&world);
        let is_known = [
            "published",
            "unchanged",
            "rejected changed",
            "rejected not-allowed",
        ];
        assert!(is_known.contains(&&*word), "{word}\n{world}");
        words.insert(word);
        // Both sides of the race.
        words.len() > 1
    });
    daemon.stop();
}

fn places_changed() {
    let world = shared(RULES);
    let daemon = world.daemon();
    until_met("change of places", 20, |round| {
        let made = |name: &str, target: &str| {
            format!(
                "mkdir -p {name}/image; echo {round} > {name}/image/linux
                 printf '%s' '{}' > {name}/manifest.toml",
                manifest(target)
            )
        };
        let both = [made(".a", "lab/generic/noble/install"), made(".b", TARGET)].join("\n");
        // One is rejected, whatever the other's fate is.
        let begin = format!("{both}; mv -T .a a; mv -T .b b");
        let mut attack = Attack::begin(BOB, &world.spool.join("incoming"), CHANGE_PLACES, &[]);
        let begun = shell(&world, BOB, &begin);
        attack.0.wait().unwrap();
        until("both to be handled", || {
            let left = names(&world.spool.join("incoming"));
            left.iter().all(|name| name.starts_with('.')) && world.names("processing").is_empty()
        });
        let _ = fs::rename(
            world.incoming(".aside"),
            world.incoming(&format!("left-{round}")),
        );
        assert_only_the_lab(&world);
        begun.status.success()
    });
    until("the rest", || {
        let is_left = |name: &String| !name.starts_with('.');
        !world.names("incoming").iter().any(is_left) && world.names("processing").is_empty()
    });
    assert_only_the_lab(&world);
    daemon.stop();
}

fn orders_without_the_right() {
    let world = shared(RULES);
    let program = world.root.join("program");
    fs::copy(PROGRAM, &program).unwrap();
    for name in ["one", "two"] {
        drop_as(&world, ALICE, name, &manifest(TARGET));
        world.run_once();
        assert_eq!(
            word(&outcome_for(&world, ALICE, name).unwrap()),
            "published"
        );
    }
    let pointer = fs::read_link(world.published(TARGET)).unwrap();
    let daemon = world.daemon();
    for (user, command) in [
        (BOB, "rollback"),
        (BOB, "withdraw"),
        (ALICE, "withdraw"),
        (EVE, "rollback"),
    ] {
        let mut run = Command::new(&program);
        run.args([command, TARGET, "--wait=60", "--config"])
            .arg(&world.config);
        let said = output(run.uid(user).gid(user));
        assert_eq!(
            said.status.code(),
            Some(3),
            "{user} {command}: {}",
            text(&said)
        );
        assert!(text(&said).contains("not-allowed"), "{}", text(&said));
        let order = format!("{}action = \"{command}\"\n", manifest(TARGET));
        let name = format!("{command}-{user}");
        let script = format!(
            "mkdir .{name}; printf '%s' '{order}' > .{name}/manifest.toml; mv -T .{name} {name}"
        );
        assert!(shell(&world, user, &script).status.success());
        until("the outcome", || outcome_for(&world, user, &name).is_some());
        let outcome = outcome_for(&world, user, &name).unwrap();
        assert_eq!(word(&outcome), "rejected not-allowed", "{user} {command}");
    }
    assert_eq!(fs::read_link(world.published(TARGET)).unwrap(), pointer);
    daemon.stop();
}

fn manifest_of_another() {
    let world = shared(RULES);
    drop_as(&world, BOB, "mine", &manifest("lab/generic/noble/install"));
    // Whatever way he has brought hers into his drop.
    let hers = world.incoming("mine").join("manifest.toml");
    fs::write(&hers, manifest(TARGET)).unwrap();
    own(&hers, ALICE);
    world.run_once();
    assert_eq!(
        word(&outcome_for(&world, BOB, "mine").unwrap()),
        "rejected unsafe-file"
    );
    drop_as(&world, ALICE, "hers", &manifest(TARGET));
    let folder = world.incoming("hers");
    // The folder is his, and all in it hers.
    chown(&folder, Some(BOB), None).unwrap();
    world.run_once();
    assert_eq!(
        word(&outcome_for(&world, BOB, "hers").unwrap()),
        "rejected unsafe-file"
    );
    assert_only_the_lab(&world);
}
