//! Pipelines of real batches, on a real Temporal server.

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
