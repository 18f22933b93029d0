//! `kind = "checksums"`: files, or an archive, whose digests stand in a signed list such as `SHA256SUMS`;
//! or an archive with a signature of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use reqwest::Url;

use super::offer::{Offer, Part, Picks};
use super::plan::{Plan, beneath};
use super::sums::{self, Sums};
use super::template::{Template, Values};
use super::upstream::Upstream;
use super::verify::{Asker, Trust};
use crate::fetch::Wanted;
use crate::text::{Expected, Table, ValueExt as _, quoted};
use crate::words::{Boot, Digest, Name};

/// The words that may stand in braces, and those that may where it isn't known yet which version it is.
const KNOWN: &[&str] = &["arch", "version"];
const KNOWN_BEFORE: &[&str] = &["arch"];

/// What a list of checksums is called where the source's file doesn't say.
const USUAL: &str = "SHA256SUMS";

/// Endings of signatures that stand beside what is signed, in the order in which they are looked for.
const ENDINGS: [&str; 4] = [".gpg", ".asc", ".sign", ".sig"];

/// What a source of this kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checksums {
    /// One for each, or one without.
    arches: Vec<Name>,
    /// `None` where the source's file itself says the digest of the archive.
    sums: Option<Template>,
    signature: Option<Template>,
    signed: Signed,
    /// Upstream's path; `*` stands for any characters.
    archive: Option<Template>,
    strip: usize,
    /// What people call the version; `*` as in the files.
    version: Option<String>,
    plan: Plan,
    pub(super) trust: Trust,
}

/// What the signature is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Sums,
    Archive,
}

impl Checksums {
    /// Takes the keys of its own. `None` after a complaint.
    pub(super) fn read(top: &mut Table<'_, '_>, trust: Option<Trust>) -> Option<Self> {
        let name = |text: &str| text.parse::<Name>().map_err(|_| Name::RULE.to_string());
        let arches = top.list("arch", Some("at least one architecture"), name);
        let path = |top: &mut Table<'_, '_>, key| {
            let rule = format!(
                "a path of upstream's, without `.`, `..` and control characters; {}",
                Template::rule(KNOWN_BEFORE)
            );
            let parse =
                |text: &str| Template::new(text, KNOWN_BEFORE).filter(|_| Boot::is_path(text));
            top.optional(key, |value| value.parsed(&rule, parse))
        };
        let is_sums_given = top.has("sums");
        let sums = path(top, "sums");
        let signature = path(top, "signature");
        let signed = top.optional("signed", |value| match value.as_str() {
            Some("sums") => Ok(Signed::Sums),
            Some("archive") if matches!(trust, Some(Trust::Keyring(_)) | None) => {
                Ok(Signed::Archive)
            }
            Some("archive") => Err("\"archive\" only together with `keyring`".to_string()),
            _ => Err("\"sums\" or \"archive\"".to_string()),
        });
        let archive = top.optional("archive", archive_path);
        let strip = top.optional("strip", |value| value.number(32));
        let version = top.optional("version", |value| {
            let rule = "a text with at most one `*`, which stands for what it does in the files";
            let is_good = |text: &&str| !text.is_empty() && text.matches('*').count() <= 1;
            value.parsed(rule, |text| Some(text).filter(is_good).map(str::to_string))
        });
        let plan = Plan::read(top, KNOWN, None)?;
        if archive.is_none() && !plan.has_files() && !top.has("archive") {
            let problem = "neither `archive` nor `[files]`".to_string();
            top.complain_here(
                problem,
                "one of them, or `[files]` that are picked of the archive",
            );
            return None;
        }
        // The digest is the archive's own where nobody names a list.
        let is_of_archive = matches!(trust, Some(Trust::Sha256(_))) && !is_sums_given;
        let usual = || Template::new(USUAL, &[]);
        Some(Self {
            arches: arches.unwrap_or_default(),
            sums: if is_of_archive {
                None
            } else {
                sums.or_else(usual)
            },
            signature,
            signed: signed.unwrap_or(Signed::Sums),
            archive,
            strip: usize::try_from(strip.unwrap_or_default()).unwrap_or(0),
            version,
            plan,
            trust: trust?,
        })
    }

    /// What upstream has, for each architecture.
    pub(super) async fn ask(
        &self,
        url: &Url,
        upstream: &impl Upstream,
    ) -> anyhow::Result<Vec<Offer>> {
        let asker = Asker {
            upstream,
            trust: &self.trust,
        };
        let arches = self.arches.iter().map(Some);
        let arches: Vec<_> = if self.arches.is_empty() {
            vec![None]
        } else {
            arches.collect()
        };
        let mut offers = Vec::new();
        for arch in arches {
            let arch = arch.map(|arch| ("arch", arch.to_string()));
            offers.push(self.offer(url, &asker, arch.into_iter().collect()).await?);
        }
        Ok(offers)
    }

