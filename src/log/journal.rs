//! The journal's own protocol: entries with fields.
//!
//! See <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. The crate `tracing-journald` would do, but that
//! it writes a field `TARGET=` of its own, the module's name, beside ours.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};

use crate::sys::FileExt as _;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// An open socket to journald.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    address: SocketAddrUnix,
}

/// One entry, as it is sent.
#[derive(Debug, Default)]
pub(super) struct JournalEntry(Vec<u8>);

impl JournalEntry {
    /// Adds a field; `name` is one of the journal's: `A-Z`, `0-9` and `_`.
    pub(super) fn put(&mut self, name: &str, value: &str) {
        self.0.extend(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend((value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl std::fmt::Display for JournalEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Journal {
    /// The journal, if standard error leads there (`JOURNAL_STREAM`, `systemd.exec(5)`).
    pub(super) fn behind_standard_error() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let named = (device.parse().ok()?, inode.parse().ok()?);
        let stderr = io::stderr().as_fd().try_clone_to_owned().ok()?;
        let id = File::from(stderr).stat().ok()?.id;
        (id == named).then(Self::open)?.ok()
    }

    fn open() -> io::Result<Self> {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Self> {
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            address: SocketAddrUnix::new(path)?,
        })
    }

    /// Sends an entry, and waits while journald has no room for it.
    ///
    /// Every entry names the socket anew: it may be another one when journald was started again.
    pub(super) fn send(&self, entry: &JournalEntry) -> io::Result<()> {
        let flags = SendFlags::empty();
        let sent = rustix::net::sendto(&self.socket, &entry.0, flags, &self.address);
        if sent != Err(Errno::MSGSIZE) {
            return Ok(sent.map(drop)?);
        }
        // An entry that is too large for a datagram: journald reads it from a file that nobody can
        // change.
        let file = File::frozen(|file| file.write_all(&entry.0))?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let nothing = [IoSlice::new(&[])];
        rustix::net::sendmsg_addr(&self.socket, &self.address, &nothing, &mut control, flags)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_one_line_is_text_and_one_of_several_has_its_length() {
        let mut entry = JournalEntry::default();
        entry.put("TARGET", "amd64/generic/noble/install");
        entry.put("MESSAGE", "a\nb");
        entry.put("REASON", "");
        let expected =
            b"TARGET=amd64/generic/noble/install\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nREASON=\n";
        assert_eq!(entry.0, expected);
    }
    #[test]
    fn an_entry_that_is_too_large_for_a_datagram_is_sent_as_a_file() {
        use std::io::Read as _;
        use std::os::unix::fs::FileExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(path.to_str().unwrap()).unwrap();
        let mut entry = JournalEntry::default();
        entry.put("MESSAGE", "short");
        journal.send(&entry).unwrap();
        let mut small = [0; 100];
        let length = journald.recv(&mut small).unwrap();
        assert_eq!(&small[..length], entry.0);

        entry.put("DETAIL", &"long".repeat(1 << 20));
        journal.send(&entry).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let flags = rustix::net::RecvFlags::empty();
        let received = rustix::net::recvmsg(&journald, &mut [], &mut control, flags).unwrap();
        assert_eq!(received.bytes, 0);
        let Some(rustix::net::RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next()
        else {
            panic!("no file was sent")
        };
        let mut file = File::from(files.next().unwrap());
        let mut sent = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut sent).unwrap();
        assert!(
            sent == entry.0,
            "{} bytes instead of {}",
            sent.len(),
            entry.0.len()
        );
        assert!(file.write_all_at(b"x", 0).is_err(), "it can be changed");
    }
}
