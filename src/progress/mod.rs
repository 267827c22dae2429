//! The state that a batch reports: progress while it runs, and a report at its end.

pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod failures;
pub(crate) mod open_range;
pub(crate) mod parts;
pub(crate) mod phase;
pub(crate) mod report;

pub use crate::page::size::Certainty;
pub use audit::AuditEntry;
pub use check::{Check, Checked, FailedRange};
pub use failures::{FailedItem, FailureState, PageFailure};
pub use open_range::{OpenRange, OpenState};
pub use parts::{PartitionCounts, PartitionProgress, PartitionState, StageProgress, StageState};
pub use phase::{HeldBy, Phase};

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    page::{
        size::{Size, Stand},
        token::PageToken,
    },
};

/// The number of items by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts {
    /// Items that were processed.
    pub processed: u64,
    /// Processed items that were different afterwards, if the processor reports it.
    #[serde(default)]
    pub changed: u64,
    /// Items that were deliberately left alone.
    pub skipped: u64,
    /// Items that were given up.
    pub failed: u64,
}

impl ItemCounts {
    /// Returns the total of all outcomes.
    pub fn total(&self) -> u64 {
        self.processed + self.skipped + self.failed
    }

    /// Returns the difference to an earlier count.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            processed: self.processed.saturating_sub(earlier.processed),
            changed: self.changed.saturating_sub(earlier.changed),
            skipped: self.skipped.saturating_sub(earlier.skipped),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }
}

impl std::ops::AddAssign for ItemCounts {
    fn add_assign(&mut self, other: Self) {
        self.processed += other.processed;
        self.changed += other.changed;
        self.skipped += other.skipped;
        self.failed += other.failed;
    }
}

