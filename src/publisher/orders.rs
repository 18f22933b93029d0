//! Orders: drops that bring no image, and what a drop expects to be current.

use super::decision::{Decision, Request, origin, published};
use crate::fault::{Fault, reject};
use crate::image::{Image, Listing};
use crate::spool::{Claimed, Replaces};
use crate::sys::Progress;
use crate::tree::{Change, Current, Generation, Head, Record, Staged, Tree};
use crate::words::{Digest, GenerationHint, GenerationName, Reason, Target};

impl Request<'_> {
    pub(super) fn tree(&self) -> &Tree {
        self.shop.staging.tree()
    }

    /// Whether what is current is what the manifest expects. A directory that somebody else made
    /// passes: its digest is only known once it was read.
    pub(super) fn check_replaces(&self, current: &Current) -> Result<(), Fault> {
        let Some(replaces) = &self.manifest.replaces else {
            return Ok(());
        };
        let expects_nothing = *replaces == Replaces::Nothing;
        let found = match current {
            Current::Generation(Generation {
                record: Some(record),
                ..
            }) => {
                let head = &record.head;
                if replaces.is(&head.digest) {
                    return Ok(());
                }
                format!("{} with digest {}", head.generation, head.digest)
            }
            Current::Plain(_) if expects_nothing => {
                "a folder that the daemon did not make".to_string()
            }
            Current::Plain(_) => return Ok(()),
            Current::Generation(_) | Current::Nothing => {
                match self.tree().pointed(&self.manifest.target)? {
                    Some(name) if replaces.may_be(&name) => return Ok(()),
                    Some(name) => name.to_string(),
                    None if expects_nothing => return Ok(()),
                    None => "nothing".to_string(),
                }
            }
        };
        Err(conflict(&found, replaces))
    }

    /// The generation that a rollback asks for: `to`, one of the image with this `digest`, or the one
    /// that the last swap replaced.
    pub(super) fn find_older(
        &self,
        to: Option<&GenerationHint>,
        digest: Option<&Digest>,
    ) -> Result<(Generation, Box<Record>), Fault> {
        let (tree, target) = (self.tree(), &self.manifest.target);
        check_names_image(self.claimed, digest)?;
        check_known(tree, target)?;
        let hint = to.cloned().or_else(|| digest.map(GenerationHint::from));
        let name = match &hint {
            Some(hint) => tree.find(target, hint)?,
            None => tree.find_replaced(target)?,
        };
        let unknown = || {
            let why = hint.as_ref();
            let why = why.map_or("which was current before", |_| "or its record is damaged");
            let detail =
                format!("{target} keeps no generation {name}, {why}; expected one that is kept");
            reject(Reason::UnknownGeneration, detail)
        };
        let found = tree.generation(target, name.clone())?;
        let mut kept = found.ok_or_else(unknown)?;
        let record = kept.record.take().ok_or_else(unknown)?;
        let is = record.head.digest;
        if let Some(digest) = digest.filter(|digest| **digest != is) {
            let name = kept.name;
            let detail = format!("{name} has digest {is}; the order means {digest}");
            return Err(reject(Reason::Conflict, detail));
        }
        Ok((kept, Box::new(record)))
    }

    /// Makes a kept generation current again, unless it is damaged.
    pub(super) fn roll_back(
        &self,
        kept: Generation,
        mut record: Box<Record>,
        current: Current,
    ) -> Result<Decision, Fault> {
        let staging = &self.shop.staging;
        let change = match current {
            Current::Generation(current) if current.name == kept.name => None,
            Current::Generation(current) => Some(Change::Replace(current.name)),
            Current::Nothing => Some(Change::Make),
            Current::Plain(_) => return Err(occupied(&self.manifest.target)),
        };
        // What is damaged is repaired by an order that carries the image.
        if change.is_none() && self.carried.is_none() {
            return Ok(Decision::Unchanged(published(&record.head)));
        }
        let image = Image::read(kept.dir, record.head.owner_now(Some(staging.ownership())))?;
        let digest = &record.head.digest;
        if !image.is_sound() || image.hash(&self.shop.progress)?.digest() != *digest {
            let name = kept.name;
            let detail =
                format!("{name} is not what was published any more; expected it undamaged");
            return Err(reject(Reason::UnknownGeneration, detail));
        }
        let Some(change) = change else {
            return Ok(Decision::Unchanged(published(&record.head)));
        };
        let by = origin(self.claimed);
        // Whoever has the order made, the image is the one that was signed, and has come from there.
        record.head.from = Some(by.clone().of_kept(record.head.from.take()));
        self.ordered(staging.stage_rollback(&record, by, change)?)
    }

    /// Takes the target out of the tree.
    pub(super) fn withdraw(&self, current: Current) -> Result<Decision, Fault> {
        let target = &self.manifest.target;
        let generation = match current {
            Current::Generation(generation) => generation,
            Current::Plain(_) => return Err(occupied(&self.manifest.target)),
            Current::Nothing => return Err(unknown_target(target)),
        };
        let lost = match &generation.record {
            Some(_) => None,
            // The record is lost: what is there will be what is known of the generation.
            None => {
                let listing = Image::read(generation.dir, None)?.hash(&self.shop.progress)?;
                Some(record_of(target, generation.name, listing))
            }
        };
        let record = generation.record.as_ref().or(lost.as_ref());
        let head = record.expect("one of the two").head.clone();
        let staging = &self.shop.staging;
        let by = origin(self.claimed);
        self.ordered(staging.stage_withdrawal(head, lost.as_ref(), by)?)
    }

    /// Removes a generation that isn't current, whatever state it is in.
    pub(super) fn withdraw_one(&self, generation: Generation) -> Result<Decision, Fault> {
        let (staging, target) = (&self.shop.staging, &self.manifest.target);
        let head = head_of(generation, target, &self.shop.progress)?;
        // A crash may have come between the line of the history and the removal.
        let is_told = self
            .tree()
            .removal_by(target, self.claimed.claim)?
            .is_some();
        self.ordered(staging.stage_removal(head, origin(self.claimed), is_told))
    }

    /// What was staged by an order: the history goes on from its serial, and keeps what was signed of it.
    pub(super) fn ordered(&self, mut staged: Staged) -> Result<Decision, Fault> {
        staged.head.serial = staged.head.serial.max(self.manifest.serial);
        if staged.is_swap() {
            staged = staged.ordered_by(self.shop.spool.processing().proof(self.claimed)?);
        }
        Ok(Decision::Change(Box::new(staged)))
    }
}

