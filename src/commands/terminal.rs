//! What commands write: to standard output, to standard error, and a bar on a terminal.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::sys::Progress;

/// Prints to standard output. When nobody reads that any more (`| head`), it is no error.
pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints `value` for programs, or what `text` makes of it for people.
pub(super) fn print_as<T: Serialize>(
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
pub(super) fn text_or(value: Option<impl ToString>, missing: &str) -> String {
    value.map_or_else(|| missing.to_string(), |value| value.to_string())
}

/// Says something on standard error. Nobody hears a closed pipe.
pub(super) fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "netboot-publisher: {message}");
}

/// A bar on a terminal, until it is aborted.
pub(super) async fn show(bytes: u64, progress: Arc<Progress>) {
    let bar = ProgressBar::new(bytes);
    let style = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is good"));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        bar.set_position(progress.bytes());
    }
}
