//! `[[alias]]`: another path to what a target shows.

use std::path::{Path, PathBuf};

use super::outputs::{ARCH, may_meet};
use super::values::below;
use crate::text::{Expected, Table, ValueExt as _};
use crate::words::{Name, Target};

/// A link that leads to the stable path of a target while that shows something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// Below the TFTP server's root.
    pub(crate) path: PathBuf,
    pub(crate) target: Target,
}

/// Reads one alias. `tree` is the way from the TFTP server's root to the tree, `outputs` are those of
/// boot configurations, some of them for any architecture; `others` are the aliases before this one.
pub(super) fn alias(
    table: &mut Table<'_, '_>,
    tree: &Path,
    outputs: &[PathBuf],
    others: &mut Vec<Alias>,
) -> Option<Alias> {
    let place = |target: &Target| tree.join(target.to_string());
    let target = table.required("target", |value| {
        let rule = format!("arch/subarch/release/purpose, each {}", Name::RULE);
        let target = value.parsed(&rule, |text| text.parse::<Target>().ok())?;
        let place = place(&target);
        match others.iter().find(|it| place.starts_with(&it.path)) {
            None => Ok(target),
            Some(_) => Err("a target that does not lie below an `alias`".to_string()),
        }
    });
    let path = table.required("path", |value| {
        let path = below(value)?;
        check_tree(&path, tree)?;
        let mut targets = others.iter().map(|it| &it.target).chain(&target);
        if targets.any(|target| place(target).starts_with(&path)) {
            return Err("a path that is not above the target of an `alias`".to_string());
        }
        if path.to_string_lossy().contains(ARCH) {
            return Err(format!(
                "a path without {ARCH:?}, which only a `boot_config` has"
            ));
        }
        let mut taken = others.iter().map(|it| &it.path).chain(outputs);
        if taken.any(|other| may_meet(other, &path)) {
            return Err(
                "a path of its own, neither above nor below that of another `alias` or of a \
                 `boot_config`"
                    .to_string(),
            );
        }
        Ok(path)
    });
    let alias = Alias {
        path: path?,
        target: target?,
    };
    others.push(alias.clone());
    Some(alias)
}

