//! What the engine costs: no-op pages per second beside a bare Temporal workflow that schedules the same
//! number of no-op activities with known pages, in one run on one dev server.
//!
//! `cargo bench --bench pages` prints a table, `-- --json` one JSON object per line, `-- --quick` only the
//! small sizes, `-- --chain PAGES` only a chain of tokens of that length. Run it on an idle machine.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use serde::Serialize;
use temporal_batch::{
    Batch, BatchClient, ConnectOptions, Outcome, Page, PageContext, PageError, PageProcessor,
    PageReport, SkipAhead, Worker,
    dev_server::{DevServer, DevServerOptions},
};
use temporalio_client::{
    UntypedWorkflow, WorkflowExecutionInfo, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowHandle, WorkflowListOptions, WorkflowStartOptions,
};
use temporalio_sdk::{
    ActivityOptions, Runtime, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Pages of one number that do nothing.
struct NoOp {
    skips_ahead: bool,
}

#[async_trait]
impl PageProcessor for NoOp {
    const NAME: &'static str = "no-op";
    type Args = u64;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let next = ctx.range().start().map_or(1, |last| last + 1);
        let page = Page::keyset(vec![next], |n| *n)?;
        Ok(if next == *ctx.args() {
            page.last()
        } else {
            page
        })
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u64>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        if !self.skips_ahead {
            return Ok(SkipAhead::Unsupported);
        }
        let to = ctx.range().start().copied().unwrap_or(0) + u64::from(pages);
        Ok(if to < *ctx.args() {
            SkipAhead::To(to)
        } else {
            SkipAhead::PastEnd
        })
    }
}

/// The peer: activities with known pages, a fixed number in flight, and nothing else.
struct Bare;

#[temporalio_macros::activities]
impl Bare {
    #[activity(name = "bare.page")]
    async fn page(_ctx: ActivityContext, _page: u64) -> Result<(), ActivityError> {
        Ok(())
    }
}

#[temporalio_macros::workflow]
#[derive(Default)]
struct BareWorkflow;

