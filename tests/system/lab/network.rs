//! A network that machines boot in, set up from an empty server as README's chapter says: with its
//! configurations and its commands, by Debian's dnsmasq and nginx.
//!
//! The network is a namespace, in which the server has README's address and network card; what else stands
//! in README is adapted in its paths only. So nothing outside is asked or answered, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::lab::sandbox::Sandbox;
use crate::lab::world::{Daemon, Needs, PROGRAM, World, output, text};

/// What the network needs.
pub const NEEDS: [Needs; 7] = [
    Needs::Root,
    Needs::Namespaces,
    Needs::Program("ip"),
    Needs::Program("dnsmasq"),
    Needs::Program("nginx"),
    Needs::Program("apt-get"),
    Needs::Path("/dev/net/tun"),
];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SECTION: &str = "\n### From an empty server to booting machines\n";

/// Where packages that were fetched once are kept for the next test and the next run: `target/tmp`.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/packages");

/// `apt-get` for the loaders' importer: it fetches what isn't kept.
const APT_GET: &str = r#"#!/bin/sh
set -eu
case $* in *update) exit ;; esac
kept="$KEPT/$(echo "$*" | tr ' ' _)"
if [ ! -d "$kept" ]; then
    mkdir -p "$kept.$$"
    (cd "$kept.$$" && PATH=$REAL_PATH && apt-get --quiet=2 update && apt-get "$@")
    # Another test may have been faster.
    mv -T "$kept.$$" "$kept" || rm -r "$kept.$$"
