//! Runs the pages of one stride, one after the other.
//!
//! ```text
//!         processor            this loop               host (activity, or a test's own)
//!            |   skip_ahead       |                            |
//!            | <----------------- | (once, if the end is open) |
//!            |                    | --- announce starts -----> |
//!            |                    | --- clear to go? --------> | (pause, page rate, throttles)
//!            |   fetch            |                            |
//!            | <----------------- |                            |
//!            |                    | --- announce next start -> | (unless already known)
//!            |                    | --- wait for the rate ---> |
//!            |   process          |                            |
//!            | <----------------- |                            |
//!            |                    | --- checkpoint ----------> |
//! ```
//!
//! [`runner`] goes from page to page, [`page`] reads a page and applies it, [`bisect`] isolates records that
//! cannot be processed, and [`stores`] writes to the stores of the processor, if it has any. Between `process`
//! and the checkpoint the page is applied and its dead letters are stored, in one transaction if there is a
//! ledger.
//!
//! A stride that is told to stop while a page waits leaves that page untouched. A stride that is told to stop
//! now drops unfinished work. Both end with a normal report that does not include that page.
//!
//! This module is typed and independent of Temporal. Its environment is behind [`StrideHost`].

mod bisect;
mod given_up_log;
mod page;
pub(crate) mod rate_share;
pub(crate) mod redrive;
pub(crate) mod registry;
mod runner;
mod stores;
#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    base::{
        error::{Blame, MAX_MESSAGE_CHARS, PageError, truncate},
        known_fields::explain,
        text::exactly,
    },
    page::{claim::ClaimOutcome, size::Size, token::PageToken},
    processor::{
        PageProcessor,
        item::{ItemHost, Permits},
        settings::ProcessorSettings,
        stop_signal::StopSignal,
        store::dead_letter::MAX_LETTER_CHARS,
    },
    progress::ItemCounts,
    protocol::{
        AcceptedEnd, FailedAttempt, Prepared, RunningPage, StrideOrder, StrideReport, Timing,
    },
    stride::redrive::letters_of,
};
use runner::Running;

/// The environment of a stride.
#[async_trait]
pub(crate) trait StrideHost: Send + Sync {
    /// Tells the controller where the following strides start. An empty list means that the data ends with the
    /// next page.
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError>;
    /// Returns whether an earlier attempt may have made an announcement that the order does not contain.
    fn is_repeat(&self) -> bool;
    /// Returns the end of this stride as accepted by the controller.
    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError>;
    /// Checks that this attempt is still current, as far as that can be known without frequent queries.
    async fn still_counts(&self) -> Result<(), HostError>;
    /// Waits until the next page may begin.
    async fn clear_to_go(&self) -> Go;
    /// The source of permits and waits for items that take their own permits.
    fn item_host(&self) -> Arc<dyn ItemHost>;
    /// Waits until this many items may be processed.
    async fn rate_permits(&self, items: usize) -> Go;
    /// Records the page that is being worked on, for status queries.
    fn works_on(&self, page: Option<RunningPage>);
    /// Records the end of that page, or that it is the last one.
    fn page_ends(&self, _end: Option<&PageToken>, _is_last: bool) {}
    /// Returns the page that an earlier attempt worked on when its worker was lost.
    fn lost_page(&self) -> Option<RunningPage> {
        None
    }
    /// Records the finished work, for an attempt after a lost worker.
    fn checkpoint(&self, report: &StrideReport);
    /// The signal to the running stride. `stop_now`, `cancelled` and `gone` are never withdrawn.
    fn stop_signal(&self) -> watch::Receiver<StopSignal>;
    /// Records an event in the metrics.
    fn observe(&self, event: PageEvent);
}

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Go {
    /// The page may continue.
    On,
    /// The stride was told to stop while it waited.
    Stop,
}

/// An event of a page, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageEvent {
    Started {
        attempt: u32,
    },
    Completed {
        took: Duration,
        items: ItemCounts,
    },
    Failed {
        took: Duration,
    },
    /// The fetch returned no items, so there was no page.
    NoPage,
    /// The stride was told to stop before anything of the page was done.
    Stopped,
    /// A `fetch` returned, with or without a page.
    Fetched {
        #[allow(dead_code, reason = "read by the metrics of the engine")]
        took: Duration,
    },
    /// A `process` returned. If it succeeded, its page is applied.
    Processed {
        #[allow(dead_code, reason = "read by the metrics of the engine")]
        took: Duration,
    },
    /// A wait ended or was abandoned.
    Waited {
        for_what: WaitFor,
        took: Duration,
    },
    /// A claim of a page in the ledger was decided.
    Claimed(ClaimOutcome),
    /// Dead letters were stored.
    DeadLetters {
        letters: u64,
    },
}

/// The limit that a page waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The limit on items per second.
    Rate,
    /// The limit on pages per second.
    PageRate,
    /// The pause between pages.
    Pause,
    /// A throttle that holds the batch.
    Throttle,
}

/// A failure of the host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The batch run has ended, or the stride is finished or belongs to another attempt. The work is no longer
    /// needed.
    #[error("the batch run is gone")]
    Gone,
    /// Any other failure, after which another attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
}

/// The reason why a stride stops before its end.
enum Halt {
    /// The batch run is gone.
    Gone,
    /// The stride was told to stop. Nothing of its current page, or part of one, is done.
    Stopped,
    Failed(Box<Failure>),
}

