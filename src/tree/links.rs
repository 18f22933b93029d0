//! What the daemon keeps beneath the TFTP server's root beside the targets: aliases, which are links to
//! the stable paths of targets, and outputs of boot configurations.
//!
//! Which of these are the daemon's is listed in `.netboot-publisher/links`; what isn't listed is
//! somebody else's, and neither replaced nor removed. A path is on the list, durably, before anything
//! is made there, and until that has durably gone: a crash leaves nothing of which nobody knows whose
//! it is. The list itself is `listed`'s.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::beneath::{Blocked, Found, find, kind_in_words};
use super::listed::{Link, List, Lists, NAME, Place, read_list, up};
use super::{Tree, folder};
use crate::fault::Unwritable;
use crate::image::DIR_MODE;
use crate::settings::Alias;
use crate::sys::{Dir, Failure, Kind, Ownership, failpoint};
use crate::words::Target;

/// A longer old output, in bytes, is replaced without a comparison.
const MAX_OUTPUT: u64 = 1 << 30;

/// What the daemon keeps beneath the root. The lock is held while a link is made or removed: so none is
/// made to a target that leaves the tree at this moment.
#[derive(Debug)]
pub(crate) struct Links {
    private: Dir,
    lists: Mutex<Lists>,
}

/// What a look at all aliases and outputs has come to.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Of which alias, and why it is not as it should be.
    pub(crate) troubles: Vec<(PathBuf, Blocked)>,
    /// Outputs that nobody renders any more: they stay, and are the admin's.
    pub(crate) given_up: Vec<PathBuf>,
}

impl Links {
    /// The links of the tree whose folder `private` is the daemon's own.
    pub(super) fn new(private: Dir) -> Self {
        let lists = Mutex::new(Lists::open(&private));
        Self { private, lists }
    }

    /// Makes the links of these aliases that lead somewhere, and removes those that don't and those of
    /// no alias. Takes off the list what beneath the root `is_output` no more.
    pub(crate) fn keep(
        &self,
        (tree, root): (&Tree, &Path),
        aliases: &[Alias],
        is_output: impl Fn(&str) -> bool,
    ) -> Kept {
        let (mut lists, mut kept) = (self.lock(), Kept::default());
        let about_list = PathBuf::from(NAME);
        if lists.is_damaged {
            let damaged = Blocked::Damaged(self.private.path().join(NAME));
            kept.troubles.push((about_list.clone(), damaged));
        }
        let place = |path: &Path| Place::new(tree.root().path(), root, path);
        let up = up(tree.root().path(), root);
        let is_kept = |it: &Place| it.up == up && is_output(&it.below);
        let List { outputs, empty, .. } = &mut lists.now;
        let given_up = outputs.iter().chain(&*empty).filter(|it| !is_kept(it));
        let given_up = given_up.map(|it| it.root(tree).join(&it.below));
        kept.given_up.extend(given_up);
        outputs.retain(is_kept);
        empty.retain(is_kept);

        let wanted: BTreeSet<_> = aliases.iter().map(|it| place(&it.path)).collect();
        let others = lists.now.aliases.iter();
        let others = others.filter(|it| !wanted.contains(&it.path));
        for link in others.cloned().collect::<Vec<_>>() {
            match remove(tree, &link) {
                Ok(()) => drop(lists.now.aliases.remove(&link)),
                Err(blocked) => kept.troubles.push((link.path.below.into(), blocked)),
            }
        }
        for alias in aliases {
            let link = Link::new(tree.root().path(), root, alias);
            if let Err(blocked) = self.keep_one(tree, &link, &mut lists) {
                kept.troubles.push((alias.path.clone(), blocked));
            }
        }
        if let Err(failure) = lists.save(&self.private) {
            kept.troubles.push((about_list, failure.into()));
        }
        kept
    }

