//! Requests, and what they may take.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, ClientBuilder, Response, StatusCode, Url};

use super::Options;
#[cfg(test)]
use super::tries::Noted;
use super::tries::{Tries, Waits};
use super::trouble::{self, Trouble, shown};

const USER_AGENT: &str = concat!("netboot-import/", env!("CARGO_PKG_VERSION"));

/// `trouble::said` names both.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

const MAX_REDIRECTS: usize = 10;

/// What a client has asked for until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Bytes of files and documents that came.
    pub(crate) bytes: u64,
    /// Requests that were answered with "304 Not Modified".
    pub(crate) unchanged: u64,
}

#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    bytes: AtomicU64,
    unchanged: AtomicU64,
}

/// An HTTP client for one source.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// The source's own host, and who asks there.
    login: Option<(Url, (String, String))>,
    tally: Arc<Tally>,
    waits: Waits,
}

impl Client {
    /// What was expected of a host whose certificate doesn't count, as the end of a sentence.
    pub(crate) fn remedy(error: &reqwest::Error) -> &'static str {
        trouble::remedy(error)
    }

    /// A client for the source at `url`: who asks is told to that host only.
    ///
    /// # Errors
    /// When the certificates or the password can't be read.
    pub(crate) fn new(url: &Url, options: &Options) -> anyhow::Result<Self> {
        Self::with(true, url, options)
    }

    /// Whether it `knows` the system: its certificates, and the proxies of the environment.
    fn with(knows: bool, url: &Url, options: &Options) -> anyhow::Result<Self> {
        provide_tls();
        let tally = Arc::<Tally>::default();
        let pem = options.certificates()?;
        let own = Certificate::from_pem_bundle(&pem).ok();
        let own = own.filter(|own| !own.is_empty() || options.ca.is_none());
        let path = options.ca.clone().unwrap_or_default();
        let own = own.with_context(|| format!("reading {path:?}: expected certificates in PEM"))?;
        let builder = || builder(Arc::clone(&tally));
        let merged = knows.then(|| builder().tls_certs_merge(own.clone()).build());
        let http = match merged {
            // By HTTP all can be asked for where the system has no certificates.
            Some(Err(_)) if url.scheme() == "http" => builder().tls_certs_only(own).build(),
            None => builder().tls_certs_only(own).no_proxy().build(),
            Some(built) => built,
        };
        let http = http.with_context(|| {
            "the system has no certificates; expected those of the package ca-certificates, or a \
             file of certificates in the source's `ca`"
        })?;
        Ok(Self {
            http,
            login: options.credentials()?.map(|who| (url.clone(), who)),
            tally,
            waits: Waits::default(),
        })
    }

    /// A client that waits for nothing between tries, and what it would have waited. The system,
    /// whose certificates take 0.2 s to read in a test, is unknown to it.
    #[cfg(test)]
    pub(super) fn noting(url: &Url, options: &Options) -> (Self, Noted) {
        let noted = Noted::default();
        let mut client = Self::with(false, url, options).unwrap();
        client.waits = Waits::Noted(Arc::clone(&noted));
        (client, noted)
    }

    /// What was asked for until now, with this client and its clones.
    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            requests: read(&self.tally.requests),
            bytes: read(&self.tally.bytes),
            unchanged: read(&self.tally.unchanged),
        }
    }

    pub(super) fn tries(&self) -> Tries<'_> {
        Tries::new(&self.waits)
    }

    /// The answer to one request: its status, and what it begins with.
    pub(super) async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response, Trouble> {
        let mut request = self.http.get(url.clone()).headers(headers);
        if let Some((home, (name, password))) = &self.login
            && home.origin() == url.origin()
        {
            request = request.basic_auth(name, Some(password));
        }
        count(&self.tally.requests, 1);
        let answer = request.send().await;
        let answer = answer.map_err(|error| Trouble::of_request(&error))?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            count(&self.tally.unchanged, 1);
        }
        Ok(answer)
    }

    /// The next bytes of an answer; `None` at its end.
    pub(super) async fn next(
        &self,
        answer: &mut Response,
    ) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Trouble> {
        let next = answer.chunk().await;
        let next = next.map_err(|error| Trouble::of_request(&error))?;
        if let Some(bytes) = &next {
            count(&self.tally.bytes, bytes.len() as u64);
        }
        Ok(next)
    }
}

