//! A drop made from a directory: the importer's side of the spool.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::INCOMING;
use super::manifest::{MANIFEST, MAX_SIZE, Manifest};
use super::papers::{IMAGE, SIGNATURE, read_file, verified};
#[cfg(any(test, feature = "import"))]
use super::papers::{IMAGE_MANIFEST, IMAGE_SIGNATURE};
use crate::fault::{Fault, reject};
use crate::image::{DIR_MODE, Image};
use crate::sys::{Dir, Failure, Progress, random};
use crate::trust;
use crate::words::{Moment, Reason, Target};

/// Room for the time and the random part in a drop's name, which has at most 200 bytes.
const MAX_WORDS: usize = 150;

/// The bytes of a manifest, and those of its signature, if somebody has signed it.
#[cfg(any(test, feature = "import"))]
type SignedText<'t> = (&'t [u8], Option<&'t [u8]>);

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

    /// Makes the folder of the drop's image, to be filled by whoever has the image.
    ///
    /// # Errors
    /// When the spool can't be written.
    #[cfg(any(test, feature = "import"))]
    pub(crate) fn make_image(&self) -> Result<Dir, Failure> {
        self.dir()?.dir_or_make(IMAGE, DIR_MODE)
    }

    /// Writes the drop's manifest as somebody else has made it, and perhaps signed; where it is an order that
    /// carries its image, the image's own manifest as well.
    ///
    /// # Errors
    /// When the spool can't be written.
    #[cfg(any(test, feature = "import"))]
    pub(crate) fn add_papers(
        &self,
        drop: SignedText<'_>,
        image: Option<SignedText<'_>>,
    ) -> Result<(), Failure> {
        let into = self.dir()?;
        let image = image.map(|image| ([IMAGE_MANIFEST, IMAGE_SIGNATURE], image));
        let all = image.into_iter().chain([([MANIFEST, SIGNATURE], drop)]);
        for ([name, of_signature], (text, signature)) in all {
            if let Some(signature) = signature {
                into.write_new(of_signature, signature)?;
            }
            into.write_new(name, text)?;
        }
        Ok(())
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
        verified((MANIFEST, &manifest), read(SIGNATURE, trust::MAX_SIZE)?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_handed_over_with_the_image_that_it_carries_to_the_byte() {
        let spool = tempfile::tempdir().unwrap();
        std::fs::create_dir(spool.path().join(INCOMING)).unwrap();
        let target = "amd64/generic/noble/install".parse().unwrap();
        let order = (&b"order # \n"[..], Some(&b"its signature"[..]));
        for image in [None, Some((&b"image"[..], None))] {
            let drop = NewDrop::begin(spool.path(), &target).unwrap();
            if image.is_some() {
                drop.make_image().unwrap().write_new("linux", b"1").unwrap();
            }
            drop.add_papers(order, image).unwrap();
            let name = drop.finish().unwrap().unwrap();
            let place = spool.path().join(INCOMING).join(name);
            let read = |name: &str| std::fs::read(place.join(name)).ok();
            let expected = [Some(order.0), order.1, image.map(|it| it.0), None];
            let names = [MANIFEST, SIGNATURE, IMAGE_MANIFEST, IMAGE_SIGNATURE];
            assert_eq!(names.map(read), expected.map(|it| it.map(<[u8]>::to_vec)));
            let linux = read("image/linux");
            assert_eq!(linux, image.map(|_| b"1".to_vec()));
        }
    }
}
