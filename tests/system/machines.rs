//! Real machines, emulated: firmware, boot loader, kernel and Debian's installer, from the tree,
//! through the boot configurations that are shipped.
//!
//! QEMU's own TFTP server serves them. What they show is read from the serial console.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::boot_configs::shipped;
use crate::lab::world::{Ended, Needs, World, test, until};

const IMAGE: &str = "/usr/lib/debian-installer/images/12/amd64/text";
const TARGET: &str = "amd64/generic/bookworm/install";

/// A boot takes about a minute on a processor of its own.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where Debian's packages have what machines need.
const PXELINUX: &str = "/usr/lib/PXELINUX/pxelinux.0";
const SYSLINUX: &str = "/usr/lib/syslinux/modules/bios";
const GRUB: &str = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed";
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const IPXE: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loader {
    Pxelinux,
    Grub,
    Ipxe,
}

pub fn tests() -> Vec<Trial> {
    let needs = |loader: &[Needs]| {
        let all = [Needs::Path(IMAGE), Needs::Program("qemu-system-x86_64")];
        [&all, loader, &[Needs::Path(IPXE)]].concat()
    };
    vec![
        test(
            "a machine boots the installer by pxelinux while its image is being replaced",
            &needs(&[Needs::Path(PXELINUX), Needs::Path(SYSLINUX)]),
            boots_while_replaced,
        ),
        test(
            "a machine boots the installer by GRUB on EFI",
            &needs(&[Needs::Path(GRUB), Needs::Path(OVMF)]),
            || boots(Loader::Grub),
        ),
        test("a machine boots the installer by iPXE", &needs(&[]), || {
            boots(Loader::Ipxe)
        }),
    ]
}

/// A running machine.
struct Machine {
    _child: Ended,
    keyboard: ChildStdin,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    begun: Instant,
}

impl Machine {
    /// Switches a machine on. What it boots lies in `tftp`.
    fn start(loader: Loader, tftp: &Path) -> Self {
        let copy = |from: &Path| {
            let name = from.file_name().unwrap();
            fs::copy(from, tftp.join(name)).unwrap();
            format!("/{}", name.to_str().unwrap())
        };
        let mut command = Command::new("qemu-system-x86_64");
        let boot_file = match loader {
            Loader::Pxelinux => {
                for module in ["ldlinux.c32", "menu.c32", "libutil.c32"] {
                    copy(&Path::new(SYSLINUX).join(module));
                }
                // The serial line is PXELINUX's alone: with `-nographic` the BIOS writes there too.
                command.args(["-display", "none"]);
                copy(Path::new(PXELINUX))
            }
            Loader::Grub => {
                let flash = "if=pflash,format=raw";
                command
                    .arg("-drive")
                    .arg(format!("{flash},readonly=on,file={OVMF}"))
                    .arg("-drive")
                    .arg(format!("{flash},snapshot=on,file={OVMF_VARS}"))
                    .args(["-display", "none"]);
                copy(Path::new(GRUB))
            }
            // The network card's own ROM is iPXE, and takes a script.
            Loader::Ipxe => {
                command.arg("-nographic");
                "/menu.ipxe".to_string()
            }
        };
        let mut child = command
            .args(["-accel", "tcg", "-cpu", "max", "-m", "1024"])
            .args(["-no-reboot", "-boot", "n"])
            .args(["-serial", "stdio", "-monitor", "none"])
            .args(["-device", "virtio-net-pci,netdev=net", "-netdev"])
            .arg(format!(
                "user,id=net,restrict=on,tftp={},bootfile={boot_file}",
                tftp.display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a machine");
        let keyboard = child.stdin.take().unwrap();
        let (show, screen) = mpsc::channel();
        let mut serial = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = serial.read(&mut bytes) {
                if show.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            _child: Ended(child),
            keyboard,
            screen,
            seen: Vec::new(),
            begun: Instant::now(),
        }
    }

    fn has_shown(&self, text: &str) -> bool {
        let text = text.as_bytes();
        self.seen.windows(text.len()).any(|window| window == text)
    }

    /// Waits until the machine has shown this text.
    fn wait_for(&mut self, text: &str) {
        while !self.has_shown(text) {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => panic!("{error}, no {text:?} on the screen:\n{}", self.shown()),
            }
            assert!(
                self.begun.elapsed() < PATIENCE,
                "no {text:?} on the screen:\n{}",
                self.shown()
            );
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen)
            .escape_debug()
            .to_string()
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Chooses the image in the menu, where it is the first entry after the local disk.
    fn choose_the_image(&mut self) {
        const DOWN: &[u8] = b"\x1b[B";
        self.press(DOWN);
        self.press(b"\r");
    }

    /// Waits for the installer's first screen, which this generation was to bring.
    fn wait_for_installer(&mut self, loader: Loader, generation: &str) {
        self.wait_for("Linux version");
        let kernel = self.begun.elapsed();
        self.wait_for("Select a language");
        assert!(self.has_shown(generation), "{}", self.shown());
        println!(
            "{loader:?}: kernel after {:.0} s, the installer's first screen after {:.0} s",
            kernel.as_secs_f64(),
            self.begun.elapsed().as_secs_f64()
        );
    }
}

/// A world in which Debian's installer is published; and the name of its generation.
fn installer() -> (World, String) {
    let world = shipped();
    world.drop_directory("good", TARGET, Path::new(IMAGE));
    world.run_once();
    world.assert_outcome("good", "published");
    let pinned = fs::read_link(world.published(TARGET)).unwrap();
    let generation = pinned.file_name().unwrap().to_str().unwrap();
    (world, generation.to_string())
}

fn boots(loader: Loader) {
    let (world, generation) = installer();
    let mut machine = Machine::start(loader, &world.root.join("tftp"));
    machine.wait_for(TARGET);
    machine.choose_the_image();
    machine.wait_for_installer(loader, &generation);
}

/// From the moment at which the machine has its menu, what is current does not boot.
fn boots_while_replaced() {
    let (world, generation) = installer();
    let daemon = world.daemon();
    let mut machine = Machine::start(Loader::Pxelinux, &world.root.join("tftp"));
    machine.wait_for(TARGET);
    let replace = |number: usize| {
        let drop = format!("bad{number}");
        let contents = format!("no kernel, and no initrd: {number}");
        let files = ["linux", "initrd.gz"].map(|name| format!("debian-installer/amd64/{name}"));
        let files = files.each_ref().map(|path| (&**path, contents.as_bytes()));
        world.drop_image(&drop, TARGET, &files);
        until("the outcome", || world.outcome(&drop).is_some());
        world.assert_outcome(&drop, "published");
    };
    replace(0);
    machine.choose_the_image();
    let has_loaded = AtomicBool::new(false);
    let replaced = std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            let mut number = 1;
            while !has_loaded.load(Ordering::Relaxed) {
                replace(number);
                number += 1;
            }
            number
        });
        machine.wait_for("Linux version");
        has_loaded.store(true, Ordering::Relaxed);
        replacing.join().unwrap()
    });
    machine.wait_for_installer(Loader::Pxelinux, &generation);
    daemon.stop();
    println!("replaced {replaced} times between the menu and the kernel");
    assert!(replaced > 3, "{replaced}");
    // By the stable path the machine would have found no kernel.
    let linux = world.published(TARGET).join("debian-installer/amd64/linux");
    assert!(fs::read(linux).unwrap().starts_with(b"no kernel"));
}
