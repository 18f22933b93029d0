//! What is removed from the tree: generations that retention no longer keeps, and leftovers of a
//! crash. Nothing that the daemon did not publish, and never what a pointer names.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::lookout::{Lookout, Watched};
use super::pointers::Pointers;
use super::record::{Event, Happened};
use super::{Tree, generation, generation_names, retired_at};
use crate::fault::Fault;
use crate::settings::Retention;
use crate::sys::{Dir, Failure, Kind, OpenFiles};
use crate::words::{GenerationName, Moment, Target};

/// Before a generation goes it is watched for so long, at the end of `min_age`. A transfer that is
/// under way shows by its reading in that time: servers give up on a client that has fallen silent
/// after about one minute.
const WATCHED: Duration = Duration::from_secs(120);

/// So many generations are watched at a time; the kernel has watches for some more.
const MAX_WATCHED: usize = 1_000;

/// A generation that is in use is looked at again after as long as it is watched, within these.
const IN_USE: Duration = Duration::from_secs(60);
const IN_USE_AT_LEAST: Duration = Duration::from_secs(1);

/// A withdrawal whose drop is still on its way is looked at again after this.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What stays in the tree.
#[derive(Debug)]
pub(crate) struct Spared<'a> {
    pub retention: &'a Retention,
    pub open: OpenFiles,
    /// Drops that may have no outcome yet. After a crash a withdrawal is known by what it withdrew.
    pub drops: HashSet<Arc<str>>,
}

/// Removes generations, and knows which of those that will go soon machines use.
#[derive(Debug, Default)]
pub(crate) struct Vacuum {
    /// `None` for a daemon that ends when it has nothing left to do: it watches nothing.
    lookout: Option<Lookout>,
    watched: HashMap<Target, HashMap<GenerationName, Watched>>,
}

/// What a start has to know of a target.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub current: Option<GenerationName>,
    /// There is something to [`Vacuum::sweep`], or for the vacuum.
    pub is_untidy: bool,
}

impl Vacuum {
    /// One that watches what it will remove.
    pub(crate) fn watching() -> Self {
        Self {
            lookout: Some(Lookout::default()),
            watched: HashMap::new(),
        }
    }

    /// Why something could not be watched, once.
    pub(crate) fn trouble(&self) -> Option<Failure> {
        self.lookout.as_ref()?.trouble()
    }

    /// So long after a generation stopped being current there is something to do with it.
    pub(crate) fn first_look(retention: &Retention) -> Duration {
        retention.min_age.saturating_sub(WATCHED)
    }

    /// Removes the generations of `target` that retention doesn't keep: besides the current one, the
    /// `keep` that were current last stay, and every one that stopped being current less than `min_age`
    /// ago. Of a target that was taken out of the tree none is kept for longer than that.
    ///
    /// No generation goes while a machine uses it, nor one that was withdrawn by a drop that has no
    /// outcome yet.
    ///
    /// Returns when vacuum will have to do with the target again.
    pub(crate) fn clean(
        &mut self,
        pointers: &mut Pointers,
        target: &Target,
        spared: &Spared<'_>,
    ) -> Result<Option<Moment>, Fault> {
        let Some(generations) = pointers.tree().generations(target)? else {
            return Ok(None);
        };
        let current = pointers.tree().pointed(target)?;
        let mut superseded = Vec::new();
        for name in generation_names(&generations)? {
            if Some(&name) != current.as_ref() {
                let since = retired_at(&generations, &name)?;
                superseded.extend(since.map(|since| (since, name)));
            }
        }
        let withdrawal = match superseded.iter().max() {
            Some((_, last)) if current.is_none() => withdrawal(&generations, last)?,
            _ => None,
        };
        let drop = withdrawal.as_ref().and_then(|event| event.drop.as_deref());
        if drop.is_some_and(|drop| spared.drops.contains(drop)) {
            return Ok(Some(Moment::now().later(UNSETTLED)));
        }
        let Retention { keep, min_age } = *spared.retention;
        let keep = if withdrawal.is_some() { 0 } else { keep };
        let (mut next, mut kept) = (None, HashSet::new());
        for (due, name) in not_kept(superseded, keep, min_age) {
            match self.stays((target, &name), due, &generations, spared)? {
                None => pointers.remove(&generations, &name)?,
                Some(until) => {
                    Moment::note_earliest(&mut next, until);
                    kept.insert(name);
                }
            }
        }
        if let Some(watched) = self.watched.get_mut(target) {
            watched.retain(|name, _| kept.contains(name));
            if watched.is_empty() {
                self.watched.remove(target);
            }
        }
        if withdrawal.is_some() && next.is_none() {
            pointers.remove_folder(target)?;
        }
        Ok(next)
    }

