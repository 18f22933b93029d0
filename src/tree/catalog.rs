//! The catalog: every current image, for programs and for boot configurations.
//!
//! ```text
//! {"format":1,"images":[
//! {"target":"amd64/generic/noble/install","arch":"amd64",…},
//! {"target":"arm64/generic/noble/install","arch":"arm64",…}
//! ]}
//! ```
//! It stands in the tree as `catalog.json`, sorted by target, and is nowhere else: what is in it
//! already is not looked for in the records again. That an image has a line of its own is no part of
//! the format that others may rely on. It lets ten thousand lines that did not change pass one by
//! one, without being parsed, and without being in memory together.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::record::Head;
use super::{Current, PRIVATE, Tree};
use crate::fault::Fault;
use crate::sys::{Failure, Ownership, Replacement, failpoint, map};
use crate::text::quoted;
use crate::words::Target;

/// The catalog's name in the tree.
const NAME: &str = "catalog.json";

/// What the catalog is called in the daemon's own folder until it is whole.
const TEMPORARY: &str = "catalog.json.new";

/// A longer catalog is damaged, in bytes: room for a few million files.
const MAX_SIZE: u64 = 1 << 30;

/// So many lines or targets are looked at together: memory does not grow with the tree.
const TOGETHER: usize = 512;

/// Up to so many of them one thread looks at all.
const FEW: usize = 64;

/// Written at a time, in bytes.
const BUFFER: usize = 64 << 10;

const BEGIN: &str = "{\"format\":1,\"images\":[\n";
const END: &str = "]}\n";
const TARGET: &str = "{\"target\":\"";

/// The whole catalog, as its text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    text: String,
    /// The lines of the images in the text, without the comma, sorted by target.
    lines: Vec<Range<usize>>,
}

/// One image in the catalog: the stored form, and what templates see.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogImage<'a> {
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
    pub files: Vec<CatalogFile<'a>>,
}

/// A regular file of an image in the catalog.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogFile<'a> {
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

/// What taking up changes has done.
#[derive(Debug, Default)]
pub(crate) struct Updated {
    /// How many are in the catalog.
    pub images: usize,
    pub is_replaced: bool,
    /// What could not be taken up: the old line stays.
    pub troubles: Vec<String>,
}

impl Catalog {
    /// The catalog's name in the tree.
    pub(crate) const NAME: &str = NAME;

    /// Takes `changes` up into the catalog of a tree, and replaces it atomically when it is another
    /// then. `prefix` is the way from what the TFTP server calls `/` to the tree: empty, or it ends
    /// in `/`. One that is not there, or not as this version writes it, is made anew.
    ///
    /// # Errors
    /// When the tree can't be read, or the catalog not be written.
    pub(crate) fn update(
        tree: &Tree,
        changes: &Changes,
        prefix: &str,
        owner: Option<Ownership>,
    ) -> Result<Updated, Failure> {
        let Some(mut old) = tree.root().file(NAME)? else {
            return Self::make(tree, prefix, owner);
        };
        let Some((images, stale)) = find_stale(tree, &old, changes, prefix)? else {
            return Self::make(tree, prefix, owner);
        };
        if stale.is_empty() {
            return Ok(Updated {
                images,
                ..Updated::default()
            });
        }
        old.rewind().map_err(failure)?;
        rewrite(tree, Some(&old), &stale, prefix, owner)
    }

    /// As [`Catalog::update`], whatever the old one says.
    pub(crate) fn make(
        tree: &Tree,
        prefix: &str,
        owner: Option<Ownership>,
    ) -> Result<Updated, Failure> {
        rewrite(tree, None, &tree.targets()?, prefix, owner)
    }

    /// Reads the catalog of a tree; `None` when it is not there, or not as this version writes it.
    pub(crate) fn read(tree: &Tree) -> Option<Self> {
        let bytes = tree.root().read(NAME, MAX_SIZE).ok().flatten()?;
        String::from_utf8(bytes).ok().and_then(Self::parse)
    }

    /// `None` when the text is not as this version writes it.
    pub(crate) fn parse(text: String) -> Option<Self> {
        let mut lines = Lines::new(text.as_bytes());
        let (mut at, mut ranges) = (BEGIN.len(), Vec::new());
        while let Some(Line { text, .. }) = lines.take() {
            ranges.push(at..at + text.len());
            at += text.len() + ",\n".len();
        }
        let is_whole = !lines.is_damaged;
        is_whole.then_some(Self {
            text,
            lines: ranges,
        })
    }

    /// How many images are in it.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// One image; `None` when its line is damaged, or there are not so many.
    pub(crate) fn image(&self, number: usize) -> Option<CatalogImage<'_>> {
        let line = self.lines.get(number)?.clone();
        serde_json::from_str(&self.text[line]).ok()
    }
}

