//! Metrics that are fed here as an engine would feed them, of a batch that is well, watched by a real Prometheus.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use temporal_batch::{
    Progress,
    metrics::{ClaimOutcome, Metrics, MetricsServer, StrideOutcome},
};

use crate::{
    dashboard,
    metric_names::metrics_in,
    prometheus::Prometheus,
    scraped_batch::{has_data, queried},
    support::wait_for_ok,
};

/// The look at a batch after `n` pages.
fn look(n: u64) -> Progress {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(since.as_millis()).unwrap();
    serde_json::from_value(json!({
        "batch_id": "monitored",
        "batch_run": "run",
        "processor": "inflate-prices",
        "phase": "running",
        "pages_completed": n,
        "pages_failed": 0,
        "pages_in_flight": 4,
        "pages_stuck": 0,
        "strides_waiting": 3,
        "items": { "processed": 100 * n, "skipped": 0, "failed": 0 },
        "items_expected": 1_000_000,
        "retries": 7,
        "max_parallelism": 8,
        "max_parallelism_achieved": 8,
        "rate": 500.0,
        "low_water_mark": n.to_string(),
        "end_of_data": false,
        "started_at": now - 60_000,
        "as_of": now,
        "runs": 1,
        "announcements_dropped": 0,
        "deadline": now + 3_600_000,
        "held_by": "rate",
        "parallelism_now": 6,
        "page_size": 100,
        "items_per_second": 480.5,
        "time_left": { "at_least": 60.0, "at_most": 90.5 },
        "oldest_in_flight": now - 1_000,
    }))
    .unwrap()
}

/// Works until `stop`.
fn feed(metrics: &Metrics, stop: &AtomicBool) {
    metrics.hook_registered("mail");
    metrics.throttle_registered("replica");
    metrics.health().set_ready();
    let processor = metrics.for_processor("inflate-prices");
    let short = Duration::from_millis(20);
    for n in 1.. {
        let _in_flight = processor.page_started();
        processor.page_fetched(short);
        processor.rate_waited(short);
        processor.throttle_waited(short);
        processor.page_processed(short);
        processor.ledger_claim(ClaimOutcome::Committed);
        processor.page_completed(3 * short, 100, 0, 0);
        processor.stride_ended(StrideOutcome::Completed);
        metrics.throttle_reading("replica", 0.5);
        metrics.batch_seen(&look(n));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn everything_of_ours_is_shown_and_a_batch_that_is_well_raises_no_alarm() {
    let metrics = Metrics::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = runtime
        .block_on(MetricsServer::bind(any, metrics.clone()))
        .unwrap();
    let Some(prometheus) = Prometheus::scraping(&server.address().to_string()) else {
        return;
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| feed(&metrics, &stop));
        // However this ends, the feeding has to.
        let _guard = Stop(&stop);
        for expression in dashboard::expressions() {
            let sdk = |name: &String| !name.starts_with("temporal_batch_");
            if metrics_in(&expression).iter().any(sdk) {
                continue;
            }
            wait_for_ok(&expression, || {
                let result = prometheus.query(&queried(&expression))?;
                let no_data = || format!("no data: {result:?}");
                has_data(&result).then_some(()).ok_or_else(no_data)
            });
        }
        for (name, metric, label) in dashboard::variables() {
            let values = prometheus.label_values(&metric, &label).unwrap();
            assert_eq!(values.len(), 1, "to choose for {name}: {values:?}");
        }
        let rules = wait_for_ok("each alert is evaluated", || {
            let rules = prometheus.rules()?;
            let evaluated = rules.iter().all(|rule| rule["health"] == "ok");
            evaluated
                .then_some(rules)
                .ok_or_else(|| "not yet".to_owned())
        });
        let quiet = |rule: &serde_json::Value| {
            // Held by its rate, not by the throttle; a throttle at half speed holds nothing.
            assert_eq!(rule["state"], "inactive", "{rule}");
        };
        rules.iter().for_each(quiet);
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
