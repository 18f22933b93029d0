//! A daemon without any privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::lab::world::{Daemon, Needs, PROGRAM, World, own};

pub const NOBODY: u32 = 65_534;

pub const NEEDS: [Needs; 2] = [Needs::Root, Needs::Program("setpriv")];

/// A world whose daemon runs as nobody.
pub struct Unprivileged {
    pub world: World,
    program: std::path::PathBuf,
}

impl Unprivileged {
    pub fn new(settings: &str) -> Self {
        let world = World::with(settings);
        // Where the tests were built, others may have no way in.
        let program = world.root.join("netboot-publisher");
        if fs::hard_link(PROGRAM, &program).is_err() {
            fs::copy(PROGRAM, &program).unwrap();
        }
        fs::create_dir(&world.tree).unwrap();
        fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in [&world.spool, &world.tree] {
            own(folder, NOBODY);
        }
        Self { world, program }
    }

    pub fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// As [`Unprivileged::daemon`], with these variables in its environment.
    pub fn daemon_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(NOBODY, &["run"]);
        command.envs(variables.iter().copied());
        Daemon::start(command)
    }

    /// The program as this user, with the world's configuration.
    pub fn command(&self, user: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={user}"), format!("--regid={user}")])
            .arg("--clear-groups")
            .arg(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(&self.world.config);
        command
    }

    /// Drops an image that belongs to nobody.
    pub fn drop_image(&self, name: &str, target: &str, content: &[u8]) {
        let hidden = format!(".{name}");
        self.world
            .drop_image(&hidden, target, &[("linux", content)]);
        own(&self.world.incoming(&hidden), NOBODY);
        fs::rename(self.world.incoming(&hidden), self.world.incoming(name)).unwrap();
    }
}
