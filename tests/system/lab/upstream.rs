//! Upstreams: for each kind of source a mirror laid out in a folder, signed by a key of the test's own, as
//! the real ones are.
//!
//! The unit tests of the room `sources` use this file as well: it knows nothing of the other equipment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A day in the middle of a year that no test lives in.
const LONG_AGO: &str = "20200601T000000";

/// Keys of gpg's, in a home directory of their own; its agent ends with the test.
pub struct Signers(tempfile::TempDir);

impl Signers {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.0.path());
        gpg.args(["--quiet", "--batch", "--yes", "--pinentry-mode", "loopback"]);
        gpg.args(["--passphrase", ""]);
        gpg.stdout(Stdio::null()).stderr(Stdio::null());
        gpg
    }

    /// Makes a key with this name.
    pub fn make(&self, name: &str) {
        let mut gpg = self.gpg();
        run(gpg.args(["--quick-gen-key", &user(name), "ed25519", "sign", "never"]));
    }

    /// As [`Signers::make`], of a key that was made long ago, and was good until then, or is.
    pub fn make_long_ago(&self, name: &str, until: &str) {
        let mut gpg = self.gpg();
        gpg.args(["--faked-system-time", &format!("{LONG_AGO}!")]);
        run(gpg.args(["--quick-gen-key", &user(name), "ed25519", "sign", until]));
    }

    /// Revokes a key.
    pub fn revoke(&self, name: &str) {
        let listed = self
            .gpg()
            .args(["--with-colons", "--list-keys", &user(name)])
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let print = listed.lines().find_map(|line| line.strip_prefix("fpr:"));
        let print = print.unwrap().trim_matches(':');
        let made = self.0.path().join(format!("openpgp-revocs.d/{print}.rev"));
        // A mark in front keeps it from being imported by accident.
        let made = fs::read_to_string(made)
            .unwrap()
            .replace("\n:-----", "\n-----");
        let path = self.0.path().join("revoked");
        fs::write(&path, made).unwrap();
        run(self.gpg().arg("--import").arg(path));
    }

    /// The binary keyring of these keys, as a source names it.
    pub fn keyring(&self, names: &[&str]) -> PathBuf {
        self.export(names, &format!("{}.gpg", names.join("-")), &[])
    }

    /// The same, armored.
    pub fn armored_keyring(&self, names: &[&str]) -> PathBuf {
        self.export(names, &format!("{}.asc", names.join("-")), &["--armor"])
    }

    fn export(&self, names: &[&str], file: &str, options: &[&str]) -> PathBuf {
        let path = self.0.path().join(file);
        let mut gpg = self.gpg();
        gpg.args(options).arg("--output").arg(&path).arg("--export");
        run(gpg.args(names.iter().map(|name| user(name))));
        path
    }

    /// Signs a file as a text that holds its own signature, by all these keys.
    pub fn clearsign(&self, names: &[&str], file: &Path, signed: &Path) {
        self.sign(names, &["--clearsign"], file, signed);
    }

    /// Signs a file; the signature stands in a file of its own.
    pub fn detach(&self, names: &[&str], file: &Path, signature: &Path) {
        self.sign(names, &["--armor", "--detach-sign"], file, signature);
    }

    /// As gpg does with these options.
    pub fn sign(&self, names: &[&str], options: &[&str], file: &Path, signed: &Path) {
        let mut gpg = self.gpg();
        for name in names {
            gpg.args(["--local-user", &user(name)]);
        }
        run(gpg.arg("--output").arg(signed).args(options).arg(file));
    }

    /// As [`Signers::detach`], long ago, with more options.
    pub fn detach_long_ago(&self, name: &str, options: &[&str], file: &Path, signature: &Path) {
        let time = format!("{LONG_AGO}!");
        let options = [&["--faked-system-time", &time], options, &["--detach-sign"]].concat();
        self.sign(&[name], &options, file, signature);
    }
}

impl Drop for Signers {
    fn drop(&mut self) {
        let mut end = Command::new("gpgconf");
        end.arg("--homedir")
            .arg(self.0.path())
            .args(["--kill", "gpg-agent"]);
        let _ = end.status();
    }
}

