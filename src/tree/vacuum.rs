//! What is removed from the tree: generations that retention no longer keeps, and leftovers of a
//! crash. Nothing that the daemon did not publish, and never what a pointer names.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use super::history::{self, Happened};
use super::lookout::{Lookout, Watched};
use super::pointers::Pointers;
use super::{Tree, generation_names};
use crate::fault::Fault;
use crate::settings::Retention;
use crate::sys::{BootTime, Dir, Failure, Kind, OpenFiles, failpoint};
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

/// A generation that is in use, though its time is over, stays no longer than this: no machine boots
/// for a day, and whoever may read the tree could keep every generation for ever otherwise. What is
/// open can be read to its end all the same.
const IN_USE_AT_MOST: Duration = Duration::from_secs(86_400);

/// So soon after a boot the wall clock may not have been set yet: nothing goes by it.
const AFTER_BOOT: Duration = Duration::from_secs(300);

/// Removes generations, and knows which of those that will go soon machines use.
#[derive(Debug, Default)]
pub(crate) struct Vacuum {
    /// `None` for a daemon that ends when it has nothing left to do: it watches nothing.
    lookout: Option<Lookout>,
    watched: HashMap<Target, HashMap<GenerationName, Watched>>,
    /// Since when those are in use whose time is over.
    in_use: HashMap<(Target, GenerationName), Instant>,
    /// What was removed, until somebody asks.
    removed: Vec<Removed>,
}

/// A generation that was removed.
#[derive(Debug)]
pub(crate) struct Removed {
    pub target: Target,
    pub generation: GenerationName,
    /// How it was still used, and for how long after its time.
    pub in_use: Option<(String, Duration)>,
}

/// Whether a generation stays.
enum Stays {
    /// At least for so long.
    For(Duration),
    /// It may go.
    No,
    /// It has to go, though it has been used for so long after its time.
    InUse(String, Duration),
}

/// What a start has to know of a target.
#[derive(Debug)]
pub(crate) struct Surveyed {
    /// The time of the last swap; `None` when no pointer is there.
    pub swapped_at: Option<Moment>,
    /// There is something to [`Vacuum::sweep`], or for the vacuum.
    pub is_untidy: bool,
}

impl Vacuum {
    /// One that watches what it will remove.
    pub(crate) fn watching() -> Self {
        Self {
            lookout: Some(Lookout::default()),
            ..Self::default()
        }
    }

    /// What was removed since this was asked last.
    pub(crate) fn removed(&mut self) -> Vec<Removed> {
        std::mem::take(&mut self.removed)
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
    /// ago. Of a target that was taken out of the tree none is kept for longer than that, and with the
    /// last one the folders go that hold nothing else.
    ///
    /// No generation goes while a machine uses it, or any of its files is `open`, but for one that was
    /// used for a day after its time.
    ///
    /// Returns after what time vacuum will have to do with the target again.
    pub(crate) fn clean(
        &mut self,
        pointers: &mut Pointers,
        target: &Target,
        retention: &Retention,
        open: &OpenFiles,
    ) -> Result<Option<Duration>, Fault> {
        let tree = pointers.tree();
        let Some(generations) = tree.generations(target)? else {
            return Ok(None);
        };
        let current = tree.pointed(target)?;
        let names = generation_names(&generations)?;
        let history = tree.history(target)?.into_iter().flatten();
        let told = Told::read(history, current.as_ref(), names)?;
        let (keep, now) = (told.keep(retention.keep), Now::read());
        let (mut next, mut kept) = (None::<Duration>, HashSet::new());
        for Superseded {
            name,
            since,
            has_line,
        } in told.superseded(&generations)?.skip(keep)
        {
            let due = since.remaining(retention.min_age, &now);
            let of = (target, &name);
            let in_use = match self.stays(of, (&generations, open), due, retention.min_age)? {
                Stays::For(until) => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    kept.insert(name);
                    continue;
                }
                Stays::No => None,
                Stays::InUse(how, lasts) => Some((how, lasts)),
            };
            if !has_line {
                pointers.note_removal(target, &name)?;
            }
            pointers.remove(&generations, &name)?;
            self.removed.push(Removed {
                target: target.clone(),
                generation: name,
                in_use,
            });
        }
        self.in_use
            .retain(|(of, name), _| of != target || kept.contains(name));
        if let Some(watched) = self.watched.get_mut(target) {
            watched.retain(|name, _| kept.contains(name));
            if watched.is_empty() {
                self.watched.remove(target);
            }
        }
        if current.is_none() {
            pointers.remove_folders(target)?;
        }
        Ok(next)
    }

