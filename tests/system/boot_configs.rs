//! The catalog and the boot configurations: what they say, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use libtest_mimic::Trial;
use netboot_publisher::Record;
use notify::Watcher as _;
use serde_json::{Value, json};

use crate::lab::world::{Ends, Needs, World, test, text, until, walk};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "the catalog says of every current image what its record says",
            &[],
            the_catalog_is_what_is_current,
        ),
        test(
            "what did not change is not written again",
            &[],
            nothing_is_written_again,
        ),
        test(
            "a template that fails leaves its output alone and says where it failed",
            &[],
            bad_templates_do_no_harm,
        ),
        test(
            "a catalog that could not be written for a while has all that has changed since",
            &[],
            the_catalog_catches_up,
        ),
        test(
            "a catalog that can not be read leaves the menus as they are",
            &[],
            without_a_catalog,
        ),
        test(
            "run --once says by its exit code that a template has failed",
            &[],
            once_fails,
        ),
        test(
            "an output that can't be written is said, left out, and tried again",
            &[],
            bad_outputs_do_no_harm,
        ),
        test(
            "a template that was repaired is rendered without a change of the tree",
            &[],
            a_repaired_template_is_rendered,
        ),
        test(
            "a withdrawal takes the image out of catalog and menus while the daemon runs",
            &[],
            a_withdrawal_is_rendered,
        ),
        test(
            "readers never see a half catalog or a half boot configuration",
            &[],
            readers_see_whole_files,
        ),
        test(
            "two thousand images are not rendered two thousand times, and the last one is there",
            &[],
            renderings_are_coalesced,
        ),
        test(
            "a catalog that is damaged, missing or out of date is made anew",
            &[],
            the_catalog_is_repaired,
        ),
        test(
            "a daemon killed between the swap and the rendering renders at its next start",
            &[Needs::Failpoints],
            killed_before_rendering,
        ),
        test(
            "a daemon that ends on SIGTERM has rendered what it has published",
            &[],
            the_last_state_is_rendered,
        ),
        test(
            "outputs and catalog belong to the owner of the tree",
            &[Needs::Root],
            the_owner_is_the_trees,
        ),
        test(
            "the shipped templates pass on nothing that a boot loader takes for a command",
            &[],
            names_of_files_are_no_commands,
        ),
    ]
}

/// A line for every image, and a last line that says how many there are.
pub const TEMPLATE: &str = "\
{% for image in images %}
{{ image.target }} {{ image.pinned_path }}
{% endfor %}
end {{ images | length }}
";

const TARGET: &str = "amd64/generic/bookworm/install";

/// A world with the tree in `tftp/netboot`, and these boot configurations: template and output.
pub fn world(configs: &[(&Path, &str)], settings: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let mut text = format!(
        "{settings}[tftp]\nroot = {:?}\n[limits]\nmin_free_space = \"0B\"\n",
        root.join("tftp")
    );
    for (template, output) in configs {
        // A template that is named by a relative path lies in the world.
        let template = root.join(template);
        text += &format!("[[boot_config]]\ntemplate = {template:?}\noutput = {output:?}\n");
    }
    World::within(dir, "tftp/netboot", &text)
}

fn simple() -> World {
    let world = world(&[(Path::new("menu.j2"), "boot/menu")], "");
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    world
}

fn menu(world: &World) -> PathBuf {
    world.root.join("tftp/boot/menu")
}

fn catalog(world: &World) -> Value {
    let text = fs::read(world.tree.join("catalog.json")).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}\n{world}"))
}

