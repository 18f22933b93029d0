//! Whoever is told of outcomes, and waited for by nobody: boot configurations, hooks, metrics, and
//! systemd's status line. Each is a task that runs until the publisher ends; around each run of a hook
//! stands its keeper, a process of this program. Uses all below it.
//! Start with [`render_boot_configs`].

mod boot_configs;
mod hooks;
mod keeper;
mod metrics;
mod render;
mod status_text;
mod template;

pub(crate) use boot_configs::render_boot_configs;
pub(crate) use hooks::run_hooks;
pub(crate) use keeper::keep_hook;
pub(crate) use metrics::count_outcomes;
pub use render::BootConfigs;
pub(crate) use status_text::tell_status;
