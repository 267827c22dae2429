//! Pages of the numbers from 1 to a last one.

use temporal_batch::{PageContext, PageProcessor, SkipAhead};

/// The numbers of the requested page.
pub fn numbers_of<P>(ctx: &PageContext<P>, last: u64) -> Vec<u64>
where
    P: PageProcessor<Cursor = u64>,
{
    let start = ctx.range().start().copied().unwrap_or(0);
    let end = ctx.range().end().copied().unwrap_or(last);
    (start + 1..=end.min(last)).take(ctx.page_size()).collect()
}

/// Skips this many pages.
pub fn skip<P>(ctx: &PageContext<P>, pages: u32, last: u64) -> SkipAhead<u64>
where
    P: PageProcessor<Cursor = u64>,
{
    let start = ctx.range().start().copied();
    skip_from(start, ctx.page_size(), pages, last)
}

/// Skips this many pages after a number.
pub fn skip_from(start: Option<u64>, page_size: usize, pages: u32, last: u64) -> SkipAhead<u64> {
    let to = start.unwrap_or(0) + u64::from(pages) * page_size as u64;
    if to <= last {
        SkipAhead::To(to)
    } else {
        SkipAhead::PastEnd
    }
}
