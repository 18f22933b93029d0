//! Signatures of `OpenPGP`, verified by `gpgv`: what it doesn't say is signed counts for nothing.

use std::fs::File;
use std::io::{ErrorKind, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::sys::{Dir, FileExt as _};
use crate::text::quoted;

/// A document is verified in well under a second; an archive of gigabytes is read once.
const LONGEST: Duration = Duration::from_secs(600);

/// Bytes of a keyring; that of a whole distribution has a fraction of that.
const MAX_KEYRING: u64 = 16 << 20;

/// Bytes that gpgv may say.
const MAX_SAID: u64 = 1 << 20;

/// Hashes that somebody may have found a collision of: MD5, SHA-1, RIPEMD-160 (RFC 4880, section 9.4).
const WEAK: [&str; 3] = ["1", "2", "3"];

/// Why something isn't verified.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Unverified {
    text: String,
    /// The signature is one of other bytes.
    pub(super) is_of_other_bytes: bool,
}

/// When something was signed, in seconds since 1970; `None` where gpgv doesn't say it so.
pub(super) type SignedAt = Option<u64>;

/// What is signed in a clearsigned document of at most `max` bytes, and when that was.
///
/// # Errors
/// [`Unverified`], or why gpgv can't be asked.
pub(super) async fn signed_part(
    keyring: &Path,
    document: &[u8],
    max: u64,
) -> anyhow::Result<(Vec<u8>, SignedAt)> {
    let document = in_memory(document)?;
    let (signed, said, status) = run(keyring, &["--output", "-"], document, max).await?;
    Ok((signed, judge(keyring, &said, status)?))
}

/// Makes sure that a signature that stands in a file of its own is one of all of `file`; returns when it was
/// made.
///
/// # Errors
/// As [`signed_part`].
pub(super) async fn check(
    keyring: &Path,
    signature: &[u8],
    file: File,
) -> anyhow::Result<SignedAt> {
    let signature = in_memory(signature)?;
    // The program opens it anew: it is this process's until it has ended.
    let path = format!("/proc/{}/fd/{}", std::process::id(), signature.as_raw_fd());
    let (_, said, status) = run(keyring, &[&path, "-"], file, 0).await?;
    judge(keyring, &said, status)
}

/// A file of these bytes that nobody can change, and that needs no name.
pub(super) fn in_memory(bytes: &[u8]) -> anyhow::Result<File> {
    let mut file = File::frozen(|file| file.write_all(bytes)).context("making a file in memory")?;
    file.rewind().context("reading a file in memory")?;
    Ok(file)
}

/// Runs gpgv; returns its output, of at most `max` bytes, what it says, and how it has ended.
async fn run(
    keyring: &Path,
    arguments: &[&str],
    input: File,
    max: u64,
) -> anyhow::Result<(Vec<u8>, String, ExitStatus)> {
    check_keyring(keyring)?;
    let mut gpgv = Command::new("gpgv");
    // What the user has set for gpg, and the user's own keys, count for nothing. Each line for
    // programs begins with a mark that none for people has: both may go to one place.
    gpgv.args([
        "--quiet",
        "--homedir",
        "/nonexistent",
        "--status-fd",
        "2",
        "--keyring",
    ]);
    // A name without a `/` would be one in the home directory.
    gpgv.arg(Path::new(".").join(keyring)).args(arguments);
    gpgv.env("LC_ALL", "C").kill_on_drop(true);
    gpgv.stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut gpgv = gpgv.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("no gpgv; expected the package gpgv"),
        _ => anyhow::Error::new(error).context("starting gpgv"),
    })?;
    let (output, said) = (gpgv.stdout.take(), gpgv.stderr.take());
    let whole = async {
        tokio::try_join!(read(output, max), read(said, MAX_SAID), async {
            gpgv.wait().await.context("waiting for gpgv")
        })
    };
    let ended = timeout(LONGEST, whole).await;
    let (output, said, status) = ended.map_err(|_| {
        anyhow::anyhow!(
            "gpgv has not ended within {} s; it was ended",
            LONGEST.as_secs()
        )
    })??;
    ensure!(
        output.len() as u64 <= max,
        "what is signed is longer than {max} bytes, which no such document is"
    );
    Ok((output, String::from_utf8_lossy(&said).into_owned(), status))
}

