//! Read leases: whether anybody has a file open for writing. The one `unsafe` of the project: no
//! safe crate offers the call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Whether anybody has this file, which is open for reading, open for writing; `None` where the
/// kernel doesn't tell.
///
/// It refuses a read lease (`F_SETLEASE`, fcntl(2)) with `EAGAIN` while somebody has. A file of
/// another user takes `CAP_LEASE`. Whoever opens the file for writing while this process holds the
/// lease, for some microseconds, waits for its end; the kernel sends this process a SIGIO then,
/// which ends a process that doesn't handle it.
pub(super) fn is_being_written(file: &File) -> Option<bool> {
    match set(file, libc::F_RDLCK) {
        Ok(()) => {
            // Where it can't be given back, it ends with the descriptor.
            let _ = set(file, libc::F_UNLCK);
            Some(false)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(true),
        Err(_) => None,
    }
}

#[expect(unsafe_code, reason = "rustix and nix have no F_SETLEASE")]
fn set(file: &File, lease: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and F_SETLEASE takes a number:
    // no memory is handed over.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_being_written_as_long_as_somebody_has_it_open_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initrd.gz");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(is_being_written(&reader), Some(true));
        drop(writer);
        assert_eq!(is_being_written(&reader), Some(false));
        // The lease was given back: nobody waits.
        File::options().append(true).open(&path).unwrap();
        let no_file = File::open(folder.path()).unwrap();
        assert_eq!(is_being_written(&no_file), None);
    }
}
