//! README's recipes, run as they are written there, but for the paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::boot_configs::TEMPLATE;
use crate::lab::keys::Keys;
use crate::lab::tftp::{ADDRESS, Client, Server};
use crate::lab::world::{
    Daemon, Ends, Needs, PROGRAM, World, assert_same_content, manifest, output, test, text, until,
    walk,
};

const TARGET: &str = "amd64/generic/bookworm/install";
const LOADER: &str = "amd64/generic/grub/loader";
const TRIED: &str = "amd64/generic/bookworm-candidate/install";

const RETENTION: &str = "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"1h\"\n";

pub fn tests() -> Vec<Trial> {
    let rsync = [Needs::Root, Needs::Program("rsync")];
    let backup = [
        &rsync[..],
        &[Needs::Program("getfacl"), Needs::Program("ssh-keygen")],
    ];
    let dnsmasq = ["unshare", "ip", "curl", "dnsmasq"].map(Needs::Program);
    vec![
        test(
            "what a machine has booted is told by dnsmasq's log and the history, as README says",
            &[&[Needs::Root], &dnsmasq[..]].concat(),
            what_was_booted,
        ),
        test(
            "a folder of before becomes a target and keeps its path, as README's recipe says",
            &[],
            existing_folder,
        ),
        test(
            "a backup is restored by README's recipes, with all that is kept and all that waits",
            &backup.concat(),
            backed_up_and_restored,
        ),
        test(
            "the tree is moved by README's recipe, and goes on where it is then",
            &rsync,
            moved,
        ),
        test(
            "a second server's machines find nothing that leads nowhere and no mixture",
            &[Needs::Program("rsync")],
            second_server,
        ),
        test(
            "a copy for a second server takes away what has gone, and follows an adoption",
            &[Needs::Program("rsync")],
            second_server_follows,
        ),
    ]
}

/// README's chapter of recipes.
fn recipes() -> &'static str {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n### Recipes\n").expect("a section");
    section.split("\n## ").next().unwrap()
}

/// The commands of the recipe that begins with these words.
pub fn recipe(about: &str) -> String {
    let (_, rest) = recipes().split_once(about).expect(about);
    let (_, block) = rest.split_once("\n```\n").expect("commands");
    block.split("```").next().unwrap().to_string()
}

