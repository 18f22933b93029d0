//! An image on its way into the tree: compared with what is current, and staged where it differs.

use std::sync::Arc;

use bytesize::ByteSize;

use super::decision::{Decision, unchanged};
use super::orders::{conflict, origin};
use crate::fault::{Fault, reject};
use crate::image::{Base, Image};
use crate::spool::{Claimed, Manifest, Published};
use crate::sys::Progress;
use crate::tree::{Change, Current, Event, Generation, Happened, Head, Record, Staging};
use crate::words::{GenerationName, Reason};

/// A drop's image that is to be current.
pub(super) struct Publication<'a> {
    pub(super) staging: &'a Staging,
    pub(super) progress: &'a Progress,
    pub(super) claimed: &'a Claimed,
    pub(super) manifest: &'a Manifest,
    pub(super) image: &'a Image,
    /// Bytes.
    pub(super) min_free_space: u64,
}

impl Publication<'_> {
    /// # Errors
    /// What is wrong with the image, or keeps it from being staged.
    pub(super) fn compare_or_stage(&self, current: Current) -> Result<Decision, Fault> {
        match current {
            Current::Nothing => self.stage(None, Change::Make),
            Current::Plain(dir) => self.replace_plain(&Image::read(dir, None)?),
            Current::Generation(generation) => self.replace(generation),
        }
    }

    fn replace(&self, current: Generation) -> Result<Decision, Fault> {
        let change = Change::Replace(current.name);
        // A generation that nobody knows the contents of, or that can't be read, is damaged: the
        // drop repairs it.
        let published = Image::read(current.dir, Some(self.staging.ownership()));
        let (Some(record), Ok(published)) = (current.record, published) else {
            return self.stage(None, change);
        };
        let comparison = self.image.compare(&published, self.progress)?;
        // Where the record contradicts the manifest, the bytes themselves decide.
        let is_trusted = self.manifest.check_checksums(&record.listing).is_ok();
        if comparison.is_same && is_trusted {
            return Ok(unchanged(self.claimed, &record.head));
        }
        let base = is_trusted.then_some(Base {
            dir: published.dir(),
            listing: &record.listing,
            same_files: &comparison.same_files,
        });
        self.stage(base.as_ref(), change)
    }

    /// For a target that is a directory which somebody else made.
    fn replace_plain(&self, theirs: &Image) -> Result<Decision, Fault> {
        let target = &self.manifest.target;
        if !theirs.is_sound() {
            let detail = format!(
                "{target} is a folder that the daemon did not make, with something in it that is \
                 no file, folder or link; expected nothing else"
            );
            return Err(reject(Reason::TargetOccupied, detail));
        }
        let is_same = self.image.compare(theirs, self.progress)?.is_same;
        let wanted = if is_same { self.image } else { theirs };
        let listing = wanted.hash(self.progress)?;
        let digest = listing.digest();
        if let Some(replaces) = &self.manifest.replaces
            && !replaces.is(&digest)
        {
            let current = format!("a folder with digest {digest}");
            return Err(conflict(&current, replaces));
        }
        if is_same {
            self.manifest.check_checksums(&listing)?;
            return Ok(Decision::Unchanged(Published {
                generation: None,
                digest,
                files: listing.files.len(),
                bytes: listing.bytes(),
            }));
        }
        let kept = self.staging.tree().kept(target, &digest)?;
        let record = Record::new(target, listing, &kept, None, None);
        self.stage(None, Change::Exchange(Arc::new(record)))
    }

    fn stage(&self, base: Option<&Base<'_>>, change: Change) -> Result<Decision, Fault> {
        self.check_space(base)?;
        let draft = self.staging.begin()?;
        let owner = self.staging.gives_away_to();
        let listing = self
            .image
            .copy_into(&draft.dir, base, owner, self.progress)?;
        self.manifest.check_checksums(&listing)?;
        let target = &self.manifest.target;
        let kept = self.staging.tree().kept(target, &listing.digest())?;
        let version = self.manifest.version.clone();
        let origin = origin(self.claimed);
        let mut record = Record::new(target, listing, &kept, version, Some(&origin));
        let staged = match self.find_kept(&record, kept, &change)? {
            Some((name, history)) => {
                record.head.generation = name;
                record.history = history;
                let now = record.head.published_at;
                record.note(now, Happened::Published, Some(&origin));
                self.staging.stage_kept(&record, change)?
            }
            None => draft.finish(&record, change)?,
        };
        Ok(Decision::Change(Box::new(staged)))
    }

    /// The one of these generations that holds the very image of `record`, and is undamaged; with
    /// its history.
    fn find_kept(
        &self,
        record: &Record,
        kept: Vec<GenerationName>,
        change: &Change,
    ) -> Result<Option<(GenerationName, Vec<Event>)>, Fault> {
        let Head { target, digest, .. } = &record.head;
        for name in kept {
            // The current one was compared already.
            if matches!(change, Change::Replace(current) if *current == name) {
                continue;
            }
            let Some(kept) = self.staging.tree().generation(target, name)? else {
                continue;
            };
            let Ok(image) = Image::read(kept.dir, Some(self.staging.ownership())) else {
                continue;
            };
            let Some(record) = kept.record.filter(|_| image.is_sound()) else {
                continue;
            };
            match image.hash(self.progress) {
                Ok(listing) if listing.digest() == *digest => {
                    return Ok(Some((kept.name, record.history)));
                }
                Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                _ => {}
            }
        }
        Ok(None)
    }

    fn check_space(&self, base: Option<&Base<'_>>) -> Result<(), Fault> {
        let is_shared = |path| base.is_some_and(|base| base.same_files.contains(path));
        let copied = self.image.files().filter(|(path, _)| !is_shared(*path));
        let wanted: u64 = copied.map(|(_, size)| size).sum();
        let free = self.staging.tree().root().free_space()?;
        if wanted.saturating_add(self.min_free_space) > free {
            return Err(Fault::NoSpace {
                wanted: ByteSize(wanted),
                free: ByteSize(free),
            });
        }
        Ok(())
    }
}