#[temporalio_macros::workflow_methods]
impl BareWorkflow {
    #[run(name = "bare.workflow")]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        (pages, parallel): (u64, u64),
    ) -> WorkflowResult<()> {
        let lane = |first| {
            let ctx = &*ctx;
            async move {
                let mut page = first;
                while page < pages {
                    let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(60));
                    ctx.execute_activity(Bare::page, page, options).await?;
                    page += parallel;
                }
                Ok::<_, temporalio_sdk::ActivityExecutionError>(())
            }
        };
        for done in temporalio_sdk::workflows::join_all((0..parallel).map(lane)).await {
            done?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Row {
    what: &'static str,
    pages: u64,
    max_parallelism: u32,
    pages_per_second: f64,
    events_per_page: f64,
    actions_per_page: f64,
    runs: u32,
    largest_run_input_bytes: usize,
    peak_memory_mib: u64,
}

struct Bench {
    server: DevServer,
    client: BatchClient,
    json: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let chain_only = args.iter().position(|arg| arg == "--chain");
    let server = DevServerOptions::new()
        .metrics_port(free_port()?)
        .start()
        .await?;
    let bench = Bench {
        client: connect(&server).await?,
        server,
        json: has("--json"),
    };
    if !bench.json {
        println!(
            "{:<32} {:>7} {:>4} {:>9} {:>8} {:>8} {:>5} {:>9} {:>7}",
            "", "pages", "P", "pages/s", "events", "actions", "runs", "input B", "MiB"
        );
    }
    if let Some(at) = chain_only {
        let pages = args.get(at + 1).ok_or("--chain takes a number of pages")?;
        bench
            .batch("stride 1, chain of tokens", false, 1, pages.parse()?, 10)
            .await?;
        return Ok(bench.server.stop().await?);
    }
    let sizes: &[u64] = if has("--quick") {
        &[1_000]
    } else {
        &[1_000, 10_000]
    };
    for &pages in sizes {
        for parallel in [10, 50] {
            bench.bare(pages, parallel).await?;
            bench.batch("stride 20", true, 20, pages, parallel).await?;
            bench
                .batch("stride 1, skip ahead", true, 1, pages, parallel)
                .await?;
        }
    }
    // A chain of signals runs at the server's hop rate, about 20 a second, at any parallelism.
    let chain = if has("--quick") { 200 } else { 1_000 };
    for parallel in [10, 50] {
        bench
            .batch("stride 1, chain of tokens", false, 1, chain, parallel)
            .await?;
    }
    bench.server.stop().await?;
    Ok(())
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

async fn connect(server: &DevServer) -> Result<BatchClient, Error> {
    let options = ConnectOptions::new()
        .address(server.address())
        .disable_env(true)
        .disable_config_file(true);
    Ok(BatchClient::connect(&options).await?)
}

fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Bench {
    async fn batch(
        &self,
        what: &'static str,
        skips_ahead: bool,
        stride: u32,
        pages: u64,
        max_parallelism: u32,
    ) -> Result<(), Error> {
        let queue = unique("queue");
        let client = connect(&self.server).await?;
        let worker = Worker::new(client.temporal().clone(), &queue)
            .processor(NoOp { skips_ahead })
            .start()?;
        let batch = Batch::of::<NoOp>(unique("batch"), pages)
            .page_size(1)
            .stride(stride)
            .max_parallelism(max_parallelism)
            .task_queue(&queue);
        let actions = self.actions().await?;
        let started = Instant::now();
        let report = self.client.start(&batch).await?.result().await?;
        let took = started.elapsed();
        assert_eq!(report.outcome, Outcome::Completed);
        assert_eq!(report.progress.pages_completed, pages);
        let row = self.row(what, batch.id(), pages, max_parallelism, took, actions);
        self.print(&row.await?)?;
        worker.stop().await?;
        Ok(())
    }

    async fn bare(&self, pages: u64, max_parallelism: u32) -> Result<(), Error> {
        let (queue, id) = (unique("queue"), unique("bare"));
        let client = connect(&self.server).await?;
        let options = WorkerOptions::new(&*queue)
            .register_workflow::<BareWorkflow>()?
            .register_activities(Bare)
            .build();
        let runtime = Runtime::from_current_tokio(Default::default())?;
        let mut worker = temporalio_sdk::Worker::new(&runtime, client.temporal().clone(), options)?;
        let stop = worker.shutdown_handle();
        let measure = async {
            let actions = self.actions().await?;
            let started = Instant::now();
            let options = WorkflowStartOptions::new(&*queue, &*id).build();
            let input = (pages, u64::from(max_parallelism));
            let temporal = self.client.temporal();
            let handle = temporal
                .start_workflow(BareWorkflow::run, input, options)
                .await?;
            handle
                .get_result(WorkflowGetResultOptions::default())
                .await?;
            let took = started.elapsed();
            let row = self.row(
                "bare activities, known pages",
                &id,
                pages,
                max_parallelism,
                took,
                actions,
            );
            self.print(&row.await?)?;
            stop();
            Ok::<_, Error>(())
        };
        let (ran, measured) = tokio::join!(worker.run(), measure);
        measured?;
        Ok(ran?)
    }

    async fn row(
        &self,
        what: &'static str,
        id: &str,
        pages: u64,
        max_parallelism: u32,
        took: Duration,
        actions_before: f64,
    ) -> Result<Row, Error> {
        let (mut events, mut largest) = (0, 0);
        let runs = self.runs(id).await?;
        for run in &runs {
            let info = WorkflowExecutionInfo::builder()
                .namespace("default")
                .workflow_id(id)
                .run_id(&**run)
                .build();
            let handle: WorkflowHandle<_, UntypedWorkflow> =
                info.bind_untyped(self.client.temporal().clone());
            let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
            let first = history.into_events().await?;
            events += first.len();
            let input = first.first().and_then(|event| {
                use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
                match &event.attributes {
                    Some(Attributes::WorkflowExecutionStartedEventAttributes(a)) => a.input.clone(),
                    _ => None,
                }
            });
            let bytes = input.map_or(0, |i| i.payloads.iter().map(|p| p.data.len()).sum());
            largest = largest.max(bytes);
        }
        Ok(Row {
            what,
            pages,
            max_parallelism,
            pages_per_second: pages as f64 / took.as_secs_f64(),
            events_per_page: events as f64 / pages as f64,
            actions_per_page: (self.actions().await? - actions_before) / pages as f64,
            runs: u32::try_from(runs.len())?,
            largest_run_input_bytes: largest,
            peak_memory_mib: peak_memory_mib(),
        })
    }

    /// The listing is updated a little after the end.
    async fn runs(&self, id: &str) -> Result<Vec<String>, Error> {
        let query = format!("WorkflowId = '{id}'");
        for _ in 0..100 {
            let options = WorkflowListOptions::default();
            let list = self.client.temporal().list_workflows(&query, options);
            let runs: Vec<_> = list.try_collect().await?;
            if !runs.is_empty() && runs.iter().all(|run| run.close_time().is_some()) {
                return Ok(runs.iter().map(|run| run.run_id().to_owned()).collect());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{id} is not listed as closed").into())
    }

    /// The server's own count of what Temporal Cloud would bill.
    async fn actions(&self) -> Result<f64, Error> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let url = url::Url::parse(&self.server.metrics_url().ok_or("no metrics")?)?;
        let host = format!("127.0.0.1:{}", url.port().unwrap_or(80));
        let mut stream = tokio::net::TcpStream::connect(&host).await?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let samples = text
            .lines()
            .filter(|l| l.starts_with("action{") || l.starts_with("action_total{"));
        Ok(samples
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    fn print(&self, row: &Row) -> Result<(), Error> {
        if self.json {
            println!("{}", serde_json::to_string(row)?);
        } else {
            println!(
                "{:<32} {:>7} {:>4} {:>9.1} {:>8.2} {:>8.2} {:>5} {:>9} {:>7}",
                row.what,
                row.pages,
                row.max_parallelism,
                row.pages_per_second,
                row.events_per_page,
                row.actions_per_page,
                row.runs,
                row.largest_run_input_bytes,
                row.peak_memory_mib,
            );
        }
        Ok(())
    }
}

/// Of this process: worker, client and bench together. It never goes down.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
