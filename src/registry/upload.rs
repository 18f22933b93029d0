//! What a push brings into a registry, as far as that doesn't have it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use tokio_util::bytes::Bytes;

use super::archive::{ArchiveError, Hashed};
use super::artifact::{Artifact, Blob};
use super::index::CATALOG;
use super::repository::Repository;
use crate::image::FileMark;
use crate::sys::{Dir, Progress, failpoint};
use crate::words::Digest;

/// A registry that takes no byte for so long, and doesn't say that it has all, is given up: it may have
/// to hash, or to copy, what it got.
const SILENCE: Duration = Duration::from_secs(300);

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

/// The uploads of one push.
pub(super) struct Upload<'p> {
    repository: &'p Repository,
    progress: &'p Arc<Progress>,
    /// Blobs that the registry has.
    known: BTreeSet<Digest>,
    /// Bytes of blobs that were sent.
    pub(super) sent: u64,
}

/// Why the registry took no manifest.
pub(super) enum Refused {
    /// It doesn't have what the manifest names.
    Lacking,
    Failed(anyhow::Error),
}

impl<'p> Upload<'p> {
    pub(super) fn to(repository: &'p Repository, progress: &'p Arc<Progress>) -> Self {
        Self {
            repository,
            progress,
            known: BTreeSet::new(),
            sent: 0,
        }
    }

    /// What this artifact names, which is in the registry, is there: it isn't asked for each blob.
    pub(super) fn trust(&mut self, artifact: &Artifact) {
        self.known.extend(artifact.blobs());
    }

    /// Believes nothing of what it was told any more.
    pub(super) fn doubt(&mut self) {
        self.known.clear();
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let blob = Blob::of_bytes(bytes);
        if self.is_there(blob).await? {
            return Ok(());
        }
        let reference = self.repository.address.tag(CATALOG);
        let (client, name) = (self.repository.client().await, blob.name());
        let pushed = client.push_blob(&reference, bytes.to_vec(), &name);
        let pushed = while_moving(&Progress::default(), pushed).await?;
        self.repository.told(&doing(blob), pushed)?;
        self.has_sent(blob);
        Ok(())
    }

    /// A file of a published image.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] where it isn't what it has to be.
    pub(super) async fn file(
        &mut self,
        dir: &Dir,
        path: &str,
        mark: FileMark,
    ) -> anyhow::Result<()> {
        let blob = mark.into();
        if self.is_there(blob).await? {
            return Ok(());
        }
        let file = Hashed::open(dir, path, mark)?;
        let is_damaged = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_damaged);
        let sent = self.send(file, blob, move |file| {
            let is_right = !file.is_at_end() || file.is_right();
            flag.fetch_or(!is_right, Ordering::Relaxed);
            is_right
        });
        let sent = sent.await;
        if is_damaged.load(Ordering::Relaxed) {
            return Err(ArchiveError::Damaged(path.to_string()).into());
        }
        sent
    }

    /// A file that was made for this.
    pub(super) async fn made(&mut self, file: File, blob: Blob) -> anyhow::Result<()> {
        if self.is_there(blob).await? {
            return Ok(());
        }
        self.send(file, blob, |_| true).await
    }

    async fn send<R: Read + Send + 'static>(
        &mut self,
        from: R,
        blob: Blob,
        is_right: impl Fn(&mut R) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        self.progress.expect(blob.size);
        let part = Arc::new(Progress::part_of(self.progress));
        let stream = blocks(from, Arc::clone(&part), is_right);
        let reference = self.repository.address.tag(CATALOG);
        let (client, name) = (self.repository.client().await, blob.name());
        let pushed = client.push_blob_stream(&reference, stream, &name, Some(blob.size));
        let pushed = while_moving(&part, pushed).await?;
        self.repository.told(&doing(blob), pushed)?;
        self.has_sent(blob);
        Ok(())
    }

    async fn is_there(&mut self, blob: Blob) -> anyhow::Result<bool> {
        let is_there = self.known.contains(&blob.digest) || self.repository.has(blob).await?;
        if is_there {
            self.known.insert(blob.digest);
        } else {
            failpoint("push-blob", "pushing", blob.name())?;
        }
        Ok(is_there)
    }

    fn has_sent(&mut self, blob: Blob) {
        self.known.insert(blob.digest);
        self.sent += blob.size;
    }

    /// The OCI manifest of an artifact, by a tag made of its digest: no registry takes it for garbage.
    pub(super) async fn manifest(&mut self, kind: &str, bytes: Vec<u8>) -> Result<Blob, Refused> {
        let blob = Blob::of_bytes(&bytes);
        let tag = format!("{kind}-{}", blob.digest);
        let failed = failpoint("push-manifest", "pushing", &tag);
        failed.map_err(|failure| Refused::Failed(failure.into()))?;
        let put = self.put(&tag, bytes, OCI_IMAGE_MEDIA_TYPE).await;
        let is_lacking = |error: &anyhow::Error| error.to_string().contains("BLOB_UNKNOWN");
        put.map_err(|error| {
            if is_lacking(&error) {
                Refused::Lacking
            } else {
                Refused::Failed(error)
            }
        })?;
        Ok(blob)
    }

    pub(super) async fn index(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        failpoint("push-index", "pushing", CATALOG)?;
        self.put(CATALOG, bytes, OCI_IMAGE_INDEX_MEDIA_TYPE).await
    }

    async fn put(&self, tag: &str, bytes: Vec<u8>, media_type: &'static str) -> anyhow::Result<()> {
        let reference = self.repository.address.tag(tag);
        let client = self.repository.client().await;
        let media_type = media_type.parse().expect("it is a header's value");
        let put = client.push_manifest_raw(&reference, bytes, media_type);
        let put = while_moving(&Progress::default(), put).await?;
        self.repository.told(&format!("pushing {tag} to"), put)?;
        Ok(())
    }
}

fn doing(blob: Blob) -> String {
    format!("pushing {} to", blob.name())
}

/// What `work` returns, as long as bytes move.
async fn while_moving<T>(progress: &Progress, work: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut work = pin!(work);
    loop {
        let before = progress.bytes();
        match tokio::time::timeout(SILENCE, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) if progress.bytes() == before => {
                let seconds = SILENCE.as_secs();
                bail!("the registry takes no byte, and says nothing, for {seconds} s");
            }
            Err(_) => {}
        }
    }
}

/// The bytes of a file, a block at a time; ends with an error where a block isn't right.
fn blocks<R: Read + Send + 'static>(
    from: R,
    progress: Arc<Progress>,
    is_right: impl Fn(&mut R) -> bool + Send + 'static,
) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    try_unfold((from, is_right), move |(mut from, is_right)| {
        let progress = Arc::clone(&progress);
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut block = Vec::with_capacity(BLOCK);
                from.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
                if progress.is_stop_requested() {
                    return Err(io::Error::other("stopped"));
                }
                if !is_right(&mut from) {
                    return Err(io::Error::other("damaged"));
                }
                progress.advance(block.len() as u64);
                Ok((Bytes::from(block), (from, is_right)))
            });
            let read = read.await.map_err(io::Error::other)?;
            let (block, rest) = read.map_err(OciDistributionError::IoError)?;
            Ok((!block.is_empty()).then_some((block, rest)))
        }
    })
}

impl From<Refused> for anyhow::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(error) => error,
            Refused::Lacking => anyhow!(
                "the registry says that it doesn't have what it has just taken; expected it to keep blobs \
                 until a manifest names them"
            ),
        }
    }
}
