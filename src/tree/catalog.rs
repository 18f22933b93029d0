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
//! the format that others may rely on: it lets ten thousand lines that did not change pass one by
//! one, without being parsed, and without being in memory together.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::{Current, PRIVATE, Tree};
use crate::fault::Fault;
use crate::sys::{Failure, Ownership, failpoint, map};
use crate::text::quoted;
use crate::words::{Boot, Digest, GenerationName, Moment, Target};

/// What the catalog is called in the daemon's own folder until it is whole.
const TEMPORARY: &str = "catalog.json.new";

/// A longer catalog is damaged, in bytes: room for a few million files.
const MAX_SIZE: u64 = 1 << 30;

/// So many lines or targets are looked at together: memory does not grow with the tree.
const TOGETHER: usize = 512;

/// Up to so many of them one thread looks at all.
const FEW: usize = 64;

const BEGIN: &str = "{\"format\":1,\"images\":[\n";
const END: &str = "]}\n";
const TARGET: &str = "{\"target\":\"";

/// The whole catalog, as its text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    text: String,
    /// The lines of the images in the text, without the comma, sorted by target.
    lines: Vec<Range<usize>>,
}

/// One image in the catalog: the stored form, and what templates see.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogImage<'a> {
    pub target: &'a str,
    #[serde(borrow, flatten)]
    pub names: CatalogNames<'a>,
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
    /// How to boot it, as its manifest says or, where that says nothing, as the names of its files do.
    pub boot: Boot,
    #[serde(borrow)]
    pub files: Vec<CatalogFile<'a>>,
}

/// The names of a target.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogNames<'a> {
    pub arch: &'a str,
    pub subarch: &'a str,
    pub release: &'a str,
    pub purpose: &'a str,
}

impl<'a> CatalogNames<'a> {
    fn of(target: &'a Target) -> Self {
        let [arch, subarch, release] = target.folders();
        Self {
            arch,
            subarch,
            release,
            purpose: target.purpose(),
        }
    }
}

/// A regular file of an image in the catalog.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile<'a> {
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
    /// How many images are in the catalog.
    pub images: usize,
    pub is_replaced: bool,
    /// What could not be taken up: the old lines stay.
    pub troubles: Vec<String>,
}

impl Catalog {
    /// The catalog's name in the tree.
    pub(crate) const NAME: &str = "catalog.json";

    /// Takes `changes` up into the catalog of a tree, and replaces the file atomically where that
    /// makes another text. `prefix` is the way from what the TFTP server calls `/` to the tree:
    /// empty, or it ends in `/`. A catalog that is not there, or not as this version writes it, is
    /// made anew.
    ///
    /// # Errors
    /// When the tree can't be read, or the catalog not be written.
    pub(crate) fn update(
        tree: &Tree,
        changes: &Changes,
        prefix: &str,
        owner: Option<Ownership>,
    ) -> Result<Updated, Failure> {
        if let Some(mut old) = tree.root().file(Self::NAME)?
            && let Some((images, stale)) = find_stale(tree, &old, changes, prefix)?
        {
            if stale.is_empty() {
                return Ok(Updated {
                    images,
                    ..Updated::default()
                });
            }
            old.rewind().map_err(failure)?;
            return rewrite(tree, Some(&old), &stale, prefix, owner);
        }
        Self::make(tree, prefix, owner)
    }

    /// As [`Catalog::update`], whatever the old catalog says.
    pub(crate) fn make(
        tree: &Tree,
        prefix: &str,
        owner: Option<Ownership>,
    ) -> Result<Updated, Failure> {
        rewrite(tree, None, &tree.targets()?, prefix, owner)
    }

    /// Reads the catalog of a tree; `None` when it is not there, or not as this version writes it.
    pub(crate) fn read(tree: &Tree) -> Option<Self> {
        let bytes = tree.root().read(Self::NAME, MAX_SIZE).ok().flatten()?;
        String::from_utf8(bytes).ok().and_then(Self::parse)
    }

    /// `None` when the text is not as this version writes it.
    pub fn parse(text: String) -> Option<Self> {
        let mut images = Lines::begin(text.as_bytes())?;
        let (mut at, mut lines) = (BEGIN.len(), Vec::new());
        for (_, line) in &mut images {
            lines.push(at..at + line.len());
            at += line.len() + ",\n".len();
        }
        images.is_whole.then_some(Self { text, lines })
    }

