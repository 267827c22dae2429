//! The batch: an endless update of all rows of a large table.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::PgPool;
use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead};

/// A processor that adds 1 to every row, in laps over the table that never end.
///
/// A position is the number of rows before it, including those of earlier laps. So the batch does not run out of rows
/// while it is measured.
pub struct AddOne {
    pub pool: PgPool,
    pub rows: i64,
    pub log: Arc<PageLog>,
}

/// The times at which pages were fetched and updated.
#[derive(Debug, Default)]
pub struct PageLog {
    /// The current page of each stride, whose pages run one after the other.
    running: Mutex<BTreeMap<u64, Instant>>,
    done: Mutex<Vec<PageDone>>,
}

#[derive(Clone, Copy, Debug)]
pub struct PageDone {
    pub began: Instant,
    pub ended: Instant,
    pub rows: u64,
}

impl PageDone {
    pub fn took(&self) -> Duration {
        self.ended - self.began
    }

    /// The part of the page's time that lies between these times.
    pub fn share(&self, from: Instant, to: Instant) -> f64 {
        let inside = self
            .ended
            .min(to)
            .saturating_duration_since(self.began.max(from));
        inside.as_secs_f64() / self.took().as_secs_f64().max(1e-9)
    }
}

impl PageLog {
    fn began(&self, stride: u64) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(stride, Instant::now());
    }

    fn ended(&self, stride: u64, rows: u64) {
        let ended = Instant::now();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(began) = running.remove(&stride) {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push(PageDone { began, ended, rows });
        }
    }

    pub fn is_empty(&self) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.is_empty()
    }

    /// Takes all pages, so that the next batch begins with an empty record.
    pub fn take(&self) -> Vec<PageDone> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.clear();
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AddOne {
    /// The first position of the lap that contains the next row, and the last id before that row.
    fn lap(&self, position: i64) -> (i64, i64) {
        let id = position % self.rows;
        (position - id, id)
    }
}

#[async_trait]
impl PageProcessor for AddOne {
    const NAME: &'static str = "add-one";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        self.log.began(ctx.stride());
        let (lap, after) = self.lap(ctx.range().start().copied().unwrap_or(0));
        let up_to = ctx.range().end().map_or(self.rows, |end| end - lap);
        let select = "SELECT id FROM accounts_big WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        let ids: Vec<i64> = sqlx::query_scalar(select)
            .bind(after)
            .bind(up_to)
            .bind(i64::try_from(ctx.page_size())?)
            .fetch_all(&self.pool)
            .await?;
        Page::keyset(ids.into_iter().map(|id| lap + id).collect(), |p| *p)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        positions: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else {
            return Ok(PageReport::all_processed());
        };
        // A page ends at the end of a lap at the latest.
        let (lap, before) = self.lap(first - 1);
        let update = "UPDATE accounts_big SET x = x + 1 WHERE id > $1 AND id <= $2";
        let updated = sqlx::query(update)
            .bind(before)
            .bind(last - lap)
            .execute(&self.pool)
            .await?
            .rows_affected();
        self.log.ended(ctx.stride(), updated);
        Ok(PageReport::all_processed().changed(updated))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        let (lap, after) = self.lap(ctx.range().start().copied().unwrap_or(0));
        let rows = i64::from(pages) * i64::try_from(ctx.page_size())?;
        let select = "SELECT id FROM accounts_big WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1";
        let id: Option<i64> = sqlx::query_scalar(select)
            .bind(after)
            .bind(rows - 1)
            .fetch_optional(&self.pool)
            .await?;
        Ok(SkipAhead::To(lap + id.unwrap_or(self.rows)))
    }
}