    /// How long a generation stays at least that may go after `due`.
    fn stays(
        &mut self,
        (target, name): (&Target, &GenerationName),
        (generations, open): (&Dir, &OpenFiles),
        due: Duration,
        min_age: Duration,
    ) -> Result<Stays, Fault> {
        let period = WATCHED.min(min_age);
        let again = IN_USE.min(period.max(IN_USE_AT_LEAST));
        let until_watched = due.saturating_sub(period);
        if !until_watched.is_zero() {
            return Ok(Stays::For(until_watched));
        }
        let Some(dir) = generations.dir(name.as_str())? else {
            return Ok(Stays::No);
        };
        let of_target = self.watched.get(target);
        let watched = of_target.and_then(|watched| watched.get(name));
        let used = match (&self.lookout, watched) {
            (Some(lookout), None) if !period.is_zero() => {
                if lookout.count() >= MAX_WATCHED {
                    return Ok(Stays::For(again));
                }
                let watched = lookout.watch(&dir, period);
                let of_target = self.watched.entry(target.clone()).or_default();
                of_target.insert(name.clone(), watched);
                return Ok(Stays::For(due.max(period)));
            }
            (Some(lookout), Some(watched)) => match lookout.locked_by(watched, dir) {
                Some(0) => Some("locked".to_string()),
                Some(process) => Some(format!("locked by process {process}")),
                None => (!watched.is_quiet()).then(|| "read again and again".to_string()),
            },
            _ => None,
        };
        let path = format!("/{}/", name.path(target));
        let is_open = || Some(format!("open in process {}", open.holder(&path)?));
        let Some(how) = used.or_else(is_open) else {
            self.in_use.remove(&(target.clone(), name.clone()));
            return Ok(if due.is_zero() {
                Stays::No
            } else {
                Stays::For(due)
            });
        };
        if !due.is_zero() {
            return Ok(Stays::For(again));
        }
        let of = (target.clone(), name.clone());
        let lasts = self.in_use.entry(of).or_insert_with(Instant::now).elapsed();
        let left = failpoint::bound("in-use", IN_USE_AT_MOST).saturating_sub(lasts);
        if left.is_zero() {
            return Ok(Stays::InUse(how, lasts));
        }
        Ok(Stays::For(again.min(left)))
    }

    /// Looks whether a start has anything to do for `target`: of many targets most are tidy.
    pub(crate) fn survey(
        tree: &Tree,
        target: &Target,
        retention: &Retention,
    ) -> Result<Surveyed, Fault> {
        let shown = tree.shown(target)?;
        let current = shown.generation();
        let generations = tree.generations(target)?;
        let mut names = generations.map_or(Ok(Vec::new()), |generations| generations.names())?;
        let is_there =
            |current: &GenerationName| names.iter().any(|(name, _)| name == current.as_str());
        let mut proofs = names
            .iter()
            .filter_map(|(name, _)| GenerationName::of_proof(name.to_str()?));
        let has_stray = proofs.any(|of| !is_there(&of));
        let has_current = current.is_some_and(is_there);
        names.retain(|(name, _)| name.to_str().and_then(GenerationName::of_proof).is_none());
        // The names are sorted: each generation stands before its record.
        let (pairs, others) = names.as_chunks();
        let is_whole = |[(name, kind), (record, of_record)]: &[(OsString, Kind); 2]| {
            let is_its_record = record.as_bytes().strip_suffix(b".toml") == Some(name.as_bytes());
            is_its_record && (kind, of_record) == (&Kind::Dir, &Kind::File)
        };
        let is_tidy = others.is_empty()
            && pairs.iter().all(is_whole)
            && has_current
            && !has_stray
            && pairs.len() <= 1 + retention.keep
            && history::is_settled(tree.root(), target, &shown)?;
        let swapped_at = match current {
            Some(_) => tree.root().stat(target.to_string())?.map(|it| it.modified),
            None => None,
        };
        Ok(Surveyed {
            swapped_at,
            is_untidy: !is_tidy,
        })
    }

