//! The tree: what machines see.
//!
//! ```text
//! <tree>/amd64/generic/noble/
//!   install -> install@/20261122T161500Z-9f3c2ab1d4e5     the pointer
//!   install@/20261122T161500Z-9f3c2ab1d4e5/…              a generation
//!   install@/20261122T161500Z-9f3c2ab1d4e5.toml           its record
//! <tree>/.netboot-publisher/                              private
//! <tree>/catalog.json                                     every current image
//! ```
//! The room owns all of this: it reads the tree ([`Tree`], where a stranger starts), makes
//! generations ([`Staging`]), swaps them in ([`Pointers`], of which there is one), and removes what
//! is not kept ([`Vacuum`]). It uses `words`, `text`, `sys`, `settings`, `fault` and `image`, and
//! knows nothing of the spool.

mod catalog;
mod lookout;
mod pointers;
mod record;
mod staging;
mod vacuum;
mod verification;

pub use catalog::Changes;
pub(crate) use catalog::{Catalog, CatalogFile, CatalogImage, Updated};
pub(crate) use lookout::{Lookout, Watched};
pub use pointers::Pointers;
pub(crate) use record::{Event, Happened, Origin};
pub use record::{Head, Record};
pub use staging::Staging;
pub(crate) use staging::{Placed, Previous, Staged};
pub(crate) use vacuum::{Spared, Vacuum};
pub(crate) use verification::{Verification, Verified};

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;

use rustix::io::Errno;

use crate::fault::{Fault, StartError, reject};
use crate::settings::TreeSettings;
use crate::sys::{Dir, Failure, Kind, Ownership};
use crate::words::{Digest, GenerationName, Moment, Reason, Target};

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

/// A generation and its record.
#[derive(Debug)]
pub(crate) struct Generation {
    pub name: GenerationName,
    pub dir: Dir,
    /// `None` when it is missing or unreadable: then nobody knows what was published.
    pub record: Option<Record>,
}

impl Tree {
    /// The tree at `root`.
    pub(crate) fn new(root: Dir) -> Self {
        Self {
            root: root.keep_atime(),
        }
    }

