//! How a command ends: exit status and error message.

use std::{error::Error, fmt, process::ExitCode};

use crate::{
    BatchState, InvalidBatch,
    client::{AcceptError, ControlError, ListError, ProgressError, ResultError, StartError},
    connect::ConnectError,
    dev_server::DevServerError,
    metrics::MetricsServerError,
    progress::{BatchReport, Outcome},
    registry::Refused,
    worker::WorkerError,
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
    /// What a batch that has ended means for a script.
    pub(crate) fn of(report: &BatchReport) -> Self {
        match report.outcome {
            Outcome::Completed => Self::Done,
            Outcome::CompletedWithFailures => Self::WithFailures,
            Outcome::Cancelled => Self::Stopped,
            // It stopped because a page was given up; the other way to fail is a processor that breaks
            // the rules.
            Outcome::Failed if report.progress.pages_failed > 0 => Self::Stopped,
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

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

pub(crate) type CliResult<T = Exit> = Result<T, CliError>;

impl CliError {
    /// The command line asks for something that is not allowed.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message.to_string())
    }

    /// Something else went wrong.
    pub(crate) fn failure(message: impl fmt::Display) -> Self {
        Self::new(Exit::Error, message.to_string())
    }

    /// An error in its own words, followed by its causes.
    pub(crate) fn caused(what: impl fmt::Display, cause: &(dyn Error + 'static)) -> Self {
        Self::new(Exit::Error, join(what.to_string(), Some(cause)))
    }

    fn new(exit: Exit, message: String) -> Self {
        Self {
            exit,
            message,
            hint: None,
        }
    }

    fn from_error(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, join(error.to_string(), error.source()))
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

/// A message and its causes, without the repetition of causes that some messages already hold.
fn join(mut text: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
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

/// An error of the library, with the exit status that it means.
trait Status: Error {
    fn status(&self) -> Exit;

    fn advice(&self) -> Option<&'static str> {
        None
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

impl Status for ConnectError {
    fn status(&self) -> Exit {
        match self {
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::NotUnderstood { .. }
            | Self::AccessDenied { .. }
            | Self::NamespaceNotFound { .. }
            | Self::ServerFailed { .. } => Exit::Error,
            // Everything that was refused before anything was sent.
            _ => Exit::Usage,
        }
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
            Self::Unknown(_) => Exit::Error,
        }
    }
}

impl Status for ResultError {
    fn status(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Usage,
            Self::NoReport {
                state: BatchState::Cancelled,
            } => Exit::Stopped,
            _ => Exit::Error,
        }
    }
}

impl Status for ControlError {
    fn status(&self) -> Exit {
        match self {
            Self::Invalid(_) => Exit::Usage,
            _ => Exit::Error,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoWorker { .. } => Some("the change may still take effect when a worker comes"),
            _ => None,
        }
    }
}

impl Status for WorkerError {
    fn status(&self) -> Exit {
        match self {
            Self::MaxPages { .. } => Exit::Usage,
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

impl Status for ListError {
    fn status(&self) -> Exit {
        Exit::Error
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
