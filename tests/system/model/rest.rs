//! What is seen at rest, when nothing is left to do, and how that has to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::world::{names, outcomes, output, snapshot, text};
use crate::model::page::{Brought, Fate, targets_after};
use crate::model::player::{Counts, End, Played, Player, uid_of, wrong};
use crate::model::story::TARGETS;
use crate::model::tools::{FILES, paths, read, recognize, target};

/// Nothing is left to do after so long, unless something hangs.
const REST: Duration = Duration::from_secs(60);

impl Player {
    pub fn count(&mut self, what: impl Into<String>) {
        *self.happened.entry(what.into()).or_default() += 1;
    }

    /// How drops have ended, and what happened to the daemon.
    pub fn counts(mut self) -> Counts {
        for at in 0..self.drops.len() {
            match self.drops[at].fate.clone() {
                Fate::Settled { word, .. } => self.count(word),
                fate => self.count(format!("{fate:?}")),
            }
        }
        std::mem::take(&mut self.happened)
    }

    /// Whether no other drop waits whose outcome would have the name of this one's.
    pub fn is_alone(&self, drop: &Brought) -> bool {
        let may_end = |it: &Brought| self.setup.is_impatient || !it.is_half;
        let is_other = |it: &Brought| {
            let is_same = it.name == drop.name && uid_of(it.importer) == uid_of(drop.importer);
            is_same && !std::ptr::eq(it, drop)
        };
        let waits = |it: &Brought| it.fate == Fate::Waits && may_end(it) && is_other(it);
        !self.drops.iter().any(waits)
    }

    /// Takes in the outcomes that were written since.
    pub fn observe(&mut self) {
        for at in 0..self.drops.len() {
            let drop = &self.drops[at];
            if drop.fate == Fate::Waits && self.is_alone(drop) {
                self.take_outcome(at);
            }
        }
    }

    /// The outcome of the last drop of this one's importer and name.
    fn outcome(&self, drop: &Brought) -> Option<Value> {
        let folder = self.world.outcomes_of(uid_of(drop.importer));
        let text = fs::read(folder.join(format!("{}.json", drop.name))).ok()?;
        Some(serde_json::from_slice(&text).expect("an outcome is JSON"))
    }

    fn take_outcome(&mut self, at: usize) {
        let Some(outcome) = self.outcome(&self.drops[at]) else {
            return;
        };
        let of = |key: &str| outcome[key].as_str().unwrap_or_default().to_string();
        if self.claims.insert(of("claim")) {
            let word = format!("{} {}", of("outcome"), of("reason"))
                .trim_end()
                .to_string();
            let claim = of("claim");
            self.drops[at].fate = Fate::Settled { word, claim };
            self.drops[at].ended = Some(self.now);
        }
    }

