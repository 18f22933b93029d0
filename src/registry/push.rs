//! A centre's push: the last order for each target, from the tree into a channel.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::archive::{self, ArchiveError};
use super::artifact::{Artifact, Blob, EMPTY_BYTES, Layout, order_to_bytes};
use super::channel::Channel;
use super::contents::Contents;
use super::index::{CATALOG, Entry, Index, MAX_SIZE};
use super::order::{Order, Papers, TreeImage};
use super::repository::Repository;
use super::upload::{Refused, Upload};
use crate::spool::Manifest;
use crate::sys::{Dir, Progress};
use crate::text::short;
use crate::tree::Tree;
use crate::words::{Digest, Hasher, Moment, Target, Verdict};

/// What this centre knows of its own pushes.
const RECORD: &str = "pushed.json";
const ARCHIVE: &str = "archive.tar";
const TEMPORARY: &str = "new";
const MAX_RECORD: u64 = 64 << 10;

/// An order that sites take for so long only is told of.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a push has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// How many orders the channel has now.
    pub(crate) orders: usize,
    /// Those that it didn't have before.
    pub(crate) new: Vec<(Target, Verdict)>,
    /// How many of those nobody has signed, or their images.
    pub(crate) unsigned: usize,
    /// How many of the tree's orders aren't in the channel: why was said.
    pub(crate) failed: usize,
    /// Bytes of blobs that were sent.
    pub(crate) sent: u64,
    /// Whether there is another index now.
    pub(crate) is_written: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Record {
    /// The last counter of this centre's.
    counter: u64,
}

/// How a push goes.
pub(crate) struct How<'p> {
    /// The folder that this centre keeps for the channel.
    pub(crate) state: &'p Path,
    /// Whether everything is looked at that is in the registry, instead of what has changed only.
    pub(crate) is_thorough: bool,
    pub(crate) progress: &'p Arc<Progress>,
    /// Says something to whoever has called.
    pub(crate) say: &'p (dyn Fn(&str) + Sync),
}

/// Brings the last order for each target of `tree` into the channel. Where it has them all nothing is
/// written.
///
/// # Errors
/// When the registry can't be asked, or has something else than this centre's orders.
pub(crate) async fn push(channel: &Channel, tree: &Tree, how: &How<'_>) -> anyhow::Result<Pushed> {
    let state = Dir::open_or_make(how.state)?;
    let name = &channel.name;
    ensure!(
        state.lock()?,
        "another push to the channel {name} is at work; it has what this one would do"
    );
    let record = Record::read(&state)?;
    let repository = Repository::open(&channel.address, &channel.options).await?;
    let old = Old::read(channel, &repository).await?;
    let mut push = Push {
        upload: Upload::to(&repository, how.progress),
        repository: &repository,
        state: &state,
        old: &old,
        how,
        pushed: Pushed::default(),
    };
    let mut entries = Vec::new();
    for target in tree.targets_ever()? {
        if channel.takes(&target) {
            entries.extend(push.target(tree, &target).await?);
        }
    }
    push.tell_of_gone(channel, &entries)?;
    push.finish(channel, record, entries).await
}

/// The index that a channel has.
struct Old {
    bytes: Option<Vec<u8>>,
    index: Option<Index>,
}

impl Old {
    async fn read(channel: &Channel, repository: &Repository) -> anyhow::Result<Self> {
        let (address, name) = (&channel.address, &channel.name);
        let bytes = match repository.ask().await? {
            None => None,
            Some(_) => repository.index().await?,
        };
        let index = bytes.as_deref().map(Index::parse).transpose();
        let index = index.with_context(|| {
            format!(
                "the tag `{CATALOG}` of {address} is no index that can be gone on with, and nothing was \
                 written: take another repository for the channel {name}, or delete the tag"
            )
        })?;
        if let Some(other) = index.as_ref().filter(|it| it.centre != channel.centre) {
            let (theirs, ours) = (&other.centre, &channel.centre);
            bail!(
                "the channel {name} is centre \"{theirs}\"'s: the index of {address} says so, and this is \
                 centre \"{ours}\". Nothing was written; take another repository, or, where \"{ours}\" is to \
                 take over from \"{theirs}\", delete the tag `{CATALOG}` there and tell the sites (`centre`)"
            );
        }
        Ok(Self { bytes, index })
    }
}

