//! Two words of an outcome: what became of a drop, and why it was rejected.

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// What became of a drop. The words are part of the outcome's format: they never change.
#[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub(crate) enum Verdict {
    /// The drop's image is current now.
    Published,
    /// What the drop asked for was current already.
    Unchanged,
    /// An older generation is current again.
    RolledBack,
    /// The target was taken out of the tree.
    Withdrawn,
    /// What is current at another target is current here now.
    Promoted,
    Rejected,
}

impl Verdict {
    /// Those of drops that have changed the tree.
    pub(crate) const CHANGES: [Self; 4] = [
        Self::Published,
        Self::RolledBack,
        Self::Withdrawn,
        Self::Promoted,
    ];
}

/// Why a drop is rejected. The words are part of the outcome's format: they never change.
#[derive(strum::Display, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub(crate) enum Reason {
    /// The drop's name is no text, has control characters or is too long.
    BadName,
    /// What lies in `incoming/` is no directory.
    NotADirectory,
    BadManifest,
    /// No manifest, or not every file that it lists, within `spool.incomplete_timeout`.
    Incomplete,
    /// Something in the drop that is neither the manifest nor the image.
    UnexpectedFile,
    /// A file that the manifest doesn't list.
    UnlistedFile,
    ChecksumMismatch,
    /// A file that is no regular file, folder, or relative link that ends inside the image; or that
    /// isn't the importer's own.
    UnsafeFile,
    /// A file's name is no text, or has control characters.
    UnsafeName,
    /// The daemon may not read something in the drop.
    Unreadable,
    /// The drop changed while it was read.
    Changed,
    EmptyImage,
    TooLarge,
    /// There was no room for the image for too long, or until a later drop took its place.
    NoSpace,
    TooManyFiles,
    TooDeep,
    /// Something that the daemon did not publish stands where the pointer belongs.
    TargetOccupied,
    /// The current generation is not the one that the drop replaces.
    Conflict,
    /// There is nothing to roll back, to withdraw or to promote.
    UnknownTarget,
    /// The generation to go back to is not kept any more, or none is current that is to be promoted.
    UnknownGeneration,
    /// No importer rule allows it.
    NotAllowed,
    /// A signature is asked for, and there is none.
    Unsigned,
    /// The signed manifest doesn't list all files, links and empty folders.
    UnsignedFiles,
    /// The signature is none, or of something else.
    BadSignature,
    /// No rule for the importer has the key that has signed.
    UnknownKey,
    /// The manifest's `serial` is not higher than the last one.
    Stale,
    /// The time that the manifest's `expires` names is over.
    Expired,
    /// Something is noted of the image that the configuration refuses.
    RefusedNote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_same_word_in_a_log_and_in_an_outcome() {
        assert_eq!(Reason::ChecksumMismatch.to_string(), "checksum-mismatch");
        assert_eq!(
            serde_json::to_string(&Reason::TooLarge).unwrap(),
            "\"too-large\""
        );
    }
}
