//! Whether two images are the same, byte for byte.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::entry::{Content, find};
use super::reading::OpenFile;
use super::{FileMark, Image};
use crate::fault::Fault;
use crate::sys::{FileExt as _, Progress, Stat, try_map};

/// One thread's share of a large file, in bytes.
const SHARE: u64 = 8 << 20;

/// Read from each of two files at a time, in bytes. Both blocks fit a core's own cache.
const BLOCK: usize = 128 << 10;

/// What is recorded of a published file. `None` where nothing is, or where a drop's file can't be the
/// same whatever its bytes are.
pub(crate) type Recorded<'a> = &'a (dyn Fn(&str) -> Option<FileMark> + Sync);

/// What comparing an image with a published one has shown.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Names, kinds, contents and links are the same, and nothing was altered since it was published.
    pub is_same: bool,
    /// The files whose published counterpart has the same bytes and is unaltered, by path; as that
    /// one was seen.
    pub same_files: HashMap<String, Stat>,
}

/// A file that is in both images, with one size.
struct Pair<'a> {
    path: &'a str,
    size: u64,
    differs: AtomicBool,
    /// The published file that was compared.
    theirs: OnceLock<Stat>,
}

impl Image {
    /// Compares this image, a drop's, with a published one.
    ///
    /// Sizes and names are looked at first; a file whose contents differ is left at the first block
    /// that does. Files that cannot be read in the published image differ, so that the drop repairs
    /// them.
    ///
    /// Where the published files were `recorded`, a file is the same only if both have the bytes of
    /// the record: somebody can have edited the published one, and then have dropped what came of
    /// that. The two are the same byte for byte, so it is enough to ask one of them, and its seal
    /// (see [`FileMark::seal`]) answers in place of all its bytes; one whose seal doesn't fit is
    /// hashed. So an edit that was meant or made by mistake is noticed, as it would be by hashing
    /// everything. What leaves no time behind (a disk that forgets, somebody who sets the seal by
    /// hand) is noticed where the drop has the bytes that were published, and by `verify`.
    ///
    /// # Errors
    /// What is wrong with a file of the drop.
    pub(crate) fn compare(
        &self,
        published: &Self,
        recorded: Option<Recorded<'_>>,
        progress: &Progress,
    ) -> Result<Comparison, Fault> {
        let mut pairs = pairs(self, published);
        if let Some(recorded) = recorded {
            pairs.retain(|pair| recorded(pair.path).is_some_and(|it| it.size == pair.size));
        }
        let shares = pairs.iter().flat_map(|pair| {
            let count = pair.size.div_ceil(SHARE).max(1);
            (0..count).map(move |share| (pair, share * SHARE))
        });
        let bytes: u64 = pairs.iter().map(|pair| pair.size).sum();
        let few = if bytes > SHARE { 1 } else { usize::MAX };
        try_map(shares.collect(), few, |(pair, start)| {
            if !pair.differs.load(Ordering::Relaxed)
                && !self.has_same_share(published, pair, start, progress)?
            {
                pair.differs.store(true, Ordering::Relaxed);
            }
            Ok::<_, Fault>(())
        })?;
        pairs.retain(|pair| !pair.differs.load(Ordering::Relaxed));
        let mut same_files = HashMap::new();
        for Pair { path, theirs, .. } in pairs {
            same_files.extend(theirs.into_inner().map(|stat| (path.to_string(), stat)));
        }
        if let Some(recorded) = recorded {
            forget_edited(&mut same_files, published, recorded, progress)?;
        }
        let has_same_names = self.entries() == published.entries();
        let is_same = has_same_names && same_files.len() == self.files().count();
        Ok(Comparison {
            is_same,
            same_files,
        })
    }

