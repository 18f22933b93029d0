//! The commands, what they print, and how they exit.

mod history;
mod status;
mod submit;
mod verify;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use self::history::History;
use self::status::Status;
use self::verify::{Plan, Report};
use crate::daemon::{self};
use crate::image::Image;
use crate::log::{Choice, Log, events};
use crate::settings::{DEFAULT_PATH, LogFormat, LogLevel, Settings};
use crate::spool::{Action, Manifest, Outcome, Replaces, manifest};
use crate::sys::Progress;
use crate::text::InputError;
use crate::words::{GenerationName, Name, Target, Verdict};

/// A drop was rejected.
const REJECTED: u8 = 3;
/// There was no outcome in time.
const TIMED_OUT: u8 = 4;
/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIG: u8 = 78;
/// As shells report SIGINT.
const INTERRUPTED: u8 = 130;

/// Publishes network-boot images: takes them from a spool, compares each with what is published,
/// and swaps what changed into the tree that a TFTP or HTTP server serves.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults
    /// where that file is not there
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the spool and publish what is dropped there
    Run {
        /// Publish what is in the spool, then exit
        #[arg(long)]
        once: bool,
        /// What is logged: this, and all that is more important
        #[arg(long, value_name = "LEVEL", value_parser = word(LogLevel::WORDS))]
        log_level: Option<LogLevel>,
        /// `auto`: the journal's own under systemd, and text elsewhere
        #[arg(long, value_name = "FORMAT", value_parser = word(LogFormat::WORDS))]
        log_format: Option<LogFormat>,
    },
    /// Make a drop from a directory
    Submit(Submit),
    /// Make an older generation of a target current again
    Rollback {
        /// arch/subarch/release/purpose
        target: Target,
        /// The generation, as `history` shows it; without it the one before the current
        #[arg(long, value_name = "GENERATION")]
        to: Option<GenerationName>,
        #[command(flatten)]
        drop: DropOptions,
    },
    /// Take a target out of the tree
    Withdraw {
        /// arch/subarch/release/purpose
        target: Target,
        #[command(flatten)]
        drop: DropOptions,
    },
    /// Show which generations of a target are kept, and what happened when
    History {
        /// arch/subarch/release/purpose
        target: Target,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what is published, what waits and what was rejected
    Status {
        /// arch/subarch/release/purpose
        target: Option<Target>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Read every published file again and compare with the records; exit 1 names what is damaged
    Verify {
        /// arch/subarch/release/purpose
        target: Option<Target>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Read the configuration and say all that is wrong with it
    CheckConfig,
}

#[derive(Debug, Args)]
struct Submit {
    #[arg(long)]
    arch: Name,
    #[arg(long, default_value = "generic")]
    subarch: Name,
    #[arg(long)]
    release: Name,
    #[arg(long)]
    purpose: Name,
    /// Shown to people
    #[arg(long, value_parser = version)]
    version: Option<String>,
    /// Refuse (`conflict`) unless the current generation's digest begins so; `none`: unless the target
    /// is new
    #[arg(long, value_name = "DIGEST")]
    replaces: Option<Replaces>,
    #[command(flatten)]
    drop: DropOptions,
    /// The directory to be published
    image: PathBuf,
}

/// Where a drop goes, and whether somebody waits for it.
#[derive(Debug, Args)]
struct DropOptions {
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

/// The configuration can't be read, or says what it may not.
#[derive(Debug, thiserror::Error)]
enum BadConfig {
    /// What it says begins a line of its own: an excerpt has several.
    #[error("bad configuration\n{0}")]
    Invalid(InputError),
    #[error("reading the configuration {0:?}: {1}")]
    Unreadable(PathBuf, std::io::Error),
}

/// Runs the command that the program was called with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(cli.config.as_deref()) {
        Ok(code) => code,
        Err(error) => {
            // `{:#}`: the whole chain on one line, printed once, here.
            say(&format!("{error:#}"));
            code(&error)
        }
    }
}

/// What the program takes: what manual pages and completions are made of.
pub fn interface() -> clap::Command {
    Cli::command()
}

fn code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<BadConfig>() {
        Some(_) => ExitCode::from(BAD_CONFIG),
        None => ExitCode::FAILURE,
    }
}

