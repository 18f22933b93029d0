//! Archives: what of one is in an image, and nothing else.
//!
//! An archive is what upstream made it, and nobody else's, yet nothing of it is trusted: each name is
//! written beneath an open folder, kinds of entries that no image has are refused, and so is more than
//! there may be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use anyhow::{Context as _, bail, ensure};
use bytesize::ByteSize;
use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::offer::Picks;
use crate::settings::Limits;
use crate::sys::{Dir, FileExt as _, Progress};
use crate::text::quoted;
use crate::words::Boot;

/// Bytes of an archive's own between two entries: names and the like.
const MAX_HEADERS: u64 = 1 << 20;

/// Bytes of headers and padding that an entry takes, about.
const PER_ENTRY: u64 = 4 << 10;

/// What a name stands for that was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    File,
    Folder,
    Link,
}

/// Unpacks of a `.tar.gz` what the `picks` say, into an empty folder. `progress` counts the bytes of the
/// archive as it is.
///
/// # Errors
/// When it holds something that no image may hold, or lacks what is picked: which entry, and why. What was
/// unpacked until then is left.
pub(crate) fn unpack(
    archive: File,
    into: &Dir,
    picks: &Picks,
    limits: &Limits,
    progress: &Progress,
) -> anyhow::Result<()> {
    let length = archive.stat().context("looking at the archive")?.size;
    progress.expect(length);
    let left = Cell::new(0);
    let counted = Counted {
        file: archive,
        progress,
    };
    // What isn't picked is read all the same.
    let most = limits
        .max_image_size
        .saturating_add(PER_ENTRY * (limits.max_files as u64 + 256));
    let bounded = Bounded {
        inner: MultiGzDecoder::new(BufReader::with_capacity(128 << 10, counted)),
        whole: most,
        left: &left,
    };
    let mut archive = Archive::new(bounded);
    let mut unpacking = Unpacking {
        into,
        picks,
        limits,
        made: BTreeMap::new(),
        bytes: 0,
    };
    let mut entries = archive.entries().context("reading the archive")?;
    let mut count = 0_usize;
    loop {
        left.set(MAX_HEADERS);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.with_context(|| explain_reading(limits, count))?;
        left.set(u64::MAX);
        count += 1;
        ensure!(
            count <= limits.max_files.saturating_mul(8).max(1_000),
            "more than {} entries in the archive (limits.max_files is {})",
            count - 1,
            limits.max_files
        );
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown = || format!("entry {}", quoted(&name));
        unpacking.take(&mut entry).with_context(shown)?;
        // So that no more than headers are read until the next one.
        io::copy(&mut entry, &mut io::sink()).with_context(shown)?;
    }
    // What stands at the very end says whether all bytes came.
    left.set(u64::MAX);
    let rest = io::copy(&mut archive.into_inner(), &mut io::sink());
    rest.with_context(|| explain_reading(limits, count))?;
    unpacking.finish()
}

fn explain_reading(limits: &Limits, count: usize) -> String {
    format!(
        "reading the archive behind {count} entries, with room for an image of {} (limits.max_image_size)",
        ByteSize(limits.max_image_size)
    )
}

/// What was unpacked, and may be yet.
struct Unpacking<'a> {
    into: &'a Dir,
    picks: &'a Picks,
    limits: &'a Limits,
    /// By their paths in the image.
    made: BTreeMap<String, Made>,
    bytes: u64,
}

