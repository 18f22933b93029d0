//! A Debian machine with a real systemd and the package installed: a container that ends with the
//! test.
//!
//! systemd-nspawn needs neither a systemd nor a bus outside: it runs in control groups, mounts and
//! processes of its own, so that nothing of it is left, and nothing outside is seen or changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

#[cfg(feature = "import")]
use crate::lab::world::IMPORT;
use crate::lab::world::{Needs, PROGRAM, last_outcome, text, until};

/// What a container needs.
pub const NEEDS: [Needs; 6] = [
    Needs::Root,
    Needs::Program("mmdebstrap"),
    Needs::Program("systemd-nspawn"),
    Needs::Program("cargo-deb"),
    Needs::Program("nsenter"),
    Needs::Namespaces,
];

/// What is in a container beside Debian's minimum. The package must not lean on anything else; that of
/// netboot-import needs certificates, too, and to sign ssh-keygen.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,tftpd-hpa,ca-certificates,openssh-client";

/// Where the Debian that was made once is kept for the next run: `target/tmp`.
const KEPT: &str = env!("CARGO_TARGET_TMPDIR");

/// The address at which the container's TFTP server listens, of the network for documentation.
pub const ADDRESS: &str = "192.0.2.1";

/// The unit under test.
pub const UNIT: &str = "netboot-publisher.service";

/// Boots a container with mounts and processes of its own, and with a branch of control groups that
/// is the root to it.
const BOOT: &str = r#"
set -e
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
mkdir --parents /run/systemd
mount -t tmpfs tmpfs /run/systemd
exec unshare --cgroup --mount --pid --fork --kill-child --mount-proc sh -ec '
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no \
        --console=pipe --resolv-conf=off --timezone=off --hostname=netboot --machine="$1" \
        --directory="$2" --boot' "$0" "$1" "$2"
"#;

/// A booted Debian. Ends, with all its processes, when it is dropped.
pub struct Container {
    child: Child,
    /// The process 1 of the container, as it is called outside.
    leader: u32,
    name: String,
    dir: tempfile::TempDir,
}

impl Container {
    /// Boots a Debian, with the package installed, its service running, and two importers, `ci` and
    /// `nightly`, and a `stranger` who is none.
    pub fn with_service() -> Self {
        let container = Self::boot();
        container.install(package());
        container.ok(&format!("systemctl is-active {UNIT}"));
        container.ok("useradd --groups netboot-import ci
             useradd --groups netboot-import nightly
             useradd stranger");
        container
    }

    /// Boots a Debian.
    pub fn boot() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("netboot-test-{}-{number}", std::process::id());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut unpack = Command::new("tar");
        run(unpack
            .arg("--extract")
            .arg("--file")
            .arg(debian())
            .arg("--directory")
            .arg(&root));
        let console = fs::File::create(dir.path().join("console")).unwrap();
        let child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation=private",
                "sh",
                "-c",
                BOOT,
                "boot",
                &name,
            ])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("starting a container");
        let mut container = Self {
            child,
            leader: 0,
            name,
            dir,
        };
        until("the container's systemd", || {
            container.assert_lives();
            container.leader = leader(container.child.id()).unwrap_or_default();
            container.leader != 0
        });
        until("the container's boot", || {
            container.assert_lives();
            let state = container.run("systemctl is-system-running --wait");
            ["running\n", "degraded\n"]
                .map(str::as_bytes)
                .contains(&&*state.stdout)
        });
        container
    }

    fn assert_lives(&mut self) {
        let ended = self.child.try_wait().unwrap();
        let console = fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
        assert!(
            ended.is_none(),
            "the container has ended, {ended:?}:\n{console}"
        );
    }

    /// A path of the container, as it is called outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir
            .path()
            .join("root")
            .join(inside.trim_start_matches('/'))
    }

    /// Runs commands of the shell as root.
    pub fn run(&self, commands: &str) -> Output {
        self.enter(&["sh", "-ec", commands])
            .output()
            .expect("entering the container")
    }

    /// Runs commands as root, which have to go well; returns what they print.
    pub fn ok(&self, commands: &str) -> String {
        let output = self.run(commands);
        assert!(output.status.success(), "{commands}: {}", text(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs commands as a user, with the groups that this user has.
    pub fn run_as(&self, user: &str, commands: &str) -> Output {
        let program = ["runuser", "--user", user, "--", "sh", "-ec", commands];
        self.enter(&program)
            .output()
            .expect("entering the container")
    }

    /// A program in the container.
    pub fn enter(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.leader))
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd",
            ])
            .args([
                "env",
                "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ])
            .args([
                "LANG=C.UTF-8",
                "TERM=dumb",
                "SYSTEMD_PAGER=",
                "SYSTEMD_COLORS=0",
            ])
            .args(program);
        command
    }

    /// The container's network.
    pub fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.leader)
    }

    /// A program of the outside in the container's network.
    pub fn enter_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network()))
            .arg(program);
        command
    }

    /// Gives the container's TFTP server its address.
    pub fn serve(&self) {
        let address = self
            .enter_network("ip")
            .args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"])
            .status();
        assert!(address.unwrap().success());
        self.ok("systemctl restart tftpd-hpa");
    }

    /// Installs a package from the outside, without the network.
    pub fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path("package.deb")).unwrap();
        self.ok("dpkg --install /package.deb 2>&1")
    }

    /// The entries of the journal that these arguments select, in their order.
    pub fn journal(&self, arguments: &str) -> Vec<Value> {
        let entries = self.ok(&format!(
            "journalctl --sync; journalctl --output=json {arguments}"
        ));
        let entry = |line| serde_json::from_str(line).expect("an entry is JSON");
        entries.lines().map(entry).collect()
    }

    /// What systemd knows of the service.
    pub fn property(&self, name: &str) -> String {
        let value = self.ok(&format!("systemctl show --value --property={name} {UNIT}"));
        value.trim_end().to_string()
    }

    /// The outcome of a drop, if there is one.
    pub fn outcome(&self, drop: &str) -> Option<Value> {
        let path = last_outcome(&self.path("/var/spool/netboot-publisher"), drop)?;
        let text = fs::read(path).ok()?;
        Some(serde_json::from_slice(&text).expect("an outcome is JSON"))
    }

    /// Waits for the outcome of a drop, which has to be this one.
    pub fn wait_for_outcome(&self, drop: &str, expected: &str) -> Value {
        until(&format!("the outcome of {drop}"), || {
            self.outcome(drop).is_some()
        });
        let outcome = self.outcome(drop).unwrap();
        assert_eq!(outcome["outcome"], expected, "{outcome:#}");
        outcome
    }

    /// Lets the daemon have other settings, in place of those of the package.
    pub fn configure(&self, settings: &str) {
        fs::write(self.path("/etc/netboot-publisher/config.toml"), settings).unwrap();
    }

    /// Adds lines to the unit's section `[Service]`.
    pub fn drop_in(&self, name: &str, lines: &str) {
        let folder = self.path(&format!("/etc/systemd/system/{UNIT}.d"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join(format!("{name}.conf")),
            format!("[Service]\n{lines}\n"),
        )
        .unwrap();
        self.ok("systemctl daemon-reload");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let journal = self.run("journalctl --no-hostname --output=short-precise --lines=200");
            eprintln!("{}", text(&journal));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The processes have gone; their control groups stay until somebody removes them.
        let remove = "mount -t cgroup2 cgroup2 /sys/fs/cgroup
             for try in 1 2 3 4 5 6 7 8 9; do
                 find \"/sys/fs/cgroup/$0\" -depth -type d -exec rmdir {} + && break
                 sleep 0.1
             done";
        let _ = Command::new("unshare")
            .args([
                "--mount",
                "--propagation=private",
                "sh",
                "-c",
                remove,
                &self.name,
            ])
            .stderr(Stdio::null())
            .status();
    }
}

