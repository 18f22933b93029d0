//! What happened to a target: `.history/<target>.jsonl` in the tree, one line for each thing.
//!
//! A line about a swap is durable before the swap is made. So after a crash the last line can tell of
//! a swap that never came: the pointer shows that, and [`settle`] takes the line back. Lines outlive
//! what they tell of.

use std::borrow::Borrow;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::folder::{self, Shown};
use super::record::{Head, Origin};
use crate::sys::{BootTime, Dir, Failure, FileExt as _, Importer, failpoint};
use crate::words::{ClaimId, Digest, GenerationName, Moment, Target, Verdict, Vouched};

/// The folder of histories in the tree. No target's name begins with a dot.
pub(super) const FOLDER: &str = ".history";

/// What the name of a history ends with.
pub(super) const ENDING: &str = ".jsonl";

/// So many lines are kept, and a few more until they have become [`SLACK`].
const MAX_LINES: usize = 1_000;

/// Whenever a file has grown by so many bytes its lines are counted.
const SLACK: u64 = 64 << 10;

/// Bytes that are read at a time, from the end on.
const BLOCK: u64 = 4 << 10;

/// A longer line, in bytes, is none of the daemon's.
const MAX_LINE: usize = 64 << 10;

/// `,"serial":` and the largest there is.
const ROOM_FOR_SERIAL: usize = 30;

/// One line: something that happened to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happened {
    /// Of a swap: the time of the swap.
    pub at: Moment,
    /// As `BootTime::boot`.
    pub boot: String,
    /// As `BootTime::since`, in microseconds.
    pub boottime: u64,
    pub(crate) event: Event,
    /// What was current before; of `Event::Removed`, what was removed. Missing where that is nothing,
    /// or was a folder that somebody else had made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<GenerationName>,
    /// What is current now; of `Event::Adopted`, what the folder became. Missing where that is
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<GenerationName>,
    /// The image of `to`, or, where that is missing, of `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Summary>,
    /// The drop that made it happen, as are the two that follow. Missing when no drop did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) importer: Option<Importer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claim: Option<ClaimId>,
    #[serde(default, skip_serializing_if = "Answer::is_empty")]
    pub(crate) vouched: Answer,
    /// The highest serial that was accepted for the target until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<u64>,
}

/// Who answers for what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    #[serde(flatten)]
    by: Vouched,
    /// Of a rollback and of a withdrawal that somebody has signed whom a rule knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<SignedOrder>,
}

impl Answer {
    fn is_empty(&self) -> bool {
        self.by.is_empty() && self.order.is_none()
    }
}

impl From<Vouched> for Answer {
    fn from(by: Vouched) -> Self {
        Self { by, order: None }
    }
}

impl Deref for Answer {
    type Target = Vouched;

    fn deref(&self) -> &Vouched {
        &self.by
    }
}

/// An order's manifest, to the byte, and the signature of that. No generation keeps them: they outlive
/// what the order was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignedOrder {
    pub manifest: String,
    pub signature: String,
}

impl SignedOrder {
    /// Of what is a text, as a manifest and its signature are.
    pub(super) fn new(signed: [Vec<u8>; 2]) -> Option<Self> {
        let [manifest, signature] = signed.map(|bytes| String::from_utf8(bytes).ok());
        Some(Self {
            manifest: manifest?,
            signature: signature?,
        })
    }
}

/// An image in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub digest: Digest,
    pub files: usize,
    /// All files' bytes together.
    pub bytes: u64,
    /// Of `Event::Promoted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Elsewhere>,
}

/// The other place of an image that was promoted: the histories of both tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Elsewhere {
    From(Place),
    To(Place),
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(place) => write!(f, "from {}", place.target),
            Self::To(place) => write!(f, "to {}", place.target),
        }
    }
}

/// A generation, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub target: Target,
    /// Missing where the image was not there, and came with the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationName>,
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
    /// What was current at another target became current; or, in the history of that one, what is current
    /// became so elsewhere.
    Promoted,
    /// A folder that somebody else had made became a generation, right before another took its place.
    Adopted,
    /// Retention no longer kept a generation, or a drop has asked for its removal.
    Removed,
}

