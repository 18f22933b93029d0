//! What is noted of an image that will not boot: by names, by sizes, and by the first bytes of the files
//! that it is booted from. Nothing else of it is read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileExt as _;

use bytesize::ByteSize;

use super::Image;
use super::entry::{Content, Entry, changed, file_at};
use super::header::{HEAD, architecture, is_initrd, machines};
use super::usual::parted;
use crate::fault::Fault;
use crate::settings::TftpSettings;
use crate::text::quoted;
use crate::words::{Boot, Note, NoteKind};

/// So many notes of a kind are kept; the others are counted.
const MAX: usize = 10;

/// Kernels whose file's name begins so load what else there is: the initrds beside them are no initrds of
/// Linux.
const LOADERS_OF_OTHERS: [&str; 6] = ["wimboot", "memdisk", "ipxe", "memtest", "xen", "mboot"];

/// How the names of boot loaders end, in whatever case.
const LOADERS: [&str; 6] = [".efi", "pxelinux.0", ".c32", ".kpxe", ".lkrn", ".pxe"];

/// What upload tools put behind the name of a file as long as it isn't whole.
const PARTIAL: [&str; 2] = [".part", ".filepart"];

/// The notes of an image, as they are found.
#[derive(Default)]
struct Notes {
    kept: Vec<Note>,
    left_out: BTreeMap<NoteKind, usize>,
}

impl Notes {
    fn add(&mut self, kind: NoteKind, path: &str, text: String) {
        let before = self.kept.iter().filter(|it| it.kind == kind).count();
        if before == MAX {
            *self.left_out.entry(kind).or_default() += 1;
            return;
        }
        let path = Some(path.to_string());
        self.kept.push(Note { kind, path, text });
    }

    /// What names alone tell; of a file that `is_named` as one to boot from its size was told.
    fn look_at_names(&mut self, entries: &[Entry], is_named: impl Fn(&str) -> bool) {
        let mut known = HashMap::<String, &str>::new();
        for Entry { path, content, .. } in entries {
            let (folder, name) = parted(path);
            let shown = || quoted(path);
            if *content == Content::File(0) && is_loader(name) && !is_named(path) {
                let text = format!("the loader {} is empty", shown());
                self.add(NoteKind::EmptyFile, path, text);
            }
            // Whatever lies in twins of a folder is no twin itself.
            let twin = known.insert(path.to_lowercase(), path);
            if let Some(twin) = twin.filter(|twin| parted(twin).0 == folder) {
                let text = format!(
                    "{} and {} only differ in case, and some servers and loaders know no case",
                    quoted(twin),
                    shown()
                );
                self.add(NoteKind::CaseTwins, path, text);
            }
            if name.contains('\\') {
                let text = format!(
                    "{} has a backslash in its name: an archive of Windows, unpacked without its \
                     folders?",
                    shown()
                );
                self.add(NoteKind::BackslashName, path, text);
            }
            if let Some(of) = litter_of(name) {
                let text = format!("{} is left behind by {of}", shown());
                self.add(NoteKind::Litter, path, text);
            }
            if matches!(content, Content::File(_)) && is_partial(name) {
                let text = format!(
                    "{} is named like what an upload has left half done",
                    shown()
                );
                self.add(NoteKind::PartialUpload, path, text);
            }
        }
    }

    fn all(mut self) -> Vec<Note> {
        for (kind, count) in self.left_out {
            self.kept.push(Note {
                kind,
                path: None,
                text: format!("and {count} more"),
            });
        }
        self.kept.sort_by_key(|note| note.kind);
        self.kept
    }
}

