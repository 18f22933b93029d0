//! What a site has seen of its channel, in the folder that it keeps for that.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::index::{Index, MAX_SIZE};
use crate::sys::Dir;
use crate::words::{Digest, Target};

const SEEN: &str = "seen.json";
const INDEX: &str = "index.json";
const TEMPORARY: &str = "new";
const MAX_SEEN: u64 = 16 << 20;

/// The only format there is.
const FORMAT: u32 = 1;

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    format: u32,
    /// Whose orders were taken.
    pub(super) centre: String,
    /// The highest counter of an index: no lower one counts.
    pub(super) counter: u64,
    /// The SHA-256 of the index.
    pub(super) index: Option<Digest>,
    /// The orders, by their ids, that are in effect here or were brought once: they aren't brought again,
    /// whatever somebody does to the target here after that.
    pub(super) settled: BTreeMap<Target, Digest>,
}

impl Seen {
    /// What was seen, and the index, as far as they are there.
    pub(super) fn read(state: &Dir) -> anyhow::Result<(Self, Option<Index>)> {
        let Some(bytes) = state.read(SEEN, MAX_SEEN)? else {
            return Ok((Self::default(), None));
        };
        let seen: Self = serde_json::from_slice(&bytes).with_context(|| {
            let path = state.path().join(SEEN);
            format!(
                "{path:?} can't be read; where it is removed, the channel is looked at as for the first time"
            )
        })?;
        let bytes = state.read(INDEX, MAX_SIZE as u64)?;
        // After a crash it may be the one before.
        let bytes = bytes.filter(|it| Some(Digest::of(it)) == seen.index);
        let index = bytes.and_then(|it| Index::parse(&it).ok());
        Ok((seen, index))
    }

    pub(super) fn write(&mut self, state: &Dir) -> anyhow::Result<()> {
        self.format = FORMAT;
        let bytes = serde_json::to_vec(self)?;
        state.replace_durably(SEEN, TEMPORARY, &bytes, None)?;
        Ok(state.sync()?)
    }

    /// Keeps an index; [`Seen::write`] makes it count.
    pub(super) fn keep_index(&mut self, state: &Dir, bytes: &[u8]) -> anyhow::Result<()> {
        self.index = Some(Digest::of(bytes));
        Ok(state.replace_durably(INDEX, TEMPORARY, bytes, None)?)
    }
}
