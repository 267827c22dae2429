//! Children of real batches of items, on a real Temporal server.

mod actions;
mod children;
mod close_policies;
mod documents;
mod failures;
mod jobs;
mod join_all;
mod killed_workers;
mod many_items;
mod over_runs;
mod own_children;
mod progress;
mod refusals;
mod replay;
mod same_ids;
mod signals;
mod sources;

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
