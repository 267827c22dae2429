//! Redrive: dead letters are processed again, with the currently deployed code.
//!
//! A redrive is a batch whose items are the dead letters of another batch. Each letter is taken out of its
//! store in the transaction in which its records are processed. It is therefore removed exactly if that
//! succeeds, and two redrives never process a record twice. A letter of a whole page that fails again is split
//! like a page.

use std::{panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::Mutex;

use crate::{
    base::{
        error::{PageError, truncate},
        text::{self, exactly},
        time::Timestamp,
    },
    batch::{
        redrive_args::{LETTERS_PER_PAGE, RedriveArgs},
        retry::RetryMode,
    },
    page::{Page, keys::Keys, range::PageRange, token::PageToken},
    processor::{
        PageProcessor,
        context::{PageContext, PageTokens, SharedTransaction},
        report::PageReport,
        settings::ProcessorSettings,
        store::{
            dead_letter::{DeadLetter, DeadLetters, MAX_LETTER_CHARS, is_gone},
            page_ledger::PageTransaction,
        },
    },
    progress::ItemCounts,
    stride::{read_args, registry::complete},
};

/// Number of attempts at a page of letters. Letters that fail remain for another redrive.
const ATTEMPTS: u32 = 3;

/// The processor of the dead letters of `P`.
pub(crate) struct Redrive<P>(pub Arc<P>);

/// Returns the store in which a processor keeps its dead letters.
pub(crate) fn letters_of<P: PageProcessor>(
    processor: &P,
    args: &P::Args,
) -> Option<Arc<dyn DeadLetters>> {
    match processor.ledger(args) {
        Some(ledger) => Some(ledger),
        None => processor.dead_letters(args),
    }
}

#[async_trait]
impl<P: PageProcessor> PageProcessor for Redrive<P> {
    const NAME: &'static str = "temporal-batch.redrive";
    type Args = RedriveArgs;
    /// The id of a letter.
    type Cursor = String;
    type Item = DeadLetter;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<String, DeadLetter>, PageError> {
        let after = ctx.range().start().map(String::as_str);
        let store = self.store(ctx)?;
        let mut letters = store
            .list(&ctx.args().filter, after, ctx.page_size())
            .await?;
        if let Some(end) = ctx.range().end() {
            letters.retain(|letter| letter.id <= *end);
        }
        Page::keyset(letters, |letter| letter.id.clone())
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        letters: Vec<DeadLetter>,
    ) -> Result<PageReport, PageError> {
        let args = read_args::<P::Args>(&ctx.args().args)?;
        let args = Arc::new(args);
        let store = self.store(ctx)?;
        let last_attempt = ctx.attempt() >= ATTEMPTS;
        let mut report = PageReport::all_processed();
        let (mut to_retry, mut changed) = (None, 0);
        for (position, letter) in letters.into_iter().enumerate() {
            if ctx.is_cancelled() {
                return Err(PageError::retryable("the redrive was cancelled"));
            }
            let redriving = Redriving {
                processor: &*self.0,
                store: &*store,
                args: &args,
                ctx,
                last_attempt,
            };
            match redriving.letter(letter).await? {
                Redriven::Done { changes } => changed += u64::from(changes),
                Redriven::Gone => report.skip("already gone"),
                Redriven::Failed(error) => {
                    report.fail(position, error.error_type(), error.message());
                }
                Redriven::Retry(error) => to_retry = Some(error),
            }
        }
        match to_retry {
            Some(error) => Err(error),
            None => Ok(report.changed(changed)),
        }
    }

    /// Completes the arguments again if the completed arguments of the batch are not known.
    async fn prepare(&self, mut args: RedriveArgs) -> Result<RedriveArgs, PageError> {
        if !args.completed {
            let given = read_args::<P::Args>(&args.args)?;
            if let (_, Some(completed)) = complete(&*self.0, given).await? {
                args.args = completed;
            }
            args.completed = true;
        }
        Ok(args)
    }

    fn settings(&self) -> ProcessorSettings {
        let of_processor = self.0.settings();
        ProcessorSettings {
            retry: of_processor.retry.max_attempts(ATTEMPTS).extended(None),
            retry_mode: RetryMode::AtLeastOnce,
            // Each letter may take the time limit of a page.
            page_timeout: of_processor.page_timeout.saturating_mul(LETTERS_PER_PAGE),
            heartbeat_timeout: of_processor.heartbeat_timeout,
            non_retryable_types: Vec::new(),
            permits: of_processor.permits,
            item_retry: of_processor.item_retry,
        }
    }
}

impl<P: PageProcessor> Redrive<P> {
    fn store(&self, ctx: &PageContext<Self>) -> Result<Arc<dyn DeadLetters>, PageError> {
        let args = read_args::<P::Args>(&ctx.args().args)?;
        letters_of(&*self.0, &args).ok_or_else(|| {
            PageError::non_retryable(
                "NoDeadLetters",
                format_args!("processor \"{}\" keeps no dead letters", P::NAME),
            )
        })
    }
}

/// The outcome for a letter.
enum Redriven {
    /// The records were processed, or have letters of their own.
    Done {
        /// True if any of the records was different afterwards.
        changes: bool,
    },
    /// The letter, or its records, no longer exist.
    Gone,
    /// The letter remains.
    Failed(PageError),
    /// The letter remains, and another attempt may succeed.
    Retry(PageError),
}

struct Redriving<'a, P: PageProcessor> {
    processor: &'a P,
    store: &'a dyn DeadLetters,
    args: &'a Arc<P::Args>,
    ctx: &'a PageContext<Redrive<P>>,
    last_attempt: bool,
}