fi
cp "$kept"/*.deb .
"#;

/// Ports as `/proc/net/udp` and `/proc/net/tcp` show them: of DHCP and TFTP, and of HTTP, listening.
const PORTS: [(&str, &str); 3] = [
    ("udp", ":0043 "),
    ("udp", ":0045 "),
    ("tcp", ":0050 00000000:0000 0A"),
];

/// Becomes the network. `$0` is the world's folder. Against long waits dnsmasq is an IPv6 router, for which
/// iPXE looks for 13 s in a network without one, and doesn't ask for 3 s whether an address is free.
const BEGIN: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
ip tuntap add eth0 mode tap
ip address add 192.0.2.1/24 dev eth0
ip address add 2001:db8::1/64 dev eth0 nodad
ip link set eth0 up
dnsmasq --conf-file="$0/dnsmasq.conf" --pid-file= --log-dhcp --log-facility="$0/dnsmasq.log" \
    --dhcp-leasefile="$0/leases" --enable-ra --dhcp-range=2001:db8::,ra-only,64 --no-ping
nginx -e "$0/nginx.log" -c "$0/nginx.conf"
exec sleep infinity
"#;

/// The network, with its servers and the daemon; ends, with all its processes, when it is dropped.
pub struct Network {
    _daemon: Daemon,
    pub world: World,
    sandbox: Sandbox,
}

/// README's blocks, in their order.
pub struct Chapter {
    /// Commands, from the installation of the servers to the templates.
    pub prepare: String,
    pub settings: String,
    dnsmasq: String,
    nginx: String,
    /// Commands, from the start of the servers to the images.
    pub publish: String,
}

impl Chapter {
    /// The blocks as README has them.
    pub fn read() -> Self {
        Self::with(&[])
    }

    /// The blocks, with paths below `root`.
    fn below(root: &Path) -> Self {
        let here = |path: &str| root.join(path).display().to_string();
        Self::with(&[
            ("/srv/tftp", &here("tftp")),
            ("/etc/netboot-publisher", &here("etc")),
            ("/usr/share/doc/netboot-publisher", &here("doc")),
        ])
    }

    /// The blocks, with texts replaced.
    fn with(changes: &[(&str, &str)]) -> Self {
        let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
        let (_, section) = readme.split_once(SECTION).expect("a section");
        let section = section.split("\n### ").next().unwrap();
        let blocks = section.split("```").skip(1).step_by(2);
        let mut blocks = blocks.map(|block| {
            let (_, block) = block.split_once('\n').unwrap();
            let change = |block: String, (from, to): &(&str, &str)| block.replace(from, to);
            changes.iter().fold(block.to_string(), change)
        });
        let mut next = || blocks.next().expect("a block");
        Self {
            prepare: next(),
            settings: next(),
            dnsmasq: next(),
            nginx: next(),
            publish: next(),
        }
    }
}

impl Network {
    /// Sets up the server, and publishes the loaders of machines of these architectures. Of dnsmasq's
    /// configuration the texts of `changes` are replaced.
    pub fn new(arches: &str, changes: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let mut chapter = Chapter::below(&root);
        for (from, to) in changes {
            assert!(chapter.dnsmasq.contains(from), "no {from:?} in README");
            chapter.dnsmasq = chapter.dnsmasq.replace(from, to);
        }
        install_examples(&root);
        run(&root, &without_line(&chapter.prepare, "apt install "));
        let settings = format!("[limits]\nmin_free_space = \"0B\"\n{}", chapter.settings);
        let world = World::within(dir, "tftp/netboot", &settings);
        write_configurations(&root, &chapter);
        let daemon = world.daemon();
        let network = Self {
            sandbox: Sandbox::begin(BEGIN, &root, &PORTS),
            _daemon: daemon,
            world,
        };
        network.publish_loaders(arches);
        network
    }

    /// Publishes loaders as README does. Returns what the importer printed.
    pub fn publish_loaders(&self, arches: &str) -> String {
        let root = &self.world.root;
        let commands = without_line(&Chapter::below(root).publish, "systemctl restart ");
        // Images are for the test to publish, with command lines of its own.
        let commands = without_line(&commands, "sh */import-debian-netboot ");
        assert!(commands.ends_with(" amd64 arm64\n"), "{commands}");
        run(root, &commands.replace("amd64 arm64", arches))
    }

    /// A program in this network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let network = format!("--net=/proc/{}/ns/net", self.sandbox.leader());
        command.args([&*network, program]);
        command
    }

    /// What the servers have said.
    pub fn logs(&self) -> String {
        let names = ["dnsmasq.log", "nginx.log", "access.log"];
        let read = |name| fs::read_to_string(self.world.root.join(name)).unwrap_or_default();
        names
            .map(|name| format!("{name}:\n{}", read(name)))
            .concat()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// Puts the examples where the package has them, below `root`.
fn install_examples(root: &Path) {
    for folder in ["etc", "doc/examples", "bin"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (folder, ending) in [("config", "j2"), ("config/examples", "")] {
        for file in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() && file.extension().unwrap_or_default() == ending {
                let name = file.file_name().unwrap();
                fs::copy(&file, root.join("doc/examples").join(name)).unwrap();
            }
        }
    }
    let apt_get = root.join("bin/apt-get");
    fs::write(&apt_get, APT_GET).unwrap();
    fs::set_permissions(apt_get, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The servers' configurations. Debian's dnsmasq and nginx read README's files beside their own.
fn write_configurations(root: &Path, chapter: &Chapter) {
    fs::write(root.join("dnsmasq.conf"), &chapter.dnsmasq).unwrap();
    let here = root.display();
    let scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let scratch = scratch.map(|it| format!("{it}_temp_path {here}/nginx-{it};\n"));
    let nginx = format!(
        "user www-data;\npid {here}/nginx.pid;\nevents {{}}\nhttp {{\n\
         include /etc/nginx/mime.types;\ndefault_type application/octet-stream;\n\
         access_log {here}/access.log;\n{}{}}}\n",
        scratch.concat(),
        chapter.nginx
    );
    fs::write(root.join("nginx.conf"), nginx).unwrap();
}

/// These commands without the only one that begins so; `*` stands for any folder.
pub fn without_line(commands: &str, begin: &str) -> String {
    let (begin, name) = begin.split_once('*').unwrap_or((begin, ""));
    let is_it = |line: &&str| line.starts_with(begin) && line.contains(name);
    assert_eq!(
        commands.lines().filter(is_it).count(),
        1,
        "{begin} {commands}"
    );
    let others = commands.lines().filter(|line| !is_it(line));
    others.flat_map(|line| [line, "\n"]).collect()
}

/// Runs commands of README's on the server. Returns what they printed.
fn run(root: &Path, commands: &str) -> String {
    let program = Path::new(PROGRAM).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let said = output(
        Command::new("sh")
            .args(["-euc", commands])
            .env(
                "PATH",
                format!("{}/bin:{}:{path}", root.display(), program.display()),
            )
            .env("REAL_PATH", &path)
            .env("KEPT", KEPT)
            .env(
                "SUBMIT_OPTIONS",
                format!("--config {}/config.toml", root.display()),
            ),
    );
    assert!(said.status.success(), "{commands}\n{}", text(&said));
    String::from_utf8(said.stdout).unwrap()
}
