//! What happened to a target: `.history/<target>.jsonl` in the tree, one line for each thing.
//!
//! A line about a swap is durable before the swap is made. So after a crash the last line can tell of
//! a swap that never came: the pointer shows that, and [`settle`] takes the line back. Lines outlive
//! what they tell of.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::folder::{self, Shown};
use super::record::{Head, Origin};
use crate::sys::{BootTime, Dir, Failure, FileExt as _, Importer, failpoint};
use crate::words::{ClaimId, Digest, GenerationName, Moment, Target, Verdict};

/// The folder of histories in the tree. No target's name begins with a dot.
const FOLDER: &str = ".history";

/// So many lines are kept, and a few more until they have become [`SLACK`].
const MAX_LINES: usize = 1_000;

/// Whenever a file has grown by so many bytes its lines are counted.
const SLACK: u64 = 64 << 10;

/// Bytes that are read at a time, from the end on.
const BLOCK: u64 = 4 << 10;

/// A longer line, in bytes, is none of the daemon's.
const MAX_LINE: usize = 64 << 10;

/// One line: something that happened to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Happened {
    /// Of a swap: the time of the swap.
    pub at: Moment,
    /// As [`BootTime::boot`].
    pub boot: String,
    /// As [`BootTime::since`], in microseconds.
    pub boottime: u64,
    pub event: Event,
    /// What was current before; of [`Event::Removed`], what was removed. Missing where that is nothing,
    /// or was a folder that somebody else had made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<GenerationName>,
    /// What is current now; of [`Event::Adopted`], what the folder became. Missing where that is
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<GenerationName>,
    /// The image of `to`, or, where that is missing, of `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Summary>,
    /// The drop that made it happen, as are the two that follow. Missing when no drop did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importer: Option<Importer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimId>,
}

/// An image in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub digest: Digest,
    pub files: usize,
    /// All files' bytes together.
    pub bytes: u64,
}

/// What can happen to a target.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    SerializeDisplay,
    DeserializeFromStr,
)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Event {
    /// The image of a drop became current.
    Published,
    /// An older generation became current again.
    RolledBack,
    /// The target was taken out of the tree.
    Withdrawn,
    /// A folder that somebody else had made became a generation, right before another took its place.
    Adopted,
    /// Retention no longer kept a generation.
    Removed,
}

impl Event {
    /// What has become of the drop that made it happen.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Published | Self::Adopted | Self::Removed => Verdict::Published,
            Self::RolledBack => Verdict::RolledBack,
            Self::Withdrawn => Verdict::Withdrawn,
        }
    }
}

impl Happened {
    /// What happens now, by no drop and of no image yet.
    pub(super) fn now(
        event: Event,
        from: Option<&GenerationName>,
        to: Option<&GenerationName>,
    ) -> Self {
        let BootTime { boot, since } = BootTime::now();
        Self {
            at: Moment::now(),
            boot,
            boottime: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            event,
            from: from.cloned(),
            to: to.cloned(),
            image: None,
            drop: None,
            importer: None,
            claim: None,
        }
    }

    /// The same, of the image of this record.
    pub(super) fn of_image(mut self, head: &Head) -> Self {
        self.image = Some(Summary {
            digest: head.digest,
            files: head.file_count,
            bytes: head.bytes,
        });
        self
    }

    /// The same, by this drop.
    pub(super) fn by(mut self, origin: &Origin) -> Self {
        self.drop = Some(origin.drop.clone());
        self.importer = Some(origin.importer.clone());
        self.claim = Some(origin.claim);
        self
    }

    /// That a folder became the generation of this record, in order that this could happen.
    pub(super) fn of_adoption(self, head: &Head) -> Self {
        let adoption = Self {
            event: Event::Adopted,
            from: None,
            to: Some(head.generation.clone()),
            ..self
        };
        adoption.of_image(head)
    }

    /// Whether another generation, or none, became current.
    pub(crate) fn is_swap(&self) -> bool {
        !matches!(self.event, Event::Adopted | Event::Removed)
    }

