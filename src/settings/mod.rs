//! The configuration: text to [`Settings`]. Reads no disk. Uses `words`, `text` and `sys`. Start with
//! [`Settings::parse`].
//!
//! `config/netboot-publisher.toml` says what each key means; here stands only what isn't said there.

mod aliases;
mod importers;
mod outputs;
mod values;

pub(crate) use aliases::Alias;
pub(crate) use importers::{ImporterRule, Requirement};
pub(crate) use outputs::BootConfig;

use std::path::{Path, PathBuf};
use std::time::Duration;

use strum::VariantNames as _;

use self::values::{
    above, account, apart_from, count, duration, interval, one_of, optional_path, positive, size,
    url, word,
};
use crate::sys::{Ownership, UnknownAccount};
use crate::text::{Expected, InputError, Table, ValueExt, read_toml};
use crate::words::{Name, NoteKind, Target, Verdict};

/// Everything that an admin can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(crate) spool: SpoolSettings,
    pub(crate) tree: TreeSettings,
    pub(crate) limits: Limits,
    /// An image of which one of these is noted is rejected.
    pub(crate) refused_notes: Vec<NoteKind>,
    /// Who may do what; the first that matches says. Without any everybody may do everything.
    pub(crate) importers: importers::ImporterRules,
    pub(crate) retention: Retention,
    pub(crate) swap: SwapSettings,
    pub(crate) tftp: TftpSettings,
    pub(crate) boot_configs: Vec<BootConfig>,
    pub(crate) aliases: Vec<Alias>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) metrics: MetricsSettings,
    pub(crate) log: LogSettings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpoolSettings {
    pub(crate) path: PathBuf,
    pub(crate) watch: WatchMode,
    pub(crate) rescan_interval: Duration,
    /// So long nothing in a drop that is written in place has changed before it is taken.
    pub(crate) settle: Duration,
    pub(crate) incomplete_timeout: Duration,
    pub(crate) keep_outcomes: Duration,
    pub(crate) keep_rejected: Duration,
    /// So long a name in `incoming/` that begins with a dot is left alone after its last change.
    pub(crate) keep_drafts: Duration,
    /// Bytes that all rejected drops take on the disk.
    pub(crate) max_rejected: u64,
    /// Bytes that rejected drops leave free on the spool's file system.
    pub(crate) min_free_space: u64,
}

/// How the daemon learns of a drop before the next rescan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum WatchMode {
    /// By events of the kernel.
    Auto,
    /// Not at all: for file systems that send no events.
    Poll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeSettings {
    pub path: PathBuf,
    /// User that owns what is published; `None`: the daemon's own.
    pub owner: Option<String>,
    /// Group of what is published; `None`: the daemon's own.
    pub group: Option<String>,
}

/// What a drop may be at most. Larger ones are rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) max_image_size: u64,
    /// Files, folders and links together.
    pub(crate) max_files: usize,
    /// Folders within folders.
    pub(crate) max_depth: usize,
    /// Bytes that publishing leaves free on the tree's file system.
    pub(crate) min_free_space: u64,
    /// Drops of one importer that wait at a time; others stay in `incoming/`, unread.
    pub(crate) max_waiting: usize,
    /// The importer rule that has some of them, and which keys.
    pub(crate) by_rule: Option<(Name, Vec<&'static str>)>,
}

/// Which generations vacuum leaves in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Generations besides the current one.
    pub(crate) keep: usize,
    /// The least time from when a generation stops being current to when it goes.
    pub(crate) min_age: Duration,
}

/// When a changed image takes the place of the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SwapSettings {
    /// When none of the current generation's files was in use for this long; zero: at once.
    pub(crate) quiet_period: Duration,
    /// After this long in any case.
    pub(crate) max_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TftpSettings {
    /// What the TFTP server calls `/`; `None`: the tree itself.
    pub(crate) root: Option<PathBuf>,
    /// Where that is by HTTP, with a `/` at the end.
    pub(crate) url: Option<String>,
}

