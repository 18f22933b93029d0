//! `[[importer]]`: who may do what with which targets.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;

use strum::VariantNames;

use super::values::{count, one_of, positive, size};
use crate::sys::Account;
use crate::text::{Expected, Table, ValueExt as _};
use crate::words::{Name, SigningKey, Target, TargetPattern};

/// The rules in their order. Which of them are for somebody, and whether one knows a key, is looked up:
/// those for others cost a drop nothing, however many they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImporterRules {
    all: Vec<ImporterRule>,
    /// The places in `all` of the rules that name a user, or a group.
    by_user: HashMap<String, Vec<usize>>,
    by_group: HashMap<String, Vec<usize>>,
    /// The places of those that name neither.
    for_anybody: Vec<usize>,
    /// Those of all rules, old ones too.
    keys: HashSet<SigningKey>,
}

impl ImporterRules {
    pub(super) fn new(all: Vec<ImporterRule>) -> Self {
        let mut rules = Self::default();
        for (at, ImporterRule { who, .. }) in all.iter().enumerate() {
            let named = [
                (&mut rules.by_user, &who.users),
                (&mut rules.by_group, &who.groups),
            ];
            for (places, names) in named {
                for name in names {
                    places.entry(name.clone()).or_default().push(at);
                }
            }
            rules.for_anybody.extend(who.is_anybody().then_some(at));
            rules
                .keys
                .extend(who.keys.iter().chain(&who.old_keys).cloned());
        }
        rules.all = all;
        rules
    }

    /// Rules for this user, in their order.
    pub(crate) fn of(&self, account: &Account) -> impl Iterator<Item = &ImporterRule> {
        let by_user = account.names().filter_map(|name| self.by_user.get(name));
        let groups = account.groups.iter();
        let by_group = groups.filter_map(|group| self.by_group.get(group));
        let named = by_user.chain(by_group).flatten();
        let mut places: Vec<_> = named.chain(&self.for_anybody).copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|at| &self.all[at])
    }

    /// What an admin is told where there are none.
    pub(crate) fn note(&self) -> Option<&'static str> {
        let note = "no importer rules: whoever may write into incoming/ may do everything";
        self.all.is_empty().then_some(note)
    }

    /// Whether what this key has signed is good for a rule, at least where it is published already.
    pub(crate) fn know(&self, key: &SigningKey) -> bool {
        self.keys.contains(key)
    }
}

impl Deref for ImporterRules {
    type Target = [ImporterRule];

    fn deref(&self) -> &[ImporterRule] {
        &self.all
    }
}

/// What those may do whom the rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImporterRule {
    pub(crate) name: Name,
    pub(crate) who: Who,
    pub(crate) rights: Rights,
    /// Whether what another rule made current may be replaced, rolled back and withdrawn.
    pub(crate) follow_others: bool,
    pub(crate) require: Vec<Requirement>,
    pub(crate) limits: OwnLimits,
}

/// Whom a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// Names of users and groups, or numbers that nobody is called by, of which the drop's owner is one
    /// or in one; anybody where both are empty.
    pub(crate) users: Vec<String>,
    pub(crate) groups: Vec<String>,
    /// One of these has signed, unless there are none.
    pub(crate) keys: Vec<SigningKey>,
    /// Those were good for what is published already.
    pub(crate) old_keys: Vec<SigningKey>,
}

impl Who {
    /// Whether the drop's owner may be anybody.
    pub(crate) fn is_anybody(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether whoever is `other` is this one, too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let is_owner = self.is_anybody()
            || (!other.is_anybody()
                && has_all(&self.users, &other.users)
                && has_all(&self.groups, &other.groups));
        let is_signer =
            self.keys.is_empty() || (!other.keys.is_empty() && has_all(&self.keys, &other.keys));
        is_owner && is_signer
    }

    /// Whether somebody may be both, as far as the names show.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let is_owner = self.is_anybody()
            || other.is_anybody()
            || has_one(&self.users, &other.users)
            || has_one(&self.groups, &other.groups);
        let is_signer =
            self.keys.is_empty() || other.keys.is_empty() || has_one(&self.keys, &other.keys);
        is_owner && is_signer
    }
}

