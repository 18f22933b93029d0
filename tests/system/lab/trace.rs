//! The system calls of a program, by `strace`: what it does before what.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Output};

use crate::lab::world::output;

/// One system call.
#[derive(Debug)]
pub struct Call {
    /// With its arguments and its result; a descriptor is followed by its path in `<>`.
    pub text: String,
    /// Lines of the trace: of several threads, one may begin a call while another is in the middle.
    pub begun: usize,
    pub ended: usize,
}

impl Call {
    /// Whether it is a call of one of these names (`rename` stands for all that begin so) that
    /// succeeded, with all of these texts in its arguments.
    pub fn is(&self, name: &str, texts: &[&str]) -> bool {
        let has_failed = self.text.contains(" = -1 ");
        self.text.starts_with(name) && !has_failed && texts.iter().all(|it| self.text.contains(it))
    }
}

/// Runs a command to its end; returns what it printed, and those of its system calls that are of
/// these names (`strace --trace`).
pub fn traced(names: &str, command: &Command) -> (Output, Vec<Call>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "--decode-fds=path", "--string-limit=500"]);
    strace.arg(format!("--trace={names}"));
    strace.arg("--output").arg(file.path());
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        strace.env(name, value.unwrap_or_default());
    }
    let output = output(&mut strace);
    let trace = fs::read(file.path()).unwrap();
    (output, parse(&String::from_utf8_lossy(&trace)))
}

fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    // By the thread that is in the middle of the call.
    let mut begun = HashMap::<&str, (String, usize)>::new();
    for (ended, line) in trace.lines().enumerate() {
        let (thread, line) = line.split_once(' ').unwrap();
        let line = line.trim_start();
        if let Some(first) = line.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (first.to_string(), ended));
        } else if let Some((_, rest)) = line.split_once(" resumed>") {
            let (first, begun) = begun.remove(thread).expect("what is resumed was begun");
            let text = first + rest;
            calls.push(Call { text, begun, ended });
        } else if line.contains(" = ") {
            let (text, begun) = (line.to_string(), ended);
            calls.push(Call { text, begun, ended });
        }
    }
    calls
}

/// Asserts that the program has made a call of each kind, and that each of them was over before the
/// next one began. Calls of a kind that are made again later don't matter.
pub fn assert_in_order(calls: &[Call], kinds: &[(&str, &[&str])]) {
    let mut after = None;
    for (name, texts) in kinds {
        let is_it = |call: &&Call| call.is(name, texts) && after < Some(call.begun + 1);
        let Some(call) = calls.iter().find(is_it) else {
            let seen: Vec<_> = calls.iter().map(|call| call.text.as_str()).collect();
            panic!(
                "no {name} {texts:?} where it belongs in:\n{}",
                seen.join("\n")
            )
        };
        after = Some(call.ended + 1);
    }
}
