//! Which targets are meant: `amd64/*/noble/*`.

use std::fmt;
use std::str::FromStr;

use super::target::{Name, Target};

/// Several targets: four parts, in each of which `*` stands for any characters or none. A target is
/// the pattern of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPattern([String; 4]);

/// A text that is no [`TargetPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", TargetPattern::rule())]
pub struct TargetPatternError;

impl TargetPattern {
    /// What a pattern has to look like.
    pub(crate) fn rule() -> String {
        format!(
            "arch/subarch/release/purpose, each {}; `*` stands for any part of one",
            Name::RULE
        )
    }

    /// Whether `target` is meant.
    pub fn fits(&self, target: &Target) -> bool {
        let [arch, subarch, release] = target.folders();
        let names = [arch, subarch, release, target.purpose()];
        let mut parts = self.0.iter().zip(names);
        parts.all(|(pattern, name)| fits(pattern, name))
    }

    /// Whether both may mean one target.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let mut parts = self.0.iter().zip(&other.0);
        parts.all(|(one, other)| meet(one.as_bytes(), other.as_bytes()))
    }

    /// The target that is meant, where it can be only one.
    pub fn single(&self) -> Option<Target> {
        self.to_string().parse().ok()
    }
}

/// Whether `name` is what `pattern` says. Each piece between stars is looked for as far in front as
/// can be: where one fits at all, it fits there.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

/// Whether both patterns fit one name.
fn meet(one: &[u8], other: &[u8]) -> bool {
    let is_star = |text: &[u8], at: usize| text.get(at) == Some(&b'*');
    // Whether so much of both may have been read for the same characters.
    let mut read = vec![vec![false; other.len() + 2]; one.len() + 2];
    read[0][0] = true;
    for at in 0..=one.len() {
        for of_other in 0..=other.len() {
            if !read[at][of_other] {
                continue;
            }
            // A star ends, or stands for what the other pattern reads next.
            let is_free = is_star(one, at) || is_star(other, of_other);
            read[at + 1][of_other] |= is_free;
            read[at][of_other + 1] |= is_free;
            let both = one.get(at).zip(other.get(of_other));
            read[at + 1][of_other + 1] |= both.is_some_and(|(one, other)| one == other);
        }
    }
    read[one.len()][other.len()]
}

impl FromStr for TargetPattern {
    type Err = TargetPatternError;

    fn from_str(text: &str) -> Result<Self, TargetPatternError> {
        let is_good = |part: &&str| {
            // A part that could stand for no name, whatever the stars are, is a slip.
            !part.is_empty() && part.replace('*', "0").parse::<Name>().is_ok()
        };
        let parts: Vec<_> = text.split('/').filter(is_good).map(String::from).collect();
        let count = text.split('/').count();
        let parts = <[String; 4]>::try_from(parts).map_err(|_| TargetPatternError)?;
        (count == 4)
            .then_some(Self(parts))
            .ok_or(TargetPatternError)
    }
}

impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_within_one_part() {
        let target: Target = "amd64/generic/noble-24.04/install".parse().unwrap();
        let fits = |text: &str| text.parse::<TargetPattern>().unwrap().fits(&target);
        for text in [
            "amd64/generic/noble-24.04/install",
            "*/*/*/*",
            "amd64/*/noble*/install",
            "*64/gen*ic/*-*/in*st*l",
            "amd64*/**/noble-24.04*/*all",
        ] {
            assert!(fits(text), "{text}");
        }
        for text in [
            "amd64/generic/noble/install",
            "amd/*/*/*",
            "*/*/*/*ins",
            "a*a/*/*/*",
            "*/*/noble*24*24/*",
            "*/*/*-*-*/*",
        ] {
            assert!(!fits(text), "{text}");
        }
    }

    #[test]
    fn a_pattern_has_four_parts_of_what_names_are_made_of() {
        for bad in [
            "",
            "*",
            "*/*/*",
            "*/*/*/*/*",
            "a//b/c",
            "../*/*/*",
            "a/b/c/d e",
            "a/b/c/-*",
        ] {
            assert_eq!(
                bad.parse::<TargetPattern>(),
                Err(TargetPatternError),
                "{bad}"
            );
        }
        let single = |text: &str| text.parse::<TargetPattern>().unwrap().single();
        assert_eq!(single("a/b/c/d"), "a/b/c/d".parse().ok());
        assert_eq!(single("a/b/c/d*"), None);
    }

    /// Tries all there is.
    fn fits_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|at| fits_slowly(rest, &name[at..])),
            [first, rest @ ..] => name.first() == Some(first) && fits_slowly(rest, &name[1..]),
        }
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_means_what_a_slow_matcher_finds(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let expected = fits_slowly(pattern.as_bytes(), name.as_bytes());
            proptest::prop_assert_eq!(fits(&pattern, &name), expected);
        }

        #[test]
        fn patterns_meet_that_fit_one_name(one in "[ab*]{1,4}", other in "[ab*]{1,4}") {
            // Were there a name that both fit, there would be one as short as this.
            let mut names = vec![String::new()];
            for at in 0.. {
                let Some(name) = names.get(at).filter(|name| name.len() < 8).cloned() else { break };
                names.extend(["a", "b"].map(|more| format!("{name}{more}")));
            }
            let expected = names.iter().any(|name| fits(&one, name) && fits(&other, name));
            proptest::prop_assert_eq!(meet(one.as_bytes(), other.as_bytes()), expected);
        }

        #[test]
        fn a_pattern_prints_as_it_was_written(text in "[a-z0-9*._+/-]{0,20}|([a0*][a-z0*._+-]{0,5}/){3}[a0*]{1,3}") {
            if let Ok(pattern) = text.parse::<TargetPattern>() {
                proptest::prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
