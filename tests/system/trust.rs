//! Who may publish what: importer rules, and signatures that ssh-keygen makes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use netboot_publisher::Digest;
use serde_json::Value;

use crate::lab::keys::{FOR_US, Keys, public, sign};
use crate::lab::world::{Needs, World, manifest, names, own, test, text, until};
use crate::supervision::{change, start};

const TARGET: &str = "amd64/generic/noble/install";
const OTHER: &str = "arm64/generic/noble/install";

/// Users and a group that every Debian has.
pub const GAMES: u32 = 5;
pub const MAN: u32 = 6;
pub const NEWS: u32 = 9;

pub const NEEDS: &[Needs] = &[Needs::Root, Needs::Program("ssh-keygen")];

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "the first importer rule that matches says what a drop may do",
            NEEDS,
            rules,
        ),
        test(
            "a signed drop is published with its proof, whichever way it was signed",
            NEEDS,
            signed,
        ),
        test(
            "what is no good signature of all of a drop is rejected",
            NEEDS,
            badly_signed,
        ),
        test(
            "a drop that is written in place waits for its signature",
            NEEDS,
            late,
        ),
        test(
            "papers that a signature proves are whole, whoever has them open; an image is not",
            NEEDS,
            held_open,
        ),
        test(
            "an old signed image that is dropped again is stale, after a withdrawal too",
            NEEDS,
            dropped_again,
        ),
        test(
            "an order that has a serial is good once",
            NEEDS,
            orders_again,
        ),
        test("what comes after its time is expired", NEEDS, expired),
        test(
            "a rollback that is signed names the image that it means",
            NEEDS,
            signed_rollbacks,
        ),
        test(
            "`may` says who may do what, by which rule, and what is lacking",
            NEEDS,
            may,
        ),
        test(
            "check-config shows all that is in force of each rule, and warns of what is odd, as a daemon does",
            NEEDS,
            reviewed,
        ),
        test(
            "rules with mistakes are refused, all at once",
            &[],
            bad_rules,
        ),
    ]
}

/// A manifest that lists these files.
pub fn listing(target: &str, more: &str, files: &[(&str, &str)]) -> String {
    let line = |(path, bytes): &(&str, &str)| {
        format!(
            "{path:?} = {{ sha256 = \"{}\" }}\n",
            Digest::of(bytes.as_bytes())
        )
    };
    let lines: String = files.iter().map(line).collect();
    format!("{}{more}[files]\n{lines}", manifest(target))
}

