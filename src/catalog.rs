//! The catalog: every current image, for programs and for boot configurations.
//!
//! ```text
//! {"format":1,"images":[
//! {"target":"amd64/generic/noble/install","arch":"amd64",…},
//! {"target":"arm64/generic/noble/install","arch":"arm64",…}
//! ]}
//! ```
//! It stands in the tree as `catalog.json`, sorted by target, and is nowhere else: what is in it
//! already is not looked for in the records again, and between two changes nothing of it is in
//! memory. That an image has a line of its own is no part of the format that others may rely on. It
//! is what lets ten thousand lines that did not change be copied without being parsed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::crew;
use crate::excerpt::quoted;
use crate::failpoint;
use crate::fault::{Failure, Fault};
use crate::generation::GenerationName;
use crate::image::Ownership;
use crate::record::Head;
use crate::target::Target;
use crate::tree::{Current, PRIVATE, Tree};

/// The catalog's name in the tree.
pub const NAME: &str = "catalog.json";

/// What it is called in the daemon's own folder until it is whole.
const TEMPORARY: &str = "catalog.json.new";

/// A longer one is damaged, in bytes: room for a few million files.
const MAX_SIZE: u64 = 1 << 30;

/// From this many targets on, several threads read them.
const MANY: usize = 256;

const BEGIN: &str = "{\"format\":1,\"images\":[\n";
const END: &str = "]}\n";
const TARGET: &str = "{\"target\":\"";

/// The catalog, as its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Catalog {
    text: String,
    /// The lines of the images in it, without the comma, sorted by target.
    lines: Vec<Range<usize>>,
}

/// One image in the catalog: the stored form, and what templates see.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<'a> {
    pub target: &'a str,
    pub arch: &'a str,
    pub subarch: &'a str,
    pub release: &'a str,
    pub purpose: &'a str,
    pub version: Option<String>,
    pub generation: &'a str,
    /// The image digest.
    pub digest: &'a str,
    /// The stable path, from what the TFTP server calls `/`, without that.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// The path of this very generation.
    #[serde(borrow)]
    pub pinned_path: Cow<'a, str>,
    pub published_at: &'a str,
    #[serde(borrow)]
    pub files: Vec<EntryFile<'a>>,
}

/// A regular file of an image in the catalog.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryFile<'a> {
    /// From the image's root.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// Bytes.
    pub size: u64,
    pub sha256: &'a str,
}

/// Which targets may be other than the catalog says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    All,
    Of(BTreeSet<Target>),
}

/// What an image is called by machines.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The way from what the TFTP server calls `/` to the tree: empty, or it ends in `/`.
    pub prefix: String,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::of_lines([].into_iter())
    }
}

impl Catalog {
    /// Reads the catalog of a tree; `None` when it is not there, or not as this version writes it.
    pub fn read(tree: &Tree) -> Option<Self> {
        let bytes = tree.root().read(NAME, MAX_SIZE).ok().flatten()?;
        String::from_utf8(bytes).ok().and_then(Self::parse)
    }

    /// Puts it in its place, atomically.
    pub fn write(&self, tree: &Tree, owner: Option<Ownership>) -> Result<(), Failure> {
        failpoint::at("catalog").map_err(|e| Failure::new("writing", NAME, e))?;
        let private = tree.root().existing_dir(PRIVATE)?;
        let owner = owner.map(|owner| (owner.uid, owner.gid));
        private.replace_durably(TEMPORARY, owner, self.text.as_bytes(), tree.root(), NAME)
    }

