//! The daemon as a whole, on real images, servers, file systems and crashes.
//!
//! A test that can't run here (no root, a package that is missing) is reported as ignored, with
//! what it misses.

#![allow(
    clippy::pedantic,
    reason = "a test is read from top to bottom, and panics where something is amiss"
)]

mod blocklog;
mod changes;
mod commands;
mod container;
mod crashes;
mod filesystems;
mod hardship;
mod images;
mod load;
mod orders;
mod power;
mod quiet;
mod scene;
mod service;
mod swaps;
mod tftp;
mod threats;
mod world;

use libtest_mimic::Arguments;

fn main() {
    let tests = [
        images::tests(),
        swaps::tests(),
        crashes::tests(),
        blocklog::trials::tests(),
        power::tests(),
        threats::tests(),
        load::tests(),
        filesystems::tests(),
        hardship::tests(),
        orders::tests(),
        commands::tests(),
        changes::tests(),
        quiet::tests(),
        service::tests(),
    ];
    libtest_mimic::run(
        &Arguments::from_args(),
        tests.into_iter().flatten().collect(),
    )
    .exit();
}
