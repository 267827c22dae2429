//! Every name and payload that is stored in a history.
//!
//! Histories outlive deployments: from the first release on a name here never changes, a field never changes its
//! meaning, and a new field has a serde default. The state carried over a continue-as-new is [`Carry`], with the
//! [`Ledger`] in it under the same rules. Histories recorded by every released version are replayed in
//! the tests.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod large_args;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        error::{Blame, MAX_MESSAGE_CHARS, truncate},
        stored::is_default,
        time::Timestamp,
    },
    batch::{
        pace_settings::{
            page_size::AutoPageSize, parallelism::AutoParallelism, ramp::Ramp, stride::Stride,
            window::Window,
        },
        partition_spec::PartitionSpec,
        retry::{RetryMode, RetryPolicy},
        spec::{BatchSpec, HookNames},
        tolerance::{StrideTolerance, Tally},
    },
    decisions::{
        chain::Ledger,
        pacing::Pacing,
        partitions::{Look, Partitions, Told},
        state::{pending_notices::Notices, stages::Stages},
    },
    page::{
        size::{Certainty, Size},
        token::PageToken,
    },
    processor::{
        hooks::HookCall,
        reducer::{Output, Plan},
        store::page_ledger::StrideTotals,
        throttle::Verdict,
    },
    progress::{
        ItemCounts, PauseNote,
        audit::{Audit, Given},
        check::{Check, Checked},
        failures::{FailedItem, PageFailure},
        phase::Outcome,
        report::BatchReport,
    },
};

/// The version of the protocol. It is written into the input of every controller. It rises when a worker of the version
/// before must not go on with the batch, and such a worker refuses it.
pub(crate) const VERSION: u32 = 1;

/// A worker that stops can take a workflow task along; another one gets it after this long. The server's 10 s
/// would make every such stop twice as long. What a task itself takes is milliseconds, and a replay of the
/// longest run little more.
#[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
pub(crate) const TASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Type of the controller workflow.
pub(crate) const CONTROLLER: &str = "temporal-batch.controller";

/// Activity that looks up the processor and has it complete its arguments.
pub(crate) const PREPARE: &str = "temporal-batch.prepare";
/// Activity that runs a stride.
pub(crate) const STRIDE: &str = "temporal-batch.stride";
/// Activity that calls a hook of the user's.
pub(crate) const HOOK: &str = "temporal-batch.hook";
/// Activity that keeps the final report with the dead letters.
pub(crate) const KEEP_REPORT: &str = "temporal-batch.keep_report";
/// Signal with the starts of following strides.
pub(crate) const NEXT_PAGE: &str = "next_page";
/// Signal of a client that looks at the progress in the memo.
pub(crate) const LOOK: &str = "look";
/// Query for a [`Progress`](crate::Progress), for tools of others.
pub(crate) const PROGRESS: &str = "progress";
/// Update that tells where a stride ends.
pub(crate) const ACCEPTED_END: &str = "accepted_end";
/// Update that stops dispatching.
pub(crate) const PAUSE: &str = "pause";
/// Update that goes on dispatching.
pub(crate) const RESUME: &str = "resume";
/// Update that changes limits.
pub(crate) const SET: &str = "set";
/// Signal that does what one of the updates does, for when no worker can answer an update.
pub(crate) const STEER: &str = "steer";
/// Activity that asks the throttles of a batch for as long as it runs.
pub(crate) const THROTTLE: &str = "temporal-batch.throttle";
/// Signal with what the throttles say.
pub(crate) const THROTTLED: &str = "throttled";
/// Activity that works out when operating windows open and close.
pub(crate) const WINDOWS: &str = "temporal-batch.windows";
/// Activity that takes a named lock, or waits for it.
pub(crate) const LOCK: &str = "temporal-batch.lock";
/// Activity that gives a named lock back.
pub(crate) const UNLOCK: &str = "temporal-batch.unlock";
/// Signal that tells who has the lock that a batch waits for.
pub(crate) const LOCK_HELD: &str = "lock_held";
/// Activity that has the processor look at what was done.
pub(crate) const CHECK: &str = "temporal-batch.check";
/// Update that lets a batch go on after a stage.
pub(crate) const APPROVE: &str = "approve";
/// Signal that tells what a batch waits for beside its pages.
pub(crate) const WAITS: &str = "waits";
/// Activity that combines what pages have put out, where only the processor can.
pub(crate) const COMBINE: &str = "temporal-batch.combine";
/// Activity that looks at the partitions of a batch for as long as it runs.
pub(crate) const PARTITIONS: &str = "temporal-batch.partitions";
/// Activity that asks a processor where a range can be split.
pub(crate) const SPLIT: &str = "temporal-batch.split";
/// Signal with what is known of partitions.
pub(crate) const PARTITION_NEWS: &str = "partition_news";
/// Signal that tells the controller of a partition what to keep to.
pub(crate) const SHARE: &str = "share";
/// Signal of a partition that keeps to a smaller share.
pub(crate) const SETTLED: &str = "settled";
/// Type of the workflow whose existence is a named lock.
pub(crate) const LOCK_HOLDER: &str = "temporal-batch.lock-holder";

