//! What a manifest lists of an image's files, held against the image.

use super::manifest::Manifest;
use crate::fault::{Fault, reject};
use crate::image::{Image, Listing};
use crate::text::quoted;
use crate::words::{Digest, Reason};

impl Manifest {
    /// Rejects an image with files that aren't listed or have another size. None of them is read.
    pub(crate) fn check_sizes(&self, image: &Image) -> Result<(), Fault> {
        let Some(listed) = &self.files else {
            return Ok(());
        };
        for (path, size) in image.files() {
            let file = listed.get(path).ok_or_else(|| unlisted(path))?;
            if let Some(expected) = file.size.filter(|expected| *expected != size) {
                return Err(mismatch(path, &format!("has {size} bytes"), &expected));
            }
        }
        Ok(())
    }

    /// Whether the manifest lists this checksum for a file, or no files at all.
    pub(crate) fn allows(&self, path: &str, sha256: &Digest) -> bool {
        let listed = self.files.as_ref();
        listed.is_none_or(|files| files.get(path).is_some_and(|it| it.sha256 == *sha256))
    }

    /// Rejects an image whose files, as they were read, are others than the manifest lists.
    pub(crate) fn check_checksums(&self, listing: &Listing) -> Result<(), Fault> {
        let Some(listed) = &self.files else {
            return Ok(());
        };
        let mut paths = listing.files.keys();
        if let Some(path) = paths.find(|path| !listed.contains_key(*path)) {
            return Err(unlisted(path));
        }
        for (path, file) in listed {
            let expected = format!("sha256 {}", file.sha256);
            match listing.files.get(path) {
                None => return Err(mismatch(path, "is no regular file", &expected)),
                Some(mark) if mark.sha256 != file.sha256 => {
                    let what = format!("has sha256 {}", mark.sha256);
                    return Err(mismatch(path, &what, &expected));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn mismatch(path: &str, what: &str, expected: &dyn std::fmt::Display) -> Fault {
    let detail = format!("{} {what}; the manifest says {expected}", quoted(path));
    reject(Reason::ChecksumMismatch, detail)
}

fn unlisted(path: &str) -> Fault {
    let detail = format!("{} is not in the manifest, which lists files", quoted(path));
    reject(Reason::UnlistedFile, detail)
}
