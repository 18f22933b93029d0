//! An order of a registry is read, and what it says of its image; nothing of the image itself.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};

use super::artifact::{Artifact, Blob};
use super::contents::Contents;
use super::index::Entry;
use super::order::{Order, Papers};
use super::repository::Repository;
use super::store::Store;
use crate::image::Listing;
use crate::settings::Limits;
use crate::spool::{Action, Manifest};
use crate::tree::Tree;
use crate::trust;
use crate::words::{Digest, Target, Verdict};

/// Bytes of a manifest: as a daemon takes them.
const MAX_MANIFEST: u64 = 16 << 20;

/// A registry that a site takes orders from.
pub(super) struct Remote {
    pub(super) repository: Repository,
    pub(super) store: Store,
    pub(super) limits: Limits,
    /// Whether orders may be unsigned.
    pub(super) is_insecure: bool,
}

/// An order that was read.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) target: Target,
    pub(crate) papers: Papers,
    pub(super) image: Option<BroughtImage>,
    what: Verdict,
}

/// An image, as its OCI manifest and its own manifest tell.
#[derive(Debug)]
pub(super) struct BroughtImage {
    pub(super) papers: Papers,
    pub(super) contents: Contents,
    /// Its OCI manifest …
    pub(super) blob: Blob,
    /// … as it was read, where that was needed.
    pub(super) artifact: Option<Artifact>,
}

impl Brought {
    /// The own manifest of the image that the order carries, where it is one that publishes nothing.
    pub(crate) fn carried(&self) -> Option<&Papers> {
        let image = self.image.as_ref()?;
        (self.what != Verdict::Published).then_some(&image.papers)
    }

    /// Whether there is an image to be fetched.
    pub(crate) fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Whether the tree shows already what an order wants that nobody has signed.
    pub(crate) fn is_in_effect(&self, tree: &Tree) -> bool {
        if self.papers.signature.is_some() {
            return false;
        }
        let Ok(last) = Order::last(tree, &self.target) else {
            return false;
        };
        let current = last.and_then(|it| it.image);
        match (&self.image, current) {
            (None, current) => current.is_none(),
            (Some(_), None) => false,
            (Some(image), Some(current)) => {
                let manifest = Manifest::of_bytes(&image.papers.manifest).ok();
                let is_same = |it: Manifest| {
                    it.version == current.head.version && it.boot == current.head.boot
                };
                image.listing() == Some(current.listing) && manifest.is_some_and(is_same)
            }
        }
    }
}

impl Remote {
    /// Reads an order, and what it says of its image; nothing of the image itself.
    ///
    /// # Errors
    /// When it can't be had, isn't what its digests say, or isn't an order that this site takes.
    pub(super) async fn bring(&self, entry: &Entry) -> anyhow::Result<Brought> {
        let (target, what) = (&entry.target, entry.what);
        let papers = self.papers(entry.papers).await?;
        let manifest = Manifest::of_bytes(&papers.manifest).map_err(anyhow::Error::msg)?;
        ensure!(
            manifest.target == *target,
            "the order is for {}; expected it to be for {target}, as the index says",
            manifest.target
        );
        let (is_as_said, digest) = match (&manifest.action, what) {
            (Action::Publish, Verdict::Published)
            | (Action::Withdraw(None), Verdict::Withdrawn) => (true, None),
            (Action::Rollback { digest, .. }, Verdict::RolledBack)
            | (Action::Promote { digest, .. }, Verdict::Promoted) => (true, *digest),
            _ => (false, None),
        };
        ensure!(
            is_as_said,
            "the order asks for something else than the index says ({what})"
        );
        let image = match (what, entry.image) {
            (Verdict::Published, _) => Some(self.own_image(&papers, manifest, entry).await?),
            (Verdict::Withdrawn, _) => None,
            (_, None) => bail!("the index names no image for the order ({what})"),
            (_, Some(blob)) => Some(self.named_image(blob).await?),
        };
        if let (Some(image), Some(digest)) = (&image, digest) {
            let listing = image.listing();
            let is_named = listing.is_none_or(|it| it.digest() == digest);
            ensure!(
                is_named,
                "the order names another image than the one that comes with it"
            );
        }
        Ok(Brought {
            target: target.clone(),
            papers,
            image,
            what,
        })
    }

