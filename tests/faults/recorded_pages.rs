//! A processor over numbers whose pages only report their beginning and end to the [`PageLog`].

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, SkipAhead,
};

use crate::{id_pages::skip, page_log::PageLog};

/// Long enough that a busy machine is not mistaken for a lost worker.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(6);

/// The arguments: the last number, and the duration of a page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordedArgs {
    pub numbers: i64,
    pub page: Duration,
}

impl RecordedArgs {
    /// A batch with more pages than any test waits for.
    pub fn endless(page: Duration) -> Self {
        Self {
            numbers: 1_000_000_000,
            page,
        }
    }
}

pub struct RecordedPages {
    log: PageLog,
}

impl RecordedPages {
    pub fn new(pool: PgPool) -> Self {
        Self {
            log: PageLog::new(pool),
        }
    }
}

#[async_trait]
impl PageProcessor for RecordedPages {
    const NAME: &'static str = "visitor";
    type Args = RecordedArgs;
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.range().end().copied().unwrap_or(ctx.args().numbers);
        let page = i64::try_from(ctx.page_size()).unwrap();
        let numbers = (start + 1..=last.min(start + page)).collect();
        Page::keyset(numbers, |number| *number)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        numbers: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let visit = self.log.enter(ctx, (numbers[0] - 1, numbers.len())).await?;
        tokio::time::sleep(ctx.args().page).await;
        self.log.leave(visit).await?;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        Ok(skip(ctx, pages, ctx.args().numbers))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            ..ProcessorSettings::default()
        }
    }
}
