//! What a drop waits for that has no outcome yet: what the daemon tells, and commands show.

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use crate::sys::Importer;
use crate::words::{Moment, Target};

/// A drop that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub drop: String,
    /// Missing while nobody has read the manifest.
    #[serde(default)]
    pub target: Option<Target>,
    pub importer: Importer,
    /// When the drop became whole, or was changed last.
    pub since: Moment,
    pub state: WaitState,
    /// For people: what the drop waits for; empty where only the daemon would know.
    pub why: String,
}

/// What a drop that has no outcome waits for. The words are for programs: they never change.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    SerializeDisplay,
    DeserializeFromStr,
)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum WaitState {
    /// Nobody has handed it over: its name in `incoming/` begins with a dot.
    Draft,
    /// It is in `incoming/`, and nobody is there who would look into it.
    Incoming,
    /// It is in `processing/`, as a daemon that has ended has left it.
    Claimed,
    /// Something of it is missing.
    Incomplete,
    /// It is whole as soon as nobody has changed it for a while.
    Settling,
    /// Others are before it.
    Queued,
    /// Another drop for its target is before it.
    Behind,
    /// It is checked, and what is small is compared and copied.
    Checked,
    /// It is compared or copied.
    Working,
    /// All but the swap is done: machines may be using what it replaces.
    Held,
    NoSpace,
    /// Something else has to become better first.
    Trouble,
}
