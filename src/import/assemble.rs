//! A drop made of files that were fetched.

use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::at_hand::AtHand;
use super::world::World;
use crate::image::Image;
use crate::settings::Limits;
use crate::sources::{Offer, Part, unpack};
use crate::spool::{Action, Manifest, NewDrop};
use crate::sys::{Dir, FileExt as _, Progress};
use crate::words::{Digest, Moment};

/// The mode of a folder in a drop.
const MODE: u32 = 0o755;

/// Makes a drop of what an offer wants, all of which is at hand. `has_serial`: the seconds since 1970.
///
/// # Errors
/// When something of it can't be, and the drop is gone again.
pub(super) fn assemble(
    world: &World,
    offer: &Offer,
    files: &AtHand,
    has_serial: bool,
    progress: &Progress,
) -> anyhow::Result<NewDrop> {
    let limits = &world.settings.limits;
    let drop = NewDrop::begin(&world.settings.spool.path, &offer.target)?;
    let image = drop.make_image()?;
    for part in &offer.parts {
        match part {
            Part::File { path, wanted } => put(files, &wanted.sha256, &image, path)?,
            Part::Archive { wanted, picks } => {
                let archive = files.open(&wanted.sha256)?;
                unpack(archive, &image, picks, limits, progress)
                    .with_context(|| format!("unpacking {}", wanted.url))?;
            }
        }
    }
    let mut manifest = Manifest {
        version: offer.version.clone(),
        boot: offer.boot.clone(),
        serial: has_serial.then(|| Moment::now().since_1970().as_secs()),
        ..Manifest::new(offer.target.clone(), Action::Publish)
    };
    list(&drop, &mut manifest, limits, progress)?;
    drop.add_manifest(&manifest)?;
    Ok(drop)
}

/// Lists all that is in the drop in its manifest.
fn list(
    drop: &NewDrop,
    manifest: &mut Manifest,
    limits: &Limits,
    progress: &Progress,
) -> anyhow::Result<()> {
    let image = drop.make_image()?;
    let owner = image.stat_self()?.owner.uid;
    let image = Image::check(image, owner, limits)?;
    manifest.check_boot(&image)?;
    manifest.list(image.hash(progress)?);
    Ok(())
}

/// Copies the file of this digest to a path of the image, whose folders are made.
fn put(files: &AtHand, sha256: &Digest, image: &Dir, path: &str) -> anyhow::Result<()> {
    let mut folder = String::new();
    let names = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    for name in names.split('/').filter(|name| !name.is_empty()) {
        folder = Path::new(&folder).join(name).display().to_string();
        image.make_dir(&folder, MODE)?;
    }
    let mut from = files.open(sha256)?;
    let mut to = image.create(path)?;
    if !from.reflink(&to) {
        io::copy(&mut from, &mut to)
            .with_context(|| format!("writing {:?}", image.path().join(path)))?;
    }
    Ok(())
}
