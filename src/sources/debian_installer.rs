//! `kind = "debian-installer"`: the installer as it stands on Debian's mirrors. `InRelease` is signed, and
//! names the digest of each architecture's `SHA256SUMS`, which names that of each file.

use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use deb822_fast::Paragraph;
use reqwest::Url;

use super::offer::{Offer, Part, Picks};
use super::plan::{Plan, beneath};
use super::sums::{self, Sums};
use super::template::Values;
use super::upstream::Upstream;
use super::verify::{Asker, Trust};
use crate::fetch::Wanted;
use crate::text::{Table, ValueExt as _, quoted};
use crate::words::{Boot, Digest, Name};

/// The words that may stand in braces.
const KNOWN: &[&str] = &["arch", "release", "version"];

/// The folder of the newest installer. It is a link of upstream's.
const CURRENT: &str = "current";

/// What a source of this kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DebianInstaller {
    suite: Name,
    arches: Vec<Name>,
    /// Which installer: a folder of upstream's.
    images: String,
    /// Whether the image is the whole `netboot.tar.gz`, or what is picked of it.
    is_archive: bool,
    plan: Plan,
    pub(super) trust: Trust,
}

impl DebianInstaller {
    /// Takes the keys of its own. `None` after a complaint.
    pub(super) fn read(top: &mut Table<'_, '_>, trust: Option<Trust>) -> Option<Self> {
        let name = |text: &str| text.parse::<Name>().map_err(|_| Name::RULE.to_string());
        let suite = top.required("suite", |value| {
            value.parsed("a suite such as \"bookworm\"", |text| text.parse().ok())
        });
        if !top.has("arch") {
            top.required("arch", |_| Ok(()));
        }
        let arches = top.list("arch", Some("at least one architecture"), name);
        let images = top.optional("images", |value| {
            let rule = "a folder of upstream's, such as \"netboot/gtk\"";
            value.parsed(rule, Boot::path)
        });
        let is_archive = top.optional("archive", |value| {
            value.as_bool().ok_or_else(|| "true or false".to_string())
        });
        let plan = Plan::read(top, KNOWN, Some("{arch}/generic/{release}/install"));
        Some(Self {
            suite: suite?,
            arches: arches?,
            images: images.unwrap_or_else(|| "netboot".to_string()),
            is_archive: is_archive.unwrap_or_default(),
            plan: plan?,
            trust: trust?,
        })
    }

    /// What upstream has for each architecture.
    pub(super) async fn ask(
        &self,
        url: &Url,
        upstream: &impl Upstream,
    ) -> anyhow::Result<Vec<Offer>> {
        let url = beneath(url, &format!("dists/{}", self.suite))?;
        let asker = Asker {
            upstream,
            trust: &self.trust,
        };
        let (signed, plain) = (beneath(&url, "InRelease")?, beneath(&url, "Release")?);
        let beside = vec![beneath(&url, "Release.gpg")?];
        let top = asker.top(&[signed], &[(plain.clone(), beside)]).await?;
        let (bytes, from) = top.with_context(|| {
            format!(
                "no InRelease and no Release in {url}: expected a mirror of Debian's, and a suite"
            )
        })?;
        let release = Release::parse(&bytes, &self.suite, SystemTime::now());
        let release = release.with_context(|| from.to_string())?;
        let mut offers = Vec::new();
        for arch in &self.arches {
            let offer = self.offer(arch, &release, &url, &asker, &from).await;
            offers.push(offer.with_context(|| format!("the installer for {arch}"))?);
        }
        Ok(offers)
    }

