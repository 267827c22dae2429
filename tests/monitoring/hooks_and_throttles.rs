//! A batch with a tracker and a throttle, which the stock binary does not have, scraped by a real Prometheus.

use std::time::Duration;

use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, async_trait,
    hooks::{HookResult, Tracker},
    metrics::{Metrics, MetricsServer},
    progress::Progress,
    throttle::{Throttle, Verdict},
};

use crate::{
    dashboard,
    metric_names::metrics_in,
    prometheus::Prometheus,
    scraped_batch::{WITHOUT_DATA, queried},
    support::TestEnv,
};

/// A processor with endless pages: the batch runs until it is cancelled.
struct Endless;

#[async_trait]
impl PageProcessor for Endless {
    const NAME: &'static str = "inflate-prices";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        Page::sorted((start + 1..start + 11).collect(), |item| *item)
    }

    async fn process(
        &self,
        _ctx: &PageContext<Self>,
        _items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(PageReport::all_processed())
    }
}

struct Mail;

#[async_trait]
impl Tracker for Mail {
    const NAME: &'static str = "mail";

    async fn track(&self, _progress: &Progress) -> HookResult {
        Ok(())
    }
}

struct Replica;

#[async_trait]
impl Throttle for Replica {
    fn name(&self) -> &str {
        "replica"
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Verdict::Go)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_throttles_have_metrics_and_a_healthy_batch_raises_no_alert() {
    let metrics = Metrics::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = MetricsServer::bind(any, metrics.clone()).await.unwrap();
    let Some(prometheus) = Prometheus::scraping(&server.address().to_string()) else {
        return;
    };
    let env = TestEnv::new("monitored").await;
    let _worker = env
        .worker_with(Endless, |worker| {
            worker.tracker(Mail).throttle(Replica).metrics(metrics)
        })
        .await;
    let batch = env.batch::<Endless>(()).track("mail").throttle("replica");
    let handle = env.start(&batch.rate(500.0).max_parallelism(2)).await;

    let watching = tokio::task::spawn_blocking(move || {
        for expression in dashboard::expressions() {
            let of_this_test = |name: &String| {
                let missing = |(metric, _): &(&str, &str)| name == metric;
                name.starts_with("temporal_batch_") && WITHOUT_DATA.iter().any(missing)
            };
            if !metrics_in(&expression).iter().any(of_this_test) {
                continue;
            }
            prometheus.wait_for_data(&expression, &queried(&expression));
        }
        for (name, metric, label) in dashboard::variables() {
            let values = prometheus.label_values(&metric, &label).unwrap();
            assert_eq!(values.len(), 1, "values for {name}: {values:?}");
        }
        // The rate holds the batch, which is no reason for an alert.
        for rule in prometheus.evaluated_rules() {
            assert_eq!(rule["state"], "inactive", "{rule}");
        }
    });
    watching.await.unwrap();
    handle.cancel("seen").await.unwrap();
}
