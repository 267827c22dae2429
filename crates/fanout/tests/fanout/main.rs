//! Children of real batches of items, on a real Temporal server.

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
