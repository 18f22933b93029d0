//! An importer's text in a boot loader's configuration: written so that the loader takes nothing in it
//! for a command, or refused where the loader has no way to write it.
//!
//! What a loader makes of a text is told by its own sources: GRUB's `script/yylex.l` and `lib/cmdline.c`,
//! iPXE's `core/exec.c`, `core/settings.c` and `core/uri.c`, Syslinux' `elflink/ldlinux/readconfig.c`.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::words::Boot;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub(super) enum Loader {
    #[strum(to_string = "GRUB")]
    Grub,
    #[strum(to_string = "iPXE")]
    Ipxe,
    #[strum(to_string = "pxelinux")]
    Pxelinux,
}

/// What the loader has to do with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Kind {
    /// To show it: a title.
    Text,
    /// To hand it on, as words between blanks: a command line.
    Words,
    /// To hand it on as it is: what an EFI program is told.
    Options,
    /// To load what is there.
    Path,
}

/// Of pxelinux' `FILENAME_MAX`, 256, this leaves room for `::` and the zero at the end.
const PXELINUX_PATH: usize = 253;

/// Of pxelinux' `MAX_CMDLINE_LEN`, 2048, this leaves room for the kernel, its initrds and what an admin
/// has every kernel told.
const PXELINUX_WORDS: usize = 1_024;

/// The text as the loader's configuration has it.
///
/// # Errors
/// What in the text the loader has no way to write.
pub(super) fn quote(loader: Loader, kind: Kind, text: &str) -> Result<Cow<'_, str>, &'static str> {
    if text.contains(char::is_control) {
        return Err("a control character");
    }
    if matches!(kind, Kind::Words | Kind::Options) && text.contains(Boot::URL) {
        return Err("`{url}` without `tftp.url` (no-url)");
    }
    match (loader, kind) {
        (Loader::Grub, Kind::Text) if text.starts_with('-') => Err("`-` at the begin"),
        // A kernel is told its own path before all else: it would read all else as one with that.
        (Loader::Grub, Kind::Path) if text.contains('"') => Err("`\"` in a path"),
        (Loader::Grub, Kind::Words) => grub_words(text),
        (Loader::Grub, _) => Ok(grub_word(text).into()),
        (Loader::Ipxe, Kind::Path) => Ok(percent_encoded(text)),
        (Loader::Ipxe, _) => ipxe_words(text),
        (Loader::Pxelinux, kind) => pxelinux(kind, text),
    }
}

/// Nothing between two `'` is a command, or is expanded.
fn grub_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// GRUB joins what a kernel is told of words, and puts a word with blanks between two `"`, as kernels
/// have them; any other quote it would hand on behind a `\`, which no kernel understands.
fn grub_words(text: &str) -> Result<Cow<'_, str>, &'static str> {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"._+-/@=:, ".contains(&b);
    if text.bytes().all(is_bare) {
        return Ok(text.into());
    }
    let mut is_quoted = false;
    let words = text.split(|c| {
        is_quoted ^= c == '"';
        c == ' ' && !is_quoted
    });
    let mut written = String::with_capacity(text.len() + 16);
    for word in words.filter(|word| !word.is_empty()) {
        if !written.is_empty() {
            written.push(' ');
        }
        let word = without_quotes(word).ok_or("a `\"` that is not around a word or its value")?;
        if word.contains(['\'', '\\']) {
            return Err("`'` or `\\` in a command line");
        }
        if word.bytes().all(|b| is_bare(b) && b != b' ') {
            written.push_str(&word);
        } else {
            written.push_str(&grub_word(&word));
        }
    }
    Ok(written.into())
}

/// A word without the two `"` that stand around it, or around its value: to a kernel `a="b c"` and
/// `"a=b c"` are the same.
fn without_quotes(word: &str) -> Option<Cow<'_, str>> {
    let Some((before, rest)) = word.split_once('"') else {
        return Some(word.into());
    };
    let value = rest
        .strip_suffix('"')
        .filter(|value| !value.contains('"'))?;
    let is_value = before
        .strip_suffix('=')
        .is_some_and(|key| !key.contains('='));
    (before.is_empty() || is_value).then(|| format!("{before}{value}").into())
}

