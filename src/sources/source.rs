//! A source, as its file has it, and what it offers.

use std::path::PathBuf;

use reqwest::Url;
use toml::de::DeValue;

use super::checksums::Checksums;
use super::debian_installer::DebianInstaller;
use super::offer::Offer;
use super::simplestreams::Simplestreams;
use super::treeinfo::Treeinfo;
use super::upstream::{Host, Upstream};
use super::verify::{Trust, asked_again};
use crate::fetch::{Client, Options, Store};
use crate::text::{Expected, InputError, Table, ValueExt, read_toml};
use crate::words::{Name, TargetPattern};

/// A source: `sources.d/<name>.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) url: Url,
    pub(crate) options: Options,
    /// The key that ssh-keygen signs the drops with, as `submit --sign`.
    pub(crate) sign: Option<PathBuf>,
    /// Whether drops have a serial: the seconds since 1970.
    pub(crate) has_serials: bool,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    DebianInstaller(DebianInstaller),
    Simplestreams(Simplestreams),
    Checksums(Checksums),
    Treeinfo(Treeinfo),
    Oci(Site),
}

/// What a site follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Which targets; others are left alone.
    pub(crate) targets: Vec<TargetPattern>,
    /// The centre whose orders count, where the file names one.
    pub(crate) centre: Option<String>,
    /// Orders may be unsigned: whoever writes to the registry may do everything.
    pub(crate) is_insecure: bool,
}

/// The words of `kind`.
const KINDS: [&str; 5] = [
    "debian-installer",
    "simplestreams",
    "checksums",
    "treeinfo",
    "oci",
];

impl Source {
    /// # Errors
    /// All that is wrong with the text, with line, column and what was expected.
    pub(crate) fn parse(name: &str, file: &str, text: &str) -> Result<Self, InputError> {
        read_toml(file, text, |top| {
            if name.parse::<Name>().is_err() {
                top.complain_here("the file's name names no source".to_string(), Name::RULE);
            }
            let rule = || KINDS.map(|kind| format!("\"{kind}\"")).join(" or ");
            let kind = top.required("kind", |value| {
                value.parsed(&rule(), |text| KINDS.into_iter().find(|kind| *kind == text))
            });
            let Some(kind) = kind else {
                // Which other keys there may be is unknown.
                let _ = top.each(|_, _| Ok(()));
                return None;
            };
            let url = top.required("url", url);
            let options = Options::read(top);
            let (sign, has_serials) = if kind == "oci" {
                (None, None)
            } else {
                (
                    top.optional("sign", ValueExt::path),
                    top.optional("serial", is_true),
                )
            };
            let kind = match kind {
                "oci" => site(top).map(Kind::Oci),
                "debian-installer" => {
                    let trust = trust(top, None);
                    DebianInstaller::read(top, trust).map(Kind::DebianInstaller)
                }
                "simplestreams" => {
                    let why = "another one: the index names no digests of the lists of products, which \
                        are signed themselves";
                    let trust = trust(top, Some(why));
                    Simplestreams::read(top, trust).map(Kind::Simplestreams)
                }
                "checksums" => {
                    let trust = trust(top, None);
                    Checksums::read(top, trust).map(Kind::Checksums)
                }
                _ => {
                    let trust = trust(top, None);
                    Treeinfo::read(top, trust).map(Kind::Treeinfo)
                }
            };
            Some(Self {
                name: name.to_string(),
                url: url?,
                options: options?,
                sign,
                has_serials: has_serials.is_some(),
                kind: kind?,
            })
        })
    }

    /// What is to be said in each run: that nothing proves what comes from this source.
    pub(crate) fn warning(&self) -> Option<String> {
        let trust = match &self.kind {
            Kind::DebianInstaller(of) => &of.trust,
            Kind::Simplestreams(of) => &of.trust,
            Kind::Checksums(of) => &of.trust,
            Kind::Treeinfo(of) => &of.trust,
            Kind::Oci(site) => {
                let text = || {
                    format!(
                        "source {}: `insecure = true`: whoever writes to {} may do everything here",
                        self.name, self.url
                    )
                };
                return site.is_insecure.then(text);
            }
        };
        let by_url = match self.url.scheme() {
            "https" => "whoever is that host, or holds its certificate,",
            _ => "whoever is that host, or between it and here,",
        };
        (*trust == Trust::Insecure).then(|| {
            format!(
                "source {}: `insecure = true`: {by_url} says what machines boot: {}",
                self.name, self.url
            )
        })
    }

