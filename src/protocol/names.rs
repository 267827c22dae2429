//! Names of workflows, activities, signals, updates, queries and error types, and the version of the protocol.

use std::time::Duration;

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

/// What is added to the name of a task queue for the work beside the pages: hooks, throttles, locks. Its
/// slots are its own, so that pages cannot starve it.
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
