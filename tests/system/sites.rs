//! A centre and its sites: what is published at the one reaches the others through an OCI registry, and each
//! site's own daemon judges it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::importing::IMPORT;
use crate::lab::keys::Keys;
use crate::lab::mirror::{NGINX, REGISTRY, Request, Server};
use crate::lab::world::{
    Daemon, Ended, Needs, PROGRAM, World, by_name, names, output, test, text, until, walk,
};

const NEEDS: &[Needs] = &[Needs::Root, REGISTRY, Needs::Program("ssh-keygen")];

const TARGET: &str = "amd64/generic/noble/install";
const CANDIDATE: &str = "amd64/generic/noble/candidate";

/// The failpoints of a push.
pub const PLACES: &[&str] = &["push-blob", "push-manifest", "push-index"];

pub fn tests() -> Vec<Trial> {
    let needs = |more: &[Needs]| [NEEDS, more].concat();
    vec![
        test(
            "whatever happens at a centre happens at its sites, also at one that was away",
            NEEDS,
            all_orders,
        ),
        test(
            "what a site's own admin has rolled back stays, unless somebody says so",
            NEEDS,
            rolled_back_here,
        ),
        test(
            "a centre says which target is damaged, and pushes the others",
            NEEDS,
            damaged_at_centre,
        ),
        test(
            "a check says what a site would bring, and brings nothing",
            NEEDS,
            checked,
        ),
        test(
            "an order that a site's rules refuse is dropped once by who goes on asking",
            NEEDS,
            refused_once,
        ),
        test(
            "what a site has fetched is kept until all of it is published, and no longer",
            NEEDS,
            tidied,
        ),
        test(
            "a site's own rules judge what a centre has ordered, and a refusal holds up no other order",
            NEEDS,
            judged,
        ),
        test(
            "what a registry loses a push brings back, and what it changes no site takes",
            NEEDS,
            registry_lies,
        ),
        test(
            "a registry that throws away what no tag leads to keeps all that a site needs",
            NEEDS,
            garbage_collected,
        ),
        test(
            "a registry behind TLS and a login takes pushes and gives to sites, and without these both say so",
            &needs(&[NGINX, Needs::Program("openssl")]),
            guarded,
        ),
        test(
            "a channel takes the orders of one centre only",
            NEEDS,
            two_centres,
        ),
        test(
            "a centre and a site that are set up as README says have the same",
            NEEDS,
            by_readme,
        ),
        test(
            "while a site's daemon is away each order is dropped once",
            NEEDS,
            daemon_away,
        ),
        by_name(
            "of an image of 1 GiB only the file that has changed goes to a site",
            "the file that has changed goes",
            NEEDS,
            Duration::from_secs(10 * 60),
            on_the_wire,
        ),
        by_name(
            "a thousand sites follow one registry for ten minutes",
            "a thousand sites",
            NEEDS,
            Duration::from_secs(20 * 60),
            a_thousand_sites,
        ),
        test(
            "a push that is killed at any failpoint leaves a channel whole, and the next one goes on",
            &needs(&[Needs::Failpoints]),
            push_killed,
        ),
        test(
            "a push and a site that are killed at any moment leave nothing half",
            &needs(&[Needs::Program("strace")]),
            killed,
        ),
    ]
}

/// A daemon with a tree of its own, which takes what this key has signed.
struct Host {
    world: World,
    daemon: Option<Daemon>,
}

/// What a centre and its sites know together.
struct Fleet {
    registry: Server,
    keys: Keys,
    centre: Host,
    /// The last one; orders have none where there is none.
    serial: Option<u64>,
}

impl Host {
    fn new(keys: &Keys) -> Self {
        let rule = format!(
            "[limits]\nmin_free_space = \"0B\"\n[retention]\nkeep = 1\nmin_age = \"0s\"\n\
             [[importer]]\nname = \"centre\"\nkeys = [\"{}\"]\npublish = [\"*/*/noble/*\"]\n\
             withdraw = [\"*/*/noble/*\"]\nrequire = [\"files\", \"serial\"]\n",
            keys.public("ed25519")
        );
        let world = World::with(&rule);
        let host = Self {
            daemon: Some(world.daemon()),
            world,
        };
        for folder in ["sources", "channels"] {
            fs::create_dir(host.at(folder)).unwrap();
        }
        host
    }

    fn at(&self, path: &str) -> PathBuf {
        self.world.root.join(path)
    }

