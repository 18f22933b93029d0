//! Hooks: the admin's programs, run after an outcome.
//!
//! Each hook has a task of its own and runs one program at a time, in order, with what happened in
//! its environment and on its standard input. Nobody waits for it but the daemon's end, and that
//! not for long.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::keeper::{GRACE, KEEPER, Told};
use crate::log::MessageId;
use crate::publisher::News;
use crate::settings::{Hook, Settings};
use crate::spool::Outcome;
use crate::text::counted;
use crate::words::Target;

/// This very program, also when another version was installed meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The variables of the daemon's own environment that a program gets.
const INHERITED: &[&str] = &["PATH", "LANG", "TZ", "HOME"];

/// So many failures in a row have a line each; then every second, fourth, eighth…
const SINGLY: u32 = 16;

/// How long a running program may go on when the daemon ends.
const LAST: Duration = Duration::from_secs(5);

/// Runs the hooks that are set, until the news end; then those that are still to run.
///
/// When `stop` comes, what is running has a few seconds left, and the rest does not run any more.
///
/// # Errors
/// When a hook's task panicked.
pub(super) async fn run_hooks(
    mut settings: watch::Receiver<Arc<Settings>>,
    mut news: UnboundedReceiver<Arc<News>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let mut begin = |settings: &Settings| -> Vec<_> {
        let begin = |hook: &Hook| {
            let (queue, news) = unbounded_channel();
            let (hook, tree, stop) = (hook.clone(), absolute(&settings.tree.path), stop.clone());
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
        let mut failures = 0_u32;
        while let Some(told) = news.recv().await {
            if !is_wanted(&told) {
                continue;
            }
            if self.stop.is_cancelled() {
                let rest = std::iter::from_fn(|| news.try_recv().ok());
                let count = 1 + rest.filter(is_wanted).count();
                let count = counted(count, "outcome");
                tracing::warn!(hook = ?program, "hook not run for {count}: the daemon ends");
                return;
            }
            let Err(why) = self.run_for(&told.outcome).await else {
                failures = 0;
                continue;
            };
            failures = failures.saturating_add(1);
            if failures > SINGLY && !failures.is_power_of_two() {
                continue;
            }
            let again = (failures > SINGLY).then(|| format!(" {failures} times in a row"));
            let again = again.unwrap_or_default();
            let target = told.outcome.target.as_ref().map(tracing::field::display);
            let (message_id, drop) = (MessageId::HookFailed, &told.outcome.drop);
            tracing::warn!(%message_id, hook = ?program, target, drop, "hook failed{again}: {why}");
        }
    }

    /// Runs the program to its end, with the outcome on its standard input.
    ///
    /// # Errors
    /// Why it failed, for the log.
    async fn run_for(&self, outcome: &Outcome) -> Result<(), String> {
        let inherited = INHERITED.iter().map(|name| (name, std::env::var_os(name)));
        let inherited = inherited.filter_map(|(name, value)| Some((name, value?)));
        let mut keeper = Command::new(OWN_PROGRAM)
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(KEEPER)
            .args(&self.hook.command)
            .env_clear()
            .envs(inherited)
            .envs(environment(outcome, &self.tree))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal to the daemon's process group, Ctrl-C for one, is none to a hook.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("can't be started: {error}"))?;
        let text = outcome.to_json();
        let input = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let (mut stdin, stdout) = (keeper.stdin.take(), keeper.stdout.take());
        if let Some(stdin) = &mut stdin {
            // A keeper that has ended already tells nothing: that is what is looked at.
            let _ = stdin.write_all(&input).await;
        }
        let mut ended = std::pin::pin!(async {
            let told = self.follow(stdout, &outcome.drop).await;
            (told, keeper.wait().await)
        });
        let stopped = async {
            self.stop.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            biased;
            (told, keeper) = &mut ended => return self.judge(told, keeper, &outcome.drop),
            () = sleep(self.hook.timeout) => {}
            () = stopped => {}
        }
        let why = if self.stop.is_cancelled() {
            "ended with the daemon".to_string()
        } else {
            let limit = humantime::format_duration(self.hook.timeout);
            format!("timed out after {limit}, ended")
        };
        drop(stdin);
        // Whoever hangs in the kernel can't be ended; the daemon's own end waits for nobody.
        let hangs = async {
            self.stop.cancelled().await;
            sleep(GRACE + LAST).await;
        };
        tokio::select! {
            _ = ended => Err(why),
            () = hangs => Err(format!("{why}, but it hangs in the kernel")),
        }
    }

    /// What it means how a program, and its keeper, have ended.
    fn judge(
        &self,
        told: Option<Told>,
        keeper: io::Result<ExitStatus>,
        drop: &str,
    ) -> Result<(), String> {
        match told {
            Some(Told::Ended { status, left }) => {
                if left > 0 {
                    let left = counted(left, "process");
                    tracing::warn!(
                        message_id = %MessageId::HookFailed, hook = ?self.hook.command[0], drop,
                        "hook left {left} running, ended; start what is to go on with systemd-run"
                    );
                }
                let status = ExitStatus::from_raw(status);
                let is_good = status.success();
                is_good.then_some(()).ok_or_else(|| status.to_string())
            }
            Some(Told::NotStarted(why)) => Err(format!("can't be started: {why}")),
            _ => Err(match keeper {
                Ok(status) => format!("its keeper ended early, {status}"),
                Err(error) => format!("waiting for its keeper: {error}"),
            }),
        }
    }

    /// Logs what the program writes of a drop, line by line. Returns the last that its keeper tells.
    async fn follow(&self, told: Option<impl AsyncRead + Unpin>, drop: &str) -> Option<Told> {
        let (hook, mut last) = (&self.hook.command[0], None);
        let mut lines = BufReader::new(told?).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line).ok()? {
                Told::Says(text) => {
                    let text = text.escape_debug();
                    tracing::info!(?hook, drop, "says: {text}");
                }
                Told::SaysMore(more) => tracing::info!(?hook, "says {more} more lines"),
                told => last = Some(told),
            }
        }
        last
    }
}

/// The outcome as variables. What is not known is empty.
fn environment(outcome: &Outcome, tree: &Path) -> [(&'static str, String); 14] {
    fn text(value: Option<impl ToString>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let (target, image) = (outcome.target.as_ref(), outcome.image.as_ref());
    let vouched = &outcome.vouched;
    let [arch, subarch, release] = target.map_or([""; 3], Target::folders);
    let generation = image.and_then(|image| image.generation.as_ref());
    [
        ("NETBOOT_OUTCOME", outcome.verdict.to_string()),
        ("NETBOOT_REASON", text(outcome.reason)),
        ("NETBOOT_DROP", outcome.drop.clone()),
        ("NETBOOT_IMPORTER", outcome.importer.name.clone()),
        ("NETBOOT_RULE", text(vouched.rule.as_ref())),
        ("NETBOOT_SIGNER", text(vouched.signer.as_ref())),
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

/// A hook runs in another folder than the daemon.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