    /// Until when a generation stays at least that may go from `due` on; `None` when it may go now.
    fn stays(
        &mut self,
        (target, name): (&Target, &GenerationName),
        due: Moment,
        generations: &Dir,
        spared: &Spared<'_>,
    ) -> Result<Option<Moment>, Fault> {
        let now = Moment::now();
        let period = WATCHED.min(spared.retention.min_age);
        let in_use = now.later(IN_USE.min(period.max(IN_USE_AT_LEAST)));
        let watch_from = due.earlier(period);
        if watch_from > now {
            return Ok(Some(watch_from));
        }
        let Some(dir) = generations.dir(name.as_str())? else {
            return Ok(None);
        };
        let of_target = self.watched.get(target);
        let watched = of_target.and_then(|watched| watched.get(name));
        let is_used = match (&self.lookout, watched) {
            (Some(lookout), None) if !period.is_zero() => {
                if lookout.count() >= MAX_WATCHED {
                    return Ok(Some(in_use));
                }
                let watched = lookout.watch(&dir, period);
                let of_target = self.watched.entry(target.clone()).or_default();
                of_target.insert(name.clone(), watched);
                return Ok(Some(due.max(now.later(period))));
            }
            (Some(lookout), Some(watched)) => {
                lookout.is_locked(watched, dir) || !watched.is_quiet()
            }
            _ => false,
        };
        if is_used || spared.open.has(&format!("/{}/", name.path(target))) {
            return Ok(Some(in_use));
        }
        Ok((due > now).then_some(due))
    }

    /// Looks whether a start has anything to do for `target`: of many targets most are tidy.
    pub(crate) fn survey(
        tree: &Tree,
        target: &Target,
        retention: &Retention,
    ) -> Result<Surveyed, Fault> {
        let current = tree.pointed(target)?;
        let generations = tree.generations(target)?;
        let names = generations.map_or(Ok(Vec::new()), |generations| generations.names())?;
        // The names are sorted: each generation stands before its record.
        let (pairs, others) = names.as_chunks();
        let is_whole = |[(name, kind), (record, of_record)]: &[(OsString, Kind); 2]| {
            let is_its_record = record.as_bytes().strip_suffix(b".toml") == Some(name.as_bytes());
            is_its_record && (kind, of_record) == (&Kind::Dir, &Kind::File)
        };
        let is_there =
            |current: &GenerationName| names.iter().any(|(name, _)| name == current.as_str());
        let is_tidy = others.is_empty()
            && pairs.iter().all(is_whole)
            && current.as_ref().is_some_and(is_there)
            && pairs.len() <= 1 + retention.keep;
        Ok(Surveyed {
            current,
            is_untidy: !is_tidy,
        })
    }

    /// Removes what a crash left of `target`: generations without a record, records without a
    /// generation, links that were made for an adoption.
    ///
    /// Returns how many there were.
    pub(crate) fn sweep(pointers: &mut Pointers, target: &Target) -> Result<usize, Fault> {
        let Some(generations) = pointers.tree().generations(target)? else {
            return Ok(0);
        };
        let current = pointers.tree().pointed(target)?;
        let names = generations.names()?;
        let has = |name: String, kind| names.contains(&(name.into(), kind));
        let mut leftovers = 0;
        for (name, kind) in &names {
            let Some(name) = name.to_str() else { continue };
            let generation = name.strip_suffix(".toml").unwrap_or(name);
            let Ok(generation) = generation.parse::<GenerationName>() else {
                continue;
            };
            let is_whole =
                has(generation.to_string(), Kind::Dir) && has(generation.record(), Kind::File);
            if is_whole || Some(&generation) == current.as_ref() {
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
}

/// The generations that go of those that were `superseded`, each at a moment: all but the `keep` that
/// were current last, each with the moment from which it may go.
fn not_kept(
    mut superseded: Vec<(Moment, GenerationName)>,
    keep: usize,
    min_age: Duration,
) -> impl Iterator<Item = (Moment, GenerationName)> {
    superseded.sort_unstable_by(|a, b| b.cmp(a));
    let others = superseded.into_iter().skip(keep);
    others.map(move |(since, name)| (since.later(min_age), name))
}

/// How a target was taken out of the tree, if that was by a drop; `last` is the generation that was
/// current last. A pointer that somebody has removed by hand is no reason to remove what it named.
fn withdrawal(generations: &Dir, last: &GenerationName) -> Result<Option<Event>, Failure> {
    let generation = generation(generations, last.clone())?;
    let record = generation.and_then(|generation| generation.record);
    let event = record.and_then(|mut record| record.history.pop());
    Ok(event.filter(|event| event.what == Happened::Withdrawn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Digest;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_stat(1_795_364_100, 0).later(Duration::from_secs(seconds))
    }

    /// Generations that were published one a second, each superseded at one of these seconds.
    fn superseded(seconds: &[u64]) -> Vec<(Moment, GenerationName)> {
        let name = |number| GenerationName::new(at(number), &Digest::of(b""), |_| false);
        let numbers = 0..;
        let numbered = seconds.iter().zip(numbers);
        numbered
            .map(|(second, number)| (at(*second), name(number)))
            .collect()
    }

    proptest! {
        #[test]
        fn retention_keeps_those_that_were_current_last_and_none_goes_before_its_time(
            seconds in proptest::collection::vec(0_u64..10_000, 0..12),
            keep in 0_usize..6,
            min_age in 0_u64..5_000,
        ) {
            let all = superseded(&seconds);
            let going: Vec<_> = not_kept(all.clone(), keep, Duration::from_secs(min_age)).collect();
            prop_assert_eq!(going.len(), all.len().saturating_sub(keep));
            let mut kept = all.clone();
            kept.retain(|(_, name)| going.iter().all(|(_, gone)| gone != name));
            let first_kept = kept.iter().map(|(since, _)| *since).min();
            for (due, name) in &going {
                let (since, _) = all.iter().find(|(_, of)| of == name).unwrap();
                prop_assert_eq!(*due, since.later(Duration::from_secs(min_age)));
                prop_assert!(first_kept.is_none_or(|first| *since <= first));
            }
        }
    }
}
