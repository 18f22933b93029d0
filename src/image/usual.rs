//! Which files of an image are its kernel and its initrd, told by the names that upstreams give them.

use crate::words::Boot;

/// Kernels that have one of these names.
const KERNELS: &[&str] = &[
    "linux",
    "vmlinuz",
    "vmlinuz.efi",
    "bzImage",
    "Image",
    "kernel",
    "boot-kernel",
    // Windows PE, whose files this boots.
    WIMBOOT,
    // The EFI program of memtest86+ is a kernel as well.
    "memtest.efi",
    "memtest64.efi",
    "memtest86+.efi",
    "memtest86+x64.efi",
];

/// Initrds that have one of these names.
const INITRDS: &[&str] = &[
    "initrd.gz",
    "initrd",
    "initrd.img",
    "initrd.xz",
    "initramfs",
    "initramfs.img",
    "boot-initrd",
];

/// Before and after what tells a kernel's flavour, in longer names: `vmlinuz-lts`, `kernel-amd64`,
/// `flatcar_production_pxe.vmlinuz`, `fedora-coreos-41-live-kernel-x86_64`.
const KERNEL_PARTS: &[(&str, &str)] = &[
    ("vmlinuz-", ""),
    ("bzImage-", ""),
    ("kernel-", ""),
    ("", ".vmlinuz"),
    (MEMTEST, ".bin"),
    ("", "-live-kernel-x86_64"),
    ("", "-live-kernel-aarch64"),
    ("", "-live-kernel.x86_64"),
    ("", "-live-kernel.aarch64"),
];

/// The same for the initrd that belongs to a kernel.
const INITRD_PARTS: &[(&str, &str)] = &[
    ("initrd.img-", ""),
    ("initrd-", ""),
    ("initrd-", ".img"),
    ("initrd-", ".gz"),
    ("initramfs-", ""),
    ("initramfs-", ".img"),
    ("initramfs-", ".xz"),
    ("initramfs-", ".gz"),
    ("", "_image.cpio.gz"),
    ("", "-live-initramfs.x86_64.img"),
    ("", "-live-initramfs.aarch64.img"),
];

const WIMBOOT: &str = "wimboot";
const MEMTEST: &str = "memtest";

/// What wimboot boots, in its order, in whatever case.
const OF_WIMBOOT: &[&str] = &["bootmgr", "bcd", "boot.sdi", "boot.wim"];

/// What may stand behind a file's name where the file belongs to another: a signature, a checksum.
const BESIDE: &[&str] = &[
    ".sig", ".asc", ".gpg", ".sha256", ".sha512", ".md5", ".txt", ".json", ".old",
];

impl Boot {
    /// How an image boots: what its importer says, and where the importer names neither a kernel nor an
    /// EFI program, the kernel that has one of the usual names; its initrds as well where none is named.
    /// `files` are the paths of the image's regular files, in their order; only plain ones are looked at.
    pub(crate) fn found<'p>(&self, files: impl Iterator<Item = &'p str> + Clone) -> Self {
        let mut boot = self.clone();
        if boot.kernel.is_some() || boot.efi.is_some() {
            return boot;
        }
        let kernels = files.clone();
        let kernels = kernels.filter_map(|path| Some((is_flavoured(path)?, path)));
        let first =
            |(is_flavoured, path): &(bool, &str)| (*is_flavoured, path.matches('/').count());
        let Some((_, path)) = kernels.min_by_key(first) else {
            return boot;
        };
        boot.kernel = Some(path.to_string());
        if boot.initrd.is_empty() {
            boot.initrd = initrds(path, files);
        }
        boot
    }
}

/// Whether the path of a kernel has a name that may be another flavour's as well; `None` of no kernel.
fn is_flavoured(path: &str) -> Option<bool> {
    let (_, name) = parted(path);
    let is_exact = KERNELS.contains(&name);
    let is_flavoured = || flavour(name, KERNEL_PARTS).is_some() && !is_beside(name);
    ((is_exact || is_flavoured()) && Boot::is_plain(path)).then_some(!is_exact)
}

