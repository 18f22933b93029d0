//! The shipped menus, read by the boot loaders themselves: in QEMU, each entry as it is shown and as it
//! boots.
//!
//! A machine gets its menu once. Before an entry is chosen the machine is kept as it is, and after it was
//! brought back to that: so every entry is booted from the same menu, without another start of the
//! firmware.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::boot_configs::shipped;
use crate::lab::console::{Console, position};
use crate::lab::world::{Needs, PATIENCE, World, manifest, output, test, text, until};
use crate::menus::{ARGUMENTS, HOSTILE, UPSTREAMS, catalog, pinned, toml, with_url};

/// Where Debian's packages have what machines need.
const GRUB: &str = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed";
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const IPXE: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loader {
    Grub,
    Ipxe,
}

pub fn tests() -> Vec<Trial> {
    let needs = |loader: &[Needs]| {
        let all = [Needs::Program("qemu-system-x86_64"), Needs::Program("cc")];
        [&all, loader].concat()
    };
    vec![
        test(
            "GRUB shows each entry of the shipped menu with its title, and hands each image's kernel what its manifest says",
            &needs(&[Needs::Path(GRUB), Needs::Path(OVMF)]),
            || entries_boot(Loader::Grub),
        ),
        test(
            "iPXE shows each entry of the shipped menu with its title, and hands each image's kernel what its manifest says",
            &needs(&[Needs::Path(IPXE)]),
            || entries_boot(Loader::Ipxe),
        ),
    ]
}

/// Paths that a loader's language could take for more than names, and whether GRUB and iPXE have an image
/// that names them. (GRUB tells a kernel its own path, which has to end where it does.)
const PATHS: [(&str, [bool; 2]); 3] = [
    ("a b/$x ${y} #%2F;{ü}&'", [true, true]),
    ("linux||(x) \\ ?*", [true, true]),
    ("\"x y", [false, true]),
];

/// The title, the files and what the kernel is told of an entry.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    title: String,
    files: Vec<String>,
    words: Vec<String>,
    initrds: String,
}

/// Drops images of all kinds, and returns of each target whether GRUB and iPXE have it in their menus.
fn drop_all(world: &World, kernel: &[u8]) -> BTreeMap<String, [bool; 2]> {
    let mut shown = BTreeMap::new();
    let mut drop = |target: String, more: &str, files: &[&str], kernel_at: &str, is_in| {
        let name = target.replace('/', "-");
        world.drop_with(&name, &format!("{}{more}", manifest(&target)), |image| {
            for file in files {
                let path = image.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let text = if *file == kernel_at {
                    kernel
                } else {
                    file.as_bytes()
                };
                fs::write(path, text).unwrap();
            }
        });
        shown.insert(target, is_in);
    };
    for (name, more, files, expected) in UPSTREAMS {
        let loads = expected[2][0].split(' ').nth(3).unwrap();
        let kernel = loads.trim_start_matches("/{}/").replace("%20", " ");
        assert!(files.contains(&&*kernel), "{name}");
        // Of this machine's iPXE the firmware is a BIOS.
        let is_in = [!expected[1].is_empty(), !more.contains("efi = ")];
        let target = format!("amd64/generic/{name}/install");
        drop(target, more, files, &kernel, is_in);
    }
    for (number, (title, cmdline, is_in)) in HOSTILE.iter().enumerate() {
        let more = format!(
            "[boot]\ntitle = {}\ncmdline = {}\n",
            toml(title),
            toml(cmdline)
        );
        let files = ["linux", "initrd.gz"];
        let target = format!("amd64/hostile/r{number}/install");
        drop(target, &more, &files, files[0], [is_in[1], is_in[2]]);
    }
    for (number, (path, is_in)) in PATHS.iter().enumerate() {
        let files = [*path, &format!("{path}.initrd")];
        let [kernel, initrd] = files.map(toml);
        let more = format!("[boot]\nkernel = {kernel}\ninitrd = [{initrd}]\n");
        let target = format!("amd64/hostile/p{number}/install");
        drop(target, &more, &files, files[0], *is_in);
    }
    let more = "[boot]\nefi = \"x.efi\"\ncmdline = \"a=\\\"b c\\\"  d\"\n";
    let target = "amd64/hostile/efi/install".to_string();
    drop(target, more, &["x.efi"], "x.efi", [true, false]);
    let files = ["linux", "initrd.gz"];
    let target = "arm64/generic/debian/install".to_string();
    drop(target, "", &files, "", [false; 2]);
    shown
}

