//! Power cuts: what is on the disk is all that is left.

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    Vec::new()
}