    fn import(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(IMPORT);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.world.config);
        command.arg("--sources").arg(self.at("sources"));
        command.arg("--state").arg(self.at("state"));
        if arguments[0] == "push" {
            command.arg("--channels").arg(self.at("channels"));
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.import(arguments))
    }

    /// Runs netboot-import, which ends with this code. Returns what it said.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = text(&output);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {said}\n{}",
            self.world
        );
        said
    }

    /// What is published at a target: every path with its contents; `None` where nothing is.
    fn published(&self, target: &str) -> Option<Vec<(String, Vec<u8>)>> {
        let root = fs::canonicalize(self.world.published(target)).ok()?;
        let files = walk(&root).into_iter().filter(|path| path.is_file());
        let files = files.map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read(&path).unwrap())
        });
        Some(files.collect())
    }

    /// That every generation is proven by what somebody has signed.
    fn assert_proven(&self) {
        let verified = self.world.run(&["verify", "--signatures"]);
        assert!(verified.status.success(), "{}", text(&verified));
    }
}

impl Fleet {
    fn new() -> Self {
        let (registry, keys) = (Server::registry(), Keys::new());
        let centre = Host::new(&keys);
        let fleet = Self {
            registry,
            keys,
            centre,
            serial: Some(1),
        };
        fleet.channel(&fleet.centre, "fra1");
        fleet
    }

    fn channel(&self, host: &Host, centre: &str) {
        let url = self.registry.url("netboot/stable");
        let text = format!("url = \"{url}\"\ncentre = \"{centre}\"\n");
        fs::write(host.at("channels/stable.toml"), text).unwrap();
    }

    /// A site that follows the centre.
    fn site(&self) -> Host {
        let site = Host::new(&self.keys);
        let url = self.registry.url("netboot/stable");
        let text = format!("kind = \"oci\"\nurl = \"{url}\"\n");
        fs::write(site.at("sources/centre.toml"), text).unwrap();
        site
    }

    /// A site whose rules let nobody publish at [`CANDIDATE`]. Root needs no rule at its own daemon: another
    /// user has to follow.
    fn strict_site(&self) -> Host {
        let mut site = self.site();
        let config = fs::read_to_string(&site.world.config).unwrap();
        let strict = config.replace(
            "publish = [\"*/*/noble/*\"]",
            "publish = [\"*/*/noble/install\"]",
        );
        site.daemon = None;
        fs::write(&site.world.config, strict).unwrap();
        site.daemon = Some(site.world.daemon());
        site
    }

    /// Makes the centre do something, in an order that is signed and, usually, has a serial.
    fn order(&mut self, arguments: &[&str]) {
        let key = self.keys.path("ed25519").display().to_string();
        self.serial = self.serial.map(|last| last + 1);
        let serial = self.serial.map(|it| format!("--serial={it}"));
        let mut all = arguments.to_vec();
        all.extend(["--sign", &key, "--wait"]);
        all.extend(serial.as_deref());
        let ordered = self.centre.world.run(&all);
        assert!(
            ordered.status.success(),
            "{arguments:?}: {}",
            text(&ordered)
        );
    }

    fn publish(&mut self, purpose: &str, word: &str) {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir(image.path().join("boot")).unwrap();
        fs::write(image.path().join("linux"), format!("kernel {word}")).unwrap();
        // A layer of its own.
        let initrd = format!("{word} initrd\n").repeat(10_000);
        fs::write(image.path().join("boot/initrd.gz"), initrd).unwrap();
        std::os::unix::fs::symlink("boot/initrd.gz", image.path().join("initrd")).unwrap();
        let path = image.path().display().to_string();
        self.order(&[
            "submit",
            "--arch",
            "amd64",
            "--release",
            "noble",
            "--purpose",
            purpose,
            "--version",
            word,
            &path,
        ]);
    }

    fn push(&self) -> String {
        self.centre.ends(0, &["push"])
    }

    /// That a site shows what the centre does, after it has asked.
    fn assert_same(&self, site: &Host) {
        for target in [TARGET, CANDIDATE] {
            assert_eq!(
                site.published(target).is_some(),
                self.centre.published(target).is_some(),
                "{target}\n{}",
                site.world
            );
            assert!(
                site.published(target) == self.centre.published(target),
                "{target}"
            );
        }
        site.assert_proven();
        assert_eq!(
            names(&site.world.spool.join("rejected")),
            [""; 0],
            "{}",
            site.world
        );
    }
}

/// Something that a centre does.
type Step = fn(&mut Fleet);

