//! The README and the samples, followed as a new user follows them: every command is typed as it is written, and must
//! print the output that the document shows.
//!
//! Commands that the product prints as next steps are tested in `tests/backfill/printed_commands.rs`.

mod document;
mod readme;
mod samples;
mod terminal;

#[path = "../support/mod.rs"]
mod support;
