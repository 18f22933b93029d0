//! One drop from claim to outcome.
//!
//! ```text
//! Ready --claim, check--> Checked --compare, stage--> Decided --commit--> Settled
//! ```
//! The first two steps may run side by side for several drops; the commit is the owner's, in order.
//! It takes many drops at once: what makes them durable is done once for all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::compare::compare;
use crate::copy::{Base, copy, hash};
use crate::crew::{self, Progress};
use crate::digest::Digest;
use crate::excerpt::quoted;
use crate::fault::{Failure, Fault, Reason, Verdict};
use crate::generation::GenerationName;
use crate::image::Image;
use crate::listing::Listing;
use crate::manifest::Manifest;
use crate::moment::Moment;
use crate::outcome::{self, Outcome, Published};
use crate::record::{self, Head, Origin, Record};
use crate::settings::Limits;
use crate::spool::{Claimed, Ready, Seen, Spool};
use crate::staging::{Draft, Pointers, Replaces, Staged, Staging};
use crate::target::Target;
use crate::tree::Current;

/// From so many drops on, the steps of a commit that have no order are worth several threads.
const MANY: usize = 16;

/// What work on a drop needs.
#[derive(Debug)]
pub struct Workshop {
    pub spool: Arc<Spool>,
    pub staging: Arc<Staging>,
    pub limits: Limits,
    pub progress: Progress,
}

/// A claimed drop whose manifest and image are good, beside what is published at its target.
#[derive(Debug)]
pub struct Checked {
    claimed: Claimed,
    manifest: Manifest,
    image: Image,
    current: Current,
    started: Instant,
}

/// A drop of which it is known what will become of it.
#[derive(Debug)]
pub struct Decided {
    claimed: Claimed,
    target: Option<Target>,
    decision: Decision,
    started: Instant,
}

#[derive(Debug)]
enum Decision {
    Publish(Box<Staged>),
    /// This very drop was published before a crash kept its outcome from being written.
    Again(Published),
    Unchanged(Published),
    Reject(Reason, String),
}

/// A drop that could not be worked on, for now.
#[derive(Debug)]
pub struct Postponed {
    pub seen: Seen,
    pub fault: Fault,
}

/// A drop whose outcome is written, and that is to be put away.
#[derive(Debug)]
pub struct Settled {
    /// A generation stopped being current: vacuum will have to do with its target.
    pub has_replaced: bool,
    /// Its name in `processing/`.
    pub entry: String,
    pub outcome: Outcome,
    /// What keeps it from being put away, for now.
    pub trouble: Option<Failure>,
}

/// What a commit has done.
#[derive(Debug, Default)]
pub struct Committed {
    /// With the time that each took.
    pub settled: Vec<(Settled, Duration)>,
    /// With the target that each is for.
    pub postponed: Vec<(Option<Target>, Postponed)>,
}

/// How the first step ended.
#[derive(Debug)]
pub enum Start {
    /// Its importer has taken it away.
    Gone,
    Checked(Box<Checked>),
    Decided(Decided),
}

impl Checked {
    /// What its image costs, about, in bytes to be copied.
    pub fn weight(&self) -> u64 {
        const FILE: u64 = 16 << 10;
        self.image.bytes() + FILE * self.image.entries().len() as u64
    }

    /// The target it is for.
    pub fn target(&self) -> &Target {
        &self.manifest.target
    }

    /// The drop as it is found again where it is now.
    pub fn again(&self) -> Seen {
        self.claimed.again()
    }
}