    fn keep_one(&self, tree: &Tree, link: &Link, lists: &mut Lists) -> Result<(), Blocked> {
        let found = link.path.find(tree);
        let there = match found.and_then(|found| look(&found, link, &lists.now)) {
            Ok(There::Theirs) => return Ok(()),
            Ok(there) => there,
            Err(blocked) => {
                // What was the daemon's there is so no more.
                lists.now.aliases.retain(|it| it.path != link.path);
                return Err(blocked);
            }
        };
        let is_shown = tree.is_shown(&link.target)?;
        if lists.now.aliases.insert(link.clone())
            && let Err(failure) = lists.save(&self.private)
        {
            lists.now.aliases.remove(link);
            return Err(failure.into());
        }
        let others = lists.now.links_at(&link.path).filter(|it| *it != link);
        let others: Vec<_> = others.cloned().collect();
        match there {
            There::Nothing if is_shown => make(tree, link)?,
            There::Own(old) if is_shown && old != link.holds => {
                replace(tree, link, &others)?;
            }
            There::Own(_) if !is_shown => remove(tree, link)?,
            _ => {}
        }
        for other in others {
            remove(tree, &other)?;
            lists.now.aliases.remove(&other);
        }
        Ok(())
    }

    /// Makes the links to a target that something is shown at from now on. What can't be made is told by
    /// the next [`Links::keep`].
    pub(super) fn show(&self, tree: &Tree, target: &Target) {
        let lists = self.lock();
        let links = lists.now.aliases.iter().filter(|it| it.target == *target);
        for link in links {
            let _ = make(tree, link);
        }
    }

    /// Removes the links to a target that is about to leave the tree. What can't be removed is told by
    /// the next [`Links::keep`]: it keeps no image in the tree.
    pub(super) fn hide(&self, tree: &Tree, target: &Target) {
        let lists = self.lock();
        for link in lists.now.aliases.iter().filter(|it| it.target == *target) {
            let _ = remove(tree, link);
        }
    }

    /// Puts `text` at `output` beneath `root`, in place of the file that was there, for `owner`; returns
    /// whether that was another. Folders are made where they are missing; no link is followed, or
    /// replaced, nor a file that isn't listed, unless that `is_generated`. One that has this very text
    /// is the daemon's from now on.
    pub(crate) fn write(
        &self,
        (tree, root): (&Tree, &Path),
        output: &Path,
        text: &[u8],
        owner: Option<Ownership>,
        is_generated: fn(&[u8]) -> bool,
    ) -> Result<bool, Blocked> {
        let found = find(root, output)?;
        let name = found.name();
        let is_there = is_output(&found)?;
        let old = is_there.then(|| found.folder.read(name, MAX_OUTPUT).ok());
        let old = old.flatten().flatten();
        let place = Place::new(tree.root().path(), root, output);
        if old.as_deref() == Some(text) {
            self.list(&place, || Ok(()))?;
            return Ok(false);
        }
        found.check_writable()?;
        let is_free = !is_there || old.is_some_and(|old| is_generated(&old));
        self.list(&place, || {
            is_free.then_some(()).ok_or_else(|| not_ours(&found))
        })?;
        let mut made;
        let mut folder = &found.folder;
        for part in found.missing.parent().unwrap_or(Path::new("")) {
            made = folder.dir_or_make(part, DIR_MODE)?;
            folder = &made;
        }
        // The new text is written in the same folder: the tree may be on another file system.
        folder.replace_durably(name, &temporary(name), text, owner)?;
        Ok(true)
    }

    /// Lists an output, of which `may_be` says whether it may be the daemon's.
    fn list(
        &self,
        place: &Place,
        may_be: impl FnOnce() -> Result<(), Blocked>,
    ) -> Result<(), Blocked> {
        let mut lists = self.lock();
        if lists.now.outputs.contains(place) {
            return Ok(());
        }
        let was_empty = lists.now.empty.remove(place);
        if !was_empty {
            may_be()?;
        }
        lists.now.outputs.insert(place.clone());
        if let Err(failure) = lists.save(&self.private) {
            let place = lists.now.outputs.take(place);
            lists.now.empty.extend(place.filter(|_| was_empty));
            return Err(failure.into());
        }
        Ok(())
    }

    /// The paths beneath the root of all outputs on the list that may show images.
    pub(crate) fn outputs(&self, (tree, root): (&Tree, &Path)) -> BTreeSet<String> {
        let up = up(tree.root().path(), root);
        let lists = self.lock();
        let outputs = lists.now.outputs.iter().filter(|it| it.up == up);
        outputs.map(|it| it.below.clone()).collect()
    }

