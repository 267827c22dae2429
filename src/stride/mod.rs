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
//!            |                    | --- announce next start -> | (if nobody knows it yet)
//!            |                    | --- wait for the rate ---> |
//!            |   process          |                            |
//!            | <----------------- |                            |
//!            |                    | --- checkpoint ----------> |
//! ```
//!
//! [`running`] goes from page to page, [`page`] reads one and applies it, [`give_up`] isolates what cannot
//! be processed, and [`keeping`] writes to the stores of the processor, if it has any: between `process`
//! and the checkpoint the page is applied and its dead letters are kept, in one transaction where there is
//! a ledger.
//!
//! A stride that is told to stop while a page waits leaves that page as if it had never looked at it, and one
//! that is told to stop now drops what can be dropped: both end with a normal report without that page.
//!
//! Everything here is typed; there is no Temporal in it. What the outside world does is behind
//! [`StrideHost`].

mod bisect;
mod given_up_log;
mod page;
pub(crate) mod rate_share;
pub(crate) mod redrive;
pub(crate) mod registry;
mod runner;
mod stores;
#[cfg(test)]
mod tests;

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
    metrics::ClaimOutcome,
    page::{size::Size, token::PageToken},
    processor::{
        PageProcessor,
        item::{ItemHost, Permits},
        settings::ProcessorSettings,
        stop_signal::Told,
        store::dead_letter::MAX_LETTER_CHARS,
    },
    progress::ItemCounts,
    protocol::{
        AcceptedEnd, FailedAttempt, Prepared, RunningPage, StrideOrder, StrideReport, Timing,
    },
    stride::redrive::letters_of,
};
use runner::Running;

/// The outside world of a stride.
#[async_trait]
pub(crate) trait StrideHost: Send + Sync {
    /// Tells the controller where the following strides start; none: the data ends with the next page.
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError>;
    /// Whether an earlier attempt may have announced already, unknown to the order.
    fn is_repeat(&self) -> bool;
    /// Where the controller says that this stride ends.
    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError>;
    /// Whether this attempt is still the one that counts, as far as can be known without asking often.
    async fn still_counts(&self) -> Result<(), HostError>;
    /// Waits until the next page may begin.
    async fn clear_to_go(&self) -> Go;
    /// The permits and waits of items that take their permits by themselves.
    fn item_host(&self) -> Arc<dyn ItemHost>;
    /// Waits until so many items may be processed.
    async fn rate_permits(&self, items: usize) -> Go;
    /// Notes which page is being worked on, for whoever looks.
    fn works_on(&self, page: Option<RunningPage>);
    /// Notes where that page ends: at the end of the data, if it is the last.
    fn page_ends(&self, _end: Option<&PageToken>, _is_last: bool) {}
    /// Notes what is finished, for an attempt after a lost worker.
    fn checkpoint(&self, report: &StrideReport);
    /// The orders that the stride gets while it runs. `stop_now`, `cancelled` and `gone` are never taken
    /// back.
    fn told(&self) -> watch::Receiver<Told>;
    /// For metrics.
    fn observe(&self, event: PageEvent);
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Go {
    /// The page may go on.
    On,
    /// The stride was told to stop while it waited.
    Stop,
}

/// What happened to a page, for metrics.
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
    /// The fetch found nothing, so there was no page.
    NoPage,
    /// The stride was told to stop, and nothing of the page is done.
    Stopped,
    /// A `fetch` came back, with or without a page.
    Fetched {
        #[allow(dead_code, reason = "for metrics, which do not have it yet")]
        took: Duration,
    },
    /// A `process` came back, and where it succeeded its page is applied.
    Processed {
        #[allow(dead_code, reason = "for metrics, which do not have it yet")]
        took: Duration,
    },
    /// A wait ended, or was given up.
    Waited {
        for_what: WaitFor,
        took: Duration,
    },
    /// A page's place in the ledger was claimed.
    Claimed(ClaimOutcome),
    /// So many dead letters were kept.
    DeadLetters {
        letters: u64,
    },
}

/// What pages wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The items that the stride may process per second.
    Rate,
    /// The pages that it may begin per second.
    PageRate,
    /// The pause between pages.
    Pause,
    /// A throttle that holds.
    Throttle,
}

/// Why the host could not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The batch run has ended, or its stride is finished or somebody else's: nobody wants this work any
    /// more.
    #[error("the batch run is gone")]
    Gone,
    /// Anything else; another attempt may get through.
    #[error("{0}")]
    Unavailable(String),
}

/// The batch run is gone; nothing was processed after that was noticed.
#[derive(Debug)]
pub(crate) struct Gone;

