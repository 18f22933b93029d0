//! The manifest of a drop: text to [`Manifest`]. Reads no disk.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use toml::de::DeValue;

use crate::text::{
    Complaint, Expected, InputError, LongDocument, Named, Table, ValueExt as _, quoted, read_boot,
    toml_key,
};
use crate::words::{Boot, Digest, GenerationHint, GenerationName, Moment, Name, Target};

/// The name of the manifest in a drop.
pub(super) const MANIFEST: &str = "manifest.toml";

/// Bytes of a manifest; a longer one is refused. There is room for 100,000 files of ordinary names.
pub(crate) const MAX_SIZE: u64 = 16 << 20;

/// Blanks, quotes, brackets and the like in a manifest: room for 100,000 files, each with some 25.
const MAX_SIGNS: usize = 5 << 19;

/// The same, beside the lines of `[files]`, which are read a few at a time.
const MAX_SIGNS_OF_HEAD: usize = 1 << 17;

/// The only format there is.
const FORMAT: u64 = 1;

/// What an importer wants, and says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub target: Target,
    pub(crate) action: Action,
    /// What has to be current, or nothing is done.
    pub(crate) replaces: Option<Replaces>,
    /// For people.
    pub version: Option<String>,
    /// Higher than any that was accepted for the target before.
    pub(crate) serial: Option<u64>,
    /// After this moment it is too late.
    pub(crate) expires: Option<Moment>,
    pub(crate) boot: Boot,
    /// Every regular file of the image by its path, when the importer lists them, and whatever links
    /// and folders the importer names.
    pub files: Option<BTreeMap<String, Listed>>,
}

/// What is to be done with the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// The drop's image becomes the current one.
    #[default]
    Publish,
    /// An older generation becomes the current one: this, or the one before.
    Rollback {
        to: Option<GenerationHint>,
        /// Of the image that is meant.
        digest: Option<Digest>,
    },
    /// The target is taken out of the tree; or only this generation, which isn't current, goes.
    Withdraw(Option<GenerationHint>),
    /// What is current at another target becomes the current one here.
    Promote {
        from: Target,
        /// Of the image that is meant.
        digest: Option<Digest>,
        /// The one that is meant of those of this image.
        generation: Option<GenerationName>,
    },
}

/// Compare-and-set: what a drop expects to be current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replaces {
    /// Nothing: the target has to be new.
    Nothing,
    /// A generation whose image digest begins with these hex digits, in lower case.
    Digest(String),
}

/// What an importer says of one path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    File {
        sha256: Digest,
        /// Bytes.
        size: Option<u64>,
    },
    /// A link, and what it holds.
    Link(String),
    Folder,
}

impl Manifest {
    /// TOML's whole numbers end there.
    pub(crate) const MAX_SERIAL: u64 = i64::MAX as u64;

    /// A manifest that says nothing but for which target it is, and what is to be done with that.
    pub(crate) fn new(target: Target, action: Action) -> Self {
        Self {
            target,
            action,
            replaces: None,
            version: None,
            serial: None,
            expires: None,
            boot: Boot::default(),
            files: None,
        }
    }

    /// # Errors
    /// Everything that is wrong with the text, at once, each with line, column and what was expected.
    pub fn parse(source: &str) -> Result<Self, InputError> {
        Self::parse_file(MANIFEST, source)
    }

