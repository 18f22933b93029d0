//! A model that tries everything: random stories of importers, machines and crashes, played with the
//! real program, beside a model of a page that says what has to come of them.
//!
//! Tried are importers of their own users with the tools of a shell; drops renamed, and written in
//! place in any order, slowly, by writers that stop; drops moved into others, of one name, taken
//! away, refused; rollbacks, withdrawals and promotions; kills at failpoints and at any moment,
//! steps that fail, restarts; full disks; lost events, and none at all. The wall clock of the program is
//! set by libfaketime, under which those of the spool's and the tree's file systems stay what they are: so
//! all is tried that comes of two clocks that differ, and nothing that comes of a file system's own
//! clock being set.
//!
//! A minute is a test. For hours, or to play the story again that failed:
//! `NETBOOT_MODEL_SECONDS=14400 NETBOOT_MODEL_SEED=7 tests/run tries_everything`.

mod page;
mod player;
mod rest;
mod story;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::Trial;
use proptest::strategy::{Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::lab::clock;
use crate::lab::world::{Needs, long_test};
use crate::model::player::{Counts, End, play};
use crate::model::story::{Story, stories};

pub fn tests() -> Vec<Trial> {
    let needs = &[Needs::Failpoints, Needs::Program("setpriv"), clock::NEEDS];
    let time = Duration::from_secs(wanted("NETBOOT_MODEL_SECONDS", || 50));
    vec![long_test(
        "a model that tries everything is never surprised",
        needs,
        time + MAX_SHRINKING,
        move || tries_everything(time),
    )]
}

/// Stories are played side by side: most of the time each waits.
const PLAYERS: usize = 3;

/// No story is made shorter for longer than this.
const MAX_SHRINKING: Duration = Duration::from_secs(300);

/// A number that the environment has, or another.
fn wanted(variable: &str, or: impl FnOnce() -> u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or_else(or, |text| text.parse().expect(variable))
}

fn tries_everything(time: Duration) {
    let begin = Instant::now();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = wanted("NETBOOT_MODEL_SEED", || now().as_secs() * 1_000);
    println!("NETBOOT_MODEL_SEED={first}");
    let next = AtomicU64::new(first);
    let [stories_played, steps_played, too_slow] = [const { AtomicUsize::new(0) }; 3];
    let all = Mutex::new(Counts::new());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                while begin.elapsed() < time && failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let mut tree = story_of(seed);
                    let story = tree.current();
                    match played(&story) {
                        Ok(counts) => {
                            let mut all = all.lock().unwrap();
                            for (what, count) in counts {
                                *all.entry(what).or_default() += count;
                            }
                            stories_played.fetch_add(1, Ordering::Relaxed);
                            steps_played.fetch_add(story.steps.len(), Ordering::Relaxed);
                        }
                        Err(End::TooSlow) => {
                            too_slow.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(End::Wrong(why)) => {
                            if failed.lock().unwrap().replace(seed).is_none() {
                                eprintln!("{why}\nNETBOOT_MODEL_SEED={seed}: {story}");
                                let (story, why) = shortest(&mut *tree, why);
                                eprintln!("{why}\nthe shortest of {seed}: {story}");
                            }
                        }
                    }
                }
            });
        }
    });
    let played = stories_played.into_inner();
    println!(
        "{played} stories of {} steps were played, {} were given up on a slow machine",
        steps_played.into_inner(),
        too_slow.into_inner()
    );
    println!("{:?}", all.into_inner().unwrap());
    assert_eq!(
        failed.into_inner().unwrap(),
        None,
        "the seed of a story that fails"
    );
    assert!(played > 0, "no story was played to its end");
}

/// The story of a seed, and the shorter ones that it can be made into.
fn story_of(seed: u64) -> Box<dyn ValueTree<Value = Story>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    Box::new(stories().new_tree(&mut runner).expect("a story"))
}

/// As [`play`], where what broke off is wrong, too.
fn played(story: &Story) -> Result<Counts, End> {
    let played = catch_unwind(AssertUnwindSafe(|| play(story)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(End::Wrong(text.unwrap_or_default()))
    })
}

/// The shortest story that still fails, as far as it was found, and why it does.
fn shortest(tree: &mut dyn ValueTree<Value = Story>, mut why: String) -> (Story, String) {
    let begin = Instant::now();
    let mut story = tree.current();
    let mut is_shorter = tree.simplify();
    while is_shorter && begin.elapsed() < MAX_SHRINKING {
        let shorter = tree.current();
        is_shorter = match played(&shorter) {
            Err(End::Wrong(text)) => {
                (story, why) = (shorter, text);
                tree.simplify()
            }
            Err(End::TooSlow) | Ok(_) => tree.complicate(),
        };
    }
    (story, why)
}
