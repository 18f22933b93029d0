//! The house: what the map in `src/lib.rs` and the README say is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netboot_publisher::manifest::Manifest;
use netboot_publisher::outcome::Outcome;
use netboot_publisher::settings::Settings;

const PROGRAM: &str = env!("CARGO_BIN_EXE_netboot-publisher");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the README calls the main command.
const MAIN_COMMAND: &str = "cargo run --release -- run --config config/local.toml";

/// From here up a module may use `tokio` and `anyhow`.
const ASYNC_FLOOR: u32 = 6;

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

/// The floor of every module, as the table in the map has it.
fn floors() -> BTreeMap<String, u32> {
    let map = read("src/lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.filter_map(|row| {
        let (floor, rest) = row.split_once(" | [`")?;
        let (module, _) = rest.split_once("`]")?;
        Some((module.to_string(), floor.parse().ok()?))
    });
    cells.collect()
}

/// Every module with its code: without comments, but with its tests.
fn modules() -> BTreeMap<String, String> {
    let files = names("src")
        .into_iter()
        .filter(|name| !["lib.rs", "main.rs"].contains(&&**name));
    let module = |name: String| {
        let code = code(&read(format!("src/{name}")));
        (
            name.strip_suffix(".rs")
                .expect("only modules are in src")
                .to_string(),
            code,
        )
    };
    files.map(module).collect()
}

fn code(source: &str) -> String {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines
        .map(|line| line.split(" // ").next().unwrap().to_string() + "\n")
        .collect()
}

/// What stands behind each `prefix` in a code, up to the end of the name.
fn behind<'c>(code: &'c str, prefix: &'c str) -> impl Iterator<Item = &'c str> {
    let is_end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':' || c == '{');
    code.split(prefix)
        .skip(1)
        .map(move |rest| rest.split(is_end).next().unwrap())
}

/// The modules of this crate that a code names, also in `use crate::{a, b::C}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            named.insert(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let end = list.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        });
        named.extend(top_names(&list[..end.expect("a closing brace")]));
    }
    named
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// `a, b::{c, d}` names `a` and `b`.
fn top_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let parts = list.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let names = parts.map(|part| first_name(part.trim_start()));
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_map_lists_every_module_and_no_other() {
    let mapped: BTreeSet<_> = floors().into_keys().collect();
    let there: BTreeSet<_> = modules().into_keys().collect();
    assert_eq!(mapped, there);
}

#[test]
fn the_map_is_in_the_order_of_the_floors() {
    let map = read("src/lib.rs");
    let rows = map
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | [`"));
    let floors: Vec<u32> = rows.filter_map(|(floor, _)| floor.parse().ok()).collect();
    assert!(floors.len() > 10 && floors.is_sorted(), "{floors:?}");
}

#[test]
fn a_module_names_only_modules_of_lower_floors() {
    let floors = floors();
    let mut uses = 0;
    for (module, code) in modules() {
        for other in named(&code) {
            let floor = floors.get(&other);
            let floor = floor.unwrap_or_else(|| panic!("{module} names crate::{other}"));
            uses += 1;
            assert!(
                *floor < floors[&module],
                "{module} is on floor {} and names {other} of floor {floor}",
                floors[&module]
            );
        }
        let above: Vec<_> = behind(&code, "super::")
            .filter(|rest| !rest.is_empty())
            .collect();
        assert!(above.is_empty(), "{module} names super::{above:?}");
        assert!(
            !code.contains("netboot_publisher::"),
            "{module} names its own crate"
        );
    }
    assert!(uses > 50, "the test does not see what is used: {uses}");
}

#[test]
fn names_in_braces_are_seen() {
    let code = "use crate::{a, b::{c, d::E}, f};\nuse crate::g::H;\ncrate::i::j()";
    let expected = ["a", "b", "f", "g", "i"].map(String::from);
    assert_eq!(named(code), expected.into());
}

#[test]
fn only_dir_makes_system_calls_on_names() {
    // The admin's own file, which is read before anything else happens.
    let configuration = [("cli", "read_to_string")];
    for (module, code) in modules().iter().filter(|(module, _)| *module != "dir") {
        // A module's tests may set a stage for it.
        let code = code.split("#[cfg(test)]").next().unwrap();
        for used in behind(code, "rustix::fs") {
            // Its watches are on open directories.
            let is_watch = module == "lookout" && used.starts_with("::inotify");
            assert!(
                is_watch || used.starts_with("::Mode::"),
                "{module} uses rustix::fs{used}"
            );
        }
        for used in behind(code, "std::fs::") {
            let is_fine = used == "File" || configuration.contains(&(module, used));
            assert!(is_fine, "{module} uses std::fs::{used}");
        }
        for call in [
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
            assert!(!code.contains(call), "{module} calls {call}");
        }
    }
    // A socket has a name too; journald's is always the same.
    let sockets: Vec<_> = modules()
        .into_iter()
        .filter(|(_, code)| code.contains("std::os::unix::net"))
        .map(|(module, _)| module)
        .collect();
    assert_eq!(sockets, ["journal"]);
    assert!(behind(&modules()["dir"], "rustix::fs").count() > 0);
}

#[test]
fn nothing_is_unsafe() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(
        manifest["lints"]["rust"]["unsafe_code"].as_str(),
        Some("forbid")
    );
    let tests = names("tests/system")
        .into_iter()
        .map(|name| format!("tests/system/{name}"));
    let sources = names("src").into_iter().map(|name| format!("src/{name}"));
    for file in tests.chain(sources).filter(|file| file.ends_with(".rs")) {
        assert!(!code(&read(&file)).contains("unsafe {"), "{file}");
    }
}

#[test]
fn lower_floors_know_no_tokio_and_no_anyhow() {
    let floors = floors();
    for (module, code) in modules() {
        for name in ["tokio", "anyhow"] {
            let uses = code.contains(&format!("{name}::")) || code.contains(&format!("{name}!"));
            assert!(
                !uses || floors[&module] >= ASYNC_FLOOR,
                "{module} uses {name}"
            );
        }
    }
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

/// The commands that the program has.
fn commands() -> Vec<String> {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next().map(String::from));
    names.filter(|name| name != "help").collect()
}

#[test]
fn the_readme_names_every_command() {
    let readme = read("README.md");
    assert!(commands().len() >= 4);
    for command in commands() {
        assert!(
            readme.contains(&format!("| `{command}")),
            "{command} is not in the table"
        );
    }
}

