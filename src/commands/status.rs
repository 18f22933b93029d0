//! `status`: what is published, what waits and why, and what was rejected; read from names, records and
//! outcomes, and from the daemon, who knows why.

use std::fmt::Write as _;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::terminal::{print_as, text_or, width};
use super::waiting::{DaemonSays, waiting};
use crate::fault::Fault;
use crate::settings::{Settings, TftpSettings};
use crate::spool::{Outcome, SpoolView, Waiting};
use crate::sys::try_map;
use crate::text::{counted, quoted, short, table};
use crate::tree::{Head, Tree};
use crate::words::{Digest, GenerationName, Moment, Note, Target, TargetPattern, Vouched};

/// How many targets one thread reads.
const FEW: usize = 256;

/// So many drafts and rejected drops are shown; the others are counted.
const MAX_SHOWN: usize = 10;

/// Shows the status of every target, or of those that are meant.
pub(super) fn show(
    settings: &Settings,
    only: Option<&TargetPattern>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let most = if json { usize::MAX } else { MAX_SHOWN };
    let status = Status::read(settings, only, most)?;
    if let Some(only) = only {
        let is_empty = status.targets.is_empty() && status.waiting.is_empty();
        let is_unknown = is_empty && status.rejected.is_empty();
        anyhow::ensure!(!is_unknown, "{}", no_such(only));
    }
    print_as(json, &status, |status| status.to_text(width()))
}

/// That there is nothing of a target or of several.
pub(super) fn no_such(pattern: &TargetPattern) -> String {
    match pattern.single() {
        Some(target) => format!("no such target: {target}"),
        None => format!("no target matches {pattern}"),
    }
}

#[derive(Debug, Serialize)]
struct Status {
    daemon: DaemonSays,
    targets: Vec<TargetStatus>,
    /// Drops that have no outcome yet.
    waiting: Vec<Waiting>,
    /// So many more wait that are not for this user to see.
    others_waiting: usize,
    /// The newest first.
    rejected: Vec<Outcome>,
    /// Of those there are so many.
    rejected_count: usize,
    /// What was begun and not handed over, the oldest first.
    drafts: Vec<Waiting>,
    /// What this user may not see.
    unseen: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct TargetStatus {
    target: Target,
    generation: GenerationName,
    /// Missing when the record is damaged.
    #[serde(flatten)]
    head: Option<Shown>,
    /// Of all generations; only where some targets are asked for: each file is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskUse>,
    /// By whom it was made current, and who has signed it, as that counts for the next drop; only
    /// where some targets are asked for: the history is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    vouched: Option<Vouched>,
}

/// Room on the disk, in bytes: of what only one generation has, and of what several share.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct DiskUse {
    own: u64,
    shared: u64,
}

/// What is shown of a record.
#[derive(Debug, Serialize)]
struct Shown {
    version: Option<String>,
    published_at: Moment,
    digest: Digest,
    files: usize,
    bytes: u64,
    /// Of an image that was promoted: the target that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_from: Option<Target>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Note>,
}

impl Status {
    /// Reads the status of every target, or of those that are meant, and of the spool; `most` drops
    /// that were rejected.
    ///
    /// # Errors
    /// When the tree or the spool can't be read. What this user may not see is left out.
    fn read(settings: &Settings, only: Option<&TargetPattern>, most: usize) -> Result<Self, Fault> {
        let tree = Tree::open(&settings.tree.path)?;
        let mut targets = match only.and_then(TargetPattern::single) {
            Some(target) => vec![target],
            None => tree.targets()?,
        };
        targets.retain(|target| only.is_none_or(|only| only.fits(target)));
        let look = |target| target_status((&tree, &settings.tftp), target, only.is_some());
        let statuses = try_map(targets, if only.is_some() { 1 } else { FEW }, look)?;
        let spool = SpoolView::open(&settings.spool.path)?;
        let is_meant = |target: Option<&Target>| {
            only.is_none_or(|only| target.is_some_and(|target| only.fits(target)))
        };
        let is_meant_outcome = |outcome: &Outcome| is_meant(outcome.target.as_ref());
        let (rejected, rejected_count) = match only {
            Some(_) => spool.rejected(most, Some(&is_meant_outcome))?,
            None => spool.rejected(most, None)?,
        };
        let (daemon, mut waiting, others_waiting) = waiting(&spool, None)?;
        waiting.retain(|drop| is_meant(drop.target.as_ref()));
        let drafts = match only {
            Some(_) => Vec::new(),
            None => spool.drafts()?,
        };
        Ok(Self {
            daemon,
            targets: statuses.into_iter().flatten().collect(),
            waiting,
            others_waiting,
            rejected,
            rejected_count,
            drafts,
            unseen: spool.unseen()?,
        })
    }

