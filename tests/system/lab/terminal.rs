//! A terminal of any width, and texts without what no test can know.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::lab::world::PATIENCE;

/// A terminal of so many columns: the person's side, and the program's.
fn pair(columns: u16) -> (File, File) {
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
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
    // It is not to become the terminal of the tests.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (shown.into(), terminal.into())
}

/// A terminal of so many columns: the program's side, and what shows all that was written there.
fn open(columns: u16) -> (File, std::thread::JoinHandle<String>) {
    let (mut shown, terminal) = pair(columns);
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // The last program that has the terminal open has closed it: an error.
        let _ = shown.read_to_end(&mut bytes);
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

/// A terminal at which somebody types.
pub struct Terminal {
    person: File,
    program: File,
    pieces: mpsc::Receiver<Vec<u8>>,
    /// What was written to it, as far as it was read.
    shown: String,
}

impl Terminal {
    pub fn new() -> Self {
        let (person, program) = pair(80);
        let mut reader = person.try_clone().unwrap();
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 1_024];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                let _ = sender.send(piece[..length].to_vec());
            }
        });
        Self {
            person,
            program,
            pieces,
            shown: String::new(),
        }
    }

    /// Starts what a command of setsid(1) starts, as this user, in a session that the terminal belongs
    /// to. Standard output is none.
    pub fn start(&self, setsid: &Command, uid: u32) -> Child {
        let program = || self.program.try_clone().unwrap();
        let mut command = Command::new(setsid.get_program());
        command.arg("--ctty").args(setsid.get_args());
        for (name, value) in setsid.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.uid(uid).gid(uid).stdin(program()).stderr(program());
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until a text was written.
    pub fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.shown += &String::from_utf8_lossy(&piece),
                Err(error) => panic!("{error}, no {text:?} in {:?}", self.shown),
            }
        }
    }

    /// What was written until now.
    pub fn shown(&mut self) -> &str {
        let pieces = self.pieces.try_iter();
        self.shown
            .extend(pieces.map(|piece| String::from_utf8_lossy(&piece).to_string()));
        &self.shown
    }

    pub fn enter(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).unwrap();
    }

    /// Whether it shows what is typed.
    pub fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.program).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }
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