impl Event {
    /// What has become of the drop that made it happen.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Published | Self::Adopted => Verdict::Published,
            Self::RolledBack => Verdict::RolledBack,
            Self::Withdrawn | Self::Removed => Verdict::Withdrawn,
            Self::Promoted => Verdict::Promoted,
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
            vouched: Answer::default(),
            serial: None,
        }
    }

    /// The same, of the image of this record.
    pub(super) fn of_image(mut self, head: &Head) -> Self {
        self.serial = self.serial.max(head.serial);
        self.image = Some(Summary {
            digest: head.digest,
            files: head.file_count,
            bytes: head.bytes,
            promoted: head
                .promoted()
                .filter(|_| self.event == Event::Promoted)
                .map(|it| {
                    Elsewhere::From(Place {
                        target: it.from.clone(),
                        generation: it.generation.clone(),
                    })
                }),
        });
        self
    }

    /// The same, by this drop.
    pub(super) fn by(mut self, origin: &Origin) -> Self {
        self.drop = Some(origin.drop.clone());
        self.importer = Some(origin.importer.clone());
        self.claim = Some(origin.claim);
        self.vouched.by.clone_from(&origin.vouched);
        if let Some(promoted) = &origin.promoted {
            // Of the order: the origin tells of the image.
            self.vouched.by.signer.clone_from(&promoted.signer);
        }
        self
    }

    /// The same, by this order, unless the line would be too long to be read again.
    pub(super) fn ordered(mut self, order: &SignedOrder) -> Self {
        self.vouched.order = Some(order.clone());
        // The serial may be longer in the end, which is another line's.
        if self.to_line().len() + ROOM_FOR_SERIAL > MAX_LINE {
            self.vouched.order = None;
        }
        self
    }

    /// That a folder became the generation of this record, in order that this could happen.
    pub(super) fn of_adoption(self, head: &Head) -> Self {
        let by = self.vouched.by;
        let adoption = Self {
            event: Event::Adopted,
            from: None,
            to: Some(head.generation.clone()),
            vouched: by.into(),
            ..self
        };
        adoption.of_image(head)
    }

    /// What the history of the other target tells of a promotion to `target`, with that one; `None` of
    /// anything else, and of an image that was not there.
    pub(super) fn at_source(&self, target: &Target) -> Option<(Target, Self)> {
        let image = self.image.clone()?;
        let Some(Elsewhere::From(source)) = image.promoted else {
            return None;
        };
        // Nothing was there of what the order has carried.
        let generation = source.generation?;
        let to = Place {
            target: target.clone(),
            generation: Some(self.to.clone()?),
        };
        let note = Self {
            from: None,
            to: Some(generation),
            image: Some(Summary {
                promoted: Some(Elsewhere::To(to)),
                ..image
            }),
            // That is one of `target`.
            serial: None,
            ..self.clone()
        };
        Some((source.target, note))
    }

    /// The other place, of a promotion.
    pub(crate) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.image.as_ref()?.promoted.as_ref()
    }

    /// Whether it is about a promotion to somewhere else: nothing has happened here.
    fn is_note(&self) -> bool {
        matches!(self.elsewhere(), Some(Elsewhere::To(_)))
    }

    /// Whether another generation, or none, became current.
    pub(crate) fn is_swap(&self) -> bool {
        !matches!(self.event, Event::Adopted | Event::Removed) && !self.is_note()
    }

    /// The generation that is removed, if that is what happens.
    pub(super) fn removed(self) -> Option<GenerationName> {
        self.from.filter(|_| self.event == Event::Removed)
    }

    /// When it happened, by the clock of the boot.
    pub(super) fn boot_time(&self) -> BootTime {
        BootTime {
            boot: self.boot.clone(),
            since: Duration::from_micros(self.boottime),
        }
    }

    /// With the end of the line.
    pub fn to_line(&self) -> String {
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

/// What the history of a target says that counts for the next change.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The highest serial that was accepted.
    pub(crate) serial: Option<u64>,
    pub(super) last_swap: Option<Happened>,
}

