//! `history`: what happened to a target, and which generations of it are kept.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use serde::Serialize;

use super::status::{plain, vouched_cells, with_head};
use super::terminal::{print_as, text_or, width};
use crate::fault::Fault;
use crate::settings::Settings;
use crate::text::short;
use crate::tree::{Happened, Tree};
use crate::words::{Digest, GenerationName, Moment, Target};

/// On a terminal of fewer columns nobody could read who has signed.
const WIDE: usize = 120;

/// So many lines are shown; a few older ones may be there still.
const MAX_SHOWN: usize = 1_000;

/// Shows the history of a target.
pub(super) fn show(settings: &Settings, target: &Target, json: bool) -> anyhow::Result<ExitCode> {
    let history = History::read(&settings.tree.path, target)?;
    let history = history.with_context(|| format!("no such target: {target}"))?;
    print_as(json, &history, |history| history.to_text(width()))
}

/// A target's generations, and what happened to it.
#[derive(Debug, Serialize)]
struct History {
    pub target: Target,
    /// The generations that are kept, the oldest first.
    pub generations: Vec<Kept>,
    /// The lines of the history, the oldest first.
    pub events: Vec<Happened>,
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

impl History {
    /// Reads the history of `target`; `None` when the tree knows nothing of it.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn read(tree: &Path, target: &Target) -> Result<Option<Self>, Fault> {
        let tree = Tree::open(tree)?;
        let (names, lines) = (tree.names(target)?, tree.history(target)?);
        if names.is_none() && lines.is_none() {
            return Ok(None);
        }
        let lines = lines.into_iter().flatten().take(MAX_SHOWN);
        let mut events = lines.collect::<Result<Vec<_>, _>>()?;
        events.reverse();
        let current = tree.pointed(target)?;
        let mut generations = Vec::new();
        for name in names.unwrap_or_default() {
            let is_current = Some(&name) == current.as_ref();
            let replaced =
                |event: &&Happened| event.is_swap() && event.from.as_ref() == Some(&name);
            let superseded = events.iter().rfind(replaced).filter(|_| !is_current);
            let head = tree.head(target, &name)?;
            let head = head.as_ref();
            generations.push(Kept {
                is_current,
                superseded_at: superseded.map(|event| event.at),
                digest: head.map(|head| head.digest),
                version: head.and_then(|head| head.version.clone()),
                published_at: head.map(|head| head.published_at),
                files: head.map(|head| head.file_count),
                bytes: head.map(|head| head.bytes),
                generation: name,
            });
        }
        Ok(Some(Self {
            target: target.clone(),
            generations,
            events,
        }))
    }

    /// Whether a generation was current at a time, as far as is known.
    fn was_swapped_in(&self, kept: &Kept) -> bool {
        let is_cut = self.events.len() >= MAX_SHOWN;
        let mut swaps = self.events.iter().filter(|event| event.is_swap());
        is_cut || swaps.any(|event| event.to.as_ref() == Some(&kept.generation))
    }

    /// The text for people.
    fn to_text(&self, width: Option<usize>) -> String {
        let rows = self.generations.iter().map(|kept| {
            let superseded = kept
                .superseded_at
                .map(|at| format!("{} ago", short(at.age())));
            let is_held = !kept.is_current && superseded.is_none() && !self.was_swapped_in(kept);
            let superseded = superseded.or_else(|| is_held.then(|| "not yet in".to_string()));
            [
                if kept.is_current { "*" } else { "" }.to_string(),
                kept.generation.to_string(),
                text_or(kept.version.as_ref(), "-"),
                text_or(superseded, "-"),
                text_or(kept.files, "?"),
                text_or(kept.bytes.map(ByteSize), "?"),
            ]
        });
        let happened = self.happened(width);
        if self.generations.is_empty() {
            return happened;
        }
        let head = ["", "GENERATION", "VERSION", "SUPERSEDED", "FILES", "SIZE"];
        let kept = with_head(head, rows, width, [1, 16, 7, 10, 5, 8]);
        format!("{kept}\n{happened}")
    }

    /// The table of what happened, with rules and signers where there are some.
    fn happened(&self, width: Option<usize>) -> String {
        let rows = self.events.iter().map(|event| {
            let importer = event.importer.as_ref().map(|it| it.name.clone());
            let drop = event.drop.as_ref();
            let drop = drop.map(|it| format!(", drop {}", plain(it)));
            let what = [
                event.at.to_seconds(),
                event.event.to_string(),
                text_or(event.from.as_ref(), "-"),
                text_or(event.to.as_ref(), "-"),
            ];
            let elsewhere = event.elsewhere().map(|it| format!(", {it}"));
            let by = text_or(importer, "") + &text_or(drop, "") + &text_or(elsewhere, "");
            (what, vouched_cells(&event.vouched), by)
        });
        if self.events.iter().all(|event| event.vouched.is_empty()) {
            let rows = rows.map(|([when, what, from, to], _, by)| [when, what, from, to, by]);
            let head = ["WHEN", "WHAT", "FROM", "TO", "BY"];
            return with_head(head, rows, width, [20, 9, 13, 13, 10]);
        }
        if width.is_some_and(|width| width < WIDE) {
            let rows = rows
                .map(|([when, what, from, to], [rule, _], by)| [when, what, from, to, rule, by]);
            let head = ["WHEN", "WHAT", "FROM", "TO", "RULE", "BY"];
            return with_head(head, rows, width, [20, 9, 12, 12, 10, 7]);
        }
        let rows = rows.map(|([when, what, from, to], [rule, signer], by)| {
            [when, what, from, to, rule, signer, by]
        });
        let head = ["WHEN", "WHAT", "FROM", "TO", "RULE", "SIGNER", "BY"];
        with_head(head, rows, width, [20, 9, 16, 16, 10, 16, 10])
    }
}
