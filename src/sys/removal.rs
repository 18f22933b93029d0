//! Removing a folder with all that is in it, however deep, full or shut that is.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;

use rustix::io::Errno;

use super::dir::{Dir, Kind};
use super::failure::{Failure, Result};
use super::try_map;

/// The files of a folder that holds more bytes are removed side by side: to free a large file takes
/// the kernel long.
const LARGE: u64 = 64 << 20;

/// Below this depth folders are lifted up instead of going down.
const MAX_DESCENT: usize = 32;

/// The mode in which a folder can be emptied by its own user.
const OPEN: u32 = 0o700;

/// So many names of a folder are removed at a time: memory stays small beside a million of them.
const AT_A_TIME: usize = 4_096;

/// What a pass of a removal has left.
#[derive(Debug, Default)]
struct Left {
    /// How many names had to be left.
    count: usize,
    /// Why the first of them could not be removed.
    why: Option<Failure>,
    /// Folders were lifted, and are to be emptied where they are now.
    has_lifted: bool,
}

impl Dir {
    /// Removes `name` and everything beneath it; follows nothing. `bytes` is what the files in it
    /// hold, about; 0 where nobody knows. What its owner keeps from being removed, with a mount or a
    /// mode, is left, and all the rest goes.
    ///
    /// # Errors
    /// Why the first of what is left could not be removed; after an error of another kind all that was
    /// not removed before is still there.
    pub(crate) fn remove_tree(&self, name: impl AsRef<Path>, bytes: u64) -> Result<()> {
        let top = match self.open_up(&name) {
            Ok(Some(top)) => top,
            Ok(None) => return Ok(()),
            Err(failure) if matches!(failure.errno(), Some(Errno::NOTDIR | Errno::LOOP)) => {
                return self.remove_file(name).map(drop);
            }
            Err(failure) => return Err(failure),
        };
        let few = if bytes > LARGE { 1 } else { usize::MAX };
        let mut left = Left::default();
        empty(&top, &top, (MAX_DESCENT, few), &mut left)?;
        while left.has_lifted {
            left = Left::default();
            empty(&top, &top, (MAX_DESCENT, few), &mut left)?;
        }
        match left.why {
            Some(failure) => Err(failure),
            None => self.remove_dir(name).map(drop),
        }
    }

    /// The directory `name`, to be emptied; where its own user shut it, it is opened up.
    fn open_up(&self, name: impl AsRef<Path>) -> Result<Option<Self>> {
        match self.dir(&name) {
            Err(failure) if failure.errno() == Some(Errno::ACCESS) => {
                self.unlock(&name).map_err(|_| failure)?;
                self.dir(name)
            }
            opened => opened,
        }
    }
}

/// What `act` does in `dir`. Where `dir` refuses, its mode is changed and it is tried again: what is
/// removed may be a folder of one's own that nobody may write to, or go into.
///
/// # Errors
/// That of the first try, where the folder is another user's.
fn insist<T>(dir: &Dir, act: impl Fn() -> Result<T>) -> Result<T> {
    match act() {
        Err(failure) if failure.errno() == Some(Errno::ACCESS) => {
            dir.make_plain(OPEN).map_err(|_| failure)?;
            act()
        }
        done => done,
    }
}

/// Removes all that is in `dir`, but what has to be left; of more files than `few` several at a time.
/// Deeper than `descent` folders are lifted into `top`, which is emptied until nothing comes up any
/// more: neither the stack nor the number of open directories grows with the depth.
fn empty(dir: &Dir, top: &Dir, (descent, few): (usize, usize), left: &mut Left) -> Result<()> {
    loop {
        let mut names = Vec::new();
        dir.each(|name, kind| {
            names.push((name.to_os_string(), kind));
            if names.len() < AT_A_TIME {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let (all, before) = (names.len(), left.count);
        let (folders, files): (Vec<_>, _) = (names.into_iter()).partition(|it| it.1 == Kind::Dir);
        let kept = try_map(files, few, |(name, _)| {
            kept_by_owner(insist(dir, || dir.remove_file(&name)))
        })?;
        kept.into_iter().flatten().for_each(|why| left.take(why));
        let mut stay = left.count - before;
        for (name, _) in folders {
            let is_gone = empty_folder(dir, &name, top, (descent, few), left)?;
            stay += usize::from(!is_gone);
        }
        // What stays is listed again and again.
        if all < AT_A_TIME || stay == all {
            return Ok(());
        }
    }
}

/// Removes the folder `name` in `dir` as [`empty`] does, or lifts it. Returns whether it is gone from
/// there.
fn empty_folder(
    dir: &Dir,
    name: &OsStr,
    top: &Dir,
    (descent, few): (usize, usize),
    left: &mut Left,
) -> Result<bool> {
    let before = left.count;
    let mut go_on = || {
        let Some(folder) = insist(dir, || dir.open_up(name))? else {
            return Ok(true);
        };
        if descent == 0 {
            lift(dir, name, &folder, top)?;
            left.has_lifted = true;
            return Ok(true);
        }
        empty(&folder, top, (descent - 1, few), left)?;
        if left.count > before {
            return Ok(false);
        }
        insist(dir, || dir.remove_dir(name)).map(|_| true)
    };
    match go_on() {
        Err(failure) if failure.is_by_owner() => {
            left.take(failure);
            Ok(false)
        }
        done => done,
    }
}

/// Moves the `folder` that is called `name` in `dir` to `top`.
fn lift(dir: &Dir, name: &OsStr, folder: &Dir, top: &Dir) -> Result<()> {
    let (device, inode) = folder.stat_self()?.id;
    // What is removed may have names of this form already.
    let lifted = |number| format!("lifted-{device}-{inode}-{number}");
    let mut number = 0;
    let lift = |number| insist(dir, || dir.rename_new(name, top, lifted(number)));
    // A folder that goes to another one is written to: it names the one above it.
    while !insist(folder, || lift(number))? {
        number += 1;
    }
    Ok(())
}

/// Why the owner of what was to be `removed` has kept it; `None` when it is gone.
fn kept_by_owner(removed: Result<bool>) -> Result<Option<Failure>> {
    match removed {
        Err(failure) if failure.is_by_owner() => Ok(Some(failure)),
        removed => removed.map(|_| None),
    }
}

impl Left {
    fn take(&mut self, why: Failure) {
        self.count += 1;
        self.why.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_more_names_than_are_listed_at_a_time_goes_whole() {
        let folder = tempfile::tempdir().unwrap();
        let full = folder.path().join("full");
        std::fs::create_dir(&full).unwrap();
        for number in 0..=AT_A_TIME {
            std::fs::write(full.join(number.to_string()), "").unwrap();
        }
        let dir = Dir::open(folder.path()).unwrap();
        dir.remove_tree("full", 0).unwrap();
        assert!(!full.exists());
    }
}
