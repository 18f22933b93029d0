//! `rollback`: an order that names the image which it means.

use std::process::ExitCode;

use anyhow::Context as _;

use super::hand_over::HandOver;
use crate::settings::Settings;
use crate::spool::{Action, Manifest};
use crate::tree::Tree;
use crate::words::{Digest, GenerationHint, Target};

/// Orders that the generation `to` becomes current, or the one that the last swap replaced.
pub(super) fn order(
    settings: &Settings,
    target: Target,
    to: Option<GenerationHint>,
    drop: HandOver,
) -> anyhow::Result<ExitCode> {
    let found = drop.tree(settings);
    let found = found.and_then(|tree| find(&tree, &target, to.as_ref()));
    let all_digits = to.as_ref().and_then(GenerationHint::digits);
    let all_digits = all_digits.and_then(|digits| digits.parse::<Digest>().ok());
    let (to, digest) = match (found, all_digits) {
        (Ok((to, digest)), _) => (to, Some(digest)),
        (Err(_), Some(digest)) => (None, Some(digest)),
        (Err(error), None) if drop.is_signed() => {
            let doing = "finding the image that a signed rollback names (`--to` with all 64 digits of \
                         its digest names it as well)";
            return Err(error.context(doing));
        }
        // The daemon may know more, and says what is wrong.
        (Err(_), None) => (to, None),
    };
    let order = Manifest::new(target, Action::Rollback { to, digest });
    drop.order(settings, order)
}

/// The image that is meant, by its digest, which is the same at every site; and its generation, where
/// that is one of several of this image.
fn find(
    tree: &Tree,
    target: &Target,
    to: Option<&GenerationHint>,
) -> anyhow::Result<(Option<GenerationHint>, Digest)> {
    anyhow::ensure!(tree.knows(target)?, "no such target: {target}");
    let name = match to {
        Some(to) => tree.find(target, to)?,
        None => tree.find_replaced(target)?,
    };
    let head = tree.head(target, &name)?;
    let head = head.with_context(|| format!("{name} is not kept, or its record is damaged"))?;
    let is_one = tree.kept(target, &head.digest)?.len() == 1;
    let to = (!is_one).then(|| GenerationHint::from(&name));
    Ok((to, head.digest))
}
