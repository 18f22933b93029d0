//! One order, or one image, in a registry: an OCI manifest and the blobs that it names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use oci_client::manifest::{
    IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};

use super::order::Papers;
use crate::image::{FileMark, Listing};
use crate::text::quoted;
use crate::words::Digest;

/// The types of the two kinds of artifacts.
pub(super) const IMAGE: &str = "application/vnd.netboot-publisher.image.v1";
pub(super) const ORDER: &str = "application/vnd.netboot-publisher.order.v1";

/// Of the config: a manifest, byte for byte.
const MANIFEST: &str = "application/vnd.netboot-publisher.manifest.v1+toml";
const SIGNATURE: &str = "application/vnd.netboot-publisher.signature.v1";
/// Of a file of an image: short, for there may be a thousand.
const FILE: &str = "application/octet-stream";
/// Of what stands where a manifest has no layer: not every registry takes none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(super) const EMPTY_BYTES: &[u8] = b"{}";

/// The path of a file in its image.
const TITLE: &str = "org.opencontainers.image.title";
/// The OCI manifest of the image that an order names.
const NAMED: &str = "netboot-publisher.image";

/// Files of fewer bytes have no layer of their own.
pub(super) const LARGE: u64 = 64 << 10;
/// So many files have a layer of their own at most: the largest. Where an image has no more files, and a
/// manifest of at most a mebibyte, each large one has: a site knows that without the OCI manifest.
pub(super) const MAX_LAYERS: usize = 1_000;
/// Bytes that their descriptors take at most: an OCI manifest may have 4 MiB.
const MAX_DESCRIPTORS: usize = (4 << 20) - (64 << 10);

/// Some bytes in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Blob {
    /// What OCI calls it.
    pub(super) fn name(&self) -> String {
        format!("sha256:{}", self.digest)
    }

    /// The bytes, as OCI counts them.
    pub(super) fn length(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX)
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        }
    }

    /// # Errors
    /// When it isn't called by a SHA-256, or has no size.
    pub(super) fn of(name: &str, size: i64) -> anyhow::Result<Self> {
        let digest = name.strip_prefix("sha256:").and_then(|it| it.parse().ok());
        Ok(Self {
            digest: digest.with_context(|| {
                let name = quoted(name);
                format!("a digest {name}; expected `sha256:` and 64 hex digits")
            })?,
            size: u64::try_from(size).context("a size below 0")?,
        })
    }

    fn descriptor(self, media_type: &str) -> OciDescriptor {
        OciDescriptor {
            media_type: media_type.to_string(),
            digest: self.name(),
            size: self.length(),
            ..OciDescriptor::default()
        }
    }
}

impl From<FileMark> for Blob {
    fn from(mark: FileMark) -> Self {
        Self {
            digest: mark.sha256,
            size: mark.size,
        }
    }
}

/// How the files of an image are brought: which have a layer of their own, and which come in the tar.
#[derive(Debug)]
pub(super) struct Layout<'l> {
    pub(super) listing: &'l Listing,
    /// By path. Of equal files the first stands for all.
    pub(super) own: BTreeMap<&'l str, FileMark>,
    /// The paths of the files in the tar.
    pub(super) small: Vec<&'l str>,
}

impl<'l> Layout<'l> {
    pub(super) fn of(listing: &'l Listing) -> Self {
        let large = listing.files.iter().filter(|(_, mark)| mark.size >= LARGE);
        let mut large: Vec<_> = large.collect();
        large.sort_unstable_by(|a, b| (b.1.size, a.0).cmp(&(a.1.size, b.0)));
        let (mut own, mut digests) = (BTreeMap::new(), BTreeSet::new());
        let mut room = MAX_DESCRIPTORS;
        for (path, mark) in large {
            if digests.contains(&mark.sha256) {
                continue;
            }
            let length = serde_json::to_vec(&layer(path, *mark)).map_or(0, |it| it.len() + 1);
            if digests.len() == MAX_LAYERS || length > room {
                break;
            }
            room -= length;
            digests.insert(mark.sha256);
            own.insert(path.as_str(), *mark);
        }
        let small = listing.files.iter();
        let small = small.filter(|(_, mark)| !digests.contains(&mark.sha256));
        Self {
            listing,
            own,
            small: small.map(|(path, _)| path.as_str()).collect(),
        }
    }

