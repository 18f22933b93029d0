//! An image on its way into the tree: compared with what is current, and staged where it differs.

use std::sync::Arc;

use super::carried::Brought;
use super::decision::{self, Decision, Request, origin};
use super::notes::lasting;
use super::orders::conflict;
use super::permits::{has_credentials_of, is_proven};
use super::room::Reserved;
use super::workshop::Workshop;
use crate::fault::{Fault, reject};
use crate::image::{Base, Image, Listing};
use crate::spool::{Manifest, Published};
use crate::sys::{Dir, Progress};
use crate::tree::{Change, Current, Generation, Head, Origin, Record};
use crate::words::{GenerationName, Reason};

impl Request<'_> {
    /// What becomes of an image that is to be current.
    ///
    /// # Errors
    /// What is wrong with the image, or keeps it from being staged.
    pub(super) fn compare_or_stage(
        &self,
        image: &Image,
        current: Current,
    ) -> Result<Decision, Fault> {
        match current {
            Current::Nothing => self.stage(image, None, Change::Make),
            Current::Plain(dir) => {
                self.replace_plain(image, dir, |change| self.stage(image, None, change))
            }
            Current::Generation(generation) => self.replace(image, generation),
        }
    }

    fn replace(&self, image: &Image, current: Generation) -> Result<Decision, Fault> {
        let change = Change::Replace(current.name);
        // A generation that nobody knows the contents of, or that can't be read, is damaged: the
        // drop repairs it.
        let published = Image::read(current.dir, Some(self.shop.staging.ownership()));
        let (Some(record), Ok(published)) = (current.record, published) else {
            return self.stage(image, None, change);
        };
        // Where the manifest contradicts the record, the bytes themselves decide.
        let recorded = |path: &str| {
            let mark = record.listing.files.get(path).copied();
            mark.filter(|mark| Brought(self).manifest().allows(path, &mark.sha256))
        };
        let comparison = image.compare(&published, Some(&recorded), &self.shop.progress)?;
        // Another version of the same image, or another way to boot it, is a generation of its own, of hard
        // links.
        if comparison.is_same
            && record.head.version == Brought(self).manifest().version
            && record.head.boot == Brought(self).manifest().boot
            && self.is_all_there(&record.head)
            && record.listing.lists(image.entries())
            && Brought(self)
                .manifest()
                .check_checksums(&record.listing)
                .is_ok()
        {
            return Ok(Decision::Unchanged(decision::published(&record.head)));
        }
        let base = Base {
            dir: published.dir(),
            listing: &record.listing,
            same_files: &comparison.same_files,
        };
        self.stage(image, Some(&base), change)
    }

    /// For a target that is a directory which somebody else made. One with the very same files is left
    /// alone, unless machines can't read all of it.
    pub(super) fn replace_plain(
        &self,
        image: &Image,
        dir: Dir,
        stage: impl FnOnce(Change) -> Result<Decision, Fault>,
    ) -> Result<Decision, Fault> {
        let target = &self.manifest.target;
        let theirs = &Image::read_plain(dir)?;
        if theirs.has_foreign() {
            let detail = format!(
                "{target} is a folder that the daemon did not make, with something in it that is \
                 no file, folder or link; expected nothing else"
            );
            return Err(reject(Reason::TargetOccupied, detail));
        }
        let is_same = image.compare(theirs, None, &self.shop.progress)?.is_same;
        let wanted = if is_same { image } else { theirs };
        let listing = wanted.hash(&self.shop.progress)?;
        let digest = listing.digest();
        if let Some(replaces) = &self.manifest.replaces
            && !replaces.is(&digest)
        {
            let current = format!("a folder with digest {digest}");
            return Err(conflict(&current, replaces));
        }
        if is_same {
            Brought(self).check_listing(&listing)?;
            return Ok(Decision::Unchanged(Published {
                generation: None,
                digest,
                files: listing.files.len(),
                bytes: listing.bytes(),
                notes: Vec::new(),
            }));
        }
        let kept = self.shop.staging.tree().kept(target, &digest)?;
        let record = Record::new(target, listing, &kept, None, None);
        stage(Change::Exchange(Arc::new(record)))
    }

    /// Whether nothing is missing of what is current that the drop would add beside the image.
    fn is_all_there(&self, head: &Head) -> bool {
        match self.carried {
            Some(_) => Brought(self).is_as_ordered(head),
            None => has_credentials_of(self.claimed, head) && self.is_proven(&head.generation),
        }
    }

    fn is_proven(&self, name: &GenerationName) -> bool {
        let tree = self.shop.staging.tree();
        is_proven(self.claimed, tree, &self.manifest.target, name)
    }

    fn stage(
        &self,
        image: &Image,
        base: Option<&Base<'_>>,
        change: Change,
    ) -> Result<Decision, Fault> {
        let (_room, progress) = self.shop.reserve(image, base)?;
        let draft = self.shop.staging.begin()?;
        let owner = self.shop.staging.gives_away_to();
        let listing = image.publish_into(&draft.dir, base, owner, &progress)?;
        Brought(self).check_listing(&listing)?;
        if let Some(carried) = self.carried {
            let (record, proof) = Brought(self).record(carried, listing, &change)?;
            return Brought(self).ordered(draft.finish(&record, change, proof)?);
        }
        let mut by = origin(self.claimed);
        by.notes = lasting(self.notes);
        let (mut record, mut kept) = self.shop.record(self.manifest, listing, &change, &by)?;
        record.head.manifest = self.claimed.credentials.manifest;
        record.head.boot.clone_from(&self.manifest.boot);
        kept.retain(|name| self.is_proven(name));
        let staged = match self.shop.find_kept(&record, kept, &change)? {
            Some(name) => {
                record.head.generation = name;
                let staging = &self.shop.staging;
                staging.stage_kept(&record, change)?
            }
            None => {
                let proof = self.shop.spool.processing().proof(self.claimed)?;
                draft.finish(&record, change, proof)?
            }
        };
        Ok(Decision::Change(Box::new(staged)))
    }
}

