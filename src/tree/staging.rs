//! What comes into the tree, up to the step that machines can see.
//!
//! An image is copied to a [`Draft`]; of that is made a [`Staged`], and of that a [`Placed`]. Many may
//! share the [`Staging`]. The last step needs the `Pointers`, of which there is one.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::folder::{self, Shown, linked, pointer};
use super::history::{self, Event, Happened, SignedOrder};
use super::links::Links;
use super::proof::{PARTS, Proof};
use super::record::{Head, Origin, Record};
use super::{MAX_RECORD, PRIVATE, Tree};
use crate::fault::{StartError, Unwritable};
use crate::image::DIR_MODE;
use crate::settings::TreeSettings;
use crate::sys::{Dir, Failure, Ownership, failpoint};
use crate::words::{GenerationName, Moment, Target, Verdict};

/// The folder for drafts in the daemon's own folder.
const FOLDER: &str = "staging";

/// The private part of a tree, in which generations are made.
#[derive(Debug)]
pub struct Staging {
    pub(super) tree: Tree,
    pub(super) folder: Dir,
    /// In the folder that holds the lock.
    links: Links,
    /// User and group of published files.
    ownership: Ownership,
    /// Whether files have another user or group when they are made.
    gives_away: bool,
    next: AtomicU64,
}

/// An empty directory in the staging, to be filled. Where that ends early the directory is removed.
#[derive(Debug)]
pub(crate) struct Draft<'s> {
    staging: &'s Staging,
    number: u64,
    /// Where the image's copy goes.
    pub dir: Dir,
    is_finished: bool,
}

/// What is to be done with the pointer, and what stands in the staging for it: a record, and a whole
/// generation where that is new.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) number: u64,
    /// The head of the record.
    pub head: Head,
    /// Whether the image is in the staging; that of a kept generation stands in its place already.
    pub(super) is_new: bool,
    /// Which parts of a proof are there.
    proof: [bool; PARTS],
    /// Where the time of the swap stands in the record in the staging, in bytes. `None` where there is
    /// no record: a withdrawal leaves the one that is in its place.
    time_at: Option<u64>,
    pub(super) change: Change,
    /// What the history will call the change.
    event: Event,
    /// The drop that makes the change.
    by: Option<Origin>,
    /// What somebody has signed of an order that no generation keeps.
    order: Option<SignedOrder>,
}

/// What is to be done with a target's pointer, which is the step that machines see.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The pointer is made: nothing is current until now.
    Make,
    /// The pointer is put over the one that names this generation.
    Replace(GenerationName),
    /// The pointer changes places with a directory that somebody else made, which becomes the
    /// previous generation, with this record.
    Exchange(Arc<Record>),
    /// The pointer is removed: the target is taken out of the tree.
    Remove,
    /// The generation, which isn't current, is removed, and the pointer stays. The history may tell
    /// that already.
    Forget { is_told: bool },
}

/// A generation that stands in its place with its record.
#[derive(Debug)]
pub(crate) struct Placed {
    pub target: Target,
    pub(super) generation: GenerationName,
    pub(super) change: Change,
    /// The time of the swap, once the swap is in the history; all but the pointer is done then.
    pub swapped_at: Option<Moment>,
}

impl Staging {
    /// Opens the tree, makes it when it is not there, and locks it.
    ///
    /// # Errors
    /// When another daemon holds the lock, or an account of the settings is unknown.
    pub(super) fn open(settings: &TreeSettings) -> Result<Arc<Self>, StartError> {
        Self::try_writing(&settings.path)?;
        let tree = Tree::new(Dir::open_or_make(&settings.path)?);
        let private = tree.root().dir_or_make(PRIVATE, 0o700)?;
        private.make_plain(0o700)?;
        if !private.lock()? {
            return Err(StartError::InUse(settings.path.clone()));
        }
        let folder = private.dir_or_make(FOLDER, 0o700)?;
        // What a crash left, and can't be removed, is in nobody's way.
        let left = folder.names()?;
        let number = |name: &OsString| name.to_str()?.split('.').next()?.parse::<u64>().ok();
        let last = left.iter().filter_map(|(name, _)| number(name)).max();
        let next = last.map_or(0, |last| last.saturating_add(1));
        let own = owner_of_new(&folder, next)?;
        // A tree with a set-group-ID bit gave its group to the private folder, which `verify` asks.
        if private.stat_self()?.owner != own {
            private.set_owner(".", Some(own))?;
        }
        let ownership = settings.ownership(own)?;
        Ok(Arc::new(Self {
            tree,
            folder,
            links: Links::new(private),
            ownership,
            gives_away: ownership != own,
            next: AtomicU64::new(next),
        }))
    }