/// What the catalog has to be: read from pointers and records.
fn expected_catalog(world: &World) -> Value {
    let mut images = BTreeMap::new();
    for path in walk(&world.tree) {
        let mut generations = path.clone().into_os_string();
        generations.push("@");
        if !path.is_symlink() || !Path::new(&generations).is_dir() {
            continue;
        }
        let pinned = path.with_file_name(fs::read_link(&path).unwrap());
        let record = fs::read_to_string(format!("{}.toml", pinned.display())).unwrap();
        let Record { head, listing, .. } = Record::parse(&record).unwrap();
        let root = world.root.join("tftp");
        let below = |path: &Path| {
            path.strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string()
        };
        let target = head.target.to_string();
        let names: Vec<_> = target.split('/').map(String::from).collect();
        let files = listing.files.iter().map(|(path, mark)| {
            json!({ "path": path, "size": mark.size, "sha256": mark.sha256.to_string() })
        });
        let boot = &head.boot;
        // Without a word of the importer's, what these tests' images have.
        let found = |name: &str| {
            let mut paths = listing.files.keys();
            let is_it = |path: &&String| path.rsplit('/').next() == Some(name);
            paths
                .find(is_it)
                .filter(|path| !path.contains(' '))
                .cloned()
        };
        let is_said = boot.kernel.is_some() || boot.efi.is_some();
        let kernel = if is_said {
            boot.kernel.clone()
        } else {
            found("linux")
        };
        let initrd = match &boot.initrd[..] {
            [] if !is_said && kernel.is_some() => found("initrd.gz").into_iter().collect(),
            said => said.to_vec(),
        };
        let image = json!({
            "target": target,
            "arch": names[0],
            "subarch": names[1],
            "release": names[2],
            "purpose": names[3],
            "version": head.version,
            "generation": head.generation.to_string(),
            "digest": head.digest.to_string(),
            "path": below(&path),
            "pinned_path": below(&pinned),
            "published_at": head.published_at.to_string(),
            "boot": {
                "kernel": kernel,
                "initrd": initrd,
                "cmdline": boot.cmdline,
                "title": boot.title,
                "efi": boot.efi,
            },
            "files": files.collect::<Vec<_>>(),
        });
        images.insert(names, image);
    }
    json!({ "format": 1, "images": images.into_values().collect::<Vec<_>>() })
}

/// The catalog says what the tree says.
pub fn assert_catalog_current(world: &World) {
    assert_eq!(catalog(world), expected_catalog(world), "{world}");
}

