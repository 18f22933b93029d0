//! An order that carries the image which it names: where the tree has no such image, or a damaged one, the
//! image is taken from the drop, as a publication's is, and becomes current by the order.

use super::decision::{Decision, Request, origin};
use super::notes::{lasting, notes_of};
use super::permits::Permits;
use super::promotion::has_come_by_order;
use crate::fault::{Fault, Rejection, reject};
use crate::image::{Image, Listing};
use crate::spool::{Action, Manifest, Papers};
use crate::tree::{Change, Head, Record, Staged};
use crate::words::{Digest, Note, Reason};

/// A manifest, and the signature of that.
type Signed = [Vec<u8>; 2];

/// The image that a drop brings: by itself, or with an order that may have to take it from there.
pub(super) struct Brought<'r>(pub(super) &'r Request<'r>);

impl Brought<'_> {
    /// The image, which is good, and what is noted of it.
    ///
    /// # Errors
    /// What is wrong with it, or why it may not come in.
    pub(super) fn check(&self) -> Result<(Image, Vec<Note>), Fault> {
        let (shop, claimed) = (self.0.shop, self.0.claimed);
        let is_signed = match self.0.carried {
            None => claimed.credentials.vouched.signer.is_some(),
            Some(carried) => {
                let (settings, tree) = (&*shop.settings, shop.staging.tree());
                let permits = Permits { settings, tree };
                permits.check_carried(claimed, self.0.manifest, carried)?;
                carried.known_signer(settings).is_some()
            }
        };
        let image = shop.spool.processing().image(claimed)?;
        let image = Image::check(image, claimed.importer.uid, self.0.limits)?;
        let manifest = self.manifest();
        let checked = manifest.check_sizes(&image);
        let checked = checked.and_then(|()| manifest.check_boot(&image));
        let checked = checked.and_then(|()| {
            if is_signed {
                return manifest.check_says_all(&image);
            }
            Ok(())
        });
        checked.map_err(self.about())?;
        let target = &self.0.manifest.target;
        let notes = notes_of(&image, &manifest.boot, target, &shop.settings)?;
        Ok((image, notes))
    }

    /// What is said of the image: by the drop's manifest, or by the image's own, where an order carries it.
    pub(super) fn manifest(&self) -> &Manifest {
        self.0.carried.map_or(self.0.manifest, |it| &it.manifest)
    }

    /// Makes sure that the image with this listing, as it was read, is the one that the drop speaks of.
    pub(super) fn check_listing(&self, listing: &Listing) -> Result<(), Fault> {
        let checked = self.manifest().check_checksums(listing);
        checked.map_err(self.about())?;
        if self.0.carried.is_none() {
            return Ok(());
        }
        let (is, meant) = (listing.digest(), self.meant());
        if meant != Some(&is) {
            let meant = meant.map_or("none".to_string(), ToString::to_string);
            let detail = format!("the image has digest {is}; the order means {meant}");
            return Err(reject(Reason::ChecksumMismatch, detail));
        }
        Ok(())
    }

    /// Whether nothing is missing of what is current, with this head, that a carried image would add.
    pub(super) fn is_as_ordered(&self, head: &Head) -> bool {
        let is_promotion = matches!(self.0.manifest.action, Action::Promote { .. });
        self.meant() == Some(&head.digest) && (!is_promotion || has_come_by_order(self.0, head))
    }

    /// The image that an order means.
    fn meant(&self) -> Option<&Digest> {
        match &self.0.manifest.action {
            Action::Rollback { digest, .. } | Action::Promote { digest, .. } => digest.as_ref(),
            Action::Publish | Action::Withdraw(_) => None,
        }
    }

    /// Tells which of the manifests a rejection is about.
    fn about(&self) -> impl Fn(Fault) -> Fault {
        let is_carried = self.0.carried.is_some();
        move |fault| match fault {
            Fault::Reject(Rejection { reason, detail, .. }) if is_carried => {
                reject(reason, format!("{}: {detail}", Papers::OF_IMAGE))
            }
            fault => fault,
        }
    }

    /// The record of a copy of the image that the order carries, and what was signed of image and order, as
    /// far as a generation keeps it.
    pub(super) fn record(
        &self,
        carried: &Papers,
        listing: Listing,
        change: &Change,
    ) -> Result<(Record, [Option<Signed>; 2]), Fault> {
        let (shop, claimed) = (self.0.shop, self.0.claimed);
        let spool = shop.spool.processing();
        let signer = carried.known_signer(&shop.settings);
        let of_image = match &signer {
            Some(_) => spool.proof_of_image(claimed, carried)?,
            None => None,
        };
        let mut from = origin(claimed);
        let (order, image_for) = (self.0.manifest, &carried.manifest.target);
        let source = match &order.action {
            Action::Promote { from, .. } => Some(from),
            // One that had come to this target by a promotion.
            _ => Some(&order.target).filter(|it| *it != image_for),
        };
        if let Some(source) = source {
            from = from.promoted_from(source, image_for, claimed.credentials.manifest);
        }
        from = from.carrying(signer);
        from.notes = lasting(self.0.notes);
        let (mut record, _) = shop.record(self.0.manifest, listing, change, &from)?;
        let head = &mut record.head;
        head.version.clone_from(&carried.manifest.version);
        head.boot.clone_from(&carried.manifest.boot);
        head.manifest = carried.digest;
        if head.promoted().is_some() {
            return Ok((record, [of_image, spool.proof(claimed)?]));
        }
        // Of a generation that was rolled back to the record tells of the image.
        head.serial = carried.manifest.serial;
        Ok((record, [of_image, None]))
    }

    /// What was staged of the image that the order carries, as the order has it made current.
    pub(super) fn ordered(&self, staged: Staged) -> Result<Decision, Fault> {
        if matches!(self.0.manifest.action, Action::Promote { .. }) {
            return Ok(Decision::Change(Box::new(staged)));
        }
        let mut staged = staged.into_rollback(origin(self.0.claimed));
        // The image's own serial counts for nothing.
        staged.head.serial = None;
        self.0.ordered(staged)
    }
}
