//! A running batch, scraped by a real Prometheus.

use crate::{
    dashboard,
    metric_names::metrics_in,
    prometheus::{Prometheus, is_installed, promtool},
    support::wait_for_ok,
    worker::{Worker, get, products, run},
};

/// Metrics without data in this run, and the reason.
pub const WITHOUT_DATA: &[(&str, &str)] = &[
    (
        "temporal_batch_hook_failures_total",
        "the stock binary has no hooks",
    ),
    (
        "temporal_batch_throttle_factor",
        "the stock binary has no throttles",
    ),
    (
        "temporal_batch_throttle_failures_total",
        "the stock binary has no throttles",
    ),
    (
        "temporal_workflow_task_execution_failed_total",
        "the SDK has no series before the first failure",
    ),
];

fn is_expected(metric: &str) -> bool {
    !WITHOUT_DATA.iter().any(|(name, _)| *name == metric)
}

/// An expression as Grafana sends it.
pub fn queried(expression: &str) -> String {
    expression
        .replace("$__rate_interval", "10s")
        .replace("$batch", "monitored")
        .replace("$processor", "inflate-prices|other")
}

#[test]
fn prometheus_has_data_for_every_expression_of_dashboard_and_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let database = products(folder.path(), 5_000);
    let worker = Worker::start("monitoring-scraped", &database, &[]);
    // The work takes 100 s and has a limit of each kind. The batch is cancelled once all metrics have been seen.
    let settings = [
        "--batch-id",
        "monitored",
        "--task-queue",
        "monitoring-scraped",
        "--page-size",
        "10",
        "--stride",
        "2",
        "--rate",
        "50",
        "--max-parallelism",
        "3",
        "--deadline",
        "1h",
        "--detach",
    ];
    run(&[&["start", "inflate-prices"], &settings[..]].concat());

    let (status, metrics) = get(&worker.metrics, "/metrics");
    assert_eq!(status, 200);
    if is_installed("promtool") {
        let output = promtool(folder.path(), &["check", "metrics"], &metrics);
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{told}");
    }

    if let Some(prometheus) = Prometheus::scraping(&worker.metrics) {
        dashboard_has_data(&prometheus);
        alerts_are_evaluated(&prometheus);
    }
    run(&["cancel", "monitored"]);
}

fn dashboard_has_data(prometheus: &Prometheus) {
    for expression in dashboard::expressions() {
        let expected = metrics_in(&expression).iter().all(|m| is_expected(m));
        let query = queried(&expression);
        match expected {
            true => prometheus.wait_for_data(&expression, &query),
            false => wait_for_ok(&expression, || prometheus.query(&query).map(drop)),
        }
    }
    for (name, metric, label) in dashboard::variables() {
        if is_expected(&metric) {
            let values = prometheus.label_values(&metric, &label).unwrap();
            assert!(!values.is_empty(), "no values for {name}");
        }
    }
}

fn alerts_are_evaluated(prometheus: &Prometheus) {
    for rule in prometheus.evaluated_rules() {
        let (name, expression) = (&rule["name"], rule["query"].as_str().unwrap());
        let metrics = metrics_in(expression);
        assert!(!metrics.is_empty(), "{name}: {expression}");
        for metric in metrics.iter().filter(|metric| is_expected(metric)) {
            prometheus.wait_for_data(&format!("{name} is about {metric}"), metric);
        }
        assert_eq!(rule["state"], "inactive", "{rule}");
    }
}
