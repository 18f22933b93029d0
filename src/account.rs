//! Users and groups of the machine.

use std::collections::HashMap;
use std::sync::Mutex;

use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// Who put a drop into the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Importer {
    pub uid: u32,
    /// The user's name; the number where the machine knows none.
    pub name: String,
}

impl Importer {
    /// The user `uid`. A name is looked up once: the look-up may ask another machine.
    pub fn of(uid: u32) -> Self {
        static NAMES: Mutex<Option<HashMap<u32, String>>> = Mutex::new(None);
        let mut names = NAMES.lock().expect("no thread panics here");
        let name = names.get_or_insert_default().entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name)
        });
        Self {
            uid,
            name: name.clone(),
        }
    }
}

/// The number of the user `name`; `None` when there is none.
pub fn user(name: &str) -> Option<u32> {
    User::from_name(name)
        .ok()
        .flatten()
        .map(|user| user.uid.as_raw())
}

/// The number of the group `name`; `None` when there is none.
pub fn group(name: &str) -> Option<u32> {
    Group::from_name(name)
        .ok()
        .flatten()
        .map(|group| group.gid.as_raw())
}

/// User and group that this process acts as.
pub fn own() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}
