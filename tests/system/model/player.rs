//! Plays a story with the real program, and compares what comes of it with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::filesystems::FileSystem;
use crate::lab::clock::OwnClock;
use crate::lab::world::{PATIENCE, World, listing};
use crate::model::page::{Brought, Fate, INCOMPLETE, Image, NO_ROOM, Target, Tick, Wants};
use crate::model::story::{
    Bring, IMAGES, IMPORTERS, Setup, Step, Stops, Story, TARGETS, Trap, Way, Writing,
};
use crate::model::tools::{
    FILES, Importer, Logged, PIECE, Reader, manifest_of, open_to_all, put_images, target,
};
use crate::proofs::digest;

const SETTLE: Duration = Duration::from_millis(400);

/// A tool that pauses for longer between two changes may be taken at its word.
const LONGEST_GAP: Duration = Duration::from_millis(250);

/// Why a story has come to nothing.
#[derive(Debug)]
pub enum End {
    /// The program, or the model, is wrong.
    Wrong(String),
    /// The machine was too slow for what the story was to try.
    TooSlow,
}

pub type Played<T = ()> = Result<T, End>;

pub fn wrong<T>(text: impl Into<String>) -> Played<T> {
    Err(End::Wrong(text.into()))
}

pub struct Running {
    logged: Logged,
    trap: Option<Trap>,
}

/// A writer that has stopped.
pub struct Stopped {
    drop: usize,
    importer: usize,
    /// What makes the drop whole.
    rest: String,
}

pub struct Player {
    pub setup: Setup,
    /// First of all, because its shells stand in the spool.
    pub importers: Vec<Importer>,
    pub reader: Reader,
    pub daemon: Option<Running>,
    pub world: World,
    /// The wall clock of a daemon that has its own.
    clock: OwnClock,
    pub drops: Vec<Brought>,
    pub stopped: Vec<Stopped>,
    /// What each target may be, of what was seen at the last rest.
    pub targets: [BTreeSet<Target>; TARGETS],
    /// Drops that were compared with the model.
    pub judged: BTreeSet<usize>,
    /// Claims whose outcome was seen.
    pub claims: BTreeSet<String>,
    pub now: Tick,
    pub is_full: bool,
    /// What drops were renamed to whose importers have taken them away.
    pub hidden: Vec<String>,
    /// What happened to the daemon.
    pub happened: Counts,
    _file_systems: Vec<FileSystem>,
    _dir: tempfile::TempDir,
}

/// How often what has happened.
pub type Counts = BTreeMap<String, usize>;

/// Plays a story to its end.
pub fn play(story: &Story) -> Played<Counts> {
    let mut player = Player::new(&story.setup);
    if story.setup.is_up {
        player
            .start(None)
            .map_err(|end| player.explained(end, "the beginning"))?;
    }
    for (at, step) in story.steps.iter().enumerate() {
        let played = player.step(step);
        played.map_err(|end| player.explained(end, &format!("step {at}, {step:?}")))?;
    }
    let rested = player.rest().and_then(|()| player.start_again());
    rested.map_err(|end| player.explained(end, "the end"))?;
    Ok(player.counts())
}