    /// What upstream has; of a site see `registry`. With `accepts_older` also by signed lists that are older
    /// than the last ones.
    ///
    /// # Errors
    /// When upstream can't be asked, or what it says can't be verified.
    pub(crate) async fn ask(
        &self,
        client: &Client,
        store: &Store,
        accepts_older: bool,
    ) -> anyhow::Result<Vec<Offer>> {
        let host = Host {
            client,
            store,
            accepts_older,
        };
        self.ask_of(&host).await
    }

    /// As [`Source::ask`], of any upstream.
    pub(super) async fn ask_of(&self, upstream: &impl Upstream) -> anyhow::Result<Vec<Offer>> {
        let url = &self.url;
        asked_again(async || match &self.kind {
            Kind::DebianInstaller(of) => of.ask(url, upstream).await,
            Kind::Simplestreams(of) => of.ask(url, upstream).await,
            Kind::Checksums(of) => of.ask(url, upstream).await,
            Kind::Treeinfo(of) => of.ask(url, upstream).await,
            Kind::Oci(_) => Ok(Vec::new()),
        })
        .await
    }
}

/// A folder of a web server.
fn url(value: &DeValue<'_>) -> Result<Url, Expected> {
    const RULE: &str = "an URL such as \"https://mirror.example/debian/\", without a user, a query and a \
        fragment (a user is `username` and `password_file`)";
    value.parsed(RULE, |text| {
        let url = Url::parse(text).ok()?;
        let is_plain = ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        is_plain.then_some(url)
    })
}

fn is_true(value: &DeValue<'_>) -> Result<(), Expected> {
    match value.as_bool() {
        Some(true) => Ok(()),
        _ => Err("true".to_string()),
    }
}

/// How what upstream says is verified: by exactly one of three keys. `why_not` says what was expected
/// instead of `sha256`. `None` after a complaint.
fn trust(top: &mut Table<'_, '_>, why_not: Option<&str>) -> Option<Trust> {
    const KEYS: [&str; 3] = ["keyring", "sha256", "insecure"];
    let given: Vec<_> = KEYS.into_iter().filter(|key| top.has(key)).collect();
    if given.is_empty() {
        let problem = "nothing says how this source is verified".to_string();
        let one = if why_not.is_some() { "" } else { "`sha256`, " };
        let expected = format!("one of `keyring`, {one}or `insecure = true`");
        top.complain_here(problem, &expected);
    }
    let is_alone = given.len() == 1;
    let mut trust = None;
    for key in KEYS {
        let read = top.optional(key, |value| {
            if !is_alone {
                return Err("only one of `keyring`, `sha256` and `insecure`".to_string());
            }
            match key {
                "keyring" => value.path().map(Trust::Keyring),
                "sha256" => match why_not {
                    Some(why) => Err(why.to_string()),
                    None => value.parsed("64 hex digits", |text| {
                        Some(Trust::Sha256(text.parse().ok()?))
                    }),
                },
                _ => is_true(value).map(|()| Trust::Insecure),
            }
        });
        trust = trust.or(read);
    }
    trust
}

