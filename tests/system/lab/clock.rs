//! A wall clock of one's own for the program, by libfaketime: what counts from the boot, and the file
//! systems, keep their time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::world::Needs;

pub const NEEDS: Needs = Needs::Program("faketime");

/// Gives a program a wall clock that is so far off: `+1d`, `-30s`.
pub fn at_another_time(command: &mut Command, offset: &str) {
    preload(command).env("FAKETIME", offset);
}

fn preload(command: &mut Command) -> &mut Command {
    command
        .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1")
}

/// A wall clock that is set while programs run.
pub struct OwnClock(PathBuf);

impl OwnClock {
    /// One that is right, until [`OwnClock::set`]; kept in a file of this folder.
    pub fn new(folder: &Path) -> Self {
        let clock = Self(folder.join("clock"));
        clock.set("+0");
        clock
    }

    pub fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// Gives it to a program.
    pub fn give_to(&self, command: &mut Command) {
        preload(command)
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1");
    }
}