    /// Whether the share of a file that begins at `start` is the same in both images.
    fn has_same_share(
        &self,
        published: &Self,
        pair: &Pair<'_>,
        start: u64,
        progress: &Progress,
    ) -> Result<bool, Fault> {
        if progress.is_stop_requested() {
            return Err(Fault::Interrupted);
        }
        let own = self.open(pair.path, pair.size)?;
        let Ok(theirs) = published.open(pair.path, pair.size) else {
            return Ok(false);
        };
        let range = start..(start + SHARE).min(pair.size);
        let is_same = same_range(&own, &theirs, range)?;
        // Every share is of one file, which nobody wrote to since it was looked at.
        let seen = pair.theirs.get_or_init(|| theirs.stat);
        let now = theirs.file.stat();
        Ok(is_same && now.is_ok_and(|now| now.is_same_file(seen)))
    }
}

/// Leaves only those of these files of a published image whose bytes are the recorded ones.
fn forget_edited(
    files: &mut HashMap<String, Stat>,
    published: &Image,
    recorded: Recorded<'_>,
    progress: &Progress,
) -> Result<(), Fault> {
    let is_sealed = |path: &str, stat: &Stat| {
        recorded(path).is_some_and(|mark| mark.seal() == stat.nanoseconds)
    };
    let unsealed: Vec<_> = files
        .extract_if(|path, stat| !is_sealed(path, stat))
        .collect();
    progress.expect(unsealed.iter().map(|(_, stat)| stat.size).sum());
    let proven = try_map(unsealed, 1, |(path, stat)| {
        let theirs = published.open(&path, stat.size);
        let hashed = theirs.and_then(|it| Ok((it.stat, it.hash(progress, |_, _| Ok(()))?)));
        match hashed {
            Err(Fault::Interrupted) => Err(Fault::Interrupted),
            Ok((now, mark)) if now.is_same_file(&stat) && recorded(&path) == Some(mark) => {
                Ok(Some((path, stat)))
            }
            // A published file that can't be read differs.
            Ok(_) | Err(_) => Ok(None),
        }
    })?;
    files.extend(proven.into_iter().flatten());
    Ok(())
}

/// The files that may be the same: of one path and size, and unaltered.
fn pairs<'a>(drop: &'a Image, published: &Image) -> Vec<Pair<'a>> {
    let may_be_same = |(path, size): &(&str, u64)| {
        let theirs = find(published.entries(), path);
        theirs.is_some_and(|it| it.content == Content::File(*size) && !it.is_altered)
    };
    let pairs = drop.files().filter(may_be_same).map(|(path, size)| Pair {
        path,
        size,
        differs: AtomicBool::new(false),
        theirs: OnceLock::new(),
    });
    pairs.collect()
}

