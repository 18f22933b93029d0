//! All that is beneath a name, however deep or full that is: memory and stack stay small.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::dir::{Dir, Kind, Stat};
use super::failure::{Failure, Result};

/// Folders are gone into so deep while those above them are listed.
const MAX_DESCENT: usize = 32;

/// A path of so many names, of 255 bytes each, is shorter than `PATH_MAX`.
const SHORT: usize = 15;

/// So many deeper ones are remembered.
const MAX_DEEPER: usize = 100_000;

impl Dir {
    /// Calls `see` with what stands at `name`, and with all that is beneath, in no order, until it
    /// breaks off. Follows nothing. What can't be looked at, or has gone meanwhile, is an error there.
    pub(crate) fn walk(&self, name: &OsStr, see: &mut dyn FnMut(Result<Stat>) -> ControlFlow<()>) {
        let mut deeper = VecDeque::new();
        let mut flow = visit(self, Path::new(""), name, 0, &mut deeper, see);
        while flow.is_continue()
            && let Some(path) = deeper.pop_front()
        {
            flow = match self.descend(&path) {
                Ok(dir) => below(&dir, &path, MAX_DESCENT, &mut deeper, see),
                Err(failure) => see(Err(failure)),
            };
        }
    }

    /// The folder at `path`, which may be longer than the system takes.
    fn descend(&self, path: &Path) -> Result<Self> {
        let names: Vec<_> = path.components().collect();
        let mut parts = names
            .chunks(SHORT)
            .map(|part| part.iter().collect::<PathBuf>());
        let first = self.existing_dir(parts.next().unwrap_or_default())?;
        parts.try_fold(first, |dir, part| dir.existing_dir(part))
    }
}

/// All that is in `dir`, which is at `path`.
fn below(
    dir: &Dir,
    path: &Path,
    descent: usize,
    deeper: &mut VecDeque<PathBuf>,
    see: &mut dyn FnMut(Result<Stat>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    let listed = dir.each(|name, _| {
        flow = visit(dir, path, name, descent, deeper, see);
        flow
    });
    listed.map_or_else(|failure| see(Err(failure)), |()| flow)
}

/// What stands at `name` in `dir`, which is at `path`, and what is beneath it.
fn visit(
    dir: &Dir,
    path: &Path,
    name: &OsStr,
    descent: usize,
    deeper: &mut VecDeque<PathBuf>,
    see: &mut dyn FnMut(Result<Stat>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let gone = || Failure::new("looking at", dir.path().join(name), Errno::NOENT);
    let stat = dir.stat(name).and_then(|stat| stat.ok_or_else(gone));
    let is_folder = matches!(&stat, Ok(stat) if stat.kind == Kind::Dir);
    see(stat)?;
    if !is_folder {
        return ControlFlow::Continue(());
    }
    let path = path.join(name);
    if descent > 0 {
        return match dir.existing_dir(name) {
            Ok(folder) => below(&folder, &path, descent - 1, deeper, see),
            Err(failure) => see(Err(failure)),
        };
    }
    if deeper.len() >= MAX_DEEPER {
        return see(Err(Failure::new("going into", path, Errno::NOMEM)));
    }
    deeper.push_back(path);
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_seen_once_however_deep_it_is() {
        const DEPTH: usize = 3 * MAX_DESCENT;
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let long = "d".repeat(255);
        let (mut name, mut deepest) = ("top", Dir::open(folder.path()).unwrap());
        for _ in 0..DEPTH {
            deepest = deepest.dir_or_make(name, 0o755).unwrap();
            deepest.create("file").unwrap();
            name = &long;
        }
        let mut seen = Vec::new();
        dir.walk("top".as_ref(), &mut |stat| {
            seen.push(stat.unwrap().id);
            ControlFlow::Continue(())
        });
        assert_eq!(seen.len(), 2 * DEPTH);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2 * DEPTH);

        let mut count = 0;
        dir.walk("top".as_ref(), &mut |_| {
            count += 1;
            if count < 5 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        assert_eq!(count, 5);
        dir.walk("absent".as_ref(), &mut |stat| {
            assert_eq!(stat.unwrap_err().errno(), Some(Errno::NOENT));
            ControlFlow::Break(())
        });
    }
}