/// Type of the workflow that runs strides over a continue-as-new of their controller.
pub(crate) const BRIDGE: &str = "temporal-batch.bridge";
/// Signal with strides for a bridge.
pub(crate) const BRIDGE_ORDERS: &str = "orders";
/// Signal with what strides on a bridge came back with.
pub(crate) const BRIDGE_RESULTS: &str = "bridge_results";
/// Activity that notices bridges which are gone.
pub(crate) const WATCH_BRIDGES: &str = "temporal-batch.watch_bridges";

/// The memo field with the latest [`ControlState`], which running strides read.
pub(crate) const MEMO_CONTROL: &str = "control";
/// The memo field with a recent [`Progress`], without its longer lists.
pub(crate) const MEMO_PROGRESS: &str = "progress";
/// The memo field with the [`Progress`] at the time when a client last asked for one, with its longer lists.
pub(crate) const MEMO_FULL: &str = "progress_full";

/// The memo field with the arguments as they were given.
pub(crate) const MEMO_ARGS: &str = "args";
/// The memo field with the arguments as the processor completed them, where it changed them.
pub(crate) const MEMO_PREPARED_ARGS: &str = "prepared_args";
/// The memo field with the [`EndNote`] of a batch that has ended.
pub(crate) const MEMO_ENDED: &str = "ended";
/// The memo field with the batch run.
pub(crate) const MEMO_BATCH_RUN: &str = "batch_run";

/// The end of a batch, for listings. The last run may be over before it has told its progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndNote {
    pub outcome: Outcome,
    /// The start of the batch run.
    pub started_at: Timestamp,
}

/// What is added to the name of a task queue for the work beside the pages: hooks, throttles, locks. Its
/// slots are its own, so that pages cannot starve it.
pub(crate) fn aside_queue(task_queue: &str) -> String {
    format!("{task_queue}{ASIDE_SUFFIX}")
}

pub(crate) const ASIDE_SUFFIX: &str = ".aside";

/// Input of the controller workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ControllerInput {
    pub version: u32,
    /// Minted when the batch is started; kept over continue-as-new and reset.
    pub batch_run: String,
    pub spec: BatchSpec,
    /// Who started or continued the batch; absent after a continue-as-new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry>,
    /// It is the controller of one partition of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartOf>,
}

/// Which part of a batch a controller has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartOf {
    /// Its number in the batch.
    pub number: u32,
    pub name: String,
    /// The latest that it was told.
    pub seq: u64,
    /// It has to say that it keeps to that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub says_when_settled: bool,
}

