//! The first bytes of a file, hashed as far as they go.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use serde::{Deserialize, Serialize};

use super::trouble::Trouble;
use super::validators::Validators;
use crate::sys::{Dir, Failure, Progress};
use crate::words::{Digest, Hasher};

/// Bytes that are read at a time.
const BLOCK: usize = 256 << 10;

/// Bytes of what is kept beside a partial file.
const MAX_BESIDE: u64 = 64 << 10;

/// What stands beside the first bytes of a file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Beside {
    /// For people.
    url: String,
    #[serde(flatten)]
    validators: Validators,
}

/// The first bytes of a file that is fetched.
pub(super) struct Partial<'d> {
    dir: &'d Dir,
    name: String,
    /// `None` where there are none yet.
    file: Option<File>,
    length: u64,
    hasher: Hasher,
    validators: Validators,
}

impl<'d> Partial<'d> {
    /// What is there of the file `sha256`, read once. `progress` is shown life.
    pub(super) async fn open(
        dir: &'d Dir,
        sha256: &Digest,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let name = sha256.to_string();
        let mut partial = Self {
            file: dir.file_to_append(&name)?,
            validators: validators(dir, &name),
            dir,
            name,
            length: 0,
            hasher: Hasher::default(),
        };
        if let Some(file) = &partial.file {
            let file = file.try_clone();
            let file = file.map_err(|error| partial.failure("opening", error))?;
            let progress = Arc::clone(progress);
            // Gigabytes take seconds, in which others want to go on.
            let read = tokio::task::spawn_blocking(move || read(file, &progress)).await?;
            let read = read.map_err(|error| partial.failure("reading", error))?;
            (partial.hasher, partial.length) = read;
        }
        Ok(partial)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Of all bytes that are there.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    pub(super) fn validators(&self) -> &Validators {
        &self.validators
    }

    /// Asks for the bytes that are missing, of the same state of the file.
    pub(super) fn ask_for_rest(&self, request: &mut HeaderMap) {
        let range = format!("bytes={}-", self.length);
        let range = HeaderValue::from_str(&range).expect("it is ASCII");
        request.insert(RANGE, range);
        self.validators.ask_for_rest(request);
    }

    /// Nothing is there any more, and what comes is of this state of the file.
    pub(super) fn begin(&mut self, url: String, validators: Validators) -> Result<(), Trouble> {
        self.remove()?;
        let beside_it = Beside { url, validators };
        let text = serde_json::to_vec(&beside_it).expect("it is plain data");
        let (name, temporary) = (beside(&self.name), format!(".{}", self.name));
        self.dir.remove_file(&temporary)?;
        self.dir.replace(&name, &temporary, &text)?;
        self.file = Some(self.dir.create(&self.name)?);
        self.validators = beside_it.validators;
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let file = self.file.as_mut().expect("it was begun");
        let written = file.write_all(bytes);
        written.map_err(|error| self.failure("writing", error))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), Failure> {
        self.dir.remove_file(&self.name)?;
        self.dir.remove_file(beside(&self.name))?;
        self.file = None;
        self.length = 0;
        self.hasher = Hasher::default();
        self.validators = Validators::default();
        Ok(())
    }

    /// The file is whole: it is durable before anybody sees it in `files`.
    pub(super) async fn finish(mut self, files: &Dir) -> anyhow::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.dir.create(&self.name)?,
        };
        let synced = tokio::task::spawn_blocking(move || file.sync_all()).await?;
        synced.map_err(|error| self.failure("writing", error))?;
        self.dir.rename(&self.name, files, &self.name)?;
        files.sync()?;
        self.dir.remove_file(beside(&self.name))?;
        Ok(())
    }

    fn failure(&self, doing: &'static str, error: std::io::Error) -> Failure {
        Failure::new(doing, self.dir.path().join(&self.name), error)
    }
}

pub(super) fn beside(name: &str) -> String {
    format!("{name}.json")
}

/// What can't be read is as good as lost: what the bytes hash to in the end counts.
fn validators(dir: &Dir, name: &str) -> Validators {
    let text = dir.read(beside(name), MAX_BESIDE).ok().flatten();
    let read = text.and_then(|text| serde_json::from_slice::<Beside>(&text).ok());
    read.unwrap_or_default().validators
}

/// The hash of what is there, and how many bytes that are.
fn read(mut file: File, progress: &Progress) -> std::io::Result<(Hasher, u64)> {
    let (mut hasher, mut length) = (Hasher::default(), 0);
    let mut block = vec![0; BLOCK];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok((hasher, length));
        }
        hasher.update(&block[..count]);
        length += count as u64;
        progress.show_life();
    }
}