    /// The image of a publication: its OCI manifest is read only where the manifest doesn't tell all.
    async fn own_image(
        &self,
        papers: &Papers,
        manifest: Manifest,
        entry: &Entry,
    ) -> anyhow::Result<BroughtImage> {
        let mut image = self.checked(papers.clone(), manifest, entry.manifest, None)?;
        if image.listing().is_none() {
            image.artifact = Some(self.artifact(entry.manifest).await?);
            self.check_size(&image)?;
        }
        Ok(image)
    }

    async fn named_image(&self, blob: Blob) -> anyhow::Result<BroughtImage> {
        let artifact = self.artifact(blob).await?;
        let papers = self.papers((artifact.manifest, artifact.signature)).await?;
        let manifest = Manifest::of_bytes(&papers.manifest).map_err(anyhow::Error::msg)?;
        ensure!(
            manifest.action == Action::Publish,
            "the manifest of the image publishes none"
        );
        self.checked(papers, manifest, blob, Some(artifact))
    }

    fn checked(
        &self,
        papers: Papers,
        manifest: Manifest,
        blob: Blob,
        artifact: Option<Artifact>,
    ) -> anyhow::Result<BroughtImage> {
        let contents = Contents::of(manifest).context("its manifest lists no files")?;
        let (count, max) = (contents.files.len(), self.limits.max_files);
        ensure!(
            count <= max,
            "it has {count} files; expected at most {max} (limits.max_files)"
        );
        let image = BroughtImage {
            papers,
            contents,
            blob,
            artifact,
        };
        self.check_size(&image)?;
        Ok(image)
    }

    fn check_size(&self, image: &BroughtImage) -> anyhow::Result<()> {
        let (bytes, max) = (image.bytes(), self.limits.max_image_size);
        ensure!(
            bytes <= max,
            "it has {bytes} bytes; expected at most {max} (limits.max_image_size)"
        );
        Ok(())
    }

    /// What an OCI manifest names.
    pub(super) async fn artifact(&self, blob: Blob) -> anyhow::Result<Artifact> {
        let read = Artifact::parse(&self.repository.manifest(blob).await?);
        let address = &self.repository.address;
        read.with_context(|| format!("the manifest {} of {address}", blob.name()))
    }

    async fn papers(&self, (manifest, signature): (Blob, Option<Blob>)) -> anyhow::Result<Papers> {
        ensure!(
            signature.is_some() || self.is_insecure,
            "nobody has signed it; expected a signature, or `insecure = true` in the source's file"
        );
        let manifest = self
            .store
            .read(&self.repository, manifest, MAX_MANIFEST)
            .await?;
        let signature = match signature {
            None => None,
            Some(blob) => Some(
                self.store
                    .read(&self.repository, blob, trust::MAX_SIZE)
                    .await?,
            ),
        };
        Ok(Papers {
            manifest,
            signature,
        })
    }
}

impl BroughtImage {
    /// The size of the file with this digest, as far as the OCI manifest tells.
    fn size(&self, digest: &Digest) -> Option<u64> {
        self.artifact.as_ref()?.files.get(digest).copied()
    }

    /// The listing of the image, where all sizes are known.
    fn listing(&self) -> Option<Listing> {
        self.contents.listing(|digest| self.size(digest))
    }

    /// All files' bytes, as far as they are known: those of the tar count as that.
    fn bytes(&self) -> u64 {
        let files = self.contents.files.values();
        let sizes = files.map(|(digest, told)| told.or_else(|| self.size(digest)).unwrap_or(0));
        let archive = self.artifact.as_ref().and_then(|it| it.archive);
        let archive = archive.map_or(0, |it| it.size);
        sizes.fold(0, u64::saturating_add).max(archive)
    }

    /// The digests of all files.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        self.contents
            .files
            .values()
            .map(|(digest, _)| *digest)
            .collect()
    }
}
