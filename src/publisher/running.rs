//! Work that is under way, and whether each piece of it shows signs of life.
//!
//! A disk or a server that has died lets system calls hang for ever, and nothing that waits for them
//! can be ended from here. A piece of work that shows no sign of life is said in the log, and the
//! watchdog is fed no more: whoever has set one up is to end the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::workshop::Workshop;
use crate::log::MessageId;
use crate::sys::{Progress, Watchdog, failpoint};
use crate::words::{Moment, Target};

/// A piece of work that shows no sign of life for so long hangs. Each block that is copied or hashed
/// is a sign, and so is each drop and each target that is done; between two of them one system call
/// may take long: to sync what the kernel has gathered, which is some gigabytes on a large machine
/// and takes minutes on a slow disk.
const HANGS: Duration = Duration::from_secs(600);

/// While something hangs it is looked at so often whether it goes on.
const HANGS_STILL: Duration = Duration::from_secs(1);

/// So many targets of a piece of work are named.
const NAMED: usize = 3;

/// What a piece of work does, and for which targets.
#[derive(Debug)]
pub(super) struct About {
    doing: &'static str,
    targets: Vec<Target>,
    is_watched: bool,
}

/// All work that is under way; `D` is what it comes to.
#[derive(Debug)]
pub(super) struct Running<D> {
    work: JoinSet<D>,
    pieces: HashMap<Id, Piece>,
    hangs: Duration,
}

#[derive(Debug)]
struct Piece {
    about: About,
    progress: Arc<Progress>,
    /// The signs of life that were counted, and when there were no more than those.
    signs: u64,
    alive: Instant,
    /// The same by the wall clock.
    since: Moment,
    is_told: bool,
}

impl About {
    /// Of very many targets the first ones are named.
    pub(super) fn new<'t>(
        doing: &'static str,
        targets: impl IntoIterator<Item = &'t Target>,
    ) -> Self {
        let targets = targets.into_iter().take(NAMED).cloned().collect();
        Self {
            doing,
            targets,
            is_watched: true,
        }
    }
}

impl About {
    /// Work that may take long and that nobody waits for: a disk that has died shows in other work.
    pub(super) fn unhurried(doing: &'static str) -> Self {
        Self {
            is_watched: false,
            ..Self::new(doing, [])
        }
    }
}

/// Work for no target.
impl From<&'static str> for About {
    fn from(doing: &'static str) -> Self {
        Self::new(doing, [])
    }
}

impl<D: Send + 'static> Running<D> {
    pub(super) fn new() -> Self {
        Self {
            work: JoinSet::new(),
            pieces: HashMap::new(),
            hangs: failpoint::bound("hangs", HANGS),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.work.is_empty()
    }

    /// Begins a piece of work, if there is one; `done` says what it comes to. Returns whether there is
    /// one.
    pub(super) fn begin<T: 'static>(
        &mut self,
        shop: &Workshop,
        about: impl Into<About>,
        work: Option<impl FnOnce(&Workshop) -> T + Send + 'static>,
        done: fn(T) -> D,
    ) -> bool {
        let Some(work) = work else { return false };
        let progress = Arc::new(Progress::part_of(&shop.progress));
        let shop = Workshop {
            progress: Arc::clone(&progress),
            ..shop.clone()
        };
        let id = self.work.spawn_blocking(move || done(work(&shop))).id();
        let piece = Piece {
            about: about.into(),
            signs: progress.signs(),
            progress,
            alive: Instant::now(),
            since: Moment::now(),
            is_told: false,
        };
        if piece.about.is_watched {
            self.pieces.insert(id, piece);
        }
        true
    }

    /// The next piece of work that ends; `None` when there is none. Nothing is lost when this is not
    /// waited for to its end.
    pub(super) async fn ended(&mut self) -> Option<Result<D, JoinError>> {
        let ended = self.work.join_next_with_id().await?;
        Some(self.forget(ended))
    }

    /// A piece of work that has ended already.
    pub(super) fn ended_already(&mut self) -> Option<Result<D, JoinError>> {
        let ended = self.work.try_join_next_with_id()?;
        Some(self.forget(ended))
    }

    fn forget(&mut self, ended: Result<(Id, D), JoinError>) -> Result<D, JoinError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        if let Some(piece) = self.pieces.remove(&id) {
            piece.goes_on();
        }
        ended.map(|(_, done)| done)
    }

    /// Looks for signs of life, and feeds the watchdog, if there is one, unless something hangs.
    /// Returns when to feed it next.
    pub(super) fn watch(&mut self, watchdog: Option<&mut Watchdog>) -> Option<Instant> {
        let hangs = self.is_any_hanging();
        let fed = watchdog.filter(|_| !hangs)?;
        Some(Instant::from_std(fed.feed()))
    }

    /// When to look again for signs of life.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let next = |piece: &Piece| {
            if piece.is_told {
                Instant::now() + HANGS_STILL
            } else {
                piece.alive + self.hangs
            }
        };
        self.pieces.values().map(next).min()
    }

    /// Says once of each piece of work that it hangs.
    fn is_any_hanging(&mut self) -> bool {
        let now = Instant::now();
        for piece in self.pieces.values_mut() {
            let signs = piece.progress.signs();
            if piece.signs != signs {
                piece.goes_on();
                (piece.signs, piece.alive, piece.since) = (signs, now, Moment::now());
                piece.is_told = false;
            } else if now - piece.alive >= self.hangs && !piece.is_told {
                piece.hangs(now);
                piece.is_told = true;
            }
        }
        self.pieces.values().any(|piece| piece.is_told)
    }
}