    /// Notes of these outputs on the list that their architectures have no images any more, and that they
    /// show none.
    ///
    /// # Errors
    /// When the list can't be written: what isn't on the disk is noted with its next change.
    pub(crate) fn note_empty(
        &self,
        (tree, root): (&Tree, &Path),
        outputs: &[PathBuf],
    ) -> Result<(), Failure> {
        if outputs.is_empty() {
            return Ok(());
        }
        let mut lists = self.lock();
        for output in outputs {
            let place = Place::new(tree.root().path(), root, output);
            let List { outputs, empty, .. } = &mut lists.now;
            empty.extend(outputs.take(&place));
        }
        lists.save(&self.private)
    }

    /// What keeps an output from being written, as [`Links::write`] would; tried without a change of
    /// anything.
    pub(crate) fn check_output(
        (tree, root): (&Path, &Path),
        output: &Path,
        text: Option<&[u8]>,
        is_generated: fn(&[u8]) -> bool,
    ) -> Result<(), Blocked> {
        // The daemon makes the tree, and with it the root.
        Dir::try_writing(root).map_err(Unwritable::from)?;
        let found = match find(root, output) {
            Err(blocked) if blocked.is_missing() => return Ok(()),
            found => found?,
        };
        found.check_writable()?;
        if !is_output(&found)? {
            return Ok(());
        }
        let old = found.folder.read(found.name(), MAX_OUTPUT)?;
        let place = Place::new(tree, root, output);
        let may_be = old.is_none_or(|old| Some(&*old) == text || is_generated(&old));
        // The list is asked only where it matters: not every user may read it.
        if may_be || read_list(tree)?.has_output(&place) {
            return Ok(());
        }
        Err(not_ours(&found))
    }

    /// What keeps an alias from being made; tried without a change of anything.
    pub(crate) fn check_alias(tree: &Path, root: &Path, alias: &Alias) -> Result<(), Blocked> {
        Dir::try_writing(root).map_err(Unwritable::from)?;
        let found = match find(root, &alias.path) {
            // The daemon makes the root, with the tree.
            Err(blocked) if blocked.is_missing() => return Ok(()),
            found => found?,
        };
        let link = Link::new(tree, root, alias);
        // The list is asked only where it matters: not every user may read it.
        let is_other = found.kind == Some(Kind::Link)
            && found.held(found.name())?.as_ref() != Some(&link.holds);
        let list = if is_other {
            read_list(tree)?
        } else {
            List::default()
        };
        look(&found, &link, &list)?;
        found.check_writable()
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().expect("no thread panics here")
    }
}

/// Whether a file is where an output belongs.
///
/// # Errors
/// When something else is.
fn is_output(found: &Found<'_>) -> Result<bool, Blocked> {
    match found.kind {
        None => Ok(false),
        Some(Kind::File) => Ok(true),
        Some(kind) => Err(found.in_the_way(kind_in_words(kind), "a file that may be replaced")),
    }
}

fn not_ours(found: &Found<'_>) -> Blocked {
    let what = "a file that the daemon did not make";
    found.in_the_way(what, "one that says of itself that it is generated")
}

/// What stands where a link belongs.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    /// The daemon's own link, which holds this.
    Own(String),
    /// Somebody else's, which holds the same as the daemon's would: it serves as well, and stays.
    Theirs,
}

fn look(found: &Found<'_>, link: &Link, list: &List) -> Result<There, Blocked> {
    const EXPECTED: &str = "the daemon's own link";
    match found.kind {
        None => Ok(There::Nothing),
        Some(Kind::Link) => match found.held(found.name())? {
            Some(held) if list.has(&link.path, &held) => Ok(There::Own(held)),
            Some(held) if held == link.holds => Ok(There::Theirs),
            _ => Err(found.in_the_way("a link that the daemon did not make", EXPECTED)),
        },
        Some(kind) => Err(found.in_the_way(kind_in_words(kind), EXPECTED)),
    }
}

/// What a link or an output is called until it takes the place of another.
fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