/// Whether two files hold the same bytes in a range. A published file that cannot be read differs.
/// What is a hole in both isn't read.
fn same_range(
    drop: &OpenFile<'_>,
    published: &OpenFile<'_>,
    range: Range<u64>,
) -> Result<bool, Fault> {
    let block = |at| {
        let left = usize::try_from(range.end - at);
        left.map_or(BLOCK, |left| left.min(BLOCK))
    };
    let (mut own, mut theirs) = (vec![0; block(range.start)], vec![0; block(range.start)]);
    let have_holes = drop.stat.is_sparse() && published.stat.is_sparse();
    let mut at = range.start;
    while at < range.end {
        if have_holes {
            let data = |of: &OpenFile<'_>| of.file.next_data(at, range.end).start;
            at = data(drop).min(data(published));
            if at == range.end {
                break;
            }
        }
        let length = block(at);
        let (own, theirs) = (&mut own[..length], &mut theirs[..length]);
        if published.file.read_exact_at(theirs, at).is_err() {
            return Ok(false);
        }
        match drop.file.read_exact_at(own, at) {
            Ok(()) => {}
            // The file shrank; staging will say so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(drop.failure(error)),
        }
        if own != theirs {
            return Ok(false);
        }
        at += length as u64;
    }
    drop.ends_at(drop.stat.size)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::image::Listing;
    use crate::sys::Dir;

    /// An image and its published copy, with what is recorded of that.
    struct Scene {
        folder: tempfile::TempDir,
        image: Image,
        listing: Listing,
    }

    const FILES: [(&str, usize); 3] = [("empty", 0), ("initrd", 300_000), ("linux", 9 << 20)];

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["image", "copy"] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
            }
            for (name, size) in FILES {
                std::fs::write(folder.path().join("image").join(name), vec![1; size]).unwrap();
            }
            let open = |name| Dir::open(&folder.path().join(name)).unwrap();
            let (image, copy) = (Image::read(open("image"), None).unwrap(), open("copy"));
            let copied = image.publish_into(&copy, None, None, &Progress::default());
            Self {
                listing: copied.unwrap(),
                image,
                folder,
            }
        }

        fn published(&self) -> Image {
            Image::read(Dir::open(&self.folder.path().join("copy")).unwrap(), None).unwrap()
        }

        /// Compares the two; the names of the same files, and how many bytes were hashed.
        fn compared(&self) -> (Vec<String>, u64) {
            let progress = Progress::default();
            let recorded = |path: &str| self.listing.files.get(path).copied();
            let compared = self
                .image
                .compare(&self.published(), Some(&recorded), &progress);
            let compared = compared.unwrap();
            assert_eq!(compared.is_same, compared.same_files.len() == FILES.len());
            let mut names: Vec<_> = compared.same_files.into_keys().collect();
            names.sort_unstable();
            assert_eq!(progress.bytes(), progress.expected());
            (names, progress.bytes())
        }

        /// Gives a published file this time, in whole seconds.
        fn set_seconds(&self, name: &str) {
            let path = self.folder.path().join("copy").join(name);
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            file.set_times(FileTimes::new().set_modified(moment))
                .unwrap();
        }
    }

    #[test]
    fn a_file_is_hashed_only_where_its_seal_does_not_fit() {
        let mut scene = Scene::new();
        let all = FILES.map(|(name, _)| name.to_string()).to_vec();
        assert_eq!(scene.compared(), (all.clone(), 0));
        scene.set_seconds("initrd");
        assert_eq!(scene.compared(), (all, 300_000));
        // The record tells of other bytes.
        let mark = scene.listing.files.get_mut("linux").unwrap();
        mark.sha256 = crate::words::Digest::of(b"");
        let rest = ["empty", "initrd"].map(String::from).to_vec();
        assert_eq!(scene.compared(), (rest, 300_000 + (9 << 20)));
        // Of a file of another size nothing is hashed, nor of one that isn't recorded.
        scene.listing.files.get_mut("linux").unwrap().size = 1;
        scene.listing.files.remove("empty");
        assert_eq!(scene.compared(), (vec!["initrd".to_string()], 300_000));
    }

    #[test]
    fn a_published_file_that_is_another_by_the_next_look_differs() {
        let scene = Scene::new();
        let published = scene.published();
        let mut pairs = pairs(&scene.image, &published);
        let pair = pairs.iter_mut().find(|pair| pair.path == "linux").unwrap();
        let is_same = |pair: &Pair<'_>, start| {
            let progress = Progress::default();
            scene
                .image
                .has_same_share(&published, pair, start, &progress)
                .unwrap()
        };
        assert!(is_same(pair, 0) && is_same(pair, SHARE));
        pair.theirs.get_mut().unwrap().nanoseconds ^= 1;
        assert!(!is_same(pair, SHARE));
    }

    #[test]
    fn a_sparse_file_of_a_drop_that_was_cut_by_the_next_look_differs() {
        let folder = tempfile::tempdir().unwrap();
        let images = ["image", "copy"].map(|name| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("disk"), "boot").unwrap();
            let file = std::fs::File::options().write(true).open(path.join("disk"));
            file.unwrap().set_len(1 << 20).unwrap();
            Image::read(Dir::open(&path).unwrap(), None).unwrap()
        });
        let [own, theirs] = images
            .each_ref()
            .map(|image| image.open("disk", 1 << 20).unwrap());
        assert!(own.stat.is_sparse() && theirs.stat.is_sparse());
        assert!(same_range(&own, &theirs, 0..1 << 20).unwrap());
        let file = std::fs::File::options()
            .write(true)
            .open(folder.path().join("image/disk"));
        file.unwrap().set_len(2 * BLOCK as u64).unwrap();
        assert!(!same_range(&own, &theirs, 0..1 << 20).unwrap());
    }
}