/// What a loader is to do with an image of the catalog.
fn expected(world: &World, loader: Loader, image: &Value) -> Entry {
    let word = |value: &Value| value.as_str().map(str::to_string);
    let target = image["target"].as_str().unwrap();
    let (boot, pinned) = (&image["boot"], pinned(world, target));
    let initrds = boot["initrd"].as_array().unwrap();
    let initrds: Vec<_> = initrds.iter().filter_map(word).collect();
    let program = word(&boot["kernel"]).or(word(&boot["efi"])).unwrap();
    let is_wimboot = program.ends_with("wimboot");
    let cmdline = word(&boot["cmdline"]).unwrap_or_default();
    let cmdline = cmdline
        .replace("{url}", &format!("http://boot.example/{pinned}"))
        .replace("{path}", &pinned);
    let before = match (loader, &*initrds) {
        _ if !boot["efi"].is_null() || is_wimboot => String::new(),
        (Loader::Grub, _) | (Loader::Ipxe, []) => ARGUMENTS.to_string(),
        (Loader::Ipxe, [_]) => format!("initrd=initrd.magic {ARGUMENTS}"),
        (Loader::Ipxe, [_, _]) => format!("initrd=initrd1 initrd=initrd2 {ARGUMENTS}"),
        other => panic!("{other:?}"),
    };
    let contents = initrds.iter().map(|file| {
        // Windows' loader finds files by their names.
        let name = file.rsplit('/').next().filter(|_| is_wimboot);
        format!("{}{file}", name.unwrap_or_default())
    });
    Entry {
        title: visible(&word(&boot["title"]).unwrap_or(target.to_string())),
        words: words(&format!("{before} {cmdline}")),
        initrds: contents.collect(),
        files: std::iter::once(&program)
            .chain(&initrds)
            .map(|file| format!("{pinned}/{file}"))
            .collect(),
    }
}

/// What consoles have in common: each has its own way with what is not ASCII.
fn visible(title: &str) -> String {
    title.chars().filter(char::is_ascii).collect()
}

/// What a kernel reads in its command line: the words, without the `"` around a word or its value.
fn words(cmdline: &str) -> Vec<String> {
    let mut is_quoted = false;
    let words = cmdline.split(|c| {
        is_quoted ^= c == '"';
        c == ' ' && !is_quoted
    });
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| word.replace('"', "")).collect()
}

fn entries_boot(loader: Loader) {
    let world = with_url(shipped());
    let kernel = stand_in(&world);
    let shown = drop_all(&world, &kernel);
    world.run_once();
    let images = catalog(&world);
    assert_eq!(images.len(), shown.len(), "{world}");
    let is_shown = |image: &&Value| shown[image["target"].as_str().unwrap()][loader as usize];
    let wanted: Vec<_> = images.iter().filter(is_shown).collect();

    let mut machine = Machine::start(loader, &world);
    // iPXE counts the seconds down behind it.
    let first = machine.chosen();
    assert!(first.starts_with("Boot from the local disk"), "{first}");
    let menu = machine.begun.elapsed();
    for image in &wanted {
        machine.press(b"\x1b[B");
        let title = machine.chosen();
        machine.monitor("savevm menu");
        machine.requested();
        machine.press(b"\r");
        let (cmdline, initrds) = machine.handed();
        let mut words = words(&cmdline);
        if loader == Loader::Grub && image["boot"]["efi"].is_null() {
            assert!(words.remove(0).starts_with("BOOT_IMAGE="), "{cmdline}");
        }
        let entry = Entry {
            title,
            words,
            initrds,
            files: machine.requested(),
        };
        assert_eq!(entry, expected(&world, loader, image), "{cmdline}");
        machine.monitor("loadvm menu");
    }
    machine.press(b"\x1b[B");
    let next = match loader {
        // There is none: the way back from the last entry leads to the one before.
        Loader::Grub => {
            machine.press(b"\x1b[A");
            expected(&world, loader, wanted[wanted.len() - 2]).title
        }
        Loader::Ipxe => "iPXE shell".to_string(),
    };
    assert_eq!(machine.chosen(), next);
    println!(
        "{loader:?}: the menu after {:.0} s, all {} entries after {:.0} s",
        menu.as_secs_f64(),
        wanted.len(),
        machine.begun.elapsed().as_secs_f64()
    );
}

/// A kernel that says what was handed to it.
fn stand_in(world: &World) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/lab/stand_in.s");
    let made = world.root.join("stand-in");
    let options = "--build-id=none,--oformat=binary,-Ttext=0,--entry=0";
    let built = output(
        Command::new("cc")
            .args(["-nostdlib", "-static", &format!("-Wl,{options}"), "-o"])
            .args([&made, &source]),
    );
    assert!(built.status.success(), "{}", text(&built));
    fs::read(made).unwrap()
}

/// A running machine.
struct Machine {
    console: Console,
    loader: Loader,
    monitor: BufReader<UnixStream>,
    /// What was sent and received, as QEMU writes it, and how much of that was read.
    packets: (PathBuf, usize),
    begun: Instant,
}

