# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_netboot_publisher_global_optspecs
    string join \n config= h/help V/version
end

function __fish_netboot_publisher_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_netboot_publisher_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_netboot_publisher_using_subcommand
    set -l cmd (__fish_netboot_publisher_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -s V -l version -d 'Print version'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "run" -d 'Watch the spool and publish what is dropped there'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "submit" -d 'Make a drop from a directory'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "rollback" -d 'Make an older generation of a target current again'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "promote" -d 'Make the image that is current at one target current at another one, without a copy'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "withdraw" -d 'Take a target out of the tree, or remove one of its older generations'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "history" -d 'Show which generations of a target are kept, and what happened when'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "status" -d 'Show what is published, what waits and why, and what was rejected'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "show" -d 'Show all that is known of one drop: where it is, what it waits for, its outcome, its manifest'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "diff" -d 'Show which files differ between two generations of a target, as the records tell'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "may" -d 'Say whether the importer rules let a user do something, by which rule, and why not; exit 1: no, 2: not known, as of a user that isn\'t there'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "verify" -d 'Read every published file again and compare with the records; exit 1 names what is damaged'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "check-config" -d 'Say all that is wrong with the configuration'
complete -c netboot-publisher -n "__fish_netboot_publisher_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand run" -l log-level -d 'Log this, and all that is more important; goes before `log.level`' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand run" -l log-format -d 'Log in this format; goes before `log.format`. `auto`: entries of the journal under systemd, and text elsewhere' -r -f -a "auto\t''
text\t''
json\t''"
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand run" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand run" -l once -d 'Publish what is in the spool, then exit; 1 when a drop or an output could not be finished'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand run" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l arch -d 'The architecture of the machines, such as `amd64`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l subarch -d 'The kind of machines' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l release -d 'The release of the system, such as `bookworm`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l purpose -d 'What machines boot it for, such as `install`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l version -d 'The version that `status` and menus show' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l replaces -d 'Refuse (`conflict`) unless the current generation\'s digest begins so; `none`: unless the target is new' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l kernel -d 'The kernel, a path in IMAGE; without it and `--efi` it is found by the usual names, its initrd too' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l initrd -d 'An initrd, a path in IMAGE; of several, each is given so, in their order' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l cmdline -d 'The kernel\'s command line, after what menus have for all; `{url}` and `{path}` in it stand for where this very image is' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l title -d 'The name that menus show' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l efi -d 'An EFI program that boots without a kernel and an initrd, a path in IMAGE' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l wait -d 'Wait for the outcome, and show what for; at most so long if that is given, `10m` or in seconds; exit 3 when the drop is rejected, 4 when there is no outcome in time' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l sign -d 'Have ssh-keygen sign the manifest with this key: its private file, or the `.pub` file of one that the agent holds' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l serial -d 'The manifest\'s `serial`: refused (`stale`) unless higher than the last one of the target' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l expires -d 'The manifest\'s `expires`: refused (`expired`) after that, such as `2026-12-31T00:00:00Z`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l spool -d 'The spool, instead of the configured one' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand submit" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l to -d 'The generation, as `history` shows it, the beginning of its name, or the first digits of its digest; without it the one that the last swap replaced' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l wait -d 'Wait for the outcome, and show what for; at most so long if that is given, `10m` or in seconds; exit 3 when the drop is rejected, 4 when there is no outcome in time' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l sign -d 'Have ssh-keygen sign the manifest with this key: its private file, or the `.pub` file of one that the agent holds' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l serial -d 'The manifest\'s `serial`: refused (`stale`) unless higher than the last one of the target' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l expires -d 'The manifest\'s `expires`: refused (`expired`) after that, such as `2026-12-31T00:00:00Z`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l spool -d 'The spool, instead of the configured one' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand rollback" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l digest -d 'The image that is meant, all 64 digits: refused (`conflict`) unless it is current at FROM by then. Without it the one that is current now' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l replaces -d 'Refuse (`conflict`) unless the digest of what is current at TARGET begins so; `none`: unless that is new' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l wait -d 'Wait for the outcome, and show what for; at most so long if that is given, `10m` or in seconds; exit 3 when the drop is rejected, 4 when there is no outcome in time' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l sign -d 'Have ssh-keygen sign the manifest with this key: its private file, or the `.pub` file of one that the agent holds' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l serial -d 'The manifest\'s `serial`: refused (`stale`) unless higher than the last one of the target' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l expires -d 'The manifest\'s `expires`: refused (`expired`) after that, such as `2026-12-31T00:00:00Z`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l spool -d 'The spool, instead of the configured one' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand promote" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l generation -d 'Remove nothing but this generation, which isn\'t current: named as for `rollback --to`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l wait -d 'Wait for the outcome, and show what for; at most so long if that is given, `10m` or in seconds; exit 3 when the drop is rejected, 4 when there is no outcome in time' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l sign -d 'Have ssh-keygen sign the manifest with this key: its private file, or the `.pub` file of one that the agent holds' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l serial -d 'The manifest\'s `serial`: refused (`stale`) unless higher than the last one of the target' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l expires -d 'The manifest\'s `expires`: refused (`expired`) after that, such as `2026-12-31T00:00:00Z`' -r
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l spool -d 'The spool, instead of the configured one' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand withdraw" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand history" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand history" -l json -d 'For programs'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand history" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand status" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand status" -l json -d 'For programs'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand status" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand show" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand show" -l json -d 'For programs'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand show" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand diff" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand diff" -l json -d 'For programs'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand diff" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand may" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand may" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand verify" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand verify" -l signatures -d 'Prove each generation as well by the manifest and the signature that are kept beside its record, and by the keys of today\'s importer rules; exit 1 names what isn\'t proven'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand verify" -l json -d 'For programs'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand verify" -s h -l help -d 'Print help'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand check-config" -l config -d 'The configuration; without it /etc/netboot-publisher/config.toml, or the built-in defaults where that file is not there' -r -F
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand check-config" -s q -l quiet -d 'Say nothing: only the exit code tells'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand check-config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "run" -d 'Watch the spool and publish what is dropped there'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "submit" -d 'Make a drop from a directory'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "rollback" -d 'Make an older generation of a target current again'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "promote" -d 'Make the image that is current at one target current at another one, without a copy'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "withdraw" -d 'Take a target out of the tree, or remove one of its older generations'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "history" -d 'Show which generations of a target are kept, and what happened when'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "status" -d 'Show what is published, what waits and why, and what was rejected'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "show" -d 'Show all that is known of one drop: where it is, what it waits for, its outcome, its manifest'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "diff" -d 'Show which files differ between two generations of a target, as the records tell'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "may" -d 'Say whether the importer rules let a user do something, by which rule, and why not; exit 1: no, 2: not known, as of a user that isn\'t there'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "verify" -d 'Read every published file again and compare with the records; exit 1 names what is damaged'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "check-config" -d 'Say all that is wrong with the configuration'
complete -c netboot-publisher -n "__fish_netboot_publisher_using_subcommand help; and not __fish_seen_subcommand_from run submit rollback promote withdraw history status show diff may verify check-config help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