impl Player {
    fn new(setup: &Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path(), 0o755);
        let root = dir.path().to_path_buf();
        put_images(&root.join("images"));
        fs::create_dir(root.join("manifests")).unwrap();
        let mut file_systems = Vec::new();
        let mut place = |name: &str| {
            if !rustix::process::geteuid().is_root() {
                return root.join(name);
            }
            let made = FileSystem::tmpfs("24m");
            open_to_all(made.root.parent().unwrap(), 0o755);
            let place = made.root.join(name);
            file_systems.push(made);
            place
        };
        let (spool, tree) = (place("spool"), place("tree"));
        // Where an event is lost nothing else would tell of a drop.
        let watch = if setup.polls {
            "#spool watch = \"poll\"\n#spool rescan_interval = \"1s\"\n"
        } else {
            "#spool rescan_interval = \"1h\"\n"
        };
        let patience = if setup.is_impatient { "3s" } else { "1h" };
        let settings = format!(
            "#spool incomplete_timeout = {patience:?}\n#spool settle = \"{}ms\"\n{watch}[limits]\nmin_free_space = \"0B\"\n\
             [retention]\nmin_age = \"{}\"\nkeep = {}\n",
            SETTLE.as_millis(),
            if setup.keep.is_some() { "0s" } else { "1h" },
            setup.keep.unwrap_or_default(),
        );
        let target = Target {
            forgets: setup.keep.is_some(),
            ..Target::default()
        };
        let world = World::at(&root, &spool, &tree, &settings);
        fs::create_dir_all(&tree).unwrap();
        let incoming = spool.join("incoming");
        open_to_all(&incoming, 0o1777);
        let importer = |number| Importer::new(&incoming, uid_of(number));
        Self {
            setup: setup.clone(),
            importers: (0..IMPORTERS).map(importer).collect(),
            reader: Reader::new(&tree),
            daemon: None,
            clock: OwnClock::new(&root),
            world,
            drops: Vec::new(),
            stopped: Vec::new(),
            targets: std::array::from_fn(|_| [target].into()),
            judged: BTreeSet::new(),
            claims: BTreeSet::new(),
            now: 0,
            is_full: false,
            hidden: Vec::new(),
            happened: Counts::new(),
            _file_systems: file_systems,
            _dir: dir,
        }
    }

    fn step(&mut self, step: &Step) -> Played {
        self.look_at_daemon()?;
        self.observe();
        self.reader.complaint().or_else(wrong)?;
        self.now += 1;
        match step {
            Step::Bring(bring) => self.bring(bring),
            Step::Order {
                importer,
                target,
                is_rollback,
            } => self.order(*importer, *target, *is_rollback),
            Step::Promote { importer, from } => self.promote(*importer, *from),
            Step::Carry {
                importer,
                target,
                image,
            } => self.carry(*importer, *target, *image),
            Step::MoveInto { importer } => self.move_into(*importer),
            Step::TakeAway { importer } => self.take_away(*importer),
            Step::Rename { importer } => self.rename_last(*importer),
            Step::GoOn { importer } => self.go_on(*importer),
            Step::Start(trap) => {
                self.stop()?;
                self.start(trap.clone())
            }
            Step::Once(trap) => self.once(trap.clone()),
            Step::Stop => self.stop(),
            Step::Kill(after) => {
                // Somewhere in the middle of whatever the daemon does.
                std::thread::sleep(Duration::from_millis(*after));
                self.kill()
            }
            Step::SetClock(offset) => {
                self.clock.set(&format!("{offset:+}"));
                Ok(())
            }
            Step::Fill { is_tree } => self.fill(*is_tree),
            Step::Drain => self.drain(),
            Step::LoseEvents(bring) => self.lose_events(bring),
            Step::Rest => self.rest(),
        }
    }
}

/// What importers do.
impl Player {
    fn bring(&mut self, bring: &Bring) -> Played {
        if self.is_full {
            return Ok(());
        }
        let last = self.drops.last().filter(|_| bring.takes_last_name);
        let fresh = format!("d{}", self.now);
        let name = last.map_or(fresh, |last| last.name.clone());
        let mut text = manifest_of(bring.target, bring.image, bring.is_listed);
        let mut wants = Wants::Publish(bring.image);
        match bring.way {
            Way::BrokenManifest => text = text.replace("arch", "arhc"),
            Way::WrongChecksum => {
                let other = (bring.image + 1) % IMAGES;
                text = manifest_of(bring.target, other, true);
            }
            Way::Renamed | Way::InPlace(_) => {}
        }
        if matches!(bring.way, Way::BrokenManifest | Way::WrongChecksum) {
            wants = Wants::Refused;
        }
        let manifest = self.world.root.join(format!("manifests/{}", self.now));
        fs::write(&manifest, text).unwrap();
        if let Way::InPlace(writing) = &bring.way {
            return self.write_in_place(bring, &name, writing, &manifest);
        }
        let images = self.world.root.join("images").join(bring.image.to_string());
        let commands = format!(
            "mkdir -p .new/image && cp -r {images:?}/. .new/image && cp {manifest:?} .new/manifest.toml"
        );
        self.rename(bring.importer, bring.target, &name, &commands, wants)
    }

