//! What is in an image, as its manifest lists it.

use std::collections::{BTreeMap, BTreeSet};

use crate::image::{FileMark, Listing};
use crate::spool::{Listed, Manifest};
use crate::words::Digest;

/// All that is in an image: a manifest of a registry lists everything.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// The size, where the manifest tells it.
    pub(super) files: BTreeMap<String, (Digest, Option<u64>)>,
    pub(super) links: BTreeMap<String, String>,
    /// Also those that other paths lead through.
    pub(super) folders: BTreeSet<String>,
}

impl Contents {
    /// `None` where the manifest lists nothing.
    pub(super) fn of(manifest: Manifest) -> Option<Self> {
        let mut contents = Self {
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            folders: BTreeSet::new(),
        };
        for (path, listed) in manifest.files? {
            let above = path
                .match_indices('/')
                .map(|(at, _)| path[..at].to_string());
            contents.folders.extend(above);
            match listed {
                Listed::File { sha256, size } => {
                    contents.files.insert(path, (sha256, size));
                }
                Listed::Link(to) => drop(contents.links.insert(path, to)),
                Listed::Folder => drop(contents.folders.insert(path)),
            }
        }
        Some(contents)
    }

    /// The listing of the image; `size` knows the sizes that the manifest doesn't tell. `None` where it
    /// doesn't know one.
    pub(super) fn listing(&self, size: impl Fn(&Digest) -> Option<u64>) -> Option<Listing> {
        let files = self.files.iter().map(|(path, (sha256, told))| {
            let mark = FileMark {
                sha256: *sha256,
                size: told.or_else(|| size(sha256))?,
            };
            Some((path.clone(), mark))
        });
        Some(Listing {
            files: files.collect::<Option<_>>()?,
            links: self.links.clone(),
            folders: self.folders.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Action;

    #[test]
    fn what_a_manifest_lists_is_what_is_in_the_image() {
        let digest = Digest::of(b"abc");
        let mark = |size| FileMark {
            sha256: digest,
            size,
        };
        let listing = Listing {
            files: [("a/b/linux".into(), mark(3)), ("x".into(), mark(3))].into(),
            links: [("c/d".into(), "../x".into())].into(),
            folders: ["a", "a/b", "c", "e", "e/f"].map(String::from).into(),
        };
        let target = "amd64/generic/noble/install".parse().unwrap();
        let mut manifest = Manifest::new(target, Action::Publish);
        assert_eq!(Contents::of(manifest.clone()), None);
        manifest.list(listing.clone());
        let contents = Contents::of(manifest.clone()).unwrap();
        assert_eq!(contents.listing(|_| None), Some(listing.clone()));
        for listed in manifest.files.as_mut().unwrap().values_mut() {
            if let Listed::File { size, .. } = listed {
                *size = None;
            }
        }
        let contents = Contents::of(manifest).unwrap();
        assert_eq!(contents.listing(|_| None), None);
        assert_eq!(
            contents.listing(|it| (*it == digest).then_some(3)),
            Some(listing)
        );
    }
}
