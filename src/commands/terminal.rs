//! What commands write: to standard output, to standard error, and a bar on a terminal.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::sys::Progress;
use crate::words::Boot;

/// Prints to standard output. When nobody reads that any more (`| head`), it is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints `value` for programs, or what `text` makes of it for people.
pub(crate) fn print_as<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    print(&if json {
        serde_json::to_string_pretty(value)? + "\n"
    } else {
        text(value)
    })
}

/// A value as people read it, or what stands for one that is missing.
pub(crate) fn text_or(value: Option<impl ToString>, missing: &str) -> String {
    value.map_or_else(|| missing.to_string(), |value| value.to_string())
}

/// What an importer says of how an image boots, a key a line, as a manifest has it; nothing moves a cursor.
pub(super) fn boot_lines(boot: &Boot) -> Vec<String> {
    let text = toml::to_string(boot).expect("it is plain data");
    let lines = text.lines().filter(|line| *line != "initrd = []");
    lines.map(str::to_string).collect()
}

/// Says something on standard error. Nobody hears a closed pipe.
pub(super) fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "netboot-publisher: {message}");
}

/// How many columns the terminal has that standard output is; `None` where it is none.
pub(crate) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(stdout).ok());
    let columns = size?.map_or(0, |size| size.ws_col);
    // A serial line knows no size.
    Some(if columns == 0 { 80 } else { columns.into() })
}

/// A bar on standard error where that is a terminal.
pub(crate) struct Bar {
    bar: ProgressBar,
    moving: JoinHandle<()>,
}

impl Bar {
    pub(super) fn begin(bytes: u64, progress: Arc<Progress>) -> Self {
        Self::of(ProgressBar::new(bytes), progress)
    }

    /// A bar of several, behind its message where it has one. Where it has no length, that is as much as is
    /// expected until then.
    pub(crate) fn of(bar: ProgressBar, progress: Arc<Progress>) -> Self {
        let message = if bar.message().is_empty() {
            ""
        } else {
            "{msg} "
        };
        let style = "{bar:40} {percent:>3} % {binary_bytes}/{binary_total_bytes} \
                     {binary_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(&format!("{message}{style}"));
        bar.set_style(style.expect("the template is good"));
        let (shown, length) = (bar.clone(), bar.length());
        let moving = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                let bytes = length.unwrap_or_else(|| progress.expected());
                shown.set_length(bytes);
                // What has grown since is read as well, and the bar ends when all is done.
                shown.set_position(progress.bytes().min(bytes));
            }
        });
        Self { bar, moving }
    }

    /// The bar ends at its end where all `is_done`, on a line of its own, whatever was read of it.
    pub(crate) async fn end(self, is_done: bool) {
        self.moving.abort();
        let _ = self.moving.await;
        if is_done {
            self.bar.finish();
        } else {
            self.bar.abandon();
        }
        // The cursor stays behind the bar.
        if std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// One thing that is waited for: on a terminal a line that changes, elsewhere one for each change.
pub(super) struct Line {
    /// `None` where standard error is no terminal.
    spinner: Option<ProgressBar>,
    said: String,
}

impl Line {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let spinner = is_terminal.then(|| {
            let style = ProgressStyle::with_template("{msg}").expect("the template is good");
            ProgressBar::new_spinner().with_style(style)
        });
        Self {
            spinner,
            said: String::new(),
        }
    }

    /// Shows `text`; where lines stay, only when the state is `another`: a percentage would fill the
    /// screen.
    pub(super) fn show(&mut self, another: &str, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_string()),
            None if self.said != another => say(text),
            None => {}
        }
        self.said = another.to_string();
    }

    /// Nothing is left of a line that changes.
    pub(super) fn end(self) {
        if let Some(spinner) = self.spinner {
            spinner.finish_and_clear();
        }
    }
}
