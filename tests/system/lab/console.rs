//! A machine of QEMU's as who sits before it knows it: the keyboard, and all that it has shown on its serial
//! console.

use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::lab::world::Ended;

/// The serial console of a machine, which is off when this is dropped.
pub struct Console {
    _machine: Ended,
    keyboard: ChildStdin,
    screen: mpsc::Receiver<Vec<u8>>,
    /// What was shown, but for what was taken from it.
    pub seen: Vec<u8>,
}

impl Console {
    /// Switches on the machine of this command of QEMU's.
    pub fn start(command: &mut Command) -> Self {
        let mut machine = command
            .args(["-accel", "tcg", "-no-reboot", "-boot", "n"])
            .args(["-serial", "stdio", "-monitor", "none"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a machine");
        let keyboard = machine.stdin.take().unwrap();
        let (show, screen) = mpsc::channel();
        let mut serial = machine.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = serial.read(&mut bytes) {
                if show.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            _machine: Ended(machine),
            keyboard,
            screen,
            seen: Vec::new(),
        }
    }

    /// Waits until what is `wanted` is found in what the machine has shown.
    pub fn wait<T>(
        &mut self,
        patience: Duration,
        wanted: &str,
        find: impl Fn(&mut Vec<u8>) -> Option<T>,
    ) -> T {
        let until = Instant::now() + patience;
        loop {
            if let Some(found) = find(&mut self.seen) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => {
                    self.seen.extend(bytes);
                    // A machine writes byte by byte, and all that was seen is looked through.
                    self.seen.extend(self.screen.try_iter().flatten());
                }
                Err(error) => panic!(
                    "{error}, no {wanted:?} on the screen:\n{}",
                    String::from_utf8_lossy(&self.seen).escape_debug()
                ),
            }
        }
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
        self.keyboard.flush().unwrap();
    }
}

/// Where a text begins in what was shown.
pub fn position(seen: &[u8], text: &[u8]) -> Option<usize> {
    seen.windows(text.len()).position(|window| window == text)
}
