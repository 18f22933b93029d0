//! The installed netboot-import: its package, its units and their sandbox, on a real systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::lab::container::{self, Container, UNIT};
use crate::lab::network::without_line;
use crate::lab::upstream::{self, Debian, Signers};
use crate::lab::world::{Ended, Needs, test, text, until};

const UNITS: &str = "netboot-import@x.service netboot-site@x.service netboot-push@x.service";
const OTHERS: &str = "netboot-import@x.timer netboot-push@x.timer netboot-push@x.path";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "the units of netboot-import see and change nothing but what is their own",
            &container::NEEDS,
            is_confined,
        ),
        test(
            "upgrade, removal and purge of netboot-import's package leave the daemon and an admin's files alone",
            &container::NEEDS,
            package_leaves_all_else,
        ),
        test(
            "lintian finds no fault with the package of netboot-import",
            &[
                Needs::Root,
                Needs::Program("cargo-deb"),
                Needs::Program("lintian"),
            ],
            package_is_clean,
        ),
        test(
            "Debian and Ubuntu are current by README's sources, and a broken one holds up no other",
            &[
                &container::NEEDS[..],
                &["nginx", "gpg", "apt-ftparchive"].map(Needs::Program),
            ]
            .concat(),
            keeps_current,
        ),
        test(
            "the daemon and its package are without a network and what it would need",
            &[],
            daemon_has_no_network,
        ),
    ]
}

impl Container {
    /// As [`Container::with_service`], with netboot-import beside.
    pub fn with_import() -> Self {
        let container = Self::with_service();
        container.install(container::import_package());
        container
    }
}

/// Looks, from where a unit stands, at what it may not do, and at what it has to.
const PROBE: &str = r#"#!/bin/bash
exec > /var/lib/netboot-import/"$1" 2>&1
try() { if "$@" 2> /dev/null; then echo "can: $*"; else echo "can't: $*"; fi; }
try touch /etc/probe
try touch /etc/netboot-publisher/sources.d/probe.toml
try touch /usr/bin/probe
try touch /var/lib/probe
try touch /run/probe
try touch /dev/probe
try touch /srv/tftp/netboot/probe
try touch /var/spool/netboot-publisher/probe
try ls /var/spool/netboot-publisher/incoming
try ls /var/spool/netboot-publisher/processing
try ls /srv/tftp/netboot/.netboot-publisher
try ls /home/ci
try ls /root
try test -r /etc/shadow
try cat /proc/1/status
try cat /proc/sys/kernel/ostype
try mount -t tmpfs none /tmp
try unshare --user true
try mknod /var/lib/netboot-import/null c 1 3
try chroot / true
try sh -c 'renice -n -5 -p $$ > /dev/null'
try bash -c ': < /dev/tcp/127.0.0.1/22'
grep -E '^(Uid|Gid|NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status | tr -s '\t' ' '
try mkdir /var/spool/netboot-publisher/incoming/.probe-"$1"
try touch /var/lib/netboot-import/can
try cat /etc/netboot-publisher/config.toml > /dev/null
try ls /srv/tftp/netboot > /dev/null
try bash -c ': < /dev/udp/127.0.0.1/69'
[ -z "$NOTIFY_SOCKET" ] || systemd-notify --ready
"#;

fn is_confined() {
    let container = Container::with_import();
    for unit in UNITS.split(' ') {
        let security = format!("systemd-analyze security --no-pager --threshold=15 {unit}");
        let output = container.run(&security);
        assert!(output.status.success(), "{}", text(&output));
    }
    let verify = format!("systemd-analyze verify --man=no {UNITS} {OTHERS} 2>&1");
    let verified = container.run(&verify);
    assert_eq!(
        (verified.status.code(), &*verified.stdout),
        (Some(0), &b""[..]),
        "{}",
        text(&verified)
    );

    let probe = container.path("/usr/local/bin/probe");
    fs::write(&probe, PROBE).unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755)).unwrap();
    container.ok("mkdir -p /home/ci");
    let users = container.ok("id -u netboot-import; getent group netboot-import | cut -d : -f 3");
    let (uid, gid) = users.trim_end().split_once('\n').unwrap();
    for unit in UNITS.split(' ') {
        let (name, _) = unit.split_once('@').unwrap();
        let folder = container.path(&format!("/etc/systemd/system/{name}@.service.d"));
        fs::create_dir_all(&folder).unwrap();
        let exec = "ExecStart=\nExecStart=/usr/local/bin/probe";
        let all = format!("[Service]\n{exec} {name}\nNotifyAccess=all\n");
        fs::write(folder.join("probe.conf"), all).unwrap();
        container.ok(&format!("systemctl daemon-reload; systemctl start {unit}"));
        let found = container.path(&format!("/var/lib/netboot-import/{name}"));
        // Drops are made by units that have a spool.
        let drop = if name == "netboot-push" {
            "can't"
        } else {
            "can"
        };
        let expected = PROBED
            .replace("DROP", drop)
            .replace("UNIT", name)
            .replace("UID", uid)
            .replace("GID", gid);
        assert_eq!(fs::read_to_string(found).unwrap(), expected, "{unit}");
    }
}

