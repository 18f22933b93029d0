//! Places where a test can end, stop or fail the daemon: a name before every durable step.
//!
//! Without the feature `failpoints` a place is nothing. With it,
//! `NETBOOT_PUBLISHER_FAILPOINT=name:n:action` acts when the place `name` is reached for the n-th
//! time: `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself, until somebody sends SIGCONT) or
//! `fail` (the step fails with `EIO`). `publisher:n:hang` makes the publisher's task hang when it has
//! something to do for the n-th time.

/// A place before the durable step `name`.
///
/// # Errors
/// `EIO` when the test wants this step to fail.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn at(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

/// A place before the durable step `name`.
///
/// # Errors
/// `EIO` when the test wants this step to fail.
#[cfg(feature = "failpoints")]
pub(crate) fn at(name: &'static str) -> std::io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};

    match action(name).as_deref() {
        None => {}
        Some("kill") => kill_process(getpid(), Signal::KILL)?,
        Some("stop") => kill_process(getpid(), Signal::STOP)?,
        Some("fail") => return Err(rustix::io::Errno::IO.into()),
        Some(other) => panic!("failpoint {other:?}: kill, stop or fail"),
    }
    Ok(())
}

/// Where the publisher's task can be made to hang.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn publisher() {}

/// Where the publisher's task can be made to hang.
#[cfg(feature = "failpoints")]
pub(crate) fn publisher() {
    if action("publisher").as_deref() == Some("hang") {
        loop {
            std::thread::park();
        }
    }
}

/// What the test wants at the place `name` now.
#[cfg(feature = "failpoints")]
fn action(name: &str) -> Option<String> {
    use std::sync::atomic::{AtomicU64, Ordering};

    static REACHED: AtomicU64 = AtomicU64::new(0);
    let wanted = std::env::var("NETBOOT_PUBLISHER_FAILPOINT").ok()?;
    let parts: Vec<_> = wanted.split(':').collect();
    let [place, nth, action] = parts[..] else {
        panic!("failpoint {wanted:?}: name:n:action")
    };
    let nth: u64 = nth.parse().expect("a failpoint's n is a number");
    let is_here = place == name && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == nth;
    is_here.then(|| action.to_string())
}
