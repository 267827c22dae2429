//! Errors of records, pages and the environment, and the fate of their page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead,
    store::{DeadLetter, DeadLetters, JsonlDeadLetters, LetterFilter},
    testing::Simulator,
};

use crate::support::number_pages::{numbers_of, skip};

const LAST: u64 = 30;

/// A processor over the numbers from 1 to 30. One hook makes processing a number fail, the other reading it.
struct RefusedNumbers {
    letters: Arc<JsonlDeadLetters>,
    refuses: fn(u64) -> Result<(), PageError>,
    unreadable: fn(u64) -> Result<(), PageError>,
    processes: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl RefusedNumbers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            letters: Arc::new(JsonlDeadLetters::new(folder.path().join("letters.jsonl"))),
            refuses: |_| Ok(()),
            unreadable: |_| Ok(()),
            processes: AtomicUsize::new(0),
            _folder: folder,
        }
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let filter = LetterFilter::of("numbers");
        self.letters.list(&filter, None, 100).await.unwrap()
    }
}

#[async_trait]
impl PageProcessor for RefusedNumbers {
    const NAME: &'static str = "numbers";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let numbers = numbers_of(ctx, LAST);
        numbers.iter().copied().try_for_each(self.unreadable)?;
        Page::keyset(numbers, |n| *n)
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.processes.fetch_add(1, Ordering::Relaxed);
        items.into_iter().try_for_each(self.refuses)?;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(skip(ctx, pages, ctx.range().end().copied().unwrap_or(LAST)))
    }

    fn dead_letters(&self, (): &()) -> Option<Arc<dyn DeadLetters>> {
        Some(self.letters.clone())
    }

    fn redact(&self, message: String) -> String {
        message.replace("4111", "[card]")
    }
}

fn batch() -> Batch {
    Batch::of::<RefusedNumbers>("numbers", ())
        .page_size(10)
        .max_parallelism(2)
}

/// The error of a value that is not a number.
fn no_number() -> PageError {
    PageError::from("x".parse::<u64>().unwrap_err())
}

async fn assert_only_13_failed(numbers: &RefusedNumbers) -> Duration {
    let run = Simulator::new().run(numbers, &batch()).await.unwrap();
    assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
    assert_eq!((run.items.processed, run.items.failed), (29, 1));
    assert_eq!(run.failed, []);
    let letters = numbers.letters().await;
    let keys: Vec<_> = letters.iter().map(|letter| letter.key.as_deref()).collect();
    assert_eq!(keys, [Some("13")]);
    run.duration
}

#[tokio::test]
async fn a_value_that_cannot_be_read_has_three_attempts() {
    let numbers = RefusedNumbers {
        refuses: |n| if n == 13 { Err(no_number()) } else { Ok(()) },
        ..RefusedNumbers::new()
    };
    let took = assert_only_13_failed(&numbers).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_read_in_parts() {
    let numbers = RefusedNumbers {
        unreadable: |n| if n == 13 { Err(no_number()) } else { Ok(()) },
        ..RefusedNumbers::new()
    };
    let took = assert_only_13_failed(&numbers).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_transient_error_is_retried_for_seven_days() {
    let numbers = RefusedNumbers {
        refuses: |n| match n {
            13 => Err(PageError::retryable("busy")),
            _ => Ok(()),
        },
        ..RefusedNumbers::new()
    };
    let took = assert_only_13_failed(&numbers).await;
    let day = Duration::from_secs(86_400);
    assert!(7 * day <= took && took < 8 * day, "{took:?}");
}

#[tokio::test]
async fn a_processor_redacts_its_errors_and_panics() {
    for refuses in [
        |n| match n {
            13 => Err(PageError::non_retryable("Card", "4111 is refused")),
            _ => Ok(()),
        },
        |n| match n {
            13 => panic!("4111 is refused"),
            _ => Ok(()),
        },
    ] {
        let numbers = RefusedNumbers {
            refuses,
            ..RefusedNumbers::new()
        };
        assert_only_13_failed(&numbers).await;
        let [letter] = &numbers.letters().await[..] else {
            panic!("there is one letter");
        };
        assert!(letter.message.contains("[card] is refused"), "{letter:?}");
    }
}
