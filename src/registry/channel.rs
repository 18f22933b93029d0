//! A channel of a centre, as its file has it: `channels.d/<name>.toml`.

use reqwest::Url;

use super::address::Address;
use crate::fetch::Options;
use crate::text::{InputError, ValueExt as _, read_toml};
use crate::words::{Target, TargetPattern};

/// Where a centre's orders go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(super) address: Address,
    /// What the centre is called: a channel takes orders from one only.
    pub(super) centre: String,
    targets: Vec<TargetPattern>,
    pub(super) options: Options,
}

/// What the name of a centre has to look like.
const CENTRE_RULE: &str = "1 to 64 of `A-Z a-z 0-9 . _ + -`";

impl Channel {
    /// Reads the file of a channel; `file` is the name that errors show.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, each with line, column and what was expected.
    pub(crate) fn parse(name: &str, file: &str, text: &str) -> Result<Self, InputError> {
        read_toml(file, text, |top| {
            let address = top.required("url", |value| value.parsed(Address::RULE, address));
            let centre = top.required("centre", |value| value.parsed(CENTRE_RULE, centre));
            let all = "patterns of targets such as \"*/*/*/*\"";
            let targets = top.list("targets", Some(all), |text| {
                let rule = |_| TargetPattern::rule();
                text.parse::<TargetPattern>().map_err(rule)
            });
            let every = || vec!["*/*/*/*".parse().expect("it is a pattern")];
            let options = Options::read(top);
            Some(Self {
                name: name.to_string(),
                address: address?,
                centre: centre?,
                targets: targets.unwrap_or_else(every),
                options: options?,
            })
        })
    }

    /// Where the orders of another channel go as well: each would take out what the other has pushed.
    pub(crate) fn shared_with(&self, other: &Self) -> Option<String> {
        (self.name != other.name && self.address == other.address).then(|| self.address.to_string())
    }

    /// Whether the orders for a target go there.
    pub(super) fn takes(&self, target: &Target) -> bool {
        self.targets.iter().any(|it| it.fits(target))
    }
}

fn address(text: &str) -> Option<Address> {
    Address::of(&Url::parse(text).ok()?)
}

fn centre(text: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let is_good = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
    is_good.then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Channel, String> {
        let parsed = Channel::parse("stable", "stable.toml", text);
        parsed.map_err(|error| error.to_string())
    }

    const SMALLEST: &str = "url = \"http://127.0.0.1:5000/netboot\"\ncentre = \"fra1\"\n";

    #[test]
    fn the_smallest_channel_takes_the_orders_for_all_targets() {
        let channel = parse(SMALLEST).unwrap();
        assert_eq!(channel.address.to_string(), "http://127.0.0.1:5000/netboot");
        assert_eq!((&*channel.name, &*channel.centre), ("stable", "fra1"));
        assert_eq!(channel.options, Options::default());
        assert!(channel.takes(&"amd64/generic/noble/install".parse().unwrap()));
    }

    #[test]
    fn a_channel_may_be_for_some_targets_and_need_a_login() {
        let channel = parse(
            "url = \"https://registry.example/netboot/stable\"\ncentre = \"fra1\"\n\
             targets = [\"amd64/*/noble/*\", \"arm64/*/*/*\"]\nca = \"/etc/ca.pem\"\n\
             username = \"centre\"\npassword_file = \"/etc/secret\"\n",
        );
        let channel = channel.unwrap();
        let takes = |target: &str| channel.takes(&target.parse().unwrap());
        assert!(takes("amd64/generic/noble/install") && takes("arm64/generic/jammy/install"));
        assert!(!takes("amd64/generic/jammy/install"));
        assert_eq!(
            channel.options,
            Options {
                ca: Some("/etc/ca.pem".into()),
                login: Some(("centre".into(), "/etc/secret".into())),
            }
        );
    }

    #[test]
    fn all_that_is_wrong_with_a_channel_is_said_at_once() {
        let wrong = parse(
            "url = \"https://registry.example/Netboot\"\ntargets = [\"amd64\"]\nusername = \"me\"\nx = 1\n",
        );
        let expected = "\
error: missing key `centre`
 --> stable.toml:1:1
  |
1 | url = \"https://registry.example/Netboot\"
  | ^

error: missing key `password_file`
 --> stable.toml:1:1
  |
1 | url = \"https://registry.example/Netboot\"
  | ^

error: invalid `url`
 --> stable.toml:1:7
  |
1 | url = \"https://registry.example/Netboot\"
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ expected the URL of a repository such as \
\"https://registry.example:5000/netboot/stable\": http or https, without user, tag and query; parts of \
`a-z 0-9 . _ -`

error: invalid `targets`
 --> stable.toml:2:12
  |
2 | targets = [\"amd64\"]
  |            ^^^^^^^ expected arch/subarch/release/purpose, each 1 to 64 of `A-Z a-z 0-9 . _ + -`, \
starting with a letter or a digit; `*` stands for any part of one

error: unknown key `x`
 --> stable.toml:4:1
  |
4 | x = 1
  | ^ expected one of `url`, `centre`, `targets`, `ca`, `username`, `password_file`";
        assert_eq!(wrong.unwrap_err(), expected);
    }
}