    /// A catalog of images that nobody has published: the same format, for trying what reads one. Of every
    /// way to boot one there is an image.
    pub(crate) fn example() -> Self {
        let text = |text: &str| Some(text.to_string());
        let several = Boot {
            kernel: text("linux"),
            initrd: ["ucode.img", "initrd.gz"].map(str::to_string).into(),
            cmdline: text("ip=dhcp url={url}/root.squashfs path={path}"),
            title: text("An example"),
            efi: None,
        };
        let of_efi = Boot {
            efi: text("boot.efi"),
            ..Boot::default()
        };
        let plain = Boot::default().found(["initrd.gz", "linux"].into_iter());
        let lines = [
            ("amd64/generic/example/efi", &["boot.efi"][..], of_efi),
            (
                "amd64/generic/example/install",
                &["initrd.gz", "linux"],
                plain,
            ),
            (
                "amd64/generic/example/live",
                &["initrd.gz", "linux", "ucode.img"],
                several,
            ),
            ("amd64/generic/example/none", &["x"], Boot::default()),
        ]
        .map(|(target, files, boot)| example(&target.parse().expect("a target"), files, boot));
        let lines = lines.join(",\n");
        Self::parse(format!("{BEGIN}{lines}\n{END}")).expect("it is as it is written")
    }

    /// The target of an image, as its text; empty when there are not so many.
    pub(crate) fn target(&self, number: usize) -> &str {
        self.lines
            .get(number)
            .map_or("", |line| self.target_of(line))
    }

    /// The architectures of the images, each once.
    pub(crate) fn architectures(&self) -> Vec<&str> {
        let mut architectures: Vec<_> = self.lines.iter().map(|it| self.arch_of(it)).collect();
        // They are the first names of targets, by which the images are sorted.
        architectures.dedup();
        architectures
    }

    /// The numbers of the images of an architecture.
    pub(crate) fn of_architecture(&self, arch: &str) -> Range<usize> {
        let first = self.lines.partition_point(|line| self.arch_of(line) < arch);
        let end = self
            .lines
            .partition_point(|line| self.arch_of(line) <= arch);
        first..end
    }

    fn target_of(&self, line: &Range<usize>) -> &str {
        let line = &self.text[line.clone()];
        let target = line.strip_prefix(TARGET).and_then(|it| it.split_once('"'));
        target.map_or("", |(target, _)| target)
    }

    fn arch_of(&self, line: &Range<usize>) -> &str {
        let target = self.target_of(line);
        target.split_once('/').map_or(target, |(arch, _)| arch)
    }

    /// How many images are in it.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// One image; `None` when its line is damaged, or there are not so many.
    pub fn image(&self, number: usize) -> Option<CatalogImage<'_>> {
        let line = self.lines.get(number)?.clone();
        serde_json::from_str(&self.text[line]).ok()
    }
}

/// The line of an image that nobody has published.
fn example(target: &Target, files: &[&'static str], boot: Boot) -> String {
    let hash = Digest::of(b"").to_string();
    let file = |path: &&'static str| CatalogFile {
        path: (*path).into(),
        size: 0,
        sha256: &hash,
    };
    let generation = GenerationName::new(Moment::now(), &Digest::of(b""), |_| false);
    let image = CatalogImage {
        target: &target.to_string(),
        names: CatalogNames::of(target),
        version: boot.title.as_ref().map(|_| "1".to_string()),
        generation: generation.as_str(),
        digest: &hash,
        path: target.to_string().into(),
        pinned_path: generation.path(target).into(),
        published_at: &Moment::now().to_string(),
        boot,
        files: files.iter().map(file).collect(),
    };
    serde_json::to_string(&image).expect("an image is plain data")
}

