//! What a target takes on the disk.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;

use super::Tree;
use crate::sys::{Dir, Failure, Kind};
use crate::words::Target;

impl Tree {
    /// Room on the disk, in bytes, as du(1) counts it: holes take none, and a file of several names
    /// counts once. First what only one of the generations of `target` has, then what several of
    /// them share. Each of their files is looked at.
    pub(crate) fn disk_use(&self, target: &Target) -> Result<(u64, u64), Failure> {
        let generations = self.generations(target)?;
        generations.as_ref().map_or(Ok((0, 0)), measured)
    }
}

/// What is beneath a folder: what has one name there, and what has several.
fn measured(top: &Dir) -> Result<(u64, u64), Failure> {
    let (mut own, mut shared) = (top.stat_self()?.allocated, 0);
    let mut files = HashMap::<_, (u64, u32)>::new();
    let mut broken = None;
    for (name, _) in top.names()? {
        top.walk(&name, &mut |stat| {
            match stat {
                Ok(stat) if stat.kind == Kind::Dir => own += stat.allocated,
                Ok(stat) => files.entry(stat.id).or_insert((stat.allocated, 0)).1 += 1,
                // The vacuum may be at work.
                Err(failure) if failure.is(ErrorKind::NotFound) => {}
                Err(failure) => broken = Some(failure),
            }
            if broken.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
    }
    for (allocated, count) in files.into_values() {
        let sum = if count > 1 { &mut shared } else { &mut own };
        *sum += allocated;
    }
    broken.map_or(Ok((own, shared)), Err)
}