impl Record {
    fn read(state: &Dir) -> anyhow::Result<Self> {
        let Some(bytes) = state.read(RECORD, MAX_RECORD)? else {
            return Ok(Self::default());
        };
        let read = serde_json::from_slice(&bytes);
        read.with_context(|| {
            let path = state.path().join(RECORD);
            format!("{path:?} can't be read; where it is removed, the registry's counter counts")
        })
    }

    fn write(&self, state: &Dir) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        state.replace_durably(RECORD, TEMPORARY, &bytes, None)?;
        Ok(state.sync()?)
    }
}

/// A push that goes on.
struct Push<'p> {
    repository: &'p Repository,
    upload: Upload<'p>,
    state: &'p Dir,
    old: &'p Old,
    how: &'p How<'p>,
    pushed: Pushed,
}

impl Push<'_> {
    /// What the index will say of a target. What can't be pushed now stays as it is there.
    async fn target(&mut self, tree: &Tree, target: &Target) -> anyhow::Result<Option<Entry>> {
        let index = self.old.index.as_ref();
        let old = index.and_then(|it| it.order(target)).cloned();
        let trouble = match Order::last(tree, target) {
            Ok(None) => return Ok(None),
            Ok(Some(order)) => {
                self.warn_of_end(&order);
                if let Some(entry) = self.unchanged(&order, old.as_ref()) {
                    return Ok(Some(entry));
                }
                match self.order(&order, old.as_ref()).await {
                    Ok(entry) => {
                        if old.as_ref() != Some(&entry) {
                            self.pushed.unsigned += usize::from(order.is_unsigned());
                            self.pushed.new.push((target.clone(), order.what));
                        }
                        return Ok(Some(entry));
                    }
                    Err(error) if is_of_tree(&error) => format!(
                        "{error}; `netboot-publisher verify {target}` tells more, and the same image \
                         dropped again repairs it"
                    ),
                    Err(error) => return Err(error.context(format!("pushing {target}"))),
                }
            }
            Err(error) => format!("{error:#}"),
        };
        self.pushed.failed += 1;
        (self.how.say)(&format!("{target}: not pushed: {trouble}"));
        Ok(old)
    }

    /// What the index says already of this very order.
    fn unchanged(&mut self, order: &Order, old: Option<&Entry>) -> Option<Entry> {
        let old = old.filter(|old| old.id() == order.papers.id() && !self.how.is_thorough)?;
        let entry = Entry {
            at: order.at,
            serial: order.serial,
            ..old.clone()
        };
        if entry != *old {
            self.pushed.new.push((order.target.clone(), order.what));
        }
        Some(entry)
    }

    /// Says which orders the index will have no more. A channel that would lose all is left as it is: that
    /// is what a wrong pattern looks like, or another tree.
    fn tell_of_gone(&self, channel: &Channel, entries: &[Entry]) -> anyhow::Result<()> {
        let old = self.old.index.iter().flat_map(|it| &it.orders);
        let gone = old.filter(|old| !entries.iter().any(|it| it.target == old.target));
        let gone: Vec<_> = gone.map(|it| &it.target).collect();
        let (name, address) = (&channel.name, &channel.address);
        ensure!(
            !entries.is_empty() || gone.is_empty(),
            "the channel {name} would lose all of its orders ({}): no target of this tree fits its `targets`; \
             nothing was written. Where that is meant, delete the tag `{CATALOG}` of {address}",
            gone.len()
        );
        for target in gone {
            let why = if channel.takes(target) {
                "this tree has no order for it"
            } else {
                "`targets` of the channel doesn't fit it"
            };
            (self.how.say)(&format!(
                "{target}: taken out of the channel: {why}; what sites have of it stays"
            ));
        }
        Ok(())
    }

    fn warn_of_end(&self, order: &Order) {
        let Some(expires) = expires(&order.papers) else {
            return;
        };
        let (now, target) = (Moment::now(), &order.target);
        let left = expires.since(now);
        let expires = expires.to_seconds();
        if left.is_zero() {
            (self.how.say)(&format!(
                "{target}: its order has expired, at {expires}: a site that doesn't have it yet refuses it; \
                 sign it again with a later `expires`"
            ));
        } else if left < SOON {
            (self.how.say)(&format!(
                "{target}: its order expires at {expires}, in {}: a site that comes later refuses it; sign \
                 it again with a later `expires`",
                short(left)
            ));
        }
    }

    /// Brings an order into the registry, and all that it names before it.
    async fn order(&mut self, order: &Order, old: Option<&Entry>) -> anyhow::Result<Entry> {
        if let Some(old) = old.filter(|_| !self.how.is_thorough) {
            let earlier = self.repository.manifest(old.image.unwrap_or(old.manifest));
            // What can't be had, or read, tells of no blob that is there.
            if let Ok(earlier) = earlier.await.and_then(|it| Artifact::parse(&it)) {
                self.upload.trust(&earlier);
            }
        }
        let image = match &order.image {
            Some(image) => Some(self.image(image).await?),
            None => None,
        };
        let (manifest, image) = match (order.what, image) {
            (Verdict::Published, Some(image)) => (image, None),
            (_, image) => (self.own(&order.papers, image).await?, image),
        };
        Ok(Entry {
            target: order.target.clone(),
            what: order.what,
            at: order.at,
            serial: order.serial,
            papers: (
                Blob::of_bytes(&order.papers.manifest),
                order.papers.signature.as_deref().map(Blob::of_bytes),
            ),
            manifest,
            image,
        })
    }

    /// The artifact of an image; made once more where the registry lacks what it was believed to have.
    async fn image(&mut self, image: &TreeImage) -> anyhow::Result<Blob> {
        image.check()?;
        match self.try_image(image).await? {
            Ok(blob) => Ok(blob),
            Err(Refused::Lacking) => {
                self.upload.doubt();
                Ok(self.try_image(image).await??)
            }
            Err(refused) => Err(refused.into()),
        }
    }

    async fn try_image(&mut self, image: &TreeImage) -> anyhow::Result<Result<Blob, Refused>> {
        let layout = Layout::of(&image.listing);
        self.papers(&image.papers).await?;
        for (path, mark) in &layout.own {
            self.upload.file(&image.dir, path, *mark).await?;
        }
        let archive = if layout.has_archive() {
            let (file, blob) = self.archive(&layout, &image.dir)?;
            self.upload.made(file, blob).await?;
            self.state.remove_file(ARCHIVE)?;
            Some(blob)
        } else {
            None
        };
        let bytes = layout.to_bytes(&image.papers, archive);
        Ok(self.upload.manifest("image", bytes).await)
    }

    /// The artifact of an order that publishes nothing.
    async fn own(&mut self, papers: &Papers, named: Option<Blob>) -> anyhow::Result<Blob> {
        self.papers(papers).await?;
        if papers.signature.is_none() {
            self.upload.bytes(EMPTY_BYTES).await?;
        }
        let bytes = order_to_bytes(papers, named);
        match self.upload.manifest("order", bytes.clone()).await {
            Err(Refused::Lacking) => {
                self.upload.doubt();
                self.papers(papers).await?;
                Ok(self.upload.manifest("order", bytes).await?)
            }
            pushed => Ok(pushed?),
        }
    }

    async fn papers(&mut self, papers: &Papers) -> anyhow::Result<()> {
        self.upload.bytes(&papers.manifest).await?;
        match &papers.signature {
            Some(signature) => self.upload.bytes(signature).await,
            None => Ok(()),
        }
    }

    /// Makes the tar of an image.
    fn archive(&self, layout: &Layout<'_>, dir: &Dir) -> anyhow::Result<(File, Blob)> {
        self.state.remove_file(ARCHIVE)?;
        let mut to = Summed {
            to: BufWriter::with_capacity(1 << 20, self.state.create(ARCHIVE)?),
            hasher: Hasher::default(),
            size: 0,
        };
        archive::write(layout, dir, &mut to)?;
        let (digest, size) = (to.hasher.finish(), to.size);
        drop(to.to);
        Ok((self.state.existing_file(ARCHIVE)?, Blob { digest, size }))
    }

    /// Writes the index, unless it is there.
    async fn finish(
        mut self,
        channel: &Channel,
        record: Record,
        entries: Vec<Entry>,
    ) -> anyhow::Result<Pushed> {
        let old = self.old.index.as_ref().map_or(0, |it| it.counter);
        self.pushed.orders = entries.len();
        let mut index = Index::new(&channel.centre, old, entries);
        // A registry that was set back counts on from where this centre was: sites have seen that.
        let is_same = self.old.bytes.as_ref() == Some(&index.to_bytes()) && record.counter <= old;
        if !is_same {
            let seconds = Moment::now().since_1970().as_secs();
            index.counter = (old.max(record.counter) + 1).max(seconds);
            let bytes = index.to_bytes();
            ensure!(
                bytes.len() <= MAX_SIZE,
                "the index of {} orders has {} bytes; expected at most {MAX_SIZE}, which is what registries \
                 take: share the targets out among several channels (`targets`)",
                index.orders.len(),
                bytes.len()
            );
            let counter = index.counter;
            Record { counter }.write(self.state)?;
            self.check_index().await?;
            self.upload.index(bytes).await?;
            self.pushed.is_written = true;
        }
        self.pushed.sent = self.upload.sent;
        Ok(self.pushed)
    }

    /// Makes sure that nobody else has written the index meanwhile.
    async fn check_index(&self) -> anyhow::Result<()> {
        let old = self.old.bytes.as_deref().map(Digest::of);
        let is_same = self.repository.ask().await? == old;
        let address = &self.repository.address;
        ensure!(
            is_same,
            "somebody else has written the index of {address} meanwhile; push again"
        );
        Ok(())
    }
}

