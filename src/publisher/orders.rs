//! Orders: drops that bring no image, and what a drop expects to be current.

use super::decision::{Decision, is_of, published, unchanged};
use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::spool::{Claimed, Manifest, Replaces};
use crate::sys::{Failure, Progress};
use crate::tree::{Change, Current, Generation, Happened, Head, Origin, Record, Staging, Tree};
use crate::words::{GenerationName, Moment, Reason, Target, Verdict};

/// Whether what is current is what the manifest expects. Of a directory that somebody else made
/// that is only known once it was read.
pub(super) fn check_replaces(
    tree: &Tree,
    claimed: &Claimed,
    manifest: &Manifest,
    current: &Current,
) -> Result<(), Fault> {
    let Some(replaces) = &manifest.replaces else {
        return Ok(());
    };
    let target = &manifest.target;
    match current {
        Current::Generation(Generation {
            record: Some(record),
            ..
        }) => {
            let head = &record.head;
            // The drop may have done it already, before a crash.
            if is_of(claimed, head) || replaces.is(&head.digest) {
                return Ok(());
            }
            let current = format!("{} with digest {}", head.generation, head.digest);
            Err(conflict(&current, replaces))
        }
        Current::Plain(_) if *replaces == Replaces::Nothing => {
            Err(conflict("a folder that the daemon did not make", replaces))
        }
        Current::Plain(_) => Ok(()),
        Current::Generation(_) | Current::Nothing => match tree.pointed(target)? {
            Some(name) if replaces.may_be(&name) => Ok(()),
            Some(name) => Err(conflict(name.as_str(), replaces)),
            None if *replaces == Replaces::Nothing => Ok(()),
            None if find_withdrawal(tree, claimed, target)?.is_some() => Ok(()),
            None => Err(conflict("nothing", replaces)),
        },
    }
}

/// The generation that a rollback asks for: `to`, or the one before.
pub(super) fn find_older(
    tree: &Tree,
    claimed: &Claimed,
    target: &Target,
    to: Option<&GenerationName>,
    current: &Current,
) -> Result<(Generation, Box<Record>), Fault> {
    let to = match current {
        // The drop has done it already, before a crash.
        Current::Generation(current)
            if (current.record.as_ref()).is_some_and(|record| is_of(claimed, &record.head)) =>
        {
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
    let what = to.map_or_else(
        || "one older than the current".to_string(),
        GenerationName::to_string,
    );
    let unknown = || {
        let detail = format!("{target} keeps no generation {what}; expected one that is kept");
        reject(Reason::UnknownGeneration, detail)
    };
    let mut kept = found.ok_or_else(unknown)?;
    let record = kept.record.take().ok_or_else(unknown)?;
    Ok((kept, Box::new(record)))
}

/// Makes a kept generation current again, unless it is damaged.
pub(super) fn roll_back(
    staging: &Staging,
    progress: &Progress,
    claimed: &Claimed,
    (kept, mut record): (Generation, Box<Record>),
    current: Current,
) -> Result<Decision, Fault> {
    let change = match current {
        Current::Generation(current) if current.name == kept.name => {
            return Ok(unchanged(claimed, &record.head));
        }
        Current::Generation(current) => Change::Replace(current.name),
        Current::Nothing => Change::Make,
        Current::Plain(_) => return Err(occupied(&record.head.target)),
    };
    let image = Image::read(kept.dir, Some(staging.ownership()))?;
    let is_whole = image.is_sound() && image.hash(progress)?.digest() == record.head.digest;
    if !is_whole {
        let detail = format!(
            "{} is not what was published any more; expected it undamaged",
            kept.name
        );
        return Err(reject(Reason::UnknownGeneration, detail));
    }
    let (now, origin) = (Moment::now(), origin(claimed));
    record.note(now, Happened::RolledBack, Some(&origin));
    record.head.published_at = now;
    record.head.from = Some(origin);
    let staged = staging.stage_kept(&record, change)?;
    Ok(Decision::Change(Box::new(staged)))
}

/// Takes a target out of the tree.
pub(super) fn withdraw(
    staging: &Staging,
    progress: &Progress,
    claimed: &Claimed,
    target: &Target,
    current: Current,
) -> Result<Decision, Fault> {
    let generation = match current {
        Current::Generation(generation) => generation,
        Current::Plain(_) => return Err(occupied(target)),
        Current::Nothing => {
            let head = find_withdrawal(staging.tree(), claimed, target)?;
            let head = head.ok_or_else(|| unknown_target(target))?;
            return Ok(Decision::Again(Verdict::Withdrawn, published(&head)));
        }
    };
    let mut record = match generation.record {
        Some(record) => record,
        // The record is lost: what is there will be what is known of the generation.
        None => {
            let image = Image::read(generation.dir, None)?;
            let mut record = Record::new(target, image.hash(progress)?, &[], None, None);
            record.head.generation = generation.name;
            record
        }
    };
    record.note(Moment::now(), Happened::Withdrawn, Some(&origin(claimed)));
    let staged = staging.stage_kept(&record, Change::Remove)?;
    Ok(Decision::Change(Box::new(staged)))
}

/// The head of the generation that this very drop has withdrawn already, before a crash.
fn find_withdrawal(
    tree: &Tree,
    claimed: &Claimed,
    target: &Target,
) -> Result<Option<Head>, Failure> {
    let last = tree.previous(target, None)?;
    let Some(record) = last.and_then(|generation| generation.record) else {
        return Ok(None);
    };
    let is_it = record.history.last().is_some_and(|event| {
        event.what == Happened::Withdrawn
            && event.drop.as_ref() == Some(&claimed.name)
            && event.at >= claimed.since
    });
    Ok(is_it.then_some(record.head))
}

/// Where a generation comes from that is made of this drop.
pub(super) fn origin(claimed: &Claimed) -> Origin {
    Origin {
        drop: claimed.name.clone(),
        importer: claimed.importer.clone(),
        received_at: claimed.received_at,
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

fn occupied(target: &Target) -> Fault {
    let detail =
        format!("{target} is a folder that the daemon did not make; expected its own link");
    reject(Reason::TargetOccupied, detail)
}
