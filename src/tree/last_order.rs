//! What was ordered last for a target, in the very bytes that somebody has signed, so that it can be carried
//! on to other trees.
//!
//! Whoever may read the tree may ask. No lock is taken: a daemon may be at work.

use super::folder::{self, Shown};
use super::history::{self, Event, Happened};
use super::proof::Proof;
use super::record::Record;
use super::{Generation, Tree};
use crate::fault::Fault;
use crate::sys::{Failure, Kind};
use crate::words::{Moment, Target, Verdict};

/// A manifest, and the signature of that.
type Signed = [Vec<u8>; 2];

/// What has made a target what it is.
#[derive(Debug)]
pub(crate) struct LastOrder {
    /// Published, rolled back, promoted or withdrawn. `None` where the history tells of nothing that fits
    /// what is there: an admin has made it so by hand.
    pub(crate) verdict: Option<Verdict>,
    /// The drop's manifest, as somebody has signed it whom a rule knew.
    pub(crate) signed: Option<Signed>,
    /// What is current.
    pub(crate) image: Option<CurrentImage>,
    /// The time of the swap; of what was made by hand, of the pointer or what is in its place, or, where
    /// nothing is, of the last swap.
    pub(crate) at: Moment,
    /// The highest that was accepted for the target.
    pub(crate) serial: Option<u64>,
}

/// A current generation.
#[derive(Debug)]
pub(crate) struct CurrentImage {
    pub(crate) record: Record,
    /// The image's own manifest, as somebody has signed it whom a rule knew.
    pub(crate) signed: Option<Signed>,
}

impl Tree {
    /// Every target that the tree knows, also those that were withdrawn, as long as their history is there.
    pub(crate) fn targets_ever(&self) -> Result<Vec<Target>, Failure> {
        let mut targets = self.targets()?;
        if let Some(histories) = self.root.dir(history::FOLDER)? {
            targets.extend(folder::targets(&histories, |kind, name| {
                let target = name.strip_suffix(history::ENDING);
                target.filter(|_| kind == Kind::File)
            })?);
        }
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }
}

impl LastOrder {
    /// What was ordered last for `target`; `None` where the tree knows of nothing.
    pub(crate) fn of(tree: &Tree, target: &Target) -> Result<Option<Self>, Fault> {
        let mut shown = tree.shown(target)?;
        loop {
            let found = Self::find(tree, target, &shown)?;
            let now = tree.shown(target)?;
            // What was read of a target that was swapped meanwhile may be of two generations.
            if now == shown {
                return Ok(found);
            }
            shown = now;
        }
    }

    fn find(tree: &Tree, target: &Target, shown: &Shown) -> Result<Option<Self>, Fault> {
        let (swaps, serial) = last_swaps(tree, target)?;
        // The last one may be announced, and not made yet.
        let fits = |swap: &&Happened| match shown {
            Shown::Generation(name) => swap.to.as_ref() == Some(name),
            Shown::Nothing => swap.to.is_none(),
            Shown::Plain | Shown::Other => false,
        };
        let swap = swaps.iter().find(fits);
        let by_hand = match swap {
            Some(_) => None,
            None => tree.root.stat(target.to_string())?,
        };
        let at = swap.map(|swap| swap.at);
        let at = at.or(by_hand.map(|stat| stat.modified));
        let Some(at) = at.or(swaps.first().map(|last| last.at)) else {
            return Ok(None);
        };
        let name = shown.generation();
        let proof = name.map(|name| tree.proof(target, name)).transpose()?;
        let proof = proof.unwrap_or_default();
        let generation = name.map(|name| tree.generation(target, name.clone()));
        let generation = generation.transpose()?.flatten();
        Ok(Some(Self {
            verdict: swap.map(|swap| swap.event.verdict()),
            signed: swap.and_then(|swap| signed(swap, &proof)),
            image: generation.and_then(|Generation { record, .. }| {
                let signed = owned(proof.image());
                record.map(|record| CurrentImage { record, signed })
            }),
            at,
            serial,
        }))
    }
}

