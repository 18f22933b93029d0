//! How the lists of upstream are verified, and what happens where they don't fit together.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use reqwest::Url;

use super::gpgv::{self, SignedAt, Unverified};
use super::upstream::{MAX_DOCUMENT, Upstream};
use crate::fetch::Wanted;
use crate::words::Digest;

/// How what upstream says is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// By `gpgv`, with the keys of this keyring.
    Keyring(PathBuf),
    /// The one list that names all others, or the archive, has this digest.
    Sha256(Digest),
    /// Not at all.
    Insecure,
}

/// A list of upstream's that isn't what another one says of it.
#[derive(Debug, thiserror::Error)]
#[error("{url} has sha256 {found}; {list} says {expected}")]
struct Mismatch {
    url: Url,
    list: String,
    found: Digest,
    expected: Digest,
}

/// An upstream, and how what it says is verified.
pub(super) struct Asker<'a, U> {
    pub(super) upstream: &'a U,
    pub(super) trust: &'a Trust,
}

impl<U: Upstream> Asker<'_, U> {
    /// The list that names all others. Of the urls of lists that hold their own signature, and of those
    /// with a signature beside them, the first that is there counts; `None` where none is.
    ///
    /// Returns what is verified of it, and where it came from.
    ///
    /// # Errors
    /// When it can't be had, or isn't verified: then it is forgotten.
    pub(super) async fn top(
        &self,
        clearsigned: &[Url],
        plain: &[(Url, Vec<Url>)],
    ) -> anyhow::Result<Option<(Vec<u8>, Url)>> {
        if let Trust::Keyring(_) = self.trust {
            for url in clearsigned {
                if let Some(signed) = self.clearsigned(url).await? {
                    return Ok(Some((signed, url.clone())));
                }
            }
        }
        for (url, signatures) in plain {
            if let Some(bytes) = self.beside(url, signatures).await? {
                return Ok(Some((bytes, url.clone())));
            }
        }
        Ok(None)
    }

    /// What is signed of a list that holds its own signature; `None` where there is none.
    async fn clearsigned(&self, url: &Url) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(document) = self.upstream.document(url).await? else {
            return Ok(None);
        };
        let Trust::Keyring(keyring) = self.trust else {
            bail!("verifying {url}: no keyring");
        };
        let signed = gpgv::signed_part(keyring, &document, MAX_DOCUMENT).await;
        let (signed, at) = self.or_forget(signed, &[url])?;
        self.check_time(url, at)?;
        Ok(Some(signed))
    }

    /// A list with a signature beside it, at one of these urls, or inside; `None` where there is none.
    async fn beside(&self, url: &Url, signatures: &[Url]) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(document) = self.upstream.document(url).await? else {
            return Ok(None);
        };
        match self.trust {
            Trust::Insecure => Ok(Some(document)),
            Trust::Sha256(expected) => {
                let compared = self.compare(&document, url, expected, "the source's file");
                // That doesn't change by itself: asking once more would be of no use.
                compared.map_err(|error| anyhow::anyhow!("{error}; upstream has changed it"))?;
                Ok(Some(document))
            }
            Trust::Keyring(keyring) if is_clearsigned(&document) => {
                let signed = gpgv::signed_part(keyring, &document, MAX_DOCUMENT).await;
                let (signed, at) = self.or_forget(signed, &[url])?;
                self.check_time(url, at)?;
                Ok(Some(signed))
            }
            Trust::Keyring(keyring) => {
                let (signature, from) = self.signature(url, signatures).await?;
                let file = gpgv::in_memory(&document)?;
                let checked = gpgv::check(keyring, &signature, file).await;
                let at = self.or_forget(checked, &[url, &from])?;
                self.check_time(url, at)?;
                Ok(Some(document))
            }
        }
    }

    /// Makes sure that a signature beside a file of an image is one of that.
    ///
    /// # Errors
    /// As [`Asker::top`].
    pub(super) async fn check_file(
        &self,
        wanted: &Wanted,
        signatures: &[Url],
    ) -> anyhow::Result<()> {
        let Trust::Keyring(keyring) = self.trust else {
            return Ok(());
        };
        let (signature, from) = self.signature(&wanted.url, signatures).await?;
        let file = self.upstream.file(wanted).await?;
        let checked = gpgv::check(keyring, &signature, file).await;
        let checked = checked.with_context(|| format!("verifying {}", wanted.url));
        self.or_forget(checked, &[&from])?;
        Ok(())
    }

    /// What was signed before what this url had once is an old state, which proves nothing of today's.
    fn check_time(&self, url: &Url, at: SignedAt) -> anyhow::Result<()> {
        at.map_or(Ok(()), |at| self.upstream.signed(url, at))
    }

    /// The first signature that is there, and where.
    async fn signature(&self, of: &Url, urls: &[Url]) -> anyhow::Result<(Vec<u8>, Url)> {
        for url in urls {
            if let Some(signature) = self.upstream.document(url).await? {
                return Ok((signature, url.clone()));
            }
        }
        let urls: Vec<_> = urls.iter().map(Url::as_str).collect();
        bail!(
            "no signature of {of}: there is no {}",
            urls.join(", and no ")
        )
    }

    /// A list of which another one, `list`, says the digest; `None` where there is none.
    ///
    /// # Errors
    /// When it is another: then it is forgotten.
    pub(super) async fn listed(
        &self,
        url: &Url,
        expected: &Digest,
        list: &str,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        let document = self.upstream.document(url).await?;
        if let Some(document) = &document {
            self.compare(document, url, expected, list)?;
        }
        Ok(document)
    }

    fn compare(
        &self,
        bytes: &[u8],
        url: &Url,
        expected: &Digest,
        list: &str,
    ) -> anyhow::Result<()> {
        let found = Digest::of(bytes);
        if found == *expected {
            return Ok(());
        }
        let mismatch = Mismatch {
            url: url.clone(),
            list: list.to_string(),
            found,
            expected: *expected,
        };
        self.or_forget(Err(mismatch.into()), &[url])
    }

    /// What doesn't verify isn't kept: asked for conditionally, it would come again and again.
    fn or_forget<T>(&self, verified: anyhow::Result<T>, urls: &[&Url]) -> anyhow::Result<T> {
        if verified.is_err() {
            urls.iter().try_for_each(|url| self.upstream.forget(url))?;
        }
        let of = urls.first().expect("there is one");
        verified.map_err(|error| match error.downcast_ref::<Mismatch>() {
            Some(_) => error,
            None => error.context(format!("verifying {of}")),
        })
    }
}

/// Whether a document says that it holds its own signature. What does is never taken for one without.
fn is_clearsigned(document: &[u8]) -> bool {
    let mut lines = document.split(|byte| *byte == b'\n');
    lines.any(|line| line.trim_ascii_end() == b"-----BEGIN PGP SIGNED MESSAGE-----")
}

/// What `ask` says; asked once more where lists don't fit together, which upstream may be changing.
///
/// # Errors
/// When they don't the second time either, or for another reason.
pub(super) async fn asked_again<T>(ask: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let is_change = |error: &anyhow::Error| {
        let unverified = error.downcast_ref::<Unverified>();
        error.is::<Mismatch>() || unverified.is_some_and(|it| it.is_of_other_bytes)
    };
    match ask().await {
        Err(error) if is_change(&error) => {}
        asked => return asked,
    }
    ask().await.map_err(|error| {
        if !is_change(&error) {
            return error;
        }
        anyhow::anyhow!(
            "{error:#}; asked twice. Upstream may be in the middle of a change: try again later"
        )
    })
}