/// The workflow of a partition.
pub(crate) fn partition_id(batch_id: &str, number: u32) -> String {
    format!("{batch_id}.p{number}")
}

/// The number of the partition that a workflow of this batch has.
pub(crate) fn partition_in(batch_id: &str, workflow_id: &str) -> Option<u32> {
    workflow_id
        .strip_prefix(batch_id)?
        .strip_prefix(".p")?
        .parse()
        .ok()
}

/// How a batch, or the rest of one, was begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// For the audit, such as `start` or `continue`.
    pub action: String,
    #[serde(flatten)]
    pub given: Given,
}

/// Details of a batch that ended before its end: its report, and what it takes to go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndDetails {
    /// Readers that only know reports find one.
    #[serde(flatten)]
    pub report: BatchReport,
    /// The input of a controller that goes on where this one stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Box<ControllerInput>>,
}

/// What one run of the controller hands to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub ledger: Ledger,
    pub prepared: Prepared,
    pub controls: Controls,
    pub started_at: Timestamp,
    /// Runs before this one.
    pub runs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    pub notices: Notices,
    pub audit: Audit,
    pub pacing: Pacing,
    /// What is in the memo.
    pub published: ControlState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// The latest check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Partitions>,
}

/// What operators can change while the batch runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Controls {
    pub max_parallelism: u32,
    pub paused: bool,
    pub pause_reason: Option<String>,
    /// More failed than is tolerated; until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripped: Option<String>,
    /// What had been done and had failed when somebody resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<Tally>,
    /// The batch stops itself, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<String>,
    /// Who paused it, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseNote>,
    /// Running pages should not be waited for where that is safe.
    pub stop_now: bool,
    /// The latest requests, so that one that comes a second time is not applied again.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub requests: VecDeque<String>,
}

/// Requests that are remembered.
const MAX_REQUESTS: usize = 32;

impl Controls {
    /// Whether this request has been applied.
    pub fn is_known(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| self.requests.iter().any(|known| known == id))
    }

    /// Whether this request has not been applied yet; it counts as applied from here on.
    pub fn is_new(&mut self, id: Option<&str>) -> bool {
        let Some(id) = id else {
            return true;
        };
        if self.requests.iter().any(|known| known == id) {
            return false;
        }
        self.requests.push_back(id.to_owned());
        if self.requests.len() > MAX_REQUESTS {
            self.requests.pop_front();
        }
        true
    }
}

/// Input of the prepare activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrepareInput {
    pub processor: String,
    pub args: serde_json::Value,
    pub first_cursor: Option<PageToken>,
    /// The batch is a redrive: its items are the dead letters of the processor.
    pub redrive: bool,
    #[serde(default, skip_serializing_if = "HookNames::is_empty")]
    pub hooks: HookNames,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<String>,
    /// The batch that is told what is waited for.
    pub batch_id: String,
    pub batch_run: String,
    /// The processor is to name the partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
}

/// Input of the hook activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookOrder {
    pub name: String,
    #[serde(flatten)]
    pub call: HookCall,
    /// What one attempt may take.
    pub timeout: Duration,
}

/// Input of the activity that keeps the final report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeepReport {
    pub processor: String,
    pub args: serde_json::Value,
    pub report: BatchReport,
}

/// What a worker says about a processor before the first page. Stored, so that a running batch keeps the
/// settings it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub retry_mode: RetryMode,
    pub retry: RetryPolicy,
    pub page_timeout: Duration,
    pub heartbeat_timeout: Duration,
    pub items_expected: Option<u64>,
    /// That number was counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub items_exact: bool,
    /// The processor keeps dead letters, so that its strides give failed pages up themselves.
    pub dead_letters: bool,
    /// The processor keeps a ledger of the pages that it applied.
    pub once_per_page: bool,
    /// The arguments as the processor completed them, where it changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<serde_json::Value>,
    /// What the outputs of the pages are folded by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The partitions that the processor named. They are kept elsewhere from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionSpec>,
    /// The processor can split a range.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub splits: bool,
    /// The processor takes a permit of the rate for each item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permit_per_item: bool,
}