    /// As [`Manifest::parse`], of the text of a file with this `name`.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub(super) fn parse_file(name: &'static str, source: &str) -> Result<Self, InputError> {
        check_signs((name, source), source, MAX_SIGNS)?;
        let document = LongDocument::new(source, "files");
        check_signs((name, source), &document.head, MAX_SIGNS_OF_HEAD)?;
        let (mut named, mut first, mut part) = (Vec::new(), Part::default(), Part::default());
        let head = |top: &mut Table<'_, '_>| head(top, &mut named, &mut first);
        let (manifest, mut complaints) = document.read(head, |table| {
            table.each_table(|path, table| part.take(path, table));
        });
        if let Some(files) = manifest.as_ref().and_then(|it| it.files.as_ref())
            && first.is_whole
            && part.is_whole
        {
            let is_listed = |path: &str| {
                let listed = part.listed.get(path).or_else(|| files.get(path));
                listed.is_some_and(|listed| *listed != Listed::Folder)
            };
            let missing = named.into_iter().filter(|named| !is_listed(&named.path));
            complaints.extend(missing.map(|named| Complaint {
                span: document.place(named.span),
                problem: format!("{} is not in `[files]`", quoted(&named.path)),
                expected: "expected a file that is listed there, or a link to one".to_string(),
            }));
        }
        match manifest {
            Some(mut manifest) if complaints.is_empty() => {
                if let Some(files) = &mut manifest.files {
                    files.append(&mut part.listed);
                }
                Ok(manifest)
            }
            _ => Err(InputError::new(name, source, complaints)),
        }
    }

    /// Whether it says of every byte what that is: an order by the digest of the image that it means.
    pub(crate) fn names_all_bytes(&self) -> bool {
        let is_meant = matches!(
            self.action,
            Action::Promote {
                digest: Some(_),
                ..
            }
        );
        is_meant || self.files.is_some()
    }

    /// A version, for people.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn parse_version(text: &str) -> Result<String, Expected> {
        let is_good = text.len() <= 128 && !text.contains(char::is_control);
        let rule = || VERSION_RULE.to_string();
        is_good.then(|| text.to_string()).ok_or_else(rule)
    }

    /// As TOML, with every file on a line of its own.
    pub fn to_toml(&self) -> String {
        let [arch, subarch, release] = self.target.folders().map(|name| Some(name.to_string()));
        let (mut to, mut from, mut digest, mut generation) = (None, None, None, None);
        let action = match &self.action {
            Action::Publish => None,
            Action::Rollback {
                to: hint,
                digest: of,
            } => {
                (to, digest) = (hint.as_ref(), of.as_ref());
                Some("rollback")
            }
            Action::Withdraw(hint) => {
                generation = hint.as_ref().map(ToString::to_string);
                Some("withdraw")
            }
            Action::Promote {
                from: other,
                digest: of,
                generation: name,
            } => {
                (from, digest) = (Some(other), of.as_ref());
                generation = name.as_ref().map(ToString::to_string);
                Some("promote")
            }
        };
        let keys = [
            ("arch", arch),
            ("subarch", subarch),
            ("release", release),
            ("purpose", Some(self.target.purpose().to_string())),
            ("action", action.map(str::to_string)),
            ("to", to.map(ToString::to_string)),
            ("from", from.map(ToString::to_string)),
            ("digest", digest.map(ToString::to_string)),
            ("generation", generation),
            ("replaces", self.replaces.as_ref().map(ToString::to_string)),
            ("version", self.version.clone()),
            ("expires", self.expires.map(Moment::to_seconds)),
        ];
        let given = |(key, value): (&str, Option<String>)| Some((key.to_string(), value?.into()));
        let mut head: toml::Table = keys.into_iter().filter_map(given).collect();
        if let Some(serial) = self.serial.and_then(|serial| i64::try_from(serial).ok()) {
            head.insert("serial".to_string(), serial.into());
        }
        if !self.boot.is_empty() {
            let mut boot = toml::Table::try_from(&self.boot).expect("it is plain data");
            boot.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
            head.insert("boot".to_string(), boot.into());
        }
        let mut toml = format!("format = {FORMAT}\n{head}");
        if let Some(files) = &self.files {
            toml.push_str("\n[files]\n");
            for (path, listed) in files {
                let _ = writeln!(toml, "{} = {{ {listed} }}", toml_key(path));
            }
        }
        toml
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { sha256, size } => {
                write!(f, "sha256 = \"{sha256}\"")?;
                size.map_or(Ok(()), |size| write!(f, ", size = {size}"))
            }
            Self::Link(to) => write!(f, "link = {}", toml_key(to)),
            Self::Folder => write!(f, "folder = true"),
        }
    }
}

impl Replaces {
    /// Whether an image with this digest may be replaced.
    pub(crate) fn is(&self, current: &Digest) -> bool {
        matches!(self, Self::Digest(digits) if current.to_string().starts_with(digits))
    }

    /// As [`Replaces::is`], for a generation of which nothing but the name is known.
    pub(crate) fn may_be(&self, current: &GenerationName) -> bool {
        matches!(self, Self::Digest(digits) if digits.starts_with(current.digits()))
    }
}

impl fmt::Display for Replaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => NOTHING,
            Self::Digest(digits) => digits,
        })
    }
}

impl FromStr for Replaces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_digest = (Digest::SHORT..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text {
            NOTHING => Ok(Self::Nothing),
            _ if is_digest => Ok(Self::Digest(text.to_ascii_lowercase())),
            _ => Err(format!("expected {REPLACES_RULE}")),
        }
    }
}