/// Waits until a daemon that is at work has put its last change into the catalog: until the next
/// change it writes nothing more into the tree.
pub fn wait_for_catalog(world: &World) {
    let pinned = |value: &Value| {
        let word = |key: &str| value[key].as_str().unwrap().to_string();
        format!("{}@/{}", word("target"), word("generation"))
    };
    let is_current = || {
        let text = fs::read(world.tree.join("catalog.json")).unwrap_or_default();
        let Ok(catalog) = serde_json::from_slice::<Value>(&text) else {
            return false;
        };
        let said: BTreeSet<_> = catalog["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(pinned)
            .collect();
        let links = walk(&world.tree);
        let links = links.iter().filter_map(|path| {
            let to = path.with_file_name(fs::read_link(path).ok()?);
            let to = to.strip_prefix(&world.tree).ok()?.to_str()?.to_string();
            // Pointers are four names deep; images have links of their own.
            (to.split('/').count() == 5 && to.contains('@')).then_some(to)
        });
        said == links.collect()
    };
    until("the catalog", is_current);
}

/// The output of [`TEMPLATE`] for what the tree holds.
fn assert_menu_current(world: &World) {
    let expected = expected_catalog(world);
    let images = expected["images"].as_array().unwrap();
    let mut lines: Vec<_> = images
        .iter()
        .map(|image| {
            let word = |key: &str| image[key].as_str().unwrap().to_string();
            format!("{} {}", word("target"), word("pinned_path"))
        })
        .collect();
    lines.push(format!("end {}\n", images.len()));
    let found = fs::read_to_string(menu(world));
    assert_eq!(found.ok(), Some(lines.join("\n")), "{world}");
}

fn the_catalog_is_what_is_current() {
    let world = simple();
    let manifest = |target: &str, version: &str| {
        format!(
            "{}version = {version:?}\n",
            crate::lab::world::manifest(target)
        )
    };
    // In the order of folders `a` comes before `a-b`, though `-` comes before `/`.
    for (drop, target, version) in [
        ("1", "a-b/generic/x/install", "one\"\\ü"),
        ("2", "a/generic/x/install", "two"),
        ("3", "a/generic/x.y/install", "three"),
        ("4", "a/generic/x/install+", "four"),
    ] {
        world.drop_with(drop, &manifest(target, version), |image| {
            fs::create_dir(image.join("d \"q\"")).unwrap();
            fs::write(image.join("d \"q\"/linux"), drop).unwrap();
            fs::write(image.join("initrd.gz"), "").unwrap();
            symlink("initrd.gz", image.join("link")).unwrap();
        });
        world.run_once();
        world.assert_outcome(drop, "published");
        assert_catalog_current(&world);
        assert_menu_current(&world);
    }
    assert_eq!(catalog(&world)["images"].as_array().unwrap().len(), 4);
    // Another image for one target; and the pointer of another is taken away by hand.
    world.drop_image("5", "a/generic/x/install", &[("linux", b"5")]);
    fs::remove_file(world.tree.join("a/generic/x.y/install")).unwrap();
    world.run_once();
    assert_eq!(catalog(&world)["images"].as_array().unwrap().len(), 3);
    assert_catalog_current(&world);
    assert_menu_current(&world);
    let mode = fs::metadata(world.tree.join("catalog.json"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
    assert_eq!(fs::metadata(menu(&world)).unwrap().mode() & 0o7777, 0o644);
}

fn nothing_is_written_again() {
    let world = simple();
    world.drop_image("a", TARGET, &[("linux", b"1")]);
    let mut daemon = world.daemon();
    daemon.wait_for_drop("a");
    until("the rendering", || {
        fs::read_to_string(menu(&world)).is_ok_and(|text| text.contains(TARGET))
    });
    let look = || {
        let folders = ["tftp", "tftp/boot", "tftp/boot/menu", "tftp/netboot"].map(PathBuf::from);
        let paths = folders
            .into_iter()
            .chain(["tftp/netboot/catalog.json".into()]);
        let stat = |path: PathBuf| {
            let stat = fs::metadata(world.root.join(&path)).unwrap();
            (
                path,
                stat.ino(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime_nsec(),
            )
        };
        paths.map(stat).collect::<Vec<_>>()
    };
    let before = look();
    for drop in ["b", "c"] {
        world.drop_image(drop, TARGET, &[("linux", b"1")]);
        daemon.wait_for_drop(drop);
        world.assert_outcome(drop, "unchanged");
    }
    daemon.stop();
    assert_eq!(look(), before);
    world.run_once();
    assert_eq!(look(), before);
}

/// Two configurations, the first of which will be bad.
fn good_and_bad() -> World {
    let configs = [("bad.j2", "bad"), ("menu.j2", "boot/menu")];
    let world = world(
        &configs.map(|(template, output)| (Path::new(template), output)),
        "",
    );
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    fs::write(world.root.join("bad.j2"), "good\n").unwrap();
    world.run_once();
    world
}

fn bad_templates_do_no_harm() {
    let world = good_and_bad();
    let template = world.root.join("bad.j2");
    let file = template.display().to_string();
    let bad = |text: &str| Some(text.as_bytes().to_vec());
    let cases = [
        (
            bad("one\n  {{ image.generation }}\n"),
            format!(
                "error: undefined value: `image` is undefined\n --> {file}:2:6\n  |\n\
                 2 |   {{{{ image.generation }}}}\n  |      ^^^^^^^^^^^^^^^^ expected `images`, `generated`, `url`, or `arch` with"
            ),
        ),
        (
            bad("{% for image in images %}\n{{ image.generaton }}\n{% endfor %}"),
            format!(" --> {file}:2:4\n  |\n2 | {{{{ image.generaton }}}}\n  |    ^^^^^"),
        ),
        (
            bad("one\ntwo\n{% for image in %}\n"),
            "error: syntax error: ".to_string(),
        ),
        (
            bad("one\ntwo\n{{ images | sideways }}\n"),
            format!("error: unknown filter: filter sideways is unknown\n --> {file}:3:"),
        ),
        (
            bad("{% include \"/etc/passwd\" %}"),
            format!(" --> {file}:1:"),
        ),
        (
            Some(b"\xff".to_vec()),
            format!("the template {template:?} is no UTF-8"),
        ),
        (
            None,
            format!("reading {template:?}: No such file or directory"),
        ),
    ];
    for (number, (contents, expected)) in cases.into_iter().enumerate() {
        match contents {
            Some(contents) => fs::write(&template, contents).unwrap(),
            None => fs::remove_file(&template).unwrap(),
        }
        let drop = number.to_string();
        world.drop_image(&drop, TARGET, &[("linux", drop.as_bytes())]);
        let output = world.run(&["run", "--once"]);
        let told = text(&output);
        // No daemon tries again, so the exit code has to tell of the failure.
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("1 output could not be rendered"));
        assert!(told.contains(&expected), "expected {expected}\nin {told}");
        let about = "rendering \"bad\": ";
        assert_eq!(told.matches(about).count(), 1, "not said once: {told}");
        assert!(told.contains("keeping what was there before"));
        world.assert_outcome(&drop, "published");
        let old = fs::read_to_string(world.root.join("tftp/bad")).unwrap();
        assert_eq!(old, "good\n", "{told}");
        assert_menu_current(&world);
        assert_catalog_current(&world);
    }
}

fn bad_outputs_do_no_harm() {
    let world = good_and_bad();
    let output = world.root.join("tftp/bad");
    fs::remove_file(&output).unwrap();
    fs::create_dir(&output).unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    let mut daemon = world.daemon();
    let line = daemon.wait_for("rendering ");
    let expected = format!(
        "{output:?} is a folder; expected a file that may be replaced, or nothing yet; keeping what"
    );
    assert!(line.contains(&expected), "{line}");
    daemon.wait_for_drop("1");
    until("the other output", || {
        fs::read_to_string(menu(&world)).is_ok_and(|text| text.contains(TARGET))
    });
    world.assert_outcome("1", "published");
    fs::remove_dir(&output).unwrap();
    world.drop_image("2", TARGET, &[("linux", b"2")]);
    daemon.wait_for("good again");
    assert_eq!(fs::read_to_string(&output).unwrap(), "good\n");
    let log = daemon.stop();
    let said = log.iter().filter(|line| line.contains(" is a folder; "));
    assert_eq!(said.count(), 1, "{log:#?}");
    assert_menu_current(&world);
    assert_catalog_current(&world);
}

fn a_repaired_template_is_rendered() {
    let world = world(
        &[(Path::new("menu.j2"), "boot/menu")],
        "#spool rescan_interval = \"1s\"\n",
    );
    fs::write(world.root.join("menu.j2"), "{{ oops }}").unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run(&["run", "--once"]);
    world.assert_outcome("1", "published");
    // Nothing changes while this daemon runs.
    let mut daemon = world.daemon();
    daemon.wait_for("undefined value");
    fs::write(world.root.join("menu.j2.new"), TEMPLATE).unwrap();
    fs::rename(world.root.join("menu.j2.new"), world.root.join("menu.j2")).unwrap();
    daemon.wait_for("good again");
    assert_menu_current(&world);
    daemon.stop();
}

fn the_catalog_catches_up() {
    let world = simple();
    let mut daemon = world.daemon();
    until("the first rendering", || menu(&world).exists());
    // A folder stands where the new catalog is written.
    let taken = world.tree.join(".netboot-publisher/catalog.json.new");
    fs::create_dir(&taken).unwrap();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    let warning = daemon.wait_for(" WARN rendering ");
    assert!(warning.contains("catalog.json"), "{warning}");
    fs::remove_dir(&taken).unwrap();
    world.drop_image(
        "other",
        "arm64/generic/bookworm/install",
        &[("linux", b"other")],
    );
    daemon.wait_for("good again");
    wait_for_catalog(&world);
    daemon.stop();
    assert_catalog_current(&world);
    assert_menu_current(&world);
}

fn once_fails() {
    let world = simple();
    fs::write(world.root.join("menu.j2"), "{{ nothing }}\n").unwrap();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    let output = world.run(&["run", "--once"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(said.contains("1 output could not be rendered"), "{said}");
    world.assert_outcome("one", "published");
    assert_catalog_current(&world);
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    world.run_once();
    assert_menu_current(&world);
}

fn a_withdrawal_is_rendered() {
    let world = simple();
    let mut daemon = world.daemon();
    let other = "arm64/generic/bookworm/install";
    for target in [TARGET, other] {
        world.drop_image(&target[..5], target, &[("linux", target.as_bytes())]);
        daemon.wait_for_drop(&target[..5]);
    }
    let shown = |count: usize| {
        move |world: &World| {
            fs::read_to_string(menu(world)).is_ok_and(|it| it.ends_with(&format!("end {count}\n")))
        }
    };
    until("both images in the menu", || shown(2)(&world));
    let output = world.run(&["withdraw", TARGET]);
    assert!(output.status.success());
    daemon.wait_for(" withdrawn ");
    until("the menu without the image", || shown(1)(&world));
    assert_menu_current(&world);
    assert_catalog_current(&world);
    let images = catalog(&world)["images"].as_array().unwrap().clone();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0]["target"], other);
    daemon.stop();
}

fn without_a_catalog() {
    let world = simple();
    let mut daemon = world.daemon();
    world.drop_image("one", TARGET, &[("linux", b"one")]);
    daemon.wait_for_drop("one");
    let names_it = || fs::read_to_string(menu(&world)).is_ok_and(|text| text.contains(TARGET));
    until("the menu with the image", names_it);
    daemon.stop();
    // A folder stands in the place of the catalog, which can't be written or read then.
    let catalog = world.tree.join("catalog.json");
    fs::remove_file(&catalog).unwrap();
    fs::create_dir(&catalog).unwrap();
    let mut daemon = world.daemon();
    let said = daemon.wait_for(" rendering ");
    assert!(said.contains("catalog.json"), "{said}");
    assert!(names_it(), "the menu was rendered of nothing");
    fs::remove_dir(&catalog).unwrap();
    world.drop_image("two", TARGET, &[("linux", b"two")]);
    daemon.wait_for("good again");
    assert_menu_current(&world);
    daemon.stop();
}

fn readers_see_whole_files() {
    const IMAGES: usize = 120;
    let world = simple();
    let target = |number: usize| format!("amd64/generic/release{}/install", number % 40);
    let catalog = world.tree.join("catalog.json");
    let mut daemon = world.daemon();
    until("the first rendering", || menu(&world).exists());
    let stop = AtomicBool::new(false);
    let reads = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        // The readers end also when the test panics.
        let end = Ends(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read_to_string(menu(&world)).expect("never missing");
                let lines = text.lines().count() - 1;
                assert!(text.ends_with(&format!("end {lines}\n")), "half: {text}");
                reads[0].fetch_add(1, Ordering::Relaxed);
                seen.lock().unwrap().insert(text.len());
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read(&catalog).expect("never missing");
                let whole: Result<Value, _> = serde_json::from_slice(&text);
                assert!(whole.is_ok(), "half: {}", String::from_utf8_lossy(&text));
                reads[1].fetch_add(1, Ordering::Relaxed);
            }
        });
        // On a busy machine more changes are rendered together.
        let is_seen = || seen.lock().unwrap().len() > 3;
        for number in (0..100 * IMAGES).take_while(|number| *number < IMAGES || !is_seen()) {
            let contents = number.to_string();
            let files = [("linux", contents.as_bytes())];
            world.drop_image(&contents, &target(number), &files);
            daemon.wait_for_drop(&contents);
            // However busy the machine is, both readers come by.
            let before = reads.each_ref().map(|count| count.load(Ordering::Relaxed));
            until("both readers", || {
                let now = reads.each_ref().map(|count| count.load(Ordering::Relaxed));
                now.iter()
                    .zip(before)
                    .all(|(now, before)| *now > before + 1)
            });
        }
        drop(end);
    });
    daemon.stop();
    assert_menu_current(&world);
    assert_catalog_current(&world);
    let seen = seen.into_inner().unwrap().len();
    println!("{reads:?} reads of whole files, {seen} lengths of the output");
    assert!(seen > 3, "{seen} lengths of the output");
}

