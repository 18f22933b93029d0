//! One drop from its claim to the decision what will become of it.
//!
//! ```text
//! Ready --claim, check--> Checked --compare, stage--> Decided
//! ```
//! All of this may run side by side for several drops: machines see nothing of it.

use std::time::{Duration, Instant};

use super::carried::Brought;
use super::decision::{Decided, Decision, Postponed, Request};
use super::lanes::{MAX_LISTED, Weight};
use super::looks::Next;
use super::orders::find_old;
use super::permits::Permits;
use super::promotion::Source;
use super::workshop::Workshop;
use crate::fault::{Fault, Rejection, reject};
use crate::image::Image;
use crate::settings::Limits;
use crate::spool::{Action, Claimed, DropKey, Papers, Peeked, Ready, Seen};
use crate::sys::Dir;
use crate::tree::{Current, Generation, Record};
use crate::words::{Note, Reason, Target};

/// What a file of an image costs besides its bytes, about.
const FILE: u64 = 16 << 10;

/// Looks into one importer's drops, and work on a batch of light ones, take no longer, but for the
/// last of them: then it is another's turn.
const TURN: Duration = Duration::from_millis(50);

/// What looks into drops have shown, and the drops that there was no room or no time for.
pub(super) type PeekedDrops = (Vec<(Next, Result<Peeked, Fault>)>, Vec<Next>);

/// How far a drop has come that was begun, with the target whose line it is the head of.
pub(super) type BegunDrop = (Option<Target>, Result<Begun, Postponed>);

/// An importer's drops that were begun, and those that there was no time for.
pub(super) type BegunDrops = (u32, Vec<BegunDrop>, Vec<Ready>);

#[derive(Debug)]
pub(super) enum Begun {
    /// The importer has taken the drop away.
    Gone(DropKey),
    /// The drop can be done, and that may take long.
    Checked(Box<Checked>),
    Decided(Decided),
    /// A claimed drop can't go on at its target, and others may pass: why, and what the drop is rejected
    /// for when they do.
    Aside(Claimed, Target, (Fault, Reason)),
}

/// A claimed drop that is worked on in a lane for such as are not light.
pub(super) enum Heavy {
    Checked(Box<Checked>),
    /// The drop has waited for its lane, and is checked anew.
    Seen(Seen),
}

/// A claimed drop that can be done, beside what is published at its target.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) claimed: Claimed,
    papers: Papers,
    wanted: Wanted,
    current: Current,
    /// What an image of the drop may be at most.
    limits: Limits,
    /// What is noted of the drop's image, where it has one.
    notes: Vec<Note>,
    started: Instant,
}

/// What is to be current.
#[derive(Debug)]
enum Wanted {
    /// The drop's image, which is good.
    Image(Image),
    /// A generation that is kept.
    Kept(Generation, Box<Record>),
    /// What is current at another target.
    Promoted(Source),
    /// One generation less, which isn't current.
    Without(Generation),
    Nothing,
}

/// What a check of a drop has shown.
enum Found {
    /// Nothing is left to do.
    Done(Decision),
    Wanted(Wanted, Current, Limits, Vec<Note>),
}

impl Checked {
    pub(super) fn target(&self) -> &Target {
        &self.papers.manifest.target
    }

    pub(super) fn weight(&self) -> Weight {
        let bytes = match &self.wanted {
            Wanted::Image(image) => image.bytes() + FILE * image.entries().len() as u64,
            // The generation is read to make sure that it is undamaged.
            Wanted::Kept(_, record) => record.head.bytes,
            Wanted::Promoted(source) => source.record.head.bytes,
            Wanted::Without(_) | Wanted::Nothing => 0,
        };
        Weight::of(bytes)
    }
}

impl Wanted {
    /// What is to be current, and what is noted of the image where that is the drop's.
    fn find(request: &Request<'_>) -> Result<(Self, Vec<Note>), Fault> {
        let action = &request.manifest.action;
        let in_tree = match action {
            Action::Publish => return Self::find_image(request),
            Action::Rollback { to, digest } => {
                let found = match request.find_older(to.as_ref(), digest.as_ref()) {
                    // Only the digest is the same in every tree.
                    Err(Fault::Reject(_)) if to.is_some() && request.carried.is_some() => {
                        request.find_older(None, digest.as_ref())
                    }
                    found => found,
                };
                found.map(|(kept, record)| Self::Kept(kept, record))
            }
            Action::Promote {
                from,
                digest,
                generation,
            } => {
                let meant = (digest.as_ref(), generation.as_ref());
                Source::find(request, from, meant).map(Self::Promoted)
            }
            Action::Withdraw(Some(generation)) => {
                let target = &request.manifest.target;
                find_old(request.tree(), target, generation).map(Self::Without)
            }
            Action::Withdraw(None) => Ok(Self::Nothing),
        };
        match in_tree {
            Err(Fault::Reject(rejection))
                if is_of_tree(&rejection) && request.carried.is_some() =>
            {
                Self::find_image(request)
            }
            wanted => Ok((wanted?, Vec::new())),
        }
    }