fn all_orders() {
    let mut fleet = Fleet::new();
    let (near, away) = (fleet.site(), fleet.site());
    let steps: [(&str, Step); 8] = [
        ("published", |fleet| fleet.publish("install", "one")),
        ("published", |fleet| fleet.publish("install", "two")),
        ("rolled-back", |fleet| fleet.order(&["rollback", TARGET])),
        ("published", |fleet| fleet.publish("candidate", "three")),
        ("promoted", |fleet| {
            fleet.order(&["promote", CANDIDATE, TARGET])
        }),
        ("withdrawn", |fleet| fleet.order(&["withdraw", CANDIDATE])),
        ("published", |fleet| fleet.publish("install", "four")),
        // To the image that was promoted.
        ("rolled-back", |fleet| fleet.order(&["rollback", TARGET])),
    ];
    for (number, (word, step)) in steps.into_iter().enumerate() {
        step(&mut fleet);
        let said = fleet.push();
        assert!(said.contains(&format!(": {word}\n")), "{said}");
        let said = near.ends(0, &["run"]);
        assert!(said.contains(&format!(": {word}")), "{said}");
        fleet.assert_same(&near);
        // One that comes anew has what it needs with the order itself.
        let new = fleet.site();
        new.ends(0, &["run"]);
        fleet.assert_same(&new);
        if number == 0 {
            away.ends(0, &["run"]);
        }
    }
    away.ends(0, &["run"]);
    fleet.assert_same(&away);

    // Nothing has happened: the site asks once, and the centre writes nothing.
    fleet.registry.requests();
    let said = near.ends(0, &["run"]);
    assert!(said.contains(": unchanged"), "{said}");
    let asked = fleet.registry.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((&*asked[0].method, asked[0].status), ("HEAD", 200));
    let said = fleet.push();
    assert!(said.contains("unchanged"), "{said}");
    let asked = fleet.registry.requests();
    assert!(
        asked
            .iter()
            .all(|it| it.method == "HEAD" || it.method == "GET"),
        "{asked:?}"
    );
}

fn rolled_back_here() {
    let mut fleet = Fleet::new();
    // An order that has one counts once.
    fleet.serial = None;
    let site = fleet.site();
    fleet.publish("install", "one");
    fleet.push();
    site.ends(0, &["run"]);
    let first = site.published(TARGET);
    fleet.publish("install", "two");
    fleet.push();
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
    let ordered = site.world.run(&["rollback", TARGET, "--wait"]);
    assert!(ordered.status.success(), "{}", text(&ordered));
    let said = site.ends(0, &["run"]);
    assert!(said.contains(": unchanged"), "{said}");
    assert!(first.is_some() && site.published(TARGET) == first, "{said}");
    site.ends(0, &["run", "--again"]);
    fleet.assert_same(&site);
}

fn damaged_at_centre() {
    let mut fleet = Fleet::new();
    let site = fleet.site();
    // The damaged one comes first.
    fleet.publish("candidate", "one");
    fleet.publish("install", "two");
    let file = fleet.centre.world.published(CANDIDATE).join("linux");
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[0] ^= 1;
    fs::write(&file, bad).unwrap();
    let said = fleet.centre.ends(1, &["push"]);
    assert!(said.contains(&format!("{CANDIDATE}: not pushed")), "{said}");
    assert!(said.contains(&format!("{TARGET}: published")), "{said}");
    site.ends(0, &["run"]);
    assert!(site.published(TARGET).is_some() && site.published(CANDIDATE).is_none());
    fs::write(&file, good).unwrap();
    fleet.push();
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
}

fn checked() {
    let mut fleet = Fleet::new();
    let site = fleet.site();
    fleet.publish("install", "one");
    fleet.push();
    let said = site.ends(0, &["check"]);
    assert!(said.contains(&format!("{TARGET}: would bring")), "{said}");
    assert_eq!(names(&site.world.spool.join("incoming")), [""; 0]);
    assert_eq!(site.world.outcomes(), [""; 0]);
    assert!(site.published(TARGET).is_none());
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
    let said = site.ends(0, &["check"]);
    assert!(!said.contains("would bring"), "{said}");
}

