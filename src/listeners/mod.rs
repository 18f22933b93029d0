//! ROOM listeners

pub(crate) mod boot_configs;
pub(crate) mod hooks;
pub(crate) mod metrics;
mod render;

pub use render::BootConfigs;
