//! The steps of the pipeline: what gathers for the next one, and what is held back from it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decision::Decided;
use super::overview::Overview;
use super::pipeline::{Pipeline, Stepped};
use super::quiet::Quiet;
use super::troubles::tell_of_lookout;
use super::workshop::Workshop;
use crate::log::MessageId;
use crate::settings::SwapSettings;
use crate::spool::DropKey;
use crate::tree::Pointers;
use crate::words::Target;

/// A step waits so long for more drops while more are being worked on: what it costs is shared.
const GATHER: Duration = Duration::from_millis(50);

/// So many go without waiting for more, and none is begun while so many wait: the fewer, the sooner
/// another importer's drop goes. While nobody else has one, larger steps save syncs.
const BATCH: usize = 128;
const SHARED_BATCH: usize = 32;

/// The drops of an importer who has no more than so many on their way go first, by steps of their own:
/// a drop goes through four, which take longer the more drops are in them. Of such steps so many are
/// made before one for all.
const EXPRESS: usize = 8;
const MAX_EXPRESS: usize = 4;

/// Who has this has the tree, but while a step or a vacuum is under way.
pub(super) struct Steps {
    /// With the pointers; `None` while a step or a vacuum is under way.
    pub(super) pipeline: Option<Pipeline>,
    /// Drops that wait for the next step.
    pub(super) decided: Vec<Decided>,
    /// Rejected drops whose outcome could not be written: what they are rejected for stays true.
    pub(super) unwritten: Vec<Decided>,
    /// Drops that have passed others, by what those are known by: those have their outcome first, or a crash
    /// would bring them back after what is newer.
    behind: Vec<(Decided, HashSet<DropKey>)>,
    /// When the next step is made, whatever else is being worked on.
    until: Option<Instant>,
    /// Steps for few since the last one for all.
    express: usize,
    /// Several importers have drops on their way.
    pub(super) is_shared: bool,
    /// The importer who has a head start, and until when.
    pub(super) ahead: Option<(u32, Instant)>,
    quiet: Quiet,
}

impl Steps {
    pub(super) fn new(pointers: Pointers) -> Self {
        Self {
            pipeline: Some(Pipeline::new(pointers)),
            decided: Vec::new(),
            unwritten: Vec::new(),
            behind: Vec::new(),
            until: None,
            express: 0,
            is_shared: false,
            ahead: None,
            quiet: Quiet::new(),
        }
    }

    pub(super) fn add_all(&mut self, decided: Vec<Decided>) {
        for decided in decided {
            self.add(decided);
        }
    }

    /// Adds a drop, and before it those that it has passed.
    pub(super) fn add_behind(&mut self, passed: Vec<Decided>, decided: Decided) {
        if passed.is_empty() {
            return self.add(decided);
        }
        let keys = passed.iter().map(|it| it.claimed.key().clone());
        self.behind.push((decided, keys.collect()));
        self.add_all(passed);
    }

    /// A drop has its outcome.
    pub(super) fn has_settled(&mut self, key: &DropKey) {
        for (_, passed) in &mut self.behind {
            passed.remove(key);
        }
        let free = self.behind.extract_if(.., |(_, passed)| passed.is_empty());
        let free = free.map(|(decided, _)| decided).collect();
        self.add_all(free);
    }

    /// Tries again what could not be written.
    pub(super) fn retry(&mut self) {
        let unwritten = std::mem::take(&mut self.unwritten);
        self.add_all(unwritten);
    }

    /// How many drops wait for an outcome that could not be written.
    pub(super) fn left(&self) -> usize {
        self.unwritten.len() + self.behind.len()
    }

    pub(super) fn add(&mut self, decided: Decided) {
        self.decided.push(decided);
        self.gather();
    }

