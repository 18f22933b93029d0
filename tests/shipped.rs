//! What is installed beside the program is what the program is: manual pages, completions, units.
//!
//! Manual pages and completions are generated and kept below `systemd/`, so that `cargo deb` needs
//! nothing else: the pages of the commands from these, that of the configuration from its comments,
//! those of manifest, outcome, templates and booting from the README. Those of netboot-import stand below
//! `systemd/import/`, and are made where its feature is on. After a change of one of them:
//!
//! ```sh
//! NETBOOT_REGENERATE=1 cargo test --features import --test shipped
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(feature = "import")]
#[path = "shipped/import.rs"]
mod import;

use clap_complete::{Shell, generate_to};
use netboot_publisher::{Manifest, MessageId};
use serde_json::Value;
use strum::VariantNames as _;

const NAME: &str = "netboot-publisher";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REGENERATE: &str = "NETBOOT_REGENERATE";

/// What the program can't say of itself.
const EXIT_STATUS: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
done: \fBsubmit \-\-wait\fR saw published or unchanged
.TP
\fB1\fR
an error, in one message on standard error; \fBverify\fR found damage or, with
\fB\-\-signatures\fR, what is not proven
.TP
\fB2\fR
wrong usage; \fBmay\fR knows neither yes nor no, as of a user that isn't there
.TP
\fB3\fR
\fBsubmit \-\-wait\fR: rejected
.TP
\fB4\fR
\fBsubmit \-\-wait\fR: no outcome in time
.TP
\fB78\fR
a bad or unreadable configuration
.TP
\fB130\fR
\fBsubmit\fR was interrupted; what it had begun is removed
.SH SIGNALS
.TP
\fBSIGHUP\fR
\fBrun\fR reads its configuration again; a bad one is refused, and the old one stays.
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
\fBrun\fR ends within seconds. A drop in the middle waits for the next start.
"#;

const FILES: &str = r#".SH FILES
.TP
\fI/etc/netboot\-publisher/config.toml\fR
the configuration, see \fBnetboot\-publisher.toml\fR(5)
.TP
\fI/var/spool/netboot\-publisher\fR
the spool: \fIincoming\fR for importers, \fIprocessing\fR, \fIrejected\fR and \fIoutcomes\fR
.TP
\fI/srv/tftp/netboot\fR
the tree
.SH "SEE ALSO"
\fBnetboot\-publisher.toml\fR(5), \fBnetboot\-publisher\-manifest\fR(5),
\fBnetboot\-publisher\-outcome\fR(5), \fBnetboot\-publisher\-templates\fR(5),
\fBnetboot\-publisher\-booting\fR(7), \fBjournalctl\fR(1), \fBin.tftpd\fR(8), \fBdnsmasq\fR(8)
.br
\fI/usr/share/doc/netboot\-publisher/README.md.gz\fR
"#;

/// What the generated completions of bash don't know: names in the tree and in the spool. (What
/// `clap_complete` has for that is unstable.)
const NAMES_IN_BASH: &str = r#"
# Targets, generations and drops, as the commands show them.
_netboot_publisher_names() {
    local word verb="" target="" names=""
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            rollback|promote|withdraw|history|status|show|diff|verify) verb="${verb:-$word}" ;;
            /*) ;;
            */*/*/*) target="$word" ;;
        esac
    done
    case "$verb,$3,$target" in
        show,*)
            names=$(netboot-publisher status 2>/dev/null |
                awk '/^(WAITING|REJECTED) /{on = 1; next} !NF{on = 0} on{print $1}') ;;
        rollback,--to,?*|withdraw,--generation,?*|diff,*,?*)
            names=$(netboot-publisher history "$target" 2>/dev/null |
                awk '!NF{exit} NR > 1{sub(/^\*/, ""); print $1}') ;;
        *,--*) ;;
        ?*,*,|promote,*)
            names=$(netboot-publisher status 2>/dev/null | awk '!NF{exit} NR > 1{print $1}') ;;
    esac
    if [[ -n "$names" && "$2" != -* ]]; then
        COMPREPLY=( $(compgen -W "$names" -- "$2") )
        return 0
    fi
    _netboot__publisher "$@"
}

