//! The configuration: text to [`Settings`]. Reads no disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

use crate::text::{Expected, InputError, Table, number, read_toml, string, strings};
use crate::words::Verdict;

/// Where the configuration is looked for when nobody says where.
pub(crate) const DEFAULT_PATH: &str = "/etc/netboot-publisher/config.toml";

/// Everything that an admin can set.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    pub spool: SpoolSettings,
    pub tree: TreeSettings,
    pub limits: Limits,
    pub retention: Retention,
    pub swap: SwapSettings,
    pub tftp: TftpSettings,
    pub boot_configs: Vec<BootConfig>,
    pub hooks: Vec<Hook>,
    pub metrics: MetricsSettings,
    pub log: LogSettings,
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

impl Watch {
    const WORDS: &[(&str, Self)] = &[("auto", Self::Auto), ("poll", Self::Poll)];
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

/// When a changed image takes the place of the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapSettings {
    /// When none of the current generation's files was in use for this long; zero: at once.
    pub quiet_period: Duration,
    /// After this long in any case.
    pub max_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TftpSettings {
    /// What the TFTP server calls `/`; `None`: the tree itself.
    pub root: Option<PathBuf>,
}

/// A boot configuration that is rendered after each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootConfig {
    pub template: PathBuf,
    /// Below the TFTP server's root.
    pub output: PathBuf,
}

/// A program of the admin's that is run after an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// After which outcomes.
    pub on: Vec<Verdict>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is ended when it runs longer.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MetricsSettings {
    /// Where the textfile collector of Prometheus looks; `None`: no metrics are written.
    pub textfile: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// What is logged: this, and all that is more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal's own under systemd, and text elsewhere.
    Auto,
    Text,
    Json,
}

impl Default for SwapSettings {
    fn default() -> Self {
        Self {
            quiet_period: Duration::from_secs(15),
            max_delay: Duration::from_secs(10 * 60),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Auto,
        }
    }
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
        read_toml(file, source, |top| {
            let mut settings = Self::default();
            top.table("spool", |table| settings.spool.take(table));
            top.table("tree", |table| {
                settings.tree.take(table, &settings.spool.path);
            });
            top.table("limits", |table| settings.limits.take(table));
            top.table("retention", |table| settings.retention.take(table));
            top.table("swap", |table| settings.swap.take(table));
            top.table("tftp", |table| {
                settings.tftp.take(table, &settings.tree.path);
            });
            let mut outputs = Vec::new();
            let configs = top.tables("boot_config", |table| boot_config(table, &mut outputs));
            settings.boot_configs = configs.into_iter().flatten().collect();
            let hooks = top.tables("hook", hook);
            settings.hooks = hooks.into_iter().flatten().collect();
            top.table("metrics", |table| {
                let textfile = table.optional("textfile", optional_path);
                set(&mut settings.metrics.textfile, textfile);
            });
            top.table("log", |table| settings.log.take(table));
            Some(settings)
        })
    }
}

impl Settings {
    /// These settings as far as they can take effect while a daemon runs with `running`, and the keys
    /// of the others that are different.
    pub fn beside(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let mut kept = Vec::new();
        let mut keep = |is_same: bool, key| {
            if !is_same {
                kept.push(key);
            }
        };
        let (spool, tree) = (&running.spool, &running.tree);
        keep(self.spool.path == spool.path, "spool.path");
        keep(self.spool.watch == spool.watch, "spool.watch");
        keep(self.tree.path == tree.path, "tree.path");
        keep(self.tree.owner == tree.owner, "tree.owner");
        keep(self.tree.group == tree.group, "tree.group");
        keep(self.log.format == running.log.format, "log.format");
        self.spool.path.clone_from(&spool.path);
        self.spool.watch = spool.watch;
        self.tree.clone_from(tree);
        self.log.format = running.log.format;
        (self, kept)
    }
}

impl SpoolSettings {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(&mut self.path, table.optional("path", path));
        set(
            &mut self.watch,
            table.optional("watch", |value| word(value, Watch::WORDS)),
        );
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

impl SwapSettings {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(
            &mut self.quiet_period,
            table.optional("quiet_period", duration),
        );
        set(&mut self.max_delay, table.optional("max_delay", duration));
    }
}

impl TftpSettings {
    fn take(&mut self, table: &mut Table<'_, '_>, tree: &Path) {
        let root = table.optional("root", |value| match optional_path(value)? {
            Some(root) if !tree.starts_with(&root) => Err(format!(
                "`tree.path`, {}, or a folder above it",
                tree.display()
            )),
            root => Ok(root),
        });
        set(&mut self.root, root);
    }
}