/// The generation of `target`, not the current one, that a withdrawal names.
pub(super) fn find_old(
    tree: &Tree,
    target: &Target,
    hint: &GenerationHint,
) -> Result<Generation, Fault> {
    check_known(tree, target)?;
    let name = tree.find(target, hint)?;
    if tree.pointed(target)?.as_ref() == Some(&name) {
        let detail = format!(
            "{name} is current; expected an older generation: go back to another one first, \
             publish the image again, or withdraw the target"
        );
        return Err(reject(Reason::Conflict, detail));
    }
    let found = tree.generation(target, name.clone())?;
    let gone = || {
        let detail = format!("{target} keeps no generation {name}; expected one that is kept");
        reject(Reason::UnknownGeneration, detail)
    };
    found.ok_or_else(gone)
}

/// What is known of a generation. Where its record is lost that is what is left of it.
fn head_of(generation: Generation, target: &Target, progress: &Progress) -> Result<Head, Fault> {
    if let Some(record) = generation.record {
        return Ok(record.head);
    }
    let image = Image::read(generation.dir, None);
    let listing = match image.and_then(|image| image.hash(progress)) {
        Err(Fault::Interrupted) => return Err(Fault::Interrupted),
        listing => listing.unwrap_or_default(),
    };
    Ok(record_of(target, generation.name, listing).head)
}

/// What stands for the lost record of a generation.
fn record_of(target: &Target, name: GenerationName, listing: Listing) -> Record {
    let mut record = Record::new(target, listing, &[], None, None);
    record.head.generation = name;
    record
}

pub(super) fn conflict(current: &str, replaces: &Replaces) -> Fault {
    let detail = format!("{current} is current; the drop replaces {replaces}");
    reject(Reason::Conflict, detail)
}

fn occupied(target: &Target) -> Fault {
    let detail =
        format!("{target} is a folder that the daemon did not make; expected its own link");
    reject(Reason::TargetOccupied, detail)
}

/// Makes sure that an order which is signed names an image.
pub(super) fn check_names_image(claimed: &Claimed, digest: Option<&Digest>) -> Result<(), Fault> {
    let is_signed = claimed.credentials.vouched.signer.is_some();
    if is_signed && digest.is_none() {
        let detail = "the order is signed and names no image; expected the image's `digest`";
        return Err(reject(Reason::UnsignedFiles, detail));
    }
    Ok(())
}

/// Whether the tree has anything of a target.
pub(super) fn check_known(tree: &Tree, target: &Target) -> Result<(), Fault> {
    let is_known = tree.knows(target)?;
    is_known.then_some(()).ok_or_else(|| unknown_target(target))
}

fn unknown_target(target: &Target) -> Fault {
    let detail = format!("{target} is not in the tree; expected one that is");
    reject(Reason::UnknownTarget, detail)
}