    /// Whether the daemon's own files and folders in the tree at `path` could be written, or made where
    /// they are not there. Nothing is changed.
    ///
    /// # Errors
    /// Why one of them could not.
    pub(crate) fn try_writing(path: &Path) -> Result<(), Unwritable> {
        let private = path.join(PRIVATE);
        let folders = [private.join(FOLDER), private, path.to_path_buf()];
        // The outermost first: what is inside may be missing because of it.
        let mut folders = folders.iter().rev();
        Ok(folders.try_for_each(|folder| Dir::try_writing(folder))?)
    }

    /// A number that nothing in the staging has.
    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The tree that the staging belongs to.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What the daemon keeps beneath the TFTP server's root beside the targets.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// User and group of published files.
    pub(crate) fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// User and group that a copy has to be given; `None` when copies are right as they are made.
    pub(crate) fn gives_away_to(&self) -> Option<Ownership> {
        self.gives_away.then_some(self.ownership)
    }

    /// An empty directory to copy an image to.
    pub(crate) fn begin(&self) -> Result<Draft<'_>, Failure> {
        let number = self.next_number();
        failpoint("stage", "staging", self.folder.path())?;
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
    pub(crate) fn stage_kept(&self, record: &Record, change: Change) -> Result<Staged, Failure> {
        self.stage_record(record, change, Event::Published)
    }

    /// As [`Staging::stage_kept`], for a generation that nobody brings again, but that is made current
    /// `by` a drop without an image.
    pub(crate) fn stage_rollback(
        &self,
        record: &Record,
        by: Origin,
        change: Change,
    ) -> Result<Staged, Failure> {
        let staged = self.stage_record(record, change, Event::RolledBack)?;
        let by = Some(by);
        Ok(Staged { by, ..staged })
    }

    fn stage_record(
        &self,
        record: &Record,
        change: Change,
        event: Event,
    ) -> Result<Staged, Failure> {
        let number = self.next_number();
        self.stage(number, false, record, change, event)
            .inspect_err(|_| self.discard(number))
    }

    /// The removal of the pointer to the generation of this head. `record` is given where the
    /// generation has none any more.
    pub(crate) fn stage_withdrawal(
        &self,
        head: Head,
        record: Option<&Record>,
        by: Origin,
    ) -> Result<Staged, Failure> {
        let by = Some(by);
        if let Some(record) = record {
            let staged = self.stage_record(record, Change::Remove, Event::Withdrawn)?;
            return Ok(Staged { by, ..staged });
        }
        Ok(Staged {
            number: self.next_number(),
            head,
            is_new: false,
            proof: [false; PARTS],
            time_at: None,
            change: Change::Remove,
            event: Event::Withdrawn,
            by,
            order: None,
        })
    }

    /// The removal of the generation of this head, which isn't current.
    pub(crate) fn stage_removal(&self, head: Head, by: Origin, is_told: bool) -> Staged {
        Staged {
            number: self.next_number(),
            head,
            is_new: false,
            proof: [false; PARTS],
            time_at: None,
            change: Change::Forget { is_told },
            event: Event::Removed,
            by: Some(by),
            order: None,
        }
    }

    fn stage(
        &self,
        number: u64,
        is_new: bool,
        record: &Record,
        change: Change,
        event: Event,
    ) -> Result<Staged, Failure> {
        let text = record.to_toml();
        let time = Record::time_of_swap(text.as_bytes(), record.head.published_at);
        self.folder
            .write_new(record_name(number), text.as_bytes())?;
        Ok(Staged {
            number,
            head: record.head.clone(),
            is_new,
            proof: [false; PARTS],
            time_at: time.map(|(place, _)| place.start as u64),
            change,
            event,
            by: record.head.from.clone(),
            order: None,
        })
    }

