//! `netboot-import`: images of upstreams, from real servers that are asked over HTTP, into the spool of a
//! daemon.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;

use crate::lab::keys::Keys;
use crate::lab::mirror::{Between, NGINX, Server, Trouble};
use crate::lab::terminal::errors_on_terminal;
use crate::lab::tftp::{self, Client};
use crate::lab::upstream::{self, Debian, Product, Signers, put};
use crate::lab::world::{Daemon, Needs, World, names, output, snapshot, test, text, until, walk};
use crate::recipes::next_second;

pub const IMPORT: &str = env!("CARGO_BIN_EXE_netboot-import");

const NEEDS: &[Needs] = &[
    Needs::Root,
    NGINX,
    Needs::Program("gpg"),
    Needs::Program("gpgv"),
    Needs::Program("apt-ftparchive"),
];

const DEBIAN: &str = "amd64/generic/bookworm/install";

pub fn tests() -> Vec<Trial> {
    let needs = |more: &[Needs]| [NEEDS, more].concat();
    vec![
        test(
            "each kind of source is brought, and asked again nothing is transferred",
            NEEDS,
            each_kind,
        ),
        test(
            "what netboot-import brought is served, and what changed upstream comes after it",
            &needs(&[Needs::Namespaces, Needs::Program("in.tftpd")]),
            served,
        ),
        test(
            "whatever is wrong with an upstream nothing is dropped, it is said, and the next run brings all",
            NEEDS,
            troubles,
        ),
        test(
            "a fetch that breaks off again and again goes on where it was, in one run and in the next",
            NEEDS,
            resumed,
        ),
        test(
            "netboot-import that is killed at any moment leaves nothing half, and the next run goes on",
            NEEDS,
            killed,
        ),
        test(
            "what a rule refuses is said, and comes when it is allowed, without being fetched again",
            &needs(&[Needs::Program("ssh-keygen")]),
            refused,
        ),
        test(
            "what an admin has rolled back or withdrawn doesn't come again by itself",
            NEEDS,
            left_alone,
        ),
        test(
            "a file of the own tree that is damaged is fetched, and not copied into the next drop",
            NEEDS,
            damaged,
        ),
        test(
            "another way to boot and another version of the same files are published, and nothing is fetched",
            NEEDS,
            same_files,
        ),
        test(
            "root leaves another user's state alone, and says whose it is",
            NEEDS,
            anothers_state,
        ),
        test(
            "a broken source holds up no other, and check and list tell of all",
            NEEDS,
            told,
        ),
        test(
            "an upstream that shows an old signed state is refused until somebody accepts it",
            NEEDS,
            set_back,
        ),
        test(
            "a target that is waited for holds up no other of its source",
            NEEDS,
            side_by_side,
        ),
        test(
            "a fetch is a bar on a terminal and a line elsewhere",
            NEEDS,
            shown,
        ),
    ]
}

/// A daemon, and beside it netboot-import with sources of a mirror.
struct Place {
    world: World,
    daemon: Option<Daemon>,
    mirror: Server,
    signers: Signers,
}

impl Place {
    fn new() -> Self {
        Self::with("")
    }

    fn with(settings: &str) -> Self {
        let plain = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n";
        let world = World::with(&format!("{plain}{settings}"));
        fs::create_dir(world.root.join("sources")).unwrap();
        let signers = Signers::new();
        signers.make("upstream");
        Self {
            daemon: Some(world.daemon()),
            world,
            mirror: Server::nginx(),
            signers,
        }
    }

