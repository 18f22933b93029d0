//! Whoever is told of outcomes, or asks what waits, and is waited for by nobody: boot configurations,
//! hooks, metrics, systemd's status line, and commands that ask. Each is a task that runs until the
//! publisher ends; around each run of a hook stands its keeper, a process of this program. Uses all
//! below it.
//! Start with [`render_boot_configs`].

mod answers;
mod boot_configs;
mod hooks;
mod keeper;
mod metrics;
mod render;
mod status_text;
mod template;

pub(crate) use answers::answer_questions;
pub(crate) use boot_configs::render_boot_configs;
pub(crate) use hooks::run_hooks;
pub(crate) use keeper::keep_hook;
pub(crate) use metrics::count_outcomes;
pub use render::BootConfigs;
pub(crate) use status_text::tell_status;
