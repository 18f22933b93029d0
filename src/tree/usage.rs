//! What a target takes on the disk.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::Tree;
use crate::sys::{Dir, Failure, Kind};
use crate::words::Target;

impl Tree {
    /// Room on the disk, in bytes, as du(1) counts it: holes take none, and a file of several names
    /// counts once. First what only one of the generations of `target` has, then what several of
    /// them share. Each of their files is looked at.
    pub(crate) fn disk_use(&self, target: &Target) -> Result<(u64, u64), Failure> {
        let (mut own, mut shared) = (0, 0);
        let Some(top) = self.generations(target)? else {
            return Ok((own, shared));
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
            own += folder.stat_self()?.allocated;
            for (name, kind) in listed(folder)? {
                if kind == Kind::Dir {
                    folders.push(path.join(name));
                } else if let Some(stat) = folder.stat(name)? {
                    files.entry(stat.id).or_insert((stat.allocated, 0)).1 += 1;
                }
            }
        }
        for (allocated, count) in files.into_values() {
            let sum = if count > 1 { &mut shared } else { &mut own };
            *sum += allocated;
        }
        Ok((own, shared))
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
