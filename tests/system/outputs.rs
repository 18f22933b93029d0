//! Where outputs of boot configurations stand: in nobody's place, and nobody in theirs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::boot_configs::{TEMPLATE, assert_catalog_current, world};
use crate::lab::world::{World, manifest, test, text, until};

const TARGET: &str = "amd64/generic/bookworm/install";

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "an output is never put in the place of a pointer, or behind a link",
            &[],
            no_link_is_followed_or_replaced,
        ),
        test(
            "a target that is in the way of an output is refused, and one that was there before can only be withdrawn",
            &[],
            outputs_are_no_targets,
        ),
        test(
            "a target is in the way of an output also where a link gives the tree two names",
            &[],
            a_tree_with_two_names,
        ),
        test(
            "an output that a reload puts in the place of a published target is said and rendered nowhere",
            &[],
            outputs_that_come_later,
        ),
        test(
            "an output is not put over a file of somebody else's unless that says it was generated",
            &[],
            files_of_others,
        ),
        test(
            "an output that is no longer configured stays and is the admin's",
            &[],
            outputs_that_go,
        ),
    ]
}

fn no_link_is_followed_or_replaced() {
    let in_tree = format!("netboot/{TARGET}");
    let outside = "outside/menu";
    let configs = [
        ("menu.j2", &*in_tree),
        ("menu.j2", outside),
        ("menu.j2", "link"),
    ];
    let world = world(
        &configs.map(|(template, output)| (Path::new(template), output)),
        "",
    );
    // The image was there first.
    let configured = fs::read_to_string(&world.config).unwrap();
    let (others, _) = configured.split_once("[[boot_config]]").unwrap();
    fs::write(&world.config, others).unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    world.run_once();
    fs::write(&world.config, &configured).unwrap();
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    let aside = world.root.join("aside");
    fs::create_dir(&aside).unwrap();
    fs::write(world.root.join("linked"), "not ours").unwrap();
    symlink(&aside, world.root.join("tftp/outside")).unwrap();
    symlink("../linked", world.root.join("tftp/link")).unwrap();
    let told = text(&world.run(&["run", "--once"]));
    assert_eq!(
        told.matches(" is a link; expected a file").count(),
        2,
        "{told}"
    );
    let outside = world.root.join("tftp/outside");
    let expected = format!("{outside:?} is a link; expected a folder");
    assert!(told.contains(&expected), "{told}");
    assert_eq!(crate::lab::world::names(&aside), [""; 0], "{told}");
    assert_eq!(fs::read(world.root.join("linked")).unwrap(), b"not ours");
    assert!(world.root.join("tftp/link").is_symlink());
    assert_eq!(
        fs::read(world.published(TARGET).join("linux")).unwrap(),
        b"1"
    );
    assert_catalog_current(&world);
}

/// Outputs at a target, above one and below one, in the tree, which is a folder below the TFTP root.
fn outputs_are_no_targets() {
    let outputs = [
        "netboot/pxelinux.cfg/default",
        "netboot/amd64/generic/noble/install",
        "netboot/arm64/generic/noble/install/menu",
        "arm64/generic/noble/commissioning",
    ];
    let metrics = "[metrics]\ntextfile = \"TREE/i386/generic/noble/install/x.prom\"\n";
    let world = world(
        &outputs.map(|output| (Path::new("menu.j2"), output)),
        metrics,
    );
    let configured = fs::read_to_string(&world.config).unwrap();
    let configured = configured.replace("TREE", world.tree.to_str().unwrap());
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    let output = |number: usize| {
        (
            world.root.join("tftp").join(outputs[number]),
            "boot_config.output",
        )
    };
    let textfile = world.tree.join("i386/generic/noble/install/x.prom");
    let refused = [
        ("pxelinux.cfg/default/x/y", output(0)),
        ("amd64/generic/noble/install", output(1)),
        ("arm64/generic/noble/install", output(2)),
        ("i386/generic/noble/install", (textfile, "metrics.textfile")),
    ];
    let good = [
        "pxelinux.cfg/default.x/x/y",
        "amd64/generic/noble/install.x",
        "arm64/generic/noble/commissioning",
    ];
    let drop_all = |round: &str| {
        for (number, target) in refused.iter().map(|it| it.0).chain(good).enumerate() {
            let name = format!("{round}{number}");
            world.drop_image(&name, target, &[("linux", round.as_bytes())]);
        }
    };
    // What was there before it was in the way of anything can be withdrawn, and nothing else.
    let (others, _) = configured.split_once("[[boot_config]]").unwrap();
    fs::write(&world.config, others).unwrap();
    drop_all("before");
    world.run_once();
    fs::write(&world.config, &configured).unwrap();
    drop_all("after");
    let rollback = manifest(refused[0].0) + "action = \"rollback\"\n";
    let withdraw = manifest(refused[0].0) + "action = \"withdraw\"\n";
    put_order(&world, "rollback", &rollback);
    world.run(&["run", "--once"]);
    put_order(&world, "withdraw", &withdraw);
    world.run(&["run", "--once"]);
    world.assert_outcome("withdraw", "withdrawn");
    for (number, (target, (path, key))) in refused.iter().enumerate() {
        let outcome = world.assert_outcome(&format!("after{number}"), "rejected target-occupied");
        let detail = outcome["detail"].as_str().unwrap();
        let said = format!("{target} is in the way of {path:?}, which the daemon writes (`{key}`)");
        assert!(detail.starts_with(&said), "{detail}");
    }
    world.assert_outcome("rollback", "rejected target-occupied");
    for number in refused.len()..refused.len() + good.len() {
        world.assert_outcome(&format!("after{number}"), "published");
    }
}

