//! Rejected drops: each is kept beside its outcome, for as long, and as many, as the settings allow.
//!
//! Too many are those that hold more than `spool.max_rejected` on the disk, or that leave less than
//! `spool.min_free_space`: then, of the importer who holds most, the oldest go. Their outcomes stay.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, MutexGuard};

use rustix::io::Errno;

use super::drop::Stays;
use super::names::{file_of, temporary_of};
use super::outcome::MAX_SIZE;
use super::peek::is_mounted;
use crate::fault::Fault;
use crate::sys::{Dir, Failure, Kind, Stat, failpoint};
use crate::words::{ClaimId, Moment};

/// Files of several names that are remembered while a drop is measured: more count once a name.
const MAX_LINKED: usize = 1 << 20;

/// Begins the name of a drop that is being removed.
const GOING: &str = ".going.";

/// The folder of rejected drops, and what they hold.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) dir: Dir,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    drops: BTreeMap<OsString, Held>,
    /// Drops whose outcome is here and that come later, by the name that each will have: two importers
    /// may each have one of a name.
    coming: HashMap<String, ClaimId>,
    /// Drops that are to be measured.
    new: Vec<OsString>,
    /// All drops in the folder were measured.
    is_complete: bool,
}

/// A rejected drop, as it was measured when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: u32,
    /// When it was rejected: the time of its rename.
    since: Moment,
    /// On the disk: holes take nothing, and a file of several names counts once.
    bytes: u64,
    /// Device and inode: another of the name is not meant.
    id: (u64, u64),
    /// Its owner keeps it from being removed.
    is_stuck: bool,
}

/// A rejected drop that is on its way here: its claim and its claim name.
type Coming<'a> = (ClaimId, &'a str);

/// A rejected drop that is being removed: it has a hidden name by now.
type Going = (OsString, Held, Result<OsString, Failure>);

/// A rejected drop that was removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) name: OsString,
    pub(super) owner: u32,
    pub(super) bytes: u64,
}

impl Rejected {
    pub(super) fn new(dir: Dir) -> Self {
        Self {
            dir,
            kept: Mutex::default(),
        }
    }

    /// Takes a drop from its place in `processing/`.
    pub(super) fn take(&self, processing: &Dir, place: &str, drop: Coming) -> Result<(), Failure> {
        failpoint("reject-drop", "rejecting", self.dir.path())?;
        let name = self.kept().name_of(drop);
        processing.rename(place, &self.dir, &name)?;
        let mut kept = self.kept();
        kept.coming.remove(&name);
        // To measure it may take long, and whoever puts drops away is waited for.
        kept.new.push(name.into());
        Ok(())
    }

    /// Writes the outcome of a drop where the drop will be kept.
    pub(super) fn write_outcome(&self, drop: Coming, text: &str) -> Result<(), Failure> {
        failpoint("reject", "rejecting", self.dir.path())?;
        let name = self.make_room(drop)?;
        let temporary = temporary_of(drop.0);
        self.dir
            .replace(&file_of(&name), &temporary, text.as_bytes())
    }

    /// Whether this is the outcome that stands where a drop will be kept. Nobody else takes the place
    /// then: after a start it is known by nothing else whose it is.
    pub(super) fn has_outcome(&self, drop: Coming, text: &str) -> Result<bool, Failure> {
        let mut kept = self.kept();
        let name = kept.name_of(drop);
        let written = self.dir.read(file_of(&name), MAX_SIZE)?;
        let is_others = kept.coming.get(&name).is_some_and(|it| *it != drop.0);
        let is_it = !is_others && written.as_deref() == Some(text.as_bytes());
        if is_it {
            kept.coming.insert(name, drop.0);
        }
        Ok(is_it)
    }

    /// Measures the drops that were taken since.
    pub(super) fn measure_new(&self) {
        let new = std::mem::take(&mut self.kept().new);
        for name in new {
            self.measure(&name);
        }
    }

