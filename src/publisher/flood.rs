//! Rejections of an importer who drops more than anybody reads: the first ones have a line each in
//! the log, and the rest one line in sum. So the log of others isn't rotated out. Every drop has its
//! outcome, and counts in the metrics, all the same.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::MessageId;
use crate::spool::Outcome;
use crate::text::counted;
use crate::words::Reason;

/// So many rejections of an importer have a line each, and so many more each [`WINDOW`]: what goes
/// wrong now and then is told in full.
const SINGLY: usize = 20;
const MORE: usize = 5;

/// So often the rest is summed.
const WINDOW: Duration = Duration::from_secs(60);

/// So many reasons are named, the commonest first.
const REASONS: usize = 3;

/// What is wrong with a drop is shown up to this, in bytes: a manifest can have twenty errors, each
/// with a long line. The outcome has it whole.
const MAX_DETAIL: usize = 4_000;

/// The detail of a rejection, as the log shows it.
pub(super) fn cut(detail: &str) -> Cow<'_, str> {
    let mut ends = (0..=MAX_DETAIL).rev();
    let end = ends.find(|end| detail.is_char_boundary(*end)).unwrap_or(0);
    if detail.len() <= MAX_DETAIL {
        return detail.into();
    }
    format!("{}… more in the outcome", &detail[..end]).into()
}

/// The rejections of each importer, by the number of the user.
#[derive(Debug, Default)]
pub(super) struct Floods(HashMap<u32, Flood>);

#[derive(Debug)]
struct Flood {
    /// So many may still have a line each.
    left: usize,
    /// When the rest is summed.
    until: Instant,
    rest: Sum,
}

/// What had no line of its own.
#[derive(Debug)]
struct Sum {
    importer: String,
    since: Instant,
    reasons: Vec<(Reason, usize)>,
}

impl Floods {
    /// Whether an outcome has a line of its own. One that hasn't is summed.
    pub(super) fn admits(&mut self, outcome: &Outcome) -> bool {
        let Some(reason) = outcome.reason else {
            return true;
        };
        let (importer, now) = (&outcome.importer, Instant::now());
        let flood = self.0.entry(importer.uid).or_insert_with(|| Flood {
            left: SINGLY,
            until: now + WINDOW,
            rest: Sum {
                importer: importer.name.clone(),
                since: now,
                reasons: Vec::new(),
            },
        });
        let is_admitted = flood.left > 0;
        if is_admitted {
            flood.left -= 1;
        } else {
            flood.rest.add(reason);
        }
        is_admitted
    }

    /// Tells what is to be summed by now.
    pub(super) fn tell_due(&mut self) {
        let now = Instant::now();
        for flood in self.0.values_mut() {
            if flood.until <= now {
                flood.rest.tell();
                flood.left += MORE;
                flood.until = now + WINDOW;
            }
        }
        self.0.retain(|_, flood| flood.left < SINGLY);
    }

    /// When there is something to sum.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|flood| flood.until).min()
    }
}

/// At the daemon's end, however it comes, what was not summed yet is told.
impl Drop for Floods {
    fn drop(&mut self) {
        self.0.values_mut().for_each(|flood| flood.rest.tell());
    }
}

