//! `kind = "simplestreams"`: lists of products in JSON, as for MAAS's images. Each list is signed itself;
//! a product has versions, and a version files with their digests.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::offer::{Offer, Part};
use super::plan::{Plan, beneath};
use super::template::Values;
use super::upstream::Upstream;
use super::verify::{Asker, Trust};
use crate::fetch::Wanted;
use crate::text::{Table, quoted};
use crate::words::{Boot, Digest};

/// The words that may stand in braces.
const KNOWN: &[&str] = &[
    "arch", "subarch", "release", "version", "os", "kflavor", "krel", "label",
];

const TARGET: &str = "{arch}/{subarch}/{release}/commissioning";

/// The files of an image where the source's file doesn't say, by their kinds.
const USUAL: [(&str, &str); 3] = [
    ("boot-kernel", "boot-kernel"),
    ("boot-initrd", "boot-initrd"),
    ("squashfs", "squashfs"),
];

/// The list that names the others.
const INDEX: &str = "streams/v1/index";

/// What a source of this kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Simplestreams {
    /// Which values each of these attributes may have.
    select: BTreeMap<String, Vec<String>>,
    plan: Plan,
    pub(super) trust: Trust,
}

#[derive(Deserialize)]
#[serde(expecting = "an index of lists")]
struct Index {
    index: BTreeMap<String, Listed>,
}

/// A list of products, as the index names it.
#[derive(Deserialize)]
#[serde(expecting = "a list's place")]
struct Listed {
    format: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(expecting = "a list of products")]
struct List {
    content_id: String,
    products: BTreeMap<String, Product>,
    #[serde(flatten)]
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(expecting = "a product")]
struct Product {
    #[serde(default)]
    versions: BTreeMap<String, Version>,
    #[serde(flatten)]
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(expecting = "a version of a product")]
struct Version {
    #[serde(default)]
    items: BTreeMap<String, File>,
    #[serde(flatten)]
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(expecting = "a file of a version")]
struct File {
    #[serde(default)]
    ftype: String,
    path: Option<String>,
    sha256: Option<Digest>,
    size: Option<u64>,
}

/// What is said of all that stands below, too, unless that says something else.
type Attributes = BTreeMap<String, Value>;

impl Simplestreams {
    /// Takes the keys of its own. `None` after a complaint.
    pub(super) fn read(top: &mut Table<'_, '_>, trust: Option<Trust>) -> Option<Self> {
        let select = top.table("select", |table| {
            table.each(|_, value| {
                let rule = || "a text, or a list of texts".to_string();
                let text = |value: &toml::de::DeValue<'_>| value.as_str().map(str::to_string);
                if let Some(text) = text(value) {
                    return Ok(vec![text]);
                }
                let list = value
                    .as_array()
                    .filter(|list| !list.is_empty())
                    .ok_or_else(rule)?;
                let texts = list.iter().map(|value| text(value.get_ref()));
                texts.collect::<Option<Vec<_>>>().ok_or_else(rule)
            })
        });
        let plan = Plan::read(top, KNOWN, Some(TARGET));
        Some(Self {
            select: select.unwrap_or_else(|| Some(BTreeMap::new()))?,
            plan: plan?,
            trust: trust?,
        })
    }

    /// What upstream has for each product that is selected.
    pub(super) async fn ask(
        &self,
        url: &Url,
        upstream: &impl Upstream,
    ) -> anyhow::Result<Vec<Offer>> {
        let asker = Asker {
            upstream,
            trust: &self.trust,
        };
        let (bytes, from) = list(&asker, url, INDEX).await?.with_context(|| {
            format!("no {INDEX}.sjson and no {INDEX}.json in {url}: expected simplestreams there")
        })?;
        let index: Index = json(&bytes, &from)?;
        let lists = index.index.into_iter();
        let lists = lists.filter(|(_, listed)| listed.format == "products:1.0");
        let mut offers = Vec::<(String, Offer)>::new();
        for (id, listed) in lists {
            let path = listed
                .path
                .strip_suffix(".sjson")
                .or(listed.path.strip_suffix(".json"));
            let path = path.with_context(|| {
                format!(
                    "{from}: {} of {}; expected a name in .json",
                    quoted(&listed.path),
                    quoted(&id)
                )
            })?;
            let (bytes, from) = list(&asker, url, path).await?.with_context(|| {
                format!("no {path}.sjson and no {path}.json in {url}, which {from} names")
            })?;
            let products: List = json(&bytes, &from)?;
            ensure!(
                products.content_id == id,
                "{from} is {}; expected {}: the mirror shows another list there",
                quoted(&products.content_id),
                quoted(&id)
            );
            for (name, product) in &products.products {
                let offer = self.offer(product, &products.attributes, url);
                let offer = offer.with_context(|| format!("{from}: product {}", quoted(name)))?;
                offers.extend(offer.map(|offer| (name.clone(), offer)));
            }
        }
        alone(&offers)?;
        ensure!(
            !offers.is_empty(),
            "{from} names no product with the attributes of `[select]` and all files"
        );
        Ok(offers.into_iter().map(|(_, offer)| offer).collect())
    }

