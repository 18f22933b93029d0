//! What upstream's files become: the keys `target`, `[files]` and `[boot]` that most kinds have.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use reqwest::Url;

use super::offer::{Offer, Part};
use super::template::{OF_DAEMON, Template, Values, filled, unknown_words};
use crate::spool::Manifest;
use crate::text::{Expected, Table, ValueExt as _, quoted, read_boot};
use crate::words::{Boot, Name, Target};

/// What upstream's files become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    target: Template,
    /// The path in the image, and upstream's, where the source's file says which.
    files: Option<BTreeMap<Template, Template>>,
    boot: Option<Boot>,
}

impl Plan {
    /// Takes its keys from a source's file. `known` are the words that may stand in braces; `target` is
    /// what it is where the file doesn't say. `None` after a complaint.
    pub(super) fn read(
        top: &mut Table<'_, '_>,
        known: &[&str],
        target: Option<&str>,
    ) -> Option<Self> {
        let is_given = top.has("target");
        let given = if target.is_some() {
            top.optional("target", |value| {
                value.parsed(&target_rule(known), |it| target_of(it, known))
            })
        } else {
            top.required("target", |value| {
                value.parsed(&target_rule(known), |it| target_of(it, known))
            })
        };
        let is_file_given = top.has("files");
        let files = top.table("files", |table| {
            let files = table.each(|path, value| file(path, value, known));
            if files.as_ref().is_some_and(BTreeMap::is_empty) {
                table.complain_here("no file in `files`".to_string(), "at least one file");
                return None;
            }
            files
        });
        let files = files.flatten();
        let mut named = Vec::new();
        let boot = top.table("boot", |table| {
            let boot = read_boot(table, &mut named);
            for named in &named {
                let is_listed = |files: &BTreeMap<String, _>| files.contains_key(&named.path);
                if !files.as_ref().is_none_or(is_listed) {
                    let problem = format!("{} is not in `[files]`", quoted(&named.path));
                    table.complain_here(problem, "a path of the image that is listed there");
                }
            }
            let texts = boot.cmdline.iter().chain(&boot.title);
            for word in texts.flat_map(|text| unknown_words(text, known)) {
                let words = known.iter().chain(&OF_DAEMON);
                let words: Vec<_> = words.map(|word| format!("`{{{word}}}`")).collect();
                let problem = format!("unknown `{{{word}}}` in `boot`");
                table.complain_here(problem, &format!("one of {}", words.join(", ")));
            }
            boot
        });
        if is_file_given && files.is_none() {
            return None;
        }
        let files = files.map(BTreeMap::into_values);
        let target = match (given, target) {
            (None, Some(target)) if !is_given => target_of(target, known),
            (given, _) => given,
        };
        Some(Self {
            target: target?,
            files: files.map(Iterator::collect),
            boot,
        })
    }

    /// The path in the image and upstream's path of each file: those of the source's file, or else `usual`.
    ///
    /// # Errors
    /// When a path isn't one, once the words in it are filled.
    pub(super) fn files(
        &self,
        values: &Values,
        usual: &[(&str, &str)],
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let given = self.files.as_ref().map(|files| {
            let fill = |(path, of): (&Template, &Template)| {
                anyhow::Ok((path.fill(values)?, of.fill(values)?))
            };
            files.iter().map(fill).collect::<anyhow::Result<Vec<_>>>()
        });
        let usual = usual
            .iter()
            .map(|(path, of)| (path.to_string(), of.to_string()));
        let mut files = BTreeMap::new();
        for (path, of) in given.unwrap_or_else(|| Ok(usual.collect()))? {
            ensure!(
                Boot::is_path(&path),
                "{} in `[files]`: expected {}",
                quoted(&path),
                Boot::PATH_RULE
            );
            let twice = files.insert(path.clone(), of);
            ensure!(
                twice.is_none(),
                "two files of upstream for {} of the image",
                quoted(&path)
            );
        }
        for path in files.keys() {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            let mut above = above.filter(|above| files.contains_key(*above));
            ensure!(
                above.next().is_none(),
                "{} in `[files]`: a folder above it is a file",
                quoted(path)
            );
        }
        Ok(files)
    }

