//! How an image boots.

use serde::{Deserialize, Serialize};

/// How an image boots, as far as its importer says: what a manifest, a record and the catalog call
/// `boot`. Every path is from the image's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    #[serde(default)]
    pub kernel: Option<String>,
    /// In the order in which a boot loader loads them.
    #[serde(default)]
    pub initrd: Vec<String>,
    /// What the kernel, or the EFI program, is told; the placeholders are still in it.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// What people see in a menu.
    #[serde(default)]
    pub title: Option<String>,
    /// An EFI program that boots without a kernel and an initrd beside it.
    #[serde(default)]
    pub efi: Option<String>,
}

impl Boot {
    /// Stand in a command line for the pinned URL and the pinned path of the image.
    pub(crate) const URL: &str = "{url}";
    pub(crate) const PATH: &str = "{path}";

    /// More initrds than this no boot loader has to load.
    pub(crate) const MAX_INITRDS: usize = 32;

    /// What a path has to look like.
    pub(crate) const PATH_RULE: &str =
        "a path below `image`, without `.`, `..` and control characters";

    /// What a command line has to look like: the kernels of most architectures take no longer one.
    pub(crate) const CMDLINE_RULE: &str = "one line of 1 to 2048 bytes, without control characters";

    /// What a title has to look like. Boot loaders take a text that begins with `-` for an option.
    pub(crate) const TITLE_RULE: &str = "a text of 1 to 128 bytes without control characters, which \
        begins with no `-` and neither begins nor ends with a blank";

    /// Whether a path follows [`Boot::PATH_RULE`].
    pub(crate) fn is_path(path: &str) -> bool {
        let is_plain = |part| !matches!(part, "" | "." | "..");
        !path.contains(char::is_control) && path.split('/').all(is_plain)
    }

    /// Whether a text may stand in a boot loader's configuration as it is: no loader takes anything in it
    /// for a command.
    pub(crate) fn is_plain(text: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/@".contains(&b);
        !text.is_empty() && text.bytes().all(is_plain)
    }

    /// `None` when the text doesn't follow [`Boot::PATH_RULE`].
    pub(crate) fn path(text: &str) -> Option<String> {
        Self::is_path(text).then(|| text.to_string())
    }

    /// `None` when the text doesn't follow [`Boot::CMDLINE_RULE`].
    pub(crate) fn cmdline(text: &str) -> Option<String> {
        let is_good = (1..=2048).contains(&text.len()) && !text.contains(char::is_control);
        is_good.then(|| text.to_string())
    }

    /// `None` when the text doesn't follow [`Boot::TITLE_RULE`].
    pub(crate) fn title(text: &str) -> Option<String> {
        let is_good = (1..=128).contains(&text.len())
            && !text.contains(char::is_control)
            && !text.starts_with('-')
            && text.trim() == text;
        is_good.then(|| text.to_string())
    }

    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The paths that it names, each after the key that does.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let kernel = self.kernel.iter().map(|path| ("kernel", &**path));
        let initrd = self.initrd.iter().map(|path| ("initrd", &**path));
        let efi = self.efi.iter().map(|path| ("efi", &**path));
        kernel.chain(initrd).chain(efi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_no_option_and_moves_no_cursor() {
        let long = "x".repeat(129);
        for bad in ["", " x", "x ", "-x", "a\nb", "\u{1b}[2J", "\u{85}", &long] {
            assert_eq!(Boot::title(bad), None, "{bad:?}");
        }
        for good in ["x", "Debian 12 (\u{fc}) 'x' $y; {z}", &long[1..]] {
            assert_eq!(Boot::title(good).as_deref(), Some(good));
        }
    }

    #[test]
    fn a_command_line_is_one_line() {
        let long = "x".repeat(2049);
        for bad in ["", "a\nb", "a\tb", "a\u{7f}", &long] {
            assert_eq!(Boot::cmdline(bad), None, "{bad:?}");
        }
        for good in [" ", "-- ip=dhcp url={url}/x \"a b\"", &long[1..]] {
            assert_eq!(Boot::cmdline(good).as_deref(), Some(good));
        }
    }
}
