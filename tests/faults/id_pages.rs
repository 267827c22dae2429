//! Pages of a table with the key `id`.

use sqlx::PgPool;
use temporal_batch::{Page, PageContext, PageError, PageProcessor, SkipAhead};

/// Reads the ids of the page. `select` takes a lower bound, an upper bound and a limit.
pub async fn page_of<P>(
    pool: &PgPool,
    select: &'static str,
    ctx: &PageContext<P>,
) -> Result<Page<i64, i64>, PageError>
where
    P: PageProcessor<Cursor = i64>,
{
    let ids = sqlx::query_scalar(select)
        .bind(ctx.range().start().copied().unwrap_or(i64::MIN))
        .bind(ctx.range().end().copied().unwrap_or(i64::MAX))
        .bind(ctx.page_size() as i64)
        .fetch_all(pool)
        .await?;
    Page::keyset(ids, |id| *id)
}

/// Skips this many pages, where the ids are the numbers from 1 to `last`.
pub fn skip<P>(ctx: &PageContext<P>, pages: u32, last: i64) -> SkipAhead<i64>
where
    P: PageProcessor<Cursor = i64>,
{
    let start = ctx.range().start().copied().unwrap_or(0);
    let to = start + i64::from(pages) * i64::try_from(ctx.page_size()).unwrap();
    match to <= last {
        true => SkipAhead::To(to),
        false => SkipAhead::PastEnd,
    }
}
