//! Strides that outlive the run of the controller which dispatched them.

use std::time::Duration;

use futures::TryStreamExt as _;
use temporal_batch::{
    BatchHandle, BatchReport, Outcome,
    progress::{Phase, Progress},
};
use temporalio_client::{
    UntypedSignal, UntypedWorkflow, WorkflowListOptions, WorkflowSignalOptions,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    numbers_processor::{Gate, NumbersProcessor, Record, UpTo},
    replay::replays,
    support::{TestEnv, eventually, progress_shows, report},
};

const ROWS: u64 = 400;
/// The first row whose page waits at the second gate.
pub const LATE: u64 = 200;

/// Forty pages of ten rows, three at a time. The gates hold back the first page and those of the second half.
pub struct HandOver {
    pub env: TestEnv,
    pub numbers: NumbersProcessor,
    /// Holds the first page, and with it the hand-over.
    pub first: Gate,
    pub late: Gate,
}

impl HandOver {
    /// Asserts that every row was processed, some of them perhaps more than once.
    fn assert_all_done(&self, report: &BatchReport) {
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        assert_eq!(report.progress.pages_completed, ROWS / 10);
        assert_eq!(report.progress.items.processed, ROWS);
        let mut processed = self.numbers.record().processed();
        processed.dedup();
        assert_eq!(processed, rows());
    }

    pub async fn new(name: &str) -> Self {
        let (first, late) = (Gate::closed(), Gate::closed());
        let gates = (first.clone(), late.clone());
        let numbers = NumbersProcessor::new()
            .skipping_ahead()
            .on_process(move |seen| {
                let (first, late) = gates.clone();
                async move {
                    match seen.start {
                        0 => first.pass().await,
                        LATE.. => late.pass().await,
                        _ => {}
                    }
                    Ok(temporal_batch::PageReport::all_processed())
                }
            });
        Self {
            env: TestEnv::new(name).await,
            numbers,
            first,
            late,
        }
    }

    pub fn batch(&self) -> temporal_batch::Batch {
        self.env
            .batch::<NumbersProcessor>(UpTo { n: ROWS })
            .page_size(10)
            .pages_per_run(5)
            .max_parallelism(3)
    }

    /// Waits until the hand-over is held up by the first page only, and all else is on a bridge.
    pub async fn begins(&self, handle: &BatchHandle) -> Progress {
        let late_ones = |r: &Record| begun_late(r) == 2 && r.in_flight == 3;
        self.numbers
            .shows("every slot has a page, one of them the long one", late_ones)
            .await;
        let waits = |p: &Progress| p.pages_completed == LATE / 10 - 1 && p.pages_in_flight == 3;
        let progress = progress_shows(handle, "the slots are full", waits).await;
        assert_eq!(progress.runs, 1, "a run was handed over");
        progress
    }

    /// Waits until the batch was handed over with two strides on a bridge. Returns the starts of their pages.
    async fn is_over(&self, handle: &BatchHandle) -> Vec<u64> {
        self.begins(handle).await;
        let begun = self.numbers.record().begun;
        let late = begun.iter().map(|s| s.start).filter(|s| *s >= LATE);
        self.first.open();
        progress_shows(handle, "another run, with pages of the first", |p| {
            p.runs == 2 && p.pages_in_flight == 3
        })
        .await;
        let full = |r: &Record| begun_late(r) == 3;
        self.numbers.shows("the free slot has a page", full).await;
        late.collect()
    }

    /// The ids of the bridges of the batch.
    async fn bridges(&self) -> Vec<String> {
        let kind = "WorkflowType = 'temporal-batch.bridge'";
        let query = format!("{kind} AND TaskQueue = '{}'", self.env.queue);
        let client = self.env.client.temporal();
        eventually("a bridge is listed", || async {
            let listed = client.list_workflows(&query, WorkflowListOptions::default());
            let listed: Vec<_> = listed.try_collect().await.unwrap();
            let ids: Vec<_> = listed.iter().map(|w| w.id().to_owned()).collect();
            (!ids.is_empty()).then_some(ids)
        })
        .await
    }

    async fn terminate(&self, workflow: &str) {
        let client = self.env.client.temporal();
        let workflow = client.get_workflow_handle::<UntypedWorkflow>(workflow);
        workflow.terminate(Default::default()).await.unwrap();
    }