/// A consistent snapshot of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The id of the batch.
    pub batch_id: String,
    /// The id of this execution of the batch.
    pub batch_run: String,
    /// The name of the processor.
    pub processor: String,
    /// The batch whose dead letters this one redrives, if any.
    #[serde(default)]
    pub redrive_of: Option<String>,
    /// The current activity of the batch.
    pub phase: Phase,
    /// The reason given by the operator who paused the batch.
    #[serde(default)]
    pub pause_reason: Option<String>,
    /// Pages that are finished.
    pub pages_completed: u64,
    /// Pages that were given up.
    pub pages_failed: u64,
    /// Pages in flight.
    pub pages_in_flight: u32,
    /// Pages in extended retries.
    pub pages_stuck: u32,
    /// Strides whose start is known and that are not dispatched yet.
    pub strides_waiting: u32,
    /// The number of items by outcome.
    pub items: ItemCounts,
    /// The number of skipped items for each reason, with at most ten different reasons.
    #[serde(default)]
    pub skip_reasons: BTreeMap<String, u64>,
    /// The number of items in the whole data set, if known. Once the batch has completed, this is the number of
    /// items done. It is never less than the items done, and never an estimate in a report.
    #[serde(default)]
    pub items_expected: Option<u64>,
    /// The certainty of `items_expected`.
    #[serde(default)]
    pub items_expected_is: Certainty,
    /// Failed attempts that were or will be followed by another attempt.
    pub retries: u64,
    /// The limit on pages in flight.
    pub max_parallelism: u32,
    /// The highest number of pages that were in flight at once.
    pub max_parallelism_achieved: u32,
    /// The limit on items per second.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The cursor up to which everything is finished. `None` before the first page.
    #[serde(default)]
    pub low_water_mark: Option<PageToken>,
    /// True if the end of the data has been found.
    pub end_of_data: bool,
    /// The ranges that are not finished, in the order of the data, at most 50 and 4 KiB. If there are more, the last
    /// one has no end. Up to the end of the data, everything outside of them is finished or was given up. A batch
    /// with partitions has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_ranges: Vec<OpenRange>,
    /// Pages that are waiting for another attempt, oldest stride first, at most 20.
    #[serde(default)]
    pub failing: Vec<PageFailure>,
    /// The first 50 pages that were given up, in that order.
    #[serde(default)]
    pub failed: Vec<PageFailure>,
    /// The first items that were given up.
    #[serde(default)]
    pub failed_items: Vec<FailedItem>,
    /// The start of the batch run, which a continue-as-new does not change.
    pub started_at: Timestamp,
    /// The server time of the controller's last decision. It does not advance while nothing happens.
    pub as_of: Timestamp,
    /// The number of Temporal runs of this batch run: 1 plus the number of continue-as-new.
    pub runs: u32,
    /// Announcements that were dropped because they belonged to another batch run, arrived too late, or
    /// contradicted the known state.
    pub announcements_dropped: u64,
    /// The number of attempts that have failed in a row since a page last finished.
    #[serde(default)]
    pub consecutive_failures: u64,
    /// The time at which the batch stops itself, if it has a deadline.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// The cursor at which discovery is stuck, while the batch is [`Phase::Blocked`].
    #[serde(default)]
    pub blocked_at: Option<PageToken>,
    /// The reason why the batch is blocked.
    #[serde(default)]
    pub blocked_reason: Option<String>,
    /// Calls of hooks that failed permanently, and final reports that could not be stored.
    #[serde(default)]
    pub hooks_failed: u64,
    /// Failures that were not reported to the failure handler, because too many came at once.
    #[serde(default)]
    pub notices_dropped: u64,
    /// The latest 50 actions on the batch, in order.
    #[serde(default)]
    pub audit: Vec<AuditEntry>,
    /// The number of older actions.
    #[serde(default)]
    pub audit_older: u64,
    /// The reason why the batch is not faster, as one sentence such as `rate limit 5,000 items/s`. Empty if
    /// nothing limits it.
    #[serde(default)]
    pub explanation: String,
    /// The subject of the explanation.
    #[serde(default)]
    pub held_by: Option<HeldBy>,
    /// A page size that fits the rate, if pages are too large for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting_page_size: Option<u32>,
    /// A parallelism for which workers have slots, if pages without a slot are holding part of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting_parallelism: Option<u32>,
    /// True if the workers of the task queue do not have the processor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_processor: bool,
    /// The limit that would apply if pages succeeded. The controller uses it to decide when to publish.
    #[serde(skip)]
    pub(crate) limited_by: Option<HeldBy>,
    /// Settings that are allowed but cannot work well, such as pages too large for the rate or strides that the
    /// source cannot use. Each is one sentence that names the flag to change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The operator, the time and the end of the pause, while the batch is paused.
    #[serde(default)]
    pub pause: Option<PauseNote>,
    /// The number of pages in flight currently allowed by the limit, the ramp, the tuning and the throttles
    /// together.
    #[serde(default)]
    pub parallelism_now: u32,
    /// The ramp in progress, as it was given: `1..32/10m`.
    #[serde(default)]
    pub ramp: Option<String>,
    /// The remaining time of the ramp, in seconds of running.
    #[serde(default)]
    pub ramp_seconds_left: Option<f64>,
    /// The bounds between which the parallelism is tuned, such as `2..16`, if it is tuned.
    #[serde(default)]
    pub auto_parallelism: Option<String>,
    /// The current number of items per page.
    #[serde(default)]
    pub page_size: u32,
    /// The bounds and target of the page size, such as `100..10000 at 1s`, if it is tuned.
    #[serde(default)]
    pub auto_page_size: Option<String>,
    /// The number of pages in the strides that are cut next.
    #[serde(default)]
    pub stride: u32,
    /// The target time of the strides, such as `5s`, if their length is tuned.
    #[serde(default)]
    pub auto_stride: Option<String>,
    /// The reason for the length of a tuned stride.
    #[serde(default)]
    pub stride_because: Option<String>,
    /// The limit on pages per second.
    #[serde(default)]
    pub page_rate: Option<f64>,
    /// The pause before each page.
    #[serde(default)]
    pub page_pause: Option<Duration>,
    /// The names of the batch's throttles.
    #[serde(default)]
    pub throttles: Vec<String>,
    /// The combined verdict of the throttles, unless all of them are open.
    #[serde(default)]
    pub throttled: Option<Throttled>,
    /// The operating windows, as they were given.
    #[serde(default)]
    pub windows: Vec<String>,
    /// The time at which the next window opens, while the batch is outside all of them.
    #[serde(default)]
    pub window_opens_at: Option<Timestamp>,
    /// The lock that the batch holds or waits for.
    #[serde(default)]
    pub lock: Option<String>,
    /// The holder of the lock that the batch waits for.
    #[serde(default)]
    pub lock_held_by: Option<String>,
    /// Items per second over the last minute, by the controller's clock.
    #[serde(default)]
    pub items_per_second: Option<f64>,
    /// An estimate of the remaining time, if the number of items is known.
    #[serde(default)]
    pub time_left: Option<TimeLeft>,
    /// The dispatch time of the activity that has been running longest.
    #[serde(default)]
    pub oldest_in_flight: Option<Timestamp>,
    /// The number of pages in flight by the time since their dispatch: under 10s, under 1m, under 10m,
    /// longer.
    #[serde(default)]
    pub in_flight_by_age: [u32; 4],
    /// The number of dead letters that were stored: items and pages.
    #[serde(default)]
    pub dead_letters: u64,
    /// True if the processor stores dead letters. If it does not, only the first failures are listed here.
    /// `None` while this is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_dead_letters: Option<bool>,
    /// The cursor after which the batch began, if not at the beginning of the data.
    #[serde(default)]
    pub first_cursor: Option<PageToken>,
    /// The current stage, if the batch has stages.
    #[serde(default)]
    pub stage: Option<StageProgress>,
    /// The latest check: at the end of a stage, or after the last page.
    #[serde(default)]
    pub check: Option<Checked>,
    /// The result that the processor's [reducer](crate::PageProcessor::reducer) has computed from the finished
    /// pages so far. For a [custom reducer](crate::Reducer::custom), this covers only what has been combined so
    /// far, which is everything at the end.
    #[serde(default)]
    pub output: Option<Value>,
    /// The reason why there is no output although the processor has a reducer. The pages themselves are
    /// unaffected.
    #[serde(default)]
    pub output_error: Option<String>,
    /// The number of partitions, if the batch has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_counts: Option<PartitionCounts>,
    /// The partitions: first those that run, then those that wait, then those that are finished, each group
    /// sorted by size, largest first. At most 100, and at most 10 in the memo of the workflow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionProgress>,
}

