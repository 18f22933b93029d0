//! Why a request has not brought what was asked for, and whether asking again may help.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::time::{Duration, SystemTime};

use headers::{Date, HeaderMapExt as _};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use crate::sys::Failure;

/// Bytes of an HTML page in which its title is looked for.
const HEAD: usize = 4 << 10;

/// Characters of a title that are shown.
const MAX_TITLE: usize = 80;

/// Why a request has not brought what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What was found, and what was expected.
    pub(super) text: String,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may pass by itself. So long, at least, the host wants to be left alone.
    Passing(Duration),
    /// Asking again would bring the same.
    Lasting,
    /// The bytes that are there can't be gone on from: the whole has to be asked for.
    Range,
    /// The host has another file than the list says.
    Mismatch,
}

impl Trouble {
    pub(super) fn new(fate: Fate, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text, fate }
    }

    pub(super) fn lasting(text: impl Into<String>) -> Self {
        Self::new(Fate::Lasting, text)
    }

    /// Of a request that was not answered, or not to the end.
    pub(super) fn of_request(error: &reqwest::Error) -> Self {
        let text = said(error);
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                Self::lasting(format!("{text}{}", remedy(error)))
            }
            Some(_) if error.is_connect() => Self::lasting(text),
            _ if error.is_redirect() || error.is_builder() => Self::lasting(text),
            _ => Self::new(Fate::Passing(Duration::ZERO), text),
        }
    }

    /// Of an answer without what was asked for.
    pub(super) fn of_answer(response: &Response) -> Self {
        let status = response.status();
        let text = match status {
            StatusCode::UNAUTHORIZED => {
                format!("{status}; expected the source's `username` and `password_file` to be good")
            }
            StatusCode::NETWORK_AUTHENTICATION_REQUIRED => {
                return Self::lasting(format!("{status}: is there a captive portal in between?"));
            }
            status => status.to_string(),
        };
        let is_passing = status.is_server_error()
            || status == StatusCode::REQUEST_TIMEOUT
            || status == StatusCode::TOO_MANY_REQUESTS;
        let fate = if is_passing {
            Fate::Passing(retry_after(response).unwrap_or_default())
        } else {
            Fate::Lasting
        };
        Self::new(fate, text)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::lasting(failure.to_string())
    }
}

/// How a URL stands in messages: without login, and without what may be one.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Neither is refused where there is a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.to_string().replace("%E2%80%A6", "…")
}

/// How long the host wants to be left alone; by its own clock, where it says what that shows.
fn retry_after(response: &Response) -> Option<Duration> {
    let headers = response.headers();
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = headers.typed_get::<Date>();
    let now = now.map_or_else(SystemTime::now, SystemTime::from);
    Some(until.duration_since(now).unwrap_or_default())
}

/// What went wrong, without the wrappings.
fn said(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let what = if error.is_connect() {
            "no connection within 30 s"
        } else {
            "nothing came for 60 s"
        };
        return what.to_string();
    }
    let mut ends = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    if ends.any(|cause| cause.kind() == io::ErrorKind::UnexpectedEof) {
        return "the connection was closed in the middle of the answer".to_string();
    }
    let text = causes(error)
        .last()
        .map_or(String::new(), ToString::to_string);
    // Without the number that the standard library puts after the kernel's words.
    text.split(" (os error ")
        .next()
        .unwrap_or_default()
        .to_string()
}

/// An error and what it comes from, the last cause last.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(Some(error as &(dyn Error + 'static)), |error| {
        // An error of a socket that has another one in itself doesn't name that as its cause.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        inner.map_or_else(|| (*error).source(), |inner| Some(inner))
    })
}

/// What was expected of a host whose certificate doesn't count; nothing where that isn't the matter.
pub(super) fn remedy(error: &reqwest::Error) -> &'static str {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) if format!("{why:?}").contains("CaUsedAs") => {
            "; it is the certificate of an authority itself, which only signs others (`CA:TRUE`): expected one \
             with `CA:FALSE`"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "; expected one that the system knows, or that `ca` vouches for"
        }
        _ => "",
    }
}

/// What TLS had against the host.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Whether the host says that its answer is a page for people.
pub(super) fn says_html(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|html| kind.eq_ignore_ascii_case(html))
}

/// Whether these are the first bytes of a page for people.
pub(super) fn looks_html(bytes: &[u8]) -> bool {
    let bytes = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start();
    let begins = |with: &[u8]| {
        let start = bytes.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    begins(b"<!doctype html") || begins(b"<html")
}

/// Of a page that came from `url` in place of a file; `bytes` are its first ones.
pub(super) fn html(url: &Url, asked: &Url, bytes: &[u8]) -> Trouble {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]);
    let lower = text.to_ascii_lowercase();
    let start = lower
        .find("<title")
        .and_then(|at| Some(at + lower[at..].find('>')? + 1));
    let title = start.and_then(|start| Some(&text[start..start + lower[start..].find('<')?]));
    let title = title
        .unwrap_or("")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let title: String = title.chars().take(MAX_TITLE).collect();
    let title = match title.as_str() {
        "" => String::new(),
        title => format!(" ({title:?})"),
    };
    let place = if url.origin() == asked.origin() {
        String::new()
    } else {
        format!(" of {}", shown(url))
    };
    Trouble::lasting(format!(
        "is an HTML page{title}{place}: is there a captive portal or a proxy in between?"
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_host_that_says_nothing_may_say_something_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = reqwest::Client::builder().no_proxy();
        let client = client
            .read_timeout(Duration::from_millis(1))
            .tls_certs_only([]);
        super::super::client::provide_tls();
        let error = client.build().unwrap().get(url).send().await.unwrap_err();
        let expected = Trouble::new(Fate::Passing(Duration::ZERO), "nothing came for 60 s");
        assert_eq!(Trouble::of_request(&error), expected);
    }

    #[test]
    fn a_url_is_shown_without_what_only_its_owner_knows() {
        let url = |text: &str| shown(&text.parse().unwrap());
        assert_eq!(
            url("https://me:secret@h:8443/a%20b?c=d#e"),
            "https://h:8443/a%20b?…"
        );
        assert_eq!(url("http://h/%E2%80%A6"), "http://h/…");
    }

    #[test]
    fn a_page_is_told_by_its_title_and_by_the_host_that_it_came_from() {
        let asked: Url = "http://mirror/linux".parse().unwrap();
        let portal: Url = "http://portal/login?a=b".parse().unwrap();
        let said = |url: &Url, page: &str| html(url, &asked, page.as_bytes()).text;
        let end = ": is there a captive portal or a proxy in between?";
        let long = format!("<html><TITLE lang=x>{}", "x".repeat(10_000));
        for (page, title) in [
            ("<title>a\u{1b}[2J\n b</title>", " (\"a\\u{1b}[2J b\")"),
            ("<title></title>", ""),
            ("<title>a", ""),
            ("<title", ""),
            (long.as_str(), ""),
        ] {
            assert_eq!(said(&asked, page), format!("is an HTML page{title}{end}"));
        }
        let expected = format!("is an HTML page of http://portal/login?…{end}");
        assert_eq!(said(&portal, ""), expected);
        let found = ["\u{feff} \n<!doctype HTML>", "<html", "<htm", "x<html>", ""];
        assert_eq!(
            found.map(|it| looks_html(it.as_bytes())),
            [true, true, false, false, false]
        );
    }
}
