//! Final reports, and the rows that may be deleted after them.

use temporal_batch::{
    BatchReport, Outcome, Timestamp,
    store::{DeadLetters, PageLedger, StrideId},
};

use crate::{
    database::{Home, TestDatabase, token},
    support::databases::on_each,
};

on_each! {
    reports_are_listed_latest_first,
    a_report_kept_again_replaces_the_first,
    strides_of_batch_runs_that_ended_long_ago_can_be_pruned,
    strides_of_a_batch_that_may_be_continued_are_kept,
    many_strides_of_many_batch_runs_can_be_pruned,
}

/// A report as Temporal stores it. Fields of later versions have defaults.
pub fn report(batch_run: &str, ended_at: u64) -> BatchReport {
    let report = serde_json::json!({
        "outcome": "completed_with_failures",
        "progress": {
            "batch_id": "batch", "batch_run": batch_run, "processor": "hash-emails", "phase": "ended",
            "pages_completed": 10, "pages_failed": 1, "pages_in_flight": 0, "pages_stuck": 0,
            "strides_waiting": 0, "retries": 3,
            "items": {"processed": 100, "changed": 50, "skipped": 1, "failed": 2},
            "items_expected": 103, "max_parallelism": 4, "max_parallelism_achieved": 4, "rate": 0.1,
            "low_water_mark": token(9), "end_of_data": true, "started_at": 1, "as_of": ended_at,
            "runs": 1, "announcements_dropped": 0
        },
        "ended_at": ended_at
    });
    serde_json::from_value(report).unwrap()
}

async fn reports_are_listed_latest_first<D: TestDatabase>(home: Home<D>) {
    let (first, second) = (report("run-z", 10), report("run-a", 20));
    let mut other = report("run-o", 15);
    other.progress.batch_id = "another".to_owned();
    for report in [&first, &second, &other] {
        home.ledger.keep_report(report).await.unwrap();
    }
    let found = home.ledger.reports("batch").await.unwrap();
    assert_eq!(found, [second, first]);
    assert_eq!(home.ledger.reports("nobody's").await.unwrap(), []);
}

async fn a_report_kept_again_replaces_the_first<D: TestDatabase>(home: Home<D>) {
    home.ledger.keep_report(&report("run-1", 10)).await.unwrap();
    let mut again = report("run-1", 11);
    again.outcome = Outcome::Cancelled;
    again.reason = Some("cancelled".to_owned());
    home.ledger.keep_report(&again).await.unwrap();
    assert_eq!(home.ledger.reports("batch").await.unwrap(), [again]);
}

async fn strides_of_batch_runs_that_ended_long_ago_can_be_pruned<D: TestDatabase>(home: Home<D>) {
    for batch_run in ["old", "recent", "running"] {
        for stride in [0, 1] {
            let id = StrideId {
                batch_run: batch_run.to_owned(),
                batch_id: "batch".to_owned(),
                stride,
            };
            home.ledger.open(&id, None, None, false).await.unwrap();
        }
    }
    home.ledger.keep_report(&report("old", 10)).await.unwrap();
    home.ledger
        .keep_report(&report("recent", 20))
        .await
        .unwrap();
    assert_eq!(home.ledger.prune(Timestamp(20)).await.unwrap(), 2);
    let old = "SELECT count(*) FROM temporal_batch_stride WHERE batch_run = 'old'";
    assert_eq!(home.number(old).await, 0);
    let all = "SELECT count(*) FROM temporal_batch_stride";
    assert_eq!(home.number(all).await, 4);
    assert_eq!(home.ledger.reports("batch").await.unwrap().len(), 2);
}

/// A stopped batch may be continued in the same batch run, under the report of its first end.
async fn strides_of_a_batch_that_may_be_continued_are_kept<D: TestDatabase>(home: Home<D>) {
    for outcome in ["failed", "stopped", "cancelled"] {
        let id = StrideId {
            batch_run: outcome.to_owned(),
            batch_id: "batch".to_owned(),
            stride: 0,
        };
        home.ledger.open(&id, None, None, false).await.unwrap();
        let mut report = report(outcome, 10);
        report.outcome = serde_json::from_value(outcome.into()).unwrap();
        home.ledger.keep_report(&report).await.unwrap();
    }
    let soon = Timestamp(u64::MAX / 2);
    let ledger = &home.ledger;
    assert_eq!(ledger.prune(soon).await.unwrap(), 0);
    // Each batch was worked on after that time.
    assert_eq!(ledger.prune_unfinished(Timestamp(20)).await.unwrap(), 0);
    home.script("UPDATE temporal_batch_stride SET updated_at = 19 WHERE batch_run <> 'failed'")
        .await;
    assert_eq!(ledger.prune_unfinished(Timestamp(20)).await.unwrap(), 2);
    assert_eq!(ledger.prune_unfinished(soon).await.unwrap(), 1);
}

async fn many_strides_of_many_batch_runs_can_be_pruned<D: TestDatabase>(home: Home<D>) {
    home.script(
        "INSERT INTO temporal_batch_stride (batch_run, stride, batch_id, fence, ends_data, pages,
            pages_failed, processed, changed, skipped, failed, updated_at)
        WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 899)
        SELECT CASE WHEN r.n < 2 THEN 'long' ELSE 'run-' || r.n END,
            n.n + CASE WHEN r.n = 1 THEN 5000 ELSE 0 END, 'batch', 1, FALSE, 0, 0, 0, 0, 0, 0, 0
        FROM n, (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) AS r",
    )
    .await;
    for number in 0..120 {
        let batch_run = format!("few-{number}");
        let id = StrideId {
            batch_run: batch_run.clone(),
            batch_id: "batch".to_owned(),
            stride: 0,
        };
        home.ledger.open(&id, None, None, false).await.unwrap();
        let report = report(&batch_run, 10);
        home.ledger.keep_report(&report).await.unwrap();
    }
    for (batch_run, ended_at) in [("long", 10), ("run-2", 10), ("run-3", 20)] {
        let report = report(batch_run, ended_at);
        home.ledger.keep_report(&report).await.unwrap();
    }
    let forgotten = home.ledger.prune(Timestamp(20)).await.unwrap();
    assert_eq!(forgotten, 3 * 900 + 120);
    assert_eq!(home.ledger.prune(Timestamp(20)).await.unwrap(), 0);
    let rest = "SELECT count(*) FROM temporal_batch_stride WHERE batch_run = 'run-3'";
    assert_eq!(home.number(rest).await, 900);
    let all = "SELECT count(*) FROM temporal_batch_stride";
    assert_eq!(home.number(all).await, 900);
}
