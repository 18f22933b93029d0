//! What an image consists of, with every file's hash; and the image digest.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Content, Entry};
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

impl FileMark {
    /// The nanoseconds that a published file's time of last modification is given: its seal.
    ///
    /// It tells whether a published file still has the bytes that were published, without reading
    /// them. Who writes to a file, or puts another in its place, leaves another time: that of now, or
    /// one that belongs to other bytes; and in one of 10^9 cases the nanoseconds are the same. They are
    /// never 0, which is what a tool that knows only seconds leaves. A seal that doesn't fit proves
    /// nothing: not every file system keeps nanoseconds, nor does every backup. Then the file has to
    /// be hashed.
    ///
    /// The seconds stay those of the copying, as web servers show them.
    pub(crate) fn seal(&self) -> u32 {
        let nanoseconds = self.sha256.leading() % 999_999_999 + 1;
        u32::try_from(nanoseconds).expect("below 10^9")
    }
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

    /// Whether these are the names, kinds, sizes and links that are listed, and no others.
    pub(crate) fn lists(&self, entries: &[Entry]) -> bool {
        let is_listed = |Entry { path, content, .. }: &Entry| match content {
            Content::File(size) => self.files.get(path).is_some_and(|it| it.size == *size),
            Content::Folder => self.folders.contains(path),
            Content::Link(to) => self.links.get(path) == Some(to),
            Content::Foreign => false,
        };
        let count = self.files.len() + self.folders.len() + self.links.len();
        count == entries.len() && entries.iter().all(is_listed)
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

    /// Published files carry it for years.
    #[test]
    fn the_seal_of_a_digest_never_changes_and_is_no_whole_second() {
        let seal = |sha256| FileMark { sha256, size: 3 }.seal();
        assert_eq!(seal(Digest::of(b"abc")), 690_214_588);
        for (leading, expected) in [(0, 1), (999_999_998, 999_999_999), (999_999_999, 1)] {
            let text = format!("{leading:016x}{}", "f".repeat(48));
            assert_eq!(seal(text.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_listing_lists_its_own_names_kinds_sizes_and_links_only() {
        let entries = |change: fn(&mut Vec<Entry>)| {
            let mut entries: Vec<_> = [
                ("d-i", Content::Folder),
                ("d-i/amd64", Content::Folder),
                ("d-i/amd64/initrd.gz", Content::File(0)),
                ("empty", Content::Folder),
                ("linux", Content::File(3)),
                ("pxelinux.0", Content::Link("d-i/amd64/pxelinux.0".into())),
            ]
            .into_iter()
            .map(|(path, content)| Entry {
                path: path.into(),
                content,
                is_altered: false,
            })
            .collect();
            change(&mut entries);
            entries
        };
        assert!(sample().lists(&entries(|_| ())));
        let others: [fn(&mut Vec<Entry>); 7] = [
            |it| drop(it.remove(3)),
            |it| drop(it.remove(4)),
            |it| {
                it.push(Entry {
                    path: "x".into(),
                    ..it[4].clone()
                })
            },
            |it| it[4].content = Content::File(4),
            |it| it[4].content = Content::Folder,
            |it| it[5].content = Content::Link("linux".into()),
            |it| it[4].content = Content::Foreign,
        ];
        for (number, other) in others.into_iter().enumerate() {
            assert!(!sample().lists(&entries(other)), "{number}");
        }
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
