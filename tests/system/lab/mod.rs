//! Equipment: no subject of its own, but what the tests of all subjects begin with.
//!
//! `world` has a spool, a tree and the daemon between them; `scene` has one in the middle of its
//! life, with a drop of every kind. `tftp` has real servers, `container` a Debian with systemd and
//! the package, `blocklog` disks that a power cut has hit.

pub mod blocklog;
pub mod container;
pub mod scene;
pub mod tftp;
pub mod world;
