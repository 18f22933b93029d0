//! The model: what a target shows, and what becomes of each drop, in one page.
//!
//! A target is two words: what is current, and what the last swap replaced. A drop does one thing to
//! it, and there is one word for what became of the drop. In which order drops took their turns is
//! not known, but for what section 3 of the design promises: [`Brought::is_before`]. So the model
//! keeps all states that a target may be in, and what is seen at a quiet point has to be one of them.

use std::collections::BTreeSet;

/// An image, by its number.
pub type Image = usize;

/// What a drop is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Publish(Image),
    RollBack,
    /// To this image, which the order carries.
    Carried(Image),
    Withdraw,
    /// This image, from the other target, as long as it is current there.
    Promote(Image),
    /// Something is wrong with the drop: it changes nothing.
    Refused,
}

/// What has become of a drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The drop is in the spool.
    Waits,
    /// Its importer has taken it away.
    TakenAway,
    /// `published`, `unchanged`, `rejected bad-manifest`, …, by a claim.
    Settled { word: String, claim: String },
    /// The outcome was replaced by the one of a later drop of the same name before anybody read it.
    Unread,
}

/// A moment of a story; later ones are higher.
pub type Tick = usize;

/// A drop, and what is known of it.
#[derive(Clone, Debug)]
pub struct Brought {
    pub name: String,
    pub importer: usize,
    pub target: usize,
    pub wants: Wants,
    /// When it was changed last, or renamed; no drop is whole earlier.
    pub changed: Tick,
    /// The change at `changed` was a rename: the drop is whole since then. Any other is whole when
    /// it has been still since for `settle`.
    pub is_renamed: bool,
    /// Events tell of it at once. Else the next scan may find it only when a drop that has waited
    /// since the last one, and was whole later, has had its turn. Nor where times were restored:
    /// without an event such a drop looks like one that was renamed then, and so was whole at once.
    pub is_told: bool,
    /// Whoever writes it has stopped: it isn't whole, and never will be by itself.
    pub is_half: bool,
    /// Words that the drop may end by as well: there was no room, or its writer was away for long.
    pub excuses: Vec<&'static str>,
    pub fate: Fate,
    /// When that was seen.
    pub ended: Option<Tick>,
    /// The place of the drop's swap in the target's history, if it made one.
    pub line: Option<usize>,
}

impl Brought {
    /// Whether this drop has its turn before the other, as far as the design promises that.
    pub fn is_before(&self, other: &Self) -> bool {
        let was_over = self.ended.is_some_and(|ended| ended <= other.changed);
        let is_one_importers = self.importer == other.importer && self.changed < other.changed;
        let became_whole_first = match (self.is_renamed, other.is_renamed) {
            (true, true) => true,
            (true, false) => self.is_told,
            (false, false) => self.is_told && other.is_told,
            (false, true) => false,
        };
        let swapped_first = matches!((self.line, other.line), (Some(a), Some(b)) if a < b);
        was_over || swapped_first || (is_one_importers && became_whole_first)
    }
}

/// A target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub current: Option<Image>,
    /// What the last swap replaced.
    pub before: Option<Image>,
    /// Something was published here once.
    pub is_known: bool,
    /// What was withdrawn isn't kept.
    pub forgets: bool,
}

impl Target {
    fn swap(self, current: Option<Image>) -> Self {
        Self {
            current,
            before: self.current,
            is_known: true,
            ..self
        }
    }

    /// What a drop may do when its turn comes: the word for that, and the target afterwards.
    fn take(self, wants: Wants) -> Vec<(&'static str, Self)> {
        let unknown = [UNKNOWN_TARGET, UNKNOWN_GENERATION].map(|word| (word, self));
        let one = match wants {
            Wants::Publish(image) if self.current == Some(image) => ("unchanged", self),
            Wants::Publish(image) => ("published", self.swap(Some(image))),
            Wants::RollBack if !self.is_known => (UNKNOWN_TARGET, self),
            Wants::RollBack if self.before.is_none() => (UNKNOWN_GENERATION, self),
            Wants::RollBack => ("rolled-back", self.swap(self.before)),
            Wants::Carried(image) if self.current == Some(image) => ("unchanged", self),
            Wants::Carried(image) => ("rolled-back", self.swap(Some(image))),
            Wants::Promote(image) if self.current == Some(image) => ("unchanged", self),
            Wants::Promote(image) => ("promoted", self.swap(Some(image))),
            Wants::Withdraw if self.current.is_none() => (UNKNOWN_TARGET, self),
            Wants::Withdraw => ("withdrawn", self.swap(None)),
            Wants::Refused => ("rejected", self),
        };
        // What was withdrawn goes soon, unless it stays for its age.
        let may_be_gone = self.forgets && self.current.is_none() && self.is_known;
        let gone = unknown
            .into_iter()
            .filter(|_| may_be_gone && wants == Wants::RollBack);
        // Of the other target the page knows nothing.
        let elsewhere = ELSEWHERE.map(|word| (word, self));
        let is_promotion = matches!(wants, Wants::Promote(_));
        let elsewhere = elsewhere.into_iter().filter(|_| is_promotion);
        std::iter::once(one).chain(gone).chain(elsewhere).collect()
    }

    /// What the target may be after this drop, which has ended as it did.
    fn after(self, drop: &Brought) -> Vec<Self> {
        let excuses = drop.excuses.iter().map(|word| (*word, self));
        let ends = self.take(drop.wants).into_iter().chain(excuses);
        let fits = |word: &str| match &drop.fate {
            Fate::Settled { word: found, .. } if drop.wants == Wants::Refused => {
                found.starts_with(word)
            }
            Fate::Settled { word: found, .. } => found == word,
            Fate::Unread | Fate::TakenAway | Fate::Waits => true,
        };
        ends.filter(|(word, _)| fits(word))
            .map(|(_, after)| after)
            .collect()
    }
}

pub const NO_ROOM: &str = "rejected no-space";
pub const INCOMPLETE: &str = "rejected incomplete";
const UNKNOWN_TARGET: &str = "rejected unknown-target";
const UNKNOWN_GENERATION: &str = "rejected unknown-generation";

/// Another image is current where one was to be promoted from, or none is.
const ELSEWHERE: [&str; 3] = ["rejected conflict", UNKNOWN_TARGET, UNKNOWN_GENERATION];

/// What a target may be after all these drops, in any order that they may have had. Nothing, when
/// their outcomes fit no order.
pub fn targets_after(before: &BTreeSet<Target>, drops: &[&Brought]) -> BTreeSet<Target> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<_> = before.iter().map(|target| (*target, 0_u64)).collect();
    let mut tried = BTreeSet::new();
    let all = (1_u64 << drops.len()) - 1;
    while let Some((target, done)) = open.pop() {
        if !tried.insert((target, done)) {
            continue;
        }
        if done == all {
            reached.insert(target);
        }
        let left = |at: &usize| done & (1 << at) == 0;
        for at in (0..drops.len()).filter(left) {
            let mut others = (0..drops.len()).filter(left).filter(|other| *other != at);
            if others.all(|other| !drops[other].is_before(drops[at])) {
                let after = target.after(drops[at]).into_iter();
                open.extend(after.map(|after| (after, done | (1 << at))));
            }
        }
    }
    reached
}
