//! What comes into the tree, and the one atomic step between two generations.
//!
//! An image is copied to a [`Draft`], which goes on as [`Staged`] and [`Placed`] and is swapped in;
//! each is made of the one before. For all but the last the [`Staging`] will do, which many may
//! share; whatever a booting machine can see needs the [`Pointers`], of which there is one.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{Head, Record};
use super::{PRIVATE, Tree};
use crate::fault::{Fault, StartError};
use crate::image::{DIR_MODE, Ownership};
use crate::settings::TreeSettings;
use crate::sys::{Dir, Failure, Kind, accounts, failpoint};
use crate::words::{GenerationName, Moment, Target, Verdict};

/// The folder for drafts in the daemon's own folder.
const FOLDER: &str = "staging";

/// The private part of a tree, in which generations are made.
#[derive(Debug)]
pub struct Staging {
    tree: Tree,
    folder: Dir,
    /// Never read: it holds the lock.
    _private: Dir,
    /// What published files look like.
    ownership: Ownership,
    /// Whether that has to be given to them.
    gives_away: bool,
    next: AtomicU64,
}

/// The right to change what machines see. There is one for a tree, and who has it is its owner.
#[derive(Debug)]
pub struct Pointers(Arc<Staging>);

/// An empty directory in the staging, to be filled. Goes when it is dropped.
#[derive(Debug)]
pub struct Draft<'s> {
    staging: &'s Staging,
    number: u64,
    /// Where the image's copy goes.
    pub dir: Dir,
    is_finished: bool,
}

/// A record in the staging, with a whole generation where that is new, and what is to be done with
/// the pointer.
#[derive(Debug)]
pub struct Staged {
    number: u64,
    head: Head,
    change: Change,
}

#[derive(Debug)]
enum Change {
    /// The pointer is to name the generation. One that is kept stands in its place already.
    Swap { previous: Previous, is_kept: bool },
    /// The pointer, which names the generation, is to go.
    Withdraw,
}

/// What the pointer leads to until now.
#[derive(Debug)]
pub enum Previous {
    Nothing,
    Generation(GenerationName),
    /// A directory that somebody else made becomes the previous generation, with this record.
    Plain(Box<Record>),
}

/// A generation that stands in its place with its record; all but the pointer is done.
#[derive(Debug)]
pub struct Placed {
    target: Target,
    generation: GenerationName,
    last: LastStep,
}

/// What machines will see.
#[derive(Debug)]
enum LastStep {
    /// The pointer is put over the one that names this generation, if there is one.
    Swap(Option<GenerationName>),
    /// The pointer changes places with the directory that becomes this generation.
    Exchange(GenerationName),
    /// The pointer is removed.
    Withdraw,
}

impl Staging {
    /// Opens the tree, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock, or an account of the settings is unknown.
    pub fn open(settings: &TreeSettings) -> Result<(Arc<Self>, Pointers), StartError> {
        let tree = Tree::new(Dir::open_or_make(&settings.path)?);
        let private = tree.root().dir_or_make(PRIVATE, 0o700)?;
        private.make_plain(0o700)?;
        if !private.lock()? {
            return Err(StartError::InUse(settings.path.clone()));
        }
        let folder = private.dir_or_make(FOLDER, 0o700)?;
        // What the file system gives to new files here; a mount option can have a say in it.
        let own = folder.stat_self()?;
        let ownership = Ownership {
            uid: accounts::user_or(settings.owner.as_deref(), own.uid)?,
            gid: accounts::group_or(settings.group.as_deref(), own.gid)?,
        };
        let gives_away = (ownership.uid, ownership.gid) != (own.uid, own.gid);
        // What a crash left, and can't be removed, is in nobody's way.
        let left = folder.names()?;
        let number = |name: &OsString| name.to_str()?.split('.').next()?.parse::<u64>().ok();
        let next = left.iter().filter_map(|(name, _)| number(name)).max();
        let next = AtomicU64::new(next.map_or(0, |last| last.saturating_add(1)));
        let staging = Arc::new(Self {
            tree,
            folder,
            _private: private,
            ownership,
            gives_away,
            next,
        });
        Ok((Arc::clone(&staging), Pointers(staging)))
    }

    /// The tree that it belongs to.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What published files look like.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// User and group that a copy has to be given; `None` when it is right as it is made.
    pub fn gives_away_to(&self) -> Option<Ownership> {
        self.gives_away.then_some(self.ownership)
    }

    pub fn free_space(&self) -> Result<u64, Failure> {
        self.tree.root().free_space()
    }