impl Past {
    /// By whom something was made current last, or what was current was withdrawn.
    pub(crate) fn last_by(&self) -> Option<&Vouched> {
        self.last_swap.as_ref().map(|last| &*last.vouched)
    }
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

impl History {
    /// What tells what may come next.
    pub(super) fn past(mut self) -> Result<Past, Failure> {
        let newest = self.next().transpose()?;
        let serial = newest.as_ref().and_then(|line| line.serial);
        let is_it = |line: &Result<Happened, _>| line.as_ref().map_or(true, Happened::is_swap);
        let mut lines = newest.map(Ok).into_iter().chain(self);
        let last_swap = lines.find(is_it).transpose()?;
        Ok(Past { serial, last_swap })
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

/// Writes lines at the end of the history of `target`, where this is `shown`. `staging` is a folder in
/// which the file `temporary` may be made. A sync makes the lines durable.
///
/// # Errors
/// Some of the lines may be there then: [`take_back`] removes them.
pub(super) fn append(
    root: &Dir,
    (target, shown): (&Target, impl FnOnce() -> Result<Shown, Failure>),
    lines: &[Happened],
    (staging, temporary): (&Dir, &str),
) -> Result<(), Failure> {
    let path = path(target);
    failpoint("history", "writing", &path)?;
    let text = |carried: Option<u64>| -> String {
        let with_serial = |line: &Happened| Happened {
            serial: line.serial.max(carried),
            ..line.clone()
        };
        lines
            .iter()
            .map(|line| with_serial(line).to_line())
            .collect()
    };
    let Some(mut file) = root.file_to_append(&path)? else {
        let folder = folder::make(root, &format!("{FOLDER}/{}", target.folder()))?;
        return folder.write_new(file_name(target), text(None).as_bytes());
    };
    let length = cut(&file, &path, shown)?;
    let newest = Backwards::new(&file).and_then(|mut lines| lines.next().transpose());
    let newest = newest.map_err(|error| failure(&path, error))?;
    let carried = newest.and_then(|(_, line)| Happened::parse(&line)?.serial);
    let text = text(carried);
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
        // The swap before it may not have reached the disk with it.
        if last.is_note() {
            continue;
        }
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
    format!("{}{ENDING}", target.purpose())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(second: u32) -> GenerationName {
        let at = Moment::from_stat(1_795_364_100 + i64::from(second), 0);
        GenerationName::new(at, &Digest::of(b"abc"), |_| false)
    }

    fn line(event: Event, from: Option<u32>, to: Option<u32>) -> Happened {
        let [from, to] = [from, to].map(|it| it.map(name));
        Happened {
            claim: Some(ClaimId::new(1, 2)),
            ..Happened::now(event, from.as_ref(), to.as_ref())
        }
    }

    fn target() -> Target {
        "amd64/generic/noble/install".parse().unwrap()
    }

    /// A tree in which the target's name stands for this, with its history.
    struct World {
        dir: tempfile::TempDir,
        root: Dir,
        folder: Dir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Dir::open(dir.path()).unwrap();
            let folder = folder::make(&root, &target().folder()).unwrap();
            Self { dir, root, folder }
        }

        fn show(&self, generation: u32) {
            let pointer = folder::pointer(&target(), &name(generation));
            self.folder.remove_file("install").unwrap();
            self.folder.make_link("install", pointer).unwrap();
        }

        fn append(&self, lines: &[Happened]) {
            let target = target();
            let place = (&target, || Shown::look(&self.folder, &target));
            append(&self.root, place, lines, (&self.root, "temporary")).unwrap();
        }

        fn file(&self) -> std::path::PathBuf {
            self.dir.path().join(path(&target()))
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.file()).unwrap()
        }

        fn lines(&self) -> Vec<Happened> {
            let history = History::open(&self.root, &target()).unwrap().unwrap();
            history.map(Result::unwrap).collect()
        }

        /// Asserts that so many of the lines that were there stay, whatever is torn after them; and
        /// that to do it once more changes nothing.
        fn assert_settles(&self, expected: usize) {
            let all = self.text();
            let kept: String = all.split_inclusive('\n').take(expected).collect();
            let shown = Shown::look(&self.folder, &target()).unwrap();
            let is_settled = || is_settled(&self.root, &target(), &shown).unwrap();
            assert_eq!(is_settled(), all == kept, "{all}");
            for _ in 0..2 {
                take_back(&self.root, &target(), &shown).unwrap();
                assert_eq!(self.text(), kept, "{all}");
                assert!(is_settled());
            }
        }
    }

