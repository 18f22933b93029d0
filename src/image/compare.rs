//! Whether two images are the same, byte for byte.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Image;
use super::entry::{Content, find};
use crate::fault::Fault;
use crate::sys::{Progress, try_map};

/// One thread's share of a large file, in bytes.
const SHARE: u64 = 8 << 20;

/// Read from each of two files at a time, in bytes. Both blocks fit a core's own cache.
const BLOCK: usize = 128 << 10;

/// What comparing an image with a published one has shown.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Names, kinds, contents and links are the same, and nothing was altered since it was published.
    pub is_same: bool,
    /// Paths of the files whose published counterpart has the same bytes and is unaltered.
    pub same_files: HashSet<String>,
}

impl Image {
    /// Compares this image, a drop's, with a published one.
    ///
    /// Sizes and names are looked at first; a file whose contents differ is left at the first block
    /// that does. Files that cannot be read in the published image differ, so that the drop repairs
    /// them.
    ///
    /// # Errors
    /// What is wrong with a file of the drop.
    pub(crate) fn compare(
        &self,
        published: &Self,
        progress: &Progress,
    ) -> Result<Comparison, Fault> {
        let pairs: Vec<_> = pairs(self, published)
            .map(|(path, size)| (path, size, AtomicBool::new(false)))
            .collect();
        let shares = pairs
            .iter()
            .flat_map(|pair| (0..pair.1.div_ceil(SHARE)).map(move |share| (pair, share)));
        let bytes: u64 = pairs.iter().map(|(_, size, _)| size).sum();
        let few = if bytes > SHARE { 1 } else { usize::MAX };

        try_map(shares.collect(), few, |((path, size, differs), share)| {
            if differs.load(Ordering::Relaxed) {
                return Ok(());
            }
            if progress.is_stop_requested() {
                return Err(Fault::Interrupted);
            }
            let own = self.open(path, *size)?;
            let range = share * SHARE..((share + 1) * SHARE).min(*size);
            let theirs = published.open(path, *size).ok();
            let is_same = theirs.map_or(Ok(false), |theirs| same_range(&own, &theirs, range));
            if !is_same.map_err(|error| self.failure("reading", path, error))? {
                differs.store(true, Ordering::Relaxed);
            }
            Ok(())
        })?;

        let same_files: HashSet<_> = pairs
            .into_iter()
            .filter(|(_, _, differs)| !differs.load(Ordering::Relaxed))
            .map(|(path, _, _)| path.to_string())
            .collect();
        let has_same_names = self.entries() == published.entries();
        let is_same = has_same_names && same_files.len() == self.files().count();
        Ok(Comparison {
            is_same,
            same_files,
        })
    }
}

/// The files that may be the same: of one path and size, and unaltered.
fn pairs<'a>(drop: &'a Image, published: &'a Image) -> impl Iterator<Item = (&'a str, u64)> {
    drop.files().filter(move |(path, size)| {
        let theirs = find(published.entries(), path);
        theirs.is_some_and(|it| it.content == Content::File(*size) && !it.is_altered)
    })
}

/// Whether two files hold the same bytes in a range. A published file that cannot be read differs.
fn same_range(drop: &File, published: &File, range: std::ops::Range<u64>) -> io::Result<bool> {
    let block = |at| {
        let left = usize::try_from(range.end - at);
        left.map_or(BLOCK, |left| left.min(BLOCK))
    };
    let (mut own, mut theirs) = (vec![0; block(range.start)], vec![0; block(range.start)]);
    let mut at = range.start;
    while at < range.end {
        let length = block(at);
        let (own, theirs) = (&mut own[..length], &mut theirs[..length]);
        if published.read_exact_at(theirs, at).is_err() {
            return Ok(false);
        }
        match drop.read_exact_at(own, at) {
            Ok(()) => {}
            // The file shrank; staging will say so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if own != theirs {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}
