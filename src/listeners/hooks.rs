//! Hooks: the admin's programs, run after an outcome.
//!
//! Each hook has a task of its own and runs one program at a time, in order, with what happened in
//! its environment and on its standard input. Nobody waits for it but the daemon's end, and that
//! not for long.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::BufReader;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::log::MessageId;
use crate::publisher::News;
use crate::settings::{Hook, Settings};
use crate::spool::Outcome;
use crate::words::Target;

/// The variables of the daemon's own environment that a program gets.
const INHERITED: &[&str] = &["PATH", "LANG", "TZ", "HOME"];

/// How long a program that ran out of time has to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// How long a running program may go on when the daemon ends.
const LAST: Duration = Duration::from_secs(5);

/// How long a program's output is read after the program's end: something that the program has left
/// running may hold the output open for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// A longer line of a program's output is logged in pieces, in bytes.
const MAX_LINE: u64 = 2_000;

/// Of one run so many lines are logged; further lines are counted.
const MAX_LINES: usize = 1_000;

/// Runs the hooks that are set, until the news end; then those that are still to run.
///
/// When `stop` comes, what is running has a few seconds left, and the rest does not run any more.
///
/// # Errors
/// When a hook's task panicked.
pub(crate) async fn run_hooks(
    mut settings: watch::Receiver<Arc<Settings>>,
    mut news: UnboundedReceiver<Arc<News>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let mut begin = |settings: &Settings| -> Vec<_> {
        let begin = |hook: &Hook| {
            let (queue, news) = unbounded_channel();
            let (hook, tree, stop) = (hook.clone(), settings.tree.path.clone(), stop.clone());
            tasks.spawn(HookTask { hook, tree, stop }.run(news));
            queue
        };
        settings.hooks.iter().map(begin).collect()
    };
    let mut current = Arc::clone(&settings.borrow_and_update());
    let mut queues = begin(&current);
    loop {
        tokio::select! {
            told = news.recv() => match told {
                Some(told) => for queue in &queues {
                    // A hook's task takes news until its queue is closed.
                    let _ = queue.send(Arc::clone(&told));
                },
                None => break,
            },
            Ok(()) = settings.changed() => {
                let wanted = Arc::clone(&settings.borrow_and_update());
                if wanted.hooks != current.hooks {
                    // The old hooks' tasks still do what they have to do.
                    queues = begin(&wanted);
                }
                current = wanted;
            }
        }
    }
    drop(queues);
    while let Some(ended) = tasks.join_next().await {
        ended.context("a hook's task broke off")?;
    }
    Ok(())
}

/// The task of one hook: its program runs once for each outcome, never twice at a time.
struct HookTask {
    hook: Hook,
    tree: PathBuf,
    stop: CancellationToken,
}

impl HookTask {
    /// Runs the program for each outcome that the hook is for, one after the other.
    async fn run(self, mut news: UnboundedReceiver<Arc<News>>) {
        let program = &self.hook.command[0];
        let is_wanted = |told: &Arc<News>| self.hook.on.contains(&told.outcome.verdict);
        while let Some(told) = news.recv().await {
            if !is_wanted(&told) {
                continue;
            }
            if self.stop.is_cancelled() {
                let rest = std::iter::from_fn(|| news.try_recv().ok());
                let count = 1 + rest.filter(is_wanted).count();
                tracing::warn!(hook = ?program, "not run for {count} outcomes: the daemon ends");
                return;
            }
            if let Err(why) = self.run_for(&told.outcome).await {
                let target = told.outcome.target.as_ref().map(tracing::field::display);
                let (message_id, drop) = (MessageId::HookFailed, &told.outcome.drop);
                tracing::warn!(%message_id, hook = ?program, target, drop, "hook failed: {why}");
            }
        }
    }

