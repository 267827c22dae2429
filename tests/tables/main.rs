//! Tables that are paged through by a key, in SQLite, PostgreSQL and MariaDB: every claim is tested on each.

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
