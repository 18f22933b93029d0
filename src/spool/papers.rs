//! What a drop says of itself: its manifest, the signature of that, and of an image that an order carries
//! the same once more.

use std::ffi::OsStr;
use std::io::Read as _;

use rustix::io::Errno;

use super::manifest::{Action, MANIFEST, MAX_SIZE, Manifest};
use crate::fault::{Fault, Rejection, reject};
use crate::settings::Settings;
use crate::sys::{Account, Dir, Failure, FileExt as _, Importer, Kind};
use crate::trust::{self, Asker, signer_of};
use crate::words::{Digest, Reason, SigningKey};

/// The name of the signature in a drop.
pub(super) const SIGNATURE: &str = "manifest.toml.sig";

/// The own manifest of an image that an order carries, and the signature of that.
pub(super) const IMAGE_MANIFEST: &str = "image.toml";
pub(super) const IMAGE_SIGNATURE: &str = "image.toml.sig";

/// The folder of a drop that holds the image.
pub(super) const IMAGE: &str = "image";

/// A manifest that was read, and who has signed it.
#[derive(Debug)]
pub(crate) struct Papers {
    pub(crate) manifest: Manifest,
    /// Of a manifest that is signed, or has a serial: what it was when it was read.
    pub(crate) digest: Option<Digest>,
    /// Of a claimed drop its credentials have it.
    pub(super) signature: Option<Signature>,
    /// Those of the image that an order carries.
    pub(crate) carried: Option<Box<Papers>>,
}

impl Papers {
    /// The name of the own manifest of an image that an order carries.
    pub(crate) const OF_IMAGE: &str = IMAGE_MANIFEST;

    /// The fingerprint of the key that has signed, where a rule knows the key.
    pub(crate) fn known_signer(&self, settings: &Settings) -> Option<String> {
        let key = self.signed_with()?;
        settings.importers.know(key).then(|| key.to_string())
    }

    /// The key that has signed.
    pub(crate) fn signed_with(&self) -> Option<&SigningKey> {
        self.signature.as_ref().map(|signature| &signature.key)
    }

    /// Whether a signature proves each of them.
    pub(super) fn are_signed(&self) -> bool {
        let carried = self.carried.as_ref();
        self.signature.is_some() && carried.is_none_or(|it| it.are_signed())
    }

    /// The manifests that may list files of the drop, and what people know each by.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&str, &Manifest)> {
        let carried = self.carried.as_ref();
        let carried = carried.map(|it| (IMAGE_MANIFEST, &it.manifest));
        [("the manifest", &self.manifest)]
            .into_iter()
            .chain(carried)
    }

    /// Makes sure that these may be the papers of an image which an order carries.
    fn check_carried_by(&self, order: &Manifest) -> Result<(), Rejection> {
        let bad = |detail: String| Err(Rejection::new(Reason::BadManifest, detail));
        let (Action::Rollback { digest, .. } | Action::Promote { digest, .. }) = &order.action
        else {
            return Ok(());
        };
        if self.manifest.action != Action::Publish {
            return bad(format!(
                "{IMAGE_MANIFEST} asks for something else than to publish an image; expected the manifest \
                 by which the image was published"
            ));
        }
        if digest.is_none() {
            return bad(format!(
                "{MANIFEST} names no image, and {IMAGE_MANIFEST} is beside it; expected the `digest` of the \
                 image that the order carries"
            ));
        }
        // The image may have come to where it was by a promotion, so its manifest may be for any target.
        Ok(())
    }
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
    /// This file is not there that belongs to the drop: why the drop is rejected when it doesn't come.
    Lacking(&'static str, Rejection),
    All(Papers),
}

/// Reads the papers of a drop whose owner is `uid`.
///
/// # Errors
/// What is wrong with them.
pub(super) fn read(dir: &Dir, uid: u32, settings: &Settings) -> Result<Found, Fault> {
    let mut papers = match read_pair(dir, uid, settings, [MANIFEST, SIGNATURE])? {
        Found::All(papers) => papers,
        lacking @ Found::Lacking(..) => return Ok(lacking),
    };
    let order = &papers.manifest;
    if !matches!(
        order.action,
        Action::Rollback { .. } | Action::Promote { .. }
    ) {
        return Ok(Found::All(papers));
    }
    let of_order = |rejection: Rejection| rejection.of(order.target.clone());
    let carried = read_pair(dir, uid, settings, [IMAGE_MANIFEST, IMAGE_SIGNATURE]);
    match carried {
        Ok(Found::All(carried)) => {
            carried.check_carried_by(order).map_err(of_order)?;
            papers.carried = Some(Box::new(carried));
        }
        // Most orders carry none.
        Ok(Found::Lacking(IMAGE_MANIFEST, _)) => {}
        Ok(Found::Lacking(name, lacking)) => {
            return Ok(Found::Lacking(name, of_order(lacking)));
        }
        Err(Fault::Reject(rejection)) => return Err(of_order(rejection).into()),
        Err(fault) => return Err(fault),
    }
    Ok(Found::All(papers))
}

/// Reads one manifest, and its signature.
fn read_pair(
    dir: &Dir,
    uid: u32,
    settings: &Settings,
    [name, of_signature]: [&'static str; 2],
) -> Result<Found, Fault> {
    let Some(bytes) = read_file(dir, name, MAX_SIZE, uid)? else {
        let detail = format!("no {name}; expected it to be put in last");
        let rejection = Rejection::new(Reason::Incomplete, detail);
        return Ok(Found::Lacking(name, rejection));
    };
    let manifest = Manifest::of_file(name, &bytes);
    let manifest = manifest.map_err(|detail| reject(Reason::BadManifest, detail))?;
    let signature = if settings.importers.is_empty() {
        // Nobody asks for one.
        None
    } else {
        match read_file(dir, of_signature, trust::MAX_SIZE, uid)? {
            Some(signature) => {
                let verified = verified((name, &bytes), signature);
                Some(verified.map_err(|bad| bad.of(manifest.target.clone()))?)
            }
            None => {
                let asker = Asker {
                    uid,
                    account: &account(uid)?,
                    signer: None,
                };
                if let Some(why) = asker.needs_signature(settings) {
                    let detail = format!("no {of_signature}; expected one: {why}");
                    let rejection = Rejection::new(Reason::Unsigned, detail);
                    return Ok(Found::Lacking(of_signature, rejection.of(manifest.target)));
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
        carried: None,
    }))
}

/// Whether a name in a drop's folder is that of its manifest, or of the signature.
pub(super) fn is_paper(name: &OsStr) -> bool {
    name == MANIFEST || name == SIGNATURE
}

/// The same of what an order says of the image that it carries.
pub(super) fn is_paper_of_image(name: &OsStr) -> bool {
    name == IMAGE_MANIFEST || name == IMAGE_SIGNATURE
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

/// A signature of these very bytes, which the file of this name holds.
///
/// # Errors
/// [`Reason::BadSignature`] with what is wrong with it.
pub(super) fn verified(
    (name, manifest): (&str, &[u8]),
    signature: Vec<u8>,
) -> Result<Signature, Rejection> {
    let key = signer_of(manifest, &signature)
        .map_err(|bad| Rejection::new(Reason::BadSignature, format!("{name}.sig: {bad}")))?;
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
        Self::of_file(MANIFEST, bytes)
    }

    fn of_file(name: &'static str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_SIZE {
            return Err(format!("{name}: expected at most {MAX_SIZE} bytes"));
        }
        let text = str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            format!("{name}: expected UTF-8, not so at byte {at}")
        })?;
        Self::parse_file(name, text).map_err(|error| error.to_string())
    }
}
