//! A drop on its way: seen, ready, claimed, leaving. Each is made of the one before.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::{DropKey, check_name, place_of};
use super::outcome::Outcome;
use super::papers::{Papers, Signature};
use super::waiting::WaitState;
use crate::fault::Rejection;
use crate::settings::SpoolSettings;
use crate::sys::{Importer, Stat};
use crate::text::{short, short_until};
use crate::words::{ClaimId, Digest, Moment, Target, Verdict, Vouched};

/// Whose drops are of which that can't be found out: no user has this number (chown(2)).
pub(super) const NOBODY: u32 = u32::MAX;

/// What a drop waits for is looked for no more often than this.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// A name in `incoming/` or `processing/` that is to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The drop's own name; of a claimed drop, its claim name.
    pub(super) name: OsString,
    pub(super) key: DropKey,
    /// The claim by which the drop is in `processing/`; `None` while it is in `incoming/`. One that
    /// was claimed before the daemon started is older than whatever is incoming.
    pub(super) claim: Option<ClaimId>,
    /// The user whose drop it is.
    pub(crate) owner: u32,
    /// When the drop became whole, by the clock of the spool's file system; of one that waits, when
    /// it was changed last. What drops are ordered by.
    pub completed: Moment,
    /// The drop was changed before the clock was set back: it comes before all others.
    pub(super) is_from_future: bool,
    /// Breaks ties where an event told of the drop's rename: the clock of a file system is coarse.
    pub(super) arrival: Option<u64>,
    /// The drop was renamed into `incoming/`: whoever did that says that it is finished.
    pub(super) is_renamed: bool,
    /// The drop was made there, and so is written in place. Where it neither was nor was renamed,
    /// nobody knows.
    pub(super) is_made: bool,
    /// When a file of the drop that somebody had open for writing was no longer, as far as looks have
    /// shown; by the clock of the spool's file system.
    pub(super) closed: Option<Moment>,
    /// The drop could not go on, and stepped aside, since then; one that isn't claimed, because its
    /// owner keeps it from being looked into, or claimed.
    pub(super) aside_since: Option<Instant>,
    /// What the last look has shown that the drop lacks.
    pub(crate) waits: Option<Waits>,
}

/// What a drop waits for that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    /// When it is looked at again.
    pub(crate) next: Instant,
    /// When the drop has waited too long, if nothing changes.
    pub(super) overdue: Option<Instant>,
    pub(super) probe: Probe,
    /// Nothing is missing but that nobody changes it for a while, and nobody was seen to do so.
    pub(super) is_settling: bool,
    /// The drop is whole, or perhaps so since it was renamed: what came after it has to wait.
    pub(super) holds_up: bool,
    /// For people: what the drop lacks; empty where that is nothing but the time.
    pub(super) lacks: Box<str>,
    /// When something in the drop was changed last, as far as a look has shown.
    pub(super) changed: Option<Instant>,
    /// What the drop is for, once its manifest is there.
    pub(super) target: Option<Target>,
}

/// What makes a further look worth its while: few calls tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Nothing but the time.
    Time,
    /// What stands for this path in the drop is another, or has changed.
    Changed(PathBuf, Option<Mark>),
    /// Nobody has this file open for writing any more.
    Writer(PathBuf),
    /// The drop can be looked into, and claimed.
    Owner,
}

/// Device and inode, and the time of the last change.
pub(super) type Mark = ((u64, u64), Moment);

impl Seen {
    /// A drop in `processing/` that became complete then.
    pub(super) fn claimed(
        claim: ClaimId,
        claim_name: Arc<str>,
        owner: u32,
        completed: Moment,
    ) -> Self {
        Self {
            name: OsStr::new(&*claim_name).to_os_string(),
            key: DropKey { owner, claim_name },
            claim: Some(claim),
            owner,
            completed,
            is_from_future: false,
            arrival: None,
            is_renamed: false,
            is_made: false,
            closed: None,
            aside_since: None,
            waits: None,
        }
    }

    /// Whether the drop waits for nothing but that nobody changes it for a while.
    pub(crate) fn is_settling(&self) -> bool {
        self.waits.as_ref().is_some_and(|waits| waits.is_settling)
    }

    /// Whether nobody was seen to change the drop, which will be whole then, since it was seen first: it
    /// may be looked into sooner than it is due.
    pub(super) fn was_settling(&self, completed: Moment) -> bool {
        let waits = self.waits.as_ref();
        waits.is_none_or(|waits| waits.is_settling && self.completed == completed)
    }

