//! Whether a drop may do what it asks for: by the importer rules, its signature, its serial and its time.

use crate::fault::{Fault, reject};
use crate::settings::{ImporterRule, Limits, Requirement, Settings};
use crate::spool::{Action, Claimed, Manifest, Papers, account};
use crate::tree::{Current, Head, Tree};
use crate::trust::{Asker, Deed, Wish, signer_of};
use crate::words::{Digest, GenerationName, Moment, Reason, SigningKey, Target, Vouched};

/// What drops are measured by.
pub(super) struct Permits<'a> {
    pub(super) settings: &'a Settings,
    pub(super) tree: &'a Tree,
}

impl Permits<'_> {
    /// Makes sure that a drop may do what its manifest asks for, and notes which rule lets it, and who
    /// has signed. Returns what an image of the drop may be at most.
    ///
    /// # Errors
    /// What the rules allow, and what to ask the admin for; or that the drop comes too late.
    pub(super) fn check(
        &self,
        claimed: &mut Claimed,
        manifest: &Manifest,
        current: &Current,
    ) -> Result<Limits, Fault> {
        let past = self.tree.past(&manifest.target)?;
        let made_by = current.made_by(&past);
        let rule = self.permit(claimed, manifest, [made_by.as_ref(), past.last_by()])?;
        check_is_new(claimed, manifest, current, past.serial)?;
        let all = &self.settings.limits;
        Ok(rule.map_or_else(|| all.clone(), |rule| all.of(rule)))
    }

    /// The rule that lets a drop do what its manifest asks for; `None` where none is needed. Given is who
    /// has made current what is, and who has changed the target last.
    fn permit(
        &self,
        claimed: &mut Claimed,
        manifest: &Manifest,
        [current, last]: [Option<&Vouched>; 2],
    ) -> Result<Option<&ImporterRule>, Fault> {
        if self.settings.importers.is_empty() {
            return Ok(None);
        }
        let uid = claimed.importer.uid;
        let account = account(uid)?;
        let credentials = &mut claimed.credentials;
        let signature = credentials.signature.as_ref();
        let signer = signature.map(|signature| &signature.key);
        let asker = Asker {
            uid,
            account: &account,
            signer,
        };
        credentials.vouched.signer = asker.known_signer(self.settings);
        let rule = asker.rule(self.settings)?;
        credentials.vouched.rule = rule.map(|rule| rule.name.to_string());
        let says = [
            (Requirement::Files, manifest.names_all_bytes()),
            (Requirement::Serial, manifest.serial.is_some()),
            (Requirement::Expires, manifest.expires.is_some()),
        ];
        let says = says.into_iter().filter(|(_, is_there)| *is_there);
        let wish = Wish {
            deed: deed(&manifest.action),
            target: &manifest.target,
            current,
            last,
            is_signed: credentials.vouched.signer.is_some(),
            says: &says.map(|(it, _)| it).collect::<Vec<_>>(),
        };
        wish.check(rule, &asker)?;
        Ok(rule)
    }
}

impl Permits<'_> {
    /// Makes sure that the image may come in that an order carries, which was let in itself. When its own
    /// manifest is from counts for nothing: the order says when. To go back to an image that had come by a
    /// promotion takes the right to promote here.
    ///
    /// # Errors
    /// What the rules ask of the image's own manifest.
    pub(super) fn check_carried(
        &self,
        claimed: &Claimed,
        order: &Manifest,
        carried: &Papers,
    ) -> Result<(), Fault> {
        const PAPER: &str = Papers::OF_IMAGE;
        let vouched = &claimed.credentials.vouched;
        // Without a name nobody was asked for a rule, or needs one.
        let Some(name) = &vouched.rule else {
            return Ok(());
        };
        let mut rules = self.settings.importers.iter();
        let rule = rules.find(|rule| rule.name.as_str() == name);
        if carried.manifest.files.is_none()
            && rule.is_some_and(|rule| rule.require.contains(&Requirement::Files))
        {
            let detail =
                format!("rule `{name}` requires `files` in {PAPER}, as `submit` writes it");
            return Err(reject(Reason::NotAllowed, detail));
        }
        let (target, image_for) = (&order.target, &carried.manifest.target);
        let is_rollback = matches!(order.action, Action::Rollback { .. });
        let may_promote = rule.is_some_and(|rule| rule.rights.may_publish(target));
        if is_rollback && image_for != target && !may_promote {
            let detail = format!(
                "{PAPER} is for {image_for}, and rule `{name}` does not let its importers publish to \
                 {target}, as a promotion would have to; expected an image that was published there"
            );
            return Err(reject(Reason::NotAllowed, detail));
        }
        if vouched.signer.is_none() {
            return Ok(());
        }
        let uid = claimed.importer.uid;
        let asker = Asker {
            uid,
            account: &account(uid)?,
            signer: carried.signed_with(),
        };
        // One that was promoted was for another target, where nobody here may have published.
        let target = Some(target).filter(|_| is_rollback && image_for == target);
        Ok(asker.check_image(self.settings, PAPER, target)?)
    }
}

