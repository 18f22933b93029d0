//! `processing/`: drops that the daemon has claimed.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::drop::{Claimed, Leaving, NOBODY, Seen};
use super::manifest::{Action, MANIFEST, MAX_SIZE};
use super::names::{DropKey, REMOVED, claim_name_of, parse_place, place_of};
use super::outcomes::Outcomes;
use super::papers::{
    self, IMAGE, IMAGE_MANIFEST, Papers, Signature, is_paper, is_paper_of_image, unreadable,
};
use super::peek::is_mounted;
use crate::fault::{Fault, reject};
use crate::sys::{Dir, Failure, Kind, Stat, failpoint, random};
use crate::text::quoted;
use crate::words::{ClaimId, Digest, Moment, Reason};

/// Files whose names begin with a dot that a drop may have beside its image.
const MAX_HIDDEN: usize = 100;

/// The folder of claimed drops.
#[derive(Debug)]
pub(crate) struct Processing {
    pub(super) dir: Dir,
    next_claim: AtomicU64,
}

impl Processing {
    pub(super) fn new(dir: Dir) -> Self {
        Self {
            dir,
            next_claim: AtomicU64::new(1),
        }
    }

    /// What a daemon that ended has left in `processing/`: drops to be taken up again, in the order
    /// in which they were claimed, and drops to be put away.
    pub(super) fn left_behind(
        &self,
        outcomes: &Outcomes,
    ) -> Result<(Vec<Seen>, Vec<Leaving>), Failure> {
        let (mut claimed, mut leaving) = (Vec::new(), Vec::new());
        let mut strays = Vec::<(OsString, Stat)>::new();
        for (name, _) in self.dir.names()? {
            let stat = match self.dir.stat(&name) {
                Ok(Some(stat)) => Some(stat),
                Ok(None) => continue,
                // Whose drop it is can't be found out: that keeps no start from going on.
                Err(failure) if is_mounted(&failure) => None,
                Err(failure) => return Err(failure),
            };
            let owner = stat.map_or(NOBODY, |stat| stat.owner.uid);
            let bytes = name.as_bytes();
            if let Some(place) = bytes.strip_prefix(REMOVED.as_bytes()) {
                let place = OsStr::from_bytes(place);
                let shown = || place.to_string_lossy();
                // What somebody else has put there has a name of its own as well.
                let claim_name = parse_place(place).map_or_else(|| shown().into(), |it| it.1);
                leaving.push(Leaving {
                    key: DropKey { owner, claim_name },
                    place: shown().into(),
                    rejected: None,
                    bytes: 0,
                    stays: None,
                    is_told: false,
                });
                continue;
            }
            let Some((claim, claim_name)) = parse_place(&name) else {
                strays.extend(stat.map(|stat| (name, stat)));
                continue;
            };
            self.next_claim
                .fetch_max(claim.number() + 1, Ordering::Relaxed);
            // A drop with an outcome must not be handled a second time: a later one for its target may
            // have been published since. That of another drop of this name has another claim.
            let outcome = outcomes.read(owner, &claim_name)?;
            if let Some(outcome) = outcome.filter(|outcome| outcome.claim == claim) {
                leaving.push(Leaving::new(DropKey { owner, claim_name }, outcome));
            } else {
                let changed = stat.map_or(Moment::from_stat(0, 0), |stat| stat.changed);
                claimed.push(Seen::claimed(claim, claim_name, owner, changed));
            }
        }
        for (name, stat) in strays {
            claimed.push(self.name_stray(&name, &stat)?);
        }
        claimed.sort_by(Seen::in_order);
        Ok((claimed, leaving))
    }

    /// Gives a claim to a drop that somebody else has put into `processing/`.
    fn name_stray(&self, name: &OsStr, stat: &Stat) -> Result<Seen, Failure> {
        let (claim, claim_name) = (self.new_claim(), claim_name_of(name));
        let place = place_of(claim, &claim_name);
        self.dir.rename(name, &self.dir, place)?;
        let owner = stat.owner.uid;
        Ok(Seen::claimed(claim, claim_name.into(), owner, stat.changed))
    }

    pub(super) fn new_claim(&self) -> ClaimId {
        let number = self.next_claim.fetch_add(1, Ordering::Relaxed);
        ClaimId::new(number, random())
    }

    /// A name here for what is called `name` elsewhere and is to be removed.
    pub(super) fn place_to_remove(&self, name: &OsStr) -> String {
        let place = place_of(self.new_claim(), &claim_name_of(name));
        format!("{REMOVED}{place}")
    }

