//! What people write and read: input files, with one display for everything that can be wrong in
//! them, and tables. Uses `words`. Start with [`read_toml`] and [`InputError`], which looks so:
//!
//! ```text
//! error: invalid `arch`
//!  --> manifest.toml:2:8
//!   |
//! 2 | arch = "amd 64"
//!   |        ^^^^^^^^ expected 1 to 64 of `A-Z a-z 0-9 . _ + -`, …
//! ```

mod boot;
mod document;
mod table;

pub(crate) use boot::{Named, read_boot};
pub(crate) use document::{Expected, LongDocument, Table, ValueExt, read_toml, toml_key};
pub(crate) use table::{counted, short, short_until, table};

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// More complaints than this about one file are counted, not shown.
const MAX_SHOWN: usize = 20;

/// Bytes of a line that are shown: before a complaint's span at most `MAX_BEFORE`, of the span and
/// after it at most `MAX_SPAN` each.
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
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(String);

impl InputError {
    /// `file` is the name to show; `text` is what the complaints' spans point into.
    pub(crate) fn new(file: &str, text: &str, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.span.start);
        let shown = complaints.iter().take(MAX_SHOWN);
        let mut parts: Vec<_> = shown.map(|one| render(file, text, one)).collect();
        if complaints.len() > MAX_SHOWN {
            parts.push(format!("… and {} more", complaints.len() - MAX_SHOWN));
        }
        Self(parts.join("\n\n"))
    }
}

/// Quotes a piece of input for a message: nothing of the piece can move the cursor or end the line,
/// and a long one is cut.
pub(crate) fn quoted(input: &str) -> String {
    const MAX: usize = 80;
    let (shown, more) = match input.char_indices().nth(MAX) {
        Some((end, _)) => (&input[..end], "…"),
        None => (input, ""),
    };
    format!("`{}{more}`", shown.escape_debug())
}

/// One complaint with the line that it is about.
fn render(file: &str, text: &str, complaint: &Complaint) -> String {
    let (number, line) = line_of(text, complaint.span.start);
    // The renderer gets only the line itself, and of a long line what is near the span: an input of
    // megabytes costs no more than a small one.
    let source = &text[line.clone()];
    let start = floor(source, complaint.span.start - line.start);
    let end = floor(
        source,
        complaint.span.end.clamp(line.start + start, line.end) - line.start,
    );
    let first = floor(source, start.saturating_sub(MAX_BEFORE));
    let last = floor(source, end.min(start + MAX_SPAN) + MAX_SPAN).max(start);
    let column = source[..start].chars().count() + 1;
    let caret = AnnotationKind::Primary.span(start - first..end.min(last) - first);
    let excerpt = Snippet::source(printable(&source[first..last]))
        .line_start(number)
        .annotation(caret.label(&complaint.expected));
    let title = Level::ERROR.primary_title(&complaint.problem);
    let report = if first == 0 {
        title.element(excerpt.path(file))
    } else {
        // The excerpt begins in the middle of the line and can't count the columns itself.
        let place = Origin::path(file).line(number).char_column(column);
        title.element(place).element(excerpt)
    };
    Renderer::plain().render(&[report])
}

/// The same text without what the renderer passes on and a terminal may take for a command: the
/// control characters of eight bits, and ends of lines that TOML doesn't know. No byte moves.
fn printable(text: &str) -> String {
    let replace = |c| match c {
        // A dot of two bytes, as these characters are; the next one is of three bytes, as those are.
        '\u{80}'..='\u{9f}' => '·',
        '\u{2028}' | '\u{2029}' => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(replace).collect()
}

/// The number (from 1) and the bytes, without the line end, of the line that holds byte `at`.
fn line_of(text: &str, at: usize) -> (usize, Range<usize>) {
    let (before, after) = text.as_bytes().split_at(at.min(text.len()));
    let (mut number, mut start) = (1, 0);
    for (index, _) in before
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
    {
        (number, start) = (number + 1, index + 1);
    }
    let rest = after.iter().take_while(|byte| **byte != b'\n').count();
    (number, start..before.len() + rest)
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
