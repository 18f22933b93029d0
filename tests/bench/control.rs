//! What a script does that compares, and swaps with two renames; and the floor of all comparing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

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
    std::thread::scope(|scope| {
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
