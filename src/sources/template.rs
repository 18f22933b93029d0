//! Texts of a source's file in which a word in braces stands for what upstream says: `{arch}`.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::text::quoted;

/// Words in braces that the daemon puts something in the place of, for each machine that boots.
pub(super) const OF_DAEMON: [&str; 2] = ["url", "path"];

/// What upstream says, by the word that stands for it.
pub(super) type Values = BTreeMap<&'static str, String>;

/// A text with such words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Template(String);

impl Template {
    /// `None` where a word is none of the `known` ones, or a brace is alone.
    pub(super) fn new(text: &str, known: &[&str]) -> Option<Self> {
        let mut parts = text.split('{');
        let is_plain = |part: &str| !part.contains('}');
        let is_good = parts.next().is_some_and(is_plain)
            && parts.all(|part| {
                let word = part.split_once('}');
                word.is_some_and(|(word, rest)| known.contains(&word) && is_plain(rest))
            });
        is_good.then(|| Self(text.to_string()))
    }

    /// What a text with these words has to look like, as the end of a rule.
    pub(super) fn rule(known: &[&str]) -> String {
        let words: Vec<_> = known.iter().map(|word| format!("`{{{word}}}`")).collect();
        match &words[..] {
            [] => "without `{` and `}`".to_string(),
            words => format!("with no other braces than {}", words.join(", ")),
        }
    }

    /// The text as it is written.
    pub(super) fn as_written(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// When upstream doesn't say what one of the words stands for.
    pub(super) fn fill(&self, values: &Values) -> anyhow::Result<String> {
        let mut parts = self.0.split('{');
        let mut text = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let (word, rest) = part.split_once('}').unwrap_or((part, ""));
            let value = values.get(word).filter(|value| !value.is_empty());
            let value = value.with_context(|| {
                format!(
                    "upstream does not say what `{{{word}}}` is in {}",
                    quoted(&self.0)
                )
            })?;
            text += value;
            text += rest;
        }
        Ok(text)
    }
}

/// A text with all words that are among `values` replaced; other braces stay what they are.
pub(super) fn filled(text: &str, values: &Values) -> String {
    let mut filled = text.to_string();
    for (word, value) in values {
        filled = filled.replace(&format!("{{{word}}}"), value);
    }
    filled
}

/// The words in braces that nobody puts anything in the place of. `${word}` is a loader's own.
pub(super) fn unknown_words(text: &str, known: &[&str]) -> Vec<String> {
    let mut words = Vec::new();
    let mut before = text.split('{').next().unwrap_or_default();
    for part in text.split('{').skip(1) {
        if let Some((word, _)) = part.split_once('}') {
            let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
            let is_known = known.contains(&word) || OF_DAEMON.contains(&word);
            if is_word && !is_known && !before.ends_with('$') {
                words.push(word.to_string());
            }
        }
        before = part;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let values = [("arch", "amd64"), ("release", "bookworm"), ("version", "")];
        values.map(|(word, value)| (word, value.to_string())).into()
    }

    #[test]
    fn words_in_braces_stand_for_what_upstream_says() {
        let known = ["arch", "release", "version", "subarch"];
        let fill = |text: &str| Template::new(text, &known).unwrap().fill(&values());
        let filled = fill("{arch}/generic/{release}-{arch}/x").unwrap();
        assert_eq!(filled, "amd64/generic/bookworm-amd64/x");
        assert_eq!(fill("plain").unwrap(), "plain");
        for word in ["version", "subarch"] {
            let said = fill(&format!("a{{{word}}}")).unwrap_err().to_string();
            let expected = format!("upstream does not say what `{{{word}}}` is in `a{{{word}}}`");
            assert_eq!(said, expected);
        }
        for bad in [
            "{arch", "arch}", "{}", "{Arch}", "{arch}}", "{{arch}}", "{other}",
        ] {
            assert_eq!(Template::new(bad, &known), None, "{bad}");
        }
    }

    #[test]
    fn a_command_line_keeps_the_braces_that_are_not_ours() {
        let text = "url={url}/{arch} ${x} {version}";
        assert_eq!(filled(text, &values()), "url={url}/amd64 ${x} ");
    }
}
