//! What is removed from the tree: generations that retention no longer keeps, and leftovers of a
//! crash. Nothing that the daemon did not publish, and never what a pointer names.

use crate::dir::{Dir, Kind};
use crate::fault::{Failure, Fault};
use crate::generation::GenerationName;
use crate::moment::Moment;
use crate::settings::Retention;
use crate::staging::Pointers;
use crate::target::Target;
use crate::tree::generation_names;

/// Removes the generations of `target` that `retention` doesn't keep: besides the current one, the
/// `keep` that were current last stay, and every one that stopped being current less than `min_age`
/// ago.
///
/// Returns when the next one will have to go.
pub fn vacuum(
    pointers: &mut Pointers,
    target: &Target,
    retention: &Retention,
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

    let mut next = None;
    for (since, name) in superseded.into_iter().skip(retention.keep) {
        if since.age() >= retention.min_age {
            pointers.remove(&generations, &name)?;
        } else {
            next = Some(since.later(retention.min_age));
        }
    }
    Ok(next)
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
