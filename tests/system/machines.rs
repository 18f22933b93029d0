//! Real machines, emulated: firmware, boot loader, kernel and Debian's installer, in a network that was set
//! up as README says.
//!
//! What they show is read from the serial console.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::importing::IMPORT;
use crate::lab::machine::{Firmware, Machine};
use crate::lab::mirror::{NGINX, Server};
use crate::lab::network::{self, Network};
use crate::lab::upstream::{Debian, Signers};
use crate::lab::world::{Ends, Needs, World, by_name, manifest, names, output, test, text, until};

const IMAGES: &str = "/usr/lib/debian-installer/images/12";

/// What the shipped menus have every kernel told.
const ARGUMENTS: &str = "console=ttyS0,115200n8 console=tty0";

/// What Debian's installer says when it begins, from its initrd; and its first screen, for which it works
/// half of the whole time. What was loaded is the same for both.
const BEGINS: &str = "Starting system log daemon";
const FIRST_SCREEN: &str = "Select a language";

/// So long what was published stays before it is replaced: machine and daemon have few processors.
const PAUSE: Duration = Duration::from_millis(250);

/// Of an iPXE that is to do for another ROM: that it is one the server doesn't see.
const NO_IPXE: (&str, &str) = ("dhcp-match=set:ipxe,175\n", "");

/// README says so of a server without nginx.
const BY_TFTP: (&str, &str) = (
    "dhcp-boot=tag:ipxe,http://192.0.2.1/menu.ipxe",
    "dhcp-boot=tag:ipxe,menu.ipxe",
);

pub fn tests() -> Vec<Trial> {
    let needs = |firmware: Firmware| {
        let all = [Needs::Path(IMAGES)];
        [&all, &network::NEEDS[..], &firmware.needs()].concat()
    };
    let takes = Duration::from_secs(5 * 60);
    vec![
        test(
            "the example importer of loaders publishes what each firmware needs, where README says it asks",
            &network::NEEDS,
            loaders_are_published,
        ),
        test(
            "a machine boots the installer by pxelinux while its image is being replaced",
            &needs(Firmware::Bios),
            boots_while_replaced,
        ),
        test(
            "a machine boots the installer that netboot-import brought, by shim and GRUB on EFI",
            &[
                &needs(Firmware::Efi)[..],
                &[NGINX, Needs::Program("gpg"), Needs::Program("gpgv")],
                &[Needs::Program("apt-ftparchive")],
            ]
            .concat(),
            || drop(boots(Firmware::Efi, &[])),
        ),
        test(
            "a machine boots the installer by iPXE without a web server",
            &needs(Firmware::Ipxe),
            boots_without_nginx,
        ),
        by_name(
            "a machine boots the installer by shim and GRUB with Secure Boot",
            "with Secure Boot",
            &needs(Firmware::SecureBoot),
            takes,
            || drop(boots(Firmware::SecureBoot, &[])),
        ),
        by_name(
            "a machine boots the installer by HTTP Boot and iPXE",
            "by HTTP Boot",
            &needs(Firmware::HttpBoot),
            takes,
            || drop(boots(Firmware::HttpBoot, &[])),
        ),
        by_name(
            "a machine boots the installer by shim and GRUB on arm64",
            "on arm64",
            &needs(Firmware::Arm64),
            takes,
            || drop(boots(Firmware::Arm64, &[])),
        ),
    ]
}

/// What its image has the kernel of such a machine told: it begins with a shell on the serial console.
fn cmdline(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Arm64 => "rdinit=/bin/sh proof=of-this-image console=ttyAMA0",
        _ => "rdinit=/bin/sh proof=of-this-image console=ttyS0",
    }
}

