//! `outcomes/`: what became of each drop, in a folder of each importer that nobody else reads.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Mutex;

use super::drop::NOBODY;
use super::names::{file_of, is_temporary, temporary_of};
use super::outcome::Outcome;
use crate::sys::{Dir, Failure, Kind};
use crate::words::ClaimId;

/// For nobody but the daemon, and whom its ACL names.
const MODE: u32 = 0o700;

/// The name of a folder that is being made.
const NEW: &str = ".new";

/// The folder of outcomes.
#[derive(Debug)]
pub(super) struct Outcomes {
    pub(super) dir: Dir,
    /// Importers whose folder was made, or looked at, since the start.
    known: Mutex<HashSet<u32>>,
}

impl Outcomes {
    /// Removes what a crash has left half written, and gives outcomes that stand in no folder of an
    /// importer, from before there were such folders, to theirs.
    pub(super) fn open(dir: Dir) -> Result<Self, Failure> {
        for importer in folders(&dir)? {
            sweep_temporary(&importer)?;
        }
        sweep_temporary(&dir)?;
        let outcomes = Self {
            dir,
            known: Mutex::default(),
        };
        for (name, _) in outcomes.dir.names()? {
            if name.as_bytes().ends_with(b".json")
                && let Some(outcome) = Outcome::read(&outcomes.dir, &name)?
            {
                let folder = outcomes.folder(outcome.importer.uid)?;
                outcomes.dir.rename(&name, &folder, &name)?;
            }
        }
        Ok(outcomes)
    }

    /// Whether the file system keeps ACLs: without them no importer can read outcomes.
    pub(super) fn lets_importers_read(&self) -> Result<bool, Failure> {
        // Whose it says doesn't matter.
        const USER: u32 = 65_534;
        let probe = self.make()?;
        let lets = probe.let_read(USER);
        self.dir.remove_dir(NEW)?;
        lets
    }

    /// Puts the outcome of a drop, by its claim and its claim name, in the place of an earlier one of its
    /// name.
    pub(super) fn write(
        &self,
        uid: u32,
        (claim, claim_name): (ClaimId, &str),
        text: &str,
    ) -> Result<(), Failure> {
        let folder = self.folder(uid)?;
        folder.replace(&file_of(claim_name), &temporary_of(claim), text.as_bytes())
    }

    /// The outcome of the last drop of an importer that had this name.
    pub(super) fn read(&self, uid: u32, claim_name: &str) -> Result<Option<Outcome>, Failure> {
        let folder = self.dir.dir(folder_of(uid))?;
        folder.map_or(Ok(None), |dir| Outcome::read(&dir, file_of(claim_name)))
    }

    /// Puts the outcome of an earlier drop of this name aside, while a drop is claimed: whoever waits for
    /// the outcome of this one is not to read that. Has the folder for the next outcome. `false` where
    /// there is none to put aside.
    pub(super) fn put_aside(
        &self,
        uid: u32,
        (claim, claim_name): (ClaimId, &str),
    ) -> Result<bool, Failure> {
        let folder = self.folder(uid)?;
        match folder.rename(file_of(claim_name), &folder, temporary_of(claim)) {
            Err(failure) if failure.is(ErrorKind::NotFound) => Ok(false),
            renamed => renamed.map(|()| true),
        }
    }

    /// What was put aside goes when the drop was claimed. Its importer may have taken that away: then it
    /// is the outcome of the last drop of its name again, where no other has ended since.
    pub(super) fn end_aside(
        &self,
        uid: u32,
        (claim, claim_name): (ClaimId, &str),
        is_claimed: bool,
    ) -> Result<(), Failure> {
        let folder = self.folder(uid)?;
        let aside = temporary_of(claim);
        if is_claimed || !folder.rename_new(&aside, &folder, file_of(claim_name))? {
            folder.remove_file(aside)?;
        }
        Ok(())
    }

    /// The folder of an importer's outcomes, which is made where it isn't there.
    fn folder(&self, uid: u32) -> Result<Dir, Failure> {
        let name = folder_of(uid);
        let mut known = self.known.lock().expect("no thread panics here");
        let folder = self.dir.dir(&name)?;
        if let Some(folder) = folder {
            if known.insert(uid) {
                let_read(&folder, uid)?;
            }
            return Ok(folder);
        }
        // Whoever waits for an outcome can read the folder as soon as it is there.
        let folder = self.make()?;
        let_read(&folder, uid)?;
        self.dir.rename(NEW, &self.dir, &name)?;
        known.insert(uid);
        self.dir.existing_dir(&name)
    }

    /// A new folder that is for nobody else, yet.
    fn make(&self) -> Result<Dir, Failure> {
        // What a crash has left lets somebody read it.
        self.dir.remove_dir(NEW)?;
        self.dir.dir_or_make(NEW, MODE)
    }
}

/// Lets an importer read the folder of its outcomes.
fn let_read(folder: &Dir, uid: u32) -> Result<(), Failure> {
    let is_own = uid == rustix::process::geteuid().as_raw();
    if !is_own && uid != NOBODY {
        folder.let_read(uid)?;
    }
    Ok(())
}

/// The folders of importers that this user may read.
pub(super) fn folders(outcomes: &Dir) -> Result<Vec<Dir>, Failure> {
    let mut folders = Vec::new();
    for (name, kind) in outcomes.names()? {
        let is_uid = name.to_str().is_some_and(|it| it.parse::<u32>().is_ok());
        if !is_uid || kind != Kind::Dir {
            continue;
        }
        match outcomes.dir(&name) {
            Err(failure) if failure.is(ErrorKind::PermissionDenied) => {}
            folder => folders.extend(folder?),
        }
    }
    Ok(folders)
}

/// Removes outcomes that a crash left half written.
pub(super) fn sweep_temporary(dir: &Dir) -> Result<(), Failure> {
    for (name, _) in dir.names()? {
        if is_temporary(&name) {
            dir.remove_file(name)?;
        }
    }
    Ok(())
}

/// The name of the folder of an importer's outcomes.
pub(super) fn folder_of(uid: u32) -> String {
    uid.to_string()
}
