//! Users and groups of the machine.

use std::collections::HashMap;
use std::sync::Mutex;

use nix::unistd::{self, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// Who put a drop into the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Importer {
    pub(crate) uid: u32,
    /// The user's name; the number where the machine knows none.
    pub(crate) name: String,
}

impl Importer {
    /// The user `uid`. Each name is looked up once, because that may ask another machine.
    pub(crate) fn of(uid: u32) -> Self {
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

/// An account that the machine doesn't know.
#[derive(Debug, thiserror::Error)]
#[error("no such {kind}: {name:?}, as `{key}` says")]
pub struct UnknownAccount {
    kind: &'static str,
    name: String,
    key: &'static str,
}

/// The user and the group that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ownership {
    pub uid: u32,
    pub gid: u32,
}

impl Ownership {
    /// What this process makes belongs to these, where the file system has no say in it.
    pub(crate) fn of_process() -> Self {
        Self {
            uid: unistd::geteuid().as_raw(),
            gid: unistd::getegid().as_raw(),
        }
    }

    /// The user and the group of these names; without a name, that of `own`.
    ///
    /// # Errors
    /// When the machine knows no such user, or no such group.
    pub(crate) fn by_name(
        user: Option<&str>,
        group: Option<&str>,
        own: Self,
    ) -> Result<Self, UnknownAccount> {
        let unknown = |kind, name: &str, key| UnknownAccount {
            kind,
            name: name.to_string(),
            key,
        };
        let Self { mut uid, mut gid } = own;
        if let Some(name) = user {
            let user = User::from_name(name).ok().flatten();
            uid = user
                .ok_or_else(|| unknown("user", name, "tree.owner"))?
                .uid
                .as_raw();
        }
        if let Some(name) = group {
            let group = Group::from_name(name).ok().flatten();
            gid = group
                .ok_or_else(|| unknown("group", name, "tree.group"))?
                .gid
                .as_raw();
        }
        Ok(Self { uid, gid })
    }
}
