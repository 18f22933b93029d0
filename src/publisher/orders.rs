//! Orders: drops that bring no image, and what a drop expects to be current.

use super::decision::{Decision, Request, published};
use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::spool::Replaces;
use crate::sys::Failure;
use crate::tree::{Change, Current, Generation, Happened, Head, Record, Tree};
use crate::words::{GenerationName, Moment, Reason, Target, Verdict};

impl Request<'_> {
    fn tree(&self) -> &Tree {
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
                // The drop may have done it already, before a crash.
                if self.has_made(head) || replaces.is(&head.digest) {
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
                    None if expects_nothing || self.find_withdrawal()?.is_some() => return Ok(()),
                    None => "nothing".to_string(),
                }
            }
        };
        Err(conflict(&found, replaces))
    }

    /// The generation that a rollback asks for: `to`, or the one before.
    pub(super) fn find_older(
        &self,
        to: Option<&GenerationName>,
        current: &Current,
    ) -> Result<(Generation, Box<Record>), Fault> {
        let (tree, target) = (self.tree(), &self.manifest.target);
        let is_done = |record: &Record| self.has_made(&record.head);
        let to = match current {
            // The drop has done it already, before a crash.
            Current::Generation(current) if current.record.as_ref().is_some_and(is_done) => {
                Some(&current.name)
            }
            _ => to,
        };
        let pointed = tree.pointed(target)?;
        if pointed.is_none() && tree.names(target)?.is_none() {
            return Err(unknown_target(target));
        }
        let found = match to {
            Some(name) => tree.generation(target, name.clone())?,
            None => tree.previous(target, pointed.as_ref())?,
        };
        let unknown = || {
            let what = to.map_or("one older than the current", GenerationName::as_str);
            let detail = format!("{target} keeps no generation {what}; expected one that is kept");
            reject(Reason::UnknownGeneration, detail)
        };
        let mut kept = found.ok_or_else(unknown)?;
        let record = kept.record.take().ok_or_else(unknown)?;
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
            Current::Generation(current) if current.name == kept.name => {
                return Ok(self.unchanged(&record.head));
            }
            Current::Generation(current) => Change::Replace(current.name),
            Current::Nothing => Change::Make,
            Current::Plain(_) => return Err(self.occupied()),
        };
        let image = Image::read(kept.dir, record.head.owner_now(Some(staging.ownership())))?;
        let digest = &record.head.digest;
        if !image.is_sound() || image.hash(&self.shop.progress)?.digest() != *digest {
            let name = kept.name;
            let detail =
                format!("{name} is not what was published any more; expected it undamaged");
            return Err(reject(Reason::UnknownGeneration, detail));
        }
        let (now, origin) = (Moment::now(), self.origin());
        record.note(now, Happened::RolledBack, Some(&origin));
        record.head.published_at = now;
        record.head.from = Some(origin);
        let staged = staging.stage_kept(&record, change)?;
        Ok(Decision::Change(Box::new(staged)))
    }

    /// Takes the target out of the tree.
    pub(super) fn withdraw(&self, current: Current) -> Result<Decision, Fault> {
        let target = &self.manifest.target;
        let generation = match current {
            Current::Generation(generation) => generation,
            Current::Plain(_) => return Err(self.occupied()),
            Current::Nothing => {
                let head = self.find_withdrawal()?;
                let head = head.ok_or_else(|| unknown_target(target))?;
                return Ok(Decision::Again(Verdict::Withdrawn, published(&head)));
            }
        };
        let mut record = match generation.record {
            Some(record) => record,
            // The record is lost: what is there will be what is known of the generation.
            None => {
                let listing = Image::read(generation.dir, None)?.hash(&self.shop.progress)?;
                let mut record = Record::new(target, listing, &[], None, None);
                record.head.generation = generation.name;
                record
            }
        };
        record.note(Moment::now(), Happened::Withdrawn, Some(&self.origin()));
        let staged = self.shop.staging.stage_kept(&record, Change::Remove)?;
        Ok(Decision::Change(Box::new(staged)))
    }

    /// The head of the generation that this very drop has withdrawn already, before a crash.
    fn find_withdrawal(&self) -> Result<Option<Head>, Failure> {
        let last = self.tree().previous(&self.manifest.target, None)?;
        let record = last.and_then(|generation| generation.record);
        let record = record.filter(|record| {
            record.history.last().is_some_and(|event| {
                event.what == Happened::Withdrawn
                    && event.drop.as_ref() == Some(&self.claimed.name)
                    && event.at >= self.claimed.since
            })
        });
        Ok(record.map(|record| record.head))
    }

    fn occupied(&self) -> Fault {
        let target = &self.manifest.target;
        let detail =
            format!("{target} is a folder that the daemon did not make; expected its own link");
        reject(Reason::TargetOccupied, detail)
    }
}

pub(super) fn conflict(current: &str, replaces: &Replaces) -> Fault {
    let detail = format!("{current} is current; the drop replaces {replaces}");
    reject(Reason::Conflict, detail)
}

fn unknown_target(target: &Target) -> Fault {
    let detail = format!("{target} is not in the tree; expected one that is");
    reject(Reason::UnknownTarget, detail)
}