    /// From now on more is waited for, but not long.
    fn gather(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// Whether no more drops should be begun before a step was made.
    pub(super) fn is_full(&self) -> bool {
        self.decided.len() >= self.batch()
    }

    fn batch(&self) -> usize {
        if self.is_shared { SHARED_BATCH } else { BATCH }
    }

    /// The targets of the drops that are on their way, without those that are held.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        let decided = self.decided.iter().filter_map(|it| it.target.as_ref());
        let pipeline = self.pipeline.iter();
        decided.chain(pipeline.flat_map(Pipeline::targets))
    }

    /// Drops that are held until no machine uses what they replace.
    pub(super) fn held(&self) -> usize {
        self.quiet.held.len()
    }

    /// The next step, if it is time for one: drops wait for it, and none that will be decided soon is
    /// worth waiting for; or one that was held may go. [`Steps::take`] ends the step.
    pub(super) fn begin(
        &mut self,
        is_more_to_come: bool,
        swap: &SwapSettings,
    ) -> Option<impl FnOnce(&Workshop) -> (Pipeline, Stepped) + use<>> {
        let mut pipeline = self.pipeline.take()?;
        let released = self.quiet.release(swap);
        let is_gathered = !is_more_to_come
            || self.is_full()
            || self.until.is_some_and(|until| until <= Instant::now());
        let is_due = is_gathered && !(self.decided.is_empty() && pipeline.is_empty());
        let is_due = is_due && !self.is_behind(&pipeline);
        let only = self.of_few(&pipeline);
        if !is_due && only.is_none() && released.is_empty() {
            self.pipeline = Some(pipeline);
            return None;
        }
        self.express = only.map_or(0, |_| self.express + 1);
        let is_meant = |it: &mut Decided| only.is_none_or(|only| it.owner() == only);
        let decided: Vec<_> = self.decided.extract_if(.., is_meant).collect();
        if self.decided.is_empty() {
            self.until = None;
        }
        let lookout = Arc::clone(&self.quiet.lookout);
        Some(move |shop: &Workshop| {
            let stepped = pipeline.step((decided, only), released, shop, &lookout);
            (pipeline, stepped)
        })
    }

    /// The importers whose drops the next step may be for, each as often as there are drops.
    fn owners(&self, pipeline: &Pipeline) -> impl Iterator<Item = u32> {
        let decided = self.decided.iter().map(Decided::owner);
        pipeline.owners().chain(decided)
    }

    /// Whether a step would be for others than the importer who has a head start.
    fn is_behind(&self, pipeline: &Pipeline) -> bool {
        let ahead = self.ahead.map(|(owner, _)| owner);
        ahead.is_some_and(|ahead| self.owners(pipeline).any(|owner| owner != ahead))
    }

    /// The importer, of several, whose drops go first now, being few.
    fn of_few(&self, pipeline: &Pipeline) -> Option<u32> {
        if self.express >= MAX_EXPRESS {
            return None;
        }
        let mut counts = HashMap::<u32, usize>::new();
        for owner in self.owners(pipeline) {
            *counts.entry(owner).or_default() += 1;
        }
        let (owner, count) = counts
            .iter()
            .min_by_key(|(owner, count)| (**count, **owner))?;
        (counts.len() > 1 && *count <= EXPRESS).then_some(*owner)
    }

    /// A step has ended. What it held back is held.
    pub(super) fn take(&mut self, pipeline: Pipeline, stepped: &mut Stepped, swap: &SwapSettings) {
        if !pipeline.is_empty() {
            self.gather();
        }
        self.pipeline = Some(pipeline);
        tell_of_lookout(self.quiet.lookout.trouble());
        let message_id = MessageId::SwapDelayed;
        for target in stepped.overdue.drain(..) {
            let delay = humantime::format_duration(swap.max_delay);
            tracing::warn!(%message_id, %target, "swapping after {delay} though machines use what is replaced");
        }
        self.quiet.hold(&mut stepped.held, swap);
    }

    /// What the drops wait for that are held.
    pub(super) fn tell(&self, overview: &mut Overview) {
        self.quiet.tell(overview);
    }

