//! Who may do what: the first rule of the configuration that matches says.

use std::fmt::Display;

use crate::fault::Rejection;
use crate::settings::{ImporterRule, Requirement, Settings};
use crate::sys::Account;
use crate::words::{Reason, SigningKey, Target, TargetPattern, Vouched};

/// Needs no rule and no signature.
pub(super) const ROOT: u32 = 0;

/// What is done with a target.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames,
)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Deed {
    Publish,
    Rollback,
    Withdraw,
    Promote,
}

impl Deed {
    /// The key of its manifest that meets this requirement; `None` where it can have none, and a rule
    /// requires none of it.
    pub(crate) fn key(self, requirement: Requirement) -> Option<&'static str> {
        match (self, requirement) {
            (Self::Publish, Requirement::Files) => Some("files"),
            // An order has no files: this one names them all by the digest of the image.
            (Self::Promote, Requirement::Files) => Some("digest"),
            (Self::Rollback | Self::Withdraw, Requirement::Files) => None,
            (_, Requirement::Serial) => Some("serial"),
            (_, Requirement::Expires) => Some("expires"),
        }
    }

    /// What somebody does.
    fn shown(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Rollback => "roll back",
            Self::Withdraw => "withdraw",
            Self::Promote => "promote to",
        }
    }

    /// The command that makes a drop for it, with what writes these keys into the manifest.
    fn command(self, requirements: &[Requirement]) -> String {
        let command = match self {
            Self::Publish => "submit",
            Self::Rollback => "rollback",
            Self::Withdraw => "withdraw",
            Self::Promote => "promote",
        };
        let option = |it: &Requirement| match it {
            // It is there in any case.
            Requirement::Files => "",
            Requirement::Serial => " --serial $(date +%s)",
            Requirement::Expires => " --expires TIME",
        };
        let options: String = requirements.iter().map(option).collect();
        format!("{command}{options}")
    }
}

/// Who wants to do something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) uid: u32,
    pub(crate) account: &'a Account,
    pub(crate) signer: Option<&'a SigningKey>,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) deed: Deed,
    pub(crate) target: &'a Target,
    /// By whom what is current was made so; `None` where nothing is.
    pub(crate) current: Option<&'a Vouched>,
    /// By whom the target was changed last, also where nothing is current any more.
    pub(crate) last: Option<&'a Vouched>,
    /// Whether somebody has signed it whose key a rule knows.
    pub(crate) is_signed: bool,
    /// What the manifest says.
    pub(crate) says: &'a [Requirement],
}

/// Rules that match somebody, before it is known who has signed.
pub(super) fn of_owner<'r>(
    settings: &'r Settings,
    account: &Account,
) -> impl Iterator<Item = &'r ImporterRule> {
    settings.importers.of(account)
}

impl Asker<'_> {
    /// Why a signature is a part of every drop of this user, for people; `None` where it isn't.
    pub(crate) fn needs_signature(&self, settings: &Settings) -> Option<String> {
        let mut matched = of_owner(settings, self.account).peekable();
        let is_matched = self.uid != ROOT && matched.peek().is_some();
        let is_needed = is_matched && matched.all(|rule| !rule.who.keys.is_empty());
        is_needed.then(|| {
            let names = list(of_owner(settings, self.account).map(|rule| &rule.name));
            let (who, namespace) = (shown(self), super::NAMESPACE);
            format!(
                "the rules for {who} ask for a signature ({names}): ssh-keygen -Y sign -n {namespace}"
            )
        })
    }

    /// The fingerprint of the key that has signed, where a rule knows the key.
    pub(crate) fn known_signer(&self, settings: &Settings) -> Option<String> {
        let key = self.signer?;
        settings.importers.know(key).then(|| key.to_string())
    }

    /// The rule that says what somebody may do; `None` where none is needed.
    ///
    /// # Errors
    /// When none matches: what to ask the admin for.
    pub(crate) fn rule<'r>(
        &self,
        settings: &'r Settings,
    ) -> Result<Option<&'r ImporterRule>, Rejection> {
        if settings.importers.is_empty() || self.uid == ROOT {
            return Ok(None);
        }
        let is_signed = |rule: &&ImporterRule| {
            let keys = &rule.who.keys;
            keys.is_empty() || self.signer.is_some_and(|key| keys.contains(key))
        };
        let mut matched = of_owner(settings, self.account);
        if let Some(rule) = matched.find(is_signed) {
            return Ok(Some(rule));
        }
        let names = list(of_owner(settings, self.account).map(|rule| &rule.name));
        let who = shown(self);
        if names.is_empty() {
            let detail = format!("no importer rule is for {who}: ask the admin for one");
            return Err(Rejection::new(Reason::NotAllowed, detail));
        }
        let Some(key) = self.signer else {
            let why = self.needs_signature(settings).unwrap_or_default();
            let detail = format!("not signed; {why}");
            return Err(Rejection::new(Reason::Unsigned, detail));
        };
        let is_old = |rule: &ImporterRule| rule.who.old_keys.contains(key);
        let old = of_owner(settings, self.account).find(|rule| is_old(rule));
        let what = old.map_or_else(
            || format!("none of the rules for {who} has ({names})"),
            |rule| {
                format!(
                    "rule `{}` has in `old_keys` only, for what is there",
                    rule.name
                )
            },
        );
        let detail = format!("signed with {key}, which {what}; expected a key that is in `keys`");
        Err(Rejection::new(Reason::UnknownKey, detail))
    }
}

