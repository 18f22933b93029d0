//! What a drop says of itself: its manifest, and the signature of that.

use std::ffi::OsStr;
use std::io::Read as _;

use rustix::io::Errno;

use super::manifest::{MANIFEST, MAX_SIZE, Manifest};
use crate::fault::{Fault, Rejection, reject};
use crate::settings::Settings;
use crate::sys::{Account, Dir, Failure, FileExt as _, Importer, Kind};
use crate::trust::{self, Asker, signer_of};
use crate::words::{Digest, Reason, SigningKey};

/// The name of the signature in a drop.
pub(super) const SIGNATURE: &str = "manifest.toml.sig";

/// A manifest that was read, and who has signed it.
#[derive(Debug)]
pub(crate) struct Papers {
    pub(crate) manifest: Manifest,
    /// Of a manifest that is signed, or has a serial: what it was when it was read.
    pub(super) digest: Option<Digest>,
    pub(super) signature: Option<Signature>,
}

/// A signature of these very papers.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    pub(crate) key: SigningKey,
    /// As it was read: what proves the image later.
    pub(crate) bytes: Box<[u8]>,
    /// What is signed, as it was read, if that is short: so it isn't read again for the proof.
    pub(super) manifest: Option<Box<[u8]>>,
}

/// Bytes of a manifest that is short: as those of a signature at most.
const SHORT: u64 = trust::MAX_SIZE;

/// What was found of a drop's papers.
pub(super) enum Found {
    /// There is no manifest yet.
    Nothing,
    /// The signature is not there that belongs to every drop of this importer: why the drop is rejected
    /// when it doesn't come.
    Unsigned(Rejection),
    All(Papers),
}

/// Reads the papers of a drop whose owner is `uid`.
///
/// # Errors
/// What is wrong with them.
pub(super) fn read(dir: &Dir, uid: u32, settings: &Settings) -> Result<Found, Fault> {
    let Some(bytes) = read_file(dir, MANIFEST, MAX_SIZE, uid)? else {
        return Ok(Found::Nothing);
    };
    let manifest = Manifest::of_bytes(&bytes);
    let manifest = manifest.map_err(|detail| reject(Reason::BadManifest, detail))?;
    let signature = if settings.importers.is_empty() {
        // Nobody asks for one.
        None
    } else {
        match read_file(dir, SIGNATURE, trust::MAX_SIZE, uid)? {
            Some(signature) => {
                let verified = verified(&bytes, signature);
                Some(verified.map_err(|bad| bad.of(manifest.target.clone()))?)
            }
            None => {
                let asker = Asker {
                    uid,
                    account: &account(uid)?,
                    signer: None,
                };
                if let Some(why) = asker.needs_signature(settings) {
                    let detail = format!("no {SIGNATURE}; expected one: {why}");
                    let rejection = Rejection::new(Reason::Unsigned, detail);
                    return Ok(Found::Unsigned(rejection.of(manifest.target)));
                }
                None
            }
        }
    };
    let is_kept = signature.is_some() || manifest.serial.is_some();
    Ok(Found::All(Papers {
        digest: is_kept.then(|| Digest::of(&bytes)),
        manifest,
        signature,
    }))
}

/// Whether a name in a drop's folder is that of its manifest, or of the signature.
pub(super) fn is_paper(name: &OsStr) -> bool {
    name == MANIFEST || name == SIGNATURE
}

/// The user `uid` as the machine's user database knows it.
///
/// # Errors
/// When the database doesn't answer: that is no trouble of the user's.
pub(crate) fn account(uid: u32) -> Result<Account, Fault> {
    let silent = || {
        Failure::new(
            "asking the user database for",
            uid.to_string(),
            Errno::TIMEDOUT,
        )
    };
    Ok(Account::of(uid).ok_or_else(silent)?)
}

/// A signature of these very bytes.
///
/// # Errors
/// [`Reason::BadSignature`] with what is wrong with it.
pub(super) fn verified(manifest: &[u8], signature: Vec<u8>) -> Result<Signature, Rejection> {
    let key = signer_of(manifest, &signature)
        .map_err(|bad| Rejection::new(Reason::BadSignature, format!("{SIGNATURE}: {bad}")))?;
    let is_short = manifest.len() as u64 <= SHORT;
    Ok(Signature {
        key,
        bytes: signature.into(),
        manifest: is_short.then(|| manifest.into()),
    })
}

/// A file of at most `max` bytes, and one more of a longer one, in a drop whose owner is `uid`; `None`
/// when it is not there yet.
pub(super) fn read_file(
    dir: &Dir,
    name: &str,
    max: u64,
    uid: u32,
) -> Result<Option<Vec<u8>>, Fault> {
    let failure = |doing, error| Failure::new(doing, dir.path().join(name), error);
    let file = match dir.file(name) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(failure) if failure.errno() == Some(Errno::LOOP) => {
            return Err(reject(Reason::UnsafeFile, format!("{name} is a link")));
        }
        Err(failure) => return Err(unreadable(failure)),
    };
    let stat = file.stat().map_err(|error| failure("looking at", error))?;
    // Errors quote the manifest: a hard link must not let an importer read another's file that way.
    if stat.kind != Kind::File || stat.owner.uid != uid {
        let who = Importer::of(uid).shown();
        let detail = format!("{name}: expected a regular file that belongs to {who}");
        return Err(reject(Reason::UnsafeFile, detail));
    }
    let length = usize::try_from(stat.size.min(max)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length + 1);
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(failure("reading", error)))?;
    Ok(Some(bytes))
}

/// A drop that can't be read is rejected, unless the machine is to blame.
pub(super) fn unreadable(failure: Failure) -> Fault {
    match failure.errno() {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::STALE) => {
            Fault::Retry(failure)
        }
        _ => reject(Reason::Unreadable, failure.to_string()),
    }
}

impl Manifest {
    /// As [`Manifest::parse`], of what was read from a file.
    ///
    /// # Errors
    /// What is wrong with the manifest, for people.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_SIZE {
            return Err(format!("{MANIFEST}: expected at most {MAX_SIZE} bytes"));
        }
        let text = str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            format!("{MANIFEST}: expected UTF-8, not so at byte {at}")
        })?;
        Self::parse(text).map_err(|error| error.to_string())
    }
}
