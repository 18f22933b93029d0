//! `run` and `check`: all that is asked for, side by side, and again after a while.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;

use super::bring::{Bring, How};
use super::report::{Came, Report};
use super::site::follow;
use super::world::{Named, World};
use crate::commands::{INTERRUPTED, end};
use crate::sources::{Kind, Source};
use crate::sys::{random, tell_systemd};

/// The waits between two rounds differ by so many of a hundred parts, up and down: a thousand sites are not
/// to ask at the same moment.
const JITTER: u64 = 10;

#[derive(Debug)]
pub(super) struct Run {
    pub(super) again: bool,
    pub(super) accept: bool,
    pub(super) wait: Duration,
}

impl Run {
    /// Runs sources, once or for good.
    pub(super) async fn begin(
        self,
        mut world: World,
        names: Vec<String>,
        every: Option<Duration>,
    ) -> anyhow::Result<ExitCode> {
        let how = How {
            again: self.again,
            accept: self.accept,
            // What has no outcome when the next round begins is looked for there.
            wait: every.map_or(self.wait, |every| every.min(self.wait)),
            only_check: false,
        };
        if every.is_some() {
            world.shown.only_news();
        }
        let mut end = pin!(end()?);
        tell_systemd(&[sd_notify::NotifyState::Ready]);
        loop {
            let round = async {
                let sources = world.sources(&names)?;
                anyhow::Ok(all(&world, sources, how).await)
            };
            let worst = tokio::select! {
                worst = round => worst?,
                () = &mut end => return Ok(interrupted(&world)),
            };
            let Some(every) = every else {
                return Ok(worst.code());
            };
            tokio::select! {
                () = tokio::time::sleep(jittered(every)) => {}
                () = &mut end => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

/// Says what running the sources would bring.
pub(super) async fn check(world: World, names: Vec<String>) -> anyhow::Result<ExitCode> {
    let how = How {
        again: false,
        accept: false,
        wait: Duration::ZERO,
        only_check: true,
    };
    let sources = world.sources(&names)?;
    Ok(all(&world, sources, how).await.code())
}

/// Runs sources side by side; the worst that came of one.
async fn all(world: &World, sources: Vec<Named<Source>>, how: How) -> Came {
    let each = sources.into_iter().map(async |(name, source)| {
        let came = match source {
            Ok(source) => one(world, &source, how).await,
            Err(error) => Err(error),
        };
        came.unwrap_or_else(|error| {
            let report = Report::failed(&name, None, &error);
            let _ = world.shown.report(&report);
            Came::Failed
        })
    });
    let worst = join_all(each).await.into_iter().max();
    worst.unwrap_or(Came::Unchanged)
}

async fn one(world: &World, source: &Source, how: How) -> anyhow::Result<Came> {
    let all = match &source.kind {
        Kind::Oci(site) => follow(world, (source, site), how).await?,
        _ => Bring::begin(world, source, how)?.run().await?,
    };
    let worst = all.into_iter().max();
    if worst.is_none() || world.shown.is_for_news() {
        // Of what failed before it is said that it no longer does.
        world
            .shown
            .report(&Report::new(&source.name, None, Came::Unchanged))?;
    }
    Ok(worst.unwrap_or(Came::Unchanged))
}

fn interrupted(world: &World) -> ExitCode {
    world
        .shown
        .say("interrupted: what was fetched is kept, and nothing else is left");
    ExitCode::from(INTERRUPTED)
}

/// About so long.
fn jittered(every: Duration) -> Duration {
    let part = 100 - JITTER + random() % (2 * JITTER + 1);
    let part = u32::try_from(part).expect("it is a little over a hundred at most");
    every * part / 100
}
