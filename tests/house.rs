//! The house: what the map in `src/lib.rs` says of the rooms is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The paths of what is in a folder; of a file, its own.
fn inside(path: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(path) else {
        return BTreeSet::from([path.to_string()]);
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.map(|path| path.display().to_string()).collect()
}

/// The rooms in the order of the map: the lower ones first.
fn rooms() -> Vec<String> {
    let map = fs::read_to_string("src/lib.rs").unwrap();
    let room = |line: &str| Some(line.strip_prefix("//! | `")?.split_once('`')?.0.to_string());
    map.lines().filter_map(room).collect()
}

/// The code of every file in the rooms, by its path: `src/settings.rs`, `src/log/journal.rs`.
fn sources() -> BTreeMap<String, String> {
    let files = inside("src").into_iter().flat_map(|it| inside(&it));
    let programs = ["src/lib.rs", "src/main.rs", "src/bin/netboot-import.rs"];
    let files = files.filter(|file| !programs.contains(&&**file));
    files.map(|file| (file.clone(), code(&file))).collect()
}

/// Without comments and tests; what stands in the own crate has its path from the root on.
fn code(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|it| !it.trim_start().starts_with("//"));
    let lines: Vec<_> = lines.map(|it| it.split(" // ").next().unwrap()).collect();
    let code = lines.join("\n").replace("super::super::", "crate::");
    let here = format!("crate::{}::", first(file));
    if file.ends_with("/mod.rs") || file.matches('/').count() == 1 {
        return code.replace("super::", "crate::").replace("self::", &here);
    }
    code.replace("super::", &here)
}

/// Every path in `code`, with braces written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<String> {
    let (mut paths, mut open) = (Vec::new(), Vec::new());
    let is_end = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
    for part in code.split_inclusive(is_end) {
        let name = part.trim_end_matches(is_end);
        let is_list = part.ends_with("::{");
        if !name.is_empty() && !is_list {
            paths.push(open.concat() + name.trim_end_matches(':'));
        }
        match part.chars().last() {
            Some('{') => open.push(if is_list { name } else { "" }),
            Some('}') => drop(open.pop()),
            _ => {}
        }
    }
    paths
}

/// The room of a file, or the first name of a path.
fn first(path: &str) -> &str {
    path.split(['/', ':', '.']).find(|it| *it != "src").unwrap()
}

/// What a door offers, and which file of its room each comes from.
fn offered(door: &str) -> BTreeMap<String, String> {
    let mut offered = BTreeMap::new();
    for item in door.replace("(crate)", "").split("\npub ").skip(1) {
        let words = paths(item.split(';').next().unwrap());
        let count = if words[0] == "use" { usize::MAX } else { 1 };
        for name in words.iter().skip(1).take(count) {
            let (file, name) = name.rsplit_once("::").unwrap_or(("mod", name));
            offered.insert(name.to_string(), file.to_string());
        }
    }
    offered
}

/// Which files name something of which this is so.
fn naming(is_meant: impl Fn(&str) -> bool) -> Vec<[String; 2]> {
    let mut found = Vec::new();
    for (file, code) in sources() {
        let paths = paths(&code).into_iter().filter(|path| is_meant(path));
        found.extend(paths.map(|path| [file.clone(), path]));
    }
    found
}

#[test]
fn the_map_lists_every_room_and_no_other() {
    let there = sources().into_keys().map(|it| first(&it).to_string());
    let mapped: BTreeSet<_> = rooms().into_iter().collect();
    assert_eq!(mapped, there.collect());
}

#[test]
fn a_file_names_only_rooms_that_stand_lower() {
    let rooms = rooms();
    let mut uses = naming(|path| path.contains("crate::") || path.contains("netboot_publisher::"));
    assert!(uses.len() > 200, "the test does not see what is used");
    uses.retain(|[file, path]| {
        let (room, other) = (first(file), path.split(':').nth(2).unwrap());
        let mut lower = rooms.iter().take_while(|it| *it != room);
        // Spool and tree are strangers.
        room != other && (!lower.any(|it| it == other) || [room, other] == ["tree", "spool"])
    });
    assert!(uses.is_empty(), "{uses:?}");
}

#[test]
fn within_a_room_no_two_files_name_each_other_in_a_circle() {
    for room in rooms() {
        let mut files = sources();
        files.retain(|file, _| first(file) == room);
        let offered = offered(files.get(&format!("src/{room}/mod.rs")).map_or("", |it| it));
        let neighbour = |file: &str, path: &str| {
            let inside = path.strip_prefix(&format!("crate::{room}::"));
            let name = first(inside.unwrap_or(path));
            let of_door = offered.get(name).map(String::as_str);
            // A door names what it offers without a path.
            let name = match inside {
                Some(_) if files.contains_key(&format!("src/{room}/{name}.rs")) => name,
                Some(_) => of_door.unwrap_or("mod"),
                None => of_door.filter(|_| file.ends_with("/mod.rs"))?,
            };
            Some(format!("src/{room}/{name}.rs")).filter(|other| other != file)
        };
        let mut arrows = BTreeMap::new();
        for (file, code) in &files {
            let paths = paths(code);
            let others = paths.iter().filter_map(|path| neighbour(file, path));
            arrows.insert(file, others.collect::<BTreeSet<_>>());
        }
        while !arrows.is_empty() {
            let left = arrows.clone();
            arrows.retain(|_, others| others.iter().any(|it| left.contains_key(it)));
            assert!(arrows.len() < left.len(), "a circle: {arrows:?}");
        }
    }
}