    async fn offer(
        &self,
        url: &Url,
        asker: &Asker<'_, impl Upstream>,
        mut values: Values,
    ) -> anyhow::Result<Offer> {
        let (sums, from) = self.sums(url, asker, &values).await?;
        let archive = self.archive.as_ref().map(|archive| archive.fill(&values));
        let archive = archive.transpose()?;
        // Only the files of a list are looked for in it; those of an archive aren't there.
        let patterns: Vec<String> = match &archive {
            Some(archive) => vec![archive.clone()],
            None => {
                // Their version is what is looked for.
                let known: Values = [("version", "*".to_string())]
                    .into_iter()
                    .chain(values.clone())
                    .collect();
                self.plan.files(&known, &[])?.into_values().collect()
            }
        };
        let star = newest(&patterns, &sums).with_context(|| from.clone())?;
        let version = self.version(&patterns, star.as_deref());
        values.insert("version", version.clone().unwrap_or_default());
        let wanted = |pattern: &str| {
            let path = pattern.replacen('*', star.as_deref().unwrap_or_default(), 1);
            let plain = path.strip_prefix("./").unwrap_or(&path);
            let sha256 = sums.get(plain).copied();
            let sha256 = sha256.with_context(|| format!("{from} lists no {}", quoted(plain)))?;
            let url = beneath(url, plain)?;
            anyhow::Ok(Wanted {
                url,
                sha256,
                size: None,
            })
        };
        let Some(archive) = archive else {
            let files = self.plan.files(&values, &[])?;
            let part = |(path, of): (String, String)| {
                let wanted = wanted(&of)?;
                anyhow::Ok(Part::File { path, wanted })
            };
            let parts = files.into_iter().map(part).collect::<anyhow::Result<_>>()?;
            return self.plan.offer(&values, Boot::default(), version, parts);
        };
        let wanted = wanted(&archive)?;
        if self.signed == Signed::Archive {
            let signatures = self.signatures(&wanted.url, url, &values)?;
            asker.check_file(&wanted, &signatures).await?;
        }
        let picks = if self.plan.has_files() {
            Picks::Some(self.plan.files(&values, &[])?)
        } else {
            Picks::All { strip: self.strip }
        };
        let parts = vec![Part::Archive { wanted, picks }];
        self.plan.offer(&values, Boot::default(), version, parts)
    }

    /// The checksums, and what to call the list.
    async fn sums(
        &self,
        url: &Url,
        asker: &Asker<'_, impl Upstream>,
        values: &Values,
    ) -> anyhow::Result<(Sums, String)> {
        let archive = self.archive.as_ref().map(|archive| archive.fill(values));
        let archive = archive.transpose()?;
        let Some(sums) = &self.sums else {
            let Trust::Sha256(digest) = &self.trust else {
                bail!("no list of checksums");
            };
            let archive = archive.context("`sha256` without `sums` is that of an `archive`")?;
            return Ok(([(archive, *digest)].into(), "the source's file".to_string()));
        };
        let name = sums.fill(values)?;
        let list = beneath(url, &name)?;
        let top = if self.signed == Signed::Archive {
            // The archive's own signature counts: the list only says which one there is.
            let unsigned = Asker {
                upstream: asker.upstream,
                trust: &Trust::Insecure,
            };
            unsigned.top(&[], &[(list.clone(), Vec::new())]).await?
        } else {
            let signatures = self.signatures(&list, url, values)?;
            asker.top(&[], &[(list.clone(), signatures)]).await?
        };
        let (text, _) = top.with_context(|| format!("there is no {list}"))?;
        // A list of one file is called as that, or says nothing but its hash.
        let alone = name
            .strip_suffix(".sha256")
            .or(name.strip_suffix(".sha256sum"));
        let alone = alone.or(archive.as_deref().filter(|archive| !archive.contains('*')));
        let sums = if name.ends_with(".yaml") {
            super::releases::parse(&text)
        } else {
            sums::parse(&text, alone)
        };
        let sums = sums.with_context(|| list.to_string())?;
        Ok((beside(sums, &name), list.to_string()))
    }

    /// Where the signature of something may be.
    fn signatures(&self, of: &Url, url: &Url, values: &Values) -> anyhow::Result<Vec<Url>> {
        if let Some(signature) = &self.signature {
            return Ok(vec![beneath(url, &signature.fill(values)?)?]);
        }
        let of = of.as_str();
        let urls = ENDINGS.map(|ending| Url::parse(&format!("{of}{ending}")));
        urls.into_iter()
            .map(|url| url.context("the url of a signature"))
            .collect()
    }

