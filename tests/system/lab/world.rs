//! A spool, a tree, and the daemon between them: what every test begins with.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_netboot-publisher");

/// The second program.
#[cfg(feature = "import")]
pub const IMPORT: &str = env!("CARGO_BIN_EXE_netboot-import");

/// Nothing in a test takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a test can't do without.
#[derive(Clone, Copy, Debug)]
pub enum Needs {
    Root,
    Program(&'static str),
    Path(&'static str),
    /// The feature `failpoints` of the program under test.
    Failpoints,
    /// Mounts, processes and control groups of one's own.
    Namespaces,
}

impl Needs {
    fn is_met(self) -> bool {
        match self {
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Program(name) => {
                let folders = std::env::var_os("PATH").unwrap_or_default();
                let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
                let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
                std::env::split_paths(&folders)
                    .chain(["/usr/sbin".into(), "/sbin".into()])
                    .chain(cargo.or(home).map(|cargo| cargo.join("bin")))
                    .any(|folder| folder.join(name).is_file())
            }
            Self::Path(path) => Path::new(path).exists(),
            Self::Failpoints => cfg!(feature = "failpoints"),
            Self::Namespaces => {
                static CAN: OnceLock<bool> = OnceLock::new();
                *CAN.get_or_init(|| {
                    let mount = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
                    Command::new("unshare")
                        .args(["--mount", "--cgroup", "--pid", "--fork", "sh", "-c", mount])
                        .stderr(Stdio::null())
                        .status()
                        .is_ok_and(|status| status.success())
                })
            }
        }
    }
}

/// Set for a second run that leaves out what needs no failpoints.
const ONLY_FAILPOINTS: &str = "NETBOOT_TESTS_ONLY_FAILPOINTS";

/// A test: one sentence, what it needs, what it does. It is reported as ignored where something is
/// missing.
pub fn test(sentence: &str, needs: &[Needs], body: impl FnOnce() + Send + 'static) -> Trial {
    long_test(sentence, needs, Duration::ZERO, body)
}

/// As [`test`], of one that is to take so long.
pub fn long_test(
    sentence: &str,
    needs: &[Needs],
    takes: Duration,
    body: impl FnOnce() + Send + 'static,
) -> Trial {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_met()).collect();
    if !missing.is_empty() {
        eprintln!("not run, {missing:?} missing: {sentence}");
    }
    let has_run = std::env::var_os(ONLY_FAILPOINTS).is_some()
        && !needs.iter().any(|need| matches!(need, Needs::Failpoints));
    let name = sentence.to_string();
    let run = move || {
        let _ended = bounded(name.clone(), takes + TOO_LONG);
        let begin = Instant::now();
        body();
        note_time(begin.elapsed(), &name);
        Ok(())
    };
    Trial::test(sentence.replace(' ', "_"), run).with_ignored_flag(!missing.is_empty() || has_run)
}

/// As [`long_test`], of one that is too long for a run of all tests: it runs only where the test program is
/// given a filter that it matches. `words` is one that no other test has in its name.
pub fn by_name(
    sentence: &str,
    words: &str,
    needs: &[Needs],
    takes: Duration,
    body: impl FnOnce() + Send + 'static,
) -> Trial {
    let name = sentence.replace(' ', "_");
    let words = words.replace(' ', "_");
    assert!(name.contains(&words), "{words} is not in {name}");
    match Arguments::from_args().filter {
        Some(filter) if name.contains(&filter) => {
            return long_test(sentence, needs, takes, body);
        }
        Some(_) => {}
        None => eprintln!("by name only: tests/run {words}"),
    }
    let run = move || Err(format!("by name only: tests/run {words}").into());
    Trial::test(name, run).with_ignored_flag(true)
}

/// A test that takes so much longer than it is to ends the program, which would end never.
const TOO_LONG: Duration = Duration::from_secs(20 * 60);

/// A file that gets a line for each test: its seconds, and its sentence. `tests/run` shows the longest.
const TIMES: &str = "NETBOOT_TESTS_TIMES";

fn note_time(took: Duration, sentence: &str) {
    let Some(file) = std::env::var_os(TIMES) else {
        return;
    };
    let mut file = fs::File::options().create(true).append(true).open(file);
    let file = file.as_mut().expect("the file for the times of tests");
    // One call, so that the lines of two tests don't mix.
    let line = format!("{:.1} {sentence}\n", took.as_secs_f64());
    file.write_all(line.as_bytes()).expect("a test's time");
}

/// Bounds a test until what is returned is dropped.
fn bounded(name: String, bound: Duration) -> mpsc::Sender<()> {
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(bound) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("hangs, and the tests after it are not run: {name}");
            std::process::exit(1);
        }
    });
    sender
}

