//! A look at `incoming/`: which drops are complete, and in which order they became so.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::drop::Seen;
use super::manifest::MANIFEST;
use super::names::claim_name_of;
use super::{INCOMING, Spool};
use crate::settings::SpoolSettings;
use crate::sys::{Dir, Failure, Kind};
use crate::words::Moment;

/// A manifest that was written in place is complete once it was closed. Where no event can tell of
/// that, it is taken for complete when nothing changed it for this long.
const SETTLED: Duration = Duration::from_millis(200);

/// The clock that gives inodes their times may be so far behind (the kernel's `jiffies`, at 100 Hz).
const TICK: Duration = Duration::from_millis(10);

/// Drops that one scan brings at most: memory does not grow with a backlog.
const MAX_SEEN: usize = 2_048;

/// No event takes this long; if it does, it is lost.
const AWAITED: Duration = Duration::from_secs(60);

/// What events have said of drops.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Drops that are complete, each with its place in their order.
    pub complete: HashMap<OsString, u64>,
    /// Drops of which an event will say so: they are watched since before they had a manifest.
    pub awaited: HashSet<OsString>,
    /// An event tells of every drop that became complete later; `None` when there are no events.
    pub since: Option<Moment>,
}

/// What a look at `incoming/` has shown.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In the order in which they became complete, the first ones if there are very many.
    pub complete: Vec<Seen>,
    /// There are more that are complete.
    pub has_more: bool,
    /// Names that are known already.
    pub known: Vec<Arc<str>>,
    /// Drops that somebody is still writing, and whether each has a manifest.
    pub incomplete: Vec<(OsString, bool)>,
    /// When the first of the drops that may be complete already will be taken for complete.
    pub settles: Option<Moment>,
    /// Since when that drop, or another such, would be complete.
    unsettled: Option<Moment>,
    /// When the first of the drops without a manifest will have been incomplete for too long.
    pub overdue: Option<Moment>,
}

impl Spool {
    /// Looks at everything in `incoming/` but the drops that are `known` by the name that they will
    /// have in `processing/`.
    ///
    /// # Errors
    /// Also when `incoming/` is not the folder any more that it was at the start: what is dropped
    /// there would never be seen.
    pub(crate) fn scan(
        &self,
        arrivals: &Arrivals,
        known: &HashSet<Arc<str>>,
        settings: &SpoolSettings,
    ) -> Result<Scan, Failure> {
        let look = Look {
            now: Moment::now(),
            arrivals,
            incomplete_timeout: settings.incomplete_timeout,
        };
        let is_itself = self.root.stat(INCOMING)?.map(|stat| stat.id);
        if is_itself != Some(self.incoming.stat_self()?.id) {
            let path = self.incoming.path();
            return Err(Failure::new("looking for drops in", path, Errno::STALE));
        }
        let mut scan = Scan::default();
        self.incoming.each(|name, kind| {
            if name.as_bytes().starts_with(b".") {
                return ControlFlow::Continue(());
            }
            let claim_name = claim_name_of(name);
            if let Some(known) = known.get(&*claim_name) {
                scan.known.push(Arc::clone(known));
            } else if let Some(found) = look.look_at(&self.incoming, name, kind) {
                let arrival = arrivals.complete.get(name).copied();
                scan.take(name, &claim_name, arrival, found);
            }
            ControlFlow::Continue(())
        })?;
        scan.keep_first(MAX_SEEN);
        if let Some(since) = scan.unsettled {
            // That drop may be complete already, and for the same target: what came later waits with
            // it. Not for long: a manifest that is written again and again counts from then on.
            scan.complete.retain(|seen| seen.completed < since);
        }
        Ok(scan)
    }
}

impl Scan {
    fn take(&mut self, name: &OsStr, claim_name: &str, arrival: Option<u64>, found: Completion) {
        let mut wait = |has_manifest| self.incomplete.push((name.to_os_string(), has_manifest));
        let (completed, is_overdue) = match found {
            Completion::Complete { since } => (since, false),
            Completion::Overdue { since } => (since, true),
            Completion::Unordered { until } => {
                return Moment::note_earliest(&mut self.settles, until);
            }
            Completion::Settles { since, until } => {
                Moment::note_earliest(&mut self.settles, until);
                Moment::note_earliest(&mut self.unsettled, since);
                return wait(true);
            }
            Completion::Awaited => return wait(true),
            Completion::NoManifest { until } => {
                Moment::note_earliest(&mut self.overdue, until);
                return wait(false);
            }
        };
        self.complete.push(Seen {
            name: name.to_os_string(),
            claim_name: claim_name.into(),
            completed,
            arrival: arrival.unwrap_or(u64::MAX),
            claim: None,
            is_overdue,
        });
        if self.complete.len() >= 2 * MAX_SEEN {
            self.keep_first(MAX_SEEN);
        }
    }

