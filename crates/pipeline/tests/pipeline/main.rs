//! Pipelines on a real Temporal dev server: one server for this binary, and for every test its own task queue, workers
//! and batch ids.

mod chained_time;
mod counted_once;
mod for_each;
mod kept_steps;
mod numbers;
mod pages;
mod predecessors;
mod retried_steps;

#[path = "../../../../tests/support/of_crates.rs"]
mod support;
