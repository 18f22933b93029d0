//! `history`: what happened to a target, read from the records of its generations.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use serde::Serialize;

use super::terminal::{print_as, text_or};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::text::{age, quoted, table};
use crate::tree::{Event, Tree};
use crate::words::{Digest, GenerationName, Moment, Target};

/// Shows the history of a target.
pub(super) fn show(settings: &Settings, target: &Target, json: bool) -> anyhow::Result<ExitCode> {
    let history = History::read(&settings.tree.path, target)?;
    let history =
        history.with_context(|| format!("{target} is not in the tree; expected one that is"))?;
    print_as(json, &history, History::to_text)
}

/// A target's generations and their events.
#[derive(Debug, Serialize)]
struct History {
    pub target: Target,
    /// The generations that are kept, the oldest first.
    pub generations: Vec<Kept>,
    /// What happened to these generations, the oldest first.
    pub events: Vec<Happening>,
}

/// A generation that is kept.
#[derive(Debug, Serialize)]
struct Kept {
    pub generation: GenerationName,
    pub is_current: bool,
    /// When the generation stopped being current.
    pub superseded_at: Option<Moment>,
    /// Missing when the record is damaged, as are all fields that follow.
    pub digest: Option<Digest>,
    pub version: Option<String>,
    pub published_at: Option<Moment>,
    pub files: Option<usize>,
    pub bytes: Option<u64>,
}

/// Something that happened to a generation.
#[derive(Debug, Serialize)]
struct Happening {
    pub generation: GenerationName,
    #[serde(flatten)]
    pub event: Event,
}

impl History {
    /// Reads the history of `target`; `None` when the tree knows nothing of it.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn read(tree: &Path, target: &Target) -> Result<Option<Self>, Fault> {
        let tree = Tree::open(tree)?;
        let Some(names) = tree.names(target)? else {
            return Ok(None);
        };
        let current = tree.pointed(target)?;
        let (mut generations, mut events) = (Vec::new(), Vec::new());
        for name in names {
            let is_current = Some(&name) == current.as_ref();
            let retired_at = tree.retired_at(target, &name)?;
            let generation = tree.generation(target, name.clone())?;
            let record = generation.and_then(|generation| generation.record);
            let (head, history) = record.map(|it| (it.head, it.history)).unzip();
            events.extend(history.into_iter().flatten().map(|event| Happening {
                generation: name.clone(),
                event,
            }));
            let head = head.as_ref();
            generations.push(Kept {
                is_current,
                superseded_at: retired_at.filter(|_| !is_current),
                digest: head.map(|head| head.digest),
                version: head.and_then(|head| head.version.clone()),
                published_at: head.map(|head| head.published_at),
                files: head.map(|head| head.file_count),
                bytes: head.map(|head| head.bytes),
                generation: name,
            });
        }
        events.sort_by_key(|happening| happening.event.at);
        Ok(Some(Self {
            target: target.clone(),
            generations,
            events,
        }))
    }

    /// The text for people.
    fn to_text(&self) -> String {
        let head = ["", "GENERATION", "VERSION", "SUPERSEDED", "FILES", "SIZE"];
        let mut rows = vec![head.map(String::from)];
        for kept in &self.generations {
            let superseded = kept.superseded_at.map(|at| format!("{} ago", age(at)));
            rows.push([
                if kept.is_current { "*" } else { "" }.to_string(),
                kept.generation.to_string(),
                text_or(kept.version.as_ref(), "-"),
                text_or(superseded, "-"),
                text_or(kept.files, "?"),
                text_or(kept.bytes.map(ByteSize), "?"),
            ]);
        }
        let happened = self.events.iter().map(|Happening { generation, event }| {
            let by = event.importer.as_ref().map(|it| format!("by {}", it.name));
            let drop = event
                .drop
                .as_ref()
                .map(|it| format!(", drop {}", quoted(it)));
            [
                event.at.to_seconds(),
                event.what.to_string(),
                generation.to_string(),
                text_or(by, "") + &text_or(drop, ""),
            ]
        });
        format!("{}\n{}", table(&rows), table(&happened.collect::<Vec<_>>()))
    }
}