    fn source(&self, name: &str, text: &str) {
        let keyring = self.signers.keyring(&["upstream"]);
        let text = text.replace("KEYRING", &format!("{keyring:?}"));
        let file = self.world.root.join(format!("sources/{name}.toml"));
        fs::write(file, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let root = &self.world.root;
        let mut command = Command::new(IMPORT);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.world.config);
        command.arg("--sources").arg(root.join("sources"));
        command.arg("--state").arg(root.join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// Runs the program, which ends with this code. Returns what it said.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// A mirror of Debian's with a small installer of this version.
    fn debian(&self, version: &str) {
        let netboot = tempfile::tempdir().unwrap();
        upstream::small_netboot(netboot.path(), "amd64", version);
        self.debian_of(netboot.path(), version);
    }

    fn debian_of(&self, netboot: &Path, version: &str) {
        let debian = Debian {
            signers: &self.signers,
            names: &["upstream"],
            suite: "bookworm",
            codename: "bookworm",
            version,
        };
        let root = self.mirror.root();
        debian.add(&root, "amd64", netboot);
        debian.release(&root, &[("Version", version)]);
    }

    /// The second version of [`Place::debian`]'s, which has the kernel of the first.
    fn debian_with_old_kernel(&self) {
        let netboot = tempfile::tempdir().unwrap();
        upstream::small_netboot(netboot.path(), "amd64", "2");
        let linux = netboot.path().join("debian-installer/amd64/linux");
        fs::write(linux, "kernel 1").unwrap();
        self.debian_of(netboot.path(), "2");
    }

    fn debian_source(&self, url: &str) {
        self.debian_source_with(url, "");
    }

    fn debian_source_with(&self, url: &str, more: &str) {
        let text = format!(
            "kind = \"debian-installer\"\nurl = \"{url}\"\nkeyring = KEYRING\nsuite = \"bookworm\"\n\
             arch = [\"amd64\"]\n{more}"
        );
        self.source("debian", &text);
    }

    /// What is published at a target: every path below it that is a file, with its contents.
    fn published(&self, target: &str) -> Vec<(String, String)> {
        let root = self.world.published(target);
        let root = fs::canonicalize(root).unwrap();
        let files = walk(&root).into_iter().filter(|path| path.is_file());
        let files = files.map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(&path).unwrap())
        });
        files.collect()
    }

    /// The paths of an installer's files that were asked for since the mirror was asked last.
    fn fetched(&self) -> Vec<String> {
        let paths = self.mirror.requests().into_iter().map(|it| it.path);
        paths.filter(|path| path.contains("/netboot/")).collect()
    }

    /// That neither half of a drop nor anything of an outcome is there.
    fn assert_nothing_dropped(&self) {
        assert_eq!(names(&self.world.spool.join("incoming")), [""; 0]);
        assert_eq!(self.world.outcomes(), [""; 0]);
    }
}

fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(path, text): &(&str, &str)| (path.to_string(), text.to_string());
    files.iter().map(own).collect()
}

fn each_kind() {
    let place = Place::new();
    let root = place.mirror.root();
    place.debian("20230607+deb12u12");
    place.debian_source(&place.mirror.url("debian"));
    fs::create_dir(root.join("debian")).unwrap();
    fs::rename(root.join("dists"), root.join("debian/dists")).unwrap();
    let product = Product {
        release: "noble",
        number: "24.04",
        arch: "amd64",
        subarch: "ga-24.04",
        kflavor: "generic",
        versions: &[
            ("20241101", &["boot-kernel", "boot-initrd", "squashfs"]),
            ("20241204", &["boot-kernel", "boot-initrd", "squashfs"]),
        ],
    };
    let by = &["upstream"];
    upstream::simplestreams(&root.join("maas"), &place.signers, by, &[product]);
    upstream::ubuntu(
        &root.join("ubuntu"),
        &place.signers,
        by,
        &["24.04.1", "24.04.3"],
    );
    upstream::fedora(&root.join("fedora"), "40");
    let source = |name: &str, kind: &str, more: &str| {
        let url = place.mirror.url(name);
        place.source(name, &format!("kind = \"{kind}\"\nurl = \"{url}\"\n{more}"));
    };
    source(
        "maas",
        "simplestreams",
        "keyring = KEYRING\n[select]\nrelease = \"noble\"\n",
    );
    source(
        "ubuntu",
        "checksums",
        "keyring = KEYRING\narchive = \"ubuntu-*-netboot-amd64.tar.gz\"\nversion = \"*\"\nstrip = 1\n\
         target = \"amd64/generic/noble/install\"\n",
    );
    source(
        "fedora",
        "treeinfo",
        "insecure = true\ntarget = \"amd64/generic/f40/install\"\n",
    );
    let said = place.ends(0, &["run"]);
    assert_eq!(said.matches(": published ").count(), 4, "{said}");
    assert!(said.contains("insecure"), "{said}");
    let installer = [
        ("initrd.gz", "initrd 20230607+deb12u12"),
        ("linux", "kernel 20230607+deb12u12"),
    ];
    assert_eq!(place.published(DEBIAN), owned(&installer));
    let maas = place.published("amd64/ga-24.04/noble/commissioning");
    let kinds: Vec<_> = maas.iter().map(|(name, _)| &**name).collect();
    assert_eq!(kinds, ["boot-initrd", "boot-kernel", "squashfs"]);
    assert!(
        maas.iter().all(|(_, text)| text.ends_with(" of 20241204")),
        "{maas:?}"
    );
    let ubuntu = place.published("amd64/generic/noble/install");
    let newest = ["grub/grub.cfg", "initrd", "linux", "pxelinux.0"];
    let newest = newest.map(|name| (name.to_string(), format!("{name} of 24.04.3")));
    assert_eq!(ubuntu, newest);
    let fedora = place.published("amd64/generic/f40/install");
    assert!(
        fedora.iter().all(|(_, text)| text.ends_with(" of 40")),
        "{fedora:?}"
    );

    // Nothing has changed: every document is asked for conditionally, and no file at all.
    place.mirror.requests();
    let before = snapshot(&place.world.tree.join("amd64"));
    let said = place.ends(0, &["run"]);
    assert_eq!(said.matches(": unchanged").count(), 4, "{said}");
    let requests = place.mirror.requests();
    assert!(requests.len() >= 6, "{requests:?}");
    let moved: Vec<_> = requests
        .iter()
        .filter(|it| it.status != 304 && it.status != 404)
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
    assert_eq!(snapshot(&place.world.tree.join("amd64")), before);
    // Nothing of what was fetched is kept twice.
    for source in ["debian", "maas", "ubuntu", "fedora"] {
        let state = place.world.root.join("state").join(source);
        assert_eq!(names(&state.join("files")), [""; 0], "{source}");
    }
}

