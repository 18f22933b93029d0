//! Whether everything that was published still is what its records say, and, where that is asked for,
//! whether what somebody has signed says the same.
//!
//! Nothing is written, and no lock is taken: a daemon may be at work. What the daemon removes or swaps
//! meanwhile is no damage; so whatever seems damaged is looked at once more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Serialize;

use super::folder::Shown;
use super::{Generation, Record, Tree, read_record};
use crate::fault::Fault;
use crate::image::{Content, Image, Listing, hash_file};
use crate::sys::{Failure, FileExt as _, Kind, Ownership, Progress, try_map};
use crate::text::quoted;
use crate::words::{Digest, GenerationName, Target};

/// What is to be read, and what was found amiss without reading it.
#[derive(Debug)]
pub(crate) struct Verification {
    tree: Tree,
    targets: usize,
    generations: Vec<(Target, GenerationName)>,
    /// Which of the generations have a file: in most cases it is one file, which is read once.
    files: BTreeMap<Recorded, Vec<usize>>,
    damages: Vec<Damage>,
}

/// A file as the records have it. The largest come first: at the end no thread is left alone with a
/// long one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recorded {
    size: Reverse<u64>,
    target: Target,
    path: String,
    sha256: Digest,
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
    /// Missing when the target's pointer is damaged.
    pub generation: Option<GenerationName>,
    /// From the image's root; missing when the generation as a whole is damaged.
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
    /// Nobody has signed it.
    Unsigned,
    /// The signature is missing, or not one of the manifest that is kept.
    Signature,
    /// Signed with a key that no rule has.
    UnknownKey,
    /// The signed manifest is of something else.
    Manifest,
}

/// What keeps a generation from being proven, and for people what is wrong with that.
type Unproven = (DamageKind, String);

/// Tells whether what is kept beside a generation proves what its record says: manifest and signature, as far
/// as they are there, the order that has promoted the image and the signature of that, and earlier orders.
type Prove<'p> = dyn Fn(&Target, &Generation, [[Option<&[u8]>; 2]; 2], &[[String; 2]]) -> Result<(), Unproven>
    + 'p;

impl DamageKind {
    /// Whether it is a proof that is missing: machines may get what was published all the same.
    pub(crate) fn is_of_proof(self) -> bool {
        matches!(
            self,
            Self::Unsigned | Self::Signature | Self::UnknownKey | Self::Manifest
        )
    }
}

