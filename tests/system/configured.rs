//! The installed service and its configuration: what a start, a reload and README's example do.

use std::fs;

use libtest_mimic::Trial;

use crate::lab::container::{self, ADDRESS, Container, UNIT};
use crate::lab::network::{Chapter, without_line};
use crate::lab::world::{Needs, test, text, until};
use crate::recipes::{current_at, next_second, recipe};
use crate::service::{TREE, drop_as_ci};

pub fn tests() -> Vec<Trial> {
    let needs = |more: &[Needs]| [&container::NEEDS, more].concat();
    vec![
        test(
            "the service takes a good configuration while it runs and refuses a bad one",
            &needs(&[]),
            reloads,
        ),
        test(
            "a configuration with five errors fails the start with all five in the journal",
            &needs(&[]),
            refuses_bad_configuration,
        ),
        test(
            "the boot configuration of the README works in the installed package as it is written",
            &needs(&[Needs::Program("curl")]),
            readme_boots,
        ),
    ]
}

fn reloads() {
    let container = Container::with_service();
    let process = container.property("MainPID");
    container.configure("[limits]\nmax_files = 1\n");
    container.ok(&format!("systemctl reload {UNIT}"));
    drop_as_ci(&container, "two", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
        fs::write(image.join("initrd"), "initrd").unwrap();
    });
    let outcome = container.wait_for_outcome("two", "rejected");
    assert_eq!(outcome["reason"], "too-many-files");

    // Wrong keys, and a template that is not there.
    let keys = "[limits]\nmax_file = 2\nmax_depth = \"deep\"\n";
    let keys = (keys, &["`limits.max_file`", "`limits.max_depth`"][..]);
    let template = "[[boot_config]]\ntemplate = \"/etc/x.j2\"\noutput = \"menu\"\n";
    let template = (template, &["reading \"/etc/x.j2\": No such file"][..]);
    for (number, (settings, expected)) in [keys, template].into_iter().enumerate() {
        container.configure(settings);
        let reload = container.run(&format!("systemctl reload {UNIT}"));
        assert!(!reload.status.success(), "{}", text(&reload));
        let refused = "MESSAGE_ID=279862d9b0b64f4eb69812627af9a16f";
        let entries = || container.journal(&format!("--unit {UNIT} {refused}"));
        until("the entry", || entries().len() > number);
        let entries = entries();
        let said = entries[number]["MESSAGE"].as_str().unwrap();
        let begin = "reload refused, keeping the old configuration: bad configuration\n";
        assert!(said.starts_with(begin), "{said}");
        for error in expected {
            assert!(said.contains(error), "no {error:?} in {said}");
        }
    }
    let own = "SYSLOG_IDENTIFIER=netboot-publisher";
    let refused = container.journal(&format!("--unit {UNIT} --priority err {own}"));
    assert_eq!(refused.len(), 2, "one entry for each: {refused:#?}");
    assert_eq!(container.property("ActiveState"), "active");
    assert_eq!(
        container.property("MainPID"),
        process,
        "it was started again"
    );
    // The old configuration stays.
    drop_as_ci(&container, "two-again", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
        fs::write(image.join("initrd"), "initrd").unwrap();
    });
    container.wait_for_outcome("two-again", "rejected");

    let rule = "[[importer]]\nname = \"team\"\nusers = [\"ci\"]\npublish = [\"a/*/*/*\"]\n";
    container.configure(rule);
    container.ok(&format!("systemctl reload {UNIT}"));
    drop_as_ci(&container, "two-at-last", "a/b/c/d", |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
        fs::write(image.join("initrd"), "initrd").unwrap();
    });
    container.wait_for_outcome("two-at-last", "published");
    // An outcome is there a moment before its entry in the journal.
    let by_rule = || container.journal(&format!("--unit {UNIT} RULE=team"));
    until("the entry of the drop", || !by_rule().is_empty());
    assert_eq!(by_rule()[0]["DROP"], "two-at-last", "{:#?}", by_rule());
    assert_eq!(
        container.property("MainPID"),
        process,
        "it was started again"
    );
}

fn refuses_bad_configuration() {
    let container = Container::with_service();
    container.configure(
        "[spool]\nwatch = \"maybe\"\nrescan_interval = 60\n[limits]\nmax_fils = 1\n\
         [retention]\nkeep = -1\n[surprise]\n",
    );
    let restart = container.run(&format!("systemctl restart {UNIT}"));
    assert!(!restart.status.success(), "{}", text(&restart));
    assert_eq!(container.property("ActiveState"), "failed");
    assert_eq!(container.property("ExecMainStatus"), "78");
    let log = container.ok(&format!(
        "journalctl --sync; journalctl --output cat --unit {UNIT} \
         _SYSTEMD_INVOCATION_ID={}",
        container.property("InvocationID")
    ));
    for line in [2, 3, 5, 7, 8] {
        let place = format!("/etc/netboot-publisher/config.toml:{line}:");
        assert!(log.contains(&place), "no error at {place} in:\n{log}");
    }
    assert!(log.matches('^').count() >= 5, "no carets in:\n{log}");
    // A restart of the service would have been planned by now, and have come before this unit.
    container.ok("systemd-run --quiet --wait --service-type=oneshot sleep 3");
    assert_eq!(container.property("NRestarts"), "0");
    assert_eq!(container.property("ActiveState"), "failed");

    container.configure("");
    container.ok(&format!("systemctl restart {UNIT}"));
}

