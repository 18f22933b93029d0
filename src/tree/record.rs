//! The record beside a generation: what was published, from which drop, by whom and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::image::{FileMark, Listing};
use crate::sys::{Importer, Ownership};
use crate::text::toml_key;
use crate::words::{Boot, ClaimId, Digest, GenerationName, Moment, Note, Target, Vouched};

/// The only format there is.
pub(crate) const FORMAT: u32 = 1;

/// What stands between the head, which is short, and the listing, which may be long.
const LISTING: &str = "\n[files]\n";

/// Most heads are shorter, in bytes, and none is longer: `[boot]` may name 33 files.
const FEW: usize = 4 << 10;
const MAX_HEAD: usize = 1 << 20;

/// Everything that is known of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub head: Head,
    pub listing: Listing,
}

/// A record without the listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub target: Target,
    pub generation: GenerationName,
    /// The image digest.
    pub digest: Digest,
    pub file_count: usize,
    /// All files' bytes together.
    pub bytes: u64,
    /// The time of the swap.
    pub published_at: Moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of a manifest that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<u64>,
    /// The SHA-256 of a manifest that is signed, or has a serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
    /// What the manifest says of how to boot the image.
    #[serde(default, skip_serializing_if = "Boot::is_empty")]
    pub boot: Boot,
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
    pub(crate) claim: ClaimId,
    /// What was noted of the image when it came to this target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<Note>,
    #[serde(default, skip_serializing_if = "Vouched::is_empty")]
    pub(crate) vouched: Vouched,
    /// Where the image was current before, of one that was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) promoted: Option<Promoted>,
}

/// From where an image was promoted, and by which order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promoted {
    /// The target of the record itself, where an order to roll back has carried the image.
    pub(crate) from: Target,
    /// The one that was current there; `None` of an image that the order has carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<GenerationName>,
    /// The SHA-256 of the order's manifest, where that is signed or has a serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<Digest>,
    /// Who has signed the order; [`Origin::vouched`] names who has signed the image, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signer: Option<String>,
    /// What the image's own manifest is for, where an order has carried the image and that is neither
    /// `from` nor where the orders before have promoted the image from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_for: Option<Target>,
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
        })
    }

    /// The record of an image that is staged now, or of a folder that is adopted where it is `from` no
    /// drop; `kept` are the generations with this digest. The time of the swap is not known yet.
    pub(crate) fn new(
        target: &Target,
        listing: Listing,
        kept: &[GenerationName],
        version: Option<String>,
        from: Option<&Origin>,
    ) -> Self {
        let (now, digest) = (Moment::now(), listing.digest());
        let head = Head {
            target: target.clone(),
            generation: GenerationName::new(now, &digest, |name| kept.contains(name)),
            digest,
            file_count: listing.files.len(),
            bytes: listing.bytes(),
            published_at: now,
            version,
            serial: None,
            manifest: None,
            boot: Boot::default(),
            from: from.cloned(),
            given: None,
        };
        Self { head, listing }
    }

    /// Where the time of the swap stands in the text of a record, and how it is written there: as many
    /// bytes as any other.
    pub(super) fn time_of_swap(text: &[u8], at: Moment) -> Option<(Range<usize>, String)> {
        const KEY: &[u8] = b"\npublished_at = \"";
        let start = text.windows(KEY.len()).position(|bytes| bytes == KEY)? + KEY.len();
        let at = at.to_string();
        let place = start..start + at.len();
        (text.get(place.end) == Some(&b'"')).then_some((place, at))
    }

    pub fn to_toml(&self) -> String {
        let head = toml::to_string(&self.head).expect("a head is plain data");
        // The sub-tables of the head come before the listing, which begins with a header as well.
        let mut text = format!("format = {FORMAT}\n{head}{LISTING}");
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
        text
    }
}

impl Origin {
    /// Of an image that had this origin `before`, and that this very drop makes current again.
    pub(crate) fn of_kept(mut self, before: Option<Self>) -> Self {
        if let Some(before) = before {
            self.vouched.signer = before.vouched.signer.or(self.vouched.signer);
            self.promoted = before.promoted;
            self.notes = before.notes;
        }
        self
    }