/// How many images are in the catalog `old`, and the targets among `changes` of which it does not
/// say what the tree says, sorted; `None` when the catalog is not as this version writes it.
fn find_stale(
    tree: &Tree,
    old: &File,
    changes: &Changes,
    prefix: &str,
) -> Result<Option<(usize, Vec<Target>)>, Failure> {
    let Some(mut lines) = Lines::begin(BufReader::new(old)) else {
        return Ok(None);
    };
    let (mut stale, is_all) = match changes {
        Changes::All => (tree.targets()?.into_iter().collect(), true),
        Changes::Of(targets) => (targets.clone(), false),
    };
    let mut count = 0;
    loop {
        let lines = lines.by_ref().inspect(|_| count += 1);
        let of_changes = lines.filter(|(target, _)| is_all || stale.contains(target));
        let together: Vec<_> = of_changes.take(TOGETHER).collect();
        let is_last = together.len() < TOGETHER;
        let compared = map(together, FEW, |(target, line)| {
            (is_right(&line, tree, &target, prefix), target)
        });
        for (is_right, target) in compared {
            if is_right {
                stale.remove(&target);
            } else {
                stale.insert(target);
            }
        }
        if is_last {
            break;
        }
    }
    let stale = stale.into_iter().collect();
    Ok(lines.is_whole.then_some((count, stale)))
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
    let replacement = private.begin_replacement(TEMPORARY)?;
    let mut out = BufWriter::with_capacity(64 << 10, replacement);
    let mut updated = Updated {
        is_replaced: old.is_none(),
        ..Updated::default()
    };
    let mut put = |new: Result<Cow<'_, str>, String>, old: &str| {
        let line = new.unwrap_or_else(|trouble| {
            updated.troubles.push(trouble);
            old.to_string().into()
        });
        updated.is_replaced |= line != old;
        if line.is_empty() {
            return Ok(());
        }
        let before = if updated.images == 0 { BEGIN } else { ",\n" };
        updated.images += 1;
        write!(out, "{before}{line}").map_err(failure)
    };
    let looked = targets.chunks(TOGETHER).flat_map(|together| {
        map(together.iter().collect(), FEW, |target: &Target| {
            (target, look(tree, target, prefix).map(Cow::from))
        })
    });
    let mut looked = looked.peekable();
    let lines = old.and_then(|old| Lines::begin(BufReader::new(old)));
    for (target, line) in lines.into_iter().flatten() {
        while let Some((_, new)) = looked.next_if(|(other, _)| **other < target) {
            put(new, "")?;
        }
        let new = looked.next_if(|(other, _)| **other == target);
        put(new.map_or(Ok((&line).into()), |(_, new)| new), &line)?;
    }
    for (_, new) in looked {
        put(new, "")?;
    }
    let before = if updated.images == 0 { BEGIN } else { "\n" };
    write!(out, "{before}{END}").map_err(failure)?;
    if updated.is_replaced {
        failpoint("catalog", "writing", Catalog::NAME)?;
        let written = out.into_inner();
        let written = written.map_err(|error| failure(error.into_error()))?;
        written.finish(owner, tree.root(), Catalog::NAME)?;
    }
    Ok(updated)
}

fn failure(error: io::Error) -> Failure {
    Failure::new("writing", Catalog::NAME, error)
}

/// The targets in the text of a catalog, each with its line, without the comma and the line's end.
/// Ends at the first line that is not as this version writes it.
struct Lines<R> {
    text: R,
    /// The target of the line before, and whether that has a comma.
    last: Option<(Target, bool)>,
    /// Whether all of the text was read, and is as this version writes it.
    is_whole: bool,
}

impl<R: BufRead> Lines<R> {
    fn begin(text: R) -> Option<Self> {
        let mut lines = Self {
            text,
            last: None,
            is_whole: false,
        };
        (lines.read() == BEGIN).then_some(lines)
    }

    /// What is no UTF-8, or can't be read, is no line.
    fn read(&mut self) -> String {
        let mut line = String::new();
        let length = self.text.read_line(&mut line).unwrap_or(0);
        line.truncate(length);
        line
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = (Target, String);

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = self.read();
        let (last, had_comma) = self.last.take().unzip();
        if line == END && had_comma != Some(true) {
            self.is_whole = self.read().is_empty();
            return None;
        }
        line.pop();
        let has_comma = line.ends_with(',');
        line.truncate(line.len() - usize::from(has_comma));
        let target = line.strip_prefix(TARGET)?.split_once('"')?.0;
        let target = target.parse::<Target>().ok()?;
        // Every image but the last has a comma.
        let is_next = had_comma != Some(false) && last.is_none_or(|last| last < target);
        if !is_next || !line.ends_with('}') {
            return None;
        }
        self.last = Some((target.clone(), has_comma));
        Some((target, line))
    }
}

/// Whether a line says what the tree says, as far as the short part of the record goes: a record may have
/// been lost, and what is found by the names of files may be more than an older daemon found.
fn is_right(line: &str, tree: &Tree, target: &Target, prefix: &str) -> bool {
    if let Ok(image) = serde_json::from_str::<CatalogImage<'_>>(line)
        && let Ok(Some(generation)) = tree.pointed(target)
        && let Ok(Some(head)) = tree.head(target, &generation)
    {
        image.generation == generation.as_str()
            && image.version == head.version
            && image.published_at == head.published_at.to_string()
            && image.path == format!("{prefix}{target}")
            && image.pinned_path == format!("{prefix}{}", generation.path(target))
            && image.boot == head.boot.found(image.files.iter().map(|file| &*file.path))
    } else {
        false
    }
}

