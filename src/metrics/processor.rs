//! Counters of the pages of one processor.

use std::{fmt, sync::Arc, time::Duration};

use prometheus::{Counter, Histogram, IntCounter};

use super::pages_in_flight::{PageInFlight, Pages};
use crate::page::claim::ClaimOutcome;

/// The outcome of a stride, as seen by the worker that ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrideOutcome {
    /// All pages of the stride are finished.
    Completed,
    /// The stride stopped at a page boundary before its end, because of a hand-over, a pause or a new limit.
    Yielded,
    /// A page of the stride failed.
    Failed,
}

impl StrideOutcome {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Yielded => "yielded",
            Self::Failed => "failed",
        }
    }
}

/// The reaction of a worker to a batch whose workflow task fails permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The worker restarted the current run of the batch.
    Done,
    /// The worker left the batch to a person.
    Left,
}

impl Recovery {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Done => "recovered",
            Self::Left => "left",
        }
    }
}

/// The metrics of one processor, from [`Metrics::for_processor`](super::Metrics::for_processor). Clones share their
/// values.
#[derive(Clone)]
pub(crate) struct ProcessorMetrics {
    pub(super) pages_completed: IntCounter,
    pub(super) pages_failed: IntCounter,
    pub(super) items_processed: IntCounter,
    pub(super) items_skipped: IntCounter,
    pub(super) items_failed: IntCounter,
    pub(super) page_items: Histogram,
    pub(super) page_duration: Histogram,
    pub(super) fetch_duration: Histogram,
    pub(super) process_duration: Histogram,
    pub(super) pages_in_flight: Arc<Pages>,
    pub(super) page_retries: IntCounter,
    pub(super) rate_wait: Counter,
    pub(super) throttle_wait: Counter,
    pub(super) claims_committed: IntCounter,
    pub(super) claims_fenced: IntCounter,
    pub(super) claims_failed: IntCounter,
    pub(super) strides_completed: IntCounter,
    pub(super) strides_yielded: IntCounter,
    pub(super) strides_failed: IntCounter,
    pub(super) announce_signals: IntCounter,
    pub(super) dead_letters: IntCounter,
}

impl ProcessorMetrics {
    /// Records the start of a page. The page is in flight until the returned guard is dropped, even if the work
    /// panics or is cancelled.
    #[must_use = "the page counts as in flight only as long as this guard lives"]
    pub(crate) fn page_started(&self) -> PageInFlight {
        PageInFlight::of(&self.pages_in_flight)
    }

    /// Records a finished page. `duration` is the time from the start of `fetch` to the end of `process`. The
    /// other arguments are the number of items by outcome.
    pub(crate) fn page_completed(
        &self,
        duration: Duration,
        processed: u64,
        skipped: u64,
        failed: u64,
    ) {
        self.pages_completed.inc();
        self.page_duration.observe(duration.as_secs_f64());
        self.page_items
            .observe((processed + skipped + failed) as f64);
        self.items_processed.inc_by(processed);
        self.items_skipped.inc_by(skipped);
        self.items_failed.inc_by(failed);
    }

    /// Records a failed attempt at a page, whether or not another one follows.
    pub(crate) fn page_failed(&self, duration: Duration) {
        self.pages_failed.inc();
        self.page_duration.observe(duration.as_secs_f64());
    }

    /// Records another attempt at a page.
    pub(crate) fn page_retried(&self) {
        self.page_retries.inc();
    }

    /// Records the duration of a call of `fetch`, whether it succeeded or not.
    pub(crate) fn page_fetched(&self, duration: Duration) {
        self.fetch_duration.observe(duration.as_secs_f64());
    }

    /// Records the duration of a call of `process`, whether it succeeded or not.
    pub(crate) fn page_processed(&self, duration: Duration) {
        self.process_duration.observe(duration.as_secs_f64());
    }

    /// Records the time that a page waited for the rate limit.
    pub(crate) fn rate_waited(&self, duration: Duration) {
        self.rate_wait.inc_by(duration.as_secs_f64());
    }

    /// Records the time that a page waited for a throttle.
    pub(crate) fn throttle_waited(&self, duration: Duration) {
        self.throttle_wait.inc_by(duration.as_secs_f64());
    }

    /// Records the end of a claim in a page ledger.
    pub(crate) fn ledger_claim(&self, outcome: ClaimOutcome) {
        match outcome {
            ClaimOutcome::Committed => self.claims_committed.inc(),
            ClaimOutcome::Fenced => self.claims_fenced.inc(),
            ClaimOutcome::Failed => self.claims_failed.inc(),
        }
    }

