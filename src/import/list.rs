//! `list`: the sources, and what each has brought.

use std::process::ExitCode;

use serde::Serialize;

use super::dropped::{Became, Dropped, Last};
use super::world::World;
use crate::commands::{print_as, width};
use crate::sources::Kind;
use crate::sys::Dir;
use crate::text::{short, table};
use crate::words::{Moment, Reason};

/// One target of a source, or a source that has brought nothing yet.
#[derive(Serialize)]
struct Line {
    source: String,
    /// What is wrong with the source's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Moment>,
    /// The drop that has no outcome yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
    /// Why the last drop was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<Reason>,
}

/// Shows all sources.
pub(super) fn list(world: &World) -> anyhow::Result<ExitCode> {
    let (mut lines, spool) = (Vec::new(), &world.settings.spool.path);
    for (name, source) in world.sources(&[])? {
        let (kind, url, error) = match source {
            Ok(source) => (Some(word(&source.kind)), Some(source.url.to_string()), None),
            Err(error) => (None, None, Some(format!("{error:#}"))),
        };
        let folder = Dir::open(&world.state.join(&name)).ok();
        let brought = folder.and_then(|folder| Dropped::read(&folder).ok());
        let targets = brought.unwrap_or_default().targets;
        let line = |target, last: Option<Last>| {
            let became = last.as_ref().map(|last| last.became(spool));
            let outcome = match became {
                Some(Ok(Some(Became::Outcome(outcome)))) => Some(outcome),
                _ => None,
            };
            let waits = last.as_ref().and_then(|last| last.waits.clone());
            Line {
                source: name.clone(),
                error: error.clone(),
                kind,
                url: url.clone(),
                target,
                version: last.as_ref().and_then(|last| last.version.clone()),
                at: last.map(|last| last.at),
                waits: waits.filter(|_| outcome.is_none()),
                rejected: outcome.and_then(|outcome| outcome.reason),
            }
        };
        if targets.is_empty() {
            lines.push(line(None, None));
        }
        let targets = targets.into_iter();
        lines.extend(targets.map(|(target, last)| line(Some(target.to_string()), Some(last))));
    }
    print_as(world.shown.is_json(), &lines, |lines| shown(lines))
}

/// A kind, as the source's file has it.
fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::DebianInstaller(_) => "debian-installer",
        Kind::Simplestreams(_) => "simplestreams",
        Kind::Checksums(_) => "checksums",
        Kind::Treeinfo(_) => "treeinfo",
        Kind::Oci(_) => "oci",
    }
}

fn shown(lines: &[Line]) -> String {
    let head = ["SOURCE", "KIND", "TARGET", "VERSION", "BROUGHT", "URL"].map(str::to_string);
    let mut rows = vec![head];
    rows.extend(lines.iter().map(|line| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_string());
        let came = match line {
            Line { error: Some(_), .. } => "its file is bad".to_string(),
            Line {
                waits: Some(drop), ..
            } => format!("{drop} waits"),
            Line {
                rejected: Some(reason),
                ..
            } => format!("rejected {reason}"),
            Line { at: Some(at), .. } => format!("{} ago", short(at.age())),
            _ => "nothing yet".to_string(),
        };
        [
            line.source.clone(),
            line.kind.unwrap_or("-").to_string(),
            text(&line.target),
            text(&line.version),
            came,
            text(&line.url),
        ]
    }));
    let errors: Vec<_> = lines
        .iter()
        .filter_map(|line| line.error.as_deref())
        .collect();
    let errors = errors.join("\n");
    let errors = if errors.is_empty() {
        errors
    } else {
        format!("\n{errors}\n")
    };
    table(&rows, width(), [6, 4, 12, 7, 7, 10]) + &errors
}
