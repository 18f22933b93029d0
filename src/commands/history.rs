//! `history`: what happened to a target, read from the records of its generations.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::terminal::{print, print_json};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::text::{age, quoted, table};
use crate::tree::{Event, Record, Tree};
use crate::words::{Digest, GenerationName, Moment, Target};

/// Shows the history of a target.
pub(super) fn show(settings: &Settings, target: &Target, json: bool) -> anyhow::Result<ExitCode> {
    let history = History::read(&settings.tree.path, target)?;
    let Some(history) = history else {
        anyhow::bail!("{target} is not in the tree; expected one that is");
    };
    if json {
        print_json(&history)
    } else {
        print(&history.to_text())
    }
}

/// A target's generations and their events.
#[derive(Debug, Serialize)]
pub(super) struct History {
    pub target: Target,
    /// Those that are kept, the oldest first.
    pub generations: Vec<Kept>,
    /// What happened to them, the oldest first.
    pub events: Vec<Happening>,
}

/// A generation that is kept.
#[derive(Debug, Serialize)]
pub(super) struct Kept {
    pub generation: GenerationName,
    pub is_current: bool,
    /// When it stopped being current.
    pub superseded_at: Option<Moment>,
    /// Missing when the record is damaged, as is all that follows.
    pub digest: Option<Digest>,
    pub version: Option<String>,
    pub published_at: Option<Moment>,
    pub files: Option<usize>,
    pub bytes: Option<u64>,
}

/// Something that happened to a generation.
#[derive(Debug, Serialize)]
pub(super) struct Happening {
    pub generation: GenerationName,
    #[serde(flatten)]
    pub event: Event,
}

impl History {
    /// Reads the history of `target`; `None` when the tree knows nothing of it.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub(super) fn read(tree: &Path, target: &Target) -> Result<Option<Self>, Fault> {
        let tree = Tree::open(tree)?;
        let Some(names) = tree.names(target)? else {
            return Ok(None);
        };
        let current = tree.pointed(target)?;
        let mut generations = Vec::new();
        let mut events = Vec::new();
        for name in names {
            let is_current = Some(&name) == current.as_ref();
            let retired_at = tree.retired_at(target, &name)?;
            let generation = tree.generation(target, name.clone())?;
            let record = generation.and_then(|generation| generation.record);
            let of = |record: &Record| {
                let events = record.history.iter().cloned();
                events
                    .map(|event| Happening {
                        generation: name.clone(),
                        event,
                    })
                    .collect::<Vec<_>>()
            };
            events.extend(record.iter().flat_map(of));
            let head = record.map(|record| record.head);
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

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let head = ["", "GENERATION", "VERSION", "SUPERSEDED", "FILES", "SIZE"];
        let mut rows = vec![head.map(String::from)];
        for kept in &self.generations {
            let unknown = || "?".to_string();
            rows.push([
                if kept.is_current { "*" } else { "" }.to_string(),
                kept.generation.to_string(),
                kept.version.clone().unwrap_or_else(|| "-".to_string()),
                kept.superseded_at
                    .map_or_else(|| "-".to_string(), |at| format!("{} ago", age(at))),
                kept.files.map_or_else(unknown, |files| files.to_string()),
                kept.bytes
                    .map_or_else(unknown, |bytes| ByteSize(bytes).to_string()),
            ]);
        }
        let mut text = format!("{}\n", table(&rows));
        let mut rows = Vec::new();
        for Happening { generation, event } in &self.events {
            let mut by = String::new();
            if let Some(importer) = &event.importer {
                let _ = write!(by, "by {}", importer.name);
            }
            if let Some(drop) = &event.drop {
                let _ = write!(by, ", drop {}", quoted(drop));
            }
            rows.push([
                event.at.to_seconds(),
                event.what.to_string(),
                generation.to_string(),
                by,
            ]);
        }
        text.push_str(&table(&rows));
        text
    }
}
