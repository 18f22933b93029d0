//! Lists of releases in YAML, as Alpine's `latest-releases.yaml`: for each its file and digest.

use anyhow::{Context as _, ensure};
use saphyr_parser::{Event, Parser};

use super::sums::Sums;

/// The digests of a list's files by their names. Only the events of the parser are looked at: a list can't
/// make it build anything large.
///
/// # Errors
/// When the text is no YAML, or lists no file with a `sha256`.
pub(super) fn parse(text: &[u8]) -> anyhow::Result<Sums> {
    let text = std::str::from_utf8(text).context("expected text; it is not UTF-8")?;
    let (mut sums, mut depth) = (Sums::new(), 0_usize);
    let (mut key, mut file, mut digest) = (None::<String>, None, None);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.context("expected YAML")?;
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                depth += 1;
                key = None;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                // A list of releases, and one of them.
                if depth == 2
                    && let (Some(file), Some(digest)) = (file.take(), digest.take())
                {
                    sums.insert(file, digest);
                }
                depth = depth.saturating_sub(1);
                key = None;
            }
            Event::Scalar(value, ..) if depth == 2 => match key.take() {
                None => key = Some(value.into_owned()),
                Some(of) if of == "file" => file = Some(value.into_owned()),
                Some(of) if of == "sha256" => digest = value.parse().ok(),
                Some(_) => {}
            },
            _ => {}
        }
    }
    ensure!(!sums.is_empty(), "lists no file with a `sha256`");
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_list_of_releases_have_digests() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            "---\n-\n  title: \"Netboot\"\n  desc: |\n    file: no\n    Kernel, initramfs\n  file: a-1.2.tar.gz\n  \
             size: 1\n  sha256: {digest}\n  more:\n    file: deeper\n    sha256: {digest}\n-\n  file: b.iso\n  \
             sha512: 00\n- {{file: c.iso, sha256: {digest}}}\n"
        );
        let sums = parse(text.as_bytes()).unwrap();
        let names: Vec<_> = sums
            .iter()
            .map(|(name, it)| format!("{name} {it}"))
            .collect();
        assert_eq!(
            names,
            [format!("a-1.2.tar.gz {digest}"), format!("c.iso {digest}")]
        );
        let said = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(said("- file: x\n"), "lists no file with a `sha256`");
        assert_eq!(said("a: [\n"), "expected YAML");
        // Aliases of aliases stay small.
        let bomb = "- &a [x, x]\n- &b [*a, *a]\n".to_string() + &"- [*b, *b, *b]\n".repeat(1_000);
        assert_eq!(said(&bomb), "lists no file with a `sha256`");
    }
}
