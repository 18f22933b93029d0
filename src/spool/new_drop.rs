//! A drop made from a directory: the importer's side of the spool.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::INCOMING;
use super::manifest::{MANIFEST, MAX_SIZE, Manifest};
use super::papers::{SIGNATURE, read_file, verified};
use super::peek::IMAGE;
use crate::fault::{Fault, reject};
use crate::image::{DIR_MODE, Image};
use crate::sys::{Dir, Failure, Progress, random};
use crate::trust;
use crate::words::{Moment, Reason, Target};

/// Room for the time and the random part in a drop's name, which has at most 200 bytes.
const MAX_WORDS: usize = 150;

/// A drop that is still made. One that is not finished is removed again.
pub(crate) struct NewDrop {
    incoming: Dir,
    /// The drop's name behind a dot: the daemon touches no such name.
    hidden: String,
    is_finished: bool,
}

impl NewDrop {
    /// Begins a drop for a target.
    ///
    /// # Errors
    /// When the spool can't be written.
    pub(crate) fn begin(spool: &Path, target: &Target) -> Result<Self, Failure> {
        let incoming = Dir::enter(&spool.join(INCOMING))?;
        let words = words(target);
        loop {
            let moment = Moment::now().to_string().replace(['-', ':'], "");
            // Nobody can know the name, and take it before.
            let hidden = format!(".{moment}-{words}-{:016x}", random());
            if incoming.make_dir(&hidden, DIR_MODE)? {
                return Ok(Self {
                    incoming,
                    hidden,
                    is_finished: false,
                });
            }
        }
    }

    /// Copies an image into the drop, and lists all that is in it in the manifest.
    ///
    /// # Errors
    /// When a file can't be read, or the spool can't be written.
    pub(crate) fn add_image(
        &self,
        image: &Image,
        manifest: &mut Manifest,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let into = self.dir()?.dir_or_make(IMAGE, DIR_MODE)?;
        manifest.list(image.copy_into(&into, progress)?);
        Ok(())
    }

    /// Writes the manifest into the drop.
    ///
    /// # Errors
    /// When the spool can't be written.
    pub(crate) fn add_manifest(&self, manifest: &Manifest) -> Result<(), Failure> {
        let text = manifest.to_toml();
        self.dir()?.write_new(MANIFEST, text.as_bytes())
    }

    /// The path of the drop's manifest, for a program that puts its signature beside it.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.incoming.path().join(&self.hidden).join(MANIFEST)
    }

    /// Makes sure that the signature beside the manifest is one that a daemon takes.
    ///
    /// # Errors
    /// [`Reason::BadSignature`] when it is of something else, or of a kind that no daemon takes.
    pub(crate) fn check_signature(&self) -> Result<(), Fault> {
        let drop = self.dir()?;
        let owner = drop.stat_self()?.owner.uid;
        let read = |name, max| {
            let bytes = read_file(&drop, name, max, owner)?;
            bytes.ok_or_else(|| reject(Reason::BadSignature, format!("no {name}")))
        };
        let manifest = read(MANIFEST, MAX_SIZE)?;
        verified(&manifest, read(SIGNATURE, trust::MAX_SIZE)?)?;
        Ok(())
    }

    /// Makes the drop durable, and hands it over. Returns its name; `None` when the spool has a drop of
    /// that name already.
    ///
    /// # Errors
    /// When the spool can't be written.
    pub(crate) fn finish(mut self) -> Result<Option<String>, Failure> {
        let (incoming, name) = (&self.incoming, self.hidden[1..].to_string());
        let drop = self.dir()?;
        let written = Instant::now();
        // Once it has its name, the drop must survive a power cut.
        drop.sync_file_system()?;
        // After a rename in the tick of the last change nobody who wasn't told of it can see that there
        // was one, and would wait for the drop to be still.
        std::thread::sleep(Moment::TICK.saturating_sub(written.elapsed()));
        if !incoming.rename_new(&self.hidden, incoming, &name)? {
            return Ok(None);
        }
        self.is_finished = true;
        drop.sync_file_system()?;
        Ok(Some(name))
    }

    fn dir(&self) -> Result<Dir, Failure> {
        self.incoming.existing_dir(&self.hidden)
    }
}

/// A target as a part of a drop's name, which may be less long.
fn words(target: &Target) -> String {
    let mut words = target.to_string().replace('/', "-");
    words.truncate(MAX_WORDS);
    words
}

impl Drop for NewDrop {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.incoming.remove_tree(&self.hidden, 0);
        }
    }
}