/// A spool and a tree in a directory that goes with the test.
pub struct World {
    // Goes with the world: the daemon's files are in this directory.
    _dir: Option<tempfile::TempDir>,
    pub root: PathBuf,
    pub spool: PathBuf,
    pub tree: PathBuf,
    pub config: PathBuf,
}

/// A running daemon. Ends by SIGKILL when it is dropped.
pub struct Daemon {
    pub child: Child,
    lines: mpsc::Receiver<String>,
    /// What the daemon has logged, as far as its log was read.
    pub log: Vec<String>,
}

impl World {
    /// With the defaults, but that nothing is kept free and nothing kept for its age.
    pub fn new() -> Self {
        Self::with("[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\n")
    }

    /// With these settings beside the paths, which may not name `[spool]` or `[tree]` keys in a
    /// table of their own: `spool.watch = …` goes into the text as `#spool watch = …`.
    pub fn with(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::within(dir, "tree", settings)
    }

    /// As [`World::with`], with the tree at this path in a directory that goes with the test.
    pub fn within(dir: tempfile::TempDir, tree: &str, settings: &str) -> Self {
        let root = dir.path().to_path_buf();
        Self {
            _dir: Some(dir),
            ..Self::at(&root, &root.join("spool"), &root.join(tree), settings)
        }
    }