impl Prepared {
    /// How many items the batch has.
    #[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
    pub fn size(&self) -> Size {
        let certainty = match self.items_exact {
            true => Certainty::Exact,
            false => Certainty::Estimate,
        };
        Size::of(self.items_expected, certainty)
    }
}

/// Input of the stride activity: a run of consecutive pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideOrder {
    pub batch_run: String,
    pub batch_id: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub stride: u64,
    /// Begin after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// The accepted start of the next stride, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// Pages to process before the rest is handed over, where `end` is not known.
    pub pages: u32,
    /// Starts of further strides to announce, where `end` is not known and the source can skip ahead.
    pub look_ahead: u32,
    pub page_size: u32,
    /// Attempt at the first page of the order, as the controller counts them.
    pub attempt: u32,
    /// Items per second that this stride may process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_share: Option<f64>,
    pub page_timeout: Duration,
    /// What the controller has counted of this stride already.
    pub done: StrideTotals,
    /// Attempts that a page has in all, extended ones included; `None` is without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_allowed: Option<u32>,
    /// When the first page of the order failed first, if it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The failures so far speak against the first page of the order: another one takes it apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_apart: bool,
    /// The first page of the order has no attempts left. It is put aside, and not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<GiveUp>,
    /// The items are dead letters of the processor.
    pub redrive: bool,
    /// The page ledger of the batch has this stride, or the one before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_kept: bool,
    /// Counts the dispatches of the batch run from 1, so that a stride that was told to yield is not told
    /// again when it is dispatched anew.
    pub dispatch: u64,
    /// Pages per second that this stride may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_share: Option<f64>,
    /// Pause before each page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    /// The throttles that are asked before each page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<String>,
    /// Items to go through at most, what was finished by earlier attempts at the order included. The rest is
    /// given back then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u64>,
    /// What the outputs of the pages are folded by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The length of strides is tuned: this one gives the rest back at the end of a page after this long, and
    /// cuts finer where the data ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// But not finer than into strides of so many pages.
    pub shortest: u32,
    /// The workflow that has the stride, where it is not the one of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The partition that the stride belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Where that partition ends, if not with the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PageToken>,
    /// The workflow id of the bridge that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Items that have been earned under the rate before, so that they may begin at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_ready: u32,
    /// Pages that have been earned before in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_ready: u32,
    /// Items that have to be earned under the rate and not used: once those that are ready are begun, or before any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_owed: u32,
    /// Pages that are owed in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_owed: u32,
    /// The failures with which the rest is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<StrideTolerance>,
}

impl StrideReport {
    /// The items and pages that the stride has done, and those of them that failed.
    pub fn tally(&self) -> Tally {
        let pages_failed = u64::from(self.pages_failed);
        Tally {
            items: self.items.total(),
            items_failed: self.items.failed,
            pages: u64::from(self.pages) + pages_failed,
            pages_failed,
        }
    }
}

impl StrideOrder {
    /// The workflow that has the stride.
    pub fn controller(&self) -> &str {
        self.controller.as_deref().unwrap_or(&self.batch_id)
    }

    /// Temporal's own attempts while workers are lost, before the controller hears of it.
    pub fn attempts_at_lost_workers(&self, mode: RetryMode) -> u32 {
        match mode {
            // What loses its worker while it is put aside is looked at less closely the next time.
            RetryMode::AtLeastOnce if self.give_up.is_none() => 3,
            RetryMode::AtLeastOnce | RetryMode::AtMostOnce => 1,
        }
    }
}

