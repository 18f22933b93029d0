//! Users and groups of the machine.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{self, Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// Who put a drop into the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Importer {
    pub(crate) uid: u32,
    /// The user's name; the number where the machine knows none.
    pub(crate) name: String,
}

impl Importer {
    /// The user `uid`. The number is the name where the machine's user database doesn't answer soon.
    pub(crate) fn of(uid: u32) -> Self {
        static NAMES: OnceLock<Arc<Lookups<String>>> = OnceLock::new();
        let look_up = |uid| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map(|user| user.name)
        };
        let names = NAMES.get_or_init(|| Lookups::new(FRESH, look_up));
        Self {
            uid,
            name: names.of(uid).unwrap_or_else(|| uid.to_string()),
        }
    }
}

impl Importer {
    /// As a sentence names the user.
    pub(crate) fn shown(&self) -> String {
        let Self { uid, name } = self;
        if *name == uid.to_string() {
            return format!("the user {uid}");
        }
        name.clone()
    }
}

/// A user of the machine, as its database knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// `None` where the machine knows no such user.
    pub(crate) name: Option<String>,
    /// The user's number, unless that is some user's name.
    pub(crate) number: Option<String>,
    /// The names of the groups that the user is in, and likewise their numbers.
    pub(crate) groups: Vec<String>,
}

impl Account {
    /// The user `uid`; `None` where the machine's user database doesn't answer soon.
    pub(crate) fn of(uid: u32) -> Option<Self> {
        Self::root(uid).or_else(|| Self::lookups().of(uid))
    }

    /// The user `uid`, waiting for nothing; `None` where the machine's user database has not answered
    /// yet. Then it is asked.
    pub(crate) fn known(uid: u32) -> Option<Self> {
        Self::root(uid).or_else(|| Self::lookups().now(uid))
    }

    /// Who root is nobody has to be asked, nor for root's groups: they give root no right.
    fn root(uid: u32) -> Option<Self> {
        (uid == 0).then(|| Self {
            name: Some("root".to_string()),
            number: None,
            groups: Vec::new(),
        })
    }

    /// What the user is called, as with chown(1): by its name, or by its number.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.name.iter().chain(&self.number)
    }

    /// The number of the user of this name, which may be a number itself. Asks the user database, and waits.
    pub(crate) fn uid_of(name: &str) -> Option<u32> {
        let user = User::from_name(name).ok().flatten();
        user.map(|user| user.uid.as_raw()).or_else(|| number(name))
    }

    /// As [`Account::uid_of`], of a group.
    pub(crate) fn gid_of(name: &str) -> Option<u32> {
        let group = Group::from_name(name).ok().flatten();
        group
            .map(|group| group.gid.as_raw())
            .or_else(|| number(name))
    }

    fn lookups() -> &'static Arc<Lookups<Self>> {
        static ACCOUNTS: OnceLock<Arc<Lookups<Account>>> = OnceLock::new();
        ACCOUNTS.get_or_init(|| Lookups::new(FRESH, |uid| Some(look_up(uid))))
    }
}

/// The number of a user or group, written in the one way in which it is its own name.
fn number(text: &str) -> Option<u32> {
    let number = text.parse::<u32>().ok();
    number.filter(|number| number.to_string() == text)
}

fn look_up(uid: u32) -> Account {
    // Whoever is called by a number goes before whoever has it.
    let number = Some(uid.to_string()).filter(|number| Account::uid_of(number) == Some(uid));
    let Some(user) = User::from_uid(Uid::from_raw(uid)).ok().flatten() else {
        return Account {
            number,
            ..Account::default()
        };
    };
    let name = CString::new(user.name.as_str()).ok();
    let groups = name.and_then(|name| unistd::getgrouplist(&name, user.gid).ok());
    let called = |gid: Gid| {
        let name = Group::from_gid(gid).ok().flatten().map(|group| group.name);
        let number = Some(gid.to_string());
        let number = number.filter(|number| Account::gid_of(number) == Some(gid.as_raw()));
        name.into_iter().chain(number)
    };
    Account {
        name: Some(user.name),
        number,
        groups: groups.into_iter().flatten().flat_map(called).collect(),
    }
}