fn renderings_are_coalesced() {
    const IMAGES: usize = 2_000;
    let world = simple();
    let mut daemon = world.daemon();
    until("the first rendering", || menu(&world).exists());
    let renamed = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&renamed);
    let (failed, failures) = mpsc::channel();
    let is_rename = |kind: notify::EventKind| {
        use notify::event::{EventKind, ModifyKind, RenameMode};
        matches!(kind, EventKind::Modify(ModifyKind::Name(RenameMode::To)))
    };
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => failed.send("overflow").unwrap(),
            Ok(event) if is_rename(event.kind) => {
                for (name, count) in ["menu", "catalog.json"].iter().zip(counts.iter()) {
                    if event.paths.iter().any(|path| path.ends_with(name)) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok(_) => {}
            Err(_) => failed.send("an error").unwrap(),
        })
        .unwrap();
    for folder in [menu(&world).parent().unwrap(), &world.tree] {
        watcher
            .watch(folder, notify::RecursiveMode::NonRecursive)
            .unwrap();
    }
    // The images are dropped one after the other, without waiting for their outcomes.
    for number in 0..IMAGES {
        let (drop, contents) = (format!("d{number}"), number.to_string());
        let target = format!("amd64/generic/release{number}/install");
        world.drop_image(&drop, &target, &[("linux", contents.as_bytes())]);
    }
    for _ in 0..IMAGES {
        daemon.wait_for(" published ");
    }
    daemon.stop();
    assert_menu_current(&world);
    assert_catalog_current(&world);
    until("the last event", || {
        renamed
            .iter()
            .all(|count| count.load(Ordering::Relaxed) > 0)
    });
    drop(watcher);
    assert!(failures.try_recv().is_err(), "events were lost");
    let [menus, catalogs] = [0, 1].map(|n: usize| renamed[n].load(Ordering::Relaxed));
    println!("{IMAGES} images: {menus} renderings, {catalogs} catalogs");
    assert!(
        menus * 10 < IMAGES && catalogs * 10 < IMAGES,
        "{menus}, {catalogs}"
    );
}

