//! The index of a channel: what its tag `catalog` names.
//!
//! An OCI index. Its annotations name the centre, and a counter that grows whenever it is written. Its
//! descriptors are the last order for each target, by time, each with what the order is for; and images
//! that orders name and that are no order themselves, so that no registry takes them for garbage.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use oci_client::manifest::{
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex,
};

use super::artifact::{Blob, IMAGE, ORDER};
use super::order;
use crate::text::quoted;
use crate::words::{Digest, Moment, Target, Verdict};

/// The tag of the index.
pub(super) const CATALOG: &str = "catalog";

/// What registries take at most, in bytes.
pub(super) const MAX_SIZE: usize = 4 << 20;

const TYPE: &str = "application/vnd.netboot-publisher.catalog.v1";

/// The only format there is.
const FORMAT: &str = "1";

// Annotations of the index …
const FORMAT_KEY: &str = "netboot-publisher.format";
const CENTRE: &str = "netboot-publisher.centre";
const COUNTER: &str = "netboot-publisher.counter";
// … and of its descriptors.
const TARGET: &str = "netboot-publisher.target";
const WHAT: &str = "netboot-publisher.what";
const AT: &str = "netboot-publisher.at";
const SERIAL: &str = "netboot-publisher.serial";
const NAMED: &str = "netboot-publisher.image";
const MANIFEST: &str = "netboot-publisher.manifest";
const SIGNATURE: &str = "netboot-publisher.signature";

/// The index of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) centre: String,
    pub(super) counter: u64,
    /// The last order for each target, by time.
    pub(super) orders: Vec<Entry>,
    /// The manifests of images that orders name and that no order is.
    pub(super) images: BTreeMap<Digest, u64>,
}

/// The last order for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) target: Target,
    /// What the centre has done.
    pub(super) what: Verdict,
    /// When the centre has done it.
    pub(super) at: Moment,
    pub(super) serial: Option<u64>,
    /// The order's own bytes, and their signature: whoever knows them needs no OCI manifest.
    pub(super) papers: (Blob, Option<Blob>),
    /// The OCI manifest of the order, or of the image that it publishes.
    pub(super) manifest: Blob,
    /// The OCI manifest of the image that the order names, where that is another one.
    pub(super) image: Option<Blob>,
}

impl Index {
    /// An index of these orders, in any order.
    pub(super) fn new(centre: &str, counter: u64, mut orders: Vec<Entry>) -> Self {
        orders.sort_unstable_by(|a, b| (a.at, &a.target).cmp(&(b.at, &b.target)));
        let own: BTreeSet<_> = orders.iter().map(|it| it.manifest.digest).collect();
        let named = orders.iter().filter_map(|it| it.image);
        let images = named.filter(|it| !own.contains(&it.digest));
        Self {
            centre: centre.to_string(),
            counter,
            images: images.map(|it| (it.digest, it.size)).collect(),
            orders,
        }
    }

    pub(super) fn order(&self, target: &Target) -> Option<&Entry> {
        self.orders.iter().find(|it| it.target == *target)
    }

    /// The very bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let images = self.images.iter().map(|(digest, size)| {
            let blob = Blob {
                digest: *digest,
                size: *size,
            };
            descriptor(blob, IMAGE, None)
        });
        let annotations = [
            (FORMAT_KEY, FORMAT.to_string()),
            (CENTRE, self.centre.clone()),
            (COUNTER, self.counter.to_string()),
        ];
        let index = OciImageIndex {
            schema_version: 2,
            media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.to_string()),
            manifests: images
                .chain(self.orders.iter().map(Entry::descriptor))
                .collect(),
            artifact_type: Some(TYPE.to_string()),
            annotations: Some(texts(annotations)),
        };
        serde_json::to_vec(&index).expect("it is plain data")
    }

    /// # Errors
    /// What is there instead, and what was expected.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        const EXPECTED: &str = "expected the index of a channel of netboot-import's";
        let index: OciImageIndex =
            serde_json::from_slice(bytes).with_context(|| format!("no OCI index; {EXPECTED}"))?;
        let of = index.artifact_type.as_deref().unwrap_or("no type");
        ensure!(of == TYPE, "an OCI index of {}; {EXPECTED}", quoted(of));
        let annotations = index.annotations.unwrap_or_default();
        let get = |key| annotation(&annotations, key);
        let format = get(FORMAT_KEY)?;
        ensure!(
            format == FORMAT,
            "an index of format {}; expected {FORMAT}: a later version has written it",
            quoted(format)
        );
        let (mut orders, mut targets, mut images) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        for descriptor in index.manifests {
            let blob = Blob::of(&descriptor.digest, descriptor.size)?;
            if !has(&descriptor, TARGET) {
                images.insert(blob.digest, blob.size);
                continue;
            }
            let entry = Entry::parse(&descriptor, blob)?;
            ensure!(
                targets.insert(entry.target.clone()),
                "two orders for {}; expected one for each target",
                entry.target
            );
            orders.push(entry);
        }
        Ok(Self {
            centre: get(CENTRE)?.to_string(),
            counter: get(COUNTER)?.parse().context("the counter")?,
            orders,
            images,
        })
    }
}