    /// An empty directory to copy an image to.
    pub fn begin(&self) -> Result<Draft<'_>, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        failpoint::at("stage").map_err(|e| Failure::new("staging", self.folder.path(), e))?;
        self.folder.make_dir(number.to_string(), DIR_MODE)?;
        let dir = self.folder.existing_dir(number.to_string())?;
        Ok(Draft {
            staging: self,
            number,
            dir,
            is_finished: false,
        })
    }

    /// As [`Draft::finish`], for a generation that is kept still: nothing but its record is new.
    pub fn stage_kept(&self, record: &Record, previous: Previous) -> Result<Staged, Failure> {
        let change = Change::Swap {
            previous,
            is_kept: true,
        };
        self.stage_record(record, change)
    }

    /// For a target that is to be taken out of the tree; `record` is that of its current generation.
    pub fn stage_withdrawal(&self, record: &Record) -> Result<Staged, Failure> {
        self.stage_record(record, Change::Withdraw)
    }

    fn stage_record(&self, record: &Record, change: Change) -> Result<Staged, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder
            .write_new(record_name(number), record.to_toml().as_bytes())
            .inspect_err(|_| self.discard(number))?;
        Ok(Staged {
            number,
            head: record.head.clone(),
            change,
        })
    }

    /// Makes all that was staged, placed or swapped until now durable.
    pub fn sync(&self) -> Result<(), Failure> {
        failpoint::at("tree-sync")
            .map_err(|e| Failure::new("syncing", self.tree.root().path(), e))?;
        self.tree.root().sync_file_system()
    }

    /// Puts a staged generation, which has to be durable, and then its record in their place.
    ///
    /// # Errors
    /// It stays in the staging, for another try or [`Pointers::discard`].
    pub fn place(&self, staged: &Staged) -> Result<Placed, Failure> {
        let Head {
            target, generation, ..
        } = &staged.head;
        let folder = self.target_folder(target)?;
        let generations = sub_folder(&folder, &target.generations())?;
        let at = |name| failpoint::at(name).map_err(|e| Failure::new(name, generations.path(), e));

        if staged.is_new() {
            at("place-generation")?;
            self.folder
                .rename(staged.number.to_string(), &generations, generation.as_str())?;
        } else {
            // Gone by hand in the meantime? Then the next try copies it.
            generations.existing_dir(generation.as_str())?;
        }
        at("place-record")?;
        let record = record_name(staged.number);
        self.folder
            .rename(record, &generations, generation.record())?;

        let last = match &staged.change {
            Change::Withdraw => LastStep::Withdraw,
            Change::Swap { previous, .. } => match previous {
                Previous::Nothing => LastStep::Swap(None),
                Previous::Generation(previous) => LastStep::Swap(Some(previous.clone())),
                Previous::Plain(record) => {
                    // The pointer is made where the directory will go: exchanging the two then puts
                    // both in their place at once.
                    at("place-adopted")?;
                    let name = &record.head.generation;
                    generations.write_new(name.record(), record.to_toml().as_bytes())?;
                    generations.make_link(name.as_str(), pointer(target, generation))?;
                    LastStep::Exchange(name.clone())
                }
            },
        };
        Ok(Placed {
            target: target.clone(),
            generation: generation.clone(),
            last,
        })
    }

    /// The folder that holds the target's pointer, made where it is not there.
    fn target_folder(&self, target: &Target) -> Result<Dir, Failure> {
        let root = self.tree.root();
        if let Some(folder) = root.dir(target.folders().join("/"))? {
            return Ok(folder);
        }
        let mut folder = sub_folder(root, target.folders()[0])?;
        for name in &target.folders()[1..] {
            folder = sub_folder(&folder, name)?;
        }
        Ok(folder)
    }

    fn discard(&self, number: u64) {
        // What stays behind goes at the next start.
        let _ = self.folder.remove_tree(number.to_string());
        let _ = self.folder.remove_file(record_name(number));
    }
}

impl Draft<'_> {
    /// Writes the record beside the copied image.
    pub fn finish(mut self, record: &Record, previous: Previous) -> Result<Staged, Failure> {
        failpoint::at("stage-record").map_err(|e| Failure::new("staging", self.dir.path(), e))?;
        let name = record_name(self.number);
        self.staging
            .folder
            .write_new(&name, record.to_toml().as_bytes())?;
        self.is_finished = true;
        let change = Change::Swap {
            previous,
            is_kept: false,
        };
        Ok(Staged {
            number: self.number,
            head: record.head.clone(),
            change,
        })
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.staging.discard(self.number);
        }
    }
}

impl Staged {
    /// The head of its record.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What will have become of the drop.
    pub fn verdict(&self) -> Verdict {
        match self.change {
            Change::Swap { .. } => Verdict::Published,
            Change::Withdraw => Verdict::Withdrawn,
        }
    }

    /// Whether something that machines may be using is current until now.
    pub fn has_previous(&self) -> bool {
        match &self.change {
            Change::Swap { previous, .. } => !matches!(previous, Previous::Nothing),
            Change::Withdraw => true,
        }
    }

    /// Whether the image is still in the staging.
    fn is_new(&self) -> bool {
        matches!(self.change, Change::Swap { is_kept: false, .. })
    }
}

impl Placed {
    /// The target it is for.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Pointers {
    pub fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// Where generations are made.
    pub fn staging(&self) -> &Arc<Staging> {
        &self.0
    }

