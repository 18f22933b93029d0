//! What was fetched, as far as it goes, and what it was when it was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use reqwest::Url;

use super::client::Client;
use super::document::{self, Document};
use super::transfer::{Transfer, Wanted};
use crate::sys::{Dir, Progress};
use crate::words::{Digest, Moment};

/// Nobody else has to read what is fetched.
const MODE: u32 = 0o700;

/// When the lists were signed that count, by their urls.
const SIGNED: &str = "signed.json";
const SIGNED_NEW: &str = ".signed.tmp";
const MAX_SIGNED: u64 = 1 << 20;

/// The folder of one source, locked against others that fetch for the same one.
#[derive(Debug)]
pub(crate) struct Store {
    root: Dir,
    documents: Dir,
    files: Dir,
    partial: Dir,
    /// What is being asked for: whoever wants it as well waits.
    asked: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Store {
    /// Opens the folder at `path`, and makes it when it isn't there.
    ///
    /// # Errors
    /// When another process fetches for this source.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let root = Dir::open_or_make(path)?;
        ensure!(
            root.lock()?,
            "another netboot-import works on this source: it has locked {path:?}"
        );
        let store = Self {
            documents: root.dir_or_make("documents", MODE)?,
            files: root.dir_or_make("files", MODE)?,
            partial: root.dir_or_make("partial", MODE)?,
            root,
            asked: Mutex::default(),
        };
        store.sweep()?;
        Ok(store)
    }

    /// A document of at most `max` bytes, asked for conditionally; `None` where the host has none.
    ///
    /// # Errors
    /// When it can't be had: what was asked for, what came, and what to do.
    pub(crate) async fn document(
        &self,
        client: &Client,
        url: &Url,
        max: u64,
    ) -> anyhow::Result<Option<Document>> {
        let asked = self.asked(url.to_string());
        let _alone = asked.lock().await;
        document::fetch(client, &self.documents, url, max).await
    }

    /// Forgets a document that has turned out not to be good: it will be asked for as if for the first
    /// time.
    ///
    /// # Errors
    /// When it can't be removed.
    pub(crate) fn forget(&self, url: &Url) -> anyhow::Result<()> {
        document::forget(&self.documents, url)
    }

    /// Takes note that what is at `url` was signed at a time, in seconds since 1970.
    ///
    /// # Errors
    /// When what was there before was signed later, unless that is accepted.
    pub(crate) fn note_signed(
        &self,
        url: &Url,
        at: u64,
        accepts_older: bool,
    ) -> anyhow::Result<()> {
        let bytes = self.root.read(SIGNED, MAX_SIGNED)?;
        let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut known: BTreeMap<String, u64> = read.unwrap_or_default();
        let last = known.get(url.as_str()).copied().unwrap_or_default();
        let shown = |at| Moment::from_stat(i64::try_from(at).unwrap_or(i64::MAX), 0).to_seconds();
        ensure!(
            at >= last || accepts_older,
            "{url} was signed at {}, and one that was signed at {} was seen here before: the mirror is behind, or \
             somebody shows an old state. Nothing was brought; where that is right, `netboot-import run NAME \
             --accept` takes it",
            shown(at),
            shown(last)
        );
        if at != last {
            known.insert(url.to_string(), at);
            let text = serde_json::to_vec_pretty(&known)?;
            self.root.replace_durably(SIGNED, SIGNED_NEW, &text, None)?;
        }
        Ok(())
    }

