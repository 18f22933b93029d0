//! Small documents, kept with what tells whether the host has another one by now.

use anyhow::anyhow;
use bytesize::ByteSize;
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::trouble::{Trouble, html, looks_html, says_html, shown};
use super::validators::Validators;
use crate::sys::Dir;
use crate::words::Digest;

/// Bytes of what is kept beside a document.
const MAX_BESIDE: u64 = 64 << 10;

/// A small file, such as a list of others. Nobody has checked it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    /// Where it came from in the end, after redirects.
    pub(crate) url: Url,
    /// It is the same as before.
    pub(crate) is_same: bool,
}

/// What stands beside a document.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Beside {
    /// For people.
    url: String,
    /// Of the document that this belongs to: a crash may have left that of another time.
    sha256: Digest,
    #[serde(flatten)]
    validators: Validators,
}

/// What a host has answered.
enum Answer {
    Same(Url),
    None,
    New(Url, Validators, Vec<u8>),
}

/// The document at `url`, of at most `max` bytes, kept in `dir`; `None` where the host has none.
///
/// # Errors
/// When it can't be had.
pub(super) async fn fetch(
    client: &Client,
    dir: &Dir,
    url: &Url,
    max: u64,
) -> anyhow::Result<Option<Document>> {
    let name = name(url);
    let stored = stored(dir, &name, max);
    let mut tries = client.tries();
    let answer = loop {
        match ask(client, url, max, stored.as_ref().map(|it| &it.1)).await {
            Ok(answer) => break answer,
            Err(trouble) => {
                let waited = tries.wait_after(trouble).await;
                waited.map_err(|text| anyhow!("getting {}: {text}", shown(url)))?;
            }
        }
    };
    match (answer, stored) {
        (Answer::Same(url), Some((bytes, _))) => Ok(Some(Document {
            bytes,
            url,
            is_same: true,
        })),
        (Answer::New(from, validators, bytes), stored) => {
            let is_same = stored.as_ref().is_some_and(|it| it.0 == bytes);
            if stored != Some((bytes.clone(), validators.clone())) {
                store(dir, &name, url, &bytes, validators)?;
            }
            Ok(Some(Document {
                bytes,
                url: from,
                is_same,
            }))
        }
        (Answer::None | Answer::Same(_), _) => Ok(None),
    }
}

/// Removes what is kept of `url`: it is asked for as if for the first time.
///
/// # Errors
/// When it can't be removed.
pub(super) fn forget(dir: &Dir, url: &Url) -> anyhow::Result<()> {
    let name = name(url);
    dir.remove_file(beside(&name))?;
    dir.remove_file(&name)?;
    Ok(())
}

/// The name of a document, which says nothing of a login.
fn name(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Digest::of(url.as_str().as_bytes()).to_string()
}

fn beside(name: &str) -> String {
    format!("{name}.json")
}

/// What is kept, if it is whole and belongs together.
fn stored(dir: &Dir, name: &str, max: u64) -> Option<(Vec<u8>, Validators)> {
    // What can't be read, or is longer than it may be by now, is as good as lost.
    let beside = dir.read(beside(name), MAX_BESIDE).ok().flatten();
    let bytes = dir.read(name, max).ok().flatten();
    let (beside, bytes) = beside.zip(bytes)?;
    let beside = serde_json::from_slice::<Beside>(&beside).ok()?;
    (beside.sha256 == Digest::of(&bytes)).then_some((bytes, beside.validators))
}

/// The document first: what stands beside it counts only with the very bytes that it names.
fn store(
    dir: &Dir,
    name: &str,
    url: &Url,
    bytes: &[u8],
    validators: Validators,
) -> anyhow::Result<()> {
    let beside_it = Beside {
        url: shown(url),
        sha256: Digest::of(bytes),
        validators,
    };
    let temporary = format!(".{name}");
    let text = serde_json::to_vec(&beside_it).expect("it is plain data");
    dir.replace_durably(name, &temporary, bytes, None)?;
    dir.replace_durably(beside(name), &temporary, &text, None)?;
    dir.sync()?;
    Ok(())
}

