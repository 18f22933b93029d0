//! The daemon as a whole, on real images, servers, file systems and crashes.
//!
//! A test that can't run here (no root, a package that is missing) is reported as ignored, with
//! what it misses.

#![allow(
    clippy::pedantic,
    reason = "a test is read from top to bottom, and panics where something is amiss"
)]
#![allow(
    unreachable_pub,
    reason = "what the tests have in common is for nobody else"
)]

mod adoption;
mod aliases;
mod boot_configs;
mod changes;
mod check_config;
mod clocks;
mod commands;
mod configured;
mod crashes;
mod dhcp;
mod durable;
mod filesystems;
mod hardship;
mod history;
mod hooks;
mod images;
mod in_use;
mod lab;
mod leftovers;
mod load;
mod machines;
mod menus;
mod model;
mod neighbours;
mod notes;
mod orders;
mod outputs;
mod parsers;
mod power;
mod promotion;
mod proofs;
mod quiet;
mod recipes;
mod rights;
mod rules;
mod sameness;
mod seen;
mod service;
mod signing;
mod storm;
mod supervision;
mod swaps;
mod threats;
mod tools;
mod trust;
mod unprivileged;
mod verify;
mod waits;
mod writers;

use libtest_mimic::Arguments;

fn main() {
    let tests = [
        images::tests(),
        boot_configs::tests(),
        outputs::tests(),
        aliases::tests(),
        menus::tests(),
        parsers::tests(),
        notes::tests(),
        storm::tests(),
        machines::tests(),
        recipes::tests(),
        dhcp::tests(),
        swaps::tests(),
        crashes::tests(),
        lab::blocklog::trials::tests(),
        power::tests(),
        durable::tests(),
        threats::tests(),
        load::tests(),
        neighbours::tests(),
        leftovers::tests(),
        clocks::tests(),
        filesystems::tests(),
        hardship::tests(),
        history::tests(),
        hooks::tests(),
        orders::tests(),
        commands::tests(),
        seen::tests(),
        waits::tests(),
        changes::tests(),
        promotion::tests(),
        check_config::tests(),
        sameness::tests(),
        adoption::tests(),
        quiet::tests(),
        in_use::tests(),
        verify::tests(),
        model::tests(),
        supervision::tests(),
        service::tests(),
        configured::tests(),
        rights::tests(),
        tools::tests(),
        trust::tests(),
        proofs::tests(),
        signing::tests(),
        rules::tests(),
        writers::tests(),
    ];
    libtest_mimic::run(
        &Arguments::from_args(),
        tests.into_iter().flatten().collect(),
    )
    .exit();
}
