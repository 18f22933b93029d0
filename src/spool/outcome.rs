//! The outcome of a drop: what became of it, for its importer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys::{Dir, Failure, Importer};
use crate::words::{
    ClaimId, Digest, GenerationName, Moment, Note, Reason, Target, Verdict, Vouched,
};

/// Bytes; a longer file holds no outcome.
pub(crate) const MAX_SIZE: u64 = 1 << 20;

/// What is written to `outcomes/<uid>/<drop>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub format: u32,
    pub drop: String,
    /// Which drop of this name it was.
    pub(crate) claim: ClaimId,
    /// Missing when the manifest could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    #[serde(rename = "outcome")]
    pub(crate) verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    pub(crate) image: Option<Published>,
    pub(crate) importer: Importer,
    #[serde(flatten)]
    pub(crate) vouched: Vouched,
    pub(crate) received_at: Moment,
    pub(crate) finished_at: Moment,
}

/// What is published at the target now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Missing when a directory that somebody else made is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationName>,
    pub digest: Digest,
    pub files: usize,
    /// All files' bytes together.
    pub bytes: u64,
    /// What may keep the image from booting; nothing where no drop has brought it just now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

impl Outcome {
    /// The only format there is.
    pub(crate) const FORMAT: u32 = 1;

    /// The outcome in a file of `dir`; `None` where there is none, or the file holds none.
    pub(super) fn read(dir: &Dir, file: impl AsRef<Path>) -> Result<Option<Self>, Failure> {
        let bytes = dir.read(file, MAX_SIZE)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.verdict == Verdict::Rejected
    }

    /// What is noted of the image.
    pub(crate) fn notes(&self) -> &[Note] {
        self.image.as_ref().map_or(&[], |image| &image.notes)
    }

    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("an outcome is plain data");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::NoteKind;

    /// Importers' programs read it: a change of these texts is a new format.
    #[test]
    fn the_format_is_pinned() {
        let at = Moment::from_stat(1_795_364_100, 250_000_000);
        let digest = Digest::of(b"abc");
        let published = Outcome {
            format: Outcome::FORMAT,
            drop: "noble-1".into(),
            claim: ClaimId::new(12, 0x9f3c_2ab1_d4e5_f607),
            target: Some("amd64/generic/noble/install".parse().unwrap()),
            verdict: Verdict::Published,
            reason: None,
            detail: None,
            image: Some(Published {
                generation: Some(GenerationName::new(at, &digest, |_| false)),
                digest,
                files: 2,
                bytes: 70,
                notes: vec![
                    Note {
                        kind: NoteKind::EmptyFile,
                        path: Some("linux".into()),
                        text: "the kernel `linux` is empty".into(),
                    },
                    Note {
                        kind: NoteKind::NoUrl,
                        path: None,
                        text: "none".into(),
                    },
                ],
            }),
            importer: Importer {
                uid: 1000,
                name: "ci".into(),
            },
            vouched: Vouched {
                rule: Some("image-team".into()),
                signer: Some("SHA256:x".into()),
            },
            received_at: at,
            finished_at: at,
        };
        let pinned = r#"{
  "format": 1,
  "drop": "noble-1",
  "claim": "12-9f3c2ab1d4e5f607",
  "target": "amd64/generic/noble/install",
  "outcome": "published",
  "generation": "20261122T161500Z-ba7816bf8f01",
  "digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  "files": 2,
  "bytes": 70,
  "notes": [
    {
      "note": "empty-file",
      "path": "linux",
      "text": "the kernel `linux` is empty"
    },
    {
      "note": "no-url",
      "text": "none"
    }
  ],
  "importer": {
    "uid": 1000,
    "name": "ci"
  },
  "rule": "image-team",
  "signer": "SHA256:x",
  "received_at": "2026-11-22T16:15:00.250000Z",
  "finished_at": "2026-11-22T16:15:00.250000Z"
}
"#;
        assert_eq!(published.to_json(), pinned);
        assert_eq!(serde_json::from_str::<Outcome>(pinned).unwrap(), published);

        let rejected = Outcome {
            target: None,
            verdict: Verdict::Rejected,
            reason: Some(Reason::BadManifest),
            detail: Some("no".into()),
            image: None,
            vouched: Vouched::default(),
            ..published
        };
        let pinned = r#"{
  "format": 1,
  "drop": "noble-1",
  "claim": "12-9f3c2ab1d4e5f607",
  "outcome": "rejected",
  "reason": "bad-manifest",
  "detail": "no",
  "importer": {
    "uid": 1000,
    "name": "ci"
  },
  "received_at": "2026-11-22T16:15:00.250000Z",
  "finished_at": "2026-11-22T16:15:00.250000Z"
}
"#;
        assert_eq!(rejected.to_json(), pinned);
        assert_eq!(serde_json::from_str::<Outcome>(pinned).unwrap(), rejected);
    }
}