    /// Of an image that this very drop, an order, carries, and that this key has signed, if one has.
    pub(crate) fn carrying(mut self, signer: Option<String>) -> Self {
        self.vouched.signer = signer.or(self.vouched.signer);
        self
    }

    /// Of an image that this very drop carries and promotes `from` another target; of one that the target
    /// itself has had by a promotion, and the drop goes back to, that target. The image's own manifest is for
    /// `image_for`; `order` is as that of [`Origin::promoting`].
    pub(crate) fn promoted_from(
        mut self,
        from: &Target,
        image_for: &Target,
        order: Option<Digest>,
    ) -> Self {
        self.promoted = Some(Promoted {
            from: from.clone(),
            generation: None,
            order,
            signer: self.vouched.signer.clone(),
            image_for: Some(image_for.clone()).filter(|it| it != from),
        });
        self
    }

    /// Of the image of this head, which is current at another target and is promoted by this very drop.
    /// `order` is the SHA-256 of the drop's manifest, where that is signed or has a serial.
    pub(crate) fn promoting(mut self, head: &Head, order: Option<Digest>) -> Self {
        self.promoted = Some(Promoted {
            from: head.target.clone(),
            generation: Some(head.generation.clone()),
            order,
            signer: self.vouched.signer.clone(),
            image_for: head.promoted().and_then(|it| it.image_for.clone()),
        });
        if let Some(from) = &head.from {
            // Whoever has the order made, the image is the one that was signed.
            let signer = from.vouched.signer.clone();
            self.vouched.signer = signer.or(self.vouched.signer);
        }
        self
    }
}

impl Head {
    /// What was noted of the image when it came to this target.
    pub(crate) fn notes(&self) -> &[Note] {
        self.from.as_ref().map_or(&[], |from| &from.notes)
    }

    /// From where the image was promoted, if it was.
    pub(crate) fn promoted(&self) -> Option<&Promoted> {
        self.from.as_ref()?.promoted.as_ref()
    }

    /// The other target that the image was promoted from, as far as the record knows.
    pub(crate) fn promoted_from(&self) -> Option<&Target> {
        let from = self.promoted().map(|it| &it.from);
        from.filter(|from| **from != self.target)
    }

    /// The SHA-256 of the manifest by which the image has come to this very target, where that is signed
    /// or has a serial: an order's, or the image's own.
    pub(crate) fn came_by(&self) -> Option<Digest> {
        self.promoted().map_or(self.manifest, |it| it.order)
    }

    /// The user and the group that the files have to have, and the daemon's modes with them, where the
    /// daemon gives them to files `now`. `None` where the content alone counts: what an admin made, or
    /// the settings of another time, is no damage.
    pub(crate) fn owner_now(&self, now: Option<Ownership>) -> Option<Ownership> {
        self.given.filter(|given| Some(*given) == now)
    }