impl Workshop {
    /// The record of a copy of an image, for the target of this manifest, and the generations there that are
    /// kept of the same image.
    pub(super) fn record(
        &self,
        manifest: &Manifest,
        listing: Listing,
        change: &Change,
        by: &Origin,
    ) -> Result<(Record, Vec<GenerationName>), Fault> {
        let target = &manifest.target;
        let mut kept = self.staging.tree().kept(target, &listing.digest())?;
        if let Change::Exchange(adopted) = change {
            // It takes its name in the same step, and can be of the same image.
            kept.push(adopted.head.generation.clone());
        }
        let version = manifest.version.clone();
        let mut record = Record::new(target, listing, &kept, version, Some(by));
        record.head.given = Some(self.staging.ownership());
        record.head.serial = manifest.serial;
        Ok((record, kept))
    }

    /// The one of these generations that holds the very image of `record`, in its version and booted as
    /// that, and is undamaged.
    fn find_kept(
        &self,
        record: &Record,
        kept: Vec<GenerationName>,
        change: &Change,
    ) -> Result<Option<GenerationName>, Fault> {
        let Head {
            target,
            digest,
            version,
            manifest,
            boot,
            ..
        } = &record.head;
        for name in kept {
            // The current one was compared already.
            if matches!(change, Change::Replace(current) if *current == name) {
                continue;
            }
            let kept = self.staging.tree().generation(target, name)?;
            if let Some(kept) = kept
                && kept.record.is_some_and(|kept| {
                    let (head, is) = (&kept.head, (version, manifest, boot));
                    head.promoted().is_none() && (&head.version, &head.manifest, &head.boot) == is
                })
                && let Ok(image) = Image::read(kept.dir, Some(self.staging.ownership()))
                && image.is_sound()
            {
                match image.hash(&self.progress) {
                    Ok(listing) if listing.digest() == *digest => {
                        return Ok(Some(kept.name));
                    }
                    Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Speaks for the room that an image takes beside what it shares with `base`, as long as not all of that
    /// is written.
    pub(super) fn reserve(
        &self,
        image: &Image,
        base: Option<&Base<'_>>,
    ) -> Result<(Reserved<'_>, Arc<Progress>), Fault> {
        let written = Arc::new(Progress::part_of(&self.progress));
        let is_shared = |path| base.is_some_and(|base| base.same_files.contains_key(path));
        let copied = image.files().filter(|(path, _)| !is_shared(*path));
        let bytes = copied.map(|(_, size)| size).sum();
        let shared = base.map_or(0, |base| base.same_files.len());
        // With its folder, and its record.
        let inodes = (image.entries().len() + 2).saturating_sub(shared) as u64;
        let (tree, reserve) = (
            self.staging.tree().root(),
            self.settings.limits.min_free_space,
        );
        let progress = Arc::clone(&written);
        let reserved = self.room.reserve(tree, (bytes, inodes), reserve, written)?;
        Ok((reserved, progress))
    }
}