fn the_catalog_is_repaired() {
    let world = simple();
    for (drop, target) in [("1", TARGET), ("2", "arm64/generic/bookworm/install")] {
        world.drop_image(drop, target, &[("linux", drop.as_bytes())]);
    }
    world.run_once();
    let path = world.tree.join("catalog.json");
    let good = fs::read_to_string(&path).unwrap();
    let damages: [&dyn Fn() -> String; 8] = [
        &String::new,
        &|| good[..good.len() / 2].to_string(),
        &|| good.replace("\"path\"", "\"pth\""),
        &|| good.replace("\"generation\":\"2", "\"generation\":\"1"),
        &|| good.replace("\"published_at\":\"2", "\"published_at\":\"1"),
        &|| good.replace("\"version\":null", "\"version\":\"1\""),
        &|| good.replace("\"size\":1", "\"size\":"),
        &|| good.replace("amd64", "amd65"),
    ];
    for damage in damages {
        let damaged = damage();
        assert_ne!(damaged, good);
        fs::write(&path, damaged).unwrap();
        fs::remove_file(menu(&world)).unwrap();
        world.run_once();
        assert_catalog_current(&world);
        assert_menu_current(&world);
    }
    fs::remove_file(&path).unwrap();
    world.run_once();
    assert_catalog_current(&world);
    // While the daemon runs, a line of the catalog is damaged that the next drop doesn't change.
    let daemon = world.daemon();
    fs::write(&path, good.replace("\"path\":\"linux\"", "\"path\":7")).unwrap();
    world.drop_image("3", TARGET, &[("linux", b"3")]);
    until("the outcome", || world.outcome("3").is_some());
    daemon.stop();
    assert_menu_current(&world);
    assert_catalog_current(&world);
}