#[test]
fn nothing_grows_too_large() {
    let (mut large, mut impls) = (Vec::new(), BTreeMap::<_, usize>::new());
    let mut names = Vec::new();
    for (file, code) in sources() {
        if file.ends_with("/mod.rs") {
            names.extend(offered(&code).into_keys());
        }
        let depth = |line: &str| line.len() - line.trim_start().len();
        let lines: Vec<_> = code.lines().map(|it| (depth(it), it.trim())).collect();
        for (at, (depth, item)) in lines.iter().enumerate() {
            let is_end = |line: &(usize, &str)| *line == (*depth, "}");
            let block = lines[at..].split(is_end).next().unwrap();
            let is_field = |line: &&(usize, &str)| line.0 == depth + 4 && line.1.ends_with(',');
            let fields = block.iter().filter(is_field).count();
            let mut kinds = item.split([' ', '<']).take(4);
            let is_large = match kinds.find(|it| ["fn", "impl", "struct"].contains(it)) {
                Some("fn") => block.len() >= 60,
                Some("struct") => fields > 12 && file != "src/settings/mod.rs",
                Some("impl") if item.ends_with('{') => {
                    let item = item.replace(", ", ",");
                    let of = item.rsplit(' ').nth(1).unwrap().split('<').next();
                    let of = format!("{}::{}", first(&file), of.unwrap());
                    let lines = impls.entry(of.clone()).or_default();
                    *lines += block.len() + 1;
                    // The calls of `Dir` are its subject.
                    *lines > 300 && of != "sys::Dir"
                }
                _ => false,
            };
            large.extend(is_large.then(|| format!("{file}: {item}")));
        }
    }
    assert!(impls["sys::Dir"] > 300, "the test is blind");
    // A hundred, those of the settings, which were a file once, those of trust and what it needs, those
    // of aliases, those of notes, those of the second program, and the papers of images that orders carry.
    let (first, settings, trust, aliases, notes, import) = (100, 16, 14, 3, 2, 42);
    let papers = 1;
    let most = first + settings + trust + aliases + notes + import + papers;
    assert!(
        (50..=most).contains(&names.len()),
        "{} {names:?}",
        names.len()
    );
    assert!(large.is_empty(), "{large:?}");
}

#[test]
fn only_sys_makes_system_calls_on_names_and_only_the_log_opens_sockets() {
    let all = "std::fs rustix::fs OpenOptions File::open File::create unix::net";
    let mut calls = naming(|path| match path {
        "canonicalize" | "exists" | "is_dir" | "is_file" | "is_symlink" | "metadata"
        | "symlink_metadata" | "read_dir" | "read_link" => true,
        // Watches are on open directories; a mask is on no name.
        _ if path.contains("fs::inotify") || path.contains("fs::Mode") => false,
        _ => path != "std::fs::File" && all.split(' ').any(|it| path.contains(it)),
    });
    let of_sys = calls.extract_if(.., |[file, _]| first(file) == "sys");
    assert!(of_sys.count() > 9, "the test is blind");
    // The admin's own file, which is read before anything else happens; from a pipe as well.
    let of_admin = ["src/commands/configuration.rs", "std::fs::read_to_string"];
    let of_log = ["src/log/journal.rs", "std::os::unix::net::UnixDatagram"];
    assert_eq!(calls, [of_admin, of_log]);
}

#[test]
fn below_the_publisher_nobody_knows_tokio_or_anyhow() {
    let rooms = rooms();
    let lower = rooms.split(|room| room == "publisher").next().unwrap();
    let mut uses = naming(|path| path.starts_with("tokio") || path.starts_with("anyhow"));
    assert!(lower.len() > 5 && uses.len() > 50, "the test is blind");
    uses.retain(|[file, _]| lower.iter().any(|room| room == first(file)));
    assert!(uses.is_empty(), "{uses:?}");
}

#[test]
fn each_main_is_thin_and_one_call_is_unsafe() {
    for main in ["src/main.rs", "src/bin/netboot-import.rs"] {
        let main = fs::read_to_string(main).unwrap();
        assert!(main.lines().count() <= 40);
    }
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    assert!(manifest.contains("\nunsafe_code = \"deny\"\n"));
    let uses = sources().into_iter().map(|(file, code)| {
        let uses = |word| code.matches(word).count();
        (
            file,
            uses("unsafe {") + uses("unsafe fn") + uses("unsafe impl"),
        )
    });
    let uses: Vec<_> = uses.filter(|(_, count)| *count > 0).collect();
    assert_eq!(uses, [("src/sys/lease.rs".to_string(), 1)]);
}

#[test]
fn the_top_level_holds_what_belongs_there() {
    let belongs = ".ci .gitignore Cargo.lock Cargo.toml LICENSE README.md config src systemd tests";
    let ignored = fs::read_to_string(".gitignore").unwrap() + "/.git";
    let mut there = Vec::from_iter(inside("."));
    there.retain(|path| !ignored.lines().any(|line| line == &path[1..]));
    assert_eq!(there.join(" ").replace("./", ""), belongs);
}
