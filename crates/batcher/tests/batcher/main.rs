//! Many requests and few writes, on a real Temporal server and real databases.

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