    /// With the spool and the tree at given places; `root` holds the configuration.
    pub fn at(root: &Path, spool: &Path, tree: &Path, settings: &str) -> Self {
        let of = |table: &str| -> String {
            let prefix = format!("#{table} ");
            let keys = settings
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix));
            keys.flat_map(|key| [key, "\n"]).collect()
        };
        let config = root.join("config.toml");
        // Nobody boots from most of these trees.
        let swap = if settings.contains("[swap]") {
            ""
        } else {
            "[swap]\nquiet_period = \"0s\"\n"
        };
        // What is written in place is mostly written at once.
        let settle = if settings.contains("settle = ") {
            ""
        } else {
            "settle = \"300ms\"\n"
        };
        // Many a disk of a test is small.
        let room = if settings.contains("#spool min_free_space = ") {
            ""
        } else {
            "min_free_space = \"0B\"\n"
        };
        let text = format!(
            "[spool]\npath = {spool:?}\n{settle}{room}{}[tree]\npath = {tree:?}\n{}{settings}{swap}",
            of("spool"),
            of("tree")
        );
        fs::write(&config, text).expect("writing the configuration");
        for folder in ["incoming", "processing", "rejected", "outcomes"] {
            fs::create_dir_all(spool.join(folder)).expect("making the spool");
        }
        Self::placed(root, spool, tree, &config)
    }

    /// A world that is there already.
    pub fn placed(root: &Path, spool: &Path, tree: &Path, config: &Path) -> Self {
        Self {
            _dir: None,
            root: root.into(),
            spool: spool.into(),
            tree: tree.into(),
            config: config.into(),
        }
    }

    /// The program with this world's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// Drains the spool, which has to go well.
    pub fn run_once(&self) {
        let output = self.run(&["run", "--once"]);
        assert!(
            output.status.success(),
            "run --once: {}\n{self}",
            text(&output)
        );
    }

    /// Starts the daemon and waits until it is ready.
    pub fn daemon(&self) -> Daemon {
        Daemon::start(self.command(&["run"]))
    }

    /// Drops an image as an importer does: built under a hidden name, then renamed.
    pub fn drop_image(&self, name: &str, target: &str, files: &[(&str, &[u8])]) {
        self.drop_with(name, &manifest(target), |image| {
            for (path, bytes) in files {
                let path = image.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        });
    }

    /// As [`World::drop_image`], with a manifest and an image of the caller's own making.
    pub fn drop_with(&self, name: &str, manifest: &str, make: impl FnOnce(&Path)) {
        let hidden = self.spool.join("incoming").join(format!(".{name}"));
        fs::create_dir_all(hidden.join("image")).unwrap();
        make(&hidden.join("image"));
        fs::write(hidden.join("manifest.toml"), manifest).unwrap();
        fs::rename(&hidden, self.incoming(name)).unwrap();
    }

    /// Drops a copy of a directory (`cp -a`).
    pub fn drop_directory(&self, name: &str, target: &str, directory: &Path) {
        self.drop_copy(name, &manifest(target), directory);
    }

    /// As [`World::drop_directory`], with a manifest of the caller's own making.
    pub fn drop_copy(&self, name: &str, manifest: &str, directory: &Path) {
        self.drop_with(name, manifest, |image| {
            let copied = Command::new("cp")
                .arg("-a")
                .arg(directory.join("."))
                .arg(image)
                .status();
            assert!(copied.unwrap().success());
        });
    }

    pub fn incoming(&self, name: &str) -> PathBuf {
        self.spool.join("incoming").join(name)
    }

    /// The outcome of a drop, if there is one.
    pub fn outcome(&self, drop: &str) -> Option<Value> {
        let text = fs::read(self.outcome_file(drop)).ok()?;
        Some(serde_json::from_slice(&text).expect("an outcome is JSON"))
    }

    /// Where the last outcome of a drop of this name stands, whoever's that is; of none, where that of a
    /// drop of this user will.
    pub fn outcome_file(&self, drop: &str) -> PathBuf {
        last_outcome(&self.spool, drop).unwrap_or_else(|| {
            let own = self.outcomes_of(rustix::process::geteuid().as_raw());
            own.join(format!("{drop}.json"))
        })
    }

    /// The folder of an importer's outcomes.
    pub fn outcomes_of(&self, uid: u32) -> PathBuf {
        self.spool.join("outcomes").join(uid.to_string())
    }

    /// The names of all outcomes.
    pub fn outcomes(&self) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().to_string();
        outcomes(&self.spool).into_iter().map(name).collect()
    }

    /// Asserts what became of a drop; for a rejected one with its reason: `rejected too-large`.
    pub fn assert_outcome(&self, drop: &str, expected: &str) -> Value {
        let Some(outcome) = self.outcome(drop) else {
            panic!("{drop} has no outcome\n{self}")
        };
        let word = |key: &str| outcome[key].as_str().unwrap_or_default().to_string();
        let found = format!("{} {}", word("outcome"), word("reason"));
        assert_eq!(found.trim_end(), expected, "{drop}: {outcome:#}\n{self}");
        outcome
    }

    /// The directory that a target points to.
    pub fn published(&self, target: &str) -> PathBuf {
        self.tree.join(target)
    }

    /// The names in a folder of the spool.
    pub fn names(&self, folder: &str) -> Vec<String> {
        names(&self.spool.join(folder))
    }

    /// The names of the drops that are claimed.
    pub fn claimed(&self) -> Vec<String> {
        let places = self.names("processing").into_iter();
        let claimed = places.filter(|place| !place.starts_with('.'));
        let mut names: Vec<_> = claimed.map(|place| without_claim(&place)).collect();
        names.sort();
        names
    }

    /// Where a claimed drop is; where one that is being removed is.
    pub fn place(&self, drop: &str) -> Option<PathBuf> {
        let places = self.names("processing").into_iter();
        let mut found = places.filter(|place| without_claim(place) == drop);
        found
            .next()
            .map(|place| self.spool.join("processing").join(place))
    }

    /// Nothing is on its way, and nothing was left behind: what has to be so whenever the daemon
    /// has nothing to do. A drop may go a moment after its outcome was written.
    pub fn assert_at_rest(&self) {
        wait_for_names(&self.spool.join("processing"), &[]);
        assert_eq!(self.names("processing"), Vec::<String>::new(), "{self}");
        let staging = self.tree.join(".netboot-publisher/staging");
        assert_eq!(names(&staging), Vec::<String>::new(), "{self}");
        self.assert_whole();
    }

    /// Every pointer leads to a generation that is what its record says; what has to be so at any
    /// moment, also right after a crash.
    pub fn assert_pointers_whole(&self) {
        for path in walk(&self.tree) {
            let mut generations = path.clone().into_os_string();
            generations.push("@");
            if path.is_symlink() && Path::new(&generations).is_dir() {
                let generation = path.with_file_name(fs::read_link(&path).unwrap());
                assert!(generation.is_dir(), "{path:?} leads nowhere\n{self}");
                assert_recorded(&generation, self);
            }
        }
    }

    /// Every pointer leads to a generation, every generation has a record and the files it names, and
    /// what proves a generation has one.
    pub fn assert_whole(&self) {
        for path in walk(&self.tree) {
            let Some(folder) = path.file_name().and_then(OsStr::to_str) else {
                continue;
            };
            let Some(purpose) = folder.strip_suffix('@') else {
                continue;
            };
            let pointer = path.with_file_name(purpose);
            assert!(
                pointer.is_dir() || !pointer.is_symlink(),
                "{pointer:?} leads nowhere\n{self}"
            );
            for name in names(&path) {
                let beside = [
                    ".manifest.toml",
                    ".order.toml",
                    ".order.sig",
                    ".orders.json",
                    ".sig",
                    ".toml",
                ];
                match beside.iter().find_map(|end| name.strip_suffix(end)) {
                    Some(generation) => {
                        assert!(
                            path.join(generation).is_dir(),
                            "record or proof of nothing: {name}\n{self}"
                        );
                    }
                    None => assert_recorded(&path.join(&name), self),
                }
            }
        }
    }
}

