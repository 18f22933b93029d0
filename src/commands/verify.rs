//! `verify`: reads every published file again, and proves what is published by what was signed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::proof::prove;
use super::status::no_such;
use super::terminal::{Bar, print_as};
use crate::log::{Log, MessageId};
use crate::settings::Settings;
use crate::sys::Progress;
use crate::text::counted;
use crate::tree::{Tree, Verification, Verified};
use crate::words::TargetPattern;

/// Verifies every target, or those that are meant; with `signatures` every generation has to be proven.
pub(super) fn verify(
    settings: &Settings,
    only: Option<&TargetPattern>,
    signatures: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut keys = settings
        .importers
        .iter()
        .flat_map(|it| it.who.keys.iter().chain(&it.who.old_keys));
    anyhow::ensure!(!signatures || keys.next().is_some(), NO_KEYS);
    let tree = Tree::open(&settings.tree.path)?;
    let mut targets = tree.targets()?;
    if let Some(only) = only {
        targets.retain(|target| only.fits(target));
        anyhow::ensure!(!targets.is_empty(), "{}", no_such(only));
    }
    let ownership = tree.ownership(&settings.tree)?;
    let proves = |target: &_, generation: &_, proof: [[Option<&[u8]>; 2]; 2], earlier: &[_]| {
        prove(settings, target, generation, (proof, earlier))
    };
    let proves = signatures.then_some(&proves as _);
    let verification = Verification::read(tree, &targets, ownership, proves)?;
    let progress = Arc::new(Progress::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let verified = runtime.block_on(async {
        let bar = Bar::begin(verification.bytes(), Arc::clone(&progress));
        let verified = tokio::task::spawn_blocking(move || verification.run(&progress)).await;
        bar.end(matches!(verified, Ok(Ok(_)))).await;
        verified
    })??;
    let took = Duration::from_millis(u64::try_from(began.elapsed().as_millis())?);
    let printed = print_as(json, &verified, |verified| {
        tell_damages(settings, verified) + &summary(verified, signatures, took)
    })?;
    let is_good = verified.damages.is_empty();
    Ok(if is_good { printed } else { ExitCode::FAILURE })
}

/// Why nothing can be proven.
const NO_KEYS: &str = "no importer rule has `keys` or `old_keys`; expected at least one, to prove \
                       signatures by";

/// One line for each damage. Where standard error is the journal, that gets one entry for each
/// instead, and the text is empty.
fn tell_damages(settings: &Settings, verified: &Verified) -> String {
    let log = Log::start(settings.log, None, None);
    if log.is_text() {
        let lines = verified.damages.iter().map(|damage| format!("{damage}\n"));
        return lines.collect();
    }
    for damage in &verified.damages {
        let message_id = if damage.kind.is_of_proof() {
            MessageId::Unproven
        } else {
            MessageId::Damaged
        };
        let generation = damage.generation.as_ref().map(tracing::field::display);
        tracing::error!(%message_id, target = %damage.target, generation, "{damage}");
    }
    String::new()
}

/// One line for people.
fn summary(verified: &Verified, signatures: bool, took: Duration) -> String {
    let all = verified.damages.len();
    let unproven = verified.damages.iter().filter(|it| it.kind.is_of_proof());
    let verdict = match (all, unproven.count()) {
        (0, _) if signatures => "all as published and signed".to_string(),
        (0, _) => "all as published".to_string(),
        (all, 0) => format!("{all} damaged"),
        (all, unproven) if all == unproven => format!("{unproven} unproven"),
        (all, unproven) => format!("{} damaged, {unproven} unproven", all - unproven),
    };
    let (bytes, took) = (ByteSize(verified.bytes), humantime::format_duration(took));
    let targets = counted(verified.targets, "target");
    let generations = counted(verified.generations, "generation");
    let files = counted(verified.files, "file");
    format!("{targets}, {generations}, {files}, {bytes} in {took}: {verdict}\n")
}