    /// The daemon ends: what was not let in yet, and what is held, stays for the next start.
    pub(super) fn close(&mut self) {
        self.decided.clear();
        self.unwritten.clear();
        self.behind.clear();
        self.ahead = None;
        self.quiet.held.clear();
    }

    /// Whether the pointers are here, and nothing is on its way in the pipeline.
    pub(super) fn is_idle(&self) -> bool {
        self.pipeline.as_ref().is_some_and(Pipeline::is_empty)
    }

    /// When there is a step to be made even if nothing happens.
    pub(super) fn wake_up(&self) -> Option<Instant> {
        let ahead = self.ahead.map(|(_, until)| until);
        let gathered = self.until.max(ahead.filter(|_| self.until.is_some()));
        let times = [gathered, self.quiet.wake_up()].into_iter().flatten();
        times.min().filter(|_| self.pipeline.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Rejection;
    use crate::settings::Settings;
    use crate::spool::{Claimed, Seen};
    use crate::words::{Moment, Reason};

    #[test]
    fn a_step_waits_for_more_drops_but_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tree.path = folder.path().to_path_buf();
        let mut steps = Steps::new(Pointers::open(&settings).unwrap());
        let claimed = Claimed::for_test(&Seen::for_test("drop", 1, Moment::now()), 1);
        let target = Some("amd64/generic/noble/install".parse().unwrap());
        let rejection = Rejection::new(Reason::NoSpace, "");
        steps.add(Decided::reject(claimed, target, rejection));
        steps.until = Some(Instant::now() + GATHER * 1_000);
        assert!(steps.begin(true, &settings.swap).is_none());
        assert_eq!(steps.wake_up(), steps.until);
        steps.until = Some(Instant::now());
        assert!(steps.begin(true, &settings.swap).is_some());
    }

    fn add(steps: &mut Steps, owner: u32, count: usize) {
        for number in 0..count {
            let seen = Seen::for_test("drop", owner, Moment::now());
            let claimed = Claimed::for_test(&seen, number);
            let rejection = Rejection::new(Reason::NoSpace, "");
            steps.add(Decided::reject(claimed, None, rejection));
        }
    }

    #[test]
    fn drops_of_others_wait_while_an_importer_has_a_head_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tree.path = folder.path().to_path_buf();
        let mut steps = Steps::new(Pointers::open(&settings).unwrap());
        add(&mut steps, 1, 2 * EXPRESS);
        let until = Instant::now() + GATHER * 1_000;
        steps.ahead = Some((2, until));
        assert!(steps.begin(false, &settings.swap).is_none());
        assert_eq!(steps.wake_up(), Some(until), "not before");
        // What is the importer's own goes.
        add(&mut steps, 2, EXPRESS);
        assert!(steps.begin(false, &settings.swap).is_some());
        assert_eq!(steps.decided.len(), 2 * EXPRESS);
        steps.pipeline = Some(Pipeline::new(Pointers::open(&settings).unwrap()));
        steps.ahead = Some((1, until));
        assert!(steps.begin(false, &settings.swap).is_some());
    }

    #[test]
    fn an_importer_with_few_drops_goes_first_but_not_always() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tree.path = folder.path().to_path_buf();
        let mut steps = Steps::new(Pointers::open(&settings).unwrap());
        add(&mut steps, 1, 2 * EXPRESS);
        add(&mut steps, 2, EXPRESS);
        let pipeline = steps.pipeline.take().unwrap();
        assert_eq!(steps.of_few(&pipeline), Some(2));
        for _ in 0..MAX_EXPRESS {
            assert_eq!(steps.of_few(&pipeline), Some(2));
            steps.express += 1;
        }
        assert_eq!(steps.of_few(&pipeline), None, "it is everybody's turn");
        steps.express = 0;
        steps.decided.retain(|it| it.owner() == 1);
        assert_eq!(steps.of_few(&pipeline), None, "there is nobody else");
        steps.decided.truncate(1);
        assert_eq!(steps.of_few(&pipeline), None);
    }
}
