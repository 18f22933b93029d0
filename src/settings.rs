//! The configuration: text to [`Settings`]. Reads no disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

use crate::document::{self, Expected, Table, number, text};
use crate::excerpt::InputError;

/// Where the configuration is looked for when nobody says where.
pub const DEFAULT_PATH: &str = "/etc/netboot-publisher/config.toml";

/// Everything that an admin can set.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    pub spool: SpoolSettings,
    pub tree: TreeSettings,
    pub limits: Limits,
    pub retention: Retention,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    pub path: PathBuf,
    pub watch: Watch,
    /// The spool is looked at this often even when no event says so.
    pub rescan_interval: Duration,
    /// A drop that is still incomplete after this long is rejected.
    pub incomplete_timeout: Duration,
    pub keep_outcomes: Duration,
    pub keep_rejected: Duration,
}

/// How the daemon learns of a drop before the next rescan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Events of the kernel.
    Auto,
    /// Nothing but the rescan: for file systems that send no events.
    Poll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSettings {
    pub path: PathBuf,
    /// User that owns what is published; `None`: the daemon's own.
    pub owner: Option<String>,
    /// Group of what is published; `None`: the daemon's own.
    pub group: Option<String>,
}

/// What a drop may be at most. Larger ones are rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub max_image_size: u64,
    /// Files, folders and links together.
    pub max_files: usize,
    /// Folders within folders.
    pub max_depth: usize,
    /// Bytes that publishing leaves free on the tree's file system.
    pub min_free_space: u64,
}

/// Which generations vacuum leaves in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Generations besides the current one.
    pub keep: usize,
    /// None goes sooner than this after it stopped being current.
    pub min_age: Duration,
}