    /// Histories stay in trees for years, and are read by others: a change of this text is a new
    /// format.
    #[test]
    fn the_format_is_pinned() {
        let at = Moment::from_stat(1_795_364_100, 250_000_000);
        let line = Happened {
            at,
            boot: "0d5e1c6b-7a35-4b2e-9c55-3c2f5a3f1e77".into(),
            boottime: 1_234_567_890,
            event: Event::RolledBack,
            from: Some(name(1)),
            to: Some(name(0)),
            image: Some(Summary {
                digest: Digest::of(b"abc"),
                files: 2,
                bytes: 70,
                promoted: None,
            }),
            drop: Some("noble-1".into()),
            importer: Some(Importer {
                uid: 1000,
                name: "ci".into(),
            }),
            claim: Some(ClaimId::new(12, 0x9f3c)),
            vouched: Answer {
                by: Vouched {
                    rule: Some("image-team".into()),
                    signer: Some("SHA256:x".into()),
                },
                order: Some(SignedOrder {
                    manifest: "format = 1\n".into(),
                    signature: "-----BEGIN\n".into(),
                }),
            },
            serial: Some(12),
        };
        let pinned = "{\"at\":\"2026-11-22T16:15:00.250000Z\",\
            \"boot\":\"0d5e1c6b-7a35-4b2e-9c55-3c2f5a3f1e77\",\"boottime\":1234567890,\
            \"event\":\"rolled-back\",\"from\":\"20261122T161501Z-ba7816bf8f01\",\
            \"to\":\"20261122T161500Z-ba7816bf8f01\",\"image\":{\"digest\":\
            \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\",\"files\":2,\
            \"bytes\":70},\"drop\":\"noble-1\",\"importer\":{\"uid\":1000,\"name\":\"ci\"},\
            \"claim\":\"12-0000000000009f3c\",\
            \"vouched\":{\"rule\":\"image-team\",\"signer\":\"SHA256:x\",\"order\":\
            {\"manifest\":\"format = 1\\n\",\"signature\":\"-----BEGIN\\n\"}},\"serial\":12}\n";
        assert_eq!(line.to_line(), pinned);
        assert_eq!(Happened::parse(pinned.as_bytes()), Some(line.clone()));
        let removed = Happened {
            event: Event::Removed,
            to: None,
            image: None,
            drop: None,
            importer: None,
            claim: None,
            vouched: Answer::default(),
            serial: None,
            ..line
        };
        let pinned = "{\"at\":\"2026-11-22T16:15:00.250000Z\",\
            \"boot\":\"0d5e1c6b-7a35-4b2e-9c55-3c2f5a3f1e77\",\"boottime\":1234567890,\
            \"event\":\"removed\",\"from\":\"20261122T161501Z-ba7816bf8f01\"}\n";
        assert_eq!(removed.to_line(), pinned);
        assert_eq!(Happened::parse(pinned.as_bytes()), Some(removed));
        let more = pinned.replace("{\"at", "{\"more\":1,\"at");
        assert_eq!(Happened::parse(more.as_bytes()), None);
    }

    #[test]
    fn the_last_swap_and_the_highest_serial_count_for_the_next_change() {
        let world = World::new();
        let assert_past = |rule: &str| {
            let history = History::open(&world.root, &target()).unwrap().unwrap();
            let past = history.past().unwrap();
            let last_swap = past.last_swap.unwrap();
            let found = (last_swap.vouched.rule.as_deref(), past.serial);
            assert_eq!(found, (Some(rule), Some(7)), "{}", world.text());
        };
        let by = |rule: &str, line: Happened| Happened {
            vouched: Answer::from(Vouched {
                rule: Some(rule.to_string()),
                signer: None,
            }),
            ..line
        };
        let first = by("a", line(Event::Published, None, Some(1)));
        world.append(&[Happened {
            serial: Some(7),
            ..first
        }]);
        world.show(1);
        assert_past("a");
        world.append(&[by("b", line(Event::Published, Some(1), Some(2)))]);
        world.show(2);
        assert_past("b");
        let others = [Event::Removed, Event::Adopted].map(|event| line(event, Some(1), None));
        world.append(&others.map(|line| by("c", line)));
        assert_past("b");
        world.append(&[by("c", promotion(None, 9, true))]);
        assert_past("b");
    }