fn served() {
    let place = Place::new();
    place.debian("1");
    place.debian_source(&place.mirror.url(""));
    place.ends(0, &["run"]);
    let server = tftp::Server::tftpd(&place.world.tree, &[]);
    let fetch = |name: &str| {
        let path = format!("{DEBIAN}/{name}");
        let fetched = server.fetch(Client::Tftp, &path, &place.world.root);
        String::from_utf8(fetched.unwrap()).unwrap()
    };
    assert_eq!(fetch("linux"), "kernel 1");
    // Of the next version only what is another is fetched.
    place.debian_with_old_kernel();
    place.mirror.requests();
    let said = place.ends(0, &["run"]);
    assert!(said.contains("published"), "{said}");
    assert_eq!(
        [fetch("linux"), fetch("initrd.gz")],
        ["kernel 1", "initrd 2"]
    );
    let fetched = place.fetched();
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    assert!(fetched[0].ends_with("/initrd.gz"), "{fetched:?}");
}

fn damaged() {
    let place = Place::new();
    place.debian("1");
    place.debian_source(&place.mirror.url(""));
    place.ends(0, &["run"]);
    fs::write(place.world.published(DEBIAN).join("linux"), "kernel 0").unwrap();
    place.debian_with_old_kernel();
    place.fetched();
    let said = place.ends(0, &["run"]);
    assert!(said.contains(": published 2"), "{said}");
    let upstreams = [("initrd.gz", "initrd 2"), ("linux", "kernel 1")];
    assert_eq!(place.published(DEBIAN), owned(&upstreams));
    let fetched = place.fetched();
    assert!(
        fetched.iter().any(|it| it.ends_with("/linux")),
        "{fetched:?}"
    );
}

fn same_files() {
    let place = Place::new();
    place.debian("1");
    let source = |word: &str| {
        let boot =
            format!("[boot]\nkernel = \"linux\"\ninitrd = [\"initrd.gz\"]\ncmdline = \"{word}\"\n");
        place.debian_source_with(&place.mirror.url(""), &boot);
    };
    source("first");
    place.ends(0, &["run"]);
    assert_eq!(place.fetched().len(), 2);
    let brought = |version: &str, word: &str| {
        let said = place.ends(0, &["run"]);
        let (_, published) = said.split_once(": published ").expect(&said);
        let (found, _) = published.split_once(" as ").unwrap();
        assert!(found.starts_with(version), "{said}");
        let catalog = place.world.tree.join("catalog.json");
        let version = format!("\"{found}\"");
        until("the catalog", || {
            let said = fs::read_to_string(&catalog).unwrap();
            said.contains(word) && said.contains(&version)
        });
        let said = place.ends(0, &["run"]);
        assert!(said.contains(": unchanged"), "{said}");
    };
    source("second");
    brought("1", "second");
    let netboot = tempfile::tempdir().unwrap();
    upstream::small_netboot(netboot.path(), "amd64", "1");
    place.debian_of(netboot.path(), "2");
    brought("2", "second");
    assert_eq!(place.fetched(), [""; 0]);
}