    fn keep_first(&mut self, count: usize) {
        self.complete.sort_unstable_by(Seen::in_order);
        self.has_more |= self.complete.len() > count;
        self.complete.truncate(count);
    }
}

/// What a look at `incoming/` goes by.
struct Look<'a> {
    now: Moment,
    arrivals: &'a Arrivals,
    incomplete_timeout: Duration,
}

/// When the inodes of a drop were changed last.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// The drop's folder.
    changed: Moment,
    /// What the folder holds.
    modified: Moment,
    /// The manifest; `None` where there is none.
    manifest: Option<Moment>,
}

/// Whether a drop is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completion {
    Complete {
        since: Moment,
    },
    /// The drop is complete, and so recent that its place among the others isn't known before then.
    Unordered {
        until: Moment,
    },
    /// The manifest may still be written, or be complete since then. If nothing happens, it is.
    Settles {
        since: Moment,
        until: Moment,
    },
    /// An event will tell.
    Awaited,
    /// There is no manifest yet; it is waited for until then.
    NoManifest {
        until: Moment,
    },
    /// The drop has had no manifest since then, and that is too long.
    Overdue {
        since: Moment,
    },
}

impl Look<'_> {
    /// `None` when nothing of that name is there any more.
    fn look_at(&self, incoming: &Dir, name: &OsStr, kind: Kind) -> Option<Completion> {
        let opened = (kind == Kind::Dir).then(|| incoming.dir(name));
        if let Some(Ok(dir)) = opened {
            let dir = dir?;
            if let (Ok(folder), Ok(manifest)) = (dir.stat_self(), dir.stat(MANIFEST)) {
                let times = Times {
                    changed: folder.changed,
                    modified: folder.modified,
                    manifest: manifest.map(|manifest| manifest.changed),
                };
                return Some(self.completion(name, times));
            }
        }
        // A plain file never becomes a drop; and to claim a folder that can't be looked into says
        // what is wrong with it. Nobody has to be waited for.
        let stat = incoming.stat(name).ok()??;
        Some(self.complete(name, stat.changed))
    }

    /// Whether a drop is complete whose inodes have these times: nothing else is looked at.
    fn completion(&self, name: &OsStr, times: Times) -> Completion {
        let Some(manifest) = times.manifest else {
            let (since, until) = (times.changed, times.changed.later(self.incomplete_timeout));
            if until > self.now {
                return Completion::NoManifest { until };
            }
            return Completion::Overdue { since };
        };
        let (since, until) = (times.changed.max(manifest), manifest.later(SETTLED));
        // Renaming a directory changes its inode, yet not what it holds: it was renamed after its
        // manifest was written.
        let was_renamed = times.changed > manifest && times.changed > times.modified;
        if was_renamed || self.arrivals.complete.contains_key(name) {
            self.complete(name, since)
        } else if self.arrivals.awaited.contains(name) && manifest.later(AWAITED) > self.now {
            Completion::Awaited
        } else if until > self.now {
            Completion::Settles { since, until }
        } else {
            self.complete(name, since)
        }
    }

    /// For a drop that became complete at the moment `since`.
    ///
    /// It may have come while this scan was under way, and one that came before it may have been
    /// missed. The next scan sees both. And where its event is still to come, nobody knows its place
    /// among others of its tick.
    fn complete(&self, name: &OsStr, since: Moment) -> Completion {
        let has_event = self.arrivals.since.is_some_and(|watched| since > watched);
        let until = since.later(if has_event { SETTLED } else { TICK });
        if until > self.now && !self.arrivals.complete.contains_key(name) {
            return Completion::Unordered { until };
        }
        Completion::Complete { since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const DROP: &str = "drop";

    fn milliseconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    /// Two of them are often so close to each other that one of the waiting times decides.
    fn moments() -> impl Strategy<Value = Moment> {
        let start = Moment::from_stat(1_795_364_100, 0);
        prop_oneof![0_u64..500, 0_u64..5_000, 59_500_u64..61_000]
            .prop_map(move |at| start.later(Duration::from_millis(at)))
    }

    prop_compose! {
        /// Of a drop that was renamed after all that is in it was written.
        fn renamed()(
            changed in moments(),
            modified in milliseconds(1..5_000),
            manifest in milliseconds(1..5_000),
        ) -> Times {
            let manifest = Some(changed.earlier(manifest));
            Times { changed, modified: changed.earlier(modified), manifest }
        }
    }

    prop_compose! {
        /// Of a drop with a manifest that was not renamed since that was written.
        fn written_in_place()(
            changed in moments(), modified in moments(), manifest in moments(),
        ) -> Times {
            let changed = changed.min(manifest.max(modified));
            Times { changed, modified, manifest: Some(manifest) }
        }
    }

    prop_compose! {
        fn without_manifest()(changed in moments(), modified in moments()) -> Times {
            Times { changed, modified, manifest: None }
        }
    }

    fn any_times() -> impl Strategy<Value = Times> {
        prop_oneof![renamed(), written_in_place(), without_manifest()]
    }

    prop_compose! {
        fn told()(arrival in of(0_u64..3), is_awaited: bool, since in of(moments())) -> Arrivals {
            let complete = arrival.map(|arrival| (DROP.into(), arrival));
            let awaited = is_awaited.then(|| DROP.into());
            Arrivals {
                complete: complete.into_iter().collect(),
                awaited: awaited.into_iter().collect(),
                since,
            }
        }
    }

    fn completion(times: Times, arrivals: &Arrivals, now: Moment) -> Completion {
        let look = Look {
            now,
            arrivals,
            incomplete_timeout: TIMEOUT,
        };
        look.completion(DROP.as_ref(), times)
    }

    fn is_whole(completion: Completion) -> bool {
        matches!(
            completion,
            Completion::Complete { .. } | Completion::Unordered { .. }
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_renamed_drop_is_complete_at_once(
            times in renamed(), arrivals in told(), now in moments(),
        ) {
            let complete = Completion::Complete { since: times.changed };
            // Only its place among the others may be waited for, and only where no event told it.
            let is_event_due = arrivals.since.is_some_and(|since| times.changed > since);
            let until = times.changed.later(if is_event_due { SETTLED } else { TICK });
            let is_put_off = arrivals.complete.is_empty() && now < until;
            let expected = if is_put_off { Completion::Unordered { until } } else { complete };
            prop_assert_eq!(completion(times, &arrivals, now), expected);
            prop_assert_eq!(completion(times, &arrivals, until), complete);
        }

        #[test]
        fn a_drop_of_which_an_event_told_is_complete_since_its_last_change(
            times in prop_oneof![renamed(), written_in_place()],
            mut arrivals in told(),
            now in moments(),
        ) {
            arrivals.complete.insert(DROP.into(), 7);
            let since = times.changed.max(times.manifest.unwrap());
            prop_assert_eq!(completion(times, &arrivals, now), Completion::Complete { since });
        }

        #[test]
        fn a_drop_written_in_place_is_complete_only_when_it_has_settled_or_an_event_told(
            times in written_in_place(), arrivals in told(), now in moments(),
        ) {
            let until = times.manifest.unwrap().later(SETTLED);
            let completion = completion(times, &arrivals, now);
            if is_whole(completion) {
                prop_assert!(!arrivals.complete.is_empty() || until <= now);
            } else if arrivals.awaited.is_empty() {
                let since = times.changed.max(times.manifest.unwrap());
                prop_assert_eq!(completion, Completion::Settles { since, until });
            }
        }

        #[test]
        fn an_awaited_drop_is_waited_for_but_not_longer_than_an_event_takes(
            times in written_in_place(), mut arrivals in told(), now in moments(),
        ) {
            arrivals.complete.clear();
            arrivals.awaited.insert(DROP.into());
            let completion = completion(times, &arrivals, now);
            let is_awaited = times.manifest.unwrap().later(AWAITED) > now;
            prop_assert_eq!(completion == Completion::Awaited, is_awaited, "{:?}", completion);
            prop_assert_eq!(is_whole(completion), !is_awaited, "{:?}", completion);
        }

        #[test]
        fn a_drop_without_a_manifest_is_overdue_exactly_when_its_time_is_up(
            times in without_manifest(), arrivals in told(), now in moments(),
        ) {
            let until = times.changed.later(TIMEOUT);
            let overdue = Completion::Overdue { since: times.changed };
            let is_early = now < until;
            let expected = if is_early { Completion::NoManifest { until } } else { overdue };
            prop_assert_eq!(completion(times, &arrivals, now), expected);
            prop_assert_eq!(completion(times, &arrivals, until), overdue);
        }

        /// Nothing has changed when the scanner comes back too early, and something when it comes
        /// back at the moment that it was told.
        #[test]
        fn what_is_not_complete_never_comes_before_its_time(
            times in any_times(), arrivals in told(), now in moments(), later in moments(),
        ) {
            let shown = completion(times, &arrivals, now);
            let until = match shown {
                Completion::Complete { .. } | Completion::Overdue { .. } => now,
                Completion::Unordered { until }
                | Completion::Settles { until, .. }
                | Completion::NoManifest { until } => until,
                Completion::Awaited => times.manifest.unwrap().later(AWAITED),
            };
            let then = completion(times, &arrivals, later.max(now));
            if later.max(now) < until {
                prop_assert_eq!(then, shown);
            } else {
                let is_overdue = matches!(then, Completion::Overdue { .. });
                prop_assert!(is_whole(then) || is_overdue, "{:?}, and then {:?}", shown, then);
                let was_unordered = matches!(shown, Completion::Unordered { .. });
                let is_unordered = matches!(then, Completion::Unordered { .. });
                prop_assert!(!(was_unordered && is_unordered), "{:?}, and then {:?}", shown, then);
            }
        }
    }
}