/// What ends the daemon goes to its log; where that is text on standard error, as from any other
/// command.
fn run_daemon(
    settings: Result<Settings, BadConfig>,
    config: Option<&Path>,
    once: bool,
    choice: Choice,
) -> ExitCode {
    let configured = settings.as_ref().map(|settings| settings.log);
    let log = Log::start(configured.unwrap_or_default(), choice);
    let reread = || Ok(read_settings(config)?.unwrap_or_default());
    let ended = settings
        .map_err(anyhow::Error::from)
        .and_then(|settings| daemon::run(settings, once, &log, reread));
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    let message_id = match error.downcast_ref::<BadConfig>() {
        Some(_) => events::BAD_CONFIGURATION,
        None => events::FAILED,
    };
    if log.is_text() {
        say(&format!("{error:#}"));
    } else {
        tracing::error!(message_id, "{error:#}");
    }
    code(&error)
}

/// One of these words.
fn word<T: Copy + Send + Sync + 'static>(
    words: &'static [(&str, T)],
) -> impl TypedValueParser<Value = T> {
    let known = PossibleValuesParser::new(words.iter().map(|(word, _)| *word));
    known.map(|given| {
        let found = words.iter().find(|(word, _)| *word == given);
        found.expect("only these are let in").1
    })
}

impl Command {
    fn run(self, config: Option<&Path>) -> anyhow::Result<ExitCode> {
        let configured = read_settings(config);
        let is_configured = matches!(configured, Ok(Some(_)));
        let settings = configured.map(Option::unwrap_or_default);
        match self {
            Self::Run {
                once,
                log_level: level,
                log_format: format,
            } => Ok(run_daemon(settings, config, once, Choice { level, format })),
            Self::Submit(submit) => submit.run(settings?),
            Self::Rollback { target, to, drop } => {
                drop.hand_over(settings?, ask(target, Action::Rollback(to)), None)
            }
            Self::Withdraw { target, drop } => {
                drop.hand_over(settings?, ask(target, Action::Withdraw), None)
            }
            Self::History { target, json } => {
                let settings = settings?;
                let history = History::read(&settings.tree.path, &target)?;
                let Some(history) = history else {
                    anyhow::bail!("{target} is not in the tree; expected one that is");
                };
                let text = if json {
                    serde_json::to_string_pretty(&history)? + "\n"
                } else {
                    history.to_text()
                };
                print(&text)
            }
            Self::Status { target, json } => {
                let settings = settings?;
                let (tree, spool) = (&settings.tree.path, &settings.spool.path);
                let status = Status::read(tree, spool, target.as_ref())?;
                let text = if json {
                    serde_json::to_string_pretty(&status)? + "\n"
                } else {
                    status.to_text()
                };
                print(&text)
            }
            Self::Verify { target, json } => verify(&settings?, target.as_ref(), json),
            Self::CheckConfig => {
                settings?;
                let path = config.unwrap_or(Path::new(DEFAULT_PATH)).display();
                if is_configured {
                    print(&format!("{path}: good\n"))
                } else {
                    print(&format!("{path}: not there, the built-in defaults apply\n"))
                }
            }
        }
    }
}

fn verify(settings: &Settings, target: Option<&Target>, json: bool) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let plan = Plan::read(&settings.tree, target)?;
    let progress = Arc::new(Progress::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let report = runtime.block_on(async {
        let bar = tokio::spawn(show(plan.bytes(), Arc::clone(&progress)));
        let report = tokio::task::spawn_blocking(move || plan.run(&progress)).await;
        bar.abort();
        report
    })??;
    let text = if json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        let took = Duration::from_millis(u64::try_from(began.elapsed().as_millis())?);
        let took = humantime::format_duration(took).to_string();
        tell_damages(settings, &report) + &report.summary(&took)
    };
    let printed = print(&text)?;
    Ok(if report.damages.is_empty() {
        printed
    } else {
        ExitCode::FAILURE
    })
}

/// What is damaged, a line each; where standard error is the journal it gets an entry each, and
/// nothing is left to be told.
fn tell_damages(settings: &Settings, report: &Report) -> String {
    let log = Log::start(settings.log, Choice::default());
    if log.is_text() {
        let damages = report.damages.iter();
        let lines: Vec<_> = damages.map(|damage| format!("{damage}\n")).collect();
        return lines.concat();
    }
    for damage in &report.damages {
        let generation = damage.generation.as_ref().map(tracing::field::display);
        tracing::error!(message_id = events::DAMAGED, target = %damage.target, generation, "{damage}");
    }
    String::new()
}