/// The line of what is current at a target; empty when no generation is.
///
/// # Errors
/// What keeps the line from being known.
fn look(tree: &Tree, target: &Target, prefix: &str) -> Result<String, String> {
    let current = match tree.current(target) {
        Ok(Current::Generation(current)) => current,
        Ok(_) | Err(Fault::Reject(_)) => return Ok(String::new()),
        Err(fault) => return Err(fault.to_string()),
    };
    let Some(Record { head, listing, .. }) = current.record else {
        let record = quoted(&current.name.record());
        return Err(format!("{target}: the record {record} is not readable"));
    };
    let marks = listing.files.values();
    let hashes: Vec<_> = marks.map(|mark| mark.sha256.to_string()).collect();
    let files = listing.files.iter().zip(&hashes);
    let image = CatalogImage {
        target: &target.to_string(),
        names: CatalogNames::of(target),
        version: head.version,
        generation: current.name.as_str(),
        digest: &head.digest.to_string(),
        path: format!("{prefix}{target}").into(),
        pinned_path: format!("{prefix}{}", current.name.path(target)).into(),
        published_at: &head.published_at.to_string(),
        boot: head.boot.found(listing.files.keys().map(String::as_str)),
        files: files
            .map(|((path, mark), sha256)| CatalogFile {
                path: path.as_str().into(),
                size: mark.size,
                sha256,
            })
            .collect(),
    };
    Ok(serde_json::to_string(&image).expect("an image is plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(target: &'a str, files: Vec<CatalogFile<'a>>) -> CatalogImage<'a> {
        let names: Vec<_> = target.split('/').collect();
        CatalogImage {
            target,
            names: CatalogNames {
                arch: names[0],
                subarch: names[1],
                release: names[2],
                purpose: names[3],
            },
            version: Some("2026 \"x\"".into()),
            generation: "20261122T161500Z-ba7816bf8f01",
            digest: "ba78",
            path: format!("netboot/{target}").into(),
            pinned_path: format!("netboot/{target}@/20261122T161500Z-ba7816bf8f01").into(),
            published_at: "2026-11-22T16:15:00.250000Z",
            boot: Boot {
                title: Some("\"x\"".into()),
                ..Boot::default().found(files.iter().map(|file| &*file.path))
            },
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
            path: "d-i/linux".into(),
            size: 3,
            sha256: "e3b0",
        }];
        let entries = [
            entry("a/generic/noble/install", files),
            entry("a-b/generic/noble/install", Vec::new()),
        ];
        let pinned = r#"{"format":1,"images":[
{"target":"a/generic/noble/install","arch":"a","subarch":"generic","release":"noble","purpose":"install","version":"2026 \"x\"","generation":"20261122T161500Z-ba7816bf8f01","digest":"ba78","path":"netboot/a/generic/noble/install","pinned_path":"netboot/a/generic/noble/install@/20261122T161500Z-ba7816bf8f01","published_at":"2026-11-22T16:15:00.250000Z","boot":{"kernel":"d-i/linux","initrd":[],"cmdline":null,"title":"\"x\"","efi":null},"files":[{"path":"d-i/linux","size":3,"sha256":"e3b0"}]},
{"target":"a-b/generic/noble/install","arch":"a-b","subarch":"generic","release":"noble","purpose":"install","version":"2026 \"x\"","generation":"20261122T161500Z-ba7816bf8f01","digest":"ba78","path":"netboot/a-b/generic/noble/install","pinned_path":"netboot/a-b/generic/noble/install@/20261122T161500Z-ba7816bf8f01","published_at":"2026-11-22T16:15:00.250000Z","boot":{"kernel":null,"initrd":[],"cmdline":null,"title":"\"x\"","efi":null},"files":[]}
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
    fn the_images_of_an_architecture_stand_together() {
        let targets = ["a/g/x/p", "a/h/a/p", "a-b/g/x/p", "b/g/x/p"];
        let catalog =
            Catalog::parse(text(&targets.map(|target| entry(target, Vec::new())))).unwrap();
        assert_eq!(catalog.architectures(), ["a", "a-b", "b"]);
        let expected = [
            ("a", 0..2),
            ("a-b", 2..3),
            ("b", 3..4),
            ("", 0..0),
            ("aa", 3..3),
            ("c", 4..4),
        ];
        for (arch, numbers) in expected {
            assert_eq!(catalog.of_architecture(arch), numbers, "{arch}");
        }
        assert_eq!(catalog.target(1), "a/h/a/p");
        assert_eq!(catalog.target(4), "");
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
