//! Claim ids: which drop it is, whatever it is called and whenever it came.

use std::fmt;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Names one claim of one drop, for good: `12-9f3c2ab1d4e5f607`.
///
/// The number grows from claim to claim while drops are in `processing/`, so it tells the order of
/// those; it may begin anew after a start. The random part is what no other claim has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub(crate) struct ClaimId {
    number: u64,
    random: u64,
}

/// A text that is no [`ClaimId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a claim such as 12-9f3c2ab1d4e5f607")]
pub(crate) struct ClaimIdError;

impl ClaimId {
    pub(crate) fn new(number: u64, random: u64) -> Self {
        Self { number, random }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl FromStr for ClaimId {
    type Err = ClaimIdError;

    fn from_str(text: &str) -> Result<Self, ClaimIdError> {
        let parsed = || {
            let (number, random) = text.split_once('-')?;
            let number = number.parse().ok()?;
            let random = u64::from_str_radix(random, 16).ok()?;
            Some(Self { number, random })
        };
        // Each has one form: leading zeros, signs and capitals are another's.
        let claim = parsed().filter(|claim: &Self| claim.to_string() == text);
        claim.ok_or(ClaimIdError)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.number, self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_id_has_one_form_and_is_read_back() {
        let claim = ClaimId::new(12, 0x9f3c);
        assert_eq!(claim.to_string(), "12-0000000000009f3c");
        assert_eq!("12-0000000000009f3c".parse(), Ok(claim));
        for bad in [
            "",
            "12",
            "12-9f3c",
            "+12-0000000000009f3c",
            "012-0000000000009f3c",
            "12-0000000000009F3C",
            "-12-0000000000009f3c",
            "12-0000000000009f3c-1",
        ] {
            assert_eq!(bad.parse::<ClaimId>(), Err(ClaimIdError), "{bad:?}");
        }
    }
}
