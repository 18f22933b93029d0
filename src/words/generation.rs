//! The names of generations: `20261122T161500Z-9f3c2ab1d4e5`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::digest::Digest;
use super::moment::Moment;
use super::target::Target;

/// The UTC time of publishing and the first digits of the image digest.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub struct GenerationName(String);

/// A text that is no [`GenerationName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a generation such as 20261122T161500Z-9f3c2ab1d4e5")]
pub struct GenerationNameError;

impl GenerationName {
    /// The name of an image that is published now; a second later for every one that is taken.
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

    /// When it was published, to the second.
    pub(crate) fn published_at(&self) -> Option<Moment> {
        // Nothing but ASCII is in it, and it is as long as the rule says.
        let at = |range: std::ops::Range<usize>| &self.0[range];
        let (year, month, day) = (at(0..4), at(4..6), at(6..8));
        let (hour, minute, second) = (at(9..11), at(11..13), at(13..15));
        let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
        text.parse().ok()
    }

    /// The way from the tree's root to the generation of this name.
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

    /// Whether it may be of an image with this digest.
    pub(crate) fn may_be(&self, digest: &Digest) -> bool {
        self.digits() == digest.short()
    }
}

impl FromStr for GenerationName {
    type Err = GenerationNameError;

    fn from_str(text: &str) -> Result<Self, GenerationNameError> {
        const TIME: &str = "00000000T000000Z-";
        let is_time = |(byte, form): (u8, u8)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        };
        let is_digest = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let bytes = text.as_bytes();
        if bytes.len() == TIME.len() + Digest::SHORT
            && bytes.iter().copied().zip(TIME.bytes()).all(is_time)
            && bytes[TIME.len()..].iter().copied().all(is_digest)
        {
            return Ok(Self(text.to_string()));
        }
        Err(GenerationNameError)
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
