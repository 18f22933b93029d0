//! The order of drops, incomplete drops, time-outs.

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    Vec::new()
}
