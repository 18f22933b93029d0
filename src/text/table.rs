//! What commands print for people: columns, and how old something is.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Between two columns.
const GAP: &str = "  ";

/// A duration in its two largest units, down to seconds: `3h20m`.
pub(crate) fn short(duration: Duration) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let seconds = duration.as_secs();
    let first = UNITS.iter().position(|(unit, _)| seconds >= *unit);
    let first = first.unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut text = String::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if rest >= *unit || text.is_empty() {
            let _ = write!(text, "{}{name}", rest / unit);
        }
        rest %= unit;
    }
    text
}

/// As [`short`], of what is left until a time comes: 0 only when it has come.
pub(crate) fn short_until(deadline: Instant) -> String {
    let left = deadline.saturating_duration_since(Instant::now());
    short(left + Duration::from_nanos(999_999_999))
}

/// `1 target`, `2 targets`, `2 processes`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count if what.ends_with('s') => format!("{count} {what}es"),
        count => format!("{count} {what}s"),
    }
}

/// Rows of cells, each column as wide as its widest cell. The rows fit into `width` where that can be:
/// columns become narrower, down to their `least`, and what is cut ends in `…`.
pub(crate) fn table<const N: usize>(
    rows: &[[String; N]],
    width: Option<usize>,
    least: [usize; N],
) -> String {
    let natural = |column: usize| rows.iter().map(|row| row[column].width()).max();
    let mut widths: Vec<_> = (0..N).map(|column| natural(column).unwrap_or(0)).collect();
    if let Some(width) = width {
        let gaps = GAP.len() * N.saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > width {
            let spare = |column: &usize| widths[*column].saturating_sub(least[*column]);
            match (0..N).max_by_key(spare).filter(|it| spare(it) > 0) {
                Some(widest) => widths[widest] -= 1,
                None => break,
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (number, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if number > 0 {
                line.push_str(GAP);
            }
            let cell = cut(cell, *width);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width()));
        }
        // Where not even the least fits, lines are cut.
        let line = line.trim_end();
        text.push_str(&width.map_or(line.into(), |width| cut(line, width)));
        text.push('\n');
    }
    text
}

/// A text that is no wider than so many columns of a terminal.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let (mut end, mut taken) = (0, 1);
    for (at, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        end = at + c.len_utf8();
    }
    format!("{}…", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_their_text() {
        let rows = [["a", "bb", ""], ["aäa", "b", "c"], ["", "", ""]];
        let rows = rows.map(|row| row.map(String::from));
        assert_eq!(table(&rows, None, [0; 3]), "a    bb\naäa  b   c\n\n");
    }

    #[test]
    fn columns_become_narrower_down_to_their_least_width_the_widest_first() {
        let rows = [["a2345678", "b23", "c2345"], ["ä2345678", "", "界界界"]];
        let rows = rows.map(|row| row.map(String::from));
        let fitted = |width| table(&rows, Some(width), [4, 3, 2]);
        assert_eq!(fitted(21), "a2345678  b23  c2345\nä2345678       界界界\n");
        assert_eq!(fitted(17), "a2345…  b23  c23…\nä2345…       界…\n");
        // Less than what is least is not possible.
        assert_eq!(fitted(12), "a23…  b23  …\nä23…       …\n");
    }

    #[test]
    fn an_age_has_two_units() {
        let ago = |seconds| short(Duration::from_secs(seconds));
        assert_eq!(ago(3 * 3_600 + 20 * 60 + 30), "3h20m");
        assert_eq!(ago(26 * 3_600 + 30 * 60), "1d2h");
        assert_eq!(ago(400 * 86_400 + 1_800), "400d");
        assert_eq!((ago(0), ago(60)), ("0s".into(), "1m".into()));
    }

    #[test]
    fn one_thing_is_counted_in_the_singular() {
        let counts = [0, 1, 2].map(|count| counted(count, "drop"));
        assert_eq!(counts, ["0 drops", "1 drop", "2 drops"]);
    }
}