fn user(name: &str) -> String {
    format!("{name} <{name}@upstream.example>")
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Makes a file, with the folders above it.
pub fn put(path: &Path, contents: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

/// The SHA-256 of a file, as sha256sum knows it.
pub fn sha256(path: &Path) -> String {
    let summed = Command::new("sha256sum")
        .stdin(File::open(path).unwrap())
        .output()
        .unwrap();
    String::from_utf8(summed.stdout).unwrap()[..64].to_string()
}

/// The paths of all files of a folder, from there on, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            found.extend(files(&path).iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// `sha256sum` of all files of a folder, with `before` in front of each name.
pub fn sums(folder: &Path, before: &str) -> String {
    let mut text = String::new();
    for path in files(folder).iter().filter(|path| !path.contains("SUMS")) {
        let digest = sha256(&folder.join(path));
        let _ = writeln!(text, "{digest}{before}{path}");
    }
    text
}

/// A `.tar.gz` of the files of a folder, with `./` in front of each name.
pub fn archive(folder: &Path, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--sort=name",
        "--owner=0",
        "--group=0",
    ]);
    run(tar
        .arg("--directory")
        .arg(folder)
        .arg("--file")
        .arg(path)
        .arg("."));
}

/// One suite of a mirror of Debian's, with an installer.
pub struct Debian<'a> {
    pub signers: &'a Signers,
    /// Who signs.
    pub names: &'a [&'a str],
    pub suite: &'a str,
    pub codename: &'a str,
    /// The version of the installer.
    pub version: &'a str,
}

impl Debian<'_> {
    /// Lays out the installer of an architecture, which stands in `netboot` as in Debian's package
    /// `debian-installer-12-netboot-ARCH`, beside those that are there.
    pub fn add(&self, mirror: &Path, arch: &str, netboot: &Path) {
        let folder = mirror.join(format!("dists/{}/main/installer-{arch}", self.suite));
        let images = folder.join(self.version).join("images");
        fs::create_dir_all(images.join("netboot")).unwrap();
        run(Command::new("cp")
            .arg("--recursive")
            .arg(netboot.join("debian-installer"))
            .arg(images.join("netboot")));
        archive(netboot, &images.join("netboot/netboot.tar.gz"));
        fs::write(images.join("SHA256SUMS"), sums(&images, "  ./")).unwrap();
        let current = folder.join("current");
        let _ = fs::remove_file(&current);
        std::os::unix::fs::symlink(self.version, current).unwrap();
    }

    /// Writes and signs the lists of the suite; `more` are other fields of theirs.
    pub fn release(&self, mirror: &Path, more: &[(&str, &str)]) {
        let folder = mirror.join("dists").join(self.suite);
        for file in ["Release", "InRelease", "Release.gpg"] {
            let _ = fs::remove_file(folder.join(file));
        }
        let mut archive = Command::new("apt-ftparchive");
        let own = [
            ("Suite", "stable"),
            ("Codename", self.codename),
            ("Origin", "Debian"),
        ];
        for (field, value) in own {
            archive.args(["-o", &format!("APT::FTPArchive::Release::{field}={value}")]);
        }
        // It doesn't know these files by itself.
        let patterns = ["SHA256SUMS"];
        for pattern in patterns {
            archive.args([
                "-o",
                &format!("APT::FTPArchive::Release::Patterns::={pattern}"),
            ]);
        }
        let written = archive.arg("release").arg(&folder).output().unwrap();
        assert!(written.status.success(), "{written:?}");
        let mut text = String::from_utf8(written.stdout).unwrap();
        for (field, value) in more {
            text.insert_str(0, &format!("{field}: {value}\n"));
        }
        // It follows no link, and on a mirror `current` is one.
        let dated = format!("/{}/images/", self.version);
        let lines = text.lines().filter(|line| line.contains(&dated));
        let lines: Vec<_> = lines
            .map(|line| line.replace(&dated, "/current/images/"))
            .collect();
        if !text.contains("/current/") {
            // Only the digests of one kind stand at the end.
            let of_sha256 = lines
                .iter()
                .filter(|line| line.trim().find(' ') == Some(64));
            let of_sha256: Vec<_> = of_sha256.map(String::as_str).collect();
            let of_sha256 = of_sha256.join(
                "
",
            );
            text = text.replacen("\nSHA256:\n", &format!("\nSHA256:\n{of_sha256}\n"), 1);
        }
        fs::write(folder.join("Release"), text).unwrap();
        self.sign(mirror);
    }

    /// Signs the list of the suite as it is.
    pub fn sign(&self, mirror: &Path) {
        let folder = mirror.join("dists").join(self.suite);
        let release = folder.join("Release");
        self.signers
            .clearsign(self.names, &release, &folder.join("InRelease"));
        self.signers
            .detach(self.names, &release, &folder.join("Release.gpg"));
    }
}

