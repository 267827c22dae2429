//! The memo: the facts about a batch that can be read without a worker.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_common::MemoValue;
use temporalio_sdk::WorkflowContext;

use super::workflow::{BatchContext, BatchWorkflow, now};
use crate::{decisions::state::publish::News, progress::Progress, protocol};

/// A field of the memo and its new value.
type Field = (&'static str, Option<MemoValue>);

/// Writes changes to the memo that are due.
pub(super) fn publish<W: BatchWorkflow>(ctx: &WorkflowContext<W>, progress: Progress) {
    let news = ctx.batch_mut(|s| s.take_news(progress));
    write(ctx, fields_of(news));
}

/// Writes the progress for a looking client to the memo.
pub(super) fn show_who_looks<W: BatchWorkflow>(ctx: &WorkflowContext<W>) {
    if ctx.batch(|s| s.published.looked) {
        let now = now(ctx);
        let news = ctx.batch_mut(|s| s.news_for_who_looks(now));
        write(ctx, fields_of(news));
    }
}

fn fields_of(news: Vec<News>) -> Vec<Field> {
    let field = |news| match news {
        News::Control(control) => (protocol::MEMO_CONTROL, Some(MemoValue::new(control))),
        News::Progress(progress) => (protocol::MEMO_PROGRESS, Some(MemoValue::new(*progress))),
        News::Full(progress) => (protocol::MEMO_FULL, Some(MemoValue::new(*progress))),
    };
    news.into_iter().map(field).collect()
}

pub(super) fn write<W: BatchWorkflow>(ctx: &WorkflowContext<W>, fields: Vec<Field>) {
    if fields.is_empty() {
        return;
    }
    if let Err(error) = ctx.upsert_memo(fields) {
        // Only a failing payload codec can be the reason. Strides continue with their orders.
        tracing::warn!(%error, "the memo was not written");
    }
}
