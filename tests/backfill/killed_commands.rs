//! A command that is killed and repeated while other clients query its batch.
//!
//! As a test the command is killed eight times. The long form is:
//!
//! ```console
//! $ FAULTS_KILLS=50 FAULTS_SEED=7 cargo test --test backfill -- killed --nocapture
//! ```

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use temporal_batch::BatchClient;
use temporalio_client::{UntypedQuery, UntypedWorkflow, WorkflowQueryOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use tokio::task::JoinSet;

use crate::{
    command::{backfill, exits, id},
    database::{self, Home},
    support::{self, command::start, server_address, settings::setting},
};

/// The kills before a batch is left to complete.
const KILLS_PER_BATCH: u32 = 4;
const ROWS: u32 = 10_000;
/// The number of clients that send queries at the same time.
const INQUIRERS: u32 = 3;
/// Queries of this library, of Temporal, and an unknown one.
const QUERIES: [&str; 5] = [
    "progress",
    "accepted_end",
    "__stack_trace",
    "__temporal_workflow_metadata",
    "what time is it",
];

async fn connect() -> BatchClient {
    let address = tokio::task::spawn_blocking(server_address);
    support::connect(address.await.unwrap()).await
}

/// Sends queries all the time, whether they are answered or not.
async fn ask(client: BatchClient, batch: String, answers: Arc<AtomicU32>) {
    let temporal = client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(&*batch);
    for query in QUERIES.iter().cycle() {
        let input = match *query {
            "accepted_end" => {
                let input = serde_json::json!({ "batch_run": "mine", "stride": 0 });
                RawValue::from_value(&input, &PayloadConverter::default())
            }
            _ => RawValue::new(Vec::new()),
        };
        let query = UntypedQuery::new(*query);
        let answer = workflow.query(query, input, WorkflowQueryOptions::default());
        // Without a worker, a query waits for longer than the pauses between workers.
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(3), answer).await {
            answers.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn command(home: &Home, batch: &str) -> Command {
    let mut command = backfill(home, &["--set", "x = x + 1", "--once"]);
    // There are many workflow tasks, so that a kill comes in the middle of one.
    let pace = "--page-size 25 --stride 1 --max-parallelism 8 --rate 2500";
    command.args(["--batch-id", batch]).args(pace.split(' '));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_and_repeated_completes_whatever_is_queried() {
    let kills: u32 = setting("FAULTS_KILLS", 8);
    let seed: u64 = setting("FAULTS_SEED", fastrand::u64(..1_000_000));
    let Some(home) = database::postgres("killed-and-asked").await else {
        return;
    };
    println!("{kills} kills, seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    home.numbers(ROWS).await;
    home.ledger_tables().await;
    let client = connect().await;
    let answers = Arc::new(AtomicU32::new(0));
    let (mut killed, mut batches) = (0, 0);
    while killed < kills {
        batches += 1;
        let batch = id();
        let mut inquirers = JoinSet::new();
        for _ in 0..INQUIRERS {
            inquirers.spawn(ask(connect().await, batch.clone(), Arc::clone(&answers)));
        }
        for _ in 0..KILLS_PER_BATCH.min(kills - killed) {
            let mut running = start(command(&home, &batch));
            let life = Duration::from_millis(random.u64(300..4_000));
            tokio::time::sleep(life).await;
            running.kill();
            killed += 1;
        }
        let last = Instant::now();
        let ended = tokio::task::block_in_place(|| start(command(&home, &batch)).ended());
        exits(&ended, 0);
        let wrong = format!("SELECT count(*) FROM t WHERE x <> {batches}");
        assert_eq!(home.number(&wrong).await, 0, "batch {batches}: {ended:#?}");
        let report = client.handle(&batch).unwrap().result().await.unwrap();
        let audit = report.progress.audit;
        println!(
            "batch {batches}: {killed} kills so far, ended {:?} after the last, {} recoveries, {} answers so far",
            last.elapsed(),
            audit.iter().filter(|e| e.action == "recover").count(),
            answers.load(Ordering::Relaxed),
        );
    }
    assert!(answers.load(Ordering::Relaxed) > 0, "no query was answered");
}
