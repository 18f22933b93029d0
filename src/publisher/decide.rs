//! One drop from its claim to the decision what will become of it.
//!
//! ```text
//! Ready --claim, check--> Checked --compare, stage--> Decided
//! ```
//! All of this may run side by side for several drops: machines see nothing of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::fault::Fault;
use crate::image::{Base, Image, Listing, compare, copy, hash};
use crate::settings::Limits;
use crate::spool::{
    Action, Claimed, Manifest, Outcome, Published, Ready, Replaces, Seen, Spool, check_claims,
    check_sizes, outcome,
};
use crate::sys::{Failure, Progress};
use crate::tree::{
    Current, Draft, Event, Generation, Happened, Head, Origin, Previous, Record, Staged, Staging,
    record,
};
use crate::words::{GenerationName, Moment, Reason, Target, Verdict};

/// What work on a drop needs.
#[derive(Clone, Debug)]
pub(crate) struct Workshop {
    pub spool: Arc<Spool>,
    pub staging: Arc<Staging>,
    pub limits: Limits,
    pub progress: Arc<Progress>,
}

/// A claimed drop that can be done, beside what is published at its target.
#[derive(Debug)]
pub(crate) struct Checked {
    claimed: Claimed,
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

/// A drop of which it is known what will become of it.
#[derive(Debug)]
pub(crate) struct Decided {
    claimed: Claimed,
    target: Option<Target>,
    decision: Decision,
    started: Instant,
}

#[derive(Debug)]
enum Decision {
    Change(Box<Staged>),
    /// This very drop did what it was to do before a crash kept its outcome from being written.
    Again(Verdict, Published),
    Unchanged(Published),
    Reject(Reason, String),
}

/// A drop that could not be worked on, for now.
#[derive(Debug)]
pub(crate) struct Postponed {
    pub seen: Seen,
    pub fault: Fault,
}

/// How the first step ended.
#[derive(Debug)]
pub(crate) enum Start {
    /// Its importer has taken it away.
    Gone,
    Checked(Box<Checked>),
    Decided(Decided),
}

impl Checked {
    /// What it costs, about, in bytes to be copied.
    pub(crate) fn weight(&self) -> u64 {
        const FILE: u64 = 16 << 10;
        match &self.wanted {
            Wanted::Image(image) => image.bytes() + FILE * image.entries().len() as u64,
            // To make sure that it is undamaged it is read.
            Wanted::Kept(_, record) => record.head.bytes,
            Wanted::Nothing => 0,
        }
    }

    /// The target it is for.
    pub(crate) fn target(&self) -> &Target {
        &self.manifest.target
    }

