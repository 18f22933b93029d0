//! The names of generations: `20261122T161500Z-9f3c2ab1d4e5`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::digest::Digest;
use super::moment::Moment;
use super::target::Target;

/// The name of a generation: the UTC time of its staging, and the first digits of the image digest.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub struct GenerationName(String);

/// A text that is no [`GenerationName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a generation such as 20261122T161500Z-9f3c2ab1d4e5")]
pub struct GenerationNameError;

/// The ends of the names of what proves a generation: a manifest and its signature; of a promoted one
/// the order and its signature as well, and the orders that have promoted it before.
const PROOF: [&str; 5] = [
    ".manifest.toml",
    ".sig",
    ".order.toml",
    ".order.sig",
    ".orders.json",
];

impl GenerationName {
    /// The name of a generation that is staged now. Where that name is taken, the first one of a
    /// later second that is free.
    pub(crate) fn new(now: Moment, digest: &Digest, is_taken: impl Fn(&Self) -> bool) -> Self {
        let mut moment = now;
        loop {
            let name = Self(format!("{}-{}", moment.compact(), digest.short()));
            if !is_taken(&name) {
                return name;
            }
            moment = moment.later(Duration::from_secs(1));
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path from the tree's root to the generation of this name.
    pub(crate) fn path(&self, target: &Target) -> String {
        format!("{target}@/{self}")
    }

    /// The file name of the record beside the generation.
    pub(crate) fn record(&self) -> String {
        format!("{}.toml", self.0)
    }

    /// The file names beside the generation of the manifest that it came by, which was signed, and of the
    /// signature; of the order that has promoted it, and of the signature of that; and of earlier ones.
    pub(crate) fn proof(&self) -> [String; PROOF.len()] {
        PROOF.map(|ending| format!("{}{ending}", self.0))
    }

    /// The generation that a file of this name stands beside, if that is one of its proof.
    pub(crate) fn of_proof(name: &str) -> Option<Self> {
        let mut endings = PROOF.iter();
        endings.find_map(|ending| name.strip_suffix(ending)?.parse().ok())
    }

    /// The first digits of the image digest.
    pub(crate) fn digits(&self) -> &str {
        &self.0[self.0.len() - Digest::SHORT..]
    }

    /// Whether the generation may be of an image with this digest: only the first digits tell.
    pub(crate) fn may_be(&self, digest: &Digest) -> bool {
        self.digits() == digest.short()
    }
}

/// How a person or a manifest names a generation that is kept: by its name or the beginning of that,
/// or by the first digits of its image digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GenerationHint(String);

/// A text that is no [`GenerationHint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", GenerationHint::RULE)]
pub(crate) struct GenerationHintError;

impl GenerationHint {
    /// What a hint has to look like.
    pub(crate) const RULE: &str = "a generation such as 20261122T161500Z-9f3c2ab1d4e5, the beginning \
        of one, or the first 12 to 64 hex digits of its image digest";

    /// The digits of a digest, if it is those.
    pub(crate) fn digits(&self) -> Option<&str> {
        // The ninth sign of a name is no hex digit, and shorter digits are no hint.
        let is_digits = self.0.len() >= Digest::SHORT && !self.0.contains('T');
        is_digits.then_some(&*self.0)
    }

    /// Whether the generation of this name may be meant: of a digest only the first digits tell.
    pub(crate) fn may_be(&self, name: &GenerationName) -> bool {
        match self.digits() {
            Some(digits) => digits.starts_with(name.digits()),
            None => name.as_str().starts_with(&self.0),
        }
    }
}

impl From<&GenerationName> for GenerationHint {
    fn from(name: &GenerationName) -> Self {
        Self(name.0.clone())
    }
}

/// Any generation of the image with this digest.
impl From<&Digest> for GenerationHint {
    fn from(digest: &Digest) -> Self {
        Self(digest.to_string())
    }
}

impl FromStr for GenerationHint {
    type Err = GenerationHintError;

    fn from_str(text: &str) -> Result<Self, GenerationHintError> {
        let is_digest = (Digest::SHORT..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        // What is missing of a name is filled up.
        let rest = "00000000T000000Z-000000000000"
            .get(text.len()..)
            .filter(|_| !text.is_empty());
        let name = rest.map(|rest| format!("{text}{rest}").parse::<GenerationName>());
        match name {
            Some(Ok(_)) => Ok(Self(text.to_string())),
            _ => Err(GenerationHintError),
        }
    }
}

impl fmt::Display for GenerationHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GenerationName {
    type Err = GenerationNameError;

    fn from_str(text: &str) -> Result<Self, GenerationNameError> {
        // `0` stands for a digit, `f` for a hex digit.
        const FORM: &str = "00000000T000000Z-ffffffffffff";
        let fits = |(byte, form): (u8, u8)| match form {
            b'0' => byte.is_ascii_digit(),
            b'f' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            form => byte == form,
        };
        let is_name = text.len() == FORM.len() && text.bytes().zip(FORM.bytes()).all(fits);
        is_name
            .then(|| Self(text.to_string()))
            .ok_or(GenerationNameError)
    }
}

impl fmt::Display for GenerationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_of_an_image_whose_digest_begins_with_all_its_digits() {
        let digest = Digest::of(b"abc");
        let of = |digits: &str| {
            let name = format!("20261122T161500Z-{digits}");
            name.parse::<GenerationName>().unwrap().may_be(&digest)
        };
        assert!(of("ba7816bf8f01"));
        assert!(!of("ba7816bf8f02") && !of("0a7816bf8f01"));
    }

    #[test]
    fn a_name_is_made_of_time_and_digest_and_read_back() {
        let now = Moment::from_stat(1_795_364_100, 0);
        let name = GenerationName::new(now, &Digest::of(b"abc"), |_| false);
        assert_eq!(name.as_str(), "20261122T161500Z-ba7816bf8f01");
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        let next = GenerationName::new(now, &Digest::of(b"abc"), |taken| *taken == name);
        assert_eq!(next.as_str(), "20261122T161501Z-ba7816bf8f01");
    }

    #[test]
    fn a_generation_is_meant_by_its_name_the_beginning_of_that_or_digits_of_its_digest() {
        let digest = Digest::of(b"abc");
        let name = GenerationName::new(Moment::from_stat(1_795_364_100, 0), &digest, |_| false);
        let meant = |text: &str| {
            text.parse::<GenerationHint>()
                .map(|hint| hint.may_be(&name))
        };
        for text in [
            name.as_str(),
            "2",
            "20261122",
            "20261122T16",
            "20261122T161500Z-ba",
            "ba7816bf8f01",
            "BA7816BF8F01CF",
            &digest.to_string(),
        ] {
            assert_eq!(meant(text), Ok(true), "{text}");
        }
        for text in [
            "20261123",
            "20261122T161500Z-bb",
            "ba7816bf8f02",
            "202611221615",
        ] {
            assert_eq!(meant(text), Ok(false), "{text}");
        }
        for text in [
            "",
            "x",
            "2026-11-22",
            "ba7816",
            "20261122t16",
            &"a".repeat(65),
            "../x",
        ] {
            assert_eq!(meant(text), Err(GenerationHintError), "{text}");
        }
        assert_eq!("20261122".parse::<GenerationHint>().unwrap().digits(), None);
    }

    #[test]
    fn what_the_daemon_did_not_name_is_no_generation() {
        for text in [
            "",
            "20261122T161500Z-ba7816bf8f0",
            "20261122T161500Z-ba7816bf8f011",
            "20261122T161500Z-BA7816BF8F01",
            "20261122 161500Z-ba7816bf8f01",
            "20261122T161500Z-ba7816bf8f01.toml",
            "backup-of-everything-that-matter",
        ] {
            assert_eq!(
                text.parse::<GenerationName>(),
                Err(GenerationNameError),
                "{text}"
            );
        }
    }
}