    /// Whether the drop is whole as soon as a time has come, if nothing changes.
    pub(crate) fn waits_for_time(&self) -> bool {
        let mut waits = self.waits.iter();
        waits.any(|waits| waits.probe == Probe::Time)
    }

    /// What the drop waits for that is not whole, and, where the time tells, what then.
    pub(crate) fn why(&self) -> Option<(WaitState, String)> {
        let waits = self.waits.as_ref()?;
        let rejected = waits.overdue.map(|at| {
            let left = short_until(at);
            format!(", rejected in {left}")
        });
        if !waits.lacks.is_empty() {
            let rejected = rejected.unwrap_or_default();
            let why = format!("incomplete: {}{rejected}", waits.lacks);
            return Some((WaitState::Incomplete, why));
        }
        let left = short_until(waits.next);
        let changed = waits
            .changed
            .map(|at| format!("changed {} ago, ", short(at.elapsed())));
        let changed = changed.unwrap_or_default();
        Some((
            WaitState::Settling,
            format!("still: {changed}whole in {left}"),
        ))
    }

    /// What a drop is for that is not whole, as far as is known.
    pub(crate) fn aim(&self) -> Option<&Target> {
        self.waits.as_ref()?.target.as_ref()
    }

    /// When a drop that is not whole was changed last.
    pub(crate) fn last_change(&self) -> Moment {
        let changed = self.waits.as_ref().and_then(|waits| waits.changed);
        changed.map_or(self.completed, |at| Moment::now().earlier(at.elapsed()))
    }

    /// Whether what its importer has dropped later has to wait for this drop.
    pub(crate) fn holds_up(&self) -> bool {
        self.waits.as_ref().is_some_and(|waits| waits.holds_up)
    }

    /// Whether somebody has said that the drop is finished.
    pub(super) fn is_finished(&self) -> bool {
        self.is_renamed || !self.is_incoming()
    }

    /// An event tells that a drop was renamed to this one's name. Returns whether that is news.
    pub(crate) fn hear_of_rename(&mut self, arrival: u64) -> bool {
        let is_news = self.arrival != Some(arrival);
        if is_news {
            (self.arrival, self.is_renamed, self.waits) = (Some(arrival), true, None);
        }
        is_news
    }

    /// The drop's owner keeps it from being looked into, or claimed: it waits for that, but not for
    /// ever.
    pub(crate) fn wait_for_owner(&mut self, settings: &SpoolSettings) {
        let now = Instant::now();
        let since = *self.aside_since.get_or_insert(now);
        let overdue = since + settings.incomplete_timeout;
        let next = now + settings.settle.max(SHORTEST_WAIT);
        self.waits = Some(Waits {
            next: next.min(overdue),
            overdue: Some(overdue),
            probe: Probe::Owner,
            is_settling: false,
            holds_up: false,
            lacks: "its owner keeps it from being looked into".into(),
            changed: None,
            target: None,
        });
    }

    /// Whether the drop's owner has kept it so for too long.
    pub(super) fn is_kept_too_long(&self, settings: &SpoolSettings) -> bool {
        let since = self.aside_since;
        since.is_some_and(|since| since.elapsed() >= settings.incomplete_timeout)
    }

    /// A name in `incoming/` that something is mounted at, seen at that moment: whose it is can't be
    /// found out.
    pub(super) fn covered(name: &OsStr, key: DropKey, at: Moment) -> Self {
        Self {
            name: name.to_os_string(),
            claim: None,
            ..Self::claimed(ClaimId::new(0, 0), key.claim_name, NOBODY, at)
        }
    }

    /// A drop in `incoming/`; `arrival` is the place of its rename, if an event told of that.
    pub(super) fn incoming(name: &OsStr, key: DropKey, stat: &Stat, arrival: Option<u64>) -> Self {
        Self {
            name: name.to_os_string(),
            owner: key.owner,
            key,
            claim: None,
            completed: stat.changed,
            is_from_future: false,
            arrival,
            is_renamed: arrival.is_some(),
            is_made: false,
            closed: None,
            aside_since: None,
            waits: None,
        }
    }

    /// Whether the drop isn't claimed yet.
    pub(crate) fn is_incoming(&self) -> bool {
        self.claim.is_none()
    }

