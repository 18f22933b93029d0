//! Who answers for a drop.

use serde::{Deserialize, Serialize};

/// The importer rule that has let a drop in, and the fingerprint of the key that has signed the drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vouched {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signer: Option<String>,
}

impl Vouched {
    /// Whether neither is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.rule.is_none() && self.signer.is_none()
    }
}
