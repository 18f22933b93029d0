//! `--sign`: what the commands hand over is signed by ssh-keygen.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;
use netboot_publisher::Manifest;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::keys::{Agent, Keys, public};
use crate::lab::terminal::Terminal;
use crate::lab::world::{Needs, PROGRAM, World, output, own, test, text};

const TARGET: &str = "amd64/generic/noble/install";

/// A user that every Debian has: the importer.
const GAMES: u32 = 5;

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
            "an image is signed and submitted as the README says",
            NEEDS,
            as_the_readme_says,
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
        let world = World::with(&format!(
            "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 9\n\
             [[importer]]\nname = \"team\"\nusers = [\"games\"]\nkeys = {public:?}\n\
             publish = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n"
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

fn as_the_readme_says() {
    let scene = Scene::with_keys(&["ed25519"]);
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let recipe = "netboot-publisher submit --sign ";
    let (_, rest) = readme.split_once(&format!("```\n{recipe}")).unwrap();
    let recipe = format!("{recipe}{}", rest.split("```").next().unwrap());
    let home = scene.world.root.join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::copy(scene.keys.path("ed25519"), home.join(".ssh/id_ed25519")).unwrap();
    own(&home, GAMES);
    fs::write(scene.image.join("linux"), "kernel").unwrap();
    let daemon = scene.world.daemon();
    // The program, with the configuration of the test, by its name.
    let (program, config) = (&scene.program, &scene.world.config);
    let script = format!("#!/bin/sh\nexec {program:?} \"$@\" --config {config:?}\n");
    let called = home.join("netboot-publisher");
    fs::write(&called, script).unwrap();
    fs::set_permissions(called, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new(SETSID);
    shell
        .args(["sh", "-euc", &recipe])
        .env("PATH", format!("{}:{path}", home.display()))
        .env("HOME", home)
        .current_dir(&scene.world.root)
        .uid(GAMES)
        .gid(GAMES);
    let done = output(&mut shell);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains(&format!("published {TARGET} ")));
    daemon.stop();
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
    let slow = scene.world.root.join("ssh-keygen");
    let script = "#!/bin/sh\ntrap 'trap - TERM' TERM\nstty -echo\necho 'Enter passphrase' >&2\n\
                  while :; do sleep 0.01; done\n";
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    for (by_key, is_slow) in [(true, false), (false, false), (false, true)] {
        let mut terminal = Terminal::new();
        let mut submit = scene.submit("one", &locked);
        if is_slow {
            let path = std::env::var("PATH").unwrap();
            submit.env("PATH", format!("{}:{path}", scene.world.root.display()));
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