/// What the servers have to have sent for such a machine, besides kernel and initrd.
fn sent(firmware: Firmware) -> &'static [&'static str] {
    match firmware {
        Firmware::Bios => &["/bios/pxelinux.0 ", "/pxelinux.cfg/default "],
        Firmware::Ipxe => &["/menu.ipxe "],
        Firmware::Efi | Firmware::SecureBoot => &[
            "/efi-x64/shimx64.efi ",
            "/efi-x64/grubx64.efi ",
            "/grub/grub.cfg ",
        ],
        Firmware::HttpBoot => &["\"GET /ipxe/snponly.efi ", "\"GET /menu.ipxe "],
        Firmware::Arm64 => &[
            "/efi-arm64/shimaa64.efi ",
            "/efi-arm64/grubaa64.efi ",
            "/grub/grub.cfg ",
        ],
    }
}

/// Debian's installer, published for a kind of machine.
struct Installer {
    firmware: Firmware,
    target: String,
    /// The path of its generation, and in it.
    folder: String,
}

impl Installer {
    fn publish(world: &World, firmware: Firmware) -> Self {
        let arch = firmware.arch();
        let target = format!("{arch}/generic/bookworm/install");
        let image = Path::new(IMAGES).join(arch).join("text");
        if firmware == Firmware::Efi {
            bring(world, firmware, &image);
        } else {
            let boot = format!("[boot]\ncmdline = {:?}\n", cmdline(firmware));
            world.drop_copy("installer", &format!("{}{boot}", manifest(&target)), &image);
            until("the outcome", || world.outcome("installer").is_some());
            world.assert_outcome("installer", "published");
        }
        let pinned = fs::read_link(world.published(&target)).unwrap();
        let folder = format!("{}/debian-installer/{arch}", pinned.display());
        let menus = match firmware {
            Firmware::Arm64 => &["grub/grub.cfg", "menu.ipxe"][..],
            _ => &["grub/grub.cfg", "menu.ipxe", "pxelinux.cfg/default"],
        };
        for menu in menus {
            let menu = world.root.join("tftp").join(menu);
            until("the menus", || {
                fs::read_to_string(&menu).is_ok_and(|text| text.contains(&folder))
            });
        }
        Self {
            firmware,
            target,
            folder,
        }
    }

    /// Waits for the kernel, asks it what it was told, and waits for the installer to say this.
    fn assert_boots(&self, network: &Network, machine: &mut Machine, says: &str) {
        machine.wait_for("Linux version");
        let kernel = machine.runs_for();
        let told = machine.told();
        let words = format!("{ARGUMENTS} {}", cmdline(self.firmware));
        assert!(told.contains(&words), "no {words} in {told}");
        machine.wait_for(says);
        let is_secure = machine.has_shown("secureboot: Secure boot enabled");
        assert_eq!(is_secure, self.firmware == Firmware::SecureBoot);
        // iPXE asks a web server for `%40`.
        let logs = network.logs().replace("%40", "@");
        let files = ["linux", "initrd.gz"].map(|name| format!("/{}/{name} ", self.folder));
        let others = sent(self.firmware).iter().copied();
        for path in files.iter().map(String::as_str).chain(others) {
            assert!(logs.contains(path), "nobody has sent {path:?}");
        }
        println!(
            "{:?}: kernel after {:.0} s, {says:?} after {:.0} s",
            self.firmware,
            kernel.as_secs_f64(),
            machine.runs_for().as_secs_f64()
        );
    }
}

/// Has netboot-import bring an installer of Debian's from a mirror, which has it as Debian's mirrors do.
fn bring(world: &World, firmware: Firmware, netboot: &Path) {
    let (mirror, signers, arch) = (Server::nginx(), Signers::new(), firmware.arch());
    signers.make("debian");
    let debian = Debian {
        signers: &signers,
        names: &["debian"],
        suite: "bookworm",
        codename: "bookworm",
        version: "20230607+deb12u12",
    };
    debian.add(&mirror.root(), arch, netboot);
    debian.release(&mirror.root(), &[]);
    let source = format!(
        "kind = \"debian-installer\"\nurl = \"{}\"\nkeyring = {:?}\nsuite = \"bookworm\"\narch = [\"{arch}\"]\n\
         archive = true\n[boot]\nkernel = \"debian-installer/{arch}/linux\"\n\
         initrd = [\"debian-installer/{arch}/initrd.gz\"]\ncmdline = {:?}\n",
        mirror.url(""),
        signers.keyring(&["debian"]),
        cmdline(firmware)
    );
    fs::create_dir(world.root.join("sources")).unwrap();
    fs::write(world.root.join("sources/debian.toml"), source).unwrap();
    let mut import = Command::new(IMPORT);
    import.arg("run").arg("--config").arg(&world.config);
    import.arg("--sources").arg(world.root.join("sources"));
    import.arg("--state").arg(world.root.join("state"));
    let brought = output(&mut import);
    assert!(brought.status.success(), "{}", text(&brought));
}

