//! The processors and sources of a worker, by their names.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use temporal_batch::{Next, PageError, PageProcessor, of_crates::read_page};

use crate::{
    item::{ItemContext, ItemProcessor},
    outcome::{ItemOutcome, failure_types as types},
    protocol::{ItemsRead, ReadOrder},
    summary::AggregateContext,
    validate::check_item_id,
};

/// A processor whose types are erased.
#[async_trait]
pub(crate) trait AnyProcessor: Send + Sync {
    fn id(&self, item: &Value) -> Result<String, PageError>;

    async fn process(&self, ctx: &ItemContext, item: Value) -> Result<Value, PageError>;

    async fn aggregate(
        &self,
        ctx: &AggregateContext,
        so_far: Option<Value>,
        outcomes: Vec<ItemOutcome<Value>>,
    ) -> Result<Value, PageError>;
}

/// A source whose types are erased.
#[async_trait]
pub(crate) trait AnySource: Send + Sync {
    /// Reads items without their ids.
    async fn read(&self, order: &ReadOrder, limit: u32) -> Result<RawItems, PageError>;
}

/// A page of items.
pub(crate) struct RawItems {
    pub items: Vec<Value>,
    pub args: Value,
    pub token: Option<Value>,
}

struct Erased<P>(P);

fn unreadable(what: &str, error: &serde_json::Error) -> PageError {
    PageError::non_retryable(
        "NotReadable",
        format_args!("{what} cannot be read: {error}"),
    )
}

/// Turns a panic of user code into an error.
async fn caught<T>(work: impl Future<Output = Result<T, PageError>>) -> Result<T, PageError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("without a message");
            Err(PageError::retryable(text).with_type(types::PANICKED))
        })
}

#[async_trait]
impl<P: ItemProcessor> AnyProcessor for Erased<P> {
    fn id(&self, item: &Value) -> Result<String, PageError> {
        let item = serde_json::from_value(item.clone());
        let id = P::id(&item.map_err(|e| unreadable("an item", &e))?);
        check_item_id(&id).map_err(|why| PageError::non_retryable("InvalidItemId", why))?;
        Ok(id)
    }

    async fn process(&self, ctx: &ItemContext, item: Value) -> Result<Value, PageError> {
        let item = serde_json::from_value(item).map_err(|e| unreadable("the item", &e))?;
        let output = caught(self.0.process(ctx, item)).await?;
        serde_json::to_value(output).map_err(|error| {
            let message = format_args!("the output does not serialize: {error}");
            PageError::non_retryable("OutputNotStorable", message)
        })
    }

    async fn aggregate(
        &self,
        ctx: &AggregateContext,
        so_far: Option<Value>,
        outcomes: Vec<ItemOutcome<Value>>,
    ) -> Result<Value, PageError> {
        let typed = outcomes.into_iter().map(|outcome| {
            let ItemOutcome {
                position,
                item_id,
                result,
            } = outcome;
            let result = match result {
                Ok(output) => Ok(serde_json::from_value(output)
                    .map_err(|e| unreadable(&format!("the output of item {item_id}"), &e))?),
                Err(failure) => Err(failure),
            };
            Ok(ItemOutcome {
                position,
                item_id,
                result,
            })
        });
        let typed = typed.collect::<Result<Vec<_>, PageError>>()?;
        caught(self.0.aggregate(ctx, so_far, typed)).await
    }
}

