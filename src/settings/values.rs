//! What a value of the configuration has to be: each of these reads one kind.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use strum::VariantNames;
use toml::de::DeValue;

use crate::text::{Expected, ValueExt as _, quoted};

/// A path, or an empty text for `None`.
pub(super) fn optional_path(value: &DeValue<'_>) -> Result<Option<PathBuf>, Expected> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => value.path().map(Some),
    }
}

/// The path of a tree. What lies in the tree is served to everybody: the spool has no place there, nor
/// the tree in the spool.
pub(super) fn apart_from(spool: &Path, value: &DeValue<'_>) -> Result<PathBuf, Expected> {
    let tree = value.path()?;
    if tree.starts_with(spool) || spool.starts_with(&tree) {
        let spool = quoted(&spool.to_string_lossy());
        return Err(format!(
            "a folder neither in `spool.path`, {spool}, nor above it"
        ));
    }
    Ok(tree)
}

/// The path of a folder that holds the tree, or is the tree; an empty text for `None`.
pub(super) fn above(tree: &Path, value: &DeValue<'_>) -> Result<Option<PathBuf>, Expected> {
    match optional_path(value)? {
        Some(root) if !tree.starts_with(&root) => {
            let tree = quoted(&tree.to_string_lossy());
            Err(format!("`tree.path`, {tree}, or a folder above it"))
        }
        root => Ok(root),
    }
}

/// A path below the TFTP server's root, of something that the daemon makes there.
pub(super) fn below(value: &DeValue<'_>) -> Result<PathBuf, Expected> {
    const RULE: &str = "a path below `tftp.root`; no part of it begins with `.` or ends in `@`, and \
        its name is not `catalog.json`";
    let path: PathBuf = value.path()?.components().collect();
    // A part that ends in `@` is a folder of generations, which are never written again.
    let is_plain = |part: Component<'_>| {
        let name = part.as_os_str().as_encoded_bytes();
        matches!(part, Component::Normal(_)) && !name.starts_with(b".") && !name.ends_with(b"@")
    };
    if !path.components().all(is_plain) || path.ends_with("catalog.json") {
        return Err(RULE.to_string());
    }
    Ok(path)
}

/// Where a web server has the TFTP server's root, with a `/` at the end; an empty text for `None`. No boot
/// loader, and no kernel, takes anything in it for a command.
pub(super) fn url(value: &DeValue<'_>) -> Result<Option<String>, Expected> {
    const RULE: &str =
        "an URL such as \"http://boot.example/\", of `A-Z a-z 0-9 . _ ~ : / @ [ ] % -`";
    value.parsed(RULE, |text| {
        if text.is_empty() {
            return Some(None);
        }
        let rest = text
            .strip_prefix("http://")
            .or(text.strip_prefix("https://"))?;
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._~:/@[]%-".contains(&b);
        let is_url = !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(is_plain);
        is_url.then(|| Some(format!("{}/", text.trim_end_matches('/'))))
    })
}

/// One of the words of `T`.
pub(super) fn word<T: FromStr + VariantNames>(value: &DeValue<'_>) -> Result<T, Expected> {
    value.parsed(&one_of(T::VARIANTS, " or "), |word| word.parse().ok())
}

pub(super) fn one_of(words: &[&str], between: &str) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(between)
}

pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Expected> {
    const RULE: &str = "a duration such as \"10m\" or \"7d\", at most 100 years";
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    value.parsed(RULE, |text| {
        let duration = humantime::parse_duration(text);
        duration.ok().filter(|duration| *duration <= MAX)
    })
}

pub(super) fn interval(value: &DeValue<'_>) -> Result<Duration, Expected> {
    match duration(value)? {
        interval if interval < Duration::from_secs(1) => Err("at least \"1s\"".to_string()),
        interval => Ok(interval),
    }
}

pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Expected> {
    const RULE: &str = "a size such as \"512MiB\" or \"4GiB\"";
    value.parsed(RULE, |text| Some(text.parse::<ByteSize>().ok()?.0))
}

pub(super) fn count(max: u64) -> impl Fn(&DeValue<'_>) -> Result<usize, Expected> {
    move |value| usize::try_from(value.number(max)?).map_err(|error| error.to_string())
}

pub(super) fn positive(max: u64) -> impl Fn(&DeValue<'_>) -> Result<usize, Expected> {
    move |value| match count(max)(value)? {
        0 => Err(format!("a whole number, from 1 to {max}")),
        count => Ok(count),
    }
}

/// The name of a user or group; an empty text stands for the daemon's own.
pub(super) fn account(value: &DeValue<'_>) -> Result<Option<String>, Expected> {
    const RULE: &str = "a name, or \"\" for the daemon's own";
    let name = value.parsed(RULE, |name| {
        (!name.contains(char::is_control)).then(|| name.to_string())
    })?;
    Ok(Some(name).filter(|name| !name.is_empty()))
}
