//! The end of a command: exit status and error message.

use std::{error::Error, fmt, process::ExitCode};

use crate::{
    base::error::text::{with_causes, words},
    batch::validate::InvalidBatch,
    dev_server::DevServerError,
    engine::{
        client::{
            AcceptError, BatchStatus, ControlError, ListError, PauseWaitError, ProgressError,
            RecoverError, RedriveError, ResultError, StartError, outage::is_outage,
        },
        connect::ConnectError,
        worker::WorkerError,
    },
    metrics::MetricsServerError,
    processor::hooks::UnknownHook,
    progress::{phase::Outcome, report::BatchReport},
    stride::registry::Refused,
};

/// The exit status of a command; the table is in the docs of [`cli`](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Error,
    Usage,
    WithFailures,
    Stopped,
    Interrupted,
}

impl Exit {
    /// Returns the status for a batch that has ended.
    pub(crate) fn of(report: &BatchReport) -> Self {
        match report.outcome {
            Outcome::Completed => Self::Done,
            Outcome::CompletedWithFailures => Self::WithFailures,
            Outcome::Cancelled | Outcome::Stopped => Self::Stopped,
            Outcome::Failed => Self::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::WithFailures => 3,
            Exit::Stopped => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// The error of a command.
#[derive(Debug)]
pub(crate) struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

pub(crate) type CliResult<T = Exit> = Result<T, CliError>;

impl CliError {
    /// Creates an error in the command line.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message.to_string())
    }

    /// Creates any other error.
    pub(crate) fn failure(message: impl fmt::Display) -> Self {
        Self::new(Exit::Error, message.to_string())
    }

    /// Creates the error of a check that failed before anything started: bad usage, unless the error may be temporary. A
    /// file that was named and cannot be read is bad usage, although a worker would wait for it.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn refused(error: &crate::base::error::PageError) -> Self {
        match error.is_retryable() && !UNREADABLE.contains(&error.error_type()) {
            true => Self::failure(error.message()),
            false => Self::usage(error.message()),
        }
    }

    /// Creates an error in its own words, followed by its causes.
    pub(crate) fn caused(what: impl fmt::Display, cause: &(dyn Error + 'static)) -> Self {
        Self::new(Exit::Error, with_causes(what.to_string(), Some(cause)))
    }

    fn new(exit: Exit, message: String) -> Self {
        Self {
            exit,
            message,
            hint: None,
        }
    }

    fn from_error(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        Self::new(exit, words(error))
    }

    /// Adds advice on what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the message without the prefix `error:`.
    pub(crate) fn text(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The types of errors about files that a command names.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
const UNREADABLE: [&str; 4] = [
    "FileNotHere",
    "FileNotReadable",
    "FileError",
    "PermissionDenied",
];

/// The advice after an outage that outlasted the patience of the command.
const UNHARMED: &str = "the batch is unharmed: once Temporal answers, `watch` follows it again, and a `backfill`, \
                        `import` or `export` continues with the same command";

/// An error of the library, with the exit status that it means.
trait Status: Error + Sized + 'static {
    fn status(&self) -> Exit;

    fn advice(&self) -> Option<&'static str> {
        is_outage(self).then_some(UNHARMED)
    }
}

impl Status for InvalidBatch {
    fn status(&self) -> Exit {
        Exit::Usage
    }
}

impl Status for Refused {
    fn status(&self) -> Exit {
        Exit::Usage
    }
}

impl Status for UnknownHook {
    fn status(&self) -> Exit {
        Exit::Usage
    }
}

impl Status for ConnectError {
    fn status(&self) -> Exit {
        match self {
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::NotUnderstood { .. }
            | Self::AccessDenied { .. }
            | Self::NamespaceNotFound { .. }
            | Self::ServerFailed { .. } => Exit::Error,
            // Refused before anything was sent.
            _ => Exit::Usage,
        }
    }

    /// Returns advice on the next step. No batch is involved yet.
    fn advice(&self) -> Option<&'static str> {
        matches!(self, Self::Unreachable { .. })
            .then_some("with --dev the command starts a dev server, which ends with it")
    }
}

impl Status for StartError {
    fn status(&self) -> Exit {
        match self {
            Self::Invalid(_) => Exit::Usage,
            _ => Exit::Error,
        }
    }
}

impl Status for AcceptError {
    fn status(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Usage,
            Self::NoProcessor { .. } | Self::Unknown(_) => Exit::Error,
        }
    }
}

impl Status for ResultError {
    fn status(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Usage,
            Self::NoReport {
                state: BatchStatus::Cancelled,
            } => Exit::Stopped,
            _ => Exit::Error,
        }
    }
}

