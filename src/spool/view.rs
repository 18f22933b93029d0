//! The spool as anybody may see it who can read its folders: no lock is taken, nothing is changed.
//! What goes on in it the daemon tells, over its socket.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::drop::NOBODY;
use super::manifest::{MANIFEST, MAX_SIZE};
use super::names::{file_of, parse_place};
use super::outcome::Outcome;
use super::outcomes::{folder_of, folders};
use super::waiting::{WaitState, Waiting};
use super::{INCOMING, OUTCOMES, PROCESSING, REJECTED, SOCKET};
use crate::fault::Unwritable;
use crate::sys::{Dir, Failure, Importer, Kind, try_map};
use crate::words::Moment;

/// The daemon is asked at every moment, and answers then, or hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// So many outcomes one thread reads.
const FEW: usize = 256;

/// A spool, to be looked at.
#[derive(Debug)]
pub(crate) struct SpoolView {
    root: Dir,
}

/// What the daemon says of the drops on their way.
#[derive(Deserialize)]
struct Answer {
    waiting: Vec<Waiting>,
    /// So many more are not for this user to see.
    others: usize,
}

impl SpoolView {
    /// Whether the folders of the spool at `path` could be written, or made where they are not there.
    /// Nothing is changed.
    ///
    /// # Errors
    /// Why one of them could not.
    pub(crate) fn try_writing(path: &Path) -> Result<(), Unwritable> {
        Dir::try_writing(path)?;
        let mut folders = [INCOMING, PROCESSING, REJECTED, OUTCOMES].into_iter();
        Ok(folders.try_for_each(|folder| Dir::try_writing(&path.join(folder)))?)
    }