    /// Whether a drop that stays in `incoming/` has gone from there, or is another by now: that one
    /// will be found by a scan.
    ///
    /// # Errors
    /// [`Fault::Owner`] when it is there still, as it was.
    pub(super) fn check_stays(&self, incoming: &Dir, stays: &Stays) -> Result<(), Fault> {
        let mut kept = self.kept();
        let is_same = match incoming.stat(&stays.seen.name) {
            Ok(Some(stat)) => stays.mark == Some((stat.id, stat.changed)),
            Ok(None) => false,
            Err(failure) if is_mounted(&failure) => stays.mark.is_none(),
            Err(failure) => return Err(failure.into()),
        };
        if !is_same {
            // What tells `status` of it.
            let name = kept.name_of((stays.claim, &stays.seen.key.claim_name));
            self.dir.remove_file(file_of(&name))?;
            kept.coming.remove(&name);
            return Ok(());
        }
        let path = incoming.path().join(&stays.seen.name);
        Err(Fault::Owner(Failure::new("moving", path, Errno::BUSY)))
    }

    /// Has a name for a drop that will come: its own, for which one that was rejected before gives way
    /// with its outcome, or, where another is about to come by that name, one with a number.
    fn make_room(&self, drop: Coming) -> Result<String, Failure> {
        let (dir, mut kept) = (&self.dir, self.kept());
        let (claim, claim_name) = drop;
        let name = kept.name_of(drop);
        if kept.coming.get(&name) == Some(&claim) {
            return Ok(name);
        }
        if kept.coming.contains_key(&name) {
            let name = self.free_number(&kept, claim_name)?;
            kept.coming.insert(name.clone(), claim);
            return Ok(name);
        }
        if !self.is_free(&kept, claim_name)? {
            let free = self.free_number(&kept, claim_name)?;
            // The outcome first: once the drop has gone, another outcome takes its place.
            if dir.stat(file_of(claim_name))?.is_some() {
                dir.rename(file_of(claim_name), dir, file_of(&free))?;
            }
            dir.rename_new(claim_name, dir, &free)?;
            if let Some(held) = kept.drops.remove(OsStr::new(claim_name)) {
                kept.drops.insert(free.into(), held);
            }
        }
        kept.coming.insert(name.clone(), claim);
        Ok(name)
    }

    /// The name with a number that no drop has, and none will.
    fn free_number(&self, kept: &Kept, claim_name: &str) -> Result<String, Failure> {
        let numbered = |number: u64| format!("{claim_name}~{number}");
        // One importer may have thousands of one name: not all of their numbers are tried.
        let (mut taken, mut free) = (0, 1);
        while !self.is_free(kept, &numbered(free))? {
            (taken, free) = (free, free * 2);
        }
        while free - taken > 1 {
            let middle = u64::midpoint(taken, free);
            if self.is_free(kept, &numbered(middle))? {
                free = middle;
            } else {
                taken = middle;
            }
        }
        Ok(numbered(free))
    }

    fn is_free(&self, kept: &Kept, name: &str) -> Result<bool, Failure> {
        if kept.coming.contains_key(name) {
            return Ok(false);
        }
        match self.dir.stat(name) {
            Err(failure) if failure.is_by_owner() => Ok(false),
            stat => Ok(stat?.is_none()),
        }
    }

    /// Measures what was not measured before, and forgets what has gone.
    pub(super) fn look(&self) -> Result<(), Failure> {
        for (name, _) in self.dir.names()? {
            if name.as_bytes().starts_with(GOING.as_bytes()) {
                // A removal came no further. What its owner keeps stays.
                let _ = self.dir.remove_tree(name, 0);
            }
        }
        let names = self.names()?;
        let new = |name: &&OsString| !self.kept().drops.contains_key(*name);
        for name in names.iter().filter(new).collect::<Vec<_>>() {
            self.measure(name);
        }
        let mut kept = self.kept();
        kept.drops.retain(|name, _| names.contains(name));
        for held in kept.drops.values_mut() {
            held.is_stuck = false;
        }
        kept.is_complete = true;
        Ok(())
    }

    /// The names of the rejected drops.
    fn names(&self) -> Result<BTreeSet<OsString>, Failure> {
        let is_drop = |name: &[u8]| !name.starts_with(b".") && !name.ends_with(b".json");
        let names = self.dir.names()?.into_iter().map(|(name, _)| name);
        Ok(names.filter(|name| is_drop(name.as_bytes())).collect())
    }

