//! `kind = "treeinfo"`: the tree of an installer as Fedora and its relatives lay it out. `.treeinfo` says
//! where its kernel and initrd are, and the digest of each file.

use anyhow::Context as _;
use ini::{Ini, ParseOption};
use reqwest::Url;

use super::offer::{Offer, Part};
use super::plan::{Plan, beneath};
use super::template::Values;
use super::upstream::Upstream;
use super::verify::{Asker, Trust};
use crate::fetch::Wanted;
use crate::text::{Table, quoted};
use crate::words::{Boot, Digest};

/// The words that may stand in braces.
const KNOWN: &[&str] = &["arch", "version", "family", "variant"];

/// What the file is called; web servers that hide names with a dot have it by the other one.
const NAMES: [&str; 2] = [".treeinfo", "treeinfo"];

/// What a source of this kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Treeinfo {
    /// Whether the installer itself, which the initrd loads, is in the image too.
    has_stage2: bool,
    plan: Plan,
    pub(super) trust: Trust,
}

impl Treeinfo {
    /// Takes the keys of its own. `None` after a complaint.
    pub(super) fn read(top: &mut Table<'_, '_>, trust: Option<Trust>) -> Option<Self> {
        let has_stage2 = top.optional("stage2", |value| {
            value.as_bool().ok_or_else(|| "true or false".to_string())
        });
        let plan = Plan::read(top, KNOWN, None);
        Some(Self {
            has_stage2: has_stage2.unwrap_or_default(),
            plan: plan?,
            trust: trust?,
        })
    }

    /// What upstream has.
    pub(super) async fn ask(
        &self,
        url: &Url,
        upstream: &impl Upstream,
    ) -> anyhow::Result<Vec<Offer>> {
        let asker = Asker {
            upstream,
            trust: &self.trust,
        };
        let mut plain = Vec::new();
        for name in NAMES {
            plain.push((
                beneath(url, name)?,
                vec![beneath(url, &format!("{name}.asc"))?],
            ));
        }
        let top = asker.top(&[], &plain).await?;
        let (bytes, from) = top.with_context(|| {
            format!(
                "no .treeinfo and no treeinfo in {url}: expected the tree of an installer there"
            )
        })?;
        let offer = self.offer(&bytes, url).with_context(|| from.to_string())?;
        Ok(vec![offer])
    }

    fn offer(&self, bytes: &[u8], url: &Url) -> anyhow::Result<Offer> {
        let text = std::str::from_utf8(bytes).context("expected text; it is not UTF-8")?;
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        let ini = Ini::load_from_str_opt(text, options).context("expected a treeinfo file")?;
        let general = |key| ini.get_from(Some("general"), key);
        let arch = general("arch").context("has no `arch` in `[general]`")?;
        let named = |key| {
            general(key)
                .unwrap_or_default()
                .to_lowercase()
                .replace(' ', "-")
        };
        let values: Values = [
            ("arch", arch.to_string()),
            (
                "version",
                general("version").unwrap_or_default().to_string(),
            ),
            ("family", named("family")),
            ("variant", named("variant")),
        ]
        .into();
        let images = format!("images-{arch}");
        let image = |section: &str, key| {
            let path = ini.get_from(Some(section), key);
            path.with_context(|| format!("has no `{key}` in `[{section}]`"))
        };
        let (mut usual, mut boot) = (Vec::new(), Boot::default());
        if !self.plan.has_files() {
            let (kernel, initrd) = (image(&images, "kernel")?, image(&images, "initrd")?);
            usual.extend([kernel, initrd].map(|path| (last(path), path)));
            boot.kernel = Some(last(kernel).to_string());
            boot.initrd = vec![last(initrd).to_string()];
            if self.has_stage2 {
                // The installer looks for it where it is in upstream's tree.
                let path = image("stage2", "mainimage")?;
                usual.push((path, path));
            }
        }
        let files = self.plan.files(&values, &usual)?;
        let part = |(path, of): (String, String)| {
            let wanted = wanted(&ini, &of, url)?;
            anyhow::Ok(Part::File { path, wanted })
        };
        let parts = files.into_iter().map(part).collect::<anyhow::Result<_>>()?;
        let version = general("version").map(str::to_string);
        self.plan.offer(&values, boot, version, parts)
    }
}