/// Result of the stride activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideReport {
    /// Everything from the start of the order up to here is finished. `None`: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// The data ends at `covered_to` (or at the start of the order).
    pub end_of_data: bool,
    pub pages: u32,
    pub items: ItemCounts,
    /// The page after `covered_to` failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailedAttempt>,
    /// The first items that were given up; `items.failed` counts all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_items: Vec<FailedItem>,
    /// Pages that the stride itself gave up, as a whole, and kept as dead letters.
    pub pages_failed: u32,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pages: Vec<PageFailure>,
    /// Why items were skipped, how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    /// How long the pages of this attempt took.
    pub timing: Timing,
    /// Dead letters that were kept, of items and of pages.
    pub dead_letters: u64,
    /// Items at most that the pages had which the stride gave up as a whole, where a stage limits its items.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_aside: u64,
    /// What the pages have put out, where the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// The source was asked to skip ahead, and cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_skip: bool,
    /// Items that it has earned under the rate and not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_left: f64,
    /// The stride was to begin the first page of the batch, and has not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_untouched: bool,
    /// The same under the limit of pages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_untouched: bool,
    /// Pages that it has earned and not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_left: f64,
}

/// How long pages took: unless said otherwise from the begin of `fetch` to the end of `process`, without the waits
/// for the rate, the throttles and the pause between pages. Failed attempts are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// What the pages were to have.
    pub page_size: u32,
    pub pages: u32,
    pub items: u64,
    pub busy_ms: u64,
    /// Pages with as many items as they were to have; the others say nothing of the page size.
    pub full_pages: u32,
    pub full_busy_ms: u64,
    pub full_slowest_ms: u64,
    /// All pages together, in microseconds, with their waits.
    pub took_us: u64,
}

/// An attempt at a page that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedAttempt {
    /// Where the failed page ends, if its fetch got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_end: Option<PageToken>,
    /// The failed page is the last: the source said so.
    pub last_page: bool,
    pub error_type: String,
    pub message: String,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// Nothing is wrong with the page: the worker's code does not fit the batch, or the engine could not
    /// do its part. Such attempts are not counted against the page.
    pub not_the_page: bool,
    /// The page was given up, and nobody knows where the next one starts.
    pub coverage_stops: bool,
    /// Its worker was lost, so that it is not known how far the attempt came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// A page of a processor that runs at most once could not be read, so its `process` has not begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Whom it speaks against.
    #[serde(default, skip_serializing_if = "Blame::is_moment")]
    pub blame: Blame,
}

/// Attempts to read a page, where the policy of its processor does not say: it allows one attempt to process it, or the
/// page is given up.
pub(crate) const MOST_READS: u32 = 10;

impl FailedAttempt {
    /// Where the page ends, and whether the data ends with it, if that is known.
    pub fn known_end(&self) -> Option<(Option<PageToken>, bool)> {
        let known = self.page_end.is_some() || self.last_page;
        known.then(|| (self.page_end.clone(), self.last_page))
    }

    /// An attempt that nobody hears of any more.
    pub fn lost(error_type: String, message: &str) -> Self {
        Self {
            page_end: None,
            last_page: false,
            error_type,
            message: truncate(message, MAX_MESSAGE_CHARS),
            retryable: true,
            retry_after: None,
            not_the_page: false,
            coverage_stops: false,
            lost: true,
            unread: false,
            blame: Blame::Moment,
        }
    }
}

/// A page without attempts left, which the next activity puts aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiveUp {
    /// How its last attempt failed.
    pub failure: FailedAttempt,
    /// Times that it could not be put aside for a reason that may be its own.
    pub failed: u32,
    /// Workers that were lost while they put it aside.
    pub lost: u32,
}

impl From<FailedAttempt> for GiveUp {
    fn from(failure: FailedAttempt) -> Self {
        Self {
            failure,
            failed: 0,
            lost: 0,
        }
    }
}