/// The process 1 of the container that was started by this process, once it is there.
fn leader(starter: u32) -> Option<u32> {
    let nspawn = children(starter).into_iter().next()?;
    children(nspawn).into_iter().find(|child| {
        let name = fs::read_to_string(format!("/proc/{child}/comm"));
        name.is_ok_and(|name| name == "systemd\n")
    })
}

fn children(process: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// A Debian of this machine's own release, as an archive.
fn debian() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let release = std::env::var("NETBOOT_TESTS_DEBIAN").unwrap_or_else(|_| own_release());
        let known_by = netboot_publisher::Digest::of(PACKAGES.as_bytes());
        let archive = Path::new(KEPT).join(format!("debian-{release}-{}.tar", known_by.short()));
        if !archive.exists() {
            let begun = archive.with_extension("begun.tar");
            let mut make = Command::new("mmdebstrap");
            make.args(["--quiet", "--variant=minbase"])
                .arg(format!("--include={PACKAGES}"))
                // What a power cut would leave of it nobody asks.
                .arg("--dpkgopt=force-unsafe-io")
                // A network that is never there is waited for otherwise.
                .arg("--customize-hook=chroot \"$1\" systemctl mask systemd-networkd.service systemd-networkd-wait-online.service")
                .arg(&release)
                .arg(&begun);
            run(&mut make);
            fs::rename(&begun, &archive).unwrap();
        }
        archive
    })
}

fn own_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or("stable").to_string()
}

/// The package with the program under test.
pub fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| make_package("current", PROGRAM, &[]))
}

/// The same package as a later version.
pub fn newer_package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| make_package("newer", PROGRAM, &[NEWER]))
}

/// The package with the second program.
#[cfg(feature = "import")]
pub fn import_package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| make_package("import", IMPORT, &["--variant=import"]))
}

/// The same package as a later version.
#[cfg(feature = "import")]
pub fn newer_import_package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| make_package("import-newer", IMPORT, &["--variant=import", NEWER]))
}

/// A later version than any.
const NEWER: &str = "--deb-version=99.0-1";

fn make_package(name: &str, program: &str, arguments: &[&str]) -> PathBuf {
    let target = Path::new(KEPT).join(format!("package-{name}"));
    let package = target.join("netboot-publisher.deb");
    let release = target.join("release");
    fs::create_dir_all(&release).unwrap();
    // What `cargo deb` would build is what is tested.
    let program = Path::new(program);
    fs::copy(program, release.join(program.file_name().unwrap())).unwrap();
    let mut make = Command::new(env!("CARGO"));
    make.args(["deb", "--no-build", "--fast", "--quiet", "--output"])
        .arg(&package)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", &target);
    run(&mut make);
    package
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}
