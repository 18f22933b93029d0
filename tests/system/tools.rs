//! The tools that admins bring a drop with: each writes in place, in an order of its own, and takes
//! longer than `spool.settle`. The whole image is published, once, and the tool ends well.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::lab::importers::{Importers, NEEDS, make_image};
use crate::lab::world::{World, assert_same_content, test, text, until, walk};

/// A drop that is written in place is whole when nothing has changed for this long. Longer than any
/// pause of a tool beside all the others, on a machine that does other things as well.
const SETTLE: Duration = Duration::from_secs(5);

/// Tools on the daemon's machine.
const LOCAL: &[Way] = &[
    Way::writing(
        "rsync",
        r#"rsync -a --bwlimit=130 "$drop/" "$incoming/$name/""#,
    ),
    Way::writing(
        "rsync-inplace",
        r#"rsync -a --inplace --bwlimit=130 "$drop/" "$incoming/$name/""#,
    ),
    Way::writing(
        "rsync-delayed",
        r#"rsync -a --partial --delay-updates --bwlimit=130 "$drop/" "$incoming/$name/""#,
    ),
    Way::writing("cp", r#"slowly 400 cp -r "$drop" "$incoming/$name""#),
    Way::writing("cp-a", r#"slowly 400 cp -a "$drop" "$incoming/$name""#),
    Way::writing(
        "mv-from-elsewhere",
        r#"cp -a "$drop" "/run/elsewhere/$name"
           slowly 400 mv -T "/run/elsewhere/$name" "$incoming/$name""#,
    ),
    Way::writing(
        "tar",
        r#"mkdir "$incoming/$name"
           tar -C "$drop" -cf - manifest.toml image | slowly 50 tar -C "$incoming/$name" -xf -"#,
    ),
    Way::writing(
        "tar-image-first",
        r#"tar -C "$drop" -cf "/run/elsewhere/$name.tar" image manifest.toml
           mkdir "$incoming/$name"
           slowly 50 tar -C "$incoming/$name" -xf "/run/elsewhere/$name.tar""#,
    ),
    Way::writing(
        "unzip",
        r#"(cd "$drop"; zip -qr0 "/run/elsewhere/$name.zip" manifest.toml image)
           slowly 300 unzip -q "/run/elsewhere/$name.zip" -d "$incoming/$name""#,
    ),
    Way::writing(
        "install",
        r#"cd "$drop"
           find . -type f | sort -r | while read -r file; do
               slowly 450 install -D -m 0640 "$file" "$incoming/$name/$file"
           done"#,
    ),
    // No file is open in between, and nothing but the innermost folders changes.
    Way::writing(
        "one-by-one",
        r#"mkdir "$incoming/$name"
           cp "$drop/manifest.toml" "$incoming/$name/"
           cd "$drop"
           find image -type d | while read -r folder; do mkdir -p "$incoming/$name/$folder"; done
           find image -type f | sort | while read -r file; do
               cp "$file" "$incoming/$name/$file"
               sleep 1
           done"#,
    ),
    Way::writing(
        "slow-writer",
        r#"mkdir "$incoming/$name"
           cp "$drop/manifest.toml" "$incoming/$name/"
           cd "$drop"
           find image -type d | while read -r folder; do mkdir -p "$incoming/$name/$folder"; done
           find image -type f | sort | while read -r file; do
               split -b 100000 --filter 'cat; sleep 0.5' "$file" > "$incoming/$name/$file"
           done"#,
    ),
];

/// Tools that reach the daemon's machine by a real sshd.
const SSH: &[Way] = &[
    Way::writing(
        "rsync-ssh",
        r#"rsync -a --bwlimit=130 -e "ssh -F $machine/ssh_config" "$drop/" "127.0.0.1:$incoming/$name/""#,
    ),
    Way::writing(
        "rsync-ssh-inplace",
        r#"rsync -a --inplace --bwlimit=130 -e "ssh -F $machine/ssh_config" "$drop/" "127.0.0.1:$incoming/$name/""#,
    ),
    Way::writing(
        "rsync-ssh-delayed",
        r#"rsync -rt --partial --delay-updates --bwlimit=130 -e "ssh -F $machine/ssh_config" \
               "$drop/" "127.0.0.1:$incoming/$name/""#,
    ),
    Way::writing(
        "scp",
        r#"scp -q -F "$machine/ssh_config" -l 1200 -r "$drop" "127.0.0.1:$incoming/$name""#,
    ),
    Way::writing(
        "scp-p",
        r#"scp -q -F "$machine/ssh_config" -l 1200 -rp "$drop" "127.0.0.1:$incoming/$name""#,
    ),
    Way::writing(
        "scp-old",
        r#"scp -q -O -F "$machine/ssh_config" -l 1200 -r "$drop" "127.0.0.1:$incoming/$name""#,
    ),
    Way::writing(
        "sftp",
        r#"echo "put -r $drop $incoming/$name" |
               sftp -q -F "$machine/ssh_config" -l 1200 -b - 127.0.0.1"#,
    ),
    Way::writing(
        "sftp-p",
        r#"echo "put -rp $drop $incoming/$name" |
               sftp -q -F "$machine/ssh_config" -l 1200 -b - 127.0.0.1"#,
    ),
    Way::writing(
        "lftp",
        r#"lftp -c "set sftp:connect-program ssh -a -x -F $machine/ssh_config
               set net:limit-rate 120000
               open sftp://importer:@127.0.0.1
               mirror -R $drop $incoming/$name""#,
    ),
    Way::writing(
        "tar-ssh",
        r#"tar -C "$drop" -cf - manifest.toml image |
               slowly 100 ssh -F "$machine/ssh_config" 127.0.0.1 \
                   "mkdir $incoming/$name; tar -C $incoming/$name -xf -""#,
    ),
];

/// Tools that reach the daemon's machine by a real smbd.
const SMB: &[Way] = &[
    Way::writing(
        "smb-mput",
        r#"slowly 100 smbclient -N -d 0 --configfile="$machine/smb.conf" //127.0.0.1/incoming \
               -c "prompt off; recurse on; lcd $drop; mkdir $name; cd $name; mput *""#,
    ),
    Way::writing(
        "smb-put",
        r#"cd "$drop"
           {
               find . -type d | sort | sed "s|^\.|mkdir $name|"
               find . -type f | sort | sed "s|^\./\(.*\)|put \1 $name/\1|"
           } |
               slowly 100 smbclient -N -d 0 --configfile="$machine/smb.conf" //127.0.0.1/incoming"#,
    ),
];

/// Writers that do nothing for longer than `settle`, with a file open.
const PAUSING: &[Way] = &[
    Way::writing(
        "pause-in-a-file",
        r#"cp -r "$drop" "$incoming/.$name"
           mv -T "$incoming/.$name/image/linux" "$incoming/.$name.linux"
           mkdir "$incoming/$name"
           cp -r "$incoming/.$name/." "$incoming/$name/"
           { head -c 1000 "$incoming/.$name.linux"; sleep 9; tail -c +1001 "$incoming/.$name.linux"; } \
               > "$incoming/$name/image/linux"
           rm -r "$incoming/.$name" "$incoming/.$name.linux""#,
    ),
    Way::writing(
        "pause-in-the-manifest",
        r#"mkdir "$incoming/$name"
           cp -r "$drop/image" "$incoming/$name/"
           { head -c 20 "$drop/manifest.toml"; sleep 9; tail -c +21 "$drop/manifest.toml"; } \
               > "$incoming/$name/manifest.toml""#,
    ),
    Way::writing(
        "pause-before-the-first-byte",
        r#"mkdir -p "$incoming/$name/image/z"
           exec 3> "$incoming/$name/image/z/last"
           cp "$drop/manifest.toml" "$incoming/$name/"
           cp -r "$drop/image/." "$incoming/.$name"
           rm "$incoming/.$name/z/last"
           cp -r "$incoming/.$name/." "$incoming/$name/image/"
           rm -r "$incoming/.$name"
           sleep 9
           cat "$drop/image/z/last" >&3"#,
    ),
];

/// Drops that get their name when they are finished.
const RENAMED: &[Way] = &[
    Way::renaming(
        "mv",
        r#"cp -r "$drop" "$incoming/.$name"
           mv -T "$incoming/.$name" "$incoming/$name""#,
    ),
    Way::renaming(
        "install-mv",
        r#"cd "$drop"
           find . -type f | while read -r file; do
               install -D -m 0644 "$file" "$incoming/.$name/$file"
           done
           mv -T "$incoming/.$name" "$incoming/$name""#,
    ),
    Way::renaming(
        "rsync-mv",
        r#"rsync -a "$drop/" "$incoming/.$name/"
           mv -T "$incoming/.$name" "$incoming/$name""#,
    ),
    Way::renaming(
        "sftp-rename",
        r#"printf 'put -r %s %s\nrename %s %s\n' "$drop" "$incoming/.$name" \
               "$incoming/.$name" "$incoming/$name" |
               sftp -q -F "$machine/ssh_config" -b - 127.0.0.1"#,
    ),
];

/// A way to bring a drop.
struct Way {
    name: &'static str,
    script: &'static str,
    /// The drop is written under its own name, which takes longer than `settle`.
    is_in_place: bool,
}

impl Way {
    const fn writing(name: &'static str, script: &'static str) -> Self {
        Self {
            name,
            script,
            is_in_place: true,
        }
    }

    const fn renaming(name: &'static str, script: &'static str) -> Self {
        Self {
            is_in_place: false,
            ..Self::writing(name, script)
        }
    }
}

pub fn tests() -> Vec<Trial> {
    let of = |sentence: &str, ways: &'static [Way]| test(sentence, &NEEDS, || brings_whole(ways));
    vec![
        of(
            "a drop that rsync, cp, mv, tar, unzip, install or a slow writer writes in place is published whole and once",
            LOCAL,
        ),
        of(
            "a drop that rsync, scp, sftp, lftp or tar writes in place through sshd is published whole and once",
            SSH,
        ),
        of(
            "a drop that smbclient writes in place through smbd is published whole and once",
            SMB,
        ),
        of(
            "a drop whose writer pauses for longer than `settle` with a file open is published whole and once",
            PAUSING,
        ),
        of(
            "a drop that is renamed when it is finished is published whole and once, whatever made it",
            RENAMED,
        ),
        test(
            "a daemon that is started at any moment of an rsync publishes the whole image once",
            &NEEDS,
            started_meanwhile,
        ),
    ]
}

/// No rescan comes to help: what is not seen to be whole by events and its own times never is.
fn settings() -> String {
    let settle = humantime::format_duration(SETTLE);
    format!(
        "#spool settle = \"{settle}\"\n#spool rescan_interval = \"1h\"\n\
         [limits]\nmin_free_space = \"0B\"\n"
    )
}

/// Brings a drop in each of these ways, with and without a list of its files, all side by side.
fn brings_whole(ways: &[Way]) {
    let world = World::with(&settings());
    let (importers, image) = (Importers::new(&world), world.root.join("original"));
    make_image(&image);
    let daemon = world.daemon();
    let both = ways.iter().flat_map(|way| [(way, false), (way, true)]);
    thread::scope(|scope| {
        for (way, is_listed) in both.clone() {
            let (importers, image) = (&importers, &image);
            scope.spawn(move || {
                let (name, target) = drop_of(way, is_listed);
                let drop = importers.finished_drop(&name, &target, image, is_listed);
                let brought = importers.bring(way.script, &drop);
                let said = text(&brought.output);
                assert!(brought.output.status.success(), "{name}: {said}");
                println!("{name}: {:?}", brought.took);
                let is_slow = brought.took > SETTLE;
                assert!(
                    is_slow || !way.is_in_place,
                    "{name} proves nothing: {:?}",
                    brought.took
                );
            });
        }
    });
    let names: Vec<_> = both
        .map(|(way, is_listed)| drop_of(way, is_listed))
        .collect();
    until("the outcomes", || {
        names.iter().all(|(name, _)| world.outcome(name).is_some())
    });
    let log = daemon.stop();
    let bad: Vec<_> = names
        .iter()
        .filter_map(|it| judge(&world, &log, it, &image).err())
        .collect();
    assert!(bad.is_empty(), "{}\n{}", bad.join("\n"), log.join("\n"));
    world.assert_at_rest();
}

/// The drop's name, and its target.
fn drop_of(way: &Way, is_listed: bool) -> (String, String) {
    let name = format!(
        "{}-{}",
        way.name,
        if is_listed { "listed" } else { "plain" }
    );
    let target = format!("amd64/generic/tools/{name}");
    (name, target)
}

/// # Errors
/// What is wrong: the drop has exactly one outcome, it is published, and the tree shows its image.
fn judge(
    world: &World,
    log: &[String],
    (name, target): &(String, String),
    image: &Path,
) -> Result<(), String> {
    let of_drop = format!("drop=\"{name}\"");
    let lines: Vec<_> = log.iter().filter(|line| line.contains(&of_drop)).collect();
    if lines.len() != 1 || !lines[0].contains(" INFO published ") {
        return Err(format!("{name}: {lines:#?}"));
    }
    world.assert_outcome(name, "published");
    let published = world.published(target);
    let paths = |folder: &Path| -> Vec<PathBuf> {
        let paths = walk(&folder.join("."));
        paths
            .iter()
            .map(|path| path.strip_prefix(folder).unwrap().into())
            .collect()
    };
    if paths(&published) != paths(image) {
        return Err(format!("{name}: {:?} is published", paths(&published)));
    }
    assert_same_content(&published, image);
    Ok(())
}

/// The daemon is started when the first so many names of the drop are there, the manifest among
/// them; one world for each.
fn started_meanwhile() {
    let moments = [1, 2, 4, 7, 10];
    thread::scope(|scope| {
        for moment in moments {
            scope.spawn(move || start_at(moment));
        }
    });
}

fn start_at(moment: usize) {
    let world = World::with(&settings());
    let (importers, image) = (Importers::new(&world), world.root.join("original"));
    make_image(&image);
    let target = "amd64/generic/tools/rsync".to_string();
    let drop = importers.finished_drop("rsync", &target, &image, false);
    let client = importers.begin(LOCAL[0].script, &drop);
    until("the first files", || {
        walk(&world.incoming("rsync")).len() >= moment
    });
    let mut daemon = world.daemon();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{moment}: {}", text(&output));
    daemon.wait_for_drop("rsync");
    let log = daemon.stop();
    judge(&world, &log, &("rsync".into(), target), &image).unwrap();
    assert!(
        fs::read_dir(world.spool.join("rejected"))
            .unwrap()
            .next()
            .is_none()
    );
}
