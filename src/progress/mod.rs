//! What a batch tells about itself: progress while it runs, a report when it ends.

pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod failures;
pub(crate) mod parts;
pub(crate) mod phase;
pub(crate) mod report;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    page::{
        size::{Certainty, Size, Stand},
        token::PageToken,
    },
    progress::{
        audit::AuditEntry,
        check::Checked,
        failures::{FailedItem, PageFailure},
        parts::{PartitionCounts, PartitionProgress, StageProgress},
        phase::{HeldBy, Phase},
    },
};

/// Items by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts {
    /// Items whose work was done.
    pub processed: u64,
    /// Of these, the items that were different afterwards, where the processor tells.
    #[serde(default)]
    pub changed: u64,
    /// Items left alone on purpose.
    pub skipped: u64,
    /// Items given up on.
    pub failed: u64,
}

impl ItemCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.processed + self.skipped + self.failed
    }

    /// What is left of this without `earlier`.
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

/// A consistent look at a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The batch.
    pub batch_id: String,
    /// This execution of it.
    pub batch_run: String,
    /// The processor.
    pub processor: String,
    /// The batch whose dead letters this one redrives, if it does.
    #[serde(default)]
    pub redrive_of: Option<String>,
    /// What it is doing.
    pub phase: Phase,
    /// Why it was paused, as its operator said.
    #[serde(default)]
    pub pause_reason: Option<String>,
    /// Pages finished.
    pub pages_completed: u64,
    /// Pages given up.
    pub pages_failed: u64,
    /// Pages in flight.
    pub pages_in_flight: u32,
    /// Pages in the slow retry lane.
    pub pages_stuck: u32,
    /// Strides whose start is known and that nobody has been given yet.
    pub strides_waiting: u32,
    /// Items by outcome.
    pub items: ItemCounts,
    /// Why items were skipped, how often; at most ten different reasons.
    #[serde(default)]
    pub skip_reasons: BTreeMap<String, u64>,
    /// Items in the whole data set, where that is known: those that are done, once the batch has completed. Never
    /// less than what is done, and never an estimate in a report.
    #[serde(default)]
    pub items_expected: Option<u64>,
    /// Whether that number is exact or an estimate.
    #[serde(default)]
    pub items_expected_is: Certainty,
    /// Attempts that failed and were followed, or will be followed, by another.
    pub retries: u64,
    /// Limit on pages in flight.
    pub max_parallelism: u32,
    /// Most pages that were in flight at once.
    pub max_parallelism_achieved: u32,
    /// Items per second at most.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Everything up to here is finished; `None` before the first page.
    #[serde(default)]
    pub low_water_mark: Option<PageToken>,
    /// Whether the end of the data has been seen.
    pub end_of_data: bool,
    /// Pages that are waiting for another attempt, oldest stride first, at most 20.
    #[serde(default)]
    pub failing: Vec<PageFailure>,
    /// The first 50 pages that were given up, in the order in which that happened.
    #[serde(default)]
    pub failed: Vec<PageFailure>,
    /// The first items that were given up.
    #[serde(default)]
    pub failed_items: Vec<FailedItem>,
    /// When the batch run started, whatever the number of continue-as-new since.
    pub started_at: Timestamp,
    /// The server's time of the controller's last decision. It stands still while nothing happens.
    pub as_of: Timestamp,
    /// Temporal runs of this batch run: 1 plus the number of continue-as-new.
    pub runs: u32,
    /// Announcements that were dropped because they belonged to another batch run, came too late, or did
    /// not fit what was known.
    pub announcements_dropped: u64,
    /// Attempts at pages that failed one after the other, without a finished page since.
    #[serde(default)]
    pub consecutive_failures: u64,
    /// When the batch stops itself, if it has a deadline.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Where discovery cannot go on, while the batch is [`Phase::Blocked`].
    #[serde(default)]
    pub blocked_at: Option<PageToken>,
    /// Why the batch is blocked.
    #[serde(default)]
    pub blocked_reason: Option<String>,
    /// Calls of hooks that failed for good, and final reports that could not be kept.
    #[serde(default)]
    pub hooks_failed: u64,
    /// Failures that the failure handler was not told, because too many came at once.
    #[serde(default)]
    pub notices_dropped: u64,
    /// What was done to the batch, the latest 50 in order.
    #[serde(default)]
    pub audit: Vec<AuditEntry>,
    /// What was done before these.
    #[serde(default)]
    pub audit_older: u64,
    /// Why the batch is not faster, in one sentence such as `rate limit 5,000 items/s`; empty where nothing
    /// holds it.
    #[serde(default)]
    pub explanation: String,
    /// What the explanation is about.
    #[serde(default)]
    pub held_by: Option<HeldBy>,
    /// The page size that fits the rate, where pages are too large for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting_page_size: Option<u32>,
    /// The parallelism that workers have slots for, where pages without a slot hold part of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting_parallelism: Option<u32>,
    /// The workers of the task queue do not have the processor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_processor: bool,
    /// The limit that would hold the batch if its pages got through. It decides when the controller publishes.
    #[serde(skip)]
    pub(crate) limited_by: Option<HeldBy>,
    /// Settings that are allowed and cannot work well, one sentence each with the flag that mends it: a page that is too
    /// large for the rate, a stride that its source makes nothing of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Who paused the batch, when, and until when, while it is paused.
    #[serde(default)]
    pub pause: Option<PauseNote>,
    /// Pages in flight that the limit, the ramp, the tuning and the throttles together leave right now.
    #[serde(default)]
    pub parallelism_now: u32,
    /// The planned increase of parallelism that is under way, as it was given: `1..32/10m`.
    #[serde(default)]
    pub ramp: Option<String>,
    /// How long the ramp still takes, in seconds of running.
    #[serde(default)]
    pub ramp_seconds_left: Option<f64>,
    /// Bounds between which the parallelism is tuned, `2..16`, if it is.
    #[serde(default)]
    pub auto_parallelism: Option<String>,
    /// Items per page right now.
    #[serde(default)]
    pub page_size: u32,
    /// Bounds and target of the page size, `100..10000 at 1s`, if it is tuned.
    #[serde(default)]
    pub auto_page_size: Option<String>,
    /// Pages of the strides that are cut next.
    #[serde(default)]
    pub stride: u32,
    /// The target of the strides, `5s`, if their length is tuned.
    #[serde(default)]
    pub auto_stride: Option<String>,
    /// What makes a tuned stride as long as it is.
    #[serde(default)]
    pub stride_because: Option<String>,
    /// Pages per second at most.
    #[serde(default)]
    pub page_rate: Option<f64>,
    /// Pause before each page.
    #[serde(default)]
    pub page_pause: Option<Duration>,
    /// The throttles of the batch, by name.
    #[serde(default)]
    pub throttles: Vec<String>,
    /// What the throttles say, unless they let everything go.
    #[serde(default)]
    pub throttled: Option<Throttled>,
    /// The operating windows, as they were given.
    #[serde(default)]
    pub windows: Vec<String>,
    /// Outside of every window: when the next one opens.
    #[serde(default)]
    pub window_opens_at: Option<Timestamp>,
    /// The lock that the batch holds or waits for.
    #[serde(default)]
    pub lock: Option<String>,
    /// Who holds the lock that the batch waits for.
    #[serde(default)]
    pub lock_held_by: Option<String>,
    /// Items per second over the last minute of the controller's time.
    #[serde(default)]
    pub items_per_second: Option<f64>,
    /// How long the rest may take, where the number of items is known.
    #[serde(default)]
    pub time_left: Option<TimeLeft>,
    /// When the activity that has been running longest was dispatched.
    #[serde(default)]
    pub oldest_in_flight: Option<Timestamp>,
    /// Pages in flight by how long ago their activity was dispatched: under 10 s, under 1 min, under 10 min,
    /// longer.
    #[serde(default)]
    pub in_flight_by_age: [u32; 4],
    /// Dead letters that were kept: items and pages.
    #[serde(default)]
    pub dead_letters: u64,
    /// Whether the processor keeps dead letters. Where it does not, only the first failures are listed, here.
    /// `None`: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_dead_letters: Option<bool>,
    /// The batch began after this cursor, if not at the beginning of the data.
    #[serde(default)]
    pub first_cursor: Option<PageToken>,
    /// The stage that it is in, if it has stages.
    #[serde(default)]
    pub stage: Option<StageProgress>,
    /// The latest check: at the end of a stage, or after the last page.
    #[serde(default)]
    pub check: Option<Checked>,
    /// What the processor's [reducer](crate::PageProcessor::reducer) has made of the finished pages so far. Of a [custom
    /// one](crate::Reducer::custom), what has been combined so far; all of it at the end.
    #[serde(default)]
    pub output: Option<Value>,
    /// Why there is no output, although the processor has a reducer. The pages are not harmed by it.
    #[serde(default)]
    pub output_error: Option<String>,
    /// How many partitions the batch has, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_counts: Option<PartitionCounts>,
    /// Partitions: those that run, those that wait, those that are finished, of each the largest first. At most
    /// 100, in the memo of the workflow 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionProgress>,
}

