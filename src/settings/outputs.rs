//! Boot configurations, and where their outputs may stand.

use std::iter::zip;
use std::path::{Path, PathBuf};

use super::values::below;
use crate::text::{Table, ValueExt};
use crate::words::Name;

/// Stands in an output for the name of an architecture.
pub(super) const ARCH: &str = "{arch}";

/// A boot configuration that is rendered after each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootConfig {
    pub(crate) template: PathBuf,
    /// Below the TFTP server's root. Where there is one for each architecture, `{arch}` stands for it.
    pub(crate) output: PathBuf,
    pub(crate) is_for_each_arch: bool,
}

impl BootConfig {
    /// The output for an architecture.
    pub(crate) fn output_of(&self, arch: &str) -> PathBuf {
        let parts = self.output.iter();
        parts
            .map(|part| part.to_string_lossy().replace(ARCH, arch))
            .collect()
    }

    /// The architecture that an output is for, where it is one of these.
    pub(crate) fn arch_of(&self, output: &str) -> Option<String> {
        let pattern = self.output.to_string_lossy();
        let (before, after) = pattern.split_once(ARCH)?;
        let arch = output.strip_prefix(before)?.strip_suffix(after)?;
        arch.parse::<Name>().ok().map(|arch| arch.to_string())
    }

    /// Whether this is an output of it, for some architecture where there is one for each.
    pub(crate) fn has(&self, output: &str) -> bool {
        self.output == Path::new(output) || self.arch_of(output).is_some()
    }
}

/// `tree` is the way from the TFTP server's root to the tree; `outputs` are those of the boot
/// configurations before this one.
pub(super) fn boot_config(
    table: &mut Table<'_, '_>,
    tree: &Path,
    outputs: &mut Vec<PathBuf>,
) -> Option<BootConfig> {
    let template = table.required("template", ValueExt::path);
    let has_each = table.has("for_each");
    let for_each = table.optional("for_each", |value| {
        value.parsed("\"arch\"", |text| (text == "arch").then_some(()))
    });
    let output = table.required("output", |value| {
        let output = below(value)?;
        let places = output.to_string_lossy().matches(ARCH).count();
        if places != usize::from(has_each) {
            return Err(format!(
                "{ARCH:?} once with `for_each`, and nowhere without"
            ));
        }
        let others = output.to_string_lossy().replace(ARCH, "");
        if has_each && others.contains(['{', '}']) {
            return Err(format!("no other braces than those of {ARCH:?}"));
        }
        if may_be(tree, &output) {
            return Err("a file: this is the tree, or a folder above it".to_string());
        }
        if outputs.iter().any(|other| may_meet(other, &output)) {
            return Err(
                "a path of its own, neither above nor below that of another `boot_config`"
                    .to_string(),
            );
        }
        outputs.push(output.clone());
        Ok(output)
    });
    Some(BootConfig {
        template: template?,
        output: output?,
        is_for_each_arch: for_each.is_some(),
    })
}

/// Whether one of two paths may be the other, or above it, for some architecture.
pub(super) fn may_meet(a: &Path, b: &Path) -> bool {
    may_be(a, b) || may_be(b, a)
}

/// Whether `above` may be `path`, or above it.
fn may_be(path: &Path, above: &Path) -> bool {
    let mut parts = zip(path, above);
    path.iter().count() >= above.iter().count()
        && parts.all(|(a, b)| {
            let (one, other) = (a.to_string_lossy(), b.to_string_lossy());
            a == b || is_one_of(&one, &other) || is_one_of(&other, &one)
        })
}

/// Whether a name may be that of a pattern for some architecture; a pattern may be for some other
/// pattern's, where nothing before and after the architecture says otherwise.
fn is_one_of(name: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once(ARCH) else {
        return false;
    };
    if let Some((other_before, other_after)) = name.split_once(ARCH) {
        let begins = other_before.starts_with(before) || before.starts_with(other_before);
        return begins && (other_after.ends_with(after) || after.ends_with(other_after));
    }
    let arch = name
        .strip_prefix(before)
        .and_then(|name| name.strip_suffix(after));
    arch.is_some_and(|arch| arch.parse::<Name>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_an_architecture_tells_which_one() {
        let config = BootConfig {
            template: "x.j2".into(),
            output: "d-i/{arch}/grub/grub.cfg".into(),
            is_for_each_arch: true,
        };
        assert_eq!(
            config.output_of("amd64"),
            Path::new("d-i/amd64/grub/grub.cfg")
        );
        assert_eq!(
            config.arch_of("d-i/amd64/grub/grub.cfg").as_deref(),
            Some("amd64")
        );
        for other in [
            "d-i/a/b/grub/grub.cfg",
            "d-i//grub/grub.cfg",
            "d-i/amd64/grub",
            "",
        ] {
            assert_eq!(config.arch_of(other), None, "{other}");
        }
    }

    #[test]
    fn outputs_of_architectures_meet_where_one_may_be_the_other() {
        let meet = |a: &str, b: &str| {
            assert_eq!(
                may_meet(Path::new(a), Path::new(b)),
                may_meet(Path::new(b), Path::new(a))
            );
            may_meet(Path::new(a), Path::new(b))
        };
        for (a, b) in [
            ("grub/grub.cfg", "grub/grub.cfg"),
            ("grub", "grub/grub.cfg"),
            ("d-i/{arch}/grub.cfg", "d-i/amd64/grub.cfg"),
            ("d-i/{arch}/grub.cfg", "d-i/amd64"),
            ("d-i/{arch}/grub.cfg", "d-i"),
            ("{arch}/x", "{arch}/x"),
            ("menu-{arch}.cfg", "menu-{arch}"),
            ("menu-{arch}.cfg", "menu-amd64.cfg"),
            ("x/{arch}", "{arch}/y"),
            ("{arch}", "amd64/generic/noble/install"),
        ] {
            assert!(meet(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("grub/grub.cfg", "grub/grub.cfg2"),
            ("d-i/{arch}/grub.cfg", "d-i/amd64/grub.cfg2"),
            ("d-i/{arch}/grub.cfg", "d-i/.x/grub.cfg"),
            ("menu-{arch}.cfg", "menu-.cfg"),
            ("menu-{arch}.cfg", "{arch}.ipxe"),
            ("menu-{arch}.cfg", "grub-{arch}.cfg"),
            ("{arch}/menu", "amd64/generic/noble/install"),
        ] {
            assert!(!meet(a, b), "{a} {b}");
        }
    }
}