    /// `None` when it is not as this version writes it.
    pub fn parse(text: String) -> Option<Self> {
        let mut at = BEGIN.len();
        let mut rest = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n')?;
            // Every image but the last has a comma.
            let image = if after.is_empty() {
                line
            } else {
                line.strip_suffix(',')?
            };
            if !image.starts_with(TARGET) || !image.ends_with('}') {
                return None;
            }
            lines.push(at..at + image.len());
            at += line.len() + 1;
            rest = after;
        }
        let target = |line: &Range<usize>| target_of(&text[line.clone()]);
        lines
            .is_sorted_by(|a, b| compare(target(a), target(b)).is_lt())
            .then_some(Self { text, lines })
    }

    fn of_lines<'l>(lines: impl Iterator<Item = Cow<'l, str>>) -> Self {
        let mut text = BEGIN.to_string();
        let mut ranges = Vec::new();
        for line in lines {
            if !ranges.is_empty() {
                text.push_str(",\n");
            }
            ranges.push(text.len()..text.len() + line.len());
            text.push_str(&line);
        }
        if !ranges.is_empty() {
            text.push('\n');
        }
        text.push_str(END);
        Self {
            text,
            lines: ranges,
        }
    }

    /// How many images are in it.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// One image; `None` when its line is damaged, or there are not so many.
    pub fn image(&self, number: usize) -> Option<Entry<'_>> {
        let line = self.lines.get(number)?.clone();
        serde_json::from_str(&self.text[line]).ok()
    }

    /// The catalog after `changes`, and what of them could not be taken up: the old line stays.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn after(
        &self,
        changes: &Changes,
        tree: &Tree,
        paths: &Paths,
    ) -> Result<(Self, Vec<String>), Failure> {
        let (targets, is_all) = match changes {
            Changes::All => (tree.targets()?, true),
            Changes::Of(targets) => (targets.iter().cloned().collect(), false),
        };
        let is_worth_it = targets.len() > MANY;
        let looked = crew::map(targets, is_worth_it, |target| {
            let old = self.line(&target);
            let is_right = is_all && old.is_some_and(|old| is_right(old, tree, &target, paths));
            let line = match old.filter(|_| is_right) {
                Some(old) => Ok(Some(Cow::from(old))),
                None => look(tree, &target, paths).map(|line| line.map(Cow::from)),
            };
            (target.to_string(), old, line)
        });
        let mut troubles = Vec::new();
        let mut merged = Vec::with_capacity(self.lines.len() + looked.len());
        let kept = if is_all { &[][..] } else { &self.lines };
        let mut others = kept.iter().map(|line| &self.text[line.clone()]).peekable();
        for (target, old, line) in looked {
            let is_before = |line: &&str| compare(target_of(line), &target).is_lt();
            while let Some(line) = others.next_if(is_before) {
                merged.push(Cow::from(line));
            }
            others.next_if(|line| target_of(line) == target);
            match line {
                Ok(line) => merged.extend(line),
                Err(trouble) => {
                    troubles.push(trouble);
                    merged.extend(old.map(Cow::from));
                }
            }
        }
        merged.extend(others.map(Cow::from));
        Ok((Self::of_lines(merged.into_iter()), troubles))
    }

    /// The line of a target.
    fn line(&self, target: &Target) -> Option<&str> {
        let target = target.to_string();
        let of = |line: &Range<usize>| compare(target_of(&self.text[line.clone()]), &target);
        let number = self.lines.binary_search_by(of).ok()?;
        Some(&self.text[self.lines[number].clone()])
    }
}

impl Paths {
    fn stable(&self, target: &Target) -> String {
        format!("{}{target}", self.prefix)
    }

    fn pinned(&self, target: &Target, generation: &GenerationName) -> String {
        let folders = target.folders().join("/");
        let generations = target.generations();
        format!("{}{folders}/{generations}/{generation}", self.prefix)
    }
}

/// The order of [`Target`]s: folder by folder.
fn compare(a: &str, b: &str) -> Ordering {
    a.split('/').cmp(b.split('/'))
}

/// The target that a line is of.
fn target_of(line: &str) -> &str {
    let rest = line.get(TARGET.len()..).unwrap_or_default();
    rest.split_once('"').map_or("", |(target, _)| target)
}

/// Whether a line says what the tree says, as far as the short part of the record goes: the same
/// generation may have come back as another version.
fn is_right(line: &str, tree: &Tree, target: &Target, paths: &Paths) -> bool {
    let Ok(entry) = serde_json::from_str::<Entry<'_>>(line) else {
        return false;
    };
    let Ok(Some(generation)) = tree.pointed(target) else {
        return false;
    };
    let Ok(Some(Head {
        version,
        published_at,
        ..
    })) = tree.head(target, &generation)
    else {
        return false;
    };
    entry.generation == generation.as_str()
        && entry.version == version
        && entry.published_at == published_at.to_string()
        && entry.path == paths.stable(target)
        && entry.pinned_path == paths.pinned(target, &generation)
}

