//! The last order for a target, as a tree tells: at a centre what is pushed, at a site what is in effect.

use anyhow::{bail, ensure};

use crate::image::Listing;
use crate::spool::{Action, Manifest};
use crate::sys::Dir;
use crate::tree::{CurrentImage, Head, LastOrder, Record, Tree};
use crate::words::{Digest, Moment, Target, Verdict};

/// A manifest, byte for byte, and its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Papers {
    pub(crate) manifest: Vec<u8>,
    pub(crate) signature: Option<Vec<u8>>,
}

impl Papers {
    /// What tells these from all others.
    pub(super) fn id(&self) -> Digest {
        let signature = self.signature.as_deref().map(Digest::of);
        id(&Digest::of(&self.manifest), signature.as_ref())
    }

    /// Those of a manifest that nobody has signed.
    fn unsigned(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.to_toml().into_bytes(),
            signature: None,
        }
    }

    fn signed([manifest, signature]: [Vec<u8>; 2]) -> Self {
        Self {
            manifest,
            signature: Some(signature),
        }
    }
}

/// What tells the papers with these digests from all others.
pub(super) fn id(manifest: &Digest, signature: Option<&Digest>) -> Digest {
    let signature = signature.map(ToString::to_string).unwrap_or_default();
    Digest::of(format!("{manifest}{signature}").as_bytes())
}

/// The last order for a target.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) target: Target,
    pub(super) what: Verdict,
    pub(super) at: Moment,
    pub(super) serial: Option<u64>,
    pub(super) papers: Papers,
    /// What is current then: nothing after a withdrawal.
    pub(super) image: Option<TreeImage>,
}

/// The image of a generation, and its own manifest: that of the order which publishes it.
#[derive(Debug)]
pub(super) struct TreeImage {
    pub(super) papers: Papers,
    pub(super) listing: Listing,
    pub(super) head: Head,
    pub(super) dir: Dir,
}

impl Order {
    /// Whether nobody has signed it, or its image.
    pub(super) fn is_unsigned(&self) -> bool {
        let of_image = self.image.iter().map(|it| &it.papers);
        of_image
            .chain([&self.papers])
            .any(|it| it.signature.is_none())
    }

    /// The last order for `target`; `None` where nobody has ordered what is there.
    ///
    /// # Errors
    /// When nobody can tell what was published.
    pub(super) fn last(tree: &Tree, target: &Target) -> anyhow::Result<Option<Self>> {
        let Some(last) = LastOrder::of(tree, target)? else {
            return Ok(None);
        };
        let image = last.image.map(|it| TreeImage::of(tree, target, it));
        let image = image.transpose()?;
        let what = match (last.verdict, &image) {
            (Some(what), _) => what,
            // An admin has made the generation current by hand: it was published once.
            (None, Some(_)) => Verdict::Published,
            (None, None) => return Ok(None),
        };
        ensure!(
            image.is_some() || what == Verdict::Withdrawn,
            "what is current has no readable record"
        );
        let signed = last.signed.map(Papers::signed);
        let papers = match (what, &image) {
            (Verdict::Published, Some(image)) => image.papers.clone(),
            (what, image) => signed.map_or_else(|| made(target, what, image.as_ref()), Ok)?,
        };
        Ok(Some(Self {
            target: target.clone(),
            what,
            at: last.at,
            serial: last.serial,
            papers,
            image,
        }))
    }
}

/// An order that nobody has signed.
fn made(target: &Target, what: Verdict, image: Option<&TreeImage>) -> anyhow::Result<Papers> {
    let head = image.map(|it| &it.head);
    let action = match (what, head) {
        (Verdict::Withdrawn, None) => Action::Withdraw(None),
        (Verdict::RolledBack, Some(head)) => Action::Rollback {
            to: None,
            digest: Some(head.digest),
        },
        (Verdict::Promoted, Some(head)) => Action::Promote {
            from: head.promoted().map_or(target, |it| &it.from).clone(),
            digest: Some(head.digest),
            generation: None,
        },
        _ => {
            bail!("the history says `{what}`, and the tree something else; expected both to agree")
        }
    };
    Ok(Papers::unsigned(&Manifest::new(target.clone(), action)))
}

impl TreeImage {
    fn of(tree: &Tree, target: &Target, current: CurrentImage) -> anyhow::Result<Self> {
        let Record { head, listing } = current.record;
        let signed = current.signed.map(Papers::signed);
        let papers = signed.unwrap_or_else(|| Self::made(&head, &listing));
        let dir = tree.root().existing_dir(head.generation.path(target))?;
        Ok(Self {
            papers,
            listing,
            head,
            dir,
        })
    }

    /// A manifest of an image that nobody has signed: the same image makes the same bytes.
    fn made(head: &Head, listing: &Listing) -> Papers {
        let promoted = head.promoted();
        let of_order = promoted.map(|it| it.image_for.as_ref().unwrap_or(&it.from));
        let target = of_order.unwrap_or(&head.target);
        let mut manifest = Manifest::new(target.clone(), Action::Publish);
        manifest.version.clone_from(&head.version);
        manifest.boot.clone_from(&head.boot);
        // That of a promoted one is the order's.
        manifest.serial = head.serial.filter(|_| promoted.is_none());
        manifest.list(listing.clone());
        Papers::unsigned(&manifest)
    }
}
