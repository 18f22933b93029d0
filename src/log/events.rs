//! Kinds of events in the log, each with the id that the journal knows it by.
//!
//! Admins and programs look for these ids (`journalctl MESSAGE_ID=…`), and the journal's catalog
//! explains each of them: an id never changes its meaning, and none is used again.

/// The daemon watches the spool, and has finished what was left behind.
pub(crate) const READY: &str = "13a58791fb1148eaa076866238d2bfd2";
/// The daemon was asked to end.
pub(crate) const STOPPING: &str = "b61c207fdc5a4613ad14a8e1ba7237e7";
/// The daemon can't go on.
pub(crate) const FAILED: &str = "214aef05e9d443bc8fed1be2342ca98a";
/// The daemon did not start: its configuration is bad, or can't be read.
pub(crate) const BAD_CONFIGURATION: &str = "75f829d53c6446af9410f97c383f9943";
/// The configuration was read again, and holds from now on.
pub(crate) const RELOADED: &str = "5669e42cf04648a4be01b1b45271f1d9";
/// The configuration was read again, and is bad: the one before still holds.
pub(crate) const RELOAD_REFUSED: &str = "279862d9b0b64f4eb69812627af9a16f";

/// An image is current now.
pub(crate) const PUBLISHED: &str = "8b4aa2b6125b41b08f40707d90b739ee";
/// An image was current already.
pub(crate) const UNCHANGED: &str = "d57b07ae37254fb785aa20fd7a94af5d";
/// A target was taken out of the tree.
pub(crate) const WITHDRAWN: &str = "71f6031caa1a4cd78b4347afd7ab1445";
/// A drop was rejected, and is kept.
pub(crate) const REJECTED: &str = "4671aec492094327a1fbc686c849b2fa";

/// Something can't be done at the moment: it is tried again.
pub(crate) const WAITING: &str = "77a477fb3cec4e99a772abbc3feac68f";
/// What could not be done could be done.
pub(crate) const GOES_ON: &str = "fe44ce7fd7e54355a9b6fed949ab8b65";
/// No event tells of new drops: they are found by the rescans.
pub(crate) const NO_EVENTS: &str = "80ebef60521345b7be6fc87893559d93";
/// A changed image was swapped in though machines may still be using the one before.
pub(crate) const SWAP_DELAYED: &str = "6dcb2e3eff7f4920b949716c6b102da6";
/// A program of the admin's that is run after an outcome has failed.
pub(crate) const HOOK_FAILED: &str = "dacc6c056e5045c8b2c8a982c00ec823";
/// A boot configuration could not be rendered or written: the old one stays.
pub(crate) const BOOT_CONFIG_FAILED: &str = "c64d24bc02bd40ad81faf14effd628aa";
/// What is published is not what was published.
pub(crate) const DAMAGED: &str = "6ac7982e374e40d988f0175c3930b770";

/// Every kind of event: its name, and its id.
pub const ALL: [(&str, &str); 17] = [
    ("READY", READY),
    ("STOPPING", STOPPING),
    ("FAILED", FAILED),
    ("BAD_CONFIGURATION", BAD_CONFIGURATION),
    ("RELOADED", RELOADED),
    ("RELOAD_REFUSED", RELOAD_REFUSED),
    ("PUBLISHED", PUBLISHED),
    ("UNCHANGED", UNCHANGED),
    ("WITHDRAWN", WITHDRAWN),
    ("REJECTED", REJECTED),
    ("WAITING", WAITING),
    ("GOES_ON", GOES_ON),
    ("NO_EVENTS", NO_EVENTS),
    ("SWAP_DELAYED", SWAP_DELAYED),
    ("HOOK_FAILED", HOOK_FAILED),
    ("BOOT_CONFIG_FAILED", BOOT_CONFIG_FAILED),
    ("DAMAGED", DAMAGED),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_one_of_its_own_and_written_as_the_journal_wants_it() {
        for (name, id) in ALL {
            let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(id.len() == 32 && id.chars().all(is_hex), "{name} {id}");
            let same = ALL.iter().filter(|(_, other)| *other == id).count();
            assert_eq!(same, 1, "{name} {id}");
        }
    }
}
