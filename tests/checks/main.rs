//! Before and after a backfill: dry runs, and checks of what was done, on every database.

mod database;
mod dry_run;
mod verify;

#[path = "../support/mod.rs"]
mod support;
