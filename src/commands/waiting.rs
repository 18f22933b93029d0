//! What waits, as the daemon tells; where it doesn't, as the spool's folders show.

use serde::Serialize;

use crate::spool::{Asked, SpoolView, Waiting};
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

/// Every drop without an outcome that this user may see, and how many others there are.
pub(super) fn waiting(spool: &SpoolView) -> Result<(DaemonSays, Vec<Waiting>, usize), Failure> {
    let says = match spool.ask(None) {
        Asked::Answered(answer) => {
            let waiting = answer.waiting.into_iter().map(named).collect();
            return Ok((DaemonSays::Running, waiting, answer.others));
        }
        Asked::Absent => DaemonSays::NotRunning,
        Asked::Silent => DaemonSays::NoAnswer,
    };
    Ok((says, spool.waiting()?, 0))
}

/// The drop of this claim name, if it has no outcome.
pub(super) fn waiting_drop(
    spool: &SpoolView,
    drop: &str,
) -> Result<(DaemonSays, Option<Waiting>), Failure> {
    let says = match spool.ask(Some(drop)) {
        Asked::Answered(answer) => {
            let waiting = answer.waiting.into_iter().next().map(named);
            return Ok((DaemonSays::Running, waiting));
        }
        Asked::Absent => DaemonSays::NotRunning,
        Asked::Silent => DaemonSays::NoAnswer,
    };
    let mut waiting = spool.waiting()?;
    waiting.retain(|waiting| waiting.drop == drop);
    Ok((says, waiting.pop()))
}

/// The daemon tells numbers: to look up a name may take long.
fn named(waiting: Waiting) -> Waiting {
    Waiting {
        importer: Importer::of(waiting.importer.uid),
        ..waiting
    }
}