    /// Makes all that was staged, placed or swapped until now durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        failpoint("tree-sync", "syncing", self.tree.root().path())?;
        self.tree.root().sync_file_system()
    }

    /// Puts a staged generation, which has to be durable, and then its record in their place. Unless
    /// the swap `waits`, it is announced.
    ///
    /// # Errors
    /// What was staged is to be tried once more then, or to be given to `Pointers::discard`.
    pub(crate) fn place(&self, staged: &Staged, waits: bool) -> Result<Placed, Failure> {
        let (target, generation) = (&staged.head.target, &staged.head.generation);
        let root = self.tree.root();
        let folder = folder::make(root, &target.folder())?;
        let generations = folder::make(&folder, &target.generations())?;
        let path = generations.path();

        if staged.is_new {
            failpoint("place-generation", "placing", path)?;
            self.folder
                .rename(staged.number.to_string(), &generations, generation.as_str())?;
            let names = proof_names(staged.number)
                .into_iter()
                .zip(generation.proof());
            for ((name, proof), _) in names.zip(staged.proof).filter(|(_, is_there)| *is_there) {
                failpoint("place-proof", "placing", path)?;
                self.folder.rename(name, &generations, proof)?;
            }
        } else {
            // Gone by hand in the meantime? Then the next try copies it.
            generations.existing_dir(generation.as_str())?;
        }
        let lines = staged.lines(&folder)?;
        if let Some(offset) = staged.time_at {
            let record = record_name(staged.number);
            if !waits {
                let time = lines[0].at.to_string();
                self.folder.overwrite(&record, offset, time.as_bytes())?;
            }
            failpoint("place-record", "placing", path)?;
            self.folder
                .rename(record, &generations, generation.record())?;
        }
        if let Change::Exchange(record) = &staged.change {
            // The pointer is made where the directory will go: exchanging the two then puts both in
            // their place at once.
            failpoint("place-adopted", "placing", path)?;
            let name = &record.head.generation;
            generations.write_new(name.record(), record.to_toml().as_bytes())?;
            generations.make_link(name.as_str(), pointer(target, generation))?;
        }
        let mut placed = Placed {
            target: target.clone(),
            generation: generation.clone(),
            change: staged.change.clone(),
            swapped_at: None,
        };
        if !waits {
            self.write_history(&mut placed, &lines, &folder, &generations)?;
        }
        Ok(placed)
    }

    /// Announces the swap of what was placed, and has waited, as [`Staging::place`] does: record and
    /// history tell of it as of something that happens now.
    ///
    /// # Errors
    /// As [`Staging::place`].
    pub(crate) fn announce(&self, staged: &Staged, placed: &mut Placed) -> Result<(), Failure> {
        let folder = self.tree.root().existing_dir(placed.target.folder())?;
        let generations = folder.existing_dir(placed.target.generations())?;
        let lines = staged.lines(&folder)?;
        if staged.time_at.is_some() {
            let name = placed.generation.record();
            let path = generations.path().join(&name);
            let mut text = generations.read(&name, MAX_RECORD)?.unwrap_or_default();
            let Some((place, time)) = Record::time_of_swap(&text, lines[0].at) else {
                let error = io::Error::from(io::ErrorKind::InvalidData);
                return Err(Failure::new("looking for `published_at` in", path, error));
            };
            text[place].copy_from_slice(time.as_bytes());
            let record = record_name(staged.number);
            self.folder.write_new(&record, &text)?;
            failpoint("place-record", "placing", path)?;
            self.folder.rename(&record, &generations, &name)?;
        }
        self.write_history(placed, &lines, &folder, &generations)
    }

    /// Announces a swap, whose time is that of these lines.
    fn write_history(
        &self,
        placed: &mut Placed,
        lines: &[Happened],
        folder: &Dir,
        generations: &Dir,
    ) -> Result<(), Failure> {
        let at = lines.first().map_or_else(Moment::now, |line| line.at);
        if let Change::Exchange(record) = &placed.change {
            // The pointer, which is there already.
            generations.set_modified(record.head.generation.as_str(), at)?;
        }
        self.append(
            &placed.target,
            || Shown::look(folder, &placed.target),
            lines,
        )?;
        placed.swapped_at = Some(at);
        Ok(())
    }

    /// Writes lines into the history of `target`, where this is `shown`.
    pub(super) fn append(
        &self,
        target: &Target,
        shown: impl FnOnce() -> Result<Shown, Failure>,
        lines: &[Happened],
    ) -> Result<(), Failure> {
        let temporary = format!("{}.jsonl", self.next_number());
        let staging = (&self.folder, &*temporary);
        history::append(self.tree.root(), (target, shown), lines, staging)
    }

    pub(super) fn discard(&self, number: u64) {
        // What stays behind goes at the next start.
        let _ = self.folder.remove_tree(number.to_string(), 0);
        let _ = self.folder.remove_file(record_name(number));
        for name in proof_names(number) {
            let _ = self.folder.remove_file(name);
        }
    }
}