    /// The drop as it is found again where it is now.
    pub(crate) fn again(&self) -> Seen {
        self.claimed.again()
    }
}

impl Workshop {
    /// Claims and checks a drop.
    ///
    /// # Errors
    /// What has to be better before it can be tried again.
    pub(crate) fn start(&self, ready: Ready) -> Result<Start, Postponed> {
        let started = Instant::now();
        let seen = ready.seen.clone();
        let (claimed, manifest) = match self.spool.claim(ready) {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Start::Gone),
            Err(failure) => {
                return Err(Postponed {
                    seen,
                    fault: failure.into(),
                });
            }
        };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err((reason, detail)) => {
                let decision = Decision::Reject(reason, detail);
                return Ok(Start::Decided(Decided {
                    claimed,
                    target: None,
                    decision,
                    started,
                }));
            }
        };
        match self.check(&claimed, &manifest) {
            Ok((wanted, current)) => {
                let checked = Checked {
                    claimed,
                    manifest,
                    wanted,
                    current,
                    started,
                };
                Ok(Start::Checked(Box::new(checked)))
            }
            Err(fault) => decide(claimed, &manifest, Err(fault), started).map(Start::Decided),
        }
    }

    /// Compares a drop with what is published, and stages it where it differs.
    ///
    /// # Errors
    /// As [`Workshop::start`].
    pub(crate) fn decide(&self, checked: Checked) -> Result<Decided, Postponed> {
        let Checked {
            claimed,
            manifest,
            wanted,
            current,
            started,
        } = checked;
        let decision = match wanted {
            Wanted::Image(image) => self.compare_or_stage(&claimed, &manifest, &image, current),
            Wanted::Kept(kept, record) => self.roll_back(&claimed, kept, *record, current),
            Wanted::Nothing => self.withdraw(&claimed, &manifest.target, current),
        };
        decide(claimed, &manifest, decision, started)
    }

    fn check(&self, claimed: &Claimed, manifest: &Manifest) -> Result<(Wanted, Current), Fault> {
        let target = &manifest.target;
        let current = self.staging.tree().current(target)?;
        let wanted = match &manifest.action {
            Action::Publish => {
                let dir = self.spool.image(claimed)?;
                let image = Image::check(dir, claimed.importer.uid, &self.limits)?;
                check_sizes(manifest, &image)?;
                Wanted::Image(image)
            }
            Action::Rollback(to) => {
                self.spool.check_no_image(claimed)?;
                let (kept, record) = match &current {
                    // It has done it already, before a crash.
                    Current::Generation(current) if is_done(claimed, current) => {
                        self.find_older(target, Some(&current.name))?
                    }
                    _ => self.find_older(target, to.as_ref())?,
                };
                Wanted::Kept(kept, record)
            }
            Action::Withdraw => {
                self.spool.check_no_image(claimed)?;
                Wanted::Nothing
            }
        };
        self.check_replaces(claimed, manifest, &current)?;
        Ok((wanted, current))
    }

    /// Whether what is current is what the manifest expects. Of a directory that somebody else made
    /// that is only known once it was read.
    fn check_replaces(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        current: &Current,
    ) -> Result<(), Fault> {
        let Some(replaces) = &manifest.replaces else {
            return Ok(());
        };
        let target = &manifest.target;
        match current {
            Current::Generation(Generation {
                record: Some(record),
                ..
            }) => {
                let head = &record.head;
                // It has done it already, before a crash.
                if is_of(claimed, head) || replaces.is(&head.digest) {
                    return Ok(());
                }
                let current = format!("{} with digest {}", head.generation, head.digest);
                Err(conflict(&current, replaces))
            }
            Current::Plain(_) if *replaces == Replaces::Nothing => {
                Err(conflict("a folder that the daemon did not make", replaces))
            }
            Current::Plain(_) => Ok(()),
            Current::Generation(_) | Current::Nothing => {
                match self.staging.tree().pointed(target)? {
                    Some(name) if replaces.may_be(&name) => Ok(()),
                    Some(name) => Err(conflict(name.as_str(), replaces)),
                    None if *replaces == Replaces::Nothing => Ok(()),
                    None if self.find_withdrawal(claimed, target)?.is_some() => Ok(()),
                    None => Err(conflict("nothing", replaces)),
                }
            }
        }
    }

    /// The generation that a rollback asks for.
    fn find_older(
        &self,
        target: &Target,
        to: Option<&GenerationName>,
    ) -> Result<(Generation, Box<Record>), Fault> {
        let tree = self.staging.tree();
        let pointed = tree.pointed(target)?;
        if pointed.is_none() && tree.generations(target)?.is_none() {
            return Err(unknown_target(target));
        }
        let found = match to {
            Some(name) => tree.generation(target, name.clone())?,
            None => tree.previous(target, pointed.as_ref())?,
        };
        let what = to.map_or_else(
            || "one older than the current".to_string(),
            GenerationName::to_string,
        );
        let unknown = || {
            let detail = format!("{target} keeps no generation {what}; expected one that is kept");
            Fault::Reject(Reason::UnknownGeneration, detail)
        };
        let mut kept = found.ok_or_else(unknown)?;
        let record = kept.record.take().ok_or_else(unknown)?;
        Ok((kept, Box::new(record)))
    }

    fn roll_back(
        &self,
        claimed: &Claimed,
        kept: Generation,
        mut record: Record,
        current: Current,
    ) -> Result<Decision, Fault> {
        let previous = match current {
            Current::Generation(current) if current.name == kept.name => {
                return Ok(unchanged(claimed, &record.head));
            }
            Current::Generation(current) => Previous::Generation(current.name),
            Current::Nothing => Previous::Nothing,
            Current::Plain(_) => return Err(occupied(&record.head.target)),
        };
        let image = Image::read(kept.dir, Some(self.staging.ownership()))?;
        let is_whole =
            image.is_sound() && hash(&image, &self.progress)?.digest() == record.head.digest;
        if !is_whole {
            let detail = format!(
                "{} is not what was published any more; expected it undamaged",
                kept.name
            );
            return Err(Fault::Reject(Reason::UnknownGeneration, detail));
        }
        let origin = origin(claimed);
        let now = Moment::now();
        record.note(now, Happened::RolledBack, Some(&origin));
        record.head.published_at = now;
        record.head.from = Some(origin);
        let staged = self.staging.stage_kept(&record, previous)?;
        Ok(Decision::Change(Box::new(staged)))
    }

    fn withdraw(
        &self,
        claimed: &Claimed,
        target: &Target,
        current: Current,
    ) -> Result<Decision, Fault> {
        let generation = match current {
            Current::Generation(generation) => generation,
            Current::Plain(_) => return Err(occupied(target)),
            Current::Nothing => {
                let head = self.find_withdrawal(claimed, target)?;
                let head = head.ok_or_else(|| unknown_target(target))?;
                return Ok(Decision::Again(Verdict::Withdrawn, published(&head)));
            }
        };
        let mut record = match generation.record {
            Some(record) => record,
            // Lost: what is there will be what is known of it.
            None => {
                let image = Image::read(generation.dir, None)?;
                let listing = hash(&image, &self.progress)?;
                let mut record = new_record(target, listing, &[], None, None);
                record.head.generation = generation.name;
                record
            }
        };
        record.note(Moment::now(), Happened::Withdrawn, Some(&origin(claimed)));
        let staged = self.staging.stage_withdrawal(&record)?;
        Ok(Decision::Change(Box::new(staged)))
    }

    /// The head of the generation that this very drop has withdrawn already, before a crash.
    fn find_withdrawal(&self, claimed: &Claimed, target: &Target) -> Result<Option<Head>, Failure> {
        let last = self.staging.tree().previous(target, None)?;
        let Some(record) = last.and_then(|generation| generation.record) else {
            return Ok(None);
        };
        let is_it = record.history.last().is_some_and(|event| {
            event.what == Happened::Withdrawn
                && event.drop.as_ref() == Some(&claimed.name)
                && event.at >= claimed.claimed_at
        });
        Ok(is_it.then_some(record.head))
    }

    fn compare_or_stage(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        image: &Image,
        current: Current,
    ) -> Result<Decision, Fault> {
        match current {
            Current::Nothing => self.stage(claimed, manifest, image, None, Previous::Nothing),
            Current::Plain(dir) => {
                let theirs = Image::read(dir, None)?;
                self.replace_plain(claimed, manifest, image, &theirs)
            }
            Current::Generation(generation) => {
                let previous = Previous::Generation(generation.name);
                // One that nobody knows the contents of, or that can't be read, is damaged: the
                // drop repairs it.
                let published = Image::read(generation.dir, Some(self.staging.ownership()));
                let (Some(record), Ok(published)) = (generation.record, published) else {
                    return self.stage(claimed, manifest, image, None, previous);
                };
                let comparison = compare(image, &published, &self.progress)?;
                // Where the record contradicts the manifest, the bytes themselves decide.
                let is_trusted = check_claims(manifest, &record.listing).is_ok();
                if comparison.is_same && is_trusted {
                    return Ok(unchanged(claimed, &record.head));
                }
                let base = is_trusted.then_some(Base {
                    dir: published.dir(),
                    listing: &record.listing,
                    same_files: &comparison.same_files,
                });
                self.stage(claimed, manifest, image, base.as_ref(), previous)
            }
        }
    }

    /// For a target that is a directory which somebody else made.
    fn replace_plain(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        image: &Image,
        theirs: &Image,
    ) -> Result<Decision, Fault> {
        if !theirs.is_sound() {
            let detail = format!(
                "{} is a folder that the daemon did not make, with something in it that is no file, \
                 folder or link; expected nothing else",
                manifest.target
            );
            return Err(Fault::Reject(Reason::TargetOccupied, detail));
        }
        let is_same = compare(image, theirs, &self.progress)?.is_same;
        let listing = hash(if is_same { image } else { theirs }, &self.progress)?;
        if let Some(replaces) = &manifest.replaces
            && !replaces.is(&listing.digest())
        {
            let current = format!("a folder with digest {}", listing.digest());
            return Err(conflict(&current, replaces));
        }
        if is_same {
            check_claims(manifest, &listing)?;
            return Ok(Decision::Unchanged(Published {
                generation: None,
                digest: listing.digest(),
                files: listing.files.len(),
                bytes: listing.bytes(),
            }));
        }
        let kept = self
            .staging
            .tree()
            .kept(&manifest.target, &listing.digest())?;
        let record = new_record(&manifest.target, listing, &kept, None, None);
        self.stage(
            claimed,
            manifest,
            image,
            None,
            Previous::Plain(Box::new(record)),
        )
    }

    fn stage(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        image: &Image,
        base: Option<&Base<'_>>,
        previous: Previous,
    ) -> Result<Decision, Fault> {
        self.check_space(image, base)?;
        let draft = self.staging.begin()?;
        let listing = copy(
            image,
            &draft.dir,
            base,
            self.staging.gives_away_to(),
            &self.progress,
        )?;
        check_claims(manifest, &listing)?;
        let version = manifest.version.clone();
        let target = &manifest.target;
        let kept = self.staging.tree().kept(target, &listing.digest())?;
        let mut record = new_record(target, listing, &kept, version, Some(origin(claimed)));
        let staged = match self.find_kept(&record, kept, &previous)? {
            Some((name, history)) => {
                record.head.generation = name;
                record.history = history;
                let (now, from) = (record.head.published_at, record.head.from.clone());
                record.note(now, Happened::Published, from.as_ref());
                self.staging.stage_kept(&record, previous)?
            }
            None => Draft::finish(draft, &record, previous)?,
        };
        Ok(Decision::Change(Box::new(staged)))
    }

    /// The one of these generations that holds the very image of `record`, and is undamaged; with
    /// its history.
    fn find_kept(
        &self,
        record: &Record,
        kept: Vec<GenerationName>,
        previous: &Previous,
    ) -> Result<Option<(GenerationName, Vec<Event>)>, Fault> {
        let Head { target, digest, .. } = &record.head;
        for name in kept {
            // The current one was compared already.
            if matches!(previous, Previous::Generation(current) if *current == name) {
                continue;
            }
            let Some(kept) = self.staging.tree().generation(target, name)? else {
                continue;
            };
            let Ok(image) = Image::read(kept.dir, Some(self.staging.ownership())) else {
                continue;
            };
            let Some(record) = kept.record.filter(|_| image.is_sound()) else {
                continue;
            };
            match hash(&image, &self.progress) {
                Ok(listing) if listing.digest() == *digest => {
                    return Ok(Some((kept.name, record.history)));
                }
                Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                _ => {}
            }
        }
        Ok(None)
    }

    fn check_space(&self, image: &Image, base: Option<&Base<'_>>) -> Result<(), Fault> {
        let is_shared = |path| base.is_some_and(|base| base.same_files.contains(path));
        let copied = image.files().filter(|(path, _)| !is_shared(*path));
        let wanted: u64 = copied.map(|(_, size)| size).sum();
        let free = self.staging.free_space()?;
        if wanted.saturating_add(self.limits.min_free_space) > free {
            return Err(Fault::NoSpace {
                wanted: ByteSize(wanted),
                free: ByteSize(free),
            });
        }
        Ok(())
    }
}