/// iPXE knows no quotes: words that end a command, and what it would expand, can't be written.
fn ipxe_words(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if text.contains("${") {
        return Err("`${`");
    }
    let is_command = |word: &str| matches!(word, "||" | "&&" | ";") || word.starts_with('#');
    if text.split(' ').any(is_command) {
        return Err("a word that is `||`, `&&` or `;`, or begins with `#`");
    }
    if text.ends_with('\\') {
        return Err("`\\` at the end");
    }
    // It joins words by one blank.
    if text.contains('"') && text.contains("  ") {
        return Err("two blanks in a row, and a `\"`");
    }
    Ok(text.into())
}

/// A path in a URI.
fn percent_encoded(text: &str) -> Cow<'_, str> {
    if Boot::is_plain(text) {
        return text.into();
    }
    let mut written = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match char::from(byte) {
            c if byte.is_ascii() && Boot::is_plain(c.encode_utf8(&mut [0; 4])) => written.push(c),
            _ => {
                let _ = write!(written, "%{byte:02X}");
            }
        }
    }
    written.into()
}

/// In a line of pxelinux' everything is text up to its end, which is not far.
fn pxelinux(kind: Kind, text: &str) -> Result<Cow<'_, str>, &'static str> {
    // After a comma comes the next initrd, after `::` the path on another server.
    let is_of_path = |b: u8| b.is_ascii_graphic() && !b",:\\".contains(&b);
    match kind {
        Kind::Text if text.contains('^') => Err("`^`, which marks a key"),
        Kind::Words | Kind::Options if text.trim() == "-" => Err("nothing but `-`"),
        Kind::Path if text.len() > PXELINUX_PATH => Err("more than 253 bytes"),
        Kind::Path if !text.bytes().all(is_of_path) => {
            Err("a blank, `,`, `:`, `\\` or no ASCII in a path")
        }
        _ if text.len() > PXELINUX_WORDS => Err("more than 1024 bytes"),
        // Without `::` a path from the root, too, is one in pxelinux' own folder.
        Kind::Path if text.starts_with('/') => Ok(format!("::{text}").into()),
        _ => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_quoted(loader: Loader, kind: Kind, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            let quoted = quote(loader, kind, text);
            assert_eq!(
                quoted.as_deref().ok(),
                *expected,
                "{loader} {kind:?} {text:?}"
            );
        }
    }

    #[test]
    fn grub_shows_every_text_as_it_is() {
        for kind in [Kind::Text, Kind::Path, Kind::Options] {
            let cases = [
                ("x", Some("'x'")),
                ("", Some("''")),
                ("it's", Some("'it'\\''s'")),
                ("'", Some("''\\'''")),
                ("x\\", Some("'x\\'")),
                ("$x ${y} $(z); { } # ü", Some("'$x ${y} $(z); { } # ü'")),
                ("a\nb", None),
            ];
            assert_quoted(Loader::Grub, kind, &cases);
        }
        assert_quoted(Loader::Grub, Kind::Text, &[("--unrestricted", None)]);
        let options = [
            ("-x a=\"b  c\" it's\\", Some("'-x a=\"b  c\" it'\\''s\\'")),
            ("url={url}/x", None),
        ];
        assert_quoted(Loader::Grub, Kind::Options, &options);
        assert_quoted(Loader::Grub, Kind::Path, &[("a\"b", None)]);
    }

    #[test]
    fn grub_hands_words_on_as_a_kernel_reads_them() {
        let cases = [
            ("", Some("")),
            ("ip=dhcp  -- quiet", Some("ip=dhcp  -- quiet")),
            ("a=$x b;c {d}", Some("'a=$x' 'b;c' '{d}'")),
            ("a=\"b c\"  d", Some("'a=b c' d")),
            ("\"a=b c\"", Some("'a=b c'")),
            ("a=\"b\"", Some("a=b")),
            ("a=\"\"", Some("a=")),
            ("a=b=\"c d\"", None),
            ("a\"b\"", None),
            ("a=\"b", None),
            ("a=\"b\"c", None),
            ("it's", None),
            ("a\\b", None),
            ("url={url}/x", None),
            ("a=#b #c |d", Some("'a=#b' '#c' '|d'")),
            ("ü", Some("'ü'")),
        ];
        assert_quoted(Loader::Grub, Kind::Words, &cases);
    }

    #[test]
    fn ipxe_gets_no_word_that_it_takes_for_its_own() {
        for kind in [Kind::Text, Kind::Words, Kind::Options] {
            let cases = [
                (
                    "it's $5 {x} a;b a||b \"ü\"",
                    Some("it's $5 {x} a;b a||b \"ü\""),
                ),
                ("${boot}", None),
                ("a $${x", None),
                ("a || reboot", None),
                ("a && reboot", None),
                ("a ; reboot", None),
                ("; reboot", None),
                ("a #b", None),
                ("a#b", Some("a#b")),
                ("a\\", None),
                ("a\\b", Some("a\\b")),
                ("x=\"a  b\"", None),
            ];
            assert_quoted(Loader::Ipxe, kind, &cases);
        }
        let paths = [
            ("/n/a@/b_c+d.gz", Some("/n/a@/b_c+d.gz")),
            ("a b/${x}?#%:ü", Some("a%20b/%24%7Bx%7D%3F%23%25%3A%C3%BC")),
        ];
        assert_quoted(Loader::Ipxe, Kind::Path, &paths);
    }

    #[test]
    fn pxelinux_gets_what_fits_into_its_lines() {
        let any = "it's ${x} || ; # { \"ü\" \\";
        let long = "x".repeat(1_025);
        let texts = [(any, Some(any)), ("a^b", None), (&*long, None)];
        assert_quoted(Loader::Pxelinux, Kind::Text, &texts);
        let words = [
            (any, Some(any)),
            (" - ", None),
            ("- x", Some("- x")),
            (&long, None),
        ];
        assert_quoted(Loader::Pxelinux, Kind::Words, &words);
        let paths = [
            ("/n/a@/b_c+d.gz", Some("::/n/a@/b_c+d.gz")),
            ("n/a", Some("n/a")),
            (&long[..253], Some(&long[..253])),
            (&long[..254], None),
            ("a b", None),
            ("a,b", None),
            ("a::b", None),
            ("ü", None),
        ];
        assert_quoted(Loader::Pxelinux, Kind::Path, &paths);
    }

    proptest::proptest! {
        /// Read as GRUB's lexer does: nothing outside of quotes is anything but a word.
        #[test]
        fn what_grub_reads_is_what_was_written(text in "[ -~ü]{0,40}") {
            let written = quote(Loader::Grub, Kind::Options, &text).unwrap();
            proptest::prop_assert_eq!(grub_reads(&written), Some(vec![text.clone()]));
            if let Ok(written) = quote(Loader::Grub, Kind::Words, &text) {
                let words = grub_reads(&written);
                proptest::prop_assert!(words.is_some(), "{}", written);
                for word in words.unwrap() {
                    proptest::prop_assert!(!word.contains(['"', '\'', '\\']), "{}", word);
                }
            }
        }
    }

    /// The words of a line; `None` where something in it is more than a word.
    fn grub_reads(line: &str) -> Option<Vec<String>> {
        let (mut words, mut word, mut chars) = (Vec::new(), None::<String>, line.chars());
        while let Some(c) = chars.next() {
            match c {
                ' ' => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match chars.next()? {
                            '\'' => break,
                            c => word.push(c),
                        }
                    }
                }
                '\\' => word.get_or_insert_default().push(chars.next()?),
                '$' | '"' | ';' | '{' | '}' | '|' | '&' | '<' | '>' | '#' | '*' | '?' => {
                    return None;
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        Some(words)
    }
}
