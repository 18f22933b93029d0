//! What a start finds in the spool and in the tree, and what it does about it.

use anyhow::Context as _;

use super::cleanup::Cleanup;
use super::queue::Queue;
use super::report::Report;
use super::troubles::Troubles;
use crate::settings::Settings;
use crate::spool::Spool;
use crate::sys::{OpenFiles, map};
use crate::text::counted;
use crate::tree::{Pointers, Vacuum};

/// So many targets one thread surveys.
const FEW: usize = 16;

/// Finishes what a crash left behind in the tree, takes up the drops that were claimed, and reports
/// what is current. With `once` the daemon ends as soon as it can.
///
/// # Errors
/// When the tree or the spool can't be read.
pub(super) fn recover(
    spool: &Spool,
    mut pointers: Pointers,
    report: &mut Report,
    settings: &Settings,
    once: bool,
) -> anyhow::Result<(Pointers, Queue, Cleanup, Troubles)> {
    let left = spool.left_behind();
    let (claimed, leaving) = left.context("looking for claimed drops")?;
    let queue = Queue::new(claimed, &leaving);
    if let Err(failure) = pointers.empty_staging() {
        tracing::warn!("sweeping the staging: {failure}, going on without");
    }
    let open = OpenFiles::now();
    let (tree, retention) = (pointers.tree(), &settings.retention);
    let targets = tree.targets().context("looking for targets in the tree")?;
    let surveyed = map(targets, FEW, |target| {
        let surveyed = Vacuum::survey(tree, &target, retention);
        (target, surveyed)
    });
    // With `once` nobody would look again at what a vacuum watches.
    let mut vacuum = if once {
        Vacuum::default()
    } else {
        Vacuum::watching()
    };
    let (mut cleaned, mut leftovers) = (Vec::new(), 0);
    for (target, surveyed) in surveyed {
        let next = surveyed.and_then(|found| {
            report.take_current(&target, found.swapped_at);
            if !found.is_untidy {
                return Ok(None);
            }
            leftovers += Vacuum::sweep(&mut pointers, &target)?;
            vacuum.clean(&mut pointers, &target, retention, &open)
        });
        if !matches!(next, Ok(None)) {
            cleaned.push((target, next));
        }
    }
    let (mut cleanup, mut troubles) = (Cleanup::new(leaving), Troubles::default());
    cleanup.take_vacuumed(vacuum, cleaned, settings, &mut troubles);
    let count = queue.known().count();
    if leftovers > 0 || count > 0 {
        let (drops, leftovers) = (counted(count, "drop"), counted(leftovers, "leftover"));
        tracing::info!("resuming {drops}, swept {leftovers}");
    }
    Ok((pointers, queue, cleanup, troubles))
}
