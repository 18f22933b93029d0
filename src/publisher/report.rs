//! What became of drops, and what the publisher is doing, for whoever wants to know: the log, hooks,
//! boot configurations, metrics, systemd. The publisher tells it and waits for nobody.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{mpsc, oneshot, watch};

use super::flood::{self, Floods};
use super::overview::Overview;
use crate::log::MessageId;
use crate::spool::{DropKey, Outcome, WaitState, Waiting};
use crate::sys::Progress;
use crate::text::counted;
use crate::words::{ClockSteps, Moment, Note, Target, Verdict};

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
        let outcome = &self.outcome;
        let (drop, importer, verdict) = (&outcome.drop, &outcome.importer.name, outcome.verdict);
        let target = outcome.target.as_ref().map(tracing::field::display);
        let vouched = &outcome.vouched;
        let (rule, signer) = (vouched.rule.as_deref(), vouched.signer.as_deref());
        let duration_usec = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        let message_id = match verdict {
            Verdict::Published => MessageId::Published,
            Verdict::Unchanged => MessageId::Unchanged,
            Verdict::RolledBack => MessageId::RolledBack,
            Verdict::Withdrawn => MessageId::Withdrawn,
            Verdict::Promoted => MessageId::Promoted,
            Verdict::Rejected => MessageId::Rejected,
        };
        if let Some(image) = &outcome.image {
            let generation = image.generation.as_ref().map(tracing::field::display);
            let (digest, files, bytes) = (image.digest, image.files, image.bytes);
            let detail = outcome.detail.iter().map(|detail| format!(": {detail}"));
            let detail: String = detail.collect();
            let notes = shown(outcome.notes());
            tracing::info!(
                %message_id, outcome = %verdict, target, generation, %digest, drop, importer,
                rule, signer, files, bytes, duration_usec, notes, "{verdict}{detail}"
            );
        } else {
            let reason = outcome.reason.map(tracing::field::display);
            let detail = flood::cut(outcome.detail.as_deref().unwrap_or_default());
            // An excerpt of a manifest has lines of its own.
            let gap = if detail.contains('\n') { "\n" } else { " " };
            tracing::warn!(
                %message_id, outcome = %verdict, target, reason, drop, importer, rule, signer,
                duration_usec, "rejected:{gap}{detail}"
            );
        }
    }
}

/// So many notes are told in full.
const MAX_NOTES: usize = 3;

/// What is noted of an image, on one line.
fn shown(notes: &[Note]) -> Option<String> {
    let more = notes.len().saturating_sub(MAX_NOTES);
    let first = notes.iter().take(MAX_NOTES).map(ToString::to_string);
    let more = (more > 0).then(|| format!("and {more} more"));
    let shown: Vec<_> = first.chain(more).collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

/// What the publisher is doing at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// What large images are for that are being compared or copied, and how many for each.
    pub large: BTreeMap<Target, usize>,
    /// How far all work had come when the first of those began: bytes done, and bytes expected.
    pub began: (u64, u64),
    /// Targets that have a current generation.
    pub targets: usize,
    /// Drops that are complete and have no outcome yet, as far as they are known.
    pub waiting: usize,
    /// Since when the first of those is complete; no older than the last look at the spool.
    pub oldest: Option<Moment>,
    /// Drops that somebody is still writing.
    pub incomplete: usize,
    /// Drops that wait until no machine uses what they replace.
    pub held: usize,
    /// Drops that have to wait for better times.
    pub in_trouble: usize,
    /// Those of them that there is no room for: they let others pass.
    pub no_space: usize,
    pub last_published: Option<Moment>,
    /// Looks at the spool until now.
    pub scans: u64,
}

impl Activity {
    /// Work on a large image begins.
    pub(crate) fn begin(&mut self, target: &Target, progress: &Progress) {
        if self.large.is_empty() {
            self.began = (progress.bytes(), progress.expected());
        }
        *self.large.entry(target.clone()).or_default() += 1;
    }

    /// Work on a large image has ended.
    pub(crate) fn end(&mut self, target: &Target) {
        if let Some(count) = self.large.get_mut(target) {
            *count -= 1;
        }
        self.large.retain(|_, count| *count > 0);
    }

    /// A look at the spool has ended; the first of the drops that are complete is so since then.
    pub(crate) fn take_scan(&mut self, oldest: Option<Moment>) {
        self.scans += 1;
        self.oldest = oldest;
    }

