//! What is said of an image that may not boot.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Something about an image that keeps machines from booting it, or that nobody wanted to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    #[serde(rename = "note")]
    pub(crate) kind: NoteKind,
    /// The file from the image's root; missing where no single one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// For people.
    pub(crate) text: String,
}

/// What kind of note it is. The words are part of the outcome's format: they never change.
#[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, SerializeDisplay, DeserializeFromStr,
)]
pub(crate) enum NoteKind {
    /// A kernel, an initrd or a loader without a byte.
    EmptyFile,
    /// Two names in one folder that only differ in case.
    CaseTwins,
    /// A name with a backslash.
    BackslashName,
    /// What file managers leave behind.
    Litter,
    /// A name that tools give to a file while they bring it.
    PartialUpload,
    /// A kernel or an EFI program for other machines than the target's.
    WrongArchitecture,
    InitrdTooLarge,
    /// The command line has `{url}`, and no URL is configured.
    NoUrl,
    /// An initrd that no kernel can unpack.
    UnknownFormat,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}
