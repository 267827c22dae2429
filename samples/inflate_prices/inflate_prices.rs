//! Raises every price of a shop by a percentage, in place.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporal_batch::sqlx::SqlitePool;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageRange, PageReport, ProcessorSettings, Size,
    SkipAhead, async_trait, settings::RetryPolicy, sqlx,
};

use super::products::hash;

/// A processor that raises every price of the table `products`.
///
/// # Why a page may run twice
///
/// Pages run at least once: a page runs again when its worker is lost between the commit and the report. "Raise by ten
/// percent" is not idempotent, so each row records whether it has been raised: the price and its `price_version` change
/// in the same statement, which touches only rows of version 1. A second run finds none of them and changes nothing,
/// which [injected failures](Self::fail_rate) demonstrate. For the same reason a second batch changes nothing either.
pub struct InflatePrices {
    pool: SqlitePool,
    fail_rate: f64,
}

/// The arguments of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The percentage of the raise; 10 by default.
    #[serde(default = "ten")]
    pub percent: u32,
}

fn ten() -> u32 {
    10
}

/// The columns of a product that the raise needs.
pub struct Priced {
    id: i64,
    price_cents: i64,
}

impl InflatePrices {
    /// Creates a processor for a database of [`products`](super::products).
    pub fn new(pool: SqlitePool) -> Self {
        Self {
            pool,
            fail_rate: 0.0,
        }
    }

    /// Makes this share of the attempts fail on purpose, half of them before the page is written and half of them
    /// after. From the fourth attempt on a page no longer fails. 0 or less means never, 1 or more always.
    #[must_use]
    pub fn fail_rate(mut self, share: f64) -> Self {
        self.fail_rate = share;
        self
    }
}

