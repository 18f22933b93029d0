//! `show`: all that is known of one drop.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::status::plain;
use super::terminal::{boot_lines, print_as, text_or};
use super::waiting::{DaemonSays, waiting};
use crate::settings::Settings;
use crate::spool::{Manifest, Outcome, SpoolView, Waiting};
use crate::sys::{Failure, try_map};
use crate::text::{quoted, short};
use crate::tree::{Happened, Record, Tree};
use crate::words::{Boot, Moment, Target, Verdict, Vouched};

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
    outcomes: Vec<Told>,
    /// The outcome has gone, or isn't for this user, and the history still tells of the drop.
    happened: Vec<(Target, Happened)>,
    /// An outcome of an importer of this drop may be kept that this user may not read.
    #[serde(skip)]
    is_hidden: bool,
    /// As it stands.
    manifest: Option<String>,
}

/// What became of a drop.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    outcome: Outcome,
    /// From where the image was promoted, as long as its generation is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted_from: Option<Target>,
    /// How the image boots, likewise: what its manifest said, and what was found by the usual names.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
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
        let kept = settings.spool.keep_outcomes;
        let is_hidden = happened.iter().any(|(_, it)| {
            let importer = it.importer.as_ref().filter(|_| it.at.age() < kept);
            importer.is_some_and(|importer| spool.hides_outcomes_of(importer.uid))
        });
        Ok(Self {
            drop,
            daemon,
            places,
            waiting,
            outcomes: outcomes
                .into_iter()
                .map(|it| Told::of(it, settings))
                .collect(),
            happened,
            is_hidden,
            manifest,
        })
    }

    /// Whether nothing is known of a drop of this name.
    fn is_nothing(&self) -> bool {
        let is_known = !(self.waiting.is_empty() && self.outcomes.is_empty());
        !is_known && self.places.is_empty() && self.happened.is_empty()
    }

    /// What is said of a drop that has no outcome, or none any more, or one of others.
    fn without_outcome(&self) -> &'static str {
        let mut places = self.places.iter();
        if places.any(|place| !place.starts_with("rejected")) {
            return "none yet";
        }
        if self.is_hidden {
            return "not for this user to read";
        }
        "not kept any more"
    }

    /// The text for people, as `systemctl status` shows a unit.
    fn to_text(&self) -> String {
        let mut lines = Lines {
            text: format!("{}\n", plain(&self.drop)),
            has_begun: false,
        };
        for place in &self.places {
            lines.add("Place", &plain(&place.to_string_lossy()));
        }
        for waiting in &self.waiting {
            lines.begin();
            lines.add("Target", &text_or(waiting.target.as_ref(), "not known yet"));
            lines.add("Importer", &waiting.importer.name);
            lines.add("Since", &ago(waiting.since));
            match &*waiting.why {
                "" => lines.add("State", &waiting.state.to_string()),
                why => lines.add("Why", why),
            }
        }
        for told in &self.outcomes {
            lines.begin();
            lines.add_outcome(told);
        }
        if self.outcomes.is_empty() && self.waiting.is_empty() {
            lines.add("Outcome", self.without_outcome());
        }
        for (target, happened) in &self.happened {
            lines.begin();
            lines.add_happened(target, happened);
        }
        let is_open = self.outcomes.is_empty() && self.happened.is_empty();
        if let Some(note) = self.daemon.note().filter(|_| is_open) {
            lines.add("Daemon", note);
        }
        let mut text = lines.text;
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

impl Told {
    fn of(outcome: Outcome, settings: &Settings) -> Self {
        let record = record_of(&outcome, settings);
        let is_promotion = outcome.verdict == Verdict::Promoted;
        let promoted_from = record.as_ref().and_then(|it| it.head.promoted_from());
        let promoted_from = promoted_from.filter(|_| is_promotion).cloned();
        let boot = record.map(|Record { head, listing }| {
            let files = listing.files.keys();
            head.boot.found(files.map(String::as_str))
        });
        Self {
            outcome,
            promoted_from,
            boot,
        }
    }
}

/// The lines of the text for people.
struct Lines {
    text: String,
    /// Something is told of a drop already.
    has_begun: bool,
}

impl Lines {
    /// What follows is of another drop, or of another target.
    fn begin(&mut self) {
        if self.has_begun {
            self.text.push('\n');
        }
        self.has_begun = true;
    }

    fn add(&mut self, name: &str, value: &str) {
        let value = value.trim_end().replace('\n', "\n            ");
        let _ = writeln!(self.text, "{name:>10}: {value}");
    }

    /// What became of a drop.
    fn add_outcome(&mut self, told: &Told) {
        let outcome = &told.outcome;
        let reason = outcome.reason.map(|reason| format!(", {reason}"));
        let verdict = format!("{}{}", outcome.verdict, text_or(reason, ""));
        self.add("Outcome", &verdict);
        if let Some(detail) = &outcome.detail {
            self.add("Detail", detail);
        }
        self.add("Target", &text_or(outcome.target.as_ref(), "not known"));
        if let Some(image) = &outcome.image {
            self.add("Generation", &text_or(image.generation.as_ref(), "none"));
            self.add("Digest", &image.digest.to_string());
        }
        if let Some(from) = &told.promoted_from {
            self.add("Promoted", &format!("from {from}"));
        }
        self.add("Importer", &outcome.importer.name);
        self.add_vouched(&outcome.vouched);
        self.add("Received", &ago(outcome.received_at));
        self.add("Finished", &ago(outcome.finished_at));
        let notes: Vec<_> = outcome.notes().iter().map(ToString::to_string).collect();
        if !notes.is_empty() {
            self.add("Notes", &notes.join("\n"));
        }
        if let Some(boot) = &told.boot {
            let mut lines = boot_lines(boot);
            if boot.paths().next().is_none() {
                lines.push("nothing: no file has the usual name of a kernel".to_string());
            }
            self.add("Boot", &lines.join("\n"));
        }
    }

    /// What the history of a target tells of a drop.
    fn add_happened(&mut self, target: &Target, happened: &Happened) {
        let generation = happened.to.as_ref().or(happened.from.as_ref());
        let generation = text_or(generation, "");
        self.add("Target", &target.to_string());
        let elsewhere = happened.elsewhere().map(|it| format!(" {it}"));
        let event = happened.event.to_string() + &text_or(elsewhere, "");
        self.add("History", &format!("{event} {generation}"));
        if let Some(importer) = &happened.importer {
            self.add("Importer", &importer.name);
        }
        self.add_vouched(&happened.vouched);
        self.add("When", &ago(happened.at));
    }

    fn add_vouched(&mut self, vouched: &Vouched) {
        for (name, value) in [("Rule", &vouched.rule), ("Signer", &vouched.signer)] {
            if let Some(value) = value {
                self.add(name, value);
            }
        }
    }
}

/// The head of the record of the generation that an outcome names.
fn record_of(outcome: &Outcome, settings: &Settings) -> Option<Record> {
    let (target, image) = (outcome.target.as_ref()?, outcome.image.as_ref()?);
    let tree = Tree::open(&settings.tree.path).ok()?;
    let generation = tree.generation(target, image.generation.clone()?).ok()?;
    generation?.record
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