    /// Whatever `commands` have made of `.new` gets its name.
    fn rename(
        &mut self,
        importer: usize,
        target: usize,
        name: &str,
        commands: &str,
        wants: Wants,
    ) -> Played {
        let tools = &mut self.importers[importer];
        let is_made = tools.does(commands);
        let is_renamed = is_made && tools.does(&format!("mv -T .new {name}"));
        let is_taken = self.drops.iter().any(|drop| drop.name == name);
        if is_renamed {
            self.brought(name, importer, target, wants);
            return Ok(());
        }
        self.importers[importer].does("rm -rf .new");
        if is_made && is_taken {
            return Ok(());
        }
        wrong(format!("{name} can't be brought"))
    }

    fn brought(&mut self, name: &str, importer: usize, target: usize, wants: Wants) {
        self.drops.push(Brought {
            name: name.to_string(),
            importer,
            target,
            wants,
            changed: self.now,
            is_renamed: true,
            is_told: !self.setup.polls,
            is_half: false,
            excuses: Vec::new(),
            fate: Fate::Waits,
            ended: None,
            line: None,
        });
    }

    fn order(&mut self, importer: usize, target_number: usize, is_rollback: bool) -> Played {
        if self.is_full {
            return Ok(());
        }
        let (action, wants) = if is_rollback {
            ("rollback", Wants::RollBack)
        } else {
            self.reader.may_go[target_number].store(true, Ordering::Relaxed);
            ("withdraw", Wants::Withdraw)
        };
        let text = crate::lab::world::manifest(&target(target_number));
        let manifest = self.world.root.join(format!("manifests/{}", self.now));
        fs::write(&manifest, format!("{text}action = {action:?}\n")).unwrap();
        let commands = format!("mkdir .new && cp {manifest:?} .new/manifest.toml");
        let name = format!("d{}", self.now);
        self.rename(importer, target_number, &name, &commands, wants)
    }

    fn promote(&mut self, importer: usize, from: usize) -> Played {
        let is_from = |drop: &&Brought| drop.target == from;
        let mut brought = self.drops.iter().rev().filter(is_from);
        // What is current there, if nothing has come between.
        let image = brought.find_map(|drop| match drop.wants {
            Wants::Publish(image) => Some(image),
            _ => None,
        });
        let Some(image) = image.filter(|_| !self.is_full) else {
            return Ok(());
        };
        let number = (from + 1) % TARGETS;
        let folder = self.world.root.join("images").join(image.to_string());
        let (from, digest) = (target(from), digest(&listing(&folder)));
        let text = crate::lab::world::manifest(&target(number));
        let manifest = self.world.root.join(format!("manifests/{}", self.now));
        let order = format!("action = \"promote\"\nfrom = {from:?}\ndigest = \"{digest}\"\n");
        fs::write(&manifest, text + &order).unwrap();
        let commands = format!("mkdir .new && cp {manifest:?} .new/manifest.toml");
        let name = format!("d{}", self.now);
        self.rename(importer, number, &name, &commands, Wants::Promote(image))
    }

    fn carry(&mut self, importer: usize, number: usize, image: Image) -> Played {
        if self.is_full {
            return Ok(());
        }
        let images = self.world.root.join("images").join(image.to_string());
        let digest = digest(&listing(&images));
        let text = crate::lab::world::manifest(&target(number));
        let order = format!("{text}action = \"rollback\"\ndigest = \"{digest}\"\n");
        let [manifest, of_image] = ["", ".image"].map(|ending| {
            let name = format!("manifests/{}{ending}", self.now);
            self.world.root.join(name)
        });
        fs::write(&manifest, order).unwrap();
        fs::write(&of_image, manifest_of(number, image, true)).unwrap();
        let commands = format!(
            "mkdir -p .new/image && cp -r {images:?}/. .new/image && cp {manifest:?} .new/manifest.toml && \
             cp {of_image:?} .new/image.toml"
        );
        let name = format!("d{}", self.now);
        self.rename(importer, number, &name, &commands, Wants::Carried(image))
    }

