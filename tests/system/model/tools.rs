//! What stories are played with: images, importers with real tools, and a machine that boots all
//! the time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netboot_publisher::Digest;

use crate::lab::world::{Ended, manifest, walk};
use crate::model::page::Image;
use crate::model::story::{IMAGES, TARGETS};

/// The files of every image.
pub const FILES: [&str; 3] = ["linux", "initrd.gz", "boot/menu"];

/// Bytes of the first piece of a file that is written in two.
pub const PIECE: usize = 9_000;

/// Images 0 and 1 share a file, and so do 2 and 3.
pub fn contents(image: Image, file: &str) -> Vec<u8> {
    let version = if file == "initrd.gz" {
        image / 2
    } else {
        image
    };
    format!("{file} of version {version}\n")
        .repeat(1_000)
        .into_bytes()
}

pub fn target(number: usize) -> String {
    format!("amd64/generic/noble/t{number}")
}

/// The manifest of a drop that brings this image.
pub fn manifest_of(number: usize, image: Image, is_listed: bool) -> String {
    let mut text = manifest(&target(number));
    if is_listed {
        text += "[files]\n";
        for file in FILES {
            let bytes = contents(image, file);
            let (sha256, size) = (Digest::of(&bytes), bytes.len());
            text += &format!("{file:?} = {{ sha256 = \"{sha256}\", size = {size} }}\n");
        }
    }
    text
}

/// Puts the images where importers can read them: `0/linux`, …
pub fn put_images(folder: &Path) {
    for image in 0..IMAGES {
        for file in FILES {
            let path = folder.join(image.to_string()).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents(image, file)).unwrap();
        }
    }
}

/// A user's shell in `incoming/`: what is typed there is done by the tools that importers have.
pub struct Importer {
    shell: Child,
    answers: BufReader<ChildStdout>,
}

impl Importer {
    /// As a user of this number where the tests run as root.
    pub fn new(incoming: &Path, uid: u32) -> Self {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            let uid = uid.to_string();
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let mut shell = command
            .current_dir(incoming)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting a shell");
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, answers }
    }

    /// Whether these commands go well; they are at their end then.
    pub fn does(&mut self, commands: &str) -> bool {
        let input = self.shell.stdin.as_mut().unwrap();
        // A failed `exec` would end the shell that it fails in.
        writeln!(input, "{commands}\necho $?").expect("a shell");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        assert!(!answer.is_empty(), "the shell has ended at {commands:?}");
        answer.trim() == "0"
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// What a target shows: every file's bytes; nothing where nothing is published.
pub type Shown = Option<BTreeMap<PathBuf, Vec<u8>>>;

/// Reads what a target shows by its pinned path, as a machine does that boots. An error where a swap
/// came between, more often than one would think.
pub fn read(tree: &Path, number: usize) -> Result<Shown, String> {
    let pointer = tree.join(target(number));
    let mut last = String::new();
    for _ in 0..5 {
        let Ok(to) = fs::read_link(&pointer) else {
            if pointer.symlink_metadata().is_ok() {
                continue;
            }
            return Ok(None);
        };
        let generation = pointer.with_file_name(&to);
        match files(&generation) {
            Ok(files) if !files.is_empty() => return Ok(Some(files)),
            read => last = format!("{to:?}: {read:?}"),
        }
        if fs::read_link(&pointer).is_ok_and(|again| again == to) && !generation.is_dir() {
            return Err(format!("{pointer:?} leads to {to:?}, which isn't there"));
        }
    }
    Err(last)
}

fn files(generation: &Path) -> std::io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    fs::read_dir(generation)?;
    for file in FILES {
        files.insert(file.into(), fs::read(generation.join(file))?);
    }
    Ok(files)
}

/// The number of the image that is shown; an error for half an image, or a mixture.
pub fn recognize(shown: &Shown) -> Result<Option<Image>, String> {
    let Some(files) = shown else { return Ok(None) };
    let is_it = |image: &Image| {
        let is_file = |file: &&str| files.get(Path::new(file)) == Some(&contents(*image, file));
        files.len() == FILES.len() && FILES.iter().all(is_file)
    };
    let sizes: Vec<_> = files.iter().map(|(path, it)| (path, it.len())).collect();
    let found = (0..IMAGES).find(is_it);
    found
        .map(Some)
        .ok_or_else(|| format!("no whole image: {sizes:?}"))
}

/// Looks at all targets all the time.
pub struct Reader {
    is_over: Arc<AtomicBool>,
    complaint: Arc<Mutex<Option<String>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// For each target: an importer wants it to go.
    pub may_go: Arc<[AtomicBool; TARGETS]>,
}

impl Reader {
    pub fn new(tree: &Path) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let complaint = Arc::new(Mutex::new(None));
        let may_go = Arc::new([const { AtomicBool::new(false) }; TARGETS]);
        let thread = {
            let (is_over, complaint) = (Arc::clone(&is_over), Arc::clone(&complaint));
            let (tree, may_go) = (tree.to_path_buf(), Arc::clone(&may_go));
            std::thread::spawn(move || {
                let mut was_shown = [false; TARGETS];
                while !is_over.load(Ordering::Relaxed) {
                    for number in 0..TARGETS {
                        let shown = read(&tree, number).and_then(|shown| recognize(&shown));
                        let wrong = match shown {
                            Ok(Some(_)) => {
                                was_shown[number] = true;
                                None
                            }
                            Ok(None) if !was_shown[number] => None,
                            Ok(None) if may_go[number].load(Ordering::Relaxed) => None,
                            Ok(None) => Some("missing".to_string()),
                            Err(wrong) => Some(wrong),
                        };
                        if let Some(wrong) = wrong {
                            let text = format!("a machine finds {}: {wrong}", target(number));
                            complaint.lock().unwrap().get_or_insert(text);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        Self {
            is_over,
            complaint,
            thread: Some(thread),
            may_go,
        }
    }

    pub fn complaint(&self) -> Result<(), String> {
        self.complaint.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program that logs into a file.
pub struct Logged {
    pub process: Ended,
    log: PathBuf,
    begins: u64,
}

impl Logged {
    pub fn new(command: &mut Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.unwrap();
        let begins = file.metadata().unwrap().len();
        let process = command.stderr(file).stdout(Stdio::null()).spawn();
        Self {
            process: Ended(process.expect("starting the program")),
            log: log.to_path_buf(),
            begins,
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let begins = usize::try_from(self.begins).unwrap();
        String::from_utf8_lossy(&bytes[begins..]).to_string()
    }

    /// Whether it was stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.0.id()));
        let stat = stat.unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Lets everybody through a folder.
pub fn open_to_all(folder: &Path, mode: u32) {
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// All paths beneath a folder, relative to that.
pub fn paths(folder: &Path) -> Vec<String> {
    let relative = |path: PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
    walk(folder).into_iter().map(relative).collect()
}
