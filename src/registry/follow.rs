//! A site that follows a channel: which orders there are, and which of them it wants.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use reqwest::Url;

use super::address::Address;
use super::bring::{Brought, Remote};
use super::index::{Entry, Index};
use super::order::Order;
use super::repository::Repository;
use super::seen::Seen;
use super::store::Store;
use crate::fetch::{Fetched, Options};
use crate::settings::Limits;
use crate::sources::Site;
use crate::sys::{Dir, Progress};
use crate::tree::Tree;
use crate::words::{Digest, Target, Verdict};

/// A site that follows a channel.
pub(crate) struct Follower {
    pub(super) remote: Remote,
    site: Site,
    state: Dir,
    seen: Seen,
    index: Option<Index>,
}

/// What a registry has answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether the index is the one of the last time.
    pub(crate) is_same: bool,
    /// The orders that aren't in effect, and weren't brought yet, by time.
    pub(crate) wanted: Vec<News>,
    /// Targets for which there was an order, and is none: what is here stays.
    pub(crate) gone: Vec<Target>,
}

/// An order in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News(pub(super) Entry);

impl News {
    pub(crate) fn target(&self) -> &Target {
        &self.0.target
    }

    /// What tells the order from all others.
    pub(crate) fn id(&self) -> Digest {
        self.0.id()
    }

    /// What the centre has done.
    pub(crate) fn what(&self) -> Verdict {
        self.0.what
    }
}

/// What is new to somebody who follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    /// An index that is older than the last one, or another centre's, counts once.
    pub(crate) other_index: bool,
    /// Orders that were brought once are brought again where they aren't in effect.
    pub(crate) again: bool,
}

impl Follower {
    /// Opens the channel at `url`; `state` is the folder that the site keeps for it.
    ///
    /// # Errors
    /// When another process follows it here, or files of its options can't be read.
    pub(crate) async fn open(
        (url, options): (&Url, &Options),
        site: &Site,
        state: &Path,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        let address = Address::of(url);
        let address = address.with_context(|| format!("{url}: expected {}", Address::RULE))?;
        let state = Dir::open_or_make(state)?;
        let is_free = state.lock()?;
        ensure!(is_free, "another netboot-import works on this source");
        let (seen, index) = Seen::read(&state)?;
        let remote = Remote {
            repository: Repository::open(&address, options).await?,
            store: Store::open(&state)?,
            limits: limits.clone(),
            is_insecure: site.is_insecure,
        };
        Ok(Self {
            remote,
            site: site.clone(),
            state,
            seen,
            index,
        })
    }

    /// Asks whether there is another index than the last time, and for it if there is; says which orders
    /// of it `tree` doesn't show.
    ///
    /// # Errors
    /// When the registry can't be asked, or its index is one that may not count.
    pub(crate) async fn ask(&mut self, tree: &Tree, accept: Accept) -> anyhow::Result<Asked> {
        let address = &self.remote.repository.address;
        let Some(digest) = self.remote.repository.ask().await? else {
            bail!(
                "{address} has no orders: `url` is another repository than the centre's, or the centre has pushed \
                 none yet, or the registry was emptied and the centre's next push fills it; what is here stays"
            );
        };
        let is_same = self.index.is_some() && self.seen.index == Some(digest);
        let mut gone = Vec::new();
        match &self.index {
            // What the source's file says may be new.
            Some(index) if is_same => self.check_centre(index)?,
            _ => gone = self.take_index(accept).await?,
        }
        let wanted = self.wanted(tree, accept.again)?;
        Ok(Asked {
            is_same,
            wanted,
            gone,
        })
    }

