//! Drafts: names in `incoming/` that begin with a dot. An importer is still writing them, or has left
//! them behind.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::clock::Reading;
use crate::sys::{Dir, Failure, Stat};
use crate::words::Moment;

/// A draft that was left behind, and goes.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) name: OsString,
    pub(super) owner: u32,
    /// For so long nobody has changed it.
    pub(super) age: Duration,
}

/// The drafts in `incoming/` that can be looked at: each with its owner, and when it was changed last,
/// without what is in it.
pub(super) fn list(incoming: &Dir) -> Result<Vec<(String, u32, Moment)>, Failure> {
    let look = |name: OsString| {
        let stat = incoming.stat(&name).ok().flatten()?;
        let name = name.to_string_lossy().into();
        Some((name, stat.owner.uid, stat.changed))
    };
    Ok(names(incoming)?.into_iter().filter_map(look).collect())
}

/// Removes drafts that nobody has changed for `keep`, at any depth: each is taken to `processing/`
/// under the name that `place_of` gives it, and is looked at once more there, where nobody can hand it
/// over meanwhile. One that something is mounted in, or that can't be looked at, stays.
///
/// Returns those that went, and after how long the next one will have to.
pub(super) fn expire(
    (incoming, processing): (&Dir, &Dir),
    keep: Duration,
    clock: &dyn Fn() -> Result<Reading, Failure>,
    place_of: &dyn Fn(&OsStr) -> String,
) -> Result<(Vec<Left>, Option<Duration>), Failure> {
    let (mut gone, mut next) = (Vec::new(), None::<Duration>);
    for name in names(incoming)? {
        let Ok(Some(stat)) = incoming.stat(&name) else {
            continue;
        };
        let Some(age) = age(incoming, &name, keep, clock()?, |stat| stat.changed) else {
            continue;
        };
        let left = keep.saturating_sub(age);
        if !left.is_zero() {
            next = Some(next.map_or(left, |next| next.min(left)));
            continue;
        }
        let place = place_of(&name);
        if incoming.rename(&name, processing, &place).is_err() {
            continue;
        }
        // The rename has changed it itself.
        let again = self::age(processing, place.as_ref(), keep, clock()?, |stat| {
            stat.modified
        });
        if again.is_none_or(|age| age < keep) {
            give_back(processing, &place, incoming, &name)?;
            continue;
        }
        if let Err(failure) = processing.remove_tree(&place, 0) {
            // What is left of it is looked at again when that has not changed for so long.
            give_back(processing, &place, incoming, &name)?;
            if !failure.is_by_owner() {
                return Err(failure);
            }
            continue;
        }
        let owner = stat.owner.uid;
        gone.push(Left { name, owner, age });
    }
    Ok((gone, next))
}

/// The names of all drafts.
fn names(incoming: &Dir) -> Result<Vec<OsString>, Failure> {
    let names = incoming.names()?.into_iter().map(|(name, _)| name);
    Ok(names
        .filter(|name| name.as_bytes().starts_with(b"."))
        .collect())
}

