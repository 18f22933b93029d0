//! What a start finds in the spool and in the tree, and what it does about it.

use std::collections::HashSet;

use anyhow::Context as _;

use super::queue::Queue;
use super::schedule::Schedule;
use super::troubles::Troubles;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::{Leaving, Left, Spool};
use crate::sys::{OpenFiles, parallel};
use crate::tree::{Pointers, Spared, Surveyed, Vacuum, vacuum};
use crate::words::{Moment, Target};

/// What the daemon goes on with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub pointers: Pointers,
    /// With the drops that were claimed.
    pub queue: Queue,
    /// Drops that have their outcome.
    pub leaving: Vec<Leaving>,
    pub vacuum: Vacuum,
    /// When it has something to do for which target.
    pub vacuums: Schedule,
    pub troubles: Troubles,
    /// Targets that have a current generation.
    pub targets: HashSet<Target>,
    pub last_published: Option<Moment>,
}

/// Finishes what a crash left behind in the tree, and takes up the drops that were claimed. With
/// `once` the daemon ends as soon as it can.
///
/// # Errors
/// When the tree or the spool can't be read.
pub(crate) fn recover(
    spool: &Spool,
    pointers: Pointers,
    settings: &Settings,
    once: bool,
) -> anyhow::Result<Recovered> {
    let left = spool.left_behind();
    let Left { claimed, leaving } = left.context("looking for claimed drops")?;
    let mut recovered = Recovered {
        pointers,
        queue: Queue::new(claimed, &leaving),
        leaving,
        // Nobody would look again at what it watches.
        vacuum: if once {
            Vacuum::default()
        } else {
            Vacuum::watching()
        },
        vacuums: Schedule::default(),
        troubles: Troubles::default(),
        targets: HashSet::new(),
        last_published: None,
    };
    if let Err(failure) = recovered.pointers.empty_staging() {
        tracing::warn!("sweeping the staging: {failure}, going on without");
    }
    let spared = Spared {
        open: OpenFiles::now(),
        drops: recovered.queue.known(),
    };
    let tree = recovered.pointers.tree();
    let targets = tree.targets().context("looking for targets in the tree")?;
    let is_worth_it = targets.len() > parallel::MANY;
    let surveyed = parallel::map(targets, is_worth_it, |target| {
        let surveyed = vacuum::survey(tree, &target, &settings.retention);
        (target, surveyed)
    });
    let mut leftovers = 0;
    for (target, surveyed) in surveyed {
        let tidied = surveyed.and_then(|found| recovered.tidy(&target, found, settings, &spared));
        let next = match tidied {
            Ok((swept, next)) => {
                leftovers += swept;
                next
            }
            Err(fault) => {
                recovered
                    .troubles
                    .meet_leftover(&target.to_string(), &fault);
                Some(Moment::now().later(settings.spool.rescan_interval))
            }
        };
        if let Some(next) = next {
            recovered.vacuums.add(next, target);
        }
    }
    let count = spared.drops.len();
    if leftovers > 0 || count > 0 {
        tracing::info!("recovered: swept {leftovers} leftovers, taking up {count} drops");
    }
    Ok(recovered)
}

impl Recovered {
    /// Returns how many leftovers were swept, and when vacuum has to do with the target.
    fn tidy(
        &mut self,
        target: &Target,
        found: Surveyed,
        settings: &Settings,
        spared: &Spared,
    ) -> Result<(usize, Option<Moment>), Fault> {
        if let Some(name) = found.current {
            self.last_published = self.last_published.max(name.published_at());
            self.targets.insert(target.clone());
        }
        if !found.is_untidy {
            return Ok((0, None));
        }
        let swept = vacuum::sweep(&mut self.pointers, target)?;
        let retention = &settings.retention;
        let next = self
            .vacuum
            .clean(&mut self.pointers, target, retention, spared)?;
        Ok((swept, next))
    }
}
