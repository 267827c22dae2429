//! Reading a page outside a batch.

use std::sync::Arc;

use crate::{
    base::error::PageError,
    page::{Page, range::PageRange},
    processor::{PageProcessor, context::PageContext, item::ItemWork, stop_signal::Interruption},
};

/// Reads one page of at most about `page_size` items after `start`, with prepared arguments, and checks that it advances.
///
/// # Errors
/// The error of `fetch`, or a page that does not advance.
pub async fn read_page<P: PageProcessor>(
    processor: &P,
    args: P::Args,
    start: Option<P::Cursor>,
    page_size: u32,
) -> Result<Page<P::Cursor, P::Item>, PageError> {
    let range = PageRange::new(start, None);
    let ctx = PageContext {
        args: Arc::new(args),
        range: range.clone(),
        page: None,
        alone: false,
        with_keys: false,
        page_size,
        attempt: 1,
        stride: 0,
        batch_id: "".into(),
        batch_run: "".into(),
        cancelled: Interruption::never(),
        transaction: None,
        partition: None,
        bounds: None,
        items: ItemWork::none(),
    };
    let page = processor.fetch(&ctx).await;
    let page = page.map_err(|error| error.redacted(|message| processor.redact(message)))?;
    page.check_within(&range)?;
    Ok(page)
}