/// For so long nothing at `name` in `dir` has changed, at any depth: the look ends at the first change
/// that is younger than `keep`. `None` where that can't be found out. `of_itself` is when the name
/// itself was changed.
fn age(
    dir: &Dir,
    name: &OsStr,
    keep: Duration,
    clock: Reading,
    of_itself: fn(&Stat) -> Moment,
) -> Option<Duration> {
    let (mut age, mut is_itself) = (None::<Duration>, true);
    dir.walk(name, &mut |stat| {
        let Ok(stat) = stat else {
            age = None;
            return ControlFlow::Break(());
        };
        let changed = if is_itself {
            of_itself(&stat)
        } else {
            stat.changed
        };
        is_itself = false;
        // What was changed before the clock was set back is left alone: nobody knows how old it is.
        let known = Some(clock.age(changed)).filter(|age| *age < Duration::MAX);
        let this = known.unwrap_or_default();
        age = Some(age.map_or(this, |age| age.min(this)));
        if this < keep {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    age
}

/// Puts a draft back that is still being written; where its name is taken by now, beside that.
fn give_back(processing: &Dir, place: &str, incoming: &Dir, name: &OsStr) -> Result<(), Failure> {
    let (mut free, mut number) = (name.to_os_string(), 0);
    while !processing.rename_new(place, incoming, &free)? {
        number += 1;
        free = name.to_os_string();
        free.push(format!("~{number}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    const KEEP: Duration = Duration::from_secs(100);

    struct World {
        folder: tempfile::TempDir,
        incoming: Dir,
        processing: Dir,
    }

    impl World {
        /// With the draft `.left`, which is deep.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["incoming/.left/image/boot", "processing"] {
                fs::create_dir_all(folder.path().join(name)).unwrap();
            }
            let open = |name: &str| Dir::open(&folder.path().join(name)).unwrap();
            let world = Self {
                incoming: open("incoming"),
                processing: open("processing"),
                folder,
            };
            fs::write(world.at(".left/image/boot/grub"), "x").unwrap();
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join("incoming").join(path)
        }

        /// What goes so long after now, where `meanwhile` happens between the two looks.
        fn expire(
            &self,
            after: Duration,
            meanwhile: impl Fn(),
        ) -> (Vec<OsString>, Option<Duration>) {
            let now = self.processing.now().unwrap().later(after);
            let folders = (&self.incoming, &self.processing);
            let place = |name: &OsStr| {
                meanwhile();
                format!("taken{}", name.to_string_lossy())
            };
            let clock = || Ok(Reading::for_test(now));
            let (left, next) = expire(folders, KEEP, &clock, &place).unwrap();
            assert!(self.processing.names().unwrap().is_empty());
            (left.into_iter().map(|left| left.name).collect(), next)
        }

        fn names(&self) -> Vec<OsString> {
            let names = self.incoming.names().unwrap().into_iter();
            names.map(|(name, _)| name).collect()
        }
    }

    #[test]
    fn a_draft_goes_when_nothing_in_it_has_changed_for_so_long() {
        let world = World::new();
        fs::create_dir(world.at("drop")).unwrap();
        let (gone, next) = world.expire(KEEP / 2, || {});
        assert!(gone.is_empty());
        assert!(next.is_some_and(|next| next <= KEEP / 2), "{next:?}");
        let (gone, next) = world.expire(KEEP, || {});
        assert_eq!((gone, next), (vec![".left".into()], None));
        assert_eq!(world.names(), ["drop"]);
    }

    #[test]
    fn a_draft_that_somebody_goes_on_with_stays_however_deep_that_is() {
        let world = World::new();
        let made = world.processing.now().unwrap();
        while world.processing.now().unwrap() <= made.later(Duration::from_millis(20)) {}
        fs::write(world.at(".left/image/boot/grub"), "y").unwrap();
        let changed = world
            .incoming
            .stat(".left/image/boot/grub")
            .unwrap()
            .unwrap();
        // The draft itself was changed longer ago than what is in it.
        let clock = || {
            Ok(Reading::for_test(
                changed
                    .changed
                    .later(KEEP.saturating_sub(Duration::from_millis(5))),
            ))
        };
        let folders = (&world.incoming, &world.processing);
        let (left, next) = expire(folders, KEEP, &clock, &|_| unreachable!()).unwrap();
        assert!(left.is_empty());
        assert_eq!(next, Some(Duration::from_millis(5)));
    }

    #[test]
    fn a_draft_that_is_changed_while_it_is_taken_is_given_back() {
        let world = World::new();
        let (gone, _) = world.expire(KEEP, || {
            let looked = world.processing.now().unwrap();
            while world.processing.now().unwrap() <= looked {}
            fs::write(world.at(".left/image/boot/new"), "x").unwrap();
        });
        assert!(gone.is_empty());
        assert_eq!(world.names(), [".left"]);
        assert!(world.at(".left/image/boot/new").exists());
    }

    #[test]
    fn what_is_given_back_takes_the_place_of_nothing() {
        let world = World::new();
        fs::rename(
            world.at(".left"),
            world.folder.path().join("processing/taken"),
        )
        .unwrap();
        fs::create_dir(world.at(".left")).unwrap();
        give_back(
            &world.processing,
            "taken",
            &world.incoming,
            ".left".as_ref(),
        )
        .unwrap();
        assert_eq!(world.names(), [".left", ".left~1"]);
        assert!(world.at(".left~1/image").exists());
    }
}