    async fn offer(
        &self,
        arch: &Name,
        release: &Release,
        url: &Url,
        asker: &Asker<'_, impl Upstream>,
        from: &Url,
    ) -> anyhow::Result<Offer> {
        let (digest, dated) = release.installer(arch).with_context(|| {
            format!("{from} lists no main/installer-{arch}/{CURRENT}/images/SHA256SUMS")
        })?;
        let (images, sums) = images(url, arch, &digest, dated, asker).await?;
        let version = release.version_of(dated);
        let values: Values = [
            ("arch", arch.to_string()),
            ("release", self.suite.to_string()),
            ("version", version.clone().unwrap_or_default()),
        ]
        .into();
        let wanted = |path: &str| {
            let url = beneath(&images, path)?;
            let plain = path.strip_prefix("./").unwrap_or(path);
            let sha256 = sums.get(plain).copied();
            let sha256 = sha256
                .with_context(|| format!("{images}/SHA256SUMS lists no {}", quoted(plain)))?;
            let size = None;
            anyhow::Ok(Wanted { url, sha256, size })
        };
        if self.is_archive {
            let wanted = wanted(&format!("{}/netboot.tar.gz", self.images))?;
            let picks = if self.plan.has_files() {
                Picks::Some(self.plan.files(&values, &[])?)
            } else {
                Picks::All { strip: 0 }
            };
            let parts = vec![Part::Archive { wanted, picks }];
            return self.plan.offer(&values, Boot::default(), version, parts);
        }
        let folder = format!("{}/debian-installer/{arch}", self.images);
        let usual = ["linux", "initrd.gz"].map(|name| (name, format!("{folder}/{name}")));
        let usual = usual.each_ref().map(|(name, path)| (*name, &**path));
        let files = self.plan.files(&values, &usual)?;
        let part = |(path, of): (String, String)| {
            let wanted = wanted(&of)?;
            anyhow::Ok(Part::File { path, wanted })
        };
        let parts = files.into_iter().map(part).collect::<anyhow::Result<_>>()?;
        self.plan.offer(&values, Boot::default(), version, parts)
    }
}

/// The folder of an architecture's installers, and the digests of its files. The dated folder comes first:
/// what `current` leads to may change while files are fetched.
async fn images(
    url: &Url,
    arch: &Name,
    digest: &Digest,
    dated: Option<&str>,
    asker: &Asker<'_, impl Upstream>,
) -> anyhow::Result<(Url, Sums)> {
    for folder in dated.into_iter().chain([CURRENT]) {
        let images = beneath(url, &format!("main/installer-{arch}/{folder}/images"))?;
        let url = beneath(&images, "SHA256SUMS")?;
        if let Some(text) = asker.listed(&url, digest, "Release").await? {
            let sums = sums::parse(&text, None).with_context(|| url.to_string())?;
            return Ok((images, sums));
        }
    }
    bail!("{url} has no main/installer-{arch}/{CURRENT}/images/SHA256SUMS, which Release lists")
}

/// What a Release file says: its version, and the digests of the lists of installers by their paths.
#[derive(Debug)]
struct Release {
    version: Option<String>,
    installers: Vec<(String, Digest)>,
}

impl Release {
    /// # Errors
    /// When the text is none, is one of another suite, or has expired.
    fn parse(text: &[u8], suite: &Name, now: SystemTime) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(text).context("expected text; it is not UTF-8")?;
        let release: Paragraph = text.parse().context("expected a Release file")?;
        let names = ["Suite", "Codename"].map(|field| release.get(field));
        ensure!(
            names.contains(&Some(suite.as_str())),
            "is of suite {}, codename {}; expected {suite}: the mirror shows another suite there",
            quoted(names[0].unwrap_or("none")),
            quoted(names[1].unwrap_or("none"))
        );
        if let Some(until) = release.get("Valid-Until") {
            let end = time(until).with_context(|| format!("`Valid-Until` {}", quoted(until)))?;
            ensure!(
                now <= end,
                "has expired, `Valid-Until` {}: the mirror is frozen, or somebody shows an old state of it",
                quoted(until)
            );
        }
        let sums = release.get("SHA256").context("has no `SHA256`")?;
        let installers = sums.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [digest, _, path] = words[..] else {
                return None;
            };
            let path = path.strip_prefix("main/installer-")?;
            Some((
                path.strip_suffix("/images/SHA256SUMS")?.to_string(),
                digest.parse().ok()?,
            ))
        });
        Ok(Self {
            version: release.get("Version").map(str::to_string),
            installers: installers.collect(),
        })
    }

    /// The digest of the newest installer's list, and that installer's own folder, where one of them has
    /// the very same list.
    fn installer(&self, arch: &Name) -> Option<(Digest, Option<&str>)> {
        let folders = self.installers.iter().filter_map(|(path, digest)| {
            let (of, folder) = path.split_once('/')?;
            (of == arch.as_str()).then_some((folder, *digest))
        });
        let (_, current) = folders.clone().find(|(folder, _)| *folder == CURRENT)?;
        let dated = folders.filter(|(folder, digest)| *folder != CURRENT && *digest == current);
        let newest = dated
            .map(|(folder, _)| folder)
            .max_by(|a, b| libversion::version_compare2(a, b));
        Some((current, newest))
    }

    /// What people call an installer: `12.12 (20230607+deb12u12)`. Not the date of the Release file, which
    /// is another each day while the installer is the same.
    fn version_of(&self, dated: Option<&str>) -> Option<String> {
        match (&self.version, dated) {
            (Some(version), Some(dated)) => Some(format!("{version} ({dated})")),
            (version, dated) => version.clone().or(dated.map(str::to_string)),
        }
    }
}