    /// The drop's name in the folder that it is in.
    pub(super) fn place(&self) -> Cow<'_, OsStr> {
        match self.claim {
            Some(claim) => OsString::from(place_of(claim, &self.key.claim_name)).into(),
            None => self.name.as_os_str().into(),
        }
    }

    /// The drop's name as outcomes and logs show it.
    pub(crate) fn shown_name(&self) -> String {
        let name = self.name.to_string_lossy();
        match check_name(&self.name) {
            Ok(()) => name.to_string(),
            Err(_) => name.escape_debug().collect(),
        }
    }

    /// What the drop is known by.
    pub(crate) fn key(&self) -> &DropKey {
        &self.key
    }

    /// By the time at which each became whole; of one tick of the clock, by the order of events, and
    /// without any by name.
    pub(crate) fn in_order(&self, other: &Self) -> std::cmp::Ordering {
        let number = |seen: &Self| seen.claim.map(|claim| claim.number());
        let key = |seen: &Self| {
            let is_incoming = seen.is_incoming();
            let arrival = seen.arrival.unwrap_or(u64::MAX);
            let is_present = !seen.is_from_future;
            (
                is_incoming,
                number(seen),
                is_present,
                seen.completed,
                arrival,
            )
        };
        let by_name = || self.name.cmp(&other.name);
        key(self).cmp(&key(other)).then_with(by_name)
    }
}

/// What a look into a drop has shown.
#[derive(Debug)]
pub(crate) enum Peeked {
    Ready(Ready),
    /// The drop is not whole: it says what it waits for.
    Waits(Seen),
    /// The drop's importer has taken it away, or it was removed.
    Gone,
}

/// A drop's manifest and who has signed it, or why the drop is rejected without a look at its image.
pub(crate) type Checkable = Result<Papers, Rejection>;

/// A drop whose manifest was read, or can't be.
#[derive(Debug)]
pub(crate) struct Ready {
    pub seen: Seen,
    /// Device and inode; `None` when the drop is no directory.
    pub(super) id: Option<(u64, u64)>,
    pub(super) papers: Checkable,
}

impl Ready {
    /// How many files its manifests list: what the drop costs in memory.
    pub(crate) fn listed(&self) -> usize {
        let papers = self.papers.iter().flat_map(Papers::manifests);
        let files = papers.filter_map(|(_, manifest)| manifest.files.as_ref());
        files.map(BTreeMap::len).sum()
    }

    /// What the drop is for; `None` when its manifest can't be read.
    pub(crate) fn target(&self) -> Option<&Target> {
        let papers = self.papers.as_ref().ok();
        papers.map(|papers| &papers.manifest.target)
    }
}

/// A drop that is the daemon's.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// As outcomes and logs show it.
    pub name: String,
    pub(super) key: DropKey,
    pub claim: ClaimId,
    /// The drop has stepped aside for want of room since then.
    pub aside_since: Option<Instant>,
    pub importer: Importer,
    pub received_at: Moment,
    pub credentials: Credentials,
    /// When the drop became the daemon's, as far as is known.
    pub since: Instant,
    /// The drop is rejected, and there is no room to keep it.
    pub(super) goes: bool,
    /// The drop as it stays in `incoming/`: its owner keeps it from being moved.
    pub(super) stays: Option<Box<Stays>>,
}

/// Who answers for a drop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// The SHA-256 of a manifest that is signed, or has a serial.
    pub(crate) manifest: Option<Digest>,
    pub(crate) signature: Option<Signature>,
    /// The rule that lets the drop in, or does not; and who has signed, where a rule knows the key.
    pub(crate) vouched: Vouched,
}

impl Credentials {
    /// For people: that the signature counts for nothing, because no rule knows the key.
    pub(crate) fn unknown_signer(&self) -> Option<String> {
        let signature = self.signature.as_ref();
        let unknown = signature.filter(|_| self.vouched.signer.is_none())?;
        let key = &unknown.key;
        Some(format!(
            "signed with {key}, which no rule has: taken as not signed"
        ))
    }
}

/// A drop that can't be moved, and is rejected all the same.
#[derive(Clone, Debug)]
pub(super) struct Stays {
    pub(super) seen: Seen,
    pub(super) claim: ClaimId,
    /// What the drop was when it was rejected; `None` where something was mounted there.
    pub(super) mark: Option<Mark>,
}

impl Claimed {
    /// The drop that was seen, with its claim, by the user that it belongs to.
    pub(super) fn new(seen: Seen, claim: ClaimId, owner: u32) -> Self {
        Self {
            name: seen.shown_name(),
            claim,
            aside_since: seen.aside_since.filter(|_| !seen.is_incoming()),
            importer: importer_of(owner),
            received_at: seen.completed,
            since: Instant::now(),
            key: seen.key,
            credentials: Credentials::default(),
            goes: false,
            stays: None,
        }
    }