impl Decided {
    /// The target it is for; `None` when its manifest is no good.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// The drop itself.
    pub(crate) fn claimed(&self) -> &Claimed {
        &self.claimed
    }

    /// What is to be done in the tree, if anything.
    pub(crate) fn staged(&self) -> Option<&Staged> {
        match &self.decision {
            Decision::Change(staged) => Some(staged),
            _ => None,
        }
    }

    /// How long it has been the daemon's.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether vacuum may have to do with its target afterwards.
    pub(crate) fn has_replaced(&self) -> bool {
        match &self.decision {
            Decision::Change(staged) => staged.has_previous(),
            // What it was is not known any more.
            Decision::Again(..) => true,
            Decision::Unchanged(_) | Decision::Reject(..) => false,
        }
    }

    /// Whether its outcome tells of a change in the tree.
    pub(crate) fn touches_tree(&self) -> bool {
        matches!(self.decision, Decision::Change(_) | Decision::Again(..))
    }

    /// What becomes of the drop when all goes well.
    pub(crate) fn outcome(&self) -> Outcome {
        let (verdict, image, reason, detail) = match &self.decision {
            Decision::Change(staged) => {
                (staged.verdict(), Some(published(staged.head())), None, None)
            }
            Decision::Again(verdict, image) => (*verdict, Some(image.clone()), None, None),
            Decision::Unchanged(image) => (Verdict::Unchanged, Some(image.clone()), None, None),
            Decision::Reject(reason, detail) => {
                (Verdict::Rejected, None, Some(*reason), Some(detail.clone()))
            }
        };
        Outcome {
            format: outcome::FORMAT,
            drop: self.claimed.name.clone(),
            target: self.target.clone(),
            outcome: verdict,
            reason,
            detail,
            image,
            importer: self.claimed.importer.clone(),
            received_at: self.claimed.received_at,
            finished_at: Moment::now(),
        }
    }
}

