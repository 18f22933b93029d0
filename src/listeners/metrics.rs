//! Figures for Prometheus, in the file that the textfile collector of its `node_exporter` reads.
//!
//! Counters count from the start of the daemon, as those of any process do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::publisher::{Activity, News};
use crate::settings::Settings;
use crate::sys::Dir;
use crate::words::{Moment, Verdict};

/// The file is written no more often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Begins every name.
const NAMESPACE: &str = "netboot_publisher";

/// Seconds that a drop takes from its claim to its outcome: from an unchanged one to the 16 GiB on a
/// slow disk.
const BUCKETS: [f64; 13] = [
    0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0,
];

/// Every figure.
#[derive(Debug)]
struct Metrics {
    registry: Registry,
    outcomes: IntCounterVec,
    published_bytes: IntCounter,
    duration: HistogramVec,
    waiting: IntGauge,
    incomplete: IntGauge,
    held: IntGauge,
    in_trouble: IntGauge,
    targets: IntGauge,
    oldest: Time,
    last_published: Time,
}

/// A point in time, in seconds since 1970; it is not shown where there is none.
#[derive(Debug)]
struct Time {
    gauge: Gauge,
    is_shown: bool,
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let options = |name: &str, help: &str| Opts::new(name, help).namespace(NAMESPACE);
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::with_opts(options(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let time = |name: &str, help: &str| -> prometheus::Result<Time> {
            let gauge = Gauge::with_opts(options(name, help))?;
            let is_shown = false;
            Ok(Time { gauge, is_shown })
        };

        let outcomes = IntCounterVec::new(
            options(
                "outcomes_total",
                "Drops that have an outcome, by outcome and, where it is rejected, by reason.",
            ),
            &["outcome", "reason"],
        )?;
        registry.register(Box::new(outcomes.clone()))?;
        let published_bytes = IntCounter::with_opts(options(
            "published_bytes_total",
            "Bytes of all images that were published.",
        ))?;
        registry.register(Box::new(published_bytes.clone()))?;
        let opts = HistogramOpts::new(
            "drop_duration_seconds",
            "Time from the claim of a drop to its outcome.",
        );
        let opts = opts.namespace(NAMESPACE).buckets(BUCKETS.into());
        let duration = HistogramVec::new(opts, &["outcome"])?;
        registry.register(Box::new(duration.clone()))?;
        // What has not happened yet is 0, so that its rate is known when it happens.
        for verdict in Verdict::ALL {
            if verdict != Verdict::Rejected {
                outcomes.with_label_values(&[verdict.as_str(), ""]);
            }
            duration.with_label_values(&[verdict.as_str()]);
        }

        let build = options("build_info", "The version that runs.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;
        let start = time("start_time_seconds", "When the daemon was started.")?;
        start.gauge.set(seconds(Moment::now()));
        registry.register(Box::new(start.gauge))?;
        Ok(Self {
            outcomes,
            published_bytes,
            duration,
            waiting: gauge("drops_waiting", "Complete drops that have no outcome yet.")?,
            incomplete: gauge("drops_incomplete", "Drops that somebody is still writing.")?,
            held: gauge(
                "drops_held",
                "Drops that wait until no machine uses what they replace.",
            )?,
            in_trouble: gauge(
                "drops_in_trouble",
                "Drops that can't be handled at the moment, and are tried again.",
            )?,
            targets: gauge("targets", "Targets that have a current generation.")?,
            oldest: time(
                "oldest_drop_timestamp_seconds",
                "Since when the oldest drop waits that has no outcome yet.",
            )?,
            last_published: time(
                "last_published_timestamp_seconds",
                "When an image was published last.",
            )?,
            registry,
        })
    }

    fn count(&self, news: &News) {
        let outcome = &news.outcome;
        let reason = outcome.reason.map(|reason| reason.to_string());
        let verdict = outcome.outcome.as_str();
        let labels = [verdict, reason.as_deref().unwrap_or_default()];
        self.outcomes.with_label_values(&labels).inc();
        let duration = self.duration.with_label_values(&[verdict]);
        duration.observe(news.took.as_secs_f64());
        if let (Verdict::Published, Some(image)) = (outcome.outcome, &outcome.image) {
            self.published_bytes.inc_by(image.bytes);
        }
    }

    fn show(&mut self, activity: &Activity) -> prometheus::Result<()> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.waiting.set(count(activity.waiting));
        self.incomplete.set(count(activity.incomplete));
        self.held.set(count(activity.held));
        self.in_trouble.set(count(activity.in_trouble));
        self.targets.set(count(activity.targets));
        self.oldest.show(activity.oldest, &self.registry)?;
        self.last_published
            .show(activity.last_published, &self.registry)
    }

    fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Time {
    fn show(&mut self, moment: Option<Moment>, registry: &Registry) -> prometheus::Result<()> {
        if let Some(moment) = moment {
            self.gauge.set(seconds(moment));
        }
        if moment.is_some() != self.is_shown {
            let gauge = Box::new(self.gauge.clone());
            if self.is_shown {
                registry.unregister(gauge)?
            } else {
                registry.register(gauge)?
            }
            self.is_shown = !self.is_shown;
        }
        Ok(())
    }
}

fn seconds(moment: Moment) -> f64 {
    let since = moment.system_time().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Counts the news, and writes the file whenever something changed and at each look at the spool,
/// until the publisher ends.
///
/// # Errors
/// When the figures themselves are no good; a file that can't be written is a warning.
pub(crate) async fn run(
    mut news: UnboundedReceiver<Arc<News>>,
    mut activity: watch::Receiver<Activity>,
    mut settings: watch::Receiver<Arc<Settings>>,
) -> anyhow::Result<()> {
    let mut metrics = Metrics::new()?;
    let mut next = Instant::now();
    let mut is_due = true;
    let mut is_in_trouble = false;
    loop {
        let file = settings.borrow_and_update().metrics.textfile.clone();
        let has_ended = tokio::select! {
            biased;
            told = news.recv() => {
                is_due = true;
                if let Some(news) = &told {
                    metrics.count(news);
                }
                told.is_none()
            }
            Ok(()) = settings.changed() => {
                is_due = true;
                false
            }
            // Without a file nobody wants to know.
            Ok(()) = activity.changed(), if file.is_some() && !is_due => {
                is_due = true;
                false
            }
            () = tokio::time::sleep_until(next), if file.is_some() && is_due => {
                false
            }
        };
        if let Some(file) = file
            && is_due
            && (has_ended || next <= Instant::now())
        {
            is_due = false;
            next = Instant::now() + INTERVAL;
            metrics.show(&activity.borrow_and_update())?;
            let text = metrics.text()?;
            let path = file.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, &text));
            match written.await.context("writing the metrics broke off")? {
                Ok(()) => is_in_trouble = false,
                Err(error) if !is_in_trouble => {
                    is_in_trouble = true;
                    tracing::warn!("writing the metrics to {file:?}: {error:#}, going on without");
                }
                Err(_) => {}
            }
        }
        if has_ended {
            return Ok(());
        }
    }
}

/// Puts the file into its place, whole.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.context("expected the name of a file at the end, in UTF-8")?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let folder = Dir::open(&folder)?;
    // The collector reads no name that ends so.
    let temporary = format!(".{name}.tmp");
    folder.remove_file(&temporary)?;
    folder.replace(name, &temporary, text.as_bytes())?;
    Ok(())
}
