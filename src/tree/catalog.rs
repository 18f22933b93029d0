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
//! the format that others may rely on. It is what lets ten thousand lines that did not change be
//! copied one by one, without being parsed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::record::Head;
use super::{Current, PRIVATE, Tree};
use crate::fault::Fault;
use crate::image::Ownership;
use crate::sys::{Dir, Failure, Replacement, failpoint, parallel};
use crate::text::quoted;
use crate::words::{GenerationName, Target};

/// The catalog's name in the tree.
pub(crate) const NAME: &str = "catalog.json";

/// What it is called in the daemon's own folder until it is whole.
const TEMPORARY: &str = "catalog.json.new";

/// A longer one is damaged, in bytes: room for a few million files.
const MAX_SIZE: u64 = 1 << 30;

/// So many targets are looked at before their lines are written: memory does not grow with the tree.
const SLICE: usize = 512;

/// From this many targets on, several threads read them.
const MANY: usize = 64;

/// Written at a time, in bytes.
const BUFFER: usize = 64 << 10;

const BEGIN: &str = "{\"format\":1,\"images\":[\n";
const END: &str = "]}\n";
const TARGET: &str = "{\"target\":\"";

/// The whole catalog, as its text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    text: String,
    /// The lines of the images in it, without the comma, sorted by target.
    lines: Vec<Range<usize>>,
}

/// One image in the catalog: the stored form, and what templates see.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry<'a> {
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
pub(crate) struct EntryFile<'a> {
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
pub(crate) struct Paths {
    /// The way from what the TFTP server calls `/` to the tree: empty, or it ends in `/`.
    pub prefix: String,
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

/// Takes `changes` up into the catalog of a tree, and replaces it atomically when it is another
/// then. One that is not there, or not as this version writes it, is made anew.
///
/// # Errors
/// When the tree can't be read, or the catalog not be written.
pub(crate) fn update(
    tree: &Tree,
    changes: &Changes,
    paths: &Paths,
    owner: Option<Ownership>,
) -> Result<Updated, Failure> {
    if let Some(old) = tree.root().file(NAME)?
        && let Some(updated) = merge(tree, Some(&old), changes, paths, owner)?
    {
        return Ok(updated);
    }
    make(tree, paths, owner)
}

/// As [`update`], whatever the old one says.
pub(crate) fn make(
    tree: &Tree,
    paths: &Paths,
    owner: Option<Ownership>,
) -> Result<Updated, Failure> {
    let updated = merge(tree, None, &Changes::All, paths, owner)?;
    Ok(updated.unwrap_or_default())
}

/// As [`update`]; `None` when `old` is not as this version writes it.
fn merge(
    tree: &Tree,
    old: Option<&File>,
    changes: &Changes,
    paths: &Paths,
    owner: Option<Ownership>,
) -> Result<Option<Updated>, Failure> {
    let (targets, is_all) = match changes {
        Changes::All => (tree.targets()?, true),
        Changes::Of(targets) => (targets.iter().cloned().collect(), false),
    };
    let private = tree.root().existing_dir(PRIVATE)?;
    let mut lines = Lines::new(old.map(BufReader::new));
    if lines.is_damaged {
        return Ok(None);
    }
    let mut rewrite = Rewrite::new(&private, old)?;
    let mut troubles = Vec::new();
    for slice in targets.chunks(SLICE) {
        if is_all && let Some(last) = slice.last() {
            lines.read_ahead(&last.to_string());
        }
        let is_worth_it = slice.len() > MANY;
        let looked = parallel::map(slice.iter().collect(), is_worth_it, |target: &Target| {
            let name = target.to_string();
            let known = lines.ahead(&name);
            let is_right = known.is_some_and(|line| is_right(line, tree, target, paths));
            let line = if is_right {
                Ok(known.map(str::to_string))
            } else {
                look(tree, target, paths)
            };
            (name, line)
        });
        for (target, line) in looked {
            while let Some(other) = lines.next_if(|of| compare(of, &target).is_lt()) {
                rewrite.pass(&other, is_all)?;
            }
            let old = lines.next_if(|of| of == target);
            match (line, old) {
                (Ok(Some(line)), Some(old)) if line == old => rewrite.keep(&old)?,
                (Ok(Some(line)), _) => rewrite.put(&line)?,
                (Ok(None), Some(_)) => rewrite.leave_out()?,
                (Ok(None), None) => {}
                (Err(trouble), old) => {
                    troubles.push(trouble);
                    if let Some(old) = old {
                        rewrite.keep(&old)?;
                    }
                }
            }
        }
    }
    while let Some(other) = lines.next_if(|_| true) {
        rewrite.pass(&other, is_all)?;
    }
    if lines.is_damaged {
        return Ok(None);
    }
    let images = rewrite.images;
    Ok(Some(Updated {
        images,
        is_replaced: rewrite.finish(tree, owner)?,
        troubles,
    }))
}

/// The lines of a catalog, one by one.
#[derive(Debug)]
struct Lines<R> {
    /// `None` when there is nothing more to read.
    text: Option<R>,
    /// Read already, in order.
    ahead: VecDeque<String>,
    /// The target of the line that was read last.
    last: Option<String>,
    /// Whether that one had a comma; unknown before the first.
    had_comma: Option<bool>,
    /// The text is not as this version writes it.
    is_damaged: bool,
}

impl<R: BufRead> Lines<R> {
    fn new(mut text: Option<R>) -> Self {
        let mut begin = String::new();
        let read = text.as_mut().map(|text| text.read_line(&mut begin));
        Self {
            is_damaged: read.is_some() && begin != BEGIN,
            text,
            ahead: VecDeque::new(),
            last: None,
            had_comma: None,
        }
    }

