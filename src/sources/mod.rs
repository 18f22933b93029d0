//! Where images come from: a file for each source, the kinds of upstreams, and what each of them has.
//!
//! A [`Source`] is asked what it has, and answers with an [`Offer`] for each target: which files of
//! which digests. All that an offer says is verified, by `gpgv` or by what the source's file says. Nothing
//! of an image is fetched here (but an archive that is signed itself), and nothing dropped. What is in an
//! archive is unpacked by [`unpack`]. The room uses `spool` and below, and `fetch`. Start with [`Source`].

mod checksums;
mod debian_installer;
mod gpgv;
#[cfg(test)]
#[path = "../../tests/system/lab/upstream.rs"]
// Tests of the whole program use it as well.
#[allow(dead_code, unreachable_pub)]
mod lab;
mod offer;
mod plan;
mod releases;
mod simplestreams;
mod source;
mod sums;
mod template;
mod treeinfo;
mod unpack;
mod upstream;
mod verify;

pub(crate) use offer::{Offer, Part, Picks};
pub(crate) use source::{Kind, Site, Source};
pub(crate) use unpack::unpack;
