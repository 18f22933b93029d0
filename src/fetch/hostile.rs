//! A host for tests, which speaks raw bytes: it lies, and breaks off, as a test says.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use reqwest::Url;
use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::client::provide_tls;
use crate::words::Digest;

/// One request, as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// How many came before it.
    pub(super) number: usize,
    lines: Vec<String>,
}

impl Asked {
    pub(super) fn path(&self) -> &str {
        self.lines[0].split(' ').nth(1).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.lines.iter().filter_map(|line| line.split_once(": "));
        let found = headers.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// The first byte that is asked for.
    pub(super) fn first(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        Some(range.strip_suffix('-').unwrap().parse().unwrap())
    }
}

/// What goes over the wire, and how the connection ends then.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    head: String,
    body: Vec<u8>,
    is_reset: bool,
}

impl Answer {
    /// A whole answer. A header of the body's length is there unless there is one among these.
    pub(super) fn new(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        let has_length = ["Content-Length", "Transfer-Encoding"];
        if !headers
            .iter()
            .any(|it| has_length.iter().any(|length| it.starts_with(length)))
        {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        for header in headers {
            head += header;
            head += "\r\n";
        }
        Self {
            head,
            body,
            is_reset: false,
        }
    }

    /// With one more header.
    pub(super) fn with(mut self, header: &str) -> Self {
        self.head += header;
        self.head += "\r\n";
        self
    }

    /// The connection is closed after so many bytes of the body.
    pub(super) fn cut(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    /// The connection is reset after so many bytes of the body.
    pub(super) fn reset(self, bytes: usize) -> Self {
        Self {
            is_reset: true,
            ..self.cut(bytes)
        }
    }

    /// Without its length: it ends with the connection.
    pub(super) fn endless(status: &str, headers: &[&str], body: &[u8]) -> Self {
        let mut answer = Self::new(status, &["Content-Length: -"], body);
        answer.head = answer.head.replace("Content-Length: -\r\n", "");
        headers
            .iter()
            .fold(answer, |answer, header| answer.with(header))
    }

    /// As one chunk, with its end.
    pub(super) fn chunked(status: &str, headers: &[&str], body: &[u8]) -> Self {
        let headers = [headers, &["Transfer-Encoding: chunked"]].concat();
        let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
        chunk.extend_from_slice(body);
        chunk.extend_from_slice(b"\r\n0\r\n\r\n");
        Self::new(status, &headers, chunk)
    }

    fn send(&self, stream: &mut impl Write) {
        // Whoever asked may have gone.
        let _ = stream.write_all(&[self.head.as_bytes(), b"\r\n", &self.body].concat());
        let _ = stream.flush();
    }
}

/// A server on a port of its own.
pub(super) struct Host {
    url: String,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(super) fn begin(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
        Self::listen("http", None, answer)
    }

    /// By TLS, with the certificate and the key in this folder.
    pub(super) fn begin_tls(
        folder: &Path,
        answer: impl FnMut(&Asked) -> Answer + Send + 'static,
    ) -> Self {
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        provide_tls();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Self::listen("https", Some(Arc::new(config)), answer)
    }

    fn listen(
        scheme: &str,
        tls: Option<Arc<ServerConfig>>,
        mut answer: impl FnMut(&Asked) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, is_ending) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (noted, ends) = (Arc::clone(&asked), Arc::clone(&is_ending));
        let serve = move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let mut stream = stream.unwrap();
                let Some(tls) = &tls else {
                    if serve(&mut stream, &noted, &mut answer) {
                        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                    }
                    continue;
                };
                let tls = ServerConnection::new(Arc::clone(tls)).unwrap();
                let mut stream = StreamOwned::new(tls, stream);
                serve(&mut stream, &noted, &mut answer);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        };
        Self {
            url: format!("{scheme}://{address}/"),
            address,
            asked,
            is_ending,
            thread: Some(std::thread::spawn(serve)),
        }
    }

    pub(super) fn url(&self, path: &str) -> Url {
        format!("{}{path}", self.url).parse().unwrap()
    }

    /// All requests until now.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The values of a header in all requests.
    pub(super) fn headers(&self, name: &str) -> Vec<Option<String>> {
        let asked = self.asked();
        let value = |it: &Asked| it.header(name).map(str::to_string);
        asked.iter().map(value).collect()
    }

    /// The first bytes that were asked for.
    pub(super) fn firsts(&self) -> Vec<Option<usize>> {
        self.asked().iter().map(Asked::first).collect()
    }
}

/// Answers one request; whether the connection is to be reset.
fn serve(
    stream: &mut (impl Read + Write),
    noted: &Mutex<Vec<Asked>>,
    answer: &mut impl FnMut(&Asked) -> Answer,
) -> bool {
    let lines = BufReader::new(&mut *stream).lines().map_while(Result::ok);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return false;
    }
    let number = noted.lock().unwrap().len();
    let one = Asked { number, lines };
    noted.lock().unwrap().push(one.clone());
    let answer = answer(&one);
    answer.send(stream);
    answer.is_reset
}

impl Drop for Host {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// What a good host answers that has these bytes in the state `tag`.
pub(super) fn good(asked: &Asked, bytes: &[u8], tag: &str) -> Answer {
    let etag = format!("ETag: {tag}");
    if asked.header("if-none-match") == Some(tag) {
        return Answer::new("304 Not Modified", &[&etag], "");
    }
    let is_same = asked.header("if-range").is_none_or(|it| it == tag);
    let Some(first) = asked.first().filter(|_| is_same) else {
        return Answer::new("200 OK", &[&etag], bytes);
    };
    let total = bytes.len();
    if first >= total {
        let range = format!("Content-Range: bytes */{total}");
        return Answer::new("416 Range Not Satisfiable", &[&range], "");
    }
    let range = format!("Content-Range: bytes {first}-{}/{total}", total - 1);
    Answer::new("206 Partial Content", &[&etag, &range], &bytes[first..])
}

/// So many bytes in which no two places look alike.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let block = |number: usize| Digest::of(&number.to_le_bytes()).to_string().into_bytes();
    let mut bytes: Vec<_> = (0..=length / 64).flat_map(block).collect();
    bytes.truncate(length);
    bytes
}
