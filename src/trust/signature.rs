//! Signatures of manifests: what `ssh-keygen -Y sign -n netboot-publisher` makes (PROTOCOL.sshsig of
//! OpenSSH). The crate `ssh-key` reads them, `ring` does the arithmetic.

use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use ssh_key::SshSig;
use ssh_key::public::KeyData;

use crate::text::quoted;
use crate::words::SigningKey;

/// Signatures for anything else are none of a manifest.
pub(crate) const NAMESPACE: &str = "netboot-publisher";

/// Bytes of a signature; those of all kinds of keys are a fraction of that.
pub(crate) const MAX_SIZE: u64 = 16 << 10;

/// What a signature begins with.
const BEGIN: &[u8] = b"-----BEGIN SSH SIGNATURE-----";

/// In a security key's signature: somebody has touched it (PROTOCOL.u2f).
const USER_PRESENT: u8 = 1;

/// A signature that is none, or of something else: what is wrong, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSignature(String);

impl BadSignature {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The key that has signed these very bytes.
///
/// # Errors
/// When nobody has, with a key of a kind that is taken.
pub fn signer_of(message: &[u8], signature: &[u8]) -> Result<SigningKey, BadSignature> {
    let rule =
        || format!("expected one SSH signature, as `ssh-keygen -Y sign -n {NAMESPACE}` makes it");
    // The crate passes over what stands before, and no ssh-keygen does.
    if !signature.starts_with(BEGIN) {
        let begin = String::from_utf8_lossy(BEGIN);
        return Err(BadSignature::new(format!(
            "does not begin with `{begin}`; {}",
            rule()
        )));
    }
    // ssh-keygen passes over blank lines behind a signature, and the crate does not.
    let read = SshSig::from_pem(signature.trim_ascii_end());
    let read = read.map_err(|_| BadSignature::new(rule()))?;
    if read.namespace() != NAMESPACE {
        let namespace = quoted(read.namespace());
        return Err(BadSignature::new(format!(
            "made for the namespace {namespace}; expected `{NAMESPACE}` (ssh-keygen -n)"
        )));
    }
    let kind = read.public_key().algorithm();
    let key = SigningKey::of(read.public_key()).ok_or_else(|| {
        let kind = kind.as_str().escape_debug();
        BadSignature::new(format!(
            "made with a key of the kind {kind}; expected {}",
            SigningKey::KINDS
        ))
    })?;
    let is_of_kind = read.algorithm() == kind;
    let signed = SshSig::signed_data(NAMESPACE, read.hash_alg(), message).ok();
    let is_good = signed.is_some_and(|signed| is_of(&key, &signed, read.signature_bytes()));
    if !is_of_kind || !is_good || !read.reserved().is_empty() {
        return Err(BadSignature::new(
            "not of these bytes; expected the manifest as it was when it was signed",
        ));
    }
    Ok(key)
}

/// Whether `signature` was made with this key of `signed`.
fn is_of(key: &SigningKey, signed: &[u8], signature: &[u8]) -> bool {
    match key.data() {
        KeyData::Ed25519(key) => is_ed25519(&key.0, signed, signature),
        KeyData::Ecdsa(key) => is_ecdsa(key.as_sec1_bytes(), signed, signature),
        KeyData::SkEd25519(key) => is_by_token(key.application(), signed, signature, |it, by| {
            is_ed25519(&key.public_key().0, it, by)
        }),
        KeyData::SkEcdsaSha2NistP256(key) => {
            is_by_token(key.application(), signed, signature, |it, by| {
                is_ecdsa(key.ec_point().as_ref(), it, by)
            })
        }
        _ => false,
    }
}

fn is_ed25519(key: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, key);
    key.verify(signed, signature).is_ok()
}

/// ECDSA's two numbers, each with its length in front (RFC 5656, section 3.1.2).
fn is_ecdsa(key: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let numbers = number(signature).and_then(|(r, rest)| Some((r, number(rest)?)));
    let Some((r, (s, []))) = numbers else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
    key.verify(signed, &[r, s].concat()).is_ok()
}

/// The first number of these, in 32 bytes, and the rest.
fn number(bytes: &[u8]) -> Option<([u8; 32], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    // One that would look negative has a zero in front.
    let number = number.strip_prefix(&[0]).unwrap_or(number);
    let mut fixed = [0; 32];
    fixed
        .get_mut(32_usize.checked_sub(number.len())?..)?
        .copy_from_slice(number);
    Some((fixed, rest))
}

