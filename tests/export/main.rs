//! `export`: the rows of a table in files, with a real server and real databases.

mod commands;
mod database;
mod empty;
mod interrupted;
mod pooled_transactions;
mod refusals;
mod round_trip;
mod rows;

#[path = "../support/mod.rs"]
mod support;