    /// One line for people.
    pub(crate) fn describe(&self, progress: &Progress) -> String {
        let mut parts = Vec::new();
        let is_watching = self.large.is_empty();
        if is_watching {
            parts.extend(["watching".to_string(), counted(self.targets, "target")]);
        } else {
            let targets: Vec<_> = self.large.keys().map(ToString::to_string).collect();
            let targets = targets.join(" and ");
            parts.push(match progress.percent(self.began) {
                None => format!("comparing {targets}"),
                Some(percent) => format!("publishing {targets}, {percent} %"),
            });
        }
        let others = self.large.values().sum::<usize>() + self.held;
        if let waiting @ 1.. = self.waiting.saturating_sub(others) {
            parts.push(format!("{} waiting", counted(waiting, "drop")));
        }
        if self.held > 0 {
            let held = counted(self.held, "drop");
            parts.push(format!(
                "{held} held until no machine uses what it replaces"
            ));
        }
        if self.in_trouble > 0 {
            parts.push(format!("{} in trouble", self.in_trouble));
        }
        if let Some(last) = self.last_published.filter(|_| is_watching) {
            parts.push(format!("last published {}", last.to_seconds()));
        }
        parts.join(", ")
    }
}

/// Tells everybody who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// A listener that falls behind keeps what it has not taken yet in memory.
    listeners: Vec<UnboundedSender<Arc<News>>>,
    pub(super) doing: Activity,
    shown: watch::Sender<Activity>,
    /// Targets that have a current generation.
    pub(super) targets: HashSet<Target>,
    clock: ClockSteps,
    pub(super) floods: Floods,
    /// How far each large image has come that is being compared or copied.
    works: HashMap<Target, Arc<Progress>>,
    inquiries: Inquiries,
}

/// What somebody asks is answered there.
type Reply = oneshot::Sender<Vec<Waiting>>;

/// Those who ask what waits.
#[derive(Debug)]
struct Inquiries {
    ask: mpsc::Sender<Reply>,
    asked: mpsc::Receiver<Reply>,
}

impl Default for Inquiries {
    fn default() -> Self {
        let (ask, asked) = mpsc::channel(1);
        Self { ask, asked }
    }
}

impl Report {
    /// One more listener. It hears of whatever is told from now on, in order, until the publisher
    /// ends.
    pub(crate) fn listen(&mut self) -> UnboundedReceiver<Arc<News>> {
        let (tell, listen) = unbounded_channel();
        self.listeners.push(tell);
        listen
    }

    /// For whoever asks which drops are on their way, and what each waits for: what is sent there is
    /// answered. It is closed when the publisher has ended.
    pub(crate) fn inquiry(&self) -> mpsc::Sender<oneshot::Sender<Vec<Waiting>>> {
        self.inquiries.ask.clone()
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&mut self) -> Option<Reply> {
        self.inquiries.asked.recv().await
    }

    /// Work on a large image begins. Returns what is to tell how far that comes, a part of `all`.
    pub(super) fn begin(&mut self, target: &Target, all: &Arc<Progress>) -> Arc<Progress> {
        self.doing.begin(target, all);
        let part = Arc::new(Progress::part_of(all));
        self.works.insert(target.clone(), Arc::clone(&part));
        part
    }

    /// Work on a large image has ended.
    pub(super) fn end(&mut self, target: &Target) {
        self.doing.end(target);
        self.works.remove(target);
    }