    /// Runs the program to its end, with the outcome on its standard input.
    ///
    /// # Errors
    /// Why it failed, for the log.
    async fn run_for(&self, outcome: &Outcome) -> Result<(), String> {
        let inherited = INHERITED.iter().map(|name| (name, std::env::var_os(name)));
        let inherited = inherited.filter_map(|(name, value)| Some((name, value?)));
        let mut child = Command::new(&self.hook.command[0])
            .args(&self.hook.command[1..])
            .env_clear()
            .envs(inherited)
            .envs(environment(outcome, &self.tree))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // In a process group of its own: all that the program starts can be ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it can't be started: {error}"))?;
        let (stdin, text) = (child.stdin.take(), outcome.to_json());
        let tell = async move {
            if let Some(mut stdin) = stdin {
                // A program that doesn't read its input doesn't want to know.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let drop = &outcome.drop;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let talk = async { tokio::join!(tell, self.log(stdout, drop), self.log(stderr, drop)) };
        let mut talk = std::pin::pin!(talk);
        let mut ended = std::pin::pin!(self.wait(&mut child));
        tokio::select! {
            ended = &mut ended => {
                let _ = timeout(DRAIN, talk).await;
                ended
            }
            _ = &mut talk => ended.await,
        }
    }

    /// Waits for the end of the program, and ends it when its time is over.
    async fn wait(&self, child: &mut Child) -> Result<(), String> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id.and_then(Pid::from_raw);
        let stopped = async {
            self.stop.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            biased;
            status = child.wait() => return match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(status.to_string()),
                Err(error) => Err(format!("waiting for it: {error}")),
            },
            () = sleep(self.hook.timeout) => {}
            () = stopped => {}
        }
        let why = if self.stop.is_cancelled() {
            "the daemon ends, and so it was ended".to_string()
        } else {
            let limit = humantime::format_duration(self.hook.timeout);
            format!("it ran longer than {limit} and was ended")
        };
        // The group may have gone by now.
        let end = |signal| group.map(|group| kill_process_group(group, signal));
        end(Signal::TERM);
        let _ = timeout(GRACE, child.wait()).await;
        // This also ends what the program has started and what ignores SIGTERM.
        end(Signal::KILL);
        let _ = child.wait().await;
        Err(why)
    }

    /// Logs what the program writes of a drop, line by line.
    async fn log(&self, output: Option<impl AsyncRead + Unpin>, drop: &str) {
        let Some(output) = output else { return };
        let mut output = BufReader::new(output);
        let (mut line, mut count) = (Vec::new(), 0);
        while let Ok(1..) = (&mut output)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            count += 1;
            if count <= MAX_LINES {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches(['\n', '\r']).escape_debug();
                tracing::info!(hook = ?self.hook.command[0], drop, "says: {text}");
            }
            line.clear();
        }
        if count > MAX_LINES {
            let more = count - MAX_LINES;
            tracing::info!(hook = ?self.hook.command[0], "says {more} more lines");
        }
    }
}

/// The outcome as variables. What is not known is empty.
fn environment(outcome: &Outcome, tree: &Path) -> [(&'static str, String); 12] {
    fn text(value: Option<impl ToString>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let (target, image) = (outcome.target.as_ref(), outcome.image.as_ref());
    let [arch, subarch, release] = target.map_or([""; 3], Target::folders);
    let generation = image.and_then(|image| image.generation.as_ref());
    [
        ("NETBOOT_OUTCOME", outcome.verdict.to_string()),
        ("NETBOOT_REASON", text(outcome.reason)),
        ("NETBOOT_DROP", outcome.drop.clone()),
        ("NETBOOT_IMPORTER", outcome.importer.name.clone()),
        ("NETBOOT_TREE", tree.display().to_string()),
        ("NETBOOT_TARGET", text(target)),
        ("NETBOOT_ARCH", arch.to_string()),
        ("NETBOOT_SUBARCH", subarch.to_string()),
        ("NETBOOT_RELEASE", release.to_string()),
        ("NETBOOT_PURPOSE", text(target.map(Target::purpose))),
        ("NETBOOT_GENERATION", text(generation)),
        ("NETBOOT_DIGEST", text(image.map(|image| image.digest))),
    ]
}
