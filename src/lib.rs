//! netboot-publisher: network-boot images, from a spool into the tree that machines boot from.
//!
//! | room | what it is about |
//! |---|---|
//! | `words` | the field's words, parsed once |
//! | `text` | what people write and read |
//! | `sys` | Linux: the only room with system calls |
//! | `settings` | the configuration |
//! | `fault` | an error's fate |
//! | `log` | the admin's log |
//! | `image` | one image: walked, checked, compared, copied |
//! | `spool` | drops: in, claimed, put away |
//! | `tree` | what machines see |
//! | `publisher` | the one task that owns the tree |
//! | `listeners` | told of outcomes, waited for by nobody |
//! | `daemon` | everything opened, started, ended |
//! | `commands` | the verbs, what they print, how they exit |

mod commands;
mod daemon;
mod fault;
mod image;
mod listeners;
mod log;
mod publisher;
mod settings;
mod spool;
mod sys;
mod text;
mod tree;
mod words;

pub use commands::{interface, run};
pub use image::{FileMark, Listing};
pub use listeners::BootConfigs;
pub use log::MessageId;
pub use settings::Settings;
pub use spool::{Manifest, Outcome};
pub use tree::{Changes, Head, Pointers, Record, Staging};
pub use words::Digest;