    /// When it happened, by the clock of the boot.
    pub(super) fn boot_time(&self) -> BootTime {
        BootTime {
            boot: self.boot.clone(),
            since: Duration::from_micros(self.boottime),
        }
    }

    fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a line is plain data");
        line.push('\n');
        line
    }

    fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// The lines of a history, the newest first. What is no line that this version knows is passed over.
#[derive(Debug)]
pub(crate) struct History {
    lines: Backwards<File>,
    path: String,
}

impl History {
    /// The history of `target` in the tree at `root`; `None` when there is none.
    pub(super) fn open(root: &Dir, target: &Target) -> Result<Option<Self>, Failure> {
        let path = path(target);
        let Some(file) = root.file(&path)? else {
            return Ok(None);
        };
        let lines = Backwards::new(file).map_err(|error| failure(&path, error))?;
        Ok(Some(Self { lines, path }))
    }
}

impl Iterator for History {
    type Item = Result<Happened, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.lines.next()? {
                Ok((_, line)) => {
                    if let Some(happened) = Happened::parse(&line) {
                        return Some(Ok(happened));
                    }
                }
                Err(error) => return Some(Err(failure(&self.path, error))),
            }
        }
    }
}

/// Writes lines at the end of the history of `target`, whose pointer is in `folder`. `staging` is a
/// folder in which the file `temporary` may be made. A sync makes the lines durable.
///
/// # Errors
/// Some of the lines may be there then: [`take_back`] removes them.
pub(super) fn append(
    root: &Dir,
    (folder, target): (&Dir, &Target),
    lines: &[Happened],
    (staging, temporary): (&Dir, &str),
) -> Result<(), Failure> {
    let path = path(target);
    failpoint("history", "writing", &path)?;
    let text: String = lines.iter().map(Happened::to_line).collect();
    let Some(mut file) = root.file_to_append(&path)? else {
        let folder = folder::make(root, &format!("{FOLDER}/{}", target.folder()))?;
        return folder.write_new(file_name(target), text.as_bytes());
    };
    let shown = || Shown::look(folder, target);
    let length = cut(&file, &path, shown)?;
    file.write_all(text.as_bytes())
        .map_err(|error| failure(&path, error))?;
    let new_length = length + text.len() as u64;
    if length / SLACK == new_length / SLACK {
        return Ok(());
    }
    let file = root.existing_file(&path)?;
    let lines = Backwards::new(file).and_then(|lines| lines.take(MAX_LINES + 1).collect());
    let mut lines: Vec<_> = lines.map_err(|error| failure(&path, error))?;
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        lines.reverse();
        let mut shorter = staging.begin_replacement(temporary)?;
        for (_, line) in lines {
            let line = [&line[..], b"\n"].concat();
            let written = shorter.write_all(&line);
            written.map_err(|error| failure(&path, error))?;
        }
        shorter.finish(None, root, &path)?;
    }
    Ok(())
}

/// Removes from the end of the history of `target` what is torn, and a swap that did not happen. To
/// do so twice changes nothing.
pub(super) fn take_back(root: &Dir, target: &Target, shown: &Shown) -> Result<(), Failure> {
    let path = path(target);
    if let Some(file) = root.file_to_append(&path)? {
        cut(&file, &path, || Ok(shown.clone()))?;
    }
    Ok(())
}

/// Whether [`take_back`] has nothing to do.
pub(super) fn is_settled(root: &Dir, target: &Target, shown: &Shown) -> Result<bool, Failure> {
    let path = path(target);
    let Some(file) = root.file(&path)? else {
        return Ok(true);
    };
    let (length, end) = settle(&file, &path, || Ok(shown.clone()))?;
    Ok(length == end)
}

/// As [`take_back`]; returns how long the file is then.
fn cut(
    file: &File,
    path: &str,
    shown: impl FnOnce() -> Result<Shown, Failure>,
) -> Result<u64, Failure> {
    let (length, end) = settle(file, path, shown)?;
    if end < length {
        file.set_len(end).map_err(|error| failure(path, error))?;
    }
    Ok(end)
}

