//! What all work on drops needs.

use std::sync::Arc;

use super::room::Room;
use crate::settings::Settings;
use crate::spool::Spool;
use crate::sys::{Failure, Progress};
use crate::tree::Staging;

/// Shared by all work that runs side by side; each goes on with the settings that it began with.
#[derive(Clone, Debug)]
pub(super) struct Workshop {
    pub(super) settings: Arc<Settings>,
    pub(super) spool: Arc<Spool>,
    pub(super) staging: Arc<Staging>,
    pub(super) progress: Arc<Progress>,
    pub(super) room: Arc<Room>,
}

impl Workshop {
    /// The same, where work tells how far it has come.
    pub(super) fn telling(&self, progress: Arc<Progress>) -> Self {
        Self {
            progress,
            ..self.clone()
        }
    }

    /// Makes sure that spool and tree are still the folders that they were at the start: what is
    /// published into others, no machine sees.
    ///
    /// # Errors
    /// Names the folder that is another, and what happened to it: nothing more may be done then.
    pub(super) fn check_places(&self) -> Result<(), Failure> {
        self.spool.check_places()?;
        self.staging.tree().root().check_place()
    }
}