    fn write_in_place(
        &mut self,
        bring: &Bring,
        name: &str,
        writing: &Writing,
        manifest: &Path,
    ) -> Played {
        let importer = bring.importer;
        if !self.importers[importer].does(&format!("mkdir {name}")) {
            let is_taken = self.drops.iter().any(|drop| drop.name == name);
            return is_taken
                .then_some(())
                .map_or_else(|| wrong(format!("{name} can't be made")), Ok);
        }
        let images = self.world.root.join("images").join(bring.image.to_string());
        let has_stopped = self.stopped.iter().any(|it| it.importer == importer);
        let stops = match writing.stops {
            // A writer has one file open at a time.
            _ if has_stopped => Stops::Never,
            // Nobody can tell such a drop from a whole one.
            Stops::BeforeLastFile if !bring.is_listed && writing.order.last() != Some(&0) => {
                Stops::WithOpenFile
            }
            stops => stops,
        };
        let mut steps = vec![format!("mkdir -p {name}/image/boot")];
        let mut rest = String::new();
        for (at, item) in writing.order.iter().enumerate() {
            let (from, to, piece) = match item.checked_sub(1) {
                None => (manifest.to_path_buf(), format!("{name}/manifest.toml"), 40),
                Some(file) => {
                    let file = FILES[file];
                    (images.join(file), format!("{name}/image/{file}"), PIECE)
                }
            };
            let (head, tail) = (
                format!("head -c {piece} {from:?}"),
                format!("tail -c +{} {from:?}", piece + 1),
            );
            let is_last = at + 1 == writing.order.len();
            match stops {
                Stops::BeforeLastFile if is_last => rest = format!("cp {from:?} {to}"),
                Stops::WithOpenFile | Stops::ForLong if is_last => {
                    steps.push(format!("command exec 4> {to} && {head} >&4"));
                    rest = format!("{tail} >&4 && exec 4>&-");
                }
                _ if writing.in_pieces => {
                    steps.push(format!("{head} > {to}"));
                    steps.push(format!("{tail} >> {to}"));
                }
                _ => steps.push(format!("cp {from:?} {to}")),
            }
        }
        let old = "touch -d 2020-02-02";
        let restore = format!(
            "find {name} -type f -exec {old} {{}} + && {old} {name}/image/boot {name}/image {name}"
        );
        if stops == Stops::Never && writing.restores_times {
            steps.push(restore.clone());
        } else if !rest.is_empty() && writing.restores_times {
            rest = format!("{rest} && {restore}");
        }
        self.brought(name, importer, bring.target, Wants::Publish(bring.image));
        let drop = self.drops.len() - 1;
        (self.drops[drop].is_renamed, self.drops[drop].is_half) = (false, !rest.is_empty());
        self.drops[drop].is_told &= !writing.restores_times;
        let mut last = Instant::now();
        for step in &steps {
            let is_done = self.importers[importer].does(step);
            if last.elapsed() > LONGEST_GAP {
                return Err(End::TooSlow);
            }
            last = Instant::now();
            if !is_done {
                return wrong(format!("{name} is taken while it is written: {step}"));
            }
        }
        if !rest.is_empty() {
            let is_away = self.setup.is_impatient && stops != Stops::ForLong;
            self.drops[drop]
                .excuses
                .extend(is_away.then_some(INCOMPLETE));
            self.stopped.push(Stopped {
                drop,
                importer,
                rest,
            });
        }
        if stops == Stops::ForLong {
            std::thread::sleep(2 * SETTLE);
            return self.go_on(importer);
        }
        Ok(())
    }

    fn go_on(&mut self, importer: usize) -> Played {
        let is_whose = |it: &Stopped| it.importer == importer;
        let Some(at) = self
            .stopped
            .iter()
            .position(is_whose)
            .filter(|_| !self.is_full)
        else {
            return Ok(());
        };
        let Stopped { drop, rest, .. } = self.stopped.remove(at);
        if self.drops[drop].fate != Fate::Waits {
            self.importers[importer].does("exec 4>&-");
            return Ok(());
        }
        let began = Instant::now();
        let is_done = self.importers[importer].does(&rest);
        if began.elapsed() > LONGEST_GAP {
            return Err(End::TooSlow);
        }
        let drop = &mut self.drops[drop];
        let may_be_late = drop.excuses.contains(&INCOMPLETE);
        (drop.is_half, drop.changed) = (false, self.now);
        if is_done || may_be_late {
            drop.wants = if is_done { drop.wants } else { Wants::Refused };
            Ok(())
        } else {
            wrong(format!("{} was taken before it was whole", drop.name))
        }
    }

