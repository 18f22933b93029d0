//! `check-config`: all that is wrong with the configuration, before a daemon meets it.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::configuration::{BadConfig, code};
use super::rules;
use super::terminal::print;
use crate::fault::Unwritable;
use crate::listeners::BootConfigs;
use crate::settings::Settings;
use crate::spool::SpoolView;
use crate::sys::{Dir, Importer, Ownership};
use crate::tree::{Staging, Tree};
use crate::trust::oddities;

#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// Say nothing: only the exit code tells
    #[arg(long, short)]
    quiet: bool,
}

impl CheckConfig {
    /// Checks the configuration at `path`, or else the one at the usual place, if it is there.
    pub(super) fn run(
        &self,
        settings: Result<Settings, BadConfig>,
        path: Option<&Path>,
        is_there: bool,
    ) -> anyhow::Result<ExitCode> {
        let checked = settings.and_then(|settings| Ok((check(&settings)?, settings)));
        let (untried, settings) = match checked {
            Err(error) if self.quiet => return Ok(code(&error.into())),
            checked => checked?,
        };
        if self.quiet {
            return Ok(ExitCode::SUCCESS);
        }
        let path = path.unwrap_or(Path::new(Settings::DEFAULT_PATH)).display();
        let verdict = if is_there {
            "good"
        } else {
            "not there, the built-in defaults apply"
        };
        let untried = tell_untried(&untried);
        // Users and groups are looked up for it: not for a reload, which is quiet.
        let note = settings.importers.note();
        let rules = note.map_or_else(
            || rules::blocks(&settings.importers),
            |note| format!("{note}\n"),
        );
        let oddities = oddities(&settings.importers);
        let warnings: Vec<_> = oddities
            .iter()
            .map(|it| format!("warning: {it}\n"))
            .collect();
        let gap = if warnings.is_empty() { "" } else { "\n" };
        let warnings = warnings.concat();
        print(&format!(
            "{path}: {verdict}{untried}\n{rules}{gap}{warnings}"
        ))
    }
}

/// What could not be tried, behind the verdict.
fn tell_untried(untried: &[String]) -> String {
    if untried.is_empty() {
        return String::new();
    }
    let user = Importer::of(Ownership::of_process().uid).name;
    let untried = untried.join("\n");
    format!(", as far as the user {user:?} may try it:\n{untried}")
}

/// As [`check`], where a daemon is at work that goes on without what something is in the way of.
///
/// # Errors
/// All else that is wrong.
pub(super) fn check_for_reload(settings: &Settings) -> Result<(), BadConfig> {
    try_all(settings, true).map(drop)
}

/// Tries what the daemon will do with these settings, and changes nothing. Returns what could not be
/// tried, because the daemon is another user's.
///
/// # Errors
/// All that is wrong.
fn check(settings: &Settings) -> Result<Vec<String>, BadConfig> {
    try_all(settings, false)
}

fn try_all(settings: &Settings, goes_on: bool) -> Result<Vec<String>, BadConfig> {
    let tree = Tree::open(&settings.tree.path).ok();
    let user = Ownership::of_process();
    let is_others = user.uid != 0 && tree.and_then(|tree| tree.keeper()) != Some(user.uid);
    let (mut wrong, mut untried) = (Vec::new(), Vec::new());
    let mut take = |trouble: String, is_of_user: bool| {
        let list = if is_others && is_of_user {
            &mut untried
        } else {
            &mut wrong
        };
        list.push(trouble);
    };
    let textfile = settings.metrics.textfile.as_deref().and_then(Path::parent);
    let textfile = textfile.map_or(Ok(()), |folder| {
        let folder = Dir::enter(folder).and_then(|folder| folder.check_writable());
        folder.map_err(Unwritable::from)
    });
    for (key, tried) in [
        ("spool.path", SpoolView::try_writing(&settings.spool.path)),
        ("tree.path", Staging::try_writing(&settings.tree.path)),
        ("metrics.textfile", textfile),
    ] {
        if let Err(trouble) = tried {
            take(format!("{key}: {trouble}"), trouble.is_of_user());
        }
    }
    if let Err(unknown) = settings.tree.ownership(user) {
        take(unknown.to_string(), false);
    }
    let obstacles = BootConfigs::check(settings).into_iter();
    for obstacle in obstacles.filter(|it| !(goes_on && it.may_go)) {
        take(obstacle.said, obstacle.is_of_user);
    }
    if wrong.is_empty() {
        Ok(untried)
    } else {
        Err(BadConfig::Unfit(wrong))
    }
}
