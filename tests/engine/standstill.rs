//! A batch whose history no worker can replay.

use std::time::Duration;

use temporal_batch::{
    BatchClient, BatchHandle, ConnectOptions, Outcome,
    client::Remedy,
    errors::ProgressError,
    metrics::Metrics,
    settings::{RetryMode, RetryPolicy},
};
use temporalio_sdk::{
    ActivityOptions, Runtime, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::RuntimeOptions,
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::{TestEnv, eventually, report, server_address},
};

/// A controller of other code, with a timer where the real one has none.
#[temporalio_macros::workflow]
#[derive(Default)]
struct Changed;

#[temporalio_macros::workflow_methods]
impl Changed {
    #[run(name = "temporal-batch.controller")]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        input: serde_json::Value,
    ) -> WorkflowResult<serde_json::Value> {
        if input["spec"]["args"]["n"] == ONCE {
            let timeout = Duration::from_secs(10);
            let options = ActivityOptions::start_to_close_timeout(timeout);
            let prepared = ctx.execute_activity(Prepare::prepare, input, options);
            prepared.await.expect("the preparation succeeds");
        }
        loop {
            ctx.timer(Duration::from_secs(2)).await;
        }
    }
}

/// A preparation that reports the retry mode "at most once".
struct Prepare;

#[temporalio_macros::activities]
impl Prepare {
    #[activity(name = "temporal-batch.prepare")]
    async fn prepare(
        _: ActivityContext,
        _: serde_json::Value,
    ) -> Result<serde_json::Value, ActivityError> {
        Ok(serde_json::json!({
            "retry_mode": RetryMode::AtMostOnce,
            "retry": RetryPolicy::never(),
            "page_timeout": Duration::from_secs(60),
            "heartbeat_timeout": Duration::from_secs(5),
        }))
    }
}

/// The size of the batch whose pages may run only once.
const ONCE: u64 = 30;

/// Lets other code begin the batch, and stops it.
async fn begin_with_other_code(env: &TestEnv, handle: &BatchHandle) {
    let options = ConnectOptions::new()
        .address(server_address())
        .disable_env(true)
        .disable_config_file(true);
    let client = BatchClient::connect(&options).await.unwrap();
    let runtime = RuntimeOptions::builder().build().unwrap();
    let runtime = Runtime::from_current_tokio(runtime).unwrap();
    let options = WorkerOptions::new(&*env.queue)
        .register_workflow::<Changed>()
        .unwrap()
        .register_activities(Prepare)
        .sticky_queue_schedule_to_start_timeout(Duration::from_secs(1))
        .build();
    let client = client.temporal().clone();
    let mut worker = temporalio_sdk::Worker::new(&runtime, client, options).unwrap();
    let stop = worker.shutdown_handle();
    let begun = async {
        eventually("other code has begun with the batch", || async {
            let history = String::from_utf8(handle.history().await.unwrap()).unwrap();
            history.contains("TimerStarted").then_some(())
        })
        .await;
        stop();
    };
    let (ran, ()) = tokio::join!(worker.run(), begun);
    ran.unwrap();
}

fn counted(metrics: &Metrics, outcome: &str) -> u32 {
    let text = metrics.render();
    let series = format!("temporal_batch_recoveries_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&*series));
    value
        .expect("the counter exists from the beginning")
        .parse()
        .unwrap()
}

/// Two workers notice the standstill, and only one new run follows.
#[tokio::test]
async fn a_batch_whose_history_no_worker_can_replay_recovers_without_a_command() {
    let env = TestEnv::new("standstill").await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let handle = env.start(&batch).await;
    begin_with_other_code(&env, &handle).await;

    let numbers = NumbersProcessor::new();
    let metrics = [Metrics::new(), Metrics::new()];
    let _workers = [
        env.worker_with(numbers.clone(), |w| w.metrics(metrics[0].clone()))
            .await,
        env.worker_with(numbers.clone(), |w| w.metrics(metrics[1].clone()))
            .await,
    ];
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(numbers.record().processed(), (1..=50).collect::<Vec<_>>());
    let audit = &report.progress.audit;
    let recoveries: Vec<_> = audit.iter().filter(|e| e.action == "recover").collect();
    assert_eq!(recoveries.len(), 1, "{audit:#?}");
    assert_eq!(recoveries[0].who.as_deref(), Some("the batch itself"));
    let why = recoveries[0].why.as_deref().unwrap();
    assert!(why.contains("TMPRL1100"), "{why}");
    let recovered: u32 = metrics.iter().map(|m| counted(m, "recovered")).sum();
    assert!(recovered >= 1);
    let runs = env.histories(handle.id()).await.len();
    assert_eq!(runs, 2, "the first, and one that made up for it");
}

#[tokio::test]
async fn at_most_once_a_batch_does_not_recover_without_a_command() {
    let env = TestEnv::new("standstill-once").await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: ONCE })
        .page_size(10);
    let handle = env.start(&batch).await;
    begin_with_other_code(&env, &handle).await;

    let numbers = NumbersProcessor::new().settings(|s| {
        s.retry_mode = RetryMode::AtMostOnce;
        s.retry = RetryPolicy::never();
    });
    let metrics = Metrics::new();
    let _worker = env
        .worker_with(numbers.clone(), |w| w.metrics(metrics.clone()))
        .await;
    eventually("the worker gives up", || async {
        (counted(&metrics, "left") == 1).then_some(())
    })
    .await;
    let told = eventually("the error says what to do", || async {
        let error = handle.progress().await.err()?;
        let ProgressError::TaskFails { remedy, .. } = &error else {
            return None;
        };
        assert_eq!(*remedy, Remedy::AtMostOnce);
        Some(error.to_string())
    });
    let told = told.await;
    assert!(told.contains("`recover --force`"), "{told}");
    assert!(numbers.record().begun.is_empty());
    assert_eq!(counted(&metrics, "recovered"), 0);

    handle
        .recover_by_force("no page has had an effect")
        .await
        .unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(numbers.record().processed(), (1..=ONCE).collect::<Vec<_>>());
    let audit = &report.progress.audit;
    let forced = audit.iter().find(|entry| entry.action == "recover");
    let why = forced.and_then(|entry| entry.why.as_deref());
    assert_eq!(why, Some("no page has had an effect"), "{audit:#?}");
}
