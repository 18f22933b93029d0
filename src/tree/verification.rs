//! Whether everything that was published still is what its records say.
//!
//! Nothing is written, and no lock is taken: a daemon may be at work. What it removes or swaps
//! meanwhile is no damage; so whatever seems damaged is looked at once more.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Serialize;

use super::{Record, Tree};
use crate::fault::{Fault, StartError};
use crate::image::{Content, FileMark, Image, Listing, hash_file};
use crate::settings::TreeSettings;
use crate::sys::{Failure, FileExt as _, Kind, Ownership, Progress, try_map};
use crate::text::quoted;
use crate::words::{Digest, GenerationName, Target};

/// What is to be read, and what was found amiss without reading it.
#[derive(Debug)]
pub(crate) struct Verification {
    tree: Tree,
    targets: usize,
    generations: Vec<(Target, GenerationName)>,
    /// The largest first: at the end no thread is left alone with a long one.
    groups: Vec<Group>,
    damages: Vec<Damage>,
}

/// Files of one target with the same name and the same record: in most cases one file, which is
/// read once.
#[derive(Debug)]
struct Group {
    path: String,
    mark: FileMark,
    /// The generations that have the file, by their number in [`Verification::generations`].
    generations: Vec<usize>,
}

/// What a run has shown.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    pub targets: usize,
    pub generations: usize,
    pub files: usize,
    /// As the records have them; a file that is in several generations counts in each.
    pub bytes: u64,
    /// Empty when everything is as it was published.
    pub damages: Vec<Damage>,
}

/// Something that is not what was published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Damage {
    pub target: Target,
    /// Missing when it is the target's pointer.
    pub generation: Option<GenerationName>,
    /// From the image's root; missing when it is the generation as a whole.
    pub path: Option<String>,
    #[serde(rename = "damage")]
    pub kind: DamageKind,
    /// For people.
    pub detail: String,
}

/// The kinds of damage. The words are part of the format for programs: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DamageKind {
    /// The pointer leads nowhere.
    Pointer,
    /// The record is missing or unreadable, or contradicts itself.
    Record,
    Missing,
    /// Something that was not published.
    Additional,
    /// Something else than was published: a folder for a file, a link that leads elsewhere.
    Other,
    Size,
    Content,
    /// Permissions, owner or group.
    Mode,
    Unreadable,
}

impl Verification {
    /// Looks at every target, or at one: pointers, records, names, sizes and modes.
    ///
    /// # Errors
    /// When the tree can't be read; when an account of the settings is unknown.
    pub(crate) fn read(
        settings: &TreeSettings,
        only: Option<&Target>,
    ) -> Result<Self, VerifyError> {
        let tree = Tree::open(&settings.path)?;
        let ownership = tree.ownership(settings)?;
        let targets = match only {
            Some(target) if tree.names(target)?.is_none() => {
                return Err(VerifyError::Unknown(target.clone()));
            }
            Some(target) => vec![target.clone()],
            None => tree.targets()?,
        };
        let mut verification = Self {
            tree,
            targets: targets.len(),
            generations: Vec::new(),
            groups: Vec::new(),
            damages: Vec::new(),
        };
        for target in targets {
            verification.look_at(&target, ownership)?;
        }
        let largest_first = |group: &Group| std::cmp::Reverse(group.mark.size);
        verification.groups.sort_by_key(largest_first);
        Ok(verification)
    }

