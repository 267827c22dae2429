//! Workers that are told to stop while a page ignores its cancellation.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use temporal_batch::{Outcome, PageReport, cli::App, errors::WorkerError};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::{TestEnv, eventually, report, within},
};

/// A processor whose first page hangs at its first attempt.
fn deaf() -> NumbersProcessor {
    NumbersProcessor::new()
        .settings(|s| s.heartbeat_timeout = Duration::from_secs(2))
        .on_process(|seen| async move {
            if seen.start == 0 && seen.times == 1 {
                std::future::pending::<()>().await;
            }
            Ok(PageReport::all_processed())
        })
}

#[tokio::test]
async fn a_page_that_does_not_listen_is_abandoned_and_done_by_another_worker() {
    let env = TestEnv::new("deaf").await;
    let numbers = deaf();
    let worker = env
        .worker_with(numbers.clone(), |worker| {
            worker.drain_timeout(Duration::from_millis(100))
        })
        .await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10);
    let handle = env.start(&batch).await;
    numbers
        .shows("the other pages are done", |r| {
            r.done.len() == 2 && r.in_flight == 1
        })
        .await;
    let error = within("the worker gives up", worker.stop())
        .await
        .unwrap_err();
    assert!(
        matches!(error, WorkerError::Abandoned { pages: 1, .. }),
        "{error}"
    );
    numbers
        .shows("the page is dropped", |r| r.in_flight == 0)
        .await;
    let _worker = env.worker(numbers.clone()).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.items.processed, 30);
    assert_eq!(numbers.record().times_begun(0), 2);
}

/// The worker process of this test is the test binary itself, started again with this test alone.
const SELF: &str =
    "abandoned_pages::a_worker_process_ends_with_the_number_of_pages_that_it_abandoned";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_process_ends_with_the_number_of_pages_that_it_abandoned() {
    if let (Ok(address), Ok(queue)) = (std::env::var("DEAF_ADDRESS"), std::env::var("DEAF_QUEUE")) {
        let app =
            App::new("deaf").processor(|| async { Ok::<_, std::convert::Infallible>(deaf()) });
        let args = [
            "deaf",
            "worker",
            "--address",
            &address,
            "--task-queue",
            &queue,
            "--drain-timeout",
            "100ms",
        ];
        let args = args.map(str::to_owned);
        let exit = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let exit = runtime.block_on(app.run_from(args));
            runtime.shutdown_background();
            exit
        });
        let failed = format!("{:?}", exit.join().unwrap())
            == format!("{:?}", std::process::ExitCode::FAILURE);
        std::process::exit(i32::from(failed));
    }
    let env = TestEnv::new("deaf-process").await;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", SELF, "--nocapture"])
        .env("DEAF_ADDRESS", crate::support::server_address())
        .env("DEAF_QUEUE", &env.queue)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10);
    let handle = env.start(&batch).await;
    eventually("only the hanging page is left", || async {
        let progress = handle.progress().await.ok()?;
        (progress.pages_completed == 2 && progress.pages_in_flight == 1).then_some(())
    })
    .await;
    let pid = child.id().to_string();
    let kill = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(kill.unwrap().success());
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = within("the process ends", ended).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: 1 page was abandoned"), "{text}");
    handle.cancel("enough").await.unwrap();
}
