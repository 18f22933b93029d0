//! What all work on drops needs.

use std::sync::Arc;

use crate::settings::Settings;
use crate::spool::Spool;
use crate::sys::Progress;
use crate::tree::Staging;

/// Shared by all work that runs side by side; each goes on with the settings that it began with.
#[derive(Clone, Debug)]
pub(super) struct Workshop {
    pub(super) settings: Arc<Settings>,
    pub(super) spool: Arc<Spool>,
    pub(super) staging: Arc<Staging>,
    pub(super) progress: Arc<Progress>,
}