#[async_trait]
impl<P: PageProcessor<Item: Serialize + Sync>> AnySource for Erased<P>
where
    P::Cursor: Serialize,
{
    async fn read(&self, order: &ReadOrder, limit: u32) -> Result<RawItems, PageError> {
        let typed = |args: &Value| {
            serde_json::from_value::<P::Args>(args.clone())
                .map_err(|e| unreadable("the arguments of the source", &e))
        };
        let mut args = order.args.clone();
        if !order.prepared {
            let prepared = caught(self.0.prepare(typed(&args)?)).await?;
            args = serde_json::to_value(prepared)?;
        }
        let mut start = match &order.token {
            Some(token) => Some(
                serde_json::from_value(token.clone())
                    .map_err(|e| unreadable("the position in the source", &e))?,
            ),
            None => None,
        };
        loop {
            let page = caught(read_page(&self.0, typed(&args)?, start, limit)).await?;
            let next = match page.next() {
                Next::At(cursor) => Some(cursor.clone()),
                Next::End => None,
            };
            if page.items().is_empty() && next.is_some() {
                // An empty page of a source with its own tokens is not the end.
                start = next;
                continue;
            }
            let items = page.items().iter().map(serde_json::to_value);
            return Ok(RawItems {
                items: items.collect::<Result<_, _>>()?,
                args,
                token: next.map(serde_json::to_value).transpose()?,
            });
        }
    }
}

/// The processors and sources of a worker.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    processors: BTreeMap<&'static str, Arc<dyn AnyProcessor>>,
    sources: BTreeMap<&'static str, Arc<dyn AnySource>>,
    /// A name that was given twice.
    twice: Option<&'static str>,
}

impl Registry {
    pub fn processor<P: ItemProcessor>(&mut self, processor: P) {
        let processor = Arc::new(Erased(processor));
        if self.processors.insert(P::NAME, processor).is_some() {
            self.twice = Some(P::NAME);
        }
    }

    pub fn source<P: PageProcessor<Item: Serialize + Sync>>(&mut self, source: P) {
        if self
            .sources
            .insert(P::NAME, Arc::new(Erased(source)))
            .is_some()
        {
            self.twice = Some(P::NAME);
        }
    }

    pub fn given_twice(&self) -> Option<&'static str> {
        self.twice
    }

    pub fn is_empty(&self) -> bool {
        self.processors.is_empty()
    }

    /// # Errors
    /// Another worker of the task queue may have the processor, so the error is one of the environment.
    pub fn get(&self, name: &str) -> Result<Arc<dyn AnyProcessor>, PageError> {
        self.processors
            .get(name)
            .cloned()
            .ok_or_else(|| lacks("processor", name, self.processors.keys()))
    }

    pub fn get_source(&self, name: &str) -> Result<Arc<dyn AnySource>, PageError> {
        let source = self.sources.get(name).cloned();
        source.ok_or_else(|| lacks("source", name, self.sources.keys()))
    }

    /// Reads a page and names its items. A page that is too large for a history is read again with fewer items.
    pub async fn read(&self, order: &ReadOrder) -> Result<ItemsRead, PageError> {
        let source = self.get_source(&order.source)?;
        let processor = self.get(&order.processor)?;
        let mut limit = order.limit;
        loop {
            let RawItems { items, args, token } = source.read(order, limit).await?;
            let bytes: usize = items.iter().map(|item| item.to_string().len()).sum();
            if bytes > PAGE_BYTES && items.len() > 1 && limit > 1 {
                limit = (limit / 2).max(1);
                continue;
            }
            if bytes > PAGE_BYTES {
                return Err(PageError::non_retryable(
                    "ItemsTooLarge",
                    format_args!(
                        "{} of the source are {bytes} bytes of JSON; at most {PAGE_BYTES} are allowed. \
                         Let an item refer to its data",
                        if items.len() == 1 { "an item" } else { "items" },
                    ),
                ));
            }
            let named = items.into_iter().map(|item| {
                let id = processor.id(&item)?;
                Ok(crate::protocol::GivenItem { id, item })
            });
            return Ok(ItemsRead {
                items: named.collect::<Result<_, PageError>>()?,
                args,
                token,
            });
        }
    }
}

/// The most bytes of a page of items, which the history holds.
pub(crate) const PAGE_BYTES: usize = 256 * 1024;

fn lacks<'a>(what: &str, name: &str, has: impl Iterator<Item = &'a &'static str>) -> PageError {
    let has: Vec<_> = has.copied().collect();
    PageError::environment(format_args!(
        "no {what} \"{name}\" is registered at this worker; it has: {}",
        if has.is_empty() {
            "none".to_owned()
        } else {
            has.join(", ")
        }
    ))
    .with_type(types::UNKNOWN_PROCESSOR)
}