impl Note {
    /// What is noted of an image that boots so, as far as its manifest says, at targets of this
    /// architecture.
    ///
    /// # Errors
    /// What is wrong with a file that it is booted from.
    pub(crate) fn all_of(image: &Image, boot: &Boot, arch: &str) -> Result<Vec<Self>, Fault> {
        let boot = boot.found(image.files().map(|(path, _)| path));
        let mut notes = Notes::default();
        let kernel = boot.kernel.as_deref().map_or("", |path| parted(path).1);
        let loads_others = LOADERS_OF_OTHERS.iter().any(|it| kernel.starts_with(it));
        for (key, path) in boot.paths() {
            // Whatever the manifest names is there.
            let Some((file, size)) = file_at(path, image.entries()) else {
                continue;
            };
            let (what, is_initrd) = match key {
                "efi" => ("EFI program", false),
                key => (key, key == "initrd"),
            };
            let what = format!("the {what} {}", quoted(path));
            let found = if size == 0 {
                Some((NoteKind::EmptyFile, format!("{what} is empty")))
            } else if is_initrd && loads_others {
                None
            } else {
                let head = head(image, file, size)?;
                if is_initrd {
                    of_initrd(&what, size, &head)
                } else {
                    of_program(&what, &head, arch, loads_others)
                }
            };
            if let Some((kind, text)) = found {
                notes.add(kind, path, text);
            }
        }
        let is_named = |path: &str| boot.paths().any(|(_, named)| named == path);
        notes.look_at_names(image.entries(), is_named);
        Ok(notes.all())
    }

    /// That an image needs a URL, and there is none.
    pub(crate) fn no_url(boot: &Boot, tftp: &TftpSettings) -> Option<Self> {
        let cmdline = boot.cmdline.as_ref().filter(|_| tftp.url.is_none())?;
        cmdline.contains(Boot::URL).then(|| Self {
            kind: NoteKind::NoUrl,
            path: None,
            text: "the command line has `{url}`, and the daemon no `tftp.url`".to_string(),
        })
    }
}

/// The first bytes of a file.
fn head(image: &Image, path: &str, size: u64) -> Result<Vec<u8>, Fault> {
    let open = image.open(path, size)?;
    let length = usize::try_from(size).map_or(HEAD, |size| size.min(HEAD));
    let mut head = vec![0; length];
    match open.file.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(head),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed(path)),
        Err(error) => Err(open.failure(error)),
    }
}

/// What is noted of a kernel or an EFI program that begins so, at targets of this architecture.
fn of_program(
    what: &str,
    head: &[u8],
    arch: &str,
    loads_others: bool,
) -> Option<(NoteKind, String)> {
    let (ours, machines) = (architecture(arch)?, machines(head));
    // What loads other systems starts on any BIOS, also where it is an EFI program of 64 bits as well.
    let is_for_bios = loads_others && ours == "i386" && machines == ["amd64"];
    if machines.is_empty() || machines.contains(&ours) || is_for_bios {
        return None;
    }
    let machines = machines.join(" and ");
    let text = format!("{what} is for {machines}, and the target for {arch}");
    Some((NoteKind::WrongArchitecture, text))
}

/// What is noted of an initrd of this size, in bytes, that begins so.
fn of_initrd(what: &str, size: u64, head: &[u8]) -> Option<(NoteKind, String)> {
    if size > u64::from(u32::MAX) {
        let text = format!("{what} has {}; expected less than 4 GiB", ByteSize(size));
        return Some((NoteKind::InitrdTooLarge, text));
    }
    let text =
        || format!("{what} is neither cpio, gzip, xz, zstd, lz4, lzo, lzma, bzip2 nor squashfs");
    (!is_initrd(head)).then(|| (NoteKind::UnknownFormat, text()))
}

fn is_loader(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    LOADERS.iter().any(|end| name.ends_with(end))
}

/// Whose litter it is.
fn litter_of(name: &str) -> Option<&'static str> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if name == ".DS_Store" || name.starts_with("._") {
        return Some("macOS");
    }
    if is("Thumbs.db") || is("desktop.ini") {
        return Some("Windows");
    }
    (name == "@eaDir").then_some("a Synology NAS")
}

fn is_partial(name: &str) -> bool {
    PARTIAL.iter().any(|end| name.ends_with(end)) || is_temporary_of_rsync(name)
}

