//! systemd's line about the daemon (`systemctl status`).

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::publisher::Activity;
use crate::sys::{Progress, tell_systemd};

/// The line changes no more often than this.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells systemd what the publisher is doing, until the publisher ends.
pub(super) async fn tell_status(mut activity: watch::Receiver<Activity>, progress: Arc<Progress>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut said = String::new();
    loop {
        let now = activity.borrow_and_update().clone();
        let status = now.describe(&progress);
        let is_new = status != said;
        if is_new {
            tell_systemd(&[NotifyState::Status(&status)]);
            said = status;
        }
        // Nothing but a copy goes on without the publisher's doing anything.
        let goes_on = !now.large.is_empty();
        if is_new || goes_on {
            tokio::time::sleep(INTERVAL).await;
        }
        let has_ended = if goes_on {
            activity.has_changed().is_err()
        } else {
            activity.changed().await.is_err()
        };
        if has_ended {
            return;
        }
    }
}