impl Default for SpoolSettings {
    fn default() -> Self {
        Self {
            path: "/var/spool/netboot-publisher".into(),
            watch: Watch::Auto,
            rescan_interval: Duration::from_secs(60),
            incomplete_timeout: Duration::from_secs(60 * 60),
            keep_outcomes: Duration::from_secs(7 * 24 * 60 * 60),
            keep_rejected: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self {
            path: "/srv/tftp/netboot".into(),
            owner: None,
            group: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_image_size: 16 << 30,
            max_files: 100_000,
            max_depth: 32,
            min_free_space: 1 << 30,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep: 2,
            min_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Settings {
    /// Reads a configuration; `file` is the name that errors show. What it doesn't set is the
    /// default.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, each with line, column and what was expected.
    pub fn parse(file: &str, source: &str) -> Result<Self, InputError> {
        document::read(file, source, |top| {
            let mut settings = Self::default();
            top.table("spool", |table| settings.spool.take(table));
            top.table("tree", |table| {
                settings.tree.take(table, &settings.spool.path);
            });
            top.table("limits", |table| settings.limits.take(table));
            top.table("retention", |table| settings.retention.take(table));
            Some(settings)
        })
    }
}

impl SpoolSettings {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(&mut self.path, table.optional("path", path));
        set(&mut self.watch, table.optional("watch", watch));
        set(
            &mut self.rescan_interval,
            table.optional("rescan_interval", interval),
        );
        set(
            &mut self.incomplete_timeout,
            table.optional("incomplete_timeout", duration),
        );
        set(
            &mut self.keep_outcomes,
            table.optional("keep_outcomes", duration),
        );
        set(
            &mut self.keep_rejected,
            table.optional("keep_rejected", duration),
        );
    }
}

impl TreeSettings {
    fn take(&mut self, table: &mut Table<'_, '_>, spool: &Path) {
        set(
            &mut self.path,
            table.optional("path", |value| apart_from(spool, path(value)?)),
        );
        set(&mut self.owner, table.optional("owner", account));
        set(&mut self.group, table.optional("group", account));
    }
}

impl Limits {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(
            &mut self.max_image_size,
            table.optional("max_image_size", size),
        );
        set(
            &mut self.max_files,
            table.optional("max_files", |value| count(value, 10_000_000)),
        );
        set(
            &mut self.max_depth,
            table.optional("max_depth", |value| count(value, 1_000)),
        );
        set(
            &mut self.min_free_space,
            table.optional("min_free_space", size),
        );
    }
}

impl Retention {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(
            &mut self.keep,
            table.optional("keep", |value| count(value, 1_000_000)),
        );
        set(&mut self.min_age, table.optional("min_age", duration));
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn path(value: &DeValue<'_>) -> Result<PathBuf, Expected> {
    const RULE: &str = "a path";
    match text(value, RULE)? {
        text if text.is_empty() || text.contains('\0') => Err(RULE.to_string()),
        text => Ok(text.into()),
    }
}

/// What lies in the tree is served to everybody: the spool has no place there, nor the tree in the
/// spool.
fn apart_from(spool: &Path, tree: PathBuf) -> Result<PathBuf, Expected> {
    if tree.starts_with(spool) || spool.starts_with(&tree) {
        return Err(format!(
            "a path apart from `spool.path`, {}",
            spool.display()
        ));
    }
    Ok(tree)
}

fn watch(value: &DeValue<'_>) -> Result<Watch, Expected> {
    const RULE: &str = "\"auto\" or \"poll\"";
    match text(value, RULE)? {
        "auto" => Ok(Watch::Auto),
        "poll" => Ok(Watch::Poll),
        _ => Err(RULE.to_string()),
    }
}

fn duration(value: &DeValue<'_>) -> Result<Duration, Expected> {
    const RULE: &str = "a duration such as \"10m\" or \"7d\", at most 100 years";
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let parsed = humantime::parse_duration(text(value, RULE)?);
    parsed
        .ok()
        .filter(|duration| *duration <= MAX)
        .ok_or_else(|| RULE.to_string())
}

fn interval(value: &DeValue<'_>) -> Result<Duration, Expected> {
    match duration(value)? {
        interval if interval < Duration::from_secs(1) => Err("at least \"1s\"".to_string()),
        interval => Ok(interval),
    }
}

fn size(value: &DeValue<'_>) -> Result<u64, Expected> {
    const RULE: &str = "a size such as \"512MiB\" or \"4GiB\"";
    text(value, RULE)?
        .parse::<ByteSize>()
        .map(|size| size.0)
        .map_err(|_| RULE.to_string())
}

fn count(value: &DeValue<'_>, max: u64) -> Result<usize, Expected> {
    number(value, max).and_then(|n| usize::try_from(n).map_err(|error| error.to_string()))
}

/// The name of a user or group; an empty one stands for the daemon's own.
fn account(value: &DeValue<'_>) -> Result<Option<String>, Expected> {
    const RULE: &str = "a name, or \"\" for the daemon's own";
    match text(value, RULE)? {
        "" => Ok(None),
        name if name.contains(char::is_control) => Err(RULE.to_string()),
        name => Ok(Some(name.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_shows_every_key_with_its_default() {
        let shipped = include_str!("../config/netboot-publisher.toml");
        assert_eq!(
            Settings::parse("shipped", shipped).unwrap(),
            Settings::default()
        );

        // A commented key is `#key = value`; prose is `# prose`.
        let uncommented: Vec<_> = shipped
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|l| !l.starts_with(' '))
                    .unwrap_or(line)
            })
            .collect();
        let uncommented = uncommented.join("\n");
        assert_eq!(
            Settings::parse("shipped", &uncommented).unwrap(),
            Settings::default()
        );
        let parsed = uncommented.parse::<toml::Table>().unwrap();
        let shown: Vec<_> = parsed
            .iter()
            .flat_map(|(name, keys)| keys.as_table().unwrap().keys().map(move |k| (name, k)))
            .map(|(name, key)| format!("{name}.{key}"))
            .collect();
        assert_eq!(shown, ALL_KEYS);
    }

    const ALL_KEYS: &[&str] = &[
        "limits.max_depth",
        "limits.max_files",
        "limits.max_image_size",
        "limits.min_free_space",
        "retention.keep",
        "retention.min_age",
        "spool.incomplete_timeout",
        "spool.keep_outcomes",
        "spool.keep_rejected",
        "spool.path",
        "spool.rescan_interval",
        "spool.watch",
        "tree.group",
        "tree.owner",
        "tree.path",
    ];

    #[test]
    fn every_key_is_read() {
        let settings = Settings::parse(
            "x.toml",
            r#"
            [spool]
            path = "/s"
            watch = "poll"
            rescan_interval = "2s"
            incomplete_timeout = "3m"
            keep_outcomes = "4h"
            keep_rejected = "5d"
            [tree]
            path = "/t"
            owner = "tftp"
            group = "nogroup"
            [limits]
            max_image_size = "1GiB"
            max_files = 7
            max_depth = 8
            min_free_space = "0B"
            [retention]
            keep = 0
            min_age = "9s"
            "#,
        );
        let expected = Settings {
            spool: SpoolSettings {
                path: "/s".into(),
                watch: Watch::Poll,
                rescan_interval: Duration::from_secs(2),
                incomplete_timeout: Duration::from_secs(180),
                keep_outcomes: Duration::from_secs(4 * 3600),
                keep_rejected: Duration::from_secs(5 * 86400),
            },
            tree: TreeSettings {
                path: "/t".into(),
                owner: Some("tftp".into()),
                group: Some("nogroup".into()),
            },
            limits: Limits {
                max_image_size: 1 << 30,
                max_files: 7,
                max_depth: 8,
                min_free_space: 0,
            },
            retention: Retention {
                keep: 0,
                min_age: Duration::from_secs(9),
            },
        };
        assert_eq!(settings.unwrap(), expected);
    }

    #[test]
    fn every_error_is_reported_at_once_with_line_and_caret() {
        let bad = "\
[spool]
path = \"/srv\"
watch = \"inotify\"
rescan_interval = \"10ms\"
incomplete_timeout = 60
[tree]
path = \"/srv/tftp\"
[limits]
max_files = -1
max_image_size = \"big\"
max_deph = 3
[retenion]
";
        let expected = "\
error: invalid `spool.watch`
 --> config.toml:3:9
  |
3 | watch = \"inotify\"
  |         ^^^^^^^^^ expected \"auto\" or \"poll\"

error: invalid `spool.rescan_interval`
 --> config.toml:4:19
  |
4 | rescan_interval = \"10ms\"
  |                   ^^^^^^ expected at least \"1s\"

error: invalid `spool.incomplete_timeout`
 --> config.toml:5:22
  |
5 | incomplete_timeout = 60
  |                      ^^ expected a duration such as \"10m\" or \"7d\", at most 100 years

error: invalid `tree.path`
 --> config.toml:7:8
  |
7 | path = \"/srv/tftp\"
  |        ^^^^^^^^^^^ expected a path apart from `spool.path`, /srv

error: invalid `limits.max_files`
 --> config.toml:9:13
  |
9 | max_files = -1
  |             ^^ expected a whole number, at most 10000000

error: invalid `limits.max_image_size`
  --> config.toml:10:18
   |
10 | max_image_size = \"big\"
   |                  ^^^^^ expected a size such as \"512MiB\" or \"4GiB\"

error: unknown key `limits.max_deph`
  --> config.toml:11:1
   |
11 | max_deph = 3
   | ^^^^^^^^ expected one of `max_image_size`, `max_files`, `max_depth`, `min_free_space`

error: unknown key `retenion`
  --> config.toml:12:2
   |
12 | [retenion]
   |  ^^^^^^^^ expected one of `spool`, `tree`, `limits`, `retention`";
        assert_eq!(
            Settings::parse("config.toml", bad).unwrap_err().to_string(),
            expected
        );
    }
}