/// One request.
async fn ask(
    client: &Client,
    url: &Url,
    max: u64,
    stored: Option<&Validators>,
) -> Result<Answer, Trouble> {
    let mut headers = HeaderMap::new();
    // Of an old list a cache in between is not asked.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    if let Some(validators) = stored {
        validators.ask_for_change(&mut headers);
    }
    let mut answer = client.get(url, headers).await?;
    let from = with_login_of(url, answer.url().clone());
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if stored.is_some() => return Ok(Answer::Same(from)),
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::None),
        _ => return Err(Trouble::of_answer(&answer)),
    }
    let validators = Validators::of(answer.headers());
    let is_html = says_html(&answer);
    let bytes = whole(client, &mut answer, max).await;
    match bytes {
        Ok(bytes) if is_html || looks_html(&bytes) => Err(html(answer.url(), url, &bytes)),
        bytes => Ok(Answer::New(from, validators, bytes?)),
    }
}

/// All bytes of an answer, `max` at most.
async fn whole(client: &Client, answer: &mut Response, max: u64) -> Result<Vec<u8>, Trouble> {
    let most = ByteSize(max);
    if let Some(length) = answer.content_length().filter(|length| *length > max) {
        let length = ByteSize(length);
        return Err(Trouble::lasting(format!(
            "has {length}; expected {most} at most"
        )));
    }
    let mut bytes = Vec::new();
    while let Some(next) = client.next(answer).await? {
        bytes.extend_from_slice(&next);
        if bytes.len() as u64 > max {
            return Err(Trouble::lasting(format!(
                "has more than {most}; expected {most} at most"
            )));
        }
    }
    Ok(bytes)
}

