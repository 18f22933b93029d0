//! The list of what beneath the TFTP server's root is the daemon's own: `.netboot-publisher/links`.
//!
//! The list says what the link of an alias holds: one that holds something else was made by somebody
//! else.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::beneath::{Blocked, Found, find};
use super::{PRIVATE, Tree};
use crate::settings::Alias;
use crate::sys::{Dir, Failure, failpoint};
use crate::words::Target;

/// The list in the daemon's own folder.
pub(super) const NAME: &str = "links";
const TEMPORARY: &str = "links.new";

/// The only format there is.
const FORMAT: u32 = 1;

/// A longer list, in bytes, is none of the daemon's.
const MAX_LIST: u64 = 64 << 20;

/// A path beneath the TFTP server's root, which is the tree or a folder above it: `../efi-x64`, from the
/// tree's root. So it stays right when the root is moved as a whole.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeserializeFromStr, SerializeDisplay,
)]
pub(super) struct Place {
    /// So many folders the root is above the tree.
    pub(super) up: usize,
    pub(super) below: String,
}

/// A text that is no [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a path such as ../efi-x64")]
pub(super) struct PlaceError;

impl Place {
    /// The place of `path` beneath `root`, which is `tree` or above it.
    pub(super) fn new(tree: &Path, root: &Path, path: &Path) -> Self {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        Self {
            up: up(tree, root),
            below: parts.join("/"),
        }
    }

    /// The root, seen from where the tree is now.
    pub(super) fn root(&self, tree: &Tree) -> PathBuf {
        let root = tree.root().path().ancestors().nth(self.up);
        match root {
            Some(path) if path != Path::new("") => path.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }

    pub(super) fn find(&self, tree: &Tree) -> Result<Found<'_>, Blocked> {
        find(&self.root(tree), Path::new(&self.below))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", "../".repeat(self.up), self.below)
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let below = text.trim_start_matches("../");
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        if !below.split('/').all(is_plain) || below.contains('\0') {
            return Err(PlaceError);
        }
        Ok(Self {
            up: (text.len() - below.len()) / "../".len(),
            below: below.to_string(),
        })
    }
}

/// The link of an alias.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub(super) path: Place,
    pub(super) holds: String,
    pub(super) target: Target,
}

impl Link {
    pub(super) fn new(tree: &Path, root: &Path, alias: &Alias) -> Self {
        let to = way(tree, root).join(alias.target.to_string());
        let (mut to, mut from) = (to.iter().peekable(), alias.path.iter().peekable());
        // No alias is above a target: the last part of its path is another.
        while from.peek() == to.peek() {
            from.next();
            to.next();
        }
        let up = from.skip(1).map(|_| "..".into());
        let down = to.map(|part| part.to_string_lossy());
        let parts: Vec<_> = up.chain(down).collect();
        Self {
            path: Place::new(tree, root, &alias.path),
            holds: parts.join("/"),
            target: alias.target.clone(),
        }
    }
}

/// The list: what is the daemon's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    format: u32,
    pub(super) outputs: BTreeSet<Place>,
    /// Outputs of architectures whose last image has gone: they show none, and are left alone until there
    /// are some again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) empty: BTreeSet<Place>,
    /// Of one path there are two while one link is replaced by the other.
    #[serde(default, rename = "alias", skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) aliases: BTreeSet<Link>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            format: FORMAT,
            outputs: BTreeSet::new(),
            empty: BTreeSet::new(),
            aliases: BTreeSet::new(),
        }
    }
}

impl List {
    /// Reads the list of a daemon's folder; none is an empty one.
    fn read(private: &Dir) -> Result<Self, Blocked> {
        let Some(text) = private.read(NAME, MAX_LIST)? else {
            return Ok(Self::default());
        };
        let list = String::from_utf8(text)
            .ok()
            .and_then(|text| toml::from_str::<Self>(&text).ok())
            .filter(|list| list.format == FORMAT);
        list.ok_or_else(|| Blocked::Damaged(private.path().join(NAME)))
    }

