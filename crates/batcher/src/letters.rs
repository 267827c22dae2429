//! Requests that could not be written: dead letters like those of a batch, for the same commands.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, PageToken, Timestamp,
    store::{DeadLetter, DeadLetters, LetterFilter},
};

use crate::{
    protocol::WriteOrder,
    request::Request,
    writer::{BatchWriter, Written},
};

/// Letters that are read to find one. Ids that differ only in their last character, a hexadecimal digit, are fewer.
const LETTERS_READ: usize = 20;
const MAX_LETTER_CHARS: usize = 1_000;

/// Returns the letter of a request.
///
/// The id of the batch is the name of the batcher. The range has no other letter than those whose ids differ in their
/// last digit: the redrive of a letter reads the range, and takes the request with the key.
pub(crate) fn letter(
    order: &WriteOrder,
    position: usize,
    (error_type, message): (&str, &str),
    attempts: u32,
) -> Result<DeadLetter, PageError> {
    let request = &order.requests[position];
    let id = letter_id(&order.batcher, &request.id);
    let now = Timestamp::from(SystemTime::now());
    Ok(DeadLetter {
        start: Some(PageToken::encode(&&id[..id.len() - 1])?),
        end: Some(PageToken::encode(&id)?),
        id,
        batch_id: order.batcher.clone(),
        batch_run: order.batcher.clone(),
        processor: order.writer.clone(),
        stride: order.shard.into(),
        key: Some(request.id.clone()),
        error_type: error_type.chars().take(60).collect(),
        message: message.chars().take(MAX_LETTER_CHARS).collect(),
        attempts,
        first_at: now,
        last_at: now,
        record: Some(serde_json::to_string(request)?),
    })
}

/// Returns the id of the letter of a request, which is always the same.
fn letter_id(batcher: &str, request_id: &str) -> String {
    let namespace = uuid::Uuid::from_u128(0x91f5_4d0e_7be3_4a67_a1c8_33d2_96f0_5b1a);
    let name = serde_json::json!([batcher, request_id]).to_string();
    uuid::Uuid::new_v5(&namespace, name.as_bytes()).to_string()
}

/// The dead letters of a writer as a processor, so that the commands `failures` and `redrive` of a
/// [`cli::App`](temporal_batch::cli::App), and [`Batch::redrive`](temporal_batch::Batch::redrive), work on them.
///
/// Register it where the worker of redrives runs. The id of the batch is the name of the batcher, and the processor the
/// [`NAME`](BatchWriter::NAME) of the writer:
///
/// ```text
/// my-app failures orders --processor order-rows
/// my-app redrive orders --processor order-rows
/// ```
///
/// A redriven request is written by [`BatchWriter::redrive`]. Its requester is not told: it was told that the request
/// has failed.
pub struct DeadRequests<W>(W);

impl<W> DeadRequests<W> {
    /// Creates the processor of a writer.
    pub fn of(writer: W) -> Self {
        Self(writer)
    }
}

#[async_trait]
impl<W: BatchWriter> PageProcessor for DeadRequests<W> {
    const NAME: &'static str = W::NAME;
    type Args = ();
    /// The id of a letter.
    type Cursor = String;
    /// The id of a letter, and its request.
    type Item = (String, Request);

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<String, Self::Item>, PageError> {
        let Some(end) = ctx.range().end() else {
            return Err(only_redrives());
        };
        let filter = LetterFilter::of(ctx.batch_id());
        let after = ctx.range().start().map(String::as_str);
        let limit = LETTERS_READ.max(ctx.page_size());
        let letters = self.0.dead_letters().list(&filter, after, limit).await?;
        let mut requests = Vec::new();
        for letter in letters {
            if letter.id > *end {
                break;
            }
            let record = letter.record.as_deref().unwrap_or_default();
            let request: Request = serde_json::from_str(record).map_err(|error| {
                PageError::non_retryable(
                    "InvalidLetter",
                    format_args!(
                        "the record of letter {} is not a request: {error}",
                        letter.id
                    ),
                )
            })?;
            requests.push((letter.id, request));
        }
        let page = Page::keyset(requests, |(id, _)| id.clone())?;
        Ok(page.with_names(|(_, request)| request.id.clone()))
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        requests: Vec<Self::Item>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        for (position, (_, request)) in requests.iter().enumerate() {
            match self.0.redrive(ctx, request).await? {
                Written::Now => {}
                Written::Before => report.skip("already written"),
                Written::Failed {
                    error_type,
                    message,
                } => report.fail(position, error_type, message),
            }
        }
        Ok(report)
    }

    fn dead_letters(&self, _args: &()) -> Option<Arc<dyn DeadLetters>> {
        Some(self.0.dead_letters())
    }
}

fn only_redrives() -> PageError {
    PageError::non_retryable(
        "OnlyRedrives",
        "the processor has only dead letters; use `redrive` with the name of a batcher",
    )
}
