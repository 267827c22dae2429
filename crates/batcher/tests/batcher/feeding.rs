//! Requests that come from a queue.

use std::time::Duration;

use temporal_batch::sql::Database;
use temporal_batch_batcher::{
    BatcherClient, Fed, MemorySource, QueueDatabase, Request, RequestDatabase, RequestSource,
    SqlRequests, SqlWriter, TableSource, feed,
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
    let pool = home.postgres();
    two_feeders(home, pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeders_of_a_table_in_mariadb_write_each_row_once() {
    let Some(home) = database::mariadb("two_feeders_of_a_table").await else {
        return;
    };
    let pool = home.mariadb();
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

    let feeder = || feed_all(&town, &home.pool, pool.clone());
    let (a, b): (Fed, Fed) = futures::join!(feeder(), feeder());
    assert!(a.written + b.written <= 701, "{a:?} {b:?}");
    let expected: Vec<_> = (0..=700).map(|i| format!("q{i:05}")).collect();
    assert_eq!(home.rows().await, expected);
}

/// Feeds until the queue has only rows with an error.
async fn feed_all<DB: QueueDatabase>(town: &Town, home: &Database, pool: sqlx::Pool<DB>) -> Fed {
    let empty = eventually("the queue is empty", || async {
        let query =
            "SELECT CAST(count(*) AS CHAR(10)) FROM temporal_batch_queue WHERE error IS NULL";
        let left = texts(home, query).await.remove(0).remove(0).unwrap();
        (left.trim() == "0").then_some(())
    });
    let (client, mut source) = (town.client(), TableSource::new(pool));
    let fed = feed(&client, &mut source, empty);
    within("the table is fed", fed).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_in_postgres_are_marked_and_the_others_are_written() {
    let Some(home) = database::postgres("bad_rows").await else {
        return;
    };
    let pool = home.postgres();
    bad_rows(home, pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_in_mariadb_are_marked_and_the_others_are_written() {
    let Some(home) = database::mariadb("bad_rows").await else {
        return;
    };
    let pool = home.mariadb();
    bad_rows(home, pool).await;
}

async fn bad_rows<DB>(home: Home, pool: sqlx::Pool<DB>)
where
    DB: QueueDatabase + RequestDatabase,
    Rows: SqlRequests<DB>,
{
    let town = Town::writing("bad", "rows").await;
    let town = town.with(|b| b.max_wait(SHORT).max_batch_bytes(2_000));
    let writer = SqlWriter::new(pool.clone(), Rows);
    writer.apply_schema().await.unwrap();
    let _worker = town.worker(writer).await;
    TableSource::new(pool.clone()).apply_schema().await.unwrap();
    let large = "x".repeat(2_000);
    let insert = format!(
        "INSERT INTO temporal_batch_queue (request_id, payload) VALUES
         ('unreadable', '{{'), ('', '{{\"n\": 1}}'), ('q1', '{{\"n\": 1}}'),
         ('large', '{{\"n\": 1, \"x\": \"{large}\"}}'), ('q2', '{{\"n\": 2}}')"
    );
    script(&home.pool, &insert).await.unwrap();
    let fed = feed_all(&town, &home.pool, pool.clone()).await;
    assert_eq!(fed.rejected, 3, "{fed:?}");
    assert_eq!(home.rows().await, ["q1", "q2"]);
    let left = "SELECT request_id, error FROM temporal_batch_queue ORDER BY position";
    let left: Vec<(String, String)> = texts(&home.pool, left)
        .await
        .into_iter()
        .map(|mut row| (row.remove(0).unwrap(), row.remove(0).unwrap()))
        .collect();
    let reasons = [
        "the payload is not JSON",
        "the request id is not valid",
        "at most 2000 are allowed",
    ];
    assert_eq!(left.len(), reasons.len(), "{left:?}");
    for ((_, error), reason) in left.iter().zip(reasons) {
        assert!(error.contains(reason), "{left:?}");
    }
    // A row that was corrected is fed.
    let correct = "UPDATE temporal_batch_queue SET payload = '{\"n\": 3}', error = NULL WHERE request_id = 'large'";
    script(&home.pool, correct).await.unwrap();
    let fed = feed_all(&town, &home.pool, pool).await;
    assert_eq!(fed.rejected, 0, "{fed:?}");
    assert_eq!(home.rows().await, ["large", "q1", "q2"]);
}

/// The limits of a shard are those of the program that started it.
#[tokio::test]
async fn a_request_that_the_running_batcher_can_never_take_leaves_the_queue() {
    let town = Town::new("limits")
        .await
        .with(|b| b.max_wait(SHORT).max_batch_bytes(2_000));
    town.client().start().await.unwrap();
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let other = town.batcher.clone().max_batch_bytes(100_000);
    let other = BatcherClient::new(&town.env.client, other).unwrap();
    let mut source = MemorySource::new();
    source.push(Request::new("large", "x".repeat(2_000)));
    source.push(request(1));
    let queue = source.clone();
    let settled = eventually("both are settled", || async {
        (queue.is_empty() && !sink.written().is_empty()).then_some(())
    });
    let feeding = feed(&other, &mut source, std::future::pending());
    tokio::select! {
        fed = feeding => panic!("the feeding has ended: {fed:?}"),
        rejected = eventually("the request is rejected", || async {
            let rejected = queue.take_rejected();
            (!rejected.is_empty()).then_some(rejected)
        }) => {
            let rejected: Vec<_> = rejected.into_iter().map(|(request, _)| request.id).collect();
            assert_eq!(rejected, ["large"]);
        }
    }
    settled.await;
    assert_eq!(sink.written().into_keys().collect::<Vec<_>>(), ["r00001"]);
}
