//! Real servers that `netboot-import` asks, on loopback: nginx as a mirror, docker-registry as a registry,
//! and between them and who asks somebody who troubles the line.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::world::{Ended, Needs, until};

pub const NGINX: Needs = Needs::Program("nginx");
pub const REGISTRY: Needs = Needs::Program("docker-registry");

/// One request, as the server has logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub status: u16,
    /// Of the answer's body.
    pub bytes: u64,
}

/// A server on a port of loopback, with a folder of its own. Ends when it is dropped.
pub struct Server {
    process: Option<Ended>,
    dir: tempfile::TempDir,
    command: fn(&Path) -> Command,
    port: u16,
    /// Requests that were told of already.
    told: Mutex<usize>,
}

impl Server {
    /// nginx, which serves [`Server::root`].
    pub fn nginx() -> Self {
        Self::nginx_with(|dir, port| {
            format!("listen 127.0.0.1:{port}; root {}/root;", dir.display())
        })
    }

    /// nginx, which guards a registry: by TLS, with a certificate that only [`Server::certificate`] vouches
    /// for, and by this name and password.
    pub fn guarding(registry: &Self, [user, password]: [&str; 2]) -> Self {
        let behind = registry.url("");
        Self::nginx_with(|dir, port| {
            let here = dir.display();
            certify(dir);
            fs::write(dir.join("users"), format!("{user}:{{PLAIN}}{password}\n")).unwrap();
            format!(
                "listen 127.0.0.1:{port} ssl; ssl_certificate {here}/cert.pem; \
                 ssl_certificate_key {here}/key.pem; auth_basic registry; auth_basic_user_file {here}/users; \
                 client_max_body_size 0; \
                 location / {{ proxy_pass {behind}; proxy_set_header Host $http_host; \
                 proxy_set_header X-Forwarded-Proto https; }}"
            )
        })
    }

    /// The certificate of a server that has one, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// nginx; `server` writes what its only server does.
    fn nginx_with(server: impl FnOnce(&Path, u16) -> String) -> Self {
        Self::begin(
            |dir, port| {
                let (here, server) = (dir.display(), server(dir, port));
                let scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let scratch = scratch.map(|it| format!("{it}_temp_path {here}/{it};\n"));
                let nginx = format!(
                    "user root;\nworker_processes 1;\npid {here}/pid;\ndaemon off;\nevents {{}}\nhttp {{\n{}\
                 log_format short '$request_method $uri $status $body_bytes_sent';\n\
                 access_log {here}/access.log short;\nserver {{ {server} }}\n}}\n",
                    scratch.concat()
                );
                fs::write(dir.join("nginx.conf"), nginx).unwrap();
            },
            |dir| {
                let mut nginx = Command::new("nginx");
                nginx.arg("-e").arg(dir.join("error.log"));
                nginx.arg("-c").arg(dir.join("nginx.conf"));
                nginx
            },
        )
    }

    /// docker-registry, which keeps what it has in [`Server::root`].
    pub fn registry() -> Self {
        Self::begin(
            |dir, port| {
                let here = dir.display();
                let registry = format!(
                    "version: 0.1\nlog: {{ accesslog: {{ disabled: false }}, level: error }}\n\
                 storage: {{ filesystem: {{ rootdirectory: {here}/root }}, delete: {{ enabled: true }} }}\n\
                 http: {{ addr: \"127.0.0.1:{port}\" }}\n"
                );
                fs::write(dir.join("registry.yml"), registry).unwrap();
            },
            |dir| {
                let mut registry = Command::new("docker-registry");
                registry.arg("serve").arg(dir.join("registry.yml"));
                registry.stdout(fs::File::create(dir.join("access.log")).unwrap());
                registry
            },
        )
    }

    /// Has docker-registry throw away all that no tag leads to, while it serves nobody.
    pub fn collect_garbage(&mut self) -> String {
        self.stop();
        let mut collect = Command::new("docker-registry");
        collect.args(["garbage-collect", "--delete-untagged"]);
        let collected = collect.arg(self.dir.path().join("registry.yml")).output();
        let collected = collected.unwrap();
        assert!(collected.status.success(), "{collected:?}");
        self.start();
        String::from_utf8(collected.stdout).unwrap()
    }

