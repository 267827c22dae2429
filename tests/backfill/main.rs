//! Backfills: what the processor does to the rows of real databases, and the command as its users meet it.

mod because;
mod checks;
mod command;
mod database;
mod database_url;
mod killed_commands;
mod moved_rows;
mod outages;
mod pace;
mod printed_commands;
mod refusals;
mod refused_rows;
mod repaired_rows;
mod repeated_commands;
mod rows;
mod rows_left_unchanged;
mod sessions;
mod tables_without_transactions;
mod totals;

#[path = "../support/mod.rs"]
mod support;