/// Payload of the `next_page` signal: the starts of the strides that follow `stride`. None, where pages run at most
/// once: the data ends with the page that the stride is about to process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NextPage {
    pub batch_run: String,
    /// The stride that announces; the first token starts the stride after it.
    pub stride: u64,
    /// The dispatch whose activity announces. Absent in what workers sent before there was this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<u64>,
    pub starts: Vec<PageToken>,
}

/// Heartbeat details of a stride: a hint where a later attempt may go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What is finished, as in a report.
    pub done: StrideReport,
    /// The page that is being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<RunningPage>,
    /// When this was said, by the clock of the worker.
    pub at: Timestamp,
}

/// A page that is being worked on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPage {
    pub start: Option<PageToken>,
    pub since: Timestamp,
    pub attempt: u32,
}

/// Argument of the `look` signal.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClientLooks {}

/// Argument of the `accepted_end` update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AcceptedEndRequest {
    pub batch_run: String,
    pub stride: u64,
}

/// Answer of the `accepted_end` update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AcceptedEnd {
    /// Whether the batch run is still the one that was asked about, and the stride is still open.
    pub open: bool,
    pub end: Option<PageToken>,
}

/// What running strides should do: in the memo of the workflow, where reading it needs no worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ControlState {
    pub batch_run: String,
    /// Strides should end at the next page boundary: paused, cancelled, or a continue-as-new is due.
    pub stop_at_page_boundary: bool,
    /// Pages should not be finished either, where that is safe.
    pub stop_now: bool,
    /// The strides of these dispatches should end at their next page boundary: there are more than the
    /// limit allows, or their shares of the rate are out of date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yields: Vec<u64>,
    /// The bridges whose strides are waited for. Those of any other one should end: a reset has forgotten them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
}

/// Argument of the `pause` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PauseRequest {
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Do not wait for running pages where it is safe not to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// Go on by itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Go on by itself after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Duration>,
    /// The same request may come as an update and as a signal; both have this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `resume` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResumeRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `set` update. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SetRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Setting<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_rate: Option<Setting<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Setting<Duration>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<PageSizeSetting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_parallelism: Option<AutoParallelism>,
    /// The parallelism becomes what the ramp ends at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// None: open always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<Window>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Stride>,
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Settings that are not known here. They are refused when the request is checked: a signal that could not be
    /// read would fail the batch.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The settings of a [`SetRequest`], for the message that refuses any other.
pub(crate) const SETTINGS: [&str; 9] = [
    "max_parallelism",
    "rate",
    "page_rate",
    "page_pause",
    "page_size",
    "auto_parallelism",
    "ramp",
    "windows",
    "stride",
];

/// A setting that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Setting<T> {
    Off,
    To(T),
}

impl<T> Setting<T> {
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::To(value) => Some(value),
        }
    }
}

/// How many items a page should have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageSizeSetting {
    Fixed(u32),
    Auto(AutoPageSize),
}

/// Input of the activity that works out windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowsOrder {
    pub windows: Vec<Window>,
    pub from: Timestamp,
}

/// Payload of the `steer` signal. A client sends it when an update got no answer, which may still have
/// been applied: so it has an id, and what it asks for can be done twice without harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SteerRequest {
    pub id: String,
    pub what: Steer,
}

/// What a `steer` signal asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Steer {
    Pause(PauseRequest),
    Resume(ResumeRequest),
    Set(SetRequest),
    Approve(ApproveRequest),
    /// The run of the controller, or of a partition, was started again: for the audit.
    Recover(RecoverNote),
    /// It is there to be an event: workers report the first failure of a workflow task only, and after an event
    /// there is a first one again.
    Nothing,
}

/// A recovery, told to the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecoverNote {
    #[serde(flatten)]
    pub given: Given,
    /// Of this partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// Input of the activity that asks the throttles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThrottleOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub throttles: Vec<String>,
}

/// Payload of the `throttled` signal: what the throttles of a batch say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThrottleNews {
    pub batch_run: String,
    pub verdict: Verdict,
    /// The throttle that decides.
    pub by: String,
}