impl Draft<'_> {
    /// Writes the record beside the copied image, and what proves it, if somebody has signed.
    pub(crate) fn finish(
        mut self,
        record: &Record,
        change: Change,
        proof: impl Into<Proof>,
    ) -> Result<Staged, Failure> {
        let proof = proof.into();
        failpoint("stage-record", "staging", self.dir.path())?;
        let staging = self.staging;
        for (name, bytes) in proof_names(self.number).into_iter().zip(&proof.0) {
            if let Some(bytes) = bytes {
                staging.folder.write_new(name, bytes)?;
            }
        }
        let event = match record.head.promoted() {
            Some(_) => Event::Promoted,
            None => Event::Published,
        };
        let staged = staging.stage(self.number, true, record, change, event)?;
        self.is_finished = true;
        let proof = proof.0.each_ref().map(Option::is_some);
        Ok(Staged { proof, ..staged })
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
    /// What will have become of the drop.
    pub(crate) fn verdict(&self) -> Verdict {
        self.event.verdict()
    }

    /// The same, of an image that comes with an order to roll back: `by` is the drop as such.
    pub(crate) fn into_rollback(self, by: Origin) -> Self {
        Self {
            event: Event::RolledBack,
            by: Some(by),
            ..self
        }
    }

    /// The same, with what somebody has signed of the order, its manifest and the signature of that, to be
    /// kept in the history: a swap to a kept generation, or to none, leaves no other trace of it.
    pub(crate) fn ordered_by(self, signed: Option<[Vec<u8>; 2]>) -> Self {
        let order = signed.and_then(SignedOrder::new);
        Self { order, ..self }
    }

    /// What the history will say of the swap, if it happens now. `folder` holds the pointer.
    fn lines(&self, folder: &Dir) -> Result<Vec<Happened>, Failure> {
        let generation = &self.head.generation;
        let linked = linked(folder, &self.head.target)?;
        let (from, to) = match &self.change {
            // A pointer that leads nowhere may be there.
            Change::Make | Change::Replace(_) => (linked.as_ref(), Some(generation)),
            Change::Exchange(adopted) => (Some(&adopted.head.generation), Some(generation)),
            Change::Remove | Change::Forget { is_told: false } => (Some(generation), None),
            Change::Forget { is_told: true } => return Ok(Vec::new()),
        };
        let swap = Happened::now(self.event, from, to).of_image(&self.head);
        let swap = self.by.iter().fold(swap, Happened::by);
        let swap = self.order.iter().fold(swap, Happened::ordered);
        let adopted = match &self.change {
            Change::Exchange(record) => Some(swap.clone().of_adoption(&record.head)),
            _ => None,
        };
        Ok(adopted.into_iter().chain([swap]).collect())
    }

    /// Whether something that machines may be using is current until now.
    pub(crate) fn has_previous(&self) -> bool {
        !matches!(self.change, Change::Make | Change::Forget { .. })
    }

    /// Whether another generation than before, or none, will be current.
    pub(crate) fn is_swap(&self) -> bool {
        !matches!(self.change, Change::Forget { .. })
    }
}

/// Whose the files are that are made in the staging. `free` is a number that nothing there has.
fn owner_of_new(folder: &Dir, free: u64) -> Result<Ownership, Failure> {
    let owner = folder.stat_self()?.owner;
    if owner == Ownership::of_process() {
        return Ok(owner);
    }
    // A daemon of another group made the folder, or the file system has a say in it (`grpid`, NFS).
    let name = free.to_string();
    let probe = folder.make_dir(&name, 0o700);
    let probe = probe.and_then(|_| folder.stat(&name)).ok().flatten();
    folder.remove_dir(&name)?;
    // On a full disk nothing can be made.
    Ok(probe.map_or(owner, |probe| probe.owner))
}

/// In the order of a [`Proof`].
fn proof_names(number: u64) -> [String; PARTS] {
    let parts = ["manifest", "sig", "order", "order-sig", "orders"];
    parts.map(|part| format!("{number}.{part}"))
}

fn record_name(number: u64) -> String {
    format!("{number}.toml")
}
