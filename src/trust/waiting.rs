//! How many drops of an importer may wait, by the rules.

use std::sync::Arc;

use super::rules::{ROOT, of_owner};
use crate::settings::{Limits, Settings};
use crate::sys::Account;

/// How many drops of each importer may wait. More are not read, so nobody knows who has signed them:
/// only whose they are counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct MaxWaiting {
    settings: Arc<Settings>,
    /// A rule has a bound of its own.
    has_own: bool,
    /// Nobody else waits for the user database.
    is_patient: bool,
}

impl MaxWaiting {
    /// Whoever `is_patient` waits for the user database, though not long.
    pub(crate) fn new(settings: &Arc<Settings>, is_patient: bool) -> Self {
        let mut rules = settings.importers.iter();
        Self {
            has_own: rules.any(|rule| rule.limits.max_waiting.is_some()),
            settings: Arc::clone(settings),
            is_patient,
        }
    }

    /// The settings have changed.
    pub(crate) fn take(&mut self, settings: &Arc<Settings>) {
        *self = Self::new(settings, self.is_patient);
    }

    /// Drops of the user `uid` that may wait at a time. As long as the user database has not told who
    /// that is, as few as anybody may have.
    pub(crate) fn of(&self, uid: u32) -> usize {
        self.limits(uid).max_waiting
    }

    /// How many that are and which key says so, for people.
    pub(crate) fn shown(&self, uid: u32) -> String {
        let limits = self.limits(uid);
        format!("{} = {}", limits.shown("max_waiting"), limits.max_waiting)
    }

    fn limits(&self, uid: u32) -> Limits {
        if self.is_of_all(uid) {
            return self.settings.limits.clone();
        }
        self.bound(self.account(uid).as_ref())
    }

    /// Whether it is known who the user `uid` is, as far as that counts.
    pub(crate) fn is_known(&self, uid: u32) -> bool {
        self.is_of_all(uid) || self.account(uid).is_some()
    }

    /// Whether no rule has a say in it.
    fn is_of_all(&self, uid: u32) -> bool {
        !self.has_own || uid == ROOT
    }

    fn account(&self, uid: u32) -> Option<Account> {
        if self.is_patient {
            return Account::of(uid);
        }
        Account::known(uid)
    }

    /// By whichever of the rules that match lets most wait.
    fn bound(&self, account: Option<&Account>) -> Limits {
        let Settings {
            limits, importers, ..
        } = &*self.settings;
        let max = |limits: &Limits| limits.max_waiting;
        let Some(account) = account else {
            let all = importers.iter().map(|rule| limits.of(rule));
            return all.fold(limits.clone(), |least, it| {
                if max(&it) < max(&least) { it } else { least }
            });
        };
        let matched = of_owner(&self.settings, account).map(|rule| limits.of(rule));
        matched.max_by_key(max).unwrap_or_else(|| limits.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_waiting(rules: &str) -> MaxWaiting {
        let text = format!("[limits]\nmax_waiting = 100\n{rules}");
        let settings = Settings::parse("config.toml", &text).unwrap();
        MaxWaiting::new(&Arc::new(settings), false)
    }

    #[test]
    fn of_the_rules_that_match_an_owner_the_one_counts_that_lets_most_wait() {
        let max_waiting = max_waiting(
            r#"
            [[importer]]
            name = "a"
            users = ["ci"]
            keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5"]
            max_waiting = 4
            [[importer]]
            name = "b"
            groups = ["lab"]
            max_waiting = 7
            [[importer]]
            name = "c"
            users = ["anna"]
            [[importer]]
            name = "d"
            users = ["bulk"]
            max_waiting = 300
            "#,
        );
        let bound = |name: &str, groups: &[&str]| {
            let account = Account {
                name: Some(name.to_string()),
                groups: groups.iter().map(ToString::to_string).collect(),
                ..Account::default()
            };
            max_waiting.bound(Some(&account)).max_waiting
        };
        for (name, groups, expected) in [
            ("ci", &[][..], 4),
            ("lea", &["lab"], 7),
            ("ci", &["lab"], 7),
            // A rule without a bound of its own has that of all.
            ("anna", &["lab"], 100),
            ("bulk", &["lab"], 300),
            ("eve", &[], 100),
        ] {
            assert_eq!(bound(name, groups), expected, "{name} in {groups:?}");
        }
        assert_eq!(
            max_waiting.bound(None).max_waiting,
            4,
            "it isn't known who that is"
        );
        assert_eq!(max_waiting.of(ROOT), 100);
        assert!(max_waiting.is_known(ROOT));
    }

    #[test]
    fn nobody_is_asked_for_where_no_rule_has_a_bound_of_its_own() {
        let max_waiting = max_waiting("[[importer]]\nname = \"a\"\nmax_files = 7\n");
        // No user database knows this one at once.
        let uid = 3_123_456_789;
        assert_eq!(max_waiting.of(uid), 100);
        assert!(max_waiting.is_known(uid));
    }
}