/// Whether it is a name that rsync gives to a file while it brings it: `.NAME.XXXXXX`, with letters and
/// digits as they come. In a word, or in `.NAME.sha256`, large letters come first and digits last; by
/// chance they do so once in eighteen times.
fn is_temporary_of_rsync(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|it| it.rsplit_once('.'));
    parts.is_some_and(|(name, end)| {
        let is_plain = end.len() == 6 && end.bytes().all(|it| it.is_ascii_alphanumeric());
        let kind = |byte: &u8| (byte.is_ascii_digit(), byte.is_ascii_lowercase());
        !name.is_empty() && is_plain && !end.as_bytes().is_sorted_by_key(kind)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::Dir;

    /// A file: its path, its bytes, and zeros up to a size.
    type File<'f> = (&'f str, &'f [u8], u64);

    /// The words and paths of the notes of an image of these files at targets of amd64.
    fn noted(files: &[File<'_>], boot: &str) -> Vec<String> {
        let notes = notes(files, boot, "amd64");
        let shown = |note: Note| format!("{} {}", note.kind, note.path.unwrap_or_default());
        notes.into_iter().map(shown).collect()
    }

    fn notes(files: &[File<'_>], boot: &str, arch: &str) -> Vec<Note> {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes, size) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(*size.max(&(bytes.len() as u64))).unwrap();
        }
        symlink("linux", folder.path().join("vmlinuz")).unwrap();
        let image = Image::read(Dir::open(folder.path()).unwrap(), None).unwrap();
        Note::all_of(&image, &toml::from_str(boot).unwrap(), arch).unwrap()
    }

    /// Kernels of two architectures, as far as their headers say.
    const X86: &[u8] = &header([0x64, 0x86]);
    const ARM: &[u8] = &header([0x64, 0xaa]);

    const fn header(machine: [u8; 2]) -> [u8; 128] {
        let mut bytes = [0; 128];
        (bytes[0], bytes[1], bytes[0x3c]) = (b'M', b'Z', 0x40);
        (bytes[0x40], bytes[0x41]) = (b'P', b'E');
        [bytes[0x44], bytes[0x45]] = machine;
        bytes
    }

    const GZIP: &[u8] = b"\x1f\x8b\x08\0";
    const GOOD: [File<'_>; 2] = [("initrd.gz", GZIP, 0), ("linux", X86, 0)];

    /// Files with a note, what the note is, and files that are like them and have none.
    type Row<'r> = (&'r [File<'r>], &'r str, &'r [File<'r>]);
    const ROWS: [Row<'_>; 13] = [
        (
            &[("linux", b"", 0)],
            "empty-file linux",
            &[("linux", b"x", 0)],
        ),
        (
            &[("initrd.gz", b"", 0)],
            "empty-file initrd.gz",
            &[("other.gz", b"", 0)],
        ),
        (
            &[("EFI/BOOTX64.EFI", b"", 0)],
            "empty-file EFI/BOOTX64.EFI",
            &[("EFI/BOOTX64.CSV", b"", 0), ("grub.efi", b"x", 0)],
        ),
        (
            &[("a/Linux", b"x", 0), ("a/linux", b"x", 0)],
            "case-twins a/linux",
            &[("A/linux", b"x", 0), ("b/Linux", b"x", 0)],
        ),
        (
            &[("A/x", b"x", 0), ("a/x", b"x", 0)],
            "case-twins a",
            &[("Ax", b"x", 0), ("a/x", b"x", 0)],
        ),
        (
            &[("boot\\bcd", b"x", 0)],
            "backslash-name boot\\bcd",
            &[("boot/bcd", b"x", 0)],
        ),
        (
            &[("a/.DS_Store", b"x", 0)],
            "litter a/.DS_Store",
            &[("a/DS_Store", b"x", 0), (".disk/info", b"x", 0)],
        ),
        (
            &[("@eaDir/linux", b"x", 0)],
            "litter @eaDir",
            &[("eaDir/linux", b"x", 0)],
        ),
        (
            &[("linux.part", b"x", 0)],
            "partial-upload linux.part",
            &[("parts", b"x", 0), ("disk.part1", b"x", 0)],
        ),
        (
            &[(".linux.x7K2p9", b"x", 0)],
            "partial-upload .linux.x7K2p9",
            &[
                (".linux.sha256", b"x", 0),
                (".linux.backup", b"x", 0),
                (".linux.README", b"x", 0),
                (".initrd.Backup", b"x", 0),
                (".linux.x7K2p", b"x", 0),
                ("a.linux.x7K2p9", b"x", 0),
                ("..x7K2p9", b"x", 0),
            ],
        ),
        (
            &[("linux", ARM, 0)],
            "wrong-architecture linux",
            &[("linux", X86, 0), ("efi/other.efi", ARM, 0)],
        ),
        (
            &[("initrd.gz", GZIP, 1 << 32)],
            "initrd-too-large initrd.gz",
            &[("initrd.gz", GZIP, (1 << 32) - 1), ("disk", b"", 1 << 33)],
        ),
        (
            &[("initrd.gz", b"<html>", 0)],
            "unknown-format initrd.gz",
            &[("initrd.gz", b"070701", 0), ("other.gz", b"<html>", 0)],
        ),
    ];

    #[test]
    fn each_note_is_of_files_that_cause_it_and_of_none_like_them() {
        assert_eq!(noted(&GOOD, ""), [""; 0]);
        for (bad, expected, good) in ROWS {
            for (files, expected) in [(bad, &[expected][..]), (good, &[])] {
                let names: Vec<_> = files.iter().map(|(path, ..)| *path).collect();
                let rest = GOOD.iter().filter(|(path, ..)| !names.contains(path));
                let files: Vec<_> = files.iter().chain(rest).copied().collect();
                assert_eq!(noted(&files, ""), expected, "{names:?}");
            }
        }
    }

    #[test]
    fn what_the_manifest_names_is_looked_at_also_behind_a_link() {
        let files = [("linux", ARM, 0), ("i", b"x", 0), ("initrd.gz", GZIP, 0)];
        let boot = "kernel = \"vmlinuz\"\ninitrd = [\"initrd.gz\", \"i\"]";
        let expected = ["wrong-architecture vmlinuz", "unknown-format i"];
        assert_eq!(noted(&files, boot), expected);
        assert_eq!(
            noted(&files, "efi = \"linux\""),
            ["wrong-architecture linux"]
        );
        let text = &notes(&files, "efi = \"linux\"", "x86_64")[0].text;
        let expected = "the EFI program `linux` is for arm64, and the target for x86_64";
        assert_eq!(text, expected);
        for arch in ["arm64", "aarch64", "sparc64"] {
            assert_eq!(notes(&files, "efi = \"linux\"", arch), [], "{arch}");
        }
    }

    /// Windows PE has no initrd, and wimboot of 64 bits is a program for every BIOS.
    #[test]
    fn beside_what_loads_other_systems_is_no_initrd() {
        let files = [
            ("linux", X86, 0),
            ("wimboot", X86, 0),
            ("boot.wim", b"MSWIM", 0),
        ];
        for kernel in ["wimboot", "linux"] {
            let boot = format!("kernel = {kernel:?}\ninitrd = [\"boot.wim\"]");
            let count = |arch| notes(&files, &boot, arch).len();
            let is_linux = usize::from(kernel == "linux");
            assert_eq!(count("amd64"), is_linux, "{kernel}");
            assert_eq!(count("i386"), 2 * is_linux, "{kernel}");
        }
    }

    #[test]
    fn of_many_notes_of_a_kind_the_first_are_kept_and_the_others_counted() {
        let names: Vec<_> = (10..99).map(|it| format!("{it}.part")).collect();
        let files: Vec<_> = names.iter().map(|it| (it.as_str(), GZIP, 0)).collect();
        let notes = notes(&[&files[..], &GOOD[..]].concat(), "", "amd64");
        assert_eq!(notes.len(), MAX + 1);
        assert_eq!(notes[0].path.as_deref(), Some("10.part"));
        let last = notes.last().unwrap();
        assert_eq!((last.path.as_ref(), &*last.text), (None, "and 79 more"));
    }

    #[test]
    fn a_command_line_that_needs_a_url_is_noted_where_there_is_none() {
        let boot = |cmdline: &str| Boot {
            cmdline: Some(cmdline.to_string()),
            ..Boot::default()
        };
        let noted = |cmdline: &str, url: Option<&str>| {
            let (root, url) = (None, url.map(str::to_string));
            Note::no_url(&boot(cmdline), &TftpSettings { root, url }).is_some()
        };
        assert!(noted("a={url}/x", None));
        assert!(!noted("a={url}/x", Some("http://boot.example/")));
        assert!(!noted("a={path}/x", None));
    }
}
