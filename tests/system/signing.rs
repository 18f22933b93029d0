//! `--sign`: what the commands hand over is signed by ssh-keygen.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;
use netboot_publisher::{Digest, Manifest};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::keys::{Agent, Keys, public};
use crate::lab::terminal::Terminal;
use crate::lab::world::{Needs, PROGRAM, World, names, output, own, test, text, until};
use crate::rules::NO_RULES;
use crate::trust::{GAMES, MAN, NEWS};

const TARGET: &str = "amd64/generic/noble/install";

const SETSID: &str = "/usr/bin/setsid";

const NEEDS: &[Needs] = &[
    Needs::Root,
    Needs::Program("ssh-keygen"),
    Needs::Program("ssh-agent"),
    Needs::Path(SETSID),
];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "submit, rollback and withdraw sign what a rule lets in by its signature only",
            NEEDS,
            signed,
        ),
        test(
            "one team without any rule does everything, as the README says",
            NEEDS,
            one_team,
        ),
        test(
            "teams with Unix users of their own do what the README's rules let them",
            NEEDS,
            teams_by_user,
        ),
        test(
            "an image is signed and submitted by a shared account as the README says",
            NEEDS,
            shared_account,
        ),
        test(
            "a key that an agent holds signs, also where its private half isn't there",
            NEEDS,
            by_agent,
        ),
        test(
            "nothing is left in the spool of what could not be signed, and it is said why",
            NEEDS,
            not_signed,
        ),
        test(
            "a passphrase is asked for on the terminal",
            NEEDS,
            by_passphrase,
        ),
        test(
            "nothing is left in the spool when SIGINT ends submit while it asks for a passphrase",
            NEEDS,
            interrupted,
        ),
        test(
            "a rollback that is signed needs to know the image that it means",
            NEEDS,
            unknown_image,
        ),
    ]
}

/// A world in which the importer does nothing without a signature.
struct Scene {
    world: World,
    keys: Keys,
    program: PathBuf,
    /// Of files in folders, a link, and empty folders.
    image: PathBuf,
}

impl Scene {
    /// With a rule that has these public keys.
    fn new(keys: Keys, public: &[String]) -> Self {
        let rule = format!(
            "[[importer]]\nname = \"team\"\nusers = [\"games\"]\nkeys = {public:?}\n\
             publish = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n"
        );
        Self::with_rules(keys, &rule)
    }