    /// The newest version of a product that has all files; `None` of a product that isn't selected, or has
    /// no file of an image at all.
    fn offer(
        &self,
        product: &Product,
        above: &Attributes,
        url: &Url,
    ) -> anyhow::Result<Option<Offer>> {
        let mut versions: Vec<_> = product.versions.iter().collect();
        versions.sort_by(|(a, _), (b, _)| libversion::version_compare2(b, a));
        let mut missing = None;
        for (name, version) in versions {
            let of = [&version.attributes, &product.attributes, above];
            if !self.is_selected(of) {
                continue;
            }
            let values = values(name, of);
            let files = self.plan.files(&values, &USUAL)?;
            let found = |(path, of): (&String, &String)| (path.clone(), file(version, of));
            let found: Vec<_> = files.iter().map(found).collect();
            if found.iter().all(|(_, file)| file.is_err()) {
                continue;
            }
            let part = |(path, file): (String, anyhow::Result<&File>)| {
                let wanted = wanted(file?, url)?;
                anyhow::Ok(Part::File { path, wanted })
            };
            match found
                .into_iter()
                .map(part)
                .collect::<anyhow::Result<Vec<_>>>()
            {
                Ok(parts) => {
                    let version = Some(name.clone());
                    let boot = Self::boot(&files);
                    return self.plan.offer(&values, boot, version, parts).map(Some);
                }
                Err(error) => {
                    let error = error.context(format!("version {}", quoted(name)));
                    missing.get_or_insert(error);
                }
            }
        }
        missing.map_or(Ok(None), |error| {
            Err(error.context("no version has all files"))
        })
    }

    fn is_selected(&self, of: [&Attributes; 3]) -> bool {
        let mut select = self.select.iter();
        select.all(|(key, values)| attribute(key, of).is_some_and(|is| values.contains(&is)))
    }

    /// How it boots, where the files have their usual names.
    fn boot(files: &BTreeMap<String, String>) -> Boot {
        let path = |kind: &str| {
            let mut files = files.iter();
            files
                .find(|(_, of)| *of == kind)
                .map(|(path, _)| path.clone())
        };
        Boot {
            kernel: path("boot-kernel"),
            initrd: path("boot-initrd").into_iter().collect(),
            ..Boot::default()
        }
    }
}

/// A list, without its ending; `None` where there is none.
async fn list(
    asker: &Asker<'_, impl Upstream>,
    url: &Url,
    path: &str,
) -> anyhow::Result<Option<(Vec<u8>, Url)>> {
    let signed = beneath(url, &format!("{path}.sjson"))?;
    let plain = beneath(url, &format!("{path}.json"))?;
    let beside = beneath(url, &format!("{path}.json.gpg"))?;
    asker.top(&[signed], &[(plain, vec![beside])]).await
}

fn json<T: for<'d> Deserialize<'d>>(bytes: &[u8], from: &Url) -> anyhow::Result<T> {
    serde_json::from_slice(bytes)
        .with_context(|| format!("{from}: expected a list of simplestreams"))
}

