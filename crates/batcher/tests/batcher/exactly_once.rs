//! Each request is written exactly once, whatever is repeated, in each database.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::Pool;
use temporal_batch::{PageError, Timestamp, async_trait, sql::Database, store::DeadLetters};
use temporal_batch_batcher::{
    BatchWriter, Outcome, Request, RequestDatabase, SqlRequests, SqlWriter, WriteContext, Written,
};

use crate::{
    database::{Home, Rows},
    sink::Sink,
    support::{
        self,
        databases::{on_each, with_pool},
        eventually,
    },
    town::{Town, requests},
};

#[tokio::test]
async fn an_attempt_has_the_batch_key_of_the_one_before() {
    let town = Town::new("key").await.with(|b| b.max_batch(4));
    let sink = Sink::answering(|ctx, _| match ctx.attempt {
        1 | 2 => Err(PageError::retryable("busy")),
        _ => Ok(()),
    });
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 8)).await;
    town.outcome("r00007").await;
    town.shut_down().await;
    let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for call in sink.calls() {
        let (batch_key, attempt) = call.key;
        attempts.entry(batch_key).or_default().push(attempt);
    }
    let attempts: Vec<_> = attempts.into_values().collect();
    assert_eq!(attempts, [[1, 2, 3], [1, 2, 3]]);
}

/// A writer in front of one that does the work, which fails before or after it.
struct Failing<W> {
    writer: W,
    before: AtomicU32,
    after: AtomicU32,
}

impl<W> Failing<W> {
    fn new(writer: W, before: u32, after: u32) -> Self {
        let (before, after) = (before.into(), after.into());
        Self {
            writer,
            before,
            after,
        }
    }
}

fn counts_down(left: &AtomicU32) -> bool {
    let one_less = |left: u32| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
        .is_ok()
}

#[async_trait]
impl<W: BatchWriter> BatchWriter for Failing<W> {
    const NAME: &'static str = W::NAME;

    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        if counts_down(&self.before) {
            return Err(PageError::retryable("the database is busy"));
        }
        let written = self.writer.write(ctx, requests).await?;
        match counts_down(&self.after) {
            true => Err(PageError::retryable("the answer of the commit was lost")),
            false => Ok(written),
        }
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        self.writer.dead_letters()
    }
}

async fn town(name: &str, home: &Home) -> Town {
    with_pool!(&home.pool, pool => {
        SqlWriter::new(pool.clone(), Rows).apply_schema().await.unwrap();
    });
    Town::writing(name, "rows").await
}

/// Writes with failures before and after the commit.
async fn write<DB>(town: &Town, pool: &Pool<DB>, before: u32, after: u32, requests: Vec<Request>)
where
    DB: RequestDatabase,
    Rows: SqlRequests<DB>,
{
    let writer = Failing::new(SqlWriter::new(pool.clone(), Rows), before, after);
    let worker = town.worker(writer).await;
    let last = requests.last().unwrap().id.clone();
    town.submit(requests).await;
    town.stats_show("the requests are held", |stats| stats.pending > 0)
        .await;
    let stats = town.shut_down().await;
    assert_eq!(stats.failed, 0, "{stats:?} after {last}");
    worker.stop().await.unwrap();
}

async fn a_write_that_fails_at_first_is_committed_once(home: Home) {
    let town = town("retry", &home).await;
    with_pool!(&home.pool, pool => write(&town, pool, 2, 0, requests(0, 20)).await);
    let ids: Vec<_> = requests(0, 20).into_iter().map(|r| r.id).collect();
    assert_eq!(home.rows().await, ids);
}

async fn a_write_whose_commit_was_not_heard_of_is_committed_once(home: Home) {
    let town = town("commit", &home).await;
    with_pool!(&home.pool, pool => write(&town, pool, 0, 1, requests(0, 20)).await);
    let ids: Vec<_> = requests(0, 20).into_iter().map(|r| r.id).collect();
    assert_eq!(home.rows().await, ids);
}

async fn a_request_submitted_again_later_is_already_done(home: Home) {
    let town = town("late", &home).await;
    with_pool!(&home.pool, pool => {
        let _worker = town.worker(SqlWriter::new(pool.clone(), Rows)).await;
        town.submit(requests(0, 3)).await;
        town.stats_show("they are held", |stats| stats.pending == 3).await;
        town.shut_down().await;
        // Another instance of the batcher, which has never heard of them. One of the requests is new.
        town.submit(requests(1, 4)).await;
        town.stats_show("they are held", |stats| stats.pending == 3).await;
        let stats = town.shut_down().await;
        assert_eq!((stats.already_done, stats.written), (2, 1), "{stats:?}");
        // Once its id is forgotten, a request is new again.
        let writer = SqlWriter::new(pool.clone(), Rows);
        assert_eq!(writer.prune(Timestamp(0)).await.unwrap(), 0);
        assert_eq!(writer.prune(Timestamp(u64::MAX)).await.unwrap(), 4);
    });
    assert_eq!(home.rows().await, ["r00000", "r00001", "r00002", "r00003"]);
}