/// Why a stride stops before its end.
enum Stop {
    Gone,
    /// It was told to. Of the page that it was at, nothing is done.
    Told,
    Failed(Box<Failure>),
}

/// Why a part of a page was not done.
enum Trouble {
    /// The stride was told to stop.
    Told,
    Error(PageError),
}

impl From<PageError> for Trouble {
    fn from(error: PageError) -> Self {
        Self::Error(error)
    }
}

impl From<Go> for Result<(), Trouble> {
    fn from(go: Go) -> Self {
        match go {
            Go::On => Ok(()),
            Go::Stop => Err(Trouble::Told),
        }
    }
}

/// A page that failed.
#[derive(Clone)]
struct Failure {
    attempt: FailedAttempt,
    /// Longer than what a history keeps.
    message: String,
    /// It failed in `process`, and its items are ordered by their cursors.
    can_be_split: bool,
    /// The record, where the page has only one and its processor has said what it is. A history keeps none.
    record: Option<String>,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Gone => Self::Gone,
            HostError::Unavailable(_) => {
                let error = PageError::retryable(error).with_type("ControllerUnavailable");
                Failure::of(&error, &[]).into()
            }
        }
    }
}

/// Error type of a connection that cannot be made, or broke.
const CONNECTION_LOST: &str = "ConnectionLost";

/// Error type of a page that takes too long.
const PAGE_TIMEOUT: &str = "PageTimeout";

/// Errors of these types say nothing about the page: the code of the worker does not fit the batch, or
/// the engine could not do its part. A deploy or time cures them, so they never use up attempts.
const NOT_THE_PAGE: &[&str] = &[
    "ArgsNotReadable",
    "CursorNotReadable",
    "ControllerUnavailable",
    "DiskFull",
    "FileNotHere",
    "FileChanged",
    stores::FENCED_OFF,
    crate::processor::store::page_ledger::LEDGER_TABLES_MISSING,
    "PageReportMismatch",
    "OutputNotKept",
    "PoolTimedOut",
    "ReadOnlyDatabase",
    "ReducerChanged",
    "SqlStatement",
    "TransactionNotUsed",
    "UnknownConnection",
    "NoLedger",
    "NoTransaction",
    "WrongDatabase",
];

impl Failure {
    fn of(error: &PageError, non_retryable: &[String]) -> Self {
        let listed = non_retryable.iter().any(|t| t == error.error_type());
        let not_the_page = NOT_THE_PAGE.contains(&error.error_type());
        Self {
            attempt: FailedAttempt {
                page_end: None,
                last_page: false,
                error_type: truncate(error.error_type(), 60),
                message: truncate(error.message(), MAX_MESSAGE_CHARS),
                retryable: not_the_page || (error.is_retryable() && !listed),
                retry_after: error.delay(),
                not_the_page,
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

    /// The effects may be there, so another attempt is not allowed.
    fn spend(&mut self) {
        self.attempt.retryable = false;
        self.attempt.retry_after = None;
        self.attempt.not_the_page = false;
    }

    /// The page had its attempts; what failed is putting it aside.
    fn while_giving_up(error: &PageError) -> Self {
        let mut failure = Self::of(error, &[]);
        failure.beside_the_page();
        failure
    }

    fn is_broken(&self) -> bool {
        self.attempt.error_type == CONNECTION_LOST
    }

    /// It says nothing of the page: whatever it is, it is tried again.
    fn beside_the_page(&mut self) {
        self.attempt.retryable = true;
        self.attempt.not_the_page = true;
        self.attempt.blame = Blame::Moment;
    }
}

/// Of a page whose code never let its time limit act.
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

/// The arguments of a batch, for a processor that should know their type.
pub(crate) fn read_args<A: DeserializeOwned>(args: &serde_json::Value) -> Result<A, PageError> {
    A::deserialize(args).map_err(|e| {
        PageError::retryable(format_args!(
            "the arguments of the batch do not fit: {}",
            explain(&e)
        ))
        .with_type("ArgsNotReadable")
    })
}

/// Runs the pages of `order`, going on after what `resume` says is finished.
pub(crate) async fn run_stride<P: PageProcessor>(
    processor: &P,
    order: &StrideOrder,
    resume: StrideReport,
    host: &dyn StrideHost,
) -> Result<StrideReport, Gone> {
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
        Ok(()) | Err(Stop::Told) => Ok(report),
        Err(Stop::Gone) => Err(Gone),
        Err(Stop::Failed(failure)) => {
            report.failure = Some(failure.attempt);
            Ok(report)
        }
    }
}

/// What a controller needs to know of a processor before the first page.
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
