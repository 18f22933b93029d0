//! How many drops of each importer wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Drops that have no outcome yet, by the user whose they are; nobody has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares(HashMap<u32, usize>);

impl Shares {
    pub(super) fn add(&mut self, owner: u32) {
        *self.0.entry(owner).or_default() += 1;
    }

    pub(super) fn remove(&mut self, owner: u32) {
        if let Entry::Occupied(mut count) = self.0.entry(owner) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    pub(super) fn of(&self, owner: u32) -> usize {
        self.0.get(&owner).copied().unwrap_or_default()
    }

    pub(super) fn all(&self) -> &HashMap<u32, usize> {
        &self.0
    }
}