/// What is said of a version, or else of its product, or else of all.
fn attribute(key: &str, of: [&Attributes; 3]) -> Option<String> {
    match of.into_iter().find_map(|attributes| attributes.get(key))? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What the words in braces stand for. `{version}` is the version of the image, not of the system.
fn values(version: &str, of: [&Attributes; 3]) -> Values {
    let mut values: Values = KNOWN
        .iter()
        .filter_map(|key| Some((*key, attribute(key, of)?)))
        .collect();
    values.insert("version", version.to_string());
    if !values.contains_key("subarch")
        && let Some(flavour) = values.get("kflavor").cloned()
    {
        values.insert("subarch", flavour);
    }
    values
}

/// The file of a version that has this name, or else is the only one of this kind.
fn file<'v>(version: &'v Version, of: &str) -> anyhow::Result<&'v File> {
    if let Some(file) = version.items.get(of) {
        return Ok(file);
    }
    let mut of_kind = version.items.iter().filter(|(_, file)| file.ftype == of);
    let (name, file) = of_kind
        .next()
        .with_context(|| format!("has no file {}", quoted(of)))?;
    if let Some((other, _)) = of_kind.next() {
        bail!(
            "has more than one file {}: {} and {}; expected the name of one in `[files]`",
            quoted(of),
            quoted(name),
            quoted(other)
        );
    }
    Ok(file)
}

fn wanted(file: &File, url: &Url) -> anyhow::Result<Wanted> {
    let path = file.path.as_deref().context("a file without a path")?;
    let sha256 = file
        .sha256
        .with_context(|| format!("{} has no sha256", quoted(path)))?;
    Ok(Wanted {
        url: beneath(url, path)?,
        sha256,
        size: file.size,
    })
}

