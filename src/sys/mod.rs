//! ROOM sys

pub(crate) mod accounts;
pub(crate) mod dir;
pub(crate) mod failpoint;
mod failure;
mod open_files;
pub(crate) mod parallel;
pub(crate) mod systemd;

pub(crate) use accounts::Importer;
pub(crate) use dir::{Dir, Kind, Replacement, Stat};
pub(crate) use failure::Failure;
pub(crate) use open_files::OpenFiles;
pub(crate) use parallel::Progress;
pub(crate) use systemd::Watchdog;
