//! The public keys of people who sign.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, HashAlg, PublicKey};

/// A public key as OpenSSH writes it, of a kind that signatures are taken of: Ed25519, ECDSA on the
/// curve P-256, and both in a security key.
///
/// Two keys are the same whatever their comments say. It shows as its fingerprint, `SHA256:…`, as
/// `ssh-keygen -l` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey(KeyData);

impl SigningKey {
    /// Of which kinds a key may be.
    pub(crate) const KINDS: &str = "Ed25519 or ECDSA P-256";

    /// What a key has to look like.
    pub(crate) const RULE: &str = "a public key as in `~/.ssh/id_ed25519.pub`, of the kind Ed25519 or \
        ECDSA P-256: \"ssh-ed25519 AAAA…\"";

    /// `None` where the key is of another kind.
    pub(crate) fn of(key: &KeyData) -> Option<Self> {
        let is_good = match key {
            KeyData::Ed25519(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => true,
            KeyData::Ecdsa(key) => key.curve() == EcdsaCurve::NistP256,
            _ => false,
        };
        is_good.then(|| Self(key.clone()))
    }

    pub(crate) fn data(&self) -> &KeyData {
        &self.0
    }
}

/// A text that is no [`SigningKey`], and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct SigningKeyError(String);

impl SigningKeyError {
    /// What was expected.
    pub(crate) fn expected(&self) -> &str {
        &self.0
    }
}

impl FromStr for SigningKey {
    type Err = SigningKeyError;

    fn from_str(text: &str) -> Result<Self, SigningKeyError> {
        let key = PublicKey::from_openssh(text.trim());
        let key = key.map_err(|_| SigningKeyError(Self::RULE.to_string()))?;
        Self::of(key.key_data()).ok_or_else(|| {
            let kind = key.algorithm();
            let kind = kind.as_str().escape_debug();
            SigningKeyError(format!("{}; this key is of the kind {kind}", Self::KINDS))
        })
    }
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fingerprint(HashAlg::Sha256).fmt(f)
    }
}

impl Hash for SigningKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKdJDLQXt6bBGzkWbiXs53nuVzZDUdvb1kOYEWNEqm5";

    #[test]
    fn a_key_is_the_same_whatever_its_comment_says() {
        let key: SigningKey = ED25519.parse().unwrap();
        assert_eq!(format!("{ED25519} ci@build\n").parse(), Ok(key.clone()));
        assert_eq!(
            key.to_string(),
            "SHA256:j8n1lJrzXyP4Aa7lhj+qJ+oxDcHAGWa6AMhufKTWHO4"
        );
    }

    #[test]
    fn a_key_of_another_kind_is_named_as_that() {
        let p384 = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBFc1L/7J5ImeI22Mk4t70R+2XtlQQINvvBtzNpKcKBT6+TnNkbhdcrbLlfrsbKeTguitJm76nZA9aFuZb2Bna9BUzmWNvD03TiU9kBFaqbQoUKtzOVKi+LP8UItiAZRM6Q==";
        let said = p384.parse::<SigningKey>().unwrap_err().to_string();
        let expected =
            "expected Ed25519 or ECDSA P-256; this key is of the kind ecdsa-sha2-nistp384";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_no_key_or_of_another_kind_is_refused() {
        let half = &ED25519[..40];
        let dsa = "ssh-dss AAAAB3NzaC1kc3MAAAAB";
        for bad in ["", "ssh-ed25519", half, dsa, &ED25519[12..], "-----BEGIN"] {
            let expected = SigningKeyError(SigningKey::RULE.to_string());
            assert_eq!(bad.parse::<SigningKey>(), Err(expected), "{bad}");
        }
    }
}