/// Whether a push fails for what is in the tree: others can be pushed all the same.
fn is_of_tree(error: &anyhow::Error) -> bool {
    error.is::<ArchiveError>() || error.is::<Misfit>()
}

/// The manifest that is kept for an image lists other files.
#[derive(Debug, thiserror::Error)]
#[error("its manifest doesn't list the files that its record lists")]
struct Misfit;

impl TreeImage {
    /// Makes sure that the manifest is that of the image.
    fn check(&self) -> Result<(), Misfit> {
        let manifest = Manifest::of_bytes(&self.papers.manifest).ok();
        let contents = manifest.and_then(Contents::of).ok_or(Misfit)?;
        let sizes = self.listing.files.values().map(|it| (it.sha256, it.size));
        let sizes: HashMap<_, _> = sizes.collect();
        let listing = contents.listing(|digest| sizes.get(digest).copied());
        (listing.as_ref() == Some(&self.listing))
            .then_some(())
            .ok_or(Misfit)
    }
}

/// When an order expires, if it does.
fn expires(papers: &Papers) -> Option<Moment> {
    let text = str::from_utf8(&papers.manifest).ok()?;
    if !text.contains("expires") {
        return None;
    }
    Manifest::of_bytes(text.as_bytes()).ok()?.expires
}