    /// What people call the version: what `*` stands for, with the digits and dots around it.
    fn version(&self, patterns: &[String], star: Option<&str>) -> Option<String> {
        if let Some(version) = &self.version {
            return Some(version.replacen('*', star.unwrap_or_default(), 1));
        }
        let pattern = patterns.iter().find(|pattern| pattern.contains('*'))?;
        let (before, after) = pattern.split_once('*')?;
        let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
        let before = &before[before.trim_end_matches(is_of_number).len()..];
        let after = &after[..after.len() - after.trim_start_matches(is_of_number).len()];
        let version = format!("{before}{}{after}", star?);
        let version = version.trim_matches(|c: char| "._-".contains(c));
        (!version.is_empty()).then(|| version.to_string())
    }
}

fn archive_path(value: &toml::de::DeValue<'_>) -> Result<Template, Expected> {
    let rule = format!(
        "upstream's path of a `.tar.gz`, with at most one `*`; {}",
        Template::rule(KNOWN_BEFORE)
    );
    let is_good = |text: &str| {
        let is_archive = text.ends_with(".tar.gz") || text.ends_with(".tgz");
        is_archive && Boot::is_path(text) && text.matches('*').count() <= 1
    };
    value.parsed(&rule, |text| {
        Template::new(text, KNOWN_BEFORE).filter(|_| is_good(text))
    })
}

/// The names of a list that stands in a folder are from there on; here they are from the source's url on.
fn beside(sums: Sums, list: &str) -> Sums {
    let Some((folder, _)) = list.rsplit_once('/') else {
        return sums;
    };
    let sums = sums.into_iter();
    sums.map(|(name, digest)| (format!("{folder}/{name}"), digest))
        .collect()
}