/// Makes `ring` the arithmetic of TLS in this process, where nothing else is yet.
pub(crate) fn provide_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn count(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn builder(tally: Arc<Tally>) -> ClientBuilder {
    // What is hashed are the bytes that upstream's list speaks of: nothing is packed on the way.
    let as_it_is = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(HeaderMap::from_iter([as_it_is]))
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(Policy::custom(move |attempt| {
            match refused(attempt.previous(), attempt.url()) {
                Some(refused) => attempt.error(refused),
                None => {
                    count(&tally.requests, 1);
                    Attempt::follow(attempt)
                }
            }
        }))
}

/// Why a redirect is not followed, if it isn't.
fn refused(previous: &[Url], next: &Url) -> Option<String> {
    let next_shown = shown(next);
    let is_https = |url: &Url| url.scheme() == "https";
    if previous.last().is_some_and(is_https) && !is_https(next) {
        return Some(format!(
            "redirects from https to {next_shown}, which anybody in between could change"
        ));
    }
    if previous.len() > MAX_REDIRECTS {
        let to = format!("the last one to {next_shown}");
        return Some(format!("redirects more than {MAX_REDIRECTS} times, {to}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::super::hostile::{Answer, Host};
    use super::*;

    /// A certificate for this machine, which nobody vouches for, and its key.
    fn certificate(folder: &Path) {
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args([
                "-subj",
                "/CN=netboot-import test",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(folder)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
    }

    async fn said(client: &Client, url: &Url) -> Result<StatusCode, String> {
        let answer = client.get(url, HeaderMap::new()).await;
        let status = answer.map(|answer| answer.status());
        status.map_err(|trouble| trouble.text)
    }

    #[tokio::test]
    async fn who_asks_is_told_to_the_own_host_only() {
        let other = Host::begin(|_| Answer::new("200 OK", &[], ""));
        let to = format!("Location: {}", other.url("x"));
        let own = Host::begin(move |it| match it.path() {
            "/away" => Answer::new("302 Found", &[&to], ""),
            "/here" => Answer::new("302 Found", &["Location: /x"], ""),
            _ => Answer::new("200 OK", &[], ""),
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "open sesame\nand a note\n").unwrap();
        let options = Options {
            ca: None,
            login: Some(("me".to_string(), path.clone())),
        };
        let (client, _) = Client::noting(&own.url("debian"), &options);
        for url in [
            own.url("x"),
            own.url("away"),
            own.url("here"),
            other.url("x"),
        ] {
            assert_eq!(said(&client, &url).await, Ok(StatusCode::OK));
        }
        let sent = Some("Basic bWU6b3BlbiBzZXNhbWU=".to_string());
        assert_eq!(own.headers("authorization"), vec![sent; 4]);
        assert_eq!(other.headers("authorization"), [None, None]);
        let agent = format!("netboot-import/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(other.headers("user-agent"), vec![Some(agent); 2]);
        let as_it_is = Some("identity".to_string());
        assert_eq!(other.headers("accept-encoding"), vec![as_it_is; 2]);
        assert_eq!(other.headers("referer"), [None, None]);

        std::fs::write(&path, "\nopen sesame").unwrap();
        let refused = Client::new(&own.url(""), &options).unwrap_err().to_string();
        let expected =
            format!("reading {path:?}: expected a password in the first line; it is empty");
        assert_eq!(refused, expected);
    }

    #[tokio::test]
    async fn redirects_are_followed_ten_times_and_to_no_other_scheme() {
        let host = Host::begin(|it| {
            let left: u32 = it.path()[1..].parse().unwrap();
            let to = format!("Location: /{}", left.saturating_sub(1));
            let status = if left == 0 { "200 OK" } else { "301 Moved" };
            Answer::new(status, &[&to], "")
        });
        let (client, _) = Client::noting(&host.url(""), &Options::default());
        assert_eq!(said(&client, &host.url("10")).await, Ok(StatusCode::OK));
        assert_eq!(client.counts().requests, 11);
        let last = host.url("0");
        let expected = format!("redirects more than 10 times, the last one to {last}");
        let refused = client.get(&host.url("11"), HeaderMap::new()).await;
        assert_eq!(refused.unwrap_err(), Trouble::lasting(expected));
        let host = Host::begin(|_| Answer::new("302 Found", &["Location: ftp://h/x"], ""));
        let refused = client.get(&host.url(""), HeaderMap::new()).await;
        let expected = Trouble::lasting("URL scheme is not allowed");
        assert_eq!(refused.unwrap_err(), expected);
    }

    #[tokio::test]
    async fn a_certificate_counts_that_the_source_names_and_https_does_not_end_in_http() {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path());
        let plain = Host::begin(|_| Answer::new("200 OK", &[], ""));
        let to = format!("Location: {}", plain.url("x?token=secret"));
        let host = Host::begin_tls(folder.path(), move |it| match it.path() {
            "/away" => Answer::new("302 Found", &[&to], ""),
            _ => Answer::new("200 OK", &[], ""),
        });
        let strange = Client::new(&host.url(""), &Options::default()).unwrap();
        let refused = strange
            .get(&host.url(""), HeaderMap::new())
            .await
            .unwrap_err();
        let expected = "invalid peer certificate: UnknownIssuer; expected one that the system \
                        knows, or that `ca` vouches for";
        assert_eq!(refused, Trouble::lasting(expected));

        let mut options = Options {
            ca: Some(folder.path().join("cert.pem")),
            login: None,
        };
        let client = Client::new(&host.url(""), &options).unwrap();
        assert_eq!(said(&client, &host.url("")).await, Ok(StatusCode::OK));
        let to = plain.url("x");
        let expected =
            format!("redirects from https to {to}?…, which anybody in between could change");
        assert_eq!(said(&client, &host.url("away")).await, Err(expected));
        assert_eq!(plain.asked().len(), 0);

        let path = folder.path().join("none.pem");
        std::fs::write(&path, "no certificate").unwrap();
        options.ca = Some(path.clone());
        let refused = Client::new(&host.url(""), &options)
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            format!("reading {path:?}: expected certificates in PEM")
        );
        std::fs::remove_file(&path).unwrap();
        let refused = Client::new(&host.url(""), &options)
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            format!("reading {path:?}: No such file or directory")
        );
    }
}
