//! Strides of a batch whose ledger is in another database.

use std::time::Duration;

use temporal_batch::{
    BatchReport, Outcome, PageToken, Timestamp,
    store::{DeadLetters, PageLedger},
};

use crate::{
    database::{Home, SOON, TestDatabase, stride, token, touch},
    pages::claim,
    reports::report,
    support::databases::on_each,
};

on_each! {
    an_unknown_stride_is_refused_and_nothing_is_written,
    strides_that_were_opened_out_of_order_are_known,
    a_report_stands_for_strides_that_were_pruned,
    a_page_that_is_being_applied_does_not_hold_up_the_next_stride,
}

const STRIDES: &str = "SELECT count(*) FROM temporal_batch_stride";

async fn is_refused<D: TestDatabase>(home: &Home<D>, number: u64) {
    let rows = home.number(STRIDES).await;
    let (id, at) = (stride(number), token(10));
    let opened = home.ledger.open(&id, Some(&at), None, true);
    let refused = opened.await.unwrap_err();
    assert_eq!(refused.error_type(), "WrongDatabase", "{refused}");
    assert!(refused.is_retryable());
    assert_eq!(home.number(STRIDES).await, rows);
}

async fn fence_of<D: TestDatabase>(home: &Home<D>, number: u64) -> i64 {
    let id = stride(number);
    let opened = home.ledger.open(&id, None, None, true).await;
    opened.unwrap().fence
}

async fn an_unknown_stride_is_refused_and_nothing_is_written<D: TestDatabase>(home: Home<D>) {
    for number in [0, 1, 7] {
        is_refused(&home, number).await;
    }
    let first = home.ledger.open(&stride(0), None, None, false).await;
    assert_eq!(first.unwrap().fence, 1);
    assert_eq!(fence_of(&home, 0).await, 2);
    is_refused(&home, 2).await;
    assert_eq!(fence_of(&home, 1).await, 1);
    assert_eq!(fence_of(&home, 2).await, 1);
    // The database has no stride of another batch run.
    let mut other = stride(1);
    other.batch_run = "another".to_owned();
    let opened = home.ledger.open(&other, None, None, true).await;
    assert_eq!(opened.unwrap_err().error_type(), "WrongDatabase");
}

/// The end of each stride is kept before the next stride is announced.
async fn strides_that_were_opened_out_of_order_are_known<D: TestDatabase>(home: Home<D>) {
    let id = stride(0);
    let first = home.ledger.open(&id, None, None, false).await;
    let ends: [PageToken; 3] = [10, 20, 30].map(token);
    let cut = home.ledger.cut(&id, first.unwrap().fence, &ends);
    assert_eq!(cut.await.unwrap(), ends);
    for number in [3, 2, 1] {
        assert_eq!(fence_of(&home, number).await, 1, "stride {number}");
    }
    is_refused(&home, 5).await;
}

async fn a_report_stands_for_strides_that_were_pruned<D: TestDatabase>(home: Home<D>) {
    let first = home.ledger.open(&stride(0), None, None, false).await;
    first.unwrap();
    let report = BatchReport {
        outcome: Outcome::Failed,
        ..report(&stride(0).batch_run, 10)
    };
    home.ledger.keep_report(&report).await.unwrap();
    let soon = Timestamp(u64::MAX / 2);
    assert_eq!(home.ledger.prune_unfinished(soon).await.unwrap(), 1);
    assert_eq!(fence_of(&home, 7).await, 1);
}

async fn a_page_that_is_being_applied_does_not_hold_up_the_next_stride<D: TestDatabase>(
    home: Home<D>,
) {
    home.fill(10).await;
    let (id, to) = (stride(0), token(10));
    let first = home.ledger.open(&id, None, Some(&to), false).await.unwrap();
    let page = home.ledger.begin(claim(&id, first.fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    touch::<D>(page.as_mut(), 0, 10).await.unwrap();
    let next = async { fence_of(&home, 1).await };
    if D::NAME == "SQLite" {
        // SQLite has only one writer.
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, next).await.is_err());
        return;
    }
    assert_eq!(tokio::time::timeout(SOON, next).await.unwrap(), 1);
    page.commit().await.unwrap();
}
