//! Several threads that share one list of work.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// How far long work has come, and whether it is to end before it is done.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    bytes: AtomicU64,
    expected: AtomicU64,
}

impl Progress {
    /// Work ends at the next block of a file.
    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// So many more bytes will be copied or hashed.
    pub(crate) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more bytes were copied or hashed.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All bytes that were copied or hashed until now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// All bytes that were to be copied or hashed until now.
    pub(crate) fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }
}

/// From so many things on that take a few system calls each, several threads are worth their start.
pub(crate) const MANY: usize = 16;

/// How many threads the machine runs at once.
pub(crate) fn processors() -> usize {
    // Finding it out reads the files of every control group above the process.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Calls `work` with every number below `count`, on as many threads as there are processors when
/// `is_worth_it`, and on the caller's own when not. After an error no further work is begun.
///
/// # Errors
/// One that `work` returned.
pub(crate) fn share<E: Send>(
    count: usize,
    is_worth_it: bool,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let take = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            work(number).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
        }
    };
    let others = if is_worth_it {
        processors().min(count).saturating_sub(1)
    } else {
        0
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(take)).collect();
        let own = take();
        let join = |other: std::thread::ScopedJoinHandle<'_, _>| {
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        others.into_iter().map(join).fold(own, Result::and)
    })
}

/// What `work` makes of each thing, in their order; with several threads as [`share`] does it.
pub(crate) fn map<T: Send, R: Send>(
    things: Vec<T>,
    is_worth_it: bool,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let slots: Vec<_> = things
        .into_iter()
        .map(|thing| Mutex::new((Some(thing), None)))
        .collect();
    let lock = |index: usize| slots[index].lock().expect("no thread panics here");
    let done = share(slots.len(), is_worth_it, |index| {
        let thing = lock(index).0.take().expect("each is taken once");
        let result = work(thing);
        lock(index).1 = Some(result);
        Ok::<_, Infallible>(())
    });
    let Ok(()) = done;
    let result = |slot: Mutex<(Option<T>, Option<R>)>| {
        let (_, result) = slot.into_inner().expect("no thread panics here");
        result.expect("each was worked on")
    };
    slots.into_iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_worked_on_once() {
        for is_worth_it in [false, true] {
            let seen: Vec<_> = (0..1_000).map(|_| AtomicUsize::new(0)).collect();
            let done = share(seen.len(), is_worth_it, |number| {
                seen[number].fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(())
            });
            assert_eq!(done, Ok(()));
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn results_come_in_order() {
        let squares: Vec<_> = (0..1_000).map(|n| n * n).collect();
        for is_worth_it in [false, true] {
            assert_eq!(map((0..1_000).collect(), is_worth_it, |n| n * n), squares);
        }
    }

    #[test]
    fn an_error_of_any_thread_is_returned() {
        for is_worth_it in [false, true] {
            let fail = |number| if number == 7 { Err(number) } else { Ok(()) };
            assert_eq!(share(8, is_worth_it, fail), Err(7));
        }
    }
}