/// Makes a link where there is nothing, with the folders above it; what is there stays.
fn make(tree: &Tree, link: &Link) -> Result<(), Blocked> {
    let found = link.path.find(tree)?;
    if found.kind.is_some() {
        return Ok(());
    }
    found.check_writable()?;
    let above = found.missing.parent().and_then(Path::to_str);
    let made;
    let folder = match above.unwrap_or_default() {
        "" => &found.folder,
        above => {
            made = folder::make(&found.folder, above)?;
            &made
        }
    };
    sync_pointer(tree, link)?;
    failpoint("alias", "making link", folder.path())?;
    Ok(folder.make_link(found.name(), &link.holds)?)
}

/// Makes durable that the target shows something. Whatever syncs the folder of the link, as the removal of
/// another one there, makes the link durable: a power cut would leave one that leads nowhere.
fn sync_pointer(tree: &Tree, link: &Link) -> Result<(), Failure> {
    tree.root().existing_dir(link.target.folder())?.sync()
}

/// Puts a link in the place of one of these `others`, without a moment in which there is none.
fn replace(tree: &Tree, link: &Link, others: &[Link]) -> Result<(), Blocked> {
    let found = link.path.find(tree)?;
    found.check_writable()?;
    let (name, folder) = (found.name(), &found.folder);
    let new = temporary(name);
    for left in others.iter().chain([link]) {
        remove_held(&found, &new, left)?;
    }
    sync_pointer(tree, link)?;
    failpoint("alias", "making link", folder.path())?;
    folder.make_link(&new, &link.holds)?;
    let placed = failpoint("alias-swap", "renaming", folder.path())
        .and_then(|()| folder.rename(&new, folder, name));
    placed.inspect_err(|_| drop(folder.remove_file(&new)))?;
    Ok(folder.sync()?)
}

/// Removes a link durably, and what a crash has left of it; what holds something else stays.
fn remove(tree: &Tree, link: &Link) -> Result<(), Blocked> {
    let found = match link.path.find(tree) {
        // What is no folder has nothing in it.
        Err(Blocked::InTheWay(..)) => return Ok(()),
        Err(blocked) if blocked.is_missing() => return Ok(()),
        found => found?,
    };
    if !found.is_complete() {
        return Ok(());
    }
    let name = found.name();
    let is_gone = remove_held(&found, name, link)?;
    if remove_held(&found, &temporary(name), link)? || is_gone {
        found.folder.sync()?;
    }
    Ok(())
}

