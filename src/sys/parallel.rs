//! Several threads that share one list of work, and how far that work has come.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// How far long work has come, and whether it is to end before it is done.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    bytes: AtomicU64,
    expected: AtomicU64,
    /// What this work is a part of.
    whole: Option<Arc<Self>>,
    signs: AtomicU64,
}

impl Progress {
    /// That of a part, which is counted by itself and with the whole, and ends with that.
    pub(crate) fn part_of(whole: &Arc<Self>) -> Self {
        Self {
            whole: Some(Arc::clone(whole)),
            ..Self::default()
        }
    }

    /// Asks for the work to end at the next block of a file.
    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stop_requested(&self) -> bool {
        let whole = self.whole.as_ref();
        self.stop.load(Ordering::Relaxed) || whole.is_some_and(|whole| whole.is_stop_requested())
    }

    /// So many more bytes will be copied or hashed.
    pub(crate) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.expect(bytes);
        }
        self.show_life();
    }

    /// So many more bytes were copied or hashed.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.advance(bytes);
        }
        self.show_life();
    }

    /// This very work goes on: something of it is done, which need not be counted in bytes.
    pub(crate) fn show_life(&self) {
        self.signs.fetch_add(1, Ordering::Relaxed);
    }

    /// All signs of life until now.
    pub(crate) fn signs(&self) -> u64 {
        self.signs.load(Ordering::Relaxed)
    }

    /// All bytes that were copied or hashed until now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// All bytes that were to be copied or hashed until now.
    pub(crate) fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// How much of what is to be copied or hashed is done, besides so many bytes `done` of so many
    /// `expected` before; `None` while nothing is known to be. All of it is done when the image is
    /// current: that is never said here.
    pub(crate) fn percent(&self, (done, expected): (u64, u64)) -> Option<u64> {
        let expected = self.expected().saturating_sub(expected);
        let done = self.bytes().saturating_sub(done);
        let percent = done.saturating_mul(100).checked_div(expected);
        percent.map(|percent| percent.min(99))
    }
}

/// How many threads the machine runs at once.
pub(crate) fn processors() -> usize {
    // To find the number out reads the files of every control group above the process.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// What `work` makes of each thing, in their order: on all processors where there are more things
/// than `few`, on the caller's own thread where not. After an error no further thing is begun.
///
/// # Errors
/// One that `work` returned.
pub(crate) fn try_map<T: Send, R: Send, E: Send>(
    things: Vec<T>,
    few: usize,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let count = things.len();
    if count <= few.max(1) {
        return things.into_iter().map(work).collect();
    }
    let rest = Mutex::new(things.into_iter().enumerate());
    let rest = || rest.lock().expect("nobody panics while taking a thing");
    let next = || rest().next();
    let take = || {
        let mut done = Vec::new();
        while let Some((number, thing)) = next() {
            let result = work(thing).inspect_err(|_| rest().by_ref().for_each(drop))?;
            done.push((number, result));
        }
        Ok(done)
    };
    let mut done = thread::scope(|scope| -> Result<_, E> {
        let others = 1..processors().min(count);
        let others: Vec<_> = others.map(|_| scope.spawn(take)).collect();
        let mut done = take()?;
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(done)
    })?;
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// As [`try_map`], where nothing can fail.
pub(crate) fn map<T: Send, R: Send>(
    things: Vec<T>,
    few: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let Ok(done) = try_map(things, few, |thing| Ok::<_, Infallible>(work(thing)));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thing_is_worked_on_once_and_results_come_in_order() {
        let squares: Vec<_> = (0..1_000).map(|n| n * n).collect();
        for few in [0, 1_000] {
            assert_eq!(map((0..1_000).collect(), few, |n| n * n), squares);
        }
    }

    #[test]
    fn a_part_counts_for_the_whole_and_ends_with_it() {
        let whole = Arc::new(Progress::default());
        whole.expect(100);
        whole.advance(100);
        let part = Progress::part_of(&whole);
        assert_eq!(part.percent((0, 0)), None);
        part.expect(200);
        part.advance(86);
        assert_eq!(part.percent((0, 0)), Some(43));
        assert_eq!((whole.bytes(), whole.expected()), (186, 300));
        assert_eq!(whole.percent((100, 100)), Some(43));
        part.advance(114);
        assert_eq!(part.percent((0, 0)), Some(99), "it is not current yet");
        assert!(!part.is_stop_requested());
        whole.request_stop();
        assert!(part.is_stop_requested());
    }

    #[test]
    fn an_error_of_any_thread_is_returned_and_ends_the_work() {
        for few in [0, 100_000] {
            let begun = AtomicU64::new(0);
            let fail = |number| {
                begun.fetch_add(1, Ordering::Relaxed);
                if number == 7 { Err(number) } else { Ok(()) }
            };
            assert_eq!(try_map((0..100_000).collect(), few, fail), Err(7));
            let begun = begun.into_inner();
            assert!((8..100_000).contains(&begun), "{begun} were begun");
        }
    }
}
