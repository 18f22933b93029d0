//! The house: what the map in `src/lib.rs` says of the rooms is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What rooms offer each other, all together.
const MAX_NAMES: usize = 100;
/// Lines of a function, and of all `impl` blocks of a type; fields of a type.
const MAX_FUNCTION: usize = 60;
const MAX_IMPL: usize = 300;
const MAX_FIELDS: usize = 12;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn names(path: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(ROOT).join(path)).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The rooms in the order of the map: the lower ones first.
fn rooms() -> Vec<String> {
    let map = read("src/lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.map(|row| row.split('`').next().unwrap().to_string())
        .collect()
}

/// One file of a room; `lib.rs` and `main.rs` are in none.
struct Source {
    room: String,
    /// Within the room: `mod`, `record`; of a room that is a file, its own name.
    file: String,
    /// Without comments and tests.
    code: String,
}

impl Source {
    fn path(&self) -> String {
        format!("{}/{}", self.room, self.file)
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for name in names("src") {
        if let Some(room) = name.strip_suffix(".rs") {
            if !["lib", "main"].contains(&room) {
                sources.push((room.to_string(), room.to_string(), format!("src/{name}")));
            }
            continue;
        }
        for file in names(format!("src/{name}")) {
            let path = format!("src/{name}/{file}");
            let file = file
                .strip_suffix(".rs")
                .expect("only source files are in a room");
            sources.push((name.clone(), file.to_string(), path));
        }
    }
    let source = |(room, file, path): (String, String, String)| {
        let text = read(path);
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.map(|line| line.split(" // ").next().unwrap().to_string() + "\n");
        let code = code.collect();
        Source { room, file, code }
    };
    sources.into_iter().map(source).collect()
}

/// Every path in `code` that goes on behind `prefix`, with braces written out.
fn paths_behind(code: &str, prefix: &str) -> Vec<Vec<String>> {
    let is_start = |(at, _): &(usize, &str)| {
        let before = code[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    };
    let starts = code.match_indices(prefix).filter(is_start);
    let mut paths = Vec::new();
    for (at, _) in starts {
        write_out(&mut &code[at + prefix.len()..], &[], &mut paths);
    }
    paths
}

/// Takes one path of a `use` from the front of `rest`.
fn write_out(rest: &mut &str, above: &[String], paths: &mut Vec<Vec<String>>) {
    *rest = rest.trim_start();
    if let Some(list) = rest.strip_prefix('{') {
        *rest = list;
        while !rest.trim_start().starts_with('}') {
            write_out(rest, above, paths);
            *rest = rest.trim_start().trim_start_matches(',');
        }
        *rest = &rest.trim_start()[1..];
        return;
    }
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'))
        .unwrap_or(rest.len());
    let mut path = above.to_vec();
    path.push(rest[..end].to_string());
    *rest = &rest[end..];
    match rest.strip_prefix("::") {
        Some(below) if !below.starts_with('<') => {
            *rest = below;
            write_out(rest, &path, paths);
        }
        _ => paths.push(path),
    }
}

/// What a room offers to others: each name with the file that it comes from.
fn offered(room: &str, sources: &[Source]) -> BTreeMap<String, String> {
    let of_room = |source: &&Source| source.room == room;
    let door = sources
        .iter()
        .filter(of_room)
        .find(|source| source.file == "mod" || source.file == room)
        .expect("a room has a door");
    let mut offered = BTreeMap::new();
    for line in door.code.split(';') {
        let line = line.trim();
        for begin in ["pub use ", "pub(crate) use "] {
            for path in line.rsplit('\n').next_back().map_or(vec![], |_| {
                line.find(begin).map_or(vec![], |at| {
                    let mut paths = Vec::new();
                    write_out(&mut &line[at + begin.len()..], &[], &mut paths);
                    paths
                })
            }) {
                offered.insert(path.last().unwrap().clone(), path[0].clone());
            }
        }
    }
    for line in door.code.lines() {
        let rest = line
            .strip_prefix("pub(crate) ")
            .or_else(|| line.strip_prefix("pub "));
        let Some(rest) = rest else { continue };
        let mut words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let kind = words.find(|word| *word != "async").unwrap();
        if kind != "use" {
            let name = words.find(|word| !word.is_empty()).unwrap();
            offered.insert(name.to_string(), door.file.clone());
        }
    }
    offered
}

#[test]
fn the_map_lists_every_room_and_no_other() {
    let mapped: BTreeSet<_> = rooms().into_iter().collect();
    let there: BTreeSet<_> = sources().into_iter().map(|source| source.room).collect();
    assert_eq!(mapped, there);
}

#[test]
fn a_file_names_only_rooms_that_stand_lower() {
    let rooms = rooms();
    let floor = |room: &str| rooms.iter().position(|other| other == room);
    let mut arrows = BTreeSet::new();
    for source in sources() {
        for path in paths_behind(&source.code, "crate::") {
            let other =
                floor(&path[0]).unwrap_or_else(|| panic!("{} names {path:?}", source.path()));
            assert!(
                other < floor(&source.room).unwrap(),
                "{} names crate::{}, which does not stand lower",
                source.path(),
                path.join("::")
            );
            arrows.insert((source.room.clone(), path[0].clone()));
        }
        assert!(
            !source.code.contains("netboot_publisher::"),
            "{}",
            source.path()
        );
    }
    assert!(arrows.len() > 40, "the test does not see what is used");
    for pair in [["spool", "tree"], ["tree", "spool"]] {
        let [one, other] = pair.map(String::from);
        assert!(!arrows.contains(&(one, other)), "{pair:?} are strangers");
    }
}

#[test]
fn within_a_room_no_two_files_name_each_other_in_a_circle() {
    let sources = sources();
    for room in rooms() {
        let offered = offered(&room, &sources);
        let files: Vec<_> = sources
            .iter()
            .filter(|source| source.room == room)
            .collect();
        let mut arrows = BTreeMap::new();
        for source in &files {
            arrows.insert(source.file.as_str(), neighbours(source, &files, &offered));
        }
        while !arrows.is_empty() {
            let free = arrows
                .iter()
                .find(|(_, others)| others.iter().all(|other| !arrows.contains_key(&**other)))
                .map(|(file, _)| *file);
            let free = free.unwrap_or_else(|| panic!("a circle in {room}: {arrows:?}"));
            arrows.remove(free);
        }
    }
}

/// The other files of its room that `source` names.
fn neighbours(
    source: &Source,
    files: &[&Source],
    offered: &BTreeMap<String, String>,
) -> BTreeSet<String> {
    let is_file = |name: &str| files.iter().any(|file| file.file == name);
    let mut found = BTreeSet::new();
    if source.file == "mod" {
        // What the door offers it can name as well; to offer it is no use.
        let uses = source.code.split(';').filter(|item| {
            let item = item.trim_start();
            !item.starts_with("pub(crate) use")
                && !item.starts_with("pub use")
                && !item.starts_with("mod ")
        });
        let code: String = uses.collect();
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let used = offered.iter().filter(|(name, _)| {
            // A small name may be a variable's as well: here it is one when it is not called.
            let call = if name.starts_with(char::is_lowercase) {
                "("
            } else {
                ""
            };
            code.match_indices(&format!("{name}{call}"))
                .any(|(at, found)| {
                    let (before, after) = (&code[..at], &code[at + found.len()..]);
                    !before.ends_with(|c| is_name(c) || c == '.')
                        && (!call.is_empty() || !after.starts_with(is_name))
                })
        });
        found.extend(used.map(|(_, file)| file.clone()));
        let inside = paths_behind(&source.code, "self::").into_iter();
        found.extend(
            inside
                .map(|path| path[0].clone())
                .filter(|name| is_file(name)),
        );
    }
    for path in paths_behind(&source.code, "super::") {
        let first = &path[0];
        found.insert(if is_file(first) {
            first.clone()
        } else {
            offered.get(first).map_or("mod", String::as_str).to_string()
        });
    }
    found.remove(&source.file);
    found
}

#[test]
fn rooms_offer_each_other_a_hundred_names_at_most() {
    let sources = sources();
    let offered: Vec<_> = rooms()
        .into_iter()
        .filter(|room| Path::new(ROOT).join("src").join(room).is_dir())
        .flat_map(|room| {
            offered(&room, &sources)
                .into_keys()
                .map(move |name| format!("{room}::{name}"))
        })
        .collect();
    assert!(offered.len() > 40, "the test does not see what is offered");
    assert!(offered.len() <= MAX_NAMES, "{}: {offered:?}", offered.len());
}

#[test]
fn no_function_no_type_and_no_impl_grows_too_large() {
    let mut impls = BTreeMap::<String, usize>::new();
    for source in sources() {
        let path = source.path();
        let lines: Vec<_> = source.code.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let item = line.trim_start();
            let indent = &line[..line.len() - item.len()];
            if !line.ends_with('{') && !item.contains("fn ") {
                continue;
            }
            let end = format!("{indent}}}");
            let length = || {
                lines[at..]
                    .iter()
                    .position(|line| *line == end)
                    .unwrap_or(0)
                    + 1
            };
            let words: Vec<_> = item.split_whitespace().collect();
            let is = |word: &str| words.iter().take(4).any(|it| *it == word);
            if is("fn") {
                assert!(
                    length() <= MAX_FUNCTION,
                    "{path}: {} lines: {item}",
                    length()
                );
            } else if words[0].starts_with("impl") {
                let of = words.iter().skip_while(|word| **word != "for").nth(1);
                let of = of.unwrap_or_else(|| words.iter().rfind(|word| **word != "{").unwrap());
                let of = of.split('<').next().unwrap();
                *impls.entry(format!("{}::{of}", source.room)).or_default() += length();
            } else if is("struct") && source.room != "settings" {
                let inner = format!("{indent}    ");
                let is_field = |line: &&&str| {
                    let field = line.strip_prefix(&inner);
                    field.is_some_and(|field| {
                        !field.starts_with(['#', ' ', '}']) && field.contains(':')
                    })
                };
                let count = lines[at + 1..at + length()].iter().filter(is_field).count();
                assert!(count <= MAX_FIELDS, "{path}: {count} fields: {item}");
            }
        }
    }
    assert!(impls.len() > 40, "the test does not see what is there");
    // Its calls are its subject.
    impls.remove("sys::Dir");
    let large: Vec<_> = impls
        .iter()
        .filter(|(_, lines)| **lines > MAX_IMPL)
        .collect();
    assert!(large.is_empty(), "{large:?}");
}

#[test]
fn only_sys_makes_system_calls_on_names() {
    let mut is_seen = false;
    for source in sources() {
        let path = source.path();
        if source.room == "sys" {
            is_seen |= source.code.contains("rustix::fs");
            continue;
        }
        for used in paths_behind(&source.code, "rustix::") {
            // Watches are on open directories; a mask is on no name.
            let is_fine = used[0] != "fs"
                || used.contains(&"inotify".into())
                || used.contains(&"Mode".into());
            assert!(is_fine, "{path} uses rustix::{}", used.join("::"));
        }
        for call in [
            "std::fs",
            "File::open",
            "File::create",
            "OpenOptions",
            ".canonicalize()",
            ".exists()",
            ".is_dir()",
            ".is_file()",
            ".is_symlink()",
            ".metadata()",
            ".symlink_metadata()",
            ".read_dir()",
            ".read_link()",
        ] {
            let code = source.code.replace("std::fs::File;", "");
            // The admin's own file, which is read before anything else happens; from a pipe as well.
            let code = match path.as_str() {
                "commands/configuration" => code.replace("std::fs::read_to_string(file)", ""),
                _ => code,
            };
            assert!(!code.contains(call), "{path} calls {call}");
        }
    }
    assert!(is_seen, "the test does not see what sys does");
}

#[test]
fn only_the_log_opens_sockets() {
    let with_sockets = sources()
        .into_iter()
        .filter(|source| source.code.contains("std::os::unix::net"));
    assert_eq!(
        with_sockets.map(|source| source.path()).collect::<Vec<_>>(),
        ["log/journal"]
    );
}

#[test]
fn below_the_publisher_nobody_knows_tokio_or_anyhow() {
    let rooms = rooms();
    let lower = rooms.split(|room| room == "publisher").next().unwrap();
    assert!(lower.len() > 5);
    for source in sources()
        .iter()
        .filter(|source| lower.contains(&source.room))
    {
        for name in ["tokio", "anyhow"] {
            let uses = [format!("{name}::"), format!("{name}!")];
            assert!(
                !uses.iter().any(|it| source.code.contains(it)),
                "{} uses {name}",
                source.path()
            );
        }
    }
}

#[test]
fn nothing_is_unsafe() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(
        manifest["lints"]["rust"]["unsafe_code"].as_str(),
        Some("forbid")
    );
}

#[test]
fn main_is_thin() {
    assert!(read("src/main.rs").lines().count() <= 40);
}

#[test]
fn the_top_level_holds_what_belongs_there() {
    let expected = [
        ".ci",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "config",
        "src",
        "systemd",
        "tests",
    ];
    let mut there = names(".");
    let ignored = read(".gitignore");
    let ignored = ignored.lines().map(|line| line.trim_start_matches('/'));
    for name in ignored.chain([".git"]) {
        there.remove(name);
    }
    assert_eq!(there, expected.map(String::from).into());
}
