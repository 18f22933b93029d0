//! A drop made from a directory: the importer's side of the spool.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use notify::{RecursiveMode, Watcher as _};

use crate::image::{DIR_MODE, FileMark, Image, copy};
use crate::settings::Limits;
use crate::spool::{FileClaim, IMAGE, INCOMING, Manifest, OUTCOMES, Outcome, manifest, outcome};
use crate::sys::{Dir, Progress};
use crate::words::{Moment, Target};

/// How often an outcome is looked for where no event tells of it.
const POLL: Duration = Duration::from_secs(1);

/// Room for the time in a drop's name, which has at most 200 bytes.
const MAX_WORDS: usize = 150;

/// A drop that is still made: `incoming/.<name>`. Goes when it is not finished.
pub(super) struct Draft {
    incoming: Dir,
    name: String,
    is_finished: bool,
}

impl Draft {
    /// Begins a drop for a target.
    ///
    /// # Errors
    /// When the spool can't be written.
    pub(super) fn begin(spool: &Path, target: &Target) -> anyhow::Result<Self> {
        let incoming = Dir::enter(&spool.join(INCOMING)).context("opening the spool")?;
        let words = words(target);
        let mut moment = Moment::now();
        loop {
            let name = format!("{}-{words}", moment.compact_precise());
            if incoming.make_dir(format!(".{name}"), DIR_MODE)? {
                return Ok(Self {
                    incoming,
                    name,
                    is_finished: false,
                });
            }
            moment = moment.later(Duration::from_micros(1));
        }
    }

    /// Copies an image into the drop, and lists its files in the manifest with their checksums.
    ///
    /// # Errors
    /// When a file can't be read, or the spool can't be written.
    pub(super) fn add_image(
        &self,
        image: &Image,
        manifest: &mut Manifest,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let into = self.dir()?.dir_or_make(IMAGE, DIR_MODE)?;
        let listing = copy(image, &into, None, None, progress)?;
        let claim = |(path, mark): (String, FileMark)| {
            let claim = FileClaim {
                sha256: mark.sha256,
                size: Some(mark.size),
            };
            (path, claim)
        };
        manifest.files = Some(listing.files.into_iter().map(claim).collect());
        Ok(())
    }

    /// Writes the manifest, makes the drop durable, and hands it over. Returns its name.
    ///
    /// # Errors
    /// When the spool can't be written.
    pub(super) fn finish(mut self, manifest: &Manifest) -> anyhow::Result<String> {
        let hidden = format!(".{}", self.name);
        let drop = self.dir()?;
        drop.write_new(manifest::FILE, manifest.to_toml().as_bytes())?;
        // Once it has its name the drop must survive a power cut.
        drop.sync_file_system()?;
        if !self
            .incoming
            .rename_new(&hidden, &self.incoming, &self.name)?
        {
            bail!(
                "the spool has a drop {:?} already; expected none",
                self.name
            );
        }
        self.is_finished = true;
        drop.sync_file_system()?;
        Ok(self.name.clone())
    }

    fn dir(&self) -> anyhow::Result<Dir> {
        Ok(self.incoming.existing_dir(format!(".{}", self.name))?)
    }
}

/// Looks at an image that is to be dropped.
///
/// # Errors
/// When it holds what no image may hold.
pub(super) fn look_at(image: &Path, limits: &Limits) -> anyhow::Result<Image> {
    // The directory is the caller's own choice: whose files it holds is no question here.
    Ok(Image::check(Dir::open(image)?, 0, limits)?)
}

/// A target as a part of a drop's name, which may be neither as long nor end in every way.
fn words(target: &Target) -> String {
    let words = target.to_string().replace('/', "-");
    let words = &words[..words.len().min(MAX_WORDS)];
    words.trim_end_matches(".json").to_string()
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.incoming.remove_tree(format!(".{}", self.name));
        }
    }
}

/// Waits for the outcome of a drop; `None` when there is none after `limit`.
///
/// # Errors
/// When the spool can't be read.
pub(super) async fn wait(
    spool: &Path,
    drop: &str,
    limit: Option<Duration>,
) -> anyhow::Result<Option<Outcome>> {
    let outcomes = Dir::open(&spool.join(OUTCOMES)).context("opening the outcomes")?;
    let file = format!("{drop}.json");
    let look = std::sync::Arc::new(tokio::sync::Notify::new());
    let hint = std::sync::Arc::clone(&look);
    let wanted = file.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_it = |path: &std::path::PathBuf| path.file_name() == Some(OsStr::new(&wanted));
        if event.is_ok_and(|event| event.paths.iter().any(is_it)) {
            hint.notify_one();
        }
    })?;
    // Without events the poll serves.
    let _ = watcher.watch(outcomes.path(), RecursiveMode::NonRecursive);
    let found = async {
        loop {
            if let Some(bytes) = outcomes.read(&file, outcome::MAX_SIZE)? {
                return serde_json::from_slice(&bytes).context("reading the outcome");
            }
            let _ = tokio::time::timeout(POLL, look.notified()).await;
        }
    };
    match limit {
        None => found.await.map(Some),
        Some(limit) => match tokio::time::timeout(limit, found).await {
            Ok(outcome) => outcome.map(Some),
            Err(_) => Ok(None),
        },
    }
}