/// What reading costs grows with the signs between words, not with the length: megabytes of `[`
/// would take gigabytes of memory.
fn check_signs(
    (name, source): (&'static str, &str),
    text: &str,
    max: usize,
) -> Result<(), InputError> {
    let is_sign = |byte: u8| b" \t\r\n[]{}=,.#\"'".contains(&byte);
    let bytes = text.bytes().enumerate();
    let Some((at, _)) = bytes.filter(|(_, byte)| is_sign(*byte)).nth(max) else {
        return Ok(());
    };
    let beside = if text.len() < source.len() {
        " beside the lines of `[files]`"
    } else {
        ""
    };
    let complaint = Complaint {
        span: at..at + 1,
        problem: "too many signs".to_string(),
        expected: format!("expected at most {max} blanks, quotes and brackets{beside}"),
    };
    Err(InputError::new(name, source, vec![complaint]))
}

/// The lines of `[files]`, as far as they are read.
struct Part {
    listed: BTreeMap<String, Listed>,
    /// Whether no line was left out after a complaint.
    is_whole: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            listed: BTreeMap::new(),
            is_whole: true,
        }
    }
}

impl Part {
    /// Takes one line. Says `None`, for there is nothing to collect.
    fn take(&mut self, path: &str, table: &mut Table<'_, '_>) -> Option<()> {
        if self.listed.contains_key(path) {
            table.complain_here("duplicate key".to_string(), "each file once");
        }
        match listed(path, table) {
            Some((path, listed)) => drop(self.listed.insert(path, listed)),
            None => self.is_whole = false,
        }
        None
    }
}

/// All but the lines of a long `[files]`; `named` are the paths that `[boot]` names, and `first` the lines
/// of `[files]` that stand elsewhere. `None` after a complaint.
fn head(top: &mut Table<'_, '_>, named: &mut Vec<Named>, first: &mut Part) -> Option<Manifest> {
    top.required("format", |value| match value.number(u64::MAX) {
        Ok(FORMAT) => Ok(()),
        _ => Err(format!("{FORMAT}, the only format there is")),
    });
    let arch = top.required("arch", name);
    let subarch = top.optional("subarch", name);
    let subarch = subarch.or_else(|| "generic".parse().ok());
    let release = top.required("release", name);
    let purpose = top.required("purpose", name);
    let action = action(top);
    let replaces = top.optional("replaces", |value| parsed(value, REPLACES_RULE));
    let expires = top.optional("expires", |value| {
        parsed(value, "a time in UTC such as \"2026-12-31T00:00:00Z\"")
    });
    let serial = top.optional("serial", |value| value.number(Manifest::MAX_SERIAL));
    let (mut version, mut boot, mut files) = (None, None, None);
    // Where there is no image, what is said of one is an unknown key.
    if matches!(action, None | Some(Action::Publish)) {
        version = top.optional("version", self::version);
        boot = top.table("boot", |table| read_boot(table, named));
        files = top.table("files", |table| {
            table.each_table(|path, table| first.take(path, table));
            std::mem::take(&mut first.listed)
        });
    }
    let names = [arch?, subarch?, release?, purpose?];
    Some(Manifest {
        target: target(top, names, action.as_ref())?,
        action: action?,
        replaces,
        version,
        serial,
        expires,
        boot: boot.unwrap_or_default(),
        files,
    })
}

/// A text that is parsed by its own type, for which it has to follow the `rule`.
fn parsed<T: FromStr>(value: &DeValue<'_>, rule: &str) -> Result<T, Expected> {
    value.parsed(rule, |text| text.parse().ok())
}

fn name(value: &DeValue<'_>) -> Result<Name, Expected> {
    parsed(value, Name::RULE)
}

/// The target of these names. `None` after a complaint.
fn target(
    top: &mut Table<'_, '_>,
    [arch, subarch, release, purpose]: [Name; 4],
    action: Option<&Action>,
) -> Option<Target> {
    let target = Target::new(arch, subarch, release, purpose);
    let target = target.map_err(|error| {
        let rule = "a target where the daemon writes nothing itself";
        top.complain_here(error.to_string(), rule);
    });
    let target = target.ok()?;
    if let Some(Action::Promote { from, .. }) = action
        && *from == target
    {
        let problem = format!("`from` is {from}, which is the drop's own target");
        top.complain_here(problem, "another target");
    }
    Some(target)
}