    /// Waits until nothing is left to do, and compares everything with the model.
    pub fn rest(&mut self) -> Played {
        self.drain()?;
        let began = Instant::now();
        loop {
            self.look_at_daemon()?;
            if self.daemon.is_none() {
                self.start(None)?;
            }
            self.wake_up();
            let Err(left) = self.is_at_rest() else { break };
            if began.elapsed() > REST {
                return wrong(format!("no rest: {left}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.now += 1;
        self.observe();
        self.read_all_outcomes();
        self.reader.complaint().or_else(wrong)?;
        self.check_drops()?;
        self.check_names()?;
        for number in 0..TARGETS {
            self.check_target(number)?;
        }
        let is_over = |at: &usize| self.drops[*at].fate != Fate::Waits;
        self.judged = (0..self.drops.len()).filter(is_over).collect();
        self.now += 1;
        Ok(())
    }

    /// A start that finds nothing to do changes nothing, and machines are told what is current.
    pub fn start_again(&mut self) -> Played {
        self.stop()?;
        let look = || {
            let mut seen = snapshot(&self.world.tree);
            seen.extend(snapshot(&self.world.spool));
            // A start asks the kernel in one folder for writers, makes the catalog again in another,
            // asks the file system in a third for its time, and makes its socket in the spool.
            seen.remove(&self.world.spool);
            seen.remove(&self.world.spool.join("status.socket"));
            seen.remove(&self.world.spool.join("outcomes"));
            seen.remove(&self.world.tree.join(".netboot-publisher"));
            seen.remove(&self.world.spool.join("processing"));
            seen
        };
        let mut before = None;
        for _ in 0..3 {
            let ended = output(&mut self.command(&["run", "--once"], None));
            if !ended.status.success() {
                return wrong(format!("run --once: {}", text(&ended)));
            }
            let after = look();
            // The first may have to end what a trap has kept from the last: lists for machines.
            let before = before.get_or_insert_with(|| after.clone());
            if *before != after {
                let changed = |(path, seen): (&PathBuf, &String)| {
                    (before.get(path) != Some(seen)).then(|| format!("{path:?}: {seen}"))
                };
                let new: Vec<_> = after.iter().filter_map(changed).collect();
                let gone: Vec<_> = before
                    .keys()
                    .filter(|it| !after.contains_key(*it))
                    .collect();
                return wrong(format!("a start changes {new:#?}, removes {gone:#?}"));
            }
        }
        let catalog = fs::read_to_string(self.world.tree.join("catalog.json")).unwrap_or_default();
        for number in 0..TARGETS {
            let to = self.pointer(number);
            let generation = to.as_ref().and_then(|to| to.file_name()?.to_str());
            let listed = generation.map_or(target(number), str::to_string);
            if catalog.contains(&format!("{listed:?}")) != generation.is_some() {
                return wrong(format!("{to:?} is current, not so in {catalog}"));
            }
        }
        self.reader.complaint().or_else(wrong)
    }

    /// What went wrong, where, and what there is to be seen.
    pub fn explained(&self, end: End, place: &str) -> End {
        let End::Wrong(text) = end else { return end };
        let log = fs::read_to_string(self.world.root.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(60)..].join("\n");
        let drops: Vec<_> = self.drops.iter().map(|drop| format!("{drop:?}")).collect();
        let drops = drops.join("\n");
        End::Wrong(format!("{place}: {text}\n{drops}\n{log}\n{}", self.world))
    }

    /// Whether nothing is left to do; if not, what is.
    fn is_at_rest(&self) -> Result<(), String> {
        // In the order in which a drop goes on.
        let waiting = |drop: &&Brought| drop.fate == Fate::Waits;
        let is_half = |name: &str| {
            let mut drops = self.drops.iter().filter(waiting);
            !self.setup.is_impatient && drops.any(|drop| drop.is_half && drop.name == name)
        };
        let incoming = names(&self.world.spool.join("incoming"));
        let mut seen = incoming.iter().filter(|name| !name.starts_with('.'));
        if let Some(name) = seen.find(|name| !is_half(name)) {
            return Err(format!("{name} is incoming"));
        }
        let folders = [
            self.world.spool.join("processing"),
            self.world.tree.join(".netboot-publisher/staging"),
        ];
        for folder in folders {
            let left = names(&folder);
            if !left.is_empty() {
                return Err(format!("{folder:?} holds {left:?}"));
            }
        }
        for drop in self
            .drops
            .iter()
            .filter(waiting)
            .filter(|drop| !drop.is_half)
        {
            let outcome = self.outcome(drop);
            let claim = outcome.as_ref().and_then(|it| it["claim"].as_str());
            if claim.is_none_or(|claim| self.claims.contains(claim)) {
                return Err(format!("{} has no outcome", drop.name));
            }
        }
        for number in 0..TARGETS {
            let there = self.generations(number).len();
            let is_current = self.pointer(number).is_some();
            // Of a target that was withdrawn nothing is kept for its number. Where nothing was ever
            // current, there may be what a crash has left of a drop that was rejected afterwards.
            let was_current = !self.history(number).is_empty();
            let kept = self.setup.keep.map(|keep| match is_current {
                true => keep + 1,
                false if was_current => 0,
                false => keep,
            });
            if kept.is_some_and(|kept| there > kept) {
                return Err(format!("{there} generations of {}", target(number)));
            }
        }
        Ok(())
    }

    fn pointer(&self, number: usize) -> Option<PathBuf> {
        fs::read_link(self.world.tree.join(target(number))).ok()
    }

    fn generations(&self, number: usize) -> Vec<String> {
        let all = names(&self.world.tree.join(format!("{}@", target(number))));
        all.into_iter()
            .filter(|name| !name.ends_with(".toml"))
            .collect()
    }

    /// Of several drops of one name, only the last one's outcome is there.
    fn read_all_outcomes(&mut self) {
        for at in (0..self.drops.len()).rev() {
            let may_end = self.setup.is_impatient || !self.drops[at].is_half;
            if self.drops[at].fate != Fate::Waits || !may_end {
                continue;
            }
            self.take_outcome(at);
            if self.drops[at].fate == Fate::Waits {
                (self.drops[at].fate, self.drops[at].ended) = (Fate::Unread, Some(self.now));
            }
        }
    }

    fn check_drops(&self) -> Played {
        let incoming = names(&self.world.spool.join("incoming"));
        if let Some(name) = self.hidden.iter().find(|it| !incoming.contains(it)) {
            return wrong(format!("lost: {name}"));
        }
        for drop in self.drops.iter().filter(|drop| drop.is_half) {
            let is_there = incoming.contains(&drop.name);
            match &drop.fate {
                Fate::Settled { word, .. } if drop.excuses.contains(&&**word) => {}
                Fate::Waits if self.setup.is_impatient => return wrong(format!("late: {drop:?}")),
                Fate::Unread if self.setup.is_impatient => {}
                Fate::Settled { .. } | Fate::Unread => return wrong(format!("half, yet {drop:?}")),
                Fate::Waits if !is_there => return wrong(format!("lost: {drop:?}")),
                Fate::Waits | Fate::TakenAway => {}
            }
        }
        Ok(())
    }

    /// Nothing is there that nobody knows of.
    fn check_names(&self) -> Played {
        let (spool, tree) = (&self.world.spool, &self.world.tree);
        let (mut words, mut unread) = (BTreeMap::<_, Vec<_>>::new(), 0);
        for drop in &self.drops {
            let of_name = (uid_of(drop.importer), &*drop.name);
            match &drop.fate {
                Fate::Settled { word, .. } => words.entry(of_name).or_default().push(&**word),
                Fate::Unread => {
                    words.entry(of_name).or_default();
                    unread += 1;
                }
                Fate::Waits | Fate::TakenAway => {}
            }
        }
        let place = |(uid, name): &(u32, &str)| {
            let folder = self.world.outcomes_of(*uid);
            folder.join(format!("{name}.json"))
        };
        let expected: BTreeSet<_> = words.keys().map(place).collect();
        let found: BTreeSet<_> = outcomes(spool).into_iter().collect();
        if found != expected {
            return wrong(format!("outcomes {found:?}, expected {expected:?}"));
        }
        let rejected = names(&spool.join("rejected"));
        let is_refused =
            |words: &Vec<&str>| words.iter().filter(|it| it.starts_with("rejected")).count();
        let refused: usize = words.values().map(is_refused).sum();
        let folders = rejected
            .iter()
            .filter(|name| !name.ends_with(".json"))
            .count();
        if folders < refused || folders > refused + unread || rejected.len() != 2 * folders {
            return wrong(format!("rejected {rejected:?} of {words:?}"));
        }
        self.world.assert_whole();
        let is_known = |path: &str| {
            let inside = (0..TARGETS).find_map(|number| path.strip_prefix(&target(number)));
            match inside {
                Some("" | "@") => true,
                Some(inside) => {
                    let mut parts = inside.trim_start_matches("@/").splitn(2, '/');
                    let file = (parts.next(), parts.next());
                    file.1
                        .is_none_or(|file| file == "boot" || FILES.contains(&file))
                }
                None => {
                    target(0).starts_with(&format!("{path}/"))
                        || path == "catalog.json"
                        || path.starts_with(".history")
                        || path.starts_with(".netboot-publisher")
                }
            }
        };
        match paths(tree).into_iter().find(|path| !is_known(path)) {
            Some(path) => wrong(format!("nobody knows {path} in the tree")),
            None => Ok(()),
        }
    }

    /// The lines of a target's history that tell of a swap: its claim.
    fn history(&self, number: usize) -> Vec<String> {
        let path = self
            .world
            .tree
            .join(format!(".history/{}.jsonl", target(number)));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let swaps = lines.filter(|line| line["event"] != "removed");
        // What was promoted from here has changed nothing here.
        let swaps = swaps.filter(|line| line["image"]["promoted"]["to"].is_null());
        swaps
            .map(|line| line["claim"].as_str().unwrap().to_string())
            .collect()
    }

    fn check_target(&mut self, number: usize) -> Played {
        let lines = self.history(number);
        let once: BTreeSet<_> = lines.iter().collect();
        if once.len() != lines.len() {
            return wrong(format!(
                "twice in the history of {}: {lines:?}",
                target(number)
            ));
        }
        let has_unread = self.drops.iter().any(|drop| drop.fate == Fate::Unread);
        let mut swapped = 0;
        for drop in self.drops.iter_mut().filter(|drop| drop.target == number) {
            let Fate::Settled { word, claim } = &drop.fate else {
                continue;
            };
            drop.line = lines.iter().position(|line| line == claim);
            let is_swap = ["published", "rolled-back", "withdrawn", "promoted"].contains(&&**word);
            swapped += usize::from(is_swap);
            if is_swap != drop.line.is_some() {
                return wrong(format!("{drop:?}, and in the history {lines:?}"));
            }
        }
        if swapped != lines.len() && !has_unread {
            return wrong(format!("{swapped} swaps, and in the history {lines:?}"));
        }
        let new = (0..self.drops.len()).filter(|at| !self.judged.contains(at));
        let drops = new.map(|at| &self.drops[at]);
        let is_over = |drop: &&Brought| matches!(drop.fate, Fate::Settled { .. } | Fate::Unread);
        let drops: Vec<_> = drops
            .filter(|it| it.target == number)
            .filter(is_over)
            .collect();
        let before = &self.targets[number];
        let mut after = targets_after(before, &drops);
        let told = format!("{} was {before:?}, then came {drops:#?}", target(number));
        if after.is_empty() {
            return wrong(format!("no order explains this: {told}"));
        }
        let shown = read(&self.world.tree, number).and_then(|shown| recognize(&shown));
        let shown = shown.or_else(wrong)?;
        after.retain(|target| target.current == shown);
        if after.is_empty() {
            return wrong(format!("{shown:?} is shown: {told}"));
        }
        self.targets[number] = after;
        Ok(())
    }
}