/// One byte more than `max` tells that there is more.
async fn read(from: Option<impl AsyncRead + Unpin>, max: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let read = from.take(max + 1).read_to_end(&mut bytes).await;
        read.context("reading what gpgv says")?;
    }
    Ok(bytes)
}

/// gpgv takes a keyring that it can't read for one without keys.
fn check_keyring(path: &Path) -> anyhow::Result<()> {
    let keyring = Dir::read_named(path, MAX_KEYRING)?;
    if keyring.trim_ascii_start().starts_with(b"-----BEGIN PGP") {
        bail!(
            "keyring {path:?} is armored; expected a binary one, as made by `gpg --dearmor < \
             {path:?} > other.gpg`"
        );
    }
    ensure!(!keyring.is_empty(), "keyring {path:?} is empty");
    Ok(())
}

/// One signature, as gpgv tells of it.
#[derive(Default)]
struct Signature {
    key: String,
    is_good: bool,
    at: SignedAt,
    /// Of what is wrong, what comes last says it best.
    wrong: Option<&'static str>,
}

/// All that gpgv tells (`doc/DETAILS` of `GnuPG`).
#[derive(Default)]
struct Told {
    signatures: Vec<Signature>,
    /// How many texts were signed in one document.
    texts: usize,
    error: Option<String>,
    is_of_other_bytes: bool,
}

impl Told {
    fn of(said: &str) -> Self {
        let mut told = Self::default();
        let lines = said.lines();
        for line in lines.filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
            told.take(line);
        }
        let signatures = &mut told.signatures;
        signatures.retain(|it| it.is_good || it.wrong.is_some());
        told
    }

    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        if words[0] == "NEWSIG" || self.signatures.is_empty() {
            self.signatures.push(Signature::default());
        }
        let last = self.signatures.last_mut().expect("there is one by now");
        let wrong = match words[0] {
            "GOODSIG" => {
                last.is_good = true;
                last.key = words.get(1).map_or(String::new(), ToString::to_string);
                return;
            }
            "VALIDSIG" if words.get(8).is_some_and(|hash| WEAK.contains(hash)) => {
                last.is_good = false;
                last.wrong = Some("uses MD5, SHA-1 or RIPEMD-160, which prove nothing any more");
                return;
            }
            "VALIDSIG" => {
                last.at = words.get(3).and_then(|at| at.parse().ok());
                return;
            }
            "PLAINTEXT" => {
                self.texts += 1;
                return;
            }
            "ERROR" | "FAILURE" => {
                self.error.get_or_insert_with(|| line.to_string());
                return;
            }
            "BADSIG" => {
                self.is_of_other_bytes = true;
                "does not fit: it is one of other bytes"
            }
            "EXPSIG" => "has expired",
            "EXPKEYSIG" => "is of a key that has expired",
            "REVKEYSIG" => "is of a key that was revoked",
            "NO_PUBKEY" => "is of a key that is not in the keyring",
            "ERRSIG" => "can't be checked",
            _ => return,
        };
        last.wrong = Some(wrong);
        last.key = words.get(1).map_or(String::new(), ToString::to_string);
    }

    /// A document may be signed by several keys, of which a keyring has some: one good signature is enough,
    /// as for apt, where none is bad.
    fn is_good(&self, status: ExitStatus) -> bool {
        let is_any_good = self.signatures.iter().any(|it| it.is_good);
        let is_any_wrong = self.signatures.iter().any(|it| !it.is_good);
        let is_whole = self.error.is_none() && self.texts <= 1 && !self.is_of_other_bytes;
        // gpgv fails as well where it lacks one of several keys.
        is_any_good && is_whole && (status.success() || is_any_wrong)
    }
}

