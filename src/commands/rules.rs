//! The importer rules, for people who review them.

use std::fmt::{Display, Write as _};

use bytesize::ByteSize;

use crate::settings::ImporterRule;
use crate::sys::Importer;
use crate::text::quoted;
use crate::words::TargetPattern;

/// The rules in their order, a block each: what is in force, whether the configuration says so or it is
/// the default. Nothing is cut.
pub(super) fn blocks(rules: &[ImporterRule]) -> String {
    rules.iter().map(block).collect()
}

fn block(rule: &ImporterRule) -> String {
    let (who, rights, limits) = (&rule.who, &rule.rights, &rule.limits);
    let mut text = format!("\nrule {}\n", shown(rule.name.as_str()));
    let mut add = |key: &str, lines: Vec<String>| {
        for (at, line) in lines.iter().enumerate() {
            let key = if at == 0 { key } else { "" };
            let _ = writeln!(text, "  {key:15}{line}");
        }
    };
    if who.is_anybody() {
        add("for", vec!["anybody".to_string()]);
    }
    let users = who.users.iter().map(|user| with_name(user));
    add("users", joined(users));
    add(
        "groups",
        joined(who.groups.iter().map(|group| shown(group))),
    );
    add("keys", each(&who.keys));
    add("old_keys", each(&who.old_keys));
    let or_nothing = |patterns: &[TargetPattern]| match patterns {
        [] => vec!["nothing".to_string()],
        patterns => each(patterns),
    };
    add("publish", or_nothing(&rights.publish));
    for (key, patterns) in [("create", &rights.create), ("rollback", &rights.rollback)] {
        if *patterns == rights.publish {
            add(key, vec!["as publish".to_string()]);
        } else {
            add(key, or_nothing(patterns));
        }
    }
    add("withdraw", or_nothing(&rights.withdraw));
    if !rule.follow_others {
        add("follow_others", vec!["false".to_string()]);
    }
    add(
        "require",
        joined(rule.require.iter().map(ToString::to_string)),
    );
    let max_image_size = limits.max_image_size.map(ByteSize);
    add("max_image_size", each(max_image_size.as_slice()));
    add("max_files", each(limits.max_files.as_slice()));
    add("max_waiting", each(limits.max_waiting.as_slice()));
    text
}

/// One a line.
fn each(all: &[impl Display]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// All on one line, or none.
fn joined(all: impl Iterator<Item = String>) -> Vec<String> {
    let all: Vec<_> = all.collect();
    let line = (!all.is_empty()).then(|| all.join(", "));
    line.into_iter().collect()
}

/// A user, and whose number it is.
fn with_name(user: &str) -> String {
    let number = user.parse().ok();
    let name = number.map(|uid| Importer::of(uid).name);
    match name.filter(|name| name != user) {
        Some(name) => format!("{user} ({})", shown(&name)),
        None => shown(user),
    }
}

/// A name that ends where it seems to.
fn shown(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+@-".contains(c);
    if name.chars().all(is_plain) {
        return name.to_string();
    }
    quoted(name)
}