    pub(super) fn to_toml(&self) -> String {
        toml::to_string(self).expect("a list is plain data")
    }

    /// What the daemon's own links at a place hold.
    pub(super) fn links_at<'l>(&'l self, place: &'l Place) -> impl Iterator<Item = &'l Link> {
        self.aliases.iter().filter(move |it| it.path == *place)
    }

    pub(super) fn has_output(&self, place: &Place) -> bool {
        self.outputs.contains(place) || self.empty.contains(place)
    }

    /// Whether a link at this place that holds this is the daemon's.
    pub(super) fn has(&self, place: &Place, held: &str) -> bool {
        self.links_at(place).any(|it| it.holds == held)
    }
}

/// The list as it is, and as it is on the disk.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) now: List,
    on_disk: List,
    /// Whether something else is on the disk that is no list, or can't be read.
    pub(super) is_damaged: bool,
}

impl Lists {
    /// The list of the daemon whose folder this is.
    pub(super) fn open(private: &Dir) -> Self {
        let read = List::read(private);
        let is_damaged = read.is_err();
        let now = read.unwrap_or_default();
        Self {
            on_disk: now.clone(),
            now,
            is_damaged,
        }
    }

    /// Makes the list durable, if it has changed.
    pub(super) fn save(&mut self, private: &Dir) -> Result<(), Failure> {
        if self.on_disk == self.now && !self.is_damaged {
            return Ok(());
        }
        failpoint("links", "writing", private.path().join(NAME))?;
        let text = self.now.to_toml();
        private.replace_durably(NAME, TEMPORARY, text.as_bytes(), None)?;
        private.sync()?;
        self.on_disk = self.now.clone();
        self.is_damaged = false;
        Ok(())
    }
}

/// The list of a tree in which no daemon has to be at work, and that has to be there no more than that.
pub(super) fn read_list(tree: &Path) -> Result<List, Blocked> {
    let private = match Tree::open(tree) {
        Err(failure) if failure.is(io::ErrorKind::NotFound) => None,
        opened => opened?.root().dir(PRIVATE)?,
    };
    private.map_or_else(|| Ok(List::default()), |private| List::read(&private))
}

/// The way from the TFTP server's root to the tree.
fn way<'t>(tree: &'t Path, root: &Path) -> &'t Path {
    tree.strip_prefix(root).unwrap_or(Path::new(""))
}

/// So many folders the root is above the tree.
pub(super) fn up(tree: &Path, root: &Path) -> usize {
    way(tree, root).components().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "amd64/generic/grub/loader";
    const HELD: &str = "netboot/amd64/generic/grub/loader";

    #[test]
    fn a_link_is_relative_and_as_short_as_can_be() {
        for (root, path, held) in [
            ("/srv", "efi", "tftp/netboot/amd64/generic/grub/loader"),
            ("/srv/tftp", "efi", HELD),
            (
                "/srv/tftp",
                "a/b/efi",
                "../../netboot/amd64/generic/grub/loader",
            ),
            ("/srv/tftp", "netboot/efi", TARGET),
            ("/srv/tftp", "netboot/amd64/efi", "generic/grub/loader"),
            (
                "/srv/tftp",
                "netboot/arm64/efi",
                "../amd64/generic/grub/loader",
            ),
            ("/srv/tftp/netboot", "efi", TARGET),
        ] {
            let link = Link::new(
                Path::new("/srv/tftp/netboot"),
                Path::new(root),
                &Alias {
                    path: path.into(),
                    target: TARGET.parse().unwrap(),
                },
            );
            assert_eq!(link.holds, held, "{root} {path}");
        }
    }

    #[test]
    fn a_place_is_a_plain_path_beneath_the_root() {
        for bad in [
            "",
            "/x",
            "..",
            "../",
            "../x/../y",
            ".x",
            "../.x",
            "x//y",
            "x/",
        ] {
            assert_eq!(bad.parse::<Place>(), Err(PlaceError), "{bad:?}");
        }
    }
}
