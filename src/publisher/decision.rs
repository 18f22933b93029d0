//! What will become of a drop: the decision, and what it needs to be carried out.

use std::time::{Duration, Instant};

use crate::fault::{Fault, Rejection};
use crate::spool::{Claimed, Outcome, Published, Seen};
use crate::tree::{Head, Staged};
use crate::words::{Moment, Target, Verdict};

/// A drop of which it is known what will become of it.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) claimed: Claimed,
    /// `None` when the drop's manifest is no good.
    pub(super) target: Option<Target>,
    pub(super) decision: Decision,
    /// When the drop became the daemon's.
    pub(super) started: Instant,
}

#[derive(Debug)]
pub(super) enum Decision {
    Change(Box<Staged>),
    /// This very drop did what it was to do before a crash kept its outcome from being written.
    Again(Verdict, Published),
    Unchanged(Published),
    Reject(Rejection),
}

/// A drop that could not be worked on, for now.
#[derive(Debug)]
pub(super) struct Postponed {
    pub(super) seen: Seen,
    pub(super) fault: Fault,
}

impl Decided {
    /// Where the fault of a drop is its own, it is a decision: to reject the drop.
    pub(super) fn new(
        claimed: Claimed,
        target: Option<Target>,
        decision: Result<Decision, Fault>,
        started: Instant,
    ) -> Result<Self, Postponed> {
        let decision = match decision {
            Ok(decision) => decision,
            Err(Fault::Reject(rejection)) => Decision::Reject(rejection),
            Err(fault) => {
                let seen = claimed.again();
                return Err(Postponed { seen, fault });
            }
        };
        Ok(Self {
            claimed,
            target,
            decision,
            started,
        })
    }

    /// What is to be done in the tree, if anything.
    pub(super) fn staged(&self) -> Option<&Staged> {
        match &self.decision {
            Decision::Change(staged) => Some(staged),
            _ => None,
        }
    }

    /// How long the drop has been the daemon's.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether vacuum may have to do with the target afterwards.
    pub(super) fn has_replaced(&self) -> bool {
        match &self.decision {
            Decision::Change(staged) => staged.has_previous(),
            // What was current before is not known any more.
            Decision::Again(..) => true,
            Decision::Unchanged(_) | Decision::Reject(_) => false,
        }
    }

    /// Whether the outcome tells of a change in the tree.
    pub(super) fn touches_tree(&self) -> bool {
        matches!(self.decision, Decision::Change(_) | Decision::Again(..))
    }

    /// What becomes of the drop when all goes well.
    pub(super) fn outcome(&self) -> Outcome {
        let (verdict, image, rejection) = match &self.decision {
            Decision::Change(staged) => (staged.verdict(), Some(published(&staged.head)), None),
            Decision::Again(verdict, image) => (*verdict, Some(image.clone()), None),
            Decision::Unchanged(image) => (Verdict::Unchanged, Some(image.clone()), None),
            Decision::Reject(rejection) => (Verdict::Rejected, None, Some(rejection.clone())),
        };
        let (reason, detail) = rejection.map(|it| (it.reason, it.detail)).unzip();
        Outcome {
            format: Outcome::FORMAT,
            drop: self.claimed.name.clone(),
            target: self.target.clone(),
            verdict,
            reason,
            detail,
            image,
            importer: self.claimed.importer.clone(),
            received_at: self.claimed.received_at,
            finished_at: Moment::now(),
        }
    }
}

/// Whether a generation became current by this very drop.
pub(super) fn is_of(claimed: &Claimed, head: &Head) -> bool {
    let from = head.from.as_ref();
    from.is_some_and(|from| from.drop == claimed.name) && head.published_at >= claimed.since
}

/// The drop asks for what is current already; or has made it so, before a crash.
pub(super) fn unchanged(claimed: &Claimed, head: &Head) -> Decision {
    if is_of(claimed, head) {
        return Decision::Again(Verdict::Published, published(head));
    }
    Decision::Unchanged(published(head))
}

pub(super) fn published(head: &Head) -> Published {
    Published {
        generation: Some(head.generation.clone()),
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    }
}