/// What is written, counted and hashed.
struct Summed<W> {
    to: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{Registry, TARGET, Wire, World, files, target};
    use super::*;

    fn error(pushed: anyhow::Result<Pushed>) -> String {
        format!("{:#}", pushed.unwrap_err())
    }

    /// Takes a blob from the repository, and leaves what names it.
    fn lose(folder: &Path, digest: &Digest) {
        let layers = "data/docker/registry/v2/repositories/netboot/stable/_layers/sha256";
        fs::remove_dir_all(folder.join(layers).join(digest.to_string())).unwrap();
    }

    /// The index that the registry has.
    async fn index(wire: &Wire) -> Index {
        let text = format!("url = \"{}\"\ncentre = \"x\"\n", wire.url());
        let channel = Channel::parse("x", "x", &text).unwrap();
        let open = Repository::open(&channel.address, &channel.options).await;
        let repository = open.unwrap();
        repository.ask().await.unwrap().unwrap();
        Index::parse(&repository.index().await.unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_leaves_the_channel_is_said_and_a_pattern_that_fits_nothing_takes_out_nothing() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world, other) = (Wire::to(&registry), World::new(), World::new());
        world.publish(TARGET, &files(1), None);
        world.publish("a/b/c/d", &files(2), Some(&|_| ()));
        assert_eq!(world.push_well(&wire).await.unsigned, 1);
        let before = index(&wire).await;
        let (pushed, said) = world.push_of(&wire, "targets = [\"x/*/*/*\"]", false).await;
        let said_of_all = error(pushed);
        let expected = "the channel stable would lose all of its orders (2): no target of this tree fits its \
            `targets`; nothing was written.";
        assert!(
            said_of_all.starts_with(expected) && said.is_empty(),
            "{said_of_all}"
        );
        assert!(error(other.push(&wire, false).await.0).starts_with(expected));
        assert_eq!(index(&wire).await, before);

        let (pushed, said) = world.push_of(&wire, "targets = [\"a/*/*/*\"]", false).await;
        assert_eq!(pushed.unwrap().orders, 1);
        let why = "`targets` of the channel doesn't fit it; what sites have of it stays";
        assert_eq!(said, [format!("{TARGET}: taken out of the channel: {why}")]);
        assert_eq!(index(&wire).await.orders.len(), 1);
    }