fn killed_before_rendering() {
    let world = simple();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run_once();
    let before = fs::read_to_string(menu(&world)).unwrap();
    world.drop_image("2", TARGET, &[("linux", b"2")]);
    // The catalog is right at the start, so the failpoint is first reached after the swap.
    let killed = world
        .command(&["run", "--once"])
        .env("NETBOOT_PUBLISHER_FAILPOINT", "catalog:1:kill")
        .output()
        .unwrap();
    assert!(!killed.status.success(), "{}", text(&killed));
    assert_eq!(fs::read_to_string(menu(&world)).unwrap(), before);
    let generation = fs::read_link(world.published(TARGET)).unwrap();
    assert!(
        !before.contains(generation.to_str().unwrap()),
        "not swapped"
    );
    world.run_once();
    assert_menu_current(&world);
    assert_catalog_current(&world);
}

fn the_last_state_is_rendered() {
    let world = simple();
    for number in 0..20 {
        let mut daemon = world.daemon();
        let drop = number.to_string();
        world.drop_image(&drop, TARGET, &[("linux", drop.as_bytes())]);
        daemon.wait_for_drop(&drop);
        daemon.stop();
        assert_menu_current(&world);
        assert_catalog_current(&world);
    }
}

fn the_owner_is_the_trees() {
    let world = world(
        &[(Path::new("menu.j2"), "boot/menu")],
        "#tree owner = \"nobody\"\n#tree group = \"daemon\"\n",
    );
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run_once();
    let of = |path: &Path| {
        fs::metadata(path)
            .map(|stat| (stat.uid(), stat.gid()))
            .unwrap()
    };
    let published = of(&world.published(TARGET).join("linux"));
    assert_ne!(published.0, 0);
    assert_eq!(of(&menu(&world)), published);
    assert_eq!(of(&world.tree.join("catalog.json")), published);
}