impl<P: PageProcessor> Redriving<'_, P> {
    /// Processes a letter and all letters into which it is split.
    async fn letter(&self, letter: DeadLetter) -> Result<Redriven, PageError> {
        let mut parts = vec![letter];
        let mut outcome = Redriven::Gone;
        while let Some(letter) = parts.pop() {
            match (self.part(letter, &mut parts).await?, &mut outcome) {
                (Redriven::Gone, _) => {}
                (done @ Redriven::Done { .. }, Redriven::Gone) => outcome = done,
                (Redriven::Done { changes: part }, Redriven::Done { changes }) => *changes |= part,
                (Redriven::Done { .. }, _) => {}
                (failed, outcome) => *outcome = failed,
            }
        }
        Ok(outcome)
    }

    /// Processes one letter. Remaining ranges and halves are pushed onto `parts`.
    async fn part(
        &self,
        letter: DeadLetter,
        parts: &mut Vec<DeadLetter>,
    ) -> Result<Redriven, PageError> {
        let Some(transaction) = self.store.take(&letter).await? else {
            return Ok(Redriven::Gone);
        };
        let mut keys = Keys::Unknown;
        let limit = self.processor.settings().page_timeout;
        let work = AssertUnwindSafe(self.process(&letter, transaction, &mut keys, parts));
        let error = match tokio::time::timeout(limit, work.catch_unwind()).await {
            Ok(Ok(Ok(redriven))) => return Ok(redriven),
            Ok(Ok(Err(error))) => error,
            Ok(Err(panic)) => PageError::panicked(&*panic),
            Err(_) => PageError::retryable(format_args!("it took longer than {}", exactly(limit)))
                .with_type("PageTimeout"),
        };
        if is_gone(&error) {
            return Ok(Redriven::Gone);
        }
        let error = error.redacted(|message| self.processor.redact(message));
        // The transaction was dropped, so the letter is still in its store.
        let types = self.processor.settings().non_retryable_types;
        let again = !error.is_final(&types) && !self.last_attempt;
        if again || error.is_environment() {
            return Ok(Redriven::Retry(error));
        }
        let failed = DeadLetter {
            error_type: truncate(error.error_type(), 60),
            message: truncate(error.message(), MAX_LETTER_CHARS),
            attempts: letter.attempts.saturating_add(1),
            last_at: Timestamp::from(SystemTime::now()),
            ..letter.clone()
        };
        let middle = match failed.key {
            None => keys.middle()?,
            Some(_) => None,
        };
        let Some(middle) = middle else {
            return Ok(match self.replace(&letter, &[failed]).await? {
                true => Redriven::Failed(error),
                false => Redriven::Gone,
            });
        };
        let halves = halves(&failed, middle);
        if self.replace(&letter, &halves).await? {
            parts.extend(halves);
        }
        Ok(Redriven::Done { changes: false })
    }

    /// Puts other letters in the place of a letter. Returns false if the letter no longer exists: another redrive may have
    /// settled it since, and must not see it come back.
    async fn replace(&self, letter: &DeadLetter, with: &[DeadLetter]) -> Result<bool, PageError> {
        let replaced = async {
            let Some(mut transaction) = self.store.take(letter).await? else {
                return Ok(false);
            };
            transaction.record(&ItemCounts::default(), with).await?;
            transaction.commit().await.map(|()| true)
        };
        match replaced.await {
            Err(error) if is_gone(&error) => Ok(false),
            replaced => replaced,
        }
    }

    async fn process(
        &self,
        letter: &DeadLetter,
        transaction: Box<dyn PageTransaction>,
        keys: &mut Keys<P::Cursor>,
        parts: &mut Vec<DeadLetter>,
    ) -> Result<Redriven, PageError> {
        let start = letter.start.as_ref().map(PageToken::decode).transpose()?;
        let end = letter.end.as_ref().map(PageToken::decode).transpose()?;
        let shared: SharedTransaction = Arc::new(Mutex::new(Some(transaction)));
        let mut ctx = PageContext {
            args: Arc::clone(self.args),
            bounds: Some(PageRange::new(start.clone(), end.clone())),
            range: PageRange::new(start, end),
            page: Some(PageTokens {
                start: letter.start.clone(),
                end: letter.end.clone(),
            }),
            alone: letter.key.is_some(),
            with_keys: true,
            page_size: self.ctx.args().page_size,
            attempt: letter.attempts.saturating_add(1),
            stride: letter.stride,
            batch_id: letter.batch_id.as_str().into(),
            batch_run: letter.batch_run.as_str().into(),
            cancelled: self.ctx.cancelled.clone(),
            transaction: None,
            partition: None,
            items: Arc::clone(&self.ctx.items),
        };
        let mut page = self.processor.fetch(&ctx).await?;
        page.check_within(ctx.range())?;
        let mut left = Vec::new();
        match &letter.key {
            Some(key) => page = page.only(key)?,
            None => {
                let next = page.next_token()?.filter(|_| page.is_ordered());
                if let Some(next) = next.filter(|next| Some(next) != letter.end.as_ref()) {
                    if let Some(page) = &mut ctx.page {
                        page.end = Some(next.clone());
                    }
                    let start = ctx.range.start().cloned();
                    ctx.bounds = Some(PageRange::new(start, Some(next.decode()?)));
                    left.push(rest_of(letter, next));
                }
            }
        }
        let (items, found) = page.into_parts();
        *keys = found;
        let count = items.len();
        let mut counts = ItemCounts::default();
        if count > 0 {
            ctx.transaction = Some(Arc::clone(&shared));
            let mut done = self.processor.process(&ctx, items).await?;
            done.redact(|message| self.processor.redact(message));
            counts = done.counts(count)?;
            if letter.key.is_some()
                && let Some(failure) = done.failures().first()
            {
                // The letter of a single record stays as it is, with the new error.
                return Err(PageError::non_retryable(
                    failure.error_type.clone(),
                    &failure.message,
                ));
            }
            let page = DeadLetter {
                attempts: letter.attempts.saturating_add(1),
                last_at: Timestamp::from(SystemTime::now()),
                ..letter.clone()
            };
            left.extend(done.failures().iter().map(|f| page.of_item(keys, f)));
        }
        let transaction = shared.lock().await.take();
        let mut transaction = transaction.expect("only this function takes the transaction");
        transaction.record(&counts, &left).await?;
        transaction.commit().await?;
        parts.extend(left.into_iter().filter(|left| left.key.is_none()));
        Ok(match count {
            0 => Redriven::Gone,
            _ if counts.failed > 0 => Redriven::Failed(PageError::non_retryable(
                "ItemsFailed",
                match counts.failed {
                    1 => "1 item has a dead letter of its own now".to_owned(),
                    n => format!(
                        "{} have dead letters of their own now",
                        text::count(n, "item")
                    ),
                },
            )),
            _ => Redriven::Done {
                changes: counts.changed > 0,
            },
        })
    }
}

/// The letter for the remainder of a page after `from`.
fn rest_of(letter: &DeadLetter, from: PageToken) -> DeadLetter {
    range(letter, Some(from), letter.end.clone())
}

fn halves(letter: &DeadLetter, middle: PageToken) -> [DeadLetter; 2] {
    [
        range(letter, Some(middle.clone()), letter.end.clone()),
        range(letter, letter.start.clone(), Some(middle)),
    ]
}

fn range(letter: &DeadLetter, start: Option<PageToken>, end: Option<PageToken>) -> DeadLetter {
    DeadLetter {
        id: DeadLetter::id_of(&letter.scope(), start.as_ref(), end.as_ref(), None),
        start,
        end,
        ..letter.clone()
    }
}
