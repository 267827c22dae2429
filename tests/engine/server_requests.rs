//! The number of requests that workers send to the server while they run pages.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Partition, Worker,
    metrics::Metrics,
};

use crate::{
    numbers_processor::Gate,
    support::{TestEnv, eventually, report},
};

const WORKERS: u32 = 2;
const PARTITIONS: u32 = 40;
const SECONDS: u32 = 12;

/// Each partition has one record.
#[derive(Clone)]
struct Tiny(Gate);

#[async_trait]
impl PageProcessor for Tiny {
    const NAME: &'static str = "tiny";
    const PARTITIONED: bool = true;
    type Args = ();
    type Cursor = u32;
    type Item = u32;

    async fn partitions(&self, (): &()) -> Result<Vec<Partition<u32>>, PageError> {
        let named = (0..PARTITIONS).map(|n| Partition::named(format!("p{n}")));
        Ok(named.collect())
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        let items = match ctx.range().start() {
            None => vec![1],
            Some(_) => Vec::new(),
        };
        Page::keyset(items, |n| *n)
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
        self.0.pass().await;
        Ok(PageReport::all_processed())
    }
}

/// The number of looks at workflows that were made over the connections of these metrics.
fn looks(metrics: &[Metrics]) -> f64 {
    let count = |metrics: &Metrics| -> f64 {
        let text = metrics.render();
        let lines = text.lines().filter(|line| {
            line.starts_with("temporal_request_total{")
                && line.contains("operation=\"DescribeWorkflowExecution\"")
        });
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        counts.sum()
    };
    metrics.iter().map(count).sum()
}

#[tokio::test]
async fn workers_with_many_partitions_look_at_ten_workflows_a_second_each() {
    let env = TestEnv::new("looks").await;
    let gate = Gate::closed();
    let mut metrics = Vec::new();
    let mut workers = Vec::new();
    for n in 0..WORKERS {
        let measured = Metrics::new();
        let client = env.measured(&format!("looks-{n}"), &measured).await;
        let worker = Worker::new(&client, &env.queue)
            .processor(Tiny(gate.clone()))
            .max_pages(PARTITIONS)
            .metrics(measured.clone());
        workers.push(worker.start().unwrap());
        metrics.push(measured);
    }
    let batch = env.batch::<Tiny>(()).max_parallelism(PARTITIONS);
    let handle = env.start(&batch).await;
    eventually("all partitions are at work", || async {
        let progress = handle.progress().await.ok()?;
        (progress.pages_in_flight >= PARTITIONS).then_some(())
    })
    .await;
    let before = looks(&metrics);
    tokio::time::sleep(Duration::from_secs(u64::from(SECONDS))).await;
    let per_second = (looks(&metrics) - before) / f64::from(SECONDS);
    println!("{per_second} looks a second, {PARTITIONS} partitions, {WORKERS} workers");
    assert!(per_second > 0.5, "no worker looks: {per_second}");
    let allowed = 10.0 * f64::from(WORKERS) * 1.2;
    assert!(per_second <= allowed, "{per_second} looks a second");
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}