    fn with_rules(keys: Keys, rules: &str) -> Self {
        let world = World::with(&format!(
            "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 9\n{rules}"
        ));
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&world.root, 0o755);
        // As the package makes it: nobody but the daemon lists it.
        mode(&world.incoming(""), 0o1733);
        // The build's folder may be closed to others.
        let program = world.root.join("program");
        fs::copy(PROGRAM, &program).unwrap();
        let image = world.root.join("image");
        for folder in ["boot", "empty", "nested/empty"] {
            fs::create_dir_all(image.join(folder)).unwrap();
        }
        fs::write(image.join("boot/initrd"), "initrd").unwrap();
        symlink("boot/initrd", image.join("to \"it\"")).unwrap();
        keys.give_to(GAMES);
        Self {
            world,
            keys,
            program,
            image,
        }
    }

    fn with_keys(kinds: &[&str]) -> Self {
        let keys = Keys::new();
        let public: Vec<_> = kinds.iter().map(|kind| keys.public(kind)).collect();
        Self::new(keys, &public)
    }

    /// The program as the importer runs it.
    fn command(&self, arguments: &[&str]) -> Command {
        // Without the terminal of the tests.
        let mut command = Command::new(SETSID);
        command
            .arg(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(&self.world.config)
            .env_remove("SSH_AUTH_SOCK")
            .uid(GAMES)
            .gid(GAMES);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// `submit` of an image with this kernel.
    fn submit(&self, kernel: &str, key: &Path) -> Command {
        fs::write(self.image.join("linux"), kernel).unwrap();
        let mut command = self.command(&["submit", "--arch=amd64", "--release=noble"]);
        command.args(["--purpose=install", "--sign"]);
        command.arg(key).arg(&self.image);
        command
    }

    /// What is in the drop of this name.
    fn manifest(&self, name: &str) -> String {
        fs::read_to_string(self.world.incoming(name).join("manifest.toml")).unwrap()
    }

    /// The only line of standard output: the name of a drop.
    #[track_caller]
    fn assert_handed_over(&self, done: &Output) -> String {
        assert!(done.status.success(), "{}\n{}", text(done), self.world);
        let name = String::from_utf8(done.stdout.clone()).unwrap();
        assert_eq!(self.world.names("incoming"), [name.trim_end()]);
        name.trim_end().to_string()
    }

    /// One message of the program's own, and nothing handed over.
    #[track_caller]
    fn assert_not_signed(&self, done: &Output, says: &[&str]) {
        let said = String::from_utf8(done.stderr.clone()).unwrap();
        assert_eq!(done.status.code(), Some(1), "{}", text(done));
        assert_eq!(said.matches("netboot-publisher: ").count(), 1, "{said}");
        assert_eq!(done.stdout, b"", "{}", text(done));
        for text in says {
            assert!(said.contains(text), "{text}: {said}");
        }
        assert_eq!(self.world.names("incoming"), Vec::<String>::new());
    }
}

fn signed() {
    let scene = Scene::with_keys(&["ed25519", "ecdsa"]);
    let world = &scene.world;
    let mut generations = Vec::new();
    for kind in ["ed25519", "ecdsa"] {
        let key = scene.keys.path(kind);
        let drop = scene.assert_handed_over(&output(&mut scene.submit(kind, &key)));
        let manifest = scene.manifest(&drop);
        world.run_once();
        let outcome = world.assert_outcome(&drop, "published");
        assert_eq!(outcome["signer"], scene.keys.fingerprint(kind));
        let files = Manifest::parse(&manifest).unwrap().files.unwrap();
        let listed = files.iter().map(|(path, it)| format!("{path}: {it}"));
        let others: Vec<_> = listed.filter(|it| !it.contains("sha256 = ")).collect();
        let expected = [
            "empty: folder = true",
            "nested/empty: folder = true",
            "to \"it\": link = \"boot/initrd\"",
        ];
        assert_eq!(
            (files.len(), others),
            (5, expected.map(String::from).into())
        );
        generations.push((outcome["generation"].clone(), outcome["digest"].clone()));
    }
    let key = scene.keys.path("ecdsa");
    let key = key.to_str().unwrap();
    let (one, digest) = &generations[0];
    for (command, expected) in [("rollback", "rolled-back"), ("withdraw", "withdrawn")] {
        let unsigned = scene.assert_handed_over(&scene.run(&[command, TARGET]));
        world.run_once();
        world.assert_outcome(&unsigned, "rejected unsigned");
        let drop = scene.assert_handed_over(&scene.run(&[command, TARGET, "--sign", key]));
        let manifest = scene.manifest(&drop);
        let names_it = manifest.contains(&format!("digest = {digest}\n"));
        assert_eq!(names_it, command == "rollback", "{manifest}");
        world.run_once();
        let outcome = world.assert_outcome(&drop, expected);
        assert_eq!(outcome["signer"], scene.keys.fingerprint("ecdsa"));
        assert_eq!(outcome["generation"], *one, "{outcome:#}");
    }
    world.assert_at_rest();
}

/// The blocks of README's chapter on trust that begin so.
fn of_readme(language: &str, begin: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, chapter) = readme.split_once("\n### Trust\n").expect("a chapter");
    let chapter = chapter.split("\n### ").next().unwrap();
    let head = format!("\n```{language}\n{begin}");
    let blocks = chapter.split(&head).skip(1);
    let blocks: Vec<_> = blocks.map(|it| it.split("```").next().unwrap()).collect();
    let [block] = blocks[..] else {
        panic!("{} blocks that begin with {begin}", blocks.len());
    };
    format!("{begin}{block}")
}

/// Those of README's rules that have this name first, for users and groups that every Debian has.
fn rules_of_readme(name: &str) -> String {
    let rules = of_readme("toml", &format!("[[importer]]\nname = \"{name}\"\n"));
    let mut real = rules.clone();
    for (theirs, ours) in [
        ("lea", "games"),
        ("netboot-release", "man"),
        ("upload", "games"),
    ] {
        real = real.replace(&format!("[\"{theirs}\"]"), &format!("[\"{ours}\"]"));
    }
    assert_ne!(real, rules);
    real
}

