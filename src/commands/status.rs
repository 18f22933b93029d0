//! `status`: what is published, what waits and what was rejected; read from names, records and
//! outcomes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::terminal::{print, print_json};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Outcome, SpoolView, Waiting};
use crate::sys::try_map;
use crate::text::{age, quoted, table};
use crate::tree::{Head, Tree};
use crate::words::{Digest, GenerationName, Moment, Target};

/// So many targets one thread reads.
const FEW: usize = 256;

/// Shows the status of every target, or of one.
pub(super) fn show(
    settings: &Settings,
    target: Option<&Target>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (tree, spool) = (&settings.tree.path, &settings.spool.path);
    let status = Status::read(tree, spool, target)?;
    if json {
        print_json(&status)
    } else {
        print(&status.to_text())
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub targets: Vec<TargetStatus>,
    /// Drops that are complete or still written, and those that were claimed.
    pub waiting: Vec<Waiting>,
    pub rejected: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
pub(super) struct TargetStatus {
    pub target: Target,
    pub generation: GenerationName,
    /// Missing when the record is damaged.
    #[serde(flatten)]
    pub head: Option<Shown>,
}

/// What is shown of a record.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
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
    pub(super) fn read(tree: &Path, spool: &Path, only: Option<&Target>) -> Result<Self, Fault> {
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
        })
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut rows =
            vec![["TARGET", "GENERATION", "VERSION", "AGE", "FILES", "SIZE"].map(String::from)];
        for TargetStatus {
            target,
            generation,
            head,
        } in &self.targets
        {
            let unknown = || "?".to_string();
            let of = |show: fn(&Shown) -> String| head.as_ref().map_or_else(unknown, show);
            rows.push([
                target.to_string(),
                generation.to_string(),
                of(|head| head.version.clone().unwrap_or_else(|| "-".to_string())),
                of(|head| age(head.published_at)),
                of(|head| head.files.to_string()),
                of(|head| ByteSize(head.bytes).to_string()),
            ]);
        }
        let mut text = table(&rows);
        if !self.waiting.is_empty() {
            let _ = writeln!(text, "\nwaiting: {}", self.waiting.len());
            for Waiting {
                drop,
                is_claimed,
                since,
            } in &self.waiting
            {
                let state = if *is_claimed { "claimed" } else { "incoming" };
                let _ = writeln!(text, "  {} {state} for {}", quoted(drop), age(*since));
            }
        }
        if !self.rejected.is_empty() {
            let _ = writeln!(text, "\nrejected: {}", self.rejected.len());
            for Outcome {
                drop,
                reason,
                finished_at,
                importer,
                ..
            } in &self.rejected
            {
                let reason = reason.map_or(String::new(), |reason| reason.to_string());
                let (drop, age) = (quoted(drop), age(*finished_at));
                let _ = writeln!(text, "  {drop} of {} {reason}, {age} ago", importer.name);
            }
        }
        text
    }
}

/// `None` where nothing is current.
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
