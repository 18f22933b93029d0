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
mod carried;
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
mod import_service;
mod importing;
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
mod sites;
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

/// So many tests run at a time: many a one waits for a daemon, a machine or a clock more than it works.
fn at_a_time() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    processors + processors.div_ceil(2)
}

fn main() {
    // The first one of these makes the Debian of all the others: they come when it has one.
    let mut services = service::tests();
    let other_services = services.split_off(1);
    let tests = [
        services,
        images::tests(),
        importing::tests(),
        sites::tests(),
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
        carried::tests(),
        check_config::tests(),
        sameness::tests(),
        adoption::tests(),
        quiet::tests(),
        in_use::tests(),
        verify::tests(),
        model::tests(),
        supervision::tests(),
        other_services,
        import_service::tests(),
        configured::tests(),
        rights::tests(),
        tools::tests(),
        trust::tests(),
        proofs::tests(),
        signing::tests(),
        rules::tests(),
        writers::tests(),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert_with(at_a_time);
    libtest_mimic::run(&arguments, tests.into_iter().flatten().collect()).exit();
}