    fn each_page_began_once(&self) {
        let record = self.numbers.record();
        for page in 0..ROWS / 10 {
            assert_eq!(record.times_begun(page * 10), 1, "page {page}");
        }
    }
}

fn begun_late(record: &Record) -> usize {
    record.begun.iter().filter(|s| s.start >= LATE).count()
}

fn rows() -> Vec<u64> {
    (1..=ROWS).collect()
}

#[tokio::test]
async fn every_slot_stays_filled_over_a_hand_over_and_no_page_runs_twice() {
    let t = HandOver::new("bridge").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let batch = t.batch();
    let handle = t.env.start(&batch).await;
    t.is_over(&handle).await;
    assert_eq!(t.numbers.record().most_in_flight, 3);
    t.late.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(t.numbers.record().processed(), rows());
    assert_eq!(report.progress.pages_completed, ROWS / 10);
    assert_eq!(report.progress.retries, 0);
    assert!(report.progress.runs > 2, "{} runs", report.progress.runs);
    assert_eq!(t.numbers.record().most_in_flight, 3);
    t.each_page_began_once();
    replays(&t.env, handle.id(), "bridged").await;
    for bridge in t.bridges().await {
        // A bridge ends by itself.
        assert_eq!(replays(&t.env, &bridge, "bridge").await, 1);
    }
}

#[tokio::test]
async fn strides_of_a_bridge_that_is_terminated_run_again() {
    for (name, handed_over) in [("bridge-ended", false), ("bridge-ended-later", true)] {
        let t = HandOver::new(name).await;
        let _worker = t.env.worker(t.numbers.clone()).await;
        let handle = t.env.start(&t.batch()).await;
        if handed_over {
            t.is_over(&handle).await;
        } else {
            t.begins(&handle).await;
        }
        for bridge in t.bridges().await {
            t.terminate(&bridge).await;
        }
        let lost = |p: &Progress| p.retries >= 2;
        let progress = progress_shows(&handle, "the strides are lost", lost).await;
        assert_eq!(progress.pages_failed, 0);
        t.first.open();
        t.late.open();
        let report = report(&handle).await;
        t.assert_all_done(&report);
        replays(&t.env, handle.id(), name).await;
    }
}

#[tokio::test]
async fn duplicate_and_foreign_results_change_nothing() {
    let t = HandOver::new("bridge-twice").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let handle = t.env.start(&t.batch()).await;
    t.is_over(&handle).await;
    let batch_run = handle.progress().await.unwrap().batch_run;
    let client = t.env.client.temporal();
    let workflow = client.get_workflow_handle::<UntypedWorkflow>(handle.id());
    // Each result belongs to the first dispatch of its stride, which is the only one up to the hand-over.
    let results: Vec<_> = (0..ROWS / 10)
        .map(|stride| {
            let report = serde_json::json!({
                "pages": 1,
                "items": {"processed": 10, "skipped": 0, "failed": 0},
                "covered_to": ((stride + 1) * 10).to_string(),
                "end_of_data": false, "pages_failed": 0, "dead_letters": 0,
                "timing": {
                    "page_size": 10, "pages": 0, "items": 0, "busy_ms": 0, "full_pages": 0,
                    "full_busy_ms": 0, "full_slowest_ms": 0, "took_us": 0,
                },
            });
            serde_json::json!({"stride": stride, "dispatch": stride + 1, "report": report})
        })
        .collect();
    let bridge = t.bridges().await.remove(0);
    let finished = results[..usize::try_from(LATE / 10).unwrap()].to_vec();
    let forged = [
        // Results that the bridge has already sent.
        (batch_run.clone(), bridge.clone(), finished),
        (batch_run, "a-forgotten-bridge".to_owned(), results.clone()),
        ("another-run".to_owned(), bridge, results),
    ];
    for (batch_run, bridge, results) in forged {
        let news = serde_json::json!({
            "batch_run": batch_run, "owner": bridge, "results": results,
        });
        let raw = RawValue::from_value(&news, &PayloadConverter::default());
        let signal = UntypedSignal::new("stride_results");
        let options = WorkflowSignalOptions::default();
        workflow.signal(signal, raw, options).await.unwrap();
    }
    t.late.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.progress.items.processed, ROWS);
    assert_eq!(t.numbers.record().processed(), rows());
    t.each_page_began_once();
}

