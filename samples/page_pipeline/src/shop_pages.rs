//! The processor of every recipe.

use std::collections::BTreeMap;

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Permits, ProcessorSettings, Reducer,
    Size, SkipAhead, async_trait,
};
use temporal_batch_pipeline::{InvalidPipeline, counters};

use crate::{
    orders::{Order, orders},
    recipe::{Recipe, Shop},
    sink::Sink,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub recipe: Recipe,
    pub orders: u64,
    pub seed: u64,
}

pub struct ShopPages {
    pipelines: BTreeMap<Recipe, Shop>,
}

impl ShopPages {
    pub fn new(sink: &Sink) -> Result<Self, InvalidPipeline> {
        let mut pipelines = BTreeMap::new();
        for recipe in Recipe::value_variants() {
            if let Some(pipeline) = recipe.pipeline(sink)? {
                pipelines.insert(*recipe, pipeline);
            }
        }
        Ok(Self { pipelines })
    }
}

#[async_trait]
impl PageProcessor for ShopPages {
    const NAME: &'static str = "shop-pages";
    type Args = Work;
    type Cursor = u64;
    type Item = Order;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, Order>, PageError> {
        let Work {
            orders: n, seed, ..
        } = *ctx.args();
        let start = ctx.range().start().copied().unwrap_or(0);
        let end = ctx.range().end().copied().unwrap_or(n);
        let page = orders(start, end, seed).take(ctx.page_size());
        Page::keyset(page.collect(), |order| order.id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        orders: Vec<Order>,
    ) -> Result<PageReport, PageError> {
        let recipe = ctx.args().recipe;
        let pipeline = self.pipelines.get(&recipe).ok_or_else(|| {
            PageError::non_retryable("NoPipeline", format!("{recipe:?} has no orders"))
        })?;
        pipeline.process(ctx, orders).await
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let to = start + u64::from(pages) * ctx.page_size() as u64;
        Ok(match to <= ctx.args().orders {
            true => SkipAhead::To(to),
            false => SkipAhead::PastEnd,
        })
    }

    async fn size(&self, args: &Work) -> Result<Size, PageError> {
        Ok(Size::Exact(args.orders))
    }

    fn reducer(&self, _: &Work) -> Option<Reducer> {
        Some(counters())
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            // The rate is one of calls.
            permits: Permits::PerItem,
            ..ProcessorSettings::default()
        }
    }
}
