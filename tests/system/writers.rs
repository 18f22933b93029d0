//! A thousand random writers: each writes a drop in place, in an order of its own, in pieces, with
//! pauses; none ends as half an image.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::lab::world::{World, assert_same_content, manifest, test, until};

const WRITERS: usize = 1_000;

/// So many at a time: most of the time each of them waits.
const TOGETHER: usize = 100;

const SETTLE: Duration = Duration::from_secs(1);

/// No pause is longer, as far as the writer can tell beforehand, but one with a file open.
const MAX_PAUSE: u64 = 500;

pub fn tests() -> Vec<Trial> {
    vec![test(
        "of a thousand random writers none has half an image published",
        &[],
        never_half,
    )]
}

/// A drop as it is written: its files, the manifest among them, in their order.
#[derive(Clone, Debug)]
struct Writer {
    files: Vec<Written>,
    /// The order in which the files are begun, by sorting these.
    order: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Written {
    /// Sizes of its pieces, in bytes, and the pause before each, in milliseconds.
    pieces: Vec<(usize, u64)>,
    /// The file stays open from its first piece to its last.
    stays_open: bool,
}

fn writers() -> impl Strategy<Value = Writer> {
    let piece = (0..20_000_usize, 0..=MAX_PAUSE);
    let written = (prop::collection::vec(piece, 1..4), any::<bool>());
    let written = written.prop_map(|(pieces, stays_open)| Written { pieces, stays_open });
    (2..7_usize).prop_flat_map(move |count| {
        let files = prop::collection::vec(written.clone(), count);
        let order = prop::collection::vec(any::<u32>(), count);
        (files, order).prop_map(|(files, order)| Writer { files, order })
    })
}

impl Writer {
    /// Writes a drop. `longest` is the longest time then in which nothing changed and no file was open:
    /// a busy machine may have made a pause longer than it was meant.
    fn write(
        &self,
        drop: &Path,
        image: &Path,
        target: &str,
        longest: &mut Duration,
    ) -> std::io::Result<()> {
        let mut order: Vec<_> = (0..self.files.len()).collect();
        order.sort_by_key(|file| self.order[*file]);
        let mut changed = Instant::now();
        fs::create_dir(drop)?;
        for number in order {
            let (path, bytes) = match number {
                0 => ("manifest.toml".to_string(), manifest(target).into_bytes()),
                _ => {
                    let path = format!("image/{}/{number}", number % 3);
                    let bytes = fs::read(image.join(&path["image/".len()..]))?;
                    (path, bytes)
                }
            };
            let (path, mut rest) = (drop.join(path), &bytes[..]);
            let written = &self.files[number];
            let mut open: Option<File> = None;
            let last = written.pieces.len() - 1;
            for (at, (size, pause)) in written.pieces.iter().enumerate() {
                thread::sleep(Duration::from_millis(*pause));
                let (before, is_open) = (Instant::now(), open.is_some());
                let mut see = || {
                    if !is_open {
                        *longest = changed.elapsed().max(*longest);
                    }
                };
                see();
                fs::create_dir_all(path.parent().unwrap())?;
                let is_new = !path.exists();
                let mut options = OpenOptions::new();
                options.append(true).create(true);
                let mut file = match open.take() {
                    Some(file) => file,
                    None => options.open(&path)?,
                };
                let size = if at == last {
                    rest.len()
                } else {
                    (*size).min(rest.len())
                };
                file.write_all(&rest[..size])?;
                rest = &rest[size..];
                see();
                // To write nothing is no change.
                if is_new || size > 0 {
                    changed = before;
                }
                open = written.stays_open.then_some(file);
            }
        }
        Ok(())
    }

    /// What the writer has to write, made beforehand.
    fn make_image(&self, image: &Path, seed: u64) {
        for (number, written) in self.files.iter().enumerate().skip(1) {
            let size: usize = written.pieces.iter().map(|(size, _)| size).sum();
            let path = image.join(format!("{}/{number}", number % 3));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{seed} {number} ").repeat(size / 8 + 1)).unwrap();
        }
    }
}

fn writer_of(seed: u64) -> Writer {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    writers().new_tree(&mut runner).unwrap().current()
}

fn never_half() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = now.as_secs() * 1_000;
    println!("the seeds begin with {first}");
    let settle = SETTLE.as_millis();
    let world = World::with(&format!(
        "#spool settle = \"{settle}ms\"\n[limits]\nmin_free_space = \"0B\"\n"
    ));
    let daemon = world.daemon();
    let (next, in_time) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= WRITERS {
                        break;
                    }
                    let (name, seed) = (format!("drop-{number}"), first + number as u64);
                    let image = world.root.join("images").join(&name);
                    let writer = writer_of(seed);
                    writer.make_image(&image, seed);
                    let target = format!("amd64/generic/noble/{name}");
                    let (drop, mut longest) = (world.incoming(&name), Duration::ZERO);
                    let written = writer.write(&drop, &image, &target, &mut longest);
                    if longest < SETTLE {
                        written.unwrap_or_else(|error| panic!("{seed}: {error}\n{world}"));
                        in_time.lock().unwrap().push(number);
                    }
                }
            });
        }
    });
    let in_time = in_time.into_inner().unwrap();
    println!(
        "{} of {WRITERS} had no longer pause than they may",
        in_time.len()
    );
    assert!(in_time.len() > WRITERS / 2, "a slow machine");
    for number in in_time {
        let name = format!("drop-{number}");
        until("an outcome", || world.outcome(&name).is_some());
        world.assert_outcome(&name, "published");
        let published = world.published(&format!("amd64/generic/noble/{name}"));
        assert_same_content(&published, &world.root.join("images").join(&name));
    }
    daemon.stop();
}