    /// Whether the source's file says which files there are.
    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// What upstream has for one target; `boot` is how that boots where the source's file doesn't say.
    ///
    /// # Errors
    /// When what upstream says makes no target, version or command line.
    pub(super) fn offer(
        &self,
        values: &Values,
        boot: Boot,
        version: Option<String>,
        parts: Vec<Part>,
    ) -> anyhow::Result<Offer> {
        let target = self.target.fill(values)?;
        let written = self.target.as_written();
        let target: Target = target
            .parse()
            .with_context(|| format!("{} of `target` {}", quoted(&target), quoted(written)))?;
        if let Some(version) = &version {
            let parsed = Manifest::parse_version(version);
            parsed.map_err(|expected| {
                anyhow::anyhow!("the version {}: expected {expected}", quoted(version))
            })?;
        }
        let boot = match &self.boot {
            None => boot,
            Some(boot) => filled_boot(boot, values)?,
        };
        Ok(Offer {
            target,
            version: version.filter(|version| !version.is_empty()),
            boot,
            parts,
        })
    }
}

/// How an image boots, with what upstream says in it.
fn filled_boot(boot: &Boot, values: &Values) -> anyhow::Result<Boot> {
    let fill = |text: &String| filled(text, values);
    let boot = Boot {
        kernel: boot.kernel.as_ref().map(fill),
        initrd: boot.initrd.iter().map(fill).collect(),
        cmdline: boot.cmdline.as_ref().map(fill),
        title: boot.title.as_ref().map(fill),
        efi: boot.efi.as_ref().map(fill),
    };
    for (key, path) in boot.paths() {
        let path = quoted(path);
        ensure!(
            Boot::is_path(path.trim_matches('`')),
            "`boot.{key}` {path}: expected {}",
            Boot::PATH_RULE
        );
    }
    let check = |key, text: &Option<String>, parse: fn(&str) -> Option<String>, rule| {
        let text = text.as_deref();
        let is_good = text.is_none_or(|text| parse(text).is_some());
        let shown = || quoted(text.unwrap_or_default());
        ensure!(is_good, "`boot.{key}` {}: expected {rule}", shown());
        Ok(())
    };
    check("cmdline", &boot.cmdline, Boot::cmdline, Boot::CMDLINE_RULE)?;
    check("title", &boot.title, Boot::title, Boot::TITLE_RULE)?;
    Ok(boot)
}

fn target_rule(known: &[&str]) -> String {
    format!(
        "arch/subarch/release/purpose, each {}; {}",
        Name::RULE,
        Template::rule(known)
    )
}

fn target_of(text: &str, known: &[&str]) -> Option<Template> {
    let template = Template::new(text, known)?;
    // A text that could be no target whatever the words stand for is a slip.
    let values = known.iter().fold(text.to_string(), |text, word| {
        text.replace(&format!("{{{word}}}"), "x")
    });
    values.parse::<Target>().is_ok().then_some(template)
}

/// One line of `[files]`: its two paths.
fn file(
    path: &str,
    value: &toml::de::DeValue<'_>,
    known: &[&str],
) -> Result<(Template, Template), Expected> {
    let template = |text: &str| {
        let is_path = Boot::is_path(text.strip_prefix("./").unwrap_or(text));
        is_path.then(|| Template::new(text, known)).flatten()
    };
    let with = Template::rule(known);
    let path = template(path).ok_or_else(|| format!("as its key {}; {with}", Boot::PATH_RULE))?;
    let rule =
        format!("upstream's path of the file, without `.`, `..` and control characters; {with}");
    Ok((path, value.parsed(&rule, template)?))
}

/// The URL of a path of upstream's, beneath the source's.
///
/// # Errors
/// When the path isn't one, or leads elsewhere.
pub(super) fn beneath(url: &Url, path: &str) -> anyhow::Result<Url> {
    let plain = path.strip_prefix("./").unwrap_or(path);
    ensure!(
        Boot::is_path(plain),
        "upstream's path {}: expected a path beneath {url}, without `.`, `..` and control characters",
        quoted(path)
    );
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(plain.split('/'));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_upstreams_leads_nowhere_but_beneath_the_source() {
        for url in ["https://host/base/", "https://host/base"] {
            let url = url.parse().unwrap();
            let path = |path: &str| Some(beneath(&url, path).ok()?.to_string());
            for (text, expected) in [
                ("a", "a"),
                ("./a", "a"),
                ("a/..b", "a/..b"),
                ("a?b#c", "a%3Fb%23c"),
                ("%2e%2e/x", "%252e%252e/x"),
            ] {
                let expected = format!("https://host/base/{expected}");
                assert_eq!(path(text), Some(expected), "{text:?}");
            }
            for text in [
                "../x",
                "https://other/x",
                "a/../../x",
                "./../x",
                "..",
                "/x",
                ".//x",
                "a//b",
                "a/",
                "a/./b",
                "a\n",
                "",
            ] {
                assert_eq!(path(text), None, "{text:?}");
            }
        }
        let error = beneath(&"https://host/".parse().unwrap(), "../x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "upstream's path `../x`: expected a path beneath https://host/, without `.`, `..` and control \
             characters"
        );
    }
}
