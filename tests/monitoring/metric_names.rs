//! Names of metrics: in the table of the code, in the docs, in the alerts and on the dashboard.

use std::collections::BTreeSet;

use crate::{dashboard, read};

/// The names of this library's metrics in a text in PromQL or Markdown.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("temporal_") || *word == "up")
        .map(str::to_owned)
        .collect()
}

/// The names without those of the SDK, and without the suffixes of histograms.
fn families_in(text: &str) -> BTreeSet<String> {
    let ours = metrics_in(text).into_iter();
    ours.filter(|name| name.starts_with("temporal_batch_") && !name.ends_with('_'))
        .map(|name| name.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// The table of metrics. A test of the library compares it with the metrics that really exist.
fn table() -> BTreeSet<String> {
    let module = read("src/metrics/mod.rs");
    let rows = module.lines().filter(|line| line.starts_with("//! | `"));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn exactly_the_existing_metrics_are_documented() {
    let explained: BTreeSet<_> = families_in(&read("docs/monitoring.md"));
    let missing: Vec<_> = table().difference(&explained).cloned().collect();
    assert!(missing.is_empty(), "not in docs/monitoring.md: {missing:?}");
    let unknown: Vec<_> = explained.difference(&table()).cloned().collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn alerts_and_dashboard_name_only_existing_metrics() {
    let expressions = dashboard::expressions().join("\n");
    for text in [read("docs/alerts.yml"), expressions] {
        let unknown: Vec<_> = families_in(&text).difference(&table()).cloned().collect();
        assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let shown = families_in(&dashboard::expressions().join("\n"));
    let missing: Vec<_> = table().difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}