    #[tokio::test]
    async fn a_push_brings_what_is_new_and_one_without_anything_new_writes_nothing() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let first = world.publish(TARGET, &files(1), None);
        world.publish("arm64/generic/noble/install", &files(1), Some(&|_| ()));
        let pushed = world.push_well(&wire).await;
        assert_eq!(
            (pushed.orders, pushed.new.len(), pushed.is_written),
            (2, 2, true)
        );
        let before = index(&wire).await;
        wire.count();
        let pushed = world.push_well(&wire).await;
        let nothing = Pushed {
            orders: 2,
            ..Pushed::default()
        };
        assert_eq!(pushed, nothing);
        assert_eq!(wire.count().0, 2, "{:?}", wire.asked());
        assert_eq!(index(&wire).await, before);

        // A file of the second image is another one; nothing else is sent again.
        let mut second = files(1);
        second.insert("linux".to_string(), vec![7; 80 << 10]);
        world.publish(TARGET, &second, None);
        let pushed = world.push_well(&wire).await;
        assert_eq!(pushed.new, [(target(TARGET), Verdict::Published)]);
        assert!(
            (80 << 10..90 << 10).contains(&pushed.sent),
            "{}",
            pushed.sent
        );
        world.roll_back(TARGET, &first);
        let pushed = world.push_well(&wire).await;
        assert_eq!(pushed.new, [(target(TARGET), Verdict::RolledBack)]);
        assert!(pushed.sent < 1_000, "{}", pushed.sent);
        world.withdraw(TARGET);
        let pushed = world.push_well(&wire).await;
        assert_eq!(pushed.new, [(target(TARGET), Verdict::Withdrawn)]);
        let after = index(&wire).await;
        assert!(after.counter > before.counter + 2, "{}", after.counter);
        let orders = after.orders.iter().map(|it| (it.what, it.image.is_some()));
        let expected = [(Verdict::Published, false), (Verdict::Withdrawn, false)];
        assert_eq!(orders.collect::<Vec<_>>(), expected);
        assert_eq!(world.push_well(&wire).await, nothing);
    }

    #[tokio::test]
    async fn another_centres_channel_and_a_foreign_tag_are_left_alone() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        world.publish(TARGET, &files(1), None);
        let text = format!("url = \"{}\"\ncentre = \"ams1\"\n", wire.url());
        let channel = Channel::parse("stable", "stable.toml", &text).unwrap();
        let open = Repository::open(&channel.address, &channel.options).await;
        let repository = open.unwrap();
        let progress = Arc::new(Progress::default());
        let mut upload = Upload::to(&repository, &progress);
        let url = wire.url();
        let theirs = Index::new("ams1", 7, Vec::new()).to_bytes();
        upload.index(theirs.clone()).await.unwrap();
        let (pushed, _) = world.push(&wire, false).await;
        assert_eq!(
            error(pushed),
            format!(
                "the channel stable is centre \"ams1\"'s: the index of {url} says so, and this is centre \
                 \"fra1\". Nothing was written; take another repository, or, where \"fra1\" is to take over \
                 from \"ams1\", delete the tag `catalog` there and tell the sites (`centre`)"
            )
        );
        assert_eq!(repository.index().await.unwrap(), Some(theirs.clone()));
        let foreign = String::from_utf8(theirs)
            .unwrap()
            .replace("netboot-publisher", "other");
        upload.index(foreign.clone().into_bytes()).await.unwrap();
        let (pushed, _) = world.push(&wire, false).await;
        assert_eq!(
            error(pushed),
            format!(
                "the tag `catalog` of {url} is no index that can be gone on with, and nothing was written: \
                 take another repository for the channel stable, or delete the tag: an OCI index of \
                 `application/vnd.other.catalog.v1`; expected the index of a channel of netboot-import's"
            )
        );
        assert_eq!(
            repository.index().await.unwrap(),
            Some(foreign.into_bytes())
        );
    }

    #[tokio::test]
    async fn what_a_registry_has_lost_is_pushed_again_and_a_collection_of_garbage_takes_nothing() {
        let Some(mut registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let first = world.publish(TARGET, &files(1), None);
        world.publish(TARGET, &files(2), Some(&|_| ()));
        world.roll_back(TARGET, &first);
        world.publish("arm64/generic/noble/install", &files(3), Some(&|_| ()));
        world.push_well(&wire).await;
        let before = index(&wire).await;
        registry.again(|folder| {
            let collect = ["garbage-collect", "--delete-untagged", "config.yml"];
            let mut collect = std::process::Command::new("docker-registry")
                .args(collect)
                .current_dir(folder)
                .output();
            let collected = collect.as_mut().unwrap();
            assert!(collected.status.success(), "{collected:?}");
        });
        wire.lead_to(&registry);
        let (pushed, said) = world.push(&wire, true).await;
        let pushed = pushed.unwrap();
        assert_eq!((pushed.sent, pushed.is_written, said.len()), (0, false, 0));

        // One blob is gone, and what names it isn't.
        let lost = Digest::of(&files(3)["linux"]);
        registry.again(|folder| lose(folder, &lost));
        wire.lead_to(&registry);
        let (pushed, _) = world.push(&wire, true).await;
        let pushed = pushed.unwrap();
        assert_eq!((pushed.sent, pushed.is_written), (300 << 10, false));

        registry.again(|folder| fs::remove_dir_all(folder.join("data")).unwrap());
        wire.lead_to(&registry);
        let pushed = world.push_well(&wire).await;
        assert_eq!((pushed.new.len(), pushed.is_written), (2, true));
        let after = index(&wire).await;
        assert_eq!(
            (&after.orders, &after.images),
            (&before.orders, &before.images)
        );
        assert!(after.counter > before.counter);
    }

    #[tokio::test]
    async fn a_registry_that_was_set_back_counts_on_from_where_the_centre_was() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        world.publish(TARGET, &files(1), None);
        world.push_well(&wire).await;
        let seen = index(&wire).await.counter + 100;
        let record = format!("{{\"counter\":{seen}}}");
        fs::write(world.state().join("pushed.json"), record).unwrap();
        let pushed = world.push_well(&wire).await;
        assert_eq!((pushed.new.len(), pushed.is_written), (0, true));
        let counter = index(&wire).await.counter;
        assert!(counter > seen, "{counter}");
        assert!(!world.push_well(&wire).await.is_written);
    }

    #[tokio::test]
    async fn an_unchanged_file_that_a_registry_has_lost_comes_with_the_next_version() {
        let Some(mut registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let mut image = files(1);
        world.publish(TARGET, &image, None);
        world.push_well(&wire).await;
        registry.again(|folder| lose(folder, &Digest::of(&image["linux"])));
        wire.lead_to(&registry);
        image.insert("initrd.gz".to_string(), files(2)["initrd.gz"].clone());
        world.publish(TARGET, &image, None);
        let pushed = world.push_well(&wire).await;
        assert!(pushed.is_written && pushed.sent > 400 << 10, "{pushed:?}");
        assert!(index_is_sound(&wire).await);
    }

    #[tokio::test]
    async fn an_index_that_somebody_has_written_meanwhile_stays() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let soon = Moment::now().later(Duration::from_secs(60 * 60));
        world.publish(TARGET, &files(1), Some(&|it| it.expires = Some(soon)));
        let (url, theirs) = (wire.url(), Index::new("fra1", 7, Vec::new()));
        let text = format!("url = \"{url}\"\ncentre = \"fra1\"\n");
        let channel = Channel::parse("stable", "stable.toml", &text).unwrap();
        let progress = Arc::new(Progress::default());
        let write = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let open = Repository::open(&channel.address, &channel.options).await;
                let (repository, progress) = (open.unwrap(), Arc::default());
                let mut upload = Upload::to(&repository, &progress);
                upload.index(theirs.to_bytes()).await.unwrap();
            });
        };
        let how = How {
            state: &world.state(),
            is_thorough: false,
            progress: &progress,
            // The order's end is told of between the read and the write.
            say: &|_| std::thread::scope(|it| it.spawn(write).join().unwrap()),
        };
        assert_eq!(
            error(push(&channel, world.tree(), &how).await),
            format!("somebody else has written the index of {url} meanwhile; push again")
        );
        assert_eq!(index(&wire).await, theirs);
    }

    #[tokio::test]
    async fn an_image_whose_manifest_lists_other_files_is_not_pushed() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let less = |it: &mut Manifest| drop(it.files.as_mut().unwrap().remove("linux"));
        world.publish(TARGET, &files(1), Some(&less));
        world.publish("a/b/c/d", &files(1), Some(&|_| ()));
        let (pushed, said) = world.push(&wire, false).await;
        let pushed = pushed.unwrap();
        assert_eq!((pushed.failed, pushed.orders), (1, 1));
        assert_eq!(
            said,
            [format!(
                "{TARGET}: not pushed: its manifest doesn't list the files that its record lists; \
                 `netboot-publisher verify {TARGET}` tells more, and the same image dropped again repairs it"
            )]
        );
    }

    #[tokio::test]
    async fn a_push_keeps_nothing_but_its_counter() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        world.publish(TARGET, &files(1), None);
        world.push_well(&wire).await;
        let names = fs::read_dir(world.state()).unwrap();
        let names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["pushed.json"]);
        let kept = fs::read_to_string(world.state().join("pushed.json")).unwrap();
        let counter = index(&wire).await.counter;
        assert_eq!(kept, format!("{{\"counter\":{counter}}}"));
    }

    #[tokio::test]
    async fn what_is_damaged_in_the_tree_is_not_pushed_and_the_rest_is() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        world.publish(TARGET, &files(1), None);
        world.push_well(&wire).await;
        let before = index(&wire).await;
        for path in ["linux", "boot/menu"] {
            let mut other = files(2);
            other.insert("initrd.gz".to_string(), path.as_bytes().to_vec());
            world.publish(TARGET, &other, None);
            let file = world.folder.path().join("tree").join(TARGET).join(path);
            let mut bytes = fs::read(&file).unwrap();
            bytes[1] ^= 1;
            fs::write(&file, bytes).unwrap();
            let arm = format!("arm64/generic/noble/{}", path.replace('/', "-"));
            world.publish(&arm, &files(3), None);
            let (pushed, said) = world.push(&wire, false).await;
            let pushed = pushed.unwrap();
            assert_eq!((pushed.failed, pushed.new.len()), (1, 1));
            assert_eq!(
                said,
                [format!(
                    "{TARGET}: not pushed: `{path}` isn't what its record says; `netboot-publisher verify \
                     {TARGET}` tells more, and the same image dropped again repairs it"
                )]
            );
            let after = index(&wire).await;
            assert_eq!(after.order(&target(TARGET)), before.order(&target(TARGET)));
        }
    }

    #[tokio::test]
    async fn an_order_that_ends_soon_is_told_of() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let day = Duration::from_secs(24 * 60 * 60);
        let soon = Moment::now().later(day * 3 + Duration::from_secs(60));
        world.publish(TARGET, &files(1), Some(&|it| it.expires = Some(soon)));
        let late = "2026-01-01T00:00:00Z".parse().unwrap();
        world.publish("a/b/c/d", &files(1), Some(&|it| it.expires = Some(late)));
        let later = Moment::now().later(day * 31);
        world.publish("a/b/c/e", &files(1), Some(&|it| it.expires = Some(later)));
        let (pushed, said) = world.push(&wire, false).await;
        assert_eq!(pushed.unwrap().new.len(), 3);
        let expected = [
            "a/b/c/d: its order has expired, at 2026-01-01T00:00:00Z: a site that doesn't have it yet \
             refuses it; sign it again with a later `expires`"
                .to_string(),
            format!(
                "{TARGET}: its order expires at {}, in 3d: a site that comes later refuses it; sign it again \
                 with a later `expires`",
                soon.to_seconds()
            ),
        ];
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_push_that_was_cut_off_anywhere_is_completed_by_the_next() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut world) = (Wire::to(&registry), World::new());
        let first = world.publish(TARGET, &files(1), Some(&|_| ()));
        world.publish(TARGET, &files(2), None);
        world.roll_back(TARGET, &first);
        let (mut bytes, mut tries) = (40, 0);
        let pushed = loop {
            wire.cut_after(Some(bytes));
            bytes += 400;
            tries += 1;
            let (pushed, _) = world.push(&wire, false).await;
            wire.cut_after(None);
            match pushed {
                Ok(pushed) => break pushed,
                Err(_) if index_is_sound(&wire).await => {}
                Err(error) => panic!("the index names what isn't there: {error:#}"),
            }
        };
        assert!(tries > 3, "{tries}");
        assert_eq!(pushed.orders, 1);
        let (pushed, _) = world.push(&wire, true).await;
        let pushed = pushed.unwrap();
        assert_eq!((pushed.sent, pushed.is_written), (0, false));
    }

    /// Whether all that the index names is there, if there is one.
    async fn index_is_sound(wire: &Wire) -> bool {
        let text = format!("url = \"{}\"\ncentre = \"x\"\n", wire.url());
        let channel = Channel::parse("x", "x", &text).unwrap();
        let open = Repository::open(&channel.address, &channel.options).await;
        let repository = open.unwrap();
        if repository.ask().await.unwrap().is_none() {
            return true;
        }
        let index = index(wire).await;
        for blob in index
            .orders
            .iter()
            .flat_map(|it| [Some(it.manifest), it.image])
        {
            let Some(blob) = blob else { continue };
            let artifact = repository.manifest(blob).await.unwrap();
            for digest in Artifact::parse(&artifact).unwrap().blobs() {
                let blob = Blob { digest, size: 0 };
                assert!(repository.has(blob).await.unwrap());
            }
        }
        true
    }
}