    /// The folders that nothing is in.
    pub(super) fn empty_folders(&self) -> Vec<&'l str> {
        let Listing {
            files,
            links,
            folders,
        } = self.listing;
        let paths = files.keys().chain(links.keys()).chain(folders);
        let full: BTreeSet<_> = paths
            .filter_map(|path| Some(path.rsplit_once('/')?.0))
            .collect();
        let empty = folders.iter().filter(|it| !full.contains(it.as_str()));
        empty.map(String::as_str).collect()
    }

    /// Whether anything is in the tar.
    pub(super) fn has_archive(&self) -> bool {
        let is_empty = self.small.is_empty() && self.listing.links.is_empty();
        !is_empty || !self.empty_folders().is_empty()
    }

    /// The OCI manifest of the image, whose tar is this.
    pub(super) fn to_bytes(&self, papers: &Papers, archive: Option<Blob>) -> Vec<u8> {
        let signature = papers.signature.as_deref();
        let signature = signature.map(|it| Blob::of_bytes(it).descriptor(SIGNATURE));
        let archive = archive.map(|it| it.descriptor(IMAGE_LAYER_MEDIA_TYPE));
        let own = self.own.iter().map(|(path, mark)| layer(path, *mark));
        let layers = signature.into_iter().chain(archive).chain(own);
        manifest(IMAGE, papers, layers.collect(), None)
    }
}

fn layer(path: &str, mark: FileMark) -> OciDescriptor {
    OciDescriptor {
        annotations: Some([(TITLE.to_string(), path.to_string())].into()),
        ..Blob::from(mark).descriptor(FILE)
    }
}

/// The OCI manifest of an order that publishes nothing, and names this image.
pub(super) fn order_to_bytes(papers: &Papers, named: Option<Blob>) -> Vec<u8> {
    let signature = papers.signature.as_deref();
    let layer = signature.map_or_else(
        || Blob::of_bytes(EMPTY_BYTES).descriptor(EMPTY),
        |it| Blob::of_bytes(it).descriptor(SIGNATURE),
    );
    let named = named.map(|it| [(NAMED.to_string(), it.name())].into());
    manifest(ORDER, papers, vec![layer], named)
}

fn manifest(
    of: &str,
    papers: &Papers,
    mut layers: Vec<OciDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
) -> Vec<u8> {
    if layers.is_empty() {
        layers.push(Blob::of_bytes(EMPTY_BYTES).descriptor(EMPTY));
    }
    let manifest = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_string()),
        config: Blob::of_bytes(&papers.manifest).descriptor(MANIFEST),
        layers,
        artifact_type: Some(of.to_string()),
        annotations,
        ..OciImageManifest::default()
    };
    serde_json::to_vec(&manifest).expect("it is plain data")
}

/// What an OCI manifest names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) manifest: Blob,
    pub(super) signature: Option<Blob>,
    pub(super) archive: Option<Blob>,
    /// The files that have a layer of their own: their sizes.
    pub(super) files: BTreeMap<Digest, u64>,
}

