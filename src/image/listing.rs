//! What an image consists of, with every file's hash; and the image digest.

use std::collections::{BTreeMap, BTreeSet};

use crate::words::{Digest, Hasher};

/// Every file, link and folder of an image, by its path from the image's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub files: BTreeMap<String, FileMark>,
    /// What each link holds.
    pub links: BTreeMap<String, String>,
    pub folders: BTreeSet<String>,
}

/// What makes a file's contents the same as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileMark {
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
}

impl Listing {
    /// The image digest: SHA-256 over the canonical listing of the image.
    ///
    /// That is, for every entry in the order of its path's bytes, with `\0` for a byte of zero:
    /// - a file: `f <size> <sha256> <path>\0`, the size in decimal, the hash in lower-case hex;
    /// - a folder: `d <path>\0`;
    /// - a link: `l <path>\0<what it holds>\0`.
    ///
    /// Modes, owners and times are no part of it. The form never changes: it is compared with the
    /// digests of images published long ago.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        for (_, line) in self.canonical() {
            hasher.update(line.as_bytes());
        }
        hasher.finish()
    }

    /// All files' bytes together.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|mark| mark.size).sum()
    }

    /// The lines of the canonical listing, each after its path.
    fn canonical(&self) -> Vec<(&String, String)> {
        let mut lines = Vec::new();
        for (path, FileMark { sha256, size }) in &self.files {
            lines.push((path, format!("f {size} {sha256} {path}\0")));
        }
        for path in &self.folders {
            lines.push((path, format!("d {path}\0")));
        }
        for (path, to) in &self.links {
            lines.push((path, format!("l {path}\0{to}\0")));
        }
        lines.sort_unstable();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Listing {
        let mark = |text: &str| FileMark {
            sha256: Digest::of(text.as_bytes()),
            size: text.len() as u64,
        };
        Listing {
            files: [
                ("linux".into(), mark("abc")),
                ("d-i/amd64/initrd.gz".into(), mark("")),
            ]
            .into(),
            links: [("pxelinux.0".into(), "d-i/amd64/pxelinux.0".into())].into(),
            folders: ["d-i".into(), "d-i/amd64".into(), "empty".into()].into(),
        }
    }

    /// Published digests are compared with new ones for years: the form is pinned.
    #[test]
    fn the_canonical_listing_and_the_image_digest_never_change() {
        let sample = sample();
        let lines = sample.canonical().into_iter().map(|(_, line)| line);
        let text: String = lines.collect();
        let expected = "\
d d-i\0\
d d-i/amd64\0\
f 0 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 d-i/amd64/initrd.gz\0\
d empty\0\
f 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad linux\0\
l pxelinux.0\0d-i/amd64/pxelinux.0\0";
        assert_eq!(text, expected);
        assert_eq!(sample.digest(), Digest::of(expected.as_bytes()));
    }

    #[test]
    fn whatever_differs_makes_another_digest() {
        let same = sample().digest();
        let change = |change: fn(&mut Listing)| {
            let mut listing = sample();
            change(&mut listing);
            listing.digest()
        };
        assert_ne!(change(|l| l.files.get_mut("linux").unwrap().size = 4), same);
        assert_ne!(
            change(|l| l.files.get_mut("linux").unwrap().sha256 = Digest::of(b"")),
            same
        );
        assert_ne!(change(|l| l.folders.clear()), same);
        assert_ne!(
            change(|l| drop(l.links.insert("pxelinux.0".into(), "x".into()))),
            same
        );
        assert_ne!(change(|l| l.files.retain(|path, _| path != "linux")), same);
    }
}
