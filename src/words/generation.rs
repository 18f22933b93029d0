//! The names of generations: `20261122T161500Z-9f3c2ab1d4e5`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::digest::Digest;
use super::moment::Moment;
use super::target::Target;

/// The name of a generation: the UTC time of publishing, and the first digits of the image digest.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub struct GenerationName(String);

/// A text that is no [`GenerationName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a generation such as 20261122T161500Z-9f3c2ab1d4e5")]
pub struct GenerationNameError;

impl GenerationName {
    /// The name of a generation that is published now. Where that name is taken, the first one of a
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

    /// When the generation was published, to the second. `None` for a time that is no time, such as
    /// that of a 31st of February.
    pub(crate) fn published_at(&self) -> Option<Moment> {
        let parts = [0..4, 4..6, 6..8, 9..11, 11..13, 13..15];
        let [year, month, day, hour, minute, second] = parts.map(|part| &self.0[part]);
        let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
        text.parse().ok()
    }

    /// The path from the tree's root to the generation of this name.
    pub(crate) fn path(&self, target: &Target) -> String {
        format!("{target}@/{self}")
    }

    /// The file name of the record beside the generation.
    pub(crate) fn record(&self) -> String {
        format!("{}.toml", self.0)
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
