//! What DHCP servers tell machines of each kind, by README's configurations of them.
//!
//! The servers run in a network of their own, in which they have README's network card and address. A
//! machine at the other end of the cable asks as firmware and boot loaders do.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::lab::tftp::{ADDRESS, enter};
use crate::lab::world::{Ended, Needs, PATIENCE, output, test, text, until};

pub fn tests() -> Vec<Trial> {
    let needs = [
        &[Needs::Root][..],
        &["unshare", "ip", "dnsmasq", "dhcpd", "kea-dhcp4"].map(Needs::Program),
    ];
    vec![test(
        "README's DHCP servers tell machines of every kind the same, and what they boot",
        &needs.concat(),
        all_kinds,
    )]
}

/// README's block in its chapter about machines that has this line.
fn block(line: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, chapter) = readme.split_once("\n## Booting machines\n").unwrap();
    let mut blocks = chapter.split("\n```").skip(1).step_by(2);
    let found = blocks.find_map(|block| {
        let (_, block) = block.split_once('\n')?;
        block.contains(line).then(|| block.to_string() + "\n")
    });
    found.unwrap_or_else(|| panic!("no block with {line}"))
}

/// Becomes a network with a network card whose cable ends in `client`.
const SERVER: &str = "PATH=$PATH:/usr/sbin:/sbin
    ip link set lo up
    ip link add eth0 type veth peer name client
    ip address add 192.0.2.1/24 dev eth0
    ip link set eth0 up
    exec sleep infinity";

/// A cable between two networks.
struct Cable {
    server: Ended,
    machine: Ended,
}

/// A process in a network of its own.
fn apart(commands: &str) -> Ended {
    let mut unshare = Command::new("unshare");
    let unshare = unshare.args(["--net", "sh", "-ec", commands]);
    let child = Ended(unshare.stdin(Stdio::null()).spawn().unwrap());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let of = format!("/proc/{}/ns/net", child.0.id());
    until("a network", || fs::read_link(&of).is_ok_and(|it| it != own));
    child
}

impl Cable {
    fn new() -> Self {
        let cable = Self {
            server: apart(SERVER),
            machine: apart("exec sleep infinity"),
        };
        let machine = cable.machine.0.id().to_string();
        until("the card", || {
            let cards = fs::read_to_string(format!("/proc/{}/net/dev", cable.server.0.id()));
            cards.is_ok_and(|cards| cards.contains("client"))
        });
        for (child, link) in [
            (&cable.server, &["set", "client", "netns", &machine][..]),
            (&cable.machine, &["set", "client", "up"]),
        ] {
            let done = output(within(child, "ip").arg("link").args(link));
            assert!(done.status.success(), "{}", text(&done));
        }
        // So that there is a way for broadcasts.
        for arguments in [
            "address add 192.0.2.2/24 dev client",
            "route add default dev client",
        ] {
            let mut ip = within(&cable.machine, "ip");
            let done = output(ip.args(arguments.split(' ')));
            assert!(done.status.success(), "{}", text(&done));
        }
        cable
    }
}

/// A program in the network of a process.
fn within(process: &Ended, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    let path = std::env::var("PATH").unwrap() + ":/usr/sbin:/sbin";
    let network = format!("--net=/proc/{}/ns/net", process.0.id());
    command.arg(network).arg(program).env("PATH", path);
    command
}

/// What a machine is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// The field `file`, in which also those look who ask for option 67.
    file: String,
    server: String,
    /// Options 60, where that is of HTTP Boot, and 209.
    class: Option<String>,
    configuration: Option<String>,
}

/// Which kind of machine asks.
#[derive(Clone, Copy, Debug)]
struct Kind {
    arch: u16,
    is_ipxe: bool,
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const COOKIE: [u8; 4] = [99, 130, 83, 99];

impl Kind {
    /// Names the question: a late answer to another is none to this one.
    fn id(self) -> [u8; 4] {
        let [high, low] = self.arch.to_be_bytes();
        [1, high, low, u8::from(self.is_ipxe)]
    }

    fn discover(self) -> Vec<u8> {
        let mut packet = vec![0; 236];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&self.id());
        // The answer may be a broadcast.
        packet[10] = 0x80;
        packet[28..34].copy_from_slice(&MAC);
        packet.extend(COOKIE);
        let [high, low] = self.arch.to_be_bytes();
        let class = match self.arch {
            15.. => format!("HTTPClient:Arch:{:05}:UNDI:003001", self.arch),
            _ => format!("PXEClient:Arch:{:05}:UNDI:003001", self.arch),
        };
        let mut option = |code: u8, value: &[u8]| {
            packet.extend([code, u8::try_from(value.len()).unwrap()]);
            packet.extend(value);
        };
        option(53, &[1]);
        option(55, &[1, 3, 6, 43, 54, 60, 66, 67, 97]);
        option(60, class.as_bytes());
        option(93, &[high, low]);
        option(94, &[1, 3, 1]);
        option(97, &[0; 17]);
        if self.is_ipxe {
            option(175, &[177, 5, 1, 26, 244, 16, 0]);
        }
        packet.push(255);
        packet
    }