impl Workshop {
    /// Claims and checks a drop.
    ///
    /// # Errors
    /// What has to be better before it can be tried again.
    pub fn start(&self, ready: Ready) -> Result<Start, Postponed> {
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
            Ok((image, current)) => {
                let checked = Checked {
                    claimed,
                    manifest,
                    image,
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
    pub fn decide(&self, checked: Checked) -> Result<Decided, Postponed> {
        let Checked {
            claimed,
            manifest,
            image,
            current,
            started,
        } = checked;
        let decision = self.compare_or_stage(&claimed, &manifest, &image, current);
        decide(claimed, &manifest, decision, started)
    }

    fn check(&self, claimed: &Claimed, manifest: &Manifest) -> Result<(Image, Current), Fault> {
        let dir = self.spool.image(claimed)?;
        let image = Image::check(dir, claimed.importer.uid, &self.limits)?;
        check_sizes(manifest, &image)?;
        let current = self.staging.tree().current(&manifest.target)?;
        Ok((image, current))
    }

    fn compare_or_stage(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        image: &Image,
        current: Current,
    ) -> Result<Decision, Fault> {
        match current {
            Current::Nothing => self.stage(claimed, manifest, image, None, Replaces::Nothing),
            Current::Plain(dir) => {
                let theirs = Image::read(dir, None)?;
                self.replace_plain(claimed, manifest, image, &theirs)
            }
            Current::Generation(generation) => {
                let replaces = Replaces::Generation(generation.name);
                // One that nobody knows the contents of, or that can't be read, is damaged: the
                // drop repairs it.
                let published = Image::read(generation.dir, Some(self.staging.ownership()));
                let (Some(record), Ok(published)) = (generation.record, published) else {
                    return self.stage(claimed, manifest, image, None, replaces);
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
                self.stage(claimed, manifest, image, base.as_ref(), replaces)
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
            Replaces::Plain(Box::new(record)),
        )
    }

    fn stage(
        &self,
        claimed: &Claimed,
        manifest: &Manifest,
        image: &Image,
        base: Option<&Base<'_>>,
        replaces: Replaces,
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
        let origin = Origin {
            drop: claimed.name.clone(),
            importer: claimed.importer.clone(),
            received_at: claimed.received_at,
        };
        let version = manifest.version.clone();
        let target = &manifest.target;
        let kept = self.staging.tree().kept(target, &listing.digest())?;
        let mut record = new_record(target, listing, &kept, version, Some(origin));
        let staged = match self.find_kept(&record, kept, &replaces)? {
            Some(name) => {
                record.head.generation = name;
                self.staging.stage_kept(&record, replaces)?
            }
            None => Draft::finish(draft, &record, replaces)?,
        };
        Ok(Decision::Publish(Box::new(staged)))
    }

    /// The one of these generations that holds the very image of `record`, and is undamaged.
    fn find_kept(
        &self,
        record: &Record,
        kept: Vec<GenerationName>,
        replaces: &Replaces,
    ) -> Result<Option<GenerationName>, Fault> {
        let Head { target, digest, .. } = &record.head;
        for name in kept {
            // The current one was compared already.
            if matches!(replaces, Replaces::Generation(current) if *current == name) {
                continue;
            }
            let Some(kept) = self.staging.tree().generation(target, name)? else {
                continue;
            };
            let Ok(image) = Image::read(kept.dir, Some(self.staging.ownership())) else {
                continue;
            };
            if kept.record.is_none() || !image.is_sound() {
                continue;
            }
            match hash(&image, &self.progress) {
                Ok(listing) if listing.digest() == *digest => return Ok(Some(kept.name)),
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

/// Makes drops durable, swaps, and writes the outcomes; each step for all of them before the next. A
/// crash between any two leaves every pointer on a whole generation, and every drop in the spool or
/// with its outcome.
///
/// A drop that fails on the way is postponed, and the others go on.
pub fn commit(batch: Vec<Decided>, pointers: &mut Pointers, spool: &Spool) -> Committed {
    let mut committed = Committed::default();
    let batch = publish(batch, pointers, spool, &mut committed);

    let write = |decided: Decided| {
        let outcome = decided.outcome();
        let result = spool.write_outcome(&decided.claimed, &outcome);
        (decided, outcome, result)
    };
    let is_worth_it = batch.len() > MANY;
    let mut written = Vec::new();
    for (decided, outcome, result) in crew::map(batch, is_worth_it, write) {
        match result {
            Ok(trouble) => written.push((decided, outcome, trouble)),
            Err(failure) => committed.postpone(&decided, failure),
        }
    }
    // Before a drop goes, its outcome has to be durable.
    if let Some(Err(failure)) = (!written.is_empty()).then(|| spool.sync()) {
        for (decided, ..) in written.drain(..) {
            committed.postpone(&decided, failure.again());
        }
    }
    for (decided, outcome, trouble) in written {
        let took = decided.started.elapsed();
        let settled = Settled {
            has_replaced: decided.has_replaced(),
            entry: decided.claimed.entry().to_string(),
            outcome,
            trouble,
        };
        committed.settled.push((settled, took));
    }
    committed
}

/// The part of the commit that machines see. Returns the drops whose outcome is due.
fn publish(
    batch: Vec<Decided>,
    pointers: &mut Pointers,
    spool: &Spool,
    committed: &mut Committed,
) -> Vec<Decided> {
    let (mut due, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(Decided::touches_tree);
    if due.is_empty() {
        return others;
    }
    // On two disks the spool has to be ahead: a drop whose claim, or whose removal, went with the
    // power would not be known again as one that was published.
    let tree = pointers.tree().root().stat_self();
    if !tree.is_ok_and(|tree| spool.is_on_file_system_of(&tree)) {
        due = all_or_none(due, spool.sync(), pointers, committed);
    }
    // What was staged has to be durable before it is given a name that the record vouches for.
    due = all_or_none(due, pointers.staging().sync(), pointers, committed);

    let place = |decided: Decided| match &decided.decision {
        Decision::Publish(staged) => {
            let place = pointers.staging().place(staged).map(Some);
            (decided, place)
        }
        _ => (decided, Ok(None)),
    };
    let is_worth_it = due.len() > MANY;
    let mut placed = Vec::new();
    for (decided, place) in crew::map(due, is_worth_it, place) {
        match place {
            Ok(place) => placed.push((decided, place)),
            Err(failure) => postpone_staged(&decided, failure, pointers, committed),
        }
    }
    // The generation and its record have to be durable before the pointer names them.
    let (due, places): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
    let due = all_or_none(due, pointers.staging().sync(), pointers, committed);

    let mut swapped = Vec::new();
    for (decided, place) in due.into_iter().zip(places) {
        match place.map_or(Ok(()), |place| pointers.swap(&place)) {
            Ok(()) => swapped.push(decided),
            Err(failure) => postpone_staged(&decided, failure, pointers, committed),
        }
    }
    // The swap has to be durable before an outcome tells of it, and before the drop goes.
    let mut due = all_or_none(swapped, pointers.staging().sync(), pointers, committed);
    due.extend(others);
    due
}

/// The drops themselves when a step for all of them went well; all postponed when not.
fn all_or_none(
    drops: Vec<Decided>,
    step: Result<(), Failure>,
    pointers: &mut Pointers,
    committed: &mut Committed,
) -> Vec<Decided> {
    let Err(failure) = step else { return drops };
    for decided in drops {
        postpone_staged(&decided, failure.again(), pointers, committed);
    }
    Vec::new()
}

fn postpone_staged(
    decided: &Decided,
    failure: Failure,
    pointers: &mut Pointers,
    committed: &mut Committed,
) {
    if let Decision::Publish(staged) = &decided.decision {
        // What can't be removed now is a leftover that the next start sweeps.
        let _ = pointers.discard(staged);
    }
    committed.postpone(decided, failure);
}

impl Committed {
    fn postpone(&mut self, decided: &Decided, failure: Failure) {
        let postponed = Postponed {
            seen: decided.claimed.again(),
            fault: failure.into(),
        };
        self.postponed.push((decided.target.clone(), postponed));
    }
}

impl Decided {
    /// The target it is for; `None` when its manifest is no good.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    fn has_replaced(&self) -> bool {
        match &self.decision {
            Decision::Publish(staged) => staged.has_replaced(),
            // What it was is not known any more.
            Decision::Again(_) => true,
            Decision::Unchanged(_) | Decision::Reject(..) => false,
        }
    }

    fn touches_tree(&self) -> bool {
        matches!(self.decision, Decision::Publish(_) | Decision::Again(_))
    }

    fn outcome(&self) -> Outcome {
        let (verdict, image, reason, detail) = match &self.decision {
            Decision::Publish(staged) => (
                Verdict::Published,
                Some(published(staged.head())),
                None,
                None,
            ),
            Decision::Again(image) => (Verdict::Published, Some(image.clone()), None, None),
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
    Record { head, listing }
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

fn unchanged(claimed: &Claimed, head: &Head) -> Decision {
    let is_its_own = head
        .from
        .as_ref()
        .is_some_and(|from| from.drop == claimed.name);
    if is_its_own && head.published_at >= claimed.claimed_at {
        return Decision::Again(published(head));
    }
    Decision::Unchanged(published(head))
}

fn published(head: &Head) -> Published {
    Published {
        generation: Some(head.generation.clone()),
        digest: head.digest,
        files: head.file_count,
        bytes: head.bytes,
    }
}

/// What can be said against the manifest's list of files before any of them is read.
fn check_sizes(manifest: &Manifest, image: &Image) -> Result<(), Fault> {
    let Some(claims) = &manifest.files else {
        return Ok(());
    };
    for (path, size) in image.files() {
        match claims.get(path) {
            None => return Err(unlisted(path)),
            Some(claim) if claim.size.is_some_and(|claimed| claimed != size) => {
                let claimed = claim.size.unwrap_or_default();
                let detail = format!(
                    "{} has {size} bytes; the manifest says {claimed}",
                    quoted(path)
                );
                return Err(Fault::Reject(Reason::ChecksumMismatch, detail));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether what was read is what the manifest lists.
fn check_claims(manifest: &Manifest, listing: &Listing) -> Result<(), Fault> {
    let Some(claims) = &manifest.files else {
        return Ok(());
    };
    if let Some(path) = listing
        .files
        .keys()
        .find(|path| !claims.contains_key(*path))
    {
        return Err(unlisted(path));
    }
    let mismatch = |path: &str, what: String, claimed: &Digest| {
        let detail = format!(
            "{} {what}; the manifest says sha256 {claimed}",
            quoted(path)
        );
        Err(Fault::Reject(Reason::ChecksumMismatch, detail))
    };
    for (path, claim) in claims {
        match listing.files.get(path) {
            None => return mismatch(path, "is no regular file".to_string(), &claim.sha256),
            Some(mark) if mark.sha256 != claim.sha256 => {
                return mismatch(path, format!("has sha256 {}", mark.sha256), &claim.sha256);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn unlisted(path: &str) -> Fault {
    let detail = format!("{} is not in the manifest, which lists files", quoted(path));
    Fault::Reject(Reason::UnlistedFile, detail)
}