impl std::fmt::Display for World {
    /// What a failing test prints: the world.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listed = Command::new("ls")
            .arg("-laR")
            .arg(&self.spool)
            .arg(&self.tree)
            .output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).to_string());
        let listed: String = listed.unwrap_or_default().chars().take(20_000).collect();
        f.write_str(&listed)
    }
}

impl Daemon {
    /// Starts a command that runs the daemon, and waits until it is ready.
    pub fn start(mut command: Command) -> Self {
        let mut daemon = Self::start_unready(&mut command);
        daemon.wait_for(" ready ");
        daemon
    }

    pub fn start_unready(command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the daemon");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            log: Vec::new(),
        }
    }

    /// Waits until a line is logged that holds `text`, and returns it.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!(
                    "{error}, no line with {text:?} in:\n{}",
                    self.log.join("\n")
                ),
            }
        }
    }

    /// Waits until the outcome of a drop is logged, and returns the line.
    pub fn wait_for_drop(&mut self, drop: &str) -> String {
        let named = format!("drop=\"{drop}\"");
        loop {
            let line = self.wait_for(&named);
            // That a drop waits for machines is said before.
            if !line.contains(" swap held ") {
                return line;
            }
        }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("signalling the daemon");
    }

    /// Ends the daemon by SIGTERM; it has to end well.
    pub fn stop(mut self) -> Vec<String> {
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log.join("\n"));
        std::mem::take(&mut self.log)
    }

    /// Ends the daemon by SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killing the daemon");
        self.wait();
    }

    /// Waits for the daemon's end; what it logged until then is in `log`.
    pub fn wait(&mut self) -> ExitStatus {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.log.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}, it did not end:\n{}", self.log.join("\n")),
            }
        }
        self.child.wait().expect("waiting for the daemon")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells threads that a test is over, also when it panics.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a program to its end, and returns what it printed. One that hangs is ended, and fails the
/// test.
pub fn output(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting a program");
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let in_time = ended.recv_timeout(PATIENCE);
    in_time.map_or_else(
        |_| {
            // Nobody has waited for it yet: the number is still this program's.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let output = ended.recv_timeout(PATIENCE);
            panic!("{command:?} did not end: {output:?}")
        },
        |output| output.expect("waiting for a program"),
    )
}

/// Waits until `is_so` holds: for what no line of a log tells of.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until these names are all that is in a directory, or for longer than anything takes.
pub fn wait_for_names(directory: &Path, expected: &[&str]) {
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).expect("watching a directory");
    notify::Watcher::watch(&mut watcher, directory, notify::RecursiveMode::NonRecursive)
        .expect("watching a directory");
    let begin = Instant::now();
    // To list it is an event of its own.
    while names(directory) != expected && begin.elapsed() < PATIENCE {
        let _ = events.recv_timeout(PATIENCE);
    }
}

/// The name of a drop from its name in `processing/`, which may begin with a dot.
fn without_claim(place: &str) -> String {
    let place = place.strip_prefix('.').unwrap_or(place);
    let (claim, name) = place.split_once('.').expect("a claim in front");
    assert!(claim.contains('-'), "{place}");
    name.to_string()
}

/// Gives a folder and all that is in it to a user, and to the group of the same number.
pub fn own(folder: &Path, uid: u32) {
    for path in walk(folder).iter().map(PathBuf::as_path).chain([folder]) {
        lchown(path, Some(uid), Some(uid)).expect("giving a file to a user");
    }
}

/// The smallest manifest for a target.
pub fn manifest(target: &str) -> String {
    let mut names = target.split('/');
    let mut name = || names.next().expect("arch/subarch/release/purpose");
    format!(
        "format = 1\narch = {:?}\nsubarch = {:?}\nrelease = {:?}\npurpose = {:?}\n",
        name(),
        name(),
        name(),
        name()
    )
}

/// What a program printed, for messages.
pub fn text(output: &Output) -> String {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_string();
    format!(
        "{}\n{}{}",
        output.status,
        of(&output.stdout),
        of(&output.stderr)
    )
}

/// The names in a directory, sorted; none when it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().to_string())
        .collect();
    names.sort();
    names
}

