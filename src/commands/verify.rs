//! `verify`: reads every published file again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::terminal::{print, print_json, show};
use crate::log::{Log, MessageId};
use crate::settings::Settings;
use crate::sys::Progress;
use crate::text::counted;
use crate::tree::{Tree, Verification, Verified};
use crate::words::Target;

/// Verifies every target, or one.
pub(super) fn verify(
    settings: &Settings,
    target: Option<&Target>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let tree = Tree::open(&settings.tree.path)?;
    let targets = match target {
        Some(target) if tree.names(target)?.is_none() => {
            anyhow::bail!("{target} is not in the tree; expected one that is");
        }
        Some(target) => vec![target.clone()],
        None => tree.targets()?,
    };
    let ownership = tree.ownership(&settings.tree)?;
    let verification = Verification::read(tree, &targets, ownership)?;
    let progress = Arc::new(Progress::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let verified = runtime.block_on(async {
        let bar = tokio::spawn(show(verification.bytes(), Arc::clone(&progress)));
        let verified = tokio::task::spawn_blocking(move || verification.run(&progress)).await;
        bar.abort();
        verified
    })??;
    let printed = if json {
        print_json(&verified)?
    } else {
        let took = Duration::from_millis(u64::try_from(began.elapsed().as_millis())?);
        let took = humantime::format_duration(took).to_string();
        print(&(tell_damages(settings, &verified) + &summary(&verified, &took)))?
    };
    Ok(if verified.damages.is_empty() {
        printed
    } else {
        ExitCode::FAILURE
    })
}

/// What is damaged, a line each; where standard error is the journal it gets an entry each, and
/// nothing is left to be told.
fn tell_damages(settings: &Settings, verified: &Verified) -> String {
    let log = Log::start(settings.log, None, None);
    if log.is_text() {
        let damages = verified.damages.iter();
        let lines: Vec<_> = damages.map(|damage| format!("{damage}\n")).collect();
        return lines.concat();
    }
    let message_id = MessageId::Damaged;
    for damage in &verified.damages {
        let generation = damage.generation.as_ref().map(tracing::field::display);
        tracing::error!(%message_id, target = %damage.target, generation, "{damage}");
    }
    String::new()
}

/// One line for people.
fn summary(verified: &Verified, took: &str) -> String {
    let verdict = match verified.damages.len() {
        0 => "all as published".to_string(),
        count => format!("{count} damaged"),
    };
    let bytes = ByteSize(verified.bytes);
    format!(
        "{}, {}, {}, {bytes} in {took}: {verdict}\n",
        counted(verified.targets, "target"),
        counted(verified.generations, "generation"),
        counted(verified.files, "file")
    )
}
