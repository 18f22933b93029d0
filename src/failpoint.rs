//! Places where a test can end, stop or fail the daemon: a name before every durable step.
//!
//! Without the feature `failpoints` a place is nothing. With it,
//! `NETBOOT_PUBLISHER_FAILPOINT=name:n:action` acts when the place `name` is reached for the n-th
//! time: `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself, until somebody sends SIGCONT) or
//! `fail` (the step fails with `EIO`).

/// A place before the durable step `name`.
///
/// # Errors
/// `EIO` when the test wants this step to fail.
#[cfg(not(feature = "failpoints"))]
pub fn at(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

/// A place before the durable step `name`.
///
/// # Errors
/// `EIO` when the test wants this step to fail.
#[cfg(feature = "failpoints")]
pub fn at(name: &'static str) -> std::io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::atomic::{AtomicU64, Ordering};

    static REACHED: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("NETBOOT_PUBLISHER_FAILPOINT") else {
        return Ok(());
    };
    let parts: Vec<_> = wanted.split(':').collect();
    let [place, nth, action] = parts[..] else {
        panic!("failpoint {wanted:?}: name:n:action")
    };
    let nth: u64 = nth.parse().expect("a failpoint's n is a number");
    if place != name || REACHED.fetch_add(1, Ordering::SeqCst) + 1 != nth {
        return Ok(());
    }
    match action {
        "kill" => kill_process(getpid(), Signal::KILL)?,
        "stop" => kill_process(getpid(), Signal::STOP)?,
        "fail" => return Err(rustix::io::Errno::IO.into()),
        _ => panic!("failpoint {wanted:?}: kill, stop or fail"),
    }
    Ok(())
}
