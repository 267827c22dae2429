//! A ledger in SQLite: effects are committed once, whatever is run twice.

use std::{
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use proptest::prelude::*;
use sqlx::{
    ConnectOptions as _, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    Reducer, SkipAhead,
    settings::RetryPolicy,
    sql::SqlLedger,
    store::{DeadLetters, LetterFilter, PageLedger},
    testing::{Simulator, run_page},
};

use crate::block_on;

/// A processor that adds one to every row. A constraint refuses negative rows.
struct Increment {
    /// A connection that keeps the database in memory alive. The pool may close its own: a page can be dropped in the
    /// middle of its BEGIN.
    _keeper: SqliteConnection,
    pool: SqlitePool,
    ledger: Arc<SqlLedger<Sqlite>>,
    skips_ahead: bool,
    /// Every nth page fails after its work, unless it has failed three times before: otherwise a page might be given up
    /// whose every attempt is an nth one.
    fail_every: u64,
    calls: AtomicU64,
    uses_transaction: bool,
    /// The call of `process` that does its work and never returns.
    hangs_in_call: u64,
}

impl Increment {
    async fn over(rows: u64, poison: &[u64]) -> Self {
        let options = SqliteConnectOptions::from_str("sqlite::memory:").unwrap();
        let keeper = options.connect().await.unwrap();
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect_with(options).await.unwrap();
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await.unwrap();
        let create = "CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER NOT NULL CHECK (x <> -6))";
        sqlx::raw_sql(create).execute(&pool).await.unwrap();
        for id in 1..=rows {
            let x = if poison.contains(&id) { -7 } else { 0 };
            let insert = sqlx::query("INSERT INTO t VALUES (?, ?)")
                .bind(id as i64)
                .bind(x);
            insert.execute(&pool).await.unwrap();
        }
        Self {
            _keeper: keeper,
            pool,
            ledger,
            skips_ahead: true,
            fail_every: u64::MAX,
            calls: AtomicU64::new(0),
            uses_transaction: true,
            hangs_in_call: u64::MAX,
        }
    }

    async fn count(&self, what: &'static str) -> u64 {
        let count: i64 = sqlx::query_scalar(what)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        count.unsigned_abs()
    }
}

#[async_trait]
impl PageProcessor for Increment {
    const NAME: &'static str = "increment";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let ids =
            sqlx::query_scalar("SELECT id FROM t WHERE id > ? AND id <= ? ORDER BY id LIMIT ?")
                .bind(ctx.range().start().copied().unwrap_or(0))
                .bind(ctx.range().end().copied().unwrap_or(i64::MAX))
                .bind(ctx.page_size() as i64)
                .fetch_all(&self.pool)
                .await?;
        Page::keyset(ids, |id| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        if !self.uses_transaction {
            return Ok(PageReport::all_processed());
        }
        let mut transaction = ctx.transaction::<Sqlite>().await?;
        for id in &ids {
            let update = sqlx::query("UPDATE t SET x = x + 1 WHERE id = ?").bind(id);
            update.execute(&mut *transaction).await?;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if call == self.hangs_in_call {
            std::future::pending::<()>().await;
        }
        if call.is_multiple_of(self.fail_every) && ctx.attempt() <= 3 {
            return Err(PageError::retryable("made to fail after the work"));
        }
        let mut report = PageReport::all_processed();
        ids.iter().for_each(|id| report.output(id));
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        if !self.skips_ahead {
            return Ok(SkipAhead::Unsupported);
        }
        let rows = i64::from(pages) * ctx.page_size() as i64;
        let id = sqlx::query_scalar("SELECT id FROM t WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?")
            .bind(ctx.range().start().copied().unwrap_or(0))
            .bind(rows - 1)
            .fetch_optional(&self.pool)
            .await?;
        Ok(id.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    fn reducer(&self, _: &Self::Args) -> Option<Reducer> {
        Some(Reducer::record([
            ("rows", Reducer::count()),
            ("ids", Reducer::sum("")),
            ("last", Reducer::top(3, "")),
        ]))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().max_attempts(6).extended(None),
            ..ProcessorSettings::default()
        }
    }
}

/// The result of the rows without poison.
fn exact(rows: u64, poison: &[u64]) -> serde_json::Value {
    let done: Vec<u64> = (1..=rows).filter(|id| !poison.contains(id)).collect();
    let last: Vec<u64> = done.iter().rev().take(3).copied().collect();
    serde_json::json!({"rows": done.len(), "ids": done.iter().sum::<u64>(), "last": last})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_incremented_once_and_the_counters_are_exact(
        rows in 0u64..120,
        page_size in 1u32..30,
        stride in 1u32..6,
        skips_ahead in any::<bool>(),
        lose_every in prop::option::of(1u64..5),
        fail_every in 2u64..9,
        poison in prop::collection::btree_set(1u64..120, 0..4),
    ) {
        let poison: Vec<u64> = poison.into_iter().filter(|p| *p <= rows).collect();
        let k = poison.len() as u64;
        block_on(async {
            let over = Increment::over(rows, &poison).await;
            // A page with poison fails for a reason; the failure of another page passes at the next attempt.
            let fail_every = if k == 0 { fail_every } else { u64::MAX };
            let processor = Increment { skips_ahead, fail_every, ..over };
            let batch = Batch::of::<Increment>("b", ()).page_size(page_size).stride(stride);
            let mut simulator = Simulator::new().duplicate_announcements();
            if let Some(every) = lose_every {
                simulator = simulator.lose_worker_every(every);
            }
            let run = simulator.run(&processor, &batch).await.unwrap();
            prop_assert_eq!(run.items.processed, rows - k);
            prop_assert_eq!(run.items.failed, k);
            prop_assert_eq!(run.pages, rows.div_ceil(u64::from(page_size)));
            prop_assert_eq!(&run.output, &Some(exact(rows, &poison)), "{:?}", run.output_error);
            let right = "SELECT count(*) FROM t WHERE x = 1";
            prop_assert_eq!(processor.count(right).await, rows - k);
            let letters = processor.ledger.list(&LetterFilter::of("b"), None, 1_000).await.unwrap();
            let mut keys: Vec<u64> = letters.iter().map(|l| l.key.as_ref().unwrap().parse().unwrap()).collect();
            keys.sort_unstable();
            prop_assert_eq!(keys, poison);
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The batch is paused at any moment of `process`, before its first statement and after its last, and while poison
    /// is being isolated.
    #[test]
    fn every_row_is_incremented_once_however_often_the_batch_is_paused_at_once(
        rows in 1u64..120,
        page_size in 1u32..30,
        stride in 1u32..6,
        skips_ahead in any::<bool>(),
        pause_every in 2u64..5,
        micros in 0u64..3_000,
        stop_before in prop::option::of(2u64..5),
        lose_every in prop::option::of(1u64..5),
        fail_every in 2u64..9,
        poison in prop::collection::btree_set(1u64..120, 0..3),
    ) {
        let poison: Vec<u64> = poison.into_iter().filter(|p| *p <= rows).collect();
        let k = poison.len() as u64;
        block_on(async {
            let over = Increment::over(rows, &poison).await;
            let fail_every = if k == 0 { fail_every } else { u64::MAX };
            let processor = Increment { skips_ahead, fail_every, ..over };
            let batch = Batch::of::<Increment>("b", ()).page_size(page_size).stride(stride);
            let mut simulator = Simulator::new()
                .pause_now_every(pause_every, Duration::from_micros(micros));
            if let Some(every) = stop_before {
                simulator = simulator.stop_before_every(every);
            }
            if let Some(every) = lose_every {
                simulator = simulator.lose_worker_every(every);
            }
            let run = simulator.run(&processor, &batch).await.unwrap();
            prop_assert_eq!(run.items.processed, rows - k);
            prop_assert_eq!(run.items.failed, k);
            if k == 0 {
                // Poison that is only half isolated splits the remaining rows into other pages.
                prop_assert_eq!(run.pages, rows.div_ceil(u64::from(page_size)));
            }
            prop_assert_eq!(&run.output, &Some(exact(rows, &poison)), "{:?}", run.output_error);
            let right = "SELECT count(*) FROM t WHERE x = 1";
            prop_assert_eq!(processor.count(right).await, rows - k);
            let letters = processor.ledger.list(&LetterFilter::of("b"), None, 1_000).await.unwrap();
            let mut keys: Vec<u64> = letters.iter().map(|l| l.key.as_ref().unwrap().parse().unwrap()).collect();
            keys.sort_unstable();
            prop_assert_eq!(keys, poison);
            Ok(())
        })?;
    }
}

#[test]
fn a_page_that_hangs_is_dropped_by_a_pause_at_once_and_rolled_back() {
    block_on(async {
        let over = Increment::over(30, &[]).await;
        let processor = Increment {
            hangs_in_call: 2,
            ..over
        };
        let batch = Batch::of::<Increment>("b", ()).page_size(10);
        // The pause comes for each order, and late: on a busy machine an early one would precede the call that hangs.
        let simulator = Simulator::new().pause_now_every(1, Duration::from_millis(500));
        let running = simulator.run(&processor, &batch);
        let run = tokio::time::timeout(Duration::from_secs(60), running).await;
        let run = run.expect("the pause does not wait for the page").unwrap();
        assert_eq!(run.outcome, Outcome::Completed);
        assert_eq!((run.pages, run.retries), (3, 0), "an attempt was used up");
        assert!(run.told_to_stop >= 1);
        assert_eq!(
            processor.count("SELECT count(*) FROM t WHERE x = 1").await,
            30
        );
    });
}

/// Each trial has a run of its own, so that a page can be tried repeatedly.
#[test]
fn a_page_can_be_tried_with_a_ledger() {
    block_on(async {
        let processor = Increment::over(30, &[]).await;
        for times in 1..=2 {
            let run = run_page(&processor, (), None).await.unwrap();
            assert_eq!(run.items, 30);
            assert_eq!(run.output, Some(exact(30, &[])));
            let total = "SELECT sum(x) FROM t";
            assert_eq!(processor.count(total).await, 30 * times);
        }
    });
}

#[test]
fn work_outside_the_transaction_is_an_error_of_the_code_and_not_of_the_page() {
    block_on(async {
        let over = Increment::over(30, &[]).await;
        let processor = Increment {
            uses_transaction: false,
            ..over
        };
        let error = run_page(&processor, (), None).await.unwrap_err();
        assert_eq!(error.error_type(), "TransactionNotUsed");
        let all = LetterFilter::of("test");
        let letters = processor.ledger.list(&all, None, 10).await.unwrap();
        assert!(letters.is_empty(), "the page should wait for other code");
        let batch = Batch::of::<Increment>("b", ()).page_size(10);
        let repaired = Increment {
            uses_transaction: true,
            ..processor
        };
        let run = Simulator::new().run(&repaired, &batch).await.unwrap();
        assert_eq!(run.outcome, Outcome::Completed);
    });
}