    #[test]
    fn a_swap_that_the_pointer_does_not_show_is_taken_back() {
        let world = World::new();
        // Nothing was current, and nothing is.
        world.append(&[line(Event::Published, None, Some(1))]);
        world.assert_settles(0);
        world.append(&[line(Event::Published, None, Some(1))]);
        world.show(1);
        world.assert_settles(1);
        for (event, to) in [(Event::Published, Some(2)), (Event::RolledBack, Some(2))] {
            world.append(&[line(event, Some(1), to)]);
            world.assert_settles(1);
        }
        world.append(&[line(Event::Withdrawn, Some(1), None)]);
        world.assert_settles(1);
        world.append(&[line(Event::Withdrawn, Some(1), None)]);
        world.folder.remove_file("install").unwrap();
        world.assert_settles(2);
        // What comes after it is no swap.
        world.append(&[line(Event::Removed, Some(1), None)]);
        world.assert_settles(3);
    }

    /// Such a promotion to here as its drop has made it, or, with `to`, as it is told of at its source.
    fn promotion(from: Option<u32>, to: u32, is_note: bool) -> Happened {
        let place = Place {
            target: "amd64/generic/noble/other".parse().unwrap(),
            generation: Some(name(9)),
        };
        let line = line(Event::Promoted, from, Some(to));
        let image = Summary {
            digest: Digest::of(b"abc"),
            files: 1,
            bytes: 3,
            promoted: Some(if is_note {
                Elsewhere::To(place)
            } else {
                Elsewhere::From(place)
            }),
        };
        Happened {
            image: Some(image),
            ..line
        }
    }

    #[test]
    fn a_promotion_is_told_of_at_both_targets_and_a_swap_at_one() {
        let here = promotion(Some(1), 2, false);
        assert!(here.is_swap());
        let (source, there) = here.at_source(&target()).unwrap();
        assert_eq!(source.to_string(), "amd64/generic/noble/other");
        assert!(!there.is_swap());
        assert_eq!((&there.from, &there.to), (&None, &Some(name(9))));
        assert_eq!((there.event, there.claim), (here.event, here.claim));
        let to = Place {
            target: target(),
            generation: Some(name(2)),
        };
        assert_eq!(there.elsewhere(), Some(&Elsewhere::To(to)));
        assert_eq!(there.at_source(&target()), None);
        assert_eq!(
            line(Event::Published, None, Some(1)).at_source(&target()),
            None
        );
        assert_eq!(there.clone().removed(), None);
        assert_eq!(line(Event::Removed, Some(1), None).removed(), Some(name(1)));
        let stored = there.to_line();
        let pinned = "\"promoted\":{\"to\":{\"target\":\"amd64/generic/noble/install\",\
                      \"generation\":\"20261122T161502Z-ba7816bf8f01\"}}}";
        assert!(stored.contains(pinned), "{stored}");
        assert_eq!(Happened::parse(stored.as_bytes()), Some(there));
    }

    #[test]
    fn what_is_noted_after_a_swap_that_did_not_happen_goes_with_it() {
        let world = World::new();
        world.show(1);
        let swap = |from, to| line(Event::Published, from, Some(to));
        world.append(&[swap(None, 1), promotion(None, 1, true)]);
        world.assert_settles(2);
        // Of one sync the swap itself has not reached the disk.
        world.append(&[
            swap(Some(1), 2),
            promotion(None, 2, true),
            promotion(None, 2, true),
        ]);
        world.assert_settles(2);
        world.append(&[promotion(Some(1), 2, false)]);
        world.assert_settles(2);
        world.append(&[promotion(Some(1), 2, false)]);
        world.show(2);
        world.assert_settles(3);
        // A note says nothing of the pointer.
        world.append(&[promotion(None, 7, true)]);
        world.assert_settles(4);
    }

