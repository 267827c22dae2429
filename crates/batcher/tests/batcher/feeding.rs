//! Requests that come from a queue.

use std::time::Duration;

use temporal_batch::sql::Database;
use temporal_batch_batcher::{
    Fed, MemorySource, QueueDatabase, RequestDatabase, RequestSource, SqlRequests, SqlWriter,
    TableSource, feed,
};

use crate::{
    database::{self, Home, Rows},
    sink::Sink,
    support::{
        databases::{script, texts},
        eventually, within,
    },
    town::{Town, request},
};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_queue_in_memory_feeds_the_batcher() {
    let town = Town::new("memory").await.with(|b| b.max_wait(SHORT));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let mut source = MemorySource::new();
    for i in 0..30 {
        source.push(request(i));
    }
    let written = eventually_written(&sink, 30);
    let client = town.client();
    let fed = within("the queue is fed", feed(&client, &mut source, written))
        .await
        .unwrap();
    // The feeder may be stopped between the write and its settlement. Then it gives the requests back.
    assert_eq!(fed.written as usize + source.len(), 30, "{fed:?}");
}

async fn eventually_written(sink: &Sink, requests: usize) {
    eventually("all requests are written", || async {
        (sink.written().len() == requests).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeders_of_a_table_in_postgres_write_each_row_once() {
    let Some(home) = database::postgres("two_feeders_of_a_table").await else {
        return;
    };
    let Database::Postgres(pool) = home.pool.clone() else {
        unreachable!("the database is a PostgreSQL");
    };
    two_feeders(home, pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeders_of_a_table_in_mariadb_write_each_row_once() {
    let Some(home) = database::mariadb("two_feeders_of_a_table").await else {
        return;
    };
    let Database::MySql(pool) = home.pool.clone() else {
        unreachable!("the database is a MariaDB");
    };
    two_feeders(home, pool).await;
}

async fn two_feeders<DB>(home: Home, pool: sqlx::Pool<DB>)
where
    DB: QueueDatabase + RequestDatabase,
    Rows: SqlRequests<DB>,
{
    let town = Town::writing("feeders", "rows")
        .await
        .with(|b| b.max_wait(SHORT));
    let writer = SqlWriter::new(pool.clone(), Rows);
    writer.apply_schema().await.unwrap();
    let _worker = town.worker(writer).await;
    TableSource::new(pool.clone()).apply_schema().await.unwrap();
    let row = |i: usize| format!("('q{i:05}', '{{\"n\": {i}}}')");
    let rows: Vec<_> = (0..700).map(row).collect();
    let rows = rows.join(", ");
    let insert = format!("INSERT INTO temporal_batch_queue (request_id, payload) VALUES {rows}");
    script(&home.pool, &insert).await.unwrap();

    // A feeder that is lost gives its rows back.
    let mut lost = TableSource::new(pool.clone());
    let taken = lost.take(10).await.unwrap();
    assert_eq!(taken.requests().len(), 10);
    drop(taken);

    // Programs add rows while all of them are taken.
    let taken = lost.take(1_000).await.unwrap();
    let more = format!(
        "INSERT INTO temporal_batch_queue (request_id, payload) VALUES {}",
        row(700)
    );
    let added = script(&home.pool, &more);
    within("a row is added", added).await.unwrap();
    drop(taken);

    let feeder = || {
        let (client, pool, database) = (town.client(), pool.clone(), home.pool.clone());
        async move {
            let empty = eventually("the queue is empty", || async {
                let query = "SELECT CAST(count(*) AS CHAR(10)) FROM temporal_batch_queue";
                let left = texts(&database, query).await.remove(0).remove(0).unwrap();
                (left.trim() == "0").then_some(())
            });
            let mut source = TableSource::new(pool);
            within("the table is fed", feed(&client, &mut source, empty))
                .await
                .unwrap()
        }
    };
    let (a, b): (Fed, Fed) = futures::join!(feeder(), feeder());
    assert!(a.written + b.written <= 701, "{a:?} {b:?}");
    let expected: Vec<_> = (0..=700).map(|i| format!("q{i:05}")).collect();
    assert_eq!(home.rows().await, expected);
}
