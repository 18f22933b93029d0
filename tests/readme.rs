//! README: what it names is there, and what it shows as commands, manifests and settings works.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netboot_publisher::{Manifest, Outcome, Settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_netboot-publisher");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the README calls the main command.
const MAIN_COMMAND: &str = "cargo run --release -- run --config config/local.toml";

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

fn code(source: &str) -> String {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines
        .map(|line| line.split(" // ").next().unwrap().to_string() + "\n")
        .collect()
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
fn the_readme_names_every_reason_and_note_and_no_other() {
    for (file, of, table) in [
        ("src/words/verdict.rs", "Reason", "| reason |"),
        ("src/words/note.rs", "NoteKind", "| note |"),
    ] {
        let words = words(file, of);
        assert!(words.len() > 8, "{of}");
        assert_eq!(first_column(table), words, "{of}");
    }
}

/// The words of an enum that is written in kebab case.
fn words(file: &str, of: &str) -> BTreeSet<String> {
    let source = read(file);
    let (_, variants) = source.split_once(&format!("enum {of} {{\n")).unwrap();
    let (variants, _) = variants.split_once("\n}").unwrap();
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
    let variants = variants.lines();
    variants
        .map(|line| kebab(line.trim().trim_end_matches(',')))
        .collect()
}

/// The words in the first column of the README's table with this head.
fn first_column(head: &str) -> BTreeSet<String> {
    let readme = read("README.md");
    let (_, table) = readme.split_once(head).expect("such a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a word").to_string())
        .collect()
}

#[test]
fn the_readme_names_every_field_of_a_history() {
    let source = read("src/tree/history.rs");
    let (_, fields) = source.split_once("pub struct Happened {\n").unwrap();
    let (fields, _) = fields.split_once("\n}").unwrap();
    let fields = code(fields);
    let names = fields.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub")?.split_once(": ")?;
        name.rsplit(' ').next()
    });
    let fields: Vec<_> = names.collect();
    assert!(fields.len() >= 12, "{fields:?}");
    let readme = read("README.md");
    let (_, list) = readme.split_once("one JSON object a line").unwrap();
    let list = list.lines().next().unwrap();
    for field in fields {
        let named = format!("`{field}`");
        assert!(list.contains(&named), "{field} is not in the list: {list}");
    }
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
    assert_eq!(manifest.files.map(|files| files.len()), Some(4));
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

#[test]
fn the_sources_and_the_channel_of_the_readme_are_the_examples() {
    let without_comments = |path: &Path| {
        let text = read(path);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.collect();
        // Where a comment stood alone, blank lines follow each other.
        lines
            .join("\n")
            .replace("\n\n\n", "\n")
            .trim()
            .replace("\n\n", "\n")
    };
    let examples: Vec<_> = ["sources", "channels"]
        .iter()
        .flat_map(|folder| {
            let folder = Path::new("config/examples").join(folder);
            let files = names(&folder).into_iter();
            files.map(move |name| without_comments(&folder.join(name)))
        })
        .collect();
    let readme = read("README.md");
    let blocks = readme.split("```toml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap().trim());
    let of_import = |block: &&str| block.starts_with("kind = ") || block.starts_with("url = ");
    let blocks: Vec<_> = blocks.filter(of_import).collect();
    assert_eq!(blocks.len(), 4, "{blocks:#?}");
    for block in blocks {
        let block = block.replace("\n\n", "\n");
        assert!(examples.contains(&block), "no example is:\n{block}");
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