impl Scene {
    /// Runs commands as they are written, as a user does in whose home is a key: the program is called
    /// by its name, and has the configuration of the test.
    fn shell(&self, user: u32, script: &str) -> Output {
        let home = self.world.root.join(format!("home-{user}"));
        fs::create_dir_all(home.join(".ssh")).unwrap();
        fs::copy(self.keys.path("ed25519"), home.join(".ssh/id_ed25519")).unwrap();
        let (program, config) = (&self.program, &self.world.config);
        let called = home.join("netboot-publisher");
        fs::write(
            &called,
            format!("#!/bin/sh\nexec {program:?} \"$@\" --config {config:?}\n"),
        )
        .unwrap();
        fs::set_permissions(called, fs::Permissions::from_mode(0o755)).unwrap();
        own(&home, user);
        fs::write(self.image.join("linux"), "kernel").unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new(SETSID);
        shell
            .args(["sh", "-euc", script])
            .env("PATH", format!("{}:{path}", home.display()))
            .env("HOME", home)
            .current_dir(&self.world.root);
        output(shell.uid(user).gid(user))
    }

    /// The same, of `submit`, `withdraw` and the like with `--wait`: what has come of it is said.
    #[track_caller]
    fn assert_comes(&self, user: u32, script: &str, code: i32, says: &str) {
        let done = self.shell(user, script);
        let said = text(&done);
        assert_eq!(done.status.code(), Some(code), "{script}: {said}");
        assert!(said.contains(says), "{script}: {says}: {said}");
    }
}

/// `submit` to a target whose other parts are those of an image of tests.
fn submit_to(arch: &str, release: &str) -> String {
    format!(
        "netboot-publisher submit --arch {arch} --release {release} --purpose install --wait image"
    )
}

fn one_team() {
    let scene = Scene::with_rules(Keys::new(), "");
    let checked = scene.shell(GAMES, "netboot-publisher check-config");
    assert!(text(&checked).contains(NO_RULES), "{}", text(&checked));
    let daemon = scene.world.daemon();
    // What is signed counts as what is not.
    let signed = of_readme("", "netboot-publisher submit --sign ");
    scene.assert_comes(GAMES, &signed, 0, &format!("published {TARGET} "));
    let generations = names(&scene.world.published(&format!("{TARGET}@")));
    assert_eq!(generations.len(), 2, "{generations:?}");
    let withdraw = format!("netboot-publisher withdraw {TARGET} --wait");
    scene.assert_comes(MAN, &withdraw, 0, &format!("withdrawn {TARGET} "));
    daemon.stop();
}

fn teams_by_user() {
    let scene = Scene::with_rules(Keys::new(), &rules_of_readme("release-team"));
    let daemon = scene.world.daemon();
    let may = "netboot-publisher may lea publish lab/generic/noble/install";
    assert!(include_str!("../../README.md").contains(&format!("`{may}`")));
    scene.assert_comes(GAMES, &may.replace("lea", "games"), 0, "yes, by rule `lab`");
    for (user, script, code, says) in [
        (
            MAN,
            submit_to("amd64", "noble"),
            0,
            "published amd64/generic/noble/install ",
        ),
        (
            MAN,
            submit_to("amd64", "trixie"),
            0,
            "published amd64/generic/trixie/install ",
        ),
        (
            MAN,
            submit_to("amd64", "sid"),
            3,
            "not-allowed: rule `release-team` does not let man publish",
        ),
        (
            GAMES,
            submit_to("lab", "noble"),
            0,
            "published lab/generic/noble/install ",
        ),
        (
            GAMES,
            submit_to("amd64", "noble"),
            3,
            "not-allowed: rule `lab` does not let games publish",
        ),
        (
            NEWS,
            submit_to("lab", "noble"),
            3,
            "not-allowed: no importer rule is for news",
        ),
        (
            MAN,
            "netboot-publisher withdraw amd64/generic/trixie/install --wait".to_string(),
            3,
            "not-allowed: rule `release-team` does not let man withdraw",
        ),
        (
            MAN,
            "netboot-publisher withdraw amd64/generic/noble/install --wait".to_string(),
            0,
            "withdrawn amd64/generic/noble/install ",
        ),
    ] {
        scene.assert_comes(user, &script, code, says);
    }
    daemon.stop();
}

