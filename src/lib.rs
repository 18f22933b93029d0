//! netboot-publisher: network-boot images, from a spool into the tree that machines boot from.
//!
//! # The way of a drop
//!
//! ```text
//! importer ─▸ incoming/x        spool    seen by a scan; looked into until it is whole
//!                 │ rename
//!             processing/x      spool    claimed
//!                 │             image    checked, compared with what is current, copied
//!             a generation      tree     staged in the tree's private folder, then placed
//!                 │ swap        tree     the pointer names the generation: machines see it
//!             outcomes/7/x.json spool    what became of the drop, which is removed
//!                 │
//!                 └─▸ listeners: boot configurations, hooks, metrics
//! ```
//! All of it is handed out, and put in order, by `publisher`: one task that owns the tree.
//!
//! # Rooms
//!
//! A room is a folder, or a file where one is enough. What a room offers to others is named in its
//! `mod.rs`; its other files are private. A file names only rooms that stand above its own in this
//! list, and within a room no two files name each other in a circle. `tests/house.rs` holds that.
//!
//! | room | what it owns | what it may use |
//! |---|---|---|
//! | `words` | the words of the field, each parsed once: target, digest, moment, claim, generation | nothing |
//! | `text` | input files and what is wrong with them, and tables for people | `words` |
//! | `sys` | Linux: all system calls, open folders, accounts, threads, systemd | `words` |
//! | `settings` | the configuration: its keys, their defaults, what each may be | `text` and below |
//! | `fault` | what an error leads to: the drop is rejected, or tried again, or nothing begins | `words`, `sys` |
//! | `log` | the admin's log: its formats, the ids of its events | `sys`, `settings` |
//! | `image` | one image: walked, checked, hashed, compared, copied | all above but `log` |
//! | `trust` | importer rules, and signatures of manifests | `words`, `text`, `sys`, `settings`, `fault` |
//! | `spool` | the spool's folders: scans, when a drop is whole, claims, manifests, outcomes | all above |
//! | `tree` | what machines see: pointers, generations, records, histories, the catalog, aliases; what goes again | all above but `log` and `spool` |
//! | `publisher` | the one task that moves drops from `spool` to `tree`: order, side by side, retries | all above |
//! | `listeners` | whoever is told of outcomes or asks what waits, and is waited for by nobody | all above |
//! | `daemon` | the life of a daemon: opened, started, reloaded, ended | all above |
//! | `commands` | the verbs: what each takes, what it prints, how it exits | all above |
//! | `fetch` | files of other hosts: asked for conditionally, resumed, checked | `words`, `text`, `sys` |
//! | `sources` | where images come from: the files that say it, the kinds of upstreams | `spool` and below, `fetch` |
//! | `registry` | an OCI registry between a centre and its sites: orders and images, pushed and pulled | all above but `commands` |
//! | `import` | the verbs of `netboot-import` | all above |
//!
//! The last four are those of the second program, `netboot-import`, and are there with the feature
//! `import` only.
//!
//! # What is absent
//!
//! - No database: status and recovery are read from names, records and histories in the tree.
//! - No lock inside the process on what targets show: it has one owner, the publisher. (Aliases, which a
//!   listener keeps, have one: `tree/links.rs`.)
//! - No path made of input: names are looked up beneath open folders, and only `sys` makes system
//!   calls on names.
//! - `spool` and `tree` know nothing of each other: they meet in `publisher`.
//! - No network in the daemon: rooms that have one stand above `commands`.
//! - No `unsafe` but for one system call that no crate offers (`sys/lease.rs`).
//! - No `tokio` and no `anyhow` below `publisher`.
//!
//! # Where to start
//!
//! With the `//!` of `spool/mod.rs` and `tree/mod.rs`: what stands on the disk. Then
//! `publisher/mod.rs`, whose loop hands out the work, and `publisher/pipeline.rs`, which makes the
//! steps that have to be durable. A command begins in `commands/mod.rs`; a key of the configuration
//! in `settings/mod.rs`; a reason for a rejection in `words/verdict.rs`.

mod commands;
mod daemon;
mod fault;
#[cfg(feature = "import")]
mod fetch;
mod image;
#[cfg(feature = "import")]
mod import;
mod listeners;
mod log;
mod publisher;
#[cfg(feature = "import")]
mod registry;
mod settings;
#[cfg(feature = "import")]
mod sources;
mod spool;
mod sys;
mod text;
mod tree;
mod trust;
mod words;

pub use commands::{interface, run};
pub use image::{FileMark, Listing};
#[cfg(feature = "import")]
pub use import::{interface as import_interface, run as run_import};
pub use listeners::BootConfigs;
pub use log::MessageId;
pub use settings::Settings;
pub use spool::{Manifest, Outcome};
pub use tree::{Catalog, Changes, Happened, Head, Pointers, Record, Staging};
pub use trust::signer_of;
pub use words::{Boot, Digest, SigningKey, Target, TargetPattern};
