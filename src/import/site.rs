//! One source of the kind `oci`: the orders of a centre come into the own spool, with what the own tree
//! lacks of their images.
//!
//! All orders are handed over before the first outcome is waited for: a target that is swapped when it is
//! quiet holds up no other.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;

use super::bring::{HandedOver, How, await_outcome};
use super::dropped::{Became, Dropped, Last};
use super::report::{Came, Report};
use super::world::World;
use crate::fetch::Fetched;
use crate::registry::{Accept, Brought, Follower, News};
use crate::sources::{Site, Source};
use crate::spool::{NewDrop, Outcome};
use crate::sys::{Dir, Progress};
use crate::tree::Tree;
use crate::words::{Moment, Target};

/// Asks the registry, and brings what it has for this site.
///
/// # Errors
/// When the registry can't be asked, or its index may not count.
pub(super) async fn follow(
    world: &World,
    (source, site): (&Source, &Site),
    how: How,
) -> anyhow::Result<Vec<Came>> {
    if let Some(warning) = source.warning() {
        world.shown.warn(&warning);
    }
    ensure!(
        site.is_insecure
            || world
                .settings
                .importers
                .iter()
                .any(|rule| !rule.who.keys.is_empty()),
        "no importer rule of this site's daemon has `keys`, so nobody would look at signatures: write one, or \
         `insecure = true` into the source's file, where whoever writes to {} may do everything",
        source.url
    );
    let path = &world.settings.tree.path;
    let tree = world.tree();
    let tree = tree.with_context(|| format!("the tree {path:?} can't be read from here"))?;
    let state = world.state.join(&source.name);
    let limits = &world.settings.limits;
    let from = (&source.url, &source.options);
    let mut follower = Follower::open(from, site, &state, limits).await?;
    let accept = Accept {
        other_index: how.accept,
        again: how.again,
    };
    let asked = follower.ask(&tree, accept).await?;
    for target in &asked.gone {
        world.shown.warn(&format!(
            "{} {target}: the centre has no order for it any more; what is here stays",
            source.name
        ));
    }
    let folder = Dir::open(&state)?;
    let mut follow = Follow {
        dropped: Dropped::read(&folder)?,
        folder,
        world,
        source,
        how,
        tree,
        follower: &mut follower,
    };
    follow.all(asked.wanted).await
}

/// A site at work.
struct Follow<'w> {
    world: &'w World,
    source: &'w Source,
    how: How,
    tree: Tree,
    follower: &'w mut Follower,
    /// The folder of the source, and what was dropped of it.
    folder: Dir,
    dropped: Dropped,
}