#[test]
fn the_readme_names_every_reason_and_no_other() {
    let source = read("src/fault.rs");
    let (_, variants) = source.split_once("pub enum Reason {\n").unwrap();
    let (variants, _) = variants.split_once('}').unwrap();
    let variants = code(variants);
    let kebab = |name: &str| {
        let words = name.chars().flat_map(|c| {
            let dash = c.is_uppercase().then_some('-');
            dash.into_iter().chain(c.to_lowercase())
        });
        words
            .collect::<String>()
            .trim_start_matches('-')
            .to_string()
    };
    let reasons: BTreeSet<_> = variants
        .lines()
        .map(|line| kebab(line.trim().trim_end_matches(',')))
        .collect();
    let readme = read("README.md");
    let (_, table) = readme.split_once("| reason |").expect("a table of reasons");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<_> = rows
        .map(|row| row.split('`').nth(1).expect("a reason").to_string())
        .collect();
    assert_eq!(listed, reasons);
}

/// The blocks of the README that are commands, in their order.
fn blocks() -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_string())
        .collect()
}

/// The only block of the README in this language that begins so.
fn example(language: &str, start: &str) -> String {
    let readme = read("README.md");
    let begin = format!("```{language}\n{start}");
    let mut blocks = readme.split(&begin).skip(1);
    let block = blocks
        .next()
        .unwrap_or_else(|| panic!("no example of {language} that begins with {start}"));
    assert!(blocks.next().is_none(), "two examples of {language}");
    format!("{start}{}", block.split("```").next().unwrap())
}

#[test]
fn the_manifest_and_the_outcome_of_the_readme_are_good() {
    let manifest =
        Manifest::parse(&example("toml", "format = 1")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.files.map(|files| files.len()), Some(2));
    let outcome: Outcome = serde_json::from_str(&example("json", "{")).unwrap();
    assert_eq!(outcome.to_json(), example("json", "{"));
}

#[test]
fn the_settings_of_the_readme_are_good() {
    let readme = read("README.md");
    let blocks = readme.split("```toml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let settings: Vec<_> = blocks.filter(|block| block.starts_with('[')).collect();
    assert!(!settings.is_empty());
    for block in settings {
        Settings::parse("README.md", block).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A daemon that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that the README shows as commands, as it is written there; but that the program is
/// the one that was built for this test, and `var/` doesn't appear in the checkout.
#[test]
fn the_commands_of_the_readme_run_as_written() {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("config")).unwrap();
    for name in names("config") {
        let file = Path::new("config").join(name);
        let original = Path::new(ROOT).join(&file);
        if original.is_file() {
            fs::copy(original, copy.path().join(&file)).unwrap();
        }
    }
    let mut blocks = blocks();
    assert_eq!(blocks.remove(0).trim_end(), MAIN_COMMAND);
    let arguments = MAIN_COMMAND
        .strip_prefix("cargo run --release -- ")
        .unwrap();
    let mut daemon = Command::new(PROGRAM)
        .args(arguments.split(' '))
        .current_dir(copy.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap());
    let daemon = Daemon(daemon);
    let mut log = log.lines().map_while(Result::ok);
    assert!(
        log.any(|line| line.contains(" ready ")),
        "the daemon is not ready"
    );
    // Somebody has to go on reading.
    std::thread::spawn(move || log.for_each(drop));

    assert!(!blocks.is_empty());
    for block in blocks.iter().filter(|block| !is_for_developers(block)) {
        assert_runs(block, copy.path());
    }
    let published = copy.path().join("var/tree/amd64/generic/bookworm/install");
    assert!(published.join("linux").is_file(), "{published:?}");
    drop(daemon);
    let left: Vec<_> = fs::read_dir(copy.path().join("var/spool/incoming"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Commands that build and test: this test is one of them, so only that they are there is tested.
fn is_for_developers(block: &str) -> bool {
    block.lines().all(|line| {
        let program = line.split(' ').next().unwrap_or_default();
        let is_script = program.starts_with("tests/") || program.starts_with(".ci/");
        assert!(
            !is_script || Path::new(ROOT).join(program).is_file(),
            "{program}"
        );
        is_script || program == "cargo"
    })
}

fn assert_runs(block: &str, directory: &Path) {
    let folder: PathBuf = Path::new(PROGRAM).parent().unwrap().into();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-euc", block])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", folder.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{block}\n{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