/// An answer is asked for anew after this time.
const FRESH: Duration = Duration::from_secs(60);

/// An answer that isn't known is waited for so long, once, however many ask.
const PATIENCE: Duration = Duration::from_millis(100);

/// Users that are looked up at a time.
const MAX_ASKED: usize = 8;

/// What the machine knows of users. To look one up may mean to ask another machine, which takes its
/// time or never answers (nsswitch.conf(5)): each lookup has a thread of its own.
struct Lookups<T> {
    fresh: Duration,
    look_up: Box<dyn Fn(u32) -> Option<T> + Send + Sync>,
    known: Mutex<HashMap<u32, Known<T>>>,
    has_answered: Condvar,
}

/// What is known of a user.
struct Known<T> {
    answer: Option<T>,
    /// When the last lookup was answered.
    answered: Option<Instant>,
    /// Since when another one has been under way.
    asked: Option<Instant>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            answer: None,
            answered: None,
            asked: None,
        }
    }
}

impl<T: Clone + Send + 'static> Lookups<T> {
    fn new(
        fresh: Duration,
        look_up: impl Fn(u32) -> Option<T> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            fresh,
            look_up: Box::new(look_up),
            known: Mutex::default(),
            has_answered: Condvar::new(),
        })
    }

    /// The answer for the user `uid`, as far as it is known soon; an old one while it is asked for anew.
    fn of(self: &Arc<Self>, uid: u32) -> Option<T> {
        let mut known = self.known();
        let this = self.asked_for(&mut known, uid);
        let is_open = |this: &Known<T>| this.answered.is_none() && this.asked.is_some();
        let since = this.asked.filter(|_| is_open(this));
        let left = since.map_or(Duration::ZERO, |since| {
            PATIENCE.saturating_sub(since.elapsed())
        });
        let waits = |known: &mut HashMap<u32, Known<T>>| known.get(&uid).is_some_and(is_open);
        let waited = self.has_answered.wait_timeout_while(known, left, waits);
        let (known, _) = waited.expect("no thread panics here");
        known.get(&uid).and_then(|this| this.answer.clone())
    }

    /// The answer for the user `uid` as it is known by now.
    fn now(self: &Arc<Self>, uid: u32) -> Option<T> {
        self.asked_for(&mut self.known(), uid).answer.clone()
    }

    /// What is known of the user `uid`, for whom somebody asks from now on where that is nothing or old.
    fn asked_for<'k>(
        self: &Arc<Self>,
        known: &'k mut HashMap<u32, Known<T>>,
        uid: u32,
    ) -> &'k mut Known<T> {
        let asked = known.values().filter(|known| known.asked.is_some()).count();
        let this = known.entry(uid).or_default();
        let is_fresh = this.answered.is_some_and(|at| at.elapsed() < self.fresh);
        if !is_fresh && this.asked.is_none() && asked < MAX_ASKED {
            this.asked = Some(Instant::now());
            let lookups = Arc::clone(self);
            let asking = thread::Builder::new().spawn(move || lookups.ask(uid));
            if asking.is_err() {
                this.asked = None;
            }
        }
        this
    }

    fn ask(&self, uid: u32) {
        let answer = (self.look_up)(uid);
        let known = Known {
            answer,
            answered: Some(Instant::now()),
            asked: None,
        };
        self.known().insert(uid, known);
        self.has_answered.notify_all();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u32, Known<T>>> {
        self.known.lock().expect("no thread panics here")
    }
}

/// An account that the machine doesn't know.
#[derive(Debug, thiserror::Error)]
#[error("no such {kind}: {name:?}, as `{key}` says")]
pub struct UnknownAccount {
    kind: &'static str,
    name: String,
    key: &'static str,
}

