//! Where a channel is: one repository of a registry.

use std::fmt;

use oci_client::Reference;
use reqwest::Url;

use crate::words::Digest;

/// A repository, by its URL: `https://registry.example:5000/netboot/stable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) is_https: bool,
    /// With the port, where the URL has one.
    pub(super) host: String,
    repository: String,
}

impl Address {
    /// What a URL has to look like.
    pub(super) const RULE: &str = "the URL of a repository such as \
        \"https://registry.example:5000/netboot/stable\": http or https, without user, tag and \
        query; parts of `a-z 0-9 . _ -`";

    /// `None` when the URL doesn't follow [`Address::RULE`].
    pub(super) fn of(url: &Url) -> Option<Self> {
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let repository = url.path().strip_prefix('/')?.to_string();
        // The rule for repositories is that of the crate.
        let reference: Reference = format!("registry.example/{repository}").parse().ok()?;
        if !is_plain || reference.repository() != repository || reference.digest().is_some() {
            return None;
        }
        let port = url.port().map(|port| format!(":{port}"));
        Some(Self {
            is_https,
            host: format!("{}{}", url.host_str()?, port.unwrap_or_default()),
            repository,
        })
    }

    pub(super) fn tag(&self, tag: &str) -> Reference {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Reference::with_tag(host, repository, tag.to_string())
    }

    pub(super) fn digest(&self, digest: &Digest) -> Reference {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Reference::with_digest(host, repository, format!("sha256:{digest}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}/{}", self.host, self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Option<String> {
        let address = Address::of(&url.parse().unwrap())?;
        Some(address.to_string())
    }

    #[test]
    fn an_address_is_that_of_one_repository() {
        for good in [
            "https://registry.example:5000/netboot/stable",
            "http://127.0.0.1:5000/netboot",
            "http://[::1]:5000/netboot",
            "https://localhost/a/b_c/d-e.f",
        ] {
            assert_eq!(of(good).as_deref(), Some(good));
        }
        for bad in [
            "ftp://registry.example/netboot",
            "https://registry.example",
            "https://registry.example/",
            "https://registry.example/netboot/",
            "https://registry.example/Netboot",
            "https://registry.example/netboot:stable",
            "https://registry.example/a//b",
            "https://me@registry.example/netboot",
            "https://me:secret@registry.example/netboot",
            "https://registry.example/netboot?x",
            "https://registry.example/netboot#x",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
