//! Compares a batcher with one write per order, in the same run and on the same server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
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

use crate::{
    Fallible, Shared, batcher_service,
    main_service::{self, Order, Placed},
    shop,
};

const DIRECT_QUEUE: &str = "direct-queue";

/// Writes its order by itself, with one activity.
#[temporalio_macros::workflow]
#[derive(Default)]
pub(crate) struct WriteDirectly;

#[temporalio_macros::workflow_methods]
impl WriteDirectly {
    #[run(name = "write-directly")]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, total: i64) -> WorkflowResult<()> {
        let order = DirectOrder {
            id: ctx.workflow_id().to_owned(),
            total,
        };
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60)).build();
        ctx.execute_activity(DirectWrites::write, order, options)
            .await?;
        Ok(())
    }
}

/// Has its order written by the batcher, and does nothing else.
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
        order: Order,
    ) -> WorkflowResult<Placed> {
        let payload = serde_json::json!({ "total": order.total });
        let request = Request::new(ctx.workflow_id(), payload);
        let written = submit(ctx, &order.batcher, request, Duration::from_secs(120)).await;
        Ok(match written {
            Ok(_) => Placed::Done("written".to_owned()),
            Err(error) => Placed::Failed {
                confirmed: false,
                error: error.to_string(),
            },
        })
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
    confirmed_after: Vec<Duration>,
    actions: f64,
}

pub(crate) async fn run(workflows: u32, shared: &Shared) -> Fallible<()> {
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
    directly(&client, "warm", 5).await?;
    batched(&client, &batcher, "warm", 5).await?;

    let direct = measured(&metrics, directly(&client, "direct", workflows)).await?;
    let batched = measured(&metrics, batched(&client, &batcher, "batched", workflows)).await?;
    println!("\n{workflows} workflows   one write each   batcher");
    let rows: [(&str, [f64; 2]); 5] = [
        ("writes", [direct.writes as f64, batched.writes as f64]),
        (
            "requests/s",
            [&direct, &batched].map(|f| f64::from(workflows) / f.seconds),
        ),
        ("p50 s", [&direct, &batched].map(|f| percentile(f, 0.50))),
        ("p99 s", [&direct, &batched].map(|f| percentile(f, 0.99))),
        (
            "actions/request",
            [&direct, &batched].map(|f| f.actions / f64::from(workflows)),
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
    let mut sorted = figures.confirmed_after.clone();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted[at].as_secs_f64()
}

async fn measured(
    metrics: &str,
    way: impl Future<Output = Fallible<(u64, Vec<Duration>)>>,
) -> Fallible<Figures> {
    let before = actions(metrics).await?;
    let began = Instant::now();
    let (writes, confirmed_after) = way.await?;
    Ok(Figures {
        writes,
        seconds: began.elapsed().as_secs_f64(),
        confirmed_after,
        actions: actions(metrics).await? - before,
    })
}

async fn directly(client: &BatchClient, name: &str, count: u32) -> Fallible<(u64, Vec<Duration>)> {
    let client = client.temporal();
    let one = |i: u32| async move {
        let began = Instant::now();
        let id = format!("{name}-{i}");
        let options = WorkflowStartOptions::new(DIRECT_QUEUE, id).build();
        let handle = client
            .start_workflow(WriteDirectly::run, i64::from(i), options)
            .await?;
        handle
            .get_result(WorkflowGetResultOptions::default())
            .await?;
        Fallible::Ok(began.elapsed())
    };
    Ok((count.into(), try_join_all((0..count).map(one)).await?))
}

async fn batched(
    client: &BatchClient,
    batcher: &Batcher,
    name: &str,
    count: u32,
) -> Fallible<(u64, Vec<Duration>)> {
    let stats = BatcherClient::new(client, batcher.clone())?;
    stats.start().await?;
    let before = stats.stats().await?.writes;
    let client = client.temporal();
    let one = |i: u32| async move {
        let began = Instant::now();
        let id = format!("{name}-{i}");
        let options = WorkflowStartOptions::new(DIRECT_QUEUE, id).build();
        let order = Order {
            batcher: batcher.clone(),
            total: i.into(),
        };
        let handle = client
            .start_workflow(WriteBatched::run, order, options)
            .await?;
        match handle
            .get_result(WorkflowGetResultOptions::default())
            .await?
        {
            Placed::Done(_) => Fallible::Ok(began.elapsed()),
            Placed::Failed { error, .. } => Err(error.into()),
        }
    };
    let confirmed = try_join_all((0..count).map(one)).await?;
    Ok((stats.stats().await?.writes - before, confirmed))
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