/// `None` where no configuration was named and none is at the usual place.
fn read_settings(path: Option<&Path>) -> Result<Option<Settings>, BadConfig> {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    match std::fs::read_to_string(file) {
        Ok(text) => Settings::parse(&file.display().to_string(), &text)
            .map(Some)
            .map_err(BadConfig::Invalid),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BadConfig::Unreadable(file.to_path_buf(), error)),
    }
}

impl Submit {
    fn run(self, settings: Settings) -> anyhow::Result<ExitCode> {
        let target = Target::new(self.arch, self.subarch, self.release, self.purpose)?;
        let manifest = Manifest {
            replaces: self.replaces,
            version: self.version,
            ..ask(target, Action::Publish)
        };
        let image = submit::look_at(&self.image, &settings.limits)
            .with_context(|| format!("submitting {:?}", self.image))?;
        self.drop.hand_over(settings, manifest, Some(image))
    }
}

/// A manifest that asks for no more than this.
fn ask(target: Target, action: Action) -> Manifest {
    Manifest {
        target,
        action,
        replaces: None,
        version: None,
        files: None,
    }
}

impl DropOptions {
    /// Makes a drop, puts it into the spool, and reports its outcome where that is wanted.
    fn hand_over(
        self,
        settings: Settings,
        mut manifest: Manifest,
        image: Option<Image>,
    ) -> anyhow::Result<ExitCode> {
        let spool = self.spool.unwrap_or(settings.spool.path);
        // The daemon has to be able to read the drop, whatever this user's mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // Before the drop is begun: from here on a signal leaves nothing of it behind.
            let mut end = pin!(end()?);
            let draft = submit::Draft::begin(&spool, &manifest.target)?;
            let progress = Arc::new(Progress::default());
            let bytes = image.as_ref().map_or(0, Image::bytes);
            let bar = tokio::spawn(show(bytes, Arc::clone(&progress)));
            let copying = Arc::clone(&progress);
            let mut finish = tokio::task::spawn_blocking(move || {
                if let Some(image) = image {
                    draft.add_image(&image, &mut manifest, &copying)?;
                }
                draft.finish(&manifest)
            });
            let finished = tokio::select! {
                finished = &mut finish => finished,
                () = &mut end => {
                    progress.request_stop();
                    // What was begun is removed before the program ends.
                    return Ok(match finish.await? {
                        Ok(drop) => interrupted(&format!("{drop} is in the spool already")),
                        Err(_) => interrupted("nothing is left in the spool"),
                    });
                }
            };
            bar.abort();
            let drop = finished??;
            let Some(limit) = self.wait else {
                return print(&format!("{drop}\n"));
            };
            let outcome = tokio::select! {
                outcome = submit::wait(&spool, &drop, limit.map(Duration::from_secs)) => outcome?,
                () = &mut end => return Ok(interrupted(&format!("{drop} has no outcome yet"))),
            };
            match outcome {
                Some(outcome) => tell(&outcome),
                None => {
                    say(&format!("{drop} has no outcome yet"));
                    Ok(ExitCode::from(TIMED_OUT))
                }
            }
        })
    }
}

fn version(text: &str) -> Result<String, String> {
    manifest::parse_version(text).map_err(|rule| format!("expected {rule}"))
}

/// SIGINT or SIGTERM; whether somebody waits for it or not, neither ends the program any more.
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

/// Nobody hears a closed pipe.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "netboot-publisher: {message}");
}

/// A bar on a terminal, until it is aborted.
async fn show(bytes: u64, progress: Arc<Progress>) {
    let bar = ProgressBar::new(bytes);
    let style = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is good"));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        bar.set_position(progress.bytes());
    }
}

fn tell(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let target = outcome
        .target
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let verdict = outcome.outcome;
    if verdict == Verdict::Rejected {
        let reason = outcome
            .reason
            .map(|reason| reason.to_string())
            .unwrap_or_default();
        let detail = outcome.detail.as_deref().unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "rejected {target} {reason}: {detail}");
        return Ok(ExitCode::from(REJECTED));
    }
    let generation = outcome
        .image
        .as_ref()
        .and_then(|image| image.generation.as_ref());
    let generation = generation
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    print(&format!("{verdict} {target}{generation}\n"))
}

/// Prints to standard output; that nobody reads it any more (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
