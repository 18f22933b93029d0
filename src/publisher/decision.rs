//! What a drop asks for, and what will become of it: the decision, with all that is needed to carry
//! it out.

use std::time::Instant;

use super::notes::kept_notes;
use super::workshop::Workshop;
use crate::fault::{Fault, Rejection};
use crate::settings::Limits;
use crate::spool::{Action, Claimed, Manifest, Outcome, Papers, Published, Seen};
use crate::sys::Failure;
use crate::tree::{Head, Origin, Staged, Tree};
use crate::words::{ClaimId, GenerationName, Moment, Note, Target, Verdict, Vouched};

/// A claimed drop and its manifest, which says what is to become current. What is done about that
/// stands in `orders`, `promotion`, `publication` and `carried`.
pub(super) struct Request<'a> {
    pub(super) shop: &'a Workshop,
    pub(super) claimed: &'a Claimed,
    pub(super) manifest: &'a Manifest,
    /// The papers of the image that an order carries, where the image is asked for.
    pub(super) carried: Option<&'a Papers>,
    /// What an image of the drop may be at most.
    pub(super) limits: &'a Limits,
    /// What is noted of the drop's image, once that was looked at.
    pub(super) notes: &'a [Note],
}

impl<'a> Request<'a> {
    pub(super) fn new(
        shop: &'a Workshop,
        claimed: &'a Claimed,
        (papers, limits): (&'a Papers, &'a Limits),
    ) -> Self {
        Self {
            shop,
            claimed,
            manifest: &papers.manifest,
            carried: papers.carried.as_deref(),
            limits,
            notes: &[],
        }
    }
}

/// A drop whose fate is decided.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) claimed: Claimed,
    /// `None` when the drop's manifest is no good.
    pub(super) target: Option<Target>,
    pub(super) decision: Decision,
    /// When the pointer was swapped, once it is.
    pub(super) swapped_at: Option<Moment>,
    /// When the drop became the daemon's.
    pub(super) started: Instant,
    /// What is noted of the image that a drop brings or promotes.
    pub(super) notes: Vec<Note>,
}

#[derive(Debug)]
pub(super) enum Decision {
    Change(Box<Staged>),
    /// This very drop did what it asks for, by a swap at that time if it asks for one, before a crash
    /// kept its outcome from being written.
    Again(Verdict, Published, Option<Moment>),
    Unchanged(Published),
    Reject(Rejection),
}

/// A drop that could not be worked on, for now.
#[derive(Debug)]
pub(super) struct Postponed {
    pub(super) seen: Seen,
    pub(super) fault: Fault,
}

impl Postponed {
    pub(super) fn new(seen: Seen, fault: impl Into<Fault>) -> Self {
        let fault = fault.into();
        Self { seen, fault }
    }
}

impl Decided {
    /// A fault that is the drop's own is a decision as well: to reject the drop.
    pub(super) fn new(
        claimed: Claimed,
        target: Option<Target>,
        decision: Result<Decision, Fault>,
        started: Instant,
    ) -> Result<Self, Postponed> {
        let decision = match decision {
            Ok(decision) => decision,
            Err(Fault::Reject(rejection)) => Decision::Reject(rejection),
            Err(fault) => return Err(Postponed::new(claimed.again(), fault)),
        };
        let swapped_at = match &decision {
            Decision::Again(_, _, at) => *at,
            _ => None,
        };
        Ok(Self {
            claimed,
            target,
            decision,
            swapped_at,
            started,
            notes: Vec::new(),
        })
    }

    /// A claimed drop that is rejected without having been looked at once more.
    pub(super) fn reject(claimed: Claimed, target: Option<Target>, rejection: Rejection) -> Self {
        Self {
            claimed,
            target,
            decision: Decision::Reject(rejection),
            swapped_at: None,
            started: Instant::now(),
            notes: Vec::new(),
        }
    }

    /// Whose drop it is.
    pub(super) fn owner(&self) -> u32 {
        self.claimed.importer.uid
    }

    /// What is to be done in the tree, if anything.
    pub(super) fn staged(&self) -> Option<&Staged> {
        match &self.decision {
            Decision::Change(staged) => Some(staged),
            _ => None,
        }
    }

    /// Whether vacuum may have to do with the target afterwards.
    pub(super) fn has_replaced(&self) -> bool {
        match &self.decision {
            Decision::Change(staged) => staged.has_previous() || !staged.is_swap(),
            // What was current before is not known any more.
            Decision::Again(..) => true,
            Decision::Unchanged(_) | Decision::Reject(_) => false,
        }
    }

    /// Whether the drop makes current what is so at another target.
    pub(super) fn is_promotion(&self) -> bool {
        match &self.decision {
            Decision::Change(staged) => staged.verdict() == Verdict::Promoted,
            Decision::Again(verdict, ..) => *verdict == Verdict::Promoted,
            Decision::Unchanged(_) | Decision::Reject(_) => false,
        }
    }