    /// The next line, without the comma, if it `is` of such a target.
    fn next_if(&mut self, is: impl Fn(&str) -> bool) -> Option<String> {
        if self.ahead.is_empty() {
            let line = self.read()?;
            self.ahead.push_back(line);
        }
        let is_it = self.ahead.front().is_some_and(|line| is(target_of(line)));
        is_it.then(|| self.ahead.pop_front()).flatten()
    }

    /// Reads all lines of targets up to `last`, and the one after them.
    fn read_ahead(&mut self, last: &str) {
        let is_after = |line: &String| compare(target_of(line), last).is_gt();
        while !self.ahead.back().is_some_and(is_after)
            && let Some(line) = self.read()
        {
            self.ahead.push_back(line);
        }
    }

    /// The line of a target, if it was read ahead.
    fn ahead(&self, target: &str) -> Option<&str> {
        let of = |line: &String| compare(target_of(line), target);
        let number = self.ahead.binary_search_by(of).ok()?;
        self.ahead.get(number).map(String::as_str)
    }

    fn read(&mut self) -> Option<String> {
        if self.is_damaged {
            return None;
        }
        let mut line = String::new();
        // What is no UTF-8, or can't be read, is no line.
        let length = self.text.as_mut()?.read_line(&mut line).unwrap_or(0);
        if line == END && self.had_comma != Some(true) {
            let rest = self.text.take()?.fill_buf().map(<[u8]>::is_empty);
            self.is_damaged = !rest.unwrap_or(false);
            return None;
        }
        line.truncate(length.saturating_sub(1));
        // Every image but the last has a comma.
        let has_comma = line.ends_with(',');
        line.truncate(line.len() - usize::from(has_comma));
        let target = target_of(&line).to_string();
        let is_next = |last: &String| compare(last, &target).is_lt();
        let is_line = line.starts_with(TARGET)
            && line.ends_with('}')
            && self.had_comma != Some(false)
            && self.last.as_ref().is_none_or(is_next);
        if !is_line {
            self.is_damaged = true;
            return None;
        }
        self.last = Some(target);
        self.had_comma = Some(has_comma);
        Some(line)
    }
}

/// A catalog that is written beside the old one, from the first line on that is another.
#[derive(Debug)]
struct Rewrite<'a> {
    private: &'a Dir,
    old: Option<&'a File>,
    /// With so many bytes of the old one it begins.
    same: u64,
    images: usize,
    new: Option<BufWriter<Replacement<'a>>>,
}

