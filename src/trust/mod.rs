//! Who may publish what, and proof of it: importer rules, and signatures of manifests.
//!
//! Uses `words`, `text`, `sys`, `settings` and `fault`. Start with [`Asker`] and [`signer_of`].

mod oddities;
mod rules;
mod signature;
mod waiting;

pub(crate) use oddities::oddities;
pub(crate) use rules::{Asker, Deed, Wish};
pub use signature::signer_of;
pub(crate) use signature::{MAX_SIZE, NAMESPACE};
pub(crate) use waiting::MaxWaiting;