    fn find_image(request: &Request<'_>) -> Result<(Self, Vec<Note>), Fault> {
        let (image, notes) = Brought(request).check()?;
        Ok((Self::Image(image), notes))
    }

    /// What becomes of the drop that wants it, and what is noted of the image.
    fn decide(
        self,
        request: &Request<'_>,
        current: Current,
    ) -> Result<(Decision, Vec<Note>), Fault> {
        let in_tree = match self {
            Self::Image(image) => {
                let decision = request.compare_or_stage(&image, current)?;
                return Ok((decision, request.notes.to_vec()));
            }
            Self::Kept(kept, record) => {
                let decision = request.roll_back(kept, record, current);
                decision.map(|decision| (decision, Vec::new()))
            }
            Self::Promoted(source) => {
                let of_tree = Request {
                    carried: None,
                    ..*request
                };
                source.promote(&of_tree, current)
            }
            Self::Without(generation) => {
                return Ok((request.withdraw_one(generation)?, Vec::new()));
            }
            Self::Nothing => return Ok((request.withdraw(current)?, Vec::new())),
        };
        match in_tree {
            // What was there when somebody looked has gone since, or is damaged.
            Err(Fault::Reject(rejection))
                if is_of_tree(&rejection) && request.carried.is_some() =>
            {
                let (image, notes) = Brought(request).check()?;
                let request = Request {
                    notes: &notes,
                    ..*request
                };
                let current = request.tree().current(&request.manifest.target)?;
                let decision = request.compare_or_stage(&image, current)?;
                Ok((decision, notes))
            }
            decided => decided,
        }
    }
}

/// Whether an order is refused for what the tree has, or has not: the image that it carries will do.
fn is_of_tree(rejection: &Rejection) -> bool {
    matches!(
        rejection.reason,
        Reason::UnknownTarget | Reason::UnknownGeneration | Reason::Conflict
    )
}

impl Workshop {
    /// Looks into drops, in their order, as long as there is room for their manifests, and time.
    pub(super) fn peek(&self, drops: Vec<Next>) -> PeekedDrops {
        let (began, mut rest) = (Instant::now(), drops.into_iter());
        let (mut peeked, mut listed) = (Vec::new(), 0);
        while listed < MAX_LISTED
            && began.elapsed() < TURN
            && let Some(next) = rest.next()
        {
            let peek = self.spool.peek(next.0.clone(), &self.settings);
            self.progress.show_life();
            if let Ok(Peeked::Ready(ready)) = &peek {
                listed += ready.listed();
            }
            let holds_up = matches!(&peek, Ok(Peeked::Waits(seen)) if seen.holds_up());
            peeked.push((next, peek));
            if holds_up {
                break;
            }
        }
        (peeked, rest.collect())
    }

    /// Claims and checks drops, and decides what becomes of each unless that takes long. Returns those
    /// as well that there was no time for.
    pub(super) fn begin(&self, (owner, drops): (u32, Vec<Ready>)) -> BegunDrops {
        let (began, mut rest) = (Instant::now(), drops.into_iter());
        let mut begun = Vec::new();
        while (begun.is_empty() || began.elapsed() < TURN)
            && let Some(ready) = rest.next()
        {
            let line = ready.target().cloned();
            self.progress.show_life();
            let drop = self.check(ready).and_then(|drop| match drop {
                Begun::Checked(checked) if checked.weight() == Weight::Light => {
                    self.decide(*checked)
                }
                drop => Ok(drop),
            });
            begun.push((line, drop));
        }
        (owner, begun, rest.collect())
    }

