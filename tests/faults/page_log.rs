//! A log of pages in their database, by its clock: pages are counted where they work, so that an ignored limit shows.

use std::time::Duration;

use sqlx::PgPool;
use temporal_batch::{PageContext, PageError, PageProcessor};

/// A page is in flight from `began` until `ended`, or until its process was gone. Changes at the same moment are
/// summed, so that a page that follows another one is not in flight beside it.
const SCHEMA: &str = "
CREATE TABLE visit (
    id bigserial PRIMARY KEY, worker integer NOT NULL, batch text NOT NULL, stride bigint NOT NULL,
    start bigint NOT NULL, items integer NOT NULL,
    began timestamptz NOT NULL DEFAULT clock_timestamp(), ended timestamptz
);
CREATE TABLE gone (worker integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE VIEW stay AS
    SELECT visit.*, coalesce(
        visit.ended, CASE WHEN gone.at IS NOT NULL THEN greatest(visit.began, gone.at) END, 'infinity'
    ) AS until
    FROM visit LEFT JOIN gone USING (worker);
CREATE VIEW level AS
    SELECT batch, at, sum(sum(change)) OVER (PARTITION BY batch ORDER BY at)::bigint AS pages
    FROM (
        SELECT batch, began AS at, 1 AS change FROM stay
        UNION ALL SELECT batch, until, -1 FROM stay
    ) AS changes
    GROUP BY batch, at;
";

/// Seconds since 1970, by the clock of the database.
pub type Moment = f64;

/// The log to which pages report their beginning and end, over connections of its own.
#[derive(Clone)]
pub struct PageLog {
    pool: PgPool,
}

/// The unit of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Items,
    Pages,
}

/// # Write
impl PageLog {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub async fn create_tables(&self) {
        sqlx::raw_sql(SCHEMA).execute(&self.pool).await.unwrap();
    }

    /// Records the beginning of a page.
    pub async fn enter<P: PageProcessor>(
        &self,
        ctx: &PageContext<P>,
        (start, items): (i64, usize),
    ) -> Result<i64, PageError> {
        let enter = "INSERT INTO visit (worker, batch, stride, start, items) \
            VALUES ($1, $2, $3, $4, $5) RETURNING id";
        let visit = sqlx::query_scalar(enter)
            .bind(i32::try_from(std::process::id()).unwrap())
            .bind(ctx.batch_id())
            .bind(i64::try_from(ctx.stride()).unwrap())
            .bind(start)
            .bind(i32::try_from(items).unwrap())
            .fetch_one(&self.pool)
            .await?;
        Ok(visit)
    }

    /// Records the end of a page.
    pub async fn leave(&self, visit: i64) -> Result<(), PageError> {
        let leave = "UPDATE visit SET ended = clock_timestamp() WHERE id = $1";
        sqlx::query(leave).bind(visit).execute(&self.pool).await?;
        Ok(())
    }

    /// Holds up all pages at their beginning or end, as a table lock in the database of a user does.
    pub async fn hold_up(&self, time: Duration) {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE visit IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await
            .unwrap();
        tokio::time::sleep(time).await;
        transaction.rollback().await.unwrap();
    }

    /// Records that this process was killed, so that none of its pages is in flight any more.
    pub async fn is_gone(&self, worker: u32) {
        sqlx::query("INSERT INTO gone (worker) VALUES ($1)")
            .bind(i32::try_from(worker).unwrap())
            .execute(&self.pool)
            .await
            .unwrap();
    }
}