complete -F _netboot_publisher_names -o bashdefault -o default netboot-publisher
"#;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Asserts that a folder holds these files and no other; or makes it so, when asked to.
fn assert_kept(folder: &str, expected: &BTreeMap<String, String>) {
    let path = Path::new(ROOT).join(folder);
    if std::env::var_os(REGENERATE).is_some() {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        for (name, text) in expected {
            fs::write(path.join(name), text).unwrap();
        }
    }
    let hint = format!(
        "to bring {folder} up to date: {REGENERATE}=1 cargo test --features import --test shipped"
    );
    let there: BTreeSet<_> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{path:?}: {error}; {hint}"))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, expected.keys().cloned().collect(), "{hint}");
    for (name, text) in expected {
        assert!(read(path.join(name)) == *text, "{name} is old; {hint}");
    }
}

/// Every page in section 1: the program's, which ends so, and one for each command.
fn command_pages(program: clap::Command, end: &str) -> BTreeMap<String, String> {
    let made = tempfile::tempdir().unwrap();
    let called = program.get_name().to_string();
    clap_mangen::generate_to(program, made.path()).unwrap();
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(made.path()).unwrap() {
        let file = entry.unwrap();
        let name = file.file_name().into_string().unwrap();
        let more = if name == format!("{called}.1") {
            end.to_string()
        } else {
            format!(".SH \"SEE ALSO\"\n\\fB{}\\fR(1)\n", escape(&called))
        };
        pages.insert(name, fs::read_to_string(file.path()).unwrap() + &more);
    }
    pages
}

/// How a page begins in this section of the manual.
fn beginning(name: &str, section: u8, about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let shown = escape(name);
    format!(
        ".TH {name} {section} \"\" \"{NAME} {version}\"\n.nh\n.ad l\n.SH NAME\n{shown} \\- {about}\n"
    )
}

/// Of which file a page in section 5 is.
fn synopsis(path: &str) -> String {
    format!(".SH SYNOPSIS\n\\fI{}\\fR\n", escape(path))
}

/// How a page ends that isn't of a command: with those of its kind but itself.
fn end(page: &str) -> String {
    let others = OF_README.iter().map(|it| (it.0, 5));
    let others = [(CONFIGURATION, 5)]
        .into_iter()
        .chain(others)
        .chain([(BOOTING, 7)]);
    let others = others.filter(|(name, _)| *name != page);
    let others = others.map(|(name, section)| format!(", \\fB{}\\fR({section})", escape(name)));
    let others: String = others.collect();
    format!(".SH \"SEE ALSO\"\n\\fB{}\\fR(1){others}\n", escape(NAME))
}

const CONFIGURATION: &str = "netboot-publisher.toml";

/// The page that is all of the README's chapter.
const BOOTING: &str = "netboot-publisher-booting";
const BOOTING_CHAPTER: &str = "Booting machines";

/// The pages in section 5 that say the same as the README: what each is called, what it is about,
/// which file, and of which sections it is made.
const OF_README: [(&str, &str, &str, &[&str]); 3] = [
    (
        "netboot-publisher-manifest",
        "what a drop brings, and for which target",
        "/var/spool/netboot-publisher/incoming/DROP/manifest.toml",
        &["The spool", "The manifest", "The image"],
    ),
    (
        "netboot-publisher-outcome",
        "what became of a drop",
        "/var/spool/netboot-publisher/outcomes/UID/DROP.json",
        &["The outcome"],
    ),
    (
        "netboot-publisher-templates",
        "what templates of boot configurations see",
        "/etc/netboot-publisher/*.j2",
        &["Boot configurations"],
    ),
];

fn readme_pages() -> BTreeMap<String, String> {
    let pages = OF_README.map(|(name, about, path, sections)| {
        let text: String = sections.iter().map(|title| section(title)).collect();
        let begin = beginning(name, 5, about) + &synopsis(path);
        (format!("{name}.5"), begin + &text + &end(name))
    });
    pages.into()
}

/// The page of the chapter about machines.
fn booting_page() -> String {
    let about = "how machines boot what is published";
    beginning(BOOTING, 7, about) + &chapter(BOOTING_CHAPTER, "DESCRIPTION") + &end(BOOTING)
}

