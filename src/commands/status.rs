//! What is published, what waits and what was rejected: read from names, records and outcomes.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use bytesize::ByteSize;
use serde::Serialize;

use crate::fault::Fault;
use crate::spool::{INCOMING, Outcome, PROCESSING, REJECTED, outcome};
use crate::sys::{Dir, Failure, Kind, parallel};
use crate::text::{age, quoted, table};
use crate::tree::{Head, Tree};
use crate::words::{GenerationName, Moment, Target};

/// From this many targets on, several threads read them.
const MANY: usize = 256;

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
    pub digest: crate::words::Digest,
    pub files: usize,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Waiting {
    pub drop: String,
    pub is_claimed: bool,
    pub since: Moment,
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
        let statuses = Mutex::new(Vec::with_capacity(targets.len()));
        parallel::share(targets.len(), targets.len() > MANY, |number| {
            let status = target_status(&tree, &targets[number])?;
            statuses
                .lock()
                .expect("no thread panics here")
                .extend(status);
            Ok::<_, Fault>(())
        })?;
        let mut targets = statuses.into_inner().expect("no thread panics here");
        targets.sort_unstable_by(|a, b| a.target.cmp(&b.target));

        let spool = Dir::open(spool)?;
        let mut waiting = waiting(&spool, PROCESSING)?;
        waiting.extend(self::waiting(&spool, INCOMING)?);
        Ok(Self {
            targets,
            waiting,
            rejected: rejected(&spool, only)?,
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

fn target_status(tree: &Tree, target: &Target) -> Result<Option<TargetStatus>, Fault> {
    let Some(generation) = tree.pointed(target)? else {
        return Ok(None);
    };
    let shown = |head: Head| Shown {
        version: head.version,
        published_at: head.published_at,
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    };
    let head = tree.head(target, &generation)?.map(shown);
    Ok(Some(TargetStatus {
        target: target.clone(),
        generation,
        head,
    }))
}

fn waiting(spool: &Dir, folder: &str) -> Result<Vec<Waiting>, Failure> {
    let Some(dir) = readable(spool, folder)? else {
        return Ok(Vec::new());
    };
    let mut waiting = Vec::new();
    for (name, _) in dir.names()? {
        let drop = name.to_string_lossy().to_string();
        if let Some(stat) = dir.stat(&name)?.filter(|_| !drop.starts_with('.')) {
            waiting.push(Waiting {
                drop,
                is_claimed: folder == PROCESSING,
                since: stat.changed,
            });
        }
    }
    Ok(waiting)
}

fn rejected(spool: &Dir, only: Option<&Target>) -> Result<Vec<Outcome>, Failure> {
    let Some(dir) = readable(spool, REJECTED)? else {
        return Ok(Vec::new());
    };
    let mut rejected = Vec::new();
    for (name, kind) in dir.names()? {
        let is_outcome = kind == Kind::File && name.to_string_lossy().ends_with(".json");
        if let Some(bytes) = if is_outcome {
            dir.read(&name, outcome::MAX_SIZE)?
        } else {
            None
        } {
            rejected.extend(serde_json::from_slice::<Outcome>(&bytes).ok());
        }
    }
    rejected.retain(|outcome| only.is_none() || outcome.target.as_ref() == only);
    rejected.sort_by_key(|outcome| outcome.finished_at);
    Ok(rejected)
}

/// `None` also for a folder that this user may not read.
fn readable(spool: &Dir, folder: &str) -> Result<Option<Dir>, Failure> {
    match spool.dir(folder) {
        Err(failure) if failure.source.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        dir => dir,
    }
}
