//! What is noted of a drop's image, and whether the configuration refuses it.

use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::settings::{Settings, TftpSettings};
use crate::spool::Manifest;
use crate::tree::Head;
use crate::words::{Note, Reason};

/// What was noted of the image with this head when a drop brought it, and what the settings add to that
/// now.
pub(super) fn kept_notes(head: &Head, tftp: &TftpSettings) -> Vec<Note> {
    let no_url = Note::no_url(&head.boot, tftp);
    head.notes().iter().cloned().chain(no_url).collect()
}

/// What is noted of an image that this manifest is for.
///
/// # Errors
/// What is wrong with a file that it is booted from, or which of the notes the configuration refuses.
pub(super) fn notes_of(
    image: &Image,
    manifest: &Manifest,
    settings: &Settings,
) -> Result<Vec<Note>, Fault> {
    let [arch, ..] = manifest.target.folders();
    let mut notes = Note::all_of(image, &manifest.boot, arch)?;
    notes.extend(Note::no_url(&manifest.boot, &settings.tftp));
    let is_refused = |note: &&Note| settings.refused_notes.contains(&note.kind);
    let refused = notes.iter().filter(is_refused).map(ToString::to_string);
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() {
        return Ok(notes);
    }
    let refused = refused.join("; ");
    let detail = format!("{refused}; expected an image without (checks.refuse)");
    Err(reject(Reason::RefusedNote, detail))
}
