//! An image is put together: what the site's own tree has comes from there, and only the rest from the
//! registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use tar::{Archive, EntryType};

use super::artifact::{Artifact, Blob, LARGE, MAX_LAYERS};
use super::bring::{Brought, BroughtImage, Remote};
use super::holdings::Holdings;
use crate::fetch::Fetched;
use crate::image::DIR_MODE;
use crate::sys::{Dir, FileExt as _, Progress};
use crate::text::quoted;
use crate::tree::Tree;
use crate::words::{Digest, Hasher};

const BLOCK: usize = 1 << 20;

/// A manifest of so many bytes tells which files have a layer of their own.
const TOLD: usize = 1 << 20;

/// Where the files come from that the tree doesn't have.
struct Missing {
    layers: Vec<Blob>,
    archive: Option<Blob>,
}

impl Remote {
    /// See `Follower::takes`.
    pub(super) async fn takes(&self, brought: &Brought, tree: &Tree) -> anyhow::Result<Fetched> {
        let Some(image) = &brought.image else {
            return Ok(Fetched::default());
        };
        let mut lacking = image.digests();
        let holdings = Holdings::of(tree, &brought.target, &lacking)?;
        lacking.retain(|digest| !holdings.has(digest));
        Ok(Fetched {
            files: lacking.len(),
            bytes: self.missing(image, &lacking).await?.bytes(),
        })
    }

    /// See `Follower::fetch`.
    pub(super) async fn fetch(
        &self,
        brought: &Brought,
        tree: &Tree,
        into: &Dir,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Fetched> {
        let image = brought
            .image
            .as_ref()
            .context("the order brings no image")?;
        let digests = image.digests();
        let holdings = Holdings::of(tree, &brought.target, &digests)?;
        for folder in &image.contents.folders {
            into.make_dir(folder, DIR_MODE)?;
        }
        let mut assembly = Assembly {
            into,
            image,
            places: BTreeMap::new(),
            max: self.limits.max_image_size,
            progress,
        };
        let mut lacking = BTreeSet::new();
        for digest in &digests {
            // A file of the tree that is damaged is none.
            match holdings
                .file(digest)
                .map(|file| assembly.place(digest, file))
            {
                Some(Ok(())) => {}
                Some(Err(error)) if !error.is::<Mismatch>() => return Err(error),
                _ => drop(lacking.insert(*digest)),
            }
        }
        let missing = self.missing(image, &lacking).await?;
        let fetched = Fetched {
            files: lacking.len(),
            bytes: missing.bytes(),
        };
        progress.expect(fetched.bytes);
        for blob in missing.layers {
            self.store.fetch(&self.repository, blob, progress).await?;
            assembly.place(&blob.digest, self.store.file(blob)?)?;
        }
        if let Some(archive) = missing.archive {
            self.store
                .fetch(&self.repository, archive, progress)
                .await?;
            assembly.unpack(self.store.file(archive)?)?;
        }
        assembly.finish()?;
        Ok(fetched)
    }

    /// Where the files come from that the tree lacks: the manifest tells it of large ones, and the OCI
    /// manifest of all.
    async fn missing(
        &self,
        image: &BroughtImage,
        lacking: &BTreeSet<Digest>,
    ) -> anyhow::Result<Missing> {
        let is_told =
            image.papers.manifest.len() <= TOLD && image.contents.files.len() <= MAX_LAYERS;
        let sizes: BTreeMap<_, _> = image.contents.files.values().copied().collect();
        let large = lacking.iter().map(|digest| {
            let size = sizes[digest].filter(|size| *size >= LARGE && is_told)?;
            let digest = *digest;
            Some(Blob { digest, size })
        });
        if let Some(layers) = large.collect::<Option<_>>() {
            return Ok(Missing {
                layers,
                archive: None,
            });
        }
        match &image.artifact {
            Some(artifact) => Missing::of(artifact, lacking),
            None => Missing::of(&self.artifact(image.blob).await?, lacking),
        }
    }
}

impl Missing {
    fn of(artifact: &Artifact, lacking: &BTreeSet<Digest>) -> anyhow::Result<Self> {
        let (mut layers, mut is_small) = (Vec::new(), false);
        for digest in lacking {
            match artifact.files.get(digest) {
                Some(size) => layers.push(Blob {
                    digest: *digest,
                    size: *size,
                }),
                None => is_small = true,
            }
        }
        let archive = artifact.archive.filter(|_| is_small);
        ensure!(
            archive.is_some() || !is_small,
            "the manifest lists files that are neither layers of the image nor in a tar of it"
        );
        Ok(Self { layers, archive })
    }