fn put_order(world: &World, name: &str, text: &str) {
    let hidden = world.incoming(&format!(".{name}"));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    fs::rename(hidden, world.incoming(name)).unwrap();
}

/// The tree, and the folder of the metrics, are named by links; the files that the daemon writes are
/// in the tree all the same.
fn a_tree_with_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let of = |path: &str| root.join(path);
    fs::create_dir_all(of("tftp/v2/i386")).unwrap();
    symlink("v2", of("tftp/netboot")).unwrap();
    symlink("tftp/v2/i386", of("metrics")).unwrap();
    fs::write(of("menu.j2"), TEMPLATE).unwrap();
    let settings = format!(
        "[limits]\nmin_free_space = \"0B\"\n[tftp]\nroot = {:?}\n[metrics]\ntextfile = {:?}\n\
         [[boot_config]]\ntemplate = {:?}\noutput = \"v2/pxelinux.cfg/default\"\n",
        of("tftp"),
        of("metrics/generic"),
        of("menu.j2")
    );
    let world = World::within(dir, "tftp/netboot", &settings);
    let (output, textfile) = ("boot_config.output", "metrics.textfile");
    for (drop, target, refused) in [
        ("1", "pxelinux.cfg/default/x/y", Some(output)),
        ("2", "i386/generic/noble/install", Some(textfile)),
        ("3", "i386/generic-x/noble/install", None),
        ("4", TARGET, None),
    ] {
        world.drop_image(drop, target, &[("linux", b"1")]);
        world.run_once();
        let Some(key) = refused else {
            world.assert_outcome(drop, "published");
            continue;
        };
        let outcome = world.assert_outcome(drop, "rejected target-occupied");
        let detail = outcome["detail"].as_str().unwrap();
        // Not only that a file is there by now.
        let said = format!("which the daemon writes (`{key}`)");
        assert!(detail.contains(&said), "{detail}");
    }
    let menu = fs::read_to_string(of("tftp/v2/pxelinux.cfg/default")).unwrap();
    assert!(menu.contains(TARGET), "{menu}");
    assert!(of("metrics/generic").is_file());
}

fn outputs_that_come_later() {
    let inside = format!("netboot/{TARGET}/menu");
    let instead = format!("netboot/{TARGET}");
    let above = "netboot/amd64/generic";
    let outputs = [&*inside, &*instead, above];
    let world = world(&outputs.map(|output| (Path::new("menu.j2"), output)), "");
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    // One is above another: each is tried by itself.
    let configured = fs::read_to_string(&world.config).unwrap();
    let mut blocks = configured.split("[[boot_config]]");
    let others = blocks.next().unwrap().to_string();
    let configs: Vec<_> = blocks.collect();
    fs::write(&world.config, &others).unwrap();
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    let mut daemon = world.daemon();
    daemon.wait_for_drop("1");
    let pointer = fs::read_link(world.published(TARGET)).unwrap();
    for (output, config) in outputs.iter().zip(configs) {
        fs::write(&world.config, format!("{others}[[boot_config]]{config}")).unwrap();
        let said = text(&world.run(&["check-config"]));
        let expected = format!("error: boot_config, {output:?}: ");
        assert!(said.contains(&expected), "{said}");
        // A reload, as a start, takes the configuration, and says what it can't do.
        daemon.signal(Signal::HUP);
        daemon.wait_for("configuration read again");
        let line = daemon.wait_for(&format!("rendering {output:?}: "));
        assert!(
            line.contains(" is a link; ") || line.contains(" is a folder; "),
            "{line}"
        );
        assert_eq!(fs::read_link(world.published(TARGET)).unwrap(), pointer);
        let files = crate::lab::world::names(&world.published(TARGET));
        assert_eq!(files, ["linux"], "{world}");
    }
    // Once the target has gone, the output takes its place.
    let withdrawn = world.run(&["withdraw", TARGET, "--wait=60"]);
    assert!(withdrawn.status.success(), "{}", text(&withdrawn));
    fs::write(
        &world.config,
        format!("{others}[[boot_config]]{}", config_of(&configured)),
    )
    .unwrap();
    daemon.signal(Signal::HUP);
    until("the output", || world.published(TARGET).is_file());
    daemon.stop();
}