fn loaders_are_published() {
    let network = Network::new("amd64 arm64", &[]);
    let root = network.world.root.join("tftp");
    let grub = |efi: &str| ["grub", "mm", "shim"].map(|name| format!("{name}{efi}.efi"));
    let pxelinux = ["ldlinux.c32", "libutil.c32", "menu.c32", "pxelinux.0"];
    for (alias, expected) in [
        ("efi-x64", grub("x64").to_vec()),
        ("efi-arm64", grub("aa64").to_vec()),
        ("bios", pxelinux.map(String::from).to_vec()),
        (
            "ipxe",
            ["snponly.efi", "undionly.kpxe"].map(String::from).to_vec(),
        ),
    ] {
        assert_eq!(names(&root.join(alias)), expected, "{}", network.world);
    }
    let history = |loader| network.world.run(&["history", loader]);
    let version = text(&history("amd64/generic/grub/loader"));
    assert!(version.contains("shim-signed 1"), "{version}");
    assert!(version.contains(", grub-efi-amd64-signed 1"), "{version}");
    // No menu has them.
    Installer::publish(&network.world, Firmware::Efi);
    for menu in ["pxelinux.cfg/default", "grub/grub.cfg", "menu.ipxe"] {
        let menu = fs::read_to_string(root.join(menu)).unwrap();
        assert!(!menu.contains("/loader"), "{menu}");
    }
    let again = network.publish_loaders("arm64 amd64");
    assert_eq!(again.matches("unchanged ").count(), 4, "{again}");
}

fn boots(firmware: Firmware, changes: &[(&str, &str)]) -> Network {
    let network = Network::new(firmware.arch(), changes);
    let installer = Installer::publish(&network.world, firmware);
    let mut machine = Machine::start(&network, firmware);
    machine.wait_for(&installer.target);
    machine.choose_the_image();
    installer.assert_boots(&network, &mut machine, BEGINS);
    network
}

fn boots_without_nginx() {
    let logs = boots(Firmware::Ipxe, &[BY_TFTP]).logs();
    assert!(!logs.contains("\"GET /"), "{logs}");
}

/// From the moment at which the machine has its menu, what is current does not boot.
fn boots_while_replaced() {
    let network = Network::new("amd64", &[NO_IPXE]);
    let world = &network.world;
    let installer = Installer::publish(world, Firmware::Bios);
    let mut machine = Machine::start(&network, Firmware::Bios);
    machine.wait_for(&installer.target);
    let replace = |number: usize| {
        let drop = format!("bad{number}");
        let contents = format!("no kernel, and no initrd: {number}");
        let files = ["linux", "initrd.gz"].map(|name| format!("debian-installer/amd64/{name}"));
        let files = files.each_ref().map(|path| (&**path, contents.as_bytes()));
        world.drop_image(&drop, &installer.target, &files);
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
                std::thread::sleep(PAUSE);
                number += 1;
            }
            number
        });
        let _over = Ends(&has_loaded);
        machine.wait_for("Linux version");
        has_loaded.store(true, Ordering::Relaxed);
        replacing.join().unwrap()
    });
    installer.assert_boots(&network, &mut machine, FIRST_SCREEN);
    println!("replaced {replaced} times between the menu and the kernel");
    assert!(replaced > 3, "{replaced}");
    // By the stable path the machine would have found no kernel.
    let linux = world.published(&installer.target);
    let linux = linux.join("debian-installer/amd64/linux");
    assert!(fs::read(linux).unwrap().starts_with(b"no kernel"));
}
