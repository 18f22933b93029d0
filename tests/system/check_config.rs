//! `check-config`: all that is wrong with a configuration, said before a daemon meets it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use libtest_mimic::Trial;

use crate::boot_configs::world;
use crate::lab::world::{World, output, snapshot, test, text};
use crate::rules::NO_RULES;
use crate::unprivileged::{self, NOBODY, Unprivileged};

const TARGET: &str = "amd64/generic/bookworm/install";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "check-config says at once everything that a configuration names and that can't be",
            &[],
            everything_at_once,
        ),
        test(
            "check-config refuses an output that is the tree or above it or in another's way",
            &[],
            outputs_in_the_way,
        ),
        test(
            "check-config finds an unknown attribute in a template though nothing is published",
            &[],
            templates_without_images,
        ),
        test(
            "check-config changes nothing whoever runs it",
            &unprivileged::NEEDS,
            nothing_is_changed,
        ),
        test(
            "check-config tells another user what that user could not try",
            &unprivileged::NEEDS,
            another_user_is_told,
        ),
        test(
            "a tree that can't be written ends the start and says what to do",
            &unprivileged::NEEDS,
            an_unwritable_tree_ends_the_start,
        ),
        test(
            "an output whose folder can't be written is said with what to do and keeps nobody",
            &unprivileged::NEEDS,
            an_unwritable_output,
        ),
    ]
}

fn assert_bad(world: &World, errors: &[String]) {
    let checked = world.run(&["check-config"]);
    let said = String::from_utf8_lossy(&checked.stderr).to_string();
    let expected: String = errors.iter().map(|it| format!("error: {it}\n")).collect();
    let expected = format!("netboot-publisher: bad configuration\n{expected}");
    assert_eq!(said, expected, "{}", text(&checked));
    assert_eq!(checked.status.code(), Some(78), "{}", text(&checked));
    assert!(checked.stdout.is_empty(), "{}", text(&checked));
}

fn assert_good(world: &World) {
    let checked = world.run(&["check-config"]);
    let said = String::from_utf8_lossy(&checked.stdout).to_string();
    assert_eq!(
        said,
        format!("{}: good\n{NO_RULES}\n", world.config.display()),
        "{}",
        text(&checked)
    );
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
}

/// Publishes an image by a daemon that has ended then.
fn publish(poor: &Unprivileged, name: &str) {
    poor.drop_image(name, TARGET, name.as_bytes());
    let mut daemon = poor.daemon();
    daemon.wait_for_drop(name);
    daemon.stop();
}

fn everything_at_once() {
    let inside = format!("netboot/{TARGET}/menu");
    let above = "netboot/arm64/generic";
    let metrics = "#tree group = \"no-such-group\"\n[metrics]\ntextfile = \"/nowhere/x.prom\"\n";
    let configs = [
        ("attribute.j2", "attribute"),
        ("missing.j2", "missing"),
        ("good.j2", "outside/menu"),
        ("good.j2", "link"),
        ("good.j2", &*inside),
        ("good.j2", above),
        ("good.j2", "file/menu"),
    ];
    let world = world(&configs.map(|it| (Path::new(it.0), it.1)), metrics);
    let configured = fs::read_to_string(&world.config).unwrap();
    let (others, _) = configured.split_once("[[boot_config]]").unwrap();
    fs::write(
        &world.config,
        others.replace("group = \"no-such-group\"", ""),
    )
    .unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run_once();
    fs::write(&world.config, configured).unwrap();

    let of = |path: &str| world.root.join(path);
    fs::write(
        of("attribute.j2"),
        "{% for it in images %}\n{{ it.kernel is plain }}\n{% endfor %}",
    )
    .unwrap();
    fs::write(of("good.j2"), "{{ images | length }}").unwrap();
    fs::create_dir(of("aside")).unwrap();
    fs::create_dir_all(of("tftp/netboot/arm64/generic/noble")).unwrap();
    symlink("../aside", of("tftp/outside")).unwrap();
    symlink("../aside/menu", of("tftp/link")).unwrap();
    fs::write(of("tftp/file"), "").unwrap();
    let in_the_way = |output: &str, path: &str, what: &str, expected: &str| {
        let path = of(&format!("tftp/{path}"));
        format!("boot_config, {output:?}: {path:?} is {what}; expected {expected}, or nothing yet")
    };
    let file = "a file that may be replaced";
    let attribute = of("attribute.j2");
    assert_bad(
        &world,
        &[
            "metrics.textfile: opening directory \"/nowhere\": No such file or directory; expected a \
             folder that can be written"
                .to_string(),
            "no such group: \"no-such-group\", as `tree.group` says".to_string(),
            format!(
                "boot_config, {attribute:?}: the template has an error\nerror: undefined value: there \
                 is no attribute `kernel`\n --> {}:2:7\n  |\n2 | {{{{ it.kernel is plain }}}}\n  |       \
                 ^^^^^^ expected `images`, `generated`, `url`, or `arch` with `for_each`; an image has \
                 `target`, `arch`, `subarch`, `release`, `purpose`, `version`, `generation`, `digest`, \
                 `path`, `pinned_path`, `published_at`, `boot`, `files`, its `boot` `kernel`, `initrd`, \
                 `cmdline`, `title`, `efi`, and one of its files `path`, `size`, `sha256`",
                attribute.display()
            ),
            format!(
                "boot_config, {0:?}: reading {0:?}: No such file or directory",
                of("missing.j2")
            ),
            in_the_way("outside/menu", "outside", "a link", "a folder"),
            in_the_way("link", "link", "a link", file),
            in_the_way(&inside, &format!("netboot/{TARGET}"), "a link", "a folder"),
            in_the_way(above, above, "a folder", file),
            in_the_way("file/menu", "file", "a file", "a folder"),
        ],
    );
}

