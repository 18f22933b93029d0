//! What a source has brought: `dropped.json` in its folder. It is known there what was dropped for each
//! target, so that what an admin has replaced or withdrawn since doesn't come again by itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::sources::{Offer, Part, Picks};
use crate::spool::{Outcome, SpoolView};
use crate::sys::{Dir, Failure};
use crate::words::{Digest, Moment, Target};

/// The file, and the name under which a new one is written.
const FILE: &str = "dropped.json";
const TEMPORARY: &str = ".dropped.tmp";

/// Bytes at most.
const MAX_SIZE: u64 = 16 << 20;

/// By target.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dropped {
    pub(super) targets: BTreeMap<Target, Last>,
}

/// The last drop for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Last {
    /// Of all that upstream said of the image.
    pub(super) offer: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// The drop that waits for its outcome; none where the image is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) waits: Option<String>,
    pub(super) at: Moment,
}

/// What became of a drop.
pub(super) enum Became {
    Outcome(Box<Outcome>),
    /// It is in the spool still, and why that is said.
    Waits(String),
    /// Nobody knows of it any more.
    Nothing,
}

impl Last {
    /// What became of the drop that waited when this was written down; `None` where none did.
    ///
    /// # Errors
    /// When the spool can't be read.
    pub(super) fn became(&self, spool: &Path) -> Result<Option<Became>, Failure> {
        let Some(drop) = &self.waits else {
            return Ok(None);
        };
        let view = SpoolView::open(spool)?;
        if let Some(outcome) = view.own_outcome(drop)? {
            return Ok(Some(Became::Outcome(Box::new(outcome))));
        }
        let (places, _) = view.places(drop)?;
        Ok(Some(if places.is_empty() {
            Became::Nothing
        } else {
            Became::Waits(format!("{drop} has no outcome yet"))
        }))
    }
}

impl Dropped {
    /// What is written in the folder of a source; nothing where that is lost or damaged.
    pub(super) fn read(dir: &Dir) -> Result<Self, Failure> {
        let bytes = dir.read(FILE, MAX_SIZE)?;
        let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(read.unwrap_or_default())
    }

    /// Notes something of a target, durably.
    pub(super) fn note(&mut self, dir: &Dir, target: &Target, last: Last) -> anyhow::Result<()> {
        self.targets.insert(target.clone(), last);
        let text = serde_json::to_vec_pretty(self).context("writing down what was brought")?;
        Ok(dir.replace_durably(FILE, TEMPORARY, &text, None)?)
    }
}

/// A digest of what an offer says of the image, from wherever its files come.
pub(super) fn digest(offer: &Offer) -> Digest {
    let parts = offer.parts.iter().map(|part| match part {
        Part::File { path, wanted } => serde_json::json!([path, wanted.sha256.to_string()]),
        Part::Archive { wanted, picks } => match picks {
            Picks::All { strip } => serde_json::json!([wanted.sha256.to_string(), strip]),
            Picks::Some(picks) => serde_json::json!([wanted.sha256.to_string(), picks]),
        },
    });
    let parts: Vec<_> = parts.collect();
    let all = serde_json::json!([offer.version, offer.boot, parts]);
    Digest::of(all.to_string().as_bytes())
}
