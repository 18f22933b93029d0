//! Keys and signatures of ssh-keygen's, and an agent that holds keys.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::world::{Ended, output, until};

/// How a manifest is signed.
pub const FOR_US: &[&str] = &["-n", "netboot-publisher"];

/// Keys, each with its public half beside it.
pub struct Keys(tempfile::TempDir);

impl Keys {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The private half of the key of this kind.
    pub fn path(&self, kind: &str) -> PathBuf {
        self.make(kind, kind, "")
    }

    /// As [`Keys::path`], of one that only this passphrase opens.
    pub fn locked(&self, kind: &str, passphrase: &str) -> PathBuf {
        self.make(&format!("{kind}-locked"), kind, passphrase)
    }

    fn make(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.0.path().join(name);
        if !path.exists() {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", passphrase, "-C", "a comment", "-t", kind, "-f"]);
            assert!(keygen.arg(&path).status().unwrap().success());
        }
        path
    }

    /// The public half, as a rule has it.
    pub fn public(&self, kind: &str) -> String {
        public(&self.path(kind))
    }

    pub fn fingerprint(&self, kind: &str) -> String {
        let shown = output(Command::new("ssh-keygen").arg("-lf").arg(self.path(kind)));
        let shown = String::from_utf8(shown.stdout).unwrap();
        shown.split(' ').nth(1).unwrap().to_string()
    }

    /// A file with nothing but the public half.
    pub fn half(&self, key: &Path) -> PathBuf {
        let half = self.0.path().join("half.pub");
        fs::write(&half, public(key)).unwrap();
        half
    }

    /// Gives all of them to a user.
    pub fn give_to(&self, uid: u32) {
        crate::lab::world::own(self.0.path(), uid);
    }
}

/// The public half of a key.
pub fn public(key: &Path) -> String {
    let text = fs::read_to_string(key.with_extension("pub")).unwrap();
    text.trim().to_string()
}

/// Signs a drop's manifest as people do.
pub fn sign(drop: &Path, key: &Path, options: &[&str]) {
    sign_file(&drop.join("manifest.toml"), key, options);
}

/// The same with any file.
pub fn sign_file(manifest: &Path, key: &Path, options: &[&str]) {
    let _ = fs::remove_file(manifest.with_extension("toml.sig"));
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-Y", "sign"]).args(options).arg("-f");
    let keygen = keygen.arg(key).arg(manifest).stderr(Stdio::null());
    assert!(keygen.status().unwrap().success());
}

/// A user's ssh-agent; ends with the test.
pub struct Agent {
    folder: tempfile::TempDir,
    _child: Ended,
}

impl Agent {
    pub fn new(uid: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(uid), None).unwrap();
        let mut agent = Command::new("ssh-agent");
        agent
            .arg("-Da")
            .arg(folder.path().join("socket"))
            .uid(uid)
            .stdout(Stdio::null());
        let child = Ended(agent.spawn().unwrap());
        let agent = Self {
            folder,
            _child: child,
        };
        until("the agent to listen", || agent.socket().exists());
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Has a program use the agent.
    pub fn give_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("SSH_AUTH_SOCK", self.socket())
    }

    pub fn add(&self, key: &Path) {
        let mut add = Command::new("ssh-add");
        let add = self.give_to(&mut add).arg("-q").arg(key);
        assert!(add.status().unwrap().success());
    }
}