fn anothers_state() {
    let place = Place::new();
    place.debian("1");
    place.debian_source(&place.mirror.url(""));
    let state = place.world.root.join("state");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65_534), None).unwrap();
    for verb in ["run", "check"] {
        let said = place.ends(1, &[verb]);
        assert!(said.contains("run it as that user"), "{said}");
    }
    assert_eq!(names(&state), [""; 0]);
    place.assert_nothing_dropped();
    // Which only reads.
    place.ends(0, &["list"]);
}

fn side_by_side() {
    let mut place = Place::new();
    let debian = Debian {
        signers: &place.signers,
        names: &["upstream"],
        suite: "bookworm",
        codename: "bookworm",
        version: "1",
    };
    let (root, arches) = (place.mirror.root(), ["amd64", "arm64"]);
    for arch in arches {
        let netboot = tempfile::tempdir().unwrap();
        upstream::small_netboot(netboot.path(), arch, "1");
        debian.add(&root, arch, netboot.path());
    }
    debian.release(&root, &[("Version", "1")]);
    place.debian_source(&place.mirror.url(""));
    let file = place.world.root.join("sources/debian.toml");
    let both = fs::read_to_string(&file)
        .unwrap()
        .replace("arch = [\"amd64\"]", &format!("arch = {arches:?}"));
    fs::write(&file, both).unwrap();
    // Nobody takes the drops yet, and the first outcome is waited for as long as it takes.
    place.daemon = None;
    let mut import = place.command(&["run", "--wait", "2m"]);
    let import = import.stdout(Stdio::piped()).spawn().unwrap();
    let incoming = place.world.spool.join("incoming");
    until("both drops", || {
        let names = names(&incoming);
        names.iter().filter(|name| !name.starts_with('.')).count() == 2
    });
    place.daemon = Some(place.world.daemon());
    let ended = import.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{said}");
    assert_eq!(said.matches(": published ").count(), 2, "{said}");
}

/// One answer that isn't the mirror's.
fn answer(status: &str, head: &str, body: &str) -> Trouble {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{head}Connection: close\r\n\r\n{body}",
        body.len()
    );
    Trouble::Say(text.into_bytes())
}

fn troubles() {
    let place = Place::new();
    place.debian("1");
    let portal = "<!doctype html><html><head><title>Welcome to Hotel Example</title></head></html>";
    let html = || answer("200 OK", "Content-Type: text/html\r\n", portal);
    type Troubles<'t> = Box<dyn Fn(&str) -> Trouble + Send + Sync>;
    let at = |end: &'static str, trouble: Trouble| -> Troubles<'_> {
        Box::new(move |path| {
            if path.ends_with(end) {
                trouble.clone()
            } else {
                Trouble::None
            }
        })
    };
    let all: [(Troubles<'_>, &str); 8] = [
        (Box::new(move |_| html()), "Welcome to Hotel Example"),
        (at("/initrd.gz", html()), "Welcome to Hotel Example"),
        (at("/InRelease", Trouble::Change(200)), "gpgv"),
        (at("/SHA256SUMS", Trouble::Change(3)), "SHA256SUMS"),
        (at("/initrd.gz", Trouble::Change(3)), "upstream may be"),
        (
            at("/linux", answer("404 Not Found", "", "")),
            "404 Not Found",
        ),
        (
            at(
                "/linux",
                answer("429 Too Many Requests", "Retry-After: 7200\r\n", ""),
            ),
            "429 Too Many Requests",
        ),
        (
            at(
                "/linux",
                answer("302 Found", "Location: /loop/linux\r\n", ""),
            ),
            "redirect",
        ),
    ];
    for (trouble, expected) in all {
        let between = Between::new(&place.mirror, move |path, _, _| trouble(path));
        place.debian_source(&between.url(""));
        let said = place.ends(1, &["run"]);
        assert!(said.contains(expected), "no {expected:?} in {said}");
        assert!(said.contains("debian"), "{said}");
        place.assert_nothing_dropped();
    }
    // Signatures that prove nothing.
    place.debian_source(&place.mirror.url(""));
    let root = place.mirror.root();
    let list = root.join("dists/bookworm/InRelease");
    let good = fs::read(&list).unwrap();
    place.signers.make("stranger");
    place.signers.make_long_ago("expired", "20210101T000000");
    let release = root.join("dists/bookworm/Release");
    place.signers.clearsign(&["stranger"], &release, &list);
    let said = place.ends(1, &["run"]);
    assert!(said.contains("InRelease") && said.contains("key"), "{said}");
    fs::write(&list, fs::read(&release).unwrap()).unwrap();
    let said = place.ends(1, &["run"]);
    assert!(
        said.contains("InRelease") && said.contains("sign"),
        "{said}"
    );
    place.assert_nothing_dropped();
    fs::write(&list, good).unwrap();
    place.ends(0, &["run"]);
    assert_eq!(place.published(DEBIAN).len(), 2);
}

/// A mirror with an initrd of 20 KiB.
fn larger(place: &Place) {
    let netboot = tempfile::tempdir().unwrap();
    upstream::small_netboot(netboot.path(), "amd64", "1");
    let initrd = netboot.path().join("debian-installer/amd64/initrd.gz");
    let words: String = (0..2_000).map(|number| format!("{number:09}\n")).collect();
    fs::write(initrd, words).unwrap();
    place.debian_of(netboot.path(), "1");
}

/// From where on a request wants a file, if not from its beginning.
fn first_byte(head: &str) -> Option<usize> {
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        (name.eq_ignore_ascii_case("range")).then(|| value.to_string())
    })?;
    let first = range.strip_prefix("bytes=")?.split('-').next()?;
    first.parse().ok()
}

