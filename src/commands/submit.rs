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
use crate::words::{Boot, Name, Target};

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
    boot: BootOptions,
    #[command(flatten)]
    drop: HandOver,
    /// The directory that is published
    image: PathBuf,
}

/// How the image boots: the manifest's `[boot]`.
#[derive(Debug, Args)]
struct BootOptions {
    /// The kernel, a path in IMAGE; without it and `--efi` it is found by the usual names, its initrd too
    #[arg(long, value_name = "PATH", value_parser = path)]
    kernel: Option<String>,
    /// An initrd, a path in IMAGE; of several, each is given so, in their order
    #[arg(long, value_name = "PATH", value_parser = path)]
    initrd: Vec<String>,
    /// The kernel's command line, after what menus have for all; `{url}` and `{path}` in it stand for
    /// where this very image is
    #[arg(long, value_name = "TEXT", value_parser = cmdline, allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// The name that menus show
    #[arg(long, value_name = "TEXT", value_parser = title)]
    title: Option<String>,
    /// An EFI program that boots without a kernel and an initrd, a path in IMAGE
    #[arg(long, value_name = "PATH", value_parser = path, conflicts_with_all = ["kernel", "initrd"])]
    efi: Option<String>,
}

impl Submit {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let target = Target::new(self.arch, self.subarch, self.release, self.purpose)?;
        let manifest = Manifest {
            replaces: self.replaces,
            version: self.version,
            boot: Boot {
                kernel: self.boot.kernel,
                initrd: self.boot.initrd,
                cmdline: self.boot.cmdline,
                title: self.boot.title,
                efi: self.boot.efi,
            },
            ..Manifest::new(target, Action::Publish)
        };
        // The directory is the caller's own choice: its files may be anybody's.
        let image = Dir::open(&self.image)
            .map_err(Into::into)
            .and_then(|dir| Image::check(dir, 0, &settings.limits))
            .and_then(|image| manifest.check_boot(&image).map(|()| image))
            .with_context(|| format!("submitting {:?}", self.image))?;
        self.drop.hand_over(settings, manifest, Some(image))
    }
}

fn version(text: &str) -> Result<String, String> {
    Manifest::parse_version(text).map_err(|rule| format!("expected {rule}"))
}

fn path(text: &str) -> Result<String, String> {
    Boot::path(text).ok_or_else(|| format!("expected {}", Boot::PATH_RULE))
}

fn cmdline(text: &str) -> Result<String, String> {
    Boot::cmdline(text).ok_or_else(|| format!("expected {}", Boot::CMDLINE_RULE))
}

fn title(text: &str) -> Result<String, String> {
    Boot::title(text).ok_or_else(|| format!("expected {}", Boot::TITLE_RULE))
}
