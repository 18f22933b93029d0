//! Users and groups of the machine.

use std::collections::HashMap;
use std::sync::Mutex;

use nix::unistd::{Group, Uid, User};
use serde::{Deserialize, Serialize};

use crate::fault::StartError;

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

/// The number of the user `name`, or `own` when there is no name.
///
/// # Errors
/// When the machine knows no such user.
pub(crate) fn user_or(name: Option<&str>, own: u32) -> Result<u32, StartError> {
    let Some(name) = name else { return Ok(own) };
    let user = User::from_name(name).ok().flatten();
    let unknown = || no_account("user", name);
    user.map(|user| user.uid.as_raw()).ok_or_else(unknown)
}

/// The number of the group `name`, or `own` when there is no name.
///
/// # Errors
/// When the machine knows no such group.
pub(crate) fn group_or(name: Option<&str>, own: u32) -> Result<u32, StartError> {
    let Some(name) = name else { return Ok(own) };
    let group = Group::from_name(name).ok().flatten();
    let unknown = || no_account("group", name);
    group.map(|group| group.gid.as_raw()).ok_or_else(unknown)
}

fn no_account(kind: &'static str, name: &str) -> StartError {
    let name = name.to_string();
    StartError::NoAccount { kind, name }
}
