//! A promotion: the very image that is current at another target becomes current here, as a generation of
//! hard links.

use std::collections::HashMap;
use std::io::ErrorKind;

use super::decision::{Decision, Request, origin, published};
use super::notes::{lasting, notes_of};
use super::orders::{check_known, check_names_image};
use super::permits::signer;
use crate::fault::{Fault, reject};
use crate::image::{Base, Image, Listing};
use crate::sys::{Dir, Failure, Stat};
use crate::tree::{Change, Current, Generation, Head, Record, Tree};
use crate::words::{Digest, GenerationName, Note, Reason, Target};

/// What is current at the target that a promotion names, as it was when somebody looked.
#[derive(Debug)]
pub(super) struct Source {
    from: Target,
    name: GenerationName,
    dir: Dir,
    pub(super) record: Box<Record>,
    /// The image that is meant, and its generation, if the order says.
    meant: (Option<Digest>, Option<GenerationName>),
}

/// An image that was read, and is what was published.
struct Read {
    image: Image,
    listing: Listing,
    /// As what its files were seen.
    seen: HashMap<String, Stat>,
    /// What is noted of it where it is promoted to: that may be for other machines.
    notes: Vec<Note>,
}

impl Source {
    /// What is current at the target `from`.
    ///
    /// # Errors
    /// When nothing is, or another image than the one that is `meant`, or another generation of it.
    pub(super) fn find(
        request: &Request<'_>,
        from: &Target,
        meant: (Option<&Digest>, Option<&GenerationName>),
    ) -> Result<Self, Fault> {
        let (digest, named) = meant;
        check_names_image(request.claimed, digest)?;
        let tree = request.tree();
        check_known(tree, from)?;
        let generation = match tree.current(from)? {
            Current::Generation(generation) => generation,
            Current::Plain(_) => {
                return Err(unknown(format!(
                    "{from} is a folder that the daemon did not make; expected a generation"
                )));
            }
            Current::Nothing => {
                return Err(unknown(format!(
                    "nothing is current at {from}; expected a generation"
                )));
            }
        };
        let Generation { name, dir, record } = generation;
        let damaged = || {
            unknown(format!(
                "the record of {name} of {from} is damaged; expected it undamaged"
            ))
        };
        let record = Box::new(record.ok_or_else(damaged)?);
        let is = record.head.digest;
        if let Some(meant) = digest.filter(|meant| **meant != is) {
            let detail =
                format!("{name} with digest {is} is current at {from}; the order means {meant}");
            return Err(reject(Reason::Conflict, detail));
        }
        // The same files may be there with another version or `[boot]`, which would come along.
        if let Some(meant) = named.filter(|meant| **meant != name)
            && (digest.is_none() || has_had(tree, from, meant)?)
        {
            let detail = format!("{name} is current at {from}; the order means {meant}");
            return Err(reject(Reason::Conflict, detail));
        }
        Ok(Self {
            from: from.clone(),
            name,
            dir,
            record,
            meant: (digest.copied(), named.cloned()),
        })
    }

    /// Makes the image current at the target of the request, unless it is that already; also says what is
    /// noted of it there.
    ///
    /// # Errors
    /// When the image is damaged, is refused for what is noted of it, or can't be staged.
    pub(super) fn promote(
        mut self,
        request: &Request<'_>,
        mut current: Current,
    ) -> Result<(Decision, Vec<Note>), Fault> {
        loop {
            let fault = match self.try_to_promote(request, current) {
                Err(fault) if !matches!(fault, Fault::Interrupted) => fault,
                decided => return decided,
            };
            // What was current there when somebody looked may have been replaced since, and removed.
            let (digest, named) = &self.meant;
            let now = Self::find(request, &self.from, (digest.as_ref(), named.as_ref()))?;
            if now.name == self.name {
                return Err(fault);
            }
            self = now;
            current = request.tree().current(&request.manifest.target)?;
        }
    }

    fn try_to_promote(
        &self,
        request: &Request<'_>,
        current: Current,
    ) -> Result<(Decision, Vec<Note>), Fault> {
        let (name, from) = (&self.name, &self.from);
        let Some(read) = self.read(request)? else {
            return Err(unknown(format!(
                "{name} of {from} is not what was published any more; expected it undamaged"
            )));
        };
        // Files that have another mode or owner than what is published now are copied.
        let now = Some(request.shop.staging.ownership());
        let base = self.record.head.owner_now(now).map(|_| Base {
            dir: read.image.dir(),
            listing: &read.listing,
            same_files: &read.seen,
        });
        let stage = |change| self.stage(request, (&read, base.as_ref()), change);
        let decision = match current {
            Current::Nothing => stage(Change::Make)?,
            Current::Plain(dir) => request.replace_plain(&read.image, dir, stage)?,
            Current::Generation(current) => {
                let change = Change::Replace(current.name.clone());
                match self.is_current(request, current, &read)? {
                    Some(head) => Decision::Unchanged(published(&head)),
                    None => stage(change)?,
                }
            }
        };
        Ok((decision, read.notes))
    }

