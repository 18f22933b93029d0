//! Where the program's own files are, and the daemon's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::report::Report;
use super::shown::Shown;
use crate::commands::read_settings;
use crate::settings::Settings;
use crate::sources::Source;
use crate::sys::{Dir, Importer};
use crate::text::InputError;
use crate::tree::Tree;
use crate::words::{Digest, Target};

/// Bytes of a file at most.
const MAX_FILE: u64 = 1 << 20;

/// The ending of the files that say something.
const ENDING: &str = ".toml";

/// What all verbs go by.
pub(super) struct World {
    /// The daemon's.
    pub(super) settings: Settings,
    pub(super) sources: PathBuf,
    pub(super) state: PathBuf,
    pub(super) shown: Shown,
    refused: Mutex<BTreeMap<(String, Target), Refused>>,
}

/// What was rejected: it is dropped again after a while only, by a program that runs for good.
struct Refused {
    /// Of what was brought.
    what: Digest,
    at: Instant,
    report: Report,
}

/// After so long what was rejected is tried again: a rule may have changed.
const AGAIN: Duration = Duration::from_secs(60 * 60);

/// What a file says, by the file's name, or what is wrong with it.
pub(super) type Named<T> = (String, anyhow::Result<T>);

impl World {
    /// Where the sources' files are usually.
    pub(super) const SOURCES: &str = "/etc/netboot-publisher/sources.d";

    /// Where the channels' files are usually.
    pub(super) const CHANNELS: &str = "/etc/netboot-publisher/channels.d";

    /// The folder of the state where nobody says another.
    const STATE: &str = "/var/lib/netboot-import";

    /// # Errors
    /// When the daemon's configuration is bad.
    pub(super) fn new(
        config: Option<&Path>,
        sources: PathBuf,
        state: Option<PathBuf>,
        is_json: bool,
    ) -> anyhow::Result<Self> {
        let given = || std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        Ok(Self {
            settings: read_settings(config)?.unwrap_or_default(),
            sources,
            state: state.or_else(given).unwrap_or_else(|| Self::STATE.into()),
            shown: Shown::new(is_json),
            refused: Mutex::default(),
        })
    }

    /// Makes sure that the folder of the state is this user's: what another one leaves there keeps its own user
    /// from going on.
    ///
    /// # Errors
    /// When it is another user's.
    pub(super) fn check_user(&self) -> anyhow::Result<()> {
        let Ok(dir) = Dir::enter(&self.state) else {
            return Ok(());
        };
        let owner = Importer::of(dir.stat_self()?.owner.uid);
        let own = Importer::of(rustix::process::geteuid().as_raw());
        anyhow::ensure!(
            owner.uid == own.uid,
            "{:?} is {}'s, and this is {}; run it as that user (`runuser -u {} -- netboot-import …`), or with \
             another --state",
            self.state,
            owner.shown(),
            own.shown(),
            owner.shown()
        );
        Ok(())
    }

    /// Takes note that something for a target was rejected.
    pub(super) fn refuse(&self, source: &str, target: &Target, what: Digest, report: &Report) {
        let refused = Refused {
            what,
            at: Instant::now(),
            report: report.clone(),
        };
        let mut all = self.refused.lock().expect("nobody panics with it");
        all.insert((source.to_string(), target.clone()), refused);
    }

    /// What was said when this very thing was rejected, not long ago.
    pub(super) fn refused(&self, source: &str, target: &Target, what: Digest) -> Option<Report> {
        let all = self.refused.lock().expect("nobody panics with it");
        let refused = all.get(&(source.to_string(), target.clone()))?;
        let is_it = refused.what == what && refused.at.elapsed() < AGAIN;
        is_it.then(|| refused.report.clone())
    }

    /// The sources of these names, or all; one whose file is bad holds up no other.
    ///
    /// # Errors
    /// When the folder can't be read, or has no source of a name.
    pub(super) fn sources(&self, names: &[String]) -> anyhow::Result<Vec<Named<Source>>> {
        read_named(&self.sources, names, "source", Source::parse)
    }

    /// The tree that the daemon publishes into, as far as it can be read from here.
    pub(super) fn tree(&self) -> Option<Tree> {
        Tree::open(&self.settings.tree.path).ok()
    }
}

/// Reads the files of these names in a folder, or all; each says of one `what`.
///
/// # Errors
/// When the folder can't be read, or has no file of a name.
pub(super) fn read_named<T>(
    folder: &Path,
    names: &[String],
    what: &str,
    parse: impl Fn(&str, &str, &str) -> Result<T, InputError>,
) -> anyhow::Result<Vec<Named<T>>> {
    let dir = Dir::open(folder)?;
    let all = self::names(&dir)?;
    for name in names {
        let file = folder.join(format!("{name}{ENDING}"));
        anyhow::ensure!(
            all.contains(name),
            "no such {what}: {name}; expected a file {file:?}"
        );
    }
    let read = |name: &str| {
        let file = format!("{name}{ENDING}");
        let path = folder.join(&file);
        let bytes = dir.read(&file, MAX_FILE)?;
        let bytes = bytes.with_context(|| format!("{path:?} is gone"))?;
        let text = String::from_utf8(bytes);
        let text = text.with_context(|| format!("{path:?}: expected UTF-8"))?;
        // An excerpt has several lines.
        let parsed = parse(name, &path.display().to_string(), &text);
        parsed.map_err(|error| anyhow::anyhow!("bad {what}\n{error}"))
    };
    let wanted = |name: &String| names.is_empty() || names.contains(name);
    let named = all.into_iter().filter(wanted);
    Ok(named.map(|name| (name.clone(), read(&name))).collect())
}

/// The names of the files that end so in a folder, without that ending, sorted.
fn names(dir: &Dir) -> anyhow::Result<Vec<String>> {
    let names = dir.names()?.into_iter();
    let names = names.filter_map(|(name, _)| name.into_string().ok());
    let names = names.filter_map(|name| name.strip_suffix(ENDING).map(str::to_string));
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::report::Came;
    use super::*;

    #[test]
    fn what_was_refused_is_tried_again_after_an_hour_and_what_is_another_at_once() {
        let world = World {
            settings: Settings::default(),
            sources: PathBuf::new(),
            state: PathBuf::new(),
            shown: Shown::new(false),
            refused: Mutex::default(),
        };
        let target: Target = "a/b/c/d".parse().unwrap();
        let what = Digest::of(b"what was refused");
        let report = Report::new("x", Some(&target), Came::Rejected);
        world.refuse("x", &target, what, &report);
        assert_eq!(world.refused("x", &target, what), Some(report));
        assert_eq!(world.refused("x", &target, Digest::of(b"another")), None);
        assert_eq!(world.refused("y", &target, what), None);
        let mut all = world.refused.lock().unwrap();
        for refused in all.values_mut() {
            refused.at = refused.at.checked_sub(AGAIN).unwrap();
        }
        drop(all);
        assert_eq!(world.refused("x", &target, what), None);
    }
}
