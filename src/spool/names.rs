//! The names of drops: their own, and those that the daemon makes of them.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use crate::fault::{Fault, reject};
use crate::text::quoted;
use crate::words::{ClaimId, Digest, Reason};

/// What a drop is known by until it was put away: whose it was when it was seen, and its claim name.
/// Two importers may each have a drop of one name, once the first was claimed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DropKey {
    pub(crate) owner: u32,
    /// The drop's name where that is fit for a file, and what stands for it elsewhere: its outcome is
    /// called so, and a part of its name in `processing/`.
    pub(crate) claim_name: Arc<str>,
}

/// Bytes of a drop's name: there is room for the endings that the daemon puts to it.
const MAX_NAME: usize = 200;

/// Begins the name in `processing/` of a drop that is being removed; no drop's name begins so.
pub(super) const REMOVED: &str = ".";

/// Begins the claim name of a drop whose own name is not fit for a file.
const BAD_NAME: &str = "bad-name-";

/// # Errors
/// [`Reason::BadName`] for a name that is not fit for a drop.
pub(super) fn check_name(name: &OsStr) -> Result<(), Fault> {
    let is_good = name.to_str().is_some_and(|name| {
        name.len() <= MAX_NAME
            && !name.contains(char::is_control)
            && !name.ends_with(".json")
            && !name.starts_with(BAD_NAME)
    });
    if is_good {
        return Ok(());
    }
    let detail = format!(
        "the name {}; expected at most {MAX_NAME} bytes of UTF-8 without control characters, not \
         ending in .json or beginning with {BAD_NAME}",
        quoted(&name.to_string_lossy())
    );
    Err(reject(Reason::BadName, detail))
}

/// The claim name of a drop of this name.
pub(super) fn claim_name_of(name: &OsStr) -> Cow<'_, str> {
    match check_name(name) {
        Ok(()) => name.to_string_lossy(),
        // Such a name is good for no file that the daemon writes.
        Err(_) => format!("{BAD_NAME}{}", Digest::of(name.as_bytes()).short()).into(),
    }
}

/// The name of a drop's outcome.
pub(super) fn file_of(claim_name: &str) -> String {
    format!("{claim_name}.json")
}

/// Ends the names of files that are being written.
const TEMPORARY: &str = ".tmp";

/// A name for an outcome that is being written.
pub(super) fn temporary_of(claim: ClaimId) -> String {
    format!(".{claim}{TEMPORARY}")
}

/// Whether a file of this name was being written.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") && name.ends_with(TEMPORARY.as_bytes())
}

/// The name in `processing/` of a drop: `12-9f3c2ab1d4e5f607.noble-1`.
pub(super) fn place_of(claim: ClaimId, claim_name: &str) -> String {
    format!("{claim}.{claim_name}")
}

/// The claim and the claim name that a name in `processing/` is made of; `None` when the daemon has
/// not given that name.
pub(super) fn parse_place(place: &OsStr) -> Option<(ClaimId, Arc<str>)> {
    let (claim, claim_name) = place.to_str()?.split_once('.')?;
    Some((claim.parse().ok()?, claim_name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_processing_is_known_again_whatever_points_are_in_its_name() {
        let claim = ClaimId::new(12, 7);
        for name in ["noble", "noble-24.04.1", "a..b", "x."] {
            let place = place_of(claim, name);
            assert_eq!(parse_place(place.as_ref()), Some((claim, name.into())));
        }
        assert_eq!(parse_place("noble-24.04".as_ref()), None);
    }
}
