//! What a start finds in the spool and in the tree, and what it does about it.

use std::collections::HashSet;

use anyhow::Context as _;

use super::cleanup::{Cleanup, Schedule};
use super::queue::Queue;
use super::troubles::Troubles;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::spool::Spool;
use crate::sys::{OpenFiles, map};
use crate::tree::{Pointers, Spared, Surveyed, Vacuum};
use crate::words::{Moment, Target};

/// So many targets one thread surveys.
const FEW: usize = 16;

/// What the daemon goes on with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(super) pointers: Pointers,
    /// With the drops that were claimed.
    pub(super) queue: Queue,
    /// With the drops that have their outcome.
    pub(super) cleanup: Cleanup,
    pub(super) troubles: Troubles,
    /// Targets that have a current generation.
    pub(super) targets: HashSet<Target>,
    pub(super) last_published: Option<Moment>,
}

/// Finishes what a crash left behind in the tree, and takes up the drops that were claimed. With
/// `once` the daemon ends as soon as it can.
///
/// # Errors
/// When the tree or the spool can't be read.
pub(crate) fn recover(
    spool: &Spool,
    mut pointers: Pointers,
    settings: &Settings,
    once: bool,
) -> anyhow::Result<Recovered> {
    let left = spool.left_behind();
    let (claimed, leaving) = left.context("looking for claimed drops")?;
    let queue = Queue::new(claimed, &leaving);
    if let Err(failure) = pointers.empty_staging() {
        tracing::warn!("sweeping the staging: {failure}, going on without");
    }
    let spared = Spared {
        retention: &settings.retention,
        open: OpenFiles::now(),
        drops: queue.known(),
    };
    let tree = pointers.tree();
    let targets = tree.targets().context("looking for targets in the tree")?;
    let surveyed = map(targets, FEW, |target| {
        let surveyed = Vacuum::survey(tree, &target, &settings.retention);
        (target, surveyed)
    });
    let mut tidying = Tidying {
        pointers,
        spared,
        // Nobody would look again at what it watches.
        vacuum: if once {
            Vacuum::default()
        } else {
            Vacuum::watching()
        },
        due: Schedule::default(),
        targets: HashSet::new(),
        last_published: None,
        leftovers: 0,
    };
    let mut troubles = Troubles::default();
    for (target, surveyed) in surveyed {
        if let Err(fault) = surveyed.and_then(|found| tidying.tidy(&target, found)) {
            troubles.meet_leftover(&target.to_string(), &fault);
            let later = Moment::now().later(settings.spool.rescan_interval);
            tidying.due.add(later, target);
        }
    }
    let (leftovers, count) = (tidying.leftovers, tidying.spared.drops.len());
    if leftovers > 0 || count > 0 {
        tracing::info!("recovered: swept {leftovers} leftovers, taking up {count} drops");
    }
    Ok(Recovered {
        pointers: tidying.pointers,
        queue,
        cleanup: Cleanup::new(leaving, tidying.vacuum, tidying.due),
        troubles,
        targets: tidying.targets,
        last_published: tidying.last_published,
    })
}

/// The tree on its way to be tidy.
struct Tidying<'a> {
    pointers: Pointers,
    spared: Spared<'a>,
    vacuum: Vacuum,
    /// When vacuum has something to do for which target.
    due: Schedule,
    targets: HashSet<Target>,
    last_published: Option<Moment>,
    leftovers: usize,
}

impl Tidying<'_> {
    fn tidy(&mut self, target: &Target, found: Surveyed) -> Result<(), Fault> {
        if let Some(name) = found.current {
            self.last_published = self.last_published.max(name.published_at());
            self.targets.insert(target.clone());
        }
        if !found.is_untidy {
            return Ok(());
        }
        self.leftovers += Vacuum::sweep(&mut self.pointers, target)?;
        let (pointers, spared) = (&mut self.pointers, &self.spared);
        if let Some(next) = self.vacuum.clean(pointers, target, spared)? {
            self.due.add(next, target.clone());
        }
        Ok(())
    }
}