    /// Reads the index, and takes it for the last one. Returns the targets that it has no orders for any
    /// more.
    async fn take_index(&mut self, accept: Accept) -> anyhow::Result<Vec<Target>> {
        let address = &self.remote.repository.address;
        let bytes = self.remote.repository.index().await?;
        let bytes =
            bytes.with_context(|| format!("the index of {address} has gone while it was read"))?;
        let index = Index::parse(&bytes).with_context(|| format!("the index of {address}"))?;
        self.check(&index, accept)?;
        let old = self.index.iter().flat_map(|old| &old.orders);
        let gone = old.filter(|it| index.order(&it.target).is_none());
        let gone: Vec<_> = gone
            .map(|it| it.target.clone())
            .filter(|it| self.follows(it))
            .collect();
        self.seen.keep_index(&self.state, &bytes)?;
        self.seen.centre.clone_from(&index.centre);
        self.seen.counter = index.counter;
        self.seen
            .settled
            .retain(|target, _| index.order(target).is_some());
        self.index = Some(index);
        self.seen.write(&self.state)?;
        Ok(gone)
    }

    /// Makes sure that an index is of the centre that the source's file names, if it does.
    fn check_centre(&self, index: &Index) -> anyhow::Result<()> {
        let (address, theirs) = (&self.remote.repository.address, &index.centre);
        if let Some(ours) = self.site.centre.as_ref().filter(|it| *it != theirs) {
            bail!(
                "{address} has the orders of centre \"{theirs}\"; expected those of \"{ours}\" (`centre`), and \
                 none was taken"
            );
        }
        Ok(())
    }

    /// Makes sure that an index may count.
    fn check(&self, index: &Index, accept: Accept) -> anyhow::Result<()> {
        const ACCEPT: &str = "where that is right, `netboot-import run NAME --accept` takes it";
        self.check_centre(index)?;
        if accept.other_index {
            return Ok(());
        }
        let (address, theirs) = (&self.remote.repository.address, &index.centre);
        let Seen {
            centre, counter, ..
        } = &self.seen;
        if !centre.is_empty() && centre != theirs {
            bail!(
                "{address} has the orders of centre \"{theirs}\" now; until now it had those of \"{centre}\". \
                 None was taken; {ACCEPT}"
            );
        }
        if index.counter <= *counter && self.seen.index.is_some() {
            bail!(
                "the index of {address} is number {}; number {counter} was seen here before: the registry was \
                 set back, or somebody shows an old state. No order was taken; {ACCEPT}",
                index.counter
            );
        }
        Ok(())
    }

    fn follows(&self, target: &Target) -> bool {
        self.site.targets.iter().any(|it| it.fits(target))
    }

    /// The orders that the tree doesn't show.
    fn wanted(&mut self, tree: &Tree, again: bool) -> anyhow::Result<Vec<News>> {
        let (mut wanted, mut found) = (Vec::new(), false);
        for entry in self.index.iter().flat_map(|it| &it.orders) {
            let is_settled = self.seen.settled.get(&entry.target) == Some(&entry.id());
            if !self.follows(&entry.target) || (is_settled && !again) {
                continue;
            }
            // What can't be told of what is here is no reason to leave the order.
            let last = Order::last(tree, &entry.target).ok().flatten();
            let is_never_there = last.is_none() && entry.what == Verdict::Withdrawn;
            let is_here = last.is_some_and(|last| last.papers.id() == entry.id());
            // Brought again, an image repairs what was damaged here.
            let may_repair = matches!(entry.what, Verdict::Published | Verdict::Promoted);
            if is_never_there || (is_here && !(again && may_repair)) {
                let (target, id) = (entry.target.clone(), entry.id());
                found |= self.seen.settled.insert(target, id) != Some(id);
                continue;
            }
            wanted.push(News(entry.clone()));
        }
        if found {
            self.seen.write(&self.state)?;
        }
        Ok(wanted)
    }

    /// That an order was handed over to the daemon, or is in effect: it isn't wanted again.
    ///
    /// # Errors
    /// When that can't be written down.
    pub(crate) fn settle(&mut self, news: &News) -> anyhow::Result<()> {
        let News(entry) = news;
        self.seen.settled.insert(entry.target.clone(), entry.id());
        self.seen.write(&self.state)
    }

