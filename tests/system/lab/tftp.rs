//! Real TFTP servers and clients, in a network of their own: nothing outside is asked or answers.

use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::lab::world::{PATIENCE, text};

/// The port of TFTP as `/proc/net/udp` shows it.
const PORT: &str = ":0045 ";

/// The server's address, of the network for documentation (RFC 5737). An address of the loopback
/// network will not do: glibc doesn't count it as configured, and in.tftpd asks for one that is.
pub const ADDRESS: &str = "192.0.2.1";

/// A running server; ends, with all its processes and its network, when it is dropped.
pub struct Server {
    child: Child,
}

/// A program that machines' boot loaders are like.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// tftp-hpa: blocks of 512 bytes, as an old ROM.
    Tftp,
    /// Asks for the size and for large blocks, as a boot loader.
    Curl,
}

impl Server {
    /// tftpd-hpa, in a chroot.
    pub fn tftpd(root: &Path, arguments: &[&str]) -> Self {
        Self::start(
            Command::new("in.tftpd")
                .args(["-L", "--ipv4", "--address", ADDRESS, "--secure"])
                .args(arguments)
                .arg(root),
        )
    }

    /// dnsmasq, as the user nobody.
    pub fn dnsmasq(root: &Path, arguments: &[&str]) -> Self {
        Self::dnsmasq_with_log(root, Path::new("-"), arguments)
    }

    /// The same, which logs to this file.
    pub fn dnsmasq_with_log(root: &Path, log: &Path, arguments: &[&str]) -> Self {
        Self::start(
            Command::new("dnsmasq")
                .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
                .args(["--bind-interfaces", "--pid-file="])
                .args(["--user=nobody", "--enable-tftp"])
                .arg(format!("--log-facility={}", log.display()))
                .arg(format!("--listen-address={ADDRESS}"))
                .arg(format!("--tftp-root={}", root.display()))
                .args(arguments),
        )
    }

    fn start(server: &Command) -> Self {
        // The processes' own namespace makes children that still send go with it.
        let child = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "sh", "-c"])
            .arg(format!(
                "PATH=$PATH:/usr/sbin:/sbin
                 ip link set lo up && ip address add {ADDRESS}/32 dev lo && exec \"$0\" \"$@\""
            ))
            .arg(server.get_program())
            .args(server.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting the server");
        let mut server = Self { child };
        server.wait_for_port();
        server
    }

    /// Waits until the server's network has the port open.
    fn wait_for_port(&mut self) {
        let process = format!("/proc/{}", self.child.id());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let begun = Instant::now();
        loop {
            let is_apart = fs::read_link(format!("{process}/ns/net")).is_ok_and(|ns| ns != own);
            let ports = fs::read_to_string(format!("{process}/net/udp")).unwrap_or_default();
            if is_apart && ports.contains(PORT) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            assert!(begun.elapsed() < PATIENCE, "the server opens no port");
            std::thread::yield_now();
        }
    }

    /// Moves the calling thread into the server's network, for good.
    pub fn enter(&self) {
        enter(&self.network());
    }

    fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// As [`silent_machine`].
    pub fn silent_machine(&self, path: &str) -> UdpSocket {
        silent_machine(&self.network(), path)
    }

    /// Fetches a file.
    ///
    /// # Errors
    /// What the client said.
    pub fn fetch(&self, client: Client, path: &str, scratch: &Path) -> Result<Vec<u8>, String> {
        let to = scratch.join("fetched");
        let _ = fs::remove_file(&to);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network()));
        match client {
            Client::Tftp => command
                .args(["tftp", "-m", "binary", ADDRESS, "-c", "get", path])
                .arg(&to),
            Client::Curl => command
                .args([
                    "curl",
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--tftp-blksize",
                    "8192",
                ])
                .arg(format!("tftp://{ADDRESS}/{path}"))
                .arg("--output")
                .arg(&to),
        };
        let output = command.output().expect("running the client");
        let mut said = text(&output);
        // tftp-hpa's client ends well also when the server has refused.
        if !output.status.success() || said.contains("Error code") {
            let _ = write!(said, "\n{client:?} could not fetch {path}");
            return Err(said);
        }
        fs::read(&to).map_err(|error| format!("{said}\n{client:?} {path}: {error}"))
    }
}

/// A machine in this network that has asked the server for a file and got its first block, and then
/// falls silent.
pub fn silent_machine(network: &str, path: &str) -> UdpSocket {
    let fetch = || {
        enter(network);
        let socket = UdpSocket::bind((ADDRESS, 0)).unwrap();
        let request = format!("\0\x01{path}\0octet\0");
        socket.send_to(request.as_bytes(), (ADDRESS, 69)).unwrap();
        let mut packet = [0; 600];
        let length = socket.recv(&mut packet).unwrap();
        assert_eq!((length, &packet[..4]), (516, &[0, 3, 0, 1][..]), "no data");
        socket
    };
    std::thread::scope(|scope| scope.spawn(fetch).join().unwrap())
}

/// Moves the calling thread into a network, for good.
pub fn enter(network: &str) {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let network = fs::File::open(network).unwrap();
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        // The first process of the namespace: with it all others go. (It is not enough that
        // `unshare` ends: a server that has changed its user outlives that.)
        let unshare = self.child.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        for pid in children.unwrap_or_default().split_whitespace() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
