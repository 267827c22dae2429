//! The metrics of a worker.

use temporal_batch::{PageError, metrics::Metrics};
use temporal_batch_batcher::BatcherWorker;

use crate::{
    requesters::{answer, terminate},
    sink::Sink,
    support::{connect, server_address},
    town::{Town, request},
};

const NAMES: [&str; 9] = [
    "temporal_batch_batcher_batch_requests",
    "temporal_batch_batcher_wait_seconds",
    "temporal_batch_batcher_write_duration_seconds",
    "temporal_batch_batcher_flushes_total",
    "temporal_batch_batcher_requests_total",
    "temporal_batch_batcher_pending",
    "temporal_batch_batcher_dead_letters_total",
    "temporal_batch_batcher_write_retries_total",
    "temporal_batch_batcher_confirmations_total",
];

#[test]
fn every_metric_is_documented() {
    let document = include_str!("../../../../docs/batcher.md");
    for name in NAMES {
        assert!(
            document.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
    }
}

#[tokio::test]
async fn the_metrics_tell_of_batches_waits_retries_and_confirmations() {
    let town = Town::new("metrics").await.with(|b| b.max_batch(4));
    let sink = Sink::answering(|ctx, requests| {
        let poison = requests.iter().any(|request| request.id == "r00003");
        match (ctx.attempt, poison) {
            (1, _) => Err(PageError::retryable("busy")),
            (_, true) => Err(PageError::non_retryable("Poison", "no")),
            _ => Ok(()),
        }
    });
    let metrics = Metrics::new();
    let client = connect(server_address()).await;
    let _worker = BatcherWorker::new(&client, &town.env.queue)
        .writer(sink)
        .metrics(metrics.clone())
        .start()
        .unwrap();
    let requesters = town.requesters().await;
    let long = std::time::Duration::from_secs(150);
    let mut requesting = Vec::new();
    for i in 0..2 {
        requesting.push(requesters.request(&town.batcher, request(i), long).await);
    }
    town.stats_show("two wait", |stats| stats.pending == 2)
        .await;
    terminate(&requesting[0]).await;
    town.submit(vec![request(2), request(3)]).await;
    answer(&requesting[1]).await;
    town.stats_show("both are told", |stats| {
        stats.confirmed == 1 && stats.held == 0
    })
    .await;

    let text = metrics.render();
    let batcher = format!("batcher=\"{}\"", town.batcher.name());
    let value = |series: String| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&series));
        let line = line.unwrap_or_else(|| panic!("{series} is missing in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let name =
        |name: &str, labels: &str| format!("temporal_batch_batcher_{name}{{{batcher}{labels}}}");
    for (series, expected) in [
        (name("batch_requests_count", ""), 1.0),
        (name("batch_requests_sum", ""), 4.0),
        (name("wait_seconds_count", ""), 4.0),
        (name("write_duration_seconds_count", ""), 2.0),
        (name("flushes_total", ",reason=\"size\""), 1.0),
        (name("requests_total", ",outcome=\"written\""), 3.0),
        (name("requests_total", ",outcome=\"failed\""), 1.0),
        (name("dead_letters_total", ""), 1.0),
        (name("write_retries_total", ""), 1.0),
        (name("pending", ",shard=\"0\""), 0.0),
        (name("confirmations_total", ",outcome=\"confirmed\""), 1.0),
        (name("confirmations_total", ",outcome=\"gone\""), 1.0),
    ] {
        assert!(
            (value(series.clone()) - expected).abs() < 1e-9,
            "{series}: {text}"
        );
    }
    for name in NAMES {
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} is not exposed"
        );
    }
}
