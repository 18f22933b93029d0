//! The words of the field, each parsed once: whoever has a value of these types has a good one. Pure:
//! no room is used, nothing is read but the clock. Start with [`Target`] and [`GenerationName`].

mod boot;
mod claim;
mod clock_steps;
mod digest;
mod generation;
mod key;
mod moment;
mod note;
mod pattern;
mod target;
mod verdict;
mod vouched;

pub use boot::Boot;
pub(crate) use claim::ClaimId;
pub(crate) use clock_steps::ClockSteps;
pub use digest::Digest;
pub(crate) use digest::Hasher;
pub(crate) use generation::{GenerationHint, GenerationName};
pub use key::SigningKey;
pub(crate) use moment::Moment;
pub(crate) use note::{Note, NoteKind};
pub use pattern::TargetPattern;
pub(crate) use target::Name;
pub use target::Target;
pub(crate) use verdict::{Reason, Verdict};
pub(crate) use vouched::Vouched;
