//! Manifests that mean harm: no good, without end, the link to a secret, text that forges lines.

use std::fs;
use std::os::unix::fs::chown;

use libtest_mimic::Trial;

use super::{IMPORTER, Siege, TARGET, own, replace};
use crate::lab::world::{Needs, manifest, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a manifest that is no good is refused with the place and what was expected",
            &[],
            bad_manifests,
        ),
        test(
            "a manifest of endless length or depth is refused and holds up nobody",
            &[],
            endless_manifests,
        ),
        test(
            "nothing of a manifest that is a hard link to a secret comes to light",
            &[Needs::Root],
            manifest_of_another,
        ),
        test(
            "no hostile text reaches the log or an outcome unescaped",
            &[],
            no_injection,
        ),
    ]
}

/// What was expected of a name, and of a path, in a manifest.
const NAME: &str = "expected 1 to 64 of `A-Z a-z 0-9 . _ + -`";
const PATH: &str = "expected a path below `image`, without `.`, `..` and control characters";

fn bad_manifests() {
    let good = manifest(TARGET);
    let with = |key: &str, value: &str| {
        let other = good
            .lines()
            .filter(|line| !line.starts_with(&format!("{key} =")));
        let other: Vec<_> = other.collect();
        format!("{}\n{key} = {value}\n", other.join("\n")).into_bytes()
    };
    let files = |path: &str| {
        format!(
            "{good}[files]\n{path} = {{ sha256 = \"{}\" }}\n",
            "0".repeat(64)
        )
        .into_bytes()
    };
    let long = "a".repeat(64 << 10);
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (with("purpose", "\"..\""), &["manifest.toml:5:11", NAME]),
        (
            with("arch", "\"../../../etc\""),
            &["manifest.toml:5:8", NAME],
        ),
        (with("release", "\"a/b\""), &["manifest.toml:5:11", NAME]),
        (with("release", "\"/\""), &["manifest.toml:5:11", NAME]),
        (
            with("subarch", "\"\\u0000\""),
            &["manifest.toml:5:11", NAME],
        ),
        (with("subarch", "\"a\\nb\""), &["manifest.toml:5:11", NAME]),
        (with("arch", "\"\""), &["manifest.toml:5:8", NAME]),
        (
            with("arch", "\".netboot-publisher\""),
            &["manifest.toml:5:8", NAME],
        ),
        (
            with("purpose", "\"install@\""),
            &["manifest.toml:5:11", NAME],
        ),
        (
            with("arch", &format!("\"{long}\"")),
            &["manifest.toml:5:8", NAME],
        ),
        (with("arch", "\"catalog.json\""), &["would collide"]),
        (
            with("version", "\"\\u001b[2J\""),
            &["manifest.toml:6:11", "without control characters"],
        ),
        (
            with("version", &format!("\"{long}\"")),
            &["manifest.toml:6:11", "at most 128 bytes"],
        ),
        (
            with(&long, "1"),
            &["manifest.toml:6:1", "unknown key `aaaaaaaa", "…"],
        ),
        (
            with("\"x\\u001b[2J\\u009b\"", "1"),
            &["manifest.toml:6:1", "unknown key `x\\u{1b}[2J\\u{9b}`"],
        ),
        (files("\"../secret\""), &["manifest.toml:7:1", PATH]),
        (files("\"/etc/passwd\""), &["manifest.toml:7:1", PATH]),
        (files("\"a//b\""), &["manifest.toml:7:1", PATH]),
        (files("\"a\\u0000b\""), &["manifest.toml:7:1", PATH]),
        (files("\"a\\nFORGED\""), &["manifest.toml:7:1", PATH]),
        (b"\x00".to_vec(), &["manifest.toml:1:1"]),
        (
            b"\x7fELF\xff\xff".to_vec(),
            &["manifest.toml: expected UTF-8, not so at byte 4"],
        ),
        (
            b"\xfe\xff\x00f".to_vec(),
            &["expected UTF-8, not so at byte 0"],
        ),
        (
            Vec::new(),
            &[
                "missing key `format`",
                "missing key `arch`",
                "missing key `release`",
                "missing key `purpose`",
            ],
        ),
    ];
    let mut siege = Siege::new();
    for (number, (text, said)) in cases.into_iter().enumerate() {
        let name = format!("case-{number}");
        siege.put_in(&name, "", |drop| {
            fs::write(drop.join("manifest.toml"), &text).unwrap()
        });
        let outcome = siege.assert_refused(&name, "bad-manifest", said);
        assert!(outcome["target"].is_null(), "{outcome:#}");
        assert!(
            outcome.to_string().len() < 4_096,
            "a detail without end: {outcome:#}"
        );
    }
    siege.end();
}

