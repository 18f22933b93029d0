//! What became of one target of a source, or of the source itself.

use std::fmt;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use crate::commands::{REJECTED, TIMED_OUT};
use crate::fetch::Fetched;
use crate::spool::Outcome;
use crate::text::counted;
use crate::words::{GenerationName, Reason, Target};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    pub(super) source: String,
    /// Missing where the source itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    pub(super) result: Came,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<GenerationName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// What came over the network for it, or would have to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fetched: Option<Fetched>,
}

/// What became of it: the words of outcomes, and some more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(super) enum Came {
    /// It is here already, as upstream has it.
    Unchanged,
    /// Of `check`.
    WouldChange,
    Published,
    RolledBack,
    Withdrawn,
    Promoted,
    /// It is in the spool, and has no outcome yet.
    Waits,
    Rejected,
    Failed,
}

impl Report {
    pub(super) fn new(source: &str, target: Option<&Target>, result: Came) -> Self {
        Self {
            source: source.to_string(),
            target: target.cloned(),
            result,
            version: None,
            drop: None,
            generation: None,
            reason: None,
            detail: None,
            fetched: None,
        }
    }

    /// That something went wrong.
    pub(super) fn failed(source: &str, target: Option<&Target>, error: &anyhow::Error) -> Self {
        Self {
            detail: Some(format!("{error:#}")),
            ..Self::new(source, target, Came::Failed)
        }
    }

    /// That a drop has no outcome yet, and why.
    pub(super) fn waits(source: &str, target: &Target, drop: Option<String>, why: String) -> Self {
        Self {
            drop,
            detail: Some(why),
            ..Self::new(source, Some(target), Came::Waits)
        }
    }

    /// What became of a drop.
    pub(super) fn of(source: &str, target: &Target, outcome: &Outcome) -> Self {
        let image = outcome.image.as_ref();
        Self {
            drop: Some(outcome.drop.clone()),
            generation: image.and_then(|image| image.generation.clone()),
            reason: outcome.reason,
            detail: outcome.detail.clone(),
            ..Self::new(source, Some(target), outcome.verdict.into())
        }
    }

    pub(super) fn is_bad(&self) -> bool {
        self.result >= Came::Rejected
    }
}

impl From<crate::words::Verdict> for Came {
    fn from(verdict: crate::words::Verdict) -> Self {
        use crate::words::Verdict;
        match verdict {
            Verdict::Published => Self::Published,
            Verdict::Unchanged => Self::Unchanged,
            Verdict::RolledBack => Self::RolledBack,
            Verdict::Withdrawn => Self::Withdrawn,
            Verdict::Promoted => Self::Promoted,
            Verdict::Rejected => Self::Rejected,
        }
    }
}

impl Came {
    /// How the program exits when this was the worst.
    pub(super) fn code(self) -> ExitCode {
        match self {
            Self::Failed => ExitCode::FAILURE,
            Self::Rejected => ExitCode::from(REJECTED),
            Self::Waits => ExitCode::from(TIMED_OUT),
            _ => ExitCode::SUCCESS,
        }
    }
}

/// `debian amd64/generic/bookworm/install: published 12.9 as 2026…-… (2 files, 38.2 MiB fetched)`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(target) = &self.target {
            write!(f, " {target}")?;
        }
        match self.result {
            Came::Failed => f.write_str(":")?,
            Came::WouldChange => f.write_str(": would bring")?,
            result => write!(f, ": {result}")?,
        }
        match (&self.version, self.reason) {
            (_, Some(reason)) => write!(f, " {reason}")?,
            (Some(version), None) => write!(f, " {version}")?,
            (None, None) => {}
        }
        if let Some(generation) = &self.generation {
            write!(f, " as {generation}")?;
        }
        if let Some(fetched) = &self.fetched {
            let files = counted(fetched.files, "file");
            let bytes = ByteSize(fetched.bytes);
            match self.result {
                Came::WouldChange if fetched.files == 0 => f.write_str(" (nothing to fetch)")?,
                _ if fetched.files == 0 => f.write_str(" (nothing fetched)")?,
                // Not every upstream says how long its files are.
                Came::WouldChange if fetched.bytes == 0 => write!(f, " ({files} to fetch)")?,
                Came::WouldChange => write!(f, " ({files}, {bytes} to fetch)")?,
                _ => write!(f, " ({files}, {bytes} fetched)")?,
            }
        }
        match &self.detail {
            Some(detail) if self.result == Came::Failed && self.version.is_none() => {
                write!(f, " {detail}")
            }
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_came_over_the_network_is_said_and_what_would_have_to() {
        let said = |result, files, bytes| {
            let fetched = Some(Fetched { files, bytes });
            let report = Report {
                fetched,
                ..Report::new("x", None, result)
            };
            report.to_string()
        };
        let published = |files, bytes| said(Came::Published, files, bytes);
        assert_eq!(
            published(1, 2_048),
            "x: published (1 file, 2.0 KiB fetched)"
        );
        assert_eq!(published(0, 0), "x: published (nothing fetched)");
        let would = |files, bytes| said(Came::WouldChange, files, bytes);
        assert_eq!(
            would(2, 2_048),
            "x: would bring (2 files, 2.0 KiB to fetch)"
        );
        assert_eq!(would(2, 0), "x: would bring (2 files to fetch)");
        assert_eq!(would(0, 0), "x: would bring (nothing to fetch)");
    }

    #[test]
    fn a_failure_says_of_what_and_why() {
        let target = "amd64/generic/noble/install".parse().unwrap();
        let error = anyhow!("404 Not Found").context("getting a file");
        let of_source = Report::failed("debian", None, &error);
        assert_eq!(
            of_source.to_string(),
            "debian: getting a file: 404 Not Found"
        );
        let mut of_target = Report::failed("debian", Some(&target), &error);
        let of = "debian amd64/generic/noble/install:";
        let why = "getting a file: 404 Not Found";
        assert_eq!(of_target.to_string(), format!("{of} {why}"));
        of_target.version = Some("12.9".to_string());
        assert_eq!(of_target.to_string(), format!("{of} 12.9: {why}"));
    }
}