    /// How far the large images have come that are worked on, each for the drop that `head_of` its
    /// target's line tells.
    pub(super) fn tell_works<'a>(
        &self,
        overview: &mut Overview,
        head_of: impl Fn(&Target) -> Option<&'a DropKey>,
    ) {
        for (target, progress) in &self.works {
            let why = match progress.percent((0, 0)) {
                None => "comparing".to_string(),
                Some(percent) => format!("copying {percent} %"),
            };
            if let Some(key) = head_of(target) {
                overview.tell(key, WaitState::Working, why);
            }
        }
    }

    /// What the publisher is doing, until it ends.
    pub(crate) fn activity(&self) -> watch::Receiver<Activity> {
        self.shown.subscribe()
    }

    /// The start has found `target` with a generation that became current then, if any is.
    pub(super) fn take_current(&mut self, target: &Target, swapped_at: Option<Moment>) {
        if swapped_at.is_some() {
            let doing = &mut self.doing;
            doing.last_published = doing.last_published.max(swapped_at);
            self.targets.insert(target.clone());
        }
    }

    /// Says so when somebody has set the clock since the last look: the times in log and outcomes don't
    /// follow from each other then.
    pub(crate) fn look_at_clock(&mut self) {
        if let Some(step) = self.clock.take(Moment::now(), Instant::now()) {
            let message_id = MessageId::ClockSet;
            tracing::warn!(%message_id, "the clock was set {step}; going on by the monotonic clock");
        }
    }

    /// Tells what became of a drop, and when the pointer was swapped, if it was.
    pub(super) fn tell(&mut self, outcome: Outcome, swapped_at: Option<Moment>, took: Duration) {
        match (outcome.verdict, &outcome.target) {
            (Verdict::Published | Verdict::RolledBack | Verdict::Promoted, Some(target)) => {
                self.targets.insert(target.clone());
                self.doing.last_published = self.doing.last_published.max(swapped_at);
            }
            // Not a generation that was not current.
            (Verdict::Withdrawn, Some(target)) if swapped_at.is_some() => {
                self.targets.remove(target);
            }
            _ => {}
        }
        let news = Arc::new(News { outcome, took });
        if self.floods.admits(&news.outcome) {
            news.log();
        }
        for listener in &self.listeners {
            // One that has ended wants to know nothing any more.
            let _ = listener.send(Arc::clone(&news));
        }
    }

    /// Shows what the publisher is doing to whoever wants to see it.
    pub(super) fn show(&mut self, waiting: usize, held: usize, in_trouble: usize) {
        let doing = &mut self.doing;
        (doing.waiting, doing.held, doing.in_trouble) = (waiting, held, in_trouble);
        doing.targets = self.targets.len();
        doing.oldest = doing.oldest.filter(|_| waiting > 0);
        self.floods.tell_due();
        self.shown.send_if_modified(|shown| {
            let is_new = *shown != self.doing;
            if is_new {
                shown.clone_from(&self.doing);
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Vouched};

    #[test]
    fn it_is_described_in_one_line() {
        let progress = Progress::default();
        progress.expect(7);
        progress.advance(7);
        let at = Moment::from_stat(1_795_364_100, 0);
        let mut activity = Activity {
            targets: 120,
            last_published: Some(at),
            ..Activity::default()
        };
        let idle = "watching, 120 targets, last published 2026-11-22T16:15:00Z";
        assert_eq!(activity.describe(&progress), idle);

        let target: Target = "amd64/generic/noble/install".parse().unwrap();
        activity.begin(&target, &progress);
        activity.waiting = 3;
        let comparing = "comparing amd64/generic/noble/install, 2 drops waiting";
        assert_eq!(activity.describe(&progress), comparing);
        progress.expect(200);
        progress.advance(86);
        let copying = "publishing amd64/generic/noble/install, 43 %, 2 drops waiting";
        assert_eq!(activity.describe(&progress), copying);
        progress.advance(114);
        assert!(activity.describe(&progress).contains(" 99 %"));

        activity.end(&target);
        activity.held = 1;
        activity.in_trouble = 2;
        let waiting = "watching, 120 targets, 2 drops waiting, 1 drop held until no machine uses \
                       what it replaces, 2 in trouble, last published 2026-11-22T16:15:00Z";
        assert_eq!(activity.describe(&progress), waiting);
    }

    #[test]
    fn what_is_current_is_counted_and_the_last_swap_known() {
        let mut report = Report::default();
        let targets = ["a/g/r/one", "a/g/r/two"].map(|it| it.parse::<Target>().unwrap());
        let [early, late] = [1, 2].map(|seconds| Moment::from_stat(seconds, 0));
        report.take_current(&targets[0], Some(late));
        report.take_current(&targets[1], Some(early));
        report.take_current(&"a/g/r/none".parse().unwrap(), None);
        report.show(0, 0, 0);
        let activity = report.activity();
        assert_eq!(activity.borrow().targets, 2);
        assert_eq!(activity.borrow().last_published, Some(late));

        let outcome = Outcome {
            format: Outcome::FORMAT,
            drop: "drop".to_string(),
            claim: ClaimId::new(1, 2),
            target: Some(targets[0].clone()),
            verdict: Verdict::Withdrawn,
            reason: None,
            detail: None,
            image: None,
            importer: Importer::of(0),
            vouched: Vouched::default(),
            received_at: late,
            finished_at: late,
        };
        report.tell(outcome, Some(late), Duration::ZERO);
        report.show(0, 0, 0);
        assert_eq!(activity.borrow().targets, 1);
    }
}
