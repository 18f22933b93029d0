//! `run`: the daemon, and what becomes of its last error.

use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use strum::VariantNames;

use super::check_config::check_for_reload;
use super::configuration::{BadConfig, code, read_settings};
use super::terminal::say;
use crate::daemon;
use crate::log::{Log, MessageId};
use crate::settings::{LogFormat, LogLevel, Settings};

#[derive(Debug, Args)]
pub(super) struct RunDaemon {
    /// Publish what is in the spool, then exit; 1 when a drop or an output could not be finished
    #[arg(long)]
    once: bool,
    /// Log this, and all that is more important; goes before `log.level`
    #[arg(long, value_name = "LEVEL", value_parser = word::<LogLevel>())]
    log_level: Option<LogLevel>,
    /// Log in this format; goes before `log.format`. `auto`: entries of the journal under systemd, and
    /// text elsewhere
    #[arg(long, value_name = "FORMAT", value_parser = word::<LogFormat>())]
    log_format: Option<LogFormat>,
}

impl RunDaemon {
    /// Runs the daemon to its end. An error that ends it goes to the log, or, where the log is text
    /// on standard error, is printed as that of any other command.
    pub(super) fn run(
        self,
        settings: Result<Settings, BadConfig>,
        config: Option<&Path>,
    ) -> ExitCode {
        let configured = settings.as_ref().map(|settings| settings.log);
        let log = Log::start(
            configured.unwrap_or_default(),
            self.log_level,
            self.log_format,
        );
        let config = config.map(Path::to_path_buf);
        let reread: daemon::Reread = Arc::new(move || {
            let settings = read_settings(config.as_deref())?.unwrap_or_default();
            check_for_reload(&settings)?;
            Ok(settings)
        });
        let ended = settings
            .map_err(anyhow::Error::from)
            .and_then(|settings| daemon::run(settings, self.once, &log, &reread));
        let Err(error) = ended else {
            return ExitCode::SUCCESS;
        };
        let message_id = match error.downcast_ref::<BadConfig>() {
            Some(_) => MessageId::BadConfiguration,
            None => MessageId::Failed,
        };
        if log.is_text() {
            say(&format!("{error:#}"));
        } else {
            tracing::error!(%message_id, "{error:#}");
        }
        code(&error)
    }
}

/// One of the words of `T`.
fn word<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Send + Sync + std::error::Error> + VariantNames + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(T::VARIANTS).try_map(|word| word.parse())
}
