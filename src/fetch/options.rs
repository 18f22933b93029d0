//! How the host of a source, or of a channel, is asked.

use std::path::PathBuf;

use anyhow::Context as _;
use toml::de::DeValue;

use crate::sys::Dir;
use crate::text::{Table, ValueExt};

/// Bytes of a file of certificates, or of a password.
const MAX_FILE: u64 = 1 << 20;

/// What a source, or a channel, says of how its host is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Certificates, in PEM, that count beside the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Who asks, and the file whose first line is the password.
    pub(crate) login: Option<(String, PathBuf)>,
}

impl Options {
    /// Reads `ca`, `username` and `password_file`. `None` after a complaint.
    pub(crate) fn read(top: &mut Table<'_, '_>) -> Option<Self> {
        let ca = top.optional("ca", ValueExt::path);
        let user = |value: &DeValue<'_>| {
            let is_good = |text: &&str| !text.is_empty() && !text.contains([':', '\n', '\r', '\0']);
            value.parsed("a user's name, without `:`", |text| {
                Some(text).filter(is_good).map(str::to_string)
            })
        };
        let login = if top.has("username") || top.has("password_file") {
            // One without the other is a slip.
            let (user, password) = (
                top.required("username", user),
                top.required("password_file", ValueExt::path),
            );
            Some((user?, password?))
        } else {
            // That there are such keys is known all the same.
            let _ = top.optional("username", user);
            let _ = top.optional("password_file", ValueExt::path);
            None
        };
        Some(Self { ca, login })
    }

    /// The certificates of `ca`, in PEM; empty where there is none.
    ///
    /// # Errors
    /// When they can't be read.
    pub(crate) fn certificates(&self) -> anyhow::Result<Vec<u8>> {
        let read = self.ca.as_ref().map(|path| Dir::read_named(path, MAX_FILE));
        Ok(read.transpose()?.unwrap_or_default())
    }

    /// The name and the password of `login`.
    ///
    /// # Errors
    /// When the password can't be read.
    pub(crate) fn credentials(&self) -> anyhow::Result<Option<(String, String)>> {
        let Some((name, path)) = &self.login else {
            return Ok(None);
        };
        let text = String::from_utf8(Dir::read_named(path, MAX_FILE)?);
        let text = text.with_context(|| format!("reading {path:?}"))?;
        let password = text.lines().next().unwrap_or_default();
        anyhow::ensure!(
            !password.is_empty(),
            "reading {path:?}: expected a password in the first line; it is empty"
        );
        Ok(Some((name.clone(), password.to_string())))
    }
}