    /// Opens the image of a claimed drop.
    ///
    /// # Errors
    /// [`Fault::Reject`] when there is none.
    pub(crate) fn image(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let drop = self.open_claimed(claimed)?;
        let image = drop.dir(IMAGE).map_err(|failure| match failure.errno() {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                let detail = format!("{failure}; expected {IMAGE} to be a folder of the drop");
                reject(Reason::UnsafeFile, detail)
            }
            _ => unreadable(failure),
        })?;
        let missing =
            || format!("no {IMAGE}/; expected a folder that holds what is to be published");
        image.ok_or_else(|| reject(Reason::EmptyImage, missing()))
    }

    /// Makes sure that a claimed drop with these papers holds nothing but what belongs into it.
    ///
    /// # Errors
    /// [`Fault::Reject`] when something else is in it.
    pub(crate) fn check_names(&self, claimed: &Claimed, papers: &Papers) -> Result<(), Fault> {
        let beside = match papers.manifest.action {
            Action::Publish => Beside::Image,
            _ if papers.carried.is_some() => Beside::CarriedImage,
            Action::Rollback { .. } | Action::Promote { .. } => Beside::NoPapers,
            Action::Withdraw(_) => Beside::Nothing,
        };
        check_names(&self.open_claimed(claimed)?, beside)
    }

    /// The manifest and the signature of a claimed drop that somebody has signed whom a rule knows.
    ///
    /// # Errors
    /// [`Fault::Reject`] when the manifest is another by now.
    pub(crate) fn proof(&self, claimed: &Claimed) -> Result<Option<[Vec<u8>; 2]>, Fault> {
        let credentials = &claimed.credentials;
        let (Some(signature), Some(_)) = (&credentials.signature, &credentials.vouched.signer)
        else {
            return Ok(None);
        };
        let signed = (MANIFEST, credentials.manifest);
        self.signed_bytes(claimed, signed, signature).map(Some)
    }

    /// The same of the image that the order of a claimed drop carries, where its papers are signed.
    ///
    /// # Errors
    /// As [`Processing::proof`].
    pub(crate) fn proof_of_image(
        &self,
        claimed: &Claimed,
        papers: &Papers,
    ) -> Result<Option<[Vec<u8>; 2]>, Fault> {
        let signed = (IMAGE_MANIFEST, papers.digest);
        let signature = papers.signature.as_ref();
        signature
            .map(|signature| self.signed_bytes(claimed, signed, signature))
            .transpose()
    }

    /// What was signed of a claimed drop, the file of this name and digest, and its signature.
    fn signed_bytes(
        &self,
        claimed: &Claimed,
        (name, digest): (&str, Option<Digest>),
        signature: &Signature,
    ) -> Result<[Vec<u8>; 2], Fault> {
        let manifest = match &signature.manifest {
            Some(manifest) => manifest.to_vec(),
            None => self.read_again(claimed, name, digest)?,
        };
        Ok([manifest, signature.bytes.to_vec()])
    }

    /// A manifest of a claimed drop, as it was when it was read first.
    fn read_again(
        &self,
        claimed: &Claimed,
        name: &str,
        digest: Option<Digest>,
    ) -> Result<Vec<u8>, Fault> {
        let path = format!("{}/{name}", claimed.place());
        let bytes = papers::read_file(&self.dir, &path, MAX_SIZE, claimed.importer.uid)?;
        let is_same = |bytes: &Vec<u8>| digest == Some(Digest::of(bytes));
        bytes.filter(is_same).ok_or_else(|| {
            let detail = format!("{name} changed after it was read");
            reject(Reason::Changed, detail)
        })
    }

    fn open_claimed(&self, claimed: &Claimed) -> Result<Dir, Fault> {
        let opened = self.dir.existing_dir(claimed.place());
        opened.map_err(unreadable)
    }

    pub(super) fn remove(&self, place: &str, bytes: u64) -> Result<(), Failure> {
        let processing = &self.dir;
        failpoint("remove", "removing", processing.path())?;
        // From this step on nobody takes it for a drop, however far the removal comes.
        let removed = format!("{REMOVED}{place}");
        match processing.rename(place, processing, &removed) {
            // An earlier removal came no further.
            Err(failure) if failure.is(ErrorKind::NotFound) => {}
            renamed => renamed?,
        }
        failpoint("remove-image", "removing", processing.path())?;
        processing.remove_tree(removed, bytes)
    }
}

/// What belongs into a drop beside its manifest and the signature of that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Image,
    /// And the papers of that.
    CarriedImage,
    /// Nothing, where both might be.
    NoPapers,
}

/// Makes sure that a drop holds nothing but its manifest, and what belongs `beside` that.
fn check_names(drop: &Dir, beside: Beside) -> Result<(), Fault> {
    let (mut hidden, mut unexpected) = (0, None);
    drop.each(|name, kind| {
        // A hidden file is litter of an upload tool, an editor or an NFS server, and there are few.
        let is_hidden = name.as_bytes().starts_with(b".");
        let is_litter = is_hidden && kind == Kind::File && hidden < MAX_HIDDEN;
        hidden += usize::from(is_litter);
        let belongs = match beside {
            Beside::Nothing | Beside::NoPapers => false,
            Beside::Image => name == IMAGE,
            Beside::CarriedImage => name == IMAGE || is_paper_of_image(name),
        };
        if is_litter || is_paper(name) || belongs {
            return ControlFlow::Continue(());
        }
        let is_draft = is_hidden && kind == Kind::Dir;
        let of_image = (name == IMAGE, is_paper_of_image(name));
        unexpected = Some((quoted(&name.to_string_lossy()), is_draft, of_image));
        ControlFlow::Break(())
    })?;
    let Some((name, is_draft, (is_image, is_image_paper))) = unexpected else {
        return Ok(());
    };
    let what = match beside {
        Beside::Nothing | Beside::NoPapers => {
            " in a drop that asks for something else than an image".to_string()
        }
        Beside::Image => format!(" and {IMAGE}/ in a drop"),
        Beside::CarriedImage => {
            format!(", {IMAGE_MANIFEST} and {IMAGE}/ in an order that carries an image")
        }
    };
    let mut detail = format!("{name}; expected nothing but {MANIFEST}{what}");
    if beside == Beside::NoPapers && is_image {
        detail += ", or the image's own manifest with it, ";
        detail += IMAGE_MANIFEST;
    }
    if is_draft {
        detail += ": perhaps another drop that `mv` has moved into this one; use `mv -T`";
    }
    if is_image_paper {
        detail += ": it comes with an order to roll back or to promote, and with the image that the order \
                   names";
    }
    Err(reject(Reason::UnexpectedFile, detail))
}
