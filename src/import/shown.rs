//! What the program says: lines, for people, for programs, or for the journal; and bars on a terminal.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::report::{Came, Report};
use crate::commands::{Bar, print};
use crate::sys::Progress;
use crate::words::Target;

/// How a line of standard error counts in the journal: sd-daemon(3).
const ERROR: &str = "<3>";
const WARNING: &str = "<4>";

/// What is shown, and how.
pub(super) struct Shown {
    bars: MultiProgress,
    is_json: bool,
    is_terminal: bool,
    /// What was said last of each source and target, where only news is said.
    said: Option<Mutex<BTreeMap<About, (Came, String)>>>,
}

/// What a line is about: a source, or a target of one.
type About = (String, Option<Target>);

impl Shown {
    pub(super) fn new(is_json: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            is_json,
            is_terminal,
            said: None,
        }
    }

    /// From now on what is as it was isn't said again.
    pub(super) fn only_news(&mut self) {
        self.said = Some(Mutex::default());
    }

    pub(super) fn is_for_news(&self) -> bool {
        self.said.is_some()
    }

    /// Whether a line is news, where only such are said.
    fn is_news(&self, report: &Report, line: &str) -> bool {
        let Some(said) = &self.said else {
            return true;
        };
        let mut said = said.lock().expect("nobody panics with it");
        let about = (report.source.clone(), report.target.clone());
        let before = said.insert(about, (report.result, line.to_string()));
        match before {
            Some((_, before)) if before == line => false,
            Some((before, _)) => report.result != Came::Unchanged || before >= Came::Waits,
            None => report.result != Came::Unchanged,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// What became of something: a line of standard output.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub(super) fn report(&self, report: &Report) -> anyhow::Result<()> {
        let line = if self.is_json {
            serde_json::to_string(report)?
        } else {
            report.to_string()
        };
        if !self.is_news(report, &line) {
            return Ok(());
        }
        if report.is_bad() && !self.is_json {
            self.bars.suspend(|| fail(&line));
            return Ok(());
        }
        self.bars.suspend(|| print(&format!("{line}\n")))?;
        Ok(())
    }

    /// Something of a channel: a line for programs, or the `text` for people.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub(super) fn line(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let line = if self.is_json {
            serde_json::to_string(value)?
        } else {
            text()
        };
        self.bars.suspend(|| print(&format!("{line}\n")))?;
        Ok(())
    }

    pub(super) fn fail(&self, text: &str) {
        self.bars.suspend(|| fail(text));
    }

    /// A line of standard error.
    pub(super) fn say(&self, text: &str) {
        self.bars.suspend(|| write("", text));
    }

    pub(super) fn warn(&self, text: &str) {
        self.bars.suspend(|| write(WARNING, text));
    }

    /// Shows how far something has come: by a bar on a terminal, and elsewhere by a line that it has begun.
    pub(super) fn begin(&self, what: &str, bytes: u64, progress: Arc<Progress>) -> Bar {
        if !self.is_terminal && !self.is_json {
            self.say(what);
        }
        let bar = ProgressBar::new(bytes).with_message(what.to_string());
        Bar::of(self.bars.add(bar), progress)
    }

    /// Shows how far something has come of which nobody knows yet how much it is.
    pub(super) fn counter(&self, what: &str, progress: Arc<Progress>) -> Bar {
        let bar = ProgressBar::no_length().with_message(what.to_string());
        Bar::of(self.bars.add(bar), progress)
    }
}

/// Says on standard error what went wrong.
pub(super) fn fail(text: &str) {
    write(ERROR, text);
}

/// A line of standard error; in the journal with its priority. Nobody hears a closed pipe.
fn write(priority: &str, text: &str) {
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let priority = if is_journal { priority } else { "" };
    let mut stderr = std::io::stderr();
    for line in text.lines() {
        let _ = writeln!(stderr, "{priority}{line}");
    }
}
