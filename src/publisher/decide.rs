//! One drop from its claim to the decision what will become of it.
//!
//! ```text
//! Ready --claim, check--> Checked --compare, stage--> Decided
//! ```
//! All of this may run side by side for several drops: machines see nothing of it.

use std::time::{Duration, Instant};

use super::decision::{Decided, Decision, Postponed, Request};
use super::lanes::{MAX_LISTED, Weight};
use super::looks::Next;
use super::notes::notes_of;
use super::orders::find_old;
use super::permits::Permits;
use super::promotion::Source;
use super::workshop::Workshop;
use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::settings::Limits;
use crate::spool::{Action, Claimed, DropKey, Manifest, Peeked, Ready, Seen};
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
    manifest: Manifest,
    wanted: Wanted,
    current: Current,
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
    Wanted(Wanted, Current, Vec<Note>),
}

impl Checked {
    pub(super) fn target(&self) -> &Target {
        &self.manifest.target
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
    /// What becomes of the drop that wants it, and what is noted of the image.
    fn decide(
        self,
        request: &Request<'_>,
        current: Current,
    ) -> Result<(Decision, Vec<Note>), Fault> {
        let decision = match self {
            Self::Image(image) => request.compare_or_stage(&image, current)?,
            Self::Kept(kept, record) => request.roll_back(kept, record, current)?,
            Self::Promoted(source) => return source.promote(request, current),
            Self::Without(generation) => request.withdraw_one(generation)?,
            Self::Nothing => request.withdraw(current)?,
        };
        Ok((decision, request.notes.to_vec()))
    }
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
        let (mut claimed, manifest) = match self.spool.claim(ready, &self.settings.spool) {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Begun::Gone(seen.key().clone())),
            Err(fault) => return Err(Postponed::new(seen, fault)),
        };
        let (target, fault) = match manifest {
            Ok(manifest) => match self.find_wanted(&mut claimed, &manifest, is_new) {
                Ok(Found::Done(done)) => {
                    let target = Some(manifest.target);
                    return Decided::new(claimed, target, Ok(done), started).map(Begun::Decided);
                }
                Ok(Found::Wanted(wanted, current, notes)) => {
                    return Ok(Begun::Checked(Box::new(Checked {
                        claimed,
                        manifest,
                        wanted,
                        current,
                        notes,
                        started,
                    })));
                }
                Err(fault) => (Some(manifest.target), fault),
            },
            Err(rejection) => (None, rejection.into()),
        };
        Decided::new(claimed, target, Err(fault), started).map(Begun::Decided)
    }

    /// Compares a drop with what is published, and stages it where it differs.
    fn decide(&self, checked: Checked) -> Result<Begun, Postponed> {
        let request = Request {
            notes: &checked.notes,
            ..self.request(&checked.claimed, &checked.manifest)
        };
        let decision = checked.wanted.decide(&request, checked.current);
        let (claimed, target) = (checked.claimed, checked.manifest.target);
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

    fn request<'a>(&'a self, claimed: &'a Claimed, manifest: &'a Manifest) -> Request<'a> {
        Request {
            shop: self,
            claimed,
            manifest,
            notes: &[],
        }
    }
}

impl Workshop {
    /// What is to be current, if the drop may ask for that; a drop whose claim is new has done nothing
    /// yet.
    fn find_wanted(
        &self,
        claimed: &mut Claimed,
        manifest: &Manifest,
        is_new: bool,
    ) -> Result<Found, Fault> {
        if !is_new && let Some((done, vouched)) = self.find_done(claimed.claim, manifest)? {
            claimed.credentials.vouched = vouched;
            return Ok(Found::Done(done));
        }
        if !matches!(manifest.action, Action::Withdraw(_)) {
            self.check_place(&manifest.target)?;
        }
        let current = self.staging.tree().current(&manifest.target)?;
        let limits = self.permits().check(claimed, manifest, &current)?;
        self.request(claimed, manifest)
            .find_wanted(current, &limits)
    }
}

impl Request<'_> {
    fn find_wanted(&self, current: Current, limits: &Limits) -> Result<Found, Fault> {
        let (spool, claimed) = (self.shop.spool.processing(), self.claimed);
        let tree = self.shop.staging.tree();
        let mut notes = Vec::new();
        let wanted = match &self.manifest.action {
            Action::Publish => {
                let image = Image::check(spool.image(claimed)?, claimed.importer.uid, limits)?;
                self.manifest.check_sizes(&image)?;
                self.manifest.check_boot(&image)?;
                if claimed.credentials.vouched.signer.is_some() {
                    self.manifest.check_says_all(&image)?;
                }
                let Manifest { boot, target, .. } = self.manifest;
                notes = notes_of(&image, boot, target, &self.shop.settings)?;
                Wanted::Image(image)
            }
            Action::Rollback { to, digest } => {
                spool.check_no_image(claimed)?;
                let (kept, record) = self.find_older(to.as_ref(), digest.as_ref())?;
                Wanted::Kept(kept, record)
            }
            Action::Promote {
                from,
                digest,
                generation,
            } => {
                spool.check_no_image(claimed)?;
                let meant = (digest.as_ref(), generation.as_ref());
                Wanted::Promoted(Source::find(self, from, meant)?)
            }
            Action::Withdraw(generation) => {
                spool.check_no_image(claimed)?;
                match generation {
                    Some(generation) => {
                        Wanted::Without(find_old(tree, &self.manifest.target, generation)?)
                    }
                    None => Wanted::Nothing,
                }
            }
        };
        self.check_replaces(&current)?;
        Ok(Found::Wanted(wanted, current, notes))
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
