//! What became of drops, for whoever wants to know: hooks, boot configurations, metrics.
//!
//! The publisher tells it and waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::outcome::Outcome;

/// What became of one drop.
#[derive(Debug)]
pub struct News {
    pub outcome: Outcome,
    /// From the claim to the outcome.
    pub took: Duration,
}

/// Everybody who wants to know. A listener that falls behind keeps what it has not taken yet in
/// memory.
#[derive(Debug, Default)]
pub struct Listeners(Vec<UnboundedSender<Arc<News>>>);

impl Listeners {
    /// One more listener. It hears of whatever is told from now on, in order, until the publisher
    /// ends.
    pub fn add(&mut self) -> UnboundedReceiver<Arc<News>> {
        let (tell, listen) = unbounded_channel();
        self.0.push(tell);
        listen
    }

    pub fn tell(&self, news: News) {
        let news = Arc::new(news);
        for listener in &self.0 {
            // One that has ended wants to know nothing any more.
            let _ = listener.send(Arc::clone(&news));
        }
    }
}