fn has_all<T: PartialEq>(these: &[T], others: &[T]) -> bool {
    others.iter().all(|it| these.contains(it))
}

fn has_one<T: PartialEq>(these: &[T], others: &[T]) -> bool {
    others.iter().any(|it| these.contains(it))
}

/// Which targets may be published, made and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) publish: Vec<TargetPattern>,
    pub(crate) create: Vec<TargetPattern>,
    pub(crate) rollback: Vec<TargetPattern>,
    pub(crate) withdraw: Vec<TargetPattern>,
}

impl Rights {
    /// Whether images may be published to a target, and promoted to it.
    pub(crate) fn may_publish(&self, target: &Target) -> bool {
        self.publish.iter().any(|it| it.fits(target))
    }
}

/// What a manifest has to say.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames,
)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Requirement {
    Files,
    Serial,
    Expires,
}

/// Limits of one importer, in place of those of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "the fields are called as their keys are"
)]
pub(crate) struct OwnLimits {
    /// Bytes.
    pub(crate) max_image_size: Option<u64>,
    pub(crate) max_files: Option<usize>,
    pub(crate) max_waiting: Option<usize>,
}

/// Reads one rule; `names` are those of the rules before.
pub(super) fn importer(table: &mut Table<'_, '_>, names: &mut Vec<Name>) -> Option<ImporterRule> {
    let name = table.required("name", |value| {
        let name = value.parsed(Name::RULE, |text| text.parse::<Name>().ok())?;
        if names.contains(&name) {
            return Err(format!(
                "a name of its own: there is a rule `{name}` already"
            ));
        }
        names.push(name.clone());
        Ok(name)
    });
    let mut accounts = |key| table.list(key, Some(ONE_NAME), account);
    let (users, groups) = (accounts("users"), accounts("groups"));
    let keys = table.list("keys", Some(ONE_KEY), signing_key);
    let old_keys = table.list("old_keys", None, signing_key);
    let mut patterns = |key| table.list(key, None, pattern);
    let publish = patterns("publish").unwrap_or_default();
    let create = patterns("create");
    let rollback = patterns("rollback");
    let withdraw = patterns("withdraw").unwrap_or_default();
    let follow_others = table.optional("follow_others", |value| {
        let rule = || "true or false".to_string();
        value.as_bool().ok_or_else(rule)
    });
    let require = table.list("require", None, requirement).unwrap_or_default();
    let limits = OwnLimits {
        max_image_size: table.optional("max_image_size", size),
        max_files: table.optional("max_files", count(10_000_000)),
        max_waiting: table.optional("max_waiting", positive(1_000_000)),
    };
    Some(ImporterRule {
        name: name?,
        who: Who {
            users: users.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            keys: keys.unwrap_or_default(),
            old_keys: old_keys.unwrap_or_default(),
        },
        rights: Rights {
            create: create.unwrap_or_else(|| publish.clone()),
            rollback: rollback.unwrap_or_else(|| publish.clone()),
            publish,
            withdraw,
        },
        follow_others: follow_others.unwrap_or(true),
        require,
        limits,
    })
}

/// An empty list would let a rule match anybody that was to match nobody.
const ONE_NAME: &str = "at least one name; without the key the rule matches anybody";
const ONE_KEY: &str = "at least one key; without `keys` the rule asks for no signature";

fn account(text: &str) -> Result<String, Expected> {
    let is_name = !text.is_empty() && !text.contains(char::is_control);
    let name = is_name.then(|| text.to_string());
    name.ok_or_else(|| "the name of a user or group".to_string())
}

fn signing_key(text: &str) -> Result<SigningKey, Expected> {
    let key = text.parse::<SigningKey>();
    key.map_err(|error| error.expected().to_string())
}

fn pattern(text: &str) -> Result<TargetPattern, Expected> {
    text.parse().map_err(|_| TargetPattern::rule())
}

fn requirement(text: &str) -> Result<Requirement, Expected> {
    let expected = |_| format!("one of {}", one_of(Requirement::VARIANTS, ", "));
    text.parse().map_err(expected)
}