impl Entry {
    /// As `Papers::id`.
    pub(super) fn id(&self) -> Digest {
        let (manifest, signature) = self.papers;
        order::id(&manifest.digest, signature.map(|it| it.digest).as_ref())
    }

    fn descriptor(&self) -> ImageIndexEntry {
        let (manifest, signature) = self.papers;
        let more = [
            (SERIAL, self.serial.map(|serial| serial.to_string())),
            (NAMED, self.image.map(text)),
            (SIGNATURE, signature.map(text)),
        ];
        let annotations = [
            (TARGET, self.target.to_string()),
            (WHAT, self.what.to_string()),
            (AT, self.at.to_string()),
            (MANIFEST, text(manifest)),
        ];
        let more = more
            .into_iter()
            .filter_map(|(key, text)| Some((key, text?)));
        let annotations = texts(annotations.into_iter().chain(more));
        let of = match self.what {
            Verdict::Published => IMAGE,
            _ => ORDER,
        };
        descriptor(self.manifest, of, Some(annotations))
    }

    fn parse(descriptor: &ImageIndexEntry, manifest: Blob) -> anyhow::Result<Self> {
        let annotations = descriptor.annotations.clone().unwrap_or_default();
        let get = |key| annotation(&annotations, key);
        let target = get(TARGET)?;
        let target: Target = target.parse().with_context(|| quoted(target))?;
        let wrong = |key: &str| format!("{key} of {target}: {}", quoted(&annotations[key]));
        let what: Verdict = get(WHAT)?.parse().with_context(|| wrong(WHAT))?;
        if !Verdict::CHANGES.contains(&what) {
            bail!("{}; expected what changes a tree", wrong(WHAT));
        }
        let serial = annotations.get(SERIAL).map(|text| text.parse());
        let blob = |key| match annotations.get(key) {
            Some(text) => Ok(Some(blob(text).with_context(|| wrong(key))?)),
            None => anyhow::Ok(None),
        };
        let papers = blob(MANIFEST)?.with_context(|| format!("no annotation {MANIFEST}"))?;
        Ok(Self {
            what,
            at: get(AT)?.parse().with_context(|| wrong(AT))?,
            serial: serial.transpose().with_context(|| wrong(SERIAL))?,
            papers: (papers, blob(SIGNATURE)?),
            manifest,
            image: blob(NAMED)?,
            target,
        })
    }
}

/// A blob as annotations have it.
fn text(blob: Blob) -> String {
    format!("{}/{}", blob.digest, blob.size)
}

fn blob(text: &str) -> Option<Blob> {
    let (digest, size) = text.split_once('/')?;
    Some(Blob {
        digest: digest.parse().ok()?,
        size: size.parse().ok()?,
    })
}

fn has(descriptor: &ImageIndexEntry, key: &str) -> bool {
    let annotations = descriptor.annotations.as_ref();
    annotations.is_some_and(|it| it.contains_key(key))
}

fn descriptor(
    blob: Blob,
    of: &str,
    annotations: Option<BTreeMap<String, String>>,
) -> ImageIndexEntry {
    ImageIndexEntry {
        media_type: OCI_IMAGE_MEDIA_TYPE.to_string(),
        digest: blob.name(),
        size: blob.length(),
        platform: None,
        annotations,
        artifact_type: Some(of.to_string()),
    }
}

fn annotation<'a>(annotations: &'a BTreeMap<String, String>, key: &str) -> anyhow::Result<&'a str> {
    let text = annotations.get(key).map(String::as_str);
    text.with_context(|| format!("no annotation {key}"))
}

