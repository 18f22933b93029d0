//! `--sign`: ssh-keygen signs the manifest of a drop.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::spool::NewDrop;
use crate::trust::NAMESPACE;

/// So long a program has to end, until it is told again.
const AGAIN: Duration = Duration::from_millis(100);

/// Has ssh-keygen sign the manifest of `drop` with `key`: whatever its option `-f` takes. Meanwhile the
/// terminal is its own: it may ask for a passphrase, or for a touch. Returns whether the manifest is
/// signed; it isn't where the `end` came earlier.
///
/// # Errors
/// When ssh-keygen isn't there, or has not signed (it has said why itself), or has by a key of a kind
/// that no daemon takes.
pub(crate) async fn sign(
    drop: &NewDrop,
    key: &Path,
    end: impl Future<Output = ()>,
) -> anyhow::Result<bool> {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"])
        .arg(key)
        .arg(drop.manifest());
    // Standard output is for the name of the drop.
    keygen.stdout(std::io::stderr());
    let mut keygen = keygen.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow::anyhow!("signing: no ssh-keygen; expected the package openssh-client")
        }
        _ => anyhow::Error::new(error).context("starting ssh-keygen"),
    })?;
    let status = tokio::select! {
        // SIGINT of a terminal ends ssh-keygen as well.
        biased;
        () = end => {
            terminate(&mut keygen).await.context("waiting for ssh-keygen")?;
            return Ok(false);
        }
        status = keygen.wait() => status.context("waiting for ssh-keygen")?,
    };
    // That of a terminal may come to ssh-keygen first.
    if status.signal() == Some(Signal::INT.as_raw()) {
        return Ok(false);
    }
    let doing = || format!("signing with {key:?}");
    anyhow::ensure!(
        status.success(),
        "{}: ssh-keygen failed ({status}); nothing is left in the spool",
        doing()
    );
    drop.check_signature().with_context(doing)?;
    Ok(true)
}

/// Ends a program that may have hidden what is typed: by SIGTERM it shows that again.
async fn terminate(program: &mut Child) -> io::Result<()> {
    loop {
        let pid = program.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        // Of one that comes right before ssh-keygen reads a passphrase it only takes a note, as
        // readpassphrase(3) does; the next one ends the reading.
        if let Ok(ended) = timeout(AGAIN, program.wait()).await {
            return ended.map(drop);
        }
    }
}