    /// # Errors
    /// When the spool is not there, or can't be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        // The spool's folders have to be readable, not the spool itself.
        Dir::enter(path).map(|root| Self { root })
    }

    /// Asks the daemon of the drops on their way, or of one, by its claim name: those that this user
    /// may see, and how many others there are. `None` where nobody listens: no daemon runs here.
    ///
    /// # Errors
    /// When somebody listens, and doesn't answer.
    pub(crate) fn ask(&self, drop: Option<&str>) -> Result<Option<(Vec<Waiting>, usize)>, Failure> {
        let Some(mut stream) = self.root.connect(SOCKET)? else {
            return Ok(None);
        };
        let mut ask = || {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            writeln!(stream, "{}", drop.unwrap_or_default())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(serde_json::from_slice::<Answer>(&answer)?)
        };
        let answer = ask().map_err(|error: std::io::Error| {
            Failure::new("asking the daemon at", self.root.path().join(SOCKET), error)
        })?;
        Ok(Some((answer.waiting, answer.others)))
    }

    /// Drops that were claimed, then those that are complete or still written, as the folders show
    /// them. What can't be looked at is a drop all the same.
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>, Failure> {
        let mut waiting = Vec::new();
        for (folder, state) in [
            (PROCESSING, WaitState::Claimed),
            (INCOMING, WaitState::Incoming),
        ] {
            self.look(folder, false, |name, importer, since, why| {
                let parsed = parse_place(name).filter(|_| folder == PROCESSING);
                let drop = match parsed {
                    Some((_, name)) => name.to_string(),
                    None => name.to_string_lossy().to_string(),
                };
                waiting.push(Waiting {
                    drop,
                    target: None,
                    importer,
                    since,
                    state,
                    why,
                });
            })?;
        }
        Ok(waiting)
    }

    /// What was begun in `incoming/` and has not been handed over, the oldest first.
    pub(crate) fn drafts(&self) -> Result<Vec<Waiting>, Failure> {
        let mut drafts = Vec::new();
        self.look(INCOMING, true, |name, importer, since, why| {
            drafts.push(Waiting {
                drop: name.to_string_lossy().to_string(),
                target: None,
                importer,
                since,
                state: WaitState::Draft,
                why,
            });
        })?;
        drafts.sort_by_key(|draft| draft.since);
        Ok(drafts)
    }

    /// Looks at the names in a folder of drops, hidden ones or others.
    fn look(
        &self,
        folder: &str,
        is_hidden: bool,
        mut see: impl FnMut(&OsStr, Importer, Moment, String),
    ) -> Result<(), Failure> {
        let Some(dir) = self.readable(folder)? else {
            return Ok(());
        };
        for (name, _) in dir.names()? {
            if name.as_bytes().starts_with(b".") != is_hidden {
                continue;
            }
            match dir.stat(&name) {
                Ok(None) => {}
                Ok(Some(stat)) => {
                    let importer = Importer::of(stat.owner.uid);
                    see(&name, importer, stat.changed, String::new());
                }
                // Its owner has put something in its place that nobody else may look at.
                Err(failure) => {
                    let unknown = Importer {
                        uid: NOBODY,
                        name: "?".to_string(),
                    };
                    let why = format!("can't be looked at: {}", failure.cause);
                    see(&name, unknown, Moment::now(), why);
                }
            }
        }
        Ok(())
    }

    /// The outcomes of rejected drops that are kept, the newest first: so many at most of those that
    /// are `meant`, and how many of these there are. Whoever may not read what is kept sees the
    /// outcomes of the user's own.
    pub(crate) fn rejected(
        &self,
        most: usize,
        is_meant: Option<&(dyn Fn(&Outcome) -> bool + Sync)>,
    ) -> Result<(Vec<Outcome>, usize), Failure> {
        let own = rustix::process::geteuid().as_raw();
        let (dir, is_all) = match self.readable(REJECTED)? {
            Some(dir) => (dir, true),
            None => match self.readable(&own_outcomes())? {
                Some(dir) => (dir, false),
                None => return Ok((Vec::new(), 0)),
            },
        };
        let mut files = Vec::new();
        for (name, kind) in dir.names()? {
            if kind == Kind::File
                && name.as_bytes().ends_with(b".json")
                && let Some(stat) = dir.stat(&name)?
            {
                files.push((stat.changed, name));
            }
        }
        files.sort_unstable_by(|a, b| b.cmp(a));
        let all = files.len();
        // Where all are meant, those that are not shown need not be read.
        let is_every = is_all && is_meant.is_none();
        if is_every {
            files = newest_of_each(&dir, files, most);
        }
        let read = |(_, name)| Outcome::read(&dir, name);
        let outcomes = try_map(files, FEW, read)?.into_iter().flatten();
        let is_shown = |outcome: &Outcome| {
            let is_own = is_all || (outcome.is_rejected() && outcome.importer.uid == own);
            is_own && is_meant.is_none_or(|is_meant| is_meant(outcome))
        };
        let mut rejected: Vec<_> = outcomes.filter(is_shown).collect();
        rejected.sort_by_key(|outcome| std::cmp::Reverse(outcome.finished_at));
        let count = if is_every { all } else { rejected.len() };
        rejected.truncate(most);
        Ok((rejected, count))
    }

    /// The folders of the spool that this user may not list.
    pub(crate) fn unseen(&self) -> Result<Vec<&'static str>, Failure> {
        let mut unseen = Vec::new();
        for folder in [INCOMING, PROCESSING, REJECTED, OUTCOMES] {
            if self.readable(folder)?.is_none() {
                unseen.push(folder);
            }
        }
        Ok(unseen)
    }

    /// The drops and outcomes whose names begin so; all of them, if the beginning is a whole name.
    pub(crate) fn named(&self, beginning: &str) -> Result<Vec<String>, Failure> {
        let mut found = Vec::new();
        let mut listed = Vec::new();
        for folder in [INCOMING, PROCESSING, REJECTED] {
            listed.extend(self.readable(folder)?.map(|dir| (folder, dir)));
        }
        if let Some(outcomes) = self.readable(OUTCOMES)? {
            listed.extend(folders(&outcomes)?.into_iter().map(|dir| (OUTCOMES, dir)));
        }
        for (folder, dir) in listed {
            for (name, _) in dir.names()? {
                let own = match folder {
                    PROCESSING => parse_place(&name).map(|(_, name)| name.to_string()),
                    _ => name.to_str().map(String::from),
                };
                let own = own.as_deref().filter(|name| name.starts_with(beginning));
                found.extend(own.map(|name| name.strip_suffix(".json").unwrap_or(name).into()));
            }
        }
        found.sort_unstable();
        found.dedup();
        if found.iter().any(|name| name == beginning) {
            found.retain(|name| name == beginning);
        }
        Ok(found)
    }

    /// Where a drop is: in `incoming/`, `processing/` or `rejected/`, from the spool's root; and its
    /// manifest as it stands where this user may read that. Several drops may have had one name.
    pub(crate) fn places(&self, drop: &str) -> Result<(Vec<PathBuf>, Option<String>), Failure> {
        let (mut places, mut found) = (Vec::new(), None);
        for folder in [INCOMING, PROCESSING, REJECTED] {
            // A drop of one's own is there also for whoever may not list all.
            let Ok(Some(dir)) = self.root.dir_to_enter(folder) else {
                continue;
            };
            if drop.contains('/') || dir.stat(".").is_err() {
                continue;
            }
            let mut names = vec![OsStr::new(drop).to_os_string()];
            if folder == PROCESSING {
                let listed = self
                    .readable(folder)?
                    .map_or(Ok(Vec::new()), |it| it.names())?;
                let is_it = |name: &OsStr| {
                    parse_place(name).is_some_and(|(_, claim_name)| *claim_name == *drop)
                };
                names = listed.into_iter().map(|(name, _)| name).collect();
                names.retain(|name| is_it(name));
            }
            for name in names {
                // What can't be looked at is there.
                if matches!(dir.stat(&name), Ok(None)) {
                    continue;
                }
                let manifest = dir.read(Path::new(&name).join(MANIFEST), MAX_SIZE);
                let manifest = manifest.ok().flatten();
                // The drop that is on its way comes before one that was rejected.
                found = found.or(manifest.map(|it| String::from_utf8_lossy(&it).to_string()));
                places.push(Path::new(folder).join(&name));
            }
        }
        Ok((places, found))
    }

    /// The file that the outcome of a drop of this user is written to. Its folder is made when the first
    /// drop is claimed.
    pub(crate) fn own_outcome_file(&self, drop: &str) -> PathBuf {
        let folder = self.root.path().join(own_outcomes());
        folder.join(file_of(drop))
    }

    /// The outcome of a drop of this user; `None` while there is none.
    pub(crate) fn own_outcome(&self, drop: &str) -> Result<Option<Outcome>, Failure> {
        let folder = self.root.dir(own_outcomes())?;
        folder.map_or(Ok(None), |dir| Outcome::read(&dir, file_of(drop)))
    }

    /// The outcomes of drops of this name that this user may read, the last one first.
    pub(crate) fn outcomes(&self, drop: &str) -> Result<Vec<Outcome>, Failure> {
        let mut found = Vec::new();
        for folder in self
            .readable(OUTCOMES)?
            .map_or(Ok(Vec::new()), |it| folders(&it))?
        {
            found.extend(Outcome::read(&folder, file_of(drop))?);
        }
        found.sort_by_key(|outcome| std::cmp::Reverse(outcome.finished_at));
        Ok(found)
    }

    /// Whether there are outcomes of drops of the user `uid` that are not for this user to read.
    pub(crate) fn hides_outcomes_of(&self, uid: u32) -> bool {
        let folder = self.root.dir(format!("{OUTCOMES}/{}", folder_of(uid)));
        folder.is_err_and(|failure| failure.is(ErrorKind::PermissionDenied))
    }

    /// The outcome of a rejected drop that is kept beside it, for as long as that is.
    pub(crate) fn kept_outcome(&self, drop: &str) -> Result<Option<Outcome>, Failure> {
        let rejected = self.readable(REJECTED)?;
        rejected.map_or(Ok(None), |rejected| Outcome::read(&rejected, file_of(drop)))
    }

    /// A folder of the spool; `None` also for one that this user may not read.
    fn readable(&self, folder: &str) -> Result<Option<Dir>, Failure> {
        match self.root.dir(folder) {
            Err(failure) if failure.is(ErrorKind::PermissionDenied) => Ok(None),
            dir => dir,
        }
    }
}