    /// Removes what was fetched for orders that were handed over.
    ///
    /// # Errors
    /// When it can't be removed.
    pub(crate) fn tidy(&self) -> anyhow::Result<()> {
        self.remote.store.clear()
    }

    /// Reads an order, and what it says of its image; nothing of the image itself.
    ///
    /// # Errors
    /// When it can't be had, isn't what its digests say, or isn't an order that this site takes.
    pub(crate) async fn bring(&self, news: &News) -> anyhow::Result<Brought> {
        self.remote.bring(&news.0).await
    }

    /// What an order will take, if it is fetched; nothing is.
    ///
    /// # Errors
    /// When the tree can't be read, or the image is not whole in the registry.
    pub(crate) async fn takes(&self, brought: &Brought, tree: &Tree) -> anyhow::Result<Fetched> {
        self.remote.takes(brought, tree).await
    }

    /// Puts the image of an order together in the empty folder `into`; returns what it took. What came from
    /// the registry is kept until [`Follower::tidy`], so that another try goes on there.
    ///
    /// # Errors
    /// When something can't be had, isn't what its digest says, or isn't listed.
    pub(crate) async fn fetch(
        &self,
        brought: &Brought,
        tree: &Tree,
        into: &Dir,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Fetched> {
        self.remote.fetch(brought, tree, into, progress).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::artifact::Blob;
    use super::super::tests::{Registry, TARGET, Wire, World, files, follow, site, target};
    use super::super::upload::Upload;
    use super::*;
    use crate::spool::{Listed, Manifest};
    use crate::words::Digest;

    fn said<T>(result: anyhow::Result<T>) -> String {
        format!("{:#}", result.err().expect("it fails"))
    }

    async fn put_index(follower: &Follower, bytes: Vec<u8>) {
        let progress = Arc::new(Progress::default());
        let mut upload = Upload::to(&follower.remote.repository, &progress);
        upload.index(bytes).await.unwrap();
    }

    #[tokio::test]
    async fn an_unchanged_channel_is_asked_by_one_request_also_after_a_new_start() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        centre.publish(TARGET, &files(1), None);
        centre.publish("a/b/c/d", &files(2), Some(&|_| ()));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        let said: Vec<_> = wanted
            .iter()
            .map(|it| (it.target().to_string(), it.what()))
            .collect();
        let expected = [TARGET, "a/b/c/d"].map(|it| (it.to_string(), Verdict::Published));
        assert_eq!(said, expected);
        wire.count();
        assert_eq!(follower.wants(local.tree()).await, wanted);
        let (requests, bytes) = wire.count();
        assert!(
            requests == 1 && bytes < 500,
            "{requests} {bytes} {:?}",
            wire.asked()
        );
        follower.settle(&wanted[0]).unwrap();
        drop(follower);
        let mut follower = follow(&wire, &local.state(), &site()).await;
        wire.count();
        let asked = follower.ask(local.tree(), Accept::default()).await.unwrap();
        assert!(asked.is_same);
        assert_eq!(asked.wanted, wanted[1..]);
        assert_eq!(wire.count().0, 1, "{:?}", wire.asked());
        let again = Accept {
            again: true,
            ..Accept::default()
        };
        let asked = follower.ask(local.tree(), again).await.unwrap();
        assert_eq!(asked.wanted, wanted);
    }

    #[tokio::test]
    async fn what_is_in_effect_is_not_wanted_and_what_a_site_does_not_follow_neither() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        for world in [&mut centre, &mut local] {
            let first = world.publish("a/b/c/back", &files(1), Some(&|_| ()));
            world.publish("a/b/c/back", &files(2), None);
            world.roll_back("a/b/c/back", &first);
            world.publish("a/b/c/signed", &files(1), Some(&|_| ()));
            world.publish("a/b/c/unsigned", &files(1), None);
            world.publish("a/b/c/gone", &files(1), None);
            world.withdraw("a/b/c/gone");
        }
        centre.publish("x/b/c/other", &files(1), None);
        centre.publish("a/b/c/never", &files(1), None);
        centre.withdraw("a/b/c/never");
        centre.publish("a/b/c/signed", &files(3), Some(&|_| ()));
        centre.push_well(&wire).await;
        let some = Site {
            targets: vec!["a/*/*/*".parse().unwrap()],
            ..site()
        };
        let mut follower = follow(&wire, &local.state(), &some).await;
        let wanted = follower.wants(local.tree()).await;
        let names = |wanted: &[News]| -> Vec<_> {
            wanted.iter().map(|it| it.target().to_string()).collect()
        };
        assert_eq!(names(&wanted), ["a/b/c/signed"]);
        let again = Accept {
            again: true,
            ..Accept::default()
        };
        let asked = follower.ask(local.tree(), again).await.unwrap();
        assert_eq!(names(&asked.wanted), ["a/b/c/unsigned", "a/b/c/signed"]);
    }