fn list(world: &World) -> String {
    fs::read_to_string(world.tree.join(".netboot-publisher/links")).unwrap_or_default()
}

fn files_of_others() {
    let outputs = ["boot/theirs", "generated", "new/menu"];
    let world = world(&outputs.map(|output| (Path::new("menu.j2"), output)), "");
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    let of = |output: &str| world.root.join("tftp").join(output);
    let read = |output: &str| fs::read_to_string(of(output)).unwrap();
    fs::create_dir_all(of("boot")).unwrap();
    fs::write(of("boot/theirs"), "by hand\n").unwrap();
    let head = "# Generated by netboot-publisher from /etc/x; what is changed here is lost.\n";
    fs::write(of("generated"), head).unwrap();
    let expected = format!(
        "{:?} is a file that the daemon did not make; expected one that says of itself that it is \
         generated, or nothing yet",
        of("boot/theirs")
    );
    let checked = world.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(78), "{}", text(&checked));
    let said = format!("error: boot_config, \"boot/theirs\": {expected}\n");
    assert_eq!(
        text(&checked).matches("error: ").count(),
        1,
        "{}",
        text(&checked)
    );
    assert!(text(&checked).contains(&said), "{}", text(&checked));

    for number in ["1", "2"] {
        world.drop_image(number, TARGET, &[("linux", number.as_bytes())]);
        let once = world.run(&["run", "--once"]);
        assert_eq!(once.status.code(), Some(1), "{}", text(&once));
        assert!(
            text(&once).contains("1 output could not be rendered"),
            "{}",
            text(&once)
        );
        assert!(text(&once).contains(&expected), "{}", text(&once));
        world.assert_outcome(number, "published");
        assert_eq!(read("boot/theirs"), "by hand\n");
        let generation = world.outcome(number).unwrap()["generation"].clone();
        // The text that the template makes doesn't say what it is: by the list it is known.
        for output in ["generated", "new/menu"] {
            assert!(
                read(output).contains(generation.as_str().unwrap()),
                "{output}\n{world}"
            );
        }
    }
    let listed = "outputs = [\"../generated\", \"../new/menu\"]\n";
    assert!(list(&world).contains(listed), "{}", list(&world));
    fs::remove_file(of("boot/theirs")).unwrap();
    world.run_once();
    assert!(read("boot/theirs").contains(TARGET), "{world}");
    let checked = world.run(&["check-config"]);
    assert!(checked.status.success(), "{}", text(&checked));
}

fn outputs_that_go() {
    let world = world(&[(Path::new("menu.j2"), "boot/menu")], "");
    fs::write(world.root.join("menu.j2"), TEMPLATE).unwrap();
    let configured = fs::read_to_string(&world.config).unwrap();
    let (others, _) = configured.split_once("[[boot_config]]").unwrap();
    let output = world.root.join("tftp/boot/menu");
    world.drop_image("1", TARGET, &[("linux", b"1")]);
    let mut daemon = world.daemon();
    until("the output", || output.exists());
    until("the list", || list(&world).contains("../boot/menu"));
    fs::write(&world.config, others).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for(&format!(
        "no boot configuration has the output {output:?} any more, it stays"
    ));
    until("the list to be empty", || !list(&world).contains("menu"));
    // Somebody has thought better of it: the text is the very same, and so the daemon's again.
    fs::write(&world.config, &configured).unwrap();
    daemon.signal(Signal::HUP);
    until("the list", || list(&world).contains("../boot/menu"));
    fs::write(&world.config, others).unwrap();
    daemon.signal(Signal::HUP);
    until("the list to be empty", || !list(&world).contains("menu"));
    let left = fs::read(&output).unwrap();
    world.drop_image("2", TARGET, &[("linux", b"2")]);
    daemon.wait_for_drop("2");
    daemon.stop();
    assert_eq!(fs::read(&output).unwrap(), left, "{world}");
    // What the admin has made of it is not replaced.
    fs::write(&output, "by hand\n").unwrap();
    fs::write(&world.config, configured).unwrap();
    let once = world.run(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(1), "{}", text(&once));
    assert_eq!(fs::read(&output).unwrap(), b"by hand\n", "{world}");
}

/// The second boot configuration.
fn config_of(configured: &str) -> &str {
    configured.split("[[boot_config]]").nth(2).unwrap()
}
