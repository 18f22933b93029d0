//! Whoever asks what waits, and why: `status`, `show`, and commands that wait for an outcome.
//!
//! One line comes in: the name of a drop, or an empty one for all. One JSON document goes out. Root
//! and the daemon's own user see every drop, another user its own, and how many there are of others.
//! Nothing of the publisher waits for any of this, and whoever asks has a share of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::spool::Waiting;

/// So many are answered at a time; others wait for one of them.
const MAX_ASKING: usize = 8;

/// Who neither asks nor reads for so long is no longer answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the publisher has said answers everybody for so long: to put it together costs it some time.
const FRESH: Duration = Duration::from_millis(200);

/// After an error nobody is let in for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes of a question, at most.
const MAX_QUESTION: u64 = 1 << 10;

/// So many drops are written at a time: in between others have their turn.
const TOGETHER: usize = 64;

/// Asks the publisher.
pub(super) type Inquiry = mpsc::Sender<oneshot::Sender<Vec<Waiting>>>;

/// What the publisher has said last.
struct Answers {
    inquiry: Inquiry,
    last: Mutex<Option<(Instant, Arc<Vec<Waiting>>)>>,
}

/// Answers everybody who connects, until the publisher ends.
///
/// # Errors
/// When the socket is none.
pub(super) async fn answer_questions(socket: OwnedFd, inquiry: Inquiry) -> anyhow::Result<()> {
    let listener = UnixListener::from_std(socket.into()).context("listening for questions")?;
    let answers = Arc::new(Answers {
        inquiry,
        last: Mutex::default(),
    });
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            () = answers.inquiry.closed() => return Ok(()),
            Some(_) = asking.join_next() => {}
            accepted = listener.accept(), if asking.len() < MAX_ASKING => match accepted {
                Ok((stream, _)) => {
                    let answers = Arc::clone(&answers);
                    asking.spawn(async move { answers.serve(stream).await });
                }
                Err(error) => {
                    tracing::debug!("letting in who asks: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Answers {
    /// Reads a question and writes the answer. Who asks in another way is not answered.
    async fn serve(&self, mut stream: UnixStream) -> Option<()> {
        let user = stream.peer_cred().ok()?.uid();
        let mut question = String::new();
        let mut reader = BufReader::new(&mut stream).take(MAX_QUESTION);
        let read = timeout(PATIENCE, reader.read_line(&mut question)).await;
        read.ok()?.ok()?;
        let wanted = question.strip_suffix('\n')?;
        let all = self.look().await?;
        let sees_all = user == 0 || user == rustix::process::geteuid().as_raw();
        let is_own = |drop: &&Waiting| sees_all || drop.importer.uid == user;
        let is_wanted = |drop: &&Waiting| wanted.is_empty() || drop.drop == wanted;
        let others = all.iter().filter(|drop| !is_own(drop)).count();
        let shown: Vec<_> = all.iter().filter(is_own).filter(is_wanted).collect();
        let mut text = format!("{{\"others\":{others},\"waiting\":[").into_bytes();
        for (number, drops) in shown.chunks(TOGETHER).enumerate() {
            for (place, drop) in drops.iter().enumerate() {
                if number + place > 0 {
                    text.push(b',');
                }
                serde_json::to_writer(&mut text, drop).ok()?;
            }
            timeout(PATIENCE, stream.write_all(&text))
                .await
                .ok()?
                .ok()?;
            text.clear();
            tokio::task::yield_now().await;
        }
        text.extend_from_slice(b"]}\n");
        timeout(PATIENCE, stream.write_all(&text)).await.ok()?.ok()
    }

    /// What waits now, or did a moment ago.
    async fn look(&self) -> Option<Arc<Vec<Waiting>>> {
        let mut last = self.last.lock().await;
        if let Some((at, waiting)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(waiting));
        }
        let (reply, answer) = oneshot::channel();
        self.inquiry.send(reply).await.ok()?;
        let waiting = Arc::new(answer.await.ok()?);
        *last = Some((Instant::now(), Arc::clone(&waiting)));
        Some(waiting)
    }
}
