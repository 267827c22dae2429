//! Dry runs before a backfill, and checks after it, on every database.

mod database;
mod dry_run;
mod verify;

#[path = "../support/mod.rs"]
mod support;
