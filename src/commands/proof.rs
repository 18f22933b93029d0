//! Whether what somebody has signed of a generation is what its record says.

use super::terminal::text_or;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Action, Manifest};
use crate::text::quoted;
use crate::tree::{DamageKind, Generation, Record};
use crate::trust::signer_of;
use crate::words::{Digest, Target};

/// Bytes, and the signature of these, as far as they are there.
type Signed<'p> = [Option<&'p [u8]>; 2];

/// What is wrong, and for people what was expected.
type Unproven = (DamageKind, String);

/// Makes sure that what is kept of a generation, as far as it is there, proves its record, against which
/// the files are held in any case: the manifest and its signature, and of a promoted one the order and its
/// signature as well. A lost record is told of as such.
///
/// Whether the manifest has expired since is no part of it, nor is who else has let the drop in.
///
/// # Errors
/// What is wrong, and what was expected.
pub(super) fn prove(
    settings: &Settings,
    target: &Target,
    generation: &Generation,
    ([image, order], earlier): ([Signed<'_>; 2], &[[String; 2]]),
) -> Result<(), Unproven> {
    let Some(record) = &generation.record else {
        return Ok(());
    };
    let [manifest, signature, order_file, of_order, _] = generation.name.proof();
    let files = [manifest, signature];
    let image = signed(settings, image, files, is_signed(record))?;
    let Some(promoted) = record.head.promoted() else {
        return check(target, record, image);
    };
    let of = |what| move |(kind, detail)| (kind, format!("{what}: {detail}"));
    let files = [order_file, of_order];
    let order = signed(settings, order, files, promoted.signer.is_some());
    let order = order.and_then(|order| check_order(target, record, order));
    let mut from = order.map_err(of("the order"))?;
    if from != promoted.from {
        let named = &promoted.from;
        let detail = format!("the order: is to promote from {from}; the record names {named}");
        return Err((DamageKind::Manifest, detail));
    }
    // Those that have promoted the image before lead to where it has come into the tree.
    for [order, signature] in earlier.iter().rev() {
        let order = order.as_bytes();
        let earlier = check_signed(settings, order, signature.as_bytes());
        let earlier = earlier.and_then(|()| parse(&from, Some(Digest::of(order)), order));
        let earlier = earlier.and_then(|manifest| promotion(manifest, record));
        from = earlier.map_err(of("an earlier order"))?;
    }
    // An order that carries the image names it by its digest, wherever it was promoted from before.
    check(promoted.image_for.as_ref().unwrap_or(&from), record, image)
}

/// The bytes of a part of the proof that somebody has signed with a key of today's rules. `files` are their
/// names; where the record says that somebody `has_signed` they are missing, or else unsigned.
fn signed<'p>(
    settings: &Settings,
    kept: Signed<'p>,
    [of_bytes, of_signature]: [String; 2],
    has_signed: bool,
) -> Result<&'p [u8], Unproven> {
    match kept {
        [Some(bytes), Some(signature)] => {
            check_signed(settings, bytes, signature)?;
            Ok(bytes)
        }
        [None, None] if !has_signed => {
            let detail = "unsigned; expected a manifest and its signature beside the record";
            Err((DamageKind::Unsigned, detail.to_string()))
        }
        [None, _] => {
            let detail = format!("missing; expected {of_bytes}, and beside it {of_signature}");
            Err((DamageKind::Manifest, detail))
        }
        [Some(_), _] => {
            let detail = format!("missing; expected {of_signature}");
            Err((DamageKind::Signature, detail))
        }
    }
}

/// Makes sure that these bytes were signed with a key of today's rules.
fn check_signed(settings: &Settings, bytes: &[u8], signature: &[u8]) -> Result<(), Unproven> {
    let key =
        signer_of(bytes, signature).map_err(|bad| (DamageKind::Signature, bad.to_string()))?;
    if settings.importers.know(&key) {
        return Ok(());
    }
    let detail =
        format!("signed with {key}, which no rule has; expected a key of `keys` or `old_keys`");
    Err((DamageKind::UnknownKey, detail))
}

