//! Compares a batcher with one write per order, in the same run and on the same server.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, TryStreamExt as _, future::join_all};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use temporal_batch::{BatchClient, dev_server::DevServerOptions};
use temporal_batch_batcher::{
    Batcher, BatcherClient, CONFIRMED, Confirmation, Confirmations, Request, Requester,
    SubmitActivities, submit,
};
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, SyncWorkflowContext, WorkerOptions, WorkflowContext,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Fallible, Shared, batcher_service, main_service, shop};

const DIRECT_QUEUE: &str = "direct-queue";
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(600);
/// Temporal answers 1,200 calls that wait, for a namespace.
const WORKFLOWS_AT_ONCE: usize = 400;

/// The most orders of a workflow. A larger set of futures is polled in the order of their wake-ups.
pub(crate) const MOST_ORDERS: u32 = 30;

/// Writes its orders by itself, with one activity each. Its result are the milliseconds that each took.
#[temporalio_macros::workflow]
#[derive(Default)]
pub(crate) struct WriteDirectly;

#[temporalio_macros::workflow_methods]
impl WriteDirectly {
    #[run(name = "write-directly")]
    pub(crate) async fn run(
        ctx: &mut WorkflowContext<Self>,
        orders: u32,
    ) -> WorkflowResult<Vec<u64>> {
        let ctx = &*ctx;
        let writes = (0..orders).map(|i| async move {
            let began = ctx.workflow_time();
            let order = DirectOrder {
                id: format!("{}-{i}", ctx.workflow_id()),
                total: i.into(),
            };
            let options =
                ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60)).build();
            ctx.execute_activity(DirectWrites::write, order, options)
                .await?;
            Ok(milliseconds(began, ctx.workflow_time()))
        });
        join_all(writes).await.into_iter().collect()
    }
}