    /// Reads the head from the start of a record, and little more; `None` when it is unreadable.
    pub(super) fn read(mut record: impl Read) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(FEW);
        loop {
            let more = bytes.len().max(FEW) as u64;
            let more = record.by_ref().take(more).read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes);
            if more == 0 || text.contains(LISTING) || bytes.len() > MAX_HEAD {
                return Ok(Self::parse(&text).ok());
            }
        }
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
        // The format is the first line: what a later one has after that this version can't read.
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        match toml::from_str(first)? {
            Format { format: FORMAT } => Ok(toml::from_str(rest)?),
            Format { format } => Err(RecordError::Format(format)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::NoteKind;

    fn sample() -> Record {
        let digest = Digest::of(b"abc");
        let at = Moment::from_stat(1_795_364_100, 250_000_000);
        Record {
            head: Head {
                target: "amd64/generic/noble/install".parse().unwrap(),
                generation: GenerationName::new(at, &digest, |_| false),
                digest,
                file_count: 1,
                bytes: 3,
                published_at: at,
                version: Some("2026-11-22".into()),
                serial: Some(12),
                manifest: Some(digest),
                boot: Boot {
                    kernel: Some("d/\"linux\"".into()),
                    initrd: vec!["ucode.img".into(), "initrd.gz".into()],
                    cmdline: Some("ip=dhcp url={url}".into()),
                    title: Some("Noble".into()),
                    efi: None,
                },
                from: Some(Origin {
                    drop: "noble-1".into(),
                    importer: Importer {
                        uid: 1000,
                        name: "ci".into(),
                    },
                    received_at: at,
                    claim: ClaimId::new(7, 0x9f3c),
                    notes: vec![Note {
                        kind: NoteKind::EmptyFile,
                        path: Some("d/\"linux\"".into()),
                        text: "the kernel is empty".into(),
                    }],
                    vouched: Vouched {
                        rule: Some("image-team".into()),
                        signer: Some("SHA256:x".into()),
                    },
                    promoted: Some(Promoted {
                        from: "amd64/generic/noble/candidate".parse().unwrap(),
                        generation: Some(GenerationName::new(at, &digest, |_| false)),
                        order: Some(digest),
                        signer: Some("SHA256:y".into()),
                        image_for: Some("amd64/generic/noble/daily".parse().unwrap()),
                    }),
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
serial = 12
manifest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

[boot]
kernel = 'd/"linux"'
initrd = ["ucode.img", "initrd.gz"]
cmdline = "ip=dhcp url={url}"
title = "Noble"

[from]
drop = "noble-1"
received_at = "2026-11-22T16:15:00.250000Z"
claim = "7-0000000000009f3c"

[from.importer]
uid = 1000
name = "ci"

[[from.notes]]
note = "empty-file"
path = 'd/"linux"'
text = "the kernel is empty"

[from.vouched]
rule = "image-team"
signer = "SHA256:x"

[from.promoted]
from = "amd64/generic/noble/candidate"
generation = "20261122T161500Z-ba7816bf8f01"
order = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
signer = "SHA256:y"
image_for = "amd64/generic/noble/daily"

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
"#;
        assert_eq!(sample().to_toml(), pinned);
        assert_eq!(Record::parse(pinned).unwrap(), sample());
        assert_eq!(Head::parse(pinned).unwrap(), sample().head);
    }

    #[test]
    fn a_record_from_before_is_read_and_written_as_it_was() {
        let mut old = sample();
        old.head.boot = Boot::default();
        let text = old.to_toml();
        assert!(!text.contains("boot"), "{text}");
        assert_eq!(Record::parse(&text).unwrap(), old);
    }

    #[test]
    fn a_head_can_be_read_without_the_rest_of_the_record() {
        let text = sample().to_toml();
        let cut = text.find("[links]").unwrap();
        assert_eq!(Head::parse(&text[..cut]).unwrap(), sample().head);
    }

    #[test]
    fn a_head_is_read_whole_and_of_what_has_none_not_everything() {
        let mut record = sample();
        for path in ["\u{fc}".repeat(2_000), String::new()] {
            record.head.boot.initrd.resize(32, path);
            let text = record.to_toml();
            let head = Head::read(text.as_bytes()).unwrap();
            assert_eq!(head.as_ref(), Some(&record.head));
            record.head.boot.initrd.clear();
        }
        assert_eq!(Head::read(io::repeat(b'x')).unwrap(), None);
        assert_eq!(Head::read(io::empty()).unwrap(), None);
    }

    #[test]
    fn the_time_of_the_swap_can_be_put_into_the_text() {
        let at = Moment::from_stat(7, 1_000);
        let mut wanted = sample();
        wanted.head.published_at = at;
        let mut text = sample().to_toml();
        let (place, time) = Record::time_of_swap(text.as_bytes(), at).unwrap();
        text.replace_range(place, &time);
        assert_eq!(text, wanted.to_toml());
        assert_eq!(Record::time_of_swap(b"format = 1\n", at), None);
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
