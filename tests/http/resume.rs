//! A page whose worker is lost continues at the item that the last heartbeat named.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, Worker,
};

use crate::support::{TestEnv, connect, eventually, number_pages, report};

const ITEMS: u64 = 40;
/// The item at which the first attempt waits to be killed.
const WAITS_AT: u64 = 25;
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
const WORKER_PROCESS: &str = "resume::worker_process";

/// Notes each item in a file, which outlives the process.
struct Note {
    file: PathBuf,
    waits: bool,
}

impl Note {
    fn write(&self, line: &str) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

#[async_trait]
impl PageProcessor for Note {
    const NAME: &'static str = "note-items";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(number_pages::numbers_of(ctx, ITEMS), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.write(&format!("resume from {}", ctx.resume_from()));
        for (position, item) in items.into_iter().enumerate().skip(ctx.resume_from()) {
            if self.waits && item == WAITS_AT {
                // The test kills the process once a heartbeat has told of the items before.
                std::future::pending::<()>().await;
            }
            self.write(&format!("item {item}"));
            ctx.items_done(position + 1);
        }
        Ok(PageReport::all_processed())
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            ..ProcessorSettings::default()
        }
    }
}

/// The process of the first worker; it does nothing in a normal run of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn worker_process() {
    let Ok(file) = std::env::var("NOTE_FILE") else {
        return;
    };
    let client = connect(&std::env::var("NOTE_ADDRESS").unwrap()).await;
    let note = Note {
        file: file.into(),
        waits: true,
    };
    let queue = std::env::var("NOTE_QUEUE").unwrap();
    Worker::new(&client, queue)
        .processor(note)
        .run()
        .await
        .unwrap();
}

/// Ends the process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_item_before_the_mark_runs_twice() {
    let env = TestEnv::new("http-resume").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    let first = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", WORKER_PROCESS])
        .env("NOTE_FILE", &file)
        .env("NOTE_ADDRESS", crate::support::server_address())
        .env("NOTE_QUEUE", &env.queue)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut first = Process(first.unwrap());
    let batch = env.batch::<Note>(()).page_size(ITEMS as u32);
    let handle = env.start(&batch).await;
    let done = WAITS_AT - 1;
    let heartbeat = eventually("a heartbeat shows i of n", || async {
        let details = heartbeats(&env, batch.id()).await;
        let shown = format!("\"items\":{{\"done\":{done},\"of\":{ITEMS}}}");
        details.contains(&shown).then_some(details)
    });
    heartbeat.await;
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let second = Note {
        file: file.clone(),
        waits: false,
    };
    let worker = env.worker(second).await;
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    assert_eq!(ended.progress.items.processed, ITEMS);
    let notes = std::fs::read_to_string(&file).unwrap();
    assert!(notes.contains(&format!("resume from {done}\n")), "{notes}");
    for item in 1..=ITEMS {
        let times = notes
            .lines()
            .filter(|line| *line == format!("item {item}"))
            .count();
        assert_eq!(times, 1, "item {item}: {notes}");
    }
    worker.stop().await.unwrap();
}

/// The details of the last heartbeats of the batch's activities, as a user of Temporal sees them.
async fn heartbeats(env: &TestEnv, batch_id: &str) -> String {
    use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions, WorkflowHandle};
    let client = env.client.temporal();
    let handle: WorkflowHandle<_, UntypedWorkflow> =
        client.get_workflow_handle(batch_id.to_owned());
    let described = handle
        .describe(WorkflowDescribeOptions::default())
        .await
        .unwrap();
    let pending = described.raw().pending_activities.iter();
    let payloads = pending.flat_map(|activity| activity.heartbeat_details.iter());
    let texts = payloads.flat_map(|details| &details.payloads);
    texts
        .map(|payload| String::from_utf8_lossy(&payload.data).into_owned())
        .collect()
}