/// Whether a record says that somebody has signed. After a rollback it names who has ordered that.
fn is_signed(record: &Record) -> bool {
    let from = record.head.from.as_ref();
    record.head.manifest.is_some() && from.is_some_and(|from| from.vouched.signer.is_some())
}

/// Makes sure that these bytes are the manifest of a record, for this target: the record's own, or the one
/// that its image was promoted from.
fn check(target: &Target, record: &Record, bytes: &[u8]) -> Result<(), Unproven> {
    let head = &record.head;
    let manifest = parse(target, head.manifest, bytes)?;
    // The serial of one that was promoted is the order's.
    let serial = match head.promoted() {
        Some(_) => manifest.serial,
        None => head.serial,
    };
    if (&manifest.version, manifest.serial) != (&head.version, serial) {
        let [signed, recorded] = [
            (&manifest.version, manifest.serial),
            (&head.version, serial),
        ]
        .map(|(version, serial)| {
            let version = text_or(version.as_deref().map(quoted), "none");
            let serial = text_or(serial, "none");
            format!("version {version} and serial {serial}")
        });
        return wrong(format!("says {signed}; the record says {recorded}"));
    }
    if manifest.boot != head.boot {
        return wrong("says in `[boot]` something else than the record".to_string());
    }
    let is_of = manifest.check_is_of(&record.listing);
    is_of.or_else(|fault| match fault {
        Fault::Reject(rejection) => wrong(format!("is of another image: {}", rejection.detail)),
        fault => wrong(fault.to_string()),
    })
}

/// Makes sure that these bytes are the order by which the image of a record was promoted to this target, and
/// tells from where.
fn check_order(target: &Target, record: &Record, bytes: &[u8]) -> Result<Target, Unproven> {
    let head = &record.head;
    let order = head.promoted().and_then(|it| it.order);
    let manifest = parse(target, order, bytes)?;
    if manifest.serial != head.serial {
        let [signed, recorded] = [manifest.serial, head.serial].map(|it| text_or(it, "none"));
        return wrong(format!("says serial {signed}; the record says {recorded}"));
    }
    promotion(manifest, record)
}

/// From where a manifest asks for the image of a record to be promoted; where it asks to go back to an image
/// that had been promoted, and carries that, from its own target.
fn promotion(manifest: Manifest, record: &Record) -> Result<Target, Unproven> {
    let is = record.head.digest;
    match manifest.action {
        Action::Promote {
            from,
            digest: Some(digest),
            ..
        } if digest == is => Ok(from),
        Action::Rollback {
            digest: Some(digest),
            ..
        } if digest == is => Ok(manifest.target),
        Action::Promote { digest, .. } | Action::Rollback { digest, .. } => {
            let digest = text_or(digest, "none");
            wrong(format!("is of the image {digest}; the record is of {is}"))
        }
        Action::Publish | Action::Withdraw(_) => wrong("is no promotion".to_string()),
    }
}

/// The manifest in these bytes, which are for this target, and are those that the record `named`.
fn parse(target: &Target, named: Option<Digest>, bytes: &[u8]) -> Result<Manifest, Unproven> {
    let is = Digest::of(bytes);
    if named != Some(is) {
        let named = text_or(named, "none");
        return wrong(format!("has sha256 {is}; the record names {named}"));
    }
    let manifest = Manifest::of_bytes(bytes).or_else(|error| {
        let first = error.lines().next().unwrap_or_default();
        wrong(format!("is none that this version reads: {first}"))
    })?;
    if manifest.target != *target {
        return wrong(format!("is for {}; expected {target}", manifest.target));
    }
    Ok(manifest)
}

fn wrong<T>(detail: String) -> Result<T, Unproven> {
    Err((DamageKind::Manifest, detail))
}