impl Follow<'_> {
    async fn all(&mut self, wanted: Vec<News>) -> anyhow::Result<Vec<Came>> {
        let (mut all, mut waiting) = (Vec::new(), Vec::new());
        for report in self.since(&wanted)? {
            all.push(self.say(&report)?);
        }
        for news in wanted {
            if let Some(refused) = self
                .world
                .refused(&self.source.name, news.target(), news.id())
            {
                all.push(self.say(&refused)?);
                continue;
            }
            let handed_over = match self.earlier(&news) {
                Ok(Some(report)) => Ok(Err(report)),
                Ok(None) => self.hand_over(&news).await,
                Err(error) => Err(error),
            };
            match handed_over {
                Ok(Ok(handed_over)) => waiting.push((news, handed_over)),
                Ok(Err(report)) => all.push(self.say(&report)?),
                Err(error) => {
                    let report = Report::failed(&self.source.name, Some(news.target()), &error);
                    all.push(self.say(&report)?);
                }
            }
        }
        let wait = self.how.wait;
        let spool = &self.world.settings.spool.path;
        let outcomes = waiting
            .iter()
            .map(|(_, handed_over)| await_outcome(spool, &handed_over.drop, wait));
        for ((news, handed_over), outcome) in waiting.iter().zip(join_all(outcomes).await) {
            let mut report = self.take(news, &handed_over.drop, outcome?)?;
            report.fetched = Some(handed_over.fetched);
            all.push(self.say(&report)?);
        }
        if !self.how.only_check && all.iter().all(|came| *came < Came::Waits) {
            self.follower.tidy()?;
        }
        Ok(all)
    }

    fn say(&self, report: &Report) -> anyhow::Result<Came> {
        self.world.shown.report(report)?;
        Ok(report.result)
    }

    /// The outcomes that have come since an earlier run, of orders that aren't wanted any more.
    fn since(&mut self, wanted: &[News]) -> anyhow::Result<Vec<Report>> {
        let spool = &self.world.settings.spool.path;
        let mut reports = Vec::new();
        for (target, last) in self.dropped.targets.clone() {
            if last.waits.is_none() || wanted.iter().any(|news| *news.target() == target) {
                continue;
            }
            match last.became(spool)? {
                Some(Became::Waits(_)) => continue,
                Some(Became::Outcome(outcome)) => {
                    reports.push(Report::of(&self.source.name, &target, &outcome));
                }
                Some(Became::Nothing) | None => {}
            }
            if !self.how.only_check {
                self.waits_no_more(&target)?;
            }
        }
        Ok(reports)
    }

    fn waits_no_more(&mut self, target: &Target) -> anyhow::Result<()> {
        if let Some(last) = self.dropped.targets.get(target).cloned() {
            let waits = None;
            self.dropped
                .note(&self.folder, target, Last { waits, ..last })?;
        }
        Ok(())
    }

    /// What became of an order that was dropped before, as far as it isn't to be dropped once more.
    fn earlier(&mut self, news: &News) -> anyhow::Result<Option<Report>> {
        let last = self.dropped.targets.get(news.target()).cloned();
        let Some(last) = last.filter(|last| last.offer == news.id()) else {
            return Ok(None);
        };
        match last.became(&self.world.settings.spool.path)? {
            Some(Became::Outcome(outcome)) if !outcome.is_rejected() => {
                let drop = outcome.drop.clone();
                self.take(news, &drop, Ok(*outcome)).map(Some)
            }
            Some(Became::Waits(why)) => {
                let drop = last.waits.unwrap_or_default();
                self.take(news, &drop, Err(why)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Fetches what an order needs, and puts it into the spool; or says what there is to be said instead.
    async fn hand_over(&mut self, news: &News) -> anyhow::Result<Result<HandedOver, Report>> {
        let brought = self.follower.bring(news).await?;
        let report = |came| Report::new(&self.source.name, Some(news.target()), came);
        if !self.how.again && brought.is_in_effect(&self.tree) {
            self.follower.settle(news)?;
            return Ok(Err(report(Came::Unchanged)));
        }
        let takes = self.follower.takes(&brought, &self.tree).await?;
        if self.how.only_check {
            let mut report = report(Came::WouldChange);
            report.detail = Some(news.what().to_string());
            report.fetched = Some(takes);
            return Ok(Err(report));
        }
        let drop = NewDrop::begin(&self.world.settings.spool.path, news.target())?;
        let fetched = self.fill(&drop, &brought, takes.bytes).await?;
        let name = drop
            .finish()?
            .context("the spool has a drop of that name already")?;
        let last = Last {
            offer: news.id(),
            version: None,
            waits: Some(name.clone()),
            at: Moment::now(),
        };
        self.dropped.note(&self.folder, news.target(), last)?;
        let drop = name;
        Ok(Ok(HandedOver { drop, fetched }))
    }

    /// Puts an order, and the image that it needs, into a drop.
    async fn fill(&self, drop: &NewDrop, brought: &Brought, bytes: u64) -> anyhow::Result<Fetched> {
        let mut fetched = Fetched::default();
        if brought.has_image() {
            let progress = Arc::new(Progress::default());
            let what = format!("{} {}", self.source.name, brought.target);
            let bar = self.world.shown.begin(&what, bytes, Arc::clone(&progress));
            let into = drop.make_image()?;
            let took = self
                .follower
                .fetch(brought, &self.tree, &into, &progress)
                .await;
            bar.end(took.is_ok()).await;
            fetched = took?;
        }
        let papers = &brought.papers;
        let carried = brought.carried();
        drop.add_papers(
            (&papers.manifest, papers.signature.as_deref()),
            carried.map(|it| (&*it.manifest, it.signature.as_deref())),
        )?;
        Ok(fetched)
    }

    /// Takes note of what became of a drop.
    fn take(
        &mut self,
        news: &News,
        drop: &str,
        outcome: Result<Outcome, String>,
    ) -> anyhow::Result<Report> {
        let (name, target) = (&self.source.name, news.target());
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => return Ok(Report::waits(name, target, Some(drop.to_string()), why)),
        };
        let report = Report::of(name, target, &outcome);
        if outcome.is_rejected() {
            self.world.refuse(name, target, news.id(), &report);
            return Ok(report);
        }
        self.follower.settle(news)?;
        self.waits_no_more(target)?;
        Ok(report)
    }
}