/// The operator, time and end of a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseNote {
    /// The operator, or the batch itself.
    #[serde(default)]
    pub who: Option<String>,
    /// The reason that was given.
    #[serde(default)]
    pub why: Option<String>,
    /// The time of the pause.
    pub at: Timestamp,
    /// The time at which the batch resumes by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// The combined verdict of a batch's throttles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throttled {
    /// The throttle that decides.
    pub by: String,
    /// The fraction of the limits that remains. 0 holds the batch.
    pub factor: f64,
    /// The reason.
    pub reason: String,
    /// The start of this state.
    pub since: Timestamp,
}

/// A range for the remaining time of a batch, if it continues at its recent speed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeLeft {
    /// Seconds at the highest recent speed.
    pub at_least: f64,
    /// Seconds at the lowest recent speed.
    pub at_most: f64,
}

impl Progress {
    /// Replaces lists that were cut by the longer lists of another snapshot of the same batch run.
    #[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
    pub(crate) fn lengthen(&mut self, full: Self) {
        fn take<T>(list: &mut Vec<T>, full: Vec<T>) {
            if list.len() == MEMO_LISTED && full.len() > list.len() {
                *list = full;
            }
        }
        if full.batch_run != self.batch_run {
            return;
        }
        take(&mut self.failing, full.failing);
        take(&mut self.failed, full.failed);
        take(&mut self.failed_items, full.failed_items);
        if full.partitions.len() > self.partitions.len() {
            self.partitions = full.partitions;
        }
        if let Some(found) = self.check.as_mut().and_then(|check| check.found.as_mut())
            && let Some(full) = full.check.and_then(|check| check.found)
        {
            take(&mut found.failed, full.failed);
        }
        let actions = |listed: usize, older: u64| older + listed as u64;
        let known = actions(full.audit.len(), full.audit_older);
        if actions(self.audit.len(), self.audit_older) == known {
            self.audit = full.audit;
            self.audit_older = full.audit_older;
        }
    }

    /// Returns the percentage of items done, from 0 to 100, if the number of items is known. Only the report of a batch
    /// that completed has 100.
    pub fn percent(&self) -> Option<f64> {
        let done = self.items.total();
        let stand = match (self.phase, self.size()) {
            (Phase::Ended, Size::Exact(items)) if items == done => Stand::Complete,
            (Phase::Ended, _) => Stand::Over,
            _ => Stand::Underway,
        };
        self.size().percent(done, stand)
    }

    /// Returns the number of items in the batch.
    pub fn size(&self) -> Size {
        Size::of(self.items_expected, self.items_expected_is)
    }

    /// Removes the parts of the size that must not be shown in this state.
    pub(crate) fn settle(&mut self, stand: Stand) {
        let size = self.size().shown(self.items.total(), stand);
        self.items_expected = size.items();
        self.items_expected_is = size.certainty();
        if stand != Stand::Underway || size == Size::Unknown {
            self.time_left = None;
        }
        for partition in &mut self.partitions {
            partition.settle(stand);
        }
    }
}

/// The upper age limit of each group of pages in flight. The last group has none.
const AGES: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];

/// Counts ages by group.
pub(crate) fn by_age(ages: impl Iterator<Item = Duration>) -> [u32; 4] {
    let mut groups = [0; 4];
    for age in ages {
        let group = AGES.iter().position(|limit| age < *limit);
        groups[group.unwrap_or(AGES.len())] += 1;
    }
    groups
}

