//! The record beside a generation: what was published, from which drop, by whom and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use crate::image::{FileMark, Listing};
use crate::sys::{Importer, Ownership};
use crate::text::toml_key;
use crate::words::{Digest, GenerationName, Moment, Target};

/// The only format there is.
pub(crate) const FORMAT: u32 = 1;

/// A longer history forgets what is oldest.
const MAX_HISTORY: usize = 100;

/// What stands between the head, which is short, and the listing, which may be long.
const LISTING: &str = "\n[files]\n";

/// Everything that is known of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub head: Head,
    pub listing: Listing,
    /// What happened to the generation, the oldest first.
    pub(crate) history: Vec<Event>,
}

/// What happened to a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub at: Moment,
    pub what: Happened,
    /// Missing when no drop made it happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importer: Option<Importer>,
}

/// That a generation stops being current because another takes its place is no event of its own:
/// the record's file was modified last at that time.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    SerializeDisplay,
    DeserializeFromStr,
)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Happened {
    /// The generation became the current one, by a drop with this image.
    Published,
    /// A folder that somebody else had made became the generation.
    Adopted,
    /// The generation became the current one again.
    RolledBack,
    /// The generation was the current one, and its target was taken out of the tree.
    Withdrawn,
}

/// A record without the listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub format: u32,
    pub target: Target,
    pub generation: GenerationName,
    /// The image digest.
    pub digest: Digest,
    pub file_count: usize,
    /// All files' bytes together.
    pub bytes: u64,
    pub published_at: Moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `None` when the generation came from no drop: a directory that stood there was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The user and the group that the files were given. `None` where the daemon didn't make them:
    /// the directory was adopted, or the record was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) given: Option<Ownership>,
}

/// Where a generation came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    pub drop: String,
    pub(crate) importer: Importer,
    pub received_at: Moment,
}

/// The listing as the record writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    files: BTreeMap<String, FileMark>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    folders: Folders,
    #[serde(default)]
    history: Vec<Event>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Folders {
    paths: BTreeSet<String>,
}

/// A text that is no [`Record`].
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    #[error("a record of format {0}; expected {FORMAT}")]
    Format(u32),
    #[error("a record without `[files]`")]
    NoListing,
}

impl Record {
    /// # Errors
    /// When it is no record, or one of a format that this version doesn't know.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let (head, listing) = text.split_once(LISTING).ok_or(RecordError::NoListing)?;
        let stored: Stored = toml::from_str(&format!("{LISTING}{listing}"))?;
        let listing = Listing {
            files: stored.files,
            links: stored.links,
            folders: stored.folders.paths,
        };
        Ok(Self {
            head: Head::parse(head)?,
            listing,
            history: stored.history,
        })
    }

    /// The record of an image that is published now, or of a folder that was adopted where it is
    /// `from` no drop; `kept` are the generations with this digest.
    pub(crate) fn new(
        target: &Target,
        listing: Listing,
        kept: &[GenerationName],
        version: Option<String>,
        from: Option<&Origin>,
    ) -> Self {
        let (now, digest) = (Moment::now(), listing.digest());
        let happened = match from {
            Some(_) => Happened::Published,
            None => Happened::Adopted,
        };
        let head = Head {
            format: FORMAT,
            target: target.clone(),
            generation: GenerationName::new(now, &digest, |name| kept.contains(name)),
            digest,
            file_count: listing.files.len(),
            bytes: listing.bytes(),
            published_at: now,
            version,
            from: from.cloned(),
            given: None,
        };
        let mut record = Self {
            head,
            listing,
            history: Vec::new(),
        };
        record.note(now, happened, from);
        record
    }

    /// When the generation was published last by a drop with its image; going back to it does not
    /// count.
    pub(crate) fn published_at(&self) -> Moment {
        let is_publishing =
            |event: &&Event| matches!(event.what, Happened::Published | Happened::Adopted);
        let last = self.history.iter().rev().find(is_publishing);
        last.map_or(self.head.published_at, |event| event.at)
    }

    /// Notes what happened to the generation.
    pub(crate) fn note(&mut self, at: Moment, what: Happened, from: Option<&Origin>) {
        let event = Event {
            at,
            what,
            drop: from.map(|from| from.drop.clone()),
            importer: from.map(|from| from.importer.clone()),
        };
        // After it was noted, a crash can have kept the same event from happening.
        self.history
            .pop_if(|last| last.what == what && last.drop.is_some() && last.drop == event.drop);
        self.history.push(event);
        let surplus = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..surplus);
    }

    pub fn to_toml(&self) -> String {
        let head = toml::to_string(&self.head).expect("a head is plain data");
        // The sub-tables of the head come before the listing, which begins with a header as well.
        let mut text = format!("{head}{LISTING}");
        for (path, FileMark { sha256, size }) in &self.listing.files {
            let key = toml_key(path);
            let _ = writeln!(text, "{key} = {{ sha256 = \"{sha256}\", size = {size} }}");
        }
        if !self.listing.links.is_empty() {
            text.push_str("\n[links]\n");
            for (path, to) in &self.listing.links {
                let _ = writeln!(text, "{} = {}", toml_key(path), toml_key(to));
            }
        }
        if !self.listing.folders.is_empty() {
            text.push_str("\n[folders]\npaths = [\n");
            for path in &self.listing.folders {
                let _ = writeln!(text, "    {},", toml_key(path));
            }
            text.push_str("]\n");
        }
        if !self.history.is_empty() {
            let history = BTreeMap::from([("history", &self.history)]);
            text.push('\n');
            text.push_str(&toml::to_string(&history).expect("events are plain data"));
        }
        text
    }
}