/// The record of an image that is published now; `kept` are the generations with its digest.
fn new_record(
    target: &Target,
    listing: Listing,
    kept: &[GenerationName],
    version: Option<String>,
    from: Option<Origin>,
) -> Record {
    let now = Moment::now();
    let digest = listing.digest();
    let head = Head {
        format: record::FORMAT,
        target: target.clone(),
        generation: GenerationName::new(now, &digest, |name| kept.contains(name)),
        digest,
        file_count: listing.files.len(),
        bytes: listing.bytes(),
        published_at: now,
        version,
        from,
    };
    let happened = if head.from.is_some() {
        Happened::Published
    } else {
        Happened::Adopted
    };
    let mut record = Record {
        head,
        listing,
        history: Vec::new(),
    };
    let from = record.head.from.clone();
    record.note(now, happened, from.as_ref());
    record
}

fn origin(claimed: &Claimed) -> Origin {
    Origin {
        drop: claimed.name.clone(),
        importer: claimed.importer.clone(),
        received_at: claimed.received_at,
    }
}

/// Where a fault is the drop's own, it is a decision: to reject it.
fn decide(
    claimed: Claimed,
    manifest: &Manifest,
    decision: Result<Decision, Fault>,
    started: Instant,
) -> Result<Decided, Postponed> {
    let decision = match decision {
        Ok(decision) => decision,
        Err(Fault::Reject(reason, detail)) => Decision::Reject(reason, detail),
        Err(fault) => {
            return Err(Postponed {
                seen: claimed.again(),
                fault,
            });
        }
    };
    Ok(Decided {
        claimed,
        target: Some(manifest.target.clone()),
        decision,
        started,
    })
}

