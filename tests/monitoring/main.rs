//! The output of a worker for operators: metrics that a real Prometheus scrapes, the alerts and the dashboard in `docs`
//! that use them, its health, and its log lines.

mod alert_rules;
mod dashboard;
mod health;
mod hooks_and_throttles;
mod logs;
mod metric_names;
mod prometheus;
mod scraped_batch;
mod worker;

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

/// A file of this repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}