/// An alias is neither the tree nor above it, and where targets are there is none.
fn check_tree(path: &Path, tree: &Path) -> Result<(), Expected> {
    if tree.starts_with(path) {
        return Err("another path: this is the tree, or a folder above it".to_string());
    }
    let Ok(inside) = path.strip_prefix(tree) else {
        return Ok(());
    };
    let first: PathBuf = inside.components().take(4).collect();
    match first.to_str().and_then(|text| text.parse::<Target>().ok()) {
        None => Ok(()),
        Some(target) => Err(format!(
            "a path of at most three parts in the tree, or outside of it: this is the place of the \
             target {target}, or below it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::Settings;

    const HEAD: &str = "[tree]\npath = \"/srv/tftp/netboot\"\n[tftp]\nroot = \"/srv/tftp\"\n";
    const LOADER: &str = "amd64/generic/grub/loader";

    /// What is said of these aliases, each a path and a target.
    fn said(aliases: &[[&str; 2]]) -> String {
        let mut text = HEAD.to_string();
        for output in ["grub/grub.cfg\"", "d-i/{arch}/menu\"\nfor_each = \"arch\""] {
            let _ = write!(
                text,
                "[[boot_config]]\ntemplate = \"t\"\noutput = \"{output}\n"
            );
        }
        for [path, target] in aliases {
            let _ = write!(text, "[[alias]]\npath = {path:?}\ntarget = \"{target}\"\n");
        }
        match Settings::parse("config.toml", &text) {
            Ok(settings) => {
                assert_eq!(settings.aliases.len(), aliases.len());
                String::new()
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_alias_has_a_place_of_its_own_beside_targets_and_outputs() {
        const FORM: &str = "expected a path below `tftp.root`; no part of it begins with `.`";
        const OWN: &str = "expected a path of its own, neither above nor below";
        for (path, expected) in [
            ("efi-x64", ""),
            ("debian-installer/amd64", ""),
            ("grub/x86_64-efi", ""),
            ("netboot/efi-x64", ""),
            ("netboot/amd64/generic/loader", ""),
            ("a/b/c/d/e", ""),
            ("/efi-x64", FORM),
            ("../efi-x64", FORM),
            ("a/../efi-x64", FORM),
            (".efi-x64", FORM),
            ("a/.b/c", FORM),
            ("a@/b", FORM),
            ("netboot/catalog.json", FORM),
            ("grub", OWN),
            ("grub/grub.cfg", OWN),
            ("grub/grub.cfg/x", OWN),
            ("d-i", OWN),
            ("d-i/amd64", OWN),
            ("d-i/any/menu/x", OWN),
            ("d-i/amd64/efi", ""),
            ("efi/{arch}", "expected a path without \"{arch}\""),
            (
                "netboot",
                "expected another path: this is the tree, or a folder above it",
            ),
            (
                "netboot/amd64/generic",
                "expected a path that is not above the target of an `alias`",
            ),
            (
                "netboot/arm64/generic/grub/loader",
                "expected a path of at most three parts in the tree, or outside of it: this is the \
                 place of the target arm64/generic/grub/loader, or below it",
            ),
            (
                "netboot/amd64/generic/grub/loader/x64",
                "expected a path of at most three parts in the tree",
            ),
        ] {
            let said = said(&[[path, LOADER]]);
            assert_eq!(said.is_empty(), expected.is_empty(), "{path}: {said}");
            assert!(said.contains(expected), "{path}: {said}");
            assert!(
                said.is_empty() || said.contains("invalid `alias.path`"),
                "{said}"
            );
        }
        // Where the tree is the root, a path of four parts is a target's.
        let text = |path: &str| format!("[[alias]]\npath = \"{path}\"\ntarget = \"{LOADER}\"\n");
        assert!(Settings::parse("x", &text("debian-installer/amd64")).is_ok());
        assert!(Settings::parse("x", &text("debian-installer/amd64/grub/x64")).is_err());
    }

    #[test]
    fn no_alias_is_in_the_way_of_another() {
        let first = ["efi", LOADER];
        assert_eq!(said(&[first, ["efi-x64", LOADER]]), "");
        for path in ["efi", "efi/x64"] {
            let said = said(&[first, [path, LOADER]]);
            assert!(
                said.contains("a path of its own, neither above nor below"),
                "{said}"
            );
        }
        // The target of one lies below the other, whichever comes first.
        let above = ["netboot/arm64", LOADER];
        let target = ["efi", "arm64/generic/grub/loader"];
        let later = said(&[above, target]);
        assert!(
            later.contains("expected a target that does not lie below an `alias`"),
            "{later}"
        );
        let earlier = said(&[target, above]);
        assert!(
            earlier.contains("expected a path that is not above the target"),
            "{earlier}"
        );
    }

    #[test]
    fn what_is_wrong_with_an_alias_is_said_with_line_and_caret() {
        let bad = "[[alias]]\npath = \"/efi\"\ntarget = \"amd64/loader\"\n[[alias]]\nto = \"x\"\n";
        let expected = "\
error: missing key `alias.path`
 --> config.toml:4:1
  |
4 | [[alias]]
  | ^^^^^^^^^
";
        let said = Settings::parse("config.toml", bad).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
        for problem in [
            "error: invalid `alias.path`\n --> config.toml:2:8\n  |\n2 | path = \"/efi\"\n  |        ^^^^^^ \
             expected a path below `tftp.root`",
            "error: invalid `alias.target`\n --> config.toml:3:10\n  |\n3 | target = \"amd64/loader\"\n  \
             |          ^^^^^^^^^^^^^^ expected arch/subarch/release/purpose, each 1 to 64 of",
            "error: missing key `alias.target`\n",
            "error: unknown key `alias.to`\n",
        ] {
            assert!(said.contains(problem), "{problem}\n\n{said}");
        }
    }
}