/// Whether a generation became current by this very drop.
fn is_of(claimed: &Claimed, head: &Head) -> bool {
    let from = head.from.as_ref();
    from.is_some_and(|from| from.drop == claimed.name) && head.published_at >= claimed.claimed_at
}

/// As [`is_of`], as far as its record tells.
fn is_done(claimed: &Claimed, current: &Generation) -> bool {
    let record = current.record.as_ref();
    record.is_some_and(|record| is_of(claimed, &record.head))
}

fn unchanged(claimed: &Claimed, head: &Head) -> Decision {
    if is_of(claimed, head) {
        return Decision::Again(Verdict::Published, published(head));
    }
    Decision::Unchanged(published(head))
}

fn conflict(current: &str, replaces: &Replaces) -> Fault {
    let detail = format!("{current} is current; the drop replaces {replaces}");
    Fault::Reject(Reason::Conflict, detail)
}

fn unknown_target(target: &Target) -> Fault {
    let detail = format!("{target} is not in the tree; expected one that is");
    Fault::Reject(Reason::UnknownTarget, detail)
}

fn occupied(target: &Target) -> Fault {
    let detail =
        format!("{target} is a folder that the daemon did not make; expected its own link");
    Fault::Reject(Reason::TargetOccupied, detail)
}

fn published(head: &Head) -> Published {
    Published {
        generation: Some(head.generation.clone()),
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    }
}