/// Those of `changes` of which the catalog `old` does not say what the tree says, sorted, and how
/// many images are in the catalog; `None` when that is not as this version writes it.
fn find_stale(
    tree: &Tree,
    old: &File,
    changes: &Changes,
    prefix: &str,
) -> Result<Option<(usize, Vec<Target>)>, Failure> {
    let (mut stale, is_all) = match changes {
        Changes::All => (tree.targets()?.into_iter().collect(), true),
        Changes::Of(targets) => (targets.clone(), false),
    };
    let mut lines = Lines::new(BufReader::new(old));
    let mut count = 0;
    loop {
        let mut together = Vec::new();
        while together.len() < TOGETHER
            && let Some(line) = lines.take()
        {
            count += 1;
            if is_all || stale.contains(&line.target) {
                together.push(line);
            }
        }
        if together.is_empty() {
            break;
        }
        for (target, is_right) in map(together, FEW, |Line { target, text }| {
            let is_right = is_right(&text, tree, &target, prefix);
            (target, is_right)
        }) {
            if is_right {
                stale.remove(&target);
            } else {
                stale.insert(target);
            }
        }
    }
    let is_whole = !lines.is_damaged;
    Ok(is_whole.then(|| (count, stale.into_iter().collect())))
}

/// Writes a catalog that says of `targets`, which are sorted, what the tree says, and of all others
/// what `old` says; and puts it in the place of `old` if it is another.
fn rewrite(
    tree: &Tree,
    old: Option<&File>,
    targets: &[Target],
    prefix: &str,
    owner: Option<Ownership>,
) -> Result<Updated, Failure> {
    let private = tree.root().existing_dir(PRIVATE)?;
    let mut lines = match old {
        Some(old) => Lines::new(Box::new(BufReader::new(old)) as Box<dyn BufRead>),
        None => Lines::new(Box::new(io::Cursor::new(format!("{BEGIN}{END}"))) as Box<dyn BufRead>),
    };
    let mut new = Rewrite::begin(private.begin_replacement(TEMPORARY)?)?;
    let mut updated = Updated {
        is_replaced: old.is_none(),
        ..Updated::default()
    };
    for together in targets.chunks(TOGETHER) {
        let looked = map(together.iter().collect(), FEW, |target: &Target| {
            (target, look(tree, target, prefix))
        });
        for (target, line) in looked {
            while let Some(other) = lines.take_if(|line| line.target < *target) {
                new.put(&other.text)?;
            }
            let before = lines.take_if(|line| line.target == *target);
            let before = before.map(|line| line.text);
            let line = line.unwrap_or_else(|trouble| {
                updated.troubles.push(trouble);
                before.clone()
            });
            updated.is_replaced |= line != before;
            if let Some(line) = line {
                new.put(&line)?;
            }
        }
    }
    while let Some(other) = lines.take() {
        new.put(&other.text)?;
    }
    updated.images = new.images;
    if updated.is_replaced {
        failpoint("catalog", "writing", NAME)?;
        new.end()?.finish(owner, tree.root(), NAME)?;
    }
    Ok(updated)
}

/// One image in the text of a catalog.
#[derive(Debug)]
struct Line {
    target: Target,
    /// Without the comma and the line's end.
    text: String,
}

/// The lines of a catalog, one by one, up to the first that is not as this version writes it.
struct Lines<R> {
    text: R,
    next: Option<Line>,
    /// The target of `next`, or of the line that was the last.
    last: Option<Target>,
    /// Whether that line has a comma; unknown before the first.
    had_comma: Option<bool>,
    is_damaged: bool,
}

impl<R: BufRead> Lines<R> {
    fn new(text: R) -> Self {
        let mut lines = Self {
            text,
            next: None,
            last: None,
            had_comma: None,
            is_damaged: false,
        };
        if lines.read() == BEGIN {
            lines.advance();
        } else {
            lines.is_damaged = true;
        }
        lines
    }

    fn take(&mut self) -> Option<Line> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, is_wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        let line = self.next.take_if(|line| is_wanted(line))?;
        self.advance();
        Some(line)
    }

    /// What is no UTF-8, or can't be read, is no line.
    fn read(&mut self) -> String {
        let mut line = String::new();
        let length = self.text.read_line(&mut line).unwrap_or(0);
        line.truncate(length);
        line
    }

    fn advance(&mut self) {
        let mut text = self.read();
        if text == END && self.had_comma != Some(true) {
            self.is_damaged = !self.read().is_empty();
            return;
        }
        text.pop();
        let has_comma = text.ends_with(',');
        text.truncate(text.len() - usize::from(has_comma));
        let target = text
            .strip_prefix(TARGET)
            .and_then(|rest| rest.split_once('"')?.0.parse::<Target>().ok())
            .filter(|target| self.last.as_ref().is_none_or(|last| last < target));
        match target {
            // Every image but the last has a comma.
            Some(target) if text.ends_with('}') && self.had_comma != Some(false) => {
                self.last = Some(target.clone());
                self.had_comma = Some(has_comma);
                self.next = Some(Line { target, text });
            }
            _ => self.is_damaged = true,
        }
    }
}