/// A chapter of the README, for roff: what stands before its sections, under this heading, and each of
/// them.
fn chapter(title: &str, heading: &str) -> String {
    let readme = read("README.md");
    let begin = format!("\n## {title}\n");
    let (_, chapter) = readme.split_once(&begin).expect("a chapter");
    let chapter = chapter.split("\n## ").next().unwrap();
    let mut sections = chapter.split("\n### ");
    let mut page = format!(".SH {heading}\n");
    page += &to_roff(sections.next().unwrap());
    for text in sections {
        page += &section(text.lines().next().unwrap());
    }
    page
}

/// A section of the README, for roff.
fn section(title: &str) -> String {
    let readme = read("README.md");
    let heading = format!("\n### {title}\n");
    let (_, text) = readme.split_once(&heading).expect(title);
    // One `#` may begin a comment in code.
    let text = text.split("\n##").next().unwrap();
    format!(".SH \"{}\"\n", escape(&title.to_uppercase())) + &to_roff(text)
}

/// Text of the README without its headings, for roff.
fn to_roff(text: &str) -> String {
    let (mut page, mut is_code, mut head) = (String::new(), false, Vec::new());
    for line in text.lines() {
        if line.starts_with("```") {
            page += if is_code {
                ".fi\n.RE\n"
            } else {
                ".PP\n.RS 4\n.nf\n"
            };
            is_code = !is_code;
        } else if is_code {
            let _ = writeln!(page, "{}", escape(line));
        } else if let Some(item) = line.strip_prefix("- ") {
            let _ = writeln!(page, ".IP \\(bu 2\n{}", inline(item));
        } else if line.starts_with("| ") && head.is_empty() {
            head = cells(line);
        } else if line.starts_with("| ") {
            page += &row(&head, &cells(line));
        } else if line.is_empty() {
            head.clear();
        } else if !line.starts_with('|') {
            let _ = writeln!(page, ".PP\n{}", inline(line));
        }
    }
    page
}

/// The cells of a table's row. A `|` in code is none of the table's.
fn cells(row: &str) -> Vec<String> {
    let (mut cells, mut is_code) = (vec![String::new()], false);
    let row = row.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    for c in row.expect("a row").chars() {
        is_code ^= c == '`';
        if c == '|' && !is_code {
            cells.push(String::new());
        } else {
            cells.last_mut().expect("there is one").push(c);
        }
    }
    cells.iter().map(|cell| cell.trim().to_string()).collect()
}

/// A row of a table: a term, and what is said of it; of more than one thing, by the words at the head.
fn row(head: &[String], cells: &[String]) -> String {
    assert_eq!(head.len(), cells.len(), "{cells:?}");
    let (term, about) = cells.split_first().expect("a first cell");
    let bold = if term.contains('`') { "" } else { "**" };
    let about = about
        .iter()
        .zip(&head[1..])
        .filter(|(text, _)| !text.is_empty());
    let about = about.map(|(text, head)| match cells.len() {
        2 => inline(text),
        _ => format!("{}: {}", escape(head), inline(text)),
    });
    let about: Vec<_> = about.collect();
    format!(
        ".TP\n{}\n{}\n",
        inline(&format!("{bold}{term}{bold}")),
        about.join("\n.br\n")
    )
}

/// A line of the README's text, for roff: code and what is `**so**` is bold, and a link is its text.
fn inline(text: &str) -> String {
    let mut text = text.to_string();
    while let Some(middle) = text.find("](") {
        let begin = text[..middle].rfind('[').expect("the begin of a link");
        let end = middle + text[middle..].find(')').expect("the end of a link");
        text = [&text[..begin], &text[begin + 1..middle], &text[end + 1..]].concat();
    }
    let plain = |text: &str| {
        let parts = text
            .split("**")
            .enumerate()
            .map(|(number, part)| match number % 2 {
                1 => format!("\\fB{}\\fR", escape(part)),
                _ => escape(part),
            });
        parts.collect::<String>()
    };
    let parts = text.split('`').enumerate().map(|(number, part)| {
        if number % 2 == 1 {
            format!("\\fB{}\\fR", escape(part))
        } else {
            plain(part)
        }
    });
    parts.collect()
}

