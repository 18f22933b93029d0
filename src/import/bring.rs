//! One source: what upstream has is compared with what is here, fetched where it differs, and dropped.
//!
//! All files of one upstream version are dropped, or none. All drops are handed over before the first
//! outcome is waited for: a target that is swapped when it is quiet holds up no other.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;

use super::assemble::assemble;
use super::at_hand::AtHand;
use super::dropped::{Became, Dropped, Last, digest};
use super::report::{Came, Report};
use super::world::World;
use crate::commands::{sign, wait};
use crate::fetch::{Client, Fetched, Store, Wanted};
use crate::image::FileMark;
use crate::sources::{Offer, Part, Source};
use crate::spool::Outcome;
use crate::sys::{Dir, Progress};
use crate::tree::{Current, Record};
use crate::words::{Digest, Moment};

/// How a source is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// What was brought before is dropped again.
    pub(super) again: bool,
    /// So long an outcome is waited for.
    pub(super) wait: Duration,
    /// Nothing is fetched but lists, and nothing dropped.
    pub(super) only_check: bool,
    /// An index of a registry that was set back, or is another centre's, counts.
    pub(super) accept: bool,
}

/// A source that is run.
pub(super) struct Bring<'w> {
    world: &'w World,
    source: &'w Source,
    how: How,
    client: Client,
    store: Store,
    /// The folder of the source.
    folder: Dir,
    dropped: Dropped,
}

/// A drop that is in the spool.
pub(super) struct HandedOver {
    pub(super) drop: String,
    /// What came over the network for it.
    pub(super) fetched: Fetched,
}

/// How it ended for each target.
#[derive(Default)]
struct Ends {
    all: Vec<Came>,
    /// The files of what is not published yet: that may be dropped once more.
    kept: BTreeSet<Digest>,
}

impl Ends {
    fn add(&mut self, world: &World, offer: &Offer, mut report: Report) -> anyhow::Result<()> {
        report.version = report.version.or_else(|| offer.version.clone());
        world.shown.report(&report)?;
        if report.result >= Came::Waits {
            self.kept.extend(wanted(offer).map(|it| it.sha256));
        }
        self.all.push(report.result);
        Ok(())
    }
}

impl<'w> Bring<'w> {
    /// # Errors
    /// When another process is at work on this source.
    pub(super) fn begin(world: &'w World, source: &'w Source, how: How) -> anyhow::Result<Self> {
        let path = world.state.join(&source.name);
        let store = Store::open(&path)?;
        let folder = Dir::open(&path)?;
        Ok(Self {
            client: Client::new(&source.url, &source.options)?,
            dropped: Dropped::read(&folder)?,
            store,
            folder,
            world,
            source,
            how,
        })
    }

    /// Brings what upstream has for each target, and says of each what became of it.
    ///
    /// # Errors
    /// When upstream can't be asked, or isn't to be trusted.
    pub(super) async fn run(mut self) -> anyhow::Result<Vec<Came>> {
        if let Some(warning) = self.source.warning() {
            self.world.shown.warn(&warning);
        }
        let asked = self.source.ask(&self.client, &self.store, self.how.accept);
        let offers = asked.await?;
        let (mut ends, mut waiting) = (Ends::default(), Vec::new());
        for offer in &offers {
            match self.bring(offer).await {
                Ok(Ok(handed_over)) => waiting.push((offer, handed_over)),
                Ok(Err(report)) => ends.add(self.world, offer, report)?,
                Err(error) => ends.add(self.world, offer, self.failed(offer, &error))?,
            }
        }
        let spool = &self.world.settings.spool.path;
        let outcomes = waiting
            .iter()
            .map(|(_, handed_over)| await_outcome(spool, &handed_over.drop, self.how.wait));
        let outcomes = join_all(outcomes).await;
        for ((offer, handed_over), outcome) in waiting.into_iter().zip(outcomes) {
            let taken = outcome.and_then(|outcome| self.take(offer, handed_over, outcome));
            let report = taken.unwrap_or_else(|error| self.failed(offer, &error));
            ends.add(self.world, offer, report)?;
        }
        if !self.how.only_check {
            self.store.keep(&ends.kept)?;
        }
        Ok(ends.all)
    }