    /// What the packet says, if it is an offer for this machine.
    fn offered(self, packet: &[u8]) -> Option<Told> {
        let options = packet.get(240..)?;
        if packet[0] != 2 || packet[4..8] != self.id() || packet[236..240] != COOKIE {
            return None;
        }
        let (mut told, mut rest) = (Told::default(), options);
        let mut kind = None;
        let words = |bytes: &[u8]| {
            let bytes = bytes.split(|byte| *byte == 0).next().unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        while let [code, length, after @ ..] = rest
            && *code != 255
        {
            let (value, after) = after.split_at(usize::from(*length));
            match code {
                53 => kind = Some(value[0]),
                60 => told.class = Some(words(value)).filter(|it| it == "HTTPClient"),
                209 => told.configuration = Some(words(value)),
                _ => {}
            }
            rest = after;
        }
        told.file = words(&packet[108..236]);
        told.server = packet[20..24]
            .iter()
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(".");
        (kind == Some(2)).then_some(told)
    }

    /// Asks until a server answers.
    fn ask(self, machine: &Ended) -> Told {
        let network = format!("/proc/{}/ns/net", machine.0.id());
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                enter(&network);
                let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
                socket.set_broadcast(true).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_secs(1)))
                    .unwrap();
                let begun = Instant::now();
                while begun.elapsed() < PATIENCE {
                    socket
                        .send_to(&self.discover(), "255.255.255.255:67")
                        .unwrap();
                    let mut packet = [0; 1500];
                    let received = socket.recv(&mut packet);
                    if let Some(told) = received
                        .ok()
                        .and_then(|length| self.offered(&packet[..length]))
                    {
                        return told;
                    }
                }
                panic!("no server answers {self:?}")
            });
            asked.join().unwrap()
        })
    }
}

/// A DHCP server: how its configuration is found in README, tried, and run.
struct Server {
    name: &'static str,
    line: &'static str,
    check: &'static [&'static str],
    run: &'static [&'static str],
}

/// `FILE` is the configuration, and `DIR` a folder of the test.
const SERVERS: &[Server] = &[
    Server {
        name: "dnsmasq",
        line: "dhcp-range=",
        check: &["--test", "--conf-file=FILE"],
        run: &[
            "--keep-in-foreground",
            "--conf-file=FILE",
            "--pid-file=",
            "--log-facility=-",
            "--dhcp-leasefile=DIR/leases",
        ],
    },
    Server {
        name: "dhcpd",
        line: "option arch code 93",
        check: &["-t", "-4", "-cf", "FILE"],
        run: &[
            "-4",
            "-f",
            "-d",
            "--no-pid",
            "-cf",
            "FILE",
            "-lf",
            "DIR/leases",
            "eth0",
        ],
    },
    Server {
        name: "kea-dhcp4",
        line: "{ \"Dhcp4\"",
        check: &["-t", "FILE"],
        run: &["-c", "FILE"],
    },
];

impl Server {
    fn arguments(&self, arguments: &[&str], dir: &Path) -> Vec<String> {
        let here = dir.display().to_string();
        let file = format!("{here}/{}.conf", self.name);
        let replaced = arguments.iter().map(|it| it.replace("FILE", &file));
        replaced.map(|it| it.replace("DIR", &here)).collect()
    }

    fn start(&self, cable: &Cable, dir: &Path) -> Ended {
        let here = dir.display().to_string();
        let configuration = block(self.line)
            .replace("/var/lib/kea", &here)
            .replace("/srv/tftp", &here);
        fs::write(dir.join(format!("{}.conf", self.name)), configuration).unwrap();
        fs::write(dir.join("leases"), "").unwrap();
        let program = || {
            let mut program = within(&cable.server, self.name);
            program
                .env("KEA_PIDFILE_DIR", dir)
                .env("KEA_LOCKFILE_DIR", dir);
            program
        };
        let checked = output(program().args(self.arguments(self.check, dir)));
        assert!(
            checked.status.success(),
            "{}: {}",
            self.name,
            text(&checked)
        );
        let log = fs::File::create(dir.join("log")).unwrap();
        let child: Child = program()
            .args(self.arguments(self.run, dir))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Ended(child)
    }
}

fn all_kinds() {
    let kinds = (0..=30).flat_map(|arch| {
        let kind = |is_ipxe| Kind { arch, is_ipxe };
        [kind(false), kind(true)]
    });
    let kinds: Vec<_> = kinds.collect();
    let told: Vec<Vec<Told>> = SERVERS
        .iter()
        .map(|server| {
            let (cable, dir) = (Cable::new(), tempfile::tempdir().unwrap());
            let mut running = server.start(&cable, dir.path());
            let told = kinds.iter().map(|kind| kind.ask(&cable.machine));
            let told = told.collect();
            let ended = running.0.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}", server.name);
            told
        })
        .collect();
    for (server, told) in SERVERS.iter().zip(&told) {
        for (kind, told) in kinds.iter().zip(told) {
            let file = match (kind.arch, kind.is_ipxe) {
                (_, true) => "http://192.0.2.1/menu.ipxe",
                (0, _) => "bios/pxelinux.0",
                (7 | 9, _) => "efi-x64/shimx64.efi",
                (11, _) => "efi-arm64/shimaa64.efi",
                (16, _) => "http://192.0.2.1/ipxe/snponly.efi",
                _ => "",
            };
            let text = |it: &str| Some(it.to_string());
            let expected = Told {
                file: file.to_string(),
                server: ADDRESS.to_string(),
                class: text("HTTPClient").filter(|_| file.ends_with("snponly.efi")),
                configuration: text("::pxelinux.cfg/default")
                    .filter(|_| file.ends_with("pxelinux.0")),
            };
            assert_eq!(*told, expected, "{}, {kind:?}", server.name);
        }
    }
}