impl Asker<'_> {
    /// Makes sure that an image which an order of this user's carries was signed with a key that a rule for
    /// the user has, an old one too: the image may be old. Where a target is given the rule lets the user
    /// publish to that.
    ///
    /// # Errors
    /// What was expected of `paper`, the image's own manifest.
    pub(crate) fn check_image(
        &self,
        settings: &Settings,
        paper: &str,
        target: Option<&Target>,
    ) -> Result<(), Rejection> {
        let Some(key) = self.signer else {
            let detail = format!(
                "{paper} is not signed, and the order that carries the image is; expected {paper}.sig \
                 beside it"
            );
            return Err(Rejection::new(Reason::Unsigned, detail));
        };
        let has_key =
            |rule: &&ImporterRule| rule.who.keys.contains(key) || rule.who.old_keys.contains(key);
        let mut rules = of_owner(settings, self.account).filter(has_key).peekable();
        if rules.peek().is_none() {
            let names = list(of_owner(settings, self.account).map(|rule| &rule.name));
            let who = shown(self);
            let detail = format!(
                "{paper} is signed with {key}, which none of the rules for {who} has ({names}); expected a \
                 key that is in `keys` or `old_keys`"
            );
            return Err(Rejection::new(Reason::UnknownKey, detail));
        }
        let Some(target) = target else { return Ok(()) };
        if rules.any(|rule| rule.rights.may_publish(target)) {
            return Ok(());
        }
        let names = list(
            of_owner(settings, self.account)
                .filter(has_key)
                .map(|it| &it.name),
        );
        let who = shown(self);
        let detail = format!(
            "{paper} is signed with {key}, and no rule with this key lets {who} publish {target} ({names})"
        );
        Err(Rejection::new(Reason::NotAllowed, detail))
    }
}

