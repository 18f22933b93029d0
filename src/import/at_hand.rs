//! The files that an image needs: those that were fetched, and those that the own tree has already.

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::Context as _;

use crate::fault::Fault;
use crate::fetch::{Store, Wanted};
use crate::image::hash_file;
use crate::registry::Holdings;
use crate::sources::{Offer, Part};
use crate::sys::{Dir, Progress};
use crate::tree::Tree;
use crate::words::Digest;

/// What is at hand of an offer's files.
pub(super) struct AtHand {
    fetched: Dir,
    /// Files of the own tree, which were read and are what they are called by.
    held: BTreeMap<Digest, File>,
}

impl AtHand {
    /// Looks for the files of an offer in the store, and, but for archives, in the tree.
    pub(super) fn of(store: &Store, tree: Option<&Tree>, offer: &Offer) -> anyhow::Result<Self> {
        let fetched = store.files()?;
        let files = offer.parts.iter().filter_map(|part| match part {
            Part::File { wanted, .. } => Some(wanted.sha256),
            Part::Archive { .. } => None,
        });
        let digests = files.collect();
        let mut held = BTreeMap::new();
        if let Some(tree) = tree {
            let holdings = Holdings::of(tree, &offer.target, &digests)?;
            for digest in &digests {
                // What is damaged there, or can't be read, is fetched.
                let file = holdings.file(digest).filter(|file| is(file, digest));
                held.extend(file.map(|file| (*digest, file)));
            }
        }
        Ok(Self { fetched, held })
    }

    /// Those that have to be fetched, each once.
    pub(super) fn missing<'o>(&self, offer: &'o Offer) -> anyhow::Result<Vec<&'o Wanted>> {
        let mut missing = BTreeMap::new();
        for part in &offer.parts {
            let (Part::File { wanted, .. } | Part::Archive { wanted, .. }) = part;
            let digest = wanted.sha256;
            let is_fetched = self.fetched.stat(digest.to_string())?.is_some();
            if !is_fetched && !self.held.contains_key(&digest) {
                missing.insert(digest, wanted);
            }
        }
        Ok(missing.into_values().collect())
    }

    /// The file of this digest, from its first byte on.
    ///
    /// # Errors
    /// When it isn't at hand.
    pub(super) fn open(&self, digest: &Digest) -> anyhow::Result<File> {
        match self.held.get(digest) {
            Some(held) => {
                use std::io::Seek as _;
                let mut file = held.try_clone().context("opening a file once more")?;
                file.rewind().context("reading a file once more")?;
                Ok(file)
            }
            None => Ok(self.fetched.existing_file(digest.to_string())?),
        }
    }
}

/// Whether a file has this digest.
fn is(file: &File, digest: &Digest) -> bool {
    let hashed = hash_file(file, &Progress::default(), |_| Fault::Interrupted);
    hashed.is_ok_and(|found| found == *digest)
}