/// Two attempts at the same time: the transaction of the second one waits for the first.
async fn two_attempts_at_the_same_time_write_once(home: Home) {
    let town = town("attempts", &home).await;
    let batcher = town.batcher.name().to_owned();
    with_pool!(&home.pool, pool => {
        let writer = Arc::new(SqlWriter::new(pool.clone(), Rows));
        let attempts = (0..4).map(|_| {
            let (writer, batcher) = (Arc::clone(&writer), batcher.clone());
            tokio::spawn(async move {
                // A deadlock or a busy database is retried, as the activity does.
                let all = requests(0, 50);
                let ctx = WriteContext::new("key", batcher, 1);
                eventually("the attempt ends", || async {
                    writer.write(&ctx, &all).await.ok()
                }).await
            })
        });
        let mut new = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            let written = attempt.await.unwrap();
            new += written.iter().filter(|written| **written == Written::Now).count();
        }
        assert_eq!(new, 50);
    });
    assert_eq!(home.rows().await.len(), 50);
}

async fn only_the_requests_that_a_constraint_refuses_become_dead_letters(home: Home) {
    let town = town("poison", &home).await.with(|b| b.max_batch(40));
    with_pool!(&home.pool, pool => {
        let _worker = town.worker(SqlWriter::new(pool.clone(), Rows)).await;
        let mut all = requests(0, 40);
        for poison in [3, 17] {
            all[poison].payload = serde_json::json!({ "n": -1 });
        }
        town.submit(all).await;
        let outcome = town.outcome("r00017").await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome}");
        let stats = town.shut_down().await;
        assert_eq!((stats.written, stats.failed), (38, 2), "{stats:?}");
        let letters = SqlWriter::new(pool.clone(), Rows).dead_letters();
        let filter = temporal_batch::store::LetterFilter::of(town.batcher.name());
        let letters = letters.list(&filter, None, 10).await.unwrap();
        let mut keys: Vec<_> = letters.into_iter().filter_map(|letter| letter.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["r00003", "r00017"]);
    });
    assert_eq!(home.rows().await.len(), 38);
}

/// Raises an error in each way that the database has, for `n` from 901 on. Returns the number of ways.
async fn triggers(home: &Home) -> usize {
    let (script, ways) = match &home.pool {
        Database::Sqlite(_) => (
            "CREATE TRIGGER a BEFORE INSERT ON written WHEN new.n = 901 BEGIN SELECT RAISE(ABORT, 'no'); END;
             CREATE TRIGGER b BEFORE INSERT ON written WHEN new.n = 902 BEGIN SELECT RAISE(FAIL, 'no'); END;
             CREATE TRIGGER c BEFORE INSERT ON written WHEN new.n = 903 BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
            3,
        ),
        Database::MySql(_) => (
            "CREATE TRIGGER a BEFORE INSERT ON written FOR EACH ROW
             IF new.n = 901 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no';
             ELSEIF new.n = 902 THEN SIGNAL SQLSTATE '45001' SET MYSQL_ERRNO = 5999, MESSAGE_TEXT = 'no';
             END IF",
            2,
        ),
        _ => (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.n = 901 THEN RAISE EXCEPTION 'no';
             ELSIF new.n = 902 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'ABC01';
             ELSIF new.n = 903 THEN ASSERT false, 'no'; END IF;
             RETURN new; END $$;
             CREATE TRIGGER a BEFORE INSERT ON written FOR EACH ROW EXECUTE FUNCTION refuse()",
            3,
        ),
    };
    support::databases::script(&home.pool, script)
        .await
        .unwrap();
    ways
}

/// The author of a trigger has refused these rows, and no repetition changes that.
async fn requests_that_a_trigger_refuses_are_dead_letters_after_one_attempt(home: Home) {
    let ways = triggers(&home).await;
    let town = town("raised", &home).await.with(|b| b.max_batch(20));
    with_pool!(&home.pool, pool => {
        let _worker = town.worker(SqlWriter::new(pool.clone(), Rows)).await;
        let mut all = requests(0, 20);
        for way in 0..ways {
            all[way * 5].payload = serde_json::json!({ "n": 901 + way });
        }
        town.submit(all).await;
        town.outcome("r00019").await;
        let stats = town.shut_down().await;
        assert_eq!((stats.written, stats.failed), (20 - ways as u64, ways as u64), "{stats:?}");
        let letters = SqlWriter::new(pool.clone(), Rows).dead_letters();
        let filter = temporal_batch::store::LetterFilter::of(town.batcher.name());
        for letter in letters.list(&filter, None, 10).await.unwrap() {
            assert_eq!((&*letter.error_type, letter.attempts), ("RaisedException", 1), "{letter:?}");
        }
    });
    assert_eq!(home.rows().await.len(), 20 - ways);
}

on_each! {
    requests_that_a_trigger_refuses_are_dead_letters_after_one_attempt,
    a_write_that_fails_at_first_is_committed_once,
    a_write_whose_commit_was_not_heard_of_is_committed_once,
    a_request_submitted_again_later_is_already_done,
    two_attempts_at_the_same_time_write_once,
    only_the_requests_that_a_constraint_refuses_become_dead_letters,
}
