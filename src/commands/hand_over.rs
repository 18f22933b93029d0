//! What `submit`, `rollback`, `promote` and `withdraw` have in common: a drop is made, handed over, and,
//! where that is wanted, its outcome is waited for.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use notify::{RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::sign::sign;
use super::terminal::{Bar, Line, print, say, text_or};
use super::waiting::waiting;
use crate::image::Image;
use crate::settings::Settings;
use crate::spool::{Manifest, NewDrop, Outcome, SpoolView, Waiting};
use crate::sys::{Failure, Progress};
use crate::tree::Tree;
use crate::words::{Moment, Verdict};

/// Exit codes: a drop was rejected; there was no outcome in time; as shells report SIGINT.
pub(crate) const REJECTED: u8 = 3;
pub(crate) const TIMED_OUT: u8 = 4;
pub(crate) const INTERRUPTED: u8 = 130;

/// What is left of a drop that was not handed over.
const NOTHING_IS_LEFT: &str = "nothing is left in the spool";

/// How often an outcome is looked for where no event tells of it.
const POLL: Duration = Duration::from_secs(1);

/// Where a drop goes, and whether somebody waits for it.
#[derive(Debug, Args)]
pub(super) struct HandOver {
    /// Wait for the outcome, and show what for; at most so long if that is given, `10m` or in
    /// seconds; exit 3 when the drop is rejected, 4 when there is no outcome in time
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = time)]
    #[expect(clippy::option_option, reason = "not given, without a time, with one")]
    wait: Option<Option<Duration>>,
    /// Have ssh-keygen sign the manifest with this key: its private file, or the `.pub` file of one that
    /// the agent holds
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// The manifest's `serial`: refused (`stale`) unless higher than the last one of the target
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(..=Manifest::MAX_SERIAL))]
    serial: Option<u64>,
    /// The manifest's `expires`: refused (`expired`) after that, such as `2026-12-31T00:00:00Z`
    #[arg(long, value_name = "TIME")]
    expires: Option<Moment>,
    /// The spool, instead of the configured one
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

impl HandOver {
    pub(super) fn is_signed(&self) -> bool {
        self.sign.is_some()
    }

    /// The tree of the daemon that the drop goes to.
    ///
    /// # Errors
    /// When that isn't known, or the tree can't be read from here.
    pub(super) fn tree(&self, settings: &Settings) -> anyhow::Result<Tree> {
        let is_configured = self.spool.is_none();
        anyhow::ensure!(is_configured, "the tree of another spool isn't known");
        Ok(Tree::open(&settings.tree.path)?)
    }

    /// Hands over an order for a target, which has to be there as far as that can be seen from here.
    pub(super) fn order(self, settings: &Settings, order: Manifest) -> anyhow::Result<ExitCode> {
        let is_known = |tree: Tree| tree.knows(&order.target).unwrap_or(true);
        let is_known = self.tree(settings).map_or(true, is_known);
        anyhow::ensure!(is_known, "no such target: {}", order.target);
        self.hand_over(settings, order, None)
    }

    /// Makes a drop, puts it into the spool, and reports its outcome where that is wanted.
    pub(super) fn hand_over(
        self,
        settings: &Settings,
        manifest: Manifest,
        image: Option<Image>,
    ) -> anyhow::Result<ExitCode> {
        let manifest = Manifest {
            serial: self.serial,
            expires: self.expires,
            ..manifest
        };
        let spool = self.spool.as_ref().unwrap_or(&settings.spool.path);
        // The daemon has to be able to read the drop, whatever this user's mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // This comes before the drop is begun: a signal is to leave nothing of the drop behind.
            let mut end = pin!(end()?);
            let key = self.sign.as_deref();
            let drop = match put_in(spool, (manifest, image), key, end.as_mut()).await? {
                Ok(drop) => drop,
                Err(what_is_left) => return Ok(interrupted(&what_is_left)),
            };
            let Some(limit) = self.wait else {
                return print(&format!("{drop}\n"));
            };
            let mut shown = Shown::new();
            let outcome = tokio::select! {
                outcome = wait(spool, &drop, limit.unwrap_or(Duration::MAX), |daemon, waiting| {
                    shown.show(&drop, daemon, waiting);
                }) => outcome,
                () = &mut end => {
                    let left = shown.end(&drop);
                    return Ok(interrupted(&left));
                }
            };
            let left = shown.end(&drop);
            if let Some(outcome) = outcome? {
                return tell(&outcome);
            }
            say(&left);
            Ok(ExitCode::from(TIMED_OUT))
        })
    }
}

/// Makes a drop, signed by the `key` if there is one, and returns its name; where the `end` came
/// earlier, what is left of the drop.
async fn put_in(
    spool: &Path,
    (manifest, image): (Manifest, Option<Image>),
    key: Option<&Path>,
    mut end: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<Result<String, String>> {
    let interrupted = || Ok(Err(NOTHING_IS_LEFT.to_string()));
    let drop = NewDrop::begin(spool, &manifest.target).context("opening the spool")?;
    let Some(drop) = fill(drop, manifest, image, end.as_mut()).await? else {
        return interrupted();
    };
    if let Some(key) = key
        && !sign(&drop, key, end.as_mut()).await?
    {
        return interrupted();
    }
    let mut finish = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        let name = drop.finish()?;
        name.context("the spool has a drop of that name already; expected none")
    });
    tokio::select! {
        finished = &mut finish => finished?.map(Ok),
        () = end => Ok(Err(match finish.await? {
            Ok(drop) => format!("{drop} is in the spool already"),
            Err(_) => NOTHING_IS_LEFT.to_string(),
        })),
    }
}