    /// Does all that is left for a drop that is not light, the head of the line of `target`.
    ///
    /// # Errors
    /// What has to be better before the drop can be tried again.
    pub(super) fn begin_heavy(&self, heavy: Heavy, target: &Target) -> Result<Begun, Postponed> {
        let seen = match heavy {
            Heavy::Checked(checked) => return self.decide(*checked),
            Heavy::Seen(seen) => seen,
        };
        let ready = match self.spool.peek(seen.clone(), &self.settings) {
            Ok(Peeked::Ready(ready)) => ready,
            Ok(Peeked::Waits(_) | Peeked::Gone) => {
                return Ok(Begun::Gone(seen.key().clone()));
            }
            Err(fault) => return Err(Postponed::new(seen, fault)),
        };
        match self.check(ready)? {
            Begun::Checked(checked) if checked.target() != target => {
                let detail = "the manifest names another target than when the drop was claimed";
                let fault = reject(Reason::Changed, detail);
                Decided::new(checked.claimed, None, Err(fault), checked.started).map(Begun::Decided)
            }
            Begun::Checked(checked) => self.decide(*checked),
            begun => Ok(begun),
        }
    }

    /// Claims and checks a drop. Every drop that can be done comes back as [`Begun::Checked`].
    fn check(&self, ready: Ready) -> Result<Begun, Postponed> {
        let started = Instant::now();
        let seen = ready.seen.clone();
        let is_new = seen.is_incoming();
        let (mut claimed, papers) = match self.spool.claim(ready, &self.settings.spool) {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Begun::Gone(seen.key().clone())),
            Err(fault) => return Err(Postponed::new(seen, fault)),
        };
        let (target, fault) = match papers {
            Ok(papers) => match self.find_wanted(&mut claimed, &papers, is_new) {
                Ok(Found::Done(done)) => {
                    let target = Some(papers.manifest.target);
                    return Decided::new(claimed, target, Ok(done), started).map(Begun::Decided);
                }
                Ok(Found::Wanted(wanted, current, limits, notes)) => {
                    return Ok(Begun::Checked(Box::new(Checked {
                        claimed,
                        papers,
                        wanted,
                        current,
                        limits,
                        notes,
                        started,
                    })));
                }
                Err(fault) => (Some(papers.manifest.target), fault),
            },
            Err(rejection) => (None, rejection.into()),
        };
        Decided::new(claimed, target, Err(fault), started).map(Begun::Decided)
    }

    /// Compares a drop with what is published, and stages it where it differs.
    fn decide(&self, checked: Checked) -> Result<Begun, Postponed> {
        let request = Request {
            notes: &checked.notes,
            ..Request::new(self, &checked.claimed, (&checked.papers, &checked.limits))
        };
        let decision = checked.wanted.decide(&request, checked.current);
        let (claimed, target) = (checked.claimed, checked.papers.manifest.target);
        let (decision, notes) = match decision {
            Err(fault) if let Some(reason) = fault.steps_aside() => {
                return Ok(Begun::Aside(claimed, target, (fault, reason)));
            }
            Err(fault) => (Err(fault), Vec::new()),
            Ok((decision, notes)) => (Ok(decision), notes),
        };
        let decided = Decided::new(claimed, Some(target), decision, checked.started)?;
        Ok(Begun::Decided(Decided { notes, ..decided }))
    }

    fn permits(&self) -> Permits<'_> {
        let (settings, tree) = (&self.settings, self.staging.tree());
        Permits { settings, tree }
    }
}

impl Workshop {
    /// What is to be current, if the drop may ask for that; a drop whose claim is new has done nothing
    /// yet.
    fn find_wanted(
        &self,
        claimed: &mut Claimed,
        papers: &Papers,
        is_new: bool,
    ) -> Result<Found, Fault> {
        let manifest = &papers.manifest;
        if !is_new && let Some((done, vouched)) = self.find_done(claimed.claim, manifest)? {
            claimed.credentials.vouched = vouched;
            return Ok(Found::Done(done));
        }
        if !matches!(manifest.action, Action::Withdraw(_)) {
            self.check_place(&manifest.target)?;
        }
        let current = self.staging.tree().current(&manifest.target)?;
        let limits = self.permits().check(claimed, manifest, &current)?;
        self.spool.processing().check_names(claimed, papers)?;
        let request = Request::new(self, claimed, (papers, &limits));
        let (wanted, notes) = Wanted::find(&request)?;
        request.check_replaces(&current)?;
        Ok(Found::Wanted(wanted, current, limits, notes))
    }
}

impl Workshop {
    /// Whether the target can be beside what else the daemon writes. One that is there already can
    /// still be withdrawn.
    fn check_place(&self, target: &Target) -> Result<(), Fault> {
        let in_place = self.settings.in_place_of(target, Dir::without_links);
        let Some((key, path)) = in_place else {
            return Ok(());
        };
        let detail = format!(
            "{target} is in the way of {path:?}, which the daemon writes (`{key}`); expected a target \
             neither above nor below it"
        );
        Err(reject(Reason::TargetOccupied, detail))
    }
}