/// `action`, and for a rollback `to` and `digest`, for a withdrawal `generation`, for a promotion `from`,
/// `digest` and `generation`. `None` after a complaint.
fn action(top: &mut Table<'_, '_>) -> Option<Action> {
    const WORDS: [&str; 4] = ["publish", "rollback", "withdraw", "promote"];
    const RULE: &str = "\"publish\", \"rollback\", \"withdraw\" or \"promote\"";
    // What stands where the key is missing; a complaint takes it away.
    let mut action = Some(WORDS[0]);
    top.optional("action", |value| {
        let given = value.parsed(RULE, |text| WORDS.into_iter().find(|word| *word == text));
        action = given.as_ref().ok().copied();
        given
    });
    let hint = |value: &DeValue<'_>| parsed(value, GenerationHint::RULE);
    let digest = |value: &DeValue<'_>| parsed(value, DIGEST_RULE);
    Some(match action? {
        "rollback" => Action::Rollback {
            to: top.optional("to", hint),
            digest: top.optional("digest", digest),
        },
        "withdraw" => Action::Withdraw(top.optional("generation", hint)),
        "promote" => {
            let from = top.required("from", |value| parsed(value, TARGET_RULE));
            let digest = top.optional("digest", digest);
            let name = |value: &DeValue<'_>| parsed(value, GENERATION_RULE);
            let generation = top.optional("generation", name);
            Action::Promote {
                from: from?,
                digest,
                generation,
            }
        }
        _ => Action::Publish,
    })
}

/// What the target that something is promoted from has to look like.
const TARGET_RULE: &str = "a target such as \"amd64/generic/noble/install\"";

/// What the generation that is promoted has to look like: the whole name, for this is no search.
const GENERATION_RULE: &str = "a generation such as \"20261122T161500Z-9f3c2ab1d4e5\"";

/// `replaces` for a target that has to be new.
const NOTHING: &str = "none";

/// What `replaces` has to look like.
const REPLACES_RULE: &str = "\"none\", or the first 12 to 64 hex digits of an image digest";

/// What a digest has to look like.
const DIGEST_RULE: &str = "64 hex digits";

/// What a version has to look like.
const VERSION_RULE: &str = "a text of at most 128 bytes without control characters";

fn version(value: &DeValue<'_>) -> Result<String, Expected> {
    value.parsed(VERSION_RULE, |text| Manifest::parse_version(text).ok())
}

/// What a link has to look like.
const LINK_RULE: &str = "a text of 1 to 4095 bytes without control characters";

fn is_link(text: &str) -> bool {
    (1..4096).contains(&text.len()) && !text.contains(char::is_control)
}