/// The page of the configuration: what the comments of the shipped one say.
fn configuration_page() -> String {
    let about = format!("configuration of {}", escape(NAME));
    let mut page = beginning(CONFIGURATION, 5, &about);
    page += &synopsis("/etc/netboot-publisher/config.toml");
    page += ".SH DESCRIPTION\n";
    let source = read("config/netboot-publisher.toml");
    for block in source.split("\n\n") {
        let (mut prose, mut keys, mut example) = (String::new(), Vec::new(), String::new());
        for line in block.lines() {
            // The header of a table that the README's example brings is commented.
            if let Some(table) = line.trim_start_matches('#').strip_prefix('[') {
                let _ = writeln!(page, ".SH \"[{}\"", escape(table));
            } else if let Some(code) = line.strip_prefix("#   ") {
                let _ = writeln!(example, "{}", escape(code));
            } else if let Some(item) = line.strip_prefix("# - ") {
                let _ = writeln!(prose, ".IP \\(bu 2\n{}", escape(item));
            } else if let Some(text) = line.strip_prefix("# ") {
                let _ = writeln!(prose, "{}", escape(text));
            } else if line == "#" {
                prose += ".PP\n";
            } else if let Some(key) = line.strip_prefix('#') {
                keys.push(escape(key));
            }
        }
        if !example.is_empty() {
            let table = example.lines().next().expect("an example has a first line");
            let _ = writeln!(page, ".SH \"{table}\"");
            let prose = prose.trim_end_matches(".PP\n");
            let _ = write!(page, "{prose}.PP\n.RS 4\n.nf\n{example}.fi\n.RE\n");
            continue;
        }
        for (number, key) in keys.iter().enumerate() {
            page += if number == 0 { ".TP\n" } else { ".TQ\n" };
            let _ = writeln!(page, "\\fB{key}\\fR");
        }
        page += &prose;
    }
    page + &end(CONFIGURATION)
}

/// Text for roff: nothing of it is a request, and a `-` is one that can be copied.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

#[test]
fn the_manual_pages_say_what_the_program_takes() {
    let end = format!("{EXIT_STATUS}{FILES}");
    let mut pages = command_pages(netboot_publisher::interface(), &end);
    pages.insert(format!("{CONFIGURATION}.5"), configuration_page());
    pages.insert(format!("{BOOTING}.7"), booting_page());
    pages.extend(readme_pages());
    assert_kept("systemd/man", &pages);
}

#[test]
fn the_completions_know_what_the_program_takes() {
    let files = completions(&netboot_publisher::interface(), NAMES_IN_BASH);
    assert_kept("systemd/completions", &files);
}

/// The completions of a program; `names` is what those of bash have beside.
fn completions(program: &clap::Command, names: &str) -> BTreeMap<String, String> {
    let made = tempfile::tempdir().unwrap();
    let mut files = BTreeMap::new();
    let called = program.get_name();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut program = program.clone();
        let path: PathBuf = generate_to(shell, &mut program, called, made.path()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        if shell == Shell::Bash {
            // Of a program with a dash in its name `clap_complete` 4.6 writes the commands in two ways.
            let one = called.replace('-', "__subcmd__") + "__";
            text = text.replace(&one, &(called.replace('-', "__") + "__"));
            text += names;
        }
        files.insert(name.to_string(), text);
    }
    assert_eq!(files.len(), 3);
    files
}

#[test]
fn the_page_of_the_configuration_names_every_key() {
    let page = configuration_page();
    let source = read("config/netboot-publisher.toml");
    // Also those of the examples.
    let keys: BTreeSet<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
        .map(|(key, _)| key.trim())
        .filter(|key| !key.contains(' '))
        .collect();
    assert!(keys.len() >= 25, "{keys:?}");
    for key in keys {
        assert!(
            page.contains(&format!("{key} = ")),
            "{key} is not in the page"
        );
    }
}

#[test]
fn the_page_of_booting_has_all_commands_and_settings_of_the_chapter() {
    let readme = read("README.md");
    let (_, chapter) = readme.split_once("\n## Booting machines\n").unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let code = chapter.split("\n```").skip(1).step_by(2);
    let lines: Vec<_> = code.flat_map(|block| block.lines().skip(1)).collect();
    assert!(lines.len() > 20, "{lines:?}");
    let page = booting_page();
    for line in lines {
        let line = escape(line);
        assert!(page.lines().any(|it| it == line), "no {line} in the page");
    }
}