    /// Puts what upstream has for one target into the spool, or says what there is to be said instead.
    async fn bring(&mut self, offer: &Offer) -> anyhow::Result<Result<HandedOver, Report>> {
        let digest = digest(offer);
        if let Some(report) = self.settle(offer, digest)? {
            return Ok(Err(report));
        }
        if !self.how.again && self.is_current(offer) {
            self.note(offer, digest, None)?;
            return Ok(Err(self.report(offer, Came::Unchanged)));
        }
        let (name, target) = (&self.source.name, &offer.target);
        if let Some(refused) = self.world.refused(name, target, digest) {
            return Ok(Err(refused));
        }
        let tree = self.world.tree();
        let at_hand = AtHand::of(&self.store, tree.as_ref(), offer)?;
        let missing = at_hand.missing(offer)?;
        if self.how.only_check {
            let mut report = self.report(offer, Came::WouldChange);
            report.fetched = Some(Fetched {
                files: missing.len(),
                bytes: missing.iter().filter_map(|wanted| wanted.size).sum(),
            });
            return Ok(Err(report));
        }
        let fetched = self.fetch(offer, &missing).await?;
        let drop = self.hand_over(offer, digest, &at_hand).await?;
        Ok(Ok(HandedOver { drop, fetched }))
    }

    /// What an earlier run has done for this very offer, if that was enough.
    fn settle(&mut self, offer: &Offer, digest: Digest) -> anyhow::Result<Option<Report>> {
        let last = self.dropped.targets.get(&offer.target).cloned();
        let Some(last) = last.filter(|last| last.offer == digest) else {
            return Ok(None);
        };
        let report = match last.became(&self.world.settings.spool.path)? {
            None => {
                let is_known = self.world.tree().is_none_or(|tree| {
                    let history = tree.history(&offer.target);
                    history.map_or(true, |history| history.is_some())
                });
                let is_done = is_known && !self.how.again;
                is_done.then(|| self.report(offer, Came::Unchanged))
            }
            Some(Became::Outcome(outcome)) if !outcome.is_rejected() => {
                Some(self.judged(offer, &outcome)?)
            }
            // What is known of it is no longer kept, or it may be allowed by now.
            Some(Became::Outcome(_) | Became::Nothing) => None,
            Some(Became::Waits(why)) => Some(self.waits(offer, last.waits, why)),
        };
        Ok(report)
    }

    /// Whether the image is current here, as far as that can be told without its files.
    fn is_current(&self, offer: &Offer) -> bool {
        let current = self
            .world
            .tree()
            .and_then(|tree| tree.current(&offer.target).ok());
        match current {
            Some(Current::Generation(generation)) => generation
                .record
                .is_some_and(|record| is_of(&record, offer)),
            _ => false,
        }
    }

    async fn fetch(&self, offer: &Offer, missing: &[&Wanted]) -> anyhow::Result<Fetched> {
        let before = self.client.counts().bytes;
        if !missing.is_empty() {
            let progress = Arc::new(Progress::default());
            let bytes = missing.iter().filter_map(|wanted| wanted.size).sum();
            let what = format!("{} {}", self.source.name, offer.target);
            let bar = self.world.shown.begin(&what, bytes, Arc::clone(&progress));
            let mut fetched = Ok(());
            for wanted in missing {
                fetched = self.store.file(&self.client, wanted, &progress).await;
                if fetched.is_err() {
                    break;
                }
            }
            bar.end(fetched.is_ok()).await;
            fetched?;
        }
        Ok(Fetched {
            files: missing.len(),
            bytes: self.client.counts().bytes - before,
        })
    }