/// The blocks of the README's section about boot configurations: settings, and commands.
fn readme() -> (String, String) {
    let readme = include_str!("../../README.md");
    let (_, section) = readme
        .split_once("### Boot configurations\n")
        .expect("a section");
    let block = |begin: &str| {
        let (_, block) = section.split_once(begin).expect("a block");
        block.split("```").next().unwrap().to_string()
    };
    (block("```toml\n"), block("```\ncp "))
}

fn readme_boots() {
    let container = Container::with_service();
    let (settings, commands) = readme();
    let configuration = container.path("/etc/netboot-publisher/config.toml");
    let shipped = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, [&*shipped, &settings].concat()).unwrap();
    container.ok(&format!("cp {commands}"));
    let target = "amd64/generic/bookworm/install";
    drop_as_ci(&container, "one", target, |image| {
        fs::write(image.join("linux"), "kernel").unwrap();
    });
    container.wait_for_outcome("one", "published");
    let menu = container.path("/srv/tftp/pxelinux.cfg/default");
    let pinned = fs::read_link(container.path(&format!("{TREE}/{target}"))).unwrap();
    let pinned = format!(
        "/netboot/{}",
        target.replace("install", pinned.to_str().unwrap())
    );
    until("the menu", || {
        fs::read_to_string(&menu).is_ok_and(|text| text.contains(&pinned))
    });
    let text_of = fs::read_to_string(&menu).unwrap();
    let from = "Generated by netboot-publisher from /etc/netboot-publisher/pxelinux.cfg.j2; ";
    assert!(text_of.starts_with(&format!("# {from}")), "{text_of}");

    // A machine reads the menu, and what that names.
    let options = "/etc/default/tftpd-hpa";
    container.ok(&format!(
        "sed --in-place 's/--secure/--secure --verbose/' {options}"
    ));
    container.serve();
    let fetch = |path: &str| {
        let fetched = container
            .enter_network("curl")
            .args(["--silent", "--show-error", "--fail", "--retry", "5"])
            .arg(format!("tftp://{ADDRESS}/{path}"))
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{path}: {}", text(&fetched));
        String::from_utf8(fetched.stdout).unwrap()
    };
    let menu = fetch("pxelinux.cfg/default");
    let kernel = menu
        .lines()
        .find_map(|line| line.trim().strip_prefix("LINUX ::/"));
    assert_eq!(fetch(kernel.expect("a kernel")), "kernel");
    set_up_from_nothing(&container, &shipped, &pinned);
    assert_eq!(fetch("bios/pxelinux.0"), "loader");

    // README's recipe tells what the machine has got.
    let stable = format!("netboot/{target}/linux");
    next_second();
    assert_eq!(fetch(&stable), "kernel");
    next_second();
    drop_as_ci(&container, "two", target, |image| {
        fs::write(image.join("linux"), "another").unwrap();
    });
    container.wait_for_outcome("two", "published");
    next_second();
    assert_eq!(fetch(&stable), "another");
    let recipe = recipe("**What did a machine boot?**").replace("192.0.2.17", ADDRESS);
    let unit = |name: &str| recipe.lines().find(|line| line.contains(name)).unwrap();
    let log = container.ok(&format!("journalctl --sync; {}", unit("in.tftpd ")));
    let history = container.ok(unit("netboot-publisher history"));
    let asked: Vec<_> = log.lines().filter(|line| line.ends_with(&stable)).collect();
    assert!(log.contains(&format!("filename {}", &pinned[1..])), "{log}");
    // Who has no answer yet asks once more.
    let (first, second) = (asked[0], asked[asked.len() - 1]);
    let at = |line: &str| {
        let time = line.split(' ').next().unwrap();
        current_at(&history, &time.replace("+0000", "Z"))
    };
    assert!(pinned.ends_with(&at(first)), "{log}\n{history}");
    assert_ne!(at(first), at(second), "{log}\n{history}");
}

/// What README's chapter says of a server that has nothing but the package; with an image and a loader.
fn set_up_from_nothing(container: &Container, shipped: &str, pinned: &str) {
    let chapter = Chapter::read();
    let configuration = container.path("/etc/netboot-publisher/config.toml");
    fs::write(configuration, [shipped, &chapter.settings].concat()).unwrap();
    container.ok(&without_line(&chapter.prepare, "apt install "));
    container.ok(&format!("systemctl reload {UNIT}"));
    drop_as_ci(
        container,
        "loader",
        "amd64/generic/pxelinux/loader",
        |image| {
            fs::write(image.join("pxelinux.0"), "loader").unwrap();
        },
    );
    container.wait_for_outcome("loader", "published");
    for menu in ["grub/grub.cfg", "menu.ipxe", "pxelinux.cfg/default"] {
        let menu = container.path("/srv/tftp").join(menu);
        until("the menu", || {
            fs::read_to_string(&menu).is_ok_and(|text| text.contains(pinned))
        });
    }
    for command in without_line(&chapter.publish, "systemctl ").lines() {
        let importer = command.split(' ').nth(1).unwrap();
        container.ok(&format!("test -f {importer}"));
    }
}
