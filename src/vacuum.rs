//! What is removed from the tree: generations that retention no longer keeps, and leftovers of a
//! crash. Nothing that the daemon did not publish, and never what a pointer names.

use std::collections::HashSet;
use std::time::Duration;

use crate::dir::{Dir, Kind};
use crate::fault::{Failure, Fault};
use crate::generation::GenerationName;
use crate::moment::Moment;
use crate::open_files::OpenFiles;
use crate::record::{Event, Happened};
use crate::settings::Retention;
use crate::staging::Pointers;
use crate::target::Target;
use crate::tree::{generation_names, generation_path};

/// A generation with an open file is looked at again after this.
const OPEN_STILL: Duration = Duration::from_secs(60);

/// And a withdrawal whose drop is still on its way.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What stays whatever its age.
#[derive(Debug, Default)]
pub struct Spared {
    pub open: OpenFiles,
    /// Drops that may have no outcome yet. After a crash a withdrawal is known by what it withdrew.
    pub drops: HashSet<String>,
}

/// Removes the generations of `target` that `retention` doesn't keep: besides the current one, the
/// `keep` that were current last stay, and every one that stopped being current less than `min_age`
/// ago. Of a target that was taken out of the tree none is kept for longer than that.
///
/// None goes while a file of it is open, nor what was withdrawn by a drop that has no outcome yet.
///
/// Returns when the next one will have to go.
pub fn vacuum(
    pointers: &mut Pointers,
    target: &Target,
    retention: &Retention,
    spared: &Spared,
) -> Result<Option<Moment>, Fault> {
    let Some(generations) = pointers.tree().generations(target)? else {
        return Ok(None);
    };
    let current = pointers.tree().pointed(target)?;
    let mut superseded = Vec::new();
    for name in generation_names(&generations)? {
        if Some(&name) != current.as_ref() {
            let record = generations.stat(name.record())?;
            superseded.extend(record.map(|stat| (stat.modified, name)));
        }
    }
    superseded.sort_unstable();
    superseded.reverse();

    let last = superseded.first().map(|(_, name)| name);
    let withdrawal = if current.is_none() {
        withdrawal(pointers, target, last)?
    } else {
        None
    };
    let is_unsettled = |event: &Event| event.drop.iter().any(|drop| spared.drops.contains(drop));
    if withdrawal.as_ref().is_some_and(is_unsettled) {
        return Ok(Some(Moment::now().later(UNSETTLED)));
    }
    let keep = if withdrawal.is_some() {
        0
    } else {
        retention.keep
    };
    let mut next = None;
    for (since, name) in superseded.into_iter().skip(keep) {
        let due = if spared.open.has(&generation_path(target, &name)) {
            Moment::now().later(OPEN_STILL)
        } else {
            since.later(retention.min_age)
        };
        if due > Moment::now() {
            next = Some(next.map_or(due, |next: Moment| next.min(due)));
        } else {
            pointers.remove(&generations, &name)?;
        }
    }
    if withdrawal.is_some() && next.is_none() {
        pointers.remove_folder(target)?;
    }
    Ok(next)
}

/// How the target was taken out of the tree, if that was by a drop; a pointer that somebody has
/// removed by hand is no reason to remove what it named.
fn withdrawal(
    pointers: &Pointers,
    target: &Target,
    last: Option<&GenerationName>,
) -> Result<Option<Event>, Failure> {
    let Some(last) = last else { return Ok(None) };
    let generation = pointers.tree().generation(target, last.clone())?;
    let record = generation.and_then(|generation| generation.record);
    Ok(record.and_then(|mut record| {
        record
            .history
            .pop()
            .filter(|event| event.what == Happened::Withdrawn)
    }))
}

/// Removes what a crash left of `target`: generations without a record, records without a
/// generation, links that were made for an adoption.
///
/// Returns how many there were.
pub fn sweep(pointers: &mut Pointers, target: &Target) -> Result<usize, Fault> {
    let Some(generations) = pointers.tree().generations(target)? else {
        return Ok(0);
    };
    let current = pointers.tree().pointed(target)?;
    let mut leftovers = 0;
    for (name, kind) in generations.names()? {
        let Some(name) = name.to_str() else { continue };
        let Ok(generation) = name
            .strip_suffix(".toml")
            .unwrap_or(name)
            .parse::<GenerationName>()
        else {
            continue;
        };
        if Some(&generation) == current.as_ref() || is_complete(&generations, &generation)? {
            continue;
        }
        leftovers += 1;
        match kind {
            Kind::Dir => pointers.remove(&generations, &generation)?,
            Kind::File | Kind::Link => drop(generations.remove_file(name)?),
            Kind::Other => {}
        }
    }
    Ok(leftovers)
}

fn is_complete(generations: &Dir, name: &GenerationName) -> Result<bool, Failure> {
    let is = |name: &str, kind| {
        Ok(generations
            .stat(name)?
            .is_some_and(|stat| stat.kind == kind))
    };
    Ok(is(name.as_str(), Kind::Dir)? && is(&name.record(), Kind::File)?)
}
