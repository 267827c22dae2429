//! Batchers on a real Temporal server, with sinks in memory and in SQLite, PostgreSQL and MariaDB.

mod attempts;
mod backlog;
mod confirmations;
mod database;
mod dead_letters;
mod exactly_once;
mod feeding;
mod flush;
mod hand_over;
mod metrics;
mod replay;
mod requesters;
mod shards;
mod shut_down;
mod sink;
mod town;

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
