//! The tree: what machines see.
//!
//! ```text
//! <tree>/amd64/generic/noble/
//!   install -> install@/20261122T161500Z-9f3c2ab1d4e5     the pointer
//!   install@/20261122T161500Z-9f3c2ab1d4e5/…              a generation
//!   install@/20261122T161500Z-9f3c2ab1d4e5.toml           its record
//! <tree>/.netboot-publisher/                              private
//! <tree>/.history/amd64/generic/noble/install.jsonl       what happened to a target
//! <tree>/catalog.json                                     every current image
//! ```
//! Beside it, beneath the TFTP server's root, stand the [`Links`] of aliases.
//!
//! The room owns all of this: it reads the tree ([`Tree`], where a stranger starts), makes
//! generations ([`Staging`]), swaps them in ([`Pointers`], of which there is one), and removes what
//! is not kept ([`Vacuum`]). It uses `words`, `text`, `sys`, `settings`, `fault` and `image`, and
//! knows nothing of the spool.

mod beneath;
mod catalog;
mod find;
mod folder;
mod history;
#[cfg(any(test, feature = "import"))]
mod last_order;
mod links;
mod listed;
mod lookout;
mod pointers;
mod proof;
mod record;
mod staging;
mod usage;
mod vacuum;
mod verification;

pub(crate) use beneath::Blocked;
pub(crate) use catalog::CatalogImage;
pub use catalog::{Catalog, Changes};
pub use history::Happened;
#[cfg(feature = "import")]
pub(crate) use last_order::{CurrentImage, LastOrder};
pub(crate) use links::Links;
pub(crate) use lookout::{Lookout, Watched};
pub use pointers::Pointers;
pub(crate) use record::Origin;
pub use record::{Head, Record};
pub use staging::Staging;
pub(crate) use staging::{Change, Placed, Staged};
pub(crate) use vacuum::Vacuum;
pub(crate) use verification::{DamageKind, Verification, Verified};

use std::ops::ControlFlow;
use std::path::Path;

use rustix::io::Errno;

use self::folder::{Shown, linked};
use self::history::{History, Past};
use self::proof::Proof;
use self::record::RecordError;
use crate::fault::{Fault, StartError, reject};
use crate::settings::TreeSettings;
use crate::sys::{Dir, Failure, Kind, Ownership};
use crate::words::{ClaimId, Digest, GenerationName, Reason, Target, Vouched};

/// The daemon's own folder in the tree.
const PRIVATE: &str = ".netboot-publisher";

/// A longer record is taken for damaged: room for a million files.
const MAX_RECORD: u64 = 256 << 20;

/// The tree, for reading.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Dir,
}

/// What a target's pointer leads to.
#[derive(Debug)]
pub(crate) enum Current {
    Nothing,
    Generation(Generation),
    /// A directory that somebody else made.
    Plain(Dir),
}

impl Current {
    /// By whom it was made current, and who has signed it; `None` where nothing is. `past` is that of
    /// the target.
    pub(crate) fn made_by(&self, past: &Past) -> Option<Vouched> {
        let generation = match self {
            Self::Nothing => return None,
            Self::Plain(_) => return Some(Vouched::default()),
            Self::Generation(generation) => generation,
        };
        let record = generation.record.as_ref();
        let from = record.and_then(|record| record.head.from.as_ref());
        let from = from.map(|from| from.vouched.clone()).unwrap_or_default();
        let last = past.last_swap.as_ref();
        Some(Vouched {
            rule: last.map_or(from.rule, |last| last.vouched.rule.clone()),
            signer: from.signer,
        })
    }
}

/// A generation and its record.
#[derive(Debug)]
pub(crate) struct Generation {
    pub name: GenerationName,
    pub dir: Dir,
    /// `None` when the record is missing, unreadable or contradicts itself: then nobody knows what was
    /// published.
    pub record: Option<Record>,
}

impl Tree {
    /// The tree at `root`.
    pub(crate) fn new(root: Dir) -> Self {
        Self {
            root: root.keep_atime(),
        }
    }

