//! What a site's own tree has already of what an order needs.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;

use crate::sys::Failure;
use crate::tree::{Catalog, Tree};
use crate::words::{Digest, GenerationName, Target};

/// Where in a tree there are files with these digests.
pub(crate) struct Holdings<'t> {
    tree: &'t Tree,
    /// Paths from the tree's root.
    places: HashMap<Digest, String>,
}

impl<'t> Holdings<'t> {
    /// Looks for files in all current images, and in the generations of `target` that are kept.
    pub(crate) fn of(
        tree: &'t Tree,
        target: &Target,
        wanted: &BTreeSet<Digest>,
    ) -> Result<Self, Failure> {
        let mut places = HashMap::new();
        for name in tree.names(target)?.unwrap_or_default() {
            let generation = tree.generation(target, name)?;
            let Some((name, record)) = generation.and_then(|it| Some((it.name, it.record?))) else {
                continue;
            };
            for (path, mark) in record.listing.files {
                if wanted.contains(&mark.sha256) {
                    places.insert(mark.sha256, format!("{}/{path}", name.path(target)));
                }
            }
        }
        let catalog = Catalog::read(tree).unwrap_or_default();
        for number in 0..catalog.count() {
            let Some(image) = catalog.image(number) else {
                continue;
            };
            let (target, name) = (image.target.parse::<Target>(), image.generation);
            let (Ok(target), Ok(name)) = (target, name.parse::<GenerationName>()) else {
                continue;
            };
            for file in image.files {
                let digest = file.sha256.parse().ok().filter(|it| wanted.contains(it));
                if let Some(digest) = digest {
                    let place = || format!("{}/{}", name.path(&target), file.path);
                    places.entry(digest).or_insert_with(place);
                }
            }
        }
        Ok(Self { tree, places })
    }

    /// Whether the tree should have a file of this digest.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.places.contains_key(digest)
    }

    /// A file that should have this digest; `None` where there is none, or none any more.
    pub(crate) fn file(&self, digest: &Digest) -> Option<File> {
        let place = self.places.get(digest)?;
        self.tree.root().file(place).ok().flatten()
    }
}