/// A program of the admin's that is run after an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The outcomes after which the program is run.
    pub(crate) on: Vec<Verdict>,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// A program that runs longer is ended.
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricsSettings {
    /// Where the textfile collector of Prometheus looks; `None`: no metrics are written.
    pub(crate) textfile: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct LogSettings {
    pub(crate) level: LogLevel,
    pub(crate) format: LogFormat,
}

/// What is logged: this, and all that is more important.
#[derive(strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum LogFormat {
    /// The journal's own under systemd, and text elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// The built-in defaults, together with those of the log above.
impl Default for Settings {
    fn default() -> Self {
        Self {
            spool: SpoolSettings {
                path: "/var/spool/netboot-publisher".into(),
                watch: WatchMode::Auto,
                rescan_interval: Duration::from_secs(60),
                settle: Duration::from_secs(5),
                incomplete_timeout: Duration::from_secs(60 * 60),
                keep_outcomes: Duration::from_secs(7 * 24 * 60 * 60),
                keep_rejected: Duration::from_secs(30 * 24 * 60 * 60),
                keep_drafts: Duration::from_secs(7 * 24 * 60 * 60),
                max_rejected: 16 << 30,
                min_free_space: 256 << 20,
            },
            tree: TreeSettings {
                path: "/srv/tftp/netboot".into(),
                owner: None,
                group: None,
            },
            limits: Limits {
                max_image_size: 16 << 30,
                max_files: 100_000,
                max_depth: 32,
                min_free_space: 1 << 30,
                max_waiting: 1_000,
                by_rule: None,
            },
            refused_notes: Vec::new(),
            importers: importers::ImporterRules::default(),
            retention: Retention {
                keep: 2,
                min_age: Duration::from_secs(24 * 60 * 60),
            },
            swap: SwapSettings {
                quiet_period: Duration::from_secs(15),
                max_delay: Duration::from_secs(10 * 60),
            },
            tftp: TftpSettings {
                root: None,
                url: None,
            },
            boot_configs: Vec::new(),
            aliases: Vec::new(),
            hooks: Vec::new(),
            metrics: MetricsSettings { textfile: None },
            log: LogSettings::default(),
        }
    }
}

impl Settings {
    /// Where the configuration is looked for when nobody says where.
    pub(crate) const DEFAULT_PATH: &str = "/etc/netboot-publisher/config.toml";

    /// Reads a configuration; `file` is the name that errors show. What it doesn't set is the
    /// default.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, each with line, column and what was expected.
    pub fn parse(file: &str, source: &str) -> Result<Self, InputError> {
        read_toml(file, source, |top| {
            let mut settings = Self::default();
            settings.take(top);
            let mut outputs = Vec::new();
            let root = settings.tftp_root().to_path_buf();
            let from_root = settings.tree.path.strip_prefix(&root);
            let tree = from_root.unwrap_or(Path::new("")).to_path_buf();
            settings.boot_configs = top.tables("boot_config", |table| {
                outputs::boot_config(table, &tree, &mut outputs)
            });
            let mut aliases = Vec::new();
            settings.aliases = top.tables("alias", |table| {
                aliases::alias(table, &tree, &outputs, &mut aliases)
            });
            settings.hooks = top.tables("hook", hook);
            let mut names = Vec::new();
            let rules = top.tables("importer", |table| importers::importer(table, &mut names));
            settings.importers = importers::ImporterRules::new(rules);
            top.table("checks", |table| {
                let refused = table.list("refuse", None, note);
                settings.refused_notes = refused.unwrap_or_default();
            });
            top.table("metrics", |table| {
                table.set("textfile", &mut settings.metrics.textfile, optional_path);
            });
            top.table("log", |table| {
                table.set("level", &mut settings.log.level, word);
                table.set("format", &mut settings.log.format, word);
            });
            Some(settings)
        })
    }

    fn take(&mut self, top: &mut Table<'_, '_>) {
        let (spool, tree) = (&mut self.spool, &mut self.tree);
        top.table("spool", |table| {
            table.set("path", &mut spool.path, ValueExt::path);
            table.set("watch", &mut spool.watch, word);
            table.set("rescan_interval", &mut spool.rescan_interval, interval);
            table.set("settle", &mut spool.settle, duration);
            table.set(
                "incomplete_timeout",
                &mut spool.incomplete_timeout,
                duration,
            );
            table.set("keep_outcomes", &mut spool.keep_outcomes, duration);
            table.set("keep_rejected", &mut spool.keep_rejected, duration);
            table.set("keep_drafts", &mut spool.keep_drafts, duration);
            table.set("max_rejected", &mut spool.max_rejected, size);
            table.set("min_free_space", &mut spool.min_free_space, size);
        });
        top.table("tree", |table| {
            table.set("path", &mut tree.path, |value| {
                apart_from(&spool.path, value)
            });
            table.set("owner", &mut tree.owner, account);
            table.set("group", &mut tree.group, account);
        });
        let (limits, retention, swap) = (&mut self.limits, &mut self.retention, &mut self.swap);
        top.table("limits", |table| {
            table.set("max_image_size", &mut limits.max_image_size, size);
            table.set("max_files", &mut limits.max_files, count(10_000_000));
            table.set("max_depth", &mut limits.max_depth, count(1_000));
            table.set("min_free_space", &mut limits.min_free_space, size);
            table.set("max_waiting", &mut limits.max_waiting, positive(1_000_000));
        });
        top.table("retention", |table| {
            table.set("keep", &mut retention.keep, count(1_000_000));
            table.set("min_age", &mut retention.min_age, duration);
        });
        top.table("swap", |table| {
            table.set("quiet_period", &mut swap.quiet_period, duration);
            table.set("max_delay", &mut swap.max_delay, duration);
        });
        top.table("tftp", |table| {
            table.set("root", &mut self.tftp.root, |value| {
                above(&tree.path, value)
            });
            table.set("url", &mut self.tftp.url, url);
        });
    }

    /// What the TFTP server calls `/`.
    pub(crate) fn tftp_root(&self) -> &Path {
        self.tftp.root.as_deref().unwrap_or(&self.tree.path)
    }

    /// A file that the daemon writes at the path of `target`, below or above it, and the key that says
    /// so: only one of the two can be there. `resolve` takes the links out of the path of a folder: the
    /// configuration may name one folder in two ways.
    pub(crate) fn in_place_of(
        &self,
        target: &Target,
        resolve: impl Fn(&Path) -> PathBuf,
    ) -> Option<(&'static str, PathBuf)> {
        let outputs = self.boot_configs.iter();
        // No link is followed below the root.
        let outputs = outputs.map(|it| ("boot_config.output", self.tftp_root(), &*it.output));
        let aliases = self.aliases.iter();
        let aliases = aliases.map(|it| ("alias.path", self.tftp_root(), &*it.path));
        let textfile = self.metrics.textfile.as_deref().and_then(|file| {
            let name = Path::new(file.file_name()?);
            Some(("metrics.textfile", file.parent()?, name))
        });
        let mut written = outputs.chain(aliases).chain(textfile).peekable();
        written.peek()?;
        let both = |folder: &Path, name: &Path| [folder.join(name), resolve(folder).join(name)];
        let places = both(&self.tree.path, Path::new(&target.to_string()));
        let is_taken = |path: &PathBuf| places.iter().any(|place| outputs::may_meet(place, path));
        let (key, folder, name) =
            written.find(|(_, folder, name)| both(folder, name).iter().any(is_taken))?;
        Some((key, folder.join(name)))
    }

    /// These settings as far as they can take effect while a daemon runs with `running`, and the keys
    /// of the others that are different.
    pub(crate) fn beside(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let (spool, tree) = (&running.spool, &running.tree);
        let fixed = [
            (self.spool.path == spool.path, "spool.path"),
            (self.spool.watch == spool.watch, "spool.watch"),
            (self.tree.path == tree.path, "tree.path"),
            (self.tree.owner == tree.owner, "tree.owner"),
            (self.tree.group == tree.group, "tree.group"),
            (self.log.format == running.log.format, "log.format"),
        ];
        self.spool.path.clone_from(&spool.path);
        self.spool.watch = spool.watch;
        self.tree.clone_from(tree);
        self.log.format = running.log.format;
        let different = fixed.into_iter().filter(|(is_same, _)| !is_same);
        (self, different.map(|(_, key)| key).collect())
    }
}

impl Limits {
    /// With those of one importer in place of these.
    pub(crate) fn of(&self, rule: &ImporterRule) -> Self {
        let own = &rule.limits;
        let is_own = [
            ("max_image_size", own.max_image_size.is_some()),
            ("max_files", own.max_files.is_some()),
            ("max_waiting", own.max_waiting.is_some()),
        ];
        let keys = is_own.into_iter().filter(|(_, is_own)| *is_own);
        Self {
            by_rule: Some((rule.name.clone(), keys.map(|(key, _)| key).collect())),
            max_image_size: own.max_image_size.unwrap_or(self.max_image_size),
            max_files: own.max_files.unwrap_or(self.max_files),
            max_waiting: own.max_waiting.unwrap_or(self.max_waiting),
            ..self.clone()
        }
    }

    /// A key of these, for people: with the rule that has it, where one does.
    pub(crate) fn shown(&self, key: &str) -> String {
        match &self.by_rule {
            Some((rule, keys)) if keys.contains(&key) => format!("rule `{rule}`'s {key}"),
            _ => format!("limits.{key}"),
        }
    }
}

impl TreeSettings {
    /// User and group of what is published, for a daemon whose files are its `own`.
    ///
    /// # Errors
    /// When the machine doesn't know an account.
    pub(crate) fn ownership(&self, own: Ownership) -> Result<Ownership, UnknownAccount> {
        Ownership::by_name(self.owner.as_deref(), self.group.as_deref(), own)
    }
}

/// The word of a hook for every outcome that tells of a change in the tree.
const CHANGED: &str = "changed";

fn note(word: &str) -> Result<NoteKind, Expected> {
    let expected = |_| format!("one of {}", one_of(NoteKind::VARIANTS, ", "));
    word.parse().map_err(expected)
}

fn hook(table: &mut Table<'_, '_>) -> Option<Hook> {
    let on = table.required("on", |value| {
        let rule = format!(
            "a list of {}, \"{CHANGED}\"",
            one_of(Verdict::VARIANTS, ", ")
        );
        let words = value.texts(&rule)?;
        let mut verdicts = Vec::new();
        for word in words {
            match word.parse() {
                Ok(verdict) => verdicts.push(verdict),
                Err(_) if word == CHANGED => verdicts.extend(Verdict::CHANGES),
                Err(_) => return Err(rule),
            }
        }
        if verdicts.is_empty() {
            Err(rule)
        } else {
            Ok(verdicts)
        }
    });
    let command = table.required("command", |value| {
        const RULE: &str = "a list of strings: a program's absolute path, and its arguments";
        let command = value.texts(RULE)?;
        let has_program = command.first().is_some_and(|path| path.starts_with('/'));
        if !has_program || command.iter().any(|text| text.contains('\0')) {
            return Err(RULE.to_string());
        }
        Ok(command)
    });
    let timeout = table.optional("timeout", interval);
    Some(Hook {
        on: on?,
        command: command?,
        timeout: timeout.unwrap_or(Duration::from_secs(30)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_shows_every_key_with_its_default() {
        let shipped = include_str!("../../config/netboot-publisher.toml");
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
        "checks.refuse",
        "limits.max_depth",
        "limits.max_files",
        "limits.max_image_size",
        "limits.max_waiting",
        "limits.min_free_space",
        "log.format",
        "log.level",
        "metrics.textfile",
        "retention.keep",
        "retention.min_age",
        "spool.incomplete_timeout",
        "spool.keep_drafts",
        "spool.keep_outcomes",
        "spool.keep_rejected",
        "spool.max_rejected",
        "spool.min_free_space",
        "spool.path",
        "spool.rescan_interval",
        "spool.settle",
        "spool.watch",
        "swap.max_delay",
        "swap.quiet_period",
        "tftp.root",
        "tftp.url",
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
            settle = "1500ms"
            incomplete_timeout = "3m"
            keep_outcomes = "4h"
            keep_rejected = "5d"
            keep_drafts = "6d"
            max_rejected = "2GiB"
            min_free_space = "3MiB"
            [tree]
            path = "/t"
            owner = "tftp"
            group = "nogroup"
            [limits]
            max_image_size = "1GiB"
            max_files = 7
            max_depth = 8
            min_free_space = "0B"
            max_waiting = 9
            [checks]
            refuse = ["litter", "empty-file"]
            [retention]
            keep = 0
            min_age = "9s"
            [swap]
            quiet_period = "10s"
            max_delay = "11m"
            [tftp]
            root = "/"
            url = "http://boot.example"
            [[boot_config]]
            template = "/etc/grub.cfg.j2"
            output = "grub/grub.cfg"
            [[boot_config]]
            template = "menu.j2"
            for_each = "arch"
            output = "{arch}/menu.ipxe"
            [[alias]]
            path = "boot/efi-x64"
            target = "amd64/generic/grub/loader"
            [[hook]]
            on = ["changed", "unchanged"]
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
            refused_notes: vec![NoteKind::Litter, NoteKind::EmptyFile],
            importers: importers::ImporterRules::default(),
            spool: SpoolSettings {
                path: "/s".into(),
                watch: WatchMode::Poll,
                rescan_interval: Duration::from_secs(2),
                settle: Duration::from_millis(1_500),
                incomplete_timeout: Duration::from_secs(180),
                keep_outcomes: Duration::from_secs(4 * 3600),
                keep_rejected: Duration::from_secs(5 * 86400),
                keep_drafts: Duration::from_secs(6 * 86400),
                max_rejected: 2 << 30,
                min_free_space: 3 << 20,
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
                max_waiting: 9,
                by_rule: None,
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
                url: Some("http://boot.example/".into()),
            },
            boot_configs: vec![
                BootConfig {
                    template: "/etc/grub.cfg.j2".into(),
                    output: "grub/grub.cfg".into(),
                    is_for_each_arch: false,
                },
                BootConfig {
                    template: "menu.j2".into(),
                    output: "{arch}/menu.ipxe".into(),
                    is_for_each_arch: true,
                },
            ],
            aliases: vec![Alias {
                path: "boot/efi-x64".into(),
                target: "amd64/generic/grub/loader".parse().unwrap(),
            }],
            hooks: vec![
                Hook {
                    on: vec![
                        Verdict::Published,
                        Verdict::RolledBack,
                        Verdict::Withdrawn,
                        Verdict::Promoted,
                        Verdict::Unchanged,
                    ],
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
        let shipped = include_str!("../../config/netboot-publisher.toml");
        let examples: Vec<_> = shipped
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .collect();
        let settings = Settings::parse("examples", &examples.join("\n")).unwrap();
        assert_eq!(settings.boot_configs.len(), 2);
        assert_eq!(settings.aliases.len(), 1);
        assert_eq!(settings.hooks.len(), 1);
    }

    #[test]
    fn values_at_the_edge_are_refused_or_taken() {
        let hook =
            |command: &str| format!("[[hook]]\non = [\"rejected\"]\ncommand = [{command}]\n");
        let outputs = |one: &str, other: &str| {
            let config = |output: &str| {
                format!("[[boot_config]]\ntemplate = \"t\"\noutput = \"{output}\"\n")
            };
            config(one) + &config(other)
        };
        let age = |age: &str| format!("[retention]\nmin_age = \"{age}\"\n");
        for (good, bad, problem) in [
            (hook("\"/a\""), "hook = 3\n".to_string(), "invalid `hook`"),
            (
                "[spool]\npath = \".\"\n".to_string(),
                "[spool]\npath = \"\"\n".to_string(),
                "invalid `spool.path`",
            ),
            (
                age("36500days"),
                age("36501days"),
                "invalid `retention.min_age`",
            ),
            (
                hook(r#""/a", "b""#),
                hook(r#""/a", "b\u0000""#),
                "invalid `hook.command`",
            ),
            (
                outputs("a", "b"),
                outputs("a", "a"),
                "invalid `boot_config.output`",
            ),
            (
                outputs("a/amd64/x", "b/{arch}/x\"\nfor_each = \"arch"),
                outputs("a/amd64/x", "a/{arch}/x\"\nfor_each = \"arch"),
                "invalid `boot_config.output`",
            ),
            (
                outputs("x/a", "y/{arch}\"\nfor_each = \"arch"),
                outputs("x/a", "y/{arch}"),
                "invalid `boot_config.output`",
            ),
            (
                outputs("a", "b"),
                outputs("a", "b\"\nfor_each = \"arch"),
                "invalid `boot_config.output`",
            ),
            (
                outputs("x/a", "y/{arch}\"\nfor_each = \"arch"),
                outputs("x/a", "y/{arch}/{release}\"\nfor_each = \"arch"),
                "expected no other braces than those of \"{arch}\"",
            ),
            (
                outputs("x/a", "y/{arch}\"\nfor_each = \"arch"),
                outputs("x/a", "y/{arch}\"\nfor_each = \"release"),
                "invalid `boot_config.for_each`",
            ),
            (
                "[tftp]\nurl = \"https://[::1]:8080/x%20y\"".to_string(),
                "[tftp]\nurl = \"http://x/${y}\"".to_string(),
                "invalid `tftp.url`",
            ),
            (
                "[tftp]\nurl = \"\"".to_string(),
                "[tftp]\nurl = \"tftp://x/\"".to_string(),
                "invalid `tftp.url`",
            ),
        ] {
            assert!(Settings::parse("x.toml", &good).is_ok(), "{good}");
            let shown = Settings::parse("x.toml", &bad).unwrap_err().to_string();
            assert!(shown.contains(problem), "{bad}: {shown}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named_and_stays() {
        let running = Settings::default();
        let other = "[spool]\npath = \"/a\"\nwatch = \"poll\"\nkeep_outcomes = \"1s\"\n\
                     [tree]\npath = \"/b\"\nowner = \"c\"\ngroup = \"d\"\n\
                     [log]\nformat = \"json\"\nlevel = \"debug\"\n";
        let other = Settings::parse("x.toml", other).unwrap();
        let (taken, later) = other.beside(&running);
        let named = [
            "spool.path",
            "spool.watch",
            "tree.path",
            "tree.owner",
            "tree.group",
            "log.format",
        ];
        assert_eq!(later, named);
        let mut expected = running.clone();
        expected.spool.keep_outcomes = Duration::from_secs(1);
        expected.log.level = LogLevel::Debug;
        assert_eq!(taken, expected);
        assert_eq!(taken.clone().beside(&running), (taken, Vec::new()));
    }

    #[test]
    fn what_a_complaint_says_of_another_value_is_escaped_and_short() {
        let long = format!("/\\u001b[2J{}", "x".repeat(10_000));
        let bad = format!(
            "[spool]\npath = \"{long}\"\n[tree]\npath = \"{long}/y\"\n[tftp]\nroot = \"/z\"\n"
        );
        let shown = Settings::parse("x.toml", &bad).unwrap_err().to_string();
        assert!(
            shown.contains("neither in `spool.path`, `/\\u{1b}[2Jxx"),
            "{shown}"
        );
        assert!(
            !shown.contains('\u{1b}') && shown.len() < 5_000,
            "{shown:?}"
        );
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
  |        ^^^^^^^^^^^^ expected `tree.path`, `/srv/tftp/netboot`, or a folder above it

error: invalid `boot_config.output`
 --> config.toml:5:10
  |
5 | output = \"../grub.cfg\"
  |          ^^^^^^^^^^^^^ expected a path below `tftp.root`; no part of it begins with `.` or \
ends in `@`, and its name is not `catalog.json`

error: invalid `boot_config.output`
 --> config.toml:8:10
  |
8 | output = \"netboot/a/b/c/d@/x\"
  |          ^^^^^^^^^^^^^^^^^^^^ expected a path below `tftp.root`; no part of it begins with `.` or \
ends in `@`, and its name is not `catalog.json`

error: missing key `boot_config.template`
 --> config.toml:9:1
  |
9 | [[boot_config]]
  | ^^^^^^^^^^^^^^^

error: invalid `hook.on`
  --> config.toml:12:6
   |
12 | on = [\"publish\"]
   |      ^^^^^^^^^^^ expected a list of \"published\", \"unchanged\", \"rolled-back\", \"withdrawn\", \"promoted\", \"rejected\", \"changed\"

error: invalid `hook.command`
  --> config.toml:13:11
   |
13 | command = [\"echo\"]
   |           ^^^^^^^^ expected a list of strings: a program's absolute path, and its arguments

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
    fn each_text_of_a_list_that_is_wrong_is_told_at_its_own_place() {
        let bad = "\
[[importer]]
name = \"a\"
users = [\"\", \"ok\"]
groups = []
keys = [
    \"ssh-ed25519 AAAA\",
    \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5\",
    \"ssh-ed25519 BBBB\",
]
publish = [\"a//b/c\", \"a/b/c/d\",
           7]
withdraw = \"all\"
require = [\"luck\", \"files\"]
";
        let expected = "\
error: invalid `importer.users`
 --> x.toml:3:10
  |
3 | users = [\"\", \"ok\"]
  |          ^^ expected the name of a user or group

error: invalid `importer.groups`
 --> x.toml:4:10
  |
4 | groups = []
  |          ^^ expected at least one name; without the key the rule matches anybody

error: invalid `importer.keys`
 --> x.toml:6:5
  |
6 |     \"ssh-ed25519 AAAA\",
  |     ^^^^^^^^^^^^^^^^^^ expected a public key as in `~/.ssh/id_ed25519.pub`, of the kind Ed25519 or \
ECDSA P-256: \"ssh-ed25519 AAAA…\"

error: invalid `importer.keys`
 --> x.toml:8:5
  |
8 |     \"ssh-ed25519 BBBB\",
  |     ^^^^^^^^^^^^^^^^^^ expected a public key as in `~/.ssh/id_ed25519.pub`, of the kind Ed25519 or \
ECDSA P-256: \"ssh-ed25519 AAAA…\"

error: invalid `importer.publish`
  --> x.toml:10:12
   |
10 | publish = [\"a//b/c\", \"a/b/c/d\",
   |            ^^^^^^^^ expected arch/subarch/release/purpose, each 1 to 64 of `A-Z a-z 0-9 . _ + -`, \
starting with a letter or a digit; `*` stands for any part of one

error: invalid `importer.publish`
  --> x.toml:11:12
   |
11 |            7]
   |            ^ expected a text

error: invalid `importer.withdraw`
  --> x.toml:12:12
   |
12 | withdraw = \"all\"
   |            ^^^^^ expected a list of texts

error: invalid `importer.require`
  --> x.toml:13:12
   |
13 | require = [\"luck\", \"files\"]
   |            ^^^^^^ expected one of \"files\", \"serial\", \"expires\"";
        let shown = Settings::parse("x.toml", bad).unwrap_err().to_string();
        assert_eq!(shown, expected);
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
  |        ^^^^^^^^^^^ expected a folder neither in `spool.path`, `/srv`, nor above it

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
   | ^^^^^^^^ expected one of `max_image_size`, `max_files`, `max_depth`, `min_free_space`, `max_waiting`

error: unknown key `retenion`
  --> config.toml:12:2
   |
12 | [retenion]
   |  ^^^^^^^^ expected one of `spool`, `tree`, `limits`, `retention`, `swap`, `tftp`, \
`boot_config`, `alias`, `hook`, `importer`, `checks`, `metrics`, `log`";
        assert_eq!(
            Settings::parse("config.toml", bad).unwrap_err().to_string(),
            expected
        );
    }
}