    /// Reads the image; `None` where it is not what was published any more.
    fn read(&self, request: &Request<'_>) -> Result<Option<Read>, Fault> {
        let (shop, head) = (request.shop, &self.record.head);
        let dir = self.dir.existing_dir(".")?;
        let image = Image::read(dir, head.owner_now(Some(shop.staging.ownership())))?;
        if !image.is_sound() {
            return Ok(None);
        }
        let (listing, seen) = Base::read(&image, &shop.progress)?;
        if listing.digest() != head.digest {
            return Ok(None);
        }
        let target = &request.manifest.target;
        let notes = notes_of(&image, &head.boot, target, &shop.settings)?;
        Ok(Some(Read {
            image,
            listing,
            seen,
            notes,
        }))
    }

    /// The record of what is current at the target of the request, where that is the very image, undamaged,
    /// and with all that is said of it and proven.
    fn is_current(
        &self,
        request: &Request<'_>,
        current: Generation,
        read: &Read,
    ) -> Result<Option<Head>, Fault> {
        let (shop, ours) = (request.shop, &self.record.head);
        let Some(record) = current.record else {
            return Ok(None);
        };
        let head = &record.head;
        let is_same = head.digest == ours.digest
            && (&head.version, &head.boot) == (&ours.version, &ours.boot);
        if !is_same || !has_come_by_order(request, head) {
            return Ok(None);
        }
        let Ok(theirs) = Image::read(current.dir, Some(shop.staging.ownership())) else {
            return Ok(None);
        };
        let recorded = |path: &str| record.listing.files.get(path).copied();
        let compared = read.image.compare(&theirs, Some(&recorded), &shop.progress);
        Ok(compared?.is_same.then_some(record.head))
    }

    /// Stages a generation of the image for the target of the request.
    fn stage(
        &self,
        request: &Request<'_>,
        (read, base): (&Read, Option<&Base<'_>>),
        change: Change,
    ) -> Result<Decision, Fault> {
        let (from, name, shop) = (&self.from, &self.name, request.shop);
        let (head, claimed) = (&self.record.head, request.claimed);
        let proof = request.tree().proof(from, name)?;
        let kept = proof.image();
        if kept != [None; 2] && signer(head.manifest, kept).is_none() {
            return Err(unknown(format!(
                "what is kept of {name} of {from} as its manifest and signature is not what was signed; \
                 expected it undamaged"
            )));
        }
        let proof = proof.promoted_by(shop.spool.processing().proof(claimed)?);
        let (_room, progress) = shop.reserve(&read.image, base)?;
        let draft = shop.staging.begin()?;
        let owner = shop.staging.gives_away_to();
        let listing = read
            .image
            .publish_into(&draft.dir, base, owner, &progress)?;
        let mut by = origin(claimed).promoting(head, claimed.credentials.manifest);
        by.notes = lasting(&read.notes);
        let (made, _) = shop.record(request.manifest, listing, &change, &by)?;
        // All that the manifest says of the image goes along.
        let head = Head {
            target: made.head.target,
            generation: made.head.generation,
            published_at: made.head.published_at,
            serial: made.head.serial,
            from: made.head.from,
            given: made.head.given,
            ..head.clone()
        };
        let listing = made.listing;
        // The record goes first where a generation is removed: what was read of it was there.
        if request.tree().head(from, name)?.is_none() {
            let path = name.path(from);
            return Err(Failure::new("promoting", path, ErrorKind::NotFound).into());
        }
        let staged = draft.finish(&Record { head, listing }, change, proof)?;
        Ok(Decision::Change(Box::new(staged)))
    }
}

/// Whether nothing is missing of a generation that this order would add: its proof, or the serial that lets
/// no older order come after it.
pub(super) fn has_come_by_order(request: &Request<'_>, head: &Head) -> bool {
    let (manifest, credentials) = (request.manifest, &request.claimed.credentials);
    if head.came_by() != credentials.manifest && manifest.serial.is_some() {
        return false;
    }
    if credentials.vouched.signer.is_none() {
        return true;
    }
    let proof = request.tree().proof(&manifest.target, &head.generation);
    proof.is_ok_and(|proof| {
        let is_good = |digest, signed| signer(digest, signed).is_some();
        let order = head.promoted().map(|it| it.order);
        is_good(head.manifest, proof.image())
            && order.is_none_or(|order| is_good(order, proof.order()))
    })
}

fn unknown(detail: String) -> Fault {
    reject(Reason::UnknownGeneration, detail)
}

/// Whether `target` has, or has had, a generation of this name. An order that names none of this tree's was
/// made for another one, where the same image has another name.
fn has_had(tree: &Tree, target: &Target, name: &GenerationName) -> Result<bool, Fault> {
    for line in tree.history(target)?.into_iter().flatten() {
        let line = line?;
        if [line.from, line.to].iter().flatten().any(|it| it == name) {
            return Ok(true);
        }
    }
    Ok(tree.generation(target, name.clone())?.is_some())
}