/// One path of `[files]`. `None` after a complaint.
fn listed(path: &str, table: &mut Table<'_, '_>) -> Option<(String, Listed)> {
    if !Boot::is_path(path) {
        table.complain_here("invalid path of a file".to_string(), Boot::PATH_RULE);
    }
    let path = path.to_string();
    if table.has("link") {
        let link = table.required("link", |value| {
            value.parsed(LINK_RULE, |text| is_link(text).then(|| text.to_string()))
        })?;
        return Some((path, Listed::Link(link)));
    }
    if table.has("folder") {
        table.required("folder", |value| match value.as_bool() {
            Some(true) => Ok(()),
            _ => Err("true".to_string()),
        })?;
        return Some((path, Listed::Folder));
    }
    let size = table.optional("size", |value| value.number(i64::MAX as u64));
    let sha256 = table.required("sha256", |value| parsed(value, DIGEST_RULE))?;
    Some((path, Listed::File { sha256, size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "format = 1\narch = \"amd64\"\nrelease = \"noble\"\npurpose = \"install\"\n";

    #[test]
    fn the_smallest_manifest_names_a_target_with_the_generic_subarch() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!(manifest.target.to_string(), "amd64/generic/noble/install");
        assert_eq!((manifest.version, manifest.files), (None, None));
        assert_eq!(
            (manifest.action, manifest.replaces),
            (Action::Publish, None)
        );
    }

    #[test]
    fn a_rollback_names_a_generation_or_none_and_says_nothing_of_an_image() {
        let parse = |more: &str| Manifest::parse(&format!("{GOOD}{more}"));
        let action = |more: &str| parse(more).map(|manifest| manifest.action);
        let generation = "20261122T161500Z-9f3c2ab1d4e5";
        let back = |to: Option<&str>, digest| {
            let to = to.map(|to| to.parse().unwrap());
            Ok(Action::Rollback { to, digest })
        };
        let named = format!("action = \"rollback\"\nto = \"{generation}\"\n");
        assert_eq!(action(&named), back(Some(generation), None));
        let digest = Digest::of(b"abc");
        assert_eq!(
            action(&format!("{named}digest = \"{digest}\"\n")),
            back(Some(generation), Some(digest))
        );
        assert_eq!(action("action = \"rollback\""), back(None, None));
        assert_eq!(
            action(&format!(
                "action = \"withdraw\"\ngeneration = \"{generation}\"\n"
            )),
            Ok(Action::Withdraw(Some(generation.parse().unwrap())))
        );
        assert_eq!(action("action = \"withdraw\""), Ok(Action::Withdraw(None)));
        assert_eq!(action("action = \"publish\""), Ok(Action::Publish));
        for (bad, problem) in [
            ("action = \"remove\"", "invalid `action`"),
            ("action = \"rollback\"\nto = \"../x\"", "invalid `to`"),
            ("action = \"rollback\"\nto = \"9f3c\"", "invalid `to`"),
            (
                "action = \"rollback\"\ndigest = \"9f3c2ab1d4e5\"",
                "invalid `digest`",
            ),
            ("digest = \"9f3c\"", "unknown key `digest`"),
            ("action = \"withdraw\"\nto = \"x\"", "unknown key `to`"),
            (
                "action = \"rollback\"\nversion = \"1\"",
                "unknown key `version`",
            ),
            ("action = \"rollback\"\n[files]", "unknown key `files`"),
            ("action = \"withdraw\"\n[boot]", "unknown key `boot`"),
            ("replaces = \"9f3c\"", "invalid `replaces`"),
            ("replaces = \"9f3c2ab1d4eg\"", "invalid `replaces`"),
        ] {
            let shown = parse(bad).unwrap_err().to_string();
            assert!(shown.contains(problem), "{bad}: {shown}");
        }
    }

    #[test]
    fn a_promotion_names_another_target_and_may_name_the_image_and_its_generation() {
        let parse = |more: &str| Manifest::parse(&format!("{GOOD}action = \"promote\"\n{more}"));
        let from = "amd64/generic/noble-candidate/install";
        let named = format!("from = \"{from}\"\n");
        let promote = |digest, generation: Option<&str>| {
            Ok(Action::Promote {
                from: from.parse().unwrap(),
                digest,
                generation: generation.map(|name| name.parse().unwrap()),
            })
        };
        let action = |more: &str| parse(more).map(|manifest| manifest.action);
        assert_eq!(action(&named), promote(None, None));
        let digest = Digest::of(b"abc");
        let meant = format!("{named}digest = \"{digest}\"\n");
        assert_eq!(action(&meant), promote(Some(digest), None));
        let generation = "20261122T161500Z-ba7816bf8f01";
        let of = format!("generation = \"{generation}\"\n");
        let one = format!("{meant}{of}");
        assert_eq!(action(&one), promote(Some(digest), Some(generation)));
        assert!(!parse(&named).unwrap().names_all_bytes());
        assert!(parse(&meant).unwrap().names_all_bytes());
        // The digits of a name are not all of a digest.
        assert!(!parse(&format!("{named}{of}")).unwrap().names_all_bytes());
        for (bad, problem) in [
            ("", "missing key `from`"),
            ("from = \"amd64/generic/noble\"", "invalid `from`"),
            ("from = \"amd64/generic/../install\"", "invalid `from`"),
            (
                "from = \"amd64/generic/noble/install\"",
                "`from` is amd64/generic/noble/install, which is the drop's own target",
            ),
            (&format!("{named}to = \"20261122\""), "unknown key `to`"),
            (&format!("{named}version = \"1\""), "unknown key `version`"),
            (&format!("{named}[files]"), "unknown key `files`"),
            (&format!("{named}digest = \"9f3c\""), "invalid `digest`"),
            (
                &format!("{named}generation = \"20261122\""),
                "invalid `generation`",
            ),
            (
                &format!("{named}generation = \"{digest}\""),
                "invalid `generation`",
            ),
        ] {
            let shown = parse(bad).unwrap_err().to_string();
            assert!(shown.contains(problem), "{bad}: {shown}");
        }
    }

    #[test]
    fn what_a_drop_replaces_is_told_by_the_first_digits_of_its_digest() {
        let digest = Digest::of(b"abc");
        let of = |text: &str| text.parse::<Replaces>().unwrap();
        assert!(of("ba7816bf8f01").is(&digest));
        assert!(of("BA7816BF8F01CF").is(&digest));
        assert!(of(&digest.to_string()).is(&digest));
        assert!(!of("ba7816bf8f02").is(&digest));
        assert!(!of("none").is(&digest));
    }

    #[test]
    fn every_error_is_reported_at_once_with_line_and_caret() {
        let bad = "\
format = 2
arch = \"amd 64\"
relaese = \"noble\"
purpose = 5

[files]
\"../linux\" = { sha256 = \"abc\" }
\"initrd.gz\" = { sha = \"\", size = -1 }
linux = 3
";
        let expected = "\
error: missing key `release`
 --> manifest.toml:1:1
  |
1 | format = 2
  | ^

error: invalid `format`
 --> manifest.toml:1:10
  |
1 | format = 2
  |          ^ expected 1, the only format there is

error: invalid `arch`
 --> manifest.toml:2:8
  |
2 | arch = \"amd 64\"
  |        ^^^^^^^^ expected 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit

error: unknown key `relaese`
 --> manifest.toml:3:1
  |
3 | relaese = \"noble\"
  | ^^^^^^^ expected one of `format`, `arch`, `subarch`, `release`, `purpose`, `action`, `replaces`, \
`expires`, `serial`, `version`, `boot`, `files`

error: invalid `purpose`
 --> manifest.toml:4:11
  |
4 | purpose = 5
  |           ^ expected 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or a digit

error: invalid path of a file
 --> manifest.toml:7:1
  |
7 | \"../linux\" = { sha256 = \"abc\" }
  | ^^^^^^^^^^ expected a path below `image`, without `.`, `..` and control characters

error: invalid `files.../linux.sha256`
 --> manifest.toml:7:25
  |
7 | \"../linux\" = { sha256 = \"abc\" }
  |                         ^^^^^ expected 64 hex digits

error: missing key `files.initrd.gz.sha256`
 --> manifest.toml:8:1
  |
8 | \"initrd.gz\" = { sha = \"\", size = -1 }
  | ^^^^^^^^^^^

error: unknown key `files.initrd.gz.sha`
 --> manifest.toml:8:17
  |
8 | \"initrd.gz\" = { sha = \"\", size = -1 }
  |                 ^^^ expected one of `size`, `sha256`

error: invalid `files.initrd.gz.size`
 --> manifest.toml:8:34
  |
8 | \"initrd.gz\" = { sha = \"\", size = -1 }
  |                                  ^^ expected a whole number, at most 9223372036854775807

error: invalid `files.linux`
 --> manifest.toml:9:9
  |
9 | linux = 3
  |         ^ expected a table";
        assert_eq!(Manifest::parse(bad).unwrap_err().to_string(), expected);
    }

    #[test]
    fn how_an_image_boots_is_read_key_by_key() {
        let parse = |more: &str| Manifest::parse(&format!("{GOOD}{more}"));
        let text = |text: &str| Some(text.to_string());
        let boot = Boot {
            kernel: text("boot/linux"),
            initrd: vec!["ucode.img".to_string(), "boot/initrd.gz".to_string()],
            cmdline: text("ip=dhcp url={url}/x.squashfs"),
            title: text("Ubuntu 24.04 'noble'"),
            efi: None,
        };
        let given = "\
[boot]
kernel = \"boot/linux\"
initrd = [\"ucode.img\", \"boot/initrd.gz\"]
cmdline = \"ip=dhcp url={url}/x.squashfs\"
title = \"Ubuntu 24.04 'noble'\"
";
        assert_eq!(parse(given).unwrap().boot, boot);
        let efi = Boot {
            efi: text("x.efi"),
            ..Boot::default()
        };
        assert_eq!(parse("boot.efi = \"x.efi\"").unwrap().boot, efi);
        assert_eq!(parse("[boot]").unwrap().boot, Boot::default());
        // What is listed is named, be it a file or a link.
        let sha256 = Digest::of(b"");
        let file = format!("\"linux\" = {{ sha256 = \"{sha256}\" }}\n");
        for kernel in ["linux", "vmlinuz"] {
            let link = "\"vmlinuz\" = { link = \"linux\" }";
            let text = format!("[boot]\nkernel = {kernel:?}\n[files]\n{file}{link}");
            assert!(parse(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_how_an_image_boots_is_said_where_it_is() {
        let sha256 = Digest::of(b"");
        let bad = format!(
            "{GOOD}[files]
\"linux\" = {{ sha256 = \"{sha256}\" }}
\"d\" = {{ folder = true }}

[boot]
kernel = \"linus\"
initrd = [\"linux\", \"d\", \"../x\"]
cmdline = \"a\\nb\"
title = \"-x\"
efi = \"linux\"
kernle = 1
"
        );
        let expected = "\
error: `linus` is not in `[files]`
  --> manifest.toml:10:10
   |
10 | kernel = \"linus\"
   |          ^^^^^^^ expected a file that is listed there, or a link to one

error: invalid `boot.initrd`
  --> manifest.toml:11:10
   |
11 | initrd = [\"linux\", \"d\", \"../x\"]
   |          ^^^^^^^^^^^^^^^^^^^^^^ expected a list of at most 32, each a path below `image`, \
without `.`, `..` and control characters

error: invalid `boot.cmdline`
  --> manifest.toml:12:11
   |
12 | cmdline = \"a\\nb\"
   |           ^^^^^^ expected one line of 1 to 2048 bytes, without control characters

error: invalid `boot.title`
  --> manifest.toml:13:9
   |
13 | title = \"-x\"
   |         ^^^^ expected a text of 1 to 128 bytes without control characters, which begins with no \
`-` and neither begins nor ends with a blank

error: invalid `boot.efi`
  --> manifest.toml:14:7
   |
14 | efi = \"linux\"
   |       ^^^^^^^ expected either `efi`, or `kernel` and `initrd`

error: unknown key `boot.kernle`
  --> manifest.toml:15:1
   |
15 | kernle = 1
   | ^^^^^^ expected one of `kernel`, `efi`, `initrd`, `cmdline`, `title`";
        assert_eq!(Manifest::parse(&bad).unwrap_err().to_string(), expected);
        // A folder is no file; and of half a list nobody knows what is not in it.
        let folder = bad.replace(", \"../x\"", "");
        let shown = Manifest::parse(&folder).unwrap_err().to_string();
        assert!(
            shown.contains("error: `d` is not in `[files]`\n  --> manifest.toml:11:20"),
            "{shown}"
        );
        let half = bad
            .replace("\"linux\" = {", "\"linux\" = { x = 1, ")
            .replace("sha256 =", "sha =");
        let shown = Manifest::parse(&half).unwrap_err().to_string();
        assert!(!shown.contains("is not in `[files]`"), "{shown}");
    }

    #[test]
    fn a_syntax_error_does_not_make_the_other_keys_missing() {
        let error =
            Manifest::parse("format = 1\narch = \"amd64\nrelease = \"noble\"\npurpose = ]\n");
        let shown = error.unwrap_err().to_string();
        assert!(shown.contains("manifest.toml:2:"), "{shown}");
        assert!(shown.contains("manifest.toml:4:"), "{shown}");
        assert!(!shown.contains("missing key"), "{shown}");
    }

    #[test]
    fn a_version_is_shown_to_people_so_it_holds_no_control_characters() {
        assert!(Manifest::parse(&format!("{GOOD}version = \"\\u001b[2J\"")).is_err());
        assert!(Manifest::parse(&format!("{GOOD}version = \"{}\"", "v".repeat(129))).is_err());
        assert!(Manifest::parse(&format!("{GOOD}version = \"2026-11-22 (ü)\"")).is_ok());
    }

    #[test]
    fn a_hundred_thousand_files_fit() {
        let files = (0..100_000).map(|number| {
            let path = format!("debian-installer/amd64/boot-screens/file-{number}.cfg.gz");
            let claim = Listed::File {
                sha256: Digest::of(b""),
                size: Some(1 << 30),
            };
            (path, claim)
        });
        let mut manifest = Manifest::parse(GOOD).unwrap();
        manifest.files = Some(files.collect());
        let toml = manifest.to_toml();
        assert!(toml.len() as u64 <= MAX_SIZE, "{} bytes", toml.len());
        assert_eq!(Manifest::parse(&toml), Ok(manifest));
    }

    #[test]
    fn of_a_long_list_each_file_is_read_once_and_each_error_said_where_it_is() {
        let sha256 = Digest::of(b"");
        let line = |number| format!("\"f/{number}\" = {{ sha256 = \"{sha256}\" }} # {number}\r\n");
        let head = GOOD.replace('\n', "\r\n") + " [files] # all of them\r\n";
        let lines: String = (0..5_000).map(line).collect();
        let more = format!("  [ files.\"g\" ]\r\nsha256 = \"{sha256}\"\r\n");
        let files = Manifest::parse(&format!("{head}{lines}{more}"))
            .unwrap()
            .files
            .unwrap();
        assert_eq!(files.len(), 5_001);
        assert!(
            ["f/0", "f/4999", "g"]
                .iter()
                .all(|path| files.contains_key(*path))
        );

        let bad = [
            (
                5,
                "arhc = \"amd64\"\n".to_string(),
                "invalid `files.arhc`",
                "expected a table",
            ),
            (
                3_000,
                "x = { sha = \"\" }\n".to_string(),
                "missing key `files.x.sha256`",
                "x = {",
            ),
            (4_000, line(7), "duplicate key", "\"f/7\" = {"),
            (4_900, "\"y = 3\n".to_string(), "", "\"y = 3"),
        ];
        for (at, bad, problem, excerpt) in bad {
            let before: String = (0..at).map(line).collect();
            let after: String = (at..5_000).map(line).collect();
            let text = format!("{head}{before}{bad}{after}{more}");
            let shown = Manifest::parse(&text).unwrap_err().to_string();
            assert!(
                shown.contains(problem) && shown.contains(excerpt),
                "{shown}"
            );
            let place = format!("manifest.toml:{}:", 5 + 1 + at);
            assert!(shown.contains(&place), "{place} in {shown}");
        }
        // What stands after the list has its place as well.
        let text = format!("{head}{lines}[x]\r\ny = 1\r\n");
        let shown = Manifest::parse(&text).unwrap_err().to_string();
        assert!(shown.contains("unknown key `x`"), "{shown}");
        assert!(shown.contains("manifest.toml:5006:2"), "{shown}");
    }

    #[test]
    fn what_would_take_gigabytes_to_read_is_refused_unread() {
        let bad = format!("{GOOD}x = {}", "[".repeat(16 << 20));
        let shown = Manifest::parse(&bad).unwrap_err().to_string();
        assert!(
            shown.starts_with("error: too many signs\n --> manifest.toml:5:"),
            "{shown}"
        );
        assert!(shown.len() < 4_000, "{} bytes", shown.len());
    }

    #[test]
    fn a_target_where_the_daemon_writes_is_refused() {
        let reserved = GOOD.replace("amd64", "catalog.json");
        let shown = Manifest::parse(&reserved).unwrap_err().to_string();
        assert!(shown.contains("would collide"), "{shown}");
    }

    fn manifests() -> impl proptest::strategy::Strategy<Value = Manifest> {
        use proptest::prelude::*;
        let name = "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}";
        let file = (any::<[u8; 8]>(), any::<Option<u32>>());
        let file = file.prop_map(|(seed, size)| Listed::File {
            sha256: Digest::of(&seed),
            size: size.map(u64::from),
        });
        let link = "[^\\p{Cc}]{1,30}".prop_map(Listed::Link);
        let claim = prop_oneof![file, link, Just(Listed::Folder)];
        let path = "[^/\\p{C}.]{1,8}(/[^/\\p{C}.]{1,8}){0,3}";
        let files = proptest::option::of(proptest::collection::btree_map(path, claim, 0..5));
        let version = proptest::option::of("[^\\p{Cc}]{0,30}");
        let text = || proptest::option::of("[^\\p{C}\\s-]{1,30}");
        let initrd = proptest::collection::vec(path, 0..3);
        let boot = (proptest::option::of(path), initrd, text(), text());
        let boot = boot.prop_map(|(kernel, initrd, cmdline, title)| {
            let efi = kernel.clone().filter(|_| initrd.is_empty());
            let kernel = kernel.filter(|_| efi.is_none());
            Boot {
                kernel,
                initrd,
                cmdline,
                title,
                efi,
            }
        });
        let generation = || proptest::option::of("[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}");
        let digest = || proptest::option::of(any::<[u8; 8]>());
        let action = prop_oneof![
            Just(Action::Publish),
            Just(Action::Withdraw(None)),
            (generation(), digest()).prop_map(|(to, digest)| Action::Rollback {
                to: to.map(|to| to.parse().unwrap()),
                digest: digest.map(|seed| Digest::of(&seed)),
            }),
            (generation(), digest()).prop_map(|(generation, digest)| Action::Promote {
                from: "another/target/it/is".parse().unwrap(),
                digest: digest.map(|seed| Digest::of(&seed)),
                generation: generation.map(|name| name.parse().unwrap()),
            }),
        ];
        let replaces = proptest::option::of("none|[0-9a-f]{12,64}");
        let serial = proptest::option::of(0..=Manifest::MAX_SERIAL);
        let expires = proptest::option::of(0_i64..4_000_000_000);
        let image = (version, files, boot);
        ([name; 4], image, action, replaces, serial, expires).prop_map(
            |(names, (version, files, boot), action, replaces, serial, expires)| {
                let [arch, subarch, release, purpose] = names.map(|name| name.parse().unwrap());
                let is_image = action == Action::Publish;
                Manifest {
                    target: Target::new(arch, subarch, release, purpose).unwrap(),
                    action,
                    replaces: replaces.map(|text| text.parse().unwrap()),
                    version: version.filter(|_| is_image),
                    serial,
                    expires: expires.map(|seconds| Moment::from_stat(seconds, 0)),
                    // What it names would have to be among these.
                    boot: if is_image && files.is_none() {
                        boot
                    } else {
                        Boot::default()
                    },
                    files: files.filter(|_| is_image),
                }
            },
        )
    }

    proptest::proptest! {
        #[test]
        fn a_manifest_that_is_written_is_read_back_the_same(manifest in manifests()) {
            let toml = manifest.to_toml();
            proptest::prop_assert_eq!(Manifest::parse(&toml).map_err(|e| e.to_string()), Ok(manifest), "{}", toml);
        }

        #[test]
        fn no_text_makes_the_reading_panic(text in "[\\PC\n\t]{0,200}") {
            let _ = Manifest::parse(&text);
            let _ = Manifest::parse(&format!("{GOOD}{text}"));
        }
    }
}