/// Makes a drop of a user's, under a hidden name.
pub fn build(world: &World, name: &str, text: &str, files: &[(&str, &str)]) -> PathBuf {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir_all(hidden.join("image")).unwrap();
    for (path, bytes) in files {
        let path = hidden.join("image").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    hidden
}

/// As [`build`], of a drop that is signed.
fn build_signed(
    world: &World,
    keys: &Keys,
    (name, text): (&str, &str),
    files: &[(&str, &str)],
) -> PathBuf {
    let drop = build(world, name, text, files);
    sign(&drop, &keys.path("ed25519"), FOR_US);
    drop
}

/// Gives the drop to a user, hands it over, and has the daemon see to it.
fn bring(world: &World, name: &str, uid: u32) {
    hand_over(world, name, uid);
    world.run_once();
}

/// Gives the drop to a user, and hands it over.
pub fn hand_over(world: &World, name: &str, uid: u32) {
    let hidden = world.incoming(&format!(".{name}"));
    own(&hidden, uid);
    // A rename in the tick of the last change leaves no trace.
    let changed = |path: &Path| {
        let stat = fs::symlink_metadata(path).unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    let (probe, last) = (world.root.join("probe"), changed(&hidden));
    while {
        fs::write(&probe, "").unwrap();
        changed(&probe) <= last
    } {}
    fs::rename(hidden, world.incoming(name)).unwrap();
}

fn detail(outcome: &Value) -> String {
    outcome["detail"].as_str().unwrap_or_default().to_string()
}

fn rules() {
    let world = World::with(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        groups = ["man"]
        publish = ["amd64/*/noble/*"]
        require = ["files"]
        max_image_size = "10B"
        max_files = 2
        [[importer]]
        name = "careful"
        users = ["news"]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        follow_others = false
        "#,
    );
    let files = [("linux", "one")];
    let cases = [
        ("a", GAMES, listing(TARGET, "", &files), "published", ""),
        (
            "b",
            MAN,
            listing(OTHER, "", &files),
            "rejected not-allowed",
            "rule `team` does not let man publish arm64/generic/noble/install; its `publish` allows \
             amd64/*/noble/*",
        ),
        (
            "c",
            MAN,
            manifest(TARGET),
            "rejected not-allowed",
            "rule `team` requires `files` in the manifest, as `submit` writes it",
        ),
        (
            "d",
            NEWS,
            manifest(TARGET),
            "rejected not-allowed",
            "rule `careful` does not let news publish amd64/generic/noble/install: what is there was made \
             current by rule `team`; its `follow_others` is false",
        ),
        ("e", NEWS, manifest(OTHER), "published", ""),
        (
            "f",
            4_711,
            manifest(TARGET),
            "rejected not-allowed",
            "no importer rule is for the user 4711: ask the admin for one",
        ),
        ("g", 0, manifest("x/y/z/w"), "published", ""),
    ];
    for (name, uid, text, expected, why) in cases {
        build(&world, name, &text, &files);
        bring(&world, name, uid);
        let outcome = world.assert_outcome(name, expected);
        assert_eq!(detail(&outcome), why, "{name}");
    }
    let outcome = world.outcome("d").unwrap();
    assert_eq!(outcome["rule"], "careful", "{outcome:#}");
    let long = [("linux", "more than ten bytes")];
    build(&world, "long", &listing(TARGET, "", &long), &long);
    bring(&world, "long", GAMES);
    let outcome = world.assert_outcome("long", "rejected too-large");
    let why = "larger than 10 B (rule `team`'s max_image_size), reached at `linux`";
    assert_eq!(detail(&outcome), why);
    let many = [("linux", "1"), ("initrd", "2"), ("menu", "3")];
    build(&world, "many", &listing(TARGET, "", &many), &many);
    bring(&world, "many", GAMES);
    let outcome = world.assert_outcome("many", "rejected too-many-files");
    let why = "more than 2 files, folders and links (rule `team`'s max_files)";
    assert_eq!(detail(&outcome), why);
    // Records and histories say which rule it was.
    let history = world.run(&["history", TARGET, "--json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(
        history["events"][0]["vouched"]["rule"], "team",
        "{history:#}"
    );
}

fn may() {
    let keys = Keys::new();
    let world = World::with(&format!(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games"]
        publish = ["amd64/*/noble/*"]
        require = ["files", "serial"]
        [[importer]]
        name = "upload"
        users = ["news"]
        keys = [{:?}]
        publish = ["*/*/*/*"]
        withdraw = ["*/*/*/*"]
        [[importer]]
        name = "mail-a"
        users = ["mail"]
        keys = [{:?}, {:?}]
        publish = ["amd64/*/*/*"]
        [[importer]]
        name = "mail-b"
        users = ["mail"]
        keys = [{:?}]
        publish = ["arm64/*/*/*"]
        "#,
        keys.public("ed25519"),
        keys.public("ed25519"),
        keys.public("ecdsa"),
        public(&keys.locked("ed25519", "secret")),
    ));
    let key = keys.fingerprint("ed25519");
    for (user, action, target, code, answer) in [
        (
            "games",
            "publish",
            TARGET,
            0,
            "yes, by rule `team`, with `files`, `serial` in the manifest".to_string(),
        ),
        (
            "games",
            "publish",
            OTHER,
            1,
            format!(
                "no, not-allowed: rule `team` does not let games publish \
          {OTHER}; its `publish` allows amd64/*/noble/*"
            ),
        ),
        (
            "games",
            "withdraw",
            TARGET,
            1,
            format!(
                "no, not-allowed: rule `team` does not let games withdraw \
          {TARGET}; its `withdraw` allows nothing"
            ),
        ),
        (
            "news",
            "withdraw",
            TARGET,
            0,
            format!("yes, by rule `upload`, signed with {key}"),
        ),
        (
            "mail",
            "publish",
            TARGET,
            0,
            format!(
                "yes, by rule `mail-a`, signed with one of {key}, {}",
                keys.fingerprint("ecdsa")
            ),
        ),
        (
            "mail",
            "publish",
            "ppc/x/y/z",
            1,
            "no, not-allowed: rule `mail-a` does not let mail publish ppc/x/y/z; its `publish` allows \
             amd64/*/*/*\nno, not-allowed: rule `mail-b` does not let mail publish ppc/x/y/z; its \
             `publish` allows arm64/*/*/*"
                .to_string(),
        ),
        (
            "root",
            "rollback",
            TARGET,
            0,
            "yes, no rule is needed".to_string(),
        ),
        (
            "4711",
            "publish",
            TARGET,
            1,
            "no, not-allowed: no importer rule is for the user 4711: ask the admin for one"
                .to_string(),
        ),
    ] {
        let said = world.run(&["may", user, action, target]);
        assert_eq!(said.status.code(), Some(code), "{}", text(&said));
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            format!("{answer}\n")
        );
    }
    let unknown = world.run(&["may", "no-such-user", "publish", TARGET]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert_eq!(
        String::from_utf8(unknown.stderr).unwrap(),
        "netboot-publisher: no such user: no-such-user\n"
    );
    let said = text(&world.run(&["may", "games", "create", TARGET]));
    assert!(
        said.contains("[possible values: publish, rollback, withdraw, promote]"),
        "{said}"
    );
}

fn reviewed() {
    let keys = Keys::new();
    let world = World::with(&format!(
        r#"
        [limits]
        min_free_space = "0B"
        [[importer]]
        name = "team"
        users = ["games", "5", "a user"]
        groups = ["man"]
        keys = [{:?}]
        old_keys = [{:?}]
        publish = ["amd64/a-rather-long-subarchitecture/a-rather-long-release/*", "arm64/*/*/*"]
        create = ["ppc/*/*/*"]
        rollback = []
        follow_others = false
        require = ["files", "serial"]
        max_image_size = "2GiB"
        max_waiting = 7
        [[importer]]
        name = "again"
        users = ["games"]
        keys = [{:?}]
        [[importer]]
        name = "rest"
        publish = ["*/*/*/*"]
        "#,
        keys.public("ed25519"),
        keys.public("ecdsa"),
        keys.public("ed25519"),
    ));
    let checked = world.run(&["check-config"]);
    let checked = String::from_utf8(checked.stdout).unwrap();
    let expected = format!(
        r#": good

rule team
  users          games, 5 (games), `a user`
  groups         man
  keys           {}
  old_keys       {}
  publish        amd64/a-rather-long-subarchitecture/a-rather-long-release/*
                 arm64/*/*/*
  create         ppc/*/*/*
  rollback       nothing
  withdraw       nothing
  follow_others  false
  require        files, serial
  max_image_size 2.0 GiB
  max_waiting    7

rule again
  users          games
  keys           {}
  publish        nothing
  create         as publish
  rollback       as publish
  withdraw       nothing

rule rest
  for            anybody
  publish        */*/*/*
  create         as publish
  rollback       as publish
  withdraw       nothing

warning: rule `team`: no such user: a user; make it, or take it out of `users`
warning: rule `team`: `create` has ppc/*/*/*, of which `publish` allows nothing: add it there, or take it out
warning: rule `again` never matches: rule `team` stands before it and is for all that it is for; move it up, or remove it
"#,
        keys.fingerprint("ed25519"),
        keys.fingerprint("ecdsa"),
        keys.fingerprint("ed25519"),
    );
    assert!(checked.ends_with(&expected), "{checked}");
    // A daemon says so, too: at its start, and when it has read its configuration again.
    let (mut daemon, ear) = start(&world, &[]);
    daemon
        .wait_for("importer rule `team`: no such user: a user; make it, or take it out of `users`");
    daemon.wait_for("importer rule `again` never matches");
    ear.wait_for("READY=1");
    change(&world, &daemon, &ear, "\"a user\"", "\"another\"");
    daemon.wait_for("importer rule `team`: no such user: another;");
    daemon.stop();
}

fn with_key(keys: &Keys, kinds: &[&str]) -> World {
    let public = |kind: &&str| format!("{:?}", keys.public(kind));
    let keys: Vec<_> = kinds.iter().map(public).collect();
    World::with(&format!(
        "[limits]\nmin_free_space = \"0B\"\n[retention]\nmin_age = \"0s\"\nkeep = 0\n[[importer]]\nname = \"team\"\nusers = [\"games\", \"news\"]\n\
         keys = [{}]\npublish = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n",
        keys.join(", ")
    ))
}

fn signed() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519", "ecdsa"]);
    for (number, kind, options) in [
        (1, "ed25519", FOR_US),
        (2, "ecdsa", FOR_US),
        (
            3,
            "ed25519",
            &["-n", "netboot-publisher", "-O", "hashalg=sha256"],
        ),
    ] {
        let (name, bytes) = (format!("drop-{number}"), format!("image {number}"));
        let files = [("linux", bytes.as_str())];
        let drop = build(&world, &name, &listing(TARGET, "", &files), &files);
        sign(&drop, &keys.path(kind), options);
        let proof =
            ["manifest.toml", "manifest.toml.sig"].map(|it| fs::read(drop.join(it)).unwrap());
        bring(&world, &name, GAMES);
        let outcome = world.assert_outcome(&name, "published");
        assert_eq!(outcome["signer"], keys.fingerprint(kind), "{outcome:#}");
        // What retention removes it removes with the proof.
        let generation = outcome["generation"].as_str().unwrap();
        let folder = world.published(&format!("{TARGET}@"));
        let expected =
            ["", ".manifest.toml", ".sig", ".toml"].map(|it| format!("{generation}{it}"));
        world.run_once();
        assert_eq!(names(&folder), expected);
        let kept = [1, 2].map(|it| fs::read(folder.join(&expected[it])).unwrap());
        assert_eq!(kept, proof);
    }
}

fn badly_signed() {
    type Spoil = fn(&Path, &Keys);
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let cases: [(&str, &str, Spoil, &str, &str); 18] = [
        (
            "none",
            "",
            |drop, _| fs::remove_file(drop.join("manifest.toml.sig")).unwrap(),
            "rejected unsigned",
            "no manifest.toml.sig; expected one: the rules for games ask for a signature (team): ssh-keygen",
        ),
        (
            "namespace",
            "",
            |drop, keys| sign(drop, &keys.path("ed25519"), &["-n", "file"]),
            "rejected bad-signature",
            "made for the namespace `file`; expected `netboot-publisher`",
        ),
        (
            "key",
            "",
            |drop, keys| sign(drop, &keys.path("ecdsa"), FOR_US),
            "rejected unknown-key",
            "which none of the rules for games has (team)",
        ),
        (
            "kind",
            "",
            |drop, keys| sign(drop, &keys.path("rsa"), FOR_US),
            "rejected bad-signature",
            "of the kind ssh-rsa; expected Ed25519 or ECDSA P-256",
        ),
        (
            "byte",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text + " ").unwrap();
            },
            "rejected bad-signature",
            "manifest.toml.sig: not of these bytes",
        ),
        (
            "a-byte",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("format = 1", "format =\t1")).unwrap();
            },
            "rejected bad-signature",
            "manifest.toml.sig: not of these bytes",
        ),
        (
            "other",
            "",
            |drop, keys| {
                let other = tempfile::tempdir().unwrap();
                fs::write(other.path().join("manifest.toml"), manifest(OTHER)).unwrap();
                sign(other.path(), &keys.path("ed25519"), FOR_US);
                let signature = other.path().join("manifest.toml.sig");
                fs::copy(signature, drop.join("manifest.toml.sig")).unwrap();
            },
            "rejected bad-signature",
            "manifest.toml.sig: not of these bytes",
        ),
        (
            "windows",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace('\n', "\r\n")).unwrap();
            },
            "published",
            "",
        ),
        (
            "blank-after",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text + "\n\n").unwrap();
            },
            "published",
            "",
        ),
        (
            "blank-before",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, format!("\n{text}")).unwrap();
            },
            "rejected bad-signature",
            "manifest.toml.sig: does not begin with `-----BEGIN SSH SIGNATURE-----`; expected one SSH \
             signature, as `ssh-keygen -Y sign -n netboot-publisher` makes it",
        ),
        (
            "truncated",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                let text = fs::read(&path).unwrap();
                fs::write(path, &text[..text.len() / 2]).unwrap();
            },
            "rejected bad-signature",
            "expected one SSH signature",
        ),
        (
            "doubled",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                let text = fs::read(&path).unwrap();
                fs::write(path, text.repeat(2)).unwrap();
            },
            "rejected bad-signature",
            "expected one SSH signature",
        ),
        (
            "long",
            "",
            |drop, _| fs::write(drop.join("manifest.toml.sig"), vec![b'A'; 1 << 20]).unwrap(),
            "rejected bad-signature",
            "expected one SSH signature",
        ),
        (
            "link",
            "",
            |drop, _| {
                let path = drop.join("manifest.toml.sig");
                fs::rename(&path, drop.join("image/sig")).unwrap();
                std::os::unix::fs::symlink("image/sig", path).unwrap();
            },
            "rejected unsafe-file",
            "manifest.toml.sig is a link",
        ),
        (
            "file",
            "",
            |drop, _| fs::write(drop.join("image/more"), "").unwrap(),
            "rejected unlisted-file",
            "`more` is not in the manifest",
        ),
        (
            "symlink",
            "",
            |drop, _| std::os::unix::fs::symlink("linux", drop.join("image/more")).unwrap(),
            "rejected unsigned-files",
            "the link `more` is not in the manifest, which is signed",
        ),
        (
            "folder",
            "",
            |drop, _| fs::create_dir(drop.join("image/more")).unwrap(),
            "rejected unsigned-files",
            "the empty folder `more` is not in the manifest",
        ),
        (
            "all",
            "\"to\" = { link = \"linux\" }\n\"empty\" = { folder = true }\n",
            |drop, _| {
                std::os::unix::fs::symlink("linux", drop.join("image/to")).unwrap();
                fs::create_dir(drop.join("image/empty")).unwrap();
            },
            "published",
            "",
        ),
    ];
    for (name, more, spoil, expected, why) in cases {
        let files = [("linux", name)];
        let text = listing(TARGET, "", &files) + more;
        let drop = build_signed(&world, &keys, (name, &text), &files);
        spoil(&drop, &keys);
        bring(&world, name, GAMES);
        let outcome = world.assert_outcome(name, expected);
        assert!(detail(&outcome).contains(why), "{outcome:#}");
        // To be shown: nobody has vouched for it.
        if name != "link" {
            assert_eq!(outcome["target"], TARGET, "{outcome:#}");
        }
    }
    // Who else may write into it is not known.
    for (name, mode, expected) in [
        ("open", 0o777, "rejected unsafe-file"),
        ("shared", 0o775, "published"),
    ] {
        let files = [("linux", name)];
        let text = listing(TARGET, "", &files);
        let drop = build_signed(&world, &keys, (name, &text), &files);
        fs::set_permissions(&drop, fs::Permissions::from_mode(mode)).unwrap();
        bring(&world, name, GAMES);
        world.assert_outcome(name, expected);
    }
    // Without a list nobody has signed the image.
    let unlisted = ("unlisted", &*manifest(TARGET));
    build_signed(&world, &keys, unlisted, &[("linux", "x")]);
    bring(&world, "unlisted", GAMES);
    world.assert_outcome("unlisted", "rejected unsigned-files");
}

fn late() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let mut daemon = world.daemon();
    let files = [("linux", "late")];
    let hidden = build(&world, "late", &listing(TARGET, "", &files), &files);
    // In place: whatever comes to the name comes bit by bit.
    let drop = world.incoming("late");
    fs::create_dir(&drop).unwrap();
    own(&drop, GAMES);
    for part in ["image", "manifest.toml"] {
        own(&hidden.join(part), GAMES);
        fs::rename(hidden.join(part), drop.join(part)).unwrap();
    }
    until("it to wait for the signature", || {
        let status = text(&world.run(&["status"]));
        status.contains("incomplete: no manifest.toml.sig")
    });
    // One that is no good, and is replaced at once.
    let signed = hidden.join("manifest.toml");
    fs::copy(drop.join("manifest.toml"), &signed).unwrap();
    sign(&hidden, &keys.path("ed25519"), FOR_US);
    let signature = drop.join("manifest.toml.sig");
    fs::copy(hidden.join("manifest.toml.sig"), hidden.join("sig")).unwrap();
    own(&hidden, GAMES);
    fs::rename(hidden.join("sig"), signature).unwrap();
    daemon.wait_for_drop("late");
    world.assert_outcome("late", "published");
    daemon.stop();
}

fn held_open() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let mut daemon = world.daemon();
    let hold = |path: &Path| File::options().append(true).open(path).unwrap();
    // In place, by a tool that closes what it has written much later.
    let write = |name: &str| {
        let files = [("linux", name)];
        let hidden = build_signed(&world, &keys, (name, &listing(TARGET, "", &files)), &files);
        let drop = world.incoming(name);
        fs::create_dir(&drop).unwrap();
        own(&hidden, GAMES);
        chown(&drop, Some(GAMES), None).unwrap();
        (hidden, drop)
    };
    let bring = |(hidden, drop): (PathBuf, PathBuf)| {
        for part in ["image", "manifest.toml", "manifest.toml.sig"] {
            fs::rename(hidden.join(part), drop.join(part)).unwrap();
        }
    };
    let papers = write("papers");
    let held = ["manifest.toml", "manifest.toml.sig"].map(|paper| hold(&papers.0.join(paper)));
    bring(papers);
    daemon.wait_for_drop("papers");
    world.assert_outcome("papers", "published");
    drop(held);

    let image = write("image");
    let held = hold(&image.0.join("image/linux"));
    bring(image);
    until("it to wait for the writer", || {
        text(&world.run(&["status"])).contains("`image/linux` is open for writing")
    });
    drop(held);
    daemon.wait_for_drop("image");
    world.assert_outcome("image", "published");
    daemon.stop();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(status.unwrap().success());
}

fn dropped_again() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let stock = tempfile::tempdir().unwrap();
    let publish = |name: &str, serial: Option<u32>, bytes: &str, uid: u32| {
        let files = [("linux", bytes)];
        let serial = serial.map_or(String::new(), |serial| format!("serial = {serial}\n"));
        let text = listing(TARGET, &serial, &files);
        let drop = build_signed(&world, &keys, (name, &text), &files);
        copy(&drop, &stock.path().join(name));
        bring(&world, name, uid);
    };
    let again = |name: &str, of: &str| {
        let hidden = world.incoming(&format!(".{name}"));
        copy(&stock.path().join(of), &hidden);
        // Whoever has the drop can bring it.
        bring(&world, name, NEWS);
    };
    publish("one", Some(7), "one", GAMES);
    world.assert_outcome("one", "published");
    again("one-again", "one");
    world.assert_outcome("one-again", "unchanged");
    publish("two", Some(9), "two", GAMES);
    world.assert_outcome("two", "published");
    again("old", "one");
    let outcome = world.assert_outcome("old", "rejected stale");
    let expected =
        format!("the manifest's `serial` is 7; {TARGET} has had 9: expected a higher `serial`");
    assert_eq!(detail(&outcome), expected);
    publish("none", None, "three", GAMES);
    world.assert_outcome("none", "rejected stale");
    // The same number is that of one manifest only.
    publish("same", Some(9), "three", GAMES);
    world.assert_outcome("same", "rejected stale");
    // The same image with a higher one is another publication.
    publish("renewed", Some(10), "two", GAMES);
    world.assert_outcome("renewed", "published");
    let order = world.incoming("gone");
    fs::create_dir(&order).unwrap();
    let text = format!("{}action = \"withdraw\"\n", manifest(TARGET));
    fs::write(order.join("manifest.toml"), text).unwrap();
    world.run_once();
    world.assert_outcome("gone", "withdrawn");
    again("after", "two");
    world.assert_outcome("after", "rejected stale");
    publish("root", Some(10), "root", 0);
    world.assert_outcome("root", "rejected stale");
    publish("next", Some(11), "next", GAMES);
    world.assert_outcome("next", "published");
}

fn orders_again() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let order = |name: &str, action: &str, serial: u32, expected: &str| {
        let text = format!(
            "{}action = \"{action}\"\nserial = {serial}\n",
            manifest(TARGET)
        );
        let drop = build_signed(&world, &keys, (name, &text), &[]);
        fs::remove_dir(drop.join("image")).unwrap();
        bring(&world, name, NEWS);
        world.assert_outcome(name, expected)
    };
    let image = |name: &str, serial: u32, expected: &str| {
        let files = [("linux", name)];
        let text = listing(TARGET, &format!("serial = {serial}\n"), &files);
        build_signed(&world, &keys, (name, &text), &files);
        bring(&world, name, NEWS);
        world.assert_outcome(name, expected);
    };
    image("one", 5, "published");
    order("early", "withdraw", 5, "rejected stale");
    order("gone", "withdraw", 6, "withdrawn");
    image("two", 6, "rejected stale");
    image("two-again", 7, "published");
    let outcome = order("gone-again", "withdraw", 6, "rejected stale");
    let expected =
        format!("the manifest's `serial` is 6; {TARGET} has had 7: expected a higher `serial`");
    assert_eq!(detail(&outcome), expected);
    // By the command as well.
    let options = ["--expires", "2020-12-31T00:00:00Z"];
    let late = world.run(&[&["withdraw", TARGET], &options[..]].concat());
    world.run_once();
    assert!(late.status.success(), "{}", text(&late));
    let name = String::from_utf8(late.stdout).unwrap();
    world.assert_outcome(name.trim(), "rejected expired");
    let options = ["--serial", "8", "--expires", "2999-12-31T00:00:00Z"];
    let ordered = world.run(&[&["withdraw", TARGET], &options[..]].concat());
    assert!(ordered.status.success(), "{}", text(&ordered));
    world.run_once();
    let name = String::from_utf8(ordered.stdout).unwrap();
    world.assert_outcome(name.trim(), "withdrawn");
    image("three", 8, "rejected stale");
}

fn expired() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let files = [("linux", "kernel")];
    let drop = |name: &str, text: &str, files: &[(&str, &str)], expected: &str| {
        let drop = build_signed(&world, &keys, (name, text), files);
        if files.is_empty() {
            fs::remove_dir(drop.join("image")).unwrap();
        }
        bring(&world, name, NEWS);
        world.assert_outcome(name, expected)
    };
    let (past, future) = ["2026-01-01T00:00:00Z", "2999-12-31T23:59:59Z"]
        .map(|time| format!("expires = \"{time}\"\n"))
        .into();
    let outcome = drop(
        "past",
        &listing(TARGET, &past, &files),
        &files,
        "rejected expired",
    );
    let expected = "the manifest's `expires` is 2026-01-01T00:00:00Z, which is over";
    assert_eq!(detail(&outcome), expected);
    drop(
        "future",
        &listing(TARGET, &future, &files),
        &files,
        "published",
    );
    let gone = manifest(TARGET) + "action = \"withdraw\"\n";
    drop(
        "gone-past",
        &(gone.clone() + &past),
        &[],
        "rejected expired",
    );
    drop("gone-future", &(gone + &future), &[], "withdrawn");
}

fn signed_rollbacks() {
    let keys = Keys::new();
    let world = with_key(&keys, &["ed25519"]);
    let settings = fs::read_to_string(&world.config).unwrap();
    fs::write(&world.config, settings.replace("keep = 0", "keep = 9")).unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|name| {
        let files = [("linux", name)];
        let text = listing(TARGET, "", &files);
        build_signed(&world, &keys, (name, &text), &files);
        bring(&world, name, GAMES);
        let outcome = world.assert_outcome(name, "published");
        let word = |key: &str| outcome[key].as_str().unwrap().to_string();
        (word("generation"), word("digest"))
    });
    let order = |name: &str, more: &str, expected: &str| {
        let text = format!("{}action = \"rollback\"\n{more}", manifest(TARGET));
        let drop = build_signed(&world, &keys, (name, &text), &[]);
        fs::remove_dir(drop.join("image")).unwrap();
        bring(&world, name, NEWS);
        world.assert_outcome(name, expected)
    };
    let digest = |of: &(String, String)| format!("digest = {:?}\n", of.1);
    let to = |name: &str| format!("to = {name:?}\n");
    // Whoever brings it again later would choose the image.
    for (name, more) in [("bare", String::new()), ("named", to(&one.0))] {
        let outcome = order(name, &more, "rejected unsigned-files");
        let expected = "the order is signed and names no image; expected the image's `digest`";
        assert_eq!(detail(&outcome), expected);
    }
    let outcome = order("other", &(to(&two.0) + &digest(&one)), "rejected conflict");
    let expected = format!("{} has digest {}; the order means {}", two.0, two.1, one.1);
    assert_eq!(detail(&outcome), expected);
    let unknown = format!("digest = \"{}\"\n", Digest::of(b"unknown"));
    order("unknown", &unknown, "rejected unknown-generation");
    let outcome = order("back", &digest(&one), "rolled-back");
    assert_eq!(outcome["generation"], *one.0, "{outcome:#}");
    assert_eq!(
        outcome["signer"],
        keys.fingerprint("ed25519"),
        "{outcome:#}"
    );
    // What is current by now is not what was current when this was signed.
    let replaces = format!("replaces = {:?}\n", three.1);
    order("late", &(replaces + &digest(&two)), "rejected conflict");
    order("forth", &(to(&three.0) + &digest(&three)), "rolled-back");
}

fn bad_rules() {
    let world = World::with(
        r#"
        [[importer]]
        publish = ["amd64/*/noble/*/x"]
        keys = ["ssh-ed25519 AAAA"]
        [[importer]]
        name = "a"
        require = ["luck"]
        users = []
        [[importer]]
        name = "a"
        pubish = []
        "#,
    );
    let checked = world.run(&["check-config"]);
    assert!(!checked.status.success());
    let said = text(&checked);
    for problem in [
        "missing key `importer.name`",
        "expected arch/subarch/release/purpose",
        "expected a public key as in `~/.ssh/id_ed25519.pub`",
        "expected one of \"files\", \"serial\", \"expires\"",
        "expected at least one name; without the key the rule matches anybody",
        "expected a name of its own: there is a rule `a` already",
        "unknown key `importer.pubish`",
    ] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
}
