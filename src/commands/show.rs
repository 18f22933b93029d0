//! `show`: all that is known of one drop.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::status::plain;
use super::terminal::{print_as, text_or};
use super::waiting::{DaemonSays, waiting};
use crate::settings::Settings;
use crate::spool::{Manifest, Outcome, SpoolView, Waiting};
use crate::sys::{Failure, try_map};
use crate::text::{quoted, short};
use crate::tree::{Happened, Tree};
use crate::words::{Moment, Target};

/// How many histories one thread reads.
const FEW: usize = 64;

/// So much of a manifest is shown, in lines.
const MAX_LINES: usize = 40;

/// Shows a drop, by its name or the beginning of that.
pub(super) fn show(settings: &Settings, drop: &str, json: bool) -> anyhow::Result<ExitCode> {
    let spool = SpoolView::open(&settings.spool.path)?;
    let mut names = spool.named(drop)?;
    anyhow::ensure!(
        names.len() < 2,
        "{} may be any of {} drops; expected more of its name",
        quoted(drop),
        names.len()
    );
    let name = names.pop().unwrap_or_else(|| drop.to_string());
    let shown = KnownDrop::read(settings, &spool, name)?;
    if shown.is_nothing() {
        let kept = short(settings.spool.keep_outcomes);
        anyhow::bail!(
            "no such drop: {}; outcomes are kept for {kept}",
            plain(drop)
        );
    }
    print_as(json, &shown, KnownDrop::to_text)
}

#[derive(Debug, Serialize)]
struct KnownDrop {
    drop: String,
    daemon: DaemonSays,
    /// Where it is in the spool.
    places: Vec<PathBuf>,
    /// Drops of this name that have no outcome yet: each importer may have one.
    waiting: Vec<Waiting>,
    /// Of the last drop of each importer that had this name.
    outcomes: Vec<Outcome>,
    /// The outcome has gone, and the history still tells of the drop.
    happened: Vec<(Target, Happened)>,
    /// As it stands.
    manifest: Option<String>,
}

impl KnownDrop {
    fn read(settings: &Settings, spool: &SpoolView, drop: String) -> anyhow::Result<Self> {
        let (daemon, mut waiting, _) = waiting(spool, Some(&drop))?;
        let (places, manifest) = spool.places(&drop)?;
        // Nobody has looked into it yet, perhaps because no daemon runs.
        let read = manifest
            .as_deref()
            .and_then(|text| Manifest::parse(text).ok());
        if let [waiting] = &mut *waiting {
            let target = waiting.target.take();
            waiting.target = target.or(read.map(|manifest| manifest.target));
        }
        // What is no name of a file has no outcome either, and some may read none.
        let mut outcomes = spool.outcomes(&drop).unwrap_or_default();
        if outcomes.is_empty() {
            outcomes.extend(spool.kept_outcome(&drop).ok().flatten());
        }
        let happened = if outcomes.is_empty() && waiting.is_empty() && places.is_empty() {
            find_in_histories(settings, &drop)?
        } else {
            Vec::new()
        };
        Ok(Self {
            drop,
            daemon,
            places,
            waiting,
            outcomes,
            happened,
            manifest,
        })
    }

    /// Whether nothing is known of a drop of this name.
    fn is_nothing(&self) -> bool {
        let is_known = !(self.waiting.is_empty() && self.outcomes.is_empty());
        !is_known && self.places.is_empty() && self.happened.is_empty()
    }

    /// What is said of a drop that has no outcome, or none any more.
    fn without_outcome(&self) -> &'static str {
        let mut places = self.places.iter();
        if places.any(|place| !place.starts_with("rejected")) {
            return "none yet";
        }
        "not kept any more"
    }

    /// The text for people, as `systemctl status` shows a unit.
    fn to_text(&self) -> String {
        let mut text = format!("{}\n", plain(&self.drop));
        let mut line = |name: &str, value: &str| {
            let value = value.trim_end().replace('\n', "\n            ");
            let _ = writeln!(text, "{name:>10}: {value}");
        };
        for place in &self.places {
            line("Place", &plain(&place.to_string_lossy()));
        }
        for waiting in &self.waiting {
            line("Target", &text_or(waiting.target.as_ref(), "not known yet"));
            line("Importer", &waiting.importer.name);
            line("Since", &ago(waiting.since));
            match &*waiting.why {
                "" => line("State", &waiting.state.to_string()),
                why => line("Why", why),
            }
        }
        self.outcomes
            .iter()
            .for_each(|it| tell_of_outcome(it, &mut line));
        if self.outcomes.is_empty() && self.waiting.is_empty() {
            line("Outcome", self.without_outcome());
        }
        for (target, happened) in &self.happened {
            let generation = happened.to.as_ref().or(happened.from.as_ref());
            let generation = text_or(generation, "");
            line("Target", &target.to_string());
            line("History", &format!("{} {generation}", happened.event));
            line("When", &ago(happened.at));
        }
        let is_open = self.outcomes.is_empty() && self.happened.is_empty();
        if let Some(note) = self.daemon.note().filter(|_| is_open) {
            line("Daemon", note);
        }
        if let Some(manifest) = &self.manifest {
            text.push_str("\nmanifest.toml:\n");
            let count = manifest.lines().count();
            for line in manifest.lines().take(MAX_LINES) {
                let _ = writeln!(text, "    {}", line.replace(char::is_control, "\u{fffd}"));
            }
            if count > MAX_LINES {
                let _ = writeln!(text, "    … and {} more lines", count - MAX_LINES);
            }
        }
        text
    }
}

/// What became of a drop.
fn tell_of_outcome(outcome: &Outcome, line: &mut impl FnMut(&str, &str)) {
    let reason = outcome.reason.map(|reason| format!(", {reason}"));
    let verdict = format!("{}{}", outcome.verdict, text_or(reason, ""));
    line("Outcome", &verdict);
    if let Some(detail) = &outcome.detail {
        line("Detail", detail);
    }
    line("Target", &text_or(outcome.target.as_ref(), "not known"));
    if let Some(image) = &outcome.image {
        line("Generation", &text_or(image.generation.as_ref(), "none"));
        line("Digest", &image.digest.to_string());
    }
    line("Importer", &outcome.importer.name);
    line("Received", &ago(outcome.received_at));
    line("Finished", &ago(outcome.finished_at));
}

fn ago(at: Moment) -> String {
    format!("{} ({} ago)", at.to_seconds(), short(at.age()))
}

/// What the histories tell of a drop whose outcome has gone.
fn find_in_histories(settings: &Settings, drop: &str) -> anyhow::Result<Vec<(Target, Happened)>> {
    let tree = Tree::open(&settings.tree.path)?;
    let find = |target: Target| -> Result<_, Failure> {
        for line in tree.history(&target)?.into_iter().flatten() {
            let line = line?;
            if line.drop.as_deref() == Some(drop) {
                return Ok(Some((target, line)));
            }
        }
        Ok(None)
    };
    let found = try_map(tree.targets()?, FEW, find)?;
    Ok(found.into_iter().flatten().collect())
}
