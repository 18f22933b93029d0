//! Whoever is told of outcomes, or asks what waits, and is waited for by nobody: boot configurations,
//! hooks, metrics, systemd's status line, and commands that ask. Each is a task that runs until the
//! publisher ends; around each run of a hook stands its keeper, a process of this program. Uses all
//! below it. Start with [`Listeners`].

mod answers;
mod boot_configs;
mod hooks;
mod keeper;
mod metrics;
mod quoting;
mod render;
mod status_text;
mod template;

pub(crate) use keeper::keep_hook;
pub use render::BootConfigs;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::answers::{Inquiry, answer_questions};
use self::boot_configs::render_boot_configs;
use self::hooks::run_hooks;
use self::metrics::count_outcomes;
use self::status_text::tell_status;
use crate::publisher::{Activity, News, Report};
use crate::settings::Settings;
use crate::sys::Progress;

/// What listeners hear, from before the publisher begins.
pub(crate) struct Listeners {
    of_metrics: UnboundedReceiver<Arc<News>>,
    of_hooks: UnboundedReceiver<Arc<News>>,
    of_rendering: UnboundedReceiver<Arc<News>>,
    activity: watch::Receiver<Activity>,
    inquiry: Inquiry,
}

/// The settings in force, and how many reloads were good, and were refused.
type Settled = (watch::Receiver<Arc<Settings>>, watch::Receiver<(u64, u64)>);

impl Listeners {
    pub(crate) fn of(report: &mut Report) -> Self {
        Self {
            of_metrics: report.listen(),
            of_hooks: report.listen(),
            of_rendering: report.listen(),
            activity: report.activity(),
            inquiry: report.inquiry(),
        }
    }

    /// Starts all of them; `socket` is where commands ask. Each ends after the publisher, when it has
    /// done what is left to do, but for the one that is to be ended then.
    pub(crate) fn start(
        self,
        boot_configs: BootConfigs,
        socket: Option<OwnedFd>,
        (settings, reloads): Settled,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> (JoinSet<anyhow::Result<()>>, AbortHandle) {
        let status = tokio::spawn(tell_status(self.activity.clone(), progress));
        let (failing, renderings) = watch::channel((0, 0));
        let shown = (self.activity, reloads, renderings);
        let mut tasks = JoinSet::new();
        tasks.spawn(render_boot_configs(
            boot_configs,
            self.of_rendering,
            settings.clone(),
            failing,
        ));
        tasks.spawn(count_outcomes(self.of_metrics, shown, settings.clone()));
        tasks.spawn(run_hooks(settings, self.of_hooks, stop));
        if let Some(socket) = socket {
            tasks.spawn(answer_questions(socket, self.inquiry));
        }
        (tasks, status.abort_handle())
    }
}