fn refused_once() {
    let mut fleet = Fleet::new();
    let site = fleet.strict_site();
    fleet.publish("candidate", "one");
    fleet.push();
    let mut follow = nobody(&site, &["run", "--every=1s"]);
    let mut follow = Ended(follow.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follow.0.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("rejected not-allowed")));
    // More than one where a slow machine's came after its round.
    let outcomes = site.world.outcomes();
    fleet.registry.requests();
    let mut rounds = 0;
    until("more rounds", || {
        let asked = fleet.registry.requests();
        rounds += asked.iter().filter(|it| it.method == "HEAD").count();
        rounds >= 4
    });
    assert_eq!(site.world.outcomes(), outcomes);
    assert_eq!(site.world.names("incoming"), [""; 0]);
}

fn tidied() {
    let mut fleet = Fleet::new();
    let mut site = fleet.site();
    let kept = |site: &Host| {
        let state = site.at("state/centre");
        names(&state.join("files")).len() + names(&state.join("partial")).len()
    };
    fleet.publish("install", "one");
    fleet.push();
    site.ends(0, &["run"]);
    assert_eq!(kept(&site), 0);
    site.daemon = None;
    fleet.publish("install", "two");
    fleet.push();
    site.ends(4, &["run", "--wait=0"]);
    assert!(kept(&site) > 0);
    site.daemon = Some(site.world.daemon());
    until("the outcome", || {
        site.published(TARGET) == fleet.centre.published(TARGET)
    });
    site.ends(0, &["run"]);
    assert_eq!(kept(&site), 0);
    fleet.assert_same(&site);
}

fn judged() {
    let mut fleet = Fleet::new();
    let site = fleet.strict_site();
    fleet.publish("candidate", "one");
    fleet.publish("install", "two");
    fleet.push();
    let ended = as_nobody(&site, &["run"]);
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(
        said.contains(&format!("{CANDIDATE}: rejected not-allowed")),
        "{said}"
    );
    assert!(said.contains(&format!("{TARGET}: published")), "{said}");
    assert!(site.published(TARGET).is_some() && site.published(CANDIDATE).is_none());

    // A site whose daemon looks at no signatures says so, and takes nothing.
    let world = World::new();
    let open = Host {
        daemon: Some(world.daemon()),
        world,
    };
    fs::create_dir(open.at("sources")).unwrap();
    let url = fleet.registry.url("netboot/stable");
    let source = format!("kind = \"oci\"\nurl = \"{url}\"\n");
    fs::write(open.at("sources/centre.toml"), &source).unwrap();
    let said = open.ends(1, &["run"]);
    assert!(
        said.contains("no importer rule of this site's daemon has `keys`"),
        "{said}"
    );
    fs::write(open.at("sources/centre.toml"), source + "insecure = true\n").unwrap();
    let said = open.ends(0, &["run"]);
    assert!(said.contains("insecure"), "{said}");
    assert!(open.published(TARGET) == fleet.centre.published(TARGET));
}

fn open_to(host: &Host, user: u32) {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&host.world.root, 0o755);
    open(&host.world.spool.join("incoming"), 0o1777);
    fs::create_dir_all(host.at("state")).unwrap();
    for path in walk(&host.at("state")).iter().chain([&host.at("state")]) {
        chown(path, Some(user), None).unwrap();
    }
}

fn garbage_collected() {
    let mut fleet = Fleet::new();
    let site = fleet.site();
    let steps: [Step; 3] = [
        |fleet| fleet.publish("install", "one"),
        |fleet| fleet.publish("install", "two"),
        |fleet| fleet.order(&["rollback", TARGET]),
    ];
    for step in steps {
        step(&mut fleet);
        fleet.push();
        let said = fleet.registry.collect_garbage();
        assert!(said.contains("blobs marked"), "{said}");
        site.ends(0, &["run"]);
        fleet.assert_same(&site);
        let new = fleet.site();
        new.ends(0, &["run"]);
        fleet.assert_same(&new);
    }
    // What was thrown away was nobody's: a push finds all there.
    let said = fleet.centre.ends(0, &["push", "--all"]);
    assert!(said.contains("unchanged"), "{said}");
}

