//! A look at `incoming/`: which names are new there. Whether a drop is whole shows when it is looked
//! into.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::Spool;
use super::clock::Reading;
use super::drop::{NOBODY, Seen};
use super::names::{DropKey, claim_name_of};
use super::peek::is_mounted;
use crate::sys::{Dir, Failure};
use crate::trust::MaxWaiting;
use crate::words::Moment;

/// A drop's event comes within this time, or is lost.
const EVENT: Duration = Duration::from_millis(200);

/// So many drops found are thinned out to those that may wait: memory does not grow with a backlog.
const MANY: usize = 2_048;

/// What events have said of drops.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Drops that were renamed into `incoming/`, each with its place in their order.
    pub renamed: HashMap<OsString, u64>,
    /// Drops that were made there: they are written in place.
    pub made: HashSet<OsString>,
    /// There are events.
    pub is_watching: bool,
}

/// Drops that are known already.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The claim names of those that are in `incoming/`, and whose each was when it was seen.
    pub incoming: HashMap<Arc<str>, u32>,
    /// Those that are in `processing/`, or about to be.
    pub claimed: HashSet<DropKey>,
}

impl FromIterator<(DropKey, bool)> for Known {
    /// With each whether it is claimed.
    fn from_iter<I: IntoIterator<Item = (DropKey, bool)>>(drops: I) -> Self {
        let mut known = Self::default();
        for (key, is_claimed) in drops {
            if is_claimed {
                known.claimed.insert(key);
            } else {
                known.incoming.insert(key.claim_name, key.owner);
            }
        }
        known
    }
}

/// A drop that is known, as a scan has met it, or another of its importer that has its name.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) key: DropKey,
    /// The place of its rename, where an event told of that.
    pub arrival: Option<u64>,
    /// The drop was in `incoming/` when the scan began. Where it was claimed since, this may be another
    /// importer's.
    pub was_incoming: bool,
}

/// What a scan goes by.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Only these names are looked at, where events have told all that came; else all that are there.
    pub names: Option<Vec<OsString>>,
    pub arrivals: Arrivals,
    pub known: Known,
    /// How many drops of each importer wait already, and how many may.
    pub waiting: HashMap<u32, usize>,
    pub max_waiting: MaxWaiting,
    /// Importers of whom drops were left out before, or put off: what came later is not found by its
    /// name.
    pub left_out: HashSet<u32>,
}

/// How many drops of each importer may wait, from the first one that a scan has found on: of those that
/// were left out some came before others that a larger bound would keep.
type Bounds = HashMap<u32, usize>;

/// What a look at `incoming/` has shown.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// New drops, in the order in which they came; of an importer who has very many, the first ones.
    pub found: Vec<Seen>,
    /// Whatever is there was looked at.
    pub is_of_all: bool,
    /// Importers who have more.
    pub left_out: HashSet<u32>,
    pub met: Vec<Met>,
    /// When drops will be found that are so new that one which came before them may have been
    /// missed, or that an event is still to tell their place.
    pub settles: Option<Duration>,
    /// Bytes that are free on the spool's file system.
    pub free: u64,
    /// When the first of those of an importer came: what came later is put off with it.
    pub put_off: HashMap<u32, Moment>,
}

impl Spool {
    /// Looks for names in `incoming/` besides those of drops that are known.
    pub(crate) fn scan(&self, asked: &Asked) -> Result<Scan, Failure> {
        let mut look = Look {
            incoming: &self.incoming,
            asked,
            clock: None,
        };
        let mut bounds = Bounds::new();
        let mut scan = look.all(&mut bounds)?;
        if scan.settles.is_some() {
            // The clock is read before the names, and leaves a trace: not where there is nothing new.
            look.clock = Some(self.clock.read(&self.processing.dir)?);
            scan = look.all(&mut bounds)?;
        }
        scan.keep_first(asked, &mut bounds);
        (scan.free, _) = self.root.free_space()?;
        let Scan { found, put_off, .. } = &mut scan;
        found.retain(|seen| {
            put_off
                .get(&seen.owner)
                .is_none_or(|first| seen.completed < *first)
        });
        Ok(scan)
    }
}

/// What a look at `incoming/` goes by.
struct Look<'a> {
    incoming: &'a Dir,
    asked: &'a Asked,
    clock: Option<Reading>,
}

