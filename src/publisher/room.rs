//! Room in the tree that drops speak for before they are staged: several together don't pass
//! `limits.min_free_space`.

use std::sync::{Arc, Mutex, MutexGuard};

use bytesize::ByteSize;

use crate::fault::Fault;
use crate::sys::{Dir, Progress};

/// What is spoken for.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Vec<Arc<Share>>>);

/// What one drop needs.
#[derive(Debug)]
struct Share {
    bytes: u64,
    inodes: u64,
    /// How much of it was written: that is no longer free.
    written: Arc<Progress>,
}

/// Keeps what was spoken for, until it is dropped.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    room: &'a Room,
    share: Arc<Share>,
}

impl Room {
    /// Speaks for so many bytes and inodes on the file system of `tree`, beside what others have spoken
    /// for, and `reserve` bytes that stay free. `written` tells how many of the bytes were written.
    ///
    /// # Errors
    /// [`Fault::NoSpace`] when there is not so much.
    pub(super) fn reserve(
        &self,
        tree: &Dir,
        (bytes, inodes): (u64, u64),
        reserve: u64,
        written: Arc<Progress>,
    ) -> Result<Reserved<'_>, Fault> {
        let mut shares = self.shares();
        // Before the file system is asked: what is written meanwhile counts twice, not never.
        let (others, others_inodes) = shares.iter().fold((0, 0), |(bytes, inodes), share| {
            let left = share.bytes.saturating_sub(share.written.bytes());
            (bytes + left, inodes + share.inodes)
        });
        let (free, free_inodes) = tree.free_space()?;
        let beside = match others {
            0 => String::new(),
            others => format!(", {} of that for other drops", ByteSize(others)),
        };
        if bytes.saturating_add(reserve).saturating_add(others) > free {
            let (wanted, reserve, free) = (ByteSize(bytes), ByteSize(reserve), ByteSize(free));
            return Err(Fault::NoSpace(format!(
                "needs {wanted} plus {reserve} reserve (`limits.min_free_space`); {free} free{beside}"
            )));
        }
        if free_inodes.is_some_and(|free| inodes + others_inodes > free) {
            let free = free_inodes
                .unwrap_or_default()
                .saturating_sub(others_inodes);
            return Err(Fault::NoSpace(format!(
                "needs {inodes} inodes; {free} free"
            )));
        }
        let share = Arc::new(Share {
            bytes,
            inodes,
            written,
        });
        shares.push(Arc::clone(&share));
        Ok(Reserved { room: self, share })
    }

    fn shares(&self) -> MutexGuard<'_, Vec<Arc<Share>>> {
        self.0.lock().expect("no thread panics here")
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.room
            .shares()
            .retain(|other| !Arc::ptr_eq(other, &self.share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_yet_to_write_is_not_free() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Dir::open_or_make(folder.path()).unwrap();
        let (free, _) = tree.free_space().unwrap();
        let room = Room::default();
        // Others write to this disk as well: a quarter of it is far from what they change.
        let part = free / 8;
        let reserve = |bytes, written: &Arc<Progress>| {
            room.reserve(&tree, (bytes, 1), 0, Arc::clone(written))
        };
        let written = Arc::new(Progress::default());
        let first = reserve(part * 6, &written).unwrap();
        let refused = reserve(part * 4, &Arc::default()).unwrap_err().to_string();
        assert!(refused.contains("for other drops"), "{refused}");
        written.advance(part * 4);
        let second = reserve(part * 4, &Arc::default()).unwrap();
        drop((first, second));
        assert!(reserve(part * 7, &Arc::default()).is_ok());
        assert!(room.shares().is_empty());
    }

    #[test]
    fn so_many_inodes_there_are_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Dir::open_or_make(folder.path()).unwrap();
        let inodes = tree.free_space().unwrap().1.unwrap_or(0);
        let reserve = |inodes| {
            Room::default()
                .reserve(&tree, (0, inodes), 0, Arc::default())
                .is_ok()
        };
        assert!(reserve(inodes / 2));
        assert_eq!(reserve(2 * inodes + 1), inodes == 0);
    }
}
