//! What commands print for people: columns, and how old something is.

use std::time::Duration;

use crate::words::Moment;

/// The age of `since`, in its two largest units, down to seconds: `3h 20m`.
pub(crate) fn age(since: Moment) -> String {
    let age = Duration::from_secs(since.age().as_secs());
    let text = humantime::format_duration(age).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 target`, `2 targets`, `2 processes`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count if what.ends_with('s') => format!("{count} {what}es"),
        count => format!("{count} {what}s"),
    }
}

/// Rows of cells, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_their_text() {
        let rows = [["a", "bb", ""], ["aäa", "b", "c"], ["", "", ""]];
        let rows = rows.map(|row| row.map(String::from));
        assert_eq!(table(&rows), "a    bb\naäa  b   c\n\n");
    }

    #[test]
    fn an_age_has_two_units() {
        let ago = |seconds| age(Moment::now().earlier(Duration::from_secs(seconds)));
        // Half a minute is left until the next one.
        assert_eq!(ago(3 * 3_600 + 20 * 60 + 30), "3h 20m");
        assert_eq!(ago(26 * 3_600 + 30 * 60), "1day 2h");
        assert_eq!(age(Moment::now().later(Duration::from_secs(3_600))), "0s");
    }

    #[test]
    fn one_thing_is_counted_in_the_singular() {
        let counts = [0, 1, 2].map(|count| counted(count, "drop"));
        assert_eq!(counts, ["0 drops", "1 drop", "2 drops"]);
    }
}