impl LogSettings {
    fn take(&mut self, table: &mut Table<'_, '_>) {
        set(
            &mut self.level,
            table.optional("level", |value| word(value, LogLevel::WORDS)),
        );
        set(
            &mut self.format,
            table.optional("format", |value| word(value, LogFormat::WORDS)),
        );
    }
}

impl LogLevel {
    /// Every level with the word for it.
    pub const WORDS: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl LogFormat {
    /// Every format with the word for it.
    pub const WORDS: &[(&str, Self)] = &[
        ("auto", Self::Auto),
        ("text", Self::Text),
        ("json", Self::Json),
    ];
}

/// `outputs` are those of the configurations before.
fn boot_config(table: &mut Table<'_, '_>, outputs: &mut Vec<PathBuf>) -> Option<BootConfig> {
    let template = table.required("template", path);
    let output = table.required("output", |value| {
        const RULE: &str = "a path below `tftp.root`, no part of it beginning with `.` or ending in \
            `@`; and another name than that of the catalog";
        let output = path(value)?;
        // Generations are never written again.
        let is_plain = |part: std::path::Component<'_>| match part {
            std::path::Component::Normal(name) => {
                let name = name.as_encoded_bytes();
                !name.starts_with(b".") && !name.ends_with(b"@")
            }
            _ => false,
        };
        if !output.components().all(is_plain) || output.ends_with("catalog.json") {
            return Err(RULE.to_string());
        }
        if outputs.contains(&output) {
            return Err("a path that no other `boot_config` has".to_string());
        }
        outputs.push(output.clone());
        Ok(output)
    });
    Some(BootConfig {
        template: template?,
        output: output?,
    })
}