/// A machine as README has it, in a folder of the test: its paths, and the service.
struct Machine {
    root: PathBuf,
    world: World,
    service: Option<Daemon>,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// With a boot configuration, and with the tree below the TFTP server's root.
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        for folder in ["etc/netboot-publisher", "srv/tftp", "bin", "backup"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let (etc, tftp) = (root.join("etc/netboot-publisher"), root.join("srv/tftp"));
        let template = etc.join("menu.j2");
        fs::write(&template, TEMPLATE).unwrap();
        let settings = format!(
            "{settings}{RETENTION}[tftp]\nroot = {tftp:?}\n[[boot_config]]\ntemplate = {template:?}\n\
             output = \"boot/menu\"\n[[alias]]\npath = \"efi-x64\"\ntarget = {LOADER:?}\n"
        );
        let spool = root.join("var/spool/netboot-publisher");
        let world = World::at(&etc, &spool, &tftp.join("netboot"), &settings);
        let program = root.join("bin/netboot-publisher");
        let called = format!(
            "#!/bin/sh\nexec {PROGRAM:?} \"$@\" --config {:?}\n",
            world.config
        );
        fs::write(&program, called).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let service = Some(world.daemon());
        Self {
            root,
            world,
            service,
            _dir: dir,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Runs commands that have to go well, and returns what they print.
    #[track_caller]
    fn ok(&self, commands: &str) -> String {
        let done = shell(&self.root, commands);
        assert!(
            done.status.success(),
            "{commands}\n{}\n{}",
            text(&done),
            self.world
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// The commands of a recipe, with the paths of this machine. `here` is what stands before each: with
    /// `/.` at its end rsync's `--relative` counts the path from there.
    fn at_home(&self, recipe: &str, here: &str) -> String {
        let mut commands = recipe.replace(
            "/usr/share/doc/netboot-publisher/examples",
            &format!("{}/config/examples", env!("CARGO_MANIFEST_DIR")),
        );
        let here = format!("{}{here}", self.root.display());
        for path in ["/etc/", "/var/spool/", "/srv/", "/data/", "/backup/"] {
            commands = commands.replace(path, &format!("{here}{path}"));
        }
        // Nothing but what is in the test's own folder may be written.
        commands.replace(" srv/tftp /\n", &format!(" srv/tftp {here}/\n"))
    }

    /// Runs a recipe; what it says to systemctl the test does.
    fn run(&mut self, recipe: &str, here: &str) {
        let commands = self.at_home(recipe, here);
        let mut block = String::new();
        for line in commands.lines() {
            let Some(order) = line.strip_prefix("systemctl ") else {
                block += line;
                block += "\n";
                // A command is run with all of its lines; one that changes the folder is kept for the next.
                if line.ends_with('\\') || line.starts_with("cd ") || is_open(&block) {
                    continue;
                }
                self.ok(&std::mem::take(&mut block));
                continue;
            };
            match order {
                "stop netboot-publisher" => drop(self.service.take().unwrap().stop()),
                "start netboot-publisher" => self.service = Some(self.world.daemon()),
                "reload netboot-publisher" => {
                    let service = self.service.as_mut().unwrap();
                    service.signal(Signal::HUP);
                    service.wait_for("configuration read again");
                }
                "daemon-reload" => {}
                _ => panic!("{line}"),
            }
        }
        assert_eq!(block, "");
    }

    /// Publishes an image whose kernel and initrd are of this version; returns what was said.
    #[track_caller]
    fn publish(&self, target: &str, version: &str, options: &str) -> String {
        let image = self.path("image");
        write_image(&image, version);
        let [arch, subarch, release, purpose] = parts(target);
        self.ok(&format!(
            "netboot-publisher submit --arch {arch} --subarch {subarch} --release {release} \
             --purpose {purpose} --version {version} {options} --wait=100 {}",
            image.display()
        ))
    }
}

/// Runs commands on the machine in this folder.
fn shell(root: &Path, commands: &str) -> Output {
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", root.join("bin").display());
    let mut shell = Command::new("sh");
    shell.args(["-euc", commands]).env("PATH", path);
    output(shell.current_dir(root))
}

/// Whether a document within commands has not ended yet.
fn is_open(block: &str) -> bool {
    block.contains("<<END\n") && !block.ends_with("\nEND\n")
}

fn parts(target: &str) -> [&str; 4] {
    let parts: Vec<_> = target.split('/').collect();
    parts.try_into().unwrap()
}

fn write_image(image: &Path, version: &str) {
    fs::create_dir_all(image.join("empty")).unwrap();
    fs::write(image.join("linux"), version).unwrap();
    fs::write(image.join("initrd.gz"), version).unwrap();
    fs::write(image.join("modules"), "the same in all").unwrap();
}

fn existing_folder() {
    let mut machine = Machine::new("");
    let old = machine.path("srv/tftp/bookworm");
    write_image(&old, "before");
    machine.run(&recipe("**An existing folder**"), "");
    let alias = "netboot/amd64/generic/bookworm/install";
    until("the alias", || {
        fs::read_link(&old).is_ok_and(|it| it == Path::new(alias))
    });
    assert_same_content(&old, &machine.root.join("srv/tftp/bookworm.old"));
    let menu = machine.path("srv/tftp/boot/menu");
    until("the menu", || {
        fs::read_to_string(&menu).is_ok_and(|text| text.contains(TARGET))
    });

    machine.publish(TARGET, "new", "");
    assert_eq!(fs::read(old.join("linux")).unwrap(), b"new");
    machine.ok(&format!("netboot-publisher rollback {TARGET} --wait=100"));
    assert_eq!(fs::read(old.join("linux")).unwrap(), b"before");

    // One at a target's own path.
    let other = "arm64/generic/bookworm/install";
    let adopted = machine.world.published(other);
    write_image(&adopted, "before");
    let catalog = || fs::read_to_string(machine.world.tree.join("catalog.json")).unwrap();
    let said = machine.publish(other, "before", "");
    assert!(said.contains("unchanged"), "{said}");
    machine.publish(TARGET, "newer", "");
    until("the catalog", || catalog().contains("newer"));
    assert!(!catalog().contains(other), "{}", catalog());
    let said = machine.publish(other, "new", "");
    assert!(said.contains("published"), "{said}");
    until("the catalog", || catalog().contains(other));
    machine.ok(&format!("netboot-publisher rollback {other} --wait=100"));
    assert_eq!(fs::read(adopted.join("linux")).unwrap(), b"before");
    machine.service.take().unwrap().stop();
    machine.world.assert_at_rest();
}

/// All of a folder that a backup has to have: kinds, modes, owners, times, ACLs, bytes, and which names are
/// one file.
fn kept(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut first = BTreeMap::new();
    let mut of = BTreeMap::new();
    for path in walk(folder) {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(folder).unwrap().to_path_buf();
        let linked = first.entry(stat.ino()).or_insert_with(|| name.clone());
        let mut seen = format!(
            "{:o} {}:{} size {} mtime {}.{} one with {linked:?}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.size(),
            stat.mtime(),
            stat.mtime_nsec(),
        );
        if stat.is_symlink() {
            seen += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else {
            let acl = Command::new("getfacl").args(["-acn"]).arg(&path).output();
            seen += &String::from_utf8_lossy(&acl.unwrap().stdout);
        }
        if stat.is_file() {
            let digest = netboot_publisher::Digest::of(&fs::read(&path).unwrap());
            seen += &digest.to_string();
        }
        of.insert(name, seen);
    }
    of
}

#[track_caller]
fn assert_same(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) {
    let not_in = |other: &BTreeMap<_, _>, one: &BTreeMap<_, _>| {
        let left = one
            .iter()
            .filter(|(path, seen)| other.get(*path) != Some(*seen));
        left.map(|(path, seen)| format!("{path:?}: {seen}"))
            .collect::<Vec<_>>()
    };
    let differ = (not_in(other, one), not_in(one, other));
    assert!(differ.0.is_empty() && differ.1.is_empty(), "{differ:#?}");
}

/// What a machine keeps, by folder. The spool of a daemon that runs has a socket beside.
fn all_kept(machine: &Machine) -> Vec<BTreeMap<PathBuf, String>> {
    let spool = "var/spool/netboot-publisher";
    let folders = ["incoming", "processing", "rejected", "outcomes"];
    let folders = folders.map(|it| format!("{spool}/{it}"));
    let others = ["etc", "srv"].map(String::from).into_iter();
    let all = others.chain(folders);
    all.map(|folder| kept(&machine.path(&folder))).collect()
}

fn backed_up_and_restored() {
    let keys = Keys::new();
    let rule = format!(
        "[[importer]]\nname = \"team\"\nkeys = [{:?}]\npublish = [\"*/*/*/*\"]\n\
         [[importer]]\nname = \"others\"\nusers = [\"games\"]\npublish = [\"*/*/*/*\"]\n",
        keys.public("ed25519")
    );
    let mut machine = Machine::new(&rule);
    let sign = format!("--sign {}", keys.path("ed25519").display());
    let signed = |serial: u32| format!("{sign} --serial {serial}");
    machine.publish(TRIED, "1", &signed(1));
    for (serial, version) in [(1, "1"), (2, "2")] {
        machine.publish(TARGET, version, &signed(serial));
    }
    let promote =
        format!("netboot-publisher promote {TRIED} {LOADER} {sign} --serial 1 --wait=100");
    machine.ok(&promote);
    // Rejected, of another user; and waiting.
    machine.world.drop_with("bad", "format = 0\n", |image| {
        crate::lab::world::own(image.parent().unwrap(), crate::trust::GAMES)
    });
    until("an outcome", || machine.world.outcome("bad").is_some());
    fs::create_dir_all(machine.world.incoming("late/image")).unwrap();
    fs::write(machine.world.incoming("late/image/linux"), "late").unwrap();
    // A swap that waits for machines is in the middle of things.
    let config = fs::read_to_string(&machine.world.config).unwrap();
    let (quick, slow) = ("quiet_period = \"0s\"", "quiet_period = \"5m\"");
    assert!(config.contains(quick));
    fs::write(&machine.world.config, config.replace(quick, slow)).unwrap();
    machine.run("systemctl reload netboot-publisher\n", "");
    let held = {
        write_image(&machine.path("image"), "3");
        let said = machine.ok(&format!(
            "netboot-publisher submit {} --arch amd64 --release bookworm --purpose install {}",
            signed(3),
            machine.path("image").display()
        ));
        machine.service.as_mut().unwrap().wait_for(" swap held ");
        said.split_whitespace().last().unwrap().to_string()
    };

    // Backups are made one after the other into the same place.
    let backup = recipe("**A backup**");
    machine.run(&backup, "/.");
    machine.publish("arm64/generic/bookworm/install", "1", &signed(1));
    let (first, rest) = backup.split_once("systemctl start").unwrap();
    machine.run(first, "/.");
    let before = all_kept(&machine);
    machine.run(&format!("systemctl start{rest}"), "/.");

    // What comes after the backup is lost with the disk.
    let late = "arm64/generic/late/install";
    machine.publish(late, "1", &signed(7));
    machine.service.take().unwrap().stop();
    for folder in ["etc/netboot-publisher", "srv/tftp", "var/spool"] {
        let path = machine.path(folder);
        fs::remove_dir_all(&path).unwrap();
        // The package has made these.
        fs::create_dir_all(path).unwrap();
    }
    let restore = recipe("**A restore**");
    let (first, rest) = restore.split_once("systemctl start").unwrap();
    machine.run(
        first
            .strip_prefix("systemctl stop netboot-publisher\n")
            .unwrap(),
        "",
    );
    let after = all_kept(&machine);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_same(before, after);
    }
    machine.run(&format!("systemctl start{rest}"), "");

    // What waits still does, what is the same is so still, and nothing was copied for it.
    assert!(
        machine.world.outcome(&held).is_none(),
        "{held}\n{}",
        machine.world
    );
    assert!(machine.world.outcome("bad").is_some());
    let said = machine.publish(TRIED, "1", &signed(1));
    assert!(said.contains("unchanged"), "{said}");
    machine.service.take().unwrap().stop();
    let config = fs::read_to_string(&machine.world.config).unwrap();
    fs::write(&machine.world.config, config.replace(slow, quick)).unwrap();
    machine.service = Some(machine.world.daemon());
    let outcome = |drop: &str| machine.world.outcome(drop);
    until("the swap", || outcome(&held).is_some());
    assert_eq!(machine.world.assert_outcome(&held, "published")["files"], 3);
    assert_eq!(
        fs::read(machine.world.published(TARGET).join("linux")).unwrap(),
        b"3"
    );
    assert!(machine.path("srv/tftp/efi-x64/linux").is_file());
    // The serial of after the backup is not known.
    let said = machine.publish(late, "1", &signed(7));
    assert!(said.contains("published"), "{said}");
    machine.ok("netboot-publisher verify --signatures");
    machine.ok(&format!(
        "netboot-publisher rollback {TARGET} {} --wait=100",
        signed(4)
    ));
    assert_eq!(
        fs::read(machine.world.published(TARGET).join("linux")).unwrap(),
        b"2"
    );
    fs::write(machine.world.incoming("late/manifest.toml"), manifest(late)).unwrap();
    until("an outcome", || outcome("late").is_some());
    // The alias is known for the daemon's own: it goes with its target.
    machine.ok(&format!(
        "netboot-publisher withdraw {LOADER} {} --wait=100",
        signed(2)
    ));
    assert!(fs::symlink_metadata(machine.path("srv/tftp/efi-x64")).is_err());
    machine.service.take().unwrap().stop();
    machine.world.assert_at_rest();
}

fn moved() {
    let mut machine = Machine::new("");
    machine.publish(LOADER, "1", "");
    machine.publish(TARGET, "1", "");
    machine.publish(TARGET, "2", "");
    let old = machine.path("srv/tftp");
    until("the menu", || is_rendered(&old));
    let recipe = recipe("**Another disk or path**");
    let (first, rest) = recipe.split_once("systemctl start").unwrap();
    machine.run(first, "");
    let before = kept(&old);
    machine.world.tree = machine.path("data/tftp/netboot");
    machine.run(&format!("systemctl start{rest}"), "");

    let new = machine.path("data/tftp");
    let menu = |root: &Path| fs::read_to_string(root.join("boot/menu")).unwrap();
    assert_eq!(menu(&new), menu(&old));
    assert_eq!(fs::read(new.join("efi-x64/linux")).unwrap(), b"1");
    assert_same(&before, &kept(&new));
    machine.publish(TARGET, "3", "");
    until("the menu", || menu(&new) != menu(&old));
    assert_eq!(
        fs::read(machine.world.published(TARGET).join("linux")).unwrap(),
        b"3"
    );
    machine.ok(&format!("netboot-publisher withdraw {LOADER} --wait=100"));
    assert!(fs::symlink_metadata(new.join("efi-x64")).is_err());
    machine.service.take().unwrap().stop();
    machine.world.assert_at_rest();
    // Machines that boot from the old place are not disturbed.
    assert_same(&before, &kept(&old));

    // What is shipped has the paths as comments.
    let shipped = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/netboot-publisher.toml"),
    );
    fs::write(machine.path("shipped.toml"), shipped.unwrap()).unwrap();
    let sed = recipe.split("\nsed ").nth(1).unwrap();
    let sed = sed.split("\nsystemctl").next().unwrap();
    let config = "/etc/netboot-publisher/config.toml";
    machine.ok(&format!("sed {}", sed.replace(config, "shipped.toml")));
    let changed = fs::read_to_string(machine.path("shipped.toml")).unwrap();
    let set = changed
        .lines()
        .filter(|line| line.starts_with(char::is_alphabetic));
    assert_eq!(set.collect::<Vec<_>>(), ["path = \"/data/tftp/netboot\""]);
    netboot_publisher::Settings::parse("shipped.toml", &changed).unwrap();
    let unit = fs::read_to_string(
        machine.path("etc/systemd/system/netboot-publisher.service.d/data.conf"),
    );
    let data = new.display();
    assert_eq!(
        unit.unwrap(),
        format!("[Unit]\nRequiresMountsFor={data}\n[Service]\nReadWritePaths={data}\n")
    );
}

/// The command that copies, from this machine to a second server's folder.
fn copy(machine: &Machine) -> String {
    let recipe = recipe("**A second TFTP server**");
    let second = machine.path("second");
    let _ = fs::create_dir(&second);
    let local = recipe.replace("second:/srv/tftp", "SECOND");
    assert_ne!(local, recipe);
    machine
        .at_home(&local, "")
        .replace("SECOND", &second.display().to_string())
}

/// What a machine of the second server finds: nothing that leads nowhere, nor half of an image or a mixture.
/// Returns how many images it has looked at, and the menu.
fn look(second: &Path) -> (usize, String) {
    let whole = |image: &Path| {
        // As one that boots: what is led to has to be there when the link or the menu is.
        let read = |name: &str| {
            let path = image.join(name);
            fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let linux = read("linux");
        assert!(!linux.is_empty(), "{image:?}");
        assert_eq!(linux, read("initrd.gz"), "a mixture in {image:?}");
        assert!(image.join("empty").is_dir(), "{image:?}");
        1
    };
    let mut seen = 0;
    for link in ["efi-x64", "netboot/tried"]
        .iter()
        .map(|path| second.join(path))
        .chain([TARGET, LOADER, TRIED].map(|target| second.join("netboot").join(target)))
    {
        // A name that goes at this moment leads nowhere no more.
        if fs::read_link(&link).is_ok() {
            // One that has gone may have come again by now.
            match link.canonicalize().or_else(|_| link.canonicalize()) {
                Ok(image) => seen += whole(&image),
                Err(error) => assert!(fs::read_link(&link).is_err(), "{link:?}: {error}"),
            }
        }
    }
    let menu = fs::read_to_string(second.join("boot/menu")).unwrap_or_default();
    for line in menu.lines().filter(|line| line.contains('@')) {
        let (_, pinned) = line.split_once(' ').unwrap();
        seen += whole(&second.join(pinned));
    }
    (seen, menu)
}

fn second_server() {
    // An alias in the tree itself stands beside folders of targets.
    let alias = format!("[[alias]]\npath = \"netboot/tried\"\ntarget = {TRIED:?}\n");
    let mut machine = Machine::new(&alias);
    let (copy, second) = (copy(&machine), machine.path("second"));
    let is_over = AtomicBool::new(false);
    let (root, is_over_ref) = (&machine.root, &is_over);
    let (looks, menus, copies) = std::thread::scope(|scope| {
        let _ends = Ends(is_over_ref);
        let looking = scope.spawn(move || {
            let (mut looks, mut menus) = (0, BTreeSet::new());
            while !is_over_ref.load(Ordering::Relaxed) {
                let (seen, menu) = look(&second);
                looks += seen;
                menus.insert(menu);
            }
            (looks, menus.len())
        });
        let copying = scope.spawn(move || {
            let mut copies = 0;
            while !is_over_ref.load(Ordering::Relaxed) {
                let done = shell(root, &copy);
                assert!(done.status.success(), "{}", text(&done));
                copies += 1;
            }
            copies
        });
        for round in 0..15 {
            assert!(
                !looking.is_finished() && !copying.is_finished(),
                "it has ended"
            );
            let version = format!("version-{round}");
            machine.publish(TRIED, &version, "");
            machine.ok(&format!(
                "netboot-publisher promote {TRIED} {TARGET} --wait=100"
            ));
            match round % 5 {
                2 => machine.ok(&format!("netboot-publisher rollback {TARGET} --wait=100")),
                4 => machine.ok(&format!("netboot-publisher withdraw {LOADER} --wait=100")),
                _ => machine.publish(LOADER, &version, ""),
            };
        }
        is_over.store(true, Ordering::Relaxed);
        let (looks, menus) = looking.join().unwrap();
        (looks, menus, copying.join().unwrap())
    });
    println!("{copies} copies, {looks} images looked at, {menus} menus");
    assert!(
        copies > 5 && menus > 5 && looks > 1_000,
        "{copies} {menus} {looks}"
    );
    machine.service.take().unwrap().stop();
}

/// Whether the menu has what is current, and nothing else.
fn is_rendered(root: &Path) -> bool {
    let menu = fs::read_to_string(root.join("boot/menu")).unwrap_or_default();
    let named: BTreeSet<_> = menu
        .lines()
        .filter_map(|line| line.split_once("@/"))
        .map(|(_, generation)| generation.to_string())
        .collect();
    let links = ["amd64", "arm64"].map(|arch| walk(&root.join("netboot").join(arch)));
    let links = links.iter().flatten();
    let current: BTreeSet<_> = links
        .filter_map(|path| fs::read_link(path).ok())
        .filter_map(|to| Some(to.to_str()?.split_once("@/")?.1.to_string()))
        .collect();
    named == current
}

fn second_server_follows() {
    let mut machine = Machine::new("");
    let (copy, second) = (copy(&machine), machine.path("second"));
    let first = machine.path("srv/tftp");
    let adopted = machine.world.published("arm64/generic/bookworm/install");
    write_image(&adopted, "before");
    fs::write(first.join("README"), "an admin's").unwrap();
    for version in ["1", "2"] {
        machine.publish(TARGET, version, "");
    }
    machine.publish(LOADER, "1", "");
    let same = |machine: &Machine| {
        until("the menu", || is_rendered(&first));
        // Machines boot meanwhile.
        let (is_over, second) = (AtomicBool::new(false), &second);
        std::thread::scope(|scope| {
            let _ends = Ends(&is_over);
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    look(second);
                }
            });
            machine.ok(&copy);
        });
        let (mut there, mut here) = (kept(second), kept(&first));
        here.retain(|path, _| !path.starts_with("netboot/.netboot-publisher"));
        // When a folder was written to is no copy's business.
        for all in [&mut here, &mut there] {
            all.retain(|_, seen| !seen.starts_with('4'));
        }
        assert_same(&here, &there);
    };
    same(&machine);

    machine.publish("arm64/generic/bookworm/install", "new", "");
    same(&machine);
    // What machines boot there goes here before the next copy.
    let old = fs::read_link(machine.world.published(TARGET)).unwrap();
    let old = old.file_name().unwrap().to_str().unwrap();
    machine.publish(TARGET, "3", "");
    machine.ok(&format!(
        "netboot-publisher withdraw {TARGET} --generation {old} --wait=100"
    ));
    machine.ok(&format!("netboot-publisher withdraw {LOADER} --wait=100"));
    let folder = |root: &Path| root.join("netboot").join(format!("{TARGET}@"));
    assert!(folder(&second).join(old).exists());
    same(&machine);
    assert!(!folder(&second).join(old).exists());
    machine.service.take().unwrap().stop();

    // A disk that isn't mounted takes nothing from the second server.
    let before = kept(&second);
    fs::rename(&first, machine.path("srv/away")).unwrap();
    fs::create_dir_all(first.join("netboot")).unwrap();
    let done = shell(&machine.root, &copy);
    assert!(!done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("no tree"), "{}", text(&done));
    assert_same(&before, &kept(&second));
}

/// What a recipe looks for in a log of this server, for the machine of the tests.
pub fn looked_for(unit: &str) -> String {
    let recipe = recipe("**What did a machine boot?**");
    let line = recipe
        .lines()
        .find(|line| line.contains(&format!("--unit {unit} ")));
    let (_, text) = line.unwrap().split_once("--grep '").unwrap();
    let (text, _) = text.split_once('\'').unwrap();
    assert!(text.contains("192.0.2.17"));
    text.replace("192.0.2.17", ADDRESS)
}

/// The generation that was current at this time, as README says how to read a history.
pub fn current_at(history: &str, time: &str) -> String {
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    let mut current = String::new();
    for line in history.lines() {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [when, what, _, to, ..] = columns[..] else {
            continue;
        };
        // Of the kept generations the first column is no time.
        let is_time = when.len() == 20 && when.ends_with('Z');
        let is_elsewhere = what == "promoted" && line.contains(", to ");
        if is_time && when < time && what != "removed" && !is_elsewhere {
            current = to.to_string();
        }
    }
    current
}

/// Logs and histories tell the time in seconds: waits for the next one.
pub fn next_second() {
    let second = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    let now = second();
    until("the next second", || second() > now);
}

fn what_was_booted() {
    let mut machine = Machine::new("");
    // dnsmasq runs as another user.
    fs::set_permissions(&machine.root, fs::Permissions::from_mode(0o755)).unwrap();
    let log = machine.path("dnsmasq.log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
    let server = Server::dnsmasq_with_log(&machine.path("srv/tftp"), &log, &[]);
    let linux = format!("netboot/{TRIED}/linux");
    // What is fetched, and what is current then.
    let boot = |path: &str| {
        next_second();
        let fetched = server.fetch(Client::Curl, path, &machine.root).unwrap();
        next_second();
        let generation = fs::read_link(machine.world.published(TRIED)).unwrap();
        (
            fetched,
            generation
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_string(),
        )
    };
    let go = |order: &str| machine.ok(&format!("netboot-publisher {order} --wait=100"));
    machine.publish(TRIED, "1", "");
    let one = boot(&linux);
    machine.publish(TRIED, "2", "");
    let two = boot(&linux);
    go(&format!("rollback {TRIED}"));
    let pinned = boot(&format!("netboot/{TRIED}@/{}/linux", two.1));
    go(&format!("promote {TRIED} {TARGET}"));
    go(&format!("withdraw {TRIED} --generation {}", two.1));
    let again = boot(&linux);
    assert_eq!(
        [&one.0, &two.0, &pinned.0, &again.0],
        [b"1", b"2", b"2", b"1"]
    );
    assert!(one.1 == again.1 && one.1 != two.1);

    let history = machine.ok(&format!("netboot-publisher history {TRIED}"));
    for event in ["removed", "promoted", "rolled-back"] {
        assert!(history.contains(event), "{history}");
    }
    let text = fs::read_to_string(&log).unwrap();
    let found = machine.ok(&format!(
        "grep --extended-regexp '{}' {}",
        looked_for("dnsmasq"),
        log.display()
    ));
    let found: Vec<_> = found.lines().collect();
    let expected = [&one.1, &two.1, &two.1, &again.1];
    assert_eq!(found.len(), expected.len(), "{text}");
    for (line, expected) in found.into_iter().zip(expected) {
        let booted = match line.split_once("@/") {
            Some((_, pinned)) => pinned.split('/').next().unwrap().to_string(),
            None => current_at(&history, &utc(line)),
        };
        assert_eq!(&booted, expected, "{line}\n{history}");
    }
    machine.service.take().unwrap().stop();
}

/// The time of a line of dnsmasq's own log, which has no year, as histories have times.
fn utc(line: &str) -> String {
    let date = Command::new("date")
        .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", "--date", &line[..15]])
        .output();
    let date = String::from_utf8(date.unwrap().stdout).unwrap();
    date.trim().to_string()
}
