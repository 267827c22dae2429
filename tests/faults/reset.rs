//! A batch with a ledger that is reset while it runs.

use std::time::Duration;

use sqlx::PgPool;
use temporal_batch::{Batch, BatchHandle, Outcome, Worker};
use temporalio_client::tonic::IntoRequest as _;
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution, enums::v1::ResetReapplyExcludeType,
    workflowservice::v1::ResetWorkflowExecutionRequest,
};

use crate::{
    increment::Increment,
    support::{TestEnv, connect, progress_shows, report, server_address, servers::Postgres},
};

const ROWS: i64 = 3_000;

/// Resets the batch to its first workflow task, without applying earlier announcements again.
async fn reset(env: &TestEnv, handle: &BatchHandle) {
    let history: serde_json::Value =
        serde_json::from_slice(&handle.history().await.unwrap()).unwrap();
    let events = history["events"].as_array().unwrap();
    let is_completion = |event: &&serde_json::Value| {
        let completed = "WorkflowTaskCompletedEventAttributes";
        event["attributes"].get(completed).is_some()
    };
    let first = events.iter().find(is_completion).unwrap();
    let request = ResetWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        workflow_execution: Some(WorkflowExecution {
            workflow_id: handle.id().to_owned(),
            run_id: String::new(),
        }),
        reason: "to see what happens".to_owned(),
        workflow_task_finish_event_id: first["event_id"].as_i64().unwrap(),
        request_id: env.new_id(),
        reset_reapply_exclude_types: vec![ResetReapplyExcludeType::Signal.into()],
        ..Default::default()
    };
    let mut service = env.client.temporal().connection().workflow_service();
    let reset = service.reset_workflow_execution(request.into_request());
    reset.await.unwrap();
}

async fn count(pool: &PgPool, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(pool).await.unwrap()
}

/// New rows would move the ends of the pages; the recorded ends still apply.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_batch_finds_its_applied_pages_and_keeps_their_ends() {
    let Some(postgres) = Postgres::shared() else {
        return;
    };
    let pool = postgres.pool("reset", 20).await;
    Increment::new(pool.clone(), None).create_tables(ROWS).await;
    let env = TestEnv::new("reset").await;
    let client = connect(server_address()).await;
    let _worker = Worker::new(&client, &env.queue)
        .processor(Increment::new(pool.clone(), None))
        .drain_timeout(Duration::from_secs(5))
        .start()
        .unwrap();
    let batch = Batch::of::<Increment>(env.new_id(), ()).task_queue(&env.queue);
    let batch = batch
        .page_size(100)
        .stride(2)
        .max_parallelism(3)
        .rate(600.0);
    let handle = env.start(&batch).await;
    let before = progress_shows(&handle, "some rows are done", |p| {
        p.items.processed >= 1_000
    })
    .await;
    sqlx::raw_sql("INSERT INTO counters (id) SELECT n * 10 + 5 FROM generate_series(1, 60) AS n")
        .execute(&pool)
        .await
        .unwrap();
    reset(&env, &handle).await;

    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    assert_eq!(report.progress.batch_run, before.batch_run);
    let wrong = "SELECT count(*) FROM counters WHERE id % 10 = 0 AND x <> 1";
    assert_eq!(count(&pool, wrong).await, 0);
    assert_eq!(
        count(&pool, "SELECT count(*) FROM counters WHERE x > 1").await,
        0
    );
    let total = count(&pool, "SELECT sum(x)::bigint FROM counters").await;
    assert_eq!(
        report.progress.items.processed,
        u64::try_from(total).unwrap()
    );
}