fn shared_account() {
    let keys = Keys::new();
    let rules = rules_of_readme("team-a");
    let (_, rest) = rules.split_once("keys = [\"").unwrap();
    let theirs = rest.split('"').next().unwrap();
    let rules = rules.replace(theirs, &keys.public("ed25519"));
    let scene = Scene::with_rules(keys, &rules);
    let daemon = scene.world.daemon();
    let recipe = of_readme("", "netboot-publisher submit --sign ");
    // It has what the rule asks for.
    let serial = " --serial \"$(date +%s)\"";
    let bare = recipe.replace(serial, "");
    assert_ne!(bare, recipe);
    scene.assert_comes(
        GAMES,
        &bare,
        3,
        "not-allowed: rule `team-a` requires `serial`",
    );
    scene.assert_comes(GAMES, &recipe, 0, &format!("published {TARGET} "));
    let unsigned = recipe.replace(" --sign ~/.ssh/id_ed25519", "");
    assert_ne!(unsigned, recipe);
    scene.assert_comes(GAMES, &unsigned, 3, "unsigned: ");
    // By hand.
    let by_hand = "ssh-keygen -Y sign -n netboot-publisher -f KEY manifest.toml";
    assert!(include_str!("../../README.md").contains(&format!("`{by_hand}`")));
    let linux = Digest::of(b"kernel");
    let script = format!(
        "umask 022; cd spool/incoming; mkdir -p .hand/image; cd .hand; printf kernel > image/linux
         cat > manifest.toml <<END
format = 1
arch = \"amd64\"
release = \"sid\"
purpose = \"install\"
serial = $(date +%s)
[files]
\"linux\" = {{ sha256 = \"{linux}\" }}
END
         {}
         mv -T ../.hand ../hand",
        by_hand.replace("KEY", "~/.ssh/id_ed25519")
    );
    scene.assert_comes(GAMES, &script, 0, "");
    until("its outcome", || scene.world.outcome("hand").is_some());
    scene.world.assert_outcome("hand", "published");
    daemon.stop();
    let verify = "netboot-publisher verify --signatures";
    assert!(include_str!("../../README.md").contains(&format!("`{verify}`")));
    let proven = scene.world.run(&["verify", "--signatures"]);
    assert!(proven.status.success(), "{}", text(&proven));
}

fn by_agent() {
    let keys = Keys::new();
    let locked = keys.locked("ed25519", "secret");
    let scene = Scene::new(keys, &[public(&locked)]);
    // Nobody is there to be asked for a passphrase.
    let half = scene.keys.half(&locked);
    scene.assert_not_signed(
        &output(&mut scene.submit("none", &half)),
        &[
            "No private key found",
            "ssh-keygen failed (exit status: 255)",
        ],
    );
    let agent = Agent::new(GAMES);
    let unlocked = scene.world.root.join("unlocked");
    fs::copy(&locked, &unlocked).unwrap();
    let mut unlock = Command::new("ssh-keygen");
    unlock.args(["-q", "-p", "-P", "secret", "-N", "", "-f"]);
    assert!(output(unlock.arg(&unlocked)).status.success());
    agent.add(&unlocked);
    for (number, key) in [half, locked].into_iter().enumerate() {
        let mut submit = scene.submit(&number.to_string(), &key);
        let drop = scene.assert_handed_over(&output(agent.give_to(&mut submit)));
        scene.world.run_once();
        scene.world.assert_outcome(&drop, "published");
    }
}

fn not_signed() {
    let scene = Scene::with_keys(&["ed25519"]);
    let failed = "ssh-keygen failed (exit status: 255); nothing is left in the spool";
    let locked = scene.keys.locked("ecdsa", "secret");
    let rsa = scene.keys.path("rsa");
    let open = scene.keys.path("ecdsa");
    scene.keys.give_to(GAMES);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    for (key, says) in [
        (
            Path::new("/no/such key"),
            &[
                "Couldn't load public key /no/such key",
                "signing with \"/no/such key\"",
                failed,
            ][..],
        ),
        (&locked, &["incorrect passphrase", failed]),
        (&open, &["UNPROTECTED PRIVATE KEY FILE", failed]),
        (
            &rsa,
            &["made with a key of the kind ssh-rsa; expected Ed25519 or ECDSA P-256"],
        ),
    ] {
        scene.assert_not_signed(&output(&mut scene.submit("one", key)), says);
    }
    let key = scene.keys.path("ed25519");
    let mut submit = scene.submit("one", &key);
    submit.env("PATH", scene.world.root.join("nothing"));
    let says = ["signing: no ssh-keygen; expected the package openssh-client"];
    scene.assert_not_signed(&output(&mut submit), &says);
    // Orders go the same way.
    let drop = scene.assert_handed_over(&output(&mut scene.submit("one", &key)));
    scene.world.run_once();
    scene.world.assert_outcome(&drop, "published");
    let order = ["withdraw", TARGET, "--sign", "/no/such key"];
    scene.assert_not_signed(&scene.run(&order), &[failed]);
}