fn endless_manifests() {
    const LONGEST: usize = 16 << 20;
    let head = manifest(TARGET);
    let endless = |start: &str, more: &str| {
        let times = (LONGEST - head.len() - start.len()) / more.len();
        format!("{head}{start}{}", more.repeat(times))
    };
    let mut siege = Siege::new();
    for (name, text) in [
        ("too-long", " ".repeat(LONGEST + 1)),
        ("nested", endless("x = ", "[")),
        ("tables", endless("x = ", "{a=")),
        ("dotted", endless("x", ".x")),
        ("errors", endless("", "]\n")),
        ("keys", endless("", "[x]\n")),
        ("one-value", endless("version = \"", "x")),
        ("nothing", endless("x", "\n")),
    ] {
        siege.put_in(name, &text, |_| {});
        let outcome = siege.assert_refused(name, "bad-manifest", &["manifest.toml"]);
        assert!(
            outcome.to_string().len() < 16_384,
            "a detail without end: {name}"
        );
    }
    siege.end();
}

fn manifest_of_another() {
    let mut siege = Siege::new();
    let secret = siege.outside.join("secret");
    siege.put_in("peek", "", |drop| {
        replace(&drop.join("manifest.toml"), |path| {
            fs::hard_link(&secret, path).unwrap()
        });
        own(drop, IMPORTER);
        chown(drop.join("manifest.toml"), Some(0), Some(0)).unwrap();
    });
    let outcome = siege.assert_refused(
        "peek",
        "unsafe-file",
        &["a regular file that belongs to nobody"],
    );
    assert_eq!(outcome["importer"]["uid"], IMPORTER);
    siege.end();
}

fn no_injection() {
    let mut siege = Siege::new();
    let evil = "\u{9b}2J\u{85}FORGED\u{2028}FORGED \u{202e}\u{2066}";
    let head = manifest(TARGET);
    let cases = [
        ("comment", format!("{head}version = 3 # {evil}\n")),
        ("value", format!("{head}version = [\"{evil}\"]\n")),
        ("key", format!("{head}\"{evil}\" = 1\n")),
        (
            "escaped-key",
            format!("{head}\"\\nFORGED\\u001b[2J\" = 1\n"),
        ),
        (
            "lines",
            format!("{head}version = [\"\"\"\nFORGED 2026-11-23 INFO published\n\"\"\"]\n"),
        ),
        (
            "path",
            format!("{head}[files]\n\"{evil}\" = {{ sha256 = \"x\" }}\n"),
        ),
        ("return", format!("{head}version = 3 # a\rFORGED\n")),
    ];
    for (name, text) in cases {
        siege.put_in(name, &text, |_| {});
        siege.assert_refused(name, "bad-manifest", &["manifest.toml"]);
    }
    let name = "x\u{2028}FORGED \u{202e}\" INFO published";
    siege.put_in(name, &manifest(TARGET), |_| {});
    siege.assert_goes_on();
    assert_eq!(siege.world.outcome(name).unwrap()["outcome"], "published");
    siege.end();
}
