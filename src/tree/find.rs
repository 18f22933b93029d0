//! Which generation of a target is meant.

use std::collections::BTreeSet;

use super::Tree;
use super::history::Happened;
use crate::fault::{Fault, reject};
use crate::sys::Failure;
use crate::words::{ClaimId, GenerationHint, GenerationName, Reason, Target};

impl Tree {
    /// The one of the kept generations of `target` that is meant by `to`. Of several with one digest
    /// that is the current one, or the last.
    ///
    /// # Errors
    /// [`Reason::UnknownGeneration`] where none is meant, or nobody knows which.
    pub(crate) fn find(
        &self,
        target: &Target,
        to: &GenerationHint,
    ) -> Result<GenerationName, Fault> {
        let pointed = self.pointed(target)?;
        let mut names = self.names(target)?.unwrap_or_default();
        names.retain(|name| to.may_be(name));
        let mut digests = BTreeSet::new();
        if let Some(digits) = to.digits() {
            let mut meant = Vec::new();
            for name in names {
                let head = self.head(target, &name)?;
                let digest = head.map(|head| head.digest.to_string());
                if let Some(digest) = digest.filter(|digest| digest.starts_with(digits)) {
                    digests.insert(digest);
                    meant.push(name);
                }
            }
            names = meant;
        }
        let is_one = names.len() == 1 || digests.len() == 1;
        let current = names.iter().position(|name| Some(name) == pointed.as_ref());
        let last = names.len().checked_sub(1);
        match current.or(last).filter(|_| is_one) {
            Some(at) => Ok(names.swap_remove(at)),
            None => {
                let detail = match last {
                    None => format!("{target} keeps no generation {to}; expected one that is kept"),
                    Some(_) => format!(
                        "{to} may be any of {} generations of {target}; expected more of its name",
                        names.len()
                    ),
                };
                Err(reject(Reason::UnknownGeneration, detail))
            }
        }
    }

    /// The removal of a generation that the drop of this claim has asked for, as far as the history
    /// tells. It may not have come to pass.
    pub(crate) fn removal_by(
        &self,
        target: &Target,
        claim: ClaimId,
    ) -> Result<Option<Happened>, Failure> {
        let mut lines = self.history(target)?.into_iter().flatten();
        let is_it = |line: &Result<Happened, _>| {
            line.as_ref().map_or(true, |line| {
                !line.is_swap() && line.claim == Some(claim) && line.to.is_none()
            })
        };
        lines.find(is_it).transpose()
    }

    /// The generation that the last swap of `target` replaced, which made the current one current;
    /// where nothing is current, the one that was current last.
    ///
    /// # Errors
    /// [`Reason::UnknownGeneration`] where the history doesn't tell.
    pub(crate) fn find_replaced(&self, target: &Target) -> Result<GenerationName, Fault> {
        let pointed = self.pointed(target)?;
        for line in self.history(target)?.into_iter().flatten() {
            let line = line?;
            if !line.is_swap() {
                continue;
            }
            let replaced = match (&pointed, &line.to) {
                (None, Some(_)) => line.to,
                (None, None) => line.from,
                (Some(pointed), Some(to)) if pointed == to => line.from,
                _ => continue,
            };
            let nothing = format!("nothing was current at {target} before; expected a generation");
            return replaced.ok_or_else(|| reject(Reason::UnknownGeneration, nothing));
        }
        let detail = format!(
            "the history of {target} doesn't tell what was current before; expected a generation \
             to be named"
        );
        Err(reject(Reason::UnknownGeneration, detail))
    }
}