    fn bytes(&self) -> u64 {
        self.layers
            .iter()
            .chain(&self.archive)
            .map(|it| it.size)
            .sum()
    }
}

/// An image that is put together.
struct Assembly<'a> {
    into: &'a Dir,
    image: &'a BroughtImage,
    /// Where a file of each digest is, by now.
    places: BTreeMap<Digest, String>,
    max: u64,
    progress: &'a Progress,
}

/// What was copied isn't what it is called by.
#[derive(Debug, thiserror::Error)]
#[error("{0} isn't what the manifest lists")]
struct Mismatch(String);

impl Assembly<'_> {
    /// Puts a file at the first path that the manifest lists it by. Of another one nothing stays.
    fn place(&mut self, digest: &Digest, mut from: File) -> anyhow::Result<()> {
        let files = &self.image.contents.files;
        let path = files.iter().find(|(_, (it, _))| it == digest);
        let (path, (_, size)) = path.context("a file that the manifest doesn't list")?;
        let to = self.into.create(path)?;
        let copied = if from.reflink(&to) {
            copy(&mut self.into.existing_file(path)?, None, self.limit(*size))
        } else {
            copy(&mut from, Some(&to), self.limit(*size))
        };
        self.check(path, *size, digest, copied)
    }

    /// So many bytes a file may have.
    fn limit(&self, size: Option<u64>) -> u64 {
        size.unwrap_or(self.max)
    }

    fn check(
        &mut self,
        path: &str,
        size: Option<u64>,
        digest: &Digest,
        copied: io::Result<(Digest, u64)>,
    ) -> anyhow::Result<()> {
        let copied = copied.with_context(|| format!("writing {:?}", self.into.path().join(path)));
        let (is, length) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                self.into.remove_file(path)?;
                return Err(error);
            }
        };
        if is != *digest || size.is_some_and(|size| size != length) {
            self.into.remove_file(path)?;
            return Err(Mismatch(quoted(path)).into());
        }
        self.progress.show_life();
        self.places.insert(*digest, path.to_string());
        Ok(())
    }

    /// Takes what is missing from the tar. What isn't listed is in no tar.
    fn unpack(&mut self, archive: File) -> anyhow::Result<()> {
        let mut archive = Archive::new(io::BufReader::with_capacity(BLOCK, archive));
        for entry in archive.entries().context("reading the tar")? {
            let mut entry = entry.context("reading the tar")?;
            let path = entry.path().context("reading the tar")?.into_owned();
            let path = path
                .to_str()
                .context("the tar has a name that is no text")?;
            let path = path.strip_suffix('/').unwrap_or(path).to_string();
            self.take(&path, &mut entry)?;
        }
        Ok(())
    }

    fn take<R: Read>(&mut self, path: &str, entry: &mut tar::Entry<'_, R>) -> anyhow::Result<()> {
        let contents = &self.image.contents;
        let kind = entry.header().entry_type();
        let is_listed = match kind {
            EntryType::Regular => contents.files.contains_key(path),
            EntryType::Directory => contents.folders.contains(path),
            EntryType::Symlink => {
                let link = entry.link_name().context("reading the tar")?;
                let listed = contents.links.get(path).map(Path::new);
                listed.is_some() && listed == link.as_deref()
            }
            _ => false,
        };
        if !is_listed {
            bail!(
                "the tar has {}, which the manifest doesn't list so",
                quoted(path)
            );
        }
        let Some((digest, size)) = contents
            .files
            .get(path)
            .filter(|_| kind == EntryType::Regular)
        else {
            return Ok(());
        };
        if self.places.contains_key(digest) {
            return Ok(());
        }
        let to = self.into.create(path)?;
        let copied = copy(entry, Some(&to), self.limit(*size));
        self.check(path, *size, digest, copied)
    }

    /// Makes what is left: equal files, and the links.
    fn finish(self) -> anyhow::Result<()> {
        for (path, (digest, size)) in &self.image.contents.files {
            let place = self.places.get(digest);
            let place = place.with_context(|| format!("the tar lacks {}", quoted(path)))?;
            if place == path {
                continue;
            }
            let mut from = self.into.existing_file(place)?;
            let to = self.into.create(path)?;
            if !from.reflink(&to) {
                let copied = copy(&mut from, Some(&to), self.limit(*size));
                copied.map_err(|error| anyhow!("writing {}: {error}", quoted(path)))?;
            }
        }
        for (path, to) in &self.image.contents.links {
            self.into.make_link(path, to)?;
        }
        Ok(())
    }
}

