//! Kinds of events in the log, each with the id that the journal knows it by.

/// A kind of event in the log; written as its id.
///
/// Admins and programs look for these ids (`journalctl MESSAGE_ID=…`), and the journal's catalog
/// explains each of them: an id never changes its meaning, and none is used again.
#[derive(Clone, Copy, Debug, strum::Display, strum::VariantNames)]
pub enum MessageId {
    /// The daemon watches the spool, and has finished what was left behind.
    #[strum(to_string = "13a58791fb1148eaa076866238d2bfd2")]
    Ready,
    /// The daemon was asked to end.
    #[strum(to_string = "b61c207fdc5a4613ad14a8e1ba7237e7")]
    Stopping,
    /// The daemon can't go on.
    #[strum(to_string = "214aef05e9d443bc8fed1be2342ca98a")]
    Failed,
    /// The daemon did not start: its configuration is bad, or can't be read.
    #[strum(to_string = "75f829d53c6446af9410f97c383f9943")]
    BadConfiguration,
    /// The configuration was read again, and holds from now on.
    #[strum(to_string = "5669e42cf04648a4be01b1b45271f1d9")]
    Reloaded,
    /// The configuration was read again, and is bad: the one before still holds.
    #[strum(to_string = "279862d9b0b64f4eb69812627af9a16f")]
    ReloadRefused,
    /// An image is current now.
    #[strum(to_string = "8b4aa2b6125b41b08f40707d90b739ee")]
    Published,
    /// An image was current already.
    #[strum(to_string = "d57b07ae37254fb785aa20fd7a94af5d")]
    Unchanged,
    /// An older generation is current again.
    #[strum(to_string = "9fec5176091d44f19e96397b8ee9bc6e")]
    RolledBack,
    /// A target was taken out of the tree.
    #[strum(to_string = "71f6031caa1a4cd78b4347afd7ab1445")]
    Withdrawn,
    /// What is current at another target is current here now.
    #[strum(to_string = "05cec29109b248a98738c17db894848b")]
    Promoted,
    /// A drop was rejected, and is kept.
    #[strum(to_string = "4671aec492094327a1fbc686c849b2fa")]
    Rejected,
    /// So many drops of one importer were rejected that most have no line of their own.
    #[strum(to_string = "9131b283181fdf8739352c5b62e4975a")]
    RejectedMany,
    /// Something can't be done at the moment: it is tried again.
    #[strum(to_string = "77a477fb3cec4e99a772abbc3feac68f")]
    Waiting,
    /// What could not be done could be done.
    #[strum(to_string = "fe44ce7fd7e54355a9b6fed949ab8b65")]
    GoesOn,
    /// A piece of work shows no sign of life: a disk has died, for one.
    #[strum(to_string = "f0731a642416e01018321261467a2b16")]
    Hangs,
    /// No event tells of new drops: they are found by the rescans.
    #[strum(to_string = "80ebef60521345b7be6fc87893559d93")]
    NoEvents,
    /// Somebody has set the machine's clock.
    #[strum(to_string = "c3b2f6a1e07d4d52a0d3c5f9be7a1864")]
    ClockSet,
    /// A changed image waits until no machine uses the one before.
    #[strum(to_string = "0d7f5b0b3f6a4c1e9a52c8e1d7a4b396")]
    SwapHeld,
    /// Retention no longer kept a generation.
    #[strum(to_string = "b1c9e07d64f24f6c8d3a5e90f2a7416b")]
    GenerationRemoved,
    /// A changed image was swapped in though machines may still be using the one before.
    #[strum(to_string = "6dcb2e3eff7f4920b949716c6b102da6")]
    SwapDelayed,
    /// A generation was removed though somebody has used it for long after its time.
    #[strum(to_string = "d242cb270e625915a545c6b27fbf8008")]
    RemovedInUse,
    /// A program of the admin's that is run after an outcome has failed.
    #[strum(to_string = "dacc6c056e5045c8b2c8a982c00ec823")]
    HookFailed,
    /// A boot configuration could not be rendered or written: the old one stays.
    #[strum(to_string = "c64d24bc02bd40ad81faf14effd628aa")]
    BootConfigFailed,
    /// An alias is not there, or leads elsewhere: something else stands in its place, for one.
    #[strum(to_string = "45cfa87f02e549b0bcfb0c2dd7c9249c")]
    AliasFailed,
    /// What is published is not what was published.
    #[strum(to_string = "6ac7982e374e40d988f0175c3930b770")]
    Damaged,
    /// No signature proves what is published.
    #[strum(to_string = "55adf8f7c7d84b02941ad9df44f47c62")]
    Unproven,
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::VariantNames as _;

    #[test]
    fn every_id_is_one_of_its_own_and_written_as_the_journal_wants_it() {
        for id in MessageId::VARIANTS {
            let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(id.len() == 32 && id.chars().all(is_hex), "{id}");
            let same = MessageId::VARIANTS
                .iter()
                .filter(|other| *other == id)
                .count();
            assert_eq!(same, 1, "{id}");
        }
    }
}
