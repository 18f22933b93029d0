//! Lists of checksums, as `sha256sum` and BSD's `sha256` write them.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use crate::text::quoted;
use crate::words::Digest;

/// The SHA-256 of files, by their names as upstream writes them, without `./` in front.
pub(super) type Sums = BTreeMap<String, Digest>;

/// Reads a list. `alone` is the name of the file that is meant by a list which is nothing but a hash.
/// Sums of other kinds are passed over.
///
/// # Errors
/// When a line is no checksum, a name has two, or there is no SHA-256 in it.
pub(super) fn parse(text: &[u8], alone: Option<&str>) -> anyhow::Result<Sums> {
    let text = std::str::from_utf8(text).context("expected text; it is not UTF-8")?;
    let mut sums = Sums::new();
    let lines = text.lines().map(str::trim_end).enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let number = number + 1;
        let sum = bsd(line)
            .or_else(|| gnu(line))
            .or_else(|| Some((line, alone?)));
        let sum = sum.filter(|(hash, _)| is_hash(hash));
        let Some((hash, name)) = sum else {
            bail!(
                "line {number} is {}; expected a checksum and a name",
                quoted(line)
            );
        };
        // A name in which something had to be written in another way is none of an image.
        let Ok(digest) = hash.parse::<Digest>() else {
            continue;
        };
        let name = name.strip_prefix("./").unwrap_or(name);
        let other = sums.insert(name.to_string(), digest);
        ensure!(
            other.is_none_or(|other| other == digest),
            "line {number}: {} has two different checksums",
            quoted(name)
        );
    }
    ensure!(!sums.is_empty(), "there is no SHA-256 in it");
    Ok(sums)
}

/// `SHA256 (name) = hash`
fn bsd(line: &str) -> Option<(&str, &str)> {
    let (before, hash) = line.rsplit_once(") = ")?;
    let (kind, name) = before.split_once(" (")?;
    let is_kind = kind
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-/".contains(&byte));
    // Of the same length as SHA-256, and others.
    let hash = if kind == "SHA256" {
        hash
    } else {
        hash.get(..1)?
    };
    is_kind.then_some((hash, name))
}

/// `hash  name`, and `hash *name` of a file that was read as binary.
fn gnu(line: &str) -> Option<(&str, &str)> {
    let (hash, name) = line.split_once(' ')?;
    let name = name.trim_start_matches(' ');
    Some((hash, name.strip_prefix('*').unwrap_or(name)))
}

fn is_hash(text: &str) -> bool {
    let text = text.strip_prefix('\\').unwrap_or(text);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const B: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn names(text: &str, alone: Option<&str>) -> Vec<String> {
        let sums = parse(text.as_bytes(), alone).unwrap();
        let shown = sums
            .iter()
            .map(|(name, digest)| format!("{name} {}", &digest.to_string()[..2]));
        shown.collect()
    }

    #[test]
    fn every_form_of_a_list_is_read() {
        let upper = A.to_uppercase();
        let text = format!(
            "# a comment\n{A}  ./boot/linux\n{B} *b c.iso\r\n\nSHA256 (f(1).iso) = {upper}\n\
             SHA512 (f.iso) = {A}{A}\nMD5 (x) = 00\n{A}{A}  other\n{A}  ./boot/linux\n\
             \\{A}  a\\nb\nSHA3-256 (y) = {A}\n"
        );
        assert_eq!(
            names(&text, None),
            ["b c.iso 00", "boot/linux ba", "f(1).iso ba"]
        );
        assert_eq!(names(&format!("{A}\n"), Some("x.tar.gz")), ["x.tar.gz ba"]);
        assert_eq!(
            names(&format!("{A}  x.tar.gz\n"), Some("y")),
            ["x.tar.gz ba"]
        );
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        for (text, said) in [
            (String::new(), "there is no SHA-256 in it"),
            (format!("{A}{A}  x"), "there is no SHA-256 in it"),
            (
                "<html>\n".into(),
                "line 1 is `<html>`; expected a checksum and a name",
            ),
            (
                format!("{A}  x\n{A}\n"),
                &format!("line 2 is `{A}`; expected a checksum and a name"),
            ),
            (
                format!("{A}  x\n{B}  ./x\n"),
                "line 2: `x` has two different checksums",
            ),
        ] {
            let error = parse(text.as_bytes(), None).unwrap_err();
            assert_eq!(error.to_string(), said, "{text}");
        }
        assert!(parse(b"\xff", None).is_err());
    }
}
