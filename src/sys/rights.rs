//! What this process may do, and what the programs that it starts may do.

use rustix::io::Result;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Keeps this thread's capabilities, and those of the threads that it starts, from programs: they
/// inherit none, unless they run as root (capabilities(7)).
///
/// The unit gives capabilities in a way that every program inherits (`AmbientCapabilities=`). What is
/// not inheritable can't be ambient: the kernel takes both away.
///
/// # Errors
/// When there is something to be taken away, and capset(2) is forbidden.
pub(crate) fn keep_rights_from_programs() -> Result<()> {
    let sets = capabilities(None)?;
    if sets.inheritable.is_empty() {
        return Ok(());
    }
    let inheritable = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            inheritable,
            ..sets
        },
    )
}
