//! What a target takes on the disk.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;

use super::Tree;
use crate::sys::{Dir, Failure, Kind};
use crate::words::Target;

/// Room on the disk, in bytes, as du(1) counts it: holes take none, and a file of several names counts
/// once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiskUse {
    /// What only one of the target's generations takes.
    pub own: u64,
    /// Of files that several of them have.
    pub shared: u64,
}

impl Tree {
    /// What all generations of `target` take. Each of their files is looked at.
    pub(crate) fn disk_use(&self, target: &Target) -> Result<DiskUse, Failure> {
        let mut used = DiskUse::default();
        let Some(top) = self.generations(target)? else {
            return Ok(used);
        };
        let mut files = HashMap::<_, (u64, u32)>::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            let opened;
            let folder = if path.as_os_str().is_empty() {
                &top
            } else {
                // The vacuum may be at work.
                opened = top.dir(&path)?;
                let Some(folder) = &opened else { continue };
                folder
            };
            used.own += folder.stat_self()?.allocated;
            for (name, kind) in listed(folder)? {
                if kind == Kind::Dir {
                    folders.push(path.join(name));
                } else if let Some(stat) = folder.stat(name)? {
                    files.entry(stat.id).or_insert((stat.allocated, 0)).1 += 1;
                }
            }
        }
        for (allocated, count) in files.into_values() {
            let sum = if count > 1 {
                &mut used.shared
            } else {
                &mut used.own
            };
            *sum += allocated;
        }
        Ok(used)
    }
}

fn listed(folder: &Dir) -> Result<Vec<(PathBuf, Kind)>, Failure> {
    let mut names = Vec::new();
    folder.each(|name, kind| {
        names.push((name.into(), kind));
        ControlFlow::Continue(())
    })?;
    Ok(names)
}