    /// # Errors
    /// When it is not there, or can't be read.
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
        let purpose = target.purpose();
        let occupied = |what: &str| {
            let detail = format!(
                "{target} is {what} that the daemon did not make; expected its own link, a folder, \
                 or nothing"
            );
            Err(reject(Reason::TargetOccupied, detail))
        };
        if let Some(name) = linked(&folder, target)? {
            let Some(generations) = folder.dir(target.generations())? else {
                return Ok(Current::Nothing);
            };
            // A pointer that leads nowhere is damage; the next drop repairs it.
            let found = generation(&generations, name)?;
            return Ok(found.map_or(Current::Nothing, Current::Generation));
        }
        match folder.stat(purpose)?.map(|stat| stat.kind) {
            None => Ok(Current::Nothing),
            Some(Kind::Dir) => Ok(Current::Plain(folder.existing_dir(purpose)?)),
            Some(Kind::File | Kind::Other) => occupied("a file"),
            Some(Kind::Link) => occupied("a link"),
        }
    }

    /// The directory that machines read from when they use the stable path of `target`, and how the
    /// paths of its files end but for their names in it; `None` when there is none.
    pub(crate) fn in_use(&self, target: &Target) -> Result<Option<(Dir, String)>, Fault> {
        Ok(match self.current(target)? {
            Current::Nothing => None,
            Current::Plain(dir) => Some((dir, format!("/{target}/"))),
            Current::Generation(generation) => {
                let path = format!("/{}/", generation.name.path(target));
                Some((generation.dir, path))
            }
        })
    }

    /// The name of the generation that the target's pointer holds, whether it is there or not;
    /// `None` without a pointer.
    pub(crate) fn pointed(&self, target: &Target) -> Result<Option<GenerationName>, Fault> {
        match self.folder(target)? {
            Some(folder) => Ok(linked(&folder, target)?),
            None => Ok(None),
        }
    }

    /// The generation `name` of `target`; `None` when it is not there.
    pub(crate) fn generation(
        &self,
        target: &Target,
        name: GenerationName,
    ) -> Result<Option<Generation>, Failure> {
        match self.generations(target)? {
            Some(generations) => generation(&generations, name),
            None => Ok(None),
        }
    }

    /// The head of the record of the generation `name`, without reading the listing; `None` when it
    /// is missing or unreadable.
    pub(crate) fn head(
        &self,
        target: &Target,
        name: &GenerationName,
    ) -> Result<Option<Head>, Failure> {
        const ENOUGH: usize = 4 << 10;
        let path = format!("{}.toml", name.path(target));
        let Some(mut file) = self.root.file(&path)? else {
            return Ok(None);
        };
        let mut start = vec![0; ENOUGH];
        let length = file
            .read(&mut start)
            .map_err(|error| Failure::new("reading", self.root.path().join(&path), error))?;
        let text = String::from_utf8_lossy(&start[..length]);
        Ok(Head::parse(&text).ok())
    }

    /// The generations of `target`, the oldest first; `None` when the tree knows nothing of it.
    pub(crate) fn names(&self, target: &Target) -> Result<Option<Vec<GenerationName>>, Failure> {
        let generations = self.generations(target)?;
        generations.as_ref().map(generation_names).transpose()
    }

    /// When the record of the generation `name` was written last: of one that isn't current, when it
    /// stopped being so. `None` when there is no record.
    pub(crate) fn retired_at(
        &self,
        target: &Target,
        name: &GenerationName,
    ) -> Result<Option<Moment>, Failure> {
        let Some(generations) = self.generations(target)? else {
            return Ok(None);
        };
        let record = generations.stat(name.record())?;
        Ok(record.map(|stat| stat.modified))
    }

    /// User and group of what is published here; `None` where no daemon was at work yet.
    pub(crate) fn ownership(
        &self,
        settings: &TreeSettings,
    ) -> Result<Option<Ownership>, StartError> {
        let own = self.root.stat(PRIVATE)?;
        let ownership = own.map(|own| settings.ownership(own.owner));
        Ok(ownership.transpose()?)
    }

    /// Generations of `target` that may be of an image with this digest, the newest first.
    pub(crate) fn kept(
        &self,
        target: &Target,
        digest: &Digest,
    ) -> Result<Vec<GenerationName>, Failure> {
        let Some(generations) = self.generations(target)? else {
            return Ok(Vec::new());
        };
        let mut kept = generation_names(&generations)?;
        kept.retain(|name| name.may_be(digest));
        kept.reverse();
        Ok(kept)
    }

    /// The generation that a rollback goes back to when nobody names one: of those that were
    /// published before the `current` one, the last; where none is current, the one that was so
    /// last. `None` when there is none.
    pub(crate) fn previous(
        &self,
        target: &Target,
        current: Option<&GenerationName>,
    ) -> Result<Option<Generation>, Failure> {
        let Some(generations) = self.generations(target)? else {
            return Ok(None);
        };
        let (mut own, mut others) = (None, Vec::new());
        for name in generation_names(&generations)? {
            let is_current = Some(&name) == current;
            let retired = generations.stat(name.record())?.map(|stat| stat.modified);
            let Some(generation) = generation(&generations, name)? else {
                continue;
            };
            let Some(record) = &generation.record else {
                continue;
            };
            let published = record.published_at();
            if is_current {
                own = Some(published);
            } else if current.is_some() {
                others.push((Some(published), generation));
            } else {
                others.push((retired, generation));
            }
        }
        let before = others
            .into_iter()
            .filter(|(at, _)| own.is_none_or(|own| at.is_some_and(|at| at < own)));
        let last = before.max_by(|(a, _), (b, _)| a.cmp(b));
        Ok(last.map(|(_, generation)| generation))
    }

    /// Every target that the tree has a folder of generations for.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, Failure> {
        let mut targets = Vec::new();
        let mut below = |path: &str, dir: &Dir, is_last: bool| -> Result<Vec<String>, Failure> {
            let mut folders = Vec::new();
            dir.each(|name, kind| {
                let name = name.to_str().filter(|_| kind == Kind::Dir);
                match name.map(|name| (name, name.strip_suffix('@'))) {
                    Some((_, Some(purpose))) if is_last => {
                        targets.extend(format!("{path}{purpose}").parse::<Target>());
                    }
                    Some((name, _)) if name != PRIVATE => folders.push(format!("{path}{name}/")),
                    _ => {}
                }
                ControlFlow::Continue(())
            })?;
            Ok(folders)
        };
        for arch in below("", &self.root, false)? {
            let Some(dir) = self.root.dir(&arch)? else {
                continue;
            };
            for subarch in below(&arch, &dir, false)? {
                let Some(dir) = self.root.dir(&subarch)? else {
                    continue;
                };
                for release in below(&subarch, &dir, false)? {
                    let Some(dir) = self.root.dir(&release)? else {
                        continue;
                    };
                    below(&release, &dir, true)?;
                }
            }
        }
        targets.sort_unstable();
        Ok(targets)
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
    let text = generations.read(name.record(), MAX_RECORD).ok().flatten();
    let record = text
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| Record::parse(&text).ok())
        .filter(|record| record.head.digest == record.listing.digest());
    Ok(Some(Generation { name, dir, record }))
}

/// The generations in a folder of them, the oldest first.
fn generation_names(generations: &Dir) -> Result<Vec<GenerationName>, Failure> {
    let mut names = Vec::new();
    generations.each(|name, kind| {
        if kind == Kind::Dir {
            names.extend(
                name.to_str()
                    .and_then(|name| name.parse::<GenerationName>().ok()),
            );
        }
        ControlFlow::Continue(())
    })?;
    names.sort_unstable();
    Ok(names)
}

/// The generation that a target's link names; `None` when the daemon would not have made it.
fn linked(folder: &Dir, target: &Target) -> Result<Option<GenerationName>, Failure> {
    let link = folder.link(target.purpose())?;
    let path = link.as_ref().and_then(|link| link.to_str());
    let name = path.and_then(|path| path.strip_prefix(&target.generations())?.strip_prefix('/'));
    Ok(name.and_then(|name| name.parse().ok()))
}
