//! `diff`: what differs between two generations of a target, as their records tell.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::status::{plain, with_head};
use super::terminal::{boot_lines, print_as, text_or, width};
use crate::settings::Settings;
use crate::text::counted;
use crate::tree::{Record, Tree};
use crate::words::{Boot, GenerationHint, GenerationName, Target};

/// Shows what differs: between the current generation and the one that it has replaced, between `from`
/// and the current one, or between `from` and `to`.
pub(super) fn show(
    settings: &Settings,
    target: &Target,
    from: Option<&GenerationHint>,
    to: Option<&GenerationHint>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let tree = Tree::open(&settings.tree.path)?;
    anyhow::ensure!(tree.knows(target)?, "no such target: {target}");
    let from = match from {
        Some(from) => tree.find(target, from)?,
        None => tree.find_replaced(target)?,
    };
    let to = match (to, tree.pointed(target)?) {
        (Some(to), _) => tree.find(target, to)?,
        (None, Some(pointed)) => pointed,
        (None, None) => anyhow::bail!(
            "{target} is withdrawn, nothing is current; expected two generations to be named"
        ),
    };
    let record = |name: &GenerationName| {
        let found = tree.generation(target, name.clone())?;
        let record = found.and_then(|generation| generation.record);
        record.ok_or_else(|| anyhow::anyhow!("{name} is not kept, or its record is damaged"))
    };
    let diff = Diff::between(target, &record(&from)?, &record(&to)?);
    print_as(json, &diff, |diff| diff.to_text(width()))
}

#[derive(Debug, Serialize)]
struct Diff {
    target: Target,
    from: Side,
    to: Side,
    /// Sorted by path.
    changes: Vec<Change>,
    /// Files, links and folders that are the same in both.
    unchanged: usize,
}

/// One of the two generations.
#[derive(Debug, Serialize)]
struct Side {
    generation: GenerationName,
    version: Option<String>,
    /// Of an image that was promoted: the target that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_from: Option<Target>,
    files: usize,
    bytes: u64,
    /// What the manifest says.
    boot: Boot,
}

/// What differs at one path.
#[derive(Debug, Serialize)]
struct Change {
    path: String,
    #[serde(rename = "change")]
    kind: Kind,
    /// What is there in the one generation and in the other; missing where that is nothing.
    from: Option<Entry>,
    to: Option<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
enum Kind {
    Added,
    Changed,
    Removed,
}

/// What stands for a path in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    File { size: u64, sha256: String },
    Link(String),
    Folder,
}

impl Diff {
    fn between(target: &Target, from: &Record, to: &Record) -> Self {
        let (mut before, after) = (entries(from), entries(to));
        let (mut changes, mut unchanged) = (Vec::new(), 0);
        for (path, to) in after {
            let from = before.remove(&path);
            if from.as_ref() == Some(&to) {
                unchanged += 1;
                continue;
            }
            let kind = if from.is_some() {
                Kind::Changed
            } else {
                Kind::Added
            };
            let to = Some(to);
            changes.push(Change {
                path,
                kind,
                from,
                to,
            });
        }
        changes.extend(before.into_iter().map(|(path, from)| Change {
            path,
            kind: Kind::Removed,
            from: Some(from),
            to: None,
        }));
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        let side = |record: &Record| Side {
            generation: record.head.generation.clone(),
            version: record.head.version.clone(),
            promoted_from: record.head.promoted_from().cloned(),
            files: record.head.file_count,
            bytes: record.head.bytes,
            boot: record.head.boot.clone(),
        };
        Self {
            target: target.clone(),
            from: side(from),
            to: side(to),
            changes,
            unchanged,
        }
    }

    /// The text for people.
    fn to_text(&self, width: Option<usize>) -> String {
        let mut text = String::new();
        for (name, side) in [("from", &self.from), ("to", &self.to)] {
            let version = side.version.as_ref().map(|it| format!(", version {it}"));
            let (files, bytes) = (counted(side.files, "file"), ByteSize(side.bytes));
            let from = side.promoted_from.as_ref();
            let from = text_or(from.map(|it| format!(", promoted from {it}")), "");
            let (generation, version) = (&side.generation, text_or(version, ""));
            let _ = writeln!(
                text,
                "{name:4} {generation}: {files}, {bytes}{version}{from}"
            );
            if self.from.boot != self.to.boot {
                let lines = boot_lines(&side.boot);
                let lines = std::iter::once("[boot]".to_string()).chain(lines);
                text.extend(lines.map(|line| format!("     {line}\n")));
            }
        }
        if !self.changes.is_empty() {
            let rows = self.changes.iter().map(|change| {
                let shown = |entry: &Option<Entry>| text_or(entry.as_ref().map(Entry::shown), "-");
                [
                    change.kind.to_string(),
                    plain(&change.path),
                    shown(&change.from),
                    shown(&change.to),
                ]
            });
            text += "\n";
            text += &with_head(["", "PATH", "FROM", "TO"], rows, width, [7, 16, 10, 10]);
        }
        let count = |kind| self.changes.iter().filter(|it| it.kind == kind).count();
        let [added, changed, removed] = [Kind::Added, Kind::Changed, Kind::Removed].map(count);
        let (before, after) = (self.from.bytes, self.to.bytes);
        let grown = match after.cmp(&before) {
            Ordering::Less => format!("; {} less", ByteSize(before - after)),
            Ordering::Equal => String::new(),
            Ordering::Greater => format!("; {} more", ByteSize(after - before)),
        };
        let unchanged = self.unchanged;
        let _ = writeln!(
            text,
            "\n{added} added, {changed} changed, {removed} removed, {unchanged} unchanged{grown}"
        );
        text
    }
}

impl Entry {
    fn shown(&self) -> String {
        match self {
            Self::File { size, .. } => ByteSize(*size).to_string(),
            Self::Link(to) => format!("-> {}", plain(to)),
            Self::Folder => "folder".to_string(),
        }
    }
}

/// All that is in an image, by path.
fn entries(record: &Record) -> BTreeMap<String, Entry> {
    let listing = &record.listing;
    let files = listing.files.iter().map(|(path, mark)| {
        let sha256 = mark.sha256.to_string();
        let size = mark.size;
        (path.clone(), Entry::File { size, sha256 })
    });
    let links = listing.links.iter();
    let links = links.map(|(path, to)| (path.clone(), Entry::Link(to.clone())));
    let folders = listing.folders.iter();
    let folders = folders.map(|path| (path.clone(), Entry::Folder));
    files.chain(links).chain(folders).collect()
}
