//! What waits, as the daemon tells; where it doesn't, as the spool's folders show.

use serde::Serialize;

use crate::spool::{SpoolView, Waiting};
use crate::sys::{Failure, Importer};

/// Whether there is a daemon that says why drops wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DaemonSays {
    Running,
    NotRunning,
    NoAnswer,
}

impl DaemonSays {
    /// What people are told of a daemon that says nothing.
    pub(super) fn note(self) -> Option<&'static str> {
        match self {
            Self::Running => None,
            Self::NotRunning => Some("the daemon isn't running: drops wait until it is"),
            Self::NoAnswer => Some("the daemon doesn't answer: why drops wait isn't known"),
        }
    }
}

/// Every drop without an outcome that this user may see, or the one of this claim name; and how many
/// others there are.
pub(super) fn waiting(
    spool: &SpoolView,
    only: Option<&str>,
) -> Result<(DaemonSays, Vec<Waiting>, usize), Failure> {
    let says = match spool.ask(only) {
        Ok(Some((waiting, others))) => {
            let waiting = waiting.into_iter().map(named).collect();
            return Ok((DaemonSays::Running, waiting, others));
        }
        Ok(None) => DaemonSays::NotRunning,
        Err(_) => DaemonSays::NoAnswer,
    };
    let mut waiting = spool.waiting()?;
    waiting.retain(|waiting| only.is_none_or(|only| waiting.drop == only));
    Ok((says, waiting, 0))
}

/// The daemon tells numbers: to look up a name may take long.
fn named(waiting: Waiting) -> Waiting {
    Waiting {
        importer: Importer::of(waiting.importer.uid),
        ..waiting
    }
}
