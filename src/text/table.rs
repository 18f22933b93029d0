//! What commands print for people: columns, and how old something is.

use std::time::Duration;

use crate::words::Moment;

/// The age of `since`, in its two largest units, down to seconds: `3h 20m`.
pub(crate) fn age(since: Moment) -> String {
    let age = Duration::from_secs(since.age().as_secs());
    let text = humantime::format_duration(age).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 target`, `2 targets`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
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
