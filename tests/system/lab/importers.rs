//! A machine of importers: an ordinary user with a finished drop, real servers that lead to a spool
//! (sshd, smbd), and every tool that admins bring a drop with.
//!
//! The machine has users, mounts, processes and a network of its own; its files are in a folder that
//! goes with the test. So nothing outside is seen or changed, and nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netboot_publisher::Digest;

use crate::lab::sandbox::Sandbox;
use crate::lab::world::{Needs, World, manifest, name_in, own, text, walk};

/// What the machine and its tools need.
pub const NEEDS: [Needs; 12] = [
    Needs::Root,
    Needs::Namespaces,
    Needs::Program("setpriv"),
    Needs::Program("strace"),
    Needs::Program("sshd"),
    Needs::Program("sftp"),
    Needs::Program("rsync"),
    Needs::Program("lftp"),
    Needs::Program("smbd"),
    Needs::Program("smbclient"),
    Needs::Program("zip"),
    Needs::Program("unzip"),
];

/// The importer: a user that only this machine knows.
const IMPORTER: u32 = 64_123;

/// The time of all that is in an image: tools that keep times bring it with them.
const LONG_AGO: &str = "2001-09-09T01:46:40Z";

/// The ports of sshd and smbd, as `/proc/net/tcp` shows them, both listening.
const PORTS: [(&str, &str); 2] = [
    ("tcp", ":0016 00000000:0000 0A"),
    ("tcp", ":01BD 00000000:0000 0A"),
];

/// Becomes the machine. `$0` is its folder.
const BOOT: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir --mode=0755 /run/sshd
mkdir --mode=1777 /run/elsewhere
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
$(command -v sshd) -f "$0/sshd_config" -E "$0/sshd.log"
smbd --daemon --configfile="$0/smb.conf"
exec sleep infinity
"#;

/// What scripts of importers may use: `slowly MILLISECONDS COMMAND…` runs a command that is held up
/// after each piece that it writes, with what it writes to still open.
const PRELUDE: &str = r#"
set -eu
slowly() {
    calls=write,writev,pwrite64,sendto,sendmsg,copy_file_range
    delay=$1; shift
    strace --quiet=all --output=/dev/null --follow-forks --seccomp-bpf --trace=$calls \
        --inject=$calls:delay_exit=${delay}000 -- "$@"
}
"#;

/// The machine; ends, with all its processes, when it is dropped.
pub struct Importers {
    sandbox: Sandbox,
    folder: PathBuf,
    incoming: PathBuf,
}

/// What an importer's tool has done.
pub struct Brought {
    pub output: Output,
    pub took: Duration,
}

impl Importers {
    /// Boots the machine beside a world, to whose spool its users may write.
    pub fn new(world: &World) -> Self {
        let folder = world.root.join("importers");
        fs::create_dir(&folder).unwrap();
        let incoming = world.spool.join("incoming");
        for shared in [&world.root, &world.spool] {
            fs::set_permissions(shared, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&incoming, fs::Permissions::from_mode(0o1777)).unwrap();
        write_files(&folder, &incoming);
        chown(&folder, Some(IMPORTER), Some(IMPORTER)).unwrap();
        let sandbox = Sandbox::begin(BOOT, &folder, &PORTS);
        Self {
            sandbox,
            folder,
            incoming,
        }
    }

    /// Makes a finished drop of an image, which is copied with its times.
    pub fn finished_drop(
        &self,
        name: &str,
        target: &str,
        image: &Path,
        is_listed: bool,
    ) -> PathBuf {
        let drop = self.folder.join("drops").join(name);
        fs::create_dir_all(&drop).unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(image)
            .arg(drop.join("image"))
            .status();
        assert!(copied.unwrap().success());
        let mut text = manifest(target);
        if is_listed {
            text += "[files]\n";
            for (path, bytes) in files(image) {
                let (sha256, size) = (Digest::of(&bytes), bytes.len());
                text += &format!("{path:?} = {{ sha256 = \"{sha256}\", size = {size} }}\n");
            }
        }
        fs::write(drop.join("manifest.toml"), text).unwrap();
        date_back(&drop);
        own(&drop, IMPORTER);
        drop
    }

    /// Has the importer bring a finished drop: a shell script with `$drop`, `$incoming`, `$name` and
    /// `$machine`, the folder with the configuration of the clients.
    pub fn begin(&self, script: &str, drop: &Path) -> Child {
        let name = drop.file_name().unwrap();
        self.enter()
            .args(["sh", "-c"])
            .arg(format!("{PRELUDE}{script}"))
            .env("drop", drop)
            .env("name", name)
            .env("incoming", &self.incoming)
            .env("machine", &self.folder)
            .env("HOME", &self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting a tool")
    }

    /// As [`Importers::begin`], to the end.
    pub fn bring(&self, script: &str, drop: &Path) -> Brought {
        let begun = Instant::now();
        let output = self.begin(script, drop).wait_with_output();
        Brought {
            output: output.expect("waiting for a tool"),
            took: begun.elapsed(),
        }
    }

    /// A command of the importer's on this machine.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.sandbox.leader()))
            .args(["--mount", "--net", "--pid", "setpriv"])
            .args(["--reuid", &IMPORTER.to_string()])
            .args(["--regid", &IMPORTER.to_string()])
            .arg("--clear-groups");
        command
    }
}

impl Drop for Importers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("sshd.log"));
            eprintln!("sshd: {}", log.unwrap_or_default());
        }
    }
}

