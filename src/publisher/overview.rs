//! Which drops are on their way, and what each waits for: put together when somebody asks, of what
//! the parts of the publisher know at the moment.

use std::collections::HashMap;
use std::sync::Arc;

use crate::spool::{Seen, WaitState, Waiting};
use crate::sys::Importer;
use crate::words::{Moment, Target};

/// Drops without an outcome, by their claim names.
#[derive(Debug, Default)]
pub(super) struct Overview(HashMap<Arc<str>, Waiting>);

impl Overview {
    /// A drop of the user `owner` is on its way. Unless more is told, others are before it, or it is
    /// being checked.
    pub(super) fn add(
        &mut self,
        claim_name: &Arc<str>,
        owner: u32,
        since: Moment,
        is_checked: bool,
    ) {
        let (state, why) = if is_checked {
            (WaitState::Checked, "checking")
        } else {
            (WaitState::Queued, "its turn")
        };
        let drop = Waiting {
            drop: claim_name.to_string(),
            target: None,
            // To look the name up may take long: whoever asks does that.
            importer: Importer {
                uid: owner,
                name: String::new(),
            },
            since,
            state,
            why: why.to_string(),
        };
        self.0.insert(Arc::clone(claim_name), drop);
    }

    /// What a drop is for.
    pub(super) fn aim(&mut self, claim_name: &str, target: &Target) {
        if let Some(drop) = self.0.get_mut(claim_name) {
            drop.target = Some(target.clone());
        }
    }

    /// What a drop waits for.
    pub(super) fn tell(&mut self, claim_name: &str, state: WaitState, why: impl Into<String>) {
        if let Some(drop) = self.0.get_mut(claim_name) {
            (drop.state, drop.why) = (state, why.into());
        }
    }

    /// What a drop waits for that is not whole.
    pub(super) fn tell_of(&mut self, seen: &Seen) {
        if let Some((state, why)) = seen.why() {
            self.tell(seen.claim_name(), state, why);
            if let Some(drop) = self.0.get_mut(&**seen.claim_name()) {
                drop.since = seen.last_change();
                drop.target = seen.aim().cloned();
            }
        }
    }

    /// All of them, those that have waited longest first.
    pub(super) fn all(self) -> Vec<Waiting> {
        let mut all: Vec<_> = self.0.into_values().collect();
        all.sort_unstable_by(|a, b| (a.since, &a.drop).cmp(&(b.since, &b.drop)));
        all
    }
}
