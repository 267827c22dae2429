#[path = "../../../../tests/support/of_crates.rs"]
mod support;