fn milliseconds(from: Option<SystemTime>, to: Option<SystemTime>) -> u64 {
    let took = from
        .zip(to)
        .and_then(|(from, to)| to.duration_since(from).ok());
    took.map_or(0, |took| {
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Has its orders written by the batcher, and does nothing else. Its result are the milliseconds until each was confirmed.
#[temporalio_macros::workflow]
#[derive(Default)]
pub(crate) struct WriteBatched(Confirmations);

impl Requester for WriteBatched {
    fn confirmations(&self) -> &Confirmations {
        &self.0
    }

    fn confirmations_mut(&mut self) -> &mut Confirmations {
        &mut self.0
    }
}

#[temporalio_macros::workflow_methods]
impl WriteBatched {
    #[run(name = "write-batched")]
    pub(crate) async fn run(
        ctx: &mut WorkflowContext<Self>,
        (batcher, orders): (Batcher, u32),
    ) -> WorkflowResult<Vec<u64>> {
        let ctx = &*ctx;
        let batcher = &batcher;
        let writes = (0..orders).map(|i| async move {
            let began = ctx.workflow_time();
            let payload = serde_json::json!({ "total": i });
            let request = Request::new(format!("{}-{i}", ctx.workflow_id()), payload);
            submit(ctx, batcher, request, CONFIRMATION_TIMEOUT)
                .await
                .map_err(|error| ApplicationFailure::builder(error.to_string()).build())?;
            Ok(milliseconds(began, ctx.workflow_time()))
        });
        join_all(writes).await.into_iter().collect()
    }

    #[signal(name = CONFIRMED)]
    pub(crate) fn confirmed(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        confirmation: Confirmation,
    ) {
        self.0.hear(confirmation);
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DirectOrder {
    id: String,
    total: i64,
}

pub(crate) struct DirectWrites(SqlitePool);

#[temporalio_macros::activities]
impl DirectWrites {
    #[activity(name = "write-directly.write")]
    pub(crate) async fn write(
        self: Arc<Self>,
        _ctx: ActivityContext,
        order: DirectOrder,
    ) -> Result<(), ActivityError> {
        let insert = sqlx::query("INSERT INTO direct_orders (id, total) VALUES (?, ?)");
        let inserted = insert
            .bind(order.id)
            .bind(order.total)
            .execute(&self.0)
            .await;
        inserted.map(drop).map_err(|error| {
            ActivityError::from(ApplicationFailure::builder(error.to_string()).build())
        })
    }
}

/// The figures of one way.
struct Figures {
    writes: u64,
    seconds: f64,
    /// In milliseconds, in ascending order.
    confirmed_after: Vec<u64>,
    actions: f64,
}

pub(crate) async fn run(workflows: u32, orders: u32, shared: &Shared) -> Fallible<()> {
    let folder = tempfile::tempdir()?;
    let server = DevServerOptions::new()
        .metrics_port(free_port().await?)
        .start()
        .await?;
    let metrics = server.metrics_url().ok_or("the server has no metrics")?;
    let shared = Shared {
        address: Some(server.address()),
        db: folder.path().join("orders.db"),
        ..shared.clone()
    };
    let client = shared.connect().await?;
    let batcher_worker = batcher_service::start(&client, &shared.db).await?;
    let direct = WorkerOptions::new(DIRECT_QUEUE)
        .register_workflow::<WriteDirectly>()?
        .register_workflow::<WriteBatched>()?
        .register_activities(SubmitActivities)
        .register_activities(DirectWrites(shop::open(&shared.db).await?))
        .build();
    let direct_worker = main_service::run(&client, direct)?;
    // Both ways are warm before they are measured.
    let batcher = shared.batcher()?.max_wait(Duration::from_millis(500));
    directly(&client, "warm", 5, orders).await?;
    batched(&client, &batcher, "warm", 5, orders).await?;

    let way = directly(&client, "direct", workflows, orders);
    let direct = measured(&metrics, way).await?;
    let way = batched(&client, &batcher, "batched", workflows, orders);
    let batched = measured(&metrics, way).await?;
    let requests = f64::from(workflows) * f64::from(orders);
    println!("\n{requests} requests of {workflows} workflows");
    println!("{:<16} {:>12} {:>12}", "", "one write", "batcher");
    let rows: [(&str, [f64; 2]); 5] = [
        ("writes", [direct.writes as f64, batched.writes as f64]),
        (
            "requests/s",
            [&direct, &batched].map(|f| requests / f.seconds),
        ),
        ("p50 s", [&direct, &batched].map(|f| percentile(f, 0.50))),
        ("p99 s", [&direct, &batched].map(|f| percentile(f, 0.99))),
        (
            "actions/request",
            [&direct, &batched].map(|f| f.actions / requests),
        ),
    ];
    for (what, [direct, batched]) in rows {
        println!("{what:<16} {direct:>12.2} {batched:>12.2}");
    }
    let sum = shop::rows(&shared.db, "batched-").await?;
    println!(
        "rows of the batcher: {} ids, {} rows",
        sum.len(),
        sum.values().sum::<i64>()
    );
    direct_worker.stop().await?;
    batcher_worker.stop().await?;
    server.stop().await?;
    Ok(())
}

fn percentile(figures: &Figures, part: f64) -> f64 {
    let sorted = &figures.confirmed_after;
    let at = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted[at] as f64 / 1_000.0
}

async fn measured(
    metrics: &str,
    way: impl Future<Output = Fallible<(u64, Vec<u64>)>>,
) -> Fallible<Figures> {
    let before = actions(metrics).await?;
    let began = Instant::now();
    let (writes, mut confirmed_after) = way.await?;
    let seconds = began.elapsed().as_secs_f64();
    confirmed_after.sort_unstable();
    Ok(Figures {
        writes,
        seconds,
        confirmed_after,
        actions: actions(metrics).await? - before,
    })
}

async fn directly(
    client: &BatchClient,
    name: &str,
    workflows: u32,
    orders: u32,
) -> Fallible<(u64, Vec<u64>)> {
    let client = client.temporal();
    let took = some_at_once(workflows, |i| async move {
        let options = WorkflowStartOptions::new(DIRECT_QUEUE, format!("{name}-{i}")).build();
        let started = client.start_workflow(WriteDirectly::run, orders, options);
        let handle = started.await?;
        let options = WorkflowGetResultOptions::default();
        Ok(handle.get_result(options).await?)
    })
    .await?;
    Ok((took.len() as u64, took))
}

async fn batched(
    client: &BatchClient,
    batcher: &Batcher,
    name: &str,
    workflows: u32,
    orders: u32,
) -> Fallible<(u64, Vec<u64>)> {
    let stats = BatcherClient::new(client, batcher.clone())?;
    stats.start().await?;
    let before = stats.stats().await?.writes;
    let client = client.temporal();
    let took = some_at_once(workflows, |i| async move {
        let options = WorkflowStartOptions::new(DIRECT_QUEUE, format!("{name}-{i}")).build();
        let input = (batcher.clone(), orders);
        let started = client.start_workflow(WriteBatched::run, input, options);
        let handle = started.await?;
        let options = WorkflowGetResultOptions::default();
        Ok(handle.get_result(options).await?)
    })
    .await?;
    Ok((stats.stats().await?.writes - before, took))
}

/// Runs workflows, so many at once as the server answers polls for.
async fn some_at_once<F: Future<Output = Fallible<Vec<u64>>>>(
    workflows: u32,
    one: impl Fn(u32) -> F,
) -> Fallible<Vec<u64>> {
    let all = futures::stream::iter(0..workflows).map(one);
    let took: Vec<_> = all
        .buffer_unordered(WORKFLOWS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(took.concat())
}

/// The actions that Temporal Cloud would bill, as the server counts them.
async fn actions(url: &str) -> Fallible<f64> {
    let address = url.trim_start_matches("http://");
    let (address, path) = address.split_once('/').unwrap_or((address, "metrics"));
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let counters = text.lines().filter(|line| line.starts_with("action{"));
    let values = counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}

async fn free_port() -> Fallible<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}
