//! Commands with the database in their environment.

use std::process::Command;

use crate::support::command::{self, Ended, online};

pub fn command(url: &str, args: &[&str]) -> Command {
    let mut command = online(args);
    command.env("DATABASE_URL", url);
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(url: &str, args: &[&str]) -> Ended {
    command::run(command(url, args))
}
