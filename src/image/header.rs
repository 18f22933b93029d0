//! What the first bytes of a file tell: for which machines a program is, and whether a kernel can unpack
//! an initrd.

/// So many bytes of a file are enough, if it has them.
pub(super) const HEAD: usize = 4 << 10;

/// The architectures whose machines run a program; none where its beginning doesn't say.
type Machines = &'static [&'static str];

const AMD64: Machines = &["amd64"];
const I386: Machines = &["i386"];
/// A BIOS starts programs of 32 bits on machines of 64, too.
const BIOS: Machines = &["amd64", "i386"];
const ARM64: Machines = &["arm64"];
const ARMHF: Machines = &["armhf"];
const PPC64EL: Machines = &["ppc64el"];
const S390X: Machines = &["s390x"];
const RISCV64: Machines = &["riscv64"];

/// The one name of an architecture that goes by several; `None` of one whose programs nobody knows here.
pub(super) fn architecture(name: &str) -> Option<&'static str> {
    Some(match name {
        "amd64" | "x86_64" => "amd64",
        "i386" => "i386",
        "arm64" | "aarch64" => "arm64",
        "armhf" => "armhf",
        "ppc64el" | "ppc64le" => "ppc64el",
        "s390x" => "s390x",
        "riscv64" => "riscv64",
        _ => return None,
    })
}

/// The architectures whose machines run a kernel or an EFI program that begins so.
pub(super) fn machines(head: &[u8]) -> Machines {
    let known = of_efi(head).or_else(|| of_elf(head));
    known.or_else(|| of_kernel(head)).unwrap_or_default()
}

/// Those of an EFI program, which kernels are as well. See "PE Format" in Microsoft's documentation.
fn of_efi(head: &[u8]) -> Option<Machines> {
    let start = at(head, 0x3c).filter(|_| head.starts_with(b"MZ"))?;
    let start = usize::try_from(u32::from_le_bytes(start)).ok()?;
    let [b'P', b'E', 0, 0, low, high] = at(head, start)? else {
        return None;
    };
    Some(match u16::from_le_bytes([low, high]) {
        0x014c => I386,
        0x01c2 | 0x01c4 => ARMHF,
        0x5064 => RISCV64,
        0x8664 => AMD64,
        0xaa64 => ARM64,
        // EFI byte code, for one, runs anywhere.
        _ => &[],
    })
}

/// Those of an ELF file: elf(5).
fn of_elf(head: &[u8]) -> Option<Machines> {
    let [0x7f, b'E', b'L', b'F', class, data] = at(head, 0)? else {
        return None;
    };
    let machine = at(head, 18)?;
    let machine = match data {
        2 => u16::from_be_bytes(machine),
        _ => u16::from_le_bytes(machine),
    };
    Some(match (machine, class, data) {
        (3, ..) => BIOS,
        (21, 2, 1) => PPC64EL,
        (22, 2, _) => S390X,
        (40, ..) => ARMHF,
        (62, ..) => AMD64,
        (183, ..) => ARM64,
        (243, 2, _) => RISCV64,
        _ => &[],
    })
}

/// Those of a Linux kernel that is no EFI program: Documentation/arch of the kernel's sources, in
/// x86/boot.rst, arm64/booting.rst and riscv/boot-image-header.rst. The magic number of a zImage for ARM
/// stands in its head.S.
fn of_kernel(head: &[u8]) -> Option<Machines> {
    if at(head, 0x202) == Some(*b"HdrS") {
        let [version, flags] = [0x206, 0x236].map(|it| at(head, it).map_or(0, u16::from_le_bytes));
        // The flags are there since version 2.12; the first says that the kernel is one of 64 bits.
        let is_64 = version >= 0x020c && flags & 1 == 1;
        return Some(if is_64 { AMD64 } else { BIOS });
    }
    match at(head, 0x38) {
        Some([b'A', b'R', b'M', 0x64]) => return Some(ARM64),
        Some([b'R', b'S', b'C', 0x05]) => return Some(RISCV64),
        _ => {}
    }
    (at(head, 0x24) == Some(0x016f_2818_u32.to_le_bytes())).then_some(ARMHF)
}

/// How an initrd begins: as an archive of cpio, or compressed. The last is a file system.
const INITRDS: [&[u8]; 12] = [
    b"070701",
    b"070702",
    b"070707",
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x02\x21\x4c\x18",
    b"\x04\x22\x4d\x18",
    b"\x89LZO\0",
    b"\x5d\0\0",
    b"BZh",
    b"hsqs",
];

