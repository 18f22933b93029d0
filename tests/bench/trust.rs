//! What signatures and importer rules cost: the same drops signed and not, with rules and without, side
//! by side in one run.

use std::fs;
use std::path::Path;
use std::process::Command;

use netboot_publisher::Digest;
use ssh_key::PublicKey;
use ssh_key::public::Ed25519PublicKey;

use crate::measure::{Cost, Sides, Unit};
use crate::world::{World, manifest, own};
use crate::{Bench, SMALL, noise, rename_anew, run, run_once, target};

/// Every Debian has this user, who needs rules: root needs none.
const IMPORTER: (u32, &str) = (5, "games");

const DROPS: usize = 2_000;

/// Bytes of each of the two files of a drop.
const FILE: usize = 32 << 10;

const RULES: u16 = 1_000;

/// How the drops are let in.
struct Way {
    what: &'static str,
    rules: String,
    is_signed: bool,
}

/// The manifest of each drop, and its signature.
struct Papers(Vec<(String, Vec<u8>)>);

pub fn trust(bench: &Bench) {
    if !rustix::process::geteuid().is_root() {
        println!("trust: not measured, drops of another user take root");
        return;
    }
    let dir = tempfile::tempdir_in(&bench.dir).expect("a temporary directory");
    let key = dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    run(keygen
        .args(["-q", "-N", "", "-t", "ed25519", "-f"])
        .arg(&key));
    let papers = [0, 1].map(|stamp| Papers::sign(dir.path(), &key, stamp));
    let ways = ways(&fs::read_to_string(key.with_extension("pub")).unwrap());
    let phases = [("first", 0), ("changed", 1), ("unchanged", 1)];
    // Of a start with nothing to do, and of all that is beyond such a one.
    let mut starts = phases.map(|_| ways.each_ref().map(|_| Vec::new()));
    let mut costs = phases.map(|_| ways.each_ref().map(|_| Vec::new()));
    for round in 0..bench.rounds {
        let worlds = ways.each_ref().map(|way| bench.world_with(&way.rules));
        for (((phase, stamp), starts), costs) in phases.iter().zip(&mut starts).zip(&mut costs) {
            for ((world, _dir), starts) in worlds.iter().zip(starts) {
                starts.push(Cost::of(|| run_once(world)));
            }
            for ((world, _dir), way) in worlds.iter().zip(&ways) {
                drop_all(world, phase, &papers[*stamp], *stamp, way.is_signed);
            }
            // Who begins takes turns.
            for turn in 0..ways.len() {
                let at = (turn + round) % ways.len();
                let (world, _dir) = &worlds[at];
                costs[at].push(Cost::of(|| run_once(world)));
                assert_way(world, phase, &ways[at]);
            }
        }
    }
    for (what, control, goal, is_with_start) in
        [(2, 1, "1.15", true), (3, 0, "1", false), (4, 2, "1", false)]
    {
        for (((phase, _), starts), costs) in phases.iter().zip(&starts).zip(&costs) {
            let beyond = if is_with_start {
                ""
            } else {
                ", beyond a start"
            };
            let case = format!("{}, {phase}{beyond}", ways[what].what);
            let costs = |at: usize| {
                let all = costs[at].iter().zip(&starts[at]);
                let cost = |(all, start): (&Cost, _)| {
                    if is_with_start {
                        *all
                    } else {
                        all.beyond(start)
                    }
                };
                all.map(cost).collect()
            };
            let sides = Sides {
                ours: costs(what),
                control: costs(control),
            };
            sides.print(&case, ways[control].what, Unit::Rate(DROPS), goal);
        }
    }
}

fn ways(key: &str) -> [Way; 5] {
    let many = |last: String| {
        let others = (1..RULES).map(|number| {
            let mut bytes = [7; 32];
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            let key = PublicKey::from(Ed25519PublicKey(bytes)).to_openssh();
            rule(&format!("team-{number}"), &key.expect("a key"))
        });
        others.chain([last]).collect::<String>()
    };
    let (signed, unsigned) = (rule(IMPORTER.1, key), rule(IMPORTER.1, ""));
    [
        ("no rule", String::new(), false),
        ("one rule", unsigned.clone(), false),
        ("signed, one rule", signed.clone(), true),
        ("1,000 rules", many(unsigned), false),
        ("signed, 1,000 rules", many(signed), true),
    ]
    .map(|(what, rules, is_signed)| Way {
        what,
        rules,
        is_signed,
    })
}

/// A rule for this user.
fn rule(user: &str, key: &str) -> String {
    let keys = match key.trim() {
        "" => String::new(),
        key => format!("keys = [{key:?}]\n"),
    };
    format!(
        "[[importer]]\nname = {user:?}\nusers = [{user:?}]\n{keys}\
         publish = [\"arch*/*/release*/purpose*\", \"amd64/*/noble/*\"]\n"
    )
}

impl Papers {
    fn sign(dir: &Path, key: &Path, stamp: usize) -> Self {
        let mut bytes = noise(FILE);
        let texts = (0..DROPS).map(|number| {
            mark(&mut bytes, number, stamp);
            let lines = SMALL.map(|name| {
                let sha256 = Digest::of(&bytes);
                format!("{name:?} = {{ sha256 = \"{sha256}\", size = {FILE} }}\n")
            });
            format!("{}[files]\n{}", manifest(&target(number)), lines.concat())
        });
        let texts: Vec<_> = texts.collect();
        let path = |number| dir.join(format!("{stamp}-{number}.toml"));
        for (number, text) in texts.iter().enumerate() {
            fs::write(path(number), text).unwrap();
        }
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-Y", "sign", "-n", "netboot-publisher", "-f"]);
        run(keygen.arg(key).args((0..DROPS).map(path)));
        let signature = |number| fs::read(path(number).with_extension("toml.sig")).unwrap();
        let all = texts.into_iter().enumerate();
        Self(all.map(|(at, text)| (text, signature(at))).collect())
    }
}

/// Makes the bytes of a drop's files those of no other drop.
fn mark(bytes: &mut [u8], drop: usize, stamp: usize) {
    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
    bytes[8..16].copy_from_slice(&drop.to_le_bytes());
}

fn drop_all(world: &World, phase: &str, papers: &Papers, stamp: usize, is_signed: bool) {
    let mut bytes = noise(FILE);
    for (number, (manifest, signature)) in papers.0.iter().enumerate() {
        mark(&mut bytes, number, stamp);
        let name = format!("{phase}-{number}");
        world.drop_with(&name, manifest, |image| {
            for file in SMALL {
                fs::write(image.join(file), &bytes).unwrap();
            }
            if is_signed {
                fs::write(image.with_file_name("manifest.toml.sig"), signature).unwrap();
            }
        });
        own(&world.incoming(&name), IMPORTER.0);
    }
    rename_anew(world, (0..DROPS).map(|number| format!("{phase}-{number}")));
}

/// The last drop went the way that it was to go.
fn assert_way(world: &World, phase: &str, way: &Way) {
    let expected = if phase == "unchanged" {
        "unchanged"
    } else {
        "published"
    };
    let outcome = world.assert_outcome(&format!("{phase}-{}", DROPS - 1), expected);
    let rule = outcome["rule"].as_str();
    assert_eq!(rule, (!way.rules.is_empty()).then_some(IMPORTER.1));
    assert_eq!(outcome["signer"].is_string(), way.is_signed);
}
