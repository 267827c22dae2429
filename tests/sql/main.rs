//! The page ledger in SQLite, PostgreSQL and MariaDB, where every claim is tested on each of them; and the throttle on
//! PostgreSQL.

mod database;
mod dead_letters;
mod error_classes;
mod exactly_once;
mod faults;
mod outputs;
mod pages;
mod reports;
mod schema;
mod stride_ends;
mod throttle;
mod throwaway_servers;
mod wrong_database;

#[path = "../support/mod.rs"]
mod support;