impl<'a> Rewrite<'a> {
    fn new(private: &'a Dir, old: Option<&'a File>) -> Result<Self, Failure> {
        let mut rewrite = Self {
            private,
            old,
            same: BEGIN.len() as u64,
            images: 0,
            new: None,
        };
        if old.is_none() {
            rewrite.begin()?;
        }
        Ok(rewrite)
    }

    /// The next line of the old one stays.
    fn keep(&mut self, line: &str) -> Result<(), Failure> {
        let comma = if self.images == 0 { "" } else { ",\n" };
        self.images += 1;
        match &mut self.new {
            Some(new) => write!(new, "{comma}{line}").map_err(failure),
            None => {
                self.same += (comma.len() + line.len()) as u64;
                Ok(())
            }
        }
    }

    /// A line that is another, or new.
    fn put(&mut self, line: &str) -> Result<(), Failure> {
        self.begin()?;
        self.keep(line)
    }

    /// The next line of the old one goes.
    fn leave_out(&mut self) -> Result<(), Failure> {
        self.begin()
    }

    /// The next line of the old one is of a target that was not looked at: where all were, it has
    /// gone.
    fn pass(&mut self, line: &str, is_all: bool) -> Result<(), Failure> {
        if is_all {
            self.leave_out()
        } else {
            self.keep(line)
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        if self.new.is_some() {
            return Ok(());
        }
        failpoint::at("catalog").map_err(failure)?;
        let new = self.private.begin_replacement(TEMPORARY)?;
        let mut new = BufWriter::with_capacity(BUFFER, new);
        let copied = match self.old {
            Some(old) => copy_start(old, self.same, &mut new),
            None => new.write_all(BEGIN.as_bytes()),
        };
        copied.map_err(failure)?;
        self.new = Some(new);
        Ok(())
    }

    /// Puts it in its place, if it is another. Returns whether it is.
    fn finish(self, tree: &Tree, owner: Option<Ownership>) -> Result<bool, Failure> {
        let Some(mut new) = self.new else {
            return Ok(false);
        };
        let newline = if self.images == 0 { "" } else { "\n" };
        write!(new, "{newline}{END}").map_err(failure)?;
        let new = new
            .into_inner()
            .map_err(|error| failure(error.into_error()))?;
        let owner = owner.map(|owner| (owner.uid, owner.gid));
        new.finish(owner, tree.root(), NAME)?;
        Ok(true)
    }
}

/// Writes the first bytes of `old` to `new`.
fn copy_start(old: &File, length: u64, new: &mut impl io::Write) -> io::Result<()> {
    let mut block = vec![0; BUFFER];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(BUFFER).min(BUFFER);
        old.read_exact_at(&mut block[..wanted], at)?;
        new.write_all(&block[..wanted])?;
        at += wanted as u64;
    }
    Ok(())
}

fn failure(error: io::Error) -> Failure {
    Failure::new("writing", NAME, error)
}

impl Catalog {
    /// Reads the catalog of a tree; `None` when it is not there, or not as this version writes it.
    pub(crate) fn read(tree: &Tree) -> Option<Self> {
        let bytes = tree.root().read(NAME, MAX_SIZE).ok().flatten()?;
        String::from_utf8(bytes).ok().and_then(Self::parse)
    }

    /// `None` when it is not as this version writes it.
    pub(crate) fn parse(text: String) -> Option<Self> {
        let mut lines = Lines::new(Some(text.as_bytes()));
        let (mut at, mut ranges) = (BEGIN.len(), Vec::new());
        while let Some(line) = lines.next_if(|_| true) {
            ranges.push(at..at + line.len());
            at += line.len() + ",\n".len();
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
    pub(crate) fn image(&self, number: usize) -> Option<Entry<'_>> {
        let line = self.lines.get(number)?.clone();
        serde_json::from_str(&self.text[line]).ok()
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

    fn text(entries: &[Entry<'_>]) -> String {
        let lines = entries.iter().map(|e| serde_json::to_string(e).unwrap());
        let lines: Vec<_> = lines.collect();
        format!("{BEGIN}{}\n{END}", lines.join(",\n"))
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