/// Puts an image and the manifest into a drop; `None` where the `end` came earlier.
async fn fill(
    drop: NewDrop,
    mut manifest: Manifest,
    image: Option<Image>,
    end: impl Future<Output = ()>,
) -> anyhow::Result<Option<NewDrop>> {
    let progress = Arc::new(Progress::default());
    let (shown, copying) = (Arc::clone(&progress), Arc::clone(&progress));
    let bytes = image.as_ref().map(Image::bytes);
    let bar = bytes.map(|bytes| Bar::begin(bytes, shown));
    let mut fill = tokio::task::spawn_blocking(move || -> anyhow::Result<NewDrop> {
        if let Some(image) = image {
            drop.add_image(&image, &mut manifest, &copying)?;
        }
        drop.add_manifest(&manifest)?;
        Ok(drop)
    });
    let filled = tokio::select! {
        filled = &mut fill => filled?.map(Some),
        () = end => {
            progress.request_stop();
            // The part of a drop that is there is removed before the program ends.
            fill.await?.ok();
            Ok(None)
        }
    };
    if let Some(bar) = bar {
        bar.end(matches!(filled, Ok(Some(_)))).await;
    }
    filled
}

/// What a drop waits for, as it is shown to whoever waits for the outcome.
struct Shown {
    line: Line,
    /// What was shown last; empty as long as nobody knows.
    why: String,
}

impl Shown {
    fn new() -> Self {
        Self {
            line: Line::new(),
            why: String::new(),
        }
    }

    fn show(&mut self, drop: &str, note: Option<&str>, waiting: Option<Waiting>) {
        let (state, why) = match (note, waiting) {
            (Some(note), _) => (note.to_string(), note.to_string()),
            (None, Some(waiting)) => (waiting.state.to_string(), waiting.why),
            // Its outcome is about to come, or it was not seen yet.
            (None, None) => return,
        };
        self.line.show(&state, &format!("{drop} waits: {why}"));
        self.why = why;
    }

    /// That there is no outcome, and why, as far as that is known.
    fn end(self, drop: &str) -> String {
        self.line.end();
        match &*self.why {
            "" => format!("{drop} has no outcome yet"),
            why => format!("{drop} has no outcome yet: {why}"),
        }
    }
}

/// A duration as the configuration has them, or a number of seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = seconds.or_else(|_| humantime::parse_duration(text));
    parsed.map_err(|_| "expected a time such as \"10m\", or seconds".to_string())
}

/// Waits for the outcome of a drop; `None` when there is none after `limit`. Meanwhile `see` is told why
/// the daemon says nothing, if it doesn't, and what the drop waits for, as far as that is known.
pub(crate) async fn wait(
    spool: &Path,
    drop: &str,
    limit: Duration,
    mut see: impl FnMut(Option<&'static str>, Option<Waiting>),
) -> anyhow::Result<Option<Outcome>> {
    let view = Arc::new(SpoolView::open(spool).context("opening the spool")?);
    // Events tell whole paths.
    let file = std::path::absolute(view.own_outcome_file(drop))?;
    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let look = Arc::new(Notify::new());
    let (hint, made, awaited) = (Arc::clone(&look), folder.clone(), file);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To look into the folder is an event as well.
        let is_it = |event: notify::Event| {
            let is_made = event.kind.is_create() && event.paths.contains(&made);
            is_made || event.paths.contains(&awaited)
        };
        if event.is_ok_and(is_it) {
            hint.notify_one();
        }
    })?;
    // Where no events come, the outcome is looked for at intervals. The folder is made with the first
    // outcome of this user.
    let above = folder.parent().unwrap_or(Path::new(""));
    let _ = watcher.watch(above, RecursiveMode::NonRecursive);
    let mut is_watched = false;
    let found = async {
        loop {
            is_watched = is_watched || watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok();
            let outcome = view.own_outcome(drop);
            let outcome = outcome.map_err(|failure| unread(drop, failure))?;
            if let Some(outcome) = outcome {
                return Ok(Some(outcome));
            }
            if timeout(POLL, look.notified()).await.is_ok() {
                continue;
            }
            // What takes longer has a reason. A daemon that hangs is waited for by a thread.
            let (view, name) = (Arc::clone(&view), drop.to_string());
            let ask = tokio::task::spawn_blocking(move || waiting(&view, Some(&name)));
            let asked = tokio::select! {
                asked = ask => asked?,
                () = look.notified() => continue,
            };
            // What can't be read tells nothing.
            if let Ok((daemon, waiting, _)) = asked {
                see(daemon.note(), waiting.into_iter().next());
            }
        }
    };
    timeout(limit, found).await.unwrap_or(Ok(None))
}

/// Why somebody doesn't learn what becomes of the own drop.
fn unread(drop: &str, failure: Failure) -> anyhow::Error {
    if !failure.is(ErrorKind::PermissionDenied) {
        return anyhow::Error::new(failure).context("reading the outcome");
    }
    anyhow::anyhow!(
        "{drop} is in the spool, and its outcome is not for this user to read ({failure}): `--wait` \
         needs root, or a spool on a file system with ACLs; ask the admin what became of the drop"
    )
}

/// Waits for SIGINT or SIGTERM. From the call on, even before the wait, neither ends the program.
pub(crate) fn end() -> anyhow::Result<impl Future<Output = ()>> {
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
    outcome.detail.iter().for_each(|detail| say(detail));
    for note in outcome.notes() {
        say(&format!("noted {note}"));
    }
    let generation = outcome.image.as_ref().and_then(|it| it.generation.as_ref());
    let generation = text_or(generation.map(|it| format!(" {it}")), "");
    print(&format!("{verdict} {target}{generation}\n"))
}
