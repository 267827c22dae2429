//! Workers that stand still, and a PostgreSQL that stops.

use std::time::Duration;

use sqlx::Postgres;
use temporal_batch::{ItemCounts, PageLedger, SqlLedger};

use crate::{
    database::{SOON, postgres, stride, token, touch},
    pages::claim,
    postgres as server,
};

#[tokio::test]
async fn a_worker_that_stands_still_does_not_hold_its_stride_for_ever() {
    let Some(home) = postgres("idle").await else {
        return;
    };
    home.fill(10).await;
    let ledger = SqlLedger::<Postgres>::new(home.pool.clone());
    let ledger = ledger.idle_timeout(Duration::from_millis(300));
    let (id, to) = (stride(0), token(10));
    let late = ledger.open(&id, None, Some(&to)).await.unwrap();
    let page = ledger.begin(claim(&id, late.fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    touch::<Postgres>(page.as_mut(), 0, 10).await.unwrap();

    // It says nothing more; the next attempt waits for its row.
    let next = tokio::time::timeout(SOON, ledger.open(&id, None, Some(&to))).await;
    let next = next.unwrap().unwrap();
    assert_eq!((next.fence, next.applied_to), (late.fence + 1, None));
    let woken = page.record(&ItemCounts::default(), &[]).await;
    assert!(woken.unwrap_err().is_retryable());
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
    let Some(server) = server::Postgres::launch(false) else {
        // Told by the tests that share a cluster.
        return;
    };
    let pool = server.pool("crash", 5).await;
    let ledger = SqlLedger::<Postgres>::new(pool.clone());
    ledger.apply_schema().await.unwrap();
    let rows = "CREATE TABLE data AS SELECT id, 0::bigint AS x FROM generate_series(1, 20) AS id";
    sqlx::query(rows).execute(&pool).await.unwrap();

    let (id, middle, end) = (stride(0), token(10), token(20));
    let fence = ledger.open(&id, None, Some(&end)).await.unwrap().fence;
    let page = ledger.begin(claim(&id, fence, None, &middle)).await;
    let mut page = page.unwrap().unwrap();
    touch::<Postgres>(page.as_mut(), 0, 10).await.unwrap();
    page.commit().await.unwrap();
    let page = ledger.begin(claim(&id, fence, Some(&middle), &end)).await;
    let mut page = page.unwrap().unwrap();
    touch::<Postgres>(page.as_mut(), 10, 20).await.unwrap();

    server.restart(server::Stop::Immediate);
    let lost = page.commit().await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    let found = ledger.open(&id, None, Some(&end)).await.unwrap();
    assert_eq!(found.applied_to, Some(middle));
    let touched: Vec<i64> =
        sqlx::query_scalar("SELECT sum(x)::bigint FROM data GROUP BY id > 10 ORDER BY id > 10")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(touched, [10, 0]);
}
