//! Records that cannot be processed, among many that can.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{PgPool, Postgres};
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, SkipAhead,
    settings::RetryPolicy,
    sql::SqlLedger,
    store::{DeadLetter, DeadLetters, LetterFilter, PageLedger},
};

use crate::{
    id_pages::{page_of, skip},
    support::{TestEnv, report, servers},
};

const ROWS: i64 = 100_000;
const PAGE: i64 = 1_000;
/// The attempts at a page before it is split.
const ATTEMPTS: u32 = 2;

/// A processor that turns amounts given as text into numbers. Some of the texts are no numbers.
#[derive(Clone)]
struct ParseAmounts {
    pool: PgPool,
    ledger: Arc<SqlLedger<Postgres>>,
    calls: Arc<AtomicU64>,
    /// Whether the code is the repaired one, which reads invalid numbers as nothing.
    lenient: bool,
}

impl ParseAmounts {
    /// Creates a table in which the rows with these ids cannot be parsed.
    async fn with_poison(pool: PgPool, poison: &[i64]) -> Self {
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE amounts (id bigint PRIMARY KEY, amount text NOT NULL, cents bigint,
                                   writes integer NOT NULL DEFAULT 0)",
        )
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO amounts (id, amount) SELECT n, n::text FROM generate_series(1, $1) AS n",
        )
        .bind(ROWS)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query("UPDATE amounts SET amount = 'a lot' WHERE id = ANY($1)")
            .bind(poison)
            .execute(&pool)
            .await
            .unwrap();
        Self {
            pool,
            ledger,
            calls: Arc::default(),
            lenient: false,
        }
    }

    async fn letters(&self, batch_id: &str) -> Vec<DeadLetter> {
        let filter = LetterFilter::of(batch_id);
        self.ledger.list(&filter, None, 10_000).await.unwrap()
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

#[async_trait]
impl PageProcessor for ParseAmounts {
    const NAME: &'static str = "parse-amounts";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let select = "SELECT id FROM amounts WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        page_of(&self.pool, select, ctx).await
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut transaction = ctx.transaction::<Postgres>().await?;
        let parse = if self.lenient {
            "UPDATE amounts SET cents = 0, writes = writes + 1 WHERE id = ANY($1)"
        } else {
            "UPDATE amounts SET cents = amount::bigint, writes = writes + 1 WHERE id = ANY($1)"
        };
        sqlx::query(parse)
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        Ok(skip(ctx, pages, ROWS))
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default()
                .max_attempts(ATTEMPTS)
                .initial_interval(Duration::from_millis(20))
                .extended(None),
            ..ProcessorSettings::default()
        }
    }
}