    #[test]
    fn a_pointer_that_was_changed_by_hand_takes_nothing_back() {
        let world = World::new();
        world.show(7);
        world.append(&[line(Event::Published, Some(1), Some(2))]);
        world.assert_settles(1);
        world.append(&[line(Event::Published, None, Some(2))]);
        world.assert_settles(2);
        world.folder.remove_file("install").unwrap();
        world.append(&[line(Event::Published, Some(1), Some(2))]);
        world.assert_settles(3);
        world.folder.make_link("install", "elsewhere").unwrap();
        world.append(&[line(Event::Published, None, Some(2))]);
        world.assert_settles(4);
    }

    #[test]
    fn an_adoption_is_taken_back_with_its_swap() {
        let world = World::new();
        let adoption = [
            line(Event::Adopted, None, Some(1)),
            line(Event::Published, Some(1), Some(2)),
        ];
        world.folder.make_dir("install", 0o755).unwrap();
        world.append(&adoption);
        world.assert_settles(0);
        world.append(&adoption[..1]);
        world.assert_settles(0);
        world.append(&adoption);
        world.folder.remove_dir("install").unwrap();
        world.show(2);
        world.assert_settles(2);
        // A folder that was put in the pointer's place by hand.
        world.append(&[line(Event::Published, Some(2), Some(3))]);
        world.folder.remove_file("install").unwrap();
        world.folder.make_dir("install", 0o755).unwrap();
        world.assert_settles(3);
    }

    #[test]
    fn what_is_torn_at_the_end_goes_and_what_a_later_version_wrote_stays() {
        let world = World::new();
        world.show(1);
        world.append(&[line(Event::Published, None, Some(1))]);
        let whole = world.text();
        let of_later = "{\"event\":\"bought\"}\n";
        let long = "x".repeat(3 * usize::try_from(BLOCK).unwrap());
        for (torn, kept) in [
            ("{\"at\":\"20", 1),
            ("\0\0\0", 1),
            (&*long, 1),
            ("\0\0\n", 1),
            ("}\n\0\0\n{", 1),
            (of_later, 2),
            (&*format!("{of_later}{{"), 2),
            (&*whole.replace('\n', ""), 1),
        ] {
            std::fs::write(world.file(), format!("{whole}{torn}")).unwrap();
            assert_eq!(world.lines().len(), 1, "{torn}");
            world.assert_settles(kept);
            std::fs::write(world.file(), format!("{whole}{torn}")).unwrap();
            world.append(&[line(Event::Removed, Some(1), None)]);
            assert_eq!(world.text().lines().count(), kept + 1, "{torn}");
            assert_eq!(world.lines().len(), 2, "{torn}");
        }
        std::fs::write(world.file(), "torn").unwrap();
        world.assert_settles(0);
    }

    #[test]
    fn the_last_thousand_lines_stay() {
        let world = World::new();
        let all: Vec<_> = (1..=3_000)
            .map(|n| line(Event::Removed, Some(n), None))
            .collect();
        for together in all.chunks(7) {
            world.append(together);
        }
        let lines = world.lines();
        let slack = usize::try_from(SLACK).unwrap() / all[0].to_line().len() + 8;
        assert!(
            (MAX_LINES..MAX_LINES + slack).contains(&lines.len()),
            "{}",
            lines.len()
        );
        assert!(lines.iter().eq(all.iter().rev().take(lines.len())));
        assert_eq!(
            world.root.names().unwrap().len(),
            2,
            "nothing is left beside it"
        );
    }

    proptest! {
        #[test]
        fn lines_are_read_backwards_whatever_their_lengths(
            lengths in proptest::collection::vec(0_usize..6_000, 0..12),
            torn in 0_usize..6_000,
        ) {
            let lines: Vec<_> = lengths.iter().map(|length| vec![b'x'; *length]).collect();
            let mut text: Vec<u8> = lines.iter().flat_map(|it| [&it[..], b"\n"].concat()).collect();
            let starts: Vec<_> = lines.iter().scan(0, |at, line| {
                let start = *at;
                *at += line.len() as u64 + 1;
                Some(start)
            }).collect();
            text.extend(vec![b'x'; torn]);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&text).unwrap();
            let read = Backwards::new(&file).unwrap();
            prop_assert_eq!(read.end(), (text.len() - torn) as u64);
            let read = read.collect::<io::Result<Vec<_>>>().unwrap();
            let mut expected: Vec<_> = starts.into_iter().zip(lines).collect();
            expected.reverse();
            prop_assert_eq!(read, expected);
        }
    }
}