impl Unpacking<'_> {
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = plain(&entry.path_bytes())?;
        check_kind(entry, kind)?;
        // Of an entry that is picked more than once: it can be read once only.
        let mut first = None;
        for path in self.places(&path) {
            if path.is_empty() {
                ensure!(
                    kind == EntryType::Directory,
                    "a file that would be the image itself"
                );
                continue;
            }
            match kind {
                EntryType::Directory => {
                    ensure!(self.is_all(), "is a folder; expected a file, as picked");
                    self.folder(&path)?;
                }
                EntryType::Symlink => self.link(&path, entry)?,
                EntryType::Link => self.hard_link(&path, entry)?,
                _ => match first.replace(path.clone()) {
                    None => self.file(&path, entry, entry.size())?,
                    Some(first) => self.copy(&first, &path)?,
                },
            }
        }
        Ok(())
    }

    fn is_all(&self) -> bool {
        matches!(self.picks, Picks::All { .. })
    }

    /// Where in the image an entry of this path belongs.
    fn places(&self, path: &str) -> Vec<String> {
        match self.picks {
            Picks::All { strip } => {
                let parts: Vec<_> = path.split('/').skip(*strip).collect();
                let is_there = !parts.is_empty() || path.is_empty();
                is_there.then(|| parts.join("/")).into_iter().collect()
            }
            Picks::Some(picks) => {
                let of = |of: &str| of.strip_prefix("./").unwrap_or(of) == path;
                let picked = picks.iter().filter(|(_, it)| of(it));
                picked.map(|(path, _)| path.clone()).collect()
            }
        }
    }

    /// Opens the folder that `path` stands in, which is made where it isn't there, and notes that `path`
    /// is of a kind from now on. Returns the folder and the last name.
    fn place<'p>(&mut self, path: &'p str, kind: Made) -> anyhow::Result<(Option<Dir>, &'p str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.folder(above)?;
        ensure!(!self.made.contains_key(path), "comes twice in the archive");
        ensure!(
            self.made.len() < self.limits.max_files,
            "more than {} files, folders and links (limits.max_files)",
            self.limits.max_files
        );
        self.made.insert(path.to_string(), kind);
        Ok((folder, name))
    }

    /// Makes a folder, with those above it, and opens it; `None` of the image itself.
    fn folder(&mut self, path: &str) -> anyhow::Result<Option<Dir>> {
        if path.is_empty() {
            return Ok(None);
        }
        ensure!(
            path.split('/').count() <= self.limits.max_depth,
            "more than {} folders within folders (limits.max_depth)",
            self.limits.max_depth
        );
        match self.made.get(path) {
            Some(Made::Folder) => return Ok(Some(self.into.existing_dir(path)?)),
            Some(Made::File) => bail!("{} is a file in the archive, too", quoted(path)),
            Some(Made::Link) => bail!("{} is a link in the archive, too", quoted(path)),
            None => {}
        }
        let (above, name) = self.place(path, Made::Folder)?;
        let above = above.as_ref().unwrap_or(self.into);
        let is_new = above.make_dir(name, 0o755)?;
        ensure!(is_new, "{} was there before", quoted(path));
        Ok(Some(above.existing_dir(name)?))
    }

    fn file(&mut self, path: &str, from: &mut impl Read, size: u64) -> anyhow::Result<()> {
        let (max, so_far) = (self.limits.max_image_size, self.bytes);
        self.bytes = so_far.saturating_add(size);
        ensure!(
            self.bytes <= max,
            "{} after {} of others is more than {} (limits.max_image_size)",
            ByteSize(size),
            ByteSize(so_far),
            ByteSize(max)
        );
        let (folder, name) = self.place(path, Made::File)?;
        let mut file = folder.as_ref().unwrap_or(self.into).create(name)?;
        let copied = io::copy(from, &mut file).context("unpacking")?;
        ensure!(copied == size, "ends after {copied} of {size} bytes");
        file.flush().context("unpacking")
    }

    fn link(&mut self, path: &str, entry: &Entry<'_, impl Read>) -> anyhow::Result<()> {
        let to = entry.link_name_bytes().context("a link without a target")?;
        let to = std::str::from_utf8(&to)
            .ok()
            .context("its target is not UTF-8")?
            .to_string();
        ensure!(self.is_all(), "is a link to {}; pick that", quoted(&to));
        // Of `..` behind a name, which may be a link, nobody knows where it ends.
        let depth = path.matches('/').count();
        let mut parts = to
            .split('/')
            .filter(|part| !["", "."].contains(part))
            .peekable();
        let mut up = 0;
        while parts.next_if_eq(&"..").is_some() {
            up += 1;
        }
        let is_inside = !to.starts_with('/') && up <= depth && !to.contains(char::is_control);
        ensure!(
            is_inside && !to.is_empty() && parts.all(|part| part != ".."),
            "is a link to {}; expected a relative one that stays inside, with `..` in front only",
            quoted(&to)
        );
        let (folder, name) = self.place(path, Made::Link)?;
        Ok(folder.as_ref().unwrap_or(self.into).make_link(name, &to)?)
    }

    /// A second name of a file is a copy: images have no hard links.
    fn hard_link(&mut self, path: &str, entry: &Entry<'_, impl Read>) -> anyhow::Result<()> {
        let to = entry
            .link_name_bytes()
            .context("a hard link without a target")?;
        let to = plain(&to).context("its target")?;
        let of = self
            .places(&to)
            .into_iter()
            .find(|of| self.made.get(of) == Some(&Made::File));
        let of = of.with_context(|| {
            format!(
                "is a hard link to {}; expected a file of the image that comes before it",
                quoted(&to)
            )
        })?;
        self.copy(&of, path)
    }

    fn copy(&mut self, of: &str, path: &str) -> anyhow::Result<()> {
        let mut from = self.into.existing_file(of)?;
        let size = from.stat().context("looking at the other name")?.size;
        self.file(path, &mut from, size)
    }

    /// Makes sure that all is there that has to be.
    fn finish(self) -> anyhow::Result<()> {
        if let Picks::Some(picks) = self.picks {
            let missing = picks
                .iter()
                .filter(|(path, _)| !self.made.contains_key(*path));
            let missing: Vec<_> = missing.map(|(_, of)| quoted(of)).collect();
            ensure!(
                missing.is_empty(),
                "the archive has no {}",
                missing.join(" and no ")
            );
        }
        let has_file = self.made.values().any(|made| *made == Made::File);
        ensure!(
            has_file,
            "there is no file in the archive that would be in the image"
        );
        Ok(())
    }
}

