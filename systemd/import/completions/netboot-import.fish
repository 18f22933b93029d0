# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_netboot_import_global_optspecs
    string join \n config= sources= state= json h/help V/version
end

function __fish_netboot_import_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_netboot_import_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_netboot_import_using_subcommand
    set -l cmd (__fish_netboot_import_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c netboot-import -n "__fish_netboot_import_needs_command" -l config -d 'The configuration of netboot-publisher, which says where spool and tree are; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-import -n "__fish_netboot_import_needs_command" -l sources -d 'The folder of the sources\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_needs_command" -l state -d 'The folder for what is fetched and what is known of it; without it the one that systemd gives (`$STATE_DIRECTORY`), or else /var/lib/netboot-import' -r -F
complete -c netboot-import -n "__fish_netboot_import_needs_command" -l json -d 'For programs: a JSON object a line; of `list` one array'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -s h -l help -d 'Print help'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -s V -l version -d 'Print version'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -f -a "run" -d 'Ask sources what they have, and drop what is new'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -f -a "check" -d 'Say what `run` would bring, and fetch nothing but the lists that say what there is'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -f -a "list" -d 'Show the sources, and what each has brought'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -f -a "push" -d 'Carry the last order for each target, with the image that it names, to an OCI registry, from which sites take it'
complete -c netboot-import -n "__fish_netboot_import_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l every -d 'Go on until told to end, and ask about so often: `60s`. What stays as it was isn\'t said then' -r
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l wait -d 'How long to wait for the outcome of a drop, `10m` or in seconds; with `--every` no longer than that' -r
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l config -d 'The configuration of netboot-publisher, which says where spool and tree are; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l sources -d 'The folder of the sources\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l state -d 'The folder for what is fetched and what is known of it; without it the one that systemd gives (`$STATE_DIRECTORY`), or else /var/lib/netboot-import' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l again -d 'Drop also what was brought before and replaced, withdrawn or damaged here since'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l accept -d 'Take lists that were signed before the last ones, and the orders of a registry that was set back, or that are another centre\'s now'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -l json -d 'For programs: a JSON object a line; of `list` one array'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand check" -l config -d 'The configuration of netboot-publisher, which says where spool and tree are; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand check" -l sources -d 'The folder of the sources\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand check" -l state -d 'The folder for what is fetched and what is known of it; without it the one that systemd gives (`$STATE_DIRECTORY`), or else /var/lib/netboot-import' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand check" -l json -d 'For programs: a JSON object a line; of `list` one array'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand check" -s h -l help -d 'Print help'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand list" -l config -d 'The configuration of netboot-publisher, which says where spool and tree are; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand list" -l sources -d 'The folder of the sources\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand list" -l state -d 'The folder for what is fetched and what is known of it; without it the one that systemd gives (`$STATE_DIRECTORY`), or else /var/lib/netboot-import' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand list" -l json -d 'For programs: a JSON object a line; of `list` one array'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand list" -s h -l help -d 'Print help'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l channels -d 'The folder of the channels\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l config -d 'The configuration of netboot-publisher, which says where spool and tree are; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l sources -d 'The folder of the sources\' files' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l state -d 'The folder for what is fetched and what is known of it; without it the one that systemd gives (`$STATE_DIRECTORY`), or else /var/lib/netboot-import' -r -F
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l all -d 'Look at everything that is in the registry, and not only at what has changed: after one was set back, or something was deleted there'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -l json -d 'For programs: a JSON object a line; of `list` one array'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand push" -s h -l help -d 'Print help'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand help; and not __fish_seen_subcommand_from run check list push help" -f -a "run" -d 'Ask sources what they have, and drop what is new'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand help; and not __fish_seen_subcommand_from run check list push help" -f -a "check" -d 'Say what `run` would bring, and fetch nothing but the lists that say what there is'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand help; and not __fish_seen_subcommand_from run check list push help" -f -a "list" -d 'Show the sources, and what each has brought'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand help; and not __fish_seen_subcommand_from run check list push help" -f -a "push" -d 'Carry the last order for each target, with the image that it names, to an OCI registry, from which sites take it'
complete -c netboot-import -n "__fish_netboot_import_using_subcommand help; and not __fish_seen_subcommand_from run check list push help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
