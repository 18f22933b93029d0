//! One file of another host, fetched until it is whole.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bytesize::ByteSize;
use headers::{ContentRange, HeaderMapExt as _};
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use reqwest::{Response, StatusCode, Url};

use super::client::Client;
use super::partial::Partial;
use super::trouble::{Fate, Trouble, html, looks_html, says_html, shown};
use super::validators::Validators;
use crate::sys::{Dir, Progress};
use crate::words::Digest;

/// Bytes of a file where upstream doesn't say how many: as many as an image may have by default.
const MOST: u64 = 16 << 30;

/// A file of another host, and what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) url: Url,
    pub(crate) sha256: Digest,
    /// Bytes, where upstream says how many.
    pub(crate) size: Option<u64>,
}

/// A file that is being fetched.
pub(super) struct Transfer<'t> {
    client: &'t Client,
    wanted: &'t Wanted,
    partial: Partial<'t>,
    progress: &'t Arc<Progress>,
    /// So many bytes are counted in `progress`: what comes once more is not.
    counted: u64,
    /// The next request is for the whole, whatever is there.
    is_from_start: bool,
    /// What could not be gone on from was begun anew.
    has_begun_anew: bool,
    /// Another file than the wanted one has come.
    has_mismatched: bool,
}

impl<'t> Transfer<'t> {
    /// Goes on with what is there in `dir`.
    ///
    /// # Errors
    /// When that can't be read.
    pub(super) async fn begin(
        client: &'t Client,
        wanted: &'t Wanted,
        dir: &'t Dir,
        progress: &'t Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let partial = Partial::open(dir, &wanted.sha256, progress).await?;
        let mut transfer = Self {
            client,
            wanted,
            partial,
            progress,
            counted: 0,
            is_from_start: false,
            has_begun_anew: false,
            has_mismatched: false,
        };
        let is_all = wanted
            .size
            .is_some_and(|it| transfer.partial.length() >= it);
        if is_all && !transfer.is_whole() {
            // The disk has something else than what came.
            transfer.partial.remove()?;
        }
        transfer.count();
        Ok(transfer)
    }

    /// Fetches what is missing, and moves the whole file into `files`.
    ///
    /// # Errors
    /// When it can't be had, or isn't what it has to be: what was found, and what is kept.
    pub(super) async fn run(mut self, files: &Dir) -> anyhow::Result<()> {
        let mut tries = self.client.tries();
        while !self.is_whole() {
            let counted = self.counted;
            let Err(trouble) = self.ask().await else {
                continue;
            };
            if self.counted > counted {
                tries.begin_anew();
            }
            if self.begins_anew(trouble.fate) {
                continue;
            }
            if self.is_whole() {
                break;
            }
            let waited = tries.wait_after(trouble).await;
            waited.map_err(|text| self.error(&text))?;
        }
        self.partial.finish(files).await
    }

    fn is_whole(&self) -> bool {
        let is_long_enough = self
            .wanted
            .size
            .is_none_or(|it| it == self.partial.length());
        is_long_enough && self.partial.digest() == self.wanted.sha256
    }

    /// Whether the whole is to be asked for after such a trouble, which may happen once each.
    fn begins_anew(&mut self, fate: Fate) -> bool {
        let once = match fate {
            Fate::Range => &mut self.has_begun_anew,
            Fate::Mismatch => &mut self.has_mismatched,
            Fate::Passing(_) | Fate::Lasting => return false,
        };
        self.is_from_start = true;
        !std::mem::replace(once, true)
    }