/// The path of an entry, without `./` in front and `/` behind.
fn plain(path: &[u8]) -> anyhow::Result<String> {
    let path = std::str::from_utf8(path)
        .ok()
        .context("its name is not UTF-8")?;
    ensure!(
        !path.starts_with('/'),
        "has an absolute name; expected one that stays inside"
    );
    let parts = path.split('/').filter(|part| !["", "."].contains(part));
    let plain = parts.collect::<Vec<_>>().join("/");
    ensure!(
        plain.is_empty() || Boot::is_path(&plain),
        "has a name that leads outside, or moves a cursor"
    );
    ensure!(plain.len() < 4096, "has a name of {} bytes", plain.len());
    Ok(plain)
}

fn check_kind(entry: &mut Entry<'_, impl Read>, kind: EntryType) -> anyhow::Result<()> {
    let what = match kind {
        EntryType::Regular
        | EntryType::Continuous
        | EntryType::Directory
        | EntryType::Symlink
        | EntryType::Link => None,
        EntryType::Char | EntryType::Block => Some("a device"),
        EntryType::Fifo => Some("a FIFO"),
        EntryType::GNUSparse => Some("a sparse file of GNU tar"),
        _ => Some("of a kind that no image has"),
    };
    if let Some(what) = what {
        bail!("is {what}; expected files, folders and links");
    }
    let mode = entry.header().mode().context("its mode")?;
    if kind != EntryType::Directory && mode & 0o6000 != 0 {
        bail!(
            "is set-uid or set-gid (mode {:04o}), which no image needs",
            mode & 0o7777
        );
    }
    let extensions = entry.pax_extensions().context("its extensions")?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.context("its extensions")?;
        let is_sparse = extension.key_bytes().starts_with(b"GNU.sparse.");
        ensure!(
            !is_sparse,
            "is a sparse file of GNU tar; expected files, folders and links"
        );
    }
    Ok(())
}

/// The archive as it is, counted.
struct Counted<'p> {
    file: File,
    progress: &'p Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_stop_requested() {
            // `Interrupted` would be tried again.
            return Err(io::Error::other("stopped"));
        }
        let count = self.file.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// What is in the archive: no more than so much of the whole, and so much until the next entry.