fn resumed() {
    let place = Place::new();
    larger(&place);
    let firsts = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&firsts);
    // Each answer breaks off after 5,000 bytes; after two of them there is none at all.
    let between = Between::new(&place.mirror, move |path, head, _| {
        if !path.ends_with("/initrd.gz") {
            return Trouble::None;
        }
        let mut seen = seen.lock().unwrap();
        seen.push(first_byte(head));
        if seen.len() > 2 {
            return answer("403 Forbidden", "", "");
        }
        Trouble::Cut(5_000)
    });
    place.debian_source(&between.url(""));
    let said = place.ends(1, &["run"]);
    assert!(said.contains("403 Forbidden"), "{said}");
    place.assert_nothing_dropped();
    assert_eq!(*firsts.lock().unwrap(), [None, Some(5_000), Some(10_000)]);
    place.debian_source(&place.mirror.url(""));
    place.mirror.requests();
    place.ends(0, &["run"]);
    let requests = place.mirror.requests();
    let rest = requests.iter().find(|it| it.path.ends_with("/initrd.gz"));
    let rest = rest.unwrap();
    assert_eq!((rest.status, rest.bytes), (206, 10_000), "{requests:?}");
}

fn killed() {
    let mut place = Place::new();
    larger(&place);
    place.debian_source(&place.mirror.url(""));
    // Nobody takes the drops, so that each run begins where there is nothing.
    place.daemon = None;
    let (incoming, state) = (
        place.world.spool.join("incoming"),
        place.world.root.join("state"),
    );
    let not_waiting = ["run", "--wait", "0s"];
    let mut kills = 0;
    // Before each call of these names, in turn, as each thread counts its own.
    for name in [
        "renameat",
        "renameat2",
        "fsync",
        "syncfs",
        "mkdirat",
        "unlinkat",
        "flock",
        "write",
        "sendto",
    ] {
        for count in 1.. {
            fs::remove_dir_all(&incoming).unwrap();
            fs::create_dir(&incoming).unwrap();
            fs::create_dir_all(&state).unwrap();
            fs::remove_dir_all(&state).unwrap();
            let mut strace = Command::new("strace");
            let inject = format!("--inject={name}:signal=KILL:when={count}");
            strace.args(["-f", "-o", "/dev/null"]).arg(inject);
            strace.arg(IMPORT);
            strace.args(place.command(&not_waiting).get_args());
            let was_killed = output(&mut strace).status.signal() == Some(9);
            let said = place.ends(4, &not_waiting);
            let drops = names(&incoming);
            let drops: Vec<_> = drops.iter().filter(|it| !it.starts_with('.')).collect();
            let told = format!("the {count}th {name}: {drops:?} {said}");
            // One that was killed as soon as the drop had its name doesn't know of it.
            assert!((1..=2).contains(&drops.len()), "{told}");
            for drop in drops {
                let files = ["linux", "initrd.gz"].map(|name| {
                    let file = incoming.join(drop).join("image").join(name);
                    fs::metadata(file).unwrap().len()
                });
                assert_eq!(files, [8, 20_000], "{told}");
            }
            if !was_killed {
                break;
            }
            kills += 1;
        }
    }
    println!("{kills} kills");
    assert!(kills > 20, "{kills} kills");
    place.daemon = Some(place.world.daemon());
    until("the outcomes", || {
        names(&incoming).iter().all(|name| name.starts_with('.'))
            && names(&place.world.spool.join("processing")).is_empty()
    });
    place.ends(0, &["run"]);
    assert_eq!(place.published(DEBIAN).len(), 2);
    let rejected = names(&place.world.spool.join("rejected"));
    assert_eq!(rejected, [""; 0]);
}

