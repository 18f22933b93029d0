//! Whether what somebody has signed of a generation is what its record says.

use super::terminal::text_or;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::Manifest;
use crate::text::quoted;
use crate::tree::{DamageKind, Generation, Record};
use crate::trust::signer_of;
use crate::words::{Digest, Target};

/// What is wrong, and for people what was expected.
type Unproven = (DamageKind, String);

/// Makes sure that the manifest and the signature of a generation, as far as they are kept, prove its
/// record, against which the files are held in any case. A lost record is told of as such.
///
/// Whether the manifest has expired since is no part of it, nor is who else has let the drop in.
///
/// # Errors
/// What is wrong, and what was expected.
pub(super) fn prove(
    settings: &Settings,
    target: &Target,
    generation: &Generation,
    proof: [Option<Vec<u8>>; 2],
) -> Result<(), Unproven> {
    let Some(record) = &generation.record else {
        return Ok(());
    };
    let [manifest, signature] = match proof {
        [Some(manifest), Some(signature)] => [manifest, signature],
        proof => return Err(missing(generation, record, &proof)),
    };
    let key =
        signer_of(&manifest, &signature).map_err(|bad| (DamageKind::Signature, bad.to_string()))?;
    if !settings.importers.know(&key) {
        let detail =
            format!("signed with {key}, which no rule has; expected a key of `keys` or `old_keys`");
        return Err((DamageKind::UnknownKey, detail));
    }
    check(target, record, &manifest).map_err(|wrong| (DamageKind::Manifest, wrong))
}

/// What is wrong where a part of the proof is not there.
fn missing(
    generation: &Generation,
    record: &Record,
    [manifest, signature]: &[Option<Vec<u8>>; 2],
) -> Unproven {
    let [of_manifest, of_signature] = generation.name.proof();
    match (manifest, signature) {
        (None, None) if !is_signed(record) => {
            let detail = "unsigned; expected a manifest and its signature beside the record";
            (DamageKind::Unsigned, detail.to_string())
        }
        (None, _) => {
            let detail = format!("missing; expected {of_manifest}, and beside it {of_signature}");
            (DamageKind::Manifest, detail)
        }
        (Some(_), _) => {
            let detail = format!("missing; expected {of_signature}");
            (DamageKind::Signature, detail)
        }
    }
}

/// Whether a record says that somebody has signed. After a rollback it names who has ordered that.
fn is_signed(record: &Record) -> bool {
    let from = record.head.from.as_ref();
    record.head.manifest.is_some() && from.is_some_and(|from| from.vouched.signer.is_some())
}

/// Makes sure that a manifest is that of a record.
///
/// # Errors
/// How it is another.
fn check(target: &Target, record: &Record, manifest: &[u8]) -> Result<(), String> {
    let (head, is) = (&record.head, Digest::of(manifest));
    if head.manifest != Some(is) {
        let named = text_or(head.manifest, "none");
        return Err(format!("has sha256 {is}; the record names {named}"));
    }
    let manifest = Manifest::of_bytes(manifest).map_err(|error| {
        let first = error.lines().next().unwrap_or_default();
        format!("is none that this version reads: {first}")
    })?;
    if manifest.target != *target {
        return Err(format!("is for {}; expected {target}", manifest.target));
    }
    if (&manifest.version, manifest.serial) != (&head.version, head.serial) {
        let [signed, recorded] = [
            (&manifest.version, manifest.serial),
            (&head.version, head.serial),
        ]
        .map(|(version, serial)| {
            let version = text_or(version.as_deref().map(quoted), "none");
            let serial = text_or(serial, "none");
            format!("version {version} and serial {serial}")
        });
        return Err(format!("says {signed}; the record says {recorded}"));
    }
    let is_of = manifest.check_is_of(&record.listing);
    is_of.map_err(|fault| match fault {
        Fault::Reject(rejection) => format!("is of another image: {}", rejection.detail),
        fault => fault.to_string(),
    })
}