/// The initrds that belong to the kernel at a path.
fn initrds<'p>(kernel: &str, files: impl Iterator<Item = &'p str> + Clone) -> Vec<String> {
    let (folder, kernel) = parted(kernel);
    if kernel == WIMBOOT {
        let found = OF_WIMBOOT.iter().filter_map(|wanted| {
            let mut files = files.clone();
            files.find(|path| parted(path).1.eq_ignore_ascii_case(wanted) && Boot::is_plain(path))
        });
        return found.map(str::to_string).collect();
    }
    if kernel.starts_with(MEMTEST) {
        return Vec::new();
    }
    let wanted = flavour(kernel, KERNEL_PARTS);
    let initrd = |path: &'p str| {
        let (beside, name) = parted(path);
        let flavour = flavour(name, INITRD_PARTS).filter(|_| !is_beside(name));
        // The smaller the better: the same flavour, then a name without any.
        let rank = match (wanted, flavour) {
            (Some(wanted), Some(is)) if wanted == is => 0,
            _ if INITRDS.contains(&name) => 1,
            (None, Some(_)) => 2,
            _ => return None,
        };
        let is_beside = beside == folder;
        // Another kernel's initrd is none at all.
        (is_beside || rank < 2).then_some(((!is_beside, rank), path))
    };
    let found = files.filter(|path| Boot::is_plain(path)).filter_map(initrd);
    let found = found.min_by_key(|(rank, _)| *rank);
    found
        .map(|(_, path)| path.to_string())
        .into_iter()
        .collect()
}