fn refused() {
    let keys = Keys::new();
    let rule = |name: &str| {
        format!(
            "[[importer]]\nname = \"sources\"\nkeys = [\"{}\"]\npublish = [\"{name}\"]\n\
             require = [\"files\", \"serial\"]\n",
            keys.public("ed25519")
        )
    };
    // Root at its own daemon needs no rule: the program runs as another user.
    let mut place = Place::with(&rule("amd64/*/trixie/*"));
    place.debian("1");
    let key = keys.path("ed25519");
    let text_of = |more: &str| {
        format!(
            "kind = \"debian-installer\"\nurl = \"{}\"\nkeyring = KEYRING\nsuite = \"bookworm\"\n\
             arch = [\"amd64\"]\n{more}",
            place.mirror.url("")
        )
    };
    place.source(
        "debian",
        &text_of(&format!("sign = {key:?}\nserial = true\n")),
    );
    // ssh-keygen wants to know who it is.
    let user = 65_534;
    keys.give_to(user);
    let as_user = |place: &Place, verb: &str, code: i32| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(IMPORT);
        command.args(place.command(&[verb]).get_args());
        let output = output(&mut command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    open_to(&place, user);
    let said = as_user(&place, "run", 3);
    assert!(said.contains("rejected not-allowed"), "{said}");
    let listed = as_user(&place, "list", 0);
    assert!(listed.contains(" rejected not-allowed "), "{listed}");
    assert!(!listed.contains("waits"), "{listed}");
    place.mirror.requests();
    place.daemon = None;
    let config = fs::read_to_string(&place.world.config).unwrap();
    fs::write(
        &place.world.config,
        config.replace("amd64/*/trixie/*", "amd64/*/bookworm/*"),
    )
    .unwrap();
    place.daemon = Some(place.world.daemon());
    let said = as_user(&place, "run", 0);
    assert!(said.contains(": published "), "{said}");
    let said = as_user(&place, "list", 0);
    assert!(said.contains(" ago "), "{said}");
    let files = place.mirror.requests();
    let files: Vec<_> = files
        .iter()
        .filter(|it| it.path.contains("/netboot/"))
        .collect();
    assert!(files.is_empty(), "{files:?}");
}

/// Lets a user drop something, and gives the program's folders to it.
fn open_to(place: &Place, user: u32) {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&place.world.root, 0o755);
    open(&place.world.spool.join("incoming"), 0o1777);
    let state = place.world.root.join("state");
    fs::create_dir_all(&state).unwrap();
    chown(&state, Some(user), None).unwrap();
    for path in walk(&place.world.root.join("sources")) {
        open(&path, 0o644);
    }
    let keyring: PathBuf = place.signers.keyring(&["upstream"]);
    open(keyring.parent().unwrap(), 0o755);
    open(&keyring, 0o644);
}