fn guarded() {
    let mut fleet = Fleet::new();
    let guard = Server::guarding(&fleet.registry, ["us", "secret"]);
    let (site, centre) = (fleet.site(), &fleet.centre);
    let secret = centre.at("secret");
    let url = format!("https://127.0.0.1:{}/netboot/stable", guard.port());
    let ca = format!("ca = {:?}\n", guard.certificate());
    let login = format!("username = \"us\"\npassword_file = {secret:?}\n");
    let set = |more: &str| {
        let channel = format!("url = \"{url}\"\ncentre = \"fra1\"\n{more}");
        fs::write(centre.at("channels/stable.toml"), channel).unwrap();
        let source = format!("kind = \"oci\"\nurl = \"{url}\"\n{more}");
        fs::write(site.at("sources/centre.toml"), source).unwrap();
    };
    let both_fail = |password: &str, more: &str, expected: &str| {
        fs::write(&secret, password).unwrap();
        set(more);
        for (host, deed) in [(centre, "push"), (&site, "run")] {
            let said = host.ends(1, &[deed]);
            assert!(said.contains(expected), "{deed}: {said}");
            assert!(!said.contains("secret\n"), "{said}");
        }
    };
    both_fail("secret\n", &login, "certificate");
    both_fail("wrong\n", &format!("{ca}{login}"), "not authorized");
    both_fail("secret\n", &ca, "not authorized");
    fs::write(&secret, "secret\n").unwrap();
    set(&format!("{ca}{login}"));
    fleet.publish("install", "one");
    let said = fleet.push();
    assert!(said.contains(": published\n"), "{said}");
    let said = site.ends(0, &["run"]);
    assert!(said.contains(": published"), "{said}");
    fleet.assert_same(&site);
}

/// The file of a blob in the registry's storage.
fn blobs(registry: &Server) -> Vec<PathBuf> {
    let all = walk(&registry.root().join("docker/registry/v2/blobs"));
    all.into_iter()
        .filter(|path| path.ends_with("data"))
        .collect()
}

fn registry_lies() {
    let mut fleet = Fleet::new();
    fleet.publish("install", "one");
    fleet.push();
    // Each thing that is in the registry is changed in turn: no site takes anything of it.
    for blob in blobs(&fleet.registry) {
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&blob, bad).unwrap();
        let site = fleet.site();
        let ended = site.run(&["run"]);
        let said = text(&ended);
        assert_eq!(ended.status.code(), Some(1), "{}: {said}", blob.display());
        assert!(said.contains("centre"), "{said}");
        assert!(site.published(TARGET).is_none());
        assert_eq!(names(&site.world.spool.join("incoming")), [""; 0]);
        fs::write(&blob, good).unwrap();
        site.ends(0, &["run"]);
        fleet.assert_same(&site);
    }
    let site = fleet.site();
    site.ends(0, &["run"]);
    // An emptied registry: what is here stays, and the next push brings all back.
    fleet.registry.stop();
    fs::remove_dir_all(fleet.registry.root()).unwrap();
    fs::create_dir(fleet.registry.root()).unwrap();
    fleet.registry.start();
    let said = site.ends(1, &["run"]);
    assert!(said.contains("what is here stays"), "{said}");
    assert!(site.published(TARGET).is_some());
    fleet.publish("install", "two");
    fleet.push();
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
    let new = fleet.site();
    new.ends(0, &["run"]);
    fleet.assert_same(&new);
    // Blobs that are lost one by one come back where everything is looked at.
    fleet.registry.stop();
    let largest = blobs(&fleet.registry)
        .into_iter()
        .max_by_key(|it| fs::metadata(it).unwrap().len());
    fs::remove_dir_all(largest.unwrap().parent().unwrap()).unwrap();
    fleet.registry.start();
    let late = fleet.site();
    let said = late.ends(1, &["run"]);
    assert!(said.contains("centre"), "{said}");
    fleet.centre.ends(0, &["push", "--all"]);
    late.ends(0, &["run"]);
    fleet.assert_same(&late);
    // An old state of the registry is none to go back to.
    let kept = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from.join("."))
            .arg(to)
            .status();
        assert!(copied.unwrap().success());
    };
    copy(&fleet.registry.root(), kept.path());
    fleet.publish("install", "three");
    fleet.push();
    late.ends(0, &["run"]);
    fleet.registry.stop();
    fs::remove_dir_all(fleet.registry.root()).unwrap();
    fs::create_dir(fleet.registry.root()).unwrap();
    copy(kept.path(), &fleet.registry.root());
    fleet.registry.start();
    let said = late.ends(1, &["run"]);
    assert!(said.contains("set back"), "{said}");
    fleet.assert_same(&late);
    fleet.push();
    late.ends(0, &["run"]);
    fleet.assert_same(&late);
}

