//! `status`: what is published, what waits and what was rejected; read from names, records and
//! outcomes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::terminal::{print_as, text_or};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Outcome, SpoolView, Waiting};
use crate::sys::{Importer, try_map};
use crate::text::{age, quoted, table};
use crate::tree::{Head, Tree};
use crate::words::{Digest, GenerationName, Moment, Target};

/// How many targets one thread reads.
const FEW: usize = 256;

/// Shows the status of every target, or of one.
pub(super) fn show(
    settings: &Settings,
    target: Option<&Target>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (tree, spool) = (&settings.tree.path, &settings.spool.path);
    let status = Status::read(tree, spool, target)?;
    print_as(json, &status, Status::to_text)
}

#[derive(Debug, Serialize)]
struct Status {
    pub targets: Vec<TargetStatus>,
    /// Drops that are complete or still written, and those that were claimed.
    pub waiting: Vec<Waiting>,
    pub rejected: Vec<Outcome>,
    /// Names in `incoming/` that begin with a dot.
    pub drafts: Vec<Draft>,
}

/// What an importer is still writing, or has left behind.
#[derive(Debug, Serialize)]
struct Draft {
    name: String,
    importer: Importer,
    since: Moment,
}

impl From<(String, u32, Moment)> for Draft {
    fn from((name, owner, since): (String, u32, Moment)) -> Self {
        Self {
            name,
            importer: Importer::of(owner),
            since,
        }
    }
}

#[derive(Debug, Serialize)]
struct TargetStatus {
    pub target: Target,
    pub generation: GenerationName,
    /// Missing when the record is damaged.
    #[serde(flatten)]
    pub head: Option<Shown>,
}

/// What is shown of a record.
#[derive(Debug, Serialize)]
struct Shown {
    pub version: Option<String>,
    pub published_at: Moment,
    pub digest: Digest,
    pub files: usize,
    pub bytes: u64,
}

impl Status {
    /// Reads the status of every target, or of one, and of the spool.
    ///
    /// # Errors
    /// When the tree or the spool can't be read. What this user may not see is left out.
    fn read(tree: &Path, spool: &Path, only: Option<&Target>) -> Result<Self, Fault> {
        let tree = Tree::open(tree)?;
        let targets = match only {
            Some(target) => vec![target.clone()],
            None => tree.targets()?,
        };
        let statuses = try_map(targets, FEW, |target| target_status(&tree, target))?;
        let spool = SpoolView::open(spool)?;
        let mut rejected = spool.rejected()?;
        rejected.retain(|outcome| only.is_none() || outcome.target.as_ref() == only);
        Ok(Self {
            targets: statuses.into_iter().flatten().collect(),
            waiting: spool.waiting()?,
            rejected,
            drafts: spool.drafts()?.into_iter().map(Draft::from).collect(),
        })
    }

    /// The text for people.
    fn to_text(&self) -> String {
        let head = ["TARGET", "GENERATION", "VERSION", "AGE", "FILES", "SIZE"];
        let mut rows = vec![head.map(String::from)];
        for status in &self.targets {
            let head = status.head.as_ref();
            let version = head.map(|head| text_or(head.version.as_ref(), "-"));
            rows.push([
                status.target.to_string(),
                status.generation.to_string(),
                text_or(version, "?"),
                text_or(head.map(|head| age(head.published_at)), "?"),
                text_or(head.map(|head| head.files), "?"),
                text_or(head.map(|head| ByteSize(head.bytes)), "?"),
            ]);
        }
        let mut text = table(&rows);
        if !self.waiting.is_empty() {
            let _ = writeln!(text, "\nwaiting: {}", self.waiting.len());
            for waiting in &self.waiting {
                let state = if waiting.is_claimed {
                    "claimed"
                } else {
                    "incoming"
                };
                let age = text_or(waiting.since.map(age), "?");
                let drop = quoted(&waiting.drop);
                let _ = writeln!(text, "  {drop} {state} for {age}");
            }
        }
        if !self.rejected.is_empty() {
            let _ = writeln!(text, "\nrejected: {}", self.rejected.len());
            for outcome in &self.rejected {
                let (drop, by) = (quoted(&outcome.drop), &outcome.importer.name);
                let (reason, age) = (text_or(outcome.reason, ""), age(outcome.finished_at));
                let _ = writeln!(text, "  {drop} of {by} {reason}, {age} ago");
            }
        }
        if !self.drafts.is_empty() {
            let _ = writeln!(text, "\ndrafts: {}", self.drafts.len());
            for draft in &self.drafts {
                let (name, owner) = (quoted(&draft.name), &draft.importer.name);
                let _ = writeln!(
                    text,
                    "  {name} of {owner}, changed {} ago",
                    age(draft.since)
                );
            }
        }
        text
    }
}

/// The status of one target; `None` where nothing is current.
fn target_status(tree: &Tree, target: Target) -> Result<Option<TargetStatus>, Fault> {
    let Some(generation) = tree.pointed(&target)? else {
        return Ok(None);
    };
    let shown = |head: Head| Shown {
        version: head.version,
        published_at: head.published_at,
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    };
    let head = tree.head(&target, &generation)?.map(shown);
    Ok(Some(TargetStatus {
        target,
        generation,
        head,
    }))
}