#[async_trait]
impl PageProcessor for InflatePrices {
    const NAME: &'static str = "inflate-prices";
    type Args = Args;
    type Cursor = i64;
    type Item = Priced;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, Priced>, PageError> {
        let (after, until) = bounds(ctx.range());
        let query = sqlx::query_as(
            "SELECT id, price_cents FROM products WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        );
        let query = query.bind(after).bind(until).bind(ctx.page_size() as i64);
        let rows: Vec<(i64, i64)> = query.fetch_all(&self.pool).await?;
        let items = rows.into_iter();
        let items = items.map(|(id, price_cents)| Priced { id, price_cents });
        Page::keyset(items.collect(), |product| product.id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Priced>,
    ) -> Result<PageReport, PageError> {
        let failure = self.failure(ctx);
        if failure == Some(Failure::BeforeWrite) {
            return Err(database_busy("before the page was written"));
        }
        self.raise(&items, ctx.args().percent).await?;
        if failure == Some(Failure::AfterWrite) {
            return Err(database_busy("after the page was written"));
        }

        let mut report = PageReport::all_processed();
        for _free_sample in items.iter().filter(|product| product.price_cents == 0) {
            report.skip("a free sample");
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        let (after, until) = bounds(ctx.range());
        let items = i64::from(pages) * ctx.page_size() as i64;
        let last_skipped = sqlx::query_scalar(
            "SELECT id FROM products WHERE id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
        );
        let last_skipped = last_skipped.bind(after).bind(until).bind(items - 1);
        let id = last_skipped.fetch_optional(&self.pool).await?;
        Ok(id.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    async fn size(&self, _args: &Args) -> Result<Size, PageError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM products");
        let count: i64 = count.fetch_one(&self.pool).await?;
        Ok(Size::Exact(count.cast_unsigned()))
    }

    /// A busy database is soon free again, so the first retry comes quickly.
    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().initial_interval(Duration::from_millis(200)),
            ..ProcessorSettings::default()
        }
    }
}

impl InflatePrices {
    /// Raises the prices of a page in one statement, which is one transaction: a page is written as a whole or not at
    /// all. The statement takes SQLite's only write lock when it begins, and waits for it as long as necessary. A
    /// transaction that read first would be refused with "database is locked" if another page was written meanwhile.
    ///
    /// The new price is computed in whole cents, with half a cent rounded up.
    async fn raise(&self, items: &[Priced], percent: u32) -> Result<(), sqlx::Error> {
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return Ok(());
        };
        sqlx::query(
            "UPDATE products
             SET price_cents = (price_cents * (100 + ?) + 50) / 100, price_version = 2
             WHERE id BETWEEN ? AND ? AND price_version = 1 AND price_cents > 0",
        )
        .bind(percent)
        .bind(first.id)
        .bind(last.id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    fn failure(&self, ctx: &PageContext<Self>) -> Option<Failure> {
        injected_failure(self.fail_rate, bounds(ctx.range()).0, ctx.attempt())
    }
}

/// The bounds of a range in SQL: ids after the first number, up to and including the second.
fn bounds(range: &PageRange<i64>) -> (i64, i64) {
    let after = range.start().copied().unwrap_or(i64::MIN);
    let until = range.end().copied().unwrap_or(i64::MAX);
    (after, until)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    BeforeWrite,
    AfterWrite,
}

/// The attempts at one page that may be made to fail.
const MAX_INJECTED: u32 = 3;

/// Whether an attempt at the page after `start` should fail. A hash decides, so that every run with the same data has
/// the same failures, whatever the order of its pages.
fn injected_failure(share: f64, start: i64, attempt: u32) -> Option<Failure> {
    let hash = hash([start.cast_unsigned(), u64::from(attempt)]);
    // The upper half decides whether, from 0 to just under 1; the lowest bit decides when.
    let drawn = (hash >> 32) as f64 / 2f64.powi(32);
    if attempt > MAX_INJECTED || drawn >= share {
        None
    } else if hash.is_multiple_of(2) {
        Some(Failure::BeforeWrite)
    } else {
        Some(Failure::AfterWrite)
    }
}

fn database_busy(when: &str) -> PageError {
    PageError::retryable(format_args!("database is locked ({when}; injected)"))
        .with_type("DatabaseBusy")
}

#[cfg(test)]
mod tests {
    use futures::future::try_join_all;
    use temporal_batch::{
        Batch, Outcome, Registry,
        testing::{Simulator, run_page},
    };

    use super::{
        super::products::{self, Verification},
        *,
    };

    const ROWS: u64 = 10_000;
    const TEN: Args = Args { percent: 10 };

    struct Shop {
        dir: tempfile::TempDir,
        pool: SqlitePool,
    }

    impl Shop {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let pool = products::create(&dir.path().join("products.db"), ROWS, 1).await;
            let pool = pool.unwrap();
            Self { dir, pool }
        }

        fn inflate(&self) -> InflatePrices {
            InflatePrices::new(self.pool.clone())
        }

        async fn verify(&self, percent: u32) -> Verification {
            products::verify(&self.pool, percent).await.unwrap()
        }

        async fn count(&self, query: &'static str) -> u64 {
            let count = sqlx::query_scalar::<_, i64>(query);
            count.fetch_one(&self.pool).await.unwrap().cast_unsigned()
        }

        /// The starts of the pages of 1,000.
        async fn starts(&self) -> Vec<Option<i64>> {
            let query = "SELECT id FROM products ORDER BY id LIMIT 1 OFFSET ?";
            let mut starts = vec![None];
            for last in (999..ROWS.cast_signed() - 1).step_by(1_000) {
                let id = sqlx::query_scalar(query).bind(last).fetch_one(&self.pool);
                starts.push(Some(id.await.unwrap()));
            }
            starts
        }
    }

    #[tokio::test]
    async fn every_row_is_raised_once_whatever_fails() {
        for stride in [1, 4] {
            let shop = Shop::new().await;
            let batch = Batch::of::<InflatePrices>("raise", TEN).page_size(100);
            let simulator = Simulator::new()
                .lose_worker_every(3)
                .duplicate_announcements();
            let processor = shop.inflate().fail_rate(0.3);
            let run = simulator.run(&processor, &batch.stride(stride)).await;
            let run = run.unwrap();
            assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
            assert_eq!(run.pages, ROWS / 100);
            assert!(run.retries >= 20 && run.lost_workers >= 5, "{run:?}");

            let free = "SELECT count(*) FROM products WHERE price_cents = 0";
            let free = shop.count(free).await;
            assert_eq!(
                (run.items.processed, run.items.skipped),
                (ROWS - free, free)
            );
            let found = shop.verify(10).await;
            assert!(found.is_right(), "{found:?}");
            assert_eq!(found.right, ROWS);
        }
    }

    #[tokio::test]
    async fn a_page_that_runs_twice_is_raised_once() {
        let shop = Shop::new().await;
        let first = run_page(&shop.inflate(), TEN, None).await.unwrap();
        let total = "SELECT sum(price_cents) FROM products";
        let once = shop.count(total).await;
        let again = run_page(&shop.inflate(), TEN, None).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(shop.count(total).await, once);
    }

    #[tokio::test]
    async fn free_samples_are_skipped() {
        let shop = Shop::new().await;
        let page = run_page(&shop.inflate(), TEN, None).await.unwrap();
        assert_eq!(page.items, 1_000);
        assert!(page.counts.skipped > 0);
        let raised = "SELECT count(*) FROM products WHERE price_version = 2";
        assert_eq!(shop.count(raised).await, page.counts.processed);
    }

    #[tokio::test]
    async fn half_cents_are_rounded_up_whatever_the_percentage() {
        for percent in [0, 1, 7, 50, 250] {
            let shop = Shop::new().await;
            let batch = Batch::of::<InflatePrices>("raise", Args { percent });
            let run = Simulator::new().run(&shop.inflate(), &batch).await.unwrap();
            assert_eq!(run.outcome, Outcome::Completed);
            let found = shop.verify(percent).await;
            assert!(found.is_right(), "{percent} %: {found:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn pages_of_two_workers_never_meet_a_locked_database() {
        let shop = Shop::new().await;
        let path = shop.dir.path().join("products.db");
        let other_worker = products::open(&path).await.unwrap();
        let starts = shop.starts().await;
        let twice = starts.iter().chain(&starts).enumerate();
        let pages = twice.map(|(n, start)| {
            let pool = [&shop.pool, &other_worker][n % 2].clone();
            let start = *start;
            tokio::spawn(async move { run_page(&InflatePrices::new(pool), TEN, start).await })
        });
        for page in try_join_all(pages).await.unwrap() {
            assert_eq!(page.unwrap().items, 1_000);
        }
        assert!(shop.verify(10).await.is_right());
    }

    #[tokio::test]
    async fn an_injected_failure_leaves_its_page_written_or_untouched() {
        let shop = Shop::new().await;
        let raised = "SELECT count(*) FROM products WHERE price_version = 2";
        let mut seen = Vec::new();
        for start in shop.starts().await {
            let before = shop.count(raised).await;
            let processor = shop.inflate().fail_rate(1.0);
            let error = run_page(&processor, TEN, start).await.unwrap_err();
            assert_eq!(error.error_type(), "DatabaseBusy");
            assert!(error.is_retryable());
            let written = shop.count(raised).await > before;
            assert_eq!(error.message().contains("after"), written, "{error}");
            seen.push(written);
        }
        assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
    }

    #[test]
    fn failures_occur_at_the_given_rate_and_never_at_the_fourth_attempt() {
        let pages = || (0..10_000).map(|n| n * 1_130);
        for (share, expected) in [(-1.0, 0..=0), (0.0, 0..=0), (0.3, 2_850..=3_150)] {
            for attempt in 1..=3 {
                let failures = pages().filter_map(|start| injected_failure(share, start, attempt));
                let failures: Vec<_> = failures.collect();
                assert!(expected.contains(&failures.len()), "{}", failures.len());
                let before = failures.iter().filter(|f| **f == Failure::BeforeWrite);
                let before = before.count();
                assert!(before.abs_diff(failures.len() - before) <= 150, "{before}");
            }
        }
        assert!(pages().all(|start| injected_failure(1.0, start, 1).is_some()));
        assert!(pages().all(|start| injected_failure(1.0, start, 4).is_none()));
    }

    #[tokio::test]
    async fn the_size_is_the_number_of_rows() {
        let shop = Shop::new().await;
        let size = shop.inflate().size(&TEN).await.unwrap();
        assert_eq!(size, Size::Exact(ROWS));
    }

    #[tokio::test]
    async fn a_worker_accepts_the_processor() {
        let shop = Shop::new().await;
        let mut registry = Registry::new();
        registry.register(shop.inflate()).unwrap();
        assert_eq!(registry.names(), ["inflate-prices"]);
    }

    #[test]
    fn the_percentage_is_ten_by_default_and_never_negative() {
        let args = |text| serde_json::from_str::<Args>(text);
        assert_eq!(args("{}").unwrap(), TEN);
        assert_eq!(args(r#"{"percent": 3}"#).unwrap().percent, 3);
        assert!(args(r#"{"percent": -3}"#).is_err());
        assert!(args(r#"{"precent": 3}"#).is_err());
    }
}