/// Makes sure that a drop doesn't come too late: after its time, or after one with a higher serial
/// than its own, of which the `last` one is the highest.
fn check_is_new(
    claimed: &Claimed,
    manifest: &Manifest,
    current: &Current,
    last: Option<u64>,
) -> Result<(), Fault> {
    if let Some(expires) = manifest.expires.filter(|expires| *expires <= Moment::now()) {
        let expires = expires.to_seconds();
        let detail = format!("the manifest's `expires` is {expires}, which is over");
        return Err(reject(Reason::Expired, detail));
    }
    // An order may leave the serial as it is.
    if manifest.action != Action::Publish && manifest.serial.is_none() {
        return Ok(());
    }
    let target = &manifest.target;
    let Some(last) = last else {
        return Ok(());
    };
    let stale = |found: String| {
        let detail = format!("{found}; {target} has had {last}: expected a higher `serial`");
        Err(reject(Reason::Stale, detail))
    };
    let is_current = || match current {
        Current::Generation(generation) => {
            let record = generation.record.as_ref();
            let came_by = record.and_then(|record| record.head.came_by());
            came_by.is_some() && came_by == claimed.credentials.manifest
        }
        Current::Plain(_) | Current::Nothing => false,
    };
    match manifest.serial {
        None => stale("the manifest has no `serial`".to_string()),
        Some(serial) if serial > last => Ok(()),
        Some(serial) if serial == last && is_current() => Ok(()),
        Some(serial) => stale(format!("the manifest's `serial` is {serial}")),
    }
}

/// Whether a generation came by the manifest of this drop, where that counts: it is signed, or has a
/// serial.
pub(super) fn has_credentials_of(claimed: &Claimed, head: &Head) -> bool {
    let from = head.from.as_ref();
    let signer = from.and_then(|from| from.vouched.signer.as_ref());
    let credentials = &claimed.credentials;
    signer == credentials.vouched.signer.as_ref() && head.came_by() == credentials.manifest
}

/// Whether the kept manifest and signature of a generation are as good as those of a drop, where that
/// has some.
pub(super) fn is_proven(
    claimed: &Claimed,
    tree: &Tree,
    target: &Target,
    name: &GenerationName,
) -> bool {
    let credentials = &claimed.credentials;
    let (Some(ours), Some(_)) = (&credentials.signature, &credentials.vouched.signer) else {
        return true;
    };
    // What can't be read proves nothing.
    let proof = tree.proof_of_image(target, name);
    proof.is_ok_and(|proof| match proof.image() {
        // The drop's own was verified when it was read.
        [Some(manifest), Some(signature)] if *signature == *ours.bytes => {
            credentials.manifest == Some(Digest::of(manifest))
        }
        kept => signer(credentials.manifest, kept).as_ref() == Some(&ours.key),
    })
}

/// Who has signed what is kept as a manifest with this SHA-256; `None` where that is another, or the
/// signature is no good.
pub(super) fn signer(manifest: Option<Digest>, kept: [Option<&[u8]>; 2]) -> Option<SigningKey> {
    let [Some(bytes), Some(signature)] = kept else {
        return None;
    };
    let is_it = manifest == Some(Digest::of(bytes));
    is_it.then(|| signer_of(bytes, signature).ok()).flatten()
}

fn deed(action: &Action) -> Deed {
    match action {
        Action::Publish => Deed::Publish,
        Action::Rollback { .. } => Deed::Rollback,
        Action::Withdraw(_) => Deed::Withdraw,
        Action::Promote { .. } => Deed::Promote,
    }
}