fn outputs_in_the_way() {
    let world = world(
        &[
            (Path::new("t.j2"), "boot/menu"),
            (Path::new("t.j2"), "menu"),
        ],
        "",
    );
    fs::write(world.root.join("t.j2"), "").unwrap();
    assert_good(&world);
    let configured = fs::read_to_string(&world.config).unwrap();
    let tree = "expected a file: this is the tree, or a folder above it";
    let other = "expected a path of its own, neither above nor below that of another `boot_config`";
    for (output, expected) in [
        ("netboot", tree),
        ("boot/menu", other),
        ("boot//menu", other),
        ("boot", other),
        ("boot/menu/x", other),
    ] {
        let bad = configured.replace("\"menu\"", &format!("{output:?}"));
        fs::write(&world.config, bad).unwrap();
        let checked = world.run(&["check-config"]);
        assert_eq!(checked.status.code(), Some(78), "{output}");
        let said = text(&checked);
        assert!(
            said.contains("error: invalid `boot_config.output`\n"),
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    }
    // A tree that is deeper: a folder above it is none for an output.
    let deep = configured
        .replace("tftp/netboot", "tftp/a/b")
        .replace("\"menu\"", "\"a\"");
    fs::write(&world.config, deep).unwrap();
    let said = text(&world.run(&["check-config"]));
    assert!(said.contains(tree), "{said}");
}

fn templates_without_images() {
    let world = world(&[(Path::new("t.j2"), "menu")], "");
    let template = world.root.join("t.j2");
    for (text_of, is_good) in [
        (
            "{% for image in images %}{{ image.verson is plain }}{% endfor %}",
            false,
        ),
        (
            "{% for image in images %}{{ image.files[0].nam }}{% endfor %}",
            false,
        ),
        (
            "{% for image in images %}{{ image.version is plain }}{% endfor %}",
            true,
        ),
        // What fails for other reasons may be good for what is published.
        (
            "{% for image in images %}{{ {\"arm64\": 1}[image.arch] }}{% endfor %}",
            true,
        ),
    ] {
        fs::write(&template, text_of).unwrap();
        let checked = world.run(&["check-config"]);
        assert_eq!(
            checked.status.success(),
            is_good,
            "{text_of}: {}",
            text(&checked)
        );
    }
    // The last template is bad for an image that is there.
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run(&["run", "--once"]);
    let said = text(&world.run(&["check-config"]));
    assert!(said.contains("t.j2:1:29"), "{said}");
}

fn nothing_is_changed() {
    let poor = Unprivileged::new("[limits]\nmin_free_space = \"0B\"\n");
    let world = &poor.world;
    fs::create_dir(world.root.join("tftp")).unwrap();
    let template = world.root.join("t.j2");
    fs::write(&template, "").unwrap();
    let add = format!(
        "[metrics]\ntextfile = {:?}\n[[boot_config]]\ntemplate = {template:?}\noutput = \"a/b/menu\"\n",
        world.root.join("tftp/x.prom")
    );
    let configured = fs::read_to_string(&world.config).unwrap() + &add;
    fs::write(&world.config, &configured).unwrap();
    let check_all = || {
        // The program has as many names as there are tests at the moment.
        let look = || {
            let mut all = snapshot(&world.root);
            all.remove(&world.root.join("netboot-publisher"));
            all
        };
        let before = look();
        for user in [0, NOBODY, NOBODY - 1] {
            output(&mut poor.command(user, &["check-config"]));
            output(&mut poor.command(user, &["check-config", "--quiet"]));
        }
        assert_eq!(look(), before);
    };
    // Before a daemon was at work, and after it; and where neither spool nor tree is there.
    check_all();
    publish(&poor, "1");
    check_all();
    let missing = configured
        .replace("/spool\"", "/no/spool\"")
        .replace("/tree\"", "/no/tree\"");
    fs::write(&world.config, missing).unwrap();
    check_all();
}

fn another_user_is_told() {
    let poor = Unprivileged::new("[limits]\nmin_free_space = \"0B\"\n");
    let world = &poor.world;
    publish(&poor, "1");
    let say = |user: u32| {
        let checked = output(&mut poor.command(user, &["check-config"]));
        assert!(checked.status.success(), "{user}: {}", text(&checked));
        String::from_utf8(checked.stdout).unwrap()
    };
    let good = format!("{}: good\n{NO_RULES}\n", world.config.display());
    assert_eq!(say(0), good);
    assert_eq!(say(NOBODY), good);
    let told = say(NOBODY - 1);
    let expected = format!(
        "{}: good, as far as the user \"{}\" may try it:\n\
         spool.path: writing into {:?}: Permission denied; let the user \"{1}\" write there\n\
         tree.path: writing into {:?}: Permission denied; let the user \"{1}\" write there\n\
         {NO_RULES}\n",
        world.config.display(),
        NOBODY - 1,
        world.spool,
        world.tree,
    );
    assert_eq!(told, expected);
    // What is wrong for everybody is wrong for another user as well.
    let text_of = fs::read_to_string(&world.config).unwrap();
    fs::write(
        &world.config,
        text_of + "[metrics]\ntextfile = \"/nowhere/x\"\n",
    )
    .unwrap();
    let checked = output(&mut poor.command(NOBODY - 1, &["check-config"]));
    assert_eq!(checked.status.code(), Some(78), "{}", text(&checked));
}

fn an_unwritable_tree_ends_the_start() {
    let poor = Unprivileged::new("[limits]\nmin_free_space = \"0B\"\n");
    publish(&poor, "1");
    let tree = &poor.world.tree;
    for folder in ["", ".netboot-publisher", ".netboot-publisher/staging"] {
        let folder = if folder.is_empty() {
            tree.clone()
        } else {
            tree.join(folder)
        };
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        let started = output(&mut poor.command(NOBODY, &["run"]));
        assert_eq!(started.status.code(), Some(1), "{}", text(&started));
        let said = String::from_utf8_lossy(&started.stderr).to_string();
        let expected = format!(
            "netboot-publisher: opening the tree: writing into {folder:?}: Permission denied; let the \
             user \"nobody\" write there\n"
        );
        assert_eq!(said, expected);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    publish(&poor, "2");
}

fn an_unwritable_output() {
    let poor = Unprivileged::new("[limits]\nmin_free_space = \"0B\"\n");
    let world = &poor.world;
    let template = world.root.join("t.j2");
    fs::write(&template, "{{ images | length }}").unwrap();
    let configured = fs::read_to_string(&world.config).unwrap();
    let add = format!(
        "[tftp]\nroot = {:?}\n[[boot_config]]\ntemplate = {template:?}\noutput = \"menu\"\n",
        world.root
    );
    fs::write(&world.config, configured + &add).unwrap();
    let said = format!(
        "writing into {:?}: Permission denied; let the user \"nobody\" write there",
        world.root
    );
    let checked = output(&mut poor.command(NOBODY, &["check-config"]));
    assert!(text(&checked).contains(&said), "{}", text(&checked));
    let mut daemon = poor.daemon();
    daemon.wait_for(&format!("ERROR rendering \"menu\": {said}"));
    poor.drop_image("1", TARGET, b"1");
    daemon.wait_for_drop("1");
    daemon.stop();
}
