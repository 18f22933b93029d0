//! The configuration that a command is given, and how a command exits when it is bad.

use std::path::Path;
use std::process::ExitCode;

use crate::settings::Settings;
use crate::sys::Failure;
use crate::text::InputError;

/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIG: u8 = 78;

/// The configuration can't be read, or says what it may not, or what can't be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadConfig {
    /// The error begins a line of its own: an excerpt has several.
    #[error("bad configuration\n{0}")]
    Invalid(InputError),
    #[error(transparent)]
    Unreadable(Failure),
    /// What it says is good, and not so what it names.
    #[error("bad configuration\nerror: {}", .0.join("\nerror: "))]
    Unfit(Vec<String>),
}

/// How a command exits with this error.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<BadConfig>() {
        Some(_) => ExitCode::from(BAD_CONFIG),
        None => ExitCode::FAILURE,
    }
}

/// Reads the configuration at `path`, or else the one at the usual place; `None` where that is not
/// there.
pub(crate) fn read_settings(path: Option<&Path>) -> Result<Option<Settings>, BadConfig> {
    let file = path.unwrap_or(Path::new(Settings::DEFAULT_PATH));
    match std::fs::read_to_string(file) {
        Ok(text) => Settings::parse(&file.display().to_string(), &text)
            .map(Some)
            .map_err(BadConfig::Invalid),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let failure = Failure::new("reading the configuration", file, error);
            Err(BadConfig::Unreadable(failure))
        }
    }
}