/// Removes what has this name if it is a link that holds the same as this one; returns whether it was.
fn remove_held(found: &Found<'_>, name: &str, link: &Link) -> Result<bool, Blocked> {
    if found.held(name)?.as_ref() != Some(&link.holds) {
        return Ok(false);
    }
    found.check_writable()?;
    failpoint("alias-remove", "removing", found.folder.path())?;
    Ok(found.folder.remove_file(name)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::settings::Settings;
    use crate::tree::Pointers;

    const TARGET: &str = "amd64/generic/grub/loader";
    const LINK: &str = "netboot/amd64/generic/grub/loader";

    /// A tree, `netboot` below the root; targets are folders that somebody made.
    struct World {
        folder: tempfile::TempDir,
        pointers: Pointers,
    }

    fn alias(path: &str, target: &str) -> Alias {
        Alias {
            path: path.into(),
            target: target.parse().unwrap(),
        }
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let pointers = Self::open(folder.path());
            let world = Self { folder, pointers };
            fs::create_dir_all(world.at(LINK)).unwrap();
            world
        }

        fn open(folder: &Path) -> Pointers {
            let mut settings = Settings::default();
            settings.tree.path = folder.join("netboot");
            Pointers::open(&settings).unwrap()
        }

        /// As after a start.
        fn again(self) -> Self {
            let Self { folder, pointers } = self;
            drop(pointers);
            let pointers = Self::open(folder.path());
            Self { folder, pointers }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn links(&self) -> (&Tree, &Links) {
            let staging = self.pointers.staging();
            (staging.tree(), staging.links())
        }

        /// What is said of aliases that are not as they should be.
        fn keep(&self, aliases: &[Alias]) -> Vec<String> {
            let (tree, links) = self.links();
            let kept = links.keep((tree, self.folder.path()), aliases, |_| false);
            let said = |(about, why): (PathBuf, Blocked)| format!("{}: {why}", about.display());
            kept.troubles.into_iter().map(said).collect()
        }

        fn link(&self, path: &str) -> Option<String> {
            let held = fs::read_link(self.at(path)).ok()?;
            Some(held.to_str().unwrap().to_string())
        }

        fn list(&self) -> String {
            fs::read_to_string(self.at("netboot/.netboot-publisher/links")).unwrap()
        }

        fn hide(&self, target: &str) {
            let (tree, links) = self.links();
            links.hide(tree, &target.parse().unwrap());
        }
    }

    /// The list is read by daemons of other versions.
    #[test]
    fn the_list_is_written_as_ever() {
        let world = World::new();
        assert_eq!(world.keep(&[alias("boot/efi", TARGET)]), [""; 0]);
        let place = "../grub/grub.cfg".parse().unwrap();
        world.links().1.list(&place, || Ok(())).unwrap();
        let pinned = "\
format = 1
outputs = [\"../grub/grub.cfg\"]

[[alias]]
path = \"../boot/efi\"
holds = \"../netboot/amd64/generic/grub/loader\"
target = \"amd64/generic/grub/loader\"
";
        assert_eq!(world.list(), pinned);
        let world = world.again();
        assert_eq!(world.links().1.lock().now.to_toml(), pinned);
        let root = world.folder.path();
        let (tree, links) = world.links();
        let outputs = ["grub/grub.cfg", "of/others"].map(PathBuf::from);
        links.note_empty((tree, root), &outputs).unwrap();
        let empty = "outputs = []\nempty = [\"../grub/grub.cfg\"]\n";
        let pinned = pinned.replace("outputs = [\"../grub/grub.cfg\"]\n", empty);
        assert_eq!(world.list(), pinned);
    }

    #[test]
    fn a_link_is_there_while_its_target_shows_something() {
        let world = World::new();
        let aliases = [
            alias("efi", TARGET),
            alias("debian-installer/amd64", TARGET),
            alias("arm", "arm64/generic/grub/loader"),
        ];
        assert_eq!(world.keep(&aliases), [""; 0]);
        assert_eq!(world.link("efi").as_deref(), Some(LINK));
        assert!(world.at("debian-installer/amd64").is_dir());
        assert_eq!(world.link("arm"), None);
        // The swap itself makes and removes them.
        let arm = world.at("netboot/arm64/generic/grub/loader");
        fs::create_dir_all(&arm).unwrap();
        let (tree, links) = world.links();
        links.show(tree, &aliases[2].target);
        assert!(world.at("arm").is_dir());
        world.hide(TARGET);
        assert_eq!(
            (world.link("efi"), world.link("debian-installer/amd64")),
            (None, None)
        );
        assert!(world.at("arm").is_dir());
        // What has gone without a swap is seen at the next look.
        fs::remove_dir(&arm).unwrap();
        assert_eq!(world.keep(&aliases), [""; 0]);
        assert_eq!(world.link("arm"), None);
        assert_eq!(world.link("efi").as_deref(), Some(LINK));
        // Also after a start the links are known.
        let world = world.again();
        assert_eq!(world.keep(&aliases[1..]), [""; 0]);
        assert_eq!(world.link("efi"), None);
        assert!(world.at("debian-installer/amd64").is_dir());
        assert!(!world.list().contains("../efi"));
    }

    #[test]
    fn what_somebody_else_has_made_stays() {
        let world = World::new();
        let aliases = ["file", "folder", "link", "same", "file/x"].map(|it| alias(it, TARGET));
        fs::write(world.at("file"), "theirs").unwrap();
        fs::create_dir(world.at("folder")).unwrap();
        symlink("elsewhere", world.at("link")).unwrap();
        symlink(LINK, world.at("same")).unwrap();
        let said = |path: &str, what: &str| {
            let expected = "expected the daemon's own link, or nothing yet";
            format!("{path}: {:?} is {what}; {expected}", world.at(path))
        };
        let expected = [
            said("file", "a file"),
            said("folder", "a folder"),
            said("link", "a link that the daemon did not make"),
            format!(
                "file/x: {:?} is a file; expected a folder, or nothing yet",
                world.at("file")
            ),
        ];
        assert_eq!(world.keep(&aliases), expected);
        assert!(!world.at("netboot/.netboot-publisher/links").exists());
        // Not even where a swap takes the target away, or the alias goes.
        world.hide(TARGET);
        assert_eq!(world.keep(&[]), [""; 0]);
        assert_eq!(fs::read(world.at("file")).unwrap(), b"theirs");
        assert!(world.at("folder").is_dir());
        assert_eq!(world.link("link").as_deref(), Some("elsewhere"));
        assert_eq!(world.link("same").as_deref(), Some(LINK));
        // Once it has gone the link is made.
        fs::remove_file(world.at("file")).unwrap();
        assert_eq!(world.keep(&aliases[..1]), [""; 0]);
        assert_eq!(world.link("file").as_deref(), Some(LINK));
    }

    #[test]
    fn a_link_that_was_replaced_by_hand_is_the_daemons_no_more() {
        for unseen in [false, true] {
            let world = World::new();
            let aliases = [alias("efi", TARGET)];
            world.keep(&aliases);
            fs::remove_file(world.at("efi")).unwrap();
            symlink("elsewhere", world.at("efi")).unwrap();
            let left: &[Alias] = if unseen { &[] } else { &aliases };
            assert_eq!(world.keep(left).len(), left.len());
            world.hide(TARGET);
            world.keep(&[]);
            assert_eq!(world.link("efi").as_deref(), Some("elsewhere"));
            assert!(!world.list().contains("efi"));
        }
    }

    #[test]
    fn an_alias_of_another_target_takes_the_place_of_the_link() {
        let world = World::new();
        let other = "amd64/generic/grub/other";
        fs::create_dir_all(world.at("netboot").join(other)).unwrap();
        world.keep(&[alias("efi", TARGET)]);
        // What a crash has left between the two renames.
        let held = format!("netboot/{other}");
        symlink(&held, world.at(".efi.new")).unwrap();
        assert_eq!(world.keep(&[alias("efi", other)]), [""; 0]);
        assert_eq!(world.link("efi"), Some(held));
        assert_eq!(world.link(".efi.new"), None);
        assert_eq!(
            world.list().matches("[[alias]]").count(),
            1,
            "{}",
            world.list()
        );
        // The old target has nothing to do with it any more.
        world.hide(TARGET);
        assert!(world.at("efi").is_dir());
        // One that shows nothing.
        assert_eq!(
            world.keep(&[alias("efi", "arm64/generic/grub/loader")]),
            [""; 0]
        );
        assert_eq!(world.link("efi"), None);
    }

    #[test]
    fn a_file_under_the_temporary_name_stays() {
        let world = World::new();
        let other = "amd64/generic/grub/other";
        fs::create_dir_all(world.at("netboot").join(other)).unwrap();
        world.keep(&[alias("efi", TARGET)]);
        fs::write(world.at(".efi.new"), "theirs").unwrap();
        let said = world.keep(&[alias("efi", other)]);
        assert!(
            said.len() == 1 && said[0].contains("File exists"),
            "{said:?}"
        );
        assert_eq!(world.link("efi").as_deref(), Some(LINK));
        assert_eq!(fs::read(world.at(".efi.new")).unwrap(), b"theirs");
        // Whichever of the two is wanted in the end, both are known until then.
        assert_eq!(world.keep(&[alias("efi", TARGET)]), [""; 0]);
        assert_eq!(
            world.list().matches("[[alias]]").count(),
            1,
            "{}",
            world.list()
        );
    }

    #[test]
    fn by_a_damaged_list_nothing_is_the_daemons() {
        let world = World::new();
        let aliases = [alias("efi", TARGET)];
        world.keep(&aliases);
        let list = world.at("netboot/.netboot-publisher/links");
        let mut world = world;
        for damaged in [
            "format = 2\noutputs = []\n",
            "format = 1\n[[alias]]\n",
            "\0",
        ] {
            fs::write(&list, damaged).unwrap();
            world = world.again();
            let said = world.keep(&[]);
            let expected = format!("links: {list:?} is damaged, taking all that is there");
            assert!(
                said.len() == 1 && said[0].starts_with(&expected),
                "{said:?}"
            );
            assert_eq!(world.link("efi").as_deref(), Some(LINK));
            assert_eq!(world.keep(&[]), [""; 0]);
        }
    }
}