impl Look<'_> {
    /// All new drops; without a clock, only whether there is one, which settles then.
    fn all(&self, bounds: &mut Bounds) -> Result<Scan, Failure> {
        let (mut scan, mut full) = (Scan::default(), 2 * MANY);
        scan.is_of_all = self.asked.names.is_none();
        let mut failed = Ok(());
        let mut look_at = |name: &OsStr| {
            let is_hidden = name.as_bytes().starts_with(b".");
            if is_hidden {
                return ControlFlow::Continue(());
            }
            match self.look_at(name, &mut scan) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                Err(failure) => {
                    failed = Err(failure);
                    return ControlFlow::Break(());
                }
            }
            if scan.found.len() >= full {
                scan.keep_first(self.asked, bounds);
                full = 2 * scan.found.len().max(MANY);
            }
            ControlFlow::Continue(())
        };
        if let Some(names) = &self.asked.names {
            let _ = names.iter().try_for_each(|name| look_at(name));
        } else {
            self.incoming.each(|name, _| look_at(name))?;
        }
        failed.map(|()| scan)
    }

    /// # Errors
    /// The machine's own troubles: what is mounted at the name is its owner's.
    fn look_at(&self, name: &OsStr, scan: &mut Scan) -> Result<ControlFlow<()>, Failure> {
        let claim_name = claim_name_of(name);
        let arrivals = &self.asked.arrivals;
        let arrival = arrivals.renamed.get(name).copied();
        let known = &self.asked.known;
        if let Some((claim_name, owner)) = known.incoming.get_key_value(&*claim_name) {
            let (owner, claim_name) = (*owner, Arc::clone(claim_name));
            scan.met.push(Met {
                key: DropKey { owner, claim_name },
                arrival,
                was_incoming: true,
            });
            return Ok(ControlFlow::Continue(()));
        }
        let stat = match self.incoming.stat(name) {
            Ok(Some(stat)) => Some(stat),
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(failure) if is_mounted(&failure) => None,
            Err(failure) => return Err(failure),
        };
        let key = DropKey {
            owner: stat.map_or(NOBODY, |stat| stat.owner.uid),
            claim_name: claim_name.into(),
        };
        if known.claimed.contains(&key) {
            scan.met.push(Met {
                key,
                arrival,
                was_incoming: false,
            });
            return Ok(ControlFlow::Continue(()));
        }
        let waits = if arrivals.is_watching {
            EVENT
        } else {
            Moment::TICK
        };
        let Some(clock) = self.clock else {
            scan.settles = Some(waits);
            return Ok(ControlFlow::Break(()));
        };
        let Some(stat) = stat else {
            scan.found.push(Seen::covered(name, key, clock.now()));
            return Ok(ControlFlow::Continue(()));
        };
        let age = clock.age(stat.changed);
        let is_made = arrivals.made.contains(name);
        if arrival.is_some() || is_made || age >= waits {
            let mut seen = Seen::incoming(name, key, &stat, arrival);
            seen.is_made = is_made;
            seen.is_from_future = clock.is_ahead(stat.changed);
            scan.found.push(seen);
        } else {
            let rest = waits.saturating_sub(age);
            scan.settles = Some(scan.settles.map_or(rest, |known| known.min(rest)));
            let first = scan.put_off.entry(stat.owner.uid).or_insert(stat.changed);
            *first = stat.changed.min(*first);
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Scan {
    /// Leaves as many drops of each importer as may wait, the first ones.
    fn keep_first(&mut self, asked: &Asked, bounds: &mut Bounds) {
        let mut counts = asked.waiting.clone();
        self.found.sort_unstable_by(Seen::in_order);
        self.found.retain(|seen| {
            let of_importer = counts.entry(seen.owner).or_default();
            *of_importer += 1;
            let bound = bounds.entry(seen.owner);
            let bound = bound.or_insert_with(|| asked.max_waiting.of(seen.owner));
            let has_earlier = asked.names.is_some() && asked.left_out.contains(&seen.owner);
            let is_kept = *of_importer <= *bound && !has_earlier;
            if !is_kept {
                self.left_out.insert(seen.owner);
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn at_most(max_waiting: usize) -> MaxWaiting {
        let mut settings = Settings::default();
        settings.limits.max_waiting = max_waiting;
        MaxWaiting::new(&Arc::new(settings), false)
    }

    impl Scan {
        /// With drops that are known, and whether each was in `incoming/`.
        pub(crate) fn for_test(found: Vec<Seen>, met: Vec<(DropKey, bool)>) -> Self {
            let met = met.into_iter().map(|(key, was_incoming)| Met {
                key,
                arrival: None,
                was_incoming,
            });
            Self {
                found,
                met: met.collect(),
                ..Self::default()
            }
        }
    }

    #[test]
    fn of_each_importer_the_first_drops_are_kept() {
        let seen = |owner: u32, number: u32| {
            let at = Moment::from_stat(number.into(), 0);
            Seen::for_test(&format!("{owner}-{number}"), owner, at)
        };
        let mut scan = Scan::default();
        for number in (0..4).rev() {
            scan.found.extend([seen(1, number), seen(2, number)]);
        }
        scan.found.push(seen(3, 9));
        let mut asked = Asked {
            waiting: [(2, 1)].into(),
            max_waiting: at_most(2),
            ..Asked::default()
        };
        scan.keep_first(&asked, &mut Bounds::new());
        let names = |scan: &Scan| -> Vec<_> { scan.found.iter().map(Seen::shown_name).collect() };
        assert_eq!(names(&scan), ["1-0", "2-0", "1-1", "3-9"]);
        assert_eq!(scan.left_out, [1, 2].into());

        // By their names drops are found that came later than those that were left out.
        (asked.names, asked.left_out) = (Some(Vec::new()), [1].into());
        scan.keep_first(&asked, &mut Bounds::new());
        assert_eq!(names(&scan), ["2-0", "3-9"]);
    }

    #[test]
    fn no_drop_is_found_before_one_of_its_importer_that_came_before() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let incoming = folder.path().join(super::super::INCOMING);
        let mut asked = Asked {
            max_waiting: at_most(2),
            ..Asked::default()
        };
        asked.arrivals.is_watching = true;
        // No event has told of the first one yet.
        for name in ["first", "second"] {
            std::fs::create_dir(incoming.join(name)).unwrap();
        }
        asked.arrivals.renamed.insert("second".into(), 0);
        let scan = spool.scan(&asked).unwrap();
        let found: Vec<_> = scan.found.iter().map(Seen::shown_name).collect();
        // On a slow machine the event has been waited for by now.
        let all = ["first", "second"];
        assert!(found.is_empty() || found == all, "{found:?}");
        asked.arrivals.renamed.insert("first".into(), 1);
        let scan = spool.scan(&asked).unwrap();
        assert_eq!(scan.found.len(), 2);
    }
}
