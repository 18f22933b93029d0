//! Several threads that share one list of work.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// How far long work has come, and whether it is to end before it is done.
#[derive(Debug, Default)]
pub struct Progress {
    stop: AtomicBool,
    bytes: AtomicU64,
}

impl Progress {
    /// Work ends at the next block of a file.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn is_stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// So many more bytes were copied or hashed.
    pub fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All bytes that were copied or hashed until now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// How many threads the machine runs at once.
pub fn processors() -> usize {
    // Finding it out reads the files of every control group above the process.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Calls `work` with every number below `items`, on as many threads as there are processors when
/// `is_worth_it`, and on the caller's own when not. After an error no further work is begun.
///
/// # Errors
/// One that `work` returned.
pub fn share<E: Send>(
    items: usize,
    is_worth_it: bool,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let take = || {
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                return Ok(());
            }
            work(item).inspect_err(|_| next.store(items, Ordering::Relaxed))?;
        }
    };
    let helpers = if is_worth_it {
        processors().min(items).saturating_sub(1)
    } else {
        0
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(take)).collect();
        let own = take();
        let join = |helper: std::thread::ScopedJoinHandle<'_, _>| {
            helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        helpers.into_iter().map(join).fold(own, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for is_worth_it in [false, true] {
            let seen: Vec<_> = (0..1_000).map(|_| AtomicUsize::new(0)).collect();
            let done = share(seen.len(), is_worth_it, |item| {
                seen[item].fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(())
            });
            assert_eq!(done, Ok(()));
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn an_error_of_any_thread_is_returned() {
        for is_worth_it in [false, true] {
            let fail = |item| if item == 7 { Err(item) } else { Ok(()) };
            assert_eq!(share(8, is_worth_it, fail), Err(7));
        }
    }
}