    /// Makes a generation, which has to be durable in its place, the current one, or takes the
    /// target out of the tree. This is the only step that a booting machine can see.
    pub fn swap(&mut self, placed: &Placed) -> Result<(), Failure> {
        let Placed {
            target,
            generation,
            last,
        } = placed;
        let folder = self
            .0
            .tree
            .root()
            .existing_dir(target.folders().join("/"))?;
        let generations = || folder.existing_dir(target.generations());
        match last {
            LastStep::Swap(Some(previous)) => retire(&generations()?, previous)?,
            LastStep::Withdraw => retire(&generations()?, generation)?,
            LastStep::Swap(None) | LastStep::Exchange(_) => {}
        }
        failpoint::at("swap").map_err(|e| Failure::new("swapping", folder.path(), e))?;
        match last {
            LastStep::Exchange(adopted) => {
                folder.exchange(target.purpose(), &generations()?, adopted.as_str())
            }
            LastStep::Withdraw => folder.remove_file(target.purpose()).map(drop),
            LastStep::Swap(previous) => {
                let pointer = pointer(target, generation);
                if previous.is_none() {
                    match folder.make_link(target.purpose(), &pointer) {
                        // One that leads nowhere.
                        Err(failure) if failure.source.kind() == ErrorKind::AlreadyExists => {}
                        made => return made,
                    }
                }
                let link = format!("{}.link", self.0.next.fetch_add(1, Ordering::Relaxed));
                self.0.folder.make_link(&link, pointer)?;
                self.0.folder.rename(&link, &folder, target.purpose())
            }
        }
    }

    /// Removes what was staged, and placed, and will not be swapped in: after a failed sync nobody
    /// knows what of it has reached the disk.
    pub fn discard(&mut self, staged: &Staged) -> Result<(), Fault> {
        self.0.discard(staged.number);
        let Head {
            target, generation, ..
        } = &staged.head;
        let is_current = self.0.tree.pointed(target)?.as_ref() == Some(generation);
        let Some(generations) = self.0.tree.generations(target)? else {
            return Ok(());
        };
        if let Change::Swap {
            previous: Previous::Plain(record),
            ..
        } = &staged.change
        {
            let adopted = &record.head.generation;
            // Once the two were exchanged, it is the directory.
            let there = generations.stat(adopted.as_str())?;
            if there.is_none_or(|stat| stat.kind == Kind::Link) {
                generations.remove_file(adopted.as_str())?;
                generations.remove_file(adopted.record())?;
            }
        }
        if staged.is_new() && !is_current && generations.stat(generation.as_str())?.is_some() {
            self.remove(&generations, generation)?;
        }
        Ok(())
    }

    /// Removes whatever the staging holds.
    ///
    /// # Errors
    /// One of the things that could not be removed; the others are gone all the same.
    pub fn empty_staging(&mut self) -> Result<(), Failure> {
        let folder = &self.0.folder;
        let mut result = Ok(());
        for (name, _) in folder.names()? {
            result = folder.remove_tree(name).and(result);
        }
        result
    }

    /// Removes a generation that isn't current: the record first, then the rest in one step.
    pub fn remove(&mut self, generations: &Dir, name: &GenerationName) -> Result<(), Failure> {
        failpoint::at("vacuum").map_err(|e| Failure::new("removing", generations.path(), e))?;
        generations.remove_file(name.record())?;
        let number = self.0.next.fetch_add(1, Ordering::Relaxed).to_string();
        generations.rename(name.as_str(), &self.0.folder, &number)?;
        self.0.folder.remove_tree(number)
    }

    /// Removes the folder of a target's generations when none is left in it; what somebody else put
    /// there stays.
    pub fn remove_folder(&mut self, target: &Target) -> Result<(), Failure> {
        let path = target.folders().join("/");
        let Some(folder) = self.0.tree.root().dir(path)? else {
            return Ok(());
        };
        match folder.remove_dir(target.generations()) {
            Err(failure) if failure.source.kind() == ErrorKind::DirectoryNotEmpty => {}
            removed => drop(removed?),
        }
        Ok(())
    }
}

/// The folder `name` in `parent`. A new one inherits nothing: a default ACL of the tree could
/// shut machines out of it.
fn sub_folder(parent: &Dir, name: &str) -> Result<Dir, Failure> {
    if let Some(folder) = parent.dir(name)? {
        return Ok(folder);
    }
    parent.make_dir(name, DIR_MODE)?;
    let folder = parent.existing_dir(name)?;
    folder.make_plain(DIR_MODE)?;
    Ok(folder)
}

/// Notes that a generation stops being current: its record was modified last at that time.
/// Right before the swap, so that a crash can't leave an older time, by which it would go too early.
fn retire(generations: &Dir, name: &GenerationName) -> Result<(), Failure> {
    match generations.set_modified(name.record(), Moment::now()) {
        // A generation without its record is damaged; vacuum takes it for a leftover.
        Err(failure) if failure.source.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What the pointer holds.
fn pointer(target: &Target, generation: &GenerationName) -> String {
    format!("{}/{generation}", target.generations())
}

fn record_name(number: u64) -> String {
    format!("{number}.toml")
}