impl From<Go> for Result<(), Halt> {
    fn from(go: Go) -> Self {
        match go {
            Go::On => Ok(()),
            Go::Stop => Err(Halt::Stopped),
        }
    }
}

/// A page that failed.
#[derive(Clone)]
struct Failure {
    attempt: FailedAttempt,
    /// The message, which may be longer than in a history.
    message: String,
    /// True if the page failed in `process` and its items are ordered by cursors.
    can_be_split: bool,
    /// The record, if the page has only one and its processor supplied it. Histories never contain it.
    record: Option<String>,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<HostError> for Halt {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Gone => Self::Gone,
            HostError::Unavailable(_) => {
                let error = PageError::environment(error).with_type("ControllerUnavailable");
                Failure::of(&error, &[]).into()
            }
        }
    }
}

/// The error type of a connection that could not be opened, or that broke.
const CONNECTION_LOST: &str = "ConnectionLost";

/// The error type of a page that exceeded its time limit.
const PAGE_TIMEOUT: &str = "PageTimeout";

impl Failure {
    fn of(error: &PageError, non_retryable: &[String]) -> Self {
        Self {
            attempt: FailedAttempt {
                page_end: None,
                last_page: false,
                error_type: truncate(error.error_type(), 60),
                message: truncate(error.message(), MAX_MESSAGE_CHARS),
                retryable: !error.is_final(non_retryable),
                retry_after: error.delay(),
                not_the_page: error.is_environment(),
                coverage_stops: false,
                lost: false,
                unread: false,
                blame: error.blame(),
            },
            message: truncate(error.message(), MAX_LETTER_CHARS),
            can_be_split: false,
            record: error.record().map(str::to_owned),
        }
    }

    /// Rules out another attempt, because the page may already have had its effects.
    fn spend(&mut self) {
        self.attempt.retryable = false;
        self.attempt.retry_after = None;
        self.attempt.not_the_page = false;
    }

    /// Converts an error that occurred while putting a page aside after its attempts.
    fn while_giving_up(error: &PageError) -> Self {
        let mut failure = Self::of(error, &[]);
        failure.beside_the_page();
        failure
    }

    fn is_broken(&self) -> bool {
        self.attempt.error_type == CONNECTION_LOST
    }

    /// Marks the error as saying nothing about the page, so that it is always retried.
    fn beside_the_page(&mut self) {
        self.attempt.retryable = true;
        self.attempt.not_the_page = true;
        self.attempt.blame = Blame::Moment;
    }
}

/// The failure of a page whose code blocked its thread and therefore could not be stopped at its time limit.
#[cfg(feature = "temporal")]
pub(crate) fn page_blocked(limit: Duration) -> FailedAttempt {
    let message = format_args!(
        "the page blocks its thread, and took longer than {}",
        exactly(limit)
    );
    let error = PageError::retryable(message)
        .with_type(PAGE_TIMEOUT)
        .blaming(Blame::Unknown);
    Failure::of(&error, &[]).attempt
}

/// Deserializes the arguments of a batch for its processor.
pub(crate) fn read_args<A: DeserializeOwned>(args: &serde_json::Value) -> Result<A, PageError> {
    A::deserialize(args).map_err(|e| {
        PageError::environment(format_args!(
            "the arguments of the batch do not fit: {}",
            explain(&e)
        ))
        .with_type("ArgsNotReadable")
    })
}

/// Runs the pages of `order`, starting after the work that `resume` reports as finished. Returns `None` if the batch
/// run is gone. No page is processed after this was detected.
pub(crate) async fn run_stride<P: PageProcessor>(
    processor: &P,
    order: &StrideOrder,
    resume: StrideReport,
    host: &dyn StrideHost,
) -> Option<StrideReport> {
    let mut report = resume;
    report.timing = Timing {
        page_size: order.page_size,
        ..Timing::default()
    };
    let settings = processor.settings();
    let outcome = async {
        let mut stride = Running::prepare(processor, order, &mut report, host, &settings).await?;
        stride.run(&mut report).await
    }
    .await;
    host.works_on(None);
    match outcome {
        Ok(()) | Err(Halt::Stopped) => Some(report),
        Err(Halt::Gone) => None,
        Err(Halt::Failed(failure)) => {
            report.failure = Some(failure.attempt);
            Some(report)
        }
    }
}

/// The facts about a processor that a controller needs before the first page.
pub(crate) fn prepared<P: PageProcessor>(processor: &P, args: &P::Args, size: Size) -> Prepared {
    let ProcessorSettings {
        retry_mode,
        retry,
        page_timeout,
        heartbeat_timeout,
        non_retryable_types: _,
        permits,
        item_retry: _,
    } = processor.settings();
    Prepared {
        retry_mode,
        retry,
        page_timeout,
        heartbeat_timeout,
        items_expected: size.items(),
        items_exact: matches!(size, Size::Exact(_)),
        dead_letters: letters_of(processor, args).is_some(),
        once_per_page: processor.ledger(args).is_some(),
        args: None,
        reducer: processor
            .reducer(args)
            .map(|reducer| reducer.plan().clone()),
        partitions: Vec::new(),
        splits: P::SPLITS,
        permit_per_item: permits == Permits::PerItem,
    }
}