impl Head {
    /// The user and the group that the files have to have, and the daemon's modes with them, where the
    /// daemon gives them to files `now`. `None` where the content alone counts: what an admin made, or
    /// the settings of another time, is no damage.
    pub(crate) fn owner_now(&self, now: Option<Ownership>) -> Option<Ownership> {
        self.given.filter(|given| Some(*given) == now)
    }

    /// Reads the head of a record; `text` may end anywhere after it.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let text = text.split_once(LISTING).map_or(text, |(head, _)| head);
        match toml::from_str::<Self>(text) {
            Ok(head) if head.format == FORMAT => Ok(head),
            Ok(head) => Err(RecordError::Format(head.format)),
            // A later format may hold what this version can't read: say that instead.
            Err(error) => match toml::from_str::<Format>(text) {
                Ok(Format { format }) if format != FORMAT => Err(RecordError::Format(format)),
                _ => Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let digest = Digest::of(b"abc");
        let at = Moment::from_stat(1_795_364_100, 250_000_000);
        Record {
            head: Head {
                format: FORMAT,
                target: "amd64/generic/noble/install".parse().unwrap(),
                generation: GenerationName::new(at, &digest, |_| false),
                digest,
                file_count: 1,
                bytes: 3,
                published_at: at,
                version: Some("2026-11-22".into()),
                from: Some(Origin {
                    drop: "noble-1".into(),
                    importer: Importer {
                        uid: 1000,
                        name: "ci".into(),
                    },
                    received_at: at,
                }),
                given: Some(Ownership { uid: 0, gid: 33 }),
            },
            listing: Listing {
                files: [(
                    "d/\"linux\"".into(),
                    FileMark {
                        sha256: digest,
                        size: 3,
                    },
                )]
                .into(),
                links: [("vmlinuz".into(), "d/\"linux\"".into())].into(),
                folders: ["d".into()].into(),
            },
            history: vec![
                Event {
                    at,
                    what: Happened::Published,
                    drop: Some("noble-1".into()),
                    importer: Some(Importer {
                        uid: 1000,
                        name: "ci".into(),
                    }),
                },
                Event {
                    at,
                    what: Happened::RolledBack,
                    drop: None,
                    importer: None,
                },
            ],
        }
    }

    /// Records stay in trees for years: a change of this text is a new format.
    #[test]
    fn the_format_is_pinned() {
        let pinned = r#"format = 1
target = "amd64/generic/noble/install"
generation = "20261122T161500Z-ba7816bf8f01"
digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
file_count = 1
bytes = 3
published_at = "2026-11-22T16:15:00.250000Z"
version = "2026-11-22"

[from]
drop = "noble-1"
received_at = "2026-11-22T16:15:00.250000Z"

[from.importer]
uid = 1000
name = "ci"

[given]
uid = 0
gid = 33

[files]
"d/\"linux\"" = { sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", size = 3 }

[links]
"vmlinuz" = "d/\"linux\""

[folders]
paths = [
    "d",
]

[[history]]
at = "2026-11-22T16:15:00.250000Z"
what = "published"
drop = "noble-1"

[history.importer]
uid = 1000
name = "ci"

[[history]]
at = "2026-11-22T16:15:00.250000Z"
what = "rolled-back"
"#;
        assert_eq!(sample().to_toml(), pinned);
        assert_eq!(Record::parse(pinned).unwrap(), sample());
        assert_eq!(Head::parse(pinned).unwrap(), sample().head);
    }

    #[test]
    fn a_head_can_be_read_without_the_rest_of_the_record() {
        let text = sample().to_toml();
        let cut = text.find("[links]").unwrap();
        assert_eq!(Head::parse(&text[..cut]).unwrap(), sample().head);
    }

    #[test]
    fn a_record_of_a_later_format_is_told_from_a_broken_one() {
        let later = sample()
            .to_toml()
            .replace("format = 1", "format = 2\nnew = 1");
        assert!(matches!(Record::parse(&later), Err(RecordError::Format(2))));
        assert!(matches!(
            Record::parse("format = 1"),
            Err(RecordError::NoListing)
        ));
    }
}