    fn begin(configure: impl FnOnce(&Path, u16), command: fn(&Path) -> Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let port = free_port();
        configure(dir.path(), port);
        let mut server = Self {
            process: None,
            dir,
            command,
            port,
            told: Mutex::new(0),
        };
        server.start();
        server
    }

    /// Starts the server, again after [`Server::stop`].
    pub fn start(&mut self) {
        let mut command = (self.command)(self.dir.path());
        let log = fs::File::create(self.dir.path().join("stderr")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn();
        self.process = Some(Ended(child.expect("starting the server")));
        until("the server's port", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Ends the server; what it has stays. Whoever is killed leaves nginx's workers behind.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill_process(Pid::from_child(&process.0), Signal::TERM);
            let _ = process.0.wait();
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it serves.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").0.id()
    }

    /// The requests since it was asked last.
    pub fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let all: Vec<_> = log.lines().filter_map(request).collect();
        let mut told = self.told.lock().unwrap();
        let new = all[*told..].to_vec();
        *told = all.len();
        new
    }
}

/// A line of nginx's log as it is set up here, or of docker-registry's, which is Apache's.
fn request(line: &str) -> Option<Request> {
    let (method, path, status, bytes) = if let Some((_, rest)) = line.split_once(" \"") {
        let (request, rest) = rest.split_once("\" ")?;
        let mut request = request.split(' ');
        let mut rest = rest.split(' ');
        (request.next()?, request.next()?, rest.next()?, rest.next()?)
    } else {
        let mut parts = line.split(' ');
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
    };
    Some(Request {
        method: method.to_string(),
        path: path.to_string(),
        status: status.parse().ok()?,
        bytes: bytes.parse().unwrap_or(0),
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a certificate for this machine, which nobody vouches for, and its key.
fn certify(dir: &Path) {
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args("-subj /CN=registry -keyout key.pem -out cert.pem".split(' '))
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(dir)
        .output();
    let made = made.expect("openssl");
    assert!(made.status.success(), "{made:?}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What becomes of the answer to a request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Nothing: it comes as it is.
    None,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Another answer comes, whole: head and body.
    Say(Vec<u8>),
    /// The body comes with every byte from this one on changed.
    Change(usize),
}

/// Stands between whoever asks and a server, and troubles answers as the test says.
pub struct Between {
    port: u16,
}

impl Between {
    /// `trouble` is told the path and the head of each request, and how many came before.
    pub fn new(
        server: &Server,
        trouble: impl Fn(&str, &str, usize) -> Trouble + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, upstream) = (listener.local_addr().unwrap().port(), server.port());
        let (asked, trouble) = (Arc::new(AtomicUsize::new(0)), Arc::new(trouble));
        // Ends with the test program: it waits for nobody.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, trouble) = (Arc::clone(&asked), Arc::clone(&trouble));
                std::thread::spawn(move || {
                    let _ = pass(stream.unwrap(), upstream, &asked, &*trouble);
                });
            }
        });
        Self { port }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

/// Passes one request on, and its answer back. Each connection is for one request.
fn pass(
    mut from: TcpStream,
    upstream: u16,
    asked: &AtomicUsize,
    trouble: &dyn Fn(&str, &str, usize) -> Trouble,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("").to_string();
    let before = asked.fetch_add(1, Ordering::Relaxed);
    let trouble = trouble(&path, &head, before);
    if let Trouble::Say(answer) = &trouble {
        return from.write_all(answer);
    }
    let is_passed = |line: &&str| {
        let name = line.split(':').next().unwrap_or("").to_ascii_lowercase();
        name != "connection"
    };
    let lines: Vec<_> = head.trim_end().split("\r\n").filter(is_passed).collect();
    let mut to = TcpStream::connect(("127.0.0.1", upstream))?;
    to.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes())?;
    let mut answer = Vec::new();
    to.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let body = body.map_or(answer.len(), |at| at + 4);
    match trouble {
        Trouble::Cut(bytes) => answer.truncate(body + bytes),
        Trouble::Change(first) => {
            let changed = answer.iter_mut().skip(body + first);
            changed.for_each(|byte| *byte ^= 1);
        }
        _ => {}
    }
    from.write_all(&answer)
}
