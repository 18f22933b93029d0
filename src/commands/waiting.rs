//! What waits, as the daemon tells; where it doesn't, as the spool's folders show.

use serde::Serialize;

use crate::spool::{SpoolView, WaitState, Waiting};
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
            let waiting: Vec<_> = match only {
                Some(only) if waiting.is_empty() => unread(spool, only)?.into_iter().collect(),
                _ => waiting.into_iter().map(named).collect(),
            };
            return Ok((DaemonSays::Running, waiting, others));
        }
        Ok(None) => DaemonSays::NotRunning,
        Err(_) => DaemonSays::NoAnswer,
    };
    let mut waiting = spool.waiting()?;
    waiting.retain(|waiting| only.is_none_or(|only| waiting.drop == only));
    Ok((says, waiting, 0))
}

/// A drop that the daemon doesn't know yet, if it is in `incoming/`.
fn unread(spool: &SpoolView, name: &str) -> Result<Option<Waiting>, Failure> {
    let mut all = spool.waiting()?.into_iter();
    let found = all.find(|it| it.drop == name && it.state == WaitState::Incoming);
    Ok(found.map(|waiting| Waiting {
        state: WaitState::Queued,
        why: "not read yet: others of this importer are before it (max_waiting)".to_string(),
        ..waiting
    }))
}

/// The daemon tells numbers: to look up a name may take long.
fn named(waiting: Waiting) -> Waiting {
    Waiting {
        importer: Importer::of(waiting.importer.uid),
        ..waiting
    }
}