/// The keys of a site.
fn site(top: &mut Table<'_, '_>) -> Option<Site> {
    for key in ["keyring", "sha256"] {
        let _ = top.optional(key, |_| -> Result<(), Expected> {
            let why = "no such key here: orders are signed, and the rules of this host's own daemon \
                (`[[importer]]`) say by whom";
            Err(why.to_string())
        });
    }
    let pattern = |text: &str| {
        text.parse::<TargetPattern>()
            .map_err(|_| TargetPattern::rule())
    };
    let has_targets = top.has("targets");
    let targets = top.list(
        "targets",
        Some("at least one pattern such as \"*/*/*/*\""),
        pattern,
    );
    let has_centre = top.has("centre");
    let centre = top.optional("centre", |value| {
        value.parsed(Name::RULE, |text| {
            Some(text.parse::<Name>().ok()?.to_string())
        })
    });
    let insecure = top.optional("insecure", is_true);
    // All keys are read by now: none of them is taken for unknown.
    let targets = match targets {
        None if !has_targets => vec!["*/*/*/*".parse().ok()?],
        targets => targets?,
    };
    if has_centre && centre.is_none() {
        return None;
    }
    Some(Site {
        targets,
        centre,
        is_insecure: insecure.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, String> {
        Source::parse("test", "test.toml", text).map_err(|error| error.to_string())
    }

    /// What is wrong with a text, without the lines that show where.
    fn problems(text: &str) -> Vec<String> {
        let said = parse(text).expect_err(text);
        let lines = said.lines().filter_map(|line| {
            let problem = line.strip_prefix("error: ");
            let expected = line.split_once("^ ").map(|(_, expected)| expected);
            problem.or(expected).map(str::to_string)
        });
        lines.collect()
    }

    #[test]
    fn the_examples_are_sources() {
        const EXAMPLES: [(&str, &str); 7] = [
            (
                "alpine",
                include_str!("../../config/examples/sources/alpine.toml"),
            ),
            (
                "centre",
                include_str!("../../config/examples/sources/centre.toml"),
            ),
            (
                "debian",
                include_str!("../../config/examples/sources/debian.toml"),
            ),
            (
                "fedora",
                include_str!("../../config/examples/sources/fedora.toml"),
            ),
            (
                "maas",
                include_str!("../../config/examples/sources/maas.toml"),
            ),
            (
                "opensuse",
                include_str!("../../config/examples/sources/opensuse.toml"),
            ),
            (
                "ubuntu",
                include_str!("../../config/examples/sources/ubuntu.toml"),
            ),
        ];
        for (name, text) in EXAMPLES {
            let file = format!("{name}.toml");
            // With the keys that are comments, too.
            let key = |line: &'static str| {
                let key = line.strip_prefix('#');
                key.filter(|key| !key.starts_with(' ')).unwrap_or(line)
            };
            let whole = text.lines().map(key).collect::<Vec<_>>().join("\n");
            for text in [text, &whole] {
                let source =
                    Source::parse(name, &file, text).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(source.name, name);
                assert_eq!(source.warning().is_some(), name == "fedora", "{name}");
            }
        }
    }

    #[test]
    fn a_source_that_nothing_verifies_says_so() {
        let of = |url: &str, kind: &str| {
            let text = format!("kind = \"{kind}\"\nurl = \"{url}\"\ninsecure = true\n");
            let text = if kind == "oci" {
                text
            } else {
                text + "target = \"a/b/c/d\"\n"
            };
            parse(&text).unwrap().warning().unwrap()
        };
        assert_eq!(
            of("http://x.example/y", "treeinfo"),
            "source test: `insecure = true`: whoever is that host, or between it and here, says what machines \
             boot: http://x.example/y"
        );
        assert_eq!(
            of("https://x.example/y", "treeinfo"),
            "source test: `insecure = true`: whoever is that host, or holds its certificate, says what machines \
             boot: https://x.example/y"
        );
        assert_eq!(
            of("https://x.example/y", "oci"),
            "source test: `insecure = true`: whoever writes to https://x.example/y may do everything here"
        );
    }

    #[test]
    fn a_site_follows_all_targets_where_it_names_none() {
        let text = "kind = \"oci\"\nurl = \"http://localhost:5000/netboot/stable\"\n";
        let source = parse(text).unwrap();
        let site = Site {
            targets: vec!["*/*/*/*".parse().unwrap()],
            centre: None,
            is_insecure: false,
        };
        assert_eq!(
            (source.kind, source.options),
            (Kind::Oci(site), Options::default())
        );
        let login = "username = \"u\"\npassword_file = \"/p\"\nca = \"/c\"\n";
        let options = parse(&format!("{text}{login}")).unwrap().options;
        assert_eq!(options.login, Some(("u".into(), "/p".into())));
        assert_eq!(options.ca, Some("/c".into()));
    }

    #[test]
    fn all_that_is_wrong_with_a_source_is_said_at_once() {
        let text = "\
kind = \"checksums\"
url = \"ftp://x.example/\"
keyring = \"/k\"
insecure = true
archive = \"x.zip\"
target = \"amd64/{subarch}/c\"
username = \"u\"
size = 3
[files]
\"../x\" = \"y\"
[boot]
kernel = \"linux\"
";
        let expected = "\
error: missing key `password_file`
 --> test.toml:1:1
  |
1 | kind = \"checksums\"
  | ^

error: invalid `url`
 --> test.toml:2:7
  |
2 | url = \"ftp://x.example/\"
  |       ^^^^^^^^^^^^^^^^^^ expected an URL such as \"https://mirror.example/debian/\", without a user, a query and a fragment (a user is `username` and `password_file`)

error: invalid `keyring`
 --> test.toml:3:11
  |
3 | keyring = \"/k\"
  |           ^^^^ expected only one of `keyring`, `sha256` and `insecure`

error: invalid `insecure`
 --> test.toml:4:12
  |
4 | insecure = true
  |            ^^^^ expected only one of `keyring`, `sha256` and `insecure`

error: invalid `archive`
 --> test.toml:5:11
  |
5 | archive = \"x.zip\"
  |           ^^^^^^^ expected upstream's path of a `.tar.gz`, with at most one `*`; with no other braces than `{arch}`

error: invalid `target`
 --> test.toml:6:10
  |
6 | target = \"amd64/{subarch}/c\"
  |          ^^^^^^^^^^^^^^^^^^^ expected arch/subarch/release/purpose, each 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit; with no other braces than `{arch}`, `{version}`

error: unknown key `size`
 --> test.toml:8:1
  |
8 | size = 3
  | ^^^^ expected one of `kind`, `url`, `ca`, `username`, `password_file`, `sign`, `serial`, `keyring`, `sha256`, `insecure`, `arch`, `sums`, `signature`, `signed`, `archive`, `strip`, `version`, `target`, `files`, `boot`

error: invalid `files.../x`
  --> test.toml:10:10
   |
10 | \"../x\" = \"y\"
   |          ^^^ expected as its key a path below `image`, without `.`, `..` and control characters; with no other braces than `{arch}`, `{version}`";
        assert_eq!(parse(text).unwrap_err(), expected);
    }

    #[test]
    fn a_source_says_of_which_kind_it_is_and_how_it_is_verified() {
        assert_eq!(
            problems("kind = \"ftp\"\nsuite = \"x\"\n")[0],
            "invalid `kind`"
        );
        assert_eq!(problems("kind = \"ftp\"\nsuite = \"x\"\n").len(), 2);
        let url = "url = \"http://x.example/\"\n";
        let debian = format!("kind = \"debian-installer\"\n{url}suite = \"s\"\narch = [\"a\"]\n");
        assert_eq!(
            problems(&debian),
            [
                "nothing says how this source is verified",
                "expected one of `keyring`, `sha256`, or `insecure = true`"
            ]
        );
        let said = problems(&format!("{debian}insecure = false\n"));
        assert_eq!(said, ["invalid `insecure`", "expected true"]);
        let streams = format!(
            "kind = \"simplestreams\"\n{url}sha256 = \"{}\"\n",
            "0".repeat(64)
        );
        assert_eq!(problems(&streams)[0], "invalid `sha256`");
        let site = format!("kind = \"oci\"\n{url}keyring = \"/k\"\nsign = \"/k\"\n");
        let said = problems(&site);
        assert_eq!(said[0], "invalid `keyring`");
        assert!(
            said[1].contains("the rules of this host's own daemon"),
            "{said:?}"
        );
        assert_eq!(said[2], "unknown key `sign`");
        // What follows the first mistake is known all the same.
        let site = format!("kind = \"oci\"\n{url}targets = [\"a/b\"]\ncentre = \"x\"\n");
        assert_eq!(problems(&site).len(), 2, "{:?}", problems(&site));
        let tree = format!("kind = \"treeinfo\"\n{url}insecure = true\n");
        assert_eq!(problems(&tree), ["missing key `target`"]);
        let named = format!(
            "{tree}target = \"a/b/c/d\"\n[files]\nlinux = \"k\"\n[boot]\nkernel = \"vmlinuz\"\n"
        );
        assert_eq!(
            problems(&named),
            [
                "`vmlinuz` is not in `[files]`",
                "expected a path of the image that is listed there"
            ]
        );
        let line = |text| format!("{tree}target = \"a/b/c/d\"\n[boot]\ncmdline = \"{text}\"\n");
        let said = problems(&line("a={url} b={versoin} c=${net0} d={arch} e={x"));
        assert_eq!(said[0], "unknown `{versoin}` in `boot`");
        assert!(
            said[1].contains("`{arch}`") && said[1].ends_with("`{url}`, `{path}`"),
            "{said:?}"
        );
        assert_eq!(said.len(), 2);
        let sums = format!("kind = \"checksums\"\n{url}insecure = true\ntarget = \"a/b/c/d\"\n");
        assert_eq!(problems(&sums)[0], "neither `archive` nor `[files]`");
        let signed = format!("{sums}archive = \"x.tar.gz\"\nsigned = \"archive\"\n");
        assert_eq!(
            problems(&signed),
            [
                "invalid `signed`",
                "expected \"archive\" only together with `keyring`"
            ]
        );
        let bad_name = Source::parse("a b", "a b.toml", &format!("{tree}target = \"a/b/c/d\"\n"));
        assert!(
            bad_name
                .unwrap_err()
                .to_string()
                .contains("the file's name names no source")
        );
    }
}
