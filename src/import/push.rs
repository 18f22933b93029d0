//! `push`: the last order for each target goes into channels.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use serde::Serialize;

use super::world::{World, read_named};
use crate::commands::{INTERRUPTED, end};
use crate::registry::{Channel, How, Pushed, push};
use crate::sys::{Progress, tell_systemd};
use crate::text::counted;
use crate::words::{Target, Verdict};

/// Which channels, and how.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) names: Vec<String>,
    pub(super) channels: PathBuf,
    pub(super) all: bool,
}

/// What was done for a channel, for programs.
#[derive(Serialize)]
struct Line<'p> {
    channel: &'p str,
    /// How many orders the channel has now.
    orders: usize,
    new: Vec<(&'p Target, Verdict)>,
    unsigned: usize,
    failed: usize,
    sent: u64,
}

impl Push {
    pub(super) async fn run(self, world: &World) -> anyhow::Result<ExitCode> {
        let mut end = std::pin::pin!(end()?);
        let channels = read_named(&self.channels, &self.names, "channel", Channel::parse)?;
        let all = read_named(&self.channels, &[], "channel", Channel::parse)?;
        let mut code = ExitCode::SUCCESS;
        for (name, channel) in channels {
            let pushed = async {
                let channel = channel?;
                for (other, it) in &all {
                    let shared = it.as_ref().ok().and_then(|it| it.shared_with(&channel));
                    if let Some(address) = shared {
                        bail!(
                            "{address} is the channel {other}'s, too, and each push would take out what the other \
                             has brought; expected one channel for it"
                        );
                    }
                }
                let mut pushed = self.one(world, &channel).await?;
                say(world, &channel, &pushed)?;
                // What was published meanwhile goes as well: nobody may tell of it again.
                while !pushed.new.is_empty() {
                    pushed = self.one(world, &channel).await?;
                    if pushed.is_written {
                        say(world, &channel, &pushed)?;
                    }
                }
                anyhow::Ok(pushed)
            };
            let pushed = tokio::select! {
                pushed = pushed => pushed,
                () = &mut end => {
                    world.shown.say("interrupted: the next push goes on");
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            };
            match pushed {
                Ok(pushed) if pushed.failed == 0 => {}
                Ok(_) => code = ExitCode::FAILURE,
                Err(error) => {
                    world.shown.fail(&format!("{name}: {error:#}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn one(&self, world: &World, channel: &Channel) -> anyhow::Result<Pushed> {
        let name = &channel.name;
        let tree = world
            .tree()
            .with_context(|| format!("{:?} can't be read from here", world.settings.tree.path))?;
        let progress = Arc::new(Progress::default());
        let how = How {
            state: &world.state.join(format!("push@{name}")),
            is_thorough: self.all,
            progress: &progress,
            say: &|text| world.shown.warn(&format!("{name} {text}")),
        };
        let bar = world.shown.counter(name, Arc::clone(&progress));
        let pushed = push(channel, &tree, &how).await;
        bar.end(pushed.is_ok()).await;
        pushed
    }
}

/// Says what was done.
fn say(world: &World, channel: &Channel, pushed: &Pushed) -> anyhow::Result<()> {
    let name = &channel.name;
    tell_systemd(&[sd_notify::NotifyState::Status(&sentence(pushed))]);
    let new = pushed.new.iter();
    let line = Line {
        channel: name,
        orders: pushed.orders,
        new: new.clone().map(|(target, what)| (target, *what)).collect(),
        unsigned: pushed.unsigned,
        failed: pushed.failed,
        sent: pushed.sent,
    };
    if pushed.unsigned > 0 {
        let unsigned = counted(pushed.unsigned, "new order");
        world.shown.warn(&format!(
            "{name}: nobody has signed {unsigned}, or the image of it: only sites with `insecure = true` take that"
        ));
    }
    world.shown.line(&line, || {
        let new = new.map(|(target, what)| format!("{name} {target}: {what}\n"));
        format!("{}{name}: {}", new.collect::<String>(), sentence(pushed))
    })
}

fn sentence(pushed: &Pushed) -> String {
    let (orders, sent) = (counted(pushed.orders, "order"), ByteSize(pushed.sent));
    match pushed.new.len() {
        0 if !pushed.is_written => format!("{orders}, unchanged"),
        new => format!("{orders}, {new} of them new ({sent} sent)"),
    }
}
