//! The commands of `docs/observing.md`, run as they are written.

use temporal_batch::{PageError, PageReport, dev_server::find_or_fetch_cli};

use crate::{
    numbers_processor::{Gate, NumbersProcessor, UpTo},
    support::{TestEnv, eventually, progress_shows, report},
};

/// The lines of the document that begin with a prompt.
fn commands() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observing.md");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(ToOwned::to_owned).collect()
}

/// Runs a command of the document on this batch, as a shell does. Returns its output.
async fn run(command: &str, batch_id: &str, address: &str) -> String {
    let cli = find_or_fetch_cli().await.unwrap();
    let arguments = command.strip_prefix("temporal ").unwrap();
    let arguments = arguments.replace("my-batch", batch_id);
    let line = format!("exec '{}' {arguments} --address {address}", cli.display());
    let output = tokio::process::Command::new("sh")
        .args(["-c", &line])
        .output();
    let output = output.await.unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn each_command_shows_what_the_document_says() {
    let env = TestEnv::new("observing").await;
    let gate = Gate::closed();
    let held = gate.clone();
    let numbers = NumbersProcessor::new().skipping_ahead();
    let numbers = numbers.on_process(move |seen| {
        let gate = held.clone();
        async move {
            match (seen.start, seen.times) {
                (0, 1) => Err(PageError::retryable("the card is declined").with_type("Declined")),
                (20, _) => {
                    gate.pass().await;
                    Ok(PageReport::all_processed())
                }
                _ => Ok(PageReport::all_processed()),
            }
        }
    });
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "all pages but the held one are done", |p| {
        p.pages_completed == 2
    })
    .await;
    // The first heartbeat of the held page comes a moment after its beginning.
    let describe = "temporal workflow describe --workflow-id my-batch";
    eventually("the held page beats", || async {
        let shown = run(describe, handle.id(), &env.address).await;
        shown.contains("LastHeartbeatDetails").then_some(())
    })
    .await;
    let expected: [&[&str]; 5] = [
        &["temporal-batch.controller"],
        &[
            "stride-2",
            "Started",
            "LastHeartbeatTime",
            "LastHeartbeatDetails",
        ],
        &["\"pages_completed\":2", "\"failing\":"],
        &[
            "ActivityTaskScheduled",
            "next_page",
            "ActivityTaskCompleted",
        ],
        &[
            "heartbeatTimeout",
            "startToCloseTimeout",
            "retryPolicy",
            "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED",
        ],
    ];
    let commands = commands();
    assert_eq!(commands.len(), expected.len(), "{commands:#?}");
    for (command, words) in commands.iter().zip(expected) {
        let shown = run(command, handle.id(), &env.address).await;
        for word in words {
            assert!(
                shown.contains(word),
                "{word} is missing: {command}\n{shown}"
            );
        }
    }
    gate.open();
    report(&handle).await;
}