impl Sum {
    fn add(&mut self, reason: Reason) {
        if self.reasons.is_empty() {
            self.since = Instant::now();
        }
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.reasons.push((reason, 1)),
        }
    }

    /// Says how many there were, if there were any, and begins anew.
    fn tell(&mut self) {
        if self.reasons.is_empty() {
            return;
        }
        let (message_id, importer) = (MessageId::RejectedMany, &self.importer);
        tracing::warn!(%message_id, outcome = "rejected", importer, "{self}");
        self.reasons.clear();
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons = self.reasons.clone();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let count = |reasons: &[(_, usize)]| reasons.iter().map(|(_, count)| count).sum::<usize>();
        let (all, within) = (count(&reasons), self.since.elapsed().as_secs().max(1));
        let within = humantime::format_duration(Duration::from_secs(within));
        let (shown, others) = reasons.split_at(reasons.len().min(REASONS));
        let shown = shown
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"));
        let others = (!others.is_empty()).then(|| format!("others {}", count(others)));
        let list: Vec<_> = shown.chain(others).collect();
        write!(
            f,
            "rejected {} within {within}: {}; each has its outcome",
            counted(all, "more drop"),
            list.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Moment, Verdict};

    fn outcome(uid: u32, reason: Option<Reason>) -> Outcome {
        Outcome {
            format: Outcome::FORMAT,
            drop: "drop".to_string(),
            claim: ClaimId::new(1, 2),
            target: None,
            verdict: reason.map_or(Verdict::Published, |_| Verdict::Rejected),
            reason,
            detail: None,
            image: None,
            importer: Importer::of(uid),
            vouched: crate::words::Vouched::default(),
            received_at: Moment::now(),
            finished_at: Moment::now(),
        }
    }

    /// How many of so many rejections have a line each.
    fn admitted(floods: &mut Floods, uid: u32, count: usize) -> usize {
        let outcome = outcome(uid, Some(Reason::Incomplete));
        (0..count).filter(|_| floods.admits(&outcome)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_have_a_line_each_and_the_rest_one_a_minute() {
        let mut floods = Floods::default();
        assert_eq!(admitted(&mut floods, 1, 2_000), SINGLY);
        assert_eq!(admitted(&mut floods, 2, 2), 2, "another importer's");
        floods.tell_due();
        assert_eq!(floods.0[&1].rest.reasons, [(Reason::Incomplete, 1_980)]);
        for _ in 0..3 {
            tokio::time::sleep_until(floods.next().unwrap()).await;
            floods.tell_due();
            assert_eq!(floods.0[&1].rest.reasons, []);
            assert_eq!(admitted(&mut floods, 1, 2_000), MORE, "the flood goes on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_flood_is_over_nothing_of_it_is_left() {
        let mut floods = Floods::default();
        admitted(&mut floods, 1, 2_000);
        while let Some(next) = floods.next() {
            tokio::time::sleep_until(next).await;
            floods.tell_due();
        }
        assert_eq!(admitted(&mut floods, 1, 2_000), SINGLY);
    }

    #[tokio::test(start_paused = true)]
    async fn every_publication_has_its_line() {
        let mut floods = Floods::default();
        let published = outcome(1, None);
        assert!((0..2_000).all(|_| floods.admits(&published)));
        assert_eq!(floods.next(), None);
    }

    #[test]
    fn a_long_detail_is_cut_and_points_to_the_outcome() {
        let whole = "ü".repeat(MAX_DETAIL / 2);
        assert_eq!(cut(&whole), whole);
        let long = format!("x{}", "ü".repeat(MAX_DETAIL));
        let shown = cut(&long);
        assert!(shown.ends_with("ü… more in the outcome"), "{shown}");
        assert!((MAX_DETAIL..MAX_DETAIL + 100).contains(&shown.len()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sum_names_the_commonest_reasons_first() {
        let mut floods = Floods::default();
        admitted(&mut floods, 1, SINGLY);
        let reasons = [
            (Reason::TooDeep, 1),
            (Reason::BadManifest, 30),
            (Reason::TooLarge, 2),
            (Reason::Incomplete, 400),
            (Reason::Conflict, 1),
        ];
        for (reason, count) in reasons {
            let outcome = outcome(1, Some(reason));
            assert!((0..count).all(|_| !floods.admits(&outcome)));
        }
        tokio::time::advance(Duration::from_secs(7)).await;
        let expected = "rejected 434 more drops within 7s: incomplete 400, bad-manifest 30, \
                        too-large 2, others 2; each has its outcome";
        assert_eq!(floods.0[&1].rest.to_string(), expected);
    }
}
