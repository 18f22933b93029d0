//! A look into a drop that stays where it is: its manifest, and whether what that lists is there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use rustix::io::Errno;

use super::drop::{Peeked, Ready, Seen};
use super::manifest::{MANIFEST, MAX_SIZE, Manifest};
use crate::fault::{Fault, reject};
use crate::sys::{Dir, Failure, FileExt as _, Kind, Stat};
use crate::text::quoted;
use crate::words::Reason;

/// The folder of a drop that holds the image.
pub(crate) const IMAGE: &str = "image";

/// Room for the endings that are put to a drop's name.
const MAX_NAME: usize = 200;

/// Begins the claim name of a drop whose own name is not fit for a file.
pub(super) const BAD_NAME: &str = "bad-name-";

/// What is in a drop.
enum Inside {
    Manifest(Manifest),
    Incomplete,
    Gone,
}

/// Reads the manifest of a drop in `place`. A file that the manifest lists is waited for until the
/// drop has not changed for `incomplete_timeout`.
///
/// # Errors
/// The machine's own troubles; what is wrong with the drop is in its [`Ready`].
pub(super) fn peek(place: &Dir, seen: Seen, incomplete_timeout: Duration) -> Result<Peeked, Fault> {
    let Some(stat) = place.stat(&seen.name)? else {
        return Ok(Peeked::Gone);
    };
    let manifest = match look_into(place, &seen, &stat, incomplete_timeout) {
        Ok(Inside::Manifest(manifest)) => Ok(manifest),
        Ok(Inside::Incomplete) => return Ok(Peeked::Incomplete),
        Ok(Inside::Gone) => return Ok(Peeked::Gone),
        Err(Fault::Reject(rejection)) => Err(rejection),
        Err(fault) => return Err(fault),
    };
    let id = (stat.kind == Kind::Dir).then_some(stat.id);
    Ok(Peeked::Ready(Ready { seen, id, manifest }))
}

fn look_into(
    place: &Dir,
    seen: &Seen,
    stat: &Stat,
    incomplete_timeout: Duration,
) -> Result<Inside, Fault> {
    if stat.kind != Kind::Dir {
        let detail = format!("expected a folder that holds {MANIFEST} and {IMAGE}/");
        return Err(reject(Reason::NotADirectory, detail));
    }
    check_name(&seen.name)?;
    let Some(dir) = place.dir(&seen.name).map_err(unreadable)? else {
        return Ok(Inside::Gone);
    };
    let Some(manifest) = read_manifest(&dir, stat.owner.uid)? else {
        if seen.is_incoming() && !seen.is_overdue {
            return Ok(Inside::Incomplete);
        }
        let detail = format!("no {MANIFEST}; expected it to be put in last");
        return Err(reject(Reason::Incomplete, detail));
    };
    if let Some(missing) = first_missing(&dir, &manifest) {
        if seen.is_incoming() && stat.changed.age() < incomplete_timeout {
            return Ok(Inside::Incomplete);
        }
        let detail = format!("{} is not there; the manifest lists it", quoted(missing));
        return Err(reject(Reason::Incomplete, detail));
    }
    Ok(Inside::Manifest(manifest))
}

/// # Errors
/// [`Reason::BadName`] for a name that is not fit for a drop.
pub(super) fn check_name(name: &OsStr) -> Result<(), Fault> {
    let is_plain = name.to_str().is_some_and(|name| {
        name.len() <= MAX_NAME
            && !name.contains(char::is_control)
            && !name.ends_with(".json")
            && !name.starts_with(BAD_NAME)
    });
    if is_plain {
        return Ok(());
    }
    let detail = format!(
        "the name {}; expected at most {MAX_NAME} bytes of UTF-8 without control characters, not \
         ending in .json or beginning with {BAD_NAME}",
        quoted(&name.to_string_lossy())
    );
    Err(reject(Reason::BadName, detail))
}

/// That something of a drop can't be read is its own fault, but where the machine is to blame.
fn unreadable(failure: Failure) -> Fault {
    match failure.errno() {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::STALE) => {
            Fault::Retry(failure)
        }
        _ => reject(Reason::Unreadable, failure.to_string()),
    }
}

/// The manifest of a drop whose owner is `uid`; `None` when there is none yet.
fn read_manifest(dir: &Dir, uid: u32) -> Result<Option<Manifest>, Fault> {
    let failure = |doing, error| Failure::new(doing, dir.path().join(MANIFEST), error);
    let file = match dir.file(MANIFEST) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(failure) if failure.errno() == Some(Errno::LOOP) => {
            return Err(reject(Reason::UnsafeFile, format!("{MANIFEST} is a link")));
        }
        Err(failure) => return Err(unreadable(failure)),
    };
    let stat = file.stat().map_err(|error| failure("looking at", error))?;
    // Errors quote the manifest: a hard link must not let an importer read another's file that way.
    if stat.kind != Kind::File || (stat.owner.uid != uid && uid != 0) {
        let detail = format!("{MANIFEST}: expected a regular file that belongs to user {uid}");
        return Err(reject(Reason::UnsafeFile, detail));
    }
    let text = read_text(&file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => reject(Reason::BadManifest, error.to_string()),
        _ => unreadable(failure("reading", error)),
    })?;
    let manifest = Manifest::parse(&text);
    let manifest = manifest.map_err(|error| reject(Reason::BadManifest, error.to_string()))?;
    Ok(Some(manifest))
}

fn read_text(file: &File) -> io::Result<String> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        let what = format!("{MANIFEST}: expected at most {MAX_SIZE} bytes");
        return Err(invalid(what));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        invalid(format!("{MANIFEST}: expected UTF-8, not so at byte {at}"))
    })
}

/// The first file that the manifest lists and that is not there.
fn first_missing<'m>(drop: &Dir, manifest: &'m Manifest) -> Option<&'m str> {
    let mut paths = manifest.files.iter().flat_map(|files| files.keys());
    let missing = paths.find(|path| !drop.has(format!("{IMAGE}/{path}")));
    missing.map(String::as_str)
}
