//! What is noted of an image that is to be published or promoted, and whether the configuration refuses it.

use crate::fault::{Fault, reject};
use crate::image::Image;
use crate::settings::{Settings, TftpSettings};
use crate::tree::Head;
use crate::words::{Boot, Note, NoteKind, Reason, Target};

/// What was noted of the image with this head when it came to its target, and what the settings add to
/// that now.
pub(super) fn kept_notes(head: &Head, tftp: &TftpSettings) -> Vec<Note> {
    let no_url = Note::no_url(&head.boot, tftp);
    head.notes().iter().cloned().chain(no_url).collect()
}

/// Those of the notes that a record keeps: the configuration may have a URL one day, and that there is none
/// is noted anew wherever it is asked for.
pub(super) fn lasting(notes: &[Note]) -> Vec<Note> {
    let lasting = notes.iter().filter(|it| it.kind != NoteKind::NoUrl);
    lasting.cloned().collect()
}

/// What is noted of an image that boots so at this target.
///
/// # Errors
/// What is wrong with a file that it is booted from, or which of the notes the configuration refuses.
pub(super) fn notes_of(
    image: &Image,
    boot: &Boot,
    target: &Target,
    settings: &Settings,
) -> Result<Vec<Note>, Fault> {
    let [arch, ..] = target.folders();
    let mut notes = Note::all_of(image, boot, arch)?;
    notes.extend(Note::no_url(boot, &settings.tftp));
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