/// The last swap of `target`, then the one before, and the highest serial.
fn last_swaps(tree: &Tree, target: &Target) -> Result<(Vec<Happened>, Option<u64>), Failure> {
    let (mut swaps, mut newest) = (Vec::new(), None);
    for line in tree.history(target)?.into_iter().flatten() {
        let line = line?;
        newest.get_or_insert(line.serial);
        swaps.extend(Some(line).filter(Happened::is_swap));
        if swaps.len() == 2 {
            break;
        }
    }
    Ok((swaps, newest.flatten()))
}

/// What was signed of the order that has made a swap; `proof` is that of what is current by it.
fn signed(swap: &Happened, proof: &Proof) -> Option<Signed> {
    match swap.event {
        Event::Published => owned(proof.image()),
        Event::Promoted => owned(proof.order()),
        Event::RolledBack | Event::Withdrawn => {
            let order = swap.vouched.order.clone()?;
            Some([order.manifest, order.signature].map(String::into_bytes))
        }
        // Those are no swaps.
        Event::Adopted | Event::Removed => None,
    }
}

fn owned(kept: [Option<&[u8]>; 2]) -> Option<Signed> {
    let [Some(manifest), Some(signature)] = kept else {
        return None;
    };
    Some([manifest.to_vec(), signature.to_vec()])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::{Change, Origin, Pointers, Staged};
    use super::*;
    use crate::image::{FileMark, Listing};
    use crate::settings::Settings;
    use crate::sys::Importer;
    use crate::words::{ClaimId, Digest, Vouched};

    /// A tree in which one target is changed by hand of the test.
    struct World {
        folder: tempfile::TempDir,
        target: Target,
        pointers: Pointers,
    }

    fn bytes(name: &str) -> Signed {
        [name.as_bytes().to_vec(), format!("{name}.sig").into_bytes()]
    }

    fn origin() -> Origin {
        Origin {
            drop: "drop".into(),
            importer: Importer::of(0),
            received_at: Moment::now(),
            claim: ClaimId::new(1, 2),
            notes: Vec::new(),
            vouched: Vouched::default(),
            promoted: None,
        }
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = Settings::default();
            settings.tree.path = folder.path().to_path_buf();
            Self {
                pointers: Pointers::open(&settings).unwrap(),
                folder,
                target: "amd64/generic/noble/install".parse().unwrap(),
            }
        }

        /// What an image with this kernel is staged as, in place of what is current.
        fn stage(&self, kernel: &str, from: &Origin, proof: impl Into<Proof>) -> Staged {
            let mark = FileMark {
                sha256: Digest::of(kernel.as_bytes()),
                size: kernel.len() as u64,
            };
            let listing = Listing {
                files: [("linux".to_string(), mark)].into(),
                ..Listing::default()
            };
            let tree = self.pointers.tree();
            let mut record = Record::new(&self.target, listing, &[], None, Some(from));
            record.head.serial = Some(7);
            let draft = self.pointers.staging().begin().unwrap();
            let change = match tree.pointed(&self.target).unwrap() {
                Some(name) => Change::Replace(name),
                None => Change::Make,
            };
            draft.finish(&record, change, proof).unwrap()
        }

        fn swap(&mut self, staged: &Staged) {
            let placed = self.pointers.staging().place(staged, false).unwrap();
            self.pointers.swap(&placed).unwrap();
        }

        fn publish(&mut self, kernel: &str, proof: Option<Signed>) -> Staged {
            let staged = self.stage(kernel, &origin(), proof);
            self.swap(&staged);
            staged
        }

        fn withdraw(&mut self, current: &Staged, order: Option<Signed>) {
            let staging = self.pointers.staging();
            let staged = staging.stage_withdrawal(current.head.clone(), None, origin());
            self.swap(&staged.unwrap().ordered_by(order));
        }

        fn last(&self) -> LastOrder {
            let tree = self.pointers.tree();
            LastOrder::of(tree, &self.target).unwrap().unwrap()
        }

        /// What was ordered last, with which bytes, and which image is current, with its bytes.
        fn assert_last(
            &self,
            verdict: Option<Verdict>,
            order: Option<Signed>,
            image: Option<(&Staged, Option<Signed>)>,
        ) {
            let last = self.last();
            assert_eq!((last.verdict, last.signed), (verdict, order));
            let found = last.image.map(|it| (it.record.head.generation, it.signed));
            let image = image.map(|(staged, signed)| (staged.head.generation.clone(), signed));
            assert_eq!(found, image);
        }
    }

    #[test]
    fn whatever_was_ordered_last_is_told_in_the_bytes_that_were_signed() {
        let mut world = World::new();
        let tree = world.pointers.tree();
        assert!(LastOrder::of(tree, &world.target).unwrap().is_none());
        assert_eq!(tree.targets_ever().unwrap(), []);
        let one = world.publish("one", Some(bytes("one")));
        world.assert_last(
            Some(Verdict::Published),
            Some(bytes("one")),
            Some((&one, Some(bytes("one")))),
        );
        let two = world.publish("two", None);
        world.assert_last(Some(Verdict::Published), None, Some((&two, None)));
        let pointer = world.folder.path().join(world.target.to_string());
        let root = world.pointers.tree().root();
        let made = root.stat(world.target.to_string()).unwrap().unwrap();
        assert_eq!(world.last().at, made.modified, "{pointer:?}");

        let tree = world.pointers.tree();
        let kept = tree.generation(&world.target, one.head.generation.clone());
        let record = kept.unwrap().unwrap().record.unwrap();
        let change = Change::Replace(two.head.generation.clone());
        let staging = world.pointers.staging();
        let staged = staging.stage_rollback(&record, origin(), change).unwrap();
        let staged = staged.ordered_by(Some(bytes("back")));
        world.swap(&staged);
        world.assert_last(
            Some(Verdict::RolledBack),
            Some(bytes("back")),
            Some((&one, Some(bytes("one")))),
        );

        let from = "amd64/generic/noble/candidate".parse().unwrap();
        let by = origin().promoted_from(&from, &from, None);
        let proof = Proof::from(Some(bytes("image"))).promoted_by(Some(bytes("order")));
        let promoted = world.stage("three", &by, proof);
        world.swap(&promoted);
        world.assert_last(
            Some(Verdict::Promoted),
            Some(bytes("order")),
            Some((&promoted, Some(bytes("image")))),
        );

        world.withdraw(&promoted, Some(bytes("gone")));
        world.assert_last(Some(Verdict::Withdrawn), Some(bytes("gone")), None);
        assert_eq!(world.last().serial, Some(7));
        // Nothing but the history is left.
        std::fs::remove_dir_all(world.folder.path().join("amd64")).unwrap();
        world.assert_last(Some(Verdict::Withdrawn), Some(bytes("gone")), None);
        let tree = world.pointers.tree();
        assert_eq!(tree.targets().unwrap(), []);
        assert_eq!(tree.targets_ever().unwrap(), [world.target.clone()]);
    }

    #[test]
    fn a_swap_that_is_announced_and_not_made_yet_was_not_the_last() {
        let mut world = World::new();
        let one = world.publish("one", Some(bytes("one")));
        let two = world.stage("two", &origin(), Some(bytes("two")));
        let placed = world.pointers.staging().place(&two, false).unwrap();
        world.assert_last(
            Some(Verdict::Published),
            Some(bytes("one")),
            Some((&one, Some(bytes("one")))),
        );
        world.pointers.swap(&placed).unwrap();
        world.assert_last(
            Some(Verdict::Published),
            Some(bytes("two")),
            Some((&two, Some(bytes("two")))),
        );
    }

    #[test]
    fn what_an_admin_has_made_by_hand_was_ordered_by_nobody() {
        let mut world = World::new();
        let one = world.publish("one", Some(bytes("one")));
        world.publish("two", None);
        world.publish("three", None);
        let pointer = world.folder.path().join(world.target.to_string());
        std::fs::remove_file(&pointer).unwrap();
        world.assert_last(None, None, None);
        symlink(format!("install@/{}", one.head.generation), &pointer).unwrap();
        world.assert_last(None, None, Some((&one, Some(bytes("one")))));
        std::fs::remove_file(&pointer).unwrap();
        std::fs::create_dir(&pointer).unwrap();
        world.assert_last(None, None, None);
        std::fs::remove_dir(&pointer).unwrap();
        std::fs::write(&pointer, "").unwrap();
        world.assert_last(None, None, None);
    }
}
