//! What a script does that compares, and swaps with two renames; and two floors: of all comparing,
//! and of all publishing.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::world::World;

/// Puts every drop of the world into a tree beside the real one: each is compared with what stands
/// there, byte for byte; where it differs, the old directory is renamed away, the new one into its
/// place, and the old one removed. Nothing is synced, nothing is hashed, nothing is recorded.
pub fn compare_and_rename(
    world: &World,
    prefix: &str,
    drops: usize,
    target: impl Fn(usize) -> String,
) {
    let tree = world.root.join("tree-of-control");
    let trash = world.root.join("trash-of-control");
    for number in 0..drops {
        let drop = world.incoming(&format!("{prefix}-{number}"));
        let (image, published) = (drop.join("image"), tree.join(target(number)));
        // Any manifest has to be read at least.
        fs::read(drop.join("manifest.toml")).expect("a manifest");
        if !is_same(&image, &published).expect("comparing") {
            let is_first = match fs::rename(&published, &trash) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => panic!("{published:?}: {error}"),
            };
            if is_first {
                fs::create_dir_all(published.parent().unwrap()).expect("making folders");
            }
            fs::rename(&image, &published).expect("renaming");
            if !is_first {
                fs::remove_dir_all(&trash).expect("removing the old image");
            }
        }
        fs::remove_dir_all(&drop).expect("removing the drop");
    }
}

/// The steps that a drop can't be published without by the contracts, for all of them at once on all
/// processors, and nothing else: no name is checked, nothing is watched for, told of or looked up.
///
/// Claim, compare; copy and hash, write a record; sync, put both in place; sync, swap; sync, write
/// the outcome; sync, remove the drop.
pub fn publish_bare(
    world: &World,
    prefix: &str,
    drops: usize,
    target: impl Fn(usize) -> String + Sync,
) {
    let tree = world.root.join("tree-of-floor");
    let staging = tree.join("staging");
    let (processing, outcomes) = (world.spool.join("processing"), world.spool.join("outcomes"));
    fs::create_dir_all(&staging).unwrap();
    let name = |number: usize| format!("{prefix}-{number}");
    let generation = |number: usize| {
        let folder = tree.join(format!("{}@", target(number)));
        (
            folder.join(name(number)),
            folder.join(name(number) + ".toml"),
        )
    };
    let draft = |number: usize| {
        (
            staging.join(name(number)),
            staging.join(name(number) + ".toml"),
        )
    };

    let changed = AtomicUsize::new(0);
    on_all_processors(drops, |number| {
        let drop = processing.join(name(number));
        fs::rename(world.incoming(&name(number)), &drop).unwrap();
        fs::read(drop.join("manifest.toml")).unwrap();
        let image = drop.join("image");
        if is_same(&image, &tree.join(target(number))).unwrap() {
            return;
        }
        changed.fetch_add(1, Ordering::Relaxed);
        let (folder, record) = draft(number);
        fs::create_dir(&folder).unwrap();
        let mut text = String::new();
        for file in fs::read_dir(&image).unwrap() {
            let file = file.unwrap();
            let bytes = fs::read(file.path()).unwrap();
            let digest = Sha256::digest(&bytes);
            writeln!(text, "{:?} = \"{digest:x?}\"", file.file_name()).unwrap();
            fs::write(folder.join(file.file_name()), bytes).unwrap();
        }
        fs::write(record, text).unwrap();
    });
    let is_changed = changed.into_inner() > 0;
    let sync = || rustix::fs::syncfs(File::open(&tree).unwrap()).unwrap();
    if is_changed {
        sync();
        on_all_processors(drops, |number| {
            let ((folder, record), (draft, its_record)) = (generation(number), draft(number));
            fs::create_dir_all(folder.parent().unwrap()).unwrap();
            fs::rename(draft, folder).unwrap();
            fs::rename(its_record, record).unwrap();
            let history = tree.join(".history").join(target(number) + ".jsonl");
            fs::create_dir_all(history.parent().unwrap()).unwrap();
            let mut history = File::options()
                .create(true)
                .append(true)
                .open(history)
                .unwrap();
            writeln!(history, "{:350}", name(number)).unwrap();
        });
        sync();
        on_all_processors(drops, |number| {
            let (pointer, link) = (tree.join(target(number)), staging.join(name(number)));
            let purpose = target(number).rsplit('/').next().unwrap().to_string();
            symlink(format!("{purpose}@/{}", name(number)), &link).unwrap();
            fs::rename(link, pointer).unwrap();
        });
        sync();
    }
    on_all_processors(drops, |number| {
        let temporary = outcomes.join(format!(".{}", name(number)));
        let text = format!(
            "{{\"drop\": {:?}, \"target\": {:?}}}",
            name(number),
            target(number)
        );
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, outcomes.join(name(number) + ".json")).unwrap();
    });
    sync();
    on_all_processors(drops, |number| {
        fs::remove_dir_all(processing.join(name(number))).unwrap();
    });
}

fn on_all_processors(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let take_all = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            work(number);
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors {
            scope.spawn(take_all);
        }
    });
}

fn is_same(image: &Path, published: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(image)? {
        let name = entry?.file_name();
        let theirs = match File::open(published.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if !is_same_file(File::open(image.join(&name))?, theirs)? {
            return Ok(false);
        }
    }
    Ok(fs::read_dir(image)?.count() == fs::read_dir(published)?.count())
}

fn is_same_file(mut ours: File, mut theirs: File) -> io::Result<bool> {
    let length = ours.metadata()?.len();
    if length != theirs.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    loop {
        let read = ours.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        theirs.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// Reads both files of every pair to their end, on two threads.
pub fn read_all(pairs: &[(PathBuf, PathBuf)]) {
    const BLOCK: usize = 128 << 10;
    let files = pairs.iter().flat_map(|(ours, theirs)| [ours, theirs]);
    let files: Vec<_> = files.map(|path| File::open(path).unwrap()).collect();
    thread::scope(|scope| {
        for half in 0..2_u64 {
            let files = &files;
            scope.spawn(move || {
                let mut block = vec![0; BLOCK];
                for file in files {
                    let length = file.metadata().unwrap().len() / 2;
                    let mut at = length * half;
                    let end = at + length;
                    while at < end {
                        at += file.read_at(&mut block, at).unwrap() as u64;
                    }
                }
            });
        }
    });
}
