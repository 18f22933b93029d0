//! What an image is for: the parsed words of `arch/subarch/release/purpose`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// The length of the longest name, in bytes.
const MAX_NAME: usize = 64;

/// First folders of the tree that the daemon itself writes.
const OWN_NAMES: &[&str] = &["catalog.json"];

/// One of the four names of a target: [`Name::RULE`].
///
/// A name holds no `/` and no `@`, and doesn't start with `.`: a target can't leave the tree, be a
/// folder of generations, or be hidden.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Arc<str>);

/// A text that is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Name::RULE)]
pub(crate) struct NameError;

impl Name {
    /// What a name has to look like; every complaint about a name ends so.
    pub(crate) const RULE: &str =
        "1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit";

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        let first = text.bytes().next().ok_or(NameError)?;
        if text.len() > MAX_NAME || !first.is_ascii_alphanumeric() || !text.bytes().all(allowed) {
            return Err(NameError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place in the tree that an image is for.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub struct Target(Arc<[Name; 4]>);

/// A text that is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("expected arch/subarch/release/purpose, each {}", Name::RULE)]
    Form,
    #[error("the arch `{0}` would collide with what the daemon itself writes into the tree")]
    Reserved(String),
}

impl Target {
    /// # Errors
    /// [`TargetError::Reserved`] when the target would stand where the daemon writes.
    pub(crate) fn new(
        arch: Name,
        subarch: Name,
        release: Name,
        purpose: Name,
    ) -> Result<Self, TargetError> {
        if OWN_NAMES.contains(&arch.as_str()) {
            return Err(TargetError::Reserved(arch.to_string()));
        }
        Ok(Self(Arc::new([arch, subarch, release, purpose])))
    }

    /// The folders above the pointer, from the tree's root down.
    pub(crate) fn folders(&self) -> [&str; 3] {
        let [arch, subarch, release, _] = &*self.0;
        [arch, subarch, release].map(Name::as_str)
    }

    /// The pointer's name.
    pub(crate) fn purpose(&self) -> &str {
        self.0[3].as_str()
    }

    /// The path from the tree's root to the folder that holds the pointer.
    pub(crate) fn folder(&self) -> String {
        self.folders().join("/")
    }

    /// The name of the folder that holds the generations, beside the pointer.
    pub(crate) fn generations(&self) -> String {
        format!("{}@", self.purpose())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let mut names = text.split('/').map(Name::from_str);
        let mut next = || names.next().and_then(Result::ok).ok_or(TargetError::Form);
        let target = Self::new(next()?, next()?, next()?, next()?)?;
        match names.next() {
            None => Ok(target),
            Some(_) => Err(TargetError::Form),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [arch, subarch, release] = self.folders();
        write!(f, "{arch}/{subarch}/{release}/{}", self.purpose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_whatever_way_it_tries_to_be_a_path() {
        for bad in [
            "", ".", "..", ".x", "-x", "a/b", "a@b", "a b", "a\0", "a\n", "ä", "+x",
        ] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad:?}");
        }
        assert_eq!("a".repeat(65).parse::<Name>(), Err(NameError));
        for good in ["a", "0", "x86_64", "24.04", "ga-24.04+hwe", &"a".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_target_is_four_names_and_prints_as_it_was_read() {
        let text = "amd64/generic/noble/install";
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        for bad in [
            "",
            "a/b/c",
            "a/b/c/d/e",
            "a/b/c/",
            "/a/b/c/d",
            "a//c/d",
            "a/../c/d",
        ] {
            assert_eq!(bad.parse::<Target>(), Err(TargetError::Form), "{bad:?}");
        }
    }

    #[test]
    fn a_target_where_the_daemon_writes_is_refused() {
        let refused = "catalog.json/generic/noble/install".parse::<Target>();
        assert!(matches!(refused, Err(TargetError::Reserved(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_name_that_leaves_its_folder(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<Name>() {
                let path = std::path::Path::new(name.as_str());
                proptest::prop_assert_eq!(path.components().count(), 1);
                proptest::prop_assert!(!name.as_str().contains('@'));
                proptest::prop_assert!(!name.as_str().starts_with('.'));
            }
        }
    }
}
