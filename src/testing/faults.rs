//! The faults of a simulation: lost workers, announcements that come twice, strides that are interrupted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::protocol::{FailedAttempt, StrideReport};

/// Maximum number of interruptions of one kind in a simulated batch. Failures and interruptions at regular intervals may
/// coincide, and some page would then never finish.
const MOST_INTERRUPTIONS: u64 = 200;

/// The faults that a simulation is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub lose_every: Option<u64>,
    pub duplicate_announcements: bool,
    pub stop_before: Option<u64>,
    pub stop_while_waiting: Option<u64>,
    pub pause_now: Option<(u64, Duration)>,
}

/// The faults of one run.
///
/// Pages are counted by kind of interruption. The parts of a split page are not counted: if every second part were
/// interrupted, the page would never finish.
#[derive(Default)]
pub(super) struct Faults {
    pub plan: Plan,
    strides: AtomicU64,
    lost_workers: AtomicU64,
    told_to_stop: AtomicU64,
    stopped_before: AtomicU64,
    stopped_in_wait: AtomicU64,
    paused: AtomicU64,
    /// The interruption of the current page, or of the next page if the current one is empty.
    stop_in_wait: AtomicBool,
    pause_in_process: AtomicBool,
}

impl Faults {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            ..Self::default()
        }
    }

    /// Counts a dispatched stride, and returns whether its worker will be lost.
    pub fn next_stride_is_lost(&self) -> bool {
        let n = self.strides.fetch_add(1, Ordering::Relaxed) + 1;
        self.lost_workers() < MOST_INTERRUPTIONS
            && self
                .plan
                .lose_every
                .is_some_and(|every| n.is_multiple_of(every))
    }

    /// Counts a page that may begin, and returns whether its stride is stopped instead.
    pub fn stops_before_page(&self) -> bool {
        let Plan {
            stop_before,
            stop_while_waiting,
            pause_now,
            ..
        } = self.plan;
        if is_due(&self.stopped_before, stop_before) {
            return true;
        }
        if is_due(&self.stopped_in_wait, stop_while_waiting) {
            self.stop_in_wait.store(true, Ordering::Relaxed);
        }
        if is_due(&self.paused, pause_now.map(|(every, _)| every)) {
            self.pause_in_process.store(true, Ordering::Relaxed);
        }
        false
    }

    /// Returns whether a stride is stopped while its page waits for the rate.
    pub fn stops_waiting_page(&self) -> bool {
        self.stop_in_wait.swap(false, Ordering::Relaxed)
    }

    /// The time after which the page that is about to be processed is interrupted, if it is.
    pub fn pauses_page_after(&self) -> Option<Duration> {
        let (_, after) = self.plan.pause_now?;
        let due = self.pause_in_process.swap(false, Ordering::Relaxed);
        due.then_some(after)
    }

    pub fn worker_is_lost(&self) {
        self.lost_workers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn lost_workers(&self) -> u64 {
        self.lost_workers.load(Ordering::Relaxed)
    }

    pub fn stride_is_stopped(&self) {
        self.told_to_stop.fetch_add(1, Ordering::Relaxed);
    }

    pub fn told_to_stop(&self) -> u64 {
        self.told_to_stop.load(Ordering::Relaxed)
    }
}

/// Counts a page, and returns whether it is an nth one.
fn is_due(counter: &AtomicU64, every: Option<u64>) -> bool {
    let n = counter.fetch_add(1, Ordering::Relaxed) + 1;
    every.is_some_and(|every| {
        n.is_multiple_of(every) && n <= every.saturating_mul(MOST_INTERRUPTIONS)
    })
}

tokio::task_local! {
    /// The worker of the stride that runs in this task, in a simulator.
    static CRASH: Arc<Notify>;
}

/// Loses the worker if called in `fetch`, `process` or `skip_ahead` of a processor in a
/// [`Simulator`](super::Simulator). The call never returns, and the work done on the current page is not reported.
/// Outside a simulator it waits forever.
pub async fn lose_worker() -> std::convert::Infallible {
    // Outside a simulator there is no worker to lose.
    let _ = CRASH.try_with(|crash| crash.notify_one());
    std::future::pending().await
}

/// Runs work of a worker. Returns `None` if the work loses its worker.
pub(super) async fn unless_lost<T>(work: impl Future<Output = T>) -> Option<T> {
    let crash = Arc::new(Notify::new());
    let work = CRASH.scope(Arc::clone(&crash), work);
    tokio::select! {
        biased;
        () = crash.notified() => None,
        done = work => Some(done),
    }
}

/// The controller's view of a stride whose worker was lost after this sign of life.
pub(super) fn lost(seen: StrideReport) -> StrideReport {
    let failure = FailedAttempt::lost("WorkerLost".to_owned(), "its worker was lost");
    StrideReport {
        failure: Some(failure),
        ..seen
    }
}