fn two_centres() {
    let mut fleet = Fleet::new();
    fleet.publish("install", "one");
    fleet.push();
    let other = Host::new(&fleet.keys);
    fleet.channel(&other, "ams1");
    let said = other.ends(1, &["push"]);
    assert!(said.contains("is centre \"fra1\"'s"), "{said}");
    let site = fleet.site();
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
    let source = fs::read_to_string(site.at("sources/centre.toml")).unwrap();
    fs::write(
        site.at("sources/centre.toml"),
        source + "centre = \"ams1\"\n",
    )
    .unwrap();
    let said = site.ends(1, &["run"]);
    assert!(said.contains("expected those of \"ams1\""), "{said}");
    fleet.assert_same(&site);
}

/// The blocks of a section of README's.
fn blocks(section: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, text) = readme
        .split_once(&format!("\n### {section}\n"))
        .expect("a section");
    let text = text
        .split("\n## ")
        .next()
        .unwrap()
        .split("\n### ")
        .next()
        .unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .map(|block| block.split_once('\n').unwrap().1.to_string())
        .collect()
}

fn by_readme() {
    let mut fleet = Fleet::new();
    let (url, public) = (
        fleet.registry.url("netboot/stable"),
        fleet.keys.public("ed25519"),
    );
    let [channel, commands] = &blocks("A centre")[..] else {
        panic!("not a file and commands");
    };
    let local = |text: &str| text.replace("https://registry.example/netboot/stable", &url);
    assert_ne!(local(channel), *channel);
    fs::write(fleet.centre.at("channels/stable.toml"), local(channel)).unwrap();
    fs::create_dir(fleet.centre.at("image")).unwrap();
    fs::write(fleet.centre.at("image/linux"), "kernel").unwrap();
    let key = fleet.keys.path("ed25519").display().to_string();
    let (_, submit) = commands
        .split_once("netboot-publisher submit")
        .expect("a submit");
    let submit = submit.replace("~/.ssh/id_ed25519", &key);
    let mut sh = Command::new("sh");
    sh.args([
        "-c",
        &format!("\"$0\" submit --config \"$1\" {submit}"),
        PROGRAM,
    ]);
    let submitted = output(
        sh.arg(&fleet.centre.world.config)
            .current_dir(&fleet.centre.world.root),
    );
    assert!(submitted.status.success(), "{}", text(&submitted));
    fleet.push();

    let mut site = fleet.site();
    let [source, rule, _] = &blocks("A site")[..] else {
        panic!("not two files and commands");
    };
    fs::write(site.at("sources/centre.toml"), local(source)).unwrap();
    let config = fs::read_to_string(&site.world.config).unwrap();
    let (before, after) = config.split_once("[[importer]]").unwrap();
    let after = after.split_once("[swap]").map_or("", |(_, after)| after);
    let old = rule
        .split("keys = [\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let rule = rule
        .replace(old, &public)
        .replace("\"netboot-import\"", "\"nobody\"");
    site.daemon = None;
    fs::write(&site.world.config, format!("{before}{rule}[swap]{after}")).unwrap();
    site.daemon = Some(site.world.daemon());
    let said = text(&as_nobody(&site, &["run"]));
    assert!(said.contains(&format!("{TARGET}: published")), "{said}");
    fleet.assert_same(&site);
    // Whoever has the registry, and no key, brings nothing in.
    fleet.serial = Some(4_000_000_000);
    fleet.publish("install", "two");
    fleet.push();
    site.daemon = None;
    let config = fs::read_to_string(&site.world.config).unwrap();
    let other = Keys::new().public("ed25519");
    fs::write(&site.world.config, config.replace(&public, &other)).unwrap();
    site.daemon = Some(site.world.daemon());
    let ended = as_nobody(&site, &["run"]);
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("rejected unknown-key"), "{said}");
}

fn daemon_away() {
    let mut fleet = Fleet::new();
    let mut site = fleet.site();
    site.daemon = None;
    fleet.publish("install", "one");
    fleet.push();
    for _ in 0..2 {
        let said = site.ends(4, &["run", "--wait=0"]);
        assert!(said.contains(": waits"), "{said}");
        assert_eq!(names(&site.world.spool.join("incoming")).len(), 1, "{said}");
    }
    site.daemon = Some(site.world.daemon());
    until("the outcome", || site.published(TARGET).is_some());
    let said = site.ends(0, &["run"]);
    assert!(
        said.contains(": published") && !said.contains("waits"),
        "{said}"
    );
    let said = site.ends(0, &["run"]);
    assert!(!said.contains(": published"), "{said}");
    fleet.assert_same(&site);
    assert_eq!(site.world.outcomes().len(), 1);

    // Who goes on asking drops the next order while the first waits still.
    site.daemon = None;
    let mut follow = site.import(&["run", "--every=1s"]);
    let mut follow = Ended(follow.stdout(Stdio::piped()).spawn().unwrap());
    for (purpose, drops) in [("install", 1), ("candidate", 2)] {
        fleet.publish(purpose, "two");
        fleet.push();
        until("the drop", || {
            let names = names(&site.world.spool.join("incoming"));
            names.iter().filter(|it| !it.starts_with('.')).count() == drops
        });
    }
    site.daemon = Some(site.world.daemon());
    let lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    let published = lines.filter(|line| line.as_ref().unwrap().contains(": published"));
    assert_eq!(published.take(2).count(), 2);
    fleet.assert_same(&site);
}

