//! Linux: the only room with system calls, but for those of other people's crates.
//!
//! Names are looked up from open directories ([`Dir`]), never by paths made of input. Here also:
//! users and groups, what others have open, the processes that descend from this one, threads that
//! share work, what systemd is told, and the places where tests end the daemon. Uses `words`. Start
//! with [`Dir`].

mod accounts;
mod acl;
mod boot;
mod descendants;
mod dir;
pub(crate) mod failpoint;
mod failure;
mod files;
mod lease;
mod open_files;
mod parallel;
mod removal;
mod sockets;
mod systemd;
mod walk;

pub(crate) use accounts::{Account, Importer, Ownership, UnknownAccount};
pub(crate) use boot::BootTime;
pub(crate) use descendants::Descendants;
pub(crate) use dir::{Dir, Kind, Stat};
pub(crate) use failpoint::failpoint;
pub(crate) use failure::Failure;
pub(crate) use files::{FileExt, random};
pub(crate) use open_files::OpenFiles;
pub(crate) use parallel::{Progress, map, processors, try_map};
pub(crate) use systemd::{Watchdog, tell_systemd};
