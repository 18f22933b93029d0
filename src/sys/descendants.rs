//! The processes that descend from this one, also those that want to be nobody's: found, signalled,
//! waited for. Takes no privilege.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::dir::Dir;
use super::failure::{Failure, Result};

/// Processes that start others as fast as they are found are looked for so often before those that
/// were found are ended.
const MAX_PASSES: usize = 1_000;

/// The list of one thread's children is no longer than this, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// The descendants of this process.
#[derive(Debug)]
pub(crate) struct Descendants {
    proc: Dir,
}

impl Descendants {
    /// Gives up every capability of this thread, and of what it starts, for good: all sets are emptied,
    /// and no program gives any back, not even to root (`PR_SET_NO_NEW_PRIVS`, prctl(2)).
    ///
    /// # Errors
    /// When the kernel refuses: then what this thread starts may have capabilities.
    pub(crate) fn give_up_capabilities() -> rustix::io::Result<()> {
        set_no_new_privs(true)?;
        clear_ambient_capability_set()?;
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match remove_capability_from_bounding_set(one) {
                // Only who has CAP_SETPCAP may; without it no new privileges come by that way either.
                Ok(()) | Err(Errno::PERM) => {}
                // The last one that this kernel knows was the one before.
                Err(_) => break,
            }
        }
        let nothing = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets {
                effective: nothing,
                permitted: nothing,
                inheritable: nothing,
            },
        )
    }

    /// From now on a process that loses its parent among the descendants becomes this one's child
    /// (`PR_SET_CHILD_SUBREAPER`, prctl(2)): none gets away, neither by setsid(2) nor by leaving its
    /// parent behind.
    pub(crate) fn gather() -> Result<Self> {
        let proc = Dir::open(Path::new("/proc"))?;
        let gathered = set_child_subreaper(Some(getpid()));
        gathered.map_err(|errno| Failure::new("becoming the reaper of", "/proc/self", errno))?;
        Ok(Self { proc })
    }

    /// Waits for the end of any child; returns its number and its status as wait(2) tells it. `None`
    /// when there is no child, and so no descendant, any more.
    pub(crate) fn wait() -> Option<(u32, i32)> {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    return Some((pid.as_raw_nonzero().get().unsigned_abs(), status.as_raw()));
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends a signal to each. Returns how many there are.
    pub(crate) fn signal(&self, signal: Signal) -> usize {
        let all = self.all();
        for (_, process) in &all {
            // One that has ended meanwhile needs no signal.
            let _ = pidfd_send_signal(process, signal);
        }
        all.len()
    }

    /// Ends each, whatever it does about it. Those that have started others meanwhile, or that
    /// nobody could see, are left: to be called again until [`Descendants::wait`] finds nobody.
    pub(crate) fn end(&self) {
        // Whoever is stopped starts nobody any more.
        let mut stopped = HashSet::new();
        for _ in 0..MAX_PASSES {
            let all = self.all();
            let mut is_any_new = false;
            for (pid, process) in &all {
                if stopped.insert(*pid) {
                    is_any_new = true;
                    let _ = pidfd_send_signal(process, Signal::STOP);
                }
            }
            if !is_any_new {
                break;
            }
        }
        self.signal(Signal::KILL);
    }

    /// All descendants that can be seen. A number alone may be another process's by now: a
    /// descriptor is that of the descendant where the number was one before and after it was opened.
    fn all(&self) -> Vec<(Pid, OwnedFd)> {
        let open = |pid: Pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
        let mut opened: Vec<_> = self.numbers().into_iter().filter_map(open).collect();
        let still = self.numbers();
        opened.retain(|(pid, _)| still.contains(pid));
        opened
    }

    fn numbers(&self) -> HashSet<Pid> {
        let (mut found, mut parents) = (HashSet::new(), vec![getpid()]);
        while let Some(parent) = parents.pop() {
            let children = self.children(parent).into_iter();
            parents.extend(children.filter(|child| found.insert(*child)));
        }
        found
    }

    /// The children of all threads of a process (`/proc/PID/task/TID/children`, proc(5)).
    fn children(&self, parent: Pid) -> Vec<Pid> {
        let tasks = format!("{}/task", parent.as_raw_nonzero());
        let Ok(Some(threads)) = self.proc.dir(&tasks) else {
            return Vec::new();
        };
        let names = threads.names().unwrap_or_default().into_iter();
        let threads = names.filter(|(name, _)| name.as_bytes().iter().all(u8::is_ascii_digit));
        let read = |(name, _)| {
            let list = self
                .proc
                .read(Path::new(&tasks).join(name).join("children"), MAX_LIST);
            String::from_utf8(list.ok()??).ok()
        };
        let lists: Vec<String> = threads.filter_map(read).collect();
        let words = lists.iter().flat_map(|list| list.split_whitespace());
        words
            .filter_map(|word| Pid::from_raw(word.parse().ok()?))
            .collect()
    }
}
