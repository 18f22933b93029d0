//! The right to change what machines see: the swap, and the removal of what isn't current.

use std::io::ErrorKind;
use std::sync::Arc;

use super::Tree;
use super::folder::{self, Shown, linked, pointer};
use super::history::{self, Event, Happened};
use super::staging::{Change, Placed, Staged, Staging};
use crate::fault::{Fault, StartError};
use crate::settings::Settings;
use crate::sys::{Dir, Failure, Kind, failpoint};
use crate::words::{ClaimId, GenerationName, Target};

/// The right to change what machines see. There is one for a tree, and who has it is its owner.
#[derive(Debug)]
pub struct Pointers(Arc<Staging>);

impl Pointers {
    /// Opens the tree, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock, or an account of the settings is unknown.
    pub fn open(settings: &Settings) -> Result<Self, StartError> {
        Staging::open(&settings.tree).map(Self)
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// Where generations are made.
    pub fn staging(&self) -> &Arc<Staging> {
        &self.0
    }

    /// Makes a generation, which has to be durable in its place, the current one, or takes the
    /// target out of the tree. This is the only step that a booting machine can see.
    pub(crate) fn swap(&mut self, placed: &Placed) -> Result<(), Failure> {
        let (target, generation) = (&placed.target, &placed.generation);
        let folder = self.0.tree.root().existing_dir(target.folder())?;
        failpoint("swap", "swapping", folder.path())?;
        match &placed.change {
            Change::Exchange(adopted) => {
                let generations = folder.existing_dir(target.generations())?;
                let adopted = adopted.head.generation.as_str();
                return folder.exchange(target.purpose(), &generations, adopted);
            }
            Change::Remove => {
                let (tree, links) = (self.tree(), self.0.links());
                // Never does an alias lead to what isn't there.
                links.hide(tree, target);
                let removed = folder.remove_file(target.purpose()).map(drop);
                return removed.inspect_err(|_| links.show(tree, target));
            }
            Change::Forget { .. } => {
                let generations = folder.existing_dir(target.generations())?;
                return self.remove(&generations, generation);
            }
            Change::Make | Change::Replace(_) => {}
        }
        let staging = &self.0.folder;
        let link = format!("{}.link", self.0.next_number());
        staging.make_link(&link, pointer(target, generation))?;
        if let Some(at) = placed.swapped_at {
            staging.set_modified(&link, at)?;
        }
        let is_new = matches!(placed.change, Change::Make);
        if is_new && staging.rename_new(&link, &folder, target.purpose())? {
            self.0.links().show(self.tree(), target);
            return Ok(());
        }
        if is_new && linked(&folder, target)?.is_none() {
            // Not a pointer that leads nowhere: somebody has made it a moment ago.
            let path = folder.path().join(target.purpose());
            return Err(Failure::new("making link", path, ErrorKind::AlreadyExists));
        }
        staging.rename(&link, &folder, target.purpose())?;
        if is_new {
            self.0.links().show(self.tree(), target);
        }
        Ok(())
    }

    /// Takes back the announcement of a swap that will not be made now.
    pub(crate) fn take_back(&mut self, placed: &mut Placed) -> Result<(), Failure> {
        placed.swapped_at = None;
        let root = self.0.tree.root();
        let folder = root.existing_dir(placed.target.folder())?;
        let shown = Shown::look(&folder, &placed.target)?;
        history::take_back(root, &placed.target, &shown)
    }

    /// Removes from the end of the history of `target` what a crash has torn, and a swap that did not
    /// happen. Returns whether there was any of that.
    pub(super) fn settle_history(&mut self, target: &Target) -> Result<bool, Fault> {
        let (root, shown) = (self.0.tree.root(), self.0.tree.shown(target)?);
        let is_settled = history::is_settled(root, target, &shown)?;
        if !is_settled {
            history::take_back(root, target, &shown)?;
        }
        Ok(!is_settled)
    }

    /// Removes what was staged, and placed, and will not be swapped in: after a failed sync nobody
    /// knows what of it has reached the disk.
    pub(crate) fn discard(&mut self, staged: &Staged) -> Result<(), Fault> {
        self.0.discard(staged.number);
        let (target, generation) = (&staged.head.target, &staged.head.generation);
        self.settle_history(target)?;
        let is_current = self.0.tree.pointed(target)?.as_ref() == Some(generation);
        if let Some(generations) = self.0.tree.generations(target)? {
            if let Change::Exchange(record) = &staged.change {
                let adopted = &record.head.generation;
                // Once the pointer and the directory were exchanged, the directory stands there.
                let there = generations.stat(adopted.as_str())?;
                if there.is_none_or(|stat| stat.kind == Kind::Link) {
                    generations.remove_file(adopted.as_str())?;
                    generations.remove_file(adopted.record())?;
                }
            }
            if staged.is_new && !is_current && generations.stat(generation.as_str())?.is_some() {
                self.remove(&generations, generation)?;
            }
        }
        Ok(self.remove_folders(target)?)
    }

    /// Removes whatever the staging holds.
    ///
    /// # Errors
    /// One of the things that could not be removed; the others are gone all the same.
    pub(crate) fn empty_staging(&mut self) -> Result<(), Failure> {
        let folder = &self.0.folder;
        let mut result = Ok(());
        for (name, _) in folder.names()? {
            result = folder.remove_tree(name, 0).and(result);
        }
        result
    }

    /// Removes a generation that isn't current: the record first, then the rest in one step.
    pub(crate) fn remove(
        &mut self,
        generations: &Dir,
        name: &GenerationName,
    ) -> Result<(), Failure> {
        failpoint("vacuum", "removing", generations.path())?;
        generations.remove_file(name.record())?;
        for proof in name.proof() {
            generations.remove_file(proof)?;
        }
        let number = self.0.next_number().to_string();
        generations.rename(name.as_str(), &self.0.folder, &number)?;
        self.0.folder.remove_tree(number, 0)
    }

    /// Notes that retention no longer keeps a generation of `target`.
    pub(super) fn note_removal(
        &mut self,
        target: &Target,
        name: &GenerationName,
    ) -> Result<(), Failure> {
        let folder = self.0.tree.root().existing_dir(target.folder())?;
        let line = Happened::now(Event::Removed, Some(name), None);
        self.0
            .append(target, || Shown::look(&folder, target), &[line])
    }

    /// Notes in the history of the other target what the drop of this claim has promoted to `target`, by a
    /// swap that was made; `is_again`: perhaps that was noted already, before a crash. Returns whether it is
    /// done: not so long as the other target `is_announced`, by a swap that is in its history and not made
    /// yet.
    pub(crate) fn note_promotion(
        &mut self,
        target: &Target,
        (claim, is_again): (ClaimId, bool),
        is_announced: impl FnOnce(&Target) -> bool,
    ) -> Result<bool, Fault> {
        let tree = &self.0.tree;
        let swap = tree.swap_by(target, claim)?;
        let Some((source, note)) = swap.and_then(|(swap, _)| swap.at_source(target)) else {
            return Ok(true);
        };
        if is_announced(&source) {
            return Ok(false);
        }
        let told = tree.history(&source)?.filter(|_| is_again);
        for line in told.into_iter().flatten() {
            let line = line?;
            if line.claim == note.claim && line.elsewhere() == note.elsewhere() {
                return Ok(true);
            }
        }
        let shown = tree.shown(&source)?;
        self.0.append(&source, || Ok(shown), &[note])?;
        Ok(true)
    }

    /// Removes the folders of a target that hold nothing.
    pub(super) fn remove_folders(&mut self, target: &Target) -> Result<(), Failure> {
        folder::remove_empty(self.0.tree.root(), target)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use crate::image::Listing;

    /// A tree in which the first generation of a target is placed, and its swap announced.
    struct World {
        folder: tempfile::TempDir,
        target: Target,
        pointers: Pointers,
        staged: Staged,
        placed: Placed,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = Settings::default();
            settings.tree.path = folder.path().to_path_buf();
            let pointers = Pointers::open(&settings).unwrap();
            let target = "amd64/generic/noble/install".parse().unwrap();
            let record = Record::new(&target, Listing::default(), &[], None, None);
            let draft = pointers.staging().begin().unwrap();
            let staged = draft.finish(&record, Change::Make, None).unwrap();
            let placed = pointers.staging().place(&staged, false).unwrap();
            Self {
                folder,
                target,
                pointers,
                staged,
                placed,
            }
        }

        fn lines(&self) -> usize {
            let history = self.pointers.tree().history(&self.target).unwrap();
            history.into_iter().flatten().count()
        }
    }

    #[test]
    fn what_somebody_has_made_in_the_place_of_a_new_pointer_stays() {
        let mut world = World::new();
        let place = world.folder.path().join(world.target.to_string());
        std::fs::write(&place, "by hand").unwrap();
        let failure = world.pointers.swap(&world.placed).unwrap_err();
        assert!(failure.is(ErrorKind::AlreadyExists), "{failure}");
        assert_eq!(std::fs::read(&place).unwrap(), b"by hand");
        // A pointer that leads nowhere is the daemon's own.
        std::fs::remove_file(&place).unwrap();
        let nowhere = "install@/20000101T000000Z-000000000000";
        std::os::unix::fs::symlink(nowhere, &place).unwrap();
        world.pointers.swap(&world.placed).unwrap();
        let pointed = world.pointers.tree().pointed(&world.target).unwrap();
        assert_eq!(pointed.as_ref(), Some(&world.staged.head.generation));
    }

    #[test]
    fn of_what_is_discarded_nothing_stays_in_tree_and_history() {
        let mut world = World::new();
        assert_eq!(world.lines(), 1);
        world.pointers.discard(&world.staged).unwrap();
        assert_eq!(world.lines(), 0);
        assert!(!world.folder.path().join("amd64").exists());
    }
}