/// How long a history is, and how long it is to be.
fn settle(
    file: &File,
    path: &str,
    shown: impl FnOnce() -> Result<Shown, Failure>,
) -> Result<(u64, u64), Failure> {
    let mut lines = Backwards::new(file).map_err(|error| failure(path, error))?;
    let (length, mut end) = (lines.length, lines.end());
    let mut next = || {
        let next = lines.next().transpose();
        next.map_err(|error| failure(path, error))
    };
    while let Some((start, line)) = next()? {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_err() {
            end = start;
            continue;
        }
        let Some(last) = Happened::parse(&line).filter(|last| last.event != Event::Removed) else {
            break;
        };
        let shown = shown()?;
        if last.event == Event::Adopted {
            // The line of its swap is missing.
            end = if shown == Shown::Plain { start } else { end };
            break;
        }
        let has_happened = match &last.to {
            Some(to) => shown.generation() == Some(to),
            None => shown == Shown::Nothing,
        };
        if has_happened {
            break;
        }
        let before = next()?.and_then(|(start, line)| Some((start, Happened::parse(&line)?)));
        // A folder that was to become a generation, and to change places with the pointer.
        let adopted = before.filter(|(_, before)| {
            let is_own = before.event == Event::Adopted && before.claim == last.claim;
            is_own && before.to == last.from
        });
        match (shown, last.from, adopted) {
            (Shown::Plain, Some(_), Some((start, _))) => end = start,
            (Shown::Generation(shown), Some(from), _) if shown == from => end = start,
            (Shown::Nothing, None, _) => end = start,
            // Somebody has changed the pointer by hand.
            _ => {}
        }
        break;
    }
    Ok((length, end))
}

/// Where the history of `target` is in the tree.
fn path(target: &Target) -> String {
    format!("{FOLDER}/{}/{}", target.folder(), file_name(target))
}

fn file_name(target: &Target) -> String {
    format!("{}.jsonl", target.purpose())
}

fn failure(path: &str, error: io::Error) -> Failure {
    Failure::new("reading or writing", path, error)
}

/// The lines of a file from the end on, each with the place where it starts. What comes after the last
/// line's end is left out.
#[derive(Debug)]
struct Backwards<F> {
    file: F,
    length: u64,
    /// Where `buffer` begins.
    start: u64,
    /// Ends with the end of a line.
    buffer: Vec<u8>,
}

impl<F: Borrow<File>> Backwards<F> {
    fn new(file: F) -> io::Result<Self> {
        let length = file.borrow().stat()?.size;
        let mut lines = Self {
            file,
            length,
            start: length,
            buffer: Vec::new(),
        };
        loop {
            if let Some(at) = lines.buffer.iter().rposition(|byte| *byte == b'\n') {
                lines.buffer.truncate(at + 1);
                return Ok(lines);
            }
            lines.buffer.clear();
            if !lines.read_more()? {
                return Ok(lines);
            }
        }
    }

    /// Where the last line ends that was not taken out yet.
    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Returns whether there was more.
    fn read_more(&mut self) -> io::Result<bool> {
        if self.start == 0 || self.buffer.len() > MAX_LINE {
            return Ok(false);
        }
        let start = self.start.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(self.start - start).expect("a block")];
        self.file.borrow().read_exact_at(&mut block, start)?;
        block.append(&mut self.buffer);
        (self.start, self.buffer) = (start, block);
        Ok(true)
    }
}

impl<F: Borrow<File>> Iterator for Backwards<F> {
    type Item = io::Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let [others @ .., _] = &*self.buffer else {
                return match self.read_more() {
                    Ok(true) => continue,
                    Ok(false) => None,
                    Err(error) => Some(Err(error)),
                };
            };
            let before = others.iter().rposition(|byte| *byte == b'\n');
            if before.is_none() {
                match self.read_more() {
                    Ok(true) => continue,
                    Ok(false) if self.start > 0 => return None,
                    Ok(false) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            let at = before.map_or(0, |before| before + 1);
            let mut line = self.buffer.split_off(at);
            line.pop();
            return Some(Ok((self.start + at as u64, line)));
        }
    }
}
