//! The task that keeps the catalog, the boot configurations and the aliases up to date.
//!
//! The task learns of a change after the swap, and nobody waits for the task. Changes that come
//! while it renders, or rests after that, are rendered together; the last state always is.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::render::{BootConfigs, Rendered, Why};
use crate::log::MessageId;
use crate::publisher::News;
use crate::settings::Settings;
use crate::text::counted;
use crate::tree::Changes;
use crate::words::{Target, Verdict};

/// After a rendering the task rests for so many times as long as that took, but no shorter and no
/// longer than this: publishing comes first.
const REST: u32 = 3;
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Renders whenever something was published or withdrawn, or the settings have changed, until the
/// publisher ends. What could not be rendered is tried again at the next change, and as often as the
/// spool is looked at. `failing` counts the renderings that went wrong, and the files that are not up
/// to date since the last one.
///
/// # Errors
/// When a rendering panicked; when not all went well the last time.
pub(super) async fn render_boot_configs(
    boot_configs: BootConfigs,
    mut news: UnboundedReceiver<Arc<News>>,
    mut settings: watch::Receiver<Arc<Settings>>,
    failing: watch::Sender<(u64, usize)>,
) -> anyhow::Result<()> {
    let mut boot_configs = Arc::new(boot_configs);
    let mut said = Said::default();
    // What happened before the start is not known.
    let mut changes = Changes::All;
    let mut is_over = false;
    let missing = loop {
        let began = Instant::now();
        let shared = Arc::clone(&boot_configs);
        let rendering = tokio::task::spawn_blocking(move || shared.render(&changes));
        let rendered = rendering.await.context("a rendering broke off")?;
        let took = began.elapsed();
        let is_whole = rendered.troubles.is_empty();
        let missing = Missing::of(&rendered);
        failing.send_modify(|(failed, files)| {
            *failed += u64::from(!is_whole);
            *files = rendered.troubles.len();
        });
        said.say(rendered, took);
        if is_over {
            break missing;
        }
        let rested = Instant::now() + (took * REST).clamp(SHORTEST_REST, LONGEST_REST);
        let retry_interval = settings.borrow().spool.rescan_interval;
        let retry = (!is_whole).then(|| Instant::now() + retry_interval);
        tokio::select! {
            biased;
            Ok(()) = settings.changed() => {
                boot_configs = Arc::new(boot_configs.with(&settings.borrow_and_update()));
                changes = Changes::All;
            }
            (changed, has_ended) = gather(&mut news, rested, retry) => {
                if has_ended && changed.is_empty() {
                    break missing;
                }
                is_over = has_ended;
                changes = if is_whole { Changes::Of(changed) } else { Changes::All };
            }
        }
    };
    missing.check()
}

/// How many outputs, the catalog among them, and aliases are not as they should be.
struct Missing {
    outputs: usize,
    aliases: usize,
}

impl Missing {
    fn of(rendered: &Rendered) -> Self {
        let whys = rendered.troubles.iter().map(|(_, why)| why);
        // A damaged image is the tree's trouble: `verify` tells of it.
        let missing = whys.filter(|why| !matches!(why, Why::Image(_)));
        let (aliases, outputs): (Vec<_>, Vec<_>) =
            missing.partition(|why| matches!(why, Why::Alias(_)));
        Self {
            outputs: outputs.len(),
            aliases: aliases.len(),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let outputs = counted(self.outputs, "output");
        anyhow::ensure!(self.outputs == 0, "{outputs} could not be rendered");
        let aliases = counted(self.aliases, "alias");
        anyhow::ensure!(self.aliases == 0, "{aliases} could not be kept");
        Ok(())
    }
}

/// Waits until something has changed and the rest is over, until it is time to try again, or until
/// the publisher has ended. Returns the targets that have changed, and whether it has ended.
async fn gather(
    news: &mut UnboundedReceiver<Arc<News>>,
    rested: Instant,
    retry: Option<Instant>,
) -> (BTreeSet<Target>, bool) {
    let mut changed = BTreeSet::new();
    loop {
        let until = if changed.is_empty() {
            retry
        } else {
            Some(rested)
        };
        tokio::select! {
            biased;
            told = news.recv() => match told {
                Some(told) => changed.extend(changed_by(&told)),
                None => return (changed, true),
            },
            () = sleep_until(until.unwrap_or(rested)), if until.is_some() => {
                return (changed, false);
            }
        }
    }
}

/// The target of which another image is current than before.
fn changed_by(news: &News) -> Option<Target> {
    match news.outcome.verdict {
        Verdict::Published | Verdict::RolledBack | Verdict::Withdrawn | Verdict::Promoted => {
            news.outcome.target.clone()
        }
        Verdict::Unchanged | Verdict::Rejected => None,
    }
}

/// The warnings that were logged last for each output, for the catalog and for each alias: nobody wants
/// to read the same one again after each change.
#[derive(Default)]
struct Said {
    troubles: HashMap<(&'static str, PathBuf), String>,
    left_out: HashMap<PathBuf, String>,
}

impl Said {
    fn say(&mut self, rendered: Rendered, took: Duration) {
        let (images, replaced, troubles) = (rendered.images, rendered.replaced, rendered.troubles);
        tracing::debug!(images, replaced, ?took, "rendered");
        for output in rendered.given_up {
            tracing::info!("no boot configuration has the output {output:?} any more, it stays");
        }
        let mut said = HashMap::with_capacity(troubles.len());
        for (about, why) in troubles {
            let text = why.to_string();
            let (message_id, doing, rest) = match &why {
                Why::Alias(_) => (MessageId::AliasFailed, "alias", "leaving that alone"),
                _ => (
                    MessageId::BootConfigFailed,
                    "rendering",
                    "keeping what was there before",
                ),
            };
            let about = (doing, about);
            if self.troubles.get(&about) != Some(&text) {
                let gap = if text.contains('\n') { "\n" } else { "; " };
                let said = format!("{doing} {:?}: {text}{gap}{rest}", about.1);
                if why.is_for_admin() {
                    tracing::error!(%message_id, "{said}");
                } else {
                    tracing::warn!(%message_id, "{said}");
                }
            }
            said.insert(about, text);
        }
        let before = self.troubles.keys();
        for about in before.filter(|about| !said.contains_key(*about)) {
            tracing::info!("{} {:?}: good again", about.0, about.1);
        }
        self.troubles = said;
        let left_out: HashMap<_, _> = rendered.left_out.into_iter().collect();
        for (about, text) in &left_out {
            if self.left_out.get(about) != Some(text) {
                tracing::warn!("rendering {about:?}: {text}");
            }
        }
        self.left_out = left_out;
    }
}
