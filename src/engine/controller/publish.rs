//! The memo: what can be read of a batch without a worker.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_common::MemoValue;
use temporalio_sdk::WorkflowContext;

use super::{Controller, now};
use crate::{decisions::state::publish::News, progress::Progress, protocol};

/// A field of the memo and its new value.
type Field = (&'static str, Option<MemoValue>);

/// Writes to the memo what has changed enough.
pub(super) fn publish(ctx: &WorkflowContext<Controller>, progress: Progress) {
    let news = ctx.state_mut(|Controller(s)| s.take_news(progress));
    write(ctx, fields_of(news));
}

/// Writes to the memo what a client that looks is to see.
pub(super) fn show_who_looks(ctx: &WorkflowContext<Controller>) {
    if ctx.state(|Controller(s)| s.published.looked) {
        let now = now(ctx);
        let news = ctx.state_mut(|Controller(s)| s.news_for_who_looks(now));
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

pub(super) fn write(ctx: &WorkflowContext<Controller>, fields: Vec<Field>) {
    if fields.is_empty() {
        return;
    }
    if let Err(error) = ctx.upsert_memo(fields) {
        // Only a payload codec that fails can be the reason; strides go on with their orders.
        tracing::warn!(%error, "the memo was not written");
    }
}