/// What the probe finds.
const PROBED: &str = "\
can't: touch /etc/probe
can't: touch /etc/netboot-publisher/sources.d/probe.toml
can't: touch /usr/bin/probe
can't: touch /var/lib/probe
can't: touch /run/probe
can't: touch /dev/probe
can't: touch /srv/tftp/netboot/probe
can't: touch /var/spool/netboot-publisher/probe
can't: ls /var/spool/netboot-publisher/incoming
can't: ls /var/spool/netboot-publisher/processing
can't: ls /srv/tftp/netboot/.netboot-publisher
can't: ls /home/ci
can't: ls /root
can't: test -r /etc/shadow
can't: cat /proc/1/status
can't: cat /proc/sys/kernel/ostype
can't: mount -t tmpfs none /tmp
can't: unshare --user true
can't: mknod /var/lib/netboot-import/null c 1 3
can't: chroot / true
can't: sh -c renice -n -5 -p $$ > /dev/null
can't: bash -c : < /dev/tcp/127.0.0.1/22
Uid: UID UID UID UID
Gid: GID GID GID GID
CapEff: 0000000000000000
CapBnd: 0000000000000000
NoNewPrivs: 1
Seccomp: 2
DROP: mkdir /var/spool/netboot-publisher/incoming/.probe-UNIT
can: touch /var/lib/netboot-import/can
can: bash -c : < /dev/udp/127.0.0.1/69
";

/// The code of this section of the README, block for block.
fn blocks(section: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, text) = readme
        .split_once(&format!("\n### {section}\n"))
        .expect(section);
    let text = text.split("\n##").next().unwrap();
    let blocks = text.split("\n```").skip(1).step_by(2);
    let code = |block: &str| block.split_once('\n').unwrap().1.to_string() + "\n";
    blocks.map(code).collect()
}

/// nginx, which serves a folder in a container's network; ends with the test.
fn serve(container: &Container, folder: &Path) -> Ended {
    let here = folder.display();
    let scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let scratch = scratch.map(|it| format!("{it}_temp_path {here}/nginx-{it};\n"));
    let all = format!(
        "daemon off;\nmaster_process off;\npid {here}/nginx.pid;\nuser root;\nevents {{}}\nhttp {{\n{}access_log off;\n\
         server {{ listen 127.0.0.1:80; root {here}/mirror; }}\n}}\n",
        scratch.concat()
    );
    let configuration = folder.join("nginx.conf");
    fs::write(&configuration, all).unwrap();
    let log = folder.join("nginx.log");
    let mut nginx = container.enter_network("nginx");
    nginx.arg("-e").arg(&log).arg("-c").arg(&configuration);
    let nginx = Ended(nginx.spawn().expect("starting nginx"));
    until("nginx", || folder.join("nginx.pid").exists());
    nginx
}

/// An upstream of Debian's in this version.
fn lay_out(mirror: &Path, signers: &Signers, version: &str) {
    let debian = Debian {
        signers,
        names: &["debian"],
        suite: "bookworm",
        codename: "bookworm",
        version,
    };
    for arch in ["amd64", "arm64"] {
        let netboot = tempfile::tempdir().unwrap();
        upstream::small_netboot(netboot.path(), arch, version);
        debian.add(&mirror.join("debian"), arch, netboot.path());
    }
    debian.release(&mirror.join("debian"), &[]);
}