/// A path's folder, and its name there.
pub(super) fn parted(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn is_beside(name: &str) -> bool {
    BESIDE.iter().any(|end| name.ends_with(end))
}

/// What tells a file from others of its kind: `lts` of `vmlinuz-lts`. Of several forms that fit, the one
/// that leaves least.
fn flavour<'n>(name: &'n str, parts: &[(&str, &str)]) -> Option<&'n str> {
    let rest = |(before, after): &(&str, &str)| {
        let rest = name.strip_prefix(before)?.strip_suffix(after)?;
        (!rest.is_empty()).then_some(rest)
    };
    parts.iter().filter_map(rest).min_by_key(|rest| rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in an image of these files: the kernel, then the initrds.
    fn found(files: &[&str]) -> Vec<String> {
        let mut files = files.to_vec();
        files.sort_unstable();
        let boot = Boot::default().found(files.into_iter());
        assert_eq!((boot.cmdline, boot.title, boot.efi), (None, None, None));
        boot.kernel.into_iter().chain(boot.initrd).collect()
    }

    /// Of each upstream's own images some files, and what is found.
    const UPSTREAMS: &[(&str, &[&str], &[&str])] = &[
        (
            "Debian's installer",
            &[
                "debian-installer/amd64/boot-screens/menu.cfg",
                "debian-installer/amd64/bootnetx64.efi",
                "debian-installer/amd64/initrd.gz",
                "debian-installer/amd64/linux",
                "version.info",
            ],
            &[
                "debian-installer/amd64/linux",
                "debian-installer/amd64/initrd.gz",
            ],
        ),
        (
            "a Debian system's /boot",
            &[
                "config-6.1.0-18-amd64",
                "initrd.img-6.1.0-17-amd64",
                "initrd.img-6.1.0-18-amd64",
                "System.map-6.1.0-18-amd64",
                "vmlinuz-6.1.0-18-amd64",
            ],
            &["vmlinuz-6.1.0-18-amd64", "initrd.img-6.1.0-18-amd64"],
        ),
        (
            "Ubuntu's live CD of before 19.10",
            &["casper/initrd.lz", "casper/initrd", "casper/vmlinuz.efi"],
            &["casper/vmlinuz.efi", "casper/initrd"],
        ),
        (
            "a kernel of one's own, by its version",
            &["bzImage-6.12", "initrd-6.12"],
            &["bzImage-6.12", "initrd-6.12"],
        ),
        (
            "Ubuntu's netboot tarball",
            &[
                "amd64/bootx64.efi",
                "amd64/initrd",
                "amd64/linux",
                "amd64/pxelinux.0",
            ],
            &["amd64/linux", "amd64/initrd"],
        ),
        (
            "Ubuntu's live server",
            &[
                "casper/initrd",
                "casper/vmlinuz",
                "casper/filesystem.squashfs",
            ],
            &["casper/vmlinuz", "casper/initrd"],
        ),
        (
            "MAAS",
            &["boot-initrd", "boot-kernel", "squashfs"],
            &["boot-kernel", "boot-initrd"],
        ),
        (
            "Fedora and Rocky",
            &[
                "images/install.img",
                "images/pxeboot/initrd.img",
                "images/pxeboot/vmlinuz",
                "EFI/BOOT/grubx64.efi",
            ],
            &["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"],
        ),
        (
            "Fedora CoreOS",
            &[
                "fedora-coreos-41.20250105.3.0-live-initramfs.x86_64.img",
                "fedora-coreos-41.20250105.3.0-live-initramfs.x86_64.img.sig",
                "fedora-coreos-41.20250105.3.0-live-kernel-x86_64",
                "fedora-coreos-41.20250105.3.0-live-kernel-x86_64.sig",
                "fedora-coreos-41.20250105.3.0-live-rootfs.x86_64.img",
            ],
            &[
                "fedora-coreos-41.20250105.3.0-live-kernel-x86_64",
                "fedora-coreos-41.20250105.3.0-live-initramfs.x86_64.img",
            ],
        ),
        (
            "openSUSE",
            &[
                "boot/x86_64/loader/initrd",
                "boot/x86_64/loader/linux",
                "content",
            ],
            &["boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"],
        ),
        (
            "Alpine",
            &[
                "boot/config-lts",
                "boot/initramfs-lts",
                "boot/initramfs-virt",
                "boot/modloop-lts",
                "boot/vmlinuz-lts",
                "boot/vmlinuz-virt",
            ],
            &["boot/vmlinuz-lts", "boot/initramfs-lts"],
        ),
        (
            "Arch",
            &[
                "arch/boot/amd-ucode.img",
                "arch/boot/x86_64/initramfs-linux-fallback.img",
                "arch/boot/x86_64/initramfs-linux.img",
                "arch/boot/x86_64/vmlinuz-linux",
                "arch/boot/x86_64/vmlinuz-linux.sig",
            ],
            &[
                "arch/boot/x86_64/vmlinuz-linux",
                "arch/boot/x86_64/initramfs-linux.img",
            ],
        ),
        (
            "NixOS",
            &["bzImage", "initrd", "netboot.ipxe"],
            &["bzImage", "initrd"],
        ),
        (
            "Talos",
            &["initramfs-amd64.xz", "vmlinuz-amd64"],
            &["vmlinuz-amd64", "initramfs-amd64.xz"],
        ),
        (
            "Talos' image factory",
            &["initramfs-arm64.xz", "kernel-arm64"],
            &["kernel-arm64", "initramfs-arm64.xz"],
        ),
        (
            "Flatcar",
            &[
                "flatcar_production_pxe.vmlinuz",
                "flatcar_production_pxe.vmlinuz.sig",
                "flatcar_production_pxe_image.cpio.gz",
                "flatcar_production_pxe_image.cpio.gz.sig",
            ],
            &[
                "flatcar_production_pxe.vmlinuz",
                "flatcar_production_pxe_image.cpio.gz",
            ],
        ),
        (
            "Windows PE by wimboot",
            &[
                "Boot/BCD",
                "Boot/boot.sdi",
                "bootmgr",
                "sources/boot.wim",
                "wimboot",
            ],
            &[
                "wimboot",
                "bootmgr",
                "Boot/BCD",
                "Boot/boot.sdi",
                "sources/boot.wim",
            ],
        ),
        (
            "memtest86+",
            &["memtest86+x64.bin", "memtest86+x64.efi"],
            &["memtest86+x64.efi"],
        ),
    ];

    #[test]
    fn kernel_and_initrd_are_found_by_the_names_that_upstreams_give_them() {
        for (whose, files, expected) in UPSTREAMS {
            assert_eq!(found(files), *expected, "{whose}");
        }
    }

    #[test]
    fn what_only_looks_like_a_kernel_or_an_initrd_is_none() {
        for files in [
            &["linux.sig", "vmlinuz-lts.asc", "vmlinuz-", "file"][..],
            &["initrd.gz"],
            &["a b/linux", "$x/vmlinuz"],
        ] {
            assert_eq!(found(files), [""; 0], "{files:?}");
        }
        assert_eq!(found(&["vmlinuz-a", "initramfs-b"]), ["vmlinuz-a"]);
        assert_eq!(found(&["linux", "x/initramfs-b"]), ["linux"]);
    }

    #[test]
    fn an_exact_name_and_a_short_way_go_first() {
        assert_eq!(found(&["a/linux", "vmlinuz-lts"]), ["a/linux"]);
        assert_eq!(found(&["a/linux", "b/c/linux"]), ["a/linux"]);
        assert_eq!(found(&["a/b/linux", "z/linux"]), ["z/linux"]);
        let beside = found(&["a/initrd", "b/initrd.xz", "b/linux"]);
        assert_eq!(beside, ["b/linux", "b/initrd.xz"]);
        assert_eq!(found(&["a/initrd", "b/linux"]), ["b/linux", "a/initrd"]);
    }

    #[test]
    fn what_the_importer_says_is_what_is_booted() {
        let files = ["initrd.gz", "linux", "other"];
        let find = |said: &Boot| said.found(files.into_iter());
        let text = |text: &str| Some(text.to_string());
        let kernel = Boot {
            kernel: text("other"),
            ..Boot::default()
        };
        assert_eq!(find(&kernel), kernel, "without an initrd");
        let efi = Boot {
            efi: text("other"),
            ..Boot::default()
        };
        assert_eq!(find(&efi), efi);
        let named = Boot {
            initrd: vec!["other".to_string()],
            title: text("x"),
            ..Boot::default()
        };
        let expected = Boot {
            kernel: text("linux"),
            ..named.clone()
        };
        assert_eq!(find(&named), expected);
    }
}