    /// The last drop of an importer, if it isn't known to have ended.
    fn last_of(&mut self, importer: usize) -> Option<usize> {
        let last = self
            .drops
            .iter()
            .rposition(|drop| drop.importer == importer);
        last.filter(|at| self.drops[*at].fate == Fate::Waits)
    }

    fn move_into(&mut self, importer: usize) -> Played {
        let Some(at) = self.last_of(importer).filter(|at| !self.drops[*at].is_half) else {
            return Ok(());
        };
        let name = self.drops[at].name.clone();
        let tools = &mut self.importers[importer];
        tools.does("mkdir .moved");
        if tools.does(&format!("mv -T .moved {name}/.moved")) {
            let drop = &mut self.drops[at];
            (drop.wants, drop.changed) = (Wants::Refused, self.now);
        } else {
            tools.does("rmdir .moved");
        }
        Ok(())
    }

    fn rename_last(&mut self, importer: usize) -> Played {
        let last = self.last_of(importer).filter(|at| !self.drops[*at].is_half);
        if let Some(at) = last {
            let (name, to) = (self.drops[at].name.clone(), format!("d{}", self.now));
            if self.importers[importer].does(&format!("mv -T {name} {to}")) {
                let drop = &mut self.drops[at];
                (drop.name, drop.changed, drop.is_renamed) = (to, self.now, true);
            }
        }
        Ok(())
    }

    fn take_away(&mut self, importer: usize) -> Played {
        if let Some(at) = self.last_of(importer) {
            let (name, to) = (self.drops[at].name.clone(), format!(".taken{}", self.now));
            if self.importers[importer].does(&format!("mv -T {name} {to}")) {
                self.drops[at].fate = Fate::TakenAway;
                self.hidden.push(to);
            }
        }
        Ok(())
    }
}

/// What happens to the machine.
impl Player {
    fn fill(&mut self, is_tree: bool) -> Played {
        if !rustix::process::geteuid().is_root() || self.is_full {
            return Ok(());
        }
        let place = if is_tree {
            &self.world.tree
        } else {
            &self.world.spool
        };
        let filler = place.with_file_name("filler");
        let _ = fs::write(filler, vec![1; 64 << 20]);
        self.is_full = true;
        self.count("disk full");
        for drop in &mut self.drops {
            if drop.fate == Fate::Waits {
                drop.excuses.push(NO_ROOM);
            }
        }
        Ok(())
    }

    pub fn drain(&mut self) -> Played {
        for place in [&self.world.tree, &self.world.spool] {
            let _ = fs::remove_file(place.with_file_name("filler"));
        }
        self.is_full = false;
        Ok(())
    }

    fn lose_events(&mut self, bring: &Bring) -> Played {
        let max = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let max = max.ok().and_then(|text| text.trim().parse::<usize>().ok());
        let Some(max) = max.filter(|max| *max < 50_000 && !self.is_full) else {
            return Ok(());
        };
        let mut is_lost = false;
        if let Some(Running { logged, .. }) = &self.daemon {
            logged.signal(Signal::STOP);
            is_lost = !self.setup.polls;
            let flood = [1, 2].map(|it| self.world.incoming(&format!(".flood{it}")));
            for _ in 0..max / 4 + 1 {
                for path in &flood {
                    fs::write(path, "").unwrap();
                    fs::remove_file(path).unwrap();
                }
            }
        }
        let brought = self.bring(bring);
        if let Some(Running { logged, .. }) = &self.daemon {
            logged.signal(Signal::CONT);
        }
        if is_lost {
            self.count("events lost");
        }
        brought
    }

    pub fn command(&self, arguments: &[&str], trap: Option<&Trap>) -> Command {
        let mut command = self.world.command(arguments);
        if let Some(Trap { place, nth, action }) = trap {
            command.env(
                "NETBOOT_PUBLISHER_FAILPOINT",
                format!("{place}:{nth}:{action}"),
            );
        }
        if self.setup.has_own_clock {
            self.clock.give_to(&mut command);
        }
        command
    }

