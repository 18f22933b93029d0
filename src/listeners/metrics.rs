//! Figures for Prometheus, in the file that the textfile collector of its `node_exporter` reads.
//!
//! Counters count from the start of the daemon, as those of any process do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::core::Collector;
use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};
use strum::VariantNames as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::publisher::{Activity, News};
use crate::settings::{ImporterRule, Settings};
use crate::sys::Dir;
use crate::words::{Moment, NoteKind, Verdict};

/// The file is written no more often than this.
const INTERVAL: Duration = Duration::from_secs(1);

/// Begins the name of every figure.
const NAMESPACE: &str = "netboot_publisher";

/// Seconds that a drop takes from its claim to its outcome: from an unchanged one to the 16 GiB on a
/// slow disk.
const BUCKETS: [f64; 13] = [
    0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0,
];

/// Figures that are what the publisher is doing at the moment: name, help, and the count.
type Count = (&'static str, &'static str, fn(&Activity) -> usize);
#[rustfmt::skip] // A row is a figure.
const COUNTS: [Count; 1] = [
    ("targets", "Targets that have a current generation.", |it| it.targets),
];

/// Why drops wait, and how many for each.
type Waits = (&'static str, fn(&Activity) -> usize);
#[rustfmt::skip] // A row is a reason.
const WAITS: [Waits; 5] = [
    ("incomplete", |it| it.incomplete),
    ("held", |it| it.held),
    ("no-space", |it| it.no_space),
    ("trouble", |it| it.in_trouble.saturating_sub(it.no_space)),
    ("queued", |it| it.waiting.saturating_sub(it.held + it.in_trouble)),
];

/// Figures that are points in time, in seconds since 1970. A figure without a time is not shown.
type Time = (&'static str, &'static str, fn(&Activity) -> Option<Moment>);
#[rustfmt::skip] // A row is a figure.
const TIMES: [Time; 2] = [
    ("oldest_drop_timestamp_seconds",
        "Since when the oldest drop waits that has no outcome yet.", |it| it.oldest),
    ("last_published_timestamp_seconds",
        "When an image was published last.", |it| it.last_published),
];

/// Every figure.
#[derive(Debug)]
struct Metrics {
    registry: Registry,
    outcomes: IntCounterVec,
    /// Of the rules of the configuration; without a name those of drops that no rule was for.
    of_rules: IntCounterVec,
    published_bytes: IntCounter,
    duration: HistogramVec,
    counts: Vec<IntGauge>,
    waits: IntGaugeVec,
    /// Bytes and inodes.
    free: Vec<IntGaugeVec>,
    reloads: IntCounterVec,
    /// Those that failed, and what is not up to date.
    renderings: (IntCounter, IntGauge),
    notes: IntCounterVec,
    /// A gauge is in the registry while it is shown.
    times: Vec<Gauge>,
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let help = "Drops that have an outcome, by outcome and, where it is rejected, by reason.";
        let labels = ["outcome", "reason"];
        let outcomes = IntCounterVec::new(options("outcomes_total", help), &labels);
        let help =
            "Drops that have an outcome, by importer rule, if one was for them, and by outcome.";
        let opts = options("rule_outcomes_total", help);
        let of_rules = IntCounterVec::new(opts, &["rule", "outcome"]);
        let help = "Bytes of all images that were published.";
        let published_bytes = IntCounter::with_opts(options("published_bytes_total", help));
        let help = "Time from the claim of a drop to its outcome.";
        let opts = HistogramOpts::from(options("drop_duration_seconds", help));
        let duration = HistogramVec::new(opts.buckets(BUCKETS.into()), &["outcome"]);
        let help = "Drops that wait, by reason.";
        let waits = IntGaugeVec::new(options("drops_waiting", help), &["reason"]);
        let help = "What can still be written, by file system.";
        let free = ["free_bytes", "free_inodes"];
        let free = free.map(|name| IntGaugeVec::new(options(name, help), &["of"]));
        let help = "Reloads of the configuration, by what became of them.";
        let reloads = IntCounterVec::new(options("reloads_total", help), &["result"]);
        let help = "Renderings after which the catalog or an output was not up to date.";
        let failed = IntCounter::with_opts(options("failed_renderings_total", help));
        let help =
            "The catalog, outputs and aliases that are not up to date since the last rendering.";
        let failing = IntGauge::with_opts(options("outputs_failing", help));
        let notes = options(
            "notes_total",
            "Notes on images that drops brought or promoted, by note.",
        );
        let notes = IntCounterVec::new(notes, &["note"]);
        let build = options("build_info", "The version that runs.");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")));
        register(&registry, build)?.set(1);
        let start = options("start_time_seconds", "When the daemon was started.");
        register(&registry, Gauge::with_opts(start))?.set(seconds(Moment::now()));
        let counts = COUNTS.map(|(name, help, _)| IntGauge::with_opts(options(name, help)));
        let counts = counts.into_iter().map(|gauge| register(&registry, gauge));
        let counts = counts.collect::<Result<Vec<_>, _>>()?;
        let times = TIMES.map(|(name, help, _)| Gauge::with_opts(options(name, help)));
        let free = free.into_iter().map(|gauge| register(&registry, gauge));
        let metrics = Self {
            outcomes: register(&registry, outcomes)?,
            of_rules: register(&registry, of_rules)?,
            published_bytes: register(&registry, published_bytes)?,
            duration: register(&registry, duration)?,
            waits: register(&registry, waits)?,
            free: free.collect::<Result<_, _>>()?,
            reloads: register(&registry, reloads)?,
            renderings: (register(&registry, failed)?, register(&registry, failing)?),
            notes: register(&registry, notes)?,
            times: times.into_iter().collect::<Result<_, _>>()?,
            counts,
            registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// What has not happened yet is 0, so that its rate is known when it happens.
    fn begin(&self) {
        for verdict in Verdict::VARIANTS {
            if *verdict != <&str>::from(Verdict::Rejected) {
                self.outcomes.with_label_values(&[verdict, ""]);
            }
            self.duration.with_label_values(&[verdict]);
        }
        for note in NoteKind::VARIANTS {
            self.notes.with_label_values(&[note]);
        }
    }

    /// Shows the figures of these rules, and no more those of rules `before` that have gone.
    fn show_rules(&self, before: &[ImporterRule], rules: &[ImporterRule]) {
        for gone in before.iter().filter(|it| !has(rules, it.name.as_str())) {
            for verdict in Verdict::VARIANTS {
                // It may not have been shown.
                let labels = [gone.name.as_str(), verdict];
                let _ = self.of_rules.remove_label_values(&labels);
            }
        }
        let names = rules.iter().map(|rule| rule.name.as_str());
        for name in names.chain([""]) {
            for verdict in Verdict::VARIANTS {
                self.of_rules.with_label_values(&[name, verdict]);
            }
        }
    }

    fn count(&self, news: &News, rules: &[ImporterRule]) {
        let outcome = &news.outcome;
        let reason = outcome.reason.map(|reason| reason.to_string());
        let verdict = <&str>::from(outcome.verdict);
        let labels = [verdict, reason.as_deref().unwrap_or_default()];
        self.outcomes.with_label_values(&labels).inc();
        let rule = outcome.vouched.rule.as_deref().unwrap_or_default();
        // A drop that a rule has let in may end after a reload that has taken the rule away.
        if rule.is_empty() || has(rules, rule) {
            self.of_rules.with_label_values(&[rule, verdict]).inc();
        }
        let duration = self.duration.with_label_values(&[verdict]);
        duration.observe(news.took.as_secs_f64());
        for note in outcome.notes() {
            self.notes
                .with_label_values(&[<&str>::from(note.kind)])
                .inc();
        }
        if let (Verdict::Published, Some(image)) = (outcome.verdict, &outcome.image) {
            self.published_bytes.inc_by(image.bytes);
        }
    }

    fn show(&self, activity: &Activity) -> prometheus::Result<()> {
        for (gauge, (_, _, count)) in self.counts.iter().zip(COUNTS) {
            gauge.set(i64::try_from(count(activity)).unwrap_or(i64::MAX));
        }
        for (reason, count) in WAITS {
            let count = i64::try_from(count(activity)).unwrap_or(i64::MAX);
            self.waits.with_label_values(&[reason]).set(count);
        }
        for (gauge, (_, _, time)) in self.times.iter().zip(TIMES) {
            // This fails where the gauge was not shown.
            let _ = self.registry.unregister(Box::new(gauge.clone()));
            if let Some(moment) = time(activity) {
                gauge.set(seconds(moment));
                self.registry.register(Box::new(gauge.clone()))?;
            }
        }
        Ok(())
    }

    /// Counters go only up: what was counted already is taken off.
    fn show_counted(&self, (good, refused): (u64, u64), (failed, failing): (u64, usize)) {
        let catch_up = |counter: &IntCounter, now: u64| counter.inc_by(now - counter.get());
        catch_up(&self.reloads.with_label_values(&["good"]), good);
        catch_up(&self.reloads.with_label_values(&["refused"]), refused);
        let (failures, now) = &self.renderings;
        catch_up(failures, failed);
        now.set(i64::try_from(failing).unwrap_or(i64::MAX));
    }

    /// What can't be asked is not shown.
    fn show_free(&self, settings: &Settings) {
        for (of, path) in [
            ("spool", &settings.spool.path),
            ("tree", &settings.tree.path),
        ] {
            let free = Dir::enter(path).and_then(|dir| dir.free_space()).ok();
            let (bytes, inodes) = free.map_or((None, None), |it| (Some(it.0), it.1));
            for (gauge, free) in self.free.iter().zip([bytes, inodes]) {
                if let Some(free) = free {
                    let free = i64::try_from(free).unwrap_or(i64::MAX);
                    gauge.with_label_values(&[of]).set(free);
                } else {
                    // It may not have been shown.
                    let _ = gauge.remove_label_values(&[of]);
                }
            }
        }
    }

    fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn has(rules: &[ImporterRule], name: &str) -> bool {
    rules.iter().any(|rule| rule.name.as_str() == name)
}

/// Lets `figure` be shown from now on.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    figure: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let figure = figure?;
    registry.register(Box::new(figure.clone()))?;
    Ok(figure)
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn seconds(moment: Moment) -> f64 {
    moment.since_1970().as_secs_f64()
}

/// What the figures show beside the news: what the publisher is doing; reloads, good and refused; and
/// renderings that failed, with how many files are not up to date.
type Shown = (
    watch::Receiver<Activity>,
    watch::Receiver<(u64, u64)>,
    watch::Receiver<(u64, usize)>,
);

/// Counts the news, and writes the file whenever something changed and at each look at the spool,
/// until the publisher ends.
///
/// # Errors
/// When the figures themselves are no good; a file that can't be written is a warning.
pub(super) async fn count_outcomes(
    mut news: UnboundedReceiver<Arc<News>>,
    (mut activity, mut reloads, mut renderings): Shown,
    mut settings: watch::Receiver<Arc<Settings>>,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new()?);
    // It has no rules.
    let mut current = Arc::<Settings>::default();
    let mut next = Instant::now();
    let mut is_due = true;
    let mut is_in_trouble = false;
    loop {
        let wanted = Arc::clone(&settings.borrow_and_update());
        if !Arc::ptr_eq(&wanted, &current) {
            metrics.show_rules(&current.importers, &wanted.importers);
            current = wanted;
        }
        let file = current.metrics.textfile.clone();
        // Without a file there is nothing to write.
        let has_file = file.is_some();
        let has_ended = tokio::select! {
            biased;
            told = news.recv() => {
                if let Some(news) = &told {
                    metrics.count(news, &settings.borrow().importers);
                }
                told.is_none()
            }
            Ok(()) = settings.changed() => false,
            Ok(()) = activity.changed(), if has_file && !is_due => false,
            Ok(()) = reloads.changed(), if has_file && !is_due => false,
            Ok(()) = renderings.changed(), if has_file && !is_due => false,
            () = tokio::time::sleep_until(next), if has_file && is_due => false,
        };
        is_due = !has_file || !has_ended && Instant::now() < next;
        if let Some(file) = file.filter(|_| !is_due) {
            next = Instant::now() + INTERVAL;
            metrics.show(&activity.borrow_and_update())?;
            metrics.show_counted(
                *reloads.borrow_and_update(),
                *renderings.borrow_and_update(),
            );
            let (metrics, path) = (Arc::clone(&metrics), file.clone());
            let settings = Arc::clone(&current);
            let written = tokio::task::spawn_blocking(move || {
                metrics.show_free(&settings);
                write(&path, &metrics.text()?)
            });
            let written = written.await.context("writing the metrics broke off")?;
            if let (Err(error), false) = (&written, is_in_trouble) {
                tracing::warn!("writing the metrics to {file:?}: {error:#}; going on without");
            }
            is_in_trouble = written.is_err();
        }
        if has_ended {
            return Ok(());
        }
    }
}

/// Replaces the file atomically.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.context("expected the name of a file at the end, in UTF-8")?;
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let folder = Dir::open(folder.unwrap_or(Path::new(".")))?;
    // The collector reads no name that ends in `.tmp`.
    let temporary = format!(".{name}.tmp");
    folder.remove_file(&temporary)?;
    folder.replace(name, &temporary, text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Outcome;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Reason, Vouched};

    fn rejected(rule: Option<&str>) -> News {
        let at = Moment::now();
        let outcome = Outcome {
            format: Outcome::FORMAT,
            drop: "drop".to_string(),
            claim: ClaimId::new(1, 2),
            target: None,
            verdict: Verdict::Rejected,
            reason: Some(Reason::NotAllowed),
            detail: None,
            image: None,
            importer: Importer::of(0),
            vouched: Vouched {
                rule: rule.map(str::to_string),
                signer: None,
            },
            received_at: at,
            finished_at: at,
        };
        News {
            outcome,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_rule_has_figures_as_long_as_the_configuration_has_the_rule() {
        let rules = |names: &[&str]| {
            let text = names
                .iter()
                .map(|it| format!("[[importer]]\nname = {it:?}\n"));
            let text: String = text.collect();
            Settings::parse("config.toml", &text).unwrap().importers
        };
        let metrics = Metrics::new().unwrap();
        let figures = || {
            let text = metrics.text().unwrap();
            let begin = "netboot_publisher_rule_outcomes_total{outcome=\"rejected\",rule=";
            let rest = text.lines().filter_map(|line| line.strip_prefix(begin));
            rest.map(str::to_string).collect::<Vec<_>>()
        };
        let (before, after) = (rules(&["lab", "team"]), rules(&["more", "team"]));
        metrics.show_rules(&[], &before);
        for rule in [None, Some("lab"), Some("team"), Some("team")] {
            metrics.count(&rejected(rule), &before);
        }
        let expected = ["\"\"} 1", "\"lab\"} 1", "\"team\"} 2"];
        assert_eq!(figures(), expected);
        metrics.show_rules(&before, &after);
        for rule in ["lab", "more", "team"] {
            metrics.count(&rejected(Some(rule)), &after);
        }
        let expected = ["\"\"} 1", "\"more\"} 1", "\"team\"} 3"];
        assert_eq!(figures(), expected);
        metrics.show_rules(&after, &before);
        let expected = ["\"\"} 1", "\"lab\"} 0", "\"team\"} 3"];
        assert_eq!(figures(), expected);
    }
}