    /// The text for people.
    fn to_text(&self, width: Option<usize>) -> String {
        let mut text = self.published(width) + &self.vouched(width) + &self.noted(width);
        if !self.waiting.is_empty() {
            let head = ["WAITING", "TARGET", "IMPORTER", "SINCE", "WHY"];
            let rows = self.waiting.iter().map(|drop| {
                [
                    plain(&drop.drop),
                    text_or(drop.target.as_ref(), "-"),
                    drop.importer.name.clone(),
                    short(drop.since.age()),
                    why(drop),
                ]
            });
            text += "\n";
            text += &with_head(head, rows, width, [14, 14, 8, 5, 30]);
        }
        if self.others_waiting > 0 {
            let others = counted(self.others_waiting, "drop");
            let _ = writeln!(text, "\n{others} of other importers on the way");
        }
        if !self.rejected.is_empty() {
            let head = ["REJECTED", "TARGET", "IMPORTER", "AGE", "REASON"];
            let rows = self.rejected.iter().map(|outcome| {
                let detail = outcome.detail.as_deref().unwrap_or_default();
                [
                    plain(&outcome.drop),
                    text_or(outcome.target.as_ref(), "-"),
                    outcome.importer.name.clone(),
                    short(outcome.finished_at.age()),
                    format!("{}: {}", text_or(outcome.reason, ""), first_line(detail)),
                ]
            });
            text += "\n";
            text += &with_head(head, rows, width, [14, 14, 8, 5, 30]);
            text += &more(self.rejected_count - self.rejected.len());
        }
        if !self.drafts.is_empty() {
            let shown = self.drafts.iter().take(MAX_SHOWN);
            let rows = shown.map(|draft| {
                let importer = draft.importer.name.clone();
                [plain(&draft.drop), importer, short(draft.since.age())]
            });
            text += "\n";
            text += &with_head(
                ["NOT HANDED OVER", "IMPORTER", "AGE"],
                rows,
                width,
                [15, 8, 5],
            );
            text += &more(self.drafts.len().saturating_sub(MAX_SHOWN));
        }
        for line in self.rest() {
            let _ = writeln!(text, "\n{line}");
        }
        text
    }

    /// The table of what is published.
    fn published(&self, width: Option<usize>) -> String {
        if self.targets.is_empty() {
            return "nothing is published\n".to_string();
        }
        let rows = self.targets.iter().map(|status| {
            let head = status.head.as_ref();
            let version = head.map(|head| text_or(head.version.as_ref(), "-"));
            [
                status.target.to_string(),
                status.generation.to_string(),
                text_or(version, "?"),
                text_or(head.map(|head| short(head.published_at.age())), "?"),
                text_or(head.map(|head| ByteSize(head.bytes)), "?"),
            ]
        });
        let disk = |used: DiskUse| [used.own, used.shared].map(|bytes| ByteSize(bytes).to_string());
        if self.targets.iter().all(|status| status.disk.is_none()) {
            let head = ["TARGET", "GENERATION", "VERSION", "AGE", "SIZE"];
            return with_head(head, rows, width, [20, 16, 7, 5, 8]);
        }
        let used = self
            .targets
            .iter()
            .map(|status| disk(status.disk.unwrap_or_default()));
        let rows = rows.zip(used).map(|(row, used)| {
            let [target, generation, version, age, size] = row;
            let [own, shared] = used;
            [target, generation, version, age, size, own, shared]
        });
        let head = [
            "TARGET",
            "GENERATION",
            "VERSION",
            "AGE",
            "SIZE",
            "OWN",
            "SHARED",
        ];
        with_head(head, rows, width, [18, 15, 7, 5, 7, 7, 6])
    }

