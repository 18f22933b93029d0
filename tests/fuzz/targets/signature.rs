//! A signature that is taken is one of these very bytes, as another implementation finds as well, and of
//! no others; one that is refused is refused with a message that is fit to be shown.

#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use netboot_publisher::{SigningKey, signer_of};
use netboot_publisher_fuzz::{MAX_INPUT, assert_shown};
use ssh_key::{PublicKey, SshSig};

/// What the seeds are signatures of.
const MESSAGE: &[u8] = b"format = 1\n";

/// What they are none of.
const OTHERS: [&[u8]; 4] = [b"", b"format = 1", b"format = 1\n\n", b"format = 2\n"];

/// Whose the seeds are: as from an importer rule. Others can be made so that they have signed all there
/// is.
static KEYS: LazyLock<Vec<SigningKey>> = LazyLock::new(|| {
    let lines = include_str!("../seeds/signature/keys").lines();
    lines.map(|line| line.parse().expect("a key")).collect()
});

/// Bytes of the longest message about a signature.
const MAX_MESSAGE: usize = 1_000;

fuzz_target!(|input: &[u8]| {
    if input.len() > MAX_INPUT {
        return;
    }
    check(input);
    // No fuzzer finds its way through base64.
    check(armoured(input).as_bytes());
});

fn check(signature: &[u8]) {
    let key = match signer_of(MESSAGE, signature) {
        Ok(key) => key,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() <= MAX_MESSAGE, "{said}");
            return assert_shown(&said);
        }
    };
    assert!(signature.starts_with(b"-----BEGIN SSH SIGNATURE-----"));
    let read = SshSig::from_pem(signature).expect("what was read is read again");
    let public = PublicKey::from(read.public_key().clone());
    public
        .verify("netboot-publisher", MESSAGE, &read)
        .expect("signed as another implementation says");
    let line = public.to_openssh().expect("a key that can be written");
    assert_eq!(line.parse(), Ok(key.clone()));
    if KEYS.contains(&key) {
        for other in OTHERS {
            assert!(signer_of(other, signature).is_err(), "{other:?}");
        }
    }
}

/// A signature that holds these bytes, in lines of the length that ssh-keygen's have.
fn armoured(bytes: &[u8]) -> String {
    let text = Base64::encode_string(bytes);
    let lines = text.as_bytes().chunks(70);
    let lines = lines.map(|line| str::from_utf8(line).expect("base64"));
    let body: String = lines.flat_map(|line| [line, "\n"]).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n")
}
