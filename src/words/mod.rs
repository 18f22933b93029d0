//! words
mod digest;
mod generation;
mod moment;
mod target;
mod verdict;

pub use digest::Digest;
pub(crate) use digest::Hasher;
pub(crate) use generation::GenerationName;
pub(crate) use moment::Moment;
pub(crate) use target::Name;
pub(crate) use target::Target;
pub(crate) use verdict::{Reason, Verdict};