    /// The table of who answers for what is current; nothing where that isn't asked for, or nobody
    /// does.
    fn vouched(&self, width: Option<usize>) -> String {
        let vouched = self.targets.iter().filter_map(|status| {
            let vouched = status.vouched.as_ref().filter(|it| !it.is_empty())?;
            let [rule, signer] = vouched_cells(vouched);
            Some([status.target.to_string(), rule, signer])
        });
        let mut rows = vouched.peekable();
        if rows.peek().is_none() {
            return String::new();
        }
        let table = with_head(["CURRENT", "RULE", "SIGNER"], rows, width, [18, 8, 16]);
        format!("\n{table}")
    }

    /// The table of what is noted of images; nothing where nothing is. It has the notes whole where some
    /// targets are asked for, and their words elsewhere.
    fn noted(&self, width: Option<usize>) -> String {
        let mut rows = Vec::new();
        for status in &self.targets {
            let target = status.target.to_string();
            let notes = status.head.iter().flat_map(|head| &head.notes);
            if status.disk.is_some() {
                rows.extend(notes.map(|note| [target.clone(), note.to_string()]));
                continue;
            }
            let mut words: Vec<_> = notes.map(|note| note.kind.to_string()).collect();
            words.dedup();
            if !words.is_empty() {
                rows.push([target, words.join(", ")]);
            }
        }
        if rows.is_empty() {
            return String::new();
        }
        let table = with_head(["NOTED", "NOTES"], rows.into_iter(), width, [18, 30]);
        format!("\n{table}")
    }

    /// What else there is to say, a line each.
    fn rest(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for status in &self.targets {
            let asked = status.disk.and(status.head.as_ref());
            if let Some(from) = asked.and_then(|head| head.promoted_from.as_ref()) {
                notes.push(format!("{} was promoted from {from}", status.target));
            }
        }
        notes.extend(self.daemon.note().map(String::from));
        if !self.unseen.is_empty() {
            let folders = self.unseen.join(", ");
            notes.push(format!(
                "not for this user to read: {folders}; of drops only its own are shown"
            ));
        }
        notes
    }
}

/// How many of a kind are not shown.
fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("and {count} more; `status --json` has all, `show DROP` tells of one\n"),
    }
}

/// A table with its head.
pub(super) fn with_head<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    width: Option<usize>,
    least: [usize; N],
) -> String {
    let rows: Vec<_> = std::iter::once(head.map(String::from))
        .chain(rows)
        .collect();
    table(&rows, width, least)
}

/// The rule that has let something in, and the key that has signed it, as cells of a table.
pub(super) fn vouched_cells(vouched: &Vouched) -> [String; 2] {
    [&vouched.rule, &vouched.signer].map(|it| text_or(it.as_ref(), "-"))
}

/// A name from outside, as it is where that moves no cursor.
pub(super) fn plain(name: &str) -> String {
    if name.contains(char::is_control) {
        return quoted(name);
    }
    name.to_string()
}

/// The first line of a text, where nothing moves a cursor.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    // As a bad manifest is explained.
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.replace(char::is_control, "\u{fffd}")
}

/// What a drop waits for; where nobody says, where it is.
fn why(drop: &Waiting) -> String {
    match &*drop.why {
        "" => drop.state.to_string(),
        why => first_line(why),
    }
}

/// The status of one target; `None` where nothing is current.
fn target_status(
    (tree, tftp): (&Tree, &TftpSettings),
    target: Target,
    is_meant: bool,
) -> Result<Option<TargetStatus>, Fault> {
    let Some(generation) = tree.pointed(&target)? else {
        return Ok(None);
    };
    let noted = |head: &Head| {
        let no_url = Note::no_url(&head.boot, tftp);
        head.notes().iter().cloned().chain(no_url).collect()
    };
    let shown = |head: Head| Shown {
        notes: noted(&head),
        promoted_from: head.promoted_from().cloned(),
        version: head.version,
        published_at: head.published_at,
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    };
    let head = tree.head(&target, &generation)?.map(shown);
    let disk = is_meant.then(|| tree.disk_use(&target)).transpose()?;
    let disk = disk.map(|(own, shared)| DiskUse { own, shared });
    let vouched = if is_meant {
        tree.current(&target)?.made_by(&tree.past(&target)?)
    } else {
        None
    };
    Ok(Some(TargetStatus {
        target,
        generation,
        head,
        disk,
        vouched,
    }))
}