    /// Fetches a file, unless it is there already; goes on where an earlier try has ended.
    ///
    /// # Errors
    /// When it can't be had, or isn't what it has to be. What came is kept as far as it may be good.
    pub(crate) async fn file(
        &self,
        client: &Client,
        wanted: &Wanted,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<()> {
        let name = wanted.sha256.to_string();
        let asked = self.asked(name.clone());
        let _alone = asked.lock().await;
        if let Some(there) = self.files.stat(&name)? {
            if wanted.size.is_none_or(|size| size == there.size) {
                progress.advance(there.size);
                return Ok(());
            }
            // The disk has lost some of it.
            self.files.remove_file(&name)?;
        }
        let transfer = Transfer::begin(client, wanted, &self.partial, progress).await?;
        transfer.run(&self.files).await
    }

    /// The folder of the files that are whole, each by its digest.
    pub(crate) fn files(&self) -> anyhow::Result<Dir> {
        Ok(self.root.existing_dir("files")?)
    }

    /// Removes all files, whole or not, but these.
    pub(crate) fn keep(&self, files: &BTreeSet<Digest>) -> anyhow::Result<()> {
        let kept: BTreeSet<_> = files.iter().map(Digest::to_string).collect();
        for dir in [&self.files, &self.partial] {
            for (name, _) in dir.names()? {
                let text = name.to_string_lossy();
                if !kept.contains(text.strip_suffix(".json").unwrap_or(&text)) {
                    dir.remove_file(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what a crash has left: files that were not in their place yet, and what stands beside
    /// one that isn't there.
    fn sweep(&self) -> anyhow::Result<()> {
        for dir in [&self.documents, &self.partial] {
            let names = dir.names()?;
            let names: BTreeSet<_> = names.iter().map(|(it, _)| it.to_string_lossy()).collect();
            for name in &names {
                let of = name.strip_suffix(".json");
                if name.starts_with('.') || of.is_some_and(|of| !names.contains(of)) {
                    dir.remove_file(&**name)?;
                }
            }
        }
        Ok(())
    }

    fn asked(&self, what: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut asked = self.asked.lock().expect("nobody panics while asking");
        // Those that nobody waits for any more.
        asked.retain(|_, it| Arc::strong_count(it) > 1);
        Arc::clone(asked.entry(what).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = ["documents", "files", "partial"]
            .iter()
            .flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap())
            .map(|entry| entry.unwrap().path())
            .map(|path| path.strip_prefix(folder).unwrap().display().to_string())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn one_source_is_fetched_for_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/debian");
        let store = Store::open(&path).unwrap();
        let said = Store::open(&path).unwrap_err().to_string();
        let expected =
            format!("another netboot-import works on this source: it has locked {path:?}");
        assert_eq!(said, expected);
        drop(store);
        Store::open(&path).unwrap();
    }

    #[test]
    fn what_was_signed_earlier_than_the_last_counts_only_where_somebody_accepts_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [one, other] =
            ["http://x.example/a", "http://x.example/b"].map(|it| Url::parse(it).unwrap());
        let note = |url: &Url, at, accepts| store.note_signed(url, at, accepts);
        note(&one, 2_000_000_000, false).unwrap();
        note(&one, 2_000_000_000, false).unwrap();
        note(&other, 1_000_000_000, false).unwrap();
        let said = note(&one, 1_999_999_999, false).unwrap_err().to_string();
        let expected = "http://x.example/a was signed at 2033-05-18T03:33:19Z, and one that was signed at \
            2033-05-18T03:33:20Z was seen here before: ";
        assert!(said.starts_with(expected), "{said}");
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        let note = |url: &Url, at, accepts| store.note_signed(url, at, accepts);
        assert!(
            note(&one, 1_999_999_999, false).is_err(),
            "also after a new start"
        );
        note(&one, 1_999_999_998, true).unwrap();
        note(&one, 1_999_999_999, false).unwrap();
    }

    #[test]
    fn what_a_crash_has_left_goes_and_what_is_kept_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [one, two] = [b"1", b"2"].map(|it| Digest::of(it));
        let kept = [
            format!("documents/{one}"),
            format!("documents/{one}.json"),
            format!("documents/{two}"),
            format!("files/{one}"),
            format!("files/{two}"),
            format!("partial/{one}"),
            format!("partial/{one}.json"),
            format!("partial/{two}"),
        ];
        let left = [
            format!("documents/.{one}"),
            format!("documents/{}.json", Digest::of(b"3")),
            format!("partial/.{one}"),
            format!("partial/{two}x.json"),
        ];
        for name in kept.iter().chain(&left) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(names(folder.path()), kept);
        let files = store.files().unwrap();
        assert!(files.stat(one.to_string()).unwrap().is_some());

        store.keep(&BTreeSet::from([one])).unwrap();
        let kept = kept
            .iter()
            .filter(|it| it.starts_with("doc") || !it.contains(&two.to_string()));
        let kept: Vec<_> = kept.cloned().collect();
        assert_eq!(names(folder.path()), kept);
    }
}