/// A small installer, with the names that the real one has.
pub fn small_netboot(folder: &Path, arch: &str, version: &str) {
    let installer = folder.join("debian-installer").join(arch);
    put(&installer.join("linux"), format!("kernel {version}"));
    put(&installer.join("initrd.gz"), format!("initrd {version}"));
    put(&installer.join("pxelinux.0"), "loader");
    put(&folder.join("version.info"), version);
    for name in ["pxelinux.0", "initrd.gz"] {
        let to = format!("debian-installer/{arch}/{name}");
        std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    }
}

/// One product of simplestreams, as MAAS's streams of the third version have it.
pub struct Product<'a> {
    pub release: &'a str,
    pub number: &'a str,
    pub arch: &'a str,
    pub subarch: &'a str,
    pub kflavor: &'a str,
    /// The files of each version by their kinds.
    pub versions: &'a [(&'a str, &'a [&'a str])],
}

impl Product<'_> {
    pub fn name(&self) -> String {
        let Self {
            number,
            arch,
            subarch,
            ..
        } = self;
        format!("com.ubuntu.maas.stable:v3:boot:{number}:{arch}:{subarch}")
    }

    fn path(&self, version: &str, kind: &str) -> String {
        let Self {
            release,
            arch,
            subarch,
            kflavor,
            ..
        } = self;
        match kind {
            "squashfs" => format!("{release}/{arch}/{version}/squashfs"),
            kind => format!("{release}/{arch}/{version}/{subarch}/{kflavor}/{kind}"),
        }
    }
}

/// What the list of products of MAAS's streams is called.
pub const STREAM: &str = "com.ubuntu.maas:stable:v3:download";