/// Bytes of the answers' bodies.
fn moved(requests: &[Request]) -> u64 {
    requests
        .iter()
        .filter(|it| it.method == "GET")
        .map(|it| it.bytes)
        .sum()
}

fn on_the_wire() {
    const MIB: usize = 1 << 20;
    let mut fleet = Fleet::new();
    let site = fleet.site();
    let image = tempfile::tempdir().unwrap();
    let write = |number: usize, size: usize, word: &str| {
        let line = format!("{number} {word}\n");
        let text = line.repeat(size / line.len() + 1);
        let name = format!("file-{number}.bin");
        fs::write(image.path().join(name), &text.as_bytes()[..size]).unwrap();
    };
    // One of 10 MB, and 299 others: with it 1 GiB.
    const CHANGED: usize = 10_000_000;
    let others = (1_024 * MIB - CHANGED) / 299;
    write(0, CHANGED, "old");
    (1..300).for_each(|number| write(number, others, "same"));
    let path = image.path().display().to_string();
    let submit = [
        "submit",
        "--arch",
        "amd64",
        "--release",
        "noble",
        "--purpose",
        "install",
        &path,
    ];
    fleet.order(&submit);
    fleet.push();
    site.ends(0, &["run"]);
    fleet.assert_same(&site);
    fleet.registry.requests();
    write(0, CHANGED, "new");
    fleet.order(&submit);
    fleet.push();
    let pushed = fleet.registry.requests();
    let puts = pushed.iter().filter(|it| it.method == "PUT").count();
    site.ends(0, &["run"]);
    let pulled = fleet.registry.requests();
    let bytes = moved(&pulled);
    println!(
        "{bytes} bytes in {} requests to the site; {puts} uploads",
        pulled.len()
    );
    assert!(bytes >= CHANGED as u64, "the test is blind: {pulled:?}");
    assert!(bytes * 100 <= CHANGED as u64 * 101, "{bytes}: {pulled:?}");
    fleet.assert_same(&site);
}