    #[tokio::test]
    async fn a_rollback_and_a_withdrawal_are_brought_and_a_rollback_carries_its_image() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        let first = centre.publish(TARGET, &files(1), Some(&|_| ()));
        centre.publish(TARGET, &files(2), None);
        centre.roll_back(TARGET, &first);
        centre.publish("a/b/c/d", &files(2), None);
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        let brought = follower.bring(&wanted[0]).await.unwrap();
        let order = String::from_utf8(brought.papers.manifest.clone()).unwrap();
        assert!(order.contains("action = \"rollback\"") && order.contains(&first.to_string()));
        let carried = brought.carried().unwrap();
        assert_eq!(carried.signature.as_deref(), Some(&b"signature"[..]));
        assert!(brought.has_image());
        let other = follower.bring(&wanted[1]).await.unwrap();
        assert!(other.carried().is_none() && other.has_image());
        follower.settle(&wanted[1]).unwrap();

        centre.withdraw("a/b/c/d");
        centre.push_well(&wire).await;
        let mut here = World::new();
        here.publish("a/b/c/d", &files(7), None);
        let wanted = follower.wants(here.tree()).await;
        let [_, gone] = &wanted[..] else {
            panic!("{wanted:?}");
        };
        let brought = follower.bring(gone).await.unwrap();
        assert!(!brought.has_image() && !brought.is_in_effect(here.tree()));
        here.withdraw("a/b/c/d");
        assert!(brought.is_in_effect(here.tree()));
    }

    #[tokio::test]
    async fn an_unsigned_order_counts_where_the_site_says_so_and_what_is_the_same_is_in_effect() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        centre.publish(TARGET, &files(1), None);
        centre.push_well(&wire).await;
        let careful = Site {
            is_insecure: false,
            ..site()
        };
        let mut follower = follow(&wire, &local.state(), &careful).await;
        let wanted = follower.wants(local.tree()).await;
        assert_eq!(
            said(follower.bring(&wanted[0]).await),
            "nobody has signed it; expected a signature, or `insecure = true` in the source's file"
        );
        drop(follower);
        let follower = follow(&wire, &local.state(), &site()).await;
        let brought = follower.bring(&wanted[0]).await.unwrap();
        assert!(!brought.is_in_effect(local.tree()));
        local.publish(TARGET, &files(2), None);
        assert!(!brought.is_in_effect(local.tree()));
        local.publish(TARGET, &files(1), Some(&|_| ()));
        assert!(brought.is_in_effect(local.tree()));
    }

    #[tokio::test]
    async fn a_signed_order_is_never_in_effect_by_what_it_brings_and_another_version_neither() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        let change = |it: &mut Manifest| it.version = Some("1".to_string());
        centre.publish(TARGET, &files(1), Some(&change));
        centre.publish("a/b/c/d", &files(1), None);
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        for to in [TARGET, "a/b/c/d"] {
            local.publish(to, &files(1), None);
        }
        let signed = follower.bring(&wanted[0]).await.unwrap();
        assert!(!signed.is_in_effect(local.tree()));
        let title: fn(&mut Manifest) = |it| it.boot.title = Some("other".to_string());
        let version: fn(&mut Manifest) = |it| it.version = Some("2".to_string());
        for (change, expected) in [(title, false), (version, false), (|_| (), true)] {
            let mut unsigned = follower.bring(&wanted[1]).await.unwrap();
            let bytes = &mut unsigned.image.as_mut().unwrap().papers.manifest;
            let mut manifest = Manifest::of_bytes(bytes).unwrap();
            change(&mut manifest);
            *bytes = manifest.to_toml().into_bytes();
            assert_eq!(unsigned.is_in_effect(local.tree()), expected);
        }
    }

    #[tokio::test]
    async fn an_index_that_may_not_count_is_refused_and_changes_nothing() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        let url = wire.url();
        let mut follower = follow(&wire, &local.state(), &site()).await;
        assert_eq!(
            said(follower.ask(local.tree(), Accept::default()).await),
            format!(
                "{url} has no orders: `url` is another repository than the centre's, or the centre has pushed none \
                 yet, or the registry was emptied and the centre's next push fills it; what is here stays"
            )
        );
        centre.publish(TARGET, &files(1), None);
        centre.push_well(&wire).await;
        follower.wants(local.tree()).await;
        let (index, seen) = (follower.index.clone().unwrap(), follower.seen.clone());
        let accept =
            "None was taken; where that is right, `netboot-import run NAME --accept` takes it";
        let counter = index.counter;
        for (change, expected) in [
            (
                Index {
                    counter: counter - 1,
                    ..index.clone()
                },
                format!(
                    "the index of {url} is number {}; number {counter} was seen here before: the registry was \
                     set back, or somebody shows an old state. No order was taken; where that is right, \
                     `netboot-import run NAME --accept` takes it",
                    counter - 1
                ),
            ),
            (
                Index {
                    counter,
                    orders: Vec::new(),
                    ..index.clone()
                },
                format!(
                    "the index of {url} is number {counter}; number {counter} was seen here before: the \
                     registry was set back, or somebody shows an old state. No order was taken; where that is \
                     right, `netboot-import run NAME --accept` takes it"
                ),
            ),
            (
                Index {
                    centre: "ams1".into(),
                    counter: counter + 9,
                    ..index.clone()
                },
                format!(
                    "{url} has the orders of centre \"ams1\" now; until now it had those of \"fra1\". {accept}"
                ),
            ),
        ] {
            put_index(&follower, change.to_bytes()).await;
            assert_eq!(
                said(follower.ask(local.tree(), Accept::default()).await),
                expected
            );
            assert_eq!(
                (&follower.seen, follower.index.as_ref()),
                (&seen, Some(&index))
            );
        }
        // What an admin accepts counts from then on.
        let accept = Accept {
            other_index: true,
            ..Accept::default()
        };
        assert!(!follower.ask(local.tree(), accept).await.unwrap().is_same);
        assert!(
            follower
                .ask(local.tree(), Accept::default())
                .await
                .unwrap()
                .is_same
        );
        drop(follower);

        let of_fra1 = Site {
            centre: Some("fra1".to_string()),
            ..site()
        };
        let mut follower = follow(&wire, &local.state().join("other"), &of_fra1).await;
        assert_eq!(
            said(follower.ask(local.tree(), accept).await),
            format!(
                "{url} has the orders of centre \"ams1\"; expected those of \"fra1\" (`centre`), and none was \
                 taken"
            )
        );
    }

    #[tokio::test]
    async fn an_index_that_was_seen_counts_also_after_a_new_start() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        centre.publish(TARGET, &files(1), None);
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        follower.wants(local.tree()).await;
        let mut index = follower.index.clone().unwrap();
        index.counter -= 1;
        put_index(&follower, index.to_bytes()).await;
        drop(follower);
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let error = said(follower.ask(local.tree(), Accept::default()).await);
        let (was, is) = (index.counter + 1, index.counter);
        let expected = format!("is number {is}; number {was} was seen here before: the registry");
        assert!(error.contains(&expected), "{error}");
    }

    #[tokio::test]
    async fn an_index_that_says_what_an_order_does_not_is_refused() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, mut local) = (Wire::to(&registry), World::new(), World::new());
        let first = centre.publish("a/b/c/back", &files(1), None);
        centre.publish("a/b/c/back", &files(2), None);
        centre.roll_back("a/b/c/back", &first);
        centre.publish("a/b/c/one", &files(3), None);
        centre.publish("a/b/c/two", &files(4), None);
        for world in [&mut centre, &mut local] {
            world.publish("a/b/c/gone", &files(5), None);
        }
        centre.withdraw("a/b/c/gone");
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        for news in follower.wants(local.tree()).await {
            follower.bring(&news).await.unwrap();
        }
        let mut index = follower.index.clone().unwrap();
        index.counter += 1;
        let [back, one, two, gone] = &mut index.orders[..] else {
            panic!("{index:?}");
        };
        back.image = Some(one.manifest);
        std::mem::swap(&mut one.papers, &mut two.papers);
        std::mem::swap(&mut one.manifest, &mut two.manifest);
        gone.what = Verdict::Published;
        put_index(&follower, index.to_bytes()).await;
        let wanted = follower.wants(local.tree()).await;
        let mut errors = Vec::new();
        for news in &wanted {
            errors.push(said(follower.bring(news).await));
        }
        let expected = [
            "the order names another image than the one that comes with it",
            "the order is for a/b/c/two; expected it to be for a/b/c/one, as the index says",
            "the order is for a/b/c/one; expected it to be for a/b/c/two, as the index says",
            "the order asks for something else than the index says (published)",
        ];
        assert_eq!(errors, expected);
    }

    #[tokio::test]
    async fn an_image_that_is_too_large_is_refused_before_anything_of_it_comes() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        let large = 400 << 10;
        centre.publish("a/b/c/all", &files(1), Some(&|_| ()));
        let without_sizes = |manifest: &mut Manifest| {
            for listed in manifest.files.as_mut().unwrap().values_mut() {
                if let Listed::File { size, .. } = listed {
                    *size = None;
                }
            }
        };
        centre.publish("a/b/c/large", &files(2), Some(&without_sizes));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let [told, untold] = &follower.wants(local.tree()).await[..] else {
            panic!("both are wanted");
        };
        wire.asked();
        let few = "it has 3 files; expected at most 2 (limits.max_files)".to_string();
        let bytes = |is: u64, max: u64| {
            format!("it has {is} bytes; expected at most {max} (limits.max_image_size)")
        };
        let (whole, good) = (large + 70, follower.remote.limits.clone());
        for (news, max_files, max_image_size, expected) in [
            (told, 2, whole, few),
            (told, 3, whole - 1, bytes(whole, whole - 1)),
            (untold, 3, large - 1, bytes(large, large - 1)),
        ] {
            follower.remote.limits = Limits {
                max_image_size,
                max_files,
                ..good.clone()
            };
            assert_eq!(said(follower.bring(news).await), expected);
            follower.remote.limits.max_image_size += 1;
            follower.remote.limits.max_files = 3;
            follower.bring(news).await.unwrap();
        }
        let papers = [told, untold].map(|it| [Some(it.0.papers.0), it.0.papers.1]);
        let papers: Vec<_> = papers.iter().flatten().flatten().map(Blob::name).collect();
        let asked = wire.asked();
        let mut blobs = asked.iter().filter_map(|it| it.split_once("/blobs/"));
        assert!(
            blobs.all(|(_, name)| papers.iter().any(|it| it == name)),
            "{asked:?}"
        );
    }

    #[tokio::test]
    async fn a_target_that_has_gone_from_the_index_is_told_of_once() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        centre.publish(TARGET, &files(1), None);
        centre.publish("a/b/c/d", &files(1), None);
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        follower.wants(local.tree()).await;
        let mut index = follower.index.clone().unwrap();
        index.counter += 1;
        index.orders.retain(|it| it.target.to_string() == TARGET);
        put_index(&follower, index.to_bytes()).await;
        let asked = follower.ask(local.tree(), Accept::default()).await.unwrap();
        assert_eq!(asked.gone, [target("a/b/c/d")]);
        assert_eq!(follower.wants(local.tree()).await.len(), 1);
    }

    #[tokio::test]
    async fn bytes_that_were_changed_in_the_registry_are_refused() {
        let Some(mut registry) = Registry::start() else {
            return;
        };
        let (wire, mut centre, local) = (Wire::to(&registry), World::new(), World::new());
        centre.publish(TARGET, &files(1), Some(&|_| ()));
        centre.push_well(&wire).await;
        let mut follower = follow(&wire, &local.state(), &site()).await;
        let wanted = follower.wants(local.tree()).await;
        let manifest = wanted[0].0.manifest;
        let (config, _) = wanted[0].0.papers;
        let put = |registry: &mut Registry, digest: &Digest, bytes: Vec<u8>| {
            let path = registry.blob(digest);
            registry.again(|_| fs::write(&path, bytes).unwrap());
        };
        let change = |registry: &mut Registry, digest: &Digest| {
            let mut bytes = fs::read(registry.blob(digest)).unwrap();
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            put(registry, digest, bytes);
        };
        change(&mut registry, &config.digest);
        wire.lead_to(&registry);
        let (url, name) = (wire.url(), config.name());
        assert_eq!(
            said(follower.bring(&wanted[0]).await),
            format!(
                "{url} has other bytes by the name {name}: somebody has changed them there, or its disk is \
                 damaged; none of them was taken, and `netboot-import push --all` at the centre repairs it"
            )
        );
        change(&mut registry, &config.digest);
        change(&mut registry, &manifest.digest);
        wire.lead_to(&registry);
        let (_, takes) = follower.image(&wanted[0], local.tree()).await;
        let changed = "what came isn't what it is called by: somebody has changed it there, or its disk is \
                       damaged; it was not taken";
        let name = manifest.name();
        assert_eq!(
            said(takes),
            format!("reading the manifest {name} of {url}: {changed}")
        );
        let index = follower.seen.index.unwrap();
        let text = fs::read_to_string(registry.blob(&index)).unwrap();
        put(
            &mut registry,
            &index,
            text.replace("fra1", "fra2").into_bytes(),
        );
        wire.lead_to(&registry);
        let mut other = follow(&wire, &local.state().join("other"), &site()).await;
        assert_eq!(
            said(other.ask(local.tree(), Accept::default()).await),
            format!("reading the index of {url}: {changed}")
        );
    }

    #[tokio::test]
    async fn a_login_costs_no_request_more_and_without_it_nothing_is_told() {
        let Some(registry) = Registry::with_login() else {
            return;
        };
        let (wire, local) = (Wire::to(&registry), World::new());
        let password = local.folder.path().join("password");
        fs::write(&password, "secret\nmore\n").unwrap();
        let address = Address::of(&wire.url().parse().unwrap()).unwrap();
        let open = |login: Option<(&str, &Path)>| {
            let options = Options {
                ca: None,
                login: login.map(|(user, path)| (user.to_string(), path.to_path_buf())),
            };
            let address = &address;
            async move { Repository::open(address, &options).await.unwrap() }
        };
        let good = open(Some(("centre", &password))).await;
        let progress = Arc::new(Progress::default());
        let mut upload = Upload::to(&good, &progress);
        let index = Index::new("fra1", 1, Vec::new()).to_bytes();
        upload.bytes(b"abc").await.unwrap();
        upload.index(index.clone()).await.unwrap();
        wire.count();
        assert_eq!(good.ask().await.unwrap(), Some(Digest::of(&index)));
        assert_eq!(wire.count().0, 1, "{:?}", wire.asked());
        for login in [None, Some(("other", &*password))] {
            let error = said(open(login).await.ask().await);
            assert_eq!(
                error,
                format!(
                    "asking for the index of {}: not authorized; expected a login that may do that \
                     (`username`, `password_file`)",
                    wire.url()
                )
            );
        }
    }
}