/// A catalog that is written beside the old one.
struct Rewrite<'a> {
    out: BufWriter<Replacement<'a>>,
    images: usize,
}

impl<'a> Rewrite<'a> {
    fn begin(file: Replacement<'a>) -> Result<Self, Failure> {
        let mut out = BufWriter::with_capacity(BUFFER, file);
        out.write_all(BEGIN.as_bytes()).map_err(failure)?;
        Ok(Self { out, images: 0 })
    }

    fn put(&mut self, line: &str) -> Result<(), Failure> {
        let comma = if self.images == 0 { "" } else { ",\n" };
        self.images += 1;
        write!(self.out, "{comma}{line}").map_err(failure)
    }

    fn end(mut self) -> Result<Replacement<'a>, Failure> {
        let newline = if self.images == 0 { "" } else { "\n" };
        write!(self.out, "{newline}{END}").map_err(failure)?;
        (self.out.into_inner()).map_err(|error| failure(error.into_error()))
    }
}

fn failure(error: io::Error) -> Failure {
    Failure::new("writing", NAME, error)
}

/// Whether a line says what the tree says, as far as the short part of the record goes: the same
/// generation may have come back as another version.
fn is_right(line: &str, tree: &Tree, target: &Target, prefix: &str) -> bool {
    let Ok(image) = serde_json::from_str::<CatalogImage<'_>>(line) else {
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
    image.generation == generation.as_str()
        && image.version == version
        && image.published_at == published_at.to_string()
        && image.path == format!("{prefix}{target}")
        && image.pinned_path == format!("{prefix}{}", generation.path(target))
}

/// What is current at a target; `None` when no generation is.
fn look(tree: &Tree, target: &Target, prefix: &str) -> Result<Option<String>, String> {
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
    let image = CatalogImage {
        target: &name,
        arch,
        subarch,
        release,
        purpose: target.purpose(),
        version: record.head.version,
        generation: current.name.as_str(),
        digest: &digest,
        path: format!("{prefix}{target}").into(),
        pinned_path: format!("{prefix}{}", current.name.path(target)).into(),
        published_at: &published_at,
        files: (files.iter())
            .map(|(path, size, sha256)| CatalogFile {
                path: path.as_str().into(),
                size: *size,
                sha256,
            })
            .collect(),
    };
    let line = serde_json::to_string(&image).expect("an image is plain data");
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(target: &'a str, files: Vec<CatalogFile<'a>>) -> CatalogImage<'a> {
        let names: Vec<_> = target.split('/').collect();
        CatalogImage {
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

    fn text(entries: &[CatalogImage<'_>]) -> String {
        let lines = entries.iter().map(|e| serde_json::to_string(e).unwrap());
        let lines: Vec<_> = lines.collect();
        format!("{BEGIN}{}\n{END}", lines.join(",\n"))
    }

    /// Other people's programs read it: a change of this text is a new format.
    #[test]
    fn the_format_is_pinned() {
        let files = vec![CatalogFile {
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
        assert_eq!(text(&entries), pinned);
        let catalog = Catalog::parse(pinned.to_string()).unwrap();
        assert_eq!(catalog.count(), 2);
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(catalog.image(number).as_ref(), Some(entry));
        }
        assert_eq!(catalog.image(2), None);
        let empty = "{\"format\":1,\"images\":[\n]}\n";
        assert_eq!(Catalog::parse(empty.to_string()).unwrap().count(), 0);
    }

    #[test]
    fn a_catalog_that_is_not_as_it_is_written_is_none() {
        let text = text(&[
            entry("a/generic/noble/install", Vec::new()),
            entry("b/generic/noble/install", Vec::new()),
        ]);
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
            text.replace("]}\n", "]}"),
            text.replace("]}\n", "]}\n\n"),
            text.replace("]}\n", ""),
        ] {
            assert_eq!(Catalog::parse(bad.clone()), None, "{bad}");
        }
        // Inside of a line it shows when that is read.
        let damaged = Catalog::parse(text.replace("\"arch\":\"b\"", "\"arch\":7")).unwrap();
        assert_eq!((damaged.image(0).is_some(), damaged.image(1)), (true, None));
    }
}
