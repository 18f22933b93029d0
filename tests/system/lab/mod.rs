//! Equipment: what the tests of all subjects are made with. The subjects are the files beside this
//! folder.
//!
//! `world` has a spool, a tree and the daemon between them; `scene` has a spool and a tree in the
//! middle of their life, with a drop of every kind. `tftp` has real servers, `container` a Debian
//! with systemd and the package, `importers` a machine with every tool that brings a drop, `blocklog`
//! disks as a power cut leaves them; `terminal` is one of any width, at which somebody may type, `clock`
//! a wall clock of one's own for a program, `keys` what ssh-keygen and an agent have; `trace` tells
//! which system calls a program made, and in what order; `sandbox` runs servers beside the
//! machine's own, and `network` is one that machines boot in, with servers as README sets them up;
//! `machine` is a machine of QEMU's in it, and `console` what one sees of such a machine.

pub mod blocklog;
pub mod clock;
pub mod console;
pub mod container;
pub mod importers;
pub mod keys;
pub mod machine;
pub mod mirror;
pub mod network;
pub mod sandbox;
pub mod scene;
pub mod terminal;
pub mod tftp;
pub mod trace;
#[allow(dead_code, reason = "the tests of the room `sources` use the rest")]
pub mod upstream;
pub mod world;

/// Every failpoint before a durable step of the daemon, as its source has it: `failpoint("swap", …`.
pub fn failpoints() -> std::collections::BTreeSet<String> {
    let mut found = failpoints_in("src");
    assert!(found.len() > 10, "{found:?}");
    // The publisher's loop is no durable step.
    assert!(found.remove("publisher"), "{found:?}");
    // A push is none of the daemon's.
    found.retain(|name| !failpoints_in("src/registry").contains(name));
    found
}

/// Every failpoint in the sources of this folder.
pub fn failpoints_in(folder: &str) -> std::collections::BTreeSet<String> {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = std::collections::BTreeSet::new();
    for path in world::walk(&sources).iter().filter(|path| path.is_file()) {
        let source = std::fs::read_to_string(path).unwrap();
        let calls = source.split("failpoint(").skip(1);
        let names = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split_once('"'));
        found.extend(names.map(|(name, _)| name.to_string()));
    }
    found
}