    /// Whether the outcome tells of a change in the tree.
    pub(super) fn touches_tree(&self) -> bool {
        matches!(self.decision, Decision::Change(_) | Decision::Again(..))
    }

    /// What becomes of the drop when all goes well.
    pub(super) fn outcome(&self) -> Outcome {
        let (verdict, mut image, rejection) = match &self.decision {
            Decision::Change(staged) => (staged.verdict(), Some(published(&staged.head)), None),
            Decision::Again(verdict, image, _) => (*verdict, Some(image.clone()), None),
            Decision::Unchanged(image) => (Verdict::Unchanged, Some(image.clone()), None),
            Decision::Reject(rejection) => (Verdict::Rejected, None, Some(rejection.clone())),
        };
        if let Some(image) = &mut image {
            image.notes.extend(self.notes.iter().cloned());
        }
        let shown = rejection.as_ref().and_then(|it| it.target.as_deref());
        let target = self.target.as_ref().or(shown).cloned();
        let (reason, detail) = rejection.map(|it| (it.reason, it.detail)).unzip();
        let detail = detail.or_else(|| self.claimed.credentials.unknown_signer());
        Outcome {
            format: Outcome::FORMAT,
            drop: self.claimed.name.clone(),
            claim: self.claimed.claim,
            target,
            verdict,
            reason,
            detail,
            image,
            importer: self.claimed.importer.clone(),
            vouched: self.claimed.credentials.vouched.clone(),
            received_at: self.claimed.received_at,
            finished_at: Moment::now(),
        }
    }
}

impl Workshop {
    /// What the very drop of this claim has done already, before a crash, or before there was no room
    /// for its outcome: a swap was by its claim, and came to pass. With who has answered for it then.
    pub(super) fn find_done(
        &self,
        claim: ClaimId,
        manifest: &Manifest,
    ) -> Result<Option<(Decision, Vouched)>, Fault> {
        let (tree, target) = (self.staging.tree(), &manifest.target);
        let is_swap = !matches!(manifest.action, Action::Withdraw(Some(_)));
        let done = if is_swap {
            let swap = tree.swap_by(target, claim)?;
            // Only the last one may have been announced and not made.
            let pointed = tree.pointed(target)?;
            swap.filter(|(swap, is_last)| !is_last || pointed == swap.to)
                .map(|(swap, _)| swap)
        } else {
            let kept = tree.names(target)?.unwrap_or_default();
            let removal = tree.removal_by(target, claim)?;
            removal.filter(|it| !it.from.iter().any(|name| kept.contains(name)))
        };
        let Some((image, done)) = done.and_then(|mut it| Some((it.image.take()?, it))) else {
            return Ok(None);
        };
        let verdict = done.event.verdict();
        let generation = done.to.or(done.from);
        let head = generation.as_ref().map(|name| tree.head(target, name));
        let head = head.transpose()?.flatten();
        let brings_image = match verdict {
            Verdict::Published | Verdict::Promoted => true,
            // What an order has carried was never there before.
            Verdict::RolledBack => generation
                .as_ref()
                .map_or(Ok(false), |name| came_first_by(tree, target, claim, name))?,
            _ => false,
        };
        let head = head.filter(|_| brings_image);
        let notes = head.map_or(Vec::new(), |head| kept_notes(&head, &self.settings.tftp));
        let published = Published {
            generation,
            digest: image.digest,
            files: image.files,
            bytes: image.bytes,
            notes,
        };
        let at = is_swap.then_some(done.at);
        let decision = Decision::Again(verdict, published, at);
        Ok(Some((decision, Vouched::clone(&done.vouched))))
    }
}

/// Whether the swap that the drop of this claim has made was the first thing that happened to a generation,
/// as far as the history tells.
fn came_first_by(
    tree: &Tree,
    target: &Target,
    claim: ClaimId,
    name: &GenerationName,
) -> Result<bool, Failure> {
    let mut first = None;
    for line in tree.history(target)?.into_iter().flatten() {
        let line = line?;
        if [&line.from, &line.to].contains(&&Some(name.clone())) {
            first = line.claim;
        }
    }
    Ok(first == Some(claim))
}

/// The origin of a generation that is made of this drop.
pub(super) fn origin(claimed: &Claimed) -> Origin {
    Origin {
        drop: claimed.name.clone(),
        importer: claimed.importer.clone(),
        received_at: claimed.received_at,
        claim: claimed.claim,
        notes: Vec::new(),
        vouched: claimed.credentials.vouched.clone(),
        promoted: None,
    }
}

/// What an outcome tells of a generation.
pub(super) fn published(head: &Head) -> Published {
    Published {
        generation: Some(head.generation.clone()),
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
        notes: Vec::new(),
    }
}
