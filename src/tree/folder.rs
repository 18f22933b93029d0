//! The folders of a target, and the pointer in the last of them.

use std::io::ErrorKind;
use std::ops::ControlFlow;

use crate::image::DIR_MODE;
use crate::sys::{Dir, Failure, Kind};
use crate::words::{GenerationName, Target};

/// What stands where a target's pointer belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// The pointer, which names this generation, whether that is there or not.
    Generation(GenerationName),
    /// A directory that somebody else made.
    Plain,
    /// Something else that the daemon did not make.
    Other,
}

impl Shown {
    /// Looks into the folder that holds the target's pointer.
    pub(super) fn look(folder: &Dir, target: &Target) -> Result<Self, Failure> {
        if let Some(name) = linked(folder, target)? {
            return Ok(Self::Generation(name));
        }
        let found = folder.stat(target.purpose())?;
        Ok(match found.map(|stat| stat.kind) {
            None => Self::Nothing,
            Some(Kind::Dir) => Self::Plain,
            Some(_) => Self::Other,
        })
    }

    pub(super) fn generation(&self) -> Option<&GenerationName> {
        match self {
            Self::Generation(name) => Some(name),
            _ => None,
        }
    }
}

/// The generation that a target's link names; `None` when the daemon would not have made it.
pub(super) fn linked(folder: &Dir, target: &Target) -> Result<Option<GenerationName>, Failure> {
    let link = folder.link(target.purpose())?;
    let path = link.as_ref().and_then(|link| link.to_str());
    let name = path.and_then(|path| path.strip_prefix(&target.generations())?.strip_prefix('/'));
    Ok(name.and_then(|name| name.parse().ok()))
}

/// What the pointer holds.
pub(super) fn pointer(target: &Target, generation: &GenerationName) -> String {
    format!("{}/{generation}", target.generations())
}

/// The folder at `path` beneath `top`, made where it is not there, with those above it. A new one
/// inherits nothing: a default ACL of the tree could shut machines out of it.
pub(super) fn make(top: &Dir, path: &str) -> Result<Dir, Failure> {
    if let Some(folder) = top.dir(path)? {
        return Ok(folder);
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let made;
    let parent = if above.is_empty() {
        top
    } else {
        made = make(top, above)?;
        &made
    };
    parent.make_dir(name, DIR_MODE)?;
    let folder = parent.existing_dir(name)?;
    folder.make_plain(DIR_MODE)?;
    Ok(folder)
}

/// Removes the folder of a target's generations, and each above it beneath `root`, as far as there is
/// nothing in them: what somebody else put there stays.
pub(super) fn remove_empty(root: &Dir, target: &Target) -> Result<(), Failure> {
    let mut path = format!("{target}@");
    loop {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let opened;
        let parent = if above.is_empty() {
            root
        } else {
            opened = root.dir(above)?;
            let Some(parent) = &opened else { return Ok(()) };
            parent
        };
        match parent.remove_dir(name) {
            Err(failure) if failure.is(ErrorKind::DirectoryNotEmpty) => return Ok(()),
            removed => removed.map(drop)?,
        }
        if above.is_empty() {
            return Ok(());
        }
        path.truncate(above.len());
    }
}

/// Every target of which there is something beneath `root`, in its own folder: `purpose` tells from the name
/// of that whose it is.
pub(super) fn targets(
    root: &Dir,
    purpose: impl Fn(Kind, &str) -> Option<&str>,
) -> Result<Vec<Target>, Failure> {
    let (mut targets, mut folders) = (Vec::new(), vec![String::new()]);
    for depth in 0..=3 {
        let mut below = Vec::new();
        for path in folders {
            let opened;
            let folder = if path.is_empty() {
                root
            } else {
                opened = root.dir(&path)?;
                let Some(folder) = &opened else { continue };
                folder
            };
            folder.each(|name, kind| {
                if let Some(name) = name.to_str() {
                    match purpose(kind, name) {
                        Some(purpose) if depth == 3 => {
                            targets.extend(format!("{path}{purpose}").parse::<Target>());
                        }
                        // What is hidden is the daemon's own, and no target's.
                        _ if kind == Kind::Dir && !name.starts_with('.') => {
                            below.push(format!("{path}{name}/"));
                        }
                        _ => {}
                    }
                }
                ControlFlow::Continue(())
            })?;
        }
        folders = below;
    }
    targets.sort_unstable();
    Ok(targets)
}