    /// Records the end of a stride.
    pub(crate) fn stride_ended(&self, outcome: StrideOutcome) {
        match outcome {
            StrideOutcome::Completed => self.strides_completed.inc(),
            StrideOutcome::Yielded => self.strides_yielded.inc(),
            StrideOutcome::Failed => self.strides_failed.inc(),
        }
    }

    /// Records a signal that announced the starts of one or more strides.
    pub(crate) fn announced(&self) {
        self.announce_signals.inc();
    }

    /// Records dead letters that were stored.
    pub(crate) fn dead_letters_kept(&self, letters: u64) {
        self.dead_letters.inc_by(letters);
    }
}

impl fmt::Debug for ProcessorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, recorder::tests::value_of};

    #[test]
    fn a_page_is_counted_once_with_its_items() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        copy.page_completed(Duration::from_millis(20), 7, 2, 1);
        copy.page_failed(Duration::from_secs(400));

        let text = metrics.render();
        let pages = |outcome| {
            let series =
                format!(r#"temporal_batch_pages_total{{outcome="{outcome}",processor="copy"}}"#);
            value_of(&text, &series)
        };
        let items = |outcome| {
            let series =
                format!(r#"temporal_batch_items_total{{outcome="{outcome}",processor="copy"}}"#);
            value_of(&text, &series)
        };
        assert_eq!((pages("completed"), pages("failed")), ("1", "1"));
        assert_eq!(
            (items("processed"), items("skipped"), items("failed")),
            ("7", "2", "1")
        );
        let bucket = |le| {
            let series = format!(
                r#"temporal_batch_page_duration_seconds_bucket{{processor="copy",le="{le}"}}"#
            );
            value_of(&text, &series)
        };
        assert_eq!((bucket("0.01"), bucket("0.025")), ("0", "1"));
        assert_eq!((bucket("300"), bucket("+Inf")), ("1", "2"));
    }

    #[test]
    fn retries_waits_claims_strides_and_signals_are_counted() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        copy.page_retried();
        copy.rate_waited(Duration::from_millis(250));
        copy.rate_waited(Duration::from_millis(500));
        copy.stride_ended(StrideOutcome::Completed);
        copy.stride_ended(StrideOutcome::Yielded);
        copy.stride_ended(StrideOutcome::Yielded);
        copy.stride_ended(StrideOutcome::Failed);
        copy.announced();
        copy.throttle_waited(Duration::from_millis(1_500));
        copy.ledger_claim(ClaimOutcome::Committed);
        copy.ledger_claim(ClaimOutcome::Committed);
        copy.ledger_claim(ClaimOutcome::Committed);
        copy.ledger_claim(ClaimOutcome::Fenced);
        copy.ledger_claim(ClaimOutcome::Failed);
        copy.ledger_claim(ClaimOutcome::Failed);

        let text = metrics.render();
        for (series, expected) in [
            (
                r#"temporal_batch_page_retries_total{processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_rate_wait_seconds_total{processor="copy"}"#,
                "0.75",
            ),
            (
                r#"temporal_batch_strides_total{outcome="completed",processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_strides_total{outcome="yielded",processor="copy"}"#,
                "2",
            ),
            (
                r#"temporal_batch_strides_total{outcome="failed",processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_announce_signals_total{processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_throttle_wait_seconds_total{processor="copy"}"#,
                "1.5",
            ),
            (
                r#"temporal_batch_ledger_claims_total{outcome="committed",processor="copy"}"#,
                "3",
            ),
            (
                r#"temporal_batch_ledger_claims_total{outcome="fenced",processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_ledger_claims_total{outcome="failed",processor="copy"}"#,
                "2",
            ),
        ] {
            assert_eq!(value_of(&text, series), expected, "{series}");
        }
    }

    #[test]
    fn reading_and_processing_a_page_are_timed_apart_and_its_items_are_seen() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        copy.page_fetched(Duration::from_millis(20));
        copy.page_processed(Duration::from_secs(20));
        copy.page_completed(Duration::from_secs(21), 700, 200, 100);

        let text = metrics.render();
        let bucket = |family: &str, le: &str| {
            value_of(
                &text,
                &format!(r#"temporal_batch_{family}_bucket{{processor="copy",le="{le}"}}"#),
            )
            .to_owned()
        };
        for (family, below, above) in [
            ("fetch_duration_seconds", "0.01", "0.025"),
            ("process_duration_seconds", "10", "30"),
            ("page_duration_seconds", "10", "30"),
            ("page_items", "500", "1000"),
        ] {
            assert_eq!(bucket(family, below), "0", "{family}");
            assert_eq!(bucket(family, above), "1", "{family}");
        }
    }
}