    pub fn start(&mut self, trap: Option<Trap>) -> Played {
        let mut command = self.command(&["run"], trap.as_ref());
        let logged = Logged::new(&mut command, &self.world.root.join("log"));
        self.daemon = Some(Running { logged, trap });
        let began = Instant::now();
        while let Some(running) = &self.daemon
            && !running.logged.log().contains(" ready ")
        {
            if running.logged.is_stopped() {
                break;
            }
            self.look_at_daemon()?;
            if began.elapsed() > PATIENCE {
                return wrong("the daemon isn't ready");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Notes that the daemon has ended, which only a trap makes it do by itself.
    pub fn look_at_daemon(&mut self) -> Played {
        let Some(running) = &mut self.daemon else {
            return Ok(());
        };
        let ended = running.logged.process.0.try_wait().unwrap();
        let Some(status) = ended else { return Ok(()) };
        let running = self.daemon.take().expect("it was there");
        self.ended(&running, status)
    }

    fn ended(&mut self, running: &Running, status: ExitStatus) -> Played {
        let action = running.trap.as_ref().map(|trap| trap.action);
        let is_expected = match action {
            Some("kill") => status.signal() == Some(Signal::KILL.as_raw()),
            Some("fail") => running.logged.log().contains("Input/output error"),
            _ => false,
        };
        self.world.assert_pointers_whole();
        if !is_expected && !status.success() {
            return wrong(format!("the daemon has ended: {status}"));
        }
        if let Some(Trap { place, action, .. }) = running.trap.as_ref().filter(|_| is_expected) {
            self.count(format!("{action} at {place}"));
        }
        Ok(())
    }

    /// Lets a daemon that a trap has stopped go on.
    pub fn wake_up(&mut self) {
        if let Some(Running { logged, trap }) = &self.daemon
            && logged.is_stopped()
        {
            logged.signal(Signal::CONT);
            let place = trap.as_ref().map(|trap| format!("stop at {}", trap.place));
            place.into_iter().for_each(|place| self.count(place));
        }
    }

    pub fn stop(&mut self) -> Played {
        if let Some(running) = &self.daemon {
            running.logged.signal(Signal::TERM);
        }
        self.wait_for_end()
    }

    fn kill(&mut self) -> Played {
        if let Some(mut running) = self.daemon.take() {
            let _ = running.logged.process.0.kill();
            let _ = running.logged.process.0.wait();
            self.count("kill");
            self.world.assert_pointers_whole();
        }
        Ok(())
    }

    fn wait_for_end(&mut self) -> Played {
        let began = Instant::now();
        while self.daemon.is_some() {
            self.wake_up();
            self.look_at_daemon()?;
            if began.elapsed() > PATIENCE {
                return wrong("the program doesn't end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn once(&mut self, trap: Option<Trap>) -> Played {
        self.stop()?;
        let mut command = self.command(&["run", "--once"], trap.as_ref());
        let logged = Logged::new(&mut command, &self.world.root.join("log"));
        let trap = trap.or_else(|| {
            // What has no room isn't finished, which the exit code says.
            let (place, action) = ("room".to_string(), "fail");
            self.is_full.then_some(Trap {
                place,
                nth: 0,
                action,
            })
        });
        let has_trap = trap.is_some();
        self.daemon = Some(Running { logged, trap });
        let ended = self.wait_for_end();
        if self.is_full {
            return Ok(());
        }
        ended?;
        self.observe();
        let waits = |drop: &&Brought| drop.fate == Fate::Waits && !drop.is_half;
        match self.drops.iter().find(waits).filter(|_| !has_trap) {
            Some(drop) if self.is_alone(drop) => wrong(format!("{} was not taken", drop.name)),
            _ => Ok(()),
        }
    }
}

/// The user that an importer is.
pub fn uid_of(importer: usize) -> u32 {
    let own = rustix::process::geteuid();
    if own.is_root() {
        3_001 + u32::try_from(importer).unwrap()
    } else {
        own.as_raw()
    }
}
