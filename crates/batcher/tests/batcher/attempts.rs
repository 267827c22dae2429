//! Attempts that count against the requests of a batch, and those that do not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::postgres::PgPoolOptions;
use temporal_batch::{PageError, async_trait, store::DeadLetters};
use temporal_batch_batcher::{BatchWriter, Request, SqlWriter, WriteContext, Written};

use crate::{
    database::{self, Rows},
    sink::Sink,
    support::eventually,
    town::{Town, requests},
};

/// An error as that of a database that is away.
fn away() -> PageError {
    let refused = std::io::ErrorKind::ConnectionRefused;
    sqlx::Error::Io(refused.into()).into()
}

/// A sink whose calls end one after the other as given, and then well.
fn ending<const N: usize>(ends: [fn() -> PageError; N]) -> Sink {
    let calls = AtomicUsize::new(0);
    Sink::answering(move |_, _| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        ends.get(call).map_or(Ok(()), |error| Err(error()))
    })
}

#[tokio::test]
async fn a_database_that_is_away_uses_up_no_attempt() {
    let busy = || PageError::retryable("busy");
    let environment = || PageError::environment("the disk is not mounted");
    let later = || PageError::retry_after(Duration::from_millis(1), "maintenance");
    let town = Town::new("away")
        .await
        .with(|b| b.max_batch(4).max_attempts(2));
    let sink = ending([away, environment, later, busy, away]);
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 4)).await;
    town.outcome("r00003").await;
    let stats = town.shut_down().await;
    assert_eq!((stats.written, stats.failed), (4, 0), "{stats:?}");
    // The batch was never split.
    let calls: Vec<_> = sink.calls().iter().map(|call| call.ids.len()).collect();
    assert_eq!(calls, [4; 6]);
}

#[tokio::test]
async fn failures_of_a_batch_are_counted_over_its_attempts() {
    let busy = || PageError::retryable("busy");
    let town = Town::new("own")
        .await
        .with(|b| b.max_batch(4).max_attempts(2));
    let sink = ending([busy, away, busy]);
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 4)).await;
    town.outcome("r00003").await;
    town.shut_down().await;
    // The second failure of its own is the last attempt, which splits the batch.
    let calls: Vec<_> = sink.calls().iter().map(|call| call.ids.len()).collect();
    assert_eq!(calls, [4, 4, 4, 2, 2]);
}

/// Waits until a writer has failed so many times.
async fn has_failed(failures: &AtomicUsize, times: usize) {
    eventually("the write has failed often enough", || async {
        (failures.load(Ordering::SeqCst) >= times).then_some(())
    })
    .await;
}

/// Counts the calls of a writer that fail.
struct Watched<W> {
    writer: W,
    failures: Arc<AtomicUsize>,
}

#[async_trait]
impl<W: BatchWriter> BatchWriter for Watched<W> {
    const NAME: &'static str = W::NAME;

    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        let written = self.writer.write(ctx, requests).await;
        self.failures
            .fetch_add(usize::from(written.is_err()), Ordering::SeqCst);
        written
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        self.writer.dead_letters()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_for_longer_than_a_write_may_take_makes_no_dead_letters() {
    let Some(home) = database::postgres("a_lock_that_is_held").await else {
        return;
    };
    let pool = home.postgres();
    let writer = SqlWriter::new(pool.clone(), Rows);
    writer.apply_schema().await.unwrap();
    let mut migration = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE written")
        .execute(&mut *migration)
        .await
        .unwrap();
    let town = Town::writing("locked", "rows").await.with(|b| {
        b.max_batch(3)
            .max_attempts(1)
            .write_timeout(Duration::from_secs(8))
    });
    let failures = Arc::new(AtomicUsize::new(0));
    let _worker = town
        .worker(Watched {
            writer,
            failures: Arc::clone(&failures),
        })
        .await;
    town.submit(requests(0, 3)).await;
    has_failed(&failures, 2).await;
    migration.rollback().await.unwrap();
    let stats = town.shut_down().await;
    assert_eq!((stats.written, stats.failed), (3, 0), "{stats:?}");
    assert_eq!(home.rows().await.len(), 3);
}

/// A connection that breaks may be the fault of a request. Behind a proxy without its database each connection breaks.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_its_database_makes_no_dead_letters() {
    let Some(home) = database::postgres("a_proxy_without_its_database").await else {
        return;
    };
    let pool = home.postgres();
    SqlWriter::new(pool.clone(), Rows)
        .apply_schema()
        .await
        .unwrap();
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    let closing = tokio::spawn(async move {
        loop {
            drop(proxy.accept().await);
        }
    });
    let town = Town::writing("proxy", "rows")
        .await
        .with(|b| b.max_batch(3).max_attempts(1));
    let url = format!("postgres://user@127.0.0.1:{port}/none?sslmode=disable");
    let options = PgPoolOptions::new().acquire_timeout(Duration::from_secs(1));
    let failures = Arc::new(AtomicUsize::new(0));
    let cut_off = town
        .worker(Watched {
            writer: SqlWriter::new(options.connect_lazy(&url).unwrap(), Rows),
            failures: Arc::clone(&failures),
        })
        .await;
    town.submit(requests(0, 3)).await;
    has_failed(&failures, 3).await;
    cut_off.stop().await.unwrap();
    closing.abort();
    let _worker = town.worker(SqlWriter::new(pool, Rows)).await;
    let stats = town.shut_down().await;
    assert_eq!((stats.written, stats.failed), (3, 0), "{stats:?}");
    assert_eq!(home.rows().await.len(), 3);
}