/// Input of the activity that takes a lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LockOrder {
    pub name: String,
    pub batch_id: String,
    pub batch_run: String,
    /// Wait for it; refused otherwise.
    pub wait: bool,
}

/// Payload of the `lock_held` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LockHeld {
    pub batch_run: String,
    /// The batch that has the lock.
    pub by: String,
}

/// Payload of the `waits` signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitNews {
    pub batch_run: String,
    pub for_what: WaitsFor,
    /// Why the last attempt failed; the next one follows. Absent: the processor takes its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The event that the processor waits for, in words for people, where it has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// No worker has been found that has the processor; the error says that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Work of a processor beside the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitsFor {
    Prepare,
    Check,
}

/// Input of the check activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub redrive: bool,
    /// Where the batch began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_from: Option<PageToken>,
    /// Everything up to here is finished; absent: to the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
}

/// Result of the check activity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckAnswer {
    /// Absent where the processor checks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Check>,
}

/// Input of the activity that combines what pages have put out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CombineOrder {
    pub processor: String,
    pub args: serde_json::Value,
    /// At least two.
    pub parts: Vec<serde_json::Value>,
}

/// Result of the activity that combines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Combined {
    pub part: serde_json::Value,
}

/// Argument of the `approve` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ApproveRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Input of the activity that looks at partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionsOrder {
    pub batch_id: String,
    pub batch_run: String,
}

/// Payload of the `partition_news` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionNews {
    pub batch_run: String,
    pub looks: Vec<(u32, Look)>,
}

/// Payload of the `share` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShareOrder {
    pub batch_run: String,
    pub seq: u64,
    pub told: Told,
    /// Say when it is kept to.
    pub say_when_settled: bool,
}

/// Payload of the `settled` signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    pub batch_run: String,
    pub number: u32,
    pub seq: u64,
}

/// Input of the activity that has a range split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SplitOrder {
    pub processor: String,
    pub args: serde_json::Value,
    pub partition: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
}

/// Result of that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SplitAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<PageToken>,
}

/// Error type where the code of a processor does not come back from combining.
pub(crate) const COMBINE_TIMED_OUT: &str = "CombineTimeout";

/// Error type of the controller of a partition that was told to stop, with [`EndDetails`].
pub(crate) const PARTITION_STOPPED: &str = "PartitionStopped";

/// Input of a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeInput {
    pub batch_run: String,
    /// The workflow id of the controller whose strides these are.
    pub controller: String,
    pub terms: StrideTerms,
    pub orders: Vec<StrideOrder>,
}

/// How the activities of strides are scheduled; the same for all of a batch run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideTerms {
    pub retry_mode: RetryMode,
    pub heartbeat_timeout: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

/// Payload of the `orders` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeOrders {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<StrideOrder>,
    /// No more follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// Payload of the `bridge_results` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeResults {
    pub batch_run: String,
    /// The workflow id of the bridge. Dispatches are numbered anew after a reset, so that their numbers alone say
    /// too little.
    pub bridge: String,
    pub results: Vec<BridgeResult>,
}

/// What one stride on a bridge came back with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeResult {
    pub stride: u64,
    pub dispatch: u64,
    pub report: StrideReport,
}

/// Input of the activity that watches bridges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeWatch {
    pub bridges: Vec<String>,
}

/// Error type of the activity that prepares, where the batch cannot be run.
pub(crate) const REFUSED: &str = "Refused";

/// Error type of a controller that fails with a [`BatchReport`](crate::BatchReport) in its details.
pub(crate) const BATCH_FAILED: &str = "BatchFailed";

/// Error type of a controller whose batch was refused before its first page.
pub(crate) const BATCH_REFUSED: &str = "BatchRefused";

/// Error type of a stride that was given to a worker which does not know its processor.
pub(crate) const UNKNOWN_PROCESSOR: &str = "UnknownProcessor";