struct Bounded<'l, R> {
    inner: R,
    whole: u64,
    left: &'l Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let too_much = |what| io::Error::new(io::ErrorKind::FileTooLarge, what);
        let rest = |of: u64| of.checked_sub(count as u64);
        self.whole = rest(self.whole).ok_or_else(|| too_much("there is more in it than may be"))?;
        let left = rest(self.left.get());
        self.left
            .set(left.ok_or_else(|| too_much("a header of more than 1 MiB"))?);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;
    use crate::settings::Settings;

    /// One entry, as an archive has it: its kind, name, what it links to or holds, and its mode.
    type Line<'a> = (EntryType, &'a [u8], &'a [u8], u32);

    const FILE: EntryType = EntryType::Regular;
    const LINK: EntryType = EntryType::Symlink;
    const HARD: EntryType = EntryType::Link;
    const DIR: EntryType = EntryType::Directory;

    fn header(kind: EntryType, name: &[u8], link: &[u8], size: u64, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        // Names that no tool would write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_cksum();
        header
    }

    fn archive(entries: &[Line<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, of, mode) in entries {
            let (link, data): (&[u8], &[u8]) = if [LINK, HARD].contains(kind) {
                (of, b"")
            } else {
                (b"", of)
            };
            let header = header(*kind, name, link, data.len() as u64, *mode);
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn limits() -> Limits {
        let limits = Settings::default().limits;
        Limits {
            max_image_size: 1_000,
            max_files: 10,
            max_depth: 3,
            ..limits
        }
    }

    /// Unpacks it in a folder beside which nothing else is; returns what is there afterwards.
    fn unpacked(gzip: &[u8], picks: &Picks) -> Result<Vec<String>, String> {
        let around = tempfile::tempdir().unwrap();
        let (file, inside) = (around.path().join("archive"), around.path().join("a/image"));
        fs::write(&file, gzip).unwrap();
        fs::create_dir_all(&inside).unwrap();
        let into = Dir::open(&inside).unwrap();
        let progress = Progress::default();
        let done = unpack(
            File::open(&file).unwrap(),
            &into,
            picks,
            &limits(),
            &progress,
        );
        let outside = walk(around.path(), &inside);
        assert_eq!(outside, ["a/", "archive"], "something was written outside");
        done.map_err(|error| format!("{error:#}"))?;
        let length = gzip.len() as u64;
        assert_eq!((progress.bytes(), progress.expected()), (length, length));
        Ok(walk(&inside, Path::new("")))
    }

    /// What is in a folder but for `except`: folders with a `/`, links with `->`, files with what they hold.
    fn walk(folder: &Path, except: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name().into_string().unwrap();
            if path == except {
                continue;
            }
            if kind.is_dir() {
                found.push(format!("{name}/"));
                found.extend(
                    walk(&path, except)
                        .iter()
                        .map(|below| format!("{name}/{below}")),
                );
            } else if kind.is_symlink() {
                let to = fs::read_link(&path).unwrap();
                found.push(format!("{name} -> {}", to.display()));
            } else {
                assert_eq!(
                    path.metadata().unwrap().permissions().mode() & 0o7777,
                    0o644
                );
                let text = fs::read_to_string(&path).unwrap_or_default();
                let shown = if name == "archive" {
                    name
                } else {
                    format!("{name} {text}")
                };
                found.push(shown);
            }
        }
        found.sort();
        found
    }

    const ALL: Picks = Picks::All { strip: 0 };

    fn some(picks: &[(&str, &str)]) -> Picks {
        let picks = picks
            .iter()
            .map(|(path, of)| (path.to_string(), of.to_string()));
        Picks::Some(picks.collect())
    }

    fn netboot() -> Vec<u8> {
        gzip(&archive(&[
            (
                EntryType::XGlobalHeader,
                b"pax_global_header",
                b"11 comment=x",
                0o644,
            ),
            (DIR, b"./", b"", 0o2755),
            (DIR, b"./d-i/", b"", 0o755),
            (FILE, b"./d-i/linux", b"kernel", 0o755),
            (FILE, b"./d-i/x/y", b"deep", 0o600),
            (LINK, b"./linux", b"d-i/linux", 0o777),
            (LINK, b"./d-i/up", b"../d-i/./x", 0o777),
            (HARD, b"./second", b"./d-i/linux", 0o644),
        ]))
    }

    #[test]
    fn files_folders_links_and_second_names_of_an_archive_are_unpacked() {
        let all = unpacked(&netboot(), &ALL).unwrap();
        let expected = [
            "d-i/",
            "d-i/linux kernel",
            "d-i/up -> ../d-i/./x",
            "d-i/x/",
            "d-i/x/y deep",
            "linux -> d-i/linux",
            "second kernel",
        ];
        assert_eq!(all, expected);
        // Two archives in one file, as `cat a.gz b.gz` makes them: gzip reads on.
        let whole = archive(&[(FILE, b"a", b"1", 0o644), (FILE, b"b", b"2", 0o644)]);
        let (first, second) = whole.split_at(700);
        let both = unpacked(&[gzip(first), gzip(second)].concat(), &ALL);
        assert_eq!(both.unwrap(), ["a 1", "b 2"]);
    }

    #[test]
    fn first_folders_are_stripped_and_single_files_picked() {
        let stripped = gzip(&archive(&[
            (DIR, b"amd64/", b"", 0o755),
            (FILE, b"amd64/linux", b"kernel", 0o644),
            (HARD, b"amd64/also", b"amd64/linux", 0o644),
            (LINK, b"amd64/grub/link", b"../linux", 0o777),
            (FILE, b"README", b"text", 0o644),
        ]));
        let found = unpacked(&stripped, &Picks::All { strip: 1 }).unwrap();
        let expected = [
            "also kernel",
            "grub/",
            "grub/link -> ../linux",
            "linux kernel",
        ];
        assert_eq!(found, expected);
        let picks = [
            ("boot/linux", "d-i/linux"),
            ("again", "./d-i/linux"),
            ("y", "d-i/x/y"),
        ];
        let found = unpacked(&netboot(), &some(&picks)).unwrap();
        assert_eq!(
            found,
            ["again kernel", "boot/", "boot/linux kernel", "y deep"]
        );

        let said = |picks: &[(&str, &str)]| unpacked(&netboot(), &some(picks)).unwrap_err();
        assert_eq!(
            said(&[("a", "d-i/linux"), ("b", "d-i/none")]),
            "the archive has no `d-i/none`"
        );
        let expected = "entry `./linux`: is a link to `d-i/linux`; pick that";
        assert_eq!(said(&[("a", "linux")]), expected);
        let expected = "entry `./second`: is a hard link to `d-i/linux`; expected a file of the image that \
            comes before it";
        assert_eq!(said(&[("a", "second")]), expected);
        let expected = "entry `./d-i/`: is a folder; expected a file, as picked";
        assert_eq!(said(&[("a", "d-i")]), expected);
    }

    #[test]
    fn an_entry_that_no_image_may_hold_is_refused_by_its_name() {
        const OUT: &str = "has a name that leads outside, or moves a cursor";
        const KINDS: &str = "; expected files, folders and links";
        const INSIDE: &str = "; expected a relative one that stays inside, with `..` in front only";
        let link = |to: &str| format!("is a link to `{to}`{INSIDE}");
        let cases: [(Line<'_>, String); 24] = [
            ((FILE, b"../x", b"x", 0o644), format!("entry `../x`: {OUT}")),
            ((FILE, b"a/../../x", b"x", 0o644), format!("entry `a/../../x`: {OUT}")),
            ((FILE, b"a\x1b[2J", b"x", 0o644), format!("entry `a\\u{{1b}}[2J`: {OUT}")),
            ((FILE, b"/etc/x", b"x", 0o644), "entry `/etc/x`: has an absolute name; expected one that stays inside".into()),
            ((FILE, b"\xff", b"x", 0o644), "entry `\u{fffd}`: its name is not UTF-8".into()),
            ((FILE, b"./", b"x", 0o644), "entry `./`: a file that would be the image itself".into()),
            ((FILE, b"1/2/3/4/x", b"x", 0o644), "entry `1/2/3/4/x`: more than 3 folders within folders (limits.max_depth)".into()),
            ((FILE, b"ok", b"x", 0o644), "entry `ok`: comes twice in the archive".into()),
            ((FILE, b"ok/x", b"x", 0o644), "entry `ok/x`: `ok` is a file in the archive, too".into()),
            ((FILE, b"lk/x", b"x", 0o644), "entry `lk/x`: `lk` is a link in the archive, too".into()),
            ((LINK, b"x", b"/etc", 0o777), format!("entry `x`: {}", link("/etc"))),
            ((LINK, b"x", b"..", 0o777), format!("entry `x`: {}", link(".."))),
            ((LINK, b"d/x", b"../../y", 0o777), format!("entry `d/x`: {}", link("../../y"))),
            ((LINK, b"d/x", b"lk/../y", 0o777), format!("entry `d/x`: {}", link("lk/../y"))),
            ((LINK, b"x", b"\xff", 0o777), "entry `x`: its target is not UTF-8".into()),
            ((HARD, b"x", b"../y", 0o644), format!("entry `x`: its target: {OUT}")),
            ((HARD, b"x", b"/y", 0o644), "entry `x`: its target: has an absolute name; expected one that stays inside".into()),
            ((HARD, b"x", b"lk", 0o644), "entry `x`: is a hard link to `lk`; expected a file of the image that comes before it".into()),
            ((EntryType::Char, b"x", b"", 0o644), format!("entry `x`: is a device{KINDS}")),
            ((EntryType::Block, b"x", b"", 0o644), format!("entry `x`: is a device{KINDS}")),
            ((EntryType::Fifo, b"x", b"", 0o644), format!("entry `x`: is a FIFO{KINDS}")),
            ((EntryType::new(b'V'), b"x", b"", 0o644), format!("entry `x`: is of a kind that no image has{KINDS}")),
            ((FILE, b"x", b"", 0o4755), "entry `x`: is set-uid or set-gid (mode 4755), which no image needs".into()),
            ((FILE, b"x", &[b'x'; 999], 0o644), "entry `x`: 999 B after 2 B of others is more than 1000 B (limits.max_image_size)".into()),
        ];
        for (entry, said) in cases {
            let whole = archive(&[
                (FILE, b"ok", b"ok", 0o644),
                (LINK, b"lk", b"ok", 0o777),
                entry,
            ]);
            assert_eq!(unpacked(&gzip(&whole), &ALL), Err(said));
        }
        let many: Vec<_> = (b'a'..b'l').collect();
        let many: Vec<Line<'_>> = many
            .chunks(1)
            .map(|name| (FILE, name, &b""[..], 0o644))
            .collect();
        let said = unpacked(&gzip(&archive(&many)), &ALL).unwrap_err();
        assert_eq!(
            said,
            "entry `k`: more than 10 files, folders and links (limits.max_files)"
        );
        let empty = unpacked(&gzip(&archive(&[(DIR, b"a", b"", 0o755)])), &ALL).unwrap_err();
        assert_eq!(
            empty,
            "there is no file in the archive that would be in the image"
        );
    }

    #[test]
    fn an_archive_that_is_larger_than_it_says_or_ends_early_is_refused() {
        // A name of 2 MiB, and one of 2 GiB that would compress well.
        for size in [2_u64 << 20, 2 << 30] {
            let long = header(EntryType::GNULongName, b"././@LongLink", b"", size, 0o644);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(long.as_bytes()).unwrap();
            io::copy(&mut io::repeat(b'a').take(2 << 20), &mut encoder).unwrap();
            let said = unpacked(&encoder.finish().unwrap(), &ALL).unwrap_err();
            let expected = "reading the archive behind 0 entries, with room for an image of 1000 B \
                (limits.max_image_size): a header of more than 1 MiB";
            assert_eq!(said, expected);
        }
        // What isn't picked counts as well.
        let mut whole = archive(&[(FILE, b"a", b"1", 0o644)]);
        whole.truncate(1024);
        let size = 64 << 20;
        whole.extend(header(FILE, b"bomb", b"", size, 0o644).as_bytes());
        whole.extend(vec![0; usize::try_from(size).unwrap()]);
        let said = unpacked(&gzip(&whole), &some(&[("a", "a")])).unwrap_err();
        assert_eq!(said, "entry `bomb`: there is more in it than may be");

        let good = netboot();
        for length in 0..good.len() {
            assert!(
                unpacked(&good[..length], &ALL).is_err(),
                "{length} of {}",
                good.len()
            );
        }
        let mut short = archive(&[(FILE, b"a", b"1", 0o644)]);
        short.truncate(512);
        let said = unpacked(&gzip(&short), &ALL).unwrap_err();
        assert_eq!(said, "entry `a`: ends after 0 of 1 bytes");
        assert!(unpacked(b"<html>captive</html>", &ALL).is_err());
    }

    #[test]
    fn unpacking_ends_when_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("archive");
        fs::write(&file, netboot()).unwrap();
        let (into, progress) = (Dir::open(folder.path()).unwrap(), Progress::default());
        progress.request_stop();
        let file = File::open(&file).unwrap();
        let said = unpack(file, &into, &ALL, &limits(), &progress).unwrap_err();
        assert!(format!("{said:#}").ends_with(": stopped"), "{said:#}");
    }
}
