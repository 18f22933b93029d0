//! netboot-publisher: network-boot images, from a spool into the tree that machines boot from.
//!
//! # The way of a drop
//!
//! ```text
//! incoming/x ── incoming::Seen ── spool::Ready ── Claimed ──┐ workshop: claim, check, compare, stage
//!                                                           │ (several drops side by side)
//!           workshop::Decided ◄────────── staging::Staged ──┘
//!                  │
//!                  └─ publish::Pipeline: sync ▸ place ▸ sync ▸ (hold) ▸ swap ▸ sync ▸ outcome ▸ sync
//!                     (one step at a time, for all drops in it: it has the staging::Pointers)
//! ```
//!
//! # Floors
//!
//! A module names only modules of lower floors, never one of its own. `tests/house.rs` holds that,
//! and that this map is whole.
//!
//! | floor | module | what it is about |
//! |---|---|---|
//! | 0 | [`target`] | what an image is for |
//! | 0 | [`digest`] | SHA-256 values |
//! | 0 | [`moment`] | points in time |
//! | 0 | [`excerpt`] | a place in an input file, with line and caret |
//! | 0 | [`fault`] | what went wrong, and what becomes of the drop |
//! | 0 | [`failpoint`] | where tests end the daemon |
//! | 0 | [`message`] | kinds of events in the log |
//! | 0 | [`crew`] | several threads, one list of work |
//! | 1 | [`account`] | users and groups |
//! | 1 | [`columns`] | tables for people |
//! | 1 | [`document`] | TOML, key by key |
//! | 1 | [`dir`] | open directories: all system calls on names |
//! | 1 | [`listing`] | what an image consists of; the image digest |
//! | 1 | [`generation`] | names of generations |
//! | 1 | [`schedule`] | when there is something to do for which target |
//! | 2 | [`journal`] | the journal's own protocol |
//! | 2 | [`open_files`] | which files are open |
//! | 2 | [`settings`] | text to settings |
//! | 2 | [`manifest`] | text to manifest |
//! | 2 | [`record`] | what is known of a generation |
//! | 2 | [`outcome`] | what became of a drop |
//! | 3 | [`image`] | one image directory, walked and checked |
//! | 3 | [`incoming`] | which drops are complete, and in which order |
//! | 3 | [`log`] | the log: the journal, lines, JSON |
//! | 3 | [`tree`] | pointers, generations and records, as they are read |
//! | 4 | [`spool`] | drops: ready, claimed, put away |
//! | 4 | [`claims`] | what a manifest says, held against the image |
//! | 4 | [`catalog`] | every current image, in one file |
//! | 4 | [`compare`] | two images, byte for byte |
//! | 4 | [`copy`] | an image, copied and hashed |
//! | 4 | [`lookout`] | whether a machine uses what is to go |
//! | 4 | [`staging`] | drafts of generations; the swap |
//! | 5 | [`boot_config`] | the admin's templates, rendered |
//! | 5 | [`vacuum`] | what is removed from the tree |
//! | 5 | [`workshop`] | one drop from its claim to the decision |
//! | 5 | [`history`] | what happened to a target |
//! | 5 | [`verify`] | whether what was published still is |
//! | 5 | [`status`] | what is published, waits, was rejected |
//! | 6 | [`publish`] | from the decision to the outcome, many drops at once |
//! | 6 | [`watch`] | events of the kernel: "look again" |
//! | 6 | [`troubles`] | what has to wait, and when to try again |
//! | 6 | [`submit`] | a drop made from a directory |
//! | 6 | [`activity`] | what the publisher is doing |
//! | 6 | [`news`] | what became of drops, for whoever wants to know |
//! | 6 | [`queue`] | drops on their way to the work; a line for each target |
//! | 7 | [`recovery`] | what a start finds, and does about it |
//! | 7 | [`supervisor`] | what systemd is told |
//! | 7 | [`metrics`] | figures for Prometheus |
//! | 7 | [`hooks`] | the admin's programs, run after an outcome |
//! | 7 | [`rendering`] | the task that keeps catalog and boot configurations up to date |
//! | 8 | [`publisher`] | the one task that owns the tree |
//! | 9 | [`daemon`] | opening, signals, the end |
//! | 10 | [`cli`] | the commands |
//!
//! # What is absent
//!
//! - No database: status and recovery are read from names and records in the tree.
//! - No lock inside the process: what machines see has one owner.
//! - No path made of input: names are looked up beneath open directories, and only [`dir`] does it.
//! - No `unsafe`. No `tokio` below floor 6, and no `anyhow`.

pub mod account;
pub mod activity;
pub mod boot_config;
pub mod catalog;
pub mod claims;
pub mod cli;
pub mod columns;
pub mod compare;
pub mod copy;
pub mod crew;
pub mod daemon;
pub mod digest;
pub mod dir;
pub mod document;
pub mod excerpt;
pub mod failpoint;
pub mod fault;
pub mod generation;
pub mod history;
pub mod hooks;
pub mod image;
pub mod incoming;
pub mod journal;
pub mod listing;
pub mod log;
pub mod lookout;
pub mod manifest;
pub mod message;
pub mod metrics;
pub mod moment;
pub mod news;
pub mod open_files;
pub mod outcome;
pub mod publish;
pub mod publisher;
pub mod queue;
pub mod record;
pub mod recovery;
pub mod rendering;
pub mod schedule;
pub mod settings;
pub mod spool;
pub mod staging;
pub mod status;
pub mod submit;
pub mod supervisor;
pub mod target;
pub mod tree;
pub mod troubles;
pub mod vacuum;
pub mod verify;
pub mod watch;
pub mod workshop;