fn left_alone() {
    let place = Place::new();
    place.debian_source(&place.mirror.url(""));
    for version in ["1", "2"] {
        place.debian(version);
        let said = place.ends(0, &["run"]);
        assert!(said.contains(&format!(": published {version}")), "{said}");
    }
    let ordered = place.world.run(&["rollback", DEBIAN, "--wait"]);
    assert!(ordered.status.success(), "{}", text(&ordered));
    let said = place.ends(0, &["run"]);
    assert!(said.contains(": unchanged"), "{said}");
    assert_eq!(place.published(DEBIAN)[1].1, "kernel 1");
    let ordered = place.world.run(&["withdraw", DEBIAN, "--wait"]);
    assert!(ordered.status.success(), "{}", text(&ordered));
    place.ends(0, &["run"]);
    assert!(!place.world.published(DEBIAN).exists());
    // Unless somebody says so, or upstream has something new.
    place.ends(0, &["run", "--again"]);
    assert_eq!(place.published(DEBIAN)[1].1, "kernel 2");
    place.debian("3");
    place.ends(0, &["run"]);
    assert_eq!(place.published(DEBIAN)[1].1, "kernel 3");
}

fn told() {
    let place = Place::new();
    place.debian("1");
    place.debian_source(&place.mirror.url(""));
    place.source("broken", "kind = \"debian-instaler\"\n");
    place.source(
        "away",
        "kind = \"treeinfo\"\nurl = \"http://127.0.0.1:9/\"\ninsecure = true\ntarget = \"a/b/c/d\"\n",
    );
    let said = place.ends(1, &["check", "debian", "broken"]);
    assert!(
        said.contains(&format!("debian {DEBIAN}: would bring 1 (2 files to fetch")),
        "{said}"
    );
    assert!(said.contains("broken.toml:1:8"), "{said}");
    place.assert_nothing_dropped();
    let files = place.mirror.requests();
    assert!(
        files.iter().all(|it| !it.path.contains("/netboot/")),
        "{files:?}"
    );
    let listed = place.ends(0, &["list"]);
    assert!(listed.contains("nothing yet"), "{listed}");

    let run = place.run(&["run", "debian", "broken", "--json"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run));
    let lines = String::from_utf8(run.stdout).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let of = |name: &str| lines.iter().find(|line| line["source"] == name).unwrap();
    assert_eq!(of("debian")["result"], "published");
    assert_eq!(of("debian")["target"], DEBIAN);
    assert_eq!(of("debian")["fetched"]["files"], 2);
    assert_eq!(of("broken")["result"], "failed");
    let listed = place.run(&["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 3);
    assert!(
        listed[0]["source"] == "away" && listed[1]["error"].is_string(),
        "{listed:?}"
    );
    assert_eq!(
        (&listed[2]["target"], &listed[2]["version"]),
        (&DEBIAN.into(), &"1".into())
    );
    let said = place.ends(1, &["run", "nothing"]);
    assert!(said.contains("no such source: nothing"), "{said}");
}

fn set_back() {
    let place = Place::new();
    place.debian("1");
    place.debian_source(&place.mirror.url(""));
    place.ends(0, &["run"]);
    let (root, old) = (place.mirror.root(), tempfile::tempdir().unwrap());
    let copy = |from: &Path, to: &Path| {
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg(from.join("dists")).arg(to);
        assert!(output(&mut copy).status.success());
    };
    copy(&root, old.path());
    // Signatures tell the second.
    next_second();
    place.debian("2");
    place.ends(0, &["run"]);
    let current = place.published(DEBIAN);
    fs::remove_dir_all(root.join("dists")).unwrap();
    copy(old.path(), &root);
    let said = place.ends(1, &["run"]);
    assert!(said.contains("InRelease was signed at 20"), "{said}");
    assert!(
        said.contains("`netboot-import run NAME --accept` takes it"),
        "{said}"
    );
    place.ends(1, &["run", "debian", "--again"]);
    assert_eq!(place.published(DEBIAN), current);
    place.ends(0, &["run", "debian", "--accept"]);
    assert_ne!(place.published(DEBIAN), current);
    place.ends(0, &["run"]);
}

fn shown() {
    let place = Place::new();
    larger(&place);
    place.debian_source(&place.mirror.url(""));
    let (output, shown) = errors_on_terminal(&mut place.command(&["run"]), 100);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("100 %"), "{shown:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(": published 1 as "), "{said}");
    put(&place.world.root.join("x"), "");
    let place = Place::new();
    larger(&place);
    place.debian_source(&place.mirror.url(""));
    let said = place.run(&["run"]);
    let errors = String::from_utf8(said.stderr).unwrap();
    assert_eq!(errors, format!("debian {DEBIAN}\n"));
}