    /// A drop that is rejected and can't be moved; `stat` is what it is, unless something is mounted
    /// there.
    pub(super) fn in_place(seen: Seen, claim: ClaimId, stat: Option<Stat>) -> Self {
        let owner = seen.owner;
        let mut claimed = Self::new(seen.clone(), claim, owner);
        let mark = stat.map(|stat| (stat.id, stat.changed));
        claimed.stays = Some(Box::new(Stays { seen, claim, mark }));
        claimed
    }

    /// The drop as it is found again where it is now: in `processing/`, unless it can't be moved.
    pub(crate) fn again(&self) -> Seen {
        if let Some(stays) = &self.stays {
            return stays.seen.clone();
        }
        let (name, owner) = (Arc::clone(&self.key.claim_name), self.importer.uid);
        Seen {
            key: self.key.clone(),
            aside_since: self.aside_since,
            ..Seen::claimed(self.claim, name, owner, self.received_at)
        }
    }

    /// As [`Seen::key`].
    pub(crate) fn key(&self) -> &DropKey {
        &self.key
    }

    /// The drop, which has its outcome, on its way out of the spool.
    pub(crate) fn leaving(&self, outcome: Outcome) -> Leaving {
        let mut leaving = Leaving::new(self.key.clone(), outcome);
        leaving.rejected.take_if(|_| self.goes);
        Leaving {
            stays: self.stays.clone(),
            // Its outcome says so.
            is_told: self.stays.is_some(),
            ..leaving
        }
    }

    /// The drop's name in `processing/`.
    pub(super) fn place(&self) -> String {
        place_of(self.claim, &self.key.claim_name)
    }
}

/// A drop that has its outcome, and is to be put away.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) key: DropKey,
    /// The drop's name in `processing/`.
    pub(super) place: String,
    /// The outcome of a rejected drop, which is kept beside it; any other is removed.
    pub(super) rejected: Option<Outcome>,
    /// Of the drop's image.
    pub bytes: u64,
    /// The drop stays in `incoming/` until it is another.
    pub(super) stays: Option<Box<Stays>>,
    /// It was said that its owner keeps it from being put away.
    pub(crate) is_told: bool,
}

impl Leaving {
    /// The drop in `processing/` whose outcome this is.
    pub(crate) fn new(key: DropKey, outcome: Outcome) -> Self {
        let place = place_of(outcome.claim, &key.claim_name);
        let bytes = outcome.image.as_ref().map_or(0, |image| image.bytes);
        let rejected = (outcome.verdict == Verdict::Rejected).then_some(outcome);
        Self {
            key,
            place,
            rejected,
            bytes,
            stays: None,
            is_told: false,
        }
    }

    /// Whether the drop is kept, as a rejected one.
    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected.is_some()
    }
}

/// Whose a drop is, as far as that can be found out.
fn importer_of(owner: u32) -> Importer {
    if owner == NOBODY {
        let name = "unknown".to_string();
        return Importer { uid: owner, name };
    }
    Importer::of(owner)
}

/// Drops without a spool, for tests of what orders them.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Manifest;

    impl Seen {
        pub(crate) fn for_test(name: &str, owner: u32, completed: Moment) -> Self {
            let claim = ClaimId::new(0, 0);
            let seen = Self::claimed(claim, name.into(), owner, completed);
            Self {
                claim: None,
                ..seen
            }
        }

        /// A drop that is not whole, and is to be looked into at once.
        pub(crate) fn waiting_for_test(self) -> Self {
            let waits = Waits {
                next: Instant::now(),
                overdue: None,
                probe: Probe::Time,
                is_settling: false,
                holds_up: false,
                lacks: "".into(),
                changed: None,
                target: None,
            };
            Self {
                waits: Some(waits),
                ..self
            }
        }
    }

    impl Claimed {
        /// Of which the claim has this number.
        pub(crate) fn for_test(seen: &Seen, number: usize) -> Self {
            Self {
                name: String::new(),
                key: seen.key.clone(),
                claim: ClaimId::new(number as u64, 0),
                aside_since: seen.aside_since,
                importer: Importer {
                    uid: seen.owner,
                    name: String::new(),
                },
                received_at: seen.completed,
                since: Instant::now(),
                credentials: Credentials::default(),
                goes: false,
                stays: None,
            }
        }
    }

    impl Ready {
        pub(crate) fn for_test(seen: Seen, manifest: Result<Manifest, Rejection>) -> Self {
            let id = None;
            let papers = manifest.map(|manifest| Papers {
                manifest,
                digest: None,
                signature: None,
                carried: None,
            });
            Self { seen, id, papers }
        }
    }
}
