//! What the targets have in common.

/// Bytes of the longest input: short enough for many tries, long enough for what costs too much to
/// show.
pub const MAX_INPUT: usize = 64 << 10;

/// Bytes of the longest message, whatever the input: so many complaints are shown, each with so much
/// of its line.
const MAX_MESSAGE: usize = 100_000;

/// An input as a text, if it is one.
pub fn text(input: &[u8]) -> Option<&str> {
    let is_short = input.len() <= MAX_INPUT;
    is_short.then(|| str::from_utf8(input).ok()).flatten()
}

/// A message that admins and importers see is short, and can neither move a cursor nor pretend to be
/// another.
pub fn assert_shown(message: &str) {
    assert!(!message.is_empty(), "nothing is said");
    assert!(message.len() <= MAX_MESSAGE, "{} bytes", message.len());
    let is_bad = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!message.contains(is_bad), "{message:?}");
}
