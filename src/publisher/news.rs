//! What became of drops, for whoever wants to know: hooks, boot configurations, metrics.
//!
//! The publisher tells it and waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::log::events;
use crate::spool::Outcome;
use crate::words::Verdict;

/// What became of one drop.
#[derive(Debug)]
pub(crate) struct News {
    pub outcome: Outcome,
    /// From the claim to the outcome.
    pub took: Duration,
}

impl News {
    /// The one line about an outcome in the log.
    pub(crate) fn log(&self) {
        let Self { outcome, took } = self;
        let Outcome {
            drop,
            target,
            importer,
            ..
        } = outcome;
        let target = target.as_ref().map(tracing::field::display);
        let importer = &importer.name;
        let verdict = outcome.outcome;
        let message_id = match verdict {
            Verdict::Published => events::PUBLISHED,
            Verdict::Unchanged => events::UNCHANGED,
            Verdict::Withdrawn => events::WITHDRAWN,
            Verdict::Rejected => events::REJECTED,
        };
        let duration_usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match &outcome.image {
            Some(image) => {
                let generation = image.generation.as_ref().map(tracing::field::display);
                tracing::info!(
                    message_id,
                    outcome = %verdict,
                    target,
                    generation,
                    digest = %image.digest,
                    drop,
                    importer,
                    files = image.files,
                    bytes = image.bytes,
                    duration_usec,
                    "{verdict}"
                );
            }
            None => {
                let reason = outcome.reason.map(tracing::field::display);
                let detail = outcome.detail.as_deref().unwrap_or_default();
                // An excerpt of a manifest has lines of its own.
                let gap = if detail.contains('\n') { "\n" } else { " " };
                tracing::warn!(
                    message_id,
                    outcome = %verdict,
                    target,
                    reason,
                    drop,
                    importer,
                    duration_usec,
                    "rejected:{gap}{detail}"
                );
            }
        }
    }
}

/// Everybody who wants to know. A listener that falls behind keeps what it has not taken yet in
/// memory.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Vec<UnboundedSender<Arc<News>>>);

impl Listeners {
    /// One more listener. It hears of whatever is told from now on, in order, until the publisher
    /// ends.
    pub(crate) fn add(&mut self) -> UnboundedReceiver<Arc<News>> {
        let (tell, listen) = unbounded_channel();
        self.0.push(tell);
        listen
    }

    pub(crate) fn tell(&self, news: News) {
        let news = Arc::new(news);
        for listener in &self.0 {
            // One that has ended wants to know nothing any more.
            let _ = listener.send(Arc::clone(&news));
        }
    }
}