fn keeps_current() {
    let container = Container::with_import();
    // Nobody boots from this tree.
    container.configure("[swap]\nquiet_period = \"0s\"\n");
    container.ok(&format!("systemctl reload {UNIT}"));
    let (folder, signers) = (tempfile::tempdir().unwrap(), Signers::new());
    let mirror = folder.path().join("mirror");
    fs::create_dir_all(mirror.join("noble")).unwrap();
    for name in ["debian", "ubuntu"] {
        signers.make(name);
        let keyring = container.path(&format!("/usr/share/keyrings/{name}-archive-keyring.gpg"));
        fs::copy(signers.keyring(&[name]), keyring).unwrap();
    }
    lay_out(&mirror, &signers, "20230607");
    upstream::ubuntu(&mirror.join("noble"), &signers, &["ubuntu"], &["24.04.3"]);
    let _nginx = serve(&container, folder.path());

    let blocks = blocks("Debian and Ubuntu, always current");
    let [debian, ubuntu, commands] = &blocks[..] else {
        panic!("{blocks:#?}")
    };
    let local = |text: &str| {
        text.replace("https://mirror.example/", "http://127.0.0.1/")
            .replace("\"https://releases.ubuntu.com/", "\"http://127.0.0.1/")
    };
    let broken = debian.replace("suite = \"bookworm\"", "suite = \"trixie\"");
    for (name, text) in [("debian", debian), ("ubuntu", ubuntu), ("broken", &broken)] {
        let path = format!("/etc/netboot-publisher/sources.d/{name}.toml");
        assert!(name == "broken" || include_str!("../../README.md").contains(&path));
        assert_ne!(local(text), *text);
        fs::write(container.path(&path), local(text)).unwrap();
    }
    // One that fails fails alone.
    let failed = container.run("systemctl start netboot-import@broken");
    assert!(!failed.status.success(), "{}", text(&failed));
    let said = journal(&container, "netboot-import@broken");
    assert!(
        said.contains("broken: ") && said.contains("trixie"),
        "{said}"
    );

    let check = "runuser --user netboot-import -- netboot-import check\n";
    let all = without_line(commands, "apt install ");
    let (first, others) = all.split_once(check).expect("a look");
    assert_eq!(first, "");
    let looked = container.run(check);
    // The broken one is among all.
    assert_eq!(looked.status.code(), Some(1), "{}", text(&looked));
    let looked = text(&looked);
    assert!(
        looked.contains("ubuntu amd64/generic/noble/install: would bring"),
        "{looked}"
    );
    let status = container.ok(others);
    for target in [
        "amd64/generic/bookworm",
        "arm64/generic/bookworm",
        "amd64/generic/noble",
    ] {
        assert!(status.contains(&format!("{target}/install")), "{status}");
    }
    let said = journal(&container, "netboot-import@debian");
    assert!(
        said.contains("debian arm64/generic/bookworm/install: published "),
        "{said}"
    );
    // 3: it has ended.
    let status = container.run("systemctl status netboot-import@ubuntu");
    assert_eq!(status.status.code(), Some(3), "{}", text(&status));
    let status = text(&status);
    assert!(
        status.contains("ubuntu amd64/generic/noble/install: published "),
        "{status}"
    );

    // The timers run in this moment, and not some time in the hour.
    lay_out(&mirror, &signers, "20240701");
    let timer = container.path("/etc/systemd/system/netboot-import@.timer.d");
    fs::create_dir_all(&timer).unwrap();
    let soon = "[Timer]\nOnCalendar=\nOnActiveSec=0\nRandomizedDelaySec=0\nAccuracySec=1ms\n";
    fs::write(timer.join("soon.conf"), soon).unwrap();
    container.ok("systemctl daemon-reload
        systemctl restart netboot-import@broken.timer netboot-import@debian.timer netboot-import@ubuntu.timer");
    let kernel = container.path("/srv/tftp/netboot/arm64/generic/bookworm/install/linux");
    until("the next version", || {
        fs::read_to_string(&kernel).is_ok_and(|text| text == "kernel 20240701")
    });
    until("the end of the others", || {
        let failed = container.run("systemctl is-failed netboot-import@broken");
        let state = "systemctl show --value --property=ActiveState";
        let idle = container.ok(&format!(
            "{state} netboot-import@ubuntu netboot-import@debian"
        ));
        failed.status.success() && idle == "inactive\n\ninactive\n"
    });
    let said = journal(&container, "netboot-import@ubuntu");
    assert!(
        said.contains("ubuntu amd64/generic/noble/install: unchanged"),
        "{said}"
    );
}

/// What a unit has said.
fn journal(container: &Container, unit: &str) -> String {
    container.ok(&format!(
        "journalctl --sync; journalctl --unit {unit} --output cat"
    ))
}

fn package_leaves_all_else() {
    let container = Container::with_import();
    let enabled = "netboot-import@x.timer netboot-push@x.path netboot-push@x.timer";
    container.ok(&format!(
        "touch /etc/netboot-publisher/sources.d/x.toml
        systemctl enable --now {enabled}
        systemctl enable netboot-site@x.service"
    ));
    // A site that runs, whatever program it is.
    let folder = container.path("/etc/systemd/system/netboot-site@.service.d");
    fs::create_dir_all(&folder).unwrap();
    let other = "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sleep infinity\n";
    fs::write(folder.join("other.conf"), other).unwrap();
    container.ok("systemctl daemon-reload; systemctl start netboot-site@x");
    let process = || container.ok("systemctl show --value --property=MainPID netboot-site@x");
    let (daemon, site) = (container.property("MainPID"), process());

    container.install(container::newer_import_package());
    assert_ne!(process(), site, "the old program still runs");
    assert_eq!(container.property("MainPID"), daemon);
    container.ok(&format!("systemctl is-active netboot-site@x {enabled}"));

    container
        .ok("touch /var/lib/netboot-import/fetched; dpkg --remove netboot-publisher-import 2>&1");
    for unit in [UNITS, OTHERS].join(" ").split(' ') {
        let state = container.run(&format!("systemctl is-active {unit}"));
        assert!(!state.status.success(), "{unit}: {}", text(&state));
    }
    let there = |path: &str| fs::symlink_metadata(container.path(path)).is_ok();
    let wanted = "/etc/systemd/system/timers.target.wants/netboot-import@x.timer";
    for path in ["/var/lib/netboot-import/fetched", wanted] {
        assert!(there(path), "{path}");
    }
    container.ok("dpkg --purge netboot-publisher-import 2>&1");
    let links = container.ok("find /etc/systemd/system -name 'netboot-*@*' -type l");
    assert_eq!(links, "");
    for path in [
        "/var/lib/netboot-import",
        "/etc/netboot-publisher/channels.d",
        "/usr/lib/systemd/system/netboot-import@.service",
    ] {
        assert!(!there(path), "{path} is left");
    }
    assert!(there("/etc/netboot-publisher/sources.d/x.toml"));
    assert_eq!(container.property("MainPID"), daemon);
}

fn package_is_clean() {
    let package = container::import_package();
    // The one tag that is suppressed is about Debian's own list of bugs.
    let output = Command::new("lintian")
        .args([
            "--allow-root",
            "--fail-on",
            "error,warning",
            "--suppress-tags",
        ])
        .arg("initial-upload-closes-no-bugs")
        .arg(package)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let list = Command::new("dpkg-deb")
        .arg("--contents")
        .arg(package)
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for name in [
        "./usr/bin/netboot-import",
        "./usr/lib/systemd/system/netboot-import@.service",
        "./usr/lib/systemd/system/netboot-import@.timer",
        "./usr/lib/systemd/system/netboot-push@.path",
        "./usr/lib/systemd/system/netboot-push@.service",
        "./usr/lib/systemd/system/netboot-push@.timer",
        "./usr/lib/systemd/system/netboot-site@.service",
        "./usr/lib/sysusers.d/netboot-publisher-import.conf",
        "./usr/lib/tmpfiles.d/netboot-publisher-import.conf",
        "./usr/share/man/man1/netboot-import.1.gz",
        "./usr/share/man/man5/netboot-import.toml.5.gz",
        "./usr/share/bash-completion/completions/netboot-import",
        "./usr/share/zsh/vendor-completions/_netboot-import",
        "./usr/share/fish/vendor_completions.d/netboot-import.fish",
        "./usr/share/doc/netboot-publisher-import/examples/channels/stable.toml",
    ] {
        assert!(list.contains(&format!("{name}\n")), "no {name:?} in {list}");
    }
    assert!(!list.contains("./usr/bin/netboot-publisher\n"), "{list}");
    let depends = Command::new("dpkg-deb")
        .args(["--field", "PACKAGE", "Depends", "Recommends"].map(|it| {
            if it == "PACKAGE" {
                package.as_os_str()
            } else {
                it.as_ref()
            }
        }))
        .output()
        .unwrap();
    let depends = text(&depends);
    for name in [
        "ca-certificates",
        "gpgv",
        "netboot-publisher (>= ",
        "openssh-client",
    ] {
        assert!(depends.contains(name), "no {name} in {depends}");
    }
}

/// What only the second program is for is behind the feature, and the daemon's package doesn't have it.
fn daemon_has_no_network() {
    let tree = |features: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--offline",
                "--prefix=none",
                "--edges=normal",
            ])
            .args(["--format={lib}"])
            .args(features)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let has = |tree: &str, name: &str| tree.lines().any(|line| line == name);
    let (daemon, import) = (tree(&[]), tree(&["--features=import"]));
    for name in ["flate2", "hyper", "oci_client", "reqwest", "rustls", "tar"] {
        assert!(
            has(&import, name),
            "{name} is not looked for rightly: {import}"
        );
        assert!(!has(&daemon, name), "the daemon has {name}: {daemon}");
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest: toml::Table = manifest.unwrap().parse().unwrap();
    assert_eq!(manifest["features"].get("default"), None);
    let deb = &manifest["package"]["metadata"]["deb"];
    assert_eq!(deb.get("features"), None);
    let import = &deb["variants"]["import"]["features"];
    assert_eq!(import.to_string(), "[\"import\"]");
}
