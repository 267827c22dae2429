//! Payloads that fit into what Temporal takes.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::Serialize;

use crate::{
    decisions::{
        carry::{ControllerInput, EndDetails},
        scheduler::Ending,
        state::{BatchState, work::Work},
    },
    progress::report::BatchReport,
};

/// The largest size of one payload. Temporal refuses 2 MiB, and an encrypting codec may add to the size.
pub(crate) const MAX_BYTES: usize = 1_800_000;

/// The number of entries in a list that was cut.
pub(crate) const MAX_LISTED: usize = 3;

pub(crate) fn bytes(payload: &impl Serialize) -> usize {
    serde_json::to_string(payload).map_or(usize::MAX, |json| json.len())
}

pub(crate) fn is_too_large(payload: &impl Serialize) -> bool {
    bytes(payload) > MAX_BYTES
}

impl<W: Work> BatchState<W> {
    /// Returns the input of the next run, small enough to be kept.
    pub(crate) fn fitting_input(&self) -> ControllerInput<W> {
        fitting(self.next_input())
    }

    /// Returns the report of the batch with the state needed to continue, small enough to be kept.
    pub(crate) fn fitting_details(&self, ending: &Ending) -> EndDetails<W> {
        with_continuation(self.report(ending), self.next_input())
    }
}

/// Drops waiting notices first: they are counted, and the progress contains their facts as well.
pub(crate) fn fitting<W: Work>(mut input: ControllerInput<W>) -> ControllerInput<W> {
    if let Some(carry) = input.carry.as_mut().filter(is_too_large) {
        carry.notices.drop_waiting();
    }
    if let Some(carry) = input.carry.as_mut().filter(is_too_large)
        && let Some(fold) = carry.work.fold_mut()
    {
        fold.fail("the outputs that wait to be combined are more than can be kept".to_owned());
    }
    input
}

pub(crate) fn with_continuation<W: Work>(
    report: BatchReport,
    input: ControllerInput<W>,
) -> EndDetails<W> {
    let mut details = EndDetails {
        report,
        continuation: Some(Box::new(input)),
    };
    if is_too_large(&details) {
        details.report = shortened(details.report);
        details.continuation = details.continuation.map(|input| Box::new(fitting(*input)));
    }
    if is_too_large(&details) {
        let bytes = bytes(&details.continuation);
        let why = format!(
            "it cannot be continued, because its state of {bytes} bytes is too large to be kept"
        );
        let before = details.report.reason.take();
        details.report.reason = Some(before.map_or_else(|| why.clone(), |r| format!("{r}; {why}")));
        details.continuation = None;
    }
    details
}

/// The counts say how many entries are left out.
pub(crate) fn shortened(mut report: BatchReport) -> BatchReport {
    let progress = &mut report.progress;
    progress.failing.truncate(MAX_LISTED);
    progress.failed.truncate(MAX_LISTED);
    progress.failed_items.truncate(MAX_LISTED);
    progress.partitions.truncate(MAX_LISTED);
    report
}
