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

/// The settings of a file below `systemd/import`, each behind its section: `[Timer] Persistent=yes`.
fn settings(file: &str) -> Vec<String> {
    let text = read(format!("systemd/import/{file}"));
    let (mut settings, mut section) = (Vec::new(), "");
    let lines = text.lines().filter(|it| !it.is_empty());
    for line in lines.filter(|it| !it.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else {
            settings.push(format!("{section} {line}"));
        }
    }
    settings
}

/// What a service may do, from its user on.
fn sandbox(service: &str) -> Vec<String> {
    let all = settings(service).into_iter();
    let sandbox = all.skip_while(|it| it != "[Service] User=netboot-import");
    sandbox.filter(|it| it.starts_with("[Service] ")).collect()
}

#[test]
fn the_services_of_import_stand_in_one_sandbox_and_a_push_has_no_spool() {
    let spool = "[Service] ReadWritePaths=/var/spool/netboot-publisher/incoming";
    let mut import = sandbox("netboot-import@.service");
    assert!(import.len() > 30, "{import:?}");
    assert_eq!(sandbox("netboot-site@.service"), import);
    assert!(import.contains(&spool.to_string()), "{import:?}");
    import.retain(|it| it != spool);
    assert_eq!(sandbox("netboot-push@.service"), import);
}

#[test]
fn the_units_of_import_begin_again_what_failed_or_was_missed() {
    let expected = [
        // An image of gigabytes on a slow line: systemd's own limit is 90 seconds.
        ("import@.service", "[Service] TimeoutStartSec=12h"),
        ("push@.service", "[Service] TimeoutStartSec=12h"),
        ("import@.timer", "[Timer] OnCalendar=hourly"),
        ("import@.timer", "[Timer] RandomizedDelaySec=1h"),
        ("import@.timer", "[Timer] FixedRandomDelay=yes"),
        ("import@.timer", "[Timer] Persistent=yes"),
        ("site@.service", "[Service] Type=notify"),
        ("site@.service", "[Service] Restart=on-failure"),
        ("site@.service", "[Service] RestartSec=30s"),
        // A bad configuration gets no better by another start.
        ("site@.service", "[Service] RestartPreventExitStatus=78"),
        // The path starts it at each publication, and gives up for good where that is refused once.
        ("push@.service", "[Unit] StartLimitIntervalSec=0"),
        (
            "push@.path",
            "[Path] PathChanged=/srv/tftp/netboot/catalog.json",
        ),
        ("push@.timer", "[Timer] OnCalendar=*:0/5"),
        // A path sees nothing that was published before it.
        ("push@.timer", "[Timer] OnActiveSec=0"),
    ];
    for (unit, setting) in expected {
        let (key, _) = setting.split_once('=').unwrap();
        let mut said = settings(&format!("netboot-{unit}"));
        said.retain(|it| it.split('=').next() == Some(key));
        assert_eq!(said, [setting], "{unit}");
    }
}

#[test]
fn the_user_of_import_has_its_state_alone_and_the_admin_the_folders_of_sources() {
    let words = |file: &str| -> Vec<String> {
        let lines = settings(file).into_iter();
        lines
            .map(|it| it.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    // Secrets may stand in what is fetched: nobody else of the importers' group reads it.
    let folders = [
        "d /var/lib/netboot-import 0700 netboot-import netboot-import -",
        "d /etc/netboot-publisher/sources.d 0755 root root -",
        "d /etc/netboot-publisher/channels.d 0755 root root -",
    ];
    assert_eq!(words("tmpfiles.d/netboot-publisher-import.conf"), folders);
    let user = "u netboot-import - \"Importer of network-boot images\" /var/lib/netboot-import";
    assert_eq!(words("sysusers.d/netboot-publisher-import.conf"), [user]);
}