/// Whether a kernel can unpack an initrd that begins so: cpio (also an archive of microcode before another),
/// gzip, xz, zstd, lz4, lzo, lzma, bzip2 or squashfs.
pub(super) fn is_initrd(head: &[u8]) -> bool {
    // Zeros before an archive are skipped.
    let start = head.iter().position(|byte| *byte != 0).unwrap_or(0);
    let mut formats = INITRDS.iter();
    formats.any(|format| head[start..].starts_with(format))
}

/// The bytes at an offset, if they are there.
fn at<const N: usize>(head: &[u8], offset: usize) -> Option<[u8; N]> {
    head.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of zeros but for these bytes at these offsets.
    fn file(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 1 << 10];
        for (at, bytes) in parts {
            file[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    fn efi(machine: u16) -> Vec<u8> {
        let [low, high] = machine.to_le_bytes();
        let header = [b'P', b'E', 0, 0, low, high];
        file(&[(0, b"MZ"), (0x3c, &[0x80, 1]), (0x180, &header)])
    }

    fn elf(class: u8, data: u8, machine: u16) -> Vec<u8> {
        let machine = match data {
            2 => machine.to_be_bytes(),
            _ => machine.to_le_bytes(),
        };
        let ident = [0x7f, b'E', b'L', b'F', class, data];
        file(&[(0, &ident), (18, &machine)])
    }

    fn bz_image(version: u16, flags: u8) -> Vec<u8> {
        let version = version.to_le_bytes();
        file(&[(0x202, b"HdrS"), (0x206, &version), (0x236, &[flags])])
    }

    #[test]
    fn the_beginning_of_a_program_says_for_which_machines_it_is() {
        for (what, head, expected) in [
            ("EFI for amd64", efi(0x8664), AMD64),
            ("EFI for i386", efi(0x14c), I386),
            ("EFI for arm64", efi(0xaa64), ARM64),
            ("EFI for arm", efi(0x1c2), ARMHF),
            ("EFI for riscv64", efi(0x5064), RISCV64),
            ("EFI byte code", efi(0xebc), &[]),
            ("a program of DOS", file(&[(0, b"MZ")]), &[]),
            ("ELF for amd64", elf(2, 1, 62), AMD64),
            ("ELF for i386", elf(1, 1, 3), BIOS),
            ("ELF for arm64", elf(2, 1, 183), ARM64),
            ("ELF for ppc64el", elf(2, 1, 21), PPC64EL),
            ("ELF for ppc64", elf(2, 2, 21), &[]),
            ("ELF for s390x", elf(2, 2, 22), S390X),
            ("ELF for riscv64", elf(2, 1, 243), RISCV64),
            ("bzImage of 64 bits", bz_image(0x20f, 0x3f), AMD64),
            ("bzImage of 32 bits", bz_image(0x20f, 0x3e), BIOS),
            ("memdisk", bz_image(0x203, 0xff), BIOS),
            ("Image for arm64", file(&[(0x38, b"ARM\x64")]), ARM64),
            ("Image for riscv64", file(&[(0x38, b"RSC\x05")]), RISCV64),
            ("zImage", file(&[(0x24, b"\x18\x28\x6f\x01")]), ARMHF),
            ("zeros", file(&[]), &[]),
            ("a text", b"#!ipxe\n".to_vec(), &[]),
            ("nothing", Vec::new(), &[]),
        ] {
            assert_eq!(machines(&head), expected, "{what}");
        }
    }

    #[test]
    fn what_ends_in_the_middle_of_its_header_says_nothing_and_breaks_nothing() {
        for whole in [efi(0x8664), elf(2, 1, 62), bz_image(0x20f, 1)] {
            for end in 0..whole.len() {
                let machines = machines(&whole[..end]);
                assert!(machines.is_empty() || machines.contains(&"amd64"), "{end}");
            }
        }
        let far = file(&[(0, b"MZ"), (0x3c, &[0xff; 4])]);
        assert!(machines(&far).is_empty());
    }

    #[test]
    fn an_initrd_is_known_by_its_first_bytes() {
        for format in INITRDS {
            let padded = [&[0; 8][..], format, b"more"].concat();
            assert!(is_initrd(format) && is_initrd(&padded), "{format:?}");
            assert!(!is_initrd(&format[1..]), "{format:?}");
        }
        for other in [
            &b""[..],
            b"\0\0\0\0",
            b"<!DOCTYPE html>",
            b"MZ",
            b"PK\x03\x04",
        ] {
            assert!(!is_initrd(other), "{other:?}");
        }
    }
}
