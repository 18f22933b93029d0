//! A look into a drop that stays where it is: its manifest, and whether what that lists is there.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use rustix::io::Errno;

use super::drop::{Peeked, Ready, Seen};
use super::manifest::{MANIFEST, MAX_SIZE, Manifest};
use super::names::check_name;
use crate::fault::{Fault, reject};
use crate::sys::{Dir, Failure, FileExt as _, Kind, Stat};
use crate::text::quoted;
use crate::words::Reason;

/// The folder of a drop that holds the image.
pub(crate) const IMAGE: &str = "image";

/// What a look into a drop has found.
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
    let Some(stat) = place.stat(seen.place())? else {
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

/// # Errors
/// Also what is wrong with the drop.
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
    let Some(dir) = place.dir(seen.place()).map_err(unreadable)? else {
        return Ok(Inside::Gone);
    };
    let Some(manifest) = read_manifest(&dir, stat.owner.uid)? else {
        if seen.is_incoming() && !seen.is_overdue {
            return Ok(Inside::Incomplete);
        }
        let detail = format!("no {MANIFEST}; expected it to be put in last");
        return Err(reject(Reason::Incomplete, detail));
    };
    let mut listed = manifest.files.iter().flat_map(BTreeMap::keys);
    if let Some(missing) = listed.find(|path| !dir.has(format!("{IMAGE}/{path}"))) {
        if seen.is_incoming() && stat.changed.age() < incomplete_timeout {
            return Ok(Inside::Incomplete);
        }
        let detail = format!("{} is not there; the manifest lists it", quoted(missing));
        return Err(reject(Reason::Incomplete, detail));
    }
    Ok(Inside::Manifest(manifest))
}

/// A drop that can't be read is rejected, unless the machine is to blame.
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
    let mut bytes = Vec::new();
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(failure("reading", error)))?;
    let manifest = parse(&bytes);
    let manifest = manifest.map_err(|detail| reject(Reason::BadManifest, detail))?;
    Ok(Some(manifest))
}

/// # Errors
/// What is wrong with the manifest, for people.
fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("{MANIFEST}: expected at most {MAX_SIZE} bytes"));
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("{MANIFEST}: expected UTF-8, not so at byte {at}")
    })?;
    Manifest::parse(text).map_err(|error| error.to_string())
}