/// # Count
impl PageLog {
    pub async fn now(&self) -> Moment {
        sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The number of pages that began in `[from, to)`, and of their items.
    pub async fn begun(&self, batch: &str, (from, to): (Moment, Moment)) -> (i64, i64) {
        let begun = "SELECT count(*), coalesce(sum(items), 0)::bigint FROM visit \
            WHERE batch = $1 AND began >= to_timestamp($2) AND began < to_timestamp($3)";
        sqlx::query_as(begun)
            .bind(batch)
            .bind(from)
            .bind(to)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The moments at which the first and the latest page began.
    pub async fn span(&self, batch: &str) -> Option<(Moment, Moment)> {
        let span = "SELECT extract(epoch FROM min(began))::float8, \
            extract(epoch FROM max(began))::float8 FROM visit WHERE batch = $1";
        let (first, last): (Option<f64>, Option<f64>) = sqlx::query_as(span)
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        first.zip(last)
    }

    /// The most pages in flight at any moment of `[from, to)`, counted at every change.
    pub async fn most_in_flight(&self, batch: &str, (from, to): (Moment, Moment)) -> i64 {
        let most = "SELECT coalesce(max(pages), 0) FROM level \
            WHERE batch = $1 AND at >= to_timestamp($2) AND at < to_timestamp($3)";
        sqlx::query_scalar(most)
            .bind(batch)
            .bind(from)
            .bind(to)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The most units that began in a window of this many seconds, of all windows that start where a page of `[from,
    /// to)` began.
    pub async fn most_in_a_window(
        &self,
        batch: &str,
        unit: Unit,
        seconds: f64,
        (from, to): (Moment, Moment),
    ) -> i64 {
        let most = "SELECT coalesce(max(total), 0)::bigint FROM (
                SELECT sum(CASE WHEN $2 THEN items ELSE 1 END) OVER (
                    ORDER BY began RANGE BETWEEN CURRENT ROW AND make_interval(secs => $3) FOLLOWING
                ) AS total
                FROM visit
                WHERE batch = $1 AND began >= to_timestamp($4) AND began < to_timestamp($5)
            ) AS windows";
        sqlx::query_scalar(most)
            .bind(batch)
            .bind(unit == Unit::Items)
            .bind(seconds)
            .bind(from)
            .bind(to)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The longest time in `[from, to)` in which no page began, and its start.
    pub async fn longest_gap(&self, batch: &str, (from, to): (Moment, Moment)) -> (f64, Moment) {
        let gap =
            "SELECT extract(epoch FROM began - before)::float8, extract(epoch FROM before)::float8
            FROM (
                SELECT began, lag(began) OVER (ORDER BY began) AS before FROM visit
                WHERE batch = $1 AND began >= to_timestamp($2) AND began < to_timestamp($3)
            ) AS gaps
            WHERE before IS NOT NULL ORDER BY began - before DESC LIMIT 1";
        sqlx::query_as(gap)
            .bind(batch)
            .bind(from)
            .bind(to)
            .fetch_optional(&self.pool)
            .await
            .unwrap()
            .unwrap_or_default()
    }

    /// The process with the most pages in flight.
    pub async fn busiest(&self, batch: &str) -> Option<u32> {
        let busiest = "SELECT worker FROM stay WHERE batch = $1 AND until = 'infinity' \
            GROUP BY worker ORDER BY count(*) DESC LIMIT 1";
        let worker: Option<i32> = sqlx::query_scalar(busiest)
            .bind(batch)
            .fetch_optional(&self.pool)
            .await
            .unwrap();
        worker.map(|pid| u32::try_from(pid).unwrap())
    }

    /// The moment at which the latest page ended.
    pub async fn last_end(&self, batch: &str) -> Moment {
        let last = "SELECT extract(epoch FROM max(ended))::float8 FROM visit WHERE batch = $1";
        sqlx::query_scalar(last)
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The number of pages in flight now.
    pub async fn in_flight(&self, batch: &str) -> i64 {
        let now = "SELECT count(*) FROM stay WHERE batch = $1 AND until = 'infinity'";
        sqlx::query_scalar(now)
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The number of processes that had pages.
    pub async fn workers(&self, batch: &str) -> i64 {
        sqlx::query_scalar("SELECT count(DISTINCT worker) FROM visit WHERE batch = $1")
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}
