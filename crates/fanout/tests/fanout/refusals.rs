//! What is refused before anything is started, and workers that lack something.

use std::time::Duration;

use temporal_batch::BatchClient;
use temporal_batch_fanout::{
    Fanout, FanoutWorker, ItemProcessor, ItemSettings, LIST_BYTES, OnFailure, Retry, Tolerate,
    WorkerError,
};

use crate::{
    jobs::{Act, Job, Work, fanout, job, jobs, report, start, worker, worker_on},
    support::{TestEnv, eventually},
};

fn message(fanout: &Fanout) -> String {
    fanout.validate().unwrap_err().to_string()
}

fn of(items: Vec<Job>) -> Fanout {
    Fanout::over::<Work>("f", items)
}

#[test]
fn settings_out_of_range_are_refused_with_what_is_allowed() {
    let some = || of(jobs(1));
    assert!(some().validate().is_ok());
    assert_eq!(
        message(&some().window(0)),
        "window is 0; it must be from 1 to 1000"
    );
    assert!(message(&some().window(1_001)).contains("1001"));
    assert_eq!(
        message(&some().page_size(0)),
        "page size is 0; it must be from 1 to 1000"
    );
    assert!(message(&some().events_per_run(99)).contains("100 to 20000"));
    assert!(message(&some().task_queue("")).contains("task queue"));
    assert!(message(&some().child_task_queue("")).contains("children"));
    assert!(message(&some().child_workflow("")).contains("workflow type"));
    for percent in [-1.0, 100.1, f64::NAN] {
        let tolerate = Tolerate::Percent(percent);
        let fanout = some().on_failure(OnFailure::CollectAll { tolerate });
        assert!(message(&fanout).contains("from 0 to 100"), "{percent}");
    }
    let with = |change: fn(&mut ItemSettings)| {
        let mut settings = Work::settings();
        change(&mut settings);
        message(&some().settings(settings))
    };
    assert!(with(|s| s.retry.max_attempts = 0).contains("from 1 to 1000"));
    assert!(with(|s| s.retry.backoff = 0.5).contains("from 1.0 to 100.0"));
    assert!(with(|s| s.retry.initial_interval = Duration::ZERO).contains("1 ms"));
    assert!(
        with(|s| s.retry = Retry {
            max_interval: Duration::from_secs(90_000),
            ..Retry::default()
        })
        .contains("24 h")
    );
    assert!(with(|s| s.attempt_timeout = Duration::ZERO).contains("attempt timeout"));
    assert!(with(|s| s.heartbeat_timeout = Duration::ZERO).contains("heartbeat timeout"));
    assert!(with(|s| s.execution_timeout = Some(Duration::ZERO)).contains("execution timeout"));
}

#[test]
fn ids_and_lists_that_cannot_be_kept_are_refused() {
    let one = |id: &str| of(vec![job(id, Act::Finish)]);
    assert!(message(&one("")).contains("position 0"));
    assert!(message(&one(&"x".repeat(201))).contains("1 to 200"));
    assert!(message(&one(&"界".repeat(67))).contains("201 bytes"));
    assert!(one(&"界".repeat(66)).validate().is_ok());
    assert!(message(&one("a\nb")).contains("control character"));
    assert!(one("ä/b c").validate().is_ok());
    assert!(message(&Fanout::over::<Work>("", jobs(1))).contains("is not allowed"));
    let many = (0..60_000).map(|n| job(format!("{n}"), Act::Finish));
    let refused = message(&of(many.collect()));
    assert!(refused.contains(&LIST_BYTES.to_string()), "{refused}");
    assert!(refused.contains("over_pages"), "{refused}");
}

#[tokio::test]
async fn a_worker_without_a_processor_or_with_one_twice_does_not_start() {
    let env = TestEnv::new("refusals").await;
    let start = |worker: FanoutWorker| worker.start().err().map(|error| error.to_string());
    let client: &BatchClient = &env.client;
    let none = start(FanoutWorker::new(client, &env.queue));
    assert_eq!(none.unwrap(), WorkerError::NoProcessor.to_string());
    let twice = worker(client, &env.queue, &Work::new()).processor(Work::new());
    assert_eq!(start(twice).unwrap(), "\"work\" is registered twice");
    let none_at_once = worker(client, &env.queue, &Work::new()).max_items(0);
    assert!(start(none_at_once).unwrap().contains("from 1 to 10000"));
}

/// The worker has another processor, so the item waits for one that has it.
#[tokio::test]
async fn an_item_waits_for_a_worker_that_has_its_processor() {
    struct Other;

    #[temporal_batch::async_trait]
    impl ItemProcessor for Other {
        const NAME: &'static str = "other";
        type Item = u8;
        type Output = u8;

        fn id(item: &u8) -> String {
            item.to_string()
        }

        async fn process(
            &self,
            _ctx: &temporal_batch_fanout::ItemContext,
            item: u8,
        ) -> Result<u8, temporal_batch::PageError> {
            Ok(item)
        }
    }

    let env = TestEnv::new("refusals").await;
    let client = crate::support::connect(crate::support::server_address()).await;
    let lacking = FanoutWorker::new(&client, &env.queue).processor(Other);
    let lacking = lacking.start().unwrap();
    let handle = start(&env, &fanout(&env, jobs(1))).await;
    let failure = eventually("the item says what it lacks", || async {
        handle.item_status("ITEM-001").await.ok()?.last_failure
    })
    .await;
    assert_eq!(failure.error_type, "UnknownProcessor");
    assert!(failure.message.contains("it has: other"), "{failure:?}");
    lacking.stop().await.unwrap();
    let _worker = worker_on(&env.queue, &Work::new()).await;
    assert_eq!(report(&handle).await.progress.failed, 0);
}
