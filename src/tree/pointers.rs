//! The right to change what machines see: the swap, and the removal of what isn't current.

use std::io::ErrorKind;
use std::sync::Arc;

use super::Tree;
use super::staging::{Change, Placed, Staged, Staging, pointer};
use crate::fault::{Fault, StartError};
use crate::settings::Settings;
use crate::sys::{Dir, Failure, Kind, failpoint};
use crate::words::{GenerationName, Moment, Target};

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
        let generations = || folder.existing_dir(target.generations());
        match &placed.change {
            Change::Replace(previous) => retire(&generations()?, previous)?,
            Change::Remove => retire(&generations()?, generation)?,
            Change::Make | Change::Exchange(_) => {}
        }
        failpoint("swap", "swapping", folder.path())?;
        match &placed.change {
            Change::Exchange(adopted) => {
                let adopted = adopted.head.generation.as_str();
                return folder.exchange(target.purpose(), &generations()?, adopted);
            }
            Change::Remove => return folder.remove_file(target.purpose()).map(drop),
            Change::Make => match folder.make_link(target.purpose(), pointer(target, generation)) {
                // One that leads nowhere: it is replaced.
                Err(failure) if failure.is(ErrorKind::AlreadyExists) => {}
                made => return made,
            },
            Change::Replace(_) => {}
        }
        let link = format!("{}.link", self.0.next_number());
        self.0
            .folder
            .make_link(&link, pointer(target, generation))?;
        self.0.folder.rename(&link, &folder, target.purpose())
    }

    /// Removes what was staged, and placed, and will not be swapped in: after a failed sync nobody
    /// knows what of it has reached the disk.
    pub(crate) fn discard(&mut self, staged: &Staged) -> Result<(), Fault> {
        self.0.discard(staged.number);
        let (target, generation) = (&staged.head.target, &staged.head.generation);
        let is_current = self.0.tree.pointed(target)?.as_ref() == Some(generation);
        let Some(generations) = self.0.tree.generations(target)? else {
            return Ok(());
        };
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
        Ok(())
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
        let number = self.0.next_number().to_string();
        generations.rename(name.as_str(), &self.0.folder, &number)?;
        self.0.folder.remove_tree(number, 0)
    }

    /// Removes the folder of a target's generations when none is left in it; what somebody else put
    /// there stays.
    pub(crate) fn remove_folder(&mut self, target: &Target) -> Result<(), Failure> {
        let Some(folder) = self.0.tree.root().dir(target.folder())? else {
            return Ok(());
        };
        match folder.remove_dir(target.generations()) {
            Err(failure) if failure.is(ErrorKind::DirectoryNotEmpty) => Ok(()),
            removed => removed.map(drop),
        }
    }
}

/// Notes that a generation stops being current: its record was modified last at that time.
/// Right before the swap, so that a crash can't leave an older time, by which it would go too early.
fn retire(generations: &Dir, name: &GenerationName) -> Result<(), Failure> {
    match generations.set_modified(name.record(), Moment::now()) {
        // A generation without its record is damaged; vacuum takes it for a leftover.
        Err(failure) if failure.is(ErrorKind::NotFound) => Ok(()),
        result => result,
    }
}
