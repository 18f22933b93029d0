//! Equipment: what the tests of all subjects are made with. The subjects are the files beside this
//! folder.
//!
//! `world` has a spool, a tree and the daemon between them; `scene` has a spool and a tree in the
//! middle of their life, with a drop of every kind. `tftp` has real servers, `container` a Debian
//! with systemd and the package, `blocklog` disks as a power cut leaves them.

pub mod blocklog;
pub mod container;
pub mod scene;
pub mod tftp;
pub mod world;
