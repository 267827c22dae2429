//! The processor of the arms: pages of one number that do nothing or sleep, and record their times on request.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, SkipAhead,
};

use super::stamps;

pub struct Pages {
    pub heartbeat_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PagesArgs {
    pub pages: u64,
    /// The time for which `process` waits.
    pub millis: u64,
    /// Whether the source can skip ahead. If not, a page must be read before the start of the next one is known.
    pub skips_ahead: bool,
    /// The file for the beginnings and ends of pages.
    pub stamps: Option<PathBuf>,
}

impl PagesArgs {
    pub fn no_op(pages: u64) -> Self {
        Self {
            pages,
            skips_ahead: true,
            ..Self::default()
        }
    }

    /// A batch whose activities have one page each, unless the arm is about strides.
    pub fn batch(&self, id: String, queue: &str) -> Batch {
        Batch::of::<Pages>(id, self.clone())
            .page_size(1)
            .stride(1)
            .task_queue(queue)
    }
}

#[async_trait]
impl PageProcessor for Pages {
    const NAME: &'static str = "bench-pages";
    type Args = PagesArgs;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let next = ctx.range().start().map_or(1, |last| last + 1);
        let page = Page::keyset(vec![next], |n| *n)?;
        Ok(if next == ctx.args().pages {
            page.last()
        } else {
            page
        })
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let args = ctx.args();
        let stamp = |begins| match &args.stamps {
            Some(path) => stamps::write(path, items[0], begins).map_err(PageError::retryable),
            None => Ok(()),
        };
        stamp(true)?;
        if args.millis > 0 {
            tokio::time::sleep(Duration::from_millis(args.millis)).await;
        }
        stamp(false)?;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        if !ctx.args().skips_ahead {
            return Ok(SkipAhead::Unsupported);
        }
        let to = ctx.range().start().copied().unwrap_or(0) + u64::from(pages);
        Ok(if to < ctx.args().pages {
            SkipAhead::To(to)
        } else {
            SkipAhead::PastEnd
        })
    }

    async fn size_hint(&self, args: &PagesArgs) -> Result<Option<u64>, PageError> {
        Ok(Some(args.pages))
    }

    fn settings(&self) -> ProcessorSettings {
        let mut settings = ProcessorSettings::default();
        if let Some(timeout) = self.heartbeat_timeout {
            settings.heartbeat_timeout = timeout;
        }
        settings
    }
}