#[tokio::test]
async fn cancelling_ends_strides_on_a_bridge_and_waits_for_their_pages() {
    let t = HandOver::new("bridge-cancel").await;
    // The worker has two slots, so that one stride finds no worker.
    let two = |worker: temporal_batch::Worker| worker.max_pages(2);
    let _worker = t.env.worker_with(t.numbers.clone(), two).await;
    let handle = t.env.start(&t.batch()).await;
    let waits = |r: &Record| begun_late(r) == 1 && r.in_flight == 2;
    let record = t
        .numbers
        .shows("both pages of the worker wait", waits)
        .await;
    let begun = record.begun.len();
    let done = u64::try_from(record.done.len()).unwrap();
    progress_shows(&handle, "three are dispatched", |p| {
        p.pages_in_flight == 3 && p.pages_completed == done
    })
    .await;
    handle.cancel("lunch").await.unwrap();
    progress_shows(&handle, "the waiting stride is returned", |p| {
        p.phase == Phase::Cancelling && p.pages_in_flight == 2
    })
    .await;
    t.first.open();
    t.late.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled, "{report:#?}");
    assert_eq!(report.progress.pages_completed, done + 2);
    let record = t.numbers.record();
    assert_eq!(record.begun.len(), begun, "more pages were begun");
    assert_eq!(record.in_flight, 0);
}

#[tokio::test]
async fn strides_on_a_bridge_end_after_their_page_when_their_batch_is_terminated() {
    let t = HandOver::new("bridge-terminate").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    // Of the eight strides the first is held up, three are done, and two wait at their first page.
    let handle = t.env.start(&t.batch().stride(5)).await;
    let waits = |r: &Record| begun_late(r) == 2 && r.in_flight == 3;
    t.numbers
        .shows("two strides are on the bridge", waits)
        .await;
    let bridge = t.bridges().await.remove(0);
    t.terminate(handle.id()).await;
    t.first.open();
    let pages = async {
        loop {
            t.late.let_through(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    // The bridge waits for its strides, and ends although its batch is gone.
    tokio::select! {
        histories = t.env.histories(&bridge) => assert_eq!(histories.len(), 1),
        () = pages => unreachable!("the gate opens forever"),
    }
    let record = t.numbers.record();
    assert_eq!(record.in_flight, 0);
    let begun = begun_late(&record);
    assert!(
        begun < 10,
        "{begun} pages were begun of two strides of five"
    );
}

#[tokio::test]
async fn a_pause_reaches_strides_on_a_bridge() {
    let t = HandOver::new("bridge-pause").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let handle = t.env.start(&t.batch()).await;
    t.is_over(&handle).await;
    handle.pause("lunch").await.unwrap();
    progress_shows(&handle, "the batch is pausing", |p| {
        p.phase == Phase::Pausing && p.pages_in_flight == 3
    })
    .await;
    t.late.open();
    progress_shows(&handle, "the batch is paused", |p| p.phase == Phase::Paused).await;
    handle.resume().await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    assert_eq!(t.numbers.record().processed(), rows());
    t.each_page_began_once();
}

/// Strides that were on a bridge before the point of the reset are still waited for, and do not run again.
#[tokio::test]
async fn a_recovered_run_waits_for_the_strides_that_it_was_handed() {
    let t = HandOver::new("bridge-recover").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let handle = t.env.start(&t.batch()).await;
    let handed_over = t.is_over(&handle).await;
    handle.recover("to see what happens").await.unwrap();
    progress_shows(&handle, "the batch is again where the run began", |p| {
        p.runs == 2 && p.pages_in_flight == 3
    })
    .await;
    t.late.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.progress.pages_completed, ROWS / 10);
    let record = t.numbers.record();
    assert_eq!(handed_over.len(), 2);
    for page in handed_over {
        assert_eq!(record.times_begun(page), 1, "{page}");
    }
    let mut processed = record.processed();
    processed.dedup();
    assert_eq!(processed, rows());
}

/// A bridge that began after the point of the reset is forgotten: its strides end, and their results are ignored.
#[tokio::test]
async fn a_recovered_run_forgets_the_bridges_that_it_began() {
    let t = HandOver::new("bridge-forget").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let handle = t.env.start(&t.batch()).await;
    t.begins(&handle).await;
    let forgotten = t.bridges().await.remove(0);
    handle.recover("to see what happens").await.unwrap();
    t.first.open();
    t.late.open();
    let report = report(&handle).await;
    t.assert_all_done(&report);
    assert_eq!(t.env.histories(&forgotten).await.len(), 1, "one run");
}
