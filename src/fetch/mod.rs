//! Files of other hosts: asked for conditionally, resumed after a break, and checked before anybody
//! sees them.
//!
//! What is fetched for one source stands in a folder of its own, the [`Store`]:
//!
//! ```text
//! documents/<digest of the url>        a small document as it came, whole
//! documents/<digest of the url>.json   its url, and what to ask with whether it has changed
//! files/<sha256>                       a file that is whole and checked
//! partial/<sha256>                     the first bytes of one that is still fetched
//! partial/<sha256>.json                of which state of the host's file they are
//! signed.json                          when the lists were signed that count, by their urls
//! ```
//! A name that begins with a dot is a file that is not in its place yet. The room speaks HTTP by
//! `reqwest`, TLS by `rustls`, and knows nothing of what the files are for. It uses `words`, `text` and
//! `sys`. Start with [`Store`].

mod client;
mod document;
#[cfg(test)]
mod hostile;
mod options;
mod partial;
mod store;
mod transfer;
mod tries;
mod trouble;
mod validators;

pub(crate) use client::{Client, provide_tls};
pub(crate) use options::Options;
pub(crate) use store::Store;
pub(crate) use transfer::Wanted;

/// What came over the network, or would have to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Fetched {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}
