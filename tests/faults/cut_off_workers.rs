//! A worker that Temporal has given up, but that is still running: it is cut off from the server, and not from its
//! database. Another worker has its stride meanwhile.

use sqlx::{MySql, Postgres, Sqlite};
use temporal_batch::{Batch, BatchHandle, Outcome, RunningWorker, Worker, metrics::Metrics};
use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions};

use crate::{
    held_pages::{Hold, Home, Late, LateDatabase, PAGE, Place, ROWS},
    support::{TestEnv, connect, eventually, report, server_address, servers::Proxy, within},
};

/// The page in the middle of its stride that begins after this row is held.
const HELD_AFTER: i64 = 20;

/// A batch whose only worker has lost the server in the middle of a page, and was given up by the server.
struct CutOff<DB: LateDatabase> {
    home: Home<DB>,
    env: TestEnv,
    handle: BatchHandle,
    zombie: RunningWorker,
    hold: Hold,
    metrics: Metrics,
    proxy: Proxy,
}

impl<DB: LateDatabase> CutOff<DB> {
    async fn begin(name: &str, place: Place) -> Option<Self> {
        let home = DB::home(name).await?;
        let env = TestEnv::new(name).await;
        let proxy = Proxy::before(server_address());
        let client = connect(&proxy.address()).await;
        let metrics = Metrics::new();
        let hold = Hold::at(place, HELD_AFTER);
        let zombie = Worker::new(&client, &env.queue)
            .processor(Late::new(&home, "zombie", &hold))
            .metrics(metrics.clone())
            .start()
            .unwrap();
        let batch = Batch::of::<Late<DB>>(env.new_id(), ()).task_queue(&env.queue);
        let batch = batch.page_size(PAGE).stride(6).max_parallelism(1);
        let handle = env.start(&batch).await;
        within("the page is held", hold.is_held()).await;
        proxy.refuse();
        let case = Self {
            home,
            env,
            handle,
            zombie,
            hold,
            metrics,
            proxy,
        };
        case.is_noticed().await;
        Some(case)
    }

    /// Waits until Temporal is ready to give the stride to another worker.
    async fn is_noticed(&self) {
        let temporal = self.env.client.temporal();
        let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(self.handle.id());
        eventually("the worker is given up", || async {
            let description = workflow.describe(WorkflowDescribeOptions::default()).await;
            let description = description.unwrap();
            let pending = &description.raw().pending_activities;
            pending.iter().any(|p| p.attempt == 2).then_some(())
        })
        .await;
    }

    async fn second_worker(&self, hold: &Hold) -> RunningWorker {
        self.env.worker(Late::new(&self.home, "second", hold)).await
    }

    /// The number of claims of pages by the cut-off worker with this outcome.
    fn claims(&self, outcome: &str) -> u64 {
        let name = format!(
            "temporal_batch_ledger_claims_total{{outcome=\"{outcome}\",processor=\"late\"}} "
        );
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits for the end of the batch, and asserts that every row was changed once.
    async fn ends(&self) {
        let report = report(&self.handle).await;
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        assert_eq!(report.progress.items.processed, ROWS.unsigned_abs());
        assert_eq!(self.home.count("x <> 1").await, 0);
    }

    /// Reconnects the cut-off worker to the server. It has no work left.
    async fn reconnect(self) {
        self.proxy.pass();
        within("the worker stops", self.zombie.stop())
            .await
            .unwrap();
        assert_eq!(self.home.count("x <> 1").await, 0);
    }
}

/// The other attempt has begun, but has applied nothing yet, so the position of the stride is the same for both.
async fn a_late_attempt_is_fenced_off<DB: LateDatabase>(name: &str) {
    let Some(case) = CutOff::<DB>::begin(name, Place::Fetch).await else {
        return;
    };
    let second = Hold::at(Place::Fetch, HELD_AFTER);
    let worker = case.second_worker(&second).await;
    within("the second attempt is at the page", second.is_held()).await;
    let committed = case.claims("committed");
    case.hold.let_go();
    eventually("the late attempt has claimed its page", || async {
        let came = case.claims("fenced") > 0 || case.claims("committed") > committed;
        came.then_some(())
    })
    .await;
    assert_eq!(case.claims("fenced"), 1, "not fenced off");
    assert_eq!(case.claims("committed"), committed);
    assert_eq!(case.home.count("id > 20 AND x <> 0").await, 0);
    second.let_go();
    case.ends().await;
    assert_eq!(case.home.count("id > 20 AND worker = 'zombie'").await, 0);
    case.reconnect().await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_is_fenced_off_in_postgresql() {
    a_late_attempt_is_fenced_off::<Postgres>("fenced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_is_fenced_off_in_mariadb() {
    a_late_attempt_is_fenced_off::<MySql>("fenced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_is_fenced_off_in_sqlite() {
    a_late_attempt_is_fenced_off::<Sqlite>("fenced").await;
}

/// The second attempt has not begun meanwhile: the pages that the late attempt commits count, and are not done again.
async fn an_attempt_after_a_late_one_continues_where_that_ended<DB: LateDatabase>(name: &str) {
    let Some(case) = CutOff::<DB>::begin(name, Place::Transaction).await else {
        return;
    };
    assert_eq!(case.home.count("id > 20 AND x <> 0").await, 0, "too early");
    case.hold.let_go();
    // This is the last stride, and no signal can end its attempt early.
    eventually("the late attempt has committed", || async {
        (case.home.count("x = 0").await == 0).then_some(())
    })
    .await;
    let nowhere = Hold::at(Place::Fetch, -1);
    let worker = case.second_worker(&nowhere).await;
    case.ends().await;
    assert_eq!(case.home.count("worker <> 'zombie'").await, 0);
    case.reconnect().await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_after_a_late_one_continues_where_that_ended_in_postgresql() {
    an_attempt_after_a_late_one_continues_where_that_ended::<Postgres>("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_after_a_late_one_continues_where_that_ended_in_mariadb() {
    an_attempt_after_a_late_one_continues_where_that_ended::<MySql>("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_after_a_late_one_continues_where_that_ended_in_sqlite() {
    an_attempt_after_a_late_one_continues_where_that_ended::<Sqlite>("late").await;
}
