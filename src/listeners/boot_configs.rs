//! The task that keeps the catalog and the boot configurations up to date.
//!
//! It learns of a change after the swap, and nobody waits for it. Changes that come while it works,
//! or while it rests after that, are rendered together; the last state always is.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::render::{BootConfigs, Rendered, Trouble, Why};
use crate::log::MessageId;
use crate::publisher::News;
use crate::settings::Settings;
use crate::tree::Changes;
use crate::words::{Target, Verdict};

/// After a rendering it rests for so many times as long as that took: publishing comes first.
const REST: u32 = 3;
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Renders whenever something was published or withdrawn, or the settings have changed, until the
/// publisher ends. What could not be rendered is tried again at the next change, and as often as the
/// spool is looked at.
///
/// # Errors
/// When a rendering panicked; when not all went well the last time.
pub(crate) async fn render_boot_configs(
    boot_configs: BootConfigs,
    mut news: UnboundedReceiver<Arc<News>>,
    mut settings: watch::Receiver<Arc<Settings>>,
) -> anyhow::Result<()> {
    let mut boot_configs = Arc::new(boot_configs);
    let mut said = Said::default();
    // What happened before the start is not known.
    let mut changes = Changes::All;
    let mut is_over = false;
    loop {
        let began = Instant::now();
        let shared = Arc::clone(&boot_configs);
        let rendering = tokio::task::spawn_blocking(move || shared.render(&changes));
        let rendered = rendering.await.context("a rendering broke off")?;
        let took = began.elapsed();
        let is_whole = rendered.troubles.is_empty();
        // A damaged image is the tree's trouble: `verify` tells of it.
        let is_image = |trouble: &Trouble| matches!(trouble.why, Why::Image(_));
        let is_rendered = rendered.troubles.iter().all(is_image);
        said.say(rendered, took);
        if is_over {
            return end(is_rendered);
        }
        let retry_interval = settings.borrow().spool.rescan_interval;
        let rested = Instant::now() + (took * REST).clamp(SHORTEST_REST, LONGEST_REST);
        let retry = (!is_whole).then(|| Instant::now() + retry_interval);
        let changed;
        let is_reload;
        tokio::select! {
            biased;
            Ok(()) = settings.changed() => {
                let settings = settings.borrow_and_update();
                boot_configs = Arc::new(boot_configs.with(&settings));
                (changed, is_over, is_reload) = (BTreeSet::new(), false, true);
            }
            gathered = gather(&mut news, rested, retry) => {
                (changed, is_over) = gathered;
                is_reload = false;
            }
        }
        if is_over && changed.is_empty() {
            return end(is_rendered);
        }
        changes = if is_whole && !is_reload {
            Changes::Of(changed)
        } else {
            Changes::All
        };
    }
}

fn end(is_rendered: bool) -> anyhow::Result<()> {
    anyhow::ensure!(is_rendered, "not all boot configurations could be rendered");
    Ok(())
}

/// Waits until something has changed and the rest is over, until it is time to try again, or until
/// the publisher has ended: then the last is true.
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
        let time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = news.recv() => match told {
                Some(told) => changed.extend(changed_by(&told)),
                None => return (changed, true),
            },
            () = time => return (changed, false),
        }
    }
}

/// The target that is another than before.
fn changed_by(news: &News) -> Option<Target> {
    match news.outcome.verdict {
        Verdict::Published | Verdict::Withdrawn => news.outcome.target.clone(),
        Verdict::Unchanged | Verdict::Rejected => None,
    }
}

/// What was said already: nobody wants to read it again after each change.
#[derive(Default)]
struct Said(HashMap<PathBuf, String>);

impl Said {
    fn say(&mut self, rendered: Rendered, took: Duration) {
        let Rendered {
            images,
            replaced,
            troubles,
        } = rendered;
        tracing::debug!(images, replaced, ?took, "rendered");
        let mut said = HashMap::with_capacity(troubles.len());
        for trouble in troubles {
            let text = trouble.why.to_string();
            if self.0.get(&trouble.about) != Some(&text) {
                tracing::warn!(
                    message_id = %MessageId::BootConfigFailed,
                    "rendering {:?}: {text}\nwhat was there before stays in place",
                    trouble.about
                );
            }
            said.insert(trouble.about, text);
        }
        for about in self.0.keys().filter(|about| !said.contains_key(*about)) {
            tracing::info!("rendering {about:?} went well again");
        }
        self.0 = said;
    }
}