impl Wish<'_> {
    /// Whether a rule, if one is needed, lets somebody do this.
    ///
    /// # Errors
    /// What the rule allows, and what to ask the admin for.
    pub(crate) fn check(
        &self,
        rule: Option<&ImporterRule>,
        asker: &Asker<'_>,
    ) -> Result<(), Rejection> {
        let Some(rule) = rule else { return Ok(()) };
        self.check_right(rule, asker)?;
        self.check_order(rule, asker)?;
        self.check_says(rule)
    }

    /// Whether the rule lets this be done with the target at all.
    fn check_right(&self, rule: &ImporterRule, asker: &Asker<'_>) -> Result<(), Rejection> {
        let rights = &rule.rights;
        let (key, allowed) = match self.deed {
            Deed::Publish | Deed::Promote => ("publish", &rights.publish),
            Deed::Rollback => ("rollback", &rights.rollback),
            Deed::Withdraw => ("withdraw", &rights.withdraw),
        };
        let is_allowed =
            |patterns: &[TargetPattern]| patterns.iter().any(|it| it.fits(self.target));
        let or_nothing = |patterns: &[TargetPattern]| match &*list(patterns.iter()) {
            "" => "nothing".to_string(),
            patterns => patterns.to_string(),
        };
        if !is_allowed(allowed) {
            let allowed = or_nothing(allowed);
            let why = format!("; its `{key}` allows {allowed}");
            return Err(self.not_allowed(self.deed.shown(), &why, rule, asker));
        }
        let is_made = self.current.is_none() && self.deed != Deed::Withdraw;
        if is_made && !is_allowed(&rights.create) {
            let allowed = or_nothing(&rights.create);
            let why = format!(", which isn't there; its `create` allows {allowed}");
            return Err(self.not_allowed("make", &why, rule, asker));
        }
        Ok(())
    }

    /// Whether this may come after what was done with the target before.
    fn check_order(&self, rule: &ImporterRule, asker: &Asker<'_>) -> Result<(), Rejection> {
        let target = self.target;
        let is_undone = self.current.is_none() && self.deed == Deed::Rollback;
        let (before, what, did) = if is_undone {
            let what = format!("the withdrawal of {target}");
            (self.last, what, "it was withdrawn")
        } else {
            let what = format!("what is current at {target}");
            (self.current, what, "what is there was made current")
        };
        let Some(before) = before else {
            return Ok(());
        };
        if let Some(signer) = before.signer.as_ref().filter(|_| !self.is_signed) {
            let was = format!("{what} was signed with {signer}");
            return Err(match asker.signer {
                None => {
                    let detail = format!("not signed; {was}, and only a signed drop may follow it");
                    Rejection::new(Reason::Unsigned, detail)
                }
                Some(key) => {
                    let detail = format!(
                        "signed with {key}, which no rule has; {was}, and only a drop may follow it that \
                         is signed with a key of some rule"
                    );
                    Rejection::new(Reason::UnknownKey, detail)
                }
            });
        }
        if !rule.follow_others && before.rule.as_deref() != Some(rule.name.as_str()) {
            let by = before.rule.as_ref();
            let by = by.map_or("no rule".to_string(), |rule| format!("rule `{rule}`"));
            let why = format!(": {did} by {by}; its `follow_others` is false");
            return Err(self.not_allowed(self.deed.shown(), &why, rule, asker));
        }
        Ok(())
    }

    /// Whether the manifest has what the rule requires.
    fn check_says(&self, rule: &ImporterRule) -> Result<(), Rejection> {
        let mut lacking = rule.require.clone();
        lacking.retain(|it| !self.says.contains(it));
        let keys = lacking.iter().filter_map(|it| self.deed.key(*it));
        let keys = list(keys.map(|key| format!("`{key}`")));
        if keys.is_empty() {
            return Ok(());
        }
        let (name, command) = (&rule.name, self.deed.command(&lacking));
        let detail =
            format!("rule `{name}` requires {keys} in the manifest, as `{command}` writes it");
        Err(Rejection::new(Reason::NotAllowed, detail))
    }

    fn not_allowed(
        &self,
        does: &str,
        why: &str,
        rule: &ImporterRule,
        asker: &Asker<'_>,
    ) -> Rejection {
        let (name, who, target) = (&rule.name, shown(asker), self.target);
        let detail = format!("rule `{name}` does not let {who} {does} {target}{why}");
        Rejection::new(Reason::NotAllowed, detail)
    }
}

fn list(all: impl Iterator<Item = impl Display>) -> String {
    let all: Vec<_> = all.map(|it| it.to_string()).collect();
    all.join(", ")
}