    fn measure(&self, name: &OsStr) {
        // What something is mounted on can't be removed either.
        let Ok(Some(stat)) = self.dir.stat(name) else {
            return;
        };
        let held = Held {
            owner: stat.owner.uid,
            since: stat.changed,
            id: stat.id,
            bytes: allocated(&self.dir, name),
            is_stuck: false,
        };
        self.kept().drops.insert(name.to_os_string(), held);
    }

    /// Whether there is a drop that could be removed.
    pub(super) fn has_any(&self) -> bool {
        let kept = self.kept();
        !kept.is_complete || kept.drops.values().any(|held| !held.is_stuck)
    }

    /// Removes drops, of the importer who holds most the oldest, until what all hold together and what
    /// was removed is not too much any more. Nothing is removed before all were measured.
    ///
    /// # Errors
    /// Why one could not be removed, where its owner is not the cause.
    pub(super) fn bound(
        &self,
        is_too_much: impl Fn(u64, u64) -> bool,
    ) -> Result<Vec<Gone>, Failure> {
        let (mut gone, mut freed, mut is_fresh) = (Vec::new(), 0, false);
        loop {
            if !is_fresh {
                // Somebody may have removed drops by hand.
                let names = self.names()?;
                self.kept().drops.retain(|name, _| names.contains(name));
                is_fresh = true;
            }
            let Some((name, held, hidden)) = self.hide_next(|all| is_too_much(all, freed)) else {
                return Ok(gone);
            };
            let removed = hidden.and_then(|hidden| {
                let removed = self.dir.remove_tree(&hidden, held.bytes);
                removed.or_else(|failure| {
                    // Where the name is another's by now, the next look tries again.
                    self.dir.rename_new(&hidden, &self.dir, &name)?;
                    Err(failure)
                })
            });
            if let Err(failure) = removed {
                let is_by_owner = failure.is_by_owner();
                let bytes = allocated(&self.dir, &name);
                freed += held.bytes.saturating_sub(bytes);
                let stuck = Held {
                    bytes,
                    is_stuck: true,
                    ..held
                };
                self.kept().drops.insert(name, stuck);
                if !is_by_owner {
                    return Err(failure);
                }
                continue;
            }
            freed += held.bytes;
            gone.push(Gone {
                name,
                owner: held.owner,
                bytes: held.bytes,
            });
        }
    }

    /// Hides the drop that goes next, if all that is held is too much: a drop that comes meanwhile, and
    /// takes its name, is not removed for it.
    fn hide_next(&self, is_too_much: impl Fn(u64) -> bool) -> Option<Going> {
        let mut kept = self.kept();
        loop {
            let (name, held) = kept.next_to_go(&is_too_much)?;
            kept.drops.remove(&name);
            let is_same = |stat: Option<Stat>| stat.is_some_and(|stat| stat.id == held.id);
            if self.dir.stat(&name).is_ok_and(|stat| !is_same(stat)) {
                kept.new.push(name);
                continue;
            }
            let mut hidden = OsString::from(GOING);
            hidden.push(&name);
            let renamed = self.dir.rename(&name, &self.dir, &hidden);
            return Some((name, held, renamed.map(|()| hidden)));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics here")
    }
}

impl Kept {
    /// The name that a drop will be kept by, as far as one was found for it.
    fn name_of(&self, (claim, claim_name): Coming) -> String {
        if self.coming.get(claim_name) == Some(&claim) {
            return claim_name.to_string();
        }
        let mut others = self.coming.iter().filter(|(_, other)| **other == claim);
        others
            .next()
            .map_or(claim_name, |(name, _)| name)
            .to_string()
    }