    /// One request, and what comes of it.
    async fn ask(&mut self) -> Result<(), Trouble> {
        let mut headers = HeaderMap::new();
        let is_rest = !self.is_from_start && self.partial.length() > 0;
        if is_rest {
            self.partial.ask_for_rest(&mut headers);
        }
        if self.has_mismatched {
            // A cache in between may have the file of another time.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let mut answer = self.client.get(&self.wanted.url, headers).await?;
        match answer.status() {
            StatusCode::OK => self.check_length(&answer)?,
            StatusCode::PARTIAL_CONTENT if is_rest => self.check_range(&answer)?,
            StatusCode::RANGE_NOT_SATISFIABLE if is_rest => return Err(self.beyond(&answer)),
            StatusCode::NOT_FOUND => {
                let status = answer.status();
                return Err(Trouble::lasting(format!(
                    "{status}; the list names it: upstream may be changing it right now"
                )));
            }
            _ => return Err(Trouble::of_answer(&answer)),
        }
        self.take(&mut answer).await
    }

    /// Takes the bytes of an answer that is the whole file, or the rest of it.
    async fn take(&mut self, answer: &mut Response) -> Result<(), Trouble> {
        let is_all = answer.status() == StatusCode::OK;
        let most = self.wanted.size.unwrap_or(MOST);
        let mut is_first = true;
        while let Some(bytes) = self.client.next(answer).await? {
            if is_first && (says_html(answer) || (is_all && looks_html(&bytes))) {
                return Err(html(answer.url(), &self.wanted.url, &bytes));
            }
            if is_first && is_all {
                self.begin_file(answer)?;
            }
            is_first = false;
            if self.partial.length() + bytes.len() as u64 > most {
                return Err(self.too_long()?);
            }
            self.partial.append(&bytes)?;
            self.count();
            if self.progress.is_stop_requested() {
                return Err(Trouble::lasting("stopped"));
            }
        }
        self.check_end(answer)
    }

    /// The first bytes of the whole file are about to come, and nothing before was wrong with them.
    fn begin_file(&mut self, answer: &Response) -> Result<(), Trouble> {
        let validators = Validators::of(answer.headers());
        self.partial.begin(shown(&self.wanted.url), validators)?;
        self.is_from_start = false;
        Ok(())
    }

    /// More bytes than there may be have come. They may begin with the wanted ones, yet upstream has
    /// another file.
    fn too_long(&mut self) -> Result<Trouble, Trouble> {
        self.partial.remove()?;
        Ok(match self.wanted.size {
            Some(size) => mismatch(&format!("has more than {size} bytes; the list says {size}")),
            None => too_large(&format!("more than {}", ByteSize(MOST))),
        })
    }

    /// An answer has come to its end, as it seems.
    fn check_end(&mut self, answer: &Response) -> Result<(), Trouble> {
        if self.is_whole() {
            return Ok(());
        }
        let length = self.partial.length();
        let is_all = answer.status() == StatusCode::OK;
        match self.wanted.size {
            // The end of an answer that doesn't say where it is may be a break.
            Some(size) if length < size => {
                let is_told = answer.headers().contains_key(TRANSFER_ENCODING);
                if is_all && is_told {
                    self.partial.remove()?;
                    return Err(mismatch(&format!(
                        "has {length} bytes; the list says {size}"
                    )));
                }
                let text = "the answer ended before the file did";
                Err(Trouble::new(Fate::Passing(Duration::ZERO), text))
            }
            _ => {
                let (found, wanted) = (self.partial.digest(), self.wanted.sha256);
                self.partial.remove()?;
                Err(mismatch(&format!(
                    "has sha256 {found}; the list says {wanted}"
                )))
            }
        }
    }

    /// Whether the whole file has the length that it has to have, as far as the host says.
    fn check_length(&self, answer: &Response) -> Result<(), Trouble> {
        // A page in its place is told as that.
        let length = answer.content_length().filter(|_| !says_html(answer));
        match (length, self.wanted.size) {
            (Some(length), Some(size)) if length != size => Err(mismatch(&format!(
                "has {length} bytes; the list says {size}"
            ))),
            (Some(length), None) if length > MOST => Err(too_large(&ByteSize(length).to_string())),
            _ => Ok(()),
        }
    }

    /// Whether this is the rest that was asked for, of the same file.
    fn check_range(&self, answer: &Response) -> Result<(), Trouble> {
        let range = answer.headers().typed_get::<ContentRange>();
        let at = self.partial.length();
        let is_rest = range.is_some_and(|range| {
            let is_good = |(size, total)| size == total;
            let total = range.bytes_len();
            range.bytes_range().is_some_and(|(first, _)| first == at)
                && self.wanted.size.zip(total).is_none_or(is_good)
        });
        let validators = Validators::of(answer.headers());
        if is_rest && !self.partial.validators().contradict(&validators) {
            return Ok(());
        }
        let text = format!("answers with another range than the one from {at} on");
        Err(Trouble::new(Fate::Range, text))
    }

    /// The host says that it has no more bytes than there are.
    fn beyond(&self, answer: &Response) -> Trouble {
        let range = answer.headers().typed_get::<ContentRange>();
        let total = range.and_then(|range| range.bytes_len());
        match (total, self.wanted.size) {
            (Some(total), Some(size)) if total != size => {
                mismatch(&format!("has {total} bytes; the list says {size}"))
            }
            _ => Trouble::new(Fate::Range, answer.status().to_string()),
        }
    }

    /// What has come, if it hasn't before, counts.
    fn count(&mut self) {
        let more = self.partial.length().saturating_sub(self.counted);
        if more > 0 {
            self.progress.advance(more);
            self.counted += more;
        }
    }

    fn error(&self, text: &str) -> anyhow::Error {
        let url = shown(&self.wanted.url);
        let kept = match (self.partial.length(), self.wanted.size) {
            (0, _) => return anyhow!("getting {url}: {text}"),
            (kept, Some(size)) => format!("{} of {}", ByteSize(kept), ByteSize(size)),
            (kept, None) => ByteSize(kept).to_string(),
        };
        let mark = if text.ends_with('?') { "" } else { ";" };
        anyhow!("getting {url}: {text}{mark} {kept} are kept, the next run goes on there")
    }
}

fn mismatch(what: &str) -> Trouble {
    let what = format!(
        "{what}: upstream may be changing it right now, and the next run asks for both again"
    );
    Trouble::new(Fate::Mismatch, what)
}

fn too_large(found: &str) -> Trouble {
    let most = ByteSize(MOST);
    Trouble::lasting(format!(
        "has {found}; expected {most} at most, where the list names no size"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Options;
    use super::super::hostile::{Answer, Asked, Host, good, noise};
    use super::super::store::Store;
    use super::*;

    const KIB: usize = 1 << 10;

    /// A host, and the folder of whoever asks it for one file of 20 KiB.
    struct Scene {
        host: Host,
        folder: tempfile::TempDir,
        wanted: Wanted,
    }

    impl Scene {
        fn new(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
            let host = Host::begin(answer);
            let bytes = noise(20 * KIB);
            let wanted = Wanted {
                url: host.url("linux"),
                sha256: Digest::of(&bytes),
                size: Some(bytes.len() as u64),
            };
            let folder = tempfile::tempdir().unwrap();
            Self {
                host,
                folder,
                wanted,
            }
        }

        fn sizeless(mut self) -> Self {
            self.wanted.size = None;
            self
        }

        fn path(&self, folder: &str) -> std::path::PathBuf {
            let name = self.wanted.sha256.to_string();
            self.folder.path().join(folder).join(name)
        }

        /// An earlier run has left these bytes, of the state that `beside` says.
        fn left(self, bytes: &[u8], beside: &str) -> Self {
            std::fs::create_dir(self.folder.path().join("partial")).unwrap();
            std::fs::write(self.path("partial"), bytes).unwrap();
            let beside_it = self.path("partial").with_extension("json");
            std::fs::write(beside_it, beside).unwrap();
            self
        }

        /// One run: what went wrong, or nothing; the seconds that it has waited; bytes of progress.
        async fn run(&self) -> (String, Vec<u64>, u64) {
            let (client, waits) = Client::noting(&self.wanted.url, &Options::default());
            let store = Store::open(self.folder.path()).unwrap();
            let progress = Arc::new(Progress::default());
            let fetched = store.file(&client, &self.wanted, &progress).await;
            let said = fetched.map_or_else(|error| format!("{error:#}"), |()| String::new());
            let port = self.host.url("").port().unwrap().to_string();
            let waits = waits.lock().unwrap();
            (
                said.replace(&port, "PORT"),
                waits.iter().map(Duration::as_secs).collect(),
                progress.bytes(),
            )
        }

        /// The wanted file is there, and nothing else.
        fn assert_whole(&self) {
            assert_eq!(std::fs::read(self.path("files")).unwrap(), noise(20 * KIB));
            assert_eq!(names(&self.folder.path().join("partial")), [""; 0]);
        }

        fn partial(&self) -> u64 {
            std::fs::metadata(self.path("partial")).map_or(0, |it| it.len())
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |it: std::io::Result<std::fs::DirEntry>| it.unwrap().file_name();
        entries.map(|it| name(it).into_string().unwrap()).collect()
    }

    /// As long as the wanted file.
    fn other() -> Vec<u8> {
        vec![7; 20 * KIB]
    }

    fn nothing() -> (String, Vec<u64>, u64) {
        (String::new(), vec![], 20 * KIB as u64)
    }

    #[tokio::test]
    async fn what_is_whole_is_not_asked_for_again() {
        let scene = Scene::new(|it| good(it, &noise(20 * KIB), "\"1\""));
        assert_eq!(scene.run().await, nothing());
        scene.assert_whole();
        assert_eq!(scene.run().await, nothing());
        assert_eq!(scene.host.firsts(), [None]);
        // The disk has lost the end.
        std::fs::write(scene.path("files"), "short").unwrap();
        assert_eq!(scene.run().await, nothing());
        assert_eq!(scene.host.firsts(), [None, None]);
        scene.assert_whole();
    }

    #[tokio::test]
    async fn a_connection_that_is_reset_at_every_kilobyte_is_gone_on_from() {
        let scene = Scene::new(|it| good(it, &noise(20 * KIB), "\"1\"").reset(KIB));
        let (said, waits, bytes) = scene.run().await;
        assert_eq!((said.as_str(), bytes), ("", 20 * KIB as u64));
        scene.assert_whole();
        // Each kilobyte is asked for once, and what came resets the waits.
        let firsts: Vec<_> = (1..20).map(|it| Some(it * KIB)).collect();
        assert_eq!(scene.host.firsts(), [vec![None], firsts].concat());
        assert_eq!(waits, [1; 19]);
        let same = |number| Some("\"1\"".to_string()).filter(|_| number > 0);
        let same: Vec<_> = (0..20).map(same).collect();
        assert_eq!(scene.host.headers("if-range"), same);
    }

    #[tokio::test]
    async fn the_next_run_goes_on_where_one_has_ended() {
        for cut in (0..=20).map(|it| it * KIB) {
            let scene = Scene::new(move |it| match it.number {
                0 => good(it, &noise(20 * KIB), "\"1\"").cut(cut),
                1..5 => Answer::new("503 Service Unavailable", &[], ""),
                _ => good(it, &noise(20 * KIB), "\"1\""),
            });
            let (said, waits, bytes) = scene.run().await;
            assert_eq!(bytes, cut as u64);
            if cut == 20 * KIB {
                assert_eq!((said.as_str(), waits), ("", vec![]));
                continue;
            }
            let kept = ByteSize(bytes);
            let kept = format!("; {kept} of 20.0 KiB are kept, the next run goes on there");
            let kept = if cut == 0 { "" } else { &kept };
            let expected = format!(
                "getting http://127.0.0.1:PORT/linux: 503 Service Unavailable, the last of 5 \
                 tries{kept}"
            );
            assert_eq!((said, waits), (expected, vec![1, 2, 4, 8]));
            assert_eq!(scene.run().await, nothing());
            scene.assert_whole();
            let first = Some(cut).filter(|it| *it > 0);
            assert_eq!(scene.host.firsts().last().unwrap(), &first);
        }
    }

    /// What a good host answers, but with nothing by which its states could be told apart.
    fn plain(asked: &Asked, bytes: &[u8]) -> Answer {
        good(asked, bytes, "W/\"weak\"")
    }

    #[tokio::test]
    async fn a_host_that_knows_no_ranges_or_has_another_state_is_asked_for_the_whole() {
        let (start, tag) = (noise(5 * KIB), r#"{"url":"u","etag":"\"1\""}"#);
        let all = |_: &Asked| Answer::new("200 OK", &["ETag: \"1\""], noise(20 * KIB));
        let scene = Scene::new(all).left(&start, tag);
        assert_eq!(scene.run().await, nothing());
        assert_eq!(scene.host.firsts(), [Some(5 * KIB)]);
        scene.assert_whole();
        // Upstream had another file when the first bytes came.
        let scene = Scene::new(|it| good(it, &noise(20 * KIB), "\"2\"")).left(&[7; 5_000], tag);
        assert_eq!(scene.run().await, nothing());
        assert_eq!(scene.host.headers("if-range"), [Some("\"1\"".to_string())]);
        assert_eq!(scene.host.firsts(), [Some(5_000)]);
        scene.assert_whole();
    }

    #[tokio::test]
    async fn a_range_that_was_not_asked_for_is_not_taken() {
        let tag = r#"{"url":"u","etag":"\"1\""}"#;
        for (status, headers) in [
            (
                "206 Partial Content",
                &["Content-Range: bytes 0-20479/20480"][..],
            ),
            (
                "206 Partial Content",
                &["Content-Range: bytes 5120-20479/20481"],
            ),
            (
                "206 Partial Content",
                &["Content-Range: bytes 5120-20479/*", "ETag: \"2\""],
            ),
            (
                "206 Partial Content",
                &["Content-Range: lines 5120-20479/20480"],
            ),
            ("206 Partial Content", &[]),
            (
                "416 Range Not Satisfiable",
                &["Content-Range: bytes */20480"],
            ),
            ("416 Range Not Satisfiable", &[]),
        ] {
            let other = Answer::new(status, headers, [7; 15 * KIB]);
            let scene = Scene::new(move |it| match it.first() {
                Some(_) => other.clone(),
                None => good(it, &noise(20 * KIB), "\"1\""),
            });
            let scene = scene.left(&noise(5 * KIB), tag);
            assert_eq!(scene.run().await, nothing(), "{headers:?}");
            assert_eq!(scene.host.firsts(), [Some(5 * KIB), None], "{headers:?}");
            // Nothing of it was taken: no digest had to tell.
            assert_eq!(
                scene.host.headers("cache-control"),
                [None, None],
                "{headers:?}"
            );
            scene.assert_whole();
        }
    }

    #[tokio::test]
    async fn a_host_that_never_gives_the_rest_is_asked_for_the_whole_once() {
        let scene = Scene::new(|it| match it.first() {
            Some(_) => Answer::new("416 Range Not Satisfiable", &[], ""),
            None => good(it, &noise(20 * KIB), "\"1\"").cut(10 * KIB),
        });
        let scene = scene.left(&noise(5 * KIB), "{}");
        let said = "getting http://127.0.0.1:PORT/linux: 416 Range Not Satisfiable; 10.0 KiB of \
                    20.0 KiB are kept, the next run goes on there";
        assert_eq!(scene.run().await, (said.to_string(), vec![1], 10 << 10));
        let asked = [Some(5 * KIB), None, Some(10 * KIB)];
        assert_eq!(scene.host.firsts(), asked);
        // A rest that comes unasked is none.
        let scene = Scene::new(|_| Answer::new("206 Partial Content", &[], noise(20 * KIB)));
        let said = "getting http://127.0.0.1:PORT/linux: 206 Partial Content";
        assert_eq!(scene.run().await, (said.to_string(), vec![], 0));
    }

    #[tokio::test]
    async fn what_breaks_off_at_one_place_is_tried_five_times() {
        let all = |_: &Asked| Answer::new("200 OK", &[], noise(20 * KIB)).cut(7 * KIB);
        let scene = Scene::new(all);
        let said = "getting http://127.0.0.1:PORT/linux: the connection was closed in the middle \
                    of the answer, 5 times; 7.0 KiB of 20.0 KiB are kept, the next run goes on there";
        let expected = (said.to_string(), vec![1, 2, 4, 8], 7 << 10);
        assert_eq!(scene.run().await, expected);
        assert_eq!(scene.partial(), 7 << 10);
        let ranges = [vec![None], vec![Some(7 * KIB); 4]].concat();
        assert_eq!(scene.host.firsts(), ranges);
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_may_be_a_part_or_all() {
        let scene = Scene::new(|it| match it.first() {
            None => Answer::endless("200 OK", &[], &noise(12 * KIB)),
            Some(first) => {
                let range = format!("Content-Range: bytes {first}-20479/20480");
                let rest = &noise(20 * KIB)[first..];
                Answer::endless("206 Partial Content", &[&range], rest)
            }
        });
        assert_eq!(scene.run().await, (String::new(), vec![1], 20 << 10));
        assert_eq!(scene.host.firsts(), [None, Some(12 * KIB)]);
        scene.assert_whole();
        // Where the list names no size, and the host a wrong one, the digest alone tells.
        let all = |_: &Asked| Answer::new("200 OK", &["Content-Length: 30000"], noise(20 * KIB));
        let scene = Scene::new(all).sizeless();
        assert_eq!(scene.run().await, nothing());
        scene.assert_whole();
    }

    #[tokio::test]
    async fn lies_about_lengths_are_told() {
        let other = noise(30 * KIB);
        let long = Answer::new("200 OK", &[], &other);
        let ends = "Content-Length: 20481";
        let lie = Answer::new("200 OK", &[ends], &other[..20 * KIB]);
        let chunks = Answer::chunked("200 OK", &[], &other);
        let few = Answer::chunked("200 OK", &[], &other[..9_000]);
        let endless = Answer::endless("200 OK", &[], &other);
        for (answer, found) in [
            (long, "30720 bytes"),
            (lie, "20481 bytes"),
            (chunks, "more than 20480 bytes"),
            (few, "9000 bytes"),
            (endless, "more than 20480 bytes"),
        ] {
            let scene = Scene::new(move |_| answer.clone());
            let said = format!(
                "getting http://127.0.0.1:PORT/linux: has {found}; the list says 20480: upstream \
                 may be changing it right now, and the next run asks for both again"
            );
            let (found, waits, _) = scene.run().await;
            assert_eq!((found, waits), (said, vec![]));
            assert_eq!(scene.host.firsts(), [None, None]);
            let no_cache = Some("no-cache".to_string());
            assert_eq!(scene.host.headers("cache-control"), [None, no_cache]);
            assert_eq!(scene.partial(), 0);
        }
        let scene = Scene::new(|_| Answer::new("200 OK", &["Content-Length: 34359738368"], ""));
        let said = "getting http://127.0.0.1:PORT/linux: has 32.0 GiB; expected 16.0 GiB at most, \
                    where the list names no size";
        assert_eq!(scene.sizeless().run().await, (said.to_string(), vec![], 0));
    }

    #[tokio::test]
    async fn a_rest_of_another_length_tells_of_another_file() {
        let scene = Scene::new(|it| good(it, &noise(4 * KIB), "\"1\""));
        let scene = scene.left(&noise(5 * KIB), "{}");
        let said = "getting http://127.0.0.1:PORT/linux: has 4096 bytes; the list says 20480: \
                    upstream may be changing it right now, and the next run asks for both again; \
                    5.0 KiB of 20.0 KiB are kept, the next run goes on there";
        assert_eq!(scene.run().await, (said.to_string(), vec![], 5 << 10));
        assert_eq!(scene.host.firsts(), [Some(5 * KIB), None]);
    }

    #[tokio::test]
    async fn another_file_is_asked_for_once_more_and_told_then() {
        let scene = Scene::new(|it| good(it, &other(), "\"1\""));
        let (found, wanted) = (Digest::of(&other()), scene.wanted.sha256);
        let said = format!(
            "getting http://127.0.0.1:PORT/linux: has sha256 {found}; the list says {wanted}: \
             upstream may be changing it right now, and the next run asks for both again"
        );
        assert_eq!(scene.run().await, (said, vec![], 20 << 10));
        assert_eq!(scene.host.firsts(), [None, None]);
        assert_eq!(names(&scene.folder.path().join("partial")), [""; 0]);
        assert_eq!(names(&scene.folder.path().join("files")), [""; 0]);
        // A cache had an old one; the bytes of both count once.
        let scene = Scene::new(|it| {
            let is_fresh = it.header("cache-control") == Some("no-cache");
            let bytes = if is_fresh { noise(20 * KIB) } else { other() };
            good(it, &bytes, "\"1\"")
        });
        assert_eq!(scene.run().await, nothing());
        scene.assert_whole();
    }

    #[tokio::test]
    async fn bytes_that_nobody_can_vouch_for_are_begun_anew_when_they_turn_out_wrong() {
        for (start, beside) in [
            (vec![7; 5 * KIB], "{}"),
            (vec![7; 5 * KIB], r#"{"url":"u","etag":"W/\"weak\""}"#),
            (vec![7; 5 * KIB], "torn"),
        ] {
            let scene = Scene::new(|it| plain(it, &noise(20 * KIB))).left(&start, beside);
            assert_eq!(scene.run().await, nothing());
            assert_eq!(scene.host.firsts(), [Some(5 * KIB), None]);
            assert_eq!(scene.host.headers("if-range"), [None, None]);
            scene.assert_whole();
        }
    }

    #[tokio::test]
    async fn a_crash_leaves_nothing_that_the_next_run_stumbles_over() {
        let all = noise(20 * KIB);
        let good_host = |it: &Asked| good(it, &noise(20 * KIB), "\"1\"");
        let modified = r#"{"url":"u","last_modified":"Thu, 01 Jan 1970 00:00:00 GMT"}"#;
        // What it left, and what is asked for then.
        let (longer, wrong) = ([&all[..], b"x"].concat(), other());
        for (left, beside, firsts) in [
            (&all[..], "{}", &[][..]),
            (&all[..], "", &[]),
            (&all[..1], "", &[Some(1)]),
            (&all[..20_479], "{", &[Some(20_479)]),
            (&all[..3_000], modified, &[Some(3_000)]),
            (&[], modified, &[None]),
            (&longer, "{}", &[None]),
            (&wrong, "{}", &[None]),
        ] {
            let scene = Scene::new(good_host).left(left, beside);
            let other = scene.path("partial").with_file_name("other.json");
            std::fs::write(other, "{}").unwrap();
            let new = format!(".{}", scene.wanted.sha256);
            std::fs::write(scene.path("partial").with_file_name(new), "{").unwrap();
            assert_eq!(scene.run().await, nothing(), "{beside}");
            assert_eq!(scene.host.firsts(), firsts, "{beside}");
            scene.assert_whole();
        }
    }

    #[tokio::test]
    async fn a_date_says_which_state_is_meant_where_there_is_no_strong_tag() {
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        let scene = Scene::new(move |it| {
            let answer = plain(it, &noise(20 * KIB)).with(&format!("Last-Modified: {date}"));
            let is_first = it.number == 0;
            if is_first { answer.cut(KIB) } else { answer }
        });
        let (said, waits, _) = scene.run().await;
        assert_eq!((said.as_str(), waits), ("", vec![1]));
        assert_eq!(
            scene.host.headers("if-range"),
            [None, Some(date.to_string())]
        );
        // The host compares it with what it has, and `good` knows tags only: it sends the whole.
        assert_eq!(scene.host.firsts(), [None, Some(KIB)]);
        scene.assert_whole();
    }

    #[tokio::test]
    async fn a_host_that_asks_for_time_gets_it_up_to_a_minute() {
        let date = "Date: Thu, 01 Jan 1970 00:00:00 GMT";
        let after = "Retry-After: Thu, 01 Jan 1970 00:00:30 GMT";
        let busy = Answer::new("429 Too Many Requests", &["Retry-After: 7"], "");
        let away = Answer::new("503 Service Unavailable", &[date, after], "");
        let soon = Answer::new("503 Service Unavailable", &["Retry-After: 0"], "");
        let past = Answer::new("500 Internal Server Error", &[after], "");
        let odd = Answer::new("408 Request Timeout", &["Retry-After: later"], "");
        let scene = Scene::new(move |it| match it.number {
            0 => busy.clone(),
            1 => away.clone(),
            2 => soon.clone().cut(0),
            3 => past.clone(),
            4 => good(it, &noise(20 * KIB), "\"1\"").cut(KIB),
            5 => odd.clone(),
            _ => good(it, &noise(20 * KIB), "\"1\""),
        });
        let expected = (String::new(), vec![7, 30, 4, 8, 1, 2], 20 << 10);
        assert_eq!(scene.run().await, expected);
        scene.assert_whole();

        let scene = Scene::new(|_| Answer::new("429 Too Many", &["Retry-After: 3600"], ""));
        let said = "getting http://127.0.0.1:PORT/linux: 429 Too Many Requests; the host wants to \
                    be asked again in 1h";
        assert_eq!(scene.run().await, (said.to_string(), vec![], 0));
    }

    #[tokio::test]
    async fn what_asking_again_does_not_help_against_is_told_at_once() {
        for (status, said) in [
            (
                "404 Nope",
                "404 Not Found; the list names it: upstream may be changing it right now",
            ),
            ("403 Forbidden", "403 Forbidden"),
            (
                "401 Unauthorized",
                "401 Unauthorized; expected the source's `username` and `password_file` to be good",
            ),
            (
                "511 Captive",
                "511 Network Authentication Required: is there a captive portal in between?",
            ),
            ("304 Not Modified", "304 Not Modified"),
            ("302 Found", "302 Found"),
        ] {
            let scene = Scene::new(move |_| Answer::new(status, &[], ""));
            let said = format!("getting http://127.0.0.1:PORT/linux: {said}");
            assert_eq!(scene.run().await, (said, vec![], 0));
            assert_eq!(scene.host.asked().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_host_that_is_not_there_is_tried_five_times() {
        let mut scene = Scene::new(|_| Answer::new("200 OK", &[], ""));
        let url = Host::begin(|_| Answer::new("200 OK", &[], "")).url("linux");
        let port = url.port().unwrap().to_string();
        scene.wanted.url = url;
        scene.wanted.url.set_username("me").unwrap();
        scene.wanted.url.set_password(Some("secret")).unwrap();
        scene.wanted.url.set_query(Some("token=secret"));
        let (said, waits, _) = scene.run().await;
        let expected = "getting http://127.0.0.1:PORT/linux?…: Connection refused, 5 times";
        assert_eq!(said.replace(&port, "PORT"), expected);
        assert_eq!(waits, [1, 2, 4, 8]);
    }

    #[tokio::test]
    async fn a_page_for_people_in_place_of_a_file_is_told_and_harms_nothing() {
        let page = "<!DOCTYPE html>\n<html><head><title>\nLog  in </title>";
        let kind = "Content-Type: text/html; charset=utf-8";
        let by_kind = Answer::new("200 OK", &[kind], page);
        let by_bytes = Answer::new("200 OK", &[], "\u{feff}\n<HTML><body>\u{1b}[2J");
        let rest = "Content-Range: bytes 5120-20479/20480";
        let as_rest = Answer::new("206 Partial Content", &[kind, rest], page);
        let sized = Answer::new("200 OK", &[], format!("{page:20480}"));
        for (answer, title) in [
            (by_kind, " (\"Log in\")"),
            (by_bytes, ""),
            (as_rest, " (\"Log in\")"),
            (sized, " (\"Log in\")"),
        ] {
            let scene = Scene::new(move |_| answer.clone()).left(&noise(5 * KIB), "{}");
            let scene = if title.is_empty() {
                scene.sizeless()
            } else {
                scene
            };
            let kept = if title.is_empty() {
                "5.0 KiB"
            } else {
                "5.0 KiB of 20.0 KiB"
            };
            let said = format!(
                "getting http://127.0.0.1:PORT/linux: is an HTML page{title}: is there a captive \
                 portal or a proxy in between? {kept} are kept, the next run goes on there"
            );
            assert_eq!(scene.run().await, (said, vec![], 5 << 10));
            assert_eq!(scene.partial(), 5 << 10);
        }
    }

    #[tokio::test]
    async fn two_that_want_one_file_ask_for_it_once() {
        let scene = Scene::new(|it| good(it, &noise(20 * KIB), "\"1\""));
        let (client, _) = Client::noting(&scene.wanted.url, &Options::default());
        let store = Store::open(scene.folder.path()).unwrap();
        let progress = Arc::new(Progress::default());
        let fetch = || store.file(&client, &scene.wanted, &progress);
        let fetched = tokio::join!(fetch(), fetch(), fetch());
        assert!(matches!(fetched, (Ok(()), Ok(()), Ok(()))), "{fetched:?}");
        assert_eq!(scene.host.asked().len(), 1);
        assert_eq!(progress.bytes(), 3 * (20 << 10));
        scene.assert_whole();
    }

    #[tokio::test]
    async fn whoever_asks_for_the_end_gets_it_and_what_came_is_kept() {
        let scene = Scene::new(|it| good(it, &noise(20 * KIB), "\"1\"").cut(KIB));
        let (client, _) = Client::noting(&scene.wanted.url, &Options::default());
        let progress = Arc::new(Progress::default());
        progress.request_stop();
        let store = Store::open(scene.folder.path()).unwrap();
        let fetched = store.file(&client, &scene.wanted, &progress).await;
        let said = format!("{:#}", fetched.unwrap_err());
        assert!(
            said.ends_with(": stopped; 1.0 KiB of 20.0 KiB are kept, the next run goes on there"),
            "{said}"
        );
        assert_eq!(scene.host.asked().len(), 1);
        drop(store);
        // The form in which it is kept, which a later version has to know.
        let beside = std::fs::read_to_string(scene.path("partial").with_extension("json"));
        let expected = format!(r#"{{"url":"{}","etag":"\"1\""}}"#, scene.wanted.url);
        assert_eq!(beside.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_file_of_no_bytes_is_a_file() {
        let mut scene = Scene::new(|_| Answer::new("200 OK", &[], ""));
        scene.wanted.sha256 = Digest::of(b"");
        scene.wanted.size = None;
        assert_eq!(scene.run().await, (String::new(), vec![], 0));
        assert_eq!(std::fs::read(scene.path("files")).unwrap(), b"");
        // What was there before is none of it.
        let mut scene = Scene::new(|_| Answer::new("200 OK", &[], "")).sizeless();
        scene.wanted.sha256 = Digest::of(b"");
        let scene = scene.left(&[7; 9], "{}");
        assert_eq!(scene.run().await, (String::new(), vec![], 9));
        assert_eq!(scene.host.firsts(), [Some(9)]);
    }

    /// How a host may go wrong, with a number.
    fn wrong(asked: &Asked, how: u8, at: usize) -> Answer {
        let all = noise(20 * KIB);
        let range = format!("Content-Range: bytes {at}-20479/20480");
        match how {
            0 => good(asked, &all, "\"1\"").cut(at),
            1 => good(asked, &all, "\"1\"").reset(at),
            2 => good(asked, &all, "W/\"1\"").cut(at),
            3 => good(asked, &other(), "\"1\"").cut(at),
            4 => good(asked, &noise(at), "\"2\""),
            5 => Answer::new("200 OK", &[], &all).cut(at),
            6 => Answer::chunked("200 OK", &["Last-Modified: x"], &all).cut(at),
            7 => Answer::endless("200 OK", &["ETag: \"1\""], &all[..at]),
            8 => Answer::new("206 Partial Content", &[&range], &all[at..]),
            9 => Answer::new("416 Range Not Satisfiable", &[], ""),
            10 => Answer::new("503 Service Unavailable", &[], ""),
            11 => Answer::new("200 OK", &["Content-Type: text/html"], "<html>"),
            _ => good(asked, &all, "\"3\""),
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_host_does_only_the_wanted_file_comes_out(
            ways in proptest::collection::vec((0_u8..13, 0..20 * KIB), 0..12),
            left in 0..20 * KIB,
            is_sizeless: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let last = ways.len();
                let scene = Scene::new(move |it| match ways.get(it.number) {
                    Some((how, at)) => wrong(it, *how, *at),
                    None => good(it, &noise(20 * KIB), "\"1\""),
                });
                let scene = scene.left(&noise(left), "{}");
                let scene = if is_sizeless { scene.sizeless() } else { scene };
                // Each run that fails has asked at least once; then the host is good.
                for _ in 0..=last {
                    let (said, _, bytes) = scene.run().await;
                    assert!(bytes <= 20 * KIB as u64 || is_sizeless, "{bytes}");
                    assert!(scene.partial() <= 20 * KIB as u64 || is_sizeless);
                    if said.is_empty() {
                        break;
                    }
                    assert_eq!(names(&scene.folder.path().join("files")), [""; 0]);
                }
                scene.assert_whole();
            });
        }
    }
}