/// Who paused a batch, when, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseNote {
    /// The operator, or the batch itself.
    #[serde(default)]
    pub who: Option<String>,
    /// The reason that was given.
    #[serde(default)]
    pub why: Option<String>,
    /// When.
    pub at: Timestamp,
    /// When it goes on by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// What the throttles of a batch say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throttled {
    /// The throttle that says it.
    pub by: String,
    /// 0 holds the batch; anything else is the part of its limits that is left.
    pub factor: f64,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// How long the rest of a batch may take: between these, if it goes on as it did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeLeft {
    /// Seconds at the fastest of the last minutes.
    pub at_least: f64,
    /// Seconds at the slowest.
    pub at_most: f64,
}

impl Progress {
    /// Takes the longer lists of another look at the same batch run, for those that were cut.
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

    /// Share of the items that are done, from 0 to 100, where their number is known. 100 only in the report of a
    /// batch that completed.
    pub fn percent(&self) -> Option<f64> {
        let done = self.items.total();
        let stand = match (self.phase, self.size()) {
            (Phase::Ended, Size::Exact(items)) if items == done => Stand::Complete,
            (Phase::Ended, _) => Stand::Over,
            _ => Stand::Underway,
        };
        self.size().percent(done, stand)
    }

    /// How many items the batch has.
    pub fn size(&self) -> Size {
        Size::of(self.items_expected, self.items_expected_is)
    }

    /// Leaves what may be shown of the size where the batch stands so.
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

/// Up to which age each group of what is in flight goes; the last one has no upper bound.
const AGES: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];

/// How many there are in each age group.
pub(crate) fn by_age(ages: impl Iterator<Item = Duration>) -> [u32; 4] {
    let mut groups = [0; 4];
    for age in ages {
        let group = AGES.iter().position(|limit| age < *limit);
        groups[group.unwrap_or(AGES.len())] += 1;
    }
    groups
}

/// Entries of each list of [`MEMO_PROGRESS`].
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