    /// Removes what a crash left of `target`: generations without a record, records without a
    /// generation, links that were made for an adoption, and of the history what did not happen.
    ///
    /// Returns how many there were.
    pub(crate) fn sweep(pointers: &mut Pointers, target: &Target) -> Result<usize, Fault> {
        let mut leftovers = usize::from(pointers.settle_history(target)?);
        let Some(generations) = pointers.tree().generations(target)? else {
            return Ok(leftovers);
        };
        let current = pointers.tree().pointed(target)?;
        let names = generations.names()?;
        let has = |name: String, kind| names.contains(&(name.into(), kind));
        for (name, kind) in &names {
            let Some(name) = name.to_str() else { continue };
            let record = name.strip_suffix(".toml").unwrap_or(name);
            let generation = record.parse().ok();
            let Some(generation) = generation.or_else(|| GenerationName::of_proof(name)) else {
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

/// The two clocks, at a moment.
#[derive(Debug)]
struct Now {
    at: Moment,
    boot: BootTime,
}

impl Now {
    fn read() -> Self {
        Self {
            at: Moment::now(),
            boot: BootTime::now(),
        }
    }
}

/// When a generation stopped being current.
#[derive(Clone, Debug)]
struct Since {
    at: Moment,
    /// `None` where nobody knows in which boot that was.
    boot: Option<BootTime>,
}

impl Since {
    /// How long it is until a generation may go that none goes before it is of `min_age`.
    fn remaining(&self, min_age: Duration, now: &Now) -> Duration {
        if let Some(boot) = &self.boot
            && boot.boot == now.boot.boot
            && !boot.boot.is_empty()
        {
            return min_age.saturating_sub(now.boot.since.saturating_sub(boot.since));
        }
        // What was superseded in an earlier boot is as old as this one in any case.
        let age = now.at.since(self.at).max(match self.boot {
            Some(_) => now.boot.since,
            None => Duration::ZERO,
        });
        let after_boot = AFTER_BOOT.min(min_age).saturating_sub(now.boot.since);
        min_age.saturating_sub(age).max(after_boot)
    }
}

/// A generation that isn't current.
#[derive(Debug)]
struct Superseded {
    name: GenerationName,
    since: Since,
    /// The history tells already that the generation is removed.
    has_line: bool,
}

/// What the history tells of generations that aren't current.
#[derive(Debug, Default)]
struct Told {
    /// Those of which it tells how they stopped being current, the last one first.
    known: Vec<(GenerationName, Happened)>,
    unknown: Vec<GenerationName>,
    /// Those of which it tells that they are removed.
    removed: HashSet<GenerationName>,
    /// The target was taken out of the tree by the last swap, and nothing is current.
    is_withdrawn: bool,
}

impl Told {
    /// Reads back as far as is needed for `names`, but for the `current` one.
    fn read(
        history: impl IntoIterator<Item = Result<Happened, Failure>>,
        current: Option<&GenerationName>,
        mut names: Vec<GenerationName>,
    ) -> Result<Self, Failure> {
        let mut told = Self::default();
        names.retain(|name| Some(name) != current);
        let mut lines = history.into_iter();
        let mut is_first = true;
        while is_first || !names.is_empty() {
            let Some(line) = lines.next().transpose()? else {
                break;
            };
            if !line.is_swap() {
                told.removed.extend(line.removed());
                continue;
            }
            if is_first {
                told.is_withdrawn = current.is_none() && line.to.is_none();
                // A pointer that somebody has removed or changed by hand is no reason to remove what
                // it named.
                names.retain(|name| Some(name) != line.to.as_ref());
                is_first = false;
            }
            let at = line
                .from
                .as_ref()
                .and_then(|from| names.iter().position(|it| it == from));
            if let Some(at) = at {
                told.known.push((names.swap_remove(at), line));
            }
        }
        told.unknown = names;
        Ok(told)
    }

    /// How many of them are kept of any age.
    fn keep(&self, keep: usize) -> usize {
        if self.is_withdrawn { 0 } else { keep }
    }

    /// The one that was current last comes first. Of what the history doesn't tell, its record was
    /// written last at a time when the generation became current: that was earlier.
    fn superseded(
        self,
        generations: &Dir,
    ) -> Result<impl Iterator<Item = Superseded> + use<>, Failure> {
        let mut unknown = Vec::new();
        for name in self.unknown {
            // A generation without its record is a leftover, which a start sweeps.
            if let Some(record) = generations.stat(name.record())? {
                unknown.push((record.modified, name));
            }
        }
        unknown.sort_unstable_by(|a, b| b.cmp(a));
        let unknown = unknown
            .into_iter()
            .map(|(at, name)| (name, Since { at, boot: None }));
        let known = self.known.into_iter().map(|(name, line)| {
            let boot = Some(line.boot_time());
            (name, Since { at: line.at, boot })
        });
        let removed = self.removed;
        Ok(known.chain(unknown).map(move |(name, since)| Superseded {
            has_line: removed.contains(&name),
            name,
            since,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Digest;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: u64) -> Moment {
        Moment::from_stat(1_795_364_100, 0).later(Duration::from_secs(seconds))
    }

    fn name(number: u64) -> GenerationName {
        GenerationName::new(at(number), &Digest::of(b""), |_| false)
    }

    fn boot(boot: &str, since: Duration) -> BootTime {
        BootTime {
            boot: boot.to_string(),
            since,
        }
    }

    fn swap(from: Option<u64>, to: Option<u64>) -> Happened {
        let [from, to] = [from, to].map(|it| it.map(name));
        let event = to
            .as_ref()
            .map_or(history::Event::Withdrawn, |_| history::Event::Published);
        Happened::now(event, from.as_ref(), to.as_ref())
    }

    fn removed(from: u64) -> Happened {
        Happened::now(history::Event::Removed, Some(&name(from)), None)
    }

    /// What a history, of which the oldest line comes first, tells of these generations.
    fn told(lines: Vec<Happened>, current: Option<u64>, names: &[u64]) -> Told {
        let names = names.iter().map(|number| name(*number)).collect();
        let lines = lines.into_iter().rev().map(Ok);
        Told::read(lines, current.map(name).as_ref(), names).unwrap()
    }

    fn known(told: &Told) -> Vec<GenerationName> {
        told.known.iter().map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn the_history_tells_which_were_current_last_whatever_any_clock_says() {
        let mut lines = vec![
            swap(None, Some(1)),
            swap(Some(1), Some(2)),
            swap(Some(2), Some(1)),
            swap(Some(1), Some(3)),
            swap(Some(3), Some(2)),
        ];
        for (line, second) in lines.iter_mut().zip([5, 4, 3, 2, 1]) {
            (line.at, line.boottime) = (at(second), second);
        }
        let found = told(lines, Some(2), &[1, 2, 3, 4]);
        assert_eq!(known(&found), [name(3), name(1)]);
        assert_eq!(
            found.known[1].1.at,
            at(2),
            "by the last swap that replaced it"
        );
        assert_eq!(found.unknown, [name(4)]);
        assert_eq!((found.is_withdrawn, found.keep(2)), (false, 2));
    }

    #[test]
    fn of_a_withdrawn_target_none_is_kept_for_its_rank() {
        let lines = || {
            vec![
                swap(None, Some(1)),
                swap(Some(1), Some(2)),
                swap(Some(2), None),
            ]
        };
        let found = told(lines(), None, &[1, 2]);
        assert_eq!(known(&found), [name(2), name(1)]);
        assert_eq!((found.is_withdrawn, found.keep(2)), (true, 0));
        let lines = [lines(), vec![swap(None, Some(3))]].concat();
        assert_eq!(told(lines, Some(3), &[1, 2, 3]).keep(2), 2);
    }

    #[test]
    fn what_a_pointer_named_that_was_changed_by_hand_is_not_removed() {
        let lines = || vec![swap(None, Some(1)), swap(Some(1), Some(2))];
        for current in [None, Some(7)] {
            let found = told(lines(), current, &[1, 2]);
            assert_eq!(known(&found), [name(1)]);
            assert_eq!((found.unknown.len(), found.keep(2)), (0, 2));
        }
    }

    #[test]
    fn a_removal_is_told_of_once() {
        let lines = vec![swap(None, Some(1)), swap(Some(1), Some(2)), removed(1)];
        let found = told(lines, Some(2), &[1, 2]);
        assert_eq!(known(&found), [name(1)]);
        assert!(found.removed.contains(&name(1)));
        // It has come back meanwhile.
        let lines = vec![
            swap(Some(1), Some(2)),
            removed(1),
            swap(Some(2), Some(1)),
            swap(Some(1), Some(2)),
        ];
        assert!(!told(lines, Some(2), &[1, 2]).removed.contains(&name(1)));
    }

    #[test]
    fn a_generation_that_was_superseded_in_1970_or_tomorrow_ages_by_the_clock_of_the_boot() {
        for wall in [Moment::from_stat(7, 0), at(86_400)] {
            let since = Since {
                at: wall,
                boot: Some(boot("this", DAY)),
            };
            for (hours, left) in [(0, 24), (23, 1), (24, 0), (25, 0)] {
                let hour = Duration::from_secs(3_600);
                let now = Now {
                    at: at(0),
                    boot: boot("this", DAY + hour * hours),
                };
                assert_eq!(since.remaining(DAY, &now), hour * left, "{wall} {hours}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_generation_goes_before_its_age(
            superseded in 0_u64..200_000,
            passed in 0_u64..200_000,
            uptime in 0_u64..200_000,
            min_age in 0_u64..200_000,
            in_boot in 0..4,
        ) {
            let [passed, uptime, min_age] = [passed, uptime, min_age].map(Duration::from_secs);
            let now = Now { at: at(superseded).later(passed), boot: boot("this", uptime) };
            let of_boot = match in_boot {
                0 => None,
                1 => Some(boot("this", uptime.saturating_sub(passed))),
                2 => Some(boot("other", Duration::from_secs(5))),
                _ => Some(boot("", uptime.saturating_sub(passed))),
            };
            let left = Since { at: at(superseded), boot: of_boot }.remaining(min_age, &now);
            let missing = |age| min_age.saturating_sub(age);
            prop_assert!(left <= min_age);
            match in_boot {
                1 => prop_assert_eq!(left, missing(passed.min(uptime))),
                // No later than by the wall clock, but for the minutes after the boot, and than by the
                // time since that.
                _ => {
                    prop_assert!(left >= missing(passed.max(uptime)));
                    prop_assert!(left <= missing(passed).max(AFTER_BOOT.saturating_sub(uptime)));
                    let early = AFTER_BOOT.min(min_age).saturating_sub(uptime);
                    prop_assert!(left >= early);
                }
            }
        }
    }
}
