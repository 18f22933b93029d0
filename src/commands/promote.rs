//! `promote`: an order that names the image which it means, and its generation.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::hand_over::HandOver;
use crate::settings::Settings;
use crate::spool::{Action, Manifest, Replaces};
use crate::tree::Tree;
use crate::words::{Digest, GenerationName, Target};

#[derive(Debug, Args)]
pub(super) struct Promote {
    /// The target whose current image is meant: arch/subarch/release/purpose
    from: Target,
    /// The target where the image is to be current
    target: Target,
    /// The image that is meant, all 64 digits: refused (`conflict`) unless it is current at FROM by then.
    /// Without it the one that is current now
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
    /// Refuse (`conflict`) unless the digest of what is current at TARGET begins so; `none`: unless that is
    /// new
    #[arg(long, value_name = "DIGEST")]
    replaces: Option<Replaces>,
    #[command(flatten)]
    drop: HandOver,
}

impl Promote {
    pub(super) fn order(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let from = self.from;
        anyhow::ensure!(
            from != self.target,
            "{from} is both FROM and TARGET; expected two targets"
        );
        let found = self.drop.tree(settings);
        let found = found.and_then(|tree| find(&tree, &from));
        let (digest, generation) = match (self.digest, found) {
            (Some(digest), Ok((name, is))) if is == digest => (digest, Some(name)),
            // It may be current by then, and the daemon says what is.
            (Some(digest), _) => (digest, None),
            (None, Ok((name, digest))) => (digest, Some(name)),
            (None, Err(error)) => {
                let doing =
                    "finding the image that is to be promoted (`--digest` names it as well)";
                return Err(error.context(doing));
            }
        };
        let action = Action::Promote {
            from,
            digest: Some(digest),
            generation,
        };
        let order = Manifest {
            replaces: self.replaces,
            ..Manifest::new(self.target, action)
        };
        self.drop.hand_over(settings, order, None)
    }
}

/// The generation that is current at a target, and the digest of its image.
fn find(tree: &Tree, from: &Target) -> anyhow::Result<(GenerationName, Digest)> {
    anyhow::ensure!(tree.knows(from)?, "no such target: {from}");
    let name = tree.pointed(from)?;
    let name = name.with_context(|| format!("nothing is current at {from}"))?;
    let head = tree.head(from, &name)?;
    let head = head.with_context(|| format!("the record of {name} is damaged"))?;
    Ok((name, head.digest))
}