/// Lays out a mirror of MAAS's images, and signs its lists.
pub fn simplestreams(mirror: &Path, signers: &Signers, names: &[&str], products: &[Product<'_>]) {
    let mut listed = BTreeMap::new();
    for product in products {
        let mut versions = BTreeMap::new();
        for (version, kinds) in product.versions {
            let item = |kind: &&str| {
                let path = product.path(version, kind);
                put(&mirror.join(&path), format!("{path} of {version}"));
                let size = fs::metadata(mirror.join(&path)).unwrap().len();
                let sha256 = sha256(&mirror.join(&path));
                let item = serde_json::json!({
                    "ftype": kind, "path": path, "sha256": sha256, "size": size,
                });
                (kind.to_string(), item)
            };
            let items: BTreeMap<_, _> = kinds.iter().map(item).collect();
            versions.insert(version.to_string(), serde_json::json!({ "items": items }));
        }
        let text = serde_json::json!({
            "arch": product.arch, "kflavor": product.kflavor, "label": "stable", "os": "ubuntu",
            "release": product.release, "subarch": product.subarch, "version": product.number,
            "versions": versions,
        });
        listed.insert(product.name(), text);
    }
    let streams = mirror.join("streams/v1");
    let names_of: Vec<_> = listed.keys().cloned().collect();
    let index = |ending: &str| {
        serde_json::json!({
            "format": "index:1.0",
            "index": { STREAM: {
                "datatype": "image-downloads", "format": "products:1.0",
                "path": format!("streams/v1/{STREAM}.{ending}"), "products": names_of,
            } },
        })
    };
    let products = serde_json::json!({
        "content_id": STREAM, "datatype": "image-downloads", "format": "products:1.0",
        "products": listed,
    });
    for (name, of_json, of_sjson) in [
        ("index", index("json"), index("sjson")),
        (STREAM, products.clone(), products),
    ] {
        let plain = streams.join(format!("{name}.json"));
        let signed = streams.join(format!("{name}.sjson"));
        put(&plain, serde_json::to_vec_pretty(&of_sjson).unwrap());
        signers.clearsign(names, &plain, &signed);
        put(&plain, serde_json::to_vec_pretty(&of_json).unwrap());
        signers.detach(names, &plain, &streams.join(format!("{name}.json.gpg")));
    }
}

/// Lays out a folder of Ubuntu's releases: an archive for each of these versions, their checksums and the
/// signature of those.
pub fn ubuntu(mirror: &Path, signers: &Signers, names: &[&str], versions: &[&str]) {
    for version in versions {
        let folder = tempfile::tempdir().unwrap();
        for name in ["linux", "initrd", "pxelinux.0", "grub/grub.cfg"] {
            put(
                &folder.path().join("amd64").join(name),
                format!("{name} of {version}"),
            );
        }
        archive(
            folder.path(),
            &mirror.join(format!("ubuntu-{version}-netboot-amd64.tar.gz")),
        );
        put(
            &mirror.join(format!("ubuntu-{version}-live-server-amd64.iso")),
            version,
        );
    }
    let list = mirror.join("SHA256SUMS");
    let _ = fs::remove_file(mirror.join("SHA256SUMS.gpg"));
    fs::write(&list, sums(mirror, " *")).unwrap();
    signers.detach(names, &list, &mirror.join("SHA256SUMS.gpg"));
}

/// Lays out a folder of Alpine's releases: for each version an archive with a checksum and a signature
/// beside it, and the list of the newest.
pub fn alpine(mirror: &Path, signers: &Signers, names: &[&str], versions: &[&str]) {
    for version in versions {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vmlinuz-lts", "initramfs-lts", "modloop-lts"] {
            put(
                &folder.path().join("boot").join(name),
                format!("{name} of {version}"),
            );
        }
        let name = format!("alpine-netboot-{version}-x86_64.tar.gz");
        let path = mirror.join(&name);
        archive(folder.path(), &path);
        let digest = sha256(&path);
        put(
            &mirror.join(format!("{name}.sha256")),
            format!("{digest}  {name}\n"),
        );
        signers.detach(names, &path, &mirror.join(format!("{name}.asc")));
        let list = format!(
            "---\n-\n  title: \"Netboot\"\n  desc: |\n    Kernel, initramfs and modloop for\n    netboot.\n  \
             branch: v3.20\n  arch: x86_64\n  version: {version}\n  flavor: alpine-netboot\n  file: {name}\n  \
             sha256: {digest}\n"
        );
        put(&mirror.join("latest-releases.yaml"), list);
    }
}

/// Lays out the tree of an openSUSE release, as far as machines boot it.
pub fn opensuse(mirror: &Path, signers: &Signers, names: &[&str]) {
    for name in ["linux", "initrd"] {
        put(&mirror.join("boot/x86_64/loader").join(name), name);
    }
    let list = mirror.join("CHECKSUMS");
    let text: String = ["linux", "initrd"]
        .map(|name| format!("boot/x86_64/loader/{name}"))
        .map(|path| format!("{}  {path}\n", sha256(&mirror.join(&path))))
        .concat();
    fs::write(&list, text).unwrap();
    signers.detach(names, &list, &mirror.join("CHECKSUMS.asc"));
}

/// Lays out the tree of a Fedora release, as far as machines boot it.
pub fn fedora(mirror: &Path, version: &str) {
    let paths = [
        "pxeboot/vmlinuz",
        "pxeboot/initrd.img",
        "install.img",
        "boot.iso",
    ];
    let paths = paths.map(|path| format!("images/{path}"));
    let mut sums = String::new();
    for path in &paths {
        put(&mirror.join(path), format!("{path} of {version}"));
        let _ = writeln!(sums, "{path} = sha256:{}", sha256(&mirror.join(path)));
    }
    let text = format!(
        "[checksums]\n{sums}\n[general]\n; WARNING.0 = This section is for compatibility.\narch = x86_64\n\
         family = Fedora\nname = Fedora {version}\nplatforms = x86_64,xen\nvariant = Server\n\
         version = {version}\n\n[header]\ntype = productmd.treeinfo\nversion = 1.2\n\n\
         [images-x86_64]\nboot.iso = images/boot.iso\ninitrd = images/pxeboot/initrd.img\n\
         kernel = images/pxeboot/vmlinuz\n\n[images-xen]\ninitrd = images/pxeboot/initrd.img\n\
         kernel = images/pxeboot/vmlinuz\n\n[stage2]\nmainimage = images/install.img\n"
    );
    put(&mirror.join(".treeinfo"), text);
}