/// A file of the tree; one without a SHA-256 is none.
fn wanted(ini: &Ini, path: &str, url: &Url) -> anyhow::Result<Wanted> {
    let sum = ini.get_from(Some("checksums"), path);
    let sum =
        sum.with_context(|| format!("has no checksum of {} in `[checksums]`", quoted(path)))?;
    let hex = sum.strip_prefix("sha256:");
    let sha256 = hex.and_then(|hex| hex.parse::<Digest>().ok());
    let sha256 = sha256.with_context(|| {
        let (path, sum) = (quoted(path), quoted(sum));
        format!("{path} has the checksum {sum}; expected `sha256:`")
    })?;
    let (url, size) = (beneath(url, path)?, None);
    Ok(Wanted { url, sha256, size })
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::sources::lab::{Signers, fedora, sha256};
    use crate::sources::upstream::Folder;

    const SOURCE: &str =
        "kind = \"treeinfo\"\ntarget = \"amd64/generic/{family}-{version}/install\"\n";

    #[tokio::test]
    async fn kernel_initrd_and_installer_of_a_tree_are_offered() {
        let mirror = tempfile::tempdir().unwrap();
        fedora(mirror.path(), "40");
        let upstream = Folder::new(mirror.path());
        let insecure = format!("{SOURCE}insecure = true\n");
        let head = "amd64/generic/fedora-40/install 40\n  kernel: vmlinuz\n  initrd: initrd.img\n";
        let [initrd, kernel] =
            ["initrd.img", "vmlinuz"].map(|it| format!("  {it} = images/pxeboot/{it}\n"));
        let offered = upstream.offers(&insecure).await.unwrap();
        assert_eq!(offered, format!("{head}{initrd}{kernel}"));
        let whole = upstream
            .offers(&format!("{insecure}stage2 = true\n"))
            .await
            .unwrap();
        let installer = "  images/install.img = images/install.img\n";
        assert_eq!(whole, format!("{head}{installer}{initrd}{kernel}"));
        let own = format!("{insecure}[files]\n\"{{arch}}/iso\" = \"images/boot.iso\"\n");
        let offered = upstream.offers(&own).await.unwrap();
        assert_eq!(
            offered,
            "amd64/generic/fedora-40/install 40\n  x86_64/iso = images/boot.iso\n"
        );

        fs::rename(
            mirror.path().join(".treeinfo"),
            mirror.path().join("treeinfo"),
        )
        .unwrap();
        let offered = upstream.offers(&insecure).await.unwrap();
        assert_eq!(offered, format!("{head}{initrd}{kernel}"));
    }

    #[tokio::test]
    async fn a_tree_is_verified_by_a_signature_or_a_digest() {
        let mirror = tempfile::tempdir().unwrap();
        fedora(mirror.path(), "40");
        let signers = Signers::new();
        signers.make("fedora");
        let info = mirror.path().join(".treeinfo");
        signers.detach(&["fedora"], &info, &mirror.path().join(".treeinfo.asc"));
        let upstream = Folder::new(mirror.path());
        let by_key = format!("{SOURCE}keyring = {:?}\n", signers.keyring(&["fedora"]));
        let by_digest = format!("{SOURCE}sha256 = \"{}\"\n", sha256(&info));
        let both = [
            upstream.offers(&by_key).await,
            upstream.offers(&by_digest).await,
        ];
        let [Ok(one), Ok(other)] = &both else {
            panic!("{both:?}")
        };
        assert_eq!(one, other);
        let text = fs::read_to_string(&info).unwrap();
        fs::write(&info, text.replace("Fedora", "fedora")).unwrap();
        for source in [by_key, by_digest] {
            assert!(upstream.offers(&source).await.is_err(), "{source}");
        }
    }

    #[tokio::test]
    async fn a_tree_that_lacks_what_it_needs_is_refused() {
        let mirror = tempfile::tempdir().unwrap();
        fedora(mirror.path(), "40");
        let info = mirror.path().join(".treeinfo");
        let good = fs::read_to_string(&info).unwrap();
        let digest = sha256(&mirror.path().join("images/pxeboot/vmlinuz"));
        let upstream = Folder::new(mirror.path());
        let url = format!("{}.treeinfo", Folder::URL);
        for (from, to, said) in [
            (
                format!("sha256:{digest}"),
                format!("sha512:{digest}"),
                &*format!(
                    "`images/pxeboot/vmlinuz` has the checksum `sha512:{digest}`; expected `sha256:`"
                ),
            ),
            (
                format!("images/pxeboot/vmlinuz = sha256:{digest}\n"),
                String::new(),
                "has no checksum of `images/pxeboot/vmlinuz` in `[checksums]`",
            ),
            (
                "[images-x86_64]".into(),
                "[images-arm]".into(),
                "has no `kernel` in `[images-x86_64]`",
            ),
            (
                "arch = x86_64\n".into(),
                String::new(),
                "has no `arch` in `[general]`",
            ),
            (
                "family = Fedora".into(),
                "family = ../x".into(),
                "`amd64/generic/../x-40/install` of `target` `amd64/generic/{family}-{version}/install`: \
                 expected arch/subarch/release/purpose, each 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a \
                 letter or a digit",
            ),
        ] {
            assert!(good.contains(&from), "{from}");
            fs::write(&info, good.replace(&from, &to)).unwrap();
            let error = upstream.offers(&format!("{SOURCE}insecure = true\n")).await;
            assert_eq!(error.unwrap_err(), format!("{url}: {said}"));
        }
    }
}