/// A security key signs more than it is told to: for whom, how it was asked, and how often it was used
/// (PROTOCOL.u2f).
fn is_by_token(
    application: &str,
    signed: &[u8],
    signature: &[u8],
    is_good: impl FnOnce(&[u8], &[u8]) -> bool,
) -> bool {
    let Some((signature, used)) = signature.split_last_chunk::<5>() else {
        return false;
    };
    let [application, signed] =
        [application.as_bytes(), signed].map(|bytes| digest(&SHA256, bytes));
    let told = [application.as_ref(), used, signed.as_ref()].concat();
    used[0] & USER_PRESENT != 0 && is_good(&told, signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use ssh_key::{Algorithm, HashAlg};

    // As ssh-keygen has made them, of MESSAGE.
    const MESSAGE: &[u8] = b"format = 1\n";

    const ED25519_SHA512: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgcp0kMtBe3psEbORZuJeznee5XN
kNR29vWQ5gRY0SqbkAAAARbmV0Ym9vdC1wdWJsaXNoZXIAAAAAAAAABnNoYTUxMgAAAFMA
AAALc3NoLWVkMjU1MTkAAABAnu/CHzbw3M1X0RpRjtUznhzDI6iCogLuF3A4nlE96WMtud
amCJqEyY2hdeWeFkzlOLWCYtAts2U1LCQuo7rzDg==
-----END SSH SIGNATURE-----
";

    const ED25519_SHA256: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgcp0kMtBe3psEbORZuJeznee5XN
kNR29vWQ5gRY0SqbkAAAARbmV0Ym9vdC1wdWJsaXNoZXIAAAAAAAAABnNoYTI1NgAAAFMA
AAALc3NoLWVkMjU1MTkAAABAZHFpQRdKncg+PpeRg8p9UnL1/nfrMlzkjtEMu+4cLzZG6R
cZSN7pHjFQGjdFDJQCuhvBibAPEU2ASy4tvarPCg==
-----END SSH SIGNATURE-----
";

    const ECDSA_SHA512: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EEjUJvUle9Wq865UcAQACmR9CtHRA1PMbcSZa/M9eqRS0kP2XBhoUJkxD1cV/dOrxu3GeJ
eDsI5hR1Xd5V6K8kOwAAABFuZXRib290LXB1Ymxpc2hlcgAAAAAAAAAGc2hhNTEyAAAAYw
AAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASAAAACB1mYa4UbRMyl5cNl7YjxXGyqmulWQJ
QNPmHUeugD0iEwAAACBKyoSb/wChm4AtWfjWybhY81dCemqCYL1luoNY5l8qfw==
-----END SSH SIGNATURE-----
";

    const ECDSA_SHA256: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EEjUJvUle9Wq865UcAQACmR9CtHRA1PMbcSZa/M9eqRS0kP2XBhoUJkxD1cV/dOrxu3GeJ
eDsI5hR1Xd5V6K8kOwAAABFuZXRib290LXB1Ymxpc2hlcgAAAAAAAAAGc2hhMjU2AAAAZQ
AAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASgAAACEAjNzcU4q3KN5HIbdtAPtNlTa8ymqM
xBdCCJlUkra3mdAAAAAhAP1J+eWfzNIQZtYVNtGL6WsBATUnv3AXa4Nt0NOPSCjG
-----END SSH SIGNATURE-----
";

    const OTHER_NAMESPACE: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgcp0kMtBe3psEbORZuJeznee5XN
kNR29vWQ5gRY0SqbkAAAAEZmlsZQAAAAAAAAAGc2hhNTEyAAAAUwAAAAtzc2gtZWQyNTUx
OQAAAEBDqBiTmSiZMY+/di3Z9Jf/3Sj8040/l+oNsuH31HlczdKwrbyaqyma7V5f28/RVG
iidx6fGA6P4RVdOII5VxUP
-----END SSH SIGNATURE-----
";

    const P384: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAIgAAAATZWNkc2Etc2hhMi1uaXN0cDM4NAAAAAhuaXN0cDM4NAAAAG
EEVE0fn84hyt4vqeORsVUNcUVZg1jT8BYueaKWY7cDVQNmPyrQwyL8hNycLb4GkVLTvqB8
XIWwipuoKYPD4ih9/PL0HPSJUU8GVPWeELGJ3xVbWfHUHQVr0JuXzzRRlV6pAAAAEW5ldG
Jvb3QtcHVibGlzaGVyAAAAAAAAAAZzaGE1MTIAAACEAAAAE2VjZHNhLXNoYTItbmlzdHAz
ODQAAABpAAAAMQDrEN/mdlV4DBhI/xLmHDHpcf9+asmZcDQy3/fW10dH0Qvxi1kpgrQ9c/
UxKBfnirwAAAAwXN4loWGcTr2c9eqH2xk01Bc5cYsJODb/MO7+4XRWm1MRnZnFpJMpLdpN
jcJblzih
-----END SSH SIGNATURE-----
";

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBI1Cb1JXvVqvOuVHAEAApkfQrR0QNTzG3EmWvzPXqkUtJD9lwYaFCZMQ9XFf3Tq8btxniXg7COYUdV3eVeivJDs=";

    fn problem(message: &[u8], signature: impl AsRef<[u8]>) -> String {
        signer_of(message, signature.as_ref())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_signature_tells_whose_it_is() {
        for (signature, key) in [
            (ED25519_SHA512, ED25519),
            (ED25519_SHA256, ED25519),
            (ECDSA_SHA512, ECDSA),
            (ECDSA_SHA256, ECDSA),
        ] {
            let key = key.parse().unwrap();
            assert_eq!(signer_of(MESSAGE, signature.as_bytes()), Ok(key));
        }
        let windows = ED25519_SHA512.replace('\n', "\r\n");
        assert!(signer_of(MESSAGE, windows.as_bytes()).is_ok());
        let short = ED25519_SHA512.trim_end();
        assert!(signer_of(MESSAGE, short.as_bytes()).is_ok());
        for blank in ["\n", "\r\n \n\n"] {
            let long = format!("{ED25519_SHA512}{blank}");
            assert!(signer_of(MESSAGE, long.as_bytes()).is_ok(), "{blank:?}");
        }
    }

    #[test]
    fn a_signature_of_anything_else_is_none() {
        for signature in [ED25519_SHA512, ECDSA_SHA256] {
            let said = problem(b"format = 2\n", signature);
            assert!(said.starts_with("not of these bytes"), "{said}");
        }
        let said = problem(MESSAGE, OTHER_NAMESPACE);
        assert!(said.starts_with("made for the namespace `file`"), "{said}");
        let said = problem(MESSAGE, P384);
        assert!(said.contains("of the kind ecdsa-sha2-nistp384"), "{said}");
    }

    #[test]
    fn what_is_no_signature_or_more_than_one_is_refused() {
        let doubled = ED25519_SHA512.repeat(2);
        let half = &ED25519_SHA512[..200];
        let long = "A".repeat(1 << 20);
        let [noted, blank, followed] = [
            format!("a note\n{ED25519_SHA512}"),
            format!("\n{ED25519_SHA512}"),
            format!("{ED25519_SHA512}a note\n"),
        ];
        let rule =
            "expected one SSH signature, as `ssh-keygen -Y sign -n netboot-publisher` makes it";
        for bad in [half, &doubled, &followed] {
            assert_eq!(problem(MESSAGE, bad), rule, "{bad}");
        }
        let begin = "does not begin with `-----BEGIN SSH SIGNATURE-----`";
        for bad in [
            "",
            "x",
            &noted,
            &blank,
            &long,
            ED25519,
            &ED25519_SHA512[1..],
        ] {
            assert_eq!(problem(MESSAGE, bad), format!("{begin}; {rule}"), "{bad}");
        }
    }

    #[test]
    fn no_bit_of_a_signature_counts_for_nothing() {
        for signature in [ED25519_SHA512, ECDSA_SHA256] {
            let key = signer_of(MESSAGE, signature.as_bytes()).unwrap();
            let read = SshSig::from_pem(signature).unwrap();
            let bytes = read.signature_bytes();
            let signed = SshSig::signed_data(NAMESPACE, read.hash_alg(), MESSAGE).unwrap();
            assert!(is_of(&key, &signed, bytes));
            for bit in 0..8 * bytes.len() {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_of(&key, &signed, &bytes), "bit {bit}");
            }
        }
    }

    fn pair() -> (Ed25519KeyPair, ssh_key::public::Ed25519PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = *pair.public_key().as_ref().first_chunk().unwrap();
        (pair, ssh_key::public::Ed25519PublicKey(public))
    }

    /// What holds these, whether it is a signature of anything or not.
    fn written(key: KeyData, namespace: &str, (kind, bytes): (Algorithm, Vec<u8>)) -> String {
        let signature = ssh_key::Signature::new(kind, bytes).unwrap();
        let signature = SshSig::new(key, namespace, HashAlg::Sha512, signature).unwrap();
        signature.to_pem(ssh_key::LineEnding::LF).unwrap()
    }

    fn signed(message: &[u8]) -> String {
        let (pair, public) = pair();
        let signed = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, message).unwrap();
        let bytes = pair.sign(&signed).as_ref().to_vec();
        written(public.into(), NAMESPACE, (Algorithm::Ed25519, bytes))
    }

    /// As a security key makes it: nobody has one in a test.
    fn by_token(flags: u8) -> String {
        let (pair, public) = pair();
        let key = KeyData::SkEd25519(ssh_key::public::SkEd25519::new(public, "ssh:"));
        let signed = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, MESSAGE).unwrap();
        let used = [flags, 0, 0, 0, 9];
        let [application, digest] = [b"ssh:", &signed[..]].map(|it| digest(&SHA256, it));
        let told = [application.as_ref(), &used, digest.as_ref()].concat();
        let data = [pair.sign(&told).as_ref(), &used].concat();
        written(key, NAMESPACE, (Algorithm::SkEd25519, data))
    }

    #[test]
    fn what_a_signature_names_is_shown_in_short_and_moves_no_cursor() {
        let none = || (Algorithm::Ed25519, vec![0; 64]);
        let namespace = "\u{1b}[2J\u{202e}".repeat(1_000);
        let kind = Algorithm::new("\u{1b}[2J@x").unwrap();
        let key = ssh_key::public::OpaquePublicKey::new(vec![1], kind);
        for (signature, begin) in [
            (
                written(pair().1.into(), &namespace, none()),
                "made for the namespace `\\u{1b}[2J\\u{202e}\\u{1b}",
            ),
            (
                written(KeyData::Other(key), NAMESPACE, none()),
                "made with a key of the kind \\u{1b}[2J@x; expected Ed25519",
            ),
        ] {
            let said = problem(MESSAGE, signature);
            assert!(said.starts_with(begin), "{said}");
            assert!(said.len() < 1_000, "{} bytes", said.len());
        }
    }

    #[test]
    fn a_security_key_has_to_be_touched() {
        let signature = by_token(USER_PRESENT);
        let key = signer_of(MESSAGE, signature.as_bytes()).unwrap();
        assert!(matches!(key.data(), KeyData::SkEd25519(_)));
        assert!(problem(MESSAGE, by_token(0)).starts_with("not of these bytes"));
        assert!(problem(b"x", &signature).starts_with("not of these bytes"));
        // Of the other kind, written by hand; ssh-keygen takes it.
        let signature = include_bytes!("../../tests/fuzz/seeds/signature/sk-ecdsa.sig");
        let key = signer_of(MESSAGE, signature).unwrap();
        assert!(matches!(key.data(), KeyData::SkEcdsaSha2NistP256(_)));
        assert!(problem(b"x", signature).starts_with("not of these bytes"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(0_u8.., 0..400), at in 0_usize..300, by in 1_u8..) {
            proptest::prop_assert!(signer_of(MESSAGE, &bytes).is_err());
            let mut changed = ED25519_SHA512.as_bytes().to_vec();
            changed[at] ^= by;
            // A changed line end, or what stands for no bit, may do no harm.
            let _ = signer_of(MESSAGE, &changed);
        }

        #[test]
        fn what_was_signed_is_taken_and_no_other_bytes(message in proptest::collection::vec(0_u8.., 0..200), at in 0_usize..200, by in 1_u8..) {
            let signature = signed(&message);
            let key = SigningKey::of(&pair().1.into()).unwrap();
            proptest::prop_assert_eq!(signer_of(&message, signature.as_bytes()), Ok(key));
            let mut other = message;
            match other.get_mut(at) {
                Some(byte) => *byte ^= by,
                None => other.push(by),
            }
            proptest::prop_assert!(signer_of(&other, signature.as_bytes()).is_err());
        }
    }
}