impl Machine {
    /// Switches a machine on that boots by a loader from a world's TFTP root.
    fn start(loader: Loader, world: &World) -> Self {
        let (tftp, socket) = (world.root.join("tftp"), world.root.join("monitor"));
        let packets = world.root.join("packets");
        let mut command = Command::new("qemu-system-x86_64");
        // What the machine is like at a moment is kept in this disk, which only it has.
        let kept = "format=raw,snapshot=on,file";
        let boot_file = match loader {
            Loader::Grub => {
                fs::copy(GRUB, tftp.join("grubx64.efi")).unwrap();
                command
                    .arg("-drive")
                    .arg(format!("if=pflash,format=raw,readonly=on,file={OVMF}"))
                    .arg("-drive")
                    .arg(format!("if=pflash,{kept}={OVMF_VARS}"))
                    .args(["-display", "none"]);
                "grubx64.efi"
            }
            Loader::Ipxe => {
                let disk = world.root.join("disk");
                fs::write(&disk, [0; 512]).unwrap();
                command
                    .arg("-drive")
                    .arg(format!("if=none,{kept}={}", disk.display()));
                command.arg("-nographic");
                "menu.ipxe"
            }
        };
        command
            .args(["-cpu", "max", "-m", "256", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(["-device", "virtio-net-pci,netdev=net", "-netdev"])
            .arg(format!(
                "user,id=net,restrict=on,tftp={},bootfile=/{boot_file}",
                tftp.display()
            ))
            .arg("-object")
            .arg(format!(
                "filter-dump,id=dump,netdev=net,file={}",
                packets.display()
            ));
        let console = Console::start(&mut command);
        until("the monitor", || UnixStream::connect(&socket).is_ok());
        let mut machine = Self {
            console,
            loader,
            monitor: BufReader::new(UnixStream::connect(&socket).unwrap()),
            packets: (packets, 24),
            begun: Instant::now(),
        };
        machine.ask(&json!({ "execute": "qmp_capabilities" }));
        machine
    }

    /// Has QEMU do something and waits until it has.
    fn monitor(&mut self, command: &str) {
        let arguments = json!({ "command-line": command });
        let said = self.ask(&json!({ "execute": "human-monitor-command", "arguments": arguments }));
        assert_eq!(said, json!(""), "{command}");
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.monitor.get_mut(), "{question}").unwrap();
        loop {
            let mut line = String::new();
            self.monitor.read_line(&mut line).unwrap();
            let mut said: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(said["error"], Value::Null, "{question}");
            // There are events between the answers, and a greeting before them.
            if let Some(answer) = said.get_mut("return") {
                return answer.take();
            }
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.console.press(keys);
    }

    /// Waits until what is on the screen has `begin`, and `end` after it. Returns what is between, and
    /// forgets all until then.
    fn wait_for(&mut self, begin: &[u8], end: &[u8]) -> Vec<u8> {
        let wanted = begin.escape_ascii().to_string();
        self.console.wait(PATIENCE, &wanted, |seen| {
            let from = position(seen, begin)? + begin.len();
            let to = from + position(&seen[from..], end)?;
            let between = seen[from..to].to_vec();
            seen.drain(..to);
            Some(between)
        })
    }

    /// The title of the entry that the menu has just marked as the one that is chosen.
    fn chosen(&mut self) -> String {
        // At the begin of a line and with a mark, or in another colour.
        let begin: &[u8] = match self.loader {
            Loader::Grub => b";03H*",
            Loader::Ipxe => b"\x1b[0;41;1m",
        };
        let title = self.wait_for(begin, b"\x1b");
        let title = String::from_utf8_lossy(&title);
        visible(title.trim())
    }

    /// What a kernel says that it has: its command line, and its initrds.
    fn handed(&mut self) -> (String, String) {
        let mut between = |begin, end| {
            let bytes = self.wait_for(begin, end);
            String::from_utf8(bytes).unwrap()
        };
        (
            between(b"\x02", b"\x1f"),
            contents(&between(b"\x1f", b"\x03")),
        )
    }

    /// The files that the machine has asked for since it was asked last.
    fn requested(&mut self) -> Vec<String> {
        let (path, read) = &mut self.packets;
        let bytes = fs::read(path).unwrap();
        let mut files = Vec::new();
        // Each has a head of 16 bytes, of which these are its length, and then those of Ethernet, IP, UDP.
        while let Some(length) = bytes.get(*read + 8..*read + 12) {
            let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
            let packet = &bytes[*read + 16..*read + 16 + length];
            *read += 16 + length;
            let is_request = packet.get(36..38) == Some(&[0, 69]) && packet[42..44] == [0, 1];
            if is_request && packet[12..14] == [8, 0] && packet[23] == 17 {
                let name = packet[44..].split(|byte| *byte == 0).next().unwrap();
                let name = String::from_utf8(name.to_vec()).unwrap();
                files.push(name.trim_start_matches('/').to_string());
            }
        }
        files
    }
}

/// The contents of initrds: of what iPXE has put into an archive the name and the contents.
fn contents(initrds: &str) -> String {
    let mut parts = initrds.split("070701");
    let plain = parts.next().unwrap();
    let of_archive = parts.map(|part| &part[104..]);
    std::iter::once(plain).chain(of_archive).collect()
}