impl Verification {
    /// Looks at these targets: pointers, records, names, sizes and modes. `ownership` is what the
    /// daemon gives to published files; every generation is to be proven where `prove` is given.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub(crate) fn read(
        tree: Tree,
        targets: &[Target],
        ownership: Option<Ownership>,
        prove: Option<&Prove<'_>>,
    ) -> Result<Self, Fault> {
        let mut verification = Self {
            tree,
            targets: targets.len(),
            generations: Vec::new(),
            files: BTreeMap::new(),
            damages: Vec::new(),
        };
        for target in targets {
            verification.look_at(target, ownership, prove)?;
        }
        Ok(verification)
    }

    /// The bytes to be read, where no file is shared by several generations.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.keys().map(|file| file.size.0).sum()
    }

    fn look_at(
        &mut self,
        target: &Target,
        ownership: Option<Ownership>,
        prove: Option<&Prove<'_>>,
    ) -> Result<(), Fault> {
        // The pointer first: a generation that becomes current from here on is no damage.
        let pointed = self.tree.pointed(target)?;
        let Some(names) = self.tree.names(target)? else {
            return Ok(());
        };
        if let Some(name) = pointed
            && !names.contains(&name)
            // The pointer may have been swapped since.
            && self.tree.pointed(target)?.as_ref() == Some(&name)
        {
            let detail = format!("leads to {name}, which is not there");
            self.note_pointer(target, DamageKind::Pointer, detail);
        }
        if prove.is_some() && matches!(self.tree.shown(target)?, Shown::Plain | Shown::Other) {
            let detail = "something that the daemon did not make, and nobody has signed; expected \
                          its own link, or nothing";
            self.note_pointer(target, DamageKind::Unsigned, detail.to_string());
        }
        for name in names {
            if let Some(generation) = self.tree.generation(target, name)? {
                let unproven = prove.and_then(|prove| self.prove(target, &generation, prove));
                self.look_at_generation(target, generation, ownership, unproven)?;
            }
        }
        Ok(())
    }

    /// Notes what is wrong with what stands where the pointer belongs.
    fn note_pointer(&mut self, target: &Target, kind: DamageKind, detail: String) {
        self.damages.push(Damage {
            target: target.clone(),
            generation: None,
            path: None,
            kind,
            detail,
        });
    }

    /// What keeps a generation from being proven.
    fn prove(
        &self,
        target: &Target,
        generation: &Generation,
        prove: &Prove<'_>,
    ) -> Option<Unproven> {
        let proof = self.tree.proof(target, &generation.name);
        let proof = proof.map_err(|failure| (DamageKind::Signature, failure.to_string()));
        let proven = proof.and_then(|proof| {
            let parts = [proof.image(), proof.order()];
            prove(target, generation, parts, &proof.earlier())
        });
        proven.err()
    }

    fn look_at_generation(
        &mut self,
        target: &Target,
        Generation { name, dir, record }: Generation,
        ownership: Option<Ownership>,
        unproven: Option<Unproven>,
    ) -> Result<(), Fault> {
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
        if let Some((kind, detail)) = unproven {
            note(None, kind, &detail);
        }
        let given = record.as_ref().and_then(|it| it.head.owner_now(ownership));
        match (record, Image::read(dir, given)) {
            (None, _) => {
                // One that is good by now was written meanwhile.
                if let Some(generations) = self.tree.generations(target)?
                    && let Err(trouble) = read_record(&generations, &name)
                {
                    note(None, DamageKind::Record, &trouble);
                }
            }
            (Some(_), Err(fault)) => note(None, DamageKind::Unreadable, &fault.to_string()),
            (Some(Record { listing, .. }), Ok(image)) => {
                compare(&image, &listing, note);
                for (path, size) in image.files() {
                    if let Some(mark) = listing.files.get(path)
                        && mark.size == size
                    {
                        let file = Recorded {
                            size: Reverse(size),
                            target: target.clone(),
                            path: path.to_string(),
                            sha256: mark.sha256,
                        };
                        let number = self.generations.len();
                        self.files.entry(file).or_default().push(number);
                    }
                }
            }
        }
        // A generation without a record that isn't current is about to come or to go, or a leftover.
        let is_current = || Ok::<_, Fault>(self.tree.pointed(target)?.as_ref() == Some(&name));
        if self.has_record(target, &name)? || is_current()? {
            self.damages.extend(found);
        }
        self.generations.push((target.clone(), name));
        Ok(())
    }

    /// Reads every file.
    ///
    /// # Errors
    /// [`Fault::Interrupted`] when it was to stop.
    pub(crate) fn run(self, progress: &Progress) -> Result<Verified, Fault> {
        let files = self.files.iter().collect();
        let found = try_map(files, 1, |(file, generations)| {
            self.read_in_all(file, generations, progress)
        })?;
        let mut damages = self.damages;
        damages.extend(found.into_iter().flatten());
        damages.sort();
        let bytes = |(file, found): (&Recorded, &Vec<_>)| file.size.0 * found.len() as u64;
        Ok(Verified {
            targets: self.targets,
            generations: self.generations.len(),
            files: self.files.values().map(Vec::len).sum(),
            bytes: self.files.iter().map(bytes).sum(),
            damages,
        })
    }

    /// Reads a file in all of the generations that have it.
    fn read_in_all(
        &self,
        file: &Recorded,
        generations: &[usize],
        progress: &Progress,
    ) -> Result<Vec<Damage>, Fault> {
        let (target, path, sha256) = (&file.target, &file.path, file.sha256);
        let mut known = HashMap::new();
        let mut damages = Vec::new();
        for number in generations {
            let name = &self.generations[*number].1;
            let in_tree = format!("{}/{path}", name.path(target));
            let (kind, detail) = match self.read_file(&in_tree, &mut known, progress) {
                Ok(digest) if digest == sha256 => continue,
                Ok(digest) => {
                    let detail = format!("has sha256 {digest}, recorded {sha256}");
                    (DamageKind::Content, detail)
                }
                Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                Err(fault) => (DamageKind::Unreadable, fault.to_string()),
            };
            if self.has_record(target, name)? {
                damages.push(Damage {
                    target: target.clone(),
                    generation: Some(name.clone()),
                    path: Some(path.clone()),
                    kind,
                    detail,
                });
            }
        }
        Ok(damages)
    }

    /// Whether vacuum has left the generation alone until now: it removes the record first.
    fn has_record(&self, target: &Target, name: &GenerationName) -> Result<bool, Failure> {
        let record = format!("{}.toml", name.path(target));
        Ok(self.tree.root().stat(record)?.is_some())
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
        let digest = hash_file(&file, progress, |error| failed(error).into())?;
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
    for (path, mark) in &listing.files {
        rest.insert(path, Content::File(mark.size));
    }
    for (path, to) in &listing.links {
        rest.insert(path, Content::Link(to.clone()));
    }
    for path in &listing.folders {
        rest.insert(path, Content::Folder);
    }
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
        let what = if self.kind.is_of_proof() {
            "unproven"
        } else {
            "damaged"
        };
        write!(f, "{what}: {}", self.target)?;
        if let Some(generation) = &self.generation {
            write!(f, " {generation}")?;
        }
        match (&self.path, self.kind) {
            (Some(path), _) => write!(f, " {}", quoted(path))?,
            (None, DamageKind::Record) => f.write_str(" record")?,
            (None, DamageKind::Pointer) => f.write_str(" pointer")?,
            (None, DamageKind::Signature) => f.write_str(" signature")?,
            (None, DamageKind::Manifest) => f.write_str(" manifest")?,
            (None, _) => {}
        }
        write!(f, ": {}", self.detail)
    }
}
