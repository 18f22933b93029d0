//! A place in an input file: one display for everything that can be wrong with an input.
//!
//! ```text
//! error: invalid `arch`
//!  --> manifest.toml:2:8
//!   |
//! 2 | arch = "amd 64"
//!   |        ^^^^^^^^ expected 1 to 64 of `A-Z a-z 0-9 . _ + -`, …
//! ```

mod document;
mod table;

pub(crate) use document::{Expected, Table, ValueExt, read_toml, toml_key};
pub(crate) use table::{age, counted, table};

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// More complaints than this about one file are counted, not shown.
const MAX_SHOWN: usize = 20;

/// Bytes of a line that are shown before a complaint, and of it and after it.
const MAX_BEFORE: usize = 1_000;
const MAX_SPAN: usize = 500;

/// One thing that is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Bytes of the file.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: String,
    /// What was expected there; empty where `problem` says it all.
    pub expected: String,
}

/// All that is wrong with one input file, in the file's order.
#[derive(Debug, PartialEq, Eq)]
pub struct InputError {
    rendered: Vec<String>,
    unshown: usize,
}

impl InputError {
    /// `file` is the name to show; `text` is what the complaints' spans point into.
    pub(crate) fn new(file: &str, text: &str, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.span.start);
        let shown = complaints.len().min(MAX_SHOWN);
        Self {
            rendered: complaints[..shown]
                .iter()
                .map(|c| render(file, text, c))
                .collect(),
            unshown: complaints.len() - shown,
        }
    }
}

impl std::error::Error for InputError {}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered.join("\n\n"))?;
        match self.unshown {
            0 => Ok(()),
            more => write!(f, "\n\n… and {more} more"),
        }
    }
}

/// Quotes a piece of input for a message: nothing of it can move the cursor or end the line, and a
/// long one is cut.
pub(crate) fn quoted(input: &str) -> String {
    const MAX: usize = 80;
    let end = input
        .char_indices()
        .nth(MAX)
        .map_or(input.len(), |(index, _)| index);
    let more = if end < input.len() { "…" } else { "" };
    format!("`{}{more}`", input[..end].escape_debug())
}

fn render(file: &str, text: &str, complaint: &Complaint) -> String {
    let (number, line) = line_of(text, complaint.span.start);
    // Only the line itself is handed on, and of a long one what is near: an input of megabytes
    // costs no more than a small one.
    let source = &text[line.clone()];
    let start = floor(source, complaint.span.start - line.start);
    let end = floor(
        source,
        complaint.span.end.clamp(line.start + start, line.end) - line.start,
    );
    let first = floor(source, start.saturating_sub(MAX_BEFORE));
    let last = floor(source, end.min(start + MAX_SPAN) + MAX_SPAN).max(start);
    let column = source[..start].chars().count() + 1;
    let source = printable(&source[first..last]);
    let (start, end) = (start - first, end.min(last) - first);
    let caret = AnnotationKind::Primary
        .span(start..end)
        .label(&complaint.expected);
    let excerpt = Snippet::source(source.as_ref())
        .line_start(number)
        .annotation(caret);
    let excerpt = if first == 0 {
        excerpt.path(file)
    } else {
        excerpt
    };
    let title = Level::ERROR.primary_title(&complaint.problem);
    let report = if first == 0 {
        title.element(excerpt)
    } else {
        // The excerpt begins in the middle of the line and can't count the columns itself.
        let place = Origin::path(file).line(number).char_column(column);
        title.element(place).element(excerpt)
    };
    Renderer::plain().render(&[report])
}

/// The same text without what the renderer passes on and a terminal may take for a command: the
/// control characters of eight bits, and ends of lines that TOML doesn't know. No byte moves.
fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| matches!(c, '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    if !text.contains(is_bad) {
        return text.into();
    }
    let replace = |c: char| match c {
        c if !is_bad(c) => c,
        // Of two bytes, as what it stands for.
        '\u{80}'..='\u{9f}' => '\u{b7}',
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(replace).collect::<String>().into()
}

/// The number (from 1) and the bytes, without the line end, of the line that holds byte `at`.
#[expect(clippy::naive_bytecount, reason = "it is done once for an error")]
fn line_of(text: &str, at: usize) -> (usize, Range<usize>) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let start = before
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |index| index + 1);
    let length = text.as_bytes()[start..].iter().position(|&b| b == b'\n');
    let end = length.map_or(text.len(), |length| start + length);
    (
        1 + before.iter().filter(|&&b| b == b'\n').count(),
        start..end,
    )
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complain(text: &str, span: Range<usize>) -> String {
        let complaint = Complaint {
            span,
            problem: "invalid `b`".into(),
            expected: "expected this".into(),
        };
        InputError::new("x.toml", text, vec![complaint]).to_string()
    }

    #[test]
    fn a_complaint_shows_file_line_column_the_line_and_a_caret() {
        let expected = "\
error: invalid `b`
 --> x.toml:2:5
  |
2 | b = 17
  |     ^^ expected this";
        assert_eq!(complain("a = 1\nb = 17\nc = 3\n", 10..12), expected);
    }

    #[test]
    fn control_characters_and_terminal_escapes_of_the_input_are_not_passed_on() {
        let shown = complain("b = \"\x1b[2J\u{202e}\x07\"", 4..8);
        assert!(!shown.contains(['\x1b', '\x07', '\u{202e}']), "{shown:?}");
        let shown = complain("b = \"\u{9b}2J\u{85}ü\u{2028}\"", 4..14);
        assert!(shown.contains("b = \"·2J·ü\u{fffd}\""), "{shown:?}");
        assert_eq!(quoted("a\nb\x1b"), "`a\\nb\\u{1b}`");
    }

    #[test]
    fn a_long_line_and_a_long_list_stay_readable() {
        let long = "x".repeat(65_536);
        assert!(complain(&long, 60_000..60_002).len() < 1_000);
        assert!(complain(&long, 0..65_536).len() < 2_000);
        assert!(complain(&long, 60_000..60_002).contains("x.toml:1:60001"));
        assert!(quoted(&long).len() < 100);
        let one = Complaint {
            span: 0..1,
            problem: "p".into(),
            expected: String::new(),
        };
        let all = InputError::new("x.toml", "a", vec![one; 500]);
        assert!(all.to_string().ends_with("… and 480 more"), "{all}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_and_no_span_makes_the_display_panic(text in "\\PC*[\n\r\t]?\\PC*", a in 0usize..80, b in 0usize..80) {
            let a = a.min(text.len());
            complain(&text, a..b.max(a));
        }
    }
}
