//! `may`: whether the importer rules let somebody do something.

use std::collections::HashSet;
use std::process::ExitCode;

use super::terminal::{print, say};
use crate::fault::{Fault, Rejection};
use crate::settings::{ImporterRule, Requirement, Settings};
use crate::spool::account;
use crate::sys::Account;
use crate::tree::Tree;
use crate::trust::{Asker, Deed, Wish};
use crate::words::{Reason, SigningKey, Target};

/// What a manifest may have that a rule requires: whoever asks in advance is told of it beside the answer.
const ALL: [Requirement; 3] = [
    Requirement::Files,
    Requirement::Serial,
    Requirement::Expires,
];

/// How the command exits where it knows neither yes nor no, as `grep` and `cmp` do.
const UNKNOWN: u8 = 2;

/// Answers yes or no, with the rule and the reason, or says why that isn't known.
pub(super) fn answer(settings: &Settings, user: &str, deed: Deed, target: &Target) -> ExitCode {
    let answered = ask(settings, user, deed, target);
    answered.unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        ExitCode::from(UNKNOWN)
    })
}

fn ask(settings: &Settings, user: &str, deed: Deed, target: &Target) -> anyhow::Result<ExitCode> {
    let uid = Account::uid_of(user).ok_or_else(|| anyhow::anyhow!("no such user: {user}"))?;
    let account = account(uid)?;
    // Where there is no tree, nothing is published.
    let before = Tree::open(&settings.tree.path).ok().map(|tree| {
        let past = tree.past(target)?;
        Ok::<_, Fault>((
            tree.current(target)?.made_by(&past),
            past.last_by().cloned(),
        ))
    });
    let (current, last) = before.transpose()?.unwrap_or_default();
    let ask = |signer: Option<&SigningKey>| {
        let asker = Asker {
            uid,
            account: &account,
            signer,
        };
        let rule = asker.rule(settings)?;
        let wish = Wish {
            deed,
            target,
            current: current.as_ref(),
            last: last.as_ref(),
            is_signed: signer.is_some(),
            says: &ALL,
        };
        wish.check(rule, &asker).map(|()| rule)
    };
    let refused = match ask(None) {
        Ok(None) => return print("yes, no rule is needed\n"),
        Ok(Some(rule)) => {
            let (name, with) = (&rule.name, with(deed, rule));
            return print(&format!("yes, by rule `{name}`{with}\n"));
        }
        Err(refused) => refused,
    };
    let (allowed, mut by_key) = ask_with_keys(settings, ask);
    by_key.retain(|it| *it != refused);
    if let Some((rule, keys)) = allowed {
        let (name, with) = (&rule.name, with(deed, rule));
        let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let one_of = if keys.len() > 1 { "one of " } else { "" };
        let keys = keys.join(", ");
        return print(&format!(
            "yes, by rule `{name}`, signed with {one_of}{keys}{with}\n"
        ));
    }
    let is_final = refused.reason != Reason::Unsigned || by_key.is_empty();
    let refusals = is_final.then_some(refused).into_iter().chain(by_key);
    let refusals: Vec<_> = refusals.map(|it| format!("no, {it}\n")).collect();
    print(&refusals.concat())?;
    Ok(ExitCode::FAILURE)
}

/// A rule, and the keys of which each is good for it.
type ByKeys<'s> = (&'s ImporterRule, Vec<&'s SigningKey>);

/// By which rule somebody might do it who has signed it; where that is none, what each rule says to
/// its own keys.
fn ask_with_keys<'s>(
    settings: &'s Settings,
    ask: impl Fn(Option<&SigningKey>) -> Result<Option<&'s ImporterRule>, Rejection>,
) -> (Option<ByKeys<'s>>, Vec<Rejection>) {
    let (mut allowed, mut refused) = (None::<ByKeys<'s>>, Vec::new());
    let (mut asked, rules) = (HashSet::new(), settings.importers.iter());
    for key in rules.flat_map(|rule| &rule.who.keys) {
        if !asked.insert(key) {
            continue;
        }
        match (ask(Some(key)), &mut allowed) {
            (Ok(Some(rule)), None) => allowed = Some((rule, vec![key])),
            (Ok(Some(rule)), Some((first, keys))) if rule.name == first.name => keys.push(key),
            (Err(refusal), _) if !refused.contains(&refusal) => refused.push(refusal),
            _ => {}
        }
    }
    // Of a key of a rule that isn't for this user.
    refused.retain(|it| it.reason != Reason::UnknownKey);
    (allowed, refused)
}

/// What a manifest has to have.
fn with(deed: Deed, rule: &ImporterRule) -> String {
    let required = rule.require.iter().filter_map(|it| deed.key(*it));
    let required: Vec<_> = required.map(|key| format!("`{key}`")).collect();
    match &*required.join(", ") {
        "" => String::new(),
        required => format!(", with {required} in the manifest"),
    }
}
