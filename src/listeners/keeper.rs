//! The keeper of a hook: a process of this program around each run of a hook's program, which gives
//! the program no capability, and ends all that it has started.
//!
//! The daemon itself can't do either: what it gives up is gone for good, and whoever leaves a parent
//! behind has to become somebody's child who does nothing else.
//!
//! The daemon writes the program's input to the keeper's standard input, after its length, and keeps
//! that open: its end, which also comes when the daemon is killed, means that the program's time is
//! over. The keeper's standard output tells what the program writes and how it has ended, a [`Told`]
//! a line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::sys::{Descendants, FileExt as _};

/// The first argument of a process that is a keeper; then comes the hook's command. No verb of the
/// command line: nobody but the daemon starts one.
pub(super) const KEEPER: &str = "_keep-hook";

/// What the program has left running when it ends has so long to end as well.
const LINGER: Duration = Duration::from_secs(1);

/// How long whoever is asked to end, by SIGTERM, has for it.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// So often those are looked for that are still there after they were ended.
const AGAIN: Duration = Duration::from_millis(20);

/// How long output is read when nobody is left: another process, which does not descend from the
/// program, may hold it open for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// A longer line of output is told in pieces, in bytes.
const MAX_LINE: u64 = 2_000;

/// Of each of the two streams so many lines are told; further lines are counted.
const MAX_LINES: usize = 1_000;

/// What a keeper tells the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Told {
    /// A line that the program has written.
    Says(String),
    /// So many lines were too many.
    SaysMore(usize),
    /// Why the program was not started.
    NotStarted(String),
    /// The program's status, as wait(2) tells it; and how many processes it has left running, which
    /// were ended.
    Ended { status: i32, left: usize },
}

/// The program, and whatever it has started.
struct Kept {
    program: Child,
    descendants: Descendants,
    events: Receiver<Event>,
}

enum Event {
    Told(Told),
    /// One of the two streams has ended.
    Silent,
    /// A child has ended, with this status.
    Ended(u32, i32),
    /// No descendant is left.
    Alone,
    /// The program's time is over.
    TimeIsOver,
}

/// What is done about whoever is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Runs,
    Lingers,
    Asked,
    Ended,
}

/// Is a keeper, if this process was started as one: runs the hook's command to its end.
pub(crate) fn keep_hook(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    arguments.next().filter(|first| first == KEEPER)?;
    let ended = match Kept::start(arguments) {
        Ok(kept) => kept.end(),
        Err(why) => Told::NotStarted(why),
    };
    tell(&ended);
    Some(ExitCode::SUCCESS)
}

/// Tells the daemon, which may have gone.
fn tell(told: &Told) {
    if let Ok(line) = serde_json::to_string(told) {
        let _ = io::stdout().write_all((line + "\n").as_bytes());
    }
}

impl Kept {
    fn start(mut command: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let gives_up = Descendants::give_up_capabilities();
        gives_up.map_err(|errno| format!("giving up capabilities: {errno}"))?;
        let descendants = Descendants::gather().map_err(|failure| failure.to_string())?;
        let input = read_input().map_err(|error| format!("reading its input: {error}"))?;
        let name = command.next().unwrap_or_default();
        let mut program = Command::new(name)
            .args(command)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it does to its own process group is not done to the keeper.
            .process_group(0)
            .spawn()
            .map_err(|error| error.to_string())?;
        // Bounded: who writes more than the daemon takes has to wait.
        let (tell, events) = sync_channel(16);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            program.stdout.take().map(|it| Box::new(it) as _),
            program.stderr.take().map(|it| Box::new(it) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let tell = tell.clone();
            thread::spawn(move || follow(stream, &tell));
        }
        let of_children = tell.clone();
        thread::spawn(move || {
            while let Some((process, status)) = Descendants::wait() {
                let _ = of_children.send(Event::Ended(process, status));
            }
            let _ = of_children.send(Event::Alone);
        });
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = tell.send(Event::TimeIsOver);
        });
        Ok(Self {
            program,
            descendants,
            events,
        })
    }

    /// Comes back when nobody is left.
    fn end(self) -> Told {
        let (mut stage, mut until) = (Stage::Runs, None::<Instant>);
        let (mut status, mut left, mut silent) = (0, 0, 0);
        loop {
            let event = match until {
                None => self
                    .events
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => self.events.recv_timeout(until - Instant::now().min(until)),
            };
            let is_asked = match event {
                Ok(Event::Told(told)) => {
                    tell(&told);
                    continue;
                }
                Ok(Event::Silent) => {
                    silent += 1;
                    continue;
                }
                Ok(Event::Ended(process, ended)) if process == self.program.id() => {
                    status = ended;
                    if stage == Stage::Runs {
                        (stage, until) = (Stage::Lingers, Some(Instant::now() + LINGER));
                    }
                    continue;
                }
                Ok(Event::Ended(..)) => continue,
                Ok(Event::Alone) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Event::TimeIsOver) => stage < Stage::Asked,
                Err(RecvTimeoutError::Timeout) => stage == Stage::Lingers,
            };
            if is_asked {
                left = self.descendants.signal(Signal::TERM);
                (stage, until) = (Stage::Asked, Some(Instant::now() + GRACE));
            } else if until.is_some_and(|until| until <= Instant::now()) {
                self.descendants.end();
                (stage, until) = (Stage::Ended, Some(Instant::now() + AGAIN));
            }
        }
        self.drain(silent);
        Told::Ended { status, left }
    }

    /// Tells what was written before the end.
    fn drain(&self, mut silent: usize) {
        let until = Instant::now() + DRAIN;
        while silent < 2 {
            match self.events.recv_timeout(until - Instant::now().min(until)) {
                Ok(Event::Told(told)) => tell(&told),
                Ok(Event::Silent) => silent += 1,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// The program's input, as a file that the daemon can't be kept waiting by.
fn read_input() -> io::Result<File> {
    let (mut stdin, mut length) = (io::stdin().lock(), [0; 8]);
    stdin.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut input = File::frozen(|file| io::copy(&mut stdin.take(length), file).map(drop))?;
    input.rewind()?;
    Ok(input)
}

/// Tells of a stream line by line, until it ends.
fn follow(stream: impl Read, tell: &SyncSender<Event>) {
    let (mut stream, mut line, mut count) = (BufReader::new(stream), Vec::new(), 0);
    while let Ok(1..) = (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line) {
        count += 1;
        if count <= MAX_LINES {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']).to_string();
            let _ = tell.send(Event::Told(Told::Says(text)));
        }
        line.clear();
    }
    if count > MAX_LINES {
        let _ = tell.send(Event::Told(Told::SaysMore(count - MAX_LINES)));
    }
    let _ = tell.send(Event::Silent);
}
