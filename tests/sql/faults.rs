//! Workers that are suspended, servers that stop, and transactions that end early.

use std::time::Duration;

use sqlx::{MySql, Postgres};
use temporal_batch::{
    progress::ItemCounts,
    sql::SqlLedger,
    store::{DeadLetter, DeadLetters, PageLedger},
};

use crate::{
    database::{
        Home, SOON, TestDatabase, connection, home, mariadb, postgres, stride, token, touch,
    },
    pages::claim,
    support::{databases::on_each, servers},
};

#[tokio::test]
async fn a_suspended_worker_does_not_hold_its_stride_forever_in_postgresql() {
    if let Some(home) = postgres("idle").await {
        let ledger = SqlLedger::<Postgres>::new(home.pool.clone());
        suspend_worker(&home, ledger.idle_timeout(Duration::from_millis(300))).await;
    }
}

#[tokio::test]
async fn a_suspended_worker_does_not_hold_its_stride_forever_in_mariadb() {
    if let Some(home) = mariadb("idle").await {
        let ledger = SqlLedger::<MySql>::new(home.pool.clone());
        suspend_worker(&home, ledger.idle_timeout(Duration::from_millis(300))).await;
    }
}

async fn suspend_worker<D: TestDatabase>(home: &Home<D>, ledger: SqlLedger<D>) {
    home.fill(10).await;
    let (id, to) = (stride(0), token(10));
    let late = ledger.open(&id, None, Some(&to), false).await.unwrap();
    let page = ledger.begin(claim(&id, late.fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    touch::<D>(page.as_mut(), 0, 10).await.unwrap();

    // The worker sends no more statements; the next attempt waits for its row.
    let next = tokio::time::timeout(SOON, ledger.open(&id, None, Some(&to), false)).await;
    let next = next.unwrap().unwrap();
    assert_eq!((next.fence, next.applied_to), (late.fence + 1, None));
    let woken = page.record(&ItemCounts::default(), &[]).await;
    let woken = woken.unwrap_err();
    assert_eq!(woken.error_type(), "ConnectionLost", "{woken}");
    assert!(woken.is_retryable());
    drop(page);
    assert_eq!(
        home.number("SELECT count(*) FROM data WHERE x <> 0").await,
        0
    );
    let page = ledger.begin(claim(&id, next.fence, None, &to)).await;
    page.unwrap().unwrap().commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgresql_loses_the_page_or_keeps_all_of_it() {
    // The tests that share a cluster report a missing server.
    if let Some(server) = servers::Postgres::launch(false) {
        let home = home(server.pool("crash", 5).await, None).await;
        crash(&home, || server.restart(servers::Stop::Immediate)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_mariadb_loses_the_page_or_keeps_all_of_it() {
    if let Some(server) = servers::MariaDb::launch(false) {
        let home = home(server.pool("crash", 5).await, None).await;
        crash(&home, || server.restart(servers::Stop::Immediate)).await;
    }
}

async fn crash<D: TestDatabase>(home: &Home<D>, crash: impl FnOnce()) {
    home.fill(20).await;
    let ledger = &home.ledger;
    let (id, middle, end) = (stride(0), token(10), token(20));
    let fence = ledger
        .open(&id, None, Some(&end), false)
        .await
        .unwrap()
        .fence;
    let page = ledger.begin(claim(&id, fence, None, &middle)).await;
    let mut page = page.unwrap().unwrap();
    touch::<D>(page.as_mut(), 0, 10).await.unwrap();
    page.commit().await.unwrap();
    let page = ledger.begin(claim(&id, fence, Some(&middle), &end)).await;
    let mut page = page.unwrap().unwrap();
    touch::<D>(page.as_mut(), 10, 20).await.unwrap();

    crash();
    let lost = page.commit().await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    let found = ledger.open(&id, None, Some(&end), false).await.unwrap();
    assert_eq!(found.applied_to, Some(middle));
    let first = "SELECT count(*) FROM data WHERE id <= 10 AND x = 1";
    let second = "SELECT count(*) FROM data WHERE id > 10 AND x = 0";
    assert_eq!(
        (home.number(first).await, home.number(second).await),
        (10, 10)
    );
}

on_each! {
    a_redrive_whose_transaction_was_ended_by_hand_is_noticed,
}

fn letter() -> DeadLetter {
    serde_json::from_value(serde_json::json!({
        "id": "a", "batch_id": "b", "batch_run": "r", "processor": "p", "stride": 0, "start": null,
        "end": null, "key": null, "error_type": "E", "message": "m", "attempts": 1, "first_at": 0,
        "last_at": 0,
    }))
    .unwrap()
}

async fn a_redrive_whose_transaction_was_ended_by_hand_is_noticed<D: TestDatabase>(home: Home<D>) {
    home.ledger.put(&[letter()]).await.unwrap();
    let mut redrive = home.ledger.take(&letter()).await.unwrap().unwrap();
    let ended = D::run_script(connection::<D>(redrive.as_mut()), "ROLLBACK").await;
    ended.unwrap();
    let error = redrive.commit().await.unwrap_err();
    assert_eq!(error.error_type(), "TransactionEnded", "{error}");
    assert!(error.is_retryable());
    let mut redrive = home.ledger.take(&letter()).await.unwrap().unwrap();
    let ended = D::run_script(connection::<D>(redrive.as_mut()), "ROLLBACK").await;
    ended.unwrap();
    let recorded = redrive.record(&ItemCounts::default(), &[]).await;
    // SQLite commits each later statement, and has no way to ask about the transaction.
    if D::NAME != "SQLite" {
        assert_eq!(recorded.unwrap_err().error_type(), "TransactionEnded");
        assert_eq!(home.ledger.settled("r").await.unwrap(), Some(0));
    }
    drop(redrive);
    assert!(home.ledger.take(&letter()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_page_that_was_rolled_back_by_a_deadlock_cannot_be_committed_in_mariadb() {
    let Some(home) = mariadb("swallowed").await else {
        return;
    };
    home.fill(2).await;
    let (id, to) = (stride(0), token(2));
    let fence = home
        .ledger
        .open(&id, None, Some(&to), false)
        .await
        .unwrap()
        .fence;
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    touch::<MySql>(page.as_mut(), 0, 1).await.unwrap();

    // Another transaction has changed more rows, so that the page is the victim.
    let mut other = home.pool.begin().await.unwrap();
    let more = "INSERT INTO data WITH RECURSIVE n (id) AS (
            SELECT 100 UNION ALL SELECT id + 1 FROM n WHERE id < 900
        ) SELECT id, 0 FROM n;
        UPDATE data SET x = 5 WHERE id = 2";
    MySql::run_script(&mut other, more).await.unwrap();
    let wait = MySql::run_script(&mut other, "UPDATE data SET x = 5 WHERE id = 1");
    let swallow = async {
        // The one of the two that waits last finds the deadlock.
        touch::<MySql>(page.as_mut(), 1, 2).await
    };
    let (other_got_it, lost) = tokio::join!(wait, swallow);
    other_got_it.unwrap();
    let lost = temporal_batch::PageError::from(lost.unwrap_err());
    assert_eq!(lost.error_type(), "Deadlock");
    // Processing continues as if the statement had succeeded.
    let error = page.record(&ItemCounts::default(), &[]).await.unwrap_err();
    assert_eq!(error.error_type(), "TransactionEnded");
    drop(page);
    other.rollback().await.unwrap();
    assert_eq!(
        home.number("SELECT count(*) FROM data WHERE x = 0").await,
        2
    );
    let found = home.ledger.open(&id, None, None, false).await.unwrap();
    assert_eq!(found.applied_to, None);
}
