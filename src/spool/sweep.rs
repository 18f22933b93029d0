//! What goes from the spool again: outcomes, rejected drops and drafts that were kept long enough, and
//! rejected drops that there is no room for.

use std::ffi::OsStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::clock::Reading;
use super::drafts::Left;
use super::rejected::Gone;
use super::{Spool, drafts, outcomes};
use crate::settings::SpoolSettings;
use crate::sys::{Dir, Failure, Importer};
use crate::text::quoted;

/// Drafts that a message names.
const NAMED: usize = 5;

/// Whose, what was removed before its time or without an outcome, and why.
type Removed = Vec<(Importer, String)>;

impl Spool {
    /// Removes outcomes, rejected drops and drafts that were kept long enough, and measures rejected
    /// drops that are new. Returns after how long the next thing will have to go, what is old of
    /// rejected drops and their owners keep from being removed, and the drafts that went.
    ///
    /// # Errors
    /// Says why something could not be removed; the rest is gone all the same.
    pub(crate) fn sweep(
        &self,
        settings: &SpoolSettings,
    ) -> Result<(Option<Duration>, Vec<Failure>, Removed), Failure> {
        let clock = || self.clock.read(&self.processing.dir);
        let (mut of_outcomes, mut failed) = (None::<Duration>, Vec::new());
        for folder in outcomes::folders(&self.outcomes.dir)? {
            let (next, failures) = expire(&folder, settings.keep_outcomes, clock()?)?;
            of_outcomes = [of_outcomes, next].into_iter().flatten().min();
            failed.extend(failures);
        }
        let (rejected, kept) = expire(&self.rejected.dir, settings.keep_rejected, clock()?)?;
        let (kept, others): (Vec<_>, Vec<_>) = (kept.into_iter()).partition(Failure::is_by_owner);
        self.rejected.look()?;
        let place = |name: &OsStr| self.processing.place_to_remove(name);
        let folders = (&self.incoming, &self.processing.dir);
        let (left, drafts) = drafts::expire(folders, settings.keep_drafts, &clock, &place)?;
        if let Some(failure) = failed.into_iter().chain(others).next() {
            return Err(failure);
        }
        let next = [of_outcomes, rejected, drafts].into_iter().flatten().min();
        Ok((next, kept, told_drafts(left)))
    }

    /// Removes rejected drops that hold more than they may, or for which too little room is free.
    /// Returns those, and what to say where that was not enough.
    ///
    /// # Errors
    /// Why one of them could not be removed.
    pub(crate) fn make_room(
        &self,
        settings: &SpoolSettings,
    ) -> Result<(Removed, Option<String>), Failure> {
        let (max, min) = (settings.max_rejected, settings.min_free_space);
        self.rejected.measure_new();
        let gone = self.rejected.bound(|all, _| all > max)?;
        let max = ByteSize(max);
        let why = format!("all together take more than {max} (`spool.max_rejected`)");
        let mut removed = told(gone, &why);
        let (free, _) = self.root.free_space()?;
        let gone = self
            .rejected
            .bound(|_, freed| free.saturating_add(freed) < min)?;
        let free = gone
            .iter()
            .fold(free, |free, gone| free.saturating_add(gone.bytes));
        let shown = ByteSize(min);
        let why = format!("less than {shown} was free (`spool.min_free_space`)");
        removed.extend(told(gone, &why));
        let shortage = (free < min)
            .then(|| shortage(&self.incoming, free, min))
            .transpose()?;
        Ok((removed, shortage))
    }
}

/// What to say when nothing is left that could go.
fn shortage(incoming: &Dir, free: u64, min: u64) -> Result<String, Failure> {
    let (free, min) = (ByteSize(free), ByteSize(min));
    let drafts = drafts::list(incoming)?;
    let name = |(name, owner, _): &(String, u32, _)| {
        format!("{} of {}", quoted(name), Importer::of(*owner).name)
    };
    let named: Vec<_> = drafts.iter().take(NAMED).map(name).collect();
    let more = match drafts.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let drafts = match named.len() {
        0 => String::new(),
        _ => format!(
            ", for example by removing drafts: {}{more}",
            named.join(", ")
        ),
    };
    Ok(format!(
        "the spool has {free} free, less than {min} (`spool.min_free_space`), and no rejected drop \
         is left to remove: rejected drops are not kept, publishing goes on; make room{drafts}"
    ))
}

/// What the log says of drafts that were removed.
fn told_drafts(left: Vec<Left>) -> Removed {
    let told = left.into_iter().map(|draft| {
        let name = quoted(&draft.name.to_string_lossy());
        let age = humantime::format_duration(Duration::from_secs(draft.age.as_secs()));
        let what = format!("removed draft {name}, which nobody has changed for {age}");
        (Importer::of(draft.owner), what)
    });
    told.collect()
}

/// What the log says of rejected drops that were removed.
fn told(gone: Vec<Gone>, why: &str) -> Removed {
    let told = gone.into_iter().map(|gone| {
        let (name, bytes) = (quoted(&gone.name.to_string_lossy()), ByteSize(gone.bytes));
        let what = format!("removed rejected drop {name}, {bytes}: {why}; its outcome stays");
        (Importer::of(gone.owner), what)
    });
    told.collect()
}

/// Removes what was kept in `dir` for so long. Returns after how long the next thing will have to go,
/// and why some could not be removed.
fn expire(
    dir: &Dir,
    keep: Duration,
    clock: Reading,
) -> Result<(Option<Duration>, Vec<Failure>), Failure> {
    let (mut next, mut failures) = (None::<Duration>, Vec::new());
    for (name, _) in dir.names()? {
        // `changed` is the time of the last rename: the importer has no hand in it.
        let changed = match dir.stat(&name) {
            Ok(None) => continue,
            Ok(Some(stat)) => stat.changed,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        // What was kept before the clock was set back is kept on: nobody knows how old it is.
        let age = Some(clock.age(changed)).filter(|age| *age < Duration::MAX);
        let left = keep.saturating_sub(age.unwrap_or_default());
        if left.is_zero() {
            failures.extend(dir.remove_tree(&name, 0).err());
        } else {
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    Ok((next, failures))
}