/// What stands between this and a quotation mark, in the code.
fn quoted_after<'c>(code: &'c str, begin: &str) -> Vec<&'c str> {
    let found = code.split(begin).skip(1);
    found.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn the_pages_of_manifest_outcome_and_templates_name_every_key() {
    let pages = readme_pages();
    let assert_names = |page: &str, keys: &BTreeSet<String>, count: usize| {
        assert!(keys.len() >= count, "{keys:?}");
        for key in keys {
            // As code, not as a word of the text.
            let forms = [
                "\\fB{}\\fR",
                "\\fB{} = ",
                "\n{} = ",
                " {} = ",
                "\n[{}]",
                "\"{}\": ",
            ];
            let mut forms = [&forms[..], &["is {}\\fR", "| {}("]].concat().into_iter();
            let page = &pages[&format!("{NAME}-{page}.5")];
            assert!(
                forms.any(|it| page.contains(&it.replace("{}", key))),
                "no {key}"
            );
        }
    };
    // An unknown key is answered with the known ones.
    let known = |more: &str| {
        let text = format!(
            "{}{more}",
            "format = 1\narch = \"a\"\nrelease = \"r\"\npurpose = \"p\"\n"
        );
        let said = Manifest::parse(&text).unwrap_err().to_string();
        let (_, list) = said.split_once("expected one of ").expect("known keys");
        let keys = list.split('`').skip(1).step_by(2);
        keys.map(String::from).collect::<Vec<_>>()
    };
    let rollback = known("action = \"rollback\"\nunknown = 1\n");
    let promotion = known("action = \"promote\"\nfrom = \"a/b/c/d\"\nunknown = 1\n");
    let file = known("[files]\n\"linux\" = { sha = 1 }\n");
    let keys = [known("unknown = 1\n"), rollback, promotion, file].concat();
    assert_names("manifest", &keys.into_iter().collect(), 13);

    let code = read("src/spool/outcome.rs");
    let pinned = code.split("r#\"").skip(1);
    let pinned = pinned.map(|rest| rest.split("\"#").next().unwrap());
    let outcomes = pinned.map(|text| serde_json::from_str::<Value>(text).unwrap());
    let keys = outcomes.flat_map(|it| it.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    assert_names("outcome", &keys.collect(), 14);

    let code = read("src/listeners/template.rs");
    let list = |name: &str| {
        let (_, list) = code.split_once(name).expect(name);
        let list = list.split(']').next().unwrap();
        list.split('"').skip(1).step_by(2).collect::<Vec<_>>()
    };
    let attributes = [
        list("const IMAGE: &[&str] = &["),
        list("const FILE: &[&str] = &["),
    ];
    let more = ["images", "generated"].into_iter();
    let more = more.chain(quoted_after(&code, "add_filter(\""));
    let more = more.chain(quoted_after(&code, "add_test(\""));
    let keys = attributes.concat().into_iter().chain(more);
    assert_names("templates", &keys.map(String::from).collect(), 18);
}

/// The catalog's entries: each id with its subject and what it says.
fn catalog() -> BTreeMap<String, String> {
    let text = read("systemd/netboot-publisher.catalog");
    let entries = text.split("\n-- ").skip(1);
    entries
        .map(|entry| {
            let (id, entry) = entry.split_once('\n').expect("an id on a line of its own");
            (id.to_string(), entry.to_string())
        })
        .collect()
}

#[test]
fn the_catalog_explains_every_kind_of_event_and_no_other() {
    let known = MessageId::VARIANTS.iter().map(ToString::to_string);
    let explained: BTreeSet<_> = catalog().into_keys().collect();
    assert_eq!(explained, known.collect());
    for (id, entry) in catalog() {
        let (header, body) = entry.split_once("\n\n").expect("a header and a body");
        assert!(header.starts_with("Subject: "), "{id}: {header}");
        assert!(!body.trim().is_empty(), "{id}");
    }
}

#[test]
fn the_package_is_of_the_programs_version() {
    let changelog = read("systemd/debian/changelog");
    let newest = format!("{NAME} ({}-1) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&newest), "{changelog}");
}
