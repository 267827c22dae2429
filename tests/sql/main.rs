//! The page ledger in SQLite, PostgreSQL and MariaDB: every claim is tested on each. And the throttle on
//! PostgreSQL.

mod database;
mod dead_letters;
mod elsewhere;
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

#[path = "../support/mod.rs"]
mod support;
