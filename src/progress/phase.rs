//! Phases and ends of a batch, and what holds it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a batch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Asking a worker whether it knows the processor and understands the arguments.
    Preparing,
    /// Dispatching pages.
    Running,
    /// No new pages; some are still running.
    Pausing,
    /// No pages are running and none will be started.
    Paused,
    /// A throttle or the operating windows hold it; some pages may still be running.
    Held,
    /// Nothing can go on: the page keeps failing behind which nothing has been discovered, or no worker
    /// understands the arguments or cursors of the batch. See [`Progress::blocked_reason`].
    Blocked,
    /// Only stuck pages are left.
    WaitingForStuckPages,
    /// Cancelled; the last pages are finishing.
    Cancelling,
    /// Too much failed, the deadline is over or the batch cannot go on; the last pages are finishing.
    Stopping,
    /// No page is left; hooks are told.
    Finishing,
    /// Over; see the report.
    Ended,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Blocked => "blocked",
            Self::WaitingForStuckPages => "waiting for stuck pages",
            Self::Cancelling => "cancelling",
            Self::Stopping => "stopping",
            Self::Finishing => "finishing",
            Self::Ended => "ended",
        })
    }
}

/// What keeps a batch from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeldBy {
    /// The processor is still completing the arguments.
    Preparing,
    /// Another batch has the lock.
    Lock,
    /// A stage is done, and waits for its check or for somebody to approve it; or nothing more may begin
    /// before it is done.
    Stage,
    /// Somebody paused it.
    Pause,
    /// It is outside of its operating windows.
    Window,
    /// A throttle holds it or slows it down.
    Throttle,
    /// Its limit on items or pages per second, or the pause before each page.
    Rate,
    /// The ramp has not reached the limit on parallelism yet.
    Ramp,
    /// The tuning of the parallelism.
    Tuning,
    /// Its limit on pages in flight.
    Parallelism,
    /// Nothing else is known to be done until a page is read that tells where the next one starts.
    Discovery,
    /// Pages fail, and no other gets through; or every page that is left waits for another attempt.
    Retries,
    /// The start of the next run of the controller.
    ContinueAsNew,
    /// No worker polls the task queue, or the worker that has the pages in flight gives no sign of life. Only a client
    /// can know that.
    NoWorker,
    /// Pages wait for a worker that has a free slot. Only a client can know that.
    Workers,
    /// The pages in flight take long, and none is finished meanwhile. Only a client can know that.
    Pages,
}

impl HeldBy {
    /// The word that stands for it in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Lock => "lock",
            Self::Stage => "stage",
            Self::Pause => "pause",
            Self::Window => "window",
            Self::Throttle => "throttle",
            Self::Rate => "rate",
            Self::Ramp => "ramp",
            Self::Tuning => "tuning",
            Self::Parallelism => "parallelism",
            Self::Discovery => "discovery",
            Self::Retries => "retries",
            Self::ContinueAsNew => "continue_as_new",
            Self::NoWorker => "no_worker",
            Self::Workers => "workers",
            Self::Pages => "pages",
        }
    }
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Every page from the first cursor to the end of the data is finished, and what was to be
    /// [checked](crate::Batch::check_at_end) holds.
    Completed,
    /// Every page is finished but for the pages and items that are listed as failed, or what was checked does
    /// not hold; the reason says which.
    CompletedWithFailures,
    /// It could not go on; the report says why and where coverage stops.
    Failed,
    /// It stopped itself, because more failed than is tolerated or because of its deadline; the report
    /// says which.
    Stopped,
    /// It was cancelled; the report says where it stood.
    Cancelled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::CompletedWithFailures => "completed with failures",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
        })
    }
}