/// The user and the group that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ownership {
    pub uid: u32,
    pub gid: u32,
}

impl Ownership {
    /// What this process makes belongs to these, where the file system has no say in it.
    pub(crate) fn of_process() -> Self {
        Self {
            uid: unistd::geteuid().as_raw(),
            gid: unistd::getegid().as_raw(),
        }
    }

    /// The user and the group of these names; without a name, that of `own`.
    ///
    /// # Errors
    /// When the machine knows no such user, or no such group.
    pub(crate) fn by_name(
        user: Option<&str>,
        group: Option<&str>,
        own: Self,
    ) -> Result<Self, UnknownAccount> {
        let unknown = |kind, name: &str, key| UnknownAccount {
            kind,
            name: name.to_string(),
            key,
        };
        let Self { mut uid, mut gid } = own;
        if let Some(name) = user {
            let user = User::from_name(name).ok().flatten();
            uid = user
                .ok_or_else(|| unknown("user", name, "tree.owner"))?
                .uid
                .as_raw();
        }
        if let Some(name) = group {
            let group = Group::from_name(name).ok().flatten();
            gid = group
                .ok_or_else(|| unknown("group", name, "tree.group"))?
                .gid
                .as_raw();
        }
        Ok(Self { uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// Asks until the name is this one.
    fn wait_for(names: &Arc<Lookups<String>>, uid: u32, name: &str) {
        let began = Instant::now();
        while names.of(uid).as_deref() != Some(name) {
            assert!(began.elapsed() < Duration::from_secs(60), "no answer");
            thread::yield_now();
        }
    }

    #[test]
    fn a_user_database_that_does_not_answer_holds_up_nobody() {
        let (answer, answers) = mpsc::channel::<()>();
        let answers = Mutex::new(answers);
        let names = Lookups::new(FRESH, move |uid| {
            if uid == 7 {
                // No answer comes before the test sends one.
                answers.lock().unwrap().recv().unwrap();
            }
            (uid != 9).then(|| format!("user-{uid}"))
        });
        assert_eq!(names.now(7), None);
        assert_eq!(names.of(7), None);
        wait_for(&names, 8, "user-8");
        assert_eq!(names.now(8).as_deref(), Some("user-8"));
        for _ in 0..1_000 {
            // Each would take its time if it waited.
            assert_eq!(names.of(7), None);
        }
        answer.send(()).unwrap();
        wait_for(&names, 7, "user-7");
        assert_eq!(names.of(9), None, "the machine knows no such user");
    }

    #[test]
    fn a_name_is_looked_up_once_until_it_is_old_and_shown_until_it_is_looked_up_anew() {
        for (fresh, is_old) in [(FRESH, false), (Duration::ZERO, true)] {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let names = Lookups::new(fresh, move |_| {
                Some(counted.fetch_add(1, Ordering::SeqCst).to_string())
            });
            wait_for(&names, 7, "0");
            if is_old {
                wait_for(&names, 7, "1");
            } else {
                (0..1_000).for_each(|_| assert_eq!(names.of(7).as_deref(), Some("0")));
                assert_eq!(count.load(Ordering::SeqCst), 1);
            }
        }
    }

    #[test]
    fn no_more_than_a_few_names_are_looked_up_at_a_time() {
        let (asked, all) = mpsc::channel();
        let asked = Mutex::new(asked);
        let names = Lookups::<String>::new(FRESH, move |uid| {
            asked.lock().unwrap().send(uid).unwrap();
            loop {
                thread::park();
            }
        });
        let users = u32::try_from(2 * MAX_ASKED).unwrap();
        for uid in 0..users {
            assert_eq!(names.of(uid), None);
        }
        let mut all: Vec<_> = (0..MAX_ASKED).map(|_| all.recv().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..users / 2).collect::<Vec<_>>());
        let waiting = names
            .known()
            .values()
            .filter(|it| it.asked.is_some())
            .count();
        assert_eq!(waiting, MAX_ASKED);
    }
}
