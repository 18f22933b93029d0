//! What is installed beside the program is what the program is: manual pages, completions, units.
//!
//! Manual pages and completions are generated and kept below `systemd/`, so that `cargo deb` needs
//! nothing else. After a change of the commands or of the shipped configuration:
//!
//! ```sh
//! NETBOOT_REGENERATE=1 cargo test --test shipped
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::{Shell, generate_to};
use netboot_publisher::MessageId;
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
an error, in one message on standard error; \fBverify\fR found damage
.TP
\fB2\fR
wrong usage
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
\fBnetboot\-publisher.toml\fR(5), \fBjournalctl\fR(1), \fBin.tftpd\fR(8), \fBdnsmasq\fR(8)
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
            rollback|withdraw|history|status|show|diff|verify) verb="${verb:-$word}" ;;
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
        ?*,*,)
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
    let hint = format!("to bring {folder} up to date: {REGENERATE}=1 cargo test --test shipped");
    let there: BTreeSet<_> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{path:?}: {error}; {hint}"))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, expected.keys().cloned().collect(), "{hint}");
    for (name, text) in expected {
        assert!(read(path.join(name)) == *text, "{name} is old; {hint}");
    }
}

/// Every page in section 1: the program's, and one for each command.
fn command_pages() -> BTreeMap<String, String> {
    let made = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(netboot_publisher::interface(), made.path()).unwrap();
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(made.path()).unwrap() {
        let file = entry.unwrap();
        let name = file.file_name().into_string().unwrap();
        let more = if name == format!("{NAME}.1") {
            format!("{EXIT_STATUS}{FILES}")
        } else {
            format!(".SH \"SEE ALSO\"\n\\fB{}\\fR(1)\n", escape(NAME))
        };
        pages.insert(name, fs::read_to_string(file.path()).unwrap() + &more);
    }
    pages
}

/// The page in section 5: what the comments of the shipped configuration say.
fn configuration_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH {NAME}.toml 5 \"\" \"{NAME} {version}\"\n.nh\n.ad l\n.SH NAME\n\
         {name}.toml \\- configuration of {name}\n.SH SYNOPSIS\n\
         \\fI/etc/{name}/config.toml\\fR\n.SH DESCRIPTION\n",
        name = escape(NAME)
    );
    let source = read("config/netboot-publisher.toml");
    for block in source.split("\n\n") {
        let (mut prose, mut keys, mut example) = (String::new(), Vec::new(), String::new());
        for line in block.lines() {
            if let Some(table) = line.strip_prefix('[') {
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
    page + ".SH \"SEE ALSO\"\n\\fBnetboot\\-publisher\\fR(1)\n"
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
    let mut pages = command_pages();
    pages.insert(format!("{NAME}.toml.5"), configuration_page());
    assert_kept("systemd/man", &pages);
}

#[test]
fn the_completions_know_what_the_program_takes() {
    let made = tempfile::tempdir().unwrap();
    let mut files = BTreeMap::new();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut program = netboot_publisher::interface();
        let path: PathBuf = generate_to(shell, &mut program, NAME, made.path()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        if shell == Shell::Bash {
            // Of a program with a dash in its name `clap_complete` 4.6 writes the commands in two ways.
            text = text.replace("netboot__subcmd__publisher__", "netboot__publisher__");
            text += NAMES_IN_BASH;
        }
        files.insert(name.to_string(), text);
    }
    assert_eq!(files.len(), 3);
    assert_kept("systemd/completions", &files);
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
