//! Unix sockets that have a name in a directory. The name is reached by the open directory: its path
//! may be longer than an address may be (108 bytes, unix(7)).

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{Mode, chmod};

use super::dir::Dir;
use super::failure::{Failure, Result};

impl Dir {
    /// Makes the socket `name`, in the place of an earlier one, and listens; everybody may connect.
    /// Nothing that is done with the socket blocks.
    pub(crate) fn listen(&self, name: &str) -> Result<OwnedFd> {
        let failure = |error| Failure::new("making the socket", self.path().join(name), error);
        self.remove_file(name)?;
        let path = format!("{}/{name}", self.path_of_descriptor());
        let listener = UnixListener::bind(&path).map_err(failure)?;
        chmod(&path, Mode::from_raw_mode(0o666)).map_err(|errno| failure(errno.into()))?;
        listener.set_nonblocking(true).map_err(failure)?;
        Ok(listener.into())
    }

    /// Connects to the socket `name`; `None` when nobody listens there.
    pub(crate) fn connect(&self, name: &str) -> Result<Option<UnixStream>> {
        match UnixStream::connect(format!("{}/{name}", self.path_of_descriptor())) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(Failure::new("connecting to", self.path().join(name), error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_reached_however_long_its_path_is_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a".repeat(200));
        std::fs::create_dir(&path).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert!(dir.connect("socket").unwrap().is_none());
        for _ in 0..2 {
            let listener = UnixListener::from(dir.listen("socket").unwrap());
            assert!(
                Dir::enter(&path)
                    .unwrap()
                    .connect("socket")
                    .unwrap()
                    .is_some()
            );
            assert!(listener.accept().is_ok());
        }
        assert!(dir.connect("socket").unwrap().is_none(), "nobody listens");
    }
}
