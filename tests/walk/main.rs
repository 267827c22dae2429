//! The README and the samples as a stranger follows them: every command is typed as it is written, and shows what they
//! say that it shows.
//!
//! Commands that the product prints as the next ones are typed in `tests/backfill/printed.rs`.

mod document;
mod readme;
mod samples;
mod terminal;

#[path = "../support/mod.rs"]
mod support;