/// What is current at a target; `None` when no generation is.
fn look(tree: &Tree, target: &Target, paths: &Paths) -> Result<Option<String>, String> {
    let current = match tree.current(target) {
        Ok(Current::Generation(current)) => current,
        Ok(Current::Nothing | Current::Plain(_)) | Err(Fault::Reject(..)) => return Ok(None),
        Err(fault) => return Err(fault.to_string()),
    };
    let Some(record) = current.record else {
        let record = quoted(&current.name.record());
        return Err(format!("{target}: the record {record} is not readable"));
    };
    let (name, [arch, subarch, release]) = (target.to_string(), target.folders());
    let digest = record.head.digest.to_string();
    let published_at = record.head.published_at.to_string();
    let files: Vec<_> = (record.listing.files.iter())
        .map(|(path, mark)| (path, mark.size, mark.sha256.to_string()))
        .collect();
    let entry = Entry {
        target: &name,
        arch,
        subarch,
        release,
        purpose: target.purpose(),
        version: record.head.version,
        generation: current.name.as_str(),
        digest: &digest,
        path: paths.stable(target).into(),
        pinned_path: paths.pinned(target, &current.name).into(),
        published_at: &published_at,
        files: (files.iter())
            .map(|(path, size, sha256)| EntryFile {
                path: path.as_str().into(),
                size: *size,
                sha256,
            })
            .collect(),
    };
    let line = serde_json::to_string(&entry).expect("an entry is plain data");
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(target: &'a str, files: Vec<EntryFile<'a>>) -> Entry<'a> {
        let names: Vec<_> = target.split('/').collect();
        Entry {
            target,
            arch: names[0],
            subarch: names[1],
            release: names[2],
            purpose: names[3],
            version: Some("2026 \"x\"".into()),
            generation: "20261122T161500Z-ba7816bf8f01",
            digest: "ba78",
            path: format!("netboot/{target}").into(),
            pinned_path: format!("netboot/{target}@/20261122T161500Z-ba7816bf8f01").into(),
            published_at: "2026-11-22T16:15:00.250000Z",
            files,
        }
    }

    fn catalog(entries: &[Entry<'_>]) -> Catalog {
        let lines = entries.iter().map(|e| serde_json::to_string(e).unwrap());
        Catalog::of_lines(lines.map(Cow::from))
    }

    /// Other people's programs read it: a change of this text is a new format.
    #[test]
    fn the_format_is_pinned() {
        let files = vec![EntryFile {
            path: "d-i/\"linux\"".into(),
            size: 3,
            sha256: "e3b0",
        }];
        let entries = [
            entry("a/generic/noble/install", files),
            entry("a-b/generic/noble/install", Vec::new()),
        ];
        let pinned = r#"{"format":1,"images":[
{"target":"a/generic/noble/install","arch":"a","subarch":"generic","release":"noble","purpose":"install","version":"2026 \"x\"","generation":"20261122T161500Z-ba7816bf8f01","digest":"ba78","path":"netboot/a/generic/noble/install","pinned_path":"netboot/a/generic/noble/install@/20261122T161500Z-ba7816bf8f01","published_at":"2026-11-22T16:15:00.250000Z","files":[{"path":"d-i/\"linux\"","size":3,"sha256":"e3b0"}]},
{"target":"a-b/generic/noble/install","arch":"a-b","subarch":"generic","release":"noble","purpose":"install","version":"2026 \"x\"","generation":"20261122T161500Z-ba7816bf8f01","digest":"ba78","path":"netboot/a-b/generic/noble/install","pinned_path":"netboot/a-b/generic/noble/install@/20261122T161500Z-ba7816bf8f01","published_at":"2026-11-22T16:15:00.250000Z","files":[]}
]}
"#;
        let catalog = catalog(&entries);
        assert_eq!(catalog.text, pinned);
        assert_eq!(Catalog::parse(pinned.to_string()).as_ref(), Some(&catalog));
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(catalog.image(number).as_ref(), Some(entry));
        }
        assert_eq!(catalog.image(2), None);
        for entry in &entries {
            let line = catalog.line(&entry.target.parse().unwrap()).unwrap();
            assert_eq!(target_of(line), entry.target);
        }
        assert_eq!(
            catalog.line(&"b/generic/noble/install".parse().unwrap()),
            None
        );

        let empty = "{\"format\":1,\"images\":[\n]}\n";
        assert_eq!(Catalog::default().text, empty);
        assert_eq!(Catalog::parse(empty.to_string()), Some(Catalog::default()));
    }

    #[test]
    fn a_catalog_that_is_not_as_it_is_written_is_none() {
        let text = catalog(&[
            entry("a/generic/noble/install", Vec::new()),
            entry("b/generic/noble/install", Vec::new()),
        ])
        .text;
        assert!(Catalog::parse(text.clone()).is_some());
        for bad in [
            String::new(),
            text.replace("},\n", "}\n"),
            text.replace("}\n]", "},\n]"),
            text.replace("\n]", "]"),
            text.replace("\"b/", "\"A/"),
            text.replace("\"b/", "\"a/"),
            text.replace("format\":1", "format\":2"),
            text.replace("{\"target", "{ \"target"),
        ] {
            assert_eq!(Catalog::parse(bad.clone()), None, "{bad}");
        }
        // Inside of a line it shows when that is read.
        let damaged = Catalog::parse(text.replace("\"arch\":\"b\"", "\"arch\":7")).unwrap();
        assert_eq!((damaged.image(0).is_some(), damaged.image(1)), (true, None));
    }

    #[test]
    fn the_order_is_that_of_targets() {
        let texts = ["a/b/c/d", "a/b/c/d.e", "a/b/c+/d", "a-/b/c/d", "a0/b/c/d"];
        for a in texts {
            for b in texts {
                let (x, y): (Target, Target) = (a.parse().unwrap(), b.parse().unwrap());
                assert_eq!(compare(a, b), x.cmp(&y), "{a} {b}");
            }
        }
    }
}
