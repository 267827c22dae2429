//! The phases and outcomes of a batch, and the causes that limit its speed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The current activity of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// A worker is checking the processor and the arguments.
    Preparing,
    /// Pages are being dispatched.
    Running,
    /// Pages are still running, but no new ones are started.
    Pausing,
    /// The batch is paused: pages neither run nor start.
    Paused,
    /// A throttle or the operating windows hold the batch; some pages may still be running.
    Held,
    /// The batch cannot make progress: the page at which discovery stands keeps failing, or no worker
    /// understands the arguments or cursors of the batch. See
    /// [`Progress::blocked_reason`](crate::progress::Progress::blocked_reason).
    Blocked,
    /// Stuck pages are all that remains.
    WaitingForStuckPages,
    /// The batch is cancelled; the last pages are finishing.
    Cancelling,
    /// The batch is ending because of too many failures, its deadline or an obstacle; the last pages are
    /// finishing.
    Stopping,
    /// All pages are done; hooks are being called.
    Finishing,
    /// The batch has ended; see the report.
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

/// The cause that keeps a batch from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeldBy {
    /// The processor is still completing the arguments.
    Preparing,
    /// Another batch holds the lock.
    Lock,
    /// A stage is done and waits for its check or for approval, or the dispatch has reached the end of the
    /// stage.
    Stage,
    /// The batch was paused.
    Pause,
    /// The time is outside the operating windows.
    Window,
    /// A throttle holds the batch or slows it down.
    Throttle,
    /// The limit on items or pages per second, or the pause before each page.
    Rate,
    /// The ramp has not reached its end yet.
    Ramp,
    /// The tuning of the parallelism.
    Tuning,
    /// The limit on pages in flight.
    Parallelism,
    /// All known work is in progress until a page that is being read tells where the next one starts.
    Discovery,
    /// Pages fail and no others succeed, or every remaining page waits for another attempt.
    Retries,
    /// The start of the controller's next run.
    ContinueAsNew,
    /// Workers are missing from the task queue, or the worker with the pages in flight no longer responds. Only
    /// a client can detect this.
    NoWorker,
    /// Pages wait for a worker with a free slot. Only a client can detect this.
    Workers,
    /// The pages in flight take long, and none has finished recently. Only a client can detect this.
    Pages,
}

impl HeldBy {
    /// Returns the name of the cause in metrics and JSON.
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

/// The way in which a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Every page from the first cursor to the end of the data is finished, and a requested
    /// [check](crate::Batch::check_at_end) passed.
    Completed,
    /// Every page is finished except for listed failures, or the check did not pass. The reason says which.
    CompletedWithFailures,
    /// The batch could not continue. The report gives the reason and the place where coverage stops.
    Failed,
    /// The batch stopped itself because of too many failures or its deadline. The report says which.
    Stopped,
    /// The batch was cancelled. The report says how far it had come.
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