impl Artifact {
    /// Reads the OCI manifest of an image, or of an order.
    ///
    /// # Errors
    /// What is there instead, and what was expected.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let manifest: OciImageManifest =
            serde_json::from_slice(bytes).context("no OCI manifest")?;
        let of = manifest.artifact_type.as_deref().unwrap_or("no type");
        ensure!(
            [IMAGE, ORDER].contains(&of) && manifest.config.media_type == MANIFEST,
            "an artifact of {} with a config of {}; expected an image or an order of \
             netboot-publisher's",
            quoted(of),
            quoted(&manifest.config.media_type)
        );
        let mut artifact = Self {
            manifest: Blob::of(&manifest.config.digest, manifest.config.size)?,
            signature: None,
            archive: None,
            files: BTreeMap::new(),
        };
        for layer in manifest.layers {
            let blob = Blob::of(&layer.digest, layer.size)?;
            let single = match layer.media_type.as_str() {
                SIGNATURE => &mut artifact.signature,
                IMAGE_LAYER_MEDIA_TYPE => &mut artifact.archive,
                FILE => {
                    artifact.files.insert(blob.digest, blob.size);
                    continue;
                }
                EMPTY => continue,
                other => bail!(
                    "a layer of {}; expected a signature, a file or a tar",
                    quoted(other)
                ),
            };
            let is_first = single.replace(blob).is_none();
            ensure!(is_first, "two layers of {}; expected one", layer.media_type);
        }
        Ok(artifact)
    }

    /// All blobs that it names.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        let files = self.files.keys().copied();
        let others = [Some(self.manifest), self.signature, self.archive];
        files.chain(others.into_iter().flatten().map(|blob| blob.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str, size: u64) -> FileMark {
        FileMark {
            sha256: Digest::of(name.as_bytes()),
            size,
        }
    }

    fn sample() -> Listing {
        Listing {
            files: [
                ("boot/linux".into(), mark("linux", 1 << 20)),
                ("copy".into(), mark("linux", 1 << 20)),
                ("initrd.gz".into(), mark("initrd", 64 << 10)),
                ("menu".into(), mark("menu", (64 << 10) - 1)),
            ]
            .into(),
            links: [("pxelinux.0".into(), "boot/linux".into())].into(),
            folders: ["boot", "empty", "full", "full/empty"]
                .map(String::from)
                .into(),
        }
    }

    fn papers(signature: Option<&[u8]>) -> Papers {
        Papers {
            manifest: b"format = 1\n".to_vec(),
            signature: signature.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn large_files_have_a_layer_each_and_equal_ones_share_it() {
        let listing = sample();
        let layout = Layout::of(&listing);
        let own: Vec<_> = layout.own.keys().copied().collect();
        assert_eq!(own, ["boot/linux", "initrd.gz"]);
        assert_eq!(layout.small, ["menu"]);
        assert_eq!(layout.empty_folders(), ["empty", "full/empty"]);
        assert!(layout.has_archive());
        let plain = Listing {
            files: [("linux".into(), mark("linux", 1 << 20))].into(),
            ..Listing::default()
        };
        assert!(!Layout::of(&plain).has_archive());
    }

    #[test]
    fn of_very_many_large_files_the_largest_have_a_layer_of_their_own() {
        let file = |number: u64| {
            (
                format!("f{number:04}"),
                mark(&number.to_string(), LARGE + number),
            )
        };
        let listing = Listing {
            files: (0..1_200).map(file).collect(),
            ..Listing::default()
        };
        let layout = Layout::of(&listing);
        assert_eq!((layout.own.len(), layout.small.len()), (1_000, 200));
        assert_eq!((layout.small[0], layout.small[199]), ("f0000", "f0199"));
    }

    #[test]
    fn an_oci_manifest_has_at_most_4_mib_however_long_the_paths_are() {
        let long = format!("{}/", "é".repeat(100)).repeat(20);
        let file = |number: u64| (format!("{long}{number}"), mark(&number.to_string(), LARGE));
        let listing = Listing {
            files: (0..1_000).map(file).collect(),
            ..Listing::default()
        };
        let layout = Layout::of(&listing);
        let bytes = layout.to_bytes(&papers(None), Some(Blob::of_bytes(b"tar")));
        assert!(
            (4_000_000..=4 << 20).contains(&bytes.len()),
            "{}",
            bytes.len()
        );
        assert_eq!(layout.own.len() + layout.small.len(), 1_000);
    }

    /// Sites of other versions read it, and a push compares it with what is there.
    #[test]
    fn the_bytes_of_an_oci_manifest_never_change_and_are_read_again() {
        let (listing, tar) = (sample(), Blob::of_bytes(b"tar"));
        let bytes = Layout::of(&listing).to_bytes(&papers(Some(b"sig")), Some(tar));
        let digest = |text: &str| format!("sha256:{}", Digest::of(text.as_bytes()));
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"config\":{{\"mediaType\":\"application/vnd.netboot-publisher.manifest.v1+toml\",\
             \"digest\":\"{}\",\"size\":11}},\"layers\":[\
             {{\"mediaType\":\"application/vnd.netboot-publisher.signature.v1\",\"digest\":\"{}\",\"size\":3}},\
             {{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{}\",\"size\":3}},\
             {{\"mediaType\":\"application/octet-stream\",\"digest\":\"{}\",\"size\":1048576,\
             \"annotations\":{{\"org.opencontainers.image.title\":\"boot/linux\"}}}},\
             {{\"mediaType\":\"application/octet-stream\",\"digest\":\"{}\",\"size\":65536,\
             \"annotations\":{{\"org.opencontainers.image.title\":\"initrd.gz\"}}}}],\
             \"artifactType\":\"application/vnd.netboot-publisher.image.v1\"}}",
            digest("format = 1\n"),
            digest("sig"),
            digest("tar"),
            digest("linux"),
            digest("initrd"),
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        let read = Artifact::parse(&bytes).unwrap();
        assert_eq!(
            read,
            Artifact {
                manifest: Blob::of_bytes(b"format = 1\n"),
                signature: Some(Blob::of_bytes(b"sig")),
                archive: Some(tar),
                files: [mark("linux", 1 << 20), mark("initrd", 64 << 10)]
                    .map(|it| (it.sha256, it.size))
                    .into(),
            }
        );
        assert_eq!(read.blobs().count(), 5);
    }

    #[test]
    fn an_order_names_its_image_and_has_a_layer_without_a_signature_too() {
        let image = Blob::of_bytes(b"image");
        let bytes = order_to_bytes(&papers(None), Some(image));
        let text = String::from_utf8(bytes.clone()).unwrap();
        let end = format!(
            "\"layers\":[{{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"sha256:{}\",\
             \"size\":2}}],\"artifactType\":\"application/vnd.netboot-publisher.order.v1\",\
             \"annotations\":{{\"netboot-publisher.image\":\"sha256:{}\"}}}}",
            Digest::of(b"{}"),
            image.digest
        );
        assert!(text.ends_with(&end), "{text}");
        let read = Artifact::parse(&bytes).unwrap();
        assert_eq!((read.signature, read.files.len()), (None, 0));
    }

    #[test]
    fn what_is_no_artifact_of_ours_is_refused() {
        let listing = sample();
        let layout = Layout::of(&listing);
        let bytes = layout.to_bytes(&papers(Some(b"sig")), Some(Blob::of_bytes(b"tar")));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, said) in [
            ("{", "[", "no OCI manifest"),
            (
                "publisher.image.v1",
                "publisher.image.v2",
                "an artifact of `application/vnd.netboot-publisher.image.v2` with a config of \
                 `application/vnd.netboot-publisher.manifest.v1+toml`; expected an image or an order of \
                 netboot-publisher's",
            ),
            (
                "publisher.signature.v1",
                "publisher.other",
                "a layer of `application/vnd.netboot-publisher.other`; expected a signature, a file or a \
                 tar",
            ),
            (
                "vnd.oci.image.layer.v1.tar",
                "vnd.netboot-publisher.signature.v1",
                "two layers of application/vnd.netboot-publisher.signature.v1; expected one",
            ),
            ("\"size\":11}", "\"size\":-11}", "a size below 0"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(text, other);
            let error = Artifact::parse(other.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), said, "{from}");
        }
    }
}