impl Piece {
    fn hangs(&self, now: Instant) {
        let (message_id, doing) = (MessageId::Hangs, self.about.doing);
        let lasts = Duration::from_secs((now - self.alive).as_secs().max(1));
        let (lasts, since) = (humantime::format_duration(lasts), self.since.to_seconds());
        tracing::error!(
            %message_id, target = self.targets(),
            "{doing} hangs: no sign of life for {lasts}, since {since}; look at the disks of spool \
             and tree (dmesg, findmnt)"
        );
    }

    /// Says that it goes on, if it was said to hang.
    fn goes_on(&self) {
        if self.is_told {
            let (message_id, doing) = (MessageId::GoesOn, self.about.doing);
            tracing::info!(%message_id, target = self.targets(), "{doing} goes on");
        }
    }

    fn targets(&self) -> Option<tracing::field::DisplayValue<String>> {
        let targets: Vec<_> = self.about.targets.iter().map(Target::to_string).collect();
        (!targets.is_empty()).then(|| tracing::field::display(targets.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::spool::Spool;
    use crate::tree::Pointers;
    use std::sync::mpsc;

    fn shop(folder: &std::path::Path) -> Workshop {
        let mut settings = Settings::default();
        settings.tree.path = folder.join("tree");
        for name in ["incoming", "processing", "rejected", "outcomes"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let pointers = Pointers::open(&settings).unwrap();
        Workshop {
            settings: Arc::new(settings),
            spool: Arc::new(Spool::open(folder).unwrap()),
            staging: Arc::clone(pointers.staging()),
            progress: Arc::default(),
            room: Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_shows_no_sign_of_life_hangs_until_it_shows_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut running, shop) = (Running::new(), shop(folder.path()));
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let work = move |shop: &Workshop| {
            tell.send(Arc::clone(&shop.progress)).unwrap();
            let _ = wait.recv();
        };
        assert!(running.begin(&shop, "copying", Some(work), |done| done));
        let begun = Instant::now();
        let piece = told.recv().unwrap();
        assert_eq!(running.next_look(), Some(begun + HANGS));
        // Slow, and alive.
        for _ in 0..5 {
            tokio::time::advance(HANGS / 2).await;
            piece.advance(1);
            assert!(!running.is_any_hanging());
        }
        assert_eq!(shop.progress.bytes(), 5, "it counts for all");
        // Another piece's signs are not this one's.
        shop.progress.advance(1);
        Progress::part_of(&shop.progress).show_life();
        tokio::time::advance(HANGS).await;
        assert!(running.is_any_hanging() && running.is_any_hanging());
        assert_eq!(running.next_look(), Some(Instant::now() + HANGS_STILL));
        piece.show_life();
        assert!(!running.is_any_hanging());
        tokio::time::advance(HANGS).await;
        assert!(running.is_any_hanging(), "once more");
        drop(go);
        running.ended().await.unwrap().unwrap();
        assert!(!running.is_any_hanging() && running.is_empty());
        assert_eq!(running.next_look(), None);
    }
}
