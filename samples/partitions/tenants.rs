//! Mails for the tenants of a service, a few of which have most of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Partition, SkipAhead, async_trait,
};

/// The tenants with the number of their mails, and the duration of a page.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenants {
    pub sizes: Vec<u64>,
    pub page_ms: u64,
    /// Whether the source cannot skip ahead: a page must be read before the start of the next one is known.
    pub opaque: bool,
    /// Whether the size of each tenant is reported.
    pub sizes_known: bool,
}

impl Tenants {
    /// Distributes `mails` over this many tenants: the second has half as many as the first, the third a third.
    pub fn zipf(mails: u64, tenants: u32) -> Vec<u64> {
        let shares = (1..=tenants).map(|rank| 1.0 / f64::from(rank));
        let all: f64 = shares.clone().sum();
        shares
            .map(|share| (mails as f64 * share / all).ceil() as u64)
            .collect()
    }

    fn of(&self, partition: Option<&str>) -> Result<u64, PageError> {
        let number = partition.and_then(|name| name.strip_prefix("tenant-")?.parse::<usize>().ok());
        let size = number.and_then(|number| self.sizes.get(number.checked_sub(1)?));
        size.copied()
            .ok_or_else(|| PageError::non_retryable("UnknownTenant", "there is no such tenant"))
    }
}

/// Sends a tenant's mails, which are numbered.
pub struct SendMails;

#[async_trait]
impl PageProcessor for SendMails {
    const NAME: &'static str = "send-mails";
    const PARTITIONED: bool = true;
    const SPLITS: bool = true;
    type Args = Tenants;
    type Cursor = u64;
    type Item = u64;

    async fn partitions(&self, args: &Tenants) -> Result<Vec<Partition<u64>>, PageError> {
        let tenants = args.sizes.iter().enumerate().map(|(n, mails)| {
            let tenant = Partition::named(format!("tenant-{}", n + 1));
            match args.sizes_known {
                true => tenant.items(*mails),
                false => tenant,
            }
        });
        Ok(tenants.collect())
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.args().of(ctx.partition())?;
        let end = ctx.range().end().map_or(last, |end| last.min(*end));
        if ctx.args().opaque {
            tokio::time::sleep(Duration::from_millis(ctx.args().page_ms)).await;
        }
        Page::keyset((start + 1..=end).take(ctx.page_size()).collect(), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        mails: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        if !ctx.args().opaque {
            tokio::time::sleep(Duration::from_millis(ctx.args().page_ms)).await;
        }
        Ok(PageReport::all_processed().changed(mails.len() as u64))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        if ctx.args().opaque {
            return Ok(SkipAhead::Unsupported);
        }
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.args().of(ctx.partition())?;
        let end = ctx.range().end().map_or(last, |end| last.min(*end));
        let to = start + u64::from(pages) * ctx.page_size() as u64;
        Ok(if to <= end {
            SkipAhead::To(to)
        } else {
            SkipAhead::PastEnd
        })
    }

    /// Splits the remaining mails in the middle, while there are enough for another controller.
    async fn split(&self, ctx: &PageContext<Self>) -> Result<Option<u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let last = ctx.args().of(ctx.partition())?;
        let end = ctx.range().end().map_or(last, |end| last.min(*end));
        let worth_it = end.saturating_sub(start) > 20 * ctx.page_size() as u64;
        Ok(worth_it.then_some(start + (end - start) / 2))
    }

    async fn size_hint(&self, args: &Tenants) -> Result<Option<u64>, PageError> {
        Ok(Some(args.sizes.iter().sum()))
    }
}