/// Maximum number of entries in each list of `MEMO_PROGRESS`.
pub(crate) const MEMO_LISTED: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{parts::PartitionState, phase::Outcome, report::BatchReport};

    fn progress(phase: Phase, processed: u64, size: Size) -> Progress {
        serde_json::from_value(serde_json::json!({
            "batch_id": "b", "batch_run": "r", "processor": "p", "phase": phase, "pages_completed": 1,
            "pages_failed": 0, "pages_in_flight": 0, "pages_stuck": 0, "strides_waiting": 0,
            "items": {"processed": processed, "skipped": 0, "failed": 0}, "retries": 0,
            "items_expected": size.items(), "items_expected_is": size.certainty(),
            "max_parallelism": 1, "max_parallelism_achieved": 1, "end_of_data": true, "started_at": 0,
            "as_of": 0, "runs": 1, "announcements_dropped": 0,
            "time_left": {"at_least": 1.0, "at_most": 2.0},
        }))
        .unwrap()
    }

    fn report(outcome: Outcome, processed: u64, size: Size) -> BatchReport {
        let mut report = BatchReport {
            outcome,
            reason: None,
            progress: progress(Phase::Ended, processed, size),
            ended_at: Timestamp(1),
        };
        report.settle();
        report
    }

    #[test]
    fn a_report_shows_no_estimate() {
        for (outcome, size, percent, expected) in [
            (
                Outcome::Completed,
                Size::Estimate(90),
                Some(100.0),
                Some(40),
            ),
            (Outcome::Completed, Size::Estimate(3), Some(100.0), Some(40)),
            (Outcome::Completed, Size::Unknown, Some(100.0), Some(40)),
            (Outcome::Completed, Size::Exact(41), Some(100.0), Some(40)),
            (Outcome::Stopped, Size::Estimate(90), None, None),
            (Outcome::Cancelled, Size::Exact(80), Some(50.0), Some(80)),
            (Outcome::Failed, Size::Exact(40), None, None),
        ] {
            let report = report(outcome, 40, size);
            let p = &report.progress;
            assert_eq!(p.percent(), percent, "{outcome}, {size:?}");
            assert_eq!(p.items_expected, expected, "{outcome}, {size:?}");
            assert_eq!(p.time_left, None, "{outcome}, {size:?}");
            let exact = p.items_expected.is_some();
            assert_eq!(p.items_expected_is == Certainty::Exact, exact);
        }
    }

    #[test]
    fn items_in_pages_that_were_given_up_are_not_known() {
        let mut report = report(Outcome::CompletedWithFailures, 40, Size::Estimate(90));
        assert_eq!(
            report.progress.percent(),
            Some(100.0),
            "items failed, not pages"
        );
        report.progress.pages_failed = 1;
        report.progress.items_expected = Some(90);
        report.progress.items_expected_is = Certainty::Estimate;
        report.settle();
        assert_eq!(report.progress.percent(), None);
    }

    #[test]
    fn an_estimate_that_was_passed_is_gone_while_the_batch_runs() {
        let mut running = progress(Phase::Running, 6_666, Size::Estimate(100));
        running.settle(Stand::Underway);
        assert_eq!(running.size(), Size::Unknown);
        assert_eq!((running.percent(), running.time_left), (None, None));
        let mut running = progress(Phase::Running, 100, Size::Estimate(100));
        running.settle(Stand::Underway);
        assert_eq!(
            running.percent(),
            Some(99.9),
            "the end of the data was not seen"
        );
        assert!(running.time_left.is_some());
    }

    #[test]
    fn a_partition_that_is_done_has_all_of_its_items() {
        let partition = |state, pages_failed| PartitionProgress {
            name: "p".to_owned(),
            state,
            pages_completed: 1,
            pages_failed,
            pages_in_flight: 0,
            max_parallelism: 0,
            items: ItemCounts {
                processed: 40,
                ..ItemCounts::default()
            },
            items_expected: Some(90),
            low_water_mark: None,
        };
        let mut running = progress(Phase::Running, 40, Size::Unknown);
        running.partitions = vec![
            partition(PartitionState::Finished, 0),
            partition(PartitionState::Running, 0),
            partition(PartitionState::Finished, 1),
        ];
        running.settle(Stand::Underway);
        let shown = |p: &Progress| {
            let shown = p.partitions.iter().map(|p| (p.items_expected, p.percent()));
            shown.collect::<Vec<_>>()
        };
        let share = Some(40.0 / 90.0 * 100.0);
        assert_eq!(
            shown(&running),
            [(Some(40), Some(100.0)), (Some(90), share), (None, None)]
        );
        running.settle(Stand::Over);
        assert_eq!(shown(&running)[1], (None, None));
    }
}
