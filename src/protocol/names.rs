//! Names of workflows, activities, signals, updates, queries and error types, and the version of the protocol.

use std::time::Duration;

/// The version of the protocol, which is written into the input of every controller. A new version is needed when
/// workers of the previous one must not continue the batch. Such workers refuse it.
pub(crate) const VERSION: u32 = 1;

/// The timeout of a workflow task. A task can be lost with a worker that stops, and goes to another worker after this
/// time. The server's default of 10 s would double that wait. The task itself takes milliseconds, and a replay of the
/// longest run takes little more.
#[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
pub(crate) const TASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Type of the controller workflow.
pub(crate) const CONTROLLER: &str = "temporal-batch.controller";

/// Type of the workflow of a batch with partitions, which each have a controller.
pub(crate) const PARTITION_PARENT: &str = "temporal-batch.partition-parent";

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

/// Query for a [`Progress`](crate::progress::Progress), for third-party tools.
pub(crate) const PROGRESS: &str = "progress";

/// Update that returns the end of a stride.
pub(crate) const ACCEPTED_END: &str = "accepted_end";

/// Update that pauses dispatching.
pub(crate) const PAUSE: &str = "pause";

/// Update that resumes dispatching.
pub(crate) const RESUME: &str = "resume";

/// Update that changes limits.
pub(crate) const SET: &str = "set";

/// Signal with the effect of one of the updates, for times at which no worker can answer an update.
pub(crate) const STEER: &str = "steer";

/// Activity that polls the throttles of a batch for as long as the batch runs.
pub(crate) const THROTTLE: &str = "temporal-batch.throttle";

/// Signal with the verdict of the throttles.
pub(crate) const THROTTLED: &str = "throttled";

/// Activity that computes when operating windows open and close.
pub(crate) const WINDOWS: &str = "temporal-batch.windows";

/// Activity that takes a named lock, or waits for it.
pub(crate) const LOCK: &str = "temporal-batch.lock";

/// Activity that gives a named lock back.
pub(crate) const UNLOCK: &str = "temporal-batch.unlock";

/// Signal with the holder of the lock for which a batch waits.
pub(crate) const LOCK_HELD: &str = "lock_held";

/// Activity in which the processor checks the finished work.
pub(crate) const CHECK: &str = "temporal-batch.check";

/// Update that lets a batch continue after a stage.
pub(crate) const APPROVE: &str = "approve";

/// Signal with the side activity for which a batch waits.
pub(crate) const WAITS: &str = "waits";

/// Activity that combines the outputs of pages, where only the processor can do so.
pub(crate) const COMBINE: &str = "temporal-batch.combine";

/// Activity that watches the partitions of a batch for as long as the batch runs.
pub(crate) const PARTITIONS: &str = "temporal-batch.partitions";

/// Activity that asks a processor where a range can be split.
pub(crate) const SPLIT: &str = "temporal-batch.split";

/// Signal with the state of partitions.
pub(crate) const PARTITION_NEWS: &str = "partition_news";

/// Signal with the limits for the controller of a partition.
pub(crate) const SHARE: &str = "share";

/// Signal of a partition that now keeps to a smaller share.
pub(crate) const SETTLED: &str = "settled";

/// Type of the workflow whose existence is a named lock.
pub(crate) const LOCK_HOLDER: &str = "temporal-batch.lock-holder";

/// Returns the task queue for the work beside the pages: hooks, throttles, locks. The queue has slots of its own, so
/// that pages cannot starve this work.
pub(crate) fn aside_queue(task_queue: &str) -> String {
    format!("{task_queue}{ASIDE_SUFFIX}")
}

pub(crate) const ASIDE_SUFFIX: &str = ".aside";

/// Error type of the activity that prepares, where the batch cannot be run.
pub(crate) const REFUSED: &str = "Refused";

/// Error type of a controller that fails with a [`BatchReport`](crate::BatchReport) in its details.
pub(crate) const BATCH_FAILED: &str = "BatchFailed";

/// Error type of a controller whose batch was refused before its first page.
pub(crate) const BATCH_REFUSED: &str = "BatchRefused";

/// Error type of a stride that was given to a worker which does not know its processor.
pub(crate) const UNKNOWN_PROCESSOR: &str = "UnknownProcessor";