/// The time that a process has had of the processors, in seconds.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|it| it.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// They are processes of the program itself. No daemon takes what they drop: how soon that is there is what
/// is looked at.
fn a_thousand_sites() {
    const SITES: usize = 1_000;
    let mut fleet = Fleet::new();
    fleet.publish("p0", "zero");
    fleet.push();
    let dir = tempfile::tempdir().unwrap();
    let url = fleet.registry.url("netboot/stable");
    fs::create_dir(dir.path().join("sources")).unwrap();
    let source = format!("kind = \"oci\"\nurl = \"{url}\"\ninsecure = true\n");
    fs::write(dir.path().join("sources/centre.toml"), source).unwrap();
    let incoming = |site: usize| dir.path().join(format!("{site}/spool/incoming"));
    let begun = Instant::now();
    let sites: Vec<_> = (0..SITES)
        .map(|site| {
            let own = dir.path().join(site.to_string());
            fs::create_dir_all(incoming(site)).unwrap();
            fs::create_dir_all(own.join("tree")).unwrap();
            let (spool, tree) = (own.join("spool"), own.join("tree"));
            let config = format!("[spool]\npath = {spool:?}\n[tree]\npath = {tree:?}\n");
            fs::write(own.join("config.toml"), config).unwrap();
            let mut site = Command::new(IMPORT);
            site.args(["run", "--every=60s", "--wait=0"])
                .arg("--sources");
            site.arg(dir.path().join("sources"))
                .arg("--config")
                .arg(own.join("config.toml"));
            site.arg("--state").arg(own.join("state"));
            site.stdout(Stdio::null()).stderr(Stdio::null());
            Ended(site.spawn().unwrap())
        })
        .collect();
    // Drops that have their names: hidden ones are still made.
    let has = |site: usize, drops: usize| {
        let names = names(&incoming(site));
        names.iter().filter(|name| !name.starts_with('.')).count() >= drops
    };
    let all_have = |drops: usize, arrived: &mut dyn FnMut()| {
        let mut left: Vec<_> = (0..SITES).collect();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|site| !has(*site, drops));
            (left.len()..before).for_each(|_| arrived());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    all_have(1, &mut || ());
    println!(
        "{SITES} sites began, and had the first image, in {:?}",
        begun.elapsed()
    );
    let pid = fleet.registry.pid();
    let (since, before) = (Instant::now(), processor_seconds(pid));
    fleet.registry.requests();
    let mut took = Vec::new();
    let mut number = 0;
    while since.elapsed() < Duration::from_secs(600) {
        number += 1;
        fleet.publish(&format!("p{number}"), "new");
        fleet.push();
        let pushed = Instant::now();
        all_have(number + 1, &mut || {
            took.push(pushed.elapsed().as_secs_f64())
        });
    }
    let minutes = since.elapsed().as_secs_f64() / 60.0;
    let requests = fleet.registry.requests().len();
    took.sort_by(f64::total_cmp);
    let part = |of: usize| took[took.len() * of / 1_000];
    println!(
        "{number} publications in {minutes:.1} min: {:.0} requests and {:.2} s of the registry's processor a \
         minute; from the push to a site: median {:.0} s, p99 {:.0} s, the last {:.0} s",
        requests as f64 / minutes,
        (processor_seconds(pid) - before) / minutes,
        part(500),
        part(990),
        took[took.len() - 1],
    );
    assert_eq!(took.len(), SITES * number);
    drop(sites);
}

/// Runs netboot-import of a host as a user who needs a rule.
fn as_nobody(host: &Host, arguments: &[&str]) -> Output {
    output(&mut nobody(host, arguments))
}

/// netboot-import of a host, as that user.
fn nobody(host: &Host, arguments: &[&str]) -> Command {
    open_to(host, 65_534);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(IMPORT);
    command.args(host.import(arguments).get_args());
    command
}

/// Kills a program before each of its calls that change or send something, in turn, until it gets through.
fn kill_at_each(what: &str, command: &dyn Fn() -> Command) -> usize {
    let calls =
        "rename,renameat2,renameat,fsync,syncfs,ftruncate,mkdirat,unlinkat,sendto,writev,sendmsg";
    let mut count = 0;
    loop {
        count += 1;
        let inner = command();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null"]);
        strace.arg(format!("--inject={calls}:signal=KILL:when={count}"));
        strace.arg(inner.get_program()).args(inner.get_args());
        if output(&mut strace).status.success() {
            return count;
        }
        assert!(count < 300, "{what} never gets through");
    }
}

fn killed() {
    let mut fleet = Fleet::new();
    fleet.publish("install", "one");
    let pushes = kill_at_each("push", &|| fleet.centre.import(&["push"]));
    let site = fleet.site();
    let runs = kill_at_each("run", &|| site.import(&["run"]));
    println!("killed {pushes} pushes and {runs} runs");
    assert!(pushes > 5 && runs > 5, "{pushes} {runs}");
    fleet.assert_same(&site);
    fleet.publish("install", "two");
    fleet.order(&["rollback", TARGET]);
    kill_at_each("push", &|| fleet.centre.import(&["push"]));
    let new = fleet.site();
    kill_at_each("run", &|| new.import(&["run"]));
    fleet.assert_same(&new);
}

fn push_killed() {
    let mut fleet = Fleet::new();
    fleet.publish("install", "zero");
    fleet.push();
    let site = fleet.site();
    let mut kills = 0;
    for place in PLACES {
        for nth in 1.. {
            fleet.publish("install", &format!("{place} {nth}"));
            let mut push = fleet.centre.import(&["push"]);
            push.env("NETBOOT_PUBLISHER_FAILPOINT", format!("{place}:{nth}:kill"));
            let ended = output(&mut push);
            // What the index names is there, be it the new order or the one before.
            site.ends(0, &["run"]);
            if ended.status.success() {
                break;
            }
            assert_eq!(ended.status.signal(), Some(9), "{}", text(&ended));
            kills += 1;
            fleet.push();
            site.ends(0, &["run"]);
            fleet.assert_same(&site);
        }
    }
    assert!(kills >= 5, "{kills}");
}