fn hook(table: &mut Table<'_, '_>) -> Option<Hook> {
    let on = table.required("on", |value| {
        let words = Verdict::ALL
            .map(|verdict| format!("\"{verdict}\""))
            .join(", ");
        let rule = format!("a list of {words}");
        let verdict = |word: String| {
            let mut known = Verdict::ALL.into_iter();
            known
                .find(|verdict| verdict.as_str() == word)
                .ok_or_else(|| rule.clone())
        };
        match strings(value, &rule)? {
            words if words.is_empty() => Err(rule.clone()),
            words => words.into_iter().map(verdict).collect(),
        }
    });
    let command = table.required("command", |value| {
        const RULE: &str = "a list of texts: a program's absolute path, and its arguments";
        let command = strings(value, RULE)?;
        let has_program = command.first().is_some_and(|path| path.starts_with('/'));
        if !has_program || command.iter().any(|text| text.contains('\0')) {
            return Err(RULE.to_string());
        }
        Ok(command)
    });
    let timeout = table
        .optional("timeout", interval)
        .unwrap_or(Duration::from_secs(30));
    Some(Hook {
        on: on?,
        command: command?,
        timeout,
    })
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn path(value: &DeValue<'_>) -> Result<PathBuf, Expected> {
    const RULE: &str = "a path";
    match string(value, RULE)? {
        text if text.is_empty() || text.contains('\0') => Err(RULE.to_string()),
        text => Ok(text.into()),
    }
}

/// An empty one stands for none.
fn optional_path(value: &DeValue<'_>) -> Result<Option<PathBuf>, Expected> {
    match string(value, "a path")? {
        "" => Ok(None),
        _ => path(value).map(Some),
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

/// One of these words.
fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Expected> {
    let rule = || {
        let words: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        words.join(" or ")
    };
    let given = value.as_str().ok_or_else(rule)?;
    let found = words.iter().find(|(word, _)| *word == given);
    found.map(|(_, meaning)| *meaning).ok_or_else(rule)
}

fn duration(value: &DeValue<'_>) -> Result<Duration, Expected> {
    const RULE: &str = "a duration such as \"10m\" or \"7d\", at most 100 years";
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let parsed = humantime::parse_duration(string(value, RULE)?);
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
    string(value, RULE)?
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
    match string(value, RULE)? {
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
        "log.format",
        "log.level",
        "metrics.textfile",
        "retention.keep",
        "retention.min_age",
        "spool.incomplete_timeout",
        "spool.keep_outcomes",
        "spool.keep_rejected",
        "spool.path",
        "spool.rescan_interval",
        "spool.watch",
        "swap.max_delay",
        "swap.quiet_period",
        "tftp.root",
        "tree.group",
        "tree.owner",
        "tree.path",
    ];

    #[test]
    #[expect(clippy::too_many_lines, reason = "there are so many keys")]
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
            [swap]
            quiet_period = "10s"
            max_delay = "11m"
            [tftp]
            root = "/"
            [[boot_config]]
            template = "/etc/grub.cfg.j2"
            output = "grub/grub.cfg"
            [[boot_config]]
            template = "menu.j2"
            output = "menu.ipxe"
            [[hook]]
            on = ["published", "withdrawn"]
            command = ["/bin/echo", "hello"]
            timeout = "12s"
            [[hook]]
            on = ["rejected", "unchanged"]
            command = ["/bin/true"]
            [metrics]
            textfile = "/var/lib/x.prom"
            [log]
            level = "debug"
            format = "json"
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
            swap: SwapSettings {
                quiet_period: Duration::from_secs(10),
                max_delay: Duration::from_secs(660),
            },
            tftp: TftpSettings {
                root: Some("/".into()),
            },
            boot_configs: vec![
                BootConfig {
                    template: "/etc/grub.cfg.j2".into(),
                    output: "grub/grub.cfg".into(),
                },
                BootConfig {
                    template: "menu.j2".into(),
                    output: "menu.ipxe".into(),
                },
            ],
            hooks: vec![
                Hook {
                    on: vec![Verdict::Published, Verdict::Withdrawn],
                    command: vec!["/bin/echo".into(), "hello".into()],
                    timeout: Duration::from_secs(12),
                },
                Hook {
                    on: vec![Verdict::Rejected, Verdict::Unchanged],
                    command: vec!["/bin/true".into()],
                    timeout: Duration::from_secs(30),
                },
            ],
            metrics: MetricsSettings {
                textfile: Some("/var/lib/x.prom".into()),
            },
            log: LogSettings {
                level: LogLevel::Debug,
                format: LogFormat::Json,
            },
        };
        assert_eq!(settings.unwrap(), expected);
    }

    /// An example is `#   key = value`, in the middle of the prose.
    #[test]
    fn the_examples_of_the_shipped_configuration_are_good() {
        let shipped = include_str!("../config/netboot-publisher.toml");
        let examples: Vec<_> = shipped
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .collect();
        let settings = Settings::parse("examples", &examples.join("\n")).unwrap();
        assert_eq!(settings.boot_configs.len(), 1);
        assert_eq!(settings.hooks.len(), 1);
    }

    #[test]
    fn every_error_in_tables_of_an_array_is_reported_at_once() {
        let bad = "\
[tftp]
root = \"/srv/other\"
[[boot_config]]
template = \"a.j2\"
output = \"../grub.cfg\"
[[boot_config]]
template = \"a.j2\"
output = \"netboot/a/b/c/d@/x\"
[[boot_config]]
output = \"menu\"
[[hook]]
on = [\"publish\"]
command = [\"echo\"]
[log]
level = \"loud\"
";
        let expected = "\
error: invalid `tftp.root`
 --> config.toml:2:8
  |
2 | root = \"/srv/other\"
  |        ^^^^^^^^^^^^ expected `tree.path`, /srv/tftp/netboot, or a folder above it

error: invalid `boot_config.output`
 --> config.toml:5:10
  |
5 | output = \"../grub.cfg\"
  |          ^^^^^^^^^^^^^ expected a path below `tftp.root`, no part of it beginning with `.` or \
ending in `@`; and another name than that of the catalog

error: invalid `boot_config.output`
 --> config.toml:8:10
  |
8 | output = \"netboot/a/b/c/d@/x\"
  |          ^^^^^^^^^^^^^^^^^^^^ expected a path below `tftp.root`, no part of it beginning with `.` or \
ending in `@`; and another name than that of the catalog

error: missing key `boot_config.template`
 --> config.toml:9:1
  |
9 | [[boot_config]]
  | ^^^^^^^^^^^^^^^

error: invalid `hook.on`
  --> config.toml:12:6
   |
12 | on = [\"publish\"]
   |      ^^^^^^^^^^^ expected a list of \"published\", \"unchanged\", \"withdrawn\", \"rejected\"

error: invalid `hook.command`
  --> config.toml:13:11
   |
13 | command = [\"echo\"]
   |           ^^^^^^^^ expected a list of texts: a program's absolute path, and its arguments

error: invalid `log.level`
  --> config.toml:15:9
   |
15 | level = \"loud\"
   |         ^^^^^^ expected \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"";
        assert_eq!(
            Settings::parse("config.toml", bad).unwrap_err().to_string(),
            expected
        );
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
   |  ^^^^^^^^ expected one of `spool`, `tree`, `limits`, `retention`, `swap`, `tftp`, \
`boot_config`, `hook`, `metrics`, `log`";
        assert_eq!(
            Settings::parse("config.toml", bad).unwrap_err().to_string(),
            expected
        );
    }
}
