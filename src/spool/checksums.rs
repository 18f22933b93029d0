//! What a manifest says of an image's files, held against the image.

use super::manifest::Manifest;
use crate::fault::Fault;
use crate::image::{Image, Listing};
use crate::text::quoted;
use crate::words::{Digest, Reason};

/// What can be said against the manifest's list of files before any of them is read.
pub(crate) fn check_sizes(manifest: &Manifest, image: &Image) -> Result<(), Fault> {
    let Some(claims) = &manifest.files else {
        return Ok(());
    };
    for (path, size) in image.files() {
        match claims.get(path) {
            None => return Err(unlisted(path)),
            Some(claim) if claim.size.is_some_and(|claimed| claimed != size) => {
                let claimed = claim.size.unwrap_or_default();
                let detail = format!(
                    "{} has {size} bytes; the manifest says {claimed}",
                    quoted(path)
                );
                return Err(Fault::Reject(Reason::ChecksumMismatch, detail));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether what was read is what the manifest lists.
pub(crate) fn check_claims(manifest: &Manifest, listing: &Listing) -> Result<(), Fault> {
    let Some(claims) = &manifest.files else {
        return Ok(());
    };
    if let Some(path) = listing
        .files
        .keys()
        .find(|path| !claims.contains_key(*path))
    {
        return Err(unlisted(path));
    }
    let mismatch = |path: &str, what: String, claimed: &Digest| {
        let detail = format!(
            "{} {what}; the manifest says sha256 {claimed}",
            quoted(path)
        );
        Err(Fault::Reject(Reason::ChecksumMismatch, detail))
    };
    for (path, claim) in claims {
        match listing.files.get(path) {
            None => return mismatch(path, "is no regular file".to_string(), &claim.sha256),
            Some(mark) if mark.sha256 != claim.sha256 => {
                return mismatch(path, format!("has sha256 {}", mark.sha256), &claim.sha256);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn unlisted(path: &str) -> Fault {
    let detail = format!("{} is not in the manifest, which lists files", quoted(path));
    Fault::Reject(Reason::UnlistedFile, detail)
}