/// Whether something is signed, and when it was last, by what gpgv says and how it has ended.
fn judge(keyring: &Path, said: &str, status: ExitStatus) -> anyhow::Result<SignedAt> {
    let told = Told::of(said);
    if told.is_good(status) {
        let good = told.signatures.iter().filter(|it| it.is_good);
        return Ok(good.filter_map(|it| it.at).max());
    }
    let wrong = told.signatures.iter();
    let wrong = wrong.filter_map(|it| Some((it.wrong?, it.key.escape_debug())));
    let wrong: Vec<_> = wrong
        .map(|(wrong, key)| format!("the signature by key {key} {wrong}"))
        .collect();
    let why = match (&wrong[..], told.error) {
        (_, Some(error)) if !told.signatures.is_empty() && told.texts > 0 => {
            format!(
                "gpgv says {}, as where there is more than one signed text",
                quoted(&error)
            )
        }
        ([], _) if status.code() == Some(2) => {
            let first = said.lines().find(|line| line.starts_with("gpgv: "));
            let first = first.map_or(String::new(), |line| format!(" ({})", quoted(line)));
            format!("there is no OpenPGP signature in it{first}")
        }
        ([], _) => format!("gpgv failed ({status}): {}", quoted(said.trim())),
        (wrong, _) => wrong.join("; "),
    };
    let is_of_other_bytes = told.is_of_other_bytes;
    let text = format!("{why}; expected one by a key of {keyring:?}");
    Err(Unverified {
        text,
        is_of_other_bytes,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::lab::Signers;

    /// What is signed in the file, or why nothing is.
    async fn signed(keyring: &Path, file: &Path) -> Result<String, String> {
        let signed = signed_part(keyring, &fs::read(file).unwrap(), 1_000).await;
        let text = signed.map(|(bytes, at)| {
            assert!(at.is_some(), "gpgv says when");
            String::from_utf8(bytes).unwrap()
        });
        text.map_err(|error| format!("{error:#}"))
    }

    async fn checked(keyring: &Path, signature: &Path, file: &Path) -> Result<(), String> {
        let signature = fs::read(signature).unwrap();
        let checked = check(keyring, &signature, File::open(file).unwrap()).await;
        checked.map(|_| ()).map_err(|error| format!("{error:#}"))
    }

    /// What it says of one thing that is wrong, with `KEY` for any key's number.
    fn without_key(said: Result<impl std::fmt::Debug, String>) -> String {
        let said = said.unwrap_err();
        let words = said.split(' ').map(|word| {
            let is_key = word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_key { "KEY" } else { word }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn only_what_stands_within_the_signature_counts() {
        let (signers, folder) = (Signers::new(), tempfile::tempdir().unwrap());
        for name in ["good", "other"] {
            signers.make(name);
        }
        let [text, one, two, odd] = ["text", "one", "two", "odd"].map(|it| folder.path().join(it));
        fs::write(&text, "a\n- b\n").unwrap();
        signers.clearsign(&["good"], &text, &one);
        let keyring = signers.keyring(&["good"]);
        assert_eq!(signed(&keyring, &one).await, Ok("a\n- b\n".into()));

        let inside = fs::read_to_string(&one).unwrap();
        fs::write(&odd, format!("evil\n{inside}evil\n")).unwrap();
        assert_eq!(signed(&keyring, &odd).await, Ok("a\n- b\n".into()));
        // One of several keys is enough.
        signers.clearsign(&["other", "good"], &text, &two);
        assert_eq!(signed(&keyring, &two).await, Ok("a\n- b\n".into()));
        let by_both = fs::read_to_string(&two).unwrap();

        // Two signed texts in one, whoever signed the other.
        signers.clearsign(&["other"], &text, &two);
        let other = fs::read_to_string(&two).unwrap();
        for both in [
            format!("{inside}{other}"),
            format!("{other}{inside}"),
            inside.repeat(2),
            format!("{by_both}{other}"),
        ] {
            fs::write(&odd, both).unwrap();
            let both = signers.keyring(&["good", "other"]);
            for keyring in [&keyring, &both] {
                let said = signed(keyring, &odd).await.unwrap_err();
                let expected = format!(
                    "gpgv says `ERROR proc_pkt.plaintext 89_BAD_DATA`, as where there is more than one signed \
                     text; expected one by a key of {keyring:?}"
                );
                assert_eq!(said, expected);
            }
        }
        // A longer text than it may be.
        fs::write(&text, "x".repeat(2_000)).unwrap();
        signers.clearsign(&["good"], &text, &one);
        let said = "what is signed is longer than 1000 bytes, which no such document is";
        assert_eq!(signed(&keyring, &one).await, Err(said.into()));
    }

    #[tokio::test]
    async fn whatever_is_wrong_with_a_signature_is_said() {
        let (signers, folder) = (Signers::new(), tempfile::tempdir().unwrap());
        for name in ["good", "revoked"] {
            signers.make(name);
        }
        signers.make_long_ago("expired", "1d");
        signers.make_long_ago("old", "never");
        let [text, signature, other] =
            ["text", "signature", "other"].map(|it| folder.path().join(it));
        fs::write(&text, "a text").unwrap();
        fs::write(&other, "another").unwrap();
        let keyring = signers.keyring(&["good", "expired", "old"]);
        let expected = format!("; expected one by a key of {keyring:?}");

        signers.detach(&["good"], &text, &signature);
        assert_eq!(checked(&keyring, &signature, &text).await, Ok(()));
        let said = without_key(checked(&keyring, &signature, &other).await);
        let wrong = "the signature by key KEY does not fit: it is one of other bytes";
        assert_eq!(said, format!("{wrong}{expected}"));

        signers.detach(&["revoked"], &text, &signature);
        let said = without_key(checked(&keyring, &signature, &text).await);
        let wrong = "the signature by key KEY is of a key that is not in the keyring";
        assert_eq!(said, format!("{wrong}{expected}"));
        signers.revoke("revoked");
        let with_revoked = signers.keyring(&["revoked"]);
        let said = without_key(checked(&with_revoked, &signature, &text).await);
        assert!(
            said.starts_with("the signature by key KEY is of a key that was revoked"),
            "{said}"
        );

        signers.detach_long_ago("expired", &[], &text, &signature);
        let said = without_key(checked(&keyring, &signature, &text).await);
        let wrong = "the signature by key KEY is of a key that has expired";
        assert_eq!(said, format!("{wrong}{expected}"));

        signers.detach_long_ago("old", &["--default-sig-expire", "1d"], &text, &signature);
        let said = without_key(checked(&keyring, &signature, &text).await);
        let wrong = "the signature by key KEY has expired";
        assert_eq!(said, format!("{wrong}{expected}"));

        signers.sign(
            &["good"],
            &["--digest-algo", "SHA1", "--detach-sign"],
            &text,
            &signature,
        );
        let said = without_key(checked(&keyring, &signature, &text).await);
        let wrong =
            "the signature by key KEY uses MD5, SHA-1 or RIPEMD-160, which prove nothing any more";
        assert_eq!(said, format!("{wrong}{expected}"));

        for none in [
            "",
            "<html>",
            "-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n",
        ] {
            fs::write(&signature, none).unwrap();
            let said = checked(&keyring, &signature, &text).await.unwrap_err();
            assert!(
                said.starts_with("there is no OpenPGP signature in it"),
                "{said}"
            );
            let said = signed(&keyring, &signature).await.unwrap_err();
            assert!(
                said.starts_with("there is no OpenPGP signature in it"),
                "{said}"
            );
        }
        // A text that holds its own signature is none of another.
        signers.sign(&["good"], &["--sign"], &text, &signature);
        let said = checked(&keyring, &signature, &other).await.unwrap_err();
        assert!(
            said.starts_with("there is no OpenPGP signature in it (`gpgv: not a detached"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_keyring_that_gpgv_can_not_read_is_none_without_keys() {
        let (signers, folder) = (Signers::new(), tempfile::tempdir().unwrap());
        signers.make("good");
        let text = folder.path().join("text");
        fs::write(&text, "").unwrap();
        let armored = signers.armored_keyring(&["good"]);
        let said = signed(&armored, &text).await.unwrap_err();
        let expected = format!(
            "keyring {armored:?} is armored; expected a binary one, as made by `gpg --dearmor < \
             {armored:?} > other.gpg`"
        );
        assert_eq!(said, expected);
        let said = signed(&text, &text).await.unwrap_err();
        assert_eq!(said, format!("keyring {text:?} is empty"));
        let missing = folder.path().join("none");
        let said = signed(&missing, &text).await.unwrap_err();
        assert_eq!(
            said,
            format!("reading {missing:?}: No such file or directory")
        );
    }
}
