//! What `submit`, `rollback` and `withdraw` have in common: a drop is made, handed over, and, where
//! that is wanted, its outcome is waited for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use notify::{RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::terminal::{print, say, show, text_or};
use crate::image::Image;
use crate::settings::Settings;
use crate::spool::{Manifest, NewDrop, Outcome, SpoolView};
use crate::sys::Progress;
use crate::words::Verdict;

/// Exit codes: a drop was rejected; there was no outcome in time; as shells report SIGINT.
const REJECTED: u8 = 3;
const TIMED_OUT: u8 = 4;
const INTERRUPTED: u8 = 130;

/// How often an outcome is looked for where no event tells of it.
const POLL: Duration = Duration::from_secs(1);

/// Where a drop goes, and whether somebody waits for it.
#[derive(Debug, Args)]
pub(super) struct HandOver {
    /// Wait for the outcome, at most so many seconds if a number is given; exit 3 when the drop is
    /// rejected, 4 when there is no outcome in time
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[expect(
        clippy::option_option,
        reason = "not given, without a number, with one"
    )]
    wait: Option<Option<u64>>,
    /// The spool, instead of the configured one
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

impl HandOver {
    /// Makes a drop, puts it into the spool, and reports its outcome where that is wanted.
    pub(super) fn hand_over(
        self,
        settings: &Settings,
        manifest: Manifest,
        image: Option<Image>,
    ) -> anyhow::Result<ExitCode> {
        let spool = self.spool.as_ref().unwrap_or(&settings.spool.path);
        // The daemon has to be able to read the drop, whatever this user's mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // This comes before the drop is begun: a signal is to leave nothing of the drop behind.
            let mut end = pin!(end()?);
            let drop = match put_in(spool, manifest, image, end.as_mut()).await? {
                Ok(drop) => drop,
                Err(what_is_left) => return Ok(interrupted(&what_is_left)),
            };
            let Some(limit) = self.wait else {
                return print(&format!("{drop}\n"));
            };
            let limit = limit.map_or(Duration::MAX, Duration::from_secs);
            let outcome = tokio::select! {
                outcome = wait(spool, &drop, limit) => outcome?,
                () = &mut end => return Ok(interrupted(&format!("{drop} has no outcome yet"))),
            };
            if let Some(outcome) = outcome {
                return tell(&outcome);
            }
            say(&format!("{drop} has no outcome yet"));
            Ok(ExitCode::from(TIMED_OUT))
        })
    }
}

/// Makes a drop and returns its name; where the `end` came earlier, what is left of the drop.
async fn put_in(
    spool: &Path,
    mut manifest: Manifest,
    image: Option<Image>,
    end: impl Future<Output = ()>,
) -> anyhow::Result<Result<String, String>> {
    let drop = NewDrop::begin(spool, &manifest.target).context("opening the spool")?;
    let progress = Arc::new(Progress::default());
    let (shown, copying) = (Arc::clone(&progress), Arc::clone(&progress));
    let bar = tokio::spawn(show(image.as_ref().map_or(0, Image::bytes), shown));
    let mut finish = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        if let Some(image) = image {
            drop.add_image(&image, &mut manifest, &copying)?;
        }
        let name = drop.finish(&manifest)?;
        name.context("the spool has a drop of that name already; expected none")
    });
    tokio::select! {
        finished = &mut finish => {
            bar.abort();
            finished?.map(Ok)
        }
        () = end => {
            progress.request_stop();
            // The part of a drop that is there is removed before the program ends.
            Ok(Err(match finish.await? {
                Ok(drop) => format!("{drop} is in the spool already"),
                Err(_) => "nothing is left in the spool".to_string(),
            }))
        }
    }
}

/// Waits for the outcome of a drop; `None` when there is none after `limit`.
async fn wait(spool: &Path, drop: &str, limit: Duration) -> anyhow::Result<Option<Outcome>> {
    let view = SpoolView::open(spool).context("opening the spool")?;
    let file = view.outcome_file(drop);
    let (look, awaited) = (Arc::new(Notify::new()), file.clone());
    let hint = Arc::clone(&look);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_it = |path: &PathBuf| path.file_name() == awaited.file_name();
        if event.is_ok_and(|event| event.paths.iter().any(is_it)) {
            hint.notify_one();
        }
    })?;
    // Where no events come, the outcome is looked for at intervals.
    let folder = file.parent().unwrap_or(Path::new(""));
    let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
    let found = async {
        loop {
            if let Some(outcome) = view.outcome(drop).context("reading the outcome")? {
                return Ok(Some(outcome));
            }
            let _ = timeout(POLL, look.notified()).await;
        }
    };
    timeout(limit, found).await.unwrap_or(Ok(None))
}

/// Waits for SIGINT or SIGTERM. From the call on, even before the wait, neither ends the program.
fn end() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn interrupted(what_is_left: &str) -> ExitCode {
    say(&format!("interrupted, {what_is_left}"));
    ExitCode::from(INTERRUPTED)
}

fn tell(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let (verdict, target) = (outcome.verdict, text_or(outcome.target.as_ref(), ""));
    if verdict == Verdict::Rejected {
        let reason = text_or(outcome.reason, "");
        let detail = text_or(outcome.detail.as_ref(), "");
        let _ = writeln!(std::io::stderr(), "rejected {target} {reason}: {detail}");
        return Ok(ExitCode::from(REJECTED));
    }
    let generation = outcome.image.as_ref().and_then(|it| it.generation.as_ref());
    let generation = text_or(generation.map(|it| format!(" {it}")), "");
    print(&format!("{verdict} {target}{generation}\n"))
}
