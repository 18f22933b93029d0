//! The verbs of `netboot-import`: what each takes, what it prints, how it exits. Uses every room. Start
//! with [`run`].

mod assemble;
mod at_hand;
mod bring;

mod dropped;
mod list;
mod push;
mod report;
mod run;
mod shown;
mod site;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::list::list;
use self::push::Push;
use self::run::{Run, check};
use self::world::World;
use crate::commands::{code, time};

/// Brings network-boot images of the usual upstreams into the spool of netboot-publisher, verified, and
/// carries what is published to other sites and from there, through an OCI registry.
#[derive(Debug, Parser)]
#[command(name = "netboot-import", version, max_term_width = 100)]
struct Cli {
    /// The configuration of netboot-publisher, which says where spool and tree are; without it
    /// /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of the sources' files
    #[arg(long, global = true, value_name = "DIR", default_value = World::SOURCES)]
    sources: PathBuf,
    /// The folder for what is fetched and what is known of it; without it the one that systemd gives
    /// (`$STATE_DIRECTORY`), or else /var/lib/netboot-import
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// For programs: a JSON object a line; of `list` one array
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask sources what they have, and drop what is new
    ///
    /// Exit 1: a source failed; 3: an image was rejected; 4: a drop has no outcome yet. Whatever went
    /// wrong with one source, the others were asked.
    Run {
        /// Names of sources; without one all
        names: Vec<String>,
        /// Go on until told to end, and ask about so often: `60s`. What stays as it was isn't said then
        #[arg(long, value_name = "TIME", value_parser = pause)]
        every: Option<Duration>,
        /// Drop also what was brought before and replaced, withdrawn or damaged here since
        #[arg(long)]
        again: bool,
        /// Take lists that were signed before the last ones, and the orders of a registry that was set back, or that
        /// are another centre's now
        #[arg(long)]
        accept: bool,
        /// How long to wait for the outcome of a drop, `10m` or in seconds; with `--every` no longer than that
        #[arg(long, value_name = "TIME", value_parser = time, default_value = "15m")]
        wait: Duration,
    },
    /// Say what `run` would bring, and fetch nothing but the lists that say what there is
    Check {
        /// Names of sources; without one all
        names: Vec<String>,
    },
    /// Show the sources, and what each has brought
    List,
    /// Carry the last order for each target, with the image that it names, to an OCI registry, from which
    /// sites take it
    Push {
        /// Names of channels; without one all
        names: Vec<String>,
        /// Look at everything that is in the registry, and not only at what has changed: after one was
        /// set back, or something was deleted there
        #[arg(long)]
        all: bool,
        /// The folder of the channels' files
        #[arg(long, value_name = "DIR", default_value = World::CHANNELS)]
        channels: PathBuf,
    },
}

/// Runs the command that the program was called with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            shown::fail(&format!("{error:#}"));
            code(&error)
        }
    }
}

/// A time between two rounds: no host is asked without a pause.
fn pause(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time < Duration::from_secs(1) {
        return Err("expected at least a second, `60s`".to_string());
    }
    Ok(time)
}

/// What the program takes: what its manual page and completions are made of.
pub fn interface() -> clap::Command {
    Cli::command()
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let world = World::new(self.config.as_deref(), self.sources, self.state, self.json)?;
        if !matches!(self.command, Command::List) {
            world.check_user()?;
        }
        // The daemon has to be able to read drops, whatever this user's mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        match self.command {
            Command::Run {
                names,
                every,
                again,
                accept,
                wait,
            } => {
                let run = Run {
                    again,
                    accept,
                    wait,
                };
                runtime.block_on(run.begin(world, names, every))
            }
            Command::Check { names } => runtime.block_on(check(world, names)),
            Command::List => list(&world),
            Command::Push {
                names,
                all,
                channels,
            } => {
                let push = Push {
                    names,
                    channels,
                    all,
                };
                runtime.block_on(push.run(&world))
            }
        }
    }
}