    /// The drop that goes next, if all that is held is too much.
    fn next_to_go(&self, is_too_much: impl Fn(u64) -> bool) -> Option<(OsString, Held)> {
        let all = self.drops.values().map(|held| held.bytes).sum();
        if !self.is_complete || !is_too_much(all) {
            return None;
        }
        let mut of_owners = BTreeMap::<u32, u64>::new();
        for held in self.drops.values() {
            *of_owners.entry(held.owner).or_default() += held.bytes;
        }
        let drops = self.drops.iter().filter(|(_, held)| !held.is_stuck);
        let first = |(name, held): &(&OsString, &Held)| {
            (
                Reverse(of_owners[&held.owner]),
                held.owner,
                held.since,
                (*name).clone(),
            )
        };
        let (name, held) = drops.min_by_key(first)?;
        Some((name.clone(), *held))
    }
}

/// The bytes that a file or folder takes on the disk with all that is beneath it.
fn allocated(dir: &Dir, name: &OsStr) -> u64 {
    let (mut bytes, mut linked) = (0_u64, HashSet::new());
    dir.walk(name, &mut |stat| {
        // What can't be looked at is not counted.
        if let Ok(stat) = stat {
            let is_linked = stat.has_other_names && stat.kind != Kind::Dir;
            let is_new = !is_linked || linked.len() >= MAX_LINKED || linked.insert(stat.id);
            bytes += if is_new { stat.allocated } else { 0 };
        }
        ControlFlow::Continue(())
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected() -> (tempfile::TempDir, Rejected) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        (folder, Rejected::new(dir))
    }

    fn put(rejected: &Rejected, name: &str, owner: u32, seconds: i64, bytes: u64) {
        std::fs::create_dir(rejected.dir.path().join(name)).unwrap();
        let stat = rejected.dir.stat(name).unwrap().unwrap();
        let held = Held {
            owner,
            since: Moment::from_stat(seconds, 0),
            id: stat.id,
            bytes,
            is_stuck: false,
        };
        rejected.kept().drops.insert(name.into(), held);
        rejected.kept().is_complete = true;
    }

    fn gone(rejected: &Rejected, max: u64) -> Vec<String> {
        let gone = rejected.bound(|all, _| all > max).unwrap();
        let names = gone
            .into_iter()
            .map(|gone| gone.name.into_string().unwrap());
        names.collect()
    }

    #[test]
    fn the_oldest_of_the_importer_who_holds_most_go_first() {
        let (folder, rejected) = rejected();
        for (name, owner, seconds, bytes) in [
            ("a-new", 1, 9, 5),
            ("a-old", 1, 3, 5),
            ("b", 2, 1, 8),
            ("c", 3, 2, 1),
        ] {
            put(&rejected, name, owner, seconds, bytes);
            std::fs::write(folder.path().join(format!("{name}.json")), "{}").unwrap();
        }
        assert_eq!(gone(&rejected, 19), Vec::<String>::new());
        assert_eq!(gone(&rejected, 18), ["a-old"]);
        assert_eq!(gone(&rejected, 6), ["b"]);
        assert_eq!(gone(&rejected, 0), ["a-new", "c"]);
        let left = rejected.dir.names().unwrap();
        assert_eq!(left.len(), 4, "outcomes stay: {left:?}");
    }

    #[test]
    fn nothing_goes_before_all_were_measured_and_what_somebody_has_removed_counts_for_nothing() {
        let (folder, rejected) = rejected();
        put(&rejected, "a", 1, 1, 5);
        rejected.kept().is_complete = false;
        assert_eq!(gone(&rejected, 0), Vec::<String>::new());
        put(&rejected, "b", 1, 2, 5);
        std::fs::remove_dir(folder.path().join("a")).unwrap();
        assert_eq!(gone(&rejected, 5), Vec::<String>::new());
    }

    #[test]
    fn a_drop_that_has_taken_the_name_of_an_old_one_stays() {
        let (folder, rejected) = rejected();
        put(&rejected, "a", 1, 1, 5);
        std::fs::rename(folder.path().join("a"), folder.path().join("aside")).unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        assert_eq!(gone(&rejected, 0), Vec::<String>::new());
        assert!(folder.path().join("a").is_dir());
        rejected.measure_new();
        assert_eq!(gone(&rejected, 0), ["a"], "it is known by now");
    }

    #[test]
    fn what_its_owner_keeps_has_its_name_again_and_a_removal_that_broke_off_is_ended() {
        let (folder, rejected) = rejected();
        put(&rejected, "a", 1, 1, 5);
        std::fs::create_dir_all(folder.path().join(".going.left/image")).unwrap();
        std::fs::create_dir_all(folder.path().join(".going.a/in/the/way")).unwrap();
        // An outcome that is being written.
        std::fs::write(folder.path().join(".0.tmp"), "{").unwrap();
        assert!(rejected.bound(|all, _| all > 0).is_err());
        assert!(folder.path().join("a").is_dir());
        rejected.look().unwrap();
        assert_eq!(rejected.dir.names().unwrap().len(), 2);
        assert_eq!(gone(&rejected, 0), ["a"]);
    }

    #[test]
    fn each_drop_of_one_name_has_a_number() {
        let (folder, rejected) = rejected();
        for number in 0..20 {
            let claim = ClaimId::new(number, 0);
            assert_eq!(rejected.make_room((claim, "a")).unwrap(), "a");
            rejected.kept().coming.clear();
            put(&rejected, "a", 1, 1, 5);
            std::fs::write(folder.path().join("a.json"), "{}").unwrap();
        }
        let names = rejected.names().unwrap();
        assert_eq!(names.len(), 20, "{names:?}");
        let outcomes = rejected.dir.names().unwrap().len() - names.len();
        assert_eq!(outcomes, 20);
        assert_eq!(rejected.kept().drops.len(), 20);
    }

    #[test]
    fn drops_of_one_name_that_come_at_one_time_are_kept_beside_each_other() {
        let (folder, rejected) = rejected();
        let processing = tempfile::tempdir().unwrap();
        let from = Dir::open(processing.path()).unwrap();
        let drops = [1, 2, 3].map(|number| (ClaimId::new(number, 0), "a"));
        for (number, drop) in drops.iter().enumerate() {
            std::fs::create_dir(processing.path().join(number.to_string())).unwrap();
            rejected.write_outcome(*drop, &number.to_string()).unwrap();
        }
        for (number, drop) in drops.iter().enumerate().rev() {
            let (number, place) = (number.to_string(), number.to_string());
            assert!(rejected.has_outcome(*drop, &number).unwrap());
            rejected.take(&from, &place, *drop).unwrap();
        }
        for (number, name) in ["a", "a~1", "a~2"].iter().enumerate() {
            let outcome = folder.path().join(format!("{name}.json"));
            assert_eq!(
                std::fs::read_to_string(outcome).unwrap(),
                number.to_string()
            );
            assert!(folder.path().join(name).is_dir());
        }
        // An outcome that was written before a start keeps its place from a drop that comes after that.
        std::fs::write(folder.path().join("b.json"), "old").unwrap();
        let (old, new) = ((ClaimId::new(5, 0), "b"), (ClaimId::new(6, 0), "b"));
        assert!(rejected.has_outcome(old, "old").unwrap());
        rejected.write_outcome(new, "new").unwrap();
        assert!(rejected.has_outcome(old, "old").unwrap());
        assert!(folder.path().join("b~1.json").is_file());
        // The next one of the name moves the first.
        let next = (ClaimId::new(4, 0), "a");
        rejected.write_outcome(next, "3").unwrap();
        assert!(folder.path().join("a~3").is_dir());
        assert!(rejected.has_outcome(next, "3").unwrap());
    }

    #[test]
    fn what_was_freed_counts_where_the_room_is_asked_for() {
        let (_folder, rejected) = rejected();
        for (name, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
            put(&rejected, name, 1, seconds, 5);
        }
        let gone = rejected.bound(|_, freed| freed < 6).unwrap();
        assert_eq!(gone.len(), 2);
    }

    #[test]
    fn a_drop_holds_what_its_blocks_do_and_a_file_of_two_names_once() {
        let (folder, rejected) = rejected();
        let drop = folder.path().join("drop");
        std::fs::create_dir_all(drop.join("image")).unwrap();
        let before = allocated(&rejected.dir, "drop".as_ref());
        std::fs::write(drop.join("image/linux"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(drop.join("image/linux"), drop.join("image/again")).unwrap();
        let hole = std::fs::File::create(drop.join("image/hole")).unwrap();
        hole.set_len(1 << 40).unwrap();
        let bytes = allocated(&rejected.dir, "drop".as_ref()) - before;
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        rejected.look().unwrap();
        let held = rejected.kept().drops[OsStr::new("drop")];
        assert_eq!(held.bytes, before + bytes);
        // It is not measured again.
        std::fs::remove_file(drop.join("image/linux")).unwrap();
        std::fs::remove_file(drop.join("image/again")).unwrap();
        rejected.look().unwrap();
        assert_eq!(rejected.kept().drops[OsStr::new("drop")], held);
    }
}
