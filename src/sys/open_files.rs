//! Which files are open, as far as this process may know.
//!
//! The kernel shows a process what others have open where it runs as the same user or may trace
//! them (`CAP_SYS_PTRACE`, proc(5)). Of the rest nothing is known here, but locks may tell of them.

use std::ffi::OsString;
use std::ffi::os_str::Display;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::path::Path;

use super::dir::Dir;

/// The paths of all open files that this process may know of, but for its own; each with the process
/// that has it open.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Vec<(OsString, Vec<u8>)>);

impl OpenFiles {
    /// Looks at every process. What can't be looked at is left out.
    pub(crate) fn now() -> Self {
        let mut paths = Vec::new();
        let own = std::process::id().to_string();
        let Ok(proc) = Dir::open(Path::new("/proc")) else {
            return Self::default();
        };
        for (name, _) in proc.names().unwrap_or_default() {
            let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
            if !is_process || name == *own {
                continue;
            }
            let Ok(Some(open)) = proc.dir(Path::new(&name).join("fd")) else {
                continue;
            };
            for (number, _) in open.names().unwrap_or_default() {
                let path = open.link(&number).ok().flatten();
                let path = path.map(OsStringExt::into_vec);
                let path = path.filter(|path| path.starts_with(b"/"));
                paths.extend(path.map(|path| (name.clone(), path)));
            }
        }
        Self(paths)
    }

    /// Whether a file is open whose path has this `part`. A server in a mount namespace of its own
    /// may see the tree at another path than this process does; so only a part is compared.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.holder(part).is_some()
    }

    /// The number of a process that has such a file open.
    pub(crate) fn holder(&self, part: &str) -> Option<Display<'_>> {
        let part = part.as_bytes();
        let is_in = |path: &[u8]| path.windows(part.len()).any(|window| window == part);
        let (process, _) = self.0.iter().find(|(_, path)| is_in(path))?;
        Some(process.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_another_process_has_open_is_seen_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("install@/generation/linux");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let part = format!("/{name}/install@/generation/");
        assert!(!OpenFiles::now().has(&part), "this process's own");
        let mut reader = std::process::Command::new("cat");
        let file = std::fs::File::open(&path).map(|_| file).unwrap();
        let mut reader = reader
            .stdin(std::process::Stdio::piped())
            .stdout(file)
            .spawn()
            .unwrap();
        let holder = OpenFiles::now().holder(&part).map(|it| it.to_string());
        assert_eq!(holder, Some(reader.id().to_string()));
        assert!(!OpenFiles::now().has("/install@/other/"));
        drop(reader.stdin.take());
        reader.wait().unwrap();
        assert!(!OpenFiles::now().has(&part));
    }
}