fn texts<'k>(annotations: impl IntoIterator<Item = (&'k str, String)>) -> BTreeMap<String, String> {
    let annotations = annotations.into_iter();
    annotations
        .map(|(key, text)| (key.to_string(), text))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str, what: Verdict, second: i64, image: Option<Blob>) -> Entry {
        let blob = |text: &str| Blob {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
        };
        Entry {
            target: target.parse().unwrap(),
            what,
            at: Moment::from_stat(1_795_364_100 + second, 250_000_000),
            serial: (what == Verdict::Published).then_some(12),
            papers: (
                blob("abc"),
                (what != Verdict::Withdrawn).then(|| blob("sig")),
            ),
            manifest: blob(target),
            image,
        }
    }

    fn sample() -> Index {
        let image = Blob {
            digest: Digest::of(b"image"),
            size: 7,
        };
        let back = entry("amd64/generic/noble/x", Verdict::RolledBack, 1, Some(image));
        let of_other = Some(entry("a/b/c/d", Verdict::Published, 0, None).manifest);
        Index::new(
            "fra1",
            1_795_364_200,
            vec![
                back,
                entry("amd64/generic/noble/y", Verdict::Promoted, 2, of_other),
                entry("amd64/generic/noble/z", Verdict::Withdrawn, 1, None),
                entry("a/b/c/d", Verdict::Published, 0, None),
            ],
        )
    }

    /// Sites of other versions read it.
    #[test]
    fn the_bytes_of_an_index_never_change_and_are_read_again() {
        let index = sample();
        let bytes = index.to_bytes();
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        let one = |of: &str, name: &str, more: &str| {
            let (digest, size) = (digest(name), name.len());
            format!(
                "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:{digest}\",\
                 \"size\":{size},{more}\"artifactType\":\"application/vnd.netboot-publisher.{of}.v1\"}}"
            )
        };
        let order = |of, target: &str, what: &str, second: u8, more: &str| {
            let signature = format!("\"netboot-publisher.signature\":\"{}/3\",", digest("sig"));
            let (image, serial) = match what {
                "published" => ("", more),
                _ => (more, ""),
            };
            let signature = if what == "withdrawn" { "" } else { &*signature };
            let said = format!(
                "\"annotations\":{{\"netboot-publisher.at\":\"2026-11-22T16:15:0{second}.250000Z\",\
                 {image}\"netboot-publisher.manifest\":\"{}/3\",{serial}{signature}\
                 \"netboot-publisher.target\":\"{target}\",\"netboot-publisher.what\":\"{what}\"}},",
                digest("abc")
            );
            one(of, target, &said)
        };
        let named = |name: &str| format!("\"netboot-publisher.image\":\"{}/{}\",", digest(name), 7);
        let serial = "\"netboot-publisher.serial\":\"12\",";
        let manifests = [
            one("image", "image", "").replace("\"size\":5", "\"size\":7"),
            order("image", "a/b/c/d", "published", 0, serial),
            order(
                "order",
                "amd64/generic/noble/x",
                "rolled-back",
                1,
                &named("image"),
            ),
            order("order", "amd64/generic/noble/z", "withdrawn", 1, ""),
            order(
                "order",
                "amd64/generic/noble/y",
                "promoted",
                2,
                &named("a/b/c/d"),
            ),
        ];
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{}],\
             \"artifactType\":\"application/vnd.netboot-publisher.catalog.v1\",\"annotations\":{{\
             \"netboot-publisher.centre\":\"fra1\",\"netboot-publisher.counter\":\"1795364200\",\
             \"netboot-publisher.format\":\"1\"}}}}",
            manifests.join(",")
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(Index::parse(&bytes).unwrap(), index);
        let targets: Vec<_> = index
            .orders
            .iter()
            .map(|it| it.target.to_string())
            .collect();
        let by_time = [
            "a/b/c/d",
            "amd64/generic/noble/x",
            "amd64/generic/noble/z",
            "amd64/generic/noble/y",
        ];
        assert_eq!(targets, by_time);
        assert_eq!(index.images.len(), 1, "one is an order of its own");
    }

    #[test]
    fn what_is_no_index_of_ours_is_refused() {
        let text = String::from_utf8(sample().to_bytes()).unwrap();
        for (from, to, said) in [
            (
                "{",
                "[",
                "no OCI index; expected the index of a channel of netboot-import's",
            ),
            (
                "netboot-publisher.catalog.v1",
                "other",
                "an OCI index of `application/vnd.other`; expected the index of a channel of \
                 netboot-import's",
            ),
            (
                "format\":\"1\"",
                "format\":\"2\"",
                "an index of format `2`; expected 1: a later version has written it",
            ),
            ("fra1\"", "fra1\",\"x\":\"\"", ""),
            (
                "\"withdrawn",
                "\"rejected",
                "netboot-publisher.what of amd64/generic/noble/z: \
             `rejected`; expected what changes a tree",
            ),
            (
                "noble/z",
                "noble/y",
                "two orders for amd64/generic/noble/y; expected one for each target",
            ),
            (
                "sha256:6",
                "sha512:6",
                "a digest `sha512:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d`; expected \
             `sha256:` and 64 hex digits",
            ),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(text, other);
            match Index::parse(other.as_bytes()) {
                Ok(_) => assert_eq!(said, "", "{from}"),
                Err(error) => assert_eq!(error.to_string(), said, "{from}"),
            }
        }
    }
}