/// Copies, and hashes what it copies: at most `max` bytes, and one more of what is longer.
fn copy(from: &mut impl Read, mut to: Option<&File>, max: u64) -> io::Result<(Digest, u64)> {
    let (mut block, mut hasher, mut at) = (vec![0; BLOCK], Hasher::default(), 0);
    let mut from = from.take(max.saturating_add(1));
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            return Ok((hasher.finish(), at));
        }
        hasher.update(&block[..count]);
        if let Some(to) = &mut to {
            to.write_all(&block[..count])?;
        }
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::Header;

    use super::super::contents::Contents;
    use super::super::order::Papers;
    use super::super::tests::{
        Registry, TARGET, Wire, World, bytes, files, follow, found, site, whole,
    };
    use super::*;
    use crate::tree::Catalog;

    #[tokio::test]
    async fn an_image_arrives_whole_and_what_the_tree_has_is_not_asked_for() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        let mut image = files(1);
        image.insert("copy/of/linux".into(), image["linux"].clone());
        image.insert("copy/of/menu".into(), image["boot/menu"].clone());
        centre.publish(TARGET, &image, Some(&|_| ()));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
        let takes = takes.unwrap();
        assert_eq!(found(folder.path()), whole(&image));
        assert_eq!(takes.files, 3, "each once");
        assert!((400 << 10..420 << 10).contains(&takes.bytes), "{takes:?}");
        follower.tidy().unwrap();

        // The small files are here, and one large one: the other is all that comes.
        let mut older = image.clone();
        older.remove("initrd.gz");
        local.publish(TARGET, &older, None);
        wire.asked();
        let brought = follower.bring(&wanted[0]).await.unwrap();
        let planned = follower.takes(&brought, local.tree()).await.unwrap();
        let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
        let takes = takes.unwrap();
        assert_eq!(found(folder.path()), whole(&image));
        assert_eq!((takes.files, takes.bytes), (1, 100 << 10));
        assert_eq!(planned, takes);
        let asked = wire.asked();
        let initrd = Digest::of(&image["initrd.gz"]).to_string();
        assert_eq!(
            asked.iter().filter(|it| it.contains(&initrd)).count(),
            1,
            "{asked:?}"
        );
        follower.tidy().unwrap();

        // What is current at another target is as good.
        let mut elsewhere = World::new();
        elsewhere.publish("a/b/c/d", &image, None);
        let (folder, takes) = follower.image(&wanted[0], elsewhere.tree()).await;
        assert!(takes.unwrap().bytes > 400 << 10);
        drop(folder);
        Catalog::make(elsewhere.tree(), "prefix/", None).unwrap();
        let (folder, takes) = follower.image(&wanted[0], elsewhere.tree()).await;
        assert_eq!(takes.unwrap().bytes, 0);
        assert_eq!(found(folder.path()), whole(&image));
        follower.tidy().unwrap();

        // A file of the tree that is damaged is none.
        let linux = local
            .folder
            .path()
            .join("tree")
            .join(TARGET)
            .join("copy/of/linux");
        let damaged = fs::read(&linux)
            .unwrap()
            .iter()
            .map(|it| it ^ 1)
            .collect::<Vec<_>>();
        fs::write(linux, &damaged).unwrap();
        fs::write(
            local.folder.path().join("tree").join(TARGET).join("linux"),
            damaged,
        )
        .unwrap();
        let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
        assert_eq!(takes.unwrap().bytes, 400 << 10);
        assert_eq!(found(folder.path()), whole(&image));
    }

    #[tokio::test]
    async fn a_change_of_one_file_moves_that_file_and_one_percent() {
        const CHANGED: usize = 10_000_000;
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        let file = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let mut file = bytes(low, 66 << 10);
            file[0] = high;
            (format!("pool/main/file-{number:04}.bin"), file)
        };
        let mut image: super::super::tests::Files = (0..299).map(file).collect();
        image.insert("linux".into(), bytes(1, CHANGED));
        local.publish(TARGET, &image, Some(&|_| ()));
        image.insert("linux".into(), bytes(2, CHANGED));
        centre.publish(TARGET, &image, Some(&|_| ()));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        wire.count();
        let wanted = follower.wants(local.tree()).await;
        let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
        assert_eq!(takes.unwrap().bytes, CHANGED as u64);
        let (requests, moved) = wire.count();
        eprintln!(
            "{requests} requests, {} bytes beside the file",
            moved - CHANGED as u64
        );
        assert!(moved <= CHANGED as u64 * 101 / 100, "{moved}");
        assert_eq!(found(folder.path()), whole(&image));
    }

    #[tokio::test]
    async fn a_file_that_was_cut_off_goes_on_where_it_was() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        let mut image = files(1);
        image.insert("linux".into(), bytes(1, 3 << 20));
        centre.publish(TARGET, &image, Some(&|_| ()));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        follower.bring(&wanted[0]).await.unwrap();
        wire.count();
        let mut cuts = 0;
        let folder = loop {
            wire.cut_after(Some(700_000));
            let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
            wire.cut_after(None);
            match takes {
                Ok(_) => break folder,
                Err(error) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(", 5 times; "), "{error}");
                    cuts += 1;
                    // As after a new start.
                    drop(follower);
                    follower = follow(&wire, &local.state(), &site()).await;
                }
            }
        };
        assert!(cuts >= 4, "{cuts}");
        assert_eq!(found(folder.path()), whole(&image));
        let moved = wire.count().1;
        assert!(moved < (4 << 20), "{moved}");
    }

    #[tokio::test]
    async fn a_file_of_which_a_registry_sends_no_part_is_begun_anew() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        let mut image = files(1);
        image.insert("linux".into(), bytes(1, 3 << 20));
        centre.publish(TARGET, &image, Some(&|_| ()));
        centre.push_well(&wire).await;
        wire.ask_for_all();
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        follower.bring(&wanted[0]).await.unwrap();
        wire.cut_after(Some(700_000));
        let (_, takes) = follower.image(&wanted[0], local.tree()).await;
        let error = format!("{:#}", takes.unwrap_err());
        assert!(error.contains("of 3145728 bytes are kept"), "{error}");
        wire.cut_after(None);
        wire.count();
        let (folder, takes) = follower.image(&wanted[0], local.tree()).await;
        takes.unwrap();
        assert_eq!(found(folder.path()), whole(&image));
        let moved = wire.count().1;
        assert!(moved > 3 << 20, "{moved}");
    }

    /// The image of a manifest that lists these paths, each a text; with a tar of these entries.
    fn unpacked(entries: &[(&str, EntryType, &str)]) -> (tempfile::TempDir, String) {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            let is_file = !matches!(kind, EntryType::Symlink | EntryType::Link);
            let bytes = if is_file { text.as_bytes() } else { b"" };
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(bytes.len() as u64);
            header.set_mode(0o4777);
            header.set_cksum();
            tar.append(&header, bytes).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let (archive, image) = (folder.path().join("tar"), folder.path().join("image"));
        fs::write(&archive, tar.into_inner().unwrap()).unwrap();
        fs::create_dir_all(image.join("a")).unwrap();
        let text = |text: &str| (Digest::of(text.as_bytes()), None);
        let image = BroughtImage {
            papers: Papers {
                manifest: Vec::new(),
                signature: None,
            },
            contents: Contents {
                files: [("a/x".into(), text("x")), ("y".into(), text("y"))].into(),
                links: [("l".into(), "a/x".into())].into(),
                folders: ["a".to_string()].into(),
            },
            blob: Blob::of_bytes(b""),
            artifact: None,
        };
        let into = Dir::open(&folder.path().join("image")).unwrap();
        let mut assembly = Assembly {
            into: &into,
            image: &image,
            places: BTreeMap::new(),
            max: 10,
            progress: &Progress::default(),
        };
        let unpacked = assembly.unpack(File::open(archive).unwrap());
        let unpacked = unpacked.and_then(|()| assembly.finish());
        let said = unpacked.map_or_else(|error| format!("{error:#}"), |()| String::new());
        (folder, said)
    }

    #[test]
    fn nothing_comes_out_of_a_tar_that_the_manifest_does_not_list() {
        let file = EntryType::Regular;
        let good = [
            ("a/x", file, "x"),
            ("l", EntryType::Symlink, "a/x"),
            ("y", file, "y"),
        ];
        let (folder, said) = unpacked(&good);
        assert_eq!(said, "");
        let image = found(&folder.path().join("image"));
        let expected = [("a/x", "x"), ("l", "a/x"), ("y", "y")];
        let expected = expected.map(|(path, text)| (path.to_string(), text.as_bytes().to_vec()));
        assert_eq!(image, expected.into());

        let unlisted =
            |path: &str| format!("the tar has `{path}`, which the manifest doesn't list so");
        for (entry, expected) in [
            (("../z", file, "z"), unlisted("../z")),
            (("/z", file, "z"), unlisted("/z")),
            (("./y", file, "y"), unlisted("./y")),
            (("z", file, "z"), unlisted("z")),
            (("a", EntryType::Symlink, ".."), unlisted("a")),
            (("l", EntryType::Symlink, "/etc"), unlisted("l")),
            (("l", EntryType::Link, "y"), unlisted("l")),
            (("y", EntryType::Fifo, ""), unlisted("y")),
            (
                ("y", file, "z"),
                "`y` isn't what the manifest lists".to_string(),
            ),
            (
                ("y", file, "a long text"),
                "`y` isn't what the manifest lists".to_string(),
            ),
        ] {
            let (folder, said) = unpacked(&[("a/x", file, "x"), entry]);
            assert_eq!(said, expected, "{entry:?}");
            let outside = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(outside, 2, "{entry:?}");
        }
        let (_, said) = unpacked(&good[..2]);
        assert_eq!(said, "the tar lacks `y`");
    }
}