impl Status for ControlError {
    fn status(&self) -> Exit {
        match self {
            Self::Invalid(_) | Self::NothingToSet | Self::PauseIsOver { .. } => Exit::Usage,
            _ => Exit::Error,
        }
    }
}

impl Status for PauseWaitError {
    fn status(&self) -> Exit {
        Exit::Error
    }
}

impl Status for WorkerError {
    fn status(&self) -> Exit {
        match self {
            Self::MaxPages { .. } | Self::QueueRate { .. } | Self::Tuning { .. } => Exit::Usage,
            _ => Exit::Error,
        }
    }
}

impl Status for DevServerError {
    fn status(&self) -> Exit {
        Exit::Error
    }
}

impl Status for ProgressError {
    fn status(&self) -> Exit {
        Exit::Error
    }
}

impl Status for RecoverError {
    fn status(&self) -> Exit {
        Exit::Error
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::AtMostOnce { .. } => Some("--force recovers it anyway"),
            error => is_outage(error).then_some(UNHARMED),
        }
    }
}

impl Status for ListError {
    fn status(&self) -> Exit {
        Exit::Error
    }
}

impl Status for RedriveError {
    fn status(&self) -> Exit {
        match self {
            Self::Start(error) => error.status(),
            Self::OfRedrive { .. } => Exit::Usage,
            _ => Exit::Error,
        }
    }
}

impl Status for MetricsServerError {
    fn status(&self) -> Exit {
        Exit::Error
    }
}

impl<E: Status> From<E> for CliError {
    fn from(error: E) -> Self {
        let told = Self::from_error(error.status(), &error);
        match error.advice() {
            Some(advice) => told.hint(advice),
            None => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        let source = source.map(Box::new);
        Layer { text, source }
    }

    #[test]
    fn causes_are_joined_and_named_once() {
        let cause = layer("no answer", Some(layer("connection refused", None)));
        let error = CliError::caused("cannot list: no answer", &cause).hint("start a server");
        assert_eq!(
            error.to_string(),
            "error: cannot list: no answer: connection refused\nhint: start a server"
        );
    }

    #[test]
    fn a_script_can_tell_how_a_batch_ended() {
        let progress = serde_json::json!({
            "batch_id": "b", "batch_run": "r", "processor": "p", "phase": "ended",
            "pages_completed": 9, "pages_failed": 1, "pages_in_flight": 0, "pages_stuck": 0,
            "strides_waiting": 0, "items": {"processed": 9, "skipped": 0, "failed": 1},
            "retries": 0, "max_parallelism": 1, "max_parallelism_achieved": 1,
            "end_of_data": false, "started_at": 0, "as_of": 0, "runs": 1,
            "announcements_dropped": 0,
        });
        for (outcome, exit) in [
            (Outcome::Completed, Exit::Done),
            (Outcome::CompletedWithFailures, Exit::WithFailures),
            (Outcome::Stopped, Exit::Stopped),
            (Outcome::Cancelled, Exit::Stopped),
            (Outcome::Failed, Exit::Error),
        ] {
            let report = serde_json::json!({
                "outcome": outcome, "progress": progress, "ended_at": 0,
            });
            let report: BatchReport = serde_json::from_value(report).unwrap();
            assert_eq!(Exit::of(&report), exit, "{outcome}");
        }
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_an_error_with_advice() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = CliError::from(ConnectError::Unreachable {
            address: "localhost:7233".to_owned(),
            source: refused.into(),
        });
        assert_eq!(error.exit(), Exit::Error);
        assert!(error.to_string().contains("hint: with --dev"), "{error}");
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[test]
    fn a_named_file_that_cannot_be_read_is_bad_usage_and_a_passing_error_is_none() {
        use crate::base::error::PageError;

        let refused = |error: PageError| CliError::refused(&error).exit();
        for error_type in UNREADABLE {
            let error = PageError::environment("it is not there").with_type(error_type);
            assert_eq!(refused(error), Exit::Usage, "{error_type}");
        }
        assert_eq!(refused(PageError::retryable("busy")), Exit::Error);
    }

    #[test]
    fn what_is_wrong_with_the_command_line_is_bad_usage() {
        let invalid = InvalidBatch::NoProcessor;
        assert_eq!(CliError::from(invalid.clone()).exit(), Exit::Usage);
        let start = StartError::Invalid(invalid);
        assert_eq!(CliError::from(start).exit(), Exit::Usage);
        let taken = StartError::AlreadyRunning {
            batch_id: "b".to_owned(),
        };
        assert_eq!(CliError::from(taken).exit(), Exit::Error);
    }
}