/// A time as Release files have it: `Sat, 09 Nov 2024 10:08:15 UTC`, or with `+0000` at the end.
fn time(text: &str) -> anyhow::Result<SystemTime> {
    let (time, zone) = text.rsplit_once(' ').unwrap_or((text, ""));
    ensure!(
        ["UTC", "GMT", "+0000", "Z"].contains(&zone),
        "expected a time in UTC"
    );
    Ok(httpdate::parse_http_date(&format!("{time} GMT"))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::sources::lab::{Debian, Signers, put, sha256, small_netboot};
    use crate::sources::upstream::Folder;

    const VERSION: &str = "20230607+deb12u12";

    fn debian(signers: &Signers) -> Debian<'_> {
        Debian {
            signers,
            names: &["debian"],
            suite: "bookworm",
            codename: "bookworm",
            version: VERSION,
        }
    }

    fn add(debian: &Debian<'_>, mirror: &Path, arches: &[&str]) {
        for arch in arches {
            let netboot = tempfile::tempdir().unwrap();
            small_netboot(netboot.path(), arch, debian.version);
            debian.add(mirror, arch, netboot.path());
        }
    }

    /// A mirror with two architectures, and what a source of it begins with.
    fn mirror(signers: &Signers) -> (tempfile::TempDir, String) {
        let mirror = tempfile::tempdir().unwrap();
        signers.make("debian");
        let debian = debian(signers);
        add(&debian, mirror.path(), &["amd64", "arm64"]);
        debian.release(mirror.path(), &[("Version", "12.12")]);
        let keyring = signers.keyring(&["debian"]);
        let source =
            format!("kind = \"debian-installer\"\nsuite = \"bookworm\"\nkeyring = {keyring:?}\n");
        (mirror, source)
    }

    #[tokio::test]
    async fn the_installer_of_each_architecture_is_offered_from_its_dated_folder() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let upstream = Folder::new(mirror.path());
        let expected = "\
amd64/generic/bookworm/install 12.12 (20230607+deb12u12)
  initrd.gz = dists/bookworm/main/installer-amd64/20230607+deb12u12/images/netboot/debian-installer/amd64/initrd.gz
  linux = dists/bookworm/main/installer-amd64/20230607+deb12u12/images/netboot/debian-installer/amd64/linux
arm64/generic/bookworm/install 12.12 (20230607+deb12u12)
  initrd.gz = dists/bookworm/main/installer-arm64/20230607+deb12u12/images/netboot/debian-installer/arm64/initrd.gz
  linux = dists/bookworm/main/installer-arm64/20230607+deb12u12/images/netboot/debian-installer/arm64/linux
";
        let both = format!("{source}arch = [\"amd64\", \"arm64\"]\n");
        assert_eq!(upstream.offers(&both).await.unwrap(), expected);
        assert_eq!(upstream.asked.take()[0], "dists/bookworm/InRelease");

        let lists = mirror.path().join("dists/bookworm");
        fs::remove_file(lists.join("InRelease")).unwrap();
        assert_eq!(upstream.offers(&both).await.unwrap(), expected);
        let asked =
            ["InRelease", "Release", "Release.gpg"].map(|it| format!("dists/bookworm/{it}"));
        assert_eq!(upstream.asked.take()[..3], asked);

        // A mirror that has only the link.
        let installer = lists.join("main/installer-amd64");
        fs::remove_file(installer.join("current")).unwrap();
        fs::rename(installer.join(VERSION), installer.join("current")).unwrap();
        let one = format!("{source}arch = [\"amd64\"]\n");
        let of_link = expected.split("arm64/generic").next().unwrap();
        let of_link = of_link.replace(&format!("amd64/{VERSION}/"), "amd64/current/");
        assert_eq!(upstream.offers(&one).await.unwrap(), of_link);
    }

    #[tokio::test]
    async fn an_archive_and_files_of_ones_own_are_offered() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let upstream = Folder::new(mirror.path());
        let images = format!("dists/bookworm/main/installer-amd64/{VERSION}/images");
        let own = "arch = [\"amd64\"]\ntarget = \"{arch}/generic/{release}/rescue\"\n";
        let more = "[files]\n\"boot/linux\" = \"netboot/debian-installer/{arch}/linux\"\n[boot]\n\
            kernel = \"boot/linux\"\ntitle = \"Debian {version}\"\ncmdline = \"a={arch} url={url}\"\n";
        let offered = upstream
            .offers(&format!("{source}{own}{more}"))
            .await
            .unwrap();
        let expected = format!(
            "amd64/generic/bookworm/rescue 12.12 ({VERSION})\n  kernel: boot/linux\n  \
             title: Debian 12.12 ({VERSION})\n  cmdline: a=amd64 url={{url}}\n  \
             boot/linux = {images}/netboot/debian-installer/amd64/linux\n"
        );
        assert_eq!(offered, expected);
        let all = format!("{source}arch = [\"amd64\"]\narchive = true\n");
        let head = format!("amd64/generic/bookworm/install 12.12 ({VERSION})\n");
        let of = format!("{images}/netboot/netboot.tar.gz\n");
        let offered = upstream.offers(&all).await.unwrap();
        assert_eq!(offered, format!("{head}  all without 0 = {of}"));
        let some = "[files]\nlinux = \"debian-installer/{arch}/linux\"\n";
        let offered = upstream.offers(&format!("{all}{some}")).await.unwrap();
        let picks = "{\"linux\": \"debian-installer/amd64/linux\"}";
        assert_eq!(offered, format!("{head}  {picks} = {of}"));

        let gtk = format!("{source}arch = [\"amd64\"]\nimages = \"netboot/gtk\"\n");
        let said = upstream.offers(&gtk).await.unwrap_err();
        let url = Folder::URL;
        let expected = format!(
            "the installer for amd64: {url}{images}/SHA256SUMS lists no \
             `netboot/gtk/debian-installer/amd64/initrd.gz`"
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn an_old_another_or_a_forged_list_of_a_suite_is_refused() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let source = format!("{source}arch = [\"amd64\"]\n");
        let upstream = Folder::new(mirror.path());
        let url = Folder::URL;
        let debian = debian(&signers);
        let until = "Sun, 01 Nov 2020 00:00:00 UTC";
        debian.release(mirror.path(), &[("Valid-Until", until)]);
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "{url}dists/bookworm/InRelease: has expired, `Valid-Until` `{until}`: the mirror is frozen, or \
             somebody shows an old state of it"
        );
        assert_eq!(said, expected);
        // A time far ahead is none that has passed.
        debian.release(
            mirror.path(),
            &[("Valid-Until", "Fri, 01 Nov 2199 00:00:00 +0000")],
        );
        upstream.offers(&source).await.unwrap();

        let other = Debian {
            codename: "trixie",
            ..debian
        };
        other.release(mirror.path(), &[]);
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "{url}dists/bookworm/InRelease: is of suite `stable`, codename `trixie`; expected bookworm: the \
             mirror shows another suite there"
        );
        assert_eq!(said, expected);

        upstream.asked.take();
        let list = mirror.path().join("dists/bookworm/InRelease");
        let text = fs::read_to_string(&list)
            .unwrap()
            .replace("trixie", "bookworm");
        fs::write(&list, text).unwrap();
        let said = upstream.offers(&source).await.unwrap_err();
        let begin = format!("verifying {url}dists/bookworm/InRelease: the signature by key ");
        assert!(said.starts_with(&begin), "{said}");
        let end = "asked twice. Upstream may be in the middle of a change: try again later";
        assert!(said.ends_with(end), "{said}");
        let asked = ["dists/bookworm/InRelease", "-dists/bookworm/InRelease"];
        assert_eq!(upstream.asked.take(), asked.repeat(2));

        let riscv = source.replace("amd64", "riscv64");
        other.release(mirror.path(), &[]);
        let riscv = riscv.replace("bookworm", "stable");
        let said = upstream.offers(&riscv).await.unwrap_err();
        let expected = format!(
            "no InRelease and no Release in {url}dists/stable: expected a mirror of Debian's, and a suite"
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn an_architecture_without_an_installer_is_named() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let upstream = Folder::new(mirror.path());
        let source = format!("{source}arch = [\"amd64\", \"riscv64\"]\n");
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "the installer for riscv64: {}dists/bookworm/InRelease lists no \
             main/installer-riscv64/current/images/SHA256SUMS",
            Folder::URL
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn lists_that_change_meanwhile_are_asked_for_once_more() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let source = format!("{source}arch = [\"amd64\"]\n");
        let sums = format!("dists/bookworm/main/installer-amd64/{VERSION}/images/SHA256SUMS");
        let list = mirror.path().join(&sums);
        let good = fs::read(&list).unwrap();
        let found = {
            put(&list, "another list\n");
            sha256(&list)
        };
        let mut upstream = Folder::new(mirror.path());
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "the installer for amd64: {}{sums} has sha256 {found}; Release says {}; asked twice. Upstream may \
             be in the middle of a change: try again later",
            Folder::URL,
            Digest::of(&good)
        );
        assert_eq!(said, expected);
        let forgotten = format!("-{sums}");
        let asked = ["dists/bookworm/InRelease", &sums, &forgotten];
        assert_eq!(upstream.asked.take(), asked.repeat(2));

        let is_first = std::cell::Cell::new(true);
        let path = sums.clone();
        upstream.meanwhile = Box::new(move |asked| {
            if asked == path && !is_first.replace(false) {
                fs::write(&list, &good).unwrap();
            }
        });
        upstream.offers(&source).await.unwrap();
        assert_eq!(upstream.asked.take().len(), 5);
    }

    #[test]
    fn times_of_release_files_are_read_in_both_forms() {
        let seconds = |text: &str| {
            let since = time(text).unwrap().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        };
        assert_eq!(seconds("Sat, 09 Nov 2024 10:08:15 UTC"), 1_731_146_895);
        assert_eq!(seconds("Sat, 09 Nov 2024 10:08:15 +0000"), 1_731_146_895);
        assert!(time("Sat, 09 Nov 2024 10:08:15 +0100").is_err());
        assert!(time("tomorrow").is_err());
    }

    /// Debian's own package, laid out as on a mirror: its archive becomes the very files of the package.
    #[tokio::test]
    async fn the_archive_of_debians_own_installer_is_unpacked_as_debian_made_it() {
        let netboot = Path::new("/usr/lib/debian-installer/images/12/amd64/text");
        if !netboot.exists() {
            eprintln!("not run: needs the package debian-installer-12-netboot-amd64");
            return;
        }
        let (signers, mirror) = (Signers::new(), tempfile::tempdir().unwrap());
        signers.make("debian");
        let debian = debian(&signers);
        debian.add(mirror.path(), "amd64", netboot);
        debian.release(mirror.path(), &[("Version", "12.12")]);
        let source = format!(
            "kind = \"debian-installer\"\nsuite = \"bookworm\"\narch = [\"amd64\"]\nkeyring = {:?}\n",
            signers.keyring(&["debian"])
        );
        let upstream = Folder::new(mirror.path());
        let files = upstream.offers(&source).await.unwrap();
        assert!(
            files.contains("\n  linux = dists/bookworm/main/installer-amd64/"),
            "{files}"
        );
        let offered = upstream
            .offers(&format!("{source}archive = true\n"))
            .await
            .unwrap();
        let (_, path) = offered.trim().rsplit_once(" = ").unwrap();
        let archive = fs::File::open(mirror.path().join(path)).unwrap();
        let image = tempfile::tempdir().unwrap();
        let into = crate::sys::Dir::open(image.path()).unwrap();
        let limits = crate::settings::Settings::default().limits;
        let all = Picks::All { strip: 0 };
        crate::sources::unpack(
            archive,
            &into,
            &all,
            &limits,
            &crate::sys::Progress::default(),
        )
        .unwrap();
        let mut diff = std::process::Command::new("diff");
        diff.args(["--recursive", "--no-dereference"]);
        let diff = diff.arg(netboot).arg(image.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "");
        assert!(diff.status.success(), "{diff:?}");
    }
}
