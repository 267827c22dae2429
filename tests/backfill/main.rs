//! Backfills: the effects of the processor on the rows of real databases, and the command as its users run it.

mod checks;
mod command;
mod database;
mod database_url;
mod explanations;
mod killed_commands;
mod long_keys;
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
mod same_work;
mod sessions;
mod tables_without_transactions;
mod totals;

#[path = "../support/mod.rs"]
mod support;