    /// The bytes to be read, where no file is shared by several generations.
    pub(crate) fn bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.mark.size).sum()
    }

    fn look_at(&mut self, target: &Target, ownership: Option<Ownership>) -> Result<(), Fault> {
        // The pointer first: a generation that becomes current from here on is no damage.
        let pointed = self.tree.pointed(target)?;
        let Some(names) = self.tree.names(target)? else {
            return Ok(());
        };
        if let Some(name) = pointed
            && !names.contains(&name)
            // It may have been swapped since.
            && self.tree.pointed(target)?.as_ref() == Some(&name)
        {
            self.damages.push(Damage {
                target: target.clone(),
                generation: None,
                path: None,
                kind: DamageKind::Pointer,
                detail: format!("leads to {name}, which is not there"),
            });
        }
        let mut groups = BTreeMap::new();
        for name in names {
            let Some(generation) = self.tree.generation(target, name.clone())? else {
                continue;
            };
            let mut found = Vec::new();
            let mut note = |path: Option<&str>, kind, detail: &str| {
                found.push(Damage {
                    target: target.clone(),
                    generation: Some(name.clone()),
                    path: path.map(String::from),
                    kind,
                    detail: detail.to_string(),
                });
            };
            match (generation.record, Image::read(generation.dir, ownership)) {
                (None, _) => note(None, DamageKind::Record, "missing, or not readable"),
                (Some(_), Err(fault)) => note(None, DamageKind::Unreadable, &fault.to_string()),
                (Some(Record { listing, .. }), Ok(image)) => {
                    compare(&image, &listing, note);
                    for (path, size) in image.files() {
                        let mark = listing.files.get(path).copied();
                        let Some(mark) = mark.filter(|mark| mark.size == size) else {
                            continue;
                        };
                        let key = (path.to_string(), mark.sha256.to_bytes());
                        let group = groups.entry(key).or_insert_with(|| (mark, Vec::new()));
                        group.1.push(self.generations.len());
                    }
                }
            }
            // One without a record that isn't current is about to come or to go, or is a leftover.
            if self.has_record(target, &name)? || self.tree.pointed(target)?.as_ref() == Some(&name)
            {
                self.damages.extend(found);
            }
            self.generations.push((target.clone(), name));
        }
        let groups = groups
            .into_iter()
            .map(|((path, _), (mark, generations))| Group {
                path,
                mark,
                generations,
            });
        self.groups.extend(groups);
        Ok(())
    }

    /// Reads every file.
    ///
    /// # Errors
    /// [`Fault::Interrupted`] when it was to stop.
    pub(crate) fn run(self, progress: &Progress) -> Result<Verified, Fault> {
        let groups = self.groups.iter().collect();
        let found = try_map(groups, 1, |group| self.read_group(group, progress))?;
        let mut damages = self.damages;
        damages.extend(found.into_iter().flatten());
        damages.sort();
        let (mut files, mut bytes) = (0, 0);
        for Group {
            mark, generations, ..
        } in &self.groups
        {
            files += generations.len();
            bytes += generations.len() as u64 * mark.size;
        }
        Ok(Verified {
            targets: self.targets,
            generations: self.generations.len(),
            files,
            bytes,
            damages,
        })
    }

    fn read_group(&self, group: &Group, progress: &Progress) -> Result<Vec<Damage>, Fault> {
        let mut known = HashMap::new();
        let mut damages = Vec::new();
        for number in &group.generations {
            let (target, name) = &self.generations[*number];
            let path = format!("{}/{}", name.path(target), group.path);
            let (kind, detail) = match self.read_file(&path, &mut known, progress) {
                Ok(digest) if digest == group.mark.sha256 => continue,
                Ok(digest) => {
                    let detail = format!("has sha256 {digest}, recorded {}", group.mark.sha256);
                    (DamageKind::Content, detail)
                }
                Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                Err(fault) => (DamageKind::Unreadable, fault.to_string()),
            };
            if self.has_record(target, name)? {
                damages.push(Damage {
                    target: target.clone(),
                    generation: Some(name.clone()),
                    path: Some(group.path.clone()),
                    kind,
                    detail,
                });
            }
        }
        Ok(damages)
    }

    /// Whether vacuum has left the generation alone until now: it removes the record first.
    fn has_record(&self, target: &Target, name: &GenerationName) -> Result<bool, Failure> {
        Ok(self.tree.retired_at(target, name)?.is_some())
    }

    /// The digest of a file of the tree; `known` are those that were read already, by device and
    /// inode.
    fn read_file(
        &self,
        path: &str,
        known: &mut HashMap<(u64, u64), Digest>,
        progress: &Progress,
    ) -> Result<Digest, Fault> {
        let failed = |error| Failure::new("reading", self.tree.root().path().join(path), error);
        let file = self.tree.root().existing_file(path)?;
        let stat = file.stat().map_err(failed)?;
        if stat.kind != Kind::File {
            let error = std::io::Error::other("no regular file any more");
            return Err(failed(error).into());
        }
        if let Some(digest) = known.get(&stat.id) {
            return Ok(*digest);
        }
        let digest = hash_file(&file, progress, failed)?;
        known.insert(stat.id, digest);
        Ok(digest)
    }
}

/// Notes what differs between an image and its record's listing: names, kinds, sizes, links, modes.
fn compare(image: &Image, listing: &Listing, mut note: impl FnMut(Option<&str>, DamageKind, &str)) {
    const MODE: &str = "permissions, owner or group are not as published";
    if image.is_root_altered() {
        note(None, DamageKind::Mode, MODE);
    }
    let mut rest = BTreeMap::new();
    rest.extend(
        listing
            .files
            .iter()
            .map(|(path, mark)| (path, Content::File(mark.size))),
    );
    rest.extend(
        listing
            .links
            .iter()
            .map(|(path, to)| (path, Content::Link(to.clone()))),
    );
    rest.extend(listing.folders.iter().map(|path| (path, Content::Folder)));
    for entry in image.entries() {
        let path = Some(entry.path.as_str());
        let Some(recorded) = rest.remove(&entry.path) else {
            note(path, DamageKind::Additional, "was not published");
            continue;
        };
        match (&entry.content, &recorded) {
            (is, recorded) if is == recorded => {}
            (Content::File(is), Content::File(recorded)) => {
                let detail = format!("has {is} bytes, recorded {recorded}");
                note(path, DamageKind::Size, &detail);
            }
            (is, recorded) => {
                let detail = format!("is {}, recorded {}", shown(is), shown(recorded));
                note(path, DamageKind::Other, &detail);
            }
        }
        if entry.is_altered && !image.is_root_altered() {
            note(path, DamageKind::Mode, MODE);
        }
    }
    for path in rest.into_keys() {
        note(Some(path), DamageKind::Missing, "is not there");
    }
}

fn shown(content: &Content) -> String {
    match content {
        Content::File(_) => "a file".to_string(),
        Content::Folder => "a folder".to_string(),
        Content::Link(to) => format!("a link to {}", quoted(to)),
        Content::Foreign => "no file, folder or link".to_string(),
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged: {}", self.target)?;
        if let Some(generation) = &self.generation {
            write!(f, " {generation}")?;
        }
        match (&self.path, self.kind) {
            (Some(path), _) => write!(f, " {}", quoted(path))?,
            (None, DamageKind::Record) => f.write_str(" record")?,
            (None, DamageKind::Pointer) => f.write_str(" pointer")?,
            (None, _) => {}
        }
        write!(f, ": {}", self.detail)
    }
}

/// Why nothing can be verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0} is not in the tree; expected one that is")]
    Unknown(Target),
}

impl From<Failure> for VerifyError {
    fn from(failure: Failure) -> Self {
        Self::Fault(failure.into())
    }
}