    /// The tree at `path`.
    ///
    /// # Errors
    /// When the tree is not there, or can't be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Dir::open(path).map(Self::new)
    }

    /// The tree's root directory.
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// What `target` points to.
    ///
    /// # Errors
    /// [`Reason::TargetOccupied`] when something stands there that the daemon did not make and
    /// can't adopt.
    pub(crate) fn current(&self, target: &Target) -> Result<Current, Fault> {
        let Some(folder) = self.folder(target)? else {
            return Ok(Current::Nothing);
        };
        if let Some(name) = linked(&folder, target)? {
            // A pointer that leads nowhere is damage; the next drop repairs it.
            let found = self.generation(target, name)?;
            return Ok(found.map_or(Current::Nothing, Current::Generation));
        }
        let purpose = target.purpose();
        let what = match folder.stat(purpose)?.map(|stat| stat.kind) {
            None => return Ok(Current::Nothing),
            Some(Kind::Dir) => return Ok(Current::Plain(folder.existing_dir(purpose)?)),
            Some(Kind::File | Kind::Other) => "a file",
            Some(Kind::Link) => "a link",
        };
        let detail = format!(
            "{target} is {what} that the daemon did not make; expected its own link, a folder, or \
             nothing"
        );
        Err(reject(Reason::TargetOccupied, detail))
    }

    /// The directory that machines read from when they use the stable path of `target`, and a part
    /// that the paths of all files in it have; `None` when nothing is current.
    pub(crate) fn in_use(&self, target: &Target) -> Result<Option<(Dir, String)>, Fault> {
        Ok(match self.current(target)? {
            Current::Nothing => None,
            Current::Plain(dir) => Some((dir, format!("/{target}/"))),
            Current::Generation(Generation { name, dir, .. }) => {
                Some((dir, format!("/{}/", name.path(target))))
            }
        })
    }

    /// The name of the generation that the target's pointer holds, whether it is there or not;
    /// `None` without a pointer.
    pub(crate) fn pointed(&self, target: &Target) -> Result<Option<GenerationName>, Fault> {
        let folder = self.folder(target)?;
        folder.map_or(Ok(None), |folder| Ok(linked(&folder, target)?))
    }

    /// What stands where the pointer of `target` belongs.
    fn shown(&self, target: &Target) -> Result<Shown, Fault> {
        let folder = self.folder(target)?;
        folder.map_or(Ok(Shown::Nothing), |folder| {
            Ok(Shown::look(&folder, target)?)
        })
    }

    /// Whether the stable path of `target` leads anywhere.
    fn is_shown(&self, target: &Target) -> Result<bool, Failure> {
        match self.shown(target) {
            Ok(Shown::Generation(name)) => {
                let found = self.root.stat(name.path(target))?;
                Ok(found.is_some_and(|stat| stat.kind == Kind::Dir))
            }
            Ok(Shown::Plain) => Ok(true),
            Err(Fault::Retry(failure)) => Err(failure),
            Ok(Shown::Nothing | Shown::Other) | Err(_) => Ok(false),
        }
    }

    /// The generation `name` of `target`; `None` when it is not there.
    pub(crate) fn generation(
        &self,
        target: &Target,
        name: GenerationName,
    ) -> Result<Option<Generation>, Failure> {
        let generations = self.generations(target)?;
        generations.map_or(Ok(None), |generations| generation(&generations, name))
    }

    /// The head of the record of the generation `name`, without reading the listing; `None` when it
    /// is missing or unreadable.
    pub(crate) fn head(
        &self,
        target: &Target,
        name: &GenerationName,
    ) -> Result<Option<Head>, Failure> {
        let path = format!("{}.toml", name.path(target));
        let Some(file) = self.root.file(&path)? else {
            return Ok(None);
        };
        Head::read(file)
            .map_err(|error| Failure::new("reading", self.root.path().join(&path), error))
    }

    /// What proves the generation `name`.
    ///
    /// # Errors
    /// When something else is there, or can't be read.
    pub(crate) fn proof(&self, target: &Target, name: &GenerationName) -> Result<Proof, Failure> {
        self.read_proof(target, name, proof::PARTS)
    }

    /// As [`Tree::proof`], but nothing of orders: what proves how the image came into the tree.
    pub(crate) fn proof_of_image(
        &self,
        target: &Target,
        name: &GenerationName,
    ) -> Result<Proof, Failure> {
        self.read_proof(target, name, 2)
    }

    fn read_proof(
        &self,
        target: &Target,
        name: &GenerationName,
        parts: usize,
    ) -> Result<Proof, Failure> {
        let mut proof = Proof::default();
        for (part, file) in proof.0.iter_mut().zip(name.proof()).take(parts) {
            *part = self.root.read(format!("{target}@/{file}"), MAX_RECORD)?;
        }
        Ok(proof)
    }

    /// The generations of `target`, the oldest first; `None` when the tree knows nothing of it.
    pub(crate) fn names(&self, target: &Target) -> Result<Option<Vec<GenerationName>>, Failure> {
        let generations = self.generations(target)?;
        generations.as_ref().map(generation_names).transpose()
    }

    /// Whether the tree has anything of `target`: a pointer, or generations.
    pub(crate) fn knows(&self, target: &Target) -> Result<bool, Fault> {
        Ok(self.pointed(target)?.is_some() || self.generations(target)?.is_some())
    }

    /// User and group of what is published here; `None` where no daemon was at work yet.
    pub(crate) fn ownership(
        &self,
        settings: &TreeSettings,
    ) -> Result<Option<Ownership>, StartError> {
        let private = self.root.stat(PRIVATE)?;
        let ownership = private.map(|private| settings.ownership(private.owner));
        Ok(ownership.transpose()?)
    }

    /// The user of the daemon that is at work here; `None` where none was yet.
    pub(crate) fn keeper(&self) -> Option<u32> {
        let private = self.root.stat(PRIVATE).ok().flatten();
        private.map(|private| private.owner.uid)
    }

    /// Generations of `target` that may be of an image with this digest, the newest first.
    pub(crate) fn kept(
        &self,
        target: &Target,
        digest: &Digest,
    ) -> Result<Vec<GenerationName>, Failure> {
        let mut kept = self.names(target)?.unwrap_or_default();
        kept.retain(|name| name.may_be(digest));
        kept.reverse();
        Ok(kept)
    }

    /// What happened to `target`, the newest first; `None` when nobody knows of anything.
    pub(crate) fn history(&self, target: &Target) -> Result<Option<History>, Failure> {
        History::open(&self.root, target)
    }

    /// What the history of `target` says that counts for the next change.
    pub(crate) fn past(&self, target: &Target) -> Result<Past, Failure> {
        let history = self.history(target)?;
        history.map_or_else(|| Ok(Past::default()), History::past)
    }

    /// The swap of `target` that the drop of this claim has made, as far as the history tells, and
    /// whether it is the last one. Later swaps may have come while there was no room for an outcome.
    pub(crate) fn swap_by(
        &self,
        target: &Target,
        claim: ClaimId,
    ) -> Result<Option<(Happened, bool)>, Failure> {
        let mut is_last = true;
        for line in self.history(target)?.into_iter().flatten() {
            let line = line?;
            if line.is_swap() && line.claim == Some(claim) {
                return Ok(Some((line, is_last)));
            }
            is_last &= !line.is_swap();
        }
        Ok(None)
    }

    /// Every target that the tree has a folder of generations for.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, Failure> {
        folder::targets(&self.root, |kind, name| {
            name.strip_suffix('@').filter(|_| kind == Kind::Dir)
        })
    }

    /// The folder that holds the target's pointer; `None` when it is not there.
    fn folder(&self, target: &Target) -> Result<Option<Dir>, Fault> {
        let path = target.folder();
        self.root.dir(&path).map_err(|failure| match failure.errno() {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                let detail = format!(
                    "{failure}; expected each of {path} to be a folder on the tree's file system"
                );
                reject(Reason::TargetOccupied, detail)
            }
            _ => Fault::Retry(failure),
        })
    }

    /// The folder that holds the target's generations; `None` when it is not there.
    fn generations(&self, target: &Target) -> Result<Option<Dir>, Failure> {
        self.root.dir(format!("{target}@"))
    }
}

