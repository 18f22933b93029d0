//! What is installed with the second program, netboot-import.

use super::*;

/// The page of sources and channels: the README's chapters about them.
const FORMATS: &str = "netboot-import.toml";

const EXIT_STATUS: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
done: all that is new is published, or there is nothing new
.TP
\fB1\fR
an error: of \fBrun\fR and \fBcheck\fR, a source failed; the others were asked all the same
.TP
\fB2\fR
wrong usage
.TP
\fB3\fR
\fBrun\fR: an image was rejected
.TP
\fB4\fR
\fBrun\fR: a drop has no outcome yet; the next run says what became of it
.TP
\fB78\fR
a bad or unreadable configuration of netboot\-publisher
.TP
\fB130\fR
interrupted; what was fetched is kept, and nothing else is left
.SH SIGNALS
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
It ends at once. What was fetched is kept, and a transfer goes on where it was.
"#;

const FILES: &str = r#".SH FILES
.TP
\fI/etc/netboot\-publisher/sources.d/NAME.toml\fR
a source, see \fBnetboot\-import.toml\fR(5)
.TP
\fI/etc/netboot\-publisher/channels.d/NAME.toml\fR
a channel, to which \fBpush\fR carries what is published, see \fBnetboot\-import.toml\fR(5)
.TP
\fI/etc/netboot\-publisher/config.toml\fR
the configuration of netboot\-publisher, which says where spool and tree are
.TP
\fI/var/lib/netboot\-import\fR
what is fetched, and what is known of it
.SH UNITS
.TP
\fBnetboot\-import@NAME.service\fR, \fBnetboot\-import@NAME.timer\fR
one run of a source, and one about each hour
.TP
\fBnetboot\-site@NAME.service\fR
a source of the kind \fBoci\fR that is asked about each minute
.TP
\fBnetboot\-push@NAME.service\fR, \fBnetboot\-push@NAME.path\fR, \fBnetboot\-push@NAME.timer\fR
one push to a channel, one after each publication, and one every five minutes for what failed
.SH "SEE ALSO"
\fBnetboot\-import.toml\fR(5), \fBnetboot\-publisher\fR(1), \fBnetboot\-publisher.toml\fR(5),
\fBgpgv\fR(1), \fBssh\-keygen\fR(1), \fBjournalctl\fR(1)
.br
\fI/usr/share/doc/netboot\-publisher\-import/examples\fR
"#;

/// What the generated completions of bash don't know: names of sources and channels.
const NAMES_IN_BASH: &str = r#"
# Sources and channels, by the names of their files.
_netboot_import_names() {
    local word folder="" file names=""
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            run|check) folder="${folder:-/etc/netboot-publisher/sources.d}" ;;
            push) folder="${folder:-/etc/netboot-publisher/channels.d}" ;;
        esac
    done
    case "$2,$3" in
        -*|*,--every|*,--wait|*,--config|*,--sources|*,--state|*,--channels) folder="" ;;
    esac
    if [[ -n "$folder" ]]; then
        for file in "$folder"/*.toml; do
            file="${file##*/}"
            names+=" ${file%.toml}"
        done
        COMPREPLY=( $(compgen -W "$names" -- "$2") )
        return 0
    fi
    _netboot__import "$@"
}

complete -F _netboot_import_names -o bashdefault -o default netboot-import
"#;

/// The page of what an admin writes.
fn formats_page() -> String {
    let about = "sources and channels of netboot\\-import";
    let mut page = beginning(FORMATS, 5, about);
    page += ".SH SYNOPSIS\n\\fI/etc/netboot\\-publisher/sources.d/NAME.toml\\fR\n.br\n";
    page += "\\fI/etc/netboot\\-publisher/channels.d/NAME.toml\\fR\n";
    page += &chapter("Sources", "SOURCES");
    page += &chapter("Sites", "SITES");
    page += ".SH \"SEE ALSO\"\n\\fBnetboot\\-import\\fR(1), \\fBnetboot\\-publisher.toml\\fR(5), ";
    page + "\\fBnetboot\\-publisher\\-manifest\\fR(5)\n"
}

#[test]
fn the_manual_pages_of_import_say_what_the_program_takes() {
    let end = format!("{EXIT_STATUS}{FILES}");
    let mut pages = command_pages(netboot_publisher::import_interface(), &end);
    pages.insert(format!("{FORMATS}.5"), formats_page());
    assert_kept("systemd/import/man", &pages);
}

#[test]
fn the_completions_of_import_know_what_the_program_takes() {
    let files = completions(&netboot_publisher::import_interface(), NAMES_IN_BASH);
    assert_kept("systemd/import/completions", &files);
}

#[test]
fn the_page_of_sources_and_channels_has_all_that_the_chapters_show() {
    let readme = read("README.md");
    let (_, chapters) = readme.split_once("\n## Sources\n").expect("a chapter");
    let chapters = chapters.split("\n## Limits\n").next().unwrap();
    let code = chapters.split("\n```").skip(1).step_by(2);
    let lines: Vec<_> = code.flat_map(|block| block.lines().skip(1)).collect();
    assert!(lines.len() > 20, "{lines:?}");
    let page = formats_page();
    for line in lines {
        let line = escape(line);
        assert!(page.lines().any(|it| it == line), "no {line} in the page");
    }
}

#[test]
fn the_package_of_import_is_for_a_daemon_that_is_not_older() {
    let manifest = read("Cargo.toml");
    let depends = format!("netboot-publisher (>= {}), ", env!("CARGO_PKG_VERSION"));
    assert!(manifest.contains(&depends), "no {depends:?}");
}
