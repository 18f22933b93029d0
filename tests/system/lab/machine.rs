//! A machine of QEMU's in a network, seen and used by its serial console.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::console::{Console, position};
use crate::lab::network::Network;
use crate::lab::world::Needs;

/// A boot takes about a minute on a processor of its own.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where Debian's packages have the firmware: of EFI the program, and what it keeps its settings in.
const BIOS_ROM: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";
const EFI: [&str; 2] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.fd",
];
const SECURE_BOOT: [&str; 2] = [
    "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
];
const ARM64: [&str; 2] = [
    "/usr/share/AAVMF/AAVMF_CODE.fd",
    "/usr/share/AAVMF/AAVMF_VARS.fd",
];

/// What a machine begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// With iPXE in the ROM of its network card; what boots then has the serial console for itself.
    Bios,
    /// The same, and the BIOS writes on the serial console, and so does iPXE.
    Ipxe,
    Efi,
    /// With Microsoft's keys in it, as machines are sold.
    SecureBoot,
    /// Asks for nothing but HTTP Boot.
    HttpBoot,
    Arm64,
}

impl Firmware {
    /// What a test with such a machine can't do without.
    pub fn needs(self) -> [Needs; 2] {
        let file = match self {
            Self::Bios | Self::Ipxe => BIOS_ROM,
            Self::Efi | Self::HttpBoot => EFI[0],
            Self::SecureBoot => SECURE_BOOT[0],
            Self::Arm64 => ARM64[0],
        };
        [Needs::Program(self.program()), Needs::Path(file)]
    }

    fn program(self) -> &'static str {
        match self {
            Self::Arm64 => "qemu-system-aarch64",
            _ => "qemu-system-x86_64",
        }
    }

    /// The architecture of targets for such a machine.
    pub fn arch(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            _ => "amd64",
        }
    }

    /// The command that is the machine, but for what all have.
    fn command(self, network: &Network) -> Command {
        let mut command = network.command(self.program());
        let cpu = match self {
            Self::Arm64 => "cortex-a57",
            _ => "max",
        };
        let screen: &[&str] = match self {
            Self::Ipxe => &["-nographic"],
            _ => &["-display", "none"],
        };
        command.args(["-cpu", cpu]).args(screen);
        let flash = match self {
            Self::Bios | Self::Ipxe => None,
            Self::Efi => Some(EFI),
            Self::HttpBoot => {
                for version in [4, 6] {
                    let pxe = format!("name=opt/org.tianocore/IPv{version}PXESupport,string=n");
                    command.args(["-fw_cfg", &pxe]);
                }
                Some(EFI)
            }
            Self::SecureBoot => {
                command
                    .args(["-machine", "q35,smm=on", "-global"])
                    .arg("driver=cfi.pflash01,property=secure,value=on");
                Some(SECURE_BOOT)
            }
            Self::Arm64 => {
                command.args(["-machine", "virt"]);
                Some(ARM64)
            }
        };
        // Without a ROM of its own EFI's own drivers have the network card.
        let mut card = "virtio-net-pci,netdev=net".to_string();
        if let Some([code, settings]) = flash {
            let flash = "if=pflash,format=raw";
            command
                .arg("-drive")
                .arg(format!("{flash},readonly=on,file={code}"))
                .arg("-drive")
                .arg(format!("{flash},snapshot=on,file={settings}"));
            card += ",romfile=";
        }
        command.arg("-device").arg(card);
        command
    }
}

/// A running machine.
pub struct Machine {
    console: Console,
    begun: Instant,
}

impl Machine {
    /// Switches a machine on.
    pub fn start(network: &Network, firmware: Firmware) -> Self {
        let mut command = firmware.command(network);
        command.args(["-m", "1024", "-netdev"]);
        command.arg("tap,id=net,ifname=eth0,script=no,downscript=no");
        Self {
            console: Console::start(&mut command),
            begun: Instant::now(),
        }
    }

    /// Since the machine was switched on.
    pub fn runs_for(&self) -> Duration {
        self.begun.elapsed()
    }

    /// All that the machine has shown.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.console.seen).to_string()
    }

    pub fn has_shown(&self, text: &str) -> bool {
        position(&self.console.seen, text.as_bytes()).is_some()
    }

    /// Waits until the machine has shown this text.
    pub fn wait_for(&mut self, text: &str) {
        let patience = PATIENCE.saturating_sub(self.begun.elapsed());
        let find = |seen: &mut Vec<u8>| position(seen, text.as_bytes());
        self.console.wait(patience, text, find);
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.console.press(keys);
    }

    /// What the kernel was told, by `/proc/cmdline`; of a machine that has begun with a shell
    /// (`rdinit=/bin/sh`). After that it goes on as without.
    pub fn told(&mut self) -> String {
        self.wait_for("# ");
        // No line of the kernel's is to come into what is asked for.
        self.press(b"dmesg -n 1; mount -t proc proc /proc\r");
        self.press(b"echo \"told [$(cat /proc/cmdline)]\"; echo all of it\r");
        self.wait_for("\nall of it");
        let seen = self.seen();
        let (_, told) = seen.rsplit_once("\ntold [").expect("an answer");
        let told = told.split("]\r\n").next().unwrap().to_string();
        self.press(b"umount /proc; exec /init\r");
        told
    }

    /// Chooses the image in the menu, where it is the first entry after the local disk.
    pub fn choose_the_image(&mut self) {
        const DOWN: &[u8] = b"\x1b[B";
        self.press(DOWN);
        self.press(b"\r");
    }
}
