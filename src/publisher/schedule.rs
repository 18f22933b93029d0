//! When there is something to do for which target: the earliest moment of each, once.

use std::collections::{BTreeSet, HashMap};

use crate::words::{Moment, Target};

/// Grows with the targets, not with how often something is to be done for them.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    moments: HashMap<Target, Moment>,
    /// The same, in order.
    order: BTreeSet<(Moment, Target)>,
}

impl Schedule {
    /// Whatever there will be to do for `target` is done at that moment, or earlier: whoever does it
    /// asks for the next.
    pub(crate) fn add(&mut self, at: Moment, target: Target) {
        if let Some(known) = self.moments.get(&target) {
            if *known <= at {
                return;
            }
            self.order.remove(&(*known, target.clone()));
        }
        self.moments.insert(target.clone(), at);
        self.order.insert((at, target));
    }

    /// The first moment.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out those whose moment has come.
    pub(crate) fn take_due(&mut self, now: Moment) -> Vec<Target> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now)
            && let Some((_, target)) = self.order.pop_first()
        {
            self.moments.remove(&target);
            due.push(target);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_target_is_due_once_at_its_earliest_moment() {
        let start = Moment::now();
        let at = |seconds| start.later(Duration::from_secs(seconds));
        let [one, other] = ["a/b/c/d", "a/b/c/e"].map(|text| text.parse::<Target>().unwrap());
        let mut schedule = Schedule::default();
        schedule.add(at(3), one.clone());
        schedule.add(at(2), other.clone());
        schedule.add(at(1), one.clone());
        schedule.add(at(9), one.clone());
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.take_due(at(0)), []);
        assert_eq!(schedule.take_due(at(1)), std::slice::from_ref(&one));
        assert_eq!(schedule.take_due(at(9)), [other]);
        assert_eq!(schedule.next(), None);
        schedule.add(at(4), one.clone());
        assert_eq!(schedule.take_due(at(4)), [one], "it may come again");
    }
}
