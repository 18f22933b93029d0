//! Places where a test can end, stop or fail the daemon: a name before every durable step.
//!
//! Without the feature `failpoints` a place is nothing. With it,
//! `NETBOOT_PUBLISHER_FAILPOINT=name:n:action` acts when the place `name` is reached for the n-th
//! time: `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself, until somebody sends SIGCONT), `fail`
//! (the step fails with `EIO`) or `hang` (the thread sleeps for ever). With the feature, a bound that is
//! too long to be waited for in a test is a shorter one: `NETBOOT_PUBLISHER_SHORT=name:milliseconds`.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::failure::{Failure, Result};

/// The place before the durable step `name`, which is about to be `doing` something to `path`.
///
/// # Errors
/// `EIO` when the test wants this step to fail.
pub(crate) fn failpoint(name: &str, doing: &'static str, path: impl AsRef<Path>) -> Result<()> {
    wanted_at(name).map_err(|errno| Failure::new(doing, path.as_ref(), errno))
}

/// The bound `name`: as long as it is, or as a test wants it.
pub(crate) fn bound(name: &str, bound: Duration) -> Duration {
    if !cfg!(feature = "failpoints") {
        return bound;
    }
    let wanted = std::env::var("NETBOOT_PUBLISHER_SHORT").unwrap_or_default();
    match wanted.split_once(':') {
        Some((of, millis)) if of == name => {
            Duration::from_millis(millis.parse().expect("milliseconds are a number"))
        }
        _ => bound,
    }
}

fn wanted_at(name: &str) -> rustix::io::Result<()> {
    match action(name).as_deref() {
        None => Ok(()),
        Some("kill") => kill_process(getpid(), Signal::KILL),
        Some("stop") => {
            kill_process(getpid(), Signal::STOP)?;
            // Whichever thread takes the signal stops all; until then this one would go on.
            while is_stop_pending() {
                std::thread::yield_now();
            }
            Ok(())
        }
        Some("fail") => Err(Errno::IO),
        Some("hang") => loop {
            std::thread::park();
        },
        Some(other) => panic!("failpoint {other:?}: kill, stop, fail or hang"),
    }
}

/// Whether a SIGSTOP waits for a thread of this process to take it: bit 18 of `ShdPnd` (proc(5)).
fn is_stop_pending() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let pending = lines.find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    pending.is_some_and(|pending| pending & (1 << 18) != 0)
}

/// What the test wants at the place `name` now.
fn action(name: &str) -> Option<String> {
    static REACHED: AtomicU64 = AtomicU64::new(0);
    if !cfg!(feature = "failpoints") {
        return None;
    }
    let wanted = std::env::var("NETBOOT_PUBLISHER_FAILPOINT").ok()?;
    let parts: Vec<_> = wanted.split(':').collect();
    let [place, nth, action] = parts[..] else {
        panic!("failpoint {wanted:?}: name:n:action")
    };
    let nth: u64 = nth.parse().expect("a failpoint's n is a number");
    let is_here = place == name && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == nth;
    is_here.then(|| action.to_string())
}
