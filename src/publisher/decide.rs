//! One drop from its claim to the decision what will become of it.
//!
//! ```text
//! Ready --claim, check--> Checked --compare, stage--> Decided
//! ```
//! All of this may run side by side for several drops: machines see nothing of it.

use std::sync::Arc;
use std::time::Instant;

use super::decision::{Decided, Postponed};
use super::orders::{check_replaces, find_older, roll_back, withdraw};
use super::publication::Publication;
use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::settings::{Limits, Settings};
use crate::spool::{Action, Claimed, Manifest, Peeked, Ready, Seen, Spool};
use crate::sys::Progress;
use crate::tree::{Current, Generation, Record, Staging};
use crate::words::{Reason, Target};

/// A heavier drop is worked on in a lane of its own, so that it holds up no light one; in bytes.
const HEAVY: u64 = 64 << 20;

/// What a file of an image costs besides its bytes, about.
const FILE: u64 = 16 << 10;

/// What work on a drop needs.
#[derive(Clone, Debug)]
pub(crate) struct Workshop {
    pub(crate) spool: Arc<Spool>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) progress: Arc<Progress>,
}

/// A claimed drop that can be done, beside what is published at its target.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) claimed: Claimed,
    manifest: Manifest,
    wanted: Wanted,
    current: Current,
    started: Instant,
}

/// What is to be current.
#[derive(Debug)]
enum Wanted {
    /// The drop's image, which is good.
    Image(Image),
    /// A generation that is kept.
    Kept(Generation, Box<Record>),
    Nothing,
}

/// How far a drop came that was begun.
#[derive(Debug)]
pub(super) enum Begun {
    /// Its importer has taken it away.
    Gone,
    /// The drop can be done. What [`Workshop::begin`] leaves at that is heavy.
    Checked(Box<Checked>),
    Decided(Decided),
}

impl Checked {
    pub(super) fn target(&self) -> &Target {
        &self.manifest.target
    }

    fn is_heavy(&self) -> bool {
        let weight = match &self.wanted {
            Wanted::Image(image) => image.bytes() + FILE * image.entries().len() as u64,
            // To make sure that the generation is undamaged it is read.
            Wanted::Kept(_, record) => record.head.bytes,
            Wanted::Nothing => 0,
        };
        weight >= HEAVY
    }
}

impl Workshop {
    /// Claims and checks a drop, and decides what becomes of it unless that takes long.
    ///
    /// # Errors
    /// What has to be better before the drop can be tried again.
    pub(super) fn begin(&self, ready: Ready, limits: &Limits) -> Result<Begun, Postponed> {
        match self.check(ready, limits)? {
            Begun::Checked(checked) if !checked.is_heavy() => {
                self.decide(*checked, limits).map(Begun::Decided)
            }
            begun => Ok(begun),
        }
    }

    /// The whole way of a heavy drop that was claimed before, and is first in the line of `target`.
    /// `None` when somebody has removed it.
    ///
    /// # Errors
    /// As [`Workshop::begin`].
    pub(super) fn begin_heavy(
        &self,
        seen: Seen,
        target: &Target,
        settings: &Settings,
    ) -> Result<Option<Decided>, Postponed> {
        let peeked = self.spool.peek(seen.clone(), &settings.spool);
        let ready = match peeked.map_err(|fault| Postponed { seen, fault })? {
            Peeked::Ready(ready) => ready,
            Peeked::Incomplete | Peeked::Gone => return Ok(None),
        };
        match self.check(ready, &settings.limits)? {
            Begun::Checked(checked) if checked.target() != target => {
                let detail = "the manifest names another target than when the drop was claimed";
                let fault = reject(Reason::Changed, detail);
                Decided::new(checked.claimed, None, Err(fault), checked.started).map(Some)
            }
            Begun::Checked(checked) => self.decide(*checked, &settings.limits).map(Some),
            Begun::Decided(decided) => Ok(Some(decided)),
            Begun::Gone => Ok(None),
        }
    }

    /// Claims and checks a drop.
    fn check(&self, ready: Ready, limits: &Limits) -> Result<Begun, Postponed> {
        let started = Instant::now();
        let seen = ready.seen.clone();
        let (claimed, manifest) = match self.spool.claim(ready) {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Begun::Gone),
            Err(failure) => {
                let fault = failure.into();
                return Err(Postponed { seen, fault });
            }
        };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(rejection) => {
                let decided = Decided::new(claimed, None, Err(rejection.into()), started);
                return decided.map(Begun::Decided);
            }
        };
        match self.find_wanted(&claimed, &manifest, limits) {
            Ok((wanted, current)) => Ok(Begun::Checked(Box::new(Checked {
                claimed,
                manifest,
                wanted,
                current,
                started,
            }))),
            Err(fault) => {
                let target = Some(manifest.target);
                Decided::new(claimed, target, Err(fault), started).map(Begun::Decided)
            }
        }
    }

    fn find_wanted(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        limits: &Limits,
    ) -> Result<(Wanted, Current), Fault> {
        let (tree, target) = (self.staging.tree(), &manifest.target);
        let current = tree.current(target)?;
        let wanted = match &manifest.action {
            Action::Publish => {
                let dir = self.spool.image(claimed)?;
                let image = Image::check(dir, claimed.importer.uid, limits)?;
                manifest.check_sizes(&image)?;
                Wanted::Image(image)
            }
            Action::Rollback(to) => {
                self.spool.check_no_image(claimed)?;
                let (kept, record) = find_older(tree, claimed, target, to.as_ref(), &current)?;
                Wanted::Kept(kept, record)
            }
            Action::Withdraw => {
                self.spool.check_no_image(claimed)?;
                Wanted::Nothing
            }
        };
        check_replaces(tree, claimed, manifest, &current)?;
        Ok((wanted, current))
    }

    /// Compares a drop with what is published, and stages it where it differs.
    ///
    /// # Errors
    /// As [`Workshop::begin`].
    pub(super) fn decide(&self, checked: Checked, limits: &Limits) -> Result<Decided, Postponed> {
        let Checked {
            claimed,
            manifest,
            wanted,
            current,
            started,
        } = checked;
        let (staging, progress) = (&*self.staging, &*self.progress);
        let decision = match wanted {
            Wanted::Image(image) => {
                let publication = Publication {
                    staging,
                    progress,
                    claimed: &claimed,
                    manifest: &manifest,
                    image: &image,
                    min_free_space: limits.min_free_space,
                };
                publication.compare_or_stage(current)
            }
            Wanted::Kept(kept, record) => {
                roll_back(staging, progress, &claimed, (kept, record), current)
            }
            Wanted::Nothing => withdraw(staging, progress, &claimed, &manifest.target, current),
        };
        Decided::new(claimed, Some(manifest.target), decision, started)
    }
}
