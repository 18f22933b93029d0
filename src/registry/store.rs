//! Blobs that were fetched, as far as they go: `partial/<digest>`, and `files/<digest>` once they are whole
//! and checked.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;

use super::artifact::Blob;
use super::repository::Repository;
use crate::sys::{Dir, Failure, FileExt as _, Progress};
use crate::words::Hasher;

/// Bytes that are read at a time of what is there already.
const BLOCK: usize = 1 << 20;

/// So long a registry may send nothing in the middle of a blob.
const SILENCE: Duration = Duration::from_secs(60);

/// So often a blob is asked for without a byte of it coming.
const TRIES: u32 = 5;

/// What a site has fetched.
pub(super) struct Store {
    partial: Dir,
    files: Dir,
    /// Before the second try; twice as long before each that follows.
    pub(super) wait: Duration,
}

/// Why a try has ended.
enum Trouble {
    /// The way to the registry: another try may do better.
    Way(anyhow::Error),
    Other(anyhow::Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Other(failure.into())
    }
}

impl Store {
    pub(super) fn open(state: &Dir) -> anyhow::Result<Self> {
        Ok(Self {
            partial: state.dir_or_make("partial", 0o700)?,
            files: state.dir_or_make("files", 0o700)?,
            wait: Duration::from_secs(1),
        })
    }

    /// Removes all of it.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        for dir in [&self.partial, &self.files] {
            for (name, _) in dir.names()? {
                dir.remove_file(name)?;
            }
        }
        Ok(())
    }

    /// A small blob, of at most `max` bytes.
    pub(super) async fn read(
        &self,
        repository: &Repository,
        blob: Blob,
        max: u64,
    ) -> anyhow::Result<Vec<u8>> {
        let (name, size) = (blob.name(), blob.size);
        ensure!(
            size <= max,
            "{name} has {size} bytes; expected at most {max}"
        );
        self.fetch(repository, blob, &Progress::default()).await?;
        let bytes = self.files.read(blob.digest.to_string(), max)?;
        bytes.with_context(|| format!("{name} has gone"))
    }

    /// A blob that was fetched.
    pub(super) fn file(&self, blob: Blob) -> anyhow::Result<File> {
        Ok(self.files.existing_file(blob.digest.to_string())?)
    }

    /// Whether a blob is there as a whole.
    pub(super) fn has(&self, blob: Blob) -> anyhow::Result<bool> {
        Ok(self.files.stat(blob.digest.to_string())?.is_some())
    }

    /// Fetches a blob, unless it is there: goes on where an earlier try has ended.
    ///
    /// # Errors
    /// When it can't be had, or isn't what it is called by.
    pub(super) async fn fetch(
        &self,
        repository: &Repository,
        blob: Blob,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let name = blob.digest.to_string();
        if self.has(blob)? {
            progress.advance(blob.size);
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let before = progress.bytes();
            match self.go_on(repository, blob, &name, progress).await {
                Ok(()) => break,
                Err(Trouble::Other(error)) => return Err(error),
                Err(Trouble::Way(error)) => {
                    tries = if progress.bytes() > before {
                        1
                    } else {
                        tries + 1
                    };
                    if tries == TRIES {
                        let kept = self.partial.stat(&name)?.map_or(0, |it| it.size);
                        let size = blob.size;
                        bail!(
                            "{error:#}, {TRIES} times; {kept} of {size} bytes are kept, the next run goes on there"
                        );
                    }
                    tokio::time::sleep(self.wait * (1 << (tries - 1))).await;
                }
            }
        }
        self.partial.rename(&name, &self.files, &name)?;
        Ok(())
    }

    /// Fetches what is missing of a blob. All bytes of it are counted, also those that are there.
    async fn go_on(
        &self,
        repository: &Repository,
        blob: Blob,
        name: &str,
        progress: &Progress,
    ) -> Result<(), Trouble> {
        let (mut hasher, mut at) = (Hasher::default(), 0);
        let mut file = match self.partial.file_to_append(name)? {
            Some(file) => {
                at =
                    hash(&file, &mut hasher).map_err(|error| failed(&self.partial, name, error))?;
                file
            }
            None => self.partial.create(name)?,
        };
        if at < blob.size {
            let stream = repository.stream(blob, at).await.map_err(Trouble::Way)?;
            let (mut stream, goes_on) = stream;
            if !goes_on {
                file.set_len(0)
                    .map_err(|error| failed(&self.partial, name, error))?;
                (hasher, at) = (Hasher::default(), 0);
            }
            while at < blob.size {
                let next = tokio::time::timeout(SILENCE, stream.next()).await;
                let bytes = match next {
                    Ok(Some(Ok(bytes))) => bytes,
                    Ok(Some(Err(error))) => {
                        return Err(broken(repository, blob, &error.to_string()));
                    }
                    Ok(None) => return Err(broken(repository, blob, "the answer ends too early")),
                    Err(_) => return Err(broken(repository, blob, "no byte came for 60 s")),
                };
                // What comes after the end is nobody's.
                let rest = usize::try_from(blob.size - at).unwrap_or(usize::MAX);
                let bytes = &bytes[..bytes.len().min(rest)];
                let written = file.write_all(bytes);
                written.map_err(|error| failed(&self.partial, name, error))?;
                hasher.update(bytes);
                at += bytes.len() as u64;
                progress.advance(bytes.len() as u64);
                if progress.is_stop_requested() {
                    return Err(Trouble::Other(anyhow::anyhow!("stopped")));
                }
            }
        }
        let is_right = at == blob.size && hasher.finish() == blob.digest;
        if !is_right {
            self.partial.remove_file(name)?;
            let (address, name) = (&repository.address, blob.name());
            return Err(Trouble::Other(anyhow::anyhow!(
                "{address} has other bytes by the name {name}: somebody has changed them there, or its disk \
                 is damaged; none of them was taken, and `netboot-import push --all` at the centre repairs it"
            )));
        }
        Ok(())
    }
}

fn broken(repository: &Repository, blob: Blob, why: &str) -> Trouble {
    let (name, address) = (blob.name(), &repository.address);
    Trouble::Way(anyhow::anyhow!("reading {name} of {address}: {why}"))
}

fn failed(dir: &Dir, name: &str, error: std::io::Error) -> Trouble {
    Failure::new("writing", dir.path().join(name), error).into()
}

/// Hashes what is there of a file; returns how much that is.
fn hash(file: &File, hasher: &mut Hasher) -> std::io::Result<u64> {
    let (mut block, mut at) = (vec![0; BLOCK], 0);
    let size = file.stat()?.size;
    let mut reader = file.take(size);
    loop {
        let count = reader.read(&mut block)?;
        if count == 0 {
            return Ok(at);
        }
        hasher.update(&block[..count]);
        at += count as u64;
    }
}