/// Runs the batch over a table with this poison, and checks its dead letters and rows.
async fn isolates(name: &str, poison: Vec<i64>) {
    let Some(postgres) = servers::Postgres::shared() else {
        return;
    };
    let env = TestEnv::new(name).await;
    let amounts = ParseAmounts::with_poison(postgres.pool(name, 10).await, &poison).await;
    let _worker = env.worker(amounts.clone()).await;
    let batch = env
        .batch::<ParseAmounts>(())
        .page_size(PAGE as u32)
        .stride(5);
    let handle = env.start(&batch.max_parallelism(4)).await;
    let report = report(&handle).await;

    let expected = if poison.is_empty() {
        Outcome::Completed
    } else {
        Outcome::CompletedWithFailures
    };
    assert_eq!(report.outcome, expected, "{:?}", report.reason);
    let k = poison.len() as u64;
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (ROWS as u64 - k, k));
    assert_eq!(report.progress.pages_failed, 0);
    assert_eq!(report.progress.pages_completed, (ROWS / PAGE) as u64);

    let letters = amounts.letters(handle.id()).await;
    let mut keys: Vec<i64> = letters
        .iter()
        .map(|l| l.key.as_ref().unwrap().parse().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, poison, "one dead letter for each poison record");
    for letter in &letters {
        assert_eq!(
            letter.end.as_ref().unwrap().as_str(),
            letter.key.as_ref().unwrap()
        );
        assert_eq!(letter.error_type, "InvalidData");
        let message = &letter.message;
        assert!(message.contains("invalid input syntax"), "{message}");
        assert!(!message.contains("a lot"), "quotes a row: {message}");
        assert_eq!(letter.attempts, 1, "a poison record was tried again");
    }
    let done = "SELECT count(*) FROM amounts WHERE cents = id AND writes = 1";
    assert_eq!(
        amounts.count(done).await,
        ROWS - k as i64,
        "another row was not done exactly once"
    );

    let kept = amounts.ledger.reports(handle.id()).await.unwrap();
    assert_eq!(kept, [report], "the kept report should be the final one");

    // Every page once, and the most attempts that splitting pages may cost.
    let pages: std::collections::BTreeSet<i64> = poison.iter().map(|id| (id - 1) / PAGE).collect();
    let pages = pages.len() as u64;
    let halvings = u64::from((PAGE as u64).next_power_of_two().ilog2());
    let splitting = (2 * k * halvings).min(2 * PAGE as u64 * pages);
    let bound = (ROWS / PAGE) as u64 + splitting;
    let calls = amounts.calls.load(Ordering::Relaxed);
    assert!(
        calls <= bound,
        "{calls} attempts, at most {bound} are allowed"
    );
    println!("{k} of {ROWS} rows poisoned: {calls} attempts, bound {bound}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_poison_no_letters() {
    isolates("poison-0", Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poison_record_is_one_dead_letter() {
    isolates("poison-1", vec![31_415]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_poison_records_are_seven_dead_letters() {
    // The first and the last row of all, two neighbours, two of one page.
    isolates(
        "poison-7",
        vec![1, 500, 27_182, 27_183, 40_000, 77_001, ROWS],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_page_of_poison_is_a_page_of_dead_letters() {
    isolates("poison-page", (52_001..=53_000).collect()).await;
}

/// The redrive processes the failed records with the code that was deployed later, each once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_with_repaired_code_empties_the_dead_letters() {
    let Some(postgres) = servers::Postgres::shared() else {
        return;
    };
    let env = TestEnv::new("redrive").await;
    let poison = [7, 1_999, 50_000, 50_001];
    let amounts = ParseAmounts::with_poison(postgres.pool("redrive", 20).await, &poison).await;
    let worker = env.worker(amounts.clone()).await;
    let batch = env.batch::<ParseAmounts>(()).page_size(PAGE as u32);
    let first = env.start(&batch).await;
    assert_eq!(report(&first).await.progress.items.failed, 4);

    // The same code fails again, and no record is lost.
    let again = env
        .client
        .redrive(LetterFilter::of(first.id()))
        .await
        .unwrap();
    let failed = report(&again).await;
    assert_eq!(failed.outcome, Outcome::CompletedWithFailures);
    assert_eq!(failed.progress.redrive_of.as_deref(), Some(first.id()));
    assert_eq!(failed.progress.items.failed, 4);
    let letters = amounts.letters(first.id()).await;
    assert_eq!(letters.len(), 4);
    assert!(
        letters
            .iter()
            .all(|l| l.attempts > 1 && l.first_at < l.last_at)
    );

    worker.stop().await.unwrap();
    let repaired = ParseAmounts {
        lenient: true,
        ..amounts.clone()
    };
    let _worker = env.worker(repaired).await;
    // Two redrives run at once: neither repeats a record of the other.
    let filter = || LetterFilter::of(first.id());
    let (one, other) = tokio::join!(env.client.redrive(filter()), env.client.redrive(filter()));
    let (one, other) = (report(&one.unwrap()).await, report(&other.unwrap()).await);
    assert_eq!(
        (one.outcome, other.outcome),
        (Outcome::Completed, Outcome::Completed)
    );
    let done = one.progress.items.processed + other.progress.items.processed;
    assert_eq!(
        done, 4,
        "{:?} {:?}",
        one.progress.items, other.progress.items
    );
    assert!(amounts.letters(first.id()).await.is_empty());
    assert_eq!(
        amounts
            .count("SELECT count(*) FROM amounts WHERE writes <> 1")
            .await,
        0
    );
}
