//! What upstream has.

use std::collections::BTreeMap;

use crate::fetch::Wanted;
use crate::words::{Boot, Target};

/// What upstream has for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) target: Target,
    pub(crate) version: Option<String>,
    pub(crate) boot: Boot,
    /// All of one upstream version.
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// One file, and its path in the image.
    File { path: String, wanted: Wanted },
    /// A `.tar.gz`, and what of it is in the image.
    Archive { wanted: Wanted, picks: Picks },
}

/// What of an archive is in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picks {
    /// All, without so many first folders of each path.
    All { strip: usize },
    /// These: the path in the image, and the one in the archive.
    Some(BTreeMap<String, String>),
}