/// `bindfs` of a user's, whose mount is open to nobody else, not even to root.
pub fn bindfs_of(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    // Instead of what fusermount3 may do, where a machine has it set up.
    let capabilities = "+sys_admin,+dac_override";
    for option in ["--inh-caps", "--ambient-caps"] {
        command.arg(format!("{option}={capabilities}"));
    }
    let user = [format!("--reuid={uid}"), format!("--regid={uid}")];
    command.args(user).arg("--clear-groups");
    command.args(["bindfs", "--no-allow-other"]);
    command
}

/// The last outcome in a spool of a drop of this name, whoever's that is.
pub fn last_outcome(spool: &Path, drop: &str) -> Option<PathBuf> {
    let folder = spool.join("outcomes");
    let named = names(&folder).into_iter().filter_map(|uid| {
        let path = folder.join(uid).join(format!("{drop}.json"));
        let stat = fs::symlink_metadata(&path).ok()?;
        Some(((stat.ctime(), stat.ctime_nsec()), path))
    });
    named.max().map(|(_, path)| path)
}

/// Every outcome in a spool, of all importers.
pub fn outcomes(spool: &Path) -> Vec<PathBuf> {
    let folder = spool.join("outcomes");
    let of = |uid: String| {
        let folder = folder.join(uid);
        let own = names(&folder).into_iter();
        own.map(move |name| folder.join(name))
    };
    names(&folder).into_iter().flat_map(of).collect()
}

/// Every path beneath a directory, sorted; follows no link.
pub fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for name in names(directory) {
        let path = directory.join(name);
        if path.is_dir() && !path.is_symlink() {
            paths.extend(walk(&path));
        }
        paths.push(path);
    }
    paths.sort();
    paths
}

/// Everything that `stat(2)` can see change, and every file's bytes.
pub fn snapshot(directory: &Path) -> BTreeMap<PathBuf, String> {
    let look = |path: PathBuf| {
        let stat = fs::symlink_metadata(&path).unwrap();
        let mut seen = format!(
            "{:o} {}:{} inode {} links {} size {} mtime {}.{} ctime {}.{}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.ino(),
            stat.nlink(),
            stat.size(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec()
        );
        if stat.is_symlink() {
            let _ = write!(seen, " -> {:?}", fs::read_link(&path).unwrap());
        } else if stat.is_file() {
            let bytes = fs::read(&path).unwrap();
            let _ = write!(seen, " {}", netboot_publisher::Digest::of(&bytes));
        }
        (path, seen)
    };
    walk(directory)
        .into_iter()
        .chain([directory.to_path_buf()])
        .map(look)
        .collect()
}

/// Asserts that two directories hold the same names, kinds, bytes and links.
pub fn assert_same_content(ours: &Path, theirs: &Path) {
    let output = Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .arg(ours.join("."))
        .arg(theirs.join("."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{ours:?} and {theirs:?} differ: {}",
        text(&output)
    );
}

/// Asserts that a generation is exactly what its record says.
fn assert_recorded(generation: &Path, world: &World) {
    let record = generation.with_file_name(format!(
        "{}.toml",
        generation.file_name().unwrap().to_string_lossy()
    ));
    let Ok(text) = fs::read_to_string(&record) else {
        panic!("{generation:?}: no record\n{world}")
    };
    let record = netboot_publisher::Record::parse(&text).unwrap();
    let found = listing(generation);
    assert_eq!(
        found, record.listing,
        "{generation:?}: not as recorded\n{world}"
    );
    let bytes: u64 = found.files.values().map(|mark| mark.size).sum();
    let head = &record.head;
    assert_eq!(
        (head.file_count, head.bytes),
        (found.files.len(), bytes),
        "{generation:?}\n{world}"
    );
    assert!(
        generation.ends_with(head.generation.to_string()),
        "{head:?}\n{world}"
    );
}

/// The path of a file in its image.
pub fn name_in(image: &Path, path: &Path) -> String {
    path.strip_prefix(image)
        .unwrap()
        .to_str()
        .unwrap()
        .to_string()
}

/// What is in an image, read from the disk.
pub fn listing(image: &Path) -> netboot_publisher::Listing {
    let mut listing = netboot_publisher::Listing::default();
    for path in walk(image) {
        let name = name_in(image, &path);
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_symlink() {
            let to = fs::read_link(&path).unwrap().to_str().unwrap().to_string();
            listing.links.insert(name, to);
        } else if kind.is_dir() {
            listing.folders.insert(name);
        } else {
            let bytes = fs::read(&path).unwrap();
            let mark = netboot_publisher::FileMark {
                sha256: netboot_publisher::Digest::of(&bytes),
                size: bytes.len() as u64,
            };
            listing.files.insert(name, mark);
        }
    }
    listing
}
