//! What is odd about importer rules that are good: whom they never match, and what they never allow.

use super::rules::ROOT;
use crate::settings::ImporterRule;
use crate::sys::Account;

/// What is odd about the rules, for people, each with what to do. Asks the user database, and waits.
pub(crate) fn oddities(rules: &[ImporterRule]) -> Vec<String> {
    let mut odd = Vec::new();
    // Those that may match.
    let mut before = Vec::<ImporterRule>::new();
    for (at, rule) in rules.iter().enumerate() {
        odd.extend(of_rule(rule));
        let rule = numbered(rule);
        let (name, who) = (&rule.name, &rule.who);
        if let Some(other) = before.iter().find(|other| other.who.covers(who)) {
            let other = &other.name;
            odd.push(format!(
                "rule `{name}` never matches: rule `{other}` stands before it and is for all that it is for; \
                 move it up, or remove it"
            ));
            continue;
        }
        let is_for_the_rest = at + 1 == rules.len() && who.is_anybody() && who.keys.is_empty();
        let met = before.iter().filter(|other| other.who.meets(who));
        let met: Vec<_> = met.map(|other| format!("`{}`", other.name)).collect();
        if !met.is_empty() && !is_for_the_rest {
            let met = met.join(", ");
            odd.push(format!(
                "rule `{name}` overlaps {met}: whomever both are for the first one judges; put the one for \
                 fewer first"
            ));
        }
        before.push(rule);
    }
    odd
}

/// What is odd about a rule by itself.
fn of_rule(rule: &ImporterRule) -> Vec<String> {
    let (name, who, rights) = (&rule.name, &rule.who, &rule.rights);
    let mut odd = Vec::new();
    for user in &who.users {
        match Account::uid_of(user) {
            None => odd.push(format!(
                "rule `{name}`: no such user: {user}; make it, or take it out of `users`"
            )),
            Some(ROOT) => odd.push(format!(
                "rule `{name}` is for root, who needs none: take it out of `users`"
            )),
            Some(_) => {}
        }
    }
    let is_unknown = |group: &&String| Account::gid_of(group).is_none();
    for group in who.groups.iter().filter(is_unknown) {
        odd.push(format!(
            "rule `{name}`: no such group: {group}; make it, or take it out of `groups`"
        ));
    }
    let makes = [&rights.publish, &rights.rollback];
    let is_used = |it| {
        makes
            .iter()
            .any(|all| all.iter().any(|other| other.meets(it)))
    };
    for pattern in rights.create.iter().filter(|it| !is_used(it)) {
        odd.push(format!(
            "rule `{name}`: `create` has {pattern}, of which `publish` allows nothing: add it there, or \
             take it out"
        ));
    }
    odd
}

/// The same with users and groups by their numbers, as far as they have some: a rule may name one in two
/// ways.
fn numbered(rule: &ImporterRule) -> ImporterRule {
    let mut rule = rule.clone();
    let by_number = |names: &mut Vec<String>, number: fn(&str) -> Option<u32>| {
        for name in names {
            if let Some(number) = number(name) {
                *name = number.to_string();
            }
        }
    };
    by_number(&mut rule.who.users, Account::uid_of);
    by_number(&mut rule.who.groups, Account::gid_of);
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5";

    #[track_caller]
    fn assert_odd(rules: &[&str], expected: &[&str]) {
        let rule = |(at, text): (usize, &&str)| format!("[[importer]]\nname = \"{at}\"\n{text}\n");
        let text: String = rules.iter().enumerate().map(rule).collect();
        let settings = Settings::parse("config.toml", &text).unwrap();
        assert_eq!(oddities(&settings.importers), expected);
    }

    #[test]
    fn rules_of_their_own_and_one_for_the_rest_are_nothing_odd() {
        assert_odd(&[], &[]);
        let signed = format!("users = [\"daemon\"]\nkeys = [{A:?}]\npublish = [\"a/b/c/d\"]");
        let lab = "groups = [\"daemon\"]\npublish = [\"a/*/*/*\"]\ncreate = [\"a/b/*/*\"]";
        assert_odd(&[&signed, lab, "users = [\"4711\"]", ""], &[]);
    }

    #[test]
    fn a_rule_that_never_matches_is_told_of_once() {
        let never = "rule `1` never matches: rule `0` stands before it and is for all that it is for; \
                     move it up, or remove it";
        let overlaps = "rule `2` overlaps `0`: whomever both are for the first one judges; put the one \
                        for fewer first";
        // The user `daemon` has the number 1.
        let both = "users = [\"daemon\", \"bin\"]";
        assert_odd(
            &["users = [\"daemon\"]", "users = [\"1\"]", both],
            &[never, overlaps],
        );
        let key = format!("keys = [{A:?}]");
        assert_odd(&["", &key], &[never]);
    }

    #[test]
    fn all_that_a_rule_overlaps_is_told_in_one_line() {
        let key = format!("keys = [{A:?}]");
        assert_odd(
            &[
                "users = [\"daemon\"]",
                "users = [\"bin\"]",
                &key,
                "users = [\"sys\"]",
            ],
            &[
                "rule `2` overlaps `0`, `1`: whomever both are for the first one judges; put the one for \
                 fewer first",
                "rule `3` overlaps `2`: whomever both are for the first one judges; put the one for fewer \
                 first",
            ],
        );
    }

    #[test]
    fn what_a_rule_says_in_vain_is_told() {
        assert_odd(
            &[
                "users = [\"root\", \"no-such\"]\ngroups = [\"no-such\"]\npublish = [\"a*/*/*/*\"]\n\
               rollback = [\"c/*/*/*\"]\ncreate = [\"*b/*/*/*\", \"b/*/*/*\", \"c/c/*/*\"]",
            ],
            &[
                "rule `0` is for root, who needs none: take it out of `users`",
                "rule `0`: no such user: no-such; make it, or take it out of `users`",
                "rule `0`: no such group: no-such; make it, or take it out of `groups`",
                "rule `0`: `create` has b/*/*/*, of which `publish` allows nothing: add it there, or take it \
                 out",
            ],
        );
    }
}