/// The generation `name` in a folder of them; `None` when it is not there.
fn generation(generations: &Dir, name: GenerationName) -> Result<Option<Generation>, Failure> {
    let Some(dir) = generations.dir(name.as_str())? else {
        return Ok(None);
    };
    let record = read_record(generations, &name).ok();
    Ok(Some(Generation { name, dir, record }))
}

/// The record of the generation `name` in a folder of generations.
///
/// # Errors
/// What is wrong with it, for people.
fn read_record(generations: &Dir, name: &GenerationName) -> Result<Record, String> {
    let file = name.record();
    let bytes = generations.read(&file, MAX_RECORD);
    let bytes = bytes.map_err(|failure| failure.to_string())?;
    let bytes = bytes.ok_or_else(|| format!("missing; expected {file}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "not readable: no UTF-8".to_string())?;
    let record = Record::parse(&text).map_err(|error| {
        // The place in the text is that in a part of it.
        let problem = match error {
            RecordError::Toml(error) => error.message().to_string(),
            error => error.to_string(),
        };
        format!("not readable: {problem}")
    })?;
    let (said, is) = (record.head.digest, record.listing.digest());
    if said != is {
        return Err(format!("says digest {said}; what it lists has digest {is}"));
    }
    Ok(record)
}

/// The generations in a folder of them, the oldest first.
fn generation_names(generations: &Dir) -> Result<Vec<GenerationName>, Failure> {
    let mut names = Vec::<GenerationName>::new();
    generations.each(|name, kind| {
        let name = name.to_str().filter(|_| kind == Kind::Dir);
        names.extend(name.and_then(|name| name.parse().ok()));
        ControlFlow::Continue(())
    })?;
    names.sort_unstable();
    Ok(names)
}