/// What `*` stands for in the newest version of which all files are listed: the same in each. `None` where
/// there is no `*`.
fn newest(patterns: &[String], sums: &BTreeMap<String, Digest>) -> anyhow::Result<Option<String>> {
    let mut of_all: Option<BTreeSet<&str>> = None;
    for pattern in patterns {
        let plain = pattern.strip_prefix("./").unwrap_or(pattern);
        let Some((before, after)) = plain.split_once('*') else {
            continue;
        };
        ensure!(
            !after.contains('*'),
            "{} has more than one `*`",
            quoted(pattern)
        );
        let between = |name| str::strip_prefix(name, before)?.strip_suffix(after);
        // One file in one folder, as for the shell.
        let fits = sums
            .keys()
            .filter_map(|name| between(name))
            .filter(|star| !star.contains('/'));
        let fits: BTreeSet<_> = fits.collect();
        ensure!(
            !fits.is_empty(),
            "lists nothing that fits {}",
            quoted(pattern)
        );
        let both = match of_all {
            None => fits,
            Some(others) => others.intersection(&fits).copied().collect(),
        };
        ensure!(
            !both.is_empty(),
            "lists no version that has all of {}",
            patterns.join(", ")
        );
        of_all = Some(both);
    }
    let newest = of_all.and_then(|all| {
        all.into_iter()
            .max_by(|a, b| libversion::version_compare2(a, b))
    });
    Ok(newest.map(str::to_string))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::lab::{Signers, alpine, opensuse, put, sha256, sums, ubuntu};
    use crate::sources::upstream::Folder;

    fn signers() -> (Signers, String) {
        let signers = Signers::new();
        signers.make("vendor");
        let keyring = signers.keyring(&["vendor"]);
        (
            signers,
            format!("kind = \"checksums\"\nkeyring = {keyring:?}\n"),
        )
    }

    #[tokio::test]
    async fn the_newest_archive_of_ubuntu_is_offered() {
        let ((signers, source), mirror) = (signers(), tempfile::tempdir().unwrap());
        ubuntu(
            mirror.path(),
            &signers,
            &["vendor"],
            &["24.04", "24.04.9", "24.04.10", "24.04.10-beta"],
        );
        let upstream = Folder::new(mirror.path());
        let archive = "arch = [\"amd64\"]\narchive = \"ubuntu-24.04*-netboot-{arch}.tar.gz\"\n\
            target = \"{arch}/generic/noble/install\"\n";
        let offered = upstream
            .offers(&format!("{source}{archive}strip = 1\n"))
            .await
            .unwrap();
        let expected = "amd64/generic/noble/install 24.04.10\n  \
            all without 1 = ubuntu-24.04.10-netboot-amd64.tar.gz\n";
        assert_eq!(offered, expected);
        assert_eq!(upstream.asked.take(), ["SHA256SUMS", "SHA256SUMS.gpg"]);
        let picked = "version = \"LTS*\"\n[files]\nlinux = \"{arch}/linux\"\n";
        let offered = upstream
            .offers(&format!("{source}{archive}{picked}"))
            .await
            .unwrap();
        let expected = "amd64/generic/noble/install LTS.10\n  \
            {\"linux\": \"amd64/linux\"} = ubuntu-24.04.10-netboot-amd64.tar.gz\n";
        assert_eq!(offered, expected);
        let other = archive.replace("24.04*", "26.04*");
        let said = upstream
            .offers(&format!("{source}{other}"))
            .await
            .unwrap_err();
        let expected = format!(
            "{}SHA256SUMS: lists nothing that fits `ubuntu-26.04*-netboot-amd64.tar.gz`",
            Folder::URL
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_list_and_its_signature_that_do_not_fit_are_asked_for_once_more() {
        let ((signers, source), mirror) = (signers(), tempfile::tempdir().unwrap());
        ubuntu(mirror.path(), &signers, &["vendor"], &["24.04"]);
        let source =
            format!("{source}target = \"a/b/c/d\"\narchive = \"ubuntu-*-netboot-amd64.tar.gz\"\n");
        let list = mirror.path().join("SHA256SUMS");
        let good = fs::read(&list).unwrap();
        fs::write(&list, [&good[..], b"\n"].concat()).unwrap();
        let mut upstream = Folder::new(mirror.path());
        let said = upstream.offers(&source).await.unwrap_err();
        let begin = format!("verifying {}SHA256SUMS: the signature by key ", Folder::URL);
        assert!(said.starts_with(&begin), "{said}");
        let end = "; asked twice. Upstream may be in the middle of a change: try again later";
        assert!(said.ends_with(end), "{said}");
        let asked = [
            "SHA256SUMS",
            "SHA256SUMS.gpg",
            "-SHA256SUMS",
            "-SHA256SUMS.gpg",
        ];
        assert_eq!(upstream.asked.take(), asked.repeat(2));
        let count = std::cell::Cell::new(0);
        upstream.meanwhile = Box::new(move |_| {
            count.set(count.get() + 1);
            if count.get() == 3 {
                fs::write(&list, &good).unwrap();
            }
        });
        upstream.offers(&source).await.unwrap();
        fs::remove_file(mirror.path().join("SHA256SUMS.gpg")).unwrap();
        let said = upstream.offers(&source).await.unwrap_err();
        let url = format!("{}SHA256SUMS", Folder::URL);
        let expected = format!(
            "no signature of {url}: there is no {url}.gpg, and no {url}.asc, and no {url}.sign, and no {url}.sig"
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn an_archive_of_alpine_is_verified_by_its_own_signature() {
        let ((signers, source), mirror) = (signers(), tempfile::tempdir().unwrap());
        alpine(mirror.path(), &signers, &["vendor"], &["3.20.2", "3.20.3"]);
        let upstream = Folder::new(mirror.path());
        let source = format!(
            "{source}target = \"amd64/lts/alpine-{{version}}/live\"\nsigned = \"archive\"\n\
             archive = \"alpine-netboot-*-x86_64.tar.gz\"\nsums = \"latest-releases.yaml\"\n[files]\n\
             linux = \"boot/vmlinuz-lts\"\n"
        );
        let offered = upstream.offers(&source).await.unwrap();
        let archive = "alpine-netboot-3.20.3-x86_64.tar.gz";
        let expected = format!(
            "amd64/lts/alpine-3.20.3/live 3.20.3\n  {{\"linux\": \"boot/vmlinuz-lts\"}} = {archive}\n"
        );
        assert_eq!(offered, expected);
        // The list of one file beside it.
        let one = source.replace("netboot-*-", "netboot-3.20.2-");
        let one = one.replace(
            "latest-releases.yaml",
            "alpine-netboot-3.20.2-x86_64.tar.gz.sha256",
        );
        let one = one.replace("{version}", "3.20");
        let offered = upstream.offers(&one).await.unwrap();
        assert!(
            offered.starts_with("amd64/lts/alpine-3.20/live -\n"),
            "{offered}"
        );

        upstream.asked.take();
        signers.make("other");
        let path = mirror.path().join(archive);
        signers.detach(
            &["other"],
            &path,
            &mirror.path().join(format!("{archive}.asc")),
        );
        let said = upstream.offers(&source).await.unwrap_err();
        let begin = format!(
            "verifying {0}{archive}.asc: verifying {0}{archive}: the signature by key",
            Folder::URL
        );
        assert!(said.starts_with(&begin), "{said}");
        let asked = upstream.asked.take();
        let signature = format!("{archive}.asc");
        assert_eq!(
            asked[asked.len() - 2..],
            [signature.clone(), format!("-{signature}")]
        );
    }

    #[tokio::test]
    async fn files_of_opensuse_and_of_lists_that_hold_their_signature_are_offered() {
        let ((signers, source), mirror) = (signers(), tempfile::tempdir().unwrap());
        opensuse(mirror.path(), &signers, &["vendor"]);
        let upstream = Folder::new(mirror.path());
        let source = format!(
            "{source}target = \"amd64/generic/leap-15.6/install\"\nsums = \"CHECKSUMS\"\nversion = \"15.6\"\n\
             [files]\nlinux = \"boot/x86_64/loader/linux\"\ninitrd = \"boot/x86_64/loader/initrd\"\n"
        );
        let expected = "amd64/generic/leap-15.6/install 15.6\n  initrd = boot/x86_64/loader/initrd\n  \
            linux = boot/x86_64/loader/linux\n";
        assert_eq!(upstream.offers(&source).await.unwrap(), expected);
        let [list, signed] = ["CHECKSUMS", "signed"].map(|name| mirror.path().join(name));
        signers.clearsign(&["vendor"], &list, &signed);
        fs::rename(signed, &list).unwrap();
        upstream.asked.take();
        assert_eq!(upstream.offers(&source).await.unwrap(), expected);
        assert_eq!(upstream.asked.take(), ["CHECKSUMS"]);
        // What stands behind the signature is signed by nobody.
        let text = fs::read_to_string(&list).unwrap();
        let more = format!("{}  boot/x86_64/loader/other\n", "0".repeat(64));
        fs::write(&list, format!("{text}{more}")).unwrap();
        let other = source.replace("loader/linux", "loader/other");
        let said = upstream.offers(&other).await.unwrap_err();
        let expected = format!(
            "{}CHECKSUMS lists no `boot/x86_64/loader/other`",
            Folder::URL
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_star_stands_for_the_same_in_all_files_of_a_version() {
        let mirror = tempfile::tempdir().unwrap();
        for path in [
            "r-9/linux",
            "r-9/initrd",
            "r-10/linux",
            "r-10/initrd",
            "r-11/linux",
            "r-8/x/linux",
        ] {
            put(&mirror.path().join("boot").join(path), path);
        }
        let folder = mirror.path().join("boot");
        put(&folder.join("SHA256SUMS"), sums(&folder, "  "));
        let upstream = Folder::new(mirror.path());
        let source = "kind = \"checksums\"\ninsecure = true\ntarget = \"a/b/c-{version}/d\"\n\
            sums = \"boot/SHA256SUMS\"\n[files]\nlinux = \"boot/r-*/linux\"\ninitrd = \"boot/r-{version}/initrd\"\n";
        let expected = "a/b/c-10/d 10\n  initrd = boot/r-10/initrd\n  linux = boot/r-10/linux\n";
        assert_eq!(upstream.offers(source).await.unwrap(), expected);
        let none = source.replace("r-{version}/initrd", "s-*/initrd");
        let said = upstream.offers(&none).await.unwrap_err();
        let expected = format!(
            "{}boot/SHA256SUMS: lists nothing that fits `boot/s-*/initrd`",
            Folder::URL
        );
        assert_eq!(said, expected);

        let digest = sha256(&folder.join("SHA256SUMS"));
        let pinned = source.replace("insecure = true", &format!("sha256 = \"{digest}\""));
        upstream.offers(&pinned).await.unwrap();
        put(&folder.join("SHA256SUMS"), "");
        let said = upstream.offers(&pinned).await.unwrap_err();
        let expected = format!(
            "{}boot/SHA256SUMS has sha256 {}; the source's file says {digest}; upstream has changed it",
            Folder::URL,
            Digest::of(b"")
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn an_archive_whose_digest_the_source_says_needs_no_list() {
        let mirror = tempfile::tempdir().unwrap();
        put(&mirror.path().join("x.tar.gz"), "an archive");
        let digest = Digest::of(b"an archive");
        let upstream = Folder::new(mirror.path());
        let source = format!(
            "kind = \"checksums\"\nsha256 = \"{digest}\"\ntarget = \"a/b/c/d\"\narchive = \"x.tar.gz\"\n"
        );
        let offered = upstream.offers(&source).await.unwrap();
        assert_eq!(offered, "a/b/c/d -\n  all without 0 = x.tar.gz\n");
        assert!(upstream.asked.take().is_empty());
    }
}