/// A user as a detail names one.
fn shown(asker: &Asker<'_>) -> String {
    let name = asker.account.name.as_ref();
    name.cloned()
        .unwrap_or_else(|| format!("the user {}", asker.uid))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::sample::select;
    use proptest::strategy::Strategy;

    use super::*;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5";
    const B: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPAAvIlK59x+TYy5eJM3/0svSN1Dii/Ixo8cnocU6uyb";
    const OLD: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO+h9WZ3tlC4DN7z6yTBqRCfBl6FugkozN0DBdexdz3V";
    const X: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGTBY3BS8wMDfOQOW1xVbL1V5p10mhCTTcvTvLViBn6B";

    fn rules() -> Settings {
        let text = format!(
            r#"
            [[importer]]
            name = "images"
            users = ["ci"]
            groups = ["netboot-images"]
            publish = ["amd64/*/noble/*", "arm64/*/noble/*"]
            create = ["amd64/*/noble/*"]
            rollback = ["*/*/noble/*"]
            require = ["files"]
            [[importer]]
            name = "signed"
            users = ["upload"]
            keys = ["{A} team a"]
            old_keys = ["{OLD}"]
            publish = ["*/*/trixie/*"]
            withdraw = ["*/*/trixie/*"]
            follow_others = false
            [[importer]]
            name = "team-b"
            users = ["upload"]
            keys = ["{B}"]
            publish = ["*/*/sid/*"]
            [[importer]]
            name = "lab"
            groups = ["lab"]
            publish = ["lab/*/*/*"]
            withdraw = ["lab/old/*/*"]
            require = ["serial", "expires"]
            [[importer]]
            name = "numbers"
            users = ["1006"]
            groups = ["77"]
            publish = ["*/*/numbers/*"]
            "#
        );
        Settings::parse("config.toml", &text).unwrap()
    }

    /// What comes of a wish: the rule that allows it, or why it is refused.
    fn answer(
        who: &str,
        signed: &str,
        deed: &str,
        target: &str,
        current: &str,
        says: &str,
    ) -> String {
        let rules = rules();
        let (uid, groups): (u32, &[&str]) = match who {
            "root" => (0, &[]),
            "ci" => (1_000, &["ci"]),
            "anna" => (1_001, &["anna", "netboot-images", "lab"]),
            "lea" => (1_002, &["lab"]),
            "upload" => (1_003, &["upload"]),
            "eve" => (1_004, &["eve"]),
            "six" => (1_006, &["six", "6"]),
            "in-77" => (1_007, &["77"]),
            // Called by the number of another user.
            "1006" => (1_008, &[]),
            _ => (1_005, &[]),
        };
        let account = Account {
            name: (uid != 1_005).then(|| who.to_string()),
            number: Some(uid.to_string()),
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        let key = match signed {
            "A" => A,
            "B" => B,
            "OLD" => OLD,
            _ => X,
        };
        let key = (!signed.is_empty()).then(|| key.parse().unwrap());
        let asker = Asker {
            uid,
            account: &account,
            signer: key.as_ref(),
        };
        // `-`: nothing is there; `images`, `by root`: made current by this rule, or none; with `!` it
        // was signed. `gone images`: nothing is there since a withdrawal by this rule.
        let (is_gone, current) = match current.strip_prefix("gone ") {
            Some(current) => (true, current),
            None => (current == "-", current),
        };
        let made = current.strip_suffix('!').unwrap_or(current);
        let made_by = Vouched {
            rule: (made != "by root").then(|| made.to_string()),
            signer: current.ends_with('!').then(|| "SHA256:abc".to_string()),
        };
        let says: Vec<_> = says
            .split_whitespace()
            .map(|it| it.parse().unwrap())
            .collect();
        let wish = Wish {
            deed: deed.parse().unwrap(),
            target: &target.parse().unwrap(),
            current: (!is_gone).then_some(&made_by),
            last: (current != "-").then_some(&made_by),
            is_signed: asker.known_signer(&rules).is_some(),
            says: &says,
        };
        let rule = asker.rule(&rules);
        let allowed = rule.and_then(|rule| wish.check(rule, &asker).map(|()| rule));
        match allowed {
            Ok(rule) => rule.map_or("no rule needed".to_string(), |it| it.name.to_string()),
            Err(rejection) => rejection.to_string(),
        }
    }

    #[test]
    fn each_wish_has_its_answer() {
        for (who, signed, deed, target, current, says, expected) in CASES {
            let found = answer(who, signed, deed, target, current, says);
            assert_eq!(
                found, *expected,
                "{who} {signed} {deed} {target} {current} {says}"
            );
        }
        assert!(CASES.len() >= 60, "{}", CASES.len());
    }

    /// Who, signed with which key, what, which target, what is current, what the manifest says, and what
    /// comes of it.
    #[rustfmt::skip]
    const CASES: &[(&str, &str, &str, &str, &str, &str, &str)] = &[
        ("root", "", "publish", "amd64/generic/noble/install", "images!", "", "no rule needed"),
        ("root", "", "rollback", "amd64/generic/noble/install", "images!", "", "no rule needed"),
        ("root", "", "withdraw", "amd64/generic/noble/install", "images!", "", "no rule needed"),
        ("root", "", "publish", "amd64/generic/noble/install", "-", "", "no rule needed"),
        ("root", "X", "publish", "amd64/generic/noble/install", "-", "", "no rule needed"),
        ("ci", "", "publish", "amd64/generic/noble/install", "images", "files", "images"),
        ("ci", "", "publish", "amd64/generic/noble/install", "-", "files", "images"),
        ("ci", "", "publish", "arm64/generic/noble/install", "images", "files", "images"),
        ("ci", "", "publish", "arm64/generic/noble/install", "-", "files", "not-allowed: rule `images` does not let ci make arm64/generic/noble/install, which isn't there; its `create` allows amd64/*/noble/*"),
        ("ci", "", "publish", "amd64/generic/jammy/install", "images", "files", "not-allowed: rule `images` does not let ci publish amd64/generic/jammy/install; its `publish` allows amd64/*/noble/*, arm64/*/noble/*"),
        ("ci", "", "publish", "amd64/generic/noble/install", "images", "", "not-allowed: rule `images` requires `files` in the manifest, as `submit` writes it"),
        ("root", "", "promote", "amd64/generic/noble/install", "images!", "", "no rule needed"),
        ("ci", "", "promote", "amd64/generic/noble/install", "images", "files", "images"),
        ("ci", "", "promote", "amd64/generic/noble/install", "lab", "files", "images"),
        ("ci", "", "promote", "amd64/generic/noble/install", "-", "files", "images"),
        ("ci", "", "promote", "arm64/generic/noble/install", "images", "files", "images"),
        ("ci", "", "promote", "arm64/generic/noble/install", "-", "files", "not-allowed: rule `images` does not let ci make arm64/generic/noble/install, which isn't there; its `create` allows amd64/*/noble/*"),
        ("ci", "", "promote", "amd64/generic/jammy/install", "images", "files", "not-allowed: rule `images` does not let ci promote to amd64/generic/jammy/install; its `publish` allows amd64/*/noble/*, arm64/*/noble/*"),
        ("ci", "", "promote", "amd64/generic/noble/install", "images", "", "not-allowed: rule `images` requires `digest` in the manifest, as `promote` writes it"),
        ("ci", "", "promote", "amd64/generic/noble/install", "signed!", "files", "unsigned: not signed; what is current at amd64/generic/noble/install was signed with SHA256:abc, and only a signed drop may follow it"),
        ("upload", "A", "promote", "amd64/generic/trixie/install", "signed!", "", "signed"),
        ("upload", "A", "promote", "amd64/generic/trixie/install", "-", "", "signed"),
        ("upload", "A", "promote", "amd64/generic/trixie/install", "team-b", "", "not-allowed: rule `signed` does not let upload promote to amd64/generic/trixie/install: what is there was made current by rule `team-b`; its `follow_others` is false"),
        ("upload", "A", "promote", "amd64/generic/sid/install", "-", "", "not-allowed: rule `signed` does not let upload promote to amd64/generic/sid/install; its `publish` allows */*/trixie/*"),
        ("lea", "", "promote", "lab/x/y/z", "lab", "files", "not-allowed: rule `lab` requires `serial`, `expires` in the manifest, as `promote --serial $(date +%s) --expires TIME` writes it"),
        ("lea", "", "promote", "lab/x/y/z", "lab", "serial expires", "lab"),
        ("eve", "", "promote", "lab/x/y/z", "lab", "", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("ci", "", "rollback", "amd64/generic/noble/install", "images", "", "images"),
        ("ci", "", "rollback", "amd64/generic/jammy/install", "images", "", "not-allowed: rule `images` does not let ci roll back amd64/generic/jammy/install; its `rollback` allows */*/noble/*"),
        ("ci", "", "withdraw", "amd64/generic/noble/install", "images", "", "not-allowed: rule `images` does not let ci withdraw amd64/generic/noble/install; its `withdraw` allows nothing"),
        ("anna", "", "publish", "amd64/generic/noble/install", "images", "files", "images"),
        ("anna", "", "publish", "amd64/generic/noble/install", "-", "files", "images"),
        ("anna", "", "publish", "arm64/generic/noble/install", "images", "files", "images"),
        ("anna", "", "publish", "arm64/generic/noble/install", "-", "files", "not-allowed: rule `images` does not let anna make arm64/generic/noble/install, which isn't there; its `create` allows amd64/*/noble/*"),
        ("anna", "", "publish", "amd64/generic/jammy/install", "images", "files", "not-allowed: rule `images` does not let anna publish amd64/generic/jammy/install; its `publish` allows amd64/*/noble/*, arm64/*/noble/*"),
        ("anna", "", "publish", "amd64/generic/noble/install", "images", "", "not-allowed: rule `images` requires `files` in the manifest, as `submit` writes it"),
        ("anna", "", "rollback", "amd64/generic/noble/install", "images", "", "images"),
        ("anna", "", "rollback", "amd64/generic/jammy/install", "images", "", "not-allowed: rule `images` does not let anna roll back amd64/generic/jammy/install; its `rollback` allows */*/noble/*"),
        ("anna", "", "withdraw", "amd64/generic/noble/install", "images", "", "not-allowed: rule `images` does not let anna withdraw amd64/generic/noble/install; its `withdraw` allows nothing"),
        ("ci", "", "publish", "amd64/generic/noble/install", "by root", "files", "images"),
        ("ci", "", "publish", "amd64/generic/noble/install", "signed", "files", "images"),
        ("ci", "", "publish", "amd64/generic/noble/install", "signed!", "files", "unsigned: not signed; what is current at amd64/generic/noble/install was signed with SHA256:abc, and only a signed drop may follow it"),
        ("ci", "", "rollback", "amd64/generic/noble/install", "by root!", "", "unsigned: not signed; what is current at amd64/generic/noble/install was signed with SHA256:abc, and only a signed drop may follow it"),
        ("ci", "X", "publish", "amd64/generic/noble/install", "signed!", "files", "unknown-key: signed with SHA256:sS5XlPMe+hTN/eQNrYK9AqDmx23ihv4+gfKTnZmLrY8, which no rule has; what is current at amd64/generic/noble/install was signed with SHA256:abc, and only a drop may follow it that is signed with a key of some rule"),
        ("ci", "A", "publish", "amd64/generic/noble/install", "signed!", "files", "images"),
        ("ci", "OLD", "publish", "amd64/generic/noble/install", "signed!", "files", "images"),
        ("ci", "X", "publish", "amd64/generic/noble/install", "images", "files", "images"),
        ("ci", "A", "publish", "amd64/generic/noble/install", "images", "files serial", "images"),
        ("ci", "", "rollback", "arm64/generic/noble/install", "-", "", "not-allowed: rule `images` does not let ci make arm64/generic/noble/install, which isn't there; its `create` allows amd64/*/noble/*"),
        ("ci", "", "rollback", "amd64/generic/noble/install", "-", "", "images"),
        ("ci", "", "rollback", "amd64/generic/noble/install", "gone lab", "", "images"),
        ("ci", "", "rollback", "arm64/generic/noble/install", "gone images", "", "not-allowed: rule `images` does not let ci make arm64/generic/noble/install, which isn't there; its `create` allows amd64/*/noble/*"),
        ("ci", "", "rollback", "amd64/generic/noble/install", "gone signed!", "", "unsigned: not signed; the withdrawal of amd64/generic/noble/install was signed with SHA256:abc, and only a signed drop may follow it"),
        ("ci", "X", "rollback", "amd64/generic/noble/install", "gone signed!", "", "unknown-key: signed with SHA256:sS5XlPMe+hTN/eQNrYK9AqDmx23ihv4+gfKTnZmLrY8, which no rule has; the withdrawal of amd64/generic/noble/install was signed with SHA256:abc, and only a drop may follow it that is signed with a key of some rule"),
        ("ci", "", "publish", "amd64/generic/noble/install", "gone lab", "files", "images"),
        ("upload", "A", "rollback", "amd64/generic/trixie/install", "gone signed!", "", "signed"),
        ("upload", "A", "rollback", "amd64/generic/trixie/install", "gone team-b", "", "not-allowed: rule `signed` does not let upload roll back amd64/generic/trixie/install: it was withdrawn by rule `team-b`; its `follow_others` is false"),
        ("upload", "A", "rollback", "amd64/generic/trixie/install", "gone by root", "", "not-allowed: rule `signed` does not let upload roll back amd64/generic/trixie/install: it was withdrawn by no rule; its `follow_others` is false"),
        ("upload", "A", "publish", "amd64/generic/trixie/install", "gone team-b", "", "signed"),
        ("ci", "", "rollback", "lab/generic/noble/x", "lab", "", "images"),
        ("upload", "", "publish", "amd64/generic/trixie/install", "-", "", "unsigned: not signed; the rules for upload ask for a signature (signed, team-b): ssh-keygen -Y sign -n netboot-publisher"),
        ("upload", "", "publish", "amd64/generic/sid/install", "-", "", "unsigned: not signed; the rules for upload ask for a signature (signed, team-b): ssh-keygen -Y sign -n netboot-publisher"),
        ("upload", "", "withdraw", "amd64/generic/trixie/install", "signed!", "", "unsigned: not signed; the rules for upload ask for a signature (signed, team-b): ssh-keygen -Y sign -n netboot-publisher"),
        ("upload", "A", "publish", "amd64/generic/trixie/install", "-", "", "signed"),
        ("upload", "A", "publish", "amd64/generic/sid/install", "-", "", "not-allowed: rule `signed` does not let upload publish amd64/generic/sid/install; its `publish` allows */*/trixie/*"),
        ("upload", "A", "withdraw", "amd64/generic/trixie/install", "signed!", "", "signed"),
        ("upload", "B", "publish", "amd64/generic/trixie/install", "-", "", "not-allowed: rule `team-b` does not let upload publish amd64/generic/trixie/install; its `publish` allows */*/sid/*"),
        ("upload", "B", "publish", "amd64/generic/sid/install", "-", "", "team-b"),
        ("upload", "B", "withdraw", "amd64/generic/trixie/install", "signed!", "", "not-allowed: rule `team-b` does not let upload withdraw amd64/generic/trixie/install; its `withdraw` allows nothing"),
        ("upload", "OLD", "publish", "amd64/generic/trixie/install", "-", "", "unknown-key: signed with SHA256:Y9vU8fjOgDHm30nKESlL85jfHsMqa572c1vdQZ3aWBo, which rule `signed` has in `old_keys` only, for what is there; expected a key that is in `keys`"),
        ("upload", "OLD", "publish", "amd64/generic/sid/install", "-", "", "unknown-key: signed with SHA256:Y9vU8fjOgDHm30nKESlL85jfHsMqa572c1vdQZ3aWBo, which rule `signed` has in `old_keys` only, for what is there; expected a key that is in `keys`"),
        ("upload", "OLD", "withdraw", "amd64/generic/trixie/install", "signed!", "", "unknown-key: signed with SHA256:Y9vU8fjOgDHm30nKESlL85jfHsMqa572c1vdQZ3aWBo, which rule `signed` has in `old_keys` only, for what is there; expected a key that is in `keys`"),
        ("upload", "X", "publish", "amd64/generic/trixie/install", "-", "", "unknown-key: signed with SHA256:sS5XlPMe+hTN/eQNrYK9AqDmx23ihv4+gfKTnZmLrY8, which none of the rules for upload has (signed, team-b); expected a key that is in `keys`"),
        ("upload", "X", "publish", "amd64/generic/sid/install", "-", "", "unknown-key: signed with SHA256:sS5XlPMe+hTN/eQNrYK9AqDmx23ihv4+gfKTnZmLrY8, which none of the rules for upload has (signed, team-b); expected a key that is in `keys`"),
        ("upload", "X", "withdraw", "amd64/generic/trixie/install", "signed!", "", "unknown-key: signed with SHA256:sS5XlPMe+hTN/eQNrYK9AqDmx23ihv4+gfKTnZmLrY8, which none of the rules for upload has (signed, team-b); expected a key that is in `keys`"),
        ("upload", "A", "publish", "amd64/generic/trixie/install", "signed!", "", "signed"),
        ("upload", "A", "publish", "amd64/generic/trixie/install", "by root", "", "not-allowed: rule `signed` does not let upload publish amd64/generic/trixie/install: what is there was made current by no rule; its `follow_others` is false"),
        ("upload", "A", "publish", "amd64/generic/trixie/install", "team-b!", "", "not-allowed: rule `signed` does not let upload publish amd64/generic/trixie/install: what is there was made current by rule `team-b`; its `follow_others` is false"),
        ("upload", "A", "withdraw", "amd64/generic/trixie/install", "by root", "", "not-allowed: rule `signed` does not let upload withdraw amd64/generic/trixie/install: what is there was made current by no rule; its `follow_others` is false"),
        ("upload", "A", "rollback", "amd64/generic/trixie/install", "signed!", "", "signed"),
        ("upload", "A", "rollback", "amd64/generic/trixie/install", "images", "", "not-allowed: rule `signed` does not let upload roll back amd64/generic/trixie/install: what is there was made current by rule `images`; its `follow_others` is false"),
        ("upload", "B", "publish", "amd64/generic/sid/install", "signed!", "", "team-b"),
        ("upload", "B", "publish", "amd64/generic/sid/install", "by root", "", "team-b"),
        ("upload", "B", "withdraw", "amd64/generic/sid/install", "team-b!", "", "not-allowed: rule `team-b` does not let upload withdraw amd64/generic/sid/install; its `withdraw` allows nothing"),
        ("lea", "", "publish", "lab/generic/noble/install", "-", "serial expires", "lab"),
        ("lea", "", "publish", "lab/generic/noble/install", "-", "serial", "not-allowed: rule `lab` requires `expires` in the manifest, as `submit --expires TIME` writes it"),
        ("lea", "", "publish", "lab/generic/noble/install", "lab", "files", "not-allowed: rule `lab` requires `serial`, `expires` in the manifest, as `submit --serial $(date +%s) --expires TIME` writes it"),
        ("lea", "", "publish", "amd64/generic/noble/install", "images", "files serial expires", "not-allowed: rule `lab` does not let lea publish amd64/generic/noble/install; its `publish` allows lab/*/*/*"),
        ("lea", "", "rollback", "lab/generic/noble/install", "lab", "serial expires", "lab"),
        ("lea", "", "rollback", "lab/generic/noble/install", "lab", "files", "not-allowed: rule `lab` requires `serial`, `expires` in the manifest, as `rollback --serial $(date +%s) --expires TIME` writes it"),
        ("lea", "", "rollback", "lab/generic/noble/install", "lab", "expires", "not-allowed: rule `lab` requires `serial` in the manifest, as `rollback --serial $(date +%s)` writes it"),
        ("lea", "", "withdraw", "lab/old/noble/install", "lab", "", "not-allowed: rule `lab` requires `serial`, `expires` in the manifest, as `withdraw --serial $(date +%s) --expires TIME` writes it"),
        ("lea", "", "withdraw", "lab/generic/noble/install", "lab", "", "not-allowed: rule `lab` does not let lea withdraw lab/generic/noble/install; its `withdraw` allows lab/old/*/*"),
        ("anna", "", "publish", "lab/generic/noble/install", "-", "serial expires files", "not-allowed: rule `images` does not let anna publish lab/generic/noble/install; its `publish` allows amd64/*/noble/*, arm64/*/noble/*"),
        ("eve", "", "publish", "amd64/generic/noble/install", "images", "files", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("eve", "", "rollback", "amd64/generic/noble/install", "images", "files", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("eve", "", "withdraw", "amd64/generic/noble/install", "images", "files", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("eve", "A", "publish", "amd64/generic/trixie/install", "-", "", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("eve", "", "publish", "lab/generic/noble/install", "-", "", "not-allowed: no importer rule is for eve: ask the admin for one"),
        ("nobody", "", "publish", "amd64/generic/noble/install", "-", "files", "not-allowed: no importer rule is for the user 1005: ask the admin for one"),
        ("nobody", "B", "publish", "amd64/generic/sid/install", "-", "", "not-allowed: no importer rule is for the user 1005: ask the admin for one"),
        ("six", "", "publish", "amd64/generic/numbers/install", "-", "", "numbers"),
        ("in-77", "", "publish", "amd64/generic/numbers/install", "-", "", "numbers"),
        ("1006", "", "publish", "amd64/generic/numbers/install", "-", "", "numbers"),
        ("six", "", "publish", "amd64/generic/noble/install", "-", "", "not-allowed: rule `numbers` does not let six publish amd64/generic/noble/install; its `publish` allows */*/numbers/*"),
    ];

    /// What a rule says of whom it is for: users, groups, keys and old keys.
    type Whom = [Vec<&'static str>; 4];

    fn whom() -> impl Strategy<Value = Whom> {
        let names = || vec(select(&["a", "b", "c"][..]), 0..3);
        let keys = || vec(select(&[A, B, X][..]), 0..2);
        (names(), names(), keys(), keys())
            .prop_map(|(users, groups, keys, old_keys)| [users, groups, keys, old_keys])
    }

    fn with_rules(rules: &[Whom]) -> Settings {
        let text = |(at, whom): (usize, &Whom)| {
            let lists = ["users", "groups", "keys", "old_keys"].iter().zip(whom);
            let lists = lists.filter(|(_, list)| !list.is_empty());
            let lists: Vec<_> = lists
                .map(|(key, list)| format!("{key} = {list:?}\n"))
                .collect();
            format!("[[importer]]\nname = \"{at}\"\n{}", lists.concat())
        };
        let text: String = rules.iter().enumerate().map(text).collect();
        Settings::parse("config.toml", &text).unwrap()
    }

    proptest::proptest! {
        #[test]
        fn what_the_rules_say_is_what_they_say_asked_one_by_one(
            rules in vec(whom(), 0..8),
            uid in 0_u32..3,
            user in option::of(select(&["a", "b", "c"][..])),
            number in option::of(select(&["a", "b", "c"][..])),
            groups in vec(select(&["a", "b", "c"][..]), 0..4),
            key in option::of(select(&[A, B, X][..])),
        ) {
            let settings = with_rules(&rules);
            let account = Account {
                name: user.map(String::from),
                number: number.map(String::from),
                groups: groups.iter().map(ToString::to_string).collect(),
            };
            let signer = key.map(|key| key.parse().unwrap());
            let asker = Asker { uid, account: &account, signer: signer.as_ref() };

            let mut of_owner = Vec::new();
            for (at, [users, of_groups, keys, _]) in rules.iter().enumerate() {
                let mut names = user.iter().chain(&number);
                let is_user = names.any(|name| users.contains(name));
                let is_in_group = of_groups.iter().any(|group| groups.contains(group));
                if is_user || is_in_group || (users.is_empty() && of_groups.is_empty()) {
                    of_owner.push((at.to_string(), keys));
                }
            }
            let is_signed = |keys: &[&str]| key.is_some_and(|key| keys.contains(&key));
            let first = of_owner.iter().find(|(_, keys)| keys.is_empty() || is_signed(keys));
            let expected = match first {
                _ if uid == ROOT || rules.is_empty() => Ok(None),
                Some((name, _)) => Ok(Some(name.clone())),
                None if of_owner.is_empty() => Err(Reason::NotAllowed),
                None if key.is_none() => Err(Reason::Unsigned),
                None => Err(Reason::UnknownKey),
            };
            let found = asker.rule(&settings);
            let found = found.map(|rule| rule.map(|rule| rule.name.to_string()));
            proptest::prop_assert_eq!(found.map_err(|rejection| rejection.reason), expected);

            let found: Vec<_> = super::of_owner(&settings, &account).collect();
            let found = found.iter().map(|rule| rule.name.as_str());
            let names = of_owner.iter().map(|(name, _)| name.as_str());
            proptest::prop_assert!(found.eq(names));

            let is_known = rules.iter().any(|[_, _, keys, old]| is_signed(keys) || is_signed(old));
            proptest::prop_assert_eq!(asker.known_signer(&settings).is_some(), is_known);

            let all_have_keys = of_owner.iter().all(|(_, keys)| !keys.is_empty());
            let needs_signature = uid != ROOT && !of_owner.is_empty() && all_have_keys;
            proptest::prop_assert_eq!(asker.needs_signature(&settings).is_some(), needs_signature);
        }
    }
}