/// Users, keys, and the configuration of servers and clients.
fn write_files(folder: &Path, incoming: &Path) {
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let (here, spool) = (folder.display(), incoming.display());
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let user = format!("importer:x:{IMPORTER}:{IMPORTER}::{here}:/bin/sh\n");
    write("passwd", passwd + &user);
    let group = fs::read_to_string("/etc/group").unwrap();
    write("group", format!("{group}importer:x:{IMPORTER}:\n"));
    for (key, owner) in [("host_key", 0), ("key", IMPORTER)] {
        let mut make = Command::new("ssh-keygen");
        let make = make
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.join(key));
        let output = make.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        chown(folder.join(key), Some(owner), None).unwrap();
    }
    write(
        "sshd_config",
        format!(
            "ListenAddress 127.0.0.1\nHostKey {here}/host_key\nPidFile none\n\
             UsePAM no\nStrictModes no\nAuthorizedKeysFile {here}/key.pub\n\
             Subsystem sftp internal-sftp\nMaxStartups 100\n"
        ),
    );
    write(
        "ssh_config",
        format!(
            "User importer\nIdentityFile {here}/key\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        ),
    );
    let private = [
        "private dir",
        "lock directory",
        "state directory",
        "cache directory",
    ];
    let private = private.iter().chain(&["pid directory", "ncalrpc dir"]);
    let private: String = private
        .map(|key| format!("{key} = {here}/samba\n"))
        .collect();
    fs::create_dir(folder.join("samba")).unwrap();
    write(
        "smb.conf",
        format!(
            "[global]\ninterfaces = 127.0.0.1\nbind interfaces only = yes\nsmb ports = 445\n\
             map to guest = bad user\nguest account = importer\nload printers = no\n\
             disable spoolss = yes\nlog file = {here}/samba.log\nsmb2 max write = 65536\n{private}\
             [incoming]\npath = {spool}\nguest ok = yes\nguest only = yes\nread only = no\n"
        ),
    );
}

/// An image of several files in nested folders, 1.2 MB in all; what is in it is old.
pub fn make_image(image: &Path) {
    let files = [
        ("a-first", 20_000),
        ("boot/grub/fonts/unicode.pf2", 150_000),
        ("boot/grub/grubx64.efi", 200_000),
        ("initrd.gz", 600_000),
        ("linux", 200_000),
        ("version", 30),
        ("z/last", 30_000),
    ];
    for (path, size) in files {
        let path = image.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // No tool is to find anything to save.
        let blocks = (0_u32..).map(|block| Digest::of(format!("{path:?} {block}").as_bytes()));
        let bytes: String = blocks
            .map(|it| it.to_string())
            .take(size / 64 + 1)
            .collect();
        fs::write(path, &bytes[..size]).unwrap();
    }
    date_back(image);
}

fn date_back(folder: &Path) {
    let mut paths = walk(folder);
    paths.push(folder.into());
    let mut touch = Command::new("touch");
    touch.args(["--no-create", "--date", LONG_AGO]).args(paths);
    assert!(touch.status().unwrap().success());
}

/// The files of an image with their bytes, by their path in it.
fn files(image: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = walk(image).into_iter().filter(|path| path.is_file());
    let named = paths.map(|path| (name_in(image, &path), fs::read(path).unwrap()));
    named.collect()
}