/// The folder of this user's outcomes, from the spool's root.
fn own_outcomes() -> String {
    let own = rustix::process::geteuid().as_raw();
    format!("{OUTCOMES}/{}", folder_of(own))
}

/// So many of these outcomes, the newest first, of each importer in turn: one who has thousands hides
/// nobody's. Whose a drop is is known while it is kept.
fn newest_of_each(
    dir: &Dir,
    files: Vec<(Moment, OsString)>,
    most: usize,
) -> Vec<(Moment, OsString)> {
    let mut counts = HashMap::new();
    let mut ranked: Vec<_> = files
        .into_iter()
        .map(|file| {
            let drop = Path::new(&file.1)
                .file_stem()
                .and_then(|drop| dir.stat(drop).ok());
            let owner = drop.flatten().map(|stat| stat.owner.uid);
            let count: &mut usize = counts.entry(owner).or_default();
            *count += 1;
            (*count, file)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .take(most)
        .map(|(_, file)| file)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Reason, Verdict, Vouched};

    #[test]
    fn the_drop_that_was_rejected_last_comes_first_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(REJECTED)).unwrap();
        for (drop, seconds) in [("a", 2), ("b", 1), ("c", 3)] {
            let at = Moment::from_stat(seconds, 0);
            let outcome = Outcome {
                format: Outcome::FORMAT,
                drop: drop.to_string(),
                claim: ClaimId::new(1, 2),
                target: None,
                verdict: Verdict::Rejected,
                reason: Some(Reason::Incomplete),
                detail: None,
                image: None,
                importer: Importer::of(0),
                vouched: Vouched::default(),
                received_at: at,
                finished_at: at,
            };
            let file = folder.path().join(REJECTED).join(file_of(drop));
            std::fs::write(file, outcome.to_json()).unwrap();
        }
        let view = SpoolView::open(folder.path()).unwrap();
        let (rejected, count) = view.rejected(usize::MAX, None).unwrap();
        let drops: Vec<_> = rejected.into_iter().map(|outcome| outcome.drop).collect();
        assert_eq!(
            (drops, count),
            (["c", "a", "b"].map(String::from).into(), 3)
        );
    }
}