fn by_passphrase() {
    let keys = Keys::new();
    let locked = keys.locked("ed25519", "secret");
    let scene = Scene::new(keys, &[public(&locked)]);
    for (typed, code) in [("wrong\n", 1), ("secret\n", 0)] {
        let mut terminal = Terminal::new();
        let child = terminal.start(&scene.submit("one", &locked), GAMES);
        terminal.wait_for("Enter passphrase");
        terminal.enter(typed);
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{}", terminal.shown());
        if code == 0 {
            let drop = scene.assert_handed_over(&done);
            scene.world.run_once();
            scene.world.assert_outcome(&drop, "published");
        } else {
            assert_eq!(scene.world.names("incoming"), Vec::<String>::new());
            terminal.wait_for("nothing is left in the spool");
        }
    }
}

fn interrupted() {
    let keys = Keys::new();
    let locked = keys.locked("ed25519", "secret");
    let scene = Scene::new(keys, &[public(&locked)]);
    // One that notes the first signal only, as ssh-keygen does right before it reads.
    let ours = scene.world.root.join("ssh-keygen");
    let script = "#!/bin/sh\ntrap 'trap - TERM' TERM\nstty -echo\necho 'Enter passphrase' >&2\n\
                  while :; do sleep 0.01; done\n";
    fs::write(&ours, script).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", scene.world.root.display());
    for (by_key, is_slow) in [(true, false), (false, false), (false, true)] {
        let mut terminal = Terminal::new();
        let mut submit = scene.submit("one", &locked);
        if is_slow {
            submit.env("PATH", &path);
        }
        let child = terminal.start(&submit, GAMES);
        terminal.wait_for("Enter passphrase");
        assert!(!terminal.echoes());
        let pid = Pid::from_child(&child);
        if by_key {
            terminal.enter("\u{3}");
        } else {
            kill_process(pid, Signal::INT).unwrap();
        }
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(130), "{}", terminal.shown());
        terminal.wait_for("interrupted, nothing is left in the spool");
        assert!(terminal.echoes() || is_slow, "what is typed stays hidden");
        assert_eq!(scene.world.names("incoming"), Vec::<String>::new());
    }
    // ssh-keygen has it before submit.
    fs::write(&ours, "#!/bin/sh\nkill -INT $$\n").unwrap();
    let mut terminal = Terminal::new();
    let mut submit = scene.submit("one", &locked);
    submit.env("PATH", &path);
    let done = terminal.start(&submit, GAMES).wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", terminal.shown());
    terminal.wait_for("interrupted, nothing is left in the spool");
}

fn unknown_image() {
    let scene = Scene::with_keys(&["ed25519"]);
    let key = scene.keys.path("ed25519");
    let world = &scene.world;
    let mut digests = Vec::new();
    for kernel in ["one", "two"] {
        let drop = scene.assert_handed_over(&output(&mut scene.submit(kernel, &key)));
        world.run_once();
        digests.push(world.assert_outcome(&drop, "published")["digest"].clone());
    }
    let key = key.to_str().unwrap();
    // The tree of another spool isn't known.
    let spool = world.spool.to_str().unwrap();
    let bare = ["rollback", TARGET, "--spool", spool, "--sign", key];
    let unknown = "the tree of another spool isn't known";
    scene.assert_not_signed(&scene.run(&bare), &["finding the image", unknown]);
    let short = digests[0].as_str().unwrap();
    let with = |to: &str| scene.run(&[&bare[..], &["--to", to]].concat());
    scene.assert_not_signed(&with(&short[..12]), &[unknown]);
    let drop = scene.assert_handed_over(&with(short));
    world.run_once();
    let outcome = world.assert_outcome(&drop, "rolled-back");
    assert_eq!(outcome["digest"], digests[0], "{outcome:#}");
    let gone = "20200101T000000Z-000000000000";
    let order = ["rollback", TARGET, "--sign", key, "--to", gone];
    let says = format!("{TARGET} keeps no generation {gone}");
    scene.assert_not_signed(&scene.run(&order), &[&says]);
    let order = ["rollback", "no/such/target/yet", "--sign", key];
    let says = "no such target: no/such/target/yet";
    scene.assert_not_signed(&scene.run(&order), &[says]);
}
