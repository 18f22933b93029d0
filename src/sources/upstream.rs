//! The host that a source's lists come from.

use std::fs::File;
use std::sync::Arc;

use reqwest::Url;

use crate::fetch::{Client, Store, Wanted};
use crate::sys::Progress;

/// Bytes of a list, such as an index.
pub(super) const MAX_DOCUMENT: u64 = 64 << 20;

/// What a kind of source asks for.
pub(super) trait Upstream {
    /// A list; `None` where there is none.
    async fn document(&self, url: &Url) -> anyhow::Result<Option<Vec<u8>>>;

    /// Forgets a list that was no good: the next time it is asked for as if for the first time.
    fn forget(&self, url: &Url) -> anyhow::Result<()>;

    /// Takes note when what a list says was signed, in seconds since 1970.
    ///
    /// # Errors
    /// When what it said before was signed later.
    fn signed(&self, url: &Url, at: u64) -> anyhow::Result<()>;

    /// A file of an image, whole and checked.
    async fn file(&self, wanted: &Wanted) -> anyhow::Result<File>;
}

/// A host, and the folder of what came from it.
pub(super) struct Host<'h> {
    pub(super) client: &'h Client,
    pub(super) store: &'h Store,
    /// Lists count also where they are older than the last ones.
    pub(super) accepts_older: bool,
}

impl Upstream for Host<'_> {
    async fn document(&self, url: &Url) -> anyhow::Result<Option<Vec<u8>>> {
        let document = self.store.document(self.client, url, MAX_DOCUMENT).await?;
        Ok(document.map(|document| document.bytes))
    }

    fn forget(&self, url: &Url) -> anyhow::Result<()> {
        self.store.forget(url)
    }

    fn signed(&self, url: &Url, at: u64) -> anyhow::Result<()> {
        self.store.note_signed(url, at, self.accepts_older)
    }

    async fn file(&self, wanted: &Wanted) -> anyhow::Result<File> {
        let progress = Arc::new(Progress::default());
        self.store.file(self.client, wanted, &progress).await?;
        let files = self.store.files()?;
        Ok(files.existing_file(wanted.sha256.to_string())?)
    }
}

#[cfg(test)]
pub(super) use tests::Folder;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::path::{Path, PathBuf};

    use anyhow::Context as _;

    use super::*;
    use crate::sources::{Offer, Part, Picks, Source};
    use crate::words::Digest;

    /// An upstream whose files are in a folder.
    pub(in crate::sources) struct Folder {
        pub(in crate::sources) path: PathBuf,
        /// The paths that were asked for, and those that were forgotten, with a `-` in front.
        pub(in crate::sources) asked: RefCell<Vec<String>>,
        /// Called before a list is looked for: upstream may change it right then.
        pub(in crate::sources) meanwhile: Box<dyn Fn(&str)>,
    }

    impl Folder {
        pub(in crate::sources) const URL: &str = "http://mirror.example/pub/";

        pub(in crate::sources) fn new(path: &Path) -> Self {
            Self {
                path: path.to_path_buf(),
                asked: RefCell::default(),
                meanwhile: Box::new(|_| ()),
            }
        }

        /// What a source of this text offers: a line for each target, and for each file one with its path
        /// in the image and its path in the folder.
        pub(in crate::sources) async fn offers(&self, text: &str) -> Result<String, String> {
            let text = format!("url = \"{}\"\n{text}", Self::URL);
            let source =
                Source::parse("test", "test.toml", &text).unwrap_or_else(|e| panic!("{e}"));
            let offers = source
                .ask_of(self)
                .await
                .map_err(|error| format!("{error:#}"))?;
            Ok(offers.iter().map(|offer| self.shown(offer)).collect())
        }

        fn shown(&self, offer: &Offer) -> String {
            let version = offer.version.as_deref().unwrap_or("-");
            let mut lines = vec![format!("{} {version}", offer.target)];
            for (key, path) in offer.boot.paths() {
                lines.push(format!("  {key}: {path}"));
            }
            for (key, line) in [
                ("title", &offer.boot.title),
                ("cmdline", &offer.boot.cmdline),
            ] {
                lines.extend(line.iter().map(|it| format!("  {key}: {it}")));
            }
            for part in &offer.parts {
                let (wanted, what) = match part {
                    Part::File { path, wanted } => (wanted, path.clone()),
                    Part::Archive {
                        wanted,
                        picks: Picks::All { strip },
                    } => (wanted, format!("all without {strip}")),
                    Part::Archive {
                        wanted,
                        picks: Picks::Some(picks),
                    } => (wanted, format!("{picks:?}")),
                };
                let path = Self::below(&wanted.url);
                // What is offered is there.
                let bytes = fs::read(self.path.join(&path)).unwrap();
                assert_eq!(wanted.sha256, Digest::of(&bytes), "{path}");
                assert!(
                    wanted.size.is_none_or(|size| size == bytes.len() as u64),
                    "{path}"
                );
                lines.push(format!("  {what} = {path}"));
            }
            lines.join("\n") + "\n"
        }

        fn below(url: &Url) -> String {
            let path = url.as_str().strip_prefix(Self::URL);
            path.unwrap_or_else(|| panic!("{url}")).to_string()
        }
    }

    impl Upstream for Folder {
        async fn document(&self, url: &Url) -> anyhow::Result<Option<Vec<u8>>> {
            let path = Self::below(url);
            (self.meanwhile)(&path);
            let read = fs::read(self.path.join(&path)).ok();
            self.asked.borrow_mut().push(path);
            Ok(read)
        }

        fn forget(&self, url: &Url) -> anyhow::Result<()> {
            self.asked
                .borrow_mut()
                .push(format!("-{}", Self::below(url)));
            Ok(())
        }

        fn signed(&self, _: &Url, _: u64) -> anyhow::Result<()> {
            Ok(())
        }

        async fn file(&self, wanted: &Wanted) -> anyhow::Result<File> {
            let path = self.path.join(Self::below(&wanted.url));
            let bytes = fs::read(&path).with_context(|| format!("getting {}", wanted.url))?;
            anyhow::ensure!(
                Digest::of(&bytes) == wanted.sha256,
                "{} is another",
                wanted.url
            );
            Ok(File::open(path)?)
        }
    }
}
