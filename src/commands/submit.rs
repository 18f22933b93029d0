//! `submit`: a drop made from a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::hand_over::HandOver;
use crate::image::Image;
use crate::settings::Settings;
use crate::spool::{Action, Manifest, Replaces};
use crate::sys::Dir;
use crate::words::{Name, Target};

#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The architecture of the machines, such as `amd64`
    #[arg(long)]
    arch: Name,
    /// The kind of machines
    #[arg(long, default_value = "generic")]
    subarch: Name,
    /// The release of the system, such as `bookworm`
    #[arg(long)]
    release: Name,
    /// What machines boot it for, such as `install`
    #[arg(long)]
    purpose: Name,
    /// The version that `status` and menus show
    #[arg(long, value_parser = version)]
    version: Option<String>,
    /// Refuse (`conflict`) unless the current generation's digest begins so; `none`: unless the target
    /// is new
    #[arg(long, value_name = "DIGEST")]
    replaces: Option<Replaces>,
    #[command(flatten)]
    drop: HandOver,
    /// The directory that is published
    image: PathBuf,
}

impl Submit {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let target = Target::new(self.arch, self.subarch, self.release, self.purpose)?;
        let manifest = Manifest {
            replaces: self.replaces,
            version: self.version,
            ..Manifest::new(target, Action::Publish)
        };
        // The directory is the caller's own choice: its files may be anybody's.
        let image = Dir::open(&self.image)
            .map_err(Into::into)
            .and_then(|dir| Image::check(dir, 0, &settings.limits))
            .with_context(|| format!("submitting {:?}", self.image))?;
        self.drop.hand_over(settings, manifest, Some(image))
    }
}

fn version(text: &str) -> Result<String, String> {
    Manifest::parse_version(text).map_err(|rule| format!("expected {rule}"))
}
