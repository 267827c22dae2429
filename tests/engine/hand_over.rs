//! Continue-as-new: nothing is lost, and the state that is carried over stays small.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use temporal_batch::{
    BatchClient, ConnectOptions, Outcome, PageError, PageReport, Worker,
    dev_server::DevServerOptions, settings::ExtendedRetries,
};
use temporalio_common::{
    data_converters::{
        DataConverter, DefaultFailureConverter, PayloadCodec, PayloadConversionError,
        PayloadConverter, SerializationContextData,
    },
    protos::temporal::api::common::v1::Payload,
};

use crate::{
    numbers_processor::{NumbersProcessor, Shared, UpTo, gated, gated_where, quick_retries},
    replay::replays,
    support::{TestEnv, eventually, progress_shows, report, server_address},
};

#[tokio::test]
async fn a_batch_continues_as_new_and_carries_its_counts() {
    let env = TestEnv::new("can").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .pages_per_run(3);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 10);
    assert!(report.progress.runs >= 3, "{} runs", report.progress.runs);
    assert_eq!(numbers.record().processed(), (1..=100).collect::<Vec<_>>());
}

/// The server decides which history is long, and sends its suggestion with each workflow task. Nothing else ends a run
/// of so few pages.
#[tokio::test]
async fn a_batch_continues_as_new_when_the_server_suggests_it() {
    let server = DevServerOptions::new()
        .dynamic_config("limit.historyCount.suggestContinueAsNew=60")
        .start()
        .await
        .unwrap();
    let env = TestEnv::at(&server.address(), "can-suggested").await;
    let numbers = NumbersProcessor::new();
    let worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 40 }).page_size(1);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=40).collect::<Vec<_>>());
    assert!(report.progress.runs >= 2, "{} runs", report.progress.runs);
    for history in env.histories(batch.id()).await {
        let history: serde_json::Value = serde_json::from_slice(&history).unwrap();
        let events = history["events"].as_array().unwrap().len();
        // Running pages end first, and signals that arrive meanwhile are handled.
        assert!(events < 120, "{events} events");
    }
    worker.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_run_may_be_shorter_than_the_parallelism() {
    let env = TestEnv::new("can-often").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .pages_per_run(1)
        .max_parallelism(3);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 5);
    assert!(report.progress.runs >= 2);
    assert_eq!(numbers.record().processed(), (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn pages_in_flight_finish_before_the_run_ends() {
    let env = TestEnv::new("can-in-flight").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|seen| async move {
            // The durations differ, so that some pages always run when a hand-over is due.
            tokio::time::sleep(Duration::from_millis(20 * (seen.start / 5 % 7))).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 300 })
        .page_size(5)
        .pages_per_run(7)
        .max_parallelism(5);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=300).collect::<Vec<_>>());
    assert_eq!(report.progress.pages_completed, 60);
    assert_eq!(report.progress.retries, 0);
    assert!(report.progress.runs >= 4, "{} runs", report.progress.runs);
}

#[tokio::test]
async fn stuck_pages_are_carried_with_their_failures() {
    let env = TestEnv::new("can-stuck").await;
    let fixed = Shared::<bool>::default();
    let is_fixed = fixed.clone();
    let numbers = NumbersProcessor::new()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(1)
                .extended(Some(ExtendedRetries {
                    interval: Duration::from_secs(1),
                    max_attempts: None,
                }));
        })
        .on_process(move |seen| {
            let fixed = *is_fixed.lock();
            async move {
                if !fixed && [10, 40].contains(&seen.start) {
                    return Err(PageError::retryable("still broken").with_type("Broken"));
                }
                Ok(PageReport::all_processed())
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 80 })
        .page_size(10)
        .pages_per_run(2);
    let handle = env.start(&batch).await;
    let progress = progress_shows(&handle, "two stuck pages after continue-as-new", |p| {
        p.pages_stuck == 2 && p.pages_completed == 6 && p.runs >= 2
    });
    let progress = progress.await;
    assert!(progress.failing.iter().all(|f| f.error_type == "Broken"));
    *fixed.lock() = true;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=80).collect::<Vec<_>>());
    assert!(report.progress.retries >= 2);
    replays(&env, handle.id(), "stuck-over-runs").await;
}

#[tokio::test]
async fn no_token_is_lost_under_a_stream_of_signals() {
    use temporalio_client::{UntypedSignal, UntypedWorkflow, WorkflowSignalOptions};
    use temporalio_common::data_converters::{PayloadConverter, RawValue};

    let env = TestEnv::new("can-signals").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .pages_per_run(4);
    let handle = env.start(&batch).await;
    let workflow = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(batch.id());
    // Tokens from another batch run must be dropped, even when they arrive at the end of a run.
    let foreign =
        serde_json::json!({"batch_run": "another", "stride": 0, "dispatch": 1, "starts": ["7"]});
    let noise = async {
        loop {
            let raw = RawValue::from_value(&foreign, &PayloadConverter::default());
            let signal = UntypedSignal::new("next_page");
            if workflow
                .signal(signal, raw, WorkflowSignalOptions::default())
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let (report, ()) = tokio::join!(report(&handle), noise);
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=200).collect::<Vec<_>>());
    assert_eq!(report.progress.pages_completed, 20);
    assert!(report.progress.runs >= 3);
    assert!(report.progress.announcements_dropped > 0);
}

/// Running activities do not outlive their run, but one long page must not stop the batch.
#[tokio::test]
async fn a_long_page_postpones_the_hand_over_while_other_pages_run() {
    let env = TestEnv::new("can-long").await;
    let (numbers, gate) = gated_where(|seen| seen.start == 0);
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 400 })
        .page_size(10)
        .pages_per_run(3)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    // The hand-over is due after three pages and waits for the first one.
    let record = numbers
        .shows("other pages are done", |r| r.done.len() >= 10)
        .await;
    assert!(record.done.iter().all(|seen| seen.start != 0));
    assert_eq!(handle.progress().await.unwrap().runs, 1);
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=400).collect::<Vec<_>>());
}

/// A codec that exists for as long as any part of its worker.
struct Mark(#[expect(dead_code, reason = "only counted")] Arc<()>);

impl PayloadCodec for Mark {
    fn encode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Box::pin(async { Ok(payloads) })
    }

    fn decode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Box::pin(async { Ok(payloads) })
    }
}

/// An activity that waits with the SDK's own token keeps its run in memory until the process ends.
#[tokio::test]
async fn runs_that_end_while_strides_are_at_work_are_freed() {
    let env = TestEnv::new("can-freed").await;
    let mark = Arc::new(());
    let marked = DataConverter::new(
        PayloadConverter::default(),
        DefaultFailureConverter::default(),
        Mark(Arc::clone(&mark)),
    );
    let options = ConnectOptions::new()
        .address(server_address())
        .disable_env(true)
        .disable_config_file(true)
        .data_converter(marked);
    let client = BatchClient::connect(&options).await.unwrap();
    let (numbers, gate) = gated();
    let worker = Worker::new(&client, &env.queue)
        .processor(numbers.skipping_ahead())
        .start()
        .unwrap();
    drop((options, client));
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "pages are at work", |p| p.pages_in_flight > 1).await;
    // The worker is dropped without waiting for its running pages.
    drop(worker);
    gate.open();
    eventually("nothing of the worker is left", || async {
        (Arc::strong_count(&mark) == 1).then_some(())
    })
    .await;
}
