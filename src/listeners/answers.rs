//! Whoever asks what waits, and why: `status`, `show`, and commands that wait for an outcome.
//!
//! One line comes in: the name of a drop, or an empty one for all. One JSON document goes out. Root
//! and the daemon's own user see every drop, another user its own, and how many there are of others.
//! Nothing of the publisher waits for any of this, and whoever asks has a share of it.

use std::collections::HashMap;
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

/// So many are answered at a time; others wait for one of them. Of one user who may not see all, so
/// many, and no further one.
const MAX_ASKING: usize = 8;
const MAX_OF_ONE: usize = 2;

/// Who neither asks nor reads for so long is no longer answered, nor whoever takes so long in all.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(10);

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
    let (mut asking, mut places) = (JoinSet::new(), HashMap::new());
    loop {
        tokio::select! {
            () = answers.inquiry.closed() => return Ok(()),
            Some(left) = asking.join_next() => {
                if let Some(count) = left.ok().and_then(|user| places.get_mut(&user)) {
                    *count -= 1;
                }
                places.retain(|_, count| *count > 0);
            }
            accepted = listener.accept(), if asking.len() < MAX_ASKING => match accepted {
                Ok((stream, _)) => {
                    let Some(user) = enter(&mut places, &stream) else {
                        continue;
                    };
                    let answers = Arc::clone(&answers);
                    asking.spawn(async move {
                        let _ = timeout(LONGEST, answers.serve(stream, user)).await;
                        user
                    });
                }
                Err(error) => {
                    tracing::debug!("letting in who asks: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn sees_all(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// The user who asks, if there is a place for one more of that.
fn enter(places: &mut HashMap<u32, usize>, stream: &UnixStream) -> Option<u32> {
    let user = stream.peer_cred().ok()?.uid();
    let count = places.entry(user).or_default();
    let has_place = sees_all(user) || *count < MAX_OF_ONE;
    *count += usize::from(has_place);
    has_place.then_some(user)
}

impl Answers {
    /// Reads a question and writes the answer. Who asks in another way is not answered.
    async fn serve(&self, mut stream: UnixStream, user: u32) -> Option<()> {
        let mut question = String::new();
        let mut reader = BufReader::new(&mut stream).take(MAX_QUESTION);
        let read = timeout(PATIENCE, reader.read_line(&mut question)).await;
        read.ok()?.ok()?;
        let wanted = question.strip_suffix('\n')?;
        let all = self.look().await?;
        let is_own = |drop: &&Waiting| sees_all(user) || drop.importer.uid == user;
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