    /// Makes a drop, and says what it is called.
    async fn hand_over(
        &mut self,
        offer: &Offer,
        digest: Digest,
        files: &AtHand,
    ) -> anyhow::Result<String> {
        // What is copied here is on this disk already: nothing else has to go on meanwhile.
        let progress = Progress::default();
        let drop = assemble(self.world, offer, files, self.source.has_serials, &progress)?;
        if let Some(key) = &self.source.sign {
            sign(&drop, key, std::future::pending()).await?;
        }
        let name = drop
            .finish()?
            .context("the spool has a drop of that name already")?;
        self.note(offer, digest, Some(name.clone()))?;
        Ok(name)
    }

    /// What became of a drop: its outcome, or why there is none.
    fn take(
        &mut self,
        offer: &Offer,
        HandedOver { drop, fetched }: HandedOver,
        outcome: Result<Outcome, String>,
    ) -> anyhow::Result<Report> {
        let mut report = match outcome {
            Ok(outcome) => self.judged(offer, &outcome)?,
            Err(why) => self.waits(offer, Some(drop), why),
        };
        report.fetched = Some(fetched);
        Ok(report)
    }

    /// Takes note of the outcome of a drop.
    fn judged(&mut self, offer: &Offer, outcome: &Outcome) -> anyhow::Result<Report> {
        let (name, target) = (&self.source.name, &offer.target);
        let report = Report::of(name, target, outcome);
        if outcome.is_rejected() {
            self.world.refuse(name, target, digest(offer), &report);
        } else {
            self.note(offer, digest(offer), None)?;
        }
        Ok(report)
    }

    fn waits(&self, offer: &Offer, drop: Option<String>, why: String) -> Report {
        Report::waits(&self.source.name, &offer.target, drop, why)
    }

    fn failed(&self, offer: &Offer, error: &anyhow::Error) -> Report {
        Report::failed(&self.source.name, Some(&offer.target), error)
    }

    fn note(&mut self, offer: &Offer, digest: Digest, waits: Option<String>) -> anyhow::Result<()> {
        if self.how.only_check {
            return Ok(());
        }
        let last = Last {
            offer: digest,
            version: offer.version.clone(),
            waits,
            at: Moment::now(),
        };
        self.dropped.note(&self.folder, &offer.target, last)
    }

    fn report(&self, offer: &Offer, came: Came) -> Report {
        Report::new(&self.source.name, Some(&offer.target), came)
    }
}

/// The outcome of a drop, or why there is none in time.
pub(super) async fn await_outcome(
    spool: &Path,
    drop: &str,
    limit: Duration,
) -> anyhow::Result<Result<Outcome, String>> {
    let mut why = format!("{drop} has no outcome yet");
    let outcome = wait(spool, drop, limit, |note, waiting| {
        let waits = note.map(str::to_string);
        if let Some(waits) = waits.or(waiting.map(|waiting| waiting.why)) {
            why = format!("{drop} has no outcome yet: {waits}");
        }
    });
    let outcome = outcome.await?;
    Ok(outcome.ok_or(why))
}

/// The files that an offer is made of.
fn wanted(offer: &Offer) -> impl Iterator<Item = &Wanted> {
    offer.parts.iter().map(|part| match part {
        Part::File { wanted, .. } | Part::Archive { wanted, .. } => wanted,
    })
}

/// Whether a record is of the image that an offer is: what an archive holds isn't known.
fn is_of(record: &Record, offer: &Offer) -> bool {
    let is_there = |part: &Part| match part {
        Part::File { path, wanted } => {
            let mark: Option<&FileMark> = record.listing.files.get(path);
            mark.is_some_and(|mark| mark.sha256 == wanted.sha256)
        }
        Part::Archive { .. } => false,
    };
    let (listing, head) = (&record.listing, &record.head);
    let count = listing.files.len() + listing.links.len();
    count == offer.parts.len()
        && offer.parts.iter().all(is_there)
        && head.version == offer.version
        && head.boot == offer.boot
}
