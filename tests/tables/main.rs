//! Tables that are read in pages by their key, in SQLite, PostgreSQL and MariaDB. Every claim is tested on each of
//! them.

mod changing_tables;
mod database;
mod high_water_mark;
mod index_plans;
mod json_rows;
mod order;
mod processor;
mod refusals;
mod sizes;

#[path = "../support/mod.rs"]
mod support;
