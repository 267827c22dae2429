//! No request is lost or doubled over continue-as-new and lost workers.

use std::time::Duration;

use temporal_batch::BatchClient;
use temporal_batch_batcher::{BatcherWorker, SqlWriter, Stats};

use crate::{
    database::{self, Rows},
    sink::Sink,
    support::{connect, eventually, server_address, worker_process::WorkerProcess},
    town::{Town, requests},
};

/// The number of requests of the fault run. `BATCHER_REQUESTS=10000` is the long form.
fn fault_requests() -> usize {
    let given = std::env::var("BATCHER_REQUESTS").ok();
    given.map_or(1_000, |given| given.parse().unwrap())
}

#[tokio::test]
async fn no_request_is_lost_or_doubled_over_many_runs() {
    let town = Town::new("runs").await.with(|b| {
        b.max_batch(20)
            .hand_over_after(50)
            .max_wait(Duration::from_millis(300))
    });
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    // Each signal has few requests, so that many of them come while a run ends. Each group ends a run at least.
    let client = town.client();
    for (group, from) in (0..600).step_by(75).enumerate() {
        for i in (from..from + 75).step_by(5) {
            client.submit_all(requests(i, i + 5)).await.unwrap();
        }
        let ends = |stats: &Stats| stats.runs > group as u64 + 1;
        town.stats_show("the group has ended a run", ends).await;
    }
    town.stats_show("all requests are written", |stats| stats.written == 600)
        .await;
    let stats = town.shut_down().await;
    let written = sink.written();
    assert_eq!(written.len(), 600);
    assert!(written.values().all(|times| *times == 1), "{written:?}");
    assert_eq!((stats.received, stats.duplicates), (600, 0));
    assert!(stats.runs > 8, "{stats:?}");
    let id = town.batcher.workflow_id(0);
    let runs = crate::replay::replays(&town.env, &id, "runs").await;
    assert_eq!(runs as u64, stats.runs);
}

/// A run that ended with a write under way would have it repeated, and this sink has no ledger.
#[tokio::test]
async fn a_run_waits_for_its_writes_before_it_hands_over() {
    let town = Town::new("drain")
        .await
        .with(|b| b.max_batch(5).hand_over_after(10).max_writes(1));
    let sink = Sink::closed();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 5)).await;
    town.stats_show("a batch is being written", |stats| stats.writing == 5)
        .await;
    town.submit(requests(5, 12)).await;
    let stats = town
        .stats_show("all have come", |stats| stats.received == 12)
        .await;
    assert_eq!(
        (stats.runs, stats.writing, stats.pending),
        (1, 5, 7),
        "{stats:?}"
    );
    sink.let_through(100);
    town.stats_show("the next run has begun", |stats| stats.runs == 2)
        .await;
    let stats = town.shut_down().await;
    assert_eq!(stats.written, 12);
    assert_eq!(sink.calls().len(), 3, "{:?}", sink.calls());
}

const WORKER_OF: &str = "BATCHER_TEST_WORKER";

/// Runs as a worker process for [`killed_workers_and_many_runs_write_each_request_once`].
#[tokio::test(flavor = "multi_thread")]
async fn worker_process() {
    let Ok(given) = std::env::var(WORKER_OF) else {
        return;
    };
    let [address, queue, url]: [&str; 3] =
        given.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let client: BatchClient = connect(address).await;
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let mut worker = BatcherWorker::new(&client, queue)
        .writer(SqlWriter::new(pool, Rows))
        .start()
        .unwrap();
    worker.ended().await.unwrap();
}

fn start_worker(queue: &str, url: &str) -> WorkerProcess {
    let given = [server_address(), queue, url].join("\n");
    WorkerProcess::of_test("hand_over::worker_process", &[(WORKER_OF, given.as_ref())])
}

/// The fault run: workers are killed with their writes under way, and runs end all the time.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_and_many_runs_write_each_request_once() {
    let test = "killed_workers_and_many_runs";
    let Some(home) = database::postgres(test).await else {
        return;
    };
    let pool = home.postgres();
    SqlWriter::new(pool, Rows).apply_schema().await.unwrap();
    let count = fault_requests();
    let town = Town::writing("killed", "rows").await.with(|b| {
        b.max_wait(Duration::from_millis(500))
            .hand_over_after(500)
            .max_pending(count as u32 + 100)
            .max_pending_bytes(1_200_000)
    });
    let url = home.url().to_owned();
    let client = town.client();
    let feeding = async {
        for i in (0..count).step_by(10) {
            // Few requests wait at a time, so that no worker can write the rest before it is killed.
            if i % 100 == 0 {
                eventually("earlier requests are written", || async {
                    (home.rows().await.len() + 200 > i).then_some(())
                })
                .await;
            }
            client.submit_all(requests(i, i + 10)).await.unwrap();
        }
    };
    let killing = async {
        let mut killed = 0;
        let mut seen = 0;
        loop {
            let worker = start_worker(&town.env.queue, &url);
            // Killed after it has written something.
            let rows = eventually("a worker writes", || async {
                let rows = home.rows().await.len();
                (rows > seen + count / 10 || rows == count).then_some(rows)
            })
            .await;
            seen = rows;
            if seen == count {
                return (worker, killed);
            }
            drop(worker);
            killed += 1;
        }
    };
    let ((), (_worker, killed)) = futures::join!(feeding, killing);
    assert!(killed >= 3, "{killed} workers were killed");
    let stats = town
        .stats_show("all requests have ended", |stats| {
            stats.written + stats.already_done == count as u64
        })
        .await;
    let ids: Vec<_> = requests(0, count).into_iter().map(|r| r.id).collect();
    assert_eq!(home.rows().await, ids);
    assert!(stats.runs > 1, "{stats:?}");
    println!("{count} requests, {killed} workers killed: {stats:?}");
    town.shut_down().await;
}

#[tokio::test]
async fn requesters_are_confirmed_over_many_runs() {
    let town = Town::new("confirmed").await.with(|b| {
        b.max_batch(5)
            .hand_over_after(7)
            .max_wait(Duration::from_millis(300))
    });
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let requesters = town.requesters().await;
    for from in (0..40).step_by(10) {
        let mut requesting = Vec::new();
        for request in requests(from, from + 10) {
            let started = requesters.request(&town.batcher, request, Duration::from_secs(150));
            requesting.push(started.await);
        }
        for requesting in &requesting {
            let answer = crate::requesters::answer(requesting).await;
            assert_eq!(answer, "prepared, written, finished");
        }
    }
    let stats = town.shut_down().await;
    assert_eq!(stats.confirmed, 40);
    assert!(stats.runs > 3, "{stats:?}");
    let twice = sink.written().values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0);
}
