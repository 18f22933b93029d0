//! A terminal of any width, and texts without what no test can know.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal of so many columns: the program's side, and what shows all that was written there.
fn open(columns: u16) -> (File, std::thread::JoinHandle<String>) {
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shown).unwrap();
    unlockpt(&shown).unwrap();
    let name = ptsname(&shown, Vec::new()).unwrap();
    let size = Winsize {
        ws_row: 50,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&shown, size).unwrap();
    let name = name.to_str().unwrap();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // The last program that has the terminal open has closed it: an error.
        let _ = File::from(shown).read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
    });
    (terminal, reading)
}

/// Runs a program whose standard output is a terminal of so many columns. Returns its end, and what
/// it has written there and, as it is, to standard error.
pub fn on_terminal(command: &mut Command, columns: u16) -> (Output, String) {
    let (terminal, reading) = open(columns);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command.stdout(terminal);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    command.stdout(Stdio::null());
    (output, reading.join().unwrap())
}

/// As [`on_terminal`], where standard error is the terminal.
pub fn errors_on_terminal(command: &mut Command, columns: u16) -> (Output, String) {
    let (terminal, reading) = open(columns);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(terminal);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    command.stderr(Stdio::null());
    (output, reading.join().unwrap())
}

/// The text with a word in the place of each age and zeros for the digits of each time, in columns as
/// before: no test can know those.
pub fn steady(text: &str) -> String {
    let mut steady = String::new();
    for line in text.split_inclusive('\n') {
        // How much wider the next gap between two columns has to be, so that they stay in place.
        let (mut rest, mut wider) = (line, 0);
        while !rest.is_empty() {
            let end = rest.find([' ', '\n']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let bare = word.trim_matches(|c: char| "(),.;:".contains(c));
            let blanks = after.len() - after.trim_start_matches(' ').len();
            if is_age(bare) {
                steady.push_str(&word.replace(bare, "AGE"));
                wider += bare.len() as isize - "AGE".len() as isize;
            } else if is_time(bare) {
                steady.push_str(&word.replace(|c: char| c.is_ascii_digit(), "0"));
            } else {
                steady.push_str(word);
            }
            let mut gap = blanks;
            if blanks > 1 {
                gap = blanks.saturating_add_signed(std::mem::take(&mut wider));
            }
            steady.extend(std::iter::repeat_n(' ', gap));
            rest = &after[blanks..];
            if let Some(next) = rest.strip_prefix('\n') {
                steady.push('\n');
                rest = next;
            }
        }
    }
    steady
}

/// `3h20m`
fn is_age(word: &str) -> bool {
    let mut rest = word;
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
        if end == 0 || !rest[end..].starts_with(['d', 'h', 'm', 's']) {
            return false;
        }
        rest = &rest[end + 1..];
    }
    rest.is_empty() && !word.is_empty()
}

/// `2026-11-22T16:15:00Z`
fn is_time(word: &str) -> bool {
    word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T'
}