/// What a document names beside itself is asked for with the login that it was asked for with.
fn with_login_of(asked: &Url, mut url: Url) -> Url {
    if asked.origin() == url.origin() {
        let _ = url.set_username(asked.username());
        let _ = url.set_password(asked.password());
    }
    url
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::client::Counts;
    use super::super::hostile::{Answer, Asked, Host, good};
    use super::super::store::Store;
    use super::*;

    const MAX: u16 = 1_000;
    const DATE: &str = "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT";

    /// The text of a document, and whether it is the same as before.
    type Text = Option<(String, bool)>;

    /// A host, and the folder of whoever asks it for a list.
    struct Scene {
        host: Host,
        folder: tempfile::TempDir,
        client: Client,
        url: Url,
    }

    impl Scene {
        fn new(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
            let host = Host::begin(answer);
            let (client, _) = Client::noting(&host.url(""), &Options::default());
            Self {
                url: host.url("dists/SUMS"),
                host,
                folder: tempfile::tempdir().unwrap(),
                client,
            }
        }

        fn store(&self) -> Store {
            Store::open(self.folder.path()).unwrap()
        }

        async fn get(&self) -> anyhow::Result<Option<Document>> {
            self.store()
                .document(&self.client, &self.url, MAX.into())
                .await
        }

        async fn text(&self) -> Text {
            let document = self.get().await.unwrap()?;
            assert_eq!(document.url, self.url);
            let text = String::from_utf8(document.bytes).unwrap();
            Some((text, document.is_same))
        }

        /// What went wrong.
        async fn said(&self) -> String {
            let said = format!("{:#}", self.get().await.unwrap_err());
            let port = self.host.url("").port().unwrap();
            said.replace(&port.to_string(), "PORT")
        }

        /// The file of the document, or the one beside it.
        fn path(&self, extension: &str) -> std::path::PathBuf {
            let path = self.folder.path().join("documents").join(name(&self.url));
            path.with_extension(extension)
        }
    }

    fn text(text: &str, is_same: bool) -> Text {
        (!text.is_empty()).then(|| (text.to_string(), is_same))
    }

    fn same(it: &str) -> Text {
        text(it, true)
    }

    fn new(it: &str) -> Text {
        text(it, false)
    }

    #[tokio::test]
    async fn a_document_is_asked_for_conditionally_and_transferred_when_it_has_changed() {
        let scene = Scene::new(|it| match it.number {
            0..3 => good(it, b"one", "W/\"1\"").with(DATE),
            _ => good(it, b"two", "\"2\""),
        });
        assert_eq!(scene.text().await, new("one"));
        assert_eq!(scene.text().await, same("one"));
        assert_eq!(scene.text().await, same("one"));
        let counts = Counts {
            requests: 3,
            bytes: 3,
            unchanged: 2,
        };
        assert_eq!(scene.client.counts(), counts);
        assert_eq!(scene.text().await, new("two"));
        assert_eq!(scene.text().await, same("two"));
        let tags = ["", "W/\"1\"", "W/\"1\"", "W/\"1\"", "\"2\""];
        let tags = tags.map(|tag| Some(tag.to_string()).filter(|it| !it.is_empty()));
        assert_eq!(scene.host.headers("if-none-match"), tags);
        let date = Some(DATE.split_once(": ").unwrap().1.to_string());
        let dates = [None, date.clone(), date.clone(), date, None];
        assert_eq!(scene.host.headers("if-modified-since"), dates);
        assert_eq!(scene.client.counts().bytes, 6);
        let caches = scene.host.headers("cache-control");
        assert_eq!(caches, vec![Some("max-age=0".to_string()); 5]);
    }

    #[tokio::test]
    async fn a_document_that_comes_again_byte_for_byte_is_the_same() {
        let scene = Scene::new(|_| Answer::new("200 OK", &[], "one"));
        assert_eq!(scene.text().await, new("one"));
        assert_eq!(scene.text().await, same("one"));
        assert_eq!(scene.host.headers("if-none-match"), [None, None]);
        // The host has touched it: by then it is asked for with the new tag.
        let scene = Scene::new(|it| match it.number {
            0 => good(it, b"one", "\"1\""),
            _ => good(it, b"one", "\"2\""),
        });
        let texts = [scene.text().await, scene.text().await, scene.text().await];
        assert_eq!(texts, [new("one"), same("one"), same("one")]);
        assert_eq!(scene.client.counts().unchanged, 1);
    }

    #[tokio::test]
    async fn what_was_damaged_or_lost_is_asked_for_as_if_for_the_first_time() {
        type Damage = fn(&Scene);
        let damages: [Damage; 7] = [
            |it| std::fs::write(it.path(""), "oNe").unwrap(),
            |it| std::fs::write(it.path(""), "one more").unwrap(),
            |it| std::fs::write(it.path(""), vec![0; usize::from(MAX) + 1]).unwrap(),
            |it| std::fs::remove_file(it.path("")).unwrap(),
            |it| std::fs::remove_file(it.path("json")).unwrap(),
            |it| std::fs::write(it.path("json"), "{\"url\":").unwrap(),
            |it| it.store().forget(&it.url).unwrap(),
        ];
        for damage in damages {
            let scene = Scene::new(|it| good(it, b"one", "\"1\""));
            assert_eq!(scene.text().await, new("one"));
            damage(&scene);
            assert_eq!(scene.text().await, new("one"));
            assert_eq!(scene.host.headers("if-none-match"), [None, None]);
            assert_eq!(scene.text().await, same("one"));
            assert_eq!(scene.client.counts().unchanged, 1);
        }
    }

    #[tokio::test]
    async fn what_stands_beside_a_document_stays_readable() {
        let mut scene = Scene::new(|it| good(it, b"one", "\"1\"").with(DATE));
        scene.url.set_username("me").unwrap();
        scene.url.set_password(Some("secret")).unwrap();
        assert_eq!(scene.text().await, new("one"));
        let sent = Some("Basic bWU6c2VjcmV0".to_string());
        assert_eq!(scene.host.headers("authorization"), [sent]);
        let beside = std::fs::read_to_string(scene.path("json")).unwrap();
        let expected = r#"{"url":"URL","sha256":"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed","etag":"\"1\"","last_modified":"Thu, 01 Jan 1970 00:00:00 GMT"}"#;
        let url = scene.host.url("dists/SUMS");
        assert_eq!(beside.replace(url.as_str(), "URL"), expected);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(scene.folder.path().join("documents")).unwrap() {
            names.push(entry.unwrap().path());
        }
        names.sort();
        assert_eq!(names, [scene.path(""), scene.path("json")]);
    }

    #[tokio::test]
    async fn a_document_that_a_host_does_not_have_is_none() {
        let scene = Scene::new(|it| match it.number {
            0 => Answer::new("404 Not Found", &["Content-Type: text/html"], "<html>"),
            1 => Answer::new("410 Gone", &[], ""),
            _ => Answer::new("403 Forbidden", &[], ""),
        });
        assert_eq!(scene.text().await, None);
        assert_eq!(scene.text().await, None);
        let said = "getting http://127.0.0.1:PORT/dists/SUMS: 403 Forbidden";
        assert_eq!(scene.said().await, said);
    }

    #[tokio::test]
    async fn what_is_no_document_is_told_and_not_kept() {
        let long = vec![b'x'; usize::from(MAX) + 1];
        let few = vec![b'x'; usize::from(MAX)];
        let page = "<html><title>Log in</title>";
        for (answer, said) in [
            (
                Answer::new("200 OK", &[], &long),
                "has 1001 B; expected 1000 B at most",
            ),
            (
                Answer::new("200 OK", &["Content-Length: 1125899906842624"], "x"),
                "has 1.0 PiB; expected 1000 B at most",
            ),
            (
                Answer::chunked("200 OK", &[], &long),
                "has more than 1000 B; expected 1000 B at most",
            ),
            (
                Answer::endless("200 OK", &[], &long),
                "has more than 1000 B; expected 1000 B at most",
            ),
            (
                Answer::new("200 OK", &[], &few).cut(999),
                "the connection was closed in the middle of the answer, 5 times",
            ),
            (
                Answer::new("200 OK", &[], &few).reset(999),
                "Connection reset by peer, 5 times",
            ),
            (
                Answer::new("502 Bad Gateway", &[], &few),
                "502 Bad Gateway, 5 times",
            ),
            (Answer::new("304 Not Modified", &[], ""), "304 Not Modified"),
            (
                Answer::new("206 Partial Content", &[], "x"),
                "206 Partial Content",
            ),
            (
                Answer::new("200 OK", &[], page),
                "is an HTML page (\"Log in\"): is there a captive portal or a proxy in between?",
            ),
            (
                Answer::new("200 OK", &["Content-Type: Text/HTML"], "x"),
                "is an HTML page: is there a captive portal or a proxy in between?",
            ),
        ] {
            let scene = Scene::new(move |_| answer.clone());
            let said = format!("getting http://127.0.0.1:PORT/dists/SUMS: {said}");
            assert_eq!(scene.said().await, said);
            assert!(!scene.path("").exists() && !scene.path("json").exists());
        }
        let scene = Scene::new(move |_| Answer::new("200 OK", &[], &few));
        assert_eq!(scene.get().await.unwrap().unwrap().bytes.len(), 1_000);
    }

    #[tokio::test]
    async fn a_break_of_the_network_leaves_the_document_before() {
        let scene = Scene::new(|it| match it.number {
            1..6 => Answer::new("200 OK", &[], "two").cut(1),
            _ => good(it, b"one", "\"1\""),
        });
        assert_eq!(scene.text().await, new("one"));
        assert!(scene.get().await.is_err());
        assert_eq!(scene.text().await, same("one"));
        assert_eq!(scene.client.counts().unchanged, 1);
    }

    #[tokio::test]
    async fn a_document_says_where_it_came_from_and_its_neighbours_are_asked_for_with_its_login() {
        let other = Host::begin(|it| good(it, b"one", "\"1\""));
        let to = format!("Location: {}", other.url("mirror/SUMS"));
        let mut scene = Scene::new(move |it| match it.path() {
            "/dists/SUMS" => Answer::new("302 Found", &["Location: /a/SUMS?b#c"], ""),
            _ => Answer::new("307 Temporary Redirect", &[&to], ""),
        });
        let document = scene.get().await.unwrap().unwrap();
        assert_eq!(document.url, other.url("mirror/SUMS"));
        let paths: Vec<_> = scene
            .host
            .asked()
            .iter()
            .map(|it| it.path().to_string())
            .collect();
        assert_eq!(paths, ["/dists/SUMS", "/a/SUMS?b"]);
        assert_eq!(scene.client.counts().requests, 3);
        assert!(scene.get().await.unwrap().unwrap().is_same);
        // The other host is not told who asks.
        scene.url.set_username("me").unwrap();
        let document = scene.get().await.unwrap().unwrap();
        assert_eq!(document.url, other.url("mirror/SUMS"));
        assert_eq!(other.headers("authorization"), [None, None, None]);
        let asked = scene.host.headers("authorization");
        assert_eq!(asked.iter().flatten().count(), 2);
    }
}