/// Makes sure that there is one product for each target.
fn alone(offers: &[(String, Offer)]) -> anyhow::Result<()> {
    for (at, (name, offer)) in offers.iter().enumerate() {
        let other = offers[..at]
            .iter()
            .find(|(_, other)| other.target == offer.target);
        if let Some((other, _)) = other {
            bail!(
                "two products for {}: {} and {}; select one by an attribute in `[select]`, or name the \
                 target by one",
                offer.target,
                quoted(other),
                quoted(name)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::sources::lab::{Product, STREAM, Signers, simplestreams};
    use crate::sources::upstream::Folder;

    const ALL: &[&str] = &["boot-kernel", "boot-initrd", "squashfs", "manifest"];

    fn product<'a>(arch: &'a str, subarch: &'a str) -> Product<'a> {
        Product {
            release: "noble",
            number: "24.04",
            arch,
            subarch,
            kflavor: "generic",
            versions: &[
                ("20240612", ALL),
                ("20240612.10", ALL),
                ("20240612.9", ALL),
                ("20240701", &["boot-kernel", "squashfs"]),
            ],
        }
    }

    fn mirror(signers: &Signers) -> (tempfile::TempDir, String) {
        let mirror = tempfile::tempdir().unwrap();
        signers.make("maas");
        let products = [
            product("amd64", "ga-24.04"),
            product("amd64", "hwe-24.04"),
            product("arm64", "ga-24.04"),
        ];
        simplestreams(mirror.path(), signers, &["maas"], &products);
        let keyring = signers.keyring(&["maas"]);
        (
            mirror,
            format!("kind = \"simplestreams\"\nkeyring = {keyring:?}\n"),
        )
    }

    #[tokio::test]
    async fn the_newest_whole_version_of_each_selected_product_is_offered() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let upstream = Folder::new(mirror.path());
        let select =
            "[select]\nos = \"ubuntu\"\narch = [\"amd64\", \"arm64\"]\nsubarch = \"ga-24.04\"\n";
        let expected = |arch: &str| {
            format!(
                "{arch}/ga-24.04/noble/commissioning 20240612.10\n  kernel: boot-kernel\n  initrd: boot-initrd\n  \
                 boot-initrd = noble/{arch}/20240612.10/ga-24.04/generic/boot-initrd\n  \
                 boot-kernel = noble/{arch}/20240612.10/ga-24.04/generic/boot-kernel\n  \
                 squashfs = noble/{arch}/20240612.10/squashfs\n"
            )
        };
        let both = ["amd64", "arm64"].map(expected).concat();
        let offered = upstream.offers(&format!("{source}{select}")).await;
        assert_eq!(offered.unwrap(), both);
        let asked = ["index", STREAM].map(|name| format!("streams/v1/{name}.sjson"));
        assert_eq!(upstream.asked.take(), asked);

        // Without the signed form, and without any.
        for name in ["index", STREAM] {
            fs::remove_file(mirror.path().join(format!("streams/v1/{name}.sjson"))).unwrap();
        }
        assert_eq!(
            upstream.offers(&format!("{source}{select}")).await.unwrap(),
            both
        );
        let insecure = format!("kind = \"simplestreams\"\ninsecure = true\n{select}");
        assert_eq!(upstream.offers(&insecure).await.unwrap(), both);

        let own = "target = \"{arch}/{kflavor}/{krel}/x\"\n[select]\narch = \"arm64\"\n[files]\n\
            \"boot/linux\" = \"boot-kernel\"\n";
        let said = upstream
            .offers(&format!("{source}{own}"))
            .await
            .unwrap_err();
        let expected = format!(
            "{}streams/v1/{STREAM}.json: product `com.ubuntu.maas.stable:v3:boot:24.04:arm64:ga-24.04`: \
             upstream does not say what `{{krel}}` is in `{{arch}}/{{kflavor}}/{{krel}}/x`",
            Folder::URL
        );
        assert_eq!(said, expected);
        let own = own.replace("krel", "release");
        let offered = upstream.offers(&format!("{source}{own}")).await.unwrap();
        let expected = "arm64/generic/noble/x 20240701\n  kernel: boot/linux\n  \
            boot/linux = noble/arm64/20240701/ga-24.04/generic/boot-kernel\n";
        assert_eq!(offered, expected);
    }

    #[tokio::test]
    async fn two_products_for_one_target_and_none_are_refused() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        let upstream = Folder::new(mirror.path());
        let both = format!(
            "{source}target = \"{{arch}}/generic/{{release}}/x\"\n[select]\narch = \"amd64\"\n"
        );
        let said = upstream.offers(&both).await.unwrap_err();
        let name = "com.ubuntu.maas.stable:v3:boot:24.04:amd64";
        let expected = format!(
            "two products for amd64/generic/noble/x: `{name}:ga-24.04` and `{name}:hwe-24.04`; select one by an \
             attribute in `[select]`, or name the target by one"
        );
        assert_eq!(said, expected);
        let none = format!("{source}[select]\nrelease = \"jammy\"\n");
        let said = upstream.offers(&none).await.unwrap_err();
        let expected = format!(
            "{}streams/v1/index.sjson names no product with the attributes of `[select]` and all files",
            Folder::URL
        );
        assert_eq!(said, expected);
        let part = format!(
            "{source}[select]\narch = \"arm64\"\n[files]\na = \"boot-kernel\"\nb = \"root\"\n"
        );
        let said = upstream.offers(&part).await.unwrap_err();
        let expected = format!(
            "{}streams/v1/{STREAM}.sjson: product `com.ubuntu.maas.stable:v3:boot:24.04:arm64:ga-24.04`: no \
             version has all files: version `20240701`: has no file `root`",
            Folder::URL
        );
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_list_of_products_is_verified_itself_and_no_other_one() {
        let signers = Signers::new();
        let (mirror, source) = mirror(&signers);
        signers.make("other");
        let upstream = Folder::new(mirror.path());
        let streams = mirror.path().join("streams/v1");
        let [plain, signed] = ["json", "sjson"].map(|it| streams.join(format!("{STREAM}.{it}")));
        signers.clearsign(&["other"], &plain, &signed);
        let said = upstream.offers(&source).await.unwrap_err();
        let url = format!("{}streams/v1/{STREAM}.sjson", Folder::URL);
        let begin = format!("verifying {url}: the signature by key ");
        assert!(said.starts_with(&begin), "{said}");
        let end = format!(
            "is of a key that is not in the keyring; expected one by a key of {:?}",
            signers.keyring(&["maas"])
        );
        assert!(said.ends_with(&end), "{said}");
        let last = upstream.asked.take().pop();
        assert_eq!(last.unwrap(), format!("-streams/v1/{STREAM}.sjson"));

        let text = fs::read_to_string(&plain)
            .unwrap()
            .replace(STREAM, "com.example:other");
        fs::write(&plain, text).unwrap();
        signers.clearsign(&["maas"], &plain, &signed);
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "{url} is `com.example:other`; expected `{STREAM}`: the mirror shows another list there"
        );
        assert_eq!(said, expected);
        fs::write(&plain, "[1, 2").unwrap();
        signers.clearsign(&["maas"], &plain, &signed);
        let said = upstream.offers(&source).await.unwrap_err();
        let expected = format!(
            "{url}: expected a list of simplestreams: invalid type: sequence, expected a list of products at \
             line 1 column 0"
        );
        assert_eq!(said, expected);
    }
}