/// The templates that are shipped, with the outputs that they name themselves.
pub const SHIPPED: &[(&str, &str)] = &[
    ("pxelinux.cfg.j2", "pxelinux.cfg/default"),
    ("grub.cfg.j2", "grub/grub.cfg"),
    ("menu.ipxe.j2", "menu.ipxe"),
];

pub fn shipped() -> World {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let templates: Vec<_> = SHIPPED
        .iter()
        .map(|(template, output)| (config.join(template), *output))
        .collect();
    let configs: Vec<_> = templates
        .iter()
        .map(|(template, output)| (template.as_path(), *output))
        .collect();
    let world = world(&configs, "");
    // Servers run as other users.
    fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
    world
}

fn names_of_files_are_no_commands() {
    let world = shipped();
    let bad = "x' ; reboot; ${boot} $(x) {";
    let manifest = format!("{}version = {bad:?}\n", crate::lab::world::manifest(TARGET));
    world.drop_with("1", &manifest, |image| {
        fs::create_dir(image.join(bad)).unwrap();
        for name in ["linux", "initrd.gz"] {
            fs::write(image.join(bad).join(name), "bad").unwrap();
            fs::create_dir_all(image.join("z")).unwrap();
            fs::write(image.join("z").join(name), "good").unwrap();
        }
    });
    let flat = "arm64/generic/bookworm/install";
    world.drop_image(
        "2",
        flat,
        &[("linux", b"k"), ("initrd.gz", b"i"), ("linux.sig", b"")],
    );
    world.drop_image("3", "amd64/generic/other/no-kernel", &[("file", b"")]);
    world.run_once();
    for (_, output) in SHIPPED {
        let text = fs::read_to_string(world.root.join("tftp").join(output)).unwrap();
        assert!(!text.contains("reboot"), "{text}");
        assert!(!text.contains("no-kernel"), "{text}");
        for (target, folder) in [(TARGET, "z/"), (flat, "")] {
            let is_shown = target != flat || !output.starts_with("pxelinux");
            let pinned = fs::read_link(world.published(target)).unwrap();
            let pinned = format!(
                "/netboot/{}",
                target.replace("install", pinned.to_str().unwrap())
            );
            for name in ["linux", "initrd.gz"] {
                let path = format!("{pinned}/{folder}{name}");
                assert_eq!(text.contains(&path), is_shown, "{path} in {text}");
            }
        }
        assert!(!text.contains("linux.sig"), "{text}");
        assert!(!text.contains("{%") && !text.contains("{{"), "{text}");
    }
    let script = fs::read_to_string(world.root.join("tftp/menu.ipxe")).unwrap();
    assert!(script.starts_with("#!ipxe\n"), "{script}");
}
