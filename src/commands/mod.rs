//! The commands: what each takes, prints, and how it exits. One file for a verb; the four that make
//! a drop share `hand_over`. Uses every room. Start with [`run`].

mod check_config;
mod configuration;
mod diff;
mod hand_over;
mod history;
mod may;
mod promote;
mod proof;
mod rollback;
mod rules;
mod run_daemon;
mod show;
mod sign;
mod status;
mod submit;
mod terminal;
mod verify;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand};
use strum::VariantNames as _;

// What the verbs of the second program have in common with these.
#[cfg(feature = "import")]
pub(crate) use self::{
    configuration::{code, read_settings},
    hand_over::{INTERRUPTED, REJECTED, TIMED_OUT, end, time, wait},
    sign::sign,
    terminal::{Bar, print, print_as, width},
};

use self::check_config::CheckConfig;
use self::hand_over::HandOver;
use self::promote::Promote;
use self::run_daemon::RunDaemon;
use self::submit::Submit;
use self::terminal::say;
use crate::listeners::keep_hook;
use crate::spool::{Action, Manifest};
use crate::trust::Deed;
use crate::words::{GenerationHint, Target, TargetPattern};

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
    Run(RunDaemon),
    /// Make a drop from a directory
    Submit(Submit),
    /// Make an older generation of a target current again
    Rollback {
        /// arch/subarch/release/purpose
        target: Target,
        /// The generation, as `history` shows it, the beginning of its name, or the first digits of
        /// its digest; without it the one that the last swap replaced
        #[arg(long, value_name = "GENERATION")]
        to: Option<GenerationHint>,
        #[command(flatten)]
        drop: HandOver,
    },
    /// Make the image that is current at one target current at another one, without a copy
    Promote(Promote),
    /// Take a target out of the tree, or remove one of its older generations
    Withdraw {
        /// arch/subarch/release/purpose
        target: Target,
        /// Remove nothing but this generation, which isn't current: named as for `rollback --to`
        #[arg(long, value_name = "GENERATION")]
        generation: Option<GenerationHint>,
        #[command(flatten)]
        drop: HandOver,
    },
    /// Show which generations of a target are kept, and what happened when
    History {
        /// arch/subarch/release/purpose
        target: Target,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what is published, what waits and why, and what was rejected
    Status {
        /// arch/subarch/release/purpose; `*` stands for any part of one: `amd64/*/noble/*`. What is
        /// named is shown with its use of the disk
        target: Option<TargetPattern>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one drop: where it is, what it waits for, its outcome, its manifest
    Show {
        /// The name of the drop, or the beginning of that
        drop: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show which files differ between two generations of a target, as the records tell
    Diff {
        /// arch/subarch/release/purpose
        target: Target,
        /// The one generation, named as for `rollback --to`; without it the one that the last swap
        /// replaced
        from: Option<GenerationHint>,
        /// The other one; without it the current one
        to: Option<GenerationHint>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say whether the importer rules let a user do something, by which rule, and why not; exit 1: no,
    /// 2: not known, as of a user that isn't there
    May {
        /// A user's name
        user: String,
        /// What the user wants to do
        #[arg(value_parser = deed())]
        action: Deed,
        /// arch/subarch/release/purpose
        target: Target,
    },
    /// Read every published file again and compare with the records; exit 1 names what is damaged
    Verify {
        /// arch/subarch/release/purpose; `*` stands for any part of one
        target: Option<TargetPattern>,
        /// Prove each generation as well by the manifest and the signature that are kept beside its
        /// record, and by the keys of today's importer rules; exit 1 names what isn't proven
        #[arg(long)]
        signatures: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say all that is wrong with the configuration
    ///
    /// Tried are its keys, its templates with what is published, and whether spool, tree and outputs
    /// can be written. Nothing is changed.
    CheckConfig(CheckConfig),
}

/// Runs the command that the program was called with.
pub fn run() -> ExitCode {
    if let Some(code) = keep_hook(std::env::args_os().skip(1)) {
        return code;
    }
    let cli = Cli::parse();
    match cli.command.run(cli.config.as_deref()) {
        Ok(code) => code,
        Err(error) => {
            // `{:#}`: the whole chain on one line, printed once, here.
            say(&format!("{error:#}"));
            configuration::code(&error)
        }
    }
}

/// A [`Deed`] by its word: clap names all of them where it is none.
fn deed() -> impl TypedValueParser<Value = Deed> {
    let words = PossibleValuesParser::new(Deed::VARIANTS);
    words.map(|word| word.parse().expect("one of the words"))
}

/// What the program takes: what manual pages and completions are made of.
pub fn interface() -> clap::Command {
    Cli::command()
}

impl Command {
    fn run(self, config: Option<&Path>) -> anyhow::Result<ExitCode> {
        let configured = configuration::read_settings(config);
        let is_configured = !matches!(configured, Ok(None));
        let settings = configured.map(Option::unwrap_or_default);
        match self {
            Self::Run(run) => Ok(run.run(settings, config)),
            Self::Submit(submit) => submit.run(&settings?),
            Self::Rollback { target, to, drop } => rollback::order(&settings?, target, to, drop),
            Self::Promote(promote) => promote.order(&settings?),
            Self::Withdraw {
                target,
                generation,
                drop,
            } => drop.order(
                &settings?,
                Manifest::new(target, Action::Withdraw(generation)),
            ),
            Self::History { target, json } => history::show(&settings?, &target, json),
            Self::Status { target, json } => status::show(&settings?, target.as_ref(), json),
            Self::Show { drop, json } => show::show(&settings?, &drop, json),
            Self::Diff {
                target,
                from,
                to,
                json,
            } => diff::show(&settings?, &target, from.as_ref(), to.as_ref(), json),
            Self::May {
                user,
                action,
                target,
            } => Ok(may::answer(&settings?, &user, action, &target)),
            Self::Verify {
                target,
                signatures,
                json,
            } => verify::verify(&settings?, target.as_ref(), signatures, json),
            Self::CheckConfig(check) => check.run(settings, config, is_configured),
        }
    }
}
