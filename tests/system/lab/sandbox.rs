//! Servers beside the machine's own: with mounts, processes and a network that nobody outside sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::world::PATIENCE;

/// Namespaces with a script's processes in them, which end when this is dropped.
pub struct Sandbox {
    child: Child,
    /// The first process in it, as it is called outside.
    leader: Pid,
    log: PathBuf,
}

impl Sandbox {
    /// Runs a script, whose `$0` is `folder`, and waits until these ports are open: each with its protocol,
    /// and as `/proc/net/tcp` and its like show it. The script goes on as long as the sandbox is wanted.
    pub fn begin(script: &str, folder: &Path, ports: &[(&str, &str)]) -> Self {
        let log = folder.join("sandbox.log");
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-ec", script])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("beginning a sandbox");
        let mut sandbox = Self {
            leader: Pid::from_child(&child),
            child,
            log,
        };
        sandbox.wait_for(ports);
        sandbox
    }

    fn wait_for(&mut self, ports: &[(&str, &str)]) {
        let unshare = self.child.id();
        let begun = Instant::now();
        let mut is_serving = false;
        while !is_serving {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
            let first = children.unwrap_or_default().trim().parse().ok();
            if let Some(leader) = first.and_then(Pid::from_raw) {
                self.leader = leader;
                let net = format!("/proc/{}/net", leader.as_raw_nonzero());
                let shown = |protocol| fs::read_to_string(format!("{net}/{protocol}"));
                let is_open = |(protocol, port): &(_, &str)| {
                    shown(*protocol).is_ok_and(|it| it.contains(port))
                };
                is_serving = ports.iter().all(is_open);
            }
            let ended = self.child.try_wait().unwrap();
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none(), "ended, {ended:?}: {}", log());
            assert!(begun.elapsed() < PATIENCE, "a port stays shut: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The first process in it, as it is called outside.
    pub fn leader(&self) -> i32 {
        self.leader.as_raw_nonzero().get()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        // With the first process all others go.
        let _ = kill_process(self.leader, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
